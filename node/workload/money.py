"""Money: transfers and escrow between institutions, and treatments that pay by themselves.

A FHIR Claim is the hospital's and the patient's common text: both sign its total, insurer and patient pay in the same
block. What must not work is tried too: a claim sent twice, a confirmed amount that differs, more than there is.

Must not know: keys, balances, how anything is sent.
Source: hl7.org/fhir/R4/claim.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any

from ledger.crypto import hash_bytes
from ledger.errors import Code
from ledger.gs1 import DAY_MS
from ledger.modules.payments import Issue, Policy, Transfer
from node.workload.care import Person, resource
from node.workload.cast import Cast
from node.workload.steps import Bill, Confirm, Keep, Send, Step

__all__ = ["CURRENCY", "claim_story", "transfer_story"]

CURRENCY = "CNY"
SHARE = 8_000  # basis points that the insurer pays
COPAY_MAX = 50_000
CLAIM_MAX = 200_000
TOTAL_MAX = 1_000_000
POCKET = 500_000  # what a patient's account gets, in minor units

_SYSTEM = "http://terminology.hl7.org/CodeSystem"
_SERVICES = (("9930", "consultation"), ("8010", "radiograph"), ("7200", "laboratory panel"), ("4505", "small surgery"))


def claim(rng: Random, person: Person, number: int, now_ms: int, total_minor: int) -> dict[str, Any]:
    """A FHIR Claim of two items that sum to `total_minor`."""
    first = total_minor * rng.randrange(20, 80) // 100
    day = datetime.fromtimestamp(now_ms // 1000, UTC).strftime("%Y-%m-%d")

    def money(minor: int) -> dict[str, Any]:
        return {"value": minor // 100 if minor % 100 == 0 else minor / 100, "currency": CURRENCY}

    def item(sequence: int, minor: int) -> dict[str, Any]:
        code, text = rng.choice(_SERVICES)
        return {
            "sequence": sequence,
            "productOrService": {"coding": [{"system": "urn:medchain:services", "code": code}], "text": text},
            "servicedDate": day,
            "net": money(minor),
        }

    return {
        "resourceType": "Claim",
        "id": f"{person.name}-claim-{number}",
        "status": "active",
        "type": {"coding": [{"system": f"{_SYSTEM}/claim-type", "code": "professional"}]},
        "use": "claim",
        "patient": person.reference,
        "created": day,
        "insurer": {"reference": "Organization/insurer"},
        "provider": {"reference": "Organization/hospital"},
        "priority": {"coding": [{"code": "normal"}]},
        "insurance": [{"sequence": 1, "focal": True, "coverage": {"reference": f"Coverage/{person.name}"}}],
        "item": [item(1, first), item(2, total_minor - first)],
        "total": money(total_minor),
    }


def claim_story(rng: Random, cast: Cast, story: int, now_ms: int, person: Person) -> Iterator[Step]:
    """A policy and a treatment that settles; then what must not. Follows a care story, whose visit is the treatment."""
    me = person.name
    policy = hash_bytes(rng.randbytes(32))
    patient = cast.key(me).public
    visit = f"{me}/visit"
    valid = (now_ms - DAY_MS, now_ms + 365 * DAY_MS)
    terms = Policy(policy, patient, CURRENCY, SHARE, COPAY_MAX, CLAIM_MAX, TOTAL_MAX, *valid)
    yield Step(story, "issue money", "insurer", Send(Issue(CURRENCY, cast.party(me), POCKET)))
    yield Step(story, "policy", "insurer", Send(terms))
    total = rng.randrange(20_000, CLAIM_MAX)
    document = resource(claim(rng, person, 1, now_ms, total))
    ident = hash_bytes(rng.randbytes(32))
    bill, confirm = Bill(ident, policy, visit, document), Confirm(ident, policy, "hospital", visit, document)
    yield Step(story, "keep a record: Claim", "hospital", Keep(f"{me}/claim", me, document))
    if rng.randrange(2):
        yield Step(story, "claim", "hospital", bill)
        more = Confirm(ident, policy, "hospital", visit, document, more=1)
        yield Step(story, "confirm another amount", me, more, int(Code.CLAIM_DIFFERS))
        yield Step(story, "confirm a claim: it pays", me, confirm)
    else:
        yield Step(story, "confirm ahead of the claim", me, confirm)
        yield Step(story, "claim: it pays", "hospital", bill)
    yield Step(story, "claim twice", "hospital", bill, int(Code.CLAIM_EXISTS))
    dear = resource(claim(rng, person, 2, now_ms, CLAIM_MAX + 100))
    over = Bill(hash_bytes(rng.randbytes(32)), policy, visit, dear)
    yield Step(story, "claim above the policy", "hospital", over, int(Code.LIMIT_EXCEEDED))
    beyond = Transfer(CURRENCY, "pharmacy", POCKET, "all of it")  # the co-payment is gone from it
    yield Step(story, "spend more than there is", me, Send(beyond), int(Code.INSUFFICIENT_FUNDS))


def transfer_story(rng: Random, cast: Cast, story: int, count: int) -> Iterator[Step]:
    """Invoices between institutions."""
    for number in range(count):
        payer, payee = rng.sample(cast.institutions, 2)
        operation = Transfer(CURRENCY, payee, rng.randrange(1, 100_000), f"invoice {story}-{number}")
        yield Step(story, "pay an invoice", payer, Send(operation))
