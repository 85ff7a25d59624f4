"""Clients of a node's API: `Client` for asyncio, `SyncClient` for everything else. Both offer the same calls.

Proxy variables of the environment are ignored: a node is reached directly, loopback above all. `SyncClient` needs the
standard library only, so that a command line starts without an event loop.

Both raise ApiError when the node refuses and Unreachable when nothing answers (node/api/calls.py).

Must not know: what the calls mean.
"""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from ledger.genesis import Genesis
from node.api import calls
from node.api.calls import ANSWER_SIZE_BYTES_MAX, ApiError, Call, ClientError, EventParser, Id, Json, Unreachable

if TYPE_CHECKING:
    import aiohttp

__all__ = ["ApiError", "Client", "ClientError", "SyncClient", "Unreachable"]

TIMEOUT_MS = 30_000
STREAM_SILENCE_MS_MAX = 45_000  # three of the node's keep-alives
LINE_SIZE_BYTES_MAX = calls.EVENT_SIZE_BYTES_MAX + 64

T = TypeVar("T")


def _base(url: str) -> str:
    """The address without a trailing slash. ValueError for anything but http and https."""
    parts = urlsplit(url)
    port = parts.port  # itself a ValueError for what is none
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise ValueError(f"not the address of a node: {url}")
    return url.rstrip("/")


class Client:
    """Asynchronous. Use as a context manager, or call `close`. One client may serve many tasks."""

    def __init__(self, url: str, *, timeout_ms: int = TIMEOUT_MS) -> None:
        self.url = _base(url)
        self._timeout_ms = timeout_ms
        self._open: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._open is not None:
            await self._open.close()
            self._open = None

    def _session(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._open is None:
            # trust_env stays off: a proxy for the web is no way to a node.
            self._open = aiohttp.ClientSession(
                trust_env=False,
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._open

    async def send(self, call: Call[T]) -> T:
        """Carry out any call of node/api/calls.py."""
        import aiohttp
        from yarl import URL

        url = URL(self.url + call.target, encoded=True)
        try:
            async with (
                asyncio.timeout((self._timeout_ms + call.timeout_ms) / 1000),
                self._session().request(
                    call.method, url, data=call.body, headers=call.all_headers(), allow_redirects=False
                ) as response,
            ):
                body = await _read(response)
                status = response.status
        except TimeoutError:
            raise Unreachable(self.url, "no answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(self.url, _reason(error)) from None
        return call.finish(status, body)

    async def status(self) -> Json:
        return await self.send(calls.status())

    async def why(self) -> Json:
        return await self.send(calls.why())

    async def peers(self) -> list[Json]:
        return await self.send(calls.peers())

    async def height(self) -> int:
        return await self.send(calls.height())

    async def genesis(self) -> Genesis:
        return await self.send(calls.genesis())

    async def submit(self, wires: Sequence[bytes]) -> list[Json]:
        """An outcome for each: {id, status, code, label, name, detail}; refused ones do not raise."""
        return await self.send(calls.submit(wires))

    async def submit_wait(self, wire: bytes, timeout_ms: int = 10_000) -> Json:
        """The receipt once it is committed, refused by a rule or not. ApiError when it never got on the chain."""
        return await self.send(calls.submit_wait(wire, timeout_ms))

    async def transaction(self, tx_id: Id, *, prove: bool = False) -> Json:
        return await self.send(calls.transaction(tx_id, prove))

    async def receipt(self, tx_id: Id, *, prove: bool = False) -> Json:
        return await self.send(calls.receipt(tx_id, prove))

    async def block(self, height: int | str = "latest") -> Json:
        return await self.send(calls.block(height))

    async def blocks(self, first: int | None = None, limit: int = 20) -> list[Json]:
        return await self.send(calls.blocks(first, limit))

    async def record(self, commitment: Id) -> Json:
        return await self.send(calls.record(commitment))

    async def record_history(self, commitment: Id, *, after: str | None = None, limit: int = 100) -> Json:
        return await self.send(calls.record_history(commitment, after, limit))

    async def patient_records(self, patient: Id, *, after: str | None = None, limit: int = 100) -> Json:
        return await self.send(calls.patient_records(patient, after, limit))

    async def pack(self, epc: str) -> Json:
        return await self.send(calls.pack(epc))

    async def trace(self, epc: str) -> Json:
        return await self.send(calls.trace(epc))

    async def lot(self, gtin: str, number: str) -> Json:
        return await self.send(calls.lot(gtin, number))

    async def account(self, owner: str, currency: str) -> Json:
        return await self.send(calls.account(owner, currency))

    async def account_history(self, owner: str, *, after: str | None = None, limit: int = 100) -> Json:
        return await self.send(calls.account_history(owner, after, limit))

    async def claim(self, claim_id: Id) -> Json:
        return await self.send(calls.claim(claim_id))

    async def policy(self, policy_id: Id) -> Json:
        return await self.send(calls.policy(policy_id))

    async def members(self) -> list[Json]:
        return await self.send(calls.members())

    async def member(self, member_id: str) -> Json:
        return await self.send(calls.member(member_id))

    async def validators(self, epoch: int | None = None) -> Json:
        return await self.send(calls.validators(epoch))

    async def proposals(self, *, after: str | None = None, limit: int = 100) -> list[Json]:
        return await self.send(calls.proposals(after, limit))

    async def parameters(self) -> Json:
        return await self.send(calls.parameters())

    async def evidence(self, *, after: str | None = None, limit: int = 100) -> Json:
        return await self.send(calls.evidence(after, limit))

    async def state(self, key: bytes, *, prove: bool = False) -> Json:
        return await self.send(calls.state(key, prove))

    async def proof_of_head(self, *, since: int = 0) -> bytes:
        """A proof bundle (docs/proofs.md) for who trusts the validators of epoch `since`; so are the next three."""
        return await self.send(calls.proof_of_head(since))

    async def proof_of_state(self, key: bytes, *, since: int = 0) -> bytes:
        return await self.send(calls.proof_of_state(key, since))

    async def proof_of_transaction(self, tx_id: Id, *, since: int = 0) -> bytes:
        return await self.send(calls.proof_of_transaction(tx_id, since))

    async def proof_of_receipt(self, tx_id: Id, *, since: int = 0) -> bytes:
        return await self.send(calls.proof_of_receipt(tx_id, since))

    async def vault_put(self, sealed: bytes, token: str) -> Json:
        return await self.send(calls.vault_put(sealed, token))

    async def vault_get(self, commitment: Id, access: Id) -> bytes:
        return await self.send(calls.vault_get(commitment, access))

    async def vault_erase(self, commitment: Id, token: str) -> Json:
        return await self.send(calls.vault_erase(commitment, token))

    async def events(self, after: str = "0:0", limit: int | None = None, follow: bool = False) -> AsyncIterator[Json]:
        """Ordered transactions beyond `after`, at most `limit`. With `follow` it goes on as they come, and resumes
        where it was when a stream breaks; Unreachable once the node does not answer at all.
        """
        left = limit
        while follow and left != 0:
            async with aclosing(self._stream(after)) as stream:
                async for event in stream:
                    yield event
                    after, left = event["cursor"], None if left is None else left - 1
                    if left == 0:
                        return
        while left is None or left > 0:
            size = calls.EVENTS_PER_PAGE if left is None else min(left, calls.EVENTS_PER_PAGE)
            page = await self.send(calls.events(after, size))
            for event in page["items"]:
                yield event
            after, left = page["next"], None if left is None else left - len(page["items"])
            if not page["more"]:
                return

    async def _stream(self, after: str) -> AsyncGenerator[Json, None]:
        """One connection's events; ends when it breaks after having been there."""
        import aiohttp
        from yarl import URL

        call, parser = calls.event_stream(after), EventParser(after)
        url, silence_s = URL(self.url + call.target, encoded=True), STREAM_SILENCE_MS_MAX / 1000
        connected = False
        try:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_ms / 1000, sock_read=silence_s)
            async with self._session().get(url, headers=call.all_headers(), timeout=timeout) as response:
                if response.status != 200:
                    raise calls.read_error(response.status, await _read(response))
                connected = True
                lines = _Lines()
                async for chunk in response.content.iter_any():
                    for line in lines.feed(chunk):
                        event = parser.feed(line)
                        if event is not None:
                            yield event
        except (aiohttp.ClientError, OSError) as error:  # timeouts are OSErrors
            if not connected:
                raise Unreachable(self.url, _reason(error)) from None


class SyncClient:
    """Synchronous, over one kept connection. May be shared by threads, which then take turns."""

    def __init__(self, url: str, *, timeout_ms: int = TIMEOUT_MS) -> None:
        self.url = _base(url)
        self._timeout_ms = timeout_ms
        self._kept: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _connect(self, timeout_ms: int) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        assert parts.hostname is not None
        return kind(parts.hostname, parts.port, timeout=timeout_ms / 1000)

    def send(self, call: Call[T]) -> T:
        """Carry out any call of node/api/calls.py. Every call may be repeated safely, so a kept connection that the
        node has closed meanwhile costs one retry.
        """
        with self._lock:
            for retry in (self._kept is not None, False):
                try:
                    status, body = self._exchange(call)
                    break
                except (http.client.HTTPException, OSError) as error:
                    self._drop()
                    if not retry or isinstance(error, TimeoutError):
                        reason = "no answer in time" if isinstance(error, TimeoutError) else _reason(error)
                        raise Unreachable(self.url, reason) from None
        return call.finish(status, body)

    def _exchange(self, call: Call[Any]) -> tuple[int, bytes]:
        timeout_ms = self._timeout_ms + call.timeout_ms
        if self._kept is None:
            self._kept = self._connect(timeout_ms)
        elif self._kept.sock is not None:
            self._kept.sock.settimeout(timeout_ms / 1000)
        target = urlsplit(self.url).path + call.target
        self._kept.request(call.method, target, call.body, call.all_headers())
        response = self._kept.getresponse()
        body = response.read(ANSWER_SIZE_BYTES_MAX + 1)
        if len(body) > ANSWER_SIZE_BYTES_MAX:
            raise http.client.HTTPException("the answer is over the size limit")
        if response.will_close:
            self._drop()
        return response.status, body

    def status(self) -> Json:
        return self.send(calls.status())

    def why(self) -> Json:
        return self.send(calls.why())

    def peers(self) -> list[Json]:
        return self.send(calls.peers())

    def height(self) -> int:
        return self.send(calls.height())

    def genesis(self) -> Genesis:
        return self.send(calls.genesis())

    def submit(self, wires: Sequence[bytes]) -> list[Json]:
        """An outcome for each: {id, status, code, label, name, detail}; refused ones do not raise."""
        return self.send(calls.submit(wires))

    def submit_wait(self, wire: bytes, timeout_ms: int = 10_000) -> Json:
        """The receipt once it is committed, refused by a rule or not. ApiError when it never got on the chain."""
        return self.send(calls.submit_wait(wire, timeout_ms))

    def transaction(self, tx_id: Id, *, prove: bool = False) -> Json:
        return self.send(calls.transaction(tx_id, prove))

    def receipt(self, tx_id: Id, *, prove: bool = False) -> Json:
        return self.send(calls.receipt(tx_id, prove))

    def block(self, height: int | str = "latest") -> Json:
        return self.send(calls.block(height))

    def blocks(self, first: int | None = None, limit: int = 20) -> list[Json]:
        return self.send(calls.blocks(first, limit))

    def record(self, commitment: Id) -> Json:
        return self.send(calls.record(commitment))

    def record_history(self, commitment: Id, *, after: str | None = None, limit: int = 100) -> Json:
        return self.send(calls.record_history(commitment, after, limit))

    def patient_records(self, patient: Id, *, after: str | None = None, limit: int = 100) -> Json:
        return self.send(calls.patient_records(patient, after, limit))

    def pack(self, epc: str) -> Json:
        return self.send(calls.pack(epc))

    def trace(self, epc: str) -> Json:
        return self.send(calls.trace(epc))

    def lot(self, gtin: str, number: str) -> Json:
        return self.send(calls.lot(gtin, number))

    def account(self, owner: str, currency: str) -> Json:
        return self.send(calls.account(owner, currency))

    def account_history(self, owner: str, *, after: str | None = None, limit: int = 100) -> Json:
        return self.send(calls.account_history(owner, after, limit))

    def claim(self, claim_id: Id) -> Json:
        return self.send(calls.claim(claim_id))

    def policy(self, policy_id: Id) -> Json:
        return self.send(calls.policy(policy_id))

    def members(self) -> list[Json]:
        return self.send(calls.members())

    def member(self, member_id: str) -> Json:
        return self.send(calls.member(member_id))

    def validators(self, epoch: int | None = None) -> Json:
        return self.send(calls.validators(epoch))

    def proposals(self, *, after: str | None = None, limit: int = 100) -> list[Json]:
        return self.send(calls.proposals(after, limit))

    def parameters(self) -> Json:
        return self.send(calls.parameters())

    def evidence(self, *, after: str | None = None, limit: int = 100) -> Json:
        return self.send(calls.evidence(after, limit))

    def state(self, key: bytes, *, prove: bool = False) -> Json:
        return self.send(calls.state(key, prove))

    def proof_of_head(self, *, since: int = 0) -> bytes:
        return self.send(calls.proof_of_head(since))

    def proof_of_state(self, key: bytes, *, since: int = 0) -> bytes:
        return self.send(calls.proof_of_state(key, since))

    def proof_of_transaction(self, tx_id: Id, *, since: int = 0) -> bytes:
        return self.send(calls.proof_of_transaction(tx_id, since))

    def proof_of_receipt(self, tx_id: Id, *, since: int = 0) -> bytes:
        return self.send(calls.proof_of_receipt(tx_id, since))

    def vault_put(self, sealed: bytes, token: str) -> Json:
        return self.send(calls.vault_put(sealed, token))

    def vault_get(self, commitment: Id, access: Id) -> bytes:
        return self.send(calls.vault_get(commitment, access))

    def vault_erase(self, commitment: Id, token: str) -> Json:
        return self.send(calls.vault_erase(commitment, token))

    def events(self, after: str = "0:0", limit: int | None = None, follow: bool = False) -> Iterator[Json]:
        """As `Client.events`."""
        left = limit
        while follow and left != 0:
            with closing(self._stream(after)) as stream:
                for event in stream:
                    yield event
                    after, left = event["cursor"], None if left is None else left - 1
                    if left == 0:
                        return
        while left is None or left > 0:
            size = calls.EVENTS_PER_PAGE if left is None else min(left, calls.EVENTS_PER_PAGE)
            page = self.send(calls.events(after, size))
            yield from page["items"]
            after, left = page["next"], None if left is None else left - len(page["items"])
            if not page["more"]:
                return

    def _stream(self, after: str) -> Generator[Json, None, None]:
        """One connection's events, apart from the kept one; ends when it breaks after having been there."""
        call, parser, connected = calls.event_stream(after), EventParser(after), False
        connection = self._connect(self._timeout_ms)
        try:
            connection.request(call.method, urlsplit(self.url).path + call.target, headers=call.all_headers())
            sock = connection.sock
            response = connection.getresponse()
            if response.status != 200:
                raise calls.read_error(response.status, response.read(ANSWER_SIZE_BYTES_MAX))
            connected = True
            sock.settimeout(STREAM_SILENCE_MS_MAX / 1000)
            while line := response.readline(LINE_SIZE_BYTES_MAX):
                event = parser.feed(line.rstrip(b"\r\n"))
                if event is not None:
                    yield event
        except (http.client.HTTPException, OSError) as error:
            if not connected:
                raise Unreachable(self.url, _reason(error)) from None
        finally:
            connection.close()


class _Lines:
    """Whole lines from chunks, of bounded length."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > LINE_SIZE_BYTES_MAX:
            raise OSError("a line over the size limit")
        return [line.rstrip(b"\r") for line in lines]


async def _read(response: aiohttp.ClientResponse) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > ANSWER_SIZE_BYTES_MAX:
            raise OSError("the answer is over the size limit")
        chunks.append(chunk)
    return b"".join(chunks)


def _reason(error: Exception) -> str:
    """Short words for a failed connection."""
    cause = getattr(error, "os_error", error)  # aiohttp wraps the system's error
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused; is the node running?"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
