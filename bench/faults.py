"""Faults during a run: the leader killed, a follower stopped, or a follower slow, at a stated second of the window.

The node that will suffer is chosen before the load: clients post to the others and those are watched, as a client whose
node is gone is another matter than a chain that stands still. A slow node is one whose process the kernel freezes and
thaws in turn, as on a machine that others overload; it is thawed for good when the load ends.

Must not know: what is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bench.observer import BenchError, status
from node.cluster.runner import ClusterNode, LocalCluster

FREEZE_S, THAW_S = 0.15, 0.10  # a node with 40 % of its time, stopped for longer than a block takes


class FaultKind(StrEnum):
    """What happens."""

    KILL_LEADER = "kill-leader"
    STOP_FOLLOWER = "stop-follower"
    SLOW_FOLLOWER = "slow-follower"


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What happens, and how many seconds into the measured window."""

    kind: FaultKind
    at_s: float

    @classmethod
    def parse(cls, text: str) -> FaultPlan:
        """`kill-leader@10`; ValueError names what is known."""
        kind, found, at = text.partition("@")
        if kind not in list(FaultKind) or not found:
            raise ValueError(f"one of {', '.join(f'{kind}@SECOND' for kind in FaultKind)}")
        at_s = float(at)
        if not at_s >= 0:
            raise ValueError("a second of the window, from 0")
        return cls(FaultKind(kind), at_s)

    @property
    def leaves(self) -> bool:
        """Whether the node is gone afterwards."""
        return self.kind is not FaultKind.SLOW_FOLLOWER

    def victim(self, statuses: Sequence[dict[str, Any]]) -> int:
        """The number of the node that will suffer, by what the nodes say of themselves: the leader, or the last of the
        others.
        """
        leaders = [number for number, item in enumerate(statuses) if item["is_leader"]]
        if len(leaders) != 1:
            raise BenchError(f"{len(leaders)} nodes lead")
        if self.kind is FaultKind.KILL_LEADER:
            return leaders[0]
        return max(number for number in range(len(statuses)) if number != leaders[0])

    def __str__(self) -> str:
        return f"{self.kind} at {self.at_s:g} s"


async def inflict(fault: FaultPlan, cluster: LocalCluster, victim: ClusterNode) -> None:
    """Do it now. A slow node stays slow until this is cancelled, and is whole again then."""
    leads = (await status(victim.api_url))["is_leader"]
    if leads != (fault.kind is FaultKind.KILL_LEADER):
        raise BenchError("another node leads than when the fault was planned; the run shows something else")
    match fault.kind:
        case FaultKind.KILL_LEADER:
            await cluster.kill(victim)
        case FaultKind.STOP_FOLLOWER:
            await cluster.stop(victim)
        case FaultKind.SLOW_FOLLOWER:
            await _slow_down(cluster, victim)


async def _slow_down(cluster: LocalCluster, victim: ClusterNode) -> None:
    try:
        while True:
            await cluster.pause(victim)
            await asyncio.sleep(FREEZE_S)
            await cluster.resume(victim)
            await asyncio.sleep(THAW_S)
    finally:
        await cluster.resume(victim)
