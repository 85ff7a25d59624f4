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
from ledger.errors import CodecError
from storage import schema
from storage.errors import Corruption
from storage.kv import KeyValue
from storage.statetree import decode_record

ROWS_AT_ONCE = 10_000


def _from_1(kv: KeyValue) -> None:
    """Batches that more than one block ordered get a record of the last (`D`), so that pruning leaves them to it."""
    known: set[bytes] = set()
    again: dict[bytes, bytes] = {}
    for key, data in kv.scan_prefix(schema.PROPOSAL):
        if len(key) != len(schema.at_height(schema.PROPOSAL, 0)):
            raise Corruption(f"record {key.hex()} is of no height")
        for digest in _batches(key, data):
            if digest in known:
                again[schema.AGAIN + digest] = schema.pack_height(schema.height_of(key))
            known.add(digest)
        if len(again) >= ROWS_AT_ONCE:
            kv.write(again.items())
            again = {}
    kv.write(again.items())


def _batches(key: bytes, data: bytes) -> tuple[bytes, ...]:
    match decode_record(data, key):
        case (proposal, _):
            try:
                return Proposal.from_value(proposal).batches
            except CodecError as error:
                raise Corruption(f"record {key.hex()}: {error}") from None
    raise Corruption(f"record {key.hex()} is not a proposal")


def _nothing(kv: KeyValue) -> None:
    """Only the name: what stops in the middle of the next step is read by no older software."""


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


STEPS: Final[Mapping[bytes, tuple[bytes, Callable[[KeyValue], None]]]] = MappingProxyType(
    {
        b"medchain/store/1": (b"medchain/store/2", _from_1),
        b"medchain/store/2": (b"medchain/store/2-3", _nothing),
        b"medchain/store/2-3": (b"medchain/store/3", _from_2),
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
