"""What says where a result was made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import machine


def test_the_fingerprint_is_of_the_files_that_are_measured_as_they_lie_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    person = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]

    def git(*words: str) -> None:
        subprocess.run(["git", *person, *words], cwd=tmp_path, check=True, capture_output=True)

    for folder in ("docs", "tests", "node"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("1\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    then = machine.program()
    for name in ("docs/a.py", "tests/a.py", "README.md", "node/README.md"):
        (tmp_path / name).write_text("2\n")
    git("add", ".")
    git("commit", "-m", "second")
    assert machine.program() == then
    file = tmp_path / "node" / "a.py"
    file.write_text("2\n")
    changed = machine.program()
    file.unlink()
    assert len({then, changed, machine.program()}) == 3
    file.write_text("1\n")
    assert machine.program() == then
    git("mv", "node/a.py", "node/b.py")
    assert machine.program() != then


def test_without_git_there_is_no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert machine.program() == "unknown"
