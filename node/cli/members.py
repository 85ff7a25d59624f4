"""`member` and `evidence`: institutions, validators, parameters, the votes that change them, and convictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ledger.errors import Code
from node.cli.common import (
    Failure,
    api_option,
    connect,
    json_option,
    option,
    send,
    send_options,
    show,
    show_page,
    show_table,
)

MEMBER_HEADINGS = ("id", "name", "roles", "prefixes", "glns", "active")
EVIDENCE_HEADINGS = ("height", "epoch", "member", "key", "offence", "place", "loses_vote", "id")


@click.group()
def member() -> None:
    """Members and governance: list, propose, vote, keys, parameters."""


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
@option("--add", multiple=True, metavar="KEY:PROOF", help="A key to add, as `medchain key prove` prints it.")
@option("--remove", multiple=True, metavar="KEY", help="A validator's public key to remove.")
@send_options
def validators(add: Sequence[str], remove: Sequence[str], **options: Any) -> int:
    """Propose to add and remove validators, signed with a validator's node key.

    Removing one key and adding another at once is a rotation. The proposal's id is that of the transaction.

    \b
    Example:
        medchain member propose validators --add 01ab...:01cd... --key cluster/hospital/node.key
    """
    if not add and not remove:
        raise Failure(Code.BAD_REQUEST, "nothing to propose: give --add or --remove")
    keys, proofs = _joining(add)
    document = {"add": keys, "remove": list(remove), "proofs": proofs}
    return send("members.propose_validators", document, makes="proposal", **options)


@propose.command(name="parameters")
@option("--set", "settings", multiple=True, required=True, metavar="NAME=NUMBER", help="A parameter's new value.")
@send_options
def propose_parameters(settings: Sequence[str], **options: Any) -> int:
    """Propose other values for what all nodes share, in force from the next epoch on.

    \b
    Example:
        medchain member propose parameters --set view_timeout_ms=2000 --key cluster/hospital/node.key
    """
    changes = []
    for setting in settings:
        name, _, number = setting.partition("=")
        if not number.isdecimal():
            raise Failure(Code.BAD_REQUEST, f"{setting}: a parameter is set as NAME=NUMBER")
        changes.append([name, int(number)])
    return send("members.propose_parameters", {"changes": changes}, makes="proposal", **options)


@propose.command()
@click.argument("member_id")
@option("--name", required=True, help="The institution's name.")
@option("--role", "roles", multiple=True, required=True, help="hospital, manufacturer, distributor, ...")
@option(
    "--public-key", required=True, metavar="KEY:PROOF",
    help="A key that signs for it, as `medchain key prove` prints it; one of its own needs no proof.",
)  # fmt: skip
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
        medchain member propose institution clinic --name Clinic --role hospital --public-key 01ab...:01cd... \\
            --key cluster/hospital/node.key
    """
    (key,), (proof,) = _joining([public_key])
    document = {
        "id": member_id,
        "name": name,
        "roles": list(roles),
        "key": key,
        "prefixes": list(prefixes),
        "glns": list(glns),
        "active": not suspend,
        "proof": proof,
    }
    return send("members.propose_institution", document, makes="proposal", **options)


def _joining(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Keys and their proofs, from what `medchain key prove` prints."""
    parts = [text.strip().partition(":") for text in texts]
    return [key for key, _, _ in parts], [proof for _, _, proof in parts]


@member.command()
@click.argument("proposal")
@option("--refuse", is_flag=True, help="Refuse, or take back an approval; the proposer's own withdraws it.")
@send_options
def vote(proposal: str, refuse: bool, **options: Any) -> int:
    """Approve a PROPOSAL (its id), signed with a validator's node key.

    \b
    Example:
        medchain member vote 01ab... --key cluster/maker/node.key
    """
    return send("members.vote", {"proposal": proposal, "approve": not refuse}, **options)


@member.command(name="add-keys")
@click.argument("joining", nargs=-1, required=True, metavar="KEY:PROOF...")
@send_options
def add_keys(joining: Sequence[str], **options: Any) -> int:
    """Let further keys sign for the institution that signs this, each as `medchain key prove` prints it.

    \b
    Example:
        medchain member add-keys 01ab...:01cd... --key dev:hospital
    """
    keys, proofs = _joining(joining)
    return send("members.add_keys", {"keys": keys, "proofs": proofs}, **options)


@member.command(name="remove-keys")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@send_options
def remove_keys(keys: Sequence[str], **options: Any) -> int:
    """Let keys sign no longer for the institution that signs this; not the one that signs.

    \b
    Example:
        medchain member remove-keys 01ab... --key dev:hospital
    """
    return send("members.remove_keys", {"keys": list(keys)}, **options)


@member.command()
@api_option
@json_option
def parameters(api_url: str, as_json: bool) -> None:
    """Show what all nodes share, in force and to come.

    \b
    Example:
        medchain member parameters
    """
    answer = connect(api_url).parameters()
    if as_json:
        show(answer, as_json)
        return
    following = (answer["next"] or {}).get("values", {})
    rows = [[name, value, following.get(name)] for name, value in answer["values"].items()]
    headings = ["parameter", "value", f"from height {answer['next']['first_height']}"] if following else []
    show_table(headings or ["parameter", "value"], rows if following else [row[:2] for row in rows])


@click.group()
def evidence() -> None:
    """Validators that contradicted themselves."""


@evidence.command(name="list")
@option("--after", default=None, metavar="CURSOR", help="Only what came after this cursor.")
@option("--limit", default=100, type=click.IntRange(1, 500), help="At most so many.")
@api_option
@json_option
def list_evidence(after: str | None, limit: int, api_url: str, as_json: bool) -> None:
    """List who was shown to have signed two contradicting statements, and whether it loses its vote.

    \b
    Example:
        medchain evidence list
    """
    show_page(connect(api_url).evidence(after=after, limit=limit), EVIDENCE_HEADINGS, as_json)
