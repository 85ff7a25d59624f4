"""The examples run as they are printed."""

from __future__ import annotations

import re
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


def test_the_tutorial_quotes_the_package_word_for_word() -> None:
    package = EXAMPLES / "medchain-vaccine-rules"
    sources = [path.read_text("utf-8") for pattern in ("**/*.py", "*.toml") for path in package.glob(pattern)]
    tutorial = (EXAMPLES.parent / "docs" / "writing-rules.md").read_text("utf-8")
    quoted = re.findall(r"^```(?:python|toml)\n(.*?)^```", tutorial, re.DOTALL | re.MULTILINE)
    assert len(quoted) >= 7
    for block in quoted:
        assert any(block in source for source in sources), block
