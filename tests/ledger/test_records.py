"""Rules of `records`: who may grant, revoke, read, withdraw and erase."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.block import Receipt
from ledger.crypto import hash_bytes
from ledger.errors import Code
from ledger.modules import records
from ledger.modules.records import Access, Erased, Grant, RecordState, Register, Revoke, Withdraw
from tests.ledger.chain import Chain, institution, key_pair

CLINIC, OTHER_CLINIC, INSURER = key_pair("clinic"), key_pair("other clinic"), key_pair("insurer")
PATIENT, STRANGER = key_pair("patient"), key_pair("stranger")
RECORD, RECORD_2, RECORD_3 = (hash_bytes(bytes([number])) for number in (1, 2, 3))
LATER_MS = 2_000_000


@pytest.fixture
def chain() -> Chain:
    members = [
        institution("clinic", "hospital"),
        institution("other clinic", "hospital"),
        institution("insurer", "insurer"),
        institution("maker", "manufacturer"),
    ]
    chain = Chain([records.MODULE], {"members": {"institutions": members}, "records": {}})
    for commitment, kind in ((RECORD, "Observation"), (RECORD_2, "Condition")):
        assert chain.send(CLINIC, Register(commitment, PATIENT.public, kind, 1_000)).ok
    assert chain.send(OTHER_CLINIC, Register(RECORD_3, PATIENT.public, "Observation", 1_000)).ok
    return chain


def grant(*commitments: bytes, custodian: str | None = None, kind: str | None = None) -> Grant:
    return Grant("insurer", ("payment",), LATER_MS, commitments, custodian, kind)


def read(commitment: bytes = RECORD, purpose: str = "payment") -> Access:
    return Access(commitment, purpose, "claim-17")


def code(receipt: Receipt) -> int:
    return receipt.code


def test_a_record_is_registered_once(chain: Chain) -> None:
    assert chain.read("records", "record", RECORD) == ("clinic", PATIENT.public, "Observation", 1_000, 0)
    assert code(chain.send(OTHER_CLINIC, Register(RECORD, PATIENT.public, "Observation", 1))) == Code.RECORD_EXISTS


@pytest.mark.parametrize(("sender", "expected"), [("maker", Code.ROLE_REQUIRED), ("stranger", Code.NOT_A_MEMBER)])
def test_only_a_custodian_registers(chain: Chain, sender: str, expected: Code) -> None:
    receipt = chain.send(key_pair(sender), Register(hash_bytes(b"new"), PATIENT.public, "Observation", 1))
    assert code(receipt) == expected


def test_a_patient_key_that_others_could_sign_for_is_refused(chain: Chain) -> None:
    small_order = b"\x01" + b"\x01" + bytes(31)
    receipt = chain.send(CLINIC, Register(hash_bytes(b"new"), small_order, "Observation", 1))
    assert (receipt.code, receipt.detail[0]) == (Code.BAD_FIELD, "patient")
    receipt = chain.send(PATIENT, replace(grant(RECORD), reader=small_order.hex()))
    assert (receipt.code, receipt.detail[0]) == (Code.BAD_FIELD, "reader")


def test_a_granted_reader_may_log_access_and_it_is_indexed(chain: Chain) -> None:
    granted = chain.send(PATIENT, grant(RECORD))
    access = chain.send(INSURER, read())
    assert granted.ok
    assert access.ok
    assert chain.found("reader", "insurer") == [granted.tx_id, access.tx_id]
    assert chain.found("record", RECORD)[1:] == [granted.tx_id, access.tx_id]
    assert chain.found("patient", PATIENT.public)[3:] == [granted.tx_id, access.tx_id]


def test_access_without_a_grant_is_refused_and_leaves_its_receipt(chain: Chain) -> None:
    receipt = chain.send(INSURER, read())
    assert (receipt.code, receipt.detail) == (Code.NOT_GRANTED, (RECORD,))
    assert chain.found("reader", "insurer") == []


def test_only_a_granted_reader_or_the_custodian_may_log_access(chain: Chain) -> None:
    chain.send(PATIENT, grant(RECORD))
    readers = (INSURER, CLINIC, OTHER_CLINIC, STRANGER, PATIENT)
    receipts = chain.block(*((reader, read()) for reader in readers))
    refused = Code.NOT_GRANTED
    assert list(map(code, receipts)) == [Code.OK, Code.OK, refused, refused, refused]


def test_a_grant_covers_only_its_records(chain: Chain) -> None:
    chain.send(PATIENT, grant(RECORD))
    assert code(chain.send(INSURER, read(RECORD_2))) == Code.NOT_GRANTED


@pytest.mark.parametrize(
    ("custodian", "kind", "readable"),
    [
        (None, None, (True, True, True)),
        ("clinic", None, (True, True, False)),
        (None, "Observation", (True, False, True)),
        ("clinic", "Observation", (True, False, False)),
        ("other clinic", "Condition", (False, False, False)),
    ],
)
def test_a_grant_may_cover_all_records_of_a_custodian_and_a_kind(
    chain: Chain, custodian: str | None, kind: str | None, readable: tuple[bool, ...]
) -> None:
    assert chain.send(PATIENT, grant(custodian=custodian, kind=kind)).ok
    receipts = chain.block(*((INSURER, read(commitment)) for commitment in (RECORD, RECORD_2, RECORD_3)))
    assert tuple(receipt.ok for receipt in receipts) == readable


def test_a_broad_grant_covers_records_registered_later_but_no_other_patients(chain: Chain) -> None:
    chain.send(PATIENT, grant())
    later, foreign = hash_bytes(b"later"), hash_bytes(b"foreign")
    receipts = chain.block(
        (CLINIC, Register(later, PATIENT.public, "Encounter", 1)),
        (CLINIC, Register(foreign, STRANGER.public, "Encounter", 1)),
        (INSURER, read(later)),
        (INSURER, read(foreign)),
    )
    assert list(map(code, receipts)) == [Code.OK, Code.OK, Code.OK, Code.NOT_GRANTED]


def test_a_grant_names_records_or_a_scope_but_not_both(chain: Chain) -> None:
    receipt = chain.send(PATIENT, grant(RECORD, custodian="clinic"))
    assert (receipt.code, receipt.detail[0]) == (Code.BAD_FIELD, "records")


def test_a_person_may_be_granted_by_key(chain: Chain) -> None:
    chain.send(PATIENT, replace(grant(RECORD), reader=STRANGER.public.hex()))
    assert chain.send(STRANGER, read()).ok


@pytest.mark.parametrize("reader", ["01" + "g" * 64, "02" + "a" * 64, "A" * 66, "x" * 33, ""])
def test_a_reader_is_an_institution_id_or_a_key(chain: Chain, reader: str) -> None:
    receipt = chain.send(PATIENT, replace(grant(RECORD), reader=reader))
    assert (receipt.code, receipt.detail[0]) == (Code.BAD_FIELD, "reader")


@pytest.mark.parametrize("sender", [CLINIC, INSURER, STRANGER])
def test_only_the_patient_grants(chain: Chain, sender: object) -> None:
    assert code(chain.send(sender, grant(RECORD))) == Code.NOT_THE_PATIENT  # type: ignore[arg-type]
    assert code(chain.send(INSURER, read())) == Code.NOT_GRANTED


def test_a_grant_with_one_foreign_record_grants_none(chain: Chain) -> None:
    foreign = hash_bytes(b"foreign")
    chain.send(CLINIC, Register(foreign, STRANGER.public, "Observation", 1))
    assert code(chain.send(PATIENT, grant(RECORD, foreign))) == Code.NOT_THE_PATIENT
    assert code(chain.send(INSURER, read())) == Code.NOT_GRANTED


def test_a_broad_grant_by_a_stranger_opens_nothing_of_the_patient(chain: Chain) -> None:
    assert chain.send(STRANGER, grant()).ok
    assert code(chain.send(INSURER, read())) == Code.NOT_GRANTED


def test_only_the_patient_revokes(chain: Chain) -> None:
    granted = chain.send(PATIENT, grant(RECORD)).tx_id
    receipts = chain.block(*((sender, Revoke(granted)) for sender in (CLINIC, INSURER, STRANGER)))
    assert set(map(code, receipts)) == {Code.NOT_THE_PATIENT}
    assert chain.send(INSURER, read()).ok


def test_a_revoked_grant_refuses_from_the_next_transaction_on(chain: Chain) -> None:
    granted = chain.send(PATIENT, grant(RECORD)).tx_id
    receipts = chain.block((INSURER, read()), (PATIENT, Revoke(granted)), (INSURER, read()))
    assert list(map(code, receipts)) == [Code.OK, Code.OK, Code.GRANT_REVOKED]
    assert receipts[2].detail == (granted,)
    assert code(chain.send(PATIENT, Revoke(granted))) == Code.GRANT_REVOKED


def test_an_expired_grant_refuses_at_its_expiry(chain: Chain) -> None:
    chain.send(PATIENT, grant(RECORD))
    chain.time_ms = LATER_MS - 1
    assert chain.send(INSURER, read()).ok
    chain.time_ms = LATER_MS
    assert code(chain.send(INSURER, read())) == Code.GRANT_EXPIRED
    assert code(chain.send(PATIENT, grant(RECORD))) == Code.GRANT_EXPIRED


def test_expiry_cannot_be_undone_by_a_clock_that_runs_backwards(chain: Chain) -> None:
    """Trap 44."""
    chain.send(PATIENT, grant(RECORD))
    chain.time_ms = LATER_MS
    chain.advance(1)
    chain.time_ms = 1
    assert code(chain.send(INSURER, read())) == Code.GRANT_EXPIRED


def test_a_purpose_that_was_not_granted_is_refused(chain: Chain) -> None:
    chain.send(PATIENT, replace(grant(RECORD), purposes=("payment", "treatment")))
    receipts = chain.block(*((INSURER, read(purpose=purpose)) for purpose in ("payment", "treatment", "research")))
    assert list(map(code, receipts)) == [Code.OK, Code.OK, Code.PURPOSE_NOT_GRANTED]


def test_one_live_grant_suffices_beside_a_revoked_one(chain: Chain) -> None:
    narrow = chain.send(PATIENT, grant(RECORD)).tx_id
    broad = chain.send(PATIENT, grant(custodian="clinic")).tx_id
    chain.send(PATIENT, Revoke(narrow))
    assert chain.send(INSURER, read()).ok
    chain.send(PATIENT, Revoke(broad))
    assert code(chain.send(INSURER, read())) == Code.GRANT_REVOKED


def test_a_later_grant_of_the_same_scope_replaces_the_earlier(chain: Chain) -> None:
    first = chain.send(PATIENT, grant(RECORD, RECORD_2)).tx_id
    chain.send(PATIENT, replace(grant(RECORD), purposes=("research",)))
    assert code(chain.send(INSURER, read())) == Code.PURPOSE_NOT_GRANTED
    assert chain.send(INSURER, read(RECORD_2)).ok
    chain.send(PATIENT, Revoke(first))
    assert chain.send(INSURER, read(purpose="research")).ok
    assert code(chain.send(INSURER, read(RECORD_2))) == Code.GRANT_REVOKED


def test_unknown_things_are_refused_by_name(chain: Chain) -> None:
    unknown = hash_bytes(b"unknown")
    receipts = chain.block(
        (PATIENT, grant(unknown)),
        (PATIENT, Revoke(unknown)),
        (INSURER, read(unknown)),
        (PATIENT, Withdraw(unknown)),
        (PATIENT, replace(grant(), reader="nobody")),
        (PATIENT, grant(custodian="nobody")),
    )
    assert list(map(code, receipts)) == [
        Code.UNKNOWN_RECORD,
        Code.UNKNOWN_GRANT,
        Code.UNKNOWN_RECORD,
        Code.UNKNOWN_RECORD,
        Code.UNKNOWN_MEMBER,
        Code.UNKNOWN_MEMBER,
    ]


def test_a_withdrawn_record_is_closed_to_everyone(chain: Chain) -> None:
    chain.send(PATIENT, grant(RECORD))
    receipts = chain.block(
        (CLINIC, Withdraw(RECORD)),
        (PATIENT, Withdraw(RECORD)),
        (INSURER, read()),
        (CLINIC, read()),
        (PATIENT, grant(RECORD)),
        (PATIENT, Withdraw(RECORD)),
    )
    closed = Code.RECORD_WITHDRAWN
    assert list(map(code, receipts)) == [Code.NOT_THE_PATIENT, Code.OK, closed, closed, closed, closed]


def test_only_the_custodian_confirms_erasure_and_once(chain: Chain) -> None:
    chain.send(PATIENT, Withdraw(RECORD))
    receipts = chain.block(*((sender, Erased(RECORD)) for sender in (OTHER_CLINIC, PATIENT, CLINIC, CLINIC)))
    assert list(map(code, receipts)) == [Code.NOT_THE_CUSTODIAN, Code.NOT_A_MEMBER, Code.OK, Code.RECORD_ERASED]
    assert chain.read("records", "record", RECORD)[4] == RecordState.ERASED
    assert code(chain.send(CLINIC, read())) == Code.RECORD_ERASED
    assert code(chain.send(CLINIC, Register(RECORD, PATIENT.public, "Observation", 1))) == Code.RECORD_EXISTS


def test_an_access_writes_no_state(chain: Chain) -> None:
    chain.send(PATIENT, grant(RECORD))
    result = chain.execute([chain.transaction(INSURER, read())])
    assert result.receipts[0].ok
    assert result.changes == {}


def test_the_largest_grant_fits_one_transaction(chain: Chain) -> None:
    commitments = tuple(hash_bytes(number.to_bytes(2, "big")) for number in range(records.RECORDS_PER_GRANT_MAX))
    chain.block(*((CLINIC, Register(commitment, PATIENT.public, "Observation", 1)) for commitment in commitments))
    granted = chain.send(PATIENT, grant(*commitments))
    assert granted.ok
    assert chain.send(INSURER, read(commitments[-1])).ok
    assert chain.send(PATIENT, Revoke(granted.tx_id)).ok
    assert code(chain.send(INSURER, read(commitments[0]))) == Code.GRANT_REVOKED
