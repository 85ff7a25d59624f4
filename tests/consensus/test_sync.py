"""Catching up: whom to ask for which heights, what liars cost, and that everything stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consensus.sync import (
    BLAME_MS,
    BLOCKS_PER_REQUEST,
    BUFFER_HEIGHTS_MAX,
    BUFFER_SIZE_BYTES_MAX,
    HEDGE_MS,
    PATIENCE_MS,
    PEERS_REMEMBERED_MAX,
    REQUEST_TIMEOUT_MS,
    REQUESTS_MAX,
    BlockRequest,
    BlockSync,
)


def follower(**heights: int) -> BlockSync[str]:
    sync: BlockSync[str] = BlockSync(eager=True)
    for peer, height in heights.items():
        sync.on_status(peer, height)
    return sync


def serve(sync: BlockSync[str], request: BlockRequest, reverse: bool = False) -> None:
    heights = range(request.first, request.last + 1)
    for height in reversed(heights) if reverse else heights:
        assert sync.on_block(request.peer, height, f"{request.peer} {height}", 1)
    sync.on_response_end(request.peer, 0)


def take_all(sync: BlockSync[str], height: int) -> int:
    """Take what follows `height`, in order; returns the last one taken."""
    while sync.take(height + 1) is not None:
        height += 1
    return height


def test_several_peers_are_asked_for_different_ranges() -> None:
    """Trap 30."""
    sync = follower(a=100, b=100, c=100)
    assert sync.plan(0, 0) == [BlockRequest("a", 1, 16), BlockRequest("b", 17, 32), BlockRequest("c", 33, 48)]
    assert sync.plan(0, 1) == [], "each answers first"
    assert sync.target == 100


def test_blocks_that_arrive_out_of_order_are_buffered_and_taken_in_order() -> None:
    """Trap 26."""
    sync = follower(a=40, b=40, c=40)
    for request in reversed(sync.plan(0, 0)):
        assert sync.take(1) is None
        serve(sync, request, reverse=True)
    assert [sync.take(height) for height in (1, 2, 17, 40)] == [
        ("a", "a 1"),
        ("a", "a 2"),
        ("b", "b 17"),
        ("c", "c 40"),
    ]
    assert sync.take(1) is None, "each once"


def test_catching_up_reaches_the_target_and_then_asks_for_nothing() -> None:
    """Trap 26, 30."""
    sync, height, now_ms = follower(a=1_000, b=700, c=1_000), 0, 0
    while height < 1_000:
        requests = sync.plan(height, now_ms)
        assert requests, "always someone to ask"
        for request in requests:
            serve(sync, request)
        height, now_ms = take_all(sync, height), now_ms + 10
    assert now_ms < 1_000
    assert sync.plan(height, now_ms) == []


def test_the_last_block_is_fetched_though_none_follows_it() -> None:
    """Trap 29. A member waits a little for votes to bring it, then asks."""
    member: BlockSync[str] = BlockSync(eager=False)
    member.on_status("a", 8)
    assert member.plan(7, 1_000) == []
    assert member.plan(7, 1_000 + PATIENCE_MS - 1) == []
    assert member.plan(7, 1_000 + PATIENCE_MS) == [BlockRequest("a", 8, 8)]
    assert follower(a=8).plan(7, 0) == [BlockRequest("a", 8, 8)], "followers get no votes and ask at once"


def test_a_member_far_behind_does_not_wait() -> None:
    """Trap 30."""
    member: BlockSync[str] = BlockSync(eager=False)
    member.on_status("a", 7 + BLOCKS_PER_REQUEST + 1)
    assert member.plan(7, 1_000) == [BlockRequest("a", 8, 23)]


def test_a_member_that_moves_on_by_votes_asks_for_nothing() -> None:
    member: BlockSync[str] = BlockSync(eager=False)
    for height in range(1, 50):
        member.on_status("a", height + 3)
        assert member.plan(height, height * (PATIENCE_MS - 1)) == []


def test_a_blamed_peers_blocks_are_dropped_and_asked_of_others() -> None:
    """Trap 27, 28."""
    sync = follower(liar=32, honest=32)
    for request in sync.plan(0, 0):
        serve(sync, request)
    assert sync.take(1) == ("liar", "liar 1")
    sync.blame("liar", 10)
    assert sync.take(2) is None
    assert sync.take(17) == ("honest", "honest 17")
    sync.on_status("liar", 32)
    assert sync.plan(0, 20) == [BlockRequest("honest", 1, 16)]


def test_a_blamed_peer_may_redeem_itself() -> None:
    """Trap 19."""
    sync = follower(liar=5)
    sync.blame("liar", 0)
    sync.on_status("liar", 5)
    assert sync.plan(0, BLAME_MS - 1) == []
    assert sync.plan(0, BLAME_MS) == [BlockRequest("liar", 1, 5)]


def test_a_peer_that_claims_too_much_and_then_less_stops_nobody() -> None:
    """Trap 28."""
    sync = follower(liar=2**63 - 1, honest=20)
    requests = sync.plan(0, 0)
    assert requests == [BlockRequest("liar", 1, 16), BlockRequest("honest", 17, 20)]
    serve(sync, requests[1])
    sync.on_status("liar", 3)
    assert sync.target == 20
    assert sync.plan(0, REQUEST_TIMEOUT_MS) == [BlockRequest("honest", 1, 16)]


def test_an_empty_answer_is_not_followed_by_the_same_question() -> None:
    """Trap 28. Else a peer that claims a height nobody has keeps us asking as fast as it answers."""
    sync = follower(liar=1_000)
    asked = 0
    for now_ms in range(100):
        for request in sync.plan(0, now_ms):
            asked += 1
            sync.on_response_end(request.peer, now_ms)
    assert asked == 1
    sync.on_status("liar", 1_000)
    assert len(sync.plan(0, 100)) == 1, "with its next status it is asked again"


def test_a_partial_answer_is_continued() -> None:
    """A response carries as many blocks as fit its frame."""
    sync = follower(a=16)
    assert sync.plan(0, 0) == [BlockRequest("a", 1, 16)]
    for height in (1, 2, 3):
        sync.on_block("a", height, "", 1)
    sync.on_response_end("a", 1)
    assert sync.plan(take_all(sync, 0), 1) == [BlockRequest("a", 4, 16)]


def test_an_unanswered_request_goes_to_another_peer() -> None:
    """Trap 28, 35. What comes late all the same has used the link, and is taken."""
    sync = follower(silent=16, b=16)
    assert sync.plan(0, 0) == [BlockRequest("silent", 1, 16)]
    assert sync.plan(0, REQUEST_TIMEOUT_MS - 1) == [], "nobody knows yet what is slow"
    assert sync.plan(0, REQUEST_TIMEOUT_MS) == [BlockRequest("b", 1, 16)]
    assert sync.on_block("silent", 1, "", 1)


def test_the_next_blocks_are_asked_of_ever_more_peers_while_they_do_not_come() -> None:
    """Trap 30."""
    sync = follower(quick=16)
    serve(sync, sync.plan(0, 0)[0])
    assert take_all(sync, 0) == 16
    for number in range(20):
        sync.on_status(f"silent {number}", 32)
    asked_at_ms = [now_ms for now_ms in range(0, REQUEST_TIMEOUT_MS, 10) for _ in sync.plan(16, now_ms)]
    assert asked_at_ms == [0], "one of those that nobody knows at a time"
    for number in range(20):
        sync._peers[f"silent {number}"].took_ms = 1_000
    sync.plan(16, REQUEST_TIMEOUT_MS)
    sync = follower(**{f"known {number}": 32 for number in range(20)})
    for peer in sync._peers.values():
        peer.took_ms, peer.rate = 1, 1
    asked_at_ms = [now_ms for now_ms in range(0, REQUEST_TIMEOUT_MS, 10) for _ in sync.plan(16, now_ms)]
    assert asked_at_ms == [0, HEDGE_MS, 3 * HEDGE_MS, 7 * HEDGE_MS]


def catch_up(sync: BlockSync[str], answer: Callable[[BlockRequest], tuple[int, int]], duration_ms: int) -> int:
    """How many blocks came, from peers that `answer` a request with so many blocks after so many milliseconds."""
    height, due = 0, dict[BlockRequest, tuple[int, int]]()
    for now_ms in range(0, duration_ms, 10):
        for peer in {request.peer for request in due} | set(sync._peers):
            sync.on_status(peer, 10**6)
        for request, (count, at_ms) in list(due.items()):
            if at_ms <= now_ms:
                del due[request]
                for at in range(request.first, min(request.first + count, request.last + 1)):
                    sync.on_block(request.peer, at, "", 1)
                sync.on_response_end(request.peer, now_ms)
        height = take_all(sync, height)
        for request in sync.plan(height, now_ms):
            count, after_ms = answer(request)
            due[request] = count, now_ms + after_ms
    return height


@pytest.mark.parametrize("slow_peers", [1, 8, 50])
@pytest.mark.parametrize("slow_ms", [299, 2_900, 10**9])
def test_peers_that_answer_late_with_little_do_not_set_the_pace(slow_peers: int, slow_ms: int) -> None:
    """Trap 30. None of them is ever blamed: one block comes of each request, just in time, or nothing at all."""
    names = {f"slow {number}" for number in range(slow_peers)}
    sync = follower(**dict.fromkeys([*sorted(names), "a", "b", "c"], 10**6))
    blocks = catch_up(sync, lambda request: (1, slow_ms) if request.peer in names else (16, 20), 60_000)
    assert blocks > 60 * 100, "ten full blocks of ten milliseconds each"


@pytest.mark.parametrize(
    ("block_size_bytes", "mbit_per_s", "peers"),
    [(128 * 1024, 20, 6), (256 * 1024, 50, 6), (256 * 1024, 50, 12), (256 * 1024, 20, 3), (256 * 1024, 8, 1)],
)
def test_a_link_that_takes_seconds_for_an_answer_is_used_well(
    block_size_bytes: int, mbit_per_s: int, peers: int
) -> None:
    """Trap 30. Answers share one link, sixteen blocks or 4 MiB each. Cut off after three seconds and asked for again,
    several at once, none of them ever arrived."""
    sync = follower(**{f"peer {number}": 200 for number in range(peers)})
    height, step_ms = 0, 20
    flows: list[tuple[BlockRequest, int]] = []
    ideal_ms = 200 * block_size_bytes * 8 // (mbit_per_s * 1_000)
    for now_ms in range(0, 3 * ideal_ms, step_ms):
        for number in range(peers if now_ms % 500 == 0 else 0):
            sync.on_status(f"peer {number}", 200)
        for request in sync.plan(height, now_ms):
            count = min(request.last - request.first + 1, 4 * 1024 * 1024 // block_size_bytes)
            last = BlockRequest(request.peer, request.first, request.first + count - 1)
            flows.append((last, count * block_size_bytes))
        share = mbit_per_s * 125 * step_ms // max(1, len(flows))
        left = [(request, size_bytes - share) for request, size_bytes in flows]
        flows = [flow for flow in left if flow[1] > 0]
        for request in [request for request, size_bytes in left if size_bytes <= 0]:
            if sync.expects(request.peer):
                for at in range(request.first, request.last + 1):
                    sync.on_block(request.peer, at, "", block_size_bytes)
                sync.on_response_end(request.peer, now_ms)
        height = take_all(sync, height)
    assert height == 200


def test_who_comes_anew_is_known() -> None:
    """Trap 28. A silent peer was the first to be asked again each time it came back."""
    sync = follower(silent=16, honest=16)
    assert [request.peer for request in sync.plan(0, 0)] == ["silent"]
    sync.plan(0, REQUEST_TIMEOUT_MS)
    sync.on_peer_down("silent")
    sync.on_peer_down("honest")
    for peer in ("silent", "honest"):
        sync.on_status(peer, 16)
    assert [request.peer for request in sync.plan(0, REQUEST_TIMEOUT_MS + 1)] == ["honest"]
    for number in range(2 * PEERS_REMEMBERED_MAX):
        sync.on_status(number, 1)
        sync.on_peer_down(number)
    assert len(sync._peers) <= PEERS_REMEMBERED_MAX + 2


def test_a_peer_that_leaves_is_asked_for_nothing_and_its_range_of_others() -> None:
    sync = follower(a=16, b=16)
    assert sync.plan(0, 0) == [BlockRequest("a", 1, 16)]
    sync.on_peer_down("a")
    assert sync.plan(0, 1) == [BlockRequest("b", 1, 16)]
    sync.on_peer_down("b")
    assert sync.target == 0
    assert sync.plan(0, 2) == []


def test_what_was_not_asked_for_is_not_taken() -> None:
    """Trap 27, 33."""
    sync = follower(a=100, b=10)
    assert not sync.on_block("a", 1, "", 1)
    assert sync.plan(5, 0) == [BlockRequest("a", 6, 21)]
    assert not sync.on_block("stranger", 6, "", 1)
    assert not sync.on_block("b", 6, "", 1)
    for height in (0, 5, 22, 2**63 - 1):
        assert not sync.on_block("a", height, "", 1)
    assert sync.on_block("a", 6, "first", 1)
    sync.on_block("a", 6, "second", 1)
    assert sync.take(6) == ("a", "first")


def test_the_buffer_is_bounded_in_bytes_and_the_next_block_always_has_room() -> None:
    """Trap 33."""
    sync = follower(a=100)
    sync.plan(0, 0)
    half = BUFFER_SIZE_BYTES_MAX // 2
    assert [sync.on_block("a", height, "", half) for height in (3, 4, 5, 1, 2)] == [True, True, False, True, False]
    assert sync.buffer_size_bytes == 3 * half
    sync.on_response_end("a", 1)
    assert sync.plan(0, 1) == [], "what is held comes first"
    sync.take(1)
    assert sync.plan(1, 2) == [BlockRequest("a", 2, 2)], "no more is asked for than has room"


def test_blocks_decided_meanwhile_leave_the_buffer() -> None:
    sync = follower(a=16)
    serve(sync, sync.plan(0, 0)[0])
    sync.plan(10, 1)
    assert sync.take(10) is None
    assert sync.take(11) == ("a", "a 11")


class Catching(RuleBasedStateMachine):
    """Any order of statuses, answers, lies, silence and progress: bounded, no request twice, never stuck."""

    PEERS = ("a", "b", "c", "d", "e", "f")

    def __init__(self) -> None:
        super().__init__()
        self.sync: BlockSync[Any] = BlockSync(eager=True)
        self.height = self.now_ms = 0
        self.open: dict[Hashable, BlockRequest] = {}
        self.late: dict[Hashable, BlockRequest] = {}  # given up, and taken all the same should they be answered

    @rule(peer=st.sampled_from(PEERS), height=st.integers(0, 400) | st.just(2**63 - 1))
    def status(self, peer: str, height: int) -> None:
        self.sync.on_status(peer, height)

    @rule(wait_ms=st.sampled_from([0, 1, 500, REQUEST_TIMEOUT_MS, BLAME_MS]))
    def plan(self, wait_ms: int) -> None:
        self.now_ms += wait_ms
        requests = self.sync.plan(self.height, self.now_ms)
        if wait_ms >= REQUEST_TIMEOUT_MS:
            self.late |= self.open
            self.open.clear()
        for request in requests:
            assert self.height < request.first <= request.last <= self.height + BUFFER_HEIGHTS_MAX
            assert request.last - request.first < BLOCKS_PER_REQUEST
            assert request.peer not in self.open, "one request a peer at a time"
            self.ask(request)
        assert len(self.open) <= REQUESTS_MAX

    def ask(self, request: BlockRequest) -> None:
        self.open[request.peer] = request
        self.late.pop(request.peer, None)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), part=st.integers(0, BLOCKS_PER_REQUEST))
    def answer(self, data: st.DataObject, part: int) -> None:
        request = self.open.pop(data.draw(st.sampled_from(sorted(self.open))))  # type: ignore[type-var]
        for height in range(request.first, request.last + 1)[:part]:
            self.sync.on_block(request.peer, height, height, 1)
        self.sync.on_response_end(request.peer, self.now_ms)

    @rule(peer=st.sampled_from(PEERS), height=st.integers(0, 500))
    def push(self, peer: str, height: int) -> None:
        request = self.open.get(peer) or self.late.get(peer)
        asked = request is not None and request.first <= height <= request.last
        assert self.sync.on_block(peer, height, height, 1) <= asked

    @rule(good=st.booleans())
    def take(self, good: bool) -> None:
        found = self.sync.take(self.height + 1)
        if found is None:
            return
        peer, block = found
        assert block == self.height + 1
        if good:
            self.height += 1
        else:
            self.sync.blame(peer, self.now_ms)
            self.forget(peer)

    @rule(peer=st.sampled_from(PEERS))
    def down(self, peer: str) -> None:
        self.sync.on_peer_down(peer)
        self.forget(peer)

    def forget(self, peer: Hashable) -> None:
        self.open.pop(peer, None)
        self.late.pop(peer, None)

    @rule(ahead=st.integers(1, 30))
    def votes_move_us(self, ahead: int) -> None:
        self.height += ahead
        for request in self.sync.plan(self.height, self.now_ms):
            self.ask(request)

    @invariant()
    def bounded(self) -> None:
        """Trap 26, 33."""
        assert len(self.sync._buffer) <= BUFFER_HEIGHTS_MAX + BLOCKS_PER_REQUEST
        assert len(self.sync._peers) <= len(self.PEERS)

    def teardown(self) -> None:
        """Trap 28. Whatever happened, honest peers bring the node to their height."""
        self.now_ms += BLAME_MS + REQUEST_TIMEOUT_MS
        target = self.height + 40
        for _ in range(60):
            for peer in self.PEERS:
                self.sync.on_status(peer, target)
            self.now_ms += REQUEST_TIMEOUT_MS
            for request in self.sync.plan(self.height, self.now_ms):
                for height in range(request.first, request.last + 1):
                    self.sync.on_block(request.peer, height, height, 1)
                self.sync.on_response_end(request.peer, self.now_ms)
            while self.sync.take(self.height + 1) is not None:
                self.height += 1
        assert self.height >= target


TestCatching = Catching.TestCase
TestCatching.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_height_counts_when_so_many_members_claim_it_or_all_that_are_known() -> None:
    sync = follower(a=10, b=20, c=30, stranger=1_000)
    assert [sync.height_claimed_by(count, ["a", "b", "c", "d"]) for count in (1, 2, 3)] == [30, 20, 10]
    # A follower with one validator among its peers would else never know that it lags.
    assert sync.height_claimed_by(2, ["c", "d"]) == 30
    assert sync.height_claimed_by(2, ["d"]) == 0
