"""One machine with a real engine: its disk, its little ledger, and what carries out the engine's effects.

Messages travel encoded, and every signature is checked on arrival, as on a node. What is persisted is durable only when
the world says that the disk is done; a crash keeps a prefix of what waited and any part of the blocks not yet synced.
Executing is hashing: a block's state is the hash of all before it. Whoever builds a world on this says when messages
arrive, when disks are done and when timers fire.

Must not know: time, order, faults.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from consensus import BlockSync, Engine, EngineConfig, Verifier
from consensus.events import (
    Applied,
    BatchAvailable,
    Broadcast,
    CancelTimer,
    Certified,
    CheckpointCertified,
    Deliver,
    Effect,
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
from consensus.messages import Message, Record, Status, decode_message, decode_record, encode_message
from ledger.block import Certificate, CheckpointCertificate, Phase, Proposal
from ledger.crypto import PUBLIC_KEY_SIZE_BYTES, SIGNATURE_SIZE_BYTES, hash_bytes
from ledger.execution import Tip
from ledger.genesis import Parameters
from ledger.validators import ValidatorSet

CHAIN = hash_bytes(b"chain")
WALL_MS = 1_700_000_000_000


def key_of(index: int) -> bytes:
    """Machines are ordered by key, so that in the first epoch members have their machines' numbers."""
    return bytes([index + 1]) * PUBLIC_KEY_SIZE_BYTES


def index_of(key: bytes) -> int:
    return key[0] - 1


def sign(key: bytes, statement: bytes) -> bytes:
    """A token for one signer and statement, which only tests that play a faulty member make for another."""
    return hashlib.sha512(key + statement).digest().ljust(SIGNATURE_SIZE_BYTES, b"\0")


def is_signed(key: bytes, statement: bytes, signature: bytes) -> bool:
    return sign(key, statement) == signature


@dataclass(frozen=True, slots=True)
class Work:
    """A batch. `members`: the machines that shall be the validators, if it is a decision about that."""

    name: str
    tx_count: int = 1
    members: tuple[int, ...] = ()

    @property
    def digest(self) -> bytes:
        return hash_bytes(self.name.encode())


@dataclass(frozen=True, slots=True)
class Spread:
    """A batch on its way."""

    work: Work


@dataclass(frozen=True, slots=True)
class Want:
    """Asks for batches."""

    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """For blocks `first` to `last`."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Block:
    """A decided and executed block. `pending` are the next epoch's validators, once they are decided."""

    proposal: Proposal
    certificate: Certificate
    works: tuple[Work, ...]
    tip: Tip
    pending: ValidatorSet | None


@dataclass(frozen=True, slots=True)
class Blocks:
    """The answer to `Ask`."""

    blocks: tuple[Block, ...]


Content: TypeAlias = bytes | Spread | Want | Ask | Blocks | CheckpointCertificate


@dataclass(frozen=True, slots=True)
class Write:
    """What waits for the disk: records with what follows once they are durable; `stable` lets older ones go."""

    height: int
    record: bytes
    persist: Persist | None = None
    stable: CheckpointCertificate | None = None
    synced: int = 0


class World(Protocol):
    """What surrounds machines."""

    now_ms: int

    def saw(self, machine: Machine, effect: Effect) -> None:
        """An effect, before it is carried out."""

    def transmit(self, sender: Machine, receivers: tuple[int, ...], content: Content) -> None: ...

    def writes(self, machine: Machine) -> None:
        """One more `Write` waits; call `machine.disk_done()` for it."""


def genesis(members: Iterable[int], parameters: Parameters) -> Tip:
    validators = ValidatorSet.create(0, 1, map(key_of, members))
    return Tip(0, CHAIN, WALL_MS, CHAIN, 0, validators, parameters)


def execute(
    before: Tip, pending: ValidatorSet | None, proposal: Proposal, certificate: Certificate, works: list[Work]
) -> Block:
    """The block after `before`. A decided set takes over `log_window` + 1 heights later."""
    height, parameters = before.height + 1, before.parameters
    assert proposal.height == height
    for work in works:
        if work.members and pending is None:
            first_height = height + parameters.log_window + 1
            pending = ValidatorSet.create(before.validators.epoch + 1, first_height, map(key_of, work.members))
    ends = pending is not None and pending.first_height == height + 1
    due = height - before.checkpoint_height >= parameters.checkpoint_interval
    block_hash = hash_bytes(before.block_hash + proposal.digest)
    tip = Tip(
        height,
        block_hash,
        max(before.time_ms, proposal.time_ms),
        hash_bytes(b"results" + block_hash),
        height if due or ends or proposal.seal else before.checkpoint_height,
        pending if ends and pending is not None else before.validators,
        parameters,
        None if ends or pending is None else pending.first_height - 1,
    )
    return Block(proposal, certificate, tuple(works), tip, None if ends else pending)


def state_root(block: Block) -> bytes:
    return hash_bytes(b"state" + block.tip.block_hash)


@dataclass
class Machine:
    """`alive` or off. What survives being off: `log`, `stable`, the blocks up to `synced` at least, batches held."""

    index: int
    world: World
    genesis: Tip
    log: list[tuple[int, bytes]] = field(default_factory=list)
    stable: CheckpointCertificate | None = None
    chain: list[Block] = field(default_factory=list)
    synced: int = 0
    held: dict[bytes, Work] = field(default_factory=dict)
    alive: bool = False
    timers: dict[Timer, int] = field(default_factory=dict)
    waiting: deque[Write] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.key = key_of(self.index)
        self.statements: dict[bytes, None] = {}  # every message of ours that was ever durable
        self.refused = ""  # why the last message was not even given to the engine

    @property
    def tip(self) -> Tip:
        return self.chain[-1].tip if self.chain else self.genesis

    # Life

    def start(self) -> None:
        parameters = self.genesis.parameters
        self.alive = True
        self.verifier = Verifier(CHAIN, is_signed)
        config = EngineConfig(CHAIN, self.key, parameters)
        self.engine = Engine(config, lambda statement: sign(self.key, statement), self.tip, self.stable)
        self.sync: BlockSync[Block] = BlockSync(eager=self.engine.me is None)
        self._inbox: deque[Input] = deque()
        self._stepping = False
        self._validating: dict[int, Proposal] = {}
        self._undelivered: deque[Deliver] = deque()
        records: list[Record] = [record for _, written in self.log for record in split(written)]
        self.engine.restore(records, [(block.proposal, block.certificate) for block in self.chain])
        self._carry_out(self.engine.start(self.world.now_ms))
        ordered = {digest for block in self.chain for digest in block.proposal.batches}
        for digest, work in self.held.items():
            if digest not in ordered:
                self.step(_available(work))
        self._work_off()

    def crash(self, written: int = 0, blocks: int = 1 << 62) -> None:
        """Power is gone. Of what waits for the disk the first `written` got there, and nothing that waited for them
        happened; of the blocks not synced the first `blocks` did."""
        for _ in range(min(written, len(self.waiting))):
            self._to_disk(self.waiting.popleft())
        self.waiting.clear()
        self.timers.clear()
        del self.chain[min(len(self.chain), self.synced + blocks) :]
        self.alive = False

    # Disk

    def disk_done(self) -> None:
        """The oldest of what waits is durable."""
        write = self.waiting.popleft()
        self._to_disk(write)
        if write.persist is not None:
            for effect in write.persist.then:
                self._carry_out([effect])
            self.step(Persisted(write.persist.token))

    def _to_disk(self, write: Write) -> None:
        self.log.append((write.height, write.record))
        for record in split(write.record):
            self.statements[encode_message(record)] = None
        if write.stable is not None:
            self.stable, self.synced = write.stable, write.synced
            self.log = [(height, record) for height, record in self.log if height > write.stable.height]

    def _write(self, write: Write) -> None:
        self.waiting.append(write)
        self.world.writes(self)

    # What arrives

    def hold(self, work: Work) -> None:
        """A batch is here."""
        if work.digest in self.held:
            return
        self.held[work.digest] = work
        self.step(_available(work))
        for proposal in list(self._validating.values()):
            self._validate(proposal)
        self._execute_ready()
        self._work_off()

    def fire(self, timer: Timer) -> None:
        del self.timers[timer]
        self.step(Fired(timer))

    def receive(self, sender: int, content: Content) -> None:
        self.refused = ""
        match content:
            case bytes():
                self._on_message(sender, decode_message(content))
            case Spread(work):
                self.hold(work)
            case Want(digests):
                for digest in digests:
                    if digest in self.held:
                        self.world.transmit(self, (sender,), Spread(self.held[digest]))
            case Ask(first, last):
                blocks = tuple(block for block in self.chain[first - 1 : last])
                self.world.transmit(self, (sender,), Blocks(blocks))
            case Blocks(blocks):
                for block in blocks:
                    self.sync.on_block(sender, block.proposal.height, block, 1)
                self.sync.on_response_end(sender, self.world.now_ms)
                self._take_blocks()
                self.ask()
            case CheckpointCertificate():
                self._on_checkpoint(content)

    def _on_message(self, sender: int, message: Message) -> None:
        if isinstance(message, Status):
            self._on_status(sender, message)
            return
        validators = self.engine.validators_of(message.epoch)
        if validators is None:
            self.refused = "of an unknown epoch"
        elif not self.engine.wants(message):
            self.refused = "not needed"
        else:
            verified = self.verifier.message(message, validators)
            if verified is None:
                self.refused = "bad signature or proof"
            else:
                self.step(Received(verified))

    def _on_status(self, sender: int, status: Status) -> None:
        self.sync.on_status(sender, status.height)
        certificate = self.engine.checkpoints.certificate
        if certificate is not None and status.stable < certificate.height <= status.height:
            self.world.transmit(self, (sender,), certificate)
        member = self.engine.validators.index(key_of(sender))
        if member is not None:
            self.step(PeerStatus(member, status))
        self.ask()
        if lacking := self.lacking():
            self.world.transmit(self, (sender,), Want(lacking))

    def _on_checkpoint(self, certificate: CheckpointCertificate) -> None:
        validators = self.engine.validators_of(certificate.epoch)
        verified = None if validators is None else self.verifier.certificate(certificate, validators)
        if verified is None:
            self.refused = "bad certificate"
        else:
            self.step(CheckpointCertified(verified))

    # Catching up

    def ask(self) -> None:
        """For blocks others say they have."""
        for request in self.sync.plan(self.engine.delivered, self.world.now_ms):
            assert isinstance(request.peer, int)
            self.world.transmit(self, (request.peer,), Ask(request.first, request.last))

    def _take_blocks(self) -> None:
        while self.engine.delivered != self.engine.epoch_end:
            found = self.sync.take(self.engine.delivered + 1)
            if found is None:
                return
            sender, block = found
            verified = self.verifier.certificate(block.certificate, self.engine.validators)
            if verified is None or block.certificate.phase is not Phase.COMMIT:
                self.sync.blame(sender, self.world.now_ms)
                self.refused = "bad block"
                return
            self.held.update({work.digest: work for work in block.works})
            self.step(Certified(block.proposal, verified))

    # The engine

    def step(self, event: Input) -> None:
        self._inbox.append(event)
        self._work_off()

    def _work_off(self) -> None:
        if self._stepping:
            return
        self._stepping = True
        while self._inbox:
            view = self.engine.view, self.engine.changing
            now_ms = self.world.now_ms
            effects = self.engine.step(self._inbox.popleft(), now_ms, WALL_MS + now_ms)
            if view != (self.engine.view, self.engine.changing):
                self._validating.clear()
            self._carry_out(effects)
        self._stepping = False

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self.world.saw(self, effect)
            match effect:
                case Send(member, message):
                    receiver = index_of(self.engine.validators.keys[member])
                    self.world.transmit(self, (receiver,), encode_message(message))
                case Broadcast(message):
                    others = tuple(index_of(key) for key in self.engine.validators.keys if key != self.key)
                    self.world.transmit(self, others, encode_message(message))
                case Persist():
                    self._write(Write(effect.height, effect.record, effect))
                case SetTimer(timer, at_ms):
                    self.timers[timer] = at_ms
                case CancelTimer(timer):
                    self.timers.pop(timer, None)
                case Validate(proposal, check_time):
                    drift_ms = abs(proposal.time_ms - WALL_MS - self.world.now_ms)
                    if check_time and drift_ms > self.tip.parameters.clock_drift_ms_max:
                        self._inbox.append(Validated(proposal.height, proposal.digest, False))
                    else:
                        self._validating[proposal.height] = proposal
                        self._validate(proposal)
                case Deliver():
                    self._undelivered.append(effect)
                    self._execute_ready()
                case Stable(certificate):
                    self._on_stable(certificate)
                case _:
                    pass

    def lacking(self) -> tuple[bytes, ...]:
        """Batches of decided blocks and of proposals that are not here."""
        proposals = [*(deliver.proposal for deliver in self._undelivered), *self._validating.values()]
        digests = dict.fromkeys(digest for proposal in proposals for digest in proposal.batches)
        return tuple(digest for digest in digests if digest not in self.held)

    def _validate(self, proposal: Proposal) -> None:
        if all(digest in self.held for digest in proposal.batches):
            self._validating.pop(proposal.height, None)
            self._inbox.append(Validated(proposal.height, proposal.digest, True))

    def _execute_ready(self) -> None:
        while self._undelivered and all(digest in self.held for digest in self._undelivered[0].proposal.batches):
            deliver = self._undelivered.popleft()
            before = self.tip
            works = [self.held[digest] for digest in deliver.proposal.batches]
            pending = self.chain[-1].pending if self.chain else None
            block = execute(before, pending, deliver.proposal, deliver.certificate, works)
            self.chain.append(block)
            tip, root = block.tip, state_root(block)
            certified = root if tip.checkpoint_height == tip.height else None
            following = tip.validators if tip.validators != before.validators else None
            self._inbox.append(
                Applied(tip.height, tip.block_hash, tip.results_hash, certified, tip.epoch_end, following)
            )

    def _on_stable(self, certificate: CheckpointCertificate) -> None:
        lasting = certificate.height + self.genesis.parameters.log_window
        record = b"".join(_framed(record) for record in self.engine.lasting_records())
        self._write(Write(lasting, record, None, certificate, len(self.chain)))


def _available(work: Work) -> BatchAvailable:
    return BatchAvailable(work.digest, work.tx_count, 100 * work.tx_count)


def _framed(record: Record) -> bytes:
    encoded = encode_message(record)
    return len(encoded).to_bytes(4, "big") + encoded


def split(written: bytes) -> list[Record]:
    """The records in one entry of the log."""
    records, position = [], 0
    while position < len(written):
        size = int.from_bytes(written[position : position + 4], "big")
        records.append(decode_record(written[position + 4 : position + 4 + size]))
        position += 4 + size
    return records
