"""The stage for a run: a cluster as the options want it, and what must be committed before the load.

Must not know: the load, or measurements.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from bench import accounts, observer
from bench.client import MSGPACK
from bench.http import Connection
from bench.mix import Call, World
from bench.observer import BenchError
from bench.options import Options
from ledger.codec import encode
from ledger.errors import Code
from ledger.genesis import Parameters
from ledger.transaction import Transaction
from node.cluster.plan import development_modules
from node.cluster.runner import LocalCluster

TIMEOUT_S = 60.0  # for all nodes to know each other, and for the set-up
TXS_PER_S_MIN = 5  # of the set-up beyond that: a long run has hundreds of lots to commission
VALID_FOR = 900  # of the set-up, from its beginning: as long as a chain allows by default, with a margin
READY_TIMEOUT_S = 120.0  # of nodes that share two cores with fifteen others
POST_BYTES_MAX = 64 * 1024  # three bulk commissionings, or two hundred policies
PAUSE_S = 0.05

Say = Callable[[str], None]
RESULTS = Path(__file__).resolve().parent / "results"


def own_folder(kind: str) -> Path:
    """Where a run of this process puts its cluster, not there yet. What killed runs left is removed."""
    for path in (*RESULTS.glob("cluster-*"), *RESULTS.glob("comet-*")):
        process = path.name.rpartition("-")[2]
        if process.isdigit() and (int(process) == os.getpid() or not _lives(int(process))):
            shutil.rmtree(path, ignore_errors=True)
    return RESULTS / f"{kind}-{os.getpid()}"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


@asynccontextmanager
async def cluster_for(options: Options, world: World, folder: Path, say: Say) -> AsyncIterator[LocalCluster]:
    """A new cluster in `folder`, ready and connected, with the delay and loss of its links in force."""
    cluster = LocalCluster.create(
        folder,
        options.nodes,
        proxies=options.proxies,
        parameters=replace(Parameters(), validity_heights_max=options.validity_heights),
        modules=world.genesis_modules(development_modules()),
    )
    if options.accounts:
        say(f"writing {options.accounts} accounts into the first state")
        await asyncio.to_thread(accounts.fund, [node.home for node in cluster.nodes], world)
    async with cluster:
        if options.proxies:  # before nodes connect: they measure the way at once, and then seldom
            cluster.delay(options.delay_ms or 0)
            cluster.lose(options.loss)
        await cluster.wait_ready(READY_TIMEOUT_S)
        await _until_connected([node.api_url for node in cluster.nodes])
        yield cluster


async def _until_connected(urls: Sequence[str]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            found = await observer.statuses(urls)
            if all(len(item["peers"]) >= len(urls) - 1 for item in found):
                return
            await asyncio.sleep(0.1)


async def set_up(world: World, chain_id: bytes, urls: Sequence[str], say: Say) -> None:
    """Commit what the load builds on; every one of it must be accepted."""
    txs = [_sign(world, chain_id, number, call) for number, call in enumerate(world.setup())]
    if not txs:
        return
    say(f"setting up: {len(txs)} transactions (packs in bulk, policies)")
    async with asyncio.timeout(TIMEOUT_S + len(txs) / TXS_PER_S_MIN):
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
            while left and (not post or sum(map(len, post)) + len(left[0]) <= POST_BYTES_MAX):
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
            await asyncio.sleep(PAUSE_S)
    finally:
        connection.close()


def _sign(world: World, chain_id: bytes, number: int, call: Call) -> Transaction:
    nonce = world.name("set-up nonce", number)[1:17]
    return Transaction.create(
        world.keys[call.signer], chain_id, call.operation, call.fields, nonce=nonce, valid_until=VALID_FOR
    )
