"""Status and resending (docs/protocol.md, section 7): every lost message is made good by a later status.

Votes cost at most a window of messages for a status, to a member that stands still at most every 0.4 s. Bounded: one
height and time a member.

Must not know: when a status is due; that is the engine's business.
"""

from __future__ import annotations

from consensus.checkpoints import Checkpoints
from consensus.messages import Status
from consensus.state import State
from consensus.views import Views

RESEND_MS = 400  # between two times that the same votes are said again; below the longest time between statuses


class Repair:
    """Answers to where others stand."""

    def __init__(self, state: State, views: Views) -> None:
        self._state, self._views = state, views
        # By member: the greatest height it said, and when its votes were resent.
        self._stood: dict[int, tuple[int, int | None]] = {}

    def reset(self) -> None:
        """Before another epoch's set."""
        self._stood.clear()

    def status(self) -> Status:
        state = self._state
        # Others must see that the last checkpoint of the epoch before is open here.
        stable = (state.former or state.checkpoints).stable
        return Status(state.validators.epoch, state.view, state.changing, state.delivered, stable)

    def on_status(self, member: int, status: Status) -> None:
        """Send a member what it evidently lacks."""
        state = self._state
        if status.epoch != state.validators.epoch or member == state.me or state.halted:
            return
        for checkpoints in (state.checkpoints, state.former):
            self._resend_checkpoints(member, status.stable, checkpoints)
        if state.me is None:
            return
        if status.view < state.view or (status.view == state.view and status.changing and not state.changing):
            self._views.help_in(member)
        elif status.view == state.view and state.changing and self._views.own_view_change is not None:
            state.send(member, self._views.own_view_change)
        elif status.view == state.view and not status.changing:
            height, resent_ms = self._stood.get(member, (-1, None))
            if status.height > height:  # not merely another: who says now this, now that, would hear it all each time
                self._stood[member] = (status.height, None)
            elif resent_ms is None or state.now_ms - resent_ms >= RESEND_MS:
                self._stood[member] = (height, state.now_ms)
                self._resend_votes(member, status.height)

    def _resend_checkpoints(self, member: int, above: int, checkpoints: Checkpoints | None) -> None:
        """Our own votes of an epoch. Those of the epoch before may have been given as a member that has left since."""
        me = None if checkpoints is None else checkpoints.validators.index(self._state.config.key)
        if checkpoints is not None and me is not None:
            for vote in checkpoints.votes_of(me, above):
                self._state.send(member, vote)

    def _resend_votes(self, member: int, above: int) -> None:
        state = self._state
        for height, slot in sorted(state.slots.items()):
            if not above < height <= above + state.parameters.window:
                continue
            if slot.own_prepare is not None and state.me in slot.prepares:
                state.send(member, slot.own_prepare)
            if slot.leader_pre_prepare is not None and slot.leader_pre_prepare is not slot.own_prepare:
                state.send(member, slot.leader_pre_prepare)
            if slot.own_commit is not None and state.me in slot.commits:
                state.send(member, slot.own_commit)
