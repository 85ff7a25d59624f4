"""The transport over real sockets on loopback: who gets in, who is thrown out, and that nobody else notices."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from random import Random

import aiohttp
import pytest

from ledger.codec import encode
from ledger.crypto import KeyPair, hash_bytes
from node.cluster.links import Link
from p2p.config import Handlers, TransportConfig
from p2p.errors import Fault, Refusal
from p2p.frames import KIB, KINDS, Kind, decode_frames, encode_frame
from p2p.handshake import Hello, Role, decode_reject
from p2p.listener import abort
from p2p.peerbook import PeerBookConfig
from p2p.tls import TlsContexts
from p2p.transport import PATH, Transport

CHAIN = hash_bytes(b"chain")
# In the order of their public keys, so that A dials first and wins ties.
A, B, C, D = sorted((KeyPair.from_seed(bytes([n]) * 32) for n in range(1, 5)), key=lambda pair: pair.public)
MEMBERS = {pair.public for pair in (A, B, C)}
QUICK = PeerBookConfig(backoff_ms_base=10, backoff_ms_cap=40, grace_ms=20)


class Recorder:
    """Handlers and log that remember; waiting is for a condition, woken by whatever happens."""

    def __init__(self) -> None:
        self.frames: list[tuple[bytes, Kind, bytes]] = []
        self.ups: list[bytes] = []
        self.downs: list[bytes] = []
        self.lines: list[tuple[str, dict[str, object]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.react: Callable[[bytes, Kind, bytes], object] | None = None
        self._changed = asyncio.Event()

    @property
    def handlers(self) -> Handlers:
        return Handlers(self.on_frame, self.on_peer_up, self.on_peer_down, self.ready)

    def on_frame(self, key: bytes, kind: Kind, payload: bytes) -> None:
        self.frames.append((key, kind, payload))
        self._changed.set()
        if self.react is not None:
            self.react(key, kind, payload)

    def on_peer_up(self, key: bytes) -> None:
        self.ups.append(key)
        self._changed.set()

    def on_peer_down(self, key: bytes) -> None:
        self.downs.append(key)
        self._changed.set()

    async def ready(self, key: bytes) -> None:
        await self.gate.wait()

    def debug(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))
        self._changed.set()

    info = warning = debug

    def logged(self, event: str) -> list[dict[str, object]]:
        return [fields for line, fields in self.lines if line == event]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Node:
    """A transport and what it did."""

    def __init__(
        self,
        identity: KeyPair,
        *,
        chain_id: bytes = CHAIN,
        members: set[bytes] | None = None,
        config: TransportConfig | None = None,
    ) -> None:
        self.key = identity.public
        self.members = set(MEMBERS) if members is None else members
        self.record = Recorder()
        self.transport = Transport(
            config or TransportConfig(peerbook=QUICK),
            identity,
            chain_id,
            role="validator",
            handlers=self.record.handlers,
            allowed=lambda key: "validator" if key in self.members else None,
            rng=Random(identity.public),
            log=self.record,
        )
        self.transport.set_members(self.members)

    def dial(self, other: Node) -> None:
        self.transport.add_address(other.key, "127.0.0.1", other.transport.port)

    def connected(self) -> set[bytes]:
        return {peer.key for peer in self.transport.peers()}

    def payloads(self) -> list[bytes]:
        return [payload for _, _, payload in self.record.frames]


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """Started transports; afterwards nothing of them may be left, not even a task."""
    try:
        for node in nodes:
            await node.transport.start()
        yield
    finally:
        for node in nodes:
            await node.transport.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def connect(one: Node, other: Node) -> None:
    one.dial(other)
    await one.record.until(lambda: other.key in one.connected())
    await other.record.until(lambda: one.key in other.connected())


def hello(identity: KeyPair, chain_id: bytes = CHAIN) -> Hello:
    return Hello(
        chain_id=chain_id,
        key=identity.public,
        role=Role.VALIDATOR,
        software="raw",
        height=0,
        instance=bytes(16),
        challenge=bytes(16),
    )


@asynccontextmanager
async def raw_socket(
    identity: KeyPair, target: Node, *, autoping: bool = True
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket with a real certificate and no manners."""
    tls = TlsContexts(identity)
    tls.trust([target.key])
    url = f"wss://127.0.0.1:{target.transport.port}{PATH}"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, ssl=tls.client, max_msg_size=0, autoping=autoping) as socket,
    ):
        yield socket


async def refusal(socket: aiohttp.ClientWebSocketResponse, value: Hello) -> Refusal:
    await socket.send_bytes(encode_frame(Kind.HELLO, encode(value.to_value())))
    ((kind, payload),) = decode_frames(await socket.receive_bytes(timeout=5))
    assert kind is Kind.REJECT
    return decode_reject(payload)


async def greet(socket: aiohttp.ClientWebSocketResponse, identity: KeyPair) -> None:
    await socket.send_bytes(encode_frame(Kind.HELLO, encode(hello(identity).to_value())))
    ((kind, _),) = decode_frames(await socket.receive_bytes(timeout=5))
    assert kind is Kind.HELLO_ACK


async def closed(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Read until the other side ends the connection."""
    async with asyncio.timeout(5):
        while (await socket.receive()).type not in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED):
            pass


# Getting in


@pytest.mark.asyncio
async def test_members_authenticate_each_other_and_exchange_frames() -> None:
    a, b = Node(A), Node(B)
    a.transport.set_height(7)
    async with running(a, b):
        await connect(a, b)
        assert a.transport.send(B.public, Kind.VOTE, b"from a")
        assert b.transport.broadcast(Kind.BATCH, b"from b") == 1
        await b.record.until(lambda: b.record.frames)
        await a.record.until(lambda: a.record.frames)
        assert b.record.frames == [(A.public, Kind.VOTE, b"from a")]
        assert a.record.frames == [(B.public, Kind.BATCH, b"from b")]
        (info,) = b.transport.peers()
        assert (info.key, info.dialled, info.role, info.height) == (A.public, False, "validator", 7)
        assert info.bytes_in == (5 + len(b"from a"), 0, 0)
        assert info.bytes_out == (0, 0, 5 + len(b"from b"))
        assert b.transport.broadcast(Kind.STATUS, b"", only=[C.public]) == 0
        assert not b.transport.send(C.public, Kind.STATUS, b"")
    assert a.record.ups == a.record.downs == [B.public]


@pytest.mark.asyncio
async def test_round_trip_is_measured() -> None:
    a, b = Node(A), Node(B)
    async with running(a, b):
        await connect(a, b)
        # The pong comes before the answer to a vote sent after the ping: both travel in order.
        b.record.react = lambda key, kind, payload: b.transport.send(key, kind, payload)
        a.transport.send(B.public, Kind.VOTE, b"")
        await a.record.until(lambda: a.record.frames)
        a.transport.send(B.public, Kind.VOTE, b"")
        await a.record.until(lambda: len(a.record.frames) == 2)
        (info,) = a.transport.peers()
        assert info.rtt_ms is not None
        assert 0 < info.rtt_ms < 1_000


@pytest.mark.asyncio
async def test_a_path_that_becomes_longer_is_noticed() -> None:
    """The shortest round trip is of the last ones: what waits on the path is left out, a longer path is not."""
    config = TransportConfig(peerbook=QUICK, heartbeat_ms=200, rtts_kept=2)
    a, b = Node(A, config=config), Node(B, config=config)
    async with running(a, b):
        link = Link(0, b.transport.port)
        await link.start()
        try:
            a.transport.add_address(b.key, "127.0.0.1", link.port)
            async with asyncio.timeout(5):
                while not (short := a.transport.round_trips_ms()):
                    await asyncio.sleep(0.01)
                link.set_delay(int(short[b.key]) + 30)
                while a.transport.round_trips_ms()[b.key] < 2 * link.delay_ms:
                    await asyncio.sleep(0.01)
        finally:
            await link.close()
        await a.record.until(lambda: a.record.downs)


@pytest.mark.asyncio
async def test_a_ping_is_answered_once() -> None:
    """A second answer, or one to no ping, measures nothing."""
    a = Node(A)
    async with running(a), raw_socket(B, a, autoping=False) as socket:
        await greet(socket, B)
        ping = await socket.receive(timeout=5)
        assert ping.type is aiohttp.WSMsgType.PING

        async def measured(*answers: bytes) -> tuple[float | None, dict[bytes, float]]:
            """After these pongs were read: what is sent later is read later."""
            for answer in answers:
                await socket.pong(answer)
            count = len(a.record.frames)
            await socket.send_bytes(encode_frame(Kind.VOTE, b""))
            await a.record.until(lambda: len(a.record.frames) > count)
            return a.transport.peers()[0].rtt_ms, a.transport.round_trips_ms()

        assert await measured(bytes(8)) == (None, {})
        once = await measured(ping.data)
        assert B.public in once[1]
        assert await measured(ping.data, bytes(8)) == once


@pytest.mark.asyncio
async def test_nodes_that_dial_each_other_keep_one_connection_dialled_by_the_smaller_key() -> None:
    config = TransportConfig(peerbook=replace(QUICK, grace_ms=0))
    a, b = Node(A, config=config), Node(B, config=config)
    async with running(a, b):
        a.dial(b)
        b.dial(a)
        await b.record.until(lambda: [peer.dialled for peer in b.transport.peers()] == [False])
        await a.record.until(lambda: [peer.dialled for peer in a.transport.peers()] == [True])
        a.transport.send(B.public, Kind.VOTE, b"x")
        await b.record.until(lambda: b"x" in b.payloads())
        assert len(a.transport.peers()) == len(b.transport.peers()) == 1


@pytest.mark.asyncio
async def test_strangers_key_is_refused_by_tls() -> None:
    a, stranger = Node(A), Node(D)
    async with running(a, stranger):
        stranger.members.add(A.public)
        stranger.dial(a)
        await a.record.until(lambda: a.record.logged("TLS refused"))
        await stranger.record.until(lambda: stranger.record.logged("dial failed"))
        assert a.connected() == stranger.connected() == set()


@pytest.mark.asyncio
async def test_key_whose_certificate_passes_tls_but_is_no_member_any_more_is_refused() -> None:
    a = Node(A)
    a.members.discard(B.public)
    async with running(a), raw_socket(B, a) as socket:
        assert await refusal(socket, hello(B)) is Refusal.NOT_MEMBER


@pytest.mark.asyncio
async def test_certificate_whose_key_differs_from_hello_is_refused() -> None:
    a = Node(A)
    async with running(a), raw_socket(B, a) as socket:
        assert await refusal(socket, hello(C)) is Refusal.KEY_MISMATCH
        assert a.record.ups == []


@pytest.mark.asyncio
async def test_another_node_at_the_dialled_address_is_left_alone_and_not_blamed() -> None:
    a, c = Node(A), Node(C)
    async with running(a, c):
        a.transport.add_address(B.public, "127.0.0.1", c.transport.port)
        await a.record.until(lambda: a.record.logged("another node answers"))
        await connect(a, c)
        assert a.connected() == {C.public}


@pytest.mark.asyncio
async def test_frame_before_the_handshake_is_refused() -> None:
    """Trap 35."""
    a = Node(A)
    async with running(a), raw_socket(B, a) as socket:
        await socket.send_bytes(encode_frame(Kind.VOTE, b"early"))
        ((kind, payload),) = decode_frames(await socket.receive_bytes(timeout=5))
        assert (kind, decode_reject(payload)) == (Kind.REJECT, Refusal.MALFORMED)
        assert a.record.frames == []


# Being thrown out, at nobody else's cost


@pytest.mark.asyncio
async def test_wrong_chain_costs_that_peer_its_connection_and_a_ban_and_others_keep_working() -> None:
    a, b = Node(A), Node(B)
    async with running(a, b):
        await connect(a, b)
        async with raw_socket(C, a) as socket:
            assert await refusal(socket, hello(C, hash_bytes(b"other"))) is Refusal.WRONG_CHAIN
        async with raw_socket(C, a) as socket:
            assert await refusal(socket, hello(C)) is Refusal.BUSY
        a.transport.send(B.public, Kind.VOTE, b"still here")
        await b.record.until(lambda: b"still here" in b.payloads())
        assert a.record.downs == []


OVERSIZED = [
    encode_frame(Kind.STATUS, b"")[:1] + (5 * KIB).to_bytes(4, "big") + bytes(5 * KIB),
    bytes(KINDS[Kind.BLOCK_RESPONSE].size_bytes_max + 64 * KIB),
    b"",
    b"\xff\x00\x00\x00\x00",
    encode_frame(Kind.HELLO, b"again"),
]


@pytest.mark.asyncio
async def test_bad_frame_costs_its_sender_only() -> None:
    """Trap 35: over the limit of its kind, over that of a message, empty, of unknown kind, out of place."""
    for message in OVERSIZED:
        a, b = Node(A), Node(B)
        async with running(a, b):
            await connect(a, b)
            async with raw_socket(C, a) as socket:
                await greet(socket, C)
                await socket.send_bytes(message)
                await closed(socket)
            await a.record.until(partial(a.record.downs.__contains__, C.public))
            assert len(a.record.logged("peer misbehaved")) == 1
            a.transport.send(B.public, Kind.VOTE, b"still here")
            await b.record.until(partial(b.record.frames.__contains__, (A.public, Kind.VOTE, b"still here")))


@pytest.mark.asyncio
async def test_text_message_costs_its_sender_the_connection() -> None:
    a = Node(A)
    async with running(a), raw_socket(B, a) as socket:
        await greet(socket, B)
        await socket.send_str("hello")
        await closed(socket)
        assert a.record.logged("peer misbehaved")[0]["reason"] == "MALFORMED_FRAME"


@pytest.mark.asyncio
async def test_fault_found_by_the_node_stops_delivery_closes_and_bans_until_redeemed() -> None:
    ban = replace(QUICK, ban_ms_base=50)
    a, b = Node(A, config=TransportConfig(peerbook=ban)), Node(B)
    a.record.react = lambda key, kind, payload: a.transport.misbehaved(key, Fault.BAD_SIGNATURE)
    async with running(a, b):
        await connect(b, a)
        for payload in (b"bad", b"never seen", b"never seen"):
            b.transport.send(A.public, Kind.VOTE, payload)
        await a.record.until(lambda: a.record.downs == [B.public])
        await a.record.until(lambda: a.record.ups == [B.public, B.public])
        assert a.payloads() == [b"bad"]


@pytest.mark.asyncio
async def test_handler_exception_is_logged_without_its_text_and_kills_no_reader() -> None:
    """Trap 35."""
    a, b = Node(A), Node(B)

    def fail(key: bytes, kind: Kind, payload: bytes) -> None:
        raise RuntimeError(payload.decode())

    a.record.react = fail
    async with running(a, b):
        await connect(a, b)
        b.transport.send(A.public, Kind.VOTE, b"patient name")
        b.transport.send(A.public, Kind.VOTE, b"second")
        await a.record.until(lambda: len(a.record.frames) == 2)
        (line,) = a.record.logged("handler failed")
        assert (line["handler"], line["error"]) == ("on_frame", "RuntimeError")
        assert "patient" not in str(a.record.lines)
        assert a.connected() == {B.public}


@pytest.mark.asyncio
async def test_removed_member_is_dropped_and_cannot_return_until_it_is_one_again() -> None:
    a, b = Node(A), Node(B)
    async with running(a, b):
        await connect(a, b)
        a.members.discard(B.public)
        a.transport.set_members(a.members)
        assert a.connected() == set()
        assert a.record.downs == [B.public]
        async with raw_socket(B, a) as socket:
            assert await refusal(socket, hello(B)) is Refusal.NOT_MEMBER
        a.members.add(B.public)
        a.transport.set_members(a.members)
        await a.record.until(lambda: a.connected() == {B.public})


@pytest.mark.asyncio
async def test_member_added_later_gets_in() -> None:
    a, d = Node(A), Node(D, members={A.public, D.public})
    async with running(a, d):
        d.dial(a)
        await a.record.until(lambda: a.record.logged("TLS refused"))
        a.members.add(D.public)
        a.transport.set_members(a.members)
        await a.record.until(lambda: D.public in a.connected())


# Order, pressure, reconnection


@pytest.mark.asyncio
async def test_vote_overtakes_queued_bulk_at_a_peer_that_does_not_read() -> None:
    a, b = Node(A), Node(B)
    b.record.gate.clear()
    async with running(a, b):
        await connect(a, b)
        sent = 0
        # Far more than all socket buffers hold, so the writer stands and a queue has formed.
        while a.transport.peers()[0].queued_bytes[2] < 1024 * KIB:
            if not a.transport.send(B.public, Kind.BATCH, bytes(60 * KIB)):
                break
            sent += 1
            await asyncio.sleep(0)
        a.transport.send(B.public, Kind.VOTE, b"urgent")
        queued = a.transport.peers()[0].queued_frames[2]
        assert queued >= 16
        # Whatever lies in a buffer cannot be overtaken: one message over the mark, no more.
        (connection,) = a.transport._peers.connections()
        assert connection.link._transport.get_write_buffer_size() <= 2 * 64 * KIB + 100
        b.record.gate.set()
        await b.record.until(lambda: len(b.record.frames) == sent + 1)
        position = b.payloads().index(b"urgent")
        assert position <= sent - queued + 2


@pytest.mark.asyncio
async def test_reader_is_held_while_the_node_is_not_ready_but_never_for_long() -> None:
    config = TransportConfig(peerbook=QUICK, pause_ms_max=30)
    a, b = Node(A), Node(B, config=config)
    b.record.gate.clear()
    async with running(a, b):
        await connect(a, b)
        a.transport.send(B.public, Kind.BATCH, b"bulk")
        await b.record.until(lambda: b.record.frames)
        a.transport.send(B.public, Kind.VOTE, b"vote")
        await b.record.until(lambda: len(b.record.frames) == 2)
        assert not b.record.gate.is_set()


@pytest.mark.asyncio
async def test_peer_that_does_not_read_is_refused_bulk_and_slows_nobody() -> None:
    """Trap 33."""
    a, b = Node(A), Node(B)
    async with running(a, b), raw_socket(C, a) as socket:
        await connect(a, b)
        await greet(socket, C)
        taken = [a.transport.send(C.public, Kind.BATCH, bytes(1024 * KIB)) for _ in range(40)]
        assert taken[0]
        assert not taken[-1]
        a.transport.send(B.public, Kind.VOTE, b"through")
        await b.record.until(lambda: b"through" in b.payloads())
        slow = next(peer for peer in a.transport.peers() if peer.key == C.public)
        assert slow.dropped_frames[2] > 0


@pytest.mark.asyncio
async def test_connection_returns_after_the_other_side_restarts() -> None:
    a, b = Node(A), Node(B)
    async with running(a):
        async with running_one(b):
            await connect(a, b)
            port = b.transport.port
        await a.record.until(lambda: a.record.downs == [B.public])
        again = Node(B, config=TransportConfig(listen_port=port, peerbook=QUICK))
        async with running_one(again):
            await a.record.until(lambda: a.record.ups == [B.public, B.public])
            await again.record.until(lambda: again.connected() == {A.public})
            a.transport.send(B.public, Kind.VOTE, b"welcome back")
            await again.record.until(lambda: again.payloads() == [b"welcome back"])


@asynccontextmanager
async def running_one(node: Node) -> AsyncIterator[None]:
    await node.transport.start()
    try:
        yield
    finally:
        await node.transport.stop()


@pytest.mark.asyncio
async def test_restarted_peer_replaces_its_connection_that_has_not_died_yet() -> None:
    a = Node(A)
    async with running(a), raw_socket(B, a) as old:
        await greet(old, B)
        async with raw_socket(B, a) as new:
            restarted = replace(hello(B), instance=b"r" * 16)
            await new.send_bytes(encode_frame(Kind.HELLO, encode(restarted.to_value())))
            ((kind, _),) = decode_frames(await new.receive_bytes(timeout=5))
            assert kind is Kind.HELLO_ACK
            await closed(old)
            assert a.record.ups == [B.public, B.public]
            assert a.record.downs == [B.public]
            assert len(a.transport.peers()) == 1


@pytest.mark.asyncio
async def test_advertised_address_is_learned_but_never_over_the_operators() -> None:
    b = Node(B)
    async with running(b):
        port = b.transport.port
        follower = Node(C, config=TransportConfig(advertise_host="10.9.8.7", advertise_port=77, peerbook=QUICK))
        b.transport.add_address(A.public, "127.0.0.1", 9)
        async with running_one(follower):
            follower.transport.add_address(B.public, "127.0.0.1", port)
            await b.record.until(lambda: b.connected() == {C.public})
            learned = b.transport._book.address(C.public)
            assert learned is not None
            assert (learned.host, learned.port) == ("10.9.8.7", 77)


# What the libraries leave open


@pytest.mark.asyncio
async def test_slow_clients_are_cut_at_the_handshake_deadline_whatever_they_are_slow_at() -> None:
    """Before TLS, after TLS, in the middle of a header, and with a WebSocket but no HELLO."""
    a = Node(A, config=TransportConfig(handshake_ms_max=150))
    tls = TlsContexts(B)
    tls.trust([A.public])
    async with running(a):
        port = a.transport.port
        silent, silent_writer = await asyncio.open_connection("127.0.0.1", port)
        streams = [(silent, silent_writer)]
        for start in (b"", b"GET /p2p/1 HTTP/1.1\r\nHost: a\r\nX-Slow:"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls.client)
            writer.write(start)
            streams.append((reader, writer))
        async with raw_socket(B, a) as socket:
            await closed(socket)
        async with asyncio.timeout(3):
            for reader, writer in streams:
                with suppress(ConnectionError):
                    assert await reader.read() == b""
                writer.transport.abort()
        assert a.transport._listener is not None
        assert a.transport._listener.pending == 0


@pytest.mark.asyncio
async def test_malformed_request_logs_one_short_line_and_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    a = Node(A)
    tls = TlsContexts(B)
    tls.trust([A.public])
    requests = [
        b"NOT HTTP AT ALL\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /p2p/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /p2p/1 HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ]
    async with running(a):
        for request in requests:
            reader, writer = await asyncio.open_connection("127.0.0.1", a.transport.port, ssl=tls.client)
            writer.write(request)
            async with asyncio.timeout(5):
                assert (await reader.read(12)).startswith(b"HTTP/1.")
            writer.transport.abort()
        assert len(a.record.logged("bad request on the peer port")) == 1
    assert caplog.records == []


@pytest.mark.asyncio
async def test_connections_without_a_handshake_are_capped_per_address() -> None:
    a, b = Node(A, config=TransportConfig(pending_per_address_max=2, peerbook=QUICK)), Node(B)
    async with running(a, b):
        held = [await asyncio.open_connection("127.0.0.1", a.transport.port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", a.transport.port)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        for _, other in [*held, (reader, writer)]:
            other.transport.abort()
        await connect(b, a)


@pytest.mark.asyncio
async def test_redirect_is_not_followed() -> None:
    visited: list[str] = []
    a = Node(A)

    async def redirect(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        visited.append(request.path)
        return aiohttp.web.Response(status=302, headers={"Location": "/elsewhere"})

    tls = TlsContexts(B)
    tls.trust([A.public])
    server = aiohttp.web.Server(redirect)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, ssl=tls.server)
    async with running(a):
        a.transport.add_address(B.public, "127.0.0.1", listener.sockets[0].getsockname()[1])
        await a.record.until(lambda: len(a.record.logged("dial failed")) == 2)
        listener.close()
        await server.shutdown(1)
        await asyncio.sleep(0)
    assert set(visited) == {PATH}


def test_tls_contexts_of_the_transport_demand_certificates() -> None:
    contexts = Node(A).transport._tls
    assert contexts.server.verify_mode is contexts.client.verify_mode is ssl.CERT_REQUIRED


def test_configuration_out_of_range_is_refused() -> None:
    for wrong in ({"listen_port": 70_000}, {"software": "s" * 33}, {"handshake_ms_max": 0}):
        with pytest.raises(ValueError):
            TransportConfig(**wrong)


def test_a_connection_that_is_gone_can_be_aborted_again() -> None:
    """CPython before 3.11.4 raises for a TLS transport that was closed; a connection lost so was never made again."""

    class Gone(asyncio.Transport):
        def abort(self) -> None:
            raise AttributeError("'NoneType' object has no attribute '_abort'")

    abort(Gone())
