"""One node's data folder: its layout, its version, and the lock that keeps a second process out.

    <home>/data/FORMAT    version of the layout
    <home>/data/LOCK      held with flock while open; the pid inside is for the error text
    <home>/data/db/       LevelDB (storage/leveldb.py)
    <home>/data/wal/      write-ahead log (storage/wal.py)
    <home>/data/vault/    sealed records of a custodian (node/vault.py)

Must not know: what is in the folders, except that a node's log exists from the beginning.

Our own lock is needed: a failed second open in one process makes LevelDB drop its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from storage.errors import AlreadyInitialised, Corruption, Locked, NotInitialised, VersionMismatch, from_os_error
from storage.files import replace, sync_folder
from storage.wal import WriteAheadLog

FORMAT = "1"

_FORMAT_BYTES_MAX = 16  # read no more of a file that should hold one small number


def mend_format(path: Path) -> bool:
    """Write FORMAT anew where a folder holds data beside a missing or damaged one; whether it was. A number is never
    replaced: it may be that of later software."""
    try:
        found = (path / "FORMAT").read_bytes()
    except OSError:
        found = b""
    if found.strip().isdigit() or not (path / "db").is_dir():
        return False
    replace(path / "FORMAT", f"{FORMAT}\n".encode())
    return True


def complete(path: Path) -> None:
    """Make a node's data of a folder that holds a store: with a vault and a log, empty unless they are there."""
    (path / "vault").mkdir(mode=0o700, exist_ok=True)
    WriteAheadLog(path / "wal").close()  # also where its making was cut short
    # Last, and whole at once: a folder without it was only begun.
    replace(path / "FORMAT", f"{FORMAT}\n".encode())
    sync_folder(path.parent)


class DataDir:
    """An open, locked data folder. Use as a context manager, or call `close`."""

    def __init__(self, path: Path | str) -> None:
        """Open. Raises NotInitialised, Locked (with the holder's pid), VersionMismatch, Corruption."""
        self.path = Path(path).absolute()
        self._descriptor: int | None = None
        if not (self.path / "FORMAT").exists():
            if (self.path / "db").is_dir():
                raise NotInitialised(self.path, "its FORMAT is missing; `medchain repair` checks the rest and mends it")
            raise NotInitialised(
                self.path,
                "no node's data here. A new node begins with `medchain init`; one that lost its data gets them from "
                "`medchain join` or `medchain restore`",
            )
        self._lock()
        try:
            self._check_format()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path | str, fill: Callable[[Path], None] = lambda path: None) -> DataDir:
        """Make a new one, with an empty log unless `fill` makes another; refuses a folder that holds anything
        (AlreadyInitialised). It is a node's only once `fill` has returned."""
        path = Path(path).absolute()
        try:
            if path.exists() and any(path.iterdir()):
                raise AlreadyInitialised(path)
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
            (path / "vault").mkdir(mode=0o700)  # of two that create at once, one fails here
            fill(path)
            complete(path)
        except FileExistsError:
            raise AlreadyInitialised(path) from None
        except OSError as error:
            raise from_os_error(error, path) from error
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

    def _check_format(self) -> None:
        with open(self.path / "FORMAT", "rb") as file:
            text = file.read(_FORMAT_BYTES_MAX + 1).strip()
        if len(text) > _FORMAT_BYTES_MAX or not text.isdigit():
            raise Corruption(self.path / "FORMAT", "it does not hold a version number")
        if int(text) != int(FORMAT):
            raise VersionMismatch(self.path, found=int(text), supported=int(FORMAT))

    def _lock(self) -> None:
        try:
            descriptor = os.open(self.path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise from_os_error(error, self.path / "LOCK") from error
        try:
            # On Linux and BSD this also refuses a second descriptor of the same process.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(descriptor, 16, 0).strip()
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise from_os_error(error, self.path / "LOCK") from error
            raise Locked(self.path, int(owner) if owner.isdigit() else None) from None
        self._descriptor = descriptor
        # The lock holds without it: a full disk must not keep a node from starting, and pruning.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let go of the lock. A second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> DataDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
