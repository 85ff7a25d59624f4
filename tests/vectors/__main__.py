"""Test vectors of docs/wire-format.md: `python -m tests.vectors` writes them, tests/test_vectors.py compares them.

Bytes are hexadecimal. A change in one of these files is a change of the wire format.
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from consensus.messages import Kind, Status, encode_message
from ledger import merkle
from ledger.block import (
    Certificate,
    CertifiedBlock,
    CheckpointCertificate,
    Header,
    Phase,
    Proposal,
    Receipt,
    checkpoint_statement,
    encode_certified,
    next_results_hash,
    receipts_root,
    vote_statement,
)
from ledger.codec import Value, encode
from ledger.crypto import KeyPair, hash_bytes
from ledger.genesis import Genesis, Parameters, development_key
from ledger.modules.parties import VALIDATORS, join_statement
from ledger.state import state_key
from ledger.stateproof import (
    Inclusion,
    ReceiptProof,
    TransactionProof,
    bucket_hash,
    bucket_of,
    hash_key,
    parent_hash,
    root_hash,
)
from ledger.transaction import Batch, Transaction
from ledger.validators import ValidatorSet
from node.snapshots import Question
from p2p.frames import Kind as FrameKind
from p2p.frames import encode_frame
from storage.memory import MemoryKeyValue
from storage.snapshots import Snapshot, offer
from tests.consensus.samples import CHAIN as MESSAGES_CHAIN
from tests.consensus.samples import FOUR as MESSAGES_SET
from tests.consensus.samples import every_message
from tests.ledger import ed25519
from tests.storage import test_chain as chain

HERE = Path(__file__).parent
SEEDS = [bytes([number]) * 32 for number in range(1, 5)]
PAIRS = sorted(map(KeyPair.from_seed, SEEDS), key=lambda pair: pair.public)
CHAIN = hash_bytes(b"test chain")
PARAMETERS = Parameters(8, 10, 64, 2_000, 30_000, 15, 2_000, 500, 10_000, 1_000)  # all stated: defaults may be tuned


def plain(value: Value) -> Any:
    """A canonical value as JSON: bytes as {"hex": ...}, integers beyond 2^53 as {"int": ...}."""
    match value:
        case bytes():
            return {"hex": value.hex()}
        case tuple():
            return [plain(item) for item in value]
        case int() if not isinstance(value, bool) and abs(value) >= 2**53:
            return {"int": str(value)}
        case _:
            return value


def codec() -> Any:
    edges = [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1]
    edges += [-1, -32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1, -(2**63)]
    values: list[Value] = [
        None,
        False,
        True,
        *edges,
        "",
        "a",
        "é",
        "病",
        "\x00",
        "a" * 31,
        "a" * 32,
        b"",
        b"\x00",
        b"\xff" * 255,
    ]
    values += [b"\x01" * 256, (), (None,), (1, (2, (3, ()))), ("a", b"a", 97), (0,) * 15, (0,) * 16]
    refused = {
        "nothing": "",
        "trailing byte": "0101",
        "truncated array": "9201",
        "truncated text": "a261",
        "5 in two bytes": "cc05",
        "5 as signed": "d005",
        "-1 in two bytes": "d0ff",
        "5 in nine bytes": "cf0000000000000005",
        "text with a long header": "d90161",
        "bytes with a long header": "c5000161",
        "array with a long header": "dc0001c0",
        "map": "8101c0",
        "empty map": "80",
        "64-bit float": "cb3ff0000000000000",
        "extension": "d40500",
        "empty extension": "c70001",
        "timestamp": "d6ff00000000",
        "never used": "c1",
        "not UTF-8": "a1ff",
        "overlong UTF-8": "a2c080",
        "surrogate": "a3eda080",
        "nine arrays deep": "91" * 9 + "c0",
        "array of 4294967295": "ddffffffff",
    }
    return {"accepted": [{"value": plain(v), "bytes": encode(v).hex()} for v in values], "refused": refused}


def signatures() -> Any:
    pair, message = PAIRS[0], b"message"
    seed = pair.seed
    signature = pair.sign(message)
    s = int.from_bytes(signature[33:], "little")
    malleable = signature[:33] + (s + ed25519.L).to_bytes(32, "little")
    small = ed25519.small_order_encodings()
    forged = ed25519.encode_point(ed25519.multiply(8, ed25519.BASE)) + (8).to_bytes(32, "little")
    mixed = ed25519.encode_point(
        ed25519.add(ed25519.multiply(ed25519.expand(seed)[0], ed25519.BASE), ed25519.order_eight())
    )
    refused = [
        ("S + L", pair.public, message, malleable),
        ("another message", pair.public, b"massage", signature),
        ("another key", PAIRS[1].public, message, signature),
        ("key not in what is signed", pair.public, message, b"\x01" + ed25519.sign(seed, message)),
        ("R of mixed order", pair.public, message, b"\x01" + ed25519.sign_with_mixed_r(seed, pair.public + message)),
        ("another algorithm", pair.public, message, b"\x02" + signature[1:]),
        *(
            ("R of small order", pair.public, message, b"\x01" + ed25519.sign_with_r(seed, pair.public + message, r))
            for r in small
        ),
        *(("key of small order", b"\x01" + key, message, b"\x01" + forged) for key in small),
    ]
    return {
        "accepted": [
            {
                "seed": one.seed.hex(),
                "public": one.public.hex(),
                "message": text.hex(),
                "signature": one.sign(text).hex(),
            }
            for one in PAIRS
            for text in (b"", message)
        ],
        "refused": [
            {"why": why, "public": key.hex(), "message": text.hex(), "signature": bad.hex()}
            for why, key, text, bad in refused
        ],
        "keys_not_to_be_registered": [(b"\x01" + key).hex() for key in (*small, mixed, (2).to_bytes(32, "little"))],
    }


def transactions() -> list[Transaction]:
    fields: list[tuple[Value, ...]] = [("payer", "payee", 250), (), (("a", 1, b"\x02", None, True),)]
    return [
        Transaction.create(
            PAIRS[index],
            CHAIN,
            "example.operation",
            one,
            nonce=bytes([index]) * 16,
            valid_until=100 + index,
            version=index + 1,
        )
        for index, one in enumerate(fields)
    ]


def transaction_vectors() -> Any:
    known = transactions()
    batch = Batch(tuple(tx.wire for tx in known))
    return {
        "chain_id": CHAIN.hex(),
        "transactions": [
            {
                "seed": PAIRS[index].seed.hex(),
                "operation": tx.operation,
                "version": tx.version,
                "fields": plain(tx.fields),
                "nonce": tx.nonce.hex(),
                "valid_until": tx.valid_until,
                "body": tx.wire[98:].hex(),
                "wire": tx.wire.hex(),
                "id": tx.id.hex(),
            }
            for index, tx in enumerate(known)
        ],
        "batch": {"wire": batch.wire.hex(), "digest": batch.digest.hex()},
    }


def certified(certificate: Any) -> Any:
    statement = certificate.statement(CHAIN)
    return replace(certificate, signatures=tuple((member, PAIRS[member].sign(statement)) for member in (0, 1, 3)))


def blocks() -> Any:
    batch = Batch(tuple(tx.wire for tx in transactions()))
    validators = ValidatorSet.create(1, 5, [pair.public for pair in PAIRS])
    proposal = Proposal(7, 1_700_000_000_000, (batch.digest, hash_bytes(b"another batch")), seal=True)
    header = Header(7, 1, hash_bytes(b"parent"), proposal.digest, proposal.time_ms, 3)
    results_of = [(0, ()), (2_303, ("payer", 5)), (1_012, (b"k",))]
    receipts = [Receipt(tx.id, *result) for tx, result in zip(transactions(), results_of, strict=True)]
    root = receipts_root(receipts)
    results = next_results_hash(merkle.EMPTY_ROOT, 7, root)
    commit: Certificate = certified(Certificate(1, 2, 7, Phase.COMMIT, proposal.digest, ()))
    checkpoint: CheckpointCertificate = certified(CheckpointCertificate(1, 7, header.hash(CHAIN), CHAIN, results, ()))
    alone = Proposal(7, 1, (batch.digest,))
    block = CertifiedBlock(alone, certified(replace(commit, digest=alone.digest, signatures=())), (batch,))
    leaves = [receipt.leaf() for receipt in receipts]
    receipt_proof = ReceiptProof(
        receipts[1], Inclusion(1, 3, merkle.path(leaves, 1)), merkle.EMPTY_ROOT, (), checkpoint
    )
    tx_proof = TransactionProof(Inclusion(2, 3, merkle.path(batch.tx_ids, 2)), proposal, commit)
    assert commit.valid(CHAIN, validators)
    assert checkpoint.valid(CHAIN, validators)
    assert tx_proof.verify(transactions()[2].id, CHAIN, validators)
    assert receipt_proof.verify(CHAIN, validators)
    return {
        "chain_id": CHAIN.hex(),
        "validators": {
            "value": plain(validators.to_value()),
            "hash": validators.hash.hex(),
            "quorum": validators.quorum,
        },
        "proposal": {"bytes": proposal.wire.hex(), "digest": proposal.digest.hex()},
        "null_proposal": {"bytes": Proposal.null(7).wire.hex(), "digest": Proposal.null(7).digest.hex()},
        "prepare_statement": vote_statement(CHAIN, 1, 2, 7, Phase.PREPARE, proposal.digest).hex(),
        "commit_statement": commit.statement(CHAIN).hex(),
        "commit_certificate": encode(commit.to_value()).hex(),
        "header": {"bytes": encode(header.to_value()).hex(), "hash": header.hash(CHAIN).hex()},
        "receipts": [encode(receipt.to_value()).hex() for receipt in receipts],
        "receipts_root": root.hex(),
        "results_hash": results.hex(),
        "checkpoint_statement": checkpoint_statement(CHAIN, 1, 7, header.hash(CHAIN), CHAIN, results).hex(),
        "checkpoint_certificate": encode(checkpoint.to_value()).hex(),
        "certified_block": encode_certified(block).hex(),
        "transaction_proof": encode(tx_proof.to_value()).hex(),
        "receipt_proof": encode(receipt_proof.to_value()).hex(),
    }


def merkle_trees() -> Any:
    trees = []
    for size in (0, 1, 2, 3, 4, 5, 7, 8, 11):
        leaves = [merkle.leaf_hash(b"leaf %d" % number) for number in range(size)]
        paths = [[one.hex() for one in merkle.path(leaves, index)] for index in range(size)]
        trees.append({"leaves": size, "root": merkle.root(leaves).hex(), "paths": paths})
    return {"leaf": "`leaf N` in ASCII, N from 0", "trees": trees}


def genesis() -> Any:
    known = Genesis(
        name="vectors",
        time_ms=1_700_000_000_000,
        validators=tuple(pair.public for pair in PAIRS),
        modules={"members": {"institutions": [{"id": "h", "roles": ["hospital"], "keys": []}]}, "records": {}},
        development=True,
        parameters=PARAMETERS,
    )
    return {
        "document": json.loads(known.to_json()),
        "chain_id": known.chain_id.hex(),
        "development_keys": {name: development_key(name).public.hex() for name in ("hospital", "patient")},
    }


def messages() -> Any:
    found = {}
    for name, message in every_message().items():
        signed = getattr(message, "vote", message)
        data = encode_message(message)
        found[name] = {"kind": int(Kind(data[1])), "bytes": data.hex()}
        if hasattr(signed, "statement"):
            found[name]["statement"] = signed.statement(MESSAGES_CHAIN).hex()
    return {
        "chain_id": MESSAGES_CHAIN.hex(),
        "validators": plain(MESSAGES_SET.to_value()),
        "messages": found,
    }


def state() -> Any:
    """The definition worked through: three keys in one bucket, the hash of the last of which names bucket 0, and the
    only kind of key that lies there."""
    shared = [b"%d" % number for number in (91_415, 96_635, 88_484)]
    entries = {
        state_key("members", "validators"): encode("set"),
        state_key("payments", "balance", "CNY", "01"): encode(5),
        **dict.fromkeys(shared, encode("x")),
    }
    assert {bucket_of(hash_key(key)) for key in shared} == {1}
    buckets: dict[int, list[bytes]] = {}
    for key, value in entries.items():
        key_hash = hash_key(key)
        buckets.setdefault(bucket_of(key_hash), []).append(key_hash + sha256(value).digest())
    level = [bucket_hash(b"".join(sorted(buckets.get(index, [])))) for index in range(65_536)]
    while len(level) > 1:
        level = [parent_hash(b"".join(level[at : at + 16])) for at in range(0, len(level), 16)]
    empty = bucket_hash(b"")
    return {
        "entries": [{"key": key.hex(), "value": value.hex()} for key, value in entries.items()],
        "empty_bucket": empty.hex(),
        "buckets": {str(index): bucket_hash(b"".join(sorted(found))).hex() for index, found in sorted(buckets.items())},
        "root": root_hash(level[0]).hex(),
    }


def snapshot() -> Any:
    """Questions, and the pieces of a chain of four blocks; and one row of each kind of its store."""
    node = chain.Node(MemoryKeyValue(), chain.Cluster())
    chain.busy(node, chain.CHECKPOINT_INTERVAL)
    certificate = chain.checkpoint_of(node.store, node.store.tip.height)
    node.store.put_checkpoint(certificate)
    view = Snapshot(node.kv.snapshot())
    bucket = next(index for index in range(65_536) if view.buckets(index, index) != ((),))
    pieces: dict[str, Any] = {
        "offer": offer(view, certificate),
        "buckets": view.buckets(bucket, bucket),
        "blocks": view.blocks(view.height)[:1],
    }
    questions = (Question(1, "epochs", first=3), Question(2, "offer"), Question(3, "leaves", 4, 15, 15))
    questions += (Question(4, "buckets", 4, bucket, bucket + 127), Question(5, "blocks", 4, 4))
    rows = {key[:1]: (key, value) for key, value in node.kv.scan(b"", reverse=True)}
    return {
        "chain_id": chain.GENESIS.chain_id.hex(),
        "validators": [key.hex() for key in chain.GENESIS.validator_set.keys],
        "questions": [{"what": one.what, "payload": one.encode().hex()} for one in questions],
        "answers": {what: encode((7, value)).hex() for what, value in pieces.items()},
        "bucket": bucket,
        "leaves_sha256": [sha256(view.leaves(part)).hexdigest() for part in range(16)],
        "rows": [{"key": key.hex(), "value": value.hex()} for _, (key, value) in sorted(rows.items())],
    }


def frames() -> Any:
    status = encode(Status(2, 5, True, 111, 110).to_value())
    return {
        "status": {
            "kind": int(FrameKind.STATUS),
            "payload": status.hex(),
            "frame": encode_frame(FrameKind.STATUS, status).hex(),
        },
        "batch request": {
            "kind": int(FrameKind.BATCH_REQUEST),
            "payload": encode((CHAIN,)).hex(),
            "frame": encode_frame(FrameKind.BATCH_REQUEST, encode((CHAIN,))).hex(),
        },
    }


def members() -> Any:
    """Agreements to join: of an institution's key, and of a validator's."""
    return {
        "chain_id": CHAIN.hex(),
        "joining": [
            {
                "name": name,
                "key": pair.public.hex(),
                "statement": join_statement(CHAIN, name).hex(),
                "proof": pair.sign(join_statement(CHAIN, name)).hex(),
            }
            for name, pair in (("clinic", PAIRS[0]), (VALIDATORS, PAIRS[1]))
        ],
        "parameters": plain(PARAMETERS.to_value()),
    }


VECTORS = {
    "codec": codec,
    "signatures": signatures,
    "transactions": transaction_vectors,
    "blocks": blocks,
    "merkle": merkle_trees,
    "genesis": genesis,
    "members": members,
    "messages": messages,
    "state": state,
    "snapshot": snapshot,
    "frames": frames,
}


def render(name: str) -> str:
    """The file's text."""
    return json.dumps(VECTORS[name](), indent=1, ensure_ascii=True) + "\n"


def main() -> None:
    for name in VECTORS:
        (HERE / f"{name}.json").write_text(render(name), encoding="ascii")
        print(f"tests/vectors/{name}.json")


if __name__ == "__main__":
    main()
