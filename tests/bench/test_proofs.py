"""The measurement of proof bundles: every kind is made, checked and given a line."""

from __future__ import annotations

import pytest

from bench import proofs


def test_each_kind_of_bundle_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert proofs.main(["--keys", "50", "--count", "3"]) == 0
    first, header, *rows = capsys.readouterr().out.splitlines()
    assert "50 other keys" in first
    assert header == proofs.HEADER
    for row, title in zip(rows, ("an entry", "an absence", "a transaction", "a receipt", "the head"), strict=True):
        assert row.startswith(title)
        size, largest, made, made_worst, checked, checked_worst = (
            float(word.replace(",", "")) for word in row[len(title) :].split()
        )
        assert 500 < size <= largest < 20_000
        assert 0 < made <= made_worst
        assert 0 < checked <= checked_worst
