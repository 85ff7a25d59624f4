"""Field types: what each refuses, and that it names the path."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from ledger.crypto import KeyPair, hash_bytes
from ledger.errors import Code, ConfigError, FieldReject
from ledger.fields import (
    Blob,
    Choice,
    FieldType,
    Flag,
    Hash,
    Integer,
    Key,
    ListOf,
    Maybe,
    Operation,
    Text,
    Tuple,
    is_printable,
    parser_of,
    schema_of,
)
from tests.ledger import ed25519

KEY = KeyPair.from_seed(b"\x01" * 32).public
SMALL = b"\x01" + ed25519.small_order_encodings()[0]

GOOD_AND_BAD: list[tuple[FieldType, list[Any], list[Any]]] = [
    (Integer(1, 9), [1, 9], [0, 10, True, "1", None, b"1", ()]),
    (Integer(), [0, 2**63 - 1], [-1, 2**63]),
    (Text(3), ["a", "abc", "病院", "é é"], ["", "abcd", "a\n", "a\x00", "\x7f", b"abc", 1, None, "a\u202e", "a\u2028"]),
    (Text(3, 2), ["ab"], ["a"]),
    (Text(3, 0), [""], [None]),
    (Choice(("x", "y")), ["x"], ["z", "", None, 1, b"x"]),
    (Blob(2, 1), [b"a", b"ab"], [b"", b"abc", "ab", None]),
    (Hash(), [hash_bytes(b"")], [hash_bytes(b"")[:-1], b"", hash_bytes(b"").hex()]),
    (Key(), [KEY, SMALL], [KEY[:-1], b"\x02" + KEY[1:], KEY.hex(), None]),
    (Key(register=True), [KEY], [SMALL, b"\x01" + b"\x02" + bytes(31)]),
    (Flag(), [True, False], [0, 1, None, "true"]),
    (Maybe(Integer(1, 2)), [None, 1], [0, "1"]),
    (ListOf(Integer(0, 5), 3, 1), [(1,), (1, 1, 1)], [(), (1, 2, 3, 4), [1], 1, (6,), (True,)]),
    (ListOf(Integer(0, 5), 3, distinct=True), [(), (1, 2)], [(1, 1)]),
    (Tuple((("low", Integer(0, 5)), ("on", Flag()))), [(1, True)], [(1,), (1, True, 1), (True, 1), [1, True], None]),
]


@pytest.mark.parametrize(("field_type", "good", "bad"), GOOD_AND_BAD, ids=lambda item: type(item).__name__)
def test_field_types_take_what_they_say_and_nothing_else(
    field_type: FieldType, good: list[Any], bad: list[Any]
) -> None:
    """Trap 35."""
    for value in good:
        field_type.check(value, "field")
    for value in bad:
        with pytest.raises(FieldReject) as caught:
            field_type.check(value, "field")
        assert caught.value.code == Code.BAD_FIELD
        assert str(caught.value.detail[0]).startswith("field")
    assert field_type.describe()


def test_what_may_be_shown_does_not_follow_the_interpreters_unicode_version() -> None:
    """Trap 45. U+1FAE8 came with Unicode 15, which Python 3.11 does not know and 3.12 does."""
    assert is_printable("a \U0001fae8")
    assert is_printable("\u0378"), "unassigned so far: whatever it becomes, the answer stays"
    refused = [*range(0x20), *range(0x7F, 0xA1), 0xAD, 0x2028, 0x2029, 0x202E, 0x2066, 0x200B, 0xFEFF, 0xD800, 0xE000]
    assert not any(is_printable("a" + chr(number)) for number in refused)
    letters = "Größe Ærø Łódź Ωμέγα Москва 東京 서울 العربية हिन्दी ไทย ½ € 𠮷 e\u0301"
    assert is_printable(letters)


def test_every_control_surrogate_and_private_character_is_refused() -> None:
    """All of Unicode: these categories are closed, so the answer cannot change with its versions."""
    for number in range(0x110000):
        character = chr(number)
        if unicodedata.category(character) in ("Cc", "Cs", "Co", "Zl", "Zp"):
            assert not is_printable(character), hex(number)


@dataclass(frozen=True, slots=True)
class Ship(Operation):
    """An operation for these tests."""

    NAME = "test.ship"
    to: Annotated[str, Text(5)]
    items: Annotated[tuple[tuple[int, bool], ...], ListOf(Tuple((("count", Integer(1, 9)), ("cold", Flag()))), 3)]


def test_an_operation_is_parsed_from_its_values_and_gives_them_back() -> None:
    parse = parser_of(Ship)
    values = ("here", ((1, True), (9, False)))
    assert parse(values) == Ship("here", ((1, True), (9, False)))
    assert parse(values).to_fields() == values
    assert [name for name, _ in schema_of(Ship)] == ["to", "items"]


@pytest.mark.parametrize(
    ("values", "path"),
    [
        (("here",), "fields"),
        (("here", (), 1), "fields"),
        ((), "fields"),
        (("toolong", ()), "to"),
        (("here", ((1, True), (0, True))), "items[1].count"),
        (("here", ((1, 1),)), "items[0].cold"),
        (("here", ((1,),)), "items[0]"),
    ],
)
def test_a_refusal_names_the_field_down_to_the_item(values: tuple[Any, ...], path: str) -> None:
    with pytest.raises(FieldReject) as caught:
        parser_of(Ship)(values)
    assert caught.value.detail[0] == path


def test_an_operation_without_field_types_cannot_be_registered() -> None:
    @dataclass(frozen=True, slots=True)
    class Bare(Operation):
        NAME = "test.bare"
        to: str

    @dataclass(frozen=True, slots=True)
    class Twice(Operation):
        NAME = "test.twice"
        to: Annotated[str, Text(1), Text(2)]

    for operation in (Bare, Twice):
        with pytest.raises(ConfigError):
            schema_of(operation)
