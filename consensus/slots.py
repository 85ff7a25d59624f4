"""One height's place in the log: its proposal, votes, lock and decision. Counting lives here, deciding in the engine.

Bounded: one proposal, and one prepare and one commit per member, all of the current view; one lock; one decision.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.messages import Prepared, PrePrepare, Vote
from ledger.block import Certificate, Phase, Proposal, Signatures


@dataclass(slots=True)
class Slot:
    """Mutable state of one height. `proposal`, `prepares` and `commits` belong to the current view only."""

    height: int
    proposal: Proposal | None = None
    validated: bool = False
    proposed: bool = False  # the leader's pre-prepare arrived (or is our own): a new view alone does not allow votes
    prepares: dict[int, Vote] = field(default_factory=dict)
    commits: dict[int, Vote] = field(default_factory=dict)
    since_ms: int = 0  # when the proposal became known
    own_prepare: PrePrepare | Vote | None = None  # what we signed, resent on request and never contradicted
    own_commit: Vote | None = None
    leader_pre_prepare: PrePrepare | None = None
    prepared: Prepared | None = None  # the lock, of the highest view; survives view changes
    decision: tuple[Proposal, Certificate] | None = None

    def enter_view(self) -> None:
        """Forget what belongs to the view that ends. Lock and decision stay."""
        self.proposal = None
        self.validated = self.proposed = False
        self.prepares.clear()
        self.commits.clear()
        self.own_prepare = self.own_commit = self.leader_pre_prepare = None

    def own_prepare_vote(self) -> Vote:
        """The vote in `own_prepare`, which must be there."""
        assert self.own_prepare is not None
        return self.own_prepare.vote if isinstance(self.own_prepare, PrePrepare) else self.own_prepare

    def proposals(self) -> list[Proposal]:
        """Everything that may still be decided here, or is: the proposal voted on, the lock and the decision."""
        locked = None if self.prepared is None else self.prepared.proposal
        decided = None if self.decision is None else self.decision[0]
        return [proposal for proposal in (self.proposal, locked, decided) if proposal is not None]

    def votes(self, phase: Phase) -> dict[int, Vote]:
        return self.prepares if phase is Phase.PREPARE else self.commits

    def quorum_certificate(self, phase: Phase, digest: bytes, quorum: int) -> Certificate | None:
        """A certificate of exactly a quorum of votes of `phase` for `digest`; None while there are fewer."""
        matching = [vote for vote in self.votes(phase).values() if vote.digest == digest]
        if len(matching) < quorum:
            return None
        matching.sort(key=lambda vote: vote.member)
        signatures: Signatures = tuple((vote.member, vote.signature) for vote in matching[:quorum])
        first = matching[0]
        return Certificate(first.epoch, first.view, self.height, phase, digest, signatures)
