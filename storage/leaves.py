"""The digests of the state's buckets on disk: one row for each checkpoint, with the buckets that it changed.

A row for each bucket would be as many as the state's own, written again and again at random places. These are read
together, when a store opens, a later one over an earlier one. Once they are longer in all than `LOG_SIZE_BYTES_MAX`,
or too many, one row with all buckets takes their place.

Must not know: the tree above, or what is in a bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

from ledger.stateproof import BUCKETS, DIGEST_SIZE_BYTES, EMPTY_BUCKET
from storage import schema
from storage.errors import Corruption
from storage.kv import KeyValue

LOG_SIZE_BYTES_MAX = 8 * 1024 * 1024  # read in 0.1 s; a row with all buckets has 2.2 MB at most, and is seldom written
LOG_ROWS_MAX = 4_096  # checkpoints of a chain that changes little are many before they are long
_ITEM_SIZE_BYTES: Final = schema.BUCKET_SIZE_BYTES + DIGEST_SIZE_BYTES

Digests: TypeAlias = Iterable[tuple[int, bytes]]  # of buckets, by number


class LeafRow(NamedTuple):
    """A row to be written, and the keys of those that it replaces."""

    key: bytes
    data: bytes
    replaced: tuple[bytes, ...] = ()


class LeafLog:
    """Which rows a store has. What is made here the caller writes, and then has it adopted."""

    def __init__(self) -> None:
        self._sizes_bytes: dict[bytes, int] = {}
        self._size_bytes = 0

    def read(self, kv: KeyValue) -> dict[int, bytes]:
        """The rows of a store: the digest of each bucket that ever had an entry."""
        found: dict[int, bytes] = {}
        for key, data in kv.scan_prefix(schema.LEAF):
            if not schema.is_shaped(key, data) or len(data) % _ITEM_SIZE_BYTES:
                raise Corruption(f"record {key.hex()} is not a list of buckets")
            self._note(key, len(data))
            for at in range(0, len(data), _ITEM_SIZE_BYTES):
                middle = at + schema.BUCKET_SIZE_BYTES
                found[int.from_bytes(data[at:middle], "big")] = data[middle : at + _ITEM_SIZE_BYTES]
        return found

    @property
    def next_number(self) -> int:
        """The first above those of all rows."""
        return schema.height_of(max(self._sizes_bytes)) + 1 if self._sizes_bytes else 0

    def add(self, number: int, changed: Mapping[int, bytes], every: Callable[[], Digests]) -> LeafRow:
        """The row `number`, above all others, with what changed; or, where the log would be too long, with what `every`
        gives: all buckets that are not empty."""
        size_bytes = self._size_bytes + len(changed) * _ITEM_SIZE_BYTES
        if size_bytes > LOG_SIZE_BYTES_MAX or len(self._sizes_bytes) >= LOG_ROWS_MAX:
            return self.whole(number, every())
        return LeafRow(schema.at_height(schema.LEAF, number), pack(changed.items()))

    def whole(self, number: int, digests: Digests) -> LeafRow:
        """A row in the place of all others."""
        key = schema.at_height(schema.LEAF, number)
        return LeafRow(key, pack(digests), tuple(former for former in self._sizes_bytes if former != key))

    def adopt(self, row: LeafRow) -> None:
        """It has been written."""
        for key in row.replaced:
            self._size_bytes -= self._sizes_bytes.pop(key)
        self._note(row.key, len(row.data))

    def _note(self, key: bytes, size_bytes: int) -> None:
        self._size_bytes += size_bytes - self._sizes_bytes.get(key, 0)
        self._sizes_bytes[key] = size_bytes


def present(joined: bytes) -> Digests:
    """Of the digests of all buckets, joined in order, those of buckets that are not empty."""
    digests = (joined[at : at + DIGEST_SIZE_BYTES] for at in range(0, BUCKETS * DIGEST_SIZE_BYTES, DIGEST_SIZE_BYTES))
    return ((bucket, digest) for bucket, digest in enumerate(digests) if digest != EMPTY_BUCKET)


def pack(digests: Digests) -> bytes:
    """The value of a row: bucket(2) digest(32) for each."""
    return b"".join([part for bucket, digest in digests for part in (schema.pack_bucket(bucket), digest)])
