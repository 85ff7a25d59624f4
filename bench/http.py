"""One HTTP/1.1 connection that is kept, with only what posting and following take: a general client would cost more of
the machine than the load may.

Must not know: routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Self

ANSWER_SIZE_BYTES_MAX = 64 * 1024 * 1024
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0


class Connection:
    """Requests one after the other; OSError, EOFError or TimeoutError when the node goes away."""

    def __init__(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._host = f"{host}:{port}"

    @classmethod
    async def open(cls, url: str) -> Self:
        """To `http://host:port`."""
        host, _, port = url.removeprefix("http://").rstrip("/").rpartition(":")
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, int(port), limit=1024 * 1024)
        return cls(host, int(port), reader, writer)

    async def request(self, method: str, target: str, body: bytes = b"", media_type: str = "") -> tuple[int, bytes]:
        """Status and body."""
        head = f"{method} {target} HTTP/1.1\r\nHost: {self._host}\r\n"
        if body:
            head += f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            self._writer.write(head.encode() + b"\r\n" + body)
            answer = await self._reader.readuntil(b"\r\n\r\n")
            status, size_bytes = parse_head(answer)
            if size_bytes is not None:
                return status, await self._reader.readexactly(size_bytes)
            parts = []
            while part := await self._chunk():
                parts.append(part)
            return status, b"".join(parts)

    async def events(self, target: str) -> AsyncIterator[bytes]:
        """The data of server-sent events, each when it arrives; ends when the node ends the stream."""
        self._writer.write(f"GET {target} HTTP/1.1\r\nHost: {self._host}\r\nAccept: text/event-stream\r\n\r\n".encode())
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError("the node refuses the stream")
        unread = b""
        while part := await self._chunk():
            *events, unread = (unread + part).split(b"\n\n")
            for event in events:
                data = event_data(event)
                if data:
                    yield data

    async def _chunk(self) -> bytes:
        """The next part of a body that comes in chunks; empty at its end."""
        size_bytes = int(await self._reader.readuntil(b"\r\n"), 16)
        if size_bytes > ANSWER_SIZE_BYTES_MAX:
            raise ValueError("chunk over the size limit")
        return (await self._reader.readexactly(size_bytes + 2))[:-2]

    @property
    def is_open(self) -> bool:
        """Whether the node has not ended it, as it does to one that was idle for long."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        self._writer.close()


def event_data(event: bytes) -> bytes:
    """What an event's lines say in `data`; empty for a comment. The node writes one such line."""
    return next((line[6:] for line in event.split(b"\n") if line.startswith(b"data: ")), b"")


def parse_head(head: bytes) -> tuple[int, int | None]:
    """(status, size of the body or None if it comes in chunks); ValueError where this small client does not follow."""
    lines = head.split(b"\r\n")
    status = int(lines[0].split(b" ", 2)[1])
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            size_bytes = int(value)
            if not 0 <= size_bytes <= ANSWER_SIZE_BYTES_MAX:
                raise ValueError("body over the size limit")
            return status, size_bytes
        if name.lower() == b"transfer-encoding" and value.strip().lower() == b"chunked":
            return status, None
    raise ValueError("an answer without Content-Length")


async def get(url: str, target: str) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    connection = await Connection.open(url)
    try:
        return await connection.request("GET", target)
    finally:
        connection.close()
