"""What aiohttp leaves open by default: slow clients, too many connections, malformed requests, hostile names."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import HttpVersion11

from ledger.codec import encode
from ledger.modules.payments import Transfer
from ledger.modules.records import Grant
from node.api import server as server_module
from node.api.exchange import Answer
from node.api.server import LARGE_SIZE_BYTES
from tests.node.api_http import ask, connect, get, raw, read_reply, request_bytes
from tests.node.api_service import HOSPITAL, START_MS, running

RAW = {"Content-Type": "application/octet-stream"}
DEADLINE_MS = 200


async def closed(reader: asyncio.StreamReader) -> bytes:
    """All that still comes, until the server closes."""
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@pytest.mark.asyncio
@pytest.mark.parametrize("sent", [b"", b"GET /v1/status HTTP/1.1\r\nHost: local"], ids=["silent", "half a header"])
async def test_headers_must_arrive_in_time(tmp_path: Path, sent: bytes) -> None:
    async with running(tmp_path, request_timeout_ms=DEADLINE_MS) as (_, server):
        reader, writer = await connect(server.url)
        writer.write(sent)
        assert await closed(reader) == b""
        writer.close()


@pytest.mark.asyncio
async def test_headers_that_trickle_do_not_move_the_deadline(tmp_path: Path) -> None:
    async with running(tmp_path, request_timeout_ms=DEADLINE_MS) as (_, server):
        reader, writer = await connect(server.url)

        async def trickle() -> None:
            for byte in request_bytes("GET", "/v1/status", None, {"X-Long": "x" * 4_000}):
                writer.write(bytes([byte]))
                await asyncio.sleep(0.005)

        task = asyncio.create_task(trickle())
        assert await closed(reader) == b""
        task.cancel()
        writer.close()


@pytest.mark.asyncio
async def test_an_idle_kept_connection_is_closed(tmp_path: Path) -> None:
    async with running(tmp_path, request_timeout_ms=DEADLINE_MS) as (_, server):
        reader, writer = await connect(server.url)
        writer.write(request_bytes("GET", "/v1/health") * 2)
        assert (await read_reply(reader)).status == 200
        assert (await read_reply(reader)).status == 200
        assert await closed(reader) == b""
        writer.close()


@pytest.mark.asyncio
async def test_a_body_must_arrive_in_time(tmp_path: Path) -> None:
    async with running(tmp_path, request_timeout_ms=DEADLINE_MS) as (service, server):
        reader, writer = await connect(server.url)
        writer.write(request_bytes("POST", "/v1/transactions", None, RAW | {"Content-Length": "500"}) + b"x" * 10)
        reply = await read_reply(reader)
        assert (reply.status, reply.json["code"]) == (408, "MC3005")
        await closed(reader)
        writer.close()
        assert service.pool == []


@pytest.mark.asyncio
async def test_waiting_for_a_commit_is_not_cut_by_the_request_deadline(tmp_path: Path) -> None:
    async with running(tmp_path, request_timeout_ms=DEADLINE_MS) as (service, server):
        service.commits_while_waiting = False
        tx = service.transaction(HOSPITAL, Transfer("EUR", "maker", 1, ""))
        waiting = asyncio.create_task(
            ask(server.url, "POST", "/v1/transactions?wait=committed&timeout_ms=5000", tx.wire, RAW)
        )
        while not service.waiting:
            await asyncio.sleep(0.01)
        await asyncio.sleep(2 * DEADLINE_MS / 1000)  # longer than the deadline that must not apply
        service.commit()
        assert (await waiting).status == 200


@pytest.mark.asyncio
async def test_a_client_that_leaves_frees_its_waiter(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        service.commits_while_waiting = False
        tx = service.transaction(HOSPITAL, Transfer("EUR", "maker", 1, ""))
        _, writer = await connect(server.url)
        writer.write(request_bytes("POST", "/v1/transactions?wait=committed&timeout_ms=60000", tx.wire, RAW))
        async with asyncio.timeout(5):
            while not service.waiting:
                await asyncio.sleep(0.01)
            writer.close()
            while service.waiting:
                await asyncio.sleep(0.01)


async def unread(url: str, request: bytes) -> socket.socket:
    """A client with a small window that asks and never reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    host, port = url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (host, int(port)))
    await loop.sock_sendall(sock, request)
    return sock


async def not_reading(url: str, request: bytes, caplog: pytest.LogCaptureFixture) -> None:
    sock = await unread(url, request)
    try:
        async with asyncio.timeout(20):
            while "not read" not in caplog.text:
                await asyncio.sleep(0.02)
    finally:
        sock.close()
    assert (await get(url, "/v1/health")).status == 200


@pytest.mark.asyncio
async def test_an_answer_that_is_not_read_costs_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, request_timeout_ms=DEADLINE_MS) as (service, server):
        service.store.genesis_json = "x" * 8_000_000  # more than the kernel buffers
        await not_reading(server.url, request_bytes("GET", "/v1/genesis"), caplog)


@pytest.mark.asyncio
async def test_large_answers_that_nobody_reads_are_bounded_in_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size_bytes = 8_000_000  # more than the kernel buffers
    monkeypatch.setattr(server_module, "UNREAD_SIZE_BYTES_MAX", 2 * size_bytes)
    async with running(tmp_path) as (service, server):
        service.store.genesis_json = "x" * size_bytes
        with ExitStack() as stack:
            statuses = set()
            for _ in range(12):
                client = stack.enter_context(await unread(server.url, request_bytes("GET", "/v1/genesis")))
                head = await asyncio.get_running_loop().sock_recv(client, len("HTTP/1.1 200"))
                statuses.add(head[-3:])
            assert statuses == {b"200", b"503"}
            assert server._runner is not None
            inner: Any = server._runner.server
            # The last that was begun goes beyond the limit: else one larger than all of it could never be sent.
            assert 2 * size_bytes < inner.unread_size_bytes() < 3 * size_bytes
            refused = await get(server.url, "/v1/genesis")
            assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (503, "MC3002", "1")
            assert (await get(server.url, "/v1/health")).status == 200
        async with asyncio.timeout(5):
            while (await get(server.url, "/v1/genesis")).status != 200:
                await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_a_large_body_is_neither_copied_nor_kept() -> None:
    body = b"x" * (LARGE_SIZE_BYTES + 1)
    written: list[bytes] = []
    transport = SimpleNamespace(write=written.append, is_closing=lambda: False)
    request: Any = SimpleNamespace(
        transport=transport, keep_alive=True, version=HttpVersion11, method="GET", writer=None
    )
    answer = server_module._Whole(Answer(body))
    await answer.prepare(request)
    assert written[-1] is body
    assert answer._answer.body == b""


@pytest.mark.asyncio
async def test_a_stream_that_is_not_read_costs_the_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hashes = tuple(b"\x01" + number.to_bytes(32, "big") for number in range(256))
    async with running(tmp_path, request_timeout_ms=DEADLINE_MS) as (service, server):
        large = Grant("clinic", ("treatment",), START_MS + 10**9, hashes, None, None)
        for _ in range(10):
            service.pool += [service.transaction(HOSPITAL, large) for _ in range(40)]
            service.commit()
        await not_reading(server.url, request_bytes("GET", "/v1/events", None, {"Accept": "text/event-stream"}), caplog)


@pytest.mark.asyncio
async def test_connections_of_one_address_are_capped(tmp_path: Path) -> None:
    async with running(tmp_path, connections_per_address_max=4) as (_, server):
        held = [await connect(server.url) for _ in range(4)]
        for reader, writer in held:
            writer.write(request_bytes("GET", "/v1/health"))
            assert (await read_reply(reader)).status == 200
        reader, writer = await connect(server.url)
        refused = await read_reply(reader)
        assert (refused.status, refused.json["code"]) == (503, "MC3010")
        assert refused.headers["retry-after"]
        assert await closed(reader) == b""
        writer.close()
        held[0][1].close()
        async with asyncio.timeout(5):
            while (await raw(server.url, request_bytes("GET", "/v1/health"))).status != 200:
                await asyncio.sleep(0.01)
        for _, writer in held[1:]:
            writer.close()


@pytest.mark.asyncio
async def test_malformed_requests_cost_one_short_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(tmp_path) as (_, server):
        for number in range(50):
            reply = await raw(server.url, b"NONSENSE secret-%d\r\n\r\n" % number)
            assert (reply.status, reply.json["code"]) == (400, "MC3005")
        long = await raw(server.url, b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert long.status == 400
        headers = b"".join(b"X-%d: 1\r\n" % number for number in range(200))
        many = await raw(server.url, b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n")
        assert many.status == 400
    shown = [record for record in caplog.records if record.name != "asyncio"]
    assert len(shown) == 1
    assert len(shown[0].getMessage()) < 200
    assert "secret" not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.asyncio
async def test_bad_chunks_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        head = request_bytes("POST", "/v1/transactions", None, RAW | {"Transfer-Encoding": "chunked"})
        reply = await raw(server.url, head + b"zz\r\nhello\r\n")
        assert reply.status == 400
        endless = head + b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        over = await raw(server.url, endless + b"200000\r\n" + b"x" * 2_100_000)
        assert (over.status, over.json["code"]) == (413, "MC3006")
        tx = service.transaction(HOSPITAL, Transfer("EUR", "maker", 1, ""))
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(tx.wire), tx.wire)
        assert (await raw(server.url, head + chunks)).status == 202


@pytest.mark.asyncio
async def test_a_client_that_asks_first_is_told_to_continue(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        tx = service.transaction(HOSPITAL, Transfer("EUR", "maker", 1, ""))
        reader, writer = await connect(server.url)
        asks = RAW | {"Content-Length": str(len(tx.wire)), "Expect": "100-continue"}
        writer.write(request_bytes("POST", "/v1/transactions", None, asks))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(tx.wire)
        assert (await read_reply(reader)).status == 202
        writer.write(request_bytes("POST", "/v1/transactions", None, asks | {"Content-Length": "99999999"}))
        assert (await read_reply(reader)).status == 413
        writer.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1:80", "[::1]", "[::1]:99"])
async def test_own_names_are_served(tmp_path: Path, host: str) -> None:
    async with running(tmp_path) as (_, server):
        assert (await get(server.url, "/v1/health", Host=host)).status == 200


@pytest.mark.asyncio
@pytest.mark.parametrize("host", ["", "[::1", "localhost:80:80", "localhost, evil", "127.0.0.1.", "[::2]:80"])
async def test_other_names_are_refused(tmp_path: Path, host: str) -> None:
    async with running(tmp_path) as (_, server):
        reply = await raw(server.url, b"GET /v1/health HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
        assert (reply.status, reply.json["code"]) == (403, "MC3013")


@pytest.mark.asyncio
async def test_a_taken_port_is_told_at_start(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        port = int(server.url.rsplit(":", 1)[1])
        config = service.config.model_copy(update={"api": service.config.api.model_copy(update={"port": port})})
        second = server_module.ApiServer(service, config)
        with pytest.raises(OSError, match="address already in use"):
            await second.start()
        assert second.url == ""


@pytest.mark.asyncio
async def test_stopping_does_not_wait_for_those_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SHUTDOWN_S", 0.1)
    async with running(tmp_path) as (service, server):
        service.commits_while_waiting = False
        tx = service.transaction(HOSPITAL, Transfer("EUR", "maker", 1, ""))
        reader, writer = await connect(server.url)
        writer.write(request_bytes("POST", "/v1/transactions?wait=committed&timeout_ms=60000", tx.wire, RAW))
        async with asyncio.timeout(5):
            while not service.waiting:
                await asyncio.sleep(0.01)
            await server.stop()
        assert service.waiting == 0
        await closed(reader)
        writer.close()


@pytest.mark.asyncio
async def test_a_body_in_many_pieces_is_the_same_body(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        tx = service.transaction(HOSPITAL, Transfer("EUR", "maker", 1, ""))
        reader, writer = await connect(server.url)
        data = request_bytes("POST", "/v1/transactions", tx.wire, RAW)
        for end in range(len(data) - len(tx.wire), len(data)):
            writer.write(data[end : end + 1] if end > len(data) - len(tx.wire) else data[: end + 1])
            await asyncio.sleep(0)
        assert (await read_reply(reader)).status == 202
        writer.write(request_bytes("POST", "/v1/transactions", b"x" * 2_100_000, RAW))
        assert (await read_reply(reader)).json["code"] == "MC3006"
        writer.close()


@pytest.mark.asyncio
async def test_a_chunked_body_that_comes_at_once_has_the_same_limit(tmp_path: Path) -> None:
    async with running(tmp_path, body_size_bytes_max=70_000) as (_, server):
        head = request_bytes("POST", "/v1/transactions", None, RAW | {"Transfer-Encoding": "chunked"})
        over = await raw(server.url, head + b"11171\r\n" + b"x" * 70_001 + b"\r\n0\r\n\r\n")
        assert (over.status, over.json["code"]) == (413, "MC3006")


@pytest.mark.asyncio
async def test_the_head_of_an_answer_is_whole(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, server):
        reader, writer = await connect(server.url)
        writer.write(b"GET /v1/health HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n")
        first = await read_reply(reader)
        writer.write(request_bytes("GET", "/v1/health", None, {"Connection": "close"}))
        last = await read_reply(reader)
        assert (first.headers["connection"], last.headers["connection"]) == ("keep-alive", "close")
        assert await closed(reader) == b""
        writer.close()
        assert first.headers["server"] == "medchain"
        assert first.headers["x-content-type-options"] == "nosniff"
        assert first.headers["cache-control"] == "no-store"
        assert abs(parsedate_to_datetime(first.headers["date"]).timestamp() - time.time()) < 60
        head = await ask(server.url, "HEAD", "/v1/health")
        assert (head.status, head.headers["content-length"], head.body) == (200, str(len(last.body)), b"")


def test_a_header_of_more_than_one_line_is_never_written() -> None:
    with pytest.raises(ValueError, match="one line"):
        server_module._one_line("1\r\nSet-Cookie: a=b")


@pytest.mark.asyncio
async def test_a_refused_post_names_every_transaction_and_says_when_to_come_back(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        txs = [service.transaction(HOSPITAL, Transfer("EUR", "maker", 1, "")) for _ in range(3)]
        body = encode((txs[0].wire, b"none", txs[1].wire, txs[0].wire[:-1] + b"?", txs[2].wire))
        msgpack = {"Content-Type": "application/msgpack"}
        taken = await ask(server.url, "POST", "/v1/transactions", body, msgpack)
        assert "retry-after" not in taken.headers
        assert [item["id"] for item in taken.json][::2] == [tx.id.hex() for tx in txs]
        assert [item["status"] for item in taken.json] == ["accepted", "refused", "accepted", "refused", "accepted"]
        assert taken.json[1]["id"] is None
        service.pool_full = True
        more = [service.transaction(HOSPITAL, Transfer("EUR", "maker", 1, "")) for _ in range(3)]
        full = await ask(server.url, "POST", "/v1/transactions", encode(tuple(tx.wire for tx in more)), msgpack)
        assert (full.status, full.headers["retry-after"]) == (200, "1")
        alike = {"status": "refused", "code": 3001, "label": "MC3001", "name": "pool_full", "detail": [3]}
        assert full.json == [{"id": tx.id.hex()} | alike | {"retryable": True} for tx in more]
