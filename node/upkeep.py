"""What a running node does for itself now and then: it forgets old blocks, in slices between which the loop goes on.

Must not know: consensus, or what a block holds.
"""

from __future__ import annotations

import asyncio

from p2p.config import Log
from storage.chain import ChainStore
from storage.kv import KeyValue
from storage.pruning import keep_blocks_min, prune

LOOK_EVERY_S = 5.0
SLACK_MIN = 64  # blocks kept beyond what was asked for, at most, or a quarter: the index is read through each time


class Upkeep:
    """Keeps about the last `keep_blocks` blocks whole; 0 keeps all."""

    def __init__(self, kv: KeyValue, store: ChainStore, keep_blocks: int, log: Log) -> None:
        self._kv, self._store, self._keep, self._log = kv, store, keep_blocks, log

    async def run(self) -> None:
        """Until cancelled."""
        while self._keep:
            keep = max(self._keep, keep_blocks_min(self._store.tip.parameters))
            if self._store.tip.height - self._store.pruned > keep + max(SLACK_MIN, keep // 4):
                await self._prune()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _prune(self) -> None:
        before = self._store.pruned
        for _ in prune(self._kv, self._store, self._keep):
            await asyncio.sleep(0)
        self._log.info("pruned", blocks=self._store.pruned - before, height=self._store.pruned)
