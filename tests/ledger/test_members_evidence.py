"""Evidence on the chain: a validator that contradicted itself is convicted once, loses its vote; none is framed."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.block import Phase, vote_statement
from ledger.crypto import KeyPair, hash_bytes
from ledger.errors import Code, ConfigError
from ledger.evidence import Evidence, Half, Offence
from ledger.modules import members
from ledger.modules.members import (
    EVIDENCE_EPOCHS,
    ProposeParameters,
    ReportEvidence,
    conviction,
    next_parameters,
    next_validators,
    validators_of,
)
from ledger.validators import ValidatorSet
from tests.ledger.chain import Chain, key_pair
from tests.ledger.test_members import CLINIC, QUICK, approve, change_set, new_chain, propose

A, B = hash_bytes(b"a"), hash_bytes(b"b")
STRANGER = key_pair("stranger")


def contradiction(
    chain: Chain,
    pair: KeyPair,
    *,
    height: int = 1,
    epoch: int | None = None,
    signer: KeyPair | None = None,
    chain_id: bytes | None = None,
    other: int = 0,
) -> ReportEvidence:
    """Two commits of `pair` at one height; `signer`, `chain_id` and `other` spoil the second of them."""
    epoch = chain.tip.validators.epoch if epoch is None else epoch
    validators = validators_of(chain, epoch)
    assert validators is not None
    member = validators.index(pair.public)
    assert member is not None
    first = vote_statement(chain.genesis.chain_id, epoch, 0, height, Phase.COMMIT, A)
    second = vote_statement(chain_id or chain.genesis.chain_id, epoch, 0, height + other, Phase.COMMIT, B)
    halves = Half((A,), pair.sign(first)), Half((B,), (signer or pair).sign(second))
    return ReportEvidence(Evidence.of(Offence.VOTE, epoch, member, (0, height, int(Phase.COMMIT)), *halves).wire)


def report(chain: Chain, pair: KeyPair, by: KeyPair = STRANGER, **more: Any) -> int:
    return chain.send(by, contradiction(chain, pair, **more)).code


def chain_of(count: int, **members_part: Any) -> Chain:
    return new_chain(count, parameters=QUICK, **members_part)


@pytest.fixture
def chain() -> Chain:
    return chain_of(6)


def test_who_contradicts_himself_loses_his_vote_at_the_next_epoch(chain: Chain) -> None:
    """Trap 48. Anyone may report it."""
    culprit = chain.validators[5]
    receipt = chain.send(STRANGER, contradiction(chain, culprit))
    assert receipt.ok
    found = conviction(chain, 0, culprit.public)
    assert found == (receipt.tx_id, chain.height, int(Offence.VOTE), True)
    assert chain.found("governance", "evidence") == [receipt.tx_id]
    pending = next_validators(chain)
    assert pending is not None
    assert pending.first_height == chain.height + QUICK.log_window + 1
    assert chain.tip.validators.n == 6
    chain.advance(QUICK.log_window)
    assert chain.tip.validators == pending
    assert chain.tip.validators.index(culprit.public) is None
    assert chain.tip.validators.n == 5


def test_it_is_committed_once_and_copies_are_refused_unread(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 48. Every node that saw it reports it, also with another pair of statements."""
    culprit = chain.validators[5]
    same = contradiction(chain, culprit)
    receipts = chain.block((STRANGER, same), (CLINIC, same), (CLINIC, contradiction(chain, culprit, height=2)))
    assert [receipt.code for receipt in receipts] == [Code.OK, Code.EVIDENCE_KNOWN, Code.EVIDENCE_KNOWN]

    def never(*arguments: object) -> None:
        raise AssertionError("a copy costs no check of signatures")

    monkeypatch.setattr(members, "check_evidence", never)
    assert report(chain, culprit) == Code.EVIDENCE_KNOWN
    assert len(chain.found("governance", "evidence")) == 1


@pytest.mark.parametrize(
    "spoilt",
    [
        {"signer": STRANGER},
        {"signer": key_pair("validator 1")},
        {"chain_id": hash_bytes(b"other chain")},
        {"other": 1},
    ],
    ids=["signed by a stranger", "signed by another member", "of another chain", "of another height"],
)
def test_an_honest_member_is_not_framed(chain: Chain, spoilt: dict[str, Any]) -> None:
    """Trap 48."""
    honest = chain.validators[5]
    assert report(chain, honest, **spoilt) == Code.BAD_EVIDENCE
    assert conviction(chain, 0, honest.public) is None
    assert next_validators(chain) is None
    assert report(chain, honest) == Code.OK  # what was refused stands in nobody's way


def test_bytes_that_are_no_evidence_are_refused(chain: Chain) -> None:
    """Trap 35."""
    good = contradiction(chain, chain.validators[5]).evidence
    later = Evidence.decode(good)
    beyond = Evidence.of(later.offence, 2**62, later.member, later.place, later.first, later.second)
    outside = Evidence.of(later.offence, 0, 6, later.place, later.first, later.second)
    for wire in (b"\x00", good[:-1], good + b"\x00", beyond.wire, outside.wire):
        assert chain.send(STRANGER, ReportEvidence(wire)).code == Code.BAD_EVIDENCE
    assert chain.send(STRANGER, ReportEvidence(b"")).code == Code.BAD_FIELD
    assert chain.send(STRANGER, ReportEvidence(bytes(513))).code == Code.BAD_FIELD


def test_where_fewer_than_four_would_remain_it_is_recorded_only() -> None:
    """Trap 4."""
    chain = chain_of(5)
    first, second = chain.validators[4], chain.validators[3]
    assert report(chain, first) == Code.OK
    chain.advance(QUICK.log_window)
    assert chain.tip.validators.n == 4
    assert report(chain, second) == Code.OK
    found = conviction(chain, 1, second.public)
    assert found is not None
    assert not found.loses_vote
    assert next_validators(chain) is None


def test_two_culprits_in_one_epoch_leave_together_as_far_as_four_remain(chain: Chain) -> None:
    codes = [report(chain, chain.validators[index]) for index in (5, 4, 3)]
    assert codes == [Code.OK] * 3
    convicted = [conviction(chain, 0, chain.validators[index].public) for index in (5, 4, 3)]
    assert [one.loses_vote for one in convicted if one is not None] == [True, True, False]
    pending = next_validators(chain)
    assert pending is not None
    assert pending.n == 4
    chain.advance(pending.first_height - 1 - chain.height)
    assert chain.tip.validators == pending


def test_a_set_that_is_pending_loses_the_culprit_and_keeps_its_height(chain: Chain) -> None:
    """Trap 3. Replicas were told when the epoch ends; that must not move."""
    joining = key_pair("seventh")
    approve(chain, propose(chain, change_set(chain, [joining])), 1, 2, 3)
    before = next_validators(chain)
    assert before is not None
    while chain.height < before.first_height - 2:
        chain.advance(1)
    assert report(chain, chain.validators[5]) == Code.OK  # in the epoch's last block
    assert chain.tip.validators.first_height == before.first_height
    assert chain.tip.validators.index(joining.public) is not None
    assert chain.tip.validators.index(chain.validators[5].public) is None


def test_pending_parameters_survive_a_conviction(chain: Chain) -> None:
    approve(chain, propose(chain, ProposeParameters((("window", 1), ("log_window", 6)))), 1, 2, 3)
    following = next_parameters(chain)
    assert following is not None
    assert report(chain, chain.validators[5]) == Code.OK
    chain.advance(QUICK.log_window)
    assert (chain.tip.parameters, chain.tip.validators.n) == (following, 5)


def test_one_that_has_left_is_convicted_for_its_epoch_and_loses_nothing(chain: Chain) -> None:
    """Trap 48: a removed validator."""
    gone = chain.validators[5]
    approve(chain, propose(chain, change_set(chain, (), [gone])), 1, 2, 3)
    chain.advance(QUICK.log_window)
    assert chain.tip.validators.epoch == 1
    assert report(chain, gone, epoch=0) == Code.OK
    found = conviction(chain, 0, gone.public)
    assert found is not None
    assert not found.loses_vote
    assert next_validators(chain) is None


def test_a_member_of_an_earlier_epoch_that_still_votes_loses_its_vote(chain: Chain) -> None:
    approve(chain, propose(chain, change_set(chain, [key_pair("seventh")])), 1, 2, 3)
    chain.advance(QUICK.log_window)
    assert report(chain, chain.validators[5], epoch=0) == Code.OK
    chain.advance(QUICK.log_window)
    assert chain.tip.validators.index(chain.validators[5].public) is None


def next_epoch(chain: Chain) -> None:
    interval = QUICK.block_interval_ms + chain.tip.validators.epoch % 2
    by = [key_pair(f"validator {index}") for index in range(chain.tip.validators.quorum)]
    proposed = chain.send(by[0], ProposeParameters((("block_interval_ms", interval + 1),)))
    assert proposed.ok
    approve(chain, proposed.tx_id, *range(1, len(by)))
    chain.advance(QUICK.log_window)


def test_evidence_expires_and_the_state_keeps_no_more_sets_than_that(chain: Chain) -> None:
    """Trap 48."""
    old = contradiction(chain, chain.validators[5])
    for _ in range(EVIDENCE_EPOCHS):
        next_epoch(chain)
    assert chain.tip.validators.epoch == EVIDENCE_EPOCHS
    spare = contradiction(chain, chain.validators[4], epoch=0)
    assert chain.send(STRANGER, spare).code == Code.OK
    chain.advance(QUICK.log_window)  # it lost its vote, and an epoch began
    assert chain.send(STRANGER, old).code == Code.EVIDENCE_EXPIRED
    kept = chain.table("members", "epoch")
    assert [epoch for (epoch,) in kept] == [*range(1, EVIDENCE_EPOCHS + 2)]
    assert ValidatorSet.from_value(kept[EVIDENCE_EPOCHS + 1,]) == chain.tip.validators


def test_a_genesis_may_say_that_it_is_recorded_only() -> None:
    chain = Chain(
        [],
        {"members": {"equivocation": "record"}},
        validators=tuple(key_pair(f"validator {index}") for index in range(6)),
        parameters=QUICK,
    )
    assert report(chain, chain.validators[5]) == Code.OK
    found = conviction(chain, 0, chain.validators[5].public)
    assert found is not None
    assert not found.loses_vote
    assert next_validators(chain) is None


def test_a_genesis_with_another_rule_for_equivocation_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="equivocation"):
        Chain([], {"members": {"equivocation": "ignore"}})
