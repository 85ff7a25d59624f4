"""The EPCIS 2.0 door: what the standard forbids is refused here, with the field named.

Lives here: the checks of EPCIS 2.0 JSON documents (capture document, query document, single event, list of either)
and their normalisation into the dataclasses of node/gateway/events.py. All problems of a document are collected, up to
a limit, so that a partner repairs it in one go. What the standard allows but a drug rule may refuse (an identifier of a
class where an instance is meant, a value finer than thousandths) is let in with a problem noted on the event.

The GS1 JSON schema alone is not enough: it lets unknown vocabulary, free time formats and bare extension names pass.
Where schema and prose differ in strictness, the schema's shape is kept and the prose's rules are added.

Must not know: transactions, state, or HTTP.
Sources: GS1 EPCIS 2.0 sections 7.3 (shared types), 7.4 (events), 10 (JSON binding); CBV 2.0 sections 7 and 8.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ledger.gs1 import date_valid
from node.gateway import cbv, gs1
from node.gateway.door import UOM, Context, Door, DoorRefused
from node.gateway.events import (
    Action,
    AggregationEvent,
    AssociationEvent,
    BizTransaction,
    EpcisEvent,
    ErrorDeclaration,
    ExtendedEvent,
    Ilmd,
    ObjectEvent,
    Party,
    Problem,
    Quantity,
    TransactionEvent,
    TransformationEvent,
)
from node.gateway.jsonsafe import canonical_json, pointer_join
from node.gateway.sensors import read_sensors

__all__ = ["DoorRefused", "EpcisEvent", "Problem", "parse"]

_VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)*", re.ASCII)
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})", re.ASCII)
_BLANK_NODE = re.compile(r"_:[A-Za-z0-9_.\-]+", re.ASCII)
# Namespaces of CBV's master data, as URN with each separator in use and on the web.
_MDA = (
    "urn:epcglobal:cbv:mda:",
    "urn:epcglobal:cbv:mda#",
    "urn:epcglobal:cbv:mda/",
    "urn:epcglobal:cbv:mda",
    "https://ref.gs1.org/cbv/",
    "https://ns.gs1.org/cbv/",
)


def parse(document: object) -> list[EpcisEvent]:
    """The events of a document as `jsonsafe.loads` returns it, in its order; raises DoorRefused.

    Takes an EPCISDocument, an EPCISQueryDocument, a single event, or a list of these (a capture list).
    """
    door = Door()
    events: list[EpcisEvent] = []
    if isinstance(document, list):
        for index, entry in enumerate(document):
            _parse_one(door, entry, pointer_join("", index), events)
    else:
        _parse_one(door, document, "", events)
    if door.problems:
        raise DoorRefused(door.problems)
    return events


# -- envelopes ---------------------------------------------------------------------------------------------------------

_DOCUMENT = cbv.words(
    "@context id type schemaVersion creationDate instanceIdentifier sender receiver epcisHeader epcisBody"
)


def _parse_one(door: Door, value: object, pointer: str, events: list[EpcisEvent]) -> None:
    door.context = Context({})
    if not isinstance(value, dict):
        door.refuse(pointer, "type", "must be an EPCIS document or event")
        return
    kind = value.get("type")
    if "@context" in value:
        door.context = _read_context(door, value["@context"], pointer_join(pointer, "@context"), door.context)
    else:
        door.refuse(pointer_join(pointer, "@context"), "required", "required field is missing")
    if kind in ("EPCISDocument", "EPCISQueryDocument"):
        body = _envelope(door, value, pointer, query=kind == "EPCISQueryDocument")
        if body is not None:
            entries, inner = body
            outer = door.context
            for index, entry in enumerate(door.array(entries, inner)):
                door.context = outer
                at = pointer_join(inner, index)
                if isinstance(entry, dict) and "@context" in entry:
                    door.context = _read_context(door, entry["@context"], pointer_join(at, "@context"), outer)
                _add_event(door, entry, at, events)
    else:
        _add_event(door, value, pointer, events)


def _read_context(door: Door, value: object, pointer: str, outer: Context) -> Context:
    """The prefixes of a `@context`: an address, an object, or a list of these."""
    entries = value if isinstance(value, list) else [value]
    if not entries:
        door.refuse(pointer, "context", "must not be empty")
    prefixes, is_open = dict(outer.prefixes), outer.open
    for index, entry in enumerate(entries):
        inner = pointer_join(pointer, index) if isinstance(value, list) else pointer
        if isinstance(entry, str):
            if not gs1.is_absolute_uri(entry):
                door.refuse(inner, "context", "must be an absolute URI or an object")
            is_open = is_open or not cbv.is_standard_context(entry)
        elif isinstance(entry, dict):
            for name, target in entry.items():
                target = target.get("@id") if isinstance(target, dict) else target
                if isinstance(target, str) and not name.startswith("@"):
                    prefixes[name] = target
        else:
            door.refuse(inner, "context", "must be an absolute URI or an object")
    return Context(prefixes, is_open)


def _envelope(door: Door, value: dict[str, Any], pointer: str, *, query: bool) -> tuple[object, str] | None:
    """The event list of a document and its pointer; the other members are checked on the way."""
    required = () if query else ("schemaVersion", "creationDate")
    known = _DOCUMENT - {"instanceIdentifier", "sender", "receiver", "epcisHeader"} if query else _DOCUMENT
    door.members(value, pointer, known, (*required, "epcisBody"))
    for name, member in value.items():
        inner = pointer_join(pointer, name)
        if name == "schemaVersion":
            door.matching(member, inner, _VERSION, "version", "must be a version number")
        elif name == "creationDate":
            door.time_ms(member, inner)
        elif name in ("sender", "receiver", "instanceIdentifier") and not query:
            door.text(member, inner)
        elif name == "id" and not (isinstance(member, str) and _BLANK_NODE.fullmatch(member)):
            door.uri(member, inner)
        elif name == "epcisHeader" and not query:
            _check_header(door, member, inner)
    if "epcisBody" not in value:
        return None
    body, inner = value["epcisBody"], pointer_join(pointer, "epcisBody")
    steps: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (("eventList", (), ()),)
    if query:
        steps = (
            ("queryResults", (), ()),
            ("resultsBody", ("queryName", "subscriptionID"), ("queryName",)),
            ("eventList", ("vocabularyList",), ()),
        )
    for name, others, needed in steps:
        members = door.members(body, inner, frozenset((name, *others)), (*needed, name))
        if members is None or name not in members:
            return None
        for other in ("queryName", "subscriptionID"):
            if other in others and other in members:
                door.text(members[other], pointer_join(inner, other))
        body, inner = members[name], pointer_join(inner, name)
    return body, inner


def _check_header(door: Door, value: object, pointer: str) -> None:
    """Master data in the header: only its shape, since nothing of it is kept."""
    header = door.members(value, pointer, frozenset({"epcisMasterData"}))
    if header is None or "epcisMasterData" not in header:
        return
    pointer = pointer_join(pointer, "epcisMasterData")
    data = door.members(header["epcisMasterData"], pointer, frozenset({"vocabularyList"}))
    if data is None or "vocabularyList" not in data:
        return

    def vocabulary(entry: object, inner: str) -> None:
        members = door.members(entry, inner, frozenset({"type", "vocabularyElementList"}), ("type",))
        if members is None:
            return
        if "type" in members:
            door.uri(members["type"], pointer_join(inner, "type"))
        if "vocabularyElementList" in members:
            door.each(members["vocabularyElementList"], pointer_join(inner, "vocabularyElementList"), element)

    def element(entry: object, inner: str) -> None:
        members = door.members(entry, inner, frozenset({"id", "attributes", "children"}), ("id",))
        if members is not None and "id" in members:
            door.uri(members["id"], pointer_join(inner, "id"))

    door.each(data["vocabularyList"], pointer_join(pointer, "vocabularyList"), vocabulary)


# -- events ------------------------------------------------------------------------------------------------------------


def _add_event(door: Door, value: object, pointer: str, events: list[EpcisEvent]) -> None:
    """Reads one event; it is kept only if nothing of it was refused, so that no half-read event is ever built."""
    if not isinstance(value, dict):
        door.refuse(pointer, "type", "must be an event object")
        return
    before, door.flags = len(door.problems), []
    kind = value.get("type")
    name = kind.removeprefix("epcis:") if isinstance(kind, str) else ""
    if not isinstance(kind, str) or (name not in cbv.EVENT_MEMBERS and not door.namespaced(kind)):
        at = pointer_join(pointer, "type")
        if "type" in value:
            return door.refuse(at, "event-type", "neither an event type nor a URI of another namespace")
        return door.refuse(at, "required", "required field is missing")
    fields = _read_fields(door, value, pointer, name)
    if name in _FINISH:
        _check_lists(door, name, value, fields, pointer)
    if len(door.problems) == before:
        fields["problems"] = tuple(door.flags)
        events.append(_FINISH[name](**fields) if name in _FINISH else ExtendedEvent(type=kind, **fields))


def _read_fields(door: Door, value: dict[str, Any], pointer: str, name: str) -> dict[str, Any]:
    """Every member of an event that is known, read into the field names of its dataclass."""
    known = cbv.COMMON_MEMBERS | cbv.EVENT_MEMBERS.get(name, frozenset())
    required = ["eventTime", "eventTimeZoneOffset"]
    required += ["action"] if "action" in known else []
    required += ["bizTransactionList"] if name == "TransactionEvent" else []
    # A type of another namespace may have whatever members its owner gave it.
    door.members(value, pointer, known if name in _FINISH else known | value.keys(), tuple(required))
    fields: dict[str, Any] = {"pointer": pointer, **_DEFAULTS, **_TYPE_DEFAULTS.get(name, {})}
    extensions = {}
    for member, content in value.items():
        inner = pointer_join(pointer, member)
        if member == "persistentDisposition" and member in known:
            fields["persistent_set"], fields["persistent_unset"] = _read_persistent(door, content, inner)
        elif member in known and member in _READERS:
            field, read = _READERS[member]
            fields[field] = read(door, content, inner)
        elif member not in known:
            extensions[member] = content
    if extensions:
        fields["extensions"] = canonical_json(extensions)
    return fields


def _check_lists(door: Door, name: str, value: dict[str, Any], fields: dict[str, Any], pointer: str) -> None:
    """Which combinations of objects, parent and action each type needs (EPCIS 2.0 sections 7.4.2 to 7.4.6)."""
    action = fields["action"]
    sensors = fields.get("sensor_reports")
    if name == "ObjectEvent":
        sensed = sensors and ("epcList" in value or "readPoint" in value)
        if not (value.get("epcList") or value.get("quantityList") or sensed):
            door.refuse(
                pointer_join(pointer, "epcList"), "required", "names no object: epcList or quantityList is needed"
            )
        if "ilmd" in value and action is not Action.ADD:
            door.refuse(pointer_join(pointer, "ilmd"), "ilmd", "allowed only with action ADD")
    elif name in ("AggregationEvent", "AssociationEvent"):
        if "parentID" not in value and (action is not Action.OBSERVE or name == "AssociationEvent"):
            door.refuse(pointer_join(pointer, "parentID"), "required", "required with this action")
        if not (value.get("childEPCs") or value.get("childQuantityList") or action is Action.DELETE):
            door.refuse(pointer_join(pointer, "childEPCs"), "required", "names no child: only DELETE may leave it out")
    elif name == "TransactionEvent":
        linked = "epcList" in value and ("parentID" in value or sensors)
        if not (value.get("epcList") or value.get("quantityList") or linked or action is Action.DELETE):
            door.refuse(pointer_join(pointer, "epcList"), "required", "names no object: only DELETE may leave it out")
        if value.get("bizTransactionList") == []:
            door.refuse(pointer_join(pointer, "bizTransactionList"), "required", "must not be empty")
    else:
        ins = value.get("inputEPCList") or value.get("inputQuantityList")
        outs = value.get("outputEPCList") or value.get("outputQuantityList")
        if not (ins and outs) and not ((ins or outs) and "transformationID" in value):
            missing = "outputEPCList" if ins else "inputEPCList"
            door.refuse(
                pointer_join(pointer, missing), "required", "inputs and outputs, or a transformationID, are needed"
            )


def _read_action(door: Door, value: object, pointer: str) -> Action | None:
    if isinstance(value, str) and value in Action.__members__:
        return Action[value]
    door.refuse(pointer, "action", "must be ADD, OBSERVE or DELETE")
    return None


def _read_epcs(door: Door, value: object, pointer: str) -> tuple[str, ...]:
    """Instance identifiers, each once: the lists are sets, and the schema says so."""
    epcs = door.each(value, pointer, lambda entry, inner: door.identifier(entry, inner, "instance"))
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value) and len(set(value)) != len(value):
        door.refuse(pointer, "duplicate", "the same identifier twice")
    return tuple(dict.fromkeys(epcs))


def _read_children(door: Door, value: object, pointer: str) -> tuple[str, ...]:
    children = door.each(value, pointer, lambda entry, inner: door.identifier(entry, inner, "instance"))
    return tuple(dict.fromkeys(children))


def _read_quantities(door: Door, value: object, pointer: str) -> tuple[Quantity, ...]:
    def read(entry: object, inner: str) -> Quantity | None:
        members = door.members(
            entry, inner, frozenset({"epcClass", "quantity", "uom"}), ("epcClass",), extensible=False
        )
        if members is None or "epcClass" not in members:
            return None
        class_id = door.identifier(members["epcClass"], pointer_join(inner, "epcClass"), "class")
        uom, milli = members.get("uom"), None
        if "uom" in members:
            door.matching(uom, pointer_join(inner, "uom"), UOM, "uom", "must be a UN/CEFACT Rec 20 code")
            if "quantity" not in members:
                door.refuse(pointer_join(inner, "quantity"), "required", "required where a unit is given")
        if "quantity" in members:
            at = pointer_join(inner, "quantity")
            number = door.number(members["quantity"], at)
            if number is not None and (number <= 0 or ("uom" not in members and number % 1)):
                door.refuse(at, "quantity", "must be above zero, and whole where no unit is given")
            elif number is not None:
                rounded = door.milli(number, at)
                milli = None if rounded is None else rounded[1]  # up: something never becomes nothing
        return None if class_id is None else Quantity(class_id, milli, uom)

    return door.each(value, pointer, read)


def _read_place(door: Door, value: object, pointer: str) -> str | None:
    members = door.members(value, pointer, frozenset({"id"}), ("id",))
    return None if not members or "id" not in members else door.identifier(members["id"], pointer_join(pointer, "id"))


def _read_biz_transactions(door: Door, value: object, pointer: str) -> tuple[BizTransaction, ...]:
    def read(entry: object, inner: str) -> BizTransaction | None:
        known = frozenset({"type", "bizTransaction"})
        members = door.members(entry, inner, known, ("bizTransaction",), extensible=False)
        if members is None or "bizTransaction" not in members:
            return None
        kind = None
        if "type" in members:
            at = pointer_join(inner, "type")
            kind = door.term(members["type"], at, cbv.BIZ_TRANSACTION_TYPE, "biz-transaction-type")
        name = door.identifier(members["bizTransaction"], pointer_join(inner, "bizTransaction"))
        return None if name is None else BizTransaction(kind, name)

    return door.each(value, pointer, read)


def _read_parties(member: str) -> Callable[[Door, object, str], tuple[Party, ...]]:
    def read_list(door: Door, value: object, pointer: str) -> tuple[Party, ...]:
        def read(entry: object, inner: str) -> Party | None:
            members = door.members(entry, inner, frozenset({"type", member}), ("type", member), extensible=False)
            if members is None or "type" not in members or member not in members:
                return None
            at = pointer_join(inner, "type")
            kind = door.term(members["type"], at, cbv.SOURCE_DEST_TYPE, "source-destination-type")
            name = door.identifier(members[member], pointer_join(inner, member))
            return None if kind is None or name is None else Party(kind, name)

        return door.each(value, pointer, read)

    return read_list


def _read_persistent(door: Door, value: object, pointer: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    members = door.members(value, pointer, frozenset({"set", "unset"}), extensible=False)
    if members is not None and not members:
        door.refuse(pointer, "required", "set or unset is needed")
    parts: dict[str, tuple[str, ...]] = {"set": (), "unset": ()}
    for name in ("set", "unset"):
        if not members or name not in members:
            continue
        at = pointer_join(pointer, name)
        terms = door.each(
            members[name], at, lambda entry, inner: door.term(entry, inner, cbv.DISPOSITION, "disposition"), 1
        )
        if len(set(terms)) != len(terms):
            door.refuse(at, "duplicate", "the same disposition twice")
        parts[name] = terms
    return parts["set"], parts["unset"]


# -- declarations and master data --------------------------------------------------------------------------------------


def _read_error(door: Door, value: object, pointer: str) -> ErrorDeclaration | None:
    known = frozenset({"declarationTime", "reason", "correctiveEventIDs"})
    members = door.members(value, pointer, known, ("declarationTime",))
    if members is None or "declarationTime" not in members:
        return None
    time_ms = door.time_ms(members["declarationTime"], pointer_join(pointer, "declarationTime"))
    reason: str | None = None
    ids: tuple[str, ...] = ()
    if "reason" in members:
        reason = door.term(members["reason"], pointer_join(pointer, "reason"), cbv.ERROR_REASON, "error-reason")
    if "correctiveEventIDs" in members:
        at = pointer_join(pointer, "correctiveEventIDs")
        ids = door.each(members["correctiveEventIDs"], at, door.event_id)
    rest = {name: content for name, content in members.items() if name not in known}
    return None if time_ms is None else ErrorDeclaration(time_ms, reason, ids, canonical_json(rest) if rest else b"")


_CERTIFICATION_DATES = cbv.words(
    "gs1:certificationAuditDate gs1:certificationEndDate gs1:certificationStartDate gs1:initialCertificationDate"
)
_CERTIFICATION_TEXTS = cbv.words(
    "gs1:certificationAgency gs1:certificationIdentification gs1:certificationStandard gs1:certificationStatement "
    "gs1:certificationStatus gs1:certificationSubject gs1:certificationType gs1:certificationValue"
)
_CERTIFICATION = _CERTIFICATION_DATES | _CERTIFICATION_TEXTS | {"gs1:certificationAgencyURL", "gs1:certificationURI"}


def _read_certification(door: Door, value: object, pointer: str) -> bytes:
    """A URI, or a list of URIs or of details in the terms of the GS1 web vocabulary."""

    def read(entry: object, inner: str) -> None:
        if not isinstance(entry, dict):
            door.uri(entry, inner)
            return
        members = door.members(entry, inner, frozenset(), ("gs1:CertificationDetails",))
        if members is None or "gs1:CertificationDetails" not in members:
            return
        inner = pointer_join(inner, "gs1:CertificationDetails")
        details = door.members(members["gs1:CertificationDetails"], inner, _CERTIFICATION, extensible=False) or {}
        for name, content in details.items():
            at = pointer_join(inner, name)
            if name in _CERTIFICATION_DATES:
                if _date(content) is None:
                    door.refuse(at, "date", "must be a date (ISO 8601)")
            elif name == "gs1:certificationURI":
                door.uri(content, at)
            elif name == "gs1:certificationStatus" and content not in ("ACTIVE", "INACTIVE"):
                door.refuse(at, "certification-status", "must be ACTIVE or INACTIVE")
            elif name in _CERTIFICATION_TEXTS:
                door.text(content, at)

    if isinstance(value, list):
        door.each(value, pointer, read)
    else:
        door.uri(value, pointer)
    return canonical_json(value)


def _date(value: object) -> int | None:
    """A date as YYYYMMDD; None if it is none."""
    match = _DATE.fullmatch(value) if isinstance(value, str) else None
    date = int("".join(match.group(1, 2, 3))) if match else 0
    return date if date_valid(date) else None


_MASTER_DATA = {
    "lotNumber": "lot_number",
    "itemExpirationDate": "item_expiration_date",
    "productionDate": "production_date",
}


def _read_ilmd(door: Door, value: object, pointer: str) -> Ilmd | None:
    """Namespaced members only; lot and dates of CBV's master data are pulled out, whatever prefix they came under."""
    members = door.members(value, pointer, frozenset())
    if members is None:
        return None
    fields: dict[str, Any] = dict.fromkeys(_MASTER_DATA.values())
    for name, content in members.items():
        local = _master_data_name(door, name)
        if local not in _MASTER_DATA:
            continue
        at = pointer_join(pointer, name)
        plain = content.get("@value") if isinstance(content, dict) else content
        if local == "lotNumber":
            fields["lot_number"] = door.text(plain, at)
        elif isinstance(plain, str):
            # Some send a time stamp where the vocabulary has a date: its day is meant.
            stamp = plain[10:11] == "T" and door.time_ms(plain, at) is not None
            fields[_MASTER_DATA[local]] = _date(plain[:10] if stamp else plain)
        if local != "lotNumber" and fields[_MASTER_DATA[local]] is None:
            door.refuse(at, "date", "must be a date (ISO 8601)")
    return Ilmd(**fields, members=members, document=canonical_json(members))


def _master_data_name(door: Door, name: str) -> str:
    """The local name of a member in CBV's master data namespace, else an empty text."""
    prefix, _, local = name.partition(":")
    if prefix in door.context.prefixes:
        full = door.context.prefixes[prefix] + local
    elif prefix == "cbvmda":
        return local
    else:
        full = name
    return next((full[len(space) :] for space in _MDA if full.startswith(space)), "")


# -- tables ------------------------------------------------------------------------------------------------------------

_Reader = Callable[[Door, object, str], Any]
# Which reader a member goes to, and which field its value becomes.
_READERS: dict[str, tuple[str, _Reader]] = {
    "eventID": ("event_id", Door.event_id),
    "eventTime": ("time_ms", Door.time_ms),
    "recordTime": ("record_time_ms", Door.time_ms),
    "eventTimeZoneOffset": ("time_zone_offset_minutes", Door.offset_minutes),
    "certificationInfo": ("certification_info", _read_certification),
    "errorDeclaration": ("error_declaration", _read_error),
    "action": ("action", _read_action),
    "bizStep": ("biz_step", lambda door, v, at: door.term(v, at, cbv.BIZ_STEP, "biz-step")),
    "disposition": ("disposition", lambda door, v, at: door.term(v, at, cbv.DISPOSITION, "disposition")),
    "readPoint": ("read_point", _read_place),
    "bizLocation": ("biz_location", _read_place),
    "bizTransactionList": ("biz_transactions", _read_biz_transactions),
    "sourceList": ("sources", _read_parties("source")),
    "destinationList": ("destinations", _read_parties("destination")),
    "sensorElementList": ("sensor_reports", read_sensors),
    "ilmd": ("ilmd", _read_ilmd),
    "epcList": ("epcs", _read_epcs),
    "quantityList": ("quantities", _read_quantities),
    "parentID": ("parent", lambda door, v, at: door.identifier(v, at, "instance")),
    "childEPCs": ("children", _read_children),
    "childQuantityList": ("child_quantities", _read_quantities),
    "inputEPCList": ("inputs", _read_epcs),
    "inputQuantityList": ("input_quantities", _read_quantities),
    "outputEPCList": ("outputs", _read_epcs),
    "outputQuantityList": ("output_quantities", _read_quantities),
    "transformationID": ("transformation_id", Door.identifier),
}
_FINISH: dict[str, Callable[..., EpcisEvent]] = {
    "ObjectEvent": ObjectEvent,
    "AggregationEvent": AggregationEvent,
    "AssociationEvent": AssociationEvent,
    "TransactionEvent": TransactionEvent,
    "TransformationEvent": TransformationEvent,
}
_DEFAULTS: dict[str, Any] = {"event_id": None, "record_time_ms": None, "action": None}
_LINK_DEFAULTS: dict[str, Any] = {"parent": None, "children": (), "child_quantities": ()}
_TYPE_DEFAULTS: dict[str, dict[str, Any]] = {
    "ObjectEvent": {"epcs": (), "quantities": (), "ilmd": None},
    "AggregationEvent": _LINK_DEFAULTS,
    "AssociationEvent": _LINK_DEFAULTS,
    "TransactionEvent": {"parent": None, "epcs": (), "quantities": ()},
    "TransformationEvent": {
        "inputs": (),
        "input_quantities": (),
        "outputs": (),
        "output_quantities": (),
        "transformation_id": None,
        "ilmd": None,
    },
}
