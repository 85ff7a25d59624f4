"""One seed's run: faults drawn from the seed in a first phase, then healing, then everything submitted must be
final.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from ledger.genesis import Parameters
from ledger.validators import faulty_max
from tests.simulation.cluster import Cluster, Options

FAULT_PHASE_MS = 30_000
HEAL_LIMIT_MS = 90_000  # two capped view changes and a catch-up


@dataclass
class Outcome:
    """What a run did, for the report."""

    seed: int
    height: int
    transactions: int
    deliveries: int
    views: int
    crashes: int
    simulated_ms: int


def options_of(seed: int) -> Options:
    """The conditions a seed stands for."""
    random = Random(seed * 7_919 + 1)
    return Options(
        n=random.choice([4, 4, 4, 5, 7]),
        loss=random.choice([0, 0, 1, 5, 15]),
        duplication=random.choice([0, 0, 5]),
        delay_ms=random.choice([(1, 5), (1, 50), (20, 200)]),
        fsync_ms=random.choice([(0, 2), (1, 5), (1, 100)]),
        followers=random.choice([0, 0, 1]),
        parameters=Parameters(window=random.choice([1, 2, 8, 8]), view_timeout_ms=1_000, view_timeout_ms_max=8_000),
    )


def run_seed(seed: int) -> Outcome:
    """Phase 1: loss, partitions, crashes of any number of nodes, restarts. Phase 2: heal; all must become final."""
    cluster = Cluster(seed, options_of(seed))
    random = Random(seed * 104_729 + 2)
    crashes, ids = 0, []
    while cluster.now_ms < FAULT_PHASE_MS:
        match random.randrange(8):
            case 0:
                node = cluster.nodes[random.randrange(len(cluster.nodes))]
                if node.alive:
                    node.crash()
                    crashes += 1
            case 1:
                for node in cluster.nodes:
                    if not node.alive and random.randrange(2):
                        node.boot()
            case 2:
                everyone = list(range(len(cluster.nodes)))
                random.shuffle(everyone)
                split = random.randint(1, max(1, faulty_max(cluster.options.n) + 1))
                cluster.partition(set(everyone[:split]), set(everyone[split:]))
            case 3:
                cluster.heal()
            case _:
                if any(node.alive for node in cluster.nodes):
                    ids += [(cluster.transfer(), cluster.now_ms) for _ in range(random.randint(1, 5))]
        cluster.run(random.randint(50, 1_500))
    cluster.heal()
    cluster.options.loss = min(cluster.options.loss, 1)
    for node in cluster.nodes:
        if not node.alive:
            node.boot()
    probes = [cluster.transfer(at=index % cluster.options.n) for index in range(cluster.options.n)]
    done = cluster.run(HEAL_LIMIT_MS, lambda: cluster.final_everywhere(probes))
    assert done, f"seed {seed}: not final {HEAL_LIMIT_MS} ms after healing; heights {cluster.heights()}"
    return Outcome(
        seed,
        max(cluster.heights()),
        len(cluster.receipts),
        cluster.deliveries,
        max(node.replica.engine.view for node in cluster.nodes),
        crashes,
        cluster.now_ms,
    )
