"""A service for tests of the API: one chain in memory, whose blocks are made when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ledger.block import (
    Certificate,
    CertifiedBlock,
    CheckpointCertificate,
    Phase,
    Proposal,
    Receipt,
    checkpoint_statement,
    vote_statement,
)
from ledger.crypto import KeyPair, verify_joined
from ledger.errors import Code, CodecError, Reject
from ledger.execution import Executor
from ledger.fields import Operation
from ledger.genesis import Genesis
from ledger.gs1 import day_end_ms
from ledger.modules import drugs, members, payments, records
from ledger.rules import Registry
from ledger.transaction import NONCE_SIZE_BYTES, Batch, Transaction
from node.api.server import ApiServer
from node.config import Api, Limits, NodeConfig
from node.service import Outcome
from node.vault import Vault
from storage.chain import ChainStore
from storage.errors import StorageError
from storage.memory import MemoryKeyValue
from tests.ledger.chain import VALIDATORS, institution, key_pair

START_MS = day_end_ms(20260630)
PREFIX = "9521234"
HOSPITAL, MAKER, PHARMACY, INSURER, CLINIC, PATIENT = map(
    key_pair, ("hospital", "maker", "pharmacy", "insurer", "clinic", "patient")
)

GENESIS = Genesis(
    name="api test",
    time_ms=START_MS,
    validators=tuple(pair.public for pair in VALIDATORS),
    modules={
        "members": {
            "institutions": [
                institution("hospital", "hospital"),
                institution("maker", "manufacturer", prefixes=[PREFIX], glns=["9521234000013"]),
                institution("pharmacy", "pharmacy"),
                institution("insurer", "insurer"),
                institution("clinic", "hospital"),
            ]
        },
        "records": {},
        "drugs": {},
        "payments": {
            "currencies": [{"code": "EUR", "issuer": "insurer", "exponent": 2}],
            "balances": [{"currency": "EUR", "owner": "hospital", "amount": 1_000_000}],
        },
    },
    development=True,
)

REGISTRY = Registry([members.MODULE, records.MODULE, drugs.MODULE, payments.MODULE])


class FakeService:
    """Implements `node.service.NodeService`. `commit` makes a block of what was submitted."""

    def __init__(self, config: NodeConfig, *, vault: Vault | None = None) -> None:
        self.config = config
        self.damage: list[StorageError] = []
        self.genesis = GENESIS
        self.registry = REGISTRY
        self.executor = Executor(self.genesis, self.registry)
        changes, tip = self.executor.begin()
        self.store = ChainStore.create(MemoryKeyValue(), self.genesis.to_json(), changes, tip)
        self.vault = vault
        self.vault_key: KeyPair | None = HOSPITAL if vault is not None else None
        self.pool: list[Transaction] = []
        self.is_ready = True
        self.pool_full = False
        self.waiters_full = False
        self.commits_while_waiting = True
        self.waiting = 0
        self.time_ms = START_MS
        self.wall_ms = START_MS  # the node's own clock: behind the chain's, until a test moves it
        self._nonce = 0
        self._moved = asyncio.Event()

    def transaction(self, key: KeyPair, operation: Operation, **more: Any) -> Transaction:
        """A signed one with a nonce of its own."""
        self._nonce += 1
        given: dict[str, Any] = {
            "chain_id": self.genesis.chain_id,
            "nonce": self._nonce.to_bytes(NONCE_SIZE_BYTES, "big"),
            "valid_until": self.store.tip.height + 50,
        } | more
        chain_id = given.pop("chain_id")
        return Transaction.create(key, chain_id, operation.NAME, operation.to_fields(), **given)

    def send(self, key: KeyPair, operation: Operation) -> Transaction:
        """Ordered in a block of its own."""
        tx = self.transaction(key, operation)
        self.pool.append(tx)
        self.commit()
        return tx

    def commit(self, *, seal: bool = False) -> None:
        """The next block, of everything in the pool, certified; a checkpoint's certificate follows at once."""
        taken, self.pool = self.pool, []
        batches = (Batch(tuple(tx.wire for tx in taken)),) if taken else ()
        self.time_ms += 1_000
        tip = self.store.tip
        proposal = Proposal(tip.height + 1, self.time_ms, tuple(batch.digest for batch in batches), seal)
        result = self.executor.execute(self.store, tip, proposal, batches)
        signers = sorted(VALIDATORS, key=lambda pair: pair.public)[:3]
        chain_id, height, digest = self.genesis.chain_id, proposal.height, proposal.digest
        statement = vote_statement(chain_id, 0, 0, height, Phase.COMMIT, digest)
        signatures = tuple((index, pair.sign(statement)) for index, pair in enumerate(signers))
        certificate = Certificate(0, 0, height, Phase.COMMIT, digest, signatures)
        root = self.store.commit(CertifiedBlock(proposal, certificate, batches), result)
        self.executor.accept(result.transactions, height)
        if root is not None:
            agreed = (height, result.tip.block_hash, root, result.tip.results_hash)
            statement = checkpoint_statement(chain_id, 0, *agreed)
            signatures = tuple((index, pair.sign(statement)) for index, pair in enumerate(signers))
            self.store.put_checkpoint(CheckpointCertificate(0, *agreed, signatures))
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def submit(self, wires: Sequence[bytes]) -> list[Outcome]:
        return [self._take(wire) for wire in wires]

    def _take(self, wire: bytes) -> Outcome:
        try:
            tx = Transaction.decode(wire)
        except CodecError as error:
            return Outcome(None, int(error.code))
        if not verify_joined(wire):
            return Outcome(tx.id, int(Code.BAD_SIGNATURE))
        if self.store.transaction(tx.id) is not None or tx in self.pool:
            return Outcome(tx.id, 0)
        if tx.replay_key in self.executor.replay:
            return Outcome(tx.id, int(Code.REPLAYED))
        try:
            self.executor.check(tx, self.store.tip.height + 1)
            if self.pool_full:
                raise Reject(Code.POOL_FULL, len(self.pool))
        except Reject as reject:
            return Outcome(tx.id, int(reject.code), reject.detail)
        self.pool.append(tx)
        return Outcome(tx.id, 0)

    async def wait(self, tx_id: bytes, timeout_ms: int) -> tuple[int, int, Receipt] | None:
        if self.waiters_full:
            raise Reject(Code.TOO_MANY_WAITERS)
        if self.commits_while_waiting:
            self.commit()
        self.waiting += 1
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while (found := self.store.transaction(tx_id)) is None:
                    await self._moved.wait()
        except TimeoutError:
            return None
        finally:
            self.waiting -= 1
        receipt = self.store.receipt(tx_id)
        assert receipt is not None
        return found[0], found[1], receipt

    async def wait_for_height(self, height: int, timeout_ms: int) -> bool:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while self.store.tip.height < height:
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    def status(self) -> dict[str, Any]:
        return {"height": self.store.tip.height, "chain_id": self.genesis.chain_id, "pool_txs": len(self.pool)}

    def why(self) -> dict[str, Any]:
        return {"moving": True, "sentence": "The chain moves."}

    def peers(self) -> list[dict[str, Any]]:
        return [{"key": VALIDATORS[0].public, "height": 0}]

    def ready(self) -> bool:
        return self.is_ready

    def on_damage(self, error: StorageError) -> None:
        self.damage.append(error)

    def metrics_text(self) -> bytes:
        return b"# TYPE medchain_height gauge\nmedchain_height 0\n"


def new_config(home: Path, **limits: int) -> NodeConfig:
    return NodeConfig(home=home, api=Api(port=0), limits=Limits(**limits))


@asynccontextmanager
async def running(
    home: Path, *, vault: Vault | None = None, **limits: int
) -> AsyncIterator[tuple[FakeService, ApiServer]]:
    """A service with its API on a free port."""
    service = FakeService(new_config(home, **limits), vault=vault)
    server = ApiServer(service, service.config, clock_ms=lambda: service.wall_ms)
    await server.start()
    try:
        yield service, server
    finally:
        await server.stop()
