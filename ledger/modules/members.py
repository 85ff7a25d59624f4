"""Rule module `members`: institutions, their roles and keys, and the governance that changes them and the validators.

Tables
    institution/<id>        (id, name, roles, prefixes, glns, active)
    key/<public key>        institution id; an institution may have many signing keys
    validators              (epoch, first height, keys) in force
    next_validators         the set that takes over, with the height at which it does; absent when none is pending
    proposal/<tx id>        (proposer, change, approvals by validator key, open)

A change passes when a quorum of the validators in force has approved it. A change of validators takes effect at the end
of an epoch, `log_window` heights later, so that every replica knows a height's set before it votes there.

That a key is a point of the prime-order group is checked after it is known who asks: the check costs more than that of
a signature, and a stranger could name five hundred keys in each transaction.

Must not know: consensus. It only states which set is in force from which height.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from ledger.codec import Value
from ledger.errors import Code, Reject
from ledger.fields import Choice, Flag, Hash, Key, ListOf, Operation, Text, parser_of
from ledger.modules.parties import check_key
from ledger.rules import Context, Member, Role, Rule, RuleModule
from ledger.state import Reader, state_key
from ledger.validators import VALIDATORS_MAX, ValidatorSet

CHANGES_PER_PROPOSAL_MAX = 16
KEYS_PER_CALL_MAX = 500

ROLE = Choice(tuple(role.value for role in Role))
PREFIX = Text(high=12, low=4)  # GS1 General Specifications: company prefixes have 4 to 12 digits
GLN = Text(high=13, low=13)
IDENTIFIER = Text(high=32)

MODULE_NAME = "members"


@dataclass(frozen=True, slots=True)
class AddKeys(Operation):
    """An institution lets further keys sign for it (staff, packaging lines)."""

    NAME = "members.add_keys"
    keys: Annotated[tuple[bytes, ...], ListOf(Key(), KEYS_PER_CALL_MAX, 1, distinct=True)]


@dataclass(frozen=True, slots=True)
class RemoveKeys(Operation):
    """An institution withdraws signing keys. Its last key cannot be removed by itself."""

    NAME = "members.remove_keys"
    keys: Annotated[tuple[bytes, ...], ListOf(Key(), KEYS_PER_CALL_MAX, 1, distinct=True)]


@dataclass(frozen=True, slots=True)
class ProposeInstitution(Operation):
    """A validator proposes to admit or change an institution. `active` False suspends it."""

    NAME = "members.propose_institution"
    id: Annotated[str, IDENTIFIER]
    name: Annotated[str, Text(128)]
    roles: Annotated[tuple[str, ...], ListOf(ROLE, len(Role), 1, distinct=True)]
    key: Annotated[bytes, Key()]
    prefixes: Annotated[tuple[str, ...], ListOf(PREFIX, 64, distinct=True)]
    glns: Annotated[tuple[str, ...], ListOf(GLN, 256, distinct=True)]
    active: Annotated[bool, Flag()]


@dataclass(frozen=True, slots=True)
class ProposeValidators(Operation):
    """A validator proposes to add and remove validator keys at once; replacing one key is rotation."""

    NAME = "members.propose_validators"
    add: Annotated[tuple[bytes, ...], ListOf(Key(), CHANGES_PER_PROPOSAL_MAX, distinct=True)]
    remove: Annotated[tuple[bytes, ...], ListOf(Key(), CHANGES_PER_PROPOSAL_MAX, distinct=True)]


@dataclass(frozen=True, slots=True)
class Vote(Operation):
    """A validator approves or refuses an open proposal, named by the transaction that made it.

    A refusal by its proposer withdraws it.
    """

    NAME = "members.vote"
    proposal: Annotated[bytes, Hash()]
    approve: Annotated[bool, Flag()]


_parse_institution = parser_of(ProposeInstitution)


def validators_in_force(state: Reader) -> ValidatorSet:
    """The set that votes on the next block."""
    return ValidatorSet.from_value(state.get(state_key(MODULE_NAME, "validators")))


def next_validators(state: Reader) -> ValidatorSet | None:
    """The set that takes over at its `first_height`; None when no change is pending."""
    value = state.get(state_key(MODULE_NAME, "next_validators"))
    return None if value is None else ValidatorSet.from_value(value)


def _put_institution(ctx: Context, member: Member) -> None:
    ctx.put("institution", member.id, value=member.to_value())


def _claim_key(ctx: Context, key: bytes, member_id: str) -> None:
    owner = ctx.get("key", key)
    if owner is not None and owner != member_id:
        raise Reject(Code.KEY_TAKEN, key)
    ctx.put("key", key, value=member_id)


def _add_keys(op: AddKeys, ctx: Context) -> None:
    member_id = ctx.member.id
    for index, key in enumerate(op.keys):
        check_key(key, f"keys[{index}]")
        _claim_key(ctx, key, member_id)


def _remove_keys(op: RemoveKeys, ctx: Context) -> None:
    for key in op.keys:
        if ctx.get("key", key) != ctx.member.id:
            raise Reject(Code.UNKNOWN_KEY, key)
        if key == ctx.sender:
            raise Reject(Code.KEY_IN_USE, key)  # the key that signs stays, so at least one does
        ctx.delete("key", key)


def _validator_key(ctx: Context) -> ValidatorSet:
    validators = ValidatorSet.from_value(ctx.get("validators"))
    if validators.index(ctx.sender) is None:
        raise Reject(Code.NOT_A_VALIDATOR)
    return validators


def _open_proposal(ctx: Context, change: Value) -> None:
    validators = _validator_key(ctx)
    ctx.put("proposal", ctx.tx_id, value=(ctx.sender, change, (ctx.sender,), True))
    ctx.index("governance", "proposals")
    if validators.quorum == 1:
        _enact(ctx, change, validators)
        ctx.put("proposal", ctx.tx_id, value=(ctx.sender, change, (ctx.sender,), False))


def _propose_institution(op: ProposeInstitution, ctx: Context) -> None:
    _validator_key(ctx)
    check_key(op.key, "key")
    owner = ctx.get("key", op.key)
    if owner is not None and owner != op.id:
        raise Reject(Code.KEY_TAKEN, op.key)
    _open_proposal(ctx, ("institution", *op.to_fields()))


def _propose_validators(op: ProposeValidators, ctx: Context) -> None:
    _changed_set(_validator_key(ctx), op.add, op.remove)
    for index, key in enumerate(op.add):
        check_key(key, f"add[{index}]")
    _open_proposal(ctx, ("validators", op.add, op.remove))


def _changed_set(validators: ValidatorSet, add: tuple[bytes, ...], remove: tuple[bytes, ...]) -> tuple[bytes, ...]:
    for key in remove:
        if validators.index(key) is None:
            raise Reject(Code.UNKNOWN_KEY, key)
    for key in add:
        if validators.index(key) is not None:
            raise Reject(Code.KEY_TAKEN, key)
    kept = [key for key in validators.keys if key not in remove]
    # Fewer than a quorum of known keys would hand the chain to strangers in one step.
    if len(kept) < min(validators.quorum, validators.n - validators.f):
        raise Reject(Code.NO_VALIDATOR_KEPT, len(kept))
    keys = (*kept, *add)
    if not 4 <= len(keys) <= VALIDATORS_MAX and not len(keys) == validators.n == 1:
        raise Reject(Code.TOO_FEW_VALIDATORS, len(keys))
    return keys


def _vote(op: Vote, ctx: Context) -> None:
    validators = _validator_key(ctx)
    proposal = ctx.get("proposal", op.proposal)
    if proposal is None:
        raise Reject(Code.UNKNOWN_PROPOSAL)
    proposer, change, approvals, is_open = proposal
    if not is_open:
        raise Reject(Code.PROPOSAL_CLOSED)
    ctx.index("governance", "votes")
    if not op.approve and ctx.sender == proposer:
        ctx.put("proposal", op.proposal, value=(proposer, change, approvals, False))
        return
    if ctx.sender in approvals:
        raise Reject(Code.ALREADY_VOTED)
    if not op.approve:
        return  # a refusal is only a record: what does not reach a quorum does not happen
    # Approvals of keys that have left count no more, and are dropped so that the list stays below VALIDATORS_MAX.
    approvals = (*(key for key in approvals if validators.index(key) is not None), ctx.sender)
    if len(approvals) >= validators.quorum:
        _enact(ctx, change, validators)
        is_open = False
    ctx.put("proposal", op.proposal, value=(proposer, change, approvals, is_open))


def _enact(ctx: Context, change: Any, validators: ValidatorSet) -> None:
    if change[0] == "institution":
        member_id, name, roles, key, prefixes, glns, active = change[1:]
        _claim_key(ctx, key, member_id)
        _put_institution(ctx, Member(member_id, name, roles, prefixes, glns, active))
        return
    if ctx.get("next_validators") is not None:
        raise Reject(Code.CHANGE_PENDING)
    keys = _changed_set(validators, change[1], change[2])
    first_height = ctx.height + ctx.get("log_window") + 1
    following = ValidatorSet.create(validators.epoch + 1, first_height, keys)
    ctx.put("next_validators", value=following.to_value())


def _genesis(document: Mapping[str, Any], ctx: Context) -> None:
    """`{"institutions": [{id, name, roles, keys: [hex], prefixes, glns}]}`."""
    for item in document.get("institutions", ()):
        member = Member(
            item["id"],
            item.get("name", item["id"]),
            tuple(item["roles"]),
            tuple(item.get("prefixes", ())),
            tuple(item.get("glns", ())),
            True,
        )
        if ctx.get("institution", member.id) is not None:
            raise Reject(Code.MEMBER_EXISTS, member.id)
        for key in map(bytes.fromhex, item["keys"]):
            _parse_institution((member.id, member.name, member.roles, key, member.prefixes, member.glns, True))
            check_key(key, "keys")
            _claim_key(ctx, key, member.id)
        _put_institution(ctx, member)


MODULE = RuleModule(
    name=MODULE_NAME,
    version=1,
    rules=(
        Rule(AddKeys, _add_keys, roles=frozenset(Role)),
        Rule(RemoveKeys, _remove_keys, roles=frozenset(Role)),
        Rule(ProposeInstitution, _propose_institution),
        Rule(ProposeValidators, _propose_validators),
        Rule(Vote, _vote),
    ),
    genesis=_genesis,
)
