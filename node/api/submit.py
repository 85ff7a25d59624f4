"""Taking transactions: msgpack, raw or JSON in, outcomes or receipts out.

A JSON transaction is turned into the very bytes that its sender signed; where it cannot be, the field is named.

Must not know: what an operation means, or how a transaction becomes final.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ledger.codec import Value, encode
from ledger.crypto import PUBLIC_KEY_SIZE_BYTES, SIGNATURE_SIZE_BYTES
from ledger.errors import Code, FieldReject, Reject
from ledger.fields import Blob, FieldType, Integer, Text
from ledger.transaction import NONCE_SIZE_BYTES, TX_TAG
from node.api.exchange import Answer, Api, Request
from node.api.problems import (
    RETRY_AFTER_S,
    FieldError,
    Problem,
    bad_request,
    from_reject,
    json_bytes,
    rejected,
)
from node.api.views import outcome_json, receipt_json
from node.gateway.jsonsafe import JsonRefused, loads
from node.jsonvalues import fields_from_json, value_from_json
from node.service import Outcome

TXS_PER_REQUEST_MAX = 2_000  # as many as a batch holds
JSON_SIZE_BYTES_MAX = 512 * 1024  # about twenty milliseconds of the event loop; more goes as msgpack

_NO_ID = '{"id":null'  # what stands before the tail of an outcome without an id
_ACCEPTED = ',"status":"accepted","code":0,"label":"MC0000","name":"ok","detail":[]}'

_SIZE_MIN = {0xC4: 0, 0xC5: 2**8, 0xC6: 2**16}  # below these a shorter length would do

MSGPACK, RAW, JSON = "application/msgpack", "application/octet-stream", "application/json"

# The members of a JSON transaction around its fields, in the order in which they are reported.
ENVELOPE: Mapping[str, FieldType] = {
    "operation": Text(128),
    "version": Integer(1, 2**16 - 1),
    "nonce": Blob(NONCE_SIZE_BYTES, NONCE_SIZE_BYTES),
    "valid_until": Integer(),
    "sender": Blob(PUBLIC_KEY_SIZE_BYTES, PUBLIC_KEY_SIZE_BYTES),
    "signature": Blob(SIGNATURE_SIZE_BYTES, SIGNATURE_SIZE_BYTES),
}


async def submit(api: Api, request: Request) -> Answer:
    """One transaction: its outcome. A list: a list of outcomes, in order, always with status 200."""
    wires, alone = _wires(api, request)
    waits_ms = request.query["timeout_ms"] if request.query["wait"] else 0
    outcomes = await api.service.submit(wires)
    if alone:
        return await _answer_one(api, outcomes[0], waits_ms)
    if not waits_ms:
        return _answer_many(api, outcomes)
    return Answer.json(await _wait_all(api, outcomes, waits_ms))


def _wires(api: Api, request: Request) -> tuple[Sequence[bytes], bool]:
    """The transactions' bytes, and whether it is one that was not sent in a list."""
    if request.media_type == RAW:
        if not request.body:
            raise bad_request("body", "one transaction; it is empty")
        return [request.body], True
    if request.media_type == MSGPACK:
        return _wires_of_msgpack(request.body), False
    if len(request.body) > JSON_SIZE_BYTES_MAX:
        raise Problem(Code.BODY_TOO_LARGE, text=f"as JSON at most {JSON_SIZE_BYTES_MAX} bytes; send msgpack")
    try:
        document = loads(request.body, size_bytes_max=JSON_SIZE_BYTES_MAX)
    except JsonRefused as refused:
        where = refused.pointer_or_offset
        field = "body" if where is None else where or "/" if isinstance(where, str) else f"offset {where}"
        raise bad_request(field, refused.reason) from None
    if not isinstance(document, list):
        return [_wire(api, document, "")], True
    if not 1 <= len(document) <= TXS_PER_REQUEST_MAX:
        raise bad_request("body", f"1 to {TXS_PER_REQUEST_MAX} transactions")
    return [_wire(api, item, f"[{index}].") for index, item in enumerate(document)], False


def _wires_of_msgpack(body: bytes) -> Sequence[bytes]:
    """Split a canonical msgpack array of byte strings. By hand: the general decoder counts items before building them,
    which costs a microsecond a transaction; here nothing is built but the slices themselves.
    """
    wires: list[bytes] = []
    try:
        count, position = body[0] & 0x0F, 1
        if body[0] == 0xDC:
            count, position = body[1] << 8 | body[2], 3
        if not (0x90 <= body[0] <= 0x9F or (body[0] == 0xDC and count > 15)) or not 1 <= count <= TXS_PER_REQUEST_MAX:
            raise bad_request("body", f"a canonical msgpack array of 1 to {TXS_PER_REQUEST_MAX} transactions")
        for index in range(count):
            head = body[position]
            if head == 0xC5:
                size, start = body[position + 1] << 8 | body[position + 2], position + 3
            elif head == 0xC4:
                size, start = body[position + 1], position + 2
            elif head == 0xC6:
                size, start = int.from_bytes(body[position + 1 : position + 5], "big"), position + 5
            else:
                raise bad_request(f"[{index}]", "a transaction as bytes")
            if size < _SIZE_MIN[head]:
                raise Problem(Code.NOT_CANONICAL, errors=[FieldError(f"[{index}]", "the shortest length")])
            position = start + size
            wires.append(body[start:position])
    except IndexError:
        position = len(body) + 1
    if position != len(body):
        raise Problem(Code.MALFORMED, errors=[FieldError("body", "truncated, or followed by other bytes")])
    return wires


def _wire(api: Api, document: object, prefix: str) -> bytes:
    """The bytes whose signature the sender made. Problem names what is missing, unknown or wrong."""
    if not isinstance(document, dict):
        raise bad_request(prefix.rstrip(".") or "body", "an object")
    for name in document:
        if name not in ENVELOPE and name != "fields":
            raise bad_request(prefix + name, "no unknown member; known: fields, " + ", ".join(ENVELOPE))
    values: dict[str, Any] = {}
    for name, field_type in ENVELOPE.items():
        if name not in document:
            raise bad_request(prefix + name, "a value; it is missing")
        try:
            values[name] = value_from_json(field_type, document[name], name)
            field_type.check(values[name], name)
        except FieldReject as refused:
            raise bad_request(prefix + name, f"expected {refused.detail[1]!s}") from None
    try:
        schema = api.service.registry.handler(values["operation"], values["version"]).schema
    except Reject as refused:
        raise from_reject(refused, prefix) from None
    fields = document.get("fields")
    if not isinstance(fields, dict):
        raise bad_request(prefix + "fields", "an object")
    try:
        fields_values = fields_from_json(schema, fields)
    except Reject as refused:
        raise from_reject(refused, f"{prefix}fields.") from None
    chain_id, version = api.service.store.chain_id, values["version"]
    body = (TX_TAG, chain_id, values["operation"], version, fields_values, values["nonce"], values["valid_until"])
    wire: bytes = values["signature"] + values["sender"] + encode(body)
    return wire


async def _answer_one(api: Api, outcome: Outcome, waits_ms: int) -> Answer:
    if outcome.code:
        raise _refused(outcome)
    assert outcome.tx_id is not None
    tx_id = outcome.tx_id.hex()
    if not waits_ms:
        return Answer.json({"id": tx_id, "status": "accepted"} | outcome_json(api.codes, 0, ()), 202)
    try:
        final = await api.service.wait(outcome.tx_id, waits_ms)
    except Reject as reject:  # taken all the same: the receipt can be asked for
        raise rejected(int(reject.code), reject.detail, id=tx_id) from None
    if final is None:
        raise rejected(Code.NOT_FINAL_IN_TIME, (), id=tx_id)
    height, position, receipt = final
    document = receipt_json(api.codes, (height, position), receipt)
    if receipt.code:
        raise rejected(receipt.code, receipt.detail, id=tx_id, receipt=document)
    return Answer.json({"status": "committed"} | document)


def _refused(outcome: Outcome) -> Problem:
    problem = rejected(outcome.code, outcome.detail)
    if outcome.tx_id is not None:
        problem.more["id"] = outcome.tx_id.hex()
    return problem


def _answer_many(api: Api, outcomes: Sequence[Outcome]) -> Answer:
    """The list as JSON. Most outcomes of a post are alike but for the id: what follows it is made once for each."""
    tails: dict[tuple[int, tuple[Value, ...]], str] = {(0, ()): _ACCEPTED}
    parts: list[str] = []
    for outcome in outcomes:
        kind = outcome.code, outcome.detail
        tail = tails.get(kind)
        if tail is None:
            tail = tails[kind] = json_bytes(_outcome(api, replace(outcome, tx_id=None))).decode().removeprefix(_NO_ID)
        parts.append(_NO_ID + tail if outcome.tx_id is None else f'{{"id":"{outcome.tx_id.hex()}"{tail}')
    refused = any(code == Code.POOL_FULL for code, _ in tails)
    return Answer(f"[{','.join(parts)}]".encode(), headers={"Retry-After": str(RETRY_AFTER_S)} if refused else {})


def _outcome(api: Api, outcome: Outcome) -> dict[str, Any]:
    tx_id = outcome.tx_id.hex() if outcome.tx_id is not None else None
    document: dict[str, Any] = {"id": tx_id, "status": "refused" if outcome.code else "accepted"}
    document |= outcome_json(api.codes, outcome.code, outcome.detail)
    if outcome.code:
        document["retryable"] = api.codes.explain(outcome.code).retryable
    return document


async def _wait_all(api: Api, outcomes: Sequence[Outcome], waits_ms: int) -> list[dict[str, Any]]:
    """One after the other within the time: they become final together, and take one waiter instead of many."""
    deadline = time.monotonic() + waits_ms / 1000
    results = []
    for outcome in outcomes:
        document = _outcome(api, outcome)
        results.append(document)
        if outcome.code or outcome.tx_id is None:
            continue
        left_ms = max(1, int((deadline - time.monotonic()) * 1000))
        try:
            final = await api.service.wait(outcome.tx_id, left_ms)
        except Reject:
            break  # too many wait: the rest stays `accepted`
        if final is not None:
            height, position, receipt = final
            document |= receipt_json(api.codes, (height, position), receipt)
            document["status"] = "refused" if receipt.code else "committed"
    done = len(results)
    return results + [_outcome(api, outcome) for outcome in outcomes[done:]]
