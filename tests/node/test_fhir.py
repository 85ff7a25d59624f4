"""The FHIR door: published R4 resources come in, wrong ones are refused by their field, no refusal holds a value."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.gateway import fhir
from node.gateway.fhir import (
    ClaimTerms,
    DispenseTerms,
    FhirRefused,
    FhirResource,
    GrantTerms,
    claim_amount,
    claim_terms,
    consent_terms,
    dispense_terms,
    entries,
    grant_terms,
    kind_code,
    parse,
    personal_strings,
)

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("MEDCHAIN_TEST_DATA", ROOT.parent / "shared" / "data"))


def published(folder: str) -> list[Path]:
    if not (DATA / folder).is_dir():
        if os.environ.get("CI"):
            pytest.fail("the published examples are missing")
        pytest.skip("the published examples are not here")
    return sorted(path for path in (DATA / folder).glob("*.json") if not path.name.startswith("LICENCE"))


def door(value: Any) -> FhirResource:
    return parse(json.dumps(value).encode())


def refused(value: Any) -> dict[str, str]:
    """The problems by pointer."""
    with pytest.raises(FhirRefused) as caught:
        door(value)
    return {problem.pointer: problem.reason for problem in caught.value.problems}


PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p1",
    "identifier": [{"system": "urn:oid:2.16.840.1.113883.2.4.6.3", "value": "738472983"}],
    "name": [{"family": "Wintergreen", "given": ["Isolde", "J."]}],
    "telecom": [{"system": "phone", "value": "555-2003"}],
    "gender": "female",
    "birthDate": "1971-03-09",
    "address": [{"line": ["12 Larch Lane"], "city": "Eastfield", "state": "MA", "postalCode": "02111"}],
}
CODE = {"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}
REFERENCE = {"reference": "Patient/p1"}
CONSENT: dict[str, Any] = {
    "resourceType": "Consent",
    "status": "active",
    "scope": CODE,
    "category": [CODE],
    "policyRule": {"coding": [{"code": "OPTOUT"}]},
}
CLAIM: dict[str, Any] = {
    "resourceType": "Claim",
    "status": "active",
    "type": CODE,
    "use": "claim",
    "patient": REFERENCE,
    "created": "2014-08-16",
    "provider": REFERENCE,
    "priority": CODE,
    "insurance": [{"sequence": 1, "focal": True, "coverage": REFERENCE}],
}
DISPENSE: dict[str, Any] = {
    "resourceType": "MedicationDispense",
    "status": "completed",
    "medicationCodeableConcept": CODE,
    "quantity": {"value": 10, "code": "mL"},
}
OBSERVATION: dict[str, Any] = {"resourceType": "Observation", "status": "corrected", "code": CODE}
ENCOUNTER: dict[str, Any] = {"resourceType": "Encounter", "status": "unknown", "class": {"code": "AMB"}}
DOCUMENT: dict[str, Any] = {
    "resourceType": "DocumentReference",
    "status": "current",
    "content": [{"attachment": {"contentType": "text/plain", "data": "SGVsbG8="}}],
}
AUDIT: dict[str, Any] = {
    "resourceType": "AuditEvent",
    "type": {"code": "rest"},
    "action": "R",
    "outcome": "0",
    "recorded": "2012-10-25T22:04:27+11:00",
    "agent": [{"requestor": False}],
    "source": {"observer": REFERENCE},
}
BUNDLE: dict[str, Any] = {"resourceType": "Bundle", "type": "collection"}
MINIMAL = [PATIENT, CONSENT, CLAIM, DISPENSE, OBSERVATION, ENCOUNTER, DOCUMENT, AUDIT, BUNDLE]


def extension(**value: Any) -> dict[str, Any]:
    return {"url": "http://example.org/x", **value}


# --- What comes in --------------------------------------------------------------------------------------------------


def test_published_r4_examples_are_accepted() -> None:
    for path in published("fhir"):
        resource = parse(path.read_bytes())
        assert kind_code(resource) == path.name.partition("-")[0]


def test_published_bundles_split_into_valid_records() -> None:
    for path in [*published("synthea"), *(path for path in published("fhir") if path.name.startswith("Bundle-"))]:
        bundle = parse(path.read_bytes())
        expected = [entry["resource"] for entry in bundle.value.get("entry", []) if "resource" in entry]
        records = entries(bundle)
        assert [record.value for record in records] == expected
        for record in records:
            assert parse(record.data).value == record.value


def test_published_claims_have_terms() -> None:
    totals = {path.stem: claim_terms(parse(path.read_bytes())) for path in published("fhir") if "Claim-" in path.name}
    assert totals["Claim-100153"] == ClaimTerms("active", "USD", 1_020_500, None, 3)
    assert totals["Claim-960151"] == ClaimTerms("active", "USD", 12_500, None, 1)
    for path in published("synthea"):
        claims = [terms for record in entries(parse(path.read_bytes())) if (terms := claim_terms(record))]
        assert claims
        assert all(terms.total_minor > 0 for terms in claims)


@pytest.mark.parametrize("value", MINIMAL, ids=lambda value: value["resourceType"])
def test_minimal_resources_are_accepted(value: dict[str, Any]) -> None:
    assert door(value).type == value["resourceType"]


ACCEPTED: dict[str, dict[str, Any]] = {
    "a type that R4B dropped": {"resourceType": "MedicinalProduct", "id": "m", "name": [{"productName": "x"}]},
    "a type that R4B redefined": {"resourceType": "Evidence", "status": "draft", "exposureBackground": REFERENCE},
    "a primitive with only an extension": {
        "resourceType": "Observation",
        "code": CODE,
        "_status": {"extension": [extension(valueCode="unknown")]},
    },
    "null beside an extension in an array": PATIENT
    | {"name": [{"given": ["Isolde", None], "_given": [None, {"extension": [extension(valueCode="masked")]}]}]},
    "a value that is only an extension": PATIENT
    | {"extension": [extension(_valueString={"extension": [extension(valueBoolean=True)]})]},
    "nested extensions": PATIENT | {"extension": [extension(extension=[extension(valueDecimal=1.50)])]},
    "partial dates": PATIENT | {"birthDate": "1971", "deceasedDateTime": "2020-02"},
    "a leap second": AUDIT | {"recorded": "2016-12-31T23:59:60Z"},
    "a contained resource": DISPENSE | {"contained": [{"resourceType": "Medication", "id": "m"}]},
    "a bundle in a bundle": BUNDLE | {"entry": [{"resource": BUNDLE}, {"fullUrl": "urn:uuid:x", "resource": PATIENT}]},
    "parameters with a resource": {"resourceType": "Parameters", "parameter": [{"name": "r", "resource": PATIENT}]},
    "a version-1 UUID": PATIENT | {"extension": [extension(valueUuid="urn:uuid:c757873d-ec9a-1326-a141-556f43239520")]},
    "an unusual URL": {
        "resourceType": "Endpoint",
        "status": "active",
        "connectionType": {"code": "x"},
        "payloadType": [CODE],
        "address": "mllp:10.1.1.10:9234",
    },
    "codes abbreviated by the models": {
        "resourceType": "Task",
        "status": "entered-in-error",
        "intent": "order",
        "input": [{"type": CODE, "valueString": "x"}],
    },
}


@pytest.mark.parametrize("value", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_r4_allows_is_accepted(value: dict[str, Any]) -> None:
    assert door(value).type == value["resourceType"]


def test_every_modelled_type_has_a_readable_declaration() -> None:
    """No element of any type is of a kind that the walk does not know, however deep."""
    from node.gateway import fhir_check

    seen: set[type] = set()
    waiting = [fhir_check._model(name) for name in fhir_check._TYPES]
    bound: set[tuple[str, str]] = set()
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        shape = fhir_check._shape(model)
        for name, declared in shape.fields.items():
            if declared.codes is not None:
                bound.add((shape.name, name))
                assert not declared.codes & {"+", "etc."}, (shape.name, name)
            if declared.target is not None:
                waiting.append(declared.target())
    assert len(seen) > 500
    assert {key for key, codes in fhir_check._BINDINGS.items() if codes} <= bound


# --- What is refused ------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"id": "x"}, "/resourceType"),
    ({"resourceType": "Pateint"}, "/resourceType"),
    ({"resourceType": "NutritionProduct", "status": "active"}, "/resourceType"),
    ({"resourceType": 5}, "/resourceType"),
    ({"resourceType": "os"}, "/resourceType"),
    (PATIENT | {"id": "has space"}, "/id"),
    (PATIENT | {"id": "x" * 65}, "/id"),
    (PATIENT | {"gender": "f"}, "/gender"),
    (PATIENT | {"birthDate": "1971-02-30"}, "/birthDate"),
    (PATIENT | {"birthDate": "09.03.1971"}, "/birthDate"),
    (PATIENT | {"birthDate": None}, "/birthDate"),
    (PATIENT | {"active": "true"}, "/active"),
    (PATIENT | {"multipleBirthInteger": 2.0}, "/multipleBirthInteger"),
    (PATIENT | {"multipleBirthInteger": 2, "multipleBirthBoolean": True}, "/multipleBirth[x]"),
    (PATIENT | {"nickname": "Izzy"}, "/nickname"),
    (PATIENT | {"fhir_comments": ["hello"]}, "/fhir_comments"),
    (PATIENT | {"name": {"family": "Wintergreen"}}, "/name"),
    (PATIENT | {"name": []}, "/name"),
    (PATIENT | {"name": [{}]}, "/name/0"),
    (PATIENT | {"name": [None]}, "/name/0"),
    (PATIENT | {"name": [{"given": ["Isolde", ""]}]}, "/name/0/given/1"),
    (PATIENT | {"name": [{"given": ["Isolde", None]}]}, "/name/0/given/1"),
    (PATIENT | {"name": [{"use": "stagename"}]}, "/name/0/use"),
    (PATIENT | {"name": [{"period": {"start": "2020", "end": "2019-05"}}]}, "/name/0/period"),
    (PATIENT | {"_name": [{"id": "x"}]}, "/_name"),
    (PATIENT | {"extension": [{"valueString": "x"}]}, "/extension/0/url"),
    (PATIENT | {"extension": [extension()]}, "/extension/0"),
    (PATIENT | {"extension": [extension(valueString="x", extension=[extension(valueCode="y")])]}, "/extension/0"),
    (PATIENT | {"extension": [extension(valueString="x", valueCode="y")]}, "/extension/0/value[x]"),
    (PATIENT | {"contained": [{"resourceType": "Nothing"}]}, "/contained/0/resourceType"),
    (PATIENT | {"contained": [PATIENT | {"contained": [DOCUMENT]}]}, "/contained/0/contained"),
    (PATIENT | {"meta": {"lastUpdated": "2015-02-07"}}, "/meta/lastUpdated"),
    (PATIENT | {"text": {"status": "generated"}}, "/text/div"),
    (CONSENT | {"status": "granted"}, "/status"),
    (CONSENT | {"provision": {"provision": [{"type": "allow"}]}}, "/provision/provision/0/type"),
    (CONSENT | {"provision": {"period": {"end": "tomorrow"}}}, "/provision/period/end"),
    ({key: item for key, item in CONSENT.items() if key != "scope"}, "/scope"),
    ({key: item for key, item in CONSENT.items() if key != "status"}, "/status"),
    (CLAIM | {"status": "paid"}, "/status"),
    (CLAIM | {"use": "refund"}, "/use"),
    (CLAIM | {"total": {"value": "125.00", "currency": "USD"}}, "/total/value"),
    (CLAIM | {"total": {"value": 125, "currency": "dollars"}}, "/total/currency"),
    (CLAIM | {"item": [{"sequence": 0, "productOrService": CODE}]}, "/item/0/sequence"),
    (CLAIM | {"created": "2014-08-16T10:00"}, "/created"),
    (DISPENSE | {"status": "dispensed"}, "/status"),
    ({key: item for key, item in DISPENSE.items() if key[:3] != "med"}, "/medication[x]"),
    (DISPENSE | {"quantity": {"value": 1, "comparator": "~"}}, "/quantity/comparator"),
    (OBSERVATION | {"status": "+"}, "/status"),
    (OBSERVATION | {"valueQuantity": {"value": True}}, "/valueQuantity/value"),
    (ENCOUNTER | {"status": "open"}, "/status"),
    (DOCUMENT | {"status": "draft"}, "/status"),
    (DOCUMENT | {"content": [{"attachment": {"data": "no base64!"}}]}, "/content/0/attachment/data"),
    (AUDIT | {"action": "READ"}, "/action"),
    (AUDIT | {"recorded": "2012-10-25T24:04:27Z"}, "/recorded"),
    (BUNDLE | {"type": "box"}, "/type"),
    (BUNDLE | {"entry": [{"resource": PATIENT | {"gender": "x"}}]}, "/entry/0/resource/gender"),
    ({"resourceType": "Evidence", "status": ""}, "/status"),
    ({"resourceType": "MedicinalProduct", "name": [{"productName": None}]}, "/name/0/productName"),
]


@pytest.mark.parametrize(("value", "pointer"), REFUSED, ids=[f"{index}{item[1]}" for index, item in enumerate(REFUSED)])
def test_bad_resource_is_refused_by_its_field_alone(value: dict[str, Any], pointer: str) -> None:
    assert list(refused(value)) == [pointer]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'"Patient"',
        b"null",
        b'{"resourceType":"Patient"',
        b'{"resourceType":"Patient"}x',
        b'{"resourceType":"Patient","id":"a","id":"b"}',
        b'{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":NaN}}',
        b'{"resourceType":"Patient","id":"\xff"}',
        b'{"resourceType":"Patient","extension":' + b"[" * 500 + b"]" * 500 + b"}",
        b" " * (fhir.RESOURCE_SIZE_BYTES_MAX + 1),
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    """Trap 34."""
    with pytest.raises(FhirRefused) as caught:
        parse(data)
    assert caught.value.reason


def test_all_problems_are_named_at_once_but_never_more_than_fifty() -> None:
    problems = refused(PATIENT | {"gender": "f", "birthDate": "x", "name": [{"use": "y"}]})
    assert set(problems) == {"/gender", "/birthDate", "/name/0/use"}
    assert len(refused(PATIENT | {"name": [{"use": "y"}] * 500})) == 50


def test_no_refusal_echoes_a_value() -> None:
    marker = "Wintergreen"
    hostile = [
        {"resourceType": marker},
        PATIENT | {"id": marker + " !"},
        PATIENT | {"gender": marker, "birthDate": marker, "active": marker, "text": {"status": marker, "div": ""}},
        PATIENT | {f"{marker} was here": 1},
        PATIENT | {"name": [{"given": [marker, 5]}], "meta": {"lastUpdated": marker}},
        CLAIM | {"total": {"value": marker, "currency": marker}},
    ]
    for value in hostile:
        with pytest.raises(FhirRefused) as caught:
            door(value)
        assert marker not in str(caught.value) + repr(caught.value) + repr(caught.value.problems)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert marker not in repr(door(PATIENT))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(PATIENT)), inner, max_size=3)
        ),
        max_leaves=12,
    ),
    st.sampled_from([*sorted(PATIENT), "contained", "extension", "_birthDate", "text"]),
)
@settings(max_examples=150, deadline=None)
def test_any_other_value_is_accepted_or_refused_but_never_breaks_the_door(value: Any, name: str) -> None:
    """Trap 35."""
    with suppress(FhirRefused):
        assert door(PATIENT | {name: value}).type == "Patient"


def test_importing_the_door_does_not_import_the_models() -> None:
    code = "import sys, node.gateway.fhir; sys.exit(any(name.startswith(('fhir', 'pydantic')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


# --- Bundles --------------------------------------------------------------------------------------------------------


def test_bundle_entry_keeps_its_digits_and_order() -> None:
    data = (
        b'{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"x"}},{"resource":'
        b'{"resourceType":"Observation","status":"final","code":{"text":"\xc3\xbc\\"\\u0007"},'
        b'"valueQuantity":{"value":1.500}}}]}'
    )
    (record,) = entries(parse(data))
    assert record.data == data[data.index(b'{"resourceType":"Obs') : -3]
    with pytest.raises(ValueError, match="only a Bundle"):
        entries(record)


# --- Consent --------------------------------------------------------------------------------------------------------

HOUR_MS = 3_600_000
ANY_MS = 0


def consent(policy: str, provision: dict[str, Any] | None = None, status: str = "active") -> fhir.ConsentTerms:
    value = CONSENT | {"policyRule": {"coding": [{"code": policy}]}, "status": status}
    terms = consent_terms(door(value | ({"provision": provision} if provision else {})))
    assert terms is not None
    return terms


def actor(*names: str) -> list[dict[str, Any]]:
    return [{"role": CODE, "reference": {"reference": name}} for name in names]


def test_consent_without_provision_is_its_policy() -> None:
    assert consent("OPTIN").permits("Organization/a", "TREAT", "Patient", ANY_MS)
    assert not consent("OPTOUT").permits("Organization/a", "TREAT", "Patient", ANY_MS)


@pytest.mark.parametrize("status", ["draft", "proposed", "rejected", "inactive", "entered-in-error"])
def test_consent_that_is_not_active_permits_nothing(status: str) -> None:
    terms = consent("OPTIN", {"type": "permit", "actor": actor("Organization/a")}, status)
    assert not terms.permits("Organization/a", "TREAT", "Patient", ANY_MS)


def test_permit_names_reader_purpose_kind_and_period() -> None:
    purpose = [{"code": "TREAT"}]
    period = {"start": "2020-01-01T01:00:00+01:00", "end": "2020-01-31"}
    provision = {"type": "permit", "actor": actor("Organization/a"), "purpose": purpose, "period": period}
    terms = consent("OPTOUT", provision | {"class": [{"code": "Observation"}]})
    rule = terms.rule
    start_ms = 1_577_836_800_000
    end_ms = start_ms + 31 * 24 * HOUR_MS
    assert (rule.decision, rule.actors, rule.purposes) == ("permit", ("Organization/a",), ("TREAT",))
    assert (rule.kinds, rule.start_ms, rule.end_ms) == (("Observation",), start_ms, end_ms)
    assert terms.permits("Organization/a", "TREAT", "Observation", start_ms)
    assert not terms.permits("Organization/b", "TREAT", "Observation", start_ms)
    assert not terms.permits("Organization/a", "ETREAT", "Observation", start_ms)
    assert not terms.permits("Organization/a", "TREAT", "Patient", start_ms)
    assert not terms.permits("Organization/a", "TREAT", "Observation", start_ms - 1)
    assert terms.permits("Organization/a", "TREAT", "Observation", end_ms - 1)
    assert not terms.permits("Organization/a", "TREAT", "Observation", end_ms)


def test_deny_in_an_opt_in_withholds_from_that_reader_only() -> None:
    terms = consent("OPTIN", {"type": "deny", "actor": actor("Organization/a")})
    assert not terms.permits("Organization/a", "TREAT", "Patient", ANY_MS)
    assert terms.permits("Organization/b", "TREAT", "Patient", ANY_MS)


def test_nested_provisions_are_exceptions_to_the_one_around_them() -> None:
    denied = {"type": "deny", "class": [{"code": "Observation"}]}
    outer = {"type": "permit", "actor": actor("Organization/a", "Organization/b")}
    terms = consent("OPTOUT", outer | {"provision": [denied | {"actor": actor("Organization/a", "Organization/c")}]})
    assert not terms.permits("Organization/a", "TREAT", "Observation", ANY_MS)
    assert terms.permits("Organization/a", "TREAT", "Patient", ANY_MS)
    assert terms.permits("Organization/b", "TREAT", "Observation", ANY_MS)
    assert not terms.permits("Organization/c", "TREAT", "Patient", ANY_MS)
    assert terms.rule.exceptions[0].actors == ("Organization/a",)


def test_denial_wins_over_permission_on_one_level() -> None:
    both = [{"type": "permit", "actor": actor("Organization/a")}, {"type": "deny", "actor": actor("Organization/a")}]
    for order in (both, both[::-1]):
        terms = consent("OPTIN", {"type": "permit", "provision": order})
        assert not terms.permits("Organization/a", "TREAT", "Patient", ANY_MS)


def test_untyped_root_bounds_the_whole_consent() -> None:
    period = {"start": "2016-06-23T17:02:33+10:00", "end": "2016-06-23T17:32:33+10:00"}
    nested = [{"type": "permit", "class": [{"code": "MedicationRequest"}], "period": {"start": "2000", "end": "2030"}}]
    terms = consent("OPTIN", {"period": period, "provision": nested})
    inside_ms = 1_466_665_353_000
    assert terms.permits("Practitioner/x", "TREAT", "MedicationRequest", inside_ms)
    assert not terms.permits("Practitioner/x", "TREAT", "Patient", inside_ms)
    assert not terms.permits("Practitioner/x", "TREAT", "MedicationRequest", inside_ms - 1)
    (rule,) = terms.rule.exceptions
    assert (rule.start_ms, rule.end_ms) == (inside_ms, inside_ms + HOUR_MS // 2)


def test_what_is_unclear_is_not_permitted() -> None:
    untyped = consent("OPTIN", {"type": "permit", "provision": [{"actor": actor("Organization/a")}]})
    assert not untyped.permits("Organization/a", "TREAT", "Patient", ANY_MS)
    nameless = [{"role": CODE, "reference": {"display": "some clinic"}}]
    assert not consent("OPTOUT", {"type": "permit", "actor": nameless}).permits("x", "TREAT", "Patient", ANY_MS)
    assert not consent("OPTIN", {"type": "deny", "actor": nameless}).permits("x", "TREAT", "Patient", ANY_MS)


@pytest.mark.parametrize(
    ("end", "end_ms"),
    [
        ("1970", 365 * 24 * HOUR_MS),
        ("1970-01", 31 * 24 * HOUR_MS),
        ("1970-12", 365 * 24 * HOUR_MS),
        ("1970-01-01", 24 * HOUR_MS),
        ("1970-01-01T01:00:00Z", HOUR_MS),
        ("1970-01-01T01:00:00.5-01:00", 2 * HOUR_MS + 500),
        ("1970-01-01T00:59:60Z", HOUR_MS),
    ],
)
def test_period_ends_with_the_last_moment_that_its_precision_means(end: str, end_ms: int) -> None:
    assert consent("OPTOUT", {"type": "permit", "period": {"end": end}}).rule.end_ms == end_ms


def test_far_dates_do_not_overflow() -> None:
    for end in ("9999", "9999-12", "9999-12-31", "0001", "0001-01-01T00:00:00+14:00"):
        consent("OPTOUT", {"type": "permit", "period": {"end": end}})


# --- From a consent to a grant ----------------------------------------------------------------------------------------

NOW_MS = 1_790_000_000_000  # in 2026
GRANTING: dict[str, Any] = {
    "type": "permit",
    "actor": actor("Organization/a"),
    "purpose": [{"code": "TREAT"}, {"code": "HRESCH"}],
    "period": {"start": "2026", "end": "2030"},
    "class": [{"code": "Observation"}, {"code": "Encounter"}],
}
OBSERVATIONS = ("Observation",)


def agreed(provision: dict[str, Any], policy: str = "OPTOUT", **more: Any) -> FhirResource:
    return door(CONSENT | {"policyRule": {"coding": [{"code": policy}]}, "provision": provision, **more})


def test_a_consent_that_permits_one_reader_is_a_grant() -> None:
    expected = GrantTerms("Organization/a", ("TREAT", "HRESCH"), 1_924_992_000_000)
    assert grant_terms(agreed(GRANTING), OBSERVATIONS, NOW_MS) == expected
    bounded = {"period": {"end": "2040"}, "provision": [GRANTING]}
    assert grant_terms(agreed(bounded), ("Observation", "Encounter"), NOW_MS) == expected


DENIAL = {"type": "deny", "actor": actor("Organization/a")}


@pytest.mark.parametrize(
    ("provision", "pointer"),
    [
        (GRANTING | {"provision": [DENIAL]}, "/provision"),
        (GRANTING | {"provision": [DENIAL | {"period": {"start": "2029"}}]}, "/provision"),
        ({"provision": [GRANTING, DENIAL | {"period": {"start": "2029"}}]}, "/provision"),
        ({"provision": [GRANTING, GRANTING]}, "/provision"),
        (DENIAL, "/provision"),
        (GRANTING | {"actor": actor("Organization/a", "Organization/b")}, "/provision/actor"),
        ({name: value for name, value in GRANTING.items() if name != "actor"}, "/provision/actor"),
        ({name: value for name, value in GRANTING.items() if name != "purpose"}, "/provision/purpose"),
        (GRANTING | {"period": {"start": "2026"}}, "/provision/period"),
        (GRANTING | {"period": {"start": "2030", "end": "2031"}}, "/provision/period"),
        (GRANTING | {"period": {"start": "2020", "end": "2025"}}, "/provision/period"),
        (GRANTING | {"class": [{"code": "Encounter"}]}, "/provision/class"),
        (GRANTING | {"code": [CODE]}, "/provision/code"),
        (GRANTING | {"dataPeriod": {"start": "2010", "end": "2011"}}, "/provision/dataPeriod"),
        ({"action": [CODE], "provision": [GRANTING]}, "/provision/action"),
    ],
)
@pytest.mark.parametrize("policy", ["OPTOUT", "OPTIN"])
def test_a_consent_that_says_less_than_a_grant_would_is_refused(
    provision: dict[str, Any], pointer: str, policy: str
) -> None:
    with pytest.raises(FhirRefused) as caught:
        grant_terms(agreed(provision, policy), OBSERVATIONS, NOW_MS)
    assert caught.value.pointer == pointer


def test_a_consent_for_some_kinds_is_no_grant_over_any_record() -> None:
    with pytest.raises(FhirRefused) as caught:
        grant_terms(agreed(GRANTING), (), NOW_MS)
    assert caught.value.pointer == "/provision/class"
    of_any = {name: value for name, value in GRANTING.items() if name != "class"}
    assert grant_terms(agreed(of_any), (), NOW_MS).reader == "Organization/a"


def test_only_an_active_consent_is_a_grant() -> None:
    with pytest.raises(FhirRefused) as caught:
        grant_terms(agreed(GRANTING, status="rejected"), OBSERVATIONS, NOW_MS)
    assert caught.value.pointer == "/status"
    with pytest.raises(FhirRefused) as caught:
        grant_terms(door(PATIENT), OBSERVATIONS, NOW_MS)
    assert caught.value.pointer == "/resourceType"


# --- Money ----------------------------------------------------------------------------------------------------------


def money(value: Any, currency: str = "USD") -> dict[str, Any]:
    return {"value": value, "currency": currency}


def item(**fields: Any) -> dict[str, Any]:
    return {"sequence": 1, "productOrService": CODE, **fields}


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [("125.50", "USD", 12_550), ("125", "JPY", 125), ("1.234", "KWD", 1_234), ("1.2345", "CLF", 12_345),
     ("0.070", "EUR", 7), ("1E+3", "CNY", 100_000), ("0", "CHF", 0), ("92233720368547758.07", "USD", 2**63 - 1)],
)  # fmt: skip
def test_claim_total_is_exact_in_minor_units(amount: str, currency: str, minor: int) -> None:
    data = json.dumps(CLAIM | {"total": money(-1, currency)}).replace('"value": -1', f'"value": {amount}').encode()
    assert claim_terms(parse(data)) == ClaimTerms("active", currency, minor, None, 0)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"total": money(1.005)}, "/total/value"),
        ({"total": money(1.5, "JPY")}, "/total/value"),
        ({"total": money(-1)}, "/total/value"),
        ({"total": money(1e300)}, "/total/value"),
        ({"total": money(1e-300)}, "/total/value"),
        ({"total": money(92233720368547758.08)}, "/total/value"),
        ({"total": money(1, "XAU")}, "/total/currency"),
        ({"total": money(1, "QQQ")}, "/total/currency"),
        ({"total": {"value": 1}}, "/total/currency"),
        ({"total": {"currency": "USD"}}, "/total/value"),
        ({"item": [item(net=money(1)), item(net=money(1, "EUR"))]}, "/item/1/net/currency"),
        ({"item": [item(net=money(1)), item(net=money(0.001))]}, "/item/1/net/value"),
        ({"item": [item(net=money(1)), item(detail=[item(net=money(9))])]}, "/item/1"),
        ({"item": [item(), item(net=money(1))]}, "/item/0"),
    ],
)
def test_claim_amount_that_cannot_be_paid_is_refused(fields: dict[str, Any], pointer: str) -> None:
    resource = door(CLAIM | fields)
    with pytest.raises(FhirRefused) as caught:
        claim_terms(resource)
    assert caught.value.pointer == pointer


def test_missing_total_is_the_sum_of_the_items() -> None:
    priced = item(unitPrice=money(10.01), quantity={"value": 3}, factor=0.5)
    whole = item(unitPrice=money(10.02), quantity={"value": 3}, factor=0.5)
    assert claim_terms(door(CLAIM | {"item": [item(net=money(0.97)), whole]})) == ClaimTerms(
        "active", "USD", 1_600, None, 2
    )
    with pytest.raises(FhirRefused):
        claim_terms(door(CLAIM | {"item": [priced]}))


def test_claim_without_any_amount_has_no_terms() -> None:
    assert claim_terms(door(CLAIM)) is None
    assert claim_terms(door(PATIENT)) is None


def test_a_claim_asks_its_total_in_the_policys_currency() -> None:
    assert claim_amount(door(CLAIM | {"total": money(120)}), "USD", 2) == 12_000


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({}, "/total"),
        ({"total": money(120, "EUR")}, "/total/currency"),
        ({"total": money(12_000, "JPY")}, "/total/currency"),
        ({"total": money(120), "status": "entered-in-error"}, "/status"),
        ({"total": money(120), "status": "draft"}, "/status"),
    ],
)
def test_a_claim_in_other_money_or_not_in_force_is_not_paid(fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(FhirRefused) as caught:
        claim_amount(door(CLAIM | fields), "USD", 2)
    assert caught.value.pointer == pointer


def test_a_currency_kept_in_other_decimal_places_than_the_claims_is_not_paid() -> None:
    with pytest.raises(FhirRefused) as caught:
        claim_amount(door(CLAIM | {"total": money(12_000, "JPY")}), "JPY", 2)
    assert caught.value.pointer == "/total/currency"
    assert claim_amount(door(CLAIM | {"total": money(12_000, "JPY")}), "JPY", 0) == 12_000


def test_answer_to_a_claim_has_total_and_benefit() -> None:
    categories = [{"coding": [{"code": code}]} for code in ("submitted", "benefit", "copay")]
    total = [
        {"category": category, "amount": money(amount)} for category, amount in zip(categories, (9, 7, 2), strict=True)
    ]
    answer = {key: value for key, value in CLAIM.items() if key not in ("provider", "priority", "insurance")}
    answer |= {"resourceType": "ClaimResponse", "insurer": REFERENCE, "outcome": "complete"}
    assert claim_terms(door(answer | {"total": total})) == ClaimTerms("active", "USD", 900, 700, 0)
    assert claim_terms(door(answer | {"total": total[1:]})) == ClaimTerms("active", "USD", 700, 700, 0)


def test_dispense_terms_are_status_and_quantity() -> None:
    assert dispense_terms(door(DISPENSE)) == DispenseTerms("completed", Decimal(10), "mL")
    assert dispense_terms(door(DISPENSE | {"quantity": {"unit": "mL"}})) == DispenseTerms("completed", None, None)
    assert dispense_terms(door(PATIENT)) is None


# --- Personal strings -----------------------------------------------------------------------------------------------


def test_personal_strings_of_a_patient_anywhere() -> None:
    expected = {"Wintergreen", "Isolde", "738472983", "555-2003", "1971-03-09", "12 Larch Lane", "Eastfield", "02111"}
    assert personal_strings(door(PATIENT)) == expected
    assert personal_strings(door(BUNDLE | {"entry": [{"resource": PATIENT}, {"resource": DISPENSE}]})) == expected
    assert personal_strings(door(DISPENSE | {"contained": [PATIENT]})) == expected


def test_personal_strings_of_relatives_and_references() -> None:
    contact = {"name": {"text": "Rowan Wintergreen"}, "telecom": [{"value": "rowan@example.org"}]}
    birth_place = {
        "url": "http://hl7.org/fhir/StructureDefinition/patient-birthPlace",
        "valueAddress": {"city": "Oldtown"},
    }
    maiden = {"url": "http://hl7.org/fhir/StructureDefinition/patient-mothersMaidenName", "valueString": "Ashgrove"}
    patient = {"resourceType": "Patient", "birthDate": "1971", "contact": [contact], "extension": [birth_place, maiden]}
    assert personal_strings(door(patient)) == {"Rowan Wintergreen", "rowan@example.org", "Oldtown", "Ashgrove"}
    subject = {"reference": "Patient/p1", "display": "I. Wintergreen"}
    performer = {"actor": {"reference": "Practitioner/d1", "display": "Dr. Larkspur"}}
    assert personal_strings(door(DISPENSE | {"subject": subject, "performer": [performer]})) == {"I. Wintergreen"}
