"""Carries out one step of business: through the EPCIS and FHIR doors, the vault, and transactions.

    transport (HTTP, or a chain in memory)  <-  Performer  <-  steps

Must not know: how a transaction becomes final, or how many nodes there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from ledger.errors import Code, Reject
from ledger.fields import Operation
from ledger.modules.payments import Claim as ClaimOperation
from ledger.modules.payments import Confirm as ConfirmOperation
from ledger.modules.records import PURPOSE_OF_USE, Access, Grant, Register
from ledger.modules.records import Revoke as RevokeOperation
from node import vault
from node.gateway import capture, epcis, fhir
from node.gateway.door import DoorRefused
from node.gateway.jsonsafe import JsonRefused, loads
from node.workload.cast import Cast
from node.workload.steps import AT_THE_DOOR, Agree, Allow, Bill, Capture, Confirm, Keep, Read, Revoke, Send, Step

__all__ = ["DOCUMENT_SIZE_BYTES_MAX", "MEDIA_TYPE", "Final", "Outcome", "Performer", "Refused", "Transport"]

MEDIA_TYPE = "application/fhir+json"
DOCUMENT_SIZE_BYTES_MAX = 8 * 1024 * 1024  # an EPCIS document; a day of a packaging line comes in parts
ORGANISATION = "Organization/"

_PURPOSES = {code: purpose for purpose, code in PURPOSE_OF_USE.items()}

Detail = tuple[str | int | bytes, ...]


@dataclass(frozen=True, slots=True)
class Final:
    """A transaction's end. `tx_id` is None if it never became one that could be ordered."""

    tx_id: bytes | None
    code: int
    detail: Detail = ()


class Refused(Exception):
    """A custodian did not keep or release a record."""


class Transport(Protocol):
    """The way to the chain and to the custodians' vaults."""

    async def submit(self, sender: str, operation: Operation) -> Final:
        """Sign as `sender`, send, wait until it is final."""
        ...

    def vault_keys(self, custodian: str) -> tuple[bytes, ...]:
        """The public keys for which a custodian's records are sealed."""
        ...

    async def keep(self, custodian: str, sealed: bytes) -> None: ...

    async def release(self, custodian: str, commitment: bytes, access: bytes) -> bytes:
        """The record, sealed for the key that signed the access. Raises Refused."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a step: the first refusal's code, or 0. `transactions`: (id, operation name, code) in order."""

    code: int
    detail: Detail = ()
    transactions: tuple[tuple[bytes | None, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Kept:
    commitment: bytes
    custodian: str
    resource: bytes = field(repr=False)


class Performer:
    """Remembers what local names stand for. One for a whole stream; steps of different stories may overlap."""

    def __init__(self, cast: Cast, transport: Transport) -> None:
        self._cast = cast
        self._transport = transport
        self._records: dict[str, _Kept] = {}
        self._grants: dict[str, bytes] = {}

    async def perform(self, step: Step) -> Outcome:
        """Carry it out. Never raises for a refusal, whoever refuses."""
        act, sender = step.act, step.sender
        try:
            match act:
                case Capture():
                    return await self._capture(sender, act)
                case Keep():
                    return await self._keep(sender, act)
                case Agree():
                    return await self._grant(sender, act.grant, self._agreed(act))
                case Allow():
                    return await self._grant(sender, act.grant, self._allowed(act))
                case Revoke():
                    return await self._send(sender, RevokeOperation(self._granted(act.grant)))
                case Read():
                    return await self._read(sender, act)
                case Bill():
                    return await self._send(sender, self._bill(act))
                case Confirm():
                    return await self._send(sender, self._confirmation(act))
                case Send():
                    return await self._send(sender, act.operation)
        except (DoorRefused, fhir.FhirRefused) as refused:
            return Outcome(int(AT_THE_DOOR), (refused.pointer or "/", refused.reason))
        except capture.CaptureRefused as refused:
            return Outcome(int(AT_THE_DOOR), (refused.pointer, refused.reason))
        except JsonRefused as refused:
            return Outcome(int(AT_THE_DOOR), (str(refused.pointer_or_offset), refused.reason))
        except Reject as reject:
            return Outcome(int(reject.code), reject.detail)

    async def _send(self, sender: str, *operations: Operation) -> Outcome:
        """All of them one after the other, also behind a refused one: the chain decides on each."""
        outcome = Outcome(0)
        for operation in operations:
            final = await self._transport.submit(sender, operation)
            done = (*outcome.transactions, (final.tx_id, operation.NAME, final.code))
            if outcome.code == 0 and final.code:
                outcome = Outcome(final.code, final.detail)
            outcome = replace(outcome, transactions=done)
        return outcome

    async def _capture(self, sender: str, act: Capture) -> Outcome:
        events = epcis.parse(loads(act.document, size_bytes_max=DOCUMENT_SIZE_BYTES_MAX))
        return await self._send(
            sender, *(operation for event in events for operation in capture.to_operations(event, self._cast))
        )

    async def _keep(self, sender: str, act: Keep) -> Outcome:
        resource = fhir.parse(act.resource)
        patient = self._cast.key(act.patient).public
        readers = (patient, self._cast.key(sender).public, *self._transport.vault_keys(sender))
        sealed = vault.seal(act.resource, media_type=MEDIA_TYPE, recipients=tuple(dict.fromkeys(readers)))
        await self._transport.keep(sender, sealed.data)
        outcome = await self._send(
            sender, Register(sealed.commitment, patient, fhir.kind_code(resource), len(act.resource))
        )
        if outcome.code == 0:
            self._records[act.record] = _Kept(sealed.commitment, sender, act.resource)
        return outcome

    def _agreed(self, act: Agree) -> Grant:
        terms = fhir.consent_terms(fhir.parse(act.consent))
        rules = () if terms is None else terms.grants()
        if len(rules) != 1 or len(rules[0].actors) != 1 or rules[0].end_ms is None:
            raise fhir.FhirRefused((fhir.Problem("/provision", "one reader and an end are needed for one grant"),))
        rule = rules[0]
        purposes = tuple(_PURPOSES[code] for code in rule.purposes if code in _PURPOSES)
        reader = rule.actors[0].removeprefix(ORGANISATION)
        assert rule.end_ms is not None
        return self._grant_of(act.records, reader, purposes, rule.end_ms)

    def _allowed(self, act: Allow) -> Grant:
        return self._grant_of(act.records, self._cast.party(act.reader), act.purposes, act.expires_ms)

    def _grant_of(self, records: tuple[str, ...], reader: str, purposes: tuple[str, ...], expires_ms: int) -> Grant:
        commitments = tuple(self._kept(name).commitment for name in records)
        return Grant(reader, purposes, expires_ms, commitments, None, None)

    async def _grant(self, sender: str, name: str, grant: Grant) -> Outcome:
        outcome = await self._send(sender, grant)
        tx_id = outcome.transactions[0][0]
        if outcome.code == 0 and tx_id is not None:
            self._grants[name] = tx_id  # a grant's id is its transaction's
        return outcome

    async def _read(self, sender: str, act: Read) -> Outcome:
        kept = self._kept(act.record)
        outcome = await self._send(sender, Access(kept.commitment, act.purpose, "demonstration"))
        access = outcome.transactions[0][0]
        if access is None:
            return outcome
        try:
            sealed = await self._transport.release(kept.custodian, kept.commitment, access)
        except Refused as refused:
            if outcome.code:
                return outcome
            return Outcome(int(Code.CHECK_FAILED), (f"not released: {refused}",), outcome.transactions)
        if outcome.code:
            return Outcome(int(Code.CHECK_FAILED), ("released without an allowed access",), outcome.transactions)
        opened = vault.open_record(sealed, self._cast.key(sender))
        if opened.plaintext != kept.resource or opened.commitment != kept.commitment:
            return Outcome(int(Code.CHECK_FAILED), ("another record was released",), outcome.transactions)
        return outcome

    def _kept(self, name: str) -> _Kept:
        """What an earlier step kept; a step whose forerunner was refused is refused here."""
        if name not in self._records:
            raise Reject(Code.UNKNOWN_RECORD)
        return self._records[name]

    def _granted(self, name: str) -> bytes:
        if name not in self._grants:
            raise Reject(Code.UNKNOWN_GRANT)
        return self._grants[name]

    def _bill(self, act: Bill) -> ClaimOperation:
        return ClaimOperation(act.claim, act.policy, _total(act.document), self._kept(act.treatment).commitment)

    def _confirmation(self, act: Confirm) -> ConfirmOperation:
        amount = _total(act.document) + act.more
        return ConfirmOperation(act.claim, act.policy, act.provider, amount, self._kept(act.treatment).commitment)


def _total(document: bytes) -> int:
    terms = fhir.claim_terms(fhir.parse(document))
    if terms is None:
        raise fhir.FhirRefused((fhir.Problem("/total", "the claim names no amount"),))
    return terms.total_minor
