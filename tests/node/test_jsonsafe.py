"""Strict JSON: what the standard library lets through is refused, and the pointer or offset says where."""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.gateway.jsonsafe import JsonRefused, canonical_json, loads, pointer_join

SIZE = 1_000_000


def read(text: str | bytes, **limits: int) -> object:
    data = text.encode() if isinstance(text, str) else text
    return loads(data, size_bytes_max=SIZE, **limits)


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b'{"a":1,"a":2}', ""),
        (b'[{"b":{"a":1,"a":1}}]', "/0/b"),
        (b'{"a":NaN}', "/a"),
        (b"[Infinity]", "/0"),
        (b"[-Infinity]", "/0"),
        (b"[1e400]", "/0"),
        (b"[1e-400]", "/0"),
        (b"[1e999999999]", "/0"),
        (b"[0." + b"1" * 60 + b"]", "/0"),
        (b"[9223372036854775808]", "/0"),
        (b"[-9223372036854775809]", "/0"),
        (b"[" + b"9" * 5000 + b"]", "/0"),
        (b'["\\ud800"]', "/0"),
        (b'{"a~/b":["\\udfff"]}', "/a~0~1b/0"),
        (b'{"\\ud800":1}', ""),
        (b"\xef\xbb\xbf{}", 0),
        (b'["\xff"]', 2),
        (b'["\xed\xa0\x80"]', 2),
        ('{"a":1}'.encode("utf-16"), 0),
        (b"{} {}", 3),
        (b"", 0),
        (b"{'a':1}", 1),
        (b'{"a":1,}', 7),
        (b"[01]", 2),
        (b'["\x01"]', 2),
        (b'["open', 1),
        (b'["open\\', 1),
    ],
)
def test_unacceptable_json_is_refused_where_it_stands(data: bytes, where: str | int) -> None:
    with pytest.raises(JsonRefused) as caught:
        read(data)
    assert caught.value.pointer_or_offset == where


def test_size_depth_and_count_are_checked_before_parsing() -> None:
    with pytest.raises(JsonRefused, match="size"):
        loads(b"[1,2,3]", size_bytes_max=6)
    assert read("[" * 32 + "]" * 32) is not None
    with pytest.raises(JsonRefused, match="nested"):
        read("[" * 33 + "]" * 33)
    with pytest.raises(JsonRefused, match="nested"):
        read("[" * 500_000)
    with pytest.raises(JsonRefused, match="more values"):
        read("[" + "[]," * 200_000 + "[]]")
    assert read("[1,2,3]", items_max=4) == [1, 2, 3]


def test_brackets_in_strings_do_not_count() -> None:
    assert read(json.dumps(["[" * 100, '\\"[{' * 50]), depth_max=1) == ["[" * 100, '\\"[{' * 50]


def test_numbers_with_a_fraction_are_decimals() -> None:
    value = read("[4.10, 1e2, -0.0, 5, 9223372036854775807]")
    assert value == [Decimal("4.10"), Decimal(100), Decimal(0), 5, 2**63 - 1]
    assert isinstance(value, list)
    assert [type(entry) for entry in value] == [Decimal, Decimal, Decimal, int, int]


def test_surrogate_pairs_are_text() -> None:
    assert read(b'["\\ud83d\\ude00"]') == ["\U0001f600"]


def test_the_reason_never_echoes_content() -> None:
    for text in ('{"secret":1,"secret":2}', '["secret" x]', '{"a":secret}'):
        with pytest.raises(JsonRefused) as caught:
            read(text)
        assert "secret" not in caught.value.reason
        assert "secret" not in str(caught.value)


def test_pointers_do_not_grow_with_member_names() -> None:
    assert len(pointer_join("/a", "x" * 10_000)) == 256


def test_canonical_json_is_one_text_for_one_value() -> None:
    assert (
        canonical_json(read('{"b":1.50,"a":[1e2,-0.0,"é",null,true]}'))
        == '{"a":[100,0,"é",null,true],"b":1.5}'.encode()
    )
    with pytest.raises(TypeError):
        canonical_json({"a": 0.5})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_the_standard_library_writes_is_read_back(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert loads(text, size_bytes_max=SIZE) == value
    assert loads(canonical_json(value), size_bytes_max=SIZE) == value


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with suppress(JsonRefused):
        loads(data, size_bytes_max=SIZE)
