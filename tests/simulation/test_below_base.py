"""Power that fails between a member's word for a checkpoint and its store: what others build on it must outlive that.

Each of these once split a chain, or stopped it for ever, with one Byzantine member of four and one power cut.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from consensus.messages import CheckpointVote, Message, NewView, PrePrepare, ViewChange, Vote
from consensus.newview import compose
from ledger.block import Phase, Proposal
from ledger.genesis import Parameters
from p2p.frames import Kind
from tests.simulation import byzantine
from tests.simulation.byzantine_node import ByzantineNode
from tests.simulation.cluster import Cluster, Options, SimulatedNode, key_of

BY_MEMBER = sorted(range(4), key=lambda index: key_of(index).public)  # member -> node
PARAMETERS = Parameters(window=2, checkpoint_interval=3, log_window=12, view_timeout_ms=500, view_timeout_ms_max=4_000)


class _Worst:
    """Dice of a disk that keeps nothing it need not."""

    def randint(self, low: int, high: int) -> int:
        return low

    def randrange(self, stop: int) -> int:
        return 0


def three_blocks(cluster: Cluster, at: SimulatedNode, members: list[SimulatedNode]) -> None:
    for height in (1, 2, 3):
        cluster.transfer(at=at.index)
        assert cluster.run(800, lambda height=height: all(m.replica.store.tip.height >= height for m in members))  # type: ignore[misc]


class Forker(ByzantineNode):
    """Member 1, honest until view 1. That it begins above the checkpoint which member 0 alone still has the blocks of,
    and proposes another block 1 to the others."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.changes: dict[int, ViewChange] = {}
        self.batch = b""

    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, ViewChange):
            self.changes[message.member] = message
        elif isinstance(message, NewView | PrePrepare | Vote) and message.view >= 1:
            return ()
        return (message,)

    def pass_on(self, key: bytes, kind: Kind, payload: bytes) -> Iterable[bytes]:
        return () if kind is Kind.BLOCK_RESPONSE and self.batch else (payload,)

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        message = self.read(kind, payload)
        if isinstance(message, ViewChange) and message.view == 1:
            self.changes[message.member] = message
        super().hear(key, kind, payload)

    def act(self) -> None:
        if not self.batch or not {0, 1, 2} <= set(self.changes):
            return
        new_view = self.signed(compose([self.changes[member] for member in (0, 1, 2)], 0, 1))
        other = Proposal(1, self.wall_ms(), (self.batch,))
        for member in (2, 3):
            key = self.cluster.nodes[BY_MEMBER[member]].key.public
            self.tell(key, new_view)
            self.tell(key, self.proposal(1, other))
            self.tell(key, self.vote(1, 1, Phase.COMMIT, other.digest))


@pytest.mark.parametrize("synced", [True, False], ids=["the store is on disk", "only the refusal is left"])
def test_no_other_block_is_decided_below_the_checkpoint_of_a_new_view(
    synced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 16. Member 2 vouched for height 3, and its power fails. Its log keeps the votes; its store must keep the
    blocks. Even without that nobody votes on what lies below the checkpoint that a view began with."""
    monkeypatch.setitem(byzantine.STRATEGIES, "hostile", Forker)
    x, b, y, z = BY_MEMBER
    options = Options(n=4, delay_ms=(1, 1), fsync_ms=(1, 1), parameters=PARAMETERS, byzantine={b: "hostile"})
    cluster = Cluster(1, options)
    if not synced:
        monkeypatch.setattr(SimulatedNode, "store_first", lambda self: setattr(self, "durable_height", 1 << 62))
    first, hostile, second, third = (cluster.nodes[index] for index in (x, b, y, z))
    assert isinstance(hostile, Forker)
    cluster.partition({x, b, y})
    three_blocks(cluster, first, [first, second])
    cluster.cut |= {(x, y), (b, y)}
    cluster.run(30)
    assert first.replica.engine.checkpoints.stable == 3
    assert second.replica.engine.checkpoints.stable == 0, "it never hears that what it vouched for is certified"
    cluster.disk_random = _Worst()  # type: ignore[assignment]
    second.crash(power=True)
    cluster.partition({x, b}, {b, y, z})
    second.boot()
    assert second.replica.store.tip.height == (3 if synced else 0)
    cluster.transfer(at=x)
    cluster.transfer(at=y)
    cluster.run(20)
    hostile.batch = third.replica.pool.held()[-1].digest
    cluster.run(20_000)  # the checkers would see two blocks at one height, or a vote below
    assert hostile.engine.view > 0
    cluster.heal()
    tx_id = cluster.transfer(at=z)
    hostile.batch = b""
    assert cluster.run(120_000, lambda: cluster.final_everywhere([tx_id]))


class Hoarder(ByzantineNode):
    """Member 0. Collects the votes for a checkpoint, and shows the certificate to nobody but in its view changes."""

    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        return () if isinstance(message, CheckpointVote) else (message,)

    def pass_on(self, key: bytes, kind: Kind, payload: bytes) -> Iterable[bytes]:
        return () if kind in (Kind.BLOCK_RESPONSE, Kind.CERTIFIED) else (payload,)


def test_all_go_on_from_their_disks_above_a_checkpoint_that_only_a_liar_can_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trap 23. Every new view that counts the liar's claim begins above blocks of which the honest had only locks."""
    monkeypatch.setitem(byzantine.STRATEGIES, "hostile", Hoarder)
    b, x, y, z = BY_MEMBER
    links = [(one, other, 6, 0) for one in (x, y, z) for other in (x, y, z) if one != other]  # the liar is quicker
    options = Options(
        n=4, delay_ms=(1, 2), fsync_ms=(1, 1), links=links, parameters=PARAMETERS, byzantine={b: "hostile"}
    )
    cluster = Cluster(1, options)
    hostile, *honest = (cluster.nodes[index] for index in (b, x, y, z))
    cluster.partition({x, b, y})
    three_blocks(cluster, honest[0], [hostile, *honest[:2]])
    cluster.run(30)
    assert hostile.replica.engine.checkpoints.stable == 3
    assert [node.replica.engine.checkpoints.stable for node in honest[:2]] == [0, 0]
    cluster.disk_random = _Worst()  # type: ignore[assignment]
    for node in honest:
        node.crash(power=True)
    cluster.heal()
    for node in honest:
        node.boot()
    cluster.transfer(at=x)
    assert cluster.run(60_000, lambda: min(cluster.heights()) >= 4)


def test_a_replica_has_the_store_synced_before_it_vouches_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkers see it in every run; here they are shown to."""
    monkeypatch.setattr(SimulatedNode, "store_first", lambda self: None)
    cluster = Cluster(1, Options(n=4, parameters=PARAMETERS))
    cluster.run(100)
    three_blocks(cluster, cluster.nodes[0], cluster.nodes)
    with pytest.raises(AssertionError, match="not on its disk"):
        cluster.run(200)
