"""Where a result was made: the machine, the commit, the versions of what the figures hang on.

Must not know: measurements.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

LIBRARIES = ("aiohttp", "msgpack", "plyvel", "pynacl")  # what most of the time of a transaction is spent in
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
        return "unknown"


def is_same_program(commit_then: str) -> bool:
    """Whether what is measured is what it was at a commit: documents, tests and results may differ."""
    if commit_then == commit():
        return True
    apart = (":!docs", ":!*.md", ":!tests", ":!bench/results")
    try:
        found = subprocess.run(
            ["git", "diff", "--quiet", commit_then, "--", ".", *apart],
            cwd=_ROOT, capture_output=True, check=False, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return False
    return found.returncode == 0


def versions() -> dict[str, str]:
    """Of Python, the kernel and the libraries."""
    found = {"python": platform.python_version(), "kernel": platform.release()}
    return found | {name: importlib.metadata.version(name) for name in LIBRARIES}


def place() -> dict[str, Any]:
    """All of it, as JSON values."""
    return {"commit": commit(), "machine": processor(), "cores": cores(), "versions": versions()}
