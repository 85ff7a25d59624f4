"""Members, messages and values for tests of consensus' pure parts; nothing here touches the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from consensus.messages import (
    CheckpointVote,
    NewView,
    Prepared,
    PrePrepare,
    Status,
    Suspect,
    TimeoutCertificate,
    ViewChange,
    Vote,
    signed,
)
from consensus.newview import compose
from ledger.block import Certificate, CheckpointCertificate, Phase, Proposal
from ledger.crypto import KeyPair, hash_bytes
from ledger.validators import ValidatorSet

CHAIN, OTHER_CHAIN = hash_bytes(b"chain"), hash_bytes(b"other chain")
PAIRS = sorted((KeyPair.from_seed(bytes([number]) * 32) for number in range(1, 6)), key=lambda pair: pair.public)
EPOCH, FIRST_HEIGHT = 2, 101
FOUR = ValidatorSet.create(EPOCH, FIRST_HEIGHT, [pair.public for pair in PAIRS[:4]])
BASE = FIRST_HEIGHT - 1
DIGEST = hash_bytes(b"digest")


def sign(message: Any, member: int | None = None, chain_id: bytes = CHAIN) -> Any:
    """The message signed by its member (or another)."""
    return signed(message, PAIRS[message.member if member is None else member].sign, chain_id)


def signatures(statement: bytes, members: tuple[int, ...] = (0, 1, 2)) -> tuple[tuple[int, bytes], ...]:
    return tuple((member, PAIRS[member].sign(statement)) for member in members)


def certify(plain: Any, members: tuple[int, ...] = (0, 1, 2)) -> Any:
    """A certificate or timeout certificate with signatures of `members`."""
    return replace(plain, signatures=signatures(plain.statement(CHAIN), members))


def proposal(height: int, label: str = "") -> Proposal:
    return Proposal(height, 1_000, (hash_bytes(label.encode()),) if label else ())


def prepared(height: int, view: int, label: str = "a", members: tuple[int, ...] = (0, 1, 2)) -> Prepared:
    chosen = proposal(height, label)
    return Prepared(chosen, certify(Certificate(EPOCH, view, height, Phase.PREPARE, chosen.digest, ()), members))


def checkpoint(height: int, members: tuple[int, ...] = (0, 1, 2)) -> CheckpointCertificate:
    made: CheckpointCertificate = certify(CheckpointCertificate(EPOCH, height, DIGEST, DIGEST, DIGEST, ()), members)
    return made


def vote(
    member: int = 0, phase: Phase = Phase.PREPARE, height: int = 105, view: int = 3, digest: bytes = DIGEST
) -> Vote:
    made: Vote = sign(Vote(EPOCH, view, height, phase, digest, member))
    return made


def pre_prepare(member: int = 3, height: int = 105, view: int = 3) -> PrePrepare:
    chosen = proposal(height, "a")
    return PrePrepare(chosen, vote(member, Phase.PREPARE, height, view, chosen.digest))


def checkpoint_vote(member: int = 0, height: int = 110, state: bytes = DIGEST) -> CheckpointVote:
    made: CheckpointVote = sign(CheckpointVote(EPOCH, height, DIGEST, state, DIGEST, member))
    return made


def view_change(
    member: int,
    view: int = 6,
    stable: CheckpointCertificate | None = None,
    locks: tuple[Prepared, ...] = (),
) -> ViewChange:
    made: ViewChange = sign(ViewChange(EPOCH, view, stable, locks, member))
    return made


def new_view(view: int = 6, changes: tuple[ViewChange, ...] | None = None) -> NewView:
    """By the leader of the view; as a default with a checkpoint and a lock inside."""
    if changes is None:
        stable = checkpoint(110)
        locks = (prepared(111, 4), prepared(113, 5, "b"))
        changes = (view_change(0, view, stable, locks), view_change(1, view), view_change(3, view, stable))
    made: NewView = sign(compose(changes, BASE, FOUR.leader(view)))
    return made


def timeout() -> TimeoutCertificate:
    made: TimeoutCertificate = certify(TimeoutCertificate(EPOCH, 5, ()))
    return made


def every_message() -> dict[str, Any]:
    """One of each kind, all signatures good."""
    return {
        "pre-prepare": pre_prepare(),
        "prepare": vote(1),
        "commit": vote(1, Phase.COMMIT),
        "checkpoint": checkpoint_vote(2),
        "suspect": sign(Suspect(EPOCH, 5, 1)),
        "timeout": timeout(),
        "view-change": view_change(1, 6, checkpoint(110), (prepared(111, 4),)),
        "new-view": new_view(),
        "status": Status(EPOCH, 5, True, 111, 110),
        "prepared": prepared(111, 4),
    }


# Any value of a message's form, true or not: for the encoding, which knows nothing of truth.
HEIGHTS = st.integers(0, 2**63 - 1) | st.sampled_from([0, 127, 128, 255, 256, 2**32, 2**63 - 1])
HASHES = st.binary(max_size=4).map(hash_bytes)
MEMBERS = st.integers(0, 127)
SIGNATURES = st.binary(min_size=65, max_size=65)
SIGNATURE_LISTS = st.lists(st.tuples(MEMBERS, SIGNATURES), max_size=5, unique_by=lambda item: item[0]).map(
    lambda items: tuple(sorted(items))
)
PHASES = st.sampled_from(Phase)
PROPOSALS = st.builds(Proposal, HEIGHTS, HEIGHTS, st.lists(HASHES, unique=True, max_size=4).map(tuple), st.booleans())
VOTES = st.builds(Vote, HEIGHTS, HEIGHTS, HEIGHTS, PHASES, HASHES, MEMBERS, SIGNATURES)
PRE_PREPARES = st.builds(
    lambda chosen, one: PrePrepare(
        chosen, replace(one, phase=Phase.PREPARE, height=chosen.height, digest=chosen.digest)
    ),
    PROPOSALS,
    VOTES,
)
CHECKPOINTS = st.builds(CheckpointCertificate, HEIGHTS, HEIGHTS, HASHES, HASHES, HASHES, SIGNATURE_LISTS)
LOCKS = st.builds(
    lambda chosen, epoch, view, listed: Prepared(
        chosen, Certificate(epoch, view, chosen.height, Phase.PREPARE, chosen.digest, listed)
    ),
    PROPOSALS,
    HEIGHTS,
    HEIGHTS,
    SIGNATURE_LISTS,
)
VIEW_CHANGES = st.builds(
    ViewChange, HEIGHTS, HEIGHTS, st.none() | CHECKPOINTS, st.lists(LOCKS, max_size=3).map(tuple), MEMBERS, SIGNATURES
)


def _new_view_of(
    epoch: int,
    view: int,
    changes: list[ViewChange],
    stable: CheckpointCertificate | None,
    member: int,
    signature: bytes,
) -> NewView:
    claims = tuple(replace(change.claim, epoch=epoch, view=view) for change in changes)
    return NewView(epoch, view, claims, stable, changes[0].prepared if changes else (), member, signature)


RECORDS = st.one_of(
    VOTES,
    PRE_PREPARES,
    st.builds(CheckpointVote, HEIGHTS, HEIGHTS, HASHES, HASHES, HASHES, MEMBERS, SIGNATURES),
    st.builds(Suspect, HEIGHTS, HEIGHTS, MEMBERS, SIGNATURES),
    st.builds(TimeoutCertificate, HEIGHTS, HEIGHTS, SIGNATURE_LISTS),
    VIEW_CHANGES,
    st.builds(
        _new_view_of, HEIGHTS, HEIGHTS, st.lists(VIEW_CHANGES, max_size=2), st.none() | CHECKPOINTS, MEMBERS, SIGNATURES
    ),
    st.builds(Status, HEIGHTS, HEIGHTS, st.booleans(), HEIGHTS, HEIGHTS),
    LOCKS,
)
