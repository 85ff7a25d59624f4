"""What once kept a node from catching up for ever, or had it ask, suspect or grow without end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from consensus.events import BatchAvailable, Received, Verified
from consensus.messages import Message, PrePrepare, Status
from ledger.block import Proposal
from ledger.codec import encode
from ledger.crypto import hash_bytes
from ledger.errors import Code
from ledger.genesis import Parameters
from ledger.transaction import Batch, Transaction
from node import replica
from node.replica import UNPERSISTED_BYTES_MAX
from p2p.frames import Kind
from storage.pruning import keep_blocks_min, prune
from storage.wal import PENDING_BYTES_MAX
from tests.simulation import byzantine
from tests.simulation.byzantine_node import ByzantineNode
from tests.simulation.cluster import CURRENCY, Cluster, Options, SimulatedNode, key_of
from tests.test_membership import leader_of, voters
from tests.test_protocol import commit, tap

FIRST = min(range(4), key=lambda index: key_of(index).public)
SHORT = Parameters(
    window=1, checkpoint_interval=2, log_window=12, validity_heights_max=24, view_timeout_ms_max=8_000
)  # fmt: skip
CARRIERS = (Kind.BATCH, Kind.BATCH_RESPONSE, Kind.BLOCK_RESPONSE)


def payment(cluster: Cluster, node: SimulatedNode, number: int, valid_until: int, memo: str = "x") -> Transaction:
    fields = (CURRENCY, "h1", 1, memo)
    return cluster.signed(node.key, "payments.transfer", fields, number.to_bytes(16, "big"), valid_until)


def started(**options: object) -> Cluster:
    cluster = Cluster(1, Options(n=4, **options))  # type: ignore[arg-type]
    cluster.run(100)
    return cluster


def test_a_decided_batch_that_the_members_have_pruned_comes_from_whoever_has_it() -> None:
    cluster = started(followers=1, parameters=SHORT)
    lead = leader_of(cluster)
    away = next(node for node in voters(cluster) if node is not lead)
    others = [node for node in cluster.nodes if node is not away]
    withheld = [away.key.public]
    tap(cluster, lambda sender, key, kind, payload: not (key in withheld and kind in CARRIERS))
    cluster.transfer(at=lead.index, valid_for=20)
    assert cluster.run(5_000, lambda: away.replica.engine.delivered > away.replica.engine.executed)
    cluster.partition({node.index for node in others}, {away.index})
    withheld.clear()
    keep = keep_blocks_min(SHORT)
    while max(cluster.heights()) < keep + 20:
        cluster.transfer(at=lead.index, valid_for=20)
        cluster.run(400)
    cluster.run(3_000)
    for node in others[:3]:
        for _ in prune(node.kv, node.replica.store, keep):
            pass
    cluster.heal()
    top = max(cluster.heights())
    assert cluster.run(60_000, lambda: away.replica.store.tip.height >= top)


def test_a_node_that_halted_asks_for_no_blocks() -> None:
    cluster = started()
    commit(cluster)
    lead = leader_of(cluster)
    halted = next(node for node in voters(cluster) if node is not lead)
    halted.replica.engine._state.halted = True
    asked: Counter[Kind] = Counter()

    def passes(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        asked[kind] += sender is halted
        return True

    tap(cluster, passes)
    for _ in range(3):
        cluster.transfer(at=lead.index)
        cluster.run(500)
    asked.clear()
    cluster.run(30_000)
    assert asked[Kind.BLOCK_REQUEST] < 100


@pytest.mark.parametrize("count", [1, 3])
def test_what_was_executed_while_its_signature_was_checked_is_not_packed_again(count: int) -> None:
    """Its batch would be one that is ordered already: nobody takes it, and its holder suspects every leader."""
    cluster = started()
    commit(cluster)
    lead = leader_of(cluster)
    others = [node for node in voters(cluster) if node is not lead]
    cluster.transfer(at=others[0].index)
    tx = cluster.sent[-1]
    assert cluster.run(5_000, lambda: cluster.final_everywhere([tx.id]))
    cluster.run(5_000)
    for node in others[:count]:
        assert node.replica.take([tx]) == [None]
    cluster.run(60_000)
    assert not any(node.replica.engine.is_discontent for node in cluster.nodes)
    assert {node.replica.engine.view for node in cluster.nodes} == {0}


class Sealer(ByzantineNode):
    """Leads, and seals the quiet chain again and again."""

    height = 0

    def act(self) -> None:
        engine = self.engine
        state = engine._state
        height = engine.executed + 1
        if engine.is_leader and height > self.height and state.now_ms - state.progress_at_ms > 520:
            self.height = height
            message = self.proposal(engine.view, Proposal(height, self.wall_ms(), (), seal=True))
            self.tell_all([message])
            self.replica._step(Received(Verified(message)))


def test_an_idle_chain_that_is_certified_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(byzantine.STRATEGIES, "hostile", Sealer)
    cluster = started(byzantine={FIRST: "hostile"})
    commit(cluster)
    cluster.run(5_000)
    before = max(cluster.heights())
    cluster.run(60_000)
    assert max(cluster.heights()) <= before + 2


class SealingAhead(ByzantineNode):
    """Leads, and has the quiet chain sealed at every height of the log at once."""

    height = 0

    def act(self) -> None:
        state = self.engine._state
        if self.engine.is_leader and state.executed > self.height and state.now_ms - state.progress_at_ms > 520:
            self.height = state.executed
            for height in range(state.executed + 1, state.executed + state.parameters.log_window // 2):
                message = self.proposal(self.engine.view, Proposal(height, self.wall_ms(), (), seal=True))
                self.tell_all([message])
                self.replica._step(Received(Verified(message)))


def test_a_seal_is_of_what_is_executed_and_one_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a height of the clients' validity, and leaves a state root and a certificate for ever."""
    monkeypatch.setitem(byzantine.STRATEGIES, "hostile", SealingAhead)
    cluster = started(byzantine={FIRST: "hostile"})
    for _ in range(5):
        before = max(cluster.heights())
        commit(cluster)
        cluster.run(5_000)
        assert max(cluster.heights()) <= before + 5


class SealingAll(ByzantineNode):
    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, PrePrepare) and message.proposal.batches:
            proposal = message.proposal
            sealed = Proposal(proposal.height, proposal.time_ms, proposal.batches, seal=True)
            return (self.proposal(message.view, sealed),)
        return (message,)


def test_a_block_with_batches_is_no_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would be a checkpoint, with a state root and a certificate that stays."""
    monkeypatch.setitem(byzantine.STRATEGIES, "hostile", SealingAll)
    cluster = started(byzantine={FIRST: "hostile"})
    ids = [cluster.transfer(at=node.index) for node in cluster.honest]
    assert cluster.run(60_000, lambda: cluster.final_everywhere(ids))
    store = cluster.honest[0].replica.store
    blocks = [block for height in range(1, store.tip.height + 1) if (block := store.block(height)) is not None]
    assert not any(block.proposal.seal and block.proposal.batches for block in blocks)


def test_a_batch_in_which_everything_has_expired_is_gone_with_the_next_block() -> None:
    """Its holder would suspect a leader who passes over what nobody can execute."""
    cluster = started()
    commit(cluster)
    node = next(node for node in voters(cluster) if node is not leader_of(cluster))
    batch = Batch((payment(cluster, node, 0, node.replica.store.tip.height + 1).wire,))
    node.replica.on_frame(leader_of(cluster).key.public, Kind.BATCH, batch.wire)
    cluster.run(20)
    assert node.replica.pool.get(batch.digest) is not None
    height = node.replica.store.tip.height
    cluster.transfer(at=leader_of(cluster).index)
    assert cluster.run(2_000, lambda: node.replica.store.tip.height > height)
    assert node.replica.pool.get(batch.digest) is None


def test_only_members_say_how_far_the_chain_is() -> None:
    cluster = started(followers=2)
    commit(cluster)
    node = cluster.nodes[0]
    for follower in cluster.nodes[4:]:
        status = Status(0, 0, False, 1_000_000, 0)
        node.replica.on_frame(follower.key.public, Kind.STATUS, encode(status.to_value()))
    validators = node.replica.engine.validators
    assert node.replica.sync.height_claimed_by(validators.f + 1, validators.keys) <= node.replica.store.tip.height + 1
    assert node.replica.sync.height_claimed_by(1, [hash_bytes(b"nobody")]) == 0


PRUNING = Parameters(
    window=8, checkpoint_interval=2, log_window=20, validity_heights_max=40, view_timeout_ms_max=8_000
)  # fmt: skip


def test_what_a_pruned_chain_has_executed_is_not_taken_from_the_log_and_ordered_again() -> None:
    """The log keeps batches for longer than the store does. Who prunes and restarts took them for such as wait."""
    cluster = started(parameters=PRUNING)
    lead, ids = leader_of(cluster), []
    keep = keep_blocks_min(PRUNING)
    while min(cluster.heights()) < keep + 60:
        ids.append(cluster.transfer(at=lead.index, valid_for=20))
        cluster.run(300, lambda: cluster.final_everywhere([ids[-1]]))
    cluster.run(20_000)
    before = cluster.heights()
    pruned = [node for node in cluster.nodes if node is not lead]
    for node in pruned:
        for _ in prune(node.kv, node.replica.store, keep):
            pass
        node.crash(power=False)
    for node in pruned:
        node.boot()
    assert [node.replica.pool.sizes()["batches"] for node in cluster.nodes] == [0] * 4
    cluster.run(60_000)
    assert cluster.heights() == before
    assert {node.replica.engine.view for node in cluster.nodes} == {0}
    # A leader who has them ordered again gets refusals, and nobody who has pruned calls them refused therefore.
    batch = lead.replica.store.block(1).batches[0]  # type: ignore[union-attr]
    assert batch.tx_ids == (ids[0],)
    for node in cluster.nodes:
        node.replica.pool.add(batch, node.key.public, node.now_ms())
        node.replica._step(BatchAvailable(batch.digest, 1, len(batch.wire)))
    assert cluster.run(10_000, lambda: min(cluster.heights()) > max(before))
    (refused,) = lead.replica.store.receipts(max(before) + 1)
    assert (refused.tx_id, refused.code) == (ids[0], Code.EXPIRED)
    receipts = [node.replica.store.receipt(ids[0]) for node in cluster.nodes]
    assert [receipt.ok for receipt in receipts if receipt is not None] == [True]


def idle() -> tuple[Cluster, SimulatedNode, list[SimulatedNode]]:
    """A cluster that has come to rest after a block, its leader, and the other members."""
    cluster = started()
    commit(cluster)
    cluster.run(5_000)
    lead = leader_of(cluster)
    return cluster, lead, [node for node in voters(cluster) if node is not lead]


@pytest.mark.parametrize("count", [1, 3])
def test_what_expired_while_its_signature_was_checked_is_not_taken(count: int) -> None:
    """An idle chain makes no block that would clear it away, and its holders would suspect leader after leader."""
    cluster, _, others = idle()
    height = max(cluster.heights())
    for node in others[:count]:
        (refusal,) = node.replica.take([payment(cluster, node, node.index, height)])
        assert refusal is not None
        assert refusal.code is Code.EXPIRED
    cluster.run(60_000)
    assert not any(node.replica.engine.is_discontent for node in cluster.nodes)
    assert cluster.heights() == [height] * 4


def test_a_peers_batch_that_expired_while_it_was_checked_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, lead, others = idle()
    height = max(cluster.heights())
    batch = Batch((payment(cluster, others[0], 0, height + 1).wire,))
    waiting: list[Callable[[bool], None]] = []
    with monkeypatch.context() as patch:
        for node in others:
            patch.setattr(node, "check_batch", lambda _batch, _origin, _urgent, done: waiting.append(done))
            node.replica.on_frame(lead.key.public, Kind.BATCH, batch.wire)
    assert len(waiting) == 3
    cluster.transfer(at=lead.index)
    assert cluster.run(5_000, lambda: min(cluster.heights()) > height)
    cluster.run(5_000)
    after = cluster.heights()
    for done in waiting:
        done(True)
    cluster.run(60_000)
    assert cluster.heights() == after
    assert not any(node.replica.engine.is_discontent for node in cluster.nodes)


def test_followers_do_not_make_a_members_search_for_a_batch_longer() -> None:
    """Only members hold what is merely proposed. Asked in turn with everyone, they came too late for the view."""
    cluster = started(followers=20)
    lead = leader_of(cluster)
    down, hungry = [node for node in voters(cluster) if node is not lead][:2]
    down.crash(power=False)
    lacking = hungry.key.public
    tap(cluster, lambda sender, key, kind, _: not (sender is lead and key == lacking and kind in CARRIERS))
    tx_id = cluster.transfer(at=lead.index)
    up = [node for node in voters(cluster) if node is not down]
    assert cluster.run(5_000, lambda: all(node.replica.store.receipt(tx_id) is not None for node in up))
    assert {node.replica.engine.view for node in up} == {0}


def test_a_disk_that_stalls_under_large_blocks_holds_its_node_back_and_does_not_fail_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Batches go into the log before the votes for them, and it is bounded; what is not logged is not voted for."""
    bound_bytes = 1 << 20
    monkeypatch.setattr(replica, "UNPERSISTED_BYTES_MAX", bound_bytes)
    assert 2 * UNPERSISTED_BYTES_MAX < PENDING_BYTES_MAX
    cluster = started(followers=1)
    lead = leader_of(cluster)
    slow, other = [node for node in voters(cluster) if node is not lead][:2]
    slow.stalled_until_ms = cluster.now_ms + 10_000
    feeder, end_ms, count = cluster.nodes[4].key.public, cluster.now_ms + 11_000, 0
    while cluster.now_ms < end_ms:
        for _ in range(8):
            wires = []
            for _ in range(8):
                count += 1
                valid_until = lead.replica.store.tip.height + 100
                wires.append(payment(cluster, other, count, valid_until, "x" * 6_000).wire)
            for node in voters(cluster):
                node.replica.on_frame(feeder, Kind.BATCH, Batch(tuple(wires)).wire)
        assert slow.replica._unsynced_bytes < 2 * bound_bytes
        cluster.run(400)
    top = max(cluster.heights())
    assert top > 20
    assert cluster.run(30_000, lambda: slow.replica.store.tip.height >= top)
