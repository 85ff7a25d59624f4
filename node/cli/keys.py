"""`key`: make and show key files."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.common import json_option, show


@click.group()
def key() -> None:
    """Keys: gen, show."""


@key.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def gen(path: Path, as_json: bool) -> None:
    """Make a new key and write it to PATH (mode 0600). Never overwrites.

    \b
    Example:
        medchain key gen my.key
    """
    from node import keys

    pair = keys.generate()
    keys.save(path, pair)
    show({"path": str(path), "public": pair.public.hex()}, as_json)


@key.command(name="show")
@click.argument("reference", metavar="FILE|dev:NAME")
@json_option
def show_key(reference: str, as_json: bool) -> None:
    """Show the public half of a key file or development key.

    \b
    Example:
        medchain key show dev:hospital
    """
    from node import keys

    show({"key": reference, "public": keys.resolve(reference).public.hex()}, as_json)
