"""What the HTTP API and embedding applications may ask of a running node: one protocol, implemented by node/node.py.

Must not know: HTTP, and how a node is composed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ledger.block import Receipt
from ledger.crypto import KeyPair
from ledger.genesis import Genesis
from ledger.rules import Registry
from node.config import NodeConfig
from node.vault import Vault
from storage.chain import ChainStore
from storage.errors import StorageError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one submitted transaction at the door.

    `code` 0: it waits in the pool, or is known or committed already. Otherwise the refusal, with its typed detail.
    `tx_id` is None when the bytes were no transaction.
    """

    tx_id: bytes | None
    code: int
    detail: tuple[str | int | bytes, ...] = ()


class NodeService(Protocol):
    """A running node, called from its event loop only."""

    @property
    def genesis(self) -> Genesis: ...

    @property
    def registry(self) -> Registry: ...

    @property
    def store(self) -> ChainStore: ...

    @property
    def config(self) -> NodeConfig: ...

    @property
    def vault(self) -> Vault | None:
        """The custodian's encrypted records; None where the node keeps none."""
        ...

    @property
    def vault_key(self) -> KeyPair | None:
        """The key for which the vault's records are sealed; None where the node keeps none."""
        ...

    async def submit(self, wires: Sequence[bytes]) -> list[Outcome]:
        """One outcome for each wire, in order. Never raises for a bad transaction."""
        ...

    async def wait(self, tx_id: bytes, timeout_ms: int) -> tuple[int, int, Receipt] | None:
        """(height, position, receipt) once committed; None when not in time. Raises Reject(TOO_MANY_WAITERS)."""
        ...

    async def wait_for_height(self, height: int, timeout_ms: int) -> bool:
        """Whether the tip reached `height` in time."""
        ...

    def status(self) -> dict[str, Any]: ...

    def why(self) -> dict[str, Any]:
        """In one sentence, whether the chain moves and what keeps it from moving."""
        ...

    def peers(self) -> list[dict[str, Any]]: ...

    def ready(self) -> bool:
        """Whether it has its peers and has caught up."""
        ...

    def on_damage(self, error: StorageError) -> None:
        """Reading the store failed."""
        ...

    def metrics_text(self) -> bytes:
        """Prometheus text exposition format 0.0.4."""
        ...
