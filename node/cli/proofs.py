"""`prove` and `verify-proof`: facts for those who do not trust the node that tells them (docs/proofs.md)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ledger.codec import encode
from ledger.errors import Code
from node.cli.common import Failure, api_option, connect, json_option, option, output, print_line, show

WATCH_S = 2


def bundle_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every `prove` command takes."""
    for decorate in (
        api_option,
        option("--since", default=0, type=click.IntRange(0), help="Epoch whose validators the reader trusts."),
        option("--out", required=True, metavar="FILE", help="Where the bundle goes; - is stdout."),
    ):
        command = decorate(command)
    return command


@click.group()
def prove() -> None:
    """Make proof bundles: one fact in one file, checked by `medchain verify-proof` without any node."""


@prove.command()
@click.argument("parts", nargs=-1, required=True)
@bundle_options
def state(parts: tuple[str, ...], out: str, since: int, api_url: str) -> None:
    """Prove an entry of the state, or that there is none, at the last certified checkpoint.

    PARTS are the entry's module, table and key: text as it is, bytes as hex:..., integers as int:...

    \b
    Example:
        medchain prove state payments balance CNY hospital --out balance.proof
    """
    from ledger.proofcheck import decode
    from ledger.state import state_key

    if len(parts) < 2:
        raise click.UsageError("PARTS begin with a module and a table.")
    key = state_key(*map(_part, parts))  # type: ignore[arg-type]
    with connect(api_url) as client:
        bundle = client.proof_of_state(key, since=since)
    _write(bundle, out)
    value = decode(bundle)[3][4]  # as the node says; whoever checks the bundle need not believe it
    shown = "nothing stands under this key" if value is None else f"value {json.dumps(_decoded(decode(value)))}"
    click.echo(f"proved: {shown}", err=True)


@prove.command()
@click.argument("transaction_id", metavar="ID")
@bundle_options
def transaction(transaction_id: str, out: str, since: int, api_url: str) -> None:
    """Prove that a transaction was ordered, with all it says.

    \b
    Example:
        medchain prove transaction 01ab... --out sent.proof
    """
    with connect(api_url) as client:
        _write(client.proof_of_transaction(transaction_id, since=since), out)


@prove.command()
@click.argument("transaction_id", metavar="ID")
@bundle_options
def receipt(transaction_id: str, out: str, since: int, api_url: str) -> None:
    """Prove what execution made of a transaction: accepted, or refused and why.

    There is no proof where it was only ever refused as expired, valid for too long or replayed: that is said of one
    copy, and another may have been accepted.

    \b
    Example:
        medchain prove receipt 01ab... --out accepted.proof
    """
    with connect(api_url) as client:
        _write(client.proof_of_receipt(transaction_id, since=since), out)


def _write(bundle: bytes, name: str) -> None:
    with output(name) as file:
        file.write(bundle)


def _part(text: str) -> str | int | bytes:
    kind, colon, rest = text.partition(":")
    try:
        if colon and kind == "hex":
            return bytes.fromhex(rest)
        if colon and kind == "int":
            number = int(rest)
            encode(number)
            return number
    except (ValueError, TypeError):
        raise click.BadParameter(f"{text!r} is not what it begins with", param_hint="PARTS") from None
    return text


@click.command(name="verify-proof")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@option("--genesis", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
        help="The chain's genesis, if that is what is trusted.")  # fmt: skip
@option("--trust", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
        help="Validators that are trusted, as --save-trust or `medchain light` wrote them.")  # fmt: skip
@option("--save-trust", type=click.Path(dir_okay=False, writable=True, path_type=Path), metavar="FILE",
        help="Keep the latest validators that the bundle leads to.")  # fmt: skip
@json_option
def verify_proof(file: Path, genesis: Path | None, trust: Path | None, save_trust: Path | None, as_json: bool) -> None:
    """Check a proof bundle with no node, no network and no database. Status 1 if it proves nothing.

    Key and value of an entry are shown as JSON, with bytes as {"hex": ...}: bytes and a text that looks like them are
    two different keys.

    \b
    Example:
        medchain verify-proof balance.proof --genesis cluster/genesis.json
    """
    from ledger.crypto import verify
    from ledger.proofcheck import BUNDLE_SIZE_BYTES_MAX, Refused, check
    from node.light import Forked, Memory

    if (genesis is None) == (trust is None):
        raise click.UsageError("One of --genesis and --trust says whom to trust.")
    believed = _of_genesis(genesis) if genesis is not None else Memory.read(trust or Path())
    try:
        with click.open_file(str(file), "rb") as opened:
            data = opened.read(BUNDLE_SIZE_BYTES_MAX + 1)
        proven = check(data, believed.trusted, verify)
    except Refused as error:
        raise Failure(Code.CHECK_FAILED, f"the bundle proves nothing: {error}") from None
    if save_trust is not None:
        kept = Memory.read(save_trust) if save_trust.exists() else believed
        try:
            kept.trusting(proven.trusted).write(save_trust)
        except Forked as error:
            raise Failure(Code.CHECK_FAILED, f"{save_trust}: {error}") from None
    document = {"proven": proven.kind, "height": proven.height, "epoch": proven.epoch, **_shown(proven.fact)}
    if not as_json:
        document |= {name: json.dumps(document[name]) for name in ("key", "value") if name in document}
    if not as_json and document.get("present") is False:
        document["value"] = "absent"
    show(document, as_json)


def _of_genesis(path: Path) -> Any:
    from ledger.proofcheck import Trusted
    from node.home import read_genesis
    from node.light import Memory

    genesis = read_genesis(path)
    return Memory(Trusted(genesis.chain_id, 0, genesis.validator_set.keys))


@click.command()
@click.argument("memory", type=click.Path(dir_okay=False, path_type=Path))
@option("--genesis", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
        help="The chain's genesis, to begin with; later MEMORY is enough.")  # fmt: skip
@option("--watch", is_flag=True, help="Go on until Ctrl-C, looking every few seconds.")
@option("--jsonl", "as_jsonl", is_flag=True, help="One JSON document a line.")
@api_option
def light(memory: Path, genesis: Path | None, watch: bool, as_jsonl: bool, api_url: str) -> None:
    """Follow the chain as a light client: by certificates alone, trusting no node.

    MEMORY is a file that keeps the validators trusted now and the latest certified block; each look begins there, over
    any changes of validators since. The node is only asked; what it says is checked. Status 1 if it proves nothing, or
    shows another chain than before. `verify-proof --trust MEMORY` checks bundles with what was learnt.

    \b
    Example:
        medchain light phone.json --genesis cluster/genesis.json --watch
    """
    from ledger.proofcheck import Refused
    from node.api.calls import ApiError
    from node.light import Forked, Memory

    if memory.exists():
        believed = Memory.read(memory)
        if genesis is not None and _of_genesis(genesis).trusted.chain_id != believed.trusted.chain_id:
            raise click.UsageError(f"{memory} is of another chain than {genesis}.")
    elif genesis is not None:
        believed = _of_genesis(genesis)
    else:
        raise click.UsageError(f"{memory} is not there: --genesis says what to begin with.")
    with connect(api_url) as client:
        while True:
            try:
                following, proven = believed.learn(client.proof_of_head(since=believed.trusted.epoch))
            except ApiError as error:
                if not watch or error.code != Code.NOT_FOUND:
                    raise
                time.sleep(WATCH_S)  # nothing is certified there yet
                continue
            except (Refused, Forked) as error:
                raise Failure(Code.CHECK_FAILED, f"{api_url} does not show this chain: {error}") from None
            moved, believed = following != believed, following
            if moved:
                believed.write(memory)
            if moved == watch:  # each step while it goes on; else where it ends
                _print_head(believed, proven, as_jsonl)
            if not moved and not watch:
                return
            if not moved:
                time.sleep(WATCH_S)


def _print_head(believed: Any, proven: Any, as_jsonl: bool) -> None:
    """What is believed; of what the node showed, what belongs to that block."""
    document = {"height": believed.height, "epoch": believed.trusted.epoch, "validators": len(believed.trusted.keys)}
    document["block_hash"] = believed.block_hash.hex()
    if proven.height == believed.height:
        document |= _shown(proven.fact)
    else:
        document["node_is_behind_at"] = proven.height
    if as_jsonl:
        print_line(document)
    else:
        click.echo("  ".join(f"{name} {value}" for name, value in document.items()))


def _shown(fact: dict[str, Any]) -> dict[str, Any]:
    """For people: entries and transactions decoded, hashes and keys in hexadecimal."""
    from ledger.proofcheck import Refused, decode
    from ledger.transaction import Transaction
    from node.jsonvalues import value_to_json

    found = {name: value_to_json(value) for name, value in fact.items()}
    if "key" in fact:
        found |= {"key_hex": fact["key"].hex(), "present": fact["value"] is not None}
        for name in ("key", "value"):
            try:
                found[name] = None if fact[name] is None else _decoded(decode(fact[name]))
            except Refused:  # any bytes may be proved absent
                found[name] = {"hex": fact[name].hex()}
    if "wire" in fact:
        tx = Transaction.decode(fact["wire"])
        found["sender"], found["operation"] = tx.sender.hex(), tx.operation
    return found


def _decoded(value: Any) -> Any:
    """As JSON, with bytes told from text, which have no objects of their own."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    return [_decoded(item) for item in value] if isinstance(value, tuple) else value
