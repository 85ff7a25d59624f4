"""What all parts of one engine share: where the member stands, its log of slots, and the effects of the step at hand.

The parts (ordering, views, checkpoints, repair) read and write this and know each other only where their constructors
say so. Helpers here have no opinion: they sign, ask for durability, and count what was refused.

Must not know: any rule of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from consensus.checkpoints import Checkpoints
from consensus.config import EngineConfig
from consensus.contradiction import contradiction
from consensus.events import Broadcast, Effect, Evidence, Persist, Send
from consensus.messages import Claim, Message, Record, Signed, Vote, encode_message, signed
from consensus.slots import Slot
from ledger.block import CheckpointCertificate, Phase
from ledger.execution import Tip
from ledger.genesis import Parameters
from ledger.validators import ValidatorSet

Sign = Callable[[bytes], bytes]
S = TypeVar("S", bound=Signed)


@dataclass(slots=True)
class State:
    """One member's (or follower's) place in the protocol. Times in milliseconds, of the clock that `step` is given."""

    config: EngineConfig
    sign: Sign
    parameters: Parameters  # of this epoch
    validators: ValidatorSet
    checkpoints: Checkpoints
    executed: int
    delivered: int
    epoch_end: int | None
    last_checkpoint: int  # height of the last one executed, certified or not
    me: int | None
    former: Checkpoints | None = None  # of the epoch before, for its last checkpoint only
    view: int = 0
    changing: bool = False
    halted: bool = False
    slots: dict[int, Slot] = field(default_factory=dict)
    proposed_top: int = 0  # the highest height with a proposal of this view, or decided
    progress_at_ms: int = 0  # when there last was progress
    now_ms: int = 0
    wall_ms: int = 0
    effects: list[Effect] = field(default_factory=list)
    unpersisted: dict[int, Signed | None] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)  # reason -> count, for the account of what was refused
    _token: int = 0
    _convicted: set[tuple[int, int]] = field(default_factory=set)  # (epoch, member): one proof for each is enough

    @classmethod
    def begin(
        cls,
        config: EngineConfig,
        sign: Sign,
        tip: Tip,
        stable: CheckpointCertificate | None,
        former: ValidatorSet | None,
    ) -> State:
        """See `Engine`."""
        checkpoints = Checkpoints.of_epoch(tip.validators, config.parameters.log_window, stable)
        me = None if config.muted else tip.validators.index(config.key)
        place = (tip.validators, checkpoints, tip.height, tip.height, tip.epoch_end, tip.checkpoint_height, me)
        open_before = None if former is None else Checkpoints.of_epoch(former, config.parameters.log_window, stable)
        if open_before is not None:
            open_before.close(tip.validators.first_height - 1)
        return cls(config, sign, config.parameters, *place, open_before)

    def enter_epoch(self, validators: ValidatorSet, parameters: Parameters) -> None:
        """Begin again with another set: nothing is in flight, the closing checkpoint is all that is left of the old."""
        self.former = self.checkpoints if self.checkpoints.stable < self.executed else None
        if self.former is not None:
            self.former.close(self.executed)
        self.validators, self.parameters, self.epoch_end = validators, parameters, None
        self.me = None if self.config.muted else validators.index(self.config.key)
        self.checkpoints = Checkpoints.of_epoch(validators, self.parameters.log_window, None)
        self.slots.clear()
        self._convicted.clear()

    @property
    def leader(self) -> int:
        return self.validators.leader(self.view)

    @property
    def is_leader(self) -> bool:
        return self.me is not None and self.me == self.leader and not self.changing

    def slot(self, height: int) -> Slot:
        found = self.slots.get(height)
        if found is None:
            found = self.slots[height] = Slot(height)
        return found

    def in_log(self, height: int) -> bool:
        """Whether a height may be voted on. The upper bound keeps tables finite, and makes sure that the height's set
        is known (section 6); below the lower one our own votes may be forgotten, so that none could be kept to."""
        top = self.checkpoints.stable + self.parameters.log_window
        if self.epoch_end is not None:
            # An epoch may end only when the one before is closed by a certificate: history has no gap (section 6).
            top = min(top, self.epoch_end - (self.former is not None))
        return self.forgotten < height <= top

    @property
    def forgotten(self) -> int:
        """The height up to which nothing is kept: a quorum's checkpoints cannot lag further behind what is executed."""
        return max(self.checkpoints.stable, self.executed - self.parameters.log_window)

    def lasting_height(self) -> int:
        # Views outlive checkpoints: such a record is dropped only when the log window has passed it.
        return self.executed + self.parameters.log_window

    def ignore(self, reason: str) -> None:
        self.ignored[reason] = self.ignored.get(reason, 0) + 1

    def vote(self, height: int, phase: Phase, digest: bytes) -> Vote:
        assert self.me is not None
        made: Vote = self.signed(Vote(self.validators.epoch, self.view, height, phase, digest, self.me))
        return made

    def signed(self, message: S) -> S:
        """The message with our signature."""
        return signed(message, self.sign, self.config.chain_id)  # type: ignore[no-any-return]

    def persist(
        self,
        height: int,
        records: Iterable[Record],
        counted: Signed | None,
        then: tuple[Send | Broadcast, ...],
        *,
        vouches: bool = False,
    ) -> None:
        """Have `records` made durable; then `then` is sent, and `counted` comes back with `Persisted`."""
        self._token += 1
        self.unpersisted[self._token] = counted
        record = b"".join(len(item).to_bytes(4, "big") + item for item in map(encode_message, records))
        self.effects.append(Persist(self._token, height, record, then, vouches))

    def send(self, member: int, message: Message) -> None:
        self.effects.append(Send(member, message))

    def broadcast(self, message: Message) -> None:
        self.effects.append(Broadcast(message))

    def compare(self, known: Signed | Claim, other: Signed | Claim) -> None:
        """Report a member whose two messages contradict each other, once an epoch."""
        proof = contradiction(known, other)
        if proof is None:
            return
        self.ignore("equivocation")
        if (proof.epoch, proof.member) not in self._convicted:
            self._convicted.add((proof.epoch, proof.member))
            self.effects.append(Evidence(proof))

    def is_convicted(self, member: int) -> bool:
        return (self.validators.epoch, member) in self._convicted
