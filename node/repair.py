"""Mending a stopped node's damaged data, so that it can fetch what is gone from its peers (docs/storage.md, "Repair").

What is damaged is moved aside, never deleted. A new store begins at genesis and is filled by the node itself, which
signs nothing before it is certified beyond all that its log has forgotten; where the log is damaged too, nobody knows
what the key signed, and it signs nothing any more (MC5007).

Must not know: networks.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from consensus.messages import CheckpointVote, Prepared, PrePrepare, Vote
from ledger.errors import CodecError
from ledger.execution import Executor
from ledger.genesis import Genesis
from ledger.rules import Registry
from node import keys
from node.config import NodeConfig
from node.home import DATA, read_genesis
from node.plugins import load_registry
from node.replica import RecordKind, split_records
from storage.chain import ChainStore
from storage.datadir import DataDir, mend_format
from storage.errors import Locked, StorageError, from_os_error
from storage.files import sync_folder
from storage.leveldb import LevelDB
from storage.migrations import upgrade
from storage.shortening import begin_muted, forget_log, marked, muted, noted
from storage.verification import verify_store
from storage.wal import Record, WriteAheadLog

DRAFT = "repairing"

Progress = Callable[[int, int], None]
"""Hears (height, tip's height) while the store is checked."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was damaged (in words, nothing if all was sound), where it lies now, and what is left to do."""

    damages: tuple[str, ...]
    aside: Path | None
    refetch: int  # the height from which on the node signs again; 0: at once
    muted: bool  # the key signs nothing any more


def repair(config: NodeConfig, progress: Progress) -> Report:
    """Check everything, replace what is damaged. Locked while the node runs; ConfigError for settings or genesis.

    What replaces is made whole beside it and then takes its place: killed at any moment, it can be called again, and no
    node starts on half of it.
    """
    genesis = read_genesis(config.genesis_path)
    registry = load_registry(genesis)
    key = keys.load(config.key_path).public
    path = config.home / DATA
    damages = ["FORMAT"] if _mend_format(path) else []
    draft = path / DRAFT
    shutil.rmtree(draft, ignore_errors=True)
    with DataDir(path) as folder:
        records = _records(folder, damages)
        diverged, owed = _noted_in(folder.db)
        sound = _is_sound(folder.db, genesis, registry, progress, damages)
        draft.mkdir(mode=0o700)
        if not sound:
            _begin_store(draft / folder.db.name, genesis, registry)
        with closing(LevelDB(folder.db if sound else draft / folder.db.name)) as kv:
            store = ChainStore(kv)
            for named in {key} if records is None else muted(records):
                store.mute(named)
            lost = 0 if records is None else max(owed, _forgotten(records, store.tip.parameters.log_window))
            if diverged and records is not None:
                # What this node vouched for may have been wrong, and would differ from what it executes now. The others
                # went on without it, so a later checkpoint was certified or will be.
                lost = max(lost, diverged, _vouched(records))
            if store.tip.height < lost:
                if sound and not owed:
                    damages.append(f"{folder.db} ends at height {store.tip.height}, and was at {lost}")
                store.refetch(lost)
            report = (store.refetching, store.is_muted(key, for_good=True))
        aside: Path | None = None
        if records is None:
            begin_muted(draft / folder.wal.name, key)
        for replaced in ([] if records is not None else [folder.wal]) + ([] if sound else [folder.db]):
            aside = aside or _make_aside(path)
            if replaced.exists():
                replaced.rename(aside / replaced.name)
            (draft / replaced.name).rename(replaced)
        sync_folder(path)
        if records is None:
            with closing(LevelDB(folder.db)) as kv:  # last: until then the new log is refused, so none starts on half
                forget_log(kv)
    shutil.rmtree(draft)
    return Report(tuple(damages), aside, *report)


def _mend_format(path: Path) -> bool:
    """`mend_format`, unless a process runs on the folder (Locked): without its FORMAT, `DataDir` cannot tell."""
    if not (path / "db").is_dir():
        return False
    try:
        with open(path / "LOCK", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return mend_format(path)
    except BlockingIOError:
        raise Locked(path, None) from None
    except OSError as error:
        raise from_os_error(error, path / "LOCK") from error


def _records(folder: DataDir, damages: list[str]) -> list[Record] | None:
    """All the log holds; None where it is damaged, or lacks what the store knows it had."""
    extent = None
    with suppress(StorageError), closing(LevelDB(folder.db)) as kv:  # a store that cannot be read comes next
        extent = noted(kv)
    try:
        with closing(WriteAheadLog(folder.wal, create=False)) as log:
            if extent is not None:
                log.check_reaches(extent)
            return list(log.replay())
    except StorageError as error:
        damages.append(str(error))
        return None


def _noted_in(path: Path) -> tuple[int, int]:
    """The heights where the store's state is not the certified one, and up to which a former repair has it fetch
    blocks; 0 where it does not say so, or cannot be read."""
    with suppress(StorageError, CodecError), closing(LevelDB(path)) as kv:
        upgrade(kv)
        store = ChainStore(kv)
        return 0 if store.diverged is None else store.diverged[0], store.refetching
    return 0, 0


def _is_sound(path: Path, genesis: Genesis, registry: Registry, progress: Progress, damages: list[str]) -> bool:
    try:
        with closing(LevelDB(path)) as kv:
            upgrade(kv)
            noted(kv)
            store = ChainStore(kv)
            if store.diverged is not None:
                damages.append(f"{path}: the state at height {store.diverged[0]} is not the one that was certified")
                return False
            verify_store(kv, store, Executor(genesis, registry), progress)
    except (StorageError, CodecError) as error:
        damages.append(str(error))
        return False
    return True


def _make_aside(path: Path) -> Path:
    number = 1
    while (path / f"damaged-{number}").exists():
        number += 1
    aside = path / f"damaged-{number}"
    aside.mkdir(mode=0o700)
    return aside


def _begin_store(path: Path, genesis: Genesis, registry: Registry) -> None:
    changes, tip = Executor(genesis, registry).begin()
    with closing(LevelDB(path, create=True)) as kv:
        ChainStore.create(kv, genesis.to_json(), changes, tip)


def _forgotten(records: list[Record], log_window: int) -> int:
    """A height that this node had certified, at or above all that its log may have dropped: every vote is at most a log
    window above the last certified checkpoint."""
    voted = 0
    for message in _said(records):
        match message:
            case PrePrepare(proposal=proposal):
                voted = max(voted, proposal.height)
            case Vote() | Prepared() | CheckpointVote():
                voted = max(voted, message.height)
    return max(marked(records), voted - log_window)


def _vouched(records: list[Record]) -> int:
    """The greatest height of a checkpoint that this node signed."""
    return max((one.height for one in _said(records) if isinstance(one, CheckpointVote)), default=0)


def _said(records: list[Record]) -> Iterator[object]:
    return (message for one in records if one.kind == RecordKind.VOTES for message in split_records(one.payload))
