"""Backups: a data folder as one stream, and back.

A tar archive, so that standard tools look inside: `backup.json` (what it is of), `store/NNNNNNNN.rows` (the database
as rows), `wal/` and `vault/` (files as they are), and last `SHA256SUMS`, which `sha256sum -c` understands. Private keys
are not in it. Layout and limits are in docs/storage.md.

An archive may be damaged or made by an enemy: names, kinds and sizes are checked before anything is written, sums
before anything counts, and all of it as `storage.verification` does before the folder is a node's. Of the tar format
only plain files are read: sparse ones and extended headers, which let few bytes stand for many, are refused. So no more
is written than the archive is long.

Must not know: networks, or whose node it is.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

from ledger.execution import Executor
from ledger.proofcheck import Refused
from storage import schema
from storage.bundles import Unprovable
from storage.chain import ChainStore
from storage.datadir import DataDir
from storage.errors import BadArchive, from_os_error
from storage.leveldb import LevelDB
from storage.migrations import STEPS, upgrade
from storage.shortening import forget_log, mute_if_signed, replay
from storage.verification import check_head, check_shapes, verify_store
from storage.wal import WriteAheadLog

FORMAT: Final = "medchain/backup/1"
ROWS_SIZE_BYTES_TARGET: Final = 4 * 1024 * 1024
FILE_SIZE_BYTES_MAX: Final = 256 * 1024 * 1024  # of one member; segments had 64 MiB once, rows have some 4
MANIFEST_SIZE_BYTES_MAX: Final = 64 * 1024
SUMS_SIZE_BYTES_MAX: Final = 256 * 1024 * 1024  # of a vault with a million records

_NAME = re.compile(
    r"(store/[0-9]{8}\.rows|wal/[0-9]{16}\.wal|vault/[0-9A-Za-z][0-9A-Za-z._-]{0,93})\Z"
)  # a tar header has 100 characters

Progress = Callable[[int], None]
"""Hears how many bytes are done."""
Verified = Callable[[int, int], None]
"""Hears (height, tip's height) of what is verified after that."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive is of."""

    chain_id: bytes
    height: int
    block_hash: bytes

    def to_json(self) -> bytes:
        document = {
            "format": FORMAT,
            "store": schema.FORMAT.decode(),
            "chain": self.chain_id.hex(),
            "height": self.height,
            "block": self.block_hash.hex(),
        }
        return json.dumps(document, indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        try:
            document = json.loads(data)
            if document["format"] != FORMAT or document["store"].encode() not in (schema.FORMAT, *STEPS):
                raise BadArchive(f"it has format {document['format']!r}, {document['store']!r}")
            height = document["height"]
            if type(height) is not int:
                raise ValueError
            return cls(bytes.fromhex(document["chain"]), height, bytes.fromhex(document["block"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadArchive("backup.json is not a manifest") from None


# Making one


def backup(
    folder: DataDir,
    kv: LevelDB,
    store: ChainStore,
    out: BinaryIO,
    *,
    with_vault: bool,
    progress: Progress = lambda _: None,
) -> Manifest:
    """Write the archive of an open, otherwise idle data folder to `out`. Corruption, or BadArchive where its state is
    not certified yet, before a byte is written."""
    _check_head(store)
    manifest = Manifest(store.chain_id, store.tip.height, store.tip.block_hash)
    parts = ("wal", "vault") if with_vault else ("wal",)
    sums: list[str] = []
    done = 0
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name, data in _members(folder, kv, manifest, parts):
            _add(tar, name, data)
            sums.append(f"{sha256(data).hexdigest()}  {name}\n")
            done += len(data)
            progress(done)
        _add(tar, "SHA256SUMS", "".join(sums).encode())
    out.flush()
    return manifest


def _members(folder: DataDir, kv: LevelDB, manifest: Manifest, parts: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    yield "backup.json", manifest.to_json()
    for number, rows in enumerate(_rows(kv)):
        yield f"store/{number:08d}.rows", rows
    for part in parts:
        for path in sorted((folder.path / part).iterdir()):
            name = f"{part}/{path.name}"
            if path.is_file() and _NAME.match(name):
                yield name, path.read_bytes()


def _rows(kv: LevelDB) -> Iterator[bytes]:
    """The database in pieces: key length and value length (4 bytes each), key, value."""
    rows: list[bytes] = []
    size_bytes = 0
    for key, value in kv.scan(b""):
        rows += (len(key).to_bytes(4, "big"), len(value).to_bytes(4, "big"), key, value)
        size_bytes += 8 + len(key) + len(value)
        if size_bytes >= ROWS_SIZE_BYTES_TARGET:
            yield b"".join(rows)
            rows, size_bytes = [], 0
    if rows:
        yield b"".join(rows)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o600
    tar.addfile(member, io.BytesIO(data))


# Reading one


def restore(
    archive: BinaryIO,
    path: Path,
    executor: Executor,
    key: bytes,
    *,
    with_log: bool,
    progress: Progress = lambda _: None,
    verified: Verified = lambda *_: None,
) -> Manifest:
    """Make a data folder at `path` (absent or empty: else AlreadyInitialised) of an archive. BadArchive, or Corruption
    where something in it is not what was certified; the folder is no node's then, and may be removed.

    `executor` is a fresh one of the chain that it must be of. Without its log a validator does not know what it signed:
    its `key` is muted before the folder is a node's.
    """
    found: list[Manifest] = []

    def fill(draft: Path) -> None:
        found.append(_unpack(archive, draft, executor.genesis.chain_id, with_log, progress))
        with closing(LevelDB(draft / "db")) as kv:
            upgrade(kv)
            check_shapes(kv)
            store = ChainStore(kv)
            if Manifest(store.chain_id, store.tip.height, store.tip.block_hash) != found[0]:
                raise BadArchive("the store is not at the block that backup.json names")
            if store.diverged is not None:
                raise BadArchive(f"its state at height {store.diverged[0]} is not the one that was certified")
            _check_head(store)
            verify_store(kv, store, executor, verified)
            if with_log:
                with closing(WriteAheadLog(draft / "wal", create=False)) as wal:
                    replay(wal, kv, draft / "db", max(store.tip.height, store.refetching))
            else:
                forget_log(kv)
                kv.write((), [schema.REFETCH_KEY])  # until when another key, or a log that stays behind, must not sign
                store.resume(Executor(executor.genesis, executor.registry))
                mute_if_signed(store, draft / "wal", key)

    DataDir.create(path, fill).close()
    return found[0]


def _unpack(archive: BinaryIO, draft: Path, chain_id: bytes, with_log: bool, progress: Progress) -> Manifest:
    sums: dict[str, str] = {}
    manifest: Manifest | None = None
    listed: dict[str, str] | None = None
    done = 0
    kv = LevelDB(draft / "db", create=True)
    try:
        for name, data in _read_files(archive):
            if listed is not None:
                raise BadArchive(f"{_shown(name)} does not belong here")
            if name == "SHA256SUMS":
                listed = _sums(data)
                continue
            if name in sums:
                raise BadArchive(f"{_shown(name)} is there twice")
            sums[name] = sha256(data).hexdigest()
            if name == "backup.json" and manifest is None:
                manifest = Manifest.from_json(data)
                if manifest.chain_id != chain_id:
                    raise BadArchive("it is of another chain than the genesis of this node")
            elif manifest is not None and name.startswith("store/"):
                kv.write(_parse_rows(data))
            elif manifest is not None and (name.startswith("vault/") or with_log):
                _write_file(draft / name, data)
            elif manifest is None:
                raise BadArchive("backup.json does not come first")
            done += len(data)
            progress(done)
        kv.write((), sync=True)
    finally:
        kv.close()
    if manifest is None or listed is None:
        raise BadArchive("its end is missing")
    if listed != sums:
        differs = sorted(name for name in {*listed, *sums} if listed.get(name) != sums.get(name))
        raise BadArchive(f"{_shown(differs[0])} is not what SHA256SUMS says")
    return manifest


def _read_files(archive: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Names and contents, up to the block of zeros at the end."""
    limits = {"backup.json": MANIFEST_SIZE_BYTES_MAX, "SHA256SUMS": SUMS_SIZE_BYTES_MAX}
    while True:
        head = _exactly(archive, tarfile.BLOCKSIZE)
        if not any(head):
            return
        try:
            member = tarfile.TarInfo.frombuf(head, "ascii", "strict")
        except (tarfile.TarError, ValueError) as error:
            raise BadArchive(f"the stream is damaged ({type(error).__name__})") from None
        name, size_bytes = member.name, member.size
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or (name not in limits and not _NAME.match(name)):
            raise BadArchive(f"{_shown(name)} does not belong here")
        if not 0 <= size_bytes <= limits.get(name, FILE_SIZE_BYTES_MAX):
            raise BadArchive(f"{_shown(name)} is too large")
        data = _exactly(archive, size_bytes)
        _exactly(archive, -size_bytes % tarfile.BLOCKSIZE)
        yield name, data


def _exactly(archive: BinaryIO, size_bytes: int) -> bytes:
    """However few a pipe gives at a time."""
    parts: list[bytes] = []
    while size_bytes:
        part = archive.read(size_bytes)
        if not part:
            raise BadArchive("its end is missing")
        parts.append(part)
        size_bytes -= len(part)
    return b"".join(parts)


def _sums(data: bytes) -> dict[str, str]:
    try:
        pairs = (line.split("  ") for line in data.decode().splitlines())
        return {name: digest for digest, name in pairs}
    except ValueError:
        raise BadArchive("SHA256SUMS is not a list of sums") from None


def _parse_rows(data: bytes) -> list[tuple[bytes, bytes]]:
    rows: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(data):
        key_size, value_size = int.from_bytes(data[at : at + 4], "big"), int.from_bytes(data[at + 4 : at + 8], "big")
        middle, end = at + 8 + key_size, at + 8 + key_size + value_size
        if end > len(data) or not key_size:
            raise BadArchive("a row is cut off")
        rows.append((data[at + 8 : middle], data[middle:end]))
        at = end
    return rows


def _write_file(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise from_os_error(error, path) from error


def _check_head(store: ChainStore) -> None:
    """A state is certified by validators that lead back to genesis; where not all blocks are here to be executed again,
    that is the one at the last checkpoint."""
    try:
        certified = check_head(store)
    except Unprovable as error:
        raise BadArchive(str(error)) from None
    except Refused as error:
        raise BadArchive(f"its certificates do not lead back to genesis ({error})") from None
    if certified != store.tip.checkpoint_height and store.known_from > 1:
        raise BadArchive(
            f"the state at its last checkpoint, height {store.tip.checkpoint_height}, is not certified yet: start the "
            "node, and stop it again a moment later"
        )


def _shown(name: str) -> str:
    """A stranger's text, fit for a message."""
    return ascii(name[:80])
