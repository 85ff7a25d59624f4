"""The write-ahead log: opaque records on disk before anything that depends on them leaves the process.

Segments `<number>.wal`, each a header and records `[length u32][kind u8][tag u64][crc u32][payload]`. A record's
checksum is seeded with its predecessor's, so that a stale tail of an older life never passes for a continuation.
`append` buffers; `flush` writes and syncs everything appended so far, and may run in another thread meanwhile.

A torn tail of the last segment is cut off at opening. Anything wrong before that stops the node: Corruption says where.

Must not know: what records mean. The tag is the caller's, and only compared by `truncate_before`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from storage.errors import Corruption, DiskFull, StorageError

MAGIC = b"medchain-wal\x00\x00\x00\x01"  # name and version
SEGMENT_BYTES_MAX = 64 * 1024 * 1024  # whole segments are dropped, so this is what a stable checkpoint may leave behind
RECORD_BYTES_MAX = 16 * 1024 * 1024  # four times the largest consensus message; a longer length is garbage
_RECORD = Struct(">IBQI")
_SEED = 0x6D656463


@dataclass(frozen=True, slots=True)
class Record:
    """One record: the caller's kind (0-255) and tag, and its bytes."""

    kind: int
    tag: int
    payload: bytes


@dataclass(slots=True)
class _Segment:
    path: Path
    number: int
    tag_max: int = 0
    size_bytes: int = len(MAGIC)


class WriteAheadLog:
    """One log in one folder. `replay` once after opening, then append and flush."""

    def __init__(self, folder: Path | str, *, segment_bytes_max: int = SEGMENT_BYTES_MAX) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._segment_bytes_max = segment_bytes_max
        self._lock = threading.Lock()  # guards the buffer; writing happens outside it
        self._writing = threading.Lock()
        self._buffer: list[bytes] = []
        self._buffer_tag = 0
        self._sequence = 0
        self.repaired_bytes = 0
        self._checksum = _SEED
        self._segments: list[_Segment] = []
        self._records: list[Record] | None = []
        self._load()

    # Opening

    def _load(self) -> None:
        paths = sorted(self.folder.glob("*.wal"))
        numbers = [_number(path) for path in paths]
        if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise Corruption(f"{self.folder}: a segment is missing among {numbers}; restore it, or start from peers")
        for path, number in zip(paths, numbers, strict=True):
            self._load_segment(path, number, last=path is paths[-1])
        if not self._segments:
            self._new_segment(numbers[-1] + 1 if numbers else 1)
        else:
            self._file = open(self._segments[-1].path, "ab", buffering=0)  # noqa: SIM115

    def _load_segment(self, path: Path, number: int, *, last: bool) -> None:
        data = path.read_bytes()
        if len(data) < len(MAGIC) + 4 and last:
            # A crash while the segment was being made: nothing was ever in it.
            self.repaired_bytes += len(data)
            path.unlink()
            return
        if data[: len(MAGIC)] != MAGIC:
            raise Corruption(f"{path}: not a log of this version at offset 0; restore it from a backup")
        start = len(MAGIC) + 4
        checksum = int.from_bytes(data[len(MAGIC) : start], "big")
        if self._segments and checksum != self._checksum:
            raise Corruption(f"{path}: does not continue the segment before it; restore both from one backup")
        segment = _Segment(path, number)
        position, checksum, records = _parse(data, start, checksum)
        if position != len(data):
            if not last or _valid_record_after(data, position):
                raise Corruption(
                    f"{path}: damaged at offset {position} with records after it; do not delete it: "
                    "restore this file from a backup, or set the node up anew with a new key"
                )
            self.repaired_bytes += len(data) - position
            with open(path, "r+b") as file:
                file.truncate(position)
                os.fsync(file.fileno())
        assert self._records is not None
        self._records.extend(records)
        segment.size_bytes = position
        segment.tag_max = max((record.tag for record in records), default=0)
        self._checksum = checksum
        self._segments.append(segment)

    def replay(self) -> Iterator[Record]:
        """All records, oldest first; once, right after opening."""
        records, self._records = self._records, None
        if records is None:
            raise StorageError("the log was replayed already")
        return iter(records)

    # Writing

    def append(self, kind: int, tag: int, payload: bytes) -> int:
        """Buffer a record; returns its sequence number. It is durable once `flush` returned at least that."""
        if len(payload) > RECORD_BYTES_MAX:
            raise ValueError("record over the limit")
        with self._lock:
            head = _RECORD.pack(len(payload), kind, tag, 0)[:-4]
            self._checksum = zlib.crc32(payload, zlib.crc32(head, self._checksum))
            self._buffer.append(head + self._checksum.to_bytes(4, "big"))
            self._buffer.append(payload)
            self._buffer_tag = max(self._buffer_tag, tag)
            self._sequence += 1
            return self._sequence

    def flush(self) -> int:
        """Write and sync all that was appended before the call; returns the last durable sequence number.

        DiskFull leaves everything in place: calling again once there is room succeeds, and writes nothing twice.
        """
        with self._writing:
            with self._lock:
                pending, tag, sequence = self._buffer, self._buffer_tag, self._sequence
                checksum = self._checksum
                self._buffer, self._buffer_tag = [], 0
            if not pending:
                return sequence
            segment = self._segments[-1]
            data = b"".join(pending)
            try:
                self._write_all(segment, data)
            except OSError as error:
                with self._lock:
                    self._buffer[:0] = pending
                    self._buffer_tag = max(self._buffer_tag, tag)
                if error.errno == errno.ENOSPC:
                    raise DiskFull(segment.path) from error
                raise
            segment.tag_max = max(segment.tag_max, tag)
            segment.size_bytes += len(data)
            if segment.size_bytes >= self._segment_bytes_max:
                self._file.close()
                self._new_segment(segment.number + 1, checksum)
            return sequence

    def _write_all(self, segment: _Segment, data: bytes) -> None:
        written = 0
        view = memoryview(data)
        try:
            while written < len(data):
                written += self._file.write(view[written:])
            os.fdatasync(self._file.fileno())
        except OSError:
            # Whatever half arrived must go, or the next attempt would stand after it.
            with contextlib.suppress(OSError):
                self._file.truncate(segment.size_bytes)
                self._file.seek(0, os.SEEK_END)
            raise

    def _new_segment(self, number: int, checksum: int = _SEED) -> None:
        path = self.folder / f"{number:016d}.wal"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._file = open(descriptor, "ab", buffering=0)  # noqa: SIM115
        self._file.write(MAGIC + checksum.to_bytes(4, "big"))
        os.fdatasync(descriptor)
        _sync_folder(self.folder)
        self._segments.append(_Segment(path, number, size_bytes=len(MAGIC) + 4))
        if not self._segments[:-1]:
            self._checksum = checksum

    def truncate_before(self, tag: int) -> None:
        """Drop the oldest segments in which every record's tag is below `tag`; the current one stays."""
        with self._writing:
            while len(self._segments) > 1 and self._segments[0].tag_max < tag:
                self._segments.pop(0).path.unlink()
            current = self._segments[-1]
            if len(self._segments) == 1 and current.size_bytes > self._segment_bytes_max // 8:
                with self._lock:
                    idle = not self._buffer
                    checksum = self._checksum
                if idle and current.tag_max < tag:
                    self._file.close()
                    self._new_segment(current.number + 1, checksum)
                    self._segments.pop(0).path.unlink()
            _sync_folder(self.folder)

    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self._segments)

    def close(self) -> None:
        self._file.close()


def _number(path: Path) -> int:
    try:
        return int(path.stem)
    except ValueError:
        raise Corruption(f"{path}: not a segment of the log; move it away") from None


def _parse(data: bytes, position: int, checksum: int) -> tuple[int, int, list[Record]]:
    """Records from `position` as long as checksums continue: where they stop, the last checksum, the records."""
    records: list[Record] = []
    while position + _RECORD.size <= len(data):
        length, kind, tag, stored = _RECORD.unpack_from(data, position)
        end = position + _RECORD.size + length
        if length > RECORD_BYTES_MAX or end > len(data):
            break
        payload = data[position + _RECORD.size : end]
        head = data[position : position + _RECORD.size - 4]
        expected = zlib.crc32(payload, zlib.crc32(head, checksum))
        if expected != stored:
            break
        records.append(Record(kind, tag, payload))
        position, checksum = end, expected
    return position, checksum, records


def _valid_record_after(data: bytes, position: int) -> bool:
    """Whether some later record continues from the checksum stored by another: then the damage is in the middle."""
    if position + _RECORD.size > len(data):
        return False
    length, _, _, stored = _RECORD.unpack_from(data, position)
    starts = []
    if length <= RECORD_BYTES_MAX:
        starts.append((position + _RECORD.size + length, stored))
    for start, seed in starts:
        end, _, records = _parse(data, start, seed)
        if records and end <= len(data):
            return True
    return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
