"""A batch that members vouched for is held until its height is executed, whatever else forgets it; and what a leader
shows to one member alone keeps nothing from the chain. Each of these once stopped a chain, or a transaction, for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import pytest

from consensus.events import BatchAvailable
from consensus.messages import (
    CheckpointVote,
    Message,
    NewView,
    Prepared,
    PrePrepare,
    Suspect,
    ViewChange,
    Vote,
    decode_message,
)
from ledger.block import Certificate, Phase, Proposal
from ledger.genesis import Parameters
from ledger.transaction import Batch, Transaction
from p2p.frames import Kind
from storage.pruning import keep_blocks_min, prune
from tests.simulation import byzantine
from tests.simulation.byzantine_node import ByzantineNode
from tests.simulation.cluster import CURRENCY, Cluster, Options, SimulatedNode, key_of
from tests.test_protocol import by_member, commit

FIRST = min(range(4), key=lambda index: key_of(index).public)  # member 0, who leads view 0
PARAMETERS = Parameters(view_timeout_ms=1_000, view_timeout_ms_max=8_000)
SHORT = replace(PARAMETERS, window=1, checkpoint_interval=2, log_window=12, validity_heights_max=24)


def cluster_with(
    monkeypatch: pytest.MonkeyPatch, kind: type[ByzantineNode], parameters: Parameters = PARAMETERS
) -> tuple[Cluster, list[SimulatedNode]]:
    """Four members, the first of `kind`; and the three honest ones."""
    monkeypatch.setitem(byzantine.STRATEGIES, "hostile", kind)
    options = Options(n=4, parameters=parameters, byzantine={FIRST: "hostile"}, segment_bytes_max=1_024)
    cluster = Cluster(1, options)
    cluster.run(100)
    return cluster, [by_member(cluster, member) for member in (1, 2, 3)]


class Necromancer(ByzantineNode):
    """Has an old batch ordered again at a height a little ahead, and gives it to nobody."""

    batch: bytes = b""
    height = 0

    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, PrePrepare) and message.proposal.height == self.height:
            return ()
        return () if isinstance(message, Vote) and message.height == self.height else (message,)

    def pass_on(self, key: bytes, kind: Kind, payload: bytes) -> Iterable[bytes]:
        is_batch = kind in (Kind.BATCH, Kind.BATCH_RESPONSE) and Batch.decode(payload).digest == self.batch
        return () if is_batch or (self.height and kind is Kind.BLOCK_RESPONSE) else (payload,)


@pytest.mark.parametrize("restart", [False, True])
def test_a_batch_ordered_again_outlives_its_pruning(restart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, honest = cluster_with(monkeypatch, Necromancer, SHORT)
    hostile = cluster.nodes[FIRST]
    assert isinstance(hostile, Necromancer)
    monkeypatch.setattr(cluster, "transfer", partial(cluster.transfer, valid_for=20))
    commit(cluster)
    first = honest[0].replica.store.block(1)
    assert first is not None
    keep = keep_blocks_min(SHORT)
    while min(cluster.heights()) < keep:
        commit(cluster)
    hostile.batch, hostile.height = first.proposal.batches[0], max(cluster.heights()) + 6
    hostile.tell_all([hostile.proposal(0, Proposal(hostile.height, hostile.wall_ms(), (hostile.batch,)))])
    cluster.run(300)
    assert all(node.replica.engine.slots[hostile.height].decision is not None for node in honest), "ahead of its turn"
    while min(cluster.heights()) < keep + 3:
        commit(cluster)
    for node in honest:
        for _ in prune(node.kv, node.replica.store, keep):
            pass
        assert node.replica.store.batch(hostile.batch) is None
    if restart:
        for node in honest:
            node.crash(power=False)
        for node in honest:
            node.boot()
    commit(cluster, within_ms=60_000)
    for node in honest:
        cluster.transfer(at=node.index)
    assert cluster.run(60_000, lambda: min(cluster.heights()) > hostile.height)


def test_a_batch_is_not_taken_for_stored_because_another_holds_its_first_transaction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A transaction refused for too long a validity is executed later in another batch: its place moves there, and the
    old batch, named again, would be pruned with its own block."""
    cluster, honest = cluster_with(monkeypatch, Necromancer, SHORT)
    hostile = cluster.nodes[FIRST]
    assert isinstance(hostile, Necromancer)
    monkeypatch.setattr(cluster, "transfer", partial(cluster.transfer, valid_for=20))
    keep = keep_blocks_min(SHORT)
    commit(cluster)

    def made(nonce: bytes, valid_until: int) -> Transaction:
        return cluster.signed(hostile.key, "payments.transfer", (CURRENCY, "h1", 1, "x"), nonce * 16, valid_until)

    def order(batch: Batch) -> int:
        hostile.replica.pool.add(batch, None, hostile.now_ms())
        hostile.frame_all(Kind.BATCH, batch.wire)
        cluster.run(50)
        hostile.replica._step(BatchAvailable(batch.digest, len(batch.wires), len(batch.wire)))
        assert cluster.run(5_000, lambda: all(node.replica.store.batch(batch.digest) is not None for node in honest))
        place = honest[0].replica.store.place(batch.tx_ids[0])
        assert place is not None
        return place[0]

    moving = made(b"T", max(cluster.heights()) + 1 + SHORT.validity_heights_max + 10)
    old = Batch((moving.wire,))
    first = order(old)
    while max(cluster.heights()) < first + 13:
        commit(cluster)
    assert order(Batch((moving.wire, made(b"U", max(cluster.heights()) + 15).wire))) > first
    while min(cluster.heights()) < first + keep - 3:
        commit(cluster)
    hostile.batch, hostile.height = old.digest, max(cluster.heights()) + 6
    hostile.tell_all([hostile.proposal(0, Proposal(hostile.height, hostile.wall_ms(), (old.digest,)))])
    cluster.run(300)
    assert all(node.replica.engine.slots[hostile.height].decision is not None for node in honest)
    while min(cluster.heights()) < first + keep + 1:
        commit(cluster)
    for node in honest:
        for _ in prune(node.kv, node.replica.store, keep):
            pass
        assert node.replica.store.batch(old.digest) is None
    for node in honest:
        cluster.transfer(at=node.index)
    while min(cluster.heights()) < hostile.height - 1:
        commit(cluster)
    for node in honest:
        cluster.transfer(at=node.index)
    assert cluster.run(120_000, lambda: min(cluster.heights()) > hostile.height)


class Hoarder(ByzantineNode):
    """Gets a batch in which nothing can be executed any more prepared, keeps the lock to itself, and shows it in every
    later view change. Otherwise it is silent."""

    armed = False

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.prepares: dict[int, Vote] = {}
        self.lock: Prepared | None = None

    def arm(self, victims: list[SimulatedNode]) -> None:
        self.armed = True
        tx = self.cluster.signed(self.key, "payments.transfer", (CURRENCY, "h1", 1, "x"), b"N" * 16, 1)
        self.batch = Batch((tx.wire,))
        self.locked = Proposal(self.replica.store.tip.height + 1, self.wall_ms(), (self.batch.digest,))
        proposal = self.proposal(0, self.locked)
        self.prepares[self.member] = proposal.vote
        for victim in victims:
            self.tell(victim.key.public, proposal)

    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        return () if self.armed else (message,)

    def pass_on(self, key: bytes, kind: Kind, payload: bytes) -> Iterable[bytes]:
        return () if self.armed else (payload,)

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        if not self.armed:
            return super().hear(key, kind, payload)
        if kind is Kind.BATCH_REQUEST and self.lock is None:
            return self.transmit(key, Kind.BATCH_RESPONSE, self.batch.wire)
        message = self.read(kind, payload)
        if isinstance(message, Vote) and message.digest == self.locked.digest and message.phase is Phase.PREPARE:
            self.prepares[message.member] = message
        if len(self.prepares) == 3 and self.lock is None:
            signatures = tuple((member, self.prepares[member].signature) for member in sorted(self.prepares))
            parts = (0, 0, self.locked.height, Phase.PREPARE, self.locked.digest, signatures)
            self.lock = Prepared(self.locked, Certificate(*parts))
        if self.lock is not None and isinstance(message, Suspect | ViewChange):
            view = message.view + isinstance(message, Suspect)
            self.tell_all([self.signed(ViewChange(0, view, None, (self.lock,), self.member))])
            self.tell_all([self.signed(Suspect(0, view - 1, self.member))])
        return None


@pytest.mark.parametrize("restart", [False, True])
def test_a_lock_on_a_batch_that_expired_can_be_honoured(restart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 16. Checkpoint votes and view changes of the honest are late, so that its voters pass a checkpoint, at which
    the pool drops what has expired, while nothing of theirs names the batch."""
    cluster, honest = cluster_with(monkeypatch, Hoarder)
    hostile = cluster.nodes[FIRST]
    assert isinstance(hostile, Hoarder)
    transmit, late = cluster.transmit, {"checkpoints", "views", "prepares"}

    def passes(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        if kind is Kind.CERTIFIED:
            return "checkpoints" not in late
        message = decode_message(payload) if kind is Kind.VOTE and sender is not hostile else None
        if isinstance(message, CheckpointVote):
            return "checkpoints" not in late
        if isinstance(message, ViewChange | NewView):
            return "views" not in late or key == hostile.key.public
        is_locked = isinstance(message, Vote) and hostile.armed and message.height == hostile.locked.height
        return not (is_locked and "prepares" in late and key != hostile.key.public)

    cluster.transmit = lambda *frame: transmit(*frame) if passes(*frame) else None  # type: ignore[method-assign]
    while min(cluster.heights()) < 12:
        commit(cluster)
    hostile.arm(honest[:2])
    assert cluster.run(5_000, lambda: hostile.lock is not None)
    assert cluster.run(20_000, lambda: all(node.replica.engine.changing for node in honest))
    if restart:
        for node in honest[:2]:
            node.crash(power=False)
            node.boot()
    late.remove("checkpoints")
    assert cluster.run(20_000, lambda: all(node.replica.engine.checkpoints.stable >= 10 for node in honest))
    for node in honest:  # what the next block executed would do
        node.replica.pool.drop_expired(node.replica.store.tip.height + 1, node.replica._in_flight())
    assert all(node.replica.pool.get(hostile.batch.digest) is None for node in honest)
    late.clear()
    ids = [cluster.transfer(at=node.index) for node in honest]
    assert cluster.run(60_000, lambda: cluster.final_everywhere(ids))


class Censor(ByzantineNode):
    """Never hears of one batch, and shows one member one proposal that names it."""

    batch: bytes = b""
    victim: bytes = b""
    height = 0

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        if kind not in (Kind.BATCH, Kind.BATCH_RESPONSE) or Batch.decode(payload).digest != self.batch:
            super().hear(key, kind, payload)

    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, PrePrepare) and key == self.victim:
            self.height = self.height or message.proposal.height
            if message.proposal.height == self.height:
                other = Proposal(self.height, message.proposal.time_ms, (self.batch,))
                return (self.proposal(message.view, other),)
        return (message,)


def test_a_proposal_shown_to_one_member_alone_keeps_no_batch_from_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 18. Of four members every honest one must suspect a leader who passes a batch over, and the one who took it
    for proposed did not."""
    cluster, honest = cluster_with(monkeypatch, Censor)
    hostile = cluster.nodes[FIRST]
    assert isinstance(hostile, Censor)
    commit(cluster)
    censored = cluster.transfer(at=honest[0].index)
    hostile.batch, hostile.victim = honest[0].replica.pool.held()[-1].digest, honest[2].key.public
    for _ in range(120):
        cluster.transfer(at=honest[1].index)
        if cluster.run(250, lambda: cluster.final_everywhere([censored])):
            break
    assert hostile.height, "it was shown"
    assert cluster.final_everywhere([censored])
