"""The choice of a new view: a pure function of its view changes that never loses what may have been committed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.messages import Prepared, ViewChange
from consensus.newview import Choice, choose, compose
from ledger.block import Certificate, CheckpointCertificate, Phase, Proposal
from ledger.crypto import hash_bytes
from ledger.validators import faulty_max, quorum

HASH = hash_bytes(b"")


def proposal(height: int, label: str) -> Proposal:
    return Proposal(height, 1, (hash_bytes(label.encode()),))


def lock(height: int, view: int, label: str = "a") -> Prepared:
    chosen = proposal(height, label)
    return Prepared(chosen, Certificate(0, view, height, Phase.PREPARE, chosen.digest, ()))


def stable_at(height: int, members: tuple[tuple[int, bytes], ...] = ()) -> CheckpointCertificate:
    return CheckpointCertificate(0, height, HASH, HASH, HASH, members)


def change(member: int, *locks: Prepared, stable: int = 0, view: int = 9) -> ViewChange:
    return ViewChange(0, view, stable_at(stable) if stable else None, locks, member)


def chosen_of(changes: Iterable[ViewChange], epoch_base: int) -> Choice:
    """What everyone recomputes from the message a leader makes of these."""
    choice = choose(compose(tuple(changes), epoch_base, 0), epoch_base)
    assert choice is not None
    return choice


def test_nothing_prepared_gives_nothing_to_propose_again() -> None:
    choice = chosen_of([change(0), change(1), change(2)], 0)
    assert choice == Choice(0, None, ())
    assert choice.top == 0
    assert chosen_of([change(0)], 100).base == 100, "an epoch begins with its base"


def test_the_lock_of_the_highest_view_wins_whoever_shows_it() -> None:
    """Trap 6, 7, 9. Honest members may be locked on different proposals; one choice follows from all of them."""
    shown = [change(0, lock(1, 3, "old")), change(1, lock(1, 7, "new")), change(2, lock(1, 5, "middle"))]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        assert chosen_of([shown[index] for index in order], 0).proposals == (proposal(1, "new"),)


def test_gaps_are_filled_with_null_and_never_skipped() -> None:
    """Trap 16. Prepared at 2 and 5 only."""
    choice = chosen_of([change(0, lock(2, 1)), change(1, lock(5, 1)), change(2)], 0)
    assert choice.proposals == (
        Proposal.null(1),
        proposal(2, "a"),
        Proposal.null(3),
        Proposal.null(4),
        proposal(5, "a"),
    )
    assert (choice.base, choice.top) == (0, 5)


def test_the_base_is_the_highest_stable_checkpoint_among_all() -> None:
    """Trap 16. Locks at or below it are done with; heights between it and the lowest lock are filled."""
    shown = [change(0, lock(8, 1), lock(12, 1), stable=7), change(1, stable=10), change(2, lock(3, 2))]
    choice = chosen_of(shown, 0)
    assert choice.base == 10
    assert choice.stable == stable_at(10)
    assert choice.proposals == (Proposal.null(11), proposal(12, "a"))
    assert chosen_of([change(0, lock(8, 1)), change(1, stable=10)], 0) == Choice(10, stable_at(10), ())


def test_a_checkpoint_below_the_epochs_base_is_no_base() -> None:
    """Trap 3."""
    choice = chosen_of([change(0, lock(101, 1), stable=90)], 100)
    assert (choice.base, choice.stable) == (100, None)
    assert choice.proposals == (proposal(101, "a"),)


def test_a_new_view_shows_exactly_the_proofs_that_count() -> None:
    """Trap 7. A lock left out, one too many, an older one, another digest, the wrong checkpoint: all refused."""
    shown = (change(0, lock(11, 1, "old"), lock(12, 1), stable=10), change(1, lock(11, 3, "new")), change(2, stable=7))
    message = compose(shown, 0, 0)
    assert message.stable == stable_at(10)
    assert message.prepared == (lock(11, 3, "new"), lock(12, 1))
    assert choose(message, 0) is not None
    for proofs in (
        message.prepared[:1],
        message.prepared[1:],
        (),
        (lock(11, 1, "old"), lock(12, 1)),
        (lock(11, 3, "other"), lock(12, 1)),
        (*message.prepared, lock(13, 1)),
        tuple(reversed(message.prepared)),
        (*message.prepared[:1], *message.prepared),
    ):
        assert choose(replace(message, prepared=proofs), 0) is None
    for stable in (None, stable_at(7), stable_at(11)):
        assert choose(replace(message, stable=stable), 0) is None
    assert choose(replace(message, claims=message.claims[:2]), 0) is not None
    assert choose(replace(message, claims=message.claims[2:]), 0) is None


def test_a_claim_without_a_proof_can_be_in_no_new_view() -> None:
    """Trap 7. A member may lie about its locks; no leader can show the lie's proof, so nobody follows it."""
    honest = compose((change(0, lock(1, 3)), change(1), change(2)), 0, 0)
    lie = replace(honest.claims[1], locks=((1, 8, HASH),))
    assert choose(replace(honest, claims=(honest.claims[0], lie, honest.claims[2])), 0) is None
    twin = replace(honest.claims[1], locks=((1, 3, HASH),))
    both = choose(replace(honest, claims=(honest.claims[0], twin, honest.claims[2])), 0)
    assert both is None or both.proposals == (proposal(1, "a"),)
    harmless = replace(honest.claims[1], locks=((1, 2, HASH),))
    assert choose(replace(honest, claims=(honest.claims[0], harmless, honest.claims[2])), 0) == choose(honest, 0)


def test_what_is_proposed_again_is_the_proposal_itself() -> None:
    """Trap 6. Time and batches too: the digest that may have been committed must come out again."""
    chosen = Proposal(1, 123_456, (HASH, hash_bytes(b"x")), seal=True)
    shown = Prepared(chosen, Certificate(0, 2, 1, Phase.PREPARE, chosen.digest, ()))
    assert chosen_of([change(0, shown)], 0).proposals[0].digest == chosen.digest


class History:
    """A random execution, view by view, of members that keep the protocol and up to f that show what they please.

    In each view the choice of some quorum of view changes is proposed again, new proposals come above it; at some
    heights a prepare certificate forms, and some members learn of it and lock. What a quorum locked is committed.
    """

    def __init__(self, random: Random, n: int, heights: int = 4) -> None:
        self.random, self.n, self.q, self.heights = random, n, quorum(n), heights
        self.faulty = set(random.sample(range(n), faulty_max(n)))
        self.locks: list[dict[int, Prepared]] = [{} for _ in range(n)]
        self.stable = [0] * n
        self.committed: dict[int, Proposal] = {}
        self.ever: list[Prepared] = []  # what a liar may show again
        self.choices = 0

    def view_change(self, member: int, view: int) -> ViewChange:
        known = self.locks[member]
        locks = [known[height] for height in sorted(known) if height > self.stable[member]]
        if member in self.faulty:
            one_each = {shown.height: shown for shown in self.random.sample(self.ever, len(self.ever))}
            locks = [one_each[height] for height in sorted(one_each) if self.random.random() < 0.5]
        return change(member, *locks, stable=self.stable[member], view=view)

    def enter(self, view: int) -> Choice:
        """Every quorum's choice keeps what was committed; one of them becomes the view's."""
        changes = [self.view_change(member, view) for member in range(self.n)]
        choices = []
        for members in combinations(range(self.n), self.q):
            shown = [changes[member] for member in members]
            choice = chosen_of(shown, 0)
            self.random.shuffle(shown)
            again = chosen_of(shown, 0)
            assert (again.base, again.proposals) == (choice.base, choice.proposals), "the order does not matter"
            self.check(choice)
            choices.append(choice)
        self.choices += len(choices)
        return self.random.choice(choices)

    def check(self, choice: Choice) -> None:
        assert [one.height for one in choice.proposals] == list(range(choice.base + 1, choice.top + 1))
        for height, chosen in self.committed.items():
            if height > choice.base:
                assert height <= choice.top
                assert choice.proposals[height - choice.base - 1] == chosen

    def work(self, view: int, choice: Choice) -> None:
        proposals = {one.height: one for one in choice.proposals}
        for height in range(choice.base + 1, self.heights + 1):
            chosen = proposals.get(height) or proposal(height, f"{view} {height}")
            if self.random.random() < 0.3:
                continue  # no prepare certificate formed
            prepared = Prepared(chosen, Certificate(0, view, height, Phase.PREPARE, chosen.digest, ()))
            self.ever.append(prepared)
            lockers = self.random.sample(range(self.n), self.random.randint(0, self.n))
            for member in lockers:
                self.locks[member][height] = prepared
            if len(lockers) >= self.q:
                assert self.committed.setdefault(height, chosen) == chosen, "two decisions at one height"
        done = next(height for height in range(1, self.heights + 2) if height not in self.committed) - 1
        for member in self.random.sample(range(self.n), self.random.randint(0, self.n)):
            self.stable[member] = max(self.stable[member], self.random.randint(0, done))


@settings(max_examples=60)
@given(st.sampled_from([4, 4, 4, 5, 6, 7]), st.integers(0, 2**32))
def test_what_a_quorum_prepared_is_chosen_by_every_later_quorum(n: int, seed: int) -> None:
    """Trap 6, 7, 9, 16. A model of views and locks under arbitrary loss, with f members that hide or show old locks."""
    history = History(Random(seed), n)
    choice = Choice(0, None, ())
    for view in range(6):
        if view:
            choice = history.enter(view)
        history.work(view, choice)


def test_the_model_reaches_commits_that_later_views_had_to_keep() -> None:
    """Else the property above would hold of nothing."""
    kept = 0
    for seed in range(40):
        history = History(Random(seed), 4)
        choice = Choice(0, None, ())
        for view in range(6):
            if view:
                choice = history.enter(view)
            kept += sum(height > choice.base for height in history.committed)
            history.work(view, choice)
    assert kept > 50


def wrong_lowest_view(changes: Iterable[ViewChange]) -> Choice:
    """A planted fault: the first lock seen wins, whatever its view."""
    first: dict[int, Prepared] = {}
    for one in changes:
        for shown in one.prepared:
            first.setdefault(shown.height, shown)
    return Choice(
        0,
        None,
        tuple(first[h].proposal if h in first else Proposal.null(h) for h in range(1, max(first, default=0) + 1)),
    )


def test_the_model_finds_a_choice_that_ignores_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "chosen_of", lambda changes, base: wrong_lowest_view(changes))

    def run(seeds: range) -> None:
        for seed in seeds:
            history = History(Random(seed), 4)
            for view in range(6):
                history.work(view, history.enter(view) if view else Choice(0, None, ()))

    with pytest.raises(AssertionError):
        run(range(200))
