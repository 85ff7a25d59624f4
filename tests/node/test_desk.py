"""What one node says of the others, from what it heard of them, and what its door costs it: the desk over a replica
without a network.
"""

from __future__ import annotations

import asyncio
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
from node.desk import CROWDED_MS, DOOR_SIZE_BYTES, LAG_HEIGHTS_MAX, Desk
from node.why import SILENT_MS, STARTING_MS
from p2p.frames import Kind
from tests.node.test_hostile import GENESIS, MEMBERS, WALL_MS, Lab, tiny, transaction
from tests.simulation.cluster import CURRENCY, key_of

AN_HOUR_MS = 3_600_000
OWN = 3


class Room:
    """A desk, its replica, and the other members' statuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        self.lab = Lab()
        self.out, replica = self.lab.out, self.lab.replica
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
        return [True] * len(wires)

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
    assert 140 <= counted[0] <= 150, "their bytes count as well"
    assert room.desk._being_checked == 0


@pytest.mark.asyncio
async def test_while_there_is_no_room_for_everyone_what_the_state_would_refuse_is_turned_away(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C5. Else most of what is ordered under overload are later steps of what was turned away."""
    too_much = [transfer(1_000_000_000_000, number).wire for number in range(4)]
    assert await codes(room, too_much[:1]) == [0], "with room for all, the chain judges"
    pool = type(room.lab.replica.pool)
    monkeypatch.setattr(pool, "backlog_max", 2)
    assert await codes(room, [transaction(1).wire, transaction(2).wire]) == [0, Code.POOL_FULL]
    monkeypatch.setattr(pool, "backlog_max", 100)
    assert await codes(room, [too_much[1], transaction(3).wire]) == [Code.POOL_FULL, 0]
    room.pass_time(CROWDED_MS - 1)
    assert await codes(room, [too_much[2], transaction(4).wire]) == [Code.POOL_FULL, 0]
    room.pass_time(1)
    assert await codes(room, too_much[3:]) == [0], "what was tried out and turned away does not prolong it"


@pytest.mark.asyncio
async def test_what_is_tried_out_changes_nothing(room: Room) -> None:
    replica = room.lab.replica
    before = replica.store.tip, replica.store.changed_since_root()
    replica.executor.try_out(transaction(1), replica.store, replica.store.tip)
    with pytest.raises(Reject) as refused:
        replica.executor.try_out(transfer(1_000_000_000_000, 1), replica.store, replica.store.tip)
    assert refused.value.code is Code.INSUFFICIENT_FUNDS
    assert (replica.store.tip, replica.store.changed_since_root()) == before


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
