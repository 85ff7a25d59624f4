"""LevelDB through plyvel: the only file that knows it.

Options follow measurements (docs/storage.md): no compression, a large write buffer, checksums verified on every read,
paranoid checks on open. A database is created only when told to, since plyvel would otherwise replace one whose CURRENT
file is lost by an empty one. `repair_db` is never called: it returns wrong data.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import plyvel

from storage.errors import AlreadyExists, Corruption, DiskFull, NotInitialised, StorageError
from storage.kv import prefix_end

WRITE_BUFFER_BYTES = 32 * 1024 * 1024  # fewer, larger tables: measured 7 instead of 13 us for an overwrite
CACHE_BYTES = 64 * 1024 * 1024
BLOOM_BITS = 10  # about one absent key in a hundred costs a disk read
SCAN_CHUNK = 256  # entries read between two looks at whether the database was closed


class LevelDB:
    """One database. Reads and writes may come from any thread; `close` waits for scans to notice it."""

    def __init__(self, path: Path | str, *, create: bool = False) -> None:
        self.path = Path(path)
        if create:
            if self.path.exists() and any(self.path.iterdir()):
                raise AlreadyExists(f"{self.path} is not empty")
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not (self.path / "CURRENT").exists():
            if self.path.exists() and any(self.path.glob("*.ldb")):
                raise Corruption(f"{self.path}: CURRENT is missing but tables are there; restore it or sync anew")
            raise NotInitialised(f"{self.path}: no database; make one with `medchain init`")
        os.chmod(self.path, 0o700)
        self._scans = threading.Lock()  # close() while a scan runs would be a segmentation fault
        self._open_database(create)

    def _open_database(self, create: bool) -> None:
        with _translated(self.path):
            self._db: Any = plyvel.DB(
                str(self.path),
                create_if_missing=create,
                error_if_exists=create,
                paranoid_checks=True,
                compression=None,
                write_buffer_size=WRITE_BUFFER_BYTES,
                lru_cache_size=CACHE_BYTES,
                bloom_filter_bits=BLOOM_BITS,
            )
        self._get = self._db.get

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._get(key, verify_checksums=True)
        except (plyvel.Error, RuntimeError) as error:
            raise _translate(error, self.path) from error
        return value

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = (), *, sync: bool = False) -> None:
        with _translated(self.path):
            batch = self._db.write_batch(sync=sync)
            for key in deletes:
                batch.delete(key)
            put = batch.put
            for key, value in puts:
                put(key, value)
            batch.write()

    def scan(
        self, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        with _translated(self.path), self._scans:
            iterator = self._db.iterator(start=start, stop=stop, reverse=reverse, verify_checksums=True)
        left = -1 if limit is None else limit
        while left:
            chunk: list[tuple[bytes, bytes]] = []
            with _translated(self.path), self._scans:
                if self._db.closed:
                    raise StorageError("the database was closed during a scan")
                for entry in iterator:
                    chunk.append(entry)
                    left -= 1
                    if not left or len(chunk) == SCAN_CHUNK:
                        break
            yield from chunk
            if len(chunk) < SCAN_CHUNK:
                return

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return self.scan(prefix, prefix_end(prefix), reverse=reverse, limit=limit)

    def approximate_size_bytes(self) -> int:
        return sum(item.stat().st_size for item in self.path.iterdir() if item.is_file())

    def compact(self) -> None:
        with _translated(self.path):
            self._db.compact_range()

    def reopen(self) -> None:
        """After the disk was full the handle keeps failing though space returned; a fresh one works."""
        self.close()
        self._open_database(create=False)

    def close(self) -> None:
        with self._scans:
            self._db.close()


def _translate(error: BaseException, path: Path) -> StorageError:
    text = str(error)
    if "No space left" in text:
        return DiskFull(f"{path}: no space left on the device; free some, nothing acknowledged is lost")
    if isinstance(error, plyvel.CorruptionError) or "Corruption" in text or "checksum" in text:
        return Corruption(f"{path}: {text}; stop the node and run `medchain verify`")
    return StorageError(f"{path}: {text}")


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (plyvel.Error, RuntimeError, OSError) as error:
        raise _translate(error, path) from error
