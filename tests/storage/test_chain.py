"""The chain store over both backends: one write a block, what can be read, proved and verified afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.block import (
    Certificate,
    CertifiedBlock,
    CheckpointCertificate,
    Phase,
    Proposal,
    decode_certified,
    encode_certified,
)
from ledger.codec import Value, decode, encode
from ledger.crypto import KeyPair
from ledger.errors import Code, CodecError, Reject
from ledger.execution import BlockResult, Executor
from ledger.fields import Blob, Integer, Operation, Text
from ledger.genesis import Genesis, Parameters
from ledger.modules import members
from ledger.modules.parties import VALIDATORS, join_statement
from ledger.rules import Context, Registry, Rule, RuleModule
from ledger.state import state_key
from ledger.stateproof import STATE_PROOF_SIZE_BYTES_MAX, ReceiptProof, StateProof, TransactionProof, hash_key
from ledger.transaction import Batch, Transaction
from storage import chain, schema
from storage.chain import ChainStore
from storage.errors import AlreadyInitialised, Corruption, NotInitialised, StateDiverged
from storage.kv import KeyValue
from storage.leveldb import LevelDB
from storage.memory import MemoryKeyValue
from storage.verification import verify_chain

KEYS = [KeyPair.from_seed(bytes([number]) * 32) for number in range(1, 5)]
NEW_KEY = KeyPair.from_seed(b"n" * 32)
CHECKPOINT_INTERVAL = 4
PARAMETERS = Parameters(checkpoint_interval=CHECKPOINT_INTERVAL, log_window=21, validity_heights_max=50)


@dataclass(frozen=True, slots=True)
class Put(Operation):
    """Sets a note; -1 deletes it, 13 is refused."""

    NAME = "notes.put"
    name: Annotated[str, Text(32)]
    value: Annotated[int, Integer(-1)]
    filler: Annotated[bytes, Blob(1024)]


def _put(op: Put, ctx: Context) -> None:
    ctx.index("note", op.name)
    if op.value == 13:
        raise RuntimeError("unlucky")
    if op.value == -1:
        ctx.delete("note", op.name)
    else:
        ctx.put("note", op.name, value=(op.value, ctx.sender))


def _refuse(op: Put, ctx: Context) -> None:
    raise Reject(Code.NOT_FOUND)


NOTES = RuleModule("notes", 1, (Rule(Put, _put),))
GENESIS = Genesis(
    "test", 1_000, tuple(key.public for key in KEYS), {"members": {}, "notes": {}}, True, parameters=PARAMETERS
)


def executor() -> Executor:
    return Executor(GENESIS, Registry([members.MODULE, NOTES]))


def note_key(name: str) -> bytes:
    return state_key("notes", "note", name)


class Cluster:
    """Makes transactions and blocks certified by all validators in force, for one store after another."""

    def __init__(self) -> None:
        self._nonce = 0
        self.blocks: list[CertifiedBlock] = []

    def tx(self, operation: str, *fields: object, key: KeyPair = KEYS[0], valid_until: int = 40) -> Transaction:
        self._nonce += 1
        nonce = self._nonce.to_bytes(16, "big")
        chain_id = GENESIS.chain_id
        return Transaction.create(key, chain_id, operation, fields, nonce=nonce, valid_until=valid_until)  # type: ignore[arg-type]

    def note(self, name: str, value: int, **more: int) -> Transaction:
        return self.tx("notes.put", name, value, b"", **more)  # type: ignore[arg-type]

    def block(self, store: ChainStore, *batches: Sequence[Transaction], seal: bool = False) -> CertifiedBlock:
        made = tuple(Batch(tuple(tx.wire for tx in batch)) for batch in batches)
        height = store.tip.height + 1
        proposal = Proposal(height, 1_000 + height, tuple(batch.digest for batch in made), seal)
        validators = store.tip.validators
        blank = Certificate(validators.epoch, 0, height, Phase.COMMIT, proposal.digest, ())
        certificate = replace(blank, signatures=signatures(validators.keys, blank.statement(GENESIS.chain_id)))
        block = CertifiedBlock(proposal, certificate, made)
        self.blocks.append(block)
        return block


def signatures(public_keys: Sequence[bytes], statement: bytes) -> tuple[tuple[int, bytes], ...]:
    pairs = {pair.public: pair for pair in (*KEYS, NEW_KEY)}
    return tuple((index, pairs[key].sign(statement)) for index, key in enumerate(public_keys))


def checkpoint_of(store: ChainStore, height: int) -> CheckpointCertificate:
    header, root, results = store.header(height), store.state_root(height), store.results_hash(height)
    assert header is not None
    assert root is not None
    assert results is not None
    validators = store.validator_set(header.epoch)
    assert validators is not None
    chain_id = GENESIS.chain_id
    blank = CheckpointCertificate(header.epoch, height, header.hash(chain_id), root, results, ())
    return replace(blank, signatures=signatures(validators.keys, blank.statement(chain_id)))


class Node:
    """A store with its executor, as the driver uses them."""

    def __init__(self, kv: KeyValue, cluster: Cluster) -> None:
        self.kv = kv
        self.cluster = cluster
        self.executor = executor()
        if kv.get(schema.FORMAT_KEY) is None:
            self.store = ChainStore.create(kv, GENESIS.to_json(), *self.executor.begin())
        else:
            self.store = ChainStore(kv)
            self.store.resume(self.executor)

    def apply(self, block: CertifiedBlock, *, sync: bool = False) -> BlockResult:
        result = self.executor.execute(self.store, self.store.tip, block.proposal, block.batches)
        self.store.commit(block, result, sync=sync)
        self.executor.accept(result.transactions, block.height)
        return result

    def run(self, *batches: Sequence[Transaction], seal: bool = False) -> BlockResult:
        return self.apply(self.cluster.block(self.store, *batches, seal=seal))


@pytest.fixture(params=["memory", "leveldb"])
def kv(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    opened: KeyValue = MemoryKeyValue() if request.param == "memory" else LevelDB(tmp_path / "chain", create=True)
    yield opened
    opened.close()


@pytest.fixture
def node(kv: KeyValue) -> Node:
    return Node(kv, Cluster())


def busy(node: Node, heights: int) -> None:
    """Blocks of two batches each, the second of one transaction; every fifth empty."""
    for _ in range(heights):
        height = node.store.tip.height + 1
        if height % 5 == 0:
            node.run()
            continue
        first = [node.cluster.note(f"n{height % 7}-{index}", height + index) for index in range(3)]
        node.run(first, [node.cluster.note("shared", height - 1 if height % 3 else -1)])


def test_a_committed_block_is_read_back_whole(node: Node):
    busy(node, 6)
    for height, block in enumerate(node.cluster.blocks, 1):
        stored = node.store.block(height)
        assert stored is not None
        assert stored == block
        assert stored.batches_match()
        wires = node.store.block_wires(height)
        assert wires == encode_certified(block)
        assert decode_certified(wires) == block
    for height in (0, 7):
        assert node.store.block(height) is None
        assert node.store.block_wires(height) is None
        assert node.store.header(height) is None
        assert node.store.receipts(height) == ()


def test_everything_derived_is_found_after_reopening(node: Node):
    busy(node, 9)
    tip, chain_id = node.store.tip, node.store.chain_id
    results = node.store.receipts(9)
    again = ChainStore(node.kv)
    again.resume(executor())
    assert (again.tip, again.chain_id, again.genesis_json) == (tip, chain_id, GENESIS.to_json())
    assert again.receipts(9) == results
    assert [receipt.ok for receipt in results] == [True] * 4
    for position, tx in enumerate(tx for batch in node.cluster.blocks[8].batches for tx in batch.transactions):
        assert again.transaction(tx.id) == (9, position, tx)
        receipt = again.receipt(tx.id)
        assert receipt is not None
        assert receipt.tx_id == tx.id
    assert again.get(note_key("shared")) is None
    assert again.get(note_key("n2-1")) == (10, KEYS[0].public)
    assert again.state_bytes(note_key("n2-1")) == encode((10, KEYS[0].public))
    assert again.transaction(b"\x01" * 33) is None
    assert again.receipt(b"\x01" * 33) is None
    assert again.batch(b"\x01" * 33) is None


def notes(read: Callable[[bytes], Value]) -> dict[bytes, Value]:
    """All that `busy` writes."""
    keys = [note_key("shared"), *(note_key(f"n{group}-{index}") for group in range(7) for index in range(3))]
    return {key: read(key) for key in keys}


def test_what_is_opened_has_the_state_of_the_last_root_until_the_blocks_above_are_executed_again(node: Node):
    busy(node, CHECKPOINT_INTERVAL)
    at_root = notes(node.store.get)
    encoded = {key: None if value is None else encode(value) for key, value in at_root.items()}
    busy(node, CHECKPOINT_INTERVAL - 1)
    now = notes(node.store.get)
    again, fresh = ChainStore(node.kv), executor()
    assert again.tip == node.store.tip
    assert notes(again.get) == at_root != now
    with pytest.raises(ValueError, match="once the state is at the tip"):
        again.may_have_signed(bytes(33))
    block = node.cluster.block(node.store)
    result = node.executor.execute(node.store, node.store.tip, block.proposal, block.batches)
    with pytest.raises(ValueError, match="with the state at 4"):
        again.commit(block, result)
    again.resume(fresh)
    assert notes(again.get) == notes(node.store.get) == now
    assert notes(again.state_bytes_at_root) == notes(node.store.state_bytes_at_root) == encoded
    assert len(fresh.replay) == len(node.executor.replay) > 0
    assert again.commit(block, result) == node.store.commit(block, result)
    assert again.tip.checkpoint_height == 8
    assert notes(again.state_bytes) == notes(again.state_bytes_at_root)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12))
def test_who_is_killed_after_any_blocks_and_resumes_goes_on_as_who_was_not(lives: list[tuple[int, bool]]):
    """The last write of a life may be lost, as a crash of the process leaves any number of whole ones."""
    steady, other = (Node(MemoryKeyValue(), Cluster()) for _ in range(2))
    for blocks, loses in lives:
        busy(steady, blocks)
        for block in steady.cluster.blocks[other.store.tip.height :]:
            last = dict(other.kv.scan(b""))
            other.apply(block)
        if loses and blocks:
            other.kv = MemoryKeyValue()
            other.kv.write(last.items())
        other = Node(other.kv, other.cluster)
        for block in steady.cluster.blocks[other.store.tip.height :]:
            other.apply(block)
        assert other.store.tip == steady.store.tip
        assert notes(other.store.get) == notes(steady.store.get)
        assert dict(other.kv.scan(b"")) == dict(steady.kv.scan(b""))


def swap_proposals(node: Node) -> None:
    keys = [schema.at_height(schema.PROPOSAL, height) for height in (5, 6)]
    first, second = map(node.kv.get, keys)
    assert first
    assert second
    node.kv.write([(keys[0], second), (keys[1], first)])


def lose_validators(node: Node) -> None:
    node.kv.write((), [schema.state_entry(chain.VALIDATORS_KEY, hash_key(chain.VALIDATORS_KEY))])


def spoil_validators(node: Node) -> None:
    node.kv.write([(schema.state_entry(chain.VALIDATORS_KEY, hash_key(chain.VALIDATORS_KEY)), encode(5))])


@pytest.mark.parametrize("damage", [swap_proposals, lose_validators, spoil_validators])
def test_what_cannot_be_executed_again_is_damage(node: Node, damage: Callable[[Node], None]):
    busy(node, 7)
    damage(node)
    with pytest.raises(Corruption):
        ChainStore(node.kv).resume(executor())


@pytest.mark.parametrize("heights", [(-1, -1), (7, -1), (7, 8), (1 << 63, 4)])
def test_a_tip_of_an_impossible_height_is_damage(node: Node, heights: tuple[int, int]):
    busy(node, 7)
    forged = replace(node.store.tip, height=heights[0], checkpoint_height=heights[1])
    node.kv.write([(schema.TIP_KEY, encode(forged.to_value()))])
    with pytest.raises(Corruption):
        ChainStore(node.kv)


@pytest.mark.parametrize("what", ["rule", "header", "results"])
def test_a_block_that_gives_another_result_than_it_did_is_no_chain_to_go_on_with(node: Node, what: str):
    """Software that executes otherwise, or rows that are not the block's."""
    busy(node, 7)
    rule = Rule(Put, _refuse if what == "rule" else _put)
    if what != "rule":
        prefix = schema.HEADER if what == "header" else schema.RESULTS
        before = node.kv.get(schema.at_height(prefix, 5))
        assert before is not None
        node.kv.write([(schema.at_height(prefix, 6), before)])
    with pytest.raises(Corruption, match="block 6: executed again"):
        ChainStore(node.kv).resume(Executor(GENESIS, Registry([members.MODULE, RuleModule("notes", 1, (rule,))])))


def test_a_store_without_a_chain_is_not_opened_and_a_chain_is_not_overwritten(node: Node):
    with pytest.raises(NotInitialised):
        ChainStore(MemoryKeyValue())
    with pytest.raises(AlreadyInitialised):
        ChainStore.create(node.kv, GENESIS.to_json(), *executor().begin())


def test_a_refused_copy_never_hides_the_first_execution(node: Node):
    """Trap 22."""
    tx = node.cluster.note("once", 1, valid_until=3)
    other = node.cluster.note("other", 1)
    node.run([tx])
    assert [r.code for r in node.run([tx, other]).receipts] == [Code.REPLAYED, 0]  # inside the window
    node.run()
    assert node.run([tx, node.cluster.note("x", 1)]).receipts[0].code == Code.EXPIRED  # long after it
    assert node.store.transaction(tx.id) == (1, 0, tx)
    receipt = node.store.receipt(tx.id)
    assert receipt is not None
    assert receipt.ok
    assert node.store.lookup("note", b"once", limit=9) == [(1, 0)]
    assert node.store.transaction_at((1, 0)) == tx


def test_a_refused_transaction_is_found_with_its_reason_and_twice_in_one_block_at_its_first_place(node: Node):
    unlucky = node.cluster.note("bad", 13)
    node.run([unlucky], [node.cluster.note("good", 1), unlucky])
    receipt = node.store.receipt(unlucky.id)
    assert receipt is not None
    assert (receipt.code, receipt.detail) == (Code.RULE_FAILED, ("notes", "RuntimeError"))
    assert node.store.transaction(unlucky.id) == (1, 0, unlucky)
    assert node.store.receipts(1)[2].code == Code.REPLAYED
    assert node.store.lookup("note", b"bad", limit=9) == []


def test_lookup_pages_in_order_and_never_mixes_keys(node: Node):
    places = []
    for height in range(1, 5):
        batch = [node.cluster.note("a", height), node.cluster.note("ab", height), node.cluster.note("a", 7)]
        node.run(batch)
        places += [(height, 0), (height, 2)]
        assert [node.store.transaction_at(place) for place in places[-2:]] == [batch[0], batch[2]]
    assert node.store.lookup("note", b"a", limit=99) == places
    assert node.store.lookup("note", b"a", after=(2, 0), limit=2) == places[3:5]
    assert node.store.lookup("notea", b"", limit=9) == []
    assert [place[1] for place in node.store.lookup("note", b"ab", limit=99)] == [1] * 4


def test_events_resume_after_any_place_and_skip_empty_blocks(node: Node):
    busy(node, 11)
    everything = node.store.events((0, 0), 1_000)
    expected = [
        (height, position, tx)
        for height, block in enumerate(node.cluster.blocks, 1)
        for position, tx in enumerate(tx for batch in block.batches for tx in batch.transactions)
    ]
    assert [(event.height, event.position, event.transaction) for event in everything] == expected
    assert all(event.receipt.tx_id == event.transaction.id for event in everything)
    for size in (1, 3, 4, 7):
        paged, after = [], (0, 0)
        while page := node.store.events(after, size):
            assert len(page) <= size
            paged += page
            after = (page[-1].height, page[-1].position)
        assert paged == everything


def test_the_replay_window_can_be_rebuilt(node: Node):
    busy(node, 7)
    assert [height for height, _ in node.store.transactions_since(5)] == [5, 6, 7]
    assert [height for height, _ in node.store.transactions_since(0)] == [1, 2, 3, 4, 5, 6, 7]
    again = Node(node.kv, node.cluster)
    assert len(again.executor.replay) == len(node.executor.replay) > 0
    old = node.cluster.blocks[0].batches[0].transactions[0]
    assert again.run([old]).receipts[0].code == Code.REPLAYED


def test_state_is_proved_as_of_the_last_checkpoint_while_the_tip_moves_on(node: Node):
    names = [f"n{index}" for index in range(30)]
    node.run([node.cluster.note(name, 1) for name in names], seal=True)
    root = node.store.state_root(1)
    for store in (node.store, None):
        if store is None:
            node.run([node.cluster.note(name, 2) for name in [*names[:20], "new"]])
            node.run([node.cluster.note(name, -1) for name in names[:10]])
        for opened in (node.store, ChainStore(node.kv)):
            for name in (*names, "new", "absent"):
                proven = opened.prove_state(note_key(name))
                assert (proven.height, proven.root) == (1, root)
                assert proven.value_bytes == (encode((1, KEYS[0].public)) if name in names else None)
                proof = StateProof.from_value(
                    decode(encode(proven.proof.to_value()), size_bytes_max=STATE_PROOF_SIZE_BYTES_MAX)
                )
                assert root is not None
                assert proof.verify(root, note_key(name), proven.value_bytes)
                assert not proof.verify(root, note_key(name), encode((2, KEYS[0].public)))


def test_a_transaction_is_proved_by_its_blocks_certificate(node: Node):
    busy(node, 4)
    validators = GENESIS.validator_set
    for event in node.store.events((0, 0), 99):
        tx_id = event.transaction.id
        proof = node.store.prove_transaction(tx_id)
        assert proof is not None
        proof = TransactionProof.from_value(decode(encode(proof.to_value()), size_bytes_max=1 << 16))
        assert proof.proposal.height == event.height
        assert proof.verify(tx_id, GENESIS.chain_id, validators)
        assert not proof.verify(b"\x01" + b"x" * 32, GENESIS.chain_id, validators)
        assert not proof.verify(tx_id, b"\x01" + b"y" * 32, validators)
        too_few = replace(proof.certificate, signatures=proof.certificate.signatures[:2])
        assert not replace(proof, certificate=too_few).verify(tx_id, GENESIS.chain_id, validators)
        prepared = replace(proof.certificate, phase=Phase.PREPARE)
        assert not replace(proof, certificate=prepared).verify(tx_id, GENESIS.chain_id, validators)
    assert node.store.prove_transaction(b"\x01" * 33) is None


def test_a_receipt_is_proved_by_the_next_certified_checkpoint(node: Node):
    busy(node, 3)
    unlucky = node.cluster.note("bad", 13)
    node.run([unlucky, node.cluster.note("good", 1)])
    busy(node, 5)
    first = node.cluster.blocks[0].batches[0].transactions[1]
    assert node.store.prove_receipt(first.id) is None  # nothing is certified yet
    node.store.put_checkpoint(checkpoint_of(node.store, 8))
    for tx, height, code in ((first, 1, 0), (unlucky, 4, int(Code.RULE_FAILED))):
        proof = node.store.prove_receipt(tx.id)
        assert proof is not None
        proof = ReceiptProof.from_value(decode(encode(proof.to_value()), size_bytes_max=1 << 18))
        assert (proof.height, proof.receipt.tx_id, proof.receipt.code) == (height, tx.id, code)
        assert proof.verify(GENESIS.chain_id, GENESIS.validator_set)
        forged = replace(proof, receipt=proof.receipt._replace(code=1 - min(code, 1)))
        assert not forged.verify(GENESIS.chain_id, GENESIS.validator_set)
        moved = replace(proof, previous_results=b"\x01" + b"z" * 32)
        assert not moved.verify(GENESIS.chain_id, GENESIS.validator_set)
        assert not replace(proof, following=proof.following[1:]).verify(GENESIS.chain_id, GENESIS.validator_set)
    beyond = node.cluster.blocks[8].batches[0].transactions[0]
    assert node.store.prove_receipt(beyond.id) is None
    assert node.store.prove_receipt(b"\x01" * 33) is None


def test_checkpoint_certificates_are_kept_and_a_differing_one_is_refused(node: Node):
    """Trap 31."""
    assert node.store.latest_checkpoint() is None
    busy(node, 9)
    certificates = [checkpoint_of(node.store, height) for height in (4, 8)]
    for certificate in certificates:
        node.store.put_checkpoint(certificate)
        assert node.store.checkpoint(certificate.height) == certificate
    assert node.store.latest_checkpoint() == certificates[1]
    assert node.store.checkpoint(5) is None
    for wrong in (replace(certificates[1], state_root=b"\x01" * 33), replace(certificates[1], height=7)):
        with pytest.raises(StateDiverged):
            node.store.put_checkpoint(wrong)


def test_a_certificate_ahead_of_the_tip_is_compared_when_the_tip_gets_there(node: Node):
    """Trap 31."""
    ahead = Node(MemoryKeyValue(), node.cluster)
    busy(ahead, 8)
    certificate = checkpoint_of(ahead.store, 8)
    for block in node.cluster.blocks[:7]:
        node.apply(block)
    node.store.put_checkpoint(replace(certificate, state_root=b"\x01" * 33))
    assert node.store.latest_checkpoint() is None
    assert node.store.diverged is None
    with pytest.raises(StateDiverged):
        node.apply(node.cluster.blocks[7])
    assert node.store.diverged == ChainStore(node.kv).diverged == (8, b"\x01" * 33)


def test_a_certificate_that_agrees_quarantines_nothing(node: Node):
    ahead = Node(MemoryKeyValue(), node.cluster)
    busy(ahead, 8)
    for block in node.cluster.blocks[:7]:
        node.apply(block)
    certificate = checkpoint_of(ahead.store, 8)
    node.store.put_checkpoint(certificate)
    node.apply(node.cluster.blocks[7])
    assert node.store.latest_checkpoint() == certificate
    assert node.store.diverged is None


def test_a_certificate_that_comes_later_quarantines_what_is_another(node: Node):
    busy(node, 8)
    with pytest.raises(StateDiverged):
        node.store.put_checkpoint(replace(checkpoint_of(node.store, 8), state_root=b"\x01" * 33))
    assert ChainStore(node.kv).diverged == (8, b"\x01" * 33)


def change_validators(node: Node) -> None:
    """The first validator leaves, NEW_KEY comes: voted on in two blocks, in force `log_window` heights later."""
    proof = NEW_KEY.sign(join_statement(GENESIS.chain_id, VALIDATORS))
    propose = node.cluster.tx("members.propose_validators", (NEW_KEY.public,), (KEYS[0].public,), (proof,))
    assert node.run([propose]).receipts[0].ok
    votes = [node.cluster.tx("members.vote", propose.id, True, key=key) for key in KEYS[1:3]]
    assert all(receipt.ok for receipt in node.run(votes).receipts)
    while node.store.tip.validators.epoch == 0:
        node.run()


def test_each_epochs_validators_are_kept_and_certify_their_heights(node: Node):
    """Trap 3."""
    change_validators(node)
    end = node.store.tip.height
    busy(node, 5)
    assert node.store.validator_set(0) == GENESIS.validator_set
    second = node.store.validator_set(1)
    assert second == ChainStore(node.kv).tip.validators
    assert second is not None
    assert NEW_KEY.public in second.keys
    assert node.store.validator_set(2) is None
    before, after = node.cluster.blocks[0], node.cluster.blocks[end]
    for block, validators, wrong in ((before, GENESIS.validator_set, second), (after, second, GENESIS.validator_set)):
        tx = block.batches[0].transactions[0]
        proof = node.store.prove_transaction(tx.id)
        assert proof is not None
        assert proof.verify(tx.id, GENESIS.chain_id, validators)
        assert not proof.verify(tx.id, GENESIS.chain_id, wrong)
    node.store.put_checkpoint(checkpoint_of(node.store, end))
    verify_chain(node.kv, node.store, executor())


class FailingWrites:
    """A backend whose writes fail while `failing`."""

    def __init__(self, below: KeyValue) -> None:
        self.failing = False
        self._below = below

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)

    def write(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes] = (), *, sync: bool = False) -> None:
        if self.failing:
            raise OSError("no space left on device")
        self._below.write(puts, deletes, sync=sync)


def test_a_failed_write_moves_nothing_on_and_can_be_repeated(kv: KeyValue):
    """Trap 22."""
    failing = FailingWrites(kv)
    node = Node(failing, Cluster())
    busy(node, 3)
    for _ in range(6):
        block = node.cluster.block(node.store, [node.cluster.note("n1-0", node.store.tip.height)])
        before = (node.store.tip, node.store.get(note_key("n1-0")), node.store.prove_state(note_key("n1-0")))
        failing.failing = True
        with pytest.raises(OSError, match="space"):
            node.apply(block)
        failing.failing = False
        assert before == (
            node.store.tip,
            node.store.get(note_key("n1-0")),
            node.store.prove_state(note_key("n1-0")),
        )
        node.apply(block)
    verify_chain(node.kv, node.store, executor())


def test_a_block_out_of_order_or_of_another_result_is_refused(node: Node):
    block = node.cluster.block(node.store, [node.cluster.note("a", 1)])
    result = node.executor.execute(node.store, node.store.tip, block.proposal, block.batches)
    other = node.cluster.block(node.store, [node.cluster.note("b", 1)])
    with pytest.raises(ValueError, match="not of block"):
        node.store.commit(other, result)
    node.store.commit(block, result)
    with pytest.raises(ValueError, match="cannot follow"):
        node.store.commit(block, result)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_unsynced_blocks_lost_in_a_crash_are_executed_again_to_the_same_root(kept: int):
    """Trap 22. Power is lost after every block in turn; checkpoints were synced, of the others the first survive."""
    reference = Node(MemoryKeyValue(), Cluster())
    busy(reference, 11)
    blocks = reference.cluster.blocks
    for crash_after in range(1, 11):
        kv = MemoryKeyValue()
        node = Node(kv, Cluster())
        for block in blocks[:crash_after]:
            node.apply(block, sync=block.height % CHECKPOINT_INTERVAL == 0)
        unsynced = crash_after % CHECKPOINT_INTERVAL
        kv = kv.crash(min(kept, kv.unsynced_count))
        node = Node(kv, Cluster())
        assert node.store.tip.height == crash_after - unsynced + min(kept, unsynced)
        for block in blocks[node.store.tip.height :]:
            node.apply(block)
        assert node.store.tip == reference.store.tip
        assert node.store.state_root(8) == reference.store.state_root(8)
        assert list(kv.scan(b"")) == list(reference.kv.scan(b""))


def test_a_reopened_store_computes_the_same_next_root(node: Node):
    """Trap 22. Reopened between any two blocks, so also with changes since the last root."""
    reference = Node(MemoryKeyValue(), Cluster())
    busy(reference, 9)
    for block in reference.cluster.blocks:
        node = Node(node.kv, node.cluster)
        node.apply(block)
    assert list(node.kv.scan(b"")) == list(reference.kv.scan(b""))


def test_verification_accepts_a_sound_chain_and_reports_progress(node: Node):
    busy(node, 9)
    node.store.put_checkpoint(checkpoint_of(node.store, 8))
    heights: list[tuple[int, int]] = []
    verify_chain(node.kv, node.store, executor(), lambda height, tip: heights.append((height, tip)))
    assert heights == [(height, 9) for height in range(1, 10)]


Tampering = Callable[[Node], tuple[bytes, bytes | None]]


def _flipped(kv: KeyValue, key: bytes) -> tuple[bytes, bytes]:
    data = kv.get(key)
    assert data is not None
    return key, data[:-1] + bytes([data[-1] ^ 1])


def _place_of(node: Node) -> bytes:
    return schema.TRANSACTION + node.cluster.blocks[5].batches[0].tx_ids[0]


def _certificate_of_another_block(node: Node) -> tuple[bytes, bytes]:
    wrong = (node.cluster.blocks[5].proposal.to_value(), node.cluster.blocks[6].certificate.to_value())
    return schema.at_height(schema.PROPOSAL, 6), encode(wrong)


TAMPERED: dict[str, tuple[Tampering, str]] = {
    "batch": (lambda node: _flipped(node.kv, schema.batch_key(6, 1)), "block 6"),
    "lost batch": (lambda node: (schema.batch_key(6, 1), None), "block 6: batch"),
    "place of a batch": (
        lambda node: (schema.ORDERED + node.cluster.blocks[5].batches[1].digest, None),
        "block 6: batch",
    ),
    "block": (lambda node: (schema.at_height(schema.PROPOSAL, 6), None), "block 6: the block is missing"),
    "certificate": (_certificate_of_another_block, "block 6: certificate"),
    "signature": (lambda node: _flipped(node.kv, schema.at_height(schema.PROPOSAL, 6)), "block 6: certificate's sig"),
    "header": (lambda node: _flipped(node.kv, schema.at_height(schema.HEADER, 6)), "block 6: header"),
    "receipts": (
        lambda node: (schema.at_height(schema.EXCEPTIONS, 6), encode(((0, 2405, ()),))),
        "block 6: receipts",
    ),
    "results": (lambda node: _flipped(node.kv, schema.at_height(schema.RESULTS, 6)), "block 6: results hash"),
    "root": (lambda node: _flipped(node.kv, schema.at_height(schema.ROOT, 4)), "block 4: state root"),
    "place": (lambda node: _flipped(node.kv, _place_of(node)), "block 6: place of transaction"),
    "extra place": (lambda node: (schema.TRANSACTION + b"x" * 33, b"\0" * 12), "number of transaction places"),
    "index": (
        lambda node: (schema.at_height(schema.index_prefix("note", b"n6-0"), 6), None),
        "block 6: index entry",
    ),
    "index of another": (
        lambda node: (schema.at_height(schema.index_prefix("note", b"n6-0"), 6), schema.pack_positions([1])),
        "block 6: index entry",
    ),
    "extra index": (lambda node: (schema.INDEX + b"x" * 28, bytes(4)), "number of index entries"),
    "checkpoint": (lambda node: _flipped(node.kv, schema.at_height(schema.CHECKPOINT, 4)), "block 4: checkpoint"),
    "validators": (
        lambda node: _flipped(node.kv, schema.at_height(schema.VALIDATORS, 0)),
        "genesis: ",
    ),
    "state": (
        lambda node: _flipped(node.kv, next(iter(node.kv.scan_prefix(schema.STATE)))[0]),
        "after block 9: state",
    ),
}


@pytest.mark.parametrize("what", sorted(TAMPERED))
def test_verification_names_what_was_tampered_with(what: str):
    node = Node(MemoryKeyValue(), Cluster())
    busy(node, 9)
    for height in (4, 8):
        node.store.put_checkpoint(checkpoint_of(node.store, height))
    tamper, expected = TAMPERED[what]
    key, data = tamper(node)
    node.kv.write([] if data is None else [(key, data)], [key] if data is None else [])
    with pytest.raises(Corruption, match=expected):
        verify_chain(node.kv, ChainStore(node.kv), executor())


@pytest.mark.parametrize("prefix", [schema.HEADER, schema.LEAF, schema.META])
def test_opening_refuses_a_tip_that_does_not_fit_its_records(prefix: bytes):
    node = Node(MemoryKeyValue(), Cluster())
    busy(node, 8)
    rows = [row for row in node.kv.scan_prefix(prefix) if row[0] != schema.FORMAT_KEY]
    key, data = rows[-1]
    node.kv.write([(key, data[:-1] + bytes([data[-1] ^ 1]))])
    with pytest.raises(Corruption):
        ChainStore(node.kv)


def test_a_certified_block_on_the_wire_is_refused_when_it_is_none(node: Node):
    busy(node, 1)
    wire = encode_certified(node.cluster.blocks[0])
    proposal, certificate, wires = decode(wire, size_bytes_max=1 << 20)  # type: ignore[misc]
    for wrong in ((proposal, certificate), (proposal, certificate, wires[:1]), (proposal, certificate, (b"x", 5)), ()):  # type: ignore[index]
        with pytest.raises(CodecError):
            decode_certified(encode(wrong))
    with pytest.raises(CodecError):
        decode_certified(wire + b"\0")
    with pytest.raises(CodecError) as refused:
        decode_certified(b"\x93" + bytes(8 * 1024 * 1024))
    assert refused.value.code == Code.TOO_LARGE


def test_an_index_entry_of_a_place_beyond_its_block_is_damage(node: Node) -> None:
    node.run([node.cluster.note("a", 1)])
    node.kv.write([(schema.at_height(schema.index_prefix("note", b"a"), 1), schema.pack_positions([99]))])
    (place,) = node.store.lookup("note", b"a", limit=9)
    with pytest.raises(Corruption, match="no transaction 99"):
        node.store.transaction_at(place)
    with pytest.raises(ValueError, match="negative"):
        node.store.lookup("note", b"a", limit=-1)


def test_a_lookup_reads_no_block(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    tx = node.cluster.note("a", 1)
    node.run([*(node.cluster.note("bad", 13) for _ in range(300)), tx])
    monkeypatch.setattr(chain, "decode_record", None)
    assert node.store.lookup("note", b"a", limit=9) == [(1, 300)]
