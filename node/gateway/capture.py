"""What an EPCIS event does on the chain: events of the door become operations of rule module `drugs`.

    ObjectEvent ADD             commission by GTIN (lot and dates from ilmd; lot "-" and date 0 where not stated), or
                                commission_container for what has no GTIN; quantities of lots: transform from nothing
    ObjectEvent OBSERVE         by business step: shipping: ship; void_shipping: void_shipment; receiving: receive;
                                dispensing, retail_selling: dispense; decommissioning, destroying: decommission;
                                any other: observe
    ObjectEvent DELETE          dispense if its step says so, else decommission
    AggregationEvent            ADD: aggregate; DELETE: disaggregate; OBSERVE: as an ObjectEvent, of the parent alone
                                where custody moves
    TransactionEvent            link
    TransformationEvent         transform
    AssociationEvent            ADD, DELETE: associate; OBSERVE: observe
    any with sensor reports     also observe, once for each time: after ADD, before anything else

Quantities of classes have no custodian: where the event's own operation needs one they are observed instead. Business
transactions of other events than TransactionEvent are not carried to the chain. A temperature range may stand in ilmd
as two members of any namespace, `minimumTemperature` and `maximumTemperature`, in degrees Celsius.

Refused here, because no operation could say it: error declarations (the chain does not forget; what went wrong is
corrected by another event), shipping without one destination party, private event types, events that name no object,
numbers beyond the chain's, alarms without a number, and identifiers of people (GSRN), which must not reach a block even
in a refused transaction. All else is left to the rules, which refuse it with a code.

Must not know: JSON, keys, or how operations are sent.
Source: EPCIS 2.0 section 7.4, CBV 2.0 sections 7.1 and 7.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Protocol

from ledger.codec import Value
from ledger.fields import Operation
from ledger.gs1 import LOT_UNKNOWN, is_pack, names_person
from ledger.modules.drug_operations import (
    ITEMS_MAX,
    READINGS_MAX,
    Aggregate,
    Associate,
    Commission,
    CommissionContainer,
    Decommission,
    Disaggregate,
    Dispense,
    Link,
    Observe,
    Receive,
    Ship,
    TemperatureRange,
    Transform,
    VoidShipment,
)
from node.gateway.events import (
    Action,
    AggregationEvent,
    AssociationEvent,
    EpcisEvent,
    Ilmd,
    ObjectEvent,
    Quantity,
    SensorReport,
    TransactionEvent,
    TransformationEvent,
)

__all__ = ["CaptureRefused", "Directory", "to_operations"]

IDENTIFIERS_SIZE_MAX = 48 * 1024  # of one operation, so that the transaction stays under its 64 KiB
REASON_LENGTH_MAX = 64  # as the operation's field

_MOVING = frozenset({"shipping", "void_shipping", "receiving"})
_DISPENSING = frozenset({"dispensing", "retail_selling"})
_ENDING = frozenset({"decommissioning", "destroying"})
_PARTY_TYPES = ("possessing_party", "owning_party", "location")  # custody is possession
# Where an event holds what its operations name: fields of its class, and members of its JSON.
_NAMING = {
    "epcs": "epcList",
    "quantities": "quantityList",
    "parent": "parentID",
    "children": "childEPCs",
    "child_quantities": "childQuantityList",
    "inputs": "inputEPCList",
    "input_quantities": "inputQuantityList",
    "outputs": "outputEPCList",
    "output_quantities": "outputQuantityList",
    "transformation_id": "transformationID",
    "biz_transactions": "bizTransactionList",
    "read_point": "readPoint",
    "biz_location": "bizLocation",
    "biz_step": "bizStep",
    "disposition": "disposition",
}


class Directory(Protocol):
    """Who is behind a global location number."""

    def institution_by_gln(self, gln: str) -> str | None:
        """The id of the member that has this GLN of 13 digits; None for strangers."""
        ...


class CaptureRefused(ValueError):
    """An event that no operation can express: the sender's to correct. `reason` never echoes content."""

    def __init__(self, pointer: str, reason: str) -> None:
        super().__init__(f"{pointer}: {reason}")
        self.pointer = pointer
        self.reason = reason


def to_operations(event: EpcisEvent, directory: Directory) -> list[Operation]:
    """The operations of one event, at least one, in the order in which to send them; raises CaptureRefused."""
    if event.error_declaration is not None:
        raise CaptureRefused(f"{event.pointer}/errorDeclaration", "the chain takes no declaration of an earlier error")
    _refuse_lost_numbers(event)
    operations = _operations(event, directory)
    if not operations:
        raise CaptureRefused(f"{event.pointer}/epcList", "names no object that something is said of")
    _refuse_persons(event, operations)
    return operations


def _refuse_lost_numbers(event: EpcisEvent) -> None:
    """What no operation can carry must not pass for an amount unstated, or a sighting at which nothing was amiss."""
    for problem in event.problems:
        if problem.rule == "range":
            raise CaptureRefused(problem.pointer, problem.reason)
    for report in event.sensor_reports:
        if report.exception is not None and not any(_readings(report)):
            raise CaptureRefused(f"{event.pointer}/sensorElementList", "an alarm without a number that was measured")


def _refuse_persons(event: EpcisEvent, operations: Iterable[Operation]) -> None:
    """Looks at what leaves, all of it, so that no field of an event can be forgotten here."""
    for operation in operations:
        for text in _texts(operation.to_fields()):
            if names_person(text):
                raise CaptureRefused(event.pointer + _place(event, text), "identifies a person, not a thing")


def _texts(value: Value) -> Iterator[str]:
    """Every text in an operation's fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _texts(part)


def _place(event: EpcisEvent, text: str) -> str:
    """The pointer within the event of what became `text` in an operation; empty if it stands in none of `_NAMING`."""
    for name, member in _NAMING.items():
        held = getattr(event, name, None)
        if held == text:
            return f"/{member}"
        for index, entry in enumerate(held if isinstance(held, tuple) else ()):
            if text in (entry, getattr(entry, "class_id", None), getattr(entry, "id", None)):
                return f"/{member}/{index}"
    return ""


def _operations(event: EpcisEvent, directory: Directory) -> list[Operation]:
    match event:
        case ObjectEvent():
            own, seen = _of_object(event, directory), (*event.epcs, *_classes(event.quantities))
        case AggregationEvent():
            own, seen = _of_aggregation(event, directory), event.children
            seen = seen if event.parent is None else (event.parent,)  # what is inside shares its parent's climate
        case TransactionEvent():
            named = () if event.parent is None else (event.parent,)
            seen = (*named, *event.epcs, *_classes(event.quantities))
            own = _of_transaction(event, seen)
        case TransformationEvent():
            own, seen = [_of_transformation(event)], (*event.outputs, *_classes(event.output_quantities))
        case AssociationEvent():
            own, seen = _of_association(event), (event.parent,)
        case _:
            raise CaptureRefused(f"{event.pointer}/type", "no meaning is known for this type of event")
    measured = list(_observations(event, seen)) if seen else []
    if measured and len(own) == 1 and isinstance(own[0], Observe) and not own[0].readings and own[0].epcs == seen:
        return measured  # the sighting is in the measurement
    is_new = event.action is Action.ADD or isinstance(event, TransformationEvent)
    return [*own, *measured] if is_new else [*measured, *own]


def _of_object(event: ObjectEvent, directory: Directory) -> list[Operation]:
    classes = _classes(event.quantities)
    if event.action is Action.ADD:
        return _of_creation(event)
    if event.action is Action.DELETE and event.biz_step not in _DISPENSING:
        own: list[Operation] = [_decommission(event, part) for part in _parts(event.epcs)]
    else:
        own = _of_step(event, event.epcs, directory)
    return [*own, *(_sighting(event, part) for part in _parts(classes))]


def _of_step(event: EpcisEvent, epcs: Sequence[str], directory: Directory) -> list[Operation]:
    """What the business step does to things that exist."""
    parts = _parts(epcs)
    time_ms = event.time_ms
    match event.biz_step:
        case "shipping":
            to = _consignee(event, directory)
            return [Ship(part, to, time_ms) for part in parts]
        case "void_shipping":
            return [VoidShipment(part, time_ms) for part in parts]
        case "receiving":
            return [Receive(part, time_ms) for part in parts]
        case step if step in _DISPENSING:
            return [Dispense(part, None, time_ms) for part in parts]
        case step if step in _ENDING:
            return [_decommission(event, part) for part in parts]
    return [_sighting(event, part) for part in parts]


def _of_creation(event: ObjectEvent) -> list[Operation]:
    lot = LOT_UNKNOWN if event.ilmd is None else event.ilmd.lot_number or LOT_UNKNOWN
    expiry_date, production_date, temperature = _facts(event, event.ilmd)
    own: list[Operation] = []
    if event.quantities:
        made = tuple(_amount(quantity) for quantity in event.quantities)
        own.append(Transform((), made, lot, expiry_date, production_date, temperature, "", event.time_ms))
    packs: dict[str, list[str]] = {}
    containers: list[str] = []
    for epc in event.epcs:
        if is_pack(epc):
            packs.setdefault(epc[3:17], []).append(epc[21:])
        else:
            containers.append(epc)
    for gtin, serials in packs.items():
        for part in _parts(serials):
            own.append(
                Commission(gtin, lot, expiry_date, production_date, (), part, temperature, event.time_ms),
            )
    own.extend(CommissionContainer(part, event.time_ms) for part in _parts(containers))
    return own


def _of_aggregation(event: AggregationEvent, directory: Directory) -> list[Operation]:
    children = (*event.children, *_classes(event.child_quantities))
    if event.parent is not None and event.action is Action.ADD:
        return [Aggregate(event.parent, part, event.time_ms) for part in _parts(children)]
    if event.parent is not None and event.action is Action.DELETE:
        parts = _parts(children) or [()]
        return [Disaggregate(event.parent, part, event.time_ms) for part in parts]
    if event.parent is None:
        return _of_step(event, children, directory)
    moved = (event.parent,) if event.biz_step in _MOVING else (event.parent, *children)
    return _of_step(event, moved, directory)


def _of_transaction(event: TransactionEvent, epcs: Sequence[str]) -> list[Operation]:
    documents = tuple(dict.fromkeys(document.id for document in event.biz_transactions))
    action = Action.OBSERVE if event.action is None else event.action
    return [Link(part, documents, action.value.lower(), event.time_ms) for part in _parts(epcs)]


def _of_transformation(event: TransformationEvent) -> Operation:
    inputs = (*((epc, 0, "") for epc in event.inputs), *map(_amount, event.input_quantities))
    outputs = (*((epc, 0, "") for epc in event.outputs), *map(_amount, event.output_quantities))
    lot = "" if event.ilmd is None else event.ilmd.lot_number or ""
    facts = _facts(event, event.ilmd)
    return Transform(inputs, outputs, lot, *facts, event.transformation_id or "", event.time_ms)


def _of_association(event: AssociationEvent) -> list[Operation]:
    children = (*event.children, *_classes(event.child_quantities))
    if event.action is Action.OBSERVE:
        return [_sighting(event, part) for part in _parts((event.parent, *children))]
    attached = event.action is Action.ADD
    return [Associate(event.parent, part, attached, event.time_ms) for part in _parts(children) or [()]]


def _decommission(event: EpcisEvent, epcs: tuple[str, ...]) -> Operation:
    reason = event.disposition or event.biz_step or "decommissioned"
    return Decommission(epcs, reason[:REASON_LENGTH_MAX], event.time_ms)


def _consignee(event: EpcisEvent, directory: Directory) -> str:
    """The institution shipped to; a GLN that no member has stands for itself, and the chain refuses it.

    The first type of party that is named decides alone: goods for a possessor who is a stranger are not the owner's.
    """
    named = {party.type for party in event.destinations}
    kind = next((kind for kind in _PARTY_TYPES if kind in named), None)
    glns = {_gln(party.id) for party in event.destinations if party.type == kind}
    gln = glns.pop() if len(glns) == 1 else None
    if gln is None:
        raise CaptureRefused(f"{event.pointer}/destinationList", "shipping needs one destination party with a GLN")
    return directory.institution_by_gln(gln) or gln


def _gln(party: str) -> str | None:
    """Of `414/<gln>[/254/<extension>]` or `417/<gln>`."""
    return party[4:17] if party.startswith(("414/", "417/")) and len(party) >= 17 else None


def _facts(event: EpcisEvent, ilmd: Ilmd | None) -> tuple[int, int, TemperatureRange]:
    """Expiry date, production date and temperature range, for a lot; 0 or None where not stated."""
    if ilmd is None:
        return 0, 0, None
    return ilmd.item_expiration_date or 0, ilmd.production_date or 0, _temperature(event, ilmd)


def _temperature(event: EpcisEvent, ilmd: Ilmd) -> TemperatureRange:
    stated: dict[str, int] = {}
    for name, value in ilmd.members.items():
        local = name.replace("#", ":").replace("/", ":").rpartition(":")[2]
        if local not in ("minimumTemperature", "maximumTemperature"):
            continue
        try:
            hundredths = Decimal(str(value)) * 100
            if not hundredths.is_finite() or abs(hundredths) > 10**6 or hundredths != int(hundredths):
                raise ValueError
        except (ArithmeticError, ValueError):
            raise CaptureRefused(f"{event.pointer}/ilmd", "a temperature limit is not degrees in hundredths") from None
        stated[local] = int(hundredths)
    if not stated:
        return None
    if len(stated) == 1:
        raise CaptureRefused(f"{event.pointer}/ilmd", "a temperature range needs its minimum and its maximum")
    return stated["minimumTemperature"], stated["maximumTemperature"]


def _sighting(event: EpcisEvent, epcs: tuple[str, ...]) -> Operation:
    return Observe(epcs, event.time_ms, (), event.read_point or event.biz_location)


def _observations(event: EpcisEvent, epcs: Sequence[str]) -> Iterator[Operation]:
    """One operation for each time at which something was measured in numbers."""
    by_time: dict[int, list[tuple[str, int, str]]] = {}
    for report in event.sensor_reports:
        times = (report.time_ms, report.end_time_ms, report.start_time_ms)
        time_ms = next((time for time in times if time is not None), event.time_ms)
        by_time.setdefault(time_ms, []).extend(_readings(report))
    for time_ms, readings in by_time.items():
        for start in range(0, len(readings), READINGS_MAX):
            for part in _parts(epcs):
                some = tuple(readings[start : start + READINGS_MAX])
                yield Observe(part, time_ms, some, event.read_point or event.biz_location)


def _readings(report: SensorReport) -> Iterator[tuple[str, int, str]]:
    """A report's value and extremes, finer ones as both their neighbours; its mean only where it has nothing else."""
    spans = [span for span in (report.value_milli, report.min_milli, report.max_milli) if span is not None]
    if not spans and report.mean_milli is not None:
        spans = [report.mean_milli]
    for value in dict.fromkeys(edge for span in spans for edge in span):
        yield report.type, value, report.uom or ""


def _amount(quantity: Quantity) -> tuple[str, int, str]:
    return quantity.class_id, quantity.quantity_milli or 0, quantity.uom or ""


def _classes(quantities: Iterable[Quantity]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(quantity.class_id for quantity in quantities))


def _parts(identifiers: Sequence[str]) -> list[tuple[str, ...]]:
    """Cut into what one transaction carries; none for no identifiers."""
    parts: list[tuple[str, ...]] = []
    part: list[str] = []
    size = 0
    for identifier in identifiers:
        size += len(identifier) + 3  # its header on the wire
        if part and (len(part) == ITEMS_MAX or size > IDENTIFIERS_SIZE_MAX):
            parts.append(tuple(part))
            part, size = [], len(identifier) + 3
        part.append(identifier)
    return [*parts, tuple(part)] if part else parts
