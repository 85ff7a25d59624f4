"""Archives made by an enemy: few bytes never stand for many, and nothing is read beyond what is refused."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ledger.crypto import KeyPair
from storage import schema
from storage.archive import FILE_SIZE_BYTES_MAX, BadArchive, backup, restore
from storage.chain import ChainStore
from storage.datadir import DataDir
from storage.errors import Corruption
from storage.leveldb import LevelDB
from storage.shortening import end, noted, replay
from storage.wal import WriteAheadLog
from tests.storage.test_bundles import certify
from tests.storage.test_chain import Cluster, Node, busy, executor

STRANGER = KeyPair.from_seed(bytes(32)).public
HUGE = 255 * 1024 * 1024


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose node stopped in peace."""
    path = tmp_path_factory.mktemp("source") / "data"
    with DataDir.create(path) as folder, closing(LevelDB(folder.db, create=True)) as kv:
        node = Node(kv, Cluster())
        busy(node, 6)
        certify(node)
        with closing(WriteAheadLog(folder.wal, create=False)) as wal:
            wal.append(1, 7, b"a vote")
            end(kv, wal)
    return path


def archive_of(source: Path) -> bytes:
    out = io.BytesIO()
    with DataDir(source) as folder, closing(LevelDB(folder.db)) as kv:
        backup(folder, kv, ChainStore(kv), out, with_vault=True)
    return out.getvalue()


def beginning(source: Path) -> bytes:
    """The first file of an archive, so that what follows is looked at."""
    with tarfile.open(fileobj=io.BytesIO(archive_of(source))) as tar:
        second = tar.getmembers()[1]
    return archive_of(source)[: second.offset]


class Counted(io.BytesIO):
    """Tells how far it was read."""

    reached = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.reached = self.tell()
        return data


def member(name: str = "vault/x", size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type = size, kind
    return made


def pax(**headers: str) -> bytes:
    """An empty file with extended headers, as the library writes them."""
    made = member()
    made.pax_headers = {key.replace("_", "."): value for key, value in headers.items()}
    return made.tobuf(tarfile.PAX_FORMAT)


def sparse_1_0(fields: str) -> bytes:
    """A file that begins with a map of where its data go, of as many numbers as it says."""
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(HUGE)}
    made = member(size=512)
    made.pax_headers = headers
    return made.tobuf(tarfile.PAX_FORMAT) + fields.encode().ljust(512, b"\0")


def gnu_sparse() -> bytes:
    """The old kind: the map is in the header."""
    head = bytearray(member(kind=tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    head[386:398] = head[398:410] = b"00000000000\0"
    head[483:495] = b"%011o\0" % HUGE
    head[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(head))[0]
    return bytes(head)


def negative() -> bytes:
    """A size below zero, in the binary form."""
    head = bytearray(member().tobuf(tarfile.USTAR_FORMAT))
    head[124:136] = b"\xff" * 12
    head[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(head))[0]
    return bytes(head)


LONG = member("././@LongLink", size=1024, kind=tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT)

HOSTILE: dict[str, Callable[[], bytes]] = {
    "sparse 0.0": lambda: pax(GNU_sparse_size=str(HUGE), GNU_sparse_numblocks="0"),
    "sparse 0.1": lambda: pax(GNU_sparse_map="0,0", GNU_sparse_size=str(HUGE)),
    "sparse 1.0": lambda: sparse_1_0("1\n0\n0\n"),
    "a map without end": lambda: sparse_1_0("99999999\n"),
    "sparse, old": gnu_sparse,
    "no numbers": lambda: pax(GNU_sparse_map="a,b", GNU_sparse_size="5"),
    "another size": lambda: pax(size=str(HUGE)),
    "another name": lambda: pax(path="vault/y"),
    "for all that follow": lambda: tarfile.TarInfo.create_pax_global_header({"comment": "x"}),
    "a long name": lambda: LONG,
    "a link": lambda: member(kind=tarfile.LNKTYPE).tobuf(tarfile.USTAR_FORMAT),
    "a device": lambda: member(kind=tarfile.CHRTYPE).tobuf(tarfile.USTAR_FORMAT),
    "a folder": lambda: member("vault/", kind=tarfile.DIRTYPE).tobuf(tarfile.USTAR_FORMAT),
    "below zero": negative,
    "too large": lambda: member(size=FILE_SIZE_BYTES_MAX + 1).tobuf(tarfile.USTAR_FORMAT),
    "no header": lambda: b"x" * 512,
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_plain_file_is_refused_at_its_header(
    hostile: Callable[[], bytes], source: Path, tmp_path: Path
) -> None:
    first = beginning(source)
    archive = Counted(first + hostile() + bytes(1 << 20))
    with pytest.raises(BadArchive):
        restore(archive, tmp_path / "data", executor(), STRANGER, with_log=True)
    assert archive.reached == len(first) + tarfile.BLOCKSIZE
    assert not list((tmp_path / "data" / "vault").iterdir())


def test_a_file_that_ends_early_is_not_written(source: Path, tmp_path: Path) -> None:
    archive = beginning(source) + member(size=HUGE).tobuf(tarfile.USTAR_FORMAT) + bytes(2_000)
    with pytest.raises(BadArchive, match="end is missing"):
        restore(io.BytesIO(archive), tmp_path / "data", executor(), STRANGER, with_log=True)
    assert not list((tmp_path / "data" / "vault").iterdir())


def test_an_archive_cut_anywhere_makes_no_node(source: Path, tmp_path: Path) -> None:
    archive = archive_of(source)
    whole = len(archive.rstrip(b"\0"))
    for number, length in enumerate(range(0, whole, 4_099)):
        with pytest.raises(BadArchive):
            restore(io.BytesIO(archive[:length]), tmp_path / str(number), executor(), STRANGER, with_log=True)
        assert not (tmp_path / str(number) / "FORMAT").exists()


def test_an_archive_has_no_extended_headers(source: Path, tmp_path: Path) -> None:
    """A vault's names fit: a longer one is nothing of ours."""
    shutil.copytree(source, tmp_path / "copy")
    longest, longer = "a" * 94, "a" * 95
    for name in (longest, longer):
        (tmp_path / "copy" / "vault" / name).write_bytes(b"sealed")
    archive = archive_of(tmp_path / "copy")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = tar.getmembers()
        assert not any(each.pax_headers for each in members)
        assert {each.offset_data - each.offset for each in members} == {tarfile.BLOCKSIZE}
    restore(io.BytesIO(archive), tmp_path / "data", executor(), STRANGER, with_log=True)
    assert [path.name for path in (tmp_path / "data" / "vault").iterdir()] == [longest]


def test_a_log_that_comes_along_is_as_long_as_the_store_knows(source: Path, tmp_path: Path) -> None:
    """With its key kept, the node would vote again."""
    shutil.copytree(source, tmp_path / "copy")
    (segment,) = (tmp_path / "copy" / "wal").iterdir()
    data = segment.read_bytes()
    restore(io.BytesIO(archive_of(tmp_path / "copy")), tmp_path / "whole", executor(), STRANGER, with_log=True)
    for number, left in enumerate((data[:-1], data[:36], b"", None)):
        segment.unlink(missing_ok=True)
        if left is not None:
            segment.write_bytes(left)
        archive, target = archive_of(tmp_path / "copy"), tmp_path / str(number)
        with pytest.raises(Corruption):
            restore(io.BytesIO(archive), target, executor(), STRANGER, with_log=True)
        assert not (target / "FORMAT").exists()
        restore(io.BytesIO(archive), tmp_path / f"muted-{number}", executor(), STRANGER, with_log=False)


def test_without_its_log_a_restored_store_knows_of_none(source: Path, tmp_path: Path) -> None:
    with closing(LevelDB(source / "db")) as kv:
        assert kv.get(schema.LOGGED_KEY) is not None
    restore(io.BytesIO(archive_of(source)), tmp_path / "data", executor(), STRANGER, with_log=False)
    with DataDir(tmp_path / "data") as folder, closing(LevelDB(folder.db)) as kv:
        assert noted(kv) is None
        with closing(WriteAheadLog(folder.wal, create=False)) as wal:
            assert replay(wal, kv, folder.db, 100) == []


def altered(source: Path, path: Path, *rows: tuple[bytes, bytes]) -> bytes:
    """An archive of a store with rows that no node wrote."""
    shutil.copytree(source, path)
    out = io.BytesIO()
    with DataDir(path) as folder, closing(LevelDB(folder.db)) as kv:
        store = ChainStore(kv)
        kv.write(rows)
        backup(folder, kv, store, out, with_vault=True)
    return out.getvalue()


@pytest.mark.parametrize("key", [schema.PROPOSAL, schema.PROPOSAL + b"\xff", schema.PROPOSAL + bytes(9)])
def test_rows_of_an_earlier_format_are_looked_at_before_they_are_used(key: bytes, source: Path, tmp_path: Path) -> None:
    archive = altered(source, tmp_path / "copy", (key, b"\xc0"), (schema.FORMAT_KEY, b"medchain/store/1"))
    with pytest.raises(Corruption):
        restore(io.BytesIO(archive), tmp_path / "data", executor(), STRANGER, with_log=False)


def test_an_archive_does_not_keep_another_node_from_signing(source: Path, tmp_path: Path) -> None:
    """Up to where its owner's lost blocks were to be fetched again says nothing of another key."""
    archive = altered(source, tmp_path / "copy", (schema.REFETCH_KEY, schema.pack_height(2**62)))
    restore(io.BytesIO(archive), tmp_path / "data", executor(), STRANGER, with_log=False)
    with DataDir(tmp_path / "data") as folder, closing(LevelDB(folder.db)) as kv:
        assert not ChainStore(kv).is_muted(STRANGER)
