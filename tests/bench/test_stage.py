"""What a run finds and leaves in the folder of results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import stage


def test_what_killed_runs_left_is_removed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "RESULTS", tmp_path)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    gone = [tmp_path / name for name in (f"cluster-{ended.pid}", f"comet-{ended.pid}", f"cluster-{os.getpid()}")]
    others = [tmp_path / name for name in (f"cluster-{os.getppid()}", "cluster-of-mine", "20260101-suite")]
    for path in (*gone, *others):
        (path / "data").mkdir(parents=True)
    assert stage.own_folder("comet") == tmp_path / f"comet-{os.getpid()}"
    assert sorted(tmp_path.iterdir()) == sorted(others)
