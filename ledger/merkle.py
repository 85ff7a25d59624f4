"""Merkle trees over lists of hashes, after RFC 6962 section 2.1: leaves and nodes are hashed with different prefixes,
so that no node can pass for a leaf, and a tree of any size has one root.

Must not know: what the leaves are. Leaves here are already hashes (33 bytes, `ledger.crypto.hash_bytes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from ledger.crypto import ALGORITHM_SHA256, HASH_SIZE_BYTES

PATH_LENGTH_MAX = 32  # trees of four thousand million leaves; bounds a proof before it is walked

EMPTY_ROOT = ALGORITHM_SHA256 + sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf's content: SHA-256 of 0x00 and the data, with the algorithm id in front."""
    return ALGORITHM_SHA256 + sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node over its two children."""
    return ALGORITHM_SHA256 + sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes; EMPTY_ROOT when there are none."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:
        level = _level_up(level)
    return level[0]


def _level_up(level: list[bytes]) -> list[bytes]:
    # Pairing neighbours and carrying an odd one up gives the same tree as RFC 6962's split at a power of two.
    above = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        above.append(level[-1])
    return above


def path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The sibling hashes from leaf `index` up to the root; empty for a single leaf."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    level, siblings = list(leaves), []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            siblings.append(level[sibling])
        level, index = _level_up(level), index // 2
    return tuple(siblings)


def root_from_path(leaf: bytes, index: int, count: int, siblings: Sequence[bytes]) -> bytes | None:
    """The root that `leaf` at `index` of `count` leads to; None when the path has the wrong shape."""
    if not 0 <= index < count or len(siblings) > PATH_LENGTH_MAX:
        return None
    node, used = leaf, 0
    while count > 1:
        sibling = index ^ 1
        if sibling < count:
            if used == len(siblings) or len(siblings[used]) != HASH_SIZE_BYTES:
                return None
            node = node_hash(siblings[used], node) if index % 2 else node_hash(node, siblings[used])
            used += 1
        index, count = index // 2, (count + 1) // 2
    return node if used == len(siblings) else None
