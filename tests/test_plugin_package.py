"""A rule module in a package of its own, installed beside the node, is found by its entry point and enforced by all."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.crypto import KeyPair
from ledger.genesis import development_key
from ledger.gs1 import check_digit, sgtin
from ledger.modules.drug_operations import Commission
from ledger.transaction import Transaction
from node.api.client import Client
from node.cluster.plan import development_modules
from node.cluster.runner import LocalCluster
from node.demo.watch import Watch, chain_of

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("processes")]

PACKAGE = Path(__file__).parents[1] / "examples" / "medchain-vaccine-rules"
GTIN = "0401234512001" + str(check_digit("0401234512001"))
VIAL = sgtin(GTIN, "V1")
VIAL_DISCARD_POINT = 10_001


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built and installed into a folder of its own, without any network."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--target", str(target), str(PACKAGE)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return target


@pytest.fixture
def importable(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Found by this process and by the nodes that it starts."""
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.setenv("PYTHONPATH", str(installed))
    importlib.invalidate_caches()
    yield installed
    for name in [name for name in sys.modules if name.partition(".")[0] == "vaccines"]:
        del sys.modules[name]


def modules() -> dict[str, dict[str, Any]]:
    return {**development_modules(), "vaccines": {"version": 1, "exposure_max": 10_000}}


def wire(cluster: LocalCluster, key: KeyPair, name: str, fields: tuple[Any, ...], nonce: int) -> bytes:
    chain_id, raw = bytes.fromhex(cluster.plan.chain_id), nonce.to_bytes(16, "big")
    return Transaction.create(key, chain_id, name, fields, nonce=raw, valid_until=500).wire


def test_the_packages_own_tests_pass(installed: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PACKAGE / "tests")],
        env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_enforced_by_all_nodes(importable: Path, tmp_path: Path) -> None:
    asyncio.run(_enforced(tmp_path / "cluster"))


async def _enforced(directory: Path) -> None:
    maker = development_key("maker")
    commission = Commission(GTIN, "L1", 20400101, 0, (), ("V1",), None, 0)
    calls: list[tuple[str, tuple[Any, ...], int]] = [
        ("vaccines.log_vial_monitor", ((VIAL,), 2), 0),
        ("vaccines.log_exposure", ((VIAL,), 900, 100), 0),
        ("vaccines.log_vial_monitor", ((VIAL,), 3), 0),
        ("vaccines.log_vial_monitor", ((VIAL,), 1), 10_004),
    ]
    async with LocalCluster.create(directory, 4, modules=modules()) as cluster:
        await cluster.wait_ready()
        async with Watch(cluster.nodes) as watch:
            clients = list(watch.clients.values())
            first = await clients[0].submit_wait(wire(cluster, maker, commission.NAME, commission.to_fields(), 1))
            assert first["code"] == 0
            for number, (name, fields, code) in enumerate(calls):
                sent = wire(cluster, maker, name, fields, 10 + number)
                receipt = await clients[number].submit_wait(sent)
                assert (receipt["code"], name) == (code, name)
            released = await _hand_over(cluster, clients[1])
            assert released["code"] == VIAL_DISCARD_POINT
            assert released["name"] == "vial_discard_point"
            assert await watch.agreed() is not None
            chains = [await chain_of(client) for client in clients]
            assert all(chain == chains[0] for chain in chains)
            assert chains[0][released["id"]]["code"] == VIAL_DISCARD_POINT


async def _hand_over(cluster: LocalCluster, client: Client) -> dict[str, Any]:
    """Ship the vial to the pharmacy, which tries to release it."""
    maker, pharmacy = development_key("maker"), development_key("pharmacy")
    shipped = await client.submit_wait(wire(cluster, maker, "drugs.ship", ((VIAL,), "pharmacy", 0), 30))
    received = await client.submit_wait(wire(cluster, pharmacy, "drugs.receive", ((VIAL,), 0), 31))
    assert (shipped["code"], received["code"]) == (0, 0)
    return await client.submit_wait(wire(cluster, pharmacy, "vaccines.release", ((VIAL,),), 32))


def test_a_node_without_the_package_says_what_is_missing(importable: Path, tmp_path: Path) -> None:
    cluster = LocalCluster.create(tmp_path / "cluster", 1, modules=modules())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", "start", "--home", str(cluster.nodes[0].home)],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "rule module vaccines version 1: not installed" in done.stderr
