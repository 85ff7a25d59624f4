"""The table of bad requests: each gets its documented status and code, names the field, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ledger.codec import encode
from ledger.modules.members import AddKeys
from ledger.modules.payments import Transfer
from ledger.transaction import Transaction
from node.api.server import ApiServer
from tests.node.api_http import Reply, ask, raw, request_bytes
from tests.node.api_service import HOSPITAL, MAKER, FakeService, running

JSON = {"Content-Type": "application/json"}
MSGPACK = {"Content-Type": "application/msgpack"}
RAW = {"Content-Type": "application/octet-stream"}
POST = "/v1/transactions"
ID = "01" + "00" * 32

TRANSFER = Transfer("EUR", "maker", 5, "invoice 1")


def document(tx: Transaction, **changed: Any) -> dict[str, Any]:
    """A JSON transaction; members set to None are left out."""
    currency, to, amount, reference = tx.fields
    whole = {
        "operation": tx.operation,
        "version": tx.version,
        "fields": {"currency": currency, "to": to, "amount": amount, "reference": reference},
        "nonce": tx.nonce.hex(),
        "valid_until": tx.valid_until,
        "sender": tx.sender.hex(),
        "signature": tx.wire[:65].hex(),
    } | changed
    return {name: value for name, value in whole.items() if value is not None}


def as_json(value: object) -> bytes:
    return request_bytes("POST", POST, value if isinstance(value, bytes) else json.dumps(value).encode(), JSON)


Build = Callable[[FakeService], bytes]


def good(service: FakeService, **more: Any) -> Transaction:
    return service.transaction(HOSPITAL, TRANSFER, **more)


def fields(service: FakeService, **changed: Any) -> bytes:
    tx = good(service)
    names = {"currency": "EUR", "to": "maker", "amount": 5, "reference": ""} | changed
    return as_json(document(tx, fields={name: value for name, value in names.items() if value is not ...}))


def whole(**changed: Any) -> Build:
    return lambda service: as_json(document(good(service), **changed))


def wire(build: Callable[[FakeService], bytes], media: dict[str, str] = RAW) -> Build:
    return lambda service: request_bytes("POST", POST, build(service), media)


def text(body: bytes) -> Build:
    return lambda service: as_json(body)


def simple(method: str, target: str, headers: dict[str, str] | None = None) -> Build:
    return lambda service: request_bytes(method, target, None, headers)


def forged(service: FakeService) -> bytes:
    data = good(service).wire
    return data[:10] + bytes([data[10] ^ 1]) + data[11:]


def replayed(service: FakeService) -> bytes:
    first = service.send(HOSPITAL, TRANSFER)
    other = Transfer("EUR", "maker", 6, "")
    return service.transaction(HOSPITAL, other, nonce=first.nonce).wire


def expired(service: FakeService) -> bytes:
    for _ in range(3):
        service.commit()
    return good(service, valid_until=1).wire


def many_members(service: FakeService) -> bytes:
    return as_json(b'{"a":' + b"[" * 60 + b"]" * 60 + b"}")


def unknown_operation(service: FakeService) -> bytes:
    tx = good(service)
    return Transaction.create(
        HOSPITAL, tx.chain_id, "payments.print", tx.fields, nonce=tx.nonce, valid_until=tx.valid_until
    ).wire


TABLE: list[tuple[str, Build, int, str, str | None]] = [
    # JSON
    ("malformed json", text(b"{"), 400, "MC3005", "offset 1"),
    ("empty body", text(b""), 400, "MC3005", "offset 0"),
    ("duplicate key", text(b'{"nonce":1,"nonce":2}'), 400, "MC3005", "/"),
    ("not a number", text(b'{"version":NaN}'), 400, "MC3005", "/version"),
    ("infinity by exponent", text(b'{"version":1e400}'), 400, "MC3005", "/version"),
    ("integer of thousands of digits", text(b'{"version":' + b"9" * 4000 + b"}"), 400, "MC3005", "/version"),
    ("deep nesting", many_members, 400, "MC3005", "offset 36"),
    ("lone surrogate", text(b'{"operation":"\\ud800"}'), 400, "MC3005", "/operation"),
    ("not utf-8", text(b'{"operation":"\xff"}'), 400, "MC3005", "offset 14"),
    ("a number as transaction", text(b"7"), 400, "MC3005", "body"),
    ("an empty list", text(b"[]"), 400, "MC3005", "body"),
    # Around the fields
    ("unknown member", whole(gas=1), 400, "MC3005", "gas"),
    ("missing nonce", whole(nonce=None), 400, "MC3005", "nonce"),
    ("short nonce", whole(nonce="00"), 400, "MC3005", "nonce"),
    ("bad hexadecimal", whole(sender="zz" * 33), 400, "MC3005", "sender"),
    ("version as text", whole(version="1"), 400, "MC3005", "version"),
    ("fields as list", whole(fields=[1]), 400, "MC3005", "fields"),
    ("unknown operation", whole(operation="payments.print"), 422, "MC1010", None),
    ("unknown version", whole(version=9), 422, "MC1010", None),
    # The fields
    ("float money", lambda s: fields(s, amount=1.5), 422, "MC1011", "fields.amount"),
    ("float money without fraction", lambda s: fields(s, amount=5.0), 422, "MC1011", "fields.amount"),
    ("text for money", lambda s: fields(s, amount="5"), 422, "MC1011", "fields.amount"),
    ("true for money", lambda s: fields(s, amount=True), 422, "MC1011", "fields.amount"),
    ("negative money", lambda s: fields(s, amount=-1), 422, "MC1011", "fields.amount"),
    ("too much money", lambda s: fields(s, amount=2**53), 422, "MC1011", "fields.amount"),
    ("unknown field", lambda s: fields(s, fee=1), 422, "MC1011", "fields.fee"),
    ("missing field", lambda s: fields(s, to=...), 422, "MC1011", "fields.to"),
    ("control character", lambda s: fields(s, reference="a\x00"), 422, "MC1011", "fields.reference"),
    ("over-long text", lambda s: fields(s, reference="x" * 65), 422, "MC1011", "fields.reference"),
    ("in a list", lambda s: as_json([document(good(s)), document(good(s), nonce="0")]), 400, "MC3005", "[1].nonce"),
    # Wires
    ("forged signature", wire(forged), 422, "MC1004", None),
    ("forged signature as json", whole(signature="01" + "00" * 64), 422, "MC1004", None),
    ("other chain", wire(lambda s: good(s, chain_id=b"\x01" + bytes(32)).wire), 422, "MC1006", None),
    ("replayed", wire(replayed), 422, "MC1009", None),
    ("expired", wire(expired), 422, "MC1007", None),
    ("valid for too long", wire(lambda s: good(s, valid_until=10**6).wire), 422, "MC1008", None),
    ("unknown operation signed", wire(unknown_operation), 422, "MC1010", None),
    ("field out of range", wire(lambda s: s.transaction(HOSPITAL, Transfer("EUR", "maker", 0, "")).wire), 422,
     "MC1011", "amount"),
    ("list too short", wire(lambda s: s.transaction(MAKER, AddKeys((), ())).wire), 422, "MC1011", "keys"),
    ("not canonical", wire(lambda s: good(s).wire + b"\x00"), 400, "MC1001", None),
    ("not a transaction", wire(lambda s: b"\x01" * 120), 400, "MC1001", None),
    ("empty wire", wire(lambda s: b""), 400, "MC3005", "body"),
    ("over-long transaction", wire(lambda s: b"\x01" * 65_537), 413, "MC1003", None),
    # msgpack
    ("msgpack that is no list", wire(lambda s: encode(7), MSGPACK), 400, "MC3005", "body"),
    ("msgpack with a number", wire(lambda s: encode((good(s).wire, 7)), MSGPACK), 400, "MC3005", "[1]"),
    ("msgpack cut short", wire(lambda s: encode((good(s).wire,))[:-1], MSGPACK), 400, "MC1001", "body"),
    ("msgpack with a tail", wire(lambda s: encode((good(s).wire,)) + b"\x00", MSGPACK), 400, "MC1001", "body"),
    ("msgpack with a long length", wire(lambda s: b"\x91\xc5\x00\x01a", MSGPACK), 400, "MC1002", "[0]"),
    ("msgpack with a map", wire(lambda s: b"\x91\x80", MSGPACK), 400, "MC3005", "[0]"),
    ("msgpack of too many", wire(lambda s: b"\xdc\x07\xd1" + b"\xc4\x00" * 2_001, MSGPACK), 400, "MC3005", "body"),
    ("msgpack without items", wire(lambda s: b"\x90", MSGPACK), 400, "MC3005", "body"),
    # Around the body
    ("over-long body", lambda s: request_bytes("POST", POST, b" " * 70_000, RAW), 413, "MC3006", None),
    ("wrong media type", wire(lambda s: b"{}", {"Content-Type": "text/plain"}), 415, "MC3011", None),
    ("no media type", wire(lambda s: b"{}", {}), 415, "MC3011", None),
    ("compressed", wire(lambda s: b"x", JSON | {"Content-Encoding": "gzip"}), 415, "MC3011", None),
    ("other charset", wire(lambda s: b"{}", {"Content-Type": "application/json; charset=latin1"}), 415, "MC3011", None),
    ("method not allowed", simple("DELETE", POST), 405, "MC3012", None),
    ("method not allowed on a pattern", simple("PUT", f"/v1/receipts/{ID}"), 405, "MC3012", None),
    ("unknown path", simple("GET", "/v2/status"), 404, "MC3004", None),
    ("foreign host", simple("GET", "/v1/status", {"Host": "evil.example"}), 403, "MC3013", None),
    ("foreign host with our name in it", simple("GET", "/v1/status", {"Host": "localhost.evil.example"}), 403,
     "MC3013", None),
    ("no host", lambda s: b"GET /v1/status HTTP/1.0\r\n\r\n", 403, "MC3013", None),
    # Paths and parameters
    ("slash in an id", simple("GET", "/v1/transactions/..%2F..%2Fetc%2Fpasswd"), 400, "MC3005", "id"),
    ("dots", simple("GET", "/v1/transactions/../genesis"), 404, "MC3004", None),
    ("NUL in an id", simple("GET", "/v1/members/a%00b"), 400, "MC3005", "id"),
    ("not utf-8 in an id", simple("GET", "/v1/members/%ff"), 400, "MC3005", "id"),
    ("bad hexadecimal in an id", simple("GET", "/v1/receipts/xyz"), 400, "MC3005", "id"),
    ("upper-case hexadecimal", simple("GET", f"/v1/receipts/01{'AB' * 32}"), 400, "MC3005", "id"),
    ("unknown transaction", simple("GET", f"/v1/transactions/{ID}"), 404, "MC3004", None),
    ("height below zero", simple("GET", "/v1/blocks/-1"), 400, "MC3005", "height"),
    ("height over 64 bits", simple("GET", f"/v1/blocks/{10**30}"), 400, "MC3005", "height"),
    ("height above the tip", simple("GET", "/v1/blocks/99"), 404, "MC3004", None),
    ("unknown parameter", simple("GET", "/v1/blocks?offset=1"), 400, "MC3005", "offset"),
    ("parameter given twice", simple("GET", "/v1/blocks?limit=1&limit=2"), 400, "MC3005", "limit"),
    ("limit too high", simple("GET", "/v1/blocks?limit=100000"), 400, "MC3005", "limit"),
    ("limit as text", simple("GET", "/v1/events?limit=ten"), 400, "MC3005", "limit"),
    ("bad cursor", simple("GET", "/v1/events?after=1"), 400, "MC3005", "after"),
    ("cursor over 32 bits", simple("GET", f"/v1/events?after=1:{2**32}"), 400, "MC3005", "after"),
    ("bad flag", simple("GET", f"/v1/receipts/{ID}?prove=yes"), 400, "MC3005", "prove"),
    ("missing currency", simple("GET", "/v1/accounts/maker"), 400, "MC3005", "currency"),
    ("unknown currency", simple("GET", "/v1/accounts/maker?currency=ZZZ"), 404, "MC3004", None),
    ("no identifier", simple("GET", "/v1/packs/nothing"), 400, "MC2219", "epc"),
    ("bad check digit", simple("GET", "/v1/packs/01/09521234001011/21/SN1"), 400, "MC2201", "epc"),
    ("a person's identifier", simple("GET", "/v1/packs?epc=8018/123456789012345678"), 400, "MC2219", "epc"),
    ("unknown wait", simple("GET", "/v1/blocks?wait=committed"), 400, "MC3005", "wait"),
    ("wait for something else", simple("POST", f"{POST}?wait=finalised"), 400, "MC3005", "wait"),
    ("wait for a day", simple("POST", f"{POST}?wait=committed&timeout_ms=86400000"), 400, "MC3005", "timeout_ms"),
    ("vault without token", lambda s: request_bytes("POST", "/v1/vault", b"x", RAW), 401, "MC3008", None),
    ("no vault", simple("GET", f"/v1/vault/{ID}?access={ID}"), 404, "MC3004", None),
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[FakeService, ApiServer]]:
    """One node for the whole table: that it still serves the last row is part of the claim."""
    async with running(tmp_path_factory.mktemp("home"), body_size_bytes_max=70_000 - 1) as pair:
        yield pair


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("build", "status", "code", "field"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE])
async def test_bad_request_gets_its_code_and_changes_nothing(
    served: tuple[FakeService, ApiServer], build: Build, status: int, code: str, field: str | None
) -> None:
    service, server = served
    service.pool.clear()
    data = build(service)
    before = service.store.tip
    reply = await raw(server.url, data)
    assert (reply.status, reply.json["code"]) == (status, code)
    check_problem(reply, field)
    assert service.store.tip == before
    assert service.pool == []
    assert (await ask(server.url, "GET", "/v1/health")).status == 200


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/v1/transactions/01ab", "expected 66 lower-case hexadecimal digits"),
        ("/v1/records/zz", "expected 66 lower-case hexadecimal digits"),
        ("/v1/packs?epc=foo", "bad_identifier; expected: identifier, e.g. 01/09521234001010/21/SN1"),
    ],
)
async def test_a_bad_parameter_is_told_what_a_good_one_looks_like(
    served: tuple[FakeService, ApiServer], target: str, reason: str
) -> None:
    reply = await ask(served[1].url, "GET", target)
    assert [item["reason"] for item in reply.json["errors"]] == [reason]


def check_problem(reply: Reply, field: str | None) -> None:
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json
    assert problem["status"] == reply.status
    assert problem["title"]
    assert problem["detail"]
    assert problem["type"] == f"/v1/errors#{problem['code']}"
    assert isinstance(problem["retryable"], bool)
    if field is not None:
        assert [item["field"] for item in problem["errors"]] == [field]


@pytest.mark.asyncio
async def test_a_full_pool_is_a_retryable_429(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        service.pool_full = True
        one = await ask(server.url, "POST", POST, good(service).wire, RAW)
        assert (one.status, one.json["code"], one.json["retryable"]) == (429, "MC3001", True)
        assert int(one.headers["retry-after"]) > 0
        many = await ask(server.url, "POST", POST, encode((good(service).wire,)), MSGPACK)
        assert (many.status, many.json[0]["label"], many.json[0]["status"]) == (200, "MC3001", "refused")
        assert "retry-after" in many.headers


@pytest.mark.asyncio
async def test_waiting_without_room_says_so_and_keeps_the_transaction(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        service.waiters_full = True
        tx = good(service)
        reply = await ask(server.url, "POST", f"{POST}?wait=committed", tx.wire, RAW)
        assert (reply.status, reply.json["code"], reply.json["id"]) == (503, "MC3002", tx.id.hex())
        assert "retry-after" in reply.headers
        assert service.pool == [tx]


@pytest.mark.asyncio
async def test_not_final_in_time_is_504_with_the_id(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        service.commits_while_waiting = False
        tx = good(service)
        reply = await ask(server.url, "POST", f"{POST}?wait=committed&timeout_ms=20", tx.wire, RAW)
        assert (reply.status, reply.json["code"], reply.json["id"]) == (504, "MC3003", tx.id.hex())
        assert service.waiting == 0


@pytest.mark.asyncio
async def test_json_over_its_own_limit_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, server):
        reply = await ask(server.url, "POST", POST, b"[" + b" " * (512 * 1024) + b"]", JSON)
        assert (reply.status, reply.json["code"]) == (413, "MC3006")


@pytest.mark.asyncio
async def test_a_handler_that_fails_answers_500_and_the_server_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as (service, server):
        service.why = lambda: 1 // 0  # type: ignore[assignment,return-value]
        reply = await ask(server.url, "GET", "/v1/why")
        assert (reply.status, reply.json["code"]) == (500, "MC9001")
        assert "division" not in reply.body.decode()
        assert (await ask(server.url, "GET", "/v1/status")).status == 200
