"""`key`: make and show key files, and prove that one holds a key."""

from __future__ import annotations

from pathlib import Path

import click

from ledger.errors import Code
from node.cli.common import Failure, api_option, connect, genesis_of, json_option, option, show


@click.group()
def key() -> None:
    """Keys: gen, show, prove."""


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


@key.command()
@click.argument("reference", metavar="FILE|dev:NAME")
@option("--institution", "member_id", metavar="ID", help="The institution that the key is to sign for.")
@option("--validator", is_flag=True, help="The key is to vote, as a validator's node key.")
@option(
    "--genesis", "genesis_path", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="The chain's genesis; without it the node is asked which chain it is on.",
)  # fmt: skip
@api_option
@json_option
def prove(
    reference: str, member_id: str | None, validator: bool, genesis_path: Path | None, api_url: str, as_json: bool
) -> None:
    """Sign that a key's holder agrees to join a chain, and print KEY:PROOF.

    Who joins runs this and hands the line to a member, who proposes it; the key file stays where it is.

    \b
    Example:
        medchain key prove node.key --validator --genesis cluster/genesis.json
    """
    from ledger.modules.parties import VALIDATORS, join_statement
    from node import keys

    if validator == (member_id is not None):
        raise Failure(Code.BAD_REQUEST, "give either --institution ID or --validator")
    if genesis_path is not None:
        chain_id = genesis_of(genesis_path).chain_id
    else:
        chain_id = bytes.fromhex(connect(api_url).status()["chain"])
    pair = keys.resolve(reference)
    joining = f"{pair.public.hex()}:{pair.sign(join_statement(chain_id, member_id or VALIDATORS)).hex()}"
    if as_json:
        show({"key": pair.public.hex(), "chain": chain_id.hex(), "joining": joining}, as_json)
    else:
        click.echo(joining)
