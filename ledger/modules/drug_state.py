"""The state of rule module `drugs`: items, lots, what is inside what, and what an item has been exposed to.

Lives here: the records and the arithmetic on them, with every write of an item that its parents must hear of.

Must not know: operations, roles, or who may do what (ledger/modules/drugs.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from ledger.errors import Code, Reject
from ledger.gs1 import day_end_ms, gtin_of, is_class
from ledger.rules import Context
from ledger.state import Reader, state_key

MODULE_NAME = "drugs"

DEPTH_MAX = 8  # pack, bundle, case, layer, pallet, container, and room to spare
INSIDE_MAX = 1_000  # the list of what is inside is rewritten when it changes
CONTENTS_MAX = 128  # lots, spans and faults counted in one parent; a mixed pallet has a few
SPANS_MAX = 16  # packing after readings; beyond, the two oldest spans are joined, which only widens extremes


class Status(IntEnum):
    """What an item is by its own record; packed items share their outermost parent's."""

    ACTIVE = 1
    IN_TRANSIT = 2
    DISPENSED = 3
    DECOMMISSIONED = 4
    CONSUMED = 5


Extremes: TypeAlias = "tuple[int, ...]"  # lowest and highest, thousandths of a degree Celsius; empty: never read
Entry: TypeAlias = "tuple[str, int, int]"  # lot class, span, fault code or 0


class Item(NamedTuple):
    """State of one thing. A named tuple, not a dataclass: it is read and written in every transaction."""

    status: int
    custodian: str
    consignee: str = ""
    parent: str = ""
    entry_span: int = 0  # the parent's span in which it went in
    lot: str = ""  # lot class; empty for logistic units and assets
    recalled: bool = False
    height: int = 0  # levels below it
    first_span: int = 0  # number of spans[0]
    spans: tuple[Extremes, ...] = ((),)
    contents: tuple[tuple[str, int, int, int], ...] = ()  # (*Entry, how many), sorted

    def moved(self, status: int, custodian: str, consignee: str = "") -> Item:
        """The same with another status and holder; half the cost of `_replace`."""
        return Item(status, custodian, consignee, *self[3:])

    def span(self, number: int) -> Extremes:
        """Extremes since that span began; joined spans answer with the oldest."""
        return self.spans[max(number - self.first_span, 0)]


class Lot(NamedTuple):
    """State of one lot. `temperature` as stated (hundredths), `packs` how many serials were given out."""

    maker: str
    expiry_date: int
    production_date: int
    temperature: tuple[int, int] | tuple[()]
    ingredients: tuple[str, ...]
    packs: int
    recall_reason: str


Get: TypeAlias = Callable[..., Any]  # (table, *key parts) -> value or None
Lots: TypeAlias = dict[str, tuple[Lot, bool]]  # by class: what a lot is, and whether it or its product is recalled


def widen(extremes: Extremes, low: int, high: int) -> Extremes:
    return (min(extremes[0], low), max(extremes[1], high)) if extremes else (low, high)


def breaks(lot: Lot, extremes: Extremes) -> bool:
    """Whether these extremes leave the lot's range (hundredths against thousandths)."""
    if not lot.temperature or not extremes:
        return False
    low, high = lot.temperature
    return extremes[0] < low * 10 or extremes[1] > high * 10


def lot_of(get: Get, lot_epc: str) -> Lot:
    return Lot._make(get("lot", lot_epc))


def item_of(get: Get, epc: str) -> Item:
    return read_item(get("item", epc), epc)


def read_item(value: Any, epc: str) -> Item:
    """What the table holds of an item; rejects what is unknown."""
    if value is None:
        raise Reject(Code.BAD_IDENTIFIER if is_class(epc) else Code.UNKNOWN_PACK, epc)
    return Item._make(value)


def outermost(get: Get, item: Item) -> Item:
    while item.parent:
        item = item_of(get, item.parent)
    return item


def put_item(ctx: Context, epc: str, item: Item) -> None:
    ctx.put("item", epc, value=tuple(item))


def become_each(ctx: Context, epcs: Iterable[str], become: Callable[[str, Item], Item]) -> None:
    """Let each become what `become` makes of it or refuses. That may depend on the item's value alone, so it is asked
    once for neighbours that are one value in memory, as packs that went the same way are."""
    before: Any = None
    after: tuple[Any, ...] = ()
    for epc in epcs:
        value = ctx.get("item", epc)
        if value is not before or value is None:
            before, after = value, tuple(become(epc, read_item(value, epc)))
        ctx.put("item", epc, value=after)
        ctx.index("serial", epc)


def open_span(parent: Item) -> Item:
    """A parent whose newest span has no readings yet, for what goes in now."""
    if not parent.spans[-1]:
        return parent
    spans, first_span = (*parent.spans, ()), parent.first_span
    if len(spans) > SPANS_MAX:
        spans, first_span = (spans[0], *spans[2:]), first_span + 1  # the oldest holds all that the next one does
    return parent._replace(spans=spans, first_span=first_span)


def unpacked(item: Item, parent: Item) -> Item:
    """What comes out takes along custody, recall and what was read since it went in."""
    seen = parent.span(item.entry_span)
    spans = tuple(widen(span, seen[0], seen[1]) for span in item.spans) if seen else item.spans
    return item._replace(
        custodian=parent.custodian,
        parent="",
        entry_span=0,
        recalled=item.recalled or parent.recalled,
        spans=spans,
    )


def alone(get: Get, epc: str, item: Item, holder: str) -> Item:
    """The item, which `holder` must have and which must not be packed; in whatever status."""
    top = outermost(get, item) if item.parent else item
    if top.status == Status.DISPENSED:
        raise Reject(Code.ALREADY_DISPENSED, epc)
    if top.custodian != holder:
        raise Reject(Code.NOT_IN_CUSTODY, epc)
    if item.parent:
        raise Reject(Code.PACKED_IN_PARENT, epc, item.parent)
    return item


def in_hand(get: Get, epc: str, holder: str) -> Item:
    """An active item that `holder` has and that is not packed."""
    return active(get, epc, item_of(get, epc), holder)


def active(get: Get, epc: str, item: Item, holder: str) -> Item:
    """The item, which must be active and not packed, and which `holder` must have."""
    alone(get, epc, item, holder)
    if item.status != Status.ACTIVE:
        raise Reject(Code.IN_TRANSIT if item.status == Status.IN_TRANSIT else Code.NOT_ACTIVE, epc)
    return item


def entries(get: Get, item: Item, span: int) -> Iterator[tuple[Entry, int]]:
    """How `item` counts among the contents of a parent that it entered in `span`."""
    if item.lot:
        fault = _fault(get, item.lot, item.spans[0], item.recalled)
        yield (item.lot, span, fault), 1
    for lot_epc, own_span, fault, count in item.contents:
        fault = fault or _fault(get, lot_epc, item.span(own_span), item.recalled)
        yield (lot_epc, span, fault), count


def _fault(get: Get, lot_epc: str, extremes: Extremes, recalled: bool) -> int:
    """What is wrong with a pack itself, beyond what holds for its whole lot."""
    if recalled:
        return int(Code.PACK_RECALLED)
    if extremes and breaks(lot_of(get, lot_epc), extremes):
        return int(Code.COLD_CHAIN_BROKEN)
    return 0


def counted(
    contents: Iterable[tuple[str, int, int, int]], changes: Iterable[tuple[Entry, int]]
) -> tuple[tuple[str, int, int, int], ...]:
    """`contents` with signed counts added, sorted; what reaches zero is dropped."""
    counts = {(lot, span, fault): count for lot, span, fault, count in contents}
    for entry, count in changes:
        counts[entry] = counts.get(entry, 0) + count
    if len(counts) > CONTENTS_MAX:
        raise Reject(Code.CONTAINER_FULL, CONTENTS_MAX)
    return tuple((*entry, counts[entry]) for entry in sorted(counts) if counts[entry] > 0)


def put_upwards(ctx: Context, epc: str, old: Item, new: Item) -> None:
    """Write a changed item, and correct what its parents count if it counts differently now."""
    put_item(ctx, epc, new)
    while new.parent:
        before, after = list(entries(ctx.get, old, old.entry_span)), list(entries(ctx.get, new, new.entry_span))
        if before == after:
            return
        epc, old = new.parent, item_of(ctx.get, new.parent)
        changes = [*((entry, -count) for entry, count in before), *after]
        new = old._replace(contents=counted(old.contents, changes))
        put_item(ctx, epc, new)


def refuse_unfit(
    ctx: Context, epc: str, item: Item, lots: Lots, *, returned_to: str = "", dispensed: bool = False
) -> None:
    """Refuse what is recalled, expired or was too warm or cold, unless it goes back to the lot's maker. `lots`: those
    that this operation has read."""
    if item.lot:
        own = int(Code.PACK_RECALLED) if item.recalled else 0
        _refuse_lot(ctx, epc, item.lot, item.spans[0], own, lots, returned_to, dispensed)
    for lot_epc, span, fault, _ in item.contents:
        _refuse_lot(ctx, epc, lot_epc, item.span(span), fault, lots, returned_to, dispensed)


def _refuse_lot(
    ctx: Context, epc: str, lot_epc: str, extremes: Extremes, fault: int, lots: Lots, returned_to: str, dispensed: bool
) -> None:
    known = lots.get(lot_epc)
    if known is None:
        lot = lot_of(ctx.get, lot_epc)
        known = lot, bool(lot.recall_reason) or ctx.get("recall", lot_epc[3:17]) is not None
        lots[lot_epc] = known
    lot, is_recalled = known
    if lot.maker == returned_to:
        return
    if fault == Code.PACK_RECALLED or is_recalled:
        raise Reject(Code.PACK_RECALLED, epc, lot_epc)
    if lot.expiry_date == 0:
        if dispensed:
            raise Reject(Code.EXPIRY_UNKNOWN, epc, lot_epc)
    elif ctx.time_ms >= day_end_ms(lot.expiry_date):
        raise Reject(Code.PACK_EXPIRED, epc, lot.expiry_date)
    if fault or breaks(lot, extremes):
        raise Reject(Code.COLD_CHAIN_BROKEN, epc, lot_epc)


@dataclass(frozen=True, slots=True)
class PackState:
    """What holds for one item now, resolved through everything it is packed in.

    `low_millidegrees` and `high_millidegrees` are the extremes it has been exposed to; None when never measured. Both
    they and the flags speak of the item itself; ask for what is `inside` one by one.
    """

    epc: str
    status: Status
    custodian: str
    consignee: str
    parents: tuple[str, ...]  # from the nearest to the outermost
    inside: tuple[str, ...]
    lot: str
    maker: str
    expiry_date: int
    production_date: int
    temperature: tuple[int, int] | None
    ingredients: tuple[str, ...]
    low_millidegrees: int | None
    high_millidegrees: int | None
    cold_chain_broken: bool
    recalled: bool

    def expired(self, time_ms: int) -> bool:
        """Whether its expiry day (UTC) is over; never, when none is stated."""
        return self.expiry_date != 0 and time_ms >= day_end_ms(self.expiry_date)


_NO_LOT = Lot("", 0, 0, (), (), 0, "")


def pack_state(reader: Reader, epc: str) -> PackState | None:
    """The state of an item for people and the API; None when the chain does not know it."""

    def get(table: str, *parts: str) -> Any:
        return reader.get(state_key(MODULE_NAME, table, *parts))

    value = get("item", epc)
    if value is None:
        return None
    item = top = Item._make(value)
    extremes, recalled, parents = item.spans[0], item.recalled, []
    while top.parent:
        parent = item_of(get, top.parent)
        seen = parent.span(top.entry_span)
        extremes = widen(extremes, seen[0], seen[1]) if seen else extremes
        recalled = recalled or parent.recalled
        parents.append(top.parent)
        top = parent
    lot = lot_of(get, item.lot) if item.lot else _NO_LOT
    return PackState(
        epc=epc,
        status=Status(top.status),
        custodian=top.custodian,
        consignee=top.consignee,
        parents=tuple(parents),
        inside=get("inside", epc) or (),
        lot=item.lot,
        maker=lot.maker,
        expiry_date=lot.expiry_date,
        production_date=lot.production_date,
        temperature=lot.temperature or None,
        ingredients=lot.ingredients,
        low_millidegrees=extremes[0] if extremes else None,
        high_millidegrees=extremes[1] if extremes else None,
        cold_chain_broken=breaks(lot, extremes),
        recalled=recalled or bool(lot.recall_reason) or get("recall", gtin_of(epc)) is not None,
    )
