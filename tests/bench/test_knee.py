"""The search for the highest load that is carried."""

from __future__ import annotations

import pytest

from bench.knee import PRECISION, Search


@pytest.mark.parametrize("limit", [0.05, 0.3, 0.31, 0.77, 2.0])
def test_the_highest_load_that_passes_is_found(limit: float) -> None:
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
