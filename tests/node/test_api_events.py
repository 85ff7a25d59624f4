"""Events: pages and streams by cursor."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import Code, Reject
from ledger.modules.payments import Transfer
from ledger.modules.records import Grant
from node.api import events
from node.api.events import PAGE_SIZE_BYTES_MAX, STREAM_PAGE
from storage.errors import Corruption
from tests.node.api_http import ask, connect, get, request_bytes
from tests.node.api_service import HOSPITAL, START_MS, FakeService, running

STREAM = {"Accept": "text/event-stream"}
LARGE = Grant(
    "clinic", ("treatment",), START_MS + 10**9, tuple(bytes([1, n]) * 16 + b"r" for n in range(256)), None, None
)
LARGE_SIZE_BYTES_MAX = 20_000  # one of them as JSON


def fill(service: FakeService, blocks: int, each: int = 2) -> None:
    for _ in range(blocks):
        service.pool += [service.transaction(HOSPITAL, Transfer("EUR", "maker", 1, "")) for _ in range(each)]
        service.commit()


class Stream:
    """An open stream of server-sent events."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, url: str, target: str = "/v1/events", **headers: str) -> Stream:
        reader, writer = await connect(url)
        writer.write(request_bytes("GET", target, None, STREAM | {k.replace("_", "-"): v for k, v in headers.items()}))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        return cls(reader, writer)

    async def event(self) -> tuple[str, dict[str, Any]]:
        """The next (id, data)."""
        found: dict[str, str] = {}
        async with asyncio.timeout(10):
            while "data" not in found or "id" not in found:
                line = (await self.reader.readline()).decode().strip()
                name, _, value = line.partition(": ")
                found[name] = value
        return found["id"], json.loads(found["data"])

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@pytest.mark.asyncio
async def test_pages_of_events_are_complete_and_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        fill(service, 3, each=3)
        found, after = [], "0:0"
        while True:
            page = (await get(server.url, f"/v1/events?after={after}&limit=2")).json
            found += [item["cursor"] for item in page["items"]]
            after = page["next"]
            if not page["more"]:
                break
        assert found == [f"{height}:{position}" for height in (1, 2, 3) for position in (0, 1, 2)]
        assert after == "3:2"
        assert (await get(server.url, "/v1/events?after=latest")).json["items"] == []


def fill_large(service: FakeService, blocks: int, each: int) -> list[str]:
    """Their cursors."""
    for _ in range(blocks):
        service.pool += [service.transaction(HOSPITAL, LARGE) for _ in range(each)]
        service.commit()
    return [f"{height}:{position}" for height in range(1, blocks + 1) for position in range(each)]


@pytest.mark.asyncio
async def test_a_page_of_large_events_ends_before_its_limit_and_the_next_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        expected = fill_large(service, 3, each=40)
        found, sizes, after, more = [], [], "0:0", True
        while more:
            reply = await get(server.url, f"/v1/events?after={after}&limit=500")
            sizes.append(len(reply.body))
            found += [item["cursor"] for item in reply.json["items"]]
            after, more = reply.json["next"], reply.json["more"]
        assert found == expected
        assert len(sizes) == 3, "two full ones and the rest"
        assert max(sizes) < PAGE_SIZE_BYTES_MAX + LARGE_SIZE_BYTES_MAX


@pytest.mark.asyncio
async def test_a_stream_holds_no_more_than_a_page_of_large_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Whole(Exception):
        """All has been written."""

    monkeypatch.setattr(events, "PAGE_SIZE_BYTES_MAX", 100_000)
    async with running(tmp_path) as (service, server):
        expected = fill_large(service, 1, each=40)
        parts: list[bytes] = []

        async def write(data: bytes) -> None:
            parts.append(data)
            if b"".join(parts).count(b"id: ") == len(expected):
                raise Whole

        assert server._api is not None
        with pytest.raises(Whole):
            await events._stream(server._api, (0, 0), write)
        assert max(map(len, parts)) < 100_000 + LARGE_SIZE_BYTES_MAX


@pytest.mark.asyncio
async def test_a_stream_goes_on_as_blocks_come(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        fill(service, 1)
        stream = await Stream.open(server.url)
        assert [(await stream.event())[0] for _ in range(2)] == ["1:0", "1:1"]
        service.commit()  # an empty block is no event
        fill(service, 1)
        cursor, data = await stream.event()
        assert (cursor, data["operation"], data["code"]) == ("3:0", "payments.transfer", 0)
        await stream.close()


@pytest.mark.asyncio
async def test_a_stream_resumes_after_the_last_event_id(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        fill(service, 2)
        stream = await Stream.open(server.url, Last_Event_ID="1:0")
        assert (await stream.event())[0] == "1:1"
        await stream.close()
        latest = await Stream.open(server.url, "/v1/events?after=latest")
        fill(service, 1)
        assert (await latest.event())[0] == "3:0"
        await latest.close()
        bad = await get(server.url, "/v1/events", Accept="text/event-stream", Last_Event_ID="x")
        assert (bad.status, bad.json["errors"][0]["field"]) == (400, "Last-Event-ID")


@pytest.mark.asyncio
async def test_streams_are_capped_and_freed_when_clients_leave(tmp_path: Path) -> None:
    async with running(tmp_path, streams_max=1) as (service, server):
        fill(service, 1)
        first = await Stream.open(server.url)
        refused = await get(server.url, "/v1/events", **STREAM)
        assert (refused.status, refused.json["code"]) == (503, "MC3002")
        assert refused.headers["retry-after"]
        await first.close()
        async with asyncio.timeout(5):
            while (await status_of_stream(server.url)) == 503:
                fill(service, 1)


async def status_of_stream(url: str) -> int:
    reader, writer = await connect(url)
    writer.write(request_bytes("GET", "/v1/events", None, STREAM))
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return int(line.split()[1])


@pytest.mark.asyncio
async def test_a_stream_over_broken_data_is_cut_off_not_answered_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head is out: a second one would be read as part of the first answer."""

    def broken(*_: object) -> None:
        raise Corruption("a receipt is damaged")

    async with running(tmp_path) as (service, server):
        fill(service, 1)
        stream = await Stream.open(server.url)
        await stream.event()
        monkeypatch.setattr(type(service.store), "events", broken)
        fill(service, 1)
        async with asyncio.timeout(10):
            rest = await stream.reader.read()
        assert b"HTTP/1.1" not in rest
        assert b"0\r\n\r\n" not in rest, "a chunked answer that ends so is whole"
        await stream.close()


@pytest.mark.asyncio
async def test_stopping_ends_streams_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        fill(service, 1)
        stream = await Stream.open(server.url)
        await stream.event()
        async with asyncio.timeout(2):
            await server.stop()
            while await stream.reader.readline():
                pass
        await stream.close()


@pytest.mark.asyncio
async def test_headers_are_pushed_as_blocks_come(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        fill(service, 2, each=3)
        stream = await Stream.open(server.url, "/v1/blocks?from=1")
        page = (await get(server.url, "/v1/blocks?from=1")).json["items"]
        assert [await stream.event() for _ in range(2)] == [("1", page[0]), ("2", page[1])]
        service.commit()  # an empty block is one all the same
        height, header = await stream.event()
        assert (height, header["height"], header["tx_count"]) == ("3", 3, 0)
        await stream.close()


@pytest.mark.asyncio
async def test_a_long_chain_of_headers_is_streamed_whole(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        for _ in range(2 * STREAM_PAGE + 1):
            service.commit()
        stream = await Stream.open(server.url, "/v1/blocks?from=0")
        found = [(await stream.event())[0] for _ in range(2 * STREAM_PAGE + 1)]
        assert found == [str(height) for height in range(1, 2 * STREAM_PAGE + 2)]
        await stream.close()


@pytest.mark.asyncio
async def test_a_stream_of_headers_begins_with_what_comes_or_after_the_last_one_read(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        fill(service, 3)
        latest = await Stream.open(server.url, "/v1/blocks")
        resumed = await Stream.open(server.url, "/v1/blocks?from=1", Last_Event_ID="2")
        assert (await resumed.event())[0] == "3"
        fill(service, 1)
        assert (await latest.event())[0] == "4"
        assert (await resumed.event())[0] == "4"
        await latest.close()
        await resumed.close()
        for bad_id in ("x", "-1", "1:0", ""):
            bad = await ask(server.url, "GET", "/v1/blocks", None, STREAM | {"Last-Event-ID": bad_id or " "})
            assert (bad.status, bad.json["errors"][0]["field"]) == (400, "Last-Event-ID"), bad_id


@pytest.mark.asyncio
@pytest.mark.parametrize("target", ["/v1/events?after=latest", "/v1/blocks"])
async def test_a_stream_ends_when_too_many_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    async def refuse(height: int, timeout_ms: int) -> bool:
        raise Reject(Code.TOO_MANY_WAITERS, 1)

    async with running(tmp_path) as (service, server):
        monkeypatch.setattr(service, "wait_for_height", refuse)
        stream = await Stream.open(server.url, target)
        async with asyncio.timeout(5):
            assert (await stream.reader.read()).endswith(b"\r\n0\r\n\r\n")  # a whole answer, and no second one
        await stream.close()
