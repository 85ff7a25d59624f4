"""Data that come from elsewhere, by `join` or `restore`: a validator's key is muted before they are a node's, and a
call that is killed at any step leaves a home in which the same call does the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import node.cli.archive as archive_commands
import node.home
import node.join
import storage.archive
import storage.datadir
import storage.shortening
from node import keys
from node.cli.common import Exit
from node.config import NodeConfig
from node.home import DATA, FORMER, check_new, open_home
from node.join import JOINING, join
from node.node import Node
from node.repair import repair
from storage.chain import ChainStore
from storage.datadir import DataDir
from storage.errors import AlreadyInitialised, Locked, NotInitialised
from storage.shortening import muted
from storage.verification import verify_store
from storage.wal import WriteAheadLog
from tests.node.test_join import LOG, WAIT_S, Chain, make_home, peer_of, running
from tests.node.test_stopped_home import Medchain, config_of, home, made, medchain, new_home

__all__ = ["home", "made", "medchain"]  # fixtures

Step = tuple[Any, str, bool]
STEPS: dict[str, Step] = {  # (owner, name, whether it is killed after that)
    "unpacked": (storage.archive, "_unpack", True),
    "before the store is muted": (ChainStore, "mute", False),
    "after the store is muted": (ChainStore, "mute", True),
    "before the log is muted": (storage.shortening, "mute", False),
    "after the log is muted": (storage.shortening, "mute", True),
    "before it is a node's": (storage.datadir, "replace", False),
    "after it is a node's": (storage.datadir, "replace", True),
    "before it takes the place": (Path, "rename", False),
    "between the two moves": (Path, "rename", True),
    "moved": (node.home, "sync_folder", False),
}


class Killed(BaseException):
    """As a kill: nothing may be tidied up by whoever hears of it."""


@contextmanager
def killed_at(step: Step, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    owner, name, after = step
    sound = getattr(owner, name)

    def dies(*arguments: Any, **options: Any) -> None:
        if after:
            sound(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        patch.setattr(archive_commands.shutil, "rmtree", lambda *_, **__: None)
        yield


def check_nothing_begins_on_half(config: NodeConfig, *, whole: bool = False) -> None:
    """There are the data of a new chain, or none, or (`whole`) those that are muted; and repairing makes no others."""
    for _ in range(2):
        try:
            with closing(open_home(config)) as opened:
                key = keys.load(config.key_path).public
                assert opened.store.tip.height == 0 or (whole and opened.store.is_muted(key, for_good=True))
        except NotInitialised:
            assert not (config.home / DATA).exists()
        try:
            repair(config, lambda height, tip_height: None)
        except NotInitialised:
            continue


def check_muted(config: NodeConfig) -> None:
    key = keys.load(config.key_path).public
    with closing(open_home(config)) as opened:
        assert opened.store.tip.height > 0
        assert opened.store.is_muted(key, for_good=True)
        assert key in muted(opened.wal.replay())
        verify_store(opened.kv, opened.store, opened.executor)
    names = {path.name for path in config.home.iterdir()}
    assert not names & {FORMER, JOINING, archive_commands.DRAFT}


# Restoring


@pytest.fixture
def archive(home: Path, tmp_path: Path, medchain: Medchain) -> Path:
    assert medchain("backup", "--home", home, "--out", tmp_path / "a.tar")[0] == Exit.DONE
    return tmp_path / "a.tar"


@pytest.mark.parametrize("step", STEPS)
def test_a_restore_that_was_killed_is_called_again(
    step: str, archive: Path, home: Path, tmp_path: Path, medchain: Medchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = new_home(home, tmp_path / "other")
    with killed_at(STEPS[step], monkeypatch), pytest.raises(Killed):
        archive_commands.restore.callback(archive, other, False, True)  # type: ignore[misc]
    check_nothing_begins_on_half(config_of(other), whole=step == "moved")
    status, _, err = medchain("restore", archive, "--home", other)
    assert status == (Exit.USAGE if step == "moved" else Exit.DONE), err
    check_muted(config_of(other))


def test_a_failed_restore_leaves_nothing(archive: Path, home: Path, tmp_path: Path, medchain: Medchain) -> None:
    other = new_home(home, tmp_path / "other")
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    before = sorted(path.name for path in other.iterdir())
    assert medchain("restore", archive, "--home", other)[0] == Exit.REFUSED
    assert sorted(path.name for path in other.iterdir()) == before
    check_nothing_begins_on_half(config_of(other))


def test_data_in_use_are_not_replaced(archive: Path, home: Path, tmp_path: Path, medchain: Medchain) -> None:
    """Not even those of a new chain: its node may begin to sign at any moment."""
    other = new_home(home, tmp_path / "other")
    with DataDir(other / DATA), pytest.raises(Locked):
        check_new(config_of(other))


# Joining


async def lost(chain: Chain, folder: Path) -> tuple[NodeConfig, Any]:
    """The home of a validator that lost its data; its peers are the followers."""
    key = chain.validator.key
    peers = [peer_of(node) for node in chain.nodes[1:]]
    config = make_home(folder / "lost", chain.validator.desk.genesis, key, [], peers)
    await chain.validator.stop()
    return config, key


async def joined(config: NodeConfig, key: Any, *, keep_key: bool = False) -> bool:
    async with asyncio.timeout(WAIT_S):
        return (await join(config, key, LOG, keep_key=keep_key))[1]


@pytest.mark.asyncio
async def test_a_validator_that_lost_its_data_joins_and_signs_nothing_any_more(tmp_path: Path) -> None:
    async with running(tmp_path, followers=1) as chain:
        config, key = await lost(chain, tmp_path)
        assert not await joined(config, key)
        check_muted(config)
        async with Node(config) as node:
            assert node.desk.store.is_muted(key.public)
            assert node.replica.engine.config.muted
        with pytest.raises(AlreadyInitialised):
            await joined(config, key)


@pytest.mark.asyncio
async def test_a_key_that_never_ran_is_kept_where_the_operator_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, followers=1) as chain:
        config, key = await lost(chain, tmp_path)
        assert await joined(config, key, keep_key=True)
        with closing(open_home(config)) as opened:
            assert not opened.store.is_muted(key.public)


@pytest.mark.asyncio
async def test_a_join_that_was_killed_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once all pieces are there nobody is asked again, at whichever step it is killed."""
    async with running(tmp_path, followers=1) as chain:
        config, key = await lost(chain, tmp_path)
        steps = [step for name, step in STEPS.items() if name not in ("unpacked", "moved")]
        for index, step in enumerate(steps):
            if index == 1:
                asked = [node.snapshots._answer for node in chain.nodes[1:]]
                assert asked
                for node in chain.nodes[1:]:
                    await node.stop()
            with killed_at(step, monkeypatch), pytest.raises(Killed):
                await joined(config, key)
            check_nothing_begins_on_half(config)
        assert not await joined(config, key)
        check_muted(config)


def test_a_log_is_not_begun_over_one_that_knows_more(tmp_path: Path) -> None:
    """Muting again, after a kill, adds to the log that is there."""
    for _ in range(2):
        storage.shortening.begin_muted(tmp_path / "wal", b"key")
    with closing(WriteAheadLog(tmp_path / "wal", create=False)) as wal:
        assert muted(wal.replay()) == {b"key"}
