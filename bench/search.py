"""The search for the highest rate that passes, in short runs.

Must not know: what a run is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

STEPS_MAX = 9
STEP_DURATION_S = 10.0
FACTOR = 1.4
PRECISION = 0.07

T = TypeVar("T")


def find_max(rate: float, run: Callable[[float], T], passes: Callable[[T, float], bool]) -> T | None:
    """Upwards by a factor until a rate fails, downwards until one passes, then between; None if no rate passed."""
    low, high = 0.0, 0.0
    best: T | None = None
    for _ in range(STEPS_MAX):
        found = run(rate)
        if passes(found, rate):
            low, best = rate, found
        else:
            high = rate
        if low and high and high - low < PRECISION * low:
            break
        if not high:
            rate = low * FACTOR
        elif not low:
            rate = high / FACTOR
        else:
            rate = (low + high) / 2
    return best
