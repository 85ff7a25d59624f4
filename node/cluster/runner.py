"""A local cluster's processes and links: `LocalCluster`, for demonstrations, benchmarks and tests.

    async with LocalCluster.create(directory, 4) as cluster:
        await cluster.wait_ready()
        await cluster.kill(0)

Owns every process it starts: leaving the context stops them all, and they die with the runner however it ends. One
runner a folder, held by a lock. Not safe to use from two tasks at once, except for reading.

Must not know: what a node does. It waits for the one `ready` line on a node's stdout.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Self

from ledger.errors import Code, ConfigError
from ledger.genesis import Parameters
from node import keys
from node.cluster import plan as plans
from node.cluster import ports
from node.cluster.links import Fault, Link
from node.cluster.plan import ClusterPlan, NodePlan

LOCK_FILE = "runner.lock"
READY_LINE_SIZE_BYTES_MAX = 64 * 1024
LOG_SIZE_BYTES_MAX = 64 * 1024 * 1024  # at each start of a node, a longer log is moved aside
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0  # a clean stop closes a database; then it is killed


class ClusterError(ConfigError):
    """What was asked of a cluster cannot be done now. `code` says why."""

    def __init__(self, message: str, code: Code) -> None:
        super().__init__(message)
        self.code = code


class State(StrEnum):
    """What a node's process is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"  # by itself; `returncode` says how


@dataclass(slots=True)
class ClusterNode:
    """One node of a running cluster. `key` is public (hex), `pid` None while no process runs."""

    plan: NodePlan
    home: Path
    log_path: Path
    state: State = State.STOPPED
    returncode: int | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    _process: asyncio.subprocess.Process | None = None
    _watcher: asyncio.Task[None] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def key(self) -> str:
        return self.plan.key

    @property
    def api_url(self) -> str:
        return self.plan.api_url

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None

    def to_json(self) -> dict[str, Any]:
        return {
            "index": self.plan.index,
            "name": self.name,
            "institution": self.plan.institution,
            "validator": self.plan.validator,
            "key": self.key,
            "api": self.api_url,
            "p2p": ["127.0.0.1", self.plan.p2p_port],
            "home": str(self.home),
            "log": str(self.log_path),
            "state": self.state.value,
            "pid": self.pid,
            "returncode": self.returncode,
        }


class LocalCluster:
    """Runs the cluster in `directory`. Made by `create` or `open`; starts on entering its context."""

    def __init__(self, directory: Path, plan: ClusterPlan, command: Sequence[str] | None) -> None:
        self.directory = directory
        self.plan = plan
        self.nodes = [self._node(node) for node in plan.nodes]
        self._command = tuple(command or (sys.executable, "-m", "node.cli", "start"))
        self._links: dict[tuple[int, int], Link] = {}
        self._lock: IO[str] | None = None

    @classmethod
    def create(
        cls,
        directory: Path | str,
        n: int = 4,
        *,
        base_port: int = 0,
        proxies: bool = True,
        roles: Sequence[str] = plans.DEFAULT_ROLES,
        parameters: Parameters | None = None,
        modules: Mapping[str, Mapping[str, Any]] | None = None,
        command: Sequence[str] | None = None,
    ) -> Self:
        """Lay out a new cluster; enter its context to run it.

        `base_port` 0 takes a free range; `command` replaces `medchain start`.
        """
        directory = Path(directory).absolute()
        cluster = plans.new_cluster(
            n,
            generate=keys.generate,
            time_ms=time.time_ns() // 1_000_000,
            base_port=base_port or free_base_port(n, proxies),
            proxies=proxies,
            roles=roles,
            parameters=parameters,
            modules=modules,
        )
        _check_ports(cluster.plan.ports())  # before anything is written: whoever chooses others begins anew
        plans.write(directory, cluster, initialise_home)
        return cls(directory, cluster.plan, command)

    @classmethod
    def open(cls, directory: Path | str, *, command: Sequence[str] | None = None) -> Self:
        """The cluster that a folder holds; enter its context to run it."""
        directory = Path(directory).absolute()
        return cls(directory, plans.read(directory), command)

    async def __aenter__(self) -> Self:
        self._take_lock()
        try:
            _check_ports(self.plan.ports())
            if self.plan.proxies:
                await self._open_links(self.plan.links())
            for node in self.nodes:
                await self.start(node)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop every node and link. Shielded from nothing: a second Ctrl-C still kills the children."""
        try:
            await asyncio.gather(*(self.stop(node) for node in self.nodes))
        finally:
            for node in self.nodes:
                if node._process is not None:
                    _signal(node, signal.SIGKILL)
            for link in self._links.values():
                await link.close()
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def node(self, which: int | str | ClusterNode) -> ClusterNode:
        """By number, name, or itself."""
        return which if isinstance(which, ClusterNode) else self.nodes[self.plan.node(str(which)).index]

    async def start(self, which: int | str | ClusterNode) -> None:
        """Start a node's process; returns before it is ready. Refused while it runs."""
        node = self.node(which)
        if node.alive:
            raise ClusterError(f"{node.name} runs already (process {node.pid})", Code.ALREADY_RUNNING)
        command = (
            sys.executable,
            "-m",
            "node.cluster.child",
            str(os.getpid()),
            *self._command,
            "--home",
            str(node.home),
        )
        with _log_file(node.log_path) as log:
            node._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # a Ctrl-C in the terminal reaches the runner, which stops the nodes in order
                limit=READY_LINE_SIZE_BYTES_MAX,
            )
        node.state, node.returncode, node.ready = State.STARTING, None, {}
        node._watcher = asyncio.create_task(_watch(node, node._process))

    async def stop(self, which: int | str | ClusterNode) -> None:
        """A clean stop (SIGTERM); killed if it takes over ten seconds. Nothing to do for a node that does not run."""
        node = self.node(which)
        if not node.alive:
            return
        _signal(node, signal.SIGTERM)
        _signal(node, signal.SIGCONT)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await _gone(node)
        except TimeoutError:
            await self.kill(node)
            return
        node.state = State.STOPPED

    async def kill(self, which: int | str | ClusterNode) -> None:
        """SIGKILL, as a power cut would."""
        node = self._running(which)
        _signal(node, signal.SIGKILL)
        await _gone(node)
        node.state = State.STOPPED

    async def restart(self, which: int | str | ClusterNode) -> None:
        """Stop it cleanly if it runs, then start it."""
        await self.stop(which)
        await self.start(which)

    async def pause(self, which: int | str | ClusterNode) -> None:
        """Freeze the process: its connections stay open and it does not answer."""
        node = self._running(which)
        _signal(node, signal.SIGSTOP)
        node.state = State.PAUSED

    async def resume(self, which: int | str | ClusterNode) -> None:
        node = self._running(which)
        _signal(node, signal.SIGCONT)
        if node.state is State.PAUSED:
            node.state = State.RUNNING if node.ready else State.STARTING

    def partition(self, groups: Iterable[Iterable[int]]) -> None:
        """Silence every link between different groups (node numbers); links within a group heal."""
        group_of = {index: number for number, group in enumerate(groups) for index in group}
        for (source, target), link in self._faulty_links(None):
            apart = group_of.get(source, -1) != group_of.get(target, -1)
            link.set_fault(Fault.SILENT if apart else Fault.NONE)

    def heal(self) -> None:
        """No partition, drop, loss or delay any more."""
        for link in self._links.values():
            link.set_delay(0)
            link.set_loss(0.0)
            link.set_fault(Fault.NONE)

    def delay(self, delay_ms: int, which: int | str | None = None) -> None:
        """Delay each direction of every link, or of those of one node."""
        try:
            for _, link in self._faulty_links(which):
                link.set_delay(delay_ms)
        except ValueError as error:
            raise ClusterError(str(error), Code.BAD_REQUEST) from None

    def lose(self, share: float) -> None:
        """Lose a share of the segments of every link, each way."""
        try:
            for _, link in self._faulty_links(None):
                link.set_loss(share)
        except ValueError as error:
            raise ClusterError(str(error), Code.BAD_REQUEST) from None

    def drop(self, which: int | str) -> None:
        """Reset and refuse every connection from and to one node."""
        for _, link in self._faulty_links(which):
            link.set_fault(Fault.DROPPED)

    async def add_follower(self) -> ClusterNode:
        """One more node, which follows and does not vote. Every node knows its key from the start."""
        planned = self.plan.with_follower()
        new = planned.nodes[-1]
        _check_ports({port: planned.ports()[port] for port in (new.p2p_port, new.api_port)})  # as above: first
        following = plans.add_follower(self.directory, self.plan, initialise_home)
        self.plan = following
        self.nodes.append(self._node(new))
        if following.proxies:
            await self._open_links([pair for pair in following.links() if new.index in pair])
        await self.start(self.nodes[-1])
        return self.nodes[-1]

    async def wait_ready(self, timeout_s: float = READY_TIMEOUT_S, nodes: Sequence[int] | None = None) -> None:
        """Until every node (or those numbered) has said that it listens. ClusterError if one exits or time is up."""
        chosen = self.nodes if nodes is None else [self.nodes[index] for index in nodes]
        try:
            async with asyncio.timeout(timeout_s):
                for node in chosen:
                    await _wait_node_ready(node)
        except TimeoutError:
            late = ", ".join(node.name for node in chosen if not node.ready)
            raise ClusterError(f"not ready in {timeout_s:g} s: {late}", Code.CLUSTER_UNHEALTHY) from None

    def status(self) -> dict[str, Any]:
        """What the runner knows, as JSON values."""
        faults = [
            {"from": source, "to": target, "fault": link.fault.value, "delay_ms": link.delay_ms, "loss": link.loss}
            for (source, target), link in self._links.items()
            if link.fault is not Fault.NONE or link.delay_ms or link.loss
        ]
        return {
            "directory": str(self.directory),
            "chain": self.plan.chain_id,
            "pid": os.getpid(),
            "proxies": self.plan.proxies,
            "nodes": [node.to_json() for node in self.nodes],
            "faults": faults,
        }

    def _node(self, plan: NodePlan) -> ClusterNode:
        return ClusterNode(plan, self.directory / plan.name, self.directory / "logs" / f"{plan.name}.log")

    def _running(self, which: int | str | ClusterNode) -> ClusterNode:
        node = self.node(which)
        if not node.alive:
            raise ClusterError(f"{node.name} does not run", Code.NOT_RUNNING)
        return node

    def _faulty_links(self, which: int | str | None) -> list[tuple[tuple[int, int], Link]]:
        if not self.plan.proxies:
            raise ClusterError("this cluster runs without link proxies, so links have no faults", Code.BAD_REQUEST)
        number = None if which is None else self.node(which).plan.index
        return [item for item in self._links.items() if number is None or number in item[0]]

    async def _open_links(self, pairs: Iterable[tuple[int, int]]) -> None:
        for source, target in pairs:
            link = Link(self.plan.link_port(source, target), self.plan.nodes[target].p2p_port)
            self._links[source, target] = link
            await link.start()

    def _take_lock(self) -> None:
        lock = open(self.directory / LOCK_FILE, "a+", encoding="ascii")  # noqa: SIM115  held until close
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            lock.close()
            raise ClusterError(
                f"{self.directory} is run by process {pid}; see it with: "
                f"medchain cluster status --dir {self.directory}",
                Code.ALREADY_RUNNING,
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock


def initialise_home(home: Path) -> None:
    """Make the chain's data in a node's folder that has its files."""
    from node import config
    from node.home import initialise

    # Not `config.load`: the environment is the runner's, not this node's.
    initialise(config.NodeConfig(home=home))


def _check_ports(planned: Mapping[int, str]) -> None:
    """ClusterError where one of these (port, what for) is in use."""
    for port in ports.taken(sorted(planned)):
        raise ClusterError(
            f"port {port} ({planned[port]}) is held by {ports.holder(port)}; stop it or choose another --base-port",
            Code.PORT_TAKEN,
        )


def free_base_port(n: int, proxies: bool) -> int:
    """A base whose ports are all free now. Chosen at random, so that two clusters started at once rarely meet."""
    count = n + plans.SPARE_KEYS
    for _ in range(64):
        base = random.randrange(10_000, 32_000 - plans.PORTS_SPAN, 50)  # noqa: S311  below the ephemeral range
        wanted = list(range(base, base + 2 * count))
        if proxies:
            offset = base + plans.LINK_PORTS_OFFSET
            wanted += [offset + plans.NODES_MAX * i + j for i in range(count) for j in range(count)]
        if not ports.taken(wanted):
            return base
    raise ClusterError("no free range of ports found; name one with --base-port", Code.PORT_TAKEN)


def _environment() -> dict[str, str]:
    """The runner's, without MEDCHAIN_*: a setting meant for one node would reach all of them."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("MEDCHAIN_")}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def _log_file(path: Path) -> IO[bytes]:
    with suppress(FileNotFoundError):
        if path.stat().st_size > LOG_SIZE_BYTES_MAX:
            os.replace(path, path.with_name(path.name + ".1"))
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))


def _signal(node: ClusterNode, number: signal.Signals) -> None:
    if node._process is not None:
        with suppress(ProcessLookupError):
            node._process.send_signal(number)


async def _watch(node: ClusterNode, process: asyncio.subprocess.Process) -> None:
    """Read stdout until it closes (the first good line says ready), then note how the process ended."""
    assert process.stdout is not None
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:  # a line over the limit: drop what is buffered and go on
            continue
        if not line:
            break
        ready = _parse_ready(line)
        if ready and not node.ready:
            node.ready = ready
            if node.state is State.STARTING:
                node.state = State.RUNNING
            node._changed.set()
    node.returncode = await process.wait()
    node._process = None
    node.state = State.EXITED
    node._changed.set()


def _parse_ready(line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) and document.get("ready") is True else {}


async def _wait_node_ready(node: ClusterNode) -> None:
    while not node.ready:
        if not node.alive:
            raise ClusterError(
                f"{node.name} ended with status {node.returncode} before it was ready; see {node.log_path}",
                Code.CLUSTER_UNHEALTHY,
            )
        node._changed.clear()
        await node._changed.wait()


async def _gone(node: ClusterNode) -> None:
    if node._watcher is not None:
        await asyncio.shield(node._watcher)
