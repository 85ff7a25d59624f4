"""`errors` and `completion`: what a code means, and the shell's completion script."""

from __future__ import annotations

import click

from ledger.errors import Code, code_label
from node.cli.common import Failure, json_option, print_json, show_table


@click.command()
@click.argument("code", required=False)
@json_option
def errors(code: str | None, as_json: bool) -> None:
    """Explain a code such as MC2204, or list all.

    \b
    Example:
        medchain errors MC2204
    """
    from ledger.explanations import EXPLANATIONS

    rows = [
        {
            "code": item.label,
            "name": item.name.lower(),
            "meaning": entry.summary,
            "action": entry.action,
            "retryable": entry.retryable,
        }
        for item, entry in sorted(EXPLANATIONS.items())
    ]
    rows += _of_rule_modules()
    if code is None:
        if as_json:
            print_json(rows)
        else:
            show_table(("code", "name", "meaning"), [(row["code"], row["name"], row["meaning"]) for row in rows])
        return
    digits = code.upper().removeprefix("MC")
    wanted = code_label(int(digits)) if digits.isdecimal() and len(digits) < 10 else code
    found = [row for row in rows if wanted == row["code"] or code.lower() == row["name"]]
    if not found:
        raise Failure(Code.NOT_FOUND, f"no code {code}; list them with: medchain errors")
    if as_json:
        print_json(found[0])
        return
    row = found[0]
    click.echo(f"{row['code']} {row['name']}\n  why: {row['meaning']}\n  do:  {row['action']}")
    if row["retryable"]:
        click.echo("  the same call may succeed later")


def _of_rule_modules() -> list[dict[str, object]]:
    """The codes of rule modules by others."""
    from node.plugins import available_modules

    rows: list[dict[str, object]] = []
    for point in available_modules().values():
        if point.value.startswith("ledger."):
            continue  # ours have their codes in the one table
        for code, entry in sorted(point.load().explanations.items()):
            name, meaning = code.name.lower(), entry.summary
            rows.append(
                {
                    "code": code_label(int(code)),
                    "name": name,
                    "meaning": meaning,
                    "action": entry.action,
                    "retryable": entry.retryable,
                }
            )
    return rows


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a SHELL.

    \b
    Example:
        medchain completion bash
    """
    from click.shell_completion import get_completion_class

    from node.cli import root

    found = get_completion_class(shell)
    if found is None:
        raise Failure(Code.BAD_REQUEST, f"no completion for {shell}")
    click.echo(found(root, {}, "medchain", "_MEDCHAIN_COMPLETE").source())
