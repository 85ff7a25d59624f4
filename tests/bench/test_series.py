"""A run over time."""

from __future__ import annotations

import math

import pytest

from bench.figures import Sent
from bench.series import commits, finite, longest_gap_s, minutes, quantiles, series

STEADY = [Sent(number / 10, "ship", 0, number / 10 + 0.05, 0) for number in range(1_200)]  # two minutes


def test_the_longest_gap_counts_both_ends_of_the_window() -> None:
    assert longest_gap_s([1.0, 1.5, 4.0, 9.0], 1.0, 5.0) == 2.5
    assert longest_gap_s([4.0], 0.0, 5.0) == 4.0
    assert longest_gap_s([], 2.0, 5.0) == 3.0


def test_commits_are_counted_by_step_and_refusals_are_not() -> None:
    sent = [Sent(0, "ship", 0, 0.05, 0), Sent(0, "ship", 0, 0.15, 2104), Sent(0, "ship", 0, 0.29, 0)]
    assert commits(sent, 0.1, 0.4) == [1, 0, 1, 0]


def test_a_distribution_has_a_hundred_points_and_ends_with_what_never_came() -> None:
    found = quantiles([*STEADY[:99], Sent(1.0, "ship", None, None, 0)], 0.0, 100.0)
    assert len(found) == 100
    assert found[50] == pytest.approx(50)
    assert found[-1] == math.inf


def test_each_minute_has_its_own_latencies() -> None:
    late = [Sent(item.due_s, item.kind, 0, item.due_s + 0.5, 0) for item in STEADY[600:]]
    first, second = minutes([*STEADY[:600], *late], 120.0)
    assert (first.from_s, second.from_s) == (0.0, 60.0)
    assert first.committed_per_s == 10.0
    assert (first.p50_ms, second.p50_ms) == (pytest.approx(50), pytest.approx(500))


def test_gaps_before_and_after_a_fault_are_apart() -> None:
    seen_s = [number / 10 for number in range(100) if not 52 <= number < 75]
    found = series(STEADY[:100], seen_s, 1.0, 10.0, 5.0)
    assert found.gap_before_s == pytest.approx(0.1)
    assert found.gap_after_s == pytest.approx(2.4)


def test_infinite_values_are_null_wherever_they_are() -> None:
    value = {"a": math.inf, "b": [1.0, math.inf, {"c": math.inf}], "d": (2, "x")}
    assert finite(value) == {"a": None, "b": [1.0, None, {"c": None}], "d": [2, "x"]}
