"""Key files are private, checked, and never overwritten."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ledger.errors import ConfigError
from ledger.genesis import development_key
from node import keys


def test_a_saved_key_is_read_back_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    key = keys.generate()
    path = tmp_path / "a.key"
    keys.save(path, key)
    assert keys.load(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_generated_keys_differ() -> None:
    assert keys.generate().public != keys.generate().public


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="never overwritten"):
        keys.save(path, keys.generate())
    assert path.read_text() == "mine"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_may_touch_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.key"
    keys.save(path, keys.generate())
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        keys.load(path)


def _damage(text: str) -> list[str]:
    header, public, secret = text.splitlines()
    other = keys.generate().public.hex()
    return [
        "",
        header,
        "\n".join(("another header", public, secret)),
        "\n".join((header, f"public {other}", secret)),
        "\n".join((header, public, secret[:-2])),
        "\n".join((header, public, "secret " + "z" * 64)),
        text + "more\n",
        "ä" * 100,
        "\x00" * 5_000,
    ]


def test_a_damaged_file_is_refused_without_telling_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    keys.save(path, keys.generate())
    text = path.read_text()
    secret = text.splitlines()[2].split()[1]
    for damaged in _damage(text):
        path.write_text(damaged)
        with pytest.raises(ConfigError, match="damaged") as caught:
            keys.load(path)
        assert secret[:16] not in str(caught.value)


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match=str(path)):
            keys.load(path)


def test_development_keys_go_by_name() -> None:
    assert keys.resolve("dev:maker") == development_key("maker")
    with pytest.raises(ConfigError, match="hospital"):
        keys.resolve("dev:hopsital")


def test_nothing_of_a_key_shows_in_its_description() -> None:
    key = keys.generate()
    assert key.seed.hex() not in repr(key)
    assert repr(key.seed) not in repr(key)
