"""The transport: aiohttp WebSockets over mutual TLS 1.3 around this package's pure cores; the only file with sockets.

One connection a pair of keys. A reader per connection hands frames over synchronously; a writer per connection drains
the peer's queue, so a slow peer fills its own queue and nothing else. Whoever does not get through the handshake in
time, or breaks the framing, loses the connection and is let in again only after a growing pause.

Must not know: what a payload means.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
from aiohttp import WSMsgType, web

from ledger.crypto import KeyPair
from p2p.config import Handlers, LimitedLog, Log, PeerInfo, TransportConfig
from p2p.errors import CertificateError, Fault, FrameError, HandshakeRefused, Refusal
from p2p.frames import KINDS, MESSAGE_SIZE_BYTES_MAX, Channel, Kind, decode_frames, encode_frame
from p2p.handshake import NONCE_SIZE_BYTES, Acceptor, Dialler, Established, Hello, Role, encode_reject
from p2p.peerbook import Address, PeerBook, Source
from p2p.queues import OutQueue
from p2p.tls import TlsContexts, certificate_key

PATH = "/p2p"
DIAL_TICK_S = 0.1  # how often the address book is asked whom to dial
WebSocket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


@dataclass(eq=False)
class _Peer:
    """One established connection."""

    key: bytes
    socket: WebSocket
    hello: Hello
    version: int
    dialled: bool
    role: str
    address: str
    since_ms: int
    queue: OutQueue
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    bytes_in: list[int] = field(default_factory=lambda: [0, 0, 0])
    closing: bool = False


class _RefuseConnection(asyncio.Protocol):
    """Takes the place of a request handler when too many strangers are at the door."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _QuietHandler(logging.Handler):
    """aiohttp logs a traceback for each malformed request; a stranger gets one short, rate-limited line instead."""

    def __init__(self, log: LimitedLog) -> None:
        super().__init__()
        self._limited = log

    def emit(self, record: logging.LogRecord) -> None:
        self._limited.warning("malformed request", _now_ms())


class Transport:
    """Connections of one node: `start`, then `send` and `broadcast` from the event loop; `stop` leaves no task."""

    def __init__(
        self,
        config: TransportConfig,
        identity: KeyPair,
        chain_id: bytes,
        *,
        role: str,
        handlers: Handlers,
        allowed: Callable[[bytes], str | None],
        rng: Random,
        log: Log,
    ) -> None:
        self._config, self._identity, self._chain_id = config, identity, chain_id
        self._role = Role.VALIDATOR if role == "validator" else Role.FOLLOWER
        self._handlers, self._allowed, self._rng = handlers, allowed, rng
        self._log, self._limited = log, LimitedLog(log)
        self._book = PeerBook(identity.public, rng, config.peerbook)
        self._tls = TlsContexts(identity)
        self._tls.trust(config.known_keys)
        self._instance = rng.randbytes(NONCE_SIZE_BYTES)
        self._peers: dict[bytes, _Peer] = {}
        self._pending: dict[Any, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self.height = 0  # told in handshakes, as a hint

    # Life

    async def start(self) -> None:
        """Listen and begin to dial. OSError when the port is taken."""
        app = web.Application()
        app.router.add_get(PATH, self._accept)
        logger = logging.Logger("medchain.p2p")
        logger.addHandler(_QuietHandler(self._limited))
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, logger=logger)
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._make_handler,
            self._config.listen_host,
            self._config.listen_port,
            ssl=self._tls.server,
            ssl_handshake_timeout=self._config.handshake_ms_max / 1_000,
        )
        connector = aiohttp.TCPConnector(ssl=self._tls.client, limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        self._spawn(self._dial_forever())

    async def stop(self) -> None:
        """Close everything; returns when no task and no connection is left."""
        if self._server is not None:
            self._server.close()
        for peer in list(self._peers.values()):
            self._close(peer)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for handle in self._pending.values():
            handle.cancel()
        if self._session is not None:
            await self._session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The port listened on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Membership and addresses

    def set_members(self, keys: Iterable[bytes]) -> None:
        """Trust these keys' certificates from now on, and drop connections of keys no longer allowed."""
        self._tls.trust(key for key in keys if key != self._identity.public)
        for key, peer in list(self._peers.items()):
            if self._allowed(key) is None:
                self._close(peer)

    def add_address(self, key: bytes, host: str, port: int) -> None:
        """Where to dial a key, as the operator says."""
        self._tls.trust([key])
        self._book.add(key, host, port, Source.CONFIG, _now_ms())

    # Sending

    def send(self, key: bytes, kind: Kind, payload: bytes) -> bool:
        """Queue a frame for a peer; False if it is not connected, or its bulk lane is full."""
        peer = self._peers.get(key)
        if peer is None or not peer.queue.put(kind, payload):
            return False
        peer.wake.set()
        return True

    def broadcast(self, kind: Kind, payload: bytes, *, only: Collection[bytes] | None = None) -> int:
        """Queue a frame for all peers, or those of `only`; returns for how many."""
        keys = list(self._peers) if only is None else list(only)
        return sum(self.send(key, kind, payload) for key in keys)

    def misbehaved(self, key: bytes, fault: Fault) -> None:
        """Close the connection of a peer, and have nothing to do with it for a while."""
        self._book.misbehaved(key, _now_ms(), fault)
        peer = self._peers.get(key)
        if peer is not None:
            self._close(peer)

    def peers(self) -> list[PeerInfo]:
        now_ms = _now_ms()
        return [
            PeerInfo(
                key=peer.key,
                address=peer.address,
                dialled=peer.dialled,
                role=peer.role,
                software=peer.hello.software,
                version=peer.version,
                height=peer.hello.height,
                since_ms=now_ms - peer.since_ms,
                rtt_ms=None,
                bytes_in=tuple(peer.bytes_in),
                bytes_out=peer.queue.sent_bytes(),
                queued_frames=peer.queue.lengths(),
                queued_bytes=peer.queue.waiting_bytes(),
                dropped_frames=peer.queue.dropped(),
            )
            for peer in self._peers.values()
        ]

    # Accepting

    def _make_handler(self) -> asyncio.BaseProtocol:
        assert self._runner is not None
        server = self._runner.server
        assert server is not None
        if len(self._pending) >= self._config.pending_max or len(self._peers) >= self._config.peers_max:
            return _RefuseConnection()
        handler = server()
        loop = asyncio.get_running_loop()
        self._pending[handler] = loop.call_later(self._config.handshake_ms_max / 1_000, self._cut, handler)
        return handler

    def _cut(self, handler: Any) -> None:
        """The connection did not prove in time who it is."""
        self._pending.pop(handler, None)
        if handler.transport is not None:
            handler.transport.abort()

    async def _accept(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(**self._socket_options())
        await socket.prepare(request)
        transport = request.transport
        assert transport is not None
        try:
            peer = await asyncio.wait_for(self._handshake_in(socket, transport), self._config.handshake_ms_max / 1_000)
        except (HandshakeRefused, CertificateError, TimeoutError, ConnectionError) as error:
            await self._refuse(socket, error)
            return socket
        finally:
            handle = self._pending.pop(request.protocol, None)
            if handle is not None:
                handle.cancel()
        await self._serve(peer)
        return socket

    async def _handshake_in(self, socket: WebSocket, transport: asyncio.BaseTransport) -> _Peer:
        key = _key_of(transport.get_extra_info("ssl_object"))
        acceptor = Acceptor(self._hello(), certificate_key=key, admit=self._admit)
        kind, payload = await _receive_one(socket)
        established, answer = acceptor.receive(kind, payload)
        await socket.send_bytes(encode_frame(Kind.HELLO_ACK, answer))
        address = transport.get_extra_info("peername")
        return self._make_peer(socket, established, dialled=False, address=f"{address[0]}:{address[1]}")

    def _admit(self, hello: Hello) -> Refusal | None:
        if self._allowed(hello.key) is None:
            return Refusal.NOT_MEMBER
        if self._book.is_banned(hello.key, _now_ms()):
            return Refusal.BUSY
        known = self._peers.get(hello.key)
        if known is not None and not self._replaces(known, hello, dialled=False):
            return Refusal.DUPLICATE
        return None

    def _replaces(self, known: _Peer, hello: Hello, *, dialled: bool) -> bool:
        """Whether a new connection takes the place of `known`: a restarted peer's does, else the smaller key's dial."""
        if known.hello.instance != hello.instance:
            return True
        dialler = self._identity.public if dialled else hello.key
        return known.dialled != dialled and dialler == min(self._identity.public, hello.key)

    async def _refuse(self, socket: WebSocket, error: BaseException) -> None:
        reason = error.reason if isinstance(error, HandshakeRefused) else Refusal.MALFORMED
        self._limited.warning("handshake refused", _now_ms(), reason=reason.name)
        with suppress(ConnectionError, RuntimeError):
            await socket.send_bytes(encode_frame(Kind.REJECT, encode_reject(reason)))
            await socket.close()

    # Dialling

    async def _dial_forever(self) -> None:
        while True:
            for address in self._book.due(_now_ms()):
                if address.key in self._peers or self._allowed(address.key) is None:
                    self._book.dial_failed(address.key, _now_ms())
                else:
                    self._spawn(self._dial(address))
            await asyncio.sleep(DIAL_TICK_S)

    async def _dial(self, address: Address) -> None:
        assert self._session is not None
        socket: aiohttp.ClientWebSocketResponse | None = None
        try:
            async with asyncio.timeout(self._config.handshake_ms_max / 1_000):
                url = f"https://{_in_url(address.host)}:{address.port}{PATH}"
                socket = await self._session.ws_connect(url, **self._socket_options())
                peer = await self._handshake_out(socket, address)
        except (aiohttp.ClientError, OSError, TimeoutError, ssl.SSLError, CertificateError, HandshakeRefused) as error:
            if isinstance(error, HandshakeRefused) and error.reason is not Refusal.DUPLICATE:
                self._limited.warning("dial refused", _now_ms(), reason=error.reason.name, by_peer=error.by_peer)
            self._book.dial_failed(address.key, _now_ms())
            if socket is not None:
                await socket.close()
            return
        await self._serve(peer)

    async def _handshake_out(self, socket: aiohttp.ClientWebSocketResponse, address: Address) -> _Peer:
        key = _key_of(socket.get_extra_info("ssl_object"))
        dialler = Dialler(self._hello(), expected_key=address.key, certificate_key=key)
        await socket.send_bytes(encode_frame(Kind.HELLO, dialler.start()))
        kind, payload = await _receive_one(socket)
        established = dialler.receive(kind, payload)
        if self._allowed(key) is None:
            raise HandshakeRefused(Refusal.NOT_MEMBER)
        known = self._peers.get(key)
        if known is not None and not self._replaces(known, established.peer, dialled=True):
            raise HandshakeRefused(Refusal.DUPLICATE)
        return self._make_peer(socket, established, dialled=True, address=f"{address.host}:{address.port}")

    def _hello(self) -> Hello:
        config = self._config
        return Hello(
            chain_id=self._chain_id,
            key=self._identity.public,
            role=self._role,
            software=config.software,
            height=self.height,
            instance=self._instance,
            challenge=self._rng.randbytes(NONCE_SIZE_BYTES),
            host=config.advertise_host,
            port=config.advertise_port,
        )

    def _socket_options(self) -> dict[str, Any]:
        return {
            "compress": 0,
            "max_msg_size": MESSAGE_SIZE_BYTES_MAX + 1,
            "heartbeat": self._config.heartbeat_ms / 1_000,
            "autoping": True,
        }

    # One connection

    def _make_peer(self, socket: WebSocket, established: Established, *, dialled: bool, address: str) -> _Peer:
        hello = established.peer
        role = self._allowed(hello.key) or ""
        queue = OutQueue(self._config.queue_limits)
        return _Peer(hello.key, socket, hello, established.version, dialled, role, address, _now_ms(), queue)

    async def _serve(self, peer: _Peer) -> None:
        """Carry a connection from its handshake to its end."""
        known = self._peers.get(peer.key)
        if known is not None:
            self._close(known)
        self._peers[peer.key] = peer
        self._book.connected(peer.key, _now_ms())
        self._handlers.on_peer_up(peer.key)
        writer = asyncio.get_running_loop().create_task(self._write(peer))
        try:
            await self._read(peer)
        except FrameError as error:
            self._limited.warning("bad frame", _now_ms(), fault=error.fault.name)
            self._book.misbehaved(peer.key, _now_ms(), error.fault)
        except (ConnectionError, RuntimeError):
            pass  # the other end is gone
        finally:
            writer.cancel()
            self._close(peer)
            with suppress(asyncio.CancelledError, Exception):
                await writer
            with suppress(Exception):
                await peer.socket.close()

    def _close(self, peer: _Peer) -> None:
        """Forget a connection at once; its tasks end by themselves."""
        if peer.closing:
            return
        peer.closing = True
        peer.wake.set()
        if self._peers.get(peer.key) is peer:
            del self._peers[peer.key]
            self._book.disconnected(peer.key, _now_ms())
            self._handlers.on_peer_down(peer.key)

    async def _read(self, peer: _Peer) -> None:
        on_frame, ready = self._handlers.on_frame, self._handlers.ready
        while not peer.closing:
            message = await peer.socket.receive()
            if message.type is WSMsgType.BINARY:
                bulk = False
                for kind, payload in decode_frames(message.data):
                    channel = KINDS[kind].channel
                    peer.bytes_in[channel] += len(payload)
                    bulk = bulk or channel is Channel.BULK
                    if peer.closing:
                        return
                    try:
                        on_frame(peer.key, kind, payload)
                    except Exception as error:
                        self._log.warning("frame handler failed", kind=kind.name, error=type(error).__name__)
                if bulk and ready is not None:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(ready(peer.key), self._config.pause_ms_max / 1_000)
            elif message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                if isinstance(message.data, aiohttp.WebSocketError):
                    raise FrameError(Fault.FRAME_TOO_LARGE)
                return
            else:
                raise FrameError(Fault.MALFORMED_FRAME)

    async def _write(self, peer: _Peer) -> None:
        while True:
            await peer.wake.wait()
            peer.wake.clear()
            if peer.closing:
                await peer.socket.close()
                return
            while message := peer.queue.next_message():
                try:
                    await peer.socket.send_bytes(message)
                except (ConnectionError, RuntimeError):
                    return


async def _receive_one(socket: WebSocket) -> tuple[Kind, bytes]:
    """The single frame of a handshake's message."""
    message = await socket.receive()
    if message.type is not WSMsgType.BINARY:
        raise HandshakeRefused(Refusal.MALFORMED)
    try:
        frames = decode_frames(message.data)
    except FrameError:
        raise HandshakeRefused(Refusal.MALFORMED) from None
    if len(frames) != 1:
        raise HandshakeRefused(Refusal.MALFORMED)
    return frames[0]


def _key_of(ssl_object: Any) -> bytes:
    if ssl_object is None:
        raise CertificateError("no TLS")
    return certificate_key(ssl_object.getpeercert(binary_form=True))


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
