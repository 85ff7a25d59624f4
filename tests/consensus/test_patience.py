"""Patience: grows with failed views, shrinks with quick blocks, and tells a slow leader from a slow network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.patience import MANY_BLOCKS, TOLERANCE, TOLERANCE_MANY_BLOCKS, Patience

BASE_MS, CAP_MS = 1_000, 30_000


def fresh() -> Patience:
    return Patience(BASE_MS, CAP_MS)


class Life:
    """Work that a leader answers after a given time, again and again, as an engine would tell of it."""

    def __init__(self, patience: Patience) -> None:
        self.patience, self.now_ms, self.progress_at_ms = patience, 0, 0

    def block_after(self, wait_ms: int, rest_ms: int = 0) -> None:
        """Work comes, a block answers it; then nothing to do for a while."""
        self._observe(True)
        self.pass_ms(wait_ms)
        self.progress_at_ms = self.now_ms
        self._observe(rest_ms == 0)
        if rest_ms:
            self.pass_ms(rest_ms)

    def pass_ms(self, duration_ms: int) -> None:
        self.now_ms += duration_ms
        self.patience.account(self.now_ms)

    def _observe(self, has_work: bool) -> None:
        self.patience.observe(self.now_ms, has_work, self.progress_at_ms, False)

    def blocks_until_slow(self, wait_ms: int, rest_ms: int = 0, limit: int = 1_000) -> int | None:
        for number in range(1, limit + 1):
            self.block_after(wait_ms, rest_ms)
            if self.patience.is_slow():
                return number
        return None


def test_the_limit_doubles_with_each_failed_view_up_to_the_cap_and_no_further() -> None:
    """Trap 11, 12."""
    patience = fresh()
    limits = []
    for _ in range(1_000):
        limits.append(patience.limit_ms)
        patience.failed()
    assert limits[:7] == [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
    assert set(limits[5:]) == {CAP_MS}
    for _ in range(5):
        patience.decided(10)
    assert patience.limit_ms == BASE_MS, "five quick blocks redeem what a thousand failures left"


def test_a_block_halves_the_limit_only_if_agreement_is_quick_for_it() -> None:
    """Trap 12. Where agreement takes a second, the limit stays between eight and sixteen seconds."""
    patience = fresh()
    for _ in range(10):
        patience.failed()
    for _ in range(100):
        patience.decided(1_000)
    assert patience.limit_ms == 8_000
    patience.decided(500)
    assert patience.limit_ms == 4_000


def test_a_leader_just_under_the_limit_is_slow_within_a_score_of_blocks() -> None:
    """Trap 18."""
    assert Life(fresh()).blocks_until_slow(990) in range(10, 21)


def test_rest_between_blocks_clears_nobody() -> None:
    """Trap 18. Under light load a slow leader is idle most of the time."""
    assert Life(fresh()).blocks_until_slow(990, rest_ms=60_000) in range(10, 21)


def test_blocks_within_a_quarter_of_the_limit_never_add_up() -> None:
    assert Life(fresh()).blocks_until_slow(BASE_MS // 4) is None


def test_a_slow_spell_is_paid_back_by_quick_work() -> None:
    """Trap 19."""
    life = Life(fresh())
    assert life.blocks_until_slow(990, limit=8) is None
    for _ in range(400):
        life.block_after(100)
    assert life.blocks_until_slow(990, limit=12) is None, "it counts from nothing again"


@pytest.mark.parametrize(("wait_ms", "blocks"), [(CAP_MS // 4, None), (CAP_MS // 2, 53), (CAP_MS - 1, 15)])
def test_who_is_slow_at_the_cap_goes_after_ten_times_the_cap(wait_ms: int, blocks: int | None) -> None:
    """Traps 12, 18. A network as slow as that changes views once in some minutes; a leader who holds every block back
    would else keep the chain at the cap for ever, as none of his blocks is quick enough to halve it."""
    patience = fresh()
    for _ in range(10):
        patience.failed()
    assert Life(patience).blocks_until_slow(wait_ms, limit=200) == blocks


def test_the_end_of_patience_with_a_slow_leader_is_known_beforehand() -> None:
    """The engine sets its timer by it: at that time, and not before, he is slow."""
    life = Life(fresh())
    while True:
        life.patience.observe(life.now_ms, True, life.progress_at_ms, False)
        ends_ms = life.patience.ends_ms(life.now_ms, life.progress_at_ms)
        if ends_ms < life.progress_at_ms + BASE_MS:
            break
        life.block_after(990)
    life.pass_ms(ends_ms - life.now_ms - 1)
    assert not life.patience.is_slow()
    life.pass_ms(1)
    assert life.patience.is_slow()


def test_a_new_view_begins_without_a_grudge() -> None:
    """Trap 19."""
    life = Life(fresh())
    assert life.blocks_until_slow(990) is not None
    life.patience.begin_view(life.now_ms, 100)
    assert not life.patience.is_slow()


def test_a_view_that_has_not_begun_is_nobodys_slowness() -> None:
    """Trap 13."""
    patience = fresh()
    patience.observe(0, True, 0, True)
    patience.account(10**9)
    assert not patience.is_slow()


def test_patience_does_not_run_without_work() -> None:
    """Trap 13."""
    patience = fresh()
    patience.observe(0, False, 0, False)
    patience.account(10**9)
    patience.observe(10**9, True, 0, False)
    assert not patience.is_slow()
    assert patience.ends_ms(10**9, 0) == 10**9 + BASE_MS


def test_many_blocks_shorten_what_a_batch_is_passed_over() -> None:
    """Trap 18."""
    patience = fresh()
    assert patience.passed_over_at_ms(500, 0, MANY_BLOCKS - 1) == 500 + TOLERANCE * BASE_MS
    assert patience.passed_over_at_ms(500, 0, MANY_BLOCKS) == 500 + TOLERANCE_MANY_BLOCKS * BASE_MS
    patience.begin_view(9_000, 100)
    assert patience.passed_over_at_ms(500, 0, MANY_BLOCKS) == 9_000 + TOLERANCE * BASE_MS


@given(st.lists(st.tuples(st.integers(0, 5_000), st.booleans(), st.booleans()), max_size=50))
def test_how_often_it_is_asked_makes_no_difference(steps: list[tuple[int, bool, bool]]) -> None:
    """The account of a time does not depend on how many steps it was cut into."""
    whole, cut = fresh(), fresh()
    now_ms = 0
    for passed_ms, has_work, progress in steps:
        for patience in (whole, cut):
            patience.observe(now_ms, has_work, now_ms if progress else 0, False)
        whole.account(now_ms + passed_ms)
        for part in range(1, 6):
            cut.account(now_ms + passed_ms * part // 5)
        now_ms += passed_ms
        assert whole == cut
