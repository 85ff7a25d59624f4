"""Small files: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import files


def test_a_new_file_is_secret_whole_and_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    files.write_new(path, b"first")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"first", 0o600)
    with pytest.raises(FileExistsError):
        files.write_new(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_is_secret_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_text("another's, readable by all")
    files.replace(path, b"ours")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"ours", 0o600)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("write", "owner", "call"),
    [
        (files.write_new, os, "fsync"),
        (files.write_new, os, "link"),
        (files.replace, os, "fsync"),
        (files.replace, Path, "replace"),
    ],
)
def test_a_failed_write_changes_nothing(
    write: Callable[[Path, bytes], None], owner: object, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    before = {path: b"before"} if write is files.replace else {}
    for each, data in before.items():
        each.write_bytes(data)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(owner, call, fail)
    with pytest.raises(OSError, match="no space"):
        write(path, b"after")
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before
