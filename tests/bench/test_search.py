"""The search for the highest load that passes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import command
from bench.command import Found
from bench.outcome import LAG_P99_MS_MAX
from bench.search import PRECISION, STEPS_MAX, Search, find_max
from tests.bench.test_report import GOOD


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


@pytest.mark.parametrize("limit", [0.05, 0.3, 0.31, 0.77, 2.0])
def test_shares_are_searched_as_rates_are(limit: float) -> None:
    search = Search(0.3, 20)
    while not search.done:
        search.note(search.load <= limit)
    assert search.low <= limit < search.low * (1 + PRECISION) * 1.001


def test_the_search_ends_with_its_steps_whatever_passes() -> None:
    for passed in (True, False):
        search = Search(0.3, 4)
        while not search.done:
            search.note(passed)
        assert search.steps == 4
        assert bool(search.low) == passed


def test_a_void_run_is_made_once_more() -> None:
    tried: list[float] = []

    def run(rate: float, seconds: float) -> Found:
        tried.append(rate)
        lag_ms = 2 * LAG_P99_MS_MAX if len(tried) in (1, 3, 4) else 0.0
        return Found(replace(GOOD, generator_lag_p99_ms=lag_ms), len(tried) < 5, "", {})

    command.find_max(1_000.0, run, lambda line: None)
    assert tried[:5] == [1_000.0, 1_000.0, 1_400.0, 1_400.0, pytest.approx(1_960.0)]
