"""The API from the client's side, sans I/O: each call as a request to send and a way to read its answer.

Both clients are made of this, so neither can know a call that the other does not. The errors are here as well:

    ClientError
     ├─ ApiError      the node refused; `code` is what `medchain errors` explains
     └─ Unreachable   nothing answered, or not in time, or it was no node

Must not know: sockets, event loops.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from ledger.codec import encode
from ledger.errors import Code, code_label
from ledger.genesis import Genesis

ANSWER_SIZE_BYTES_MAX = 64 * 1024 * 1024  # the largest block as JSON, with room; a node is not trusted either
EVENT_SIZE_BYTES_MAX = 1024 * 1024  # a transaction has 64 KiB, as JSON at most a few times that
EVENTS_PER_PAGE = 200
WAIT_MARGIN_MS = 5_000  # beyond the node's own wait, before the client gives up

T = TypeVar("T")
Json = dict[str, Any]
Id = bytes | str

_LABEL = re.compile(r"MC([0-9]{4,9})")


class ClientError(Exception):
    """Base of what a client raises for the node's or the network's part."""


class ApiError(ClientError):
    """The node refused. `code` is the number (2104), `detail` its words, `document` the whole problem document."""

    def __init__(self, code: int, status: int, detail: str, retryable: bool, document: Json | None = None) -> None:
        super().__init__(f"{code_label(code)}: {detail}")
        self.code = code
        self.status = status
        self.detail = detail
        self.retryable = retryable
        self.document: Json = document or {}


class Unreachable(ClientError):
    """Nothing answered at `url`."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request. `read` turns the answer's body into what the caller wants; `timeout_ms` is added to the client's."""

    method: str
    target: str
    read: Callable[[bytes], T]
    body: bytes | None = None
    media_type: str = ""
    timeout_ms: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def all_headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", **self.headers}
        if self.body is not None:
            headers["Content-Type"] = self.media_type
        return headers

    def finish(self, status: int, body: bytes) -> T:
        """The answer's meaning. ApiError when the node refused."""
        if status >= 400:
            raise read_error(status, body)
        return self.read(body)


def read_error(status: int, body: bytes) -> ApiError:
    """From a problem document, or from whatever stands between us and the node."""
    try:
        document = json.loads(body)
        label = _LABEL.fullmatch(document["code"])
        if label is None:
            raise ValueError(document["code"])
        detail, code = str(document["detail"]), int(label[1])
        named = "; ".join(f"{item['field']}: {item['reason']}" for item in document.get("errors", ()))
        return ApiError(code, status, named or detail, document.get("retryable") is True, document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ApiError(int(Code.UNREACHABLE), status, f"HTTP status {status} without a problem document", False)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(int(Code.UNREACHABLE), 200, "the answer is not JSON: is this a node?", False) from None


def _object(body: bytes) -> Json:
    value = _json(body)
    if not isinstance(value, dict):
        raise ApiError(int(Code.UNREACHABLE), 200, "the answer is not an object: is this a node?", False)
    return value


def _items(body: bytes) -> list[Json]:
    items = _object(body).get("items")
    return items if isinstance(items, list) else []


def _id(value: Id) -> str:
    return value.hex() if isinstance(value, bytes) else quote(value, safe="")


def _get(path: str, **query: object) -> Call[Json]:
    return Call("GET", _target(path, query), _object)


def _list(path: str, **query: object) -> Call[list[Json]]:
    return Call("GET", _target(path, query), _items)


def _target(path: str, query: dict[str, object]) -> str:
    given = {
        name: "true" if value is True else str(value)
        for name, value in query.items()
        if value is not None and value is not False
    }
    return path + ("?" + urlencode(given, quote_via=quote, safe="") if given else "")


def status() -> Call[Json]:
    return _get("/v1/status")


def why() -> Call[Json]:
    return _get("/v1/why")


def peers() -> Call[list[Json]]:
    return _list("/v1/peers")


def height() -> Call[int]:
    return Call("GET", "/v1/blocks?limit=1", lambda body: int(_object(body)["height"]))


def genesis() -> Call[Genesis]:
    return Call("GET", "/v1/genesis", Genesis.from_json)


def submit(wires: Sequence[bytes]) -> Call[list[Json]]:
    return Call("POST", "/v1/transactions", _json, encode(tuple(wires)), "application/msgpack")


def submit_wait(wire: bytes, timeout_ms: int) -> Call[Json]:
    target = _target("/v1/transactions", {"wait": "committed", "timeout_ms": timeout_ms})
    return _Waiting("POST", target, _object, wire, "application/octet-stream", timeout_ms + WAIT_MARGIN_MS)


class _Waiting(Call[Json]):
    """A refusal that is on the chain is a receipt like any other; only what never got there is an error."""

    __slots__ = ()

    def finish(self, status: int, body: bytes) -> Json:
        if status < 400:
            return self.read(body)
        error = read_error(status, body)
        receipt = error.document.get("receipt")
        if isinstance(receipt, dict):
            return {"status": "refused"} | receipt
        raise error


def transaction(tx_id: Id, prove: bool) -> Call[Json]:
    return _get(f"/v1/transactions/{_id(tx_id)}", prove=prove)


def receipt(tx_id: Id, prove: bool) -> Call[Json]:
    return _get(f"/v1/receipts/{_id(tx_id)}", prove=prove)


def block(at: int | str) -> Call[Json]:
    return _get(f"/v1/blocks/{_id(str(at))}")


def blocks(first: int | None, limit: int) -> Call[list[Json]]:
    return _list("/v1/blocks", **{"from": first, "limit": limit})


def events(after: str, limit: int) -> Call[Json]:
    return _get("/v1/events", after=after, limit=limit)


def event_stream(after: str) -> Call[Json]:
    headers = {"Accept": "text/event-stream"}
    return Call("GET", _target("/v1/events", {"after": after}), _object, headers=headers)


def record(commitment: Id) -> Call[Json]:
    return _get(f"/v1/records/{_id(commitment)}")


def record_history(commitment: Id, after: str | None, limit: int) -> Call[Json]:
    return _get(f"/v1/records/{_id(commitment)}/history", after=after, limit=limit)


def patient_records(patient: Id, after: str | None, limit: int) -> Call[Json]:
    return _get(f"/v1/patients/{_id(patient)}/records", after=after, limit=limit)


def pack(epc: str) -> Call[Json]:
    return _get("/v1/packs", epc=epc)


def trace(epc: str) -> Call[Json]:
    return _get("/v1/packs/trace", epc=epc)


def lot(gtin: str, number: str) -> Call[Json]:
    return _get(f"/v1/lots/{_id(gtin)}/{_id(number)}")


def account(owner: str, currency: str) -> Call[Json]:
    return _get(f"/v1/accounts/{_id(owner)}", currency=currency)


def account_history(owner: str, after: str | None, limit: int) -> Call[Json]:
    return _get(f"/v1/accounts/{_id(owner)}/history", after=after, limit=limit)


def claim(claim_id: Id) -> Call[Json]:
    return _get(f"/v1/claims/{_id(claim_id)}")


def policy(policy_id: Id) -> Call[Json]:
    return _get(f"/v1/policies/{_id(policy_id)}")


def members() -> Call[list[Json]]:
    return _list("/v1/members")


def member(member_id: str) -> Call[Json]:
    return _get(f"/v1/members/{_id(member_id)}")


def validators(epoch: int | None) -> Call[Json]:
    return _get("/v1/validators", epoch=epoch)


def proposals(after: str | None, limit: int) -> Call[list[Json]]:
    return _list("/v1/proposals", after=after, limit=limit)


def parameters() -> Call[Json]:
    return _get("/v1/parameters")


def evidence(after: str | None, limit: int) -> Call[Json]:
    return _get("/v1/evidence", after=after, limit=limit)


def state(key: bytes, prove: bool) -> Call[Json]:
    return _get("/v1/state", key=key.hex(), prove=prove)


def proof_of_head(since: int) -> Call[bytes]:
    return _proof("head", since=since)


def proof_of_state(key: bytes, since: int) -> Call[bytes]:
    return _proof("state", key=key.hex(), since=since)


def proof_of_transaction(tx_id: Id, since: int) -> Call[bytes]:
    return _proof(f"transactions/{_id(tx_id)}", since=since)


def proof_of_receipt(tx_id: Id, since: int) -> Call[bytes]:
    return _proof(f"receipts/{_id(tx_id)}", since=since)


def _proof(path: str, **query: object) -> Call[bytes]:
    target = _target(f"/v1/proofs/{path}", query)
    return Call("GET", target, lambda body: body, headers={"Accept": "application/octet-stream"})


def vault_put(sealed: bytes, token: str) -> Call[Json]:
    headers = {"Authorization": f"Bearer {token}"}
    return Call("POST", "/v1/vault", _object, sealed, "application/octet-stream", headers=headers)


def vault_get(commitment: Id, access: Id) -> Call[bytes]:
    target = f"/v1/vault/{_id(commitment)}?access={_id(access)}"
    return Call("GET", target, lambda body: body, headers={"Accept": "application/octet-stream"})


def vault_erase(commitment: Id, token: str) -> Call[Json]:
    return Call("DELETE", f"/v1/vault/{_id(commitment)}", _object, headers={"Authorization": f"Bearer {token}"})


class EventParser:
    """Server-sent events from lines (WHATWG HTML, section 9.2.6): the data as JSON, and the last id seen."""

    def __init__(self, last_id: str) -> None:
        self.last_id = last_id
        self._data: list[str] = []
        self._size = 0

    def feed(self, line: bytes) -> Json | None:
        """One line without its end; the event that it completes."""
        text = line.decode("utf-8", "replace")
        if not text:
            data, self._data, self._size = "\n".join(self._data), [], 0
            return _object(data.encode()) if data else None
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._size += len(value)
            if self._size > EVENT_SIZE_BYTES_MAX:
                raise ApiError(int(Code.UNREACHABLE), 200, "an event over the size limit", False)
            self._data.append(value)
        elif name == "id":
            self.last_id = value
        return None
