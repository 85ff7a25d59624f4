"""Rows that a quorum did not make: whoever makes an archive can make its sums, so each must be found, by `restore` and
by `verify`, whether all blocks are there, the older ones were pruned, or the store was begun from a snapshot."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from ledger.block import CheckpointCertificate, Receipt
from ledger.codec import Value, encode
from ledger.errors import Code
from ledger.stateproof import hash_key
from ledger.validators import ValidatorSet
from storage import schema
from storage.archive import Manifest, restore
from storage.chain import ChainStore, exceptions_of
from storage.datadir import DataDir
from storage.errors import BadArchive, Corruption, NotInitialised, StorageError
from storage.leveldb import LevelDB
from storage.memory import MemoryKeyValue
from storage.pruning import prune
from storage.statetree import decode_record
from storage.verification import verify_store
from tests.storage.test_chain import (
    CHECKPOINT_INTERVAL,
    KEYS,
    NEW_KEY,
    Node,
    checkpoint_of,
    executor,
    note_key,
)  # fmt: skip
from tests.storage.test_pruning import KEEP, grown
from tests.storage.test_snapshots import grow, joined, made

ABOVE = 3  # blocks above the last root, which no certificate covers yet


def whole() -> Node:
    return grown(MemoryKeyValue())


def pruned() -> Node:
    node = whole()
    for _ in prune(node.kv, node.store, KEEP):
        pass
    return node


def copied() -> Node:
    return joined(made())


def rows_of(node: Node) -> dict[bytes, bytes]:
    """With blocks above the last root, and refusals in the last one."""
    while node.store.tip.height - node.store.tip.checkpoint_height < ABOVE or not node.kv.get(
        schema.at_height(schema.EXCEPTIONS, node.store.tip.height)
    ):
        grow(node, 1)
    return dict(node.kv.scan(b""))


@pytest.fixture(scope="module", params=[whole, pruned, copied])
def sound(request: pytest.FixtureRequest) -> dict[bytes, bytes]:
    return rows_of(request.param())


@pytest.fixture
def rows(sound: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """To be changed."""
    return dict(sound)


def store_of(rows: dict[bytes, bytes]) -> tuple[MemoryKeyValue, ChainStore]:
    kv = MemoryKeyValue()
    kv.write(list(rows.items()))
    return kv, ChainStore(kv)


def archive_of(rows: dict[bytes, bytes]) -> bytes:
    """As `backup` makes it, of rows that it would refuse."""
    _, store = store_of(rows)
    return archive_at(Manifest(store.chain_id, store.tip.height, store.tip.block_hash), rows)


def forged_archive(rows: dict[bytes, bytes]) -> bytes:
    """The same of rows that cannot be opened."""
    return archive_at(Manifest(executor().genesis.chain_id, 1, bytes(33)), rows)


def archive_at(manifest: Manifest, rows: dict[bytes, bytes]) -> bytes:
    joined_rows = b"".join(
        len(key).to_bytes(4, "big") + len(value).to_bytes(4, "big") + key + value for key, value in sorted(rows.items())
    )
    files = {
        "backup.json": manifest.to_json(),
        "store/00000000.rows": joined_rows,
    }
    files["SHA256SUMS"] = "".join(f"{sha256(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def refused(rows: dict[bytes, bytes], path: Path, match: str) -> None:
    kv, store = store_of(rows)
    with pytest.raises(Corruption, match=match):
        verify_store(kv, store, executor())
    with pytest.raises(StorageError, match=match):
        restore(io.BytesIO(archive_of(rows)), path, executor(), KEYS[0].public, with_log=False)
    with pytest.raises(NotInitialised):
        DataDir(path)


def test_what_is_sound_is_restored(sound: dict[bytes, bytes], tmp_path: Path) -> None:
    kv, store = store_of(sound)
    verify_store(kv, store, executor())
    restore(io.BytesIO(archive_of(sound)), tmp_path / "data", executor(), bytes(33), with_log=False)
    with closing(LevelDB(tmp_path / "data" / "db")) as restored:
        assert dict(restored.scan(b"")) == sound


def test_a_state_entry(rows: dict[bytes, bytes], tmp_path: Path) -> None:
    _, store = store_of(rows)
    key = next(key for key, _ in store.state_entries() if key != note_key("shared"))
    rows[schema.state_entry(key, hash_key(key))] = encode((777_777, b"forged"))
    refused(rows, tmp_path / "data", "state")


def receipts_at(rows: dict[bytes, bytes], height: int) -> tuple[bytes, list[Receipt]]:
    return schema.at_height(schema.EXCEPTIONS, height), list(store_of(rows)[1].receipts(height))


def test_a_receipt_above_the_last_checkpoint(rows: dict[bytes, bytes], tmp_path: Path) -> None:
    _, store = store_of(rows)
    key, (first, *others) = receipts_at(rows, store.tip.height)
    rows[key] = encode(exceptions_of([Receipt(first.tx_id, int(Code.REPLAYED), ("forged",)), *others]))
    refused(rows, tmp_path / "data", f"block {store.tip.height}")


@pytest.mark.parametrize(
    "exceptions",
    [
        (),
        ((1, 2405, ()), (0, 2405, ())),
        ((0, 2405, ()), (0, 2405, ())),
        ((0, 0, ()),),
        ((500, 2405, ()),),
        ((-1, 2405, ()),),
        ((True, 2405, ()),),
    ],
    ids=["empty", "disordered", "twice", "plain", "beyond", "before", "no number"],
)
def test_exceptions_that_are_none(exceptions: Value, rows: dict[bytes, bytes], tmp_path: Path) -> None:
    _, store = store_of(rows)
    rows[schema.at_height(schema.EXCEPTIONS, store.tip.height)] = encode(exceptions)
    refused(rows, tmp_path / "data", f"block {store.tip.height}|not a list of exceptions")


def batch_of_nobody(rows: dict[bytes, bytes], height: int) -> None:
    rows[schema.batch_key(height, 63)] = rows[schema.batch_key(height, 0)]


def batch_with_a_place_of_nobody(rows: dict[bytes, bytes], height: int) -> None:
    batch_of_nobody(rows, height)
    rows[schema.ORDERED + b"\x01" + bytes(32)] = schema.pack_ordered(height, 63, height)


def batch_that_lives_on(rows: dict[bytes, bytes], height: int) -> None:
    """Pruning would leave it."""
    key = next(key for key in rows if key.startswith(schema.ORDERED))
    rows[key] = schema.pack_ordered(*schema.unpack_ordered(rows[key])[:2], height + 1)


@pytest.mark.parametrize("forge", [batch_of_nobody, batch_with_a_place_of_nobody, batch_that_lives_on])
def test_a_batch_that_no_block_ordered(
    forge: Callable[[dict[bytes, bytes], int], None], rows: dict[bytes, bytes], tmp_path: Path
) -> None:
    _, store = store_of(rows)
    forge(rows, store.tip.height)
    refused(rows, tmp_path / "data", "batch")


def elsewhere(rows: dict[bytes, bytes], key: bytes) -> None:
    height, position = schema.unpack_place(rows[key])
    rows[key] = schema.pack_place(height, position + 1)


def nowhere(rows: dict[bytes, bytes], key: bytes) -> None:
    del rows[key]


def invented(rows: dict[bytes, bytes], key: bytes) -> None:
    rows[schema.TRANSACTION + b"\x01" + bytes(32)] = rows[key]


@pytest.mark.parametrize("forge", [elsewhere, nowhere, invented])
def test_a_transactions_place(
    forge: Callable[[dict[bytes, bytes], bytes], None], rows: dict[bytes, bytes], tmp_path: Path
) -> None:
    _, store = store_of(rows)
    _, receipts = receipts_at(rows, store.tip.height)
    forge(rows, schema.TRANSACTION + next(one.tx_id for one in receipts if one.ok))
    refused(rows, tmp_path / "data", "place")


def index_entries(rows: dict[bytes, bytes], height: int) -> Iterator[bytes]:
    return (key for key in rows if key.startswith(schema.INDEX) and schema.indexed_height(key) == height)


def test_an_index_entry_that_names_a_place_beyond_the_block(rows: dict[bytes, bytes], tmp_path: Path) -> None:
    _, store = store_of(rows)
    first, *_ = index_entries(rows, store.tip.height)
    rows[first] = schema.pack_positions([len(store.receipts(store.tip.height))])
    refused(rows, tmp_path / "data", "index entr")


@pytest.mark.parametrize("value", [b"", b"\0\0\0", b"\0\0\0\1\0\0\0\0"], ids=["empty", "short", "disordered"])
def test_an_index_entry_that_is_none(value: bytes, rows: dict[bytes, bytes], tmp_path: Path) -> None:
    _, store = store_of(rows)
    first, *_ = index_entries(rows, store.tip.height)
    rows[first] = value
    refused(rows, tmp_path / "data", "index entr|not a list of positions")


def test_an_index_entry_of_a_place_where_nothing_stands(rows: dict[bytes, bytes], tmp_path: Path) -> None:
    _, store = store_of(rows)
    first, *_ = index_entries(rows, store.tip.height)
    rows[first[:-8] + schema.pack_height(store.tip.height + 1)] = rows[first]
    refused(rows, tmp_path / "data", "index entr")


def test_a_tip_with_other_validators(rows: dict[bytes, bytes], tmp_path: Path) -> None:
    _, store = store_of(rows)
    tip = decode_record(rows[schema.TIP_KEY], schema.TIP_KEY)
    assert isinstance(tip, tuple)
    at = next(index for index, item in enumerate(tip) if isinstance(item, tuple) and store.tip.validators.keys in item)
    others = store.tip.validators.to_value()
    stranger = b"\x01" + bytes(31) + b"\x07"
    forged: Value = (*others[:2], tuple(sorted((stranger, *store.tip.validators.keys[1:]))))
    rows[schema.TIP_KEY] = encode((*tip[:at], forged, *tip[at + 1 :]))
    refused(rows, tmp_path / "data", "tip")


def test_validators_of_an_epoch_to_come_that_nobody_chose(rows: dict[bytes, bytes], tmp_path: Path) -> None:
    """With a checkpoint that they certify: the chain would stop there, for another state than this."""
    _, store = store_of(rows)
    epoch = store.tip.validators.epoch + 1
    following = ValidatorSet(epoch, store.tip.height + 10, (NEW_KEY.public,))
    rows[schema.at_height(schema.VALIDATORS, epoch)] = encode(following.to_value())
    refused(rows, tmp_path / "data", "epoch")


def test_a_checkpoint_above_the_tip_that_nobody_certified(rows: dict[bytes, bytes], tmp_path: Path) -> None:
    _, store = store_of(rows)
    height = store.tip.height + 1
    forged = CheckpointCertificate(store.tip.validators.epoch, height, bytes(33), bytes(33), bytes(33), ())
    rows[schema.at_height(schema.CHECKPOINT, height)] = encode(forged.to_value())
    refused(rows, tmp_path / "data", "certified by nobody")


def test_a_checkpoint_of_another_height_above_the_tip(rows: dict[bytes, bytes], tmp_path: Path) -> None:
    """Certified, but not of that height: the chain would stop when it gets there."""
    _, store = store_of(rows)
    certificate = store.latest_checkpoint()
    assert certificate is not None
    rows[schema.at_height(schema.CHECKPOINT, store.tip.height + 1)] = encode(certificate.to_value())
    refused(rows, tmp_path / "data", "certified by nobody")


@pytest.mark.parametrize("prefix", [schema.EXCEPTIONS, schema.HEADER, schema.PROPOSAL])
def test_a_row_of_a_height_that_is_not_kept(prefix: bytes, rows: dict[bytes, bytes], tmp_path: Path) -> None:
    """Whoever reads one row after another would show it."""
    _, store = store_of(rows)
    rows[schema.at_height(prefix, store.tip.height + 1)] = rows[schema.at_height(prefix, store.tip.height)]
    refused(rows, tmp_path / "data", "not kept")


def test_digests_of_the_state_at_a_height_to_come(rows: dict[bytes, bytes], tmp_path: Path) -> None:
    """True now, and in the way of what that checkpoint will say."""
    _, store = store_of(rows)
    last = max(key for key in rows if key[:1] == schema.LEAF)
    rows[schema.at_height(schema.LEAF, store.tip.height + 9)] = rows[last]
    with pytest.raises(StorageError, match="has no root"):
        restore(io.BytesIO(forged_archive(rows)), tmp_path / "data", executor(), KEYS[0].public, with_log=False)


def test_receipts_of_a_block_that_is_gone(rows: dict[bytes, bytes], tmp_path: Path) -> None:
    _, store = store_of(rows)
    if store.pruned:
        rows[schema.at_height(schema.EXCEPTIONS, 1)] = rows[schema.at_height(schema.EXCEPTIONS, store.tip.height)]
        refused(rows, tmp_path / "data", "not kept")


def longer(rows: dict[bytes, bytes], key: bytes) -> None:
    rows[key + b"x"] = rows[key]


def shorter(rows: dict[bytes, bytes], key: bytes) -> None:
    rows[key[:-1]] = rows.pop(key)


@pytest.mark.parametrize("prefix", [b"P", b"B", b"H", b"E", b"R", b"T", b"I", b"L", b"O", b"V"])
@pytest.mark.parametrize("forge", [longer, shorter])
def test_a_row_of_no_known_shape(
    forge: Callable[[dict[bytes, bytes], bytes], None], prefix: bytes, rows: dict[bytes, bytes], tmp_path: Path
) -> None:
    """As a row of the receipts under a longer key, which pages of events would show."""
    forge(rows, max(key for key in rows if key.startswith(prefix)))
    with pytest.raises(StorageError):
        restore(io.BytesIO(forged_archive(rows)), tmp_path / "data", executor(), KEYS[0].public, with_log=False)


@pytest.mark.parametrize("key", [schema.TIP_KEY, schema.GENESIS_KEY, schema.FORMAT_KEY])
@pytest.mark.parametrize("value", [b"", b"\xff\xfe", b"\x90", b"{}"])
def test_what_every_opening_reads(key: bytes, value: bytes, rows: dict[bytes, bytes], tmp_path: Path) -> None:
    rows[key] = value
    with pytest.raises(StorageError):
        restore(io.BytesIO(forged_archive(rows)), tmp_path / "data", executor(), KEYS[0].public, with_log=False)


@pytest.mark.parametrize("above", [0, 1, 1 << 63])
@pytest.mark.parametrize("key", [schema.PRUNED_KEY, schema.INDEXED_KEY])
def test_blocks_that_are_said_to_be_gone(key: bytes, above: int, rows: dict[bytes, bytes], tmp_path: Path) -> None:
    """The last block is always there. Indexes may know nothing yet, but not of what is to come."""
    _, store = store_of(rows)
    if key == schema.INDEXED_KEY and not above:
        return
    rows[key] = schema.pack_height(store.tip.height + above)
    refused(rows, tmp_path / "data", "never had")


def test_a_format_with_a_number_beyond_all_numbers(rows: dict[bytes, bytes], tmp_path: Path) -> None:
    rows[schema.FORMAT_KEY] = b"medchain/store/" + b"9" * 5_000
    with pytest.raises(StorageError):
        restore(io.BytesIO(forged_archive(rows)), tmp_path / "data", executor(), KEYS[0].public, with_log=False)


def test_a_log_that_is_not_in_it(rows: dict[bytes, bytes], tmp_path: Path) -> None:
    """With an empty one its validator would sign as if it had never voted."""
    with pytest.raises(Corruption, match="the write-ahead log is gone"):
        restore(io.BytesIO(archive_of(rows)), tmp_path / "data", executor(), KEYS[0].public, with_log=True)


def test_a_store_known_to_have_another_state(rows: dict[bytes, bytes], tmp_path: Path) -> None:
    rows[schema.DIVERGED_KEY] = schema.pack_height(1) + bytes(33)
    with pytest.raises(BadArchive, match="not the one that was certified"):
        restore(io.BytesIO(archive_of(rows)), tmp_path / "data", executor(), KEYS[0].public, with_log=False)


def test_where_the_last_root_is_not_certified_yet_all_blocks_are_needed(
    rows: dict[bytes, bytes], tmp_path: Path
) -> None:
    """A node that was stopped in the moment between; executed again, all its blocks lead to that state."""
    _, store = store_of(rows)
    for height in (store.tip.checkpoint_height, store.tip.checkpoint_height - CHECKPOINT_INTERVAL):
        rows.setdefault(schema.at_height(schema.CHECKPOINT, height), encode(checkpoint_of(store, height).to_value()))
    del rows[schema.at_height(schema.CHECKPOINT, store.tip.checkpoint_height)]
    archive, path = io.BytesIO(archive_of(rows)), tmp_path / "data"
    if store.known_from == 1:
        restore(archive, path, executor(), KEYS[0].public, with_log=False)
    else:
        with pytest.raises(BadArchive, match="not certified yet: start the node"):
            restore(archive, path, executor(), KEYS[0].public, with_log=False)


def test_an_archive_of_another_chain_is_refused_before_anything_of_it_is_written(tmp_path: Path) -> None:
    rows = rows_of(whole())
    other = executor()
    other.genesis = type(other.genesis).from_json(other.genesis.to_json().replace("1000", "1001", 1))
    assert other.genesis.chain_id != executor().genesis.chain_id
    with pytest.raises(BadArchive, match="another chain"):
        restore(io.BytesIO(archive_of(rows)), tmp_path / "data", other, KEYS[0].public, with_log=False)
    with closing(LevelDB(tmp_path / "data" / "db")) as kv:
        assert not list(kv.scan(b""))
