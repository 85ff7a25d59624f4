"""One client process: has its share of the run signed (bench/signing.py), then posts what is due to its nodes on an
open loop. The ticks of several clients lie evenly between each other, so that they do not post at the same instant.

Gathers what became due into one post, or with `post_txs_max` 1 sends every transaction alone, as a program would that
serves one person at a time.

Talks to its parent in lines: reads one JSON document (the order), writes `{"signed": n}`, reads the start time on the
machine's monotonic clock, writes its result. Transaction ids and answers go to a file.

Must not know: when anything is committed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import sys
import time
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import counted_percentile
from bench.http import Connection
from bench.processes import ended_children_s, going_first, processor_s, say
from bench.signing import AHEAD_S, Order, Share, Signer, sign_share, unsigned_share
from ledger.codec import encode
from ledger.crypto import HASH_SIZE_BYTES
from node.cluster.child import tie_to_parent

# What came due since the last post goes together; its mean wait of 10 ms counts as latency. A post costs a node as much
# as a few signature checks, whatever it holds, so gateways gather too.
POST_INTERVAL_S = 0.020
SINGLES_INTERVAL_S = 0.002  # between looks at what is due, when nothing is gathered
LAGS_PER_MS = 10  # as finely as lags are counted
CONNECTIONS_PER_NODE_MAX = 64  # posts in flight; a node that answers slower than this holds up the generator
NOT_ANSWERED = 2**32 - 1
MSGPACK, RAW = "application/msgpack", "application/octet-stream"


class Generator:
    """Posts a share. Times are seconds from the start; `codes` holds each transaction's answer, `lags` how many were
    late by how many tenths of a millisecond. Its ticks come `phase` of an interval after those of the first client.
    """

    def __init__(
        self, share: Share, urls: Sequence[str], post_txs_max: int, phase: float = 0.0, signer: Signer | None = None
    ) -> None:
        self.share, self._urls, self._post_txs_max, self._signer = share, urls, post_txs_max, signer
        self.posted_bytes = 0
        self._start_s = 0.0
        self._interval_s = post_interval_s(post_txs_max)
        self._phase_s = phase * self._interval_s
        self.codes = array("I", [NOT_ANSWERED]) * len(share.wires)
        self.lags: Counter[int] = Counter()
        self.posts = self.failed_posts = 0
        self._idle: list[list[Connection]] = [[] for _ in urls]
        self._room = [asyncio.Semaphore(CONNECTIONS_PER_NODE_MAX) for _ in urls]

    async def run(self, start_s: float) -> None:
        """From `start_s` on the monotonic clock until everything is posted and answered."""
        self._start_s = start_s
        posting: set[asyncio.Task[None]] = set()
        due_s, count = self.share.due_s, len(self.share.wires)
        position = tick = turn = 0
        while position < count:
            tick += 1
            await asyncio.sleep(start_s + self._phase_s + tick * self._interval_s - time.monotonic())
            now_s = time.monotonic() - start_s
            due = min(bisect_right(due_s, now_s, position), self.share.ready)
            while position < due:
                end = min(due, position + self._post_txs_max)
                task = asyncio.create_task(self._post(turn % len(self._urls), position, end))
                posting.add(task)
                task.add_done_callback(posting.discard)
                position = end
                turn += 1
            if self._signer is not None:
                self._signer.posted(position)
            tick = max(tick, int((now_s - self._phase_s) / self._interval_s))  # what a stall swallowed is not made up
        await asyncio.gather(*posting)

    async def _post(self, node: int, first: int, end: int) -> None:
        wires = self.share.wires[first:end]
        target, body, media_type = self._request(wires)
        self.posted_bytes += sum(map(len, wires))
        self.share.wires[first:end] = [b""] * (end - first)  # a long run has no room for what is gone
        async with self._room[node]:
            try:
                connection = await self._connection(node)
                self._note_lags(first, end, time.monotonic() - self._start_s)
                status, answer = await connection.request("POST", target, body, media_type)
            except (OSError, EOFError, TimeoutError, ValueError):
                self.failed_posts += 1
                return
            self._idle[node].append(connection)
        self.posts += 1
        self._note(first, end, status, answer)

    def _note_lags(self, first: int, end: int, now_s: float) -> None:
        """How long after its tick, the first one at or after it was due, each is posted: because this process stood
        still, the signer was slow, or no connection was free.
        """
        for due_s in self.share.due_s[first:end]:
            tick = max(1, math.ceil((due_s - self._phase_s) / self._interval_s))
            late_s = now_s - self._phase_s - tick * self._interval_s
            self.lags[max(0, round(late_s * 1_000 * LAGS_PER_MS))] += 1

    async def _connection(self, node: int) -> Connection:
        """The one used last of those that are open, or a new one."""
        while self._idle[node]:
            connection = self._idle[node].pop()
            if connection.is_open:
                return connection
            connection.close()
        return await Connection.open(self._urls[node])

    def _request(self, wires: Sequence[bytes]) -> tuple[str, bytes, str]:
        """Target, body and its media type."""
        alone = self._post_txs_max == 1
        return "/v1/transactions", wires[0] if alone else encode(tuple(wires)), RAW if alone else MSGPACK

    def _note(self, first: int, end: int, status: int, answer: bytes) -> None:
        if status == 202 or (status == 200 and b'"refused"' not in answer):
            for number in range(first, end):
                self.codes[number] = 0
            return
        document = json.loads(answer)
        for number in range(first, end):
            self.codes[number] = document[number - first]["code"] if status == 200 else problem_code(document)

    def close(self) -> None:
        for connections in self._idle:
            for connection in connections:
                connection.close()


def post_interval_s(post_txs_max: int) -> float:
    return SINGLES_INTERVAL_S if post_txs_max == 1 else POST_INTERVAL_S


def lag_p99_ms(reports: Iterable[Mapping[str, Any]]) -> float:
    """Over all transactions that the clients posted, as they report it; infinite when they posted none."""
    counts: Counter[int] = Counter()
    for report in reports:
        counts.update(dict(report["lags"]))
    return counted_percentile(counts, 0.99) / LAGS_PER_MS


def problem_code(document: Mapping[str, Any]) -> int:
    """The number in a problem document's `MC####`."""
    return int(str(document["code"]).removeprefix("MC"))


def read_out(path: Path) -> list[tuple[bytes, int | None]]:
    """(transaction id, answer's code or None) in the order of the share."""
    data = path.read_bytes()
    width = HASH_SIZE_BYTES + 4
    found = []
    for position in range(0, len(data), width):
        code = int.from_bytes(data[position + HASH_SIZE_BYTES : position + width], "big")
        found.append((data[position : position + HASH_SIZE_BYTES], None if code == NOT_ANSWERED else code))
    return found


def write_out(path: Path, ids: Sequence[bytes], codes: Sequence[int]) -> None:
    path.write_bytes(b"".join(tx_id + code.to_bytes(4, "big") for tx_id, code in zip(ids, codes, strict=True)))


async def _run(order: Order) -> None:
    """Have the share signed, wait for the word, load, and say how it went."""
    out = Path(order.out)
    phase = order.index / order.clients
    if not order.is_ahead:
        await serve(Generator(sign_share(order), order.urls, order.post_txs_max, phase), out)
        return
    share = unsigned_share(order)
    signer = Signer(share, int(AHEAD_S * order.rate / order.clients))
    signing = asyncio.create_task(signer.run(order))
    full = asyncio.create_task(signer.full.wait())
    try:
        await asyncio.wait([signing, full], return_when=asyncio.FIRST_COMPLETED)
        if signing.done():
            signing.result()
        await serve(Generator(share, order.urls, order.post_txs_max, phase, signer), out)
    finally:
        for task in (signing, full):
            task.cancel()
        await asyncio.gather(signing, full, return_exceptions=True)


async def serve(generator: Generator, out: Path) -> None:
    """The dialogue with the parent once its share is signed, or enough of it."""
    # A collection over everything signed would hold up the generator for tens of milliseconds.
    gc.collect()
    gc.freeze()
    say({"signed": generator.share.ready})
    line = await asyncio.to_thread(sys.stdin.readline)
    if not line:
        raise EOFError("the run ended before it began")
    before_s = _used_s()
    try:
        with going_first():  # not before: signing takes all of a core
            await generator.run(float(line))
    finally:
        generator.close()
    write_out(out, generator.share.ids, generator.codes)
    say(
        {
            "lags": sorted(generator.lags.items()),
            "processor_s": _used_s() - before_s,
            "posts": generator.posts,
            "failed_posts": generator.failed_posts,
            "bytes": generator.posted_bytes,
        }
    )


def _used_s() -> float:
    """By this process and, once it has ended, by its signer."""
    return processor_s() + ended_children_s()


def main() -> int:
    order = Order(**json.loads(sys.stdin.readline()))
    tie_to_parent(order.parent_pid)
    asyncio.run(_run(order))
    return 0


if __name__ == "__main__":
    sys.exit(main())
