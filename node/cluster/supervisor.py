"""The runner in the background: `python -m node.cluster.supervisor <dir>`, started by `cluster up`.

Says how its start went in one JSON line on stdout (the cluster's status, or `code` and `message`), then runs until
SIGTERM, SIGINT or `cluster down`.

Must not know: the command line.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ledger.errors import Code, ConfigError
from node.cluster.control import ControlServer
from node.cluster.runner import ClusterError, LocalCluster


async def serve(
    directory: Path, started: Callable[[dict[str, Any]], None], command: Sequence[str] | None = None
) -> None:
    """Run the cluster of `directory` until asked to stop; `started` gets its status once every node is ready."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with LocalCluster.open(directory, command=command) as cluster, ControlServer(cluster) as control:
        waits = [asyncio.create_task(event.wait()) for event in (stop, control.down)]
        ready = asyncio.create_task(cluster.wait_ready())
        try:
            await asyncio.wait([ready, *waits], return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
                started(cluster.status())
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (ready, *waits):
                task.cancel()
            await asyncio.gather(ready, *waits, return_exceptions=True)


def spawn(directory: Path, command: Sequence[str] = ()) -> dict[str, Any]:
    """Start a runner in the background and wait for its first line. ClusterError if it could not start."""
    log = directory / "logs" / "runner.log"
    with open(log, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as errors:
        process = subprocess.Popen(  # noqa: S603  our own interpreter and module
            [sys.executable, "-m", "node.cluster.supervisor", str(directory), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        with process.stdout as output:
            line = output.readline()
    except BaseException:  # interrupted while waiting: the runner stops its nodes cleanly
        process.terminate()
        process.wait()
        raise
    try:
        document: dict[str, Any] = json.loads(line)
    except ValueError:
        process.wait()
        raise ClusterError(f"the runner ended before it was ready; see {log}", Code.CLUSTER_UNHEALTHY) from None
    if "code" in document:
        process.wait()
        raise ClusterError(document["message"], Code(document["code"]))
    process.returncode = 0  # it goes on without us; Popen shall not warn that it does
    return document


def main(arguments: Sequence[str]) -> int:
    def say(document: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
        # Whoever started us stops listening now; a later write must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    try:
        asyncio.run(serve(Path(arguments[0]), say, list(arguments[1:]) or None))
    except ConfigError as error:
        say({"code": int(getattr(error, "code", Code.BAD_CONFIGURATION)), "message": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
