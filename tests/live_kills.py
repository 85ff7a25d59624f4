"""The live check that the simulation is not a fiction: four real processes under load, kill -9 at random moments, the
leader half of the time: `python -m tests.live_kills --rounds 100` (or `make kills`). Status 1 at the first failure.

After each kill the dead node's write-ahead log is read as it lies on disk. At the end: one chain on all nodes, equal
certified roots, no vote that contradicts another of the same member in any log ever seen, no evidence against anybody,
and every transaction whose commit was told to its client is on the chain.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from consensus.messages import CheckpointVote, Prepared, PrePrepare, Vote
from ledger.errors import ConfigError
from ledger.genesis import development_key
from ledger.modules.payments import Transfer
from ledger.transaction import Transaction
from node.api.client import ClientError
from node.cluster.runner import ClusterError, ClusterNode, LocalCluster
from node.demo.watch import Watch, chain_of
from node.replica import RecordKind, split_records
from storage.wal import WriteAheadLog

PAYERS = 8  # clients that wait for each commit before they send the next
UP_S = (0.2, 2.0)  # how long a round lets all work before it kills
DOWN_S = (0.0, 1.5)  # how long the killed one stays away
AGREE_S = 60.0

Say = Callable[[str], None]


class Violated(Exception):
    """Something that must never happen did."""


@dataclass
class Record:
    """What was seen in the whole run."""

    votes: dict[tuple[object, ...], bytes] = field(default_factory=dict)
    committed: dict[str, None] = field(default_factory=dict)
    refused: int = 0
    logs: int = 0
    leaders: int = 0

    def read_log(self, node: ClusterNode) -> None:
        """Every vote in the log of a node that is down; a contradiction with an earlier one raises."""
        self.read_folder(node.name, node.home / "data" / "wal")

    def read_folder(self, name: str, wal: Path) -> None:
        """The same for the log in a folder."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "wal"
            shutil.copytree(wal, copy)
            log = WriteAheadLog(copy, create=False)  # cuts a torn tail, in the copy
            try:
                for entry in log.replay():
                    if entry.kind == RecordKind.VOTES:
                        self._note(name, entry.payload)
            finally:
                log.close()
        self.logs += 1

    def _note(self, name: str, payload: bytes) -> None:
        for record in split_records(payload):
            place: tuple[object, ...]
            match record:
                case PrePrepare(vote=vote) | (Vote() as vote):
                    place, said = (name, vote.epoch, vote.view, vote.height, vote.phase), vote.digest
                case CheckpointVote():
                    place = (name, record.epoch, "checkpoint", record.height)
                    said = record.block_hash + record.state_root + record.results_hash
                case Prepared():
                    certificate = record.certificate  # a quorum's: nobody may ever hold another of the same view
                    place = ("lock", certificate.epoch, certificate.view, certificate.height)
                    said = certificate.digest
                case _:
                    continue
            if self.votes.setdefault(place, said) != said:
                raise Violated(f"{place} was signed twice, with different content")


async def run(rounds: int, seed: int, members: int, folder: Path, say: Say) -> Record:
    """Raises Violated, or TimeoutError where the chain did not go on."""
    random, record = Random(seed), Record()
    async with LocalCluster.create(folder, members) as cluster:
        await cluster.wait_ready()
        async with Watch(cluster.nodes) as watch:
            stopping = asyncio.Event()
            payers = [asyncio.create_task(_pay(cluster, watch, number, record, stopping)) for number in range(PAYERS)]
            try:
                for number in range(1, rounds + 1):
                    await _round(cluster, watch, random, record)
                    say(f"round {number} of {rounds}: height {watch.height}, {len(record.committed)} committed")
            finally:
                stopping.set()
                await asyncio.gather(*payers)
            await _settled(cluster, watch, record)
        for node in cluster.nodes:
            await cluster.stop(node)
            record.read_log(node)
    return record


async def _round(cluster: LocalCluster, watch: Watch, random: Random, record: Record) -> None:
    await asyncio.sleep(random.uniform(*UP_S))
    leader = await watch.leader()
    others = [node for node in cluster.nodes if node is not leader]
    victim = leader if not others or random.randrange(2) else random.choice(others)
    record.leaders += victim is leader
    height = watch.height
    await cluster.kill(victim)
    record.read_log(victim)
    await asyncio.sleep(random.uniform(*DOWN_S))
    await cluster.start(victim)
    await cluster.wait_ready()
    async with asyncio.timeout(AGREE_S):
        while watch.height <= height:
            await asyncio.sleep(0.02)


async def _pay(cluster: LocalCluster, watch: Watch, payer: int, record: Record, stopping: asyncio.Event) -> None:
    number = 0
    while not stopping.is_set():
        number += 1
        operation = Transfer("CNY", "pharmacy", 1, f"invoice {payer}-{number}")
        tx = Transaction.create(
            development_key("insurer"),
            bytes.fromhex(cluster.plan.chain_id),
            operation.NAME,
            operation.to_fields(),
            nonce=payer.to_bytes(8, "big") + number.to_bytes(8, "big"),
            valid_until=watch.height + 500,
        )
        node = cluster.nodes[(payer + number) % len(cluster.nodes)]
        try:
            outcome = await watch.clients[node.name].submit_wait(tx.wire, 3_000)
        except ClientError:
            record.refused += 1  # it is down, or died before it could tell: nothing was acknowledged
            await asyncio.sleep(0.05)
        else:
            if outcome["code"] == 0:
                record.committed[tx.id.hex()] = None


async def _settled(cluster: LocalCluster, watch: Watch, record: Record) -> None:
    statuses = await watch.agreed(AGREE_S)
    if statuses is None:
        raise Violated(f"the nodes did not agree within {AGREE_S:.0f} s: heights {watch.heights}")
    if any(status["counters"]["evidence"] for status in statuses.values()):
        raise Violated("an honest member was accused")
    chains = {name: await chain_of(client) for name, client in watch.clients.items()}
    for name, chain in chains.items():
        missing = [tx_id for tx_id in record.committed if chain.get(tx_id, {}).get("code") != 0]
        if missing:
            raise Violated(f"{name} lacks {len(missing)} acknowledged transactions, the first {missing[0]}")
    first = next(iter(chains.values()))
    if any(chain != first for chain in chains.values()):
        raise Violated("the nodes' chains differ")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make kills", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the victims")
    parser.add_argument("--members", type=int, default=4, help="how many processes; one has nobody to ask afterwards")
    arguments = parser.parse_args()
    began_s = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="medchain-kills-"))
    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    try:
        record = asyncio.run(run(arguments.rounds, arguments.seed, arguments.members, folder / "cluster", say))
    except (Violated, TimeoutError, ClusterError) as error:
        print(f"FAILED: {error!r}; data and logs are in {folder}; again with --seed {arguments.seed}")
        return 1
    except ConfigError as error:
        shutil.rmtree(folder)
        parser.error(str(error))
    shutil.rmtree(folder)
    print(
        f"{arguments.rounds} kills ({record.leaders} of the leader) in {time.monotonic() - began_s:.0f} s: one chain, "
        f"{len(record.committed)} acknowledged transactions, all on every node ({record.refused} calls failed); "
        f"{len(record.votes)} votes in {record.logs} logs, no contradiction"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
