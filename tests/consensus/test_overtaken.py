"""A leader who learned by catching up what was decided in a later view than his.

His new view may demand another proposal at such a height, rightly: whoever was locked there was not among those whose
view changes he has, and no quorum will ever vote in his view. Traps 14, 23: he once stopped over it, and for good when
he had logged his new view before he was killed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from consensus.config import EngineConfig
from consensus.engine import Engine
from consensus.events import Applied, Certified, Deliver, Effect, Persist, Persisted, Received, Validate, Validated
from consensus.messages import Prepared, Suspect, TimeoutCertificate, ViewChange, decode_message, encode_message, signed
from consensus.verify import Verifier
from ledger.block import Certificate, Phase, Proposal
from ledger.genesis import Parameters
from tests.consensus.machine import CHAIN, WALL_MS, Record, genesis, is_signed, key_of, sign, split

TIP = genesis(range(4), Parameters())
VERIFIER = Verifier(CHAIN, is_signed)
FIRST, SECOND = (Proposal(height, WALL_MS, (bytes((1, height)) * 16 + b"b",)) for height in (1, 2))
LEADER = 1  # of view 1


def by(member: int, message: ViewChange | Suspect) -> ViewChange | Suspect:
    made: ViewChange | Suspect = signed(message, lambda statement: sign(key_of(member), statement), CHAIN)
    return made


def certificate(view: int, proposal: Proposal, phase: Phase) -> Certificate:
    """By all but the leader of view 1."""
    plain = Certificate(0, view, proposal.height, phase, proposal.digest, ())
    statement = plain.statement(CHAIN)
    return replace(plain, signatures=tuple((member, sign(key_of(member), statement)) for member in (0, 2, 3)))


class Life:
    """The engine of view 1's leader, its disk and its executor."""

    def __init__(self) -> None:
        self.log: list[Record] = []
        self.begin(Engine(EngineConfig(CHAIN, key_of(LEADER), Parameters()), self._sign, TIP, None))

    def begin(self, engine: Engine) -> None:
        self.engine = engine
        self._work_off(engine.start(0))

    def _sign(self, statement: bytes) -> bytes:
        return sign(key_of(LEADER), statement)

    def hear(self, message: ViewChange | Suspect | TimeoutCertificate) -> None:
        verified = VERIFIER.message(decode_message(encode_message(message)), TIP.validators)
        assert verified is not None
        self._work_off(self.engine.step(Received(verified), 0, WALL_MS))

    def catch_up(self) -> list[tuple[Proposal, Certificate]]:
        """Blocks 1 and 2, decided in view 2: what member 3 was locked on was shown there."""
        blocks = [(proposal, certificate(2, proposal, Phase.COMMIT)) for proposal in (FIRST, SECOND)]
        for proposal, proof in blocks:
            verified = VERIFIER.certificate(proof, TIP.validators)
            assert verified is not None
            self._work_off(self.engine.step(Certified(proposal, verified), 0, WALL_MS))
        assert self.engine.executed == 2
        return blocks

    def lead(self) -> None:
        """View 1, with the view changes of members 0, which has no lock, and 2, which has one at height 2."""
        for member in (0, 2, 3):
            self.hear(by(member, Suspect(0, 0, member)))
        lock = Prepared(SECOND, certificate(0, SECOND, Phase.PREPARE))
        self.hear(by(0, ViewChange(0, 1, None, (), 0)))
        self.hear(by(2, ViewChange(0, 1, None, (lock,), 2)))
        assert (self.engine.view, self.engine.changing, self.engine.is_leader) == (1, False, True)

    def killed_at(self, height: int, decisions: list[tuple[Proposal, Certificate]]) -> None:
        again = Engine(EngineConfig(CHAIN, key_of(LEADER), Parameters()), self._sign, replace(TIP, height=height), None)
        again.restore(self.log, decisions)
        self.begin(again)

    def _work_off(self, effects: Iterable[Effect]) -> None:
        waiting = list(effects)
        while waiting:
            match waiting.pop(0):
                case Persist() as written:
                    self.log += split(written.record)
                    waiting += self.engine.step(Persisted(written.token), 0, WALL_MS)
                case Deliver(proposal=block):
                    done = Applied(block.height, block.digest, block.digest, None, None, None)
                    waiting += self.engine.step(done, 0, WALL_MS)
                case Validate(proposal=proposal):
                    waiting += self.engine.step(Validated(proposal.height, proposal.digest, True), 0, WALL_MS)


@pytest.fixture
def life() -> Life:
    return Life()


def test_a_leader_that_knows_decisions_of_a_later_view_begins_his_own(life: Life) -> None:
    life.catch_up()
    life.lead()
    assert life.engine.executed == 2


def test_a_leader_killed_after_it_learned_decisions_of_a_later_view_starts_again(life: Life) -> None:
    """They came from a follower, so that it heard nothing of that view itself."""
    life.lead()
    decisions = life.catch_up()
    life.killed_at(2, decisions)
    assert (life.engine.view, life.engine.executed) == (1, 2)
