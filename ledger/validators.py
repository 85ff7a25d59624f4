"""The validator set and its quorum arithmetic.

For n members up to f = (n - 1) // 3 may be Byzantine. A quorum is ceil((n + f + 1) / 2): two quorums share at least
f + 1 members, so one honest (safe), and n - f honest members suffice (live). 2f + 1 would be wrong for n != 3f + 1.

Must not know: how members are voted in (ledger/modules/members.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from ledger.codec import Value, encode
from ledger.crypto import PUBLIC_KEY_SIZE_BYTES, hash_bytes
from ledger.errors import CodecError

VALIDATORS_MAX = 128  # bounds certificates and tables; far over what a consortium on one window needs


def faulty_max(n: int) -> int:
    """f: how many of `n` may be Byzantine."""
    return (n - 1) // 3


def quorum(n: int) -> int:
    """Votes that decide among `n`."""
    return (n + faulty_max(n) + 2) // 2


@dataclass(frozen=True)
class ValidatorSet:
    """The validators of one epoch: the heights from `first_height` on, until a later set takes over.

    Members are ordered by key; a vote names its member by index in this order.
    """

    epoch: int
    first_height: int
    keys: tuple[bytes, ...]

    @classmethod
    def create(cls, epoch: int, first_height: int, keys: Iterable[bytes]) -> ValidatorSet:
        return cls(epoch, first_height, tuple(sorted(keys)))

    @property
    def n(self) -> int:
        return len(self.keys)

    @cached_property
    def f(self) -> int:
        return faulty_max(len(self.keys))

    @cached_property
    def quorum(self) -> int:
        return quorum(len(self.keys))

    @cached_property
    def hash(self) -> bytes:
        return hash_bytes(encode(("medchain/validators/1", *self.to_value())))

    @cached_property
    def _indexes(self) -> dict[bytes, int]:
        return {key: index for index, key in enumerate(self.keys)}

    def index(self, key: bytes) -> int | None:
        """The member's index; None for a stranger."""
        return self._indexes.get(key)

    def leader(self, view: int) -> int:
        """The index of the member that leads `view`: round-robin."""
        return view % len(self.keys)

    def to_value(self) -> tuple[Value, ...]:
        return (self.epoch, self.first_height, self.keys)

    @classmethod
    def from_value(cls, value: Value) -> ValidatorSet:
        match value:
            case (int(epoch), int(first_height), tuple(keys)) if type(epoch) is int and type(first_height) is int:
                pass
            case _:
                raise CodecError("not a validator set")
        if not 0 <= epoch < 2**63 or not 1 <= first_height < 2**63:
            raise CodecError("epoch or first height out of range")
        checked = tuple(key for key in keys if type(key) is bytes and len(key) == PUBLIC_KEY_SIZE_BYTES)
        if not 1 <= len(keys) <= VALIDATORS_MAX or checked != keys or list(keys) != sorted(set(checked)):
            raise CodecError("validator keys are not distinct, sorted keys")
        return cls(epoch, first_height, checked)
