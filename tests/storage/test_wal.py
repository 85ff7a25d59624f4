"""The write-ahead log under everything a disk, a crash and a hostile payload can do to it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
import zlib
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import Backlog, Closed, Corruption, DiskFull, StorageError, VersionMismatch
from storage.wal import PENDING_BYTES_MAX, RECORD_BYTES_MAX, Record, WriteAheadLog

RECORDS = [Record(number % 3, 100 + number, bytes([number]) * (number * 7 % 40)) for number in range(12)]
HEADER_BYTES = 36
RECORD_HEAD_BYTES = 29


def write(folder: Path, records: list[Record], *, segment_bytes_max: int = 1 << 20, apart: bool = False) -> None:
    """In one group, or (`apart`) each synced by itself."""
    log = WriteAheadLog(folder, segment_bytes_max=segment_bytes_max)
    for record in records:
        log.append(record.kind, record.tag, record.payload)
        if apart:
            log.flush()
    log.flush()
    log.close()


def read(folder: Path) -> tuple[list[Record], int]:
    log = WriteAheadLog(folder, create=False)
    try:
        return list(log.replay()), log.repaired_bytes
    finally:
        log.close()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.wal"))


def boundaries(records: list[Record]) -> list[int]:
    """Where each record of one segment begins, and where the last ends."""
    found = [HEADER_BYTES]
    for record in records:
        found.append(found[-1] + RECORD_HEAD_BYTES + len(record.payload))
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.builds(Record, st.integers(0, 255), st.integers(0, 2**64 - 1), st.binary(max_size=60)) | st.none(),
        max_size=30,
    ),
    st.sampled_from([64, 150, 1 << 20]),
)
def test_what_was_flushed_is_replayed_in_order(steps: list[Record | None], segment_bytes_max: int) -> None:
    """None stands for a flush and a new start."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "wal"
        log = WriteAheadLog(folder, segment_bytes_max=segment_bytes_max)
        kept: list[Record] = []
        for step in [*steps, None]:
            if step is not None:
                log.append(step.kind, step.tag, step.payload)
                kept.append(step)
            else:
                log.flush()
                log.close()
                log = WriteAheadLog(folder, create=False, segment_bytes_max=segment_bytes_max)
                assert list(log.replay()) == kept
                assert log.repaired_bytes == 0
        log.close()


def test_the_log_cut_at_any_byte_keeps_every_whole_record_before_the_cut(tmp_path: Path) -> None:
    """Trap 21. A crash in the middle of a write, and of the repair: opening twice gives the same."""
    write(tmp_path / "wal", RECORDS)
    (path,) = segments(tmp_path / "wal")
    data = path.read_bytes()
    ends = boundaries(RECORDS)
    assert ends[-1] == len(data)
    for cut in range(HEADER_BYTES, len(data)):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends[1:])
        assert read(tmp_path / "wal") == (RECORDS[:whole], cut - ends[whole])
        assert read(tmp_path / "wal") == (RECORDS[:whole], 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.binary(max_size=200), st.booleans())
def test_garbage_behind_a_cut_is_cut_off_and_the_log_goes_on(cut_bytes: int, garbage: bytes, zeros: bool) -> None:
    """Trap 21."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, RECORDS)
        (path,) = segments(folder)
        data = path.read_bytes()
        cut = max(HEADER_BYTES, len(data) - cut_bytes)
        found = data[:cut] + (bytes(len(garbage)) if zeros else garbage)
        path.write_bytes(found)
        same = takewhile(lambda pair: pair[0] == pair[1], zip(data, found, strict=False))
        good = sum(1 for _ in same)  # the first bytes behind the cut may happen to restore what was there
        whole = RECORDS[: sum(end <= good for end in boundaries(RECORDS)[1:])]
        write(folder, [Record(9, 9, b"after")])
        assert read(folder) == ([*whole, Record(9, 9, b"after")], 0)


def test_a_flipped_bit_before_the_last_record_stops_with_file_place_and_remedy(tmp_path: Path) -> None:
    """Trap 21. Every byte of all records but the last: kind, tag, length, checksum and payload alike."""
    write(tmp_path / "wal", RECORDS, apart=True)
    (path,) = segments(tmp_path / "wal")
    data = path.read_bytes()
    ends = boundaries(RECORDS)
    for offset in range(HEADER_BYTES, ends[-2]):
        broken = bytearray(data)
        broken[offset] ^= 1 << (offset % 8)
        path.write_bytes(broken)
        with pytest.raises(Corruption) as stopped:
            WriteAheadLog(tmp_path / "wal")
        assert stopped.value.offset == max(end for end in ends if end <= offset)
        assert path.name in str(stopped.value)
        assert "Do not delete" in str(stopped.value)
        assert path.read_bytes() == broken, "nothing may be repaired where a person must decide"


def test_a_flipped_bit_in_a_header_stops(tmp_path: Path) -> None:
    write(tmp_path / "wal", RECORDS)
    (path,) = segments(tmp_path / "wal")
    data = path.read_bytes()
    for offset in range(HEADER_BYTES):
        broken = bytearray(data)
        broken[offset] ^= 0x40
        path.write_bytes(broken)
        with pytest.raises(Corruption):
            WriteAheadLog(tmp_path / "wal")


def test_a_flipped_bit_in_the_last_record_loses_that_one_alone(tmp_path: Path) -> None:
    """It cannot be told from a torn write; `repaired_bytes` says that something went."""
    write(tmp_path / "wal", RECORDS)
    (path,) = segments(tmp_path / "wal")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert read(tmp_path / "wal") == (RECORDS[:-1], RECORD_HEAD_BYTES + len(RECORDS[-1].payload))


@pytest.mark.parametrize("damage", ["shortened", "flipped", "removed"])
def test_damage_in_an_earlier_segment_stops(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "wal", RECORDS, segment_bytes_max=120)
    paths = segments(tmp_path / "wal")
    assert len(paths) > 3
    victim = paths[1]
    data = bytearray(victim.read_bytes())
    if damage == "removed":
        victim.unlink()
    elif damage == "flipped":
        data[-1] ^= 1
        victim.write_bytes(data)
    else:
        victim.write_bytes(data[:HEADER_BYTES])  # at the end of a record: only the next segment can tell
    with pytest.raises(Corruption, match="Do not delete"):
        WriteAheadLog(tmp_path / "wal")


def test_a_stale_tail_of_another_life_is_not_a_continuation(tmp_path: Path) -> None:
    """The disk shows old blocks of a deleted segment behind the end of a new one, at the very same offsets."""
    write(tmp_path / "old", RECORDS)
    write(tmp_path / "new", RECORDS[:5])
    (old,), (new,) = segments(tmp_path / "old"), segments(tmp_path / "new")
    cut = boundaries(RECORDS)[5]
    new.write_bytes(new.read_bytes() + old.read_bytes()[cut:])
    assert read(tmp_path / "new") == (RECORDS[:5], old.stat().st_size - cut)


def test_a_group_whose_end_the_disk_wrote_before_its_beginning_is_cut_off(tmp_path: Path) -> None:
    """Trap 21. Pages reach a disk in any order: a good record behind a lost one of the same unsynced group says
    nothing, and none of the group was relied upon.
    """
    write(tmp_path / "wal", RECORDS[:4], apart=True)
    write(tmp_path / "wal", RECORDS[4:])
    (path,) = segments(tmp_path / "wal")
    data, ends = path.read_bytes(), boundaries(RECORDS)
    for number in range(len(RECORDS)):
        broken = bytearray(data)
        broken[ends[number] : ends[number + 1]] = bytes(ends[number + 1] - ends[number])
        path.write_bytes(broken)
        if number < 4:
            with pytest.raises(Corruption):
                WriteAheadLog(tmp_path / "wal")
        else:
            assert read(tmp_path / "wal") == (RECORDS[:number], len(data) - ends[number])
            write(tmp_path / "wal", [Record(9, 9, b"after")])
            assert read(tmp_path / "wal") == ([*RECORDS[:number], Record(9, 9, b"after")], 0)


def test_a_record_taken_out_of_the_middle_stops(tmp_path: Path) -> None:
    write(tmp_path / "wal", RECORDS, apart=True)
    (path,) = segments(tmp_path / "wal")
    data, ends = path.read_bytes(), boundaries(RECORDS)
    path.write_bytes(data[: ends[4]] + data[ends[5] :])
    with pytest.raises(Corruption):
        WriteAheadLog(tmp_path / "wal")


def test_a_payload_that_looks_like_a_record_stops_no_torn_log(tmp_path: Path) -> None:
    """A peer's proposal is a payload: were it taken for a record behind a torn one, he could stop us at a crash."""
    write(tmp_path / "other", RECORDS[:3])
    forged = segments(tmp_path / "other")[0].read_bytes()[HEADER_BYTES:]
    write(tmp_path / "wal", [*RECORDS[:2], Record(1, 1, forged * 3)])
    (path,) = segments(tmp_path / "wal")
    path.write_bytes(path.read_bytes()[:-1])
    records, repaired_bytes = read(tmp_path / "wal")
    assert records == RECORDS[:2]
    assert repaired_bytes > len(forged)


def test_a_segment_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    """Trap 21. Its header at any length, or zeros in its place."""
    write(tmp_path / "wal", RECORDS, segment_bytes_max=200)
    paths = segments(tmp_path / "wal")
    following = paths[-1].with_name(f"{int(paths[-1].stem) + 1:016d}.wal")
    for torn in (b"", b"medchain", bytes(HEADER_BYTES), bytes(HEADER_BYTES - 1)):
        following.write_bytes(torn)
        assert read(tmp_path / "wal") == (RECORDS, len(torn))
        assert not following.exists()
    following.write_bytes(bytes(HEADER_BYTES + 1))
    with pytest.raises(Corruption, match="header"):
        WriteAheadLog(tmp_path / "wal")


def test_an_empty_log_where_one_must_be_stops(tmp_path: Path) -> None:
    """Trap 20. A node that lost its log would vote again."""
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(Corruption, match="gone"):
            WriteAheadLog(folder, create=False)


@pytest.mark.parametrize("left", [b"", b"medchain", bytes(HEADER_BYTES)])
def test_a_first_segment_without_a_header_is_a_log_that_was_emptied(left: bytes, tmp_path: Path) -> None:
    """Trap 20. It was whole before anybody could rely on it."""
    (tmp_path / "0000000000000001.wal").write_bytes(left)
    with pytest.raises(Corruption, match="header"):
        WriteAheadLog(tmp_path, create=False)
    WriteAheadLog(tmp_path).close()  # whose making was cut short
    assert read(tmp_path) == ([], 0)


def test_a_lone_torn_segment_that_is_not_the_first_stops(tmp_path: Path) -> None:
    (tmp_path / "0000000000000007.wal").write_bytes(b"")
    with pytest.raises(Corruption):
        WriteAheadLog(tmp_path)


def test_another_version_says_so(tmp_path: Path) -> None:
    write(tmp_path / "wal", RECORDS)
    (path,) = segments(tmp_path / "wal")
    data = path.read_bytes()
    for version in (1, 2, 4):
        path.write_bytes(data[:12] + version.to_bytes(4, "big") + data[16:])
        with pytest.raises(VersionMismatch) as other:
            WriteAheadLog(tmp_path / "wal")
        assert other.value.found == version


def test_a_strange_file_stops(tmp_path: Path) -> None:
    (tmp_path / "backup.wal").write_bytes(b"")
    with pytest.raises(Corruption, match="Move it away"):
        WriteAheadLog(tmp_path)


def test_limits_are_checked_before_anything_is_taken(tmp_path: Path) -> None:
    log = WriteAheadLog(tmp_path)
    for kind, tag, size_bytes in ((256, 0, 0), (-1, 0, 0), (0, -1, 0), (0, 2**64, 0), (0, 0, RECORD_BYTES_MAX + 1)):
        with pytest.raises(ValueError, match="limit"):
            log.append(kind, tag, bytes(size_bytes))
    largest = bytes(RECORD_BYTES_MAX)
    for _ in range(PENDING_BYTES_MAX // RECORD_BYTES_MAX):
        log.append(0, 0, largest)
    with pytest.raises(Backlog):
        log.append(0, 0, b"x")
    log.close()


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    write(tmp_path / "wal", RECORDS, segment_bytes_max=100)
    assert stat.S_IMODE((tmp_path / "wal").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in segments(tmp_path / "wal")} == {0o600}


def test_what_was_not_flushed_is_gone_and_sequences_are_told(tmp_path: Path) -> None:
    log = WriteAheadLog(tmp_path)
    assert [log.append(1, 1, b"a"), log.append(1, 2, b"b")] == [1, 2]
    assert log.flush() == 2
    assert log.append(1, 3, b"c") == 3
    log.close()
    log.close()
    assert read(tmp_path)[0] == [Record(1, 1, b"a"), Record(1, 2, b"b")]
    with pytest.raises(Closed):
        log.append(1, 1, b"")
    with pytest.raises(Closed):
        log.flush()


def test_replaying_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, RECORDS)
    log = WriteAheadLog(tmp_path)
    assert len(list(log.replay())) == len(RECORDS)
    with pytest.raises(StorageError):
        log.replay()
    log.close()


def test_truncation_drops_only_whole_old_segments_from_the_front(tmp_path: Path) -> None:
    tags = [5, 6, 50, 7, 8, 9, 10]
    log = WriteAheadLog(tmp_path, segment_bytes_max=HEADER_BYTES + RECORD_HEAD_BYTES + 8)
    for tag in tags:
        log.append(0, tag, bytes(8))
    log.flush()
    assert len(segments(tmp_path)) == len(tags)
    log.truncate_before(8)
    assert len(segments(tmp_path)) == 5, "50 stands before 7: the log has no holes"
    log.truncate_before(51)
    assert len(segments(tmp_path)) == 1
    assert log.size_bytes() == segments(tmp_path)[0].stat().st_size
    log.append(0, 11, b"on")
    log.flush()
    log.close()
    assert [record.tag for record in read(tmp_path)[0]] == [10, 11]


def test_an_obsolete_current_segment_goes_once_another_has_begun(tmp_path: Path) -> None:
    log = WriteAheadLog(tmp_path, segment_bytes_max=4_000)
    log.append(0, 1, bytes(2_500))
    log.flush()
    log.truncate_before(2)
    assert len(segments(tmp_path)) == 1
    log.append(0, 2, b"new")
    log.flush()
    log.truncate_before(2)
    log.close()
    assert read(tmp_path)[0] == [Record(0, 2, b"new")]


@pytest.fixture
def power_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """A copy of the log's folder just before each call that changes the disk."""
    copies: list[Path] = []

    def watched(real: Callable) -> Callable:
        def call(*arguments: object) -> object:
            copies.append(tmp_path / f"cut-{len(copies)}")
            shutil.copytree(tmp_path / "wal", copies[-1])
            return real(*arguments)

        return call

    for name in ("pwrite", "fsync", "fdatasync", "ftruncate", "unlink"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    yield copies
    monkeypatch.undo()


def test_a_crash_at_any_moment_of_rotation_truncation_and_repair_leaves_a_log_that_opens(
    tmp_path: Path, power_cuts: list[Path]
) -> None:
    """Trap 21."""
    log = WriteAheadLog(tmp_path / "wal", segment_bytes_max=140)
    for record in RECORDS:
        log.append(record.kind, record.tag, record.payload)
        log.flush()
    log.truncate_before(RECORDS[8].tag)
    log.close()
    last = segments(tmp_path / "wal")[-1]
    last.write_bytes(last.read_bytes()[:-1])
    WriteAheadLog(tmp_path / "wal").close()
    cuts = list(power_cuts)
    assert len(cuts) > 30
    for cut in cuts:
        if all(path.stat().st_size < HEADER_BYTES for path in segments(cut)):
            WriteAheadLog(cut).close()  # whoever makes it is not done
        records, _ = read(cut)
        first = RECORDS.index(records[0]) if records else 0
        assert records == RECORDS[first : first + len(records)]


def test_each_new_segment_and_each_removal_syncs_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), real(fd))
    )
    log = WriteAheadLog(tmp_path / "wal", segment_bytes_max=70)
    for tag in (1, 2, 3):
        log.append(0, tag, bytes(10))
    log.flush()
    assert synced == [name for number in (1, 2, 3) for name in (f"{number:016d}.wal", "wal")]
    synced.clear()
    log.truncate_before(3)
    assert synced == ["wal", "wal"]
    log.close()


class FullDisk:
    """Takes so many bytes, half a write at the last, and no more until there is room again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room_bytes: int, code: int = errno.ENOSPC) -> None:
        self.room_bytes = room_bytes
        self._code = code
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self._write)

    def _write(self, descriptor: int, data: memoryview, offset: int) -> int:
        if self.room_bytes <= 0 and len(data):
            raise OSError(self._code, os.strerror(self._code))
        written = self._pwrite(descriptor, data[: self.room_bytes], offset)
        self.room_bytes -= written
        return written


@pytest.mark.parametrize("segment_bytes_max", [100, 1 << 20])
def test_a_full_disk_costs_no_record_and_doubles_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segment_bytes_max: int
) -> None:
    """In a record, in the header of a new segment. What is on disk meanwhile opens, too."""
    write(tmp_path / "whole", RECORDS[:-1], segment_bytes_max=segment_bytes_max)
    needed_bytes = sum(path.stat().st_size for path in segments(tmp_path / "whole")) - HEADER_BYTES
    for room_bytes in range(0, needed_bytes, 11):
        folder = tmp_path / f"log-{room_bytes}"
        log = WriteAheadLog(folder, segment_bytes_max=segment_bytes_max)
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, room_bytes)
            for record in RECORDS[:-1]:
                log.append(record.kind, record.tag, record.payload)
            for _ in range(2):
                with pytest.raises(DiskFull):
                    log.flush()
            shutil.copytree(folder, tmp_path / f"copy-{room_bytes}")
            log.append(RECORDS[-1].kind, RECORDS[-1].tag, RECORDS[-1].payload)
            disk.room_bytes = 1 << 30
            assert log.flush() == len(RECORDS)
        log.close()
        assert read(folder) == (RECORDS, 0)
        found, _ = read(tmp_path / f"copy-{room_bytes}")
        assert found == RECORDS[: len(found)]


def test_a_failing_sync_is_never_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops what it could not write, and a second sync would say that all is well."""
    log = WriteAheadLog(tmp_path)
    log.append(0, 1, b"good")
    log.flush()
    log.append(0, 2, b"doubtful")
    with monkeypatch.context() as patch:

        def fail(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(StorageError):
            log.flush()
    with pytest.raises(StorageError):
        log.flush()
    log.close()
    assert read(tmp_path)[0] == [Record(0, 1, b"good")]


def test_threads_that_flush_while_another_appends_form_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync covers what was appended before it began, and appending goes on while it runs."""
    log = WriteAheadLog(tmp_path)
    syncing, go_on = threading.Event(), threading.Event()
    calls: list[int] = []
    real = os.fdatasync

    def slow_sync(descriptor: int) -> None:
        calls.append(descriptor)
        syncing.set()
        assert go_on.wait(20)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow_sync)
    log.append(0, 1, b"first")
    durable: list[int] = []
    threads = [threading.Thread(target=lambda: durable.append(log.flush())) for _ in range(6)]
    threads[0].start()
    assert syncing.wait(20)
    for tag in range(2, 102):
        log.append(0, tag, b"meanwhile")
    assert log.size_bytes() == HEADER_BYTES
    log.truncate_before(0)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert sorted(durable) == [1, 101, 101, 101, 101, 101]
    assert len(calls) == 2
    log.close()
    assert [record.tag for record in read(tmp_path)[0]] == list(range(1, 102))


def test_many_threads_appending_and_flushing_lose_nothing(tmp_path: Path) -> None:
    log = WriteAheadLog(tmp_path, segment_bytes_max=2_000)
    failures: list[str] = []

    def work(name: int) -> None:
        for number in range(60):
            sequence = log.append(name, number, b"%d" % number)
            if number % 7 == 0 and log.flush() < sequence:
                failures.append("not durable after its flush")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert log.flush() == 300
    log.close()
    records = read(tmp_path)[0]
    assert not failures
    for name in range(5):
        assert [record.tag for record in records if record.kind == name] == list(range(60))


def test_the_written_format_is_the_documented_one(tmp_path: Path) -> None:
    write(tmp_path, [Record(7, 0x0102, b"payload")])
    (path,) = segments(tmp_path)
    data = path.read_bytes()
    header, record = data[:HEADER_BYTES], data[HEADER_BYTES:]
    assert path.name == "0000000000000001.wal"
    assert header[:12] == b"medchain-wal"
    assert header[12:28] == bytes.fromhex("00000003 0000000000000001 00000000")
    assert int.from_bytes(header[32:], "big") == zlib.crc32(header[:32])
    assert record[:4] == header[28:32]
    assert record[4:17] == bytes.fromhex("00000007 07 0000000000000102")
    assert record[17:21] == HEADER_BYTES.to_bytes(4, "big")
    assert record[21:25] == header[32:]
    assert int.from_bytes(record[25:29], "big") == zlib.crc32(record[:25] + b"payload")
    assert record[29:] == b"payload"


def test_what_must_happen_first_happens_between_the_choice_of_records_and_their_writing(tmp_path: Path) -> None:
    """A record appended meanwhile may need more than was done, so it waits for the next flush."""
    log = WriteAheadLog(tmp_path / "wal")
    log.append(1, 1, b"one")
    found: list[bytes] = []

    def first() -> None:
        found.append(segments(tmp_path / "wal")[-1].read_bytes()[HEADER_BYTES:])
        log.append(1, 2, b"two")

    assert log.flush(first) == 1
    assert found == [b""], "nothing was written yet"
    log.close()
    assert [record.payload for record in read(tmp_path / "wal")[0]] == [b"one"]


def test_where_what_must_happen_first_fails_nothing_is_written_and_nothing_lost(tmp_path: Path) -> None:
    log = WriteAheadLog(tmp_path / "wal")
    log.append(1, 1, b"one")

    def full() -> None:
        raise DiskFull(tmp_path)

    with pytest.raises(DiskFull):
        log.flush(full)
    assert segments(tmp_path / "wal")[-1].read_bytes()[HEADER_BYTES:] == b""
    assert log.flush() == 1
    log.close()
    assert [record.payload for record in read(tmp_path / "wal")[0]] == [b"one"]
