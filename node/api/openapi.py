"""The OpenAPI 3.1 document and docs/http.md, both made from the route table; operations' schemas come from their types.

`python -m node.api.openapi` prints docs/http.md; a test compares the two.

Must not know: handlers.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ledger.fields import Maybe
from ledger.rules import Handler, Registry
from node.api import problems
from node.api.exchange import Parameter, Route
from node.api.problems import http_status
from node.api.routes import ROUTES
from node.api.submit import ENVELOPE, JSON, MSGPACK

_HEX = {"type": "string", "format": "hex", "pattern": "^([0-9a-f]{2})*$"}
_TEXT = {"type": "string"}
_INT = {"type": "integer"}
_CURSOR = {"type": "string", "pattern": "^[0-9]{1,19}:[0-9]{1,10}$"}
_OUTCOME: dict[str, Any] = {
    "code": _INT,
    "label": {"type": "string", "pattern": "^MC[0-9]{4,}$"},
    "name": _TEXT,
    "detail": {"type": "array"},
}
_PLACE = {"id": _HEX, "height": _INT, "position": _INT, "cursor": _CURSOR}


def _object(properties: Mapping[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(item: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return _object({"items": {"type": "array", "items": dict(item)}} | more)


_ANY: dict[str, Any] = {"type": "object"}
_HEADER = {
    "height": _INT, "hash": _HEX, "parent_hash": _HEX, "time_ms": _INT, "epoch": _INT, "tx_count": _INT,
    "proposal_digest": _HEX,
}  # fmt: skip
_MEMBER = _object(
    {
        "id": _TEXT, "name": _TEXT, "roles": {"type": "array", "items": _TEXT},
        "prefixes": {"type": "array", "items": _TEXT}, "glns": {"type": "array", "items": _TEXT},
        "active": {"type": "boolean"},
    }
)  # fmt: skip

SCHEMAS: dict[str, dict[str, Any]] = {
    "Problem": _object(
        {
            "type": _TEXT,
            "title": _TEXT,
            "status": _INT,
            "code": {"type": "string", "pattern": "^MC[0-9]{4,}$"},
            "name": _TEXT,
            "detail": _TEXT,
            "retryable": {"type": "boolean"},
            "values": {"type": "array"},
            "errors": {"type": "array", "items": _object({"field": _TEXT, "reason": _TEXT})},
        },
        ("values", "errors"),
    ),
    "Outcome": _object({"id": {"type": ["string", "null"]}, "status": _TEXT} | _OUTCOME),
    "Receipt": _object(_PLACE | _OUTCOME | {"proof": _ANY | {"type": ["object", "null"]}}, ("proof",)),
    "Transaction": _object(
        _PLACE | _OUTCOME
        | {
            "sender": _HEX, "operation": _TEXT, "version": _INT, "fields": {}, "nonce": _HEX, "valid_until": _INT,
            "size_bytes": _INT, "wire": _HEX, "proof": _ANY,
        },
        ("wire", "proof"),
    ),
    "Submitted": {"anyOf": [_ref("Outcome"), _ref("Receipt"), {"type": "array", "items": _ref("Outcome")}]},
    "Events": _list(_ref("Transaction"), next=_CURSOR, more={"type": "boolean"}),
    "Blocks": _list(_object(_HEADER), height=_INT),
    "Block": _object(_HEADER | {"view": _INT, "transactions": {"type": "array"}, "certificate": _ANY}),
    "State": _object({"key": _HEX, "height": _INT, "encoded": {"type": ["string", "null"]}, "value": {}}),
    "Genesis": _ANY,
    "Validators": _object(
        {"epoch": _INT, "first_height": _INT, "n": _INT, "f": _INT, "quorum": _INT, "validators": {"type": "array"}}
    ),
    "Parameters": _object({"epoch": _INT, "values": _ANY, "next": _ANY | {"type": ["object", "null"]}}),
    "Member": _MEMBER,
    "Members": _list(_MEMBER),
    "Page": _list(_ANY, next={"type": ["string", "null"]}),
    "Record": _object(
        {"record": _HEX, "custodian": _TEXT, "patient": _HEX, "kind": _TEXT, "size_bytes": _INT, "state": _TEXT}
    ),
    "Pack": _object({"epc": _TEXT, "status": _TEXT, "custodian": _TEXT, "lot": _TEXT, "recalled": {"type": "boolean"}}),
    "Trace": _list(_ANY, epc=_TEXT, truncated={"type": "boolean"}),
    "Lot": _object({"gtin": _TEXT, "lot": _TEXT, "maker": _TEXT, "expiry_date": _INT, "recalled": {"type": "boolean"}}),
    "Account": _object({"owner": _TEXT, "currency": _TEXT, "balance": _INT, "exponent": _INT}),
    "Claim": _object({"claim": _HEX, "policy": _HEX, "provider": _TEXT, "amount": _INT, "state": _TEXT}),
    "Policy": _object({"policy": _HEX, "insurer": _TEXT, "patient": _HEX, "active": {"type": "boolean"}}),
    "Stored": _object({"record": _HEX, "size_bytes": _INT}),
    "Erased": _object({"record": _HEX}),
    "Object": _ANY,
    "List": _list(_ANY),
}  # fmt: skip


def document(registry: Registry, version: str) -> dict[str, Any]:
    """The whole OpenAPI document for a chain's active rule modules."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        template = route.template.replace("...}", "}")
        paths.setdefault(template, {})[route.method.lower()] = _operation(route)
    inputs = {f"{_name(handler)}": _input(handler) for handler in registry.handlers}
    schemas = SCHEMAS | inputs | {"TransactionInput": {"anyOf": [_ref(name) for name in inputs]}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "medchain node",
            "version": version,
            "description": "Transactions are signed by those who send them; everything readable is read by GET.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"operator": {"type": "http", "scheme": "bearer"}},
        },
    }


def _name(handler: Handler) -> str:
    operation = handler.rule.operation
    return f"{operation.NAME}.{operation.VERSION}"


def _input(handler: Handler) -> dict[str, Any]:
    """A JSON transaction of one operation."""
    operation = handler.rule.operation
    required = [name for name, kind in handler.schema if not isinstance(kind, Maybe)]
    fields = {
        "type": "object",
        "properties": {name: kind.describe() for name, kind in handler.schema},
        "required": required,
        "additionalProperties": False,
    }
    envelope = {name: kind.describe() for name, kind in ENVELOPE.items()} | {
        "operation": {"const": operation.NAME},
        "version": {"const": operation.VERSION},
        "fields": fields,
    }
    description = " ".join((operation.__doc__ or "").split())
    return _object(envelope) | {"description": description, "additionalProperties": False}


def _operation(route: Route) -> dict[str, Any]:
    parameters = [_parameter(item, "path") for item in route.path] + [_parameter(item, "query") for item in route.query]
    answer: dict[str, Any] = {"description": route.summary}
    if route.returns:
        answer["content"] = {route.media_type: {"schema": _ref(route.returns)}}
    else:
        answer["content"] = {route.media_type: {}}
    responses: dict[str, Any] = {str(route.status): answer}
    if route.body is not None and route.status == 202:
        responses["200"] = answer | {"description": "Committed, or a list of outcomes."}
    by_status: dict[int, list[str]] = {}
    for code in route.codes:
        by_status.setdefault(http_status(code), []).append(code.label)
    for status, labels in sorted(by_status.items()):
        responses[str(status)] = {
            "description": ", ".join(labels),
            "content": {problems.MEDIA_TYPE: {"schema": _ref("Problem")}},
        }
    responses["default"] = {
        "description": "A problem; its code is explained by /v1/errors.",
        "content": {problems.MEDIA_TYPE: {"schema": _ref("Problem")}},
    }
    document: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": parameters,
        "responses": responses,
    }
    if route.operator:
        document["security"] = [{"operator": []}]
    if route.body is not None:
        document["requestBody"] = {
            "required": True,
            "description": route.body.about,
            "content": {media_type: {"schema": _body_schema(media_type)} for media_type in route.body.media_types},
        }
    return document


def _operation_id(route: Route) -> str:
    words = [word.strip("{}.") for word in route.template.split("/") if word]
    return "_".join([route.method.lower(), *words])


def _body_schema(media_type: str) -> dict[str, Any]:
    if media_type == JSON:
        return {"anyOf": [_ref("TransactionInput"), {"type": "array", "items": _ref("TransactionInput")}]}
    return {"type": "array", "items": {"type": "string", "format": "binary"}} if media_type == MSGPACK else {}


def _parameter(parameter: Parameter, place: str) -> dict[str, Any]:
    schema = parameter.kind.describe()
    if parameter.default is not None and isinstance(parameter.default, bool | int | str):
        schema = schema | {"default": parameter.default}
    return {
        "name": parameter.name,
        "in": place,
        "required": place == "path" or parameter.required,
        "description": parameter.about,
        "schema": schema,
    }


_INTRODUCTION = """# HTTP API

Made from the route table by `python -m node.api.openapi`; a test compares the two. The same, with every operation's
fields, is served as OpenAPI 3.1 at `/v1/openapi.json`; `/` is a plain status page.

- The API listens on loopback and has no TLS: let a TLS proxy on the machine face others, and list its name in
  `api.allowed_hosts`; requests for other names are refused (MC3013).
- A transaction is signed by its sender, which is all that it needs. Routes marked *operator* want
  `Authorization: Bearer <token>`, the token in `operator.token` (mode 0600) in the node's folder.
- Bytes are lower-case hexadecimal in JSON, amounts are integers; a number with a fraction is refused with its field.
- Errors are `application/problem+json` (RFC 9457) with `code` (docs/errors.md), `retryable`, and `errors` that name
  fields. 429 and 503 carry `Retry-After`.
- Sending the same transaction again does no harm: its id is the idempotency key.
- Histories are pages: ask on with `after` set to `next` while it is not null. Events are never at their end: their
  `next` is where to ask again later. `Accept: text/event-stream` turns `/v1/events` and `/v1/blocks` into streams,
  resumed by `Last-Event-ID`: what waits for blocks need not poll.
- A JSON transaction has `operation`, `version`, `fields`, `nonce`, `valid_until`, `sender` and `signature`; it is
  signed as docs/wire-format.md says, so most clients sign the msgpack body and send that.
- Limits: a body of `limits.body_size_bytes_max`, JSON bodies of 512 KiB, 2,000 transactions a request, and
  `limits.request_timeout_ms` to send a request or to read its answer. A page of events ends with the event that takes
  it over 1 MiB, before its `limit`: while `more` is true, ask on at once.
- Long reads take turns: of pages, traces, blocks and proofs four are made at a time and 32 wait, and those beyond are
  refused (503 MC3002). Transactions, receipts and single entries of the state never wait for them.
- While more than 64 MiB of answers wait to be read, those over 64 KiB are refused alike. Transactions may have been
  taken though the answer to them is refused: send them again.
"""


def markdown() -> str:
    """docs/http.md."""
    parts = [_INTRODUCTION]
    tag = ""
    for route in ROUTES:
        if route.tag != tag:
            tag = route.tag
            parts.append(f"\n## {tag.capitalize()}\n")
        parts.append(_markdown_route(route))
    return "".join(parts)


def _markdown_route(route: Route) -> str:
    lines = [
        "",
        f"### `{route.method} {route.template}`",
        "",
        route.summary + (" *Operator.*" if route.operator else ""),
    ]
    if route.path or route.query:
        lines += ["", "| parameter | | |", "|---|---|---|"]
        for item in route.path:
            lines.append(f"| `{item.name}` | path | {item.about} |")
        for item in route.query:
            default = "" if item.default in (None, False, (0, 0)) else f"; default {item.default}"
            lines.append(f"| `{item.name}` | query{', required' if item.required else ''} | {item.about}{default} |")
    if route.body is not None:
        lines += ["", f"Body: {route.body.about}."]
    answer = route.returns or route.media_type
    codes = "; " + ", ".join(f"{http_status(code)} {code.label}" for code in route.codes) if route.codes else ""
    lines += ["", f"Answer: {route.status} {answer}{codes}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
