"""How often a leader begins a block: at once where there is little to do, seldom where there is much (docs/protocol.md,
section 3)."""

from __future__ import annotations

from dataclasses import replace

from consensus.backlog import PROPOSE_TXS
from ledger.genesis import Parameters
from tests.simulation.cluster import Cluster, Options

NEAR = Options(n=4, delay_ms=(5, 5), fsync_ms=(2, 2), parameters=Parameters())
TOOK_MS = 3 * 5 + 2 * 2  # proposal, prepares and commits on their way; proposal or prepare, and commit, on disk


def loaded(cluster: Cluster, txs: int, every_ms: int, duration_ms: int) -> int:
    """So many transactions at node 0 again and again; how many blocks were made meanwhile."""
    before = max(cluster.heights())
    for _ in range(duration_ms // every_ms):
        cluster.burst(txs, at=0)
        cluster.run(every_ms)
    return max(cluster.heights()) - before


def test_one_transaction_on_a_quiet_chain_waits_for_nobody() -> None:
    cluster = Cluster(1, NEAR)
    cluster.run(200)
    for _ in range(5):
        tx_id = cluster.transfer(at=0)
        assert cluster.run(2 * TOOK_MS, lambda tx_id=tx_id: cluster.final_everywhere([tx_id]))  # type: ignore[misc]
        cluster.run(200)


def test_where_blocks_take_long_under_load_they_grow_and_do_not_overlap() -> None:
    slow = replace(NEAR, fsync_ms=(60, 60))
    took_ms = 3 * 5 + 2 * 60
    cluster = Cluster(1, slow)
    cluster.run(1_000)
    loaded(cluster, 10, 5, 1_000)
    assert loaded(cluster, 10, 5, 2_000) <= 2_000 // took_ms + 2


def test_a_full_block_waits_for_nothing() -> None:
    cluster = Cluster(1, NEAR)
    cluster.run(200)
    cluster.burst(PROPOSE_TXS, at=0)
    cluster.run(5)
    before = {node.replica.engine._state.proposed_top for node in cluster.nodes}
    cluster.burst(PROPOSE_TXS, at=0)
    cluster.run(TOOK_MS // 2)
    assert max(node.replica.engine._state.proposed_top for node in cluster.nodes) > max(before)


def test_over_a_long_distance_heights_overlap() -> None:
    cluster = Cluster(1, Options(n=4, delay_ms=(100, 100), fsync_ms=(2, 2), parameters=Parameters()))
    cluster.run(1_000)
    loaded(cluster, 1, 20, 2_000)
    blocks = loaded(cluster, 1, 20, 2_000)
    assert blocks > 3 * 2_000 // 300
