"""Catching up by certified blocks: which peer to ask for which heights, as a pure core.

Peers say how high they are; claims are believed only for whom to ask. What arrives is buffered within bounds, in any
order, and handed over strictly in order. The caller checks each certificate before use, and calls `blame` for a peer
whose block is bad. Several peers are asked at once, for different ranges.

Must not know: blocks' content, networks, clocks.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

B = TypeVar("B")

BLOCKS_PER_REQUEST = 16  # a response carries as many of them as fit its frame
REQUESTS_MAX = 4  # in flight together; with the next line this bounds the buffer
BUFFER_HEIGHTS_MAX = 64
BUFFER_SIZE_BYTES_MAX = 32 * 1024 * 1024  # nothing is verified before its turn: whoever is asked could fill the memory
REQUEST_TIMEOUT_MS = 3_000
# The very next blocks are asked of another peer too when the first takes longer than this, and than two answers of the
# quickest peer; then twice, four times as long. Who answers slowly, and just often enough never to be blamed, must not
# decide how fast we catch up. Before anybody has answered nobody knows what is slow: several copies would only share
# a link that carries one just in time.
HEDGE_MS = 300
LATE_MAX = 4  # doublings: by then one block is asked for at a time
PEERS_REMEMBERED_MAX = 1_024  # beyond those that are connected: coming anew must not clear anybody's record
UNTRIED_RATE = 100  # blocks a second expected of a peer not asked yet: others are tried before one that was slow
HEDGES_MAX = 4  # requests in flight beyond REQUESTS_MAX
PATIENCE_MS = 400  # how long a member waits for votes to bring it a block that others have
BLAME_MS = 30_000  # how long a peer that sent a bad block is not asked; afterwards it may redeem itself


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """Ask `peer` for heights `first` to `last`."""

    peer: Hashable
    first: int
    last: int


@dataclass(slots=True)
class _Peer:
    height: int = 0
    blamed_until_ms: int = 0
    request: BlockRequest | None = None
    asked_at_ms: int = 0
    served: int = 0  # blocks of the request in flight that arrived
    rate: int = UNTRIED_RATE  # blocks a second of its last answer: the quickest are asked first, for the next ones
    took_ms: int | None = None  # until it had answered, last time, or how long we waited for it
    overdue: bool = False  # others are asked for what it was asked; its answer is still good
    late: int = 0  # how often it was late of late: so much less is asked of it
    connected: bool = True


@dataclass(slots=True)
class BlockSync(Generic[B]):
    """`eager` nodes (followers) ask at once; members first give their votes a chance to arrive."""

    eager: bool
    _peers: dict[Hashable, _Peer] = field(default_factory=dict)
    _buffer: dict[int, tuple[Hashable, B, int]] = field(default_factory=dict)  # height -> sender, block, bytes
    _height: int = 0
    _moved_at_ms: int = 0

    def on_status(self, peer: Hashable, height: int) -> None:
        """A peer's claim; lower ones than before are believed too."""
        known = self._peers.setdefault(peer, _Peer())
        known.height, known.connected = height, True

    def on_peer_down(self, peer: Hashable) -> None:
        """It is asked for nothing now; how it served is remembered."""
        known = self._peers.get(peer)
        if known is not None:
            if known.request is not None:  # as if it had never answered
                known.rate, known.took_ms = 0, max(known.took_ms or 0, REQUEST_TIMEOUT_MS)
            known.request, known.height, known.overdue, known.connected = None, 0, False, False
        gone = [key for key, one in self._peers.items() if not one.connected]
        for key in gone[: max(0, len(gone) - PEERS_REMEMBERED_MAX)]:
            del self._peers[key]

    def expects(self, peer: Hashable) -> bool:
        """Whether a response of this peer was asked for; any other is not worth decoding."""
        known = self._peers.get(peer)
        return known is not None and known.request is not None

    def on_block(self, peer: Hashable, height: int, block: B, size_bytes: int) -> bool:
        """Take a block that was asked for; False if it was not, or there is no room. The very next always has room."""
        known = self._peers.get(peer)
        if known is None or known.request is None or not known.request.first <= height <= known.request.last:
            return False
        known.served += 1
        if height > self._height + BUFFER_HEIGHTS_MAX or height <= self._height:
            return False
        if height > self._height + 1 and self.buffer_size_bytes + size_bytes > BUFFER_SIZE_BYTES_MAX:
            return False
        self._buffer.setdefault(height, (peer, block, size_bytes))
        return True

    @property
    def buffer_size_bytes(self) -> int:
        return sum(size_bytes for _, _, size_bytes in self._buffer.values())

    def on_response_end(self, peer: Hashable, now_ms: int) -> None:
        """The peer sent what it could; the rest of the range may be asked again.

        One that sent nothing of it is not as high as it said, until it says so again: else an empty answer would be
        followed by the same question as fast as the network carries both.
        """
        known = self._peers.get(peer)
        if known is not None and known.request is not None:
            if not known.served:
                known.height = min(known.height, known.request.first - 1)
            known.took_ms = now_ms - known.asked_at_ms
            known.rate = known.served * 1_000 // max(1, known.took_ms)
            if known.took_ms >= REQUEST_TIMEOUT_MS // 2:  # a slow link: less at a time arrives in time
                known.late = min(known.late + 1, LATE_MAX)
            elif known.served and known.took_ms < REQUEST_TIMEOUT_MS // 4:
                known.late = max(0, known.late - 1)
            if known.overdue:
                known.blamed_until_ms = now_ms
            known.request, known.overdue = None, False

    def blame(self, peer: Hashable, now_ms: int) -> None:
        """Drop everything a peer sent, and do not ask it for a while."""
        known = self._peers.get(peer)
        if known is not None:
            known.request, known.overdue = None, False
            known.height, known.blamed_until_ms = 0, now_ms + BLAME_MS
        for height in [at for at, (sender, _, _) in self._buffer.items() if sender == peer]:
            del self._buffer[height]

    def take(self, height: int) -> tuple[Hashable, B] | None:
        """The buffered block of `height` and who sent it, once."""
        found = self._buffer.pop(height, None)
        return None if found is None else found[:2]

    @property
    def target(self) -> int:
        """The greatest height any peer claims."""
        return max((peer.height for peer in self._peers.values()), default=0)

    def height_claimed_by(self, count: int, members: Collection[Hashable]) -> int:
        """The greatest height that at least `count` of these peers claim: with more than f members, an honest one is
        there. Where fewer are known, all of them."""
        claims = sorted((peer.height for key, peer in self._peers.items() if key in members), reverse=True)
        return claims[:count][-1] if claims else 0

    def plan(self, height: int, now_ms: int) -> list[BlockRequest]:
        """Requests to send now; `height` is the last one decided here."""
        if height != self._height:
            self._height, self._moved_at_ms = height, now_ms
            for passed in [at for at in self._buffer if at <= height]:
                del self._buffer[passed]
        for peer in self._peers.values():
            waited_ms = now_ms - peer.asked_at_ms
            if peer.request is not None and not peer.overdue and waited_ms >= REQUEST_TIMEOUT_MS:
                # It may claim again; meanwhile, and for longer each time, others are asked: a peer that never answers
                # would otherwise be first in line for the very next block again and again.
                peer.overdue, peer.height, peer.rate = True, 0, 0
                peer.took_ms = max(peer.took_ms or 0, waited_ms)
                peer.blamed_until_ms = now_ms + min(REQUEST_TIMEOUT_MS << peer.late, BLAME_MS)
                peer.late = min(peer.late + 1, LATE_MAX)
        behind = self.target - height
        if behind <= 0:
            return []
        if not self.eager and behind <= BLOCKS_PER_REQUEST and now_ms - self._moved_at_ms < PATIENCE_MS:
            return []
        return self._requests(height, now_ms)

    def _requests(self, height: int, now_ms: int) -> list[BlockRequest]:
        covered = set(self._buffer)
        in_flight = [peer.request for peer in self._peers.values() if peer.request is not None and not peer.overdue]
        for request in in_flight:
            covered.update(range(request.first, request.last + 1))
        idle = self._idle(height, now_ms)
        requests: list[BlockRequest] = []
        top = height + (BUFFER_HEIGHTS_MAX if self.buffer_size_bytes < BUFFER_SIZE_BYTES_MAX // 2 else 1)
        next_height = height + 1
        if idle and len(in_flight) < REQUESTS_MAX + HEDGES_MAX and self._is_overdue(next_height, now_ms):
            key, peer = idle.pop(0)
            last = min(next_height + (BLOCKS_PER_REQUEST >> peer.late), peer.height + 1, top + 1) - 1
            requests.append(self._ask(key, peer, next_height, last, now_ms))
        for key, peer in idle[: max(0, REQUESTS_MAX - len(in_flight))]:
            while next_height in covered:
                next_height += 1
            last = min(next_height + (BLOCKS_PER_REQUEST >> peer.late), peer.height + 1, top + 1) - 1
            if next_height > last:
                continue
            requests.append(self._ask(key, peer, next_height, last, now_ms))
            covered.update(range(next_height, last + 1))
        return requests

    def _idle(self, height: int, now_ms: int) -> list[tuple[Hashable, _Peer]]:
        """Who may be asked: the quickest first, then who was asked longest ago. Where somebody serves us well enough,
        one at a time of those not tried yet."""
        found = [
            (key, peer)
            for key, peer in self._peers.items()
            if (peer.request is None or peer.overdue) and peer.height > height and peer.blamed_until_ms <= now_ms
        ]
        found.sort(key=lambda item: (-item[1].rate, item[1].asked_at_ms))
        if any(peer.rate for peer in self._peers.values() if peer.took_ms is not None):
            tries = any(peer.request is not None for peer in self._peers.values() if peer.took_ms is None)
            new = [item for item in found if item[1].took_ms is None]
            found = [item for item in found if item not in new[0 if tries else 1 :]]
        return found

    def _is_overdue(self, height: int, now_ms: int) -> bool:
        """Whether the next block was asked for too long ago."""
        asked_ms = [
            peer.asked_at_ms
            for peer in self._peers.values()
            if peer.request is not None and not peer.overdue and peer.request.first <= height <= peer.request.last
        ]
        if not asked_ms or height in self._buffer:
            return False
        took_ms = [peer.took_ms for peer in self._peers.values() if peer.took_ms is not None]
        quickest_ms = min(took_ms, default=REQUEST_TIMEOUT_MS)
        return now_ms - max(asked_ms) >= max(HEDGE_MS, 2 * quickest_ms) << (len(asked_ms) - 1)

    @staticmethod
    def _ask(key: Hashable, peer: _Peer, first: int, last: int, now_ms: int) -> BlockRequest:
        peer.request, peer.asked_at_ms, peer.served, peer.overdue = BlockRequest(key, first, last), now_ms, 0, False
        return peer.request
