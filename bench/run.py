"""One run: calibrate, start a cluster, set up, load, drain, read back, check, calibrate again.

Every process it starts dies with it: nodes through LocalCluster, clients through their parent's death signal.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import calibrate, machine, observer
from bench.checks import Check, all_checks
from bench.client import MSGPACK, POST_INTERVAL_S, Order, read_out
from bench.figures import Latencies, Sent, committed_per_s, latencies, percentile, seen_at, tally
from bench.http import Connection
from bench.mix import BALANCE_START, CURRENCY, FAMILY, MIXES, PATIENTS, Call, World
from bench.observer import BenchError, Watch
from bench.processes import answer_of, end, processor_s, send_start, start_client
from bench.report import Config, Costs, Results
from bench.schedule import due_times, spacing_cycles, window
from ledger.codec import encode
from ledger.errors import Code
from ledger.genesis import Parameters
from ledger.transaction import Transaction
from node.cluster.plan import development_modules
from node.cluster.runner import ClusterNode, LocalCluster

RESULTS = Path(__file__).resolve().parent / "results"

# Signed beforehand, a run's transactions must stay valid to its end: more heights than the default window holds.
VALIDITY_HEIGHTS_MAX = 100_000
STEP_SPACING_S = 1.5  # between two steps on one pack or record: three times the latency that is the target
SETUP_TIMEOUT_S = 60.0
SETUP_POST_BYTES_MAX = 64 * 1024  # three bulk commissionings, or two hundred policies
SETUP_PAUSE_S = 0.05
START_AHEAD_S = 1.0  # clients get the start time this long before

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What to run; see the command line's help."""

    nodes: int = 4
    rate: float = 2_000.0
    duration_s: float = 20.0
    warmup_s: float = 5.0
    clients: int = 2
    mix: str = "standard"
    poisson: bool = False
    seed: int = 1

    @property
    def load_s(self) -> float:
        return self.warmup_s + self.duration_s

    def world(self) -> World:
        times = due_times(self.rate, self.load_s, poisson=self.poisson, seed=self.seed)
        spacing = spacing_cycles(self.rate, len(MIXES[self.mix]), STEP_SPACING_S)
        return World(self.seed, self.mix, len(times), spacing)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the nodes had used at one moment, in the order of the nodes."""

    at_s: float
    statuses: list[dict[str, Any]]
    disk_bytes: list[int]
    written_bytes: list[int]

    def total(self, *path: str) -> float:
        """The sum over the nodes of one number of their status."""
        found = 0.0
        for value in self.statuses:
            for name in path:
                value = value[name]
            found += value  # type: ignore[operator]
        return found

    def sent_bytes(self) -> int:
        return sum(peer["bytes_out"] for status in self.statuses for peer in status["peers"])


@dataclass(frozen=True, slots=True)
class Measured:
    """Raw material of one run."""

    world: World
    times: list[float]
    start_s: float
    watches: list[Watch]
    outs: list[list[tuple[bytes, int | None]]]
    clients: list[dict[str, Any]]
    observer_s: float
    before: Usage
    after: Usage
    drained: Usage


async def run(options: Options, say: Say) -> tuple[Config, Results]:
    """Raises BenchError or ClusterError when there is no result to speak of."""
    say("calibrating: signature checks alone")
    limit_before = await asyncio.to_thread(calibrate.limit, options.nodes)
    say(f"limit L = {limit_before:.0f} tx/s; starting {options.nodes} nodes")
    world = options.world()
    folder = RESULTS / f"cluster-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        cluster = LocalCluster.create(
            folder,
            options.nodes,
            proxies=False,
            parameters=replace(Parameters(), validity_heights_max=VALIDITY_HEIGHTS_MAX),
            modules=world.genesis_modules(development_modules()),
        )
        async with cluster:
            await cluster.wait_ready()
            urls = [node.api_url for node in cluster.nodes]
            await _until_ready(urls)
            measured = await _measure(options, world, cluster, say)
            say("reading the chain back")
            sent = await _join(options, measured, urls)
            checks = await _check(options, measured, urls, sent, world)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    limit_after = await asyncio.to_thread(calibrate.limit, options.nodes)
    return _config(options, measured, sent), _results(options, measured, sent, checks, limit_before, limit_after)


async def _until_ready(urls: Sequence[str]) -> None:
    async with asyncio.timeout(SETUP_TIMEOUT_S):
        while True:
            found = await observer.statuses(urls)
            if all(len(item["peers"]) >= len(urls) - 1 for item in found):
                return
            await asyncio.sleep(0.1)


async def _set_up(world: World, chain_id: bytes, urls: Sequence[str], say: Say) -> None:
    """Commit what the load builds on; every one of it must be accepted."""
    txs = [_sign(world, chain_id, number, call) for number, call in enumerate(world.setup())]
    if not txs:
        return
    say(f"setting up: {len(txs)} transactions (packs in bulk, policies)")
    async with asyncio.timeout(SETUP_TIMEOUT_S):
        await _send_all(urls[0], [tx.wire for tx in txs])
    found = await observer.drained(urls)
    codes = await observer.committed(urls[-1], 1, found[-1]["height"])
    refused = [codes.get(tx.id) for tx in txs if codes.get(tx.id, (0, 1))[1] != 0]
    if refused:
        raise BenchError(f"{len(refused)} transactions of the set-up failed, the first as {refused[0]}")


async def _send_all(url: str, wires: Sequence[bytes]) -> None:
    """Until a node has taken every one; what it has no room for is sent again."""
    connection = await Connection.open(url)
    left = deque(wires)
    try:
        while left:
            post: list[bytes] = []
            while left and (not post or sum(map(len, post)) + len(left[0]) <= SETUP_POST_BYTES_MAX):
                post.append(left.popleft())
            status, body = await connection.request("POST", "/v1/transactions", encode(tuple(post)), MSGPACK)
            outcomes = json.loads(body)
            if status != 200:
                raise BenchError(f"the set-up was refused: {status} {outcomes}")
            for wire, outcome in zip(post, outcomes, strict=True):
                if outcome["code"] == Code.POOL_FULL:
                    left.append(wire)
                elif outcome["code"]:
                    raise BenchError(f"the set-up was refused: {outcome}")
            await asyncio.sleep(SETUP_PAUSE_S)
    finally:
        connection.close()


def _sign(world: World, chain_id: bytes, number: int, call: Call) -> Transaction:
    nonce = world.name("set-up nonce", number)[1:17]
    return Transaction.create(
        world.keys[call.signer], chain_id, call.operation, call.fields, nonce=nonce, valid_until=VALIDITY_HEIGHTS_MAX
    )


async def _measure(options: Options, world: World, cluster: LocalCluster, say: Say) -> Measured:
    urls = [node.api_url for node in cluster.nodes]
    async with AsyncExitStack() as stack:
        clients = [await _start_client(options, world, cluster, index) for index in range(options.clients)]
        for client in clients:
            stack.push_async_callback(end, client)
        await _set_up(world, bytes.fromhex(cluster.plan.chain_id), urls, say)
        say(f"signing {world.count} transactions beforehand")
        await asyncio.gather(*map(answer_of, clients))
        first = (await observer.drained(urls))[0]["height"] + 1
        watches = [Watch(url, next_height=first) for url in urls[: (options.nodes - 1) // 3 + 1]]
        followers = [asyncio.create_task(watch.follow()) for watch in watches]
        for follower in followers:
            stack.callback(follower.cancel)
        used_s = processor_s()
        start_s = time.monotonic() + START_AHEAD_S
        for client in clients:
            send_start(client, start_s)
        reports = [asyncio.create_task(answer_of(client)) for client in clients]
        before = await _at(start_s + options.warmup_s, options, cluster, watches[0], start_s, say)
        after = await _at(start_s + options.load_s, options, cluster, watches[0], start_s, say)
        used_s = processor_s() - used_s
        say("draining")
        results = await asyncio.gather(*reports)
        await observer.caught_up(watches, followers, (await observer.drained(urls))[0]["height"])
        drained = await _usage(cluster)
    times = due_times(options.rate, options.load_s, poisson=options.poisson, seed=options.seed)
    outs = [read_out(_out(cluster, index)) for index in range(options.clients)]
    return Measured(world, times, start_s, watches, outs, list(results), used_s, before, after, drained)


def _out(cluster: LocalCluster, index: int) -> Path:
    return cluster.directory / f"client-{index}.out"


async def _start_client(
    options: Options, world: World, cluster: LocalCluster, index: int
) -> asyncio.subprocess.Process:
    urls = [node.api_url for node in cluster.nodes]
    order = Order(
        parent_pid=os.getpid(),
        seed=options.seed,
        mix=options.mix,
        rate=options.rate,
        duration_s=options.load_s,
        poisson=options.poisson,
        spacing=world.spacing,
        index=index,
        clients=options.clients,
        chain_id=cluster.plan.chain_id,
        valid_until=VALIDITY_HEIGHTS_MAX,
        urls=urls[index :: options.clients] or [urls[index % len(urls)]],
        out=str(_out(cluster, index)),
    )
    return await start_client("bench.client", order.to_json())


async def _at(
    moment_s: float, options: Options, cluster: LocalCluster, watch: Watch, start_s: float, say: Say
) -> Usage:
    """The nodes' usage at that moment; says how it goes every other second until then."""
    seen, said_s = sum(watch.tx_counts.values()), time.monotonic()
    while (left_s := moment_s - time.monotonic()) > 0:
        await asyncio.sleep(min(2.0, left_s))
        now_s, total = time.monotonic(), sum(watch.tx_counts.values())
        elapsed_s = max(0.0, now_s - start_s)
        phase = "warm-up" if elapsed_s < options.warmup_s else "load"
        say(
            f"{phase}: {elapsed_s:.0f} of {options.load_s:g} s, height {watch.next_height - 1}, "
            f"{(total - seen) / max(now_s - said_s, 1e-9):.0f} tx/s, {max(0.0, options.load_s - elapsed_s):.0f} s left"
        )
        seen, said_s = total, now_s
    return await _usage(cluster)


async def _usage(cluster: LocalCluster) -> Usage:
    at_s = time.monotonic()
    found = await observer.statuses([node.api_url for node in cluster.nodes])
    return Usage(
        at_s,
        found,
        [observer.folder_size_bytes(node.home) for node in cluster.nodes],
        [_written(node) for node in cluster.nodes],
    )


def _written(node: ClusterNode) -> int:
    return 0 if node.pid is None else observer.written_bytes(node.pid)


async def _join(options: Options, measured: Measured, urls: Sequence[str]) -> list[Sent]:
    """What became of each transaction, in the order of the schedule."""
    first = measured.watches[0].next_height - len(measured.watches[0].seen_s)
    last = measured.drained.statuses[0]["height"]
    on_chain = await observer.committed(urls[0], first, last)
    seen = seen_at([watch.seen_s for watch in measured.watches], len(measured.watches))
    world, found = measured.world, []
    for number, due_s in enumerate(measured.times):
        client, place = number % options.clients, number // options.clients
        tx_id, door_code = measured.outs[client][place]
        height, code = on_chain.get(tx_id, (None, 0))
        commit_s = None if height is None or height not in seen else seen[height] - measured.start_s
        found.append(Sent(due_s, world.operation(number).kind, door_code, commit_s, code))
    return found


async def _check(
    options: Options, measured: Measured, urls: Sequence[str], sent: Sequence[Sent], world: World
) -> list[Check]:
    """Count once more on the chain of a node that was not watched, and compare all nodes."""
    height = measured.drained.statuses[-1]["height"]
    on_chain = await observer.committed(urls[-1], 1, height)
    ids = [
        measured.outs[number % options.clients][number // options.clients][0]
        for number, item in enumerate(sent)
        if item.commit_s is not None and item.rule_code == 0
    ]
    counted = sum(on_chain.get(tx_id, (0, 1))[1] == 0 for tx_id in ids)
    development = development_modules()
    owners = [item["owner"] for item in development["payments"]["balances"] if item["currency"] == CURRENCY]
    supply = sum(item["amount"] for item in development["payments"]["balances"] if item["currency"] == CURRENCY)
    owners += [world.patient(number).hex() for number in range(PATIENTS)]
    supply += PATIENTS * BALANCE_START
    return await all_checks(urls, measured.drained.statuses, len(ids), counted, owners, supply)


def _config(options: Options, measured: Measured, sent: Sequence[Sent]) -> Config:
    chosen = window(measured.times, options.warmup_s, options.load_s)
    calls = [measured.world.operation(number) for number in chosen]
    kinds = {kind: sum(call.kind == kind for call in calls) / len(calls) for kind in FAMILY}
    return Config(
        machine=machine.processor(),
        cores=os.cpu_count() or 1,
        python=platform.python_version(),
        commit=machine.commit(),
        nodes=options.nodes,
        faults="none",
        rate=options.rate,
        schedule="Poisson" if options.poisson else "fixed",
        mix=options.mix,
        shares={kind: share for kind, share in kinds.items() if share},
        senders=len({call.signer for call in calls}),
        tx_size_bytes=sum(client["bytes"] for client in measured.clients) / max(len(sent), 1),
        warmup_s=options.warmup_s,
        duration_s=options.duration_s,
        clients=options.clients,
        seed=options.seed,
        post_interval_ms=POST_INTERVAL_S * 1_000,
        view_timeout_ms=Parameters().view_timeout_ms,
    )


def _results(
    options: Options,
    measured: Measured,
    sent: Sequence[Sent],
    checks: list[Check],
    limit_before: float,
    limit_after: float,
) -> Results:
    chosen = window(measured.times, options.warmup_s, options.load_s)
    counted = [sent[number] for number in chosen]
    found: Latencies = latencies(counted)
    machine_s = options.load_s * (os.cpu_count() or 1)
    lags = sorted(lag for client in measured.clients for lag in client["lags_ms"])
    return Results(
        tally=tally(counted),
        committed_per_s=committed_per_s(sent, options.warmup_s, options.load_s),
        latencies=found,
        costs=_costs(measured),
        limit_before=limit_before,
        limit_after=limit_after,
        generator_lag_p99_ms=percentile(lags, 0.99),
        generator_share=sum(client["processor_s"] for client in measured.clients) / machine_s,
        observer_share=measured.observer_s / machine_s,
        failed_posts=sum(client["failed_posts"] for client in measured.clients),
        synced_txs=round(measured.drained.total("counters", "synced_transactions")),
        checks=checks,
    )


def _costs(measured: Measured) -> Costs:
    before, after, drained = measured.before, measured.after, measured.drained

    def grown(*path: str) -> float:
        return after.total(*path) - before.total(*path)

    executed = max(grown("counters", "transactions"), 1.0)  # over all nodes: a transaction counts once for each
    blocks = max(grown("counters", "blocks"), 1.0)
    seconds, nodes = after.at_s - before.at_s, len(after.statuses)
    signature_us = grown("account", "signature_s") / executed * 1e6
    processor_us = grown("account", "process_s") / executed * 1e6
    # The store rewrites in bursts, so disk is measured to the end, over all that was executed since.
    to_end = max(drained.total("counters", "transactions") - before.total("counters", "transactions"), 1.0)
    return Costs(
        machine_share=grown("account", "process_s") / seconds / (os.cpu_count() or 1),
        flush_share=grown("account", "flush_s") / seconds / nodes,
        processor_us=processor_us,
        signature_us=signature_us,
        other_us=processor_us - signature_us,
        signature_share=signature_us / max(processor_us, 1e-9),
        wire_bytes=(after.sent_bytes() - before.sent_bytes()) / executed,
        disk_bytes=(sum(drained.disk_bytes) - sum(before.disk_bytes)) / to_end,
        written_bytes=(sum(drained.written_bytes) - sum(before.written_bytes)) / to_end,
        flushes_per_s=grown("account", "flushes") / seconds / nodes,
        txs_per_block=executed / blocks,
        blocks_per_s=blocks / nodes / seconds,
        views=max(status["view"] for status in drained.statuses),
    )
