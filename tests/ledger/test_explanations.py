"""Every code is explained, and the documented table is the one in the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.errors import PLUGIN_CODE_MIN, Code
from ledger.explanations import EXPLANATIONS, markdown_table

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"


def test_every_code_but_success_is_explained() -> None:
    assert set(EXPLANATIONS) == set(Code) - {Code.OK}


@pytest.mark.parametrize("code", sorted(set(Code) - {Code.OK}))
def test_an_explanation_is_short_and_fits_a_table(code: Code) -> None:
    entry = EXPLANATIONS[code]
    for text in (entry.summary, entry.action):
        assert text.endswith(".")
        assert 10 < len(text) < 120
        assert "|" not in text
        assert "\n" not in text
    assert code < PLUGIN_CODE_MIN


def test_the_documented_table_is_current() -> None:
    """To renew it, replace the table at the end of docs/errors.md by the output of `markdown_table()`."""
    assert DOCUMENT.read_text(encoding="utf-8").endswith("\n\n" + markdown_table())
