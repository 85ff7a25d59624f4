"""`export`: a stopped node's blocks or receipts as rows for other tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.common import bar, home_option, option, output, settings_of

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar


@click.group()
def export() -> None:
    """Write a chain's blocks or receipts as rows, for other tools."""


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        option("--to", "last", type=click.IntRange(1), metavar="HEIGHT", help="Up to this height. Default: the last."),
        option("--from", "first", type=click.IntRange(1), metavar="HEIGHT",
               help="From this height on. Default: the first that is kept."),
        option("--format", "form", type=click.Choice(["ndjson", "parquet"]), default="ndjson",
               help="One JSON document a line, or Parquet (needs medchain[parquet])."),
        option("--out", default="-", metavar="FILE", help="Where the rows go. Default: stdout."),
        home_option,
    ):  # fmt: skip
        command = decorate(command)
    return command


@export.command()
@_options
def blocks(home: Path, out: str, form: str, first: int | None, last: int | None) -> None:
    """One row for each block: header, certificate, its transactions' ids and codes.

    \b
    Example:
        medchain export blocks --home cluster/hospital --from 100 --to 200
    """
    _export("blocks", home, out, form, first, last)


@export.command()
@_options
def receipts(home: Path, out: str, form: str, first: int | None, last: int | None) -> None:
    """One row for each transaction: who signed what, in which block, and what came of it.

    \b
    Example:
        medchain export receipts --home cluster/hospital --format parquet --out receipts.parquet
    """
    _export("receipts", home, out, form, first, last)


def _export(table: str, home: Path, out: str, form: str, first: int | None, last: int | None) -> None:
    from node.export import TABLES, write_ndjson, write_parquet
    from node.home import open_home

    opened = open_home(settings_of(home))
    try:
        tip_height = opened.store.tip.height
        last = tip_height if last is None else last
        oldest = opened.store.pruned + 1
        first = oldest if first is None else first
        if not oldest <= first <= last <= tip_height:
            raise click.UsageError(f"--from and --to: this node has {oldest} to {tip_height}")
        with bar("blocks", last - first + 1) as done:
            rows = TABLES[table](opened.store, opened.registry, _told(range(first, last + 1), done))
            with output(out) as file:
                count = write_ndjson(rows, file) if form == "ndjson" else write_parquet(table, rows, file)
    finally:
        opened.close()
    click.echo(f"{count} rows of blocks {first} to {last}", err=True)


def _told(heights: Iterable[int], done: ProgressBar[int]) -> Iterator[int]:
    for height in heights:
        yield height
        done.update(1)
