"""One height's place in the log: counting votes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.slots import Slot
from ledger.block import Phase
from tests.consensus.samples import CHAIN, DIGEST, FOUR, pre_prepare, prepared, proposal, vote


def slot_with(phase: Phase, members: tuple[int, ...], digest: bytes = DIGEST) -> Slot:
    slot = Slot(105)
    for member in members:
        slot.votes(phase)[member] = vote(member, phase, digest=digest)
    return slot


@pytest.mark.parametrize("phase", Phase)
def test_a_quorum_of_matching_votes_makes_a_certificate_that_verifies(phase: Phase) -> None:
    """Trap 43."""
    slot = slot_with(phase, (3, 0, 2))
    certificate = slot.quorum_certificate(phase, DIGEST, FOUR.quorum)
    assert certificate is not None
    assert (certificate.height, certificate.view, certificate.phase, certificate.digest) == (105, 3, phase, DIGEST)
    assert certificate.valid(CHAIN, FOUR)


def test_fewer_votes_or_votes_for_something_else_make_none() -> None:
    """Trap 1, 2."""
    slot = slot_with(Phase.PREPARE, (0, 1))
    assert slot.quorum_certificate(Phase.PREPARE, DIGEST, 3) is None
    slot.prepares[2] = vote(2, digest=CHAIN)
    assert slot.quorum_certificate(Phase.PREPARE, DIGEST, 3) is None
    assert slot.quorum_certificate(Phase.PREPARE, CHAIN, 3) is None
    slot.prepares[3] = vote(3)
    assert slot.quorum_certificate(Phase.PREPARE, DIGEST, 3) is not None
    assert slot.quorum_certificate(Phase.PREPARE, CHAIN, 1) is not None


def test_prepares_are_never_counted_as_commits() -> None:
    """Trap 41."""
    slot = slot_with(Phase.PREPARE, (0, 1, 2, 3))
    assert slot.quorum_certificate(Phase.COMMIT, DIGEST, 3) is None
    assert slot.commits == {}


def test_a_certificate_holds_exactly_a_quorum_in_order_of_members() -> None:
    """Trap 43."""
    certificate = slot_with(Phase.COMMIT, (3, 2, 1, 0)).quorum_certificate(Phase.COMMIT, DIGEST, 3)
    assert certificate is not None
    assert [member for member, _ in certificate.signatures] == [0, 1, 2]


def test_entering_a_view_forgets_votes_and_proposal_and_keeps_lock_and_decision() -> None:
    """Trap 6, 24."""
    slot = slot_with(Phase.PREPARE, (0, 1, 2))
    slot.commits[0] = vote(0, Phase.COMMIT)
    slot.proposal, slot.validated, slot.proposed = proposal(105), True, True
    slot.own_prepare, slot.own_commit, slot.leader_pre_prepare = vote(0), vote(0, Phase.COMMIT), pre_prepare()
    lock = prepared(105, 3)
    slot.prepared, slot.decision = lock, (lock.proposal, replace(lock.certificate, phase=Phase.COMMIT))
    slot.enter_view()
    assert slot == Slot(105, prepared=lock, decision=(lock.proposal, replace(lock.certificate, phase=Phase.COMMIT)))
