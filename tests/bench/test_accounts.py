"""A first state with accounts: the same on all nodes, with all the money accounted for."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from bench.accounts import BALANCE, fund, keys
from bench.mix import ACCOUNTS_NAMED_MAX, BALANCE_START, CURRENCY, PATIENTS, World
from ledger.crypto import check_public_key
from ledger.state import state_key
from node import keys as key_files
from node.cluster import plan as plans
from node.cluster.runner import initialise_home
from node.home import DATA
from storage.chain import ChainStore
from storage.leveldb import LevelDB


def test_every_node_begins_with_the_same_accounts(tmp_path: Path) -> None:
    world = World(1, "payments", 100, 10, accounts=60)
    modules = world.genesis_modules(plans.development_modules())
    cluster = plans.new_cluster(4, generate=key_files.generate, time_ms=1_750_000_000_000, modules=modules)
    plans.write(tmp_path, cluster, initialise_home)
    homes = [tmp_path / node.name for node in cluster.plan.nodes]
    fund(homes, world)
    development = [item for item in modules["payments"]["balances"] if item["currency"] == CURRENCY]
    supply = sum(item["amount"] for item in development) + 60 * BALANCE
    assert supply > PATIENTS * BALANCE_START
    roots = set()
    for home in homes:
        with closing(LevelDB(home / DATA / "db")) as kv:
            store = ChainStore(kv)
            assert [store.get(key) for key in keys(world)] == [BALANCE] * 60
            assert store.get(state_key("payments", "supply", CURRENCY)) == supply
            roots.add(store.state_root(0))
    assert len(roots) == 1
    assert None not in roots


def test_only_accounts_that_are_paid_have_real_keys() -> None:
    world = World(1, "payments", 100, 10, accounts=ACCOUNTS_NAMED_MAX + 3)
    assert len(set(keys(world))) == ACCOUNTS_NAMED_MAX + 3
    for number in (0, 1, ACCOUNTS_NAMED_MAX - 1, ACCOUNTS_NAMED_MAX):
        check_public_key(world.account(number))
    assert world.account(ACCOUNTS_NAMED_MAX) == world.account(0)
