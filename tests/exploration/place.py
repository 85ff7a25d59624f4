"""The small world that is explored: four members, two values a height, signatures that need no keys.

Must not know: engines.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import count

from ledger.block import Proposal
from ledger.crypto import SIGNATURE_SIZE_BYTES, hash_bytes
from ledger.execution import Tip
from ledger.genesis import Parameters
from ledger.validators import ValidatorSet

MEMBERS = 4
CHAIN = hash_bytes(b"chain")
KEYS = tuple(bytes([number + 1]) * 32 for number in range(MEMBERS))
VALIDATORS = ValidatorSet.create(0, 1, KEYS)
PARAMETERS = Parameters()
GENESIS = Tip(0, CHAIN, 0, CHAIN, 0, VALIDATORS, PARAMETERS)
NEVER_MS = 10**15  # no quiet chain is closed by a seal: checkpoints are not explored
HEIGHTS_MAX = 3


@dataclass(frozen=True, slots=True)
class Scope:
    """What is explored: one Byzantine identity, heights 1 to `heights`, views 0 to `views` - 1, `restarts` a member.

    Disks are prompt, so that between signing and durability there may be a crash, but no other input; or, on
    `slow_disks`, anything.
    """

    byzantine: int
    heights: int
    views: int
    restarts: int = 0
    slow_disks: bool = False

    @property
    def honest(self) -> tuple[int, ...]:
        return tuple(member for member in range(MEMBERS) if member != self.byzantine)


class Signer:
    """A member's signature: a hash, which anyone here could compute, but only the alphabet of byzantine.py is sent."""

    __slots__ = ("key",)

    def __init__(self, key: bytes) -> None:
        self.key = key

    def __call__(self, statement: bytes) -> bytes:
        return hashlib.sha512(self.key + statement).digest().ljust(SIGNATURE_SIZE_BYTES, b"\0")


def is_signed(key: bytes, statement: bytes, signature: bytes) -> bool:
    return Signer(key)(statement) == signature


def batch(height: int) -> bytes:
    """The one batch meant for a height; each fills a block."""
    return hash_bytes(bytes([height]))


def _proposal(height: int, wall_ms: int) -> Proposal:
    return Proposal(height, wall_ms, (batch(height),))


def _first_wall_ms() -> int:
    """A clock reading such that the later value has the greater digest everywhere, as a new view prefers that one of
    two locks in one view: what replaces a lock by a lie then really happens."""
    for wall_ms in count(1_000, 2):
        pairs = ((_proposal(height, wall_ms), _proposal(height, wall_ms + 1)) for height in range(1, HEIGHTS_MAX + 1))
        if all(low.digest < high.digest for low, high in pairs):
            return wall_ms
    raise AssertionError("unreachable")


WALL_MS = _first_wall_ms()


def wall_ms(member: int, restarts: int) -> int:
    """Clocks differ such that neighbouring leaders, left free, propose different values; and so does one leader after a
    restart, should it have forgotten."""
    return WALL_MS + (member + restarts) % 2


def values(height: int) -> tuple[Proposal, Proposal]:
    """The two values of a height: A as members 0 and 2 propose it, B as 1 and 3 do."""
    return _proposal(height, WALL_MS), _proposal(height, WALL_MS + 1)


def name_of(digest: bytes) -> str:
    """A value's name, for people."""
    return _NAMES.get(digest) or digest.hex()[:8]


_NAMES = {
    proposal.digest: f"{label}{height}"
    for height in range(1, HEIGHTS_MAX + 1)
    for label, proposal in (*zip("AB", values(height), strict=True), ("null", Proposal.null(height)))
}
