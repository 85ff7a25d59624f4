"""Batches held here that wait to be ordered, and what a leader makes of them.

A batch is *waiting* until a proposal of the present view names it, then *taken* until that is delivered or the view
ends. Both keep the order in which batches came, so the oldest that waits is the first.

Bounded: AVAILABLE_MAX batches; beyond them digests only, those named by proposals in flight or not yet executed.

Must not know: views, votes, whether this member leads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from consensus.events import BatchAvailable
from ledger.block import BLOCK_BATCH_BYTES_MAX, BLOCK_BATCHES_MAX

AVAILABLE_MAX = 8_192  # batches waiting to be ordered; the pool's byte limit binds long before
PROPOSE_TXS = 300  # enough for a block of its own, however soon
COMPANY_TXS = 15  # so many are worth another `block_interval_ms` of waiting for more


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch, and when it came: the time, the height delivered by then, and its number in order of coming."""

    batch: BatchAvailable
    since_ms: int
    since_height: int
    number: int


@dataclass(slots=True)
class Backlog:
    """What waits for a place in the chain, oldest first."""

    waiting: dict[bytes, Entry] = field(default_factory=dict)
    used: set[bytes] = field(default_factory=set)  # batches in proposals of this view not yet delivered, held or not
    _taken: dict[bytes, Entry] = field(default_factory=dict)  # those of them that are held
    _ordered: set[bytes] = field(default_factory=set)  # in blocks delivered and not yet executed: they wait no more
    _count: int = 0

    def __len__(self) -> int:
        return len(self.waiting) + len(self._taken)

    def add(self, batch: BatchAvailable, now_ms: int, height: int) -> None:
        digest = batch.digest
        if digest in self.waiting or digest in self._taken or digest in self._ordered or len(self) >= AVAILABLE_MAX:
            return
        self._count += 1
        table = self._taken if digest in self.used else self.waiting
        table[digest] = Entry(batch, now_ms, height, self._count)

    def forget(self, digest: bytes) -> None:
        """The pool dropped a batch that was never ordered."""
        self.waiting.pop(digest, None)
        self._taken.pop(digest, None)

    def take(self, digests: Iterable[bytes]) -> None:
        """A proposal of this view names them."""
        for digest in digests:
            self.used.add(digest)
            entry = self.waiting.pop(digest, None)
            if entry is not None:
                self._taken[digest] = entry

    def give_back(self, digests: Sequence[bytes]) -> None:
        """A proposal that named them came to nothing, another block was decided: they wait again in their old place."""
        returned = [entry for digest in digests if (entry := self._taken.pop(digest, None)) is not None]
        self.used.difference_update(digests)
        if returned:
            self._wait(returned)

    def _wait(self, more: Iterable[Entry]) -> None:
        entries = sorted((*self.waiting.values(), *more), key=lambda entry: entry.number)
        self.waiting = {entry.batch.digest: entry for entry in entries}

    def delivered(self, digests: Iterable[bytes]) -> None:
        """A block orders them. One of them may still be fetched for it, and must not wait for another block then."""
        for digest in digests:
            self.forget(digest)
            self.used.discard(digest)
            self._ordered.add(digest)

    def executed(self, digests: Iterable[bytes]) -> None:
        """That block is done; from now on the pool knows that they were ordered."""
        self._ordered.difference_update(digests)

    def enter_view(self) -> None:
        """What was proposed in the view that ends waits again, in its old place."""
        self._wait(self._taken.values())
        self._taken.clear()
        self.used.clear()

    def oldest(self) -> Entry | None:
        """The batch that has waited longest."""
        return next(iter(self.waiting.values()), None)

    def txs(self, enough: int) -> int:
        """How many transactions wait, `enough` where there are more, or as much as fills a block."""
        count = size_bytes = 0
        for number, entry in enumerate(self.waiting.values(), 1):
            count += entry.batch.tx_count
            size_bytes += entry.batch.size_bytes
            if count >= enough or size_bytes >= BLOCK_BATCH_BYTES_MAX or number == BLOCK_BATCHES_MAX:
                return enough
        return count

    def gather(self, txs_max: int) -> tuple[bytes, ...]:
        """As many of the oldest as fit a block, at least one if there is any."""
        digests: list[bytes] = []
        txs, size_bytes = 0, 0
        for digest, entry in self.waiting.items():
            batch = entry.batch
            full = txs + batch.tx_count > txs_max or size_bytes + batch.size_bytes > BLOCK_BATCH_BYTES_MAX
            if (digests and full) or len(digests) == BLOCK_BATCHES_MAX:
                break
            digests.append(digest)
            txs += batch.tx_count
            size_bytes += batch.size_bytes
        return tuple(digests)
