"""Errors of the storage room; each says what is broken and what to do.

StorageError
 ├─ NotInitialised   no chain in this folder: make one with `medchain init`
 ├─ AlreadyExists    the folder holds something: choose another, nothing was touched
 ├─ Locked           another process has the data folder open; its pid is in the text
 ├─ FormatMismatch   written by another version of this software
 ├─ Corruption       bytes that are not what was written: never papered over
 ├─ StateDiverged    executing the stored blocks gives another state than the stored one
 └─ DiskFull         no space left; nothing acknowledged is lost, writing works again once there is room
"""

from __future__ import annotations


class StorageError(Exception):
    """Base of all of these."""


class NotInitialised(StorageError):
    """No chain in this folder."""


class AlreadyExists(StorageError):
    """The folder is not empty."""


class Locked(StorageError):
    """The data folder is open elsewhere."""


class FormatMismatch(StorageError):
    """Another storage format."""


class Corruption(StorageError):
    """What was read is not what was written."""


class StateDiverged(StorageError):
    """The stored state is not what the stored blocks lead to."""


class DiskFull(StorageError):
    """No space left on the device."""
