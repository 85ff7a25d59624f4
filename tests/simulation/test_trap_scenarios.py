"""Traps that take a whole cluster (docs/traps.md): the simulated one, every checker watching, times simulated."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from unittest.mock import Mock

import pytest

from consensus.messages import CheckpointVote, Message, NewView, ViewChange, Vote, decode_message, encode_message
from consensus.slots import Slot
from ledger.block import Phase
from ledger.execution import Executor
from ledger.fields import Operation
from ledger.modules import payments
from ledger.rules import Context, Registry, Rule
from node.desk import Desk
from node.replica import UNPERSISTED_WINDOWS_MAX, RecordKind
from node.why import explain
from p2p.frames import Kind
from tests.node.test_why import MOVING
from tests.simulation.cluster import WALL_MS, Cluster, SimulatedNode
from tests.simulation.options import Options
from tests.simulation.test_scenarios import (
    HEALED_MS,
    QUICK,
    ROUND_TRIPS_MS,
    are_final,
    final,
    member_order,
    on_messages,
    views,
)
from tests.test_protocol import by_member, cluster_of, signed_by, tap


@pytest.mark.parametrize("n", [4, 5, 6])
@pytest.mark.parametrize("lost", [False, True])
def test_members_locked_on_different_blocks_agree_on_the_one_locked_last(n: int, lost: bool) -> None:
    """Trap 9. One locked the first leader's block, another the second's, who knew nothing of it; in half of the cases
    f members are gone when they meet.
    """
    cluster = cluster_of(n, seed=15)
    early, late = by_member(cluster, n - 1), by_member(cluster, n - 2)
    locks_in = {0: early, 1: late}
    begun: list[NewView] = []

    def passes(sender: SimulatedNode, receiver: SimulatedNode, message: Message) -> bool:
        if isinstance(message, NewView) and message.view > 1:
            begun.append(message)
        if isinstance(message, Vote) and message.view in locks_in:
            return not begun and message.phase is Phase.PREPARE and receiver is locks_in[message.view]
        return not (isinstance(message, ViewChange) and message.view == 1 and sender is early)

    def lock_of(node: SimulatedNode, view: int) -> bytes | None:
        slot = node.replica.engine.slots.get(1)
        lock = None if slot is None else slot.prepared
        return None if lock is None or lock.certificate.view != view else lock.proposal.digest

    on_messages(cluster, passes)
    waiting = [cluster.transfer(at=by_member(cluster, 0).index)]
    assert cluster.run(HEALED_MS, lambda: lock_of(late, 1) is not None)
    locked = [lock_of(early, 0), lock_of(late, 1)]
    assert None not in locked
    assert locked[0] != locked[1]
    assert sum(any(slot.prepared for slot in node.replica.engine.slots.values()) for node in cluster.nodes) == 2
    if lost:
        by_member(cluster, 0).crash()
    rest = [node for node in cluster.nodes if node.alive]
    assert cluster.run(HEALED_MS, lambda: are_final(rest, waiting))
    assert max(views(rest)) <= 3
    shown = {digest for claim in begun[0].claims for _, _, digest in claim.locks}
    assert shown == set(locked) or not (lost and n < 6), "all that are left make the quorum"
    chosen = locked[1] if locked[1] in shown else locked[0]
    assert {node.replica.store.block(1).proposal.digest for node in rest} == {chosen}  # type: ignore[union-attr]
    final(cluster, rest)


@pytest.mark.parametrize("power", [False, True])
def test_all_restarted_when_one_alone_knew_the_last_decision_keep_it(power: bool) -> None:
    """Trap 23. Its commits reached nobody else, and are sent no more: locks on every disk are enough."""
    cluster = cluster_of(seed=16)
    final(cluster, cluster.nodes)
    lucky = by_member(cluster, 2)
    height = max(cluster.heights()) + 1

    def see(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        message = decode_message(payload) if kind is Kind.VOTE else None
        is_commit = isinstance(message, Vote) and message.phase is Phase.COMMIT
        return kind is not Kind.BLOCK_RESPONSE and (not is_commit or key == lucky.key.public)

    transmit = cluster.transmit
    tap(cluster, see)
    last = cluster.transfer(at=0)
    assert cluster.run(1_000, lambda: are_final([lucky], [last]))
    decided = lucky.replica.store.block(height)
    assert decided is not None
    assert sum(node.replica.store.tip.height >= height for node in cluster.nodes) == 1
    for node in cluster.nodes:
        node.crash(power)
    cluster.transmit = transmit  # type: ignore[method-assign]
    for node in cluster.nodes:
        if node is not lucky:
            node.boot()
    rest = [node for node in cluster.nodes if node.alive]
    assert cluster.run(HEALED_MS, lambda: are_final(rest, [last]))
    again = rest[0].replica.store.block(height)
    assert again is not None
    assert again.proposal == decided.proposal
    lucky.boot()
    final(cluster, cluster.nodes)


@pytest.mark.parametrize("late", [2, 4])
def test_who_misses_only_the_last_block_gets_it_though_none_follows(late: int) -> None:
    """Trap 29. A member and a follower, one block behind a chain at rest; the certificate comes with the block."""
    cluster = cluster_of(followers=1, seed=17)
    final(cluster, cluster.nodes[:4])
    assert cluster.run(1_000, lambda: len(set(cluster.heights())) == 1)
    behind = cluster.nodes[late]
    rest = [node for node in cluster.nodes if node is not behind]
    height = behind.replica.store.tip.height
    cluster.partition({node.index for node in rest}, {late})
    cluster.run(20_000)  # the block that closes a quiet chain
    assert {node.replica.store.tip.height for node in rest} == {height + 1}
    assert behind.replica.store.tip.height == height
    cluster.heal()
    assert cluster.run(ROUND_TRIPS_MS, lambda: behind.replica.store.tip.height == height + 1)
    block = behind.replica.store.block(height + 1)
    assert block is not None
    assert len(block.certificate.signatures) >= cluster.nodes[0].replica.engine.validators.quorum
    cluster.run(ROUND_TRIPS_MS)
    assert {node.replica.store.tip.height for node in cluster.nodes} == {height + 1}


@pytest.mark.parametrize("late", [2, 4])
def test_who_lags_catches_up_faster_than_the_chain_grows_under_load(late: int) -> None:
    """Trap 30. A member and a follower behind by 150 blocks, some of them empty, over links of a tenth of a second;
    a block is made for every transaction meanwhile.
    """
    cluster = cluster_of(followers=1, seed=18)
    behind = cluster.nodes[late]
    rest = [node for node in cluster.nodes if node is not behind]
    cluster.partition({node.index for node in rest}, {late})
    leader = by_member(cluster, 0)
    while rest[0].replica.store.tip.height < 150:
        final(cluster, [leader])
        if rest[0].replica.store.tip.height % 25 == 0:
            cluster.run(10_000)  # an empty block closes the chain
    cluster.options.delay_ms = (80, 120)
    cluster.heal()
    began_height, began_ms = rest[0].replica.store.tip.height, cluster.now_ms
    gaps = [began_height - behind.replica.store.tip.height]
    while gaps[-1] > QUICK.window and cluster.now_ms - began_ms < 20_000:
        for _ in range(5):
            cluster.transfer(at=leader.index)
            cluster.run(100)
        gaps.append(rest[0].replica.store.tip.height - behind.replica.store.tip.height)
    grown = rest[0].replica.store.tip.height - began_height
    took_ms = cluster.now_ms - began_ms
    assert gaps[-1] <= QUICK.window, gaps
    assert grown > 5 * took_ms // 1_000, "the chain did not grow meanwhile"
    assert gaps[0] + grown > 5 * grown, gaps


@pytest.mark.parametrize("ahead_ms", [3_600_000, -3_600_000])
@pytest.mark.parametrize("member", [0, 3])
def test_an_honest_clock_an_hour_off_neither_stalls_nor_skews(member: int, ahead_ms: int) -> None:
    """Trap 44. As leader it is passed over, also in its next turn; as another it votes for nothing and follows."""
    index = member_order(4)[member]
    cluster = cluster_of(seed=19, skew_ms={index: ahead_ms})
    wrong = cluster.nodes[index]
    for _ in range(6):
        final(cluster, cluster.nodes)
        cluster.run(2_000)
    assert not any(node is not wrong and node.replica.engine.leader == member for node in cluster.nodes)
    store = cluster.nodes[0].replica.store
    headers = [store.header(height) for height in range(1, store.tip.height + 1)]
    times = [header.time_ms for header in headers if header is not None]
    assert times == sorted(times)
    assert times[0] >= WALL_MS - QUICK.clock_drift_ms_max
    assert times[-1] <= WALL_MS + cluster.now_ms + QUICK.clock_drift_ms_max
    assert times[-1] >= WALL_MS + cluster.now_ms - 20_000


@pytest.mark.parametrize("n", [4, 7])
def test_bytes_sent_for_a_byte_committed_are_little_more_than_the_copies_needed(n: int) -> None:
    """Trap 39. Everything that all nodes send, votes and statuses too, for each byte of the transactions ordered; n - 1
    copies of each byte are needed. Transactions of 200 bytes, blocks of some tens: small ones, so that votes weigh.
    """
    cluster = cluster_of(n, seed=20)
    sent: Counter[Kind] = Counter()

    def see(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        sent[kind] += len(payload)
        return True

    tap(cluster, see)
    for _ in range(4):
        final(cluster, cluster.nodes, count=100 // n)
    store = cluster.nodes[0].replica.store
    blocks = [store.block(height) for height in range(1, store.tip.height + 1)]
    batches = [batch for block in blocks if block is not None for batch in block.batches]
    committed = sum(len(wire) for batch in batches for wire in batch.wires)
    assert committed > 75_000
    assert sent[Kind.BATCH] <= 1.05 * (n - 1) * committed, "a batch goes to each member once, by its maker"
    assert sum(sent.values()) <= 1.5 * (n - 1) * committed, sent


def test_a_disk_that_stalls_while_the_chain_goes_on_fills_no_table() -> None:
    """A member that cannot write signs no more than a few windows, and is level soon after the disk answers."""
    window = 2 + 2 * QUICK.window
    cluster = Cluster(21, Options(parameters=replace(QUICK, checkpoint_interval=2, log_window=window)))
    cluster.run(100)
    stalled = by_member(cluster, 2)
    rest = [node for node in cluster.nodes if node is not stalled]
    stalled.stalled_until_ms = cluster.now_ms + 600_000
    most = 0
    while rest[0].replica.store.tip.height < 12 * window:
        final(cluster, rest)
        most = max(most, stalled.replica.engine.unpersisted)
    assert UNPERSISTED_WINDOWS_MAX * window <= most <= (UNPERSISTED_WINDOWS_MAX + 1) * window
    assert stalled.replica.store.tip.height < rest[0].replica.store.tip.height
    cluster.run(stalled.stalled_until_ms - cluster.now_ms)
    assert cluster.run(ROUND_TRIPS_MS, lambda: len(set(cluster.heights())) == 1)
    assert cluster.run(ROUND_TRIPS_MS, lambda: stalled.replica.engine.unpersisted == 0)
    final(cluster, cluster.nodes)


def make_inconsistent(cluster: Cluster, odd: SimulatedNode) -> None:
    """In one node's life, its payment rules keep a count outside of the state; the checkers look away from it."""
    calls: list[int] = []

    def counting(rule: Rule) -> Rule:
        def apply(operation: Operation, ctx: Context) -> None:
            rule.apply(operation, ctx)
            calls.append(ctx.height)
            ctx.put("calls", value=len(calls))

        return replace(rule, apply=apply)

    crooked = replace(payments.MODULE, rules=tuple(map(counting, payments.MODULE.rules)))
    members_module = next(module for module in cluster.registry.modules if module.name == "members")
    odd.replica.executor = Executor(cluster.genesis, Registry([members_module, crooked]))
    on_applied, on_stable = cluster.on_applied, cluster.on_stable
    cluster.on_applied = lambda node, *more: None if node is odd else on_applied(node, *more)  # type: ignore[method-assign]
    cluster.on_stable = lambda node, *more: None if node is odd else on_stable(node, *more)  # type: ignore[method-assign]


def test_a_rule_inconsistent_on_one_node_halts_that_node_alone_and_it_says_why() -> None:
    """Trap 47. Its rule keeps a count outside of the state. The others go on; after a restart it halts again, as its
    state stays what it is.
    """
    cluster = cluster_of(seed=21)
    odd = cluster.nodes[2]
    rest = [node for node in cluster.nodes if node is not odd]
    make_inconsistent(cluster, odd)
    home = Mock()
    desk = Desk(None, home, None, None, Mock())  # type: ignore[arg-type]
    stopped: list[int] = []

    def diverged(height: int, own: bytes, certified: bytes) -> None:
        stopped.append(height)
        desk.on_diverged(height, own, certified)

    odd.diverged = diverged  # type: ignore[method-assign]
    while not stopped:
        final(cluster, rest)
        assert cluster.now_ms < 60_000
    assert odd.replica.engine.halted
    assert stopped == [QUICK.checkpoint_interval]
    home.store.quarantine.assert_called_once()
    told = explain(replace(MOVING, stopped=desk.stopped))
    assert told["halted"]
    assert "MC5006" in told["sentence"]
    assert str(stopped[0]) in told["sentence"]
    said = [height for kind, height, _ in odd.log if kind is RecordKind.VOTES]
    final(cluster, rest, count=3)
    assert [height for kind, height, _ in odd.log if kind is RecordKind.VOTES] == said
    odd.crash(power=False)
    odd.boot()
    while len(stopped) < 2:
        final(cluster, rest)
        assert cluster.now_ms < 120_000
    assert odd.replica.engine.halted
    assert not any(node.replica.engine.halted for node in rest)


def test_a_node_that_hears_only_after_a_restart_that_it_differs_says_the_same() -> None:
    """Traps 31, 47. What it executed is in its store, and is compared again. It is no fault of its disk."""
    cluster = cluster_of(followers=1, seed=25)
    odd, members = cluster.nodes[4], cluster.nodes[:4]
    make_inconsistent(cluster, odd)
    transmit = cluster.transmit

    def see(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        message = decode_message(payload) if kind is Kind.VOTE else None
        return key != odd.key.public or not (kind is Kind.CERTIFIED or isinstance(message, CheckpointVote))

    tap(cluster, see)
    final(cluster, members)
    cluster.run(10_000)  # the block that closes a quiet chain is a checkpoint
    assert odd.replica.store.tip.height == members[0].replica.engine.checkpoints.stable > 0
    odd.crash(power=False)
    cluster.transmit = transmit  # type: ignore[method-assign]
    told: list[tuple[int, bytes, bytes]] = []
    odd.diverged = lambda *found: told.append(found)  # type: ignore[method-assign]
    odd.boot()
    assert cluster.run(10_000, lambda: bool(told))
    assert odd.replica.engine.halted
    desk = Desk(None, Mock(), None, None, Mock())  # type: ignore[arg-type]
    desk.on_diverged(*told[0])
    assert desk.stopped is not None
    assert "MC5006" in desk.stopped
    assert "disk" not in desk.stopped


def test_a_leader_replaced_while_its_block_was_on_its_way_to_the_disk_drops_it() -> None:
    """Trap 14. The disk comes back in the next view: what was half built is neither counted nor proposed again, its
    work is ordered once, and the one that led votes with the others.
    """
    cluster = cluster_of(seed=22)
    final(cluster, cluster.nodes)
    leader, second, third, fourth = (by_member(cluster, member) for member in range(4))
    rest = [second, third, fourth]
    height = max(cluster.heights()) + 1
    leader.stalled_until_ms = cluster.now_ms + 1_800  # one patience; the chain is not yet quiet, its log still there
    waiting = [cluster.transfer(at=node.index) for node in cluster.nodes]
    assert cluster.run(1_000, lambda: height in leader.replica.engine.slots)
    half_built = leader.replica.engine.slots[height].proposal
    assert half_built is not None
    assert cluster.run(1_700, lambda: are_final(rest, waiting))
    assert min(views(rest)) > 0
    assert leader.replica.engine.slots.get(height, Slot(height)).proposal != half_built
    engine = leader.replica.engine

    def counts_an_old_vote() -> bool:
        votes = (vote for slot in engine.slots.values() for phase in Phase for vote in slot.votes(phase).values())
        return any(vote.view != engine.view for vote in votes)

    assert not cluster.run(leader.stalled_until_ms - cluster.now_ms + ROUND_TRIPS_MS, counts_an_old_vote)
    assert (engine.view, engine.changing, engine.is_leader) == (second.replica.engine.view, False, False)
    blocks = [second.replica.store.block(number) for number in range(1, max(cluster.heights()) + 1)]
    assert half_built.digest not in {block.proposal.digest for block in blocks if block is not None}
    assert are_final([leader], waiting)
    next(node for node in rest if not node.replica.engine.is_leader).crash()  # its vote is needed now
    final(cluster, [node for node in cluster.nodes if node.alive])


@pytest.mark.parametrize("power", [False, True])
def test_view_locks_and_checkpoint_are_after_a_restart_what_they_were(power: bool) -> None:
    """Trap 24. With two heights locked and not decided, above a certified checkpoint, in a view that was changed to."""
    cluster = cluster_of(seed=23)
    by_member(cluster, 0).crash()
    nodes = [node for node in cluster.nodes if node.alive]
    while min(node.replica.engine.checkpoints.stable for node in nodes) < QUICK.checkpoint_interval:
        final(cluster, nodes[:1])

    def no_commits(_: SimulatedNode, __: SimulatedNode, message: Message) -> bool:
        return not (isinstance(message, Vote) and message.phase is Phase.COMMIT)

    on_messages(cluster, no_commits)
    for _ in range(2):
        cluster.transfer(at=nodes[0].index)
        cluster.run(200)

    def locks(node: SimulatedNode) -> dict[int, tuple[int, bytes]]:
        known = {height: slot.prepared for height, slot in node.replica.engine.slots.items()}
        top = node.replica.engine.executed
        found = {height: lock for height, lock in known.items() if lock is not None and height > top}
        return {height: (lock.certificate.view, lock.proposal.digest) for height, lock in found.items()}

    for node in nodes:
        engine = node.replica.engine
        before = engine.view, engine.changing, locks(node), engine.checkpoints.certificate
        assert before[0] > 0
        assert not before[1]
        assert len(before[2]) == 2
        assert before[3] is not None
        node.crash(power)
        node.boot()
        engine = node.replica.engine
        after = engine.view, engine.changing, locks(node), engine.checkpoints.certificate
        assert after == before


def test_of_seven_three_that_left_take_a_member_to_the_smallest_of_their_views() -> None:
    """Trap 10. Two faulty ones may name any view, as often as they like: nobody follows."""
    cluster = cluster_of(7, seed=24)
    target = by_member(cluster, 0)
    for view in range(9, 400, 13):
        for member in (5, 6):
            _leave_for(cluster, target, member, view)
    assert target.replica.engine.view == 0
    _leave_for(cluster, target, 4, 11)
    assert target.replica.engine.view == 11
    assert target.replica.engine.changing


def _leave_for(cluster: Cluster, target: SimulatedNode, member: int, view: int) -> None:
    change = signed_by(cluster, by_member(cluster, member), ViewChange(0, view, None, (), member))
    target.replica.on_frame(by_member(cluster, member).key.public, Kind.VOTE, encode_message(change))  # type: ignore[arg-type]
