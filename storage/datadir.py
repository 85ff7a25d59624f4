"""One node's data folder: its layout, its version, and the lock that keeps a second process out.

    <home>/data/FORMAT    version of the layout
    <home>/data/LOCK      held with flock while open; the pid inside is for the error text
    <home>/data/db/       LevelDB (storage/leveldb.py)
    <home>/data/wal/      write-ahead log (storage/wal.py)
    <home>/data/vault/    sealed records of a custodian (node/vault.py)

Our own lock is needed: a failed second open in one process makes LevelDB drop its own.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from storage.errors import AlreadyInitialised, Locked, NotInitialised, VersionMismatch

FORMAT = "1"

_held: set[Path] = set()  # flock does not stop the same process on every system


class DataDir:
    """An open, locked data folder. Use as a context manager, or call `close`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        if not (self.path / "FORMAT").exists():
            raise NotInitialised(self.path, "no node's data here: run `medchain init`")
        version = (self.path / "FORMAT").read_text().strip()
        if version != FORMAT:
            raise VersionMismatch(self.path, found=int(version) if version.isdecimal() else 0, supported=int(FORMAT))
        self._lock()

    @classmethod
    def create(cls, path: Path | str) -> DataDir:
        """Make a new one; refuses a folder that holds anything."""
        path = Path(path).absolute()
        if path.exists() and any(path.iterdir()):
            raise AlreadyInitialised(path)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(path, 0o700)
        for name in ("wal", "vault"):
            (path / name).mkdir(mode=0o700)
        (path / "FORMAT").write_text(FORMAT + "\n")
        return cls(path)

    @property
    def db(self) -> Path:
        return self.path / "db"

    @property
    def wal(self) -> Path:
        return self.path / "wal"

    @property
    def vault(self) -> Path:
        return self.path / "vault"

    def _lock(self) -> None:
        path = self.path / "LOCK"
        if self.path in _held:
            raise Locked(self.path, os.getpid())
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._descriptor, 16, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise Locked(self.path, int(owner) if owner.isdecimal() else None) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        _held.add(self.path)

    def close(self) -> None:
        if self.path in _held:
            _held.discard(self.path)
            os.close(self._descriptor)

    def __enter__(self) -> DataDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
