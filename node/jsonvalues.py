"""Between JSON and the values of an operation's fields, led by the operation's own field types.

Bytes are hexadecimal in JSON, arrays are tuples, integers are the only numbers. A refusal names the path of the field.
A field that may be nil may be left out.

Must not know: operations' meanings, or where the JSON came from (node/gateway/jsonsafe.py reads strangers' text).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from ledger.codec import Value
from ledger.errors import FieldReject
from ledger.fields import Blob, FieldType, ListOf, Maybe, Tuple

Schema = Sequence[tuple[str, FieldType]]

_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_DEPTH_MAX = 16  # the codec allows no deeper value
_PATH_NAME_LENGTH_MAX = 64  # a stranger's member name goes back to them in an error; it never grows with the request


def fields_from_json(schema: Schema, document: Mapping[str, object]) -> tuple[Value, ...]:
    """The operation's values in declared order, each checked. FieldReject names what is unknown, missing or wrong."""
    if not isinstance(document, Mapping):
        raise FieldReject("fields", "an object")
    known = {name for name, _ in schema}
    for name in document:
        if name not in known:
            raise FieldReject(
                str(name)[:_PATH_NAME_LENGTH_MAX], "no unknown field; known: " + ", ".join(n for n, _ in schema)
            )
    values = []
    for name, field_type in schema:
        if name not in document and not isinstance(field_type, Maybe):
            raise FieldReject(name, "a value; it is missing")
        value = value_from_json(field_type, document.get(name), name)
        field_type.check(value, name)
        values.append(value)
    return tuple(values)


def fields_to_json(schema: Schema, values: Sequence[Value]) -> dict[str, object]:
    """The values under their names, as JSON writes them. ValueError if there are not as many as fields."""
    return {name: value_to_json(value) for (name, _), value in zip(schema, values, strict=True)}


def value_to_json(value: Value) -> object:
    """Bytes as hexadecimal, tuples as lists."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [value_to_json(item) for item in value]
    return value


def value_from_json(field_type: FieldType, value: object, path: str) -> Value:
    """One value in the shape its type wants; the type's own `check` still has to pass."""
    match field_type:
        case Maybe(inner=inner):
            return None if value is None else value_from_json(inner, value, path)
        case Blob():
            return bytes_from_hex(field_type, value, path)
        case ListOf(inner=inner, high=high):
            items = _list(value, path)
            if len(items) > high:
                raise FieldReject(path, f"list of at most {high}")
            return tuple(value_from_json(inner, item, f"{path}[{index}]") for index, item in enumerate(items))
        case Tuple(parts=parts):
            items = _list(value, path)
            if len(items) != len(parts):
                raise FieldReject(path, f"list of {len(parts)}")
            pairs = zip(parts, items, strict=True)
            return tuple(value_from_json(inner, item, f"{path}.{name}") for (name, inner), item in pairs)
        case _:
            # A type of a rule module: what it says of itself tells bytes from text.
            if field_type.describe().get("format") == "hex":
                return bytes_from_hex(None, value, path)
            return _plain(value, path, 0)


def bytes_from_hex(blob: Blob | None, value: object, path: str) -> bytes:
    """Bytes of the blob's size, where it is known; FieldReject says how many digits it takes."""
    if isinstance(value, str) and _HEX.fullmatch(value) and (blob is None or blob.low <= len(value) // 2 <= blob.high):
        return bytes.fromhex(value)
    low, high = (0, 0) if blob is None else (2 * blob.low, 2 * blob.high)
    digits = "" if blob is None else f"{low} " if low == high else f"{low} to {high} "
    raise FieldReject(path, f"{digits}lower-case hexadecimal digits")


def _list(value: object, path: str) -> list[object]:
    if not isinstance(value, list):
        raise FieldReject(path, "a list")
    return value


def _plain(value: object, path: str, depth: int) -> Value:
    match value:
        case None | bool() | int() | str():
            return value
        case float() | Decimal():
            raise FieldReject(path, "an integer; numbers with a fraction or exponent are refused")
        case list() if depth < _DEPTH_MAX:
            return tuple(_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value))
        case _:
            raise FieldReject(path, "a text, integer, boolean or list")
