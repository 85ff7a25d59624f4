"""The operator's token: a file of mode 0600 in the node's folder, made at the first start.

Must not know: what a token allows.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from ledger.errors import FileError
from storage.files import write_new

FILE_NAME = "operator.token"

_TOKEN = re.compile(r"[0-9a-f]{64}")


def load(home: Path) -> str:
    """The token of a node's folder. FileError when missing, damaged, or readable by others."""
    path = home / FILE_NAME
    try:
        with open(path, encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(128).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: {error.strerror if isinstance(error, OSError) else 'damaged'}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise FileError(f"{path}: others may read or write it; chmod 600")
    if not _TOKEN.fullmatch(text):
        raise FileError(f"{path}: damaged; remove it and start the node again")
    return text


def load_or_create(home: Path) -> str:
    """The token, made on first use."""
    path = home / FILE_NAME
    try:
        if not path.exists():
            write_new(path, f"{secrets.token_hex(32)}\n".encode())
    except FileExistsError:
        pass
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None
    return load(home)
