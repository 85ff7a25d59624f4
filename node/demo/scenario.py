"""The demonstration itself: business through a cluster whose leader is killed in the middle, and the promises checked.

Must not know: command-line options.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.cluster.plan import development_modules
from node.cluster.runner import ClusterNode, LocalCluster
from node.demo.progress import Progress
from node.demo.report import Check, Report
from node.demo.send import ClusterTransport, Load
from node.demo.watch import Watch, chain_of
from node.workload import SIZES, Cast, Step, generate, published, published_modules

__all__ = ["Options", "Stage", "demonstrate", "lay_out"]

GAP_S_MAX = 3.0
KILL_AT = 0.35  # of the steps
LOAD_BEHIND_S = 2.0  # business goes on without the killed node for so long after commits resumed
RESUME_TIMEOUT_S = 30.0
TICK_S = 0.1
LAG_MAX = 10  # heights: what two nodes asked at different moments differ by under load


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for. `data`: a folder of published files instead of generated business."""

    directory: Path
    nodes: int
    seed: int
    size: str
    data: Path | None


@dataclass(frozen=True, slots=True)
class Stage:
    """A cluster laid out for the business it is to see."""

    options: Options
    cluster: LocalCluster
    cast: Cast
    steps: list[Step]


@dataclass(slots=True)
class _Kill:
    """What the death of the leader led to. Times in seconds."""

    leader: str = ""
    gap_s: float | None = None
    caught_up_s: float | None = None


def lay_out(options: Options) -> Stage:
    """Make the cluster's folder, and the business for it. ConfigError where there is one already."""
    modules: dict[str, dict[str, Any]] = development_modules()
    if options.data is not None:
        modules = published_modules(options.data, modules)
    cluster = LocalCluster.create(options.directory, options.nodes, modules=modules)
    cast, rng, now_ms = Cast(modules), random.Random(options.seed), time.time_ns() // 1_000_000  # noqa: S311
    if options.data is not None:
        steps = published(options.data, rng, cast, now_ms)
    else:
        steps = generate(rng, cast, now_ms, SIZES[options.size])
    return Stage(options, cluster, cast, steps)


async def demonstrate(stage: Stage, progress: Progress) -> Report:
    """Send it all, kill the leader in the middle, restart it, and check. The cluster runs, and goes on running."""
    cluster = stage.cluster
    async with Watch(cluster.nodes) as watch:
        chain_id = bytes.fromhex(cluster.plan.chain_id)
        transport = ClusterTransport(stage.cast, cluster.plan.nodes, cluster.directory, chain_id, watch.saw)
        load = Load(stage.cast, transport, stage.steps, reached_at=KILL_AT)
        try:
            kill, seconds = await _run(cluster, watch, load, progress)
            progress.say("comparing the chains of all nodes")
            statuses = await watch.agreed()
            chains = {name: await chain_of(client) for name, client in watch.clients.items()}
        finally:
            await transport.close()
        first = next(iter(chains.values()))
        report = Report(
            nodes=len(cluster.nodes),
            size=stage.options.size,
            seconds=seconds,
            tally=load.tally,
            sent=transport.sent,
            chain=first,
            blocks=watch.height,
            refused_by_a_node=transport.refused_at_door,
        )
        report.checks += [*_check_kill(kill), *_check_chains(transport, chains), _check_roots(statuses)]
        report.checks.append(_check_outcomes(load))
        return report


async def _run(cluster: LocalCluster, watch: Watch, load: Load, progress: Progress) -> tuple[_Kill, float]:
    started_s = time.monotonic()
    kill = _Kill()
    business = asyncio.create_task(load.run())
    faults = asyncio.create_task(_kill_leader(cluster, watch, load, progress, kill))
    leader, asked_s = (await watch.leader()).name, time.monotonic()
    try:
        while not business.done():
            await asyncio.wait([business], timeout=TICK_S)
            if time.monotonic() - asked_s > 1.0:
                leader, asked_s = (await watch.leader()).name, time.monotonic()
            progress.update(load.tally.done, f"height {watch.height}, {leader} leads")
        seconds = time.monotonic() - started_s
        business.result()
        await faults
    finally:
        for task in (business, faults):
            task.cancel()
        await asyncio.gather(business, faults, return_exceptions=True)
    progress.say(f"all {load.tally.steps} steps are done in {seconds:.1f} s, height {watch.height}")
    return kill, seconds


async def _kill_leader(cluster: LocalCluster, watch: Watch, load: Load, progress: Progress, kill: _Kill) -> None:
    if len(cluster.nodes) < 4:
        progress.say("one node tolerates no fault: nothing is killed")
        return
    await load.reached.wait()
    victim = await watch.leader()
    kill.leader, height, pid = victim.name, watch.height, victim.pid
    killed_s = time.monotonic()
    await cluster.kill(victim)
    progress.say(f"SIGKILL to {victim.name} (process {pid}), which leads, at height {height}")
    await _resumed(watch, height)
    await asyncio.sleep(LOAD_BEHIND_S)
    kill.gap_s = watch.gap_s(killed_s)
    told = "did not resume" if kill.gap_s is None else f"resumed after {kill.gap_s:.2f} s"
    progress.say(f"commits {told}; {(await watch.leader()).name} leads now, height {watch.height}")
    await _restart(cluster, watch, victim, progress, kill)


async def _resumed(watch: Watch, height: int) -> None:
    """Until two heights above those that may have been decided before the kill, or long enough."""
    deadline_s = time.monotonic() + RESUME_TIMEOUT_S
    settled_s = time.monotonic() + 0.25  # blocks whose votes were already on their way
    while time.monotonic() < deadline_s:
        late = [at_s for at_s, seen in watch.advances if at_s > settled_s and seen > height]
        if len(late) >= 2:
            return
        await asyncio.sleep(TICK_S / 4)


async def _restart(cluster: LocalCluster, watch: Watch, victim: ClusterNode, progress: Progress, kill: _Kill) -> None:
    height, started_s = watch.height, time.monotonic()
    await cluster.start(victim)
    progress.say(f"{victim.name} is started again; the others are at height {height}")
    await cluster.wait_ready(nodes=[victim.plan.index])
    while watch.heights.get(victim.name, -1) < max(height, watch.height - LAG_MAX):
        if time.monotonic() - started_s > RESUME_TIMEOUT_S:
            progress.say(f"{victim.name} has not caught up")
            return
        await asyncio.sleep(TICK_S / 4)
    kill.caught_up_s = time.monotonic() - started_s
    told = f"{victim.name} has caught up in {kill.caught_up_s:.1f} s, its start included"
    progress.say(f"{told}: height {watch.heights[victim.name]} of {watch.height}")


def _check_kill(kill: _Kill) -> list[Check]:
    if not kill.leader:
        return []
    gap = "they did not" if kill.gap_s is None else f"after {kill.gap_s:.2f} s"
    back = "it did not" if kill.caught_up_s is None else f"in {kill.caught_up_s:.1f} s, its start included"
    return [
        Check(
            f"commits resume within {GAP_S_MAX:g} s of the leader's ({kill.leader}) death",
            kill.gap_s is not None and kill.gap_s <= GAP_S_MAX,
            gap,
        ),
        Check(f"{kill.leader} catches up once restarted", kill.caught_up_s is not None, back),
    ]


def _check_chains(transport: ClusterTransport, chains: dict[str, dict[str, dict[str, Any]]]) -> list[Check]:
    """No accepted transaction is lost on any node, and all nodes decided alike on each."""
    first = next(iter(chains.values()))
    lost = [name for name, chain in chains.items() for one in transport.sent if one.tx_id.hex() not in chain]
    outcomes = [{tx_id: (one["height"], one["code"]) for tx_id, one in chain.items()} for chain in chains.values()]
    told = {one.tx_id.hex(): one.code for one in transport.sent}
    different = sum(1 for tx_id, code in told.items() if tx_id in first and first[tx_id]["code"] != code)
    alike = all(outcome == outcomes[0] for outcome in outcomes)
    return [
        Check(
            "no accepted transaction is lost",
            not lost,
            f"{len(transport.sent)} of them, each on all {len(chains)} nodes" if not lost else f"{len(lost)} are",
        ),
        Check(
            "every node decided alike",
            alike and not different,
            "same transactions, heights and outcomes" if alike and not different else "they differ",
        ),
    ]


def _check_roots(statuses: dict[str, dict[str, Any]] | None) -> Check:
    promise = "all nodes have the same height and certified state root"
    if statuses is None:
        return Check(promise, False, "not in time")
    root = next(iter(statuses.values()))["state_root"]
    return Check(promise, True, f"height {root['height']}, root {root['root'][:18]}… on {len(statuses)} nodes")


def _check_outcomes(load: Load) -> Check:
    tally = load.tally
    kept = not tally.wrong and tally.done == tally.steps
    more = f" and {len(tally.wrong) - 3} more" if len(tally.wrong) > 3 else ""
    detail = f"{tally.done} of {tally.steps} steps" if kept else "; ".join(tally.wrong[:3]) + more
    return Check("every step ended as expected", kept, detail)
