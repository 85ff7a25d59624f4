"""Sensor elements of EPCIS events: what a device measured, when, and in which unit.

Lives here: the reader of `sensorElementList`. Each report becomes one record; time and device of the element's metadata
are handed down to reports that state none of their own.

Must not know: which temperature is too warm.
Source: EPCIS 2.0 section 7.3.7 (sensor elements), CBV 2.0 section 7.7 (measurement types, components, alerts).
"""

from __future__ import annotations

import re
from typing import Any

from node.gateway import cbv
from node.gateway.door import UOM, Door
from node.gateway.events import SensorReport
from node.gateway.jsonsafe import canonical_json, pointer_join

__all__ = ["read_sensors"]

_HEX = re.compile(r"[0-9A-Fa-f]+", re.ASCII)
_METADATA = cbv.words("time deviceID deviceMetadata rawData startTime endTime dataProcessingMethod bizRules")
_VALUES = cbv.words("value minValue maxValue meanValue")
_STATISTICS = cbv.words("sDev percRank percValue")
_ADDRESSES = cbv.words(
    "deviceMetadata rawData dataProcessingMethod bizRules microorganism chemicalSubstance coordinateReferenceSystem "
    "uriValue"
)
_REPORT = (
    cbv.words("type exception deviceID time component stringValue booleanValue hexBinaryValue uom")
    | _VALUES
    | _STATISTICS
    | _ADDRESSES
)


def read_sensors(door: Door, value: object, pointer: str) -> tuple[SensorReport, ...]:
    def element(entry: object, inner: str) -> tuple[SensorReport, ...]:
        known = frozenset({"sensorMetadata", "sensorReport"})
        members = door.members(entry, inner, known, ("sensorReport",))
        if members is None:
            return ()
        metadata: dict[str, Any] = {}
        if "sensorMetadata" in members:
            metadata = _read_metadata(door, members["sensorMetadata"], pointer_join(inner, "sensorMetadata"))
        if "sensorReport" not in members:
            return ()
        at = pointer_join(inner, "sensorReport")
        return door.each(
            members["sensorReport"], at, lambda report, where: _read_report(door, report, where, metadata), 1
        )

    return tuple(report for reports in door.each(value, pointer, element) for report in reports)


def _read_metadata(door: Door, value: object, pointer: str) -> dict[str, Any]:
    """What the reports of one element share."""
    members = door.members(value, pointer, _METADATA) or {}
    shared: dict[str, Any] = {}
    for name, content in members.items():
        at = pointer_join(pointer, name)
        if name in ("time", "startTime", "endTime"):
            field = {"time": "time_ms", "startTime": "start_time_ms", "endTime": "end_time_ms"}[name]
            shared[field] = door.time_ms(content, at)
        elif name == "deviceID":
            shared["device_id"] = door.identifier(content, at)
        elif name in _METADATA:
            door.uri(content, at)
    return shared


def _read_report(door: Door, value: object, pointer: str, shared: dict[str, Any]) -> SensorReport | None:
    members = door.members(value, pointer, _REPORT, ("type",))
    if members is None or "type" not in members:
        return None
    fields = dict(shared)
    kind = door.term(members["type"], pointer_join(pointer, "type"), cbv.MEASUREMENT_TYPE, "measurement-type")
    for name, content in members.items():
        at = pointer_join(pointer, name)
        if name in _VALUES:
            fields[f"{name.removesuffix('Value')}_milli"] = door.milli(content, at)
        elif name in _STATISTICS:
            door.number(content, at)
        elif name in _ADDRESSES:
            door.uri(content, at)
        elif name == "uom":
            fields["uom"] = door.matching(content, at, UOM, "uom", "must be a UN/CEFACT Rec 20 code")
        elif name == "time":
            fields["time_ms"] = door.time_ms(content, at)
        elif name == "deviceID":
            fields["device_id"] = door.identifier(content, at)
        elif name == "exception":
            fields["exception"] = door.term(content, at, cbv.SENSOR_EXCEPTION, "sensor-exception")
        elif name == "component":
            fields["component"] = door.term(content, at, cbv.COMPONENT, "component")
        elif name == "stringValue":
            door.text(content, at)
        elif name == "booleanValue" and not isinstance(content, bool):
            door.refuse(at, "type", "must be true or false")
        elif name == "hexBinaryValue":
            door.matching(content, at, _HEX, "type", "must be hexadecimal digits")
    return None if kind is None else SensorReport(type=kind, **fields, document=canonical_json(members))
