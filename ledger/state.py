"""Views of the state that rules read and write: plain dictionaries over a reader, written out once a block.

A state key is the canonical encoding of `(module, table, *parts)`, so that no two tables can collide. Values are
canonical values, kept decoded while a block executes.

Must not know: where state is kept (storage/) or what a key means (rules).
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

from ledger.codec import Value, encode_scalars

KeyPart: TypeAlias = str | int | bytes
_PART_TYPES = frozenset({str, int, bytes})

Changes: TypeAlias = dict[bytes, Value]  # None deletes


def state_key(module: str, table: str, *parts: KeyPart) -> bytes:
    """The key of one entry, e.g. `state_key("payments", "balance", "CNY", owner)`; TypeError for other parts."""
    for part in parts:
        if type(part) not in _PART_TYPES:
            raise TypeError(f"{type(part).__name__} cannot be part of a state key")
    return encode_scalars((module, table, *parts))


class Reader(Protocol):
    """A consistent view of the state after some block."""

    def get(self, key: bytes) -> Value:
        """The decoded value; None when absent."""
        ...


class EmptyState:
    """The state before genesis."""

    def get(self, key: bytes) -> Value:
        return None


class Overlay:
    """Changes over a reader. A transaction's overlay lies over its block's, and is merged only if it succeeds."""

    __slots__ = ("_below", "changes")

    def __init__(self, below: Reader) -> None:
        self._below = below
        self.changes: Changes = {}

    def get(self, key: bytes) -> Value:
        if key in self.changes:
            return self.changes[key]
        return self._below.get(key)

    def put(self, key: bytes, value: Value) -> None:
        self.changes[key] = value

    def merge(self, above: Overlay) -> None:
        self.changes.update(above.changes)
