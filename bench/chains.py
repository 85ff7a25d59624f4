"""A long chain without a network: executed once, certified by the cluster's own keys, in the homes of all its nodes.

python -m bench.chains --txs 200000 --out DIR          the folder of a cluster, which `medchain cluster up` starts
python -m bench.chains --txs 20000 --keys 1000000      what the state tree costs beside a million other keys

Prints processor time per transaction by part: signature checks, execution, the store's write, and of the whole the
state tree's share (hashing buckets and levels, reading a bucket that is not cached). A node does more than this for
each transaction (HTTP, gossip, votes), so the tree's share there is smaller.

Must not know: sockets. Nothing here is used by a node.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

from bench.mix import World
from ledger.block import Certificate, CertifiedBlock, CheckpointCertificate, Phase, Proposal
from ledger.codec import encode
from ledger.crypto import KeyPair, verify_joined
from ledger.execution import Executor
from ledger.transaction import Batch, Transaction
from node import keys as key_files
from node.cluster import plan as plans
from node.cluster.runner import free_base_port
from node.config import load
from node.home import DATA, initialise
from node.plugins import load_registry
from storage.chain import ChainStore
from storage.leveldb import LevelDB
from storage.statetree import StateTree

NODES = 4
BLOCK_TXS = 100
BLOCK_INTERVAL_MS = 100
VALID_FOR = 900
SPACING_CYCLES = 30  # between the steps on one pack, record or claim: 300 transactions, so always an earlier block
PARTS = ("signatures", "execution", "store")

T = TypeVar("T")


class Clock:
    """Processor seconds by part."""

    def __init__(self) -> None:
        self.took_s = dict.fromkeys((*PARTS, "tree"), 0.0)

    def time(self, part: str, work: Callable[..., T], *arguments: Any) -> T:
        began_s = time.process_time()
        try:
            return work(*arguments)
        finally:
            self.took_s[part] += time.process_time() - began_s


class Maker:
    """Adds certified blocks to one node's store."""

    def __init__(self, store: ChainStore, executor: Executor, keys: Sequence[KeyPair], clock: Clock) -> None:
        self.store, self._executor, self._keys, self._clock = store, executor, keys, clock
        self._chain_id = executor.genesis.chain_id
        self.refused = 0

    def add(self, txs: Sequence[Transaction]) -> None:
        store, clock = self.store, self._clock
        height, wires = store.tip.height + 1, tuple(tx.wire for tx in txs)
        if not all(clock.time("signatures", verify_joined, wire) for wire in wires):
            raise SystemExit("a signature is wrong")
        batch = Batch(wires)
        time_ms = store.tip.time_ms + BLOCK_INTERVAL_MS
        proposal = Proposal(height, time_ms, (batch.digest,))
        certificate = self._signed(Certificate(0, 0, height, Phase.COMMIT, proposal.digest, ()))
        result = clock.time("execution", self._executor.execute, store, store.tip, proposal, (batch,))
        root = clock.time("store", store.commit, CertifiedBlock(proposal, certificate, (batch,)), result)
        self._executor.accept(result.transactions, height)
        self.refused += sum(not receipt.ok for receipt in result.receipts)
        if root is not None:
            tip = result.tip
            blank = CheckpointCertificate(0, height, tip.block_hash, root, tip.results_hash, ())
            store.put_checkpoint(self._signed(blank))

    def _signed(self, blank: Any) -> Any:
        statement = blank.statement(self._chain_id)
        quorum = self.store.tip.validators.quorum
        return replace(blank, signatures=tuple((i, key.sign(statement)) for i, key in enumerate(self._keys[:quorum])))


def transactions(world: World, chain_id: bytes, tip: Callable[[], int]) -> Iterator[Transaction]:
    """The set-up's, then the mix's, valid for a while after the tip."""
    keys, calls = world.keys, chain(world.setup(), map(world.operation, range(world.count)))
    for number, call in enumerate(calls):
        nonce, valid_until = number.to_bytes(16, "big"), tip() + VALID_FOR
        fields = call.fields
        yield Transaction.create(
            keys[call.signer], chain_id, call.operation, fields, nonce=nonce, valid_until=valid_until
        )


def other_key(number: int) -> bytes:
    """The state key of one of the entries that no transaction wrote."""
    return b"other/%016x" % number


def time_tree(clock: Clock) -> None:
    """Have the state tree's own work timed."""
    stage, adopt = StateTree.stage, StateTree.adopt
    StateTree.stage = lambda self, changes: clock.time("tree", stage, self, changes)  # type: ignore[method-assign]
    StateTree.adopt = lambda self, change: clock.time("tree", adopt, self, change)  # type: ignore[method-assign]


def make(folder: Path, txs: int, other_keys: int, clock: Clock) -> tuple[int, int, int]:
    """A cluster's folder with a chain; heights, transactions, and how many of them the rules refused."""
    world = World(1, "standard", txs, SPACING_CYCLES)
    modules = world.genesis_modules(plans.development_modules())
    time_ms = time.time_ns() // 1_000_000 - txs * BLOCK_INTERVAL_MS // BLOCK_TXS - 60_000
    base_port = free_base_port(NODES, proxies=False)
    cluster = plans.new_cluster(
        NODES, generate=key_files.generate, time_ms=time_ms, base_port=base_port, modules=modules, proxies=False
    )
    plans.write(folder, cluster, lambda home: initialise(load(home)))
    first, *others = (folder / node.name / DATA for node in cluster.plan.nodes)
    executor = Executor(cluster.genesis, load_registry(cluster.genesis))
    if other_keys:
        shutil.rmtree(first / "db")
    with closing(LevelDB(first / "db", create=bool(other_keys))) as kv:
        changes, tip = executor.begin()
        if other_keys:
            filler = ((other_key(number), encode((b"%032x" % number, 1))) for number in range(other_keys))
            changes = {**changes, **{key: (value, value) for key, value in filler}}
            store = ChainStore.create(kv, cluster.genesis.to_json(), changes, tip)
            changes.clear()
        else:
            store = ChainStore(kv)
        members = {key.public: key for key in cluster.keys}
        maker = Maker(store, executor, [members[key] for key in store.tip.validators.keys], clock)
        clock.took_s.update(dict.fromkeys(clock.took_s, 0.0))
        rest, done = transactions(world, store.chain_id, lambda: store.tip.height), 0
        while block := list(islice(rest, BLOCK_TXS)):
            maker.add(block)
            done += len(block)
            if sys.stderr.isatty():
                print(f"  {done:,} transactions", end="\r", file=sys.stderr, flush=True)
        kv.write((), sync=True)
        height = store.tip.height
    for other in others:
        shutil.rmtree(other / "db")
        shutil.copytree(first / "db", other / "db")
    return height, done, maker.refused


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chains", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--txs", type=int, default=20_000, help="how many, beside the set-up's")
    parser.add_argument("--keys", type=int, default=0, help="other keys in the state; the result is no chain for nodes")
    parser.add_argument("--out", type=Path, help="keep the cluster's folder here")
    given = parser.parse_args(None if arguments is None else list(arguments))
    if given.keys and given.out:
        parser.error("--keys writes entries that no genesis has: no node could go on from that, so --out is refused")
    folder = given.out or Path(mkdtemp(prefix="medchain-chains-"))
    clock = Clock()
    time_tree(clock)
    try:
        height, txs, refused = make(folder, given.txs, given.keys, clock)
    finally:
        if given.out is None:
            shutil.rmtree(folder, ignore_errors=True)
    whole_s = sum(clock.took_s[part] for part in PARTS)
    print(f"{height:,} blocks, {txs:,} transactions, {refused:,} refused by the rules; {given.keys:,} other keys")
    for part in PARTS:
        print(f"{part:<12}{clock.took_s[part] * 1e6 / txs:8.1f} us per transaction")
    tree_us = clock.took_s["tree"] * 1e6 / txs
    print(f"{'tree':<12}{tree_us:8.1f} us per transaction, within store: {clock.took_s['tree'] / whole_s:.1%} of all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
