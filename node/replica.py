"""The whole logic of one node, without I/O: engine, batch pool, execution, catching up, behind one port to the outside.

`Outside` is everything that touches the world: sending, the write-ahead log, timers, checking signatures in slices, and
the clocks. node/driver.py implements it over asyncio; the simulator implements it over a seed. All methods are called
from one thread and none blocks.

Must not know: sockets, asyncio, files, HTTP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

from consensus.config import EngineConfig
from consensus.engine import Engine
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
    KeyForgotten,
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
    Verified,
)
from consensus.messages import Record, Status, decode_message, decode_record, encode_message
from consensus.state import Sign
from consensus.sync import BLOCKS_PER_REQUEST, BlockSync
from consensus.verify import Verifier
from ledger.block import (
    BLOCK_BATCH_BYTES_MAX,
    BLOCK_BATCHES_MAX,
    CERTIFICATE_SIZE_BYTES_MAX,
    Certificate,
    CertifiedBlock,
    CheckpointCertificate,
    Phase,
    Proposal,
    decode_certified,
    is_hash,
    is_height,
)
from ledger.codec import decode, encode
from ledger.errors import Code, CodecError, Reject
from ledger.execution import BlockResult, Executor
from ledger.transaction import BATCH_SIZE_BYTES_MAX, BATCH_TXS_MAX, Batch, Transaction
from node.history import BadHistory, History
from node.reports import Reports
from p2p.allowance import Allowance
from p2p.batches import BatchPool, PoolConfig
from p2p.frames import Kind
from storage.chain import ChainStore
from storage.pruning import keep_blocks_min

TICK_MS = 100  # catching up, fetching and spreading again are looked at this often
SPREAD_AGAIN_MS = 1_500  # a batch not ordered by then is spread again: the leader may lack it
BLOCK_RESPONSE_BYTES_MAX = 4 * 1024 * 1024
# What answering costs beyond the bytes sent, in bytes of a peer's allowance.
REQUEST_CHARGE_BYTES = 4 * 1024
STATUS_CHARGE_BYTES = 256 * 1024  # besides its answer, since making that costs more; honest nodes send two a second
BATCHES_FOR_RETURNING = 16  # oldest first; the rest comes by and by, and most of it is ordered by then
BLOCK_CHARGE_BYTES = 32 * 1024  # for each block of an answer: small ones cost more than their bytes
VOTE_CHARGE_FACTOR = 8  # a large consensus message costs so many times its bytes to check; it may be an old one
REFUSED_CHARGE_FACTOR = 2  # the same for a batch that is here already, or has no room: it was decoded and hashed
VOTE_FREE_BYTES = 4 * 1024  # smaller ones cost next to nothing but their signatures
# Of an allowance of its own, for each message whose signatures are looked at: two thousand a second, which is ten times
# what ordering takes, and a seventh of a core.
HEARING_CHARGE_BYTES = 16 * 1024
STRANGERS = b""  # nobody's key
# Batches vouched for at heights not executed. With what is fetched before that, it bounds what a leader's proposals far
# ahead may take: 16 blocks of 4 MiB and their log beside it.
VOUCHED_BYTES_MAX = 64 * 1024 * 1024
FETCH_AHEAD_MAX = 16
UNEXECUTED_MAX = 64  # decided blocks whose batches are still on their way
UNPERSISTED_WINDOWS_MAX = 4  # in log windows: messages of ours that the disk has not taken yet
UNPERSISTED_BYTES_MAX = 32 * 1024 * 1024  # the same, with batches: a disk that stalls for long must not fail the node

TAKE_TXS = 500  # transactions of blocks from others executed in one turn: some tens of milliseconds, then others come

CUT, TICK, TAKE = "cut", "tick", "take"


class RecordKind(IntEnum):
    """Kinds of records in the write-ahead log."""

    VOTES = 1
    BATCH = 2


class Outside(Protocol):
    """What the logic may ask of the world. Nothing here waits."""

    def now_ms(self) -> int: ...

    def wall_ms(self) -> int: ...

    def send(self, key: bytes, kind: Kind, payload: bytes) -> None: ...

    def round_trips_ms(self) -> Mapping[bytes, float]:
        """The shortest round trip measured with each peer; without those that were not measured yet."""
        ...

    def append(self, kind: RecordKind, height: int, payload: bytes) -> int:
        """Put a record in the write-ahead log; `Replica.on_durable(sequence)` is called once it is on disk."""
        ...

    def store_first(self) -> None:
        """All that the store was given so far must be on disk before any record that is appended from now on."""
        ...

    def set_timer(self, name: str, at_ms: int | None) -> None:
        """Call `Replica.on_timer(name)` then; None cancels."""
        ...

    def check_batch(self, batch: Batch, origin: bytes, urgent: bool, done: Callable[[bool], None]) -> None:
        """Check every signature of a peer's batch, without holding up anything else; urgent ones first, of the others
        each peer's in turn."""
        ...

    def check_first(self, digest: bytes) -> None:
        """A batch that waits for its check is needed now."""
        ...

    def applied(self, block: CertifiedBlock, result: BlockResult, state_root: bytes | None) -> None:
        """A block was executed and stored."""
        ...

    def stable(self, height: int) -> None:
        """Sync the store; then records of the log up to `height` may go."""
        ...

    def misbehaved(self, key: bytes, reason: str) -> None: ...

    def diverged(self, height: int, own: bytes, certified: bytes) -> None: ...

    def key_forgotten(self, height: int) -> None: ...

    def evidence(self, evidence: Evidence) -> None: ...


@dataclass(slots=True)
class Counters:
    """What this node did since it started."""

    blocks: int = 0
    transactions: int = 0
    refused: int = 0
    batches_checked: int = 0
    synced_blocks: int = 0
    synced_transactions: int = 0  # executed unchecked, since a quorum certified the block that came with them
    evidence: int = 0


class Replica:
    """One node's logic. Feed it frames, timers and durability; it talks back through `Outside`."""

    def __init__(
        self,
        executor: Executor,
        store: ChainStore,
        key: bytes,
        sign: Sign,
        outside: Outside,
        verifier: Verifier | None = None,
        pool: PoolConfig | None = None,
    ) -> None:
        self.genesis = executor.genesis
        self.executor, self.store, self.outside, self.key = executor, store, outside, key
        parameters = store.tip.parameters
        self.verifier = verifier or Verifier(self.genesis.chain_id)
        self.pool = BatchPool(replace(pool or PoolConfig(), batch_txs_max=parameters.batch_txs_max))
        config = EngineConfig(self.genesis.chain_id, key, parameters, muted=store.is_muted(key))
        # Muted for this life, the engine reads no record of the view it was in, so that none could be written again.
        self._keeps_log = store.refetching > 0
        epoch = store.tip.validators.epoch
        closed = epoch == 0 or store.closing_checkpoint(epoch - 1) is not None
        former = None if closed else store.validator_set(epoch - 1)
        self.engine = Engine(config, sign, store.tip, store.latest_checkpoint(), former)
        self.history = History(store, self.verifier, key)
        self.sync: BlockSync[CertifiedBlock] = BlockSync(eager=self.engine.me is None)
        self.reports = Reports(self.genesis.chain_id, key, sign, self.genesis.parameters.validity_heights_max)
        self.counters = Counters()
        self.refused_time: tuple[int, int] | None = None  # when a proposal last was, and how far our clock was ahead
        self.on_view: Callable[[int, bool], None] | None = None  # told when the view changes, for the log
        self.peers: dict[bytes, None] = {}
        self.peer_status: dict[bytes, Status] = {}
        self.heard_ms: dict[bytes, int] = {}  # when each connected peer's last status came, or else the peer
        self._inbox: deque[Input] = deque()
        self._stepping = False
        self._awaiting: deque[tuple[int, Persist]] = deque()  # bounded by the engine's log
        self._unsynced: deque[tuple[int, int]] = deque()  # (sequence, bytes) that the disk has not taken yet
        self._unsynced_bytes = 0
        self._validating: dict[int, Proposal] = {}
        self._logged: dict[bytes, int] = {}  # batch digest -> height under which it is in the log
        self._undelivered: deque[Deliver] = deque()
        self._synced: dict[bytes, Batch] = {}
        # Batches that this node vouched for at heights not executed yet, and their bytes. Whatever the pool and the
        # store forget meanwhile, what is locked or decided can be executed and given to others.
        self._vouched: dict[bytes, tuple[int, Batch]] = {}
        self._vouched_bytes = 0
        self._lacking: dict[
            int, tuple[bytes, tuple[bytes, ...]]
        ] = {}  # height -> proposal, what it needs and is not here
        self._postponed = False  # whether proposals wait for lower heights to be executed
        self._allowance, self._hearing = Allowance(), Allowance()
        self._refused = Allowance()  # for batches that were not taken: who catches up from us may use up the other

    # Life

    def start(self, records: Iterable[tuple[RecordKind, int, bytes]] = ()) -> None:
        """Take back the state at the tip, the replay window, the write-ahead log (kind, height, payload) and the
        decisions still in the log; then begin."""
        tip = self.store.tip
        self.store.resume(self.executor)
        now_ms = self.outside.now_ms()
        votes: list[Record] = []
        for kind, height, payload in records:
            if kind is RecordKind.VOTES:
                votes.extend(split_records(payload))
            else:
                batch = Batch.decode(payload)
                self._logged[batch.digest] = max(height, self._logged.get(batch.digest, 0))
                self._vouch(batch, height)
                # What has expired can be ordered no more, or was long ago and is pruned.
                if not self.store.has_ordered(batch.digest) and not self._has_expired(batch):
                    self.pool.add(batch, self.key, now_ms)  # whose it was is not known: not our clients' room
        first = self.engine.forgotten + 1
        stored = (self.store.block(height) for height in range(first, tip.height + 1))
        self.engine.restore(votes, [(block.proposal, block.certificate) for block in stored if block is not None])
        self._carry_out_all(self.engine.start(now_ms, self.store.uncertified()))
        for batch in self.pool.held():
            self._step(BatchAvailable(batch.digest, len(batch.wires), len(batch.wire)))
        self._step_all()
        self.outside.set_timer(TICK, now_ms + TICK_MS)

    def on_peer_up(self, key: bytes) -> None:
        self.peers[key] = None
        self.heard_ms[key] = self.outside.now_ms()
        self.outside.send(key, Kind.STATUS, encode(self.engine.status().to_value()))
        if self.engine.validators.index(key) is not None:
            # Who returns must see what waits: a leader to order it, a member to suspect a leader who does not.
            for batch in self.pool.held()[:BATCHES_FOR_RETURNING]:
                if self._allowance.spend(key, len(batch.wire), self.outside.now_ms()):
                    self.outside.send(key, Kind.BATCH, batch.wire)

    def on_peer_down(self, key: bytes) -> None:
        self.peers.pop(key, None)
        self.peer_status.pop(key, None)
        self.heard_ms.pop(key, None)
        self.sync.on_peer_down(key)

    def on_timer(self, name: str) -> None:
        now_ms = self.outside.now_ms()
        if name == CUT:
            self._cut(now_ms)
        elif name == TICK:
            self._tick(now_ms)
            self.outside.set_timer(TICK, now_ms + TICK_MS)
        elif name == TAKE:
            self._take_blocks()
            self._ask_for_blocks(now_ms)
        else:
            self._step(Fired(Timer(name)))

    def on_durable(self, sequence: int) -> None:
        """Everything appended up to `sequence` is on disk: send what waited for it, and count our own votes."""
        while self._unsynced and self._unsynced[0][0] <= sequence:
            self._unsynced_bytes -= self._unsynced.popleft()[1]
        while self._awaiting and self._awaiting[0][0] <= sequence:
            _, persist = self._awaiting.popleft()
            for effect in persist.then:
                self._carry_out(effect)
            self._step(Persisted(persist.token))

    # Clients

    def submit(self, tx: Transaction) -> bool:
        """Take a transaction whose signature was checked. Raises Reject (bad at the door, or POOL_FULL)."""
        self.executor.check(tx, self.store.tip.height + 1)
        now_ms = self.outside.now_ms()
        fresh = self.pool.submit(tx, now_ms)
        if fresh:
            self._cut(now_ms)
        return fresh

    def take(self, txs: Iterable[Transaction]) -> list[Reject | None]:
        """The same for many that passed `executor.check` already; for each, why it is not taken."""
        now_ms, height = self.outside.now_ms(), self.store.tip.height
        refusals: list[Reject | None] = []
        fresh = False
        for tx in txs:
            try:
                # While its signature was checked it may have been executed, and make a batch that is ordered already,
                # or have expired, and make one that nobody orders.
                if tx.replay_key not in self.executor.replay or self.store.place(tx.id) is None:
                    if tx.valid_until <= height:
                        raise Reject(Code.EXPIRED, tx.valid_until, height + 1)
                    fresh |= self.pool.submit(tx, now_ms)
            except Reject as reject:
                refusals.append(reject)
            else:
                refusals.append(None)
        if fresh:
            self._cut(now_ms)
        return refusals

    def _cut(self, now_ms: int) -> None:
        for batch in self.pool.cut(now_ms):
            self._spread(batch)
            self._step(BatchAvailable(batch.digest, len(batch.wires), len(batch.wire)))
        self.outside.set_timer(CUT, self.pool.cut_due_ms())

    def _spread(self, batch: Batch) -> None:
        for key in self.engine.validators.keys:
            if key in self.peers:
                self.outside.send(key, Kind.BATCH, batch.wire)

    # Frames

    def on_frame(self, key: bytes, kind: Kind, payload: bytes) -> None:
        """One frame from an authenticated peer; what is malformed costs that peer its connection."""
        try:
            match kind:
                case Kind.VOTE:
                    self._on_vote(key, payload)
                case Kind.STATUS:
                    self._on_status(key, payload)
                case Kind.BATCH | Kind.BATCH_RESPONSE:
                    self._on_batch(key, payload)
                case Kind.BATCH_REQUEST:
                    self._on_batch_request(key, payload)
                case Kind.BLOCK_REQUEST:
                    self._on_block_request(key, payload)
                case Kind.BLOCK_RESPONSE:
                    self._on_block_response(key, payload)
                case Kind.CERTIFIED:
                    self._on_checkpoint(key, payload)
                case Kind.EPOCH_REQUEST:
                    self._on_epoch_request(key, payload)
                case Kind.EPOCH_RESPONSE:
                    self._on_epoch_response(key, payload)
                case _:
                    self.outside.misbehaved(key, "unexpected kind of frame")
        except CodecError as error:
            self.outside.misbehaved(key, str(error))

    def _log_is_behind(self) -> bool:
        """Whether the disk owes us so much that we take nothing in that would make us sign more. What is dropped then
        is sent again, as after a loss. Without this, the table grows with the chain for as long as the disk stalls.
        """
        messages_max = UNPERSISTED_WINDOWS_MAX * self.store.tip.parameters.log_window
        return self.engine.unpersisted >= messages_max or self._unsynced_bytes > UNPERSISTED_BYTES_MAX

    def _append(self, kind: RecordKind, height: int, payload: bytes) -> int:
        sequence = self.outside.append(kind, height, payload)
        self._unsynced.append((sequence, len(payload)))
        self._unsynced_bytes += len(payload)
        return sequence

    def _on_vote(self, key: bytes, payload: bytes) -> None:
        charge = 0 if len(payload) <= VOTE_FREE_BYTES else VOTE_CHARGE_FACTOR * len(payload)
        if charge and not self._allowance.spend(key, charge, self.outside.now_ms()):
            return  # as if it were lost
        message = decode_message(payload)
        if isinstance(message, Status):
            raise CodecError("a status is not a vote")
        if self._log_is_behind():
            return
        validators = self.engine.validators_of(message.epoch)
        if validators is None or not self.engine.wants(message):
            return
        # Who has no vote may pass on what a faulty member signs without end: all of them together have one share.
        speaker = key if validators.index(key) is not None else STRANGERS
        if not self._hearing.spend(speaker, HEARING_CHARGE_BYTES, self.outside.now_ms()):
            return  # likewise
        verified = self.verifier.message(message, validators)
        if verified is None:
            self.outside.misbehaved(key, "bad signature in a consensus message")
            return
        self._step(Received(verified))

    def _on_status(self, key: bytes, payload: bytes) -> None:
        now_ms = self.outside.now_ms()
        self.heard_ms[key] = now_ms
        if not self._allowance.spend(key, STATUS_CHARGE_BYTES, now_ms):
            return
        status = Status.from_value(decode(payload, size_bytes_max=256))
        self.peer_status[key] = status
        self.sync.on_status(key, status.height)
        self._send_certificate(key, status)
        member = self.engine.validators.index(key)
        if member is not None:
            self._step(PeerStatus(member, status))
        if self.sync.eager or status.height > self.engine.delivered + BLOCKS_PER_REQUEST:
            self._ask_for_blocks(now_ms)

    def _send_certificate(self, key: bytes, status: Status) -> None:
        """What makes stable there what is stable here: the latest checkpoint that the peer has come by (who follows a
        busy chain is always behind the very latest), or first the one that closes an epoch."""
        validators = self.engine.validators
        certificate = None
        if validators.epoch > 0 and status.stable < validators.first_height - 1:
            certificate = self.store.closing_checkpoint(validators.epoch - 1)
        if certificate is None or certificate.height > status.height:
            certificate = self.engine.checkpoints.certificate
            if certificate is not None and certificate.height > status.height:
                certificate = self.store.latest_checkpoint(status.height)
        if certificate is not None and status.stable < certificate.height <= status.height:
            self.outside.send(key, Kind.CERTIFIED, encode(certificate.to_value()))

    def _on_epoch_request(self, key: bytes, payload: bytes) -> None:
        if self._allowance.spend(key, REQUEST_CHARGE_BYTES, self.outside.now_ms()):
            answer = self.history.answer(payload)
            self._allowance.charge(key, len(answer), self.outside.now_ms())
            self.outside.send(key, Kind.EPOCH_RESPONSE, answer)

    def _on_epoch_response(self, key: bytes, payload: bytes) -> None:
        try:
            certificates = self.history.take(key, payload)
        except BadHistory as error:
            self.outside.misbehaved(key, str(error))
            return
        for certificate in certificates:
            if self.engine.validators_of(certificate.epoch) is None:  # the engine is through with that epoch
                self.store.put_checkpoint(certificate)
            else:
                self._step(CheckpointCertified(Verified(certificate)))

    def _on_checkpoint(self, key: bytes, payload: bytes) -> None:
        certificate = CheckpointCertificate.from_value(decode(payload, size_bytes_max=CERTIFICATE_SIZE_BYTES_MAX))
        validators = self.engine.validators_of(certificate.epoch)
        if validators is None or not self.engine.wants(certificate):
            return
        verified = self.verifier.certificate(certificate, validators)
        if verified is None:
            self.outside.misbehaved(key, "bad checkpoint certificate")
            return
        self._step(CheckpointCertified(verified))

    # Batches

    def _on_batch(self, key: bytes, payload: bytes) -> None:
        now_ms = self.outside.now_ms()
        if self._refused.left_bytes(key, now_ms) <= 0:
            return  # it sends what is refused, again and again
        batch = Batch.decode(payload)
        digest = batch.digest
        if not self.pool.admit(digest, len(payload), key, self.engine.validators.keys):
            self._refused.charge(key, REFUSED_CHARGE_FACTOR * len(payload), now_ms)
            return
        try:
            wanted = self.pool.is_wanted(digest)
            if any(tx.chain_id != self.genesis.chain_id for tx in batch.transactions):
                raise CodecError("a transaction of another chain")
            # Ordered long ago, or expired: sent again, it would only fill a block with refusals.
            useless = self.store.has_ordered(digest) or self._has_expired(batch)
        except CodecError:
            self.pool.reject(digest)
            raise
        if useless and not wanted:
            self.pool.reject(digest)
            self._refused.charge(key, REFUSED_CHARGE_FACTOR * len(payload), now_ms)
            return
        self.outside.check_batch(batch, key, wanted, lambda valid: self._on_batch_checked(key, batch, valid))

    def _on_batch_checked(self, key: bytes, batch: Batch, valid: bool) -> None:
        wanted = self.pool.is_wanted(batch.digest)
        if not valid:
            self.pool.reject(batch.digest)
            self.outside.misbehaved(key, "bad signature in a batch")
            return
        self.counters.batches_checked += 1
        if not wanted and (self.pool.is_ordered(batch.digest) or self._has_expired(batch)):  # meanwhile
            self.pool.reject(batch.digest)
            return
        self.pool.add(batch, key, self.outside.now_ms())
        self._step(BatchAvailable(batch.digest, len(batch.wires), len(batch.wire)))
        if wanted:
            self._retry(batch.digest)

    def _has_expired(self, batch: Batch) -> bool:
        """Whether nothing in it can be executed any more."""
        return batch.valid_until <= self.store.tip.height

    def _retry(self, arrived: bytes | None = None) -> None:
        """A batch arrived that proposals or decided blocks have waited for; None: any may have."""
        self._validate_all(arrived)
        self._execute_ready()
        self._step_all()

    def _validate_all(self, arrived: bytes | None = None) -> None:
        for proposal in sorted(self._validating.values(), key=lambda one: one.height):
            if arrived is None or arrived in proposal.batches:
                self._validate(proposal)

    def _on_batch_request(self, key: bytes, payload: bytes) -> None:
        digests = decode(payload, size_bytes_max=64 * 1024, depth_max=1, items_max=BLOCK_BATCHES_MAX + 1)
        if type(digests) is not tuple or not all(map(is_hash, digests)):
            raise CodecError("a batch request is a list of digests")
        for digest in dict.fromkeys(digests):
            if not self._allowance.spend(key, REQUEST_CHARGE_BYTES, self.outside.now_ms()):
                return
            batch = self._batch(digest)  # type: ignore[arg-type]
            if batch is not None:
                self._allowance.charge(key, len(batch.wire), self.outside.now_ms())
                self.outside.send(key, Kind.BATCH_RESPONSE, batch.wire)

    def _batch(self, digest: bytes) -> Batch | None:
        vouched = self._vouched.get(digest)
        if vouched is not None:
            return vouched[1]
        return self.pool.get(digest) or self._synced.get(digest) or self.store.batch(digest)

    def _vouch(self, batch: Batch, height: int) -> None:
        """Hold it until that height is executed, whatever becomes of it elsewhere."""
        known = self._vouched.get(batch.digest)
        if height <= self.store.tip.height or (known is not None and known[0] >= height):
            return
        if known is None:
            self._vouched_bytes += len(batch.wire)
        self._vouched[batch.digest] = height, batch

    def _release_vouched(self, height: int) -> None:
        """That height is executed: what was vouched for up to there can be decided no more, or is in the store."""
        for digest in [digest for digest, (last, _) in self._vouched.items() if last <= height]:
            self._vouched_bytes -= len(self._vouched.pop(digest)[1].wire)

    # Blocks

    def _on_block_request(self, key: bytes, payload: bytes) -> None:
        match decode(payload, size_bytes_max=64):
            case (int(first), int(last)) if is_height(first) and first <= last < first + BLOCKS_PER_REQUEST:
                pass
            case _:
                raise CodecError("a block request is a short range")
        now_ms = self.outside.now_ms()
        if not self._allowance.spend(key, REQUEST_CHARGE_BYTES, now_ms):
            # Nothing, rather than no answer: who asks in good faith then asks again after our next status.
            self.outside.send(key, Kind.BLOCK_RESPONSE, encode(()))
            return
        wires: list[bytes] = []
        size_bytes = 0
        for height in range(max(1, first), min(last, self.store.tip.height) + 1):
            wire = self.store.block_wires(height)
            if wire is None or (wires and size_bytes + len(wire) > BLOCK_RESPONSE_BYTES_MAX):
                break
            wires.append(wire)
            size_bytes += len(wire)
        self._allowance.charge(key, size_bytes + len(wires) * BLOCK_CHARGE_BYTES, now_ms)
        self.outside.send(key, Kind.BLOCK_RESPONSE, encode(tuple(wires)))

    def _on_block_response(self, key: bytes, payload: bytes) -> None:
        if not self.sync.expects(key):
            return
        wires = decode(payload, size_bytes_max=8 * 1024 * 1024, depth_max=1, items_max=BLOCKS_PER_REQUEST + 1)
        if type(wires) is not tuple:
            raise CodecError("a block response is a list of blocks")
        for wire in wires:
            if type(wire) is not bytes:
                raise CodecError("a block travels as bytes")
            block = decode_certified(wire)
            self.sync.on_block(key, block.height, block, len(wire))
        self.sync.on_response_end(key, self.outside.now_ms())
        self._take_blocks()
        self._ask_for_blocks(self.outside.now_ms())

    def _take_blocks(self) -> None:
        """Use what the buffer holds in order. Client signatures inside were checked by the quorum that certified it."""
        undelivered_max = min(UNEXECUTED_MAX, self.store.tip.parameters.log_window)  # the engine delivers no more
        txs = 0
        while len(self._undelivered) < undelivered_max and not self._log_is_behind() and not self.engine.halted:
            if self.engine.delivered == self.engine.epoch_end:
                return  # the next block's set is known once this epoch's last block is executed
            if txs >= TAKE_TXS:
                return self.outside.set_timer(TAKE, self.outside.now_ms())
            found = self.sync.take(self.engine.delivered + 1)
            if found is None:
                return
            sender, block = found
            txs += sum(len(batch.wires) for batch in block.batches)
            validators = self.engine.validators_of(block.certificate.epoch)
            verified = None if validators is None else self._check_block(block)
            if verified is None:
                self.sync.blame(sender, self.outside.now_ms())
                if isinstance(sender, bytes):
                    self.outside.misbehaved(sender, "bad block while catching up")
                return
            for batch in block.batches:
                self._synced[batch.digest] = batch
            self.counters.synced_blocks += 1
            before = self.engine.delivered
            self._step(verified)
            self._step_all()
            if self.engine.delivered == before:
                return

    def _check_block(self, block: CertifiedBlock) -> Certified | None:
        certificate, proposal = block.certificate, block.proposal
        if certificate.epoch != self.engine.validators.epoch or certificate.digest != proposal.digest:
            return None
        if certificate.phase is not Phase.COMMIT:  # a quorum's prepares lock a proposal and decide nothing
            return None
        if certificate.height != proposal.height or not block.batches_match():
            return None
        verified = self.verifier.certificate(certificate, self.engine.validators)
        return None if verified is None else Certified(proposal, verified)

    def _ask_for_blocks(self, now_ms: int) -> None:
        for request in self.sync.plan(self.engine.delivered, now_ms):
            if isinstance(request.peer, bytes):
                self.outside.send(request.peer, Kind.BLOCK_REQUEST, encode((request.first, request.last)))

    def _report(self) -> None:
        """Bring what the engine found to the chain."""
        try:
            for tx in self.reports.due(self.store, self.store.tip.height):
                self.submit(tx)
        except Reject:
            return  # no room now; the next tick tries again

    def _tick(self, now_ms: int) -> None:
        self.sync.eager = self.engine.me is None
        self._take_blocks()
        self._ask_for_blocks(now_ms)
        self._retry()  # what the pool gave up seeking, or took without being asked, is looked at again
        self._fetch(now_ms)
        self.pool.round_trip_ms = self._round_trip_ms()
        request = self.history.plan(list(self.peers), now_ms)
        if request is not None:
            self.outside.send(request[0], Kind.EPOCH_REQUEST, request[1])
        self._report()
        self._allowance.forget_refilled(now_ms)
        self._hearing.forget_refilled(now_ms)
        self._refused.forget_refilled(now_ms)
        decided = {digest for deliver in self._undelivered for digest in deliver.proposal.batches}
        leader = self.engine.validators.keys[self.engine.leader]
        # Before patience with a leader who only lacks it can end.
        spread_again_ms = min(SPREAD_AGAIN_MS, self.store.tip.parameters.view_timeout_ms // 2)
        for batch in self.pool.to_spread_again(now_ms, spread_again_ms):
            # Others must see that there is work, or they will not leave the view; who does not vote knows no view.
            if self.engine.is_discontent or self.engine.me is None:
                self._spread(batch)
            elif leader in self.peers:
                self.outside.send(leader, Kind.BATCH, batch.wire)
            if batch.digest not in decided:  # the engine's list may have been full when it came
                self._step(BatchAvailable(batch.digest, len(batch.wires), len(batch.wire)))

    def _round_trip_ms(self) -> int:
        """Within which a quorum can answer; 0 as long as that is not known."""
        validators = self.engine.validators
        trips_ms = self.outside.round_trips_ms()
        others = sorted(trips_ms[key] for key in validators.keys if key in trips_ms)
        needed = validators.quorum - (1 if self.engine.me is not None else 0)
        return round(others[needed - 1]) if 0 < needed <= len(others) else 0

    def _fetch(self, now_ms: int) -> None:
        """Ask for what is missing; at ticks only. Votes overtake batches, so most are on their way already, and asking
        at once would bring each several times just when the network is busy. What waits for its check is here.
        """
        members = [key for key in self.engine.validators.keys if key in self.peers]
        others = [key for key in self.peers if key not in members]  # of a set that has gone, or with an archive
        for peer, digests in self.pool.plan_fetches(members, others, now_ms).items():
            lacking = tuple(digest for digest in digests[:BLOCK_BATCHES_MAX] if not self.pool.is_checking(digest))
            if lacking and isinstance(peer, bytes):
                self.outside.send(peer, Kind.BATCH_REQUEST, encode(lacking))

    # The engine

    def _step(self, event: Input) -> None:
        """Queue an input; whoever is outermost works the queue off."""
        self._inbox.append(event)
        self._step_all()

    def _step_all(self) -> None:
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._inbox:
                event = self._inbox.popleft()
                view, changing = self.engine.view, self.engine.changing
                effects = self.engine.step(event, self.outside.now_ms(), self.outside.wall_ms())
                if (view, changing) != (self.engine.view, self.engine.changing):
                    self._leave_proposals()
                    if self.on_view is not None:
                        self.on_view(self.engine.view, self.engine.changing)
                self._carry_out_all(effects)
        finally:
            self._stepping = False

    def _leave_proposals(self) -> None:
        """The view changed: what was being validated is void; what the new view needs is asked for again."""
        for proposal in self._validating.values():
            self.pool.unwant(proposal.batches)
        self._validating.clear()
        self._lacking.clear()
        for deliver in self._undelivered:
            self.pool.want(digest for digest in deliver.proposal.batches if self._batch(digest) is None)

    def _carry_out_all(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send(member, message):
                # Said to one alone, it answers a status.
                key = self.engine.validators.keys[member]
                self._allowance.charge(key, self._send(key, message), self.outside.now_ms())
            case Broadcast(message):
                self._broadcast(message)
            case Persist():
                if effect.vouches:
                    self.outside.store_first()
                sequence = self._append(RecordKind.VOTES, effect.height, effect.record)
                self._awaiting.append((sequence, effect))
            case SetTimer(timer, at_ms):
                self.outside.set_timer(timer.value, at_ms)
            case CancelTimer(timer):
                self.outside.set_timer(timer.value, None)
            case Validate(proposal, check_time):
                drift_ms = abs(proposal.time_ms - self.outside.wall_ms())
                if check_time and drift_ms > self.store.tip.parameters.clock_drift_ms_max:
                    self.refused_time = self.outside.wall_ms(), self.outside.wall_ms() - proposal.time_ms
                    self._inbox.append(Validated(proposal.height, proposal.digest, False))
                else:
                    self._validating[proposal.height] = proposal
                    self._validate(proposal)
            case Deliver():
                self._undelivered.append(effect)
                self._execute_ready()
            case Stable(certificate):
                self._on_stable(certificate)
            case Evidence(proof):
                self.counters.evidence += 1
                self.outside.evidence(effect)
                self.reports.note(proof)
            case Diverged(height, own, certified):
                self.outside.diverged(height, own, certified)
            case KeyForgotten(height):
                self.store.mute(self.key)
                self.outside.key_forgotten(height)

    def _send(self, key: bytes, message: object) -> int:
        """Returns how many bytes that was."""
        kind, payload = _frame(message)
        self.outside.send(key, kind, payload)
        return len(payload)

    def _broadcast(self, message: object) -> None:
        kind, payload = _frame(message)
        keys = self.peers if kind is Kind.STATUS else self.engine.validators.keys
        for key in list(keys):
            if key in self.peers:
                self.outside.send(key, kind, payload)

    def _validate(self, proposal: Proposal) -> None:
        """Answer the engine once every batch is held, and in the log ahead of the vote that vouches for it. Heights far
        ahead wait: a leader who proposes all that the log holds must fill neither memory nor disk. So does all while
        the log is behind."""
        ahead = proposal.height - self.store.tip.height
        too_much = ahead > FETCH_AHEAD_MAX or (ahead > 1 and self._vouched_bytes > VOUCHED_BYTES_MAX)
        if too_much or self._log_is_behind():
            self._postponed = True
            return
        lacking = self._lacking.get(proposal.height)
        if lacking is not None and lacking[0] == proposal.digest and not any(map(self._is_held, lacking[1])):
            self._want(lacking[1])  # all else was there already: reading it again and again costs megabytes
            return
        missing: list[bytes] = []
        batches: list[Batch] = []
        size_bytes = 0
        for digest in proposal.batches:
            batch = self._batch(digest)
            if batch is None:
                missing.append(digest)
                continue
            batches.append(batch)
            size_bytes += len(batch.wire)
            # Known before the rest is fetched: a leader's oversized proposals must not fill our memory.
            if size_bytes > BLOCK_BATCH_BYTES_MAX:
                break
        txs_max = max(self.store.tip.parameters.block_txs_max, BATCH_TXS_MAX)  # one batch alone is always proposed
        txs = sum(len(batch.wires) for batch in batches)
        fits = size_bytes <= BLOCK_BATCH_BYTES_MAX and txs <= txs_max
        if missing and fits:
            self._lacking[proposal.height] = proposal.digest, tuple(missing)
            self._want(missing)
            return
        if not fits:
            self._unwant(proposal)
        for batch in batches if fits else ():
            if self._is_stored_until(batch, proposal.height):
                continue
            self._vouch(batch, proposal.height)
            if self._logged.get(batch.digest, 0) < proposal.height:
                self._append(RecordKind.BATCH, proposal.height, batch.wire)
                self._logged[batch.digest] = proposal.height
        self._validating.pop(proposal.height, None)
        self._lacking.pop(proposal.height, None)
        self._inbox.append(Validated(proposal.height, proposal.digest, fits))

    def _want(self, digests: Sequence[bytes]) -> None:
        """A proposal needs them: have them fetched, and those that are here checked before others."""
        self.pool.want(digests, self.engine.validators.keys[self.engine.leader])
        for digest in digests:
            if self.pool.is_checking(digest):
                self.outside.check_first(digest)

    def _unwant(self, proposal: Proposal) -> None:
        """It came to nothing: seek no more of it than others need."""
        others = [one for height, one in self._validating.items() if height != proposal.height]
        needed = {digest for one in others for digest in one.batches}
        needed.update(digest for deliver in self._undelivered for digest in deliver.proposal.batches)
        self.pool.unwant(digest for digest in proposal.batches if digest not in needed)

    def _is_held(self, digest: bytes) -> bool:
        """Whether a batch is in memory; what the store has is known when a proposal is first looked at."""
        return digest in self._vouched or digest in self._synced or self.pool.get(digest) is not None

    def _is_stored_until(self, batch: Batch, height: int) -> bool:
        """Whether a block ordered it lately enough for the store to hold it still when `height` is executed."""
        if self.pool.get(batch.digest) is not None or batch.digest in self._synced:
            return False
        place = self.store.place(batch.tx_ids[0])
        if place is None or place[0] <= height - keep_blocks_min(self.store.tip.parameters):
            return False
        proposed = self.store.proposed(place[0])  # another batch there may hold that transaction as well
        return proposed is not None and batch.digest in proposed[0].batches

    def lacking(self) -> tuple[int, int]:
        """How many batches are not held of decided blocks, and of proposals."""
        decided = (digest for deliver in self._undelivered for digest in deliver.proposal.batches)
        proposed = (digest for proposal in self._validating.values() for digest in proposal.batches)
        return (
            sum(self._batch(digest) is None for digest in decided),
            sum(self._batch(digest) is None for digest in proposed),
        )

    def _execute_ready(self) -> None:
        while self._undelivered:
            proposal, certificate = self._undelivered[0].proposal, self._undelivered[0].certificate
            batches = [self._batch(digest) for digest in proposal.batches]
            held = tuple(batch for batch in batches if batch is not None)
            if len(held) != len(batches):
                self.pool.want(d for d, batch in zip(proposal.batches, batches, strict=True) if batch is None)
                return
            self._undelivered.popleft()
            self._execute(proposal, certificate, held)
            if self._postponed:
                self._postponed = False
                self._validate_all()

    def _execute(self, proposal: Proposal, certificate: Certificate, batches: tuple[Batch, ...]) -> None:
        tip = self.store.tip
        result = self.executor.execute(self.store, tip, proposal, batches)
        block = CertifiedBlock(proposal, certificate, batches)
        state_root = self.store.commit(block, result)
        for batch in batches:
            if batch.digest in self._synced and self.pool.get(batch.digest) is None:
                self.counters.synced_transactions += len(batch.wires)
        self.executor.accept(result.transactions, proposal.height)
        now_ms = self.outside.now_ms()
        self.pool.ordered(batches, now_ms)
        self._cut(now_ms)
        other = self._validating.pop(proposal.height, None)
        if other is not None and other.digest != proposal.digest:
            self._unwant(other)
        self._lacking.clear()  # what was executed is in the store now
        self._release_vouched(proposal.height)
        # At once: a leader knows that there is nothing in them, and must not be suspected for passing them over.
        for digest in self.pool.drop_expired(proposal.height + 1, self._in_flight()):
            self.engine.forget_batch(digest)
        for digest in proposal.batches:
            self._synced.pop(digest, None)
        self.counters.blocks += 1
        self.counters.transactions += len(result.receipts)
        self.counters.refused += sum(not receipt.ok for receipt in result.receipts)
        self.outside.applied(block, result, state_root)
        ended = result.tip.validators != tip.validators  # the epoch
        if ended:
            self.pool.config = replace(self.pool.config, batch_txs_max=result.tip.parameters.batch_txs_max)
        self._inbox.append(
            Applied(
                proposal.height,
                result.tip.block_hash,
                result.tip.results_hash,
                state_root,
                result.tip.epoch_end,
                result.tip.validators if ended else None,
                result.tip.parameters if ended else None,
            )
        )

    def _on_stable(self, certificate: CheckpointCertificate) -> None:
        self.store.put_checkpoint(certificate)
        self.outside.store_first()  # votes that it lets us give would else outlive it, more than a log holds
        lasting = certificate.height + self.store.tip.parameters.log_window
        records = self.engine.lasting_records()
        if records:
            self._append(RecordKind.VOTES, lasting, join_records(records))
        for digest in [known for known, height in self._logged.items() if height <= certificate.height]:
            del self._logged[digest]
        if not self._keeps_log:
            self.outside.stable(certificate.height)

    def _in_flight(self) -> set[bytes]:
        """Batches that are proposed, locked or decided, and not executed. Those who vouched for one go on holding it
        though all in it has expired: else its block is decided, and nobody anywhere can execute it.
        """
        proposals = [deliver.proposal for deliver in self._undelivered]
        proposals.extend(self._validating.values())
        for slot in self.engine.slots.values():
            proposals.extend(slot.proposals())
        return {digest for proposal in proposals for digest in proposal.batches}


def _frame(message: object) -> tuple[Kind, bytes]:
    if isinstance(message, Status):
        return Kind.STATUS, encode(message.to_value())
    return Kind.VOTE, encode_message(message)  # type: ignore[arg-type]


def join_records(records: Iterable[Record]) -> bytes:
    """Several records as one entry of the log: each with its length in front."""
    return b"".join(len(item).to_bytes(4, "big") + item for item in map(encode_message, records))


def split_records(payload: bytes) -> list[Record]:
    """The reverse of `join_records`; the log's checksums vouch for the bytes."""
    records, position = [], 0
    while position < len(payload):
        size = int.from_bytes(payload[position : position + 4], "big")
        records.append(decode_record(payload[position + 4 : position + 4 + size]))
        position += 4 + size
    return records


assert BATCH_SIZE_BYTES_MAX < BLOCK_RESPONSE_BYTES_MAX
