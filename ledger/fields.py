"""Types of an operation's fields: each checks one value and names the path of what it refuses.

An operation is a frozen dataclass whose annotations carry these, e.g. `gtin: Annotated[str, Text(14, 14)]`. The class
is the schema: the API, the command line and the OpenAPI document are made from it.

Must not know: state. Checks here depend on the value alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Annotated, Any, ClassVar, Protocol, get_args, get_origin, get_type_hints

from ledger.codec import Value
from ledger.crypto import ALGORITHM_ED25519, HASH_SIZE_BYTES, PUBLIC_KEY_SIZE_BYTES, check_public_key
from ledger.errors import ConfigError, FieldReject, Reject, SignatureRefused

INTEGER_MAX = 2**63 - 1

# Controls, separators other than a space, invisible formatting (direction marks, zero width), surrogates, private use.
# Listed here because str.isprintable() follows the interpreter's Unicode tables: nodes on Python 3.11 and 3.12 would
# disagree about characters assigned in between, and so about a block's receipts.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000"
    "\ud800-\uf8ff\ufeff\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e00ff\U000f0000-\U0010ffff]"
)


def is_printable(text: str) -> bool:
    """Whether `text` holds only what can be shown; the same under every version of Python."""
    return text.isprintable() if text.isascii() else _UNPRINTABLE.search(text) is None


class FieldType(Protocol):
    """One field's type: `check` raises FieldReject naming `path`; `describe` is for people and OpenAPI."""

    def check(self, value: Value, path: str) -> None: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer from `low` to `high`, inclusive."""

    low: int = 0
    high: int = INTEGER_MAX

    def check(self, value: Value, path: str) -> None:
        if type(value) is not int or not self.low <= value <= self.high:
            raise FieldReject(path, f"integer {self.low}..{self.high}")

    def describe(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Text:
    """Text of `low` to `high` characters, without control characters."""

    high: int
    low: int = 1

    def check(self, value: Value, path: str) -> None:
        if type(value) is not str or not self.low <= len(value) <= self.high or not is_printable(value):
            raise FieldReject(path, f"text of {self.low}..{self.high} printable characters")

    def describe(self) -> dict[str, Any]:
        return {"type": "string", "minLength": self.low, "maxLength": self.high}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the listed texts."""

    options: tuple[str, ...]

    def check(self, value: Value, path: str) -> None:
        if type(value) is not str or value not in self.options:
            raise FieldReject(path, "one of " + ", ".join(self.options))

    def describe(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.options)}


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes of `low` to `high` length; hexadecimal in JSON."""

    high: int
    low: int = 0

    def check(self, value: Value, path: str) -> None:
        if type(value) is not bytes or not self.low <= len(value) <= self.high:
            raise FieldReject(path, f"{self.low}..{self.high} bytes")

    def describe(self) -> dict[str, Any]:
        return {
            "type": "string",
            "format": "hex",
            "minLength": 2 * self.low,
            "maxLength": 2 * self.high,
            "pattern": "^([0-9a-f]{2})*$",
        }


@dataclass(frozen=True, slots=True)
class Hash(Blob):
    """A hash with its algorithm id: 33 bytes."""

    high: int = HASH_SIZE_BYTES
    low: int = HASH_SIZE_BYTES


@dataclass(frozen=True, slots=True)
class Key(Blob):
    """A public key (33 bytes). With `register`, it is checked as a point of the prime-order group as well."""

    high: int = PUBLIC_KEY_SIZE_BYTES
    low: int = PUBLIC_KEY_SIZE_BYTES
    register: bool = False

    def check(self, value: Value, path: str) -> None:
        if type(value) is not bytes or len(value) != PUBLIC_KEY_SIZE_BYTES or value[:1] != ALGORITHM_ED25519:
            raise FieldReject(path, "a public key")
        if self.register:
            try:
                check_public_key(value)
            except SignatureRefused:
                raise FieldReject(path, "a valid Ed25519 point") from None


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def check(self, value: Value, path: str) -> None:
        if type(value) is not bool:
            raise FieldReject(path, "boolean")

    def describe(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Maybe:
    """Nil or the inner type."""

    inner: FieldType

    def check(self, value: Value, path: str) -> None:
        if value is not None:
            self.inner.check(value, path)

    def describe(self) -> dict[str, Any]:
        return {"anyOf": [self.inner.describe(), {"type": "null"}]}


@dataclass(frozen=True, slots=True)
class ListOf:
    """From `low` to `high` items of one type; `distinct` refuses repetitions."""

    inner: FieldType
    high: int
    low: int = 0
    distinct: bool = False

    def check(self, value: Value, path: str) -> None:
        if type(value) is not tuple or not self.low <= len(value) <= self.high:
            raise FieldReject(path, f"list of {self.low}..{self.high}")
        check = self.inner.check
        try:
            for item in value:
                check(item, path)
        except Reject:
            for index, item in enumerate(value):  # once more, to name the one
                check(item, f"{path}[{index}]")
            raise
        if self.distinct and len(set(value)) != len(value):
            raise FieldReject(path, "distinct items")

    def describe(self) -> dict[str, Any]:
        return {
            "type": "array",
            "items": self.inner.describe(),
            "minItems": self.low,
            "maxItems": self.high,
            "uniqueItems": self.distinct,
        }


@dataclass(frozen=True, slots=True)
class Tuple:
    """A fixed sequence of named parts, e.g. one sensor reading; an array on the wire, an array in JSON."""

    parts: tuple[tuple[str, FieldType], ...]

    def check(self, value: Value, path: str) -> None:
        if type(value) is not tuple or len(value) != len(self.parts):
            raise FieldReject(path, f"list of {len(self.parts)}")
        try:
            for (_, inner), item in zip(self.parts, value, strict=True):
                inner.check(item, path)
        except Reject:
            for (name, inner), item in zip(self.parts, value, strict=True):  # once more, to name the one
                inner.check(item, f"{path}.{name}")
            raise

    def describe(self) -> dict[str, Any]:
        return {
            "type": "array",
            "prefixItems": [{"title": name, **inner.describe()} for name, inner in self.parts],
            "minItems": len(self.parts),
            "maxItems": len(self.parts),
            "items": False,
        }


class Operation:
    """Base of every operation: a frozen, slotted dataclass with annotated fields and a NAME `module.verb`."""

    __slots__ = ()

    NAME: ClassVar[str]
    VERSION: ClassVar[int] = 1

    def to_fields(self) -> tuple[Value, ...]:
        """The values in declared order, as they go into a transaction."""
        return tuple(getattr(self, field.name) for field in dataclass_fields(self))  # type: ignore[arg-type]


def schema_of(operation: type[Operation]) -> tuple[tuple[str, FieldType], ...]:
    """The operation's fields and their types, in order. ConfigError when an annotation carries none."""
    hints = get_type_hints(operation, include_extras=True)
    schema = []
    for field in dataclass_fields(operation):  # type: ignore[arg-type]
        hint = hints[field.name]
        types = [extra for extra in get_args(hint)[1:] if hasattr(extra, "check")]
        if get_origin(hint) is not Annotated or len(types) != 1:
            raise ConfigError(f"{operation.__name__}.{field.name} needs Annotated[..., one field type]")
        schema.append((field.name, types[0]))
    return tuple(schema)


def parser_of(operation: type[Operation]) -> Callable[[tuple[Value, ...]], Operation]:
    """A function from a transaction's values to the operation; raises FieldReject naming the field."""
    checks = tuple((name, field_type.check) for name, field_type in schema_of(operation))
    count = len(checks)

    def parse(values: tuple[Value, ...]) -> Operation:
        if len(values) != count:
            raise FieldReject("fields", f"{count} values")
        for (name, check), value in zip(checks, values, strict=True):
            check(value, name)
        return operation(*values)

    return parse
