"""Every durable write is known, and a node killed just before and just after each of them loses nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kill_points import ELSEWHERE, ROOMS, ROOT, points, points_in, times

PARTS = 4


def sources() -> list[Path]:
    rooms = ("consensus", "ledger", "node", "p2p", "storage")
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def test_whatever_writes_to_the_disk_is_killed_there_or_says_why_not() -> None:
    writing = {point.file for path in sources() for point in points_in(path)}
    covered = {point.file for point in points()}
    assert covered == {file for file in writing if file.startswith(ROOMS)}
    assert writing - covered == set(ELSEWHERE)


def test_points_are_found_where_they_are(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        "class Room:\n    def put(self):\n        with self._db.write_batch() as batch:\n            batch.put()\n"
        "        os.fsync(\n            3)\n        text.replace('a', 'b')\n        os.read(3)\n"
    )
    assert [(point.function, point.first, point.last, point.what) for point in points_in(source, tmp_path)] == [
        ("Room.put", 3, 4, "self._db.write_batch"),
        ("Room.put", 5, 6, "os.fsync"),
    ]


def test_times_are_spread() -> None:
    assert times(100, 1) == [50]
    assert times(100, 3) == [1, 51, 100]
    assert times(2, 5) == [1, 2]


@pytest.mark.parametrize("part", range(1, PARTS + 1))
def test_killed_at_every_durable_write_a_node_loses_nothing(part: int) -> None:
    """`make killpoints` does it at more of the times a point is come by."""
    command = [sys.executable, "-m", "tests.kill_points", "--times", "1", "--part", f"{part}/{PARTS}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
