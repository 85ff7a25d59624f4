"""Who takes part: the institutions of a development chain with their named keys, and patients with keys of their own.

Must not know: files, clocks, networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from ledger.crypto import SEED_SIZE_BYTES, KeyPair
from ledger.genesis import DEVELOPMENT_NAMES, development_key

__all__ = ["CUSTODIANS", "Cast"]

CUSTODIANS = ("hospital", "pharmacy", "insurer")  # whose nodes keep records


class Cast:
    """Keys by name, and institutions by location number. `modules` is the section of genesis that names them."""

    def __init__(self, modules: Mapping[str, Mapping[str, Any]]) -> None:
        self._keys = {name: development_key(name) for name in DEVELOPMENT_NAMES if name != "patient"}
        self.institutions: tuple[str, ...] = tuple(self._keys)
        self._by_gln: dict[str, str] = {}
        self._glns: dict[str, str] = {}
        for item in modules["members"]["institutions"]:
            for gln in item.get("glns", ()):
                self._by_gln[gln] = item["id"]
                self._glns.setdefault(item["id"], gln)

    def admit(self, name: str, rng: Random) -> KeyPair:
        """A new patient under a local name, with a key from the seed: such keys are for demonstrations only."""
        if name in self._keys:
            raise ValueError(f"{name} takes part already")
        self._keys[name] = KeyPair.from_seed(rng.randbytes(SEED_SIZE_BYTES))
        return self._keys[name]

    def key(self, name: str) -> KeyPair:
        return self._keys[name]

    def party(self, name: str) -> str:
        """As grants and accounts name them: an institution's id, or a patient's public key in hexadecimal."""
        return name if name in self.institutions else self._keys[name].public.hex()

    def gln(self, institution: str) -> str:
        return self._glns[institution]

    def institution_by_gln(self, gln: str) -> str | None:
        """A `node.gateway.capture.Directory`."""
        return self._by_gln.get(gln)
