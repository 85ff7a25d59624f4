"""The reference page docs/cli.md, made from the commands: `python -m node.cli.reference > docs/cli.md`.

Must not know: any command.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from node.cli import root
from node.cli.common import ENVIRONMENT_PREFIX, Exit

WIDTH = 100  # fixed: the page must not depend on a terminal

_EXIT_TEXTS = {
    Exit.DONE: "done",
    Exit.REFUSED: "refused, or a check failed",
    Exit.USAGE: "usage or configuration",
    Exit.UNREACHABLE: "node or cluster not reachable",
    Exit.NOT_FINAL: "not final in time",
    Exit.UNHEALTHY: "cluster unhealthy",
    Exit.BUSY: "busy; the same call may succeed later",
    Exit.BUG: "a fault of this software",
    Exit.INTERRUPTED: "interrupted",
}


def commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command with its full name and a context to describe it in, groups before their members."""

    def visit(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
        yield context.command_path, command, context
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                if inner is not None:
                    yield from visit(inner, _context(inner, name, context))

    yield from visit(root, _context(root, "medchain", None))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    prefix = None if parent is not None else ENVIRONMENT_PREFIX.rstrip("_")
    return click.Context(
        command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH,
        auto_envvar_prefix=prefix, help_option_names=["-h", "--help"],
    )  # fmt: skip


def markdown() -> str:
    """The page; ends with a line break."""
    parts = [
        "# Command line",
        "Made from the commands by `python -m node.cli.reference`; do not edit.",
        "stdout is data, stderr is everything else. `--json` prints one document, `--jsonl` a line each. A flag wins"
        " over its environment variable, that over the file `medchain.toml`, that over the default. Errors carry a"
        " code; `medchain errors MC2204` explains one.",
        "| exit status | meaning |\n|---|---|\n"
        + "\n".join(f"| {int(status)} | {text} |" for status, text in _EXIT_TEXTS.items()),
    ]
    for path, command, context in commands():
        lines = (line.rstrip() for line in command.get_help(context).splitlines())
        parts += [f"## {path}", "```text\n" + "\n".join(lines) + "\n```"]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    click.echo(markdown(), nl=False)
