"""The CONFIG / RESULTS block and its JSON: what was run, what came out, what speaks against believing it.

Must not know: how a run is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.outcome import Doubt, Outcome, Row, first_rows, last_rows, page, refusals
from bench.series import Samples, finite
from ledger.errors import Code, code_label

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
class Work:
    """Processor time per executed transaction and node in a part of the window, in microseconds."""

    processor_us: float
    signature_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Results(Outcome):
    """What came out. The quarters are those of the window."""

    costs: Costs
    first_quarter: Work
    last_quarter: Work
    synced_txs: int
    samples: Samples

    def own_doubts(self) -> Iterator[Doubt]:
        if self.synced_txs:
            yield Doubt("nodes fell behind", f"{self.synced_txs} executions took a quorum's word for the signatures")


def passes(config: Config, results: Results, p95_ms_max: float = TARGET_P95_MS) -> bool:
    """Whether the cluster carries what it was offered, with p95 in bounds."""
    return results.carries(config.rate, p95_ms_max, results.costs.txs_per_block / config.duration_s)


def text(config: Config, results: Results) -> str:
    """For people; one fact a line."""
    return page(_config_rows(config), _result_rows(config, results), results)


def _config_rows(config: Config) -> Iterator[Row]:
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


def _result_rows(config: Config, results: Results) -> Iterator[Row]:
    costs, count = results.costs, results.tally
    yield from first_rows(results, config.nodes)
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
    yield from last_rows(results, config.nodes)


def _codes(counts: Mapping[int, int], sent: int) -> str:
    return refusals({_label(code): count for code, count in sorted(counts.items())}, sent)


def _label(code: int) -> str:
    try:
        return f"{code_label(code)} {Code(code).name.lower()}"
    except ValueError:
        return str(code)


def document(config: Config, results: Results, p95_ms_max: float = TARGET_P95_MS) -> dict[str, Any]:
    """The same as JSON values; an infinite latency is null."""
    found = finite(asdict(results)) | {"limit": results.limit}
    return {
        "format": "medchain/bench/3",
        "config": asdict(config),
        "results": found,
        "sound": results.sound,
        "passes": passes(config, results, p95_ms_max),
        **results.speaking_against(),
    }
