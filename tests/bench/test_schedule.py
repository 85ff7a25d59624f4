"""The schedule of an open loop."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bench.schedule import due_times, spacing_cycles, window


def test_a_fixed_schedule_is_evenly_spaced_and_complete() -> None:
    times = due_times(500, 2, poisson=False, seed=1)
    assert len(times) == 1_000
    assert times[0] == 0
    assert max(b - a for a, b in pairwise(times)) == pytest.approx(0.002)


def test_a_poisson_schedule_keeps_rate_and_window_and_has_exponential_gaps() -> None:
    times = due_times(1_000, 30, poisson=True, seed=3)
    gaps = [b - a for a, b in pairwise(times)]
    assert times == sorted(times)
    assert times[-1] < 30
    assert len(times) == pytest.approx(30_000, rel=0.03)
    # Of exponential gaps, 1/e are longer than their mean; of even ones, none.
    assert sum(gap > 0.001 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)


def test_the_same_seed_gives_every_client_the_same_schedule() -> None:
    assert due_times(100, 5, poisson=True, seed=9) == due_times(100, 5, poisson=True, seed=9)
    assert due_times(100, 5, poisson=True, seed=9) != due_times(100, 5, poisson=True, seed=8)


@pytest.mark.parametrize(("rate", "duration_s"), [(0, 1), (-1, 1), (1, 0)])
def test_a_schedule_without_rate_or_time_is_refused(rate: float, duration_s: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        due_times(rate, duration_s, poisson=False, seed=1)


def test_the_window_takes_its_start_and_not_its_end() -> None:
    assert window([0.0, 1.0, 1.5, 2.0, 3.0], 1.0, 2.0) == range(1, 3)


def test_spacing_is_rounded_up_and_never_nothing() -> None:
    assert spacing_cycles(2_000, 10, 1.5) == 300
    assert spacing_cycles(1_001, 10, 1.0) == 101
    assert spacing_cycles(1, 10, 0.1) == 1
