"""What any measured run has, ours or another's: what became of its transactions, what speaks against believing it, and
the page that says so.

Must not know: whose nodes were measured, or how.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from bench.checks import Check
from bench.figures import Latencies, Tally
from bench.series import Series

LAG_P99_MS_MAX = 5.0  # beyond, the generator and not the cluster was measured
GENERATOR_SHARE_MAX = 0.05
DRIFT_MAX = 0.10
REFUSED_SHARE_MAX = 0.01
LAG, DRIFT = "the generator lagged", "the machine's speed changed"

Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why figures should not be believed as they are: its kind, which is the same in every run, and how it was."""

    kind: str
    how: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.how}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Shares are of the machine's processor time; the limits are L in transactions a second, before and after."""

    tally: Tally
    committed_per_s: float
    latencies: Latencies
    limit_before: float
    limit_after: float
    generator_lag_p99_ms: float
    generator_share: float
    observer_share: float
    failed_posts: int
    checks: Sequence[Check]
    series: Series

    @property
    def limit(self) -> float:
        """L, of both calibrations."""
        return (self.limit_before + self.limit_after) / 2

    @property
    def refused(self) -> int:
        return sum(self.tally.refused_at_door.values()) + sum(self.tally.refused_by_rule.values())

    @property
    def sound(self) -> bool:
        return all(check.held for check in self.checks)

    def carries(self, rate: float, p95_ms_max: float, one_block_per_s: float) -> bool:
        """Whether the cluster carries this rate: nearly all committed, p95 in bounds, few refused. As much as one block
        holds may be missing: where they are long, whether one more falls into the window would decide."""
        return (
            self.sound
            and self.latencies.p95_ms < p95_ms_max
            and self.committed_per_s + one_block_per_s >= 0.97 * rate
            and self.refused <= REFUSED_SHARE_MAX * self.tally.sent
        )

    def voids(self) -> Iterator[Doubt]:
        """Why the run says nothing of the cluster: the generator or the machine was measured."""
        if self.generator_lag_p99_ms > LAG_P99_MS_MAX:
            yield Doubt(LAG, f"p99 {self.generator_lag_p99_ms:.1f} ms, over {LAG_P99_MS_MAX:g} ms")
        drift = drift_of(self.limit_before, self.limit_after)
        if drift > DRIFT_MAX:
            yield Doubt(DRIFT, f"by {drift:.0%} between the two calibrations")

    def doubts(self) -> Iterator[Doubt]:
        """Why the figures should not be believed as they are, voids included; none for a good run."""
        yield from self.voids()
        if self.generator_share > GENERATOR_SHARE_MAX:
            share = f"{self.generator_share:.1%} of the machine, over {GENERATOR_SHARE_MAX:.0%}"
            yield Doubt("the generator took much", share)
        if self.refused > REFUSED_SHARE_MAX * self.tally.sent:
            yield Doubt("transactions were refused", f"{self.refused / self.tally.sent:.1%}")
        if self.latencies.unfinished:
            yield Doubt("transactions were never seen final", str(self.latencies.unfinished))
        if self.failed_posts:
            yield Doubt("posts failed", str(self.failed_posts))
        yield from self.own_doubts()

    def own_doubts(self) -> Iterable[Doubt]:
        """Those of one kind of run alone."""
        return ()

    def speaking_against(self) -> dict[str, list[dict[str, str]]]:
        """Voids and doubts as JSON values."""
        return {"voids": [asdict(each) for each in self.voids()], "doubts": [asdict(each) for each in self.doubts()]}


def drift_of(limit_before: float, limit_after: float) -> float:
    """By how much of itself L changed from one calibration to the other."""
    return abs(limit_after - limit_before) / max(limit_before, 1e-9)


def page(config: Iterable[Row], found: Iterable[Row], outcome: Outcome) -> str:
    """For people; one fact a line."""
    rows = [("CONFIG", ""), *config, ("", ""), ("RESULTS", ""), *found]
    lines = [f"{name:<26} {value}".rstrip() for name, value in rows]
    lines += ["", "CHECKS"]
    lines += [f"{'ok' if check.held else 'FAILED':<7} {check.claim} ({check.found})" for check in outcome.checks]
    doubts = list(outcome.doubts())
    lines += ["", *(f"DOUBT   {doubt}" for doubt in doubts)] if doubts else []
    return "\n".join(lines)


def first_rows(outcome: Outcome, nodes: int) -> Iterator[Row]:
    """How much was committed, and how fast."""
    count, latency = outcome.tally, outcome.latencies
    yield "committed", f"{outcome.committed_per_s:.0f} tx/s ({count.committed} of {count.sent} due in the window)"
    named = {"p50": latency.p50_ms, "p95": latency.p95_ms, "p99": latency.p99_ms, "max": latency.max_ms}
    shown = ", ".join(f"{name} {_ms(value)}" for name, value in named.items())
    yield "latency", f"{shown}; scheduled time to a commit seen at {(nodes - 1) // 3 + 1} nodes"


def last_rows(outcome: Outcome, nodes: int) -> Iterator[Row]:
    """What the machine could do, and what the measuring took of it."""
    yield (
        "limit L",
        (
            f"{outcome.limit_before:.0f} tx/s before, {outcome.limit_after:.0f} after (signature checks alone, "
            f"{nodes} processes); committed is {outcome.committed_per_s / max(outcome.limit, 1e-9):.0%} of it"
        ),
    )
    yield (
        "generator",
        (
            f"lag p99 {outcome.generator_lag_p99_ms:.1f} ms, {outcome.generator_share:.1%} of the machine "
            f"(observer {outcome.observer_share:.1%} more)"
        ),
    )


def refusals(counts: Mapping[str, int], sent: int) -> str:
    """How many, of those sent, by name."""
    if not counts:
        return "0"
    named = ", ".join(f"{name} {count}" for name, count in counts.items())
    total = sum(counts.values())
    return f"{total} ({total / max(sent, 1):.2%}): {named}"


def _ms(value: float) -> str:
    return "infinite" if math.isinf(value) else f"{value:.0f} ms"
