"""LevelDB's logs as a power cut may leave them, cut back to what opens.

A log's new length can be on disk without all of the pages in between: where they are missing it reads as zeros. LevelDB
takes a log that merely ends early, and refuses one with a hole as corrupt. Nobody was promised what stands behind a
hole, since the sync that would have covered it did not return: it goes, with all later logs, as if the log had ended
there. The whole of each is kept beside it as `*.log.torn`.

A record that fails without a lost sector near it was damaged otherwise, perhaps after it was synced: nothing is changed
then.

Must not know: how a log is encoded; LevelDB itself is asked how far one can be read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from storage.files import replace, sync_folder

_BLOCK_BYTES: Final = 32 * 1024  # no fragment of a record crosses such a boundary in a log
_SECTOR_BYTES: Final = 512  # no disk loses less
_TRIAL: Final = "trial"  # a database in the folder, there while it is asked


def logs_of(folder: Path) -> list[Path]:
    """The logs in a database's folder, oldest first."""
    return sorted((log for log in folder.glob("*.log") if log.stem.isdecimal()), key=lambda log: int(log.stem))


def cut(folder: Path, opens: Callable[[Path], bool]) -> bool:
    """Cut the newest log that does not open back to its hole; False, and nothing changed, if it has none.

    `opens` makes a database in an absent folder, or opens the one there, closes it, and says whether it found it sound.
    """
    logs = logs_of(folder)
    for position, log in reversed(list(enumerate(logs))):
        data = log.read_bytes()
        end = _readable(folder / _TRIAL, data, opens)
        if end == len(data):
            continue
        if not _lost_sector(data, end):
            return False
        for later in reversed(logs[position + 1 :]):
            later.rename(later.with_name(later.name + ".torn"))
            sync_folder(folder)
        replace(log.with_name(log.name + ".torn"), data)
        replace(log, data[:end])
        return True
    return False


def _readable(trial: Path, data: bytes, opens: Callable[[Path], bool]) -> int:
    """How many bytes of a log a database can be opened with. What opens still does when it ends earlier."""

    def is_sound(size_bytes: int) -> bool:
        shutil.rmtree(trial, ignore_errors=True)
        try:
            opens(trial)
            newest = int(logs_of(trial)[-1].stem)
            (trial / f"{newest + 1:06d}.log").write_bytes(data[:size_bytes])
            return opens(trial)
        finally:
            shutil.rmtree(trial, ignore_errors=True)

    if is_sound(len(data)):
        return len(data)
    low, high = 0, len(data)
    while high - low > 1:
        middle = (low + high) // 2
        if is_sound(middle):
            low = middle
        else:
            high = middle
    return low


def _lost_sector(data: bytes, end: int) -> bool:
    """Whether a sector up to where reading ends is all zeros, in the same block or, since LevelDB passes over zeros
    where a record would begin, in the one before."""
    begin = max(0, end // _BLOCK_BYTES - 1) * _BLOCK_BYTES
    return any(not any(data[at : at + _SECTOR_BYTES]) for at in range(begin, end + 1, _SECTOR_BYTES))
