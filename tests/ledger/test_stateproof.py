"""Proofs of transactions, receipts and state entries, as someone without the chain checks them.

The tree behind state proofs is tested with its keeper in tests/storage/test_statetree.py.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from ledger import merkle
from ledger.block import (
    Certificate,
    CheckpointCertificate,
    Phase,
    Proposal,
    Receipt,
    next_results_hash,
    receipts_root,
)
from ledger.codec import decode, encode
from ledger.crypto import KeyPair, hash_bytes
from ledger.errors import CodecError
from ledger.state import state_key
from ledger.stateproof import (
    ENTRY_SIZE_BYTES,
    FANOUT,
    LEVELS,
    RECEIPT_PROOF_HEIGHTS_MAX,
    SIBLINGS_SIZE_BYTES,
    Inclusion,
    ReceiptProof,
    StateProof,
    TransactionProof,
    bucket_hash,
    bucket_of,
    hash_key,
    parent_hash,
    root_hash,
)
from ledger.validators import ValidatorSet

CHAIN = hash_bytes(b"chain")
PAIRS = sorted((KeyPair.from_seed(bytes([number]) * 32) for number in range(1, 5)), key=lambda pair: pair.public)
FOUR = ValidatorSet.create(0, 1, [pair.public for pair in PAIRS])
IDS = [merkle.leaf_hash(b"transaction %d" % number) for number in range(5)]
SIZE_BYTES_MAX = 1 << 20


def signed(plain: Any) -> Any:
    statement = plain.statement(CHAIN)
    return replace(plain, signatures=tuple((member, PAIRS[member].sign(statement)) for member in range(3)))


def transaction_proof(index: int = 3) -> TransactionProof:
    proposal = Proposal(7, 1, (hash_bytes(b"another batch"), merkle.root(IDS)))
    certificate = signed(Certificate(0, 0, 7, Phase.COMMIT, proposal.digest, ()))
    return TransactionProof(Inclusion(index, 5, merkle.path(IDS, index)), proposal, certificate)


@pytest.mark.parametrize("index", range(5))
def test_a_transaction_proof_survives_its_encoding_and_proves_its_transaction(index: int) -> None:
    proof = transaction_proof(index)
    again = TransactionProof.from_value(decode(encode(proof.to_value()), size_bytes_max=SIZE_BYTES_MAX))
    assert again == proof
    for number, tx_id in enumerate(IDS):
        assert again.verify(tx_id, CHAIN, FOUR) == (number == index)


def test_a_transaction_proof_holds_for_its_block_chain_and_set_only() -> None:
    """Trap 3, 41."""
    proof, tx_id = transaction_proof(), IDS[3]
    certificate, proposal = proof.certificate, proof.proposal
    prepare = signed(replace(certificate, phase=Phase.PREPARE))
    other = Proposal(7, 2, proposal.batches)
    higher = signed(replace(certificate, height=8))
    altered = [
        replace(proof, certificate=prepare),
        replace(proof, proposal=other),
        replace(proof, proposal=replace(proposal, height=8), certificate=higher),
        replace(proof, certificate=higher),
        replace(proof, certificate=replace(certificate, signatures=certificate.signatures[:2])),
        replace(proof, inclusion=replace(proof.inclusion, count=2**40)),
        replace(proof, inclusion=replace(proof.inclusion, index=2)),
        replace(proof, inclusion=replace(proof.inclusion, path=())),
    ]
    assert proof.verify(tx_id, CHAIN, FOUR)
    assert not any(one.verify(tx_id, CHAIN, FOUR) for one in altered)
    assert not proof.verify(tx_id, hash_bytes(b"other"), FOUR)
    assert not proof.verify(tx_id, CHAIN, replace(FOUR, epoch=1))
    assert not proof.verify(tx_id, CHAIN, replace(FOUR, first_height=8)), "the set came later"


def receipt_proof(following: int = 2, index: int = 1) -> ReceiptProof:
    """A receipt at height 7, its block's results and those of `following` empty blocks, certified."""
    receipts = [Receipt(tx_id, number) for number, tx_id in enumerate(IDS)]
    previous, empty = hash_bytes(b"results below"), receipts_root([])
    results = next_results_hash(previous, 7, receipts_root(receipts))
    for height in range(8, 8 + following):
        results = next_results_hash(results, height, empty)
    checkpoint = signed(CheckpointCertificate(0, 7 + following, CHAIN, CHAIN, results, ()))
    inclusion = Inclusion(index, 5, merkle.path([receipt.leaf() for receipt in receipts], index))
    return ReceiptProof(receipts[index], inclusion, previous, (empty,) * following, checkpoint)


@pytest.mark.parametrize("following", [0, 1, 9])
def test_a_receipt_proof_survives_its_encoding_and_proves_its_receipt(following: int) -> None:
    proof = receipt_proof(following)
    again = ReceiptProof.from_value(decode(encode(proof.to_value()), size_bytes_max=SIZE_BYTES_MAX))
    assert again == proof
    assert again.height == 7
    assert again.verify(CHAIN, FOUR)


def test_a_receipt_proof_holds_for_what_was_executed_only() -> None:
    """A refusal cannot be shown as a success, nor at another height."""
    proof = receipt_proof()
    altered = [
        replace(proof, receipt=proof.receipt._replace(code=0)),
        replace(proof, receipt=proof.receipt._replace(tx_id=IDS[2])),
        replace(proof, receipt=proof.receipt._replace(detail=("x",))),
        replace(proof, inclusion=replace(proof.inclusion, index=0)),
        replace(proof, inclusion=replace(proof.inclusion, count=0)),
        replace(proof, previous_results=CHAIN),
        replace(proof, following=proof.following[:1]),
        replace(proof, following=(*proof.following, merkle.EMPTY_ROOT)),
        replace(proof, following=(merkle.EMPTY_ROOT,) * (RECEIPT_PROOF_HEIGHTS_MAX + 1)),
        replace(proof, checkpoint=replace(proof.checkpoint, height=10)),
        replace(proof, checkpoint=replace(proof.checkpoint, signatures=())),
    ]
    assert proof.verify(CHAIN, FOUR)
    assert not any(one.verify(CHAIN, FOUR) for one in altered)
    assert not proof.verify(hash_bytes(b"other"), FOUR)
    assert not proof.verify(CHAIN, replace(FOUR, first_height=10))


def test_no_transaction_can_crowd_the_bucket_of_validators_and_parameters() -> None:
    """Keys in it have two parts; every key with a part that somebody chose has more, whatever its hash."""
    alone = [state_key("members", table) for table in ("validators", "parameters", "next_validators", "chain_id")]
    assert {bucket_of(hash_key(key)) for key in alone} == {0}
    assert all(hash_key(key)[2:] == sha256(key).digest()[2:] for key in alone)
    for number in (*range(100), 12_094, 30_280):  # the last two: hashes that begin with 16 zero bits
        key = state_key("drugs", "item", number)
        found, plain = hash_key(key), sha256(key).digest()
        assert found == (plain if any(plain[:2]) else b"\x00\x01" + plain[2:])
        assert bucket_of(found)


def state_proof() -> tuple[StateProof, bytes, bytes]:
    """(proof, key, encoded value) of a state with this one entry, by the definition."""
    key, value = encode(("members", "key", b"k")), encode("clinic")
    entries = hash_key(key) + sha256(value).digest()
    bucket = bucket_of(entries)
    siblings, digest, empty = b"", bucket_hash(entries), bucket_hash(b"")
    for _ in range(LEVELS):
        siblings += empty * (FANOUT - 1)
        split = bucket % FANOUT
        digest = parent_hash(empty * split + digest + empty * (FANOUT - 1 - split))
        empty, bucket = parent_hash(empty * FANOUT), bucket // FANOUT
    proof = StateProof(entries, siblings)
    assert proof.verify(root_hash(digest), key, value)
    return proof, root_hash(digest), key


def test_a_state_proof_tells_presence_from_absence() -> None:
    proof, root, key = state_proof()
    value = encode("clinic")
    assert StateProof.from_value(proof.to_value()) == proof
    assert proof.verify(root, key, value)
    assert not proof.verify(root, key, encode("other"))
    assert not proof.verify(root, key, None)
    assert not proof.verify(hash_bytes(b""), key, value)
    assert not replace(proof, entries=b"").verify(root, key, None), "an entry cannot be left out"
    neighbour = next(k for k in (b"%d" % n for n in range(10**6)) if bucket_of(hash_key(k)) == bucket_of(proof.entries))
    assert proof.verify(root, neighbour, None)
    assert not proof.verify(root, neighbour, value)


@pytest.mark.parametrize("position", [0, 31, 32, 63, 64, 64 + 479, 64 + 480, 64 + SIBLINGS_SIZE_BYTES - 1])
def test_every_part_of_a_state_proof_counts(position: int) -> None:
    proof, root, key = state_proof()
    data = bytearray(proof.entries + proof.siblings)
    data[position] ^= 1
    broken = StateProof(bytes(data[:ENTRY_SIZE_BYTES]), bytes(data[ENTRY_SIZE_BYTES:]))
    assert not broken.verify(root, key, encode("clinic"))


HASH = hash_bytes(b"")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Inclusion, None),
        (Inclusion, (0, 1)),
        (Inclusion, (-1, 1, ())),
        (Inclusion, (True, 1, ())),
        (Inclusion, (0, 2**63, ())),
        (Inclusion, (0, 1, (HASH[:-1],))),
        (Inclusion, (0, 1, (HASH,) * (merkle.PATH_LENGTH_MAX + 1))),
        (StateProof, None),
        (StateProof, (b"", b"")),
        (StateProof, (b"a", bytes(SIBLINGS_SIZE_BYTES))),
        (StateProof, (bytes(128), bytes(SIBLINGS_SIZE_BYTES))),
        (TransactionProof, None),
        (TransactionProof, (1, 2, 3)),
        (ReceiptProof, None),
        (ReceiptProof, (1, 2, HASH, (), 5)),
        (ReceiptProof, (1, 2, HASH[:-1], (), 5)),
    ],
)
def test_what_is_no_proof_is_refused(kind: Any, value: Any) -> None:
    """Trap 34, 35."""
    with pytest.raises(CodecError):
        kind.from_value(value)


def test_a_receipt_proof_cannot_claim_a_height_below_zero() -> None:
    """Trap 11."""
    value = replace(receipt_proof(), following=(HASH,) * 10).to_value()
    with pytest.raises(CodecError):
        ReceiptProof.from_value(value)
