"""Taking back what was durable (docs/protocol.md, section 8): the view we were in, our locks, our votes.

A log may hold records of an epoch that the store has yet to reach: what was executed there was not on disk, what was
signed was. They are kept until execution enters that epoch again, or a second vote could contradict the first.

Must not know: files, clocks.
"""

from __future__ import annotations

from collections.abc import Iterable

from consensus.checkpoints import Checkpoints
from consensus.messages import CheckpointVote, Prepared, PrePrepare, Record, Vote
from consensus.ordering import Ordering
from consensus.state import State
from consensus.views import Views
from ledger.block import Certificate, Phase


class Restart:
    """The records of the log, epoch by epoch."""

    def __init__(self, state: State, views: Views, ordering: Ordering) -> None:
        self._state, self._views, self._ordering = state, views, ordering
        self._later: tuple[Record, ...] = ()  # bounded by the log, whose length checkpoints keep short

    def restore(self, records: Iterable[Record]) -> None:
        """Use the records of this epoch, in the order they were written; keep those of later ones."""
        state = self._state
        known = tuple(records)
        epoch = state.validators.epoch
        self._later = tuple(record for record in known if _epoch_of(record) > epoch)
        if state.former is not None:
            self._restore_checkpoints(known, state.former)
        if state.me is None:
            return
        self._restore_checkpoints(known, state.checkpoints)
        ours = [record for record in known if _epoch_of(record) == epoch]
        for record in ours:
            self._views.restore(record)
        for record in ours:
            self._restore_vote(record)
        self._ordering.count_restored()

    def enter_epoch(self) -> None:
        """An epoch begins: perhaps we were in it before."""
        self.restore(self._later)

    def remembers(self, certificate: Certificate) -> bool:
        """Whether we know of our own part in a decision. Who commits holds a lock, in the log until a certified
        checkpoint passes the height: a vote of ours without one was signed by a life that this log knows nothing of.
        """
        state = self._state
        if state.me is None or certificate.height <= state.forgotten:
            return True
        if all(member != state.me for member, _ in certificate.signatures):
            return True
        slot = state.slots.get(certificate.height)
        return slot is not None and slot.prepared is not None and slot.prepared.certificate.view >= certificate.view

    def _restore_checkpoints(self, records: Iterable[Record], checkpoints: Checkpoints) -> None:
        epoch = checkpoints.validators.epoch
        votes = (one for one in records if isinstance(one, CheckpointVote) and one.epoch == epoch)
        for vote in votes:
            if vote.height > checkpoints.stable:
                checkpoints.own[vote.height] = vote
                # Of blocks that the store has lost it is said and counted once they are executed again, and on disk.
                if vote.height <= self._state.executed:
                    checkpoints.record(vote)

    def _restore_vote(self, record: Record) -> None:
        """Locks of any view; votes of the view we are in only, no others can be contradicted any more."""
        if not isinstance(record, PrePrepare | Vote | Prepared):
            return
        state = self._state
        height = record.proposal.height if isinstance(record, PrePrepare) else record.height
        if height <= state.forgotten:
            return
        slot = state.slot(height)
        if isinstance(record, Prepared):
            if slot.prepared is None or slot.prepared.certificate.view <= record.certificate.view:
                slot.prepared = record
            if record.certificate.view == state.view:
                slot.proposal = record.proposal
        elif record.view != state.view or state.changing:
            return
        elif isinstance(record, PrePrepare):
            slot.own_prepare = slot.leader_pre_prepare = record
            slot.proposal, slot.proposed = record.proposal, True
        elif record.phase is Phase.PREPARE:
            slot.own_prepare = record
        else:
            slot.own_commit = record


def _epoch_of(record: Record) -> int:
    return record.certificate.epoch if isinstance(record, Prepared) else record.epoch
