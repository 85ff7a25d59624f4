"""The normal case (docs/protocol.md, section 3): proposals, prepares and commits of the present view, up to a decision.

Our own vote counts only once it is durable, exactly as for everyone else.

Must not know: how decisions are delivered, or how a view is left.
"""

from __future__ import annotations

from consensus.backlog import COMPANY_TXS, PROPOSE_TXS, Backlog
from consensus.events import Broadcast, Validate, Validated
from consensus.messages import Message, Prepared, PrePrepare, ViewChange, Vote
from consensus.patience import Patience
from consensus.slots import Slot
from consensus.state import State
from consensus.views import Views
from ledger.block import Certificate, Phase, Proposal

PACE_MAX = 3  # a leader with much to order waits for so many times as long as a decision takes


class Ordering:
    """One member's voting on the heights of its log."""

    def __init__(self, state: State, backlog: Backlog, patience: Patience, views: Views) -> None:
        self._state, self._backlog, self._patience, self._views = state, backlog, patience, views
        self._took_ms = 0  # from a proposal to its decision, smoothed
        self._best = -1, 0  # the view that we led last, and the shortest such time in it
        self._proposed_at_ms: int | None = None  # in this life; the last one that was not a new view's
        self._proposed_txs = 0  # what waited then, up to PROPOSE_TXS

    def wants(self, message: Message) -> bool:
        """Whether a message could still matter: asked before its signatures are checked, to save the checks."""
        state = self._state
        if isinstance(message, ViewChange):
            return not self._views.knows(message)
        if not isinstance(message, Vote) or message.epoch != state.validators.epoch:
            return True
        if message.view < state.view or message.height <= state.checkpoints.stable:
            return False
        if message.view != state.view or state.changing:
            return True
        slot = state.slots.get(message.height)
        if slot is None:
            return state.in_log(message.height)
        enough = slot.own_commit if message.phase is Phase.PREPARE else slot.decision
        known = slot.votes(message.phase).get(message.member)
        if known is not None and known.digest != message.digest:
            return not state.is_convicted(message.member)
        return enough is None and known is None

    # Proposals and votes of others

    def on_pre_prepare(self, message: PrePrepare) -> None:
        state = self._state
        if message.member != state.validators.leader(message.view):
            return state.ignore("not the leader")
        if self._views.is_of_other(message):
            return None
        if not state.in_log(message.proposal.height):
            return state.ignore("outside the log")
        slot = state.slot(message.proposal.height)
        if not self.record_vote(slot, message.vote):
            return None
        reason = self._refusal(slot, message)
        if reason is not None:
            return state.ignore(reason)
        slot.proposal, slot.proposed, slot.leader_pre_prepare = message.proposal, True, message
        slot.since_ms = state.now_ms
        state.proposed_top = max(state.proposed_top, slot.height)
        self._backlog.take(message.proposal.batches)
        self._validate(slot, message.proposal, check_time=self._views.required(slot.height) is None)
        self._advance(slot)
        return None

    def _refusal(self, slot: Slot, message: PrePrepare) -> str | None:
        """Why the leader's proposal is not voted for."""
        proposal, digest = message.proposal, message.vote.digest
        if slot.proposed and slot.proposal is not None:
            return "proposal known"
        if self._views.is_below(slot.height):
            return "below the checkpoint that the view began with"
        required = self._views.required(slot.height)
        if required is not None and required.digest != digest:
            return "not what the new view requires"
        if slot.decision is not None and slot.decision[0].digest != digest:
            return "contradicts a decision"
        if slot.own_prepare is not None and slot.own_prepare_vote().digest != digest:
            return "contradicts our own vote"
        if required is None and self._orders_twice(slot, proposal):
            return "orders a batch that is in flight"
        if required is None and self._is_idle(proposal):
            return "an empty block out of season"
        return None

    def _orders_twice(self, slot: Slot, proposal: Proposal) -> bool:
        """Whether another height of this view holds one of the batches. An honest leader never does it; one that did it
        at every height of the log would have each replica write the same megabytes to its log dozens of times."""
        restored = () if slot.proposal is None else slot.proposal.batches
        return any(digest in self._backlog.used and digest not in restored for digest in proposal.batches)

    def _is_idle(self, proposal: Proposal) -> bool:
        """Whether a proposal without batches, or a seal, has no reason: empty blocks, made as fast as they can be,
        would use up the heights for which waiting transactions are valid. If our clock is late, it comes again."""
        state = self._state
        if proposal.batches:
            return proposal.seal  # which closes a quiet chain
        if state.epoch_end is not None:
            return False
        due = proposal.height == state.executed + 1 and state.last_checkpoint < state.executed
        early = state.now_ms - state.progress_at_ms < state.config.seal_after_ms // 2
        return not proposal.seal or not due or early

    def _validate(self, slot: Slot, proposal: Proposal, *, check_time: bool) -> None:
        """Have the batches got hold of; what we executed already needs none of it."""
        if slot.decision is not None and slot.height <= self._state.executed:
            slot.validated = True
            self.send_prepare(slot)
        else:
            self._state.effects.append(Validate(proposal, check_time))

    def on_validated(self, event: Validated) -> None:
        state = self._state
        slot = state.slots.get(event.height)
        if slot is None or slot.proposal is None or slot.proposal.digest != event.digest or state.changing:
            return None  # asked in a view that is left
        if not event.ok:
            return state.ignore("proposal invalid")
        slot.validated = True
        self.send_prepare(slot)
        self._advance(slot)
        return None

    def send_prepare(self, slot: Slot) -> None:
        """Vote for the slot's proposal, as leader by proposing it; once durable it is sent and counted."""
        state, proposal = self._state, slot.proposal
        if proposal is None or state.me is None or state.halted:
            return
        if slot.own_prepare is not None:  # restored after a restart: durable already
            self.record_vote(slot, slot.own_prepare_vote())
            state.broadcast(slot.own_prepare)
            return
        if not slot.proposed and not state.is_leader:
            return
        vote = state.vote(slot.height, Phase.PREPARE, proposal.digest)
        message: PrePrepare | Vote = vote
        if state.is_leader:
            message = slot.leader_pre_prepare = PrePrepare(proposal, vote)
            slot.proposed = True
        slot.own_prepare = message
        state.persist(slot.height, (message,), vote, (Broadcast(message),))

    def on_vote(self, vote: Vote) -> None:
        state = self._state
        if self._views.is_of_other(vote):
            return None
        if not state.in_log(vote.height):
            return state.ignore("outside the log")
        slot = state.slot(vote.height)
        if self.record_vote(slot, vote):
            self._advance(slot)
        return None

    def on_own_vote(self, vote: Vote) -> None:
        """What we signed is durable: from now on it counts."""
        state = self._state
        if vote.epoch != state.validators.epoch or vote.view != state.view or state.changing:
            return
        slot = state.slots.get(vote.height)
        if slot is not None and self.record_vote(slot, vote):
            self._advance(slot)

    def record_vote(self, slot: Slot, vote: Vote) -> bool:
        """Count a member's first vote of this phase and view; a second, different one is evidence against it."""
        known = slot.votes(vote.phase).setdefault(vote.member, vote)
        if known.digest == vote.digest:
            return True
        self._state.compare(known, vote)
        return False

    def _advance(self, slot: Slot) -> None:
        """Lock and commit what a quorum prepared; decide what a quorum committed."""
        state, proposal = self._state, slot.proposal
        if proposal is None:
            return
        digest, quorum = proposal.digest, state.validators.quorum
        if slot.validated and slot.own_commit is None and state.me is not None and not state.halted:
            certificate = slot.quorum_certificate(Phase.PREPARE, digest, quorum)
            if certificate is not None:
                slot.prepared = Prepared(proposal, certificate)
                slot.own_commit = state.vote(slot.height, Phase.COMMIT, digest)
                records = (slot.prepared, slot.own_commit)
                state.persist(slot.height, records, slot.own_commit, (Broadcast(slot.own_commit),))
        if slot.decision is None:
            certificate = slot.quorum_certificate(Phase.COMMIT, digest, quorum)
            if certificate is not None:
                slot.decision = (proposal, certificate)
                took_ms = state.now_ms - slot.since_ms
                self._patience.decided(took_ms)
                self._measure(took_ms)

    def _measure(self, took_ms: int) -> None:
        state = self._state
        self._took_ms = (3 * self._took_ms + min(took_ms, state.parameters.view_timeout_ms)) // 4
        if state.is_leader:
            view, best_ms = self._best
            self._best = state.view, min(took_ms, best_ms) if view == state.view else took_ms

    def _queued_ms(self) -> int:
        """How much longer decisions take than the shortest did: they wait for processors or disks, which more blocks
        would only keep from their work. Over a long distance all take as long, so there it is nothing."""
        view, best_ms = self._best
        return max(0, self._took_ms - best_ms) if view == self._state.view else 0

    def on_certified(self, proposal: Proposal, certificate: Certificate) -> None:
        """A decision reached without us."""
        state = self._state
        if certificate.epoch != state.validators.epoch or certificate.phase is not Phase.COMMIT:
            return state.ignore("other epoch")
        assert (proposal.digest, proposal.height) == (certificate.digest, certificate.height), "it was verified to be"
        if not state.delivered < proposal.height <= state.delivered + state.parameters.log_window:
            return state.ignore("outside the log")
        slot = state.slot(proposal.height)
        if slot.decision is None:
            slot.decision = (proposal, certificate)
            state.proposed_top = max(state.proposed_top, slot.height)
        return None

    # Restart

    def count_restored(self) -> None:
        """Votes taken back from the log are durable, so they count."""
        state = self._state
        for slot in state.slots.values():
            if slot.own_prepare is not None:
                self.record_vote(slot, slot.own_prepare_vote())
            if slot.own_commit is not None:
                self.record_vote(slot, slot.own_commit)
            if slot.proposal is not None:
                self._backlog.take(slot.proposal.batches)
            if slot.proposal is not None or slot.decision is not None:
                state.proposed_top = max(state.proposed_top, slot.height)

    def resume(self) -> None:
        """Validate again what was in flight, to vote on; as leader, propose what the view demands and lacks."""
        for slot in list(self._state.slots.values()):
            slot.since_ms = self._state.now_ms
            if slot.proposal is not None and slot.decision is None and not self._state.changing:
                self._state.effects.append(Validate(slot.proposal, check_time=False))
        self.propose_required()

    def is_in_flight(self) -> bool:
        """Whether a proposal waits for its decision. What was delivered is decided, so few heights are left."""
        state = self._state
        top = min(state.proposed_top, state.delivered + state.parameters.log_window)  # a new view may lie far above us
        slots = (state.slots.get(height) for height in range(state.delivered + 1, top + 1))
        return any(slot is not None and slot.decision is None and slot.proposal is not None for slot in slots)

    # Proposing

    def propose_required(self) -> None:
        """As leader, all that the new view demands. Who leads and lags has not all of it in its log. It may then lose
        this view, but never votes further ahead of what it executed than the log is long (section 6)."""
        state = self._state
        for proposal in self._views.choice.proposals if self._views.choice and state.is_leader else ():
            if not state.in_log(proposal.height):
                continue
            slot = state.slot(proposal.height)
            if slot.decision is not None and slot.decision[0].digest != proposal.digest:
                continue  # decided in a later view, where another lock was shown: a quorum has left ours
            if slot.own_prepare is None:  # else said in a former life, and restored
                self._take_up(slot, proposal)
                self._validate(slot, proposal, check_time=False)

    def _take_up(self, slot: Slot, proposal: Proposal) -> None:
        slot.proposal, slot.since_ms = proposal, self._state.now_ms
        self._state.proposed_top = max(self._state.proposed_top, slot.height)
        self._backlog.take(proposal.batches)

    def try_propose(self) -> None:
        state = self._state
        while self._has_room():
            height = self._next_height()
            proposal = self.next_proposal(height)
            if proposal is None:
                return
            self._proposed_at_ms, self._proposed_txs = state.now_ms, self._backlog.txs(PROPOSE_TXS)
            self._take_up(state.slot(height), proposal)
            state.effects.append(Validate(proposal, check_time=False))

    def _has_room(self) -> bool:
        """Whether we lead and the window lets another height in."""
        state = self._state
        if not state.is_leader or state.halted:
            return False
        height = self._next_height()
        return height <= state.executed + state.parameters.window and state.in_log(height)

    def _next_height(self) -> int:
        choice = self._views.choice
        top = max(self._state.delivered, self._state.checkpoints.stable, choice.top if choice else 0)
        return max(top, self._state.proposed_top) + 1

    def _due_ms(self) -> int:
        """When the transactions that wait are worth a block. One costs every node some milliseconds whatever it holds,
        so where many come the last has time to be decided and executed, and others their turn: blocks grow instead of
        getting more. Where few wait there is little to save, unless decisions queue up, and heights overlap over a long
        distance. Patience is never tried.
        """
        state, parameters = self._state, self._state.parameters
        enough = min(PROPOSE_TXS, parameters.block_txs_max)
        txs = self._backlog.txs(enough)
        if self._proposed_at_ms is None or txs >= enough:
            return state.now_ms
        txs = max(txs, self._proposed_txs)
        worth_ms = parameters.block_interval_ms * (1 + txs // COMPANY_TXS) + self._queued_ms()
        pace_ms = self._took_ms + (PACE_MAX - 1) * self._took_ms * txs // PROPOSE_TXS
        return self._proposed_at_ms + min(pace_ms, worth_ms, parameters.view_timeout_ms // 4)

    def next_proposal(self, height: int) -> Proposal | None:
        """Batches worth proposing now; None to wait for company."""
        state = self._state
        if self._backlog.waiting:
            if state.now_ms < self._due_ms():
                return None
            return Proposal(height, state.wall_ms, self._backlog.gather(state.parameters.block_txs_max))
        if height != state.executed + 1:
            return None
        if state.epoch_end is not None and state.executed < state.epoch_end:
            return Proposal(height, state.wall_ms, ())  # empty blocks carry a decided change to its height
        quiet = state.now_ms - state.progress_at_ms >= state.config.seal_after_ms
        if quiet and state.last_checkpoint < state.executed:
            return Proposal(height, state.wall_ms, (), seal=True)
        return None

    def propose_due_ms(self) -> int | None:
        """When holding back a batch, or leaving a quiet chain without a checkpoint, should end."""
        if not self._has_room():
            return None
        state, height = self._state, self._next_height()
        if self._backlog.waiting:
            return max(state.now_ms + 1, self._due_ms())
        if height == state.executed + 1 and state.last_checkpoint < state.executed:
            return max(state.now_ms + 1, state.progress_at_ms + state.config.seal_after_ms)
        return None
