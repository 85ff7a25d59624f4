"""Rule module `members`: institutions, their roles and keys, and the governance of validators and parameters.

Tables
    institution/<id>        (id, name, roles, prefixes, glns, active)
    key/<public key>        institution id; an institution may have many signing keys
    chain_id                what proofs and evidence are signed for
    equivocation            what becomes of a validator that contradicts itself: remove, record
    validators              (epoch, first height, keys) in force
    parameters              [[name, value]*] in force
    next_validators         the set that takes over, with the height at which it does; absent when none is pending
    next_parameters         the parameters that take over with it; absent when they stay
    epoch/<epoch>           the validators of this epoch and the EVIDENCE_EPOCHS before it
    proposal/<tx id>        (proposer, change, approvals by validator key, open)
    evidence/<epoch>/<key>  (tx id, height, offence, loses its vote)

A change passes when a quorum of the validators in force has approved it. One of validators or parameters takes effect
at the end of an epoch, `log_window` heights later, so that every replica knows a height's set and parameters before it
votes there. What fits together is checked by the same function when it is proposed, when it passes, and in genesis.

Nobody can enter another's key: whoever joins signs for it (ledger/modules/parties.py). A key that a genesis names was
agreed on by those who sign up to the genesis.

That a key is a point of the prime-order group, and its proof, is checked after it is known who asks: the checks cost
more than that of a transaction's signature, and a stranger could name hundreds of keys in each.

Must not know: consensus. It only states which set is in force from which height.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

from ledger.codec import Value, encode
from ledger.crypto import SIGNATURE_SIZE_BYTES, hash_bytes, verify
from ledger.errors import Code, CodecError, EvidenceRefused, FieldReject, Reject
from ledger.evidence import EVIDENCE_SIZE_BYTES_MAX, Check, Evidence, check_evidence
from ledger.fields import Blob, Choice, Flag, Hash, Integer, Key, ListOf, Operation, Text, Tuple, parser_of
from ledger.genesis import GOVERNED_PARAMETERS, PARAMETER_MAX, Parameters
from ledger.modules.parties import VALIDATORS, check_key, check_possession
from ledger.rules import Context, Member, Role, Rule, RuleModule
from ledger.state import Overlay, Reader, state_key
from ledger.validators import VALIDATORS_MAX, ValidatorSet

CHANGES_PER_PROPOSAL_MAX = 16
KEYS_PER_CALL_MAX = 128  # each with a proof: 20 ms of every node's time
EVIDENCE_EPOCHS = 8  # an evidence of an earlier epoch is refused; each takes 5 KB of state at most

ROLE = Choice(tuple(role.value for role in Role))
PREFIX = Text(high=12, low=4)  # GS1 General Specifications: company prefixes have 4 to 12 digits
GLN = Text(high=13, low=13)
IDENTIFIER = Text(high=32)
PROOF = Blob(SIGNATURE_SIZE_BYTES)  # empty for a key that is the institution's already
REMOVE, RECORD = "remove", "record"

MODULE_NAME = "members"


@dataclass(frozen=True, slots=True)
class AddKeys(Operation):
    """An institution lets further keys sign for it (staff, packaging lines). A proof for each key, in their order."""

    NAME = "members.add_keys"
    keys: Annotated[tuple[bytes, ...], ListOf(Key(), KEYS_PER_CALL_MAX, 1, distinct=True)]
    proofs: Annotated[tuple[bytes, ...], ListOf(PROOF, KEYS_PER_CALL_MAX, 1)]


@dataclass(frozen=True, slots=True)
class RemoveKeys(Operation):
    """An institution withdraws signing keys. Its last key cannot be removed by itself."""

    NAME = "members.remove_keys"
    keys: Annotated[tuple[bytes, ...], ListOf(Key(), KEYS_PER_CALL_MAX, 1, distinct=True)]


@dataclass(frozen=True, slots=True)
class ProposeInstitution(Operation):
    """A validator proposes to admit or change an institution, with the proof of a key that is not its own already.

    `active` False suspends it.
    """

    NAME = "members.propose_institution"
    id: Annotated[str, IDENTIFIER]
    name: Annotated[str, Text(128)]
    roles: Annotated[tuple[str, ...], ListOf(ROLE, len(Role), 1, distinct=True)]
    key: Annotated[bytes, Key()]
    prefixes: Annotated[tuple[str, ...], ListOf(PREFIX, 64, distinct=True)]
    glns: Annotated[tuple[str, ...], ListOf(GLN, 256, distinct=True)]
    active: Annotated[bool, Flag()]
    proof: Annotated[bytes, PROOF]


@dataclass(frozen=True, slots=True)
class ProposeValidators(Operation):
    """A validator proposes to add and remove validator keys at once; replacing one key is rotation.

    A proof for each added key, in their order.
    """

    NAME = "members.propose_validators"
    add: Annotated[tuple[bytes, ...], ListOf(Key(), CHANGES_PER_PROPOSAL_MAX, distinct=True)]
    remove: Annotated[tuple[bytes, ...], ListOf(Key(), CHANGES_PER_PROPOSAL_MAX, distinct=True)]
    proofs: Annotated[tuple[bytes, ...], ListOf(PROOF, CHANGES_PER_PROPOSAL_MAX)]


@dataclass(frozen=True, slots=True)
class ProposeParameters(Operation):
    """A validator proposes other values for parameters that all nodes share; the others stay as they are."""

    NAME = "members.propose_parameters"
    changes: Annotated[
        tuple[tuple[str, int], ...],
        ListOf(
            Tuple((("name", Choice(GOVERNED_PARAMETERS)), ("value", Integer(1, PARAMETER_MAX)))),
            len(GOVERNED_PARAMETERS),
            1,
            distinct=True,
        ),
    ]


@dataclass(frozen=True, slots=True)
class Vote(Operation):
    """A validator approves or refuses an open proposal, named by the transaction that made it.

    A refusal takes back an approval; its proposer's withdraws it.
    """

    NAME = "members.vote"
    proposal: Annotated[bytes, Hash()]
    approve: Annotated[bool, Flag()]


@dataclass(frozen=True, slots=True)
class ReportEvidence(Operation):
    """Anyone shows that a validator signed two contradicting statements. Nodes do it by themselves."""

    NAME = "members.report_evidence"
    evidence: Annotated[bytes, Blob(EVIDENCE_SIZE_BYTES_MAX, 1)]


class Conviction(NamedTuple):
    """An evidence that was accepted: where, for which offence, and whether the vote is lost from the next epoch on."""

    tx_id: bytes
    height: int
    offence: int
    loses_vote: bool


_parse_institution = parser_of(ProposeInstitution)


def validators_in_force(state: Reader) -> ValidatorSet:
    """The set that votes on the next block."""
    return ValidatorSet.from_value(state.get(state_key(MODULE_NAME, "validators")))


def next_validators(state: Reader) -> ValidatorSet | None:
    """The set that takes over at its `first_height`; None when no change is pending."""
    value = state.get(state_key(MODULE_NAME, "next_validators"))
    return None if value is None else ValidatorSet.from_value(value)


def parameters_in_force(state: Reader) -> Parameters:
    """Those for the next block."""
    return Parameters.from_value(state.get(state_key(MODULE_NAME, "parameters")))


def next_parameters(state: Reader) -> Parameters | None:
    """Those that take over with `next_validators`; None when they stay."""
    value = state.get(state_key(MODULE_NAME, "next_parameters"))
    return None if value is None else Parameters.from_value(value)


def validators_of(state: Reader, epoch: int) -> ValidatorSet | None:
    """The set of this epoch or one of the EVIDENCE_EPOCHS before it; None for others."""
    value = state.get(state_key(MODULE_NAME, "epoch", epoch))
    return None if value is None else ValidatorSet.from_value(value)


def conviction(state: Reader, epoch: int, key: bytes) -> Conviction | None:
    """What is known against a validator of an epoch."""
    value = state.get(state_key(MODULE_NAME, "evidence", epoch, key))
    return Conviction._make(value) if type(value) is tuple else None


def begin_chain(state: Overlay, chain_id: bytes, validators: ValidatorSet, parameters: Parameters) -> None:
    """What genesis states outside this module's own part."""
    state.put(state_key(MODULE_NAME, "chain_id"), chain_id)
    state.put(state_key(MODULE_NAME, "parameters"), parameters.to_value())
    _put_epoch(state, validators)


def begin_epoch(state: Overlay, validators: ValidatorSet) -> Parameters:
    """Let the pending set and parameters take over, after the epoch's last block; the parameters in force then."""
    parameters = next_parameters(state)
    if parameters is not None:
        state.put(state_key(MODULE_NAME, "parameters"), parameters.to_value())
        state.put(state_key(MODULE_NAME, "next_parameters"), None)
    state.put(state_key(MODULE_NAME, "next_validators"), None)
    _put_epoch(state, validators)
    return parameters_in_force(state)


def _put_epoch(state: Overlay, validators: ValidatorSet) -> None:
    state.put(state_key(MODULE_NAME, "validators"), validators.to_value())
    state.put(state_key(MODULE_NAME, "epoch", validators.epoch), validators.to_value())
    if validators.epoch > EVIDENCE_EPOCHS:
        state.put(state_key(MODULE_NAME, "epoch", validators.epoch - EVIDENCE_EPOCHS - 1), None)


def _put_institution(ctx: Context, member: Member) -> None:
    ctx.put("institution", member.id, value=member.to_value())


def _check_free(ctx: Context, key: bytes, member_id: str) -> bool:
    """Whether the key is to be claimed: nobody's so far. False if it is the institution's already."""
    owner = ctx.get("key", key)
    if owner is not None and owner != member_id:
        raise Reject(Code.KEY_TAKEN, key)
    return owner is None


def _check_joins(ctx: Context, key: bytes, proof: bytes, name: str, path: str) -> None:
    check_key(key, path)
    check_possession(ctx.get("chain_id"), name, key, proof)


def _claim_key(ctx: Context, key: bytes, member_id: str) -> None:
    if _check_free(ctx, key, member_id):
        ctx.put("key", key, value=member_id)


def _check_proofs(op: AddKeys) -> None:
    if len(op.proofs) != len(op.keys):
        raise FieldReject("proofs", "one for each key")


def _check_added_proofs(op: ProposeValidators) -> None:
    if len(op.proofs) != len(op.add):
        raise FieldReject("proofs", "one for each added key")


def _add_keys(op: AddKeys, ctx: Context) -> None:
    member_id = ctx.member.id
    for index, (key, proof) in enumerate(zip(op.keys, op.proofs, strict=True)):
        if _check_free(ctx, key, member_id):
            _check_joins(ctx, key, proof, member_id, f"keys[{index}]")
            ctx.put("key", key, value=member_id)


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
    if _check_free(ctx, op.key, op.id):
        _check_joins(ctx, op.key, op.proof, op.id, "key")
    owns = ctx.get("key", op.key) == op.id
    _open_proposal(ctx, ("institution", *op.to_fields()[:-1], _standing(ctx, op.id), owns))


def _standing(ctx: Context, member_id: str) -> bytes:
    """What an institution is. Approvals are for a change of that, and do not outlive another one: else the last of
    them, however late, would undo a suspension. Keys are no part of it: an institution changes its own, and could keep
    itself from being suspended."""
    return hash_bytes(encode(ctx.get("institution", member_id)))


def _propose_validators(op: ProposeValidators, ctx: Context) -> None:
    _changed_set(_validator_key(ctx), op.add, op.remove)
    for index, (key, proof) in enumerate(zip(op.add, op.proofs, strict=True)):
        _check_joins(ctx, key, proof, VALIDATORS, f"add[{index}]")
    _open_proposal(ctx, ("validators", op.add, op.remove))


def _propose_parameters(op: ProposeParameters, ctx: Context) -> None:
    _validator_key(ctx)
    _changed_parameters(ctx, op.changes)
    _open_proposal(ctx, ("parameters", op.changes))


def _changed_parameters(ctx: Context, changes: tuple[tuple[str, int], ...]) -> Parameters:
    """What the changes make of the parameters in force; the detail names the first that does not fit."""
    if len({name for name, _ in changes}) != len(changes):
        raise Reject(Code.BAD_PARAMETERS, "a name is given twice")
    parameters = Parameters.from_value(ctx.get("parameters"))
    changed = parameters.changed(changes)
    problems = changed.problems()
    if problems or changed == parameters:
        raise Reject(Code.BAD_PARAMETERS, problems[0] if problems else "nothing changes")
    return changed


def _changed_set(validators: ValidatorSet, add: tuple[bytes, ...], remove: tuple[bytes, ...]) -> tuple[bytes, ...]:
    for key in remove:
        if validators.index(key) is None:
            raise Reject(Code.UNKNOWN_KEY, key)
    for key in add:
        if validators.index(key) is not None:
            raise Reject(Code.KEY_TAKEN, key)
    keys = (*(key for key in validators.keys if key not in remove), *add)
    _check_set(validators, keys)
    return keys


def _check_set(validators: ValidatorSet, keys: tuple[bytes, ...]) -> None:
    """Reject a set that could not follow `validators`."""
    kept = sum(validators.index(key) is not None for key in keys)
    # Fewer than a quorum of known keys would hand the chain to strangers in one step.
    if kept < min(validators.quorum, validators.n - validators.f):
        raise Reject(Code.NO_VALIDATOR_KEPT, kept)
    if not 4 <= len(keys) <= VALIDATORS_MAX and not len(keys) == validators.n == 1:
        raise Reject(Code.TOO_FEW_VALIDATORS, len(keys))


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
    if not op.approve:  # takes back an approval; else only a record: what does not reach a quorum does not happen
        approvals = tuple(key for key in approvals if key != ctx.sender)
        ctx.put("proposal", op.proposal, value=(proposer, change, approvals, True))
        return
    if ctx.sender in approvals:
        raise Reject(Code.ALREADY_VOTED)
    # Approvals of keys that have left count no more, and are dropped so that the list stays below VALIDATORS_MAX.
    approvals = (*(key for key in approvals if validators.index(key) is not None), ctx.sender)
    if len(approvals) >= validators.quorum:
        _enact(ctx, change, validators)
        is_open = False
    ctx.put("proposal", op.proposal, value=(proposer, change, approvals, is_open))


def _enact(ctx: Context, change: Any, validators: ValidatorSet) -> None:
    if change[0] == "institution":
        member_id, name, roles, key, prefixes, glns, active, standing, owned = change[1:]
        if standing != _standing(ctx, member_id):
            raise Reject(Code.PROPOSAL_OUTDATED)
        is_new = ctx.get("institution", member_id) is None
        # A key that was its own and was given up since stays away; one that is another's now is no reason to wait.
        if is_new or (active and not owned and ctx.get("key", key) is None):
            _claim_key(ctx, key, member_id)
        _put_institution(ctx, Member(member_id, name, roles, prefixes, glns, active))
        return
    if ctx.get("next_validators") is not None:
        raise Reject(Code.CHANGE_PENDING)
    keys = validators.keys
    if change[0] == "parameters":
        ctx.put("next_parameters", value=_changed_parameters(ctx, change[1]).to_value())
    else:
        keys = _changed_set(validators, change[1], change[2])
    _schedule(ctx, validators, keys)


def _schedule(ctx: Context, validators: ValidatorSet, keys: tuple[bytes, ...]) -> None:
    """Let an epoch begin as soon as every replica can know of it. Heights in flight belong to `validators`."""
    first_height = ctx.height + Parameters.from_value(ctx.get("parameters")).log_window + 1
    following = ValidatorSet.create(validators.epoch + 1, first_height, keys)
    ctx.put("next_validators", value=following.to_value())


def _report_evidence(op: ReportEvidence, ctx: Context, check: Check) -> None:
    """Copies are refused before a signature is checked: every node that saw the offence reports it."""
    try:
        evidence = Evidence.decode(op.evidence)
    except CodecError:
        raise Reject(Code.BAD_EVIDENCE) from None
    validators = ValidatorSet.from_value(ctx.get("validators"))
    if evidence.epoch + EVIDENCE_EPOCHS < validators.epoch:
        raise Reject(Code.EVIDENCE_EXPIRED, evidence.epoch)
    value = ctx.get("epoch", evidence.epoch)
    accused = None if value is None else ValidatorSet.from_value(value)
    if accused is None or evidence.member >= accused.n:
        raise Reject(Code.BAD_EVIDENCE)
    key = accused.keys[evidence.member]
    if ctx.get("evidence", evidence.epoch, key) is not None:
        raise Reject(Code.EVIDENCE_KNOWN, evidence.epoch, key)
    try:
        culprit = check_evidence(ctx.get("chain_id"), accused, op.evidence, check)
    except EvidenceRefused:
        raise Reject(Code.BAD_EVIDENCE) from None
    loses_vote = ctx.get("equivocation") == REMOVE and _take_vote(ctx, validators, culprit.key)
    found = Conviction(ctx.tx_id, ctx.height, int(culprit.offence), loses_vote)
    ctx.put("evidence", culprit.epoch, culprit.key, value=tuple(found))
    ctx.index("governance", "evidence")


def _take_vote(ctx: Context, validators: ValidatorSet, key: bytes) -> bool:
    """Leave the key out of the next epoch. False where it is not in there, or the others alone could not go on.

    A set that is pending already loses it too, and takes over when it would have: its epoch's end is known to all.
    """
    pending = ctx.get("next_validators")
    following = validators if pending is None else ValidatorSet.from_value(pending)
    if following.index(key) is None:
        return False
    keys = tuple(one for one in following.keys if one != key)
    try:
        _check_set(validators, keys)
    except Reject:
        return False
    if pending is None:
        _schedule(ctx, validators, keys)
    else:
        amended = ValidatorSet.create(following.epoch, following.first_height, keys)
        ctx.put("next_validators", value=amended.to_value())
    return True


def _genesis(document: Mapping[str, Any], ctx: Context) -> None:
    """`{"institutions": [{id, name, roles, keys: [hex], prefixes, glns}], "equivocation": "remove" or "record"}`."""
    equivocation = document.get("equivocation", REMOVE)
    if equivocation not in (REMOVE, RECORD):
        raise ValueError(f"equivocation: {REMOVE} or {RECORD}")
    ctx.put("equivocation", value=equivocation)
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
            _parse_institution((member.id, member.name, member.roles, key, member.prefixes, member.glns, True, b""))
            check_key(key, "keys")
            _claim_key(ctx, key, member.id)
        _put_institution(ctx, member)


def module(check: Check = verify) -> RuleModule:
    """The module, with another check of validators' signatures where a simulation has its own."""
    return RuleModule(
        name=MODULE_NAME,
        version=1,
        rules=(
            Rule(AddKeys, _add_keys, check=_check_proofs, roles=frozenset(Role)),
            Rule(RemoveKeys, _remove_keys, roles=frozenset(Role)),
            Rule(ProposeInstitution, _propose_institution),
            Rule(ProposeValidators, _propose_validators, check=_check_added_proofs),
            Rule(ProposeParameters, _propose_parameters),
            Rule(Vote, _vote),
            Rule(ReportEvidence, partial(_report_evidence, check=check)),
        ),
        genesis=_genesis,
    )


MODULE = module()
