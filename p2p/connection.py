"""An established connection as the transport keeps it: the link, the queue, the counters.

Must not know aiohttp: a link is anything with a few methods.
"""

from __future__ import annotations

import asyncio
import time
from typing import Generic, Protocol, TypeVar

from p2p.config import PeerInfo
from p2p.frames import Channel, Kind
from p2p.handshake import Established
from p2p.queues import OutQueue


def monotonic_ms() -> int:
    """The clock of the I/O side; the pure cores get its readings as arguments."""
    return time.monotonic_ns() // 1_000_000


class Link(Protocol):
    """What a connection's bookkeeping needs of a WebSocket."""

    @property
    def rtt_ms(self) -> float | None:
        """The last round trip measured; None before the first."""

    @property
    def rtt_ms_min(self) -> float | None:
        """The shortest of the last ones."""

    def address(self) -> str: ...

    def abort(self) -> None: ...


LinkT = TypeVar("LinkT", bound=Link)


class Connection(Generic[LinkT]):
    """One connection with one peer; `peer` is what it said of itself, `role` what our members' list says."""

    def __init__(
        self, link: LinkT, established: Established, *, role: str, dialled: bool, queue: OutQueue, opened_ms: int
    ) -> None:
        self.link = link
        self.peer = established.peer
        self.role = role
        self.dialled = dialled
        self.queue = queue
        self.wake = asyncio.Event()
        self.wake.set()  # for the first ping, and for what a replaced connection left in the queue
        self.ping_due = True
        self.writer: asyncio.Task[None] | None = None
        self.closed = False
        self.bytes_in = [0] * len(Channel)
        self._version = established.version
        self._opened_ms = opened_ms
        self._address = link.address()

    def put(self, kind: Kind, payload: bytes) -> bool:
        """Queue a frame and wake the writer; False if the queue refused it."""
        taken = self.queue.put(kind, payload)
        self.wake.set()
        return taken

    def close(self) -> None:
        """End it at once. The reader then finds the link gone and cleans up."""
        self.closed = True
        self.link.abort()
        if self.writer is not None:
            self.writer.cancel()

    def info(self, now_ms: int) -> PeerInfo:
        """The figures for operators."""
        return PeerInfo(
            key=self.peer.key,
            address=self._address,
            dialled=self.dialled,
            role=self.role,
            software=self.peer.software,
            version=self._version,
            height=self.peer.height,
            since_ms=now_ms - self._opened_ms,
            rtt_ms=self.link.rtt_ms,
            bytes_in=tuple(self.bytes_in),
            bytes_out=self.queue.sent_bytes(),
            queued_frames=self.queue.lengths(),
            queued_bytes=self.queue.waiting_bytes(),
            dropped_frames=self.queue.dropped(),
        )
