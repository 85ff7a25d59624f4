"""All that honest members may come to together: every reachable tuple of their local states, layer by layer.

A state is one local state a member. What was sent is the union of what each sent, so the network needs no place of its
own; a member may make a macro-step when all messages it takes exist. Only integers are touched here once the local
graphs are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.exploration.alphabet import Alphabet
from tests.exploration.local import FAILED, Local, Option
from tests.exploration.place import Scope

WIDTH = 21  # bits of a local state's number


@dataclass(slots=True)
class Result:
    """What an exploration saw. `complete`: nothing was left out; else all states up to `depth` macro-steps were seen."""

    scope: Scope
    states: int = 0
    transitions: int = 0
    depth: int = 0
    complete: bool = False
    violation: list[str] | None = None  # one line a step
    local_states: list[int] = field(default_factory=list)
    engine_steps: int = 0
    messages: int = 0


class Search:
    """Breadth first, so that a trace is a shortest one."""

    def __init__(self, scope: Scope, *, states_max: int = 10**9, keep_paths: bool = False) -> None:
        self.scope = scope
        self.alphabet = Alphabet(scope)
        self.locals = [Local(member, self.alphabet) for member in scope.honest]
        self.states_max = states_max
        self.seen: set[int] = set()
        self.parents: dict[int, int] | None = {} if keep_paths else None

    def run(self, beginning: str = "") -> Result:
        """Explore until nothing is new, agreement is broken, or there are `states_max` states. `beginning`: lines of a
        trace to follow first; what could have happened instead of them is not explored."""
        result = Result(self.scope)
        start = self._follow(beginning.split("\n"), _pack([local.begin() for local in self.locals]))
        self.seen.add(start)
        layer, broken = [start], self._is_broken(start)
        last = start
        while layer and not broken and len(self.seen) < self.states_max:
            following: list[int] = []
            for state in layer:
                for last in self._successors(state, result):
                    following.append(last)
                    if self._is_broken(last):
                        broken = True
                        break
                if broken or len(self.seen) >= self.states_max:
                    break
            else:
                result.depth += 1
            layer = following
        result.complete = not layer and not broken
        result.states, result.messages = len(self.seen), len(self.alphabet.items)
        result.local_states = [len(local.sent) for local in self.locals]
        result.engine_steps = sum(local.engine_steps for local in self.locals)
        if broken:
            result.violation = self.path(last) if self.parents is not None else []
        return result

    def _follow(self, lines: list[str], state: int) -> int:
        for line in filter(None, map(str.strip, lines)):
            member, _, inputs = line.partition(" -> ")[0].partition(": ")
            place = self.scope.honest.index(int(member))
            part = _unpack(state)[place]
            present = self._present(_unpack(state))
            found = [one for one in self.locals[place].expand(part) if self._inputs(one) == inputs]
            assert found, line
            assert not found[0].needs & ~present, line
            state += (found[0].target - part) << (WIDTH * place)
        return state

    def _successors(self, state: int, result: Result) -> Iterator[int]:
        """New states one macro-step from `state`."""
        parts = _unpack(state)
        options = [local.expand(part) for local, part in zip(self.locals, parts, strict=True)]
        present = self._present(parts)
        for place, (part, possible) in enumerate(zip(parts, options, strict=True)):
            shift = WIDTH * place
            rest = state - (part << shift)
            for option in possible:
                if option.needs & ~present:
                    continue
                result.transitions += 1
                target = rest + (option.target << shift)
                if target in self.seen:
                    continue
                self.seen.add(target)
                if self.parents is not None:
                    self.parents[target] = state
                yield target

    def _present(self, parts: list[int]) -> int:
        sent = 0
        for local, part in zip(self.locals, parts, strict=True):
            sent |= local.sent[part]
        return self.alphabet.present(sent)

    def _is_broken(self, state: int) -> bool:
        """Two blocks at one height, decided by someone or provable to anyone; or an engine that found itself wrong."""
        parts = _unpack(state)
        decided = frozenset[tuple[int, str]]().union(
            *(local.decided[part] for local, part in zip(self.locals, parts, strict=True))
        )
        heights = {height for height, _ in decided}
        return len(heights) < len(decided) or FAILED in heights or self.alphabet.is_broken(self._present(parts))

    def path(self, state: int) -> list[str]:
        """The macro-steps that led to a state, one line each."""
        assert self.parents is not None
        lines: list[str] = []
        while state in self.parents:
            before = self.parents[state]
            lines.append(self._describe(before, state))
            state = before
        return lines[::-1]

    def _describe(self, before: int, after: int) -> str:
        for local, old, new in zip(self.locals, _unpack(before), _unpack(after), strict=True):
            if old != new:
                present = self._present(_unpack(before))
                option = next(
                    one for one in local.expand(old) if one.target == new and not one.needs & ~present
                )
                return f"{local.member}: {self._inputs(option)} -> {self._said(local, old, new)}"
        raise AssertionError("a step changes one member")

    def _inputs(self, option: Option) -> str:
        shown = (self.alphabet.items[one].key if isinstance(one, int) else one for one in option.inputs)
        return " + ".join(map(_words, shown))

    def _said(self, local: Local, old: int, new: int) -> str:
        bits = local.sent[new] & ~local.sent[old]
        said = [_words(key) for key, bit in self.alphabet.bits.items() if bit & bits]
        decided = [f"DECIDES {name}" for _, name in sorted(local.decided[new] - local.decided[old])]
        return ", ".join(said + decided) or "(nothing)"


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_words, value)) if value else "-"
    return str(value)


def _pack(parts: list[int]) -> int:
    state = 0
    for place, part in enumerate(parts):
        state |= part << (WIDTH * place)
    return state


def _unpack(state: int) -> list[int]:
    mask = (1 << WIDTH) - 1
    return [state >> (WIDTH * place) & mask for place in range(3)]
