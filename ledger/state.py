"""Views of the state that rules read and write: plain dictionaries over a reader, written out once a block.

A state key is the canonical encoding of `(module, table, *parts)`, so that no two tables can collide. Each value that a
transaction leaves is encoded once, when it succeeds, and goes with its encoding from there to the store.

Must not know: where state is kept (storage/) or what a key means (rules).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from ledger.codec import Value, encode_frozen, encode_trusted

KeyPart: TypeAlias = str | int | bytes
_PART_TYPES = frozenset({str, int, bytes})

Change: TypeAlias = tuple[Value, "bytes | None"]  # value and its encoding; (None, None) deletes
Changes: TypeAlias = dict[bytes, Change]


def state_key(module: str, table: str, *parts: KeyPart) -> bytes:
    """The key of one entry, e.g. `state_key("payments", "balance", "CNY", owner)`; TypeError for other parts."""
    if not _PART_TYPES.issuperset(map(type, parts)):
        raise TypeError("a part of a state key is text, bytes or an integer")
    return encode_trusted((module, table, *parts))


class Reader(Protocol):
    """A consistent view of the state after some block."""

    def get(self, key: bytes, /) -> Value:
        """The decoded value; None when absent."""
        ...


class EmptyState:
    """The state before genesis."""

    def get(self, key: bytes, /) -> Value:
        return None


def changes_of(values: Mapping[bytes, Value]) -> Changes:
    """Each value with its encoding, as it will be read back. TypeError for one that has none."""
    found: Changes = {}
    last: Value = None
    change: Change = (None, None)
    for key, value in values.items():
        if value is not last:  # neighbours are often one value, as that of a thousand packs of a lot
            last, change = value, (None, None) if value is None else encode_frozen(value)
        found[key] = change
    return found


def _size_bytes(changes: Changes) -> int:
    return sum([len(key) + (0 if data is None else len(data)) for key, (_, data) in changes.items()])


class Overlay:
    """A block's changes over a reader and, apart from them until it succeeds, those of the transaction in hand."""

    __slots__ = ("_below", "changes", "pending")

    def __init__(self, below: Reader) -> None:
        self._below = below.get
        self.changes: Changes = {}
        self.pending: dict[bytes, Value] = {}

    def get(self, key: bytes, /) -> Value:
        if key in self.pending:
            return self.pending[key]
        change = self.changes.get(key)
        return self._below(key) if change is None else change[0]

    def put(self, key: bytes, value: Value) -> None:
        self.pending[key] = value

    def keep(self, size_bytes_max: int | None = None) -> bool:
        """The transaction succeeded. False, and nothing kept, if keys and values are larger together; TypeError, the
        same, if a value could not be stored."""
        if self.pending:
            changes = changes_of(self.pending)
            if size_bytes_max is not None and _size_bytes(changes) > size_bytes_max:
                return False
            self.changes.update(changes)
            self.pending = {}
        return True

    def drop(self) -> None:
        """The transaction was refused."""
        if self.pending:
            self.pending = {}
