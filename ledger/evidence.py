"""Evidence of equivocation: two statements one member signed where the protocol lets it sign one.

Lives here: what of each kind of message may be signed once only, the encoding of a contradiction, and its check, by
anyone who knows the chain id and the validator set of the epoch. Consensus finds contradictions, governance judges
them; both read this file.

A statement says `content` at a `place`. Both halves of an evidence share epoch, member and place by their form, so a
pair from two heights, views, phases, epochs or chains cannot even be written down. What an honest member repeats after
a restart, or sends again, has the same content and is no contradiction (docs/protocol.md, section 10).

Must not know: what follows for the culprit, or how messages travel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from ledger.block import Phase, checkpoint_statement, is_hash, is_height, vote_statement
from ledger.codec import Value, decode, encode
from ledger.crypto import SIGNATURE_SIZE_BYTES, verify
from ledger.errors import CodecError, EvidenceRefused
from ledger.validators import VALIDATORS_MAX, ValidatorSet

EVIDENCE_SIZE_BYTES_MAX = 512  # two checkpoint statements, the longest, with their signatures take 400

_TAG = "medchain/evidence/1"

Check = Callable[[bytes, bytes, bytes], bool]  # (public key, statement, signature)


class Offence(IntEnum):
    """What was signed twice."""

    VOTE = 1  # two proposals prepared, or committed, at one height in one view; a pre-prepare is a prepare
    CHECKPOINT = 2  # two results at one height
    VIEW_CHANGE = 3  # two accounts of what is locked, for one view
    NEW_VIEW = 4  # two beginnings of one view


# Integers of the place, hashes of the content.
_SHAPES: dict[Offence, tuple[int, int]] = {
    Offence.VOTE: (3, 1),  # view, height, phase; proposal digest
    Offence.CHECKPOINT: (1, 3),  # height; block hash, state root, results hash
    Offence.VIEW_CHANGE: (1, 1),  # view; content hash
    Offence.NEW_VIEW: (1, 1),  # view; content hash
}


def view_change_statement(chain_id: bytes, epoch: int, view: int, content_hash: bytes) -> bytes:
    """The bytes a view change's signature covers."""
    return encode(("medchain/view-change/2", chain_id, epoch, view, content_hash))


def new_view_statement(chain_id: bytes, epoch: int, view: int, content_hash: bytes) -> bytes:
    """The bytes a new view's signature covers."""
    return encode(("medchain/new-view/2", chain_id, epoch, view, content_hash))


@dataclass(frozen=True, slots=True)
class Half:
    """One of the two statements: what it says at the evidence's place, and the member's signature."""

    content: tuple[bytes, ...]
    signature: bytes

    def to_value(self) -> tuple[Value, ...]:
        return (*self.content, self.signature)


@dataclass(frozen=True, slots=True)
class Culprit:
    """Who signed both, in which epoch. At most one evidence for each (key, epoch) is worth keeping."""

    key: bytes
    epoch: int
    member: int
    offence: Offence


@dataclass(frozen=True)
class Evidence:
    """Two contradicting statements of one member. `first.content < second.content`: a pair has one encoding."""

    offence: Offence
    epoch: int
    member: int
    place: tuple[int, ...]
    first: Half
    second: Half

    @classmethod
    def of(cls, offence: Offence, epoch: int, member: int, place: tuple[int, ...], one: Half, other: Half) -> Evidence:
        """The evidence that two statements at `place` make, in canonical order; they must differ."""
        first, second = sorted((one, other), key=lambda half: half.content)
        assert first.content < second.content, "the same statement twice proves nothing"
        return cls(offence, epoch, member, place, first, second)

    @cached_property
    def wire(self) -> bytes:
        halves = (self.first.to_value(), self.second.to_value())
        return encode((_TAG, int(self.offence), self.epoch, self.member, self.place, *halves))

    @classmethod
    def decode(cls, wire: bytes) -> Evidence:
        """The inverse; CodecError for anything that is not a contradiction in form. Signatures are not checked."""
        match decode(wire, size_bytes_max=EVIDENCE_SIZE_BYTES_MAX, depth_max=2, items_max=32):
            case (tag, offence, epoch, member, tuple(place), tuple(first), tuple(second)) if tag == _TAG:
                pass
            case _:
                raise CodecError("not an evidence")
        if type(offence) is not int or offence not in _SHAPES:
            raise CodecError("unknown offence")
        if not is_height(epoch) or type(member) is not int or not 0 <= member < VALIDATORS_MAX:
            raise CodecError("not an epoch's member")
        integers, hashes = _SHAPES[Offence(offence)]
        if len(place) != integers or not all(map(is_height, place)):
            raise CodecError("not a place")
        if offence == Offence.VOTE and place[2] not in (Phase.PREPARE, Phase.COMMIT):
            raise CodecError("not a phase")
        halves = (_half(first, hashes), _half(second, hashes))
        if not halves[0].content < halves[1].content:
            raise CodecError("no contradiction, or not in order")
        return cls(Offence(offence), epoch, member, place, *halves)  # type: ignore[arg-type]

    def statement(self, chain_id: bytes, half: Half) -> bytes:
        """What the member signed, re-derived from the content."""
        match self.offence:
            case Offence.VOTE:
                view, height, phase = self.place
                return vote_statement(chain_id, self.epoch, view, height, Phase(phase), *half.content)
            case Offence.CHECKPOINT:
                return checkpoint_statement(chain_id, self.epoch, self.place[0], *half.content)
            case Offence.VIEW_CHANGE:
                return view_change_statement(chain_id, self.epoch, self.place[0], *half.content)
            case Offence.NEW_VIEW:
                return new_view_statement(chain_id, self.epoch, self.place[0], *half.content)


def _half(value: tuple[Value, ...], hashes: int) -> Half:
    *content, signature = value or (None,)
    if len(content) != hashes or not all(map(is_hash, content)):
        raise CodecError("not a statement's content")
    if type(signature) is not bytes or len(signature) != SIGNATURE_SIZE_BYTES:
        raise CodecError("not a signature")
    return Half(tuple(content), signature)  # type: ignore[arg-type]


def check_evidence(chain_id: bytes, validators: ValidatorSet, wire: bytes, check: Check = verify) -> Culprit:
    """Whom an evidence convicts. `validators` is the set of the evidence's epoch (`Evidence.decode(wire).epoch`).

    Raises CodecError when it is malformed, EvidenceRefused when epoch, member or a signature is not right. Both
    signatures are checked under the member's key of that set, so nobody else's statements can be put in.
    """
    evidence = Evidence.decode(wire)
    if evidence.epoch != validators.epoch:
        raise EvidenceRefused("of another epoch")
    if evidence.member >= validators.n:
        raise EvidenceRefused("no such member")
    key = validators.keys[evidence.member]
    for half in (evidence.first, evidence.second):
        if not check(key, evidence.statement(chain_id, half), half.signature):
            raise EvidenceRefused("a signature is not the member's")
    return Culprit(key, evidence.epoch, evidence.member, evidence.offence)
