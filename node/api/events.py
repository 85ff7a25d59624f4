"""Events: ordered transactions with what became of them, read from the store by cursor, as a page or as a stream.

A stream holds a cursor and nothing else: what a slow reader has not read stays on disk.

Must not know: aiohttp.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ledger.errors import FieldReject
from node.api.exchange import POSITION_MAX, Answer, Api, Cursor, Place, Request, Stream, cursor
from node.api.problems import bad_request, json_bytes
from node.api.views import event_json

START: Place = (0, 0)
STREAM_PAGE = 50  # events between two turns of the event loop
KEEP_ALIVE_MS = 15_000  # proxies and browsers give up on silent streams after half a minute or more


async def events(api: Api, request: Request) -> Answer | Stream:
    """A page after the cursor, or with `Accept: text/event-stream` a stream that goes on from there."""
    accepts = request.headers.get("Accept", "")
    resumed = request.headers.get("Last-Event-ID")
    after: Place | None = request.query["after"]
    if "text/event-stream" in accepts:
        if resumed is not None:
            after = _resume(resumed)
        return Stream(lambda write: _stream(api, _place(api, after), write))
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
    return (api.service.store.tip.height, POSITION_MAX) if after is None else after


async def _stream(api: Api, place: Place, write: Callable[[bytes], Awaitable[None]]) -> None:
    store = api.service.store
    await write(b"retry: 2000\n\n")  # how long a browser waits before it comes back
    while True:
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
            await write(b": keep-alive\n\n")
