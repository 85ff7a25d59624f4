"""A chain in memory with the vaccine rules, and packs on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from vaccines import MODULE

from ledger.block import Proposal
from ledger.codec import Value, decode
from ledger.crypto import KeyPair
from ledger.execution import Executor
from ledger.fields import Operation
from ledger.genesis import Genesis
from ledger.modules import drugs, members
from ledger.modules.drug_operations import Commission, Receive, Ship
from ledger.rules import Registry
from ledger.state import Changes
from ledger.transaction import Batch, Transaction

GTIN = "04012345120011"
ROLES = {"maker": "manufacturer", "pharmacy": "pharmacy", "hospital": "hospital", "insurer": "insurer"}

Send = Callable[[str, Operation], tuple[int, tuple[object, ...]]]


def key_of(name: str) -> KeyPair:
    return KeyPair.from_seed(hashlib.sha256(name.encode()).digest())


class Chain:
    """One block for each operation; the state as encoded bytes, so that what cannot be stored fails here."""

    def __init__(self, exposure_max: int) -> None:
        institutions = [
            {"id": name, "roles": [role], "keys": [key_of(name).public.hex()], "prefixes": ["4012345"]}
            for name, role in ROLES.items()
        ]
        self.genesis = Genesis(
            name="test",
            time_ms=1_000,
            validators=(key_of("validator").public,),
            modules={
                "members": {"version": 1, "institutions": institutions},
                "drugs": {"version": 1},
                "vaccines": {"version": 1, "exposure_max": exposure_max},
            },
            development=True,
        )
        self.executor = Executor(self.genesis, Registry([members.MODULE, drugs.MODULE, MODULE]))
        self._entries: dict[bytes, bytes] = {}
        changes, self.tip = self.executor.begin()
        self._store(changes)

    def get(self, key: bytes) -> Value:
        data = self._entries.get(key)
        return None if data is None else decode(data, size_bytes_max=1 << 20)

    def _store(self, changes: Changes) -> None:
        for key, (_, data) in changes.items():
            self._entries[key] = b"\xc0" if data is None else data

    def send(self, name: str, operation: Operation) -> tuple[int, tuple[object, ...]]:
        """(code, detail) of its receipt."""
        height = self.tip.height + 1
        tx = Transaction.create(
            key_of(name),
            self.genesis.chain_id,
            operation.NAME,
            operation.to_fields(),
            nonce=height.to_bytes(16, "big"),
            valid_until=height + 10,
        )
        batch = Batch((tx.wire,))
        result = self.executor.execute(self, self.tip, Proposal(height, 2_000, (batch.digest,), False), [batch])
        self._store(result.changes)
        self.executor.accept(result.transactions, height)
        self.tip = result.tip
        return result.receipts[0].code, result.receipts[0].detail


@pytest.fixture
def send() -> Send:
    """Sends to a chain whose maker has shipped packs V1 and V2 to the pharmacy; V3 stayed with the maker."""
    chain = Chain(exposure_max=10_000)
    packs = tuple(f"01/{GTIN}/21/{serial}" for serial in ("V1", "V2"))
    assert chain.send("maker", Commission(GTIN, "L1", 20300101, 0, (), ("V1", "V2", "V3"), None, 0))[0] == 0
    assert chain.send("maker", Ship(packs, "pharmacy", 0))[0] == 0
    assert chain.send("pharmacy", Receive(packs, 0))[0] == 0
    return chain.send
