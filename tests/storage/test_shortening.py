"""The log forgets only what the store has, and each knows when the other has lost something since."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from storage import schema
from storage.errors import Corruption, StorageError
from storage.memory import MemoryKeyValue
from storage.shortening import begin_muted, end, forget_log, muted, replay, shorten
from storage.wal import WriteAheadLog

SEGMENT_SIZE_BYTES = 256
VOTES = 1


class Synced(MemoryKeyValue):
    """Tells the log's segments at each sync of the store, which knows of no log further than the one on disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.at_sync: list[int] = []

    def write(self, *arguments: object, **options: object) -> None:
        super().write(*arguments, **options)  # type: ignore[arg-type]
        if options.get("sync"):
            self.at_sync.append(len(list(self.folder.glob("*.wal"))))
            copy = self.folder.with_name(f"at-sync-{len(self.at_sync)}")
            shutil.copytree(self.folder, copy)
            replay(WriteAheadLog(copy, create=False), self, copy, 1_000)


def grown(folder: Path, heights: int) -> WriteAheadLog:
    log = WriteAheadLog(folder, segment_bytes_max=SEGMENT_SIZE_BYTES)
    for height in range(1, heights + 1):
        log.append(VOTES, height, bytes(100))
        log.flush()
    return log


def test_the_store_is_synced_before_a_segment_goes(tmp_path: Path) -> None:
    log, kv = grown(tmp_path / "wal", 12), Synced(tmp_path / "wal")
    before = len(list(kv.folder.glob("*.wal")))
    shorten(kv, log, 6)
    assert kv.at_sync == [before, before, before]
    assert len(list(kv.folder.glob("*.wal"))) < before


def test_a_store_that_has_what_was_dropped_is_taken(tmp_path: Path) -> None:
    log = grown(tmp_path / "wal", 12)
    kv = MemoryKeyValue()
    shorten(kv, log, 6)
    log.close()
    records = replay(WriteAheadLog(tmp_path / "wal", create=False), kv, tmp_path, 6)
    assert {record.tag for record in records} >= set(range(7, 13))
    assert {record.kind for record in records} == {VOTES}


def test_a_log_that_names_a_muted_key_is_shortened_and_names_it_still(tmp_path: Path) -> None:
    """A node goes on with another key on the same data. Its log kept all from the name on, and filled the disk."""
    key, kv = bytes(33), MemoryKeyValue()
    begin_muted(tmp_path / "wal", key)
    kv.write([(schema.MUTED + key, b"")])
    log = WriteAheadLog(tmp_path / "wal", segment_bytes_max=SEGMENT_SIZE_BYTES)
    for height in range(1, 200):
        log.append(VOTES, height, bytes(100))
        log.flush()
        shorten(kv, log, height)
    assert log.size_bytes() < 3 * SEGMENT_SIZE_BYTES
    log.close()
    again = WriteAheadLog(tmp_path / "wal", create=False)
    assert muted(again.replay()) == {key}
    again.close()


@pytest.mark.parametrize("later", [0, 3])
def test_a_store_that_fell_back_behind_the_log_is_refused(later: int, tmp_path: Path) -> None:
    """It has lost what was on disk, and the log no longer knows what was signed there."""
    log = grown(tmp_path / "wal", 12)
    kv = MemoryKeyValue()
    shorten(kv, log, 6)
    for height in range(13, 13 + later):
        log.append(VOTES, height, bytes(100))
        log.flush()
        shorten(kv, log, 6)
    log.close()
    with pytest.raises(Corruption, match=r"ends at height 5, and was at 6.*medchain repair"):
        replay(WriteAheadLog(tmp_path / "wal", create=False), kv, tmp_path, 5)


def test_where_nothing_goes_nothing_is_written(tmp_path: Path) -> None:
    log = grown(tmp_path / "wal", 1)
    before = log.size_bytes()
    kv = MemoryKeyValue()
    shorten(kv, log, 1)
    assert log.size_bytes() == before
    log.close()
    assert len(replay(WriteAheadLog(tmp_path / "wal", create=False), kv, tmp_path, 0)) == 1


def cut(folder: Path, size_bytes: int) -> None:
    """Leave so many bytes of the log."""
    for path in sorted(folder.glob("*.wal")):
        data = path.read_bytes()
        if size_bytes <= 0:
            path.unlink()
        else:
            path.write_bytes(data[:size_bytes])
        size_bytes -= len(data)


def opened(folder: Path, kv: MemoryKeyValue) -> list[int]:
    """The heights of the votes that a node would begin with."""
    log = WriteAheadLog(folder, create=False)
    try:
        return [record.tag for record in replay(log, kv, folder, 1_000)]
    finally:
        log.close()


def test_a_log_that_was_closed_in_peace_is_refused_at_any_shorter_length(tmp_path: Path) -> None:
    """It would look like one whose last write was cut short, and the node would vote again."""
    log, kv = grown(tmp_path / "wal", 6), MemoryKeyValue()
    end(kv, log)
    size_bytes = log.size_bytes()
    log.close()
    for length in range(size_bytes):
        shutil.copytree(tmp_path / "wal", tmp_path / "cut")
        cut(tmp_path / "cut", length)
        with pytest.raises(Corruption, match=r"Do not delete|is damaged|is gone"):
            opened(tmp_path / "cut", kv)
        shutil.rmtree(tmp_path / "cut")
    assert opened(tmp_path / "wal", kv) == [1, 2, 3, 4, 5, 6]


def test_after_a_crash_the_log_reaches_as_far_as_when_it_was_shortened(tmp_path: Path) -> None:
    log, kv = grown(tmp_path / "wal", 6), MemoryKeyValue()
    shorten(kv, log, 2)
    size_bytes = log.size_bytes()
    log.append(VOTES, 7, bytes(100))
    log.flush()
    log.close()
    cut(tmp_path / "wal", size_bytes + 10)
    assert opened(tmp_path / "wal", kv)[-1] == 6, "torn behind what was known to be there"
    cut(tmp_path / "wal", size_bytes - 1)
    with pytest.raises(Corruption, match="the log ends here"):
        opened(tmp_path / "wal", kv)


def test_what_is_not_durable_yet_is_not_counted(tmp_path: Path) -> None:
    log, kv = grown(tmp_path / "wal", 1), Synced(tmp_path / "wal")
    log.append(VOTES, 2, bytes(100))
    shorten(kv, log, 0)
    log.close()
    assert opened(tmp_path / "wal", kv) == [1]


def test_a_log_without_its_first_segments_is_refused(tmp_path: Path) -> None:
    log, kv = grown(tmp_path / "wal", 6), MemoryKeyValue()
    shorten(kv, log, 2)
    log.close()
    min((tmp_path / "wal").glob("*.wal")).unlink()
    with pytest.raises(Corruption, match="are missing"):
        opened(tmp_path / "wal", kv)


@pytest.mark.parametrize("count", [0, 1])
def test_killed_while_segments_go_it_opens(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, kv = grown(tmp_path / "wal", 12), MemoryKeyValue()
    left, unlink = [count], Path.unlink

    def killed(path: Path) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            shorten(kv, log, 6)
    log.close()
    assert set(opened(tmp_path / "wal", kv)) >= set(range(7, 13))


def test_a_store_that_knows_of_no_log_takes_it_as_it_is(tmp_path: Path) -> None:
    """One of earlier software, or whose log was replaced."""
    log, kv = grown(tmp_path / "wal", 2), MemoryKeyValue()
    end(kv, log)
    log.close()
    shutil.rmtree(tmp_path / "wal")
    grown(tmp_path / "wal", 1).close()
    with pytest.raises(Corruption):
        opened(tmp_path / "wal", kv)
    forget_log(kv)
    assert opened(tmp_path / "wal", kv) == [1]


def test_a_store_that_says_nonsense_of_its_log_is_refused(tmp_path: Path) -> None:
    grown(tmp_path / "wal", 1).close()
    kv = MemoryKeyValue()
    kv.write([(schema.LOGGED_KEY, b"12")])
    with pytest.raises(Corruption, match="how far the log was"):
        opened(tmp_path / "wal", kv)


def test_a_node_stops_in_peace_though_its_store_takes_nothing_more(tmp_path: Path) -> None:
    class Full(MemoryKeyValue):
        def write(self, *_: object, **__: object) -> None:
            raise StorageError("no room")

    log = grown(tmp_path / "wal", 1)
    end(Full(), log)
    log.close()
    assert len(list(WriteAheadLog(tmp_path / "wal").replay())) == 2
