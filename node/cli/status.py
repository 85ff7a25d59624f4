"""`status` and `why`: what the nodes are doing, and in one sentence why the chain is not moving."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ledger.errors import Code
from node.cli.common import (
    API_DEFAULT,
    CLUSTER_DIR_DEFAULT,
    ENVIRONMENT_PREFIX,
    Command,
    Exit,
    Failure,
    connect,
    json_option,
    option,
    print_json,
    print_line,
    show_table,
)

PROBE_TIMEOUT_S = 2.0  # a paused node must not hold the table up
LAG_BLOCKS_MAX = 20  # two checkpoint intervals: behind by more is not keeping up
HEADINGS = ("node", "role", "view", "height", "lag", "peers", "pool", "leader", "version")


def target_options(command: Command) -> Command:
    """Which nodes are asked: see `_targets`."""
    by_api = option(
        "--api", "api_urls", multiple=True, metavar="URL", envvar=f"{ENVIRONMENT_PREFIX}API", help="Nodes to ask."
    )
    by_folder = option(
        "--dir", "directory", type=click.Path(file_okay=False, path_type=Path), default=CLUSTER_DIR_DEFAULT,
        metavar="DIR", envvar=f"{ENVIRONMENT_PREFIX}CLUSTER_DIR",
        help="Ask the nodes of this local cluster, if no --api is given.",
    )  # fmt: skip
    return by_api(by_folder(command))


@click.command()
@target_options
@option("--watch", is_flag=True, help="Repeat every second until Ctrl-C; with --json, a line each.")
@option("--check", is_flag=True, help="Status 5 unless every node answers and keeps up.")
@json_option
def status(api_urls: Sequence[str], directory: Path, watch: bool, check: bool, as_json: bool) -> int:
    """Show the nodes in one table, and why the chain stands still, if it does. Status 3 if no node answers.

    \b
    Example:
        medchain status --check
    """
    targets = _targets(api_urls, directory)
    while True:
        report = ask_all(targets)
        if watch and as_json:
            print_line(report)
        elif as_json:
            print_json(report)
        else:
            if watch:
                click.clear()
            _print(report)
        if not watch:
            break
        time.sleep(1)
    if check and not report["healthy"]:
        return Exit.UNHEALTHY
    if all("error" in node for node in report["nodes"]):
        raise _nobody(targets, report["nodes"][0]["error"])
    return Exit.DONE


@click.command()
@target_options
@json_option
def why(api_urls: Sequence[str], directory: Path, as_json: bool) -> int:
    """Say in one sentence why the chain is not moving: who is missing, since when, what to do.

    The first node that answers is asked; what it says is how things look from there.

    \b
    Example:
        medchain why --api http://127.0.0.1:26603
    """
    from node.api.client import Unreachable

    targets = _targets(api_urls, directory)
    reasons: list[str] = []
    for name, url in targets:
        try:
            answer = connect(url, PROBE_TIMEOUT_S).why()
        except Unreachable as error:
            reasons.append(str(error))
            continue
        if len(targets) > 1:
            click.echo(f"asked {name}" + ("" if name == url else f" at {url}"), err=True)
        if as_json:
            print_json(answer)
        else:
            click.echo(answer["sentence"])
        return Exit.DONE
    raise _nobody(targets, reasons[0])


def _targets(api_urls: Sequence[str], directory: Path) -> list[tuple[str, str]]:
    """Names and addresses: those given, else a local cluster's, else the default one."""
    if api_urls:
        return [(url, url) for url in api_urls]
    from click.core import ParameterSource

    from node.cluster import plan

    is_given = click.get_current_context().get_parameter_source("directory") is not ParameterSource.DEFAULT
    if is_given or (directory / plan.PLAN_FILE).exists():
        return [(node.name, node.api_url) for node in plan.read(directory).nodes]
    return [("node", API_DEFAULT)]


def _nobody(targets: Sequence[tuple[str, str]], reason: str) -> Failure:
    return Failure(Code.UNREACHABLE, reason if len(targets) == 1 else f"none of {len(targets)} nodes answers; {reason}")


def ask_all(targets: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Every node's status, or why there is none; `healthy` if all answer and none lags."""
    nodes: list[dict[str, Any]] = []
    sentence = None
    for name, url in targets:
        try:
            client = connect(url, PROBE_TIMEOUT_S)
            nodes.append({"name": name, "api": url, **client.status()})
            sentence = sentence or client.why().get("sentence")
        except click.UsageError:  # not an address at all
            raise
        except Exception as error:  # whatever is wrong with one node, the others are shown
            nodes.append({"name": name, "api": url, "error": str(error) or type(error).__name__})
    top = max((int(node["height"]) for node in nodes if "height" in node), default=0)
    for node in nodes:
        if "height" in node:
            node["lag"] = top - int(node["height"])
    healthy = all("error" not in node and node["lag"] <= LAG_BLOCKS_MAX for node in nodes)
    return {"healthy": healthy, "height": top, "nodes": nodes, "why": sentence}


def _leader(leader: Any) -> str:
    """A leader's name, else the beginning of its key."""
    if isinstance(leader, dict):
        return str(leader.get("name") or leader.get("key", "-")[:10])
    return str(leader or "-")[:10]


def _print(report: dict[str, Any]) -> None:
    rows = []
    for node in report["nodes"]:
        if "error" in node:
            rows.append((node["name"], "no answer", *["-"] * (len(HEADINGS) - 2)))
            continue
        pool = node.get("pool") or {}
        rows.append(
            (
                node["name"], node.get("role"), node.get("view"), node["height"], node["lag"],
                len(node.get("peers") or ()), pool.get("transactions"), _leader(node.get("leader")),
                node.get("version"),
            )
        )  # fmt: skip
    show_table(HEADINGS, rows)
    if report["why"]:
        click.echo(report["why"])
