"""The CONFIG / RESULTS block of a run against CometBFT and its JSON, in the terms of bench/report.py.

Must not know: how a run is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.checks import Check
from bench.comet_client import Door
from bench.comet_nodes import SETUPS
from bench.figures import Latencies, Tally
from bench.report import DRIFT_MAX, GENERATOR_SHARE_MAX, LAG_P99_MS_MAX, REFUSED_SHARE_MAX, drift_of
from bench.series import Series, finite


@dataclass(frozen=True, slots=True)
class Config:
    """What was run. Sizes in bytes, times in seconds, the rate in transactions a second."""

    machine: str
    cores: int
    go: str
    cometbft: str
    commit: str
    setup: str
    nodes: int
    rate: float
    tx_size_bytes: int
    warmup_s: float
    duration_s: float
    clients: int


@dataclass(frozen=True, slots=True)
class Results:
    """What came out. `processor_us` is per executed transaction and node; `emptied`: nothing waited at the end."""

    tally: Tally
    committed_per_s: float
    latencies: Latencies
    processor_us: float
    machine_share: float
    blocks_per_s: float
    txs_per_block: float
    limit_before: float
    limit_after: float
    generator_lag_p99_ms: float
    generator_share: float
    observer_share: float
    failed_posts: int
    emptied: bool
    checks: Sequence[Check]
    series: Series

    @property
    def limit(self) -> float:
        """L, of both calibrations."""
        return (self.limit_before + self.limit_after) / 2

    @property
    def refused(self) -> int:
        return sum(self.tally.refused_at_door.values())

    @property
    def sound(self) -> bool:
        return all(check.held for check in self.checks)

    def doubts(self) -> Iterator[str]:
        """Why the figures should not be believed as they are; none for a good run."""
        if self.generator_lag_p99_ms > LAG_P99_MS_MAX:
            yield f"the generator lagged: p99 {self.generator_lag_p99_ms:.1f} ms, over {LAG_P99_MS_MAX:g} ms"
        if self.generator_share > GENERATOR_SHARE_MAX:
            yield f"the generator took {self.generator_share:.1%} of the machine, over {GENERATOR_SHARE_MAX:.0%}"
        drift = drift_of(self.limit_before, self.limit_after)
        if drift > DRIFT_MAX:
            yield f"the machine's speed changed by {drift:.0%} between the two calibrations"
        if self.refused > REFUSED_SHARE_MAX * self.tally.sent:
            yield f"{self.refused / self.tally.sent:.1%} were refused"
        if self.latencies.unfinished:
            yield f"{self.latencies.unfinished} were never seen final"
        if self.failed_posts:
            yield f"{self.failed_posts} posts failed"
        if not self.emptied:
            yield "transactions were still waiting when the run was given up"


def passes(config: Config, results: Results) -> bool:
    """The demands on our own nodes, but for stock's p95 (bench/comet_nodes.py), and for blocks so long that whether one
    more falls into the window would decide: as much as one holds may be missing.
    """
    one_block_per_s = results.txs_per_block / config.duration_s
    return (
        results.sound
        and results.latencies.p95_ms < SETUPS[config.setup].p95_ms_max
        and results.committed_per_s + one_block_per_s >= 0.97 * config.rate
        and results.refused <= REFUSED_SHARE_MAX * results.tally.sent
    )


def text(config: Config, results: Results) -> str:
    """For people; one fact a line."""
    rows = [("CONFIG", ""), *_config_rows(config), ("", ""), ("RESULTS", ""), *_result_rows(config, results)]
    lines = [f"{name:<26} {value}".rstrip() for name, value in rows]
    lines += ["", "CHECKS"]
    lines += [f"{'ok' if check.held else 'FAILED':<7} {check.claim} ({check.found})" for check in results.checks]
    doubts = list(results.doubts())
    lines += ["", *(f"DOUBT   {doubt}" for doubt in doubts)] if doubts else []
    return "\n".join(lines)


def _config_rows(config: Config) -> Iterator[tuple[str, str]]:
    yield "machine", f"{config.machine}, {config.cores} cores"
    yield "CometBFT, Go, commit", f"{config.cometbft}, {config.go}, {config.commit}"
    yield "setup, nodes", f"{config.setup}, {config.nodes}"
    yield "load", f"{config.rate:g} tx/s, fixed, open loop, {config.clients} client processes"
    yield "warm-up, window", f"{config.warmup_s:g} s, {config.duration_s:g} s"
    yield "transactions", f"{config.tx_size_bytes} bytes"


def _result_rows(config: Config, results: Results) -> Iterator[tuple[str, str]]:
    latency, count = results.latencies, results.tally
    yield "committed", f"{results.committed_per_s:.0f} tx/s ({count.committed} of {count.sent} due in the window)"
    named = {
        "p50": latency.p50_ms, "p95": latency.p95_ms, "p99": latency.p99_ms, "max": latency.max_ms,
    }  # fmt: skip
    shown = ", ".join(f"{name} {_ms(value)}" for name, value in named.items())
    yield "latency", f"{shown}; scheduled time to a commit seen at {(config.nodes - 1) // 3 + 1} nodes"
    yield "refused at the door", _refusals(count.refused_at_door, count.sent)
    yield (
        "processor",
        f"{results.processor_us:.0f} us per transaction and node; {results.machine_share:.0%} of the machine",
    )
    yield "blocks", f"{results.blocks_per_s:.1f} a second, of {results.txs_per_block:.0f} where not empty"
    share = results.committed_per_s / max(results.limit_before, 1e-9)
    yield (
        "limit L",
        f"{results.limit_before:.0f} tx/s before, {results.limit_after:.0f} after; committed is {share:.0%} of it",
    )
    yield (
        "generator",
        (
            f"lag p99 {results.generator_lag_p99_ms:.1f} ms, {results.generator_share:.1%} of the machine "
            f"(observer {results.observer_share:.1%} more)"
        ),
    )


def _ms(value: float) -> str:
    return "infinite" if math.isinf(value) else f"{value:.0f} ms"


def _refusals(counts: Mapping[int, int], sent: int) -> str:
    if not counts:
        return "0"
    named = ", ".join(f"{Door(code).name.lower().replace('_', ' ')} {count}" for code, count in sorted(counts.items()))
    total = sum(counts.values())
    return f"{total} ({total / max(sent, 1):.2%}): {named}"


def document(config: Config, results: Results) -> dict[str, Any]:
    """The same as JSON values, an infinite latency as null, with the members that a suite reads of our own runs."""
    return {
        "format": "medchain/bench-comet/2",
        "config": asdict(config) | {"faults": "none"},
        "results": finite(asdict(results)) | {"limit": results.limit},
        "sound": results.sound,
        "passes": passes(config, results),
        "doubts": list(results.doubts()),
    }
