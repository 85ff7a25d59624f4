"""LevelDB's logs as a power cut may leave them, cut back to what opens.

A log's new length can be on disk without all of the pages in between: where one is missing, or was written last when
the log ended in it, the log reads as zeros to the page's end. LevelDB takes a log that merely ends early, and refuses
one with a hole as corrupt; but a hole from one record's begin to another's it passes over in silence. Nobody was
promised what stands behind a hole, since the sync that would have covered it did not return: it goes, with all later
logs, as if the log had ended there. The whole of each is kept beside it as `*.log.torn`.

A record that fails without a hole near it was damaged otherwise, perhaps after it was synced: nothing is changed then.

Must not know: of a log's encoding, more than where records begin (LevelDB, doc/log_format.md); whether they are sound
LevelDB itself is asked.
"""

from __future__ import annotations

import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from storage.files import replace, sync_folder

_BLOCK_BYTES: Final = 32 * 1024  # no fragment of a record crosses such a boundary in a log
_HEADER_BYTES: Final = 7  # checksum 4, length 2 little-endian, type 1, which is never 0
_SECTOR_BYTES: Final = 512  # no disk loses less
_TRIAL: Final = "trial"  # a database in the folder, there while it is asked


def logs_of(folder: Path) -> list[Path]:
    """The logs in a database's folder, oldest first."""
    return sorted((log for log in folder.glob("*.log") if log.stem.isdecimal()), key=lambda log: int(log.stem))


def cut_gap(folder: Path) -> None:
    """Cut the newest log back to the first hole that begins where a record would, before LevelDB passes over it.

    Older logs stay as they are: the database may have all of theirs in tables, and then what is behind them counts.
    """
    for log in logs_of(folder)[-1:]:
        data = log.read_bytes()
        written = len(data.rstrip(b"\0"))
        for at in _records(data, 0, written):
            if not any(data[at : at + _HEADER_BYTES]):
                _cut(log, data, at)
                return


def cut(folder: Path, opens: Callable[[Path], bool]) -> bool:
    """Cut the newest log that does not open back to its hole; False, and nothing changed, if it has none.

    `opens` makes a database in an absent folder, or opens the one there, closes it, and says whether it found it sound.
    """
    logs = logs_of(folder)
    for position, log in reversed(list(enumerate(logs))):
        data = log.read_bytes()
        end, following = _readable(folder / _TRIAL, data, opens)
        if end == len(data):
            continue
        if not _has_hole(data, end, following):
            return False
        for later in reversed(logs[position + 1 :]):
            later.rename(later.with_name(later.name + ".torn"))
            sync_folder(folder)
        _cut(log, data, end)
        return True
    return False


def _cut(log: Path, data: bytes, end: int) -> None:
    whole = log.with_name(log.name + ".torn")
    if not whole.exists():  # else this is a second hole of the same log
        replace(whole, data)
    replace(log, data[:end])


def _readable(trial: Path, data: bytes, opens: Callable[[Path], bool]) -> tuple[int, int]:
    """Where reading ends: the last record's begin (or the log's end) up to which a database opens, and where the next
    one begins. What opens still does when it ends earlier. Each question is a second for 64 MB, so what is asked first
    is whether the first hole is to blame.
    """

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
        return len(data), len(data)
    ends = [*_records(data, 0, len(data)), len(data)]
    hole = next(_zeros(data, range(0, len(data), _SECTOR_BYTES)), 0) // _BLOCK_BYTES * _BLOCK_BYTES
    guesses = [bisect_left(ends, hole), bisect_left(ends, hole + 2 * _BLOCK_BYTES)]
    low, high = 0, len(ends) - 1
    while high - low > 1:
        middle = guesses.pop() if guesses else (low + high) // 2
        if not low < middle < high:
            continue
        if is_sound(ends[middle]):
            low = middle
        else:
            high = middle
    return ends[low], ends[high]


def _has_hole(data: bytes, end: int, following: int) -> bool:
    """Whether zeros stand in a whole sector of what cannot be read, or from a record's begin to its sector's end; or,
    since LevelDB passes over zeros where a record would begin, of what is before it in the same block and the last."""
    begin = max(0, end // _BLOCK_BYTES - 1) * _BLOCK_BYTES
    sectors = range(begin, following, _SECTOR_BYTES)
    return next(_zeros(data, (*sectors, *_records(data, begin, following))), None) is not None


def _zeros(data: bytes, places: Iterable[int]) -> Iterator[int]:
    """Those from which on there are only zeros to the sector's end."""
    return (at for at in places if not any(data[at : at + _SECTOR_BYTES - at % _SECTOR_BYTES]))


def _records(data: bytes, begin: int, end: int) -> Iterator[int]:
    """Where the records begin from `begin`, a block's, to before `end`; once where a block has no more, but zeros."""
    at = begin
    while at < end:
        following = (at // _BLOCK_BYTES + 1) * _BLOCK_BYTES
        header = data[at : at + _HEADER_BYTES]
        if following - at < _HEADER_BYTES:
            at = following
            continue
        yield at
        length_bytes = int.from_bytes(header[4:6], "little")
        at = min(at + _HEADER_BYTES + length_bytes, following) if any(header) else following
