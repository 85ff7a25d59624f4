"""The batch pool: packing clients' transactions, holding peers' batches, fetching what is missing; all bounded."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ledger.crypto import KeyPair, hash_bytes
from ledger.errors import Code, Reject
from ledger.transaction import BATCH_SIZE_BYTES_MAX, Batch, Transaction
from p2p.batches import (
    FETCH_DIGESTS_MAX,
    FETCH_TIMEOUT_MS,
    FRAMING_BYTES,
    ORDERED_KEPT,
    SLOWNESS_MAX,
    WANTED_MAX,
    WORK_BYTES,
    BatchPool,
    PoolConfig,
    work,
)

PAIR = KeyPair.from_seed(b"\x31" * 32)
CHAIN = hash_bytes(b"chain")
PEERS = [b"peer %d" % number for number in range(4)]
SMALL = PoolConfig(batch_txs_max=4, batch_age_ms_max=8, backlog_min=10)


@cache
def tx(number: int, size_bytes: int = 0, valid_until: int = 100) -> Transaction:
    nonce = number.to_bytes(16, "big")
    return Transaction.create(PAIR, CHAIN, "a.b", (bytes(size_bytes),), nonce=nonce, valid_until=valid_until)


def batch(*numbers: int, size_bytes: int = 0, valid_until: int = 100) -> Batch:
    return Batch(tuple(tx(number, size_bytes, valid_until).wire for number in numbers))


def digests(count: int) -> list[bytes]:
    return [hash_bytes(b"%d" % number) for number in range(count)]


def pool_full(pool: BatchPool, one: Transaction, now_ms: int = 0) -> bool:
    try:
        pool.submit(one, now_ms)
    except Reject as reject:
        return reject.code is Code.POOL_FULL
    return False


def test_a_transaction_is_taken_once_until_it_is_executed() -> None:
    """Trap 38."""
    pool = BatchPool(SMALL)
    assert pool.submit(tx(1), 0)
    assert not pool.submit(tx(1), 1)
    [cut] = pool.cut(8)
    assert not pool.submit(tx(1), 9), "nor once it is in a batch"
    assert cut.tx_ids == (tx(1).id,)
    pool.ordered([cut], 10)
    assert pool.submit(tx(1), 11), "afterwards execution refuses it as replayed"
    assert pool.waiting_txs == 1


def test_what_was_executed_by_way_of_another_node_is_not_packed_again() -> None:
    """Trap 38. A client sent two of three to another node as well, whose batch was quicker."""
    pool = BatchPool(SMALL)
    pool.add(batch(9), None, 0)  # one of ours on its way, so that the next ones wait for company
    for number in (1, 2, 3):
        pool.submit(tx(number), 0)
    assert pool.cut(0) == []
    pool.ordered([batch(1, 2)], 1)
    [cut] = pool.cut(8)
    assert cut == batch(3)
    assert pool.sizes()["transactions"] == 1


def test_a_batch_is_cut_when_it_has_enough_transactions() -> None:
    pool = BatchPool(SMALL)
    for number in range(9):
        pool.submit(tx(number), 0)
    cut = pool.cut(0)
    assert [one.tx_ids for one in cut] == [tuple(tx(n).id for n in part) for part in (range(4), range(4, 8))]
    assert pool.cut_due_ms() == 8
    assert pool.cut(7) == []
    assert [one.tx_ids for one in pool.cut(8)] == [(tx(8).id,)]
    assert pool.cut_due_ms() is None
    assert pool.cut(100) == []


def test_a_lone_transaction_goes_at_once_when_none_of_ours_is_on_its_way() -> None:
    pool = BatchPool(SMALL)
    pool.submit(tx(1), 100)
    assert [len(one.wires) for one in pool.cut(100)] == [1]


def test_a_transaction_waits_for_company_while_one_of_ours_is_on_its_way_and_no_longer_than_its_age() -> None:
    pool = BatchPool(SMALL)
    pool.submit(tx(0), 90)
    [first] = pool.cut(90)
    pool.submit(tx(1), 100)
    pool.submit(tx(2), 107)
    assert pool.cut_due_ms() == 108
    assert pool.cut(107) == []
    assert [len(one.wires) for one in pool.cut(108)] == [2]
    pool.submit(tx(3), 200)
    assert pool.cut_due_ms() == 208, "the next one's patience begins with itself"
    pool.ordered([first, *pool.held()], 201)
    assert [len(one.wires) for one in pool.cut(201)] == [1], "nothing of ours is on its way any more"


def test_a_batch_of_a_peer_on_its_way_holds_nothing_back() -> None:
    pool = BatchPool(SMALL)
    pool.add(batch(1), PEERS[0], 0)
    pool.submit(tx(2), 0)
    assert [len(one.wires) for one in pool.cut(0)] == [1]


def test_a_batch_never_exceeds_what_peers_accept() -> None:
    """Trap 37. Framing included, for transactions of the largest size."""
    pool = BatchPool(PoolConfig(backlog_min=1_000))
    largest = 65_000
    for number in range(20):
        pool.submit(tx(number, largest), 0)
    cut = pool.cut(1_000)
    assert sum(len(one.wires) for one in cut) == 20
    assert [len(one.wires) for one in cut] == [8, 8, 4]
    for one in cut:
        assert len(one.wire) <= BATCH_SIZE_BYTES_MAX
        assert Batch.decode(one.wire).digest == one.digest
        assert one.transactions == Batch(one.wires).transactions


def test_a_batch_is_cut_as_soon_as_it_is_full_in_bytes() -> None:
    pool = BatchPool(PoolConfig(batch_bytes_max=1_000))
    pool.submit(tx(0), 0)
    assert [len(one.wires) for one in pool.cut(0)] == [1]
    pool.submit(tx(1, 500), 0)
    assert pool.cut(0) == []
    pool.submit(tx(2, 500), 0)
    assert [len(one.wires) for one in pool.cut(0)] == [1]
    pool.submit(tx(3, 2_000), 0)
    assert [len(one.wires) for one in pool.cut(0)] == [1, 1], "one larger than the limit travels alone"


def test_what_was_cut_is_held_until_it_is_ordered() -> None:
    pool = BatchPool(SMALL)
    pool.submit(tx(1), 0)
    [cut] = pool.cut(8)
    assert pool.get(cut.digest) == cut
    assert pool.held() == [cut]
    assert pool.sizes() == {"transactions": 1, "batches": 1, "bytes": len(cut.wire), "wanted": 0}
    pool.ordered([cut], 9)
    assert pool.get(cut.digest) is None
    assert pool.is_ordered(cut.digest)
    assert pool.sizes() == {"transactions": 0, "batches": 0, "bytes": 0, "wanted": 0}


def test_what_waits_is_known_since_when_whoever_took_it() -> None:
    pool = BatchPool(PoolConfig())
    assert pool.waiting_since_ms is None
    pool.add(batch(1), "maker", 5)
    pool.submit(tx(2), 7)
    assert pool.waiting_since_ms == 5
    pool.ordered([batch(1)], 8)
    assert pool.waiting_since_ms == 7
    (own,) = pool.cut(9)
    pool.ordered([own], 10)
    assert pool.waiting_since_ms is None


def test_overload_is_answered_and_room_returns_with_execution() -> None:
    """Trap 38."""
    pool = BatchPool(SMALL)
    for number in range(10):
        assert pool.submit(tx(number), 0)
    assert pool_full(pool, tx(10))
    assert not pool.submit(tx(3), 0), "one that is here already is no overload"
    pool.ordered(pool.cut(0)[:1], 5)
    assert [pool_full(pool, tx(number), 6) for number in range(10, 16)] == [False] * 4 + [True] * 2


def test_what_others_took_counts_as_waiting_but_leaves_us_our_share() -> None:
    """Trap 38."""
    pool = BatchPool(SMALL)
    pool.add(batch(*range(100, 108)), PEERS[0], 0)
    assert [pool_full(pool, tx(number)) for number in range(6)] == [False] * 5 + [True], "half of ten, not two"
    pool.add(batch(*range(200, 208)), PEERS[1], 0)
    assert pool.room == 0
    pool.ordered(pool.held(), 1)
    assert pool.room == 10 - 5


def test_own_transactions_are_bounded_in_bytes_too() -> None:
    """Trap 33, 38. Two thousand of the largest would be 130 MB."""
    config = replace(SMALL, held_bytes_per_peer_max=300_000, backlog_min=1_000)
    pool = BatchPool(config)
    taken = 0
    while not pool_full(pool, tx(taken, 50_000)):
        taken += 1
        pool.cut(taken)
    assert taken == 5
    assert pool.sizes()["bytes"] <= 300_000
    pool.ordered(pool.held(), 100)
    pool.ordered(pool.cut(1_000), 100)
    assert not pool_full(pool, tx(9, 50_000))


def test_the_backlog_follows_how_fast_the_chain_executes() -> None:
    pool = BatchPool(replace(SMALL, backlog_ms_max=500))
    assert pool.backlog_max == 10
    many = batch(*range(100))
    for now_ms in range(0, 20_000, 50):  # two transactions a millisecond
        pool.ordered([many], now_ms)
    half_a_second = 10 * work(100, len(many.wire))
    assert 0.9 * half_a_second <= pool.backlog_max <= half_a_second
    for now_ms in range(20_000, 60_000, 50):
        pool.ordered([], now_ms)
    assert pool.backlog_max == 10


@pytest.mark.parametrize(
    ("wait_ms", "round_trip_ms", "age_ms"),
    [(10, 0, 8), (200, 0, 96), (200, 60, 37), (200, 200, 8), (9_000, 0, 220)],
    ids=["quick", "slow", "slow and far", "far", "stuck"],
)
def test_where_blocks_take_long_company_is_waited_for_half_as_long(
    wait_ms: int, round_trip_ms: int, age_ms: int
) -> None:
    """Each batch costs every node some work, whatever it holds. Distances are no reason to wait longer still."""
    pool, now_ms = BatchPool(PoolConfig(batch_age_ms_max=8, backlog_ms_max=220)), 0
    pool.round_trip_ms = round_trip_ms
    for _ in range(40):
        pool.submit(tx(now_ms), now_ms)
        assert len(pool.cut(now_ms)) == 1, "none of ours is on its way: at once"
        now_ms += wait_ms
        pool.ordered(pool.held(), now_ms)
    pool.submit(tx(now_ms), now_ms)
    pool.cut(now_ms)
    pool.submit(tx(now_ms + 1), now_ms)
    due_ms = pool.cut_due_ms()
    assert due_ms is not None
    assert due_ms - now_ms == pytest.approx(age_ms, abs=4)
    assert not pool.cut(due_ms - 1)
    assert len(pool.cut(due_ms)) == 1


def test_a_large_transaction_takes_the_room_of_several() -> None:
    """Bulk events: five hundred of them would be seconds of work."""
    pool, taken = BatchPool(replace(SMALL, backlog_min=100)), 0
    while not pool_full(pool, tx(taken, 3 * WORK_BYTES)):
        taken += 1
        pool.cut(taken)
    assert 24 <= taken <= 26
    pool.ordered(pool.held(), 100)
    assert pool.room >= 100
    pool.add(batch(200, size_bytes=3 * WORK_BYTES), PEERS[0], 101)
    assert pool.room == 100 - 4, "and whoever took it"


def test_a_chain_that_makes_transactions_wait_takes_less() -> None:
    """Where each block takes half a second, five hundred transactions are seconds of work."""
    pool, now_ms = BatchPool(PoolConfig(batch_age_ms_max=8, backlog_ms_max=220)), 0

    def executed(count: int, wait_ms: int, *, theirs_ms: int = 0) -> int:
        """So many blocks with a transaction of ours that came `wait_ms` ago, and one of a peer's."""
        nonlocal now_ms
        for _ in range(count):
            pool.add(batch(now_ms + 1), PEERS[0], now_ms)
            now_ms += theirs_ms
            pool.submit(tx(now_ms), now_ms)
            pool.cut(now_ms + 8)
            now_ms += wait_ms
            pool.ordered(pool.held(), now_ms)
        now_ms += 60_000  # nothing is executed for a while
        pool.ordered([], now_ms)
        return pool.backlog_max

    assert executed(0, 0) == 500, "an idle chain takes a whole batch"
    assert 400 <= executed(12, 275) <= 430
    assert 250 <= executed(12, 440) <= 260
    assert 250 <= executed(12, 9_000) <= 252, "never less: it may wait for a disk"
    assert executed(8, 50) == 500, "what was slow for once is soon forgotten"
    assert executed(12, 50, theirs_ms=9_000) == 500, "a peer may send us what it likes, when it likes"


def test_what_is_on_its_way_over_a_distance_takes_no_room_from_what_waits() -> None:
    pool = BatchPool(replace(SMALL, backlog_ms_max=250))
    many = batch(*range(100))
    for now_ms in range(0, 20_000, 50):  # two transactions a millisecond
        pool.ordered([many], now_ms)
    near = pool.backlog_max
    pool.round_trip_ms = 100
    assert near * 2.5 <= pool.backlog_max <= near * 2.7  # for 250 ms and four round trips


def test_a_peers_batch_is_accepted_once() -> None:
    """Trap 38, 39."""
    pool, one = BatchPool(SMALL), batch(1)
    assert pool.admit(one.digest, len(one.wire), PEERS[0], PEERS)
    pool.add(one, PEERS[0], 0)
    assert not pool.admit(one.digest, len(one.wire), PEERS[0], PEERS)
    assert not pool.admit(one.digest, len(one.wire), PEERS[1], PEERS)
    pool.add(one, PEERS[1], 1)
    assert pool.sizes()["bytes"] == len(one.wire)
    pool.ordered([one], 2)
    assert not pool.admit(one.digest, len(one.wire), PEERS[1], PEERS), "late copies neither"


def test_a_flood_costs_the_flooder_alone() -> None:
    """Trap 33."""
    size = len(batch(0, size_bytes=1_000).wire)
    config = replace(SMALL, batch_bytes_max=size - 64, held_bytes_per_peer_max=5 * size, held_bytes_max=12 * size)
    pool = BatchPool(config)
    number = 0

    def flood(peer: bytes) -> int:
        nonlocal number
        taken = 0
        for _ in range(20):
            number += 1
            one = batch(1_000 + number, size_bytes=1_000)
            if pool.admit(one.digest, len(one.wire), peer, PEERS):
                pool.add(one, peer, 0)
                taken += 1
        return taken

    assert [flood(peer) for peer in PEERS] == [5, 3, 1, 1], "share by share, and a part of half the whole for each"
    assert pool.sizes()["bytes"] == 10 * size
    assert pool.submit(tx(1), 0), "clients are not shut out by peers"
    first = pool.held()[0]
    pool.ordered([first], 1)
    assert flood(PEERS[0]) == 1


def test_what_is_to_be_checked_takes_its_peers_room_already() -> None:
    """Trap 33. Eight peers had 76 MiB waiting for the check, and no limit stopped them."""
    size = len(batch(0, size_bytes=1_000).wire)
    pool = BatchPool(replace(SMALL, held_bytes_per_peer_max=5 * size))
    some = [batch(1_000 + number, size_bytes=1_000) for number in range(8)]
    assert [pool.admit(one.digest, size, PEERS[0], PEERS) for one in some] == [True] * 5 + [False] * 3
    assert pool.sizes()["bytes"] == 5 * size
    assert not pool.admit(some[0].digest, size, PEERS[1], PEERS), "it is being checked"
    pool.reject(some[0].digest)
    assert not pool.is_checking(some[0].digest)
    assert pool.admit(some[5].digest, size, PEERS[0], PEERS)
    for one in (*some[1:5], some[5]):
        pool.add(one, PEERS[0], 0)
    assert pool.sizes()["bytes"] == 5 * size
    pool.ordered([*some[1:5], some[5]], 1)
    assert pool.sizes()["bytes"] == 0


def test_a_batch_that_a_peer_made_as_well_is_counted_once() -> None:
    """A client's transaction, sent to two nodes, may make the same batch at both. A peer's room leaked with each."""
    pool = BatchPool(replace(SMALL, batch_age_ms_max=25))
    pool.submit(tx(1), 0)
    assert len(pool.cut(0)) == 1, "another of ours is on its way, so that the next waits for company"
    for number in range(2, 20):
        now_ms = 100 * number
        pool.submit(tx(number), now_ms)
        assert pool.cut(now_ms) == []
        theirs = Batch((tx(number).wire,))
        assert pool.admit(theirs.digest, len(theirs.wire), PEERS[0], PEERS)
        pool.add(theirs, PEERS[0], now_ms + 5)
        (ours,) = pool.cut(now_ms + 30)
        assert ours.digest == theirs.digest
        pool.ordered([ours], now_ms + 50)
    assert pool.sizes()["batches"] == 1
    assert PEERS[0] not in pool._held_bytes
    assert pool._held_work == 1


def test_what_is_sought_and_was_never_asked_for_comes_first() -> None:
    """Thousands of digests that exist nowhere kept a block's batch from being asked for."""
    pool = BatchPool(SMALL)
    pool.want(b"nowhere %d" % number for number in range(200))
    pool.plan_fetches(PEERS, (), 0)
    pool.want([b"needed"])
    asked = pool.plan_fetches(PEERS[:1], (), 10_000)[PEERS[0]]
    assert b"needed" in asked


def test_what_proposals_need_has_no_room_without_bounds() -> None:
    """Trap 33. A leader's proposals may name gigabytes."""
    size = len(batch(0, size_bytes=1_000).wire)
    pool = BatchPool(replace(SMALL, held_bytes_per_peer_max=0, checking_bytes_urgent_max=4 * size))
    some = [batch(1_000 + number, size_bytes=1_000) for number in range(8)]
    pool.want(one.digest for one in some)
    taken = [pool.admit(one.digest, size, PEERS[0], PEERS) for one in some]
    assert taken == [True] * 5 + [False] * 3
    pool.add(some[0], PEERS[0], 0)
    assert pool.admit(some[5].digest, size, PEERS[0], PEERS), "when one is checked, the next has room"


def test_strangers_leave_members_room() -> None:
    """Trap 33. Peers without a vote filled all of it together."""
    size = len(batch(0, size_bytes=1_000).wire)
    pool = BatchPool(replace(SMALL, held_bytes_max=10 * size, held_bytes_strangers_max=4 * size))
    some = [batch(1_000 + number, size_bytes=1_000) for number in range(8)]
    taken = [pool.admit(one.digest, size, PEERS[number % 3], PEERS[3:]) for number, one in enumerate(some)]
    assert taken == [True] * 4 + [False] * 4
    assert pool.admit(some[4].digest, size, PEERS[3], PEERS[3:])


def test_members_that_fill_all_they_may_together_leave_the_others_their_part() -> None:
    """Trap 33. The shares of four of thirteen made the whole, and nobody else's batch was taken any more."""
    size = len(batch(0, size_bytes=1_000).wire)
    config = replace(SMALL, batch_bytes_max=size - 64, held_bytes_max=104 * size, held_bytes_per_peer_max=26 * size)
    pool = BatchPool(config)
    members = [b"member %d" % number for number in range(13)]
    numbers = itertools.count(1_000)

    def taken(member: bytes, tries: int) -> int:
        some = [batch(next(numbers), size_bytes=1_000) for _ in range(tries)]
        return sum(pool.admit(one.digest, size, member, members) for one in some)

    assert [taken(member, 30) for member in members[:4]] == [26, 26, 11, 3]
    assert [taken(member, 30) for member in members[4:]] == [3] * 9
    assert taken(b"follower", 30) == 3, "and those without a vote theirs"


def test_members_that_fill_all_they_may_leave_those_without_a_vote_a_part_and_one_of_these_the_others() -> None:
    """Trap 33. Two of seven kept all followers' batches out, a follower those of the others."""
    size = len(batch(0, size_bytes=1_000).wire)
    pool = BatchPool(
        replace(
            SMALL,
            batch_bytes_max=size - 64,
            held_bytes_max=64 * size,
            held_bytes_per_peer_max=24 * size,
            held_bytes_strangers_max=32 * size,
        )
    )
    members = [b"member %d" % number for number in range(7)]
    numbers = itertools.count(1_000)

    def taken(peer: bytes) -> int:
        some = [batch(next(numbers), size_bytes=1_000) for _ in range(30)]
        return sum(pool.admit(one.digest, size, peer, members) for one in some)

    assert [taken(member) for member in members[:2]] == [24, 16]
    assert [taken(b"follower"), taken(b"another")] == [4, 0], "a part as a member's, for all of them together"
    pool = BatchPool(pool.config)
    assert [taken(b"follower %d" % number) for number in range(5)] == [8, 8, 8, 8, 0]


def test_a_member_has_room_for_a_full_batch_however_many_they_are() -> None:
    size = len(batch(0, size_bytes=1_000).wire)
    pool = BatchPool(replace(SMALL, batch_bytes_max=size - 64, held_bytes_max=20 * size))
    members = [b"member %d" % number for number in range(40)]
    some = [batch(1_000 + number, size_bytes=1_000) for number in range(60)]
    assert sum(pool.admit(one.digest, size, members[0], members) for one in some[:20]) == 11
    assert all(
        pool.admit(one.digest, size, member, members) for one, member in zip(some[20:], members[1:], strict=False)
    )


def test_tiny_batches_leave_each_member_its_part_of_the_number_too() -> None:
    """Trap 33. The engine lists only so many: eight peers filled its list, and followers without end the pool."""
    pool = BatchPool(replace(SMALL, held_batches_max=40, held_batches_per_peer_max=10))
    numbers = itertools.count(1_000)

    def taken(peer: bytes) -> int:
        some = [batch(next(numbers)) for _ in range(20)]
        return sum(pool.admit(one.digest, len(one.wire), peer, PEERS) for one in some)

    assert [taken(b"follower %d" % number) for number in range(6)] == [2, 2, 2, 2, 2, 0], "together what one member may"
    assert [taken(peer) for peer in PEERS] == [10, 10, 6, 4]
    assert pool.sizes()["batches"] + len(pool._checking) == 40


def test_what_was_ordered_and_is_needed_again_is_taken() -> None:
    """A block may order an old batch again, and a node may have pruned it."""
    pool, one = BatchPool(SMALL), batch(1)
    pool.add(one, PEERS[0], 0)
    pool.ordered([one], 1)
    pool.want([one.digest])
    assert pool.admit(one.digest, len(one.wire), PEERS[0], PEERS)


def test_what_a_proposal_needs_is_accepted_whatever_the_room() -> None:
    """Trap 38. Else a flood could keep the chain from going on."""
    pool, one = BatchPool(replace(SMALL, held_bytes_per_peer_max=0)), batch(1)
    assert not pool.admit(one.digest, len(one.wire), PEERS[0], PEERS)
    pool.want([one.digest])
    assert pool.is_wanted(one.digest)
    assert pool.admit(one.digest, len(one.wire), PEERS[0], PEERS)
    pool.add(one, PEERS[0], 0)
    assert not pool.is_wanted(one.digest)


def test_no_trace_is_kept_of_peers_that_have_nothing_here() -> None:
    """Trap 33."""
    pool = BatchPool(SMALL)
    for number in range(50):
        one = batch(number)
        pool.add(one, b"peer %d" % number, 0)
        pool.ordered([one], 1)
    assert pool._held_bytes == {}


def test_a_missing_batch_is_asked_of_one_peer_after_another() -> None:
    """Trap 35. Three silent peers do not keep it from us."""
    pool, [digest] = BatchPool(SMALL), digests(1)
    pool.want([digest, digest])
    asked: list[Any] = []
    for now_ms in range(0, 4 * FETCH_TIMEOUT_MS, FETCH_TIMEOUT_MS // 5):
        for peer, wanted in pool.plan_fetches(PEERS, (), now_ms).items():
            assert wanted == [digest]
            asked.append(peer)
    assert sorted(asked) == PEERS, "each once, one at a time"
    assert len(pool.plan_fetches(PEERS, (), 4 * FETCH_TIMEOUT_MS)) == 1, "then again from the first"


def test_nothing_is_asked_without_peers_nor_for_what_is_held_or_unwanted() -> None:
    pool, one = BatchPool(SMALL), batch(1)
    pool.add(one, PEERS[0], 0)
    pool.want([one.digest])
    assert pool.plan_fetches(PEERS, (), 0) == {}
    [digest] = digests(1)
    pool.want([digest])
    assert pool.plan_fetches((), (), 0) == {}
    pool.unwant([digest])
    assert pool.plan_fetches(PEERS, (), 0) == {}


def test_batches_that_exist_nowhere_cannot_keep_others_from_being_fetched() -> None:
    """Trap 18, 33. A faulty leader proposes thousands of digests; the real one is wanted last."""
    pool, [*junk, real] = BatchPool(SMALL), digests(3_001)
    pool.want(junk)
    pool.want([real])
    asked = 0
    for now_ms in range(0, 2_000, 100):
        for wanted in pool.plan_fetches(PEERS, (), now_ms).values():
            assert len(wanted) <= FETCH_DIGESTS_MAX
            asked += real in wanted
    assert asked >= 1


def test_what_is_wanted_is_bounded() -> None:
    """Trap 33."""
    pool = BatchPool(SMALL)
    every = digests(WANTED_MAX + 5)
    pool.want(every)
    assert pool.sizes()["wanted"] == WANTED_MAX
    assert pool.is_wanted(every[-1])
    assert not pool.is_wanted(every[0])


def test_what_can_no_longer_be_executed_is_forgotten() -> None:
    pool = BatchPool(SMALL)
    pool.submit(tx(1, valid_until=5), 0)
    [own] = pool.cut(8)
    mixed = Batch((tx(2, valid_until=5).wire, tx(3, valid_until=6).wire))
    pool.add(mixed, PEERS[0], 0)
    assert pool.drop_expired(5) == [], "height 5 may still execute it"
    assert pool.drop_expired(6) == [own.digest]
    assert pool.waiting_txs == 0
    assert pool.drop_expired(7) == [mixed.digest]
    assert pool.sizes()["bytes"] == 0


def test_batches_not_ordered_for_long_are_spread_again() -> None:
    """Trap 18. Whoever leads may lack them."""
    pool, one = BatchPool(SMALL), batch(1)
    pool.add(one, PEERS[0], 0)
    assert pool.to_spread_again(99, 100) == []
    assert pool.to_spread_again(100, 100) == [one]
    assert pool.to_spread_again(150, 100) == []
    assert pool.to_spread_again(299, 100) == [], "each time it waits twice as long"
    assert pool.to_spread_again(300, 100) == [one]
    for number in range(2, 60):
        pool.add(batch(number), PEERS[0], 0)
    assert len(pool.to_spread_again(1_000, 100)) == 4, "not all at once"


def test_the_memory_of_ordered_batches_is_bounded() -> None:
    """Trap 33."""
    pool = BatchPool(SMALL)
    first, last = batch(0), batch(1)
    pool.ordered([first], 0)
    pool._ordered.update(dict.fromkeys(digests(ORDERED_KEPT)))
    pool.ordered([last], 1)
    assert len(pool._ordered) == ORDERED_KEPT
    assert pool.is_ordered(last.digest)
    assert not pool.is_ordered(first.digest)


def test_who_proposed_a_batch_is_asked_for_it_first_and_another_after_a_timeout() -> None:
    for holder in PEERS:
        pool = BatchPool(SMALL)
        pool.want([batch(1).digest], holder)
        assert pool.plan_fetches(PEERS, (), 0) == {holder: [batch(1).digest]}
        [(other, _)] = pool.plan_fetches(PEERS, (), 500).items()
        assert other != holder


class Pooling(RuleBasedStateMachine):
    """Any order of submissions, cuts, peers' batches, execution, expiry and fetching, against a plain model."""

    CONFIG = PoolConfig(
        batch_txs_max=3,
        batch_bytes_max=900,
        backlog_min=8,
        backlog_ms_max=0,
        held_bytes_max=4_000,
        held_bytes_per_peer_max=2_000,
    )

    def __init__(self) -> None:
        super().__init__()
        self.pool = BatchPool(self.CONFIG)
        self.now_ms = 0
        self.waiting: dict[bytes, None] = {}
        self.held: dict[bytes, tuple[Batch, Any]] = {}
        self.wanted: set[bytes] = set()

    @rule(number=st.integers(0, 12), size_bytes=st.sampled_from([0, 300]))
    def submit(self, number: int, size_bytes: int) -> None:
        one = tx(number, size_bytes, 5 + number)
        known = one.id in self.waiting
        others = {origin for _, origin in self.held.values()} - {None}
        theirs = sum(len(one.wires) for one, origin in self.held.values() if origin is not None)
        most = self.pool.backlog_max
        assert 8 // SLOWNESS_MAX <= most <= 8
        full = len(self.waiting) >= max(most - theirs, most // (1 + len(others)))
        own_bytes = self.pool._open_bytes + self.pool._held_bytes.get(None, 0)
        full = full or own_bytes + len(one.wire) + FRAMING_BYTES > 2_000
        assert pool_full(self.pool, one, self.now_ms) == (full and not known)
        if known or not full:
            assert not self.pool.submit(one, self.now_ms), "it is here now"
            self.waiting[one.id] = None

    @rule(wait_ms=st.integers(0, 10))
    def cut(self, wait_ms: int) -> None:
        self.now_ms += wait_ms
        for one in self.pool.cut(self.now_ms):
            assert 1 <= len(one.wires) <= 3
            assert len(one.wires) == 1 or len(one.wire) <= 900 + 64
            self.held[one.digest] = (one, None)
        due_ms = self.pool.cut_due_ms()
        assert due_ms is None or due_ms > self.now_ms

    @rule(number=st.integers(20, 40), peer=st.sampled_from(PEERS))
    def receive(self, number: int, peer: bytes) -> None:
        one = batch(number, size_bytes=300, valid_until=number)
        if self.pool.admit(one.digest, len(one.wire), peer, PEERS):
            self.pool.add(one, peer, self.now_ms)
            assert one.digest not in self.held
            self.held[one.digest] = (one, peer)
            self.wanted.discard(one.digest)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def execute(self, data: st.DataObject) -> None:
        one, _ = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
        self.now_ms += 1
        self.pool.ordered([one], self.now_ms)
        self.forget(one)
        assert self.pool.is_ordered(one.digest)

    @rule(height=st.integers(0, 30))
    def expire(self, height: int) -> None:
        for digest in self.pool.drop_expired(height):
            one, _ = self.held.pop(digest)
            assert all(each.valid_until < height for each in one.transactions)
            self.forget(one)

    def forget(self, one: Batch) -> None:
        for tx_id in one.tx_ids:
            self.waiting.pop(tx_id, None)

    @rule(number=st.integers(20, 40), wait_ms=st.sampled_from([0, FETCH_TIMEOUT_MS]))
    def fetch(self, number: int, wait_ms: int) -> None:
        one = batch(number, size_bytes=300, valid_until=number)
        self.now_ms += wait_ms
        self.pool.want([one.digest])
        if one.digest not in self.held:
            self.wanted.add(one.digest)
        asked = [digest for wanted in self.pool.plan_fetches(PEERS, (), self.now_ms).values() for digest in wanted]
        assert len(asked) == len(set(asked))
        assert set(asked) <= self.wanted
        if wait_ms:
            assert set(asked) == self.wanted

    @invariant()
    def agrees(self) -> None:
        """Trap 33."""
        self.wanted = {digest for digest in self.wanted if self.pool.is_wanted(digest)}
        assert {one.digest for one in self.pool.held()} == set(self.held)
        assert self.pool.waiting_txs == len(self.waiting) <= 8
        sizes = self.pool.sizes()
        assert sizes["wanted"] == len(self.wanted)
        used: dict[Any, int] = {}
        for one, origin in self.held.values():
            used[origin] = used.get(origin, 0) + len(one.wire)
        assert used == self.pool._held_bytes


TestPooling = Pooling.TestCase
TestPooling.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
