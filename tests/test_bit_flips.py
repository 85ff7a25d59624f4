"""Damage to a closed data folder is noticed, or changes nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.kill_points import ROOT


@pytest.mark.parametrize(
    "arguments", [("--flips", "60", "--cuts", "20", "--seed", "7"), ("--missing",)], ids=["bits", "files"]
)
def test_damage_is_noticed_or_harmless(arguments: tuple[str, ...]) -> None:
    """`make flips` does a thousand."""
    command = [sys.executable, "-m", "tests.bit_flips", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
