"""GS1 identifiers as strangers write them, and their one spelling on the chain.

Lives here: EPC URNs (urn:epc:id, urn:epc:class, urn:epc:idpat), GS1 Digital Link URIs of any domain, and their
conversion to and from the chain's text, which is the Digital Link path `<ai>/<value>[/<ai>/<value>]` with characters
decoded (see ledger/gs1.py): a URN and a link that name the same pack become the same text. A URN carries no check
digit, so it is computed; a link carries one, so it is verified. Only the constrained links of CBV 2.0 are read: no
query, no fragment, no short names.

Must not know: events, JSON, or state.
Sources: GS1 EPC Tag Data Standard 2.0 section 6 (URN schemes), GS1 Digital Link URI Syntax 1.4 section 4,
GS1 General Specifications 3 (application identifiers), CBV 2.0 section 8.2 (identifiers in events).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from biip.gs1 import GS1CompanyPrefix

from ledger.gs1 import check_digit, check_digit_valid

__all__ = [
    "Gs1Key",
    "Gs1Refused",
    "company_prefix",
    "from_canonical",
    "is_absolute_uri",
    "parse_digital_link",
    "parse_uri",
    "parse_urn",
    "to_digital_link",
    "to_urn",
]

URI_LENGTH_MAX = 2_048  # longer than any identifier; what proxies commonly take
DOMAIN = "https://id.gs1.org"  # GS1's own resolver: the canonical stem of a link


class Gs1Refused(ValueError):
    """A text claims to be a GS1 identifier and is not: the sender's fault. `reason` never echoes it."""

    def __init__(self, reason: str, rule: str = "gs1-syntax") -> None:
        super().__init__(reason)
        self.reason = reason
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Gs1Key:
    """A GS1 key: application identifier and value, then its qualifiers in the order of Digital Link.

    `company_prefix_length` is known only from a URN; a link does not show where the prefix ends.
    """

    ai: str
    value: str
    qualifiers: tuple[tuple[str, str], ...] = ()
    company_prefix_length: int | None = None

    @property
    def canonical(self) -> str:
        """The chain's text. With a serial, lot and variant are left out: GTIN and serial name the item alone."""
        qualifiers = self.qualifiers
        if self.ai in _ITEM_KEYS:
            kept = dict(qualifiers)
            ai = next((ai for ai in ("235", "21", "10") if ai in kept), None)
            qualifiers = ((ai, kept[ai]),) if ai else ()
        return "/".join((self.ai, self.value, *(part for pair in qualifiers for part in pair)))

    @property
    def is_class(self) -> bool:
        """Whether it names a kind of thing (product, lot, asset type), not one thing."""
        named = {ai for ai, _ in self.qualifiers}
        if self.ai in _ITEM_KEYS:
            return not named & {"21", "235"}
        if self.ai == "8010":
            return "8011" not in named
        return len(self.value) == _TYPE_LENGTH.get(self.ai)


# Character sets 82 and 39 (General Specifications 7.11): what a serial or lot, and a part number, may hold.
_82 = r"[!\"%&'()*+,\-./0-9:;<=>?A-Z_a-z]"
_39 = r"[#\-/0-9A-Z]"

# The keys: pattern of the whole value, and how many leading digits end in a check digit (0: none).
_KEYS: dict[str, tuple[re.Pattern[str], int]] = {
    ai: (re.compile(pattern, re.ASCII), checked)
    for ai, pattern, checked in (
        ("00", r"[0-9]{18}", 18),
        ("01", r"[0-9]{14}", 14),
        ("253", rf"[0-9]{{13}}{_82}{{0,17}}", 13),
        ("255", r"[0-9]{13}[0-9]{0,12}", 13),
        ("401", rf"{_82}{{1,30}}", 0),
        ("402", r"[0-9]{17}", 17),
        ("414", r"[0-9]{13}", 13),
        ("417", r"[0-9]{13}", 13),
        ("8003", rf"0[0-9]{{13}}{_82}{{0,16}}", 14),
        ("8004", rf"{_82}{{1,30}}", 0),
        ("8006", r"[0-9]{18}", 14),
        ("8010", rf"{_39}{{1,30}}", 0),
        ("8013", rf"{_82}{{1,25}}", 0),
        ("8017", r"[0-9]{18}", 18),
        ("8018", r"[0-9]{18}", 18),
    )
}
_QUALIFIERS: dict[str, re.Pattern[str]] = {
    "10": re.compile(rf"{_82}{{1,20}}"),
    "21": re.compile(rf"{_82}{{1,20}}"),
    "22": re.compile(rf"{_82}{{1,20}}"),
    "235": re.compile(rf"{_82}{{1,28}}"),
    "254": re.compile(rf"{_82}{{1,20}}"),
    "7040": re.compile(rf"[0-9]{_82}{{3}}"),
    "8011": re.compile(r"[0-9]{1,12}", re.ASCII),
    "8019": re.compile(r"[0-9]{1,10}", re.ASCII),
}
# Which qualifiers a key takes, in Digital Link's order.
_ORDER: dict[str, tuple[str, ...]] = {
    "01": ("22", "10", "21", "235"),
    "8006": ("22", "10", "21"),
    "414": ("254", "7040"),
    "417": ("7040",),
    "8010": ("8011",),
    "8017": ("8019",),
    "8018": ("8019",),
}
_ITEM_KEYS = frozenset({"01", "8006"})
_TYPE_LENGTH = {"253": 13, "255": 13, "8003": 14}  # the value without a serial: a type of document, coupon or asset

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+", re.ASCII)
_WEB = re.compile(r"(https?)://([A-Za-z0-9.\-]+(?::[0-9]{1,5})?)/([^?#]*)([?#].*)?", re.ASCII | re.IGNORECASE)
_GTIN_LENGTHS = (8, 12, 13, 14)  # Digital Link reads the shorter GTINs by filling zeros


def is_absolute_uri(text: str) -> bool:
    """RFC 3986: a scheme, a colon and something, in the characters of a URI."""
    return 0 < len(text) <= URI_LENGTH_MAX and _URI.fullmatch(text) is not None


def parse_uri(uri: str) -> Gs1Key | None:
    """The key a URI names: None for a URI that is no GS1 key, Gs1Refused for one that claims to be and is not."""
    if not is_absolute_uri(uri):
        raise Gs1Refused("not an absolute URI", "uri")
    if uri.lower().startswith("urn:epc:"):
        return parse_urn(uri)
    return parse_digital_link(uri)


def company_prefix(key: Gs1Key) -> str | None:
    """The company prefix: as the URN divides it, else looked up in GS1's allocation table; None when unknown."""
    start = 1 if key.ai in ("00", "01", "8003", "8006") and key.value[:1].isdigit() else 0
    digits = re.match(r"[0-9]*", key.value[start:], re.ASCII)
    text = digits.group() if digits else ""
    if key.company_prefix_length is not None:
        return text[: key.company_prefix_length]
    found = GS1CompanyPrefix.extract(text) if text else None
    return None if found is None else found.value


def make_key(ai: str, value: str, qualifiers: tuple[tuple[str, str], ...] = ()) -> Gs1Key:
    """A key from decoded parts, each checked against its application identifier; qualifiers in any order."""
    entry = _KEYS.get(ai)
    if entry is None:
        raise Gs1Refused("not the application identifier of a GS1 key")
    pattern, checked = entry
    if ai == "01" and len(value) in _GTIN_LENGTHS:
        value = value.zfill(14)
    if pattern.fullmatch(value) is None:
        raise Gs1Refused("value does not fit its application identifier")
    if checked and not check_digit_valid(value[:checked]):
        raise Gs1Refused("wrong check digit", "gs1-check-digit")
    order = _ORDER.get(ai, ())
    names = [name for name, _ in qualifiers]
    if len(set(names)) != len(names) or any(name not in order for name in names):
        raise Gs1Refused("qualifier that this key does not take")
    for name, text in qualifiers:
        if _QUALIFIERS[name].fullmatch(text) is None:
            raise Gs1Refused("qualifier does not fit its application identifier")
    if ai == "414":
        # Extension 0 says that there is none (Tag Data Standard 6.3.3).
        qualifiers = tuple(pair for pair in qualifiers if pair != ("254", "0"))
    return Gs1Key(ai, value, tuple(sorted(qualifiers, key=lambda pair: order.index(pair[0]))))


def from_canonical(text: str) -> Gs1Key | None:
    """The key of a chain's text; None for a URI. The last qualifier may hold slashes, as serials may."""
    ai, slash, rest = text.partition("/")
    if not slash or ai not in _KEYS:
        return None
    order = _ORDER.get(ai, ())
    for name in order:
        value, found, tail = rest.partition(f"/{name}/")
        if found and _KEYS[ai][0].fullmatch(value):
            return make_key(ai, value, ((name, tail),))
    return make_key(ai, rest)


# -- Digital Link ------------------------------------------------------------------------------------------------------


def parse_digital_link(uri: str) -> Gs1Key | None:
    """The key of a GS1 Digital Link URI of any domain; None for another URI.

    On GS1's own domain everything must be a link. Elsewhere a path that only looks a little like one is somebody's
    web address; one whose key has the right form is a link, and its check digit counts.
    """
    match = _WEB.fullmatch(uri)
    if match is None:
        return None
    own_domain = match.group(2).lower() == "id.gs1.org"
    segments = match.group(3).removesuffix("/").split("/")
    for start in range(len(segments) - 1):
        if segments[start] in _KEYS and (len(segments) - start) % 2 == 0 and (start == 0 or not own_domain):
            parts = [_decode(segment) for segment in segments[start:]]
            ai, value = parts[0], parts[1]
            shaped = _KEYS[ai][0].fullmatch(value) or (ai == "01" and value.isdigit())
            if not own_domain and not shaped:
                continue
            if match.group(4) is not None:
                raise Gs1Refused("a Digital Link in an event has no query or fragment", "gs1-digital-link")
            return make_key(ai, value, tuple(zip(parts[2::2], parts[3::2], strict=True)))
    if own_domain:
        raise Gs1Refused("not a GS1 Digital Link of the constrained form", "gs1-digital-link")
    return None


def _decode(segment: str) -> str:
    try:
        return unquote_to_bytes(segment).decode("ascii")
    except UnicodeDecodeError:
        raise Gs1Refused("character outside GS1 character set 82") from None


def to_digital_link(key: Gs1Key, domain: str = DOMAIN) -> str:
    """The link of a key, qualifiers in Digital Link's order, all but unreserved characters percent-encoded."""
    parts = (key.ai, key.value, *(part for pair in key.qualifiers for part in pair))
    return f"{domain}/" + "/".join(quote(part, safe="") for part in parts)


# -- EPC URNs ----------------------------------------------------------------------------------------------------------

_GS3A3 = r"(?:%[0-9A-Fa-f]{2}|[A-Za-z0-9!'()*+,\-.:;=_])+"


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How a URN scheme writes a key: digits of prefix and reference together, and what follows."""

    ai: str
    digits: int  # of company prefix and reference; 0 where the reference is text
    leads: bool = False  # whether the reference's first digit goes before the prefix (indicator, extension digit)
    serial: str | None = None  # pattern of the serial
    serial_ai: str | None = None  # the qualifier it becomes; None appends it to the value
    reference: str = r"[0-9]*"


_SCHEMES: dict[str, _Scheme] = {
    "sgtin": _Scheme("01", 13, True, _GS3A3, "21"),
    "sscc": _Scheme("00", 17, True),
    "sgln": _Scheme("414", 12, False, _GS3A3, "254"),
    "grai": _Scheme("8003", 12, False, _GS3A3),
    "giai": _Scheme("8004", 0, False, None, None, _GS3A3),
    "gsrn": _Scheme("8018", 17),
    "gsrnp": _Scheme("8017", 17),
    "gdti": _Scheme("253", 12, False, _GS3A3),
    "cpi": _Scheme("8010", 0, False, r"[0-9]{1,12}", "8011", r"(?:[0-9A-Z\-]|%2F|%23)+"),
    "sgcn": _Scheme("255", 12, False, r"[0-9]{1,12}"),
    "ginc": _Scheme("401", 0, False, None, None, _GS3A3),
    "gsin": _Scheme("402", 16),
    "itip": _Scheme("8006", 13, True, rf"[0-9]{{2}}\.[0-9]{{2}}\.{_GS3A3}", "21"),
    "upui": _Scheme("01", 13, True, _GS3A3, "235"),
    "pgln": _Scheme("417", 12),
}
# Schemes that are no GS1 keys: checked for form, kept as they are.
_OTHER_SCHEMES: dict[str, re.Pattern[str]] = {
    "gid": re.compile(r"[0-9]+\.[0-9]+\.[0-9]+", re.ASCII),
    "usdod": re.compile(r"[A-HJ-NP-Z0-9]{5,6}\.[0-9]+", re.ASCII),
    "adi": re.compile(rf"[A-HJ-NP-Z0-9]{{5,6}}\.(?:{_GS3A3})?\.(?:{_GS3A3}|%23{_GS3A3})", re.ASCII),
    "bic": re.compile(r"[A-Z]{3}[JUZ][0-9]{7}", re.ASCII),
    "imovn": re.compile(r"[0-9]{7}", re.ASCII),
}
_PATTERN_BODY = re.compile(r"(?:[^*]+|\*)(?:\.(?:[^*.]+|\*))*")


def parse_urn(urn: str) -> Gs1Key | None:
    """The key of an EPC URN; None for schemes and patterns that name no GS1 key; Gs1Refused for malformed ones."""
    parts = urn.split(":", 4)
    if len(parts) != 5 or parts[0].lower() != "urn" or parts[1].lower() != "epc":
        raise Gs1Refused("not an EPC URN of a known kind")
    kind, name, body = parts[2], parts[3], parts[4]
    if kind == "id":
        if name in _OTHER_SCHEMES:
            if _OTHER_SCHEMES[name].fullmatch(body) is None:
                raise Gs1Refused("EPC URN does not fit its scheme")
            return None
        return _key_of_urn(_scheme(name), body)
    if kind == "class" and name == "lgtin":
        return _key_of_urn(_Scheme("01", 13, True, _GS3A3, "10"), body)
    if kind == "idpat":
        return _key_of_pattern(name, body)
    raise Gs1Refused("not an EPC URN of a known kind")


def _scheme(name: str) -> _Scheme:
    scheme = _SCHEMES.get(name)
    if scheme is None:
        raise Gs1Refused("unknown EPC scheme")
    return scheme


def _key_of_pattern(name: str, body: str) -> Gs1Key | None:
    """A pattern whose serial alone is open names the class; other patterns name nothing the chain knows."""
    scheme = _scheme(name) if name not in _OTHER_SCHEMES else None
    if _PATTERN_BODY.fullmatch(body) is None:
        raise Gs1Refused("EPC pattern does not fit its scheme")
    if scheme is None or scheme.serial is None or "*" not in body:
        return None if scheme is None else _key_of_urn(scheme, body)
    head = body.removesuffix(".*")
    if head == body or "*" in head:
        return None
    pieces = head.split(".")
    if scheme.ai == "8006" and len(pieces) == 4:
        return _build(scheme, pieces[0], pieces[1], pieces[2] + pieces[3], "")
    if len(pieces) != 2:
        raise Gs1Refused("EPC pattern does not fit its scheme")
    return _build(scheme, pieces[0], pieces[1], "", "")


def _key_of_urn(scheme: _Scheme, body: str) -> Gs1Key:
    prefix, _, rest = body.partition(".")
    if scheme.serial is None:
        return _build(scheme, prefix, rest, "", "")
    reference, dot, serial = rest.partition(".")
    if not dot or re.fullmatch(scheme.serial, serial, re.ASCII) is None:
        raise Gs1Refused("EPC URN does not fit its scheme")
    if scheme.ai == "8006":
        return _build(scheme, prefix, reference, serial[:2] + serial[3:5], serial[6:])
    return _build(scheme, prefix, reference, "", serial)


def _build(scheme: _Scheme, prefix: str, reference: str, pieces: str, serial: str) -> Gs1Key:
    """Puts the key together: indicator digit to the front, check digit computed, escapes decoded."""
    if re.fullmatch(r"[0-9]{6,12}", prefix, re.ASCII) is None or not re.fullmatch(
        scheme.reference, reference, re.ASCII
    ):
        raise Gs1Refused("EPC URN does not fit its scheme")
    if scheme.digits:
        if len(prefix) + len(reference) != scheme.digits or (scheme.leads and not reference):
            raise Gs1Refused("company prefix and reference have the wrong number of digits")
        digits = reference[:1] + prefix + reference[1:] if scheme.leads else prefix + reference
        digits = "0" + digits if scheme.ai == "8003" else digits
        value = digits + str(check_digit(digits)) + pieces
    else:
        value = prefix + _decode(reference)
    text = _decode(serial)
    if scheme.serial_ai is None:
        key = make_key(scheme.ai, value + text)
    else:
        key = make_key(scheme.ai, value, ((scheme.serial_ai, text),) if text else ())
    return Gs1Key(key.ai, key.value, key.qualifiers, len(prefix))


_URN_SAFE = "!'()*+,-.:;=_"  # of character set 82, what a URN leaves as it is


def to_urn(key: Gs1Key, company_prefix_length: int) -> str | None:
    """The EPC URN of a key, split after `company_prefix_length` digits; None where TDS defines none for it."""
    if not 6 <= company_prefix_length <= 12:
        raise ValueError("a company prefix has 6 to 12 digits")
    named = dict(key.qualifiers)
    lgtin = key.ai == "01" and "10" in named and "21" not in named
    for name, scheme in _SCHEMES.items():
        if scheme.ai != key.ai or (key.ai == "01" and name != ("upui" if "235" in named else "sgtin")):
            continue
        body, tail = _urn_parts(scheme, key.value, company_prefix_length)
        if scheme.serial is None:
            return f"urn:epc:id:{name}:{body}"
        serial = named.get(scheme.serial_ai) if scheme.serial_ai else tail
        if scheme.ai == "414":
            serial = serial or "0"
        if lgtin:
            return f"urn:epc:class:lgtin:{body}.{quote(named['10'], safe=_URN_SAFE)}"
        pieces = f".{tail[:2]}.{tail[2:]}" if scheme.ai == "8006" else ""
        if serial:
            return f"urn:epc:id:{name}:{body}{pieces}.{quote(serial, safe=_URN_SAFE)}"
        return f"urn:epc:idpat:{name}:{body}{pieces}.*"
    return None


def _urn_parts(scheme: _Scheme, value: str, length: int) -> tuple[str, str]:
    """`prefix.reference` and what follows the check digit."""
    if not scheme.digits:
        return f"{value[:length]}.{quote(value[length:], safe=_URN_SAFE)}", ""
    value = value[1:] if scheme.ai == "8003" else value
    digits, tail = value[: scheme.digits], value[scheme.digits + 1 :]
    if scheme.leads:
        return f"{digits[1 : length + 1]}.{digits[0]}{digits[length + 1 :]}", tail
    return f"{digits[:length]}.{digits[length:]}", tail
