"""A few fixed seeds on every run, and that a seed is a run: the same whatever the interpreter's hash seed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.runs import run_seed


@pytest.mark.parametrize("seed", range(30))
def test_seed(seed: int) -> None:
    outcome = run_seed(seed)
    assert outcome.height > 0
    assert outcome.transactions > 0


def test_a_seed_gives_the_same_run_under_any_hash_seed() -> None:
    code = "from tests.simulation.runs import run_seed; print(run_seed(3))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in (0, 1, 4242)
    }
    assert len(runs) == 1
