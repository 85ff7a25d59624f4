"""One folder, one process, one format."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from storage.datadir import DataDir
from storage.errors import AlreadyInitialised, Corruption, Locked, NotInitialised, VersionMismatch
from storage.leveldb import LevelDB
from storage.wal import WriteAheadLog

ROOT = Path(__file__).parents[2]
OPEN = """
import sys
from storage.datadir import DataDir
from storage.errors import Locked
try:
    DataDir(sys.argv[1]).close()
except Locked as error:
    print(error.pid)
"""


def open_elsewhere(path: Path) -> str:
    """What another process is told: nothing, or the pid that holds the folder."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_a_new_folder_opens_again_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    with DataDir.create(tmp_path / "data") as made:
        assert (made.db.name, made.wal.name, made.vault.name) == ("db", "wal", "vault")
    with DataDir(tmp_path / "data") as opened:
        for folder in (opened.path, opened.wal, opened.vault):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for name in ("FORMAT", "LOCK"):
            assert stat.S_IMODE((opened.path / name).stat().st_mode) == 0o600


def test_a_new_folder_has_a_log_so_that_its_loss_is_noticed(tmp_path: Path) -> None:
    """Trap 20."""
    with DataDir.create(tmp_path / "data") as folder:
        WriteAheadLog(folder.wal, create=False).close()
        for path in folder.wal.iterdir():
            path.unlink()
        with pytest.raises(Corruption):
            WriteAheadLog(folder.wal, create=False)


def test_creating_refuses_a_folder_that_holds_anything(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(AlreadyInitialised):
        DataDir.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    DataDir.create(tmp_path / "data").close()
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_a_second_open_names_the_process_that_holds_it(tmp_path: Path) -> None:
    with DataDir.create(tmp_path / "data"):
        with pytest.raises(Locked) as here:
            DataDir(tmp_path / "data")
        assert here.value.pid == os.getpid()
        assert str(os.getpid()) in str(here.value)
        assert open_elsewhere(tmp_path / "data") == str(os.getpid())
    assert open_elsewhere(tmp_path / "data") == ""


def test_the_lock_outlives_leveldbs_failed_second_open(tmp_path: Path) -> None:
    with DataDir.create(tmp_path / "data") as folder:
        db = LevelDB(folder.db, create=True)
        with pytest.raises(Locked):
            LevelDB(folder.db)
        assert open_elsewhere(folder.path) == str(os.getpid())
        db.close()


def test_the_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    script = (
        "import os, sys; from storage.datadir import DataDir; d = DataDir.create(sys.argv[1]); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "data")], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -9
    DataDir(tmp_path / "data").close()


def test_closing_twice_leaves_a_later_holder_alone(tmp_path: Path) -> None:
    first = DataDir.create(tmp_path / "data")
    first.close()
    with DataDir(tmp_path / "data"):
        first.close()
        assert open_elsewhere(tmp_path / "data") == str(os.getpid())


def test_a_creation_cut_short_is_no_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            DataDir.create(tmp_path / "data")
    with pytest.raises(NotInitialised, match="medchain init"):
        DataDir(tmp_path / "data")


def test_nothing_is_no_data_folder(tmp_path: Path) -> None:
    with pytest.raises(NotInitialised):
        DataDir(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(("text", "error"), [("2\n", VersionMismatch), ("", Corruption), ("1" * 99, Corruption)])
def test_another_or_a_damaged_format_is_refused_and_the_lock_let_go(
    tmp_path: Path, text: str, error: type[Exception]
) -> None:
    DataDir.create(tmp_path / "data").close()
    (tmp_path / "data" / "FORMAT").write_text(text)
    with pytest.raises(error):
        DataDir(tmp_path / "data")
    (tmp_path / "data" / "FORMAT").write_text("1\n")
    DataDir(tmp_path / "data").close()


def test_the_lock_needs_no_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DataDir.create(tmp_path / "data").close()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        held = DataDir(tmp_path / "data")
    with pytest.raises(Locked) as refused:
        DataDir(tmp_path / "data")
    assert refused.value.pid is None
    held.close()
