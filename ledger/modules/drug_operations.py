"""The operations of rule module `drugs`: what institutions sign about packs, lots and logistic units.

`time_ms` is when something happened, as its sender states it (Unix milliseconds, UTC); rules compare dates with the
block's time only. Identifiers are in the spelling of ledger/gs1.py.

Must not know: state, or what an operation does to it (ledger/modules/drugs.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from ledger.fields import Choice, Flag, Hash, Integer, ListOf, Maybe, Operation, Text, Tuple
from ledger.gs1 import Date, Epc, Gtin, Reference, Text82

ITEMS_MAX = 1_000  # a packaging line's load; a thousand 20-character serials take 22 KiB of a transaction's 64
INGREDIENTS_MAX = 100
READINGS_MAX = 256  # of one logger at one time: more belongs in another transaction
DOCUMENTS_MAX = 64
MILLI_MAX = 10**15  # quantities and readings in thousandths

EPCS = ListOf(Epc(), ITEMS_MAX, 1, distinct=True)
SERIALS = ListOf(Text82(), ITEMS_MAX, 1, distinct=True)
TIME = Integer()  # when it happened, Unix milliseconds; the block's time is what rules compare with
CENTIDEGREES = Integer(-27_315, 100_000)
RANGE = Maybe(Tuple((("low", CENTIDEGREES), ("high", CENTIDEGREES))))  # hundredths of a degree Celsius, inclusive
UNIT = Text(16, 0)
MILLI = Integer(-MILLI_MAX, MILLI_MAX)
QUANTITIES = ListOf(Tuple((("epc", Epc()), ("quantity_milli", Integer(0, MILLI_MAX)), ("uom", UNIT))), ITEMS_MAX)
READINGS = ListOf(Tuple((("type", Text(128)), ("value_milli", MILLI), ("uom", UNIT))), READINGS_MAX)
TemperatureRange: TypeAlias = "tuple[int, int] | None"
Quantities: TypeAlias = "tuple[tuple[str, int, str], ...]"


@dataclass(frozen=True, slots=True)
class Commission(Operation):
    """The maker gives serials to packs of a lot. `expiry_date` 0: not stated, and such packs cannot be dispensed."""

    NAME = "drugs.commission"
    gtin: Annotated[str, Gtin()]
    lot: Annotated[str, Text82()]
    expiry_date: Annotated[int, Date()]
    production_date: Annotated[int, Date()]
    ingredients: Annotated[tuple[str, ...], ListOf(Epc(), INGREDIENTS_MAX, distinct=True)]
    serials: Annotated[tuple[str, ...], SERIALS]
    temperature: Annotated[TemperatureRange, RANGE]
    time_ms: Annotated[int, TIME]


@dataclass(frozen=True, slots=True)
class CommissionContainer(Operation):
    """Its holder brings logistic units or returnable assets (anything without a GTIN) into being, empty."""

    NAME = "drugs.commission_container"
    epcs: Annotated[tuple[str, ...], EPCS]
    time_ms: Annotated[int, TIME]


@dataclass(frozen=True, slots=True)
class Transform(Operation):
    """The maker turns inputs (lots or packs) into outputs; a quantity of 0 is not stated.

    Input packs are consumed. Output packs get `lot`; the dates and range hold for every output lot. `process` joins
    the inputs and outputs of several transactions.
    """

    NAME = "drugs.transform"
    inputs: Annotated[Quantities, QUANTITIES]
    outputs: Annotated[Quantities, QUANTITIES]
    lot: Annotated[str, Text82(low=0)]
    expiry_date: Annotated[int, Date()]
    production_date: Annotated[int, Date()]
    temperature: Annotated[TemperatureRange, RANGE]
    process: Annotated[str, Reference(128, 0)]
    time_ms: Annotated[int, TIME]


@dataclass(frozen=True, slots=True)
class Aggregate(Operation):
    """The holder packs children into a parent. Lots and products among the children are listed, not tracked."""

    NAME = "drugs.aggregate"
    parent: Annotated[str, Epc()]
    children: Annotated[tuple[str, ...], EPCS]
    time_ms: Annotated[int, TIME]


@dataclass(frozen=True, slots=True)
class Disaggregate(Operation):
    """The holder unpacks children from their parent; no children named: all of them."""

    NAME = "drugs.disaggregate"
    parent: Annotated[str, Epc()]
    children: Annotated[tuple[str, ...], ListOf(Epc(), ITEMS_MAX, distinct=True)]
    time_ms: Annotated[int, TIME]


@dataclass(frozen=True, slots=True)
class Ship(Operation):
    """The holder sends items to another institution, by its id."""

    NAME = "drugs.ship"
    epcs: Annotated[tuple[str, ...], EPCS]
    to: Annotated[str, Text(32)]
    time_ms: Annotated[int, TIME]


@dataclass(frozen=True, slots=True)
class VoidShipment(Operation):
    """The shipper takes back what the consignee has not received."""

    NAME = "drugs.void_shipment"
    epcs: Annotated[tuple[str, ...], EPCS]
    time_ms: Annotated[int, TIME]


@dataclass(frozen=True, slots=True)
class Receive(Operation):
    """The consignee takes over what was shipped to it."""

    NAME = "drugs.receive"
    epcs: Annotated[tuple[str, ...], EPCS]
    time_ms: Annotated[int, TIME]


@dataclass(frozen=True, slots=True)
class Observe(Operation):
    """Something was seen, and perhaps measured. `Temperature` in CEL, FAH or KEL counts for the cold chain."""

    NAME = "drugs.observe"
    epcs: Annotated[tuple[str, ...], EPCS]
    time_ms: Annotated[int, TIME]
    readings: Annotated[Quantities, READINGS]
    location: Annotated[str | None, Maybe(Reference(128))]


@dataclass(frozen=True, slots=True)
class Dispense(Operation):
    """A pharmacy or hospital hands packs to a patient, named at most by a salted commitment."""

    NAME = "drugs.dispense"
    epcs: Annotated[tuple[str, ...], EPCS]
    patient: Annotated[bytes | None, Maybe(Hash())]
    time_ms: Annotated[int, TIME]


@dataclass(frozen=True, slots=True)
class Decommission(Operation):
    """The holder takes items, with all that is in them, out of the chain for good."""

    NAME = "drugs.decommission"
    epcs: Annotated[tuple[str, ...], EPCS]
    reason: Annotated[str, Text(64)]
    time_ms: Annotated[int, TIME]


@dataclass(frozen=True, slots=True)
class Recall(Operation):
    """A regulator or the prefix owner recalls serials, or without any a lot, or without either the whole product."""

    NAME = "drugs.recall"
    gtin: Annotated[str, Gtin()]
    lot: Annotated[str | None, Maybe(Text82())]
    serials: Annotated[tuple[str, ...], ListOf(Text82(), ITEMS_MAX, distinct=True)]
    reason: Annotated[str, Text(64)]
    time_ms: Annotated[int, TIME]


@dataclass(frozen=True, slots=True)
class Link(Operation):
    """Holder or consignee ties items to business documents (order, invoice), by id or hash; or unties them."""

    NAME = "drugs.link"
    epcs: Annotated[tuple[str, ...], EPCS]
    documents: Annotated[tuple[str, ...], ListOf(Reference(256), DOCUMENTS_MAX, 1, distinct=True)]
    action: Annotated[str, Choice(("add", "observe", "delete"))]
    time_ms: Annotated[int, TIME]


@dataclass(frozen=True, slots=True)
class Associate(Operation):
    """Assets (loggers, racks) are fixed to a parent or taken off. Recorded only: custody and packing do not change."""

    NAME = "drugs.associate"
    parent: Annotated[str, Epc()]
    children: Annotated[tuple[str, ...], ListOf(Epc(), ITEMS_MAX, distinct=True)]
    attached: Annotated[bool, Flag()]
    time_ms: Annotated[int, TIME]
