"""One run: calibrate, start a cluster, set up, load, drain, read back, check, calibrate again.

Every process it starts dies with it: nodes through LocalCluster, clients through their parent's death signal.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from bench import accounts, calibrate, clients, observer
from bench.audit import audit
from bench.checks import Check, all_checks
from bench.client import read_out
from bench.faults import inflict
from bench.figures import Sent, seen_at
from bench.mix import CURRENCY, World
from bench.observer import Watch
from bench.options import Options
from bench.processes import answer_of, end, going_first, processor_s, send_start
from bench.report import Config, Results
from bench.results import Measured, config_of, results_of
from bench.stage import Say, cluster_for, own_folder, set_up
from bench.usage import Sampler, Usage, interval_s, usage
from node.cluster.plan import development_modules
from node.cluster.runner import ClusterNode, LocalCluster

START_AHEAD_S = 1.0  # clients get the start time this long before
WORDS_MAX = 60  # of progress in one run
BESIDE_TIMEOUT_S = 10.0  # for what runs beside the load to finish after it

Beside = Callable[[LocalCluster, float], Coroutine[Any, Any, None]]


async def run(options: Options, say: Say, beside: Beside | None = None) -> tuple[Config, Results]:
    """Raises BenchError or ClusterError when there is no result to speak of. `beside` begins with the window, and is
    told how long that is.
    """
    say("calibrating: signature checks alone")
    limit_before = await asyncio.to_thread(calibrate.limit, options.nodes)
    if options.share is not None:
        options = replace(options, rate=options.share * limit_before)
    say(f"limit L = {limit_before:.0f} tx/s; starting {options.nodes} nodes, to offer {options.rate:.0f} tx/s")
    world = options.world()
    folder = own_folder("cluster")
    try:
        async with cluster_for(options, world, folder, say) as cluster:
            measured = await _measure(options, world, cluster, say, beside)
            say("reading the chain back")
            urls = [node.api_url for node in cluster.nodes if node.alive]
            sent = await _join(options, measured)
            checks = await _check(options, measured, urls, sent)
            home = [node.home for node in cluster.nodes if node.alive][-1]  # of one that was not watched
        limit_after = await asyncio.to_thread(calibrate.limit, options.nodes)
        say("executing the chain once more, and proving facts from it")
        checks += await asyncio.to_thread(audit, home, world, folder / "fresh")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return config_of(options, measured, sent), results_of(options, measured, sent, checks, limit_before, limit_after)


async def _measure(options: Options, world: World, cluster: LocalCluster, say: Say, beside: Beside | None) -> Measured:
    urls = [node.api_url for node in cluster.nodes]
    async with AsyncExitStack() as stack:
        await set_up(world, bytes.fromhex(cluster.plan.chain_id), urls, say)
        victim, others = await _victim(options, cluster)
        spared = [node.api_url for node in others]
        processes = []
        for index in range(options.clients):
            chain_id, folder = cluster.plan.chain_id, cluster.directory
            process = await clients.start(options, world, chain_id, spared, folder, index)
            stack.push_async_callback(end, process)
            processes.append(process)
        say(f"signing {world.count} transactions {'ahead' if options.is_long else 'beforehand'}")
        await asyncio.gather(*map(answer_of, processes))
        first = (await observer.drained(urls))[0]["height"] + 1
        watches = [Watch(url, next_height=first) for url in spared[: (options.nodes - 1) // 3 + 1]]
        followers = [asyncio.create_task(watch.follow()) for watch in watches]
        before_s = processor_s()
        if not options.proxies:  # which are in this process, and no client of ours
            stack.enter_context(going_first())
        start_s = time.monotonic() + START_AHEAD_S
        sampler = Sampler(cluster.nodes, start_s, interval_s(options.load_s))
        for task in (*followers, sampling := asyncio.create_task(sampler.run())):
            stack.callback(task.cancel)
        for process in processes:
            send_start(process, start_s)
        reports = [asyncio.create_task(answer_of(process)) for process in processes]
        for report in reports:
            stack.callback(report.cancel)
        before = await _at(start_s + options.warmup_s, options, others, watches[0], start_s, say)
        works = []
        if victim is not None:
            works.append(asyncio.create_task(_fault(options, cluster, victim, start_s, say)))
        if beside is not None:
            works.append(asyncio.create_task(beside(cluster, options.duration_s)))
        for work in works:
            stack.callback(work.cancel)
        quarter, three_quarters = [
            await _at(start_s + options.warmup_s + options.duration_s * part, options, others, watches[0], start_s, say)
            for part in (0.25, 0.75)
        ]
        after = await _at(start_s + options.load_s, options, others, watches[0], start_s, say)
        used_s = processor_s() - before_s
        sampling.cancel()
        await _finish(works, options)
        say("draining")
        results = await asyncio.gather(*reports)
        living = [node.api_url for node in cluster.nodes if node.alive]
        await observer.caught_up(watches, followers, (await observer.drained(living))[0]["height"])
        drained = await usage(others)
    outs = [read_out(clients.out_path(cluster.directory, index)) for index in range(options.clients)]
    return Measured(
        world, options.times, start_s, watches, outs, list(results), used_s,
        before, quarter, three_quarters, after, drained, sampler.samples(),
    )  # fmt: skip


async def _finish(works: Sequence[asyncio.Task[None]], options: Options) -> None:
    """What ran beside the load is over, or is ended (a slow node is slow until then); raises what failed in it."""
    if works and options.fault is None:
        await asyncio.wait(works, timeout=BESIDE_TIMEOUT_S)
    for work in works:
        work.cancel()
    for found in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(found, Exception):
            raise found


async def _victim(options: Options, cluster: LocalCluster) -> tuple[ClusterNode | None, list[ClusterNode]]:
    """The node that will suffer, if one does, and the others."""
    if options.fault is None:
        return None, cluster.nodes
    number = options.fault.victim(await observer.statuses([node.api_url for node in cluster.nodes]))
    return cluster.nodes[number], [node for node in cluster.nodes if node.plan.index != number]


async def _fault(options: Options, cluster: LocalCluster, victim: ClusterNode, start_s: float, say: Say) -> None:
    assert options.fault is not None
    await asyncio.sleep(start_s + options.warmup_s + options.fault.at_s - time.monotonic())
    say(f"{options.fault}: {victim.name}")
    await inflict(options.fault, cluster, victim)


async def _at(
    moment_s: float, options: Options, nodes: Sequence[ClusterNode], watch: Watch, start_s: float, say: Say
) -> Usage:
    """The nodes' usage at that moment; says how it goes until then."""
    seen, said_s = sum(watch.tx_counts.values()), time.monotonic()
    while (left_s := moment_s - time.monotonic()) > 0:
        await asyncio.sleep(min(max(2.0, options.load_s / WORDS_MAX), left_s))
        now_s, total = time.monotonic(), sum(watch.tx_counts.values())
        elapsed_s = max(0.0, now_s - start_s)
        phase = "warm-up" if elapsed_s < options.warmup_s else "load"
        say(
            f"{phase}: {elapsed_s:.0f} of {options.load_s:g} s, height {watch.next_height - 1}, "
            f"{(total - seen) / max(now_s - said_s, 1e-9):.0f} tx/s, {max(0.0, options.load_s - elapsed_s):.0f} s left"
        )
        seen, said_s = total, now_s
    return await usage(nodes)


async def _join(options: Options, measured: Measured) -> list[Sent]:
    """What became of each transaction, in the order of the schedule."""
    watch = measured.watches[0]
    last = measured.drained.statuses[0]["height"]
    on_chain = await observer.committed(watch.url, watch.next_height - len(watch.seen_s), last)
    seen = seen_at([watch.seen_s for watch in measured.watches], len(measured.watches))
    found = []
    for number, due_s in enumerate(measured.times):
        tx_id, door_code = measured.outs[number % options.clients][number // options.clients]
        height, code = on_chain.get(tx_id, (None, 0))
        commit_s = None if height is None or height not in seen else seen[height] - measured.start_s
        found.append(Sent(due_s, measured.world.operation(number).kind, door_code, commit_s, code))
    return found


async def _check(options: Options, measured: Measured, urls: Sequence[str], sent: Sequence[Sent]) -> list[Check]:
    """Count once more on the chain of a node that was not watched, and compare all that live."""
    found = await observer.drained(urls)
    on_chain = await observer.committed(urls[-1], 1, found[-1]["height"])
    ids = [
        measured.outs[number % options.clients][number // options.clients][0]
        for number, item in enumerate(sent)
        if item.commit_s is not None and item.rule_code == 0
    ]
    counted = sum(on_chain.get(tx_id, (0, 1))[1] == 0 for tx_id in ids)
    owners, supply = _money(measured.world)
    untouched = measured.world.accounts * accounts.BALANCE
    if untouched:
        calls = map(measured.world.operation, range(len(sent)))
        paid = {str(call.fields[1]) for call in calls if call.kind == "transfer"}
        owners += sorted(paid)
        untouched -= len(paid) * accounts.BALANCE
    return await all_checks(urls, found, len(ids), counted, owners, untouched, supply)


def _money(world: World) -> tuple[list[str], int]:
    """The accounts of genesis, and all the money there is."""
    listed = world.genesis_modules(development_modules())["payments"]["balances"]
    balances = [item for item in listed if item["currency"] == CURRENCY]
    supply = sum(item["amount"] for item in balances) + world.accounts * accounts.BALANCE
    return [item["owner"] for item in balances], supply
