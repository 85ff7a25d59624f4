"""Damage, repair, and back among the validators: a node of a real cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from node.cluster.runner import ClusterError, ClusterNode, LocalCluster
from node.demo.watch import Watch
from node.home import DATA
from tests.live_kills import Record
from tests.test_cluster_faults import Payer

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("processes")]

PAYMENTS = 30
BEFORE = 100  # payments, each a block: more than the log window


def medchain(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "node.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def damage(path: Path) -> None:
    """One bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


async def status_of(watch: Watch, node: ClusterNode) -> dict[str, Any]:
    return await watch.clients[node.name].status()


async def votes_of(node: ClusterNode, cluster: LocalCluster, record: Record) -> int:
    """How many of its votes are in the logs of its lives; a contradiction raises."""
    await cluster.stop(node)
    record.read_log(node)
    await cluster.start(node)
    await cluster.wait_ready()
    return sum(place[0] == node.name for place in record.votes)


async def caught_up(watch: Watch) -> None:
    assert await watch.agreed(30.0) is not None


@pytest.mark.asyncio
async def test_a_validator_whose_store_is_damaged_comes_back_and_signs_again(tmp_path: Path) -> None:
    async with LocalCluster.create(tmp_path / "cluster", 4) as cluster:
        await cluster.wait_ready()
        async with Watch(cluster.nodes) as watch:
            payer, record = Payer(cluster, watch), Record()
            victim, others = cluster.nodes[0], cluster.nodes[1:]
            for number in range(BEFORE):
                await payer.pay(cluster.nodes[number % 4])
            await caught_up(watch)
            await cluster.stop(victim)
            record.read_log(victim)
            home = victim.home
            for path in (home / DATA / "db").glob("MANIFEST-*"):
                damage(path)
            await cluster.start(victim)
            with pytest.raises(ClusterError):
                await cluster.wait_ready()
            code, _, err = medchain("verify", "--home", str(home))
            assert code
            assert "medchain repair" in err
            code, out, err = medchain("repair", "--home", str(home), "--json")
            assert code == 0, err
            told = json.loads(out)
            assert told["damages"]
            assert not told["muted"]
            assert 1 < told["signs_from"] <= watch.height
            assert Path(told["moved_to"]).is_dir()
            for number in range(PAYMENTS):  # the others go on meanwhile
                await payer.pay(others[number % 3])
            await cluster.start(victim)
            await cluster.wait_ready()
            await caught_up(watch)
            before = await votes_of(victim, cluster, record)
            for number in range(PAYMENTS):
                await payer.pay(cluster.nodes[number % 4])
            assert await votes_of(victim, cluster, record) > before, "it votes again"
            # Its vote counts: with another one away the three go on.
            await cluster.stop(cluster.nodes[3])
            await payer.pay(victim)
            status = await status_of(watch, victim)
            assert status["counters"]["evidence"] == 0
    for node in cluster.nodes:
        record.read_log(node)


@pytest.mark.asyncio
async def test_a_validator_whose_log_is_damaged_follows_and_signs_nothing(tmp_path: Path) -> None:
    async with LocalCluster.create(tmp_path / "cluster", 4) as cluster:
        await cluster.wait_ready()
        async with Watch(cluster.nodes) as watch:
            payer = Payer(cluster, watch)
            victim = cluster.nodes[0]
            for number in range(PAYMENTS):
                await payer.pay(cluster.nodes[number % 4])
            await caught_up(watch)
            await cluster.stop(victim)
            damage(max((victim.home / DATA / "wal").glob("*.wal")))
            code, out, err = medchain("repair", "--home", str(victim.home), "--json")
            assert code == 0, err
            assert json.loads(out)["muted"]
            await cluster.start(victim)
            await payer.pay(cluster.nodes[1])
            await caught_up(watch)
            why = await watch.clients[victim.name].why()
            assert "MC5007" in why["sentence"]
            # Also when its store is lost later on: the log says it, too.
            await cluster.stop(victim)
            (victim.home / DATA / "db" / "CURRENT").unlink()
            code, out, err = medchain("repair", "--home", str(victim.home), "--json")
            assert code == 0, err
            assert json.loads(out)["muted"]
            await cluster.start(victim)
            await caught_up(watch)
