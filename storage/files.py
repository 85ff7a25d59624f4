"""Files that are there whole or not at all, whatever happens meanwhile; secret to others (0600).

Must not know: what is in them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

DRAFT_SUFFIX = ".new"


def write_new(path: Path, data: bytes) -> None:
    """Make a file, durable on return with its name. FileExistsError, with nothing changed, where there is one."""
    draft = _draft(path, data)
    try:
        os.link(draft, path)  # unlike a rename it never replaces
    finally:
        draft.unlink()
    sync_folder(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Make a file or put it in the place of another, durable on return."""
    draft = _draft(path, data)
    try:
        draft.replace(path)
    except OSError:
        draft.unlink()
        raise
    sync_folder(path.parent)


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """A large file, written as a stream: it takes the place of another once all went well, durable then. If not, what
    was there stays."""
    draft, descriptor = _open_draft(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _draft(path: Path, data: bytes) -> Path:
    """The content under another name, synced. Who is killed here leaves a file that ends in DRAFT_SUFFIX."""
    draft, descriptor = _open_draft(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        draft.unlink()
        raise
    return draft


def _open_draft(path: Path) -> tuple[Path, int]:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}{DRAFT_SUFFIX}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:  # nobody asked for a file of that name
        raise FileNotFoundError(error.errno, error.strerror, str(path.parent)) from None
    os.fchmod(descriptor, 0o600)
    return draft, descriptor
