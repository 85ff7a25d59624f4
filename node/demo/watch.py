"""Looks at a running cluster from outside: who leads, how high each node is, when heights were first seen.

Must not know: what is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from node.api.client import Client, ClientError
from node.cluster.runner import ClusterNode

__all__ = ["Watch", "chain_of"]

POLL_S = 0.2  # receipts tell of new heights sooner, while there is business
AGREE_TIMEOUT_S = 25.0
ANSWER_TRIES = 20  # on a machine that is busy with starting four processes


class Watch:
    """Polls every node in the background from entering its context. `heights` are of nodes that answer, by name."""

    def __init__(self, nodes: Sequence[ClusterNode]) -> None:
        self.nodes = list(nodes)
        self.clients = {node.name: Client(node.api_url, timeout_ms=2_000) for node in nodes}
        self.heights: dict[str, int] = {}
        self.advances: list[tuple[float, int]] = []  # (monotonic seconds, height) whenever a new height was seen
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Watch:
        self._tasks = [asyncio.create_task(self._poll(name)) for name in self.clients]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self.clients.values():
            await client.close()

    @property
    def height(self) -> int:
        return self.advances[-1][1] if self.advances else 0

    async def _poll(self, name: str) -> None:
        client = self.clients[name]
        while True:
            try:
                height = await client.height()
            except ClientError:
                self.heights.pop(name, None)
            else:
                self.heights[name] = height
                self.saw(height)
            await asyncio.sleep(POLL_S)

    def saw(self, height: int) -> None:
        """Somebody has heard of this height."""
        if height > self.height:
            self.advances.append((time.monotonic(), height))

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """Of every node that answers."""
        found = {}
        for name, client in self.clients.items():
            try:
                found[name] = await client.status()
            except ClientError:
                continue
        return found

    async def leader(self) -> ClusterNode:
        """The node that leads the highest view anyone is in; TimeoutError when nobody answers."""
        for _ in range(ANSWER_TRIES):
            statuses = await self.statuses()
            if statuses:
                latest = max(statuses.values(), key=lambda status: int(status["view"]))
                return next(node for node in self.nodes if node.key == latest["leader"]["key"])
            await asyncio.sleep(POLL_S)
        raise TimeoutError("no node answers")

    def gap_s(self, since_s: float) -> float | None:
        """The longest time without a new height from the last one before `since_s` on; None if none came after."""
        before = [at_s for at_s, _ in self.advances if at_s <= since_s]
        after = [at_s for at_s, _ in self.advances if at_s > since_s]
        if not after:
            return None
        times = [before[-1] if before else since_s, *after]
        # Within a few seconds of the kill: later pauses are those of a business that ends.
        near = [at_s for at_s in times if at_s <= after[0] + 5.0]
        return max(later - earlier for earlier, later in pairwise(near))

    async def agreed(self, timeout_s: float = AGREE_TIMEOUT_S) -> dict[str, dict[str, Any]] | None:
        """The statuses once all nodes have the same height, whose state root is the same and certified; or None."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            statuses = await self.statuses()
            if len(statuses) == len(self.nodes):
                roots = {(item["state_root"]["height"], item["state_root"]["root"]) for item in statuses.values()}
                tips = {(item["height"], item["results_hash"]) for item in statuses.values()}
                certified = {item["checkpoint"]["height"] for item in statuses.values()}
                height = next(iter(tips))[0]
                if len(tips) == len(roots) == 1 and certified == {height} and next(iter(roots))[0] == height:
                    return statuses
            await asyncio.sleep(0.2)
        return None


async def chain_of(client: Client) -> dict[str, dict[str, Any]]:
    """Every transaction on a node's chain by id; of one that was ordered twice, what happened first."""
    found: dict[str, dict[str, Any]] = {}
    async for event in client.events():
        found.setdefault(event["id"], event)
    return found
