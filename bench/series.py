"""A run over time: commits by instant, the longest silence, latencies by minute, their distribution.

Must not know: how anything was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.figures import Sent, percentile

COMMIT_STEP_S = 0.1  # of the curve around a fault
CURVE_POINTS = 100  # of a distribution
MINUTE_S = 60.0
STEPS_MAX = 1_200  # of the curve: two minutes in tenths, half an hour in steps of one and a half seconds


@dataclass(frozen=True, slots=True)
class Minute:
    """Transactions due in one minute (the last may be shorter) of the load."""

    from_s: float
    committed_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Series:
    """Times in seconds from the start of the load, warm-up included. `commits` are accepted transactions a step.

    `quantiles_ms` are latencies at even shares of the transactions. `gap_before_s` and `gap_after_s` are the longest
    times in the window in which no block was seen final, before a fault and from then on (without one: at all).
    """

    step_s: float
    commits: Sequence[int]
    quantiles_ms: Sequence[float]
    minutes: Sequence[Minute]
    gap_before_s: float
    gap_after_s: float


@dataclass(frozen=True, slots=True)
class Samples:
    """Taken at even intervals, for each node in order; 0 for one that is gone. Times from the start of the load.

    `mapped_bytes` is the part of `rss_bytes` that are pages of files.
    """

    at_s: Sequence[float]
    rss_bytes: Sequence[Sequence[int]]
    mapped_bytes: Sequence[Sequence[int]]
    disk_bytes: Sequence[Sequence[int]]


def series(sent: Sequence[Sent], seen_s: Sequence[float], first_s: float, end_s: float, fault_s: float) -> Series:
    """`seen_s` are when blocks were seen final, `fault_s` when the fault came, or `first_s` where none did."""
    step_s = max(COMMIT_STEP_S, end_s / STEPS_MAX)
    return Series(
        step_s=step_s,
        commits=commits(sent, step_s, end_s),
        quantiles_ms=quantiles(sent, first_s, end_s),
        minutes=minutes(sent, end_s),
        gap_before_s=longest_gap_s(seen_s, first_s, fault_s) if fault_s > first_s else 0.0,
        gap_after_s=longest_gap_s(seen_s, fault_s, end_s),
    )


def commits(sent: Sequence[Sent], step_s: float, end_s: float) -> list[int]:
    counts = [0] * math.ceil(end_s / step_s)
    for item in sent:
        if item.commit_s is not None and item.rule_code == 0 and 0 <= item.commit_s < end_s:
            counts[min(int(item.commit_s / step_s), len(counts) - 1)] += 1
    return counts


def longest_gap_s(seen_s: Sequence[float], first_s: float, end_s: float) -> float:
    """The longest time in [first_s, end_s] in which nothing was seen; all of it when nothing was."""
    times = [first_s, *sorted(time for time in seen_s if first_s <= time <= end_s), end_s]
    return max(later - earlier for earlier, later in pairwise(times))


def latency_ms(item: Sent) -> float:
    return math.inf if item.commit_s is None else (item.commit_s - item.due_s) * 1_000


def quantiles(sent: Sequence[Sent], first_s: float, end_s: float) -> list[float]:
    """Of the transactions due in the window that no node refused at its door, at 1, 2 ... 100 % of them."""
    values = sorted(latency_ms(item) for item in sent if first_s <= item.due_s < end_s and not item.door_code)
    return [percentile(values, (point + 1) / CURVE_POINTS) for point in range(CURVE_POINTS)] if values else []


def minutes(sent: Sequence[Sent], end_s: float) -> list[Minute]:
    by_minute: dict[int, list[float]] = {}
    committed: dict[int, int] = {}
    for item in sent:
        if not item.door_code:
            by_minute.setdefault(int(item.due_s // MINUTE_S), []).append(latency_ms(item))
        if item.commit_s is not None and item.rule_code == 0 and item.commit_s < end_s:
            minute = int(item.commit_s // MINUTE_S)
            committed[minute] = committed.get(minute, 0) + 1
    found = []
    for minute in range(math.ceil(end_s / MINUTE_S)):
        values = sorted(by_minute.get(minute, ()))
        length_s = min(MINUTE_S, end_s - minute * MINUTE_S)
        found.append(
            Minute(
                minute * MINUTE_S,
                committed.get(minute, 0) / length_s,
                percentile(values, 0.50),
                percentile(values, 0.99),
            )
        )
    return found


def finite(values: Mapping[str, object]) -> dict[str, object]:
    """As JSON has them: an infinite number is null, in lists and objects as well."""
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: object) -> object:
    if isinstance(value, float):
        return None if math.isinf(value) else value
    if isinstance(value, Mapping):
        return finite(value)
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
