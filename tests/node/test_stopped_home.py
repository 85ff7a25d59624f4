"""What the command line makes of a stopped node's home: backups, homes made of them, tables for other tools."""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest

import node.home
from ledger.errors import Code
from ledger.genesis import Genesis, development_key
from ledger.modules.payments import Transfer
from ledger.transaction import NONCE_SIZE_BYTES, Transaction
from node import cli, export, keys
from node.cli.common import Exit
from node.cluster.plan import development_modules
from node.config import P2P, Api, Log, NodeConfig
from node.home import Home, initialise, open_home
from node.node import Node
from storage import datadir

PAID = 12_500
TOO_MUCH = 10**15
BLOCKS_MIN = 3
KEEP = ("--keep-key",)

Medchain = Callable[..., tuple[int, bytes, str]]


def config_of(home: Path) -> NodeConfig:
    return NodeConfig(home=home, p2p=P2P(port=0), api=Api(port=0), log=Log(level="warning"))


def opened(home: Path) -> Home:
    return open_home(config_of(home))


async def live(config: NodeConfig) -> None:
    """One transaction that succeeds, one that a rule refuses, one that succeeds; then the state is certified."""
    async with Node(config) as running:
        for amount in (PAID, TOO_MUCH, PAID):
            operation = Transfer("CNY", "pharmacy", amount, "invoice")
            valid_until = running.desk.store.tip.height + 100
            nonce = secrets.token_bytes(NONCE_SIZE_BYTES)
            key, chain_id = development_key("hospital"), running.desk.genesis.chain_id
            fields = operation.to_fields()
            tx = Transaction.create(key, chain_id, operation.NAME, fields, nonce=nonce, valid_until=valid_until)
            await running.submit(tx)
        while running.desk.store.latest_checkpoint() is None:
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stopped") / "home"
    home.mkdir()
    config = config_of(home)
    key = keys.generate()
    keys.save(config.key_path, key)
    time_ms = time.time_ns() // 1_000_000
    genesis = Genesis("export", time_ms, (key.public,), development_modules(), development=True)
    config.genesis_path.write_text(genesis.to_json(), "utf-8")
    initialise(config)
    asyncio.run(live(config))
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    copytree(made, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def medchain(capfdbinary: pytest.CaptureFixture[bytes]) -> Medchain:
    def call(*arguments: object) -> tuple[int, bytes, str]:
        status = cli.run([str(each) for each in arguments])
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = capfdbinary.readouterr()
        return status, out, err.decode()

    return call


def tip_of(home: Path) -> tuple[bytes, bool]:
    """The tip's hash, and whether the node's own key may sign."""
    found = opened(home)
    with closing(found):
        return found.store.tip.block_hash, not found.store.is_muted(keys.load(config_of(home).key_path).public)


# Backups


def new_home(made: Path, path: Path) -> Path:
    """The same institution's home on a new machine: genesis and key, no chain yet."""
    path.mkdir()
    for source in (config_of(made).genesis_path, config_of(made).key_path):
        (path / source.name).write_bytes(source.read_bytes())
        (path / source.name).chmod(0o600)
    initialise(config_of(path))
    return path


def test_a_home_made_of_a_backup_is_at_the_same_block_and_its_key_signs_nothing(
    home: Path, tmp_path: Path, medchain: Medchain
) -> None:
    status, out, _ = medchain("backup", "--home", home, "--out", tmp_path / "a.tar", "--json")
    assert status == Exit.DONE
    told = json.loads(out)
    other = new_home(home, tmp_path / "other")
    status, out, _ = medchain("restore", tmp_path / "a.tar", "--home", other, "--json")
    assert status == Exit.DONE
    assert json.loads(out) == {"home": str(other), "chain": told["chain"], "height": told["height"], "signs": False}
    before, after = tip_of(home), tip_of(other)
    assert (before[0], before[1], after[1]) == (after[0], True, False)
    status, _, _ = medchain("verify", "--home", other)
    assert status == Exit.DONE


def test_with_its_log_a_key_may_sign_on(home: Path, tmp_path: Path, medchain: Medchain) -> None:
    medchain("backup", "--home", home, "--out", tmp_path / "a.tar")
    other = new_home(home, tmp_path / "other")
    status, out, _ = medchain("restore", tmp_path / "a.tar", "--home", other, "--keep-key", "--json")
    assert status == Exit.DONE
    assert json.loads(out)["signs"] is True
    assert tip_of(other)[1]
    assert sorted(path.name for path in (home / "data" / "wal").iterdir()) == sorted(
        path.name for path in (other / "data" / "wal").iterdir()
    )


def test_a_backup_goes_to_stdout_and_holds_no_key(home: Path, medchain: Medchain) -> None:
    status, out, _ = medchain("backup", "--home", home, "--out", "-")
    assert status == Exit.DONE
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        assert tar.getnames()[0] == "backup.json"
    secret = config_of(home).key_path.read_text("utf-8").strip()
    assert secret.encode() not in out


def test_what_is_no_backup_leaves_the_home_as_it_was(home: Path, tmp_path: Path, medchain: Medchain) -> None:
    other = new_home(home, tmp_path / "other")
    (tmp_path / "a.tar").write_bytes(b"not a tar" * 1_000)
    status, _, err = medchain("restore", tmp_path / "a.tar", "--home", other)
    assert status == Exit.REFUSED
    assert "MC" in err
    status, _, _ = medchain("backup", "--home", home, "--out", tmp_path / "b.tar")
    status, _, err = medchain("restore", tmp_path / "b.tar", "--home", home)  # a home that holds a chain
    assert status == Exit.USAGE, err
    assert tip_of(home)[1]


def names_in(home: Path) -> list[str]:
    """But for the database's own, which change with each opening."""
    found = (path.relative_to(home) for path in home.rglob("*"))
    return sorted(str(path) for path in found if path.parent != Path("data/db"))


def test_a_refused_archive_leaves_the_home_to_the_right_one(home: Path, tmp_path: Path, medchain: Medchain) -> None:
    """And the right one is taken after it. Garbage, a cut archive, and one of another chain, also with its log."""
    other = new_home(home, tmp_path / "other")
    strange = new_home(home, tmp_path / "strange")
    genesis = Genesis.from_json(config_of(strange).genesis_path.read_bytes())
    config_of(strange).genesis_path.write_text(replace(genesis, name="another").to_json(), "utf-8")
    rmtree(strange / "data")
    initialise(config_of(strange))
    medchain("backup", "--home", home, "--out", tmp_path / "good.tar")
    good = (tmp_path / "good.tar").read_bytes()
    (tmp_path / "bad.tar").write_bytes(good[: len(good) // 2])
    for target, archive, more in ((other, "bad.tar", ()), (strange, "good.tar", ()), (strange, "good.tar", KEEP)):
        before = names_in(target), tip_of(target)
        status, _, err = medchain("restore", tmp_path / archive, "--home", target, *more)
        assert status == Exit.REFUSED, err
        assert (names_in(target), tip_of(target)) == before
    status, _, err = medchain("restore", tmp_path / "good.tar", "--home", other)
    assert status == Exit.DONE, err
    assert tip_of(other)[0] == tip_of(home)[0]


@pytest.mark.parametrize("step", ["complete", "check_new", "rename-1", "rename-2", "rmtree"])
def test_a_restore_that_is_killed_can_be_called_again(
    step: str, home: Path, tmp_path: Path, medchain: Medchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home is a new chain's or the restored one's at every step, and never one whose key may sign again."""
    other = new_home(home, tmp_path / "other")
    medchain("backup", "--home", home, "--out", tmp_path / "a.tar")
    calls = 0
    rename = Path.rename

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def count(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if step == f"rename-{calls}":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        match step:
            case "complete":
                patch.setattr(datadir, "complete", killed)
            case "check_new":
                patch.setattr(node.home, "take_place", killed)
            case "rmtree":
                patch.setattr(node.home.shutil, "rmtree", killed)
            case _:
                patch.setattr(Path, "rename", count)
        assert medchain("restore", tmp_path / "a.tar", "--home", other)[0] == Exit.INTERRUPTED
    if (other / "data" / "FORMAT").exists():
        tip, signs = tip_of(other)
        assert not (tip == tip_of(home)[0] and signs)
        if tip == tip_of(home)[0]:
            return
    status, _, err = medchain("restore", tmp_path / "a.tar", "--home", other)
    assert status == Exit.DONE, err
    assert tip_of(other) == (tip_of(home)[0], False)
    assert sorted(path.name for path in other.iterdir()) == ["data", "genesis.json", "node.key"]


@pytest.mark.parametrize(
    "command",
    [
        ("backup", "--home", "absent"), ("export", "blocks", "--home", "absent"),
        ("export", "receipts", "--home", "home", "--from", "900"),
        ("prove", "state", "payments", "balance", "CNY", "hospital", "--api", "http://127.0.0.1:1"),
    ],
)  # fmt: skip
def test_a_command_that_fails_leaves_the_file_that_was_there(
    command: tuple[str, ...], home: Path, tmp_path: Path, medchain: Medchain
) -> None:
    """It was emptied before anything was checked: the last good backup was lost to one mistake."""
    out = tmp_path / "kept"
    out.write_bytes(b"what was there")
    arguments = [str(tmp_path / each) if each in ("home", "absent") else each for each in command]
    assert medchain(*arguments, "--out", out)[0] not in (Exit.DONE, Exit.BUG)
    assert out.read_bytes() == b"what was there"
    assert not list(tmp_path.glob("kept.*"))


def test_a_pipe_and_a_device_are_written_to_as_they_are(home: Path, tmp_path: Path, medchain: Medchain) -> None:
    assert medchain("backup", "--home", home, "--out", "/dev/null")[0] == Exit.DONE
    assert Path("/dev/null").is_char_device()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        found = reader.submit(pipe.read_bytes)
        assert medchain("export", "blocks", "--home", home, "--out", pipe)[0] == Exit.DONE
        assert len(rows(found.result(10))) >= BLOCKS_MIN


# Tables


def rows(out: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_blocks_are_exported_one_a_line(home: Path, medchain: Medchain) -> None:
    status, out, err = medchain("export", "blocks", "--home", home)
    assert status == Exit.DONE
    found = rows(out)
    assert [row["height"] for row in found] == list(range(1, len(found) + 1))
    assert len(found) >= BLOCKS_MIN
    assert all(later["parent_hash"] == earlier["hash"] for earlier, later in pairwise(found))
    assert f"{len(found)} rows" in err


def test_receipts_say_who_signed_what_and_what_came_of_it(home: Path, medchain: Medchain) -> None:
    status, out, _ = medchain("export", "receipts", "--home", home)
    assert status == Exit.DONE
    found = rows(out)
    assert [row["fields"]["amount"] for row in found] == [PAID, TOO_MUCH, PAID]
    assert [row["code"] == Code.OK for row in found] == [True, False, True]
    assert found[1]["name"] == "insufficient_funds"
    assert {row["sender"] for row in found} == {development_key("hospital").public.hex()}


def test_a_range_of_heights(home: Path, medchain: Medchain) -> None:
    _, out, _ = medchain("export", "blocks", "--home", home, "--from", 2, "--to", 2)
    assert [row["height"] for row in rows(out)] == [2]


@pytest.mark.parametrize("heights", [("--from", "3", "--to", "2"), ("--to", "900")])
def test_heights_that_are_not_there_are_refused(home: Path, heights: tuple[str, ...], medchain: Medchain) -> None:
    status, out, err = medchain("export", "receipts", "--home", home, *heights)
    assert (status, out) == (Exit.USAGE, b"")
    assert "this node has 1 to" in err


@pytest.mark.parametrize("table", export.TABLES)
def test_parquet_holds_the_same_as_the_lines(home: Path, tmp_path: Path, table: str, medchain: Medchain) -> None:
    from pyarrow import parquet

    _, out, _ = medchain("export", table, "--home", home)
    status, _, _ = medchain("export", table, "--home", home, "--format", "parquet", "--out", tmp_path / "t.parquet")
    assert status == Exit.DONE
    found = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    for row in found:
        row["time_ms"] = round(row.pop("time").timestamp() * 1_000)
        row.update({name: json.loads(row[name]) for name in ("fields", "detail") if name in row})
    assert found == rows(out)


def test_without_the_library_parquet_says_what_to_install(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medchain: Medchain
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, err = medchain("export", "blocks", "--home", home, "--format", "parquet", "--out", tmp_path / "t")
    assert status == Exit.USAGE
    assert "medchain[parquet]" in err
    assert not (tmp_path / "t").exists() or not (tmp_path / "t").read_bytes()
