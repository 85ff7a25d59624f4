"""The replay window against a plain list of everything it was told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ledger.replay import ReplayWindow

KEYS = [bytes([number]) * 49 for number in range(6)]
STEPS = st.lists(
    st.tuples(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 12)), max_size=4), st.integers(0, 3)), max_size=8
)


def test_a_key_is_known_until_its_last_height_has_passed() -> None:
    window = ReplayWindow()
    window.add([(KEYS[0], 5), (KEYS[1], 6)])
    for height in range(5):
        window.expire(height)
        assert KEYS[0] in window
    window.expire(5)
    assert KEYS[0] not in window, "at height 6 it is refused as expired"
    assert KEYS[1] in window
    assert len(window) == 1
    window.expire(100)
    assert len(window) == 0


def test_nothing_is_known_at_first_and_expiring_nothing_is_harmless() -> None:
    window = ReplayWindow()
    window.expire(9)
    assert KEYS[0] not in window
    assert len(window) == 0


@given(STEPS)
def test_exactly_what_could_still_be_executed_is_remembered(steps: list[tuple[list[tuple[bytes, int]], int]]) -> None:
    """As the executor feeds it: each height adds keys valid beyond it, each once, then expires."""
    window, height = ReplayWindow(), 0
    valid_until: dict[bytes, int] = {}
    for entries, heights in steps:
        height += heights
        window.expire(height)
        fresh = [(key, height + 1 + ahead) for key, ahead in dict(entries).items() if key not in window]
        window.add(fresh)
        valid_until.update(fresh)
        for key in KEYS:
            assert (key in window) == (valid_until.get(key, -1) > height)
        assert len(window) == sum(until > height for until in valid_until.values())


def test_of_a_nonce_that_came_with_several_last_heights_the_greatest_counts() -> None:
    """One that was refused as a replay is remembered too. Who starts again later reads only that one's block, and must
    know what all others know, or nodes execute the same transaction differently."""
    running, started_again = ReplayWindow(), ReplayWindow()
    running.add([(KEYS[0], 5)])
    running.add([(KEYS[0], 9), (KEYS[0], 7)])
    started_again.add([(KEYS[0], 9)])
    for height in range(3, 12):
        for window in (running, started_again):
            window.expire(height)
            assert (KEYS[0] in window) == (height < 9)
    assert len(running) == 0
