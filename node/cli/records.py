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
        raise Failure(Code.BAD_REQUEST, "a public key is hexadecimal") from None


def _sending(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("api_url", "key_reference", "timeout_s", "valid_for")}


@click.group()
def record() -> None:
    """Medical records: add, get, read, history."""


@record.command()
@click.argument("file", type=click.File("rb"))
@option("--patient", required=True, metavar="KEY", help="The patient's pseudonymous public key.")
@option("--kind", required=True, help="What it is, e.g. a FHIR resource type.")
@option("--media-type", default=MEDIA_TYPE_DEFAULT, help="How FILE is written.")
@home_option
@send_options
def add(file: Any, patient: str, kind: str, media_type: str, home: Path, **options: Any) -> int:
    """Encrypt FILE for patient and custodian, hand it to the custodian's node, and register a commitment to it.

    The node keeps it in its vault; the operator's token is read from its data folder. Its key must be one of the
    custodian's (`medchain member add-keys`): else it releases the record to nobody.

    \b
    Example:
        medchain record add observation.json --patient 01ab... --kind Observation --key dev:hospital
            --home cluster/hospital
    """
    from node import keys, vault
    from node.api import tokens
    from node.api.client import ApiError

    content = file.read(RECORD_SIZE_BYTES_MAX + 1)
    try:
        token = tokens.load(home)
    except FileError as error:
        raise FileError(f"{error}; --home takes the folder of the node that --api asks") from None
    client = connect(options["api_url"])
    readers = [_public_key(patient), keys.resolve(options["key_reference"]).public, _public_key(client.status()["key"])]
    sealed = vault.seal(content, media_type=media_type, recipients=list(dict.fromkeys(readers)))
    try:
        client.vault_put(sealed.data, token)
    except ApiError as error:
        if error.code != Code.UNAUTHORISED:
            raise
        what = f"the token in {home} is not of the node at {options['api_url']}: --home and --api name different nodes"
        raise Failure(Code.UNAUTHORISED, what) from None
    commitment = sealed.commitment
    document = {"record": commitment.hex(), "patient": patient, "kind": kind, "size_bytes": len(content)}
    click.echo(f"record {commitment.hex()}", err=True)
    status = send("records.register", document, makes="record", **options)
    if status == Exit.REFUSED:
        _tell_who_was_first(client, commitment)
    return status


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
