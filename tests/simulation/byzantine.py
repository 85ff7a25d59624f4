"""Members that break the protocol: twins, and strategies around an honest replica (byzantine_node.py).

`Options.byzantine` names who follows which of `STRATEGIES`. Here are those of votes, views, checkpoints and proposals.

Must not know: the checkers, nor anything of other nodes but their public keys and what they send.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from consensus.messages import (
    CheckpointVote,
    Message,
    NewView,
    Prepared,
    PrePrepare,
    Suspect,
    TimeoutCertificate,
    ViewChange,
    Vote,
)
from consensus.newview import compose
from ledger.block import BLOCK_BATCHES_MAX, Certificate, CheckpointCertificate, Phase, Proposal
from ledger.codec import Value, decode, encode
from ledger.crypto import hash_bytes
from ledger.errors import CodecError
from ledger.transaction import HEIGHT_MAX, Batch
from node.replica import Replica
from p2p.frames import Kind
from storage.pruning import keep_blocks_min
from tests.simulation.byzantine_node import ByzantineNode
from tests.simulation.byzantine_noise import (
    BatchFlood,
    BatchForger,
    BatchWithholder,
    Garbage,
    LyingBlocks,
    LyingStatus,
    RequestFlood,
    VoteFlood,
)
from tests.simulation.cluster import Cluster, SimulatedNode, key_of
from tests.simulation.disk import Disk

NOBODYS_SIGNATURE = b"\x01" + bytes(63)
HOUR_MS = 3_600_000


# Twins


class _Twin(SimulatedNode):
    """The second replica of a key, with a disk of its own; heard and hearing on its side of the split only."""

    def __init__(self, cluster: Cluster, index: int, first: Twins) -> None:
        super().__init__(cluster, index)
        self.first = first

    def send(self, key: bytes, kind: Kind, payload: bytes) -> None:
        if self.first.side.get(key, 0) == 1:
            self.cluster.transmit(self, key, kind, payload)


class Twins(ByzantineNode):
    """Two honest replicas with one key, each with some of the peers, the split changing over time
    (Bano et al., Twins: BFT systems made robust, OPODIS 2021).
    """

    SPLIT_MS = 1_500

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.side: dict[bytes, int] = {}
        self.second = _Twin(cluster, index, self)

    def boot(self) -> None:
        super().boot()
        self.alive = False  # so that the second does not connect to the first
        self.second.boot()
        self.alive = True
        for key in self.replica.peers:
            self.second.replica.on_peer_up(key)
        for replica in (self.replica, self.second.replica):
            replica.on_peer_up = self._peer_up  # type: ignore[method-assign]
            replica.on_peer_down = self._peer_down  # type: ignore[method-assign]
        self._split()

    def crash(self, power: bool = True) -> None:
        super().crash(power)
        self.second.crash(power)

    def _peer_up(self, key: bytes) -> None:
        for replica in (self.replica, self.second.replica):
            Replica.on_peer_up(replica, key)

    def _peer_down(self, key: bytes) -> None:
        for replica in (self.replica, self.second.replica):
            Replica.on_peer_down(replica, key)

    def _split(self) -> None:
        self.side = {key: self.dice.randrange(2) for key in self.engine.validators.keys}
        self.cluster.later(self, self.dice.randint(self.SPLIT_MS // 3, self.SPLIT_MS), self._split)

    def send(self, key: bytes, kind: Kind, payload: bytes) -> None:
        if self.side.get(key, 0) == 0:
            self.transmit(key, kind, payload)

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        replica = self.second.replica if self.side.get(key, 0) else self.replica
        Replica.on_frame(replica, key, kind, payload)


# Votes


class Equivocator(ByzantineNode):
    """As leader it proposes one thing to one half and another to the other half, and helps to commit either."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.committed: set[tuple[bytes, bytes]] = set()

    def say(self, key: bytes, message: Message) -> Iterator[Message]:
        if isinstance(message, PrePrepare) and key in self.second_half and message.proposal.time_ms:
            other = replace(message.proposal, time_ms=message.proposal.time_ms + 1)
            yield self.proposal(message.view, other)
        else:
            yield message

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        message = self.read(kind, payload)
        if isinstance(message, Vote) and self.engine.validators.leader(message.view) == self.engine.me:
            place = (key, message.digest)
            if message.phase is Phase.PREPARE and place not in self.committed:
                self.committed.add(place)
                self.tell(key, self.vote(message.view, message.height, Phase.COMMIT, message.digest))
        super().hear(key, kind, payload)


class YesMan(ByzantineNode):
    """Prepares and commits, at once and without a look, whatever anyone proposes to it or votes for."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.agreed: set[tuple[bytes, int, bytes]] = set()

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        message = self.read(kind, payload)
        vote = message.vote if isinstance(message, PrePrepare) else message
        if isinstance(vote, Vote) and (key, vote.view, vote.digest) not in self.agreed:
            self.agreed.add((key, vote.view, vote.digest))
            for phase in Phase:
                self.tell(key, self.vote(vote.view, vote.height, phase, vote.digest))
        super().hear(key, kind, payload)


class DoubleVoter(ByzantineNode):
    """Says a second, contradicting vote after each of its own, to everyone."""

    def say(self, key: bytes, message: Message) -> Iterator[Message]:
        yield message
        vote = message.vote if isinstance(message, PrePrepare) else message
        if isinstance(vote, Vote):
            yield self.vote(vote.view, vote.height, vote.phase, hash_bytes(vote.digest))


class SelectivelySilent(ByzantineNode):
    """Votes only to the half of the members, and every few seconds to the other half."""

    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        heard = (key in self.second_half) == bool(self.now_ms() // 3_000 % 2)
        return (message,) if heard else ()


class CommitWithholder(ByzantineNode):
    """Prepares everything, commits nothing."""

    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        return () if isinstance(message, Vote) and message.phase is Phase.COMMIT else (message,)


class Silent(ByzantineNode):
    """Hears, and says nothing but where it stands."""

    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        return ()

    def pass_on(self, key: bytes, kind: Kind, payload: bytes) -> Iterable[bytes]:
        return (payload,) if kind is Kind.STATUS else ()


class Replayer(ByzantineNode):
    """Sends again, to everyone and at random, what it or anyone else ever said."""

    KEPT = 400

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.kept: list[tuple[Kind, bytes]] = []

    def _keep(self, kind: Kind, payload: bytes) -> None:
        if len(self.kept) < self.KEPT:
            self.kept.append((kind, payload))
        else:
            self.kept[self.dice.randrange(self.KEPT)] = (kind, payload)

    def transmit(self, key: bytes, kind: Kind, payload: bytes) -> None:
        self._keep(kind, payload)
        super().transmit(key, kind, payload)

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        self._keep(kind, payload)
        super().hear(key, kind, payload)

    def act(self) -> None:
        for kind, payload in self.dice.sample(self.kept, min(12, len(self.kept))):
            for key in self.others:
                super().transmit(key, kind, payload)


class Promoter(ByzantineNode):
    """Passes others' prepares on, under their signatures, as their commits."""

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        message = self.read(kind, payload)
        if isinstance(message, Vote) and self.engine.validators.index(key) == message.member:
            self.tell_all((replace(message, phase=Phase.COMMIT),))
        super().hear(key, kind, payload)


class Relabeller(ByzantineNode):
    """Passes votes of others on, under their signatures, as votes of the next view or height, where their senders will
    vote for something else. So that they will, it gives its proposals to one half only.
    """

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        message = self.read(kind, payload)
        if isinstance(message, Vote) and self.engine.validators.index(key) == message.member:
            if self.dice.randrange(4) == 0:
                self.tell_all((replace(message, height=message.height + 1),))
            else:
                self.tell_all((replace(message, view=message.view + 1),))
        super().hear(key, kind, payload)

    def say(self, key: bytes, message: Message) -> Iterator[Message]:
        if not isinstance(message, PrePrepare) or key not in self.second_half:
            yield message


class Amnesiac(ByzantineNode):
    """Comes back every few seconds with the disk of a while ago, and signs what contradicts what it signed."""

    EVERY_MS, AGE_MS = 3_000, 1_200

    def boot(self) -> None:
        super().boot()
        self.cluster.later(self, self.EVERY_MS - self.AGE_MS, self._remember)

    def _remember(self) -> None:
        older = self.disk.copy()
        self.cluster.later(self, self.AGE_MS, lambda: self._forget(older))

    def _forget(self, older: Disk) -> None:
        self.crash(power=False)
        self.disk = older
        self.boot()


class Restored(Amnesiac):
    """Honest, but for its operator's mistake to start it from an older copy; it falls silent when it notices."""

    GOES_ON = False


# Views


class ForgetfulNewView(ByzantineNode):
    """Says in view changes that it holds nothing; as the next leader it picks the view changes that hold the least, and
    others for the other half. As leader it commits to one half only, so that there are locks without decisions.
    """

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.changes: dict[int, dict[int, ViewChange]] = {}

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        message = self.read(kind, payload)
        if isinstance(message, ViewChange) and message.view >= self.engine.view:
            self.changes.setdefault(message.view, {})[message.member] = message
        super().hear(key, kind, payload)

    def say(self, key: bytes, message: Message) -> Iterator[Message]:
        match message:
            case ViewChange():
                yield self.signed(replace(message, stable=None, prepared=()))
            case NewView():
                yield self._worst(message, key in self.second_half)
            case Vote(phase=Phase.COMMIT) if self.engine.is_leader and key in self.second_half:
                return
            case _:
                yield message

    def _worst(self, message: NewView, backwards: bool) -> Message:
        changes = dict(self.changes.get(message.view, {}))
        mine = self.signed(ViewChange(message.epoch, message.view, None, (), self.member))
        assert isinstance(mine, ViewChange)
        changes[self.member] = mine
        sign, quorum = -1 if backwards else 1, self.engine.validators.quorum
        ranked = sorted(changes.values(), key=lambda one: (len(one.prepared), sign * one.member))[:quorum]
        if len(ranked) < quorum:
            return message
        ordered = sorted(ranked, key=lambda one: one.member)
        return self.signed(compose(ordered, self.engine.validators.first_height - 1, self.member))


class Doubter(ByzantineNode):
    """Suspects every leader all the time, and enters later views by itself."""

    def act(self) -> None:
        epoch, view = self.engine.validators.epoch, self.engine.view
        messages = [self.signed(Suspect(epoch, later, self.member)) for later in (view, view + 1)]
        messages += [self.signed(ViewChange(epoch, later, None, (), self.member)) for later in (view + 1, view + 200)]
        self.tell_all(messages)


class Forger(ByzantineNode):
    """Speaks in the names of others, and makes up certificates: all of it refused, and known to be of its making."""

    def act(self) -> None:
        engine = self.engine
        epoch, view, height = engine.validators.epoch, engine.view, engine.delivered + 1
        victim = (self.member + 1) % engine.validators.n
        proposal = Proposal(height, self.wall_ms(), (self.random_hash(),))
        own = self.vote(view, height, Phase.PREPARE, proposal.digest)
        assert isinstance(own, Vote)
        made_up = tuple((member, own.signature) for member in range(engine.validators.quorum))
        lock = Prepared(proposal, Certificate(epoch, view, height, Phase.PREPARE, proposal.digest, made_up))
        change = self.signed(ViewChange(epoch, view + 1, None, (lock,), self.member))
        assert isinstance(change, ViewChange)
        repeated = ((self.member, own.signature),) * engine.validators.quorum
        alone = Prepared(proposal, Certificate(epoch, view, height, Phase.PREPARE, proposal.digest, repeated))
        empty = replace(change, prepared=()).claim
        claims = tuple(replace(empty, member=member) for member in range(engine.validators.quorum))
        leader = engine.leader
        self.tell_all(
            (
                replace(own, member=victim),
                replace(own, member=victim, phase=Phase.COMMIT),
                PrePrepare(proposal, replace(own, member=leader if leader != self.member else victim)),
                Vote(epoch, view, height, Phase.COMMIT, proposal.digest, victim, NOBODYS_SIGNATURE),
                Suspect(epoch, view, victim, NOBODYS_SIGNATURE),
                TimeoutCertificate(epoch, view, made_up),
                change if self.dice.randrange(2) else self.signed(replace(change, prepared=(alone,))),
                ViewChange(epoch, view + 1, None, (), victim, change.signature),
                self.signed(NewView(epoch, view + 1, claims, None, (), self.member)),
            )
        )


# Checkpoints


class WrongRoot(ByzantineNode):
    """Vouches for states that are not, another one to everyone."""

    def say(self, key: bytes, message: Message) -> Iterator[Message]:
        if isinstance(message, CheckpointVote):
            yield self.signed(replace(message, state_root=hash_bytes(key)))
            if self.dice.randrange(2):
                yield self.signed(replace(message, state_root=self.random_hash()))
        else:
            yield message


class BogusCheckpoint(ByzantineNode):
    """Sends checkpoint certificates of its own making, for heights near and far and for epochs that are over."""

    def act(self) -> None:
        engine = self.engine
        for height in (engine.executed, engine.executed + 1_000):
            for count in (1, engine.validators.quorum):
                self.frame_all(Kind.CERTIFIED, encode(self._make(engine.validators.epoch, height, count)))

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        store = self.replica.store
        following = store.validator_set(store.tip.validators.epoch)
        if kind is not Kind.EPOCH_REQUEST or following is None:
            super().hear(key, kind, payload)
            return
        made = []
        for epoch in range(decode(payload, size_bytes_max=64), store.tip.validators.epoch):  # type: ignore[arg-type]
            following = store.validator_set(epoch + 1)
            assert following is not None
            made.append(self._make(epoch, following.first_height - 1, following.quorum))
        super().transmit(key, Kind.EPOCH_RESPONSE, encode(tuple(made)))

    def _make(self, epoch: int, height: int, count: int) -> Value:
        claim = (self.random_hash(), self.random_hash(), self.random_hash())
        own = self.signed(CheckpointVote(epoch, height, *claim, self.member))
        assert isinstance(own, CheckpointVote)
        signatures = tuple((member, own.signature) for member in range(count))
        return CheckpointCertificate(epoch, height, *claim, signatures).to_value()


# Proposals


class WindowJumper(ByzantineNode):
    """Proposes and votes for heights beyond the log, and for other epochs; as leader every third time only that."""

    def say(self, key: bytes, message: Message) -> Iterator[Message]:
        if not isinstance(message, PrePrepare):
            yield message
            return
        far = message.proposal.height + self.cluster.genesis.parameters.log_window * (1 + message.proposal.height % 5)
        yield self.proposal(message.view, replace(message.proposal, height=far))
        yield self.proposal(message.view, replace(message.proposal, height=HEIGHT_MAX))
        if message.proposal.height % 3:
            yield message

    def act(self) -> None:
        engine, digest = self.engine, self.random_hash()
        far = engine.delivered + 2 * self.cluster.genesis.parameters.log_window
        for phase in Phase:
            self.tell_all(self.vote(engine.view, height, phase, digest) for height in (far, HEIGHT_MAX))
            self.tell_all(
                self.signed(Vote(epoch, engine.view, far, phase, digest, self.member)) for epoch in (7, HEIGHT_MAX)
            )


class SkewedTime(ByzantineNode):
    """Proposes with clocks an hour fast and an hour slow; its own clock is as far off."""

    def boot(self) -> None:
        self.clock_offset_ms = HOUR_MS
        super().boot()

    def say(self, key: bytes, message: Message) -> Iterator[Message]:
        if isinstance(message, PrePrepare) and message.proposal.height % 2:
            yield self.proposal(
                message.view, replace(message.proposal, time_ms=max(0, message.proposal.time_ms - 2 * HOUR_MS))
            )
        else:
            yield message


class Dawdler(ByzantineNode):
    """A leader whose proposals come one at a time, each just before the others lose patience."""

    MARGIN_MS = 150

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.due_ms: dict[PrePrepare, int] = {}

    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        if not isinstance(message, PrePrepare):
            return (message,)
        if message not in self.due_ms:
            gap_ms = self.cluster.genesis.parameters.view_timeout_ms - self.MARGIN_MS
            self.due_ms[message] = max(self.now_ms(), *self.due_ms.values(), 0) + gap_ms
        due_ms = self.due_ms[message]
        if due_ms <= self.now_ms():
            return (message,)
        self.cluster.later(self, due_ms - self.now_ms(), lambda: self.tell(key, message))
        return ()


class Censor(ByzantineNode):
    """Never hears of batches that hold one client's transactions, so as leader it does not order them."""

    @property
    def victim(self) -> bytes:
        return key_of(next(i for i in range(self.cluster.options.n) if i not in self.cluster.options.byzantine)).public

    def censors(self, key: bytes, batch: Batch) -> bool:
        return any(tx.sender == self.victim for tx in batch.transactions)

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        try:
            if kind is Kind.BATCH and self.censors(key, Batch.decode(payload)):
                return
        except CodecError:
            pass  # the replica below says what it thinks of it
        super().hear(key, kind, payload)


class MemberCensor(Censor):
    """The same for one member's batches, whoever spreads them again."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.refused: set[bytes] = set()

    def censors(self, key: bytes, batch: Batch) -> bool:
        if key == self.victim:
            self.refused.add(batch.digest)
        return batch.digest in self.refused


class HalfLeader(ByzantineNode):
    """As leader it serves one half of the members and is silent to the other."""

    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        return () if self.engine.is_leader and key not in self.second_half else (message,)


class Excluder(ByzantineNode):
    """Says nothing to one member, and orders nothing of what it spreads."""

    @property
    def victim(self) -> bytes:
        return self.others[0]

    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        return () if key == self.victim else (message,)

    def pass_on(self, key: bytes, kind: Kind, payload: bytes) -> Iterable[bytes]:
        return () if key == self.victim else (payload,)

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        if key != self.victim or kind is Kind.VOTE:
            super().hear(key, kind, payload)


class PhantomLeader(ByzantineNode):
    """As leader it orders batches that nobody holds, full proposals of them."""

    def say(self, key: bytes, message: Message) -> Iterator[Message]:
        if isinstance(message, PrePrepare) and message.proposal.batches:
            phantoms = tuple(hash_bytes(b"%d of %s" % (i, message.vote.digest)) for i in range(BLOCK_BATCHES_MAX))
            yield self.proposal(message.view, replace(message.proposal, batches=phantoms))
        else:
            yield message


class Turncoat(ByzantineNode):
    """As leader it proposes something else to who returns, and now and then to one of the others."""

    def boot(self) -> None:
        super().boot()
        self.replica.on_peer_up = self._peer_up  # type: ignore[method-assign]

    def _peer_up(self, key: bytes) -> None:
        if key in self.others:
            self._contradict(key)
        Replica.on_peer_up(self.replica, key)

    def act(self) -> None:
        if self.dice.randrange(20) == 0:
            self._contradict(self.dice.choice(self.others))

    def _contradict(self, key: bytes) -> None:
        if self.engine.is_leader:
            for slot in self.engine.slots.values():
                if slot.proposal is not None:
                    other = replace(slot.proposal, time_ms=slot.proposal.time_ms + 1)
                    self.tell(key, self.proposal(self.engine.view, other))


class Repeater(ByzantineNode):
    """As leader it orders at every other height what it ordered at the one before, too."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.ordered: dict[int, tuple[bytes, ...]] = {}

    def say(self, key: bytes, message: Message) -> Iterator[Message]:
        if not isinstance(message, PrePrepare):
            yield message
            return
        proposal = message.proposal
        self.ordered[proposal.height] = proposal.batches
        again = self.ordered.get(proposal.height - 1, ()) if proposal.height % 2 else ()
        batches = tuple(dict.fromkeys((*proposal.batches, *again)))[:BLOCK_BATCHES_MAX]
        yield self.proposal(message.view, replace(proposal, batches=batches)) if again else message


class Necromancer(ByzantineNode):
    """As leader it orders the batches of the first blocks again and again, which some nodes hold no more."""

    def say(self, key: bytes, message: Message) -> Iterator[Message]:
        block = self.replica.store.block(1 + message.proposal.height % 5) if isinstance(message, PrePrepare) else None
        if block is None or not isinstance(message, PrePrepare):
            yield message
            return
        batches = tuple(dict.fromkeys((*message.proposal.batches, *block.proposal.batches)))[:BLOCK_BATCHES_MAX]
        yield self.proposal(message.view, replace(message.proposal, batches=batches))


class Gravedigger(ByzantineNode):
    """As leader it orders, some heights ahead of their turn, what all are about to forget: at the time of the vote
    everyone has it in a block, and nobody once its second block is due. Shown to just enough for a lock, and not for a
    decision, it must be fetched by the others in the next view.
    """

    AHEAD = 6

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.dug: dict[int, bytes] = {}  # height ahead -> what it says there

    def act(self) -> None:
        store, engine = self.replica.store, self.engine
        height = store.tip.height + self.AHEAD
        oldest = height - keep_blocks_min(store.tip.parameters) - 2
        grave = store.block(oldest) if engine.is_leader and oldest > 0 else None
        # One at a time; what is in a pool still would be kept for other reasons.
        if grave is not None and grave.proposal.batches and height > max(self.dug, default=0) + self.AHEAD:
            proposal = Proposal(height, self.wall_ms(), grave.proposal.batches)
            self.dug[height] = proposal.digest
            count = self.dice.choice([len(self.others), engine.validators.quorum - 1])
            message = self.proposal(engine.view, proposal)
            for key in self.dice.sample(self.others, count):
                self.tell(key, message)

    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        about = message.proposal if isinstance(message, PrePrepare) else message
        if isinstance(about, Proposal | Vote) and self.dug.get(about.height, about.digest) != about.digest:
            return ()
        return (message,)


class Backdater(ByzantineNode):
    """Leading a view that begins above a checkpoint, it has other blocks voted on below, by who lacks those or lost
    them: at once, since such a member soon catches up.
    """

    def say(self, key: bytes, message: Message) -> Iterator[Message]:
        yield message
        if not isinstance(message, NewView) or message.member != self.member or message.stable is None:
            return
        base, tip = message.stable.height, self.replica.store.tip.height
        held, last = self.replica.pool.held(), self.replica.store.block(tip)
        batches = (held[0].digest,) if held else last.proposal.batches if last is not None else ()
        for height in range(max(1, base - 5), base + 1):
            yield self.proposal(message.view, Proposal(height, self.wall_ms(), batches, seal=not batches))


STRATEGIES: dict[str, type[ByzantineNode]] = {
    "twins": Twins,
    "equivocator": Equivocator,
    "yes_man": YesMan,
    "double_voter": DoubleVoter,
    "selectively_silent": SelectivelySilent,
    "commit_withholder": CommitWithholder,
    "silent": Silent,
    "replayer": Replayer,
    "promoter": Promoter,
    "relabeller": Relabeller,
    "amnesiac": Amnesiac,
    "restored": Restored,
    "forgetful_new_view": ForgetfulNewView,
    "doubter": Doubter,
    "forger": Forger,
    "wrong_root": WrongRoot,
    "bogus_checkpoint": BogusCheckpoint,
    "window_jumper": WindowJumper,
    "skewed_time": SkewedTime,
    "dawdler": Dawdler,
    "censor": Censor,
    "member_censor": MemberCensor,
    "half_leader": HalfLeader,
    "excluder": Excluder,
    "phantom_leader": PhantomLeader,
    "turncoat": Turncoat,
    "repeater": Repeater,
    "necromancer": Necromancer,
    "gravedigger": Gravedigger,
    "backdater": Backdater,
    "batch_withholder": BatchWithholder,
    "batch_flood": BatchFlood,
    "batch_forger": BatchForger,
    "vote_flood": VoteFlood,
    "request_flood": RequestFlood,
    "garbage": Garbage,
    "lying_status": LyingStatus,
    "lying_blocks": LyingBlocks,
}


def make(name: str, cluster: Cluster, index: int) -> ByzantineNode:
    """Node `index` of `cluster` as a follower of the strategy `name`. KeyError for a name not in `STRATEGIES`."""
    return STRATEGIES[name](cluster, index)
