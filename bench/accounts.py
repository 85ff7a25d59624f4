"""Accounts that hold money before the load begins: a state of the size that a country's patients would make.

A genesis file has room for some thousand balances (4 MB), so these are written beside it into the first state of every
node, once, and copied: the state root of every checkpoint covers them, and all nodes agree on it. Only a node that
joins by replay from genesis alone would not; a run has none. Keys of the first ten thousand are real ones, and
transfers go to these; nobody could sign for the rest, which only have to be there.

Must not know: the load, or processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from bench.mix import CURRENCY, World
from ledger.codec import encode
from ledger.crypto import ALGORITHM_ED25519, hash_bytes
from ledger.execution import Executor, Tip
from ledger.state import Changes, state_key
from node.cluster.plan import GENESIS_FILE
from node.home import DATA, read_genesis
from node.plugins import load_registry
from storage.chain import ChainStore
from storage.leveldb import LevelDB

BALANCE = 1_000


def fund(homes: Sequence[Path], world: World) -> None:
    """Make the first state of new nodes anew, with the accounts in it."""
    genesis = read_genesis(homes[0] / GENESIS_FILE)
    entries, tip = first_state(Executor(genesis, load_registry(genesis)), world)
    first, *others = (home / DATA / "db" for home in homes)
    shutil.rmtree(first)
    with closing(LevelDB(first, create=True)) as kv:
        ChainStore.create(kv, genesis.to_json(), entries, tip)
        kv.settle()
    for other in others:
        shutil.rmtree(other)
        shutil.copytree(first, other)


def first_state(executor: Executor, world: World) -> tuple[Changes, Tip]:
    """The state after genesis with the accounts in it, and the tip below height 1."""
    changes, tip = executor.begin()
    supply_key = state_key("payments", "supply", CURRENCY)
    supply = changes[supply_key][0] + world.accounts * BALANCE  # type: ignore[operator]
    balance = BALANCE, encode(BALANCE)
    entries: Changes = dict.fromkeys(keys(world), balance)
    entries |= changes
    entries[supply_key] = supply, encode(supply)
    return entries, tip


def keys(world: World) -> Iterator[bytes]:
    """Where the state holds the balances: the named accounts', then the others'."""
    for number in range(world.accounts_named):
        yield state_key("payments", "balance", CURRENCY, world.account(number).hex())
    for number in range(world.accounts_named, world.accounts):
        unsigned = ALGORITHM_ED25519 + hash_bytes(b"account/%d" % number)[1:]
        yield state_key("payments", "balance", CURRENCY, unsigned.hex())
