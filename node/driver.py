"""The replica's outside over asyncio: network, write-ahead log with group commit, timers, clocks, signature checks.

Nothing here decides anything. fsync runs in one disk thread, so a stall never holds up the loop; signatures are checked
inline in short slices that yield, since validators share cores here and a verifying thread would starve the loop
(docs/adr/0003). An exception out of the replica is our bug: the node stops rather than go on from a broken state.

Must not know: HTTP, configuration files.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from consensus.events import Evidence
from ledger.block import CertifiedBlock
from ledger.crypto import verify_joined
from ledger.execution import BlockResult
from ledger.transaction import Batch
from node.replica import RecordKind, Replica
from p2p.config import Log
from p2p.errors import Fault
from p2p.frames import Kind
from p2p.transport import Transport
from storage.errors import StorageError
from storage.kv import KeyValue
from storage.shortening import end, mute, shorten
from storage.wal import WriteAheadLog

SLICE = 16  # signatures between two turns of the loop: about a millisecond
UNCHECKED_BYTES_MAX = 4 * 1024 * 1024  # a peer's batches waiting for their check; beyond it, its reader pauses


_Unchecked = tuple[Batch, bytes, Callable[[bool], None]]  # with its origin


class Observer(Protocol):
    """Who is told what happened; must be quick."""

    def on_applied(self, block: CertifiedBlock, result: BlockResult, state_root: bytes | None) -> None: ...

    def on_failed(self, error: BaseException) -> None: ...

    def on_diverged(self, height: int, own: bytes, certified: bytes) -> None: ...

    def on_key_forgotten(self, height: int) -> None: ...

    def on_evidence(self, evidence: Evidence) -> None: ...


@dataclass(slots=True)
class Account:
    """Where time went, in seconds and counts, for metrics and benchmarks."""

    signatures: int = 0
    signature_s: float = 0.0
    flushes: int = 0
    flush_s: float = 0.0
    execute_s: float = 0.0
    blocks: int = 0


class Driver:
    """Implements `node.replica.Outside`. Give it a replica with `attach`, then `start`."""

    def __init__(self, wal: WriteAheadLog, kv: KeyValue, observer: Observer, log: Log) -> None:
        self._wal, self._kv, self._observer, self._log = wal, kv, observer, log
        self.account = Account()
        self.transport: Transport | None = None
        self.replica: Replica | None = None
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._flush_wanted = asyncio.Event()
        self._urgent: deque[_Unchecked] = deque()
        self._unchecked: dict[bytes, deque[_Unchecked]] = {}  # by origin, whose turn is next first
        self._unchecked_bytes: Counter[bytes] = Counter()
        self._check_wanted = asyncio.Event()
        self._paused: dict[bytes, asyncio.Event] = {}  # by peer that has more waiting than it may
        self._stable_height = 0
        self._store_due = False  # whether the store is to be synced before the log's next records
        self.flushing_since_ms: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._failed = False

    def attach(self, replica: Replica, transport: Transport) -> None:
        self.replica, self.transport = replica, transport

    def start(self, *more: Coroutine[Any, Any, None]) -> None:
        """Begin, with `more` tasks of the node that end with it and may not fail."""
        for work in (self._flush_forever(), self._check_forever(), *more):
            self._tasks.append(asyncio.create_task(self._guarded(work)))

    async def stop(self) -> None:
        """Finish what the disk has begun, then let go. After a failure nothing more is written, as after a crash."""
        for paused in self._paused.values():
            paused.set()
        for handle in self._timers.values():
            handle.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._failed:
            with suppress(StorageError):  # the log is as after a crash then
                await asyncio.get_running_loop().run_in_executor(self._disk, end, self._kv, self._wal)
        self._failed = True  # what still comes in goes nowhere
        self._disk.shutdown(wait=True)

    # Entry points: everything that reaches the replica comes through here

    def call(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Run one of the replica's methods; what escapes is our bug and stops the node."""
        if self._failed:
            return None
        try:
            return action(*arguments)
        except Exception as error:
            self.fail(error)
            return None

    def fail(self, error: BaseException) -> None:
        """Nothing reaches the replica any more."""
        if not self._failed:
            self._failed = True
            self._observer.on_failed(error)

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except Exception as error:
            self.fail(error)

    def on_frame(self, key: bytes, kind: Kind, payload: bytes) -> None:
        assert self.replica is not None
        self.call(self.replica.on_frame, key, kind, payload)

    def on_peer_up(self, key: bytes) -> None:
        assert self.replica is not None
        self.call(self.replica.on_peer_up, key)

    def on_peer_down(self, key: bytes) -> None:
        assert self.replica is not None
        self.call(self.replica.on_peer_down, key)

    async def ready(self, key: bytes) -> None:
        """Holds a peer's reader back while too much of it waits for its check, and its votes with it: nobody else's."""
        paused = self._paused.get(key)
        if paused is not None:
            await paused.wait()

    # Outside

    def now_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def send(self, key: bytes, kind: Kind, payload: bytes) -> None:
        if self.transport is not None:
            self.transport.send(key, kind, payload)

    def round_trips_ms(self) -> Mapping[bytes, float]:
        return {} if self.transport is None else self.transport.round_trips_ms()

    def append(self, kind: RecordKind, height: int, payload: bytes) -> int:
        sequence = self._wal.append(int(kind), height, payload)
        if kind is RecordKind.VOTES:
            self._flush_wanted.set()
        return sequence

    def store_first(self) -> None:
        self._store_due = True

    def set_timer(self, name: str, at_ms: int | None) -> None:
        handle = self._timers.pop(name, None)
        if handle is not None:
            handle.cancel()
        if at_ms is not None:
            delay_s = max(0, at_ms - self.now_ms()) / 1_000
            self._timers[name] = asyncio.get_running_loop().call_later(delay_s, self._fire, name)

    def _fire(self, name: str) -> None:
        self._timers.pop(name, None)
        assert self.replica is not None
        self.call(self.replica.on_timer, name)

    def check_batch(self, batch: Batch, origin: bytes, urgent: bool, done: Callable[[bool], None]) -> None:
        queue = self._urgent if urgent else self._unchecked.setdefault(origin, deque())
        queue.append((batch, origin, done))
        self._unchecked_bytes[origin] += len(batch.wire)
        if self._unchecked_bytes[origin] > UNCHECKED_BYTES_MAX and origin not in self._paused:
            self._paused[origin] = asyncio.Event()
        self._check_wanted.set()

    def check_first(self, digest: bytes) -> None:
        for queue in self._unchecked.values():
            for entry in queue:
                if entry[0].digest == digest:
                    queue.remove(entry)
                    self._urgent.append(entry)
                    return

    def applied(self, block: CertifiedBlock, result: BlockResult, state_root: bytes | None) -> None:
        self.account.blocks += 1
        self._observer.on_applied(block, result, state_root)

    def stable(self, height: int) -> None:
        self._stable_height = max(self._stable_height, height)  # one of the epoch before may come late
        self._flush_wanted.set()

    def misbehaved(self, key: bytes, reason: str) -> None:
        self._log.warning("peer misbehaved", peer=key.hex()[:16], reason=reason)
        if self.transport is not None:
            self.transport.misbehaved(key, Fault.MALFORMED_PAYLOAD)

    def diverged(self, height: int, own: bytes, certified: bytes) -> None:
        self._observer.on_diverged(height, own, certified)

    def key_forgotten(self, height: int) -> None:
        assert self.replica is not None
        mute(self._wal, self.replica.key)
        self._observer.on_key_forgotten(height)

    def evidence(self, evidence: Evidence) -> None:
        self._observer.on_evidence(evidence)

    # Tasks

    async def _flush_forever(self) -> None:
        """Group commit: one fsync covers everything appended before it began."""
        loop = asyncio.get_running_loop()
        shortened = 0
        while True:
            await self._flush_wanted.wait()
            self._flush_wanted.clear()
            stable = self._stable_height
            started_s, self.flushing_since_ms = time.perf_counter(), self.wall_ms()
            sequence = await loop.run_in_executor(self._disk, self._wal.flush, self._sync_store)
            self.flushing_since_ms = None
            self.account.flushes += 1
            self.account.flush_s += time.perf_counter() - started_s
            assert self.replica is not None
            self.call(self.replica.on_durable, sequence)
            if stable > shortened:
                shortened = stable
                await loop.run_in_executor(self._disk, shorten, self._kv, self._wal, stable)

    def _sync_store(self) -> None:
        """In the disk thread, when it is settled which records are written: those that need it came after the mark."""
        if self._store_due:
            self._store_due = False
            try:
                self._kv.write((), sync=True)
            except BaseException:
                self._store_due = True
                raise

    async def _check_forever(self) -> None:
        while True:
            await self._check_wanted.wait()
            self._check_wanted.clear()
            while (found := self._next_unchecked()) is not None:
                batch, origin, done = found
                valid = all(await self.check_signatures(batch.wires))
                self._unchecked_bytes[origin] -= len(batch.wire)
                if self._unchecked_bytes[origin] <= UNCHECKED_BYTES_MAX and origin in self._paused:
                    self._paused.pop(origin).set()
                if not self._unchecked_bytes[origin]:
                    del self._unchecked_bytes[origin]
                self.call(done, valid)

    def _next_unchecked(self) -> _Unchecked | None:
        if self._urgent:
            return self._urgent.popleft()
        while self._unchecked:
            origin, queue = next(iter(self._unchecked.items()))
            del self._unchecked[origin]
            if not queue:
                continue  # its last one was needed first
            found = queue.popleft()
            if queue:
                self._unchecked[origin] = queue  # behind the others
            return found
        return None

    async def check_signatures(self, wires: Sequence[bytes]) -> list[bool]:
        """Whether each transaction's signature is valid; gives way to the loop after every slice."""
        verdicts: list[bool] = []
        for start in range(0, len(wires), SLICE):
            began_s = time.thread_time()  # of this thread alone: validators may share a core
            verdicts += [verify_joined(wire) for wire in wires[start : start + SLICE]]
            self.account.signature_s += time.thread_time() - began_s
            await asyncio.sleep(0)
        self.account.signatures += len(wires)
        return verdicts
