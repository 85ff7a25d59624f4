"""GS1 identifiers as the chain spells them: one text for one thing, check digits, company prefixes, dates.

An identifier on the chain is one of
    01/<gtin14>/21/<serial>     a pack or case (SGTIN)
    01/<gtin14>/10/<lot>        a lot (class)
    01/<gtin14>                 a product (class)
    00/<sscc18>                 a logistic unit
    <ai>/<value>[/<ai>/<value>] any other GS1 key
    <URN or web address>        an object without a GS1 key
of at most 128 characters. The first four are told apart by position, so a serial may hold a slash. Service relation
numbers (GSRN, AI 8017 and 8018) identify people and are refused: nothing personal goes on the chain. So is a GS1 key
written as a URI: it would be a second spelling of the thing, and could be a person's number. Both hold as well for what
only refers to a place, a process or a document, which may otherwise be any text.

Must not know: how URNs and Digital Links are read (node/gateway), or state.
Sources: GS1 General Specifications 25.0, sections 1.4 (prefixes), 3 (application identifiers), 7.9 (check digits),
7.11 (character set 82); GS1 Digital Link URI Syntax 1.4 section 4; EPC Tag Data Standard 2.0 section 6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ledger.codec import Value
from ledger.errors import Code, FieldReject, Reject
from ledger.fields import Text

EPC_LENGTH_MAX = 128  # the longest GS1 key (GIAI, 30 characters) is far below; URIs of objects are short by nature
SERIAL_LENGTH_MAX = 20  # AI 21 and AI 10: X..20
LOT_UNKNOWN = "-"  # the lot of packs whose maker states none; a lot number is never empty

DAY_MS = 86_400_000
EPOCH_DAY = 719_468  # days from 0000-03-01 to 1970-01-01

_CSET_82 = r"[!\"%&'()*+,\-./0-9:;<=>?A-Z_a-z]"
_TEXT_82 = re.compile(_CSET_82 + "*", re.ASCII)
_EPC = re.compile(
    rf"01/[0-9]{{14}}(?:/(?:10|21)/{_CSET_82}{{1,20}}|/235/{_CSET_82}{{1,28}})?"
    r"|00/[0-9]{18}"
    rf"|(?!0[01]/)[0-9]{{2,4}}/{_CSET_82}{{1,120}}"
    r"|(?:[Uu][Rr][Nn]:|[Hh][Tt][Tt][Pp][Ss]?://)[!-~]+",  # what CBV 2.0 section 8.2 has for things; no mailto, no tel
    re.ASCII,
)
# A GS1 key as a URI: an EPC URN but of the schemes that stand for no key, all of GS1's own resolver, or a Digital Link
# of any domain, which is a path that ends in pairs of application identifier and value.
_KEY_AS_URI = re.compile(
    r"urn:epc:(?!id:(?:adi|bic|gid|imovn|usdod):).*"
    r"|https?://id\.gs1\.org(?:[:/?#].*)?"
    r"|https?://[^/?#]+(?:/[^/?#]*)*?/(?:01/[0-9]{8}|(?:253|255|41[47])/[0-9]{13}|8003/[0-9]{14}|402/[0-9]{17}"
    r"|(?:00|8006|801[78])/[0-9]{18}|(?:401|8004|801[03])/[^/?#])[^/?#]*(?:/[^/?#]+/[^/?#]+)*/?(?:[?#].*)?",
    re.ASCII | re.IGNORECASE,
)
# Other keys whose first digits end in a check digit: application identifier and how many digits that is.
_CHECKED_DIGITS = {"253": 13, "255": 13, "402": 17, "414": 13, "417": 13, "8003": 14, "8006": 14}
_PERSONS = frozenset({"8017", "8018"})
# A service relation number: the chain's text, a Digital Link with its identifier or its old short name, also escaped or
# in a query, an element string, and EPC URNs of every kind.
_PERSON = re.compile(r"(?:(?<![0-9])801[78]|gsrnp?)(?:[/)=]|%2f)[0-9]{18}|urn:epc:[^:]*:gsrn", re.ASCII | re.IGNORECASE)


def check_digit(digits: str) -> int:
    """The check digit that follows `digits` (GS1 General Specifications 7.9.1: weights 3, 1 from the right)."""
    return -(3 * sum(map(int, digits[::-2])) + sum(map(int, digits[-2::-2]))) % 10


@lru_cache(maxsize=8192)  # pure, and a line sends the same few GTINs a thousand times
def check_digit_valid(digits: str) -> bool:
    """Whether the last of `digits` is the check digit of those before it; False for what is not digits."""
    if len(digits) < 2 or not digits.isascii() or not digits.isdigit():
        return False
    return check_digit(digits[:-1]) == int(digits[-1])


def sgtin(gtin: str, serial: str) -> str:
    return f"01/{gtin}/21/{serial}"


def lot_class(gtin: str, lot: str) -> str:
    return f"01/{gtin}/10/{lot}"


def is_pack(epc: str) -> bool:
    """Whether it names one item with a GTIN and a serial."""
    return epc.startswith("01/") and epc[17:21] == "/21/"


def is_lot(epc: str) -> bool:
    return epc.startswith("01/") and epc[17:21] == "/10/"


def is_class(epc: str) -> bool:
    """Whether it names a kind of thing (lot or product), not one thing."""
    return epc.startswith("01/") and epc[17:21] in ("/10/", "")


def gtin_of(epc: str) -> str:
    """The GTIN of a pack, lot or product; empty for anything else."""
    return epc[3:17] if epc.startswith("01/") else ""


def lot_index_key(lot_epc: str) -> str:
    """`<gtin14>/<lot>`, under which the index `lot` finds what happened to a lot."""
    return f"{lot_epc[3:17]}/{lot_epc[21:]}"


def owns_gtin(prefixes: Iterable[str], gtin: str) -> bool:
    """Whether one of the company prefixes issued this GTIN-14: the indicator digit is dropped before comparing."""
    return any(gtin[1:13].startswith(prefix) for prefix in prefixes)


def owns_sscc(prefixes: Iterable[str], sscc: str) -> bool:
    """Whether one of the company prefixes issued this SSCC: the extension digit is dropped before comparing."""
    return any(sscc[1:17].startswith(prefix) for prefix in prefixes)


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of a proleptic Gregorian date, in integers only (Hinnant, chrono-compatible algorithms)."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - EPOCH_DAY


def month_days(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def date_valid(date: int) -> bool:
    """Whether the integer YYYYMMDD is a day from year 1900 to 9999."""
    year, month, day = date // 10_000, date // 100 % 100, date % 100
    return 1900 <= year <= 9999 and 1 <= month <= 12 and 1 <= day <= month_days(year, month)


@lru_cache(maxsize=1024)  # pure; a chain has few distinct dates
def day_end_ms(date: int) -> int:
    """The first Unix millisecond after the UTC day YYYYMMDD."""
    return (days_from_civil(date // 10_000, date // 100 % 100, date % 100) + 1) * DAY_MS


def names_person(text: str) -> bool:
    """Whether a text is or holds the number of a person, in any spelling that GS1 gives it."""
    return _PERSON.search(text) is not None


def check_epc(value: Value, path: str) -> None:
    """Refuse what is not an identifier in its one spelling, or has a wrong check digit, or may name a person."""
    if type(value) is not str or len(value) > EPC_LENGTH_MAX or _EPC.fullmatch(value) is None:
        raise Reject(Code.BAD_IDENTIFIER, path)
    if value[2] == "/" and value[0] == "0":
        digits = value[3:17] if value[1] == "1" else value[3:]
    else:
        key, slash, rest = value.partition("/")
        if key in _PERSONS or names_person(value) or _KEY_AS_URI.fullmatch(value) is not None:
            raise Reject(Code.BAD_IDENTIFIER, path)
        count = _CHECKED_DIGITS.get(key)
        if not slash or count is None:
            return
        digits = rest[:count]
        if len(digits) < count:
            raise Reject(Code.BAD_IDENTIFIER, path)
    if not check_digit_valid(digits):
        raise Reject(Code.BAD_CHECK_DIGIT, path, digits)


@dataclass(frozen=True, slots=True)
class Epc:
    """Any identifier of the module's list."""

    def check(self, value: Value, path: str) -> None:
        check_epc(value, path)

    def describe(self) -> dict[str, Any]:
        return {"type": "string", "format": "epc", "minLength": 3, "maxLength": EPC_LENGTH_MAX}


@dataclass(frozen=True, slots=True)
class Reference(Text):
    """Text that names a place, a process or a document: a GS1 key in its one spelling or anything else, but nobody."""

    def check(self, value: Value, path: str) -> None:
        Text.check(self, value, path)
        assert isinstance(value, str)
        if names_person(value) or _KEY_AS_URI.fullmatch(value) is not None:
            raise Reject(Code.BAD_IDENTIFIER, path)


@dataclass(frozen=True, slots=True)
class Gtin:
    """A GTIN of 14 digits with its check digit."""

    def check(self, value: Value, path: str) -> None:
        if type(value) is not str or len(value) != 14 or not value.isascii() or not value.isdigit():
            raise FieldReject(path, "14 digits")
        if not check_digit_valid(value):
            raise Reject(Code.BAD_CHECK_DIGIT, path, value)

    def describe(self) -> dict[str, Any]:
        return {"type": "string", "format": "gtin", "pattern": "^[0-9]{14}$"}


@dataclass(frozen=True, slots=True)
class Text82:
    """A serial or lot number: 1 to 20 characters of GS1 character set 82; `low` 0 lets it be empty."""

    low: int = 1

    def check(self, value: Value, path: str) -> None:
        if type(value) is not str or not self.low <= len(value) <= SERIAL_LENGTH_MAX or not _TEXT_82.fullmatch(value):
            raise FieldReject(path, f"text of {self.low}..{SERIAL_LENGTH_MAX} characters of GS1 set 82")

    def describe(self) -> dict[str, Any]:
        return {
            "type": "string",
            "minLength": self.low,
            "maxLength": SERIAL_LENGTH_MAX,
            "pattern": rf"^{_CSET_82}*$",
        }


@dataclass(frozen=True, slots=True)
class Date:
    """A day as the integer YYYYMMDD; 0 says it is not stated."""

    def check(self, value: Value, path: str) -> None:
        if type(value) is not int or (value != 0 and not date_valid(value)):
            raise Reject(Code.BAD_DATE, path)

    def describe(self) -> dict[str, Any]:
        return {"type": "integer", "format": "yyyymmdd", "minimum": 0, "maximum": 99991231}
