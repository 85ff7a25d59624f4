"""A run's client processes, each with its order.

Must not know: what becomes of what they send.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from bench.mix import World
from bench.options import Options
from bench.processes import start_client
from bench.signing import Order


def out_path(folder: Path, index: int) -> Path:
    """Where a client leaves its transactions' ids and answers."""
    return folder / f"client-{index}.out"


async def start(
    options: Options, world: World, chain_id: str, urls: Sequence[str], folder: Path, index: int
) -> asyncio.subprocess.Process:
    """One of them; it signs its share, then says so."""
    order = Order(
        parent_pid=os.getpid(),
        seed=options.seed,
        mix=options.mix,
        rate=options.rate,
        duration_s=options.load_s,
        poisson=options.poisson,
        spacing=world.spacing,
        size_bytes=options.size_bytes,
        accounts=options.accounts,
        post_txs_max=options.post_txs_max,
        index=index,
        clients=options.clients,
        chain_id=chain_id,
        validity_heights=options.validity_heights,
        is_ahead=options.is_long,
        urls=list(urls[index :: options.clients]) or [urls[index % len(urls)]],
        out=str(out_path(folder, index)),
    )
    return await start_client("bench.client", order.to_json())
