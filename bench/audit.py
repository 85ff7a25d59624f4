"""What the data of a node must show once it has stopped, or the run's figures mean nothing: a fresh node that executes
its blocks comes to the same chain and state, and a thousand facts of each kind can be proven from it to whoever trusts
genesis alone.

Must not know: processes, or what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import lru_cache, partial
from itertools import cycle, islice
from pathlib import Path
from random import Random

from bench import accounts
from bench.checks import Check
from bench.mix import World
from ledger.crypto import hash_bytes, verify
from ledger.errors import Reject
from ledger.execution import Executor
from ledger.genesis import Genesis
from ledger.proofcheck import OF_ONE_COPY, Proven, Refused, Trusted, check
from ledger.stateproof import RECEIPT_PROOF_HEIGHTS_MAX
from node.cluster.plan import GENESIS_FILE
from node.home import DATA, read_genesis
from node.plugins import load_registry
from storage import schema
from storage.bundles import Bundler, Unprovable
from storage.chain import ChainStore
from storage.errors import StorageError
from storage.kv import KeyValue, prefix_end
from storage.leveldb import LevelDB

PROOFS = 1_000
TRIES_MAX = 20  # draws for each that is wanted: a copy that was refused cannot be proven

Wanted = tuple[Callable[[], bytes], dict[str, object]]  # makes the bundle, and what it must prove


def audit(home: Path, world: World, scratch: Path) -> list[Check]:
    """The checks of one stopped node's data; `scratch` is where the fresh node's goes."""
    genesis = read_genesis(home / GENESIS_FILE)
    with closing(LevelDB(home / DATA / "db")) as kv, closing(LevelDB(scratch, create=True)) as fresh:
        store = ChainStore(kv)
        return [replayed(store, genesis, world, fresh), *proven(kv, store, genesis)]


def replayed(store: ChainStore, genesis: Genesis, world: World, fresh: KeyValue) -> Check:
    """Execute every block once more, from the first state on."""
    executor = Executor(genesis, load_registry(genesis))
    changes, tip = accounts.first_state(executor, world)
    copy = ChainStore.create(fresh, genesis.to_json(), changes, tip)
    claim, height = "a fresh node that executes the blocks comes to the same chain and state", 0
    try:
        for height in range(1, store.tip.height + 1):
            block = store.block(height)
            if block is None:
                return Check(claim, False, f"block {height} is missing")
            result = executor.execute(copy, copy.tip, block.proposal, block.batches)
            copy.commit(block, result)
            executor.accept(result.transactions, height)
    except (Reject, StorageError, ValueError) as error:
        return Check(claim, False, f"block {height}: {error}")
    at = store.tip.checkpoint_height
    same = copy.tip == store.tip and copy.state_root(at) == store.state_root(at)
    return Check(claim, same, f"{height} blocks, root at height {at}")


def proven(kv: KeyValue, store: ChainStore, genesis: Genesis, count: int = PROOFS) -> list[Check]:
    """Facts picked at random, each in a bundle that its reader checks from genesis."""
    random, bundler = Random(store.tip.block_hash), Bundler(store)
    trusted = Trusted(genesis.chain_id, genesis.validator_set.epoch, genesis.validator_set.keys)
    checked = lru_cache(maxsize=4 * count)(verify)  # facts of one block have its certificate in common
    places = list(_places(store, random, count))
    kinds: dict[str, list[Wanted]] = {
        "state entries": [
            (partial(bundler.state, key), {"key": key, "value": store.state_bytes_at_root(key)})
            for key in _state_keys(kv, random, count)
        ],
        "absent entries": [
            (partial(bundler.state, key), {"key": key, "value": None})
            for key in (hash_bytes(random.randbytes(16)) for _ in range(count))
        ],
        "transactions": [(partial(bundler.transaction, tx_id), {"id": tx_id}) for tx_id, _ in places],
        "receipts": [(partial(bundler.receipt, tx_id), {"id": tx_id, "code": code}) for tx_id, code in places],
    }
    read = partial(check, trusted=trusted, verify=checked)
    return [_proven(kind, wanted, count, read) for kind, wanted in kinds.items()]


def _proven(kind: str, wanted: list[Wanted], count: int, read: Callable[[bytes], Proven]) -> Check:
    claim = f"{kind} can be proven to whoever trusts genesis"
    for number, (make, fact) in enumerate(wanted):
        try:
            found = read(make()).fact
        except (Unprovable, Refused, StorageError, ValueError) as error:
            return Check(claim, False, f"number {number}: {error}")
        if fact != {name: found[name] for name in fact}:
            return Check(claim, False, f"number {number} proves something else")
    return Check(claim, len(wanted) == count, f"{len(wanted)} of them")


def _places(store: ChainStore, random: Random, count: int) -> Iterator[tuple[bytes, int]]:
    """(id, code) of transactions in blocks that a certified checkpoint covers soon enough for a receipt's proof."""
    checkpoint = store.latest_checkpoint()
    heights = range(1, (checkpoint.height if checkpoint else 0) + 1)
    filled = [height for height in random.sample(heights, min(len(heights), 4 * count)) if store.receipts(height)]
    assert store.tip.parameters.checkpoint_interval <= RECEIPT_PROOF_HEIGHTS_MAX
    draws = (random.choice(store.receipts(height)) for height in islice(cycle(filled), TRIES_MAX * count))
    places = ((receipt.tx_id, store.receipt(receipt.tx_id)) for receipt in draws)
    # A copy that was refused has no place of its own, and its receipt says nothing of the transaction.
    found = ((tx_id, place.code) for tx_id, place in places if place is not None and place.code not in OF_ONE_COPY)
    return islice(found, count)


def _state_keys(kv: KeyValue, random: Random, count: int) -> Iterator[bytes]:
    """Keys of the state: of each the first one after a random place in the order of their hashes, or the last one."""
    size, stop = len(schema.STATE) + schema.BUCKET_SIZE_BYTES, prefix_end(schema.STATE)
    for _ in range(count):
        start = schema.STATE + random.randbytes(schema.BUCKET_SIZE_BYTES)
        found = [*kv.scan(start, stop, limit=1)] or [*kv.scan(schema.STATE, stop, reverse=True, limit=1)]
        yield from (row[size:] for row, _ in found)
