"""Membership and parameters on a living cluster (docs/protocol.md, section 6): whole replicas, changed while they run.

Each case ends with work that everybody executes, and with certificates that verify against the set of their height.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from consensus.messages import NewView, PrePrepare, Vote, decode_message, encode_message, signed
from consensus.verify import Verifier
from ledger.block import Phase, Proposal
from ledger.errors import Code
from ledger.evidence import Offence
from ledger.fields import Operation
from ledger.genesis import Parameters
from ledger.modules.members import (
    ProposeParameters,
    ProposeValidators,
    conviction,
    next_validators,
    parameters_in_force,
)
from ledger.modules.members import Vote as GovernanceVote
from ledger.modules.parties import VALIDATORS, join_statement
from node.desk import Desk
from p2p.frames import Kind
from storage.chain import ChainStore
from tests.simulation.cluster import WALL_MS, Cluster, Options, SimulatedNode

# A short log, so that a change takes effect soon; patience is short next to the time limits below.
QUICK = Parameters(window=4, checkpoint_interval=5, log_window=16, view_timeout_ms=1_000, view_timeout_ms_max=8_000)
VALID_FOR = 400  # heights


def cluster_of(n: int = 4, seed: int = 1, **options: object) -> Cluster:
    cluster = Cluster(seed, Options(n=n, parameters=QUICK, **options))  # type: ignore[arg-type]
    cluster.run(100)
    return cluster


def voters(cluster: Cluster) -> list[SimulatedNode]:
    """The members in force, as the most advanced node knows them."""
    best = max((node for node in cluster.nodes if node.alive), key=lambda node: node.replica.store.tip.height)
    keys = best.replica.store.tip.validators.keys
    return [node for node in cluster.nodes if node.key.public in keys]


def leader_of(cluster: Cluster) -> SimulatedNode:
    engines = [node.replica.engine for node in voters(cluster) if node.alive and node.replica.engine.me is not None]
    engine = max(engines, key=lambda engine: (engine.validators.epoch, engine.view))
    found = cluster.node_of(engine.validators.keys[engine.leader])
    assert found is not None
    return found


def commit(cluster: Cluster, count: int = 1, *, at: int | None = None, within_ms: int = 60_000) -> None:
    ids = [cluster.transfer(at=at) for _ in range(count)]
    assert cluster.run(within_ms, lambda: cluster.final_everywhere(ids)), cluster.heights()


def act(cluster: Cluster, node: SimulatedNode, operation: Operation) -> bytes:
    """One transaction, executed with success by the node it was given to; the others follow."""
    at = next(one for one in voters(cluster) if one.alive)
    tx_id = cluster.submit(at, node.index, operation.NAME, operation.to_fields(), VALID_FOR)
    assert cluster.run(60_000, lambda: at.replica.store.receipt(tx_id) is not None), cluster.heights()
    receipt = at.replica.store.receipt(tx_id)
    assert receipt is not None
    assert receipt.ok, receipt
    return tx_id


def enact(cluster: Cluster, operation: Operation) -> int:
    """Propose and approve; the last height of the epoch it ends."""
    electorate = [node for node in voters(cluster) if node.alive]
    store, quorum = electorate[0].replica.store, electorate[0].replica.engine.validators.quorum
    log_window = store.tip.parameters.log_window
    last = act(cluster, electorate[0], operation)
    proposal = last
    for node in electorate[1:quorum]:
        last = act(cluster, node, GovernanceVote(proposal, True))
    return end_of(store, last, log_window)


def end_of(store: ChainStore, last_vote: bytes, log_window: int) -> int:
    """The last height of an epoch that this vote ended: it may have passed by now."""
    place = store.transaction(last_vote)
    assert place is not None
    return place[0] + log_window


def change(
    cluster: Cluster, add: Sequence[SimulatedNode] = (), remove: Sequence[SimulatedNode] = ()
) -> ProposeValidators:
    statement = join_statement(cluster.genesis.chain_id, VALIDATORS)
    return ProposeValidators(
        tuple(node.key.public for node in add),
        tuple(node.key.public for node in remove),
        tuple(node.key.sign(statement) for node in add),
    )


def pass_end(cluster: Cluster, end: int, within_ms: int = 90_000) -> None:
    """Until everyone living has executed the epoch's last block."""
    living = [node for node in cluster.nodes if node.alive]
    reached = lambda: min(node.replica.store.tip.height for node in living) >= end  # noqa: E731
    assert cluster.run(within_ms, reached), (cluster.heights(), end)


def verify_all(cluster: Cluster) -> None:
    """Trap 3. Every block everywhere is certified by the set of its own height, and by no other."""
    verifier = Verifier(cluster.genesis.chain_id, cluster.signer.check)
    for node in cluster.nodes:
        if not node.alive:
            continue
        store = node.replica.store
        sets = {}
        for height in range(1, store.tip.height + 1):
            block, header = store.block(height), store.header(height)
            assert block is not None
            assert header is not None
            epoch = block.certificate.epoch
            assert header.epoch == epoch
            known = store.validator_set(epoch)
            assert known is not None
            sets[epoch] = known
            assert known.first_height <= height
            assert verifier.certificate(block.certificate, known) is not None
        epochs = sorted(sets)
        assert epochs == list(range(len(epochs)))


def is_member(node: SimulatedNode) -> bool:
    return node.replica.engine.me is not None


def tap(cluster: Cluster, see: Callable[[SimulatedNode, bytes, Kind, bytes], bool]) -> None:
    """Let `see` look at every frame sent; it says whether the frame may pass."""
    transmit = cluster.transmit

    def watched(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> None:
        if see(sender, key, kind, payload):
            transmit(sender, key, kind, payload)

    cluster.transmit = watched  # type: ignore[method-assign]


def test_a_member_is_added_and_its_vote_counts() -> None:
    """Trap 3."""
    cluster = cluster_of(followers=1)
    joining = cluster.nodes[4]
    pass_end(cluster, enact(cluster, change(cluster, add=[joining])))
    commit(cluster, 3)
    assert is_member(joining)
    engine = joining.replica.engine
    assert (engine.validators.n, engine.validators.quorum, engine.validators.epoch) == (5, 4, 1)
    cluster.nodes[0].crash()
    commit(cluster, 3)  # four of five: the newcomer's vote is needed
    verify_all(cluster)


def test_a_member_is_removed_and_its_vote_counts_no_more() -> None:
    """Traps 2 and 3."""
    cluster = cluster_of(5)
    leaving = next(node for node in cluster.nodes if node is not leader_of(cluster))
    pass_end(cluster, enact(cluster, change(cluster, remove=[leaving])))
    commit(cluster, 2)
    assert not is_member(leaving)
    left = [node for node in cluster.nodes if node is not leaving]
    left[0].crash()
    commit(cluster, 2)  # three of four
    left[1].crash()
    height = left[2].replica.store.tip.height
    cluster.transfer(at=left[2].index)
    cluster.run(20_000)
    assert left[2].replica.store.tip.height == height  # two of four, and one that was
    left[1].boot()
    commit(cluster)
    verify_all(cluster)


def test_the_present_leader_is_removed() -> None:
    """Trap 3."""
    cluster = cluster_of(5)
    leaving = leader_of(cluster)
    end = enact(cluster, change(cluster, remove=[leaving]))
    pass_end(cluster, end)
    commit(cluster, 3)
    assert leader_of(cluster) is not leaving
    assert not is_member(leaving)
    assert leaving.replica.store.tip.block_hash in cluster.blocks.values()  # and follows from now on
    verify_all(cluster)


def test_a_member_that_removes_itself_works_to_the_end() -> None:
    """Trap 3."""
    cluster = cluster_of(5)
    leaving = voters(cluster)[0]  # the proposer, in `enact`
    pass_end(cluster, enact(cluster, change(cluster, remove=[leaving])))
    commit(cluster, 3)
    assert not is_member(leaving)
    verify_all(cluster)


def test_a_key_is_rotated() -> None:
    """Trap 3. The old key's node leaves, the new key's takes its place in one change."""
    cluster = cluster_of(followers=1)
    old, new = cluster.nodes[0], cluster.nodes[4]
    pass_end(cluster, enact(cluster, change(cluster, add=[new], remove=[old])))
    old.crash()
    commit(cluster, 3)
    assert is_member(new)
    assert [node.index for node in voters(cluster)] == [1, 2, 3, 4]
    cluster.nodes[1].crash()
    commit(cluster, 3)  # three of four, the new key among them
    old.boot()
    commit(cluster)
    assert not is_member(old)
    verify_all(cluster)


def test_all_but_a_quorum_are_replaced_at_once() -> None:
    """Trap 3: the most that one change may do; those that leave are gone at the end of their epoch."""
    cluster = cluster_of(7, followers=2)
    leaving, joining = cluster.nodes[:2], cluster.nodes[7:]
    pass_end(cluster, enact(cluster, change(cluster, add=joining, remove=leaving)))
    for node in leaving:
        node.crash()
    commit(cluster, 3)
    assert [node.index for node in voters(cluster)] == [2, 3, 4, 5, 6, 7, 8]
    for node in cluster.nodes[2:4]:
        node.crash()
    commit(cluster, 3)  # five of seven, both newcomers among them
    verify_all(cluster)


def test_members_are_added_and_removed_in_the_same_block() -> None:
    """Trap 3: two proposals pass in one block; the second waits for the first to take effect."""
    cluster = cluster_of(5, followers=1)
    electorate = voters(cluster)
    first = act(cluster, electorate[0], change(cluster, add=[cluster.nodes[5]]))
    second = act(cluster, electorate[0], change(cluster, remove=[cluster.nodes[1]]))
    ids = [
        cluster.submit(electorate[0], node.index, "members.vote", (proposal, True), VALID_FOR)
        for proposal in (first, second)
        for node in electorate[1:4]
    ]
    assert cluster.run(60_000, lambda: cluster.final_everywhere(ids))
    receipts = [electorate[0].replica.store.receipt(tx_id) for tx_id in ids]
    assert [receipt.code for receipt in receipts if receipt is not None] == [0] * 5 + [Code.CHANGE_PENDING]
    store = electorate[0].replica.store
    pass_end(cluster, end_of(store, ids[2], QUICK.log_window))
    assert len(voters(cluster)) == 6
    last = act(cluster, electorate[3], GovernanceVote(second, True))  # the vote that was refused, again
    pass_end(cluster, end_of(store, last, QUICK.log_window))
    commit(cluster)
    assert cluster.nodes[1] not in voters(cluster)
    verify_all(cluster)


@pytest.mark.parametrize("seed", range(4))
def test_a_set_changes_during_a_view_change(seed: int) -> None:
    """Trap 3. The leader dies as soon as the change is decided: the epoch is brought to its end by others."""
    cluster = cluster_of(5, seed=seed, followers=1)
    end = enact(cluster, change(cluster, add=[cluster.nodes[5]]))
    gone = leader_of(cluster)
    gone.crash()
    pass_end(cluster, end)
    assert any(
        block.certificate.view > 0
        for node in cluster.nodes
        if node.alive
        for height in range(1, end + 1)
        if (block := node.replica.store.block(height)) is not None
    )
    commit(cluster, 3)
    gone.boot()
    commit(cluster)
    assert len(voters(cluster)) == 6
    verify_all(cluster)


@pytest.mark.parametrize("seed", range(4))
def test_a_new_view_of_an_epoch_that_ended_meanwhile_disturbs_nobody(seed: int) -> None:
    """Trap 3. One member is stuck in a view change of the old epoch while the others begin the next."""
    cluster = cluster_of(7, seed=seed, delay_ms=(1, 40))
    leaders = cluster.genesis.validator_set.keys[:3]
    stuck = next(node for node in cluster.nodes if node.key.public not in leaders)
    rest = {node.index for node in cluster.nodes if node is not stuck}
    kept: list[tuple[SimulatedNode, bytes]] = []

    def keep_new_views(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        if kind is Kind.VOTE and isinstance(decode_message(payload), NewView) and key == stuck.key.public:
            kept.append((sender, payload))
            return False
        return True

    tap(cluster, keep_new_views)
    end = enact(cluster, change(cluster, remove=[stuck]))
    gone = leader_of(cluster)
    gone.crash()
    assert cluster.run(10_000, lambda: bool(kept))
    cluster.partition(rest, {stuck.index})
    gone.boot()
    others = [cluster.nodes[index] for index in rest]
    assert cluster.run(90_000, lambda: min(node.replica.store.tip.height for node in others) >= end)
    assert kept
    assert (stuck.replica.engine.validators.epoch, stuck.replica.engine.changing) == (0, True)
    assert {node.replica.engine.validators.epoch for node in others} == {1}
    cluster.heal()
    for sender, payload in kept:
        stuck.replica.on_frame(sender.key.public, Kind.VOTE, payload)
        for node in others:
            if node is not sender:
                node.replica.on_frame(sender.key.public, Kind.VOTE, payload)
    commit(cluster, 3)
    assert not is_member(stuck)
    verify_all(cluster)


def test_a_new_member_that_is_far_behind_does_not_hold_up_the_others() -> None:
    """Trap 5. It votes as soon as it has caught up, through blocks of epochs that it was in and was not."""
    cluster = cluster_of(followers=1)
    late = cluster.nodes[4]
    everyone = set(range(4))
    cluster.partition(everyone, {late.index})
    for _ in range(5):
        ids = [cluster.transfer(at=0) for _ in range(2)]
        assert cluster.run(30_000, lambda ids=ids: all(_has(cluster, everyone, tx_id) for tx_id in ids))  # type: ignore[misc]
    late.crash()
    end = enact(cluster, change(cluster, add=[late]))
    living = [cluster.nodes[index] for index in everyone]
    pass_end(cluster, end)
    began_ms = cluster.now_ms
    ids = [cluster.transfer(at=index) for index in everyone]  # quorum is four of five now: all but the late one
    assert cluster.run(30_000, lambda: all(_has(cluster, everyone, tx_id) for tx_id in ids))
    assert cluster.now_ms - began_ms < 10_000
    assert max(node.replica.engine.view for node in living) <= 1
    cluster.cut = set()
    late.boot()
    commit(cluster, 3)
    assert is_member(late)
    cluster.nodes[0].crash()
    commit(cluster, 3)  # now its vote is needed
    verify_all(cluster)


def _has(cluster: Cluster, nodes: set[int], tx_id: bytes) -> bool:
    return all(cluster.nodes[index].replica.store.receipt(tx_id) is not None for index in nodes)


def test_all_are_restarted_between_the_decision_and_the_change() -> None:
    """Traps 3 and 23. What is pending is in the state, and so are the parameters."""
    cluster = cluster_of(followers=1)
    end = enact(cluster, change(cluster, add=[cluster.nodes[4]]))
    for node in cluster.nodes:
        node.crash()
    for node in cluster.nodes:
        node.boot()
    pass_end(cluster, end)
    for node in cluster.nodes:
        node.crash()
    for node in cluster.nodes:
        node.boot()
    commit(cluster, 3)
    assert len(voters(cluster)) == 5
    verify_all(cluster)


def test_one_that_slept_through_two_changes_catches_up() -> None:
    """Traps 3 and 27: blocks of three epochs come at once, each checked against its own set."""
    cluster = cluster_of(5, followers=2)
    sleeper = cluster.nodes[4]
    sleeper.crash()
    pass_end(cluster, enact(cluster, change(cluster, add=[cluster.nodes[5]])))
    pass_end(cluster, enact(cluster, change(cluster, add=[cluster.nodes[6]], remove=[cluster.nodes[0]])))
    sleeper.boot()
    commit(cluster, 3)
    assert sleeper.replica.engine.validators.epoch == 2
    assert is_member(sleeper)
    verify_all(cluster)


# Parameters


def test_parameters_change_for_all_nodes_at_the_same_height() -> None:
    """Trap 46. Followers and those that were down included."""
    cluster = cluster_of(followers=1)
    down = cluster.nodes[3]
    down.crash()
    values = {"window": 2, "checkpoint_interval": 3, "log_window": 20, "view_timeout_ms": 2_000, "batch_txs_max": 7}
    end = enact(cluster, ProposeParameters(tuple(values.items())))
    for node in cluster.nodes:
        if node.alive:
            assert node.replica.store.tip.parameters == QUICK
    pass_end(cluster, end)
    down.boot()
    commit(cluster, 5)
    wanted = QUICK.changed(values.items())
    for node in cluster.nodes:
        assert node.replica.store.tip.parameters == parameters_in_force(node.replica.store) == wanted
        assert node.replica.pool.config.batch_txs_max == 7
        assert node.replica.engine.patience_ms >= 2_000
        assert node.replica.engine.checkpoints.stable >= end
    restarted = cluster.nodes[1]
    restarted.crash()
    restarted.boot()
    assert restarted.replica.store.tip.parameters == wanted
    assert restarted.replica.engine.patience_ms >= 2_000
    commit(cluster, 3)
    verify_all(cluster)


def test_nobody_proposes_beyond_the_new_window() -> None:
    """Trap 46."""
    cluster = cluster_of(delay_ms=(20, 40))
    pass_end(cluster, enact(cluster, ProposeParameters((("window", 1),))))
    ahead: list[int] = []

    def note(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        if kind is Kind.VOTE and isinstance(message := decode_message(payload), PrePrepare):
            ahead.append(message.proposal.height - sender.replica.engine.executed)
        return True

    tap(cluster, note)
    for _ in range(20):
        cluster.transfer()
        cluster.run(25)
    commit(cluster)
    assert ahead
    assert max(ahead) <= 1


# Equivocation


def contradict(cluster: Cluster, culprit: SimulatedNode) -> None:
    """Two prepares of one member for one height, each to everyone."""
    engine = next(node for node in cluster.nodes if node is not culprit).replica.engine
    member = engine.validators.index(culprit.key.public)
    assert member is not None
    height = engine.executed + 2
    for salt in (0, 1):
        digest = Proposal(height, WALL_MS + salt, ()).digest
        vote = Vote(engine.validators.epoch, engine.view, height, Phase.PREPARE, digest, member)
        vote = signed(vote, lambda text: cluster.signer.sign(culprit.key.public, text), cluster.genesis.chain_id)
        for node in cluster.nodes:
            if node is not culprit and node.alive:
                node.replica.on_frame(culprit.key.public, Kind.VOTE, encode_message(vote))


@pytest.mark.parametrize("ed25519", [False, True], ids=["tokens", "real signatures"])
def test_who_contradicts_himself_is_convicted_once_and_loses_his_vote(ed25519: bool) -> None:
    """Trap 48. Every node reports it, one report succeeds, the others are refused."""
    cluster = cluster_of(5, ed25519=ed25519)
    culprit = next(node for node in cluster.nodes if node is not leader_of(cluster))
    commit(cluster)
    contradict(cluster, culprit)
    honest = [node for node in cluster.nodes if node is not culprit]
    assert all(node.replica.counters.evidence == 1 for node in honest)
    store = honest[0].replica.store
    assert cluster.run(10_000, lambda: conviction(store, 0, culprit.key.public) is not None)
    found = conviction(store, 0, culprit.key.public)
    assert found is not None
    assert (found.offence, found.loses_vote) == (int(Offence.VOTE), True)
    pending = next_validators(store)
    assert pending is not None
    pass_end(cluster, pending.first_height - 1)
    commit(cluster, 3)
    assert culprit not in voters(cluster)
    assert len(voters(cluster)) == 4
    assert len(store.lookup("governance", b"evidence", limit=10)) == 1
    assert all(len(node.replica.reports) == 0 for node in honest)
    verify_all(cluster)


def test_of_four_the_culprit_is_recorded_and_the_chain_goes_on() -> None:
    """Traps 4 and 48."""
    cluster = cluster_of(4)
    culprit = next(node for node in cluster.nodes if node is not leader_of(cluster))
    contradict(cluster, culprit)
    store = next(node for node in cluster.nodes if node is not culprit).replica.store
    assert cluster.run(10_000, lambda: conviction(store, 0, culprit.key.public) is not None)
    found = conviction(store, 0, culprit.key.public)
    assert found is not None
    assert not found.loses_vote
    commit(cluster, 3)
    assert len(voters(cluster)) == 4


def test_one_that_saw_it_alone_brings_it_to_the_chain_and_a_full_pool_only_delays_it() -> None:
    """Trap 48. Its report is a transaction, so a batch carries it to all."""
    cluster = cluster_of(5, pool_txs_min=1)
    culprit = next(node for node in cluster.nodes if node is not leader_of(cluster))
    witness = next(node for node in cluster.nodes if node not in (culprit, leader_of(cluster)))
    cluster.transfer(at=witness.index)  # fills its pool
    nodes, cluster.nodes = cluster.nodes, [culprit, witness]
    contradict(cluster, culprit)
    cluster.nodes = nodes
    assert len(witness.replica.reports) == 1
    store = leader_of(cluster).replica.store
    assert cluster.run(20_000, lambda: conviction(store, 0, culprit.key.public) is not None)
    assert [node.replica.counters.evidence for node in cluster.nodes if node is not witness] == [0] * 4


class Admission:
    """Whom a node's desk lets its transport admit whatever its room, over a replica's store."""

    def __init__(self, node: SimulatedNode) -> None:
        self.store, self.transport = node.replica.store, self
        self._followed = self._beside = None
        Desk.follow_members(self)  # type: ignore[arg-type]

    def set_members(self, keys: object) -> None:
        """As the transport's."""

    def admits(self, key: bytes) -> bool:
        return Desk.role_of(self, key) == "validator"  # type: ignore[arg-type]


def test_who_leaves_is_heard_until_its_last_epoch_is_closed() -> None:
    """Trap 36. Its vote may be needed for that; it was dropped as soon as the epoch's last block was executed, and with
    another member silent no change of members could ever end again."""
    cluster = cluster_of(5, seed=1, delay_ms=(1, 3), fsync_ms=(2, 4))
    commit(cluster)
    lead = leader_of(cluster)
    silent, leaving = [node for node in cluster.nodes if node is not lead][:2]
    stay = [node for node in cluster.nodes if node not in (silent, leaving)]
    silent.crash()

    def passes(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        receiver = cluster.node_of(key)
        if receiver is None or not receiver.alive:
            return True
        return Admission(receiver).admits(sender.key.public) and Admission(sender).admits(key)

    tap(cluster, passes)
    ends = enact(cluster, change(cluster, remove=[leaving]))
    assert cluster.run(90_000, lambda: min(node.replica.store.tip.height for node in stay) >= ends)
    assert cluster.run(20_000, lambda: all(node.replica.store.unclosed_epoch() is None for node in stay))
    assert not any(Admission(node).admits(leaving.key.public) for node in stay)
    ends = enact(cluster, ProposeParameters((("window", 2),)))
    assert cluster.run(60_000, lambda: min(node.replica.store.tip.height for node in stay) >= ends)
