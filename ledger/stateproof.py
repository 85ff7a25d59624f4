"""Proofs for those who do not hold the chain: of a state entry (or its absence), of a transaction, of a receipt.

The state's commitment: each entry is hashed as (hash of key, SHA-256 of encoded value) into one of 2^16 buckets, by
the first 16 bits of the key's hash. A bucket's hash covers its entries in order of key hash; the buckets are the leaves
of a tree in which each node has 16 children, 4 levels up to the root. Hashes inside the tree are 32 bare bytes, since
the proof states them by the thousand; the root carries its algorithm id as every hash of the chain does. A whole bucket
is disclosed in a proof, which is what makes absence provable; only hashes of its other entries are shown.

Each proof ends at something a quorum signed; a verifier must hold the validator set of that height. Nothing here tells
whether a retired set signed long after its epoch: take the set from a chain of epochs that is trusted.

Must not know: how the tree is kept or updated (storage/statetree.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Final

from ledger import merkle
from ledger.block import (
    Certificate,
    CheckpointCertificate,
    Phase,
    Proposal,
    Receipt,
    is_hash,
    is_height,
    next_results_hash,
)
from ledger.codec import Value, encode
from ledger.crypto import ALGORITHM_SHA256
from ledger.errors import CodecError
from ledger.transaction import BATCH_TXS_MAX
from ledger.validators import ValidatorSet

DIGEST_SIZE_BYTES = 32
ENTRY_SIZE_BYTES = 2 * DIGEST_SIZE_BYTES  # key hash, value hash
FANOUT = 16
LEVELS = 4
BUCKETS = FANOUT**LEVELS
SIBLINGS_SIZE_BYTES = LEVELS * (FANOUT - 1) * DIGEST_SIZE_BYTES
BUCKET_ENTRIES_MAX = 8_192  # at an even spread five hundred million entries; bounds what a verifier hashes
STATE_PROOF_SIZE_BYTES_MAX = BUCKET_ENTRIES_MAX * ENTRY_SIZE_BYTES + SIBLINGS_SIZE_BYTES + 64
RECEIPT_PROOF_HEIGHTS_MAX = 1_024  # blocks from a receipt to the checkpoint above it; 35 KiB of hashes

_BUCKET_TAG = b"medchain/bucket/1\x00"
_NODE_TAG = b"medchain/statenode/1\x00"
_TWO_PARTS = encode(("", ""))[:1]  # what the encoding of any two values begins with
_BUCKET_0, _BUCKET_1 = b"\x00\x00", b"\x00\x01"


def hash_key(key: bytes) -> bytes:
    """SHA-256 of a state key, except for its first 16 bits where they decide about bucket 0: that one is for the keys
    with two parts only (validators, parameters), which no transaction can add to. Elsewhere whoever writes may try keys
    until thousands share a bucket, and proofs that all depend on must not grow with that.
    """
    found = sha256(key).digest()
    if key[:1] == _TWO_PARTS:
        return _BUCKET_0 + found[2:]
    return _BUCKET_1 + found[2:] if found[:2] == _BUCKET_0 else found


def bucket_of(key_hash: bytes) -> int:
    """The bucket, 0 to 65,535, of an entry whose key has this hash."""
    return key_hash[0] << 8 | key_hash[1]


def bucket_hash(entries: bytes) -> bytes:
    """The leaf over a bucket's entries, 64 bytes each, by rising key hash. An empty bucket has a constant hash."""
    return sha256(_BUCKET_TAG + entries).digest()


EMPTY_BUCKET: Final = bucket_hash(b"")


def parent_hash(children: bytes | bytearray) -> bytes:
    """The node over the sixteen digests in `children`."""
    return sha256(_NODE_TAG + children).digest()


def root_hash(top: bytes) -> bytes:
    """The state root as it is signed: the top digest with its algorithm id."""
    return ALGORITHM_SHA256 + top


@dataclass(frozen=True, slots=True)
class StateProof:
    """All entries of one bucket, and its siblings from the lowest level up (15 digests a level, in order)."""

    entries: bytes
    siblings: bytes

    def verify(self, root: bytes, key: bytes, value_bytes: bytes | None) -> bool:
        """Whether under `root` the state has `key` with exactly the encoded value, or (None) does not have it."""
        if len(self.siblings) != SIBLINGS_SIZE_BYTES or not _entries_ordered(self.entries):
            return False
        key_hash = hash_key(key)
        found = entry_value_hash(self.entries, key_hash)
        if found != (None if value_bytes is None else sha256(value_bytes).digest()):
            return False
        return self._root(bucket_of(key_hash)) == root

    def _root(self, bucket: int) -> bytes:
        digest, index = bucket_hash(self.entries), bucket
        width = (FANOUT - 1) * DIGEST_SIZE_BYTES
        for level in range(LEVELS):
            others = self.siblings[level * width : (level + 1) * width]
            split = (index % FANOUT) * DIGEST_SIZE_BYTES
            digest = parent_hash(others[:split] + digest + others[split:])
            index //= FANOUT
        return root_hash(digest)

    def to_value(self) -> tuple[Value, ...]:
        return (self.entries, self.siblings)

    @classmethod
    def from_value(cls, value: Value) -> StateProof:
        """From a decoded value (decode with STATE_PROOF_SIZE_BYTES_MAX); CodecError if it is none."""
        match value:
            case (bytes(entries), bytes(siblings)) if len(siblings) == SIBLINGS_SIZE_BYTES:
                if len(entries) <= BUCKET_ENTRIES_MAX * ENTRY_SIZE_BYTES and _entries_ordered(entries):
                    return cls(entries, siblings)
        raise CodecError("not a state proof")


def _entries_ordered(entries: bytes) -> bool:
    if len(entries) % ENTRY_SIZE_BYTES:
        return False
    keys = [entries[at : at + DIGEST_SIZE_BYTES] for at in range(0, len(entries), ENTRY_SIZE_BYTES)]
    return all(low < high for low, high in pairwise(keys))


def entry_position(entries: bytes, key_hash: bytes) -> int:
    """Where in `entries` the entry of `key_hash` is, or would have to be put: a multiple of 64."""
    low, high = 0, len(entries) // ENTRY_SIZE_BYTES
    while low < high:
        middle = (low + high) // 2
        at = middle * ENTRY_SIZE_BYTES
        if entries[at : at + DIGEST_SIZE_BYTES] < key_hash:
            low = middle + 1
        else:
            high = middle
    return low * ENTRY_SIZE_BYTES


def entry_value_hash(entries: bytes, key_hash: bytes) -> bytes | None:
    """The value hash beside `key_hash`; None when the bucket has no such entry."""
    at = entry_position(entries, key_hash)
    middle = at + DIGEST_SIZE_BYTES
    return entries[middle : at + ENTRY_SIZE_BYTES] if entries[at:middle] == key_hash else None


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A leaf's place in a Merkle tree: its index among `count` leaves and the hashes beside its way up."""

    index: int
    count: int
    path: tuple[bytes, ...]

    def root(self, leaf: bytes) -> bytes | None:
        """The root this leads to; None when the path has the wrong shape."""
        return merkle.root_from_path(leaf, self.index, self.count, self.path)

    def to_value(self) -> tuple[Value, ...]:
        return (self.index, self.count, self.path)

    @classmethod
    def from_value(cls, value: Value) -> Inclusion:
        match value:
            case (index, count, tuple(path)) if is_height(index) and is_height(count):
                if len(path) <= merkle.PATH_LENGTH_MAX and all(map(is_hash, path)):
                    return cls(index, count, path)  # type: ignore[arg-type]
        raise CodecError("not a place in a tree")


@dataclass(frozen=True, slots=True)
class TransactionProof:
    """That a transaction was ordered at `proposal.height`: id in batch, batch in proposal, proposal certified."""

    inclusion: Inclusion
    proposal: Proposal
    certificate: Certificate

    def verify(self, tx_id: bytes, chain_id: bytes, validators: ValidatorSet) -> bool:
        """`validators` is the set in force at the proposal's height, known to the verifier beforehand."""
        certificate, proposal = self.certificate, self.proposal
        return (
            self.inclusion.count <= BATCH_TXS_MAX
            and self.inclusion.root(tx_id) in proposal.batches
            and certificate.phase == Phase.COMMIT
            and certificate.height == proposal.height >= validators.first_height
            and certificate.digest == proposal.digest
            and certificate.valid(chain_id, validators)
        )

    def to_value(self) -> tuple[Value, ...]:
        return (self.inclusion.to_value(), self.proposal.to_value(), self.certificate.to_value())

    @classmethod
    def from_value(cls, value: Value) -> TransactionProof:
        match value:
            case (inclusion, proposal, certificate):
                return cls(
                    Inclusion.from_value(inclusion), Proposal.from_value(proposal), Certificate.from_value(certificate)
                )
        raise CodecError("not a transaction proof")


@dataclass(frozen=True, slots=True)
class ReceiptProof:
    """What execution made of a transaction: the receipt in its block's receipts, those in the chain of results, and
    that chain up to a certified checkpoint. `following` are the receipts roots of the blocks after it, up to and with
    the checkpoint's.
    """

    receipt: Receipt
    inclusion: Inclusion
    previous_results: bytes
    following: tuple[bytes, ...]
    checkpoint: CheckpointCertificate

    @property
    def height(self) -> int:
        """The height of the receipt's block, covered by the results hash."""
        return self.checkpoint.height - len(self.following)

    def verify(self, chain_id: bytes, validators: ValidatorSet) -> bool:
        """`validators` is the set in force at the checkpoint's height, known to the verifier beforehand."""
        root = self.inclusion.root(self.receipt.leaf())
        if root is None or len(self.following) > RECEIPT_PROOF_HEIGHTS_MAX:
            return False
        results = self.previous_results
        for height, receipts_root in enumerate((root, *self.following), self.height):
            results = next_results_hash(results, height, receipts_root)
        return (
            results == self.checkpoint.results_hash
            and self.checkpoint.height >= validators.first_height
            and self.checkpoint.valid(chain_id, validators)
        )

    def to_value(self) -> tuple[Value, ...]:
        return (
            self.receipt.to_value(),
            self.inclusion.to_value(),
            self.previous_results,
            self.following,
            self.checkpoint.to_value(),
        )

    @classmethod
    def from_value(cls, value: Value) -> ReceiptProof:
        match value:
            case (receipt, inclusion, previous, tuple(following), checkpoint) if is_hash(previous):
                pass
            case _:
                raise CodecError("not a receipt proof")
        cert = CheckpointCertificate.from_value(checkpoint)
        if len(following) > min(RECEIPT_PROOF_HEIGHTS_MAX, cert.height) or not all(map(is_hash, following)):
            raise CodecError("not a receipt proof")
        return cls(Receipt.from_value(receipt), Inclusion.from_value(inclusion), previous, following, cert)  # type: ignore[arg-type]
