"""GS1 identifiers: URN and Digital Link of one thing become one text, and nothing malformed passes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.gs1 import check_digit, check_epc
from node.gateway.gs1 import (
    Gs1Key,
    Gs1Refused,
    company_prefix,
    from_canonical,
    make_key,
    parse_uri,
    to_digital_link,
    to_urn,
)

# One thing a row: URN, Digital Link, the chain's text. Several are the examples of the Tag Data Standard.
SAME = [
    ("urn:epc:id:sgtin:0614141.112345.400", "01/10614141123459/21/400", "01/10614141123459/21/400"),
    ("urn:epc:id:sgtin:952123.4000101.SN%2F1", "01/49521230001012/21/SN%2F1", "01/49521230001012/21/SN/1"),
    ("urn:epc:id:sscc:0614141.1234567890", "00/106141412345678908", "00/106141412345678908"),
    ("urn:epc:id:sgln:0614141.12345.400", "414/0614141123452/254/400", "414/0614141123452/254/400"),
    ("urn:epc:id:sgln:0614141.12345.0", "414/0614141123452", "414/0614141123452"),
    ("urn:epc:id:grai:0614141.12345.400", "8003/00614141123452400", "8003/00614141123452400"),
    ("urn:epc:id:giai:0614141.12345400", "8004/061414112345400", "8004/061414112345400"),
    ("urn:epc:id:gsrn:0614141.1234567890", "8018/061414112345678902", "8018/061414112345678902"),
    ("urn:epc:id:gsrnp:0614141.1234567890", "8017/061414112345678902", "8017/061414112345678902"),
    ("urn:epc:id:gdti:0614141.12345.400", "253/0614141123452400", "253/0614141123452400"),
    (
        "urn:epc:id:cpi:0614141.123ABC.123456789",
        "8010/0614141123ABC/8011/123456789",
        "8010/0614141123ABC/8011/123456789",
    ),
    ("urn:epc:id:cpi:0614141.12%2FA.1", "8010/061414112%2FA/8011/1", "8010/061414112/A/8011/1"),
    ("urn:epc:id:sgcn:4012345.67890.04711", "255/401234567890104711", "255/401234567890104711"),
    ("urn:epc:id:ginc:0614141.xyz3311cba", "401/0614141xyz3311cba", "401/0614141xyz3311cba"),
    ("urn:epc:id:gsin:0614141.123456789", "402/06141411234567890", "402/06141411234567890"),
    ("urn:epc:id:itip:4012345.012345.01.02.987", "8006/040123451234560102/21/987", "8006/040123451234560102/21/987"),
    ("urn:epc:id:upui:1234567.089456.51qIgY", "01/01234567894560/235/51qIgY", "01/01234567894560/235/51qIgY"),
    ("urn:epc:id:pgln:1234567.89012", "417/1234567890128", "417/1234567890128"),
    ("urn:epc:class:lgtin:4012345.012345.998877", "01/04012345123456/10/998877", "01/04012345123456/10/998877"),
    ("urn:epc:idpat:sgtin:4012345.098765.*", "01/04012345987652", "01/04012345987652"),
    ("urn:epc:idpat:grai:4012345.66666.*", "8003/04012345666663", "8003/04012345666663"),
    ("urn:epc:idpat:gdti:4012345.55555.*", "253/4012345555554", "253/4012345555554"),
    ("urn:epc:idpat:itip:4012345.012345.01.02.*", "8006/040123451234560102", "8006/040123451234560102"),
    ("urn:epc:id:sgln:401234512345..0", "414/4012345123456", "414/4012345123456"),
]


@pytest.mark.parametrize(("urn", "link", "text"), SAME, ids=[row[0] for row in SAME])
def test_urn_and_link_of_one_thing_are_one_text(urn: str, link: str, text: str) -> None:
    from_urn, from_link = parse_uri(urn), parse_uri(f"https://id.gs1.org/{link}")
    assert from_urn is not None
    assert from_link is not None
    assert from_urn.canonical == from_link.canonical == text
    assert from_urn.company_prefix_length is not None
    assert to_urn(from_link, from_urn.company_prefix_length) == urn
    assert to_digital_link(from_urn) == f"https://id.gs1.org/{link}"
    again = from_canonical(text)
    assert again is not None
    assert again.canonical == text
    assert from_urn.is_class == (":class:" in urn or ":idpat:" in urn)
    if from_urn.ai not in ("8017", "8018"):
        check_epc(text, "/epc")


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("https://example.com/01/09521234001010/21/SN1", "01/09521234001010/21/SN1"),
        ("https://example.com/some/stem/01/09521234001010/21/SN1", "01/09521234001010/21/SN1"),
        ("http://example.com:8080/01/09521234001010", "01/09521234001010"),
        ("https://id.gs1.org/01/9521234001010/21/SN1", "01/09521234001010/21/SN1"),
        ("https://id.gs1.org/01/09521234001010/10/L1/21/SN1", "01/09521234001010/21/SN1"),
        ("https://id.gs1.org/01/09521234001010/22/V2/10/L1", "01/09521234001010/10/L1"),
        ("https://id.gs1.org/414/9521234000013/254/0", "414/9521234000013"),
        ("https://id.gs1.org/01/09521234001010/21/a%2fb%25%22", '01/09521234001010/21/a/b%"'),
        ("https://example.com/01/welcome", "https://example.com/01/welcome"),
        ("http://transaction.acme.com/po/12345678", "http://transaction.acme.com/po/12345678"),
        ("urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
        ("geo:31.23,121.47", "geo:31.23,121.47"),
        ("urn:epc:id:bic:CSQU3054383", "urn:epc:id:bic:CSQU3054383"),
        ("urn:epc:id:imovn:9176187", "urn:epc:id:imovn:9176187"),
        ("urn:epc:id:gid:95100000.12345.400", "urn:epc:id:gid:95100000.12345.400"),
        ("urn:epc:id:usdod:2S194.12345678901", "urn:epc:id:usdod:2S194.12345678901"),
        ("urn:epc:id:adi:W81X9C.3KL984PX1.2WMA52", "urn:epc:id:adi:W81X9C.3KL984PX1.2WMA52"),
        ("urn:epc:idpat:sgtin:4012345.*.*", "urn:epc:idpat:sgtin:4012345.*.*"),
    ],
)
def test_other_forms_become_one_text_or_stay_as_they_are(uri: str, text: str) -> None:
    key = parse_uri(uri)
    assert (uri if key is None else key.canonical) == text


@pytest.mark.parametrize(
    ("uri", "rule"),
    [
        ("https://id.gs1.org/01/09521234001011/21/SN1", "gs1-check-digit"),
        ("https://example.com/01/09521234001011/21/SN1", "gs1-check-digit"),
        ("https://id.gs1.org/00/395212340000000015", "gs1-check-digit"),
        ("https://id.gs1.org/414/9521234000014", "gs1-check-digit"),
        ("https://id.gs1.org/417/9521234000021", "gs1-check-digit"),
        ("https://id.gs1.org/8003/04012345666664", "gs1-check-digit"),
        ("https://id.gs1.org/01/0952123400101/21/SN1", "gs1-check-digit"),
        ("https://id.gs1.org/01/095212340010100/21/SN1", "gs1-syntax"),
        ("https://id.gs1.org/01/09521234001010/21/" + "A" * 21, "gs1-syntax"),
        ("https://id.gs1.org/01/09521234001010/21/a%20b", "gs1-syntax"),
        ("https://id.gs1.org/01/09521234001010/21/%C3%A9", "gs1-syntax"),
        ("https://id.gs1.org/01/09521234001010/254/1", "gs1-syntax"),
        ("https://id.gs1.org/01/09521234001010/21/1/21/2", "gs1-syntax"),
        ("https://id.gs1.org/01/09521234001010/21", "gs1-digital-link"),
        ("https://id.gs1.org/gtin/09521234001010", "gs1-digital-link"),
        ("https://id.gs1.org/01/09521234001010?17=280630", "gs1-digital-link"),
        ("https://id.gs1.org/", "gs1-digital-link"),
        ("urn:epc:id:sgtin:0614141.11234.400", "gs1-syntax"),
        ("urn:epc:id:sgtin:0614141.112345", "gs1-syntax"),
        ("urn:epc:id:sgtin:06141.11234567.400", "gs1-syntax"),
        ("urn:epc:id:sgtin:0614141.112345." + "9" * 21, "gs1-syntax"),
        ("urn:epc:id:sgtin:0614141.112345.a/b", "gs1-syntax"),
        ("urn:epc:id:sscc:0614141.123456789", "gs1-syntax"),
        ("urn:epc:id:nonsense:1.2", "gs1-syntax"),
        ("urn:epc:class:sgtin:0614141.112345.1", "gs1-syntax"),
        ("urn:epc:id:bic:CSQX3054383", "gs1-syntax"),
        ("urn:epc:id:imovn:91761870", "gs1-syntax"),
        ("urn:epc:tag:sgtin-96:3.0614141.112345.400", "gs1-syntax"),
        ("not a uri", "uri"),
        ("", "uri"),
        ("http://example.com/a b", "uri"),
        ("http://example.com/%zz", "uri"),
        ("x:" + "a" * 3000, "uri"),
    ],
)
def test_what_claims_to_be_a_key_and_is_not_is_refused(uri: str, rule: str) -> None:
    with pytest.raises(Gs1Refused) as caught:
        parse_uri(uri)
    assert caught.value.rule == rule


def test_company_prefix_is_the_urn_s_or_the_allocation_table_s() -> None:
    urn = parse_uri("urn:epc:id:gsin:4012345.999987654")
    link = parse_uri("https://id.gs1.org/01/17044610873463/21/1")
    assert urn is not None
    assert link is not None
    assert company_prefix(urn) == "4012345"
    assert company_prefix(link) == "704461"


SERIAL = st.text("!\"%&'()*+,-./0123456789:;<=>?ABCXYZ_abcxyz", min_size=1, max_size=20)


@given(st.text("0123456789", min_size=13, max_size=13), SERIAL, st.integers(6, 12), st.sampled_from(["21", "10"]))
def test_every_pack_and_lot_survives_all_spellings(digits: str, serial: str, length: int, ai: str) -> None:
    key = make_key("01", digits + str(check_digit(digits)), ((ai, serial),))
    assert from_canonical(key.canonical) == key
    assert parse_uri(to_digital_link(key)) == key
    urn = to_urn(key, length)
    assert urn is not None
    parsed = parse_uri(urn)
    assert parsed == Gs1Key(key.ai, key.value, key.qualifiers, length)
    check_epc(key.canonical, "/epc")


@given(
    st.text(max_size=60),
    st.sampled_from(["", "urn:epc:id:", "urn:epc:idpat:", "https://id.gs1.org/", "https://a.b/01/"]),
)
def test_no_text_raises_anything_else(text: str, start: str) -> None:
    with suppress(Gs1Refused):
        parse_uri(start + text)
