"""JSON becomes an operation's values and back; what does not fit is refused with the path of the field."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.codec import Value
from ledger.errors import FieldReject, Reject
from ledger.fields import Blob, Flag, Hash, Integer, ListOf, Maybe, Text, Tuple, schema_of
from ledger.modules import drugs, members, payments, records
from node.jsonvalues import fields_from_json, fields_to_json

SCHEMA = (
    ("amount", Integer(0, 10**6)),
    ("to", Text(8)),
    ("hash", Hash()),
    ("blobs", ListOf(Blob(4), 3)),
    ("reading", Maybe(Tuple((("kind", Text(4)), ("value", Integer()))))),
    ("active", Flag()),
)
HASH = "01" + "ab" * 32
GOOD: dict[str, object] = {
    "amount": 5,
    "to": "x",
    "hash": HASH,
    "blobs": ["", "00ff"],
    "reading": ["temp", 3],
    "active": True,
}


def test_values_come_in_declared_order_with_bytes_and_tuples() -> None:
    values = fields_from_json(SCHEMA, dict(reversed(GOOD.items())))
    assert values == (5, "x", bytes.fromhex(HASH), (b"", b"\x00\xff"), ("temp", 3), True)
    assert fields_to_json(SCHEMA, values) == GOOD


def test_a_field_that_may_be_nil_may_be_left_out() -> None:
    document = {name: value for name, value in GOOD.items() if name != "reading"}
    assert fields_from_json(SCHEMA, document)[4] is None


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"amount": 1.0}, "amount"),
        ({"amount": Decimal("1.5")}, "amount"),
        ({"amount": True}, "amount"),
        ({"amount": "5"}, "amount"),
        ({"amount": {"a": 1}}, "amount"),
        ({"to": 3}, "to"),
        ({"hash": HASH[:-2]}, "hash"),
        ({"hash": HASH.upper()}, "hash"),
        ({"hash": f"{HASH[:-1]} "}, "hash"),
        ({"blobs": ["", "0"]}, "blobs[1]"),
        ({"blobs": "00"}, "blobs"),
        ({"blobs": [""] * 100_000}, "blobs"),
        ({"reading": ["temp", 3.5]}, "reading.value"),
        ({"reading": ["temp"]}, "reading"),
        ({"active": 1}, "active"),
        ({"amonut": 1}, "amonut"),
        ({"x" * 5_000: 1}, "x" * 64),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(change: dict[str, object], path: str) -> None:
    with pytest.raises(FieldReject) as caught:
        fields_from_json(SCHEMA, GOOD | change)
    assert caught.value.detail[0] == path


@pytest.mark.parametrize("name", [name for name in GOOD if name != "reading"])
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(FieldReject) as caught:
        fields_from_json(SCHEMA, {key: value for key, value in GOOD.items() if key != name})
    assert caught.value.detail == (name, "a value; it is missing")


@pytest.mark.parametrize("document", [[], "x", None, 3])
def test_what_is_not_an_object_is_refused(document: object) -> None:
    with pytest.raises(FieldReject):
        fields_from_json(SCHEMA, document)  # type: ignore[arg-type]


ANY_JSON: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)


@given(data=st.data())
def test_any_json_is_either_checked_values_or_a_refusal_for_every_operation(data: st.DataObject) -> None:
    modules = (members.MODULE, records.MODULE, drugs.MODULE, payments.MODULE)
    rule = data.draw(st.sampled_from([rule for module in modules for rule in module.rules]))
    schema = schema_of(rule.operation)
    document = {name: data.draw(ANY_JSON) for name, _ in schema}
    try:
        values: tuple[Value, ...] = fields_from_json(schema, document)
    except Reject:
        return
    assert fields_from_json(schema, fields_to_json(schema, values)) == values
