"""`tx`: sign and submit any operation, look one up, watch it become final."""

from __future__ import annotations

import time
from typing import Any

import click

from ledger.errors import Code
from node.cli.common import (
    Failure,
    api_option,
    connect,
    json_option,
    option,
    print_json,
    print_result,
    read_json,
    send,
    send_options,
    show,
)

POLL_S = 0.2


@click.group()
def tx() -> None:
    """Transactions: submit, get, watch."""


@tx.command()
@click.argument("operation")
@click.argument("fields")
@send_options
def submit(operation: str, fields: str, **options: Any) -> int:
    """Sign an OPERATION here and send it. FIELDS is a JSON object, or - for stdin.

    Bytes are hexadecimal, amounts integers in minor units. The key never leaves this process.

    \b
    Example:
        medchain tx submit payments.transfer --key dev:insurer \\
            '{"currency": "CNY", "to": "hospital", "amount": 100, "reference": "invoice 7"}'
    """
    return send(operation, read_json(fields), **options)


@tx.command()
@click.argument("transaction_id")
@option("--receipt", is_flag=True, help="Only its outcome.")
@api_option
@json_option
def get(transaction_id: str, receipt: bool, api_url: str, as_json: bool) -> None:
    """Show a committed transaction by id.

    \b
    Example:
        medchain tx get 01ab... --receipt
    """
    client = connect(api_url)
    show(client.receipt(transaction_id) if receipt else client.transaction(transaction_id), as_json)


@tx.command()
@click.argument("transaction_id")
@option("--timeout", "timeout_s", default=30.0, type=click.FloatRange(0.1, 3_600), help="Seconds to wait.")
@api_option
@json_option
def watch(transaction_id: str, timeout_s: float, api_url: str, as_json: bool) -> int:
    """Wait until a transaction is final and print its receipt; status 4 if it is not in time.

    \b
    Example:
        medchain tx watch 01ab... --timeout 60
    """
    client = connect(api_url)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return print_result(client.receipt(transaction_id), as_json)
        except Exception as error:
            if getattr(error, "code", None) != Code.NOT_FOUND:
                raise
        if time.monotonic() >= deadline:
            raise Failure(
                Code.NOT_FINAL_IN_TIME,
                f"{transaction_id} is not on the chain after {timeout_s:g} s; whether any node holds it is not known",
            )
        time.sleep(POLL_S)


@tx.command()
@click.argument("operation")
def describe(operation: str) -> None:
    """Print an operation's fields as JSON Schema.

    \b
    Example:
        medchain tx describe payments.transfer
    """
    from ledger.fields import schema_of
    from node.cli.common import operation_class

    found = operation_class(operation)
    schema = schema_of(found)
    print_json(
        {
            "title": found.NAME,
            "version": found.VERSION,
            "description": (found.__doc__ or "").strip(),
            "type": "object",
            "properties": {name: field.describe() for name, field in schema},
            "required": [name for name, field in schema if type(field).__name__ != "Maybe"],
            "additionalProperties": False,
        }
    )
