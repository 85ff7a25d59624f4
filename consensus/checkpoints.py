"""Checkpoints of one epoch: who vouches for which state at which height, and the latest certified one.

Bounded: votes are kept for twice the log window above the stable checkpoint, one per member and height; our own
results for as many heights below the last executed one.

Must not know: how a state root is computed, or what the engine drops once a checkpoint is stable.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.messages import CheckpointVote
from ledger.block import CheckpointCertificate
from ledger.validators import ValidatorSet


@dataclass(slots=True)
class Checkpoints:
    """`stable` is the height of the latest certificate that our own result agrees with, or the epoch's base; once the
    epoch has ended, at least the height before its last."""

    validators: ValidatorSet
    log_window: int
    stable: int
    certificate: CheckpointCertificate | None = None
    own: dict[int, CheckpointVote] = field(default_factory=dict)
    _votes: dict[int, dict[int, CheckpointVote]] = field(default_factory=dict)
    _certified: CheckpointCertificate | None = None  # the highest known certificate, perhaps ahead of our execution

    @classmethod
    def of_epoch(cls, validators: ValidatorSet, log_window: int, stable: CheckpointCertificate | None) -> Checkpoints:
        """Begin with a certificate of this epoch, or with the epoch's base."""
        if stable is not None and stable.epoch == validators.epoch:
            return cls(validators, log_window, stable.height, stable)
        return cls(validators, log_window, validators.first_height - 1)

    def wants(self, message: CheckpointVote | CheckpointCertificate) -> bool:
        """Whether it could still change anything here."""
        in_reach = isinstance(message, CheckpointCertificate) or message.height <= self.stable + 2 * self.log_window
        return self.stable < message.height and in_reach

    def record(self, vote: CheckpointVote) -> CheckpointVote:
        """Count a vote; the first of a member at a height stands. Returns that first one."""
        if not self.wants(vote):
            return vote
        votes = self._votes.setdefault(vote.height, {})
        known = votes.setdefault(vote.member, vote)
        if known is not vote:
            return known
        matching = sorted((one for one in votes.values() if one.claim == vote.claim), key=lambda one: one.member)
        if len(matching) >= self.validators.quorum:
            signatures = tuple((one.member, one.signature) for one in matching[: self.validators.quorum])
            self.learn(CheckpointCertificate(vote.epoch, vote.height, *vote.claim, signatures))
        return vote

    def learn(self, certificate: CheckpointCertificate) -> None:
        """Remember the highest certificate."""
        if self._certified is None or certificate.height > self._certified.height:
            self._certified = certificate

    def settle(self, executed: int, offered: CheckpointCertificate | None = None) -> CheckpointCertificate | None:
        """The certificate that becomes stable now that blocks up to `executed` are done: the highest known, or one that
        is `offered` and lower, as to who catches up; None if nothing changes."""
        # A node far behind applies many checkpoints before it hears of a certificate, which is then for a late one.
        for height in [known for known in self.own if known <= executed - 2 * self.log_window]:
            del self.own[height]
        certificate = self._certified
        if offered is not None and certificate is not None and certificate.height > executed:
            certificate = offered
        if certificate is None or not self.stable < certificate.height <= executed:
            return None
        return certificate

    def advance(self, certificate: CheckpointCertificate) -> None:
        """Make it stable and forget everything at or below it."""
        self.certificate = certificate
        self._forget_up_to(certificate.height)

    def close(self, last: int) -> None:
        """The epoch ended at `last`: of it only that checkpoint is still wanted, however far the latest certificate
        that is known here lies below."""
        if self.stable < last - 1:
            self._forget_up_to(last - 1)

    def _forget_up_to(self, height: int) -> None:
        self.stable = height
        for table in (self._votes, self.own):
            for passed in [known for known in table if known <= height]:
                del table[passed]

    def votes_of(self, member: int, above: int) -> list[CheckpointVote]:
        """A member's counted votes at heights over `above`; of our own, those that are durable."""
        found = (votes.get(member) for height, votes in sorted(self._votes.items()) if height > above)
        return [vote for vote in found if vote is not None]

    def entries(self) -> int:
        return len(self.own) + sum(len(votes) for votes in self._votes.values())
