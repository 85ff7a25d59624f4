"""A chain as tables for other people's tools: its blocks, or its receipts, as rows of JSON or a Parquet file.

    blocks     one row each: header, certificate, the ids and codes of its transactions
    receipts   one row for each transaction: what was signed, by whom, in which block, and what came of it

What a row says is what the HTTP API says of the same thing (node/api/views.py). In Parquet, where columns have types,
`fields` and `detail` are JSON text and times are timestamps in UTC.

Must not know: where the rows go, or that a node could be running.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO, Final

from ledger.errors import ConfigError
from ledger.rules import Registry
from node.api.problems import Codes
from node.api.views import block_json, operation_json, receipt_json
from storage.chain import ChainStore

ROWS_AT_ONCE: Final = 20_000  # of a row group: some 20 MB in memory

Row = dict[str, Any]


class NoParquet(ConfigError):
    """The library that writes Parquet is not installed."""

    def __init__(self) -> None:
        super().__init__('Parquet needs pyarrow: pip install "medchain[parquet]"')


# Rows


def blocks(store: ChainStore, registry: Registry, heights: Iterable[int]) -> Iterator[Row]:
    """The blocks of these heights, which must be there."""
    for height in heights:
        block, header = store.block(height), store.header(height)
        assert block is not None, "only heights up to the tip"
        assert header is not None
        yield block_json(store.chain_id, block, header, store.receipts(height), store.state_root(height))


def receipts(store: ChainStore, registry: Registry, heights: Iterable[int]) -> Iterator[Row]:
    """The transactions of these heights in their order, each with what came of it."""
    codes = Codes(registry)
    for height in heights:
        header = store.header(height)
        assert header is not None, "only heights up to the tip"
        found = store.receipts(height)
        _, transactions = next(store.transactions_since(height))
        for position, (tx, receipt) in enumerate(zip(transactions, found, strict=True)):
            yield (
                receipt_json(codes, (height, position), receipt)
                | {"time_ms": header.time_ms, "sender": tx.sender.hex()}
                | operation_json(registry, tx)
            )


TABLES: Final[dict[str, Callable[[ChainStore, Registry, Iterable[int]], Iterator[Row]]]] = {
    "blocks": blocks,
    "receipts": receipts,
}


# Files


def write_ndjson(rows: Iterable[Row], out: BinaryIO) -> int:
    """One JSON document a line; how many."""
    count = 0
    for row in rows:
        out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        count += 1
    out.flush()
    return count


def write_parquet(table: str, rows: Iterator[Row], out: BinaryIO) -> int:
    """One Parquet file; how many rows. NoParquet before a byte is written where the library is missing."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise NoParquet from None
    schema = _schemas(pyarrow)[table]
    texts = {field.name for field in schema if field.type == pyarrow.json_(pyarrow.string())}
    count = 0
    with parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        while group := [_flat(row, texts) for row in islice(rows, ROWS_AT_ONCE)]:
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))
            count += len(group)
    return count


def _flat(row: Row, texts: set[str]) -> Row:
    flat = {name: json.dumps(value, ensure_ascii=False) if name in texts else value for name, value in row.items()}
    flat["time"] = flat.pop("time_ms")
    return flat


def _schemas(pyarrow: Any) -> dict[str, Any]:
    text, whole = pyarrow.string(), pyarrow.int64()
    json_text, time = pyarrow.json_(text), pyarrow.timestamp("ms", tz="UTC")
    signature = pyarrow.struct({"validator": whole, "signature": text})
    certificate = {"epoch": whole, "view": whole, "digest": text, "signatures": pyarrow.list_(signature)}
    return {
        "blocks": pyarrow.schema(
            {
                "height": whole,
                "hash": text,
                "parent_hash": text,
                "time": time,
                "epoch": whole,
                "view": whole,
                "seal": pyarrow.bool_(),
                "tx_count": whole,
                "proposal_digest": text,
                "batches": pyarrow.list_(text),
                "transactions": pyarrow.list_(pyarrow.struct({"id": text, "code": whole})),
                "state_root": text,
                "certificate": pyarrow.struct(certificate),
            }
        ),
        "receipts": pyarrow.schema(
            {
                "height": whole,
                "position": whole,
                "cursor": text,
                "time": time,
                "id": text,
                "sender": text,
                "operation": text,
                "version": whole,
                "fields": json_text,
                "code": whole,
                "label": text,
                "name": text,
                "detail": json_text,
            }
        ),
    }
