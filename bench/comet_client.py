"""One client process against CometBFT: as bench/client.py in everything but the transactions and how they are posted.

A post is one JSON-RPC batch of `broadcast_tx_sync`, which answers when the node's mempool has taken each transaction.

Must not know: when anything is committed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from hashlib import sha256, shake_256
from pathlib import Path
from typing import Any

from bench.client import Generator, serve
from bench.options import TXS_PER_POST_MAX
from bench.schedule import due_times
from bench.signing import Share
from ledger.crypto import PUBLIC_KEY_SIZE_BYTES, SIGNATURE_SIZE_BYTES, KeyPair, hash_bytes
from node.cluster.child import tie_to_parent

TX_SIZE_BYTES = 250  # as one of the standard mix, signature and key included
SENDERS = 1_000  # as there


class Door(IntEnum):
    """Why a node did not take a transaction."""

    MEMPOOL_FULL = 1
    ALREADY_THERE = 2
    NOT_VALID = 3
    OTHER = 4


@dataclass(frozen=True, slots=True)
class Order:
    """What a client is told. Its share is every `clients`-th transaction from `index` on."""

    parent_pid: int
    seed: int
    rate: float
    duration_s: float
    index: int
    clients: int
    one_namespace: bool
    signed: bool
    urls: list[str]
    out: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def pair(seed: int, number: int, size_bytes: int, *, one_namespace: bool) -> bytes:
    """The `number`-th `key=value` of a run; its value is as hard to compress as hexadecimal is."""
    name = f"{seed}/{number:012d}"
    key = f"medchain/{name}" if one_namespace else sha256(name.encode()).hexdigest()
    value = shake_256(name.encode()).hexdigest(size_bytes)
    return f"{key}={value}".encode()[:size_bytes]


def sender(seed: int, number: int) -> KeyPair:
    return KeyPair.from_seed(sha256(f"comet sender/{seed}/{number}".encode()).digest())


def transaction(order: Order, number: int, senders: Sequence[KeyPair]) -> bytes:
    """A pair, or, if senders sign, `signature || public key || pair` as our own transactions are laid out."""
    if not order.signed:
        return pair(order.seed, number, TX_SIZE_BYTES, one_namespace=order.one_namespace)
    size_bytes = TX_SIZE_BYTES - SIGNATURE_SIZE_BYTES - PUBLIC_KEY_SIZE_BYTES
    body = pair(order.seed, number, size_bytes, one_namespace=order.one_namespace)
    key = senders[number % len(senders)]
    return key.sign(body) + key.public + body


def call(tx: bytes) -> bytes:
    """Its part of a post. Without an id a node would take it for a notification and skip it."""
    return b'{"jsonrpc":"2.0","id":1,"method":"broadcast_tx_sync","params":["%s"]}' % b64encode(tx)


def make_share(order: Order) -> Share:
    """`wires` are the calls: nothing is encoded under load."""
    times = due_times(order.rate, order.duration_s, poisson=False, seed=order.seed)
    senders = [sender(order.seed, number) for number in range(SENDERS if order.signed else 0)]
    txs = [transaction(order, number, senders) for number in range(order.index, len(times), order.clients)]
    due_s = times[order.index :: order.clients]
    return Share(due_s, list(map(call, txs)), list(map(hash_bytes, txs)), len(txs))


def door_code(answer: dict[str, Any]) -> int:
    """0 if the mempool took it, else why not."""
    if "result" in answer:
        return Door.NOT_VALID if answer["result"]["code"] else 0
    text = json.dumps(answer.get("error"))
    if "mempool is full" in text:
        return Door.MEMPOOL_FULL
    return Door.ALREADY_THERE if "already exists in cache" in text else Door.OTHER


def door_codes(count: int, status: int, answer: bytes) -> list[int]:
    """Of the `count` transactions of a post."""
    if status == 200 and answer.count(b'"code":0,') == count:
        return [0] * count
    document = json.loads(answer) if status == 200 else []
    answers = document if isinstance(document, list) else [document]  # a batch of one is answered without a list
    # Anything but an answer for each is an error of the whole post.
    return [door_code(item) for item in answers] if len(answers) == count else [Door.OTHER] * count


class CometGenerator(Generator):
    """Posts to CometBFT's JSON-RPC."""

    def _request(self, wires: Sequence[bytes]) -> tuple[str, bytes, str]:
        return "/", b"[" + b",".join(wires) + b"]", "application/json"

    def _note(self, first: int, end: int, status: int, answer: bytes) -> None:
        for number, code in zip(range(first, end), door_codes(end - first, status, answer), strict=True):
            self.codes[number] = code


def main() -> int:
    order = Order(**json.loads(sys.stdin.readline()))
    tie_to_parent(order.parent_pid)
    generator = CometGenerator(make_share(order), order.urls, TXS_PER_POST_MAX, order.index / order.clients)
    asyncio.run(serve(generator, Path(order.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
