"""Messages between validators: frozen data, and how each goes on the wire and into the write-ahead log.

Every message but `Status` is signed by its member over a statement that names tag, chain, epoch and kind
(docs/wire-format.md, section 5). A leader's pre-prepare carries its prepare vote: proposing is voting. Decoding checks
form and limits only; signatures are checked in consensus/verify.py.

Must not know: the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, TypeAlias

from ledger.block import (
    Certificate,
    CheckpointCertificate,
    Phase,
    Proposal,
    Signatures,
    checkpoint_statement,
    is_hash,
    is_height,
    signatures_from_value,
    vote_statement,
)
from ledger.codec import Value, decode, encode
from ledger.crypto import SIGNATURE_SIZE_BYTES, hash_bytes
from ledger.errors import CodecError
from ledger.evidence import new_view_statement, view_change_statement
from ledger.genesis import LOG_WINDOW_MAX
from ledger.validators import VALIDATORS_MAX

MESSAGE_SIZE_BYTES_MAX = 4 * 1024 * 1024  # the largest new-view is one of LOG_WINDOW_MAX full heights and 128 members
MESSAGE_ITEMS_MAX = 200_000
MESSAGE_DEPTH_MAX = 10
PREPARED_MAX = LOG_WINDOW_MAX  # locks in one view change: none lies further above its stable checkpoint


class Kind(IntEnum):
    """First item of every encoded message."""

    PRE_PREPARE = 1
    VOTE = 2
    CHECKPOINT = 3
    SUSPECT = 4
    TIMEOUT = 5
    VIEW_CHANGE = 6
    NEW_VIEW = 7
    STATUS = 8
    PREPARED = 9  # only in the write-ahead log and inside view changes


def _member(value: object) -> bool:
    return type(value) is int and 0 <= value < VALIDATORS_MAX


def _signature(value: object) -> bool:
    return type(value) is bytes and len(value) == SIGNATURE_SIZE_BYTES


def _require(*conditions: bool) -> None:
    if not all(conditions):
        raise CodecError("a field of a consensus message has the wrong type or range")


def _items(value: Value, count: int) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) != count:
        raise CodecError("a consensus message has the wrong number of fields")
    return value


@dataclass(frozen=True, slots=True)
class Vote:
    """A prepare or commit for `digest` at `height` in `view`."""

    epoch: int
    view: int
    height: int
    phase: Phase
    digest: bytes
    member: int
    signature: bytes = b""

    def statement(self, chain_id: bytes) -> bytes:
        return vote_statement(chain_id, self.epoch, self.view, self.height, self.phase, self.digest)

    def to_value(self) -> tuple[Value, ...]:
        return (self.epoch, self.view, self.height, int(self.phase), self.digest, self.member, self.signature)

    @classmethod
    def from_value(cls, value: Value) -> Vote:
        epoch, view, height, phase, digest, member, signature = _items(value, 7)
        _require(is_height(epoch), is_height(view), is_height(height), type(phase) is int and phase in (1, 2))
        _require(is_hash(digest), _member(member), _signature(signature))
        return cls(epoch, view, height, Phase(phase), digest, member, signature)


@dataclass(frozen=True, slots=True)
class PrePrepare:
    """The leader's proposal together with its own prepare vote for it."""

    proposal: Proposal
    vote: Vote

    @property
    def epoch(self) -> int:
        return self.vote.epoch

    @property
    def view(self) -> int:
        return self.vote.view

    @property
    def member(self) -> int:
        return self.vote.member

    def to_value(self) -> tuple[Value, ...]:
        return (self.proposal.to_value(), self.vote.to_value())

    @classmethod
    def from_value(cls, value: Value) -> PrePrepare:
        proposal_value, vote_value = _items(value, 2)
        proposal, vote = Proposal.from_value(proposal_value), Vote.from_value(vote_value)
        _require(vote.phase is Phase.PREPARE, vote.height == proposal.height, vote.digest == proposal.digest)
        return cls(proposal, vote)


@dataclass(frozen=True, slots=True)
class CheckpointVote:
    """A member's word on chain, state and results at a checkpoint height."""

    epoch: int
    height: int
    block_hash: bytes
    state_root: bytes
    results_hash: bytes
    member: int
    signature: bytes = b""

    @property
    def view(self) -> int:
        return 0

    @property
    def claim(self) -> tuple[bytes, bytes, bytes]:
        return (self.block_hash, self.state_root, self.results_hash)

    def statement(self, chain_id: bytes) -> bytes:
        return checkpoint_statement(chain_id, self.epoch, self.height, *self.claim)

    def to_value(self) -> tuple[Value, ...]:
        return (self.epoch, self.height, *self.claim, self.member, self.signature)

    @classmethod
    def from_value(cls, value: Value) -> CheckpointVote:
        epoch, height, block_hash, state_root, results_hash, member, signature = _items(value, 7)
        _require(is_height(epoch), is_height(height), _member(member), _signature(signature))
        _require(is_hash(block_hash), is_hash(state_root), is_hash(results_hash))
        return cls(epoch, height, block_hash, state_root, results_hash, member, signature)


def suspect_statement(chain_id: bytes, epoch: int, view: int) -> bytes:
    return encode(("medchain/suspect/1", chain_id, epoch, view))


@dataclass(frozen=True, slots=True)
class Suspect:
    """A member's wish to leave `view`; it goes on voting there until a quorum wishes the same."""

    epoch: int
    view: int
    member: int
    signature: bytes = b""

    def statement(self, chain_id: bytes) -> bytes:
        return suspect_statement(chain_id, self.epoch, self.view)

    def to_value(self) -> tuple[Value, ...]:
        return (self.epoch, self.view, self.member, self.signature)

    @classmethod
    def from_value(cls, value: Value) -> Suspect:
        epoch, view, member, signature = _items(value, 4)
        _require(is_height(epoch), is_height(view), _member(member), _signature(signature))
        return cls(epoch, view, member, signature)


@dataclass(frozen=True, slots=True)
class TimeoutCertificate:
    """A quorum of suspicions of `view`: leaving it is now the duty of everyone who sees this."""

    epoch: int
    view: int
    signatures: Signatures

    def statement(self, chain_id: bytes) -> bytes:
        return suspect_statement(chain_id, self.epoch, self.view)

    def to_value(self) -> tuple[Value, ...]:
        return (self.epoch, self.view, self.signatures)

    @classmethod
    def from_value(cls, value: Value) -> TimeoutCertificate:
        epoch, view, signatures = _items(value, 3)
        _require(is_height(epoch), is_height(view))
        return cls(epoch, view, signatures_from_value(signatures))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A proposal with the quorum of prepare votes that locked it."""

    proposal: Proposal
    certificate: Certificate

    @property
    def height(self) -> int:
        return self.proposal.height

    def to_value(self) -> tuple[Value, ...]:
        return (self.proposal.to_value(), self.certificate.to_value())

    @classmethod
    def from_value(cls, value: Value) -> Prepared:
        proposal_value, certificate_value = _items(value, 2)
        proposal, certificate = Proposal.from_value(proposal_value), Certificate.from_value(certificate_value)
        _require(certificate.phase is Phase.PREPARE, certificate.height == proposal.height)
        # Re-derived from the content, never taken from a field.
        _require(certificate.digest == proposal.digest)
        return cls(proposal, certificate)


@dataclass(frozen=True)
class Claim:
    """What a view change says, without the proofs: the height of its stable checkpoint (0: none in this epoch yet),
    and (height, view, digest) of each lock above it. This is what its signature covers."""

    epoch: int
    view: int
    stable: int
    locks: tuple[tuple[int, int, bytes], ...]
    member: int
    signature: bytes = b""

    @cached_property
    def content_hash(self) -> bytes:
        return hash_bytes(encode((self.stable, self.locks)))

    def statement(self, chain_id: bytes) -> bytes:
        return view_change_statement(chain_id, self.epoch, self.view, self.content_hash)

    def to_value(self) -> tuple[Value, ...]:
        return (self.stable, self.locks, self.member, self.signature)

    @classmethod
    def from_value(cls, epoch: int, view: int, value: Value) -> Claim:
        stable, locks, member, signature = _items(value, 4)
        _require(is_height(stable), _member(member), _signature(signature))
        _require(type(locks) is tuple and len(locks) <= PREPARED_MAX)
        for lock in locks:
            height, locked_view, digest = _items(lock, 3)
            _require(is_height(height), is_height(locked_view), is_hash(digest))
        return cls(epoch, view, stable, locks, member, signature)


@dataclass(frozen=True)
class ViewChange:
    """A member's entry into `view`: its stable checkpoint and everything it holds prepared above it, with proofs."""

    epoch: int
    view: int
    stable: CheckpointCertificate | None
    prepared: tuple[Prepared, ...]
    member: int
    signature: bytes = b""

    @cached_property
    def claim(self) -> Claim:
        """Re-derived from the certificates, never taken from a field."""
        stable = 0 if self.stable is None else self.stable.height
        locks = tuple((item.height, item.certificate.view, item.certificate.digest) for item in self.prepared)
        return Claim(self.epoch, self.view, stable, locks, self.member, self.signature)

    @property
    def content_hash(self) -> bytes:
        return self.claim.content_hash

    def statement(self, chain_id: bytes) -> bytes:
        return self.claim.statement(chain_id)

    def stable_height(self, epoch_base: int) -> int:
        """The height below which this member needs nothing; an epoch begins with its base as stable."""
        return epoch_base if self.stable is None else self.stable.height

    def to_value(self) -> tuple[Value, ...]:
        stable = None if self.stable is None else self.stable.to_value()
        prepared = tuple(item.to_value() for item in self.prepared)
        return (self.epoch, self.view, stable, prepared, self.member, self.signature)

    @classmethod
    def from_value(cls, value: Value) -> ViewChange:
        epoch, view, stable, prepared, member, signature = _items(value, 6)
        _require(is_height(epoch), is_height(view), _member(member), _signature(signature))
        _require(type(prepared) is tuple and len(prepared) <= PREPARED_MAX)
        certificate = None if stable is None else CheckpointCertificate.from_value(stable)
        return cls(epoch, view, certificate, tuple(map(Prepared.from_value, prepared)), member, signature)


@dataclass(frozen=True)
class NewView:
    """The new leader's proof that a quorum entered `view`: what each of them claims, and proofs of the claims that
    count, which are the highest checkpoint and each height's lock of the highest view (consensus/newview.py)."""

    epoch: int
    view: int
    claims: tuple[Claim, ...]
    stable: CheckpointCertificate | None
    prepared: tuple[Prepared, ...]
    member: int
    signature: bytes = b""

    @cached_property
    def content_hash(self) -> bytes:
        # The claims say what follows; which signatures prove it makes no difference.
        return hash_bytes(encode(tuple((claim.member, claim.content_hash) for claim in self.claims)))

    def statement(self, chain_id: bytes) -> bytes:
        return new_view_statement(chain_id, self.epoch, self.view, self.content_hash)

    def to_value(self) -> tuple[Value, ...]:
        claims = tuple(item.to_value() for item in self.claims)
        stable = None if self.stable is None else self.stable.to_value()
        prepared = tuple(item.to_value() for item in self.prepared)
        return (self.epoch, self.view, claims, stable, prepared, self.member, self.signature)

    @classmethod
    def from_value(cls, value: Value) -> NewView:
        epoch, view, claims, stable, prepared, member, signature = _items(value, 7)
        _require(is_height(epoch), is_height(view), _member(member), _signature(signature))
        _require(type(claims) is tuple and len(claims) <= VALIDATORS_MAX)
        _require(type(prepared) is tuple and len(prepared) <= PREPARED_MAX)
        read = tuple(Claim.from_value(epoch, view, claim) for claim in claims)
        certificate = None if stable is None else CheckpointCertificate.from_value(stable)
        return cls(epoch, view, read, certificate, tuple(map(Prepared.from_value, prepared)), member, signature)


@dataclass(frozen=True, slots=True)
class Status:
    """Where a node stands; sent often, so that peers resend what it lacks. Believed for nothing else, so unsigned."""

    epoch: int
    view: int
    changing: bool
    height: int
    stable: int

    def to_value(self) -> tuple[Value, ...]:
        return (self.epoch, self.view, self.changing, self.height, self.stable)

    @classmethod
    def from_value(cls, value: Value) -> Status:
        epoch, view, changing, height, stable = _items(value, 5)
        _require(is_height(epoch), is_height(view), type(changing) is bool, is_height(height), is_height(stable))
        return cls(epoch, view, changing, height, stable)


Signed: TypeAlias = PrePrepare | Vote | CheckpointVote | Suspect | ViewChange | NewView
Message: TypeAlias = Signed | TimeoutCertificate | Status
Record: TypeAlias = Message | Prepared

_TYPES: dict[int, Callable[[Value], Record]] = {
    Kind.PRE_PREPARE: PrePrepare.from_value,
    Kind.VOTE: Vote.from_value,
    Kind.CHECKPOINT: CheckpointVote.from_value,
    Kind.SUSPECT: Suspect.from_value,
    Kind.TIMEOUT: TimeoutCertificate.from_value,
    Kind.VIEW_CHANGE: ViewChange.from_value,
    Kind.NEW_VIEW: NewView.from_value,
    Kind.STATUS: Status.from_value,
    Kind.PREPARED: Prepared.from_value,
}
_KINDS: dict[type, Kind] = {
    PrePrepare: Kind.PRE_PREPARE,
    Vote: Kind.VOTE,
    CheckpointVote: Kind.CHECKPOINT,
    Suspect: Kind.SUSPECT,
    TimeoutCertificate: Kind.TIMEOUT,
    ViewChange: Kind.VIEW_CHANGE,
    NewView: Kind.NEW_VIEW,
    Status: Kind.STATUS,
    Prepared: Kind.PREPARED,
}


def encode_message(message: Record) -> bytes:
    return encode((int(_KINDS[type(message)]), message.to_value()))


def decode_message(data: bytes) -> Message:
    """A message from a peer; CodecError for anything malformed or of a kind that does not travel."""
    record = decode_record(data)
    if isinstance(record, Prepared):
        raise CodecError("this kind does not travel alone")
    return record


def decode_record(data: bytes) -> Record:
    """The same for a record of the write-ahead log."""
    value = decode(
        data, size_bytes_max=MESSAGE_SIZE_BYTES_MAX, depth_max=MESSAGE_DEPTH_MAX, items_max=MESSAGE_ITEMS_MAX
    )
    kind, content = _items(value, 2)
    make = _TYPES.get(kind) if type(kind) is int else None
    if make is None:
        raise CodecError("unknown kind of message")
    return make(content)


def signed(message: Any, sign: Callable[[bytes], bytes], chain_id: bytes) -> Any:
    """The message with its signature filled in."""
    return replace(message, signature=sign(message.statement(chain_id)))
