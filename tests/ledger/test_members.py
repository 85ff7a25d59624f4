"""Rules of `members` and what execution makes of them: governance, epochs, suspension, keys, replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import pytest

from ledger.block import RECEIPT_SIZE_BYTES_MAX
from ledger.codec import encode
from ledger.crypto import KeyPair, hash_bytes
from ledger.errors import Code, ConfigError, Reject
from ledger.fields import Integer, Operation
from ledger.genesis import Parameters
from ledger.modules import records
from ledger.modules.members import (
    KEYS_PER_CALL_MAX,
    AddKeys,
    ProposeInstitution,
    ProposeValidators,
    RemoveKeys,
    Vote,
    next_validators,
    validators_in_force,
)
from ledger.modules.parties import VALIDATORS, join_statement
from ledger.modules.records import Register
from ledger.rules import Context, Rule, RuleModule, member_by_id, member_by_key
from tests.ledger.chain import Chain, institution, key_pair

CLINIC, OTHER, CLERK, NEW = key_pair("clinic"), key_pair("other"), key_pair("clerk"), key_pair("new")
UNKNOWN = hash_bytes(b"unknown")
# Short epochs: a change takes effect at the end of the third block after the one that enacts it.
QUICK = Parameters(window=1, checkpoint_interval=1, log_window=3)


def new_chain(count: int = 4, **more: Any) -> Chain:
    institutions = [institution("clinic", "hospital"), institution("other", "hospital")]
    validators = tuple(key_pair(f"validator {index}") for index in range(count))
    genesis = {"members": {"institutions": institutions}, "records": {}}
    return Chain([records.MODULE], genesis, validators=validators, **more)


@pytest.fixture
def chain() -> Chain:
    return new_chain(parameters=QUICK)


def proof(chain: Chain, pair: KeyPair, name: str) -> bytes:
    """The holder's agreement to join `name`."""
    return pair.sign(join_statement(chain.genesis.chain_id, name))


def add_keys(chain: Chain, name: str, *pairs: KeyPair) -> AddKeys:
    return AddKeys(tuple(pair.public for pair in pairs), tuple(proof(chain, pair, name) for pair in pairs))


def admit(chain: Chain, pair: KeyPair = NEW) -> ProposeInstitution:
    return ProposeInstitution("new", "New", ("pharmacy",), pair.public, (), (), True, proof(chain, pair, "new"))


def change_set(chain: Chain, add: Sequence[KeyPair] = (), remove: Sequence[KeyPair] = ()) -> ProposeValidators:
    proofs = tuple(proof(chain, pair, VALIDATORS) for pair in add)
    return ProposeValidators(tuple(pair.public for pair in add), tuple(pair.public for pair in remove), proofs)


def propose(chain: Chain, operation: Operation, by: int = 0) -> bytes:
    receipt = chain.send(chain.validators[by], operation)
    assert receipt.ok
    return receipt.tx_id


def approve(chain: Chain, proposal: bytes, *voters: int) -> list[int]:
    receipts = chain.block(*((chain.validators[voter], Vote(proposal, True)) for voter in voters))
    return [receipt.code for receipt in receipts]


def is_open(chain: Chain, proposal: bytes) -> bool:
    return bool(chain.read("members", "proposal", proposal)[3])


def swap(chain: Chain, count: int) -> ProposeValidators:
    """Replace the last `count` validators by newcomers."""
    newcomers = [key_pair(f"newcomer {index}") for index in range(count)]
    return change_set(chain, newcomers, chain.validators[4 - count : 4])


def test_a_quorum_admits_an_institution(chain: Chain) -> None:
    proposal = propose(chain, admit(chain))
    assert approve(chain, proposal, 1) == [Code.OK]
    assert member_by_id(chain, "new") is None
    assert approve(chain, proposal, 2) == [Code.OK]
    member = member_by_key(chain, NEW.public)
    assert member is not None
    assert (member.id, member.roles, member.active) == ("new", ("pharmacy",), True)
    assert chain.send(NEW, Register(UNKNOWN, CLERK.public, "Observation", 1)).ok
    assert len(chain.found("governance", "votes")) == 2


@pytest.mark.parametrize(("count", "quorum"), [(4, 3), (5, 4), (6, 4), (7, 5)])
def test_a_proposal_passes_at_the_quorum_and_not_before(count: int, quorum: int) -> None:
    """Trap 1. The proposer's own approval counts once."""
    chain = new_chain(count)
    proposal = propose(chain, admit(chain))
    approve(chain, proposal, *range(1, quorum - 1))
    assert is_open(chain, proposal)
    approve(chain, proposal, quorum - 1)
    assert not is_open(chain, proposal)
    assert member_by_id(chain, "new") is not None


def test_a_single_validator_decides_alone() -> None:
    chain = new_chain(1)
    assert not is_open(chain, propose(chain, admit(chain)))
    assert member_by_id(chain, "new") is not None


def test_votes_count_once_and_only_of_validators(chain: Chain) -> None:
    """Trap 2."""
    proposal = propose(chain, admit(chain))
    assert approve(chain, proposal, 0, 1, 1) == [Code.ALREADY_VOTED, Code.OK, Code.ALREADY_VOTED]
    assert chain.send(CLINIC, Vote(proposal, True)).code == Code.NOT_A_VALIDATOR
    assert chain.send(CLINIC, admit(chain)).code == Code.NOT_A_VALIDATOR
    assert chain.send(CLINIC, swap(chain, 1)).code == Code.NOT_A_VALIDATOR
    assert member_by_id(chain, "new") is None


def test_a_refusal_decides_nothing_and_may_become_an_approval(chain: Chain) -> None:
    proposal = propose(chain, admit(chain))
    assert chain.send(chain.validators[3], Vote(proposal, False)).ok
    assert is_open(chain, proposal)
    assert approve(chain, proposal, 1, 3) == [Code.OK, Code.OK]
    assert not is_open(chain, proposal)


def test_an_approval_may_be_taken_back(chain: Chain) -> None:
    proposal = propose(chain, admit(chain))
    assert approve(chain, proposal, 1) == [Code.OK]
    assert chain.send(chain.validators[1], Vote(proposal, False)).ok
    assert approve(chain, proposal, 2) == [Code.OK]
    assert is_open(chain, proposal), "the proposer's and one more"
    assert approve(chain, proposal, 1) == [Code.OK]
    assert not is_open(chain, proposal)


def test_old_approvals_do_not_undo_what_was_decided_since(chain: Chain) -> None:
    """The last of them alone made a suspended institution active again."""
    clinic = member_by_id(chain, "clinic")
    assert clinic is not None
    active, suspended = (
        ProposeInstitution("clinic", name, clinic.roles, CLINIC.public, (), (), is_active, b"")
        for name, is_active in (("Renamed", True), ("Clinic", False))
    )
    old = propose(chain, active)
    assert approve(chain, old, 1) == [Code.OK]
    assert approve(chain, propose(chain, suspended), 1, 2) == [Code.OK, Code.OK]
    assert approve(chain, old, 3) == [Code.PROPOSAL_OUTDATED]
    found = member_by_id(chain, "clinic")
    assert found is not None
    assert not found.active


def test_a_key_given_up_since_does_not_come_back_by_an_old_proposal(chain: Chain) -> None:
    assert chain.send(CLINIC, add_keys(chain, "clinic", NEW)).ok
    clinic = member_by_id(chain, "clinic")
    assert clinic is not None
    old = propose(chain, ProposeInstitution("clinic", "Renamed", clinic.roles, NEW.public, (), (), True, b""))
    assert chain.send(CLINIC, RemoveKeys((NEW.public,))).ok
    assert approve(chain, old, 1, 2) == [Code.OK, Code.OK]
    assert member_by_key(chain, NEW.public) is None
    renamed = member_by_id(chain, "clinic")
    assert renamed is not None
    assert renamed.name == "Renamed"


@pytest.mark.parametrize("named", [CLINIC, NEW], ids=["its own key", "a key that it then takes"])
def test_an_institution_cannot_keep_itself_from_being_suspended(chain: Chain, named: KeyPair) -> None:
    """A proposal names a key; the suspect may give that up, or claim it with the proof that it read there."""
    clinic, brought = member_by_id(chain, "clinic"), proof(chain, named, "clinic")
    assert clinic is not None
    suspension = ProposeInstitution("clinic", "Clinic", clinic.roles, named.public, (), (), False, brought)
    proposal = propose(chain, suspension)
    assert chain.send(CLINIC, add_keys(chain, "clinic", CLERK)).ok
    if named is CLINIC:
        assert chain.send(CLERK, RemoveKeys((CLINIC.public,))).ok
    else:
        assert chain.send(CLINIC, AddKeys((NEW.public,), (brought,))).ok
    assert approve(chain, proposal, 1, 2) == [Code.OK, Code.OK]
    found = member_by_id(chain, "clinic")
    assert found is not None
    assert not found.active


def test_the_proposer_may_withdraw(chain: Chain) -> None:
    proposal = propose(chain, admit(chain))
    assert chain.send(chain.validators[0], Vote(proposal, False)).ok
    assert approve(chain, proposal, 1, 2) == [Code.PROPOSAL_CLOSED] * 2
    assert member_by_id(chain, "new") is None


def test_a_proposal_is_enacted_once(chain: Chain) -> None:
    proposal = propose(chain, admit(chain))
    assert approve(chain, proposal, 1, 2, 3) == [Code.OK, Code.OK, Code.PROPOSAL_CLOSED]
    assert approve(chain, UNKNOWN, 1) == [Code.UNKNOWN_PROPOSAL]


def test_a_validator_change_takes_effect_at_the_stated_height_and_not_before(chain: Chain) -> None:
    """Trap 3."""
    proposal = propose(chain, swap(chain, 1))
    approve(chain, proposal, 1, 2)
    enacted = chain.height
    pending = next_validators(chain)
    assert pending is not None
    assert (pending.epoch, pending.first_height) == (1, enacted + QUICK.log_window + 1)
    before = chain.genesis.validator_set
    while chain.height < pending.first_height - 1:
        assert chain.tip.validators == before
        assert chain.tip.epoch_end == pending.first_height - 1
        last = chain.execute(())
    assert last.header.epoch == 0
    assert last.is_checkpoint
    assert chain.tip.validators == validators_in_force(chain) == pending
    assert chain.tip.epoch_end is None
    assert next_validators(chain) is None
    assert chain.execute(()).header.epoch == 1


def test_a_removed_validator_counts_no_more(chain: Chain) -> None:
    """Traps 2 and 3. Its earlier approval is not counted either."""
    removed = chain.validators[3]
    admission = propose(chain, admit(chain), by=3)
    change = propose(chain, swap(chain, 1))
    assert approve(chain, change, 1, 2) == [Code.OK, Code.OK]
    chain.advance(QUICK.log_window)
    assert chain.send(removed, Vote(admission, True)).code == Code.NOT_A_VALIDATOR
    assert approve(chain, admission, 0, 1) == [Code.OK, Code.OK]
    assert is_open(chain, admission)
    assert chain.send(key_pair("newcomer 0"), Vote(admission, True)).ok
    assert not is_open(chain, admission)


def test_one_change_of_validators_is_pending_at_a_time(chain: Chain) -> None:
    first, second = propose(chain, swap(chain, 1)), propose(chain, change_set(chain, [NEW]))
    approve(chain, first, 1, 2)
    assert approve(chain, second, 1, 2) == [Code.OK, Code.CHANGE_PENDING]
    assert is_open(chain, second)
    chain.advance(QUICK.log_window)
    assert approve(chain, second, 2) == [Code.OK]
    chain.advance(QUICK.log_window)
    assert (chain.tip.validators.n, chain.tip.validators.epoch) == (5, 2)


def test_a_change_that_no_longer_fits_is_refused_at_its_last_vote(chain: Chain) -> None:
    """Trap 46. It was valid when proposed, against another set."""
    first, second = propose(chain, swap(chain, 1)), propose(chain, swap(chain, 1))
    approve(chain, first, 1, 2)
    chain.advance(QUICK.log_window)
    assert approve(chain, second, 1, 2) == [Code.OK, Code.UNKNOWN_KEY]


def test_fewer_than_four_validators_are_refused(chain: Chain) -> None:
    """Trap 4."""
    receipt = chain.send(chain.validators[0], change_set(chain, (), chain.validators[3:]))
    assert (receipt.code, receipt.detail) == (Code.TOO_FEW_VALIDATORS, (3,))


@pytest.mark.parametrize("count", [2, 4])
def test_a_change_that_keeps_less_than_a_quorum_is_refused(chain: Chain, count: int) -> None:
    """Trap 4."""
    receipt = chain.send(chain.validators[0], swap(chain, count))
    assert (receipt.code, receipt.detail) == (Code.NO_VALIDATOR_KEPT, (4 - count,))


def test_a_change_names_present_and_absent_keys_rightly(chain: Chain) -> None:
    receipts = chain.block(
        (chain.validators[0], change_set(chain, [chain.validators[1]])),
        (chain.validators[0], change_set(chain, (), [NEW])),
        (chain.validators[0], change_set(chain, [NEW, NEW])),
    )
    assert [receipt.code for receipt in receipts] == [Code.KEY_TAKEN, Code.UNKNOWN_KEY, Code.BAD_FIELD]


def test_one_validator_may_grow_to_four() -> None:
    chain = new_chain(1, parameters=QUICK)
    newcomers = [key_pair(f"newcomer {index}") for index in range(3)]
    assert chain.send(chain.validators[0], change_set(chain, newcomers[:2])).code == Code.TOO_FEW_VALIDATORS
    propose(chain, change_set(chain, newcomers))
    chain.advance(QUICK.log_window)
    assert chain.tip.validators.n == 4


def test_a_suspended_institution_may_do_nothing_until_it_is_active_again(chain: Chain) -> None:
    register = Register(UNKNOWN, CLERK.public, "Observation", 1)
    suspend = ProposeInstitution("clinic", "clinic", ("hospital",), CLINIC.public, (), (), False, b"")
    approve(chain, propose(chain, suspend), 1, 2)
    refused = chain.block((CLINIC, register), (CLINIC, add_keys(chain, "clinic", CLERK)))
    assert {receipt.code for receipt in refused} == {Code.MEMBER_SUSPENDED}
    approve(chain, propose(chain, replace(suspend, active=True)), 1, 2)
    assert chain.send(CLINIC, register).ok


def test_an_institution_adds_and_removes_its_keys(chain: Chain) -> None:
    register = Register(UNKNOWN, CLERK.public, "Observation", 1)
    assert chain.send(CLERK, register).code == Code.NOT_A_MEMBER
    receipts = chain.block(
        (CLINIC, add_keys(chain, "clinic", CLERK)), (CLERK, register), (CLERK, RemoveKeys((CLINIC.public,)))
    )
    assert [receipt.code for receipt in receipts] == [0, 0, 0]
    assert chain.read("records", "record", UNKNOWN)[0] == "clinic"
    assert chain.send(CLINIC, add_keys(chain, "clinic", NEW)).code == Code.NOT_A_MEMBER


def test_keys_belong_to_one_institution_and_one_always_stays(chain: Chain) -> None:
    receipts = chain.block(
        (CLINIC, add_keys(chain, "clinic", CLERK, OTHER)),
        (CLINIC, RemoveKeys((OTHER.public,))),
        (CLINIC, RemoveKeys((CLINIC.public,))),
        (CLERK, add_keys(chain, "clinic", NEW)),
        (chain.validators[0], admit(chain, OTHER)),
        (CLINIC, AddKeys((b"\x01" + b"\x01" + bytes(31),), (b"",))),
    )
    assert [receipt.code for receipt in receipts] == [
        Code.KEY_TAKEN,
        Code.UNKNOWN_KEY,
        Code.KEY_IN_USE,
        Code.NOT_A_MEMBER,  # the refused call above left nothing behind
        Code.KEY_TAKEN,
        Code.BAD_FIELD,
    ]


def test_a_key_taken_while_a_proposal_is_open_refuses_its_enactment(chain: Chain) -> None:
    proposal = propose(chain, admit(chain))
    chain.send(CLINIC, add_keys(chain, "clinic", NEW))
    assert approve(chain, proposal, 1, 2) == [Code.OK, Code.KEY_TAKEN]
    assert member_by_id(chain, "new") is None


@pytest.mark.parametrize(
    "broken",
    [
        {"id": "x" * 33},
        {"id": 7},
        {"id": "other"},
        {"roles": []},
        {"roles": ["king"]},
        {"keys": ["01" + "00" * 32]},
        {"keys": ["zz"]},
        {"keys": [OTHER.public.hex()]},
        {"prefixes": ["123"]},
        {"glns": ["123"]},
    ],
)
def test_genesis_with_an_impossible_institution_is_a_configuration_error(broken: dict[str, Any]) -> None:
    institutions = [institution("other", "hospital"), {**institution("clinic", "hospital"), **broken}]
    with pytest.raises(ConfigError, match=r"modules\.members"):
        Chain([], {"members": {"institutions": institutions}})


def test_genesis_that_names_an_unknown_module_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"modules\.weather"):
        Chain([], {"weather": {}})


def test_a_transaction_is_executed_once_within_and_across_blocks(chain: Chain) -> None:
    add = chain.transaction(CLINIC, add_keys(chain, "clinic", CLERK))
    codes = [[receipt.code for receipt in chain.execute(block).receipts] for block in ([add, add], [add])]
    assert codes == [[Code.OK, Code.REPLAYED], [Code.REPLAYED]]


def test_a_refused_transaction_cannot_succeed_later_with_the_same_signature(chain: Chain) -> None:
    early = chain.transaction(CLERK, Register(UNKNOWN, CLERK.public, "Observation", 1))
    assert chain.execute([early]).receipts[0].code == Code.NOT_A_MEMBER
    chain.send(CLINIC, add_keys(chain, "clinic", CLERK))
    assert chain.execute([early]).receipts[0].code == Code.REPLAYED


def test_an_expired_transaction_is_refused_and_then_forgotten(chain: Chain) -> None:
    add = chain.transaction(CLINIC, add_keys(chain, "clinic", CLERK), valid_until=2)
    chain.execute([add])
    assert len(chain.executor.replay) == 1
    chain.advance(1)
    assert len(chain.executor.replay) == 0
    assert chain.execute([add]).receipts[0].code == Code.EXPIRED


def test_too_long_a_validity_is_refused_and_remembered_by_nobody(chain: Chain) -> None:
    """A node that restarts reads only the window's blocks: what it could not know, no node may remember."""
    far = chain.transaction(
        CLINIC, add_keys(chain, "clinic", CLERK), valid_until=chain.height + 2 + QUICK.validity_heights_max
    )
    assert chain.execute([far]).receipts[0].code == Code.VALIDITY_TOO_LONG
    assert len(chain.executor.replay) == 0
    assert chain.execute([far]).receipts[0].ok


def test_a_transaction_of_another_chain_is_refused(chain: Chain) -> None:
    foreign = new_chain(5).transaction(CLINIC, add_keys(chain, "clinic", CLERK))
    assert chain.execute([foreign]).receipts[0].code == Code.WRONG_CHAIN


@dataclass(frozen=True, slots=True)
class Misbehave(Operation):
    """What a careless rule could do, by number."""

    NAME = "careless.do"
    number: Annotated[int, Integer()]


def careless(op: Misbehave, ctx: Context) -> None:
    ctx.put("table", "touched", value=1)
    faults: dict[int, Any] = {
        0: lambda: 1 // 0,
        1: lambda: ctx.put("table", value=0.5),  # type: ignore[arg-type]
        2: lambda: ctx.put("table", value=(1, (2**64,))),
        3: lambda: ctx.index("name", 5),  # type: ignore[arg-type]
        4: lambda: ctx.put("table", value=None),
        5: lambda: ctx.put("table", 0.5, value=1),  # type: ignore[arg-type]
    }
    if op.number in faults:
        faults[op.number]()
    else:
        raise Reject(Code.NOT_FOUND, "x" * 5_000, 2**70, 0.5, *(["中" * 900] * 50))  # type: ignore[arg-type]


CARELESS = RuleModule(name="careless", version=1, rules=(Rule(Misbehave, careless),))


@pytest.mark.parametrize("number", range(6))
def test_a_rules_mistake_costs_its_transaction_and_never_the_node(number: int) -> None:
    """Trap 45."""
    chain = Chain([CARELESS], {"careless": {}})
    receipt = chain.send(CLINIC, Misbehave(number))
    assert (receipt.code, receipt.detail[0]) == (Code.RULE_FAILED, "careless")
    assert chain.table("careless", "table") == {}


def test_a_receipt_stays_small_whatever_a_rule_puts_into_it() -> None:
    receipt = Chain([CARELESS], {"careless": {}}).send(CLINIC, Misbehave(9))
    assert receipt.detail[:3] == ("x" * 112, "int", "float")
    assert len(encode(receipt.to_value())) <= RECEIPT_SIZE_BYTES_MAX


def test_the_name_of_an_unknown_operation_does_not_fill_the_receipt(chain: Chain) -> None:
    class Endless(Misbehave):
        NAME = "x" * 10_000

    receipt = chain.send(CLINIC, Endless(1))
    assert receipt.code == Code.UNKNOWN_OPERATION
    assert len(encode(receipt.to_value())) <= RECEIPT_SIZE_BYTES_MAX


def test_nobody_can_claim_a_key_that_is_not_his(chain: Chain) -> None:
    """A patient's key must not become an institution's: then no grant would protect the patient's records."""
    patient = key_pair("patient")
    foreign = new_chain(5)
    for agreed in (
        b"",
        bytes(65),
        proof(chain, CLINIC, "clinic"),
        proof(chain, patient, "other"),
        proof(chain, patient, VALIDATORS),
        proof(foreign, patient, "clinic"),
    ):
        receipt = chain.send(CLINIC, AddKeys((patient.public,), (agreed,)))
        assert (receipt.code, receipt.detail) == (Code.KEY_NOT_PROVEN, (patient.public,))
    assert member_by_key(chain, patient.public) is None
    assert chain.send(CLINIC, add_keys(chain, "clinic", patient)).ok


def test_one_key_without_its_proof_spoils_the_call(chain: Chain) -> None:
    whole = add_keys(chain, "clinic", CLERK, NEW)
    assert chain.send(CLINIC, replace(whole, proofs=whole.proofs[::-1])).code == Code.KEY_NOT_PROVEN
    assert chain.send(CLINIC, replace(whole, proofs=whole.proofs[:1])).code == Code.BAD_FIELD
    assert member_by_key(chain, CLERK.public) is member_by_key(chain, NEW.public) is None


def test_an_institutions_own_key_needs_no_proof_again(chain: Chain) -> None:
    assert chain.send(CLINIC, AddKeys((CLINIC.public,), (b"",))).ok


def test_proposals_prove_the_keys_they_bring(chain: Chain) -> None:
    joins = change_set(chain, [NEW])
    receipts = chain.block(
        (chain.validators[0], replace(admit(chain), proof=b"")),
        (chain.validators[0], replace(admit(chain), id="elsewhere")),
        (chain.validators[0], replace(joins, proofs=(proof(chain, NEW, "new"),))),
        (chain.validators[0], replace(joins, proofs=())),
    )
    assert [receipt.code for receipt in receipts] == [*[Code.KEY_NOT_PROVEN] * 3, Code.BAD_FIELD]


def test_the_largest_call_that_adds_keys_fits_a_transaction(chain: Chain) -> None:
    pairs = [key_pair(f"clerk {index}") for index in range(KEYS_PER_CALL_MAX)]
    assert chain.send(CLINIC, add_keys(chain, "clinic", *pairs)).ok
    assert member_by_key(chain, pairs[-1].public) is not None
