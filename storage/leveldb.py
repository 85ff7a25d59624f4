"""LevelDB behind `storage.kv.KeyValue`: the only module that knows plyvel.

Lives here: options, the mapping of errors, and the guard that keeps plyvel from crashing the process. Must not know:
what keys and values mean.

What plyvel leaves open, and what is done about it:

- It lets go of the interpreter lock inside LevelDB, and `close()` frees what another thread is still reading: a
  segmentation fault. So every call into it is counted in `_inflight`, and `close()` first turns new calls away, then
  waits for the count to reach zero. Counting is two list operations (each atomic under the interpreter lock, 0.05 us
  together); a lock would make readers wait for a long compaction.
- After "no space" a log may hold half a record; more records behind it would be lost at the next start. So after any
  failed write this handle takes no more until `reopen()`.
- `create_if_missing` over a damaged folder deletes its tables: only `create=True` sets it, only on an empty folder.
- `repair_db` returns wrong data: never called. The remedy for corruption is a new folder and the peers.
- A failed second open in one process drops LevelDB's file lock: refused here before plyvel sees it. (The lock of the
  data folder, `storage.datadir`, does not depend on this.)
- LevelDB begins a new log without syncing the one before, so a synced write alone does not make all earlier ones
  durable: older logs still there are synced along with it.
- Its reverse iterator gives nothing when the one key in its range is `start`: ranges are walked downwards by a raw one.
- `compact_range()` without bounds compacts next to nothing: bounds are given.
- A log cut short loses its last writes silently. Nothing here can see that: the block store checks that heights follow.
  One that a power cut left with a hole is refused, though it lost no more: `storage.torn` cuts it there.
"""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import plyvel

from storage import torn
from storage.errors import (
    AlreadyInitialised,
    Closed,
    Corruption,
    DiskFull,
    Locked,
    NotInitialised,
    StorageError,
    from_os_error,
)
from storage.files import sync_folder
from storage.kv import check_limit, prefix_end

# A minute or more of blocks at full load fits before a table is written. The fewer and larger the tables, the less
# often a row is merged again, and most rows of a chain come at random places: after a million transactions half as much
# is written as with 20 MiB. It is also what a start after a crash has to read again (a second), what a node has in
# memory for it (twice, while a table is written), and what the disk is given at once.
# Nodes write the same, so each takes a size of its own: else all would write their tables at the same moment.
WRITE_BUFFER_BYTES_MIN, WRITE_BUFFER_BYTES_MAX = 64 * 1024 * 1024, 96 * 1024 * 1024
# Four nodes on a laptop: 32 MiB each stays unnoticed, and the hot keys of a block fit many times.
CACHE_BYTES = 32 * 1024 * 1024
# False positives below 1 %: a look-up of an absent key (replay protection, new serials) reads no table.
BLOOM_FILTER_BITS = 10
# The usual limit for a process is 1,024 descriptors, and peers and API clients need the rest.
OPEN_FILES_MAX = 400
# What a scan fetches at one go: few enough that close() waits below a millisecond.
_CHUNK_ITEMS_MAX = 64
_CHUNK_BYTES_MAX = 256 * 1024
# No key begins with as many.
_ABOVE_ALL_KEYS = b"\xff" * 256
# How often close() looks whether calls in other threads have ended.
_CLOSE_POLL_S = 0.0005

_REMEDY = (
    "Check the disk, then run `medchain repair`: it moves this database aside, and the node fetches the chain again "
    "from its peers"
)

# By real path, so that a second open in this process never reaches plyvel. Handles that were dropped vanish.
_handles: weakref.WeakValueDictionary[str, LevelDB] = weakref.WeakValueDictionary()
_handles_lock = threading.Lock()


class LevelDB:
    """`storage.kv.KeyValue` on disk. Safe to use from several threads, also while one of them closes it.

    `path` is a folder, made with mode 0700 by `create=True`, which demands that it is absent or empty
    (AlreadyInitialised). Without it the database must exist (NotInitialised). Raises Locked, Corruption, DiskFull,
    StorageError.
    """

    def __init__(self, path: str | Path, *, create: bool = False, write_buffer_bytes: int | None = None) -> None:
        self._path = Path(path)
        self._write_buffer_bytes = write_buffer_bytes or random.randrange(  # noqa: S311 - decides nothing
            WRITE_BUFFER_BYTES_MIN, WRITE_BUFFER_BYTES_MAX
        )
        self._inflight: list[None] = []
        self._orphans: list[Any] = []  # at most one for each scan or snapshot that was open
        self._closing = True
        self._write_failure: StorageError | None = None
        self._newest_log = ""  # the last whose name was made durable
        self._lifecycle = threading.Lock()
        self._db: Any = None
        self._register(create)

    def _register(self, create: bool) -> None:
        key = os.path.realpath(self._path)
        with _handles_lock:
            holder = _handles.get(key)
            if holder is not None and holder._db is not None:
                raise Locked(self._path, os.getpid())
            self._open(create)
            _handles[key] = self

    def _open(self, create: bool) -> None:
        try:
            if create:
                self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
                if any(self._path.iterdir()):
                    raise AlreadyInitialised(self._path)
                self._path.chmod(0o700)
            elif not self._path.is_dir() or not any(self._path.iterdir()):
                raise NotInitialised(self._path, "there is no database here: run `medchain init`")
            elif not (self._path / "CURRENT").is_file():
                raise Corruption(self._path / "CURRENT", "the file that names the live tables is missing", _REMEDY)
            else:
                torn.cut_gap(self._path)
            while self._db is None:
                try:
                    self._db = self._opened(create)
                except plyvel.CorruptionError:
                    if create or not torn.cut(self._path, _opens):
                        raise
        except plyvel.Error as error:
            raise self._translated(error) from error
        except OSError as error:
            raise from_os_error(error, self._path) from error
        self._closing = False

    def _opened(self, create: bool) -> Any:
        return plyvel.DB(
            str(self._path),
            create_if_missing=create,
            error_if_exists=create,
            paranoid_checks=True,
            compression=None,  # values are hashes, signatures and ciphertext: nothing to gain
            write_buffer_size=self._write_buffer_bytes,
            lru_cache_size=CACHE_BYTES,
            bloom_filter_bits=BLOOM_FILTER_BITS,
            max_open_files=OPEN_FILES_MAX,
        )

    def get(self, key: bytes) -> bytes | None:
        # Inside `try`, so that an interrupt cannot fall between counting in and counting out.
        try:
            self._inflight.append(None)
            if self._closing:
                raise Closed("the database")
            value: bytes | None = self._db.get(key, verify_checksums=True)
            return value
        except (plyvel.Error, RuntimeError) as error:
            raise self._translated(error) from error
        finally:
            self._inflight.pop()

    def write(
        self, puts: Collection[tuple[bytes, bytes]], deletes: Collection[bytes] = (), *, sync: bool = False
    ) -> None:
        """As the protocol says. After DiskFull or StorageError this write may be there or not (whole or not at
        all), reads go on, and further writes raise the same until `reopen()`.
        """
        with self._using():
            failure = self._write_failure
            if failure is not None:
                full = isinstance(failure, DiskFull)
                raise DiskFull(self._path) if full else StorageError(str(failure)) from failure
            # transaction=True: without it plyvel commits half a batch when an exception passes.
            try:
                with self._db.write_batch(transaction=True, sync=sync) as batch:
                    for key in deletes:
                        batch.delete(key)
                    for key, value in puts:
                        batch.put(key, value)
                if sync:
                    self._sync_older_logs()
            except plyvel.Error as error:
                self._write_failure = self._translated(error)
                raise
            except OSError as error:
                self._write_failure = from_os_error(error, self._path)
                raise self._write_failure from error

    def _sync_older_logs(self) -> None:
        # Names are numbers of at least six digits; the newest was synced by LevelDB. A vanished one is in a table.
        logs = torn.logs_of(self._path)
        if logs and logs[-1].name != self._newest_log:
            sync_folder(self._path)  # LevelDB makes a log's name durable only with the table that replaces it
            self._newest_log = logs[-1].name
        for log in logs[:-1]:
            try:
                descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)

    def scan(
        self, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._scan(self._db, start, stop, reverse, limit)

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return self.scan(prefix, prefix_end(prefix), reverse=reverse, limit=limit)

    def _scan(
        self, source: Any, start: bytes, stop: bytes | None, reverse: bool, limit: int | None
    ) -> Iterator[tuple[bytes, bytes]]:
        check_limit(limit)
        with self._using():
            if limit == 0 or (stop is not None and start >= stop):
                return iter(())
            # Made now, not at the first `next`: this call is the moment the scan shows.
            if reverse:
                cursor = source.raw_iterator(verify_checksums=True)
                return self._drain(cursor, _downwards(cursor, start, stop), limit)
            cursor = source.iterator(start=start, stop=stop, verify_checksums=True)
            return self._drain(cursor, cursor, limit)

    def _drain(
        self, cursor: Any, items: Iterator[tuple[bytes, bytes]], limit: int | None
    ) -> Iterator[tuple[bytes, bytes]]:
        left = limit
        try:
            while left is None or left > 0:
                with self._using():
                    chunk = _chunk(items, _CHUNK_ITEMS_MAX if left is None else min(left, _CHUNK_ITEMS_MAX))
                if not chunk:
                    return
                if left is not None:
                    left -= len(chunk)
                for item in chunk:
                    if self._closing:
                        raise Closed("the database")
                    yield item
        finally:
            self._release(cursor)

    def _release(self, resource: Any) -> None:
        """Close an iterator or a snapshot, unless closing the database has done or will do so. It is kept until that is
        over: the library lets go of the interpreter as it frees one, and would free the database under it."""
        try:
            self._inflight.append(None)
            if self._closing:
                self._orphans.append(resource)
            else:
                resource.close()
        finally:
            self._inflight.pop()

    def snapshot(self) -> LevelDBReader:
        with self._using():
            return LevelDBReader(self, self._db.snapshot())

    def approximate_size_bytes(self) -> int:
        """Bytes of all files of the database, the log of recent writes included."""
        total_bytes = 0
        with self._using(), os.scandir(self._path) as entries:
            for entry in entries:
                try:
                    total_bytes += entry.stat().st_size
                except FileNotFoundError:  # a compaction has just removed it
                    continue
        return total_bytes

    def compact(self) -> None:
        with self._using():
            self._db.compact_range(start=b"", stop=_ABOVE_ALL_KEYS)

    def settle(self) -> None:
        """Write the log of recent writes out as tables: their checksums tell any damage, while damage to the end of a
        log looks like a write that was cut short."""
        with self._using():
            self._db.compact_range(start=_ABOVE_ALL_KEYS, stop=_ABOVE_ALL_KEYS)

    def close(self) -> None:
        """Turn new calls away, wait for those running in other threads, then close. A second call does nothing."""
        with self._lifecycle:
            self._shut()

    def reopen(self) -> None:
        """Close and open again: the way back after DiskFull. Running scans and snapshots end with Closed.

        If it raises, the database is closed and `reopen()` may be tried again.
        """
        with self._lifecycle:
            self._shut()
            self._register(create=False)
            self._write_failure = None

    def _shut(self) -> None:
        self._closing = True
        while self._inflight:
            time.sleep(_CLOSE_POLL_S)
        if self._db is not None:
            self._db.close()
            self._db = None
        self._orphans.clear()

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Count a call into plyvel, so that close() waits for it, and translate what it raises."""
        try:
            self._inflight.append(None)
            if self._closing:
                raise Closed("the database")
            yield
        except (plyvel.Error, RuntimeError) as error:
            raise self._translated(error) from error
        finally:
            self._inflight.pop()

    def _translated(self, error: Exception) -> StorageError:
        text = str(error.args[0] if error.args else error)
        if isinstance(error, plyvel.CorruptionError):
            return Corruption(self._path, f"LevelDB reports corruption ({text})", _REMEDY)
        if isinstance(error, RuntimeError):  # plyvel's word for a closed database, iterator or snapshot
            return Closed("the database") if "closed" in text else StorageError(f"{self._path}: {text}")
        if "already held by process" in text or "Resource temporarily unavailable" in text:
            return Locked(self._path, os.getpid() if "already held by process" in text else None)
        if "No space left on device" in text or "Disk quota exceeded" in text:
            return DiskFull(self._path)
        return StorageError(f"{self._path}: {text}")


class LevelDBReader:
    """`storage.kv.Reader` over a LevelDB snapshot."""

    def __init__(self, owner: LevelDB, snapshot: Any) -> None:
        self._owner = owner
        self._snapshot = snapshot

    def get(self, key: bytes) -> bytes | None:
        owner = self._owner
        try:
            owner._inflight.append(None)
            if owner._closing:
                raise Closed("the snapshot")
            value: bytes | None = self._snapshot.get(key, verify_checksums=True)
            return value
        except (plyvel.Error, RuntimeError) as error:
            raise owner._translated(error) from error
        finally:
            owner._inflight.pop()

    def scan(
        self, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._owner._scan(self._snapshot, start, stop, reverse, limit)

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return self.scan(prefix, prefix_end(prefix), reverse=reverse, limit=limit)

    def close(self) -> None:
        self._owner._release(self._snapshot)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _opens(path: Path) -> bool:
    """Whether LevelDB finds the database at `path`, or a new one there, sound."""
    try:
        plyvel.DB(str(path), create_if_missing=True, paranoid_checks=True, compression=None).close()
    except plyvel.CorruptionError:
        return False
    return True


def _chunk(items: Iterator[tuple[bytes, bytes]], items_max: int) -> list[tuple[bytes, bytes]]:
    """The next items of an iterator, up to a count and about a size."""
    found: list[tuple[bytes, bytes]] = []
    size_bytes = 0
    for key, value in items:
        found.append((key, value))
        size_bytes += len(key) + len(value)
        if len(found) >= items_max or size_bytes >= _CHUNK_BYTES_MAX:
            break
    return found


def _downwards(cursor: Any, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """The items of [start, stop) from the end, by a raw iterator."""
    if stop is not None:
        cursor.seek(stop)
    if stop is not None and cursor.valid():
        cursor.prev()
    else:
        cursor.seek_to_last()
    while cursor.valid():
        key, value = cursor.item()
        if key < start:
            return
        yield key, value
        cursor.prev()
