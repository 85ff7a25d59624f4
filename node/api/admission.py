"""Long reads take turns: pages, traces, blocks and proofs take memory and time, and nothing outside may slow ordering.

Few are made at a time, which bounds what they hold; a few more wait, which bounds how long; those beyond are refused.
And of all that are made, and of all streams, one has a slice in a turn of the event loop: a vote waits behind one
slice, however many read.

Must not know: what is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

from ledger.errors import Code
from node.api.problems import Problem

READS_MAX = 4  # made at a time: a long trace, which takes seconds, leaves room for short pages beside it
READS_WAITING_MAX = 32  # a full page takes a tenth of a second: some seconds' wait, less than clients' patience
SLICE = 10  # look-ups between two turns of the loop: each decodes a whole batch, which takes up to a millisecond

T = TypeVar("T")


class Reads:
    """The long reads of one node."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(READS_MAX)
        self._turn = asyncio.Lock()  # its queue is the order in which those who wait for a turn have it
        self._admitted = 0  # made or waiting

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Around one read. Problem TOO_MANY_WAITERS if too many wait already."""
        if self._admitted == READS_MAX + READS_WAITING_MAX:
            raise Problem(Code.TOO_MANY_WAITERS, text="too many long reads wait; ask again")
        self._admitted += 1
        try:
            async with self._slots:
                await self.turn()  # one that never pauses is a slice all the same
                yield
        finally:
            self._admitted -= 1

    async def turn(self) -> None:
        """Before a slice: returns in a later turn of the loop, in which nobody else has one."""
        async with self._turn:
            await asyncio.sleep(0)

    async def sliced(self, items: Iterable[T]) -> AsyncIterator[T]:
        """The items, with a turn between every SLICE of them and the next."""
        for count, item in enumerate(items):
            if count and count % SLICE == 0:
                await self.turn()
            yield item
