"""Reads the single values of a stranger's document and remembers, with its pointer, each that the standard forbids.

Lives here: the reader that the EPCIS door uses for objects, lists, texts, URIs, identifiers, terms, times and numbers,
and the error it ends in. A reader refuses by recording a problem and returning None: so all problems of a document are
named at once. What the standard allows but a rule may refuse is flagged instead.

Must not know: which fields an event has.
Sources: EPCIS 2.0 section 7.3 (shared types), XML Schema 1.1 part 2 (dateTimeStamp), RFC 3986, RFC 6920.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Any, TypeVar

from ledger.gs1 import days_from_civil, month_days
from node.gateway import cbv, gs1
from node.gateway.events import Problem
from node.gateway.jsonsafe import pointer_join

__all__ = ["UOM", "Context", "Door", "DoorRefused"]

PROBLEMS_MAX = 50  # more help nobody, and a hostile document must not grow its own answer
TEXT_LENGTH_MAX = 4_096  # of a text that is kept: room for a statement, not for a document in disguise
MILLI_MAX = 2**63 - 1  # the chain's integers

_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,12}))?"
    r"(?:Z|([+-])([0-9]{2}):([0-9]{2}))",
    re.ASCII,
)
_OFFSET = re.compile(r"([+-])(0[0-9]|1[0-3]):([0-5][0-9])|([+-])14:00", re.ASCII)
UOM = re.compile(r"[A-Z0-9]{2,3}", re.ASCII)
_UUID = re.compile(r"urn:uuid:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_NI = re.compile(r"ni://[^/]*/[a-z0-9\-]+;[A-Za-z0-9_\-]+(?:\?.+)?", re.ASCII)
_URI_SCHEMES = frozenset({"http", "https", "urn", "tag", "did", "ni"})  # of member names written as full URIs

_T = TypeVar("_T")


class DoorRefused(ValueError):
    """The document breaks the standard: the sender's fault. `pointer`, `rule` and `reason` are the first problem's."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(f"{first.pointer or '/'}: {first.reason}")
        self.pointer = first.pointer
        self.rule = first.rule
        self.reason = first.reason


@dataclass(frozen=True, slots=True)
class Context:
    """Which name prefixes are declared here. `open`: a foreign context is referred to, which nobody fetches."""

    prefixes: dict[str, str]
    open: bool = False

    def declares(self, prefix: str) -> bool:
        return self.open or prefix in self.prefixes or prefix in cbv.STANDARD_PREFIXES


class Door:
    """Collects problems while reading values; a reader returns None where it refused."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.flags: list[Problem] = []
        self.context = Context({})

    def refuse(self, pointer: str, rule: str, reason: str) -> None:
        self.problems.append(Problem(pointer, rule, reason))
        if len(self.problems) >= PROBLEMS_MAX:
            raise DoorRefused(self.problems)

    def flag(self, pointer: str, rule: str, reason: str) -> None:
        if len(self.flags) < PROBLEMS_MAX:
            self.flags.append(Problem(pointer, rule, reason))

    # -- shapes --------------------------------------------------------------------------------------------------------

    def members(
        self,
        value: object,
        pointer: str,
        known: frozenset[str],
        required: tuple[str, ...] = (),
        *,
        extensible: bool = True,
    ) -> dict[str, Any] | None:
        """An object whose members are known or namespaced; missing and unknown ones are named."""
        if not isinstance(value, dict):
            self.refuse(pointer, "type", "must be an object")
            return None
        for name in required:
            if name not in value:
                self.refuse(pointer_join(pointer, name), "required", "required field is missing")
        for name in value:
            if name not in known and not (extensible and self.namespaced(name)):
                rule = "namespace" if extensible else "unknown-field"
                reason = "unknown field: extensions need a declared namespace" if extensible else "unknown field"
                self.refuse(pointer_join(pointer, name), rule, reason)
        return value

    def namespaced(self, name: str) -> bool:
        prefix, colon, local = name.partition(":")
        if not colon or not local:
            return False
        if prefix in _URI_SCHEMES or local.startswith("//"):
            return gs1.is_absolute_uri(name)
        return self.context.declares(prefix)

    def array(self, value: object, pointer: str, *, low: int = 0) -> list[object]:
        if not isinstance(value, list):
            self.refuse(pointer, "type", "must be a list")
            return []
        if len(value) < low:
            self.refuse(pointer, "required", "must not be empty")
        return value

    def each(
        self, value: object, pointer: str, read: Callable[[object, str], _T | None], low: int = 0
    ) -> tuple[_T, ...]:
        results = (read(entry, pointer_join(pointer, i)) for i, entry in enumerate(self.array(value, pointer, low=low)))
        return tuple(result for result in results if result is not None)

    # -- single values -------------------------------------------------------------------------------------------------

    def text(self, value: object, pointer: str) -> str | None:
        if not isinstance(value, str):
            self.refuse(pointer, "type", "must be text")
            return None
        if len(value) > TEXT_LENGTH_MAX:
            self.refuse(pointer, "length", "text is too long")
            return None
        return value

    def matching(self, value: object, pointer: str, pattern: re.Pattern[str], rule: str, reason: str) -> str | None:
        text = self.text(value, pointer)
        if text is not None and pattern.fullmatch(text) is None:
            self.refuse(pointer, rule, reason)
            return None
        return text

    def uri(self, value: object, pointer: str) -> str | None:
        text = self.text(value, pointer)
        if text is not None and not gs1.is_absolute_uri(text):
            self.refuse(pointer, "uri", "must be an absolute URI")
            return None
        return text

    def event_id(self, value: object, pointer: str) -> str | None:
        text = self.uri(value, pointer)
        if text is None:
            return None
        scheme = text.lower()
        if scheme.startswith("urn:uuid:") and _UUID.fullmatch(text) is None:
            self.refuse(pointer, "event-id", "malformed UUID")
            return None
        if scheme.startswith("ni:") and _NI.fullmatch(text) is None:
            self.refuse(pointer, "event-id", "malformed hash URI")
            return None
        return text

    def identifier(self, value: object, pointer: str, level: str = "") -> str | None:
        """The chain's text of an object, place, party, document or device; what claims to be a GS1 key must be one.

        `level` notes a class meant as an instance or vice versa.
        """
        text = self.uri(value, pointer)
        if text is None:
            return None
        try:
            key = gs1.parse_uri(text)
        except gs1.Gs1Refused as error:
            self.refuse(pointer, error.rule, error.reason)
            return None
        if key is None:
            return text
        if level == "instance" and key.is_class:
            self.flag(pointer, "class-level", "names a class where an instance is meant")
        elif level == "class" and not key.is_class:
            self.flag(pointer, "instance-level", "names an instance where a class is meant")
        return key.canonical

    def term(self, value: object, pointer: str, vocabulary: cbv.Vocabulary, rule: str) -> str | None:
        text = self.text(value, pointer)
        if text is None:
            return None
        name = cbv.term_name(vocabulary, text)
        if name is None or (name not in vocabulary.terms and not gs1.is_absolute_uri(name)):
            self.refuse(pointer, rule, "neither a word of the standard vocabulary nor a URI of another namespace")
            return None
        return name

    def time_ms(self, value: object, pointer: str) -> int | None:
        """A time stamp with zone as Unix milliseconds; finer digits are cut, never rounded into the future."""
        text = self.text(value, pointer)
        if text is None:
            return None
        match = _TIME.fullmatch(text)
        if match is None:
            self.refuse(pointer, "time", "must be a date and time with zone (ISO 8601, xsd:dateTimeStamp)")
            return None
        year, month, day, hour, minute, second = (int(part) for part in match.group(1, 2, 3, 4, 5, 6))
        zone_h, zone_m = int(match.group(9) or 0), int(match.group(10) or 0)
        if not (1 <= month <= 12 and year and 1 <= day <= month_days(year, month)):
            self.refuse(pointer, "time", "no such day")
            return None
        if hour > 23 or minute > 59 or second > 59 or zone_m > 59 or zone_h * 60 + zone_m > 14 * 60:
            self.refuse(pointer, "time", "no such time or zone")
            return None
        zone_minutes = (zone_h * 60 + zone_m) * (-1 if match.group(8) == "-" else 1)
        minutes = days_from_civil(year, month, day) * 1440 + hour * 60 + minute - zone_minutes
        return (minutes * 60 + second) * 1000 + int((match.group(7) or "0").ljust(3, "0")[:3])

    def offset_minutes(self, value: object, pointer: str) -> int | None:
        text = self.matching(value, pointer, _OFFSET, "time-zone", "must be an offset from -14:00 to +14:00")
        if text is None:
            return None
        return (int(text[1:3]) * 60 + int(text[4:6])) * (-1 if text[0] == "-" else 1)

    def number(self, value: object, pointer: str) -> Decimal | None:
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            self.refuse(pointer, "number", "must be a number")
            return None
        return Decimal(value)

    def milli(self, value: object, pointer: str) -> tuple[int, int] | None:
        """The thousandths at or below and at or above a number; what does not fit is noted: any double is allowed."""
        number = self.number(value, pointer)
        if number is None:
            return None
        scaled = Fraction(number) * 1000  # exact, unlike a Decimal, which rounds to its context
        low, high = floor(scaled), ceil(scaled)
        if low != high:
            self.flag(pointer, "precision", "finer than thousandths")
        if max(-low, high) > MILLI_MAX:
            self.flag(pointer, "range", "beyond the range that the chain's integers have")
            return None
        return low, high
