"""`record` and `consent`: medical records outside the chain, and who may read them.

A record is encrypted here and kept by the custodian's node outside the chain, which gets a salted commitment to it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.errors import Code, FileError
from node.cli.common import (
    STEP_HEADINGS,
    Exit,
    Failure,
    api_option,
    connect,
    escaped,
    home_option,
    json_option,
    option,
    send,
    send_options,
    settings_of,
    show,
    show_page,
    submit_and_wait,
    tell_refusal,
)

if TYPE_CHECKING:
    from node.api.client import SyncClient

RECORD_SIZE_BYTES_MAX = 16 * 1024 * 1024  # the vault's own limit; read no more than that
DAY_MS = 86_400_000
PURPOSES = ("treatment", "payment", "operations", "research", "public_health", "patient_request")  # as the rules have
MEDIA_TYPE_DEFAULT = "application/fhir+json"


def _public_key(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        what = f"--patient {text}: a public key is hexadecimal, as `medchain key show` prints it"
        raise Failure(Code.BAD_REQUEST, what) from None


def _sending(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("api_url", "key_reference", "timeout_s", "valid_for")}


@click.group()
def record() -> None:
    """Medical records: add, get, read, erase, history."""


@record.command()
@click.argument("file", type=click.File("rb"))
@option("--patient", required=True, metavar="KEY", help="The patient's pseudonymous public key.")
@option("--kind", required=True, help="What it is, e.g. a FHIR resource type.")
@option("--media-type", default=MEDIA_TYPE_DEFAULT, help="How FILE is written.")
@home_option
@send_options
def add(file: Any, patient: str, kind: str, media_type: str, home: Path, **options: Any) -> int:
    """Encrypt FILE for patient and custodian, hand it to the custodian's node, and register a commitment to it.

    The node keeps it in its vault; its key and the operator's token are read from its data folder. The key must be one
    of the custodian's (`medchain member add-keys`): else it releases the record to nobody.

    \b
    Example:
        medchain record add observation.json --patient 01ab... --kind Observation --key dev:hospital \\
            --home cluster/hospital
    """
    from node import keys, vault

    content = file.read(RECORD_SIZE_BYTES_MAX + 1)
    client, token, custodian = _own_node(home, options["api_url"])
    readers = [_public_key(patient), keys.resolve(options["key_reference"]).public, custodian]
    sealed = vault.seal(content, media_type=media_type, recipients=list(dict.fromkeys(readers)))
    client.vault_put(sealed.data, token)
    commitment = sealed.commitment
    document = {"record": commitment.hex(), "patient": patient, "kind": kind, "size_bytes": len(content)}
    click.echo(f"record {commitment.hex()}", err=True)
    status = send("records.register", document, makes="record", **options)
    if status == Exit.REFUSED:
        _tell_who_was_first(client, commitment)
    return status


def _own_node(home: Path, api_url: str) -> tuple[SyncClient, str, bytes]:
    """The node of `home`, which must be the one that answers at `api_url`; the operator's token and the node's key.

    The key is the one that lies here, whatever the node says: a record sealed for a foreign node's could be read there.
    """
    from node import keys
    from node.api import tokens

    try:
        token, key = tokens.load(home), keys.load(settings_of(home).key_path).public
    except FileError as error:
        raise FileError(f"{error}; --home takes the folder of the node that --api asks") from None
    client = connect(api_url)
    if client.status().get("key") != key.hex():
        raise click.UsageError(f"--home and --api name different nodes: {escaped(api_url)} has not the key in {home}.")
    return client, token, key


def _tell_who_was_first(client: SyncClient, commitment: bytes) -> None:
    """The salt is fresh: whoever has registered this commitment saw ours on its way into a block."""
    from node.api.client import ApiError

    try:
        custodian = client.record(commitment)["custodian"]
    except ApiError:
        return  # nobody has: it was refused for another reason, which has been told
    click.echo(
        f"{escaped(custodian)} registered this commitment while it was on its way into a block. That opens nothing:\n"
        "your node keeps the record sealed and releases it to nobody. Now add the record again; its commitment is new.",
        err=True,
    )


@record.command()
@click.argument("record_id")
@api_option
@json_option
def get(record_id: str, api_url: str, as_json: bool) -> None:
    """Show what the chain knows of a record.

    \b
    Example:
        medchain record get 01ab...
    """
    show(connect(api_url).record(record_id), as_json)


@record.command()
@click.argument("record_id")
@option("--purpose", required=True, type=click.Choice(PURPOSES), help="Why, as granted.")
@option("--reason", default="read", help="A code of your own; never a name.")
@option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Where the content goes; else stdout.")
@send_options
def read(record_id: str, purpose: str, reason: str, output: Path | None, **options: Any) -> int:
    """Log a read on the chain; if it is allowed, get the record from the custodian's node (--api) and decrypt it.

    \b
    Example:
        medchain record read 01ab... --purpose treatment --key dev:hospital --output record.json
    """
    from node import keys, vault

    if options["no_wait"]:
        raise Failure(Code.BAD_REQUEST, "a record is opened only once its access is final: leave --no-wait out")
    document = {"record": record_id, "purpose": purpose, "reason": reason}
    receipt = submit_and_wait("records.access", document, **_sending(options))
    status = tell_refusal(receipt)
    if status != Exit.DONE:
        return status
    sealed = connect(options["api_url"]).vault_get(record_id, receipt["id"])
    opened = vault.open_record(sealed, keys.resolve(options["key_reference"]))
    if output is None:
        sys.stdout.buffer.write(opened.plaintext)
        sys.stdout.buffer.flush()
    else:
        with open(output, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as target:
            target.write(opened.plaintext)
    return Exit.DONE


@record.command()
@click.argument("record_id")
@home_option
@send_options
def erase(record_id: str, home: Path, **options: Any) -> int:
    """Erase a record from the custodian's vault, for good, and then tell the chain that it is.

    For one that its patient has withdrawn, or that is past its retention. Whoever was given a copy keeps it, and so do
    backups made with --with-vault: erase those as well. If it fails halfway, do it again.

    \b
    Example:
        medchain record erase 01ab... --key dev:hospital --home cluster/hospital
    """
    from node import keys
    from node.api.client import ApiError

    client, token, _ = _own_node(home, options["api_url"])
    # What the chain would refuse is asked first: nothing brings a record back.
    custodian = client.record(record_id)["custodian"]
    sender = client.member(keys.resolve(options["key_reference"]).public.hex())["id"]
    if sender != custodian:
        what = f"the custodian is {escaped(custodian)}, and --key signs for {escaped(sender)}; nothing was erased"
        raise Failure(Code.NOT_THE_CUSTODIAN, what)
    try:
        client.vault_erase(record_id, token)
    except ApiError as error:
        if error.code != Code.RECORD_ERASED:  # by a call before, which did not get as far as the chain
            raise
    return send("records.erased", {"record": record_id}, **options)


@record.command()
@click.argument("record_id")
@api_option
@json_option
def history(record_id: str, api_url: str, as_json: bool) -> None:
    """Show who read a record, when and why.

    \b
    Example:
        medchain record history 01ab... --json
    """
    show_page(connect(api_url).record_history(record_id), STEP_HEADINGS, as_json)


@click.group()
def consent() -> None:
    """A patient's consent: grant, revoke."""


@consent.command()
@option("--reader", required=True, metavar="ID|KEY", help="An institution's id, or a person's public key.")
@option(
    "--purpose",
    "purposes",
    multiple=True,
    required=True,
    type=click.Choice(PURPOSES),
    help="What for; may be repeated.",
)
@option("--days", default=30, type=click.IntRange(1, 36_500), help="How long from now.")
@option("--record", "records", multiple=True, metavar="ID", help="Only these records; else all of the kind given.")
@option("--custodian", metavar="ID", help="Only records held by this institution.")
@option("--kind", help="Only records of this kind.")
@send_options
def grant(
    reader: str,
    purposes: Sequence[str],
    days: int,
    records: Sequence[str],
    custodian: str | None,
    kind: str | None,
    **options: Any,
) -> int:
    """Let someone read, signed by the patient. The grant's id is that of the transaction.

    \b
    Example:
        medchain consent grant --reader insurer --purpose payment --days 7 --key dev:patient
    """
    document = {
        "reader": reader,
        "purposes": list(purposes),
        "expires_ms": time.time_ns() // 1_000_000 + days * DAY_MS,
        "records": list(records),
        "custodian": custodian,
        "kind": kind,
    }
    return send("records.grant", document, makes="grant", **options)


@consent.command()
@click.argument("grant_id")
@send_options
def revoke(grant_id: str, **options: Any) -> int:
    """End a grant, signed by the patient.

    \b
    Example:
        medchain consent revoke 01ab... --key dev:patient
    """
    return send("records.revoke", {"grant": grant_id}, **options)
