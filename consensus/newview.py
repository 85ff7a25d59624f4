"""The choice a new view makes: a pure function of its view changes (Castro and Liskov 1999, section 4.4).

The base is the highest stable checkpoint among them. Above it, up to the highest prepared height, each height gets the
proposal prepared in the highest view, or null where none was: gaps are filled, never skipped.

Must not know: the engine. The same function is used by the leader and recomputed by every backup.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from consensus.messages import Prepared, ViewChange
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


def choose(view_changes: Iterable[ViewChange], epoch_base: int) -> Choice:
    """Recompute the choice; `epoch_base` is the height before the epoch's first."""
    changes = tuple(view_changes)
    base, stable = epoch_base, None
    locked: dict[int, Prepared] = {}
    for change in changes:
        if change.stable is not None and change.stable.height > base:
            base, stable = change.stable.height, change.stable
        for prepared in change.prepared:
            known = locked.get(prepared.height)
            if known is None or prepared.certificate.view > known.certificate.view:
                locked[prepared.height] = prepared
    top = max((height for height in locked if height > base), default=base)
    proposals = tuple(
        locked[height].proposal if height in locked else Proposal.null(height) for height in range(base + 1, top + 1)
    )
    return Choice(base, stable, proposals)
