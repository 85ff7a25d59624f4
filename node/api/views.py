"""JSON shapes of what the chain holds: transactions, receipts, blocks, certificates, proofs.

Must not know: HTTP, or which route shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ledger.block import CertifiedBlock, CheckpointCertificate, Header, Receipt, Signatures
from ledger.codec import Value, encode
from ledger.errors import Reject, code_label
from ledger.rules import Member, Registry, member_by_key
from ledger.transaction import Transaction
from ledger.validators import ValidatorSet
from node.api.exchange import Api, Place, cursor
from node.api.problems import Codes
from node.jsonvalues import fields_to_json, value_to_json
from storage.chain import ChainStore

ITEMS_SHOWN_MAX = 16  # a history names what happened; the thousand serials of one step are in the transaction


def outcome_json(codes: Codes, code: int, detail: Sequence[Value]) -> dict[str, Any]:
    """A code as people and programs read it."""
    return {
        "code": code,
        "label": code_label(code),
        "name": codes.name(code),
        "detail": [value_to_json(item) for item in detail],
    }


def receipt_json(codes: Codes, place: Place, receipt: Receipt) -> dict[str, Any]:
    head = {"id": receipt.tx_id.hex(), "height": place[0], "position": place[1], "cursor": cursor(place)}
    return head | outcome_json(codes, receipt.code, receipt.detail)


def operation_json(registry: Registry, tx: Transaction) -> dict[str, Any]:
    """What was signed. `fields` is an object; a bare list where no active rule module can name them."""
    fields: object
    try:
        fields = fields_to_json(registry.handler(tx.operation, tx.version).schema, tx.fields)
    except (Reject, ValueError):
        fields = value_to_json(tx.fields)
    return {"operation": tx.operation, "version": tx.version, "fields": fields}


def transaction_json(registry: Registry, tx: Transaction) -> dict[str, Any]:
    return {
        "id": tx.id.hex(),
        "sender": tx.sender.hex(),
        **operation_json(registry, tx),
        "nonce": tx.nonce.hex(),
        "valid_until": tx.valid_until,
        "size_bytes": len(tx.wire),
    }


def event_json(api: Api, place: Place, tx: Transaction, receipt: Receipt) -> dict[str, Any]:
    """One ordered transaction and what became of it."""
    return receipt_json(api.codes, place, receipt) | {
        "sender": tx.sender.hex(),
        **operation_json(api.service.registry, tx),
    }


def step_json(api: Api, place: Place, tx: Transaction) -> dict[str, Any]:
    """An accepted transaction in a history: who did what, and when by the block's time. Long lists are counted only."""
    store = api.service.store
    header = store.header(place[0])
    document = operation_json(api.service.registry, tx)
    fields, counts = document["fields"], {}
    if isinstance(fields, dict):
        counts = {
            name: len(value)
            for name, value in fields.items()
            if isinstance(value, list) and len(value) > ITEMS_SHOWN_MAX
        }
        document["fields"] = {name: value for name, value in fields.items() if name not in counts}
    member = member_by_key(store, tx.sender)
    return {
        "id": tx.id.hex(),
        "cursor": cursor(place),
        "height": place[0],
        "position": place[1],
        "time_ms": header.time_ms if header is not None else None,
        "sender": tx.sender.hex(),
        "member": member.id if member is not None else None,
        **document,
        **({"counts": counts} if counts else {}),
    }


def header_json(chain_id: bytes, header: Header) -> dict[str, Any]:
    return {
        "height": header.height,
        "hash": header.hash(chain_id).hex(),
        "parent_hash": header.parent_hash.hex(),
        "time_ms": header.time_ms,
        "epoch": header.epoch,
        "tx_count": header.tx_count,
        "proposal_digest": header.proposal_digest.hex(),
    }


def block_json(
    chain_id: bytes, block: CertifiedBlock, header: Header, receipts: Sequence[Receipt], state_root: bytes | None
) -> dict[str, Any]:
    certificate = block.certificate
    return header_json(chain_id, header) | {
        "view": certificate.view,
        "seal": block.proposal.seal,
        "batches": [digest.hex() for digest in block.proposal.batches],
        "transactions": [{"id": receipt.tx_id.hex(), "code": receipt.code} for receipt in receipts],
        "state_root": state_root.hex() if state_root is not None else None,
        "certificate": {
            "epoch": certificate.epoch,
            "view": certificate.view,
            "digest": certificate.digest.hex(),
            "signatures": signatures_json(certificate.signatures),
        },
    }


def checkpoint_json(certificate: CheckpointCertificate) -> dict[str, Any]:
    return {
        "epoch": certificate.epoch,
        "height": certificate.height,
        "block_hash": certificate.block_hash.hex(),
        "state_root": certificate.state_root.hex(),
        "results_hash": certificate.results_hash.hex(),
        "signatures": signatures_json(certificate.signatures),
        "encoded": encode(certificate.to_value()).hex(),
    }


def signatures_json(signatures: Signatures) -> list[dict[str, Any]]:
    return [{"validator": index, "signature": signature.hex()} for index, signature in signatures]


def proof_json(kind: str, epoch: int, value: Value) -> dict[str, Any]:
    """A proof of ledger/stateproof.py as its canonical bytes, and the epoch whose validators it is checked with."""
    return {"kind": kind, "epoch": epoch, "encoded": encode(value).hex()}


def member_json(member: Member) -> dict[str, Any]:
    return {
        "id": member.id,
        "name": member.name,
        "roles": list(member.roles),
        "prefixes": list(member.prefixes),
        "glns": list(member.glns),
        "active": member.active,
    }


def validators_json(api: Api, validators: ValidatorSet) -> dict[str, Any]:
    keys = []
    for index, key in enumerate(validators.keys):
        member = member_by_key(api.service.store, key)
        keys.append({"index": index, "key": key.hex(), "member": member.id if member is not None else None})
    return {
        "epoch": validators.epoch,
        "first_height": validators.first_height,
        "n": validators.n,
        "f": validators.f,
        "quorum": validators.quorum,
        "validators": keys,
    }


def page_json(store: ChainStore, items: Sequence[Mapping[str, Any]], following: Place | None) -> dict[str, Any]:
    """A page of a history; `next` is the cursor to go on from, null at the end; `from` the first height that this node
    has whole, where that is not 1: what came before is not in any page."""
    page = {"items": list(items), "next": cursor(following) if following is not None else None}
    return page | ({"from": store.known_from} if store.known_from > 1 else {})
