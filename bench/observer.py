"""Watching a running cluster from outside: when each height is seen, what each node says it used, what the chain holds.

f+1 nodes push each header when its block is applied (`/v1/blocks` as a stream), so watching costs a node one small
write a block; which transaction is in which block is read afterwards. A height counts as seen when its event is here.

Must not know: what was sent.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.http import Connection, get

HEADERS_PER_PAGE = 200  # the API's limit
DRAIN_TIMEOUT_S = 30.0
CATCH_UP_TIMEOUT_S = 5.0  # for the last events, once the nodes are quiet


class BenchError(Exception):
    """The run cannot go on, or what it found must not be reported as a result."""


class Unavailable(BenchError):
    """What is to be measured cannot be had on this machine: whoever asked for it goes on without it."""


@dataclass(slots=True)
class Watch:
    """Follows one node's chain. `seen_s` is by the machine's monotonic clock."""

    url: str
    seen_s: dict[int, float] = field(default_factory=dict)
    tx_counts: dict[int, int] = field(default_factory=dict)
    hashes: dict[int, str] = field(default_factory=dict)
    next_height: int = 1

    async def follow(self) -> None:
        """Until cancelled."""
        connection = await Connection.open(self.url)
        try:
            async for event in connection.events(f"/v1/blocks?from={self.next_height}"):
                self._note(json.loads(event), time.monotonic())
        finally:
            connection.close()
        raise BenchError(f"{self.url} ended its stream of headers")

    def _note(self, header: dict[str, Any], now_s: float) -> None:
        height = header["height"]
        self.seen_s[height] = now_s
        self.tx_counts[height] = header["tx_count"]
        self.hashes[height] = header["hash"]
        self.next_height = height + 1


async def caught_up(watches: Sequence[Watch], followers: Sequence[asyncio.Task[None]], height: int) -> None:
    """Once every watch has seen `height`; raises what ended a follower."""
    async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
        while any(watch.next_height <= height for watch in watches):
            await asyncio.wait(followers, timeout=0.01)
            for follower in followers:
                if follower.done():
                    follower.result()


async def status(url: str) -> dict[str, Any]:
    code, body = await get(url, "/v1/status")
    if code != 200:
        raise BenchError(f"{url} answers {code} for its status")
    document: dict[str, Any] = json.loads(body)
    return document


async def statuses(urls: Sequence[str]) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*map(status, urls)))


async def drained(urls: Sequence[str]) -> list[dict[str, Any]]:
    """Every node's status once nothing waits and all stand at one height with one state root; BenchError in half a
    minute.
    """
    deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
    before: list[tuple[int, str]] = []
    while True:
        found = await statuses(urls)
        ends = [(item["height"], item["block_hash"]) for item in found]
        if len(set(ends)) == 1 and ends == before and not any(item["pool"]["transactions"] for item in found):
            return found
        before = ends
        if time.monotonic() > deadline_s:
            waiting = [item["pool"]["transactions"] for item in found]
            raise BenchError(f"not quiet after {DRAIN_TIMEOUT_S:g} s: heights {ends}, waiting {waiting}")
        await asyncio.sleep(0.3)


async def _read(connection: Connection, url: str, target: str) -> dict[str, Any]:
    code, body = await connection.request("GET", target)
    if code != 200:
        raise BenchError(f"{url} answers {code} for {target}")
    document: dict[str, Any] = json.loads(body)
    return document


async def header_hashes(url: str, first: int, last: int) -> list[str]:
    """Hashes of the heights first..last as one node has them."""
    connection = await Connection.open(url)
    found: list[str] = []
    try:
        while first + len(found) <= last:
            limit = min(HEADERS_PER_PAGE, last - first - len(found) + 1)
            items = (await _read(connection, url, f"/v1/blocks?from={first + len(found)}&limit={limit}"))["items"]
            if not items:
                raise BenchError(f"{url} lacks height {first + len(found)}")
            found += [item["hash"] for item in items]
        return found
    finally:
        connection.close()


async def committed(url: str, first: int, last: int) -> dict[bytes, tuple[int, int]]:
    """Transaction id -> (height, receipt's code) over the heights first..last."""
    connection = await Connection.open(url)
    found: dict[bytes, tuple[int, int]] = {}
    try:
        for height in range(first, last + 1):
            for item in (await _read(connection, url, f"/v1/blocks/{height}"))["transactions"]:
                tx_id = bytes.fromhex(item["id"])
                if tx_id not in found or item["code"] == 0:  # a replay is refused beside the one that was executed
                    found[tx_id] = (height, item["code"])
        return found
    finally:
        connection.close()


def folder_size_bytes(folder: Path) -> int:
    """What its files take, as their lengths."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # the store compacts while we look
                continue
    return total


def processor_s(stat: Path) -> float:
    """What the process or thread has used whose `stat` below /proc this is."""
    try:
        text = stat.read_text("ascii")
    except (FileNotFoundError, ProcessLookupError):
        raise BenchError(f"{stat.parent} has ended, or this system does not say what it used") from None
    fields = text.rpartition(")")[2].split()  # the name before may hold spaces; field 3 is the first here
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def written_bytes(pid: int) -> int:
    """What a process has caused to be written to disk so far; 0 where the kernel does not say."""
    try:
        text = Path(f"/proc/{pid}/io").read_text("ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("write_bytes:")), 0)
