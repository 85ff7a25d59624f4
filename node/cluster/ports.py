"""Which process holds a port, so that an error can name it.

Must not know: clusters.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def is_free(port: int) -> bool:
    """Whether a listener could be opened on loopback now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def taken(ports: Iterable[int]) -> list[int]:
    return [port for port in ports if not is_free(port)]


def holder(port: int) -> str:
    """`python (process 123)` where the system lets us see it, else `another process`. Linux only, read from /proc."""
    inodes = _listening_inodes(port)
    for entry in Path("/proc").glob("[0-9]*") if inodes else ():
        targets = _open_files(entry)
        if any(f"socket:[{inode}]" in targets for inode in inodes):
            name = (entry / "comm").read_text("utf-8", "replace").strip()
            return f"{name} (process {entry.name})"
    return "another process"


def _open_files(process: Path) -> list[str]:
    found = []
    try:
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile, as the one that lists them
                found.append(os.readlink(descriptor))
    except OSError:
        pass  # gone, or another user's
    return found


def _listening_inodes(port: int) -> list[str]:
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:  # 0A: LISTEN
                found.append(columns[9])
    return found
