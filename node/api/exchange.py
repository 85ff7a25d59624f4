"""What passes between the server and its handlers: parameters, requests, answers, routes. Sans I/O.

A handler is a coroutine function from (Api, Request) to an Answer; everything that HTTP says about it stands in its
Route, from which the OpenAPI document and docs/http.md are made.

Must not know: aiohttp (a stream's writer is behind `Stream`), or what any route does.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from ledger.errors import Code, FieldReject, Reject
from ledger.fields import Blob, FieldType, Flag, Integer
from node.api.admission import Reads
from node.api.problems import Codes, FieldError, Problem, bad_request, json_bytes
from node.config import Limits
from node.jsonvalues import bytes_from_hex
from node.service import NodeService

PARAMETERS_MAX = 16  # no route has half as many
QUERY_LENGTH_MAX = 4_096
POSITION_MAX = 2**32 - 1  # what the store's keys hold
HEIGHT_MAX = 2**63 - 1

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")

Place = tuple[int, int]


class Kind(Protocol):
    """The type of a parameter: from text to a value; FieldReject or Reject names it."""

    def parse(self, text: str, name: str) -> Any: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Typed:
    """A parameter of one of the ledger's field types, as text."""

    type: FieldType

    def parse(self, text: str, name: str) -> Any:
        value: Any = text
        if isinstance(self.type, Integer):
            if not _DECIMAL.fullmatch(text):
                raise FieldReject(name, f"integer {self.type.low}..{self.type.high}")
            value = int(text)
        elif isinstance(self.type, Flag):
            value = {"true": True, "false": False}.get(text)
        elif isinstance(self.type, Blob):
            value = bytes_from_hex(self.type, text, name)
        self.type.check(value, name)
        return value

    def describe(self) -> dict[str, Any]:
        return self.type.describe()


@dataclass(frozen=True, slots=True)
class Height:
    """A block's height, or `latest` (None)."""

    def parse(self, text: str, name: str) -> int | None:
        if text == "latest":
            return None
        if not _DECIMAL.fullmatch(text) or int(text) > HEIGHT_MAX:
            raise FieldReject(name, "a height or latest")
        return int(text)

    def describe(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^(latest|0|[1-9][0-9]{0,18})$"}


@dataclass(frozen=True, slots=True)
class Cursor:
    """`height:position` of the last entry that was read; `latest` (None) is where the chain ends now."""

    def parse(self, text: str, name: str) -> Place | None:
        if text == "latest":
            return None
        height, colon, position = text.partition(":")
        if colon and _DECIMAL.fullmatch(height) and _DECIMAL.fullmatch(position):
            place = int(height), int(position)
            if place[0] <= HEIGHT_MAX and place[1] <= POSITION_MAX:
                return place
        raise FieldReject(name, "height:position, or latest")

    def describe(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^(latest|[0-9]{1,19}:[0-9]{1,10})$"}


def cursor(place: Place) -> str:
    return f"{place[0]}:{place[1]}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One path or query parameter. A query parameter without a default is required."""

    name: str
    kind: Kind
    about: str
    default: Any = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One parsed request."""

    path: Mapping[str, Any]
    query: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = ""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response."""

    body: bytes = b""
    status: int = 200
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
        return cls(json_bytes(value), status, headers=headers or {})


@dataclass(frozen=True, slots=True)
class Stream:
    """A response without end: `run` is given a function that writes bytes, and returns when the server stops."""

    run: Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]
    media_type: str = "text/event-stream"


class Directory:
    """Ids of institutions: those of genesis, then those that governance admitted, read on from where it was left.

    The state cannot be listed, so they are gathered from the proposals, enacted or not. Bounded by their number.
    """

    def __init__(self, service: NodeService) -> None:
        self._service = service
        listed = service.genesis.modules["members"].get("institutions", ())
        self._ids: dict[str, None] = {str(item["id"]): None for item in listed}
        self._read_until: Place | None = None

    async def ids(self, reads: Reads) -> tuple[str, ...]:
        """In slices, with turns from `reads`: after a start there may be many to go through."""
        store = self._service.store
        while found := store.lookup("governance", b"proposals", after=self._read_until, limit=500):
            await reads.turn()
            async for place in reads.sliced(found):
                self._read_until = place
                tx = store.transaction_at(place)
                if tx is not None and tx.operation == "members.propose_institution":
                    self._ids[str(tx.fields[0])] = None
        return tuple(self._ids)


@dataclass(slots=True)
class Api:
    """What handlers share."""

    service: NodeService
    codes: Codes
    directory: Directory
    operator_token: str
    reads: Reads
    vault_slots: asyncio.Semaphore
    clock_ms: Callable[[], int]  # Unix time
    documents: Mapping[str, Answer]  # made once: the OpenAPI document and the status page


Handler = Callable[[Api, Request], Awaitable["Answer | Stream"]]


def long_read(read: Callable[[Api, Request], Awaitable[Answer]]) -> Callable[[Api, Request], Awaitable[Answer]]:
    """Marks a handler that takes its turn among the long reads. Its route names TOO_MANY_WAITERS."""

    @wraps(read)
    async def in_turn(api: Api, request: Request) -> Answer:
        async with api.reads.admitted():
            return await read(api, request)

    return in_turn


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body: the media types it may have and its limit."""

    media_types: tuple[str, ...]
    size_bytes_max: Callable[[Limits], int]
    about: str


@dataclass(frozen=True, slots=True)
class Route:
    """One method and path. `{name}` stands for one segment, `{name...}` for the rest of the path."""

    method: str
    template: str
    handler: Handler
    summary: str
    tag: str
    returns: str
    path: tuple[Parameter, ...] = ()
    query: tuple[Parameter, ...] = ()
    body: Body | None = None
    media_type: str = "application/json"
    status: int = 200
    codes: tuple[Code, ...] = ()
    operator: bool = False

    def read_path(self, segments: list[str]) -> dict[str, Any] | None:
        """The path parameters as raw text; None if the template does not fit."""
        names = self.template.split("/")[1:]
        found: dict[str, Any] = {}
        for index, name in enumerate(names):
            if name.endswith("...}"):
                found[name[1:-4]] = "/".join(segments[index:])
                return found if segments[index:] else None
            if index >= len(segments) or not (name.startswith("{") or name == segments[index]):
                return None
            if name.startswith("{"):
                found[name[1:-1]] = segments[index]
        return found if len(names) == len(segments) else None


class RouteTable:
    """Finds the route of a method and raw path."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.routes = routes
        self._literal: dict[str, dict[str, Route]] = {}
        self._patterns: list[Route] = []
        for route in routes:
            if "{" in route.template:
                self._patterns.append(route)
            else:
                self._literal.setdefault(route.template, {})[route.method] = route

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, Any]]:
        """The route and its path parameters, checked. Problem: NOT_FOUND, METHOD_NOT_ALLOWED or a bad parameter."""
        wanted = "GET" if method == "HEAD" else method
        literal = self._literal.get(raw_path)
        if literal is not None:
            if wanted in literal:
                return literal[wanted], {}
            raise _not_allowed(list(literal))
        segments = raw_path.split("/")[1:]
        allowed: list[str] = []
        for route in self._patterns:
            found = route.read_path(segments)
            if found is None:
                continue
            if route.method == wanted:
                return route, _checked(route.path, {name: _unquote(text, name) for name, text in found.items()})
            allowed.append(route.method)
        if allowed:
            raise _not_allowed(allowed)
        raise Problem(Code.NOT_FOUND)


def read_query(route: Route, raw: str) -> dict[str, Any]:
    """The query's parameters, checked: unknown, repeated, missing and ill-typed ones are named."""
    if not raw:
        return _checked(route.query, {})
    if len(raw) > QUERY_LENGTH_MAX:
        raise bad_request("query", f"at most {QUERY_LENGTH_MAX} characters")
    given: dict[str, str] = {}
    pairs = raw.split("&")
    if len(pairs) > PARAMETERS_MAX:
        raise bad_request("query", f"at most {PARAMETERS_MAX} parameters")
    for pair in pairs:
        raw_name, _, raw_value = pair.partition("=")
        name = _unquote(raw_name.replace("+", " "), "query")
        if name in given:
            raise bad_request(name, "given once")
        given[name] = _unquote(raw_value.replace("+", " "), name)
    known = {parameter.name for parameter in route.query}
    for name in given:
        if name not in known:
            raise bad_request(name, "no unknown parameter; known: " + (", ".join(sorted(known)) or "none"))
    return _checked(route.query, given)


def _checked(parameters: tuple[Parameter, ...], given: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for parameter in parameters:
        name = parameter.name
        if name not in given:
            if parameter.required:
                raise bad_request(name, "a value; it is missing")
            values[name] = parameter.default
            continue
        try:
            values[name] = parameter.kind.parse(given[name], name)
        except FieldReject as refused:
            raise bad_request(name, f"expected {refused.detail[1]!s}") from None
        except Reject as refused:
            reason = f"{refused.code.name.lower()}; expected: {parameter.about}"
            raise Problem(int(refused.code), *refused.detail, status=400, errors=[FieldError(name, reason)]) from None
    return values


def _unquote(text: str, name: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise bad_request(name, "UTF-8, percent-encoded") from None


def _not_allowed(methods: list[str]) -> Problem:
    allowed = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
    return Problem(Code.METHOD_NOT_ALLOWED, headers={"Allow": ", ".join(allowed)})
