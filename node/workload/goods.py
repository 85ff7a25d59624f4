"""Drugs on their way from production to patient, as EPCIS 2.0 JSON documents, and what cheats try on that way.

One story is one lot: commissioned, packed into cases and onto a pallet, shipped with temperatures, received, unpacked,
dispensed; then perhaps recalled. Each fraud ends in the code with which the rules refuse it. Product numbers, lots and
serials are made up under GS1's published example prefixes.

Must not know: keys, how a document is sent, clocks. Times count back from the `now_ms` given.
Source: EPCIS 2.0 sections 7.4 and 10, CBV 2.0 section 7.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

from ledger.errors import Code
from ledger.gs1 import DAY_MS, check_digit
from ledger.modules.drug_operations import Recall
from node.workload.cast import Cast
from node.workload.steps import AT_THE_DOOR, Capture, Send, Step

__all__ = ["FRAUDS", "Lot", "fraud_story", "new_lot", "supply_story"]

CONTEXT = ["https://ref.gs1.org/standards/epcis/2.0.0/epcis-context.jsonld", {"ext": "https://medchain.example/epcis/"}]
MINUTE_MS = 60_000
PACKS_PER_CASE = 6
CASES = 2

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Product:
    """A product of the maker. `urn`: its documents spell identifiers as EPC URNs, else as GS1 Digital Links."""

    prefix: str
    item: str  # item reference: fills the prefix up to 12 digits
    name: str
    temperature: tuple[int, int] | None  # whole degrees Celsius
    urn: bool

    @property
    def gtin(self) -> str:
        body = "0" + self.prefix + self.item
        return f"{body}{check_digit(body)}"


PRODUCTS = (
    Product("4012345", "12001", "influenza vaccine", (2, 8), urn=False),
    Product("0614141", "11201", "insulin", (2, 8), urn=True),
    Product("9520001", "77003", "antibiotic tablets", None, urn=False),
)


@dataclass(frozen=True, slots=True)
class Lot:
    """A lot and where its documents stand in time. `expiry_ms`: on which day it expires."""

    product: Product
    number: str
    serials: tuple[str, ...]
    made_ms: int
    expiry_ms: int


def new_lot(rng: Random, story: int, now_ms: int, *, packs: int = PACKS_PER_CASE * CASES, days_left: int = 500) -> Lot:
    """A lot of its own for each story: its number and serials are used once in a stream."""
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(3))
    number = f"{letters}{story:05d}"
    serials = tuple(f"{number}{rng.randrange(10**4):04d}{index:03d}" for index in range(packs))
    made_ms = now_ms - rng.randrange(40, 80) * DAY_MS
    return Lot(rng.choice(PRODUCTS), number, serials, made_ms, now_ms + days_left * DAY_MS)


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{time_ms % 1000:03d}Z"


def _day(time_ms: int) -> str:
    return _iso(time_ms)[:10]


def _pack(lot: Lot, serial: str, gtin: str = "") -> str:
    product = lot.product
    if product.urn and not gtin:
        return f"urn:epc:id:sgtin:{product.prefix}.0{product.item}.{serial}"
    return f"https://id.gs1.org/01/{gtin or product.gtin}/21/{serial}"


def _sscc(lot: Lot, story: int, index: int) -> str:
    """Of the maker; the story's number makes it unique within a stream."""
    reference = f"{story:06d}{index:03d}"[: 16 - len(lot.product.prefix)]
    if lot.product.urn:
        return f"urn:epc:id:sscc:{lot.product.prefix}.3{reference}"
    body = "3" + lot.product.prefix + reference
    return f"https://id.gs1.org/00/{body}{check_digit(body)}"


def document(*events: Event, at_ms: int) -> bytes:
    """An EPCIS document with these events."""
    value = {
        "@context": CONTEXT,
        "type": "EPCISDocument",
        "schemaVersion": "2.0",
        "creationDate": _iso(at_ms),
        "epcisBody": {"eventList": events},
    }
    return json.dumps(value, separators=(",", ":")).encode()


def _event(kind: str, at_ms: int, gln: str, action: str, step: str, disposition: str, **more: Any) -> Event:
    place = {"id": f"https://id.gs1.org/414/{gln}"}
    return {
        "type": kind,
        "eventTime": _iso(at_ms),
        "eventTimeZoneOffset": "+00:00",
        "action": action,
        "bizStep": step,
        "disposition": disposition,
        "readPoint": place,
        **more,
    }


def _sensed(rng: Random, at_ms: int, low: int, high: int) -> list[dict[str, Any]]:
    """What a logger reports: one reading and the extremes, in tenths of a degree between `low` and `high`."""
    tenths = sorted(rng.randrange(10 * low + 2, 10 * high - 1) for _ in range(3))
    report = {
        "type": "Temperature",
        "minValue": tenths[0] / 10,
        "value": tenths[1] / 10,
        "maxValue": tenths[2] / 10,
        "uom": "CEL",
    }
    device = f"https://id.gs1.org/8004/9529999{rng.randrange(10**6):06d}"
    return [{"sensorMetadata": {"time": _iso(at_ms), "deviceID": device}, "sensorReport": [report]}]


class Story:
    """Makes the documents of one lot. Each call is one step, a few hours after the one before."""

    def __init__(self, rng: Random, cast: Cast, story: int, lot: Lot) -> None:
        self.rng, self.cast, self.story, self.lot = rng, cast, story, lot
        self.at_ms = lot.made_ms

    def step(self, sender: str, label: str, event: Event, expected: int = 0) -> Step:
        return Step(self.story, label, sender, Capture(document(event, at_ms=self.at_ms)), int(expected))

    def _later(self) -> int:
        self.at_ms += self.rng.randrange(30, 600) * MINUTE_MS
        return self.at_ms

    def packs(self, serials: Sequence[str] = ()) -> list[str]:
        return [_pack(self.lot, serial) for serial in serials or self.lot.serials]

    def sscc(self, index: int) -> str:
        return _sscc(self.lot, self.story, index)

    def commission(self, sender: str = "maker", gtin: str = "", expected: int = 0, serials: Sequence[str] = ()) -> Step:
        lot = self.lot
        ilmd: dict[str, Any] = {
            "cbvmda:lotNumber": lot.number,
            "cbvmda:itemExpirationDate": _day(lot.expiry_ms),
            "cbvmda:productionDate": _day(lot.made_ms),
        }
        if lot.product.temperature is not None:
            ilmd["ext:minimumTemperature"], ilmd["ext:maximumTemperature"] = lot.product.temperature
        epcs = [_pack(lot, serial, gtin) for serial in serials or lot.serials]
        event = _event(
            "ObjectEvent",
            self._later(),
            self.cast.gln(sender),
            "ADD",
            "commissioning",
            "active",
            epcList=epcs,
            ilmd=ilmd,
        )
        return self.step(sender, "commission packs", event, expected)

    def aggregate(self, sender: str, parent: str, children: Sequence[str]) -> Step:
        event = _event(
            "AggregationEvent", self._later(), self.cast.gln(sender), "ADD", "packing", "in_progress",
            parentID=parent, childEPCs=list(children),
        )  # fmt: skip
        return self.step(sender, "pack into a case or onto a pallet", event)

    def unpack(self, sender: str, parent: str) -> Step:
        """All of it."""
        event = _event(
            "AggregationEvent", self._later(), self.cast.gln(sender), "DELETE", "unpacking", "in_progress",
            parentID=parent, childEPCs=[],
        )  # fmt: skip
        return self.step(sender, "unpack", event)

    def ship(self, sender: str, to: str, epcs: Sequence[str], expected: int = 0, gln: str = "") -> Step:
        parties = [
            {"type": kind, "destination": f"https://id.gs1.org/417/{gln or self.cast.gln(to)}"}
            for kind in ("owning_party", "possessing_party")
        ]
        at_ms = self._later()
        event = _event(
            "ObjectEvent", at_ms, self.cast.gln(sender), "OBSERVE", "shipping", "in_transit",
            epcList=list(epcs), destinationList=parties, **self._climate(at_ms),
        )  # fmt: skip
        return self.step(sender, "ship", event, expected)

    def receive(self, sender: str, epcs: Sequence[str], expected: int = 0) -> Step:
        event = _event(
            "ObjectEvent",
            self._later(),
            self.cast.gln(sender),
            "OBSERVE",
            "receiving",
            "in_progress",
            epcList=list(epcs),
        )
        return self.step(sender, "receive", event, expected)

    def measure(self, sender: str, epcs: Sequence[str], low: int, high: int) -> Step:
        at_ms = self._later()
        event = _event(
            "ObjectEvent", at_ms, self.cast.gln(sender), "OBSERVE", "sensor_reporting", "in_progress",
            epcList=list(epcs), sensorElementList=_sensed(self.rng, at_ms, low, high),
        )  # fmt: skip
        return self.step(sender, "measure temperature", event)

    def dispense(self, sender: str, serial: str, expected: int = 0) -> Step:
        event = _event(
            "ObjectEvent", self._later(), self.cast.gln(sender), "OBSERVE", "dispensing", "dispensed",
            epcList=[_pack(self.lot, serial)],
        )  # fmt: skip
        return self.step(sender, "dispense", event, expected)

    def recall(self, expected: int = 0, sender: str = "regulator") -> Step:
        """There is no EPCIS event for a recall of a lot: it is an operation of its own."""
        operation = Recall(self.lot.product.gtin, self.lot.number, (), "contamination", self._later())
        return Step(self.story, "recall a lot", sender, Send(operation), int(expected))

    def _climate(self, at_ms: int) -> dict[str, Any]:
        kept = self.lot.product.temperature
        return {} if kept is None else {"sensorElementList": _sensed(self.rng, at_ms, *kept)}

    def to_shops(self, shops: Sequence[str]) -> Iterator[Step]:
        """From the packaging line to the shelves: one case each."""
        cases = [self.sscc(index) for index in range(len(shops))]
        pallet, per_case = self.sscc(100), len(self.lot.serials) // len(shops)
        yield self.commission()
        for index, case in enumerate(cases):
            serials = self.lot.serials[index * per_case : (index + 1) * per_case]
            yield self.aggregate("maker", case, self.packs(serials))
        yield self.aggregate("maker", pallet, cases)
        yield self.ship("maker", "distributor", [pallet])
        if self.lot.product.temperature is not None:
            yield self.measure("distributor", [pallet], *self.lot.product.temperature)
        yield self.receive("distributor", [pallet])
        yield self.unpack("distributor", pallet)
        for case, shop in zip(cases, shops, strict=True):
            yield self.ship("distributor", shop, [case])
            yield self.receive(shop, [case])
            yield self.unpack(shop, case)


def supply_story(rng: Random, cast: Cast, story: int, now_ms: int) -> Iterator[Step]:
    """A lot's way to pharmacy and hospital; most packs are dispensed, a third of the lots is recalled at the end."""
    lot = new_lot(rng, story, now_ms)
    line = Story(rng, cast, story, lot)
    shops = ("pharmacy", "hospital")
    yield from line.to_shops(shops)
    half = len(lot.serials) // 2
    for shop, serials in zip(shops, (lot.serials[:half], lot.serials[half:]), strict=True):
        for serial in serials[:-1]:
            yield line.dispense(shop, serial)
    if rng.randrange(3) == 0:
        yield line.recall()
        yield line.dispense(shops[0], lot.serials[half - 1], Code.PACK_RECALLED)


def _double_commission(line: Story) -> Iterator[Step]:
    yield line.commission()
    yield line.commission(expected=Code.SERIAL_EXISTS, serials=line.lot.serials[:1])


def _double_sale(line: Story) -> Iterator[Step]:
    yield from line.to_shops(("pharmacy",))
    yield line.dispense("pharmacy", line.lot.serials[0])
    yield line.dispense("pharmacy", line.lot.serials[0], Code.ALREADY_DISPENSED)


def _counterfeit_serial(line: Story) -> Iterator[Step]:
    yield line.commission()
    yield line.dispense("pharmacy", "FAKE" + line.lot.serials[0], Code.UNKNOWN_PACK)


def _foreign_prefix(line: Story) -> Iterator[Step]:
    body = "0" + "9529999" + "00017"  # the hospital's company prefix
    yield line.commission(gtin=f"{body}{check_digit(body)}", expected=Code.NOT_PREFIX_OWNER)


def _not_a_maker(line: Story) -> Iterator[Step]:
    yield line.commission(sender="pharmacy", expected=Code.ROLE_REQUIRED)


def _stolen_goods(line: Story) -> Iterator[Step]:
    yield from line.to_shops(("hospital",))
    yield line.dispense("pharmacy", line.lot.serials[0], Code.NOT_IN_CUSTODY)


def _diverted_shipment(line: Story) -> Iterator[Step]:
    yield line.commission()
    yield line.ship("maker", "hospital", line.packs())
    yield line.receive("pharmacy", line.packs(), Code.NOT_THE_CONSIGNEE)
    yield line.receive("hospital", line.packs())


def _unknown_consignee(line: Story) -> Iterator[Step]:
    yield line.commission()
    body = "952999912345"
    gln = f"{body}{check_digit(body)}"
    yield line.ship("maker", "hospital", line.packs(), Code.UNKNOWN_MEMBER, gln=gln)


def _broken_cold_chain(line: Story) -> Iterator[Step]:
    yield from line.to_shops(("pharmacy",))
    _, high = line.lot.product.temperature or (0, 0)
    yield line.measure("pharmacy", line.packs(), high + 4, high + 9)
    yield line.dispense("pharmacy", line.lot.serials[0], Code.COLD_CHAIN_BROKEN)


def _expired(line: Story) -> Iterator[Step]:
    yield line.commission()
    yield line.ship("maker", "pharmacy", line.packs(), Code.PACK_EXPIRED)


def _recalled_by_a_stranger(line: Story) -> Iterator[Step]:
    yield line.commission()
    yield line.recall(Code.ROLE_REQUIRED, sender="pharmacy")


def _wrong_check_digit(line: Story) -> Iterator[Step]:
    gtin = line.lot.product.gtin
    yield line.commission(gtin=gtin[:-1] + str((int(gtin[-1]) + 1) % 10), expected=AT_THE_DOOR)


def _misspelt_step(line: Story) -> Iterator[Step]:
    event = _event(
        "ObjectEvent", line.at_ms, line.cast.gln("pharmacy"), "OBSERVE", "dispencing", "dispensed",
        epcList=line.packs(line.lot.serials[:1]),
    )  # fmt: skip
    yield line.step("pharmacy", "dispense", event, AT_THE_DOOR)


_Fraud = Callable[[Story], Iterator[Step]]
# What is tried, how it is called, and whether the lot must have a temperature range or be past its date.
FRAUDS: dict[str, _Fraud] = {
    "double commission": _double_commission,
    "double sale": _double_sale,
    "counterfeit serial": _counterfeit_serial,
    "foreign prefix": _foreign_prefix,
    "not a maker": _not_a_maker,
    "stolen goods": _stolen_goods,
    "diverted shipment": _diverted_shipment,
    "unknown consignee": _unknown_consignee,
    "broken cold chain": _broken_cold_chain,
    "expired": _expired,
    "recalled by a stranger": _recalled_by_a_stranger,
    "wrong check digit": _wrong_check_digit,
    "misspelt step": _misspelt_step,
}


def fraud_story(rng: Random, cast: Cast, story: int, now_ms: int, kind: str) -> Iterator[Step]:
    """One of FRAUDS, with the honest steps that it needs."""
    lot = new_lot(rng, story, now_ms, packs=4, days_left=-3 if kind == "expired" else 500)
    if kind == "broken cold chain":
        lot = Lot(PRODUCTS[0], lot.number, lot.serials, lot.made_ms, lot.expiry_ms)
    yield from FRAUDS[kind](Story(rng, cast, story, lot))
