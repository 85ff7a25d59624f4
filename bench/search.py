"""The search for the highest load that passes: upwards by a factor until one fails, downwards until one passes, then
between.

Must not know: what a load is, or how one is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

STEPS_MAX = 9
STEP_DURATION_S = 10.0
FACTOR = 1.4
PRECISION = 0.07

T = TypeVar("T")


@dataclass(slots=True)
class Search:
    """Try `load`, say whether it passed, until `done`; `low` is then the highest that passed, 0 if none did."""

    load: float
    steps_max: int = STEPS_MAX
    low: float = 0.0
    high: float = 0.0
    steps: int = 0

    @property
    def done(self) -> bool:
        close = bool(self.low and self.high) and self.high - self.low < PRECISION * self.low
        return close or self.steps >= self.steps_max

    def note(self, passed: bool) -> None:
        """What came of `load`; sets the next one."""
        self.steps += 1
        if passed:
            self.low = self.load
        else:
            self.high = self.load
        if not self.high:
            self.load = self.low * FACTOR
        elif not self.low:
            self.load = self.high / FACTOR
        else:
            self.load = (self.low + self.high) / 2


def find_max(rate: float, run: Callable[[float], T], passes: Callable[[T, float], bool]) -> T | None:
    """What came of the highest rate that passed; None if none did."""
    search, best = Search(rate), None
    while not search.done:
        tried = search.load
        found = run(tried)
        passed = passes(found, tried)
        best = found if passed else best
        search.note(passed)
    return best
