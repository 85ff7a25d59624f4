"""One flipped bit anywhere in a node's closed data folder, or a write-ahead log that lost its end: `python -m
tests.bit_flips --flips 1000 --cuts 100` (or `make flips`). Status 1 if one is neither noticed nor harmless.

A folder is made by a node's life (tests/kill_points.py), then copied; in each copy one bit of one file is flipped, the
log cut to some length, or one file of the chain removed (`--missing`), and the node opened as `medchain start` does it:

- refused: opening fails with an error that names what is damaged;
- found: it opens, and reading what is damaged raises instead of giving a wrong answer, as `medchain verify` finds;
- harmless: every row of the store and every record of the log, the vault and the settings are what they were.

Anything else fails: a row that reads otherwise, one that is gone, or an error that is not one of the storage's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ledger.errors import ConfigError
from node.home import DATA, open_home
from node.vault import Vault, VaultError, open_record
from storage.errors import StorageError
from storage.verification import verify_chain
from storage.wal import Record
from tests.kill_points import READER, Told, config_of, forked, live


class Unnoticed(Exception):
    """Damage that changed an answer."""


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a node would answer from."""

    rows: dict[bytes, bytes]
    records: tuple[Record, ...]
    vault: dict[bytes, bytes]


def make(home: Path) -> None:
    """A home whose node lived twice, so that there are tables, logs and more than one segment."""
    home.mkdir()
    for _ in range(2):
        forked(lambda tell: live(home, tell), Told())
    for other in home.iterdir():
        if other.name.startswith("other-") or other.name in ("copy", "small", "in-the-way"):
            shutil.rmtree(other) if other.is_dir() else other.unlink()


def contents(home: Path) -> Contents:
    """Read all of it. A storage error where something is damaged."""
    opened = open_home(config_of(home))
    with closing(opened):
        records = tuple(opened.records())
        rows = dict(opened.kv.scan(b""))
        verify_chain(opened.kv, opened.store, opened.executor)
    folder = home / DATA / "vault"
    vault = Vault(folder)
    held = {commitment: open_record(vault.get(commitment).data, READER).plaintext for commitment in vault.list()}
    for path in folder.glob("*.erased"):
        commitment = bytes.fromhex(path.stem)
        held[commitment] = str(vault.erased_at_ms(commitment)).encode()
    return Contents(rows, records, held)


def outcome(home: Path, sound: Contents) -> str:
    """What came of the damage. Unnoticed where it is neither."""
    try:
        opened = open_home(config_of(home))
        with closing(opened):
            opened.records()
    except (StorageError, ConfigError) as error:
        return f"refused: {type(error).__name__}"
    try:
        found = contents(home)
    except (StorageError, VaultError) as error:
        return f"found: {type(error).__name__}"
    if found != sound:
        lost = len(sound.rows.keys() - found.rows.keys())
        raise Unnoticed(
            f"{lost} rows are gone, {len(sound.records)} records became {len(found.records)}, "
            f"{sum(found.rows.get(key) != value for key, value in sound.rows.items())} rows differ"
        )
    return "harmless"


def flip(home: Path, random: Random) -> str:
    """One bit, half of the time of any file and half of the time of any byte; what it was."""
    files = sorted(path for path in (home / DATA).rglob("*") if path.is_file() and path.stat().st_size)
    sizes = [path.stat().st_size for path in files]
    path = random.choice(files) if random.randrange(2) else random.choices(files, sizes)[0]
    data = bytearray(path.read_bytes())
    at, bit = random.randrange(len(data)), random.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {at} of {len(data)} in {path.relative_to(home)}"


def cut(home: Path, random: Random) -> str:
    """The log to a shorter length, any of them: segments behind the end are gone."""
    paths = sorted((home / DATA / "wal").iterdir())
    at = random.randrange(sum(path.stat().st_size for path in paths))
    for path in paths:
        size_bytes = path.stat().st_size
        if at < size_bytes:
            break
        at -= size_bytes
    for later in paths[paths.index(path) + 1 :]:
        later.unlink()
    os.truncate(path, at)
    return f"all from byte {at} of {size_bytes} in {path.relative_to(home)} cut off"


def remove(home: Path, number: int) -> str | None:
    """The file of that number; None where there are fewer."""
    files = sorted(path for path in (home / DATA).rglob("*") if path.is_file() and path.parent.name != "vault")
    if number >= len(files):
        return None
    files[number].unlink()
    return f"{files[number].relative_to(home)} removed"


def kind_of(what: str) -> str:
    """The kind of file that was damaged."""
    path = Path(what.rpartition(" in ")[2].removesuffix(" removed").removesuffix(" cut off"))
    if path.parent.name == "db":
        return {"": path.stem.partition("-")[0], ".ldb": "table", ".log": "store's log", ".old": "LOG"}[path.suffix]
    return {"wal": "write-ahead log", "vault": "vault"}.get(path.parent.name, path.name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make flips", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--missing", action="store_true", help="remove each file in turn instead")
    arguments = parser.parse_args()
    folder, random, began_s = Path(tempfile.mkdtemp(prefix="medchain-flips-")), Random(arguments.seed), time.monotonic()
    make(folder / "sound")
    # In a process of its own, as the node's life was: LevelDB's thread does not survive a fork.
    shutil.copytree(folder / "sound", folder / "home")
    sound = contents(folder / "home")
    counts: Counter[tuple[str, str]] = Counter()
    failed = 0
    number = 0
    while arguments.missing or number < arguments.flips + arguments.cuts:
        shutil.rmtree(folder / "home")
        shutil.copytree(folder / "sound", folder / "home")
        if arguments.missing:
            what = remove(folder / "home", number)
        else:
            what = (flip if number < arguments.flips else cut)(folder / "home", random)
        if what is None:
            break
        number += 1
        try:
            counts[kind_of(what), outcome(folder / "home", sound)] += 1
        except Exception as error:
            failed += 1
            print(f"FAILED: {what}: {type(error).__name__}: {error}")
    shutil.rmtree(folder)
    for (kind, result), count in sorted(counts.items()):
        print(f"{count:6}  {kind:<16} {result}")
    rows, records = len(sound.rows), len(sound.records)
    print(
        f"{number} damages to {rows} rows and {records} log records in {time.monotonic() - began_s:.0f} s; "
        f"{failed} neither noticed nor harmless"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
