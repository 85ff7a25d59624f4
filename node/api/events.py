"""Events: ordered transactions with what became of them, read from the store by cursor, as a page or as a stream; and
the stream of headers, for those who only want to know how far the chain is.

A stream holds a cursor and nothing else: what a slow reader has not read stays on disk.

Must not know: aiohttp.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ledger.errors import FieldReject
from ledger.fields import Integer
from node.api.exchange import POSITION_MAX, Answer, Api, Cursor, Place, Request, Stream, Typed, cursor
from node.api.problems import bad_request, json_bytes, pruned
from node.api.views import event_json, header_json
from storage.chain import ChainStore

START: Place = (0, 0)
STREAM_PAGE = 50  # events or headers between two turns of the event loop
STREAM = "text/event-stream"
RETRY = b"retry: 2000\n\n"  # how long a browser waits before it comes back
KEEP_ALIVE = b": keep-alive\n\n"
KEEP_ALIVE_MS = 15_000  # proxies and browsers give up on silent streams after half a minute or more


async def events(api: Api, request: Request) -> Answer | Stream:
    """A page after the cursor, or with `Accept: text/event-stream` a stream that goes on from there."""
    accepts = request.headers.get("Accept", "")
    resumed = request.headers.get("Last-Event-ID")
    after: Place | None = request.query["after"]
    if STREAM in accepts:
        if resumed is not None:
            after = _resume(resumed)
        start = _place(api, after)
        return Stream(lambda write: _stream(api, start, write))
    place, limit = _place(api, after), request.query["limit"]
    found: list[dict[str, Any]] = []
    while len(found) < limit:
        page = api.service.store.events(place, min(STREAM_PAGE, limit - len(found)))
        if not page:
            break
        place = page[-1].height, page[-1].position
        found += [event_json(api, (item.height, item.position), item.transaction, item.receipt) for item in page]
        await asyncio.sleep(0)
    # Always a cursor: the end of the chain is where one asks again later.
    return Answer.json({"items": found, "next": cursor(place), "more": len(found) == limit})


def _resume(text: str) -> Place | None:
    try:
        return Cursor().parse(text[:64], "Last-Event-ID")
    except FieldReject:
        raise bad_request("Last-Event-ID", "height:position") from None


def _place(api: Api, after: Place | None) -> Place:
    """`latest` is the end of the chain now: the last possible position of the tip's block."""
    store = api.service.store
    if after is None:
        return store.tip.height, POSITION_MAX
    if _is_pruned(store, after):
        raise pruned(store.pruned)
    return after


def _is_pruned(store: ChainStore, place: Place) -> bool:
    """Whether some of what follows the place is gone."""
    height, position = place
    if height != store.pruned:
        return height < store.pruned
    header = store.header(height)
    return header is not None and position + 1 < header.tx_count


async def _stream(api: Api, place: Place, write: Callable[[bytes], Awaitable[None]]) -> None:
    store = api.service.store
    await write(RETRY)
    while not _is_pruned(store, place):  # else it ends, and who comes back for the rest is told
        height = store.tip.height
        page = store.events(place, STREAM_PAGE)
        if page:
            place = page[-1].height, page[-1].position
            parts = []
            for item in page:
                at = item.height, item.position
                data = json_bytes(event_json(api, at, item.transaction, item.receipt))
                parts.append(b"id: %s\nevent: transaction\ndata: %s\n\n" % (cursor(at).encode(), data))
            await write(b"".join(parts))
            await asyncio.sleep(0)
        elif not await api.service.wait_for_height(height + 1, KEEP_ALIVE_MS):
            await write(KEEP_ALIVE)


def headers(api: Api, request: Request) -> Stream:
    """Headers from a height on, or of what is still to come: one event a block, written as soon as it is applied."""
    first: int | None = request.query["from"]
    resumed = request.headers.get("Last-Event-ID")
    if resumed is not None:
        try:
            first = Typed(Integer()).parse(resumed[:64], "Last-Event-ID") + 1
        except FieldReject:
            raise bad_request("Last-Event-ID", "a height") from None
    following = api.service.store.tip.height + 1 if first is None else max(1, first)
    return Stream(lambda write: _header_stream(api, following, write))


async def _header_stream(api: Api, following: int, write: Callable[[bytes], Awaitable[None]]) -> None:
    store = api.service.store
    await write(RETRY)
    while True:
        page = range(following, min(store.tip.height, following + STREAM_PAGE - 1) + 1)
        if page:
            following = page[-1] + 1
            found = [header for header in map(store.header, page) if header is not None]
            items = [(header.height, json_bytes(header_json(store.chain_id, header))) for header in found]
            await write(b"".join([b"id: %d\nevent: block\ndata: %s\n\n" % item for item in items]))
            await asyncio.sleep(0)
        elif not await api.service.wait_for_height(following, KEEP_ALIVE_MS):
            await write(KEEP_ALIVE)
