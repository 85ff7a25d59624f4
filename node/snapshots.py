"""Serving snapshots: a view of the store at stated heights, and answers to who joins (docs/state.md, "Snapshots").

A view is taken as a checkpoint is executed, the first at or above each multiple of `snapshot_every`, and offered once
it is certified. It costs the disk what has changed since, and the chain goes on meanwhile; pieces are read in a thread.

Must not know: who may ask (the transport does), how pieces are put together.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ledger.codec import Value, decode, encode
from ledger.errors import CodecError
from p2p.allowance import Allowance
from p2p.config import Log
from p2p.frames import Kind
from storage.chain import ChainStore
from storage.errors import StorageError
from storage.kv import KeyValue, Reader
from storage.snapshots import Snapshot, TooLarge, epochs, offer

KEPT = 2  # so that who is in the middle of one need not move on at once
RECENT = 4  # the last checkpoints, for a node whose own state turns out to be another
WAITING_MAX = 64  # requests of all peers; beyond it the asker tries again
WAITING_PER_PEER_MAX = 4  # who joins asks two questions at once
REQUEST_SIZE_BYTES_MAX = 128
REQUEST_CHARGE_BYTES = 4 * 1024
EPOCHS, OFFER, TOP, LEAVES, BUCKETS, BLOCKS = "epochs", "offer", "top", "leaves", "buckets", "blocks"

Send = Callable[[bytes, Kind, bytes], object]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for. `height` names the snapshot; `first` and `last` are epochs, parts, buckets or heights."""

    number: int
    what: str
    height: int = 0
    first: int = 0
    last: int = 0

    def encode(self) -> bytes:
        return encode((self.number, self.what, self.height, self.first, self.last))

    @classmethod
    def decode(cls, payload: bytes) -> Question:
        match decode(payload, size_bytes_max=REQUEST_SIZE_BYTES_MAX):
            case (int(number), str(what), int(height), int(first), int(last)) if min(number, height, first, last) >= 0:
                return cls(number, what, height, first, last)
        raise CodecError("not a question about a snapshot")


class SnapshotServer:
    """The views of one running node. `run` is its task; called from the event loop only."""

    def __init__(
        self, kv: KeyValue, store: ChainStore, every: int, send: Send, now_ms: Callable[[], int], log: Log
    ) -> None:
        self._kv, self._store, self._every, self._send = kv, store, every, send
        self._now_ms, self._log = now_ms, log
        self._kept: dict[int, Snapshot] = {}
        self._recent: dict[int, Reader | Snapshot] = {}  # made a snapshot when somebody asks
        self._allowance = Allowance()
        self._questions: asyncio.Queue[tuple[bytes, Question]] = asyncio.Queue(WAITING_MAX)
        self._waiting: Counter[bytes] = Counter()  # of them, by peer
        tip = store.tip
        if tip.height and tip.height == tip.checkpoint_height:
            self.on_checkpoint(tip.height)

    @property
    def heights(self) -> tuple[int, ...]:
        """The heights of the views, certified or not."""
        return tuple(sorted(self._kept))

    def on_checkpoint(self, height: int) -> None:
        """A checkpoint was executed just now; nothing has changed since."""
        self._recent[height] = self._kv.snapshot()
        while len(self._recent) > RECENT:
            self._recent.pop(min(self._recent)).close()
        if not self._every or (self._kept and height // self._every <= max(self._kept) // self._every):
            return
        self._kept[height] = Snapshot(self._kv.snapshot())
        while len(self._kept) > KEPT:
            self._kept.pop(min(self._kept)).close()
        self._log.info("snapshot", height=height)

    def on_request(self, key: bytes, payload: bytes) -> None:
        """CodecError if it is malformed. What is beyond the peer's budget, or ours, is not answered."""
        question = Question.decode(payload)
        now_ms = self._now_ms()
        self._allowance.forget_refilled(now_ms)
        if not self._allowance.spend(key, REQUEST_CHARGE_BYTES, now_ms):
            return
        if self._waiting[key] < WAITING_PER_PEER_MAX and not self._questions.full():
            self._waiting[key] += 1
            self._questions.put_nowait((key, question))

    async def run(self) -> None:
        """Answer one after the other, until cancelled."""
        while True:
            key, question = await self._questions.get()
            self._waiting -= Counter((key,))  # which drops who has none
            try:
                answer = await self._answer(question)
            except TooLarge as error:
                self._log.warning("does not fit into a snapshot", what=str(error))
                answer = None
            payload = encode((question.number, answer))
            self._allowance.charge(key, len(payload), self._now_ms())
            self._send(key, Kind.SNAPSHOT_RESPONSE, payload)

    async def _answer(self, question: Question) -> Value:
        """None: not here (any more)."""
        if question.what == EPOCHS:
            return epochs(self._store, question.first)
        if question.what == OFFER:
            return self._offer()
        snapshot = self.at(question.height)
        if snapshot is None:
            return None
        try:
            return await asyncio.to_thread(_piece, snapshot, question)
        except ValueError:
            return None
        except StorageError:
            if self.at(question.height) is snapshot:
                raise
            return None  # closed meanwhile: a newer one took its place

    def at(self, height: int) -> Snapshot | None:
        """The view of a checkpoint, of those that are kept and of the last ones."""
        found = self._kept.get(height) or self._recent.get(height)
        if found is None or isinstance(found, Snapshot):
            return found
        made = self._recent[height] = Snapshot(found)
        return made

    def _offer(self) -> Value:
        for height in sorted(self._kept, reverse=True):
            certificate = self._store.checkpoint(height)
            if certificate is not None:
                return offer(self._kept[height], certificate)
        return None

    def close(self) -> None:
        for view in (*self._kept.values(), *self._recent.values()):
            view.close()
        self._kept.clear()
        self._recent.clear()


def _piece(snapshot: Snapshot, question: Question) -> Value:
    match question.what:
        case "top":
            return snapshot.top()
        case "leaves":
            return snapshot.leaves(question.first)
        case "buckets":
            return snapshot.buckets(question.first, question.last)
        case "blocks":
            return snapshot.blocks(question.first)
    return None
