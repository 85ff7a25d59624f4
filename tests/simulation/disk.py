"""A node's disk in memory, under the real write-ahead log: what was synced stays, of the rest a power cut leaves a
prefix, and of the write after it any part.

`storage/wal.py` is loaded a second time with `os` and `Path` replaced by the file layer here, so the code that runs is
the product's and its own tests see nothing of this. The file layer remembers every operation since the last sync, in
order.

Must not know: replicas, what a record means, time.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from storage import wal as _product_wal
from storage.chain import ChainStore
from storage.memory import MemoryKeyValue
from storage.shortening import replay, shorten

SEGMENT_BYTES_MAX = 64 * 1024 * 1024


class FileSystem:
    """One folder of files: the page cache, what is on the platter, and the operations between the two."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self._platter: dict[str, bytearray] = {}
        self._pending: list[tuple[str, str, int, bytes]] = []  # (operation, name, offset or size, data)

    @property
    def mark(self) -> int:
        """How many operations there are: what a sync that begins now will have written when it is done."""
        return len(self._pending)

    def do(self, operation: str, name: str, offset: int = 0, data: bytes = b"") -> None:
        _apply(self.files, operation, name, offset, data)
        self._pending.append((operation, name, offset, data))

    def settle(self, mark: int | None = None) -> None:
        """The disk carried out the syncs among the first `mark` operations: what they cover is on the platter."""
        mark = len(self._pending) if mark is None else mark
        synced: dict[str, int] = {}
        for position, (operation, name, _, _) in enumerate(self._pending[:mark]):
            if operation == "sync":
                synced[name] = position
        left: list[tuple[str, str, int, bytes]] = []
        nameless: dict[str, None] = {}  # files whose name is not on the platter yet
        for position, entry in enumerate(self._pending):
            operation, name, offset, data = entry
            if operation == "sync":
                if position >= mark:
                    left.append(entry)
                continue
            covering = "" if operation in ("create", "unlink") else name
            if position < synced.get(covering, -1) and name not in nameless:
                _apply(self._platter, operation, name, offset, data)
            else:
                left.append(entry)
                if operation == "create":
                    nameless[name] = None
        self._pending = left

    def cut_power(self, random: Random, *, torn: bool) -> None:
        """Of the operations not synced a prefix survives; the write after it may have got half way."""
        keep = random.randint(0, len(self._pending))
        for operation, name, offset, data in self._pending[:keep]:
            _apply(self._platter, operation, name, offset, data)
        if torn and keep < len(self._pending):
            operation, name, offset, data = self._pending[keep]
            if operation == "write" and name in self._platter:
                _apply(self._platter, operation, name, offset, _torn(data, random))
        self.files = {name: bytearray(content) for name, content in self._platter.items()}
        self._pending = []


def _torn(data: bytes, random: Random) -> bytes:
    """What a disk may have of a write: its beginning or, since pages reach it in any order, its length with any part
    missing."""
    first = random.randint(0, len(data))
    if random.randrange(3):
        return data[:first]
    last = random.randint(first, len(data))
    return data[:first] + bytes(last - first) + data[last:]


def _apply(files: dict[str, bytearray], operation: str, name: str, offset: int, data: bytes) -> None:
    if operation == "create":
        files[name] = bytearray()
    elif operation == "unlink":
        files.pop(name, None)
    elif operation == "truncate" and name in files:
        del files[name][offset:]
    elif operation == "write" and name in files:
        content = files[name]
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data


class _Path:
    """As much of pathlib.Path as the log uses."""

    def __init__(self, place: _Path | FileSystem, name: str = "") -> None:
        self.fs: FileSystem = place.fs if isinstance(place, _Path) else place
        self.name: str = place.name if isinstance(place, _Path) else name

    @property
    def stem(self) -> str:
        return self.name.removesuffix(".wal")

    def __truediv__(self, name: str) -> _Path:
        return _Path(self.fs, name)

    def __lt__(self, other: _Path) -> bool:
        return self.name < other.name

    def __str__(self) -> str:
        return f"simulated/{self.name}"

    def mkdir(self, **_: object) -> None:
        """The folder is there."""

    def glob(self, _pattern: str) -> Iterator[_Path]:
        return (_Path(self.fs, name) for name in list(self.fs.files))

    def read_bytes(self) -> bytes:
        return bytes(self.fs.files[self.name])

    def unlink(self) -> None:
        self.fs.do("unlink", self.name)


class _Os:
    """As much of the module `os` as the log uses; a descriptor is a number for a path."""

    O_RDWR, O_RDONLY, O_CREAT, O_TRUNC, O_CLOEXEC = os.O_RDWR, os.O_RDONLY, os.O_CREAT, os.O_TRUNC, os.O_CLOEXEC

    def __init__(self) -> None:
        self._paths: dict[int, _Path] = {}
        self._count = 0

    def open(self, path: _Path, flags: int, _mode: int = 0) -> int:
        if flags & os.O_CREAT:
            path.fs.do("create", path.name)
        self._count += 1
        self._paths[self._count] = path
        return self._count

    def close(self, descriptor: int) -> None:
        del self._paths[descriptor]

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        path = self._paths[descriptor]
        path.fs.do("write", path.name, offset, bytes(data))
        return len(data)

    def ftruncate(self, descriptor: int, size: int) -> None:
        path = self._paths[descriptor]
        path.fs.do("truncate", path.name, size)

    def fsync(self, descriptor: int) -> None:
        path = self._paths[descriptor]
        path.fs.do("sync", path.name)

    fdatasync = fsync

    def urandom(self, count: int) -> bytes:
        """Markers of segments: nothing but the log compares them."""
        return sha256(b"marker %d" % self._count).digest()[:count]


def _load_wal() -> Any:
    spec = importlib.util.spec_from_file_location("tests.simulation._wal", _product_wal.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    module.os, module.Path = _Os(), _Path  # type: ignore[attr-defined]
    return module


_wal = _load_wal()


class Disk:
    """The write-ahead log and the store of one node, and what a crash leaves of them."""

    def __init__(self, kv: MemoryKeyValue, segment_bytes_max: int = SEGMENT_BYTES_MAX) -> None:
        self.kv = kv
        self.fs = FileSystem()
        self._segment_bytes_max = segment_bytes_max
        self._opened = False
        self.wal: Any = None

    def open(self) -> list[tuple[int, int, bytes]]:
        """Open the log as a starting node does; its records as (kind, tag, payload)."""
        self.wal = _wal.WriteAheadLog(
            _Path(self.fs), create=not self._opened, segment_bytes_max=self._segment_bytes_max
        )
        self._opened = True
        self.fs.settle()
        height = ChainStore(self.kv).tip.height
        return [(record.kind, record.tag, record.payload) for record in replay(self.wal, self.kv, Path("db"), height)]

    def copy(self) -> Disk:
        """An image of the disk while nothing runs on it."""
        twin = Disk(self.kv.crash(self.kv.unsynced_count), self._segment_bytes_max)
        twin.fs.files = {name: bytearray(content) for name, content in self.fs.files.items()}
        twin.fs._platter = {name: bytearray(content) for name, content in self.fs.files.items()}
        twin._opened = self._opened
        return twin

    def shorten(self, height: int) -> int:
        """What node/driver.py does once a checkpoint is stable; how many records that added."""
        before: int = self.wal._appended
        shorten(self.kv, self.wal, height)
        self.fs.settle()
        return int(self.wal._appended) - before

    def crash(self, random: Random, *, power: bool, torn: bool) -> None:
        """A killed process leaves what it wrote in the page cache; a power cut only what was synced for certain."""
        self.wal.close()
        if power:
            self.fs.cut_power(random, torn=torn)
            self.kv = self.kv.crash(random.randint(0, self.kv.unsynced_count))
        else:
            self.kv = self.kv.crash(self.kv.unsynced_count)
