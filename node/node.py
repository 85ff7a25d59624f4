"""A node, composed: home on disk, replica, driver, transport, desk, HTTP API. Nothing is decided here.

    async with Node(config) as node:
        receipt = await node.submit(tx)

`run` is the same as a foreground process, for `medchain start`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import signal
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any

from ledger.block import Receipt
from ledger.errors import Code, CodecError, Reject
from ledger.transaction import Transaction
from node import keys
from node.api.server import ApiServer
from node.config import NodeConfig
from node.desk import Desk
from node.driver import Driver
from node.erasure import keep_erased
from node.home import Home, open_home
from node.logs import make_logger
from node.network import known_keys, transport_config
from node.quarantine import Inquiry
from node.replica import RecordKind, Replica
from node.room import wait_for_room
from node.snapshots import SnapshotServer
from node.upkeep import Upkeep
from node.vault import Vault
from p2p.batches import PoolConfig
from p2p.config import Handlers
from p2p.errors import Fault
from p2p.frames import Kind
from p2p.transport import Transport
from storage.errors import DiskFull

SUBMIT_TIMEOUT_MS = 30_000
REFETCH_LOOK_S = 0.5
COLLECT_AFTER = 15_000, 25_000  # new objects, more than were let go, in a process of its own


class Node:
    """One running node, to embed in an asyncio application. Enter it to start; leave it to stop cleanly."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.key = keys.load(config.key_path)
        self._log = make_logger(config.log.level, config.log.format)
        self._home: Home | None = None

    async def __aenter__(self) -> Node:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the home, take back the log, listen. Raises ConfigError or a storage error, and leaves nothing open."""
        config = self.config
        home = self._home = open_home(config)
        try:
            self.desk = Desk(config, home, self.key, Vault(home.folder.vault), self._log)
            self.transport = self._make_transport(home)
            self._inquiry = Inquiry(self.transport.send, lambda: [peer.key for peer in self.transport.peers()])
            self._begin(home)
            self.api = ApiServer(self.desk, config)
            await self.transport.start()
            for peer in config.p2p.peers:
                self.transport.add_address(bytes.fromhex(peer.key), peer.host, peer.port)
            await self.api.start()
            works = (self._recover(home), self._inquire(), keep_erased(self.desk, self._log))
            self._tasks = [asyncio.create_task(work) for work in works]
        except BaseException:
            home.close()
            raise
        self._log.info("listening", api=self.api.url, p2p=self.transport.port, height=home.store.tip.height)

    def _begin(self, home: Home) -> None:
        """A driver and a replica over what is on disk."""
        config, desk = self.config, self.desk
        self.driver = Driver(home.wal, home.kv, desk, self._log)
        self.replica = Replica(
            home.executor,
            home.store,
            self.key.public,
            self.key.sign,
            self.driver,
            pool=PoolConfig(held_bytes_max=config.limits.pool_size_bytes_max),
        )
        self.driver.attach(self.replica, self.transport)
        desk.open(self.driver, self.replica, self.transport)
        self.replica.start((RecordKind(record.kind), record.tag, record.payload) for record in home.records())
        storage, transport = config.storage, self.transport
        self.snapshots = SnapshotServer(
            home.kv, home.store, storage.snapshot_every, transport.send, self.driver.now_ms, self._log
        )
        desk.on_checkpoint = self.snapshots.on_checkpoint
        upkeep = Upkeep(home.kv, home.store, storage.keep_blocks, self._log)
        self.driver.start(upkeep.run(), self.snapshots.run())
        desk.follow_members()

    async def _recover(self, home: Home) -> None:
        """Begin again as after a crash, with peers and clients staying: whenever the disk was full and there is room
        again, and once lost blocks are fetched, so that the key may sign again."""
        full = self.desk.full
        try:
            while True:
                if await self._refetched(home):
                    self._log.warning("what the disk had lost is here again", height=home.store.tip.height)
                if full.is_set():
                    await wait_for_room(home.folder.path)
                await self.driver.stop()
                self.snapshots.close()
                try:
                    home.reopen()
                    self._begin(home)
                except DiskFull as error:
                    self.desk.on_failed(error)
                    continue
                for peer in self.transport.peers():
                    self.driver.on_peer_up(peer.key)
                self._log.warning("begun again from what is on disk", height=home.store.tip.height)
        except Exception as error:
            self.desk.on_failed(error)

    async def _inquire(self) -> None:
        """Once this node's state has turned out to be another, find out where."""
        await self.desk.diverged.wait()
        place = self.desk.store.diverged
        assert place is not None
        if self.desk.store.tip.height == place[0] and self.snapshots.at(place[0]) is None:
            self.snapshots.on_checkpoint(place[0])  # found out as it was executed
        own = self.snapshots.at(place[0])
        self.desk.on_difference(None if own is None else await self._inquiry.find(own, place[1]))

    async def _refetched(self, home: Home) -> bool:
        """Wait until lost blocks are here again, or until the disk is full; whether it was the first."""
        full = self.desk.full
        if not home.store.refetching:
            await full.wait()
        while not full.is_set() and home.store.refetching:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFETCH_LOOK_S):
                    await full.wait()
        return not full.is_set()

    def _make_transport(self, home: Home) -> Transport:
        followers = frozenset(known_keys(self.config))

        def allowed(key: bytes) -> str | None:
            return self.desk.role_of(key) or ("follower" if key in followers else None)

        def on_peer_up(key: bytes) -> None:
            self.desk.on_peer(key, True)
            self.driver.on_peer_up(key)

        def on_peer_down(key: bytes) -> None:
            self.desk.on_peer(key, False)
            self.driver.on_peer_down(key)

        def on_frame(key: bytes, kind: Kind, payload: bytes) -> None:
            if kind in (Kind.SNAPSHOT_REQUEST, Kind.SNAPSHOT_RESPONSE):
                self._on_snapshot_frame(key, kind, payload)
            else:
                self.driver.on_frame(key, kind, payload)

        async def ready(key: bytes) -> None:
            await self.driver.ready(key)

        handlers = Handlers(on_frame, on_peer_up, on_peer_down, ready)
        role = "follower" if home.store.tip.validators.index(self.key.public) is None else "validator"
        return Transport(
            transport_config(self.config),
            self.key,
            home.genesis.chain_id,
            role=role,
            handlers=handlers,
            allowed=allowed,
            rng=random.Random(),  # noqa: S311 - spreads reconnections, decides nothing
            log=self._log,
        )

    def _on_snapshot_frame(self, key: bytes, kind: Kind, payload: bytes) -> None:
        try:
            if kind is Kind.SNAPSHOT_REQUEST:
                self.snapshots.on_request(key, payload)
            elif not self._inquiry.on_answer(key, payload):
                self.transport.misbehaved(key, Fault.UNSOLICITED)
        except CodecError:
            self.transport.misbehaved(key, Fault.MALFORMED_PAYLOAD)

    async def stop(self) -> None:
        """Stop listening, finish what the disk has begun, close. A second call does nothing."""
        home, self._home = self._home, None
        if home is None:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.api.stop()
            self.desk.close()
            await self.transport.stop()
            await self.driver.stop()
            self.snapshots.close()
        finally:
            home.close()
        self._log.info("stopped")

    async def submit(self, tx: Transaction, timeout_ms: int = SUBMIT_TIMEOUT_MS) -> Receipt:
        """Send one transaction and wait until it is committed; the receipt says whether the rules took it.

        Raises Reject when the node does not take it (malformed, bad signature, overload) or it is not final in time.
        """
        (outcome,) = await self.desk.submit([tx.wire])
        if outcome.code:
            raise Reject(Code(outcome.code), *outcome.detail)
        found = await self.desk.wait(tx.id, timeout_ms)
        if found is None:
            raise Reject(Code.NOT_FINAL_IN_TIME, timeout_ms)
        return found[2]

    def ready_line(self) -> dict[str, Any]:
        """What `medchain start` prints once it listens."""
        return {
            "ready": True,
            "api": self.api.url,
            "p2p": [self.config.p2p.host, self.transport.port],
            "key": self.key.public.hex(),
            "chain": self.desk.genesis.chain_id.hex(),
        }


def run(config: NodeConfig) -> int:
    """A node in the foreground until SIGTERM or SIGINT: 0 after a clean stop, 70 after an internal error."""
    return asyncio.run(_run(config))


def collect_seldom() -> None:
    """For a process that is a node and nothing else: the collector leaves alone what is here by now, and seldom looks
    for the few cycles that there are. Nodes do the same work, so with one threshold all would stand still at once.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(random.randrange(*COLLECT_AFTER), 10, 10)  # noqa: S311 - decides nothing


async def _run(config: NodeConfig) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with Node(config) as node:
        collect_seldom()
        sys.stdout.write(json.dumps(node.ready_line()) + "\n")
        sys.stdout.flush()
        waits = [asyncio.create_task(stopping.wait()), asyncio.create_task(node.desk.failed.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
        return 0 if node.desk.failure is None else 70
