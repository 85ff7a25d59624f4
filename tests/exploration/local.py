"""All that one honest member may come to, as a graph of *macro-steps*, made on demand by the real engine.

A macro-step is one input of the member's own, one message, or a set of messages that are counted together (votes for
one value, suspicions of one view, view changes) of which the last makes the engine do more than note them down. That
a message noted down may as well arrive later, when it makes a difference, is why noting alone is no step
(docs/exploration.md gives the argument, test_exploration.py checks it against runs without any of this).

Each pair of engine and message is stepped once and remembered.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.events import Received
from consensus.messages import NewView, PrePrepare, Vote
from tests.exploration.alphabet import Alphabet, Item, Mask
from tests.exploration.fingerprint import Key, key_of, record_keys, words
from tests.exploration.place import name_of
from tests.exploration.replica import (
    Event,
    Flush,
    Host,
    Outcome,
    Restart,
    act,
    begin,
    crashes,
    freeze,
    key,
    own_inputs,
    thaw,
)

LOCAL_STATES_MAX = 1 << 20  # three of them fit a state's number of 60 bits
FAILED = -1  # in the place of a state: an assertion failed, of the engine or about it
COUNTED_MAX = 3  # messages of others in one macro-step: a quorum of four members


@dataclass(frozen=True, slots=True)
class Option:
    """A macro-step: possible once all items of `needs` (bits by index) exist."""

    needs: int
    target: int
    inputs: tuple[Event | int, ...]  # own input, or indexes of items
    account: str  # what it did, for people


@dataclass(slots=True)
class Node:
    """An engine's state, up to what makes no difference."""

    snapshot: bytes
    view: int
    changing: bool
    own: list[Event]


@dataclass(frozen=True, slots=True)
class Reached:
    """The result of one input to one node."""

    node: int
    sent: Mask
    noted: bool  # nothing but a table changed
    account: str = ""


@dataclass(slots=True)
class Local:
    """One member's states: a node, and what it ever sent."""

    member: int
    alphabet: Alphabet
    nodes: list[Node] = field(default_factory=list)
    sent: list[Mask] = field(default_factory=list)
    options: list[list[Option]] = field(default_factory=list)
    engine_steps: int = 0
    _node_of: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    _nodes: dict[Key, int] = field(default_factory=dict)
    _states: dict[tuple[int, Mask], int] = field(default_factory=dict)
    _reached: dict[tuple[int, Event | int], tuple[Reached, ...]] = field(default_factory=dict)
    _crashed: dict[Key, Reached] = field(default_factory=dict)

    def begin(self) -> int:
        host, outcome = begin(self.member, self.alphabet.scope)
        if not self.alphabet.scope.restarts:  # else the first proposal may be lost, so that its writing is a step
            self._settle(host, outcome)
        return self._state(self._node(host), self._said(outcome))

    def _said(self, outcome: Outcome) -> Mask:
        mask = 0
        for message in outcome.sent:
            mask |= self.alphabet.hear(message)
        return mask

    def _reach(self, host: Host, outcome: Outcome, *, noted: bool) -> Reached:
        return Reached(self._node(host), self._said(outcome), noted, ", ".join(self._accounts(outcome)))

    def _accounts(self, outcome: Outcome) -> list[str]:
        said = [words(key_of(message)) for message in outcome.sent if self.alphabet.hear(message)]
        return said + [f"DECIDES {name_of(digest)}" for digest in outcome.decided]

    def _node(self, host: Host) -> int:
        found = key(host)
        index = self._nodes.get(found)
        if index is None:
            index = self._nodes[found] = len(self.nodes)
            engine = host.engine
            self.nodes.append(Node(freeze(host), engine.view, engine.changing, own_inputs(host)))
        return index

    def _state(self, node: int, sent: Mask) -> int:
        place = (node, sent)
        index = self._states.get(place)
        if index is None:
            index = self._states[place] = len(self._node_of)
            assert index < LOCAL_STATES_MAX
            self._node_of.append(node)
            self.sent.append(sent)
            self.options.append([])
            self.versions.append(-1)
        return index

    # Steps

    def _step(self, node: int, event: Event | int) -> tuple[Reached, ...]:
        """What an input may make of a node; the first is without a crash. Empty if it makes nothing of it."""
        place = (node, event)
        known = self._reached.get(place)
        if known is None:
            known = self._reached[place] = self._really_step(node, event)
        return known

    def _really_step(self, node: int, event: Event | int) -> tuple[Reached, ...]:
        self.engine_steps += 1
        before = self.nodes[node]
        host = thaw(before.snapshot)
        pending = len(host.pending)
        crashed: list[Reached] = []
        try:
            if isinstance(event, Restart) and not self.alphabet.scope.slow_disks:
                return (self._crash(host, event, Outcome()),)
            outcome = act(host, self.alphabet.items[event].event if isinstance(event, int) else event)
            if not self.alphabet.scope.slow_disks:
                crashed = self._settle(host, outcome)
            now = (host.engine.view, host.engine.changing, len(host.pending))
            moved = now != (before.view, before.changing, pending)
            reached = self._reach(host, outcome, noted=not (moved or outcome.sent or outcome.decided))
        except AssertionError as failure:
            # Options are worked out before it is known whether their messages ever exist together with this state.
            # Should they do, the failure is one of the engine.
            return (Reached(FAILED, 0, False, f"FAILS: {failure}"),)
        if reached.node == node and not reached.sent:
            return ()
        return (reached, *crashed)

    def _settle(self, host: Host, outcome: Outcome) -> list[Reached]:
        """Flush until all is durable, in place; returns what a crash on the way leads to. A crash before anything was
        signed is an input of its own."""
        found: list[Reached] = []
        while host.pending:
            for crash in crashes(host):
                found.append(self._crash(host, crash, outcome))
            outcome.add(act(host, Flush()))
        return list(dict.fromkeys(found))

    def _crash(self, host: Host, crash: Restart, outcome: Outcome) -> Reached:
        """What comes of a crash after `outcome`: it depends on what is durable only, so each is tried once."""
        durable = (*host.log, *(one.record for one in host.pending[: crash.kept]))
        blocks = tuple(proposal.digest for proposal, _ in host.blocks) if crash.blocks else ()
        place = (host.restarts, frozenset(one for record in durable for one in record_keys(record)), blocks)
        known = self._crashed.get(place)
        if known is None:
            self.engine_steps += 1
            other = thaw(freeze(host))
            after = act(other, crash)
            self._settle(other, after)
            known = self._crashed[place] = self._reach(other, after, noted=False)
        before = ", ".join(self._accounts(outcome))
        account = f"{before + ', ' if before else ''}CRASHES, {known.account or 'is silent'}"
        return Reached(known.node, known.sent | self._said(outcome), False, account)

    # Macro-steps

    def explore(self) -> None:
        """All states, whether or not others ever say what it takes to come there."""
        state = 0
        while state < len(self.sent):
            self.expand(state)
            state += 1

    def expand(self, state: int) -> list[Option]:
        """The options of a state, for all items known so far."""
        if self.versions[state] == self.alphabet.version:
            return self.options[state]
        version = self.alphabet.version  # steps may make new items: then this state is worked out again when asked for
        known = {(option.needs, option.target) for option in self.options[state]}
        for option in self._macro_steps(state):
            place = (option.needs, option.target)
            if option.target != state and place not in known:
                known.add(place)
                self.options[state].append(option)
        self.versions[state] = version
        return self.options[state]

    def _macro_steps(self, state: int) -> list[Option]:
        node = self._node_of[state]
        found: list[Option] = []
        for event in self.nodes[node].own:
            found += [self._option(state, reached, 0, (event,)) for reached in self._step(node, event)]
        counted: dict[Key, list[Item]] = {}
        for item in list(self.alphabet.items):
            if not self._is_in_time(node, item):
                continue
            if item.counted is not None:
                counted.setdefault(item.counted, []).append(item)
                continue
            needs, inputs = 1 << item.index, (item.index,)
            found += [self._option(state, reached, needs, inputs) for reached in self._step(node, item.index)]
        for items in counted.values():
            found += self._count(state, node, items)
        return found

    def _option(self, state: int, reached: Reached, needs: int, inputs: tuple[Event | int, ...]) -> Option:
        target = FAILED if reached.node == FAILED else self._state(reached.node, self.sent[state] | reached.sent)
        return Option(needs, target, inputs, reached.account)

    def _is_in_time(self, node: int, item: Item) -> bool:
        """What is early is kept by the engine until it is in time, so it may as well arrive then."""
        at = self.nodes[node]
        if isinstance(item.event, Received) and isinstance(item.event.verified.message, PrePrepare | Vote):
            return item.view == at.view and not at.changing
        if item.counted is not None and item.counted[0] == "suspect":  # type: ignore[index]
            return item.view == at.view
        return item.view >= at.view or not isinstance(item.event, Received | NewView)

    def _count(self, state: int, node: int, items: list[Item]) -> list[Option]:
        """Sets of these that do something, by increasing member, of which no beginning does."""
        found: list[Option] = []
        frontier: list[tuple[tuple[Item, ...], int]] = [((), node)]
        for _ in range(COUNTED_MAX):
            following: list[tuple[tuple[Item, ...], int]] = []
            for chosen, at in frontier:
                for item in items:
                    if chosen and item.member <= chosen[-1].member:
                        continue
                    reached = self._step(at, item.index)
                    together = (*chosen, item)
                    if reached and reached[0].noted:
                        following.append((together, reached[0].node))
                        continue
                    needs, inputs = sum(1 << one.index for one in together), tuple(one.index for one in together)
                    found += [self._option(state, one, needs, inputs) for one in reached]
            frontier = following
        return found
