"""When each transaction is due: an open loop that never waits for the system under test.

Must not know: what is sent.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence


def due_times(rate: float, duration_s: float, *, poisson: bool, seed: int) -> list[float]:
    """Seconds from the start at which transactions are due, ascending, below `duration_s`; `rate` a second."""
    if rate <= 0 or duration_s <= 0:
        raise ValueError("rate and duration must be positive")
    if not poisson:
        return [number / rate for number in range(int(rate * duration_s))]
    source = random.Random(seed)
    times: list[float] = []
    at_s = source.expovariate(rate)
    while at_s < duration_s:
        times.append(at_s)
        at_s += source.expovariate(rate)
    return times


def window(times: Sequence[float], first_s: float, end_s: float) -> range:
    """Numbers of the transactions due in [first_s, end_s)."""
    return range(bisect_left(times, first_s), bisect_left(times, end_s))


def spacing_cycles(rate: float, kinds: int, seconds: float) -> int:
    """How many cycles of `kinds` operations pass in `seconds`, at least one."""
    return max(1, -int(-seconds * rate // kinds))
