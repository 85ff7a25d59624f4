"""Backups: what goes in comes out, and nothing else does, whoever made the file."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace as dataclass_replace
from pathlib import Path
from random import Random
from shutil import copytree

import pytest

from ledger.codec import encode
from ledger.crypto import KeyPair
from ledger.execution import Executor
from storage import datadir, schema
from storage.archive import BadArchive, backup, restore
from storage.chain import ChainStore, exceptions_of
from storage.datadir import DataDir
from storage.errors import AlreadyInitialised, NotInitialised, StorageError
from storage.leveldb import LevelDB
from storage.shortening import muted
from storage.wal import WriteAheadLog
from tests.storage.test_bundles import certify
from tests.storage.test_chain import GENESIS, KEYS, NEW_KEY, Cluster, Node, busy, change_validators, executor

RECORD = "ab" * 33
OWN = KEYS[1].public  # the key of who restores: a validator's
STRANGER = KeyPair.from_seed(bytes(32)).public


def rows(path: Path) -> list[tuple[bytes, bytes]]:
    with closing(LevelDB(path / "db")) as kv:
        return list(kv.scan(b""))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two epochs, a log and a sealed record."""
    path = tmp_path_factory.mktemp("source") / "data"
    with DataDir.create(path) as folder, closing(LevelDB(folder.db, create=True)) as kv:
        node = Node(kv, Cluster())
        busy(node, 6)
        change_validators(node)
        busy(node, 6)
        certify(node)
        with closing(WriteAheadLog(folder.wal)) as wal:
            wal.append(1, 7, b"a vote")
            wal.flush()
        (folder.vault / RECORD).write_bytes(b"sealed")
    return path


def archive_of(source: Path, with_vault: bool = True) -> bytes:
    out = io.BytesIO()
    with DataDir(source) as folder, closing(LevelDB(folder.db)) as kv:
        backup(folder, kv, ChainStore(kv), out, with_vault=with_vault)
    return out.getvalue()


@pytest.fixture(scope="module")
def archive(source: Path) -> bytes:
    return archive_of(source)


def members(archive: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            opened = tar.extractfile(member)
            yield member, b"" if opened is None else opened.read()


def rebuilt(archive: bytes, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None]) -> bytes:
    """The archive with every member changed, or left out."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, data in members(archive):
            changed = change(member, data)
            if changed is not None:
                changed[0].size = len(changed[1])
                tar.addfile(changed[0], io.BytesIO(changed[1]))
    return out.getvalue()


def test_a_restored_folder_holds_the_same_rows_and_records(source: Path, archive: bytes, tmp_path: Path) -> None:
    manifest = restore(io.BytesIO(archive), tmp_path / "data", executor(), OWN, with_log=False)
    muted_row = (schema.MUTED + OWN, b"")
    assert rows(tmp_path / "data") == sorted([*rows(source), muted_row])
    with DataDir(tmp_path / "data") as folder, closing(LevelDB(folder.db)) as kv:
        tip = ChainStore(kv).tip
        assert (manifest.height, manifest.block_hash) == (tip.height, tip.block_hash)
        assert (folder.vault / RECORD).read_bytes() == b"sealed"
        assert (folder.vault / RECORD).stat().st_mode & 0o777 == 0o600
        with closing(WriteAheadLog(folder.wal, create=False)) as wal:
            assert muted(wal.replay()) == {OWN}


def test_the_key_of_who_never_was_a_validator_may_sign(archive: bytes, tmp_path: Path) -> None:
    restore(io.BytesIO(archive), tmp_path / "data", executor(), STRANGER, with_log=False)
    with DataDir(tmp_path / "data") as folder, closing(LevelDB(folder.db)) as kv:
        assert not ChainStore(kv).is_muted(STRANGER)


@pytest.mark.parametrize("key", [KEYS[0], KEYS[1], NEW_KEY], ids=["before", "throughout", "now"])
def test_the_key_of_whoever_was_a_validator_is_muted_before_the_folder_is_a_nodes(
    key: KeyPair, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(datadir, "complete", killed)
    with pytest.raises(KeyboardInterrupt):
        restore(io.BytesIO(archive), tmp_path / "data", executor(), key.public, with_log=False)
    assert not (tmp_path / "data" / "FORMAT").exists()
    with closing(LevelDB(tmp_path / "data" / "db")) as kv:
        assert ChainStore(kv).is_muted(key.public, for_good=True)
    with closing(WriteAheadLog(tmp_path / "data" / "wal", create=False)) as wal:
        assert muted(wal.replay()) == {key.public}


def test_an_archive_of_another_chain_is_refused_before_anything_is_written(archive: bytes, tmp_path: Path) -> None:
    other = Executor(dataclass_replace(GENESIS, name="another"), executor().registry)
    with pytest.raises(BadArchive, match="another chain"):
        restore(io.BytesIO(archive), tmp_path / "data", other, OWN, with_log=True)
    with closing(LevelDB(tmp_path / "data" / "db")) as kv:
        assert list(kv.scan(b"")) == []


def forged(source: Path, tmp_path: Path, forge: Callable[[LevelDB], None]) -> bytes:
    """An archive of the same chain with some rows changed, and sums of its own."""
    copytree(source, tmp_path / "forged")
    with closing(LevelDB(tmp_path / "forged" / "db")) as kv:
        forge(kv)
    out = io.BytesIO()
    with DataDir(tmp_path / "forged") as folder, closing(LevelDB(folder.db)) as kv:
        backup(folder, kv, ChainStore(kv), out, with_vault=False)
    return out.getvalue()


def forge_receipt(kv: LevelDB) -> None:
    store = ChainStore(kv)
    height = next(height for height in range(1, store.tip.height) if store.receipts(height))
    receipts = tuple(one._replace(code=2405) for one in store.receipts(height))
    kv.write([(schema.at_height(schema.EXCEPTIONS, height), encode(exceptions_of(receipts)))])


def forge_row(prefix: bytes) -> Callable[[LevelDB], None]:
    def forge(kv: LevelDB) -> None:
        (key, value), (_, other), *_ = ((key, value) for key, value in kv.scan_prefix(prefix))
        assert value != other
        kv.write([(key, other)])

    return forge


def forge_index(kv: LevelDB) -> None:
    key, _ = next(iter(kv.scan_prefix(schema.INDEX)))
    kv.write([(key, schema.pack_positions([1_000]))])


@pytest.mark.parametrize(
    "forge",
    [
        forge_receipt,
        forge_row(schema.TRANSACTION),
        forge_index,
        forge_row(schema.BATCH),
        forge_row(schema.ORDERED),
    ],
    ids=["receipt", "place", "index", "batch", "place of a batch"],
)
def test_what_is_under_no_certified_root_is_checked_as_well(
    forge: Callable[[LevelDB], None], source: Path, tmp_path: Path
) -> None:
    """Whoever makes an archive could put any receipt, any place."""
    with pytest.raises(StorageError):
        restore(io.BytesIO(forged(source, tmp_path, forge)), tmp_path / "data", executor(), OWN, with_log=False)
    assert not (tmp_path / "data" / "FORMAT").exists()


def test_an_uncertified_checkpoint_is_backed_up_with_all_its_blocks(source: Path, tmp_path: Path) -> None:
    """A node may be stopped before its certificate came. Executed again, the blocks vouch for the state; of others, see
    tests/storage/test_forged.py."""
    out = io.BytesIO()
    copytree(source, tmp_path / "copy")
    with DataDir(tmp_path / "copy") as folder, closing(LevelDB(folder.db)) as kv:
        height = ChainStore(kv).tip.checkpoint_height
        kv.write((), [schema.at_height(schema.CHECKPOINT, height)])
        backup(folder, kv, ChainStore(kv), out, with_vault=False)
    out.seek(0)
    restore(out, tmp_path / "data", executor(), bytes(33), with_log=False)
    with closing(LevelDB(tmp_path / "data" / "db")) as kv:
        assert ChainStore(kv).tip.checkpoint_height == height


def test_the_log_comes_along_where_the_caller_says_so(archive: bytes, tmp_path: Path) -> None:
    restore(io.BytesIO(archive), tmp_path / "data", executor(), OWN, with_log=True)
    with DataDir(tmp_path / "data") as folder, closing(WriteAheadLog(folder.wal, create=False)) as wal:
        assert [record.payload for record in wal.replay()] == [b"a vote"]


def test_sealed_records_are_left_out_unless_asked_for(source: Path) -> None:
    names = [member.name for member, _ in members(archive_of(source, with_vault=False))]
    assert names[0] == "backup.json"
    assert names[-1] == "SHA256SUMS"
    assert not [name for name in names if name.startswith("vault/")]


def test_standard_tools_check_it(archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "node.tar").write_bytes(archive)
    subprocess.run(["tar", "xf", "node.tar"], cwd=tmp_path, check=True)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)


def test_a_chain_without_a_certified_checkpoint_is_not_backed_up(tmp_path: Path) -> None:
    out = io.BytesIO()
    with DataDir.create(tmp_path / "data") as folder, closing(LevelDB(folder.db, create=True)) as kv:
        busy(Node(kv, Cluster()), 2)
        with pytest.raises(BadArchive, match="certified"):
            backup(folder, kv, ChainStore(kv), out, with_vault=True)
    assert out.getvalue() == b""


def test_a_folder_in_use_is_left_alone(source: Path, archive: bytes) -> None:
    before = rows(source)
    with pytest.raises(AlreadyInitialised):
        restore(io.BytesIO(archive), source, executor(), OWN, with_log=False)
    assert rows(source) == before


def renamed(name: str) -> Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes]]:
    def change(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name.startswith("vault/"):
            member.name = name
        return member, data

    return change


def linked(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    if member.name.startswith("vault/"):
        member.type, member.linkname, data = tarfile.SYMTYPE, "/etc/passwd", b""
    return member, data


def other_rows(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return member, data[:-1] + b"?" if member.name.startswith("store/") else data


def cut_rows(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return member, data[:-1] if member.name.startswith("store/") else data


def without(name: str) -> Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None]:
    return lambda member, data: None if member.name.startswith(name) else (member, data)


@pytest.mark.parametrize(
    "change",
    [
        renamed("../outside"), renamed("/etc/medchain"), renamed("vault/../../outside"), renamed("vault/.hidden"),
        renamed("wal/evil"), renamed("store/00000000.rows"), renamed("x" * 5_000), linked, other_rows, cut_rows,
        without("backup"), without("store"), without("vault"), without("SHA256SUMS"),
    ],
)  # fmt: skip
def test_what_is_not_a_whole_backup_makes_no_node(
    change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None], archive: bytes, tmp_path: Path
) -> None:
    target = tmp_path / "home" / "data"
    with pytest.raises(BadArchive):
        restore(io.BytesIO(rebuilt(archive, change)), target, executor(), OWN, with_log=True)
    with pytest.raises(NotInitialised):
        DataDir(target)
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "home" / "outside").exists()


@pytest.mark.parametrize("data", [b"", b"\0" * 20_480, b"nothing of the kind", b"\x1f\x8b" + bytes(600)])
def test_what_is_no_archive_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadArchive):
        restore(io.BytesIO(data), tmp_path / "data", executor(), OWN, with_log=False)


def test_a_forged_state_with_sums_of_its_own_is_not_what_was_certified(source: Path, tmp_path: Path) -> None:
    """Whoever makes an archive can make its sums; what a quorum signed he cannot."""
    forged = tmp_path / "forged"
    restore(io.BytesIO(archive_of(source)), forged, executor(), OWN, with_log=False)
    with closing(LevelDB(forged / "db")) as kv:
        key, value = next(iter(kv.scan_prefix(b"S")))
        kv.write([(key, value[:-1] + bytes([value[-1] ^ 1]))])
        out = io.BytesIO()
        with DataDir(forged) as folder, pytest.raises(StorageError, match="state bucket"):
            backup(folder, kv, ChainStore(kv), out, with_vault=False)


def test_flipped_bits_are_refused_or_harmless(source: Path, archive: bytes, tmp_path: Path) -> None:
    """Those in times and modes of members mean nothing."""
    random, expected = Random(6), rows(source)
    refused = 0
    for number in range(120):
        data = bytearray(archive)
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        target = tmp_path / str(number)
        try:
            restore(io.BytesIO(data), target, executor(), OWN, with_log=True)
        except StorageError:
            refused += 1
        else:
            assert rows(target) == expected
    assert refused > 60
