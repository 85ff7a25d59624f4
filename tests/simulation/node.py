"""One simulated node: a whole replica on its own disk and its own clocks; `Outside` for it.

It does what node/driver.py does, with time that is counted instead of passing: one group commit at a time, timers by
the node's own clock, signature checks that take a while.

Must not know: faults other than its own crash and pause.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from consensus.events import Evidence
from consensus.verify import Verifier
from ledger.block import CertifiedBlock
from ledger.execution import BlockResult, Executor
from ledger.transaction import Batch
from node.replica import RecordKind, Replica
from p2p.batches import PoolConfig
from p2p.frames import Kind
from storage.chain import ChainStore
from storage.memory import MemoryKeyValue
from storage.pruning import prune
from tests.simulation.disk import Disk
from tests.simulation.options import EVERYONE

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

WALL_MS = 1_700_000_000_000
MILLION = 1_000_000


class SimulatedNode:
    """One replica with its simulated disk; `Outside` for it."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        self.cluster, self.index, self.key = cluster, index, cluster.key_of(index)
        options = cluster.options
        self.disk = Disk(cluster.empty_store(), options.segment_bytes_max)
        # All records written since the node was made, and how many of them are on disk for certain: for tests.
        self.log: list[tuple[RecordKind, int, bytes]] = []
        self.durable = 0
        self.alive = self.paused = False
        self.held: list[tuple[int, Callable[[], None]]] = []  # what would have happened while paused
        self.broken: list[bytes] = []  # peers to whom the connection broke while paused
        self.life = 0
        self.clock_offset_ms = options.skew_ms.get(index, 0)
        self.drift_ppm = options.drift_ppm.get(index, 0)
        self.stalled_until_ms = 0
        self.hurried_ms = 0  # how far its monotonic clock jumped ahead, all together
        self.said: dict[bytes, None] = {}  # payloads looked at by the checkers
        self.durable_messages: dict[bytes, None] = {}
        self.latest_views: dict[int, int] = {}  # epoch -> view of the latest message sent
        self.applied_height = self.events = 0
        self.durable_height = 0  # of the store, for certain
        self.replica: Replica
        self._new_life()

    def _new_life(self) -> None:
        self._timers: dict[str, int] = {}
        self._written: deque[tuple[int, bytes]] = deque()  # vote records on their way to the disk
        self._flush_wanted = self._flushing = self._store_due = False
        self._stable = self._shortened = 0
        self._log_base = len(self.log)

    @property
    def kv(self) -> MemoryKeyValue:
        return self.disk.kv

    def boot(self) -> None:
        """Start from what the disk has, and connect to everyone there."""
        cluster = self.cluster
        self.alive, self.paused = True, False
        self.life += 1
        self._new_life()
        executor = Executor(cluster.genesis, cluster.registry)
        verifier = Verifier(cluster.genesis.chain_id, cluster.signer.check)
        sign = lambda statement: cluster.signer.sign(self.key.public, statement)  # noqa: E731
        store = ChainStore(self.kv)
        self.applied_height = store.tip.height
        records = [(RecordKind(kind), height, payload) for kind, height, payload in self.disk.open()]
        for kind, _, payload in records:
            if kind is RecordKind.VOTES:
                self._note_durable(payload)
        parameters = cluster.genesis.parameters
        pool = PoolConfig(
            batch_txs_max=parameters.batch_txs_max,
            backlog_min=cluster.options.pool_txs_min,
            held_bytes_per_peer_max=cluster.options.pool_bytes_per_peer_max,
        )
        self.replica = Replica(executor, store, self.key.public, sign, self, verifier, pool)
        cluster.on_boot(self)
        self.replica.start(records)
        for peer in cluster.nodes:
            if peer is not self and peer.alive:
                cluster.reconnect(self, peer)

    def crash(self, power: bool = True) -> None:
        """Power off (unsynced writes may be lost, any suffix of them), or only the process killed."""
        self.alive = self.paused = False
        self.held.clear()
        self.broken.clear()
        self.cluster.on_crash(self)
        del self.log[self.durable :]
        self.disk.crash(self.cluster.disk_random, power=power, torn=self.cluster.options.torn)
        for peer in self.cluster.nodes:
            if peer is not self:
                self.cluster.disconnect(self, peer)

    # Outside: clocks and timers

    def now_ms(self) -> int:
        return self.cluster.now_ms * (MILLION + self.drift_ppm) // MILLION + self.hurried_ms

    def wall_ms(self) -> int:
        # Kept by a time service, so it jumps but does not run away, as the monotonic one may.
        return WALL_MS + self.cluster.now_ms + self.clock_offset_ms

    def set_timer(self, name: str, at_ms: int | None) -> None:
        if at_ms is None:
            self._timers.pop(name, None)
            return
        self._timers[name] = at_ms
        self.cluster.checkers.on_timer(self, name, at_ms - self.now_ms())
        # Rounded up: a timer may be late, never early.
        delay_ms = -(-max(0, at_ms - self.now_ms()) * MILLION // (MILLION + self.drift_ppm))
        self.cluster.later(self, delay_ms, lambda: self._fire(name, at_ms))

    def hurry(self, ahead_ms: int) -> None:
        """The monotonic clock jumps ahead, as after a suspension: timers that are due by it fire."""
        self.hurried_ms += ahead_ms
        for name, at_ms in list(self._timers.items()):
            if at_ms <= self.now_ms():
                self._fire(name, at_ms)
            elif self._timers.get(name) == at_ms:
                self.set_timer(name, at_ms)

    def _fire(self, name: str, at_ms: int) -> None:
        if self._timers.get(name) == at_ms:
            del self._timers[name]
            self.replica.on_timer(name)

    # Outside: network

    def send(self, key: bytes, kind: Kind, payload: bytes) -> None:
        self.cluster.checkers.on_send(self, kind, payload)
        self.cluster.transmit(self, key, kind, payload)

    def round_trips_ms(self) -> dict[bytes, float]:
        nearest_ms = 2.0 * self.cluster.options.delay_ms[0]
        return dict.fromkeys(self.replica.peers, nearest_ms)

    def misbehaved(self, key: bytes, reason: str) -> None:
        self.cluster.on_blamed(self, key, reason)

    def evidence(self, evidence: Evidence) -> None:
        self.cluster.on_evidence(self, evidence)

    def check_batch(self, batch: Batch, origin: bytes, urgent: bool, done: Callable[[bool], None]) -> None:
        valid = self.cluster.are_signed(batch)
        self.cluster.later(self, 1 + len(batch.wires) // 16, lambda: done(valid))

    def check_first(self, digest: bytes) -> None:
        """Each check takes its own time here."""

    # Outside: disk

    def append(self, kind: RecordKind, height: int, payload: bytes) -> int:
        self.log.append((kind, height, payload))
        sequence: int = self.disk.wal.append(int(kind), height, payload)
        if kind is RecordKind.VOTES:
            self._written.append((sequence, payload))
            self._want_flush()
        return sequence

    def store_first(self) -> None:
        self._store_due = True

    def _want_flush(self) -> None:
        if not self._flush_wanted:
            self._flush_wanted = True
            if not self._flushing:
                self.cluster.later(self, 0, self._flush)

    def _flush(self) -> None:
        """Group commit: one sync covers everything appended before it began."""
        if self._flushing:
            return
        self._flushing, self._flush_wanted = True, False
        stable = self._stable
        if self._store_due:
            self._store_due = False
            self.kv.write((), sync=True)
            self.durable_height = self.replica.store.tip.height
        sequence = self.disk.wal.flush()
        mark = self.disk.fs.mark
        took_ms = max(self.cluster.sync_takes_ms(), self.stalled_until_ms - self.cluster.now_ms)
        self.cluster.later(self, took_ms, lambda: self._flushed(sequence, mark, stable))

    def _flushed(self, sequence: int, mark: int, stable: int) -> None:
        self.disk.fs.settle(mark)
        self.durable = self._log_base + sequence
        while self._written and self._written[0][0] <= sequence:
            self._note_durable(self._written.popleft()[1])
        self.replica.on_durable(sequence)
        if stable > self._shortened:
            self._shortened = stable
            self._log_base -= self.disk.shorten(stable)  # records that the replica knows nothing of
            if self.cluster.options.pruning in (self.index, EVERYONE):
                for _ in prune(self.kv, self.replica.store, 1):
                    pass
        self._flushing = False
        if self._flush_wanted:
            self.cluster.later(self, 0, self._flush)

    def _note_durable(self, payload: bytes) -> None:
        position = 0
        while position < len(payload):
            size = int.from_bytes(payload[position : position + 4], "big")
            self.durable_messages[payload[position + 4 : position + 4 + size]] = None
            position += 4 + size

    # Outside: what came of it

    def applied(self, block: CertifiedBlock, result: BlockResult, state_root: bytes | None) -> None:
        self.cluster.on_applied(self, block, result, state_root)

    def stable(self, height: int) -> None:
        self.cluster.on_stable(self, height)
        self._stable = height
        self._want_flush()

    def key_forgotten(self, height: int) -> None:
        if self.cluster.is_honest(self):
            raise AssertionError(f"node {self.index} does not know its own vote at {height}")
        # Counted here: engines of faulty nodes are not watched, and only one started from an older copy comes by this.
        self.cluster.coverage["effect/KeyForgotten"] += 1

    def diverged(self, height: int, own: bytes, certified: bytes) -> None:
        if self.cluster.is_honest(self):
            raise AssertionError(f"node {self.index} diverged at {height}")
