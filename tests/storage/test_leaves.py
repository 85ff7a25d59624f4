"""Digests of state buckets on disk: one row a checkpoint, and one of all when the rows are long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.state import changes_of
from ledger.stateproof import bucket_hash
from storage import leaves, schema
from storage.errors import Corruption
from storage.leaves import LeafLog, LeafRow
from storage.memory import MemoryKeyValue
from storage.statetree import StateStore

EMPTY = bucket_hash(b"")
ITEM_SIZE_BYTES = 34


def write(kv: MemoryKeyValue, row: LeafRow) -> None:
    kv.write([(row.key, row.data)], row.replaced)


DIGESTS = st.sampled_from([EMPTY, *(bucket_hash(b"%d" % number) for number in range(3))])
CHANGES = st.lists(st.dictionaries(st.sampled_from([0, 1, 255, 256, 65_535]), DIGESTS, min_size=1), max_size=12)


@given(CHANGES, st.integers(0, 20))
def test_what_is_read_is_what_changed_last_of_each_bucket(changes: list[dict[int, bytes]], items_max: int) -> None:
    kv, log, expected = MemoryKeyValue(), LeafLog(), dict[int, bytes]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaves, "LOG_SIZE_BYTES_MAX", items_max * ITEM_SIZE_BYTES)
        for height, changed in enumerate(changes):
            expected |= changed
            full = [item for item in expected.items() if item[1] != EMPTY]
            row = log.add(height, changed, lambda full=full: full)  # type: ignore[misc]
            write(kv, row)
            log.adopt(row)
            again = LeafLog()
            found = again.read(kv)
            assert {bucket: found.get(bucket, EMPTY) for bucket in expected} == expected
            assert again.next_number == log.next_number == height + 1
            size_bytes = sum(len(data) for _, data in kv.scan_prefix(schema.LEAF))
            assert size_bytes <= max(items_max, 5) * ITEM_SIZE_BYTES


def test_a_row_that_was_never_written_replaces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves memory as it was."""
    monkeypatch.setattr(leaves, "LOG_SIZE_BYTES_MAX", 2 * ITEM_SIZE_BYTES)
    log = LeafLog()
    rows = [log.add(height, {height: EMPTY}, lambda: []) for height in (1, 2, 3)]
    assert all(len(row.data) == ITEM_SIZE_BYTES and not row.replaced for row in rows)
    log.adopt(rows[0])
    log.adopt(rows[1])
    for _ in range(2):
        assert log.add(3, {3: EMPTY}, lambda: []).replaced == (rows[0].key, rows[1].key)


def test_a_state_of_many_checkpoints_has_few_rows_and_opens_with_the_same_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "LOG_SIZE_BYTES_MAX", 40 * ITEM_SIZE_BYTES)
    kv = MemoryKeyValue()
    store = StateStore(kv, 0)
    for height in range(60):
        changes = {b"k%d" % (height % 7): height, b"n%d" % height: None if height % 3 else height}
        store.write(changes_of(changes) | changes_of({b"n%d" % (height - 3): None}), height, seal=True)
        assert StateStore(kv, height).tree.root == store.tree.root
    rows = list(kv.scan_prefix(schema.LEAF))
    assert len(rows) < 40
    assert sum(len(data) for _, data in rows) <= 40 * ITEM_SIZE_BYTES
    store.check_leaves()


def test_rows_of_few_buckets_do_not_become_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a quiet chain would replace a quarter of a million of them at once."""
    monkeypatch.setattr(leaves, "LOG_ROWS_MAX", 5)
    kv = MemoryKeyValue()
    store = StateStore(kv, 0)
    for height in range(1, 30):
        store.write(changes_of({b"k": height, b"other": 1}), height, seal=True)
        assert StateStore(kv, height).tree.root == store.tree.root
        assert len(list(kv.scan_prefix(schema.LEAF))) <= 5


def test_a_checkpoint_that_changed_nothing_has_no_row() -> None:
    kv = MemoryKeyValue()
    StateStore(kv, 0).write({}, 1, seal=True)
    assert not list(kv.scan_prefix(schema.LEAF))


@pytest.mark.parametrize("row", [(b"L\x00\x05", EMPTY), (schema.at_height(schema.LEAF, 5), EMPTY)])
def test_what_is_no_list_of_buckets_is_damage(row: tuple[bytes, bytes]) -> None:
    kv = MemoryKeyValue()
    kv.write([row])
    with pytest.raises(Corruption, match="not a list of buckets"):
        LeafLog().read(kv)
