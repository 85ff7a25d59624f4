"""Link proxies carry bytes unchanged, and their faults do what their names say."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from node.cluster import links
from node.cluster.links import Fault, Link

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Link, asyncio.Server]]:
    target = await asyncio.start_server(echo, "127.0.0.1", 0)
    link = Link(0, target.sockets[0].getsockname()[1])
    await link.start()
    try:
        yield link, target
    finally:
        await link.close()
        target.close()


@asynccontextmanager
async def connected(link: Link) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def silent(reader: asyncio.StreamReader) -> bool:
    """Nothing arrives while ten round trips of the loop and 50 ms pass."""
    try:
        async with asyncio.timeout(0.05):
            await reader.readexactly(1)
    except TimeoutError:
        return True
    return False


@pytest.mark.asyncio
async def test_bytes_arrive_unchanged_and_in_order_in_both_directions() -> None:
    data = random.Random(1).randbytes(3_000_000)
    async with linked() as (link, _), connected(link) as (reader, writer):

        async def send() -> None:
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        sender = asyncio.create_task(send())
        received = await reader.read(-1)
        await sender
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


@pytest.mark.asyncio
async def test_a_connection_that_ends_leaves_nothing_in_the_link() -> None:
    async with linked() as (link, _):
        async with connected(link) as (reader, writer):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.write_eof()
            assert await reader.read() == b""
        async with asyncio.timeout(5):
            while link._ends:
                await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_a_silent_link_keeps_its_connection_and_delivers_after_healing() -> None:
    async with linked() as (link, _), connected(link) as (reader, writer):
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        link.set_fault(Fault.SILENT)
        writer.write(b"b")
        assert await silent(reader)
        link.set_fault(Fault.NONE)
        assert await reader.readexactly(1) == b"b"


@pytest.mark.asyncio
async def test_a_silent_link_holds_a_bounded_number_of_bytes() -> None:
    async with linked() as (link, _), connected(link) as (_, writer):
        link.set_fault(Fault.SILENT)
        writer.write(bytes(16 * 1024 * 1024))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await writer.drain()
        held = sum(end._queued_bytes for end in link._ends)
        assert 0 < held <= links.BUFFER_SIZE_BYTES_MAX + 1024 * 1024
        writer.transport.abort()


@pytest.mark.asyncio
async def test_a_dropped_link_resets_its_connection_and_refuses_new_ones() -> None:
    async with linked() as (link, _):
        async with connected(link) as (reader, writer):
            writer.write(b"a")
            assert await reader.readexactly(1) == b"a"
            link.set_fault(Fault.DROPPED)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        async with connected(link) as (reader, _):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        link.set_fault(Fault.NONE)
        async with connected(link) as (reader, writer):
            writer.write(b"c")
            assert await reader.readexactly(1) == b"c"


@pytest.mark.asyncio
async def test_a_delay_holds_each_direction_back() -> None:
    async with linked() as (link, _), connected(link) as (reader, writer):
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        link.set_delay(40)
        began = asyncio.get_running_loop().time()
        writer.write(b"b")
        assert await reader.readexactly(1) == b"b"
        assert asyncio.get_running_loop().time() - began >= 0.079


def test_what_is_lost_waits_to_be_sent_again() -> None:
    link = Link(0, 1)
    link.set_delay(150)
    assert link._transit_s(100) == 0.150
    link.set_loss(0.01)
    one, ten = (
        sum(link._transit_s(segments * links.SEGMENT_SIZE_BYTES) > 0.440 for _ in range(10_000)) / 10_000
        for segments in (1, 10)
    )
    assert 0.005 < one < 0.015
    assert 0.08 < ten < 0.11


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_loss_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError):
        Link(0, 1).set_loss(share)


@pytest.mark.asyncio
async def test_a_target_that_does_not_listen_costs_the_caller_its_connection() -> None:
    async with linked() as (link, target):
        target.close()
        await target.wait_closed()
        async with connected(link) as (reader, _):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)


@pytest.mark.parametrize("delay_ms", [-1, links.DELAY_MS_MAX + 1])
def test_a_delay_out_of_range_is_refused(delay_ms: int) -> None:
    with pytest.raises(ValueError):
        Link(0, 1).set_delay(delay_ms)
