"""Events: ordered transactions with what became of them, read from the store by cursor, as a page or as a stream; and
the stream of headers, for those who only want to know how far the chain is.

A stream holds a cursor and what it is writing: what a slow reader has not read stays on disk.

Must not know: aiohttp.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ledger.errors import FieldReject
from ledger.fields import Integer
from node.api.exchange import POSITION_MAX, Answer, Api, Cursor, Place, Request, Stream, Typed, cursor, long_read
from node.api.problems import bad_request, json_bytes, pruned
from node.api.views import event_json, header_json
from storage.chain import ChainStore

STREAM_PAGE = 50  # events or headers between two turns of the event loop
PAGE_SIZE_BYTES_MAX = 1024 * 1024  # of events as JSON, the last may go over it: forty times a thousand serials
STREAM = "text/event-stream"
RETRY = b"retry: 2000\n\n"  # how long a browser waits before it comes back
KEEP_ALIVE = b": keep-alive\n\n"
KEEP_ALIVE_MS = 15_000  # proxies and browsers give up on silent streams after half a minute or more


async def events(api: Api, request: Request) -> Answer | Stream:
    """A page after the cursor, or with `Accept: text/event-stream` a stream that goes on from there."""
    if STREAM not in request.headers.get("Accept", ""):
        return await _page(api, request)
    resumed = request.headers.get("Last-Event-ID")
    start = _place(api, request.query["after"] if resumed is None else _resume(resumed))
    return Stream(lambda write: _stream(api, start, write))


@long_read
async def _page(api: Api, request: Request) -> Answer:
    place, limit = _place(api, request.query["after"]), request.query["limit"]
    items: list[bytes] = []
    left_bytes, more = PAGE_SIZE_BYTES_MAX, True
    while more and left_bytes > 0 and len(items) < limit:
        if items:
            await api.reads.turn()
        found = _slice(api, place, min(STREAM_PAGE, limit - len(items)), left_bytes)
        more = bool(found)
        if more:
            place = found[-1][0]
            items += [data for _, data in found]
            left_bytes -= sum([len(data) for _, data in found])
    # Always a cursor: the end of the chain is where one asks again later.
    end = cursor(place).encode(), json_bytes(more)
    return Answer(b'{"items":[%s],"next":"%s","more":%s}' % (b",".join(items), *end))


def _slice(api: Api, after: Place, limit: int, size_bytes_max: int) -> list[tuple[Place, bytes]]:
    """The next events as JSON, each with its place: up to `limit`, or until they have reached `size_bytes_max`."""
    found: list[tuple[Place, bytes]] = []
    left_bytes = size_bytes_max
    for item in api.service.store.events(after, limit):
        place = item.height, item.position
        data = json_bytes(event_json(api, place, item.transaction, item.receipt))
        found.append((place, data))
        left_bytes -= len(data)
        if left_bytes <= 0:
            break
    return found


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
    while True:
        await api.reads.turn()
        if _is_pruned(store, place):
            return  # who comes back for the rest is told
        height = store.tip.height
        found = _slice(api, place, STREAM_PAGE, PAGE_SIZE_BYTES_MAX)
        if found:
            place = found[-1][0]
            items = [(cursor(at).encode(), data) for at, data in found]
            await write(b"".join([b"id: %s\nevent: transaction\ndata: %s\n\n" % item for item in items]))
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
        await api.reads.turn()
        page = range(following, min(store.tip.height, following + STREAM_PAGE - 1) + 1)
        if page:
            following = page[-1] + 1
            found = [header for header in map(store.header, page) if header is not None]
            items = [(header.height, json_bytes(header_json(store.chain_id, header))) for header in found]
            await write(b"".join([b"id: %d\nevent: block\ndata: %s\n\n" % item for item in items]))
        elif not await api.service.wait_for_height(following, KEEP_ALIVE_MS):
            await write(KEEP_ALIVE)
