"""Rule module `payments`: money of authorised institutions, escrow, and claims that pay by themselves.

Amounts are integers in minor units of a named currency. An account is a party (ledger/modules/parties.py): an
institution's id, or a person's key in hexadecimal. A member's key spends its institution's money.

Tables
    currency/<code>             (issuer id, exponent)
    supply/<code>               issued and not redeemed: the sum of all balances and open escrows, always
    balance/<code>/<account>    minor units, above zero; absent is zero
    escrow/<escrow id>          (currency, payer, beneficiary, arbiter or nil, amount, expires_ms, state)
    policy/<policy id>          (insurer id, patient key, currency, share, copay_max, claim_max, total_max,
                                valid_from_ms, valid_until_ms, paid, active)
    claim/<claim id>            (policy, provider id, amount, treatment, state, insurer's part, patient's part)
    confirmation/<claim>/<policy>   (provider id, amount, treatment): the patient confirmed before the claim came

A claim settles in the transaction that completes it: the hospital's `claim` and the patient's `confirm` sign the same
words, in either order. The insurer pays `floor(amount * share / 10000)`, the patient the rest up to `copay_max`, the
insurer what lies above it. If either cannot pay, the completing transaction is refused and may be sent again.

Must not know: why money moves, and who a patient is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any, NamedTuple

from ledger.codec import Value
from ledger.errors import Code, FieldReject, Reject
from ledger.fields import Hash, Integer, Key, Maybe, Operation, Text, schema_of
from ledger.modules.parties import Party, acting_party, check_key, check_party
from ledger.rules import Context, Role, Rule, RuleModule

MODULE_NAME = "payments"

AMOUNT_MAX = 2**53 - 1  # what JavaScript reads exactly; a supply never exceeds it, so no balance or sum can
BASIS_POINTS = 10_000
EXPONENT_MAX = 8  # ISO 4217 knows up to 4; private codes may be finer

AMOUNT = Integer(1, AMOUNT_MAX)

_CURRENCY = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


@dataclass(frozen=True, slots=True)
class CurrencyCode(Text):
    """An ISO 4217 code, or a private one: 3 to 8 capital letters and digits."""

    high: int = 8
    low: int = 3

    def check(self, value: Value, path: str) -> None:
        if type(value) is not str or not self.low <= len(value) <= self.high or not _CURRENCY.issuperset(value):
            raise FieldReject(path, f"{self.low}..{self.high} capital letters and digits")


class EscrowState(IntEnum):
    """Where the money of an escrow is."""

    HELD = 0
    RELEASED = 1
    REFUNDED = 2


class ClaimState(IntEnum):
    """A claim waits for the patient, or is over."""

    OPEN = 0
    SETTLED = 1
    CANCELLED = 2


@dataclass(frozen=True, slots=True)
class CreateCurrency(Operation):
    """A regulator authorises an institution to issue a currency. `exponent`: decimal places of its minor unit."""

    NAME = "payments.create_currency"
    currency: Annotated[str, CurrencyCode()]
    issuer: Annotated[str, Text(32)]
    exponent: Annotated[int, Integer(0, EXPONENT_MAX)]


@dataclass(frozen=True, slots=True)
class Issue(Operation):
    """The issuer makes money."""

    NAME = "payments.issue"
    currency: Annotated[str, CurrencyCode()]
    to: Annotated[str, Party()]
    amount: Annotated[int, AMOUNT]


@dataclass(frozen=True, slots=True)
class Redeem(Operation):
    """The issuer destroys money that has come back to its own account."""

    NAME = "payments.redeem"
    currency: Annotated[str, CurrencyCode()]
    amount: Annotated[int, AMOUNT]


@dataclass(frozen=True, slots=True)
class Transfer(Operation):
    """The sender's account pays. `reference` is an invoice number or the like, never a name; may be empty."""

    NAME = "payments.transfer"
    currency: Annotated[str, CurrencyCode()]
    to: Annotated[str, Party()]
    amount: Annotated[int, AMOUNT]
    reference: Annotated[str, Text(64, low=0)]


@dataclass(frozen=True, slots=True)
class EscrowOpen(Operation):
    """The sender sets money aside for a beneficiary. The escrow's id is the transaction's."""

    NAME = "payments.escrow_open"
    currency: Annotated[str, CurrencyCode()]
    beneficiary: Annotated[str, Party()]
    arbiter: Annotated[str | None, Maybe(Party())]
    amount: Annotated[int, AMOUNT]
    expires_ms: Annotated[int, Integer(1)]


@dataclass(frozen=True, slots=True)
class EscrowRelease(Operation):
    """The payer or the arbiter lets the beneficiary have it."""

    NAME = "payments.escrow_release"
    escrow: Annotated[bytes, Hash()]


@dataclass(frozen=True, slots=True)
class EscrowRefund(Operation):
    """The beneficiary or the arbiter gives it back; after expiry the payer may take it back."""

    NAME = "payments.escrow_refund"
    escrow: Annotated[bytes, Hash()]


@dataclass(frozen=True, slots=True)
class Policy(Operation):
    """An insurer covers a patient from `valid_from_ms` until before `valid_until_ms`.

    `share` is the insurer's, in basis points; `copay_max` caps what the patient pays of one claim, `claim_max` the
    amount of one claim, `total_max` all that the insurer pays. The id is a salted commitment: policy numbers identify.
    """

    NAME = "payments.policy"
    policy: Annotated[bytes, Hash()]
    patient: Annotated[bytes, Key()]
    currency: Annotated[str, CurrencyCode()]
    share: Annotated[int, Integer(0, BASIS_POINTS)]
    copay_max: Annotated[int | None, Maybe(Integer(0, AMOUNT_MAX))]
    claim_max: Annotated[int, AMOUNT]
    total_max: Annotated[int, AMOUNT]
    valid_from_ms: Annotated[int, Integer()]
    valid_until_ms: Annotated[int, Integer(1)]


@dataclass(frozen=True, slots=True)
class PolicyEnd(Operation):
    """The insurer ends a policy at once."""

    NAME = "payments.policy_end"
    policy: Annotated[bytes, Hash()]


@dataclass(frozen=True, slots=True)
class Claim(Operation):
    """A hospital claims for a treatment (a commitment), which is its confirmation; it is the provider that is paid."""

    NAME = "payments.claim"
    claim: Annotated[bytes, Hash()]
    policy: Annotated[bytes, Hash()]
    amount: Annotated[int, AMOUNT]
    treatment: Annotated[bytes, Hash()]


@dataclass(frozen=True, slots=True)
class Confirm(Operation):
    """The patient confirms a treatment, its price and who is paid; before or after the hospital's claim."""

    NAME = "payments.confirm"
    claim: Annotated[bytes, Hash()]
    policy: Annotated[bytes, Hash()]
    provider: Annotated[str, Text(32)]
    amount: Annotated[int, AMOUNT]
    treatment: Annotated[bytes, Hash()]


@dataclass(frozen=True, slots=True)
class ClaimCancel(Operation):
    """The hospital takes an open claim back. Its id is not used again."""

    NAME = "payments.claim_cancel"
    claim: Annotated[bytes, Hash()]


class EscrowEntry(NamedTuple):
    """An escrow as the state holds it."""

    currency: str
    payer: str
    beneficiary: str
    arbiter: str | None
    amount: int
    expires_ms: int
    state: int


class PolicyEntry(NamedTuple):
    """A policy as the state holds it. `paid` is what the insurer has paid under it."""

    insurer: str
    patient: bytes
    currency: str
    share: int
    copay_max: int | None
    claim_max: int
    total_max: int
    valid_from_ms: int
    valid_until_ms: int
    paid: int
    active: bool


class ClaimEntry(NamedTuple):
    """A claim as the state holds it; the two parts are zero until it is settled."""

    policy: bytes
    provider: str
    amount: int
    treatment: bytes
    state: int
    insurer_amount: int
    patient_amount: int


def split(amount: int, share: int, copay_max: int | None) -> tuple[int, int]:
    """(insurer's part, patient's part) of a claim; they sum to `amount`. Rounding is in the insurer's favour."""
    insurer = amount * share // BASIS_POINTS
    patient = amount - insurer
    if copay_max is not None and patient > copay_max:
        patient = copay_max
    return amount - patient, patient


def _credit(ctx: Context, currency: str, account: str, amount: int) -> None:
    balance = ctx.get("balance", currency, account) or 0
    ctx.put("balance", currency, account, value=balance + amount)


def _debit(ctx: Context, currency: str, account: str, amount: int) -> None:
    balance = ctx.get("balance", currency, account) or 0
    if balance < amount:
        _check_currency(ctx, currency)  # looked up only here: who has money of a currency knows that it exists
        raise Reject(Code.INSUFFICIENT_FUNDS, account, currency, balance, amount)
    if balance == amount:
        ctx.delete("balance", currency, account)
    else:
        ctx.put("balance", currency, account, value=balance - amount)


def _check_currency(ctx: Context, currency: str) -> str:
    """The issuer's id."""
    value = ctx.get("currency", currency)
    if value is None:
        raise Reject(Code.UNKNOWN_CURRENCY, currency)
    issuer: str = value[0]
    return issuer


def _create_currency(op: CreateCurrency, ctx: Context) -> None:
    if ctx.get("currency", op.currency) is not None:
        raise Reject(Code.CURRENCY_EXISTS, op.currency)
    ctx.institution(op.issuer)
    ctx.put("currency", op.currency, value=(op.issuer, op.exponent))
    ctx.put("supply", op.currency, value=0)
    ctx.index("account", op.issuer)


def _mint(ctx: Context, currency: str, to: str, amount: int) -> None:
    supply = ctx.get("supply", currency) + amount
    if supply > AMOUNT_MAX:
        raise Reject(Code.AMOUNT_OUT_OF_RANGE, supply, AMOUNT_MAX)
    ctx.put("supply", currency, value=supply)
    _credit(ctx, currency, to, amount)


def _issuer(ctx: Context, currency: str) -> str:
    issuer = _check_currency(ctx, currency)
    if ctx.member.id != issuer:
        raise Reject(Code.NOT_THE_ISSUER, currency, issuer)
    return issuer


def _issue(op: Issue, ctx: Context) -> None:
    issuer = _issuer(ctx, op.currency)
    check_party(ctx, op.to, "to")
    _mint(ctx, op.currency, op.to, op.amount)
    ctx.index("account", issuer)
    if op.to != issuer:
        ctx.index("account", op.to)


def _redeem(op: Redeem, ctx: Context) -> None:
    issuer = _issuer(ctx, op.currency)
    _debit(ctx, op.currency, issuer, op.amount)
    ctx.put("supply", op.currency, value=ctx.get("supply", op.currency) - op.amount)
    ctx.index("account", issuer)


def _transfer(op: Transfer, ctx: Context) -> None:
    payer = acting_party(ctx)
    check_party(ctx, op.to, "to")
    _debit(ctx, op.currency, payer, op.amount)
    _credit(ctx, op.currency, op.to, op.amount)
    ctx.index("account", payer)
    if op.to != payer:
        ctx.index("account", op.to)


def _escrow_open(op: EscrowOpen, ctx: Context) -> None:
    payer = acting_party(ctx)
    if op.expires_ms <= ctx.time_ms:
        raise FieldReject("expires_ms", "a time after the block's")
    check_party(ctx, op.beneficiary, "beneficiary")
    if op.arbiter is not None:
        check_party(ctx, op.arbiter, "arbiter")
    _debit(ctx, op.currency, payer, op.amount)
    state = int(EscrowState.HELD)
    entry = EscrowEntry(op.currency, payer, op.beneficiary, op.arbiter, op.amount, op.expires_ms, state)
    ctx.put("escrow", ctx.tx_id, value=tuple(entry))
    _index_escrow(ctx, entry)


def _index_escrow(ctx: Context, entry: EscrowEntry) -> None:
    for account in dict.fromkeys((entry.payer, entry.beneficiary, entry.arbiter)):
        if account is not None:
            ctx.index("account", account)


def _open_escrow(ctx: Context, escrow: bytes) -> EscrowEntry:
    value = ctx.get("escrow", escrow)
    if value is None:
        raise Reject(Code.UNKNOWN_ESCROW, escrow)
    entry = EscrowEntry._make(value)
    if entry.state != EscrowState.HELD:
        raise Reject(Code.ESCROW_CLOSED, escrow)
    return entry


def _close_escrow(ctx: Context, escrow: bytes, entry: EscrowEntry, to: str, state: EscrowState) -> None:
    _credit(ctx, entry.currency, to, entry.amount)
    ctx.put("escrow", escrow, value=(*entry[:6], int(state)))
    _index_escrow(ctx, entry)


def _escrow_release(op: EscrowRelease, ctx: Context) -> None:
    entry = _open_escrow(ctx, op.escrow)
    if acting_party(ctx) not in (entry.payer, entry.arbiter):
        raise Reject(Code.NOT_A_PARTY, op.escrow)
    _close_escrow(ctx, op.escrow, entry, entry.beneficiary, EscrowState.RELEASED)


def _escrow_refund(op: EscrowRefund, ctx: Context) -> None:
    entry = _open_escrow(ctx, op.escrow)
    party = acting_party(ctx)
    if party not in (entry.beneficiary, entry.arbiter):
        if party != entry.payer:
            raise Reject(Code.NOT_A_PARTY, op.escrow)
        if ctx.time_ms < entry.expires_ms:
            raise Reject(Code.ESCROW_NOT_EXPIRED, entry.expires_ms)
    _close_escrow(ctx, op.escrow, entry, entry.payer, EscrowState.REFUNDED)


def _check_policy(op: Policy) -> None:
    check_key(op.patient, "patient")
    if op.valid_until_ms <= op.valid_from_ms:
        raise FieldReject("valid_until_ms", "a time after valid_from_ms")


def _policy(op: Policy, ctx: Context) -> None:
    _check_currency(ctx, op.currency)
    if ctx.get("policy", op.policy) is not None:
        raise Reject(Code.POLICY_EXISTS, op.policy)
    insurer = ctx.member.id
    ctx.put("policy", op.policy, value=(insurer, *op.to_fields()[1:], 0, True))
    _index_policy(ctx, op.policy, insurer, op.patient.hex())


def _index_policy(ctx: Context, policy: bytes, *accounts: str) -> None:
    ctx.index("policy", policy)
    for account in dict.fromkeys(accounts):
        ctx.index("account", account)


def _policy_entry(ctx: Context, policy: bytes) -> PolicyEntry:
    value = ctx.get("policy", policy)
    if value is None:
        raise Reject(Code.UNKNOWN_POLICY, policy)
    return PolicyEntry._make(value)


def _policy_end(op: PolicyEnd, ctx: Context) -> None:
    entry = _policy_entry(ctx, op.policy)
    if entry.insurer != ctx.member.id:
        raise Reject(Code.NOT_A_PARTY, op.policy)
    if not entry.active:
        raise Reject(Code.POLICY_INACTIVE, op.policy)
    ctx.put("policy", op.policy, value=(*entry[:10], False))
    _index_policy(ctx, op.policy, entry.insurer, entry.patient.hex())


def _check_covered(ctx: Context, policy: bytes, entry: PolicyEntry, amount: int) -> None:
    if not entry.active or not entry.valid_from_ms <= ctx.time_ms < entry.valid_until_ms:
        raise Reject(Code.POLICY_INACTIVE, policy)
    if amount > entry.claim_max:
        raise Reject(Code.LIMIT_EXCEEDED, "claim_max", amount, entry.claim_max)


def _claim(op: Claim, ctx: Context) -> None:
    if ctx.get("claim", op.claim) is not None:
        raise Reject(Code.CLAIM_EXISTS, op.claim)
    policy = _policy_entry(ctx, op.policy)
    _check_covered(ctx, op.policy, policy, op.amount)
    provider = ctx.member.id
    entry = ClaimEntry(op.policy, provider, op.amount, op.treatment, int(ClaimState.OPEN), 0, 0)
    if ctx.get("confirmation", op.claim, op.policy) == (provider, op.amount, op.treatment):
        ctx.delete("confirmation", op.claim, op.policy)
        _settle(ctx, op.claim, entry, policy)
    else:
        ctx.put("claim", op.claim, value=tuple(entry))
    _index_claim(ctx, op.claim, entry, policy)


def _confirm(op: Confirm, ctx: Context) -> None:
    policy = _policy_entry(ctx, op.policy)
    if ctx.sender != policy.patient:
        raise Reject(Code.NOT_A_PARTY, op.policy)
    _check_covered(ctx, op.policy, policy, op.amount)
    confirmed = (op.provider, op.amount, op.treatment)
    value = ctx.get("claim", op.claim)
    if value is None:
        _confirm_ahead(ctx, op, confirmed)
        entry = ClaimEntry(op.policy, *confirmed, int(ClaimState.OPEN), 0, 0)
    else:
        entry = ClaimEntry._make(value)
        if (entry.policy, entry.provider, entry.amount, entry.treatment) != (op.policy, *confirmed):
            raise Reject(Code.CLAIM_DIFFERS, op.claim)
        if entry.state != ClaimState.OPEN:
            raise Reject(Code.CLAIM_CLOSED, op.claim)
        _settle(ctx, op.claim, entry, policy)
    _index_claim(ctx, op.claim, entry, policy)


def _confirm_ahead(ctx: Context, op: Confirm, confirmed: tuple[str, int, bytes]) -> None:
    # The provider is part of the patient's words: no other hospital can take the confirmation for its own claim.
    if Role.HOSPITAL.value not in ctx.institution(op.provider).roles:
        raise Reject(Code.ROLE_REQUIRED, Role.HOSPITAL.value)
    if ctx.get("confirmation", op.claim, op.policy) == confirmed:
        raise Reject(Code.ALREADY_CONFIRMED, op.claim)
    ctx.put("confirmation", op.claim, op.policy, value=confirmed)


def _settle(ctx: Context, claim: bytes, entry: ClaimEntry, policy: PolicyEntry) -> None:
    insurer_amount, patient_amount = split(entry.amount, policy.share, policy.copay_max)
    paid = policy.paid + insurer_amount
    if paid > policy.total_max:
        raise Reject(Code.LIMIT_EXCEEDED, "total_max", paid, policy.total_max)
    if insurer_amount:
        _debit(ctx, policy.currency, policy.insurer, insurer_amount)
        ctx.put("policy", entry.policy, value=(*policy[:9], paid, policy.active))
    if patient_amount:
        _debit(ctx, policy.currency, policy.patient.hex(), patient_amount)
    _credit(ctx, policy.currency, entry.provider, entry.amount)
    settled = (*entry[:4], int(ClaimState.SETTLED), insurer_amount, patient_amount)
    ctx.put("claim", claim, value=settled)


def _index_claim(ctx: Context, claim: bytes, entry: ClaimEntry, policy: PolicyEntry) -> None:
    ctx.index("claim", claim)
    _index_policy(ctx, entry.policy, entry.provider, policy.insurer, policy.patient.hex())


def _claim_cancel(op: ClaimCancel, ctx: Context) -> None:
    value = ctx.get("claim", op.claim)
    if value is None:
        raise Reject(Code.UNKNOWN_CLAIM, op.claim)
    entry = ClaimEntry._make(value)
    if entry.provider != ctx.member.id:
        raise Reject(Code.NOT_A_PARTY, op.claim)
    if entry.state != ClaimState.OPEN:
        raise Reject(Code.CLAIM_CLOSED, op.claim)
    ctx.put("claim", op.claim, value=(*entry[:4], int(ClaimState.CANCELLED), 0, 0))
    _index_claim(ctx, op.claim, entry, _policy_entry(ctx, entry.policy))


def _genesis(document: Mapping[str, Any], ctx: Context) -> None:
    """`{"currencies": [{code, issuer, exponent}], "balances": [{currency, owner, amount}]}`.

    An owner is an institution's id (`institution:<id>` is the same) or a person's key in hexadecimal.
    """
    for item in document.get("currencies", ()):
        currency = CreateCurrency(item["code"], item["issuer"], item.get("exponent", 2))
        _check_fields(currency)
        _create_currency(currency, ctx)
    for item in document.get("balances", ()):
        issue = Issue(item["currency"], str(item["owner"]).removeprefix("institution:"), item["amount"])
        _check_fields(issue)
        _check_currency(ctx, issue.currency)
        check_party(ctx, issue.to, "owner")
        _mint(ctx, issue.currency, issue.to, issue.amount)


def _check_fields(operation: Operation) -> None:
    for name, field_type in schema_of(type(operation)):
        field_type.check(getattr(operation, name), name)


MODULE = RuleModule(
    name=MODULE_NAME,
    version=1,
    rules=(
        Rule(CreateCurrency, _create_currency, roles=frozenset({Role.REGULATOR})),
        Rule(Issue, _issue, roles=frozenset(Role)),
        Rule(Redeem, _redeem, roles=frozenset(Role)),
        Rule(Transfer, _transfer),
        Rule(EscrowOpen, _escrow_open),
        Rule(EscrowRelease, _escrow_release),
        Rule(EscrowRefund, _escrow_refund),
        Rule(Policy, _policy, check=_check_policy, roles=frozenset({Role.INSURER})),
        Rule(PolicyEnd, _policy_end, roles=frozenset({Role.INSURER})),
        Rule(Claim, _claim, roles=frozenset({Role.HOSPITAL})),
        Rule(Confirm, _confirm),
        Rule(ClaimCancel, _claim_cancel, roles=frozenset({Role.HOSPITAL})),
    ),
    genesis=_genesis,
)
