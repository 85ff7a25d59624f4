"""The examples run as they are printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.processes
@pytest.mark.xdist_group("processes")
def test_a_node_embedded_in_an_application_commits_a_transaction() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "embed.py")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first.endswith("… MC0000")
    assert "the pharmacy has 1000012500 at height " in second
    assert third.startswith("too much: MC2303 ('hospital', 'CNY', 999987500, ")
    assert done.stderr == ""


def test_the_example_shows_the_promised_lines() -> None:
    text = (EXAMPLES / "embed.py").read_text("utf-8")
    assert "async with Node(config) as node:" in text
    assert "receipt = await node.submit(tx)" in text
