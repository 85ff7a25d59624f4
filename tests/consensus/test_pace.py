"""How often a leader begins a block: at once where there is little to do, seldom where there is much (docs/protocol.md,
section 3)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.backlog import PROPOSE_TXS, Backlog
from consensus.events import BatchAvailable
from ledger.block import BLOCK_BATCH_BYTES_MAX, BLOCK_BATCHES_MAX
from ledger.crypto import hash_bytes
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


def test_where_blocks_take_longer_than_they_did_few_transactions_wait_too() -> None:
    """Processors or disks are at their limit: every block more keeps those under way from being decided."""
    cluster = Cluster(1, replace(NEAR))
    cluster.run(1_000)
    near = loaded(cluster, 1, 20, 2_000)
    cluster.options.fsync_ms = (100, 100)
    loaded(cluster, 1, 20, 2_000)
    slow = loaded(cluster, 1, 20, 2_000)
    assert near > 2_000 // 40
    assert slow <= 2_000 // 150


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


@pytest.mark.parametrize(("count", "size_bytes"), [(BLOCK_BATCHES_MAX, 300), (8, BLOCK_BATCH_BYTES_MAX // 8)])
def test_a_block_that_is_full_by_batches_or_bytes_waits_for_nothing(count: int, size_bytes: int) -> None:
    backlog = Backlog()
    for number in range(count):
        assert backlog.txs(PROPOSE_TXS) == 4 * number
        backlog.add(BatchAvailable(hash_bytes(b"%d" % number), 4, size_bytes), 0, 0)
    assert backlog.txs(PROPOSE_TXS) == PROPOSE_TXS


def test_a_restart_in_the_middle_of_a_block_is_no_measure_of_how_long_blocks_take() -> None:
    """What is taken back from the log is counted from the start on, not from when the machine's clock began."""
    cluster = Cluster(1, NEAR)
    cluster.run(1_000_000)
    for _ in range(20):
        cluster.transfer(at=0)
        cluster.run(50)
    for after_ms in range(4, 20, 2):
        cluster.transfer(at=0)
        cluster.run(after_ms)
        for node in cluster.nodes:
            node.crash(power=False)
        for node in cluster.nodes:
            node.boot()
        cluster.run(1_500)
        assert all(
            node.replica.engine.ordering._took_ms <= NEAR.parameters.view_timeout_ms // 2 for node in cluster.nodes
        )
