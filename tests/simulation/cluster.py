"""A deterministic cluster in memory: whole replicas (engine, pool, execution, catching up) under one seed.

Time, network, disk and signature checks are simulated; frames are encoded and decoded on every delivery; a
write-ahead log
entry becomes durable later, and a crash loses what was not. Integers and one `random.Random` only.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from consensus.events import Evidence
from consensus.verify import Verifier
from ledger.block import CertifiedBlock
from ledger.crypto import KeyPair, hash_bytes
from ledger.execution import BlockResult, Executor
from ledger.genesis import Genesis, Parameters
from ledger.modules import members, payments
from ledger.rules import Registry
from ledger.transaction import Batch, Transaction
from node.replica import RecordKind, Replica
from p2p.frames import Kind
from storage.chain import ChainStore
from storage.memory import MemoryKeyValue

WALL_MS = 1_700_000_000_000
CURRENCY = "CNY"


@dataclass
class Options:
    """One run's conditions. Probabilities in percent."""

    n: int = 4
    loss: int = 0
    duplication: int = 0
    delay_ms: tuple[int, int] = (1, 10)
    fsync_ms: tuple[int, int] = (1, 5)
    followers: int = 0
    parameters: Parameters = field(default_factory=Parameters)
    byzantine: dict[int, str] = field(default_factory=dict)  # node -> strategy of tests/simulation/byzantine.py


class TokenSigner:
    """Signatures nobody else can make: a token per signer and statement, checked against a register of what was
    signed.
    """

    def __init__(self) -> None:
        self._made: dict[bytes, None] = {}

    def sign(self, public: bytes, statement: bytes) -> bytes:
        token = b"\x01" + hash_bytes(public + statement)[1:] * 2
        self._made[public + token + statement] = None
        return token

    def check(self, public: bytes, statement: bytes, signature: bytes) -> bool:
        return public + signature + statement in self._made


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


class SimulatedNode:
    """One replica with its simulated disk; `Outside` for it."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        self.cluster, self.index, self.key = cluster, index, key_of(index)
        self.kv = MemoryKeyValue()
        self.log: list[tuple[RecordKind, int, bytes]] = []
        self.durable = 0  # entries of the log that are on disk
        self.base = 0
        self.alive = False
        self.life = 0
        self.clock_offset_ms = 0
        self.replica: Replica
        self.executor = Executor(cluster.genesis, cluster.registry)
        changes, tip = self.executor.begin()
        ChainStore.create(self.kv, cluster.genesis.to_json(), changes, tip)

    def boot(self) -> None:
        self.alive = True
        self.life += 1
        self._timers: dict[str, int] = {}
        executor = Executor(self.cluster.genesis, self.cluster.registry)
        verifier = Verifier(self.cluster.genesis.chain_id, self.cluster.signer.check)
        sign = lambda statement: self.cluster.signer.sign(self.key.public, statement)  # noqa: E731
        self.replica = Replica(executor, ChainStore(self.kv), self.key.public, sign, self, verifier)
        self.replica.start([(kind, payload) for kind, _, payload in self.log])
        for peer in self.cluster.nodes:
            if peer is not self and peer.alive:
                self.cluster.connect(self, peer)

    def crash(self) -> None:
        """Power off: unsynced log entries may be lost, any suffix of them."""
        keep = self.cluster.random.randint(self.durable, len(self.log))
        del self.log[keep:]
        self.durable = len(self.log)
        self.kv = self.kv.crash(self.cluster.random.randint(0, self.kv.unsynced_count))
        self.alive = False
        for peer in self.cluster.nodes:
            if peer is not self and peer.alive:
                peer.replica.on_peer_down(self.key.public)

    # Outside

    def now_ms(self) -> int:
        return self.cluster.now_ms

    def wall_ms(self) -> int:
        return WALL_MS + self.cluster.now_ms + self.clock_offset_ms

    def send(self, key: bytes, kind: Kind, payload: bytes) -> None:
        self.cluster.transmit(self, key, kind, payload)

    def append(self, kind: RecordKind, height: int, payload: bytes) -> int:
        self.log.append((kind, height, payload))
        sequence = self.base + len(self.log)
        low, high = self.cluster.options.fsync_ms
        self.cluster.later(self, self.cluster.random.randint(low, high), lambda: self._synced(sequence))
        return sequence

    def _synced(self, sequence: int) -> None:
        position = min(sequence - self.base, len(self.log))
        if position > self.durable:
            self.durable = position
        self.replica.on_durable(sequence)

    def set_timer(self, name: str, at_ms: int | None) -> None:
        if at_ms is None:
            self._timers.pop(name, None)
            return
        self._timers[name] = at_ms
        self.cluster.later(self, max(0, at_ms - self.now_ms()), lambda: self._fire(name, at_ms))

    def _fire(self, name: str, at_ms: int) -> None:
        if self._timers.get(name) == at_ms:
            del self._timers[name]
            self.replica.on_timer(name)

    def check_batch(self, batch: Batch, done: Callable[[bool], None]) -> None:
        self.cluster.later(self, 1, lambda: done(True))

    def applied(self, block: CertifiedBlock, result: BlockResult, state_root: bytes | None) -> None:
        self.cluster.on_applied(self, block, result, state_root)

    def stable(self, height: int) -> None:
        self.kv.write((), (), sync=True)
        kept = next((i for i, (_, at, _) in enumerate(self.log) if at > height), len(self.log))
        kept = min(kept, self.durable)
        del self.log[:kept]
        self.base += kept
        self.durable -= kept

    def misbehaved(self, key: bytes, reason: str) -> None:
        self.cluster.blamed.append((self.index, reason))

    def diverged(self, height: int, own: bytes, certified: bytes) -> None:
        if not self.cluster.is_honest(self):
            return
        raise AssertionError(f"node {self.index} diverged at {height}")

    def evidence(self, evidence: Evidence) -> None:
        self.cluster.evidence.append(evidence)


class Cluster:
    """The world: event queue, network, checkers."""

    def __init__(self, seed: int, options: Options | None = None) -> None:
        self.options = options or Options()
        self.random = Random(seed)
        self.seed = seed
        self.now_ms = 0
        self.signer = TokenSigner()
        self.genesis = make_genesis(self.options.n, self.options.parameters)
        self.registry = Registry([members.MODULE, payments.MODULE])
        self._queue: list[tuple[int, int, SimulatedNode | None, int, Callable[[], None]]] = []
        self._order = 0
        self.cut: set[tuple[int, int]] = set()
        self.blocks: dict[int, bytes] = {}
        self.roots: dict[int, bytes] = {}
        self.receipts: dict[bytes, int] = {}
        self.blamed: list[tuple[int, str]] = []
        self.evidence: list[Evidence] = []
        self.deliveries = 0
        self.nodes: list[SimulatedNode] = []
        self.nodes = [self.make_node(index) for index in range(self.options.n + self.options.followers)]
        self._sent = 0
        for node in self.nodes:
            node.boot()

    def make_node(self, index: int) -> SimulatedNode:
        """An honest node, or one that follows the strategy `options.byzantine` names for it."""
        name = self.options.byzantine.get(index)
        if name is None:
            return SimulatedNode(self, index)
        # Only here: that module builds on this one.
        from tests.simulation import byzantine

        node: SimulatedNode = byzantine.make(name, self, index)
        return node

    def is_honest(self, node: SimulatedNode) -> bool:
        return node.index not in self.options.byzantine

    @property
    def honest(self) -> list[SimulatedNode]:
        """The nodes whose promises are checked."""
        return [node for node in self.nodes if self.is_honest(node)]

    # Time

    def later(self, node: SimulatedNode | None, delay_ms: int, action: Callable[[], None]) -> None:
        self._order += 1
        life = node.life if node else 0
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._order, node, life, action))

    def run(self, duration_ms: int, until: Callable[[], bool] | None = None) -> bool:
        """Run for a while of simulated time, or until a condition holds; True if it does."""
        end_ms = self.now_ms + duration_ms
        while self._queue and self._queue[0][0] <= end_ms:
            at_ms, _, node, life, action = heapq.heappop(self._queue)
            self.now_ms = at_ms
            if node is None or (node.alive and node.life == life):
                action()
                if until is not None and until():
                    return True
        self.now_ms = end_ms
        return until is not None and until()

    # Network

    def connect(self, one: SimulatedNode, other: SimulatedNode) -> None:
        one.replica.on_peer_up(other.key.public)
        other.replica.on_peer_up(one.key.public)

    def transmit(self, sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> None:
        receiver = next((node for node in self.nodes if node.key.public == key), None)
        if receiver is None or not receiver.alive or (sender.index, receiver.index) in self.cut:
            return
        if self.random.randrange(100) < self.options.loss:
            return
        copies = 2 if self.random.randrange(100) < self.options.duplication else 1
        for _ in range(copies):
            low, high = self.options.delay_ms
            delay_ms = self.random.randint(low, high)
            self.later(receiver, delay_ms, lambda: self._arrive(sender, receiver, kind, payload))

    def _arrive(self, sender: SimulatedNode, receiver: SimulatedNode, kind: Kind, payload: bytes) -> None:
        self.deliveries += 1
        receiver.replica.on_frame(sender.key.public, kind, payload)

    def partition(self, *groups: set[int]) -> None:
        """Only nodes of one group hear each other; nodes in none hear nobody."""
        together = {(a, b) for group in groups for a in group for b in group}
        everyone = range(len(self.nodes))
        self.cut = {(a, b) for a in everyone for b in everyone if a != b and (a, b) not in together}

    def heal(self) -> None:
        self.cut = set()

    # Work

    def transfer(self, amount: int = 1, *, at: int | None = None) -> bytes:
        """Submit a transfer at some node; returns the transaction's id."""
        self._sent += 1
        alive = [node for node in self.nodes if node.alive]
        node = alive[self.random.randrange(len(alive))] if at is None else self.nodes[at]
        payer, payee = self._sent % self.options.n, (self._sent + 1) % self.options.n
        tx = Transaction.create(
            key_of(payer),
            self.genesis.chain_id,
            "payments.transfer",
            payments.Transfer(CURRENCY, f"h{payee}", amount, "").to_fields(),
            nonce=self._sent.to_bytes(16, "big"),
            valid_until=node.replica.store.tip.height + 500,
        )
        node.replica.submit(tx)
        return tx.id

    # Checkers

    def on_applied(
        self, node: SimulatedNode, block: CertifiedBlock, result: BlockResult, state_root: bytes | None
    ) -> None:
        if not self.is_honest(node):
            return
        height = block.height
        known = self.blocks.setdefault(height, result.tip.block_hash)
        assert known == result.tip.block_hash, f"seed {self.seed}: two blocks at height {height}"
        if state_root is not None:
            assert self.roots.setdefault(height, state_root) == state_root, f"two state roots at {height}"
        for receipt in result.receipts:
            if receipt.ok:
                first = self.receipts.setdefault(receipt.tx_id, height)
                assert first == height, f"seed {self.seed}: executed twice, at {first} and {height}"
        sizes = node.replica.engine.table_sizes() if hasattr(node, "replica") else {}
        assert sizes.get("slots", 0) <= 3 * self.genesis.parameters.log_window + 1

    def heights(self) -> list[int]:
        return [node.replica.store.tip.height for node in self.honest if node.alive]

    def final_everywhere(self, tx_ids: list[bytes]) -> bool:
        """Whether every living honest node executed all of these."""
        return all(
            node.replica.store.receipt(tx_id) is not None for node in self.honest if node.alive for tx_id in tx_ids
        )
