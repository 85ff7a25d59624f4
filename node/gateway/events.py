"""EPCIS events as the door hands them on: normalised, checked, and without anything of their JSON spelling.

Lives here: frozen dataclasses, one per event type, and the problem record. Times are Unix milliseconds, identifiers the
chain's text (or the original URI where it is no GS1 key), standard terms bare words (or the URI of a foreign one),
amounts integers in thousandths, measured values the two between which they lie: no float anywhere.

Must not know: JSON, and what an event does on the chain.
Source: EPCIS 2.0 section 7.4 (event types).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

__all__ = [
    "Action",
    "AggregationEvent",
    "AssociationEvent",
    "BizTransaction",
    "EpcisEvent",
    "ErrorDeclaration",
    "ExtendedEvent",
    "Ilmd",
    "ObjectEvent",
    "Party",
    "Problem",
    "Quantity",
    "SensorReport",
    "TransactionEvent",
    "TransformationEvent",
]


class Action(Enum):
    """What the event does to the life of its objects or of the link between them (EPCIS 2.0 section 7.3.2)."""

    ADD = "ADD"
    OBSERVE = "OBSERVE"
    DELETE = "DELETE"


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: JSON pointer of the field, short id of the rule, short English that never echoes content."""

    pointer: str
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Quantity:
    """An amount of a class. `quantity_milli` is in thousandths, None where the sender states no amount."""

    class_id: str
    quantity_milli: int | None
    uom: str | None  # UN/CEFACT Recommendation 20 code; None counts instances


@dataclass(frozen=True, slots=True)
class BizTransaction:
    type: str | None
    id: str


@dataclass(frozen=True, slots=True)
class Party:
    """A source or destination: `owning_party`, `possessing_party`, `location` or a foreign URI, and who or where."""

    type: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorReport:
    """One report, with time and device of its element's metadata where it has none of its own.

    What was measured is (at or below, at or above) in thousandths, the same twice unless it was finer: one of the two
    alone could hide that a lower or an upper limit is broken.
    """

    type: str
    value_milli: tuple[int, int] | None = None
    min_milli: tuple[int, int] | None = None
    max_milli: tuple[int, int] | None = None
    mean_milli: tuple[int, int] | None = None
    uom: str | None = None
    time_ms: int | None = None
    start_time_ms: int | None = None
    end_time_ms: int | None = None
    device_id: str | None = None
    exception: str | None = None
    component: str | None = None
    document: bytes = b""  # canonical JSON of the whole report, for a digest


@dataclass(frozen=True, slots=True)
class ErrorDeclaration:
    time_ms: int
    reason: str | None
    corrective_event_ids: tuple[str, ...]
    extensions: bytes  # canonical JSON, empty if none


@dataclass(frozen=True, slots=True)
class Ilmd:
    """Instance or lot master data; dates as integers YYYYMMDD, None where not stated."""

    lot_number: str | None
    item_expiration_date: int | None
    production_date: int | None
    members: Mapping[str, object] = field(compare=False)
    document: bytes = b""  # canonical JSON of all members


@dataclass(frozen=True, slots=True, kw_only=True)
class EpcisEvent:
    """What every event has. `problems`: what the standard allows but a rule may refuse."""

    pointer: str
    event_id: str | None
    time_ms: int
    time_zone_offset_minutes: int
    record_time_ms: int | None
    action: Action | None
    biz_step: str | None = None
    disposition: str | None = None
    persistent_set: tuple[str, ...] = ()
    persistent_unset: tuple[str, ...] = ()
    read_point: str | None = None
    biz_location: str | None = None
    biz_transactions: tuple[BizTransaction, ...] = ()
    sources: tuple[Party, ...] = ()
    destinations: tuple[Party, ...] = ()
    sensor_reports: tuple[SensorReport, ...] = ()
    certification_info: bytes = b""  # canonical JSON, empty if none
    error_declaration: ErrorDeclaration | None = None
    extensions: bytes = b""  # canonical JSON of the namespaced members, empty if none
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectEvent(EpcisEvent):
    epcs: tuple[str, ...]
    quantities: tuple[Quantity, ...]
    ilmd: Ilmd | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationEvent(EpcisEvent):
    """No children with action DELETE says: all of them."""

    parent: str | None
    children: tuple[str, ...]
    child_quantities: tuple[Quantity, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationEvent(EpcisEvent):
    """As an aggregation, but the link is meant to last; no children with action DELETE says: all of them."""

    parent: str
    children: tuple[str, ...]
    child_quantities: tuple[Quantity, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionEvent(EpcisEvent):
    parent: str | None
    epcs: tuple[str, ...]
    quantities: tuple[Quantity, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformationEvent(EpcisEvent):
    inputs: tuple[str, ...]
    input_quantities: tuple[Quantity, ...]
    outputs: tuple[str, ...]
    output_quantities: tuple[Quantity, ...]
    transformation_id: str | None
    ilmd: Ilmd | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedEvent(EpcisEvent):
    """A type of somebody's own namespace: the standard lets it in, nothing here knows its meaning."""

    type: str
