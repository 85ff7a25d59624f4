"""Steps of business: what someone does, as data, with the outcome that is expected.

Steps of one story follow each other: each is final before the next is sent. Stories do not depend on each other and may
run at the same time; story 0 alone comes before all others. What a later step needs of an earlier one (a record's
commitment, a grant's id) is named by a local name, known within the whole stream.

Must not know: how a step is carried out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from ledger.errors import Code
from ledger.fields import Operation

AT_THE_DOOR = Code.BAD_REQUEST  # what the standard forbids: refused before there is a transaction, with its field


@dataclass(frozen=True, slots=True)
class Capture:
    """An EPCIS 2.0 JSON document; every operation of its events is sent, in order."""

    document: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Keep:
    """A FHIR R4 JSON resource: sealed for the patient and the custodian (the sender), kept, registered as `record`."""

    record: str
    patient: str
    resource: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Agree:
    """The patient grants what a FHIR Consent says, over `records`. The grant's local name is `grant`."""

    grant: str
    consent: bytes = field(repr=False)
    records: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Allow:
    """The patient grants in plain words."""

    grant: str
    reader: str
    purposes: tuple[str, ...]
    expires_ms: int
    records: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Revoke:
    """The patient (or somebody else, who is refused) ends a grant."""

    grant: str


@dataclass(frozen=True, slots=True)
class Read:
    """The sender logs a read; if it is allowed, fetches the record from its custodian, opens and compares it.

    If it is refused, the custodian is asked all the same, and must not release the record.
    """

    record: str
    purpose: str


@dataclass(frozen=True, slots=True)
class Bill:
    """The sender (a hospital) claims the total of a FHIR Claim for a treatment, which is a kept record."""

    claim: bytes
    policy: bytes
    treatment: str
    document: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Confirm:
    """The patient confirms a bill in the words of the same FHIR Claim, with `more` minor units added."""

    claim: bytes
    policy: bytes
    provider: str
    treatment: str
    document: bytes = field(repr=False)
    more: int = 0


@dataclass(frozen=True, slots=True)
class Send:
    """An operation as it is."""

    operation: Operation


Act: TypeAlias = Capture | Keep | Agree | Allow | Revoke | Read | Bill | Confirm | Send


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that `sender` (an institution's id or a patient's local name) does.

    `expected` is the code of the first refusal, 0 if everything is accepted, None where nobody can know (published
    files). `label` says in a few words what happens; it holds nothing personal.
    """

    story: int
    label: str
    sender: str
    act: Act
    expected: int | None = 0
