"""The control socket of a runner in the background: one JSON line asks, one JSON line answers.

    {"command": "kill", "arguments": {"node": "0"}}
    {"ok": true, "result": {...}} or {"ok": false, "code": 4004, "message": "..."}

The socket is `control.sock` (0600) in the cluster's folder (0700): who may write there owns the cluster anyway.

Must not know: how the command line looks.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ledger.errors import Code, ConfigError
from node.cluster.plan import partition_groups
from node.cluster.runner import ClusterError, LocalCluster

SOCKET_FILE = "control.sock"
LINE_SIZE_BYTES_MAX = 1024 * 1024  # the status of 64 nodes is about 40 KB
REQUEST_TIMEOUT_S = 60.0  # the slowest command waits for a clean stop and a start


class ControlServer:
    """Serves one `LocalCluster`. Commands run one after the other; `down` is set when someone asked to stop."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.down = asyncio.Event()
        self._cluster = cluster
        self._path = cluster.directory / SOCKET_FILE
        self._server: asyncio.Server | None = None
        self._one_at_a_time = asyncio.Lock()

    async def __aenter__(self) -> ControlServer:
        with suppress(FileNotFoundError):
            self._path.unlink()  # of a runner that died: the folder's lock is ours
        with _ShortPath(self._path) as path:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            mask = os.umask(0o177)
            try:
                listener.bind(path)
            finally:
                os.umask(mask)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LINE_SIZE_BYTES_MAX)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.close()
        with suppress(FileNotFoundError):
            self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                line = await reader.readline()
                answer = await self._answer(line)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, ConnectionError, ValueError):
            pass  # the caller is gone or wrote no line; it sees the connection end
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            command, arguments = request["command"], request.get("arguments", {})
            handler = _COMMANDS.get(command)
            if handler is None:
                raise ClusterError(f"unknown command {command!r}", Code.BAD_REQUEST)
            async with self._one_at_a_time:
                result = await handler(self, arguments)
            return {"ok": True, "result": result}
        except ClusterError as error:
            return {"ok": False, "code": int(error.code), "message": str(error)}
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            return {"ok": False, "code": int(Code.BAD_REQUEST), "message": str(error)}

    async def _status(self, arguments: Mapping[str, Any]) -> Any:
        return self._cluster.status()

    async def _down(self, arguments: Mapping[str, Any]) -> Any:
        self.down.set()
        return self._cluster.status()

    async def _process(self, arguments: Mapping[str, Any]) -> Any:
        """start, stop, kill, pause, resume, restart of one node."""
        node = self._cluster.node(arguments["node"])
        await getattr(self._cluster, arguments["action"])(node)
        if arguments["action"] in ("start", "restart"):
            await self._cluster.wait_ready(nodes=[node.plan.index])
        return node.to_json()

    async def _partition(self, arguments: Mapping[str, Any]) -> Any:
        groups = partition_groups(self._cluster.plan, arguments["groups"])
        self._cluster.partition(groups)
        return {"groups": groups}

    async def _heal(self, arguments: Mapping[str, Any]) -> Any:
        self._cluster.heal()
        return {"faults": []}

    async def _delay(self, arguments: Mapping[str, Any]) -> Any:
        self._cluster.delay(int(arguments["delay_ms"]), arguments.get("node"))
        return {"faults": self._cluster.status()["faults"]}

    async def _drop(self, arguments: Mapping[str, Any]) -> Any:
        self._cluster.drop(arguments["node"])
        return {"faults": self._cluster.status()["faults"]}

    async def _add(self, arguments: Mapping[str, Any]) -> Any:
        node = await self._cluster.add_follower()
        await self._cluster.wait_ready(nodes=[node.plan.index])
        return node.to_json()


PROCESS_ACTIONS = ("start", "stop", "kill", "pause", "resume", "restart")


def _action(action: str) -> Callable[[ControlServer, Mapping[str, Any]], Awaitable[Any]]:
    async def handler(server: ControlServer, arguments: Mapping[str, Any]) -> Any:
        return await server._process({**arguments, "action": action})

    return handler


_COMMANDS: dict[str, Callable[[ControlServer, Mapping[str, Any]], Awaitable[Any]]] = {
    "status": ControlServer._status,
    "down": ControlServer._down,
    "partition": ControlServer._partition,
    "heal": ControlServer._heal,
    "delay": ControlServer._delay,
    "drop": ControlServer._drop,
    "add": ControlServer._add,
    **{action: _action(action) for action in PROCESS_ACTIONS},
}


def request(directory: Path, command: str, **arguments: Any) -> Any:
    """Ask the runner of `directory`; blocks. ClusterError with NOT_RUNNING if there is none, or with its refusal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(REQUEST_TIMEOUT_S)
        try:
            with _ShortPath(directory / SOCKET_FILE) as path:
                connection.connect(path)
            connection.sendall(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
            with connection.makefile("rb") as file:
                line = file.readline(LINE_SIZE_BYTES_MAX)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            message = f"no cluster runs in {directory}; start it with: medchain cluster up --dir {directory}"
            raise ClusterError(message, Code.NOT_RUNNING) from None
        except OSError as error:
            raise ClusterError(f"the runner of {directory} does not answer: {error}", Code.UNREACHABLE) from None
    try:
        answer = json.loads(line)
    except ValueError:
        raise ClusterError(f"the runner of {directory} ended", Code.UNREACHABLE) from None
    if not answer["ok"]:
        raise ClusterError(answer["message"], Code(answer["code"]))
    return answer["result"]


class _ShortPath:
    """A socket's path that fits the 107 bytes of `sockaddr_un`, through an open folder where it would not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) < 100 or not Path("/proc/self/fd").exists():
            return str(self._path)
        self._descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._descriptor}/{self._path.name}"

    def __exit__(self, *exc: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
