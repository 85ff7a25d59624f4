"""Handlers that read the business: records, patients, packs, lots, accounts, claims, policies.

Histories are pages over the store's indexes, and traces walk them; they take turns (node/api/admission.py).

Must not know: HTTP beyond Request and Answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ledger.gs1 import day_end_ms, lot_class
from ledger.modules import payments
from ledger.modules.drug_state import DEPTH_MAX, MODULE_NAME, PackState, Status, lot_of, pack_state
from ledger.modules.drug_trace import Found, stays, trace
from ledger.modules.records import RecordEntry, RecordState, record_of
from ledger.state import state_key
from ledger.transaction import Transaction
from node.api.exchange import Answer, Api, Place, Request, long_read
from node.api.problems import not_found
from node.api.views import page_json, step_json

TRACE_OPERATIONS_MAX = 2_000  # looked up for one trace, parents' included; beyond, the answer says truncated
TRACE_SIZE_BYTES_MAX = 8 * 1024 * 1024  # of the same: decoded they take a few times their size, and stay to the end
TRACE_ITEMS_MAX = 256  # things (the pack and its parents) whose histories one trace reads

Wanted = Callable[[Place, Transaction], bool]


async def _steps(api: Api, found: list[Place], wanted: Wanted = lambda place, tx: True) -> list[dict[str, Any]]:
    steps = []
    async for place in api.reads.sliced(found):
        tx = api.service.store.transaction_at(place)
        if tx is not None and wanted(place, tx):
            steps.append(step_json(api, place, tx))
    return steps


async def _history(api: Api, request: Request, index: str, key: bytes) -> Answer:
    limit = request.query["limit"]
    found = api.service.store.lookup(index, key, after=request.query["after"], limit=limit)
    following = found[-1] if len(found) == limit else None
    return Answer.json(page_json(api.service.store, await _steps(api, found), following))


# Records


def _record(api: Api, commitment: bytes) -> RecordEntry:
    entry = record_of(api.service.store, commitment)
    if entry is None:
        raise not_found("record")
    return entry


def _record_json(commitment: bytes, entry: RecordEntry) -> dict[str, Any]:
    state = RecordState(entry.state).name.lower()
    return {"record": commitment.hex()} | entry._asdict() | {"patient": entry.patient.hex(), "state": state}


async def record(api: Api, request: Request) -> Answer:
    commitment = request.path["commitment"]
    return Answer.json(_record_json(commitment, _record(api, commitment)))


@long_read
async def record_history(api: Api, request: Request) -> Answer:
    """Registration, grants, revocations, allowed accesses, withdrawal; with the patient's grants that cover it by
    custodian or kind. A page may hold fewer entries than `limit` and still have a `next`.
    """
    store, commitment = api.service.store, request.path["commitment"]
    entry, after, limit = _record(api, commitment), request.query["after"], request.query["limit"]
    own = store.lookup("record", commitment, after=after, limit=limit)
    wide = store.lookup("patient", entry.patient, after=after, limit=limit)
    merged = sorted({*own, *wide})[:limit]
    following = merged[-1] if len(own) == limit or len(wide) == limit else None
    its_own = set(own)
    steps = await _steps(api, merged, lambda place, tx: place in its_own or _covers(api, tx, entry))
    return Answer.json(page_json(store, steps, following))


def _covers(api: Api, tx: Transaction, entry: RecordEntry) -> bool:
    """Whether it grants by scope over the record, or ends such a grant."""
    match tx.operation, tx.fields:
        case "records.grant", (_, _, _, (), custodian, kind):
            return custodian in (None, entry.custodian) and kind in (None, entry.kind)
        case "records.revoke", (bytes(grant_id),):
            granted = api.service.store.transaction(grant_id)
            return granted is not None and _covers(api, granted[2], entry)
    return False


@long_read
async def patient_records(api: Api, request: Request) -> Answer:
    store, patient, limit = api.service.store, request.path["key"], request.query["limit"]
    found = store.lookup("patient", patient, after=request.query["after"], limit=limit)
    items = []
    async for place in api.reads.sliced(found):
        tx = store.transaction_at(place)
        if tx is not None and tx.operation == "records.register":
            commitment = tx.fields[0]
            assert isinstance(commitment, bytes)
            items.append(_record_json(commitment, _record(api, commitment)))
    return Answer.json(page_json(store, items, found[-1] if len(found) == limit else None))


# Drugs


async def pack(api: Api, request: Request) -> Answer:
    epc = request.path["epc"] if "epc" in request.path else request.query["epc"]
    found = pack_state(api.service.store, epc)
    if found is None:
        raise not_found("item on this chain")
    return Answer.json(_pack_json(found, api.service.store.tip.time_ms))


def _pack_json(found: PackState, time_ms: int) -> dict[str, Any]:
    return asdict(found) | {"status": Status(found.status).name.lower(), "expired": found.expired(time_ms)}


@long_read
async def pack_trace(api: Api, request: Request) -> Answer:
    """All that happened to an item, also while it was inside others."""
    epc = request.query["epc"]
    found, transactions, truncated = await _gather(api, epc)
    if not found[epc]:
        raise not_found("item on this chain")
    items = [
        step_json(api, step.order, transactions[step.order]) | {"via": step.via}
        async for step in api.reads.sliced(trace(epc, lambda name: found.get(name, ())))
    ]
    return Answer.json({"epc": epc, "items": items, "truncated": truncated})


async def _gather(api: Api, epc: str) -> tuple[dict[str, list[Found]], dict[Place, Transaction], bool]:
    """The operations of `epc` and of all it was ever inside of, level by level, within the limits of a trace."""
    store, registry = api.service.store, api.service.registry
    found: dict[str, list[Found]] = {}
    transactions: dict[Place, Transaction] = {}
    level, left, left_bytes = [epc], TRACE_OPERATIONS_MAX, TRACE_SIZE_BYTES_MAX
    for _ in range(DEPTH_MAX + 1):
        above: dict[str, None] = {}
        for name in level:
            entries = store.lookup("serial", name.encode(), limit=left)
            left -= len(entries)
            operations: list[Found] = []
            async for place in api.reads.sliced(entries):
                tx = store.transaction_at(place)
                if tx is None:
                    continue
                transactions[place] = tx
                operation: Any = registry.handler(tx.operation, tx.version).rule.operation  # fields passed once
                operations.append((place, operation(*tx.fields)))
                left_bytes -= len(tx.wire)
                if left_bytes <= 0:
                    break
            found[name] = operations
            above.update({stay.parent: None for stay in stays(name, operations) if stay.parent not in found})
            if left <= 0 or left_bytes <= 0 or len(found) >= TRACE_ITEMS_MAX:
                return found, transactions, True
        level = list(above)
    return found, transactions, False


async def lot(api: Api, request: Request) -> Answer:
    store, gtin, number = api.service.store, request.path["gtin"], request.path["lot"]
    lot_epc = lot_class(gtin, number)

    def get(table: str, *parts: str) -> Any:
        return store.get(state_key(MODULE_NAME, table, *parts))

    if get("lot", lot_epc) is None:
        raise not_found("lot")
    stated = lot_of(get, lot_epc)
    product_recall = get("recall", gtin)
    expired = stated.expiry_date != 0 and store.tip.time_ms >= day_end_ms(stated.expiry_date)
    return Answer.json(
        {"gtin": gtin, "lot": number, "epc": lot_epc}
        | stated._asdict()
        | {
            "temperature": stated.temperature or None,
            "recalled": bool(stated.recall_reason) or product_recall is not None,
            "recall_reason": stated.recall_reason or product_recall or "",
            "expired": expired,
        }
    )


# Payments


def _payments(api: Api, table: str, *parts: str | bytes) -> Any:
    return api.service.store.get(state_key(payments.MODULE_NAME, table, *parts))


async def account(api: Api, request: Request) -> Answer:
    """A balance; an account that never had money has 0."""
    owner, currency = request.path["owner"], request.query["currency"]
    known = _payments(api, "currency", currency)
    if known is None:
        raise not_found("currency")
    balance = _payments(api, "balance", currency, owner) or 0
    return Answer.json({"owner": owner, "currency": currency, "balance": balance, "exponent": known[1]})


@long_read
async def account_history(api: Api, request: Request) -> Answer:
    return await _history(api, request, "account", request.path["owner"].encode())


async def claim(api: Api, request: Request) -> Answer:
    value = _payments(api, "claim", request.path["id"])
    if value is None:
        raise not_found("claim")
    entry = payments.ClaimEntry._make(value)
    state = payments.ClaimState(entry.state).name.lower()
    return Answer.json({"claim": request.path["id"]} | entry._asdict() | {"state": state})


async def policy(api: Api, request: Request) -> Answer:
    value = _payments(api, "policy", request.path["id"])
    if value is None:
        raise not_found("policy")
    return Answer.json({"policy": request.path["id"]} | payments.PolicyEntry._make(value)._asdict())
