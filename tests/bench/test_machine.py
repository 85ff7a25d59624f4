"""What says where a result was made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import machine


def test_a_program_is_the_same_while_only_documents_tests_and_results_differ(
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
    then = machine.commit()
    assert machine.is_same_program(then)
    for name in ("docs/a.py", "tests/a.py", "README.md"):
        (tmp_path / name).write_text("2\n")
    git("add", ".")
    git("commit", "-m", "second")
    assert machine.commit() != then
    assert machine.is_same_program(then)
    (tmp_path / "node" / "a.py").write_text("2\n")
    assert not machine.is_same_program(then)
    assert not machine.is_same_program("no such commit")
