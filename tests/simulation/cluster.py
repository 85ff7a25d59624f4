"""A deterministic cluster in memory: whole replicas (engine, pool, execution, catching up) under one seed.

Time, network, disks and signatures are simulated; frames are encoded and decoded on every delivery. Integers and
passed-in `random.Random`s only. The world lives here: the queue of events, the network, who may sign what, and work for
the nodes.

Must not know: plans (plan.py, runs.py) or how a Byzantine node lies (byzantine.py).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from zlib import crc32

from consensus import messages
from consensus.events import Evidence, Fired, Received
from consensus.messages import Message
from ledger.block import CertifiedBlock
from ledger.crypto import KeyPair, hash_bytes, verify, verify_joined
from ledger.errors import Reject
from ledger.execution import BlockResult, Executor
from ledger.genesis import Genesis, Parameters
from ledger.modules import members, payments
from ledger.rules import Registry
from ledger.transaction import Batch, Transaction
from p2p.frames import Kind
from storage.chain import ChainStore
from storage.memory import MemoryKeyValue
from tests.simulation.checkers import Checkers
from tests.simulation.node import WALL_MS, SimulatedNode
from tests.simulation.options import Options
from tests.simulation.trace import Trace

__all__ = ["CURRENCY", "WALL_MS", "Cluster", "Options", "SimulatedNode", "TokenSigner", "key_of", "make_genesis"]

CURRENCY = "CNY"
DELIVERIES_MAX = 2_000_000  # a run has some thousands
HELD_MAX = 4_000  # what the network keeps for a stopped process


class TokenSigner:
    """Signatures nobody else can make: a token per signer and statement, checked against a register of what was
    signed. With `real` they are Ed25519's, and the register only tells who made one.
    """

    def __init__(self, keys: dict[bytes, KeyPair] | None = None) -> None:
        self._keys = keys
        self._made: dict[bytes, tuple[bytes, bytes]] = {}
        # Every node checks what every other sends: with real signatures, most of a run's time.
        self._verify = lru_cache(maxsize=16_384)(verify)

    def sign(self, public: bytes, statement: bytes) -> bytes:
        if self._keys is not None:
            token = self._keys[public].sign(statement)
        else:
            token = b"\x01" + hash_bytes(public + statement)[1:] * 2
        self._made[token] = (public, statement)
        return token

    def check(self, public: bytes, statement: bytes, signature: bytes) -> bool:
        if self._keys is not None:
            return self._verify(public, statement, signature)
        return self._made.get(signature) == (public, statement)

    def signer_of(self, signature: bytes) -> bytes | None:
        made = self._made.get(signature)
        return None if made is None else made[0]


@lru_cache(maxsize=256)
def key_of(index: int) -> KeyPair:
    return KeyPair.from_seed(hash_bytes(b"simulated %d" % index)[1:])


def make_genesis(n: int, parameters: Parameters) -> Genesis:
    keys = [key_of(index) for index in range(n)]
    institutions = [
        {"id": f"h{index}", "roles": ["hospital", "insurer"], "keys": [key.public.hex()]}
        for index, key in enumerate(keys)
    ]
    return Genesis(
        "simulation",
        WALL_MS,
        tuple(key.public for key in keys),
        {
            "members": {"institutions": institutions},
            "payments": {
                "currencies": [{"code": CURRENCY, "issuer": "h0", "exponent": 2}],
                "balances": [{"currency": CURRENCY, "owner": f"h{i}", "amount": 1_000_000} for i in range(n)],
            },
        },
        development=True,
        parameters=parameters,
    )


@dataclass(frozen=True, slots=True)
class Submitted:
    """A transaction that a node took; its promise ends with that life of the node."""

    tx_id: bytes
    node: int
    life: int
    valid_until: int


class Cluster:
    """The world: event queue, network, checkers."""

    CURRENCY = CURRENCY

    def __init__(self, seed: int, options: Options | None = None, trace: Trace | None = None) -> None:
        self.options = options or Options()
        self.random = Random(seed)
        self.disk_random = Random(seed + 1)
        self.seed = seed
        self.trace = trace
        self.now_ms = 0
        self.signer = self._make_signer()
        self.genesis = make_genesis(self.options.n, self.options.parameters)
        self.registry = Registry([members.module(self.signer.check), payments.MODULE])
        self._queue: list[tuple[int, int, SimulatedNode | None, int, Callable[[], None]]] = []
        self._order = 0
        self.cut: set[tuple[int, int]] = set()
        self._links: dict[tuple[int, int], int] = {}  # connections that are up -> their number
        self._unheard: Counter[tuple[int, int, str]] = Counter()  # kinds of messages that are lost between two nodes
        self._trouble = {(a, b): (delay_ms, loss) for a, b, delay_ms, loss in self.options.links}
        self.checkers = Checkers(self)
        self.blocks, self.roots, self.receipts = self.checkers.blocks, self.checkers.roots, self.checkers.receipts
        self.blamed: list[tuple[int, str]] = []
        self.evidence: list[Evidence] = []
        self.submitted: list[Submitted] = []
        self.sent: list[Transaction] = []
        self.coverage: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()  # what ended Byzantine nodes
        self.deliveries = 0
        self.hash = 0  # of everything delivered and when: two runs with the same are the same
        self._sent = 0
        self._signed: dict[bytes, bool] = {}  # transactions on the wire -> whether their signature is valid
        self._store: MemoryKeyValue | None = None
        self.nodes: list[SimulatedNode] = []
        self._by_key: dict[bytes, SimulatedNode] = {}
        for index in range(self.options.n + self.options.followers):
            node = self.make_node(index)
            self.nodes.append(node)
            self._by_key[node.key.public] = node
        for node in self.nodes:
            node.boot()

    def _make_signer(self) -> TokenSigner:
        if not self.options.ed25519:
            return TokenSigner()
        keys = [key_of(index) for index in range(self.options.n + self.options.followers)]
        return TokenSigner({key.public: key for key in keys})

    # Nodes

    def make_node(self, index: int) -> SimulatedNode:
        """An honest node, or one that follows the strategy `options.byzantine` names for it."""
        name = self.options.byzantine.get(index)
        if name is None:
            return SimulatedNode(self, index)
        # Only here: that module builds on this one.
        from tests.simulation import byzantine

        return byzantine.make(name, self, index)

    def key_of(self, index: int) -> KeyPair:
        return key_of(index)

    def node_of(self, key: bytes) -> SimulatedNode | None:
        return self._by_key.get(key)

    def empty_store(self) -> MemoryKeyValue:
        """A new node's store: the genesis, written once and copied."""
        if self._store is None:
            self._store = MemoryKeyValue()
            changes, tip = Executor(self.genesis, self.registry).begin()
            ChainStore.create(self._store, self.genesis.to_json(), changes, tip)
        return self._store.crash(self._store.unsynced_count)

    def is_honest(self, node: SimulatedNode) -> bool:
        return node.index not in self.options.byzantine

    @property
    def honest(self) -> list[SimulatedNode]:
        """The nodes whose promises are checked."""
        return [node for node in self.nodes if self.is_honest(node)]

    def on_boot(self, node: SimulatedNode) -> None:
        """Watch what goes in and out of its engine."""
        self.note("boot", node)
        engine, count = node.replica.engine, self.coverage
        inner = engine.step

        def step(event: object, now_ms: int, wall_ms: int) -> list[object]:
            count[f"input/{type(event).__name__}"] += 1
            if type(event) is Received:
                count[f"message/{_kind_of(event.verified.message)}"] += 1
            elif type(event) is Fired:
                count[f"timer/{event.timer.value}"] += 1
            effects: list[object] = inner(event, now_ms, wall_ms)  # type: ignore[arg-type,assignment]
            for effect in effects:
                count[f"effect/{type(effect).__name__}"] += 1
            return effects

        if self.is_honest(node):
            engine.step = step  # type: ignore[method-assign,assignment]
        if self.trace is not None:
            node.replica.on_view = lambda view, changing: self.note(
                f"{'leaves for' if changing else 'is in'} view {view}", node
            )

    def on_crash(self, node: SimulatedNode) -> None:
        self.note("crash", node)
        self.collect(node)

    def collect(self, node: SimulatedNode) -> None:
        """Take over what a life's engine counted."""
        if self.is_honest(node):
            for reason, count in node.replica.engine.ignored.items():
                self.coverage[f"refusal/{reason}"] += count

    def note(self, what: str, node: SimulatedNode | None = None) -> None:
        if self.trace is not None:
            self.trace.note(self.now_ms, None if node is None else node.index, what)

    # Time

    def later(self, node: SimulatedNode | None, delay_ms: int, action: Callable[[], None]) -> None:
        self._order += 1
        life = node.life if node else 0
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._order, node, life, action))

    def run(self, duration_ms: int, until: Callable[[], bool] | None = None) -> bool:
        """Run for a while of simulated time, or until a condition holds; True if it does."""
        end_ms = self.now_ms + duration_ms
        queue, after_event = self._queue, self.checkers.after_event
        while queue and queue[0][0] <= end_ms:
            at_ms, _, node, life, action = heapq.heappop(queue)
            self.now_ms = at_ms
            if node is None:
                action()
            elif not node.alive or node.life != life:
                continue
            elif node.paused:
                node.held.append((life, action))
                continue
            elif node.index in self.options.byzantine:
                self._run_byzantine(node, action)
            else:
                action()
                if node.alive:
                    after_event(node)
            if until is not None and until():
                return True
        self.now_ms = end_ms
        return until is not None and until()

    def _run_byzantine(self, node: SimulatedNode, action: Callable[[], None]) -> None:
        """What it does to itself harms nobody else: such a process ends. Told in the report, since it may be a mistake
        in the strategy."""
        try:
            action()
        except Exception as error:
            self.broken[f"{self.options.byzantine[node.index]}: {type(error).__name__}: {str(error)[:60]}"] += 1
            if node.alive:
                node.crash(power=False)

    def pause(self, node: SimulatedNode) -> None:
        """Stop the process: its timers and everything sent to it wait."""
        if node.alive and not node.paused:
            node.paused = True
            self.note("pause", node)
            if self.options.disconnect_ms:
                self.later(None, self.options.disconnect_ms, self._give_up_silent)

    def resume(self, node: SimulatedNode) -> None:
        if not node.paused:
            return
        node.paused = False
        self.note("resume", node)
        held, node.held = node.held, []
        for life, action in held:
            if life == node.life:
                self.later(node, 0, action)
        # First it sees which connections broke: what came through those is lost, and they may come up again.
        broken, node.broken = node.broken, []
        for key in broken:
            node.replica.on_peer_down(key)
        self._reconnect_all()

    def sync_takes_ms(self) -> int:
        options = self.options
        low, high = options.fsync_ms
        if options.stall_permille and self.disk_random.randrange(1_000) < options.stall_permille:
            low, high = options.stall_ms
        return self.disk_random.randint(low, high)

    # Network

    def connect(self, one: SimulatedNode, other: SimulatedNode) -> None:
        if not one.alive or not other.alive or (one.index, other.index) in self._links:
            return
        if one.paused or other.paused:
            return  # tried again when they go on
        self._order += 1
        for a, b in ((one, other), (other, one)):
            self._links[a.index, b.index] = self._order
        one.replica.on_peer_up(other.key.public)
        other.replica.on_peer_up(one.key.public)

    def reconnect(self, one: SimulatedNode, other: SimulatedNode) -> None:
        """Connect soon, if a connection can come to be."""
        low, high = self.options.reconnect_ms
        if high == 0:
            self.connect(one, other)
        else:
            self.later(None, self.random.randint(low, high), lambda: self._try_connect(one, other))

    def _try_connect(self, one: SimulatedNode, other: SimulatedNode) -> None:
        if not self._is_silent(one, other):
            self.connect(one, other)

    def _is_silent(self, one: SimulatedNode, other: SimulatedNode) -> bool:
        cut = (one.index, other.index) in self.cut and (other.index, one.index) in self.cut
        return cut or one.paused or other.paused

    def disconnect(self, one: SimulatedNode, other: SimulatedNode) -> None:
        """Both sides learn of it, a stopped one when it goes on."""
        if self._links.pop((one.index, other.index), None) is None:
            return
        del self._links[other.index, one.index]
        for node, peer in ((one, other), (other, one)):
            if node.alive:
                if node.paused:
                    node.broken.append(peer.key.public)
                else:
                    node.replica.on_peer_down(peer.key.public)

    def _give_up_silent(self) -> None:
        for a, one in enumerate(self.nodes):
            for other in self.nodes[a + 1 :]:
                if self._is_silent(one, other):
                    self.disconnect(one, other)

    def _reconnect_all(self) -> None:
        for a, one in enumerate(self.nodes):
            for other in self.nodes[a + 1 :]:
                if one.alive and other.alive and (one.index, other.index) not in self._links:
                    self.reconnect(one, other)

    def transmit(self, sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> None:
        self._carry(sender, key, kind, payload)
        # Whoever lies may also tell those whom it does not concern.
        if sender.index in self.options.byzantine and self.random.randrange(50) == 0:
            self._carry(sender, self.nodes[self.random.randrange(len(self.nodes))].key.public, kind, payload)

    def _carry(self, sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> None:
        receiver = self._by_key.get(key)
        if receiver is None or not receiver.alive:
            return
        pair = (sender.index, receiver.index)
        link = self._links.get(pair)
        if pair in self.cut or link is None or len(receiver.held) > HELD_MAX:
            return
        if self._unheard and (sender.index, receiver.index, name_of(kind, payload)) in self._unheard:
            return
        options, random = self.options, self.random
        slower_ms, loss = self._trouble.get(pair, (0, 0))
        loss += options.loss
        if loss and random.randrange(100) < loss:
            if self.trace is not None:
                self.trace.lost(self.now_ms, sender.index, receiver.index, kind, payload)
            return
        sent_ms = self.now_ms
        copies = 2 if options.duplication and random.randrange(100) < options.duplication else 1
        for _ in range(copies):
            low, high = options.delay_ms
            if options.long_delay_permille and random.randrange(1_000) < options.long_delay_permille:
                low, high = options.long_delay_ms
            delay_ms = slower_ms + random.randint(low, high)
            self.later(receiver, delay_ms, lambda: self._arrive(sender, receiver, link, sent_ms, kind, payload))

    def _arrive(
        self, sender: SimulatedNode, receiver: SimulatedNode, link: int, sent_ms: int, kind: Kind, payload: bytes
    ) -> None:
        if self._links.get((sender.index, receiver.index)) != link:
            return  # what was on its way when a connection broke is lost
        self.deliveries += 1
        if self.deliveries > DELIVERIES_MAX:
            self.checkers.fail("there is no end to what is said")
        self.coverage[f"frame/{kind.name.lower()}"] += 1
        head = b"%d %d %d %d" % (self.now_ms, sender.index, receiver.index, kind)
        self.hash = crc32(payload, crc32(head, self.hash))
        if self.trace is not None:
            self.trace.arrived(self.now_ms, sent_ms, sender.index, receiver.index, kind, payload)
        receiver.replica.on_frame(sender.key.public, kind, payload)

    def partition(self, *groups: set[int]) -> None:
        """Only nodes of one group hear each other; nodes in none hear nobody."""
        together = {(a, b) for group in groups for a in group for b in group}
        everyone = range(len(self.nodes))
        self.cut = {(a, b) for a in everyone for b in everyone if a != b and (a, b) not in together}
        if self.options.disconnect_ms:
            self.later(None, self.options.disconnect_ms, self._give_up_silent)

    def lose(self, pairs: Iterable[tuple[int, int]], names: Iterable[str], for_ms: int) -> None:
        """For a while some kinds of messages get lost between some nodes, and others do not."""
        added = Counter((a, b, name) for a, b in pairs for name in names)
        self._unheard += added

        def end() -> None:
            self._unheard -= added  # drops what comes to nothing

        self.later(None, for_ms, end)

    def heal(self) -> None:
        self.cut = set()
        self._reconnect_all()

    def calm(self) -> None:
        """No more faults of network, disks and clocks; what is cut stays cut."""
        options = self.options
        self._trouble.clear()
        self._unheard.clear()
        options.loss = min(options.loss, 1)
        options.long_delay_permille = options.stall_permille = 0
        options.delay_ms = (min(options.delay_ms[0], 150), min(options.delay_ms[1], 200))
        options.fsync_ms = (min(options.fsync_ms[0], 20), min(options.fsync_ms[1], 50))
        drift_ms_max = options.parameters.clock_drift_ms_max // 4
        for node in self.honest:
            node.stalled_until_ms = 0
            node.clock_offset_ms = max(-drift_ms_max, min(drift_ms_max, node.clock_offset_ms))

    # Work

    def transfer(self, amount: int = 1, *, at: int | None = None, valid_for: int = 500, memo: str = "") -> bytes:
        """Submit a transfer at some node; returns the transaction's id. Raises Reject, as the node does."""
        self._sent += 1
        alive = [node for node in self.honest if node.alive and not node.paused]
        node = alive[self.random.randrange(len(alive))] if at is None else self.nodes[at]
        payer, payee = self._sent % self.options.n, (self._sent + 1) % self.options.n
        fields = payments.Transfer(CURRENCY, f"h{payee}", amount, memo).to_fields()
        return self.submit(node, payer, "payments.transfer", fields, valid_for)

    def submit(
        self, node: SimulatedNode, signer: int, operation: str, fields: Iterable[object], valid_for: int
    ) -> bytes:
        """One transaction of the node `signer`, handed to `node`."""
        self._sent += 1
        nonce, valid_until = self._sent.to_bytes(16, "big"), node.replica.store.tip.height + valid_for
        tx = self.signed(key_of(signer), operation, fields, nonce, valid_until)
        self.sent.append(tx)
        node.replica.submit(tx)
        self.submitted.append(Submitted(tx.id, node.index, node.life, tx.valid_until))
        return tx.id

    def signed(
        self, key: KeyPair, operation: str, fields: Iterable[object], nonce: bytes, valid_until: int
    ) -> Transaction:
        """A transaction whose signature counts as checked, and which nobody has been given yet."""
        made = tuple(fields)
        tx = Transaction.create(
            key,
            self.genesis.chain_id,
            operation,
            made,
            nonce=nonce,
            valid_until=valid_until,  # type: ignore[arg-type]
        )
        self._signed[tx.wire] = True
        return tx

    def burst(self, count: int, at: int, valid_for: int = 500, memo: str = "") -> int:
        """Transfers at one node until it refuses more; how many it took."""
        for taken in range(count):
            try:
                self.transfer(at=at, valid_for=valid_for, memo=memo)
            except Reject:
                return taken
        return count

    def submit_again(self, count: int, at: int) -> None:
        """What a client does that heard no answer: the latest transactions once more, at another node perhaps."""
        replica = self.nodes[at].replica
        for tx in self.sent[-count:]:
            if tx.replay_key in replica.executor.replay:
                continue  # the node's desk answers that it is executed
            receipt = replica.store.receipt(tx.id)
            with suppress(Reject):
                if replica.submit(tx) and receipt is not None and receipt.ok:
                    self.checkers.fail(f"node {at} takes again what it has executed")

    def reuse_nonces(self, count: int, back: int, at: int, valid_for: int) -> int:
        """Transactions again, so many before the latest, under the same nonces and valid for another time, so that they
        are others. Returns how many the node took."""
        replica, taken = self.nodes[at].replica, 0
        last = max(0, len(self.sent) - back)
        for tx in self.sent[max(0, last - count) : last]:
            sender = self.node_of(tx.sender)
            assert sender is not None
            valid_until = replica.store.tip.height + valid_for
            other = self.signed(sender.key, tx.operation, tx.fields, tx.nonce, valid_until)
            if other.replay_key in replica.executor.replay and replica.store.place(other.id) is not None:
                continue  # the same after all: the node's desk answers that it is executed
            with suppress(Reject):
                taken += replica.submit(other)
        return taken

    def are_signed(self, batch: Batch) -> bool:
        """Each transaction's signature is checked once a run, not once a node."""
        signed = self._signed
        for wire in batch.wires:
            if wire not in signed:
                # Evidence is reported by the nodes themselves, with the keys they vote with.
                reported = self.signer.check(wire[65:98], wire[98:], wire[:65])
                signed[wire] = reported or verify_joined(wire)
        return all(signed[wire] for wire in batch.wires)

    # What nodes report

    def on_applied(
        self, node: SimulatedNode, block: CertifiedBlock, result: BlockResult, state_root: bytes | None
    ) -> None:
        if self.is_honest(node):
            self.checkers.on_applied(node, block, result, state_root)
            self.note(
                f"executed {block.height} ({len(result.receipts)} txs){' checkpoint' if state_root else ''}", node
            )

    def on_stable(self, node: SimulatedNode, height: int) -> None:
        if self.is_honest(node):
            self.checkers.on_stable(node, height)

    def on_blamed(self, node: SimulatedNode, key: bytes, reason: str) -> None:
        self.blamed.append((node.index, reason))
        if self.is_honest(node):
            self.note(f"blames a peer: {reason}", node)
            self.checkers.on_blamed(node, key, reason)

    def on_evidence(self, node: SimulatedNode, evidence: Evidence) -> None:
        self.evidence.append(evidence)
        if self.is_honest(node):
            self.checkers.on_evidence(node, evidence)

    def heights(self) -> list[int]:
        return [node.replica.store.tip.height for node in self.honest if node.alive]

    def final_everywhere(self, tx_ids: list[bytes]) -> bool:
        """Whether every living honest node executed all of these."""
        return all(
            node.replica.store.receipt(tx_id) is not None for node in self.honest if node.alive for tx_id in tx_ids
        )


def name_of(kind: Kind, payload: bytes) -> str:
    """What a frame carries: votes by the kind of message, which comes first in its encoding."""
    return MESSAGES.get(payload[1], "vote") if kind is Kind.VOTE and len(payload) > 1 else kind.name.lower()


def _kind_of(message: Message) -> str:
    return MESSAGES[messages._KINDS[type(message)]]


MESSAGES = {kind: kind.name.lower() for kind in messages.Kind}
