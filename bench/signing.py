"""A client's share of a run, signed: all of it beforehand, or ahead of the load in a process of its own.

Beforehand is what measures best, since nothing is signed under the load. A long run would need gigabytes for it and
validity over all its heights, which every node then has to remember: there a signer, started by the client as
`python -m bench.signing`, keeps some seconds ahead with the validity that the chain has by default. It is slowed by its
reader alone, who takes no more than is needed soon.

Must not know: when anything is posted, or committed.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from bench.mix import World
from bench.schedule import due_times
from ledger.crypto import HASH_SIZE_BYTES, KeyPair
from ledger.transaction import Transaction
from node.cluster.child import tie_to_parent

AHEAD_S = 5.0  # of load that is signed and not yet due
HEIGHT_EVERY_S = 1.0  # between looks at how far the chain is
VALID_FOR_SHARE = 0.9  # of the validity that the chain allows, counted from the height last seen
_HEAD_SIZE_BYTES = 4 + HASH_SIZE_BYTES


@dataclass(frozen=True, slots=True)
class Order:
    """What a client is told. Its share is every `clients`-th transaction from `index` on.

    With `is_ahead` they are signed during the run, valid for `validity_heights` from then on.
    """

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
    validity_heights: int
    is_ahead: bool
    urls: list[str]
    out: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def times(self) -> list[float]:
        return due_times(self.rate, self.duration_s, poisson=self.poisson, seed=self.seed)

    def world(self, count: int) -> World:
        return World(self.seed, self.mix, count, self.spacing, self.size_bytes, self.accounts)


@dataclass(slots=True)
class Share:
    """When each transaction is due, its bytes until it is posted, and its id. `ready` of them are signed."""

    due_s: list[float]
    wires: list[bytes]
    ids: list[bytes]
    ready: int


def sign_share(order: Order) -> Share:
    """All of it at once."""
    times = order.times()
    txs = list(_signed(order, order.world(len(times)), lambda: order.validity_heights))
    due_s = times[order.index :: order.clients]
    return Share(due_s, [tx.wire for tx in txs], [tx.id for tx in txs], len(txs))


def unsigned_share(order: Order) -> Share:
    due_s = order.times()[order.index :: order.clients]
    return Share(due_s, [b""] * len(due_s), [b""] * len(due_s), 0)


def _signed(order: Order, world: World, valid_until: Callable[[], int]) -> Iterator[Transaction]:
    keys, chain_id = world.keys, bytes.fromhex(order.chain_id)
    for number in range(order.index, world.count, order.clients):
        yield sign(world, keys, chain_id, number, valid_until())


def sign(world: World, keys: dict[str, KeyPair], chain_id: bytes, number: int, valid_until: int) -> Transaction:
    """The `number`-th transaction of the run."""
    call = world.operation(number)
    return Transaction.create(
        keys[call.signer], chain_id, call.operation, call.fields, nonce=world.nonce(number), valid_until=valid_until
    )


class Signer:
    """The process that signs ahead, from its reader's side."""

    def __init__(self, share: Share, ahead_txs: int) -> None:
        self._share, self._ahead_txs = share, max(1, ahead_txs)
        self._wanted = asyncio.Event()
        self._position = 0
        self.full = asyncio.Event()  # as much is signed as may be, or all

    async def run(self, order: Order) -> None:
        """Until all is signed. The process dies with this one."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.signing", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write((json.dumps(asdict(order) | {"parent_pid": os.getpid()}) + "\n").encode())
            await self.take(process.stdout)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def take(self, reader: asyncio.StreamReader) -> None:
        """Fill the share, never more than is wanted ahead of what was posted."""
        share = self._share
        while share.ready < len(share.wires):
            while share.ready >= self._position + self._ahead_txs:
                self.full.set()
                self._wanted.clear()
                await self._wanted.wait()
            head = await reader.readexactly(_HEAD_SIZE_BYTES)
            share.ids[share.ready] = head[4:]
            share.wires[share.ready] = await reader.readexactly(int.from_bytes(head[:4], "big"))
            share.ready += 1
        self.full.set()

    def posted(self, position: int) -> None:
        """Everything before `position` was posted."""
        self._position = position
        self._wanted.set()


def write_signed(out: BinaryIO, tx: Transaction) -> None:
    """As `Signer.take` reads it."""
    out.write(len(tx.wire).to_bytes(4, "big") + tx.id + tx.wire)


class _Heights:
    """The height up to which what is signed now may be executed."""

    def __init__(self, url: str, validity_heights: int) -> None:
        self._address = url.removeprefix("http://").rstrip("/")
        self._valid_for = int(validity_heights * VALID_FOR_SHARE)
        self._height, self._due_s = 0, 0.0

    def __call__(self) -> int:
        if time.monotonic() >= self._due_s:
            connection = http.client.HTTPConnection(self._address, timeout=10)
            try:
                connection.request("GET", "/v1/status")
                found: dict[str, Any] = json.loads(connection.getresponse().read())
            finally:
                connection.close()
            self._height, self._due_s = found["height"], time.monotonic() + HEIGHT_EVERY_S
        return self._height + self._valid_for


def main() -> int:
    order = Order(**json.loads(sys.stdin.readline()))
    tie_to_parent(order.parent_pid)
    world = order.world(len(order.times()))
    try:
        for tx in _signed(order, world, _Heights(order.urls[0], order.validity_heights)):
            write_signed(sys.stdout.buffer, tx)
    except BrokenPipeError:  # the client has ended
        return 1
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
