"""The log forgets only what the store has, and knows when the store has lost it since."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.errors import Corruption
from storage.memory import MemoryKeyValue
from storage.shortening import replay, shorten
from storage.wal import WriteAheadLog

SEGMENT_SIZE_BYTES = 256
VOTES = 1


class Synced(MemoryKeyValue):
    """Tells the log's segments at each sync of the store."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.at_sync: list[int] = []

    def write(self, *arguments: object, **options: object) -> None:
        super().write(*arguments, **options)  # type: ignore[arg-type]
        if options.get("sync"):
            self.at_sync.append(len(list(self.folder.glob("*.wal"))))


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
    assert kv.at_sync == [before]
    assert len(list(kv.folder.glob("*.wal"))) < before


def test_a_store_that_has_what_was_dropped_is_taken(tmp_path: Path) -> None:
    log = grown(tmp_path / "wal", 12)
    shorten(MemoryKeyValue(), log, 6)
    log.close()
    records = replay(WriteAheadLog(tmp_path / "wal", create=False), tmp_path, 6)
    assert {record.tag for record in records} >= set(range(7, 13))
    assert {record.kind for record in records} == {VOTES}


@pytest.mark.parametrize("later", [0, 3])
def test_a_store_that_fell_back_behind_the_log_is_refused(later: int, tmp_path: Path) -> None:
    """It has lost what was on disk, and the log no longer knows what was signed there."""
    log = grown(tmp_path / "wal", 12)
    shorten(MemoryKeyValue(), log, 6)
    for height in range(13, 13 + later):
        log.append(VOTES, height, bytes(100))
        log.flush()
        shorten(MemoryKeyValue(), log, 6)
    log.close()
    with pytest.raises(Corruption, match=r"ends at height 5, and was at 6.*medchain repair"):
        replay(WriteAheadLog(tmp_path / "wal", create=False), tmp_path, 5)


def test_where_nothing_goes_nothing_is_written(tmp_path: Path) -> None:
    log = grown(tmp_path / "wal", 1)
    before = log.size_bytes()
    shorten(MemoryKeyValue(), log, 1)
    assert log.size_bytes() == before
    log.close()
    assert len(replay(WriteAheadLog(tmp_path / "wal", create=False), tmp_path, 0)) == 1
