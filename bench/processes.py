"""Client processes of a run, from both sides: an order in, answers out, one JSON document a line. They die with their
parent.

Must not know: what an order says.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bench.observer import BenchError

LINE_SIZE_BYTES_MAX = 16 * 1024 * 1024  # a report holds a count for each tenth of a millisecond that it was late


async def start_client(module: str, order: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE_SIZE_BYTES_MAX,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(order.encode() + b"\n")
    return process


def send_start(client: asyncio.subprocess.Process, start_s: float) -> None:
    """The time on the machine's monotonic clock at which its load begins."""
    assert client.stdin is not None
    client.stdin.write(f"{start_s!r}\n".encode())


async def answer_of(client: asyncio.subprocess.Process) -> dict[str, Any]:
    assert client.stdout is not None
    line = await client.stdout.readline()
    if not line:
        raise BenchError(f"a client process ended with status {await client.wait()}")
    document: dict[str, Any] = json.loads(line)
    return document


@contextmanager
def going_first() -> Iterator[None]:
    """Meanwhile this thread has a core as soon as it wants one: in production a client is another machine, and does not
    wait behind the nodes. A niceness is not enough, as a thread still waits for what others have of their slices. What
    it starts has none of it. Where real-time priority is not permitted, it is late at times, and the run says so. Does
    nothing off Linux.
    """
    has_it = False
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
            has_it = True
    try:
        yield
    finally:
        if has_it and sys.platform == "linux":
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


async def end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.kill()
    await child.wait()


def say(document: dict[str, Any]) -> None:
    """To the parent."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def processor_s() -> float:
    """What this process has used."""
    return _used_s(resource.RUSAGE_SELF)


def ended_children_s() -> float:
    """What its children have used that have ended and were waited for."""
    return _used_s(resource.RUSAGE_CHILDREN)


def _used_s(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime
