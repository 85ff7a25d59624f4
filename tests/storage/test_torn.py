"""A power cut while LevelDB's log was on its way to the disk: what was synced stays, the rest ends at the first hole.

Trap 21, for the store.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest

from storage.errors import Corruption
from storage.leveldb import LevelDB
from storage.torn import logs_of

WRITES = 60
SYNCED = 20


def key(number: int) -> bytes:
    return b"key-%03d" % number


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A database as it lies on the disk, of which the last forty writes are not synced; and where those begin."""
    path = tmp_path_factory.mktemp("torn") / "db"
    random, db, synced_bytes = Random(1), LevelDB(path, create=True), 0
    for number in range(WRITES):
        db.write([(key(number), random.randbytes(random.randint(200, 9_000)))], sync=number < SYNCED)
        if number < SYNCED:
            synced_bytes = logs_of(path)[-1].stat().st_size
    shutil.copytree(path, path.with_name("image"))
    db.close()
    return path.with_name("image"), synced_bytes


def found_after(image: Path, folder: Path, damage: Callable[[bytes], bytes]) -> int:
    """How many of the writes are there, all of them the first ones, with the log damaged like that."""
    shutil.copytree(image, folder)
    log = logs_of(folder)[-1]
    data = log.read_bytes()
    log.write_bytes(damage(data))
    db = LevelDB(folder)
    try:
        there = [number for number in range(WRITES) if db.get(key(number)) is not None]
        assert there == list(range(len(there))), "a hole"
        db.write([(b"after", b"")], sync=True)
    finally:
        db.close()
    db = LevelDB(folder)
    assert db.get(b"after") == b""
    db.close()
    assert not (folder / "trial").exists()
    return len(there)


def zeros(data: bytes, first: int, last: int) -> bytes:
    return data[:first] + bytes(min(last, len(data)) - first) + data[last:]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("lost_bytes", [512, 4096, 32 * 1024, 1 << 30])
def test_a_log_whose_unsynced_pages_were_lost_opens_with_all_before_them(
    image: tuple[Path, int], tmp_path: Path, lost_bytes: int, seed: int
) -> None:
    """The length is there, some pages or all to the end are not."""
    path, synced_bytes = image
    size_bytes = logs_of(path)[-1].stat().st_size
    first = -(-Random(seed).randrange(synced_bytes, size_bytes - 512) // 512) * 512
    there = found_after(path, tmp_path / "db", lambda data: zeros(data, first, first + lost_bytes))
    assert SYNCED <= there < WRITES


def test_a_tear_in_the_middle_of_a_sector_is_one_too(image: tuple[Path, int], tmp_path: Path) -> None:
    path, synced_bytes = image
    assert (
        SYNCED <= found_after(path, tmp_path / "db", lambda data: zeros(data, synced_bytes + 700, len(data))) < WRITES
    )


PAGE_BYTES = 4096


@pytest.mark.parametrize("sizes_bytes", [(100, 900), (500, 9_000), (10_000, 60_000)])
@pytest.mark.parametrize("version", range(3))
def test_a_page_of_which_an_older_version_is_on_disk_is_the_end(
    tmp_path: Path, version: int, sizes_bytes: tuple[int, int]
) -> None:
    """The log ended in it when it was written last, wherever in it; newer pages are there. LevelDB passes over zeros
    where a record would begin: without a report if the next block begins with a whole one."""
    random, path = Random(version), tmp_path / "db"
    db = LevelDB(path, create=True)
    ends = [logs_of(path)[-1].stat().st_size]
    for number in range(WRITES):
        db.write([(key(number), random.randbytes(random.randint(*sizes_bytes)))])
        ends.append(logs_of(path)[-1].stat().st_size)
    shutil.copytree(path, tmp_path / "image")
    db.close()
    for there, end in list(enumerate(ends))[SYNCED:-1]:
        following = -(-end // PAGE_BYTES) * PAGE_BYTES
        if following < ends[-1]:
            cut = found_after(tmp_path / "image", tmp_path / f"cut-{there}", partial(zeros, first=end, last=following))
            assert cut == there, (end, following)


def test_what_was_cut_off_is_kept_beside_the_log(image: tuple[Path, int], tmp_path: Path) -> None:
    path, synced_bytes = image
    log = logs_of(path)[-1]
    damaged = zeros(log.read_bytes(), synced_bytes + 1_000, synced_bytes + 9_000)
    found_after(path, tmp_path / "db", lambda data: damaged)
    assert (tmp_path / "db" / f"{log.name}.torn").read_bytes() == damaged


def test_a_hole_in_an_older_log_takes_the_newer_ones_with_it(image: tuple[Path, int], tmp_path: Path) -> None:
    """LevelDB begins a new log without syncing the one before: both may be unsynced."""
    path, synced_bytes = image
    later = LevelDB(tmp_path / "later", create=True)
    later.write([(key(WRITES), b"")])
    newer = logs_of(tmp_path / "later")[-1].read_bytes()
    later.close()
    shutil.copytree(path, tmp_path / "db")
    log = logs_of(tmp_path / "db")[-1]
    log.write_bytes(zeros(log.read_bytes(), synced_bytes + 1_000, synced_bytes + 9_000))
    (tmp_path / "db" / f"{int(log.stem) + 1:06d}.log").write_bytes(newer)
    db = LevelDB(tmp_path / "db")
    assert db.get(key(SYNCED - 1)) is not None
    assert db.get(key(WRITES)) is None
    db.close()


def test_a_flipped_bit_is_no_tear_and_stops_with_nothing_changed(image: tuple[Path, int], tmp_path: Path) -> None:
    """It may have been synced: a person decides."""
    path, _ = image
    size_bytes = logs_of(path)[-1].stat().st_size
    for number, at in enumerate(range(1_000, size_bytes, size_bytes // 12)):
        folder = tmp_path / f"db{number}"
        shutil.copytree(path, folder)
        log = logs_of(folder)[-1]
        data = bytearray(log.read_bytes())
        data[at] ^= 1
        log.write_bytes(data)
        with pytest.raises(Corruption, match="medchain repair"):
            LevelDB(folder)
        assert log.read_bytes() == data
        assert not list(folder.glob("*.torn"))
