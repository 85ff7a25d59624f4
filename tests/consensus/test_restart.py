"""What an engine takes back after a restart (consensus/restart.py)."""

from __future__ import annotations

from consensus.config import EngineConfig
from consensus.engine import Engine
from consensus.events import Fired, Persist, Persisted, Received, Timer, Verified
from consensus.messages import ViewChange, Vote
from ledger.block import Certificate, Phase
from ledger.execution import Tip
from ledger.genesis import Parameters
from tests.consensus.samples import BASE, CHAIN, DIGEST, EPOCH, FOUR, PAIRS, certify, new_view, proposal, view_change


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
