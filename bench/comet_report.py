"""The CONFIG / RESULTS block of a run against CometBFT and its JSON, in the terms of bench/report.py.

Must not know: how a run is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bench.comet_client import Door
from bench.comet_nodes import SETUPS
from bench.outcome import Doubt, Outcome, Row, first_rows, last_rows, page, refusals
from bench.series import finite


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Results(Outcome):
    """What came out. `processor_us` is per executed transaction and node; `emptied`: nothing waited at the end;
    `again`: so many executions were of transactions that had been executed before.
    """

    processor_us: float
    machine_share: float
    blocks_per_s: float
    txs_per_block: float
    emptied: bool
    again: int

    def own_doubts(self) -> Iterator[Doubt]:
        if not self.emptied:
            yield Doubt("transactions were still waiting", "when the run was given up")
        if self.again:  # its mempool's cache forgets
            yield Doubt("transactions were executed twice", str(self.again))


def passes(config: Config, results: Results) -> bool:
    """The demands on our own nodes, but for stock's p95 (bench/comet_nodes.py)."""
    one_block_per_s = results.txs_per_block / config.duration_s
    return results.carries(config.rate, SETUPS[config.setup].p95_ms_max, one_block_per_s)


def text(config: Config, results: Results) -> str:
    """For people; one fact a line."""
    return page(_config_rows(config), _result_rows(config, results), results)


def _config_rows(config: Config) -> Iterator[Row]:
    yield "machine", f"{config.machine}, {config.cores} cores"
    yield "CometBFT, Go, commit", f"{config.cometbft}, {config.go}, {config.commit}"
    yield "setup, nodes", f"{config.setup}, {config.nodes}"
    yield "load", f"{config.rate:g} tx/s, fixed, open loop, {config.clients} client processes"
    yield "warm-up, window", f"{config.warmup_s:g} s, {config.duration_s:g} s"
    yield "transactions", f"{config.tx_size_bytes} bytes"


def _result_rows(config: Config, results: Results) -> Iterator[Row]:
    count = results.tally
    yield from first_rows(results, config.nodes)
    named = {Door(code).name.lower().replace("_", " "): n for code, n in sorted(count.refused_at_door.items())}
    yield "refused at the door", refusals(named, count.sent)
    yield (
        "processor",
        f"{results.processor_us:.0f} us per transaction and node; {results.machine_share:.0%} of the machine",
    )
    yield "blocks", f"{results.blocks_per_s:.1f} a second, of {results.txs_per_block:.0f} where not empty"
    yield from last_rows(results, config.nodes)


def document(config: Config, results: Results) -> dict[str, Any]:
    """The same as JSON values, an infinite latency as null, with the members that a suite reads of our own runs."""
    return {
        "format": "medchain/bench-comet/3",
        "config": asdict(config) | {"faults": "none"},
        "results": finite(asdict(results)) | {"limit": results.limit},
        "sound": results.sound,
        "passes": passes(config, results),
        **results.speaking_against(),
    }
