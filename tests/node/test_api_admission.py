"""Long reads take turns: few are made at a time, few wait, and the loop is never theirs for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ledger.errors import Code
from ledger.modules.payments import Transfer
from ledger.transaction import Transaction
from node.api import events
from node.api.admission import READS_MAX, READS_WAITING_MAX, SLICE, Reads
from node.api.exchange import Directory, Place, Route
from node.api.problems import Problem
from node.api.routes import ROUTES
from node.api.server import ApiServer
from storage.chain import ChainStore, Event
from tests.node.api_http import ask, get
from tests.node.api_service import HOSPITAL, PATIENT, running
from tests.node.test_api_events import Stream
from tests.node.test_api_reads import GTIN, PACK, RAW, RECORD

PLACES = READS_MAX + READS_WAITING_MAX


class Crowd:
    """As many reads as may be made or wait; they last until `leave`."""

    def __init__(self, reads: Reads) -> None:
        self.made = 0
        self._reads, self._end = reads, asyncio.Event()
        self.tasks = [asyncio.create_task(self._read()) for _ in range(PLACES)]

    async def _read(self) -> None:
        async with self._reads.admitted():
            self.made += 1
            await self._end.wait()

    async def settle(self) -> None:
        for _ in range(4 * PLACES):
            await asyncio.sleep(0)

    async def leave(self) -> None:
        self._end.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@asynccontextmanager
async def crowded(reads: Reads) -> AsyncIterator[Crowd]:
    crowd = Crowd(reads)
    await crowd.settle()
    try:
        yield crowd
    finally:
        await crowd.leave()


def reads_of(server: ApiServer) -> Reads:
    assert server._api is not None
    return server._api.reads


@pytest.mark.asyncio
async def test_few_reads_are_made_at_a_time_and_the_others_follow() -> None:
    async with crowded(Reads()) as crowd:
        assert crowd.made == READS_MAX
    assert crowd.made == PLACES


@pytest.mark.asyncio
async def test_a_read_beyond_the_queue_is_refused_until_one_has_left_it() -> None:
    reads = Reads()
    async with crowded(reads) as crowd:
        with pytest.raises(Problem) as refused:
            await reads.admitted().__aenter__()
        assert (refused.value.code, refused.value.status) == (Code.TOO_MANY_WAITERS, 503)
        crowd.tasks[-1].cancel()  # its client went away
        await crowd.settle()
        async with asyncio.TaskGroup() as group:
            group.create_task(crowd._read())
            await crowd.leave()


class Turns:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.now = 0

    async def __aenter__(self) -> Turns:
        self._counting = asyncio.create_task(self._count())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._counting.cancel()

    async def _count(self) -> None:
        while True:
            self.now += 1
            await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_whatever_the_number_of_readers_one_of_them_has_a_slice_in_a_turn_of_the_loop() -> None:
    reads, found = Reads(), set[tuple[int, str]]()
    async with Turns() as turns:

        async def page(name: str) -> None:
            async with reads.admitted():
                found.update([(turns.now, name) async for _ in reads.sliced(range(2 * SLICE))])

        async def block(name: str) -> None:
            """It has one slice, without a pause."""
            async with reads.admitted():
                found.add((turns.now, name))

        async def stream(name: str) -> None:
            for _ in range(10):
                await reads.turn()
                found.add((turns.now, name))

        await asyncio.gather(*(read(f"{read.__name__} {n}") for n in range(9) for read in (page, block, stream)))
    assert len({turn for turn, _ in found}) == len(found) == 9 * (2 + 1 + 10)


@pytest.mark.asyncio
async def test_pages_and_streams_of_events_read_the_store_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, at = ChainStore.events, list[int]()
    async with running(tmp_path) as (service, server), Turns() as turns:

        def noted(store: ChainStore, after: Place, limit: int) -> list[Event]:
            at.append(turns.now)
            return read(store, after, limit)

        monkeypatch.setattr(ChainStore, "events", noted)
        monkeypatch.setattr(events, "STREAM_PAGE", 1)
        for _ in range(10):
            service.send(HOSPITAL, Transfer("EUR", "maker", 5, ""))
        streams = [await Stream.open(server.url) for _ in range(5)]
        await asyncio.gather(*(get(server.url, "/v1/events?limit=5") for _ in range(5)))
        for stream in streams:
            assert [(await stream.event())[0] for _ in range(10)][-1] == "10:0"
            await stream.close()
    assert len(set(at)) == len(at) >= 5 * (5 + 10)


def target_of(route: Route, tx: Transaction) -> str:
    """An address of the route, with a proof where there is one to ask for."""
    values = {
        "id": tx.id.hex(), "height": "1", "commitment": RECORD.hex(), "key": PATIENT.public.hex(), "epc...": PACK,
        "gtin": GTIN, "lot...": "L/1", "owner": "maker",
    }  # fmt: skip
    needed = {"key": "00", "epc": PACK, "currency": "EUR", "access": tx.id.hex(), "prove": "true"}
    path = route.template
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    return path + "?" + "&".join(f"{item.name}={needed[item.name]}" for item in route.query if item.name in needed)


@pytest.mark.asyncio
async def test_in_a_crowd_the_routes_that_say_so_are_refused_and_no_others(tmp_path: Path) -> None:
    said = {route.template for route in ROUTES if route.method == "GET" and Code.TOO_MANY_WAITERS in route.codes}
    async with running(tmp_path) as (service, server):
        tx = service.send(HOSPITAL, Transfer("EUR", "maker", 5, ""))
        refused = set()
        async with crowded(reads_of(server)):
            for route in ROUTES:
                if route.method == "GET":
                    reply = await get(server.url, target_of(route, tx))
                    if reply.status == 503:
                        assert (reply.json["code"], reply.headers["retry-after"]) == ("MC3002", "1")
                        refused.add(route.template)
        assert refused == said
        for template in ("/v1/events", "/v1/blocks/{height}", "/v1/packs/trace", "/v1/accounts/{owner}/history"):
            assert template in said


@pytest.mark.asyncio
async def test_in_a_crowd_transactions_are_taken_and_short_reads_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        tx = service.transaction(HOSPITAL, Transfer("EUR", "maker", 5, ""))
        async with crowded(reads_of(server)):
            assert (await ask(server.url, "POST", "/v1/transactions?wait=committed", tx.wire, RAW)).status == 200
            for short in ("receipts", "transactions"):
                assert (await get(server.url, f"/v1/{short}/{tx.id.hex()}")).status == 200
            for short in ("/v1/status", "/v1/health", "/v1/metrics", "/v1/accounts/maker?currency=EUR"):
                assert (await get(server.url, short)).status == 200


@pytest.mark.asyncio
async def test_in_a_crowd_streams_go_on(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        async with crowded(reads_of(server)):
            stream = await Stream.open(server.url)
            service.send(HOSPITAL, Transfer("EUR", "maker", 5, ""))
            assert (await stream.event())[0] == "1:0"
        await stream.close()


@pytest.mark.asyncio
async def test_who_are_members_is_gathered_in_turns_too() -> None:
    """After a start all proposals there ever were are gone through: thousands may be."""
    rows = [(height, 0) for height in range(1, 1_201)]
    looked_up: list[int] = []

    def lookup(name: str, key: bytes, *, after: Place | None, limit: int) -> list[Place]:
        return [row for row in rows if row > (after or (0, 0))][:limit]

    def transaction_at(place: Place) -> None:
        looked_up[-1] += 1

    store = SimpleNamespace(lookup=lookup, transaction_at=transaction_at)
    service: Any = SimpleNamespace(store=store, genesis=SimpleNamespace(modules={"members": {}}))
    gathering = asyncio.create_task(Directory(service).ids(Reads()))
    while not gathering.done():
        looked_up.append(0)
        await asyncio.sleep(0)
    assert sum(looked_up) == len(rows)
    assert max(looked_up) <= SLICE
