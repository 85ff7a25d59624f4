"""A folder of files that others published, as a stream of steps: EPCIS documents and events, FHIR resources, claims.

Nothing in a file says who sends it here, so it is inferred: who commissions or transforms at a location is a maker, who
dispenses a pharmacy, everyone else there a distributor; a resource's custodian follows from its type. What the chain
decides is not foretold: only for files in a folder called `invalid` a refusal at the door is expected.

Must not know: how steps are carried out.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from ledger.crypto import hash_bytes
from ledger.errors import Code, ConfigError
from ledger.gs1 import DAY_MS, gtin_of
from ledger.modules.payments import CreateCurrency, Issue, Policy
from node.gateway import epcis, fhir
from node.gateway.door import DoorRefused
from node.gateway.events import Action, EpcisEvent, ObjectEvent, TransformationEvent
from node.gateway.jsonsafe import JsonRefused, loads
from node.workload.cast import Cast
from node.workload.perform import DOCUMENT_SIZE_BYTES_MAX
from node.workload.steps import AT_THE_DOOR, Allow, Bill, Capture, Confirm, Keep, Read, Revoke, Send, Step

__all__ = ["published", "published_modules"]

FILES_MAX = 10_000  # a demonstration, not an import
RECORDS_PER_FILE_MAX = 256  # one grant covers a file's records
MONEY = 10**12  # minor units issued to insurer and patients in each currency found
LICENCE_PREFIX = "LICENCE"

_MAKING = frozenset({"commissioning", "creating_class_instance"})
_DISPENSING = frozenset({"dispensing", "retail_selling"})
_CUSTODIAN = {
    "MedicationDispense": "pharmacy",
    "Claim": "insurer",
    "ClaimResponse": "insurer",
    "Coverage": "insurer",
    "ExplanationOfBenefit": "insurer",
    "PaymentReconciliation": "insurer",
}


def _files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*.json") if not path.name.startswith(LICENCE_PREFIX))
    if not found:
        raise ConfigError(f"{folder}: holds no JSON file")
    if len(found) > FILES_MAX:
        raise ConfigError(f"{folder}: holds more than {FILES_MAX} files")
    return found


def _events(data: bytes) -> list[EpcisEvent] | None:
    """The events of an EPCIS file the door lets in; None for other files and refused ones."""
    try:
        return epcis.parse(loads(data, size_bytes_max=DOCUMENT_SIZE_BYTES_MAX))
    except (DoorRefused, JsonRefused):
        return None


def _is_fhir(data: bytes) -> bool:
    try:
        value = loads(
            data, size_bytes_max=fhir.RESOURCE_SIZE_BYTES_MAX, depth_max=fhir.DEPTH_MAX, items_max=fhir.ITEMS_MAX
        )
    except JsonRefused:
        return False
    return isinstance(value, dict) and "resourceType" in value


def _gln(event: EpcisEvent) -> str:
    """Where it happened: the location number in `414/<gln>...`; empty if none is named."""
    for place in (event.read_point, event.biz_location):
        if place is not None and place.startswith("414/"):
            return place[4:17]
    return ""


def _made(event: EpcisEvent) -> tuple[str, ...]:
    """GTINs of what an event brings into being."""
    if isinstance(event, TransformationEvent):
        epcs = (*event.outputs, *(quantity.class_id for quantity in event.output_quantities))
    elif isinstance(event, ObjectEvent) and event.action is Action.ADD:
        epcs = (*event.epcs, *(quantity.class_id for quantity in event.quantities))
    else:
        return ()
    return tuple(dict.fromkeys(gtin for gtin in map(gtin_of, epcs) if gtin))


def _role(events: list[EpcisEvent]) -> str:
    """Who works at a location where all these happened."""
    if any(_made(event) or event.biz_step in _MAKING for event in events):
        return "maker"
    if any(event.biz_step in _DISPENSING for event in events):
        return "pharmacy"
    return "distributor"


def published_modules(folder: Path, modules: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`modules` (a section of genesis) in which the files' locations and product numbers belong to somebody.

    A product number is given to the maker as a licence of its own (GS1 issues single GTINs as well as prefixes).
    """
    events = [event for path in _files(folder) for event in _events(path.read_bytes()) or ()]
    at: dict[str, list[EpcisEvent]] = {}
    for event in events:
        at.setdefault(_gln(event), []).append(event)
    at.pop("", None)
    result = copy.deepcopy({name: dict(module) for name, module in modules.items()})
    by_id = {item["id"]: item for item in result["members"]["institutions"]}
    taken = {gln for item in by_id.values() for gln in item["glns"]}
    for gln, there in sorted(at.items()):
        if gln not in taken:
            by_id[_role(there)]["glns"].append(gln)
    owned = by_id["maker"]["prefixes"]
    for gtin in sorted({gtin for event in events for gtin in _made(event)}):
        if not any(gtin[1:13].startswith(prefix) for prefix in owned):
            owned.append(gtin[1:13])
    return result


def published(folder: Path, rng: Random, cast: Cast, now_ms: int) -> list[Step]:
    """Every file of the folder as steps, one story a file. Admits patients to `cast`."""
    steps: list[Step] = []
    currencies: dict[str, None] = {}
    for story, path in enumerate(_files(folder), start=1):
        data = path.read_bytes()
        if _is_fhir(data):
            steps += _fhir_story(story, rng, cast, now_ms, path, data, currencies)
        else:
            steps += _epcis_story(story, cast, path, data)
    return [*_money(cast, currencies), *steps]


def _epcis_story(story: int, cast: Cast, path: Path, data: bytes) -> Iterator[Step]:
    """A document is sent event by event: each has its own sender, and a refused one does not take others along."""
    label = f"EPCIS: {path.stem}"
    events = _events(data)
    if events is None or "invalid" in path.parts:
        yield Step(story, label, "maker", Capture(data), int(AT_THE_DOOR))
        return
    for event in events:
        document = data if len(events) == 1 else _alone(data, event)
        yield Step(story, label, _sender(cast, event), Capture(document), None)


def _sender(cast: Cast, event: EpcisEvent) -> str:
    return cast.institution_by_gln(_gln(event)) or _role([event])


def _alone(data: bytes, event: EpcisEvent) -> bytes:
    """The same document with one of its events only."""
    document = json.loads(data)
    body = document["epcisBody"]
    index = int(event.pointer.rpartition("/")[2])
    while "eventList" not in body:  # a query document wraps its results
        body = body.get("queryResults") or body["resultsBody"]
    body["eventList"] = [body["eventList"][index]]
    return json.dumps(document, ensure_ascii=False).encode()


def _fhir_story(
    story: int, rng: Random, cast: Cast, now_ms: int, path: Path, data: bytes, currencies: dict[str, None]
) -> Iterator[Step]:
    """Keep, grant, read, revoke, and a read that is refused; a claim settles as well."""
    label, me = f"FHIR: {path.stem}", f"patient-{story}"
    cast.admit(me, rng)
    try:
        whole = fhir.parse(data)
    except fhir.FhirRefused:
        yield Step(story, label, "hospital", Keep(f"{story}/0", me, data), int(AT_THE_DOOR))
        return
    parts = (fhir.entries(whole) if whole.type == "Bundle" else []) or [whole]
    custodian = _CUSTODIAN.get(parts[0].type, "hospital")
    reader = "pharmacy" if custodian == "hospital" else "hospital"
    records = []
    for index, part in enumerate(parts[:RECORDS_PER_FILE_MAX]):
        records.append(f"{story}/{index}")
        yield Step(story, f"{label}: keep", custodian, Keep(records[-1], me, part.data))
    grant = f"{story}/grant"
    allow = Allow(grant, reader, ("treatment",), now_ms + DAY_MS, tuple(records))
    first, last = Read(records[0], "treatment"), Read(records[-1], "treatment")
    yield Step(story, f"{label}: grant", me, allow)
    yield Step(story, f"{label}: read", reader, first)
    yield Step(story, f"{label}: read", reader, last)
    yield Step(story, f"{label}: revoke", me, Revoke(grant))
    yield Step(story, f"{label}: read after that", reader, first, int(Code.GRANT_REVOKED))
    if whole.type in ("Claim", "ClaimResponse", "ExplanationOfBenefit"):
        yield from _claim(story, label, rng, cast, now_ms, me, records[0], whole, currencies)


def _claim(
    story: int,
    label: str,
    rng: Random,
    cast: Cast,
    now_ms: int,
    me: str,
    treatment: str,
    document: fhir.FhirResource,
    currencies: dict[str, None],
) -> Iterator[Step]:
    """The money of a claim settles; one that names no usable amount is left out."""
    try:
        terms = fhir.claim_terms(document)
    except fhir.FhirRefused:
        return
    if terms is None or not terms.total_minor:
        return
    currencies[terms.currency] = None
    policy, ident = hash_bytes(rng.randbytes(32)), hash_bytes(rng.randbytes(32))
    total, share = terms.total_minor, 8_000
    if terms.benefit_minor is not None:
        share = min(10_000, terms.benefit_minor * 10_000 // total)
    valid = (now_ms - DAY_MS, now_ms + 365 * DAY_MS)
    patient = cast.key(me).public
    yield Step(story, f"{label}: money", "insurer", Send(Issue(terms.currency, cast.party(me), total)))
    yield Step(
        story, f"{label}: policy", "insurer",
        Send(Policy(policy, patient, terms.currency, share, None, total, total, *valid)),
    )  # fmt: skip
    yield Step(story, f"{label}: claim", "hospital", Bill(ident, policy, treatment, document.data))
    confirm = Confirm(ident, policy, "hospital", treatment, document.data)
    yield Step(story, f"{label}: it pays", me, confirm)


def _money(cast: Cast, currencies: Mapping[str, None]) -> Iterator[Step]:
    """Currencies that the chain may not have yet; for those that it has, the refusal does no harm."""
    for currency in currencies:
        create = CreateCurrency(currency, "insurer", fhir.MINOR_UNITS[currency])
        yield Step(0, f"currency {currency}", "regulator", Send(create), None)
        yield Step(0, f"money in {currency}", "insurer", Send(Issue(currency, "insurer", MONEY)))
