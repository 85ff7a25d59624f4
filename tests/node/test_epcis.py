"""The EPCIS door: what the standard allows comes through, what it forbids is refused with the field named."""

# ruff: noqa: E501 - the tables below have one case a line

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ledger.gs1 import check_epc
from node.gateway import cbv
from node.gateway.door import PROBLEMS_MAX
from node.gateway.epcis import DoorRefused, parse
from node.gateway.events import (
    Action,
    AggregationEvent,
    AssociationEvent,
    BizTransaction,
    EpcisEvent,
    ExtendedEvent,
    ObjectEvent,
    Party,
    Quantity,
    TransactionEvent,
    TransformationEvent,
)
from node.gateway.jsonsafe import loads

DATA = Path(os.environ.get("MEDCHAIN_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
CONTEXT = ["https://ref.gs1.org/standards/epcis/2.0.0/epcis-context.jsonld", {"ex": "https://ns.example.com/epcis/"}]
PACK = "https://id.gs1.org/01/09521234001010/21/SN00001"
PACK_TEXT = "01/09521234001010/21/SN00001"
LOT = "https://id.gs1.org/01/09521234001010/10/L1"
BOX = "https://id.gs1.org/00/395212340000000014"
PLACE = {"id": "https://id.gs1.org/414/9521234000013"}
WHEN = {"eventTime": "2026-07-01T09:00:00.000+08:00", "eventTimeZoneOffset": "+08:00"}
SENSED = [{"sensorReport": [{"type": "Temperature", "value": 4.1, "uom": "CEL"}]}]

BASES: dict[str, dict[str, Any]] = {
    "object": {"type": "ObjectEvent", **WHEN, "action": "ADD", "epcList": [PACK]},
    "aggregation": {"type": "AggregationEvent", **WHEN, "action": "ADD", "parentID": BOX, "childEPCs": [PACK]},
    "association": {"type": "AssociationEvent", **WHEN, "action": "ADD", "parentID": BOX, "childEPCs": [PACK]},
    "transaction": {
        "type": "TransactionEvent",
        **WHEN,
        "action": "ADD",
        "epcList": [PACK],
        "bizTransactionList": [{"type": "po", "bizTransaction": "http://example.com/po/1"}],
    },
    "transformation": {
        "type": "TransformationEvent",
        **WHEN,
        "inputQuantityList": [{"epcClass": LOT, "quantity": 1, "uom": "KGM"}],
        "outputEPCList": [PACK],
    },
}
PERSON = "952999900000000123"
DROP = object()


def document(*events: dict[str, Any]) -> dict[str, Any]:
    return {
        "@context": CONTEXT,
        "type": "EPCISDocument",
        "schemaVersion": "2.0",
        "creationDate": "2026-07-06T00:00:00Z",
        "epcisBody": {"eventList": list(events)},
    }


def variant(base: str, changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**BASES[base], **changes}.items() if value is not DROP}


def through(value: object) -> list[EpcisEvent]:
    return parse(loads(json.dumps(value).encode(), size_bytes_max=10_000_000))


def event(base: str, **changes: Any) -> EpcisEvent:
    (only,) = through(document(variant(base, changes)))
    return only


def sensor(**report: Any) -> dict[str, Any]:
    return {"sensorElementList": [{"sensorReport": [{"type": "Temperature", **report}]}]}


def quantity(**element: Any) -> dict[str, Any]:
    return {"quantityList": [{"epcClass": LOT, **element}]}


GOOD: list[tuple[str, dict[str, Any]]] = [
    *((base, {}) for base in BASES),
    ("object", {"eventTime": "2005-04-03T20:33:31.116000-06:00"}),
    ("object", {"eventTime": "2024-02-29T23:59:59Z"}),
    ("object", {"eventTime": "2026-07-01T00:00:00+14:00", "eventTimeZoneOffset": "-14:00"}),
    ("object", {"eventID": "urn:uuid:374d95fc-9457-4a51-bd6a-0bba133845a8"}),
    ("object", {"eventID": "ni:///sha-256;" + "a0" * 32 + "?ver=CBV2.0"}),
    ("object", {"eventID": "https://example.com/events/1"}),
    ("object", {"bizStep": "urn:epcglobal:cbv:bizstep:shipping"}),
    ("object", {"bizStep": "https://ref.gs1.org/cbv/BizStep-shipping"}),
    ("object", {"bizStep": "cbv:BizStep-shipping"}),
    ("object", {"bizStep": "http://epcis.example.org/hc/bizstep/discharge"}),
    ("object", {"bizStep": "ex:polishing"}),
    ("object", {"disposition": "urn:epcglobal:cbv:disp:in_transit"}),
    ("object", {"persistentDisposition": {"set": ["completeness_verified"]}}),
    ("aggregation", {"persistentDisposition": {"unset": ["completeness_inferred", "https://a.example/x"]}}),
    ("object", {"epcList": DROP, **quantity(quantity=3)}),
    ("object", {"epcList": [], **quantity()}),
    ("object", {"epcList": DROP, "action": "OBSERVE", "readPoint": PLACE, "sensorElementList": SENSED}),
    ("object", {"epcList": [], "action": "OBSERVE", "sensorElementList": SENSED}),
    (
        "object",
        {
            "epcList": [
                "urn:epc:id:bic:CSQU3054383",
                "https://example.com/thing/1",
                "urn:epc:id:sgtin:0614141.107346.2017",
            ]
        },
    ),
    ("object", {"action": "DELETE", "bizStep": "decommissioning"}),
    ("object", quantity(quantity=200.5, uom="KGM")),
    ("object", quantity(quantity=10.0)),
    ("object", {"ilmd": {"ex:batch": "XYZ", "cbvmda:lotNumber": "L1", "https://ns.example.com/x": {"free": [1]}}}),
    ("object", {"ex:note": "text", "ex:deep": {"bare": {"names": "inside are the owner's"}}}),
    ("object", {"@context": [{"own": "https://ns.own.example/"}], "own:note": "declared at the event"}),
    ("object", {"@context": "https://ns.own.example/context.jsonld", "other:note": "declared where nobody fetches"}),
    ("object", {"readPoint": {"id": "geo:31.23,121.47"}, "bizLocation": {**PLACE, "ex:room": "4"}}),
    ("object", {"bizTransactionList": [{"bizTransaction": "urn:epcglobal:cbv:bt:0614141073467:1152"}]}),
    ("object", {"bizTransactionList": [{"type": "urn:epcglobal:cbv:btt:po", "bizTransaction": "urn:x:1"}]}),
    (
        "object",
        {"sourceList": [{"type": "urn:epcglobal:cbv:sdt:owning_party", "source": "urn:epc:id:pgln:4012345.00225"}]},
    ),
    ("object", {"destinationList": [{"type": "cbv:my_own_party", "destination": "urn:epc:id:pgln:4012345.00225"}]}),
    ("object", {"certificationInfo": "https://example.org/certificate/1"}),
    ("object", {"certificationInfo": ["https://example.org/certificate/1"]}),
    ("object", {"certificationInfo": [{"gs1:CertificationDetails": {"gs1:certificationAuditDate": "2023-12-20"}}]}),
    ("object", {"errorDeclaration": {"declarationTime": "2026-07-01T09:00:00Z", "ex:why": "typing"}}),
    ("object", {"errorDeclaration": {"declarationTime": "2026-07-01T09:00:00Z", "reason": "cbv:ER-did_not_occur"}}),
    ("object", sensor(value=-20, minValue=-21.5, sDev=0.1, percRank=50, percValue=1, exception="gs1:ALARM_CONDITION")),
    (
        "object",
        sensor(type="ex:someProperty", stringValue="s", booleanValue=True, hexBinaryValue="f0", component="ex:x"),
    ),
    ("object", sensor(type="https://gs1.org/voc/Speed", component="latitude", uriValue="https://example.com/x")),
    ("aggregation", {"action": "DELETE", "childEPCs": DROP}),
    ("aggregation", {"action": "OBSERVE", "parentID": DROP}),
    ("aggregation", {"childEPCs": DROP, "childQuantityList": [{"epcClass": LOT, "quantity": 4}]}),
    ("association", {"action": "DELETE", "childEPCs": []}),
    ("transaction", {"parentID": BOX, "epcList": DROP, **quantity(quantity=1)}),
    ("transaction", {"action": "DELETE", "epcList": DROP}),
    ("transformation", {"outputEPCList": DROP, "transformationID": "urn:epc:id:gdti:0614141.00001.1618034"}),
    ("transformation", {"ilmd": {"ex:bestBeforeDate": "2014-12-10"}}),
]


@pytest.mark.parametrize(("base", "changes"), GOOD)
def test_what_the_standard_allows_comes_through(base: str, changes: dict[str, Any]) -> None:
    assert type(event(base, **changes)).__name__ == BASES[base]["type"]


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    *((base, {"eventTime": DROP}, "eventTime", "required") for base in BASES),
    *((base, {"eventTimeZoneOffset": DROP}, "eventTimeZoneOffset", "required") for base in BASES),
    *((base, {"action": DROP}, "action", "required") for base in BASES if base != "transformation"),
    ("object", {"type": DROP}, "type", "required"),
    ("object", {"type": "ObjektEvent"}, "type", "event-type"),
    ("object", {"type": 7}, "type", "event-type"),
    ("object", {"type": "undeclared:Event"}, "type", "event-type"),
    ("object", {"action": "add"}, "action", "action"),
    ("object", {"action": "CHANGE"}, "action", "action"),
    ("object", {"action": None}, "action", "action"),
    ("object", {"eventTime": "2026-07-01"}, "eventTime", "time"),
    ("object", {"eventTime": "2026-07-01T09:00:00"}, "eventTime", "time"),
    ("object", {"eventTime": "2026-07-01 09:00:00Z"}, "eventTime", "time"),
    ("object", {"eventTime": "2026-02-29T09:00:00Z"}, "eventTime", "time"),
    ("object", {"eventTime": "2026-13-01T09:00:00Z"}, "eventTime", "time"),
    ("object", {"eventTime": "2026-07-01T24:00:00Z"}, "eventTime", "time"),
    ("object", {"eventTime": "2026-07-01T09:00:60Z"}, "eventTime", "time"),
    ("object", {"eventTime": "2026-07-01T09:00:00+15:00"}, "eventTime", "time"),
    ("object", {"eventTime": "2026-07-01T09:00Z"}, "eventTime", "time"),
    ("object", {"eventTime": "01/07/2026 09:00"}, "eventTime", "time"),
    ("object", {"eventTime": "\u0662\u066026-07-01T09:00:00Z"}, "eventTime", "time"),
    ("object", {"eventTime": 1782867600}, "eventTime", "type"),
    ("object", {"recordTime": "yesterday"}, "recordTime", "time"),
    ("object", {"eventTimeZoneOffset": "Z"}, "eventTimeZoneOffset", "time-zone"),
    ("object", {"eventTimeZoneOffset": "+8:00"}, "eventTimeZoneOffset", "time-zone"),
    ("object", {"eventTimeZoneOffset": "+14:30"}, "eventTimeZoneOffset", "time-zone"),
    ("object", {"eventID": "event 1"}, "eventID", "uri"),
    ("object", {"eventID": "urn:uuid:1234"}, "eventID", "event-id"),
    ("object", {"eventID": "ni:///sha-256"}, "eventID", "event-id"),
    ("object", {"bizStep": "transforming"}, "bizStep", "biz-step"),
    ("object", {"bizStep": "Shipping"}, "bizStep", "biz-step"),
    ("object", {"bizStep": ""}, "bizStep", "biz-step"),
    ("object", {"bizStep": ["shipping"]}, "bizStep", "type"),
    ("object", {"bizStep": "urn:epcglobal:cbv:bizstep:transforming"}, "bizStep", "biz-step"),
    ("object", {"bizStep": "urn:epcglobal:cbv:disp:in_transit"}, "bizStep", "biz-step"),
    ("object", {"bizStep": "https://ref.gs1.org/cbv/BizStep-transforming"}, "bizStep", "biz-step"),
    ("object", {"bizStep": "https://ref.gs1.org/cbv/Disp-active"}, "bizStep", "biz-step"),
    ("object", {"bizStep": "https://ns.gs1.org/cbv/shipping"}, "bizStep", "biz-step"),
    ("object", {"bizStep": "cbv:BizStep-transforming"}, "bizStep", "biz-step"),
    ("object", {"bizStep": "http://example.com/my step"}, "bizStep", "biz-step"),
    ("object", {"disposition": "in_transport"}, "disposition", "disposition"),
    ("transformation", {"disposition": "shipping"}, "disposition", "disposition"),
    ("object", {"persistentDisposition": {}}, "persistentDisposition", "required"),
    ("object", {"persistentDisposition": {"set": []}}, "persistentDisposition/set", "required"),
    ("object", {"persistentDisposition": {"set": ["gone"]}}, "persistentDisposition/set/0", "disposition"),
    ("object", {"persistentDisposition": {"set": ["active"] * 2}}, "persistentDisposition/set", "duplicate"),
    ("object", {"persistentDisposition": {"set": ["active"], "get": []}}, "persistentDisposition/get", "unknown-field"),
    ("object", {"epcList": DROP}, "epcList", "required"),
    ("object", {"epcList": []}, "epcList", "required"),
    ("object", {"epcList": PACK}, "epcList", "type"),
    ("object", {"epcList": [PACK, PACK]}, "epcList", "duplicate"),
    ("object", {"epcList": [PACK, 5]}, "epcList/1", "type"),
    ("object", {"epcList": ["09521234001010"]}, "epcList/0", "uri"),
    ("object", {"epcList": [PACK.replace("1010/", "1011/")]}, "epcList/0", "gs1-check-digit"),
    ("object", {"epcList": ["urn:epc:id:sgtin:0614141.1.1"]}, "epcList/0", "gs1-syntax"),
    ("object", {"childEPCs": [PACK]}, "childEPCs", "namespace"),
    ("object", {"parentID": BOX}, "parentID", "namespace"),
    ("object", {"note": "bare"}, "note", "namespace"),
    ("object", {"un:note": "undeclared"}, "un:note", "namespace"),
    ("object", {"@type": "ObjectEvent"}, "@type", "namespace"),
    ("object", {"@context": 5}, "@context", "context"),
    ("object", {"@context": [{}, "not a uri"]}, "@context/1", "context"),
    ("object", quantity(weight=5), "quantityList/0/weight", "unknown-field"),
    ("object", quantity(quantity="5"), "quantityList/0/quantity", "number"),
    ("object", quantity(quantity=True), "quantityList/0/quantity", "number"),
    ("object", quantity(quantity=-1), "quantityList/0/quantity", "quantity"),
    ("object", quantity(quantity=0), "quantityList/0/quantity", "quantity"),
    ("object", quantity(quantity=1.5), "quantityList/0/quantity", "quantity"),
    ("object", quantity(uom="KGM"), "quantityList/0/quantity", "required"),
    ("object", quantity(quantity=1, uom="kilogram"), "quantityList/0/uom", "uom"),
    ("object", {"quantityList": [{"quantity": 5}]}, "quantityList/0/epcClass", "required"),
    ("object", {"quantityList": {}}, "quantityList", "type"),
    ("object", {"quantityList": ["x"]}, "quantityList/0", "type"),
    ("object", {"ilmd": {"materialType": "soil"}}, "ilmd/materialType", "namespace"),
    ("object", {"ilmd": []}, "ilmd", "type"),
    ("object", {"ilmd": {"cbvmda:itemExpirationDate": "30.06.2028"}}, "ilmd/cbvmda:itemExpirationDate", "date"),
    ("object", {"ilmd": {"cbvmda:productionDate": "2026-02-30"}}, "ilmd/cbvmda:productionDate", "date"),
    ("object", {"ilmd": {"cbvmda:lotNumber": 7}}, "ilmd/cbvmda:lotNumber", "type"),
    ("object", {"action": "OBSERVE", "ilmd": {"ex:a": 1}}, "ilmd", "ilmd"),
    ("aggregation", {"ilmd": {"ex:a": 1}}, "ilmd", "namespace"),
    ("object", {"readPoint": PLACE["id"]}, "readPoint", "type"),
    ("object", {"readPoint": {}}, "readPoint/id", "required"),
    ("object", {"bizLocation": {**PLACE, "room": "4"}}, "bizLocation/room", "namespace"),
    ("object", {"bizLocation": {"id": "https://id.gs1.org/414/9521234000014"}}, "bizLocation/id", "gs1-check-digit"),
    ("object", {"bizTransactionList": [{"type": "po"}]}, "bizTransactionList/0/bizTransaction", "required"),
    ("object", {"bizTransactionList": [{"type": "order", "bizTransaction": "urn:x:1"}]}, "bizTransactionList/0/type", "biz-transaction-type"),
    ("object", {"bizTransactionList": [{"bizTransaction": "PO 4711"}]}, "bizTransactionList/0/bizTransaction", "uri"),
    ("object", {"bizTransactionList": [{"bizTransaction": f"https://id.gs1.org/8018/{PERSON}?linkType=x"}]}, "bizTransactionList/0/bizTransaction", "gs1-digital-link"),
    ("object", {"bizTransactionList": [{"bizTransaction": f"https://example.org/8018/{PERSON}#v"}]}, "bizTransactionList/0/bizTransaction", "gs1-digital-link"),
    ("object", {"bizTransactionList": [{"bizTransaction": "urn:epc:ID:gsrn:9529999.0000000012"}]}, "bizTransactionList/0/bizTransaction", "gs1-syntax"),
    ("transformation", {"transformationID": "urn:epc:id:gdti:0614141.1"}, "transformationID", "gs1-syntax"),
    ("object", {"sourceList": [{"type": "owner", "source": "urn:x:1"}]}, "sourceList/0/type", "source-destination-type"),
    ("object", {"sourceList": [{"source": "urn:x:1"}]}, "sourceList/0/type", "required"),
    ("object", {"sourceList": [{"type": "location", "source": "urn:x:1", "ex:a": 1}]}, "sourceList/0/ex:a", "unknown-field"),
    ("object", {"destinationList": [{"type": "location"}]}, "destinationList/0/destination", "required"),
    ("object", {"certificationInfo": "certified"}, "certificationInfo", "uri"),
    ("object", {"certificationInfo": [{}]}, "certificationInfo/0/gs1:CertificationDetails", "required"),
    ("object", {"certificationInfo": [{"gs1:CertificationDetails": {"gs1:certificationStatus": "MAYBE"}}]}, "certificationInfo/0/gs1:CertificationDetails/gs1:certificationStatus", "certification-status"),
    ("object", {"certificationInfo": [{"gs1:CertificationDetails": {"gs1:colour": "red"}}]}, "certificationInfo/0/gs1:CertificationDetails/gs1:colour", "unknown-field"),
    ("object", {"errorDeclaration": {"reason": "incorrect_data"}}, "errorDeclaration/declarationTime", "required"),
    ("object", {"errorDeclaration": {"declarationTime": "2026-07-01T09:00:00Z", "reason": "oops"}}, "errorDeclaration/reason", "error-reason"),
    ("object", {"errorDeclaration": {"declarationTime": "2026-07-01T09:00:00Z", "correctiveEventIDs": ["x"]}}, "errorDeclaration/correctiveEventIDs/0", "uri"),
    ("object", {"sensorElementList": [{}]}, "sensorElementList/0/sensorReport", "required"),
    ("object", {"sensorElementList": [{"sensorReport": []}]}, "sensorElementList/0/sensorReport", "required"),
    ("object", {"sensorElementList": [{"sensorReport": [{"value": 4}]}]}, "sensorElementList/0/sensorReport/0/type", "required"),
    ("object", sensor(type="Warmth"), "sensorElementList/0/sensorReport/0/type", "measurement-type"),
    ("object", sensor(type="https://gs1.org/voc/Warmth"), "sensorElementList/0/sensorReport/0/type", "measurement-type"),
    ("object", sensor(type="gs1:Temprature"), "sensorElementList/0/sensorReport/0/type", "measurement-type"),
    ("object", sensor(type="gs1:MT-Temprature"), "sensorElementList/0/sensorReport/0/type", "measurement-type"),
    ("object", sensor(exception="gs1:ALARM"), "sensorElementList/0/sensorReport/0/exception", "sensor-exception"),
    ("object", sensor(value="4.1"), "sensorElementList/0/sensorReport/0/value", "number"),
    ("object", sensor(value=4.1, uom="celsius"), "sensorElementList/0/sensorReport/0/uom", "uom"),
    ("object", sensor(time="2026-07-01"), "sensorElementList/0/sensorReport/0/time", "time"),
    ("object", sensor(deviceID="logger"), "sensorElementList/0/sensorReport/0/deviceID", "uri"),
    ("object", sensor(booleanValue="true"), "sensorElementList/0/sensorReport/0/booleanValue", "type"),
    ("object", sensor(hexBinaryValue="xyz"), "sensorElementList/0/sensorReport/0/hexBinaryValue", "type"),
    ("object", sensor(exception="PANIC"), "sensorElementList/0/sensorReport/0/exception", "sensor-exception"),
    ("object", sensor(component="w"), "sensorElementList/0/sensorReport/0/component", "component"),
    ("object", sensor(reading=1), "sensorElementList/0/sensorReport/0/reading", "namespace"),
    ("object", {"sensorElementList": [{**SENSED[0], "sensorMetadata": {"time": "noon"}}]}, "sensorElementList/0/sensorMetadata/time", "time"),
    ("object", {"sensorElementList": [{**SENSED[0], "sensorMetadata": {"clock": 1}}]}, "sensorElementList/0/sensorMetadata/clock", "namespace"),
    ("aggregation", {"parentID": DROP}, "parentID", "required"),
    ("aggregation", {"action": "DELETE", "parentID": DROP}, "parentID", "required"),
    ("aggregation", {"parentID": [BOX]}, "parentID", "type"),
    ("aggregation", {"childEPCs": DROP}, "childEPCs", "required"),
    ("aggregation", {"action": "OBSERVE", "childEPCs": []}, "childEPCs", "required"),
    ("aggregation", {"epcList": [PACK]}, "epcList", "namespace"),
    ("association", {"action": "OBSERVE", "parentID": DROP}, "parentID", "required"),
    ("association", {"childEPCs": DROP}, "childEPCs", "required"),
    ("transaction", {"bizTransactionList": DROP}, "bizTransactionList", "required"),
    ("transaction", {"bizTransactionList": []}, "bizTransactionList", "required"),
    ("transaction", {"epcList": DROP}, "epcList", "required"),
    ("transformation", {"action": "ADD"}, "action", "namespace"),
    ("transformation", {"outputEPCList": DROP}, "outputEPCList", "required"),
    ("transformation", {"inputQuantityList": DROP}, "inputEPCList", "required"),
    ("transformation", {"inputQuantityList": DROP, "outputEPCList": DROP, "transformationID": "urn:x:1"}, "inputEPCList", "required"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "changes", "field", "rule"), BAD)
def test_what_the_standard_forbids_is_refused_with_the_field_named(
    base: str, changes: dict[str, Any], field: str, rule: str
) -> None:
    with pytest.raises(DoorRefused) as caught:
        through(document(BASES["object"], variant(base, changes)))
    assert (caught.value.pointer, caught.value.rule) == (f"/epcisBody/eventList/1/{field}", rule)
    assert len(caught.value.problems) == 1


QUERY = {
    "@context": CONTEXT,
    "type": "EPCISQueryDocument",
    "epcisBody": {"queryResults": {"queryName": "q", "resultsBody": {"eventList": [BASES["object"]]}}},
}


def test_every_envelope_is_read() -> None:
    single = {"@context": CONTEXT, **BASES["object"]}
    assert len(through(document(*BASES.values()))) == 5
    assert len(through(QUERY)) == 1
    assert len(through(single)) == 1
    assert len(through([single, single, document(single)])) == 3
    assert through(document()) == []
    assert [e.pointer for e in through([single, QUERY])] == [
        "/0",
        "/1/epcisBody/queryResults/resultsBody/eventList/0",
    ]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        (lambda d: d.pop("@context"), "/@context"),
        (lambda d: d.update({"@context": []}), "/@context"),
        (lambda d: d.pop("schemaVersion"), "/schemaVersion"),
        (lambda d: d.update(schemaVersion="two"), "/schemaVersion"),
        (lambda d: d.pop("creationDate"), "/creationDate"),
        (lambda d: d.update(creationDate="2026-07-06"), "/creationDate"),
        (lambda d: d.pop("epcisBody"), "/epcisBody"),
        (lambda d: d.update(epcisBody=[]), "/epcisBody"),
        (lambda d: d["epcisBody"].pop("eventList"), "/epcisBody/eventList"),
        (lambda d: d["epcisBody"].update(eventList={}), "/epcisBody/eventList"),
        (lambda d: d["epcisBody"].update(eventList=[5]), "/epcisBody/eventList/0"),
        (lambda d: d.update(type="EPCISDokument"), "/type"),
        (lambda d: d.update(comment="bare"), "/comment"),
        (lambda d: d.update(id="document 1"), "/id"),
        (lambda d: d.update(sender=5), "/sender"),
        (
            lambda d: d.update(epcisHeader={"epcisMasterData": {"vocabularyList": [{}]}}),
            "/epcisHeader/epcisMasterData/vocabularyList/0/type",
        ),
    ],
)
def test_a_broken_envelope_is_refused(change: Callable[[dict[str, Any]], object], pointer: str) -> None:
    broken = document(BASES["object"])
    change(broken)
    with pytest.raises(DoorRefused) as caught:
        through(broken)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize("value", [None, 5, "text", True, [5], [[]]])
def test_what_is_no_document_is_refused(value: object) -> None:
    with pytest.raises(DoorRefused):
        through(value)


def test_a_query_document_names_its_query() -> None:
    broken = json.loads(json.dumps(QUERY))
    del broken["epcisBody"]["queryResults"]["queryName"]
    with pytest.raises(DoorRefused) as caught:
        through(broken)
    assert caught.value.pointer == "/epcisBody/queryResults/queryName"


def test_a_single_event_needs_a_context() -> None:
    with pytest.raises(DoorRefused) as caught:
        through(BASES["object"])
    assert caught.value.pointer == "/@context"


def test_all_problems_are_named_up_to_a_limit() -> None:
    bad = variant("object", {"action": "X", "bizStep": "y", "disposition": "z"})
    with pytest.raises(DoorRefused) as caught:
        through(document(bad, BASES["object"], bad))
    assert [p.pointer for p in caught.value.problems] == [
        f"/epcisBody/eventList/{index}/{field}" for index in (0, 2) for field in ("action", "bizStep", "disposition")
    ]
    with pytest.raises(DoorRefused) as caught:
        through(document(*[bad] * 100))
    assert len(caught.value.problems) == PROBLEMS_MAX


def test_a_context_of_one_event_does_not_reach_the_next() -> None:
    first = variant("object", {"@context": {"own": "https://ns.own.example/"}, "own:a": 1})
    second = variant("object", {"own:a": 1})
    with pytest.raises(DoorRefused) as caught:
        through(document(first, second))
    assert [p.pointer for p in caught.value.problems] == ["/epcisBody/eventList/1/own:a"]


def test_an_object_event_is_normalised() -> None:
    read = event(
        "object",
        bizStep="https://ref.gs1.org/cbv/BizStep-commissioning",
        disposition="urn:epcglobal:cbv:disp:active",
        readPoint=PLACE,
        bizLocation={"id": "urn:epc:id:sgln:0614141.07346.1234"},
        recordTime="2026-07-01T01:00:00.0019Z",
        quantityList=[{"epcClass": LOT, "quantity": 12.5, "uom": "KGM"}, {"epcClass": LOT}],
        bizTransactionList=[{"type": "po", "bizTransaction": "urn:epc:id:gdti:0614141.00001.1618034"}],
        sourceList=[{"type": "cbv:SDT-owning_party", "source": "https://id.gs1.org/417/9521234000013"}],
        **{"ex:b": 1.50, "ex:a": [True]},
    )
    assert isinstance(read, ObjectEvent)
    assert read.time_ms == 1_782_867_600_000
    assert read.record_time_ms == 1_782_867_600_001
    assert read.time_zone_offset_minutes == 480
    assert (read.action, read.biz_step, read.disposition) == (Action.ADD, "commissioning", "active")
    assert read.epcs == (PACK_TEXT,)
    assert read.quantities == (
        Quantity("01/09521234001010/10/L1", 12_500, "KGM"),
        Quantity("01/09521234001010/10/L1", None, None),
    )
    assert (read.read_point, read.biz_location) == ("414/9521234000013", "414/0614141073467/254/1234")
    assert read.biz_transactions == (BizTransaction("po", "253/06141410000121618034"),)
    assert read.sources == (Party("owning_party", "417/9521234000013"),)
    assert read.extensions == b'{"ex:a":[true],"ex:b":1.5}'
    assert read.problems == ()


def test_each_event_type_has_its_own_fields() -> None:
    assert isinstance(aggregation := event("aggregation"), AggregationEvent)
    assert (aggregation.parent, aggregation.children) == ("00/395212340000000014", (PACK_TEXT,))
    assert isinstance(association := event("association"), AssociationEvent)
    assert association.parent == "00/395212340000000014"
    assert isinstance(transaction := event("transaction", parentID=BOX), TransactionEvent)
    assert (transaction.parent, transaction.epcs) == ("00/395212340000000014", (PACK_TEXT,))
    assert isinstance(transformation := event("transformation"), TransformationEvent)
    assert transformation.input_quantities == (Quantity("01/09521234001010/10/L1", 1000, "KGM"),)
    assert transformation.outputs == (PACK_TEXT,)
    assert transformation.action is None


def test_a_type_of_another_namespace_is_let_in_by_name_only() -> None:
    read = event("object", type="ex:InspectionEvent", action=DROP, epcList=DROP, own=1)
    assert isinstance(read, ExtendedEvent)
    assert (read.type, read.extensions) == ("ex:InspectionEvent", b'{"own":1}')


def test_urn_and_link_of_the_same_child_count_once() -> None:
    children = ["urn:epc:id:sgtin:9521234.000101.SN00001", PACK]
    read = event("aggregation", childEPCs=children)
    assert isinstance(read, AggregationEvent)
    assert read.children == (PACK_TEXT,)


@pytest.mark.parametrize(
    ("prefix", "declared"),
    [
        ("cbvmda:", None),
        ("cbvmda:", "urn:epcglobal:cbv:mda"),
        ("m:", "urn:epcglobal:cbv:mda:"),
        ("m:", "urn:epcglobal:cbv:mda#"),
        ("m:", "https://ref.gs1.org/cbv/"),
        ("urn:epcglobal:cbv:mda:", None),
        ("urn:epcglobal:cbv:mda#", None),
        ("https://ref.gs1.org/cbv/", None),
    ],
)
def test_lot_and_dates_are_found_under_any_prefix(prefix: str, declared: str | None) -> None:
    context = [{prefix.removesuffix(":"): declared}] if declared else []
    members = {
        f"{prefix}lotNumber": "L1",
        f"{prefix}itemExpirationDate": "2028-06-30",
        f"{prefix}productionDate": {"@value": "2026-07-01T08:00:00+08:00", "@type": "xsd:dateTime"},
    }
    read = event("object", ilmd=members, **({"@context": context} if context else {}))
    assert isinstance(read, ObjectEvent)
    assert read.ilmd is not None
    assert (read.ilmd.lot_number, read.ilmd.item_expiration_date, read.ilmd.production_date) == (
        "L1",
        20280630,
        20260701,
    )
    assert set(read.ilmd.members) == set(members)


def test_lot_numbers_of_another_namespace_stay_there() -> None:
    read = event("object", ilmd={"ex:lotNumber": 5})
    assert isinstance(read, ObjectEvent)
    assert read.ilmd is not None
    assert read.ilmd.lot_number is None


def test_sensor_reports_inherit_time_and_device() -> None:
    metadata = {"time": "2026-07-02T09:00:00+08:00", "deviceID": "https://id.gs1.org/8004/9521234LOGGER1"}
    reports = [
        {"type": "Temperature", "value": 4.1, "minValue": -0.5, "uom": "CEL"},
        {"type": "Latitude", "value": 31.23, "uom": "DD", "time": "2026-07-02T01:00:01Z", "deviceID": "urn:x:other"},
    ]
    read = event("object", sensorElementList=[{"sensorMetadata": metadata, "sensorReport": reports}])
    warm, north = read.sensor_reports
    assert (warm.type, warm.value_milli, warm.min_milli, warm.uom) == ("Temperature", (4100, 4100), (-500, -500), "CEL")
    assert (warm.time_ms, warm.device_id) == (1_782_954_000_000, "8004/9521234LOGGER1")
    assert (north.value_milli, north.time_ms, north.device_id) == ((31_230, 31_230), 1_782_954_001_000, "urn:x:other")
    assert warm.document == b'{"minValue":-0.5,"type":"Temperature","uom":"CEL","value":4.1}'


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"epcList": [LOT]}, "class-level"),
        (quantity() | {"quantityList": [{"epcClass": PACK}]}, "instance-level"),
        (quantity(quantity=0.0005, uom="KGM"), "precision"),
        (quantity(quantity=1e30, uom="KGM"), "range"),
        (sensor(value=1e-300), "precision"),
        (sensor(value=1e300), "range"),
    ],
)
def test_what_a_rule_may_refuse_is_let_in_with_a_problem(changes: dict[str, Any], rule: str) -> None:
    assert [problem.rule for problem in event("object", **changes).problems] == [rule]


@pytest.mark.parametrize(
    ("value", "milli"),
    [
        (8.0004, (8_000, 8_001)),
        (1.9996, (1_999, 2_000)),
        (-18.0004, (-18_001, -18_000)),
        (1e-300, (0, 1)),
        (8, (8_000, 8_000)),
        (1e300, None),
    ],
)
def test_what_was_measured_lies_between_the_thousandths_kept(value: float, milli: tuple[int, int] | None) -> None:
    (report,) = event("object", **sensor(value=value)).sensor_reports
    assert report.value_milli == milli


def test_an_amount_finer_than_thousandths_is_rounded_up_and_never_to_nothing() -> None:
    read = event("object", **quantity(quantity=0.0001, uom="KGM"))
    assert isinstance(read, ObjectEvent)
    assert read.quantities[0].quantity_milli == 1


def test_error_declarations_are_kept() -> None:
    declared = {"declarationTime": "1970-01-01T00:00:01Z", "reason": "incorrect_data", "ex:a": 1}
    error = event("object", errorDeclaration={**declared, "correctiveEventIDs": ["urn:x:1"]}).error_declaration
    assert error is not None
    assert (error.time_ms, error.reason, error.corrective_event_ids) == (1000, "incorrect_data", ("urn:x:1",))
    assert error.extensions == b'{"ex:a":1}'


@pytest.mark.parametrize(
    "vocabulary",
    [cbv.BIZ_STEP, cbv.DISPOSITION, cbv.BIZ_TRANSACTION_TYPE, cbv.SOURCE_DEST_TYPE, cbv.ERROR_REASON, cbv.COMPONENT],
)
def test_every_standard_word_has_four_spellings(vocabulary: cbv.Vocabulary) -> None:
    for word in sorted(vocabulary.terms):
        local = vocabulary.web_classes[0] + word
        spellings = (word, vocabulary.urn + word, f"https://ref.gs1.org/cbv/{local}", f"cbv:{local}")
        assert {cbv.term_name(vocabulary, text) for text in spellings} == {word}


@pytest.mark.parametrize(
    "text", ["Temperature", "gs1:Temperature", "gs1:MeasurementType-Temperature", "gs1:MT-Temperature",
             "https://gs1.org/voc/Temperature", "https://gs1.org/voc/MeasurementType-Temperature"]
)  # fmt: skip
def test_a_temperature_is_one_in_every_spelling_that_loggers_use(text: str) -> None:
    (report,) = event("object", **sensor(type=text, value=4)).sensor_reports
    assert report.type == "Temperature"


def test_a_float_never_enters() -> None:
    with pytest.raises(DoorRefused) as caught:
        parse(document(variant("object", quantity(quantity=1.5, uom="KGM"))))
    assert caught.value.rule == "number"


FULL = document(
    variant(
        "object",
        {
            **quantity(quantity=1, uom="KGM"),
            **sensor(value=4, time="2026-07-02T09:00:00Z", exception="ALARM_CONDITION", component="x"),
            "@context": [{"own": "https://ns.own.example/"}],
            "eventID": "urn:x:1",
            "bizStep": "shipping",
            "persistentDisposition": {"set": ["active"]},
            "readPoint": PLACE,
            "bizTransactionList": [{"type": "po", "bizTransaction": "urn:x:1"}],
            "sourceList": [{"type": "location", "source": "urn:x:1"}],
            "certificationInfo": [{"gs1:CertificationDetails": {"gs1:certificationStatus": "ACTIVE"}}],
            "errorDeclaration": {"declarationTime": "2026-07-01T09:00:00Z", "correctiveEventIDs": ["urn:x:1"]},
            "ilmd": {"cbvmda:lotNumber": "L1", "cbvmda:productionDate": "2026-07-01"},
        },
    ),
    *BASES.values(),
) | {
    "epcisHeader": {
        "epcisMasterData": {"vocabularyList": [{"type": "urn:x:1", "vocabularyElementList": [{"id": "urn:x:1"}]}]}
    }
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, member in inner for place in places(member, (*path, key)))]


@pytest.mark.parametrize(
    "junk", [None, True, 0, -(2**63), "", "x", ":", "urn:", "http://", [], {}, [[]], [None], {"": {}}, {"@id": 5}]
)
def test_no_document_raises_anything_else(junk: object) -> None:
    """Every place of a full document is replaced by junk in turn: it is refused, or it was free text."""
    assert len(through(FULL)) == 6
    for path in places(FULL):
        broken: Any = [json.loads(json.dumps(FULL))]
        spot = broken
        for key in (0, *path)[:-1]:
            spot = spot[key]
        spot[(0, *path)[-1]] = junk
        with suppress(DoorRefused):
            through(broken)


# -- published examples ------------------------------------------------------------------------------------------------


def published(*folders: str) -> list[Any]:
    """Parameters: the files of these folders, or one that skips (in CI: fails) where there are none."""
    files = sorted(file for folder in folders for file in (DATA / folder).glob("*.json"))
    return [pytest.param(file, id=f"{file.parent.name}/{file.stem}") for file in files] or [
        pytest.param(None, id="missing")
    ]


def read_published(file: Path | None) -> object:
    if file is None:
        if os.environ.get("CI"):
            pytest.fail("the published examples are missing")
        pytest.skip("the published examples are not here")
    return loads(file.read_bytes(), size_bytes_max=10_000_000)


@pytest.mark.parametrize("file", published("epcis/events", "epcis/documents", "cases"))
def test_published_documents_are_accepted(file: Path | None) -> None:
    for read in parse(read_published(file)):
        assert read.problems == ()
        for name in ("epcs", "children", "inputs", "outputs"):
            for epc in getattr(read, name, ()):
                if not epc.startswith(("8017/", "8018/")):  # numbers of persons, which the chain refuses
                    check_epc(epc, name)


@pytest.mark.parametrize("file", published("epcis/invalid"))
def test_published_invalid_documents_are_refused(file: Path | None) -> None:
    value = read_published(file)
    with pytest.raises(DoorRefused) as caught:
        parse(value)
    for problem in caught.value.problems:
        assert problem.pointer.startswith("/epcisBody/eventList/")
        assert problem.reason
