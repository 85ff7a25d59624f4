"""Published files, which nobody here wrote, through four processes: every drug event, record, consent and claim; then a
search of every node's disk and logs for the people in them.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import Code
from node.api.client import Client
from node.cluster.plan import development_modules
from node.cluster.runner import LocalCluster
from node.demo.send import ClusterTransport, Load, Sent, Tally
from node.demo.watch import Watch, chain_of
from node.gateway import fhir
from node.workload import Cast, Step, published, published_modules
from node.workload.steps import AT_THE_DOOR, Capture, Keep, Read
from tests.disk_search import found_in_clear

DATA = Path(os.environ.get("MEDCHAIN_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.xdist_group("processes"),
    pytest.mark.skipif(not DATA.is_dir() and not os.environ.get("CI"), reason="published examples not present"),
]


@dataclass(frozen=True)
class Run:
    """What one passage of all files left behind; the cluster is stopped."""

    directory: Path
    steps: list[Step]
    tally: Tally
    sent: list[Sent]
    chains: dict[str, dict[str, dict[str, Any]]]
    statuses: dict[str, dict[str, Any]] | None
    histories: dict[str, list[dict[str, Any]]]
    claims: list[dict[str, Any]]

    @property
    def chain(self) -> dict[str, dict[str, Any]]:
        return next(iter(self.chains.values()))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return asyncio.run(_run(tmp_path_factory.mktemp("published") / "cluster"))


async def _run(directory: Path) -> Run:
    modules = published_modules(DATA, development_modules())
    cast = Cast(modules)
    steps = published(DATA, random.Random(1), cast, time.time_ns() // 1_000_000)
    cluster = LocalCluster.create(directory, 4, modules=modules)
    async with cluster:
        await cluster.wait_ready()
        async with Watch(cluster.nodes) as watch:
            chain_id = bytes.fromhex(cluster.plan.chain_id)
            transport = ClusterTransport(cast, cluster.plan.nodes, directory, chain_id)
            load = Load(cast, transport, steps)
            try:
                await load.run()
            finally:
                await transport.close()
            statuses = await watch.agreed()
            chains = {name: await chain_of(client) for name, client in watch.clients.items()}
            client = next(iter(watch.clients.values()))
            histories = await _histories(client, next(iter(chains.values())))
            claims = await _claims(client, next(iter(chains.values())))
    return Run(directory, steps, load.tally, transport.sent, chains, statuses, histories, claims)


async def _histories(client: Client, chain: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The access history of each record that somebody tried to read, as the API tells it."""
    read = {one["fields"]["record"] for one in chain.values() if one["operation"] == "records.access"}
    return {record: (await client.record_history(record))["items"] for record in sorted(read)}


async def _claims(client: Client, chain: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    ids = [one["fields"]["claim"] for one in chain.values() if one["operation"] == "payments.claim"]
    return [await client.claim(claim) for claim in ids]


def acts(run: Run, operation: str) -> list[dict[str, Any]]:
    return [one for one in run.chain.values() if one["operation"] == operation]


def test_every_step_ends_as_foretold(run: Run) -> None:
    assert run.tally.wrong == []
    assert run.tally.done == len(run.steps) > 500


def test_each_drug_event_is_accepted_or_refused_with_a_documented_code(run: Run) -> None:
    captured = [step for step in run.steps if isinstance(step.act, Capture)]
    decided = [one for one in run.chain.values() if one["operation"].startswith("drugs.")]
    at_door = [label for label, _ in run.tally.refused_at_gateway if label.startswith("EPCIS")]
    assert len(captured) >= 40
    assert len(decided) + len(at_door) >= len(captured)
    assert {Code(one["code"]) for one in decided} <= set(Code)
    accepted = {one["operation"] for one in decided if one["code"] == 0}
    assert accepted >= {
        "drugs.commission", "drugs.transform", "drugs.aggregate", "drugs.disaggregate", "drugs.ship", "drugs.receive",
        "drugs.observe", "drugs.dispense", "drugs.associate",
    }  # fmt: skip


def test_what_the_standard_forbids_is_refused_at_the_door_with_the_field_named(run: Run) -> None:
    invalid = {f"EPCIS: {path.stem}" for path in (DATA / "epcis" / "invalid").glob("*.json")}
    refused: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for label, outcome in run.tally.refused_at_gateway:
        assert outcome.code == AT_THE_DOOR
        refused[label].append(outcome.detail)
    assert len(invalid) >= 8
    assert invalid <= set(refused)
    assert all(str(detail[0]).startswith("/") and detail[1] for label in invalid for detail in refused[label])


def test_every_record_is_registered_and_each_file_has_its_read_allowed_and_its_read_refused(run: Run) -> None:
    kept = [step for step in run.steps if isinstance(step.act, Keep)]
    registered = [one for one in acts(run, "records.register") if one["code"] == 0]
    assert len(registered) == len(kept) > 300
    files = {step.story for step in kept}
    reads = acts(run, "records.access")
    assert sum(isinstance(step.act, Read) for step in run.steps) == len(reads)
    assert sum(one["code"] == 0 for one in reads) == 2 * len(files)
    assert sum(one["code"] == Code.GRANT_REVOKED for one in reads) == len(files)
    assert len(acts(run, "records.grant")) == len(acts(run, "records.revoke")) == len(files)


def test_a_records_history_tells_who_read_it(run: Run) -> None:
    assert run.histories
    for steps in run.histories.values():
        operations = [step["operation"] for step in steps]
        assert operations[0] == "records.register"
        assert {"records.grant", "records.access", "records.revoke"} <= set(operations)
        assert {step["member"] for step in steps if step["operation"] == "records.access"} <= {"pharmacy", "hospital"}


def test_claims_settle(run: Run) -> None:
    assert len(run.claims) >= 7
    for claim in run.claims:
        assert claim["state"] == "settled"
        assert claim["insurer_amount"] + claim["patient_amount"] == claim["amount"] > 0


def test_all_nodes_end_with_the_same_state_and_the_same_transactions(run: Run) -> None:
    assert run.statuses is not None
    assert len({status["state_root"]["root"] for status in run.statuses.values()}) == 1
    assert all(chain == run.chain for chain in run.chains.values())
    assert {one.tx_id.hex() for one in run.sent} <= set(run.chain)


def test_nothing_personal_is_in_clear_on_any_disk_or_in_any_log(run: Run) -> None:
    personal: set[str] = set()
    for step in run.steps:
        if isinstance(step.act, Keep):
            personal |= fhir.personal_strings(fhir.parse(step.act.resource))
    assert len(personal) > 50
    assert found_in_clear(run.directory, personal) == []


def test_the_search_finds_what_is_there(run: Run) -> None:
    """Of a search that finds nothing anywhere nothing follows."""
    lot, kind = "LOT2026A", "MedicationDispense"
    found = {(where, text) for where, text in found_in_clear(run.directory, [lot, kind, "hospital", "checkpoint"])}
    for node in ("hospital", "maker", "pharmacy", "insurer"):
        assert (f"{node}: database", lot) in found
        assert (f"{node}: database", kind) in found
        assert (f"logs/{node}.log", "checkpoint") in found
