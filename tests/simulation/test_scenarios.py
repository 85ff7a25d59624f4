"""The scenarios that broke real systems (PITFALLS.md has where), one test for each. Whole replicas in the simulated
cluster; every checker watches all the time, and times are simulated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from consensus.messages import (
    CheckpointVote,
    Message,
    NewView,
    PrePrepare,
    Suspect,
    Vote,
    decode_message,
)
from consensus.sync import HEDGE_MS
from ledger.block import Phase, decode_certified
from ledger.codec import decode
from ledger.genesis import Parameters
from ledger.modules.members import ProposeValidators
from ledger.modules.members import Vote as Approval
from ledger.modules.parties import VALIDATORS, join_statement
from p2p.frames import Kind
from tests.simulation.cluster import Cluster, Options, SimulatedNode, key_of
from tests.test_protocol import by_member, cluster_of, leader_of, tap

QUICK = Parameters(view_timeout_ms=1_000, view_timeout_ms_max=8_000)
ROUND_TRIPS_MS = 3_000  # two statuses to learn where everyone is, and a block
HEALED_MS = QUICK.view_timeout_ms_max + ROUND_TRIPS_MS  # within this a chain with a quorum commits


def final(cluster: Cluster, nodes: list[SimulatedNode], count: int = 1, within_ms: int = HEALED_MS) -> None:
    """Transactions handed to each of `nodes` are executed by all of them in time."""
    ids = [cluster.transfer(at=node.index) for _ in range(count) for node in nodes]
    executed = cluster.run(within_ms, lambda: are_final(nodes, ids))
    assert executed, [(node.index, node.replica.store.tip.height, node.replica.engine.view) for node in nodes]


def are_final(nodes: list[SimulatedNode], ids: list[bytes]) -> bool:
    return all(node.replica.store.receipt(tx_id) is not None for node in nodes for tx_id in ids)


def on_messages(
    cluster: Cluster, passes: Callable[[SimulatedNode, SimulatedNode, Message], bool]
) -> Callable[[], None]:
    """Let `passes` decide about every consensus message; returns how to end that."""
    transmit = cluster.transmit
    nodes = {node.key.public: node for node in cluster.nodes}

    def see(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        return kind is not Kind.VOTE or passes(sender, nodes[key], decode_message(payload))

    tap(cluster, see)

    def end() -> None:
        cluster.transmit = transmit  # type: ignore[method-assign]

    return end


def views(nodes: list[SimulatedNode]) -> list[int]:
    return [node.replica.engine.view for node in nodes]


def member_order(n: int) -> list[int]:
    """Indices of the first n nodes in the order of their keys: the leaders of views 0, 1, ..."""
    return sorted(range(n), key=lambda index: key_of(index).public)


def test_scenario_1_half_an_hour_of_pause_of_f_plus_one_ends_without_endless_view_changes() -> None:
    """Scenario 1. Trap 12."""
    cluster = cluster_of()
    final(cluster, cluster.nodes)
    paused = cluster.nodes[:2]
    for node in paused:
        cluster.pause(node)
    for node in cluster.nodes[2:]:
        cluster.transfer(at=node.index)
    cluster.run(30 * 60_000)
    for node in paused:
        cluster.resume(node)
    final(cluster, cluster.nodes)
    settled = max(views(cluster.nodes))
    assert settled <= 2
    for _ in range(30):
        final(cluster, cluster.nodes[:1])
        cluster.run(2_000)
    assert set(views(cluster.nodes)) == {settled}


def test_scenario_2_view_changes_with_three_different_stable_checkpoints() -> None:
    """Scenario 2. Trap 16."""
    cluster = cluster_of(seed=2)
    leader, ahead, between, behind = (by_member(cluster, member) for member in range(4))
    tops = {behind.index: 0, between.index: QUICK.checkpoint_interval}
    transmit = cluster.transmit
    new_views: list[NewView] = []

    def see(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        receiver = next(node for node in cluster.nodes if node.key.public == key)
        message = decode_message(payload) if kind is Kind.VOTE else None
        if isinstance(message, NewView):
            new_views.append(message)
        if isinstance(message, CheckpointVote):
            return message.height <= tops.get(receiver.index, message.height)
        return kind is not Kind.CERTIFIED or receiver.index not in tops

    tap(cluster, see)
    while min(cluster.heights()) < 2 * QUICK.checkpoint_interval + 5:
        final(cluster, [leader])
    stable = [node.replica.engine.checkpoints.stable for node in (behind, between, ahead)]
    assert stable[0] == 0 < stable[1] == QUICK.checkpoint_interval < stable[2]
    leader.crash()
    final(cluster, [ahead, between, behind])
    heights = {claim.stable or 0 for claim in new_views[0].claims}
    assert heights == set(stable)
    cluster.transmit = transmit  # type: ignore[method-assign]
    final(cluster, [ahead, between, behind])
    leader.boot()
    final(cluster, cluster.nodes)


def test_scenario_3_votes_for_far_views_do_not_pile_up_nor_outlive_restarts() -> None:
    """Scenario 3. Trap 33."""
    flooder = member_order(4)[3]
    cluster = Cluster(3, Options(parameters=QUICK, byzantine={flooder: "vote_flood"}))
    honest = cluster.honest
    largest: Counter[str] = Counter()

    def measure() -> None:
        for node in honest:
            for name, size in node.replica.engine.table_sizes().items():
                largest[name] = max(largest[name], size)

    for _ in range(3):
        for _ in range(4):
            final(cluster, honest)
            cluster.run(700)
            measure()
        cluster.run(2_000)
        for node in honest:
            node.crash()
            node.boot()
        assert all(node.replica.engine.table_sizes()["future"] == 0 for node in honest)
    final(cluster, honest)
    assert cluster.nodes[flooder].number > 300  # type: ignore[attr-defined]
    assert largest["future"] <= 256  # of the one member that sends such votes
    assert largest["view_changes"] <= 4
    assert largest["suspects"] <= 4
    assert all(height <= node.replica.store.tip.height + 2 for node in honest for height in node.replica.engine.slots)
    logged = [sum(len(payload) for _, _, payload in node.log) for node in honest]
    blocks = cluster.nodes[honest[0].index].replica.store.tip.height
    assert max(logged) < blocks * 8 * 1024  # what we signed ourselves, never what we were sent


@pytest.mark.parametrize("helped", [False, True])
def test_scenario_4_views_do_not_race_upwards_while_there_is_no_quorum(helped: bool) -> None:
    """Scenario 4. Trap 12. Even if a faulty member completes the quorum for leaving views, the patience doubles."""
    order = member_order(4)
    cluster = Cluster(4, Options(parameters=QUICK, byzantine={order[1]: "doubter"} if helped else {}))
    # An honest member is gone, and another or the faulty one votes for nothing but leaving.
    gone = cluster.nodes[order[0]]
    end = on_messages(cluster, lambda sender, _, message: sender.index != order[1] or isinstance(message, Suspect))
    cluster.run(1_000)
    gone.crash()
    rest = [cluster.nodes[index] for index in order[2:]]
    ids = [cluster.transfer(at=node.index) for node in rest]
    duration_ms = 200_000
    cluster.run(duration_ms)
    assert not are_final(rest, ids)
    assert max(views(rest)) <= duration_ms // QUICK.view_timeout_ms_max + 5
    end()
    gone.boot()
    cluster.run(HEALED_MS, lambda: are_final(rest, ids))
    assert are_final(rest, ids)
    final(cluster, cluster.honest)


@pytest.mark.parametrize("seconds", [30, 300])
@pytest.mark.parametrize("disconnect_ms", [0, 15_000])
def test_scenario_5_a_node_without_its_peers_for_a_while_rejoins_without_a_restart(
    seconds: int, disconnect_ms: int
) -> None:
    """Scenario 5. Trap 12."""
    cluster = cluster_of(seed=5, disconnect_ms=disconnect_ms, reconnect_ms=(100, 1_000) if disconnect_ms else (0, 0))
    cluster.run(2_000)
    final(cluster, cluster.nodes)
    lone = cluster.nodes[0]
    rest = cluster.nodes[1:]
    cluster.partition({node.index for node in rest}, {lone.index})
    waiting = cluster.transfer(at=lone.index)
    for _ in range(seconds // 10):
        final(cluster, rest)
        cluster.run(10_000)
    life = lone.life
    cluster.heal()
    assert cluster.run(HEALED_MS, lambda: are_final(cluster.nodes, [waiting]))
    # It votes: with another one gone nothing is decided without it.
    next(node for node in rest if node is not leader_of(cluster)).crash()
    final(cluster, [node for node in cluster.nodes if node.alive])
    assert lone.life == life


@pytest.mark.parametrize("member", [0, 2])
def test_scenario_6_a_deaf_node_cannot_stall_the_others(member: int) -> None:
    """Scenario 6. It hears nothing for good, and goes on speaking; once as the leader."""
    cluster = cluster_of(seed=6)
    deaf = by_member(cluster, member)
    rest = [node for node in cluster.nodes if node is not deaf]
    cluster.cut = {(node.index, deaf.index) for node in rest}
    for _ in range(10):
        final(cluster, rest)
        cluster.run(1_000)
    assert max(views(rest)) <= 2
    cluster.heal()
    final(cluster, cluster.nodes)


def test_scenario_7_a_view_change_while_a_committed_block_waits_to_be_executed() -> None:
    """Scenario 7. Trap 14: the decision stands, and is executed once what it orders arrives."""
    cluster = cluster_of(seed=7)
    leader, second, third, slow = (by_member(cluster, member) for member in range(4))
    transmit = cluster.transmit
    spread: list[bytes] = []

    def see(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        if kind is Kind.BATCH and not spread:
            spread.append(payload)
        return key != slow.key.public or not (payload in spread or kind is Kind.BLOCK_RESPONSE)

    tap(cluster, see)
    first = cluster.transfer(at=leader.index)
    assert cluster.run(1_000, lambda: are_final([leader, second, third], [first]))
    assert cluster.run(1_000, lambda: bool(slow.replica._undelivered))
    assert slow.replica.store.tip.height == 0
    leader.crash()
    later = cluster.transfer(at=second.index)
    assert cluster.run(HEALED_MS, lambda: slow.replica.engine.view > 0)
    assert slow.replica.store.tip.height == 0
    assert slow.replica._undelivered
    cluster.transmit = transmit  # type: ignore[method-assign]
    assert cluster.run(HEALED_MS, lambda: are_final([second, third, slow], [first, later]))
    final(cluster, [second, third, slow])


def test_scenario_8_catching_up_from_nothing_with_blocks_out_of_order() -> None:
    """Scenario 8. Trap 26: what arrives early is kept, not asked for again."""
    cluster = cluster_of(followers=1, seed=8)
    empty = cluster.nodes[4]
    members = cluster.nodes[:4]
    cluster.partition({0, 1, 2, 3})
    while min(node.replica.store.tip.height for node in members) < 100:
        final(cluster, members[:1])
    assert empty.replica.store.tip.height == 0
    received: list[int] = []
    on_frame = empty.replica.on_frame

    def note(key: bytes, kind: Kind, payload: bytes) -> None:
        if kind is Kind.BLOCK_RESPONSE:
            wires = decode(payload, size_bytes_max=len(payload))
            received.extend(decode_certified(wire).height for wire in wires)  # type: ignore[union-attr, arg-type]
        on_frame(key, kind, payload)

    empty.replica.on_frame = note  # type: ignore[method-assign]
    cluster.options.delay_ms = (1, HEDGE_MS // 2)  # a slower answer is asked for twice
    cluster.heal()
    height = members[0].replica.store.tip.height
    assert cluster.run(20_000, lambda: empty.replica.store.tip.height >= height)
    assert received != sorted(received)
    assert len(received) == len(set(received)) >= 100
    # Whose signatures it has not checked is counted; a member that took part in every block has none of these.
    counters = empty.replica.counters
    assert 100 <= counters.synced_transactions <= counters.transactions
    assert counters.synced_transactions + counters.batches_checked >= counters.transactions
    assert [node.replica.counters.synced_transactions for node in members] == [0, 0, 0, 0]


def test_scenario_9_catching_up_in_the_middle_of_a_view_change_ends_it() -> None:
    """Scenario 9. Traps 14, 20."""
    cluster = cluster_of(seed=9)
    old, second, third, late = (by_member(cluster, member) for member in range(4))
    final(cluster, cluster.nodes)
    end = on_messages(
        cluster,
        # It takes part in leaving view 0, and hears nothing of view 1: neither the new view nor its votes.
        lambda sender, receiver, message: (
            receiver is not late or isinstance(message, CheckpointVote) or message.view == 0
        ),
    )
    old.crash()
    waiting = cluster.transfer(at=second.index)
    cluster.run(HEALED_MS, lambda: late.replica.engine.changing and not second.replica.engine.changing)
    assert late.replica.engine.changing
    old.boot()  # with three in view 1 the chain moves on
    assert cluster.run(HEALED_MS, lambda: are_final([old, second, third], [waiting]))
    for _ in range(3):
        final(cluster, [old, second, third])
    cluster.run(3_000)
    assert are_final([late], [waiting])  # by blocks
    end()
    assert cluster.run(ROUND_TRIPS_MS, lambda: not late.replica.engine.changing)
    third.crash()  # it is needed now
    final(cluster, [old, second, late])


@pytest.mark.parametrize("locked", [1, 2, 3, 4])
def test_scenario_10_who_asked_for_another_view_and_then_commits_blocks_nobody(locked: int) -> None:
    """Scenario 10. Trap 25: `locked` members hold the block, all ask to leave, then the commits arrive."""
    cluster = cluster_of(seed=10)
    holders = {by_member(cluster, member).index for member in range(locked)}
    kept: list[tuple[SimulatedNode, bytes, Kind, bytes]] = []
    transmit = cluster.transmit

    def see(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        message = decode_message(payload) if kind is Kind.VOTE else None
        receiver = next(node for node in cluster.nodes if node.key.public == key)
        if isinstance(message, Vote) and message.view == 0 and message.phase is Phase.COMMIT:
            kept.append((sender, key, kind, payload))
            return False
        if isinstance(message, Vote | PrePrepare) and message.view == 0:
            return receiver.index in holders or isinstance(message, PrePrepare)
        return kind is not Kind.BLOCK_RESPONSE

    tap(cluster, see)
    waiting = [cluster.transfer(at=0)]
    assert cluster.run(5_000, lambda: all(node.replica.engine.is_discontent for node in cluster.nodes))
    held = [node.index for node in cluster.nodes if any(slot.prepared for slot in node.replica.engine.slots.values())]
    assert len(held) == locked
    for sender, key, kind, payload in kept:  # as late as can be: some are in the next view, some not yet
        transmit(sender, key, kind, payload)
    cluster.transmit = transmit  # type: ignore[method-assign]
    assert cluster.run(HEALED_MS, lambda: are_final(cluster.nodes, waiting))
    final(cluster, cluster.nodes)
    assert max(views(cluster.nodes)) <= 2


def test_scenario_11_the_checkpoint_of_a_new_view_is_that_of_its_view_changes_not_of_its_leader() -> None:
    """Scenario 11. Trap 16: the new leader itself has executed less than the highest stable checkpoint."""
    cluster = cluster_of(seed=11)
    old, new, third, fourth = (by_member(cluster, member) for member in range(4))
    others = [old, third, fourth]
    cluster.partition({node.index for node in others}, {new.index})
    while old.replica.engine.checkpoints.stable < QUICK.checkpoint_interval:
        final(cluster, [old])
    for _ in range(3):
        final(cluster, [old, third, fourth])
    base = old.replica.engine.checkpoints.stable
    assert new.replica.store.tip.height == 0
    old.crash()
    transmit = cluster.transmit
    tap(cluster, lambda sender, key, kind, payload: kind is not Kind.STATUS or key != new.key.public)
    waiting = cluster.transfer(at=third.index)
    cluster.heal()
    installed = cluster.run(HEALED_MS, lambda: new.replica.engine.is_leader)
    assert installed
    assert new.replica.store.tip.height < base
    assert third.replica.engine.checkpoints.stable >= base
    cluster.transmit = transmit  # type: ignore[method-assign]
    assert cluster.run(HEALED_MS, lambda: are_final([new, third, fourth], [waiting]))
    assert min(views([new, third, fourth])) == max(views([new, third, fourth])) == 1
    final(cluster, [new, third, fourth])


@pytest.mark.parametrize("member", [0, 1])
def test_scenario_12_a_crash_between_a_vote_and_its_sending_changes_no_vote(member: int) -> None:
    """Scenario 12. Trap 20: what was durable and never sent is what is sent after the restart."""
    cluster = cluster_of(seed=12)
    victim = by_member(cluster, member)
    send = SimulatedNode.send
    unsent: list[bytes] = []
    sent: list[bytes] = []
    countdown = [0]

    def losing(key: bytes, kind: Kind, payload: bytes) -> None:
        if kind is Kind.VOTE and isinstance(decode_message(payload), Vote | PrePrepare):
            if unsent:
                cluster.checkers.on_send(victim, kind, payload)  # counts as said: nothing may contradict it
                return  # the power is gone
            countdown[0] -= 1
            if countdown[0] < 0:
                unsent.append(payload)
                cluster.checkers.on_send(victim, kind, payload)
                cluster.later(None, 0, victim.crash)
                return
            sent.append(payload)
        send(victim, key, kind, payload)

    victim.send = losing  # type: ignore[method-assign]
    by_member(cluster, 3).crash()  # so that the others need this one
    repeated = 0
    for round_number in range(12):
        countdown[0] = round_number
        unsent.clear()
        sent.clear()
        for _ in range(5):
            for node in cluster.nodes:
                if node.alive:
                    cluster.transfer(at=node.index)
            if cluster.run(500, lambda: not victim.alive):
                break
        assert not victim.alive
        sent.clear()
        lost = unsent.pop()
        countdown[0] = 10**6
        cluster.run(100)
        victim.boot()
        final(cluster, [node for node in cluster.nodes if node.alive])
        repeated += lost in sent
    by_member(cluster, 3).boot()
    final(cluster, cluster.nodes)
    assert repeated >= 6  # the other votes had lost their meaning


@pytest.mark.parametrize(("n", "strategy"), [(4, "half_leader"), (7, "half_leader"), (4, "excluder")])
def test_scenario_13_a_leader_that_serves_only_half_the_replicas(n: int, strategy: str) -> None:
    """Scenario 13. Trap 18: those it does not serve get everything in time, be it by replacing the leader."""
    faulty = member_order(n)[0]
    cluster = Cluster(13, Options(n=n, parameters=QUICK, byzantine={faulty: strategy}))
    cluster.run(100)
    for _ in range(5):
        final(cluster, cluster.honest, within_ms=15 * QUICK.view_timeout_ms)
        cluster.run(1_000)


def order_change(cluster: Cluster, voters: list[SimulatedNode], add: list[SimulatedNode], remove: list[bytes]) -> None:
    """Propose a change of validators and approve it, at the first of `voters`, until that one has decided it."""
    statement = join_statement(cluster.genesis.chain_id, VALIDATORS)
    proofs = tuple(node.key.sign(statement) for node in add)
    operation = ProposeValidators(tuple(node.key.public for node in add), tuple(remove), proofs)
    desk = voters[0]
    proposal = cluster.submit(desk, voters[0].index, operation.NAME, operation.to_fields(), 500)
    assert cluster.run(60_000, lambda: desk.replica.store.receipt(proposal) is not None)
    for node in voters[1 : desk.replica.engine.validators.quorum]:
        cluster.submit(desk, node.index, Approval.NAME, Approval(proposal, True).to_fields(), 500)
    assert cluster.run(60_000, lambda: desk.replica.engine.epoch_end is not None)


@pytest.mark.parametrize("crash_after_ms", [0, 60, 400])
@pytest.mark.parametrize("change", ["remove the leader", "add one that has nothing"])
def test_scenario_14_a_membership_change_inside_a_view_change(change: str, crash_after_ms: int) -> None:
    """Scenario 14. Traps 3, 5: the leader goes while the change is proposed, voted on, or about to take effect."""
    cluster = cluster_of(5, seed=14 + crash_after_ms, followers=1)
    members, joining = cluster.nodes[:5], cluster.nodes[5]
    leader = leader_of(cluster)
    rest = [node for node in members if node is not leader]
    cluster.partition({node.index for node in members})
    added = [joining] if change.startswith("add") else []
    cluster.later(None, crash_after_ms, leader.crash)
    order_change(cluster, rest, added, [] if added else [leader.key.public])
    end = rest[0].replica.engine.epoch_end
    assert end is not None
    assert cluster.run(60_000, lambda: min(node.replica.store.tip.height for node in rest) >= end)
    assert not leader.alive
    final(cluster, rest)
    assert {node.replica.engine.validators.epoch for node in rest} == {1}
    cluster.heal()
    final(cluster, [*rest, *added])
    leader.boot()
    assert cluster.run(HEALED_MS, lambda: leader.replica.engine.validators.epoch == 1)
    assert (leader.replica.engine.me is None) == (not added)
    assert (joining.replica.engine.me is not None) == bool(added)
    final(cluster, rest)
