"""Keeping, releasing and erasing encrypted records. A record leaves only its custodian's node, only against a
committed, allowed `records.access` of the last minutes, and then sealed for the key that signed it: nobody else can
read the answer.

What allowed the access must hold when the record leaves, by the chain's time and by the clock: a chain without
transactions stands still, and grants end all the same. A node that may have missed what the chain decided since then
releases nothing.

Must not know: what is in a record.
"""

from __future__ import annotations

import asyncio
import hmac

from ledger.crypto import KeyPair
from ledger.errors import Code, Reject
from ledger.modules import records
from ledger.modules.records import RecordState, record_of
from ledger.rules import Context, member_by_key
from ledger.state import Overlay
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
ACCESS_AGE_MS_MAX = 600_000  # a reader asks at once; this is what a restart of the custodian's node takes, and more

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


async def erase(api: Api, request: Request) -> Answer:
    """For good, at the operator's word. The chain is told by `records.erased`, once the record is gone."""
    vault, _ = _vault(api)
    commitment = request.path["commitment"]
    try:
        await asyncio.to_thread(vault.erase, commitment)
    except VaultError as error:
        raise _problem(error) from None
    return Answer.json({"record": commitment.hex()})


async def get(api: Api, request: Request) -> Answer:
    """The record, sealed anew for the reader whose logged access `access` names."""
    vault, key = _vault(api)
    commitment = request.path["commitment"]
    try:
        async with api.vault_slots:
            # Judged with the slot in hand: while it waited for one, the patient may have revoked.
            reader = _allowed_reader(api, key.public, commitment, request.query["access"])
            sealed = await asyncio.to_thread(lambda: rewrap(vault.get(commitment).data, key, reader))
    except VaultError as error:
        raise _problem(error) from None
    return Answer(sealed.data, media_type="application/octet-stream")


def _allowed_reader(api: Api, own_key: bytes, commitment: bytes, access: bytes) -> bytes:
    """The key that may read. The access must be of this record, allowed, recent, and the record still held, by us."""
    store = api.service.store
    if not api.service.ready():
        raise Problem(Code.NOT_ACCEPTING, text="it may have missed a revocation; see /v1/why, and ask again")
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
    now_ms = max(store.tip.time_ms, api.clock_ms())
    _check_recent(api, height, now_ms)
    entry = record_of(store, commitment)
    if entry is None or entry.state == RecordState.ERASED:
        raise Problem(Code.RECORD_ERASED, commitment, status=410)
    _check_custodian(api, own_key, entry.custodian)
    if entry.state == RecordState.WITHDRAWN:
        raise Problem(Code.RECORD_WITHDRAWN, commitment, status=403)
    _check_still_allowed(api, tx, now_ms)
    return tx.sender


def _check_recent(api: Api, height: int, now_ms: int) -> None:
    """One logged access is one reading, not a key for ever: a later reading is logged anew. Counted in heights and in
    time: a quiet chain's heights stand still."""
    store = api.service.store
    header = store.header(height)
    assert header is not None  # of a block whose transaction was found
    is_old = height + api.service.genesis.parameters.validity_heights_max < store.tip.height
    if is_old or header.time_ms + ACCESS_AGE_MS_MAX < now_ms:
        raise Problem(Code.EXPIRED, height, store.tip.height, status=403, text="log a new access")


def _check_custodian(api: Api, own_key: bytes, custodian: str) -> None:
    """Refuse unless the record is our institution's. A commitment is public in a batch before it is registered: others
    may register it first, and so read, as its custodian, a record that they never had."""
    own = member_by_key(api.service.store, own_key)
    if own is None or own.id != custodian:
        signs_for = "no institution" if own is None else own.id
        text = f"the record's custodian is {custodian}; this node's key signs for {signs_for}"
        raise Problem(Code.NOT_THE_CUSTODIAN, status=403, text=text)


def _check_still_allowed(api: Api, tx: Transaction, now_ms: int) -> None:
    """Judge the access again by the state now: the grant may have been revoked since, or the key withdrawn."""
    store = api.service.store
    handler = api.service.registry.handler(tx.operation, tx.version)
    context = Context(Overlay(store), records.MODULE_NAME, tx.sender, tx.id, store.tip.height, now_ms)
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
