"""The search for the highest rate."""

from __future__ import annotations

from bench.search import PRECISION, STEPS_MAX, find_max


def searched(start: float, limit: float) -> tuple[float | None, list[float]]:
    """What is found where rates up to `limit` pass, and the rates that were tried."""
    tried: list[float] = []

    def run(rate: float) -> float:
        tried.append(rate)
        return rate

    return find_max(start, run, lambda found, rate: found == rate <= limit), tried


def test_the_highest_rate_is_found_from_below_and_from_above() -> None:
    for start in (1_000.0, 4_000.0):
        best, tried = searched(start, 2_000.0)
        assert best is not None
        assert 2_000.0 / (1 + PRECISION) <= best <= 2_000.0
        assert len(tried) <= STEPS_MAX


def test_without_a_rate_that_passes_there_is_no_result() -> None:
    best, tried = searched(1_000.0, 0.0)
    assert best is None
    assert len(tried) == STEPS_MAX


def test_the_best_run_that_passed_is_kept_though_later_ones_fail() -> None:
    best, tried = searched(1_000.0, 1_000.0)
    assert best == 1_000.0
    assert max(tried) > 1_000.0
