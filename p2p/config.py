"""What the transport is given and what it reports: configuration, handlers, peer information, the log it writes to.

Data only. Must not know aiohttp or sockets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from p2p.frames import Kind
from p2p.handshake import HOST_LENGTH_MAX, SOFTWARE_LENGTH_MAX
from p2p.peerbook import PeerBookConfig
from p2p.queues import QueueLimits


@dataclass(frozen=True, slots=True)
class TransportConfig:
    """Settings of one transport. Times in milliseconds; sizes in bytes."""

    listen_host: str = "127.0.0.1"  # loopback unless the operator says otherwise
    listen_port: int = 0  # 0: any free port, see Transport.port
    advertise_host: str = ""  # where others should dial; empty: not told
    advertise_port: int = 0
    known_keys: tuple[bytes, ...] = ()  # keys beyond the members (followers) whose certificates may pass TLS
    software: str = "medchain"
    handshake_ms_max: int = 5_000  # from accept or dial to HELLO_ACK; whoever is slower is cut
    heartbeat_ms: int = 10_000  # a silent connection is pinged after this, and dead half as long after that
    rtts_kept: int = 60  # round trips of which the shortest is the path's own: those of ten minutes
    pause_ms_max: int = 500  # the longest Handlers.ready may hold a reader: votes wait behind it
    peers_max: int = 128  # established connections with followers; the chain bounds the validators, at 128 as well
    pending_max: int = 128  # connections that have not proved who they are yet
    pending_per_address_max: int = 32  # one address may be a whole institution behind NAT, or a local cluster
    write_buffer_bytes: int = 64 * 1024  # what a vote may find ahead of it in each buffer below the queue
    queue_limits: QueueLimits = field(default_factory=QueueLimits)
    peerbook: PeerBookConfig = field(default_factory=PeerBookConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.listen_port <= 0xFFFF or not 0 <= self.advertise_port <= 0xFFFF:
            raise ValueError("a port is 0 to 65535")
        if len(self.software) > SOFTWARE_LENGTH_MAX or len(self.advertise_host) > HOST_LENGTH_MAX:
            raise ValueError("software or advertise_host is too long")
        limits = (self.handshake_ms_max, self.heartbeat_ms, self.pause_ms_max, self.peers_max, self.pending_max)
        if min(*limits, self.pending_per_address_max, self.write_buffer_bytes, self.rtts_kept) < 1:
            raise ValueError("times and limits are positive")


@dataclass(frozen=True, slots=True)
class Handlers:
    """What the transport calls. All but `ready` are synchronous, called on the event loop, and should be short.

    on_frame(key, kind, payload): a frame of an authenticated peer. An exception is logged and costs only that frame.
    on_peer_up(key), on_peer_down(key): alternate for each key.
    ready(key): awaited after each message with bulk in it, at most `pause_ms_max`; while it waits nothing is read from
    that peer, so what is in flight stays bounded by the socket buffers and one message.
    """

    on_frame: Callable[[bytes, Kind, bytes], None]
    on_peer_up: Callable[[bytes], None]
    on_peer_down: Callable[[bytes], None]
    ready: Callable[[bytes], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """One established connection. Tuples are by channel: consensus, control, bulk."""

    key: bytes
    address: str  # the other end of the socket, for people; may be a proxy
    dialled: bool  # by us
    role: str  # what `allowed` said
    software: str
    version: int
    height: int  # as of the handshake
    since_ms: int  # how long the connection has lived
    rtt_ms: float | None  # last measured; None before the first pong
    bytes_in: tuple[int, ...]
    bytes_out: tuple[int, ...]
    queued_frames: tuple[int, ...]
    queued_bytes: tuple[int, ...]
    dropped_frames: tuple[int, ...]


class Log(Protocol):
    """The part of a structured logger used here (structlog's bound loggers fit)."""

    def debug(self, event: str, **fields: object) -> object: ...

    def info(self, event: str, **fields: object) -> object: ...

    def warning(self, event: str, **fields: object) -> object: ...


class LimitedLog:
    """Warnings that strangers can cause: one a kind per `interval_ms`, and the next says how many were left out."""

    def __init__(self, log: Log, interval_ms: int = 10_000) -> None:
        self._log = log
        self._interval_ms = interval_ms
        self._seen: dict[str, tuple[int, int]] = {}  # event -> (last written, left out since); events are constants

    def warning(self, event: str, now_ms: int, **fields: object) -> None:
        last_ms, left_out = self._seen.get(event, (now_ms - self._interval_ms, 0))
        if now_ms - last_ms < self._interval_ms:
            self._seen[event] = (last_ms, left_out + 1)
            return
        self._seen[event] = (now_ms, 0)
        if left_out:
            fields["left_out"] = left_out
        self._log.warning(event, **fields)

    def handler_failed(self, name: str, error: Exception, now_ms: int) -> None:
        """One of the node's handlers raised: our bug. Type and place only, as the text may quote what a peer sent."""
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = "" if place is None else f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
        self.warning("handler failed", now_ms, handler=name, error=type(error).__name__, where=where)


def short_key(key: bytes) -> str:
    """Enough of a public key for a log line."""
    return key[1:7].hex()
