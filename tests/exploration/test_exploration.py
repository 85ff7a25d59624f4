"""What small scopes show, that planted faults are found, and that the reductions of the exploration lose nothing."""

from __future__ import annotations

from random import Random

import pytest

from tests.exploration.alphabet import Alphabet, Item
from tests.exploration.faults import FAULTS, Fault
from tests.exploration.fingerprint import Key
from tests.exploration.place import MEMBERS, Scope
from tests.exploration.replica import Flush, Host, Outcome, act, begin, own_inputs
from tests.exploration.search import Result, Search


@pytest.mark.parametrize("byzantine", range(MEMBERS))
def test_agreement_holds_in_one_view_whoever_is_byzantine(byzantine: int) -> None:
    result = Search(Scope(byzantine, 1, 1)).run()
    assert result.complete
    assert result.violation is None
    assert result.states > 50


@pytest.fixture(scope="module")
def two_views() -> tuple[Search, Result]:
    """All of two views with member 2 Byzantine, dominated steps too."""
    search = Search(Scope(2, 1, 2))
    return search, search.run()


def test_agreement_holds_in_two_views(two_views: tuple[Search, Result]) -> None:
    _, result = two_views
    assert result.complete
    assert result.violation is None
    assert result.states > 100_000


@pytest.mark.parametrize("scope", [Scope(0, 1, 1), Scope(2, 1, 1, restarts=1)], ids=repr)
def test_without_dominated_steps_as_much_can_be_said(scope: Scope) -> None:
    full, reduced = Search(scope), Search(scope, reduce=True)
    assert full.run().states > 3 * reduced.run().states
    most = [_names(reduced, sent) for sent in reduced.said()]
    for sent in full.said():
        low = _names(full, sent)
        assert any(_covers(high, low) for high in most)


def test_restarted_members_contradict_nothing_they_said() -> None:
    """Though a leader's clock is another one after it."""
    without = Search(Scope(2, 1, 1), reduce=True)
    restarted = Search(Scope(2, 1, 1, restarts=1), reduce=True)
    assert restarted.run().states > without.run().states
    for search in (without, restarted):
        for sent in search.said():
            for mine in _names(search, sent):
                votes = [key for key in mine if key[0] == "vote"]  # type: ignore[index]
                assert len({key[1:4] for key in votes}) == len(votes)  # type: ignore[index]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_fault_is_found(fault: Fault) -> None:
    with fault.plant():
        result = Search(fault.scope, keep_paths=True).run(fault.beginning + fault.hint)
    assert result.violation is not None


def test_a_trace_is_a_script_that_leads_to_the_violation_again() -> None:
    fault = next(one for one in FAULTS if one.scope.views == 1)
    with fault.plant():
        trace = Search(fault.scope, keep_paths=True).run().violation
        assert trace
        again = Search(fault.scope).run("\n".join(trace))
    assert again.violation is not None
    assert again.states == 1


Said = tuple[frozenset[Key], ...]


def _names(search: Search, sent: tuple[int, ...]) -> Said:
    """What each member sent, independent of the order in which messages were met."""
    return tuple(frozenset(key for key, bit in search.alphabet.bits.items() if bit & mask) for mask in sent)


def _covers(high: Said, low: Said) -> bool:
    return all(more >= less for more, less in zip(high, low, strict=True))


class Walk:
    """Three engines and any message at any time: early, late, twice, or of no use. No macro-steps."""

    def __init__(self, alphabet: Alphabet, seed: int) -> None:
        self.random, self.alphabet = Random(seed), alphabet
        self.hosts: list[Host] = []
        self.sent: list[int] = []
        for member in alphabet.scope.honest:
            host, outcome = begin(member, alphabet.scope)
            self.hosts.append(host)
            self.sent.append(self._settle(host, outcome))

    def _settle(self, host: Host, outcome: Outcome) -> int:
        while host.pending:
            outcome.add(act(host, Flush()))
        mask = 0
        for message in outcome.sent:
            mask |= self.alphabet.hear(message)
        return mask

    def step(self) -> None:
        place = self.random.randrange(len(self.hosts))
        host = self.hosts[place]
        own = own_inputs(host)
        if own and self.random.random() < 0.03:
            outcome = act(host, self.random.choice(own))
        else:
            outcome = act(host, self._item().event)
        self.sent[place] |= self._settle(host, outcome)

    def _item(self) -> Item:
        present = self.alphabet.present(self.sent[0] | self.sent[1] | self.sent[2])
        return self.random.choice([item for item in self.alphabet.items if present >> item.index & 1])


def test_runs_without_macro_steps_never_leave_what_was_explored(two_views: tuple[Search, Result]) -> None:
    search, _ = two_views
    said, version = search.said(), search.alphabet.version
    places: set[tuple[int, bool, int]] = set()
    for seed in range(40):
        walk = Walk(search.alphabet, seed)
        for _ in range(150):
            walk.step()
            assert tuple(walk.sent) in said, f"seed {seed}"
        places.update((host.engine.view, host.engine.changing, host.engine.delivered) for host in walk.hosts)
    assert search.alphabet.version == version
    assert {(0, False, 1), (1, False, 1), (1, True, 0)} <= places, "walks get everywhere"
