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

    def keep(self) -> None:
        """The transaction succeeded. TypeError, and nothing kept, if a value could not be stored."""
        if self.pending:
            self.changes.update(changes_of(self.pending))
            self.pending = {}

    def drop(self) -> None:
        """The transaction was refused."""
        if self.pending:
            self.pending = {}
