"""Where a result was made: the machine, the program, the versions of what the figures hang on.

Must not know: measurements.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

LIBRARIES = ("aiohttp", "msgpack", "plyvel", "pynacl")  # what most of the time of a transaction is spent in
APART = (":!docs", ":!*.md", ":!tests", ":!bench/results")  # nothing that is measured hangs on these
UNKNOWN = "unknown"
_ROOT = Path(__file__).resolve().parents[1]


def processor() -> str:
    """Its name, or its kind where the system does not say."""
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return model
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)


def cores() -> int:
    return os.cpu_count() or 1


def commit() -> str:
    """Of this repository, with a mark if files differ from it."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=_ROOT, capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN


def program() -> str:
    """A fingerprint of what is measured, as it lies in the folder: names and contents of the files that git tracks."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--", ".", *APART], cwd=_ROOT, capture_output=True, check=True, timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    found = sha256()
    for name in sorted(set(listed.split(b"\0")) - {b""}):
        path = _ROOT / os.fsdecode(name)
        for part in (name, path.read_bytes() if path.is_file() else b""):
            found.update(sha256(part).digest())
    return found.hexdigest()


def versions() -> dict[str, str]:
    """Of Python, the kernel and the libraries."""
    found = {"python": platform.python_version(), "kernel": platform.release()}
    return found | {name: importlib.metadata.version(name) for name in LIBRARIES}


def place() -> dict[str, Any]:
    """All of it, as JSON values."""
    return {"commit": commit(), "program": program(), "machine": processor(), "cores": cores(), "versions": versions()}
