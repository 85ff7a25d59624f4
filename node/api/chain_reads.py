"""Handlers that read the chain itself and the node: transactions, receipts, blocks, state, members, status.

Must not know: HTTP beyond Request and Answer; rule modules other than `members`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ledger.codec import Value, decode, encode
from ledger.errors import Code, CodecError
from ledger.evidence import Evidence
from ledger.modules import members
from ledger.rules import Member, member_by_id, member_by_key
from ledger.state import state_key
from node.api import events
from node.api.exchange import Answer, Api, Place, Request, Stream, long_read
from node.api.problems import Problem, bad_request, not_found, pruned
from node.api.views import (
    block_json,
    checkpoint_json,
    header_json,
    member_json,
    page_json,
    proof_json,
    receipt_json,
    transaction_json,
    validators_json,
)
from node.jsonvalues import value_to_json

STATE_VALUE_SIZE_BYTES_MAX = 16 * 1024 * 1024  # our own data; the store wrote it


async def transaction(api: Api, request: Request) -> Answer:
    store, tx_id = api.service.store, request.path["id"]
    found, receipt = store.transaction(tx_id), store.receipt(tx_id)
    if found is None or receipt is None:
        raise not_found("transaction; one that waits has no place yet")
    height, position, tx = found
    document = transaction_json(api.service.registry, tx) | receipt_json(api.codes, (height, position), receipt)
    if request.query["prove"]:
        async with api.reads.admitted():
            proof = store.prove_transaction(tx_id)
        document["wire"] = tx.wire.hex()
        if proof is not None:
            document["proof"] = proof_json("transaction", proof.certificate.epoch, proof.to_value())
    return Answer.json(document)


async def receipt(api: Api, request: Request) -> Answer:
    """A receipt is proven by the next checkpoint's certificate: until then `proof` is null."""
    store, tx_id = api.service.store, request.path["id"]
    found, outcome = store.transaction(tx_id), store.receipt(tx_id)
    if found is None or outcome is None:
        raise not_found("receipt; one that waits has none yet")
    document = receipt_json(api.codes, found[:2], outcome)
    if request.query["prove"]:
        async with api.reads.admitted():
            proof = store.prove_receipt(tx_id)
        document["proof"] = None if proof is None else proof_json("receipt", proof.checkpoint.epoch, proof.to_value())
    return Answer.json(document)


async def blocks(api: Api, request: Request) -> Answer | Stream:
    if events.STREAM in request.headers.get("Accept", ""):
        return events.headers(api, request)
    return await _headers(api, request)


@long_read
async def _headers(api: Api, request: Request) -> Answer:
    store, limit = api.service.store, request.query["limit"]
    tip = store.tip.height
    first = request.query["from"] if request.query["from"] is not None else tip - limit + 1
    found = [store.header(height) for height in range(max(1, first), min(tip, max(1, first) + limit - 1) + 1)]
    items = [header_json(store.chain_id, header) for header in found if header is not None]
    return Answer.json({"height": tip, "items": items})


@long_read
async def block(api: Api, request: Request) -> Answer:
    store = api.service.store
    height = request.path["height"] if request.path["height"] is not None else store.tip.height
    certified, header = store.block(height), store.header(height)
    if header is not None and height <= store.pruned:
        raise pruned(store.pruned)
    if certified is None or header is None:
        raise not_found(f"block; the chain has {store.tip.height}")
    document = block_json(store.chain_id, certified, header, store.receipts(height), store.state_root(height))
    checkpoint = store.checkpoint(height)
    document["checkpoint"] = None if checkpoint is None else checkpoint_json(checkpoint)
    return Answer.json(document)


async def state(api: Api, request: Request) -> Answer:
    """One entry after the tip. With `prove`: as it was at the last checkpoint, with proof and certificate."""
    store, key = api.service.store, request.query["key"]
    document: dict[str, Any] = {"key": key.hex(), "height": store.tip.height}
    data = store.state_bytes(key)
    if request.query["prove"]:
        proven = store.prove_state(key)
        data = proven.value_bytes
        checkpoint = store.checkpoint(proven.height)
        document |= {
            "height": proven.height,
            "state_root": proven.root.hex(),
            "proof": {"kind": "state", "encoded": encode(proven.proof.to_value()).hex()},
            "checkpoint": None if checkpoint is None else checkpoint_json(checkpoint),
        }
    document["encoded"] = None if data is None else data.hex()
    document["value"] = None if data is None else value_to_json(_decode_state(data))
    return Answer.json(document)


def _decode_state(data: bytes) -> Value:
    try:
        return decode(data, size_bytes_max=STATE_VALUE_SIZE_BYTES_MAX, depth_max=64, items_max=len(data) + 1)
    except CodecError:
        raise Problem(Code.DATA_CORRUPT) from None


async def genesis(api: Api, request: Request) -> Answer:
    return Answer(api.service.store.genesis_json.encode())


@long_read
async def list_members(api: Api, request: Request) -> Answer:
    ids = await api.directory.ids(api.reads)
    found = [member_by_id(api.service.store, member_id) async for member_id in api.reads.sliced(ids)]
    return Answer.json({"items": [member_json(member) for member in found if member is not None]})


async def member(api: Api, request: Request) -> Answer:
    """By institution id, or by any of its signing keys in hexadecimal."""
    store, name = api.service.store, request.path["id"]
    found: Member | None = member_by_id(store, name)
    if found is None and len(name) == 66:
        try:
            found = member_by_key(store, bytes.fromhex(name))
        except ValueError:
            raise bad_request("id", "an institution's id or a key in hexadecimal") from None
    if found is None:
        raise not_found("member")
    return Answer.json(member_json(found))


async def validators(api: Api, request: Request) -> Answer:
    store, epoch = api.service.store, request.query["epoch"]
    if epoch is not None:
        past = store.validator_set(epoch)
        if past is None:
            raise not_found("epoch")
        return Answer.json(validators_json(api, past))
    following = members.next_validators(store)
    document = validators_json(api, members.validators_in_force(store))
    document["next"] = None if following is None else validators_json(api, following)
    return Answer.json(document)


@long_read
async def proposals(api: Api, request: Request) -> Answer:
    store = api.service.store
    found = store.lookup("governance", b"proposals", after=request.query["after"], limit=request.query["limit"])
    items = [_proposal_json(api, place) async for place in api.reads.sliced(found)]
    last = found[-1] if len(found) == request.query["limit"] else None
    return Answer.json(page_json(store, [item for item in items if item is not None], last))


def _proposal_json(api: Api, place: Place) -> dict[str, Any] | None:
    tx = api.service.store.transaction_at(place)
    if tx is None:
        return None
    match api.service.store.get(state_key(members.MODULE_NAME, "proposal", tx.id)):
        case (bytes(proposer), tuple(change), tuple(approvals), bool(is_open)):
            pass
        case _:
            return None
    return {
        "id": tx.id.hex(),
        "height": place[0],
        "position": place[1],
        "proposer": proposer.hex(),
        "change": _change_json(change),
        "approvals": [value_to_json(key) for key in approvals],
        "open": is_open,
    }


def _change_json(change: tuple[Value, ...]) -> dict[str, Any]:
    names = {
        "institution": ("id", "name", "roles", "key", "prefixes", "glns", "active"),
        "validators": ("add", "remove"),
        "parameters": ("changes",),
    }
    kind = str(change[0])
    return {"kind": kind} | {
        name: value_to_json(value) for name, value in zip(names.get(kind, ()), change[1:], strict=False)
    }


async def parameters(api: Api, request: Request) -> Answer:
    store = api.service.store
    pending, following = members.next_validators(store), members.next_parameters(store)
    changed = None
    if pending is not None and following is not None:
        changed = {"epoch": pending.epoch, "first_height": pending.first_height, "values": asdict(following)}
    epoch = members.validators_in_force(store).epoch
    return Answer.json({"epoch": epoch, "values": asdict(members.parameters_in_force(store)), "next": changed})


@long_read
async def evidence(api: Api, request: Request) -> Answer:
    store, limit = api.service.store, request.query["limit"]
    found = store.lookup("governance", b"evidence", after=request.query["after"], limit=limit)
    items = [_evidence_json(api, place) async for place in api.reads.sliced(found)]
    last = found[-1] if len(found) == limit else None
    return Answer.json(page_json(store, [item for item in items if item is not None], last))


def _evidence_json(api: Api, place: Place) -> dict[str, Any] | None:
    """What was reported there. The convicted is named by what its key is known as today."""
    store = api.service.store
    tx, header = store.transaction_at(place), store.header(place[0])
    if tx is None or header is None:
        return None
    proof = Evidence.decode(tx.fields[0])  # type: ignore[arg-type]  # it was accepted, so it is one
    validators = store.validator_set(proof.epoch)
    if validators is None:
        return None
    key = validators.keys[proof.member]
    known, convicted = member_by_key(store, key), members.conviction(store, proof.epoch, key)
    return {
        "id": tx.id.hex(),
        "height": place[0],
        "position": place[1],
        "time_ms": header.time_ms,
        "epoch": proof.epoch,
        "key": key.hex(),
        "member": known.id if known is not None else None,
        "offence": proof.offence.name.lower(),
        "place": list(proof.place),
        "loses_vote": convicted is not None and convicted.loses_vote,
        "reporter": tx.sender.hex(),
        "evidence": proof.wire.hex(),
    }


async def status(api: Api, request: Request) -> Answer:
    return Answer.json(api.service.status())


async def why(api: Api, request: Request) -> Answer:
    return Answer.json(api.service.why())


async def peers(api: Api, request: Request) -> Answer:
    return Answer.json({"items": api.service.peers()})


async def errors(api: Api, request: Request) -> Answer:
    return Answer.json({"items": api.codes.all()})


async def metrics(api: Api, request: Request) -> Answer:
    return Answer(api.service.metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def health(api: Api, request: Request) -> Answer:
    """The process answers; nothing more is said."""
    return Answer.json({"live": True})


async def ready(api: Api, request: Request) -> Answer:
    if not api.service.ready():
        raise Problem(Code.NOT_ACCEPTING, text="it lacks peers or has not caught up; see /v1/why")
    return Answer.json({"ready": True})


async def openapi(api: Api, request: Request) -> Answer:
    return api.documents["openapi"]


async def page(api: Api, request: Request) -> Answer:
    return api.documents["page"]
