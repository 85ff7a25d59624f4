"""When two messages of one member contradict each other: messages read as statements of ledger/evidence.py.

A member may sign one content at a place: one digest a vote, one result a checkpoint, one account of its locks and one
new view a view. Suspicions have no content, so nothing about them can be contradicted.

Must not know: the engine.
"""

from __future__ import annotations

from consensus.messages import CheckpointVote, Claim, NewView, PrePrepare, Signed, Suspect, ViewChange, Vote
from ledger.evidence import Evidence, Half, Offence


def contradiction(one: Signed | Claim, other: Signed | Claim) -> Evidence | None:
    """The evidence two verified messages of one chain make; None when an honest member could have signed both."""
    first, second = read(one), read(other)
    if first is None or second is None or first[:4] != second[:4] or first[4].content == second[4].content:
        return None
    return Evidence.of(*first[:4], first[4], second[4])


def read(message: Signed | Claim) -> tuple[Offence, int, int, tuple[int, ...], Half] | None:
    """Offence, epoch, member and place, and what was signed there; None for what has no content."""
    match message:
        case PrePrepare(vote=vote):
            return read(vote)
        case Vote(epoch, view, height, phase, digest, member, signature):
            return Offence.VOTE, epoch, member, (view, height, int(phase)), Half((digest,), signature)
        case CheckpointVote():
            half = Half(message.claim, message.signature)
            return Offence.CHECKPOINT, message.epoch, message.member, (message.height,), half
        case ViewChange() | Claim():
            half = Half((message.content_hash,), message.signature)
            return Offence.VIEW_CHANGE, message.epoch, message.member, (message.view,), half
        case NewView():
            half = Half((message.content_hash,), message.signature)
            return Offence.NEW_VIEW, message.epoch, message.member, (message.view,), half
        case Suspect():
            return None
