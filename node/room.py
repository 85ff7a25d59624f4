"""Whether there is room on the disk again.

Must not know: what fills it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

# Opening a database writes its log out as a table first, which takes up to 32 MiB; the rest is to get somewhere.
FREE_SIZE_BYTES_MIN: Final = 64 * 1024 * 1024
TRIAL_SIZE_BYTES: Final = 1024 * 1024
LOOK_EVERY_S = 1.0


async def wait_for_room(folder: Path) -> None:
    """Until there is."""
    while True:
        if await asyncio.to_thread(has_room, folder):
            return
        await asyncio.sleep(LOOK_EVERY_S)


def has_room(folder: Path) -> bool:
    """Whether FREE_SIZE_BYTES_MIN are free on the folder's device, and a file can be written there: a quota does not
    show in what is free."""
    trial = folder / "room.trial"
    try:
        found = os.statvfs(folder)
        if found.f_bavail * found.f_frsize < FREE_SIZE_BYTES_MIN:
            return False
        with open(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(bytes(TRIAL_SIZE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        return True
    except OSError:
        return False
    finally:
        trial.unlink(missing_ok=True)
