"""`cluster`: local clusters of any size on this machine, and faults in them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.errors import Code
from node.cli.common import (
    CLUSTER_DIR_DEFAULT,
    ENVIRONMENT_PREFIX,
    Exit,
    Failure,
    json_option,
    option,
    print_json,
    program,
    show,
    show_table,
)

if TYPE_CHECKING:
    from node.cluster.plan import ClusterPlan

LOG_LINES_DEFAULT = 20
LOG_TAIL_SIZE_BYTES = 256 * 1024
LOG_POLL_S = 0.3
DOWN_TIMEOUT_S = 30.0


def dir_option(command: Any) -> Any:
    return option(
        "--dir", "directory", type=click.Path(file_okay=False, path_type=Path), default=CLUSTER_DIR_DEFAULT,
        envvar=f"{ENVIRONMENT_PREFIX}CLUSTER_DIR", metavar="DIR", help="The cluster's folder.",
    )(command)  # fmt: skip


@click.group()
def cluster() -> None:
    """Local clusters: up, down, status, logs, and faults."""


@cluster.command()
@dir_option
@option("-n", "--nodes", default=4, type=int, help="How many validators; 1, or 4 and more.")
@option("--base-port", default=26_600, type=int, help="Ports are laid out from here.")
@option("--roles", default="hospital,manufacturer,pharmacy,insurer", help="Whose nodes they are, in turn.")
@option("--no-proxies", is_flag=True, help="Nodes dial each other directly: faster, no link faults.")
@option("--foreground", is_flag=True, help="Stay until Ctrl-C, which stops every node cleanly.")
@json_option
def up(
    directory: Path, nodes: int, base_port: int, roles: str, no_proxies: bool, foreground: bool, as_json: bool
) -> int:
    """Start a cluster, made first if DIR holds none. An existing one keeps its size, ports and chain.

    \b
    Example:
        medchain cluster up --nodes 7 --dir seven
    """
    from node.cluster import plan as plans
    from node.cluster import supervisor

    directory = directory.absolute()
    if not (directory / plans.PLAN_FILE).exists():
        from node.cluster.runner import LocalCluster

        chosen = tuple(filter(None, roles.split(",")))
        LocalCluster.create(directory, nodes, base_port=base_port, proxies=not no_proxies, roles=chosen)
    else:
        _refuse_other_layout(plans.read(directory))
    if foreground:
        import asyncio

        asyncio.run(supervisor.serve(directory, lambda status: _print_started(status, directory, as_json)))
        return Exit.DONE
    _print_started(supervisor.spawn(directory), directory, as_json)
    return Exit.DONE


def _refuse_other_layout(plan: ClusterPlan) -> None:
    """An explicit flag that an existing cluster cannot follow is refused, not ignored."""
    from click.core import ParameterSource

    context = click.get_current_context()
    validators = sum(node.validator for node in plan.nodes)
    existing = {"nodes": validators, "base_port": plan.base_port, "no_proxies": not plan.proxies}
    for name, value in existing.items():
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT and context.params[name] != value:
            flag = "--" + name.replace("_", "-")
            raise Failure(Code.BAD_CONFIGURATION, f"the cluster has {flag} {value}; choose another --dir for a new one")


def _print_started(status: dict[str, Any], directory: Path, as_json: bool) -> None:
    if as_json:
        print_json(status)
        return
    nodes = status["nodes"]
    validators = sum(node["validator"] for node in nodes)
    faults = (validators - 1) // 3
    click.echo(f"nodes    {len(nodes)}, {validators} validators, {faults} may fail")
    for node in nodes:
        click.echo(f"API      {node['api']}  {node['name']}")
    click.echo(f"console  {nodes[0]['api']}/")
    click.echo(f"data     {directory}")
    click.echo(
        f"keys     dev:{', dev:'.join(dict.fromkeys(node['institution'] for node in nodes if node['institution']))}"
    )
    where = "" if str(directory) == str(Path(CLUSTER_DIR_DEFAULT).absolute()) else f" --dir {directory}"
    called = program()
    click.echo(f"stop     {called} cluster down{where}")
    click.echo(f"next     {called} status{where}")
    click.echo(f"         {called} cluster kill {nodes[0]['name']}{where}")
    click.echo(f"         {called} tx submit payments.transfer --key dev:insurer --api {nodes[0]['api']} \\")
    click.echo("""           '{"currency": "CNY", "to": "hospital", "amount": 100, "reference": ""}'""")


@cluster.command()
@dir_option
@json_option
def down(directory: Path, as_json: bool) -> None:
    """Stop every node cleanly. Data and keys stay.

    \b
    Example:
        medchain cluster down
    """
    status = _ask(directory, "down")
    _wait_released(directory.absolute())
    show({"stopped": len(status["nodes"]), "data": str(directory)}, as_json)


def _wait_released(directory: Path) -> None:
    """Until the runner has let go of the folder."""
    import fcntl

    from node.cluster.runner import LOCK_FILE

    deadline = time.monotonic() + DOWN_TIMEOUT_S
    with open(directory / LOCK_FILE, "rb") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Failure(
                        Code.CLUSTER_UNHEALTHY, f"the runner still stops after {DOWN_TIMEOUT_S:g} s"
                    ) from None
                time.sleep(0.05)


@cluster.command()
@dir_option
@option("--check", is_flag=True, help="Status 5 unless every node runs.")
@json_option
def status(directory: Path, check: bool, as_json: bool) -> int:
    """Show the processes and faults. What the chain does: medchain status.

    \b
    Example:
        medchain cluster status --check
    """
    found = _ask(directory, "status")
    if as_json:
        print_json(found)
    else:
        headings = ("node", "state", "process", "API", "log")
        rows = [(node["name"], node["state"], node["pid"], node["api"], node["log"]) for node in found["nodes"]]
        show_table(headings, rows)
        for fault in found["faults"]:
            delay = f", {fault['delay_ms']} ms" if fault["delay_ms"] else ""
            click.echo(f"link {fault['from']} to {fault['to']}: {fault['fault']}{delay}")
    healthy = all(node["state"] == "running" for node in found["nodes"])
    return Exit.UNHEALTHY if check and not healthy else Exit.DONE


@cluster.command()
@click.argument("node")
@option("--lines", default=LOG_LINES_DEFAULT, type=click.IntRange(0, 10_000), help="Last lines to show.")
@option("--follow", is_flag=True, help="Go on until Ctrl-C.")
@dir_option
def logs(node: str, lines: int, follow: bool, directory: Path) -> None:
    """Show the end of a NODE's log (name or number).

    \b
    Example:
        medchain cluster logs hospital --follow
    """
    from node.cluster import plan as plans

    path = directory / "logs" / f"{plans.read(directory).node(node).name}.log"
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LOG_TAIL_SIZE_BYTES))
        tail = file.read().decode("utf-8", "replace").splitlines(keepends=True)
        click.echo("".join(tail[-lines:] if lines else []), nl=False)
        while follow:
            text = file.read().decode("utf-8", "replace")
            click.echo(text, nl=False)
            if not text:
                time.sleep(LOG_POLL_S)


def _process_command(action: str, summary: str) -> None:
    """One command for each thing done to one node's process."""

    @cluster.command(
        name=action, help=f"{summary}\n\n\b\nExample:\n    medchain cluster {action} hospital", short_help=summary
    )
    @click.argument("node")
    @dir_option
    @json_option
    def command(node: str, directory: Path, as_json: bool) -> None:
        found = _ask(directory, action, node=node)
        shown = ("name", "state", "pid", "api")
        show(found if as_json else {name: found[name] for name in shown}, as_json)


_process_command("kill", "Kill a NODE at once, as a power cut would.")
_process_command("stop", "Stop a NODE cleanly.")
_process_command("start", "Start a NODE that was killed or stopped.")
_process_command("restart", "Stop a NODE cleanly and start it again.")
_process_command("pause", "Freeze a NODE: connected, and silent.")
_process_command("resume", "Let a paused NODE go on.")


@cluster.command()
@click.argument("groups")
@dir_option
@json_option
def partition(groups: str, directory: Path, as_json: bool) -> None:
    """Cut the links between GROUPS: names or numbers, groups separated by |. Nodes not named are one more group.

    \b
    Example:
        medchain cluster partition 'hospital,maker|pharmacy,insurer'
    """
    show(_ask(directory, "partition", groups=groups), as_json)


@cluster.command()
@dir_option
@json_option
def heal(directory: Path, as_json: bool) -> None:
    """Undo every partition, drop and delay.

    \b
    Example:
        medchain cluster heal
    """
    show(_ask(directory, "heal"), as_json)


@cluster.command()
@click.argument("delay_ms", type=int)
@option("--node", help="Only links of this node.")
@dir_option
@json_option
def delay(delay_ms: int, node: str | None, directory: Path, as_json: bool) -> None:
    """Delay what links carry by DELAY_MS milliseconds each way; 0 ends it.

    \b
    Example:
        medchain cluster delay 50 --node pharmacy
    """
    _show_faults(_ask(directory, "delay", delay_ms=delay_ms, node=node), as_json)


@cluster.command()
@click.argument("node")
@dir_option
@json_option
def drop(node: str, directory: Path, as_json: bool) -> None:
    """Reset and refuse every connection from and to NODE, until heal.

    \b
    Example:
        medchain cluster drop pharmacy
    """
    _show_faults(_ask(directory, "drop", node=node), as_json)


def _show_faults(result: dict[str, Any], as_json: bool) -> None:
    show(result if as_json else {"links with faults": len(result["faults"])}, as_json)


@cluster.command()
@dir_option
@json_option
def add(directory: Path, as_json: bool) -> None:
    """Add a node that follows the chain and does not vote, and tell how it becomes a validator.

    \b
    Example:
        medchain cluster add
    """
    found = _ask(directory, "add")
    show(found if as_json else {name: found[name] for name in ("name", "key", "api", "home")}, as_json)
    from ledger.validators import quorum
    from node.cluster import plan as plans

    called, genesis = program(), directory / plans.GENESIS_FILE
    validators = [node for node in plans.read(directory).nodes if node.validator]
    proposer = directory / validators[0].name / "node.key"
    voter = directory / validators[min(1, len(validators) - 1)].name / "node.key"
    click.echo(
        "\nTo make it a validator, propose it and let a quorum of the validators approve"
        f" ({quorum(len(validators))} of {len(validators)}, the proposer counts):\n"
        f"  {called} key prove {directory / found['name'] / 'node.key'} --validator --genesis {genesis}\n"
        f"  {called} member propose validators --add <what that printed> --key {proposer}\n"
        f"  {called} member vote <id of the proposal> --key {voter}",
        err=True,
    )


def _ask(directory: Path, command: str, **arguments: Any) -> Any:
    from node.cluster import control

    return control.request(directory.absolute(), command, **arguments)
