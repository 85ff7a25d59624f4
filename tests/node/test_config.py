"""One configuration, from four sources in a fixed order, refused whole with every problem named."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.genesis import development_key
from node import config
from node.config import InvalidConfig, NodeConfig
from node.network import transport_config
from p2p.frames import HEADER_SIZE_BYTES, KINDS, Channel

KEY = development_key("hospital").public.hex()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MEDCHAIN_"):
            monkeypatch.delenv(name)


def write(home: Path, text: str) -> Path:
    (home / config.FILE_NAME).write_text(text, "utf-8")
    return home


def problems(home: Path, overrides: dict[str, object] | None = None) -> tuple[str, ...]:
    with pytest.raises(InvalidConfig) as caught:
        config.load(home, overrides)
    return caught.value.problems


def test_an_empty_home_gives_the_defaults_on_loopback(tmp_path: Path) -> None:
    loaded = config.load(tmp_path)
    assert (loaded.p2p.host, loaded.api.host) == ("127.0.0.1", "127.0.0.1")
    assert loaded.key_path == tmp_path / "node.key"
    assert loaded.genesis_path == tmp_path / "genesis.json"


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, '[p2p]\nport = 1\n[api]\nport = 2\n[log]\nlevel = "error"\n')
    monkeypatch.setenv("MEDCHAIN_P2P__PORT", "11")
    monkeypatch.setenv("MEDCHAIN_API__PORT", "12")
    overrides: dict[str, object] = {"p2p.port": 21}
    loaded = config.load(tmp_path, overrides)
    assert (loaded.p2p.port, loaded.api.port, loaded.log.level, loaded.log.format) == (21, 12, "error", "text")
    origins = config.origins(loaded, overrides)
    assert origins["p2p.port"] == (21, "flag")
    assert origins["api.port"] == (12, "MEDCHAIN_API__PORT")
    assert origins["log.level"] == ("error", str(tmp_path / config.FILE_NAME))
    assert origins["log.format"] == ("text", "default")
    assert set(origins) == {key for key, _ in config.setting_keys()}


def test_all_problems_of_all_sources_are_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, '[p2p]\nprot = 3\npeers = [{key = "ab", host = "x", port = 1}]\n')
    monkeypatch.setenv("MEDCHAIN_P2P__PORT", "70000")
    monkeypatch.setenv("MEDCHAIN_LIMITS__WAITERS", "1")
    found = "\n".join(problems(tmp_path, {"log.level": "loud", "api.host": "0.0.0.0"}))
    for part in (
        "p2p.prot: unknown key",
        "did you mean p2p.port?",
        "p2p.peers[0].key: a public key is",
        "p2p.port: ",
        "from MEDCHAIN_P2P__PORT",
        "MEDCHAIN_LIMITS__WAITERS: unknown variable; did you mean MEDCHAIN_LIMITS__WAITERS_MAX?",
        "log.level: ",
        "from flag",
        "api.host: must be a loopback address",
    ):
        assert part in found


def test_lists_come_from_the_environment_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCHAIN_P2P__KNOWN_KEYS", f'["{KEY}"]')
    assert config.load(tmp_path).p2p.known_keys == (KEY,)
    monkeypatch.setenv("MEDCHAIN_P2P__KNOWN_KEYS", KEY)
    assert problems(tmp_path) == ("p2p.known_keys: must be a JSON list (from MEDCHAIN_P2P__KNOWN_KEYS)",)


def test_a_whole_section_in_one_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCHAIN_P2P", '{"port": 1}')
    assert "MEDCHAIN_P2P: unknown variable" in problems(tmp_path)[0]


def test_the_command_lines_own_variables_are_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCHAIN_CLI_API", "http://127.0.0.1:1")
    config.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[p2p\n", "medchain.toml: "),
        ("p2p = 3\n", "p2p"),
        ('[api]\nport = 26600\nhost = "127.0.0.1"\n[p2p]\nport = 26600\n', "api.port: is the same as p2p.port"),
        (f'[p2p]\npeers = [{{key="{KEY}",host="a",port=1}},{{key="{KEY}",host="b",port=2}}]\n', "listed twice"),
        ("[limits]\nconnections_max = 8\n", "connections_per_address_max"),
        ("x = '" + "a" * config.FILE_SIZE_BYTES_MAX + "'\n", "larger than"),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_name(tmp_path: Path, text: str, part: str) -> None:
    assert part in "\n".join(problems(write(tmp_path, text)))


def test_a_peers_queue_holds_the_largest_bulk_frame_or_is_refused_by_name(tmp_path: Path) -> None:
    key = "limits.peer_queue_size_bytes_max"
    frame = HEADER_SIZE_BYTES + max(rule.size_bytes_max for rule in KINDS.values() if rule.channel is Channel.BULK)
    assert key in problems(tmp_path, {key: frame - 1})[0]
    accepted = config.load(tmp_path, {key: frame})
    assert transport_config(accepted).queue_limits.bulk.size_bytes_max == frame


def test_an_embedding_application_is_not_changed_by_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDCHAIN_P2P__PORT", "11")
    assert NodeConfig(home=tmp_path).p2p.port == 26_600


def test_a_configuration_cannot_be_changed(tmp_path: Path) -> None:
    loaded = config.load(tmp_path)
    with pytest.raises(ValueError):
        loaded.home = tmp_path  # type: ignore[misc]


def test_every_key_has_a_description_and_a_variable_of_its_own() -> None:
    names = [config.environment_name(key) for key, _ in config.setting_keys()]
    assert len(set(names)) == len(names)
    assert all(field.description for _, field in config.setting_keys())


@given(host=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_written_settings_are_read_back(host: str) -> None:
    with TemporaryDirectory() as folder:
        read_back(Path(folder), host)


def read_back(home: Path, host: str) -> None:
    peers = [{"key": KEY, "host": host, "port": 7}]
    write(home, config.to_toml({"key": "k", "p2p.port": 9, "p2p.peers": peers, "p2p.known_keys": []}))
    loaded = config.load(home)
    assert loaded.p2p.model_dump()["peers"] == ({"key": KEY, "host": host, "port": 7},)
    assert (str(loaded.key), loaded.p2p.port, loaded.p2p.known_keys) == ("k", 9, ())
