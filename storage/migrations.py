"""Stores of earlier formats, made into one of the present format where they lie.

Each step takes a store one format further. It may be killed at any moment: begun again, it goes on from any of its
writes, and the format's name is written last. There is no way back: older software refuses the new format.

Must not know: what a chain store does with its records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from types import MappingProxyType
from typing import Final

from ledger.block import Proposal
from ledger.codec import encode
from ledger.errors import CodecError
from ledger.stateproof import hash_key
from storage import schema
from storage.errors import Corruption
from storage.kv import KeyValue
from storage.statetree import decode_record

ROWS_AT_ONCE = 10_000

UNDO = b"U"  # in formats up to 4
LEAF_SIZE_BYTES = len(schema.LEAF) + schema.BUCKET_SIZE_BYTES  # of a key, in formats up to 5


def _batches(key: bytes, data: bytes) -> tuple[bytes, ...]:
    match decode_record(data, key):
        case (proposal, _):
            try:
                return Proposal.from_value(proposal).batches
            except CodecError as error:
                raise Corruption(f"record {key.hex()}: {error}") from None
    raise Corruption(f"record {key.hex()} is not a proposal")


def _nothing(kv: KeyValue) -> None:
    """Only the name: what stops in the middle of the next step is read by no older software. And what format 2 added, a
    record of batches ordered again, format 4 makes anew."""


def _from_2(kv: KeyValue) -> None:
    """Index entries of one key in one block become one: `I hash height` -> positions, instead of a row for each."""
    row_size_bytes = len(schema.at_height(schema.index_prefix("", b""), 0)) + 4  # of a former row, position included
    puts: dict[bytes, bytes] = {}
    deletes: list[bytes] = []
    former = (key for key, _ in kv.scan_prefix(schema.INDEX) if len(key) == row_size_bytes)
    for entry, rows in groupby(former, lambda key: key[:-4]):
        done = list(rows)
        puts[entry] = b"".join(key[-4:] for key in done)
        deletes += done
        if len(deletes) >= ROWS_AT_ONCE:
            kv.write(puts.items(), deletes)
            puts, deletes = {}, []
    kv.write(puts.items(), deletes)


def _from_3(kv: KeyValue) -> None:
    """Batches go from under their digests to heights and numbers, which `D digest` names; of receipts only what blocks
    do not tell is kept, their exceptions."""
    for key, data in kv.scan_prefix(schema.PROPOSAL):
        if len(key) != len(schema.at_height(schema.PROPOSAL, 0)):
            raise Corruption(f"record {key.hex()} is of no height")
        height = schema.height_of(key)
        for number, digest in enumerate(_batches(key, data)):
            _move_batch(kv, digest, height, number)
    puts: list[tuple[bytes, bytes]] = []
    deletes: list[bytes] = []
    for key, data in kv.scan_prefix(schema.EXCEPTIONS):
        match decode_record(data, key):
            case (bytes(), ()):
                deletes.append(key)
            case (bytes(), tuple(exceptions)):
                puts.append((key, encode(exceptions)))
        if len(puts) + len(deletes) >= ROWS_AT_ONCE:
            kv.write(puts, deletes)
            puts, deletes = [], []
    kv.write(puts, deletes)


def _from_4(kv: KeyValue) -> None:
    """The state goes back to what it was at the last root; `U height` held, of each key that changed since, the value
    it had there. The blocks above are executed again whenever it is opened."""
    for undo_key, record in list(kv.scan_prefix(UNDO)):
        puts: dict[bytes, bytes] = {}
        deletes = [undo_key]
        items = decode_record(record, undo_key)
        if type(items) is not tuple or len(items) % 2:
            raise Corruption(f"undo record {undo_key.hex()} is not a list of pairs")
        for key, before in zip(items[::2], items[1::2], strict=True):
            if type(key) is not bytes or not isinstance(before, bytes | None):
                raise Corruption(f"undo record {undo_key.hex()} is not a list of pairs")
            entry = schema.state_entry(key, hash_key(key))
            if before is None:
                deletes.append(entry)
            else:
                puts[entry] = before
        kv.write(puts.items(), deletes)


def join_leaves(kv: KeyValue) -> None:
    """Digests of buckets with a row for each, `L bucket`, become one row of all. Also for what is not finished yet and
    thus has no format."""
    former = [(key, digest) for key, digest in kv.scan_prefix(schema.LEAF) if len(key) == LEAF_SIZE_BYTES]
    if former:
        data = b"".join([key[len(schema.LEAF) :] + digest for key, digest in former])
        kv.write([(schema.at_height(schema.LEAF, 0), data)], [key for key, _ in former])


def _move_batch(kv: KeyValue, digest: bytes, height: int, number: int) -> None:
    """One write, of what block `height` ordered; of earlier blocks it was done before."""
    former, place = schema.BATCH + digest, schema.ORDERED + digest
    data = kv.get(former)
    if data is not None:
        puts = [(schema.batch_key(height, number), data), (place, schema.pack_ordered(height, number, height))]
        kv.write(puts, [former])
    elif (ordered := kv.get(place)) is not None:
        if len(ordered) != schema.ORDERED_SIZE_BYTES:
            raise Corruption(f"batch {digest.hex()} is missing")
        first, its_number, last = schema.unpack_ordered(ordered)
        if last < height:  # else the height is of the block that was here when this began the first time
            kv.write([(place, schema.pack_ordered(first, its_number, height))])


STEPS: Final[Mapping[bytes, tuple[bytes, Callable[[KeyValue], None]]]] = MappingProxyType(
    {
        b"medchain/store/1": (b"medchain/store/2", _nothing),
        b"medchain/store/2": (b"medchain/store/2-3", _nothing),
        b"medchain/store/2-3": (b"medchain/store/3", _from_2),
        b"medchain/store/3": (b"medchain/store/3-4", _nothing),
        b"medchain/store/3-4": (b"medchain/store/4", _from_3),
        b"medchain/store/4": (b"medchain/store/4-5", _nothing),
        b"medchain/store/4-5": (b"medchain/store/5", _from_4),
        b"medchain/store/5": (b"medchain/store/5-6", _nothing),
        b"medchain/store/5-6": (b"medchain/store/6", join_leaves),
    }
)
"""Format -> the next one, and what leads there."""


def upgrade(kv: KeyValue) -> bytes | None:
    """Take the store to the present format; the format it had, or None where there was nothing to do. What is no store,
    or one of later software, is left as it is."""
    found = kv.get(schema.FORMAT_KEY)
    current = found
    while current is not None and current in STEPS:
        current, step = STEPS[current]
        step(kv)
        kv.write([(schema.FORMAT_KEY, current)], sync=True)
    return None if current == found else found
