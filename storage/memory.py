"""A key-value store in memory, the twin of LevelDB for tests and the simulator.

Lives here: the same contract as `storage.kv` states it, and what a power cut would leave. Must not know: files, plyvel.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Self, TypeAlias

from storage.errors import Closed
from storage.kv import check_limit, prefix_end

# Kernels write dirty pages back by themselves within about half a minute: older unsynced writes count as written, which
# also bounds the memory of a store that never syncs.
UNSYNCED_WRITES_MAX = 4_096

# Below this many changed keys, single insertions (a memmove each) beat merging the whole list.
_SINGLE_INSERTIONS_MAX = 32

_Undo: TypeAlias = list[tuple[bytes, bytes | None]]


class _Table:
    """A dict and its keys in order; the order is brought up to date when a scan asks for it."""

    __slots__ = ("_added", "_keys", "_removed", "values")

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self.values = values
        self._keys = sorted(values)
        self._added: set[bytes] = set()
        self._removed: set[bytes] = set()

    def copy(self) -> _Table:
        self.settle()
        twin = _Table.__new__(_Table)
        twin.values = dict(self.values)
        twin._keys = list(self._keys)
        twin._added = set()
        twin._removed = set()
        return twin

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.values:
            if key in self._removed:
                self._removed.discard(key)
            else:
                self._added.add(key)
        self.values[key] = value

    def delete(self, key: bytes) -> None:
        if self.values.pop(key, None) is None:
            return
        if key in self._added:
            self._added.discard(key)
        else:
            self._removed.add(key)

    def settle(self) -> None:
        """Bring the key order up to date. After it, reading changes nothing."""
        added, removed = self._added, self._removed
        if len(added) + len(removed) <= _SINGLE_INSERTIONS_MAX:
            for key in removed:
                del self._keys[bisect_left(self._keys, key)]
            for key in added:
                insort(self._keys, key)
        else:
            self._keys = [key for key in self._keys if key not in removed]
            self._keys.extend(sorted(added))
            self._keys.sort()  # two sorted runs: merged in linear time
        added.clear()
        removed.clear()

    def between(self, start: bytes, stop: bytes | None, reverse: bool, limit: int | None) -> list[tuple[bytes, bytes]]:
        self.settle()
        low = bisect_left(self._keys, start)
        high = len(self._keys) if stop is None else bisect_left(self._keys, stop)
        if limit is not None and limit < high - low:
            low, high = (high - limit, high) if reverse else (low, low + limit)
        keys = self._keys[low:high]
        if reverse:
            keys.reverse()
        return [(key, self.values[key]) for key in keys]


class MemoryKeyValue:
    """`storage.kv.KeyValue` in memory. Safe to use from several threads."""

    def __init__(self) -> None:
        self._table = _Table({})
        self._table_shared = False  # a snapshot reads it: the next write copies first
        self._unsynced: deque[_Undo] = deque(maxlen=UNSYNCED_WRITES_MAX)  # how to undo each, oldest first
        self._lock = threading.Lock()
        self._closed = False

    def get(self, key: bytes) -> bytes | None:
        if self._closed:
            raise Closed("the database")
        return self._table.values.get(key)

    def write(
        self, puts: Collection[tuple[bytes, bytes]], deletes: Collection[bytes] = (), *, sync: bool = False
    ) -> None:
        # LevelDB refuses other types before it changes anything, and a bytearray would change under us.
        for key in deletes:
            _check_bytes(key)
        for key, value in puts:
            _check_bytes(key)
            _check_bytes(value)
        with self._lock:
            if self._closed:
                raise Closed("the database")
            if self._table_shared:
                self._table = self._table.copy()
                self._table_shared = False
            table = self._table
            undo: _Undo = []
            for key in deletes:
                undo.append((key, table.values.get(key)))
                table.delete(key)
            for key, value in puts:
                undo.append((key, table.values.get(key)))
                table.put(key, value)
            if sync:
                self._unsynced.clear()
            else:
                self._unsynced.append(undo)

    def scan(
        self, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        check_limit(limit)
        with self._lock:
            if self._closed:
                raise Closed("the database")
            return self._give(self._table.between(start, stop, reverse, limit))

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return self.scan(prefix, prefix_end(prefix), reverse=reverse, limit=limit)

    def _give(self, found: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for item in found:
            if self._closed:
                raise Closed("the database")
            yield item

    def snapshot(self) -> MemoryReader:
        with self._lock:
            if self._closed:
                raise Closed("the database")
            self._table.settle()
            self._table_shared = True
            return MemoryReader(self, self._table)

    def approximate_size_bytes(self) -> int:
        with self._lock:
            if self._closed:
                raise Closed("the database")
            return sum(len(key) + len(value) for key, value in self._table.values.items())

    def compact(self) -> None:
        """Nothing to give back: memory holds no deleted data."""
        if self._closed:
            raise Closed("the database")

    def close(self) -> None:
        with self._lock:
            self._closed = True

    @property
    def unsynced_count(self) -> int:
        """How many writes a power cut could take away now."""
        return len(self._unsynced)

    def crash(self, keep_unsynced: int) -> MemoryKeyValue:
        """What is found after a power cut: all synced writes and the first `keep_unsynced` of those after them.

        This store is left as it is, so that several outcomes can be tried. ValueError outside 0..unsynced_count.
        """
        with self._lock:
            if not 0 <= keep_unsynced <= len(self._unsynced):
                raise ValueError("keep_unsynced must be between 0 and the number of unsynced writes")
            values = dict(self._table.values)
            for undo in reversed(list(self._unsynced)[keep_unsynced:]):
                for key, before in reversed(undo):
                    if before is None:
                        values.pop(key, None)
                    else:
                        values[key] = before
        survivor = MemoryKeyValue()
        survivor._table = _Table(values)
        return survivor


class MemoryReader:
    """`storage.kv.Reader` over a table that no writer touches any more."""

    def __init__(self, owner: MemoryKeyValue, table: _Table) -> None:
        self._owner = owner
        self._table: _Table | None = table

    def _open_table(self) -> _Table:
        if self._table is None or self._owner._closed:
            raise Closed("the snapshot")
        return self._table

    def get(self, key: bytes) -> bytes | None:
        return self._open_table().values.get(key)

    def scan(
        self, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        check_limit(limit)
        return self._give(self._open_table().between(start, stop, reverse, limit))

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return self.scan(prefix, prefix_end(prefix), reverse=reverse, limit=limit)

    def _give(self, found: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for item in found:
            self._open_table()
            yield item

    def close(self) -> None:
        self._table = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_bytes(value: object) -> None:
    if not isinstance(value, bytes):
        raise TypeError(f"keys and values are bytes, not {type(value).__name__}")
