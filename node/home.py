"""A node's home on disk: made once, opened by one process at a time.

`initialise` is the only thing that creates a chain's data. A validator whose data folder is lost must not quietly begin
anew: it would forget what it signed. `open_home` therefore refuses an empty one.

Must not know: networks, or how the node runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ledger.crypto import self_test
from ledger.errors import ConfigError
from ledger.execution import Executor
from ledger.genesis import GENESIS_SIZE_BYTES_MAX, Genesis
from ledger.rules import Registry
from node.config import NodeConfig
from node.plugins import load_registry
from storage.chain import ChainStore
from storage.datadir import DataDir
from storage.errors import AlreadyInitialised, StateDiverged, StorageError
from storage.files import sync_folder
from storage.leveldb import LevelDB
from storage.migrations import upgrade
from storage.shortening import replay
from storage.wal import Record, WriteAheadLog

DATA = "data"
FORMER = "data.former"  # for the moment in which other data take its place


@dataclass
class Home:
    """Everything of one node that is on disk, open and locked."""

    genesis: Genesis
    registry: Registry
    executor: Executor
    folder: DataDir
    kv: LevelDB
    store: ChainStore
    wal: WriteAheadLog

    def records(self) -> list[Record]:
        """What the log holds, once after opening. Corruption where the store has less than it had."""
        return replay(self.wal, self.kv, self.folder.db, max(self.store.tip.height, self.store.refetching))

    def reopen(self) -> None:
        """Begin again with what is on disk, as after a crash: the way back after DiskFull. It may be called again if it
        raises. StateDiverged where that has turned out meanwhile."""
        self.wal.close()
        self.kv.reopen()
        store, executor = ChainStore(self.kv), Executor(self.genesis, self.registry)
        store.resume(executor)  # first of all: whoever reads goes on with it, also where the rest fails
        self.store, self.executor = store, executor
        _check_certified(self.store, self.folder.db)
        self.wal = WriteAheadLog(self.folder.wal, create=False)

    def close(self) -> None:
        self.wal.close()
        with suppress(StorageError):  # else the next opening does it
            self.kv.settle()
        self.kv.close()
        self.folder.close()


def read_genesis(path: Path) -> Genesis:
    """The genesis file; ConfigError names what is wrong with it."""
    try:
        if path.stat().st_size > GENESIS_SIZE_BYTES_MAX:
            raise ConfigError(f"{path}: larger than {GENESIS_SIZE_BYTES_MAX} bytes")
        return Genesis.from_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; a node needs its chain's genesis file") from None


def initialise(config: NodeConfig) -> None:
    """Make the data folder with the genesis state. Raises AlreadyInitialised where there is one."""
    genesis = read_genesis(config.genesis_path)
    executor = Executor(genesis, load_registry(genesis))
    changes, tip = executor.begin()
    with DataDir.create(config.home / DATA) as folder:
        kv = LevelDB(folder.db, create=True)
        try:
            ChainStore.create(kv, genesis.to_json(), changes, tip)
        finally:
            kv.close()


def open_home(config: NodeConfig) -> Home:
    """Open and lock it. Raises storage errors, or ConfigError when the genesis file is another chain's or this machine
    judges signatures otherwise."""
    self_test()
    genesis = read_genesis(config.genesis_path)
    registry = load_registry(genesis)
    with ExitStack() as opened:
        folder = opened.enter_context(DataDir(config.home / DATA))
        kv = opened.enter_context(closing(LevelDB(folder.db)))
        upgrade(kv)
        store = ChainStore(kv)
        if store.chain_id != genesis.chain_id:
            raise ConfigError(f"{config.genesis_path}: another chain than the one in {folder.path}")
        _check_certified(store, folder.db)
        # A validator without its log would not remember what it signed: a lost log stops it.
        wal = WriteAheadLog(folder.wal, create=False)
        opened.pop_all()
    return Home(genesis, registry, Executor(genesis, registry), folder, kv, store, wal)


def _check_certified(store: ChainStore, path: Path) -> None:
    if store.diverged is not None:
        raise StateDiverged(
            f"{path}: the state at height {store.diverged[0]} is not the one that the validators certified; "
            "run `medchain repair`, with software that executes as theirs does"
        )


# Data that come from elsewhere


def check_new(config: NodeConfig) -> None:
    """AlreadyInitialised where a node's data hold more than a new chain: then no others may take their place."""
    with _held_if_new(config):
        pass


@contextmanager
def _held_if_new(config: NodeConfig) -> Iterator[None]:
    """The same, and no node begins on them meanwhile."""
    path = config.home / DATA
    if not path.exists() or not any(path.iterdir()):
        yield
        return
    shutil.rmtree(config.home / FORMER, ignore_errors=True)  # others took their place, and whoever did that was killed
    if not (path / "FORMAT").exists():
        raise AlreadyInitialised(path)
    with DataDir(path) as folder:
        with closing(LevelDB(folder.db)) as kv, closing(WriteAheadLog(folder.wal, create=False)) as wal:
            upgrade(kv)
            store = ChainStore(kv)
            is_new = store.tip.height == 0 and not replay(wal, kv, folder.db, store.refetching)
        if not is_new or any(folder.vault.iterdir()):
            raise AlreadyInitialised(path)
        yield


def take_place(config: NodeConfig, draft: Path) -> None:
    """Put a whole data folder of the same home in the place of a new chain's. Killed at any moment, it is there or not,
    and whoever made it can be called again."""
    folder, former = config.home / DATA, config.home / FORMER
    with _held_if_new(config):
        if folder.exists():
            shutil.rmtree(former, ignore_errors=True)
            folder.rename(former)
        draft.rename(folder)
        sync_folder(config.home)
    shutil.rmtree(former, ignore_errors=True)
