"""PBFT as a pure state machine, its messages and their verification, and catching up by certified blocks.

Knows `ledger` only. No I/O, no clock, no randomness: tests/test_architecture.py enforces it.
"""

from consensus.config import EngineConfig
from consensus.engine import Engine
from consensus.sync import BlockRequest, BlockSync
from consensus.verify import Verifier

__all__ = ["BlockRequest", "BlockSync", "Engine", "EngineConfig", "Verifier"]
