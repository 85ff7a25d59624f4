"""GS1 identifiers: check digits, spelling, company prefixes, dates."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import Code, Reject
from ledger.gs1 import (
    DAY_MS,
    Date,
    Epc,
    Gtin,
    Reference,
    Text82,
    check_digit,
    check_digit_valid,
    date_valid,
    day_end_ms,
    days_from_civil,
    gtin_of,
    is_class,
    is_lot,
    is_pack,
    lot_class,
    lot_index_key,
    names_person,
    owns_gtin,
    owns_sscc,
    sgtin,
)

GTIN = "09521234001010"


def code_of(field: object, value: object) -> Code:
    with pytest.raises(Reject) as caught:
        field.check(value, "field")  # type: ignore[attr-defined]
    assert caught.value.detail[0] == "field"
    return caught.value.code  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("digits", "expected"),
    [("629104150021", 3), ("0952123400101", 0), ("39521234000000001", 4), ("952123400001", 3), ("1952123400101", 7)],
)
def test_check_digits_are_those_of_the_general_specifications(digits: str, expected: int) -> None:
    assert check_digit(digits) == expected
    assert check_digit_valid(digits + str(expected))


@given(st.text("0123456789", min_size=7, max_size=17), st.integers(1, 9), st.data())
def test_every_single_wrong_digit_is_found(digits: str, shift: int, data: st.DataObject) -> None:
    whole = digits + str(check_digit(digits))
    place = data.draw(st.integers(0, len(whole) - 1))
    wrong = whole[:place] + str((int(whole[place]) + shift) % 10) + whole[place + 1 :]
    assert check_digit_valid(whole)
    assert not check_digit_valid(wrong)


@pytest.mark.parametrize("text", ["", "0", "12345a", "٣٣", "1 2"])
def test_what_is_not_digits_has_no_valid_check_digit(text: str) -> None:
    assert not check_digit_valid(text)


@pytest.mark.parametrize(
    "epc",
    [
        f"01/{GTIN}",
        sgtin(GTIN, "SN00001"),
        sgtin(GTIN, "a/b%c\"d'e"),
        lot_class(GTIN, "LOT2026A"),
        f"01/{GTIN}/235/AB12",
        "00/395212340000000014",
        "414/9521234000013/254/ts4711",
        "8003/09521234000013987",
        "8004/400000112345",
        "402/40123459999876541",
        "8006/095212340010100102/21/999",
        "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "https://example.com/asset/7",
        "https://example.com/01/welcome",
        "http://example.com/batch/401/notes/page",
        "https://example.com/order/414/12345678",
        "urn:example:logger:7",
        "urn:epc:id:bic:CSQU3054383",
        "urn:epc:id:imovn:9176187",
        "urn:epc:id:gid:95100000.12345.400",
        "urn:epc:id:usdod:2S194.12345678901",
        "urn:epc:id:adi:W81X9C.3KL984PX1.2WMA52",
    ],
)
def test_identifiers_of_every_kind_are_accepted(epc: str) -> None:
    Epc().check(epc, "field")


@pytest.mark.parametrize(
    "epc",
    [
        "",
        7,
        None,
        "01/",
        "01/952123400101",
        f"01/{GTIN}/",
        f"01/{GTIN}/21/",
        f"01/{GTIN}/21/" + "x" * 21,
        f"01/{GTIN}/21/with space",
        f"01/{GTIN}/99/x",
        "00/39521234000000001",
        "00/395212340000000014/21/x",
        "no colon",
        "urn:with space",
        "urn:" + "x" * 125,
        "8003/1234",
        "01/٠٩٥٢١٢٣٤٠٠١٠١٠",
        sgtin(GTIN, "SN1") + "\n",
    ],
)
def test_other_spellings_are_no_identifier(epc: object) -> None:
    assert code_of(Epc(), epc) == Code.BAD_IDENTIFIER


@pytest.mark.parametrize(
    "epc",
    ["01/09521234001011/21/SN1", "00/395212340000000015", "414/9521234000014", "8003/09521234000014987"],
)
def test_a_wrong_check_digit_is_named_as_such(epc: str) -> None:
    assert code_of(Epc(), epc) == Code.BAD_CHECK_DIGIT


def test_identifiers_of_people_are_refused() -> None:
    for ai in ("8017", "8018"):
        digits = "95252084000000001"
        assert code_of(Epc(), f"{ai}/{digits}{check_digit(digits)}") == Code.BAD_IDENTIFIER


@pytest.mark.parametrize(
    "uri",
    [
        "urn:epc:id:gsrn:0614141.1234567890",
        "URN:EPC:id:gsrnp:0614141.1234567890",
        "urn:epc:id:sgtin:0614141.112345.400",
        "urn:epc:class:lgtin:4012345.012345.998877",
        "urn:epc:idpat:sgtin:4012345.*.*",
        "urn:epc:tag:sgtin-96:3.0614141.112345.400",
        "https://id.gs1.org/8018/061414112345678902",
        "https://id.gs1.org/gtin/09521234001010",
        "HTTP://ID.GS1.ORG:80/01/09521234001010",
        f"https://example.com/stem/01/{GTIN}/21/SN1",
        f"https://example.com/01/{GTIN}?17=280630",
        "https://example.com/00/395212340000000014",
        "https://example.com/8004/400000112345",
    ],
)
def test_a_key_written_as_a_uri_is_no_second_spelling(uri: str) -> None:
    assert code_of(Epc(), uri) == Code.BAD_IDENTIFIER


@pytest.mark.parametrize(
    "uri", ["mailto:jane.doe@example.org", "tel:+4930123456", "geo:31.23,121.47", "u:7", "data:,x", "http:8018"]
)
def test_only_urns_and_web_addresses_name_what_has_no_key(uri: str) -> None:
    assert code_of(Epc(), uri) == Code.BAD_IDENTIFIER


@pytest.mark.parametrize(
    "text",
    [
        "8018/952520840000000013",
        "https://id.gs1.org/8018/952520840000000013?linkType=x",
        "https://example.org/8018/952520840000000013#v",
        "https://example.org/8018/952520840000000013/visits",
        "https://example.org/8018%2F952520840000000013",
        "https://example.org/gsrnp/952520840000000013",
        "https://example.org/?8018=952520840000000013",
        "(8018)952520840000000013",
        "urn:epc:ID:gsrn:9525208.0000000001",
        "URN:EPC:tag:gsrnp-96:0.9525208.0000000001",
    ],
)
def test_a_persons_number_is_known_in_every_spelling(text: str) -> None:
    assert names_person(text)
    assert code_of(Reference(128), text) == Code.BAD_IDENTIFIER


@pytest.mark.parametrize(
    "text",
    [
        "8018/26",
        "01/09521234001010/21/8018/26",
        "https://example.org/order/18018/952520840000000013",
        "urn:epc:id:giai:9525208.gsrn",
    ],
)
def test_what_only_looks_like_a_persons_number_is_none(text: str) -> None:
    assert not names_person(text)


@pytest.mark.parametrize(
    "text",
    [
        "414/9521234000013/254/ts4711",
        "253/06141410000121618034",
        "urn:epcglobal:cbv:bt:9520011111116:A123",
        "http://transaction.acme.com/po/12345678",
        "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "geo:31.23,121.47",
        "cold room 4",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
)
def test_places_processes_and_documents_are_named_in_any_words(text: str) -> None:
    Reference(128).check(text, "field")


@pytest.mark.parametrize("text", ["urn:epc:id:sgln:4012345.00005.0", "https://id.gs1.org/414/9521234000013"])
def test_a_place_with_a_key_has_no_second_name(text: str) -> None:
    assert code_of(Reference(128), text) == Code.BAD_IDENTIFIER


def test_a_reference_is_a_short_text() -> None:
    Reference(128, 0).check("", "field")
    for wrong in ("", "x" * 129, "a\n", 7):
        assert code_of(Reference(128), wrong) == Code.BAD_FIELD


def test_gtin_field_wants_fourteen_digits_with_their_check_digit() -> None:
    Gtin().check(GTIN, "field")
    assert code_of(Gtin(), "09521234001011") == Code.BAD_CHECK_DIGIT
    assert code_of(Gtin(), "9521234001010") == Code.BAD_FIELD
    assert code_of(Gtin(), 9521234001010) == Code.BAD_FIELD


def test_serials_are_short_texts_of_set_82() -> None:
    Text82().check("A/b-_9", "field")
    Text82(low=0).check("", "field")
    for wrong in ("", "x" * 21, "a b", "ä", "a\n", 1):
        assert code_of(Text82(), wrong) == Code.BAD_FIELD


def test_kinds_are_told_apart_by_position() -> None:
    slashed = sgtin(GTIN, "x/10/y")
    assert is_pack(slashed)
    assert not is_lot(slashed)
    assert not is_class(slashed)
    assert is_lot(lot_class(GTIN, "L"))
    assert is_class(lot_class(GTIN, "L"))
    assert is_class(f"01/{GTIN}")
    assert not is_class(f"01/{GTIN}/235/x")
    assert gtin_of(slashed) == GTIN
    assert gtin_of("00/395212340000000014") == ""
    assert lot_index_key(lot_class(GTIN, "L/1")) == f"{GTIN}/L/1"


def test_a_prefix_owns_its_gtins_whatever_the_indicator_digit() -> None:
    assert owns_gtin(("9521234",), GTIN)
    assert owns_gtin(("1", "9521234"), "19521234001017")
    assert not owns_gtin(("9521235", "0952"), GTIN)
    assert not owns_gtin((), GTIN)
    assert owns_sscc(("9521234",), "395212340000000014")
    assert not owns_sscc(("3952",), "395212340000000014")


@given(st.dates(min_value=date(1900, 1, 1)))
def test_days_agree_with_the_calendar(day: date) -> None:
    assert days_from_civil(day.year, day.month, day.day) == (day - date(1970, 1, 1)).days
    assert date_valid(day.year * 10_000 + day.month * 100 + day.day)
    after = day + timedelta(days=1) if day < date.max else None
    if after is not None:
        assert day_end_ms(day.year * 10_000 + day.month * 100 + day.day) == (after - date(1970, 1, 1)).days * DAY_MS


@pytest.mark.parametrize("wrong", [20260230, 20261301, 20260100, 20260001, 18991231, 99, -20260101, 20250229, 21000229])
def test_days_that_do_not_exist_are_refused(wrong: int) -> None:
    assert code_of(Date(), wrong) == Code.BAD_DATE


def test_a_date_may_be_unstated() -> None:
    Date().check(0, "field")
    Date().check(20240229, "field")
    assert code_of(Date(), True) == Code.BAD_DATE
    assert code_of(Date(), "20260101") == Code.BAD_DATE
