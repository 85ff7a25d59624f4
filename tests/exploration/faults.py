"""Faults of agreement: an exploration that finds none of them is blind.

They are those of the simulator's table (tests/simulation/mutants.py) that two values, a few views and a restart show,
each with the smallest scope where it shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.exploration.beginnings import (
    FORGOTTEN,
    LEFT_WITH_A_LOCK,
    LEFT_WITH_A_VOTE,
    LOCK_IN_VIEW_0,
    LOCK_IN_VIEW_1,
    LOCKED,
    LOCKED_AND_LEAVING,
    NOTHING_KNOWN,
    VOTED,
)
from tests.exploration.place import VALIDATORS, Scope
from tests.simulation.mutants import named


@dataclass(frozen=True, slots=True)
class Fault:
    """A planted fault, where it shows, and how that is entered."""

    name: str  # in tests/simulation/mutants.py
    scope: Scope
    beginning: str = ""  # without it the scope is too large
    hint: str = ""  # further steps on the way, to be found by the search itself or given to save its time

    @contextmanager
    def plant(self) -> Iterator[None]:
        """The engine is wrong inside."""
        with named(self.name).planted():
            vars(VALIDATORS).pop("quorum", None)  # worked out once, perhaps otherwise
            try:
                yield
            finally:
                vars(VALIDATORS).pop("quorum", None)


FAULTS = (
    Fault("a quorum is one too small", Scope(0, 1, 1)),
    Fault("our votes are not taken back", Scope(0, 1, 1, restarts=1), hint=VOTED),
    Fault("votes are sent before they are durable", Scope(0, 1, 1, restarts=1, slow_disks=True), hint=VOTED),
    Fault("a lock is dropped when a view is left", Scope(2, 1, 2), hint=LOCKED),
    Fault("our locks are not taken back", Scope(1, 1, 2, restarts=1), LOCKED_AND_LEAVING, FORGOTTEN),
    Fault("the view is not taken back", Scope(1, 1, 2, restarts=1), NOTHING_KNOWN),
    Fault("signers need not be distinct", Scope(0, 1, 1)),
    Fault("the proof of a lock is not checked", Scope(2, 1, 2), hint=LOCKED),
    Fault("claims in a new view are not checked", Scope(1, 1, 2), hint=LEFT_WITH_A_LOCK),
    Fault("a new view does not bind its leader", Scope(1, 1, 2), hint=LEFT_WITH_A_LOCK),
    Fault("signatures do not cover the phase", Scope(1, 1, 2), hint=LEFT_WITH_A_VOTE),
    Fault("signatures do not cover the height", Scope(0, 2, 1)),
    Fault("signatures do not cover the view", Scope(3, 1, 4), LOCK_IN_VIEW_1),
    Fault("the lock of the lowest view is chosen", Scope(3, 1, 3), LOCK_IN_VIEW_0),
)
