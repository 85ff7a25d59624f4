"""Key files: made, read, and never overwritten. A file holds one secret seed, so its mode is 0600 and is checked.

    medchain secret key 1
    public 01...
    secret ...

A development key is named instead of read: `dev:hospital`. Anyone can make those; chains that are not for development
refuse them.

Must not know: what a key is used for. Keys are never logged; messages name the file only.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from ledger.crypto import SEED_SIZE_BYTES, KeyPair
from ledger.errors import ConfigError, FileError
from ledger.genesis import DEVELOPMENT_NAMES, development_key
from storage.files import write_new

HEADER = "medchain secret key 1"
FILE_SIZE_BYTES_MAX = 1024  # three short lines
DEVELOPMENT_PREFIX = "dev:"


def generate() -> KeyPair:
    """A new pair from the operating system's randomness."""
    return KeyPair.from_seed(secrets.token_bytes(SEED_SIZE_BYTES))


def save(path: Path, key: KeyPair) -> None:
    """Write a new file (0600), durable on return. FileError if it exists: a key lost is an identity lost."""
    text = f"{HEADER}\npublic {key.public.hex()}\nsecret {key.seed.hex()}\n"
    try:
        write_new(path, text.encode("ascii"))
    except FileExistsError:
        raise FileError(f"{path}: exists; a key file is never overwritten, choose another name") from None
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None


def load(path: Path) -> KeyPair:
    """Read a key file. FileError when missing, readable by others, or damaged."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FileError(f"{path}: not a file")
            if status.st_mode & 0o077:
                raise FileError(f"{path}: others may read or write it (mode {status.st_mode & 0o777:04o}); chmod 600")
            data = file.read(FILE_SIZE_BYTES_MAX + 1)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None
    return _parse(path, data)


def resolve(reference: str) -> KeyPair:
    """The key of a file's path, or of `dev:<name>`."""
    if not reference.startswith(DEVELOPMENT_PREFIX):
        return load(Path(reference))
    name = reference.removeprefix(DEVELOPMENT_PREFIX)
    if name not in DEVELOPMENT_NAMES:
        raise ConfigError(f"{reference}: no such development key; there are {', '.join(DEVELOPMENT_NAMES)}")
    return development_key(name)


def _parse(path: Path, data: bytes) -> KeyPair:
    damaged = FileError(f"{path}: not a key file, or damaged; restore it from a backup")
    try:
        header, public, secret = data.decode("ascii").splitlines()
        if header != HEADER or not public.startswith("public ") or not secret.startswith("secret "):
            raise damaged
        key = KeyPair.from_seed(bytes.fromhex(secret.removeprefix("secret ")))
        if key.public != bytes.fromhex(public.removeprefix("public ")):
            raise damaged
    except ValueError:
        raise damaged from None
    return key
