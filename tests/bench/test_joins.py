"""The measurement of joins: each way is gone on a short chain, with real processes, and the liar is named."""

from __future__ import annotations

import pytest

from bench import joins


@pytest.mark.processes
def test_each_way_of_joining_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Traps 28 and 32, as far as a real liar and a killed peer hold nobody up."""
    assert joins.main(["--txs", "1000", "--rate", "50"]) == 0
    chain, header, blocks, calm, loaded, _, worst, _ = capsys.readouterr().out.splitlines()
    assert "1,602 transactions" in chain
    assert header == joins.HEADER
    for row, way in zip((blocks, calm, loaded), ("all blocks", "snapshot", "snapshot, under load"), strict=True):
        assert row.startswith(way)
        assert row.endswith("  -")
    assert worst.endswith(f"  {joins.LIAR}")
