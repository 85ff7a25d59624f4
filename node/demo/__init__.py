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
from pathlib import Path

import click

from node.cluster.control import ControlServer
from node.demo.progress import Progress
from node.demo.scenario import Options, Stage, demonstrate, lay_out

__all__ = ["run"]


def run(data: Path | None, seed: int, size: str, nodes: int, directory: Path | None, *, leave: bool) -> bool:
    """Demonstrate and, unless `leave`, stay until Ctrl-C; whether every promise was kept."""
    temporary = directory is None
    folder = Path(tempfile.mkdtemp(prefix="medchain-demo-")) if directory is None else directory.absolute()
    options = Options(folder / "cluster" if temporary else folder, nodes, seed, size, data)
    good = False
    try:
        good = asyncio.run(_run(options, leave))
    finally:
        if temporary and (good or not any(folder.iterdir())):
            shutil.rmtree(folder, ignore_errors=True)
        elif temporary:
            click.echo(f"data and logs stay in {folder}", err=True)
    return good


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
