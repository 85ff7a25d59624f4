"""A light client: follows a chain by certificates alone, from what it trusts to what it trusts then (docs/proofs.md).

Whatever it is told is checked by ledger/proofcheck.py; the node that tells it needs no trust. It remembers in a file
how far it came, so that it never goes back and sees two chains where there should be one.

Must not know: how a node is asked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from ledger.crypto import verify
from ledger.errors import ConfigError
from ledger.proofcheck import Proven, Refused, Trusted, check
from storage import files

MEMORY_SIZE_BYTES_MAX = 64 * 1024


class Forked(Exception):
    """Quorums signed what contradicts each other, as two blocks at one height: more than a third of the validators
    signed twice. Or two memories are of two chains."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a light client believes: `trusted` validators, and the latest certified block it has seen (0: none)."""

    trusted: Trusted
    height: int = 0
    block_hash: bytes = b""

    def learn(self, bundle: bytes) -> tuple[Memory, Proven]:
        """What it believes after a bundle of the head; one from a node that is behind changes nothing. Refused if it
        proves nothing, Forked if it proves too much."""
        proven = check(bundle, self.trusted, verify)
        if proven.kind != "head":
            raise Refused("not a bundle of the head")
        block_hash = proven.fact["block_hash"]
        if proven.height == self.height and block_hash != self.block_hash:
            raise Forked(f"two blocks at height {self.height}: {self.block_hash.hex()} and {block_hash.hex()}")
        trusted = max(proven.trusted, self.trusted, key=lambda one: one.epoch)
        if proven.height <= self.height:
            return replace(self, trusted=trusted), proven
        return Memory(trusted, proven.height, block_hash), proven

    def trusting(self, trusted: Trusted) -> Memory:
        """The same with these validators, if they came later. Forked where both cannot be of one chain."""
        if trusted.chain_id != self.trusted.chain_id:
            raise Forked("it remembers another chain")
        if trusted.epoch == self.trusted.epoch and trusted.keys != self.trusted.keys:
            raise Forked(f"it remembers other validators of epoch {trusted.epoch}")
        return replace(self, trusted=max(trusted, self.trusted, key=lambda one: one.epoch))

    def write(self, path: Path) -> None:
        """Put into a file, whole or not at all."""
        document = {
            "chain": self.trusted.chain_id.hex(),
            "epoch": self.trusted.epoch,
            "keys": [key.hex() for key in self.trusted.keys],
            "height": self.height,
            "block": self.block_hash.hex(),
        }
        files.replace(path, json.dumps(document, indent=2).encode())

    @classmethod
    def read(cls, path: Path) -> Memory:
        """From a file that `write` made; ConfigError for anything else."""
        try:
            if path.stat().st_size > MEMORY_SIZE_BYTES_MAX:
                raise ValueError
            document = json.loads(path.read_text())
            chain_id, block_hash = bytes.fromhex(document["chain"]), bytes.fromhex(document.get("block", ""))
            keys = tuple(sorted(bytes.fromhex(key) for key in document["keys"]))
            epoch, height = document["epoch"], document.get("height", 0)
            if not keys or any(len(key) != 33 for key in (chain_id, *keys)) or len(block_hash) != 33 * (height > 0):
                raise ValueError
            if any(type(number) is not int or number < 0 for number in (epoch, height)):
                raise ValueError
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ConfigError(f"{path}: not what a light client remembers") from None
        return cls(Trusted(chain_id, epoch, keys), height, block_hash)
