"""The small protocol that every key-value backend speaks: bytes to bytes, ordered, with atomic writes.

Must not know: what keys mean (storage/schema.py), or which backend is behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol


def prefix_end(prefix: bytes) -> bytes | None:
    """The first key after all keys that begin with `prefix`; None when there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


class KeyValue(Protocol):
    """Keys in byte order. Raises `storage.errors`; values read are what was written, or Corruption."""

    def get(self, key: bytes) -> bytes | None: ...

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = (), *, sync: bool = False) -> None:
        """All or nothing. With `sync`, this and everything written before is on disk when it returns."""
        ...

    def scan(
        self, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Entries with start <= key < stop, as they were when the scan began."""
        ...

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]: ...

    def approximate_size_bytes(self) -> int: ...

    def compact(self) -> None: ...

    def close(self) -> None: ...
