"""A chain in memory as the transport of a workload, with vaults in memory: for tests without processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ledger.fields import Operation
from ledger.modules import drugs, payments, records
from node import vault
from node.cluster.plan import development_modules
from node.workload import Cast, Refused
from node.workload.perform import Final
from tests.ledger.chain import Chain, key_pair

NOW_MS = 1_790_000_000_000


class MemoryTransport:
    """One block a transaction. Records are sealed for a custodian's node key that the test knows."""

    def __init__(self, cast: Cast, modules: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        found = {name: dict(module) for name, module in (modules or development_modules()).items()}
        found["members"].pop("version", None)
        self.chain = Chain([records.MODULE, drugs.MODULE, payments.MODULE], found, time_ms=NOW_MS)
        self.chain.time_ms = NOW_MS
        self.vaults: dict[str, dict[bytes, bytes]] = {}
        self.senders: dict[bytes, bytes] = {}
        self.wires: list[bytes] = []
        self._cast = cast

    async def submit(self, sender: str, operation: Operation) -> Final:
        key = self._cast.key(sender)
        tx = self.chain.transaction(key, operation)
        self.wires.append(tx.wire)
        receipt = self.chain.execute([tx]).receipts[0]
        self.senders[receipt.tx_id] = key.public
        return Final(receipt.tx_id, receipt.code, receipt.detail)

    def vault_keys(self, custodian: str) -> tuple[bytes, ...]:
        return (key_pair(custodian).public,)

    async def keep(self, custodian: str, sealed: bytes) -> None:
        record = vault.SealedRecord.from_bytes(sealed)
        self.vaults.setdefault(custodian, {})[record.commitment] = sealed

    async def release(self, custodian: str, commitment: bytes, access: bytes) -> bytes:
        if access not in self.allowed():
            raise Refused("no allowed access")
        return vault.rewrap(self.vaults[custodian][commitment], key_pair(custodian), self.senders[access]).data

    def allowed(self) -> set[bytes]:
        """Accepted transactions are those that an index finds."""
        return {tx_id for found in self.chain.indexes.values() for tx_id in found}
