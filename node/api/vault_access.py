"""Keeping and releasing encrypted records. A record leaves only against a committed, allowed `records.access`, and then
sealed for the key that signed it: nobody else can read the answer.

Must not know: what is in a record.
"""

from __future__ import annotations

import asyncio
import hmac

from ledger.crypto import KeyPair
from ledger.errors import Code, Reject
from ledger.modules import records
from ledger.modules.records import RecordEntry, RecordState
from ledger.rules import Context
from ledger.state import Overlay, state_key
from ledger.transaction import Transaction
from node.api.exchange import Answer, Api, Request
from node.api.problems import Problem, bad_request, not_found, rejected
from node.vault import (
    AlreadyHeld,
    BadRecipient,
    Erased,
    Malformed,
    NotARecipient,
    NotHeld,
    SealedRecord,
    Vault,
    VaultError,
    VaultFull,
    rewrap,
)

VAULT_SLOTS = 4  # records opened and sealed at once: each takes a few times 16 MiB

ACCESS = "records.access"


def check_operator(api: Api, headers_authorization: str) -> None:
    """Problem UNAUTHORISED unless the header carries the operator's token."""
    scheme, _, token = headers_authorization.partition(" ")
    known, given = api.operator_token.encode(), token.strip().encode("utf-8", "replace")
    if scheme.lower() != "bearer" or not known or not hmac.compare_digest(given, known):
        raise Problem(Code.UNAUTHORISED, headers={"WWW-Authenticate": 'Bearer realm="medchain"'})


def _vault(api: Api) -> tuple[Vault, KeyPair]:
    vault, key = api.service.vault, api.service.vault_key
    if vault is None or key is None:
        raise not_found("vault: this node keeps no records")
    return vault, key


async def put(api: Api, request: Request) -> Answer:
    vault, _ = _vault(api)
    try:
        async with api.vault_slots:
            commitment = await asyncio.to_thread(lambda: vault.put(SealedRecord.from_bytes(request.body)))
    except VaultError as error:
        raise _problem(error) from None
    return Answer.json({"record": commitment.hex(), "size_bytes": len(request.body)}, 201)


async def get(api: Api, request: Request) -> Answer:
    """The record, sealed anew for the reader whose logged access `access` names."""
    vault, key = _vault(api)
    commitment = request.path["commitment"]
    reader = _allowed_reader(api, commitment, request.query["access"])
    try:
        async with api.vault_slots:
            sealed = await asyncio.to_thread(lambda: rewrap(vault.get(commitment).data, key, reader))
    except VaultError as error:
        raise _problem(error) from None
    return Answer(sealed.data, media_type="application/octet-stream")


def _allowed_reader(api: Api, commitment: bytes, access: bytes) -> bytes:
    """The key that may read. The access must be of this record, allowed, recent, and the record still held."""
    store = api.service.store
    found, receipt = store.transaction(access), store.receipt(access)
    if found is None or receipt is None:
        raise not_found("committed access")
    height, _, tx = found
    if tx.operation != ACCESS or not tx.fields or tx.fields[0] != commitment:
        raise bad_request("access", "the id of a records.access of this record")
    if not receipt.ok:
        problem = rejected(receipt.code, receipt.detail)
        problem.status = 403
        raise problem
    # One logged access is one reading, not a key for ever: a later reading is logged anew.
    if height + api.service.genesis.parameters.validity_heights_max < store.tip.height:
        raise Problem(Code.EXPIRED, height, store.tip.height, status=403, text="log a new access")
    value = store.get(state_key(records.MODULE_NAME, "record", commitment))
    entry = RecordEntry._make(value) if isinstance(value, tuple) else None
    if entry is None or entry.state == RecordState.ERASED:
        raise Problem(Code.RECORD_ERASED, commitment, status=410)
    if entry.state == RecordState.WITHDRAWN:
        raise Problem(Code.RECORD_WITHDRAWN, commitment, status=403)
    _check_still_allowed(api, tx)
    return tx.sender


def _check_still_allowed(api: Api, tx: Transaction) -> None:
    """Judge the access again by the state now: the grant may have been revoked since, or the key withdrawn."""
    store = api.service.store
    handler = api.service.registry.handler(tx.operation, tx.version)
    context = Context(Overlay(store), records.MODULE_NAME, tx.sender, tx.id, store.tip.height, store.tip.time_ms)
    try:
        handler.rule.apply(handler.parse(tx.fields), context)
    except Reject as refused:
        problem = rejected(int(refused.code), refused.detail)
        problem.status = 403
        raise problem from None


def _problem(error: VaultError) -> Problem:
    match error:
        case NotHeld():
            return not_found("record in this vault")
        case Erased():
            return Problem(Code.RECORD_ERASED, status=410)
        case Malformed():
            return Problem(Code.MALFORMED, text="not a sealed record")
        case AlreadyHeld():
            return Problem(Code.RECORD_EXISTS, status=409)
        case VaultFull():
            return Problem(Code.DISK_FULL)
        case BadRecipient():
            return Problem(Code.BAD_KEY)
        case NotARecipient():
            return Problem(Code.NOT_THE_CUSTODIAN, status=403, text="the record is not sealed for this node's key")
        case _:
            return Problem(Code.DATA_CORRUPT)
