"""How large proof bundles are, and how long they take to make and to check, beside a given number of keys in the state.

python -m bench.proofs --keys 1000000        a line for each kind: bytes, milliseconds to make and to check

The chain is of `bench.chains`: 4 validators, one epoch, so a bundle holds no links (each costs about as much again as a
state bundle). Checked as `medchain verify-proof` does, from genesis.

Must not know: how a bundle is made or checked.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from bench.chains import Clock, make, other_key
from bench.figures import percentile
from ledger.crypto import verify
from ledger.genesis import Genesis
from ledger.proofcheck import Trusted, check
from node.cluster import plan as plans
from node.home import DATA
from storage.bundles import Bundler
from storage.chain import ChainStore
from storage.leveldb import LevelDB

CHAIN_TXS = 2_000
HEADER = f"{'bundle of':<14}{'bytes p50':>10}{'max':>8}{'made ms p50':>13}{'p99':>7}{'checked ms p50':>16}{'p99':>7}"


def measure(title: str, makers: list[Callable[[], bytes]], trusted: Trusted) -> str:
    """A line of the table."""
    sizes: list[float] = []
    made_ms: list[float] = []
    checked_ms: list[float] = []
    for make_bundle in makers:
        began_s = time.perf_counter()
        bundle = make_bundle()
        between_s = time.perf_counter()
        check(bundle, trusted, verify)
        checked_ms.append((time.perf_counter() - between_s) * 1_000)
        made_ms.append((between_s - began_s) * 1_000)
        sizes.append(len(bundle))
    for values in (sizes, made_ms, checked_ms):
        values.sort()
    made, checked = ((percentile(values, 0.5), percentile(values, 0.99)) for values in (made_ms, checked_ms))
    return (
        f"{title:<14}{percentile(sizes, 0.5):>10,.0f}{sizes[-1]:>8,.0f}"
        f"{made[0]:>13.2f}{made[1]:>7.2f}{checked[0]:>16.2f}{checked[1]:>7.2f}"
    )


def table(store: ChainStore, genesis: Genesis, keys: int, count: int) -> list[str]:
    random, bundler = Random(1), Bundler(store)
    trusted = Trusted(genesis.chain_id, 0, genesis.validator_set.keys)
    ids = [event.transaction.id for event in store.events((0, 0), count)]
    present = [other_key(random.randrange(keys)) for _ in range(count)] if keys else []
    absent = [b"absent/" + random.randbytes(8) for _ in range(count)]
    kinds: dict[str, list[Callable[[], bytes]]] = {
        "an entry": [partial(bundler.state, key) for key in present],
        "an absence": [partial(bundler.state, key) for key in absent],
        "a transaction": [partial(bundler.transaction, tx_id) for tx_id in ids],
        "a receipt": [partial(bundler.receipt, tx_id) for tx_id in ids],
        "the head": [bundler.head] * count,
    }
    return [HEADER, *(measure(title, makers, trusted) for title, makers in kinds.items() if makers)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.proofs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", type=int, default=1_000_000, help="entries in the state beside the chain's own")
    parser.add_argument("--count", type=int, default=1_000, help="bundles of each kind")
    given = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="medchain-proofs-") as name:
        folder = Path(name)
        height, txs, _ = make(folder, CHAIN_TXS, given.keys, Clock())
        cluster = plans.read(folder)
        genesis = Genesis.from_json((folder / plans.GENESIS_FILE).read_bytes())
        with closing(LevelDB(folder / cluster.nodes[0].name / DATA / "db", create=False)) as kv:
            print(f"{height:,} blocks, {txs:,} transactions, {given.keys:,} other keys; {given.count:,} of each kind")
            print("\n".join(table(ChainStore(kv), genesis, given.keys, given.count)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
