"""TCP proxies between the nodes of a local cluster, with faults: a delay, loss, silence (partition), or refusal (drop).

One listener for each ordered pair of nodes, owned by the cluster's runner: no root, no hook in the product. A silent
link keeps connections open and moves nothing, as a cable that is cut; what was sent is delivered when it heals, as TCP
would. A dropped link resets its connections and refuses new ones. A loss is what applications see of one: the stream
stands still until TCP has sent the segment again, and everything after it waits.

Must not know: what flows through, or nodes.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from contextlib import suppress
from enum import StrEnum

BUFFER_SIZE_BYTES_MAX = 4 * 1024 * 1024  # one direction of one connection: 4 MiB in flight at 100 ms is 40 MB/s
CONNECTIONS_MAX = 64  # of one link; nodes keep one or two
DELAY_MS_MAX = 60_000
DIAL_TIMEOUT_S = 5.0
SEGMENT_SIZE_BYTES = 1_448  # what one Ethernet frame carries of a stream
RETRANSMIT_MS_MIN = 200  # Linux's least wait before it sends again; with more in flight it may notice sooner


class Fault(StrEnum):
    """What is wrong with a link."""

    NONE = "none"
    SILENT = "silent"  # connections stay, nothing moves
    DROPPED = "dropped"  # connections are reset, new ones too


class Link:
    """One directed link: listens on `port`, dials `target_port` for each connection; both ways suffer its faults."""

    def __init__(self, port: int, target_port: int) -> None:
        self.port = port
        self.target_port = target_port
        self.fault = Fault.NONE
        self.delay_ms = 0
        self.loss = 0.0
        self._chance = random.Random(f"{port}/{target_port}")  # noqa: S311  the same losses on the same link every time
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._dials: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on loopback. OSError if the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _End(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._dials):
            task.cancel()
        self._reset()
        if self._dials:
            await asyncio.gather(*self._dials, return_exceptions=True)

    def set_fault(self, fault: Fault) -> None:
        self.fault = fault
        if fault is Fault.DROPPED:
            self._reset()
        for end in list(self._ends):
            end.wake()

    def set_delay(self, delay_ms: int) -> None:
        if not 0 <= delay_ms <= DELAY_MS_MAX:
            raise ValueError(f"a delay is 0 to {DELAY_MS_MAX} ms")
        self.delay_ms = delay_ms
        for end in list(self._ends):
            end.wake()

    def set_loss(self, share: float) -> None:
        """Lose this share of segments, each way, from now on."""
        if not 0 <= share < 1:
            raise ValueError("a loss is a share from 0 to below 1")
        self.loss = share

    def _transit_s(self, size_bytes: int) -> float:
        """How long what was just read is under way: once more, and the sender's wait, for each time it is lost."""
        transit_ms = self.delay_ms
        if self.loss:
            segments = -(-size_bytes // SEGMENT_SIZE_BYTES)
            while self._chance.random() < 1 - (1 - self.loss) ** segments:
                transit_ms += max(RETRANSMIT_MS_MIN, 2 * self.delay_ms)
                segments = 1
        return transit_ms / 1000

    def _reset(self) -> None:
        for end in list(self._ends):
            end.abort()

    def _opened(self, end: _End) -> bool:
        if self.fault is Fault.DROPPED or len(self._ends) >= 2 * CONNECTIONS_MAX:
            return False
        self._ends.add(end)
        return True

    def _dial(self, accepted: _End) -> None:
        task = asyncio.get_running_loop().create_task(self._dial_target(accepted))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial_target(self, accepted: _End) -> None:
        dialled = _End(self, accepted)
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                await asyncio.get_running_loop().create_connection(lambda: dialled, "127.0.0.1", self.target_port)
        except (OSError, TimeoutError):
            accepted.abort()


class _End(asyncio.Protocol):
    """One end of a connection. What it reads waits in `_queue` until it may go out at the other end."""

    def __init__(self, link: Link, other: _End | None = None) -> None:
        self._link = link
        self._other = other  # the accepted end learns its dialled one when that connects
        self._dialled = other is not None
        self._transport: asyncio.Transport | None = None
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued_bytes = 0
        self._ended = False  # nothing more to read
        self._blocked = False  # this end's own writing is blocked
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._link._opened(self):
            transport.abort()
            if self._other is not None:
                self._other.abort()
        elif self._dialled:
            assert self._other is not None
            if self._other._transport is None:  # the caller is gone
                transport.abort()
                return
            self._other._other = self
            self._other.wake()
        else:
            self._link._dial(self)

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._queue.append((loop.time() + self._link._transit_s(len(data)), data))
        self._queued_bytes += len(data)
        self.wake()

    def eof_received(self) -> bool:
        self._ended = True
        self.wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ended = True
        self._link._ends.discard(self)
        if self._other is None or self._other._transport is None:
            self._forget()
        elif exc is not None:
            self._other.abort()
        else:
            self.wake()

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        if self._other is not None:
            self._other.wake()

    def wake(self) -> None:
        """Send on what is due and may flow, then arrange for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        other = self._other
        if other is not None and other._transport is None and self._transport is None:
            self._forget()
            return
        if other is not None and other._transport is not None and self._link.fault is Fault.NONE:
            self._send_on(other._transport, other)
        self._throttle()

    def _send_on(self, transport: asyncio.Transport, other: _End) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._queue and not other._blocked:
            due, data = self._queue[0]
            if due > now:
                self._timer = loop.call_at(due, self.wake)
                return
            self._queue.popleft()
            self._queued_bytes -= len(data)
            transport.write(data)
        if self._ended and not self._queue:
            if self._transport is None:
                transport.close()
            elif transport.can_write_eof():
                with suppress(OSError):
                    transport.write_eof()
                if other._ended and not other._queue:  # both directions are over
                    transport.close()
                    self._transport.close()

    def _throttle(self) -> None:
        """Stop reading when enough waits: the sender's own buffers fill up, as on a real link."""
        if self._transport is None or self._transport.is_closing():
            return
        full = self._queued_bytes >= BUFFER_SIZE_BYTES_MAX
        if full and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        elif not full and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _forget(self) -> None:
        self._queue.clear()
        self._queued_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abort(self) -> None:
        self._forget()
        if self._transport is not None:
            self._transport.abort()
