"""The choice a new view makes: a pure function of what its view changes claim (Castro and Liskov 1999, section 4.4).

The base is the highest stable checkpoint claimed. Above it, up to the highest lock, each height gets the proposal
locked in the highest view, or null where none was: gaps are filled, never skipped. A new view carries proofs of exactly
those claims; of all others nobody needs a proof, as they change nothing. That keeps it at one certificate a height,
whatever the number of members (docs/adr/0008).

Must not know: the engine. The same function is used by the leader and recomputed by every backup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from consensus.messages import PREPARED_MAX, Claim, NewView, Prepared, ViewChange
from ledger.block import CheckpointCertificate, Proposal


@dataclass(frozen=True, slots=True)
class Choice:
    """What must be proposed again: every height from `base` + 1 to `top`, in order."""

    base: int
    stable: CheckpointCertificate | None
    proposals: tuple[Proposal, ...]

    @property
    def top(self) -> int:
        return self.base + len(self.proposals)


def _highest(claims: Iterable[Claim], epoch_base: int) -> tuple[int, dict[int, tuple[int, bytes]]]:
    """The highest checkpoint claimed, and by height above it (view, digest) of the lock that counts. Of two digests in
    one view, one is a lie: either is taken, and the proof that is missing for it refuses the whole."""
    known = tuple(claims)
    base = max((epoch_base, *(claim.stable for claim in known)))
    locks: dict[int, tuple[int, bytes]] = {}
    for claim in known:
        for height, view, digest in claim.locks:
            if height > base and (height not in locks or (view, digest) > locks[height]):
                locks[height] = (view, digest)
    return base, locks


def compose(view_changes: Sequence[ViewChange], epoch_base: int, member: int) -> NewView:
    """The leader's message, unsigned, from verified view changes for one view, by increasing member."""
    base, locks = _highest((change.claim for change in view_changes), epoch_base)
    stable: CheckpointCertificate | None = None
    proofs: dict[int, Prepared] = {}
    for change in view_changes:
        if change.stable is not None and change.stable.height == base:
            stable = change.stable
        for prepared in change.prepared:
            if locks.get(prepared.height) == (prepared.certificate.view, prepared.certificate.digest):
                proofs.setdefault(prepared.height, prepared)
    first = view_changes[0]
    claims = tuple(change.claim for change in view_changes)
    chosen = tuple(proofs[height] for height in sorted(locks))
    return NewView(first.epoch, first.view, claims, stable, chosen, member)


def choose(message: NewView, epoch_base: int) -> Choice | None:
    """Recompute the choice; `epoch_base` is the height before the epoch's first. None if the proofs are not exactly
    those of the claims that count. Whether claims and proofs are truly signed is for consensus/verify.py."""
    base, locks = _highest(message.claims, epoch_base)
    proven = epoch_base if message.stable is None else message.stable.height
    if proven != base:
        return None
    shown = [(item.height, item.certificate.view, item.certificate.digest) for item in message.prepared]
    if shown != [(height, *locks[height]) for height in sorted(locks)]:
        return None
    top = shown[-1][0] if shown else base
    if top - base > PREPARED_MAX:
        return None
    proposals = {item.height: item.proposal for item in message.prepared}
    filled = (proposals.get(height) or Proposal.null(height) for height in range(base + 1, top + 1))
    return Choice(base, message.stable, tuple(filled))
