"""The driver over asyncio: what frames and timers leave behind in the process, and a stop in the middle of a write."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from consensus.events import Timer
from consensus.messages import Suspect, ViewChange, encode_message, signed
from consensus.verify import Verifier
from ledger.block import Phase, Proposal
from ledger.execution import Executor
from ledger.modules import members, payments
from ledger.rules import Registry
from ledger.transaction import Batch
from node.driver import UNCHECKED_BYTES_MAX, Driver
from node.replica import CUT, TAKE, TICK, RecordKind, Replica
from p2p.frames import Kind
from storage.chain import ChainStore
from storage.memory import MemoryKeyValue
from storage.shortening import replay
from storage.wal import Record, WriteAheadLog
from tests.node.test_hostile import GENESIS, HOSTILE, MEMBERS, VALIDATORS, tiny, transaction, vote

FRAMES = 2_000
HANDLES_MAX = 400  # asyncio itself drops cancelled handles once they are a hundred, and more than those in use


class Watching:
    """An observer, and a log."""

    def __init__(self) -> None:
        self.failed: list[BaseException] = []

    def on_applied(self, *_: Any) -> None: ...

    def on_failed(self, error: BaseException) -> None:
        self.failed.append(error)

    def on_diverged(self, *_: Any) -> None: ...

    def on_evidence(self, *_: Any) -> None: ...

    def warning(self, *_: Any, **__: Any) -> None: ...


class GatedLog(WriteAheadLog):
    """A log whose disk waits for `gate`."""

    gate = threading.Event()
    began = threading.Event()

    def _write_group(self, waiting: list[Record], first: int) -> int:
        self.began.set()
        assert self.gate.wait(10)
        return super()._write_group(waiting, first)


def start(wal: WriteAheadLog, watching: Watching) -> Driver:
    executor = Executor(GENESIS, Registry([members.MODULE, payments.MODULE]))
    changes, tip = executor.begin()
    kv = MemoryKeyValue()
    store = ChainStore.create(kv, GENESIS.to_json(), changes, tip)
    driver = Driver(wal, kv, watching, watching)  # type: ignore[arg-type]
    replica = Replica(executor, store, MEMBERS[3].public, MEMBERS[3].sign, driver, Verifier(GENESIS.chain_id))
    driver.attach(replica, None)  # type: ignore[arg-type]
    driver.start()
    replica.start()
    return driver


@pytest_asyncio.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    watching = Watching()
    made = start(WriteAheadLog(tmp_path / "wal"), watching)
    yield made
    await made.stop()
    assert watching.failed == []


@pytest.mark.asyncio
async def test_messages_leave_no_timers_tasks_or_descriptors_behind(driver: Driver) -> None:
    """Trap 36. Votes for many heights and views, suspicions, view changes, batches, requests: thousands of them."""
    key = MEMBERS[HOSTILE].public
    await asyncio.sleep(0)
    tasks, descriptors = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    for number in range(FRAMES):
        proposal = Proposal(1 + number, 0, ())
        frames = [vote(HOSTILE, proposal, phase) for phase in Phase]
        plain = (Suspect(VALIDATORS.epoch, number, HOSTILE), ViewChange(VALIDATORS.epoch, number, None, (), HOSTILE))
        if number % 20 == 0:
            frames += [signed(one, MEMBERS[HOSTILE].sign, GENESIS.chain_id) for one in plain]
            driver.on_frame(key, Kind.BATCH, tiny(number).wire)
            await asyncio.sleep(0)
        for message in frames:
            driver.on_frame(key, Kind.VOTE, encode_message(message))
    assert len(asyncio.all_tasks()) == tasks
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert set(driver._timers) <= {CUT, TAKE, TICK, *(timer.value for timer in Timer)}
    assert len(asyncio.get_running_loop()._scheduled) <= HANDLES_MAX  # type: ignore[attr-defined]


@pytest.mark.asyncio
async def test_a_timer_set_again_replaces_the_one_before(driver: Driver) -> None:
    """Trap 36."""
    for number in range(20_000):
        driver.set_timer(TICK, driver.now_ms() + 60_000 + number)
        if number % 100 == 0:
            await asyncio.sleep(0)
    assert len(asyncio.get_running_loop()._scheduled) <= HANDLES_MAX  # type: ignore[attr-defined]


@pytest.mark.asyncio
async def test_a_stop_in_the_middle_of_a_write_lets_the_disk_finish(tmp_path: Path) -> None:
    """Trap 25. The task that waits for the disk is cancelled, the write is not; what came after it is written too."""
    watching = Watching()
    wal = GatedLog(tmp_path / "wal")
    driver = start(wal, watching)
    assert driver.replica is not None
    told: list[int] = []
    driver.replica.on_durable = told.append  # type: ignore[method-assign, assignment]
    driver.append(RecordKind.VOTES, 1, b"first")
    while not wal.began.is_set():
        await asyncio.sleep(0.001)
    driver.append(RecordKind.VOTES, 1, b"second")
    stopping = asyncio.create_task(driver.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    wal.gate.set()
    await stopping
    wal.close()
    log = WriteAheadLog(tmp_path / "wal", create=False)
    assert [record.payload for record in replay(log, MemoryKeyValue(), tmp_path, 0)] == [b"first", b"second"]
    log.close()
    assert told == []  # nothing is sent of it any more
    assert watching.failed == []


@pytest.mark.asyncio
async def test_signatures_are_checked_for_each_peer_in_turn_and_first_for_what_is_needed(driver: Driver) -> None:
    """Trap 33. A peer's flood made an honest peer's batch wait for more than half a minute."""
    checked: list[tuple[bytes, int]] = []
    everything = asyncio.Event()

    def check(origin: bytes, number: int, *, urgent: bool = False) -> None:
        def done(_valid: bool) -> None:
            checked.append((origin, number))
            if len(checked) == 12:
                everything.set()

        driver.check_batch(tiny(number), origin, urgent, done)

    for number in range(9):
        check(b"flood", number)
    check(b"honest", 1)
    check(b"honest", 2)
    check(b"flood", 99, urgent=True)
    async with asyncio.timeout(10):
        await everything.wait()
    assert checked[0] == (b"flood", 99)
    assert [origin for origin, _ in checked[1:5]] == [b"flood", b"honest", b"flood", b"honest"]
    assert [number for origin, number in checked if origin == b"flood"] == [99, *range(9)]


@pytest.mark.asyncio
async def test_a_flood_holds_up_its_senders_reader_and_nobody_elses(driver: Driver) -> None:
    """Trap 33. All readers waited together, with everyone's votes."""
    big = Batch(tuple(transaction(number, "x" * 60_000).wire for number in range(8)))
    done: list[bool] = []
    for number in range(2 + UNCHECKED_BYTES_MAX // len(big.wire)):
        driver.check_batch(big, b"flood", False, done.append)
        assert number or not driver._paused
    async with asyncio.timeout(1):
        await driver.ready(b"honest")
    paused = asyncio.create_task(driver.ready(b"flood"))
    await asyncio.sleep(0)
    assert not paused.done()
    async with asyncio.timeout(10):
        await paused
    assert done


@pytest.mark.asyncio
async def test_what_is_needed_now_overtakes_what_its_sender_sent_before(driver: Driver) -> None:
    checked: list[int] = []
    everything = asyncio.Event()

    def done(number: int) -> Callable[[bool], None]:
        def note(_valid: bool) -> None:
            checked.append(number)
            if len(checked) == 5:
                everything.set()

        return note

    for number in range(5):
        driver.check_batch(tiny(number), b"peer", False, done(number))
    driver.check_first(tiny(4).digest)
    driver.check_first(tiny(99).digest)
    async with asyncio.timeout(10):
        await everything.wait()
    assert checked == [4, 0, 1, 2, 3]


@pytest.mark.asyncio
async def test_the_store_is_synced_before_the_records_that_vouch_for_it(tmp_path: Path) -> None:
    """Trap 16. Else the power may fail between, and a member's word for blocks outlive the blocks."""
    done: list[str] = []

    class Noting(WriteAheadLog):
        def _write_group(self, waiting: list[Record], first: int) -> int:
            done.append("log")
            return super()._write_group(waiting, first)

    driver = start(Noting(tmp_path / "wal"), Watching())
    write = driver._kv.write

    def noting(*arguments: Any, sync: bool = False, **options: Any) -> None:
        if sync:
            done.append("store")
        write(*arguments, sync=sync, **options)

    driver._kv.write = noting  # type: ignore[method-assign]
    flushes = driver.account.flushes
    driver.append(RecordKind.VOTES, 1, b"")
    while driver.account.flushes == flushes:
        await asyncio.sleep(0.001)
    assert "store" not in done
    done.clear()
    driver.store_first()
    flushes = driver.account.flushes
    driver.append(RecordKind.VOTES, 1, b"")
    while driver.account.flushes == flushes:
        await asyncio.sleep(0.001)
    assert done[:2] == ["store", "log"]
    await driver.stop()
