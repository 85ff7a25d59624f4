"""Reading the chain: `block`, `events`, `pack`."""

from __future__ import annotations

import time
from typing import Any

import click

from node.cli.common import (
    ENVIRONMENT_PREFIX,
    api_option,
    connect,
    json_option,
    option,
    print_json,
    print_line,
    show,
    show_table,
)

POLL_S = 0.5
PAGE_EVENTS = 500


@click.group()
def block() -> None:
    """Blocks."""


@block.command(name="get")
@click.argument("height", type=click.IntRange(0))
@api_option
@json_option
def block_get(height: int, api_url: str, as_json: bool) -> None:
    """Show a block: header, transactions, certificate.

    \b
    Example:
        medchain block get 1 --json
    """
    show(connect(api_url).block(height), as_json)


@click.command()
@option("--after", default="", metavar="CURSOR", help="Only what came after this cursor; empty: from the start.")
@option("--limit", default=100, type=click.IntRange(1), help="At most so many, without --follow.")
@option("--follow", is_flag=True, help="Go on with new ones until Ctrl-C.")
@option("--jsonl", "as_jsonl", is_flag=True, envvar=f"{ENVIRONMENT_PREFIX}JSONL", help="One JSON document a line.")
@api_option
def events(after: str, limit: int, follow: bool, as_jsonl: bool, api_url: str) -> None:
    """List committed transactions in order, each with the cursor to go on from.

    \b
    Example:
        medchain events --jsonl --follow
    """
    client = connect(api_url)
    cursor = after
    while True:
        page = PAGE_EVENTS if follow else limit
        count = 0
        for event in client.events(cursor, page):
            count += 1
            cursor = str(event.get("cursor", cursor))
            if as_jsonl:
                print_line(event)
            else:
                click.echo(_event_line(event))
            if count >= page:
                break
        if not follow:
            return
        if count < page:
            time.sleep(POLL_S)


def _event_line(event: dict[str, Any]) -> str:
    shown = (event.get("cursor"), event.get("height"), event.get("operation"), event.get("code"), event.get("id"))
    return "  ".join("-" if item is None else str(item) for item in shown)


@click.group()
def pack() -> None:
    """Drug packs."""


@pack.command()
@click.argument("epc")
@api_option
@json_option
def trace(epc: str, api_url: str, as_json: bool) -> None:
    """Show where a pack has been, from its maker to its patient.

    EPC is as on the chain, e.g. 01/<GTIN>/21/<serial>.

    \b
    Example:
        medchain pack trace 01/04012345000009/21/1
    """
    found = connect(api_url).pack(epc)
    if as_json:
        print_json(found)
        return
    history = found.get("history") or found.get("events") or []
    show({name: value for name, value in found.items() if value is not history}, False)
    if history:
        headings = list(dict.fromkeys(name for entry in history for name in entry))
        show_table(headings, [[entry.get(name) for name in headings] for entry in history])
