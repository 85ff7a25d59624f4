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
CONTENTS_MAX = 128  # pairs of lot and span packed into one parent; a mixed pallet has a few
LISTS_MAX = 16  # of ingredients, named by one lot and rewritten with it; what comes later is in its history only
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
Row: TypeAlias = "tuple[str, int, int, int]"  # (*Entry, how many)


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
    contents: tuple[tuple[str, int, int], ...] = ()  # lot class, span, how many, sorted

    def moved(self, status: int, custodian: str, consignee: str = "") -> Item:
        """The same with another status and holder; half the cost of `_replace`."""
        return Item(status, custodian, consignee, *self[3:])

    def span(self, number: int) -> Extremes:
        """Extremes since that span began; joined spans answer with the oldest."""
        return self.spans[max(number - self.first_span, 0)]


class Lot(NamedTuple):
    """State of one lot. `temperature` as stated (hundredths), `packs` how many serials were given out.

    `ingredients`: in the state the names of lists, which the lots of one transformation share; for readers (`lot_of`)
    what stands on them.
    """

    maker: str
    expiry_date: int
    production_date: int
    temperature: tuple[int, int] | tuple[()]
    ingredients: tuple[bytes, ...] | tuple[str, ...]
    packs: int
    recall_reason: str


Get: TypeAlias = Callable[..., Any]  # (table, *key parts) -> value or None
Lots: TypeAlias = dict[str, tuple[Lot, bool]]  # those that an operation has read, by class, as `known_lot` gives them
Moves: TypeAlias = dict[str, dict[Entry, int]]  # by parent: what it counts more or, below 0, less often than before


def widen(extremes: Extremes, low: int, high: int) -> Extremes:
    return (min(extremes[0], low), max(extremes[1], high)) if extremes else (low, high)


def breaks(lot: Lot, extremes: Extremes) -> bool:
    """Whether these extremes leave the lot's range (hundredths against thousandths)."""
    if not lot.temperature or not extremes:
        return False
    low, high = lot.temperature
    return extremes[0] < low * 10 or extremes[1] > high * 10


def lot_of(get: Get, lot_epc: str) -> Lot:
    """A known lot with its ingredients, for people and the API; rules need only `lot_entry`."""
    lot = lot_entry(get, lot_epc)
    return lot._replace(ingredients=ingredients_of(get, lot))


def lot_entry(get: Get, lot_epc: str) -> Lot:
    return Lot._make(get("lot", lot_epc))


def ingredients_of(get: Get, lot: Lot) -> tuple[str, ...]:
    """What stands on the lists that an entry names, each once."""
    return tuple(dict.fromkeys(epc for name in lot.ingredients for epc in get("ingredients", name)))


def known_lot(get: Get, lot_epc: str, lots: Lots) -> tuple[Lot, bool]:
    """A lot, and whether it or its product is recalled."""
    known = lots.get(lot_epc)
    if known is None:
        lot = lot_entry(get, lot_epc)
        known = lots[lot_epc] = lot, bool(lot.recall_reason) or get("recall", lot_epc[3:17]) is not None
    return known


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
    """Let each become what `become` makes of it or refuses. That may depend on the value alone of an item with nothing
    in it, so it is asked once for neighbours that are one value in memory, as packs that went the same way are."""
    before: Any = None
    after: tuple[Any, ...] = ()
    for epc in epcs:
        value = ctx.get("item", epc)
        if value is not before or value is None:
            item = read_item(value, epc)
            before, after = None if item.contents else value, tuple(become(epc, item))
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


def rows_inside(get: Get, epc: str, item: Item) -> tuple[Row, ...]:
    """What is in an item by lot, span and fault, sorted."""
    if not item.contents:
        return ()
    contents = tuple((lot_epc, span, 0, count) for lot_epc, span, count in item.contents)
    faults = get("faults", epc)
    if faults is None:
        return contents
    return counted((*contents, *faults), (((lot_epc, span, 0), -count) for lot_epc, span, _, count in faults))


def rows_of(get: Get, epc: str, item: Item) -> tuple[Row, ...]:
    """The same after the item itself, if it is of a lot: as if it were in itself since its oldest span."""
    inside = rows_inside(get, epc, item)
    return ((item.lot, item.first_span, 0, 1), *inside) if item.lot else inside


def entries(get: Get, epc: str, item: Item, span: int, lots: Lots) -> Iterator[tuple[Entry, int]]:
    """How `item` counts in a parent that it entered in `span`."""
    for lot_epc, own_span, fault, count in rows_of(get, epc, item):
        yield (lot_epc, span, fault or _fault(get, lot_epc, item.span(own_span), item.recalled, lots)), count


def _fault(get: Get, lot_epc: str, extremes: Extremes, recalled: bool, lots: Lots) -> int:
    """What is wrong with a pack itself, beyond what holds for its whole lot."""
    if recalled:
        return int(Code.PACK_RECALLED)
    if extremes and breaks(known_lot(get, lot_epc, lots)[0], extremes):
        return int(Code.COLD_CHAIN_BROKEN)
    return 0


def counted(rows: Iterable[tuple[Any, ...]], changes: Iterable[tuple[tuple[Any, ...], int]]) -> tuple[Any, ...]:
    """`rows`, each ending in how many, with signed counts added, sorted; what reaches zero is dropped."""
    counts = {row[:-1]: row[-1] for row in rows}
    for key, count in changes:
        counts[key] = counts.get(key, 0) + count
    return tuple((*key, counts[key]) for key in sorted(counts) if counts[key] > 0)


def count_contents(item: Item, changes: Iterable[tuple[Entry, int]]) -> Item:
    """The item with so much more or, below 0, less in it."""
    return item._replace(contents=counted(item.contents, ((entry[:2], count) for entry, count in changes)))


def count_faults(ctx: Context, epc: str, changes: Iterable[tuple[Entry, int]]) -> None:
    """Write what has a fault among what is in an item. It has no limit of its own, so that no recall and no reading is
    refused for want of room: with two faults it is at most twice as long as what was packed."""
    before = ctx.get("faults", epc)
    after = counted(before or (), ((entry, count) for entry, count in changes if entry[2]))
    if after:
        ctx.put("faults", epc, value=after)
    elif before is not None:
        ctx.delete("faults", epc)


def note_faults(get: Get, epc: str, old: Item, new: Item, moves: Moves, lots: Lots) -> None:
    """Add to `moves` what the parent of a packed item counts differently now that this was read or recalled of it."""
    if old.recalled:
        return  # and so is all that is in it
    for lot_epc, span, fault, count in rows_of(get, epc, old):
        if fault or not (new.recalled or breaks(known_lot(get, lot_epc, lots)[0], new.spans[0])):
            continue  # the oldest span holds all readings, so what it does not break is sound: nearly always all
        was = _fault(get, lot_epc, old.span(span), False, lots)
        now = _fault(get, lot_epc, new.span(span), new.recalled, lots)
        if was != now:
            _move(moves, old.parent, (lot_epc, old.entry_span, was), -count)
            _move(moves, old.parent, (lot_epc, old.entry_span, now), count)


def _move(moves: Moves, parent: str, entry: Entry, count: int) -> None:
    counts = moves.setdefault(parent, {})
    counts[entry] = counts.get(entry, 0) + count


def put_upwards(ctx: Context, moves: Moves, lots: Lots) -> None:
    """Correct what parents count, and theirs, as far up as it makes a difference: each level once for all of `moves`,
    when all items that they come from are written. Of a parent only its faults are, which are few: a thousand packs
    may be recalled from as many full pallets at once."""
    while moves:
        above: Moves = {}
        for epc, changes in moves.items():
            count_faults(ctx, epc, changes.items())
            item = item_of(ctx.get, epc)
            if not item.parent:
                continue
            for (lot_epc, span, fault), count in changes.items():
                fault = fault or _fault(ctx.get, lot_epc, item.span(span), item.recalled, lots)
                _move(above, item.parent, (lot_epc, item.entry_span, fault), count)
        moves = {parent: changes for parent, changes in above.items() if any(changes.values())}


def refuse_unfit(
    ctx: Context, epc: str, item: Item, lots: Lots, *, returned_to: str = "", dispensed: bool = False
) -> None:
    """Refuse what is recalled, expired or was too warm or cold, unless it goes back to the lot's maker."""
    # A unit that came out of a recalled case is recalled, too, with all that is in it.
    own = int(Code.PACK_RECALLED) if item.recalled else 0
    if item.lot:
        _refuse_lot(ctx, epc, item.lot, item.spans[0], own, lots, returned_to, dispensed)
    for lot_epc, span, fault, _ in rows_inside(ctx.get, epc, item):
        _refuse_lot(ctx, epc, lot_epc, item.span(span), fault or own, lots, returned_to, dispensed)


def _refuse_lot(
    ctx: Context, epc: str, lot_epc: str, extremes: Extremes, fault: int, lots: Lots, returned_to: str, dispensed: bool
) -> None:
    lot, is_recalled = known_lot(ctx.get, lot_epc, lots)
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
    lot = lot_entry(get, item.lot) if item.lot else _NO_LOT
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
        ingredients=ingredients_of(get, lot),
        low_millidegrees=extremes[0] if extremes else None,
        high_millidegrees=extremes[1] if extremes else None,
        cold_chain_broken=breaks(lot, extremes),
        recalled=recalled or bool(lot.recall_reason) or get("recall", gtin_of(epc)) is not None,
    )
