"""Following a node's headers, against a server that says exactly what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from bench.http import Connection, event_data
from bench.observer import BenchError, Watch, caught_up, committed, header_hashes

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(height: int) -> bytes:
    return b'id: %d\nevent: block\ndata: {"height":%d,"tx_count":7,"hash":"aa"}\n\n' % (height, height)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@asynccontextmanager
async def serving(*parts: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Its URL, and what it was asked."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        for part in parts:
            writer.write(part)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.asyncio
async def test_every_height_is_seen_once_however_its_events_are_cut() -> None:
    both = event(4) + event(5)
    parts = (HEAD, chunk(b"retry: 2000\n\n"), chunk(both[:70]), chunk(both[70:]), chunk(b": keep-alive\n\n" + event(6)))
    async with serving(*parts, b"0\r\n\r\n") as (url, asked):
        watch = Watch(url, next_height=4)
        with pytest.raises(BenchError, match="ended"):
            await watch.follow()
    assert asked[0].startswith(b"GET /v1/blocks?from=4 HTTP/1.1\r\n")
    assert b"\r\nAccept: text/event-stream\r\n" in asked[0]
    assert (watch.next_height, watch.tx_counts) == (7, {4: 7, 5: 7, 6: 7})
    assert watch.seen_s[4] <= watch.seen_s[5] <= watch.seen_s[6]


@pytest.mark.asyncio
async def test_a_refused_stream_is_no_empty_one() -> None:
    async with serving(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}") as (url, _):
        connection = await Connection.open(url)
        with pytest.raises(ValueError, match="refuses"):
            await anext(connection.events("/v1/blocks"))
        connection.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("read", [committed, header_hashes])
async def test_a_node_that_does_not_answer_what_it_is_asked_is_named(read: Callable[..., Awaitable[object]]) -> None:
    async with serving(b"HTTP/1.1 410 Gone\r\nContent-Length: 2\r\n\r\n{}") as (url, _):
        with pytest.raises(BenchError, match=f"{url} answers 410 for /v1/blocks"):
            await read(url, 1, 1)


@pytest.mark.asyncio
async def test_a_follower_that_ended_is_not_waited_for() -> None:
    async with serving(HEAD, chunk(event(1)), b"0\r\n\r\n") as (url, _):
        watch = Watch(url)
        follower = asyncio.create_task(watch.follow())
        await asyncio.wait([follower])
        await caught_up([watch], [follower], 1)
        with pytest.raises(BenchError, match="ended"):
            await caught_up([watch], [follower], 2)


@pytest.mark.asyncio
async def test_a_connection_that_the_node_ended_is_known_to_be() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as (url, _):
        connection = await Connection.open(url)
        assert connection.is_open
        assert await connection.request("GET", "/v1/status") == (200, b"{}")
        with pytest.raises(EOFError):
            await connection.request("GET", "/v1/status")
        assert not connection.is_open
        connection.close()


def test_a_comment_has_no_data() -> None:
    assert event_data(b": keep-alive") == b""
    assert event_data(b"id: 1\nevent: block\ndata: {}") == b"{}"
