"""The table of traps is true: every trap has a test, and docs/traps.md is what the tests say."""

from __future__ import annotations

import pytest

from tests.traps import TITLES, Claim, claims_of, main, problems, traps_named


def test_the_written_table_is_fresh_and_no_trap_is_forgotten() -> None:
    assert main(["--check"]) == 0, "run `python -m tests.traps --write`"
    assert sorted(TITLES) == list(range(1, 49))


@pytest.mark.parametrize(
    ("docstring", "traps"),
    [
        ("Trap 6.", {6}),
        ("Trap 6, 24. More.", {6, 24}),
        ("Traps 3 and 23: both.", {3, 23}),
        ("Traps 1, 2, and 3.", {1, 2, 3}),
        ("Trap 20. Trap 22. Trap 24.", {20, 22, 24}),
        ("Scenario 2. Trap 16. 4 members.", {16}),
        ("Trapped in view 4.", set()),
        (None, set()),
    ],
)
def test_traps_are_read_from_docstrings(docstring: str | None, traps: set[int]) -> None:
    assert traps_named(docstring) == traps


SOURCE = """
def helper():
    '''Trap 1.'''

def test_it():
    '''Trap 2.'''

class Machine:
    def rule(self):
        '''Trap 3.'''
"""


def test_helpers_do_not_count_as_tests() -> None:
    assert [claim.place for claim in claims_of(SOURCE, "a.py")] == ["a.py::test_it", "a.py::TestMachine"]


def test_a_trap_without_test_is_a_problem() -> None:
    everything = Claim("a", frozenset(TITLES))
    assert problems([everything]) == []
    assert len(problems([Claim("a", everything.traps - {7})])) == 1
    assert len(problems([Claim("a", everything.traps | {49})])) == 1
