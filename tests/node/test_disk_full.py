"""A node whose disk is full: it neither accepts nor signs, says so, and goes on by itself once there is room."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ledger.errors import Code, Reject
from ledger.genesis import Genesis, Parameters, development_key
from ledger.modules.payments import Transfer
from ledger.transaction import NONCE_SIZE_BYTES, Transaction
from node import keys, room
from node.cluster.plan import development_modules
from node.config import P2P, Api, Log, NodeConfig
from node.home import initialise, open_home
from node.node import Node
from storage.errors import DiskFull, StateDiverged
from storage.leveldb import LevelDB
from storage.verification import verify_chain
from storage.wal import WriteAheadLog

DISK_SIZE_BYTES = 160 * 1024 * 1024
LEFT_SIZE_BYTES = 256 * 1024
WAIT_S = 60


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE_BYTES}", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs privileges; the tests below fill a disk that only pretends")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def config_of(home: Path) -> NodeConfig:
    return NodeConfig(home=home, p2p=P2P(port=0), api=Api(port=0), log=Log(level="error"))


def make_home(home: Path, parameters: Parameters | None = None) -> NodeConfig:
    home.mkdir()
    config = config_of(home)
    key = keys.generate()
    keys.save(config.key_path, key)
    time_ms = time.time_ns() // 1_000_000
    parameters = parameters or Parameters()
    modules = development_modules()
    genesis = Genesis("full", time_ms, (key.public,), modules, development=True, parameters=parameters)
    config.genesis_path.write_text(genesis.to_json(), "utf-8")
    initialise(config)
    return config


def payment(node: Node) -> Transaction:
    operation = Transfer("CNY", "pharmacy", 1, "x" * 64)
    fields = operation.to_fields()
    nonce, valid_until = secrets.token_bytes(NONCE_SIZE_BYTES), node.desk.store.tip.height + 5
    key, chain_id = development_key("hospital"), node.desk.genesis.chain_id
    return Transaction.create(key, chain_id, operation.NAME, fields, nonce=nonce, valid_until=valid_until)


async def pay_until_refused(node: Node) -> list[Transaction]:
    """What was acknowledged, each with a receipt."""
    paid: list[Transaction] = []
    deadline_s = time.monotonic() + WAIT_S
    while node.desk.stopped is None:
        assert time.monotonic() < deadline_s
        some = [payment(node) for _ in range(20)]
        outcomes = await node.desk.submit([tx.wire for tx in some])
        waits = [node.desk.wait(tx.id, 300) for tx, outcome in zip(some, outcomes, strict=True) if not outcome.code]
        for tx, found in zip(some, await asyncio.gather(*waits), strict=False):
            if found is not None:
                paid.append(tx)
    return paid


async def until_it_goes_on(node: Node) -> None:
    async with asyncio.timeout(WAIT_S):
        while node.desk.stopped is not None:
            await asyncio.sleep(0.02)


async def get(node: Node, path: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(node.api.url + path) as response:
        assert response.status == 200
        document: dict[str, Any] = await response.json()
        return document


async def check_that_it_says_so(node: Node) -> None:
    status = await get(node, "/v1/status")
    assert Code.DISK_FULL.label in status["stopped"]
    assert "no space left" in status["why"]
    assert "goes on by itself" in status["why"]
    assert (await get(node, "/v1/why"))["halted"]
    assert not node.desk.ready()
    with pytest.raises(Reject) as refused:
        await node.submit(payment(node))
    assert refused.value.code is Code.DISK_FULL
    assert (await get(node, "/v1/blocks/1"))["height"] == 1


def fill(path: Path) -> None:
    """All but LEFT_SIZE_BYTES."""
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(bytes(LEFT_SIZE_BYTES)):
                pass
        except OSError:
            pass
        os.ftruncate(file.fileno(), max(0, file.tell() - LEFT_SIZE_BYTES))


def check_home(config: NodeConfig, paid: list[Transaction]) -> None:
    """Nothing that was acknowledged is lost, and what is there is sound."""
    home = open_home(config)
    try:
        for tx in paid:
            receipt = home.store.receipt(tx.id)
            assert receipt is not None
            assert receipt.ok
        verify_chain(home.kv, home.store, home.executor)
    finally:
        home.close()


def test_on_a_file_system_that_is_full(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOOK_EVERY_S", 0.05)
    config = make_home(disk / "home")

    async def scenario() -> list[Transaction]:
        async with Node(config) as node:
            paid: list[Transaction] = []
            for _ in range(2):  # what happened once may happen again
                fill(disk / "filler")
                paid += await pay_until_refused(node)
                height = node.desk.store.tip.height
                await check_that_it_says_so(node)
                await asyncio.sleep(0.2)  # several looks: there is no room yet
                assert node.desk.stopped is not None
                assert node.desk.store.tip.height == height
                (disk / "filler").unlink()
                await until_it_goes_on(node)
                tx = payment(node)
                assert (await node.submit(tx)).ok
                paid.append(tx)
                assert (await get(node, "/v1/status"))["stopped"] is None
            return paid

    paid = asyncio.run(scenario())
    assert len(paid) > 2
    check_home(config, paid)


@pytest.mark.parametrize("where", [(LevelDB, "write"), (WriteAheadLog, "flush")], ids=["store", "log"])
def test_wherever_there_is_no_room(where: tuple[type, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOOK_EVERY_S", 0.02)
    config = make_home(tmp_path / "home")
    owner, name = where
    sound = getattr(owner, name)

    def full(*_: Any, **__: Any) -> None:
        raise DiskFull(tmp_path)

    async def scenario() -> list[Transaction]:
        async with Node(config) as node:
            paid = [payment(node)]
            assert (await node.submit(paid[0])).ok
            with monkeypatch.context() as patch:
                patch.setattr(room, "has_room", lambda folder: False)
                patch.setattr(owner, name, full)
                paid += await pay_until_refused(node)
                await check_that_it_says_so(node)
            assert getattr(owner, name) is sound
            await until_it_goes_on(node)
            tx = payment(node)
            assert (await node.submit(tx)).ok
            return [*paid, tx]

    check_home(config, asyncio.run(scenario()))


def test_a_node_can_be_stopped_while_its_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_home(tmp_path / "home")

    def full(*_: Any, **__: Any) -> None:
        raise DiskFull(tmp_path)

    async def scenario() -> list[Transaction]:
        with monkeypatch.context() as patch:
            patch.setattr(room, "has_room", lambda folder: False)
            async with Node(config) as node:
                tx = payment(node)
                assert (await node.submit(tx)).ok
                patch.setattr(WriteAheadLog, "flush", full)
                return [tx, *await pay_until_refused(node)]

    check_home(config, asyncio.run(scenario()))


def test_a_stop_that_finds_the_disk_full_closes_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_home(tmp_path / "home")

    def full(*_: Any, **__: Any) -> None:
        raise DiskFull(tmp_path)

    async def scenario() -> Transaction:
        node = Node(config)
        await node.start()
        tx = payment(node)
        assert (await node.submit(tx)).ok
        with monkeypatch.context() as patch:
            patch.setattr(WriteAheadLog, "flush", full)
            await node.stop()
        return tx

    check_home(config, [asyncio.run(scenario())])


def test_who_stopped_for_another_state_does_not_begin_again_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOOK_EVERY_S", 0.02)
    config = make_home(tmp_path / "home")

    async def scenario() -> None:
        async with Node(config) as node:
            assert (await node.submit(payment(node))).ok
            height, before = node.desk.store.tip.height, await get(node, "/v1/accounts/pharmacy?currency=CNY")
            assert height > node.desk.store.tip.checkpoint_height
            node.replica.engine._halt(height, bytes(33), b"\x01" * 33)
            node.driver.diverged(height, bytes(33), b"\x01" * 33)
            node.driver.fail(DiskFull(tmp_path))
            async with asyncio.timeout(WAIT_S):
                while not (node.desk.stopped and Code.STATE_DIVERGED.label in node.desk.stopped):
                    await asyncio.sleep(0.02)
            with pytest.raises(Reject) as refused:
                await node.submit(payment(node))
            assert refused.value.code is Code.NOT_ACCEPTING
            assert await get(node, "/v1/accounts/pharmacy?currency=CNY") == before, "it reads on at its tip"

    asyncio.run(scenario())
    with pytest.raises(StateDiverged):
        open_home(config)


def test_room_is_free_space_and_a_file_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert room.has_room(tmp_path)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(room, "FREE_SIZE_BYTES_MIN", 1 << 60)
        assert not room.has_room(tmp_path)
    assert not room.has_room(tmp_path / "absent")
