"""Patients: people who do not exist, their records as FHIR R4 JSON, who may read them and who tries all the same.

Names, addresses and numbers are made up from parts that occur nowhere else, so that a search of a node's disk for them
proves something. Each resource goes to its custodian's vault; the chain learns a salted commitment.

Must not know: keys, how a record is sealed or sent, clocks. Times count back from the `now_ms` given.
Source: hl7.org/fhir/R4 (patient, encounter, observation, consent, medicationdispense, documentreference).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

from ledger.errors import Code
from ledger.gs1 import DAY_MS
from node.workload.cast import Cast
from node.workload.steps import AT_THE_DOOR, Agree, Allow, Keep, Read, Revoke, Step

__all__ = ["Person", "care_story", "new_person", "resource"]

GRANT_DAYS = 30

# Parts of names that no language puts together this way.
_GIVEN = ("Aurelka", "Bramwyn", "Celestrine", "Dagmira", "Evandreas", "Fiorelisa", "Gudmarit", "Haruneko", "Ilsebrandt")
_FAMILY_HEAD = ("Quillen", "Varnhas", "Oyelar", "Tschern", "Lindqvar", "Mbekwan", "Zhuoyan", "Petropav", "Kauhaloa")
_FAMILY_TAIL = ("doorn", "brecht", "sikova", "fjeld", "wick", "anides", "mirska", "hagen")
_STREET = ("Quittenpfad", "Vexholm Lane", "Rue des Brumailles", "Xilinhu Nanlu", "Camino Zarzalejo")
_CITY = ("Oberwinzlach", "Thistlemouth", "Saint-Orvaux", "Qingwazhen", "Villarmejo")

_SYSTEM = "http://terminology.hl7.org/CodeSystem"
_VITALS = (
    ("8867-4", "Heart rate", "/min", 55, 100),
    ("8310-5", "Body temperature", "Cel", 36, 39),
    ("29463-7", "Body weight", "kg", 48, 110),
    ("8302-2", "Body height", "cm", 150, 195),
)

Resource = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Person:
    """A made-up patient. `name` is the local name within the stream; all else is personal."""

    name: str
    given: str
    family: str
    birth_date: str
    number: str
    phone: str
    street: str
    city: str
    female: bool

    def patient(self) -> Resource:
        return {
            "resourceType": "Patient",
            "id": self.name,
            "identifier": [{"use": "official", "system": "urn:oid:2.16.840.1.113883.4.330", "value": self.number}],
            "active": True,
            "name": [{"use": "official", "family": self.family, "given": [self.given]}],
            "telecom": [{"system": "phone", "value": self.phone, "use": "mobile"}],
            "gender": "female" if self.female else "male",
            "birthDate": self.birth_date,
            "address": [{"use": "home", "line": [self.street], "city": self.city}],
        }

    @property
    def reference(self) -> Resource:
        return {"reference": f"Patient/{self.name}", "display": f"{self.given} {self.family}"}


def new_person(rng: Random, index: int) -> Person:
    return Person(
        name=f"patient-{index}",
        given=rng.choice(_GIVEN),
        family=rng.choice(_FAMILY_HEAD) + rng.choice(_FAMILY_TAIL) + f"-{rng.choice(_FAMILY_HEAD)}",
        birth_date=f"{rng.randrange(1931, 2019)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}",
        number=f"{rng.randrange(10**17, 10**18)}",
        phone=f"+999 {rng.randrange(10**4, 10**5)} {rng.randrange(10**5, 10**6)}",
        street=f"{rng.choice(_STREET)} {rng.randrange(2, 399)}",
        city=rng.choice(_CITY),
        female=bool(rng.randrange(2)),
    )


def resource(value: Resource) -> bytes:
    """As the door takes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _concept(system: str, code: str, display: str) -> Resource:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def encounter(person: Person, at_ms: int) -> Resource:
    return {
        "resourceType": "Encounter",
        "id": f"{person.name}-visit",
        "status": "finished",
        "class": {"system": f"{_SYSTEM}/v3-ActCode", "code": "AMB", "display": "ambulatory"},
        "subject": person.reference,
        "period": {"start": _iso(at_ms), "end": _iso(at_ms + 1_800_000)},
    }


def observation(rng: Random, person: Person, at_ms: int) -> Resource:
    code, display, unit, low, high = rng.choice(_VITALS)
    return {
        "resourceType": "Observation",
        "id": f"{person.name}-{code}",
        "status": "final",
        "category": [_concept(f"{_SYSTEM}/observation-category", "vital-signs", "Vital Signs")],
        "code": _concept("http://loinc.org", code, display),
        "subject": person.reference,
        "effectiveDateTime": _iso(at_ms),
        "valueQuantity": {
            "value": rng.randrange(low, high),
            "unit": unit,
            "system": "http://unitsofmeasure.org",
            "code": unit,
        },
    }


def letter(person: Person, at_ms: int) -> Resource:
    """A discharge letter with its text inside."""
    text = f"Dear colleague, {person.given} {person.family}, born {person.birth_date}, was seen by us and may go home."
    return {
        "resourceType": "DocumentReference",
        "id": f"{person.name}-letter",
        "status": "current",
        "type": _concept("http://loinc.org", "18842-5", "Discharge summary"),
        "subject": person.reference,
        "date": _iso(at_ms),
        "content": [
            {"attachment": {"contentType": "text/plain", "data": base64.b64encode(text.encode()).decode("ascii")}}
        ],
    }


def dispense(person: Person, at_ms: int) -> Resource:
    return {
        "resourceType": "MedicationDispense",
        "id": f"{person.name}-dispense",
        "status": "completed",
        "medicationCodeableConcept": _concept("http://www.whocc.no/atc", "J01CA04", "amoxicillin"),
        "subject": person.reference,
        "quantity": {"value": 20, "unit": "tablet"},
        "whenHandedOver": _iso(at_ms),
    }


def consent(person: Person, reader: str, now_ms: int) -> Resource:
    """The patient permits one institution to read for treatment, for a month."""
    return {
        "resourceType": "Consent",
        "id": f"{person.name}-consent",
        "status": "active",
        "scope": _concept(f"{_SYSTEM}/consentscope", "patient-privacy", "Privacy Consent"),
        "category": [_concept("http://loinc.org", "59284-0", "Consent Document")],
        "patient": person.reference,
        "dateTime": _iso(now_ms - DAY_MS),
        "policyRule": _concept(f"{_SYSTEM}/v3-ActCode", "OPTOUT", "opt-out"),
        "provision": {
            "type": "permit",
            "period": {"start": _iso(now_ms - DAY_MS), "end": _iso(now_ms + GRANT_DAYS * DAY_MS)},
            "actor": [
                {
                    "role": _concept(f"{_SYSTEM}/v3-ParticipationType", "IRCP", "information recipient"),
                    "reference": {"reference": f"Organization/{reader}"},
                }
            ],
            "purpose": [{"system": f"{_SYSTEM}/v3-ActReason", "code": "TREAT"}],
        },
    }


def care_story(rng: Random, cast: Cast, story: int, now_ms: int, person: Person) -> Iterator[Step]:
    """A visit: records kept, the pharmacy allowed to read, others refused, then the consent taken back."""
    me, at_ms = person.name, now_ms - rng.randrange(1, 300) * DAY_MS

    def keep(custodian: str, name: str, value: Resource, expected: int = 0) -> Step:
        kind = str(value["resourceType"])
        return Step(
            story, f"keep a record: {kind}", custodian, Keep(f"{me}/{name}", me, resource(value)), int(expected)
        )

    def read(reader: str, name: str, expected: int = 0, purpose: str = "treatment") -> Step:
        label = "read a record" if expected == 0 else "try to read a record"
        return Step(story, label, reader, Read(f"{me}/{name}", purpose), int(expected))

    given = (f"{me}/visit", f"{me}/vitals", f"{me}/letter")
    agreed = consent(person, "pharmacy", now_ms)
    yield keep("hospital", "person", person.patient())
    yield keep("hospital", "visit", encounter(person, at_ms))
    yield keep("hospital", "vitals", observation(rng, person, at_ms))
    yield keep("hospital", "letter", letter(person, at_ms))
    yield keep("hospital", "consent", agreed)
    yield read("pharmacy", "letter", Code.NOT_GRANTED)
    yield Step(story, "grant by consent", me, Agree(f"{me}/grant", resource(agreed), given))
    yield read("pharmacy", "letter")
    yield read("pharmacy", "vitals")
    yield read("pharmacy", "person", Code.NOT_GRANTED)
    yield read("pharmacy", "letter", Code.PURPOSE_NOT_GRANTED, purpose="research")
    yield read("insurer", "letter", Code.NOT_GRANTED)
    yield keep("pharmacy", "dispense", dispense(person, at_ms + DAY_MS))
    yield read("hospital", "visit")
    yield Step(story, "try to revoke another's grant", "insurer", Revoke(f"{me}/grant"), int(Code.NOT_THE_PATIENT))
    yield Step(story, "revoke", me, Revoke(f"{me}/grant"))
    yield read("pharmacy", "letter", Code.GRANT_REVOKED)
    if rng.randrange(4) == 0:
        yield from _mistakes(story, now_ms, person)


def _mistakes(story: int, now_ms: int, person: Person) -> Iterator[Step]:
    """What the door and the rules stop: a grant that is over, a record from one who keeps none, a bad resource."""
    me = person.name
    over = Allow(f"{me}/over", "pharmacy", ("treatment",), now_ms - DAY_MS, (f"{me}/visit",))
    yield Step(story, "grant what is over", me, over, int(Code.GRANT_EXPIRED))
    foreign = Allow(f"{me}/foreign", "insurer", ("payment",), now_ms + DAY_MS, (f"{me}/visit",))
    yield Step(story, "grant another's record", "pharmacy", foreign, int(Code.NOT_THE_PATIENT))
    bad = person.patient() | {"gender": "unsaid", "birthDate": "31 May"}
    yield Step(story, "keep a bad resource", "hospital", Keep(f"{me}/bad", me, resource(bad)), int(AT_THE_DOOR))
