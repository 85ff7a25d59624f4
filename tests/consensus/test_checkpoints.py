"""Checkpoints of one epoch: counted once per member, certified by a quorum, bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.checkpoints import Checkpoints
from tests.consensus.samples import BASE, CHAIN, DIGEST, FOUR, checkpoint, checkpoint_vote

LOG_WINDOW = 20


@pytest.fixture
def checkpoints() -> Checkpoints:
    return Checkpoints(FOUR, LOG_WINDOW, BASE)


def test_a_quorum_of_equal_votes_makes_a_certificate_that_verifies(checkpoints: Checkpoints) -> None:
    """Trap 2, 43."""
    for member in (3, 1):
        checkpoints.record(checkpoint_vote(member))
        assert checkpoints.settle(110) is None
    checkpoints.record(checkpoint_vote(0))
    certificate = checkpoints.settle(110)
    assert certificate is not None
    assert [member for member, _ in certificate.signatures] == [0, 1, 3]
    assert certificate.valid(CHAIN, FOUR)


def test_votes_count_once_per_member_and_the_first_stands(checkpoints: Checkpoints) -> None:
    """Trap 2."""
    for _ in range(5):
        checkpoints.record(checkpoint_vote(0))
    checkpoints.record(checkpoint_vote(1, state=CHAIN))
    checkpoints.record(checkpoint_vote(1))
    checkpoints.record(checkpoint_vote(2))
    assert checkpoints.settle(110) is None
    checkpoints.record(checkpoint_vote(3))
    assert checkpoints.settle(110) is not None
    assert checkpoints.entries() == 4


def test_votes_for_different_results_do_not_add_up(checkpoints: Checkpoints) -> None:
    """Trap 31."""
    for member, state in enumerate((DIGEST, DIGEST, CHAIN, CHAIN)):
        checkpoints.record(checkpoint_vote(member, state=state))
    assert checkpoints.settle(110) is None


def test_a_certificate_settles_only_once_its_blocks_are_executed(checkpoints: Checkpoints) -> None:
    """Trap 16, 17."""
    checkpoints.learn(checkpoint(110))
    assert checkpoints.settle(109) is None
    assert checkpoints.settle(110) == checkpoint(110)
    checkpoints.advance(checkpoint(110))
    assert (checkpoints.stable, checkpoints.certificate) == (110, checkpoint(110))
    assert checkpoints.settle(110) is None, "once"


def test_only_the_highest_certificate_is_remembered(checkpoints: Checkpoints) -> None:
    """Trap 31. A target superseded meanwhile is no target any more."""
    checkpoints.learn(checkpoint(120))
    checkpoints.learn(checkpoint(110))
    assert checkpoints.settle(115) is None
    assert checkpoints.settle(120) == checkpoint(120)


def test_advancing_forgets_what_is_at_or_below(checkpoints: Checkpoints) -> None:
    for height in (105, 110, 115):
        checkpoints.own[height] = checkpoint_vote(1, height)
        checkpoints.record(checkpoint_vote(1, height))
    checkpoints.advance(checkpoint(110))
    assert list(checkpoints.own) == [115]
    assert [vote.height for vote in checkpoints.votes_of(1, 0)] == [115]
    checkpoints.record(checkpoint_vote(2, 110))
    assert checkpoints.entries() == 2


def test_votes_outside_the_window_take_no_room(checkpoints: Checkpoints) -> None:
    """Trap 11, 33. However many far heights a member votes for."""
    for height in (0, BASE, BASE + 2 * LOG_WINDOW + 1, 2**63 - 1):
        checkpoints.record(replace(checkpoint_vote(1), height=height))
    assert checkpoints.entries() == 0
    for height in range(BASE, BASE + 1_000):
        for member in range(4):
            checkpoints.record(
                replace(checkpoint_vote(1), height=height, member=member, state_root=bytes([member]) * 33)
            )
    assert checkpoints.entries() == 4 * 2 * LOG_WINDOW


def test_own_results_are_bounded_while_no_certificate_is_heard_of(checkpoints: Checkpoints) -> None:
    """Trap 30, 33. A node far behind executes thousands of checkpoints before it learns of the latest certificate."""
    for height in range(BASE + 1, BASE + 1_000):
        checkpoints.own[height] = replace(checkpoint_vote(1), height=height)
        checkpoints.settle(height)
        assert len(checkpoints.own) <= 2 * LOG_WINDOW
    assert BASE + 999 in checkpoints.own


def test_a_members_votes_are_listed_by_height_for_resending(checkpoints: Checkpoints) -> None:
    for height in (115, 105, 110):
        checkpoints.record(checkpoint_vote(2, height))
    assert [vote.height for vote in checkpoints.votes_of(2, 105)] == [110, 115]
    assert checkpoints.votes_of(1, 0) == []


def test_of_an_epoch_that_ended_only_the_last_checkpoint_counts(checkpoints: Checkpoints) -> None:
    last = BASE + 5 * LOG_WINDOW
    checkpoints.record(checkpoint_vote(0, BASE + 1))
    checkpoints.close(last)
    assert checkpoints.entries() == 0
    for member in range(3):
        checkpoints.record(checkpoint_vote(member, last - 1))
        checkpoints.record(checkpoint_vote(member, last))
    certificate = checkpoints.settle(last)
    assert certificate is not None
    assert certificate.height == last
