"""Four CometBFT validators on this machine: built with Go's own tools, laid out, configured, started, killed.

Three setups are compared: `stock` as CometBFT ships, `tuned` for speed, `signed` as tuned with an application that
checks an Ed25519 signature for every transaction. None of them gives up durability: votes are fsynced before they are
sent in all.

Must not know: what is sent to them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.comet_chain import rpc
from bench.observer import BenchError, Unavailable, processor_s
from bench.processes import end
from bench.report import TARGET_P95_MS
from node.cluster.runner import free_base_port

SOURCE = Path(__file__).resolve().parent / "comet"
CACHE = SOURCE.parents[1] / "build"  # not under version control
NODES = 4
BUILD_TIMEOUT_S = 900.0
LAYOUT_TIMEOUT_S = 30.0
READY_TIMEOUT_S = 30.0
LOG = "log"  # in a node's home: what it prints

Settings = Mapping[str, Mapping[str, str]]  # section of config.toml -> key -> value as TOML writes it

# Of the door and not of the chain: at the ten calls a request that ship, it would cost CometBFT more than it need.
DOOR: Settings = {"rpc": {"max_request_batch_size": "0"}}
TUNED: Settings = {
    "": {"log_level": '"error"'},
    "p2p": {
        "flush_throttle_timeout": '"2ms"',  # 100 ms hold back every small message
        "send_rate": "512000000",  # 5 MB/s a peer is a limit for wide-area networks
        "recv_rate": "512000000",
    },
    "mempool": {
        "size": "100000",
        "cache_size": "200000",  # a transaction that falls out of it while it is under way is executed twice
        "recheck": "false",  # this application never changes its mind about what waits
    },
    "consensus": {
        "timeout_commit": '"0s"',
        "skip_timeout_commit": "true",
        "create_empty_blocks": "false",
        "peer_gossip_sleep_duration": '"2ms"',  # 100 ms between two looks at what a peer lacks
    },
    "tx_index": {"indexer": '"null"'},
}


@dataclass(frozen=True, slots=True)
class Setup:
    """One of the compared. `one_namespace`: keys are under one prefix and ascend, else they fall all over the store.
    `p95_ms_max`: what a rate must keep to pass.
    """

    name: str
    settings: tuple[Settings, ...]
    flags: tuple[str, ...]
    one_namespace: bool
    signed: bool
    p95_ms_max: float = TARGET_P95_MS


SETUPS = {
    # Waiting a second after each block, stock never keeps the half second that the others must.
    "stock": Setup("stock", (DOOR,), (), one_namespace=False, signed=False, p95_ms_max=3_000.0),
    "tuned": Setup("tuned", (DOOR, TUNED), ("--connsync",), one_namespace=True, signed=False),
    "signed": Setup("signed", (DOOR, TUNED), ("--connsync", "--signed"), one_namespace=True, signed=True),
}


def with_settings(text: str, settings: Settings) -> str:
    """A config.toml with other values; ValueError for a setting that it does not have."""
    wanted = {(section, key): value for section, keys in settings.items() for key, value in keys.items()}
    section, lines = "", []
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[] ")
        key = line.partition("=")[0].strip()
        value = wanted.pop((section, key), None)
        lines.append(line if value is None else f"{key} = {value}")
    if wanted:
        raise ValueError("no such settings: " + ", ".join(".".join(place) for place in sorted(wanted)))
    return "\n".join(lines) + "\n"


def rpc_url(base_port: int, index: int) -> str:
    """Each node has two ports in a row: for its peers, and for clients."""
    return f"http://127.0.0.1:{base_port + 2 * index + 1}"


def build() -> Path:
    """The program, built anew where its sources changed; Unavailable if it cannot be."""
    go = shutil.which("go")
    if go is None:
        raise Unavailable("no Go on the PATH to build CometBFT with")
    program = CACHE / "comet-node"
    command = [go, "build", "-trimpath", "-buildvcs=false", "-o", str(program), "."]
    try:
        built = subprocess.run(
            command, cwd=SOURCE, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"CometBFT cannot be built: {type(error).__name__}") from None
    if built.returncode:
        last = (built.stderr.strip() or "no reason given").splitlines()[-1]
        raise Unavailable(f"CometBFT cannot be fetched or built: {last}")
    return program


def versions(program: Path) -> dict[str, str]:
    """Of Go and CometBFT."""
    found = subprocess.run([str(program), "versions"], capture_output=True, text=True, check=True, timeout=10)
    return {str(name): str(value) for name, value in json.loads(found.stdout).items()}


@dataclass(frozen=True, slots=True)
class Nodes:
    """Running validators."""

    urls: list[str]
    processes: list[asyncio.subprocess.Process]

    def processor_s(self) -> float:
        """What all of them have used."""
        return sum(processor_s(Path(f"/proc/{process.pid}/stat")) for process in self.processes)


@asynccontextmanager
async def running(program: Path, setup: Setup, folder: Path) -> AsyncIterator[Nodes]:
    """A new chain's validators, linked and at their first height; killed at the end, and with this process."""
    base_port = free_base_port(NODES, proxies=False)
    homes = lay_out(program, setup, folder, base_port)
    processes: list[asyncio.subprocess.Process] = []
    try:
        for home in homes:
            processes.append(await _start(program, setup, home))
        nodes = Nodes([rpc_url(base_port, index) for index in range(NODES)], processes)
        await asyncio.gather(*map(_until_ready, nodes.urls, homes))
        yield nodes
    finally:
        await asyncio.gather(*map(end, processes))


def lay_out(program: Path, setup: Setup, folder: Path, base_port: int) -> list[Path]:
    """The nodes' homes, with the setup's settings."""
    layout = [str(program), "layout", "--out", str(folder), "--nodes", str(NODES), "--base-port", str(base_port)]
    try:
        subprocess.run(layout, check=True, capture_output=True, timeout=LAYOUT_TIMEOUT_S)
    except subprocess.SubprocessError as error:
        raise BenchError(f"CometBFT's nodes cannot be laid out: {error}") from None
    homes = [folder / f"node{index}" for index in range(NODES)]
    for home in homes:
        file = home / "config" / "config.toml"
        for settings in setup.settings:
            file.write_text(with_settings(file.read_text("utf-8"), settings), "utf-8")
    return homes


async def _start(program: Path, setup: Setup, home: Path) -> asyncio.subprocess.Process:
    log = os.open(home / LOG, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "node.cluster.child", str(os.getpid()),
            str(program), "start", "--home", str(home), *setup.flags,
            stdout=log, stderr=log,
        )  # fmt: skip
    finally:
        os.close(log)


async def _until_ready(url: str, home: Path) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            peers = (await rpc(url, "net_info"))["n_peers"]
            height = (await rpc(url, "status"))["sync_info"]["latest_block_height"]
            if int(peers) == NODES - 1 and int(height) >= 1:
                return
        except (OSError, EOFError, TimeoutError):
            pass  # not listening yet
        if time.monotonic() > deadline_s:
            last = (home / LOG).read_text("utf-8", "replace").strip().rpartition("\n")[2]
            raise BenchError(f"{home.name} has not joined the others in {READY_TIMEOUT_S:g} s: {last}")
        await asyncio.sleep(0.1)
