"""What one node says of the others, from what it heard of them, and what its door costs it: the desk over a replica
without a network.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from consensus.messages import Status
from ledger.codec import encode
from ledger.errors import Code, Reject
from ledger.transaction import Transaction
from node.config import NodeConfig
from node.desk import CROWDED_MS, DOOR_SIZE_BYTES, LAG_HEIGHTS_MAX, TRYING_MS_MAX, Desk
from node.why import SILENT_MS, STARTING_MS
from p2p import batches
from p2p.frames import Kind
from tests.node.test_hostile import GENESIS, MEMBERS, WALL_MS, Lab, tiny, transaction
from tests.simulation.cluster import CURRENCY, key_of

AN_HOUR_MS = 3_600_000
NOBODY_HAS = 10**12
OWN = 3


class Room:
    """A desk, its replica, and the other members' statuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        self.lab = Lab()
        self.out, replica = self.lab.out, self.lab.replica
        self.is_valid = True
        self.checked: list[int] = []  # signatures, by post
        monkeypatch.setattr("node.desk._wall_ms", self.out.wall_ms)
        home: Any = SimpleNamespace(genesis=GENESIS, store=replica.store, executor=replica.executor)
        driver: Any = SimpleNamespace(
            now_ms=self.out.now_ms, flushing_since_ms=None, check_signatures=self.check_signatures
        )
        self.desk = Desk(NodeConfig(home=tmp_path), home, MEMBERS[OWN], None, None)
        self.desk.open(driver, replica, SimpleNamespace())  # type: ignore[arg-type]

    async def check_signatures(self, wires: Sequence[bytes]) -> list[bool]:
        self.checked.append(len(wires))
        return [self.is_valid] * len(wires)

    def pass_time(self, duration_ms: int, *heard: int) -> None:
        self.out.now += duration_ms
        status = encode(self.lab.replica.engine.status().to_value())
        for member in heard:
            self.lab.replica.on_frame(MEMBERS[member].public, Kind.STATUS, status)

    def missing(self) -> dict[str, int]:
        """Since when, by key, in the steady clock's time."""
        return {one["key"]: one["since_ms"] - WALL_MS for one in self.desk.why()["missing"]}


async def turns_of_the_loop(counted: list[None]) -> None:
    while True:
        await asyncio.sleep(0)
        counted.append(None)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Room:
    return Room(monkeypatch, tmp_path)


def test_who_is_connected_and_silent_is_missing_since_it_was_last_heard(room: Room) -> None:
    """A network cut in two leaves connections open for a while."""
    room.pass_time(AN_HOUR_MS, 0, 1, 2)
    assert room.missing() == {}
    room.pass_time(SILENT_MS, 0)
    assert room.missing() == {}
    room.pass_time(1, 0)
    silent = {MEMBERS[member].public.hex(): AN_HOUR_MS for member in (1, 2)}
    assert room.missing() == silent
    told = room.desk.why()
    assert told["halted"]
    assert "2 of 4 validators are reachable" in told["sentence"]
    assert not room.desk.ready()

    room.desk.on_peer(MEMBERS[1].public, False)  # the connection ends, and it is missing since the same time
    room.lab.replica.on_peer_down(MEMBERS[1].public)
    room.pass_time(60_000, 0)
    assert room.missing() == silent
    room.desk.on_peer(MEMBERS[1].public, True)
    room.lab.replica.on_peer_up(MEMBERS[1].public)
    room.pass_time(0, 2)
    assert room.missing() == {}
    assert room.desk.ready()


def test_who_leaves_is_missing_at_once_and_who_never_came_not_just_after_the_start(room: Room) -> None:
    for member in (0, 1):
        room.lab.replica.on_peer_down(MEMBERS[member].public)
    room.pass_time(STARTING_MS - 1, 2)
    assert room.missing() == {}
    room.desk.on_peer(MEMBERS[2].public, False)
    room.lab.replica.on_peer_down(MEMBERS[2].public)
    assert room.missing() == {MEMBERS[2].public.hex(): STARTING_MS - 1}
    room.pass_time(1)
    assert len(room.missing()) == 3


def test_a_transaction_on_a_quiet_chain_waits_since_it_came(room: Room) -> None:
    room.pass_time(AN_HOUR_MS, 0, 1, 2)
    assert "nobody has sent a transaction yet" in room.desk.why()["sentence"]
    room.lab.frame(Kind.BATCH, tiny(1).wire)
    room.pass_time(4_000, 0, 1, 2)
    told = room.desk.why()
    assert not told["halted"]
    assert "waited for 4 s" in told["sentence"]
    room.pass_time(7_000, 0, 1, 2)
    told = room.desk.why()
    assert told["halted"]
    assert "Nothing was committed for 11 s" in told["sentence"]


@pytest.mark.asyncio
async def test_a_long_post_gives_way_to_the_loop_while_it_is_checked_at_the_door(room: Room) -> None:
    """Checking a patient's key costs as much as a signature: two thousand at once would hold the loop for 0.1 s."""
    wires = [transaction(number).wire for number in range(400)]
    counted: list[None] = []
    counter = asyncio.create_task(turns_of_the_loop(counted))
    outcomes = await room.desk.submit(wires)
    counter.cancel()
    assert [outcome.code for outcome in outcomes] == [0] * len(wires)
    assert len(counted) >= sum(map(len, wires)) // DOOR_SIZE_BYTES - 1 > 5


@pytest.mark.asyncio
async def test_posts_that_are_checked_at_the_same_time_share_what_room_there_is(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(room.lab.replica.pool), "backlog_max", 150)
    posts = [[transaction(number).wire for number in range(first, first + 100)] for first in (0, 100)]
    outcomes = await asyncio.gather(*map(room.desk.submit, posts))
    assert sum(room.checked) == 150
    counted = Counter(outcome.code for post in outcomes for outcome in post)
    assert counted.keys() == {0, Code.POOL_FULL}
    size_bytes = len(posts[0][0]) + batches.FRAMING_BYTES
    fit = next(number for number in itertools.count() if batches.work(number, number * size_bytes) >= 150)
    assert counted[0] == fit < 150, "their bytes count as well"
    assert room.desk._being_checked == 0


@pytest.mark.asyncio
async def test_while_the_pool_is_full_what_the_state_would_refuse_is_turned_away(room: Room) -> None:
    """C5. Else much of what is ordered under overload are later steps of what was turned away."""
    too_much = [transfer(NOBODY_HAS, number).wire for number in range(5)]
    assert await codes(room, too_much[:1]) == [0], "with room for all, the chain judges"
    await fill(room)
    [turned_away, taken] = await room.desk.submit([too_much[1], transaction(3).wire])
    assert (turned_away.code, turned_away.detail[-1]) == (Code.POOL_FULL, Code.INSUFFICIENT_FUNDS)
    assert taken.code == 0
    assert await codes(room, too_much[:1]) == [0], "it waits here already"
    room.pass_time(CROWDED_MS - 1)
    assert await codes(room, [too_much[2], transaction(4).wire]) == [Code.POOL_FULL, 0]
    room.pass_time(1)
    assert await codes(room, too_much[3:4]) == [0], "what was tried out and turned away does not prolong it"
    await fill(room)
    room.desk._trying_since_ms, room.desk._tried_ms = room.out.now_ms(), TRYING_MS_MAX
    assert await codes(room, too_much[4:]) == [0], "nobody may use up the node's time with what comes to nothing"


@pytest.mark.asyncio
async def test_what_is_signed_badly_does_not_crowd_others_out(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the end of a post judge its beginning."""
    monkeypatch.setattr(type(room.lab.replica.pool), "backlog_max", 2)
    monkeypatch.setattr(room, "is_valid", False)
    outcomes = await codes(room, [transaction(number).wire for number in range(3)])
    assert outcomes == [Code.BAD_SIGNATURE, Code.BAD_SIGNATURE, Code.POOL_FULL]
    monkeypatch.setattr(room, "is_valid", True)
    late = [transfer(NOBODY_HAS, number).wire for number in range(3)]
    assert await codes(room, late) == [0, 0, Code.POOL_FULL]


@pytest.mark.asyncio
async def test_what_is_tried_out_changes_nothing_and_is_tried_at_the_time_it_is(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a quiet chain the last block may be a day old, and what became due since would be turned away for ever."""
    executor, store = room.lab.replica.executor, room.lab.replica.store
    keys = [key for key, _ in store.state_entries()]
    before = store.tip, [store.state_bytes(key) for key in keys]
    executor.try_out(transaction(1), store, store.tip, WALL_MS)
    with pytest.raises(Reject) as refused:
        executor.try_out(transfer(NOBODY_HAS, 1), store, store.tip, WALL_MS)
    assert refused.value.code is Code.INSUFFICIENT_FUNDS
    assert (store.tip, [store.state_bytes(key) for key in keys]) == before
    await fill(room)
    room.pass_time(10)
    tried: list[int] = []
    monkeypatch.setattr(executor, "try_out", lambda tx, store, tip, time_ms: tried.append(time_ms))
    assert await codes(room, [transaction(7).wire]) == [0]
    assert tried == [room.out.wall_ms()]


@pytest.mark.asyncio
async def test_what_is_being_checked_is_counted_by_its_work(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WORK_BYTES", 50)
    wires = [transaction(number).wire for number in range(3)]
    counted: list[int] = []

    async def check_signatures(wires: Sequence[bytes]) -> list[bool]:
        counted.append(room.desk._being_checked)
        return [True] * len(wires)

    monkeypatch.setattr(room.desk.driver, "check_signatures", check_signatures)
    assert await codes(room, wires) == [0, 0, 0]
    assert counted == [sum(1 + len(wire) // 50 for wire in wires)]
    assert room.desk._being_checked == 0


async def fill(room: Room) -> None:
    """Have the pool turn one away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(room.lab.replica.pool), "backlog_max", 0)
        patch.setattr(type(room.lab.replica.pool), "room", 0)
        assert await codes(room, [transaction(99).wire]) == [Code.POOL_FULL]


async def codes(room: Room, wires: list[bytes]) -> list[int]:
    return [outcome.code for outcome in await room.desk.submit(wires)]


def transfer(amount: int, number: int) -> Transaction:
    fields, nonce = (CURRENCY, "h1", amount, ""), (1_000 + number).to_bytes(16, "big")
    return Transaction.create(key_of(0), GENESIS.chain_id, "payments.transfer", fields, nonce=nonce, valid_until=500)


def test_a_node_that_lags_or_has_stopped_is_not_ready(room: Room) -> None:
    room.pass_time(1_000, 0, 1, 2)
    assert room.desk.ready()
    room.desk.stopped = "an example"
    assert not room.desk.ready()
    room.desk.stopped = None
    for member in (0, 1):
        status = Status(GENESIS.validator_set.epoch, 0, False, LAG_HEIGHTS_MAX + 1, 0)
        room.lab.replica.on_frame(MEMBERS[member].public, Kind.STATUS, encode(status.to_value()))
    assert not room.desk.ready()
