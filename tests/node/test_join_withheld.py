"""Joining past peers who offer a snapshot and do not give it, in imagined time: no socket, and nobody really waits."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ledger.block import CheckpointCertificate
from ledger.codec import Value, encode
from node import join as joining
from node import keys
from node.config import P2P, NodeConfig
from node.join import ANSWER_S_MAX, IN_FLIGHT_PER_PEER, PATIENCE_S, CannotJoin, Join
from node.logs import make_logger
from node.snapshots import BLOCKS, BUCKETS, EPOCHS, LEAVES, OFFER, Question
from p2p.config import Handlers
from p2p.frames import Kind
from storage.assembly import Assembly
from storage.memory import MemoryKeyValue
from storage.snapshots import Snapshot, epochs, offer
from tests.storage.test_chain import CHECKPOINT_INTERVAL, GENESIS, KEYS, Cluster, Node
from tests.storage.test_snapshots import grow, snapshot_of

ANSWER_S = 0.01
SNAPSHOTS = 10
HEIGHTS = range(CHECKPOINT_INTERVAL, (SNAPSHOTS + 1) * CHECKPOINT_INTERVAL, CHECKPOINT_INTERVAL)
LOWER, HIGHER = HEIGHTS[-5], HEIGHTS[-4]
LOG = make_logger("error", "text")


class Source:
    """A chain, and a snapshot at each of its checkpoints."""

    def __init__(self) -> None:
        node = Node(MemoryKeyValue(), Cluster())
        self.store = node.store
        self.snapshots: dict[int, Snapshot] = {}
        for height in HEIGHTS:
            grow(node, CHECKPOINT_INTERVAL)
            self.snapshots[height] = snapshot_of(node)

    def offer(self, height: int) -> Value:
        certificate = self.store.checkpoint(height)
        assert certificate is not None
        return offer(self.snapshots[height], certificate)

    def piece(self, question: Question) -> Value:
        snapshot = self.snapshots[question.height]
        match question.what:
            case "leaves":
                return snapshot.leaves(question.first)
            case "buckets":
                return snapshot.buckets(question.first, question.last)
        return snapshot.blocks(question.first)


SOURCE = Source()


@dataclass(eq=False)
class Peer:
    """An honest one, which has one snapshot, or none (0). Most subclasses have it and do not give it."""

    height: int
    asked: list[Question] = field(default_factory=list)

    def answer(self, question: Question, now_s: float) -> tuple[float, Value] | None:
        """After how many seconds, and what."""
        self.asked.append(question)
        if question.what == EPOCHS:
            return ANSWER_S, epochs(SOURCE.store, question.first)
        if question.what == OFFER:
            return ANSWER_S, self.offer()
        return self.give(question, now_s)

    def offer(self) -> Value:
        return SOURCE.offer(self.height) if self.height else None

    def give(self, question: Question, now_s: float) -> tuple[float, Value] | None:
        return ANSWER_S, SOURCE.piece(question) if question.height == self.height else None


class Silent(Peer):
    def give(self, question: Question, now_s: float) -> tuple[float, Value] | None:
        return None if question.height == self.height else (ANSWER_S, None)


class Denying(Peer):
    def give(self, question: Question, now_s: float) -> tuple[float, Value] | None:
        return ANSWER_S, None


class Stopping(Peer):
    """Gives one piece of each target, then nothing."""

    given_of = 0

    def give(self, question: Question, now_s: float) -> tuple[float, Value] | None:
        if question.height == self.given_of:
            return None
        self.given_of = question.height
        return super().give(question, now_s)


class Climbing(Silent):
    """Has a later one to offer whenever it is asked, as long as there is one."""

    def offer(self) -> Value:
        self.height = min(self.height + CHECKPOINT_INTERVAL, HEIGHTS[-1])
        return super().offer()


class Slow(Peer):
    """Honest, and answers just in time."""

    def give(self, question: Question, now_s: float) -> tuple[float, Value] | None:
        answer = super().give(question, now_s)
        return answer and (ANSWER_S_MAX - 1, answer[1])


class Dripping(Slow):
    """Gives as little as it may, as late as it may."""

    def give(self, question: Question, now_s: float) -> tuple[float, Value] | None:
        if question.what == BUCKETS:
            question = replace(question, last=question.first)
        return super().give(question, now_s)


class Leaving(Peer):
    """Is gone once it is asked for a piece."""

    returns = False


class Dying(Leaving):
    """And is back a second later."""

    returns = True


class Clock(selectors.DefaultSelector):
    """When nobody has anything to do, it is later."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nobody waits for anything that could come"
        self.now_s += timeout
        return super().select(0)


class Wire:
    """The joiner's transport, which leads to `peers`."""

    def __init__(self, peers: dict[bytes, Peer], clock: Clock, handlers: Handlers) -> None:
        self._peers, self._clock, self._handlers = peers, clock, handlers

    async def start(self) -> None:
        for key in self._peers:
            self._handlers.on_peer_up(key)

    async def stop(self) -> None: ...

    def set_members(self, members: object) -> None: ...

    def misbehaved(self, key: bytes, fault: object) -> None: ...

    def send(self, key: bytes, kind: Kind, payload: bytes) -> bool:
        question, peer, loop = Question.decode(payload), self._peers[key], asyncio.get_running_loop()
        if isinstance(peer, Leaving) and question.what in (LEAVES, BLOCKS, BUCKETS):
            loop.call_later(ANSWER_S, self._handlers.on_peer_down, key)
            if peer.returns:
                loop.call_later(1, self._handlers.on_peer_up, key)
            return True
        answer = peer.answer(question, self._clock.now_s)
        if answer is not None:
            frame = encode((question.number, answer[1]))
            loop.call_later(answer[0], self._handlers.on_frame, key, Kind.SNAPSHOT_RESPONSE, frame)
        return True


class World:
    """Joins among some peers, until it is done or cannot."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._home, self._monkeypatch = home, monkeypatch
        self.clock = Clock()
        monkeypatch.setattr(joining, "time", SimpleNamespace(monotonic=lambda: self.clock.now_s))

    def join(self, peers: dict[bytes, Peer]) -> joining.Progress:
        assembly = Assembly(MemoryKeyValue(), GENESIS)
        progress = self._attempt(peers, lambda attempt: attempt.run(assembly))
        assert assembly.finish().height == progress.height
        return progress

    def learn(self, peers: dict[bytes, Peer], assembly: Any) -> None:
        """Of epochs, and no more."""

        async def learn(attempt: Join) -> None:
            await attempt._transport.start()
            await attempt._learn_epochs(assembly)

        self._attempt(peers, learn)

    def _attempt(
        self, peers: dict[bytes, Peer], run: Callable[[Join], Coroutine[Any, Any, object]]
    ) -> joining.Progress:
        def wire(*_: object, handlers: Handlers, **__: object) -> Wire:
            return Wire(peers, self.clock, handlers)

        self._monkeypatch.setattr(joining, "Transport", wire)
        attempt = Join(NodeConfig(home=self._home, p2p=P2P(port=0)), GENESIS, keys.generate(), LOG)
        with asyncio.Runner(loop_factory=self._loop) as runner:
            runner.run(run(attempt))
        return attempt.progress

    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop(self.clock)
        loop.time = lambda: self.clock.now_s  # type: ignore[method-assign]
        return loop


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def honest(count: int, height: int = LOWER) -> dict[bytes, Peer]:
    return {key.public: Peer(height) for key in KEYS[:count]}


WITHHOLDING = [Silent, Denying, Stopping, Climbing, Leaving, Dying]


@pytest.mark.parametrize("manner", [*WITHHOLDING, Dripping])
def test_one_who_withholds_a_higher_snapshot_keeps_nobody_from_joining_at_the_others(
    manner: Callable[[int], Peer], world: World
) -> None:
    """Trap 31."""
    progress = world.join({**honest(3), b"withholds": manner(HIGHER)})
    assert progress.height == LOWER
    assert set(progress.given_up) == {b"withholds"}
    assert not progress.liars, "nothing that it sent is wrong"
    limit_s = PATIENCE_S if manner is Dripping else 2 * ANSWER_S_MAX
    assert world.clock.now_s < limit_s + ANSWER_S_MAX


@pytest.mark.parametrize("manner", [*WITHHOLDING, Dripping])
def test_many_who_withhold_one_each_do_not_outlast_the_one_who_gives(
    manner: Callable[[int], Peer], world: World
) -> None:
    """Trap 31. Together they take longer than the patience with any of them."""
    liars = {b"withholds %d" % number: manner(height) for number, height in enumerate(HEIGHTS[-7:])}
    progress = world.join({**honest(1, HEIGHTS[-8]), **liars})
    assert progress.height == HEIGHTS[-8]


@pytest.mark.parametrize("manner", WITHHOLDING)
@pytest.mark.parametrize("others", [0, 1])
def test_where_nobody_gives_what_he_offers_it_ends_and_names_them(
    manner: Callable[[int], Peer], others: int, world: World
) -> None:
    peers: dict[bytes, Peer] = {b"withholds": manner(HIGHER), **honest(others, 0)}
    with pytest.raises(CannotJoin, match=b"withholds".hex()):
        world.join(peers)
    assert PATIENCE_S <= world.clock.now_s < 3 * PATIENCE_S
    assert len(peers[b"withholds"].asked) < 10 * PATIENCE_S, "it does not ask without a pause"


class Pausing(Peer):
    """Honest, but for a while nothing comes of it."""

    pause_from_s, pause_to_s = 0.1, 12.0

    def give(self, question: Question, now_s: float) -> tuple[float, Value] | None:
        return None if self.pause_from_s < now_s < self.pause_to_s else super().give(question, now_s)


def test_what_was_fetched_of_a_snapshot_stays_while_nobody_offers_another(world: World) -> None:
    """Trap 32."""
    pausing = Pausing(LOWER)
    progress = world.join({b"pausing": pausing, **honest(1, 0)})
    assert world.clock.now_s > Pausing.pause_to_s
    assert progress.given_up == {b"pausing": 1}
    assert progress.targets == 1
    pieces = [(question.what, question.first) for question in pausing.asked if question.what in (LEAVES, BLOCKS)]
    assert len(pieces) - len(set(pieces)) <= IN_FLIGHT_PER_PEER


class Late(Peer):
    """Honest, and has the higher one only after a while."""

    def answer(self, question: Question, now_s: float) -> tuple[float, Value] | None:
        if now_s > ANSWER_S_MAX / 2:
            self.height = HIGHER
        return super().answer(question, now_s)


def test_who_lacked_the_target_is_asked_for_it_again_once_it_offers_it(world: World) -> None:
    progress = world.join({b"late": Late(LOWER), b"withholds": Silent(HIGHER)})
    assert progress.height == HIGHER
    assert set(progress.peers) == {b"late"}


def test_of_slow_peers_with_a_snapshot_each_one_is_fetched_to_its_end(world: World) -> None:
    """Trap 31. A turn is shorter than the digests alone take: were it always, none would come to its end."""
    progress = world.join({b"slow %d" % height: Slow(height) for height in HEIGHTS[-3:]})
    assert progress.targets > 3
    assert world.clock.now_s < 60 * PATIENCE_S


def test_one_who_lacks_what_most_are_giving_does_not_turn_a_long_join_away(world: World) -> None:
    """Trap 31. It may well offer an older one, so as to have nodes join far behind."""
    progress = world.join({**{b"slow %d" % number: Slow(HIGHER) for number in range(2)}, b"lacks": Peer(LOWER)})
    assert world.clock.now_s > PATIENCE_S
    assert progress.height == HIGHER
    assert not progress.given_up


@pytest.mark.parametrize(("validators", "manner"), [(1, Denying), (2, Silent)])
def test_several_who_withhold_the_same_come_last_all_of_them(
    validators: int, manner: Callable[[int], Peer], world: World
) -> None:
    """Trap 31. f validators, with as many others as they like, do not count as peers that have moved on; nor do more
    of them who still have it."""
    withholding = [*(key.public for key in KEYS[:validators]), b"follower", b"another"]
    progress = world.join({KEYS[3].public: Peer(LOWER), **{key: manner(HIGHER) for key in withholding}})
    assert progress.height == LOWER
    assert set(progress.given_up) == set(withholding)


class Moving(Peer):
    """Honest, and has the next snapshot in place of the last after every tenth piece."""

    def give(self, question: Question, now_s: float) -> tuple[float, Value] | None:
        if self.height < HIGHER and len(self.asked) % 10 == 0:
            self.height += CHECKPOINT_INTERVAL
        return super().give(question, now_s)


def test_peers_that_move_on_together_come_before_one_that_is_behind(world: World) -> None:
    """Trap 31. Not for having been given up: what f + 1 offered and none has any more was not withheld."""
    moving: dict[bytes, Peer] = {key.public: Moving(HEIGHTS[1]) for key in KEYS[:2]}
    progress = world.join({**moving, b"behind": Peer(HEIGHTS[0])})
    assert progress.targets > 2
    assert progress.height == HIGHER
    assert not progress.given_up
    assert world.clock.now_s < ANSWER_S_MAX, "it is seen at once"


class SilentAboutAll(Peer):
    """Says what it offers, and nothing else."""

    def answer(self, question: Question, now_s: float) -> tuple[float, Value] | None:
        return super().answer(question, now_s) if question.what == OFFER else None


def test_one_who_is_silent_does_not_make_peers_that_have_moved_on_look_like_withholding(world: World) -> None:
    moving: dict[bytes, Peer] = {key.public: Moving(HEIGHTS[1]) for key in KEYS[:2]}
    progress = world.join({**moving, b"silent": SilentAboutAll(0)})
    assert progress.targets > 2
    assert not progress.given_up


class Forging(SilentAboutAll):
    """Offers what nobody has, of an epoch that nobody knows of."""

    def offer(self) -> Value:
        certificate, header, top = SOURCE.offer(LOWER)  # type: ignore[misc]
        forged = CheckpointCertificate.from_value(certificate)
        return replace(forged, epoch=forged.epoch + 1_000, height=forged.height + 100_000).to_value(), header, top


@pytest.mark.parametrize("forgers", [1, 10])
def test_offers_of_an_epoch_that_nobody_knows_of_cost_one_wait_for_an_answer_however_many(
    forgers: int, world: World
) -> None:
    """Trap 31. They are the highest, and each was waited for by itself, while what is honest grew old."""
    world.join({**{b"forges %d" % number: Forging(0) for number in range(forgers)}, **honest(1)})
    assert world.clock.now_s < 2 * ANSWER_S_MAX


class Knowing(Peer):
    """Knows of as many epochs, and says so many at once."""

    epochs, at_once, after_s = 160, 16, ANSWER_S

    def answer(self, question: Question, now_s: float) -> tuple[float, Value] | None:
        assert question.what == EPOCHS
        return self.after_s, tuple(range(question.first, min(question.first + self.at_once, self.epochs)))


class Trickling(Knowing):
    at_once, after_s = 1, ANSWER_S_MAX - 1


class Counted:
    """An assembly that counts epochs, whatever closed them."""

    epoch = 0

    def take_epochs(self, first: int, values: Value) -> int:
        assert isinstance(values, tuple)
        new = max(0, first + len(values) - self.epoch)
        self.epoch += new
        return new


def test_one_who_tells_epochs_one_by_one_sets_the_pace_for_nobody(world: World) -> None:
    """Trap 31. Whoever was asked first was asked as long as he led on: 26 minutes for 160 epochs."""
    epochs_of = Counted()
    world.learn({b"trickles": Trickling(0), **{key.public: Knowing(0) for key in KEYS}}, epochs_of)
    assert epochs_of.epoch == Knowing.epochs
    assert world.clock.now_s < 3 * ANSWER_S_MAX
