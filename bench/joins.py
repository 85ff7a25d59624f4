"""How long a new node takes to join a long chain: by all blocks and by snapshot, at rest, under load, among bad peers.

python -m bench.joins --txs 200000              makes the chain, starts four nodes on it, prints a line for each way
python -m bench.joins --folder DIR --rate 200   on a chain that `python -m bench.chains --out DIR` made

Each way is a follower of its own, in this order: by all blocks; by snapshot; by snapshot while the chain is under load;
the same while one of its four peers lies about the state and another is killed in the middle. It has joined once its
node has executed the height at which the chain stood when it began. All share this machine with the four nodes, so
compare within one run.

Must not know: how pieces are checked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from bench.chains import Clock, make
from ledger.codec import Value
from ledger.genesis import development_key
from ledger.modules.payments import Transfer
from ledger.transaction import NONCE_SIZE_BYTES, Transaction
from node.api.client import Client
from node.cluster import plan as plans
from node.cluster.runner import ClusterNode, LocalCluster, initialise_home
from node.home import DATA

LIAR, VICTIM = "insurer", "pharmacy"
LYING_FILE = "lying"  # in the cluster's folder, while the liar lies
KILL_AFTER_S = 1.0
POST_EVERY_S = 0.1
VALID_FOR = 900
TIMEOUT_S = 3_600.0
POLL_S = 0.1
SETTLING_BLOCKS = 25  # two checkpoints of the nodes' own: the first makes a snapshot, which is offered once certified
HEADER = f"{'way':<32}{'blocks':>9}{'joined s':>10}{'at tip s':>10}{'MB fetched':>12}{'MB on disk':>12}  refused"


@dataclass(frozen=True, slots=True)
class Line:
    """One join. `joined_s`: the snapshot is in place (None where there was none)."""

    way: str
    height: int
    joined_s: float | None
    at_tip_s: float
    fetched_bytes: int | None
    disk_bytes: int
    refused: str

    def __str__(self) -> str:
        joined = "-" if self.joined_s is None else f"{self.joined_s:.1f}"
        fetched = "-" if self.fetched_bytes is None else f"{self.fetched_bytes / 1e6:.1f}"
        return (
            f"{self.way:<32}{self.height:>9,}{joined:>10}{self.at_tip_s:>10.1f}{fetched:>12}"
            f"{self.disk_bytes / 1e6:>12.1f}  {self.refused or '-'}"
        )


def serve_lies() -> None:
    """`medchain start`, of which one node answers with an entry too many in every bucket while it is told to lie."""
    from node import cli
    from node.snapshots import BUCKETS, Question, SnapshotServer

    home = Path(sys.argv[sys.argv.index("--home") + 1])
    honest = SnapshotServer._answer

    async def answer(server: SnapshotServer, question: Question) -> Value:
        value = await honest(server, question)
        if question.what != BUCKETS or not isinstance(value, tuple) or not (home.parent / LYING_FILE).exists():
            return value
        return tuple((*bucket, b"more", b"money") for bucket in value)  # type: ignore[misc]

    if home.name == LIAR:
        SnapshotServer._answer = answer  # type: ignore[method-assign,assignment]
    sys.argv[1:2] = ["start"]
    cli.main()


@asynccontextmanager
async def load(cluster: LocalCluster, rate: float) -> AsyncIterator[list[int]]:
    """Transfers at the first node, `rate` a second, until the context ends; yields [how many were accepted]."""
    accepted = [0]

    async def pay() -> None:
        async with Client(cluster.nodes[0].api_url) as client:
            chain_id = bytes.fromhex(cluster.plan.chain_id)
            operation = Transfer("CNY", "maker", 1, "")
            while True:
                began_s, valid_until = time.monotonic(), await client.height() + VALID_FOR
                wires = [
                    Transaction.create(
                        development_key("hospital"), chain_id, operation.NAME, operation.to_fields(),
                        nonce=secrets.token_bytes(NONCE_SIZE_BYTES), valid_until=valid_until,
                    ).wire
                    for _ in range(max(1, round(rate * POST_EVERY_S)))
                ]  # fmt: skip
                accepted[0] += sum(not outcome["code"] for outcome in await client.submit(wires))
                await asyncio.sleep(max(0.0, POST_EVERY_S - (time.monotonic() - began_s)))

    task = asyncio.create_task(pay())
    try:
        yield accepted
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def height_of(node: ClusterNode) -> int:
    async with Client(node.api_url) as client:
        return await client.height()


async def reaches(node: ClusterNode, height: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while await height_of(node) < height:  # noqa: ASYNC110  it is another process
            await asyncio.sleep(POLL_S)


async def follow(cluster: LocalCluster, way: str, *, snapshot: bool, bad_peers: bool = False) -> Line:
    """One more follower, joined and started."""
    target = await height_of(cluster.nodes[0])
    cluster.plan = plans.add_follower(cluster.directory, cluster.plan, initialise_home)
    node = cluster._node(cluster.plan.nodes[-1])
    cluster.nodes.append(node)
    began_s = time.monotonic()
    joined: dict[str, Any] = {}
    joined_s: float | None = None
    if snapshot:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "node.cli", "join", "--home", str(node.home), "--json",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        if bad_peers:
            (cluster.directory / LYING_FILE).touch()
            await asyncio.sleep(KILL_AFTER_S)
            await cluster.kill(VICTIM)
        out, _ = await process.communicate()
        if process.returncode:
            raise SystemExit(f"{way}: medchain join ended with status {process.returncode}")
        joined = json.loads(out)
        joined_s = time.monotonic() - began_s
    await cluster.start(node)
    await cluster.wait_ready(nodes=[len(cluster.nodes) - 1])
    await reaches(node, target)
    at_tip_s = time.monotonic() - began_s
    await cluster.stop(node)
    names = {each.key: each.name for each in cluster.nodes}
    refused = ", ".join(names[key] for key in joined.get("refused", ()))
    return Line(way, target, joined_s, at_tip_s, joined.get("bytes"), size_of(node.home / DATA), refused)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def measure(folder: Path, rate: float) -> None:
    command = (sys.executable, "-m", "bench.joins", "--serve")
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(LocalCluster.open(folder, command=command))
        await cluster.wait_ready()
        await settle(cluster)
        print(HEADER)
        print(await follow(cluster, "all blocks", snapshot=False), flush=True)
        print(await follow(cluster, "snapshot", snapshot=True), flush=True)
        accepted = await stack.enter_async_context(load(cluster, rate))
        for way, bad_peers in (("snapshot, under load", False), ("snapshot, load, a liar, a death", True)):
            before, began_s, height = accepted[0], time.monotonic(), await height_of(cluster.nodes[0])
            print(await follow(cluster, way, snapshot=True, bad_peers=bad_peers))
            took_s = time.monotonic() - began_s
            made = await height_of(cluster.nodes[0]) - height
            print(f"{'':<32}meanwhile {(accepted[0] - before) / took_s:.0f} tx/s accepted, {made} blocks", flush=True)


async def settle(cluster: LocalCluster) -> None:
    """Until the nodes agreed on blocks of their own."""
    began = await height_of(cluster.nodes[0])
    async with load(cluster, 100.0):
        await reaches(cluster.nodes[0], began + SETTLING_BLOCKS)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.joins", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--txs", type=int, default=200_000, help="of the chain (default 200000)")
    parser.add_argument("--folder", type=Path, help="a cluster's folder with a chain; it grows by what is measured")
    parser.add_argument("--rate", type=float, default=100.0, help="transactions a second under load (default 100)")
    given = parser.parse_args(arguments)
    folder = given.folder or Path(mkdtemp(prefix="medchain-joins-"))
    try:
        if given.folder is None:
            blocks, txs, _ = make(folder, given.txs, 0, Clock())
            print(f"{blocks:,} blocks, {txs:,} transactions, {size_of(folder / 'hospital' / DATA) / 1e6:.0f} MB a node")
        asyncio.run(measure(folder, given.rate))
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve_lies()
    else:
        sys.exit(main())
