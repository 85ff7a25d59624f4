"""Which steps of a member need not be taken, as another way leads to at least as much.

State t is *dominated* by s when whatever t could ever do, s could do as well, with no other messages: t sent no more
than s, and for each option of t, either its target is dominated by s, or s has an option that needs no more and whose
target dominates it. That is a simulation, computed as the greatest one over the pairs that matter. Messages sent stay
deliverable for ever and nobody has to take one, so a member replaced by one that dominates it leaves everyone else all
they had: a violation that can be reached at all can be reached without dominated steps.

Must not know: engines, messages; states are numbers here.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.exploration.local import FAILED, Local, Option

Pair: TypeAlias = tuple[int, int]  # (dominated, dominating)


def merge_equal(local: Local) -> list[int]:
    """For each state the first one that is bisimilar to it: same messages sent, same options to bisimilar states."""
    count = len(local.sent)
    ids: dict[object, int] = {}
    part = [ids.setdefault(sent, len(ids)) for sent in local.sent]
    while True:
        known, ids = len(ids), {}
        part = [
            ids.setdefault(
                (part[one], frozenset((o.needs, _part(part, o.target)) for o in local.options[one])), len(ids)
            )
            for one in range(count)
        ]
        if len(ids) == known:
            break
    first: dict[int, int] = {}
    return [first.setdefault(part[one], one) for one in range(count)]


def _part(part: list[int], target: int) -> int:
    return FAILED if target == FAILED else part[target]


@dataclass(slots=True)
class Dominance:
    """The simulation among one member's states, for pairs asked for and those they depend on."""

    sent: list[int]
    options: list[list[Option]]
    _open: dict[Pair, list[list[Pair]]] = field(default_factory=dict)  # for each option of the first: pairs that do
    _users: dict[Pair, set[Pair]] = field(default_factory=lambda: defaultdict(set))
    _refuted: set[Pair] = field(default_factory=set)

    def assume(self, pair: Pair) -> None:
        """Put a pair, and all it may rest on, to the test."""
        waiting = [pair]
        while waiting:
            now = waiting.pop()
            if now in self._open or now in self._refuted or now[0] == now[1]:
                continue
            demands = self._demands(now)
            if demands is None:
                self._refute(now)
                continue
            self._open[now] = demands
            for demand in demands:
                for one in demand:
                    self._users[one].add(now)
                waiting += demand

    def _demands(self, pair: Pair) -> list[list[Pair]] | None:
        """What must hold for a pair: one of each list. None if something never will."""
        low, high = pair
        if not self._may(low, high):
            return None
        demands: list[list[Pair]] = []
        for option in self.options[low]:
            targets = [one.target for one in self.options[high] if not one.needs & ~option.needs]
            if option.target in targets or option.target == high:
                continue
            if option.target == FAILED:
                return None
            ways = {(option.target, target) for target in (high, *targets) if self._may(option.target, target)}
            ways -= self._refuted
            if not ways:
                return None
            demands.append(sorted(ways))
        return demands

    def _may(self, low: int, high: int) -> bool:
        return high != FAILED and not self.sent[low] & ~self.sent[high]

    def _refute(self, pair: Pair) -> None:
        waiting = [pair]
        while waiting:
            now = waiting.pop()
            if now in self._refuted:
                continue
            self._refuted.add(now)
            self._open.pop(now, None)
            for user in self._users.pop(now, ()):
                demands = self._open.get(user)
                if demands is not None and any(self._refuted.issuperset(demand) for demand in demands):
                    waiting.append(user)

    def holds(self, pair: Pair) -> bool:
        """To be asked only when all pairs that will be were assumed."""
        return pair[0] == pair[1] or (pair in self._open and pair not in self._refuted)


def undominated(local: Local) -> dict[int, list[Option]]:
    """The options worth taking, of the states that are left, with bisimilar targets made one."""
    first = merge_equal(local)
    options: list[list[Option]] = [[] for _ in first]
    for state in sorted(set(first)):
        options[state] = _targets_to(first, local.options[state])
    dominance = Dominance(local.sent, options)
    for state in sorted(set(first)):
        for option in options[state]:
            for pair in _rivals(state, option, options[state]):
                dominance.assume(pair)
    found: dict[int, list[Option]] = {}
    waiting = [first[0]]
    while waiting:
        state = waiting.pop()
        if state not in found:
            found[state] = _worth_taking(state, options[state], dominance)
            waiting += [option.target for option in found[state] if option.target != FAILED]
    return found


def _targets_to(first: list[int], options: list[Option]) -> list[Option]:
    found: dict[tuple[int, int], Option] = {}
    for one in options:
        target = FAILED if one.target == FAILED else first[one.target]
        found.setdefault((one.needs, target), Option(one.needs, target, one.inputs, one.account))
    return list(found.values())


def _rivals(state: int, option: Option, options: list[Option]) -> list[Pair]:
    """Pairs of which one makes the option superfluous: staying is as good, or another option is."""
    if option.target == FAILED:
        return []
    others = [
        (option.target, one.target)
        for one in options
        if one is not option and one.target != FAILED and not one.needs & ~option.needs
    ]
    return [(option.target, state), *others]


def _worth_taking(state: int, options: list[Option], dominance: Dominance) -> list[Option]:
    kept = [one for one in options if one.target != state]
    for option in list(kept):
        if any(dominance.holds(pair) for pair in _rivals(state, option, kept)):
            kept = [one for one in kept if one is not option]
    return kept
