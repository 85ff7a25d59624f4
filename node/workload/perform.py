"""Carries out one step of business: through the EPCIS and FHIR doors, the vault, and transactions.

    transport (HTTP, or a chain in memory)  <-  Performer  <-  steps

Must not know: how a transaction becomes final, or how many nodes there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from ledger.errors import Code, Reject
from ledger.fields import Operation
from ledger.modules.payments import Claim as ClaimOperation
from ledger.modules.payments import Confirm as ConfirmOperation
from ledger.modules.payments import CreateCurrency, Policy
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
EXPONENT = 2  # decimal places of the currencies that a development chain begins with

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
    kind: str
    resource: bytes = field(repr=False)


class Performer:
    """Remembers what local names stand for, and in which money policies and currencies of the stream count.

    One for a whole stream; steps of different stories may overlap. `now_ms` tells about the chain's time.
    """

    def __init__(
        self, cast: Cast, transport: Transport, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._cast = cast
        self._transport = transport
        self._now_ms = now_ms
        self._records: dict[str, _Kept] = {}
        self._grants: dict[str, bytes] = {}
        self._currencies: dict[bytes, str] = {}  # of policies
        self._exponents: dict[str, int] = {}  # of currencies

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
                    return await self._send_as_is(sender, act.operation)
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

    async def _send_as_is(self, sender: str, operation: Operation) -> Outcome:
        """Notes the money of policies and currencies, in which later claims are to be read."""
        outcome = await self._send(sender, operation)
        match operation:
            case Policy() if outcome.code == 0:
                self._currencies[operation.policy] = operation.currency
            case CreateCurrency() if outcome.code == 0:
                self._exponents[operation.currency] = operation.exponent
        return outcome

    async def _capture(self, sender: str, act: Capture) -> Outcome:
        events = epcis.parse(loads(act.document, size_bytes_max=DOCUMENT_SIZE_BYTES_MAX))
        return await self._send(
            sender, *(operation for event in events for operation in capture.to_operations(event, self._cast))
        )

    async def _keep(self, sender: str, act: Keep) -> Outcome:
        resource = fhir.parse(act.resource)
        kind = fhir.kind_code(resource)
        patient = self._cast.key(act.patient).public
        readers = (patient, self._cast.key(sender).public, *self._transport.vault_keys(sender))
        sealed = vault.seal(act.resource, media_type=MEDIA_TYPE, recipients=tuple(dict.fromkeys(readers)))
        await self._transport.keep(sender, sealed.data)
        outcome = await self._send(sender, Register(sealed.commitment, patient, kind, len(act.resource)))
        if outcome.code == 0:
            self._records[act.record] = _Kept(sealed.commitment, sender, kind, act.resource)
        return outcome

    def _agreed(self, act: Agree) -> Grant:
        kinds = {self._kept(name).kind for name in act.records}
        terms = fhir.grant_terms(fhir.parse(act.consent), kinds, self._now_ms())
        purposes = tuple(_PURPOSES[code] for code in terms.purposes if code in _PURPOSES)
        return self._grant_of(act.records, terms.reader.removeprefix(ORGANISATION), purposes, terms.end_ms)

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
        amount = self._asked(act.document, act.policy)
        return ClaimOperation(act.claim, act.policy, amount, self._kept(act.treatment).commitment)

    def _confirmation(self, act: Confirm) -> ConfirmOperation:
        amount = self._asked(act.document, act.policy) + act.more
        return ConfirmOperation(act.claim, act.policy, act.provider, amount, self._kept(act.treatment).commitment)

    def _asked(self, document: bytes, policy: bytes) -> int:
        """The total of a FHIR Claim, in the money of an earlier policy."""
        if policy not in self._currencies:
            raise Reject(Code.UNKNOWN_POLICY)
        currency = self._currencies[policy]
        return fhir.claim_amount(fhir.parse(document), currency, self._exponents.get(currency, EXPONENT))
