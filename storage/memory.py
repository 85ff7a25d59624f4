"""The in-memory twin of LevelDB, for tests and the simulator: same semantics, and a power cut on demand."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from storage.errors import StorageError
from storage.kv import prefix_end


class MemoryKeyValue:
    """Everything in a dictionary; unsynced writes are remembered so that `crash` can lose them."""

    def __init__(self) -> None:
        self._entries: dict[bytes, bytes] = {}
        self._keys: list[bytes] | None = []
        self._durable: dict[bytes, bytes] = {}
        self._unsynced: list[tuple[dict[bytes, bytes], tuple[bytes, ...]]] = []
        self._open = True

    def get(self, key: bytes) -> bytes | None:
        self._check_open()
        return self._entries.get(key)

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = (), *, sync: bool = False) -> None:
        self._check_open()
        change = (dict(puts), tuple(deletes))
        self._unsynced.append(change)
        _apply(self._entries, change)
        self._keys = None
        if sync:
            for waiting in self._unsynced:
                _apply(self._durable, waiting)
            self._unsynced.clear()

    def scan(
        self, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        if self._keys is None:
            self._keys = sorted(self._entries)
        first = bisect_left(self._keys, start)
        last = len(self._keys) if stop is None else bisect_left(self._keys, stop)
        keys = self._keys[first:last]
        if reverse:
            keys.reverse()
        return iter([(key, self._entries[key]) for key in keys[:limit]])

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return self.scan(prefix, prefix_end(prefix), reverse=reverse, limit=limit)

    def approximate_size_bytes(self) -> int:
        return sum(len(key) + len(value) for key, value in self._entries.items())

    def compact(self) -> None:
        """Nothing to do in memory."""

    def close(self) -> None:
        self._open = False

    def unsynced_writes(self) -> int:
        """How many writes a power cut could lose."""
        return len(self._unsynced)

    def crash(self, keep_unsynced: int = 0) -> MemoryKeyValue:
        """What a power cut leaves: all synced writes and the first `keep_unsynced` of the others."""
        survivor = MemoryKeyValue()
        survivor._durable = dict(self._durable)
        for change in self._unsynced[:keep_unsynced]:
            _apply(survivor._durable, change)
        survivor._entries, survivor._keys = dict(survivor._durable), None
        return survivor

    def _check_open(self) -> None:
        if not self._open:
            raise StorageError("the database is closed")


def _apply(entries: dict[bytes, bytes], change: tuple[dict[bytes, bytes], tuple[bytes, ...]]) -> None:
    puts, deletes = change
    for key in deletes:
        entries.pop(key, None)
    entries.update(puts)
