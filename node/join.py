"""Joining a long chain by a snapshot: fetched in pieces from several peers at once, none of them trusted.

Epochs of validators lead from genesis to the checkpoint that is offered; each piece is checked under it before it is
written (storage/assembly.py). A peer whose piece is wrong is named, dropped and not asked again; one that does not
answer loses its turn. What was fetched stays in `joining/`, so that a join that was cut off goes on.

What is offered may be withheld: a target is certified, but that anybody gives it is only hoped for. One that is in vain
is given up for what else is offered, higher or lower. Peers that have moved on are followed; any others who offered it
come last from then on, so each liar costs a turn.

Must not know: consensus. The node that starts on what comes of it catches up by blocks.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger.block import CheckpointCertificate
from ledger.codec import Value, decode
from ledger.crypto import KeyPair, self_test
from ledger.errors import Code, CodecError
from ledger.genesis import Genesis
from ledger.stateproof import BUCKETS
from node.config import NodeConfig
from node.home import check_new, read_genesis, take_place
from node.network import transport_config
from node.snapshots import BLOCKS, EPOCHS, LEAVES, OFFER, Question
from node.snapshots import BUCKETS as BUCKETS_OF
from p2p.config import Handlers, Log
from p2p.errors import Fault
from p2p.frames import KINDS, Kind
from p2p.transport import Transport
from storage import schema
from storage.assembly import Assembly, BadPiece
from storage.chain import ChainStore
from storage.datadir import complete
from storage.leveldb import LevelDB
from storage.migrations import upgrade
from storage.shortening import mute_if_signed

JOINING = "joining"
ANSWER_S_MAX = 10.0
OFFERS_S = 2.0  # how long peers that are slow to say what they offer are waited for
# An entry of the state takes 13 bytes or more for its two items, a receipt 38 for its four.
ANSWER_ITEMS_MAX = KINDS[Kind.SNAPSHOT_RESPONSE].size_bytes_max // 6
IN_FLIGHT_PER_PEER = 2  # one is checked while the next is on its way
BUCKETS_PER_PIECE = 128
PATIENCE_S = 60.0  # without a piece from anybody
AGAIN_S = 0.5
OTHERWISE = "start the node, and it fetches all blocks"


class CannotJoin(Exception):
    """No snapshot can be had; the text says why and what to do. `code` is the number users see."""

    def __init__(self, text: str, code: Code = Code.UNREACHABLE) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class Progress:
    """How far it is. `size_bytes` is of all answers."""

    height: int = 0
    buckets_done: int = 0
    buckets: int = BUCKETS
    blocks_left: int = 0
    size_bytes: int = 0
    started_s: float = field(default_factory=time.monotonic)
    taken: Counter[str] = field(default_factory=Counter)  # buckets and blocks of this attempt, by the question's kind
    taken_bytes: Counter[str] = field(default_factory=Counter)
    waits_for: str = ""  # what keeps it from beginning, in words; nothing once it has begun
    peers: dict[bytes, int] = field(default_factory=dict)  # pieces by peer
    liars: dict[bytes, str] = field(default_factory=dict)
    given_up: Counter[bytes] = field(default_factory=Counter)  # targets, by who offered them
    targets: int = 0

    @property
    def rate_bytes_per_s(self) -> float:
        return self.size_bytes / max(time.monotonic() - self.started_s, 1e-3)

    @property
    def left_s(self) -> float | None:
        """At the rate so far, by what each kind has taken; None while that cannot be said."""
        left_bytes = 0.0
        for kind, left in ((BUCKETS_OF, self.buckets - self.buckets_done), (BLOCKS, self.blocks_left)):
            if left and not (self.buckets_done and self.taken[kind]):
                return None
            left_bytes += left * self.taken_bytes[kind] / max(self.taken[kind], 1)
        return left_bytes / self.rate_bytes_per_s if left_bytes else 0.0


@dataclass(slots=True)
class _Peer:
    key: bytes
    waiting: dict[int, tuple[str, asyncio.Future[Value]]] = field(default_factory=dict)  # the question's kind
    stalled_until_s: float = 0.0
    lacks: int = 0  # the target that it says it has not
    asked: int = 0  # the number of the last question


class Join:
    """One attempt, over a transport of its own. `told` hears the progress after each piece."""

    def __init__(
        self,
        config: NodeConfig,
        genesis: Genesis,
        key: KeyPair,
        log: Log,
        told: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.progress = Progress()
        self._config, self._genesis, self._log, self._told = config, genesis, log, told
        self._key = key.public
        self._peers: dict[bytes, _Peer] = {}
        self._owed: Counter[bytes] = Counter()  # answers; they may come over a later connection than the question
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self._offered_by: list[bytes] = []  # the target
        self._patient_until_s = 0.0
        known = frozenset(bytes.fromhex(peer.key) for peer in config.p2p.peers)
        members = frozenset(genesis.validator_set.keys)

        def allowed(peer: bytes) -> str | None:
            return "validator" if peer in members else "follower" if peer in known else None

        self._transport = Transport(
            transport_config(config),
            key,
            genesis.chain_id,
            role="follower",
            handlers=Handlers(self._on_frame, self._on_peer_up, self._on_peer_down),
            allowed=allowed,
            rng=random.Random(),  # noqa: S311 - spreads reconnections, decides nothing
            log=log,
        )

    async def run(self, assembly: Assembly) -> None:
        """Until all pieces are there. CannotJoin when nobody gives any for PATIENCE_S."""
        await self._transport.start()
        try:
            self._transport.set_members(self._genesis.validator_set.keys)
            for peer in self._config.p2p.peers:
                self._transport.add_address(bytes.fromhex(peer.key), peer.host, peer.port)
            while not assembly.is_complete():
                await self._learn_epochs(assembly)
                await self._aim(assembly)
                await self._fetch(assembly)
        finally:
            await self._transport.stop()

    # Peers

    def _on_peer_up(self, key: bytes) -> None:
        if key not in self.progress.liars:
            self._peers[key] = _Peer(key)
            self._changed.set()

    def _on_peer_down(self, key: bytes) -> None:
        peer = self._peers.pop(key, None)
        if peer is not None:
            for _, future in peer.waiting.values():
                future.cancel()

    def _on_frame(self, key: bytes, kind: Kind, payload: bytes) -> None:
        peer = self._peers.get(key)
        if kind is not Kind.SNAPSHOT_RESPONSE or peer is None:
            return
        if not self._owed[key]:
            self._blame(peer, "an answer to no question", Fault.UNSOLICITED)
            return
        self._owed[key] -= 1
        if not peer.waiting:  # too late
            return
        limit = KINDS[kind].size_bytes_max
        try:
            match decode(payload, size_bytes_max=limit, items_max=ANSWER_ITEMS_MAX, depth_max=12):
                case (int(number), value):
                    kind_asked, future = peer.waiting.pop(number, ("", None))
                    if future is not None and not future.done():
                        self.progress.size_bytes += len(payload)
                        self.progress.taken_bytes[kind_asked] += len(payload)
                        future.set_result(value)
                case _:
                    raise CodecError("not an answer about a snapshot")
        except CodecError as error:
            self._blame(peer, str(error))

    def _blame(self, peer: _Peer, reason: str, fault: Fault = Fault.MALFORMED_PAYLOAD) -> None:
        """Never asked again; told to the operator by name."""
        self.progress.liars[peer.key] = reason
        self._log.warning("a peer's piece is wrong", peer=peer.key.hex(), reason=reason)
        self._on_peer_down(peer.key)
        self._transport.misbehaved(peer.key, fault)

    async def _ask(self, peer: _Peer, what: str, height: int = 0, first: int = 0, last: int = 0) -> Value:
        """TimeoutError when there is no answer; the peer then waits for its next turn."""
        number = next(self._numbers)
        future: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        peer.waiting[number], peer.asked = (what, future), number
        question = Question(number, what, height, first, last)
        try:
            if not self._transport.send(peer.key, Kind.SNAPSHOT_REQUEST, question.encode()):
                raise TimeoutError
            self._owed[peer.key] += 1
            async with asyncio.timeout(ANSWER_S_MAX):
                return await future
        except TimeoutError:
            peer.stalled_until_s = time.monotonic() + ANSWER_S_MAX
            raise
        except asyncio.CancelledError:
            if future.cancelled():  # the connection is gone, not this task
                raise TimeoutError from None
            raise
        finally:
            peer.waiting.pop(number, None)

    def _ready(self) -> list[_Peer]:
        now_s = time.monotonic()
        return [peer for peer in self._peers.values() if peer.stalled_until_s <= now_s]

    async def _some_peer(self) -> list[_Peer]:
        """Those that may be asked now; waits until there is one."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            found = self._ready()
            if found:
                return found
            self._wait_for(
                f"{len(self._peers)} peers are connected, and none answers" if self._peers else
                "no peer is connected: those in p2p.peers must be reachable, and know this node's key "
                f"({self._key.hex()}, in their p2p.known_keys)"
            )  # fmt: skip
            if time.monotonic() > deadline_s:
                raise CannotJoin(f"{self.progress.waits_for}; waited {PATIENCE_S:.0f} s")
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S):
                    await self._changed.wait()

    # What leads to the target

    async def _learn_epochs(self, assembly: Assembly) -> set[bytes]:
        """As far as any peer knows: all are asked at once, so that none sets the pace. Returns those who know no later
        one."""
        over: set[bytes] = set()
        silent: set[bytes] = set()
        asked: dict[asyncio.Task[Value], tuple[_Peer, int]] = {}
        try:
            while True:
                busy = {peer.key for peer, _ in asked.values()}
                for peer in self._ready() if asked else await self._some_peer():
                    if peer.key not in busy | over | silent:
                        asked[asyncio.create_task(self._ask(peer, EPOCHS, first=assembly.epoch))] = peer, assembly.epoch
                if not asked:
                    return over
                for task in (await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED))[0]:
                    peer, first = asked.pop(task)
                    try:
                        if not assembly.take_epochs(first, task.result()) and first == assembly.epoch:
                            over.add(peer.key)
                    except BadPiece as error:
                        self._blame(peer, str(error))
                    except TimeoutError:
                        silent.add(peer.key)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _aim(self, assembly: Assembly) -> None:
        """At the highest checkpoint that is offered and certified, of those whose offers were given up least often."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            offers = await self._offers()
            within = [one for one in offers if one[0].epoch <= assembly.epoch]
            for certificate, peer, value in within:
                if not self._is_aimed_at(assembly, certificate, peer, value):
                    continue
                offering = [each for offered, each, _ in offers if offered.height == certificate.height]
                for each in offering:
                    each.lacks = 0  # who lacked it may have come to it since
                self._offered_by = [each.key for each in offering]
                if not self.progress.given_up[peer.key]:  # once for each peer, so there is an end to it
                    self._patient_until_s = time.monotonic() + PATIENCE_S
                return
            if len(within) < len(offers):  # an epoch began, or so somebody says
                leading = await self._learn_epochs(assembly)
                for certificate, peer, _ in offers:
                    if peer.key in leading and certificate.epoch > assembly.epoch:
                        self._blame(peer, "an offer of an epoch that nobody can lead to, nor its sender")
            self._wait_for(
                f"{len(self._peers)} peers are connected, and none offers a snapshot of a certified checkpoint"
            )
            if time.monotonic() > deadline_s:
                raise CannotJoin(f"no peer offers a snapshot of a certified checkpoint{self._withheld()}; {OTHERWISE}")
            await asyncio.sleep(AGAIN_S)

    def _is_aimed_at(self, assembly: Assembly, certificate: CheckpointCertificate, peer: _Peer, value: Value) -> bool:
        """Aim at this offer, if it is certified. What is here of the target already stays."""
        if assembly.target is not None and certificate.height == assembly.target.certificate.height:
            return True
        try:
            assembly.aim(value)
        except BadPiece as error:
            self._blame(peer, str(error))
            return False
        self.progress.height = certificate.height
        self.progress.targets += 1
        return True

    async def _offers(self) -> list[tuple[CheckpointCertificate, _Peer, Value]]:
        """Who offers which checkpoint, unchecked, in the order in which they are worth a try."""
        peers = await self._some_peer()
        asked = [asyncio.create_task(self._ask(peer, OFFER)) for peer in peers]
        await asyncio.wait(asked, timeout=OFFERS_S)
        found: list[tuple[CheckpointCertificate, _Peer, Value]] = []
        for peer, task in zip(peers, asked, strict=True):
            if not task.done() or task.exception() is not None:
                task.cancel()
                continue
            value = task.result()
            if value is not None:
                try:
                    found.append((_certificate_of(value), peer, value))
                except CodecError as error:
                    self._blame(peer, str(error))
        return sorted(found, key=lambda one: (self.progress.given_up[one[1].key], -one[0].height))

    # The pieces

    async def _fetch(self, assembly: Assembly) -> None:
        """All that is missing of the target. Returns early when it is in vain."""
        work = _Work(assembly)
        began_s = heard_s = time.monotonic()
        tasks: set[asyncio.Task[bool]] = set()
        try:
            while not assembly.is_complete():
                self._report(assembly)
                for peer in self._idle():
                    question = work.next(self.progress.height)
                    if question is None:
                        break
                    tasks.add(asyncio.create_task(self._piece(peer, question, work)))
                if self._is_in_vain(began_s, heard_s):
                    await self._give_up()
                    return
                if not tasks:
                    await asyncio.sleep(AGAIN_S)
                    continue
                done, tasks = await asyncio.wait(tasks, timeout=AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
                if any(task.result() for task in done):
                    heard_s = time.monotonic()
                    self._patient_until_s = heard_s + PATIENCE_S
            self._report(assembly)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _is_in_vain(self, began_s: float, heard_s: float) -> bool:
        """Whether to see what else is offered: nobody has the target, or who has it is silent, or slow where most have
        not. The turn of a slow one grows each time, or none of several that are merely slow would come to its end."""
        lacking = sum(peer.lacks == self.progress.height for peer in self._peers.values())
        now_s = time.monotonic()
        if not lacking:
            return now_s - heard_s > PATIENCE_S
        turn_s = PATIENCE_S * (1 + min(self.progress.given_up[key] for key in self._offered_by))
        is_slow = now_s - began_s > turn_s and 2 * lacking > len(self._peers)
        return lacking == len(self._peers) or now_s - heard_s > ANSWER_S_MAX or is_slow

    async def _give_up(self) -> None:
        """What is aimed at. CannotJoin when that is the end of the patience, too."""
        height, validators = self.progress.height, self._genesis.validator_set
        lacking = sum(
            key in self._peers and self._peers[key].lacks == height
            for key in self._offered_by
            if validators.index(key) is not None
        )
        if lacking > validators.f:
            self._log.info("the peers have moved on", height=height)  # who say so; one of f + 1 is honest
        else:
            for key in self._offered_by:
                if key not in self.progress.given_up:
                    self._log.warning("a snapshot is offered and not given", height=height, peer=key.hex())
            self.progress.given_up.update(self._offered_by)
        if time.monotonic() > self._patient_until_s:
            raise CannotJoin(f"no peer gives a piece for {PATIENCE_S:.0f} s{self._withheld()}; {OTHERWISE}")
        await asyncio.sleep(AGAIN_S)

    def _withheld(self) -> str:
        names = ", ".join(sorted(key.hex() for key in self.progress.given_up))
        return f" (offered, and not given: by {names})" if names else ""

    def _idle(self) -> list[_Peer]:
        """Those with the target and room for another question, the least busy first, and in turn."""
        found = [
            peer
            for peer in self._ready()
            if peer.lacks != self.progress.height and len(peer.waiting) < IN_FLIGHT_PER_PEER
        ]
        return sorted(found, key=lambda peer: (len(peer.waiting), peer.asked))

    async def _piece(self, peer: _Peer, question: tuple[str, int, int], work: _Work) -> bool:
        """Ask for one and use it; whether it was any good."""
        what, first, last = question
        height = self.progress.height
        try:
            value = await self._ask(peer, what, height, first, last)
            if value is None:
                peer.lacks = height
            elif height == self.progress.height:
                self.progress.taken[what] += work.take(question, value)
                self.progress.peers[peer.key] = self.progress.peers.get(peer.key, 0) + 1
                return True
        except BadPiece as error:
            self._blame(peer, str(error))
        except TimeoutError:
            pass
        finally:
            work.over(question)
        return False

    def _wait_for(self, what: str) -> None:
        self.progress.waits_for = what
        self._told(self.progress)

    def _report(self, assembly: Assembly) -> None:
        self.progress.waits_for = ""
        known = not assembly.missing_parts()
        self.progress.buckets_done = BUCKETS - assembly.buckets_left if known else 0
        self.progress.blocks_left = assembly.blocks_left
        self._told(self.progress)


class _Work:
    """What is still to be asked for, and what is on its way."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly
        self._asked: set[tuple[str, int, int]] = set()
        self._ranges: deque[tuple[int, int]] | None = None

    def next(self, height: int) -> tuple[str, int, int] | None:
        """(what, first, last) of something missing that nobody is asked for."""
        assembly = self._assembly
        candidates: list[tuple[str, int, int]] = [(LEAVES, part, part) for part in assembly.missing_parts()]
        if assembly.next_block:
            candidates.append((BLOCKS, assembly.next_block, 0))
        for question in candidates:
            if question not in self._asked:
                self._asked.add(question)
                return question
        if assembly.missing_parts():
            return None
        return self._next_range()

    def _next_range(self) -> tuple[str, int, int] | None:
        if not self._ranges:
            on_the_way = [(first, last) for what, first, last in self._asked if what == BUCKETS_OF]
            if on_the_way:
                return None
            self._ranges = deque(_ranges(self._assembly.missing_buckets()))
        if not self._ranges:
            return None
        question = (BUCKETS_OF, *self._ranges.popleft())
        self._asked.add(question)
        return question

    def take(self, question: tuple[str, int, int], value: Value) -> int:
        """How many buckets or blocks fewer are missing. BadPiece if it is not what was asked for."""
        what, first, last = question
        missing = self._assembly.buckets_left
        if what == LEAVES:
            self._assembly.take_leaves(first, value)
        elif what == BLOCKS:
            if first == self._assembly.next_block:
                return self._assembly.take_blocks(value)
        else:
            taken = self._assembly.take_buckets(first, value)
            if first + taken <= last and self._ranges is not None:
                self._ranges.append((first + taken, last))
            return missing - self._assembly.buckets_left
        return 0

    def over(self, question: tuple[str, int, int]) -> None:
        self._asked.discard(question)


def _ranges(buckets: list[int]) -> list[tuple[int, int]]:
    """Buckets as ranges of BUCKETS_PER_PIECE at most; what lies between two comes along, a question costs more."""
    found: list[tuple[int, int]] = []
    for bucket in buckets:
        if found and bucket - found[-1][0] < BUCKETS_PER_PIECE:
            found[-1] = found[-1][0], bucket
        else:
            found.append((bucket, bucket))
    return found


def _certificate_of(value: Value) -> CheckpointCertificate:
    match value:
        case (certificate, _, _):
            return CheckpointCertificate.from_value(certificate)
    raise CodecError("not an offer")


async def join(
    config: NodeConfig,
    key: KeyPair,
    log: Log,
    told: Callable[[Progress], None] = lambda progress: None,
    *,
    keep_key: bool = False,
) -> tuple[int, bool, Progress]:
    """Make the node's data of a snapshot: (height, whether its key may sign, what it took). AlreadyInitialised where
    there is more than a new chain, CannotJoin, or a storage error; what was fetched stays for the next attempt.

    The data do not tell what the node signed before. Unless `keep_key` says that it never ran, a validator's key is
    muted before the folder is a node's.
    """
    self_test()
    genesis = read_genesis(config.genesis_path)
    check_new(config)
    if not config.p2p.peers:
        raise CannotJoin("p2p.peers in medchain.toml is empty: there is nobody to ask", Code.BAD_CONFIGURATION)
    draft = config.home / JOINING
    draft.mkdir(mode=0o700, exist_ok=True)
    progress = Progress()
    with closing(_open(draft / "db")) as kv:
        if kv.get(schema.FORMAT_KEY) is None:
            assembly = Assembly(kv, genesis)
            attempt = Join(config, genesis, key, log, told)
            progress = attempt.progress
            await attempt.run(assembly)
            assembly.finish()
        upgrade(kv)  # of an attempt that was killed just before its end, and software since
        store = ChainStore(kv)
        height = store.tip.height
        if not keep_key:
            mute_if_signed(store, draft / "wal", key.public)
        # Also one that a former attempt muted.
        signs = not store.is_muted(key.public, for_good=True)
        kv.settle()
    complete(draft)
    take_place(config, draft)
    return height, signs, progress


def _open(path: Path) -> Any:
    return LevelDB(path, create=not path.exists() or not any(path.iterdir()))
