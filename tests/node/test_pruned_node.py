"""A node that keeps only the last blocks: what it does while it runs, what it answers, what its home is good for."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from ledger.errors import Code, code_label
from ledger.genesis import Genesis, Parameters, development_key
from ledger.modules.payments import Transfer
from ledger.transaction import NONCE_SIZE_BYTES, Transaction
from node import cli, keys, upkeep
from node.api import events
from node.api.exchange import Api as ExchangeApi
from node.api.exchange import Request, Stream
from node.cli.common import Exit
from node.cluster.plan import development_modules
from node.config import P2P, Api, Log, NodeConfig, Storage
from node.home import initialise
from node.node import Node
from storage.chain import ChainStore
from storage.kv import KeyValue
from storage.pruning import prune

PARAMETERS = Parameters(window=1, checkpoint_interval=1, log_window=3, validity_heights_max=6, block_interval_ms=1)
KEEP = PARAMETERS.validity_heights_max + PARAMETERS.log_window
BLOCKS = 40


def config_of(home: Path, keep_blocks: int) -> NodeConfig:
    storage = Storage(keep_blocks=keep_blocks)
    return NodeConfig(home=home, p2p=P2P(port=0), api=Api(port=0), log=Log(level="warning"), storage=storage)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    config = config_of(home, KEEP)
    key = keys.generate()
    keys.save(config.key_path, key)
    time_ms = time.time_ns() // 1_000_000
    modules = development_modules()
    genesis = Genesis("pruned", time_ms, (key.public,), modules, development=True, parameters=PARAMETERS)
    config.genesis_path.write_text(genesis.to_json(), "utf-8")
    initialise(config)
    return home


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "SLACK_MIN", 2)
    monkeypatch.setattr(upkeep, "LOOK_EVERY_S", 0.01)


async def pay(node: Node) -> Transaction:
    operation = Transfer("CNY", "pharmacy", 100, "invoice")
    valid_until = node.desk.store.tip.height + 5
    nonce = secrets.token_bytes(NONCE_SIZE_BYTES)
    key, chain_id = development_key("hospital"), node.desk.genesis.chain_id
    tx = Transaction.create(key, chain_id, operation.NAME, operation.to_fields(), nonce=nonce, valid_until=valid_until)
    assert (await node.submit(tx)).ok
    return tx


def api_of(node: Node) -> ExchangeApi:
    assert node.api._api is not None
    return node.api._api


async def grow(node: Node) -> list[Transaction]:
    return [await pay(node) for _ in range(BLOCKS)]


async def wait_until_pruned(node: Node) -> int:
    store = node.desk.store
    while store.tip.height - store.pruned > KEEP + 2:
        await asyncio.sleep(0.01)
    return store.pruned


def test_a_running_node_forgets_old_blocks_and_goes_on(home: Path) -> None:
    async def scenario() -> None:
        async with Node(config_of(home, KEEP)) as node:
            first = (await grow(node))[0]
            pruned = await wait_until_pruned(node)
            assert pruned >= BLOCKS - KEEP - 3
            assert node.desk.store.transaction(first.id) is None
            await pay(node)
        async with Node(config_of(home, KEEP)) as node:
            assert node.desk.store.pruned >= pruned
            await pay(node)

    asyncio.run(scenario())


def test_it_says_what_it_no_longer_keeps(home: Path) -> None:
    async def scenario() -> None:
        async with Node(config_of(home, KEEP)) as node, aiohttp.ClientSession(node.api.url) as session:
            transactions = await grow(node)
            pruned = await wait_until_pruned(node)

            async def get(path: str) -> tuple[int, dict[str, object]]:
                async with session.get(path) as response:
                    return response.status, await response.json()

            status, told = await get("/v1/status")
            assert (status, told["pruned"]) == (200, pruned)
            for gone in (f"/v1/blocks/{pruned}", "/v1/blocks/1", "/v1/events", f"/v1/events?after={pruned - 1}:0"):
                status, problem = await get(gone)
                assert (status, problem["code"], problem["from"]) == (410, code_label(Code.PRUNED), pruned + 1), gone
            async with session.get("/v1/events", headers={"Accept": "text/event-stream"}) as response:
                assert response.status == 410
            status, page = await get(f"/v1/events?after={pruned}:0&limit=1")
            assert status == 200
            assert page["items"][0]["height"] == pruned + 1  # type: ignore[index]
            assert (await get(f"/v1/blocks/{pruned + 1}"))[0] == 200
            assert (await get(f"/v1/transactions/{transactions[0].id.hex()}"))[0] == 404
            assert (await get(f"/v1/transactions/{transactions[-1].id.hex()}"))[0] == 200
            headers = (await get("/v1/blocks?from=1&limit=5"))[1]["items"]
            assert [header["height"] for header in headers] == [1, 2, 3, 4, 5]  # type: ignore[attr-defined]

    asyncio.run(scenario())


def test_a_stream_that_is_overtaken_ends(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than leave out what is gone: who comes back for the rest is told."""
    monkeypatch.setattr(upkeep, "SLACK_MIN", 10**9)
    monkeypatch.setattr(events, "STREAM_PAGE", 1)

    async def scenario() -> None:
        async with Node(config_of(home, KEEP)) as node:
            await grow(node)
            store = node.desk.store
            written: list[bytes] = []

            async def write(data: bytes) -> None:
                written.append(data)
                while store.pruned < store.tip.height - KEEP:
                    store.prune(store.pruned + 1)

            query = {"after": (0, 0), "limit": 100}
            stream = await events.events(api_of(node), Request({}, query, {"Accept": events.STREAM}))
            assert isinstance(stream, Stream)
            await asyncio.wait_for(stream.run(write), 20)
            assert len(written) <= 2

    asyncio.run(scenario())


def test_the_command_prunes_a_stopped_home(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with Node(config_of(home, 0)) as node:
            await grow(node)

    def medchain(*arguments: str) -> tuple[int, str, str]:
        status = cli.run([*arguments, "--home", str(home)])
        sys.stdout.flush()
        return (status, *capfd.readouterr())

    asyncio.run(scenario())
    status, _, err = medchain("prune")
    assert status == Exit.USAGE
    assert "--keep" in err
    status, _, err = medchain("prune", "--keep", str(KEEP - 1))
    assert status == Exit.USAGE
    assert f"needs {KEEP} blocks" in err
    status, out, err = medchain("prune", "--keep", str(KEEP), "--json")
    assert (status, err) == (Exit.DONE, "compacting\n")
    told = json.loads(out)
    assert told["pruned"] >= BLOCKS - KEEP
    status, out, _ = medchain("verify", "--json")
    assert status == Exit.DONE
    assert json.loads(out)["pruned"] == told["pruned"]
    status, _, err = medchain("export", "blocks", "--from", "1")
    assert status == Exit.USAGE
    assert f"this node has {told['pruned'] + 1} to" in err
    status, out, _ = medchain("export", "receipts")
    assert status == Exit.DONE
    assert json.loads(out.splitlines()[0])["height"] == told["pruned"] + 1


@pytest.mark.asyncio
async def test_a_node_told_to_keep_less_keeps_what_the_protocol_needs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That may grow with a decision of the others: nobody's next start may fail for it, nor may the whole index be read
    again and again with nothing to prune."""
    rounds: list[int] = []

    def counted(kv: KeyValue, store: ChainStore, keep: int) -> Iterator[int]:
        before = store.pruned
        yield from prune(kv, store, keep)
        rounds.append(store.pruned - before)

    monkeypatch.setattr(upkeep, "prune", counted)
    async with Node(config_of(home, 1)) as node:
        await grow(node)
        assert await wait_until_pruned(node)
        assert node.desk.store.block(node.desk.store.tip.height - KEEP + 1) is not None
    assert all(rounds)
