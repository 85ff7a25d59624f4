"""From what a run measured to its configuration and results.

Must not know: how anything was measured.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench import machine
from bench.checks import Check
from bench.client import lag_p99_ms, post_interval_s
from bench.figures import Sent, committed_per_s, latencies, seen_at, tally
from bench.mix import FAMILY, World
from bench.observer import Watch
from bench.options import Options
from bench.report import Config, Costs, Results, Work
from bench.schedule import window
from bench.series import Samples, series
from bench.usage import Usage
from ledger.genesis import Parameters


@dataclass(frozen=True, slots=True)
class Measured:
    """Raw material of one run. `observer_s` is the processor time of the run's own process, link proxies included;
    usage from `before` to `after` is at the window's ends and in it, `drained` when all are quiet.
    """

    world: World
    times: list[float]
    start_s: float
    watches: list[Watch]
    outs: list[list[tuple[bytes, int | None]]]
    clients: list[dict[str, Any]]
    observer_s: float
    before: Usage
    quarter: Usage
    three_quarters: Usage
    after: Usage
    drained: Usage
    samples: Samples


def config_of(options: Options, measured: Measured, sent: Sequence[Sent]) -> Config:
    chosen = window(measured.times, options.warmup_s, options.load_s)
    calls = [measured.world.operation(number) for number in chosen]
    kinds = {kind: sum(call.kind == kind for call in calls) / max(len(calls), 1) for kind in FAMILY}
    return Config(
        machine=machine.processor(),
        cores=machine.cores(),
        python=platform.python_version(),
        commit=machine.commit(),
        nodes=options.nodes,
        faults="none" if options.fault is None else str(options.fault),
        links=_links(options),
        accounts=options.accounts,
        rate=options.rate,
        schedule="Poisson" if options.poisson else "fixed",
        mix=options.mix,
        shares={kind: share for kind, share in kinds.items() if share},
        senders=len({call.signer for call in calls}),
        tx_size_bytes=sum(client["bytes"] for client in measured.clients) / max(len(sent), 1),
        serials_per_tx=sum(call.serials for call in calls) / max(len(calls), 1),
        warmup_s=options.warmup_s,
        duration_s=options.duration_s,
        clients=options.clients,
        seed=options.seed,
        post_txs_max=options.post_txs_max,
        post_interval_ms=post_interval_s(options.post_txs_max) * 1_000,
        view_timeout_ms=Parameters().view_timeout_ms,
    )


def _links(options: Options) -> str:
    if not options.proxies:
        return "direct"
    return f"through proxies, {options.delay_ms or 0} ms one way, {options.loss:.1%} lost"


def results_of(
    options: Options,
    measured: Measured,
    sent: Sequence[Sent],
    checks: list[Check],
    limit_before: float,
    limit_after: float,
) -> Results:
    counted = [sent[number] for number in window(measured.times, options.warmup_s, options.load_s)]
    machine_s = options.load_s * machine.cores()
    seen = seen_at([watch.seen_s for watch in measured.watches], len(measured.watches))
    fault_s = options.warmup_s + (options.fault.at_s if options.fault is not None else 0.0)
    seen_s = [time_s - measured.start_s for time_s in seen.values()]
    return Results(
        tally=tally(counted),
        committed_per_s=committed_per_s(sent, options.warmup_s, options.load_s),
        latencies=latencies(counted),
        costs=_costs(measured),
        first_quarter=_work(measured.before, measured.quarter),
        last_quarter=_work(measured.three_quarters, measured.after),
        limit_before=limit_before,
        limit_after=limit_after,
        generator_lag_p99_ms=lag_p99_ms(measured.clients),
        generator_share=sum(client["processor_s"] for client in measured.clients) / machine_s,
        observer_share=measured.observer_s / machine_s,
        failed_posts=sum(client["failed_posts"] for client in measured.clients),
        synced_txs=round(measured.drained.total("counters", "synced_transactions")),
        checks=checks,
        series=series(sent, seen_s, options.warmup_s, options.load_s, fault_s),
        samples=measured.samples,
    )


def _work(before: Usage, after: Usage) -> Work:
    processor_s, signature_s, executed = (
        after.total(*path) - before.total(*path)
        for path in (("account", "process_s"), ("account", "signature_s"), ("counters", "transactions"))
    )
    us_per_tx = 1e6 / max(executed, 1.0)  # over all nodes: a transaction counts once for each
    return Work(processor_s * us_per_tx, signature_s * us_per_tx)


def _costs(measured: Measured) -> Costs:
    before, after, drained = measured.before, measured.after, measured.drained

    def grown(*path: str) -> float:
        return after.total(*path) - before.total(*path)

    work = _work(before, after)
    executed = max(grown("counters", "transactions"), 1.0)
    blocks = max(grown("counters", "blocks"), 1.0)
    seconds, nodes = after.at_s - before.at_s, len(after.statuses)
    # The store rewrites in bursts, so disk is measured to the end, over all that was executed since.
    to_end = max(drained.total("counters", "transactions") - before.total("counters", "transactions"), 1.0)
    return Costs(
        machine_share=grown("account", "process_s") / seconds / machine.cores(),
        flush_share=grown("account", "flush_s") / seconds / nodes,
        processor_us=work.processor_us,
        signature_us=work.signature_us,
        other_us=work.processor_us - work.signature_us,
        signature_share=work.signature_us / max(work.processor_us, 1e-9),
        wire_bytes=(after.sent_bytes() - before.sent_bytes()) / executed,
        disk_bytes=(sum(drained.disk_bytes) - sum(before.disk_bytes)) / to_end,
        written_bytes=(sum(drained.written_bytes) - sum(before.written_bytes)) / to_end,
        flushes_per_s=grown("account", "flushes") / seconds / nodes,
        txs_per_block=executed / blocks,
        blocks_per_s=blocks / nodes / seconds,
        views=max(status["view"] for status in drained.statuses),
    )
