"""Leaders that are alive and bad, and leaders that are only far away: who is replaced, and when views settle."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from consensus.messages import PrePrepare, Vote, decode_message
from ledger.genesis import Parameters
from p2p.frames import Kind
from tests.simulation.cluster import Cluster, Options, SimulatedNode

PARAMETERS = Parameters(view_timeout_ms=1_000, view_timeout_ms_max=30_000)


def cluster_of(seed: int = 1, n: int = 4, **options: object) -> Cluster:
    cluster = Cluster(seed, Options(n=n, parameters=PARAMETERS, **options))  # type: ignore[arg-type]
    cluster.run(100)
    return cluster


def leader_of(cluster: Cluster) -> SimulatedNode:
    return next(node for node in cluster.nodes if node.alive and node.replica.engine.is_leader)


def hold_back(cluster: Cluster, delay_of: Callable[[SimulatedNode, SimulatedNode, PrePrepare], int | None]) -> None:
    """Proposals leave their leader as much later as `delay_of` (sender, receiver, message) says; None: never."""
    transmit = cluster.transmit

    def late(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> None:
        message = decode_message(payload) if kind is Kind.VOTE else None
        receiver = cluster.node_of(key)
        delay_ms: int | None = 0
        own = isinstance(message, PrePrepare) and message.member == sender.replica.engine.me
        if own and isinstance(message, PrePrepare) and receiver is not None:
            delay_ms = delay_of(sender, receiver, message)
        if delay_ms == 0:
            transmit(sender, key, kind, payload)
        elif delay_ms is not None:
            cluster.later(sender, delay_ms, lambda: transmit(sender, key, kind, payload))

    cluster.transmit = late  # type: ignore[method-assign]


def load(cluster: Cluster, duration_ms: int, every_ms: int, until: Callable[[], bool] = lambda: False) -> list[bytes]:
    """A transaction now and then at every member in turn."""
    ids: list[bytes] = []
    end_ms = cluster.now_ms + duration_ms
    while cluster.now_ms < end_ms and not until():
        alive = [node.index for node in cluster.nodes if node.alive]
        ids.append(cluster.transfer(at=alive[len(ids) % len(alive)]))
        cluster.run(every_ms)
    return ids


def views(cluster: Cluster) -> set[int]:
    return {node.replica.engine.view for node in cluster.nodes if node.alive}


@pytest.mark.parametrize("every_ms", [200, 3_000])
def test_a_leader_just_under_the_timeout_is_replaced_and_serves_again_later(every_ms: int) -> None:
    """Traps 18, 19. Under steady load, and under little; when he behaves, his next turn is a turn like any other."""
    cluster = cluster_of()
    bad = leader_of(cluster)
    slow, due_ms = [True], {-1: 0}

    def one_after_the_other(sender: SimulatedNode, receiver: SimulatedNode, message: PrePrepare) -> int:
        if sender is not bad or not slow[0]:
            return 0
        height = message.proposal.height
        if height not in due_ms:
            due_ms[height] = max(cluster.now_ms, *due_ms.values()) + 900
        return max(0, due_ms[height] - cluster.now_ms)

    hold_back(cluster, one_after_the_other)
    load(cluster, 120_000, every_ms, lambda: views(cluster) == {1})
    assert views(cluster) == {1}
    slow[0] = False
    for view in (1, 2, 3):
        absent = leader_of(cluster)
        absent.crash()
        load(cluster, 60_000, every_ms, lambda view=view: views(cluster) == {view + 1})  # type: ignore[misc]
        absent.boot()
        cluster.run(3_000)
    assert leader_of(cluster) is bad
    ids = load(cluster, 12_000, every_ms)
    assert cluster.run(3_000, lambda: cluster.final_everywhere(ids))
    assert views(cluster) == {4}


def test_a_leader_slow_to_half_of_the_members_is_replaced() -> None:
    """Trap 18. Those he serves at once see the blocks come as late as the others do."""
    cluster = cluster_of(2)
    bad = leader_of(cluster)
    favourite = next(node for node in cluster.nodes if node is not bad)
    hold_back(cluster, lambda sender, receiver, message: 900 if sender is bad and receiver is not favourite else 0)
    load(cluster, 120_000, 500, lambda: views(cluster) == {1})
    assert views(cluster) == {1}


@pytest.mark.parametrize("served", [1, 2])
def test_a_leader_that_serves_some_members_only_stalls_nobody(served: int) -> None:
    """Trap 18. With two of three served a quorum decides, and the third follows; with one, the members tell each other
    the proposal with their statuses, and if that takes long the leader goes."""
    cluster = cluster_of(3)
    bad = leader_of(cluster)
    chosen = [node for node in cluster.nodes if node is not bad][:served]
    hold_back(cluster, lambda sender, receiver, message: None if sender is bad and receiver not in chosen else 0)
    ids = load(cluster, 20_000, 500)
    assert cluster.run(5_000, lambda: cluster.final_everywhere(ids))
    if served == 2:
        assert views(cluster) == {0}, "nobody lacks anything for long"
    else:
        load(cluster, 60_000, 500, lambda: views(cluster) == {1})
        assert views(cluster) == {1}


CALM_VIEWS = 8


@pytest.mark.parametrize(
    ("delay_ms", "fsync_ms", "every_ms"),
    [
        ((500, 520), (1, 5), 4_000),
        ((1, 5), (700, 900), 2_500),
        ((100, 700), (1, 200), 2_000),
    ],
)
def test_where_every_leader_is_slow_views_settle(
    delay_ms: tuple[int, int], fsync_ms: tuple[int, int], every_ms: int
) -> None:
    """Trap 12, 18. Links of half a second, or disks of a second: patience grows to fit, and then nobody is replaced."""
    cluster = cluster_of(4, delay_ms=delay_ms, fsync_ms=fsync_ms)
    load(cluster, 120 * every_ms, every_ms)
    settled = max(views(cluster))
    assert settled <= CALM_VIEWS
    ids = load(cluster, 60 * every_ms, every_ms)
    assert cluster.run(20_000, lambda: cluster.final_everywhere(ids))
    assert views(cluster) == {settled}


def test_patience_returns_once_the_network_is_quick_again() -> None:
    """Trap 19. What a bad hour taught is forgotten: a dead leader costs a second again."""
    cluster = cluster_of(5, delay_ms=(500, 520))
    load(cluster, 30_000, 500)
    assert max(views(cluster)) > 0
    assert min(node.replica.engine.patience_ms for node in cluster.nodes) > PARAMETERS.view_timeout_ms
    cluster.options.delay_ms = (1, 5)
    load(cluster, 10_000, 500)
    assert {node.replica.engine.patience_ms for node in cluster.nodes} == {PARAMETERS.view_timeout_ms}
    leader_of(cluster).crash()
    ids = [cluster.transfer()]
    assert cluster.run(3_000, lambda: cluster.final_everywhere(ids))


@pytest.mark.parametrize("view_timeout_ms", [250, 1_000])
def test_a_lost_vote_is_said_again_before_a_leader_is_suspected_for_it(view_timeout_ms: int) -> None:
    """One member is mute, so that every vote of the others is needed: each that is lost stops its height."""
    parameters = Parameters(view_timeout_ms=view_timeout_ms, view_timeout_ms_max=30_000)
    cluster = Cluster(7, Options(n=4, delay_ms=(1, 5), parameters=parameters))
    cluster.run(100)
    mute = next(node for node in cluster.nodes if not node.replica.engine.is_leader)
    cluster.cut = {(mute.index, other.index) for other in cluster.nodes if other is not mute}
    cluster.run(1_000)
    began = views(cluster)
    transmit, lost = cluster.transmit, 0

    def lossy(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> None:
        nonlocal lost
        message = decode_message(payload) if kind is Kind.VOTE else None
        if isinstance(message, Vote) and message.height % 3 == 0 and message.digest not in seen[key]:
            seen[key].add(message.digest)
            lost += 1
        else:
            transmit(sender, key, kind, payload)

    seen: dict[bytes, set[bytes]] = {node.key.public: set() for node in cluster.nodes}
    cluster.transmit = lossy  # type: ignore[method-assign]
    for _ in range(40):
        tx_id = cluster.transfer(at=cluster.nodes.index(leader_of(cluster)))
        assert cluster.run(view_timeout_ms, lambda: cluster.final_everywhere([tx_id]))  # noqa: B023
        cluster.run(100)
    assert lost >= 10
    assert views(cluster) == began


def test_a_leader_who_lacks_a_batch_gets_it_before_he_is_suspected() -> None:
    """One lost frame on a quiet chain; its batch was spread again after his time was over."""
    cluster = Cluster(3, Options(n=4, parameters=Parameters()))
    cluster.run(5_000)
    leader, began = leader_of(cluster), views(cluster)
    origin = next(node for node in cluster.nodes if node is not leader)
    transmit, lost = cluster.transmit, False

    def once(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> None:
        nonlocal lost
        if kind is Kind.BATCH and sender is origin and key == leader.key.public and not lost:
            lost = True
        else:
            transmit(sender, key, kind, payload)

    cluster.transmit = once  # type: ignore[method-assign]
    tx_id = cluster.transfer(at=origin.index)
    assert cluster.run(PARAMETERS.view_timeout_ms, lambda: cluster.final_everywhere([tx_id]))
    assert lost
    assert views(cluster) == began


def test_nobody_is_suspected_for_what_can_no_longer_be_executed() -> None:
    """Valid until the last checkpoint of a chain that is quiet from then on: it was kept, and its holder waited."""
    cluster = cluster_of(3)
    origin, other = cluster.nodes[2], cluster.nodes[0]
    while min(cluster.heights()) < 9:
        ids = [cluster.transfer()]
        assert cluster.run(5_000, lambda: cluster.final_everywhere(ids))  # noqa: B023
    transmit = cluster.transmit

    def held_back(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> None:
        if sender is not origin or kind not in (Kind.BATCH, Kind.BATCH_RESPONSE):
            transmit(sender, key, kind, payload)

    cluster.transmit = held_back  # type: ignore[method-assign]
    cluster.transfer(at=origin.index, valid_for=1)
    last = cluster.transfer(at=other.index)
    assert cluster.run(5_000, lambda: cluster.final_everywhere([last]))
    cluster.transmit = transmit  # type: ignore[method-assign]
    cluster.run(60_000)
    assert not origin.replica.engine.is_discontent
    assert not origin.replica.pool.held()
