"""Rule module `drugs`: every pack from production to patient.

Tables
    item/<epc>                  an `Item` (ledger/modules/drug_state.py): a pack, case, pallet or other single thing
    inside/<epc>                the identifiers directly inside an item; absent when empty
    faults/<epc>                what is recalled or spoilt among all that is inside an item; absent when nothing is
    lot/<lot class>             a `Lot`: who made it, its dates, temperature range, lists of ingredients
    ingredients/<hash>          identifiers of what lots were made of; by what it holds, so it is written once for all
                                lots of a transformation, and never changed
    recall/<gtin>               reason; the whole product is recalled

Custody. One institution holds an item; shipping puts it in transit to one consignee, who alone receives it (the shipper
may void the shipment before). What is packed moves with its parent: its own record is not touched, and custody and
status are those of the outermost parent, so shipping a pallet is one write. Nothing packed can be acted on alone.
A logistic unit comes into being when something is first packed into it by whoever holds that: packers use their
customers' SSCCs, so no company prefix is asked for. Lots and products are kinds, not things: they are named in
transformations, observations and packing lists, but have no custodian.

Cold chain. A lot may have a temperature range. An observation widens the extremes of the observed item only. Each item
has spans of extremes: what goes in after a reading starts a new span, so that it inherits, when it comes out, what was
read since it went in and nothing older. Each parent also counts what is in it by lot and span, and by fault, so that
shipping a pallet checks every lot in it without visiting a pack.

Who may observe: the holder; in transit also the consignee and any distributor (the carrier is not a party to the
shipment, and its signature says who logged); a regulator always.
Unfit goods (recalled, expired, cold chain broken) are not shipped on, used or dispensed, but may go back to the lot's
maker, be received, packed, unpacked and decommissioned.

Indexes: `serial` by identifier (packs, parents, products), `lot` by `<gtin>/<lot>`, `custodian` by institution id.

Must not know: EPCIS documents (node/gateway/capture.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ledger.codec import Value, encode
from ledger.crypto import hash_bytes
from ledger.errors import Code, FieldReject, Reject
from ledger.gs1 import (
    LOT_UNKNOWN,
    gtin_of,
    is_class,
    is_lot,
    is_pack,
    lot_class,
    lot_index_key,
    owns_gtin,
)
from ledger.modules.drug_operations import (
    INGREDIENTS_MAX,
    Aggregate,
    Associate,
    Commission,
    CommissionContainer,
    Decommission,
    Disaggregate,
    Dispense,
    Link,
    Observe,
    Recall,
    Receive,
    Ship,
    Transform,
    VoidShipment,
)
from ledger.modules.drug_state import (
    CONTENTS_MAX,
    DEPTH_MAX,
    INSIDE_MAX,
    LISTS_MAX,
    MODULE_NAME,
    Entry,
    Item,
    Lot,
    Lots,
    Moves,
    PackState,
    Status,
    active,
    alone,
    become_each,
    count_contents,
    count_faults,
    entries,
    in_hand,
    ingredients_of,
    item_of,
    lot_entry,
    note_faults,
    open_span,
    outermost,
    pack_state,
    put_item,
    put_upwards,
    read_item,
    refuse_unfit,
    unpacked,
    widen,
)
from ledger.modules.drug_trace import Step, trace
from ledger.rules import Context, Role, Rule, RuleModule

__all__ = ["MODULE", "PackState", "Status", "Step", "pack_state", "trace"]

HANDLERS = frozenset({Role.MANUFACTURER, Role.DISTRIBUTOR, Role.PHARMACY, Role.HOSPITAL, Role.REGULATOR})
DISPENSERS = frozenset({Role.PHARMACY, Role.HOSPITAL})
MAKERS = frozenset({Role.MANUFACTURER})
RECALLERS = frozenset({Role.MANUFACTURER, Role.REGULATOR})


def _check_facts(op: Commission | Transform) -> None:
    """Dates in order, range not empty."""
    if op.temperature is not None and op.temperature[0] > op.temperature[1]:
        raise FieldReject("temperature", "low not above high")
    if op.expiry_date and op.production_date > op.expiry_date:
        raise Reject(Code.BAD_DATE, "production_date")


def _list_ingredients(ctx: Context, ingredients: tuple[str, ...]) -> tuple[bytes, ...]:
    """Write the list, if it is one, and give its name for lots to hold."""
    if not ingredients:
        return ()
    name = hash_bytes(encode(ingredients))
    ctx.put("ingredients", name, value=ingredients)
    return (name,)


def _state_lot(ctx: Context, lot_epc: str, op: Commission | Transform, lists: tuple[bytes, ...], packs: int) -> None:
    """Make the lot known, or check that what is said of it agrees. `lists`: names of lists of ingredients.

    What is not stated yet may be filled in until the first pack of the lot exists; from then on its facts stand. Only
    ingredients add up, as one lot may take several transformations.
    """
    stated = (op.expiry_date, op.production_date, op.temperature or ())
    value = ctx.get("lot", lot_epc)
    if value is None:
        ctx.put("lot", lot_epc, value=(ctx.member.id, *stated, lists, packs, ""))
        return
    lot = Lot._make(value)
    if lot.maker != ctx.member.id:  # the prefix changed hands while the lot was in production
        raise Reject(Code.LOT_EXISTS, lot_epc, "maker")
    known = (lot.expiry_date, lot.production_date, lot.temperature)
    for name, said, before in zip(("expiry_date", "production_date", "temperature"), stated, known, strict=True):
        if said and said != before and (before or lot.packs):
            raise Reject(Code.LOT_EXISTS, lot_epc, name)
    if isinstance(op, Commission) and lists and lot.ingredients and op.ingredients != ingredients_of(ctx.get, lot):
        raise Reject(Code.LOT_EXISTS, lot_epc, "ingredients")
    facts: tuple[Value, ...] = tuple(said or before for said, before in zip(stated, known, strict=True))
    every = tuple(dict.fromkeys((*lot.ingredients, *lists)))[:LISTS_MAX]
    ctx.put("lot", lot_epc, value=(lot.maker, *facts, every, lot.packs + packs, lot.recall_reason))


def _own_gtin(ctx: Context, gtin: str) -> None:
    if not owns_gtin(ctx.member.prefixes, gtin):
        raise Reject(Code.NOT_PREFIX_OWNER, gtin)


def _commission(op: Commission, ctx: Context) -> None:
    _own_gtin(ctx, op.gtin)
    lot_epc = lot_class(op.gtin, op.lot)
    _state_lot(ctx, lot_epc, op, _list_ingredients(ctx, op.ingredients), len(op.serials))
    _make_packs(ctx, f"01/{op.gtin}/21/", op.serials, lot_epc)
    ctx.index("lot", lot_index_key(lot_epc))
    ctx.index("custodian", ctx.member.id)


def _make_packs(ctx: Context, stem: str, serials: Iterable[str], lot_epc: str) -> None:
    """`serials` of one lot, held by the sender. `stem` is the identifier up to the serial."""
    fresh: tuple[Value, ...] = tuple(Item(int(Status.ACTIVE), ctx.member.id, lot=lot_epc))
    get, put, index = ctx.get, ctx.put, ctx.index
    for serial in serials:
        epc = stem + serial
        if get("item", epc) is not None:
            raise Reject(Code.SERIAL_EXISTS, epc)
        put("item", epc, value=fresh)
        index("serial", epc)


def _commission_container(op: CommissionContainer, ctx: Context) -> None:
    for epc in op.epcs:
        if gtin_of(epc):
            raise Reject(Code.BAD_IDENTIFIER, epc)  # what has a GTIN is commissioned with its lot
        if ctx.get("item", epc) is not None:
            raise Reject(Code.SERIAL_EXISTS, epc)
        put_item(ctx, epc, Item(int(Status.ACTIVE), ctx.member.id))
        ctx.index("serial", epc)
    ctx.index("custodian", ctx.member.id)


def _check_transform(op: Transform) -> None:
    _check_facts(op)
    if not op.inputs and not op.outputs:
        raise FieldReject("inputs", "inputs or outputs")
    for name, listed in (("inputs", op.inputs), ("outputs", op.outputs)):
        if len({epc for epc, _, _ in listed}) != len(listed):
            raise FieldReject(name, "distinct items")


def _transform(op: Transform, ctx: Context) -> None:
    lots: Lots = {}
    for epc, _, _ in op.inputs:
        _consume(ctx, epc, lots)
    lists = _list_ingredients(ctx, tuple(epc for epc, _, _ in op.inputs)[:INGREDIENTS_MAX] if op.outputs else ())
    packs: dict[str, list[str]] = {}
    for epc, _, _ in op.outputs:
        gtin = gtin_of(epc)
        if not gtin:
            raise Reject(Code.BAD_IDENTIFIER, epc)
        _own_gtin(ctx, gtin)
        if is_lot(epc):
            _state_lot(ctx, epc, op, lists, 0)
            ctx.index("lot", lot_index_key(epc))
        elif is_pack(epc):
            packs.setdefault(gtin, []).append(epc)
        elif not is_class(epc):
            raise Reject(Code.BAD_IDENTIFIER, epc)
    for gtin, epcs in packs.items():
        lot_epc = lot_class(gtin, op.lot or LOT_UNKNOWN)
        _state_lot(ctx, lot_epc, op, lists, len(epcs))
        _make_packs(ctx, "", epcs, lot_epc)
        ctx.index("lot", lot_index_key(lot_epc))
    ctx.index("custodian", ctx.member.id)


def _consume(ctx: Context, epc: str, lots: Lots) -> None:
    """Use up one input. A lot may come from outside the chain; if it is known, it must not be recalled."""
    me = ctx.member.id
    if is_class(epc):
        value = ctx.get("lot", epc)
        if (value is not None and Lot._make(value).recall_reason) or ctx.get("recall", gtin_of(epc)) is not None:
            raise Reject(Code.PACK_RECALLED, epc)
        if is_lot(epc):
            ctx.index("lot", lot_index_key(epc))
        return
    item = in_hand(ctx.get, epc, me)
    refuse_unfit(ctx, epc, item, lots)
    put_item(ctx, epc, item.moved(int(Status.CONSUMED), me))
    ctx.index("serial", epc)


def _aggregate(op: Aggregate, ctx: Context) -> None:
    me = ctx.member.id
    if ctx.get("item", op.parent) is None and not gtin_of(op.parent):
        parent = Item(int(Status.ACTIVE), me)
    else:
        parent = in_hand(ctx.get, op.parent, me)
    parent = open_span(parent)
    entry_span = parent.first_span + len(parent.spans) - 1
    entered: list[tuple[Entry, int]] = []
    lots: Lots = {}
    height = parent.height
    for child in op.children:
        if child == op.parent:
            raise Reject(Code.BAD_IDENTIFIER, child)
        if is_class(child):
            continue
        item = in_hand(ctx.get, child, me)
        height = max(height, item.height + 1)
        entered.extend(entries(ctx.get, child, item, entry_span, lots))
        put_item(ctx, child, item._replace(parent=op.parent, entry_span=entry_span))
        ctx.index("serial", child)
    if height >= DEPTH_MAX:
        raise Reject(Code.PACKED_TOO_DEEP, op.parent, DEPTH_MAX)
    before = ctx.get("inside", op.parent) or ()
    known = frozenset(before)
    inside = (*before, *(child for child in op.children if child not in known))
    if len(inside) > INSIDE_MAX:
        raise Reject(Code.CONTAINER_FULL, op.parent, INSIDE_MAX)
    ctx.put("inside", op.parent, value=inside)
    parent = count_contents(parent._replace(height=height), entered)
    if len(parent.contents) > CONTENTS_MAX:
        raise Reject(Code.CONTAINER_FULL, op.parent, CONTENTS_MAX)
    put_item(ctx, op.parent, parent)
    count_faults(ctx, op.parent, entered)
    ctx.index("serial", op.parent)
    ctx.index("custodian", me)


def _disaggregate(op: Disaggregate, ctx: Context) -> None:
    me = ctx.member.id
    parent = in_hand(ctx.get, op.parent, me)
    inside = ctx.get("inside", op.parent) or ()
    leaving = op.children or inside
    if not leaving:
        raise Reject(Code.NOT_IN_PARENT, op.parent)
    listed, gone = frozenset(inside), frozenset(leaving)
    remaining = tuple(child for child in inside if child not in gone)
    left: list[tuple[Entry, int]] = []
    lots: Lots = {}
    for child in leaving:
        if child not in listed:
            raise Reject(Code.NOT_IN_PARENT, child, op.parent)
        if is_class(child):
            continue
        item = item_of(ctx.get, child)
        if remaining:  # else nothing is left to count
            left.extend((entry, -count) for entry, count in entries(ctx.get, child, item, item.entry_span, lots))
        put_item(ctx, child, unpacked(item, parent))
        ctx.index("serial", child)
    if remaining:
        ctx.put("inside", op.parent, value=remaining)
        parent = count_contents(parent, left)
        count_faults(ctx, op.parent, left)
    else:
        ctx.delete("inside", op.parent)
        if ctx.get("faults", op.parent) is not None:
            ctx.delete("faults", op.parent)
        # An empty logistic unit forgets; a case that is a product does not.
        own, recalled = (parent.spans[0], parent.recalled) if parent.lot else ((), False)
        parent = parent._replace(contents=(), height=0, first_span=0, spans=(own,), recalled=recalled)
    put_item(ctx, op.parent, parent)
    ctx.index("serial", op.parent)
    ctx.index("custodian", me)


def _ship(op: Ship, ctx: Context) -> None:
    me = ctx.member.id
    consignee = ctx.institution(op.to)
    if not consignee.active:
        raise Reject(Code.MEMBER_SUSPENDED, op.to)
    if op.to == me:
        raise FieldReject("to", "another institution")
    lots: Lots = {}

    def shipped(epc: str, item: Item) -> Item:
        active(ctx.get, epc, item, me)
        refuse_unfit(ctx, epc, item, lots, returned_to=op.to)
        return item.moved(int(Status.IN_TRANSIT), me, op.to)

    become_each(ctx, op.epcs, shipped)
    ctx.index("custodian", me)
    ctx.index("custodian", op.to)


def _check_in_transit(epc: str, item: Item) -> None:
    if item.parent:
        raise Reject(Code.PACKED_IN_PARENT, epc, item.parent)
    if item.status != Status.IN_TRANSIT:
        raise Reject(Code.NOT_IN_TRANSIT, epc)


def _void_shipment(op: VoidShipment, ctx: Context) -> None:
    me = ctx.member.id

    def returned(epc: str, item: Item) -> Item:
        _check_in_transit(epc, item)
        if item.custodian != me:
            raise Reject(Code.NOT_IN_CUSTODY, epc)
        return item.moved(int(Status.ACTIVE), me)

    become_each(ctx, op.epcs, returned)
    ctx.index("custodian", me)


def _receive(op: Receive, ctx: Context) -> None:
    me = ctx.member.id

    def received(epc: str, item: Item) -> Item:
        _check_in_transit(epc, item)
        if item.consignee != me:
            raise Reject(Code.NOT_THE_CONSIGNEE, epc)
        return item.moved(int(Status.ACTIVE), me)

    become_each(ctx, op.epcs, received)
    ctx.index("custodian", me)


def _millidegrees(value_milli: int, uom: str) -> tuple[int, int]:
    """A temperature in thousandths of a degree Celsius, rounded down and up (UN/CEFACT Recommendation 20 units)."""
    match uom:
        case "CEL":
            return value_milli, value_milli
        case "KEL":
            return value_milli - 273_150, value_milli - 273_150
        case "FAH":
            ninths = (value_milli - 32_000) * 5
            return ninths // 9, -(-ninths // 9)
    raise FieldReject("readings.uom", "CEL, KEL or FAH for a temperature")


def _check_observe(op: Observe) -> None:
    for kind, value, uom in op.readings:
        if kind == "Temperature":
            _millidegrees(value, uom)


def _observe(op: Observe, ctx: Context) -> None:
    measured = [_millidegrees(value, uom) for kind, value, uom in op.readings if kind == "Temperature"]
    low, high = (min(measured)[0], max(high for _, high in measured)) if measured else (0, 0)

    lots: Lots = {}
    moves: Moves = {}
    before: Any = None
    after: tuple[Any, ...] = ()
    for epc in op.epcs:
        if is_class(epc):
            _known_class(ctx, epc)
            continue
        value = ctx.get("item", epc)
        if value is not before or value is None:  # as in become_each
            item = read_item(value, epc)
            _may_observe(ctx, epc, outermost(ctx.get, item) if item.parent else item)
            seen = item._replace(spans=tuple(widen(span, low, high) for span in item.spans)) if measured else item
            before, after = value, tuple(seen)
            is_wider = seen.spans != item.spans
        if is_wider:
            ctx.put("item", epc, value=after)
            if item.parent:
                note_faults(ctx.get, epc, item, seen, moves, lots)
        ctx.index("serial", epc)
    put_upwards(ctx, moves, lots)
    ctx.index("custodian", ctx.member.id)


def _known_class(ctx: Context, epc: str) -> None:
    """Index what is said of a lot or product; a lot must be known."""
    if is_lot(epc):
        if ctx.get("lot", epc) is None:
            raise Reject(Code.UNKNOWN_LOT, epc)
        ctx.index("lot", lot_index_key(epc))
    else:
        ctx.index("serial", epc)


def _may_observe(ctx: Context, epc: str, top: Item) -> None:
    member = ctx.member
    if top.status not in (Status.ACTIVE, Status.IN_TRANSIT):
        raise Reject(Code.ALREADY_DISPENSED if top.status == Status.DISPENSED else Code.NOT_ACTIVE, epc)
    if top.custodian == member.id or Role.REGULATOR in member.roles:
        return
    if top.status == Status.IN_TRANSIT and (top.consignee == member.id or Role.DISTRIBUTOR in member.roles):
        return
    raise Reject(Code.NOT_IN_CUSTODY, epc)


def _dispense(op: Dispense, ctx: Context) -> None:
    me = ctx.member.id
    lots: Lots = {}
    for epc in op.epcs:
        item = in_hand(ctx.get, epc, me)
        if not item.lot:
            raise Reject(Code.BAD_IDENTIFIER, epc)  # a logistic unit is not a medicine
        refuse_unfit(ctx, epc, item, lots, dispensed=True)
        put_item(ctx, epc, item.moved(int(Status.DISPENSED), me))
        ctx.index("serial", epc)
        ctx.index("lot", lot_index_key(item.lot))
    ctx.index("custodian", me)


def _decommission(op: Decommission, ctx: Context) -> None:
    me = ctx.member.id
    for epc in op.epcs:
        item = alone(ctx.get, epc, item_of(ctx.get, epc), me)
        if item.status not in (Status.ACTIVE, Status.IN_TRANSIT):  # what is lost in transit goes too
            raise Reject(Code.NOT_ACTIVE, epc)
        put_item(ctx, epc, item.moved(int(Status.DECOMMISSIONED), me))
        ctx.index("serial", epc)
    ctx.index("custodian", me)


def _recall(op: Recall, ctx: Context) -> None:
    if Role.REGULATOR not in ctx.member.roles:
        _own_gtin(ctx, op.gtin)
    lot_epc = None if op.lot is None else lot_class(op.gtin, op.lot)
    if lot_epc is not None and ctx.get("lot", lot_epc) is None:
        raise Reject(Code.UNKNOWN_LOT, lot_epc)
    lots: Lots = {}
    moves: Moves = {}
    for serial in op.serials:
        epc = f"01/{op.gtin}/21/{serial}"
        item = item_of(ctx.get, epc)
        if lot_epc is not None and item.lot != lot_epc:
            raise Reject(Code.UNKNOWN_PACK, epc, lot_epc)
        recalled = item._replace(recalled=True)
        put_item(ctx, epc, recalled)
        if item.parent:
            note_faults(ctx.get, epc, item, recalled, moves, lots)
        ctx.index("serial", epc)
    put_upwards(ctx, moves, lots)
    if lot_epc is not None:
        if not op.serials:
            ctx.put("lot", lot_epc, value=tuple(lot_entry(ctx.get, lot_epc)._replace(recall_reason=op.reason)))
        ctx.index("lot", lot_index_key(lot_epc))
    elif not op.serials:
        ctx.put("recall", op.gtin, value=op.reason)
        ctx.index("serial", f"01/{op.gtin}")
    ctx.index("custodian", ctx.member.id)


def _link(op: Link, ctx: Context) -> None:
    for epc in op.epcs:
        if is_class(epc):
            _known_class(ctx, epc)
            continue
        top = outermost(ctx.get, item_of(ctx.get, epc))
        if ctx.member.id not in (top.custodian, top.consignee):
            raise Reject(Code.NOT_IN_CUSTODY, epc)
        ctx.index("serial", epc)
    ctx.index("custodian", ctx.member.id)


def _associate(op: Associate, ctx: Context) -> None:
    for epc in (op.parent, *op.children):
        value = None if is_class(epc) else ctx.get("item", epc)
        if value is not None and outermost(ctx.get, Item._make(value)).custodian != ctx.member.id:
            raise Reject(Code.NOT_IN_CUSTODY, epc)
        ctx.index("serial", epc)
    ctx.index("custodian", ctx.member.id)


MODULE = RuleModule(
    name=MODULE_NAME,
    version=1,
    rules=(
        Rule(Commission, _commission, _check_facts, MAKERS),
        Rule(CommissionContainer, _commission_container, None, HANDLERS),
        Rule(Transform, _transform, _check_transform, MAKERS),
        Rule(Aggregate, _aggregate, None, HANDLERS),
        Rule(Disaggregate, _disaggregate, None, HANDLERS),
        Rule(Ship, _ship, None, HANDLERS),
        Rule(VoidShipment, _void_shipment, None, HANDLERS),
        Rule(Receive, _receive, None, HANDLERS),
        Rule(Observe, _observe, _check_observe, HANDLERS),
        Rule(Dispense, _dispense, None, DISPENSERS),
        Rule(Decommission, _decommission, None, HANDLERS),
        Rule(Recall, _recall, None, RECALLERS),
        Rule(Link, _link, None, HANDLERS),
        Rule(Associate, _associate, None, HANDLERS),
    ),
)
