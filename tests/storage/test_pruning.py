"""What pruning forgets and what it must not; and stores of an earlier format."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.codec import encode
from ledger.crypto import verify
from ledger.execution import BlockResult, Executor, Tip
from ledger.proofcheck import Trusted, check
from ledger.state import Reader
from ledger.stateproof import hash_key
from storage import migrations, schema
from storage.bundles import Bundler
from storage.chain import ChainStore, exceptions_of
from storage.errors import Corruption, VersionMismatch
from storage.kv import KeyValue
from storage.leaves import LeafLog
from storage.memory import MemoryKeyValue
from storage.migrations import upgrade
from storage.pruning import keep_blocks_min, prune
from storage.verification import verify_chain, verify_kept, verify_store
from tests.storage.test_chain import GENESIS, PARAMETERS, Cluster, Node, busy, checkpoint_of, executor

KEEP = keep_blocks_min(PARAMETERS)
HEIGHTS = KEEP + 12
KEPT = (schema.PROPOSAL, schema.HEADER, schema.RESULTS, schema.ROOT, schema.VALIDATORS, schema.CHECKPOINT, schema.STATE)
FORGOTTEN = (schema.EXCEPTIONS, schema.TRANSACTION, schema.INDEX, schema.BATCH, schema.ORDERED)


def grown(kv: KeyValue) -> Node:
    node = Node(kv, Cluster())
    for height in range(1, HEIGHTS + 1):
        if height % 5 == 0:
            node.run()
        else:
            names = [f"n{height % 7}-{index}" for index in range(3)]
            value = 13 if height % 3 == 0 else height  # 13 is refused
            node.run([node.cluster.note(name, value, valid_until=height + 10) for name in names])
    node.store.put_checkpoint(checkpoint_of(node.store, node.store.tip.checkpoint_height))
    return node


@cache
def grown_once() -> MemoryKeyValue:
    """To be copied, never changed."""
    kv = MemoryKeyValue()
    grown(kv)
    return kv


def copy_of(kv: KeyValue) -> MemoryKeyValue:
    made = MemoryKeyValue()
    made.write(list(kv.scan(b"")))
    return made


def rows(kv: KeyValue, prefix: bytes) -> dict[bytes, bytes]:
    return dict(kv.scan_prefix(prefix))


def records(kv: KeyValue) -> tuple[dict[bytes, bytes], dict[int, bytes]]:
    """Everything there is: the rows, but of the digests of buckets what they say together."""
    return {key: data for key, data in kv.scan(b"") if key[:1] != schema.LEAF}, LeafLog().read(kv)


@pytest.fixture
def pruned() -> Node:
    node = grown(MemoryKeyValue())
    assert list(prune(node.kv, node.store, KEEP))[-1] == HEIGHTS - KEEP
    return node


def test_bodies_go_and_headers_certificates_and_state_stay() -> None:
    node = grown(MemoryKeyValue())
    before = {prefix: rows(node.kv, prefix) for prefix in (*KEPT, *FORGOTTEN)}
    whole = [node.store.block(height) for height in range(1, HEIGHTS + 1)]
    last = HEIGHTS - KEEP
    assert list(prune(node.kv, node.store, KEEP))[-1] == last
    for prefix in KEPT:
        assert rows(node.kv, prefix) == before[prefix], prefix
    for prefix in FORGOTTEN:
        assert len(rows(node.kv, prefix)) < len(before[prefix]), prefix
    for store in (node.store, ChainStore(node.kv)):
        assert store.pruned == last
        assert [store.block(height) for height in range(1, HEIGHTS + 1)] == [None] * last + whole[last:]
        assert store.block_wires(last) is None
        assert store.receipts(last) == ()
        assert store.header(last) is not None
        for block in whole[:last]:
            assert block is not None
            for batch in block.batches:
                assert store.batch(batch.digest) is None
                for tx in batch.transactions:
                    assert store.transaction(tx.id) is None
                    assert store.receipt(tx.id) is None
        first_kept = next(store.transactions_since(1))
        assert first_kept[0] == last + 1
        assert min(event.height for event in store.events((0, 0), 1000)) > last
        assert all(height > last for height, _ in store.lookup("note", b"n1-0", limit=100))
        assert store.transaction_at((last, 0)) is None


def test_what_is_left_is_exactly_what_a_store_of_those_blocks_would_hold(pruned: Node) -> None:
    """No index entry, place or batch of a forgotten block stays behind on disk."""
    last = pruned.store.pruned
    assert all(schema.indexed_height(key) > last for key in rows(pruned.kv, schema.INDEX))
    assert all(schema.unpack_place(place)[0] > last for place in rows(pruned.kv, schema.TRANSACTION).values())
    wanted = {digest for height in range(last + 1, HEIGHTS + 1) for digest in batches_of(pruned.store, height)}
    assert {key[1:] for key in rows(pruned.kv, schema.ORDERED)} == wanted
    assert len(rows(pruned.kv, schema.BATCH)) == len(wanted)


def batches_of(store: ChainStore, height: int) -> tuple[bytes, ...]:
    proposed = store.proposed(height)
    assert proposed is not None
    return proposed[0].batches


def test_an_index_is_silent_about_forgotten_blocks_before_it_is_swept() -> None:
    node = grown(MemoryKeyValue())
    slices = prune(node.kv, node.store, KEEP)
    for height in slices:
        assert height == node.store.pruned
        found = [place for name in range(7) for place in node.store.lookup("note", f"n{name}-0".encode(), limit=1000)]
        assert all(place[0] > height for place in found)
        assert node.store.events((0, 0), 1)[0].height > height


def test_the_chain_goes_on_and_prunes_again(pruned: Node) -> None:
    before = pruned.store.pruned
    reference = grown(MemoryKeyValue())
    again = Node(pruned.kv, reference.cluster)
    for _ in range(9):
        height = again.store.tip.height + 1
        block = reference.cluster.block(reference.store, [reference.cluster.note("n", height, valid_until=height + 9)])
        reference.apply(block)
        again.apply(block)
    assert again.store.tip == reference.store.tip
    assert list(prune(pruned.kv, again.store, KEEP))[-1] == before + 9
    assert list(prune(pruned.kv, again.store, 2 * KEEP))[-1:] == [before + 9]


def test_never_fewer_than_the_protocol_needs() -> None:
    node = grown(MemoryKeyValue())
    assert list(prune(node.kv, node.store, 1))[-1] == HEIGHTS - KEEP


@pytest.mark.parametrize("again_at", [HEIGHTS - KEEP - 1, HEIGHTS - KEEP + 4])
def test_a_batch_that_a_later_block_orders_again_lives_as_long_as_that_block(again_at: int) -> None:
    node = Node(MemoryKeyValue(), Cluster())
    batch = [node.cluster.note("first", 1, valid_until=5)]
    for height in range(1, HEIGHTS + 1):
        if height in (2, again_at):
            node.run(batch)
        else:
            node.run([node.cluster.note("n", height, valid_until=height + 9)])
    block = node.cluster.blocks[again_at - 1]
    for _ in prune(node.kv, node.store, KEEP):
        if node.store.pruned < again_at:
            assert node.store.block(again_at) == block
            assert len(node.store.receipts(again_at)) == 1
    (digest,) = batches_of(node.store, 2)
    assert (node.store.batch(digest) is None) == (again_at <= node.store.pruned)
    assert (schema.batch_key(2, 0) in rows(node.kv, schema.BATCH)) == (again_at > node.store.pruned)


@given(cut=st.integers(0, 40))
def test_cut_off_between_two_writes_it_goes_on_where_it_stopped(cut: int) -> None:
    whole, half = (Node(copy_of(grown_once()), Cluster()) for _ in range(2))
    for _ in prune(whole.kv, whole.store, KEEP):
        pass
    for _, _ in zip(range(cut), prune(half.kv, half.store, KEEP), strict=False):
        pass
    store = ChainStore(half.kv)
    for _ in prune(half.kv, store, KEEP):
        pass
    assert list(half.kv.scan(b"")) == list(whole.kv.scan(b""))


def test_only_the_oldest_whole_block_and_never_the_tip(pruned: Node) -> None:
    for height in (0, pruned.store.pruned, pruned.store.pruned + 2, HEIGHTS + 1):
        with pytest.raises(ValueError, match="not the oldest"):
            pruned.store.prune(height)
    node = Node(MemoryKeyValue(), Cluster())
    busy(node, 1)
    with pytest.raises(ValueError, match="not the oldest"):
        node.store.prune(1)


def test_a_pruned_store_still_proves_its_state_from_genesis(pruned: Node) -> None:
    trusted = Trusted(GENESIS.chain_id, 0, GENESIS.validator_set.keys)
    assert check(Bundler(pruned.store).head(), trusted, verify).height == pruned.store.tip.checkpoint_height


# Verification of what is kept


def test_a_sound_pruned_store_verifies(pruned: Node) -> None:
    heard: list[tuple[int, int]] = []
    verify_store(pruned.kv, ChainStore(pruned.kv), executor(), lambda height, tip: heard.append((height, tip)))
    assert heard == [(height, HEIGHTS) for height in range(1, HEIGHTS + 1)]


@pytest.mark.parametrize("height", [1, HEIGHTS - KEEP, HEIGHTS - KEEP + 1, HEIGHTS - 1])
@pytest.mark.parametrize("prefix", [schema.HEADER, schema.PROPOSAL], ids=["header", "proposal"])
def test_a_header_or_certificate_that_is_another_is_found(pruned: Node, prefix: bytes, height: int) -> None:
    key, other = schema.at_height(prefix, height), schema.at_height(prefix, height + 1)
    data = pruned.kv.get(other)
    assert data is not None
    pruned.kv.write([(key, data)])
    with pytest.raises(Corruption, match=f"block {height}"):
        verify_kept(pruned.kv, ChainStore(pruned.kv), executor())


def test_a_certificate_with_a_false_signature_is_found(pruned: Node) -> None:
    proposed = pruned.store.proposed(3)
    assert proposed is not None
    proposal, certificate = proposed
    (first, signature), *others = certificate.signatures
    false = replace(certificate, signatures=((first, signature[:-1] + bytes([signature[-1] ^ 1])), *others))
    pruned.kv.write([(schema.at_height(schema.PROPOSAL, 3), encode((proposal.to_value(), false.to_value())))])
    with pytest.raises(Corruption, match="block 3: certificate's signatures"):
        verify_kept(pruned.kv, pruned.store, executor())


def test_a_receipt_or_a_state_entry_that_is_another_is_found(pruned: Node) -> None:
    kept = [height for height in range(pruned.store.pruned + 1, HEIGHTS) if pruned.store.receipts(height)]
    first = schema.at_height(schema.EXCEPTIONS, kept[0])
    good = pruned.kv.get(first)
    pruned.kv.write([(first, encode(((0, 2405, ()),)))])
    with pytest.raises(Corruption, match=f"block {kept[0]}: results hash"):
        verify_kept(pruned.kv, pruned.store, executor())
    pruned.kv.write([] if good is None else [(first, good)], [] if good else [first])
    key, value = next(iter(rows(pruned.kv, schema.STATE).items()))
    pruned.kv.write([(key, value + b"\0")])
    with pytest.raises(Corruption, match="state bucket"):
        verify_kept(pruned.kv, ChainStore(pruned.kv), executor())


@pytest.mark.parametrize("prefix", [schema.TRANSACTION, schema.INDEX], ids=["place", "index"])
def test_a_place_of_another_transaction_or_an_index_entry_of_none_is_found(pruned: Node, prefix: bytes) -> None:
    def height_of(key: bytes, value: bytes) -> int:
        return schema.unpack_place(value)[0] if prefix == schema.TRANSACTION else schema.indexed_height(key)

    last = pruned.store.tip.height
    of_last = [row for row in rows(pruned.kv, prefix).items() if height_of(*row) > last - KEEP]
    key, value = of_last[0]
    if prefix == schema.TRANSACTION:
        other = next(another for _, another in of_last if another != value)
    else:
        other = schema.pack_positions([len(pruned.store.receipts(schema.indexed_height(key)))])
    pruned.kv.write([(key, other)])
    with pytest.raises(Corruption, match=r"place of transaction|index entry"):
        verify_kept(pruned.kv, ChainStore(pruned.kv), executor())
    pruned.kv.write([(key, value)])
    verify_kept(pruned.kv, ChainStore(pruned.kv), executor())


def test_what_blocks_above_the_last_root_made_is_what_they_make_again(pruned: Node) -> None:
    """It is under no root yet."""
    store = pruned.store
    above = range(store.tip.checkpoint_height + 1, store.tip.height + 1)
    height, receipt = next((at, store.receipts(at)[0]) for at in above if store.receipts(at))
    forged = receipt._replace(code=2405)
    pruned.kv.write(
        [(schema.at_height(schema.EXCEPTIONS, height), encode(exceptions_of((forged, *store.receipts(height)[1:]))))]
    )
    with pytest.raises(Corruption):
        verify_kept(pruned.kv, ChainStore(pruned.kv), executor())


# Formats


def present() -> Node:
    """13 blocks; block 10 orders the batches of block 3 again, and some transactions are refused."""
    node = Node(MemoryKeyValue(), Cluster())
    busy(node, 9)
    third = [batch.transactions for batch in node.cluster.blocks[2].batches]
    node.run(*third)
    busy(node, 3)
    assert batches_of(node.store, 10) == batches_of(node.store, 3)
    assert rows(node.kv, schema.EXCEPTIONS)
    return node


def as_format_5(node: Node) -> MemoryKeyValue:
    """And as that of format 5: a row for each bucket's digest."""
    kv = copy_of(node.kv)
    leaves = LeafLog().read(kv)
    puts = [(schema.LEAF + schema.pack_bucket(bucket), digest) for bucket, digest in leaves.items()]
    kv.write([*puts, (schema.FORMAT_KEY, b"medchain/store/5")], list(rows(kv, schema.LEAF)))
    return kv


def as_format_4(node: Node) -> MemoryKeyValue:
    """The same store as that software wrote it: the state at the tip, and with each block above the last root what the
    keys that it was the first to change since had held there."""
    kv, store, undo = as_format_5(node), ChainStore(node.kv), dict[bytes, bytes | None]()

    class Watched(Executor):
        def execute(self, state: Reader, tip: Tip, *arguments: Any) -> BlockResult:
            result = super().execute(state, tip, *arguments)
            fresh = {key: store.state_bytes_at_root(key) for key in result.changes if key not in undo}
            undo.update(fresh)
            if fresh:
                pairs = tuple(item for pair in fresh.items() for item in pair)
                kv.write([(schema.at_height(b"U", result.tip.height), encode(pairs))])
            return result

    store.resume(Watched(GENESIS, executor().registry))
    assert rows(kv, b"U")
    for key in undo:
        entry, data = schema.state_entry(key, hash_key(key)), store.state_bytes(key)
        kv.write([] if data is None else [(entry, data)], [entry] if data is None else [])
    kv.write([(schema.FORMAT_KEY, b"medchain/store/4")])
    return kv


def as_format_3(node: Node) -> MemoryKeyValue:
    """And as that of format 3: batches under their digests, each receipt's id."""
    kv, store = as_format_4(node), node.store
    puts: dict[bytes, bytes] = {schema.FORMAT_KEY: b"medchain/store/3"}
    deletes = [*rows(kv, schema.BATCH), *rows(kv, schema.ORDERED)]
    for height in range(store.pruned + 1, store.tip.height + 1):
        for digest in batches_of(store, height):
            batch = store.batch(digest)
            assert batch is not None
            if schema.BATCH + digest in puts:
                puts[schema.ORDERED + digest] = schema.pack_height(height)
            puts[schema.BATCH + digest] = batch.wire
        receipts = store.receipts(height)
        if receipts:
            ids = b"".join(receipt.tx_id for receipt in receipts)
            puts[schema.at_height(schema.EXCEPTIONS, height)] = encode((ids, exceptions_of(receipts)))
    kv.write((), deletes)
    kv.write(puts.items())
    return kv


def as_format_1(node: Node) -> MemoryKeyValue:
    """And as that of format 1: a row for each index entry, no record of what was ordered again."""
    kv = as_format_3(node)
    index = rows(kv, schema.INDEX)
    apart = [(entry + data[at : at + 4], b"") for entry, data in index.items() for at in range(0, len(data), 4)]
    again = [row for row in rows(kv, schema.ORDERED).items() if len(row[1]) == 8]
    kv.write([*apart, (schema.FORMAT_KEY, b"medchain/store/1")], [*index, *dict(again)])
    return kv


@pytest.fixture
def former() -> MemoryKeyValue:
    return as_format_1(present())


@pytest.mark.parametrize("of_format", [as_format_1, as_format_3, as_format_4, as_format_5])
def test_a_store_of_a_former_format_is_taken_over_whole(of_format: Callable[[Node], MemoryKeyValue]) -> None:
    node = present()
    former = of_format(node)
    name = former.get(schema.FORMAT_KEY)
    with pytest.raises(VersionMismatch):
        ChainStore(former)
    assert upgrade(former) == name
    assert upgrade(former) is None
    assert records(former) == records(node.kv)
    verify_chain(former, ChainStore(former), executor())


def test_a_pruned_store_of_a_former_format_is_taken_over_whole() -> None:
    """Block 30, which is kept, ordered what block 2, which is gone, ordered as well."""
    node = Node(MemoryKeyValue(), Cluster())
    batch = [node.cluster.note("first", 1, valid_until=5)]
    for height in range(1, HEIGHTS + 1):
        if height in (2, HEIGHTS - 1):
            node.run(batch)
        else:
            node.run([node.cluster.note("n", height, valid_until=height + 9)])
    node.store.put_checkpoint(checkpoint_of(node.store, node.store.tip.checkpoint_height))
    for _ in prune(node.kv, node.store, KEEP):
        pass
    former = as_format_3(node)
    upgrade(former)
    # Which of the blocks that ordered it names its place is the only difference: what is gone says nothing of it.
    verify_kept(former, ChainStore(former), executor())
    assert len(records(former)[0]) == len(records(node.kv)[0])


@pytest.mark.parametrize("row", [(schema.PROPOSAL + b"short", b""), (schema.at_height(schema.PROPOSAL, 3), b"none")])
def test_a_former_store_that_is_damaged_is_refused_not_mended(former: MemoryKeyValue, row: tuple[bytes, bytes]) -> None:
    former.write([row])
    with pytest.raises(Corruption):
        upgrade(former)


@pytest.mark.parametrize("height", [3, 4], ids=["ordered again", "ordered once"])
def test_a_batch_that_a_former_store_lost_is_missed(height: int) -> None:
    node = present()
    former = as_format_3(node)
    (digest, *_) = batches_of(node.store, height)
    former.write((), [schema.BATCH + digest])

    def check() -> None:
        upgrade(former)
        verify_chain(former, ChainStore(former), executor())

    with pytest.raises(Corruption, match="batch"):
        check()


def dying_at(number: int, write: Callable[..., None]) -> Callable[..., None]:
    """A write whose call of that number never comes."""
    writes = itertools.count(1)

    def dying(*arguments: Any, **options: Any) -> None:
        if next(writes) == number:
            raise KeyboardInterrupt
        write(*arguments, **options)

    return dying


def test_a_takeover_that_is_killed_is_done_again(former: MemoryKeyValue, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = copy_of(former)
    upgrade(whole)
    for dies_at in range(1, 30):
        kv = copy_of(former)
        with monkeypatch.context() as patch:
            patch.setattr(kv, "write", dying_at(dies_at, kv.write))
            with pytest.raises(KeyboardInterrupt):
                upgrade(kv)
        with pytest.raises(VersionMismatch):
            ChainStore(kv)
        upgrade(kv)
        assert list(kv.scan(b"")) == list(whole.scan(b""))


def test_a_takeover_of_many_index_rows_that_is_killed_among_them_is_done_again(
    former: MemoryKeyValue, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, kv = copy_of(former), copy_of(former)
    upgrade(whole)
    monkeypatch.setattr(migrations, "ROWS_AT_ONCE", 3)
    with monkeypatch.context() as patch:
        patch.setattr(kv, "write", dying_at(5, kv.write))
        with pytest.raises(KeyboardInterrupt):
            upgrade(kv)
    sizes = {len(key) for key in rows(kv, schema.INDEX)}
    assert sizes == {29, 33}, "it was in the middle"
    upgrade(kv)
    assert list(kv.scan(b"")) == list(whole.scan(b""))


def test_a_store_of_later_software_is_left_alone(former: MemoryKeyValue) -> None:
    former.write([(schema.FORMAT_KEY, b"medchain/store/99")])
    before = list(former.scan(b""))
    assert upgrade(former) is None
    assert list(former.scan(b"")) == before
    with pytest.raises(VersionMismatch, match="99"):
        ChainStore(former)
