"""What CometBFT nodes show of their chain: headers as they come, blocks read afterwards, hashes to compare.

As with our own nodes, watching costs a node one small message a block: only new headers are subscribed to, and which
transaction is in which block is read when the load is over.

Must not know: what was sent.
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.http import Connection, get
from bench.observer import BenchError
from ledger.crypto import hash_bytes

DRAIN_TIMEOUT_S = 60.0  # a mempool of 100,000 that the nodes were slower than
CATCH_UP_TIMEOUT_S = 10.0
SUBSCRIBE = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "method": "subscribe", "params": {"query": "tm.event='NewBlockHeader'"}}
)


async def rpc(url: str, target: str) -> dict[str, Any]:
    """One question to a node."""
    _, body = await get(url, f"/{target}")
    return result_of(body)


def result_of(answer: bytes) -> dict[str, Any]:
    document = json.loads(answer)
    if "result" not in document:
        raise BenchError(f"a node answers {document.get('error')}")
    found: dict[str, Any] = document["result"]
    return found


def header_height(message: str) -> int | None:
    """Of the header that an event brings; None for any other message, as the one that confirms the subscription."""
    data = json.loads(message).get("result", {}).get("data", {})
    return int(data["value"]["header"]["height"]) if data.get("type") == "tendermint/event/NewBlockHeader" else None


def block_txs(block: dict[str, Any]) -> list[bytes]:
    """The transactions of what `/block` answers."""
    return [b64decode(tx) for tx in block["block"]["data"]["txs"] or ()]


@dataclass(slots=True)
class HeaderWatch:
    """Follows one node. `seen_s` is by the machine's monotonic clock."""

    url: str
    seen_s: dict[int, float] = field(default_factory=dict)
    last_height: int = 0

    async def follow(self, subscribed: asyncio.Event) -> None:
        """Until cancelled."""
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/websocket", compress=0) as connection,
        ):
            await connection.send_str(SUBSCRIBE)
            async for message in connection:
                now_s = time.monotonic()
                subscribed.set()
                height = header_height(message.data) if message.type is aiohttp.WSMsgType.TEXT else None
                if height is not None:
                    self.seen_s[height], self.last_height = now_s, height
        raise BenchError(f"{self.url} ended its stream of headers")


async def drained(urls: Sequence[str]) -> bool:
    """Whether no node's mempool holds a transaction any more, within a minute."""
    deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
    while time.monotonic() < deadline_s:
        waiting = [await rpc(url, "num_unconfirmed_txs") for url in urls]
        if not any(int(item["total"]) for item in waiting):
            return True
        await asyncio.sleep(0.2)
    return False


async def common_height(urls: Sequence[str]) -> int:
    """A height that all nodes have, at or above the highest that one of them had when asked."""
    highest = max([await height_of(url) for url in urls])
    async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
        while min([await height_of(url) for url in urls]) < highest:  # noqa: ASYNC110  they are other processes
            await asyncio.sleep(0.05)
    return highest


async def height_of(url: str) -> int:
    return int((await rpc(url, "status"))["sync_info"]["latest_block_height"])


async def heads(urls: Sequence[str], height: int) -> list[tuple[str, str]]:
    """(hash of the block, the application's hash in it) at each node. A block's hash stands for all blocks before."""
    blocks = [await rpc(url, f"block?height={height}") for url in urls]
    return [(block["block_id"]["hash"], block["block"]["header"]["app_hash"]) for block in blocks]


async def committed(url: str, first: int, last: int) -> tuple[dict[bytes, int], int]:
    """({hash of a transaction: the first height that holds it}, how many were there again) over first..last."""
    connection = await Connection.open(url)
    found: dict[bytes, int] = {}
    again = 0
    try:
        for height in range(first, last + 1):
            _, body = await connection.request("GET", f"/block?height={height}")
            for tx in block_txs(result_of(body)):
                tx_id = hash_bytes(tx)
                again += tx_id in found
                found.setdefault(tx_id, height)
        return found, again
    finally:
        connection.close()


async def counters(url: str) -> dict[str, int]:
    """What the application that checks signatures has counted."""
    answer = await rpc(url, "abci_query?path=%22counters%22")
    found: dict[str, int] = json.loads(b64decode(answer["response"]["value"]))
    return found
