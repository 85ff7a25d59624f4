"""Strict JSON from strangers: what the standard library would let through is refused here, before a rule sees it.

Lives here: one function that turns bytes into objects, with size, depth and count checked in a linear scan before any
object exists. Refused: other encodings than UTF-8, a byte order mark, duplicate member names, NaN and Infinity, numbers
beyond a 64-bit integer or a double's range, lone surrogates, anything after the value. Numbers with a fraction or an
exponent come back as `decimal.Decimal`: a float never enters this program from outside.

Must not know: what any document means.
Sources: RFC 8259 (JSON), RFC 7493 (I-JSON), RFC 6901 (JSON Pointer).
"""

from __future__ import annotations

import json
import re
from decimal import Decimal

__all__ = ["JsonRefused", "canonical_json", "loads", "pointer_join"]

DEPTH_MAX = 32  # the deepest published FHIR and EPCIS documents are below 20
ITEMS_MAX = 100_000  # an object costs some hundred bytes of memory: this bounds a document to tens of megabytes
DIGITS_MAX = 40  # a double has 17 significant digits; longer ones only cost time
EXPONENT_MAX = 308  # a double's range: what another reader would turn into infinity is refused
POINTER_LENGTH_MAX = 256  # member names are a stranger's text: a pointer never grows with them

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1

# Strings are swallowed whole (possessive, so an unclosed one costs one pass); brackets and commas remain.
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[][{},]', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonRefused(ValueError):
    """The bytes are not acceptable JSON: the sender's fault.

    `pointer_or_offset`: JSON pointer of the offending member where known, else the offset (bytes before parsing,
    characters in a syntax error), else None. `reason` is fixed text and never echoes content.
    """

    def __init__(self, pointer_or_offset: str | int | None, reason: str) -> None:
        super().__init__(reason)
        self.pointer_or_offset = pointer_or_offset
        self.reason = reason


class _Refused:
    """Stands where a value was that the parser's hooks cannot place; the walk afterwards names its pointer."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


def pointer_join(pointer: str, member: str | int) -> str:
    """The JSON pointer of a member or index (RFC 6901 escapes), cut at a fixed length."""
    step = str(member).replace("~", "~0").replace("/", "~1")
    return f"{pointer}/{step}"[:POINTER_LENGTH_MAX]


def loads(data: bytes, *, size_bytes_max: int, depth_max: int = DEPTH_MAX, items_max: int = ITEMS_MAX) -> object:
    """The value of a JSON text: dict, list, str, int (64 bit), Decimal, bool or None; raises JsonRefused."""
    if len(data) > size_bytes_max:
        raise JsonRefused(None, "larger than the size limit")
    _check_structure(data, depth_max, items_max)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonRefused(error.start, "not UTF-8") from None
    if text.startswith("\ufeff"):
        raise JsonRefused(0, "starts with a byte order mark")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_decimal,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        raise JsonRefused(error.pos, "not JSON") from None
    _check_values(value, "", check_text=_SURROGATE_ESCAPE.search(data) is not None)
    parsed: object = value
    return parsed


def _check_structure(data: bytes, depth_max: int, items_max: int) -> None:
    """Depth and number of values, by brackets and commas outside strings; linear, and nothing is kept."""
    depth = 0
    items = 1
    for match in _STRUCTURE.finditer(data):
        byte = data[match.start()]
        if byte in b"[{":
            depth += 1
            items += 1
            if depth > depth_max:
                raise JsonRefused(match.start(), "nested deeper than the limit")
        elif byte in b"]}":
            depth -= 1
        elif byte == 0x2C:
            items += 1
        if items > items_max:
            raise JsonRefused(match.start(), "more values than the limit")


def _object(pairs: list[tuple[str, object]]) -> object:
    members = dict(pairs)
    if len(members) != len(pairs):
        return _Refused("duplicate member name")
    return members


def _integer(text: str) -> object:
    # Length first: turning thousands of digits into a number takes quadratic time.
    if len(text) > 20 or not INTEGER_MIN <= int(text) <= INTEGER_MAX:
        return _Refused("integer beyond 64 bits")
    return int(text)


def _decimal(text: str) -> object:
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa) > DIGITS_MAX or len(exponent) > 5:
        return _Refused("number with too many digits")
    value = Decimal(text)
    if value and not -EXPONENT_MAX <= value.adjusted() <= EXPONENT_MAX:
        return _Refused("number beyond the range of a double")
    return value


def _constant(_text: str) -> object:
    return _Refused("NaN and Infinity are not JSON")


def _check_values(value: object, pointer: str, *, check_text: bool) -> None:
    """Names the pointer of what the hooks refused; depth is bounded, so recursion is."""
    if isinstance(value, _Refused):
        raise JsonRefused(pointer, value.reason)
    if isinstance(value, dict):
        for name, member in value.items():
            inner = pointer_join(pointer, name)
            if check_text and not _encodable(name):
                raise JsonRefused(pointer, "lone surrogate in a member name")
            _check_values(member, inner, check_text=check_text)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            _check_values(member, pointer_join(pointer, index), check_text=check_text)
    elif check_text and isinstance(value, str) and not _encodable(value):
        raise JsonRefused(pointer, "lone surrogate in text")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def canonical_json(value: object) -> bytes:
    """One byte string for one value of `loads`: members sorted, no spaces, numbers without needless digits."""
    return _canonical(value).encode("utf-8")


def _canonical(value: object) -> str:
    if isinstance(value, dict):
        members = (f"{_canonical(name)}:{_canonical(value[name])}" for name in sorted(value))
        return "{" + ",".join(members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, Decimal):
        text = format(value, "f")
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return "0" if text == "-0" else text
    if value is None or isinstance(value, bool | int | str):
        return json.dumps(value, ensure_ascii=False)
    raise TypeError(f"{type(value).__name__} does not come from jsonsafe.loads")
