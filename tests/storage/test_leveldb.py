"""What plyvel leaves open, one test for each."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import plyvel
import pytest

from storage import leveldb
from storage.errors import AlreadyInitialised, Closed, Corruption, DiskFull, Locked, NotInitialised, StorageError
from storage.leveldb import LevelDB

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def filled(path: Path, *, compacted: bool) -> LevelDB:
    db = LevelDB(path, create=True)
    db.write([(b"key-%05d" % number, b"value-%05d" % number * 8) for number in range(3_000)], sync=True)
    if compacted:
        db.compact()
    return db


def test_a_database_is_made_only_when_told_to(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(NotInitialised):
            LevelDB(path)
        assert not path.exists() or not list(path.iterdir())


def test_creating_refuses_a_folder_that_holds_anything(tmp_path: Path) -> None:
    filled(tmp_path / "db", compacted=False).close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("mine")
    for path in (tmp_path / "db", tmp_path / "other"):
        with pytest.raises(AlreadyInitialised):
            LevelDB(path, create=True)
    db = LevelDB(tmp_path / "db")
    assert db.get(b"key-00000") is not None
    db.close()


def test_the_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    LevelDB(tmp_path / "db", create=True).close()
    assert stat.S_IMODE((tmp_path / "db").stat().st_mode) == 0o700


def test_a_lost_current_file_stops_and_leaves_the_tables(tmp_path: Path) -> None:
    filled(tmp_path / "db", compacted=True).close()
    (tmp_path / "db" / "CURRENT").unlink()
    tables = sorted((tmp_path / "db").glob("*.ldb"))
    assert tables
    for create, error in ((False, Corruption), (True, AlreadyInitialised)):
        with pytest.raises(error):
            LevelDB(tmp_path / "db", create=create)
    assert sorted((tmp_path / "db").glob("*.ldb")) == tables


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_flipped_bit_in_a_table_never_gives_a_wrong_value(tmp_path: Path, share: float) -> None:
    filled(tmp_path / "db", compacted=True).close()
    table = max((tmp_path / "db").glob("*.ldb"), key=lambda path: path.stat().st_size)
    flip(table, int(table.stat().st_size * share))

    def read_all() -> None:
        db = LevelDB(tmp_path / "db")
        try:
            for number in range(3_000):
                assert db.get(b"key-%05d" % number) == b"value-%05d" % number * 8
        finally:
            db.close()

    def scan_all() -> None:
        db = LevelDB(tmp_path / "db")
        try:
            assert sum(1 for _ in db.scan(b"")) == 3_000
        finally:
            db.close()

    def scan_all_downwards() -> None:
        db = LevelDB(tmp_path / "db")
        try:
            assert sum(1 for _ in db.scan(b"", reverse=True)) == 3_000
        finally:
            db.close()

    for use in (read_all, scan_all, scan_all_downwards):
        with pytest.raises(Corruption, match="medchain repair"):
            use()


def test_a_flipped_bit_in_the_log_stops_the_opening(tmp_path: Path) -> None:
    filled(tmp_path / "db", compacted=False).close()
    log = max((tmp_path / "db").glob("*.log"), key=lambda path: path.stat().st_size)
    flip(log, log.stat().st_size // 2)
    with pytest.raises(Corruption):
        LevelDB(tmp_path / "db")


def test_a_second_open_is_refused_and_the_first_keeps_its_lock(tmp_path: Path) -> None:
    """plyvel's own failed second open would drop the lock for other processes."""
    db = filled(tmp_path / "db", compacted=False)
    with pytest.raises(Locked) as refused:
        LevelDB(tmp_path / "db")
    assert refused.value.pid == os.getpid()
    script = "import sys; from storage.leveldb import LevelDB; LevelDB(sys.argv[1])"
    other = run(script, str(tmp_path / "db"))
    assert other.returncode != 0
    assert "Locked" in other.stderr
    db.close()
    LevelDB(tmp_path / "db").close()


def test_closing_while_threads_read_write_and_iterate_is_no_crash(tmp_path: Path) -> None:
    """In a process of its own: the failure would be a segmentation fault."""
    script = """
import sys, threading
from storage.errors import Closed
from storage.leveldb import LevelDB

db = LevelDB(sys.argv[1], create=True)
db.write([(b"%06d" % number, bytes(200)) for number in range(20_000)])
db.compact()
ended = []

def forever(work):
    try:
        while True:
            work()
    except Closed:
        ended.append(work)

def use_snapshot():
    with db.snapshot() as view:
        view.get(b"000007")
        for _ in view.scan(b"01", limit=300):
            pass

works = [
    lambda: [db.get(b"%06d" % number) for number in range(0, 20_000, 7)],
    lambda: sum(1 for _ in db.scan(b"")),
    lambda: sum(1 for _ in db.scan(b"", reverse=True)),
    lambda: db.write([(b"x", b"y")]),
    use_snapshot,
]
for round_number in range(12):
    threads = [threading.Thread(target=forever, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for _ in db.scan(b"", limit=1_000 * round_number):
        pass
    if round_number % 2:
        db.reopen()
    db.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    db = LevelDB(sys.argv[1])
db.close()
assert len(ended) == 12 * len(works), len(ended)
print("whole")
"""
    done = run(script, str(tmp_path / "db"))
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr


def test_closing_waits_for_a_call_that_runs(tmp_path: Path) -> None:
    db = LevelDB(tmp_path / "db", create=True)
    inside, go_on = threading.Event(), threading.Event()
    real = db._db

    def slow_get(key: bytes, **_: object) -> bytes:
        inside.set()
        assert go_on.wait(20)
        assert not real.closed
        return b"slow"

    db._db = SimpleNamespace(get=slow_get, close=real.close)
    found: list[bytes | None] = []
    reader = threading.Thread(target=lambda: found.append(db.get(b"k")))
    reader.start()
    assert inside.wait(20)
    closer = threading.Thread(target=db.close)
    closer.start()
    while not db._closing:
        pass
    with pytest.raises(Closed):
        db.get(b"k")
    assert not real.closed
    go_on.set()
    reader.join(20)
    closer.join(20)
    assert found == [b"slow"]
    assert real.closed


def test_compaction_gives_room_back(tmp_path: Path) -> None:
    db = LevelDB(tmp_path / "db", create=True)
    keys = [b"%06d" % number for number in range(2_000)]
    db.write([(key, os.urandom(1_000)) for key in keys])
    db.compact()
    before_bytes = db.approximate_size_bytes()
    assert before_bytes > 2_000_000
    db.write((), keys)
    db.compact()
    assert db.approximate_size_bytes() < before_bytes // 10
    db.close()


def test_a_synced_write_covers_logs_that_leveldb_left_unsynced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = LevelDB(tmp_path / "db", create=True)
    (tmp_path / "db" / "000001.log").write_bytes(b"")  # as if its table were not written yet
    (tmp_path / "db" / "notes.log").write_bytes(b"")  # somebody else's
    synced: list[str] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1])
    db.write([(b"a", b"1")])
    assert synced == []
    db.write((), (), sync=True)
    assert [Path(name).name for name in synced] == ["000001.log"]
    db.close()


def test_a_synced_write_makes_the_name_of_a_new_log_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = LevelDB(tmp_path / "db", create=True, write_buffer_bytes=64 * 1024)
    synced: list[Path] = []
    monkeypatch.setattr(leveldb, "sync_folder", synced.append)
    for _ in range(2):
        db.write([(b"a", b"1")], sync=True)
    assert synced == [tmp_path / "db"]  # once for a log
    before = max((tmp_path / "db").glob("*.log"))
    while max((tmp_path / "db").glob("*.log")) == before:
        db.write([(os.urandom(8), os.urandom(10_000))])
    db.write([(b"a", b"2")], sync=True)
    assert synced == [tmp_path / "db"] * 2
    db.close()


def test_nodes_that_write_the_same_do_not_write_their_tables_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def opened(path: str, **options: Any) -> Any:
        sizes.append(options["write_buffer_size"])
        return real(path, **options)

    real = plyvel.DB
    monkeypatch.setattr(plyvel, "DB", opened)
    for number in range(5):
        LevelDB(tmp_path / str(number), create=True).close()
    assert len(set(sizes)) > 1
    assert all(leveldb.WRITE_BUFFER_BYTES_MIN <= size < leveldb.WRITE_BUFFER_BYTES_MAX for size in sizes)


def test_after_a_failed_write_nothing_is_taken_until_reopened(tmp_path: Path) -> None:
    db = filled(tmp_path / "db", compacted=False)
    real = db._db

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            raise plyvel.IOError(b"IO error: 000003.log: No space left on device")

        def put(self, key: bytes, value: bytes) -> None: ...

    db._db = SimpleNamespace(get=real.get, close=real.close, write_batch=lambda **_: Full())
    with pytest.raises(DiskFull):
        db.write([(b"a", b"1")])
    db._db = real  # room again: a record now would stand behind half a record, and be lost with it
    with pytest.raises(DiskFull):
        db.write([(b"a", b"1")])
    assert db.get(b"key-00001") is not None
    db.reopen()
    db.write([(b"a", b"1")])
    assert db.get(b"a") == b"1"
    db.close()


def test_a_full_disk_loses_nothing_acknowledged_and_reopening_works(tmp_path: Path) -> None:
    """On a small file system of its own, in a private mount namespace."""
    script = """
import subprocess, sys
from pathlib import Path
from storage.errors import DiskFull
from storage.leveldb import LevelDB

room = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", str(room)], check=True)
(room / "small").write_bytes(bytes(100_000))
(room / "large").write_bytes(bytes(9_000_000))
db = LevelDB(room / "db", create=True)
kept = 0
try:
    while True:
        db.write([(b"%05d" % kept, bytes(50_000))], sync=True)
        kept += 1
except DiskFull:
    pass
assert kept > 10, kept
assert db.get(b"00000") == bytes(50_000)
(room / "small").unlink()
for use in (lambda: db.write([(b"z", b"")]), db.reopen):  # reopening writes the log again, as a table
    try:
        use()
        raise SystemExit("no room for a table, yet it did not fail")
    except DiskFull:
        pass
(room / "large").unlink()
db.reopen()
db.write([(b"z", b"")], sync=True)
db.reopen()
assert all(db.get(b"%05d" % number) == bytes(50_000) for number in range(kept))
assert db.get(b"z") == b""
print("whole")
"""
    unshare = ("unshare", "--user", "--mount", "--map-root-user")
    try:
        probe = run("", prefix=unshare)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if probe.returncode:
        pytest.skip("no private mounts here")
    done = run(script, str(tmp_path), prefix=unshare)
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr


def test_what_was_written_survives_a_killed_process(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from storage.leveldb import LevelDB
db = LevelDB(sys.argv[1], create=True)
db.write([(b"%03d" % number, b"v") for number in range(500)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(script, str(tmp_path / "db")).returncode == -9
    db = LevelDB(tmp_path / "db")
    assert len(list(db.scan(b""))) == 500
    db.close()


def test_errors_of_the_system_come_as_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        LevelDB(tmp_path / "file" / "db", create=True)
