"""Accepting sockets: caps on connections that have not shown who they are, TLS, and one deadline for all of it.

aiohttp's own server has no such deadline: a client that is slow in its request line, headers or first message would
stay for an hour. Here the deadline runs from accept until `Pending.release`, which comes after the handshake.

Must not know aiohttp: what speaks HTTP on the accepted connection is made by a factory.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from p2p.config import LimitedLog, TransportConfig
from p2p.connection import monotonic_ms

_ACCEPT_RETRY_S = 0.1  # out of file descriptors: wait for some to return instead of spinning
_BACKLOG = 128  # a whole cluster may dial at once after a power cut


class Pending:
    """One accepted connection that has not shown a known peer yet: counted per host, and cut by a timer."""

    def __init__(self, counts: Counter[str], host: str) -> None:
        self.host = host
        self.transport: asyncio.Transport | None = None  # set once TLS is done
        self.timer: asyncio.TimerHandle | None = None
        self._counts: Counter[str] | None = counts
        counts[host] += 1

    def release(self) -> None:
        """The peer is known, or gone. Safe to call again."""
        if self.timer is not None:
            self.timer.cancel()
        if self._counts is not None:
            self._counts[self.host] -= 1
            if not self._counts[self.host]:
                del self._counts[self.host]
            self._counts = None

    def cut(self) -> None:
        """The deadline passed."""
        if self.transport is not None:
            abort(self.transport)


def abort(transport: asyncio.BaseTransport) -> None:
    """End a connection at once, whatever has become of it."""
    # A TLS transport that is closed already has no protocol any more; CPython before 3.11.4 does not look.
    with contextlib.suppress(AttributeError):
        transport.abort()  # type: ignore[attr-defined]


class Listener:
    """The listening socket of one transport."""

    def __init__(
        self,
        config: TransportConfig,
        context: ssl.SSLContext,
        make_protocol: Callable[[Pending], asyncio.Protocol],
        log: LimitedLog,
    ) -> None:
        """Binds at once; OSError if the address cannot be had. `make_protocol` serves one accepted connection."""
        host = config.listen_host
        family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
        self._config = config
        self._context = context
        self._make_protocol = make_protocol
        self._log = log
        self._pending: Counter[str] = Counter()  # by remote host
        self._socket = sockets.create_server((host, config.listen_port), family=family, backlog=_BACKLOG)
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])

    @property
    def pending(self) -> int:
        """Connections that have not finished their handshake."""
        return self._pending.total()

    def close(self) -> None:
        self._socket.close()

    async def accept_forever(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """Accept until cancelled; `spawn` runs the TLS handshake of each connection."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                socket, address = await loop.sock_accept(self._socket)
            except OSError as error:
                self._log.warning("accept failed", monotonic_ms(), error=type(error).__name__)
                await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            host = str(address[0])
            if self.pending >= self._config.pending_max or self._pending[host] >= self._config.pending_per_address_max:
                socket.close()
                self._log.warning("too many connections without a handshake", monotonic_ms(), address=host)
                continue
            spawn(self._secure(socket, Pending(self._pending, host)))

    async def _secure(self, socket: sockets.socket, pending: Pending) -> None:
        """TLS for one accepted socket; what follows runs in the protocol's tasks until the same deadline cuts it."""
        loop = asyncio.get_running_loop()
        deadline_s = self._config.handshake_ms_max / 1_000
        pending.timer = loop.call_later(deadline_s, pending.cut)
        try:
            await loop.connect_accepted_socket(
                lambda: self._make_protocol(pending),
                socket,
                ssl=self._context,
                ssl_handshake_timeout=deadline_s,
            )
        except OSError as error:
            pending.release()
            self._log.warning("TLS refused", monotonic_ms(), address=pending.host, error=type(error).__name__)
        except BaseException:
            pending.release()
            raise
