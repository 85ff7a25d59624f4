"""The HTTP server: aiohttp's protocol with the limits that it leaves open, and the way from a request to its handler.

What aiohttp does not do by itself and stands here: deadlines for headers, bodies and answers; a cap on connections, in
all and by address, and on what waits in them to be read; a Host allow-list; one short, rate-limited log line for
malformed requests; problem documents for every error. Bodies are never decompressed.

Must not know: what any route does (routes.py).
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_protocol import RequestHandler

from ledger.errors import Code, Reject
from node.api import openapi, page, tokens
from node.api.admission import Reads
from node.api.exchange import Answer, Api, Body, Directory, Request, Route, Stream, read_query
from node.api.problems import MEDIA_TYPE, RETRY_AFTER_S, Codes, Problem, bad_request, json_bytes
from node.api.routes import TABLE
from node.api.vault_access import VAULT_SLOTS, check_operator
from node.config import NodeConfig
from node.service import NodeService
from storage.errors import StorageError

HEADERS_MAX = 64  # a browser sends about twenty
HEADER_SIZE_BYTES_MAX = 8_190
LINGERING_S = 1.0  # reading on after a refusal, so that the client sees the answer before the connection closes
SHUTDOWN_S = 2.0
BACKLOG = 256
LARGE_SIZE_BYTES = 64 * 1024  # smaller bodies are bounded by the number of connections
UNREAD_SIZE_BYTES_MAX = 64 * 1024 * 1024  # of all answers, for another large one to begin: four of the largest records
LOG_INTERVAL_S = 10.0  # one line for strangers' faults in this time: they must not fill the disk

_HEADERS: Final = {
    "Server": "medchain",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

_FIXED_HEAD: Final = "".join(f"{name}: {value}\r\n" for name, value in _HEADERS.items())
_WRITTEN: Final = Answer()
_PHRASES: Final = {int(status): status.phrase for status in HTTPStatus}

log = logging.getLogger("medchain.api")


class _Whole(web.StreamResponse):
    """An answer that is known in full: head and body leave in one write, unless the body is too large to copy.
    aiohttp's own way to the same bytes, with its header dictionaries and body types, costs a third of a small request.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(status=answer.status)
        self._answer = answer

    @property
    def is_large(self) -> bool:
        """Whether its body counts among what may wait to be read."""
        return len(self._answer.body) > LARGE_SIZE_BYTES

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Write it, without waiting for it to be read: `_Connection.finish_response` does that."""
        answer, transport, is_large = self._answer, request.transport, self.is_large
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        more = "".join([f"{name}: {_one_line(value)}\r\n" for name, value in answer.headers.items()])
        if not self._keep_alive:
            more += "Connection: close\r\n"
        elif request.version == HttpVersion10:
            more += "Connection: keep-alive\r\n"
        head = (
            f"HTTP/1.1 {answer.status} {_PHRASES.get(answer.status, '')}\r\n{_FIXED_HEAD}"
            f"Content-Type: {answer.media_type}\r\n{more}"
            f"Content-Length: {len(answer.body)}\r\nDate: {_date(int(time.time()))}\r\n\r\n"
        ).encode()
        self._answer = _WRITTEN  # what is not sent yet is the transport's: kept here too, it would be held twice
        if request.method == "HEAD":
            transport.write(head)
        elif is_large:
            transport.write(head)
            transport.write(answer.body)
        else:
            transport.write(head + answer.body)
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Everything has been written."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@lru_cache(1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _one_line(value: str) -> str:
    if "\r" in value or "\n" in value:
        raise ValueError("a header's value of more than one line")
    return value


class _Faults:
    """One log line for many faults of strangers."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._unsaid = 0

    def note(self, what: str, address: str) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s < self._next_s:
            self._unsaid += 1
            return
        log.warning("refused a request: %s, from %s; %d more not shown", what, address, self._unsaid)
        self._next_s, self._unsaid = now_s + LOG_INTERVAL_S, 0


class _Server(web.Server):
    """Makes connections, counts them, and turns away those beyond the limits."""

    def __init__(self, owner: ApiServer, config: NodeConfig) -> None:
        timeout_s = config.limits.request_timeout_ms / 1000
        super().__init__(
            owner.handle,
            handler_cancellation=True,  # a client that leaves frees its waiter
            # Bounds idle connections and, as no other timer runs then, the time until the headers are complete.
            keepalive_timeout=timeout_s,
            lingering_time=LINGERING_S,
            max_headers=HEADERS_MAX,
            max_field_size=HEADER_SIZE_BYTES_MAX,
            max_line_size=HEADER_SIZE_BYTES_MAX,
            auto_decompress=False,
            access_log=None,
        )
        self.owner = owner
        self.answer_timeout_s = timeout_s
        self.limits = config.limits
        self.by_address: dict[str, int] = {}
        self.open = 0

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)

    def admit(self, address: str) -> bool:
        count = self.by_address.get(address, 0)
        if self.open >= self.limits.connections_max or count >= self.limits.connections_per_address_max:
            return False
        self.open += 1
        self.by_address[address] = count + 1
        return True

    def unread_size_bytes(self) -> int:
        """What has been written and waits in this process, as clients do not read it."""
        return sum(transport.get_write_buffer_size() for transport in self._connections.values())

    def release(self, address: str) -> None:
        self.open -= 1
        self.by_address[address] -= 1
        if not self.by_address[address]:
            del self.by_address[address]


class _Connection(RequestHandler):
    """One connection, with a deadline for its answers and quiet errors."""

    __slots__ = ("_address", "_server")

    def __init__(self, server: _Server, **more: Any) -> None:
        super().__init__(server, **more)
        self._server = server
        self._address: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else "?"
        if not self._server.admit(address):
            self._server.owner.faults.note("too many connections", address)
            assert isinstance(transport, asyncio.Transport)
            transport.write(self._server.owner.overload)
            transport.close()
            self._force_close = True
            return
        self._address = address
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._address is not None:
            self._server.release(self._address)
            self._address = None
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._address is not None:
            super().data_received(data)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        transport = self.transport
        try:
            if isinstance(resp, _Whole):
                # Judged here, where it is written without a pause: nobody's answer comes between.
                if resp.is_large and self._server.unread_size_bytes() > UNREAD_SIZE_BYTES_MAX:
                    text = "too many large answers wait to be read; ask again"
                    resp = self._server.owner.problem_response(Problem(Code.TOO_MANY_WAITERS, text=text))
                found = await super().finish_response(request, resp, start_time)
                if self.writing_paused:  # else there is nothing to wait for, and a deadline would be the dearer part
                    async with asyncio.timeout(self._server.answer_timeout_s):
                        await request.writer.drain()
                return found
            async with asyncio.timeout(self._server.answer_timeout_s):
                return await super().finish_response(request, resp, start_time)
        except ConnectionError:
            return resp, True
        except TimeoutError:
            self._server.owner.faults.note("the answer is not read", self._address or "?")
            if transport is not None:
                transport.abort()
            return resp, True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What never reached a handler: malformed HTTP. Its text is a stranger's and goes nowhere."""
        self._server.owner.faults.note(f"malformed HTTP ({type(exc).__name__})", self._address or "?")
        problem = Problem(Code.BAD_REQUEST, text="malformed HTTP") if status < 500 else Problem(Code.INTERNAL)
        response = self._server.owner.problem_response(problem)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **more: Any) -> None:
        self._server.owner.faults.note("the connection failed", self._address or "?")


class ApiServer:
    """The API of one node. `start` raises OSError when the port is taken, ConfigError for a bad token file."""

    def __init__(self, service: NodeService, config: NodeConfig, *, clock_ms: Callable[[], int] = _wall_ms) -> None:
        self._service = service
        self._clock_ms = clock_ms
        self._config = config
        self._allowed_hosts = frozenset(host.lower() for host in config.api.allowed_hosts)
        self._codes = Codes(service.registry)
        self._streams: set[asyncio.Task[Any]] = set()
        self._runner: web.ServerRunner | None = None
        self._api: Api | None = None
        self._url = ""
        self.faults = _Faults()
        self.overload = self._overload_bytes()

    @property
    def url(self) -> str:
        """Where it listens, e.g. `http://127.0.0.1:26601`; empty before `start`."""
        return self._url

    async def start(self) -> None:
        version = importlib.metadata.version("medchain")
        documents = {
            "openapi": Answer.json(openapi.document(self._service.registry, version)),
            "page": page.answer(),
        }
        self._api = Api(
            service=self._service,
            codes=self._codes,
            directory=Directory(self._service),
            operator_token=tokens.load_or_create(self._config.home),
            reads=Reads(),
            vault_slots=asyncio.Semaphore(VAULT_SLOTS),
            clock_ms=self._clock_ms,
            documents=documents,
        )
        self._runner = web.ServerRunner(_Server(self, self._config), shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        host = self._config.api.host
        site = web.TCPSite(self._runner, host, self._config.api.port, backlog=BACKLOG)
        try:
            await site.start()
        except OSError:
            await self.stop()
            raise
        port = self._runner.addresses[0][1]
        self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Close everything; streams end, requests get SHUTDOWN_S to finish."""
        runner, self._runner = self._runner, None
        for task in tuple(self._streams):
            task.cancel()
        if runner is not None:
            await runner.cleanup()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request. Never raises but for cancellation and lost connections."""
        try:
            answer = await self._answer(request)
            if isinstance(answer, Stream):
                return await self._run_stream(request, answer)
            response: web.StreamResponse = _Whole(answer)
        except Problem as problem:
            response = self.problem_response(problem)
        except StorageError as error:
            log.error("reading the store failed: %s", type(error).__name__)
            self._service.on_damage(error)
            response = self.problem_response(Problem(Code.DATA_CORRUPT))
        except ConnectionError:
            raise
        except Exception:
            log.exception("a handler failed")
            response = self.problem_response(Problem(Code.INTERNAL))
        return response

    async def _answer(self, request: web.BaseRequest) -> Answer | Stream:
        assert self._api is not None
        self._check_host(request)
        method, url = request.method, request.rel_url
        route, path = TABLE.find(method, url.raw_path)
        query = read_query(route, url.raw_query_string)
        if route.operator:
            check_operator(self._api, request.headers.get("Authorization", ""))
        media_type, body = "", b""
        if route.body is not None:
            media_type, body = await self._read_body(request, route, route.body)
        headers = {name: request.headers[name] for name in ("Accept", "Last-Event-ID") if name in request.headers}
        if method == "HEAD":
            headers.clear()  # a stream has no end that could be asked for
        return await route.handler(self._api, Request(path, query, headers, media_type, body))

    def _check_host(self, request: web.BaseRequest) -> None:
        """Refuse names that are not ours: a page of a stranger could resolve its own name to this address."""
        given = request.headers.getall("Host", [])
        name = given[0].lower() if len(given) == 1 else ""
        host, _, port = name.rpartition(":")
        if not port.isdigit() or (name.startswith("[") and name.endswith("]")):
            host = name
        if host not in self._allowed_hosts:
            raise Problem(Code.FORBIDDEN_HOST)

    async def _read_body(self, request: web.BaseRequest, route: Route, body: Body) -> tuple[str, bytes]:
        """Media type and body, within the route's limit and the node's deadline."""
        content_type = request.headers.get("Content-Type", "")
        media_type, _, parameters = content_type.partition(";")
        media_type = media_type.strip().lower()
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        charset = parameters.strip().lower().replace('"', "")
        if media_type not in body.media_types or encoding != "identity" or charset not in ("", "charset=utf-8"):
            raise Problem(Code.UNSUPPORTED_MEDIA_TYPE, headers={"Accept-Post": ", ".join(body.media_types)})
        size_bytes_max = body.size_bytes_max(self._config.limits)
        if (request.content_length or 0) > size_bytes_max:
            raise _too_large(size_bytes_max)
        if request.content.is_eof() and request.content.exception() is None:
            data = request.content.read_nowait()  # it came with the headers: no deadline is needed
            if len(data) > size_bytes_max:
                raise _too_large(size_bytes_max)
            return media_type, data
        return media_type, await self._read_slow_body(request, size_bytes_max)

    async def _read_slow_body(self, request: web.BaseRequest, size_bytes_max: int) -> bytes:
        if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # the answer itself has not begun
        chunks, size_bytes = [], 0
        try:
            async with asyncio.timeout(self._config.limits.request_timeout_ms / 1000):
                while chunk := await request.content.readany():
                    size_bytes += len(chunk)
                    if size_bytes > size_bytes_max:
                        raise _too_large(size_bytes_max)
                    chunks.append(chunk)
        except TimeoutError:
            raise Problem(Code.BAD_REQUEST, text="the body did not arrive in time", status=408) from None
        except web.RequestPayloadError:
            raise bad_request("body", "well-formed chunks") from None
        return b"".join(chunks)

    async def _run_stream(self, request: web.BaseRequest, stream: Stream) -> web.StreamResponse:
        if len(self._streams) >= self._config.limits.streams_max:
            return self.problem_response(Problem(Code.TOO_MANY_WAITERS, text="too many event streams are open"))
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        response = web.StreamResponse(headers=_HEADERS | {"Content-Type": stream.media_type})
        response.force_close()
        timeout_s = self._config.limits.request_timeout_ms / 1000

        async def write(data: bytes) -> None:
            async with asyncio.timeout(timeout_s):
                await response.write(data)

        try:
            await response.prepare(request)
            await stream.run(write)
        except Reject:  # too many wait: it ends, and its reader comes back where it was
            pass
        except TimeoutError:
            self.faults.note("an event stream is not read", request.remote or "?")
            if request.transport is not None:
                request.transport.abort()
        except asyncio.CancelledError:
            if self._runner is not None:
                raise
        except ConnectionError:
            raise
        except Exception as error:  # too late for another answer: cut off, its reader comes back and is told
            log.error("a stream failed: %s", type(error).__name__)
            if isinstance(error, StorageError):
                self._service.on_damage(error)
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._streams.discard(task)
        return response

    def problem_response(self, problem: Problem) -> web.StreamResponse:
        headers = problem.headers
        if problem.status in (429, 503):
            headers = {"Retry-After": str(RETRY_AFTER_S)} | headers
        body = json_bytes(self._codes.document(problem))
        return _Whole(Answer(body, problem.status, MEDIA_TYPE, headers))

    def _overload_bytes(self) -> bytes:
        """What a connection over the limit is told, without reading anything of it."""
        problem = Problem(Code.NOT_ACCEPTING, text="too many connections are open")
        body = json_bytes(self._codes.document(problem))
        head = (
            f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
            f"Retry-After: {RETRY_AFTER_S}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body


def _too_large(size_bytes_max: int) -> Problem:
    return Problem(Code.BODY_TOO_LARGE, text=f"at most {size_bytes_max} bytes")
