"""Leaving a view and entering the next (docs/protocol.md, section 4): suspicions, view changes, new views.

Nothing here votes on proposals. A handler that returns a NewView has begun that view's tables; the engine then proposes
again what it demands.

Bounded: one suspicion and one view change a member, FUTURE_PER_MEMBER_MAX messages of one later view a member.

Must not know: how a proposal is validated or executed.
"""

from __future__ import annotations

from consensus.backlog import Backlog
from consensus.events import Broadcast
from consensus.messages import (
    Message,
    NewView,
    PrePrepare,
    Record,
    Suspect,
    TimeoutCertificate,
    ViewChange,
    Vote,
)
from consensus.newview import Choice, choose, compose
from consensus.patience import Patience
from consensus.state import State
from ledger.block import Proposal

FUTURE_PER_MEMBER_MAX = 256  # messages of one later view kept per member until we enter it


class Views:
    """How this member came into its view, and what it and others say about leaving it."""

    def __init__(self, state: State, backlog: Backlog, patience: Patience) -> None:
        self._state, self._backlog, self._patience = state, backlog, patience
        self._clear()

    def _clear(self) -> None:
        self.suspecting = False
        self.choice: Choice | None = None
        self.timeout: TimeoutCertificate | None = None
        self.own_suspect: Suspect | None = None  # durable ones only, here and in the next two
        self.own_view_change: ViewChange | None = None
        self.new_view: NewView | None = None
        self._entry: tuple[Record, ...] = ()  # how we came into this view, durable or not
        self._suspects: dict[int, Suspect] = {}
        self._view_changes: dict[int, ViewChange] = {}
        self._future: dict[int, tuple[int, list[Message]]] = {}

    def begin_first(self) -> None:
        """An epoch's view 0, and nothing heard of any other. So it is for one who only follows from now on."""
        self._clear()
        self._begin(0)
        self._state.changing = False

    @property
    def is_discontent(self) -> bool:
        """Whether this member wants to leave its view, or is on its way."""
        return self.suspecting or self._state.changing

    def required(self, height: int) -> Proposal | None:
        """What the view's own new-view demands at `height`."""
        choice = self.choice
        if choice is None or not choice.base < height <= choice.top:
            return None
        return choice.proposals[height - choice.base - 1]

    def is_below(self, height: int) -> bool:
        """Whether the view began above that height: a quorum vouches for what was decided there. Who has lost it, or
        never had it, gets it from others, and votes on nothing else."""
        return self.choice is not None and height <= self.choice.base

    # Messages of other views

    def is_of_other(self, message: PrePrepare | Vote) -> bool:
        """Keep a message of a later view until we are there; drop one of an earlier view."""
        state = self._state
        if message.view == state.view and not state.changing:
            return False
        if message.view >= state.view:
            view, kept = self._future.get(message.member, (-1, []))
            if message.view > view:
                view, kept = message.view, []
            if message.view == view and len(kept) < FUTURE_PER_MEMBER_MAX:
                kept.append(message)
            self._future[message.member] = (view, kept)
        state.ignore("other view")
        return True

    def take_kept(self) -> list[Message]:
        """The messages that were early and are in time now."""
        found: list[Message] = []
        for member, (view, messages) in sorted(self._future.items()):
            if view <= self._state.view:
                del self._future[member]
            if view == self._state.view:
                found += messages
        return found

    # Suspicion

    def suspect(self) -> None:
        """Say once that this view does not move; it is said again with every status until something changes."""
        state = self._state
        assert state.me is not None
        self.suspecting = True
        suspect = state.signed(Suspect(state.validators.epoch, state.view, state.me))
        state.persist(state.executed + 1, (suspect,), suspect, (Broadcast(suspect),))

    def on_progress(self) -> None:
        """A block was delivered. A leader who is slow, or leaves a batch out of all his blocks, does not clear himself
        by making one more."""
        passed_over_at_ms = self.passed_over_at_ms()
        if self._patience.is_slow() or (passed_over_at_ms is not None and passed_over_at_ms <= self._state.now_ms):
            return
        self.own_suspect, self.suspecting = None, False
        if not self._state.changing:
            self._suspects.clear()

    def passed_over_at_ms(self) -> int | None:
        """When the oldest batch that waits will have waited too long for this view's leader; None without one."""
        oldest = self._backlog.oldest()
        if oldest is None:
            return None
        return self._patience.passed_over_at_ms(oldest.since_ms, oldest.since_height, self._state.delivered)

    def patience_ends_ms(self) -> int:
        """When this member will suspect its leader, or the one it waits for. To be asked while there is work."""
        state = self._state
        ends_ms = self._patience.ends_ms(state.now_ms, state.progress_at_ms)
        passed_over_at_ms = self.passed_over_at_ms()
        return ends_ms if passed_over_at_ms is None or state.changing else min(ends_ms, passed_over_at_ms)

    def on_suspect(self, suspect: Suspect) -> None:
        state = self._state
        known = self._suspects.get(suspect.member)
        if suspect.view < state.view or (known is not None and known.view > suspect.view):
            return state.ignore("old suspicion")
        self._suspects[suspect.member] = suspect
        matching = sorted(
            (one for one in self._suspects.values() if one.view == state.view), key=lambda one: one.member
        )
        quorum = state.validators.quorum
        if len(matching) >= quorum:
            signatures = tuple((one.member, one.signature) for one in matching[:quorum])
            self.on_timeout_certificate(TimeoutCertificate(suspect.epoch, state.view, signatures))
        return None

    def on_timeout_certificate(self, certificate: TimeoutCertificate) -> None:
        if certificate.view < self._state.view:
            return self._state.ignore("old timeout")
        self.timeout = certificate
        self._enter(certificate.view + 1)
        return None

    # View change

    def _enter(self, view: int) -> None:
        """Stop voting below `view` and say what is locked. Durable before anyone hears of it."""
        state = self._state
        assert view > state.view
        assert state.me is not None
        self._patience.failed()
        self._begin(view)
        state.changing = True
        stable = state.checkpoints.stable
        locks = (slot.prepared for height, slot in sorted(state.slots.items()) if height > stable)
        prepared = tuple(lock for lock in locks if lock is not None)
        change = ViewChange(state.validators.epoch, view, state.checkpoints.certificate, prepared, state.me)
        change = state.signed(change)
        self.own_view_change = None
        entry: tuple[TimeoutCertificate | ViewChange, ...] = (change,)
        if self.timeout is not None:
            entry = (self.timeout, change)
        self._entry = entry
        state.persist(state.lasting_height(), entry, change, tuple(map(Broadcast, entry)))

    def _begin(self, view: int) -> None:
        state = self._state
        state.view = view
        self.choice = self.new_view = None
        self._entry = ()
        self.own_suspect, self.suspecting = None, False
        state.progress_at_ms = state.now_ms
        self._patience.begin_view(state.now_ms, state.delivered)
        self._backlog.enter_view()
        for slot in state.slots.values():
            slot.enter_view()
        state.proposed_top = max((slot.height for slot in state.slots.values() if slot.decision), default=0)

    def knows(self, change: ViewChange) -> bool:
        """Whether it is the very one that its member repeats, which may hold thousands of signatures."""
        return self._view_changes.get(change.member) == change

    def on_view_change(self, change: ViewChange) -> NewView | None:
        state = self._state
        known = self._view_changes.get(change.member)
        if known is not None:
            state.compare(known, change)
        if change.view < state.view or (known is not None and known.view >= change.view):
            state.ignore("old view change")
            return None
        self._view_changes[change.member] = change
        ahead = sorted(one.view for one in self._view_changes.values() if one.view > state.view)
        if len(ahead) > state.validators.f:  # at least one honest member is there: follow to the smallest
            self.timeout = None
            self._enter(ahead[0])
            return None
        return self._try_new_view()

    def _try_new_view(self) -> NewView | None:
        state = self._state
        if not state.changing or state.me != state.leader:
            return None
        changes = [one for _, one in sorted(self._view_changes.items()) if one.view == state.view]
        quorum = state.validators.quorum
        if len(changes) < quorum:
            return None
        message = compose(changes[:quorum], state.validators.first_height - 1, state.leader)
        return self._install(state.signed(message))

    def on_new_view(self, message: NewView) -> NewView | None:
        state = self._state
        for claim in message.claims:
            known = self._view_changes.get(claim.member)
            if known is not None:
                state.compare(known, claim)
        if message.view < state.view or (message.view == state.view and not state.changing):
            for begun in self._entry:
                if isinstance(begun, NewView):
                    state.compare(begun, message)
            state.ignore("old new-view")
            return None
        return self._install(message)

    def _install(self, message: NewView) -> NewView:
        """Begin voting in the message's view, with the choice recomputed from what it claims and proves."""
        state = self._state
        if message.view > state.view:
            self._patience.failed()
        self._begin(message.view)
        state.changing = False
        self._entry = (message,)
        self.timeout = self.own_view_change = None
        self._suspects.clear()
        self._demand(message)
        mine = message.member == state.me
        state.persist(state.lasting_height(), (message,), message, (Broadcast(message),) if mine else ())
        return message

    def _demand(self, message: NewView) -> None:
        """What the message demands is this view's to order, from now on."""
        self.choice = choose(message, self._state.validators.first_height - 1)
        assert self.choice is not None, "it was verified"
        for proposal in self.choice.proposals:
            self._backlog.take(proposal.batches)

    # Durability and restart

    def on_persisted(self, message: Suspect | ViewChange | NewView) -> NewView | None:
        """What we signed, or came by, is durable: it counts and may be sent again."""
        state = self._state
        if message.epoch != state.validators.epoch or message.view != state.view:
            return None
        match message:
            case Suspect() if self.suspecting:  # not where a block came meanwhile
                self.own_suspect = message
                self.on_suspect(message)
            case ViewChange() if state.changing:
                self.own_view_change = message
                return self.on_view_change(message)
            case NewView() if not state.changing:
                self.new_view = message
        return None

    def lasting_records(self) -> tuple[Record, ...]:
        """What must be written again before the log is shortened: how we came into this view. Also while the first
        writing of it is under way: catching up may bring a checkpoint that lets the log drop it as soon as it is there.
        """
        return self._entry

    def restore(self, record: Record) -> None:
        """Take one back from the log; in the order written, they lead to the view we were in."""
        state = self._state
        match record:
            case TimeoutCertificate(view=view) if view >= state.view:
                self.timeout = record
            case ViewChange(view=view) if view > state.view:
                state.view, state.changing = view, True
                self._backlog.enter_view()
                self.own_view_change = record
                self.choice = self.new_view = None
                self._entry = (record,) if self.timeout is None else (self.timeout, record)
                self._view_changes[record.member] = record
            case NewView(view=view) if view > state.view or (view == state.view and state.changing):
                state.view, state.changing = view, False
                self.new_view, self._entry = record, (record,)
                self.timeout = self.own_view_change = None
                self._backlog.enter_view()
                self._demand(record)

    # Repair

    def repeat(self) -> None:
        """Say again, with every status, what others may have missed."""
        if self.own_suspect is not None:
            self._state.broadcast(self.own_suspect)
        if self._state.changing:
            self.repeat_view_change()

    def repeat_view_change(self) -> None:
        for message in (self.timeout, self.own_view_change):
            if message is not None:
                self._state.broadcast(message)

    def help_in(self, member: int) -> None:
        """Send a member that lags what brings it into this view."""
        entry = self.timeout if self.new_view is None else self.new_view
        for message in (entry, self.own_view_change):
            if message is not None:
                self._state.send(member, message)

    def table_sizes(self) -> dict[str, int]:
        return {
            "suspects": len(self._suspects),
            "view_changes": len(self._view_changes),
            "future": sum(len(messages) for _, messages in self._future.values()),
        }
