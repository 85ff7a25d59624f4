"""The CONFIG / RESULTS block and its JSON: what was run, what came out, what speaks against believing it.

Must not know: how a run is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.checks import Check
from bench.figures import Latencies, Tally
from bench.series import Samples, Series, finite
from ledger.errors import Code, code_label

LAG_P99_MS_MAX = 5.0  # beyond, the generator and not the cluster was measured
GENERATOR_SHARE_MAX = 0.05
DRIFT_MAX = 0.10
REFUSED_SHARE_MAX = 0.01
TARGET_P95_MS = 500.0


@dataclass(frozen=True, slots=True)
class Config:
    """What was run. Sizes in bytes, times in seconds, the rate in transactions a second."""

    machine: str
    cores: int
    python: str
    commit: str
    nodes: int
    faults: str
    links: str
    accounts: int
    rate: float
    schedule: str
    mix: str
    shares: Mapping[str, float]
    senders: int
    tx_size_bytes: float
    serials_per_tx: float
    warmup_s: float
    duration_s: float
    clients: int
    seed: int
    post_txs_max: int
    post_interval_ms: float
    view_timeout_ms: int


@dataclass(frozen=True, slots=True)
class Costs:
    """Per executed transaction and node over the window, unless named otherwise. `machine_share`: the nodes' processor
    time of what the machine had; `flush_share`: how much of its time a node's log was waiting for the disk.
    """

    machine_share: float
    flush_share: float
    processor_us: float
    signature_us: float
    other_us: float
    signature_share: float
    wire_bytes: float
    disk_bytes: float
    written_bytes: float
    flushes_per_s: float
    txs_per_block: float
    blocks_per_s: float
    views: int


@dataclass(frozen=True, slots=True)
class Results:
    """What came out."""

    tally: Tally
    committed_per_s: float
    latencies: Latencies
    costs: Costs
    limit_before: float
    limit_after: float
    generator_lag_p99_ms: float
    generator_share: float
    observer_share: float
    failed_posts: int
    synced_txs: int
    checks: Sequence[Check]
    series: Series
    samples: Samples

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
        if self.synced_txs:
            yield f"nodes fell behind: {self.synced_txs} executions took a quorum's word for the signatures"


def drift_of(limit_before: float, limit_after: float) -> float:
    """By how much of itself L changed from one calibration to the other."""
    return abs(limit_after - limit_before) / max(limit_before, 1e-9)


def passes(results: Results, rate: float) -> bool:
    """Whether the cluster carries this rate: nearly all committed, p95 under half a second, few refused."""
    return (
        results.sound
        and results.latencies.p95_ms < TARGET_P95_MS
        and results.committed_per_s >= 0.97 * rate
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
    yield "python, commit", f"{config.python}, {config.commit}"
    yield "nodes, faults", f"{config.nodes}, {config.faults}"
    yield "links", config.links
    if config.accounts:
        yield "accounts", f"{config.accounts} in the first state"
    yield "load", f"{config.rate:g} tx/s, {config.schedule}, open loop, {config.clients} client processes"
    yield "warm-up, window", f"{config.warmup_s:g} s, {config.duration_s:g} s"
    yield "mix", f"{config.mix}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in config.shares.items())
    yield "transactions", f"{config.tx_size_bytes:.0f} bytes on average, {config.senders} senders, seed {config.seed}"
    yield (
        "granularity",
        f"{_posts(config)}, commits seen as the nodes push their headers",
    )


def _posts(config: Config) -> str:
    if config.post_txs_max == 1:
        return "every transaction a post of its own"
    return f"posts every {config.post_interval_ms:g} ms"


def _result_rows(config: Config, results: Results) -> Iterator[tuple[str, str]]:
    latency, costs, count = results.latencies, results.costs, results.tally
    yield "committed", f"{results.committed_per_s:.0f} tx/s ({count.committed} of {count.sent} due in the window)"
    yield (
        "latency",
        (
            f"p50 {_ms(latency.p50_ms)}, p95 {_ms(latency.p95_ms)}, p99 {_ms(latency.p99_ms)}, max {_ms(latency.max_ms)}; "  # noqa: E501
            f"scheduled time to a commit seen at {(config.nodes - 1) // 3 + 1} nodes"
        ),
    )
    if config.serials_per_tx > 1:
        yield "serials", f"{results.committed_per_s * config.serials_per_tx:.0f} a second"
    if config.faults != "none":
        yield (
            "longest gap",
            f"{results.series.gap_after_s:.2f} s without a commit from the fault on, "
            f"{results.series.gap_before_s:.2f} s before it",
        )
    yield "refused at the door", _codes(count.refused_at_door, count.sent)
    yield "refused by a rule", _codes(count.refused_by_rule, count.sent)
    yield (
        "processor",
        (
            f"{costs.processor_us:.0f} us per transaction and node: signatures {costs.signature_us:.0f} "
            f"({costs.signature_share:.0%}), the rest {costs.other_us:.0f}"
        ),
    )
    signatures = costs.machine_share * costs.signature_share
    yield (
        "node time",
        (
            f"{costs.machine_share:.0%} of the machine: signatures {signatures:.0%}, the rest "
            f"{costs.machine_share - signatures:.0%}; an fsync under way {costs.flush_share:.0%} of the time"
        ),
    )
    yield "wire", f"{costs.wire_bytes:.0f} bytes sent between nodes per transaction and node"
    yield "disk", f"{costs.disk_bytes:.0f} bytes kept, {costs.written_bytes:.0f} written, per transaction and node"
    yield "blocks", f"{costs.blocks_per_s:.1f} a second of {costs.txs_per_block:.0f}; view {costs.views} at the end"
    yield "fsyncs", f"{costs.flushes_per_s:.1f} a second and node"
    yield (
        "limit L",
        (
            f"{results.limit_before:.0f} tx/s before, {results.limit_after:.0f} after (signature checks alone, "
            f"{config.nodes} processes); committed is {results.committed_per_s / max(results.limit, 1e-9):.0%} of it"
        ),
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


def _codes(counts: Mapping[int, int], sent: int) -> str:
    if not counts:
        return "0"
    named = ", ".join(f"{_label(code)} {count}" for code, count in sorted(counts.items()))
    total = sum(counts.values())
    return f"{total} ({total / max(sent, 1):.2%}): {named}"


def _label(code: int) -> str:
    try:
        return f"{code_label(code)} {Code(code).name.lower()}"
    except ValueError:
        return str(code)


def document(config: Config, results: Results) -> dict[str, Any]:
    """The same as JSON values; an infinite latency is null."""
    found = finite(asdict(results)) | {"limit": results.limit}
    return {
        "format": "medchain/bench/2",
        "config": asdict(config),
        "results": found,
        "sound": results.sound,
        "passes": passes(results, config.rate),
        "doubts": list(results.doubts()),
    }
