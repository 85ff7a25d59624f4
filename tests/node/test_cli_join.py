"""`medchain join` and `init` at the terminal: what an operator is told who has to be let in by others."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ledger.genesis import Genesis
from node import cli, keys
from node.cli.join import WAITING_EVERY_S, _Line
from node.cluster.plan import development_modules
from node.join import Progress


@pytest.fixture
def genesis(tmp_path: Path) -> Path:
    path = tmp_path / "genesis.json"
    validator, now_ms = keys.generate().public, time.time_ns() // 1_000_000
    path.write_text(Genesis("joined", now_ms, (validator,), development_modules(), development=True).to_json(), "utf-8")
    return path


def test_a_new_node_of_a_chain_says_what_its_peers_must_add(
    genesis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["init", "--home", str(tmp_path / "home"), "--genesis", str(genesis), "--json"]) == 0
    printed = capsys.readouterr()
    shown = json.loads(printed.out)
    assert "[p2p] peers" in printed.err  # it was told of none to dial
    assert shown["at_peers"] == f'known_keys = ["{shown["key"]}"]'
    assert cli.run(["init", "--home", str(tmp_path / "alone"), "--json"]) == 0
    printed = capsys.readouterr()
    assert ("at_peers" in json.loads(printed.out), printed.err) == (False, "")


def test_without_peers_a_join_fails_at_once(genesis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(tmp_path / "home")
    assert cli.run(["init", "--home", home, "--genesis", str(genesis)]) == 0
    assert cli.run(["join", "--home", home]) == 2
    assert "p2p.peers in medchain.toml is empty" in capsys.readouterr().err
    assert not (tmp_path / "home" / "joining").exists()


def test_while_it_waits_it_says_for_what_every_five_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = 100.0
    progress = Progress(waits_for="no peer is connected")
    monkeypatch.setattr("node.cli.join.time", SimpleNamespace(monotonic=lambda: now_s))
    line = _Line()
    for _ in range(40):
        now_s += WAITING_EVERY_S / 10
        line.told(progress)
    assert capsys.readouterr().err == "waiting: no peer is connected\n" * 4
    progress.waits_for = ""
    line.told(progress)
    assert "time left unknown" in capsys.readouterr().err
