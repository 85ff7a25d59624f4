"""What differs, when this node's state is not the one that a quorum certified.

The peers' last checkpoints are asked for, from the certified root down: the first part, then bucket, then entry that
differs from the view that this node took itself at that checkpoint. What a peer says is checked under the certified
root, so a liar cannot send anybody after the wrong rule.

Must not know: what is done about it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ledger.codec import Value, decode
from ledger.errors import CodecError
from ledger.stateproof import DIGEST_SIZE_BYTES, FANOUT, parent_hash, root_hash
from node.snapshots import BUCKETS, LEAVES, TOP, Question, Send
from p2p.frames import KINDS, Kind
from storage.assembly import BadPiece, digest_of_part, entries_of
from storage.snapshots import PART_BUCKETS, PARTS, Snapshot

ANSWER_S_MAX = 5.0
# The longest answer is one bucket, two items an entry: four times as many entries as can be proved in one.
ANSWER_ITEMS_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Difference:
    """The first state entry, by key, that is another here. Values are encoded; None where there is no entry."""

    key: bytes
    ours: bytes | None
    certified: bytes | None

    @property
    def module(self) -> str:
        """The rule module that wrote it: each writes under its own name only."""
        try:
            match decode(self.key, size_bytes_max=len(self.key)):
                case (str(module), *_):
                    return module
        except CodecError:
            pass
        return "unknown"


class Inquiry:
    """One search, among the peers of a running node."""

    def __init__(self, send: Send, peers: Callable[[], Sequence[bytes]]) -> None:
        self._send, self._peers = send, peers
        self._numbers = itertools.count(1)
        self._waiting: dict[tuple[bytes, int], asyncio.Future[Value]] = {}
        self._owed: Counter[bytes] = Counter()

    def on_answer(self, key: bytes, payload: bytes) -> bool:
        """A SNAPSHOT_RESPONSE; False if that peer owes none. CodecError if it is malformed.

        Megabytes take long to decode on the loop that consensus needs: one answer a question is, if it is in time.
        """
        if not self._owed[key]:
            return False
        self._owed[key] -= 1
        if any(peer == key for peer, _ in self._waiting):
            limit = KINDS[Kind.SNAPSHOT_RESPONSE].size_bytes_max
            match decode(payload, size_bytes_max=limit, items_max=ANSWER_ITEMS_MAX, depth_max=12):
                case (int(number), value):
                    future = self._waiting.pop((key, number), None)
                    if future is not None and not future.done():
                        future.set_result(value)
        return True

    async def find(self, own: Snapshot, certified_root: bytes) -> Difference | None:
        """The first difference that any peer can show; None if none can."""
        for peer in self._peers():
            try:
                return await self._find(peer, own, certified_root)
            except (BadPiece, TimeoutError):
                continue
        return None

    async def _find(self, peer: bytes, own: Snapshot, certified_root: bytes) -> Difference:
        top = await self._bytes(peer, FANOUT, Question(0, TOP, own.height))
        if root_hash(parent_hash(top)) != certified_root:
            raise BadPiece("not what stands under the certified root")
        part = _first_difference(own.top(), top)
        leaves = await self._bytes(peer, PART_BUCKETS, Question(0, LEAVES, own.height, part, part))
        if digest_of_part(leaves) != _digest(top, part):
            raise BadPiece("not the digests under the certified root")
        index = _first_difference(own.leaves(part), leaves)
        bucket = part * PART_BUCKETS + index
        value = await self._ask(peer, Question(0, BUCKETS, own.height, bucket, bucket))
        if type(value) is not tuple or len(value) != 1:
            raise BadPiece("not a bucket")
        theirs = {key: data for key, _, data in entries_of(bucket, value[0], _digest(leaves, index))}
        ours = {key: data for key, _, data in entries_of(bucket, own.buckets(bucket, bucket)[0], own.leaf(bucket))}
        key = min(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
        return Difference(key, ours.get(key), theirs.get(key))

    async def _bytes(self, peer: bytes, digests: int, question: Question) -> bytes:
        value = await self._ask(peer, question)
        if type(value) is not bytes or len(value) != digests * DIGEST_SIZE_BYTES:
            raise BadPiece("not a list of digests")
        return value

    async def _ask(self, peer: bytes, question: Question) -> Value:
        number = next(self._numbers)
        future: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        self._waiting[peer, number] = future
        self._owed[peer] += 1
        asked = Question(number, question.what, question.height, question.first, question.last)
        try:
            self._send(peer, Kind.SNAPSHOT_REQUEST, asked.encode())
            async with asyncio.timeout(ANSWER_S_MAX):
                return await future
        finally:
            self._waiting.pop((peer, number), None)


def _first_difference(ours: bytes, theirs: bytes) -> int:
    for index in range(len(theirs) // DIGEST_SIZE_BYTES):
        if _digest(ours, index) != _digest(theirs, index):
            return index
    raise BadPiece("nothing differs")


def _digest(digests: bytes, index: int) -> bytes:
    return digests[index * DIGEST_SIZE_BYTES : (index + 1) * DIGEST_SIZE_BYTES]


assert PARTS == FANOUT, "the digests under the root are those of the parts"
