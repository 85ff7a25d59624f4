"""Canonical msgpack: one byte string for one value, and nothing else accepted.

Lives here: the only encoder and decoder of everything that is hashed, signed, stored or sent. Values are nil, bool,
64-bit integers, bytes, text and arrays of these; maps, floats and extensions do not exist. Decoding refuses whatever
does not encode back to the same bytes (long headers, long integers, trailing bytes), and checks size and item count
before memory is taken: four megabytes of empty arrays would otherwise become three hundred of objects.

Must not know: what any value means. See docs/wire-format.md, section 1.
"""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import TypeAlias

import msgpack

from ledger.errors import Code, CodecError

Value: TypeAlias = "bool | int | bytes | str | tuple[Value, ...] | None"

DEPTH_MAX = 8  # the deepest thing we define (new-view > view-change > certificate > signature) is 7
NESTING_MAX = 64  # of what we encode ourselves
ITEMS_MAX = 4_096  # enough for a packaging line's thousand serials; larger containers state their own

_SCALARS = frozenset({int, bytes, str, bool, NoneType})
_pack = msgpack.Packer(use_bin_type=True, strict_types=False, autoreset=True).pack


def encode(value: Value) -> bytes:
    """The canonical bytes of `value`; a float, map or oversized integer in it is a local mistake (TypeError)."""
    if type(value) not in _SCALARS:
        _check_types(value, NESTING_MAX)
    return _packed(value)


def _packed(value: Value) -> bytes:
    try:
        return _pack(value)  # type: ignore[no-any-return]
    except (OverflowError, UnicodeEncodeError) as error:
        raise TypeError(f"value has no canonical encoding: {type(error).__name__}") from None


def encode_frozen(value: Value) -> tuple[Value, bytes]:
    """The value with tuples for any lists in it, as it would be decoded, and its canonical bytes."""
    if type(value) in _SCALARS or _check_types(value, NESTING_MAX):
        return value, _packed(value)
    data = _packed(value)
    return msgpack.unpackb(data, use_list=False, raw=False), data


encode_trusted: Callable[[Value], bytes] = _pack
"""As `encode`, for what the caller vouches for, types and ranges; saves the walk on the hottest paths."""


def decode(data: bytes, *, size_bytes_max: int, depth_max: int = DEPTH_MAX, items_max: int = ITEMS_MAX) -> Value:
    """The value whose canonical encoding is `data`, arrays as tuples; anything else raises CodecError."""
    size_bytes = len(data)
    if size_bytes > size_bytes_max:
        raise CodecError("larger than the limit", Code.TOO_LARGE)
    # Each item takes a byte, so short input cannot hold too many; only longer input needs the scan.
    if size_bytes > items_max:
        _check_count(data, items_max)
    try:
        value: Value = msgpack.unpackb(
            data, use_list=False, raw=False, strict_map_key=True, max_map_len=0, max_ext_len=0
        )
        again = _pack(value)
    except (ValueError, OverflowError, UnicodeError, TypeError, msgpack.UnpackException, RecursionError):
        raise CodecError("not msgpack of the permitted kinds") from None
    if again != data:
        raise CodecError("not the canonical encoding", Code.NOT_CANONICAL)
    if type(value) not in _SCALARS:
        try:
            _check_types(value, depth_max)
        except TypeError as error:
            raise CodecError(str(error)) from None
    return value


def _check_types(value: object, depth_left: int) -> bool:
    """Raise TypeError for what has no encoding; else whether all arrays are tuples, as decoding gives them."""
    if type(value) is not tuple and type(value) is not list:
        raise TypeError(f"{type(value).__name__} cannot be encoded")
    if depth_left == 0:
        raise TypeError("nested too deeply")
    frozen = type(value) is tuple
    if not _SCALARS.issuperset(map(type, value)):
        for item in value:
            kind = type(item)
            if kind in _SCALARS or (kind is tuple and depth_left > 1 and _SCALARS.issuperset(map(type, item))):
                continue  # most are flat: not worth a call
            if not _check_types(item, depth_left - 1):
                frozen = False
    return frozen


# Header length and payload meaning by first byte: (bytes of length field, is array). Fixed forms are ranges below.
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_ARRAYS = {0xDC: 2, 0xDD: 4}


def _check_count(data: bytes, items_max: int) -> None:
    """Walk the headers, without building anything, until the announced items are seen or exceed the limit."""
    position, due, seen = 0, 1, 0
    end = len(data)
    while due:
        due -= 1
        seen += 1
        if seen + due > items_max:
            raise CodecError("too many items", Code.TOO_LARGE)
        if position >= end:
            raise CodecError("truncated")
        first = data[position]
        position += 1
        if first <= 0x7F or first >= 0xE0:
            continue
        if 0xA0 <= first <= 0xBF:
            position += first & 0x1F
        elif 0x90 <= first <= 0x9F:
            due += first & 0x0F
        elif first in _SIZED:
            width = _SIZED[first]
            position += width + int.from_bytes(data[position : position + width], "big")
        elif first in _FIXED:
            position += _FIXED[first]
        elif first in _ARRAYS:
            width = _ARRAYS[first]
            due += int.from_bytes(data[position : position + width], "big")
            position += width
        else:
            raise CodecError("not msgpack of the permitted kinds")
    if position != end:
        raise CodecError("trailing or missing bytes")
