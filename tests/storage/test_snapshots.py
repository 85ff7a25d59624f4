"""Snapshots: what is put together from pieces is the store they were cut from, and no piece can be another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import Value, decode, encode
from storage import leaves, schema, snapshots
from storage.assembly import Assembly, BadPiece
from storage.chain import ChainStore
from storage.errors import NotInitialised
from storage.kv import KeyValue
from storage.leaves import LeafLog
from storage.memory import MemoryKeyValue
from storage.snapshots import PARTS, Snapshot, TooLarge, epochs, offer
from storage.verification import verify_kept, verify_store
from tests.storage.test_chain import (
    CHECKPOINT_INTERVAL,
    GENESIS,
    NEW_KEY,
    PARAMETERS,
    Cluster,
    Node,
    change_validators,
    checkpoint_of,
    executor,
    note_key,
)
from tests.storage.test_pruning import dying_at

HEIGHTS = 3 * PARAMETERS.log_window + 4 * CHECKPOINT_INTERVAL


def grow(node: Node, blocks: int) -> None:
    """Blocks with notes, some refused, some empty; each checkpoint certified."""
    for _ in range(blocks):
        height = node.store.tip.height + 1
        batches = []
        if height % 5:
            values = [height, 13 if height % 7 == 0 else height, -1 if height % 11 == 0 else 1]
            notes = [
                node.cluster.note(f"n{height % 13}-{index}", value, valid_until=height + 9)
                for index, value in enumerate(values)
            ]
            batches = [notes[:2], notes[2:]]
        node.run(*batches)
        certify(node)


def certify(node: Node) -> None:
    tip = node.store.tip
    if tip.checkpoint_height == tip.height:
        node.store.put_checkpoint(checkpoint_of(node.store, tip.height))


def to_checkpoint(node: Node) -> None:
    while node.store.tip.height != node.store.tip.checkpoint_height:
        grow(node, 1)


def made() -> Node:
    """A chain of two epochs."""
    node = Node(MemoryKeyValue(), Cluster())
    grow(node, 3)
    change_validators(node)
    certify(node)
    grow(node, HEIGHTS - node.store.tip.height)
    to_checkpoint(node)
    return node


_MADE = made()


@pytest.fixture
def source() -> Node:
    """Its own copy: tests go on with it."""
    kv = MemoryKeyValue()
    kv.write(list(_MADE.kv.scan(b"")))
    cluster = Cluster()
    cluster._nonce = 1_000_000
    return again(kv, cluster)


def again(kv: KeyValue, cluster: Cluster) -> Node:
    node = Node.__new__(Node)
    node.kv, node.cluster, node.executor = kv, cluster, executor()
    node.store = ChainStore(kv)
    node.store.resume(node.executor)
    return node


def snapshot_of(node: Node) -> Snapshot:
    return Snapshot(node.kv.snapshot())


def offered(node: Node, snapshot: Snapshot) -> Value:
    certificate = node.store.checkpoint(snapshot.height)
    assert certificate is not None
    return travelled(offer(snapshot, certificate))


def travelled(piece: Value) -> Value:
    """As it comes out of a frame."""
    return decode(encode(piece), size_bytes_max=1 << 24, items_max=1 << 20)


def fill(assembly: Assembly, node: Node, snapshot: Snapshot) -> int:
    """All pieces that are missing, from an honest peer; how many buckets were fetched."""
    while assembly.take_epochs(assembly.epoch, travelled(epochs(node.store, assembly.epoch))):
        pass
    assert assembly.aim(offered(node, snapshot)) is not None
    for part in assembly.missing_parts():
        assembly.take_leaves(part, snapshot.leaves(part))
    fetched = 0
    while missing := assembly.missing_buckets():
        fetched += assembly.take_buckets(missing[0], travelled(snapshot.buckets(missing[0], missing[0])))
    while assembly.next_block:
        assembly.take_blocks(travelled(snapshot.blocks(assembly.next_block)))
    return fetched


def joined(node: Node) -> Node:
    kv, snapshot = MemoryKeyValue(), snapshot_of(node)
    assembly = Assembly(kv, GENESIS)
    fill(assembly, node, snapshot)
    assembly.finish()
    snapshot.close()
    return again(kv, node.cluster)


def test_the_store_that_comes_of_it_is_at_the_same_tip_with_the_same_state(source: Node) -> None:
    copy = joined(source)
    assert copy.store.tip == source.store.tip
    assert list(copy.store.state_entries()) == list(source.store.state_entries())
    assert copy.store.genesis_json == source.store.genesis_json
    base = source.store.tip.height - PARAMETERS.validity_heights_max
    assert copy.store.pruned == base
    for height in range(base + 1, source.store.tip.height + 1):
        assert copy.store.block(height) == source.store.block(height)
        assert copy.store.header(height) == source.store.header(height)
        assert copy.store.receipts(height) == source.store.receipts(height)
        assert copy.store.results_hash(height) == source.store.results_hash(height)
        for receipt in source.store.receipts(height):
            assert copy.store.place(receipt.tx_id) == source.store.place(receipt.tx_id)
    assert copy.store.header(base) is None
    assert copy.store.prove_state(note_key("n1-0")) == source.store.prove_state(note_key("n1-0"))
    assert copy.store.unclosed_epoch() is None
    verify_store(copy.kv, copy.store, executor())


def test_it_refuses_what_the_others_refuse_and_goes_on_to_the_same_roots(source: Node) -> None:
    copy = joined(source)
    repeated = source.store.block(source.store.tip.height - 1) or source.store.block(source.store.tip.height)
    assert repeated is not None
    for _ in range(2 * CHECKPOINT_INTERVAL + 1):
        height = source.store.tip.height + 1
        notes = [source.cluster.note("later", height, valid_until=height + 5)]
        batches = [list(batch.transactions) for batch in repeated.batches]
        block = source.cluster.block(source.store, *batches, notes)
        first, second = source.apply(block), copy.apply(block)
        assert first.receipts == second.receipts
        assert copy.store.tip == source.store.tip
    certify(source)
    certify(copy)
    verify_kept(copy.kv, ChainStore(copy.kv), executor())


def test_what_it_does_not_know_it_does_not_tell(source: Node) -> None:
    copy = joined(source)
    assert copy.store.known_from == copy.store.tip.height + 1
    assert source.store.lookup("note", b"n1-0", limit=5)
    assert not copy.store.lookup("note", b"n1-0", limit=5)


def test_a_key_of_an_epoch_above_the_target_may_have_signed() -> None:
    """The peers showed that epoch to who joins; the state at the target knows nothing of it."""
    node = Node(MemoryKeyValue(), Cluster())
    grow(node, CHECKPOINT_INTERVAL)
    snapshot, kv = snapshot_of(node), MemoryKeyValue()
    assembly, offer_then = Assembly(kv, GENESIS), offered(node, snapshot)
    change_validators(node)
    node.store.put_checkpoint(checkpoint_of(node.store, node.store.tip.validators.first_height - 1))
    assembly.take_epochs(0, travelled(epochs(node.store, 0)))
    assert assembly.aim(offer_then) is not None
    for part in assembly.missing_parts():
        assembly.take_leaves(part, snapshot.leaves(part))
    while missing := assembly.missing_buckets():
        assembly.take_buckets(missing[0], travelled(snapshot.buckets(missing[0], missing[0])))
    while assembly.next_block:
        assembly.take_blocks(travelled(snapshot.blocks(assembly.next_block)))
    assembly.finish()
    store = ChainStore(kv)
    assert NEW_KEY.public not in store.tip.validators.keys
    assert store.may_have_signed(NEW_KEY.public)
    assert not store.may_have_signed(bytes(33))
    verify_store(kv, store, executor())


def test_before_its_end_it_is_no_store(source: Node) -> None:
    kv, snapshot = MemoryKeyValue(), snapshot_of(source)
    assembly = Assembly(kv, GENESIS)
    fill(assembly, source, snapshot)
    with pytest.raises(NotInitialised):
        ChainStore(kv)
    assembly.finish()
    assert ChainStore(kv).tip == source.store.tip


def test_pieces_are_asked_for_until_all_are_there(source: Node) -> None:
    assembly, snapshot = Assembly(MemoryKeyValue(), GENESIS), snapshot_of(source)
    assert assembly.aim(offered(source, snapshot)) is None, "its validators are not known yet"
    assembly.take_epochs(0, travelled(epochs(source.store, 0)))
    assembly.aim(offered(source, snapshot))
    assert assembly.missing_parts() == list(range(PARTS))
    assert not assembly.is_complete()
    with pytest.raises(ValueError, match="missing"):
        assembly.finish()


# Going on


@pytest.mark.parametrize(("older", "rows_max"), [(False, 4_096), (False, 3), (True, 4_096)])
def test_a_joiner_that_was_cut_off_goes_on_where_it_stopped(
    older: bool, rows_max: int, source: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 32. Also where one row of digests took the place of many; and where software of store format 5 began, which
    had a row for each."""
    monkeypatch.setattr(leaves, "LOG_ROWS_MAX", rows_max)
    kv, snapshot = MemoryKeyValue(), snapshot_of(source)
    assembly = Assembly(kv, GENESIS)
    assembly.take_epochs(0, travelled(epochs(source.store, 0)))
    assembly.aim(offered(source, snapshot))
    for part in range(PARTS):
        assembly.take_leaves(part, snapshot.leaves(part))
    every = assembly.missing_buckets()
    done = every[: len(every) // 2]
    for bucket in done:
        assembly.take_buckets(bucket, travelled(snapshot.buckets(bucket, bucket)))
    if older:
        former = list(kv.scan_prefix(schema.LEAF))
        digests = [(schema.LEAF + schema.pack_bucket(bucket), digest) for bucket, digest in LeafLog().read(kv).items()]
        kv.write(digests, [key for key, _ in former])
    later = Assembly(kv, GENESIS)
    assert later.epoch == 1
    assert fill(later, source, snapshot) == len(every) - len(done)
    assert later.finish() == source.store.tip


def test_a_batch_that_two_blocks_ordered_is_copied_once(source: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a joiner that dies at any write of its last step."""
    node = source.cluster
    twice = [node.note("twice", 1, valid_until=source.store.tip.height + 9)]
    for batches in ([twice], [], [[node.note("n", 2)], twice]):
        source.run(*batches)
        certify(source)
    to_checkpoint(source)
    whole = joined(source)
    verify_store(whole.kv, whole.store, executor())
    assert len(list(whole.kv.scan_prefix(schema.BATCH))) == len(list(whole.kv.scan_prefix(schema.ORDERED)))
    kv, dies_at = MemoryKeyValue(), 1
    assembly = Assembly(kv, GENESIS)
    fill(assembly, source, snapshot_of(source))
    write = kv.write
    while kv.get(schema.FORMAT_KEY) is None:
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(kv, "write", dying_at(dies_at, write))
            assembly.finish()
        dies_at += 1
    assert list(kv.scan(b"")) == list(whole.kv.scan(b""))


def test_when_the_target_moves_on_only_what_differs_is_fetched(source: Node) -> None:
    """Traps 31, 32."""
    kv, former = MemoryKeyValue(), snapshot_of(source)
    assembly = Assembly(kv, GENESIS)
    before = fill(assembly, source, former)
    grow(source, CHECKPOINT_INTERVAL)
    to_checkpoint(source)
    assert former.height < source.store.tip.height
    assert fill(assembly, source, snapshot_of(source)) < before
    assert assembly.finish() == source.store.tip
    copy = again(kv, source.cluster)
    assert list(copy.store.state_entries()) == list(source.store.state_entries())
    verify_kept(copy.kv, copy.store, executor())


def test_a_snapshot_stays_as_it_was_while_blocks_are_committed_and_pruned(source: Node) -> None:
    """Trap 32."""
    snapshot, tip = snapshot_of(source), source.store.tip
    certified = offered(source, snapshot)
    grow(source, 2 * PARAMETERS.validity_heights_max)
    while source.store.pruned < tip.height:
        source.store.prune(source.store.pruned + 1)
    assembly = Assembly(MemoryKeyValue(), GENESIS)
    assembly.take_epochs(0, travelled(epochs(source.store, 0)))
    assembly.aim(certified)
    for part in range(PARTS):
        assembly.take_leaves(part, snapshot.leaves(part))
    while missing := assembly.missing_buckets():
        assembly.take_buckets(missing[0], snapshot.buckets(missing[0], missing[-1]))
    while assembly.next_block:
        assembly.take_blocks(snapshot.blocks(assembly.next_block))
    assert assembly.finish() == tip


def test_only_a_checkpoint_can_be_copied(source: Node) -> None:
    source.run()
    assert source.store.tip.height != source.store.tip.checkpoint_height
    with pytest.raises(ValueError, match="checkpoint"):
        snapshot_of(source)


# Liars


def altered(value: Value) -> Iterator[Value]:
    """The value with one thing in it changed, in every place."""
    match value:
        case tuple():
            for index, item in enumerate(value):
                for other in altered(item):
                    yield (*value[:index], other, *value[index + 1 :])
            if value:
                yield value[:-1]
            yield (*value, b"more")
        case bytes():
            yield value + b"\x00"
            if value:
                yield value[:-1]
                yield bytes([value[0] ^ 1]) + value[1:]
                yield value[:-1] + bytes([value[-1] ^ 1])
        case bool():
            yield not value
        case int():
            yield value + 1
        case str():
            yield value + "x"
        case None:
            yield 0


def barely(value: Value) -> Value:
    """A certificate's value with no more signatures than it needs: any subset that is a quorum is as good."""
    assert isinstance(value, tuple)
    signatures = value[-1]
    assert isinstance(signatures, tuple)
    return (*value[:-1], signatures[: GENESIS.validator_set.quorum])


def refuses(take: Callable[[Value], object], piece: Value) -> int:
    """How many alterations of a piece were tried, each refused."""
    count = 0
    for other in altered(piece):
        with pytest.raises(BadPiece):
            take(other)
        count += 1
    return count


@pytest.fixture
def aimed(source: Node) -> tuple[Assembly, Snapshot]:
    assembly, snapshot = Assembly(MemoryKeyValue(), GENESIS), snapshot_of(source)
    assembly.take_epochs(0, travelled(epochs(source.store, 0)))
    assembly.aim(offered(source, snapshot))
    return assembly, snapshot


def test_no_altered_epoch_is_taken(source: Node) -> None:
    ((certificate, *link),) = epochs(source.store, 0)  # type: ignore[misc]

    def take(value: Value) -> None:
        Assembly(MemoryKeyValue(), GENESIS).take_epochs(0, (value,))

    assert refuses(take, (barely(certificate), *link)) > 30
    take((barely(certificate), *link))


def test_no_altered_offer_is_taken(source: Node, aimed: tuple[Assembly, Snapshot]) -> None:
    assembly, snapshot = aimed
    target = assembly.target

    def take(value: Value) -> None:
        if assembly.aim(value) is None:
            raise BadPiece("of an epoch that is not known")

    certificate, header, top = offered(source, snapshot)  # type: ignore[misc]
    assert refuses(take, (barely(certificate), header, top)) > 30
    assert assembly.target is target


def test_no_altered_leaves_are_taken(aimed: tuple[Assembly, Snapshot]) -> None:
    """Trap 32."""
    assembly, snapshot = aimed
    for part in range(PARTS):
        refuses(lambda value, part=part: assembly.take_leaves(part, value), snapshot.leaves(part))  # type: ignore[misc]
        with pytest.raises(BadPiece):
            assembly.take_leaves((part + 1) % PARTS, snapshot.leaves(part)[:-32] + bytes(32))
    assert assembly.missing_parts() == list(range(PARTS))


def test_no_altered_bucket_is_taken(aimed: tuple[Assembly, Snapshot]) -> None:
    """Trap 32."""
    assembly, snapshot = aimed
    for part in range(PARTS):
        assembly.take_leaves(part, snapshot.leaves(part))
    for bucket in assembly.missing_buckets()[:10]:
        piece = travelled(snapshot.buckets(bucket, bucket))
        assert isinstance(piece, tuple)
        for other in altered(piece[0]):
            with pytest.raises(BadPiece):
                assembly.take_buckets(bucket, (other,))
        assert bucket in assembly.missing_buckets()


def test_no_altered_block_is_taken(aimed: tuple[Assembly, Snapshot]) -> None:
    assembly, snapshot = aimed
    tried = 0
    while assembly.next_block > assembly.blocks_left // 2 + snapshot.height - PARAMETERS.validity_heights_max:
        height = assembly.next_block
        piece = travelled(snapshot.blocks(height))
        assert isinstance(piece, tuple)
        header, wire, receipts, previous = piece[0]  # type: ignore[misc]
        others: list[Value] = [(other, wire, receipts, previous) for other in altered(header)]
        assert isinstance(wire, bytes)
        proposal, certificate, batches = decode(wire, size_bytes_max=1 << 24)  # type: ignore[misc]
        inside = altered((proposal, barely(certificate), batches))
        others += [(header, encode(other), receipts, previous) for other in inside]
        others += [(header, wire, other, previous) for other in altered(receipts)]
        others += [(header, wire, receipts, other) for other in altered(previous)]
        for other in others:
            with pytest.raises(BadPiece):
                assembly.take_blocks((other,))
            tried += 1
        assert assembly.next_block == height
        assembly.take_blocks((piece[0],))
        if tried > 2_000:
            break
    assert tried > 1_000


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_garbage_is_a_bad_piece_and_nothing_else(data: st.DataObject) -> None:
    assembly, snapshot = Assembly(MemoryKeyValue(), GENESIS), snapshot_of(_MADE)
    assembly.take_epochs(0, travelled(epochs(_MADE.store, 0)))
    assembly.aim(offered(_MADE, snapshot))
    scalars = st.none() | st.booleans() | st.integers(0, 2**40) | st.binary(max_size=40) | st.text(max_size=5)
    value: Any = data.draw(st.recursive(scalars, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=12))
    for take in (
        lambda: Assembly(MemoryKeyValue(), GENESIS).take_epochs(0, value),
        lambda: assembly.aim(value),
        lambda: assembly.take_leaves(0, value),
        lambda: assembly.take_buckets(0, value),
        lambda: assembly.take_blocks(value),
    ):
        try:
            taken = take()
        except BadPiece:
            continue
        assert not taken


# Limits


def test_a_piece_ends_with_what_passes_its_target(source: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = snapshot_of(source)
    everything = snapshot.buckets(0, 65_535)
    monkeypatch.setattr(snapshots, "PIECE_SIZE_BYTES_TARGET", 200)
    some = snapshot.buckets(0, 65_535)
    assert 0 < len(some) < len(everything)
    assert some == everything[: len(some)]
    assert len(snapshot.blocks(snapshot.height)) < 3
    monkeypatch.setattr(snapshots, "PIECE_SIZE_BYTES_MAX", 10)
    with pytest.raises(TooLarge):
        snapshot.blocks(snapshot.height - 1)


@pytest.mark.parametrize("arguments", [(-1, 5), (5, 4), (0, 65_536)])
def test_buckets_that_are_not_there(source: Node, arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no such"):
        snapshot_of(source).buckets(*arguments)
