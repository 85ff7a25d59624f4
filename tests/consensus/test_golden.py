"""Golden scripts: each file of golden/ holds a script and the trace that it must give, message by message.

`pytest tests/consensus/test_golden.py --rewrite` writes the traces anew; the difference is then for a reviewer to read.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from tests.consensus.script import play

SCRIPTS = sorted((Path(__file__).parent / "golden").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_engines_say_what_the_script_says_they_say(path: Path, request: pytest.FixtureRequest) -> None:
    """Traps 6, 10, 14, 15, 16, 23, 24: a file each, named for what happens in it."""
    expected = path.read_text()
    found = play(expected)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(found)
        return
    difference = difflib.unified_diff(expected.splitlines(), found.splitlines(), str(path.name), "now", lineterm="")
    if text := "\n".join(difference):
        pytest.fail(f"run with --rewrite if this is meant:\n{text}", pytrace=False)


def test_a_script_is_played_the_same_twice() -> None:
    """Trap 45."""
    script = next(path for path in SCRIPTS if path.stem == "membership").read_text()
    assert play(script) == play(script)
