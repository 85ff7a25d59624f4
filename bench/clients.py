"""The client processes from their parent's side: started with an order, told when to begin, heard, ended.

Must not know: what becomes of what they send.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.mix import World
from bench.observer import BenchError
from bench.options import Options
from bench.signing import Order

ANSWER_SIZE_BYTES_MAX = 256 * 1024 * 1024  # a lag for each tick of a long run


def out_path(folder: Path, index: int) -> Path:
    """Where a client leaves its transactions' ids and answers."""
    return folder / f"client-{index}.out"


async def start(
    options: Options, world: World, chain_id: str, urls: Sequence[str], folder: Path, index: int
) -> asyncio.subprocess.Process:
    """One of the run's clients; it signs its share, then says so."""
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
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.client",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=ANSWER_SIZE_BYTES_MAX,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(order.to_json().encode() + b"\n")
    return process


async def answer(client: asyncio.subprocess.Process) -> dict[str, Any]:
    """Its next line."""
    assert client.stdout is not None
    line = await client.stdout.readline()
    if not line:
        raise BenchError(f"a client process ended with status {await client.wait()}")
    document: dict[str, Any] = json.loads(line)
    return document


def begin(client: asyncio.subprocess.Process, start_s: float) -> None:
    """Let it load from `start_s` on the machine's monotonic clock."""
    assert client.stdin is not None
    client.stdin.write(f"{start_s!r}\n".encode())


async def end(client: asyncio.subprocess.Process) -> None:
    if client.returncode is None:
        client.kill()
    await client.wait()
