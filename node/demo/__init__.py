"""`medchain demo`: four institutions, real business, a killed leader, and a summary that can fail.

send.py      business over HTTP
watch.py     the cluster seen from outside
scenario.py  what happens, and the promises
report.py    the summary
progress.py  what is seen meanwhile
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from node.cluster.control import ControlServer
from node.demo.progress import Progress
from node.demo.scenario import Options, Stage, demonstrate, lay_out
from node.workload import SIZES

__all__ = ["main"]


@click.command("demo", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--exit", "leave", is_flag=True, help="End after the summary: status 0 only if every promise was kept.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Send the published EPCIS and FHIR files of this folder instead of generated business.",
)
@click.option("--seed", default=1, show_default=True, help="Which business is generated.")
@click.option(
    "--size", type=click.Choice(list(SIZES)), default="normal", show_default=True, help="How much is generated."
)
@click.option("-n", "--nodes", default=4, show_default=True, help="How many validators: 4 and more.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="The cluster's folder, which must not hold one yet; else a temporary one.",
)
def demo(leave: bool, data: Path | None, seed: int, size: str, nodes: int, directory: Path | None) -> int:
    """Start a hospital, a drug maker, a pharmacy and an insurer, send business, kill the leader, restart it, check.

    Then the cluster goes on running until Ctrl-C.

    \b
    Example:
        medchain demo --exit --size small
    """
    if nodes < 4:
        raise click.UsageError("-n: at least 4 nodes, so that one may be killed")
    temporary = directory is None
    folder = Path(tempfile.mkdtemp(prefix="medchain-demo-")) if directory is None else directory.absolute()
    options = Options(folder / "cluster" if temporary else folder, nodes, seed, size, data)
    good = False
    try:
        good = asyncio.run(_run(options, leave))
    finally:
        if temporary and good:
            shutil.rmtree(folder, ignore_errors=True)
        elif temporary:
            click.echo(f"data and logs stay in {folder}", err=True)
    return 0 if good else 1


async def _run(options: Options, leave: bool) -> bool:
    click.echo(f"laying out {options.nodes} nodes and the business for them ...", err=True)
    stage = lay_out(options)
    async with stage.cluster as cluster:
        await cluster.wait_ready()
        click.echo("\n".join(_started(stage)), err=True)
        progress = Progress(len(stage.steps))
        try:
            report = await demonstrate(stage, progress)
        finally:
            progress.close()
        click.echo("\n".join(report.lines()))
        if not leave:
            await _stay(stage)
    return report.good


def _started(stage: Stage) -> list[str]:
    nodes = stage.cluster.nodes
    return [
        f"nodes    {len(nodes)} processes, {(len(nodes) - 1) // 3} may fail",
        *(f"API      {node.api_url}  {node.name}" for node in nodes),
        f"data     {stage.cluster.directory}",
        f"business {len(stage.steps)} steps" + (f" from {stage.options.data}" if stage.options.data else ""),
    ]


async def _stay(stage: Stage) -> None:
    """The cluster goes on until Ctrl-C or SIGTERM; `medchain cluster ... --dir` reaches it meanwhile."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    cluster = stage.cluster
    async with ControlServer(cluster) as control:
        click.echo("the cluster goes on running:")
        for node in cluster.nodes:
            click.echo(f"  {node.name:10} {node.api_url}/")
        click.echo(f"look     medchain status --dir {cluster.directory}")
        click.echo(f"break    medchain cluster kill {cluster.nodes[0].name} --dir {cluster.directory}")
        click.echo("stop     Ctrl-C")
        waits = [asyncio.create_task(event.wait()) for event in (stop, control.down)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()


def main(arguments: Sequence[str]) -> int:
    """Run `medchain demo` with these arguments; the exit status. Click's and configuration errors are raised."""
    result = demo.main(args=list(arguments), prog_name="medchain demo", standalone_mode=False)
    return result if isinstance(result, int) else 0
