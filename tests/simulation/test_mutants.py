"""Planted faults are there, are found, and are gone afterwards. `make mutate` finds them all (docs/simulation.md)."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.cluster import key_of
from tests.simulation.mutants import MUTANTS, Mutant, named
from tests.simulation.mutate import failure
from tests.simulation.plan import FAMILIES, FIRST_LEADER, LEADERS, SIZES, draw_plan
from tests.simulation.runs import strategies


def test_there_are_enough_in_every_room() -> None:
    rooms = {mutant.room for mutant in MUTANTS}
    assert {"votes", "views", "restart", "write-ahead log", "fetching", "catching up", "membership"} <= rooms
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30


def test_every_strategy_and_every_course_is_drawn_again_and_again() -> None:
    """Else a fault that needs it would be hunted for ever."""
    plans = [draw_plan(seed, strategies()) for seed in range(2_000)]
    drawn = Counter(plan.family for plan in plans)
    drawn.update(strategy for plan in plans for strategy in plan.options.byzantine.values())
    assert min(drawn[kind] for kind in (*strategies(), *FAMILIES)) >= 8


def test_those_who_misuse_the_lead_often_have_it_first() -> None:
    assert set(LEADERS) <= set(strategies())
    assert all(key_of(FIRST_LEADER).public == min(key_of(index).public for index in range(n)) for n in set(SIZES))
    leads = sum(draw_plan(seed, strategies()).options.byzantine.get(FIRST_LEADER) in LEADERS for seed in range(1_000))
    assert leads > 100


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_is_there_while_it_is_planted(mutant: Mutant) -> None:
    functions = [change.function() for change in mutant.changes]
    before = [function.__code__ for function in functions]
    with mutant.planted():
        for function, code in zip(functions, before, strict=True):
            assert (function.__code__.co_code, function.__code__.co_consts) != (code.co_code, code.co_consts)
    assert [function.__code__ for function in functions] == before


@pytest.mark.parametrize(
    "name",
    [
        "a quorum is one too small",
        "gaps between locks are closed up",
        "votes are sent before they are durable",
        "our votes are not taken back",
        "durable before the sync",
    ],
)
def test_a_fault_is_found_within_a_few_seeds(name: str) -> None:
    with named(name).planted():
        assert any(failure(seed) is not None for seed in range(10))
    assert failure(0) is None
