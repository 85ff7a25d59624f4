"""The command line `medchain`: a group whose commands are imported when they are called.

    stdout is data, stderr everything else; `--json` prints one document, `--jsonl` a line each
    exit status: see `node.cli.common.Exit`

Must not import aiohttp, pydantic or rich: `--help` and completion answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from node.cli.common import ENVIRONMENT_PREFIX, Exit, known_variables, report

__all__ = ["main", "root", "run"]

_COMMANDS = {
    # name -> module in node/cli and the command's name there
    "backup": ("archive", "backup"),
    "block": ("chain", "block"),
    "claim": ("payments", "claim"),
    "cluster": ("cluster", "cluster"),
    "completion": ("help", "completion"),
    "config": ("settings", "config"),
    "consent": ("records", "consent"),
    "demo": ("start", "demo"),
    "errors": ("help", "errors"),
    "events": ("chain", "events"),
    "evidence": ("members", "evidence"),
    "export": ("export", "export"),
    "init": ("start", "init"),
    "join": ("join", "join"),
    "key": ("keys", "key"),
    "light": ("proofs", "light"),
    "member": ("members", "member"),
    "pack": ("chain", "pack"),
    "prove": ("proofs", "prove"),
    "prune": ("upkeep", "prune"),
    "record": ("records", "record"),
    "repair": ("upkeep", "repair"),
    "restore": ("archive", "restore"),
    "start": ("start", "start"),
    "status": ("status", "status"),
    "tx": ("transactions", "tx"),
    "verify": ("verify", "verify"),
    "verify-proof": ("proofs", "verify_proof"),
    "why": ("status", "why"),
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"node.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            close = get_close_matches(args[0], self.list_commands(ctx), n=1)
            raise click.UsageError(f"{error.message} Did you mean {close[0]!r}?" if close else error.message) from None


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": ENVIRONMENT_PREFIX.rstrip("_")},
)
@click.version_option(package_name="medchain", message="%(version)s")
def root() -> None:
    """A permissioned blockchain node for medical records, drugs and payments.

    \b
    Four nodes on this machine:   medchain cluster up
    What they do:                 medchain status
    Everything at once:           medchain demo

    \b
    Example:
        medchain --version
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status. Errors are told on stderr."""
    try:
        _check_environment()
        result = root.main(args=arguments, prog_name="medchain", standalone_mode=False)
    except BaseException as error:
        return report(error)
    return result if isinstance(result, int) else Exit.DONE


def main() -> None:
    """The console script."""
    status = run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (`| head`) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _check_environment() -> None:
    """Refuse unknown MEDCHAIN_* variables; costs nothing where none is set."""
    if not any(name.startswith("MEDCHAIN_") for name in os.environ):
        return
    known = known_variables(root)
    if any(name.startswith("MEDCHAIN_") and name not in known for name in os.environ):
        from node.config import InvalidConfig, unknown_variables

        problems = unknown_variables(known)
        if problems:
            raise InvalidConfig(problems)
