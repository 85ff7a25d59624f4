"""Rule module `drugs`: custody, packing, cold chain, recalls, and every refusal by its code."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest

from ledger.block import Receipt
from ledger.codec import Value, decode
from ledger.crypto import hash_bytes
from ledger.errors import Code
from ledger.fields import Operation
from ledger.gs1 import DAY_MS, check_digit, day_end_ms, lot_class
from ledger.modules.drug_operations import (
    INGREDIENTS_MAX,
    ITEMS_MAX,
    Aggregate,
    Associate,
    CommissionContainer,
    Decommission,
    Dispense,
    Link,
    Observe,
    Recall,
    Transform,
    VoidShipment,
)
from ledger.modules.drug_state import (
    CONTENTS_MAX,
    DEPTH_MAX,
    INSIDE_MAX,
    LISTS_MAX,
    SPANS_MAX,
    Entry,
    Item,
    entries,
    lot_of,
    rows_inside,
)
from ledger.modules.drugs import Status, pack_state, trace
from ledger.state import Overlay, state_key
from tests.ledger.chain import VALUE_SIZE_BYTES_MAX, Chain
from tests.ledger.drugs_helper import (
    CARRIER,
    CASE_GTIN,
    EXPIRY,
    GTIN,
    HOSPITAL,
    INSURER,
    MAKER,
    OTHER,
    PHARMACY,
    REGULATOR,
    RIVAL,
    SSCC,
    STRANGER,
    aggregate,
    at_pharmacy,
    commission,
    disaggregate,
    dispense,
    new_chain,
    observe,
    pack,
    packs,
    receive,
    ship,
    state,
    stocked,
)

LOT = lot_class(GTIN, "LOT1")


def refused(receipt: Receipt, code: Code, *detail: object) -> None:
    assert Code(receipt.code) == code, receipt.detail
    if detail:
        assert receipt.detail[: len(detail)] == detail


def sscc(number: int) -> str:
    digits = f"39521234{number:09d}"
    return f"00/{digits}{check_digit(digits)}"


# Commissioning


def test_commissioning_makes_packs_held_by_the_maker() -> None:
    chain = stocked(3)
    found = state(chain, pack(1))
    assert (found.status, found.custodian, found.lot) == (Status.ACTIVE, "maker", LOT)
    assert (found.expiry_date, found.production_date, found.temperature) == (EXPIRY, 20260701, (200, 800))
    assert len(chain.found("serial", pack(2))) == 1
    assert len(chain.found("lot", f"{GTIN}/LOT1")) == 1
    assert len(chain.found("custodian", "maker")) == 1


def test_a_serial_commissioned_twice_is_refused() -> None:
    chain = stocked(3)
    refused(chain.send(MAKER, commission("NEW", "SN00002")), Code.SERIAL_EXISTS, pack(2))
    assert pack_state(chain, f"01/{GTIN}/21/NEW") is None  # all or nothing


def test_a_serial_named_twice_in_one_transaction_is_refused() -> None:
    refused(new_chain().send(MAKER, commission("A", "A")), Code.BAD_FIELD, "serials")
    refused(stocked().send(MAKER, ship("pharmacy", pack(0), pack(0))), Code.BAD_FIELD, "epcs")


def test_only_the_owner_of_the_prefix_commissions() -> None:
    chain = new_chain()
    refused(chain.send(RIVAL, commission("A")), Code.NOT_PREFIX_OWNER, GTIN)
    refused(chain.send(PHARMACY, commission("A")), Code.ROLE_REQUIRED)
    refused(chain.send(STRANGER, commission("A")), Code.NOT_A_MEMBER)


def test_a_wrong_check_digit_is_refused() -> None:
    chain = stocked()
    refused(chain.send(MAKER, commission("A", gtin="09521234001011")), Code.BAD_CHECK_DIGIT, "gtin")
    refused(chain.send(MAKER, aggregate("00/395212340000000015", pack(0))), Code.BAD_CHECK_DIGIT, "parent")
    refused(chain.send(MAKER, ship("pharmacy", "01/09521234001011/21/SN1")), Code.BAD_CHECK_DIGIT, "epcs[0]")


def test_a_known_lot_keeps_its_facts() -> None:
    chain = stocked(1, ingredients=("01/09521234009016/10/API",))
    refused(chain.send(MAKER, commission("A", expiry=20290630)), Code.LOT_EXISTS, LOT, "expiry_date")
    refused(chain.send(MAKER, commission("A", produced=20260601)), Code.LOT_EXISTS, LOT, "production_date")
    refused(chain.send(MAKER, commission("A", temperature=(0, 900))), Code.LOT_EXISTS, LOT, "temperature")
    other = ("01/09521234009016/10/OTHER",)
    refused(chain.send(MAKER, commission("A", ingredients=other)), Code.LOT_EXISTS, LOT, "ingredients")
    assert chain.send(MAKER, commission("A")).ok
    assert chain.send(MAKER, commission("B", expiry=0, produced=0, temperature=None)).ok
    assert state(chain, f"01/{GTIN}/21/B").expiry_date == EXPIRY


def test_a_lot_is_not_given_a_range_after_its_first_pack() -> None:
    chain = stocked(1, temperature=None)
    refused(chain.send(MAKER, commission("A", temperature=(200, 800))), Code.LOT_EXISTS, LOT, "temperature")


@pytest.mark.parametrize("change", [{"expiry": 20260230}, {"expiry": 20260601, "produced": 20260701}, {"produced": 5}])
def test_impossible_dates_are_refused(change: dict[str, int]) -> None:
    refused(new_chain().send(MAKER, commission("A", **change)), Code.BAD_DATE)  # type: ignore[arg-type]


def test_an_empty_temperature_range_is_refused() -> None:
    refused(new_chain().send(MAKER, commission("A", temperature=(800, 200))), Code.BAD_FIELD, "temperature")


def test_a_thousand_serials_fit_one_transaction_and_no_more() -> None:
    chain = new_chain()
    serials = tuple(f"S{n:019d}" for n in range(ITEMS_MAX))
    assert chain.send(MAKER, commission(*serials)).ok
    assert chain.read("drugs", "lot", LOT)[5] == ITEMS_MAX
    refused(chain.send(MAKER, commission(*serials, "one more")), Code.BAD_FIELD, "serials")


# Custody


def test_shipping_and_receiving_hand_over_custody() -> None:
    chain = stocked()
    assert chain.send(MAKER, ship("pharmacy", pack(0))).ok
    moving = state(chain, pack(0))
    assert (moving.status, moving.custodian, moving.consignee) == (Status.IN_TRANSIT, "maker", "pharmacy")
    assert chain.send(PHARMACY, receive(pack(0))).ok
    held = state(chain, pack(0))
    assert (held.status, held.custodian, held.consignee) == (Status.ACTIVE, "pharmacy", "")
    assert len(chain.found("custodian", "pharmacy")) == 2


def holder_operations(epc: str) -> list[Operation]:
    return [
        ship("hospital", epc),
        aggregate(SSCC, epc),
        disaggregate(epc),
        observe(5, epc),
        Decommission((epc,), "destroyed", 0),
        Link((epc,), ("urn:po:1",), "add", 0),
        Associate(epc, (), True, 0),
        dispense(epc),
    ]


@pytest.mark.parametrize("operation", holder_operations(pack(0)), ids=lambda op: op.NAME)
def test_nobody_but_the_custodian_acts_on_a_pack(operation: Operation) -> None:
    chain = stocked()
    refused(chain.send(OTHER, operation), Code.NOT_IN_CUSTODY, pack(0))


@pytest.mark.parametrize("operation", holder_operations(pack(0))[:-3], ids=lambda op: op.NAME)
def test_nobody_but_the_custodian_acts_on_what_is_packed(operation: Operation) -> None:
    chain = stocked()
    assert chain.send(MAKER, aggregate(sscc(9), pack(0))).ok
    refused(chain.send(OTHER, operation), Code.NOT_IN_CUSTODY, pack(0))


def test_only_the_consignee_receives() -> None:
    chain = stocked()
    refused(chain.send(PHARMACY, receive(pack(0))), Code.NOT_IN_TRANSIT, pack(0))
    chain.send(MAKER, ship("pharmacy", pack(0)))
    refused(chain.send(OTHER, receive(pack(0))), Code.NOT_THE_CONSIGNEE, pack(0))
    refused(chain.send(MAKER, receive(pack(0))), Code.NOT_THE_CONSIGNEE, pack(0))
    assert chain.send(PHARMACY, receive(pack(0))).ok
    refused(chain.send(PHARMACY, receive(pack(0))), Code.NOT_IN_TRANSIT, pack(0))


def test_what_is_in_transit_waits_for_its_consignee() -> None:
    chain = stocked()
    chain.send(MAKER, ship("pharmacy", pack(0)))
    refused(chain.send(MAKER, ship("hospital", pack(0))), Code.IN_TRANSIT, pack(0))
    refused(chain.send(MAKER, aggregate(SSCC, pack(0))), Code.IN_TRANSIT, pack(0))


def test_the_shipper_voids_a_shipment() -> None:
    chain = stocked()
    chain.send(MAKER, ship("pharmacy", pack(0)))
    refused(chain.send(PHARMACY, VoidShipment((pack(0),), 0)), Code.NOT_IN_CUSTODY)
    assert chain.send(MAKER, VoidShipment((pack(0),), 0)).ok
    refused(chain.send(PHARMACY, receive(pack(0))), Code.NOT_IN_TRANSIT)
    refused(chain.send(MAKER, VoidShipment((pack(0),), 0)), Code.NOT_IN_TRANSIT)


def test_shipping_needs_another_known_institution() -> None:
    chain = stocked()
    refused(chain.send(MAKER, ship("nobody", pack(0))), Code.UNKNOWN_MEMBER, "nobody")
    refused(chain.send(MAKER, ship("maker", pack(0))), Code.BAD_FIELD, "to")
    refused(chain.send(INSURER, receive(pack(0))), Code.ROLE_REQUIRED)


def test_unknown_packs_and_classes_are_refused() -> None:
    chain = stocked()
    refused(chain.send(MAKER, ship("pharmacy", pack(77))), Code.UNKNOWN_PACK, pack(77))
    refused(chain.send(MAKER, ship("pharmacy", LOT)), Code.BAD_IDENTIFIER, LOT)
    refused(chain.send(MAKER, ship("pharmacy", SSCC)), Code.UNKNOWN_PACK, SSCC)


# Packing


def test_a_logistic_unit_comes_into_being_by_packing_and_moves_its_contents() -> None:
    chain = stocked(3)
    case = f"01/{CASE_GTIN}/21/CS1"
    assert chain.send(MAKER, commission("CS1", gtin=CASE_GTIN)).ok
    assert chain.send(MAKER, aggregate(case, *packs(3))).ok
    assert chain.send(MAKER, aggregate(SSCC, case)).ok
    result = chain.execute([chain.transaction(MAKER, ship("pharmacy", SSCC))])
    assert len(result.changes) == 1  # one write for a pallet, whatever is on it
    assert chain.send(PHARMACY, receive(SSCC)).ok
    found = state(chain, pack(0))
    assert (found.custodian, found.status, found.parents) == ("pharmacy", Status.ACTIVE, (case, SSCC))
    assert state(chain, SSCC).inside == (case,)
    assert chain.send(PHARMACY, disaggregate(SSCC)).ok
    assert chain.send(PHARMACY, disaggregate(case, pack(0))).ok
    assert state(chain, case).inside == (pack(1), pack(2))
    assert state(chain, pack(0)).parents == ()
    assert chain.send(PHARMACY, dispense(pack(0))).ok


@pytest.mark.parametrize(
    "operation",
    [
        ship("pharmacy", pack(0)),
        Decommission((pack(0),), "destroyed", 0),
        aggregate(sscc(5), pack(0)),
        aggregate(pack(0), pack(1)),
    ],
    ids=lambda op: op.NAME,
)
def test_what_is_packed_cannot_be_acted_on_alone(operation: Operation) -> None:
    chain = stocked()
    assert chain.send(MAKER, aggregate(SSCC, pack(0))).ok
    refused(chain.send(MAKER, operation), Code.PACKED_IN_PARENT, pack(0), SSCC)


def test_a_packed_pack_cannot_be_dispensed_or_received() -> None:
    chain = stocked()
    chain.send(MAKER, aggregate(SSCC, pack(0)))
    chain.send(MAKER, ship("pharmacy", SSCC))
    refused(chain.send(PHARMACY, receive(pack(0))), Code.PACKED_IN_PARENT)
    chain.send(PHARMACY, receive(SSCC))
    refused(chain.send(PHARMACY, dispense(pack(0))), Code.PACKED_IN_PARENT, pack(0), SSCC)


def test_only_what_is_inside_comes_out() -> None:
    chain = stocked()
    chain.send(MAKER, aggregate(SSCC, pack(0)))
    refused(chain.send(MAKER, disaggregate(SSCC, pack(1))), Code.NOT_IN_PARENT, pack(1), SSCC)
    refused(chain.send(MAKER, disaggregate(pack(1))), Code.NOT_IN_PARENT, pack(1))
    assert chain.send(MAKER, disaggregate(SSCC)).ok
    refused(chain.send(MAKER, disaggregate(SSCC)), Code.NOT_IN_PARENT, SSCC)


def test_nothing_is_packed_into_itself_or_its_own_contents() -> None:
    chain = stocked()
    refused(chain.send(MAKER, aggregate(pack(0), pack(0))), Code.BAD_IDENTIFIER, pack(0))
    assert chain.send(MAKER, aggregate(pack(0), pack(1))).ok
    refused(chain.send(MAKER, aggregate(pack(1), pack(0))), Code.PACKED_IN_PARENT, pack(1))


def test_nesting_is_bounded() -> None:
    chain = stocked(1)
    inner = pack(0)
    for level in range(DEPTH_MAX - 1):
        assert chain.send(MAKER, aggregate(sscc(level), inner)).ok
        inner = sscc(level)
    refused(chain.send(MAKER, aggregate(sscc(99), inner)), Code.PACKED_TOO_DEEP)
    assert len(state(chain, pack(0)).parents) == DEPTH_MAX - 1


def test_a_parent_holds_a_bounded_number() -> None:
    chain = stocked(INSIDE_MAX)
    assert chain.send(MAKER, aggregate(SSCC, *packs(INSIDE_MAX))).ok
    assert chain.send(MAKER, commission("X")).ok
    refused(chain.send(MAKER, aggregate(SSCC, f"01/{GTIN}/21/X")), Code.CONTAINER_FULL, SSCC)


def test_a_full_pallet_unpacks_in_one_transaction() -> None:
    chain = stocked(INSIDE_MAX)
    chain.send(MAKER, aggregate(SSCC, *packs(INSIDE_MAX)))
    assert chain.send(MAKER, disaggregate(SSCC)).ok
    assert chain.read("drugs", "inside", SSCC) is None
    assert Item._make(chain.read("drugs", "item", SSCC)).contents == ()


def full_pallet(chain: Chain) -> tuple[str, ...]:
    """Packs on SSCC, as many as it can tell apart: each went in after another reading."""
    loaded = packs(CONTENTS_MAX)
    for epc in loaded:
        assert chain.send(MAKER, aggregate(SSCC, epc)).ok
        assert chain.send(MAKER, observe(5, SSCC)).ok
    return loaded


def test_a_parent_tells_a_bounded_number_of_lots_and_spans_apart() -> None:
    chain = stocked(CONTENTS_MAX + 2)
    assert chain.send(MAKER, aggregate(sscc(2), pack(CONTENTS_MAX + 1))).ok
    loaded = full_pallet(chain)
    refused(chain.send(MAKER, aggregate(SSCC, pack(CONTENTS_MAX))), Code.CONTAINER_FULL, SSCC, CONTENTS_MAX)
    refused(chain.send(MAKER, aggregate(SSCC, sscc(2))), Code.CONTAINER_FULL, SSCC, CONTENTS_MAX)
    assert chain.send(MAKER, disaggregate(SSCC, loaded[0])).ok
    assert chain.send(REGULATOR, recall(None, *(epc[21:] for epc in loaded))).ok  # a fault takes no room
    assert chain.send(MAKER, aggregate(SSCC, sscc(2))).ok


@pytest.mark.parametrize("operation", [Recall(GTIN, None, ("SN00005", "SN00128"), "fake", 0), observe(40, pack(5))])
def test_no_full_parent_stands_in_the_way_of_what_makes_a_pack_unfit(operation: Operation) -> None:
    chain = stocked(CONTENTS_MAX + 1)
    full_pallet(chain)
    assert chain.send(MAKER, aggregate(sscc(2), SSCC)).ok
    assert chain.send(REGULATOR, operation).ok
    code = Code.PACK_RECALLED if isinstance(operation, Recall) else Code.COLD_CHAIN_BROKEN
    refused(chain.send(MAKER, ship("pharmacy", sscc(2))), code, sscc(2), LOT)
    assert chain.send(MAKER, disaggregate(sscc(2))).ok
    assert chain.send(MAKER, disaggregate(SSCC, pack(5))).ok
    refused(chain.send(MAKER, ship("pharmacy", pack(5))), code, pack(5), LOT)


def test_bulk_quantities_are_listed_in_a_parent() -> None:
    chain = stocked()
    assert chain.send(MAKER, aggregate(SSCC, LOT, pack(0))).ok
    assert state(chain, SSCC).inside == (LOT, pack(0))
    assert chain.send(MAKER, disaggregate(SSCC, LOT)).ok
    assert state(chain, SSCC).inside == (pack(0),)


def test_containers_may_be_made_empty_but_only_once_and_not_with_a_gtin() -> None:
    chain = new_chain()
    assert chain.send(CARRIER, CommissionContainer((SSCC, "8003/09521234000013987"), 0)).ok
    refused(chain.send(MAKER, CommissionContainer((SSCC,), 0)), Code.SERIAL_EXISTS, SSCC)
    refused(chain.send(MAKER, CommissionContainer((pack(0),), 0)), Code.BAD_IDENTIFIER, pack(0))
    chain = stocked()
    chain.send(CARRIER, CommissionContainer((SSCC,), 0))
    refused(chain.send(MAKER, aggregate(SSCC, pack(0))), Code.NOT_IN_CUSTODY, SSCC)


# Dispensing


def test_a_pack_is_dispensed_once() -> None:
    chain = at_pharmacy(stocked(), pack(0))
    patient = hash_bytes(b"salted")
    assert chain.send(PHARMACY, Dispense((pack(0),), patient, 0)).ok
    refused(chain.send(PHARMACY, dispense(pack(0))), Code.ALREADY_DISPENSED, pack(0))
    refused(chain.send(OTHER, dispense(pack(0))), Code.ALREADY_DISPENSED, pack(0))
    refused(chain.send(PHARMACY, ship("hospital", pack(0))), Code.ALREADY_DISPENSED)
    refused(chain.send(PHARMACY, Decommission((pack(0),), "lost", 0)), Code.ALREADY_DISPENSED)
    assert state(chain, pack(0)).status == Status.DISPENSED


def test_two_dispensings_in_one_block_are_one() -> None:
    chain = at_pharmacy(stocked(), pack(0))
    first, second = chain.block((PHARMACY, dispense(pack(0))), (PHARMACY, dispense(pack(0))))
    assert first.ok
    refused(second, Code.ALREADY_DISPENSED)


def test_only_pharmacies_and_hospitals_dispense() -> None:
    chain = stocked()
    refused(chain.send(MAKER, dispense(pack(0))), Code.ROLE_REQUIRED)
    chain.send(MAKER, ship("hospital", pack(0)))
    chain.send(HOSPITAL, receive(pack(0)))
    assert chain.send(HOSPITAL, dispense(pack(0))).ok


def test_a_pack_is_good_until_the_end_of_its_expiry_day() -> None:
    chain = at_pharmacy(stocked(), pack(0), pack(1), pack(2))
    chain.time_ms = day_end_ms(EXPIRY) - 1
    assert chain.send(PHARMACY, dispense(pack(0))).ok
    assert not state(chain, pack(1)).expired(chain.time_ms)
    chain.time_ms += 1
    refused(chain.send(PHARMACY, dispense(pack(1))), Code.PACK_EXPIRED, pack(1), EXPIRY)
    refused(chain.send(PHARMACY, ship("hospital", pack(1))), Code.PACK_EXPIRED)
    assert state(chain, pack(1)).expired(chain.time_ms)
    assert chain.send(PHARMACY, ship("maker", pack(1))).ok  # back to where it came from
    assert chain.send(PHARMACY, Decommission((pack(2),), "expired", 0)).ok


def test_a_pack_whose_expiry_nobody_stated_is_not_dispensed() -> None:
    chain = at_pharmacy(stocked(expiry=0), pack(0))
    refused(chain.send(PHARMACY, dispense(pack(0))), Code.EXPIRY_UNKNOWN, pack(0))


def test_a_logistic_unit_is_not_dispensed() -> None:
    chain = stocked()
    chain.send(MAKER, aggregate(SSCC, pack(0)))
    at_pharmacy(chain, SSCC)
    refused(chain.send(PHARMACY, dispense(SSCC)), Code.BAD_IDENTIFIER, SSCC)


def test_decommissioning_takes_the_contents_along() -> None:
    chain = stocked()
    chain.send(MAKER, aggregate(SSCC, pack(0)))
    assert chain.send(MAKER, Decommission((SSCC,), "destroyed", 0)).ok
    assert state(chain, pack(0)).status == Status.DECOMMISSIONED
    refused(chain.send(MAKER, disaggregate(SSCC)), Code.NOT_ACTIVE, SSCC)
    refused(chain.send(MAKER, Decommission((SSCC,), "destroyed", 0)), Code.NOT_ACTIVE, SSCC)
    refused(chain.send(MAKER, commission("SN00000")), Code.SERIAL_EXISTS)


def test_what_is_lost_in_transit_is_decommissioned_by_its_shipper() -> None:
    chain = stocked()
    chain.send(MAKER, ship("pharmacy", pack(0)))
    assert chain.send(MAKER, Decommission((pack(0),), "stolen", 0)).ok
    refused(chain.send(PHARMACY, receive(pack(0))), Code.NOT_IN_TRANSIT)


# Recall


def recall(lot: str | None = "LOT1", *serials: str, gtin: str = GTIN) -> Recall:
    return Recall(gtin, lot, serials, "contaminated", 0)


@pytest.mark.parametrize("sender", [MAKER, REGULATOR])
@pytest.mark.parametrize("operation", [recall(), recall(None), recall("LOT1", "SN00000"), recall(None, "SN00000")])
def test_a_recalled_pack_is_neither_dispensed_nor_shipped_on(sender: object, operation: Recall) -> None:
    chain = at_pharmacy(stocked(), pack(0), pack(1))
    assert chain.send(sender, operation).ok  # type: ignore[arg-type]
    refused(chain.send(PHARMACY, dispense(pack(0))), Code.PACK_RECALLED, pack(0))
    refused(chain.send(PHARMACY, ship("hospital", pack(0))), Code.PACK_RECALLED)
    assert state(chain, pack(0)).recalled
    assert state(chain, pack(1)).recalled == (not operation.serials)
    assert chain.send(PHARMACY, ship("maker", pack(0))).ok


def test_only_the_maker_or_a_regulator_recalls() -> None:
    chain = stocked()
    refused(chain.send(RIVAL, recall()), Code.NOT_PREFIX_OWNER)
    refused(chain.send(PHARMACY, recall()), Code.ROLE_REQUIRED)
    refused(chain.send(REGULATOR, recall("LOT9")), Code.UNKNOWN_LOT)
    refused(chain.send(REGULATOR, recall(None, "SN99999")), Code.UNKNOWN_PACK)


def test_a_serial_of_another_lot_is_not_recalled_with_this_one() -> None:
    chain = stocked()
    chain.send(MAKER, commission("B", lot="LOT2"))
    refused(chain.send(MAKER, recall("LOT2", "SN00000")), Code.UNKNOWN_PACK, pack(0))


@pytest.mark.parametrize("operation", [recall(), recall(None), recall("LOT1", "SN00000")])
def test_a_pallet_with_a_recalled_pack_deep_inside_is_not_shipped_on(operation: Recall) -> None:
    chain = stocked()
    chain.send(MAKER, aggregate(sscc(1), pack(0)))
    chain.send(MAKER, aggregate(sscc(2), sscc(1), pack(1)))
    at_pharmacy(chain, sscc(2))
    assert chain.send(REGULATOR, operation).ok
    refused(chain.send(PHARMACY, ship("hospital", sscc(2))), Code.PACK_RECALLED, sscc(2), LOT)
    if operation.serials:  # once the bad one is out, the rest may go
        assert chain.send(PHARMACY, disaggregate(sscc(2), sscc(1))).ok
        assert chain.send(PHARMACY, ship("hospital", sscc(2))).ok
    assert chain.send(PHARMACY, ship("maker", sscc(2))).ok != bool(operation.serials)


def test_what_comes_out_of_a_recalled_case_is_recalled() -> None:
    chain = stocked()
    case = f"01/{CASE_GTIN}/21/CS1"
    chain.send(MAKER, commission("CS1", gtin=CASE_GTIN))
    chain.send(MAKER, aggregate(case, pack(0)))
    assert chain.send(REGULATOR, recall(None, "CS1", gtin=CASE_GTIN)).ok
    assert state(chain, pack(0)).recalled
    chain.send(MAKER, disaggregate(case))
    assert state(chain, pack(0)).recalled


def test_a_box_that_comes_out_of_a_recalled_case_is_not_shipped_on_until_it_is_empty() -> None:
    """Nobody may evade a recall by unpacking one level; and a tote that was in there is not at fault."""
    chain = stocked()
    case, box = f"01/{CASE_GTIN}/21/CS1", sscc(1)
    chain.send(MAKER, commission("CS1", gtin=CASE_GTIN))
    chain.send(MAKER, aggregate(box, pack(0)))
    chain.send(MAKER, aggregate(case, box))
    assert chain.send(REGULATOR, recall(None, "CS1", gtin=CASE_GTIN)).ok
    assert chain.send(MAKER, disaggregate(case)).ok
    refused(chain.send(MAKER, ship("pharmacy", box)), Code.PACK_RECALLED, box, LOT)
    assert chain.send(MAKER, disaggregate(box)).ok
    assert state(chain, pack(0)).recalled
    assert chain.send(MAKER, aggregate(box, pack(1))).ok
    assert not state(chain, pack(1)).recalled


# Cold chain


def test_a_broken_cold_chain_stops_dispensing_and_shipping_on() -> None:
    chain = at_pharmacy(stocked(), pack(0), pack(1))
    assert chain.send(PHARMACY, observe(9, pack(0))).ok
    assert chain.send(PHARMACY, observe(8, pack(1))).ok
    refused(chain.send(PHARMACY, dispense(pack(0))), Code.COLD_CHAIN_BROKEN, pack(0), LOT)
    refused(chain.send(PHARMACY, ship("hospital", pack(0))), Code.COLD_CHAIN_BROKEN)
    assert state(chain, pack(0)).cold_chain_broken
    assert chain.send(PHARMACY, dispense(pack(1))).ok
    assert chain.send(PHARMACY, Decommission((pack(0),), "damaged", 0)).ok


def test_too_cold_breaks_the_chain_and_stays_broken() -> None:
    chain = at_pharmacy(stocked(), pack(0))
    assert chain.block((PHARMACY, observe(1, pack(0))), (PHARMACY, observe(5, pack(0))))[1].ok
    found = state(chain, pack(0))
    assert (found.low_millidegrees, found.high_millidegrees) == (1000, 5000)
    refused(chain.send(PHARMACY, dispense(pack(0))), Code.COLD_CHAIN_BROKEN)


def test_lots_without_a_range_have_no_cold_chain() -> None:
    chain = at_pharmacy(stocked(temperature=None), pack(0))
    chain.send(PHARMACY, observe(40, pack(0)))
    assert chain.send(PHARMACY, dispense(pack(0))).ok


@pytest.mark.parametrize(
    ("value_milli", "uom", "broken"),
    [
        (8_000, "CEL", False),
        (8_001, "CEL", True),
        (46_400, "FAH", False),  # 8 degrees Celsius exactly
        (46_401, "FAH", True),  # 8.0006: rounded away from the range
        (281_150, "KEL", False),
        (275_149, "KEL", True),
    ],
)
def test_units_are_converted_in_integers(value_milli: int, uom: str, broken: bool) -> None:
    chain = stocked()
    readings = (("Temperature", value_milli, uom), ("RelativeHumidity", 99_000, "P1"))
    assert chain.send(MAKER, Observe((pack(0),), 0, readings, "414/9521234000013")).ok
    assert state(chain, pack(0)).cold_chain_broken == broken


def test_a_temperature_in_an_unknown_unit_is_refused() -> None:
    refused(stocked().send(MAKER, Observe((pack(0),), 0, (("Temperature", 5, "LUX"),), None)), Code.BAD_FIELD)


def test_a_pack_inherits_what_its_parents_were_exposed_to() -> None:
    chain = stocked()
    chain.send(MAKER, aggregate(sscc(1), pack(0)))
    chain.send(MAKER, aggregate(sscc(2), sscc(1)))
    chain.send(MAKER, ship("pharmacy", sscc(2)))
    assert chain.send(CARRIER, observe(12, sscc(2))).ok
    assert state(chain, pack(0)).cold_chain_broken
    assert chain.send(PHARMACY, receive(sscc(2))).ok  # it must be taken in to be dealt with
    refused(chain.send(PHARMACY, ship("hospital", sscc(2))), Code.COLD_CHAIN_BROKEN, sscc(2), LOT)
    chain.send(PHARMACY, disaggregate(sscc(2)))
    refused(chain.send(PHARMACY, ship("hospital", sscc(1))), Code.COLD_CHAIN_BROKEN)
    chain.send(PHARMACY, disaggregate(sscc(1)))
    refused(chain.send(PHARMACY, dispense(pack(0))), Code.COLD_CHAIN_BROKEN)


def test_a_pack_does_not_inherit_what_happened_before_or_after_its_stay() -> None:
    chain = stocked(3)
    chain.send(MAKER, aggregate(SSCC, pack(0)))
    chain.send(MAKER, observe(30, SSCC))
    chain.send(MAKER, aggregate(SSCC, pack(1)))
    chain.send(MAKER, observe(5, SSCC))
    assert chain.send(MAKER, disaggregate(SSCC, pack(1))).ok
    chain.send(MAKER, observe(-20, SSCC))
    assert chain.send(MAKER, disaggregate(SSCC, pack(0))).ok
    early, late = state(chain, pack(0)), state(chain, pack(1))
    assert (early.low_millidegrees, early.high_millidegrees) == (-20_000, 30_000)
    assert (late.low_millidegrees, late.high_millidegrees) == (5_000, 5_000)
    assert chain.send(MAKER, aggregate(SSCC, pack(2))).ok  # an emptied logistic unit starts afresh
    assert state(chain, pack(2)).low_millidegrees is None


def test_the_good_packs_leave_when_the_spoilt_one_is_out() -> None:
    chain = stocked(3)
    chain.send(MAKER, observe(30, pack(0)))
    chain.send(MAKER, aggregate(SSCC, *packs(3)))
    refused(chain.send(MAKER, ship("pharmacy", SSCC)), Code.COLD_CHAIN_BROKEN)
    assert chain.send(MAKER, disaggregate(SSCC, pack(0))).ok
    assert chain.send(MAKER, ship("pharmacy", SSCC)).ok


def test_a_logger_inside_a_parent_counts_for_what_it_names() -> None:
    chain = stocked(2)
    chain.send(MAKER, aggregate(sscc(1), *packs(2)))
    chain.send(MAKER, aggregate(sscc(2), sscc(1)))
    assert chain.send(MAKER, observe(30, pack(0))).ok
    refused(chain.send(MAKER, ship("pharmacy", sscc(2))), Code.COLD_CHAIN_BROKEN)
    chain.send(MAKER, disaggregate(sscc(2)))
    chain.send(MAKER, disaggregate(sscc(1), pack(0)))
    assert chain.send(MAKER, ship("pharmacy", sscc(1))).ok
    assert not state(chain, pack(1)).cold_chain_broken


def test_packing_after_many_readings_keeps_a_bounded_record_that_only_widens() -> None:
    chain = stocked(SPANS_MAX + 4)
    for number in range(SPANS_MAX + 4):
        assert chain.send(MAKER, aggregate(SSCC, pack(number))).ok
        assert chain.send(MAKER, observe(number, SSCC)).ok
    assert len(Item._make(chain.read("drugs", "item", SSCC)).spans) == SPANS_MAX
    assert state(chain, pack(SPANS_MAX + 3)).low_millidegrees == (SPANS_MAX + 3) * 1000
    assert state(chain, pack(6)).low_millidegrees == 6_000
    assert state(chain, pack(2)).low_millidegrees == 0  # joined with the oldest
    assert chain.send(MAKER, disaggregate(SSCC)).ok
    assert Item._make(chain.read("drugs", "item", SSCC)).contents == ()


def test_a_reading_that_widens_nothing_writes_nothing() -> None:
    chain = stocked(2)
    chain.send(MAKER, aggregate(SSCC, pack(0)))
    assert chain.send(MAKER, observe(5, SSCC, *packs(2))).ok
    again = chain.execute([chain.transaction(MAKER, observe(5, SSCC, *packs(2)))])
    assert again.receipts[0].ok
    assert again.changes == {}
    assert len(chain.found("serial", SSCC)) == 3  # but it is part of the history


def test_a_further_reading_of_what_is_spoilt_leaves_its_parents_alone() -> None:
    chain = stocked()
    chain.send(MAKER, aggregate(SSCC, pack(0)))
    chain.send(MAKER, observe(30, pack(0)))
    again = chain.execute([chain.transaction(MAKER, observe(31, pack(0)))])
    assert list(again.changes) == [state_key("drugs", "item", pack(0))]


@pytest.mark.parametrize("operation", [Recall(GTIN, None, tuple(f"L{n}" for n in range(20)), "fake", 0), observe(40)])
def test_many_packs_of_a_pallet_become_unfit_at_the_cost_of_one_climb(
    operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = new_chain()
    inside = tuple(f"01/{GTIN}/21/L{number}" for number in range(20))
    for number in range(20):
        assert chain.send(MAKER, commission(f"L{number}", lot=f"LOT{number}")).ok
    below: tuple[str, ...] = inside
    for level in range(1, DEPTH_MAX):
        assert chain.send(MAKER, aggregate(sscc(level), *below)).ok
        below = (sscc(level),)
    if isinstance(operation, Observe):
        operation = observe(40, *inside)
    written: list[bytes] = []
    read: list[bytes] = []
    put, get = Overlay.put, Overlay.get
    monkeypatch.setattr(Overlay, "put", lambda self, key, value: (written.append(key), put(self, key, value))[1])
    monkeypatch.setattr(Overlay, "get", lambda self, key: (read.append(key), get(self, key))[1])
    assert chain.send(REGULATOR, operation).ok
    packs_written = [state_key("drugs", "item", epc) for epc in inside]
    assert written == packs_written + [state_key("drugs", "faults", sscc(level)) for level in range(1, DEPTH_MAX)]
    for number in range(20):
        assert read.count(state_key("drugs", "lot", lot_class(GTIN, f"LOT{number}"))) <= 1


@pytest.mark.parametrize("seed", range(8))
def test_a_parent_counts_what_is_in_it(seed: int) -> None:
    """Whatever was packed, unpacked, measured and recalled at any level, together or one by one."""
    random = Random(seed)
    chain = new_chain()
    every = tuple(f"01/{GTIN}/21/{number}" for number in range(12))
    for number, epc in enumerate(every):
        limits = ((200, 800), (0, 2500), None)[number % 3]
        assert chain.send(MAKER, commission(epc[21:], lot=f"L{number % 3}", temperature=limits)).ok
    units = tuple(map(sscc, range(5)))
    assert chain.send(MAKER, CommissionContainer(units, 0)).ok
    for _ in range(150):
        chosen = tuple(random.sample([*every, *units], random.randint(1, 4)))
        operation: Operation = random.choice(
            [
                aggregate(random.choice(units), *chosen),
                aggregate(random.choice(units), chosen[0]),
                disaggregate(random.choice(units)),
                disaggregate(random.choice(units), chosen[0]),
                observe(random.choice([5, 5, 1, 12, 30]), *chosen),
                Recall(GTIN, None, (random.choice(every)[21:],), "fake", 0),
            ]
        )
        chain.send(REGULATOR if isinstance(operation, Recall) else MAKER, operation)
        get = partial(chain.read, "drugs")
        for unit in units:
            counts: dict[Entry, int] = {}
            for epc in get("inside", unit) or ():
                item = Item._make(get("item", epc))
                for entry, count in entries(get, epc, item, item.entry_span, {}):
                    counts[entry] = counts.get(entry, 0) + count
            assert rows_inside(get, unit, Item._make(get("item", unit))) == tuple(
                (*entry, counts[entry]) for entry in sorted(counts)
            )


def test_who_may_observe() -> None:
    chain = stocked()
    refused(chain.send(CARRIER, observe(5, pack(0))), Code.NOT_IN_CUSTODY)
    assert chain.send(REGULATOR, observe(5, pack(0))).ok
    chain.send(MAKER, ship("pharmacy", pack(0)))
    for sender in (MAKER, CARRIER, PHARMACY):
        assert chain.send(sender, observe(5, pack(0))).ok
    refused(chain.send(OTHER, observe(5, pack(0))), Code.NOT_IN_CUSTODY)
    chain.send(PHARMACY, receive(pack(0)))
    refused(chain.send(CARRIER, observe(5, pack(0))), Code.NOT_IN_CUSTODY)
    chain.send(PHARMACY, dispense(pack(0)))
    refused(chain.send(PHARMACY, observe(30, pack(0))), Code.ALREADY_DISPENSED)


def test_lots_are_observed_when_known() -> None:
    chain = stocked()
    assert chain.send(PHARMACY, observe(5, LOT, f"01/{GTIN}")).ok
    refused(chain.send(PHARMACY, observe(5, lot_class(GTIN, "LOT9"))), Code.UNKNOWN_LOT)
    assert not state(chain, pack(0)).cold_chain_broken


# Transformation, links, associations


def transform(inputs: tuple[str, ...], outputs: tuple[str, ...], **more: object) -> Transform:
    facts: dict[str, object] = {"lot": "", "expiry_date": 0, "production_date": 0, "temperature": None, "process": ""}
    listed = [tuple((epc, 1_500, "KGM") for epc in epcs) for epcs in (inputs, outputs)]
    return Transform(listed[0], listed[1], **{**facts, "time_ms": 0, **more})  # type: ignore[arg-type]


def test_a_finished_lot_remembers_its_ingredients() -> None:
    chain = new_chain()
    api = lot_class("09521234009016", "API-7781")
    assert chain.send(MAKER, transform((api,), (LOT,))).ok
    assert chain.send(MAKER, commission("SN00000")).ok
    assert state(chain, pack(0)).ingredients == (api,)
    assert state(chain, pack(0)).expiry_date == EXPIRY
    assert len(chain.found("lot", "09521234009016/API-7781")) == 1


def written_bytes(chain: Chain, operation: Operation) -> int:
    """What the maker's operation leaves in the state."""
    result = chain.execute([chain.transaction(MAKER, operation)])
    assert result.receipts[0].ok
    return sum(len(data or b"") for _, data in result.changes.values())


def test_many_lots_made_of_the_same_share_one_list_of_it() -> None:
    chain = new_chain()
    inputs = tuple(f"urn:x:{number:0122}" for number in range(INGREDIENTS_MAX))
    outputs = tuple(lot_class(GTIN, f"LOT{number}") for number in range(INGREDIENTS_MAX))
    assert chain.send(MAKER, CommissionContainer(inputs, 0)).ok
    assert written_bytes(chain, transform(inputs, outputs)) < 2 * len("".join((*inputs, *outputs)))
    assert written_bytes(chain, transform((), outputs)) < 100 * len(outputs)
    assert lot_of(partial(chain.read, "drugs"), outputs[7]).ingredients == inputs


def test_a_lot_remembers_what_each_of_its_transformations_took() -> None:
    chain = new_chain()
    first, second, third = (lot_class("09521234009016", f"API-{number}") for number in range(3))
    for taken in ((first, second), (second, third), (first, second)):
        assert chain.send(MAKER, transform(taken, (LOT,))).ok
    assert lot_of(partial(chain.read, "drugs"), LOT).ingredients == (first, second, third)
    assert chain.send(MAKER, commission("SN00000", ingredients=(first, second, third))).ok
    refused(chain.send(MAKER, commission("SN00001", ingredients=(first, second))), Code.LOT_EXISTS, LOT, "ingredients")
    assert state(chain, pack(0)).ingredients == (first, second, third)


def test_a_lot_names_a_bounded_number_of_lists() -> None:
    chain = new_chain()
    taken = tuple(lot_class("09521234009016", f"API-{number}") for number in range(LISTS_MAX + 1))
    for ingredient in taken:
        assert chain.send(MAKER, transform((ingredient,), (LOT,))).ok
    assert lot_of(partial(chain.read, "drugs"), LOT).ingredients == taken[:LISTS_MAX]


@pytest.mark.parametrize(
    "operation",
    [
        Observe((pack(0),), 0, (), "8018/952520840000000013"),
        transform((pack(0),), (f"01/{CASE_GTIN}/21/KIT1",), process="urn:epc:id:gsrn:9525208.0000000001"),
        Link((pack(0),), ("urn:po:1", "https://example.org/8017/952520840000000013"), "add", 0),
    ],
    ids=lambda op: op.NAME,
)
def test_no_place_process_or_document_is_a_person(operation: Operation) -> None:
    refused(stocked().send(MAKER, operation), Code.BAD_IDENTIFIER)


def test_packs_are_consumed_and_made() -> None:
    chain = stocked()
    made = f"01/{CASE_GTIN}/21/KIT1"
    assert chain.send(MAKER, transform((pack(0),), (made,), lot="KIT", expiry_date=EXPIRY)).ok
    assert state(chain, pack(0)).status == Status.CONSUMED
    assert state(chain, made).lot == lot_class(CASE_GTIN, "KIT")
    refused(chain.send(MAKER, transform((pack(0),), (f"01/{CASE_GTIN}/21/KIT2",))), Code.NOT_ACTIVE)
    refused(chain.send(MAKER, transform((pack(1),), (made,), lot="KIT")), Code.SERIAL_EXISTS, made)


def test_transformation_refuses_what_it_must() -> None:
    chain = stocked()
    api = lot_class("09521234009016", "API")
    refused(chain.send(RIVAL, transform((api,), (LOT,))), Code.NOT_PREFIX_OWNER)
    refused(chain.send(MAKER, transform((), ())), Code.BAD_FIELD)
    refused(chain.send(MAKER, transform((api, api), (LOT,))), Code.BAD_FIELD)
    refused(chain.send(MAKER, transform((api,), (SSCC,))), Code.BAD_IDENTIFIER)
    refused(chain.send(MAKER, transform((pack(9),), (LOT,))), Code.UNKNOWN_PACK)
    chain.send(MAKER, recall())
    refused(chain.send(MAKER, transform((LOT,), (lot_class(CASE_GTIN, "X"),))), Code.PACK_RECALLED)
    refused(chain.send(MAKER, transform((pack(0),), ())), Code.PACK_RECALLED)


def test_documents_are_linked_by_holder_and_consignee() -> None:
    chain = stocked()
    chain.send(MAKER, ship("pharmacy", pack(0)))
    link = Link((pack(0), LOT), ("urn:epcglobal:cbv:bt:9520011111116:A123",), "add", 0)
    assert chain.send(PHARMACY, link).ok
    assert chain.send(MAKER, link).ok
    refused(chain.send(OTHER, link), Code.NOT_IN_CUSTODY)


def test_associations_are_recorded() -> None:
    chain = stocked()
    chain.send(MAKER, aggregate(SSCC, pack(0)))
    logger = "8004/9521234LOGGER1"
    assert chain.send(MAKER, Associate(SSCC, (logger,), True, 0)).ok
    assert len(chain.found("serial", logger)) == 1


# Trace


def operations(chain: Chain, history: dict[bytes, tuple[tuple[int, int], Operation]], epc: str) -> list[object]:
    return [history[tx_id] for tx_id in chain.found("serial", epc)]


def test_a_pack_is_traced_through_its_parents_and_only_while_inside() -> None:
    chain = new_chain()
    history: dict[bytes, tuple[tuple[int, int], Operation]] = {}

    def send(key: object, operation: Operation) -> None:
        receipt = chain.send(key, operation)  # type: ignore[arg-type]
        assert receipt.ok, Code(receipt.code)
        history[receipt.tx_id] = ((chain.height, 0), operation)

    send(MAKER, commission("SN00000", "SN00001"))
    send(MAKER, aggregate(sscc(1), pack(0)))
    send(MAKER, observe(3, sscc(1)))
    send(MAKER, aggregate(sscc(2), sscc(1), pack(1)))
    send(MAKER, ship("pharmacy", sscc(2)))
    send(CARRIER, observe(4, sscc(2)))
    send(PHARMACY, receive(sscc(2)))
    send(PHARMACY, disaggregate(sscc(2), sscc(1)))
    send(PHARMACY, ship("hospital", sscc(2)))  # without the pack
    send(PHARMACY, disaggregate(sscc(1)))
    send(PHARMACY, dispense(pack(0)))
    steps = trace(pack(0), lambda epc: operations(chain, history, epc))  # type: ignore[arg-type,return-value]
    assert [(step.operation.NAME.partition(".")[2], step.via) for step in steps] == [
        ("commission", pack(0)),
        ("aggregate", pack(0)),
        ("observe", sscc(1)),
        ("aggregate", sscc(1)),
        ("ship", sscc(2)),
        ("observe", sscc(2)),
        ("receive", sscc(2)),
        ("disaggregate", sscc(1)),
        ("disaggregate", pack(0)),
        ("dispense", pack(0)),
    ]
    assert steps[2].operation.NAME == "drugs.observe"
    assert all(isinstance(step.operation, Aggregate) is (step.operation.NAME == "drugs.aggregate") for step in steps)


def test_pack_state_knows_nothing_of_strangers() -> None:
    assert pack_state(new_chain(), pack(0)) is None


def test_block_time_decides_not_the_stated_time() -> None:
    chain = at_pharmacy(stocked(), pack(0))
    chain.time_ms = day_end_ms(EXPIRY) + DAY_MS
    refused(chain.send(PHARMACY, Dispense((pack(0),), None, 1)), Code.PACK_EXPIRED)


# Packs that are one value in memory


class Shared(Chain):
    """Gives the same object for the same value, as a node does for what it has in memory."""

    def get(self, key: bytes) -> Value:
        data = self.entries.get(key)
        if data is None:
            return None
        if data not in self._values:
            self._values[data] = decode(data, size_bytes_max=VALUE_SIZE_BYTES_MAX)
        return self._values[data]

    _values: dict[bytes, Value] = {}  # noqa: RUF012 - values never change


def test_pallets_that_are_one_value_are_judged_each_by_what_is_in_it() -> None:
    chain = new_chain(Shared)
    assert chain.send(MAKER, commission(*(epc[21:] for epc in packs(2)))).ok
    for number in range(2):
        assert chain.send(MAKER, aggregate(sscc(number), pack(number))).ok
    assert chain.send(REGULATOR, recall(None, pack(1)[21:])).ok
    assert chain.read("drugs", "item", sscc(0)) is chain.read("drugs", "item", sscc(1))
    refused(chain.send(MAKER, ship("pharmacy", sscc(0), sscc(1))), Code.PACK_RECALLED, sscc(1), LOT)
    assert chain.send(MAKER, ship("pharmacy", sscc(0))).ok


@pytest.mark.parametrize("seed", range(12))
def test_packs_judged_together_fare_as_if_each_were_judged_alone(seed: int) -> None:
    """What is in memory differs from node to node, and must decide nothing."""
    random = Random(seed)
    chains = new_chain(Chain), new_chain(Shared)
    every = packs(10)
    cases = [sscc(number) for number in range(2)]
    makers = [(MAKER, commission(*(epc[21:] for epc in every))), (MAKER, CommissionContainer(tuple(cases), 0))]
    senders = [MAKER, PHARMACY, HOSPITAL]
    codes: set[int] = set()
    for number in range(120):
        chosen = tuple(random.sample([*every, *cases, LOT], random.randint(1, 8)))
        things = tuple(epc for epc in chosen if epc != LOT) or (every[0],)
        operation = random.choice(
            [
                ship(random.choice(["pharmacy", "hospital", "maker"]), *things),
                receive(*things),
                receive(*things),
                VoidShipment(things, 0),
                observe(random.choice([5, 5, 7, 9]), *chosen),
                Observe(chosen, 0, (), None),
                aggregate(random.choice(cases), *things[:3]),
                disaggregate(random.choice(cases), *things[:2]),
                dispense(*things[:2]),
                Decommission(things[:1], "lost", 0),
                recall(None, random.choice(every)[21:]),
            ]
        )
        sender, operation = makers[number] if number < 2 else (random.choice(senders), operation)
        receipts = [chain.send(sender, operation) for chain in chains]
        assert receipts[0] == receipts[1]
        codes.add(receipts[0].code)
        assert chains[0].entries == chains[1].entries
        assert chains[0].indexes == chains[1].indexes
    assert len(codes) > 5
    assert chains[0].tip == chains[1].tip
