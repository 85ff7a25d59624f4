"""Arithmetic on measurements: percentiles with unfinished ones as infinite, and what a run amounts to.

Must not know: how anything was measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


def percentile(ascending: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values; infinite when there are none."""
    if not ascending:
        return math.inf
    if not 0 < share <= 1:
        raise ValueError("a share above 0, at most 1")
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def counted_percentile(counts: Mapping[int, int], share: float) -> float:
    """The same of values that come as how often each was there."""
    rank = math.ceil(share * sum(counts.values()))
    for value in sorted(counts):
        rank -= counts[value]
        if rank <= 0:
            return value
    return math.inf


@dataclass(frozen=True, slots=True)
class Sent:
    """What one transaction went through. Seconds from the start of the load.

    `door_code` is 0 when a node took it, a code when it refused, None when no answer came. `commit_s` is when its block
    was seen at f+1 nodes, None when never; `rule_code` is its receipt's.
    """

    due_s: float
    kind: str
    door_code: int | None
    commit_s: float | None
    rule_code: int


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds. `unfinished` were taken, or never answered, and not seen final: they count as infinite."""

    count: int
    unfinished: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def latencies(sent: Iterable[Sent]) -> Latencies:
    """From the scheduled time to the commit, over all that no node refused at its door."""
    values = sorted(
        math.inf if item.commit_s is None else (item.commit_s - item.due_s) * 1_000
        for item in sent
        if not item.door_code
    )
    unfinished = sum(math.isinf(value) for value in values)
    return Latencies(
        len(values),
        unfinished,
        percentile(values, 0.50),
        percentile(values, 0.95),
        percentile(values, 0.99),
        values[-1] if values else math.inf,
    )


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts over the transactions due in the window; refusals by code."""

    sent: int
    committed: int
    refused_at_door: Mapping[int, int]
    refused_by_rule: Mapping[int, int]
    kinds: Mapping[str, int]


def tally(sent: Sequence[Sent]) -> Tally:
    final = [item for item in sent if item.commit_s is not None]
    return Tally(
        len(sent),
        sum(item.rule_code == 0 for item in final),
        dict(Counter(item.door_code for item in sent if item.door_code)),
        dict(Counter(item.rule_code for item in final if item.rule_code)),
        dict(Counter(item.kind for item in sent)),
    )


def committed_per_s(sent: Iterable[Sent], first_s: float, end_s: float) -> float:
    """Accepted transactions whose commit fell in the window, a second; whenever they were due."""
    count = sum(item.commit_s is not None and item.rule_code == 0 and first_s <= item.commit_s < end_s for item in sent)
    return count / (end_s - first_s)


def seen_at(times_by_node: Sequence[Mapping[int, float]], nodes: int) -> dict[int, float]:
    """For each height the time at which the `nodes`-th of the observed nodes showed it."""
    found: dict[int, float] = {}
    for height in {height for times in times_by_node for height in times}:
        times = sorted(times[height] for times in times_by_node if height in times)
        if len(times) >= nodes:
            found[height] = times[nodes - 1]
    return found
