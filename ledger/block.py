"""Blocks: the proposal that is voted on, the header that chains it, receipts, and the certificates that prove both.

Ordering is pipelined, so a proposal says nothing of its predecessor: votes are for `proposal digest at height`. Once
heights below are known, everyone derives the same header, which chains (docs/adr/0006). A block's certificate is a
quorum of commit signatures over its proposal digest; a checkpoint certificate is a quorum over the header hash, the
state root and the results hash. Certificates are sets: which signatures were collected changes no hash.

Must not know: how a certificate comes to be (consensus/) or where blocks are kept (storage/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from ledger import merkle
from ledger.codec import Value, decode, encode, encode_trusted
from ledger.crypto import HASH_SIZE_BYTES, SIGNATURE_SIZE_BYTES, hash_bytes, verify
from ledger.errors import CodecError
from ledger.transaction import HEIGHT_MAX, Batch
from ledger.validators import VALIDATORS_MAX, ValidatorSet

BLOCK_BATCHES_MAX = 64
BLOCK_BATCH_BYTES_MAX = 4 * 1024 * 1024  # all batches of a block; what fits a proposal fits a response frame
BLOCK_TXS_MAX = 4_000
PROPOSAL_SIZE_BYTES_MAX = 4 * 1024  # 64 batch digests of 35 bytes and a few integers
CERTIFICATE_SIZE_BYTES_MAX = 16 * 1024  # 128 signatures of 70 bytes
RECEIPT_SIZE_BYTES_MAX = 1024
BLOCK_SIZE_BYTES_MAX = 8 * 1024 * 1024  # a certified block on the wire; the largest thing a peer is ever asked for


class Phase(IntEnum):
    """What a vote is for. A prepare is never a commit: the phase is inside what is signed."""

    PREPARE = 1
    COMMIT = 2


def vote_statement(chain_id: bytes, epoch: int, view: int, height: int, phase: Phase, digest: bytes) -> bytes:
    """The bytes a prepare or commit signature covers (after the voter's key)."""
    return encode(("medchain/vote/1", chain_id, epoch, view, height, int(phase), digest))


def checkpoint_statement(
    chain_id: bytes, epoch: int, height: int, block_hash: bytes, state_root: bytes, results_hash: bytes
) -> bytes:
    """The bytes a checkpoint signature covers."""
    return encode(("medchain/checkpoint/1", chain_id, epoch, height, block_hash, state_root, results_hash))


def is_hash(value: object) -> bool:
    return type(value) is bytes and len(value) == HASH_SIZE_BYTES


def is_height(value: object) -> bool:
    """Heights, views, epochs and times: integers from 0 to 2**63 - 1 (booleans are not integers here)."""
    return type(value) is int and 0 <= value <= HEIGHT_MAX


@dataclass(frozen=True)
class Proposal:
    """What a leader proposes for a height: batches in order. `seal` asks for a checkpoint at this height.

    `time_ms` is the leader's clock (Unix milliseconds); execution uses the greater of it and the parent's time.
    """

    height: int
    time_ms: int
    batches: tuple[bytes, ...]
    seal: bool = False

    @classmethod
    def null(cls, height: int) -> Proposal:
        """What a new view puts where nothing was prepared (Castro and Liskov 1999, section 4.4)."""
        return cls(height, 0, ())

    @cached_property
    def wire(self) -> bytes:
        return encode(self.to_value())

    @cached_property
    def digest(self) -> bytes:
        return hash_bytes(encode(("medchain/proposal/1", *self.to_value())))

    def to_value(self) -> tuple[Value, ...]:
        return (self.height, self.time_ms, self.batches, self.seal)

    @classmethod
    def from_value(cls, value: Value) -> Proposal:
        match value:
            case (height, time_ms, tuple(batches), bool(seal)) if is_height(height) and is_height(time_ms):
                pass
            case _:
                raise CodecError("not a proposal")
        if len(batches) > BLOCK_BATCHES_MAX or not all(map(is_hash, batches)) or len(set(batches)) != len(batches):
            raise CodecError("a proposal's batches are distinct hashes, not too many")
        return cls(height, time_ms, batches, seal)  # type: ignore[arg-type]


Signatures = tuple[tuple[int, bytes], ...]  # (member index, signature), by increasing index


def signatures_from_value(value: Value) -> Signatures:
    if type(value) is not tuple or len(value) > VALIDATORS_MAX:
        raise CodecError("not a list of signatures")
    last = -1
    for item in value:
        match item:
            case (int(index), bytes(signature)) if last < index < VALIDATORS_MAX:
                if type(index) is bool or len(signature) != SIGNATURE_SIZE_BYTES:
                    raise CodecError("not a signature")
                last = index
            case _:
                raise CodecError("signatures are not distinct and ordered")
    return value  # type: ignore[return-value]


def is_quorum(signatures: Signatures, validators: ValidatorSet) -> bool:
    """Whether a quorum of distinct members is named, in order; says nothing about the signatures themselves."""
    members = [index for index, _ in signatures]
    return (
        len(members) >= validators.quorum
        and all(low < high for low, high in pairwise(members))
        and members[0] >= 0
        and members[-1] < validators.n
    )


def signatures_valid(signatures: Signatures, statement: bytes, validators: ValidatorSet) -> bool:
    """A quorum of distinct members of `validators`, every signature valid: one bad one spoils a certificate."""
    return is_quorum(signatures, validators) and all(
        verify(validators.keys[index], statement, signature) for index, signature in signatures
    )


@dataclass(frozen=True)
class Certificate:
    """A quorum of votes of one phase for `digest` at `height` in `view`: commit proves a block, prepare a lock."""

    epoch: int
    view: int
    height: int
    phase: Phase
    digest: bytes
    signatures: Signatures

    def statement(self, chain_id: bytes) -> bytes:
        return vote_statement(chain_id, self.epoch, self.view, self.height, self.phase, self.digest)

    def valid(self, chain_id: bytes, validators: ValidatorSet) -> bool:
        """Checked offline by anyone who holds the validator set of that height."""
        return self.epoch == validators.epoch and signatures_valid(
            self.signatures, self.statement(chain_id), validators
        )

    def to_value(self) -> tuple[Value, ...]:
        return (self.epoch, self.view, self.height, int(self.phase), self.digest, self.signatures)

    @classmethod
    def from_value(cls, value: Value) -> Certificate:
        match value:
            case (epoch, view, height, int(phase), digest, signatures) if type(phase) is int and phase in (1, 2):
                pass
            case _:
                raise CodecError("not a certificate")
        if not (is_height(epoch) and is_height(view) and is_height(height) and is_hash(digest)):
            raise CodecError("not a certificate")
        return cls(epoch, view, height, Phase(phase), digest, signatures_from_value(signatures))  # type: ignore[arg-type]


@dataclass(frozen=True)
class CheckpointCertificate:
    """A quorum that agrees on chain, state and results at `height`. Anchors light clients and log truncation."""

    epoch: int
    height: int
    block_hash: bytes
    state_root: bytes
    results_hash: bytes
    signatures: Signatures

    def statement(self, chain_id: bytes) -> bytes:
        return checkpoint_statement(
            chain_id, self.epoch, self.height, self.block_hash, self.state_root, self.results_hash
        )

    def valid(self, chain_id: bytes, validators: ValidatorSet) -> bool:
        return self.epoch == validators.epoch and signatures_valid(
            self.signatures, self.statement(chain_id), validators
        )

    def to_value(self) -> tuple[Value, ...]:
        return (self.epoch, self.height, self.block_hash, self.state_root, self.results_hash, self.signatures)

    @classmethod
    def from_value(cls, value: Value) -> CheckpointCertificate:
        match value:
            case (epoch, height, block_hash, state_root, results_hash, signatures):
                pass
            case _:
                raise CodecError("not a checkpoint certificate")
        if not (is_height(epoch) and is_height(height) and all(map(is_hash, (block_hash, state_root, results_hash)))):
            raise CodecError("not a checkpoint certificate")
        return cls(epoch, height, block_hash, state_root, results_hash, signatures_from_value(signatures))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Header:
    """A block's place in the chain, derived alike by everyone once its predecessors are known."""

    height: int
    epoch: int
    parent_hash: bytes
    proposal_digest: bytes
    time_ms: int
    tx_count: int

    def hash(self, chain_id: bytes) -> bytes:
        return hash_bytes(encode(("medchain/header/1", chain_id, *self.to_value())))

    def to_value(self) -> tuple[Value, ...]:
        return (self.height, self.epoch, self.parent_hash, self.proposal_digest, self.time_ms, self.tx_count)

    @classmethod
    def from_value(cls, value: Value) -> Header:
        match value:
            case (height, epoch, parent_hash, digest, time_ms, tx_count) if is_hash(parent_hash) and is_hash(digest):
                if all(map(is_height, (height, epoch, time_ms, tx_count))):
                    return cls(height, epoch, parent_hash, digest, time_ms, tx_count)  # type: ignore[arg-type]
        raise CodecError("not a header")


class Receipt(NamedTuple):
    """What execution made of one transaction: code 0 or the refusal, with its typed detail."""

    tx_id: bytes
    code: int
    detail: tuple[str | int | bytes, ...] = ()

    @property
    def ok(self) -> bool:
        return self.code == 0

    def to_value(self) -> tuple[Value, ...]:
        return (self.tx_id, self.code, self.detail)

    @classmethod
    def from_value(cls, value: Value) -> Receipt:
        match value:
            case (tx_id, code, tuple(detail)) if is_hash(tx_id) and is_height(code):
                if all(type(item) in (str, int, bytes) for item in detail):
                    return cls(tx_id, code, detail)  # type: ignore[arg-type]
        raise CodecError("not a receipt")

    def leaf(self) -> bytes:
        return merkle.leaf_hash(encode_trusted(self.to_value()))  # checked when made (execution), or decoded


def receipts_root(receipts: Sequence[Receipt]) -> bytes:
    return merkle.root([receipt.leaf() for receipt in receipts])


def next_results_hash(previous: bytes, height: int, root: bytes) -> bytes:
    """Results chain from block to block, so that a checkpoint covers the receipts of every block below it."""
    return hash_bytes(encode(("medchain/results/1", previous, height, root)))


@dataclass(frozen=True)
class CertifiedBlock:
    """A block as it is stored and sent: proposal, commit certificate, and the batches it orders."""

    proposal: Proposal
    certificate: Certificate
    batches: tuple[Batch, ...]

    @property
    def height(self) -> int:
        return self.proposal.height

    def batches_match(self) -> bool:
        """Whether the batches are exactly those the proposal orders."""
        return tuple(batch.digest for batch in self.batches) == self.proposal.batches


def encode_certified(block: CertifiedBlock) -> bytes:
    """A certified block as it travels: (proposal, certificate, batch wires), the batches opaque."""
    wires = tuple(batch.wire for batch in block.batches)
    return encode((block.proposal.to_value(), block.certificate.to_value(), wires))


def decode_certified(data: bytes) -> CertifiedBlock:
    """The inverse, within BLOCK_SIZE_BYTES_MAX; CodecError otherwise. Shape only: whether the certificate is valid and
    the batches are the ordered ones (`batches_match`) is for the receiver to check.
    """
    match decode(data, size_bytes_max=BLOCK_SIZE_BYTES_MAX):
        case (proposal_value, certificate_value, tuple(wires)):
            pass
        case _:
            raise CodecError("not a certified block")
    proposal, certificate = Proposal.from_value(proposal_value), Certificate.from_value(certificate_value)
    if len(wires) != len(proposal.batches):
        raise CodecError("as many batches as the proposal orders")
    batches: list[Batch] = []
    for wire in wires:
        if type(wire) is not bytes:
            raise CodecError("a batch travels as bytes")
        batches.append(Batch.decode(wire))
    return CertifiedBlock(proposal, certificate, tuple(batches))


def decode_value(data: bytes, size_bytes_max: int) -> Value:
    """Decode one of the small structures of this file."""
    return decode(data, size_bytes_max=size_bytes_max)
