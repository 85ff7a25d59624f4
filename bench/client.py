"""One client process: signs its share of the run beforehand, then posts what is due to its nodes on an open loop.

Gathers what became due into one post, or with `post_txs_max` 1 sends every transaction alone, as a program would that
serves one person at a time.

Talks to its parent in lines: reads one JSON document (the order), writes `{"signed": n}`, reads the start time on the
machine's monotonic clock, writes its result. Transaction ids and answers go to a file.

Must not know: when anything is committed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.http import Connection
from bench.mix import World
from bench.schedule import due_times
from ledger.codec import encode
from ledger.crypto import HASH_SIZE_BYTES, KeyPair
from ledger.transaction import Transaction
from node.cluster.child import tie_to_parent

# What came due since the last post goes together; its mean wait of 10 ms counts as latency. A post costs a node as much
# as a few signature checks, whatever it holds, so gateways gather too.
POST_INTERVAL_S = 0.020
SINGLES_INTERVAL_S = 0.002  # between looks at what is due, when nothing is gathered
CONNECTIONS_PER_NODE_MAX = 64  # posts in flight; a node that answers slower than this holds up the generator
NOT_ANSWERED = 2**32 - 1
MSGPACK, RAW = "application/msgpack", "application/octet-stream"


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
    size_bytes: int
    accounts: int
    post_txs_max: int
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
    world = World(order.seed, order.mix, len(times), order.spacing, order.size_bytes, order.accounts)
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

    def __init__(self, share: Share, urls: Sequence[str], post_txs_max: int) -> None:
        self.share, self._urls, self._post_txs_max = share, urls, post_txs_max
        self._interval_s = post_interval_s(post_txs_max)
        self.codes = array("I", [NOT_ANSWERED]) * len(share.wires)
        self.lags_s = array("d")
        self.posts = self.failed_posts = 0
        self._idle: list[list[Connection]] = [[] for _ in urls]
        self._room = [asyncio.Semaphore(CONNECTIONS_PER_NODE_MAX) for _ in urls]

    async def run(self, start_s: float) -> None:
        """From `start_s` on the monotonic clock until everything is posted and answered."""
        posting: set[asyncio.Task[None]] = set()
        due_s, count = self.share.due_s, len(self.share.wires)
        position = tick = turn = 0
        while position < count:
            tick += 1
            planned_s = tick * self._interval_s
            await asyncio.sleep(start_s + planned_s - time.monotonic())
            now_s = time.monotonic() - start_s
            self.lags_s.append(now_s - planned_s)
            due = bisect_right(due_s, now_s, position)
            while position < due:
                end = min(due, position + self._post_txs_max)
                task = asyncio.create_task(self._post(turn % len(self._urls), position, end))
                posting.add(task)
                task.add_done_callback(posting.discard)
                position = end
                turn += 1
            tick = max(tick, int(now_s / self._interval_s))  # ticks that a stall swallowed are one late tick
        await asyncio.gather(*posting)

    async def _post(self, node: int, first: int, end: int) -> None:
        alone = self._post_txs_max == 1
        body = self.share.wires[first] if alone else encode(tuple(self.share.wires[first:end]))
        async with self._room[node]:
            try:
                connection = self._idle[node].pop() if self._idle[node] else await Connection.open(self._urls[node])
                status, answer = await connection.request("POST", "/v1/transactions", body, RAW if alone else MSGPACK)
            except (OSError, EOFError, TimeoutError, ValueError):
                self.failed_posts += 1
                return
            self._idle[node].append(connection)
        self.posts += 1
        self._note(first, end, status, answer)

    def _note(self, first: int, end: int, status: int, answer: bytes) -> None:
        if status == 202 or (status == 200 and b'"refused"' not in answer):
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


def post_interval_s(post_txs_max: int) -> float:
    return SINGLES_INTERVAL_S if post_txs_max == 1 else POST_INTERVAL_S


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


async def _load(order: Order, share: Share, start_s: float) -> dict[str, Any]:
    generator = Generator(share, order.urls, order.post_txs_max)
    before_s = _processor_s()
    try:
        await generator.run(start_s)
    finally:
        generator.close()
    used_s = _processor_s() - before_s
    write_out(Path(order.out), share.ids, generator.codes)
    return {
        "lags_ms": [round(lag * 1_000, 3) for lag in generator.lags_s],
        "processor_s": used_s,
        "posts": generator.posts,
        "failed_posts": generator.failed_posts,
        "bytes": sum(map(len, share.wires)),
    }


def _processor_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    order = Order(**json.loads(sys.stdin.readline()))
    tie_to_parent(order.parent_pid)
    share = sign_share(order)
    # A collection over everything signed would hold up the generator for tens of milliseconds.
    gc.collect()
    gc.freeze()
    _say({"signed": len(share.wires)})
    line = sys.stdin.readline()
    if not line:
        return 1
    _say(asyncio.run(_load(order, share, float(line))))
    return 0


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
