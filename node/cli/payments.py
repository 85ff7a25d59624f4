"""`claim`: a treatment is claimed, confirmed by the patient, and paid in the same block."""

from __future__ import annotations

import secrets
from typing import Any

import click

from node.cli.common import api_option, connect, json_option, option, send, send_options, show


@click.group()
def claim() -> None:
    """Claims: open, confirm, show."""


def claim_options(command: Any) -> Any:
    for decorate in (
        option("--treatment", required=True, metavar="HASH", help="Commitment to what was done."),
        option("--amount", required=True, type=click.IntRange(1), help="Minor units of the policy's currency."),
        option("--policy", required=True, metavar="HASH", help="The policy's id."),
    ):
        command = decorate(command)
    return command


@claim.command(name="open")
@option("--claim", "claim_id", metavar="HASH", help="The claim's id; else a random one.")
@claim_options
@send_options
def open_claim(claim_id: str | None, policy: str, amount: int, treatment: str, **options: Any) -> int:
    """Claim for a treatment, signed by the hospital.

    \b
    Example:
        medchain claim open --policy 01ab... --amount 12000 --treatment 01cd... --key dev:hospital
    """
    if claim_id is None:
        claim_id = "01" + secrets.token_hex(32)
        click.echo(f"claim {claim_id}", err=True)
    document = {"claim": claim_id, "policy": policy, "amount": amount, "treatment": treatment}
    return send("payments.claim", document, makes="claim", **options)


@claim.command()
@click.argument("claim_id")
@option("--provider", required=True, metavar="ID", help="The institution that is paid.")
@claim_options
@send_options
def confirm(claim_id: str, provider: str, policy: str, amount: int, treatment: str, **options: Any) -> int:
    """Confirm a treatment, its price and who is paid, signed by the patient.

    \b
    Example:
        medchain claim confirm 01ef... --provider hospital --policy 01ab... --amount 12000 \\
            --treatment 01cd... --key dev:patient
    """
    document = {"claim": claim_id, "policy": policy, "provider": provider, "amount": amount, "treatment": treatment}
    return send("payments.confirm", document, **options)


@claim.command(name="show")
@click.argument("claim_id")
@api_option
@json_option
def show_claim(claim_id: str, api_url: str, as_json: bool) -> None:
    """Show a claim and what each side paid.

    \b
    Example:
        medchain claim show 01ef...
    """
    show(connect(api_url).claim(claim_id), as_json)
