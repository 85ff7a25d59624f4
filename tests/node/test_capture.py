"""EPCIS events become drug operations: the mapping by itself, published files, a whole way on an in-memory chain."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import Code, Reject
from ledger.fields import Operation
from ledger.gs1 import day_end_ms, sgtin
from ledger.modules import drugs
from ledger.modules.drug_operations import (
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
    Transform,
    VoidShipment,
)
from ledger.modules.drugs import Status, pack_state
from ledger.rules import Registry
from node.gateway.capture import CaptureRefused, to_operations
from node.gateway.epcis import parse
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
    SensorReport,
    TransactionEvent,
    TransformationEvent,
)
from node.gateway.jsonsafe import loads
from tests.ledger.chain import Chain, institution, key_pair

# Published examples lie beside the project, or where TEST_DATA says. Tests that need them are skipped without, but fail
# in CI.
DATA = Path(os.environ.get("MEDCHAIN_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir() and not os.environ.get("CI"), reason="published examples not present")

GTIN, CASE_GTIN = "09521234001010", "19521234001017"
PACK, OTHER_PACK, CASE = sgtin(GTIN, "SN1"), sgtin(GTIN, "SN2"), sgtin(CASE_GTIN, "CS1")
LOT = f"01/{GTIN}/10/L1"
SSCC = "00/395212340000000014"
GSRN = "8018/952520840000000013"
GLNS = {
    "9521234000013": "maker",
    "9521234000020": "distributor",
    "9521234000044": "pharmacy",
    "9521234000037": "carrier",
}


class Members:
    def institution_by_gln(self, gln: str) -> str | None:
        return GLNS.get(gln)


COMMON: dict[str, Any] = {
    "pointer": "/epcisBody/eventList/0",
    "event_id": None,
    "time_ms": 7,
    "time_zone_offset_minutes": 480,
    "record_time_ms": None,
    "action": Action.OBSERVE,
}
TO_PHARMACY = (Party("owning_party", "417/9521234000044"),)


def object_event(action: Action = Action.OBSERVE, **more: Any) -> ObjectEvent:
    return ObjectEvent(**{**COMMON, "epcs": (PACK,), "quantities": (), "ilmd": None, "action": action, **more})


def aggregation(action: Action, **more: Any) -> AggregationEvent:
    fields = {**COMMON, "parent": CASE, "children": (PACK,), "child_quantities": (), "action": action, **more}
    return AggregationEvent(**fields)


def ilmd(**members: object) -> Ilmd:
    return Ilmd("L1", 20280630, 20260701, {f"ext:{name}": value for name, value in members.items()})


def exact(milli: int) -> tuple[int, int]:
    """What was measured in whole thousandths."""
    return milli, milli


def transaction(**more: Any) -> TransactionEvent:
    fields = {**COMMON, "parent": None, "epcs": (PACK,), "quantities": (), "action": Action.ADD, **more}
    return TransactionEvent(**fields)


def transformation(**more: Any) -> TransformationEvent:
    things = {"inputs": (PACK,), "input_quantities": (), "outputs": (CASE,), "output_quantities": ()}
    return TransformationEvent(**{**COMMON, **things, "transformation_id": None, "ilmd": None, "action": None, **more})


def operations(event: EpcisEvent) -> list[Operation]:
    return to_operations(event, Members())


# Object events


def test_adding_becomes_commissioning_by_gtin_with_the_facts_of_the_lot() -> None:
    event = object_event(Action.ADD, epcs=(PACK, CASE, OTHER_PACK), biz_step="commissioning", ilmd=ilmd())
    assert operations(event) == [
        Commission(GTIN, "L1", 20280630, 20260701, (), ("SN1", "SN2"), None, 7),
        Commission(CASE_GTIN, "L1", 20280630, 20260701, (), ("CS1",), None, 7),
    ]


def test_unstated_lot_and_dates_have_their_defaults() -> None:
    assert operations(object_event(Action.ADD)) == [Commission(GTIN, "-", 0, 0, (), ("SN1",), None, 7)]


def test_things_without_a_gtin_are_commissioned_as_containers_and_lots_as_products_of_nothing() -> None:
    event = object_event(Action.ADD, epcs=(SSCC,), quantities=(Quantity(LOT, 5_500, "KGM"),), ilmd=ilmd())
    assert operations(event) == [
        Transform((), ((LOT, 5_500, "KGM"),), "L1", 20280630, 20260701, None, "", 7),
        CommissionContainer((SSCC,), 7),
    ]


@pytest.mark.parametrize(("low", "high"), [("2", "8"), (2, 8), ("2.00", "8.0")])
def test_a_temperature_range_in_ilmd_reaches_the_lot(low: object, high: object) -> None:
    event = object_event(Action.ADD, ilmd=ilmd(minimumTemperature=low, maximumTemperature=high))
    (commission,) = operations(event)
    assert isinstance(commission, Commission)
    assert commission.temperature == (200, 800)


@pytest.mark.parametrize(
    "members",
    [
        {"minimumTemperature": "2"},
        {"minimumTemperature": "cold", "maximumTemperature": "8"},
        {"minimumTemperature": "2.001", "maximumTemperature": "8"},
        {"minimumTemperature": "NaN", "maximumTemperature": "8"},
        {"minimumTemperature": "1e999999", "maximumTemperature": "8"},
        {"minimumTemperature": True, "maximumTemperature": "8"},
    ],
)
def test_half_a_range_or_none_that_is_a_number_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(CaptureRefused) as caught:
        operations(object_event(Action.ADD, ilmd=ilmd(**members)))
    assert caught.value.pointer == "/epcisBody/eventList/0/ilmd"


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("void_shipping", VoidShipment((PACK,), 7)),
        ("receiving", Receive((PACK,), 7)),
        ("dispensing", Dispense((PACK,), None, 7)),
        ("retail_selling", Dispense((PACK,), None, 7)),
        ("decommissioning", Decommission((PACK,), "decommissioning", 7)),
        ("destroying", Decommission((PACK,), "destroying", 7)),
        ("inspecting", Observe((PACK,), 7, (), None)),
        ("https://example.com/bizStep/x", Observe((PACK,), 7, (), None)),
        (None, Observe((PACK,), 7, (), None)),
    ],
)
def test_the_business_step_says_what_is_done(step: str | None, expected: Operation) -> None:
    assert operations(object_event(biz_step=step)) == [expected]


def test_deleting_dispenses_or_decommissions() -> None:
    assert operations(object_event(Action.DELETE, disposition="expired")) == [Decommission((PACK,), "expired", 7)]
    assert operations(object_event(Action.DELETE, biz_step="dispensing")) == [Dispense((PACK,), None, 7)]


def test_possession_decides_where_a_shipment_goes() -> None:
    possessing = Party("possessing_party", "414/9521234000020/254/dock")
    event = object_event(biz_step="shipping", destinations=(*TO_PHARMACY, possessing))
    assert operations(event) == [Ship((PACK,), "distributor", 7)]
    assert operations(object_event(biz_step="shipping", destinations=TO_PHARMACY)) == [Ship((PACK,), "pharmacy", 7)]


def test_a_stranger_who_shall_possess_is_left_to_the_chain_whoever_owns() -> None:
    stranger = Party("possessing_party", "417/9529999999991")
    event = object_event(biz_step="shipping", destinations=(*TO_PHARMACY, stranger))
    assert operations(event) == [Ship((PACK,), "9529999999991", 7)]


def test_shipping_nowhere_or_to_two_is_refused() -> None:
    unnamed, dock, door = (
        Party("possessing_party", party)
        for party in ("https://example.com/me", "414/9521234000020/254/dock", "417/9521234000044")
    )
    for destinations in ((), (unnamed,), (unnamed, *TO_PHARMACY), (dock, door)):
        with pytest.raises(CaptureRefused) as caught:
            operations(object_event(biz_step="shipping", destinations=destinations))
        assert caught.value.pointer == "/epcisBody/eventList/0/destinationList"


def test_classes_are_observed_where_custody_is_needed() -> None:
    event = object_event(biz_step="receiving", quantities=(Quantity(LOT, 5_000, None),), read_point="414/9521234000013")
    assert operations(event) == [Receive((PACK,), 7), Observe((LOT,), 7, (), "414/9521234000013")]


def test_sensor_reports_become_one_observation_for_each_time() -> None:
    reports = (
        SensorReport(type="Temperature", value_milli=exact(4_100), uom="CEL", time_ms=1),
        SensorReport(
            type="Temperature",
            min_milli=exact(2_000),
            max_milli=exact(6_000),
            mean_milli=exact(4_000),
            uom="CEL",
            end_time_ms=2,
        ),
        SensorReport(type="RelativeHumidity", mean_milli=exact(50_000)),
        SensorReport(type="https://example.com/note"),
        SensorReport(type="Longitude", value_milli=exact(121_470), uom="DD", time_ms=1),
    )
    event = object_event(biz_step="sensor_reporting", sensor_reports=reports, biz_location="414/9521234000037")
    assert operations(event) == [
        Observe((PACK,), 1, (("Temperature", 4_100, "CEL"), ("Longitude", 121_470, "DD")), "414/9521234000037"),
        Observe((PACK,), 2, (("Temperature", 2_000, "CEL"), ("Temperature", 6_000, "CEL")), "414/9521234000037"),
        Observe((PACK,), 7, (("RelativeHumidity", 50_000, ""),), "414/9521234000037"),
    ]


def test_a_value_between_two_thousandths_is_both_so_that_it_breaks_either_limit() -> None:
    reports = (SensorReport(type="Temperature", value_milli=(8_000, 8_001), uom="CEL"),)
    (seen,) = operations(object_event(sensor_reports=reports))
    assert isinstance(seen, Observe)
    assert seen.readings == (("Temperature", 8_000, "CEL"), ("Temperature", 8_001, "CEL"))


def test_measurements_precede_what_ends_a_pack_and_follow_what_begins_it() -> None:
    reports = (SensorReport(type="Temperature", value_milli=exact(4_100), uom="CEL"),)
    before = operations(object_event(biz_step="dispensing", sensor_reports=reports))
    after = operations(object_event(Action.ADD, sensor_reports=reports))
    assert [type(operation) for operation in before] == [Observe, Dispense]
    assert [type(operation) for operation in after] == [Commission, Observe]


def test_long_lists_are_cut_to_what_a_transaction_carries() -> None:
    epcs = tuple(sgtin(GTIN, f"{n:020d}") for n in range(2_500))
    parts = operations(object_event(biz_step="receiving", epcs=epcs))
    assert [len(part.epcs) for part in parts if isinstance(part, Receive)] == [1000, 1000, 500]
    addresses = tuple(f"urn:example:{n:0110d}" for n in range(900))
    parts = operations(object_event(biz_step="receiving", epcs=addresses))
    assert [len(part.epcs) for part in parts if isinstance(part, Receive)] == [393, 393, 114]


# Other events


def test_aggregations_pack_unpack_and_move_the_parent_alone() -> None:
    assert operations(aggregation(Action.ADD)) == [Aggregate(CASE, (PACK,), 7)]
    assert operations(aggregation(Action.DELETE)) == [Disaggregate(CASE, (PACK,), 7)]
    assert operations(aggregation(Action.DELETE, children=())) == [Disaggregate(CASE, (), 7)]
    assert operations(aggregation(Action.OBSERVE, biz_step="receiving")) == [Receive((CASE,), 7)]
    assert operations(aggregation(Action.OBSERVE, biz_step="shipping", destinations=TO_PHARMACY)) == [
        Ship((CASE,), "pharmacy", 7)
    ]
    assert operations(aggregation(Action.OBSERVE)) == [Observe((CASE, PACK), 7, (), None)]
    assert operations(aggregation(Action.OBSERVE, parent=None)) == [Observe((PACK,), 7, (), None)]


def test_bulk_children_are_listed_in_the_parent() -> None:
    event = aggregation(Action.ADD, child_quantities=(Quantity(LOT, 5_000, "KGM"),))
    assert operations(event) == [Aggregate(CASE, (PACK, LOT), 7)]


def test_transactions_link_documents() -> None:
    documents = (BizTransaction("po", "urn:po:1"), BizTransaction(None, "urn:po:1"), BizTransaction("inv", "urn:i"))
    assert operations(transaction(parent=CASE, biz_transactions=documents)) == [
        Link((CASE, PACK), ("urn:po:1", "urn:i"), "add", 7)
    ]


def test_transformations_keep_quantities_lot_and_process() -> None:
    event = transformation(
        input_quantities=(Quantity(LOT, 12_500, "KGM"), Quantity(f"01/{GTIN}", None, None)),
        transformation_id="urn:uuid:1",
        ilmd=ilmd(),
    )
    inputs = ((PACK, 0, ""), (LOT, 12_500, "KGM"), (f"01/{GTIN}", 0, ""))
    assert operations(event) == [Transform(inputs, ((CASE, 0, ""),), "L1", 20280630, 20260701, None, "urn:uuid:1", 7)]


def test_associations_attach_and_detach() -> None:
    for action, expected in (
        (Action.ADD, Associate(SSCC, ("8004/9521234L1",), True, 7)),
        (Action.DELETE, Associate(SSCC, ("8004/9521234L1",), False, 7)),
        (Action.OBSERVE, Observe((SSCC, "8004/9521234L1"), 7, (), None)),
    ):
        fields = {**COMMON, "action": action, "parent": SSCC, "children": ("8004/9521234L1",), "child_quantities": ()}
        assert operations(AssociationEvent(**fields)) == [expected]


@pytest.mark.parametrize(
    ("event", "pointer"),
    [
        (object_event(epcs=(PACK, GSRN)), "epcList/1"),
        (object_event(quantities=(Quantity(GSRN, None, None),)), "quantityList/0"),
        (object_event(read_point=GSRN), "readPoint"),
        (object_event(biz_location=GSRN), "bizLocation"),
        (object_event(Action.DELETE, disposition=f"https://example.org/{GSRN}"), "disposition"),
        (object_event(sensor_reports=(SensorReport(type=f"urn:x:{GSRN}", value_milli=exact(1)),)), ""),
        (aggregation(Action.ADD, parent=GSRN), "parentID"),
        (aggregation(Action.ADD, children=(GSRN,)), "childEPCs/0"),
        (aggregation(Action.ADD, child_quantities=(Quantity(GSRN, None, None),)), "childQuantityList/0"),
        (transaction(biz_transactions=(BizTransaction(None, GSRN),)), "bizTransactionList/0"),
        (transformation(inputs=(GSRN,)), "inputEPCList/0"),
        (transformation(outputs=(GSRN,)), "outputEPCList/0"),
        (transformation(input_quantities=(Quantity(GSRN, None, None),)), "inputQuantityList/0"),
        (transformation(output_quantities=(Quantity(GSRN, None, None),)), "outputQuantityList/0"),
        (transformation(transformation_id=GSRN), "transformationID"),
    ],
)
def test_no_identifier_of_a_person_leaves(event: EpcisEvent, pointer: str) -> None:
    with pytest.raises(CaptureRefused) as caught:
        operations(event)
    assert caught.value.pointer == f"/epcisBody/eventList/0/{pointer}".removesuffix("/")
    assert "952520840000000013" not in str(caught.value)


def test_a_person_named_where_no_operation_looks_stays_behind() -> None:
    event = object_event(biz_transactions=(BizTransaction(None, GSRN),), read_point="414/9521234000013")
    assert operations(event) == [Observe((PACK,), 7, (), "414/9521234000013")]


ALARM = "ALARM_CONDITION"


@pytest.mark.parametrize(
    ("event", "pointer"),
    [
        (object_event(sensor_reports=(SensorReport(type="Temperature", exception=ALARM),)), "sensorElementList"),
        (object_event(problems=(Problem("/epcisBody/eventList/0/x", "range", "too far"),)), "x"),
        (object_event(epcs=(), sensor_reports=(SensorReport(type="Time", value_milli=exact(1)),)), "epcList"),
        (transaction(action=Action.DELETE, epcs=()), "epcList"),
        (object_event(error_declaration=ErrorDeclaration(1, None, (), b"")), "errorDeclaration"),
        (ExtendedEvent(**COMMON, type="example:Event"), "type"),
    ],
)
def test_what_no_operation_can_say_is_refused_with_its_field(event: EpcisEvent, pointer: str) -> None:
    with pytest.raises(CaptureRefused) as caught:
        operations(event)
    assert caught.value.pointer == f"/epcisBody/eventList/0/{pointer}"


# Published files and the chain


def read(path: Path) -> list[EpcisEvent]:
    return parse(loads(path.read_bytes(), size_bytes_max=1 << 20))


def published() -> Iterator[Path]:
    for folder in ("events", "documents"):
        yield from sorted((DATA / "epcis" / folder).glob("*.json"))


# What the gateway refuses of the published events: file and field named.
REFUSED_HERE = [
    ("CurieString_document", "sensorElementList"),
    *[("Namespaces_at_different_level", "sensorElementList")] * 5,
    ("ObjectEvent_all_possible_fields", "errorDeclaration"),
    ("ObjectEvent_with_error_declaration", "errorDeclaration"),
    ("TransactionEvent", "epcList"),
    ("TransformationEvent", "errorDeclaration"),
    ("TransformationEvent_with_sensorData", "errorDeclaration"),
    ("epcisDocWithAllGS1Keys", "epcList"),
]


@needs_data
def test_every_published_event_becomes_operations_or_a_documented_refusal() -> None:
    handlers = {handler.rule.operation: handler for handler in Registry([drugs.MODULE]).handlers}
    seen, refused, unsendable = 0, [], []
    for path in published():
        for event in read(path):
            seen += 1
            try:
                found = operations(event)
            except CaptureRefused as error:
                refused.append((path.stem, error.pointer.removeprefix(event.pointer).split("/")[1]))
                continue
            assert found, path
            for operation in found:
                handler = handlers[type(operation)]
                try:
                    handler.parse(operation.to_fields())
                    if handler.rule.check is not None:
                        handler.rule.check(operation)
                except Reject as reject:
                    unsendable.append((path.stem, reject.code, reject.detail))
    assert seen >= 30
    assert sorted(refused) == REFUSED_HERE
    assert unsendable == []


def supply_chain(time_ms: int) -> Chain:
    institutions = [
        institution("maker", "manufacturer", prefixes=["9521234"], glns=["9521234000013"]),
        institution("distributor", "distributor", glns=["9521234000020"]),
        institution("carrier", "distributor", glns=["9521234000037"]),
        institution("pharmacy", "pharmacy", glns=["9521234000044"]),
    ]
    return Chain([drugs.MODULE], {"members": {"institutions": institutions}}, time_ms=time_ms)


@needs_data
def test_the_happy_path_is_accepted_event_by_event() -> None:
    events = read(DATA / "cases" / "drug_happy_path.epcis.json")
    assert len(events) == 18
    chain = supply_chain(events[0].time_ms)
    for event in events:
        assert event.read_point is not None
        sender = key_pair(GLNS[event.read_point[4:17]])
        chain.time_ms = event.time_ms + 1_000
        for operation in operations(event):
            receipt = chain.send(sender, operation)
            assert receipt.ok, (event.pointer, Code(receipt.code), receipt.detail)
    dispensed = pack_state(chain, sgtin(GTIN, "SN00001"))
    assert dispensed is not None
    assert (dispensed.status, dispensed.custodian) == (Status.DISPENSED, "pharmacy")
    assert (dispensed.low_millidegrees, dispensed.high_millidegrees) == (4_100, 6_200)
    assert dispensed.ingredients == ("01/09521234009016/10/API-7781", "01/09521234009023/10/EXC-0042")
    again = chain.send(key_pair("pharmacy"), operations(events[-1])[0])
    assert Code(again.code) == Code.ALREADY_DISPENSED


@needs_data
def test_the_last_event_of_the_happy_path_is_refused_after_the_expiry_day() -> None:
    events = read(DATA / "cases" / "drug_happy_path.epcis.json")
    chain = supply_chain(events[0].time_ms)
    receipts = []
    for event in events:
        assert event.read_point is not None
        if event is events[-1]:
            chain.time_ms = day_end_ms(20280630)
        receipts += [chain.send(key_pair(GLNS[event.read_point[4:17]]), found) for found in operations(event)]
    assert all(receipt.ok for receipt in receipts[:-1])
    assert Code(receipts[-1].code) == Code.PACK_EXPIRED
