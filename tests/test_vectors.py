"""The published test vectors are what the code makes, and what the code accepts and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from consensus.messages import decode_record, encode_message
from consensus.verify import Verifier
from ledger import merkle
from ledger.block import CertifiedBlock, decode_certified
from ledger.codec import decode, encode
from ledger.crypto import KeyPair, check_public_key, verify, verify_joined
from ledger.errors import CodecError, SignatureRefused
from ledger.genesis import Genesis, Parameters
from ledger.modules.parties import check_possession, join_statement
from ledger.stateproof import ReceiptProof, TransactionProof
from ledger.transaction import Batch, Transaction
from ledger.validators import ValidatorSet
from node.snapshots import Question
from p2p.frames import decode_frames
from storage.assembly import Assembly
from storage.memory import MemoryKeyValue
from tests.storage.test_chain import GENESIS
from tests.vectors.__main__ import HERE, VECTORS, plain, render

FILES = sorted(VECTORS)


def load(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text(encoding="ascii"))


def raw(value: Any) -> Any:
    """The inverse of `plain`."""
    match value:
        case {"hex": text}:
            return bytes.fromhex(text)
        case {"int": text}:
            return int(text)
        case list():
            return tuple(map(raw, value))
        case _:
            return value


@pytest.mark.parametrize("name", FILES)
def test_the_code_makes_the_published_vectors(name: str) -> None:
    """Trap 40. If this fails the wire format has changed: raise a version, then run `make vectors`."""
    assert (HERE / f"{name}.json").read_text(encoding="ascii") == render(name)


def test_no_file_of_vectors_is_left_over() -> None:
    assert sorted(path.stem for path in Path(HERE).glob("*.json")) == FILES


def test_codec_vectors_decode_or_are_refused() -> None:
    """Trap 34, 40."""
    vectors = load("codec")
    for one in vectors["accepted"]:
        data = bytes.fromhex(one["bytes"])
        assert decode(data, size_bytes_max=4096) == raw(one["value"])
        assert encode(raw(one["value"])) == data
    for text in vectors["refused"].values():
        with pytest.raises(CodecError):
            decode(bytes.fromhex(text), size_bytes_max=4096)


def test_signature_vectors_verify_or_are_refused() -> None:
    """Trap 42."""
    vectors = load("signatures")
    for one in vectors["accepted"]:
        key, message, signature = (bytes.fromhex(one[field]) for field in ("public", "message", "signature"))
        assert KeyPair.from_seed(bytes.fromhex(one["seed"])).public == key
        assert verify(key, message, signature)
        assert verify_joined(signature + key + message)
        check_public_key(key)
    for one in vectors["refused"]:
        key, message, signature = (bytes.fromhex(one[field]) for field in ("public", "message", "signature"))
        assert not verify(key, message, signature), one["why"]
        assert not verify_joined(signature + key + message), one["why"]
    for text in vectors["keys_not_to_be_registered"]:
        with pytest.raises(SignatureRefused):
            check_public_key(bytes.fromhex(text))


def test_transaction_vectors_decode_and_their_ids_make_the_batch() -> None:
    vectors = load("transactions")
    decoded = [Transaction.decode(bytes.fromhex(one["wire"])) for one in vectors["transactions"]]
    for tx, one in zip(decoded, vectors["transactions"], strict=True):
        assert verify_joined(tx.wire)
        assert (tx.id.hex(), plain(tx.fields), tx.operation) == (one["id"], one["fields"], one["operation"])
    batch = Batch.decode(bytes.fromhex(vectors["batch"]["wire"]))
    assert batch.transactions == tuple(decoded)
    assert batch.digest.hex() == vectors["batch"]["digest"] == merkle.root([tx.id for tx in decoded]).hex()


def test_block_vectors_are_certified_and_their_proofs_hold() -> None:
    """Trap 43."""
    vectors = load("blocks")
    chain_id = bytes.fromhex(vectors["chain_id"])
    validators = ValidatorSet.from_value(raw(vectors["validators"]["value"]))
    block = decode_certified(bytes.fromhex(vectors["certified_block"]))
    assert isinstance(block, CertifiedBlock)
    assert block.batches_match()
    assert block.certificate.valid(chain_id, validators)
    proof = TransactionProof.from_value(decode(bytes.fromhex(vectors["transaction_proof"]), size_bytes_max=4096))
    assert proof.verify(block.batches[0].tx_ids[2], chain_id, validators)
    receipt = ReceiptProof.from_value(decode(bytes.fromhex(vectors["receipt_proof"]), size_bytes_max=4096))
    assert receipt.verify(chain_id, validators)


def test_message_vectors_decode_and_verify() -> None:
    vectors = load("messages")
    verifier = Verifier(bytes.fromhex(vectors["chain_id"]))
    validators = ValidatorSet.from_value(raw(vectors["validators"]))
    assert {one["kind"] for one in vectors["messages"].values()} == set(range(1, 10))
    for name, one in vectors["messages"].items():
        data = bytes.fromhex(one["bytes"])
        message = decode_record(data)
        assert encode_message(message) == data
        if name not in ("status", "prepared"):
            assert verifier.message(message, validators) is not None  # type: ignore[arg-type]


def test_agreements_to_join_are_valid_for_their_chain_and_name_only() -> None:
    """Trap 41."""
    vectors = load("members")
    chain_id = bytes.fromhex(vectors["chain_id"])
    for one in vectors["joining"]:
        key, proof = bytes.fromhex(one["key"]), bytes.fromhex(one["proof"])
        assert join_statement(chain_id, one["name"]).hex() == one["statement"]
        check_possession(chain_id, one["name"], key, proof)
        for other in (join_statement(chain_id, "other"), join_statement(bytes(33), one["name"])):
            assert not verify(key, other, proof)
    assert Parameters.from_value(raw(vectors["parameters"])).window == 8


def test_genesis_and_frame_vectors_are_read_back() -> None:
    vectors = load("genesis")
    assert Genesis.from_json(json.dumps(vectors["document"])).chain_id.hex() == vectors["chain_id"]
    for one in load("frames").values():
        [(kind, payload)] = decode_frames(bytes.fromhex(one["frame"]))
        assert (int(kind), payload.hex()) == (one["kind"], one["payload"])


def test_snapshot_vectors_put_a_store_together() -> None:
    """From the published bytes alone: what is not in them (leaves, other buckets) is not needed to check these."""
    vectors = load("snapshot")
    offered, buckets, blocks = (
        decode(bytes.fromhex(vectors["answers"][what]), size_bytes_max=1 << 20, items_max=1 << 16)[1]  # type: ignore[index]
        for what in ("offer", "buckets", "blocks")
    )
    assembly = Assembly(MemoryKeyValue(), GENESIS)
    target = assembly.aim(offered)
    assert target is not None
    assert GENESIS.chain_id.hex() == vectors["chain_id"]
    assert assembly.next_block == target.certificate.height
    assert assembly.take_blocks(blocks) == 1
    assert len(buckets) == 1
    for one in vectors["questions"]:
        question = Question.decode(bytes.fromhex(one["payload"]))
        assert (question.what, question.encode().hex()) == (one["what"], one["payload"])
    assert [bytes.fromhex(row["key"])[:1] for row in vectors["rows"]] == sorted(
        {bytes.fromhex(row["key"])[:1] for row in vectors["rows"]}
    )
