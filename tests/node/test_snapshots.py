"""What a peer gets of snapshots that asks without end, in imagined time."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from ledger.codec import Value
from node.logs import make_logger
from node.snapshots import BUCKETS, WAITING_MAX, WAITING_PER_PEER_MAX, Question, SnapshotServer
from p2p.allowance import BUDGET_BYTES_MAX, REFILL_BYTES_PER_MS
from p2p.frames import Kind

PIECE_BYTES = 1_000_000
QUESTION = Question(1, BUCKETS, 1).encode()


class Serving(SnapshotServer):
    """One that has every piece."""

    def __init__(self) -> None:
        self.now, self.sent_bytes = 0, Counter[bytes]()
        store: Any = SimpleNamespace(tip=SimpleNamespace(height=0))
        super().__init__(store, store, 0, self._count, lambda: self.now, make_logger("error", "text"))

    def _count(self, key: bytes, kind: Kind, payload: bytes) -> None:
        self.sent_bytes[key] += len(payload)

    async def _answer(self, question: Question) -> Value:
        return bytes(PIECE_BYTES)


@pytest.mark.asyncio
async def test_a_flood_of_questions_gets_no_more_than_the_allowance_and_others_are_answered() -> None:
    """Trap 33. A question was charged as it came, its answer only if anything was left by then."""
    server, asked, time_ms = Serving(), 0, 2_000
    answering = asyncio.create_task(server.run())
    try:
        for server.now in range(time_ms):
            for _ in range(9):
                server.on_request(b"floods", QUESTION)
            if server.now % 100 == 0:
                server.on_request(b"joins", QUESTION)
                asked += 1
            for _ in range(3):  # the server's turns
                await asyncio.sleep(0)
        while server._questions.qsize():
            await asyncio.sleep(0)
    finally:
        answering.cancel()
    allowed_bytes = BUDGET_BYTES_MAX + time_ms * REFILL_BYTES_PER_MS
    assert 0 < server.sent_bytes[b"floods"] < allowed_bytes + (WAITING_PER_PEER_MAX + 1) * PIECE_BYTES
    assert server.sent_bytes[b"joins"] // PIECE_BYTES == asked


@pytest.mark.asyncio
async def test_one_peer_fills_a_part_of_the_queue() -> None:
    server = Serving()
    for number in range(WAITING_MAX):
        for _ in range(WAITING_MAX):
            server.on_request(b"%d" % (number % 3), QUESTION)
    assert server._questions.qsize() == 3 * WAITING_PER_PEER_MAX
