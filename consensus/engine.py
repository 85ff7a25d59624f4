"""The PBFT engine: a pure state machine, `step(input, now_ms) -> effects`. No I/O, no clock, no randomness.

Theory (docs/protocol.md has it whole). A leader proposes heights of a window without waiting; a member prepares what it
holds, commits what a quorum prepared, and a quorum of commits decides. Decisions are delivered in order. Leaving a view
takes a quorum of suspicions, so a member cut off by itself never leaves the view the others work in; entering one
takes a quorum of view changes, whose locks decide what is proposed again. Validator sets change between epochs, and all
heights in flight belong to one epoch.

Our own vote counts only once it is durable, exactly as for everyone else. Every table is bounded by members times the
log window.

Must not know: networks, disks, keys (it is given a `sign` function), how a block is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
    Evidence,
    Fired,
    Input,
    PeerStatus,
    Persist,
    Persisted,
    Received,
    Send,
    SetTimer,
    Stable,
    Timer,
    Validate,
    Validated,
)
from consensus.messages import (
    CheckpointVote,
    Message,
    NewView,
    Prepared,
    PrePrepare,
    Record,
    Signed,
    Status,
    Suspect,
    TimeoutCertificate,
    ViewChange,
    Vote,
    encode_message,
    signed,
)
from consensus.newview import Choice, choose
from consensus.slots import Slot
from ledger.block import BLOCK_BATCH_BYTES_MAX, BLOCK_BATCHES_MAX, Certificate, CheckpointCertificate, Phase, Proposal
from ledger.execution import Tip
from ledger.validators import ValidatorSet

PROPOSE_TXS = 300  # enough for a block of its own, however young
AVAILABLE_MAX = 8_192  # batches waiting to be ordered; the pool's byte limit binds long before
# How long blocks without a batch may pass it over before their leader is suspected, in times of the patience with one
# that makes none; and the same once more blocks went by than all the room for batches can fill. The lesser is longer
# than it takes to spread a lost batch again.
BATCH_PATIENCE, BATCH_PATIENCE_MANY_BLOCKS = 10, 2
MANY_BLOCKS = 128
FUTURE_PER_MEMBER_MAX = 256  # messages of one later view kept per member until we enter it

Sign = Callable[[bytes], bytes]


class Engine:
    """One member's (or follower's) consensus. Feed it with `step`; carry out the effects in order."""

    def __init__(self, config: EngineConfig, sign: Sign, tip: Tip, stable: CheckpointCertificate | None) -> None:
        """Begin above `tip`, the last executed block. `stable` is the epoch's latest certified checkpoint, if any."""
        self.config = config
        self._p = config.parameters
        self._sign = sign
        self._now_ms = self._wall_ms = 0
        self._effects: list[Effect] = []
        self._token = 0
        self._unpersisted: dict[int, Signed | None] = {}
        self.executed = self.delivered = tip.height
        self.validators = tip.validators
        self.epoch_end = tip.epoch_end
        self.me = self.validators.index(config.key)
        self.view = 0
        self.changing = False
        self.slots: dict[int, Slot] = {}
        self._last_checkpoint = tip.checkpoint_height
        self.checkpoints = self._epoch_checkpoints(stable)
        self._former: Checkpoints | None = None  # of the epoch before, for its last checkpoint only
        self._suspects: dict[int, Suspect] = {}
        self._own_suspect: Suspect | None = None  # durable ones only, here and in the next two
        self._suspecting = False
        self._timeout: TimeoutCertificate | None = None
        self._view_changes: dict[int, ViewChange] = {}
        self._own_view_change: ViewChange | None = None
        self._new_view: NewView | None = None
        self._choice: Choice | None = None
        self._failed_views = 0
        self._future: dict[int, tuple[int, list[Message]]] = {}
        self._peer_height: dict[int, int] = {}
        self._available: dict[bytes, tuple[BatchAvailable, int, int]] = {}  # digest -> (batch, since when and height)
        self._used: set[bytes] = set()  # batches in proposals of this view not yet delivered
        self._progress_at_ms = 0  # when there last was progress
        self._view_began_ms = self._view_began_height = 0
        self._work_began_ms: int | None = None  # patience begins when there is something to wait for
        self._timers: dict[Timer, int] = {}
        self.halted = False
        self.ignored: dict[str, int] = {}  # reason -> count, for the account of what was refused

    # The dispatcher

    def step(self, event: Input, now_ms: int, wall_ms: int) -> list[Effect]:
        """Take one input; returns what must be done, in order. `now_ms` is monotonic, `wall_ms` Unix time."""
        effects: list[Effect] = []
        self._effects = effects
        self._wall_ms = wall_ms
        self._now_ms = max(self._now_ms, now_ms)
        match event:
            case Received(verified):
                self._on_message(verified.message)
            case Validated():
                self._on_validated(event)
            case Persisted(token):
                self._on_persisted(token)
            case Applied():
                self._on_applied(event)
            case BatchAvailable():
                self._on_batch_available(event)
            case Fired(timer):
                self._on_timer(timer)
            case PeerStatus(member, status):
                self._on_status(member, status)
            case Certified(proposal, verified_certificate):
                self._on_certified(proposal, verified_certificate.message)
            case CheckpointCertified(verified_checkpoint):
                self._on_checkpoint_certificate(verified_checkpoint.message)
        self._deliver()
        self._try_propose()
        self._update_timers()
        self._check_invariants()
        return effects

    def start(self, now_ms: int) -> list[Effect]:
        """Begin, after any `restore`: arms the timers and validates again what was in flight."""
        self._effects = []
        self._now_ms = self._progress_at_ms = self._view_began_ms = now_ms
        self._own_status()
        for slot in list(self.slots.values()):
            if slot.proposal is not None and slot.decision is None and not self.changing:
                self._effects.append(Validate(slot.proposal, check_time=False))
        if self.changing:
            self._resend_view_change()
        self._update_timers()
        return self._effects

    def _on_message(self, message: Message) -> None:
        if self.halted:
            return self._ignore("halted")
        if isinstance(message, CheckpointVote):
            return self._on_checkpoint_vote(message)
        if isinstance(message, Status) or message.epoch != self.validators.epoch:
            return self._ignore("other epoch")
        if self.me is None:
            return self._ignore("not a member")
        match message:
            case PrePrepare():
                self._on_pre_prepare(message)
            case Vote():
                self._on_vote(message)
            case Suspect():
                self._on_suspect(message)
            case TimeoutCertificate():
                self._on_timeout_certificate(message)
            case ViewChange():
                self._on_view_change(message)
            case NewView():
                self._on_new_view(message)
        return None

    def _ignore(self, reason: str) -> None:
        self.ignored[reason] = self.ignored.get(reason, 0) + 1

    # Normal case (docs/protocol.md, section 3)

    @property
    def leader(self) -> int:
        return self.validators.leader(self.view)

    @property
    def is_leader(self) -> bool:
        return self.me is not None and self.me == self.leader and not self.changing

    @property
    def is_discontent(self) -> bool:
        """Whether this member wants to leave its view, or is on its way."""
        return self._suspecting or self.changing

    def _in_log(self, height: int) -> bool:
        # The upper bound keeps tables finite, and makes sure that the height's set is known (section 6).
        top = self.checkpoints.stable + self._p.log_window
        if self.epoch_end is not None:
            top = min(top, self.epoch_end)
        return self.checkpoints.stable < height <= top

    def _slot(self, height: int) -> Slot:
        return self.slots.setdefault(height, Slot(height))

    def wants(self, message: Message) -> bool:
        """Whether a message could still matter: asked before its signatures are checked, to save the checks."""
        if not isinstance(message, Vote) or message.epoch != self.validators.epoch:
            return True
        if message.view < self.view or message.height <= self.checkpoints.stable:
            return False
        if message.view != self.view or self.changing:
            return True
        slot = self.slots.get(message.height)
        if slot is None:
            return self._in_log(message.height)
        if message.member in slot.accused:
            return False
        enough = slot.own_commit if message.phase is Phase.PREPARE else slot.decision
        known = slot.votes(message.phase).get(message.member)
        return enough is None and (known is None or known.digest != message.digest)

    def _of_other_view(self, message: PrePrepare | Vote) -> bool:
        """Keep a message of a later view until we are there; drop one of an earlier view."""
        if message.view == self.view and not self.changing:
            return False
        if message.view >= self.view:
            view, kept = self._future.get(message.member, (-1, []))
            if message.view > view:
                view, kept = message.view, []
            if message.view == view and len(kept) < FUTURE_PER_MEMBER_MAX:
                kept.append(message)
            self._future[message.member] = (view, kept)
        self._ignore("other view")
        return True

    def _on_pre_prepare(self, message: PrePrepare) -> None:
        height, digest = message.proposal.height, message.vote.digest
        if message.member != self.validators.leader(message.view):
            return self._ignore("not the leader")
        if self._of_other_view(message):
            return None
        if not self._in_log(height):
            return self._ignore("outside the log")
        slot = self._slot(height)
        if not self._record_vote(slot, message.vote):
            return None
        if slot.proposed and slot.proposal is not None:
            return self._ignore("proposal known")
        required = self._required(height)
        if required is not None and required.digest != digest:
            return self._ignore("not what the new view requires")
        if slot.decision is not None and slot.decision[0].digest != digest:
            return self._ignore("contradicts a decision")
        if slot.own_prepare is not None and _digest_of(slot.own_prepare) != digest:
            return self._ignore("contradicts our own vote")
        if required is None and self._orders_twice(slot, message.proposal):
            return self._ignore("orders a batch that is in flight")
        if required is None and self._is_idle(message.proposal):
            return self._ignore("an empty block out of season")
        slot.proposal, slot.proposed, slot.leader_pre_prepare = message.proposal, True, message
        self._used.update(message.proposal.batches)
        if slot.decision is not None and height <= self.executed:
            slot.validated = True
            self._send_prepare(slot)
        else:
            self._effects.append(Validate(message.proposal, check_time=required is None))
        self._advance(slot)
        return None

    def _orders_twice(self, slot: Slot, proposal: Proposal) -> bool:
        """Whether another height of this view holds one of the batches. An honest leader never does it; one that did it
        at every height of the log would have each replica write the same megabytes to its log dozens of times."""
        restored = () if slot.proposal is None else slot.proposal.batches
        return any(digest in self._used and digest not in restored for digest in proposal.batches)

    def _is_idle(self, proposal: Proposal) -> bool:
        """Whether a proposal without batches has no reason: empty blocks, made as fast as they can be, would use up the
        heights for which waiting transactions are valid. If ours is the clock that is late, it comes again."""
        if proposal.batches or self.epoch_end is not None:
            return False
        return not proposal.seal or self._now_ms - self._progress_at_ms < self.config.seal_after_ms // 2

    def _required(self, height: int) -> Proposal | None:
        """What the view's own new-view demands at `height`."""
        choice = self._choice
        if choice is None or not choice.base < height <= choice.top:
            return None
        return choice.proposals[height - choice.base - 1]

    def _on_validated(self, event: Validated) -> None:
        slot = self.slots.get(event.height)
        if slot is None or slot.proposal is None or slot.proposal.digest != event.digest or self.changing:
            return self._ignore("validated too late")
        if not event.ok:
            return self._ignore("proposal invalid")
        slot.validated = True
        self._send_prepare(slot)
        self._advance(slot)
        return None

    def _send_prepare(self, slot: Slot) -> None:
        """Vote for the slot's proposal, as leader by proposing it; once durable it is sent and counted."""
        proposal = slot.proposal
        if proposal is None or self.me is None or self.halted:
            return
        if slot.own_prepare is not None:  # restored after a restart: durable already
            self._record_vote(slot, _vote_of(slot.own_prepare))
            self._effects.append(Broadcast(slot.own_prepare))
            return
        if not slot.proposed and not self.is_leader:
            return
        vote = self._vote(slot.height, Phase.PREPARE, proposal.digest)
        message: PrePrepare | Vote = vote
        if self.is_leader:
            message = slot.leader_pre_prepare = PrePrepare(proposal, vote)
            slot.proposed = True
        slot.own_prepare = message
        self._persist(slot.height, (message,), vote, (Broadcast(message),))

    def _vote(self, height: int, phase: Phase, digest: bytes) -> Vote:
        assert self.me is not None
        vote = Vote(self.validators.epoch, self.view, height, phase, digest, self.me)
        return signed(vote, self._sign, self.config.chain_id)  # type: ignore[no-any-return]

    def _persist(
        self,
        height: int,
        records: Iterable[Record],
        counted: Signed | None,
        then: tuple[Send | Broadcast, ...],
    ) -> None:
        self._token += 1
        self._unpersisted[self._token] = counted
        record = b"".join(len(item).to_bytes(4, "big") + item for item in map(encode_message, records))
        self._effects.append(Persist(self._token, height, record, then))

    def _on_persisted(self, token: int) -> None:
        """What we signed is durable: from now on it counts, and may be sent again."""
        match self._unpersisted.pop(token, None):
            case CheckpointVote() as checkpoint:
                self._on_checkpoint_vote(checkpoint)
            case Vote() as vote if self._is_current(vote) and not self.changing:
                slot = self.slots.get(vote.height)
                if slot is not None and self._record_vote(slot, vote):
                    self._advance(slot)
            case Suspect() as suspect if self._is_current(suspect):
                self._own_suspect = suspect
                self._on_suspect(suspect)
            case ViewChange() as change if self._is_current(change) and self.changing:
                self._own_view_change = change
                self._on_view_change(change)
            case NewView() as message if self._is_current(message) and not self.changing:
                self._new_view = message

    def _is_current(self, message: Vote | Suspect | ViewChange | NewView) -> bool:
        return message.epoch == self.validators.epoch and message.view == self.view

    def _on_vote(self, vote: Vote) -> None:
        if self._of_other_view(vote):
            return None
        if not self._in_log(vote.height):
            return self._ignore("outside the log")
        slot = self._slot(vote.height)
        if self._record_vote(slot, vote):
            self._advance(slot)
        return None

    def _record_vote(self, slot: Slot, vote: Vote) -> bool:
        """Count a member's first vote of this phase and view; a second, different one is evidence against it."""
        votes = slot.votes(vote.phase)
        known = votes.get(vote.member)
        if known is None:
            votes[vote.member] = vote
            return True
        if known.digest != vote.digest:
            if vote.member not in slot.accused:
                slot.accused.add(vote.member)
                self._effects.append(Evidence(known, vote))
            self._ignore("equivocation")
            return False
        return True

    def _advance(self, slot: Slot) -> None:
        """Lock and commit what a quorum prepared; decide what a quorum committed."""
        proposal, quorum = slot.proposal, self.validators.quorum
        if proposal is None:
            return
        digest = proposal.digest
        if slot.validated and slot.own_commit is None and self.me is not None and not self.halted:
            certificate = slot.quorum_certificate(Phase.PREPARE, digest, quorum)
            if certificate is not None:
                slot.prepared = Prepared(proposal, certificate)
                slot.own_commit = self._vote(slot.height, Phase.COMMIT, digest)
                records = (slot.prepared, slot.own_commit)
                self._persist(slot.height, records, slot.own_commit, (Broadcast(slot.own_commit),))
        if slot.decision is None:
            certificate = slot.quorum_certificate(Phase.COMMIT, digest, quorum)
            if certificate is not None:
                slot.decision = (proposal, certificate)

    def _on_certified(self, proposal: Proposal, certificate: Certificate) -> None:
        """A decision reached without us."""
        if certificate.epoch != self.validators.epoch or certificate.phase is not Phase.COMMIT:
            return self._ignore("other epoch")
        if proposal.digest != certificate.digest or proposal.height != certificate.height:
            return self._ignore("certificate of another block")
        if not self.delivered < proposal.height <= self.delivered + self._p.log_window:
            return self._ignore("outside the log")
        slot = self._slot(proposal.height)
        if slot.decision is None:
            slot.decision = (proposal, certificate)
        return None

    def _deliver(self) -> None:
        while not self.halted:
            slot = self.slots.get(self.delivered + 1)
            if slot is None or slot.decision is None:
                return
            if self.epoch_end is not None and slot.height > self.epoch_end:
                return
            # The set of a height is known only once the end of its epoch could have been.
            if slot.height > self.executed + self._p.log_window:
                return
            self.delivered = slot.height
            proposal, certificate = slot.decision
            self._effects.append(Deliver(proposal, certificate))
            for digest in proposal.batches:
                self._available.pop(digest, None)
                self._used.discard(digest)
            self._made_progress(certificate.view)

    def _made_progress(self, view: int) -> None:
        self._progress_at_ms = self._now_ms
        if not self.changing and view == self.view:
            self._failed_views = 0
        # A leader that makes blocks and leaves a batch out of all of them does not clear himself by making more.
        passed_over_at_ms = self._passed_over_at_ms()
        if passed_over_at_ms is not None and passed_over_at_ms <= self._now_ms:
            return
        self._own_suspect, self._suspecting = None, False
        if not self.changing:
            self._suspects.clear()

    def _passed_over_at_ms(self) -> int | None:
        """When the oldest batch that waits will have waited too long for this view's leader; None without one."""
        for digest, (_, since_ms, since_height) in self._available.items():
            if digest not in self._used:
                blocks = self.delivered - max(since_height, self._view_began_height)
                patience = BATCH_PATIENCE if blocks < MANY_BLOCKS else BATCH_PATIENCE_MANY_BLOCKS
                return max(since_ms, self._view_began_ms) + patience * self._p.view_timeout_ms
        return None

    # Proposing

    def _on_batch_available(self, batch: BatchAvailable) -> None:
        digest = batch.digest
        if digest in self._available or len(self._available) >= AVAILABLE_MAX:
            return
        self._available[digest] = (batch, self._now_ms, self.delivered)

    def forget_batch(self, digest: bytes) -> None:
        """The pool dropped a batch that was never ordered."""
        self._available.pop(digest, None)

    def _try_propose(self) -> None:
        if not self.is_leader or self.halted:
            return
        while True:
            height = self._next_height()
            if height > self.executed + self._p.window or not self._in_log(height):
                return
            proposal = self._next_proposal(height)
            if proposal is None:
                return
            slot = self._slot(height)
            slot.proposal = proposal
            self._used.update(proposal.batches)
            self._effects.append(Validate(proposal, check_time=False))

    def _next_height(self) -> int:
        top = max(self.delivered, self.checkpoints.stable, self._choice.top if self._choice else 0)
        taken = (
            height for height, slot in self.slots.items() if slot.proposal is not None or slot.decision is not None
        )
        return max(top, max(taken, default=0)) + 1

    def _next_proposal(self, height: int) -> Proposal | None:
        """Batches worth proposing now; None to wait for company. Natural batching: with nothing in flight, at once."""
        batches: list[bytes] = []
        txs, size_bytes, oldest_ms = 0, 0, self._now_ms
        for digest, (batch, since_ms, _) in self._available.items():
            if digest in self._used:
                continue
            full = txs + batch.tx_count > self._p.block_txs_max or size_bytes + batch.size_bytes > BLOCK_BATCH_BYTES_MAX
            if (batches and full) or len(batches) == BLOCK_BATCHES_MAX:
                break
            batches.append(digest)
            txs += batch.tx_count
            size_bytes += batch.size_bytes
            oldest_ms = min(oldest_ms, since_ms)
        idle = height == self.executed + 1
        if batches:
            due = idle or txs >= PROPOSE_TXS or self._now_ms - oldest_ms >= self._p.block_interval_ms
            return Proposal(height, self._wall_ms, tuple(batches)) if due else None
        if not idle:
            return None
        if self.epoch_end is not None and self.executed < self.epoch_end:
            return Proposal(height, self._wall_ms, ())  # empty blocks carry a decided change to its height
        quiet = self._now_ms - self._progress_at_ms >= self.config.seal_after_ms
        if quiet and self._last_checkpoint < self.executed:
            return Proposal(height, self._wall_ms, (), seal=True)
        return None

    # Checkpoints (section 5)

    def _epoch_checkpoints(self, stable: CheckpointCertificate | None) -> Checkpoints:
        validators = self.validators
        if stable is not None and stable.epoch == validators.epoch:
            return Checkpoints(validators, self._p.log_window, stable.height, stable)
        return Checkpoints(validators, self._p.log_window, validators.first_height - 1)

    def _on_applied(self, event: Applied) -> None:
        assert event.height == self.executed + 1, "blocks are applied in order"
        self.executed = event.height
        self.epoch_end = event.epoch_end
        if event.state_root is not None:
            self._last_checkpoint = event.height
            self._vote_checkpoint(event, event.state_root)
        self._settle(self.checkpoints)
        if event.next_validators is not None:
            self._enter_epoch(event.next_validators)
        # A quorum's checkpoints cannot lag further behind than this, so no view change can need older locks.
        for height in [known for known in self.slots if known <= self.executed - self._p.log_window]:
            del self.slots[height]

    def _vote_checkpoint(self, event: Applied, state_root: bytes) -> None:
        if event.height <= self.checkpoints.stable:
            return
        epoch, me = self.validators.epoch, 0 if self.me is None else self.me
        vote = CheckpointVote(epoch, event.height, event.block_hash, state_root, event.results_hash, me)
        if self.me is None or self.halted:
            self.checkpoints.own[event.height] = vote  # unsigned: a follower only compares
            return
        vote = signed(vote, self._sign, self.config.chain_id)
        self.checkpoints.own[event.height] = vote
        self._persist(event.height, (vote,), vote, (Broadcast(vote),))

    def _on_checkpoint_vote(self, vote: CheckpointVote) -> None:
        for checkpoints in (self.checkpoints, self._former):
            if checkpoints is not None and checkpoints.validators.epoch == vote.epoch:
                checkpoints.record(vote)
                return self._settle(checkpoints)
        return self._ignore("other epoch")

    def _on_checkpoint_certificate(self, certificate: CheckpointCertificate) -> None:
        for checkpoints in (self.checkpoints, self._former):
            if checkpoints is not None and checkpoints.validators.epoch == certificate.epoch:
                checkpoints.learn(certificate)
                return self._settle(checkpoints)
        return self._ignore("other epoch")

    def _settle(self, checkpoints: Checkpoints) -> None:
        certificate = checkpoints.settle(self.executed)
        if certificate is None:
            return
        own = checkpoints.own.get(certificate.height)
        if own is not None and own.claim != (
            certificate.block_hash,
            certificate.state_root,
            certificate.results_hash,
        ):
            self.halted = True
            self._effects.append(Diverged(certificate.height, own.state_root, certificate.state_root))
            return
        checkpoints.advance(certificate)
        self._effects.append(Stable(certificate))
        if checkpoints is self._former:
            self._former = None
            return
        for height in [known for known in self.slots if known <= checkpoints.stable]:
            del self.slots[height]

    # Epochs (section 6)

    def validators_of(self, epoch: int) -> ValidatorSet | None:
        """The set that signs messages of `epoch`, if that is this epoch or the one before."""
        for checkpoints in (self.checkpoints, self._former):
            if checkpoints is not None and checkpoints.validators.epoch == epoch:
                return checkpoints.validators
        return None

    def _enter_epoch(self, validators: ValidatorSet) -> None:
        """Begin again with another set: nothing is in flight, the closing checkpoint is all that is left of the old."""
        self._former = self.checkpoints if self.checkpoints.stable < self.executed else None
        self.validators, self.epoch_end = validators, None
        self.me = validators.index(self.config.key)
        self.checkpoints = self._epoch_checkpoints(None)
        self.view, self.changing, self._failed_views = 0, False, 0
        self._timeout = self._new_view = self._choice = self._own_view_change = None
        self._own_suspect, self._suspecting = None, False
        for table in (self.slots, self._suspects, self._view_changes, self._future, self._peer_height):
            table.clear()
        self._used.clear()
        self._progress_at_ms = self._view_began_ms = self._now_ms

    # Leaving a view (section 4)

    def _on_progress_timeout(self) -> None:
        """Say once that this view does not move; it is said again with every status until something changes."""
        assert self.me is not None
        self._suspecting = True
        suspect = signed(Suspect(self.validators.epoch, self.view, self.me), self._sign, self.config.chain_id)
        self._persist(self.executed + 1, (suspect,), suspect, (Broadcast(suspect),))

    def _on_suspect(self, suspect: Suspect) -> None:
        known = self._suspects.get(suspect.member)
        if suspect.view < self.view or (known is not None and known.view > suspect.view):
            return self._ignore("old suspicion")
        self._suspects[suspect.member] = suspect
        matching = sorted((one for one in self._suspects.values() if one.view == self.view), key=lambda one: one.member)
        if len(matching) >= self.validators.quorum:
            signatures = tuple((one.member, one.signature) for one in matching[: self.validators.quorum])
            self._on_timeout_certificate(TimeoutCertificate(suspect.epoch, self.view, signatures))
        return None

    def _on_timeout_certificate(self, certificate: TimeoutCertificate) -> None:
        if certificate.view < self.view:
            return self._ignore("old timeout")
        self._timeout = certificate
        self._enter_view(certificate.view + 1)
        return None

    def _enter_view(self, view: int) -> None:
        """Stop voting below `view` and say what is locked. Durable before anyone hears of it."""
        assert view > self.view
        assert self.me is not None
        self._failed_views += 1
        self._begin_view(view)
        self.changing = True
        prepared = tuple(
            slot.prepared
            for height, slot in sorted(self.slots.items())
            if slot.prepared is not None and height > self.checkpoints.stable
        )
        change = ViewChange(self.validators.epoch, view, self.checkpoints.certificate, prepared, self.me)
        change = signed(change, self._sign, self.config.chain_id)
        self._own_view_change = None
        records: tuple[Record, ...] = (change,) if self._timeout is None else (self._timeout, change)
        self._persist(self._lasting_height(), records, change, tuple(map(Broadcast, records)))  # type: ignore[arg-type]

    def _lasting_height(self) -> int:
        # Views outlive checkpoints: such a record is dropped only when the log window has passed it.
        return self.executed + self._p.log_window

    def _begin_view(self, view: int) -> None:
        self.view = view
        self._choice = self._new_view = None
        self._own_suspect, self._suspecting = None, False
        self._progress_at_ms = self._view_began_ms = self._now_ms
        self._view_began_height = self.delivered
        self._used.clear()
        for slot in self.slots.values():
            slot.enter_view()

    def _on_view_change(self, change: ViewChange) -> None:
        known = self._view_changes.get(change.member)
        if change.view < self.view or (known is not None and known.view >= change.view):
            return self._ignore("old view change")
        self._view_changes[change.member] = change
        ahead = sorted(one.view for one in self._view_changes.values() if one.view > self.view)
        if len(ahead) > self.validators.f:  # at least one honest member is there: follow to the smallest
            self._timeout = None
            return self._enter_view(ahead[0])
        return self._try_new_view()

    def _try_new_view(self) -> None:
        if not self.changing or self.me != self.leader:
            return
        changes = [one for _, one in sorted(self._view_changes.items()) if one.view == self.view]
        if len(changes) < self.validators.quorum:
            return
        message = NewView(self.validators.epoch, self.view, tuple(changes[: self.validators.quorum]), self.leader)
        self._install(signed(message, self._sign, self.config.chain_id))

    def _on_new_view(self, message: NewView) -> None:
        if message.view < self.view or (message.view == self.view and not self.changing):
            return self._ignore("old new-view")
        return self._install(message)

    def _install(self, message: NewView) -> None:
        """Begin voting in the message's view, with the choice recomputed from the view changes it carries."""
        choice = choose(message.view_changes, self.validators.first_height - 1)
        if message.view > self.view:
            self._failed_views += 1
        self._begin_view(message.view)
        self.changing = False
        self._choice, self._timeout, self._own_view_change = choice, None, None
        self._suspects.clear()
        mine = message.member == self.me
        self._persist(self._lasting_height(), (message,), message, (Broadcast(message),) if mine else ())
        if choice.stable is not None:
            self.checkpoints.learn(choice.stable)
            self._settle(self.checkpoints)
        for proposal in choice.proposals:
            self._used.update(proposal.batches)
            if proposal.height > self.checkpoints.stable and mine:
                self._propose_again(proposal)
        self._replay_future()

    def _propose_again(self, proposal: Proposal) -> None:
        slot = self._slot(proposal.height)
        assert slot.decision is None or slot.decision[0].digest == proposal.digest, "more than f members are faulty"
        slot.proposal = proposal
        if slot.decision is not None and proposal.height <= self.executed:
            slot.validated = True
            self._send_prepare(slot)
        else:
            self._effects.append(Validate(proposal, check_time=False))

    def _replay_future(self) -> None:
        for member, (view, messages) in sorted(self._future.items()):
            if view == self.view:
                del self._future[member]
                for message in messages:
                    self._on_message(message)
            elif view < self.view:
                del self._future[member]

    # Status, resending (section 7)

    def status(self) -> Status:
        return Status(self.validators.epoch, self.view, self.changing, self.delivered, self.checkpoints.stable)

    def _own_status(self) -> None:
        self._effects.append(Broadcast(self.status()))
        self._set_timer(Timer.STATUS, self._now_ms + self.config.status_interval_ms)

    def _on_status(self, member: int, status: Status) -> None:
        """Send a member what it evidently lacks. Costs at most a log window of messages per status received."""
        if status.epoch != self.validators.epoch or self.me is None or member == self.me or self.halted:
            return
        if status.view < self.view or (status.view == self.view and status.changing and not self.changing):
            self._help_into_view(member)
        elif status.view == self.view and self.changing and self._own_view_change is not None:
            self._effects.append(Send(member, self._own_view_change))
        elif status.view == self.view and not status.changing:
            if self._peer_height.get(member) == status.height:
                self._resend_votes(member, status.height)
            self._peer_height[member] = status.height
        for checkpoints in (self.checkpoints, self._former):
            if checkpoints is not None:
                votes = checkpoints.votes_of(self.me, status.stable)
                self._effects.extend(Send(member, vote) for vote in votes)

    def _help_into_view(self, member: int) -> None:
        if self._new_view is not None:
            self._effects.append(Send(member, self._new_view))
        elif self._timeout is not None:
            self._effects.append(Send(member, self._timeout))
        if self._own_view_change is not None:
            self._effects.append(Send(member, self._own_view_change))

    def _resend_votes(self, member: int, above: int) -> None:
        for height, slot in sorted(self.slots.items()):
            if not above < height <= above + self._p.window:
                continue
            if slot.own_prepare is not None and self.me in slot.prepares:
                self._effects.append(Send(member, slot.own_prepare))
            if slot.leader_pre_prepare is not None and slot.leader_pre_prepare is not slot.own_prepare:
                self._effects.append(Send(member, slot.leader_pre_prepare))
            if slot.own_commit is not None and self.me in slot.commits:
                self._effects.append(Send(member, slot.own_commit))

    def _resend_view_change(self) -> None:
        if self._timeout is not None:
            self._effects.append(Broadcast(self._timeout))
        if self._own_view_change is not None:
            self._effects.append(Broadcast(self._own_view_change))

    # Timers

    def _has_work(self) -> bool:
        """Whether someone waits for this chain to move: only then does patience run."""
        if self.changing or self._available:
            return True
        return any(slot.decision is None and slot.proposal is not None for slot in self.slots.values())

    def _is_waiting(self) -> bool:
        return self.me is not None and not self.halted and not self._suspecting and self._has_work()

    def _patience_ends_ms(self) -> int:
        ends_ms = max(self._progress_at_ms, self._work_began_ms or 0) + self._patience_ms()
        passed_over_at_ms = self._passed_over_at_ms()
        return ends_ms if passed_over_at_ms is None or self.changing else min(ends_ms, passed_over_at_ms)

    def _patience_ms(self) -> int:
        return int(min(self._p.view_timeout_ms << min(self._failed_views, 20), self._p.view_timeout_ms_max))

    def _on_timer(self, timer: Timer) -> None:
        self._timers.pop(timer, None)
        if timer is Timer.PROGRESS:
            if self._is_waiting() and self._now_ms >= self._patience_ends_ms():
                self._on_progress_timeout()
        elif timer is Timer.STATUS:
            self._own_status()
            if self._own_suspect is not None:
                self._effects.append(Broadcast(self._own_suspect))
            if self.changing:
                self._resend_view_change()

    def _set_timer(self, timer: Timer, at_ms: int) -> None:
        if self._timers.get(timer) != at_ms:
            self._timers[timer] = at_ms
            self._effects.append(SetTimer(timer, at_ms))

    def _cancel_timer(self, timer: Timer) -> None:
        if self._timers.pop(timer, None) is not None:
            self._effects.append(CancelTimer(timer))

    def _update_timers(self) -> None:
        if not self._has_work():
            self._work_began_ms = None
        elif self._work_began_ms is None:
            self._work_began_ms = self._now_ms
        if self._is_waiting():
            self._set_timer(Timer.PROGRESS, self._patience_ends_ms())
        else:
            self._cancel_timer(Timer.PROGRESS)
        due_ms = self._propose_due_ms()
        if due_ms is None:
            self._cancel_timer(Timer.PROPOSE)
        else:
            self._set_timer(Timer.PROPOSE, due_ms)

    def _propose_due_ms(self) -> int | None:
        """When holding back a batch, or leaving a quiet chain without a checkpoint, should end."""
        if not self.is_leader or self.halted:
            return None
        height = self._next_height()
        if height > self.executed + self._p.window or not self._in_log(height):
            return None
        waiting = [since_ms for digest, (_, since_ms, _) in self._available.items() if digest not in self._used]
        if waiting:
            return max(self._now_ms + 1, min(waiting) + self._p.block_interval_ms)
        if height == self.executed + 1 and self._last_checkpoint < self.executed:
            return max(self._now_ms + 1, self._progress_at_ms + self.config.seal_after_ms)
        return None

    # Restart (section 8)

    def lasting_records(self) -> tuple[Record, ...]:
        """What must be written again before the log is shortened: how we came into this view."""
        entry = (self._timeout, self._own_view_change) if self.changing else (self._new_view,)
        return tuple(record for record in entry if record is not None)

    def restore(self, records: Iterable[Record], decisions: Iterable[tuple[Proposal, Certificate]]) -> None:
        """Take back what was durable: `records` in the order they were written, and the decisions above the stable
        checkpoint from the block store. Call before `start`."""
        for proposal, certificate in decisions:
            if certificate.epoch == self.validators.epoch and proposal.height > self.checkpoints.stable:
                self._slot(proposal.height).decision = (proposal, certificate)
        if self.me is None:
            return
        ours = [record for record in records if _epoch_of(record) == self.validators.epoch]
        for record in ours:
            self._restore_view(record)
        for record in ours:
            self._restore_vote(record)
        for slot in self.slots.values():
            for vote in (slot.own_prepare, slot.own_commit):
                if vote is not None:
                    self._record_vote(slot, _vote_of(vote))
            if slot.proposal is not None:
                self._used.update(slot.proposal.batches)

    def _restore_view(self, record: Record) -> None:
        match record:
            case TimeoutCertificate(view=view) if view >= self.view:
                self._timeout = record
            case ViewChange(view=view) if view > self.view:
                self.view, self.changing = view, True
                self._own_view_change, self._new_view, self._choice = record, None, None
                self._view_changes[record.member] = record
            case NewView(view=view) if view > self.view or (view == self.view and self.changing):
                self.view, self.changing = view, False
                self._new_view, self._timeout, self._own_view_change = record, None, None
                self._choice = choose(record.view_changes, self.validators.first_height - 1)
            case CheckpointVote(height=height) if height > self.checkpoints.stable:
                self.checkpoints.own[height] = record
                self.checkpoints.record(record)

    def _restore_vote(self, record: Record) -> None:
        """Locks of any view; votes of the view we are in only, no others can be contradicted any more."""
        if not isinstance(record, PrePrepare | Vote | Prepared):
            return
        height = record.proposal.height if isinstance(record, PrePrepare) else record.height
        if height <= self.checkpoints.stable:
            return
        slot = self._slot(height)
        if isinstance(record, Prepared):
            if slot.prepared is None or slot.prepared.certificate.view <= record.certificate.view:
                slot.prepared = record
            if record.certificate.view == self.view:
                slot.proposal = record.proposal
        elif record.view != self.view or self.changing:
            return
        elif isinstance(record, PrePrepare):
            slot.own_prepare = slot.leader_pre_prepare = record
            slot.proposal, slot.proposed = record.proposal, True
        elif record.phase is Phase.PREPARE:
            slot.own_prepare = record
        else:
            slot.own_commit = record

    # Invariants

    def _check_invariants(self) -> None:
        assert self.executed <= self.delivered
        assert len(self.slots) <= 3 * self._p.log_window + 1, "the log is bounded"
        assert len(self._available) <= AVAILABLE_MAX
        assert self.me is None or self.me < self.validators.n

    def table_sizes(self) -> dict[str, int]:
        """Entries in every table, for the bound that tests and the simulator check."""
        return {
            "slots": len(self.slots),
            "votes": sum(len(slot.prepares) + len(slot.commits) for slot in self.slots.values()),
            "checkpoints": self.checkpoints.entries(),
            "suspects": len(self._suspects),
            "view_changes": len(self._view_changes),
            "future": sum(len(messages) for _, messages in self._future.values()),
            "available": len(self._available),
            "unpersisted": len(self._unpersisted),
        }


def _vote_of(message: PrePrepare | Vote) -> Vote:
    return message.vote if isinstance(message, PrePrepare) else message


def _digest_of(message: PrePrepare | Vote) -> bytes:
    return _vote_of(message).digest


def _epoch_of(record: Record) -> int:
    return record.certificate.epoch if isinstance(record, Prepared) else record.epoch
