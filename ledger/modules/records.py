"""Rule module `records`: who holds which medical record, who may read it, and who did.

Only salted commitments and pseudonymous keys are here, never a record, encrypted or not. A custodian releases data only
against a committed, successful `records.access` of its reader; a refused one leaves its refused receipt.

Tables
    record/<commitment>                 (custodian id, patient key, kind, size in bytes, state)
    grant/<grant id>                    (patient key, reader, purposes, expires_ms, revoked, custodian, kind, records);
                                        the id is that of the transaction that granted
    record_grant/<commitment>/<reader>  grant id, for this one record
    patient_grant/<patient>/<reader>/<custodian>/<kind>
                                        grant id, for all records of that custodian and kind; "" is any

A later grant for the same reader and the same scope takes the place of the earlier one. Scopes add up: a reader needs
one live grant among the five that can cover a record, so every check takes a fixed number of look-ups.

Must not know: where records are kept, and who a patient is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, NamedTuple

from ledger.errors import Code, FieldReject, Reject
from ledger.fields import Choice, Hash, Integer, Key, ListOf, Maybe, Operation, Text
from ledger.modules.parties import Party, acting_party, check_key, check_party
from ledger.rules import Context, Role, Rule, RuleModule
from ledger.state import Reader, state_key

MODULE_NAME = "records"

RECORDS_PER_GRANT_MAX = 256  # with a slot and an index entry each, far inside the limits of one transaction
RECORD_SIZE_BYTES_MAX = 2**40  # a terabyte: whole-slide images and genomes are the largest single records

# HL7 v3 PurposeOfUse, the codes that FHIR Consent.provision.purpose uses.
PURPOSE_OF_USE = {
    "treatment": "TREAT",
    "payment": "HPAYMT",
    "operations": "HOPERAT",
    "research": "HRESCH",
    "public_health": "PUBHLTH",
    "patient_request": "PATRQT",
}
PURPOSE = Choice(tuple(PURPOSE_OF_USE))
KIND = Text(64)
CUSTODIANS = frozenset({Role.HOSPITAL, Role.PHARMACY, Role.INSURER})


class RecordState(IntEnum):
    """A record's life. A withdrawn record is closed to everyone; its custodian then confirms that it is erased."""

    HELD = 0
    WITHDRAWN = 1
    ERASED = 2


@dataclass(frozen=True, slots=True)
class Register(Operation):
    """A custodian states that it holds a patient's record. `record` commits to the encrypted record with a salt."""

    NAME = "records.register"
    record: Annotated[bytes, Hash()]
    patient: Annotated[bytes, Key()]
    kind: Annotated[str, KIND]  # e.g. a FHIR resource type
    size_bytes: Annotated[int, Integer(0, RECORD_SIZE_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class Grant(Operation):
    """A patient lets a reader read until `expires_ms`, for the stated purposes.

    With `records`: exactly these. Without: all the patient's records, now and later, of `custodian` and `kind`, where
    nil is any. The grant's id is the transaction's.
    """

    NAME = "records.grant"
    reader: Annotated[str, Party()]
    purposes: Annotated[tuple[str, ...], ListOf(PURPOSE, len(PURPOSE_OF_USE), 1, distinct=True)]
    expires_ms: Annotated[int, Integer(1)]
    records: Annotated[tuple[bytes, ...], ListOf(Hash(), RECORDS_PER_GRANT_MAX, distinct=True)]
    custodian: Annotated[str | None, Maybe(Text(32))]
    kind: Annotated[str | None, Maybe(KIND)]


@dataclass(frozen=True, slots=True)
class Revoke(Operation):
    """The patient ends a grant, from the next transaction on."""

    NAME = "records.revoke"
    grant: Annotated[bytes, Hash()]


@dataclass(frozen=True, slots=True)
class Access(Operation):
    """A reader or the custodian logs a read and is told whether it is allowed. `reason` is a code, never a name."""

    NAME = "records.access"
    record: Annotated[bytes, Hash()]
    purpose: Annotated[str, PURPOSE]
    reason: Annotated[str, Text(64)]


@dataclass(frozen=True, slots=True)
class Withdraw(Operation):
    """The patient closes a record to everyone, the custodian included, and asks for its erasure."""

    NAME = "records.withdraw"
    record: Annotated[bytes, Hash()]


@dataclass(frozen=True, slots=True)
class Erased(Operation):
    """The custodian states that it has erased a record: withdrawn by the patient, or past its retention."""

    NAME = "records.erased"
    record: Annotated[bytes, Hash()]


class RecordEntry(NamedTuple):
    """A record as the state holds it."""

    custodian: str
    patient: bytes
    kind: str
    size_bytes: int
    state: int


def record_of(reader: Reader, commitment: bytes) -> RecordEntry | None:
    """A record, for readers of the state outside of a transaction; None where nobody has registered it."""
    value = reader.get(state_key(MODULE_NAME, "record", commitment))
    return RecordEntry._make(value) if isinstance(value, tuple) else None


class GrantEntry(NamedTuple):
    """A grant as the state holds it. `records` empty: a grant over `custodian` and `kind`, where "" is any."""

    patient: bytes
    reader: str
    purposes: tuple[str, ...]
    expires_ms: int
    revoked: bool
    custodian: str
    kind: str
    records: tuple[bytes, ...]


def _record(ctx: Context, commitment: bytes) -> RecordEntry:
    """The record, which must not be withdrawn or erased."""
    value = ctx.get("record", commitment)
    if value is None:
        raise Reject(Code.UNKNOWN_RECORD, commitment)
    entry = RecordEntry._make(value)
    if entry.state == RecordState.ERASED:
        raise Reject(Code.RECORD_ERASED, commitment)
    return entry


def _open_record(ctx: Context, commitment: bytes) -> RecordEntry:
    entry = _record(ctx, commitment)
    if entry.state == RecordState.WITHDRAWN:
        raise Reject(Code.RECORD_WITHDRAWN, commitment)
    return entry


def _index(ctx: Context, commitment: bytes, patient: bytes) -> None:
    ctx.index("record", commitment)
    ctx.index("patient", patient)


def _check_register(op: Register) -> None:
    check_key(op.patient, "patient")


def _register(op: Register, ctx: Context) -> None:
    if ctx.get("record", op.record) is not None:
        raise Reject(Code.RECORD_EXISTS, op.record)
    ctx.put("record", op.record, value=(ctx.member.id, op.patient, op.kind, op.size_bytes, int(RecordState.HELD)))
    _index(ctx, op.record, op.patient)


def _check_grant(op: Grant) -> None:
    if op.records and (op.custodian is not None or op.kind is not None):
        raise FieldReject("records", "none beside a custodian or a kind")


def _grant(op: Grant, ctx: Context) -> None:
    if op.expires_ms <= ctx.time_ms:
        raise Reject(Code.GRANT_EXPIRED, op.expires_ms)
    check_party(ctx, op.reader, "reader")
    if op.custodian is not None:
        ctx.institution(op.custodian)
    for commitment in op.records:
        if _open_record(ctx, commitment).patient != ctx.sender:
            raise Reject(Code.NOT_THE_PATIENT, commitment)
        ctx.put("record_grant", commitment, op.reader, value=ctx.tx_id)
    custodian, kind = op.custodian or "", op.kind or ""
    if not op.records:
        ctx.put("patient_grant", ctx.sender, op.reader, custodian, kind, value=ctx.tx_id)
    entry = GrantEntry(ctx.sender, op.reader, op.purposes, op.expires_ms, False, custodian, kind, op.records)
    ctx.put("grant", ctx.tx_id, value=tuple(entry))
    _index_grant(ctx, entry)


def _index_grant(ctx: Context, entry: GrantEntry) -> None:
    ctx.index("patient", entry.patient)
    ctx.index("reader", entry.reader)
    for commitment in entry.records:
        ctx.index("record", commitment)


def _revoke(op: Revoke, ctx: Context) -> None:
    value = ctx.get("grant", op.grant)
    if value is None:
        raise Reject(Code.UNKNOWN_GRANT, op.grant)
    entry = GrantEntry._make(value)
    if entry.patient != ctx.sender:
        raise Reject(Code.NOT_THE_PATIENT, op.grant)
    if entry.revoked:
        raise Reject(Code.GRANT_REVOKED, op.grant)
    revoked = (*value[:4], True, *value[5:])
    ctx.put("grant", op.grant, value=revoked)
    _index_grant(ctx, entry)


def _access(op: Access, ctx: Context) -> None:
    entry = _open_record(ctx, op.record)
    reader = acting_party(ctx)
    if reader != entry.custodian:
        _check_granted(ctx, op, entry, reader)
    _index(ctx, op.record, entry.patient)
    ctx.index("reader", reader)


def _check_granted(ctx: Context, op: Access, entry: RecordEntry, reader: str) -> None:
    """Return if one live grant covers the access; else reject with what came closest to allowing it."""
    refusals = []
    for slot in (
        ("record_grant", op.record, reader),
        ("patient_grant", entry.patient, reader, "", ""),
        ("patient_grant", entry.patient, reader, entry.custodian, ""),
        ("patient_grant", entry.patient, reader, "", entry.kind),
        ("patient_grant", entry.patient, reader, entry.custodian, entry.kind),
    ):
        grant_id = ctx.get(*slot)
        if grant_id is None:
            continue
        _, _, purposes, expires_ms, revoked, *_ = ctx.get("grant", grant_id)
        if revoked:
            refusals.append((1, Code.GRANT_REVOKED, grant_id))
        elif expires_ms <= ctx.time_ms:
            refusals.append((2, Code.GRANT_EXPIRED, grant_id))
        elif op.purpose not in purposes:
            refusals.append((3, Code.PURPOSE_NOT_GRANTED, grant_id))
        else:
            return
    if not refusals:
        raise Reject(Code.NOT_GRANTED, op.record)
    _, code, grant_id = max(refusals)
    raise Reject(code, grant_id)


def _withdraw(op: Withdraw, ctx: Context) -> None:
    entry = _open_record(ctx, op.record)
    if entry.patient != ctx.sender:
        raise Reject(Code.NOT_THE_PATIENT, op.record)
    _put_state(ctx, op.record, entry, RecordState.WITHDRAWN)


def _erased(op: Erased, ctx: Context) -> None:
    entry = _record(ctx, op.record)
    if entry.custodian != ctx.member.id:
        raise Reject(Code.NOT_THE_CUSTODIAN, op.record)
    _put_state(ctx, op.record, entry, RecordState.ERASED)


def _put_state(ctx: Context, commitment: bytes, entry: RecordEntry, state: RecordState) -> None:
    ctx.put("record", commitment, value=(*entry[:4], int(state)))
    _index(ctx, commitment, entry.patient)


MODULE = RuleModule(
    name=MODULE_NAME,
    version=1,
    rules=(
        Rule(Register, _register, check=_check_register, roles=CUSTODIANS),
        Rule(Grant, _grant, check=_check_grant),
        Rule(Revoke, _revoke),
        Rule(Access, _access),
        Rule(Withdraw, _withdraw),
        Rule(Erased, _erased, roles=CUSTODIANS),
    ),
)
