"""What can go wrong on disk. Nothing here knows blocks, consensus or plyvel.

    StorageError
    ├─ Corruption          bytes on disk are not what was written: stop, a person must decide
    ├─ Locked              another process (or this one) holds the data folder
    ├─ NotInitialised      there is nothing here yet: run `init`
    ├─ AlreadyInitialised  there is something here already: `init` refuses to overwrite it
    ├─ DiskFull            no space; nothing acknowledged is lost, try again once there is room
    ├─ VersionMismatch     written by another version of the format
    ├─ BadArchive          not a whole backup: nothing was made of it
    ├─ StateDiverged       our result differs from what the validators certified: stop, sign nothing
    ├─ Backlog             more waits to be made durable than is allowed: slow down
    └─ Closed              used after close(): a mistake of the caller

Operator's matter: all down to StateDiverged. Caller's: Closed, Backlog. A bare StorageError is a failing device.
Messages name files and offsets, never contents.
"""

from __future__ import annotations

import errno
from pathlib import Path

from ledger.errors import Unreadable

REMEDY = "Stop the node and run `medchain repair`: what is damaged is moved aside and fetched again from peers"


class StorageError(Unreadable):
    """Root of the tree. Raised itself only for input/output errors with no better name (a failing disk)."""


class Corruption(StorageError):
    """Bytes on disk are not what was written. Stop the node and do what the message says."""

    def __init__(
        self, file: str | Path, what: str = "damaged", remedy: str = REMEDY, *, offset: int | None = None
    ) -> None:
        self.file = file
        self.what = what
        self.remedy = remedy
        self.offset = offset
        place = f"{self.file}" if offset is None else f"{self.file} at byte {offset}"
        super().__init__(f"{place}: {what}. {remedy}")


class StateDiverged(StorageError):
    """Executing the stored blocks gives another result than a quorum certified."""


class Locked(StorageError):
    """Another process, or another handle of this one, holds the folder. `pid` is None if it could not be read."""

    def __init__(self, path: str | Path, pid: int | None) -> None:
        self.path = Path(path)
        self.pid = pid
        holder = "another process" if pid is None else f"process {pid}"
        super().__init__(f"{self.path} is in use by {holder}: stop it first, or give this node its own folder")


class NotInitialised(StorageError):
    """The folder, database or log does not exist, or its creation was cut short. Run `medchain init`."""

    def __init__(self, path: str | Path, what: str) -> None:
        self.path = Path(path)
        super().__init__(f"{self.path}: {what}")


class AlreadyInitialised(StorageError):
    """Something exists where something new was to be made. Nothing was changed."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        super().__init__(f"{self.path} is not empty: choose another folder, or remove this one if it is not needed")


class DiskFull(StorageError):
    """No space (or quota) left. What was acknowledged is safe; free some space, then retry (LevelDB: `reopen()`)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        super().__init__(f"no space left for {self.path}: free disk space; nothing acknowledged was lost")


class VersionMismatch(StorageError):
    """The files were written in a format this version does not read."""

    def __init__(self, path: str | Path, *, found: int, supported: int) -> None:
        self.path = Path(path)
        self.found = found
        self.supported = supported
        remedy = (
            "run a newer medchain"
            if found > supported
            else "start a new folder with `medchain init` and let it catch up from its peers"
        )
        super().__init__(f"{self.path} has format {found}, this medchain reads format {supported}: {remedy}")


class BadArchive(StorageError):
    """A file is not a whole backup of a chain, or a chain cannot be backed up yet. Nothing was made of it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"not a whole backup: {what}")


class Backlog(StorageError):
    """More bytes wait for `flush()` than allowed. The record was not taken; flush, then append again."""


class Closed(StorageError):
    """The object was used after `close()` (or an iterator or snapshot outlived its database)."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is closed")


def from_os_error(error: OSError, path: str | Path) -> StorageError:
    """Our error for one of the system's, about `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(path)
    return StorageError(f"{path}: {error.strerror or error}")
