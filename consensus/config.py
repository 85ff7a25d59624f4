"""What an engine is told once: who it is, and the numbers that all members share (ledger/genesis.py, `Parameters`)."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.genesis import Parameters


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One engine's constants. Times in milliseconds."""

    chain_id: bytes
    key: bytes  # this node's public key; an engine whose key is in no set only follows
    parameters: Parameters
    muted: bool = False  # the key once signed what this node does not know of: it signs nothing any more
    seal_after_ms: int = 1_000  # idle time after which the leader closes the chain with a checkpoint
