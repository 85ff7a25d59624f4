"""The write-ahead log: opaque records on disk before anything that depends on them leaves the process.

Must not know: what records mean. The tag is the caller's, and only compared by `truncate_before`.

Segments `<number>.wal`, all integers big-endian:

    header  magic 12 | version u32 | number u64 | previous u32 | marker 4 | checksum u32
    record  marker 4 | length u32 | kind u8 | tag u64 | group u32 | previous u32 | checksum u32 | payload

A checksum is the CRC-32 of all that stands before it and of the payload. `previous` is the checksum of the record (or
header) before: records form a chain through all segments, so what is left over from an older life never passes for a
continuation, and a segment that lost its end does not fit the next one. `marker` is random for each segment and never
leaves the disk: it is how a record is recognised behind a damaged one, and a peer who wants his payload taken for
records would have to guess it. `group` is where the records that are synced together begin in the segment: a group is
written once the one before is durable.

At opening: a bad record in the last group of the last segment is what a crash leaves, and all from there is cut off
(the cut is the only change, so a crash meanwhile does no harm). Good ones of the same group may stand behind it, since
the disk writes its pages in any order. A bad record with a good one of a later group behind it, or anywhere else, was
durable once: Corruption. Rot in the very last group, or an end that is gone, cannot be told from a torn write: whoever
opens it may know how far it was once (`Extent`), and asks.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from storage.errors import Backlog, Closed, Corruption, StorageError, VersionMismatch, from_os_error

VERSION = 3
# Whole segments are dropped, so about this is what a stable checkpoint may leave behind; a record may be larger and has
# one of its own then. Under load a new one comes every ten seconds.
SEGMENT_BYTES_MAX = 4 * 1024 * 1024
RECORD_BYTES_MAX = 16 * 1024 * 1024  # four times the largest consensus message; a longer length is garbage
PENDING_BYTES_MAX = 128 * 1024 * 1024  # eight of the largest records: a disk that lets more pile up has stopped
# An obsolete segment smaller than this is kept on: a new one costs two syncs.
_OBSOLETE_SHARE = 2

_MAGIC = b"medchain-wal"
_HEADER = Struct(">12sIQI4sI")
_RECORD = Struct(">4sIBQIII")
_CHECKSUM_BYTES = 4
_NAME = re.compile(r"\d{16}\.wal")
_REMEDY = (
    "Do not delete or edit it: a node that forgets its votes may contradict itself. Restore this file from an exact "
    "copy, or run `medchain repair`, after which this node's key signs nothing any more"
)


@dataclass(frozen=True, slots=True)
class Record:
    """One record: the caller's kind (0-255) and tag (0 to 2**64 - 1), and its bytes."""

    kind: int
    tag: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a log reaches for certain: its first segment, its last one, and how large that one is."""

    first: int
    last: int
    size_bytes: int


@dataclass(slots=True)
class _Segment:
    path: Path
    number: int
    marker: bytes
    checksum: int  # of the last record, or of the header
    size_bytes: int = _HEADER.size
    tag_max: int = -1


class WriteAheadLog:
    """One log in one folder. `replay` once after opening, then append and flush.

    `append`, `truncate_before` and `size_bytes` never wait for the disk's sync, so that one thread may use them while
    another is in `flush`. With `create=False` an absent log, or one without a header, is Corruption: where a log once
    was, an empty one would let the node vote twice. Raises Corruption, VersionMismatch, DiskFull, StorageError.
    """

    def __init__(self, folder: Path | str, *, create: bool = True, segment_bytes_max: int = SEGMENT_BYTES_MAX) -> None:
        self.folder = Path(folder)
        self.repaired_bytes = 0
        self._segment_bytes_max = segment_bytes_max
        self._writing = threading.Lock()  # held by the one flush that writes
        self._lock = threading.Lock()  # guards what follows, never held during a sync
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._appended = 0
        self._durable = 0
        self._obsolete_below = 0
        self._segments: list[_Segment] = []
        self._records: list[Record] | None = []
        self._broken: StorageError | None = None
        self._descriptor: int | None = None
        try:
            self._load(create)
        except OSError as error:
            raise from_os_error(error, self.folder) from error

    # Opening

    def _load(self, create: bool) -> None:
        if create:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths = sorted(self.folder.glob("*.wal"))
        for path in paths:
            if not _NAME.fullmatch(path.name):
                raise Corruption(path, "not a segment of the log", "Move it away")
        if not paths and not create:
            raise Corruption(self.folder, "the write-ahead log is gone", _REMEDY)
        for before, path in itertools.pairwise(paths):
            if int(path.stem) != int(before.stem) + 1:
                raise Corruption(self.folder, f"segments between {before.name} and {path.name} are missing", _REMEDY)
        for path in paths:
            # Records are written only after the header is durable: with none there, making the segment was cut short,
            # the first one's before anybody relied on it.
            last = path is paths[-1]
            self._load_segment(path, last=last, may_be_begun=last and (create or len(paths) > 1))
        if self._segments:
            self._descriptor = os.open(self._segments[-1].path, os.O_RDWR | os.O_CLOEXEC)
            # What a killed process wrote may be in memory only, and is about to be acted upon.
            os.fsync(self._descriptor)
            _sync_folder(self.folder)
        else:
            segment, self._descriptor = self._make_segment(1, 0)
            self._segments.append(segment)

    def _load_segment(self, path: Path, *, last: bool, may_be_begun: bool) -> None:
        data = path.read_bytes()
        number = int(path.stem)
        segment = _read_header(path, data)
        if segment is None:
            if not may_be_begun or len(data) > _HEADER.size or (not self._segments and number != 1):
                raise Corruption(path, "the header is damaged", _REMEDY, offset=0)
            self.repaired_bytes += len(data)
            path.unlink()
            _sync_folder(self.folder)
            return
        previous = _HEADER.unpack_from(data)[3]
        if self._segments and previous != self._segments[-1].checksum:
            fault = f"does not continue {self._segments[-1].path.name}, one of them lost records"
            raise Corruption(path, fault, _REMEDY, offset=0)
        assert self._records is not None
        while (record := _read_record(data, segment)) is not None:
            self._records.append(record)
            _advance(segment, record, _stored_checksum(data, segment.size_bytes))
        torn_bytes = len(data) - segment.size_bytes
        if torn_bytes:
            if not last or _has_later_group(data, segment):
                raise Corruption(path, "a damaged record stands before good ones", _REMEDY, offset=segment.size_bytes)
            _cut(path, segment.size_bytes)
            self.repaired_bytes += torn_bytes
        self._segments.append(segment)

    def replay(self) -> Iterator[Record]:
        """All records found at opening, oldest first. Once: they are not kept."""
        records, self._records = self._records, None
        if records is None:
            raise StorageError("the log was replayed already")
        return iter(records)

    # Writing

    def append(self, kind: int, tag: int, payload: bytes) -> int:
        """Buffer a record; returns its sequence number. It is durable once `flush` returned at least that.

        ValueError over a limit, Backlog while too much waits for `flush`.
        """
        if len(payload) > RECORD_BYTES_MAX or not 0 <= kind < 1 << 8 or not 0 <= tag < 1 << 64:
            raise ValueError("record over the limit")
        with self._lock:
            if self._descriptor is None:
                raise Closed("the write-ahead log")
            if self._pending_bytes + len(payload) > PENDING_BYTES_MAX:
                raise Backlog(
                    f"{self.folder}: {self._pending_bytes} bytes wait to be written, is the disk full or stuck?"
                )
            self._pending.append(Record(kind, tag, payload))
            self._pending_bytes += len(payload)
            self._appended += 1
            return self._appended

    def flush(self, first: Callable[[], None] | None = None) -> int:
        """Write and sync all that was appended before the call; returns the last durable sequence number. `first` is
        called when it is settled what that is, and before any of it is written.

        Calls from several threads form one group: who waited for another's sync finds his records written. DiskFull
        leaves everything in place: calling again once there is room succeeds, and writes nothing twice. After any
        other error of the disk the log takes no more (the kernel may have dropped what it could not write, and a second
        sync would then succeed without it): stop the node, the records on disk are good.
        """
        with self._writing:
            if self._descriptor is None:
                raise Closed("the write-ahead log")
            if self._broken is not None:
                raise StorageError(str(self._broken)) from self._broken
            with self._lock:
                waiting, self._pending = self._pending, []
            done = 0
            try:
                if first is not None:
                    first()
                while done < len(waiting):
                    self._rotate_if_due(waiting[done])
                    done += self._write_group(waiting, done)
            except OSError as error:
                failure = from_os_error(error, self._segments[-1].path)
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    self._broken = failure
                raise failure from error
            finally:
                with self._lock:
                    self._pending[:0] = waiting[done:]
                    self._pending_bytes -= sum(len(record.payload) for record in waiting[:done])
                    self._durable += done
            return self._durable

    def _write_group(self, waiting: list[Record], first: int) -> int:
        """Write what fits the current segment, at least one record, and sync; returns how many."""
        assert self._descriptor is not None
        current = self._segments[-1]
        after = _Segment(
            current.path, current.number, current.marker, current.checksum, current.size_bytes, current.tag_max
        )
        parts: list[bytes] = []
        count = 0
        for record in waiting[first:]:
            if count and not self._fits(after, record):
                break
            head = _RECORD.pack(
                after.marker, len(record.payload), record.kind, record.tag, current.size_bytes, after.checksum, 0
            )[:-_CHECKSUM_BYTES]
            checksum = zlib.crc32(record.payload, zlib.crc32(head))
            parts += (head, checksum.to_bytes(_CHECKSUM_BYTES, "big"), record.payload)
            _advance(after, record, checksum)
            count += 1
        try:
            # At a place of its own, not appended: a second attempt overwrites what a failed one left.
            _write_at(self._descriptor, b"".join(parts), current.size_bytes)
            os.fdatasync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, current.size_bytes)
            raise
        with self._lock:
            self._segments[-1] = after
        return count

    def _fits(self, segment: _Segment, record: Record) -> bool:
        return segment.size_bytes + _RECORD.size + len(record.payload) <= self._segment_bytes_max

    def _rotate_if_due(self, record: Record) -> None:
        current = self._segments[-1]
        is_empty = current.size_bytes == _HEADER.size
        is_obsolete = (
            current.tag_max < self._obsolete_below and current.size_bytes > self._segment_bytes_max // _OBSOLETE_SHARE
        )
        if is_empty or (self._fits(current, record) and not is_obsolete):
            return
        assert self._descriptor is not None
        segment, descriptor = self._make_segment(current.number + 1, current.checksum)
        os.close(self._descriptor)
        self._descriptor = descriptor
        with self._lock:
            self._segments.append(segment)

    def _make_segment(self, number: int, previous: int) -> tuple[_Segment, int]:
        """A new file with its header, durable, its name too. Nothing is left behind when that fails."""
        path = self.folder / f"{number:016d}.wal"
        marker = os.urandom(4)
        head = _HEADER.pack(_MAGIC, VERSION, number, previous, marker, 0)[:-_CHECKSUM_BYTES]
        checksum = zlib.crc32(head)
        # O_TRUNC, not O_EXCL: what may stand there is the rest of an attempt that could not even be removed.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_at(descriptor, head + checksum.to_bytes(_CHECKSUM_BYTES, "big"), 0)
            os.fsync(descriptor)
            _sync_folder(self.folder)
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return _Segment(path, number, marker, checksum), descriptor

    def would_drop(self, tag: int) -> bool:
        """Whether `truncate_before(tag)` would remove a segment."""
        with self._lock:
            return self._obsolete(tag) > 0

    def _obsolete(self, tag: int) -> int:
        """How many segments `truncate_before(tag)` would remove."""
        count = 0
        while count < len(self._segments) - 1 and self._segments[count].tag_max < tag:
            count += 1
        return count

    def extent(self, tag: int = 0) -> Extent:
        """What is durable, and stays so after `truncate_before(tag)`."""
        with self._lock:
            first, last = self._segments[self._obsolete(tag)], self._segments[-1]
            return Extent(first.number, last.number, last.size_bytes)

    def check_reaches(self, known: Extent) -> None:
        """Corruption if the log lacks what it had when `extent` gave `known`: its end, or segments at its beginning."""
        found = self.extent()
        if found.first > known.first:
            raise Corruption(self.folder, f"segments from {known.first} to {found.first - 1} are missing", _REMEDY)
        if (found.last, found.size_bytes) < (known.last, known.size_bytes):
            path, was = self._segments[-1].path, f"segment {known.last} had {known.size_bytes} bytes"
            raise Corruption(path, f"the log ends here, and {was}", _REMEDY, offset=found.size_bytes)

    def truncate_before(self, tag: int) -> None:
        """Drop the oldest segments in which every record's tag is below `tag`.

        The current one stays; if it is as old and large, the next flush begins a new one, so that it can go next time.
        """
        with self._lock:
            self._obsolete_below = max(self._obsolete_below, tag)
            count = self._obsolete(tag)
            dropped = self._segments[:count]
            del self._segments[:count]
        try:
            for segment in dropped:
                segment.path.unlink()
                # Each by itself: were a later name gone and an earlier still there, a segment would seem missing.
                _sync_folder(self.folder)
        except OSError as error:
            raise from_os_error(error, self.folder) from error

    def size_bytes(self) -> int:
        """Bytes of all segments, without what waits for `flush`."""
        with self._lock:
            return sum(segment.size_bytes for segment in self._segments)

    def close(self) -> None:
        """Wait for a running flush, then close. What was not flushed is gone, as after a crash."""
        with self._writing, self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


def _advance(segment: _Segment, record: Record, checksum: int) -> None:
    segment.size_bytes += _RECORD.size + len(record.payload)
    segment.checksum = checksum
    segment.tag_max = max(segment.tag_max, record.tag)


def _read_header(path: Path, data: bytes) -> _Segment | None:
    """An empty segment, None if the header is damaged. VersionMismatch if it is another version's."""
    if len(data) >= 16 and data[:12] == _MAGIC:
        version = int.from_bytes(data[12:16], "big")
        # One flipped bit in the version is damage, not another version: those in use are small.
        if version != VERSION and 0 < version <= VERSION + 1:
            raise VersionMismatch(path, found=version, supported=VERSION)
    if len(data) < _HEADER.size:
        return None
    magic, version, number, _, marker, checksum = _HEADER.unpack_from(data)
    if (magic, version, number) != (_MAGIC, VERSION, int(path.stem)):
        return None
    if zlib.crc32(data[: _HEADER.size - _CHECKSUM_BYTES]) != checksum:
        return None
    return _Segment(path, number, marker, checksum)


def _sound_record(data: bytes, position: int) -> tuple[Record, int, int] | None:
    """The record at `position`, its `group` and its `previous`, if its own checksum holds."""
    if position + _RECORD.size > len(data):
        return None
    _, length, kind, tag, group, previous, checksum = _RECORD.unpack_from(data, position)
    start = position + _RECORD.size
    if length > RECORD_BYTES_MAX or start + length > len(data):
        return None
    payload = data[start : start + length]
    if zlib.crc32(payload, zlib.crc32(data[position : start - _CHECKSUM_BYTES])) != checksum:
        return None
    return Record(kind, tag, payload), group, previous


def _read_record(data: bytes, segment: _Segment) -> Record | None:
    """The record that continues the chain, None where there is no such."""
    position = segment.size_bytes
    if data[position : position + len(segment.marker)] != segment.marker:
        return None
    found = _sound_record(data, position)
    return found[0] if found is not None and found[2] == segment.checksum else None


def _has_later_group(data: bytes, segment: _Segment) -> bool:
    """Whether a record stands behind the place where the chain ends that was written when what is there was durable."""
    position = data.find(segment.marker, segment.size_bytes)
    while position != -1:
        found = _sound_record(data, position)
        if found is not None and found[1] > segment.size_bytes:
            return True
        position = data.find(segment.marker, position + 1)
    return False


def _stored_checksum(data: bytes, position: int) -> int:
    checksum: int = _RECORD.unpack_from(data, position)[6]
    return checksum


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


def _cut(path: Path, size_bytes: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, size_bytes)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
