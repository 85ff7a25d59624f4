"""`config`: check and show a node's settings."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.common import genesis_of, home_option, json_option, option, print_json, show, show_table


@click.group()
def config() -> None:
    """A node's configuration: check, show."""


@config.command()
@home_option
@json_option
def check(home: Path, as_json: bool) -> None:
    """Check file, environment, key and genesis; every problem at once.

    \b
    Example:
        medchain config check --home cluster/hospital
    """
    from ledger.errors import ConfigError
    from node import config as settings
    from node import keys
    from node.plugins import load_registry

    problems: list[str] = []
    loaded = None
    try:
        loaded = settings.load(home)
    except settings.InvalidConfig as error:
        problems += error.problems
    if loaded is not None:
        try:
            keys.load(loaded.key_path)
        except ConfigError as error:
            problems.append(str(error))
        try:
            load_registry(genesis_of(loaded.genesis_path))
        except OSError as error:
            problems.append(f"genesis: {loaded.genesis_path}: {error.strerror}")
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise settings.InvalidConfig(problems)
    show({"home": str(home), "problems": []}, as_json)


@config.command(name="show")
@home_option
@option("--origin", is_flag=True, help="Also say where each value came from.")
@json_option
def show_config(home: Path, origin: bool, as_json: bool) -> None:
    """Show every key with its value, as it would be used.

    \b
    Example:
        medchain config show --home cluster/hospital --origin
    """
    from node import config as settings

    found = settings.origins(settings.load(home))
    if as_json:
        print_json({key: {"value": value, "origin": come} if origin else value for key, (value, come) in found.items()})
    elif origin:
        show_table(("key", "value", "origin"), [(key, value, come) for key, (value, come) in found.items()])
    else:
        show({key: value for key, (value, _) in found.items()}, False)
