"""Forgetting the bodies of old blocks (docs/storage.md, "Pruning").

Headers, certificates, validator sets and the proofs that link them stay for ever: a pruned node still proves its state
and leads light clients back to genesis. What goes is batches, receipts, transactions' places and index entries.

Everything is done in slices, so that a running node can go on between them; one that is cut off between two slices goes
on where it stopped.

Must not know: when to prune, or how much is worth keeping beyond what the protocol needs.
"""

from __future__ import annotations

from collections.abc import Iterator

from ledger.genesis import Parameters
from storage import schema
from storage.chain import ChainStore
from storage.kv import KeyValue, prefix_end

INDEX_ROWS_AT_ONCE = 2_048


def keep_blocks_min(parameters: Parameters) -> int:
    """The fewest last blocks a node needs whole: where a transaction may be repeated, and the log behind that."""
    return parameters.validity_heights_max + parameters.log_window


def prune(kv: KeyValue, store: ChainStore, keep: int) -> Iterator[int]:
    """Prune all but the last `keep` blocks (more, where the protocol needs them) and then what indexes say of them;
    yields the height pruned up to after each slice. Nothing is read ahead: blocks may be committed in between."""
    last = store.tip.height - max(keep, keep_blocks_min(store.tip.parameters))
    for height in range(store.pruned + 1, last + 1):
        store.prune(height)
        yield height
    for _ in _sweep_index(kv, store.pruned):
        yield store.pruned


def _sweep_index(kv: KeyValue, pruned: int) -> Iterator[None]:
    """Delete the index entries of blocks up to `pruned`, wherever they are."""
    start, stop = schema.INDEX, prefix_end(schema.INDEX)
    while rows := [key for key, _ in kv.scan(start, stop, limit=INDEX_ROWS_AT_ONCE)]:
        old = [key for key in rows if schema.indexed_height(key) <= pruned]
        if old:
            kv.write((), old)
        yield
        start = schema.next_key(rows[-1])
