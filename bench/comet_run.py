"""One run against CometBFT: calibrate, start four validators, load, drain, read back, check, calibrate again.

The method is that of bench/run.py: open loop, latency from the scheduled time to a header seen at f+1 nodes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import calibrate, machine
from bench.checks import Check
from bench.client import lag_p99_ms, read_out
from bench.comet_chain import HeaderWatch, committed, common_height, counters, drained, heads, height_of
from bench.comet_client import TX_SIZE_BYTES, Order
from bench.comet_nodes import NODES, SETUPS, Nodes, Setup, running, versions
from bench.comet_report import Config, Results
from bench.figures import Sent, committed_per_s, latencies, seen_at, tally
from bench.processes import answer_of, end, going_first, processor_s, send_start, start_client
from bench.schedule import due_times, window
from bench.series import series
from bench.stage import Say, own_folder

SEED = 1
CLIENTS = 2
START_AHEAD_S = 1.0  # clients get the start time this long before
WATCHED = (NODES - 1) // 3 + 1  # f+1
KIND = "pair"


@dataclass(frozen=True, slots=True)
class Options:
    """What to run; see the command line's help. `share` of the limit takes the place of `rate` once it is known."""

    setup: str = "stock"
    rate: float = 500.0
    share: float | None = None
    duration_s: float = 20.0
    warmup_s: float = 5.0

    @property
    def load_s(self) -> float:
        return self.warmup_s + self.duration_s


@dataclass(frozen=True, slots=True)
class Measured:
    """Raw material of one run. Heights first..last hold the load; `nodes_s` is processor time within the window."""

    start_s: float
    first: int
    last: int
    watches: list[HeaderWatch]
    outs: list[list[tuple[bytes, int | None]]]
    clients: list[dict[str, Any]]
    nodes_s: float
    observer_s: float
    emptied: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What the chain holds: each transaction's fate, the heights by transaction, and those executed more than once."""

    sent: list[Sent]
    heights: dict[bytes, int]
    again: int


async def run(options: Options, program: Path, say: Say) -> tuple[Config, Results]:
    """Raises BenchError when there is no result to speak of."""
    say("calibrating: signature checks alone")
    limit_before = await asyncio.to_thread(calibrate.limit, NODES)
    if options.share is not None:
        options = replace(options, rate=options.share * limit_before)
    say(
        f"limit L = {limit_before:.0f} tx/s; starting {NODES} CometBFT nodes, {options.setup}, "
        f"to offer {options.rate:.0f} tx/s"
    )
    setup, folder = SETUPS[options.setup], own_folder("comet")
    folder.mkdir(parents=True)
    try:
        async with running(program, setup, folder) as nodes:
            measured = await _measure(options, setup, nodes, folder, say)
            say("reading the chain back")
            found = await _join(options, measured, nodes.urls[0])
            checks = await _check(setup, measured, found, nodes.urls)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    limit_after = await asyncio.to_thread(calibrate.limit, NODES)
    return _config(options, versions(program)), _results(options, measured, found, checks, limit_before, limit_after)


async def _measure(options: Options, setup: Setup, nodes: Nodes, folder: Path, say: Say) -> Measured:
    urls = nodes.urls
    async with AsyncExitStack() as stack:
        clients = [
            await start_client("bench.comet_client", _order(options, setup, urls, folder, index).to_json())
            for index in range(CLIENTS)
        ]
        for client in clients:
            stack.push_async_callback(end, client)
        say(f"making {len(_times(options))} transactions beforehand")
        await asyncio.gather(*map(answer_of, clients))
        watches = [HeaderWatch(url) for url in urls[:WATCHED]]
        followers = [stack.enter_context(_Follower(watch)) for watch in watches]
        await asyncio.gather(*(follower.subscribed() for follower in followers))
        first, observer_s = await height_of(urls[0]) + 1, processor_s()
        stack.enter_context(going_first())
        start_s = time.monotonic() + START_AHEAD_S
        for client in clients:
            send_start(client, start_s)
        reports = [asyncio.create_task(answer_of(client)) for client in clients]
        for report in reports:
            stack.callback(report.cancel)
        await asyncio.sleep(start_s + options.warmup_s - time.monotonic())
        before_s = nodes.processor_s()
        say(f"warm, height {watches[0].last_height}; measuring for {options.duration_s:g} s")
        await asyncio.sleep(start_s + options.load_s - time.monotonic())
        nodes_s, observer_s = nodes.processor_s() - before_s, processor_s() - observer_s
        say(f"height {watches[0].last_height}; draining")
        results = await asyncio.gather(*reports)
        emptied = await drained(urls)
        last = await common_height(urls)
        await asyncio.gather(*(follower.reached(last) for follower in followers))
    outs = [read_out(_out(folder, index)) for index in range(CLIENTS)]
    return Measured(start_s, first, last, watches, outs, list(results), nodes_s, observer_s, emptied)


class _Follower:
    """A watch that follows its node while the context lasts."""

    def __init__(self, watch: HeaderWatch) -> None:
        self._watch, self._began = watch, asyncio.Event()

    def __enter__(self) -> _Follower:
        self._task = asyncio.create_task(self._watch.follow(self._began))
        return self

    def __exit__(self, *_: object) -> None:
        self._task.cancel()

    async def subscribed(self) -> None:
        await self._until(self._began.is_set)

    async def reached(self, height: int) -> None:
        await self._until(lambda: self._watch.last_height >= height)

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Raises what ended the watch, or TimeoutError."""
        async with asyncio.timeout(5.0):
            while not holds():
                await asyncio.wait([self._task], timeout=0.01)
                if self._task.done():
                    self._task.result()


def _order(options: Options, setup: Setup, urls: Sequence[str], folder: Path, index: int) -> Order:
    return Order(
        parent_pid=os.getpid(),
        seed=SEED,
        rate=options.rate,
        duration_s=options.load_s,
        index=index,
        clients=CLIENTS,
        one_namespace=setup.one_namespace,
        signed=setup.signed,
        urls=list(urls[index::CLIENTS]),
        out=str(_out(folder, index)),
    )


def _out(folder: Path, index: int) -> Path:
    return folder / f"client-{index}.out"


def _times(options: Options) -> list[float]:
    return due_times(options.rate, options.load_s, poisson=False, seed=SEED)


async def _join(options: Options, measured: Measured, url: str) -> Found:
    """What became of each transaction, in the order of the schedule, by the chain of one node."""
    heights, again = await committed(url, measured.first, measured.last)
    seen = seen_at([watch.seen_s for watch in measured.watches], WATCHED)
    sent = []
    for number, due_s in enumerate(_times(options)):
        tx_id, door_code = measured.outs[number % CLIENTS][number // CLIENTS]
        height = heights.get(tx_id)
        commit_s = None if height is None or height not in seen else seen[height] - measured.start_s
        sent.append(Sent(due_s, KIND, door_code, commit_s, 0))
    return Found(sent, heights, again)


async def _check(setup: Setup, measured: Measured, found: Found, urls: Sequence[str]) -> list[Check]:
    """Count once more on the chain of a node that was not watched, and compare all nodes."""
    ends = await heads(urls, measured.last)
    other, _ = await committed(urls[-1], measured.first, measured.last)
    counted = sum(item.commit_s is not None for item in found.sent)
    on_chain = sum(
        item.commit_s is not None and measured.outs[number % CLIENTS][number // CLIENTS][0] in other
        for number, item in enumerate(found.sent)
    )
    checks = [
        Check("the last block's hash is the same on all nodes", len({block for block, _ in ends}) == 1,
              f"height {measured.last}"),
        Check("the application's hash is the same on all nodes", len({app for _, app in ends}) == 1, ends[0][1]),
        Check("what was counted is on the last node's chain", on_chain == counted, f"{on_chain} of {counted}"),
    ]  # fmt: skip
    if setup.signed:
        checks.append(signatures_check([await counters(url) for url in urls]))
    return checks


def signatures_check(counted: Sequence[dict[str, int]]) -> Check:
    """Of the node with the least to spare."""
    worst = min(counted, key=lambda item: item["signatures_checked"] - item["executed"])
    checked, executed, refused = worst["signatures_checked"], worst["executed"], worst["refused"]
    return Check(
        "each node checked every signature, and all were valid",
        checked >= executed and not refused,
        f"{checked} checked >= {executed} executed, {refused} refused",
    )


def _config(options: Options, built_from: dict[str, str]) -> Config:
    return Config(
        machine=machine.processor(),
        cores=machine.cores(),
        go=built_from["go"],
        cometbft=built_from["cometbft"],
        commit=machine.commit(),
        setup=options.setup,
        nodes=NODES,
        rate=options.rate,
        tx_size_bytes=TX_SIZE_BYTES,
        warmup_s=options.warmup_s,
        duration_s=options.duration_s,
        clients=CLIENTS,
    )


def _results(
    options: Options, measured: Measured, found: Found, checks: list[Check], limit_before: float, limit_after: float
) -> Results:
    chosen = window(_times(options), options.warmup_s, options.load_s)
    counted = [found.sent[number] for number in chosen]
    seen = seen_at([watch.seen_s for watch in measured.watches], WATCHED)
    seen_s = [at_s - measured.start_s for at_s in seen.values()]
    blocks = {height for height, at_s in zip(seen, seen_s, strict=True) if options.warmup_s <= at_s < options.load_s}
    held = [height for height in found.heights.values() if height in blocks]
    machine_s = options.duration_s * machine.cores()
    load_machine_s = options.load_s * machine.cores()
    return Results(
        tally=tally(counted),
        committed_per_s=committed_per_s(found.sent, options.warmup_s, options.load_s),
        latencies=latencies(counted),
        processor_us=measured.nodes_s * 1e6 / max(len(held), 1) / NODES,
        machine_share=measured.nodes_s / machine_s,
        blocks_per_s=len(blocks) / options.duration_s,
        txs_per_block=len(held) / max(len(set(held)), 1),
        limit_before=limit_before,
        limit_after=limit_after,
        generator_lag_p99_ms=lag_p99_ms(measured.clients),
        generator_share=sum(client["processor_s"] for client in measured.clients) / load_machine_s,
        observer_share=measured.observer_s / load_machine_s,
        failed_posts=sum(client["failed_posts"] for client in measured.clients),
        emptied=measured.emptied,
        again=found.again,
        checks=checks,
        series=series(found.sent, seen_s, options.warmup_s, options.load_s, options.warmup_s),
    )
