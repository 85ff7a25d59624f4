"""HTTP by hand for tests: exactly the bytes that a test wants to send."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port)


def request_bytes(method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    given = {"Host": "localhost"} | ({"Content-Length": str(len(body))} if body is not None else {}) | (headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value)
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + (body or b"")


async def read_reply(reader: asyncio.StreamReader, *, head_only: bool = False) -> Reply:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    size = 0 if head_only else int(headers.get("content-length", 0))
    return Reply(int(lines[0].split()[1]), headers, await reader.readexactly(size))


async def raw(url: str, data: bytes, *, head_only: bool = False) -> Reply:
    """One request on a connection of its own."""
    reader, writer = await connect(url)
    try:
        writer.write(data)
        async with asyncio.timeout(20):
            return await read_reply(reader, head_only=head_only)
    finally:
        writer.close()
        await writer.wait_closed()


async def ask(
    url: str, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Reply:
    return await raw(url, request_bytes(method, target, body, headers), head_only=method == "HEAD")


async def get(url: str, target: str, **headers: str) -> Reply:
    return await ask(url, "GET", target, None, {name.replace("_", "-"): value for name, value in headers.items()})


async def post_json(url: str, document: object, query: str = "") -> Reply:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return await ask(url, "POST", f"/v1/transactions{query}", body, {"Content-Type": "application/json"})
