"""Rules of `payments`: money is conserved, nothing goes negative, nothing is paid twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.block import Receipt
from ledger.crypto import KeyPair, hash_bytes
from ledger.errors import Code, ConfigError
from ledger.fields import Operation
from ledger.modules import members, payments
from ledger.modules.parties import join_statement
from ledger.modules.payments import (
    AMOUNT_MAX,
    Claim,
    ClaimCancel,
    ClaimState,
    Confirm,
    CreateCurrency,
    EscrowOpen,
    EscrowRefund,
    EscrowRelease,
    EscrowState,
    Issue,
    Policy,
    PolicyEnd,
    Redeem,
    Transfer,
    split,
)
from tests.ledger.chain import Chain, institution, key_pair

BANK, CLINIC, OTHER_CLINIC = key_pair("bank"), key_pair("clinic"), key_pair("other clinic")
INSURER, REGULATOR = key_pair("insurer"), key_pair("regulator")
PATIENT, STRANGER = key_pair("patient"), key_pair("stranger")
POLICY, CLAIM, TREATMENT, UNKNOWN = (hash_bytes(text) for text in (b"policy", b"claim", b"treatment", b"unknown"))
START_MS, LATER_MS = 1_000_000, 2_000_000

INSTITUTIONS = [
    institution("bank", "insurer"),
    institution("clinic", "hospital"),
    institution("other clinic", "hospital"),
    institution("insurer", "insurer"),
    institution("regulator", "regulator"),
]
MONEY: dict[str, Any] = {
    "currencies": [{"code": "CNY", "issuer": "bank", "exponent": 2}],
    "balances": [
        {"currency": "CNY", "owner": "insurer", "amount": 1_000},
        {"currency": "CNY", "owner": PATIENT.public.hex(), "amount": 100},
    ],
}
COVER = Policy(POLICY, PATIENT.public, "CNY", 8_000, None, 500, 1_000, START_MS, LATER_MS)
CLAIMED = Claim(CLAIM, POLICY, 101, TREATMENT)
CONFIRMED = Confirm(CLAIM, POLICY, "clinic", 101, TREATMENT)


def new_chain(money: dict[str, Any] = MONEY) -> Chain:
    genesis = {"members": {"institutions": INSTITUTIONS}, "payments": money}
    return Chain([payments.MODULE], genesis, time_ms=START_MS)


@pytest.fixture
def chain() -> Chain:
    return new_chain()


@pytest.fixture
def covered(chain: Chain) -> Chain:
    assert chain.send(INSURER, COVER).ok
    return chain


def balance(chain: Chain, account: str | KeyPair, currency: str = "CNY") -> int:
    name = account.public.hex() if isinstance(account, KeyPair) else account
    return chain.read("payments", "balance", currency, name) or 0


def check_books(chain: Chain) -> None:
    """Supply equals balances and open escrows, per currency, and nothing is negative."""
    held: dict[str, int] = {}
    for (currency, _account), amount in chain.table("payments", "balance").items():
        assert amount > 0
        held[str(currency)] = held.get(str(currency), 0) + amount
    for currency, _, _, _, amount, _, state in chain.table("payments", "escrow").values():
        assert amount > 0
        held[currency] = held.get(currency, 0) + (amount if state == EscrowState.HELD else 0)
    for (currency,), supply in chain.table("payments", "supply").items():
        assert held.get(str(currency), 0) == supply <= AMOUNT_MAX


def codes(receipts: tuple[Receipt, ...]) -> list[int]:
    return [receipt.code for receipt in receipts]


def test_genesis_gives_first_money(chain: Chain) -> None:
    assert (balance(chain, "insurer"), balance(chain, PATIENT)) == (1_000, 100)
    assert chain.read("payments", "supply", "CNY") == 1_100
    check_books(chain)


@pytest.mark.parametrize(
    "money",
    [
        {"currencies": [{"code": "cny", "issuer": "bank"}]},
        {"currencies": [{"code": "CNY", "issuer": "nobody"}]},
        {"currencies": [{"code": "CNY", "issuer": "bank"}] * 2},
        {"currencies": [{"issuer": "bank"}]},
        {"balances": [{"currency": "CNY", "owner": "bank", "amount": 1}]},
        {**MONEY, "balances": [{"currency": "CNY", "owner": "nobody", "amount": 1}]},
        {**MONEY, "balances": [{"currency": "CNY", "owner": "bank", "amount": -1}]},
        {**MONEY, "balances": [{"currency": "CNY", "owner": "bank", "amount": True}]},
        {**MONEY, "balances": [{"currency": "CNY", "owner": "bank", "amount": AMOUNT_MAX}] * 2},
    ],
)
def test_genesis_with_impossible_money_is_a_configuration_error(money: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="payments"):
        new_chain(money)


def test_genesis_knows_two_spellings_of_an_institution() -> None:
    chain = new_chain({**MONEY, "balances": [{"currency": "CNY", "owner": "institution:bank", "amount": 5}]})
    assert balance(chain, "bank") == 5


def test_a_regulator_authorises_a_currency_once(chain: Chain) -> None:
    create = CreateCurrency("HOSP1", "clinic", 0)
    receipts = chain.block(
        (CLINIC, create), (REGULATOR, create), (REGULATOR, create), (CLINIC, Issue("HOSP1", "bank", 7))
    )
    assert codes(receipts) == [Code.ROLE_REQUIRED, Code.OK, Code.CURRENCY_EXISTS, Code.OK]
    assert balance(chain, "bank", "HOSP1") == 7
    check_books(chain)


def test_only_the_issuer_issues_and_redeems(chain: Chain) -> None:
    receipts = chain.block(
        (INSURER, Issue("CNY", "insurer", 5)),
        (PATIENT, Issue("CNY", "insurer", 5)),
        (INSURER, Redeem("CNY", 5)),
        (BANK, Issue("CNY", "bank", 50)),
        (BANK, Redeem("CNY", 20)),
        (BANK, Redeem("CNY", 31)),
        (BANK, Issue("EUR", "bank", 1)),
    )
    assert codes(receipts) == [
        Code.NOT_THE_ISSUER,
        Code.NOT_A_MEMBER,
        Code.NOT_THE_ISSUER,
        Code.OK,
        Code.OK,
        Code.INSUFFICIENT_FUNDS,
        Code.UNKNOWN_CURRENCY,
    ]
    assert chain.read("payments", "supply", "CNY") == 1_130
    check_books(chain)


def test_a_supply_stays_within_what_every_reader_counts_exactly(chain: Chain) -> None:
    receipts = chain.block((BANK, Issue("CNY", "bank", AMOUNT_MAX - 1_100)), (BANK, Issue("CNY", "bank", 1)))
    assert codes(receipts) == [Code.OK, Code.AMOUNT_OUT_OF_RANGE]
    check_books(chain)


def test_a_transfer_moves_money_and_is_indexed_for_both(chain: Chain) -> None:
    receipt = chain.send(PATIENT, Transfer("CNY", "clinic", 30, "invoice 9"))
    assert receipt.ok
    assert (balance(chain, PATIENT), balance(chain, "clinic")) == (70, 30)
    assert chain.found("account", "clinic") == chain.found("account", PATIENT.public.hex()) == [receipt.tx_id]


def test_a_members_key_spends_its_institutions_money(chain: Chain) -> None:
    clerk = key_pair("clerk")
    agreed = clerk.sign(join_statement(chain.genesis.chain_id, "insurer"))
    chain.send(INSURER, members.AddKeys((clerk.public,), (agreed,)))
    assert chain.send(clerk, Transfer("CNY", STRANGER.public.hex(), 400, "")).ok
    assert (balance(chain, "insurer"), balance(chain, clerk), balance(chain, STRANGER)) == (600, 0, 400)


def test_a_suspended_institution_cannot_spend(chain: Chain) -> None:
    suspend = members.ProposeInstitution("insurer", "insurer", ("insurer",), INSURER.public, (), (), False, b"")
    proposal = chain.send(chain.validators[0], suspend).tx_id
    chain.block(*((validator, members.Vote(proposal, True)) for validator in chain.validators[1:3]))
    receipt = chain.send(INSURER, Transfer("CNY", "clinic", 1, ""))
    assert (receipt.code, receipt.detail) == (Code.MEMBER_SUSPENDED, ("insurer",))


def test_a_transfer_to_oneself_changes_nothing(chain: Chain) -> None:
    receipt = chain.send(INSURER, Transfer("CNY", "insurer", 1_000, ""))
    assert receipt.ok
    assert balance(chain, "insurer") == 1_000
    assert chain.found("account", "insurer") == [receipt.tx_id]
    check_books(chain)


def test_nothing_goes_negative(chain: Chain) -> None:
    receipts = chain.block(
        (PATIENT, Transfer("CNY", "clinic", 101, "")),
        (PATIENT, EscrowOpen("CNY", "clinic", None, 101, LATER_MS)),
        (STRANGER, Transfer("CNY", "clinic", 1, "")),
    )
    assert set(codes(receipts)) == {Code.INSUFFICIENT_FUNDS}
    assert receipts[0].detail == (PATIENT.public.hex(), "CNY", 100, 101)
    check_books(chain)


def test_an_unknown_currency_is_named_as_such(chain: Chain) -> None:
    receipts = chain.block(
        (PATIENT, Transfer("EUR", "clinic", 1, "")), (PATIENT, EscrowOpen("EUR", "clinic", None, 1, LATER_MS))
    )
    assert {(receipt.code, receipt.detail) for receipt in receipts} == {(Code.UNKNOWN_CURRENCY, ("EUR",))}


def test_the_same_money_is_spent_once_within_a_block(chain: Chain) -> None:
    receipts = chain.block(*((PATIENT, Transfer("CNY", to, 100, "")) for to in ("clinic", "insurer")))
    assert codes(receipts) == [Code.OK, Code.INSUFFICIENT_FUNDS]
    check_books(chain)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount", 0),
        ("amount", -5),
        ("amount", AMOUNT_MAX + 1),
        ("amount", True),
        ("amount", "5"),
        ("currency", "cny"),
        ("to", "01" + "Z" * 64),
        ("reference", "line\nbreak"),
        ("reference", "x" * 65),
    ],
)
def test_a_transfer_with_an_impossible_field_names_it(chain: Chain, field: str, value: Any) -> None:
    receipt = chain.send(INSURER, replace(Transfer("CNY", "clinic", 5, ""), **{field: value}))
    assert (receipt.code, receipt.detail[0]) == (Code.BAD_FIELD, field)


def test_money_cannot_be_sent_where_nobody_could_spend_it(chain: Chain) -> None:
    assert chain.send(INSURER, Transfer("CNY", "nobody", 5, "")).code == Code.UNKNOWN_MEMBER
    small_order = b"\x01" + b"\x01" + bytes(31)
    assert chain.send(INSURER, Transfer("CNY", small_order.hex(), 5, "")).code == Code.BAD_FIELD


def open_escrow(chain: Chain, arbiter: str | None = "regulator") -> bytes:
    receipt = chain.send(PATIENT, EscrowOpen("CNY", "clinic", arbiter, 60, LATER_MS))
    assert receipt.ok
    assert balance(chain, PATIENT) == 40
    return receipt.tx_id


@pytest.mark.parametrize("sender", [PATIENT, REGULATOR])
def test_an_escrow_is_released_by_payer_or_arbiter(chain: Chain, sender: KeyPair) -> None:
    escrow = open_escrow(chain)
    assert chain.send(sender, EscrowRelease(escrow)).ok
    assert (balance(chain, "clinic"), balance(chain, PATIENT)) == (60, 40)
    check_books(chain)


@pytest.mark.parametrize("sender", [CLINIC, REGULATOR])
def test_an_escrow_is_refunded_by_beneficiary_or_arbiter(chain: Chain, sender: KeyPair) -> None:
    escrow = open_escrow(chain)
    assert chain.send(sender, EscrowRefund(escrow)).ok
    assert balance(chain, PATIENT) == 100
    check_books(chain)


def test_the_payer_takes_an_escrow_back_only_after_expiry(chain: Chain) -> None:
    escrow = open_escrow(chain)
    chain.time_ms = LATER_MS - 1
    assert chain.send(PATIENT, EscrowRefund(escrow)).code == Code.ESCROW_NOT_EXPIRED
    chain.time_ms = LATER_MS
    assert chain.send(PATIENT, EscrowRefund(escrow)).ok
    assert balance(chain, PATIENT) == 100


def test_an_escrow_is_closed_once_and_by_its_parties_only(chain: Chain) -> None:
    escrow = open_escrow(chain)
    receipts = chain.block(
        (STRANGER, EscrowRelease(escrow)),
        (CLINIC, EscrowRelease(escrow)),
        (STRANGER, EscrowRefund(escrow)),
        (PATIENT, EscrowRelease(UNKNOWN)),
        (PATIENT, EscrowRelease(escrow)),
        (PATIENT, EscrowRelease(escrow)),
        (CLINIC, EscrowRefund(escrow)),
    )
    party, closed = Code.NOT_A_PARTY, Code.ESCROW_CLOSED
    assert codes(receipts) == [party, party, party, Code.UNKNOWN_ESCROW, Code.OK, closed, closed]
    assert (balance(chain, "clinic"), balance(chain, PATIENT)) == (60, 40)
    check_books(chain)


def test_an_escrow_without_arbiter_has_none(chain: Chain) -> None:
    escrow = open_escrow(chain, None)
    assert chain.send(REGULATOR, EscrowRelease(escrow)).code == Code.NOT_A_PARTY


def test_an_escrow_must_expire_later(chain: Chain) -> None:
    receipt = chain.send(PATIENT, EscrowOpen("CNY", "clinic", None, 1, START_MS))
    assert (receipt.code, receipt.detail[0]) == (Code.BAD_FIELD, "expires_ms")


def check_settled(chain: Chain) -> None:
    """101 at 80 %: floor(80.8) from the insurer, the rest from the patient."""
    assert (balance(chain, "clinic"), balance(chain, "insurer"), balance(chain, PATIENT)) == (101, 920, 79)
    assert chain.read("payments", "claim", CLAIM)[4:] == (ClaimState.SETTLED, 80, 21)
    assert chain.read("payments", "policy", POLICY)[9] == 80
    check_books(chain)


def test_a_claim_pays_by_itself_once_both_have_confirmed(covered: Chain) -> None:
    claim = covered.send(CLINIC, CLAIMED)
    assert claim.ok
    assert balance(covered, "clinic") == 0
    confirm = covered.send(PATIENT, CONFIRMED)
    assert confirm.ok
    check_settled(covered)
    assert covered.found("claim", CLAIM) == [claim.tx_id, confirm.tx_id]
    assert covered.found("policy", POLICY)[1:] == [claim.tx_id, confirm.tx_id]
    assert covered.found("account", "clinic") == [claim.tx_id, confirm.tx_id]


def test_the_patient_may_confirm_before_the_hospital_claims(covered: Chain) -> None:
    assert covered.send(PATIENT, CONFIRMED).ok
    assert balance(covered, PATIENT) == 100
    assert covered.send(CLINIC, CLAIMED).ok
    check_settled(covered)


def test_both_confirmations_may_come_in_one_block(covered: Chain) -> None:
    assert codes(covered.block((CLINIC, CLAIMED), (PATIENT, CONFIRMED))) == [0, 0]
    check_settled(covered)


@pytest.mark.parametrize("first", ["claim", "confirm"])
def test_nothing_is_paid_twice(covered: Chain, first: str) -> None:
    calls: list[tuple[KeyPair, Operation]] = [(CLINIC, CLAIMED), (PATIENT, CONFIRMED)]
    covered.block(*(calls if first == "claim" else reversed(calls)))
    for _ in range(2):
        again = covered.block(*calls, *calls)
        assert codes(again) == [Code.CLAIM_EXISTS, Code.CLAIM_CLOSED] * 2
        check_settled(covered)


def test_a_settling_transaction_that_is_replayed_pays_once(covered: Chain) -> None:
    covered.send(CLINIC, CLAIMED)
    confirm = covered.transaction(PATIENT, CONFIRMED)
    assert codes(covered.execute([confirm, confirm]).receipts) == [Code.OK, Code.REPLAYED]
    assert codes(covered.execute([confirm]).receipts) == [Code.REPLAYED]
    check_settled(covered)


@pytest.mark.parametrize(
    "other",
    [
        replace(CONFIRMED, amount=100),
        replace(CONFIRMED, treatment=UNKNOWN),
        replace(CONFIRMED, provider="other clinic"),
    ],
)
def test_the_patient_must_confirm_what_was_claimed(covered: Chain, other: Confirm) -> None:
    covered.send(CLINIC, CLAIMED)
    assert covered.send(PATIENT, other).code == Code.CLAIM_DIFFERS
    assert balance(covered, "clinic") == 0


@pytest.mark.parametrize("sender", [CLINIC, OTHER_CLINIC, INSURER, STRANGER])
def test_only_the_policys_patient_confirms(covered: Chain, sender: KeyPair) -> None:
    covered.send(CLINIC, CLAIMED)
    assert covered.send(sender, CONFIRMED).code == Code.NOT_A_PARTY


def test_no_other_hospital_can_take_an_early_confirmation(covered: Chain) -> None:
    covered.send(PATIENT, CONFIRMED)
    assert covered.send(OTHER_CLINIC, CLAIMED).ok
    assert (balance(covered, "other clinic"), balance(covered, PATIENT)) == (0, 100)


def test_an_early_confirmation_names_a_hospital_and_comes_once(covered: Chain) -> None:
    receipts = covered.block(
        (PATIENT, replace(CONFIRMED, provider="insurer")),
        (PATIENT, replace(CONFIRMED, provider="nobody")),
        (PATIENT, CONFIRMED),
        (PATIENT, CONFIRMED),
    )
    assert codes(receipts) == [Code.ROLE_REQUIRED, Code.UNKNOWN_MEMBER, Code.OK, Code.ALREADY_CONFIRMED]


def test_an_early_confirmation_of_other_words_settles_nothing_and_can_be_corrected(covered: Chain) -> None:
    covered.send(PATIENT, replace(CONFIRMED, amount=50))
    assert covered.send(CLINIC, CLAIMED).ok
    assert balance(covered, "clinic") == 0
    assert covered.send(PATIENT, CONFIRMED).ok
    check_settled(covered)


@pytest.mark.parametrize(("spender", "amount"), [(PATIENT, 80), (INSURER, 921)])
def test_a_claim_that_cannot_be_paid_moves_nothing_and_may_be_retried(
    covered: Chain, spender: KeyPair, amount: int
) -> None:
    covered.send(CLINIC, CLAIMED)
    covered.send(spender, Transfer("CNY", "other clinic", amount, ""))
    assert covered.send(PATIENT, CONFIRMED).code == Code.INSUFFICIENT_FUNDS
    assert balance(covered, "clinic") == 0
    assert covered.read("payments", "policy", POLICY)[9] == 0
    back = "insurer" if spender is INSURER else PATIENT.public.hex()
    covered.send(OTHER_CLINIC, Transfer("CNY", back, amount, ""))
    assert covered.send(PATIENT, CONFIRMED).ok
    check_settled(covered)


@pytest.mark.parametrize("time_ms", [START_MS + 99, LATER_MS])
def test_a_policy_pays_only_within_its_time(chain: Chain, time_ms: int) -> None:
    chain.send(INSURER, replace(COVER, valid_from_ms=START_MS + 100))
    chain.time_ms = time_ms
    assert codes(chain.block((CLINIC, CLAIMED), (PATIENT, CONFIRMED))) == [Code.POLICY_INACTIVE] * 2


def test_a_policy_that_expires_between_the_confirmations_pays_nothing(covered: Chain) -> None:
    covered.send(CLINIC, CLAIMED)
    covered.time_ms = LATER_MS
    assert covered.send(PATIENT, CONFIRMED).code == Code.POLICY_INACTIVE


def test_an_ended_policy_pays_nothing(covered: Chain) -> None:
    covered.send(CLINIC, CLAIMED)
    receipts = covered.block(
        (BANK, PolicyEnd(POLICY)),
        (INSURER, PolicyEnd(UNKNOWN)),
        (INSURER, PolicyEnd(POLICY)),
        (INSURER, PolicyEnd(POLICY)),
        (PATIENT, CONFIRMED),
    )
    assert codes(receipts) == [
        Code.NOT_A_PARTY,
        Code.UNKNOWN_POLICY,
        Code.OK,
        Code.POLICY_INACTIVE,
        Code.POLICY_INACTIVE,
    ]


def test_a_claim_above_the_policys_limit_is_refused(covered: Chain) -> None:
    receipt = covered.send(CLINIC, replace(CLAIMED, amount=501))
    assert (receipt.code, receipt.detail) == (Code.LIMIT_EXCEEDED, ("claim_max", 501, 500))


def test_all_claims_together_stay_below_the_policys_total(chain: Chain) -> None:
    chain.send(INSURER, replace(COVER, total_max=100))
    chain.block((CLINIC, CLAIMED), (PATIENT, CONFIRMED))
    second = hash_bytes(b"second")
    chain.send(CLINIC, replace(CLAIMED, claim=second, amount=26))
    receipt = chain.send(PATIENT, replace(CONFIRMED, claim=second, amount=26))
    assert receipt.ok is True
    third = hash_bytes(b"third")
    receipts = chain.block(
        (CLINIC, replace(CLAIMED, claim=third, amount=5)), (PATIENT, replace(CONFIRMED, claim=third, amount=5))
    )
    assert (receipts[1].code, receipts[1].detail) == (Code.LIMIT_EXCEEDED, ("total_max", 104, 100))
    check_books(chain)


def test_policies_are_made_by_insurers_once(covered: Chain) -> None:
    receipts = covered.block(
        (CLINIC, replace(COVER, policy=UNKNOWN)),
        (BANK, COVER),
        (INSURER, replace(COVER, policy=UNKNOWN, currency="EUR")),
        (INSURER, replace(COVER, policy=UNKNOWN, valid_until_ms=START_MS)),
        (INSURER, replace(COVER, policy=UNKNOWN, share=10_001)),
    )
    refused = [Code.ROLE_REQUIRED, Code.POLICY_EXISTS, Code.UNKNOWN_CURRENCY, Code.BAD_FIELD, Code.BAD_FIELD]
    assert codes(receipts) == refused


def test_a_claim_is_made_by_a_hospital_under_a_known_policy(covered: Chain) -> None:
    receipts = covered.block(
        (INSURER, CLAIMED), (PATIENT, CLAIMED), (CLINIC, replace(CLAIMED, policy=UNKNOWN)), (CLINIC, ClaimCancel(CLAIM))
    )
    assert codes(receipts) == [Code.ROLE_REQUIRED, Code.NOT_A_MEMBER, Code.UNKNOWN_POLICY, Code.UNKNOWN_CLAIM]


def test_a_cancelled_claim_is_over(covered: Chain) -> None:
    receipts = covered.block(
        (CLINIC, CLAIMED),
        (OTHER_CLINIC, ClaimCancel(CLAIM)),
        (CLINIC, ClaimCancel(CLAIM)),
        (PATIENT, CONFIRMED),
        (CLINIC, ClaimCancel(CLAIM)),
        (CLINIC, CLAIMED),
    )
    closed = Code.CLAIM_CLOSED
    assert codes(receipts) == [Code.OK, Code.NOT_A_PARTY, Code.OK, closed, closed, Code.CLAIM_EXISTS]
    assert balance(covered, "clinic") == 0


def test_a_settled_claim_cannot_be_cancelled(covered: Chain) -> None:
    covered.block((CLINIC, CLAIMED), (PATIENT, CONFIRMED))
    assert covered.send(CLINIC, ClaimCancel(CLAIM)).code == Code.CLAIM_CLOSED


@pytest.mark.parametrize(
    ("amount", "share", "copay_max", "expected"),
    [
        (101, 8_000, None, (80, 21)),
        (101, 8_000, 10, (91, 10)),
        (101, 8_000, 0, (101, 0)),
        (1, 9_999, None, (0, 1)),
        (7, 10_000, None, (7, 0)),
        (7, 0, None, (0, 7)),
    ],
)
def test_the_insurers_part_is_rounded_down_and_the_copay_capped(
    amount: int, share: int, copay_max: int | None, expected: tuple[int, int]
) -> None:
    assert split(amount, share, copay_max) == expected


@settings(deadline=None, derandomize=True)
@given(st.integers(1, AMOUNT_MAX), st.integers(0, 10_000), st.none() | st.integers(0, AMOUNT_MAX))
def test_the_two_parts_are_never_negative_and_sum_to_the_amount(amount: int, share: int, copay_max: int | None) -> None:
    insurer, patient = split(amount, share, copay_max)
    assert insurer >= 0
    assert 0 <= patient <= (amount if copay_max is None else copay_max)
    assert insurer + patient == amount


def test_a_fully_covered_claim_needs_no_money_of_the_patient(chain: Chain) -> None:
    chain.send(INSURER, replace(COVER, share=10_000))
    chain.send(PATIENT, Transfer("CNY", "bank", 100, ""))
    assert codes(chain.block((CLINIC, CLAIMED), (PATIENT, CONFIRMED))) == [0, 0]
    assert balance(chain, "clinic") == 101
    check_books(chain)


IDS = [hash_bytes(bytes([number])) for number in range(3)]
ACTORS = (BANK, CLINIC, OTHER_CLINIC, INSURER, REGULATOR, PATIENT, STRANGER)
ACCOUNTS = ("bank", "clinic", "other clinic", "insurer", PATIENT.public.hex(), STRANGER.public.hex())
RICH = {**MONEY, "balances": [{"currency": "CNY", "owner": owner, "amount": 1_000} for owner in ACCOUNTS]}
amounts = st.sampled_from((1, 2, 7, 99, 400, 1_001, AMOUNT_MAX))
accounts, ids = st.sampled_from(ACCOUNTS), st.sampled_from(IDS)
times = st.integers(START_MS, START_MS + 60)
# An escrow's id is that of its transaction, so these name it by its number among those opened.
escrow_numbers = st.sampled_from([bytes([1, number]) + bytes(31) for number in range(3)])


def sent_by(senders: tuple[KeyPair, ...], *parts: Any) -> st.SearchStrategy[tuple[KeyPair, Operation]]:
    return st.tuples(st.sampled_from(senders), st.builds(*parts))


MOVES = st.one_of(
    sent_by((BANK,), Issue, st.just("CNY"), accounts, amounts),
    sent_by((BANK,), Redeem, st.just("CNY"), amounts),
    sent_by(ACTORS, Transfer, st.just("CNY"), accounts, amounts, st.just("")),
)
ESCROWS = st.one_of(
    sent_by(ACTORS, EscrowOpen, st.just("CNY"), accounts, st.none() | accounts, amounts, times),
    sent_by(ACTORS, EscrowRelease, escrow_numbers),
    sent_by(ACTORS, EscrowRefund, escrow_numbers),
)
# Mostly both sides say the same words, so that claims do settle; one claim has two prices.
WORDS = st.sampled_from([(IDS[0], IDS[0], 60), (IDS[1], IDS[0], 99), (IDS[2], IDS[1], 7), (IDS[2], IDS[1], 8)])
CLAIMS = st.one_of(
    WORDS.map(lambda words: (CLINIC, Claim(*words, TREATMENT))),
    WORDS.map(lambda words: (PATIENT, Confirm(*words[:2], "clinic", words[2], TREATMENT))),
    WORDS.map(lambda words: (PATIENT, Confirm(*words[:2], "clinic", words[2], TREATMENT))),
    sent_by((OTHER_CLINIC,), Claim, st.just(IDS[2]), st.just(IDS[0]), st.just(60), st.just(TREATMENT)),
    sent_by((CLINIC,), ClaimCancel, ids),
)
POLICIES = st.one_of(
    sent_by((INSURER,), PolicyEnd, st.sampled_from(IDS[1:])),
    sent_by(
        (INSURER, BANK),
        Policy,
        ids,
        st.just(PATIENT.public),
        st.just("CNY"),
        st.sampled_from((0, 1, 10_000)),
        st.none() | st.integers(0, 20),
        amounts,
        amounts,
        st.just(0),
        times,
    ),
)
CALLS = st.one_of(MOVES, ESCROWS, ESCROWS, CLAIMS, CLAIMS, CLAIMS, POLICIES)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.lists(CALLS, min_size=1, max_size=10), min_size=3, max_size=6))
def test_money_is_conserved_under_any_operations(blocks: list[list[tuple[KeyPair, Operation]]]) -> None:
    chain = new_chain(RICH)
    chain.block(*((INSURER, replace(COVER, policy=policy, share=3_333, total_max=150)) for policy in IDS[:2]))
    escrows = [chain.send(STRANGER, EscrowOpen("CNY", "clinic", "regulator", 99, START_MS + 20)).tx_id]
    for block in blocks:
        transactions = []
        again = [call for call in block if isinstance(call[1], Claim | Confirm)]  # what pays is said twice
        for sender, operation in block + again:
            if isinstance(operation, EscrowRelease | EscrowRefund):
                operation = replace(operation, escrow=escrows[operation.escrow[1] % len(escrows)])
            transactions.append(chain.transaction(sender, operation))
        result = chain.execute(transactions)
        assert Code.RULE_FAILED not in codes(result.receipts)
        opened = [receipt.tx_id for receipt in result.receipts if receipt.ok]
        escrows += [tx.id for tx in transactions if tx.operation == EscrowOpen.NAME and tx.id in opened]
        chain.time_ms += 10
        check_books(chain)
        check_claims(chain)


def check_claims(chain: Chain) -> None:
    """A settled claim's parts sum to it, no other has any; a policy has paid exactly the parts of its claims."""
    paid: dict[Any, int] = {}
    for policy, _, amount, _, state, insurer_part, patient_part in chain.table("payments", "claim").values():
        assert insurer_part + patient_part == (amount if state == ClaimState.SETTLED else 0)
        paid[policy] = paid.get(policy, 0) + insurer_part
    for (policy,), entry in chain.table("payments", "policy").items():
        assert paid.get(policy, 0) == entry[9] <= entry[6]
