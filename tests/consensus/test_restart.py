"""What an engine takes back after a restart (consensus/restart.py)."""

from __future__ import annotations

from consensus.config import EngineConfig
from consensus.engine import Engine
from consensus.events import (
    Applied,
    BatchAvailable,
    Broadcast,
    CheckpointCertified,
    Diverged,
    Fired,
    PeerStatus,
    Persist,
    Persisted,
    Received,
    Send,
    Stable,
    Timer,
    Validate,
    Validated,
    Verified,
)
from consensus.messages import CheckpointVote, PrePrepare, Status, ViewChange, Vote
from ledger.block import Certificate, CheckpointCertificate, Phase, Proposal
from ledger.execution import Tip
from ledger.genesis import Parameters
from ledger.validators import ValidatorSet
from tests.consensus.samples import (
    BASE,
    CHAIN,
    DIGEST,
    EPOCH,
    FOUR,
    PAIRS,
    certify,
    checkpoint,
    checkpoint_vote,
    new_view,
    prepared,
    proposal,
    sign,
    view_change,
)


def test_a_node_far_above_its_last_certified_checkpoint_starts_with_a_bounded_log() -> None:
    """Trap 24, 33. Who catches up by blocks may have executed hundreds of them before a checkpoint's certificate comes,
    and be killed then: all of them restored would exceed the log's bound, and the node could never start again.
    """
    parameters = Parameters()
    height = BASE + 5 * parameters.log_window
    tip = Tip(height, DIGEST, 1_000, DIGEST, height, FOUR, parameters)
    engine = Engine(EngineConfig(CHAIN, PAIRS[0].public, parameters), PAIRS[0].sign, tip, None)
    decisions, votes = [], []
    for known in range(BASE + 1, height + 1):
        block = proposal(known)
        decisions.append((block, certify(Certificate(EPOCH, 0, known, Phase.COMMIT, block.digest, ()))))
        votes.append(Vote(EPOCH, 0, known, Phase.PREPARE, block.digest, 0, bytes(65)))
    engine.restore(votes, decisions)
    engine.start(0)
    engine.step(Fired(Timer.STATUS), 1_000, 1_000)
    assert engine.table_sizes()["slots"] <= parameters.log_window
    assert engine.forgotten == height - parameters.log_window


def test_what_is_written_again_counts_from_the_moment_it_is_signed() -> None:
    """A checkpoint may become stable while the record of a view is on its way to the disk, and let the log drop
    that record as soon as it is there."""
    parameters = Parameters()
    tip = Tip(BASE, DIGEST, 1_000, DIGEST, BASE, FOUR, parameters)
    engine = Engine(EngineConfig(CHAIN, PAIRS[0].public, parameters), PAIRS[0].sign, tip, None)
    engine.start(0)
    effects = [engine.step(Received(Verified(view_change(member, 6))), 1, 1) for member in (1, 2)][-1]
    (written,) = [effect for effect in effects if isinstance(effect, Persist)]
    (change,) = engine.lasting_records()
    assert isinstance(change, ViewChange)
    assert (change.view, change.member) == (6, 0)
    engine.step(Persisted(written.token), 2, 2)
    assert engine.lasting_records() == (change,)
    begun = new_view(6)
    engine.step(Received(Verified(begun)), 3, 3)
    assert engine.lasting_records() == (begun,)


def test_votes_of_an_epoch_with_a_longer_log_are_all_restored() -> None:
    """Trap 24. A mended store may be far below what its node voted on, with a log window that shrank since."""
    parameters = Parameters(window=2, checkpoint_interval=4, log_window=8)
    tip = Tip(BASE, DIGEST, 1_000, DIGEST, BASE, FOUR, parameters)
    engine = Engine(EngineConfig(CHAIN, PAIRS[0].public, parameters), PAIRS[0].sign, tip, None)
    heights = range(BASE + 1, BASE + 65)
    engine.restore((Vote(EPOCH, 0, known, Phase.PREPARE, DIGEST, 0, bytes(65)) for known in heights), ())
    engine.start(0)
    engine.step(Fired(Timer.STATUS), 1_000, 1_000)
    assert engine.table_sizes()["slots"] == len(heights)


def test_a_view_change_that_is_repeated_is_not_wanted_again() -> None:
    """Trap 33. It may hold thousands of signatures, and comes with each status."""
    tip = Tip(BASE, DIGEST, 1_000, DIGEST, BASE, FOUR, Parameters())
    engine = Engine(EngineConfig(CHAIN, PAIRS[0].public, Parameters()), PAIRS[0].sign, tip, None)
    engine.start(0)
    change = view_change(1, 6)
    assert engine.wants(change)
    engine.step(Received(Verified(change)), 1, 1)
    assert not engine.wants(view_change(1, 6))
    assert engine.wants(view_change(1, 7))
    assert engine.wants(view_change(1, 6, checkpoint(110))), "a contradiction is evidence"


FORMER = ValidatorSet.create(EPOCH - 1, 1, [pair.public for pair in PAIRS[:4]])


def started_after_an_open_epoch() -> Engine:
    """Many log windows into an epoch, with certified checkpoints, while nobody certified the end of the one before."""
    parameters = Parameters(log_window=26)  # the epoch before was longer than two of them
    height = BASE + 5 * parameters.log_window
    tip = Tip(height, DIGEST, 1_000, DIGEST, height, FOUR, parameters)
    engine = Engine(EngineConfig(CHAIN, PAIRS[0].public, parameters), PAIRS[0].sign, tip, checkpoint(height), FORMER)
    effects = engine.start(0, [CheckpointCertificate(EPOCH - 1, BASE, DIGEST, DIGEST, DIGEST, ())])
    (written,) = [effect for effect in effects if isinstance(effect, Persist)]
    engine.step(Persisted(written.token), 1, 1)
    return engine


def closing_vote(member: int, state: bytes = DIGEST) -> CheckpointVote:
    made: CheckpointVote = sign(CheckpointVote(EPOCH - 1, BASE, DIGEST, state, DIGEST, member))
    return made


def test_the_end_of_an_epoch_is_voted_for_however_long_ago_its_last_certificate_was() -> None:
    """After a restart votes counted from the epoch's base on, and its end lay beyond all that was counted: no change of
    members could end any more."""
    engine = started_after_an_open_epoch()
    effects = engine.step(PeerStatus(1, Status(EPOCH, 0, False, engine.executed, 0)), 2, 2)
    assert Send(1, closing_vote(0)) in effects
    effects = [engine.step(Received(Verified(closing_vote(member))), 3, 3) for member in (1, 2)][-1]
    (stable,) = [effect.certificate for effect in effects if isinstance(effect, Stable)]
    assert (stable.epoch, stable.height) == (EPOCH - 1, BASE)
    assert engine.unclosed is None


def test_what_we_made_of_an_epochs_end_is_compared_with_its_certificate_however_late_it_comes() -> None:
    """Trap 31."""
    engine = started_after_an_open_epoch()
    other = CheckpointCertificate(EPOCH - 1, BASE, DIGEST, CHAIN, DIGEST, ())
    effects = engine.step(CheckpointCertified(Verified(certify(other, (1, 2, 3)))), 2, 2)
    assert [effect for effect in effects if isinstance(effect, Diverged)] == [Diverged(BASE, DIGEST, CHAIN)]


def test_a_vote_for_blocks_that_the_store_has_lost_is_said_once_they_are_executed_again() -> None:
    """Claim 38. The log kept it, and the power took the blocks: until they are there again, it vouches for nothing."""
    parameters = Parameters()
    tip = Tip(BASE, DIGEST, 1_000, DIGEST, BASE, FOUR, parameters)
    engine = Engine(EngineConfig(CHAIN, PAIRS[0].public, parameters), PAIRS[0].sign, tip, None)
    vote = checkpoint_vote(0, BASE + 1)
    engine.restore([vote], [])
    engine.start(0)
    asked = PeerStatus(1, Status(EPOCH, 0, False, BASE + 1, 0))
    assert not [effect for effect in engine.step(asked, 1, 1) if effect == Send(1, vote)]
    engine._state.delivered = BASE + 1  # a block came, and was executed
    effects = engine.step(Applied(BASE + 1, DIGEST, DIGEST, DIGEST, None, None), 2, 2)
    (written,) = [effect for effect in effects if isinstance(effect, Persist)]
    assert written.vouches
    assert Broadcast(vote) in written.then
    engine.step(Persisted(written.token), 3, 3)
    assert Send(1, vote) in engine.step(asked, 4, 4)


def test_a_leader_killed_before_it_proposed_what_its_view_demands_proposes_it_when_it_is_back() -> None:
    """Its view would else come to nothing, and a longer patience be spent on it."""
    parameters = Parameters()
    leader = FOUR.leader(6)
    tip = Tip(BASE, DIGEST, 1_000, DIGEST, BASE, FOUR, parameters)
    lock = prepared(BASE + 2, 4)
    changes = (view_change(0, 6, None, (lock,)), view_change(1, 6), view_change(3, 6))
    engine = Engine(EngineConfig(CHAIN, PAIRS[leader].public, parameters), PAIRS[leader].sign, tip, None)
    engine.restore([new_view(6, changes)], [])
    demanded = [Proposal.null(BASE + 1), lock.proposal]
    asked = [effect.proposal for effect in engine.start(0) if isinstance(effect, Validate)]
    assert asked == demanded
    # What is demanded must not be ordered once more by the next height.
    effects = engine.step(BatchAvailable(lock.proposal.batches[0], 1, 100), 1, 1)
    assert not [effect for effect in effects if isinstance(effect, Validate)]
    effects = engine.step(Validated(BASE + 2, lock.proposal.digest, True), 2, 2)
    (written,) = [effect for effect in effects if isinstance(effect, Persist)]
    (said,) = [effect.message for effect in written.then if isinstance(effect, Broadcast)]
    assert isinstance(said, PrePrepare)
    assert (said.vote.view, said.proposal) == (6, lock.proposal)
    # In the next life it is in the log: nothing is signed again.
    engine = Engine(EngineConfig(CHAIN, PAIRS[leader].public, parameters), PAIRS[leader].sign, tip, None)
    engine.restore([new_view(6, changes), said], [])
    asked = [effect.proposal for effect in engine.start(0) if isinstance(effect, Validate)]
    assert sorted(asked, key=lambda one: one.height) == demanded
    effects = engine.step(Validated(BASE + 2, lock.proposal.digest, True), 2, 2)
    assert Broadcast(said) in effects
    assert not [effect for effect in effects if isinstance(effect, Persist)]
