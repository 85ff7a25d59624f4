"""The door for HL7 FHIR R4 resources in JSON: what comes in is a valid resource, or is refused with the field named.

Lives here: reading a resource, splitting a bundle into records, and the few facts that the rules and the demo need:
kind of record, terms of a consent, total of a claim, outcome of a dispense. None of these facts holds personal data; a
refusal names JSON pointers and short reasons, never a value.

Must not know: the chain, keys, files. Source: hl7.org/fhir/R4 (json.html, consent.html, claim.html); ISO 4217.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, localcontext
from typing import Any, Final

from node.gateway.fhir_check import Json, Problem, epoch_ms, problems_of
from node.gateway.jsonsafe import JsonRefused, loads

__all__ = [
    "ClaimTerms",
    "ConsentRule",
    "ConsentTerms",
    "DispenseTerms",
    "FhirRefused",
    "FhirResource",
    "GrantTerms",
    "Problem",
    "claim_amount",
    "claim_terms",
    "consent_terms",
    "dispense_terms",
    "entries",
    "grant_terms",
    "kind_code",
    "parse",
    "personal_strings",
]

RESOURCE_SIZE_BYTES_MAX: Final = 16 * 1024 * 1024  # what the vault seals as one record
DEPTH_MAX: Final = 64  # published code systems in a bundle nest to about 30
ITEMS_MAX: Final = 500_000  # a patient's bundle of 270 KB has 15,000; this is about 150 MB of Python objects
MONEY_PLACES_MAX: Final = 30  # digits of an amount; far beyond any sum of money, small enough to compute with
TOTAL_MINOR_MAX: Final = 2**63 - 1  # what the chain's codec holds


def _minor_units() -> dict[str, int]:
    """ISO 4217: the active currencies with their decimal places; metals and test codes, which have none, are absent."""
    none = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
    three, four = "BHD IQD JOD KWD LYD OMR TND", "CLF UYW"
    two = """AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE
    CHF CHW CNY COP COU CRC CUC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD
    HKD HNL HRK HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK
    MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB
    SAR SBD SCR SDG SEK SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD
    USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG ZWL"""
    return {code: places for places, codes in ((0, none), (2, two), (3, three), (4, four)) for code in codes.split()}


MINOR_UNITS: Final[Mapping[str, int]] = _minor_units()
UNSAID: Final = ("action", "code", "data", "dataPeriod", "securityLabel")  # conditions of a consent that no grant has


class FhirRefused(ValueError):
    """The bytes are not a valid FHIR R4 resource, by the sender's fault. Holds no value of it, only where and why."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        self.pointer = problems[0].pointer
        self.reason = problems[0].reason
        super().__init__("; ".join(f"{problem.pointer or '/'}: {problem.reason}" for problem in problems))


@dataclass(frozen=True, slots=True)
class FhirResource:
    """A valid resource: its type, its parsed JSON (fractions as Decimal) and the bytes to be sealed as its record.

    `data` is what was received, or for an entry of a bundle its canonical re-writing (same members, order and digits).
    `repr` shows the type only.
    """

    type: str
    value: Json = field(repr=False)
    data: bytes = field(repr=False)


def parse(data: bytes) -> FhirResource:
    """The resource that `data` holds, contained resources and bundle entries checked too; otherwise FhirRefused."""
    try:
        value = loads(data, size_bytes_max=RESOURCE_SIZE_BYTES_MAX, depth_max=DEPTH_MAX, items_max=ITEMS_MAX)
    except JsonRefused as refused:
        where = refused.pointer_or_offset
        if isinstance(where, int):
            raise FhirRefused((Problem("", f"{refused.reason} (at {where})"),)) from None
        raise FhirRefused((Problem(where or "", refused.reason),)) from None
    if problems := problems_of(value):
        raise FhirRefused(problems)
    assert isinstance(value, dict)
    return FhirResource(value["resourceType"], value, data)


def entries(bundle: FhirResource) -> list[FhirResource]:
    """The resources of a Bundle, each to be a record of its own; a bundle in a bundle stays one. Others: ValueError."""
    if bundle.type != "Bundle":
        raise ValueError("only a Bundle has entries")
    found = [entry["resource"] for entry in bundle.value.get("entry", ()) if "resource" in entry]
    return [FhirResource(value["resourceType"], value, _dump(value).encode()) for value in found]


def _dump(value: Any) -> str:
    """Compact JSON that keeps member order and the digits of every decimal, which the standard makes significant."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_dump(name)}:{_dump(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_dump, value)) + "]"
    if isinstance(value, Decimal):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


# --- Facts for the rules --------------------------------------------------------------------------------------------


def kind_code(resource: FhirResource) -> str:
    """The kind of record on the chain: the resource's type."""
    return resource.type


def _codes(concepts: Any) -> tuple[str, ...]:
    """The distinct codes of a Coding, a CodeableConcept or a list of either, in order."""
    found: dict[str, None] = {}
    for concept in concepts if isinstance(concepts, list) else [concepts] if concepts else []:
        for coding in concept.get("coding", [concept]):
            if isinstance(coding.get("code"), str):
                found[coding["code"]] = None
    return tuple(found)


@dataclass(frozen=True, slots=True)
class ConsentRule:
    """One provision. Empty `actors`, `purposes` or `kinds` (resource types): any. The period is [start_ms, end_ms),
    with None for open. Conditions of the provision around it are included.

    `actors` are references as written (`Organization/f001`): local names, to be turned into keys before any leaves.
    """

    decision: str  # "permit" or "deny"
    actors: tuple[str, ...]
    purposes: tuple[str, ...]
    kinds: tuple[str, ...]
    start_ms: int | None
    end_ms: int | None
    exceptions: tuple[ConsentRule, ...] = ()

    def decide(self, actor: str, purpose: str, kind: str, at_ms: int) -> str | None:
        """The decision of the innermost rule that applies, a denial before a permission on one level; None: no rule."""
        for asked, admitted in ((actor, self.actors), (purpose, self.purposes), (kind, self.kinds)):
            if admitted and asked not in admitted:
                return None
        if (self.start_ms is not None and at_ms < self.start_ms) or (self.end_ms is not None and at_ms >= self.end_ms):
            return None
        inner = [decision for rule in self.exceptions if (decision := rule.decide(actor, purpose, kind, at_ms))]
        if not inner:
            return self.decision
        return "deny" if "deny" in inner else "permit"


@dataclass(frozen=True, slots=True)
class ConsentTerms:
    """What a Consent says: `rule` is its root provision; `base` decides where that does not apply."""

    status: str
    base: str  # "permit" or "deny"
    rule: ConsentRule

    def permits(self, actor: str, purpose: str, kind: str, at_ms: int) -> bool:
        """Whether this consent lets `actor` read a record of that kind for `purpose` at that time."""
        if self.status != "active":
            return False
        return (self.rule.decide(actor, purpose, kind, at_ms) or self.base) == "permit"


def consent_terms(resource: FhirResource) -> ConsentTerms | None:
    """The terms of a Consent (consent.html, 6.2.5); None for other resources. Where R4 leaves a reading open, the one
    that discloses less is taken:

    - a root provision with a `type` is an exception to the base policy (permit for OPTIN, otherwise deny); one without
      bounds the whole consent: it decides as the policy does, or denies where exceptions permit, and nothing is
      permitted outside it;
    - an exception without `type` denies; its conditions are cut to those of the provision around it.

    Conditions of `UNSAID` are not in the terms: `grant_terms` refuses them.
    """
    if resource.type != "Consent":
        return None
    value = resource.value
    policy = "permit" if "OPTIN" in _codes(value.get("policyRule")) else "deny"
    status = value.get("status", "")
    anyone = ConsentRule(policy, (), (), (), None, None)
    provision = value.get("provision")
    if provision is None:
        return ConsentTerms(status, policy, anyone)
    if "type" in provision:
        base, decision = policy, provision["type"]
    else:
        lists_permits = any(inner.get("type") == "permit" for inner in provision.get("provision", ()))
        base, decision = "deny", "deny" if lists_permits else policy
    return ConsentTerms(status, base, _rule(provision, anyone, decision) or ConsentRule("deny", (), (), (), None, None))


def _rule(provision: Json, parent: ConsentRule, decision: str) -> ConsentRule | None:
    """The rule of a provision inside `parent`, or None if it can never apply there."""
    references = [actor.get("reference", {}).get("reference") for actor in provision.get("actor", ())]
    named = tuple(dict.fromkeys(reference for reference in references if reference is not None))
    if len(named) < len(references) and not named and decision == "permit":
        return None  # permitted to someone whom only a display name describes: to nobody
    if None in references and decision == "deny":
        named = ()  # denied to someone we cannot name: to all
    actors = _narrowed(named, parent.actors)
    purposes = _narrowed(_codes(provision.get("purpose")), parent.purposes)
    kinds = _narrowed(_codes(provision.get("class")), parent.kinds)
    if actors is None or purposes is None or kinds is None:
        return None
    period = provision.get("period", {})
    start_ms, end_ms = parent.start_ms, parent.end_ms
    if "start" in period:
        start_ms = max(epoch_ms(period["start"], end=False), start_ms if start_ms is not None else -(2**63))
    if "end" in period:
        end_ms = min(epoch_ms(period["end"], end=True), end_ms if end_ms is not None else 2**63)
    bare = ConsentRule(decision, actors, purposes, kinds, start_ms, end_ms)
    inner = (_rule(item, bare, item.get("type", "deny")) for item in provision.get("provision", ()))
    return replace(bare, exceptions=tuple(rule for rule in inner if rule is not None))


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """What one grant says from when it is given until before `end_ms`. `reader` and `purposes` as in ConsentRule."""

    reader: str
    purposes: tuple[str, ...]
    end_ms: int


def grant_terms(resource: FhirResource, kinds: Collection[str], at_ms: int) -> GrantTerms:
    """The grant that a Consent is, if given at `at_ms` over records of these kinds, or of any where none is named.

    FhirRefused unless one grant says no more than the consent: it is in force, permits one reader until an end, and
    excepts nothing from that. A base policy that permits more counts for nothing: what is granted must be written.
    """
    terms = consent_terms(resource)
    if terms is None:
        raise _refused("/resourceType", "not a Consent")
    if terms.status != "active":
        raise _refused("/status", "not active")
    for name in UNSAID:
        if _conditioned(resource.value.get("provision", {}), name):
            raise _refused(f"/provision/{name}", "a condition that no grant can express")
    rule = terms.rule
    while rule.decision == "deny" and len(rule.exceptions) == 1:
        rule = rule.exceptions[0]  # which is cut to the conditions around it, so that nothing else matters
    if rule.decision != "permit" or rule.exceptions:
        raise _refused("/provision", "one permission without exceptions is needed for one grant")
    if len(rule.actors) != 1:
        raise _refused("/provision/actor", "one reader is needed for one grant")
    if not rule.purposes:
        raise _refused("/provision/purpose", "a grant needs its purposes")
    if rule.end_ms is None or not (rule.start_ms or 0) <= at_ms < rule.end_ms:
        raise _refused("/provision/period", "a grant begins at once and needs an end ahead")
    if not all(rule.decide(rule.actors[0], code, kind, at_ms) for code in rule.purposes for kind in kinds or ("",)):
        raise _refused("/provision/class", "does not permit every kind of these records")
    return GrantTerms(rule.actors[0], rule.purposes, rule.end_ms)


def _conditioned(provision: Json, name: str) -> bool:
    """Whether the provision or one inside has this condition."""
    return name in provision or any(_conditioned(inner, name) for inner in provision.get("provision", ()))


def _narrowed(own: tuple[str, ...], parent: tuple[str, ...]) -> tuple[str, ...] | None:
    """What both admit, where empty admits all; None if nothing."""
    if not own or not parent:
        return own or parent
    return tuple(name for name in own if name in parent) or None


@dataclass(frozen=True, slots=True)
class ClaimTerms:
    """The money of a Claim, ClaimResponse or ExplanationOfBenefit, in the currency's minor units (ISO 4217)."""

    status: str
    currency: str
    total_minor: int
    benefit_minor: int | None  # what the insurer pays, where a total of that category says so
    items_count: int


def claim_terms(resource: FhirResource) -> ClaimTerms | None:
    """The terms of a claim, its answer or its explanation; None for other resources and for one that names no amount.

    The total is the stated one (of the category `submitted`), else the sum of the items. FhirRefused if currencies are
    mixed, missing or without minor units, an amount is negative or no whole number of minor units, or only some of the
    items that are to be summed name theirs.
    """
    if resource.type not in ("Claim", "ClaimResponse", "ExplanationOfBenefit"):
        return None
    value = resource.value
    items = value.get("item", [])
    stated = value.get("total")
    submitted: list[_Amount] = []
    benefit: list[_Amount] = []
    if isinstance(stated, dict):
        submitted = [_Amount("/total", stated)]
    for index, entry in enumerate(stated if isinstance(stated, list) else ()):
        amount = _Amount(f"/total/{index}/amount", entry["amount"])
        codes = _codes(entry["category"])
        if "submitted" in codes:
            submitted.append(amount)
        elif "benefit" in codes:
            benefit.append(amount)
    if not submitted:
        asked = [_item_amounts(item, f"/item/{index}") for index, item in enumerate(items)]
        submitted = [amount for amounts in asked for amount in amounts]
        if submitted and [] in asked:
            raise _refused(f"/item/{asked.index([])}", "names no amount, though others do")
    if not submitted and not benefit:
        return None
    currencies = {_currency(amount): amount for amount in (*submitted, *benefit)}
    if len(currencies) > 1:
        raise _refused(list(currencies.values())[1].pointer + "/currency", "another currency than before")
    currency = next(iter(currencies))
    benefit_minor = _sum_minor(benefit, currency) if benefit else None
    total_minor = _sum_minor(submitted, currency) if submitted else benefit_minor
    assert total_minor is not None
    return ClaimTerms(value.get("status", ""), currency, total_minor, benefit_minor, len(items))


def claim_amount(resource: FhirResource, currency: str, exponent: int) -> int:
    """What an active claim asks of a payer in `currency`, which counts in `exponent` decimal places; FhirRefused if it
    is not in force, or in other money."""
    terms = claim_terms(resource)
    if terms is None:
        raise _refused("/total", "the claim names no amount")
    if terms.status != "active":
        raise _refused("/status", "not active")
    if terms.currency != currency:
        raise _refused("/total/currency", "another currency than the policy's")
    if MINOR_UNITS[currency] != exponent:
        raise _refused("/total/currency", "the chain counts this currency in other decimal places")
    return terms.total_minor


@dataclass(frozen=True, slots=True)
class _Amount:
    pointer: str
    money: Json
    factor: Decimal = Decimal(1)


def _item_amounts(item: Json, pointer: str) -> list[_Amount]:
    """What one item asks: its net, else price by quantity by factor, else what an answer repeats as submitted."""
    if "net" in item:
        return [_Amount(f"{pointer}/net", item["net"])]
    if "unitPrice" in item:
        factor = Decimal(item.get("quantity", {}).get("value", 1)) * Decimal(item.get("factor", 1))
        return [_Amount(f"{pointer}/unitPrice", item["unitPrice"], factor)]
    return [
        _Amount(f"{pointer}/adjudication/{index}/amount", part["amount"])
        for index, part in enumerate(item.get("adjudication", ()))
        if "amount" in part and "submitted" in _codes(part["category"])
    ]


def _currency(amount: _Amount) -> str:
    currency = amount.money.get("currency")
    if not isinstance(currency, str):
        raise _refused(amount.pointer + "/currency", "required")
    if currency not in MINOR_UNITS:
        raise _refused(amount.pointer + "/currency", "not an active ISO 4217 currency with minor units")
    return currency


def _sum_minor(amounts: list[_Amount], currency: str) -> int:
    total_minor = 0
    for amount in amounts:
        pointer = amount.pointer + "/value"
        if "value" not in amount.money:
            raise _refused(pointer, "required")
        # Exact: whole numbers of the smallest decimal place, so that no context rounds.
        number = _product(Decimal(amount.money["value"]), amount.factor)
        sign, digits, exponent = number.as_tuple()
        assert isinstance(exponent, int)
        places = exponent + MINOR_UNITS[currency]
        if abs(places) > MONEY_PLACES_MAX or len(digits) > MONEY_PLACES_MAX:
            raise _refused(pointer, "amount out of range")
        whole = int("".join(map(str, digits)))
        minor, rest = (whole * 10**places, 0) if places >= 0 else divmod(whole, 10**-places)
        if rest:
            raise _refused(pointer, "not a whole number of the currency's minor units")
        if sign and minor:
            raise _refused(pointer, "negative")
        total_minor += minor
        if total_minor > TOTAL_MINOR_MAX:
            raise _refused(pointer, "amount out of range")
    return total_minor


def _product(value: Decimal, factor: Decimal) -> Decimal:
    with localcontext() as context:
        context.prec = 3 * MONEY_PLACES_MAX
        return value * factor


def _refused(pointer: str, reason: str) -> FhirRefused:
    return FhirRefused((Problem(pointer, reason),))


@dataclass(frozen=True, slots=True)
class DispenseTerms:
    """Outcome and amount of a MedicationDispense; `unit_code` as in the Quantity."""

    status: str
    quantity: Decimal | None
    unit_code: str | None


def dispense_terms(resource: FhirResource) -> DispenseTerms | None:
    """The terms of a MedicationDispense; None for other resources."""
    if resource.type != "MedicationDispense":
        return None
    quantity = resource.value.get("quantity", {})
    amount = Decimal(quantity["value"]) if "value" in quantity else None
    return DispenseTerms(resource.value.get("status", ""), amount, quantity.get("code"))


# --- For the search that proves nothing personal leaked -------------------------------------------------------------

PERSONAL_CHARS_MIN: Final = 4  # shorter ones ("MA", "J") occur in any file by chance and prove nothing


def personal_strings(resource: FhirResource) -> set[str]:
    """Names, full birth dates, identifiers, addresses and telecom of every patient (and relative) in a resource.

    Looked for in Patient, RelatedPerson and Person, also contained or in bundles, and in the display names of
    references to them. For a test that searches each node's disk; never to be logged.
    """
    found: set[str] = set()
    _collect(resource.value, found)
    return {text for text in found if len(text) >= PERSONAL_CHARS_MIN}


def _collect(value: Any, found: set[str]) -> None:
    if isinstance(value, list):
        for item in value:
            _collect(item, found)
    elif isinstance(value, dict):
        if value.get("resourceType") in ("Patient", "RelatedPerson", "Person"):
            _collect_person(value, found)
        if str(value.get("reference", "")).startswith(("Patient/", "RelatedPerson/", "Person/")) and "display" in value:
            found.add(value["display"])
        for item in value.values():
            _collect(item, found)


def _collect_person(person: Json, found: set[str]) -> None:
    parts = [person, *person.get("contact", ())]
    for extension in person.get("extension", ()):
        if extension.get("url", "").endswith("/patient-mothersMaidenName"):
            found.update(_texts(extension, ("valueString",)))
        if "valueAddress" in extension:
            parts.append({"address": extension["valueAddress"]})
    for part in parts:
        for name in _listed(part.get("name")):
            found.update(_texts(name, ("text", "family", "given")))
        for address in _listed(part.get("address")):
            found.update(_texts(address, ("text", "line", "city", "district", "postalCode")))
        for contact in _listed(part.get("telecom")):
            found.update(_texts(contact, ("value",)))
        for identifier in _listed(part.get("identifier")):
            found.update(_texts(identifier, ("value",)))
    if len(birth := person.get("birthDate", "")) == len("2000-01-01"):
        found.add(birth)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _texts(value: Json, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        yield from (text for text in _listed(value.get(name)) if isinstance(text, str))
