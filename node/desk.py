"""The desk: what clients and operators may ask of a running node (implements node/service.py).

Submissions are checked once and answered at once; who waits for a commit waits here, off the path of ordering, and only
so many may. Status, reasons and metrics are read from the replica when somebody asks.

Must not know: HTTP.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from typing import Any

from consensus.events import Evidence
from ledger.block import CertifiedBlock, Receipt
from ledger.crypto import KeyPair
from ledger.errors import Code, CodecError, Reject
from ledger.execution import BlockResult
from ledger.genesis import Genesis
from ledger.merkle import leaf_hash
from ledger.modules import members
from ledger.rules import Registry, member_by_key
from ledger.transaction import Transaction
from ledger.validators import ValidatorSet
from node.config import NodeConfig
from node.driver import Driver
from node.home import Home
from node.metrics import metrics_text
from node.quarantine import Difference
from node.replica import Replica
from node.service import Outcome
from node.vault import Vault
from node.why import BEHIND_HEIGHTS, SILENT_MS, Facts, Missing, explain
from p2p.batches import work
from p2p.transport import Transport
from storage.chain import ChainStore
from storage.errors import DiskFull, StateDiverged, StorageError

WAIT_MS_MAX = 120_000
LAG_HEIGHTS_MAX = 16  # two windows; more than ordinary jitter between nodes
CROWDED_MS = 1_000  # for so long after the pool had to turn somebody away
TRYING_MS_MAX = 100.0  # of processor time in as long a time
DOOR_SIZE_BYTES = 8 * 1024  # checked at the door between two turns of the loop: 0.1 to 2 ms, as measured by operation
REFUSAL_TOLD_MS = 60_000  # what was refused for its time longer ago explains nothing


class Desk:
    """One node's desk. Observes the driver; called from the event loop only."""

    def __init__(self, config: NodeConfig, home: Home, key: KeyPair, vault: Vault | None, log: Any) -> None:
        self.config, self._home, self._key, self._log = config, home, key, log
        self.vault = vault
        self.vault_key: KeyPair | None = key if vault is not None else None
        self.started_ms = self._opened_ms = self._last_block_ms = _wall_ms()
        self.stopped: str | None = None  # why this node neither accepts nor signs
        self.diverged = asyncio.Event()  # the store says where
        self.full = asyncio.Event()  # the disk: it goes on once there is room
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self._waiters: dict[bytes, list[asyncio.Future[tuple[int, int, Receipt]]]] = {}
        self._height_waiters: list[tuple[int, asyncio.Future[bool]]] = []
        self._waiting = 0
        self._crowded_until_ms = 0  # by the replica's clock
        self._trying_since_ms, self._tried_ms = 0, 0.0
        self._being_checked = 0  # work between its decode and the pool
        self._down_since_ms: dict[bytes, int] = {}
        self._beside: frozenset[bytes] = frozenset()  # keys of the set to come, and of those whose epoch is still open
        self._followed: tuple[ValidatorSet, int | None, int | None] | None = None
        self.on_checkpoint: Callable[[int], None] | None = None  # told at once, while nothing has changed since
        self.driver: Driver
        self.replica: Replica
        self.transport: Transport

    def open(self, driver: Driver, replica: Replica, transport: Transport) -> None:
        """Serve these; again, after the disk was full, over what was reopened."""
        self.driver, self.replica, self.transport = driver, replica, transport
        self._opened_ms = _wall_ms()
        self.stopped = None
        self.full.clear()
        replica.on_view = self._on_view

    def close(self) -> None:
        """Let everyone who waits go."""
        for futures in self._waiters.values():
            for future in futures:
                future.cancel()
        for _, waiter in self._height_waiters:
            waiter.cancel()

    @property
    def genesis(self) -> Genesis:
        return self._home.genesis

    @property
    def registry(self) -> Registry:
        return self._home.registry

    @property
    def store(self) -> ChainStore:
        return self._home.store

    # Observer of the driver

    def on_applied(self, block: CertifiedBlock, result: BlockResult, state_root: bytes | None) -> None:
        self._last_block_ms = _wall_ms()
        self.transport.set_height(block.height)
        self._log.debug("block", height=block.height, transactions=len(result.receipts), view=block.certificate.view)
        if state_root is not None:
            if self.on_checkpoint is not None:
                self.on_checkpoint(block.height)
            self._log.info("checkpoint", height=block.height, state_root=state_root.hex())
        if self._waiters:
            for position, receipt in enumerate(result.receipts):
                for future in self._waiters.pop(receipt.tx_id, ()):
                    if not future.done():
                        future.set_result((block.height, position, receipt))
        if self._height_waiters:
            for height, waiter in self._height_waiters:
                if height <= block.height and not waiter.done():
                    waiter.set_result(True)
        if (result.tip.validators, result.tip.epoch_end, self.store.unclosed_epoch()) != self._followed:
            self.follow_members()

    def _on_view(self, view: int, changing: bool) -> None:
        leader = self.name_of(self.replica.engine.validators.keys[self.replica.engine.leader])
        self._log.info("leaving for view" if changing else "in view", view=view, leader=leader)

    def on_failed(self, error: BaseException) -> None:
        if isinstance(error, DiskFull):
            self.stopped = f"{error} ({Code.DISK_FULL.label}). It goes on by itself once there is room."
            self._log.critical("disk full", error=str(error))
            self.full.set()
            return
        if isinstance(error, StorageError):  # it stays, to say so
            self.full.clear()
            is_other = isinstance(error, StateDiverged)
            code = Code.STATE_DIVERGED if is_other else Code.DATA_CORRUPT
            self.stopped = f"its {error} ({code.label})" if is_other else f"its disk failed: {error} ({code.label})"
            self._log.critical("stopped", code=code.label, error=str(error))
            if is_other and self.store.diverged is not None:
                self.diverged.set()
            return
        self.failure = error
        self.stopped = "an internal error; see its log (MC9001)"
        self._log.critical("internal error", error=type(error).__name__, exc_info=error)
        self.failed.set()

    def on_damage(self, error: StorageError) -> None:
        """Reading failed: whatever else is damaged, nothing more is signed."""
        self.driver.fail(error)

    def on_diverged(self, height: int, own: bytes, certified: bytes) -> None:
        self.stopped = f"its state at height {height} differs from what a quorum certified (MC5006)"
        self._log.critical("state diverged", height=height, own=own.hex(), certified=certified.hex())
        self.store.quarantine(height, certified)
        self.diverged.set()

    def on_difference(self, difference: Difference | None) -> None:
        """What was found out about it."""
        if difference is None:
            found = "no peer could show what differs"
        else:
            key, module = difference.key.hex(), difference.module
            found = f"the first entry that differs is {key}, written by the rules of {module}"
            self._log.critical("first difference", key=key, module=module)
        self.stopped = f"{self.stopped}; {found}. Run `medchain repair` with software that executes as theirs does"

    def on_key_forgotten(self, height: int) -> None:
        self._log.critical("key forgotten", height=height, code=Code.KEY_FORGOTTEN.label)

    def on_evidence(self, evidence: Evidence) -> None:
        proof = evidence.proof
        self._log.error("equivocation", member=proof.member, epoch=proof.epoch, offence=proof.offence.name.lower())

    def on_peer(self, key: bytes, up: bool) -> None:
        if up:
            self._down_since_ms.pop(key, None)
        else:
            self._down_since_ms[key] = self._missing_since_ms(key) or _wall_ms()

    def follow_members(self) -> None:
        """Let the transport admit exactly the validators in force, those about to be, who catch up by then, and those
        who have left as long as their last epoch is open: it may take their votes to close it."""
        tip, following, unclosed = self.store.tip, members.next_validators(self.store), self.store.unclosed_epoch()
        self._followed = tip.validators, tip.epoch_end, unclosed
        epoch = tip.validators.epoch
        former = [self.store.validator_set(each) for each in range(epoch if unclosed is None else unclosed, epoch)]
        beside = [following, *former]
        self._beside = frozenset(key for validators in beside if validators is not None for key in validators.keys)
        self.transport.set_members((*tip.validators.keys, *self._beside.difference(tip.validators.keys)))

    def role_of(self, key: bytes) -> str | None:
        """What a key may be here by the chain's word; None for strangers. Who is about to vote, or was and must help to
        close its epoch, keeps its place among followers, too."""
        return "validator" if self.store.tip.validators.index(key) is not None or key in self._beside else None

    # Submitting and waiting

    async def submit(self, wires: Sequence[bytes]) -> list[Outcome]:
        """One outcome for each wire, in order. Never raises for a bad transaction; gives way to the loop meanwhile."""
        outcomes: list[Outcome | None] = [None] * len(wires)
        pending: list[tuple[int, Transaction]] = []
        # A node that lags cannot judge validity heights, and what it takes would wait: let another node have it.
        accepting = self.stopped is None and self.lag() <= LAG_HEIGHTS_MAX
        size_bytes = 0  # since the loop's last turn
        held, crowded = 0, self._is_crowded()  # before: the end of a post does not judge its beginning
        try:
            for position, wire in enumerate(wires):
                if size_bytes >= DOOR_SIZE_BYTES:
                    size_bytes = 0
                    await asyncio.sleep(0)
                size_bytes += len(wire)
                found = self._at_the_door(wire, accepting)
                if isinstance(found, Outcome):
                    outcomes[position] = found
                else:
                    pending.append((position, found))
                    more = work(1, len(wire))
                    held, self._being_checked = held + more, self._being_checked + more
            valid = await self.driver.check_signatures([tx.wire for _, tx in pending])
            signed = [tx for (_, tx), is_valid in zip(pending, valid, strict=True) if is_valid]
            premature = await self._premature(signed) if crowded else {}
        finally:
            self._being_checked -= held
        taken: list[tuple[int, Transaction]] = []
        for (position, tx), is_valid in zip(pending, valid, strict=True):
            if tx.id in premature:
                outcomes[position] = self._no_room(tx.id, premature[tx.id])
            elif is_valid:
                taken.append((position, tx))
            else:
                outcomes[position] = Outcome(tx.id, int(Code.BAD_SIGNATURE))
        if self.stopped is not None:  # meanwhile
            refusals: list[Reject | None] = [self._refusal() for _ in taken]
        else:
            refusals = self.replica.take(tx for _, tx in taken)
        for (position, tx), refusal in zip(taken, refusals, strict=True):
            code, detail = (0, ()) if refusal is None else (int(refusal.code), refusal.detail)
            if code == Code.POOL_FULL:
                self._note_crowd()
            outcomes[position] = Outcome(tx.id, code, detail)
        return [outcome for outcome in outcomes if outcome is not None]

    async def _premature(self, txs: Sequence[Transaction]) -> dict[bytes, int]:
        """Those that would be refused as the state is, and with which code: they are work for all nodes and come to
        nothing. Most follow a step that was turned away; one whose step is on its way may come again. A try costs this
        node alone as much as execution, and whoever is turned away pays nothing, so only so much time goes into them.
        """
        found: dict[bytes, int] = {}
        pool, executor = self.replica.pool, self._home.executor
        size_bytes = 0  # since the loop's last turn
        for tx in txs:
            if size_bytes >= DOOR_SIZE_BYTES:
                size_bytes = 0
                await asyncio.sleep(0)
            if self.stopped is not None or not self._may_try():
                break
            if pool.knows(tx.id) or tx.replay_key in executor.replay:
                continue  # the pool says what became of it
            size_bytes += len(tx.wire)
            began_s = time.thread_time()
            try:
                executor.try_out(tx, self.store, self.store.tip, self.replica.outside.wall_ms())
            except Reject as reject:
                found[tx.id] = int(reject.code)
            finally:
                self._tried_ms += (time.thread_time() - began_s) * 1_000
        return found

    def _may_try(self) -> bool:
        now_ms = self.replica.outside.now_ms()
        if now_ms - self._trying_since_ms >= CROWDED_MS:
            self._trying_since_ms, self._tried_ms = now_ms, 0.0
        return self._tried_ms < TRYING_MS_MAX

    def _is_crowded(self) -> bool:
        return self.replica.outside.now_ms() < self._crowded_until_ms

    def _at_the_door(self, wire: bytes, accepting: bool) -> Outcome | Transaction:
        """A transaction whose signature is to be checked next; or what became of it without that."""
        # What there is no room for is refused before it costs a decode and a signature check: under overload the
        # processor belongs to what was accepted.
        if self._being_checked >= self.replica.pool.room:
            if not self.replica.pool.room:  # what is only being checked may have bad signatures
                self._note_crowd()
            return self._no_room(leaf_hash(wire))
        try:
            tx = Transaction.decode(wire)
        except CodecError as error:
            return Outcome(None, int(error.code))
        try:
            self._admit(tx, accepting)
        except Reject as reject:
            return Outcome(tx.id, int(reject.code), reject.detail)
        if tx.replay_key in self._home.executor.replay and self.store.transaction(tx.id) is not None:
            return Outcome(tx.id, 0)  # executed already
        return tx

    def _note_crowd(self) -> None:
        self._crowded_until_ms = self.replica.outside.now_ms() + CROWDED_MS

    def _no_room(self, tx_id: bytes, *code: int) -> Outcome:
        """`code`: with which the state as it is would refuse it."""
        return Outcome(tx_id, int(Code.POOL_FULL), (self.replica.pool.waiting_txs, *code))

    def _admit(self, tx: Transaction, accepting: bool) -> None:
        if not accepting:
            raise self._refusal()
        try:
            self._home.executor.check(tx, self.store.tip.height + 1)
        except Reject:
            raise
        except Exception as error:  # a rule module's mistake costs the transaction, never the node
            raise Reject(Code.RULE_FAILED, type(error).__name__) from error

    def _refusal(self) -> Reject:
        return Reject(Code.DISK_FULL if self.full.is_set() else Code.NOT_ACCEPTING)

    def lag(self) -> int:
        """How many blocks behind this node is, as more than f others say."""
        validators = self.replica.engine.validators
        claimed = self.replica.sync.height_claimed_by(validators.f + 1, validators.keys)
        return max(0, claimed - self.store.tip.height)

    async def wait(self, tx_id: bytes, timeout_ms: int) -> tuple[int, int, Receipt] | None:
        """(height, position, receipt) once committed; None when not in time."""
        found = self.find(tx_id)
        if found is not None:
            return found
        self._count_waiter()
        future: asyncio.Future[tuple[int, int, Receipt]] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(tx_id, []).append(future)
        try:
            async with asyncio.timeout(min(timeout_ms, WAIT_MS_MAX) / 1_000):
                return await future
        except TimeoutError:
            return None
        finally:
            self._waiting -= 1
            futures = self._waiters.get(tx_id)
            if futures is not None and future in futures:
                futures.remove(future)
                if not futures:
                    del self._waiters[tx_id]

    def find(self, tx_id: bytes) -> tuple[int, int, Receipt] | None:
        place = self.store.transaction(tx_id)
        receipt = self.store.receipt(tx_id)
        return None if place is None or receipt is None else (place[0], place[1], receipt)

    async def wait_for_height(self, height: int, timeout_ms: int) -> bool:
        if self.store.tip.height >= height:
            return True
        self._count_waiter()
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        entry = (height, future)
        self._height_waiters.append(entry)
        try:
            async with asyncio.timeout(min(timeout_ms, WAIT_MS_MAX) / 1_000):
                return await future
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
            self._height_waiters.remove(entry)

    def _count_waiter(self) -> None:
        if self._waiting >= self.config.limits.waiters_max:
            raise Reject(Code.TOO_MANY_WAITERS, self._waiting)
        self._waiting += 1

    # Reading

    def name_of(self, key: bytes) -> str:
        member = member_by_key(self.store, key)
        return member.id if member is not None else key.hex()[:16]

    def status(self) -> dict[str, Any]:
        engine, tip = self.replica.engine, self.store.tip
        certificate = self.store.latest_checkpoint()
        root = self.store.state_root(tip.checkpoint_height)
        leader = engine.validators.keys[engine.leader]
        return {
            "node": self.name_of(self._key.public),
            "key": self._key.public.hex(),
            "chain": self.genesis.chain_id.hex(),
            "chain_name": self.genesis.name,
            "role": "follower" if engine.me is None else "validator",
            "epoch": engine.validators.epoch,
            "view": engine.view,
            "changing_view": engine.changing,
            "leader": {"name": self.name_of(leader), "key": leader.hex()},
            "is_leader": engine.is_leader,
            "height": tip.height,
            "decided": engine.delivered,
            "pruned": self.store.pruned,
            "block_hash": tip.block_hash.hex(),
            "block_time_ms": tip.time_ms,
            "checkpoint": {
                "height": certificate.height if certificate else 0,
                "state_root": certificate.state_root.hex() if certificate else None,
            },
            "state_root": {"height": tip.checkpoint_height, "root": None if root is None else root.hex()},
            "results_hash": tip.results_hash.hex(),
            "pool": self.replica.pool.sizes(),
            "peers": self.peers(),
            "validators": [
                {"name": self.name_of(key), "key": key.hex(), "reachable": self._reachable(key)}
                for key in engine.validators.keys
            ],
            "quorum": engine.validators.quorum,
            "counters": {
                "blocks": self.replica.counters.blocks,
                "transactions": self.replica.counters.transactions,
                "refused": self.replica.counters.refused,
                "evidence": self.replica.counters.evidence,
                "synced_transactions": self.replica.counters.synced_transactions,
                "signatures_checked": self.driver.account.signatures,
            },
            "account": {
                "process_s": time.process_time(),
                "signature_s": self.driver.account.signature_s,
                "flush_s": self.driver.account.flush_s,
                "flushes": self.driver.account.flushes,
                "log_bytes": self._home.wal.size_bytes(),
            },
            "stopped": self.stopped,
            "why": self.why()["sentence"],
            "started_ms": self.started_ms,
            "version": importlib.metadata.version("medchain"),
        }

    def _reachable(self, key: bytes) -> bool:
        return self._missing_since_ms(key) is None

    def _missing_since_ms(self, key: bytes) -> int | None:
        """Since when nothing comes from a member; None while something does. A connection alone shows nothing: where a
        network is cut in two, it stays for a while."""
        if key == self._key.public:
            return None
        heard_ms = self.replica.heard_ms.get(key)
        if heard_ms is None:
            return self._down_since_ms.get(key, self._opened_ms)
        return self._wall_of(heard_ms) if self.driver.now_ms() - heard_ms > SILENT_MS else None

    def _wall_of(self, at_ms: int) -> int:
        """A time of the driver's steady clock in Unix milliseconds."""
        return _wall_ms() - (self.driver.now_ms() - at_ms)

    def why(self) -> dict[str, Any]:
        engine = self.replica.engine
        missing_since_ms = {key: self._missing_since_ms(key) for key in engine.validators.keys}
        missing = [
            Missing(self.name_of(key), key.hex(), since_ms)
            for key, since_ms in missing_since_ms.items()
            if since_ms is not None
        ]
        waiting_since_ms = self.replica.pool.waiting_since_ms
        behind = [
            (self.name_of(key), status.height)
            for key, status in self.replica.peer_status.items()
            if engine.validators.index(key) is not None and status.height + BEHIND_HEIGHTS < self.store.tip.height
        ]
        lacking_decided, lacking_proposed = self.replica.lacking()
        facts = Facts(
            now_ms=_wall_ms(),
            started_ms=self._opened_ms,
            height=self.store.tip.height,
            target_height=self.store.tip.height + self.lag(),
            n=engine.validators.n,
            quorum=engine.validators.quorum,
            missing=missing,
            view=engine.view,
            leader=self.name_of(engine.validators.keys[engine.leader]),
            changing=engine.changing,
            muted=self.store.is_muted(self._key.public, for_good=True),
            refetching=self.store.refetching,
            waiting_since_ms=None if waiting_since_ms is None else self._wall_of(waiting_since_ms),
            last_progress_ms=self._last_block_ms,
            last_block_ms=self.store.tip.time_ms,
            stopped=self.stopped,
            behind=behind,
            suspecting=engine.is_discontent,
            decided=engine.delivered,
            lacking_decided=lacking_decided,
            lacking_proposed=lacking_proposed,
            clock_ahead_ms=self._clock_ahead_ms(),
            disk_busy_since_ms=self.driver.flushing_since_ms,
            epoch_end=engine.epoch_end,
            unclosed=engine.unclosed,
        )
        return explain(facts)

    def _clock_ahead_ms(self) -> int | None:
        """How far this node's clock is ahead of a proposer's whose time it refused, since the last block."""
        match self.replica.refused_time:
            case (at_ms, ahead_ms) if at_ms > max(self._last_block_ms, _wall_ms() - REFUSAL_TOLD_MS):
                return ahead_ms
        return None

    def peers(self) -> list[dict[str, Any]]:
        heights = {key: status.height for key, status in self.replica.peer_status.items()}
        return [
            {
                "name": self.name_of(peer.key),
                "key": peer.key.hex(),
                "address": peer.address,
                "dialled": peer.dialled,
                "role": peer.role,
                "height": heights.get(peer.key, peer.height),
                "rtt_ms": peer.rtt_ms,
                "connected_ms": peer.since_ms,
                "bytes_in": sum(peer.bytes_in),
                "bytes_out": sum(peer.bytes_out),
            }
            for peer in self.transport.peers()
        ]

    def ready(self) -> bool:
        engine = self.replica.engine
        reachable = sum(self._reachable(key) for key in engine.validators.keys)
        return self.stopped is None and reachable >= engine.validators.quorum and self.lag() <= LAG_HEIGHTS_MAX

    def metrics_text(self) -> bytes:
        return metrics_text(self.status())


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
