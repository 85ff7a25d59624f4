"""Both clients against a real server: the same calls, the same answers, the same errors."""

from __future__ import annotations

import asyncio
import inspect
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger.codec import encode
from ledger.gs1 import sgtin
from ledger.modules.drug_operations import Commission
from ledger.modules.payments import Transfer
from ledger.modules.records import Access, Register
from ledger.state import state_key
from node.api import calls, tokens
from node.api.calls import ApiError, ClientError, EventParser, Unreachable, read_error
from node.api.client import Client, SyncClient
from node.api.server import ApiServer
from node.vault import Vault, open_record, seal
from tests.node.api_service import CLINIC, GENESIS, HOSPITAL, MAKER, PATIENT, START_MS, FakeService, running

TRANSFER = Transfer("EUR", "maker", 5, "x")

Run = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture(params=["async", "sync"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def client(kind: str, url: str, **more: Any) -> AsyncIterator[Run]:
    """`run(name, ...)` calls a method of either client; the synchronous one works in a thread beside the server."""
    if kind == "async":
        async with Client(url, **more) as made:

            async def run(name: str, *given: Any, **named: Any) -> Any:
                result = getattr(made, name)(*given, **named)
                return [item async for item in result] if inspect.isasyncgen(result) else await result

            yield run
    else:
        with SyncClient(url, **more) as kept:

            def call(name: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
                result = getattr(kept, name)(*given, **named)
                return list(result) if inspect.isgenerator(result) else result

            async def run(name: str, *given: Any, **named: Any) -> Any:
                return await asyncio.to_thread(call, name, given, named)

            yield run


@asynccontextmanager
async def both(
    kind: str, home: Path, *, vault: Vault | None = None
) -> AsyncIterator[tuple[FakeService, ApiServer, Run]]:
    async with running(home, vault=vault) as (service, server), client(kind, server.url) as run:
        yield service, server, run


def test_both_clients_have_the_same_calls() -> None:
    def calls_of(cls: type) -> dict[str, list[str]]:
        return {
            name: [
                parameter.replace("Async", "") for parameter in map(str, inspect.signature(method).parameters.values())
            ]
            for name, method in vars(cls).items()
            if callable(method) and not name.startswith("_")
        }

    assert calls_of(Client) == calls_of(SyncClient)


@pytest.mark.asyncio
async def test_submitting_and_reading_back(kind: str, tmp_path: Path) -> None:
    async with both(kind, tmp_path) as (service, _, run):
        assert (await run("genesis")).chain_id == GENESIS.chain_id
        assert await run("height") == 0
        tx = service.transaction(HOSPITAL, TRANSFER)
        receipt = await run("submit_wait", tx.wire, 5_000)
        expected = {"id": tx.id.hex(), "height": 1, "position": 0, "code": 0, "label": "MC0000", "name": "ok"}
        assert expected.items() <= receipt.items()
        other = service.transaction(HOSPITAL, TRANSFER)
        outcomes = await run("submit", [other.wire, b"junk"])
        assert [item["label"] for item in outcomes] == ["MC0000", "MC1001"]
        assert (await run("transaction", tx.id))["operation"] == "payments.transfer"
        assert (await run("receipt", tx.id.hex(), prove=True))["proof"] is None
        assert (await run("block"))["height"] == (await run("block", 1))["height"] == 1
        assert [item["height"] for item in await run("blocks", 1, 5)] == [1]
        assert (await run("account", "maker", "EUR"))["balance"] == 5
        assert len((await run("account_history", "maker"))["items"]) == 1
        assert (await run("state", state_key("payments", "balance", "EUR", "maker")))["value"] == 5
        assert (await run("validators"))["n"] == (await run("validators", 0))["n"] == 4
        assert len(await run("members")) == 5
        assert (await run("member", "clinic"))["roles"] == ["hospital"]
        assert await run("proposals") == []
        assert (await run("evidence"))["items"] == []
        assert (await run("parameters"))["values"]["window"] == GENESIS.parameters.window
        assert (await run("status"))["height"] == 1
        assert (await run("why"))["moving"] is True
        assert len(await run("peers")) == 1


@pytest.mark.asyncio
async def test_identifiers_with_awkward_characters_arrive_unchanged(kind: str, tmp_path: Path) -> None:
    serial, lot = "A/../%2F+&?", 'L/"%;='
    async with both(kind, tmp_path) as (service, _, run):
        lot_facts = ("09521234001010", lot, 20280630, 20260601, ())
        service.send(MAKER, Commission(*lot_facts, (serial,), None, START_MS))
        epc = sgtin("09521234001010", serial)
        assert (await run("pack", epc))["epc"] == epc
        assert [item["operation"] for item in (await run("trace", epc))["items"]] == ["drugs.commission"]
        assert (await run("lot", "09521234001010", lot))["lot"] == lot


@pytest.mark.asyncio
async def test_a_record_goes_through_the_vault(kind: str, tmp_path: Path) -> None:
    async with both(kind, tmp_path, vault=Vault(tmp_path / "vault")) as (service, _, run):
        sealed = seal(b"secret", media_type="text/plain", recipients=[HOSPITAL.public])
        stored = await run("vault_put", sealed.data, tokens.load(tmp_path))
        assert stored["record"] == sealed.commitment.hex()
        service.send(HOSPITAL, Register(sealed.commitment, PATIENT.public, "Note", 6))
        access = service.send(HOSPITAL, Access(sealed.commitment, "treatment", "x"))
        copy = await run("vault_get", sealed.commitment, access.id)
        assert open_record(copy, HOSPITAL).plaintext == b"secret"
        assert (await run("record", sealed.commitment))["kind"] == "Note"
        assert len((await run("record_history", sealed.commitment))["items"]) == 2
        assert len((await run("patient_records", PATIENT.public))["items"]) == 1
        assert await run("vault_erase", sealed.commitment, tokens.load(tmp_path)) == {"record": stored["record"]}
        with pytest.raises(ApiError, match="MC2110"):
            await run("vault_get", sealed.commitment, access.id)


@pytest.mark.asyncio
async def test_a_refusal_on_the_chain_is_a_receipt_and_one_at_the_door_an_error(kind: str, tmp_path: Path) -> None:
    async with both(kind, tmp_path) as (service, _, run):
        poor = await run("submit_wait", service.transaction(CLINIC, TRANSFER).wire)
        assert (poor["code"], poor["name"], poor["height"]) == (2303, "insufficient_funds", 1)
        bad = service.transaction(HOSPITAL, Transfer("EUR", "maker", 0, ""))
        with pytest.raises(ApiError) as refused:
            await run("submit_wait", bad.wire)
        assert (refused.value.code, refused.value.status, refused.value.retryable) == (1011, 422, False)
        assert "amount" in refused.value.detail
        service.pool_full = True
        with pytest.raises(ApiError) as full:
            await run("submit_wait", service.transaction(HOSPITAL, TRANSFER).wire)
        assert (full.value.code, full.value.status, full.value.retryable) == (3001, 429, True)
        with pytest.raises(ApiError, match="MC3004"):
            await run("claim", b"\x01" + bytes(32))
        with pytest.raises(ApiError, match="MC3004"):
            await run("policy", b"\x01" + bytes(32))


@pytest.mark.asyncio
async def test_events_are_read_to_the_end_or_followed(kind: str, tmp_path: Path) -> None:
    async with both(kind, tmp_path) as (service, _, run):
        for _ in range(5):
            service.send(HOSPITAL, TRANSFER)
        assert [item["cursor"] for item in await run("events")] == [f"{height}:0" for height in range(1, 6)]
        assert [item["cursor"] for item in await run("events", "3:0", 1)] == ["4:0"]
        following: asyncio.Task[Any] = asyncio.create_task(run("events", "4:0", 3, follow=True))
        await asyncio.sleep(0)
        for _ in range(3):
            service.send(HOSPITAL, TRANSFER)
        async with asyncio.timeout(10):
            assert [item["cursor"] for item in await following] == ["5:0", "6:0", "7:0"]


@pytest.mark.asyncio
async def test_following_ends_when_the_node_is_gone(kind: str, tmp_path: Path) -> None:
    async with both(kind, tmp_path) as (service, server, run):
        service.send(HOSPITAL, TRANSFER)
        following: asyncio.Task[Any] = asyncio.create_task(run("events", "0:0", 3, follow=True))
        async with asyncio.timeout(10):
            while not server._streams:
                await asyncio.sleep(0.01)
            await server.stop()
            with pytest.raises(Unreachable):
                await following


@pytest.mark.asyncio
async def test_a_broken_stream_is_resumed_where_it_was(kind: str) -> None:
    asked: list[bytes] = []

    async def flaky(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split()[1])
        cursor = b"%d:0" % len(asked)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        writer.write(b'id: %s\ndata: {"cursor":"%s"}\n\nid: 9:9\ndata: {"cut' % (cursor, cursor))
        writer.close()

    server = await asyncio.start_server(flaky, "127.0.0.1", 0)
    try:
        async with client(kind, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as run:
            found = await run("events", "0:0", 3, follow=True)
    finally:
        server.close()
        await server.wait_closed()
    assert [item["cursor"] for item in found] == ["1:0", "2:0", "3:0"]
    assert asked == [b"/v1/events?after=%d%%3A0" % number for number in range(3)]


@pytest.mark.asyncio
async def test_nothing_there_is_unreachable(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    async with client(kind, url) as run:
        with pytest.raises(Unreachable, match="refused"):
            await run("status")
        with pytest.raises(Unreachable):
            await run("events", follow=True)


@pytest.mark.asyncio
async def test_no_answer_in_time_is_unreachable(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with client(kind, f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_ms=100) as run:
            with pytest.raises(Unreachable, match="in time"):
                await run("status")


@pytest.mark.asyncio
async def test_proxies_of_the_environment_are_ignored(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    async with both(kind, tmp_path) as (_, _server, run):
        assert (await run("status"))["height"] == 0


@pytest.mark.asyncio
async def test_a_kept_connection_that_the_node_closed_is_opened_again(kind: str, tmp_path: Path) -> None:
    async with running(tmp_path, request_timeout_ms=100) as (_, server), client(kind, server.url) as run:
        assert (await run("status"))["height"] == 0
        await asyncio.sleep(0.3)  # beyond the node's idle limit
        assert (await run("status"))["height"] == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [b"<html>busy</html>", b"[]", b"{}", b'{"code":"MC","detail":1}', b"[" * 9999])
async def test_what_is_no_node_is_an_api_error(kind: str, answer: bytes) -> None:
    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 502 Bad\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(answer), answer))
        writer.close()

    server = await asyncio.start_server(stranger, "127.0.0.1", 0)
    try:
        async with client(kind, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as run:
            with pytest.raises(ApiError) as error:
                await run("status")
            assert (error.value.code, error.value.status) == (3007, 502)
    finally:
        server.close()
        await server.wait_closed()


def test_a_problem_names_its_fields() -> None:
    body = b'{"code":"MC1011","detail":"d","retryable":false,"errors":[{"field":"amount","reason":"expected integer"}]}'
    assert str(read_error(422, body)) == "MC1011: amount: expected integer"


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://x/?a=1", "localhost:1"])
def test_addresses_that_are_none_are_refused(url: str) -> None:
    for cls in (Client, SyncClient):
        with pytest.raises(ValueError, match="not the address"):
            cls(url)


def test_event_lines_make_events_and_an_endless_one_is_refused() -> None:
    parser = EventParser("0:0")

    def events(lines: list[bytes]) -> Iterator[Any]:
        return (event for event in map(parser.feed, lines) if event is not None)

    lines = [
        b": keep-alive",
        b"",
        b"retry: 1",
        b"",
        b"id: 3:1",
        b"event: transaction",
        b'data: {"a":',
        b"data: 1}",
        b"",
    ]
    assert list(events(lines)) == [{"a": 1}]
    assert parser.last_id == "3:1"
    with pytest.raises(ApiError):
        list(events([b"data: " + b"x" * 600_000] * 2))


def test_the_synchronous_client_does_not_load_aiohttp() -> None:
    code = "import sys, node.api.client; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_false_and_nothing_leave_a_parameter_out_and_zero_does_not() -> None:
    assert calls.validators(0).target == "/v1/validators?epoch=0"
    assert calls.validators(None).target == "/v1/validators"
    assert calls.receipt(b"\x01", False).target == "/v1/receipts/01"
    assert calls.submit([b"a"]).body == encode((b"a",))
    assert issubclass(Unreachable, ClientError)
