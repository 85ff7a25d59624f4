"""A chain in memory for tests of rules: signs operations, executes real blocks, keeps the state as encoded bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ledger.block import Proposal, Receipt
from ledger.codec import Value, decode
from ledger.crypto import KeyPair, verify_joined
from ledger.execution import BlockResult, Executor
from ledger.fields import Operation
from ledger.genesis import Genesis, Parameters
from ledger.modules import members
from ledger.rules import Registry, RuleModule
from ledger.state import Changes, KeyPart, state_key
from ledger.transaction import BATCH_TXS_MAX, NONCE_SIZE_BYTES, Batch, Transaction

VALUE_SIZE_BYTES_MAX = 1 << 20


def key_pair(name: str) -> KeyPair:
    """The same key pair for the same name, in every run."""
    return KeyPair.from_seed(name.encode().ljust(32, b".")[:32])


VALIDATORS = tuple(key_pair(f"validator {number}") for number in range(4))


def institution(name: str, *roles: str, keys: Sequence[KeyPair] = (), **more: Any) -> dict[str, Any]:
    """An entry of the genesis section of `members`; its key is `key_pair(name)` unless others are given."""
    pairs = keys or (key_pair(name),)
    return {"id": name, "roles": list(roles), "keys": [pair.public.hex() for pair in pairs], **more}


class Chain:
    """Executes blocks one after the other on one node, without consensus.

    Values pass through the canonical encoding, so that a rule which writes what cannot be stored fails its test.
    """

    def __init__(
        self,
        modules: Sequence[RuleModule],
        genesis_modules: Mapping[str, Mapping[str, Any]],
        *,
        validators: Sequence[KeyPair] = VALIDATORS,
        parameters: Parameters | None = None,
        time_ms: int = 1_000_000,
    ) -> None:
        self.validators = tuple(validators)
        self.genesis = Genesis(
            name="test",
            time_ms=time_ms,
            validators=tuple(pair.public for pair in validators),
            modules={"members": {}, **genesis_modules},
            development=True,
            parameters=parameters or Parameters(),
        )
        self.executor = Executor(self.genesis, Registry([members.MODULE, *modules]))
        self.time_ms = time_ms
        self.entries: dict[bytes, bytes] = {}
        self.indexes: dict[tuple[str, bytes], list[bytes]] = {}
        self._nonce = 0
        changes, self.tip = self.executor.begin()
        self._store(changes)

    @property
    def height(self) -> int:
        return self.tip.height

    def get(self, key: bytes) -> Value:
        """The state as `ledger.state.Reader` gives it."""
        data = self.entries.get(key)
        return None if data is None else decode(data, size_bytes_max=VALUE_SIZE_BYTES_MAX)

    def read(self, module: str, table: str, *parts: KeyPart) -> Any:
        return self.get(state_key(module, table, *parts))

    def table(self, module: str, table: str) -> dict[tuple[Value, ...], Any]:
        """All entries of one table by their key parts; slow, for checks of invariants."""
        found = {}
        for key in sorted(self.entries):
            parts = decode(key, size_bytes_max=VALUE_SIZE_BYTES_MAX)
            if isinstance(parts, tuple) and parts[:2] == (module, table):
                found[parts[2:]] = self.get(key)
        return found

    def found(self, index: str, key: str | bytes) -> list[bytes]:
        """The ids of the transactions under `key` in `index`, oldest first."""
        return self.indexes.get((index, key.encode() if isinstance(key, str) else key), [])

    def transaction(self, key: KeyPair, operation: Operation, *, valid_until: int | None = None) -> Transaction:
        """Signed by `key`, with a nonce of its own, valid for the next ten heights unless stated."""
        self._nonce += 1
        return Transaction.create(
            key,
            self.genesis.chain_id,
            operation.NAME,
            operation.to_fields(),
            nonce=self._nonce.to_bytes(NONCE_SIZE_BYTES, "big"),
            valid_until=self.height + 10 if valid_until is None else valid_until,
            version=operation.VERSION,
        )

    def execute(self, transactions: Sequence[Transaction], *, seal: bool = False) -> BlockResult:
        """The next block, holding `transactions`, at `self.time_ms`; they travel as bytes, as in a real batch."""
        batches = []
        for start in range(0, len(transactions), BATCH_TXS_MAX):
            wires = tuple(tx.wire for tx in transactions[start : start + BATCH_TXS_MAX])
            assert all(map(verify_joined, wires))
            batches.append(Batch.decode(Batch(wires).wire))
        proposal = Proposal(self.height + 1, self.time_ms, tuple(batch.digest for batch in batches), seal)
        result = self.executor.execute(self, self.tip, proposal, batches)
        self._store(result.changes)
        for name, key, position in result.indexes:
            self.indexes.setdefault((name, key), []).append(result.receipts[position].tx_id)
        self.executor.accept(result.transactions, result.header.height)
        self.tip = result.tip
        return result

    def block(self, *calls: tuple[KeyPair, Operation]) -> tuple[Receipt, ...]:
        """The next block, holding one transaction for each (signer, operation)."""
        return self.execute([self.transaction(key, operation) for key, operation in calls]).receipts

    def send(self, key: KeyPair, operation: Operation) -> Receipt:
        """The next block, holding one transaction."""
        return self.block((key, operation))[0]

    def advance(self, heights: int) -> None:
        """Empty blocks."""
        for _ in range(heights):
            self.execute(())

    def _store(self, changes: Changes) -> None:
        for key, (_, data) in changes.items():
            if data is None:
                self.entries.pop(key, None)
            else:
                self.entries[key] = data
