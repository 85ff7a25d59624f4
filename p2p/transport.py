"""The transport: frames to and from authenticated peers over aiohttp WebSockets and TLS 1.3. The only I/O of p2p.

One connection a pair of nodes, one reader and one writer task a connection. The pure cores decide everything that can
be decided without a socket: frames, what goes first, who may connect, whom to dial when. A slow or hostile peer costs
only itself: its queue is bounded, its faults close its own connection, and what it makes us log is rate-limited.

Must not know what a payload means. See docs/p2p.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Iterable
from random import Random
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import StreamWriter, WebSocketError, WebSocketWriter, WSCloseCode
from yarl import URL

from ledger.crypto import KeyPair
from p2p.config import Handlers, LimitedLog, Log, PeerInfo, TransportConfig, short_key
from p2p.connection import Connection, monotonic_ms
from p2p.errors import CertificateError, Fault, FrameError, HandshakeRefused, Refusal
from p2p.frames import (
    HANDSHAKE_KINDS,
    HEADER_SIZE_BYTES,
    KINDS,
    MESSAGE_SIZE_BYTES_MAX,
    Channel,
    Kind,
    decode_frames,
    encode_frame,
)
from p2p.handshake import NONCE_SIZE_BYTES, Acceptor, Dialler, Hello, Role, encode_reject
from p2p.listener import Listener, Pending, abort
from p2p.peerbook import Address, PeerBook, Source
from p2p.peers import Peers
from p2p.tls import TlsContexts, certificate_key

PATH = "/p2p/1"
CLOSE_S_MAX = 1.0  # how long a peer may take to answer our closing frame before it is cut
HANDSHAKES_PER_KEY_MAX = 2  # one connection may replace another; more only holds memory
# asyncio raises these, and their subclasses, for whatever a network does.
_NETWORK_ERRORS = (OSError, TimeoutError, aiohttp.ClientError)
# A refused handshake that only a faulty peer can cause, and what it counts as.
_REFUSAL_FAULTS = {
    Refusal.WRONG_CHAIN: Fault.WRONG_CHAIN,
    Refusal.KEY_MISMATCH: Fault.KEY_MISMATCH,
    Refusal.MALFORMED: Fault.MALFORMED_PAYLOAD,
}


class Transport:
    """All connections of one node. Use from one event loop; nothing here is thread-safe."""

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
        """`role` is "validator" or "follower"; `allowed(key)` gives the role a key has now, None for a stranger."""
        self._config = config
        self._identity = identity
        self._chain_id = chain_id
        self._role = Role[role.upper()]
        self._handlers = handlers
        self._allowed = allowed
        self._rng = rng
        self._log = log
        self._limited_log = LimitedLog(log)
        self._instance = rng.randbytes(NONCE_SIZE_BYTES)
        self._height = 0
        self._book = PeerBook(identity.public, rng, config.peerbook)
        self._tls = TlsContexts(identity)
        self._tls.trust(config.known_keys)
        self._shaking: Counter[bytes] = Counter()  # inbound handshakes in progress, by certificate key
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dial_wake = asyncio.Event()
        self._peers: Peers[_Link] = Peers(
            config,
            identity.public,
            book=self._book,
            handlers=handlers,
            allowed=allowed,
            log=log,
            limited_log=self._limited_log,
            changed=self._dial_wake.set,
        )
        self._listener: Listener | None = None
        self._session: aiohttp.ClientSession | None = None

    # Life

    async def start(self) -> None:
        """Listen and begin to dial. OSError if the address cannot be bound."""
        server = web.Server(self._on_request)
        self._listener = Listener(
            self._config,
            self._tls.server,
            lambda pending: _Inbound(server, pending, self._limited_log, self._track),
            self._limited_log,
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_refuse_redirects()],
            ws_response_class=_ClientSocket,
            trust_env=False,
        )
        self._spawn(self._listener.accept_forever(self._spawn))
        self._spawn(self._dial_loop())
        self._spawn(self._ping_loop())

    async def stop(self) -> None:
        """Close everything and return when no task or socket of ours is left. Safe to call twice."""
        if self._listener is not None:
            self._listener.close()
        for connection in self._peers.connections():
            self._peers.drop(connection)
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(set(self._tasks), timeout=CLOSE_S_MAX)
        if self._session is not None:
            await self._session.close()
        for _ in range(2):  # an aborted TLS transport reports its end in two turns of the loop
            await asyncio.sleep(0)

    @property
    def port(self) -> int:
        """The port listened on; ValueError before `start`."""
        if self._listener is None:
            raise ValueError("not started")
        return self._listener.port

    # What the node tells us

    def set_height(self, height: int) -> None:
        """The last committed height, told to peers in the handshake."""
        self._height = height

    def set_members(self, keys: Iterable[bytes]) -> None:
        """Membership changed: `keys` pass TLS from now on, and whoever `allowed` no longer names is dropped."""
        for key in keys:
            try:
                self._tls.trust((key,))
            except CertificateError as error:  # one bad key must not keep the others out
                self._log.warning("member key cannot be trusted", key=short_key(key), reason=str(error))
        self._peers.recheck()
        self._dial_wake.set()

    def add_address(self, key: bytes, host: str, port: int) -> None:
        """The operator's address for `key`; it wins over what the peer says of itself."""
        self._book.add(key, host, port, Source.CONFIG, monotonic_ms())
        self._dial_wake.set()

    def misbehaved(self, key: bytes, reason: Fault) -> None:
        """Close the connection of `key` and ban it for a while (1 s growing to 60 s)."""
        self._peers.misbehaved(key, reason)

    # Sending

    def send(self, key: bytes, kind: Kind, payload: bytes) -> bool:
        """Queue a frame for one peer; False if it is not connected or its bulk lane is full."""
        return self._peers.send(key, kind, payload)

    def broadcast(self, kind: Kind, payload: bytes, *, only: Collection[bytes] | None = None) -> int:
        """Queue a frame for every connected peer, or those in `only`; returns how many took it."""
        return self._peers.broadcast(kind, payload, only)

    def peers(self) -> list[PeerInfo]:
        """The established connections."""
        return self._peers.info()

    def round_trips_ms(self) -> dict[bytes, float]:
        """The shortest recent round trip of each established connection, by peer; what is not measured yet is left out:
        the path without what waits on it, whether or not it has become a longer one."""
        measured = ((each.peer.key, each.link.rtt_ms_min) for each in self._peers.connections())
        return {key: rtt_ms for key, rtt_ms in measured if rtt_ms is not None}

    # Accepting

    async def _on_request(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        assert isinstance(protocol, _Inbound)
        if request.path != PATH:
            raise web.HTTPNotFound
        socket = web.WebSocketResponse(
            timeout=CLOSE_S_MAX,
            autoping=False,
            heartbeat=self._config.heartbeat_ms / 1_000,
            compress=False,
            max_msg_size=MESSAGE_SIZE_BYTES_MAX + 1,
        )
        await socket.prepare(request)
        if request.transport is None:
            return socket
        link = _Link(socket, protocol, request.transport, self._config)
        try:
            connection = await self._answer(link)
            if connection is not None:
                protocol.pending.release()
                await self._run(connection)
        except (*_NETWORK_ERRORS, CertificateError):
            pass
        finally:
            await link.close()
        return socket

    async def _answer(self, link: _Link) -> Connection[_Link] | None:
        """The acceptor's half of the handshake."""
        key = certificate_key(link.peer_certificate())
        self._shaking[key] += 1
        try:
            if self._shaking[key] > HANDSHAKES_PER_KEY_MAX:
                raise HandshakeRefused(Refusal.BUSY)
            acceptor = Acceptor(
                self._hello(), certificate_key=key, admit=lambda peer: self._peers.refusal(peer, dialled=False)
            )
            established, answer = acceptor.receive(*await _first_frame(link))
            connection = self._peers.establish(link, established, dialled=False)
            try:
                # Written before the writer task exists, so nothing can overtake it.
                await link.send(encode_frame(Kind.HELLO_ACK, answer))
            except BaseException:
                self._peers.drop(connection)
                raise
            return connection
        except HandshakeRefused as refused:
            await self._refuse(link, key, refused)
        except FrameError as error:
            self.misbehaved(key, error.fault)
        finally:
            self._shaking[key] -= 1
            if not self._shaking[key]:
                del self._shaking[key]
        return None

    # Dialling

    async def _dial_loop(self) -> None:
        while True:
            for address in self._book.due(monotonic_ms()):
                self._spawn(self._dial(address))
            self._dial_wake.clear()
            now_ms = monotonic_ms()
            due_ms = self._book.next_due_ms(now_ms)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due_ms is None else (due_ms - now_ms) / 1_000):
                    await self._dial_wake.wait()

    async def _dial(self, address: Address) -> None:
        connection = None
        try:
            connection = await self._connect(address)
        finally:
            if connection is None:
                self._book.dial_failed(address.key, monotonic_ms())
                self._dial_wake.set()
        if connection is not None:
            try:
                await self._run(connection)
            finally:
                await connection.link.close()

    async def _connect(self, address: Address) -> Connection[_Link] | None:
        """Dial, TLS and the dialler's half of the handshake."""
        if self._allowed(address.key) is None or address.key in self._peers:
            return None
        link = None
        connection = None
        try:
            async with asyncio.timeout(self._config.handshake_ms_max / 1_000):
                link = await self._open(address)
                certified = certificate_key(link.peer_certificate())
                if certified != address.key:
                    # Our address book's mistake, or a proxy's: nothing the node over there is to blame for.
                    self._limited_log.warning("another node answers", monotonic_ms(), key=short_key(address.key))
                    return None
                dialler = Dialler(self._hello(), expected_key=address.key, certificate_key=certified)
                await link.send(encode_frame(Kind.HELLO, dialler.start()))
                established = dialler.receive(*await _first_frame(link))
                reason = self._peers.refusal(established.peer, dialled=True)
                if reason is not None:
                    raise HandshakeRefused(reason)
            connection = self._peers.establish(link, established, dialled=True)
        except HandshakeRefused as refused:
            assert link is not None
            await self._refuse(link, address.key, refused)
        except FrameError as error:
            self.misbehaved(address.key, error.fault)
        except (*_NETWORK_ERRORS, CertificateError, ValueError) as error:
            self._log.debug("dial failed", key=short_key(address.key), error=type(error).__name__)
        finally:
            if connection is None and link is not None:
                await link.close()
        return connection

    async def _open(self, address: Address) -> _Link:
        assert self._session is not None
        socket = await self._session.ws_connect(
            URL.build(scheme="wss", host=address.host, port=address.port, path=PATH),
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S_MAX),
            autoping=False,
            heartbeat=self._config.heartbeat_ms / 1_000,
            ssl=self._tls.client,
            compress=0,
            max_msg_size=MESSAGE_SIZE_BYTES_MAX + 1,
        )
        assert isinstance(socket, _ClientSocket)
        return _Link(socket, socket.writer.protocol, socket.writer.transport, self._config)

    # Handshake, both sides

    def _hello(self) -> Hello:
        return Hello(
            chain_id=self._chain_id,
            key=self._identity.public,
            role=self._role,
            software=self._config.software,
            height=self._height,
            instance=self._instance,
            challenge=self._rng.randbytes(NONCE_SIZE_BYTES),
            host=self._config.advertise_host,
            port=self._config.advertise_port,
        )

    async def _refuse(self, link: _Link, key: bytes, refused: HandshakeRefused) -> None:
        """Tell the peer why, unless it told us, and remember a fault of its own."""
        reason = refused.reason
        if reason is not Refusal.DUPLICATE:
            self._limited_log.warning(
                "handshake refused", monotonic_ms(), key=short_key(key), reason=reason.name, by_peer=refused.by_peer
            )
        if refused.by_peer:
            return
        fault = _REFUSAL_FAULTS.get(reason)
        if fault is not None and self._allowed(key) is not None:
            self._book.misbehaved(key, monotonic_ms(), fault)
        with contextlib.suppress(*_NETWORK_ERRORS):
            async with asyncio.timeout(CLOSE_S_MAX):
                await link.send(encode_frame(Kind.REJECT, encode_reject(reason)))
                await link.socket.close()

    # Established connections

    async def _run(self, connection: Connection[_Link]) -> None:
        """Read until the connection ends, whatever ends it."""
        if connection.closed:  # replaced or dropped between its handshake and now
            return
        connection.writer = asyncio.get_running_loop().create_task(self._write(connection))
        link = connection.link
        ready = self._handlers.ready
        try:
            while (message := await link.receive()) is not None and not connection.closed:
                if self._deliver(connection, decode_frames(message)) and ready is not None:
                    await self._pause(connection)
        except FrameError as error:
            if not connection.closed:
                self.misbehaved(connection.peer.key, error.fault)
        except _NETWORK_ERRORS:
            pass
        finally:
            self._peers.drop(connection)
            await asyncio.wait({connection.writer})

    def _deliver(self, connection: Connection[_Link], frames: list[tuple[Kind, bytes]]) -> bool:
        """Hand frames to the node; True if there was bulk among them."""
        key = connection.peer.key
        on_frame = self._handlers.on_frame
        bytes_in = connection.bytes_in
        bulk = False
        for kind, payload in frames:
            if connection.closed:  # by the handler, for an earlier frame
                return False
            channel = KINDS[kind].channel
            bytes_in[channel] += HEADER_SIZE_BYTES + len(payload)
            if kind in HANDSHAKE_KINDS:
                if kind is not Kind.REJECT:
                    raise FrameError(Fault.UNEXPECTED_KIND)
                self._peers.drop(connection)  # the dialler decided for its other connection with us
                return False
            bulk = bulk or channel is Channel.BULK
            try:
                on_frame(key, kind, payload)
            except Exception as error:  # our bug must not cost this peer its connection, let alone another
                self._limited_log.handler_failed("on_frame", error, monotonic_ms())
        return bulk

    async def _pause(self, connection: Connection[_Link]) -> None:
        assert self._handlers.ready is not None
        try:
            async with asyncio.timeout(self._config.pause_ms_max / 1_000):
                await self._handlers.ready(connection.peer.key)
        except TimeoutError:
            pass
        except Exception as error:
            self._limited_log.handler_failed("ready", error, monotonic_ms())

    async def _write(self, connection: Connection[_Link]) -> None:
        """Send what is queued as soon as it is; whatever gathered while a send waited leaves coalesced."""
        link, queue, wake = connection.link, connection.queue, connection.wake
        try:
            while True:
                await wake.wait()
                wake.clear()
                while message := queue.next_message():
                    await link.send(message)
                if connection.ping_due:
                    connection.ping_due = False
                    await link.ping()
        except _NETWORK_ERRORS:
            link.abort()  # ends the reader, which cleans up

    async def _ping_loop(self) -> None:
        """Measure round trips; that silent connections end is up to the WebSocket's own heartbeat."""
        while True:
            await asyncio.sleep(self._config.heartbeat_ms / 1_000)
            for connection in self._peers.connections():
                connection.ping_due = True
                connection.wake.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._track(asyncio.get_running_loop().create_task(work))

    def _track(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Link:
    """A WebSocket of either side, with flow control after each message and an end that is immediate."""

    def __init__(
        self,
        socket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
        protocol: BaseProtocol,
        transport: asyncio.Transport,
        config: TransportConfig,
    ) -> None:
        self.socket = socket
        self._rtts_ms: deque[float] = deque(maxlen=config.rtts_kept)
        self._transport = transport
        self._drain = StreamWriter(protocol, asyncio.get_running_loop()).drain
        self._ping_ns = 0
        # What is in a buffer can no longer be overtaken, so buffers are small here and in the kernel.
        transport.set_write_buffer_limits(high=config.write_buffer_bytes)
        raw = transport.get_extra_info("socket")
        if raw is not None and hasattr(sockets, "TCP_NOTSENT_LOWAT"):
            raw.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NOTSENT_LOWAT, config.write_buffer_bytes)

    @property
    def rtt_ms(self) -> float | None:
        return self._rtts_ms[-1] if self._rtts_ms else None

    @property
    def rtt_ms_min(self) -> float | None:
        return min(self._rtts_ms, default=None)

    async def send(self, message: bytes) -> None:
        await self.socket.send_bytes(message)
        await self._drain()

    async def ping(self) -> None:
        self._ping_ns = time.monotonic_ns()
        await self.socket.ping(self._ping_ns.to_bytes(8, "big"))

    async def receive(self) -> bytes | None:
        """The next message; None when the connection ended. FrameError for what is not a binary message in limits."""
        while True:
            message = await self.socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                return bytes(message.data)  # no copy unless it came in fragments
            if message.type is aiohttp.WSMsgType.PING:
                await self.socket.pong(message.data)
            elif message.type is aiohttp.WSMsgType.PONG:
                if self._ping_ns and message.data == self._ping_ns.to_bytes(8, "big"):
                    self._rtts_ms.append((time.monotonic_ns() - self._ping_ns) / 1e6)
                    self._ping_ns = 0  # answered: a copy of it says nothing more
            elif message.type is aiohttp.WSMsgType.TEXT:
                raise FrameError(Fault.MALFORMED_FRAME)
            elif message.type is aiohttp.WSMsgType.ERROR and isinstance(message.data, WebSocketError):
                too_large = message.data.code == WSCloseCode.MESSAGE_TOO_BIG
                raise FrameError(Fault.FRAME_TOO_LARGE if too_large else Fault.MALFORMED_FRAME)
            else:
                return None

    def peer_certificate(self) -> bytes | None:
        tls = self._transport.get_extra_info("ssl_object")
        return None if tls is None else tls.getpeercert(binary_form=True)

    def address(self) -> str:
        name = self._transport.get_extra_info("peername")
        return f"{name[0]}:{name[1]}" if name else ""

    def abort(self) -> None:
        abort(self._transport)

    async def close(self) -> None:
        """Abort, and let aiohttp drop what it holds for the connection (timers, the pooled client connection)."""
        self.abort()
        with contextlib.suppress(*_NETWORK_ERRORS):
            await self.socket.close()


class _Inbound(web.RequestHandler):
    """aiohttp's HTTP protocol, with our deadline, our accounting of its tasks, and one short line for bad requests."""

    __slots__ = ("_limited_log", "_track", "pending")

    def __init__(
        self, server: web.Server, pending: Pending, limited_log: LimitedLog, track: Callable[[asyncio.Task[Any]], None]
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), access_log=None)  # type: ignore[arg-type]
        self.pending = pending
        self._limited_log = limited_log
        self._track = track

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.pending.transport = self.transport

    async def start(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._track(task)
        await super().start()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.pending.release()
        super().connection_lost(exc)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        error = kw.get("exc_info")
        self._limited_log.warning(
            "bad request on the peer port", monotonic_ms(), address=self.pending.host, error=type(error).__name__
        )


class _ClientSocket(aiohttp.ClientWebSocketResponse):
    """aiohttp's client WebSocket; keeps the writer, through which protocol and transport are reached."""

    def __init__(self, reader: Any, writer: WebSocketWriter, *args: Any, **kwargs: Any) -> None:
        super().__init__(reader, writer, *args, **kwargs)
        self.writer = writer


async def _first_frame(link: _Link) -> tuple[Kind, bytes]:
    """The one frame of a handshake message."""
    message = await link.receive()
    if message is None:
        raise ConnectionResetError
    frames = decode_frames(message)
    if len(frames) != 1:
        raise FrameError(Fault.MALFORMED_FRAME)
    return frames[0]


def _refuse_redirects() -> aiohttp.TraceConfig:
    """A peer must not be able to send our HTTP client elsewhere."""

    async def refuse(*_: object) -> None:
        raise aiohttp.ClientError("redirected")

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(refuse)
    return trace
