"""The established connections of one node: who may have one, which of two stays, and what the node is told of it.

Must not know aiohttp or how a connection is read and written. See docs/p2p.md, section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Generic

from p2p.config import Handlers, LimitedLog, Log, PeerInfo, TransportConfig, short_key
from p2p.connection import Connection, LinkT, monotonic_ms
from p2p.errors import Fault, Refusal
from p2p.frames import Kind
from p2p.handshake import Established, Hello
from p2p.peerbook import PeerBook, Source, replaces
from p2p.queues import OutQueue


class Peers(Generic[LinkT]):
    """At most one connection for each key. Synchronous throughout, so nothing can come between check and change."""

    def __init__(
        self,
        config: TransportConfig,
        own_key: bytes,
        *,
        book: PeerBook,
        handlers: Handlers,
        allowed: Callable[[bytes], str | None],
        log: Log,
        limited_log: LimitedLog,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when a connection has ended, so that the dialler looks again."""
        self._config = config
        self._own_key = own_key
        self._book = book
        self._handlers = handlers
        self._allowed = allowed
        self._log = log
        self._limited_log = limited_log
        self._changed = changed
        self._connections: dict[bytes, Connection[LinkT]] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._connections

    def connections(self) -> list[Connection[LinkT]]:
        return list(self._connections.values())

    def info(self) -> list[PeerInfo]:
        now_ms = monotonic_ms()
        return [connection.info(now_ms) for connection in self._connections.values()]

    def send(self, key: bytes, kind: Kind, payload: bytes) -> bool:
        """Queue a frame for one peer; False if it is not connected or its bulk lane is full."""
        connection = self._connections.get(key)
        return connection is not None and connection.put(kind, payload)

    def broadcast(self, kind: Kind, payload: bytes, only: Collection[bytes] | None) -> int:
        """Queue a frame for all, or those in `only`; returns how many took it."""
        if only is None:
            return sum([connection.put(kind, payload) for connection in self._connections.values()])
        return sum([self.send(key, kind, payload) for key in only])

    def refusal(self, peer: Hello, *, dialled: bool) -> Refusal | None:
        """Why this peer may not connect now, the chain and key being right; None if it may."""
        role = self._allowed(peer.key)
        if role is None:
            return Refusal.NOT_MEMBER
        if self._book.is_banned(peer.key, monotonic_ms()):
            return Refusal.BUSY
        old = self._connections.get(peer.key)
        if old is None:
            return Refusal.BUSY if role != "validator" and self._is_full() else None
        same = old.peer.instance == peer.instance
        if replaces(self._own_key, peer.key, new_dialled=dialled, old_dialled=old.dialled, same_instance=same):
            return None
        return Refusal.DUPLICATE

    def _is_full(self) -> bool:
        """Whether followers have all the places there are. Validators take none, and need none: the chain bounds their
        number, and without each other they are no chain, however many followers came first.
        """
        followers = [connection for connection in self._connections.values() if connection.role != "validator"]
        return len(followers) >= self._config.peers_max

    def establish(self, link: LinkT, established: Established, *, dialled: bool) -> Connection[LinkT]:
        """Register the connection, in place of an older one with the same peer. Synchronous: no race in between."""
        peer = established.peer
        now_ms = monotonic_ms()
        old = self._connections.get(peer.key)
        # The same process on both connections: what waited for it still does, and it never went away.
        continues = old is not None and old.peer.instance == peer.instance
        queue = old.queue if old is not None and continues else OutQueue(self._config.queue_limits)
        role = self._allowed(peer.key) or ""
        connection = Connection(link, established, role=role, dialled=dialled, queue=queue, opened_ms=now_ms)
        self._connections[peer.key] = connection
        if old is not None:
            old.close()
            if not continues:
                self._call("on_peer_down", self._handlers.on_peer_down, peer.key)
        self._book.connected(peer.key, now_ms)
        if peer.host and peer.port:
            self._book.add(peer.key, peer.host, peer.port, Source.HELLO, now_ms)
        self._log.info("peer connected", key=short_key(peer.key), role=role, dialled=dialled, height=peer.height)
        if not continues:
            self._call("on_peer_up", self._handlers.on_peer_up, peer.key)
        return connection

    def recheck(self) -> None:
        """Membership changed: take over new roles, drop whoever `allowed` no longer names. A validator that became a
        follower stays, even if there is no place left: only who comes is refused.
        """
        for key, connection in list(self._connections.items()):
            role = self._allowed(key)
            if role is None:
                self._log.info("peer is no longer allowed", key=short_key(key))
                self.drop(connection)
            else:
                connection.role = role

    def misbehaved(self, key: bytes, fault: Fault) -> None:
        """Close the connection of `key`, if any, and ban it for a while."""
        now_ms = monotonic_ms()
        ban_ms = self._book.misbehaved(key, now_ms, fault) - now_ms
        self._limited_log.warning("peer misbehaved", now_ms, key=short_key(key), reason=fault.name, ban_ms=ban_ms)
        connection = self._connections.get(key)
        if connection is not None:
            self.drop(connection)

    def drop(self, connection: Connection[LinkT]) -> None:
        """End a connection now; harmless when it has already ended or been replaced."""
        connection.close()
        key = connection.peer.key
        if self._connections.get(key) is connection:
            del self._connections[key]
            self._book.disconnected(key, monotonic_ms())
            self._changed()
            self._log.info("peer disconnected", key=short_key(key))
            self._call("on_peer_down", self._handlers.on_peer_down, key)

    def _call(self, name: str, handler: Callable[[bytes], None], key: bytes) -> None:
        try:
            handler(key)
        except Exception as error:
            self._limited_log.handler_failed(name, error, monotonic_ms())
