"""The state tree and its proofs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import Value, decode, encode
from ledger.errors import CodecError
from ledger.state import changes_of, state_key
from ledger.stateproof import (
    BUCKET_ENTRIES_MAX,
    ENTRY_SIZE_BYTES,
    FANOUT,
    STATE_PROOF_SIZE_BYTES_MAX,
    StateProof,
    bucket_hash,
    bucket_of,
    hash_key,
    parent_hash,
    root_hash,
)
from storage import schema
from storage.errors import Corruption
from storage.memory import MemoryKeyValue
from storage.statetree import StateStore, StateTree, ValueCache

EMPTY_TREE = StateTree({}, lambda bucket: b"")


def hashed(entries: Mapping[bytes, bytes | None]) -> list[tuple[bytes, bytes | None]]:
    return [(hash_key(key), None if value is None else sha256(value).digest()) for key, value in entries.items()]


def root_from_scratch(entries: Mapping[bytes, bytes]) -> bytes:
    """The definition of docs/storage.md, without any of the tree's shortcuts."""
    buckets: dict[int, list[bytes]] = {}
    for key, value in entries.items():
        key_hash = hash_key(key)
        buckets.setdefault(bucket_of(key_hash), []).append(key_hash + sha256(value).digest())
    level = [bucket_hash(b"".join(sorted(buckets.get(bucket, [])))) for bucket in range(FANOUT**4)]
    while len(level) > 1:
        level = [parent_hash(b"".join(level[at : at + FANOUT])) for at in range(0, len(level), FANOUT)]
    return root_hash(level[0])


def fresh_tree(updates: Iterable[Mapping[bytes, bytes | None]]) -> StateTree:
    tree = StateTree({}, lambda bucket: b"")
    for update in updates:
        tree.update(hashed(update))
    return tree


# Keys that share bucket 1, so that neighbours inside one are exercised: found by trying. The first is one whose SHA-256
# names bucket 0.
CROWDED = [b"%d" % number for number in (88484, 91415, 96635, 119147, 120321, 196156, 205155)]
KEYS = st.sampled_from([*CROWDED, *(b"key %d" % number for number in range(12))])
UPDATES = st.lists(st.dictionaries(KEYS, st.none() | st.binary(max_size=4), max_size=8), max_size=4)


@settings(max_examples=25, deadline=None)
@given(UPDATES, st.randoms(use_true_random=False))
def test_root_depends_on_the_entries_alone_and_not_on_the_order_of_updates(updates, random):
    final: dict[bytes, bytes] = {}
    for update in updates:
        for key, value in update.items():
            final.pop(key, None)
            if value is not None:
                final[key] = value
    shuffled = list(final.items())
    random.shuffle(shuffled)
    one_by_one = fresh_tree([{key: value} for key, value in shuffled])
    assert fresh_tree(updates).root == one_by_one.root


def test_the_crowded_keys_share_a_bucket():
    assert {bucket_of(hash_key(key)) for key in CROWDED} == {1}


def test_root_is_that_of_the_definition():
    entries = {b"key %d" % number: b"value %d" % number for number in range(300)} | dict.fromkeys(CROWDED, b"x")
    assert fresh_tree([entries]).root == root_from_scratch(entries)
    assert EMPTY_TREE.root == root_from_scratch({})


def bucket_entries(entries: Mapping[bytes, bytes], bucket: int) -> bytes:
    pairs = (hash_key(key) + sha256(value).digest() for key, value in entries.items())
    return b"".join(sorted(pair for pair in pairs if bucket_of(pair) == bucket))


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(KEYS, st.binary(max_size=4), max_size=10), KEYS, st.binary(max_size=4))
def test_each_key_is_proved_present_with_its_value_or_absent_and_nothing_else(entries, key, other):
    tree = fresh_tree([entries])
    bucket = bucket_of(hash_key(key))
    proof = tree.prove(bucket, bucket_entries(entries, bucket))
    value = entries.get(key)
    assert proof.verify(tree.root, key, value)
    assert proof.verify(tree.root, key, other) == (other == value)
    assert proof.verify(tree.root, key, None) == (value is None)
    assert not proof.verify(EMPTY_TREE.root, key, value) or tree.root == EMPTY_TREE.root


def decoded(wire: bytes) -> StateProof:
    return StateProof.from_value(decode(wire, size_bytes_max=STATE_PROOF_SIZE_BYTES_MAX))


def test_every_mutated_byte_of_a_proof_is_refused():
    entries = dict.fromkeys(CROWDED[:3], b"value")
    tree = fresh_tree([entries])
    for key, value in ((CROWDED[0], b"value"), (CROWDED[4], None)):
        wire = encode(tree.prove(1, bucket_entries(entries, 1)).to_value())
        assert decoded(wire).verify(tree.root, key, value)
        for at in range(len(wire)):
            for flip in (0x01, 0x80):
                mutated = wire[:at] + bytes([wire[at] ^ flip]) + wire[at + 1 :]
                try:
                    accepted = decoded(mutated).verify(tree.root, key, value)
                except CodecError:
                    accepted = False
                assert not accepted, f"byte {at}"


def test_a_proof_of_another_bucket_or_of_entries_out_of_order_is_refused():
    entries = {**dict.fromkeys(CROWDED[:3], b"value"), b"elsewhere": b"1"}
    tree = fresh_tree([entries])
    good = tree.prove(1, bucket_entries(entries, 1))
    other = tree.prove(2, b"")
    assert not other.verify(tree.root, CROWDED[0], None)
    halves = [good.entries[at : at + ENTRY_SIZE_BYTES] for at in range(0, len(good.entries), ENTRY_SIZE_BYTES)]
    for entries_bytes in (b"".join(reversed(halves)), halves[0] * 3, good.entries[:-1]):
        forged = StateProof(entries_bytes, good.siblings)
        assert not forged.verify(tree.root, CROWDED[4], None)
        with pytest.raises(CodecError):
            StateProof.from_value(forged.to_value())
    too_many = b"".join(number.to_bytes(32, "big") + b"v" * 32 for number in range(BUCKET_ENTRIES_MAX + 1))
    with pytest.raises(CodecError):
        StateProof.from_value((too_many, good.siblings))


def key_of(number: int) -> bytes:
    return state_key("test", "entry", number)


OPERATIONS = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 9), st.none() | st.integers(0, 3) | st.tuples(st.integers(0, 3)), max_size=5),
        st.booleans(),  # seal
        st.booleans(),  # reopen afterwards
    ),
    max_size=8,
)


@settings(max_examples=12, deadline=None)
@given(OPERATIONS)
def test_a_store_proves_the_last_root_whatever_was_written_since_and_opened_anew_it_is_there(operations):
    kv = MemoryKeyValue()
    store = StateStore(kv, 0)
    store.write({}, 0, seal=True)
    now: dict[int, Value] = {}
    at_root: dict[int, Value] = {}
    for height, (update, seal, reopen) in enumerate(operations, 1):
        changes = changes_of({key_of(number): value for number, value in update.items()})
        root = store.write(changes, height, seal=seal)
        assert (root is not None) == seal
        now = {**now, **update}
        at_root = dict(now) if seal else at_root
        if reopen:
            store, now = StateStore(kv, store.root_height), dict(at_root)
        encoded = {key_of(number): encode(value) for number, value in at_root.items() if value is not None}
        assert not seal or store.tree.root == fresh_tree([encoded]).root
        for number in range(10):
            proven = store.prove(key_of(number))
            assert proven.value_bytes == encoded.get(key_of(number))
            assert proven.proof.verify(store.tree.root, key_of(number), proven.value_bytes)
            assert store.get_bytes_at_root(key_of(number)) == encoded.get(key_of(number))
            assert store.get(key_of(number)) == now.get(number)
    store.check_leaves()


def test_a_list_is_read_back_as_a_tuple_before_and_after_a_restart():
    kv = MemoryKeyValue()
    store = StateStore(kv, 0)
    store.write(changes_of({b"k": (1, [2, 3])}), 1, seal=True)  # type: ignore[dict-item]
    assert store.get(b"k") == (1, (2, 3)) == StateStore(kv, 0).get(b"k")


def test_between_roots_nothing_is_written_and_with_the_next_the_last_value_of_each():
    kv = MemoryKeyValue()
    store = StateStore(kv, 0)
    store.write(changes_of({b"k": 1, b"gone": 1}), 1, seal=True)
    rows = dict(kv.scan(b""))
    for height in range(2, 5):
        store.write(changes_of({b"k": height, b"gone": None, b"new%d" % height: 1}), height, seal=False)
        store.write(changes_of({b"new2": None}), height, seal=False)
        assert dict(kv.scan(b"")) == rows
    staged = store.stage(changes_of({b"k": 9}), 5, seal=True)
    entries = {key[3:]: value for key, value in staged.puts.items() if key.startswith(schema.STATE)}
    assert entries == {b"k": encode(9), b"new3": encode(1), b"new4": encode(1)}
    store.write(changes_of({b"k": 9}), 5, seal=True)
    assert dict(StateStore(kv, 5).entries()) == entries


def test_what_changed_since_the_root_is_not_lost_with_the_cache(monkeypatch):
    monkeypatch.setattr("storage.statetree.VALUE_CACHE_SIZE_BYTES_MAX", 1_000)
    store = StateStore(MemoryKeyValue(), 0)
    store.write(changes_of({key_of(number): 0 for number in range(50)}), 1, seal=True)
    store.write(changes_of({key_of(number): number for number in range(1, 50)}), 2, seal=False)
    for number in (*range(50), *range(50)):
        assert store.get(key_of(number)) == number


def test_of_a_key_that_the_root_has_not_nothing_is_read():
    kv = MemoryKeyValue()
    store = StateStore(kv, 0)
    store.write(changes_of({b"k": 1}), 1, seal=True)
    found = {key: store.get(key) for key in (b"k", b"other", *map(key_of, range(50)))}
    assert {key for key, value in found.items() if value is not None} == {b"k"}
    assert store.tree.lacks(hash_key(b"other"))
    assert not store.tree.lacks(hash_key(b"k"))
    assert not StateStore(kv, 1).tree.lacks(hash_key(b"k")), "its bucket was not read yet"
    assert StateStore(kv, 1).tree.lacks(hash_key(b"other")), "its bucket is empty"


def test_check_leaves_finds_a_changed_value():
    kv = MemoryKeyValue()
    store = StateStore(kv, 0)
    store.write(changes_of({b"k": 1, b"l": 2}), 1, seal=True)
    kv.write([(schema.state_entry(b"k", sha256(b"k").digest()), encode(5))])
    with pytest.raises(Corruption):
        store.check_leaves()


def test_buckets_dropped_from_the_cache_are_read_again(monkeypatch):
    monkeypatch.setattr("storage.statetree.BUCKET_CACHE_SIZE_BYTES_MAX", 3 * ENTRY_SIZE_BYTES)
    kv = MemoryKeyValue()
    store = StateStore(kv, 0)
    expected: dict[bytes, bytes | None] = {}
    for height in range(1, 9):
        changes = {key_of(number): height * number for number in range(height % 3, 20, 3)}
        expected |= {key: encode(value) for key, value in changes.items()}
        store.write(changes_of(changes), height, seal=height % 2 == 0)
    assert store.tree.root == fresh_tree([expected]).root
    used = {bucket_of(hash_key(key)) for key in expected}
    assert len(used) > 15
    assert sum(store.tree.cached_bucket(bucket) is not None for bucket in used) <= 3


def test_the_value_cache_is_bounded_and_keeps_what_is_asked_for(monkeypatch):
    monkeypatch.setattr("storage.statetree.VALUE_CACHE_SIZE_BYTES_MAX", 10_000)
    cache = ValueCache()
    cache.put(b"hot", (1, b"10 bytes .."))
    for number in range(1_000):
        cache.put(b"%d" % number, (number, b"10 bytes .."))
        if b"hot" not in cache.young:
            assert cache.get_old(b"hot") == (1, b"10 bytes ..")
        assert len(cache.young) < 60
    assert cache.get_old(b"0") is None
    for number in range(0, 2_000, 20):
        cache.put_all({b"%d" % each: (each, b"10 bytes ..") for each in range(number, number + 20)})
        assert cache.young[b"%d" % number] == (number, b"10 bytes ..")
        assert len(cache.young) < 60
    assert cache.get_old(b"0") is None
