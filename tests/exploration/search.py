"""All that honest members may come to together: every reachable tuple of their local states, layer by layer.

A state is one local state a member. What was sent is the union of what each sent, so the network needs no place of its
own; a member may make a macro-step when all messages it takes exist. Only integers are touched here once the local
graphs are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.exploration.alphabet import Alphabet
from tests.exploration.dominance import undominated
from tests.exploration.fingerprint import words
from tests.exploration.local import FAILED, LOCAL_STATES_MAX, Local, Option
from tests.exploration.place import Scope

WIDTH = LOCAL_STATES_MAX.bit_length() - 1  # bits of a local state's number


@dataclass(slots=True)
class Result:
    """What an exploration saw. If not `complete`, all states up to `depth` macro-steps and some beyond."""

    scope: Scope
    states: int = 0
    transitions: int = 0
    depth: int = 0
    complete: bool = False
    violation: list[str] | None = None  # one line a step
    local_states: list[int] = field(default_factory=list)  # of each honest member
    kept_states: list[int] = field(default_factory=list)  # those of them that no other dominates on the way
    engine_steps: int = 0
    messages: int = 0


class Search:
    """Breadth first, so that a trace is a shortest one. `reduce`: without steps that others dominate."""

    def __init__(
        self, scope: Scope, *, states_max: int = 10**9, reduce: bool = False, keep_paths: bool = False
    ) -> None:
        self.alphabet = Alphabet(scope)
        self.scope, self.states_max, self.reduce = scope, states_max, reduce
        self.locals = [Local(member, self.alphabet) for member in scope.honest]
        self.seen: set[int] = set()
        self.parents: dict[int, tuple[int, int, Option]] | None = {} if keep_paths else None  # state, member, step
        self._kept: list[dict[int, list[Option]]] = []

    def run(self, beginning: str = "") -> Result:
        """Explore until nothing is new, agreement is broken, or there are `states_max` states. `beginning`: lines of a
        trace to follow first; what could have happened instead of them is not explored."""
        result = Result(self.scope)
        start = _pack([local.begin() for local in self.locals])
        if self.reduce:
            self._reduce()
        start = self._follow(beginning.split("\n"), start)
        self.seen.add(start)
        layer, broken, last = [start], self._is_broken(start), start
        while layer and not broken and len(self.seen) < self.states_max:
            following: list[int] = []
            for state in layer:
                for last in self._successors(state, result):
                    following.append(last)
                    broken = self._is_broken(last)
                    if broken:
                        break
                if broken or len(self.seen) >= self.states_max:
                    break
            else:
                result.depth += 1
            layer = following
        result.complete = not layer and not broken
        if broken:
            result.violation = self._path(last) if self.parents is not None else []
        self._measure(result)
        return result

    def _measure(self, result: Result) -> None:
        result.states, result.messages = len(self.seen), len(self.alphabet.items)
        result.local_states = [len(local.sent) for local in self.locals]
        result.kept_states = [len(kept) for kept in self._kept] or result.local_states
        result.engine_steps = sum(local.engine_steps for local in self.locals)

    def _reduce(self) -> None:
        """Make the whole local graphs first: what dominates is known only when all is known."""
        version = -1
        while version != self.alphabet.version:
            version = self.alphabet.version
            for local in self.locals:
                local.explore()
        self._kept = [undominated(local) for local in self.locals]

    def _options(self, place: int, part: int) -> list[Option]:
        return self._kept[place][part] if self._kept else self.locals[place].expand(part)

    def _follow(self, lines: list[str], state: int) -> int:
        for line in filter(None, map(str.strip, lines)):
            member, _, inputs = line.partition(" -> ")[0].partition(": ")
            place = self.scope.honest.index(int(member))
            part, present = _unpack(state)[place], self._present(_unpack(state))
            found = [one for one in self._options(place, part) if self._inputs(one) == inputs]
            assert found, f"not possible, or not worth it: {line}"
            assert not found[0].needs & ~present, f"not possible yet: {line}"
            if found[0].target == FAILED:
                return FAILED
            state += (found[0].target - part) << (WIDTH * place)
        return state

    def _successors(self, state: int, result: Result) -> Iterator[int]:
        """New states one macro-step from `state`; FAILED for a step in which an assertion fails."""
        parts = _unpack(state)
        options = [self._options(place, part) for place, part in enumerate(parts)]
        present = self._present(parts)
        for place, (part, possible) in enumerate(zip(parts, options, strict=True)):
            shift = WIDTH * place
            rest = state - (part << shift)
            for option in possible:
                if option.needs & ~present:
                    continue
                result.transitions += 1
                target = FAILED if option.target == FAILED else rest + (option.target << shift)
                if target in self.seen:
                    continue
                self.seen.add(target)
                if self.parents is not None:
                    self.parents[target] = (state, self.locals[place].member, option)
                yield target

    def _present(self, parts: list[int]) -> int:
        sent = 0
        for local, part in zip(self.locals, parts, strict=True):
            sent |= local.sent[part]
        return self.alphabet.present(sent)

    def said(self) -> set[tuple[int, ...]]:
        """What members have sent, one mask each, in the states that were seen."""
        return {
            tuple(local.sent[part] for local, part in zip(self.locals, _unpack(state), strict=True))
            for state in self.seen
            if state != FAILED
        }

    def _is_broken(self, state: int) -> bool:
        """An engine found itself wrong, or certificates of two blocks at one height exist."""
        return state == FAILED or self.alphabet.is_broken(self._present(_unpack(state)))

    def _path(self, state: int) -> list[str]:
        """The macro-steps that led to a state, one line each."""
        assert self.parents is not None
        lines: list[str] = []
        while state in self.parents:
            state, member, option = self.parents[state]
            lines.append(f"{member}: {self._inputs(option)} -> {option.account or '(nothing)'}")
        return lines[::-1]

    def _inputs(self, option: Option) -> str:
        shown = (self.alphabet.items[one].key if isinstance(one, int) else one for one in option.inputs)
        return " + ".join(map(words, shown))


def _pack(parts: list[int]) -> int:
    return sum(part << (WIDTH * place) for place, part in enumerate(parts))


def _unpack(state: int) -> list[int]:
    mask = (1 << WIDTH) - 1
    return [state & mask, state >> WIDTH & mask, state >> (2 * WIDTH)]
