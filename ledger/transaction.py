"""Transactions and batches: what institutions and patients sign, and how it travels.

A transaction on the wire is `signature(65) || sender(33) || body`; the body is canonical
`[tag, chain id, operation, version, fields, nonce, valid until]`. Its id is the Merkle leaf hash of the whole wire, so
an id has one preimage and one hash serves the id, the batch and the inclusion proof. There is no sequence number per
sender: an institution submits thousands in parallel, and replay is stopped by sender and nonce inside the validity
window (docs/adr/0004).

A batch is an array of opaque wires; its digest is the Merkle root over their ids.

Must not know: what an operation means (ledger/rules.py), or whether the signature was checked already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ledger import merkle
from ledger.codec import Value, decode, encode
from ledger.crypto import HASH_SIZE_BYTES, PUBLIC_KEY_SIZE_BYTES, SIGNATURE_SIZE_BYTES, KeyPair
from ledger.errors import Code, CodecError, Reject

TX_TAG = "medchain/tx/1"
NONCE_SIZE_BYTES = 16
HEIGHT_MAX = 2**63 - 1  # heights, views and times fit a signed 64-bit integer everywhere

TX_SIZE_BYTES_MAX = 64 * 1024  # a thousand 20-character serials take 22 KiB
BATCH_SIZE_BYTES_MAX = 512 * 1024  # one frame; larger ones fall off aiohttp's cliff (docs/p2p.md)
BATCH_TXS_MAX = 2_000

_BODY_OFFSET = SIGNATURE_SIZE_BYTES + PUBLIC_KEY_SIZE_BYTES


class Transaction(NamedTuple):
    """A decoded transaction. `fields` are the operation's values in the order its module declares."""

    wire: bytes
    id: bytes
    sender: bytes
    chain_id: bytes
    operation: str
    version: int
    fields: tuple[Value, ...]
    nonce: bytes
    valid_until: int

    @classmethod
    def create(
        cls,
        key: KeyPair,
        chain_id: bytes,
        operation: str,
        fields: Sequence[Value],
        *,
        nonce: bytes,
        valid_until: int,
        version: int = 1,
    ) -> Transaction:
        """Sign one. `nonce` is 16 random bytes, `valid_until` the last height at which it may be executed."""
        if len(nonce) != NONCE_SIZE_BYTES:
            raise ValueError(f"a nonce has {NONCE_SIZE_BYTES} bytes")
        body = encode((TX_TAG, chain_id, operation, version, tuple(fields), nonce, valid_until))
        return cls.decode(key.sign(body) + key.public + body)

    @classmethod
    def decode(cls, wire: bytes) -> Transaction:
        """Decode without checking the signature (`ledger.crypto.verify_joined(wire)` does); CodecError if malformed."""
        return cls._decode(wire, None)

    @classmethod
    def _decode(cls, wire: bytes, tx_id: bytes | None) -> Transaction:
        """The same where the id may be known already."""
        if len(wire) > TX_SIZE_BYTES_MAX:
            raise CodecError("transaction over the size limit", Code.TOO_LARGE)
        if len(wire) <= _BODY_OFFSET:
            raise CodecError("transaction too short")
        body = decode(wire[_BODY_OFFSET:], size_bytes_max=TX_SIZE_BYTES_MAX)
        if type(body) is not tuple or len(body) != 7:
            raise CodecError("a transaction body has seven fields")
        tag, chain_id, operation, version, fields, nonce, valid_until = body
        if tag != TX_TAG:
            raise CodecError("not a transaction")
        if type(chain_id) is not bytes or len(chain_id) != HASH_SIZE_BYTES:
            raise CodecError("chain id is not a hash")
        if type(operation) is not str or type(fields) is not tuple:
            raise CodecError("operation or fields of the wrong type")
        if type(version) is not int or not 0 < version < 2**16:
            raise CodecError("operation version out of range")
        if type(nonce) is not bytes or len(nonce) != NONCE_SIZE_BYTES:
            raise CodecError("nonce of the wrong length")
        if type(valid_until) is not int or not 0 <= valid_until <= HEIGHT_MAX:
            raise CodecError("valid-until height out of range")
        sender = wire[SIGNATURE_SIZE_BYTES:_BODY_OFFSET]
        if tx_id is None:
            tx_id = merkle.leaf_hash(wire)
        return cls(wire, tx_id, sender, chain_id, operation, version, fields, nonce, valid_until)

    @property
    def replay_key(self) -> bytes:
        """What may be executed once inside the validity window: sender and nonce."""
        return self.sender + self.nonce


@dataclass(frozen=True)
class Batch:
    """Transactions spread together, apart from ordering. A block orders its digest."""

    wires: tuple[bytes, ...]

    @cached_property
    def tx_ids(self) -> tuple[bytes, ...]:
        return tuple(merkle.leaf_hash(wire) for wire in self.wires)

    @cached_property
    def digest(self) -> bytes:
        return merkle.root(self.tx_ids)

    @cached_property
    def wire(self) -> bytes:
        return encode(self.wires)

    @cached_property
    def transactions(self) -> tuple[Transaction, ...]:
        """All decoded; CodecError if any is malformed, so a batch is good or bad as a whole."""
        return tuple(map(Transaction._decode, self.wires, self.tx_ids))

    @cached_property
    def valid_until(self) -> int:
        """The last height at which anything in it may be executed; CodecError as above."""
        return max(tx.valid_until for tx in self.transactions)

    @classmethod
    def decode(cls, wire: bytes) -> Batch:
        """From the wire: 1 to BATCH_TXS_MAX opaque transactions. CodecError otherwise."""
        items = decode(wire, size_bytes_max=BATCH_SIZE_BYTES_MAX, depth_max=1, items_max=BATCH_TXS_MAX + 1)
        if type(items) is not tuple or not items:
            raise CodecError("a batch is a non-empty array")
        if any(type(item) is not bytes for item in items):
            raise CodecError("a batch holds transactions as bytes")
        batch = cls(wires=items)  # type: ignore[arg-type]
        batch.__dict__["wire"] = wire
        return batch


def check_admissible(tx: Transaction, chain_id: bytes, height: int, validity_heights_max: int) -> None:
    """What every node checks alike for a transaction to be executed at `height`, before any rule. Raises Reject."""
    if tx.chain_id != chain_id:
        raise Reject(Code.WRONG_CHAIN)
    if tx.valid_until < height:
        raise Reject(Code.EXPIRED, tx.valid_until, height)
    if tx.valid_until > height + validity_heights_max:
        raise Reject(Code.VALIDITY_TOO_LONG, tx.valid_until, height + validity_heights_max)
