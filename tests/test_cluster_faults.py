"""Four processes and their faults: one may be missing, two may not, and what comes back goes on by itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import Code
from ledger.genesis import development_key
from ledger.modules.payments import Transfer
from ledger.transaction import Transaction
from node.api.client import ApiError, Client
from node.cluster.runner import ClusterNode, LocalCluster
from node.demo.watch import Watch

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("processes")]

RESUME_S_MAX = 5.0
HALT_S = 4.0  # several times what a change of leaders takes: a chain that could go on would have


class Payer:
    """Sends transfers through the nodes that are there."""

    def __init__(self, cluster: LocalCluster, watch: Watch) -> None:
        self.cluster, self.watch = cluster, watch
        self._number = 0

    def transfer(self) -> Transaction:
        self._number += 1
        operation = Transfer("CNY", "pharmacy", 1, f"invoice {self._number}")
        return Transaction.create(
            development_key("insurer"),
            bytes.fromhex(self.cluster.plan.chain_id),
            operation.NAME,
            operation.to_fields(),
            nonce=self._number.to_bytes(16, "big"),
            valid_until=self.watch.height + 500,
        )

    async def pay(self, through: ClusterNode, timeout_ms: int = 10_000) -> dict[str, Any]:
        return await self.watch.clients[through.name].submit_wait(self.transfer().wire, timeout_ms)


async def until(condition: Callable[[], bool], timeout_s: float) -> float:
    """Seconds until it held; the test fails if it does not."""
    started = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)
    return time.monotonic() - started


def alive(cluster: LocalCluster) -> list[ClusterNode]:
    return [node for node in cluster.nodes if node.alive]


@pytest.mark.asyncio
async def test_any_one_may_stop_two_halt_without_a_fork_and_one_that_returns_lets_it_go_on(tmp_path: Path) -> None:
    async with LocalCluster.create(tmp_path / "cluster", 4) as cluster:
        await cluster.wait_ready()
        async with Watch(cluster.nodes) as watch:
            payer = Payer(cluster, watch)
            await payer.pay(cluster.nodes[0])
            for node in cluster.nodes:  # whoever leads is among them
                await cluster.stop(node)
                assert (await payer.pay(alive(cluster)[0]))["code"] == 0
                await cluster.start(node)
                await cluster.wait_ready()
            assert await watch.agreed() is not None
            await _two_are_missing(cluster, watch, payer)
            assert await watch.agreed() is not None
            await _no_fork(watch)


async def _two_are_missing(cluster: LocalCluster, watch: Watch, payer: Payer) -> None:
    leader = await watch.leader()
    other = next(node for node in cluster.nodes if node is not leader)
    since_ms = time.time_ns() // 1_000_000 - 1_000
    await cluster.kill(leader)
    await cluster.stop(other)
    left = alive(cluster)
    height = watch.height
    pending = payer.transfer()
    with pytest.raises(ApiError) as refused:
        await watch.clients[left[0].name].submit_wait(pending.wire, int(HALT_S * 1000))
    assert refused.value.code == Code.NOT_FINAL_IN_TIME
    assert {watch.heights[node.name] for node in left} == {height}
    for node in left:
        await _why_names(watch.clients[node.name], {leader.name, other.name}, since_ms)
    said = subprocess.run(
        [sys.executable, "-m", "node.cli", "why", "--api", left[0].api_url],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    for name in (leader.name, other.name):
        assert f"{name} (since " in said.stdout, said
    await cluster.start(other)
    await cluster.wait_ready()
    # Nobody sends anything again: the transaction that was waiting is committed by itself.
    await until(lambda: watch.height > height, RESUME_S_MAX)
    final = await watch.clients[left[0].name].receipt(pending.id)
    assert final["code"] == 0
    await cluster.start(leader)
    await cluster.wait_ready()


async def _why_names(client: Client, names: set[str], since_ms: int) -> None:
    told = await client.why()
    assert told["halted"] is True
    assert {one["name"] for one in told["missing"]} == names
    assert all(since_ms <= one["since_ms"] <= time.time_ns() // 1_000_000 for one in told["missing"])


async def _no_fork(watch: Watch) -> None:
    """Every height has one block, on every node."""
    chains = [[block["hash"] for block in await _blocks(client)] for client in watch.clients.values()]
    assert len(chains[0]) == watch.height
    assert all(chain == chains[0] for chain in chains)


async def _blocks(client: Client) -> list[dict[str, Any]]:
    top = await client.height()
    return [await client.block(height) for height in range(1, top + 1)]
