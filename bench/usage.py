"""What the nodes use: at one moment, from their status and the kernel; and sampled over a run, for what must not grow.

Must not know: what was sent.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import observer
from bench.series import Samples
from node.cluster.runner import ClusterNode

_PAGE_SIZE_BYTES = os.sysconf("SC_PAGE_SIZE")
SAMPLES_MAX = 360  # of one run: every five seconds in half an hour


@dataclass(frozen=True, slots=True)
class Usage:
    """What the nodes had used at one moment, in the order of the nodes."""

    at_s: float
    statuses: list[dict[str, Any]]
    disk_bytes: list[int]
    written_bytes: list[int]

    def total(self, *path: str) -> float:
        """The sum over the nodes of one number of their status."""
        found = 0.0
        for value in self.statuses:
            for name in path:
                value = value[name]
            found += value  # type: ignore[operator]
        return found

    def sent_bytes(self) -> int:
        return sum(peer["bytes_out"] for status in self.statuses for peer in status["peers"])


async def usage(nodes: Sequence[ClusterNode]) -> Usage:
    at_s = time.monotonic()
    found = await observer.statuses([node.api_url for node in nodes])
    disk_bytes = [observer.folder_size_bytes(node.home) for node in nodes]
    written_bytes = [0 if node.pid is None else observer.written_bytes(node.pid) for node in nodes]
    return Usage(at_s, found, disk_bytes, written_bytes)


def memory_bytes(pid: int) -> tuple[int, int]:
    """A process's resident memory, and how much of it are pages of files, which the system takes back when it needs
    them (LevelDB maps its tables); zeros when it is gone."""
    try:
        _, resident, of_files, *_ = Path(f"/proc/{pid}/statm").read_text("ascii").split()
    except OSError:
        return 0, 0
    return int(resident) * _PAGE_SIZE_BYTES, int(of_files) * _PAGE_SIZE_BYTES


@dataclass(slots=True)
class Sampler:
    """Takes resident memory and data folder of each node, at even intervals from `start_s` on."""

    nodes: Sequence[ClusterNode]
    start_s: float
    interval_s: float
    at_s: list[float] = field(default_factory=list)
    rss_bytes: list[list[int]] = field(default_factory=list)
    mapped_bytes: list[list[int]] = field(default_factory=list)
    disk_bytes: list[list[int]] = field(default_factory=list)

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.sleep(max(0.0, self.start_s - time.monotonic()))
        while True:
            self.at_s.append(round(time.monotonic() - self.start_s, 1))
            memory = [(0, 0) if node.pid is None else memory_bytes(node.pid) for node in self.nodes]
            self.rss_bytes.append([rss for rss, _ in memory])
            self.mapped_bytes.append([mapped for _, mapped in memory])
            self.disk_bytes.append([observer.folder_size_bytes(node.home) for node in self.nodes])
            await asyncio.sleep(self.interval_s)

    def samples(self) -> Samples:
        return Samples(tuple(self.at_s), tuple(self.rss_bytes), tuple(self.mapped_bytes), tuple(self.disk_bytes))


def interval_s(load_s: float) -> float:
    """Between two samples: a second, or as much as keeps a long run's within their limit."""
    return max(1.0, load_s / SAMPLES_MAX)
