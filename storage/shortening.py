"""Shortening the write-ahead log, and what makes it safe: that the store has what the log forgets, and that each tells
when the other has lost something.

A validator whose store fell back behind what its log has dropped could sign again for heights of which it remembers
nothing. So before segments go, the store is synced, and the log then marks how far the store was: a store that ends
below the mark has lost what was on disk, and must be mended before its node runs. The keys that sign nothing any more
are named again beside it.

A log that lost its end looks like one whose last write was cut short. So the store keeps how far the log was, in
segments and bytes: written after the log's sync and before segments go, so that at any moment the log on disk reaches
at least as far, and begins no later.

Must not know: what the records say.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final

from storage import schema
from storage.chain import ChainStore
from storage.errors import Corruption, StorageError
from storage.kv import KeyValue
from storage.wal import Extent, Record, WriteAheadLog

MARK: Final = 0  # the kind of such a record; its tag is one above the store's height

MUTE: Final = 255  # the kind of a record that holds a public key which signs nothing any more

_CLOSED_TAG: Final = 1  # of the mark that ends a log which was closed in peace: it says nothing of any height

_EXTENT: Final = Struct(">QQQ")


def shorten(kv: KeyValue, wal: WriteAheadLog, height: int) -> None:
    """Let the log drop what `height`, stable and in the store, makes obsolete. Waits for the disk."""
    _note(kv, wal.extent())
    if wal.would_drop(height + 1):
        wal.append(MARK, height + 1, b"")
        for key, _ in kv.scan_prefix(schema.MUTED):
            wal.append(MUTE, height + 1, key.removeprefix(schema.MUTED))
        wal.flush(lambda: kv.write((), sync=True))
        _note(kv, wal.extent(height + 1))
    wal.truncate_before(height + 1)


def end(kv: KeyValue, wal: WriteAheadLog) -> None:
    """A last record for a node that stops in peace. Damage to the last one cannot be told from a write that was cut
    short; with this behind it, damage to a vote is told."""

    def sync() -> None:
        with suppress(StorageError):  # of a store that takes nothing more
            kv.write((), sync=True)

    wal.append(MARK, _CLOSED_TAG, b"")
    wal.flush(sync)
    with suppress(StorageError):  # the store then knows of an earlier end, as after a crash
        _note(kv, wal.extent())


def _note(kv: KeyValue, extent: Extent) -> None:
    """Durably, with all that was written before."""
    kv.write([(schema.LOGGED_KEY, _EXTENT.pack(extent.first, extent.last, extent.size_bytes))], sync=True)


def noted(kv: KeyValue) -> Extent | None:
    """What the log must at least have; None in a store whose log was never shortened, nor closed in peace."""
    data = kv.get(schema.LOGGED_KEY)
    if data is None:
        return None
    if len(data) != _EXTENT.size:
        raise Corruption("the record of how far the log was has another size")
    return Extent(*_EXTENT.unpack(data))


def forget_log(kv: KeyValue) -> None:
    """Durably: another log takes the place of the one that the store knew."""
    kv.write((), [schema.LOGGED_KEY], sync=True)


def mute(wal: WriteAheadLog, key: bytes) -> None:
    """Note that a key signs nothing any more, for good: the store says so already, and may be lost."""
    wal.append(MUTE, 0, key)
    wal.flush()


def begin_muted(path: Path, key: bytes) -> None:
    """A log that knows only that the key signs nothing any more."""
    log = WriteAheadLog(path)
    try:
        mute(log, key)
    finally:
        log.close()


def mute_if_signed(store: ChainStore, log: Path, key: bytes) -> None:
    """In data that do not tell what the key signed: if it may ever have, it signs nothing any more. To be called before
    the folder is a node's; `log` is where its log begins."""
    if store.may_have_signed(key):
        store.mute(key)
        begin_muted(log, key)


def muted(records: Iterable[Record]) -> set[bytes]:
    """The keys that `mute` named."""
    return {record.payload for record in records if record.kind == MUTE}


def marked(records: Iterable[Record]) -> int:
    """The height that the store had when the log was last shortened."""
    return max((record.tag - 1 for record in records if record.kind == MARK), default=0)


def replay(wal: WriteAheadLog, kv: KeyValue, store_path: Path, store_height: int) -> list[Record]:
    """The log's records but for marks. Corruption, of the log if it lacks what the store knows it had, of the store if
    it ends below a mark."""
    extent = noted(kv)
    if extent is not None:
        wal.check_reaches(extent)
    records = list(wal.replay())
    height = marked(records)
    if store_height < height:
        raise Corruption(
            store_path,
            f"it ends at height {store_height}, and was at {height} when the log was shortened",
            "Run `medchain repair`: this node must not sign before it has the rest again",
        )
    return [record for record in records if record.kind not in (MARK, MUTE)]
