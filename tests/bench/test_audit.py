"""The data of a stopped node: executed once more, and proven from; and what is wrong in it is found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count, cycle
from pathlib import Path
from random import Random

import pytest

from bench.audit import _places, audit, proven, replayed
from bench.chains import Clock, make
from bench.mix import World
from ledger.genesis import Genesis, Parameters
from node.cluster.plan import GENESIS_FILE
from node.home import DATA, read_genesis
from storage.chain import ChainStore
from storage.leveldb import LevelDB
from tests.simulation.cluster import make_genesis

WORLD = World(1, "standard", 400, 10)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node's, with a chain of a few blocks."""
    folder = tmp_path_factory.mktemp("chain")
    make(folder, 400, 0, Clock())
    return next(path for path in sorted(folder.iterdir()) if (path / DATA).is_dir())


@pytest.fixture
def kv(home: Path) -> Iterator[LevelDB]:
    with closing(LevelDB(home / DATA / "db")) as opened:
        yield opened


@pytest.fixture
def genesis(home: Path) -> Genesis:
    return read_genesis(home / GENESIS_FILE)


def test_sound_data_passes(home: Path, tmp_path: Path) -> None:
    checks = audit(home, WORLD, tmp_path / "fresh")
    assert [check for check in checks if not check.held] == []
    assert [check.found for check in checks[1:3]] == ["1000 of them"] * 2
    assert [check.claim.split()[0] for check in checks[3:]] == ["transactions", "receipts"]
    assert [check.found for check in checks[3:]] == ["1000 of them"] * 2


def test_another_first_state_comes_to_another_root(kv: LevelDB, genesis: Genesis, tmp_path: Path) -> None:
    with closing(LevelDB(tmp_path / "fresh", create=True)) as fresh:
        assert not replayed(ChainStore(kv), genesis, World(1, "standard", 400, 10, accounts=5), fresh).held


def test_a_block_that_is_missing_is_named(
    kv: LevelDB, genesis: Genesis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ChainStore(kv)
    monkeypatch.setattr(store, "block", lambda height: None)
    with closing(LevelDB(tmp_path / "fresh", create=True)) as fresh:
        found = replayed(store, genesis, WORLD, fresh)
    assert (found.held, found.found) == (False, "block 1 is missing")


def test_nothing_is_proven_to_who_trusts_another_chain(kv: LevelDB) -> None:
    checks = proven(kv, ChainStore(kv), make_genesis(4, Parameters()), count=5)
    assert [check.held for check in checks] == [False] * 4
    assert all("of another chain" in check.found for check in checks)


def test_copies_that_were_refused_are_passed_over(kv: LevelDB, monkeypatch: pytest.MonkeyPatch) -> None:
    store, genuine, asked = ChainStore(kv), ChainStore(kv).receipt, cycle((True, False, False))
    monkeypatch.setattr(store, "receipt", lambda tx_id: genuine(tx_id) if next(asked) else None)
    assert len(list(_places(store, Random(1), 50))) == 50
    monkeypatch.setattr(store, "receipt", lambda tx_id: None)
    assert list(_places(store, Random(1), 50)) == []


def test_fewer_proofs_than_asked_for_are_not_enough(
    kv: LevelDB, genesis: Genesis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, genuine, asked = ChainStore(kv), ChainStore(kv).receipt, count()
    monkeypatch.setattr(store, "receipt", lambda tx_id: genuine(tx_id) if next(asked) < 4 else None)
    transactions = proven(kv, store, genesis, count=5)[2]
    assert (transactions.held, transactions.found) == (False, "4 of them")


def test_an_entry_that_is_not_under_the_root_is_not_proven(kv: LevelDB, genesis: Genesis) -> None:
    store = ChainStore(kv)
    genuine = store.state_bytes_at_root
    store.state_bytes_at_root = lambda key: (genuine(key) or b"") + b"\0"  # type: ignore[method-assign]
    entries, *others = proven(kv, store, genesis, count=5)
    assert (entries.held, entries.found) == (False, "number 0 proves something else")
    assert all(check.held for check in others)
