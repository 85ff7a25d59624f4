"""Faults of agreement, planted in the engine: an exploration that finds none of them is blind.

Each is a context in which the code of `consensus` or `ledger` is wrong in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import consensus.newview
import ledger.block
from consensus.events import Broadcast, Send
from consensus.messages import Claim, Prepared, PrePrepare, Record, Signed, Vote
from consensus.ordering import Ordering
from consensus.restart import Restart
from consensus.slots import Slot
from consensus.state import State
from consensus.verify import Verifier
from consensus.views import Views
from ledger.block import Signatures
from ledger.validators import ValidatorSet
from tests.exploration.beginnings import FORGOTTEN, LEFT_WITH_A_LOCK, LOCK_IN_VIEW_0, LOCKED, VOTED
from tests.exploration.place import CHAIN, Scope, is_signed


@contextmanager
def quorum_one_too_small() -> Iterator[None]:
    with patch.object(ValidatorSet, "quorum", property(lambda validators: validators.n // 2)):
        yield


@contextmanager
def lock_dropped_on_entering_a_view() -> Iterator[None]:
    right = Slot.enter_view

    def enter_view(slot: Slot) -> None:
        right(slot)
        slot.prepared = None

    with patch.object(Slot, "enter_view", enter_view):
        yield


@contextmanager
def lowest_view_chosen() -> Iterator[None]:
    def lowest(claims: Iterable[Claim], epoch_base: int) -> tuple[int, dict[int, tuple[int, bytes]]]:
        known = tuple(claims)
        base = max((epoch_base, *(claim.stable for claim in known)))
        locks: dict[int, tuple[int, bytes]] = {}
        for claim in known:
            for height, view, digest in claim.locks:
                if height > base and (height not in locks or (view, digest) < locks[height]):
                    locks[height] = (view, digest)
        return base, locks

    with patch.object(consensus.newview, "_highest", lowest):
        yield


@contextmanager
def own_votes_not_restored() -> Iterator[None]:
    right = Restart._restore_vote

    def restore(restart: Restart, record: Record) -> None:
        if not isinstance(record, Vote | PrePrepare):
            right(restart, record)

    with patch.object(Restart, "_restore_vote", restore):
        yield


@contextmanager
def lock_not_restored() -> Iterator[None]:
    right = Restart._restore_vote

    def restore(restart: Restart, record: Record) -> None:
        if not isinstance(record, Prepared):
            right(restart, record)

    with patch.object(Restart, "_restore_vote", restore):
        yield


@contextmanager
def signers_not_distinct() -> Iterator[None]:
    """In the proof of a lock, three signatures of one member pass for a quorum; in the form on the wire too."""

    def read(value: Any) -> Signatures:
        return tuple((index, signature) for index, signature in value)

    def lax(verifier: Verifier, lock: Prepared, view: int, validators: ValidatorSet) -> bool:
        certificate = lock.certificate
        statement, signatures = certificate.statement(CHAIN), certificate.signatures
        return (
            certificate.view < view
            and len(signatures) >= validators.quorum
            and all(is_signed(validators.keys[index], statement, signature) for index, signature in signatures)
        )

    with patch.object(Verifier, "_prepared", lax), patch.object(ledger.block, "signatures_from_value", read):
        yield


@contextmanager
def proof_of_a_lock_not_checked() -> Iterator[None]:
    def unchecked(verifier: Verifier, lock: Prepared, view: int, validators: ValidatorSet) -> bool:
        return lock.certificate.view < view

    with patch.object(Verifier, "_prepared", unchecked):
        yield


@contextmanager
def new_view_not_binding() -> Iterator[None]:
    """A leader may propose what it likes, also in the place of what its own new view demands."""
    anything = patch.object(Views, "required", lambda views, height: None)
    with anything, patch.object(Ordering, "_orders_twice", lambda ordering, slot, proposal: False):
        yield


@contextmanager
def votes_sent_before_they_are_durable() -> Iterator[None]:
    right = State.persist

    def persist(
        state: State, height: int, records: Iterable[Record], counted: Signed | None, then: tuple[Send | Broadcast, ...]
    ) -> None:
        state.effects.extend(then)
        right(state, height, records, counted, ())

    with patch.object(State, "persist", persist):
        yield


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, the smallest scope where it shows, and how that is entered."""

    plant: Callable[[], AbstractContextManager[None]]
    scope: Scope
    beginning: str = ""  # without it the scope is too large
    hint: str = ""  # further steps on the way, to be found by the search itself or given to save its time

    @property
    def name(self) -> str:
        return self.plant.__name__.replace("_", " ")


FAULTS = (
    Fault(quorum_one_too_small, Scope(0, 1, 1)),
    Fault(own_votes_not_restored, Scope(0, 1, 1, restarts=1), hint=VOTED),
    Fault(votes_sent_before_they_are_durable, Scope(0, 1, 1, restarts=1, slow_disks=True), hint=VOTED),
    Fault(lock_dropped_on_entering_a_view, Scope(2, 1, 2), hint=LOCKED),
    Fault(lock_not_restored, Scope(2, 1, 2, restarts=1), LOCKED, FORGOTTEN),
    Fault(signers_not_distinct, Scope(2, 1, 2), hint=LOCKED),
    Fault(proof_of_a_lock_not_checked, Scope(2, 1, 2), hint=LOCKED),
    Fault(new_view_not_binding, Scope(1, 1, 2), hint=LEFT_WITH_A_LOCK),
    Fault(lowest_view_chosen, Scope(3, 1, 3), LOCK_IN_VIEW_0),
)
