"""Reading the chain: `block`, `events`, `pack`."""

from __future__ import annotations

from typing import Any

import click

from node.cli.common import (
    ENVIRONMENT_PREFIX,
    STEP_HEADINGS,
    api_option,
    connect,
    json_option,
    option,
    print_line,
    show,
    show_page,
)


class Height(click.ParamType):  # type: ignore[type-arg]
    """A height, or `latest`."""

    name = "height"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "latest":
            return "latest"
        try:
            return int(click.IntRange(1).convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"{value!r} is neither a height from 1 on nor `latest`.", param, ctx)


@click.group()
def block() -> None:
    """Blocks."""


@block.command(name="get")
@click.argument("height", type=Height())
@api_option
@json_option
def block_get(height: int | str, api_url: str, as_json: bool) -> None:
    """Show a block: header, transactions, certificate. HEIGHT is a number or `latest`.

    \b
    Example:
        medchain block get latest --json
    """
    show(connect(api_url).block(height), as_json)


@click.command()
@option("--after", default="0:0", metavar="CURSOR", help="Only what came after this cursor.")
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
    for event in connect(api_url).events(after, None if follow else limit, follow):
        if as_jsonl:
            print_line(event)
        else:
            click.echo(_event_line(event))


def _event_line(event: dict[str, Any]) -> str:
    shown = (event.get("cursor"), event.get("height"), event.get("operation"), event.get("name"), event.get("id"))
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
    show_page(connect(api_url).trace(epc), STEP_HEADINGS, as_json)


@pack.command()
@click.argument("epc")
@api_option
@json_option
def get(epc: str, api_url: str, as_json: bool) -> None:
    """Show what holds for a pack now: where it is, its lot, its temperatures.

    \b
    Example:
        medchain pack get 01/04012345000009/21/1
    """
    show(connect(api_url).pack(epc), as_json)
