"""The PBFT engine: a pure state machine, `step(input, now_ms) -> effects`. No I/O, no clock, no randomness.

Theory (docs/protocol.md has it whole). A leader proposes heights of a window without waiting; a member prepares what it
holds, commits what a quorum prepared, and a quorum of commits decides (ordering.py). Decisions are delivered in order.
Leaving a view takes a quorum of suspicions, so a member cut off by itself never leaves the view the others work in;
entering one takes a quorum of view changes, whose locks decide what is proposed again (views.py, newview.py). Validator
sets change between epochs, and all heights in flight belong to one epoch.

Lives here: the dispatcher, what holds the parts together, delivery, checkpoints and epochs, timers. Every table is
bounded by members times the log window.

Must not know: networks, disks, keys (it is given a `sign` function), how a block is executed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from consensus.backlog import AVAILABLE_MAX, Backlog
from consensus.checkpoints import Checkpoints
from consensus.config import EngineConfig
from consensus.events import (
    Applied,
    BatchAvailable,
    Broadcast,
    CancelTimer,
    Certified,
    CheckpointCertified,
    Deliver,
    Diverged,
    Effect,
    Fired,
    Input,
    KeyForgotten,
    PeerStatus,
    Persisted,
    Received,
    SetTimer,
    Stable,
    Timer,
    Validated,
)
from consensus.messages import (
    CheckpointVote,
    Message,
    NewView,
    PrePrepare,
    Record,
    Status,
    Suspect,
    TimeoutCertificate,
    ViewChange,
    Vote,
)
from consensus.ordering import Ordering
from consensus.patience import Patience
from consensus.repair import Repair
from consensus.restart import Restart
from consensus.slots import Slot
from consensus.state import Sign, State
from consensus.views import Views
from ledger.block import Certificate, CheckpointCertificate, Proposal
from ledger.execution import Tip
from ledger.genesis import LOG_WINDOW_MAX, Parameters
from ledger.validators import ValidatorSet

SEAL_OVERDUE = 2  # times `seal_after_ms`
# How often peers learn where we stand. What was lost is said again after the second status that shows it: before the
# youngest patience ends, so that no leader is suspected for one lost message, but late enough that a leader is slow who
# lives on such repairs because he serves only some members.
STATUSES_PER_PATIENCE = 2
STATUS_INTERVAL_MS_MIN, STATUS_INTERVAL_MS_MAX = 50, 500


class Engine:
    """One member's (or follower's) consensus. Feed it with `step`; carry out the effects in order."""

    def __init__(
        self,
        config: EngineConfig,
        sign: Sign,
        tip: Tip,
        stable: CheckpointCertificate | None,
        former: ValidatorSet | None = None,
    ) -> None:
        """Begin above `tip`, the last executed block. `stable` is the latest certified checkpoint, if any; `former` the
        set of the epoch before, if the checkpoint that closes that epoch is not certified here yet."""
        self.config = config
        parameters = config.parameters
        self._state = State.begin(config, sign, tip, stable, former)
        self._backlog = Backlog()
        self._patience = Patience(parameters.view_timeout_ms, parameters.view_timeout_ms_max)
        self._views = Views(self._state, self._backlog, self._patience)
        self.ordering = Ordering(self._state, self._backlog, self._patience, self._views)
        self._repair = Repair(self._state, self._views)
        self._restart = Restart(self._state, self._views, self.ordering)
        self._timers: dict[Timer, int] = {}

    # Where it stands, for those outside; none of it is theirs to change.

    @property
    def validators(self) -> ValidatorSet:
        return self._state.validators

    @property
    def me(self) -> int | None:
        """Our index in the set; None for a follower."""
        return self._state.me

    @property
    def view(self) -> int:
        return self._state.view

    @property
    def changing(self) -> bool:
        """Whether the view was entered and has not begun."""
        return self._state.changing

    @property
    def leader(self) -> int:
        return self._state.leader

    @property
    def is_leader(self) -> bool:
        return self._state.is_leader

    @property
    def is_discontent(self) -> bool:
        """Whether this member wants to leave its view, or is on its way."""
        return self._views.is_discontent

    @property
    def unpersisted(self) -> int:
        """How many writes were asked for and are not durable yet."""
        return len(self._state.unpersisted)

    @property
    def executed(self) -> int:
        return self._state.executed

    @property
    def delivered(self) -> int:
        return self._state.delivered

    @property
    def epoch_end(self) -> int | None:
        return self._state.epoch_end

    @property
    def unclosed(self) -> int | None:
        """The epoch before, while no certificate here closes it: this one cannot end until then."""
        return None if self._state.former is None else self._state.former.validators.epoch

    @property
    def halted(self) -> bool:
        return self._state.halted

    @property
    def slots(self) -> dict[int, Slot]:
        return self._state.slots

    @property
    def checkpoints(self) -> Checkpoints:
        return self._state.checkpoints

    @property
    def ignored(self) -> dict[str, int]:
        """How often something was refused, by reason."""
        return self._state.ignored

    @property
    def patience_ms(self) -> int:
        """How long work may wait for a block before the leader is suspected."""
        return self._patience.limit_ms

    # The dispatcher

    def step(self, event: Input, now_ms: int, wall_ms: int) -> list[Effect]:
        """Take one input; returns what must be done, in order. `now_ms` is monotonic, `wall_ms` Unix time."""
        state = self._state
        effects: list[Effect] = []
        state.effects = effects
        state.wall_ms = wall_ms
        state.now_ms = max(state.now_ms, now_ms)
        self._patience.account(state.now_ms)
        match event:
            case Received(verified):
                self._on_message(verified.message)
            case Validated():
                self.ordering.on_validated(event)
            case Persisted(token):
                self._on_persisted(token)
            case Applied():
                self._on_applied(event)
            case BatchAvailable():
                self._backlog.add(event, state.now_ms, state.delivered)
            case Fired(timer):
                self._on_timer(timer)
            case PeerStatus(member, status):
                self._repair.on_status(member, status)
            case Certified(proposal, verified_certificate):
                if not self._restart.remembers(verified_certificate.message):
                    self._mute(proposal.height)
                self.ordering.on_certified(proposal, verified_certificate.message)
            case CheckpointCertified(verified_checkpoint):
                self._on_checkpoint_certificate(verified_checkpoint.message)
        self._deliver()
        self.ordering.try_propose()
        self._update_timers()
        self._check_invariants()
        return effects

    def start(self, now_ms: int, executed: Iterable[CheckpointCertificate] = ()) -> list[Effect]:
        """Begin, after any `restore`: arms the timers and validates again what was in flight. `executed`: checkpoints
        of the store without signatures yet. Power may have failed before our votes for them were durable, and nobody
        executes them again."""
        state = self._state
        state.effects = []
        state.now_ms = state.progress_at_ms = now_ms
        self._patience.begin_view(now_ms, state.delivered)
        self._own_status()
        for claim in executed:
            checkpoints = self._of_epoch(claim.epoch)
            if checkpoints is not None:
                self._vote_checkpoint(checkpoints, claim)
        self.ordering.resume()
        if state.changing:
            self._views.repeat_view_change()
        self._update_timers()
        return state.effects

    def _on_message(self, message: Message) -> None:
        state = self._state
        if state.halted:
            return state.ignore("halted")
        if isinstance(message, CheckpointVote):
            return self._on_checkpoint_vote(message)
        if isinstance(message, Status) or message.epoch != state.validators.epoch:
            return state.ignore("other epoch")
        if state.me is None:
            return state.ignore("not a member")
        match message:
            case PrePrepare():
                self.ordering.on_pre_prepare(message)
            case Vote():
                self.ordering.on_vote(message)
            case Suspect():
                self._views.on_suspect(message)
            case TimeoutCertificate():
                self._views.on_timeout_certificate(message)
            case ViewChange():
                self._begin_view(self._views.on_view_change(message))
            case NewView():
                self._begin_view(self._views.on_new_view(message))
        return None

    def wants(self, message: Message | CheckpointCertificate) -> bool:
        """Whether a message could still matter: asked before its signatures are checked, to save the checks."""
        if isinstance(message, CheckpointVote | CheckpointCertificate):
            checkpoints = self._of_epoch(message.epoch)
            return checkpoints is not None and checkpoints.wants(message)
        return self.ordering.wants(message)

    def forget_batch(self, digest: bytes) -> None:
        """The pool dropped a batch that was never ordered."""
        self._backlog.forget(digest)

    def _on_persisted(self, token: int) -> None:
        """What we signed is durable: from now on it counts, and may be sent again."""
        match self._state.unpersisted.pop(token, None):
            case CheckpointVote() as checkpoint:
                self._on_checkpoint_vote(checkpoint)
            case _ if self._state.me is None:
                return
            case Vote() as vote:
                self.ordering.on_own_vote(vote)
            case (Suspect() | ViewChange() | NewView()) as message:
                self._begin_view(self._views.on_persisted(message))

    def _begin_view(self, message: NewView | None) -> None:
        """A new view was installed: use the checkpoint it shows, propose again what it demands, hear what was early."""
        choice = self._views.choice
        if message is None or choice is None:
            return
        if choice.stable is not None:
            self._state.checkpoints.learn(choice.stable)
            self._settle(self._state.checkpoints)
        self.ordering.propose_required()
        for early in self._views.take_kept():
            self._on_message(early)

    def _mute(self, height: int) -> None:
        """Our key signed what we know nothing of. Whatever we sign might contradict it: from now on we only follow."""
        state = self._state
        state.config = replace(state.config, muted=True)
        state.me = None
        self._views.begin_first()
        state.effects.append(KeyForgotten(height))

    # Delivery

    def _deliver(self) -> None:
        state = self._state
        while not state.halted:
            slot = state.slots.get(state.delivered + 1)
            if slot is None or slot.decision is None:
                return
            if state.epoch_end is not None and slot.height > state.epoch_end:
                return
            # The set of a height is known only once the end of its epoch could have been.
            if slot.height > state.executed + state.parameters.log_window:
                return
            state.delivered = slot.height
            proposal, certificate = slot.decision
            state.effects.append(Deliver(proposal, certificate))
            self._backlog.delivered(proposal.batches)
            if slot.proposal is not None and slot.proposal.digest != proposal.digest:
                # Shown to us alone: what it named must not be kept from the chain by it.
                self._backlog.give_back(slot.proposal.batches)
            state.progress_at_ms = state.now_ms
            self._views.on_progress()

    # Checkpoints (section 5)

    def _on_applied(self, event: Applied) -> None:
        state = self._state
        assert event.height == state.executed + 1, "blocks are applied in order"
        slot = state.slots.get(event.height)
        if slot is not None and slot.decision is not None:
            self._backlog.executed(slot.decision[0].batches)
        state.executed = event.height
        state.epoch_end = event.epoch_end
        if event.state_root is not None:
            state.last_checkpoint = event.height
            ours = (event.block_hash, event.state_root, event.results_hash)
            claim = CheckpointCertificate(state.validators.epoch, event.height, *ours, ())
            self._vote_checkpoint(state.checkpoints, claim)
        self._settle(state.checkpoints)
        if event.next_validators is not None:
            self._enter_epoch(event.next_validators, event.next_parameters or state.parameters)
        # A quorum's checkpoints cannot lag further behind than this, so no view change can need older locks.
        for height in [known for known in state.slots if known <= state.executed - state.parameters.log_window]:
            del state.slots[height]

    def _vote_checkpoint(self, checkpoints: Checkpoints, claim: CheckpointCertificate) -> None:
        """Vouch for what was executed; `claim` is what a certificate of it would say."""
        state, own = self._state, checkpoints.own
        if claim.height <= checkpoints.stable:
            return
        me = None if state.config.muted else checkpoints.validators.index(state.config.key)
        ours = (claim.block_hash, claim.state_root, claim.results_hash)
        vote = CheckpointVote(claim.epoch, claim.height, *ours, 0 if me is None else me)
        before = own.get(vote.height)
        if before is not None and before.claim != vote.claim:
            # Executed again, to another end: sign no second.
            self._halt(vote.height, vote.state_root, before.state_root)
            return
        if me is None or state.halted:
            own.setdefault(vote.height, vote)  # unsigned: a follower only compares
            return
        vote = own[vote.height] = state.signed(vote)  # as in a former life, perhaps: it is the same
        state.persist(vote.height, (vote,), vote, (Broadcast(vote),), vouches=True)

    def _halt(self, height: int, own_state_root: bytes, other_state_root: bytes) -> None:
        """Once: whoever is told looks for the reason, and what others certify later does not change it."""
        if not self._state.halted:
            self._state.halted = True
            self._state.effects.append(Diverged(height, own_state_root, other_state_root))

    def _of_epoch(self, epoch: int) -> Checkpoints | None:
        """The checkpoints of this epoch, or those of the one before while its last is open."""
        for checkpoints in (self._state.checkpoints, self._state.former):
            if checkpoints is not None and checkpoints.validators.epoch == epoch:
                return checkpoints
        return None

    def _on_checkpoint_vote(self, vote: CheckpointVote) -> None:
        checkpoints = self._of_epoch(vote.epoch)
        if checkpoints is None:
            return self._state.ignore("other epoch")
        self._state.compare(checkpoints.record(vote), vote)
        return self._settle(checkpoints)

    def _on_checkpoint_certificate(self, certificate: CheckpointCertificate) -> None:
        checkpoints = self._of_epoch(certificate.epoch)
        if checkpoints is None:
            return self._state.ignore("other epoch")
        checkpoints.learn(certificate)
        return self._settle(checkpoints, certificate)

    def _settle(self, checkpoints: Checkpoints, offered: CheckpointCertificate | None = None) -> None:
        state = self._state
        last = state.validators.first_height - 1  # of the epoch before
        executed = min(state.executed, last) if checkpoints is state.former else state.executed
        certificate = checkpoints.settle(executed, offered)
        if certificate is None:
            return
        own = checkpoints.own.get(certificate.height)
        certified = (certificate.block_hash, certificate.state_root, certificate.results_hash)
        if own is not None and own.claim != certified:
            self._halt(certificate.height, own.state_root, certificate.state_root)
            return
        checkpoints.advance(certificate)
        state.effects.append(Stable(certificate))
        if checkpoints is state.former:
            if checkpoints.stable == state.validators.first_height - 1:
                state.former = None
            return
        for height in [known for known in state.slots if known <= checkpoints.stable]:
            del state.slots[height]

    # Epochs (section 6)

    def validators_of(self, epoch: int) -> ValidatorSet | None:
        """The set that signs messages of `epoch`, if that is this epoch or the one before."""
        checkpoints = self._of_epoch(epoch)
        return None if checkpoints is None else checkpoints.validators

    def _enter_epoch(self, validators: ValidatorSet, parameters: Parameters) -> None:
        """Begin again with another set: nothing is in flight, unless we were in this epoch before a restart."""
        self._state.enter_epoch(validators, parameters)
        self._patience.set_limits(parameters.view_timeout_ms, parameters.view_timeout_ms_max)
        self._views.begin_first()
        self._repair.reset()
        self._restart.enter_epoch()
        self.ordering.resume()

    # Status and timers

    def status(self) -> Status:
        return self._repair.status()

    def _own_status(self) -> None:
        self._state.broadcast(self.status())
        interval_ms = self._state.parameters.view_timeout_ms // STATUSES_PER_PATIENCE
        interval_ms = max(STATUS_INTERVAL_MS_MIN, min(interval_ms, STATUS_INTERVAL_MS_MAX))
        self._set_timer(Timer.STATUS, self._state.now_ms + interval_ms)

    def _has_work(self) -> bool:
        """Whether someone waits for this chain to move: only then does patience run."""
        state = self._state
        ends_epoch = state.epoch_end is not None and state.executed < state.epoch_end  # empty blocks are owed till then
        if state.changing or ends_epoch or len(self._backlog) > 0 or self.ordering.is_in_flight():
            return True
        # A quiet chain left uncertified, by when a leader that lives would have proposed the block that closes it.
        # Looked at with every status.
        quiet_ms = state.now_ms - state.progress_at_ms
        return state.last_checkpoint < state.executed and quiet_ms >= SEAL_OVERDUE * self.config.seal_after_ms

    def _is_waiting(self) -> bool:
        """Whether patience may end: it does once a view."""
        state = self._state
        return state.me is not None and not state.halted and not self._views.suspecting and self._has_work()

    def _on_timer(self, timer: Timer) -> None:
        self._timers.pop(timer, None)
        if timer is Timer.PROGRESS:
            if self._is_waiting() and self._state.now_ms >= self._views.patience_ends_ms():
                self._views.suspect()
        elif timer is Timer.STATUS:
            self._own_status()
            self._views.repeat()

    def _set_timer(self, timer: Timer, at_ms: int | None) -> None:
        """Set or, with None, cancel; nothing is said of what stays as it is."""
        if self._timers.get(timer) == at_ms:
            return
        if at_ms is None:
            del self._timers[timer]
            self._state.effects.append(CancelTimer(timer))
        else:
            self._timers[timer] = at_ms
            self._state.effects.append(SetTimer(timer, at_ms))

    def _update_timers(self) -> None:
        state = self._state
        self._patience.observe(state.now_ms, self._has_work(), state.progress_at_ms, state.changing)
        self._set_timer(Timer.PROGRESS, self._views.patience_ends_ms() if self._is_waiting() else None)
        self._set_timer(Timer.PROPOSE, self.ordering.propose_due_ms())

    # Restart (section 8)

    def lasting_records(self) -> tuple[Record, ...]:
        """What must be written again before the log is shortened: how we came into this view."""
        return self._views.lasting_records()

    @property
    def forgotten(self) -> int:
        """The height up to which decisions need not be restored."""
        return self._state.forgotten

    def restore(self, records: Iterable[Record], decisions: Iterable[tuple[Proposal, Certificate]]) -> None:
        """Take back what was durable: `records` in the order they were written, and the decisions above what is
        `forgotten` from the block store. Call before `start`."""
        state = self._state
        for proposal, certificate in decisions:
            if certificate.epoch == state.validators.epoch and proposal.height > state.forgotten:
                state.slot(proposal.height).decision = (proposal, certificate)
        self._restart.restore(records)

    # Invariants

    def _check_invariants(self) -> None:
        state = self._state
        assert state.executed <= state.delivered
        # By the longest there may be: what is restored may be of an epoch with a longer one.
        assert len(state.slots) <= 3 * LOG_WINDOW_MAX + 1, "the log is bounded"
        assert len(self._backlog) <= AVAILABLE_MAX
        assert state.me is None or state.me < state.validators.n

    def table_sizes(self) -> dict[str, int]:
        """Entries in every table, for the bound that tests and the simulator check."""
        state = self._state
        return {
            "slots": len(state.slots),
            "votes": sum(len(slot.prepares) + len(slot.commits) for slot in state.slots.values()),
            "checkpoints": state.checkpoints.entries() + (state.former.entries() if state.former else 0),
            "available": len(self._backlog),
            "unpersisted": len(state.unpersisted),
            **self._views.table_sizes(),
        }
