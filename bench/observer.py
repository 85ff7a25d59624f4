"""Watching a running cluster from outside: when each height is seen, what each node says it used, what the chain holds.

Heights are polled at f+1 nodes as headers only, which costs a node a few hundred microseconds a poll; which transaction
is in which block is read afterwards. A height counts as seen when the answer has arrived, so polling only ever adds
to a
latency: on average half of POLL_INTERVAL_S.

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

POLL_INTERVAL_S = 0.010
HEADERS_PER_PAGE = 200  # the API's limit
DRAIN_TIMEOUT_S = 30.0


class BenchError(Exception):
    """The run cannot go on, or what it found must not be reported as a result."""


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
            while True:
                began_s = time.monotonic()
                status, body = await connection.request(
                    "GET", f"/v1/blocks?from={self.next_height}&limit={HEADERS_PER_PAGE}"
                )
                now_s = time.monotonic()
                if status != 200:
                    raise BenchError(f"{self.url} answers {status} for its headers")
                for header in json.loads(body)["items"]:
                    self._note(header, now_s)
                await asyncio.sleep(max(0.0, POLL_INTERVAL_S - (time.monotonic() - began_s)))
        finally:
            connection.close()

    def _note(self, header: dict[str, Any], now_s: float) -> None:
        height = header["height"]
        self.seen_s[height] = now_s
        self.tx_counts[height] = header["tx_count"]
        self.hashes[height] = header["hash"]
        self.next_height = height + 1


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


async def header_hashes(url: str, first: int, last: int) -> list[str]:
    """Hashes of the heights first..last as one node has them."""
    connection = await Connection.open(url)
    found: list[str] = []
    try:
        while first + len(found) <= last:
            _, body = await connection.request(
                "GET",
                f"/v1/blocks?from={first + len(found)}&limit={min(HEADERS_PER_PAGE, last - first - len(found) + 1)}",
            )
            items = json.loads(body)["items"]
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
            _, body = await connection.request("GET", f"/v1/blocks/{height}")
            for item in json.loads(body)["transactions"]:
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


def written_bytes(pid: int) -> int:
    """What a process has caused to be written to disk so far; 0 where the kernel does not say."""
    try:
        text = Path(f"/proc/{pid}/io").read_text("ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("write_bytes:")), 0)
