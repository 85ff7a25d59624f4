"""One client process: signs its share of the run beforehand, then posts what is due to its nodes on an open loop.

Talks to its parent in lines: reads one JSON document (the order), writes `{"signed": n}`, reads the start time on the
machine's monotonic clock, writes its result. Transaction ids and answers go to a file.

Must not know: when anything is committed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.http import Connection
from bench.mix import World
from bench.processes import processor_s, say
from bench.schedule import due_times
from ledger.codec import encode
from ledger.crypto import HASH_SIZE_BYTES, KeyPair
from ledger.transaction import Transaction
from node.cluster.child import tie_to_parent

# What came due since the last post goes together; its mean wait of 10 ms counts as latency. A post costs a node as much
# as a few signature checks, whatever it holds, so gateways gather too.
POST_INTERVAL_S = 0.020
CONNECTIONS_PER_NODE_MAX = 64  # posts in flight; a node that answers slower than this holds up the generator
TXS_PER_POST_MAX = 2_000  # the API's limit for one request
NOT_ANSWERED = 2**32 - 1
MSGPACK = "application/msgpack"


@dataclass(frozen=True, slots=True)
class Order:
    """What a client is told. Its share is every `clients`-th transaction from `index` on."""

    parent_pid: int
    seed: int
    mix: str
    rate: float
    duration_s: float
    poisson: bool
    spacing: int
    index: int
    clients: int
    chain_id: str
    valid_until: int
    urls: list[str]
    out: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Share:
    """Signed transactions, and when each is due."""

    due_s: list[float]
    wires: list[bytes]
    ids: list[bytes]


def sign_share(order: Order) -> Share:
    times = due_times(order.rate, order.duration_s, poisson=order.poisson, seed=order.seed)
    world = World(order.seed, order.mix, len(times), order.spacing)
    keys, chain_id = world.keys, bytes.fromhex(order.chain_id)
    numbers = range(order.index, len(times), order.clients)
    txs = [sign(world, keys, chain_id, number, order.valid_until) for number in numbers]
    return Share([times[number] for number in numbers], [tx.wire for tx in txs], [tx.id for tx in txs])


def sign(world: World, keys: dict[str, KeyPair], chain_id: bytes, number: int, valid_until: int) -> Transaction:
    """The `number`-th transaction of the run."""
    call = world.operation(number)
    return Transaction.create(
        keys[call.signer], chain_id, call.operation, call.fields, nonce=world.nonce(number), valid_until=valid_until
    )


class Generator:
    """Posts a share. Times are seconds from the start; `codes` holds each transaction's answer."""

    def __init__(self, share: Share, urls: Sequence[str]) -> None:
        self.share, self._urls = share, urls
        self.codes = array("I", [NOT_ANSWERED]) * len(share.wires)
        self.lags_s = array("d")
        self.posts = self.failed_posts = 0
        self._idle: list[list[Connection]] = [[] for _ in urls]
        self._room = [asyncio.Semaphore(CONNECTIONS_PER_NODE_MAX) for _ in urls]

    async def run(self, start_s: float) -> None:
        """From `start_s` on the monotonic clock until everything is posted and answered."""
        posting: set[asyncio.Task[None]] = set()
        due_s, count = self.share.due_s, len(self.share.wires)
        position = tick = 0
        while position < count:
            tick += 1
            planned_s = tick * POST_INTERVAL_S
            await asyncio.sleep(start_s + planned_s - time.monotonic())
            now_s = time.monotonic() - start_s
            self.lags_s.append(now_s - planned_s)
            end = position
            while end < count and due_s[end] <= now_s and end - position < TXS_PER_POST_MAX:
                end += 1
            if end > position:
                task = asyncio.create_task(self._post(tick % len(self._urls), position, end))
                posting.add(task)
                task.add_done_callback(posting.discard)
                position = end
            tick = max(tick, int(now_s / POST_INTERVAL_S))  # ticks that a stall swallowed are one late tick
        await asyncio.gather(*posting)

    async def _post(self, node: int, first: int, end: int) -> None:
        async with self._room[node]:
            try:
                connection = await self._connection(node)
                status, answer = await self._exchange(connection, self.share.wires[first:end])
            except (OSError, EOFError, TimeoutError, ValueError):
                self.failed_posts += 1
                return
            self._idle[node].append(connection)
        self.posts += 1
        self._note(first, end, status, answer)

    async def _connection(self, node: int) -> Connection:
        """One that is idle and that the node did not end meanwhile, or a new one."""
        while self._idle[node]:
            connection = self._idle[node].pop()
            if not connection.ended:
                return connection
            connection.close()
        return await Connection.open(self._urls[node])

    async def _exchange(self, connection: Connection, wires: Sequence[bytes]) -> tuple[int, bytes]:
        return await connection.request("POST", "/v1/transactions", encode(tuple(wires)), MSGPACK)

    def _note(self, first: int, end: int, status: int, answer: bytes) -> None:
        if status == 200 and b'"refused"' not in answer:
            for number in range(first, end):
                self.codes[number] = 0
            return
        document = json.loads(answer)
        for number in range(first, end):
            self.codes[number] = document[number - first]["code"] if status == 200 else problem_code(document)

    def close(self) -> None:
        for connections in self._idle:
            for connection in connections:
                connection.close()


def problem_code(document: Mapping[str, Any]) -> int:
    """The number in a problem document's `MC####`."""
    return int(str(document["code"]).removeprefix("MC"))


def read_out(path: Path) -> list[tuple[bytes, int | None]]:
    """(transaction id, answer's code or None) in the order of the share."""
    data = path.read_bytes()
    width = HASH_SIZE_BYTES + 4
    found = []
    for position in range(0, len(data), width):
        code = int.from_bytes(data[position + HASH_SIZE_BYTES : position + width], "big")
        found.append((data[position : position + HASH_SIZE_BYTES], None if code == NOT_ANSWERED else code))
    return found


def write_out(path: Path, ids: Sequence[bytes], codes: Sequence[int]) -> None:
    path.write_bytes(b"".join(tx_id + code.to_bytes(4, "big") for tx_id, code in zip(ids, codes, strict=True)))


def serve(generator: Generator, out: Path) -> int:
    """The dialogue with the parent once all is signed; the process's exit status."""
    # A collection over everything signed would hold up the generator for tens of milliseconds.
    gc.collect()
    gc.freeze()
    say({"signed": len(generator.share.wires)})
    line = sys.stdin.readline()
    if not line:
        return 1
    say(asyncio.run(_load(generator, out, float(line))))
    return 0


async def _load(generator: Generator, out: Path, start_s: float) -> dict[str, Any]:
    before_s = processor_s()
    try:
        await generator.run(start_s)
    finally:
        generator.close()
    used_s = processor_s() - before_s
    write_out(out, generator.share.ids, generator.codes)
    return {
        "lags_ms": [round(lag * 1_000, 3) for lag in generator.lags_s],
        "processor_s": used_s,
        "posts": generator.posts,
        "failed_posts": generator.failed_posts,
        "bytes": sum(map(len, generator.share.wires)),
    }


def main() -> int:
    order = Order(**json.loads(sys.stdin.readline()))
    tie_to_parent(order.parent_pid)
    return serve(Generator(sign_share(order), order.urls), Path(order.out))


if __name__ == "__main__":
    sys.exit(main())
