"""The canonical encoding: one byte string for one value, everything else refused before it costs memory."""

from __future__ import annotations

import tracemalloc
from enum import IntEnum
from itertools import product

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import DEPTH_MAX, ITEMS_MAX, Value, decode, encode, encode_trusted
from ledger.errors import Code, CodecError

SIZE_BYTES_MAX = 1 << 16

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=300)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=20).map(tuple), max_leaves=40)


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


def depth_of(value: Value) -> int:
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, tuple) else 0


def refused(data: bytes, **limits: int) -> Code:
    with pytest.raises(CodecError) as caught:
        decode(data, **{"size_bytes_max": SIZE_BYTES_MAX, **limits})
    return caught.value.code


@given(VALUES.filter(lambda value: depth_of(value) <= DEPTH_MAX))
def test_decoding_inverts_encoding(value: Value) -> None:
    """Trap 40."""
    data = encode(value)
    again = decode(data, size_bytes_max=SIZE_BYTES_MAX)
    assert again == value
    assert encode(again) == data


@given(st.binary(max_size=40))
def test_whatever_is_accepted_encodes_back_to_the_same_bytes(data: bytes) -> None:
    """Trap 40. And whatever is refused is refused as CodecError."""
    try:
        value = decode(data, size_bytes_max=SIZE_BYTES_MAX)
    except CodecError:
        return
    assert encode(value) == data


@given(VALUES, st.data())
def test_mutations_of_an_encoding_are_refused_or_another_value(value: Value, data: st.DataObject) -> None:
    """Trap 40."""
    wire = bytearray(encode(value))
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = decode(bytes(wire), size_bytes_max=SIZE_BYTES_MAX)
    except CodecError:
        return
    assert encode(other) == wire


def test_every_input_of_two_bytes_is_canonical_or_refused() -> None:
    """Trap 40. All 65,536 of them, so that no first byte is forgotten."""
    accepted = 0
    for pair in product(range(256), repeat=2):
        try:
            value = decode(bytes(pair), size_bytes_max=2)
        except CodecError:
            continue
        assert encode(value) == bytes(pair)
        accepted += 1
    arrays_of_one = 128 + 32 + 3 + 2  # small integers, nil and booleans, empty text, empty array
    one_character, no_bytes, from_128_to_255, from_minus_128_to_minus_33 = 128, 1, 128, 96
    assert accepted == arrays_of_one + one_character + no_bytes + from_128_to_255 + from_minus_128_to_minus_33


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("5 in two bytes", b"\xcc\x05"),
        ("5 in three bytes", b"\xcd\x00\x05"),
        ("5 in five bytes", b"\xce\x00\x00\x00\x05"),
        ("5 in nine bytes", b"\xcf" + (5).to_bytes(8, "big")),
        ("5 as signed", b"\xd0\x05"),
        ("-1 in two bytes", b"\xd0\xff"),
        ("-1 in nine bytes", b"\xd3" + b"\xff" * 8),
        ("2**31 as signed 64", b"\xd3" + (2**31).to_bytes(8, "big")),
        ("text with a long header", b"\xd9\x01a"),
        ("text with a longer header", b"\xda\x00\x01a"),
        ("text with the longest header", b"\xdb\x00\x00\x00\x01a"),
        ("bytes with a long header", b"\xc5\x00\x01a"),
        ("bytes with the longest header", b"\xc6\x00\x00\x00\x01a"),
        ("array with a long header", b"\xdc\x00\x01\xc0"),
        ("array with the longest header", b"\xdd\x00\x00\x00\x01\xc0"),
    ],
)
def test_longer_forms_of_a_value_are_refused(name: str, data: bytes) -> None:
    """Trap 34, 40."""
    assert refused(data) == Code.NOT_CANONICAL
    assert refused(b"\x92\x01" + data) == Code.NOT_CANONICAL


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("nothing", b""),
        ("trailing byte", b"\x01\x01"),
        ("trailing value after an array", b"\x91\x01\xc0"),
        ("truncated array", b"\x92\x01"),
        ("truncated text", b"\xa2a"),
        ("truncated bytes", b"\xc4\x02a"),
        ("truncated integer", b"\xcd\x01"),
        ("truncated header", b"\xdc\x00"),
        ("never used first byte", b"\xc1"),
        ("empty map", b"\x80"),
        ("map", b"\x81\x01\x01"),
        ("map with one key twice", b"\x82\xa1a\x01\xa1a\x02"),
        ("map with 16-bit header", b"\xde\x00\x01\x01\x01"),
        ("map with 32-bit header", b"\xdf\x00\x00\x00\x01\x01\x01"),
        ("map of 4,294,967,295", b"\xdf\xff\xff\xff\xff"),
        ("array of 4,294,967,295", b"\xdd\xff\xff\xff\xff"),
        ("bytes of 4,294,967,295", b"\xc6\xff\xff\xff\xff"),
        ("text of 4,294,967,295", b"\xdb\xff\xff\xff\xff"),
        ("32-bit float", b"\xca\x00\x00\x00\x00"),
        ("64-bit float", b"\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00"),
        ("not a number", b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"),
        ("empty extension", b"\xc7\x00\x01"),
        ("empty timestamp", b"\xc7\x00\xff"),
        ("extension", b"\xd4\x05\x00"),
        ("timestamp", b"\xd6\xff\x00\x00\x00\x00"),
        ("text that is not UTF-8", b"\xa1\xff"),
        ("text with an overlong form", b"\xa2\xc0\x80"),
        ("text with a surrogate", b"\xa3\xed\xa0\x80"),
        ("text beyond Unicode", b"\xa4\xf4\x90\x80\x80"),
    ],
)
def test_what_is_not_one_permitted_value_is_refused(name: str, data: bytes) -> None:
    """Trap 34, 40. The same inside an array, and inside input long enough for the counting scan."""
    refused(data)
    refused(b"\x91" + data)
    filler = b"\xc5" + (ITEMS_MAX + 1).to_bytes(2, "big") + bytes(ITEMS_MAX + 1)
    refused(b"\x92" + filler + data)


def test_arrays_nest_to_the_limit_and_not_beyond() -> None:
    """Trap 34."""
    assert depth_of(decode(nested(DEPTH_MAX), size_bytes_max=SIZE_BYTES_MAX)) == DEPTH_MAX
    refused(nested(DEPTH_MAX + 1))
    decode(nested(3), size_bytes_max=SIZE_BYTES_MAX, depth_max=3)
    refused(nested(4), depth_max=3)
    decode(b"\x05", size_bytes_max=1, depth_max=0)
    refused(b"\x90", depth_max=0)


@pytest.mark.parametrize("depth", [64, 65, 511, 512, 1023, 1024, 1025, 4000, 60_000])
def test_deep_nesting_is_refused_without_harm(depth: int) -> None:
    """Trap 34. msgpack's and Python's own stack guards lie in this range."""
    refused(nested(depth))
    refused(nested(depth), items_max=1 << 20)


def test_the_size_limit_is_exact() -> None:
    assert decode(b"\xa3abc", size_bytes_max=4) == "abc"
    assert refused(b"\xa3abc", size_bytes_max=3) == Code.TOO_LARGE


def test_the_item_limit_is_exact() -> None:
    """Trap 34. The array itself counts."""
    ten = encode(tuple(range(10)))
    assert decode(ten, size_bytes_max=SIZE_BYTES_MAX, items_max=11) == tuple(range(10))
    assert refused(ten, items_max=10) == Code.TOO_LARGE


@pytest.mark.parametrize("first", [b"\x90", b"\x80", b"\xc0", b"\x91", b"\xa0", b"\x01"])
def test_four_megabytes_of_small_items_are_refused_before_memory_is_taken(first: bytes) -> None:
    """Trap 34. msgpack itself would make 290 MB of objects out of the empty arrays."""
    count = 4 * 1024 * 1024
    data = b"\xdd" + count.to_bytes(4, "big") + first * count
    tracemalloc.start()
    try:
        refused(data, size_bytes_max=len(data))
        refused(data, size_bytes_max=len(data), items_max=200_000)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


def test_decoded_values_take_a_bounded_multiple_of_their_encoding() -> None:
    """Trap 34. The worst that fits the item limit: one-item arrays, each a tuple of its own."""
    pairs = 100_000
    data = b"\xdd" + pairs.to_bytes(4, "big") + b"\x91\x90" * pairs
    tracemalloc.start()
    try:
        refused(data, size_bytes_max=len(data))
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
        decode(data, size_bytes_max=len(data), items_max=3 * pairs)
        assert tracemalloc.get_traced_memory()[1] < 48 * len(data)
    finally:
        tracemalloc.stop()


@settings(max_examples=60)
@given(st.lists(SCALARS, max_size=60), st.integers(1, 70))
def test_counting_before_decoding_agrees_with_what_is_decoded(items: list[Value], items_max: int) -> None:
    data = encode(tuple(items))
    if len(data) <= items_max or len(items) + 1 <= items_max:
        assert decode(data, size_bytes_max=SIZE_BYTES_MAX, items_max=items_max) == tuple(items)
    else:
        assert refused(data, items_max=items_max) == Code.TOO_LARGE


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        {},
        {1: 2},
        {1},
        bytearray(b"a"),
        memoryview(b"a"),
        Number.ONE,
        msgpack.ExtType(1, b""),
        2**64,
        -(2**63) - 1,
        "\ud800",
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, memoryview) else repr(value),
)
def test_what_has_no_encoding_is_our_own_mistake(value: object) -> None:
    """Trap 45. Floats and maps cannot enter anything signed."""
    with pytest.raises(TypeError):
        encode(value)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        encode((1, (value,)))  # type: ignore[arg-type]
    assert encode((1, 2)) == b"\x92\x01\x02", "a refused value leaves nothing behind in the encoder"


@pytest.mark.parametrize("edge", [0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
def test_integers_take_the_shortest_form_at_every_edge(edge: int) -> None:
    """Trap 40."""
    for value in (edge, -edge if edge <= 2**63 else 0, -edge - 1 if edge < 2**63 else 0):
        assert encode(value) == shortest_integer(value)
        assert decode(encode(value), size_bytes_max=9) == value


def shortest_integer(value: int) -> bytes:
    """An independent writing of section 1 of docs/wire-format.md."""
    if -32 <= value < 128:
        return value.to_bytes(1, "big", signed=value < 0)
    signed = value < 0
    for number, width in enumerate((1, 2, 4, 8)):
        limit = 2 ** (8 * width - signed)
        if -limit <= value < limit:
            return bytes([(0xD0 if signed else 0xCC) + number]) + value.to_bytes(width, "big", signed=signed)
    raise AssertionError(value)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536])
def test_headers_take_the_shortest_form_at_every_edge(length: int) -> None:
    """Trap 40."""
    assert len(encode("a" * length)) - length == (
        1 if length < 32 else 2 if length < 256 else 3 if length < 65_536 else 5
    )
    assert len(encode(b"a" * length)) - length == (2 if length < 256 else 3 if length < 65_536 else 5)
    assert len(encode((None,) * length)) - length == (1 if length < 16 else 3 if length < 65_536 else 5)


def test_booleans_and_integers_are_different_values() -> None:
    assert len({encode(True), encode(1), encode(False), encode(0), encode(None), encode(""), encode(b"")}) == 7


def test_the_short_cut_for_flat_tuples_gives_the_same_bytes() -> None:
    value = ("module", "table", b"key", 7, "")
    assert encode_trusted(value) == encode(value)
