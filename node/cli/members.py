"""`member`: institutions, validators, and the votes that change them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ledger.errors import Code
from node.cli.common import Failure, api_option, connect, json_option, option, send, send_options, show_page

MEMBER_HEADINGS = ("id", "name", "roles", "prefixes", "glns", "active")


@click.group()
def member() -> None:
    """Members and governance: list, propose, vote."""


@member.command(name="list")
@option("--proposals", is_flag=True, help="The proposals instead.")
@api_option
@json_option
def list_members(proposals: bool, api_url: str, as_json: bool) -> None:
    """List institutions, or proposals.

    \b
    Example:
        medchain member list --proposals
    """
    client = connect(api_url)
    items = client.proposals() if proposals else client.members()
    headings = ("id", "open", "proposer", "change", "approvals") if proposals else MEMBER_HEADINGS
    show_page({"items": items}, headings, as_json)


@member.group()
def propose() -> None:
    """Propose a change; it passes when a quorum of the validators has approved it."""


@propose.command()
@option("--add", multiple=True, metavar="KEY", help="A validator's public key to add.")
@option("--remove", multiple=True, metavar="KEY", help="A validator's public key to remove.")
@send_options
def validators(add: Sequence[str], remove: Sequence[str], **options: Any) -> int:
    """Propose to add and remove validators, signed with a validator's node key.

    Removing one key and adding another at once is a rotation. The receipt's id is the proposal's.

    \b
    Example:
        medchain member propose validators --add 01ab... --key cluster/hospital/node.key
    """
    if not add and not remove:
        raise Failure(Code.BAD_REQUEST, "nothing to propose: give --add or --remove")
    return send("members.propose_validators", {"add": list(add), "remove": list(remove)}, **options)


@propose.command()
@click.argument("member_id")
@option("--name", required=True, help="The institution's name.")
@option("--role", "roles", multiple=True, required=True, help="hospital, manufacturer, distributor, ...")
@option("--public-key", required=True, metavar="KEY", help="The first key that signs for it.")
@option("--prefix", "prefixes", multiple=True, help="A GS1 company prefix.")
@option("--gln", "glns", multiple=True, help="A global location number.")
@option("--suspend", is_flag=True, help="Propose to suspend it.")
@send_options
def institution(
    member_id: str,
    name: str,
    roles: Sequence[str],
    public_key: str,
    prefixes: Sequence[str],
    glns: Sequence[str],
    suspend: bool,
    **options: Any,
) -> int:
    """Propose to admit, change or suspend the institution MEMBER_ID, signed with a validator's node key.

    \b
    Example:
        medchain member propose institution clinic --name Clinic --role hospital --public-key 01ab...
            --key cluster/hospital/node.key
    """
    document = {
        "id": member_id,
        "name": name,
        "roles": list(roles),
        "key": public_key,
        "prefixes": list(prefixes),
        "glns": list(glns),
        "active": not suspend,
    }
    return send("members.propose_institution", document, **options)


@member.command()
@click.argument("proposal")
@option("--refuse", is_flag=True, help="Record a refusal; the proposer's own withdraws it.")
@send_options
def vote(proposal: str, refuse: bool, **options: Any) -> int:
    """Approve a PROPOSAL (its id), signed with a validator's node key.

    \b
    Example:
        medchain member vote 01ab... --key cluster/maker/node.key
    """
    return send("members.vote", {"proposal": proposal, "approve": not refuse}, **options)
