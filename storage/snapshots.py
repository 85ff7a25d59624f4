"""A store as of one checkpoint, cut into pieces that each can be checked alone (docs/state.md, "Snapshots").

    top      the 16 digests under the state root
    leaves   4,096 bucket digests, under one of the 16
    buckets  the entries of some buckets in a row, each under its digest
    blocks   the last blocks, from the checkpoint down: each under the hash and the results of the one above
    epochs   what led from one set of validators to the next: a closing checkpoint's certificate, and the next set under
             its state root

Lives here: cutting, and what a piece looks like. Putting together is storage/assembly.py. Must not know: who asks.
"""

from __future__ import annotations

from typing import Final, cast

from ledger.block import CheckpointCertificate, encode_certified
from ledger.codec import Value
from ledger.stateproof import BUCKETS, FANOUT
from storage import schema
from storage.chain import ChainStore
from storage.kv import KeyValue, Reader

PARTS: Final = FANOUT
PART_BUCKETS: Final = BUCKETS // PARTS
PIECE_SIZE_BYTES_TARGET: Final = 1024 * 1024  # a piece ends with the bucket or block that passes it
PIECE_SIZE_BYTES_MAX: Final = 6 * 1024 * 1024  # of one bucket or block: what is larger cannot be copied like this
EPOCHS_PER_PIECE_MAX: Final = 16
BLOCKS_PER_PIECE_MAX: Final = 64


class TooLarge(Exception):
    """A bucket or a block does not fit into a piece: join from a backup, or by all blocks."""


class Snapshot:
    """The pieces of one checkpoint. `reader` shows a store whose tip is that checkpoint, and is closed with this."""

    def __init__(self, reader: Reader) -> None:
        """ValueError if the state has moved on since the last root. Takes about 50 ms."""
        self._reader = reader
        self._store = ChainStore(cast(KeyValue, reader))
        tip = self._store.tip
        if tip.height != tip.checkpoint_height or not tip.height:
            raise ValueError("only at a checkpoint are state and root of one height")
        self.height = tip.height
        self.header = self._store.header(tip.height)

    def top(self) -> bytes:
        return self._store.tree.top()

    def leaf(self, bucket: int) -> bytes:
        return self._store.tree.leaf(bucket)

    def leaves(self, part: int) -> bytes:
        """ValueError if there is no such part."""
        if not 0 <= part < PARTS:
            raise ValueError("no such part")
        return self._store.tree.leaves(part * PART_BUCKETS, PART_BUCKETS)

    def buckets(self, first: int, last: int) -> tuple[Value, ...]:
        """From `first` on, as far as one piece goes and to `last` at most: for each (key, value, key, value, ...)."""
        if not 0 <= first <= last < BUCKETS:
            raise ValueError("no such buckets")
        found: list[Value] = []
        size_bytes = 0
        prefix_size = len(schema.STATE) + schema.BUCKET_SIZE_BYTES
        for bucket in range(first, last + 1):
            entries: list[Value] = []
            for key, value in self._reader.scan_prefix(schema.bucket_prefix(bucket)):
                entries += (key[prefix_size:], value)
                size_bytes += len(key) + len(value) + 8
            found.append(tuple(entries))
            if size_bytes >= PIECE_SIZE_BYTES_TARGET:
                break
        return self._fitting(found, size_bytes, f"bucket {first}")

    def blocks(self, first: int) -> tuple[Value, ...]:
        """From `first` downwards: (header, block as it travels, receipts, results hash before it), as far as one piece
        goes and as long as blocks are kept."""
        if not 0 < first <= self.height:
            raise ValueError("no such blocks")
        found: list[Value] = []
        size_bytes = 0
        for height in range(first, max(self._store.pruned, first - BLOCKS_PER_PIECE_MAX), -1):
            block, header = self._store.block(height), self._store.header(height)
            previous = self._store.results_hash(height - 1)
            if block is None or header is None or previous is None:
                break
            wire = encode_certified(block)
            receipts = tuple(receipt.to_value() for receipt in self._store.receipts(height))
            found.append((header.to_value(), wire, receipts, previous))
            size_bytes += len(wire) + 64 * len(receipts)
            if size_bytes >= PIECE_SIZE_BYTES_TARGET:
                break
        return self._fitting(found, size_bytes, f"block {first}")

    @staticmethod
    def _fitting(found: list[Value], size_bytes: int, what: str) -> tuple[Value, ...]:
        """All but the last, if that one is what makes it too large."""
        if size_bytes > PIECE_SIZE_BYTES_MAX:
            found = found[:-1]
            if not found:
                raise TooLarge(what)
        return tuple(found)

    def close(self) -> None:
        self._reader.close()


def epochs(store: ChainStore, first: int) -> tuple[Value, ...]:
    """What closed the epoch `first` and those after it, as far as it is here: (certificate, validators, entries,
    siblings) each."""
    found: list[Value] = []
    for epoch in range(first, min(first + EPOCHS_PER_PIECE_MAX, store.tip.validators.epoch)):
        certificate, link = store.closing_checkpoint(epoch), store.link(epoch)
        if certificate is None or link is None:
            break
        found.append((certificate.to_value(), *link))
    return tuple(found)


def offer(snapshot: Snapshot, certificate: CheckpointCertificate) -> tuple[Value, ...]:
    """What a joiner needs to aim at it."""
    assert snapshot.header is not None, "the store checked it"
    return certificate.to_value(), snapshot.header.to_value(), snapshot.top()
