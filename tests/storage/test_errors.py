"""Each error says what is wrong, where, and what to do."""

from __future__ import annotations

import errno

import pytest

import storage
from storage import errors


def test_the_drawn_tree_is_the_tree() -> None:
    assert errors.__doc__ is not None
    found = {name: item for name, item in vars(errors).items() if isinstance(item, type)}
    classes = {name for name, item in found.items() if issubclass(item, errors.StorageError)}
    assert {name for name, item in found.items() if issubclass(item, Exception)} - classes == {"Unreadable"}
    assert issubclass(errors.StorageError, errors.Unreadable), (
        "else a bad disk would make a node refuse what others execute"
    )
    drawn = {word for line in errors.__doc__.splitlines() if "─" in line for word in [line.split("─")[1].split()[0]]}
    assert drawn | {"StorageError"} == classes


def test_corruption_names_file_place_and_remedy() -> None:
    error = errors.Corruption("wal/1.wal", "a bad checksum", "Do this", offset=17)
    assert str(error) == "wal/1.wal at byte 17: a bad checksum. Do this"


@pytest.mark.parametrize(("found", "advice"), [(3, "newer medchain"), (1, "medchain init")])
def test_a_version_mismatch_says_which_way_out(found: int, advice: str) -> None:
    assert advice in str(errors.VersionMismatch("data", found=found, supported=2))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_told_from_a_failing_disk(code: int) -> None:
    assert isinstance(errors.from_os_error(OSError(code, "x"), "f"), errors.DiskFull)
    assert type(errors.from_os_error(OSError(errno.EIO, "x"), "f")) is errors.StorageError


def test_what_the_package_exports_is_there() -> None:
    assert storage.__all__ == sorted(storage.__all__)
    assert all(hasattr(storage, name) for name in storage.__all__)
