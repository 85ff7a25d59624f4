"""The protocol every key-value backend obeys, and what both backends share.

Lives here: the contract, and arithmetic on keys. Must not know: LevelDB, files, blocks, what the keys mean.

The contract, kept alike by `storage.leveldb.LevelDB` and `storage.memory.MemoryKeyValue` (one test drives both):

- Keys and values are `bytes`; order is the order of bytes, unsigned.
- `write` is atomic: after a crash all of it is there or nothing. Deletes apply first, then puts in order: a key in
  both is present afterwards, and of two puts of one key the last holds.
- A write with `sync=True` is durable when the call returns, and so are all writes before it. Without it a write
  survives the death of the process and may be lost to a power cut, last writes first.
- A scan sees the database as it was when `scan` was *called*, whatever is written while it runs.
- After `close()`, every operation and every running scan raises `Closed`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Protocol, Self


class Reader(Protocol):
    """A consistent view: later writes do not show. Close it: an open one keeps deleted data on disk."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(
        self, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]: ...

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class KeyValue(Protocol):
    """An ordered map from bytes to bytes with atomic writes. See the module's contract.

    Every method may raise Closed; on disk also Corruption, DiskFull, StorageError.
    """

    def get(self, key: bytes) -> bytes | None:
        """The value at `key`, or None."""
        ...

    def write(
        self, puts: Collection[tuple[bytes, bytes]], deletes: Collection[bytes] = (), *, sync: bool = False
    ) -> None:
        """Deletes, then puts, atomically. Deleting what is not there is no error."""
        ...

    def scan(
        self, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) for start <= key < stop in byte order (`stop` None: to the end), at most `limit`.

        `reverse` gives the same range from its end. ValueError for a negative limit.
        """
        ...

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Like `scan`, over the keys that begin with `prefix`."""
        ...

    def snapshot(self) -> Reader:
        """A consistent read view of now."""
        ...

    def approximate_size_bytes(self) -> int:
        """About how much room it takes: on disk for a backend on disk."""
        ...

    def compact(self) -> None:
        """Give room held by deleted data back. May take minutes; other calls go on meanwhile."""
        ...

    def close(self) -> None:
        """Release everything. A second call does nothing."""
        ...


def prefix_end(prefix: bytes) -> bytes | None:
    """The smallest key above all that begin with `prefix`; None if there is none (empty, or only 0xff)."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


def check_limit(limit: int | None) -> None:
    """ValueError for a negative limit: a slip of the caller that LevelDB and `islice` would each read differently."""
    if limit is not None and limit < 0:
        raise ValueError("limit must not be negative")
