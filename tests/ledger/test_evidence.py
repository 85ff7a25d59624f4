"""Evidence convicts whoever signed two statements for one place, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.block import Phase, checkpoint_statement, vote_statement
from ledger.codec import encode
from ledger.crypto import KeyPair, hash_bytes
from ledger.errors import CodecError, EvidenceRefused
from ledger.evidence import (
    EVIDENCE_SIZE_BYTES_MAX,
    Culprit,
    Evidence,
    Half,
    Offence,
    check_evidence,
    new_view_statement,
    view_change_statement,
)
from ledger.validators import ValidatorSet

CHAIN, OTHER_CHAIN = hash_bytes(b"chain"), hash_bytes(b"other chain")
PAIRS = sorted((KeyPair.from_seed(bytes([number]) * 32) for number in range(1, 6)), key=lambda pair: pair.public)
EPOCH = 3
FOUR = ValidatorSet.create(EPOCH, 10, [pair.public for pair in PAIRS[:4]])
A, B, C = (hash_bytes(letter) for letter in (b"a", b"b", b"c"))
PLACES: dict[Offence, tuple[int, ...]] = {
    Offence.VOTE: (1, 12, int(Phase.COMMIT)),
    Offence.CHECKPOINT: (20,),
    Offence.VIEW_CHANGE: (7,),
    Offence.NEW_VIEW: (7,),
}
CONTENTS = dict.fromkeys(Offence, ((A,), (B,))) | {Offence.CHECKPOINT: ((A, B, C), (A, C, C))}


def half(
    offence: Offence,
    content: tuple[bytes, ...],
    *,
    place: tuple[int, ...] | None = None,
    member: int = 2,
    epoch: int = EPOCH,
    chain_id: bytes = CHAIN,
) -> Half:
    """What a member signed, its statement spelt out here on purpose and not by the code under test."""
    place = PLACES[offence] if place is None else place
    tail: tuple[Any, ...] = (*place, *content)
    name = {
        Offence.VOTE: "vote/1",
        Offence.CHECKPOINT: "checkpoint/1",
        Offence.VIEW_CHANGE: "view-change/2",
        Offence.NEW_VIEW: "new-view/2",
    }[offence]
    return Half(content, PAIRS[member].sign(encode((f"medchain/{name}", chain_id, epoch, *tail))))


def evidence(offence: Offence, **of_second: Any) -> Evidence:
    """Against member 2; `of_second` says where the second statement was really signed."""
    one, other = CONTENTS[offence]
    return Evidence.of(offence, EPOCH, 2, PLACES[offence], half(offence, one), half(offence, other, **of_second))


def convicts(wire: bytes, validators: ValidatorSet = FOUR, chain_id: bytes = CHAIN) -> bool:
    try:
        check_evidence(chain_id, validators, wire)
    except (CodecError, EvidenceRefused):
        return False
    return True


def test_the_statements_are_those_of_votes_checkpoints_and_view_changes() -> None:
    assert vote_statement(CHAIN, 3, 1, 12, Phase.COMMIT, A) == encode(("medchain/vote/1", CHAIN, 3, 1, 12, 2, A))
    assert checkpoint_statement(CHAIN, 3, 20, A, B, C) == encode(("medchain/checkpoint/1", CHAIN, 3, 20, A, B, C))
    assert view_change_statement(CHAIN, 3, 7, A) == encode(("medchain/view-change/2", CHAIN, 3, 7, A))
    assert new_view_statement(CHAIN, 3, 7, A) == encode(("medchain/new-view/2", CHAIN, 3, 7, A))


@pytest.mark.parametrize("offence", Offence)
def test_two_statements_for_one_place_convict_their_signer(offence: Offence) -> None:
    """Trap 48."""
    made = evidence(offence)
    assert Evidence.decode(made.wire) == made
    assert check_evidence(CHAIN, FOUR, made.wire) == Culprit(PAIRS[2].public, EPOCH, 2, offence)
    assert len(made.wire) <= EVIDENCE_SIZE_BYTES_MAX


@pytest.mark.parametrize("offence", Offence)
def test_a_pair_has_one_encoding_whichever_half_was_seen_first(offence: Offence) -> None:
    one, other = CONTENTS[offence]
    halves = half(offence, one), half(offence, other)
    first = Evidence.of(offence, EPOCH, 2, PLACES[offence], *halves)
    assert first == Evidence.of(offence, EPOCH, 2, PLACES[offence], *reversed(halves))
    turned = replace(first, first=first.second, second=first.first)
    assert not convicts(turned.wire)


@pytest.mark.parametrize("offence", Offence)
def test_the_same_statement_twice_is_no_evidence(offence: Offence) -> None:
    """Trap 48. Members repeat themselves after a restart, and whenever a peer seems to lack something."""
    said = half(offence, CONTENTS[offence][0])
    assert not convicts(Evidence(offence, EPOCH, 2, PLACES[offence], said, said).wire)
    with pytest.raises(AssertionError):
        Evidence.of(offence, EPOCH, 2, PLACES[offence], said, said)


ELSEWHERE: list[tuple[str, Offence, dict[str, Any]]] = [
    ("other height", Offence.VOTE, {"place": (1, 13, 2)}),
    ("other view", Offence.VOTE, {"place": (2, 12, 2)}),
    ("other phase", Offence.VOTE, {"place": (1, 12, 1)}),
    ("other checkpoint", Offence.CHECKPOINT, {"place": (30,)}),
    ("later view change", Offence.VIEW_CHANGE, {"place": (8,)}),
    ("later new view", Offence.NEW_VIEW, {"place": (8,)}),
]
ANYWHERE_ELSE: list[tuple[str, dict[str, Any]]] = [
    ("other epoch", {"epoch": 4}),
    ("other chain", {"chain_id": OTHER_CHAIN}),
    ("other member", {"member": 1}),
]
ELSEWHERE += [(label, offence, change) for offence, (label, change) in product(Offence, ANYWHERE_ELSE)]


@pytest.mark.parametrize(("label", "offence", "where"), ELSEWHERE)
def test_what_was_signed_elsewhere_cannot_be_put_in(label: str, offence: Offence, where: dict[str, Any]) -> None:
    """Trap 48."""
    assert not convicts(evidence(offence, **where).wire), label


def test_a_statement_of_one_kind_is_none_of_another() -> None:
    said = half(Offence.VIEW_CHANGE, (A,))
    assert not convicts(Evidence.of(Offence.NEW_VIEW, EPOCH, 2, (7,), said, half(Offence.NEW_VIEW, (B,))).wire)


@pytest.mark.parametrize("offence", Offence)
def test_forgeries_strangers_and_other_sets_are_refused(offence: Offence) -> None:
    """Trap 48."""
    made = evidence(offence)
    forged = replace(made.second, signature=made.second.signature[:-1] + bytes([made.second.signature[-1] ^ 1]))
    assert not convicts(replace(made, second=forged).wire)
    assert not convicts(replace(made, second=replace(made.second, signature=b"\x01" + bytes(64))).wire)
    assert not convicts(replace(made, member=1).wire)
    assert not convicts(replace(made, member=4).wire)
    assert not convicts(made.wire, chain_id=OTHER_CHAIN)
    assert not convicts(made.wire, ValidatorSet.create(EPOCH + 1, 10, FOUR.keys))
    removed = ValidatorSet.create(EPOCH, 10, [pair.public for pair in (PAIRS[0], PAIRS[1], PAIRS[3], PAIRS[4])])
    assert not convicts(made.wire, removed)


MALFORMED: list[Callable[[list[Any]], None]] = [
    lambda items: items.__setitem__(0, "medchain/evidence/2"),
    lambda items: items.__setitem__(1, 0),
    lambda items: items.__setitem__(1, 5),
    lambda items: items.__setitem__(1, True),
    lambda items: items.__setitem__(1, int(Offence.CHECKPOINT)),
    lambda items: items.__setitem__(2, -1),
    lambda items: items.__setitem__(2, 2**63),
    lambda items: items.__setitem__(3, 128),
    lambda items: items.__setitem__(3, True),
    lambda items: items.__setitem__(4, ()),
    lambda items: items.__setitem__(4, (1, 12)),
    lambda items: items.__setitem__(4, (1, 12, 3)),
    lambda items: items.__setitem__(4, (1, 12, True)),
    lambda items: items.__setitem__(4, (-1, 12, 2)),
    lambda items: items.__setitem__(5, ()),
    lambda items: items.__setitem__(5, (A,)),
    lambda items: items.__setitem__(5, (A, b"x" * 65, A)),
    lambda items: items.__setitem__(5, (A[:-1], bytes(65))),
    lambda items: items.__setitem__(5, (A, bytes(64))),
    lambda items: items.append(0),
    lambda items: items.pop(),
]


@pytest.mark.parametrize("spoil", MALFORMED)
def test_malformed_evidence_is_refused_before_any_signature_is_checked(spoil: Callable[[list[Any]], None]) -> None:
    """Traps 34, 35."""
    made = evidence(Offence.VOTE)
    items: list[Any] = [
        "medchain/evidence/1", 1, made.epoch, 2, made.place, made.first.to_value(), made.second.to_value(),
    ]  # fmt: skip
    assert encode(tuple(items)) == made.wire
    spoil(items)
    checked: list[bytes] = []

    def note(key: bytes, statement: bytes, signature: bytes) -> bool:
        checked.append(key)
        return True

    with pytest.raises(CodecError):
        check_evidence(CHAIN, FOUR, encode(tuple(items)), note)
    assert not checked


@pytest.mark.parametrize("offence", Offence)
def test_the_largest_evidence_fits_its_limit(offence: Offence) -> None:
    """Trap 37."""
    most = 2**63 - 1
    place = (most, most, 2) if offence is Offence.VOTE else (most,)
    one, other = (Half(content, b"\x01" + bytes(64)) for content in CONTENTS[offence])
    wire = Evidence.of(offence, most, 127, place, one, other).wire
    assert len(wire) <= EVIDENCE_SIZE_BYTES_MAX
    assert Evidence.decode(wire).wire == wire
    with pytest.raises(CodecError):
        Evidence.decode(bytes(EVIDENCE_SIZE_BYTES_MAX + 1))


@given(offence=st.sampled_from(Offence), position=st.integers(0, 400), bit=st.integers(0, 7))
def test_no_flipped_bit_leaves_an_evidence_that_convicts(offence: Offence, position: int, bit: int) -> None:
    wire = bytearray(evidence(offence).wire)
    wire[position % len(wire)] ^= 1 << bit
    assert not convicts(bytes(wire))


# A small world of an honest member: at most one content for each place, signed once or often.
HONEST = st.dictionaries(
    st.one_of(
        st.tuples(
            st.just(Offence.VOTE),
            st.integers(2, 3),
            st.tuples(st.integers(0, 1), st.integers(12, 13), st.sampled_from((1, 2))),
        ),
        st.tuples(
            st.sampled_from([Offence.CHECKPOINT, Offence.VIEW_CHANGE, Offence.NEW_VIEW]),
            st.integers(2, 3),
            st.tuples(st.integers(7, 8)),
        ),
    ),
    st.sampled_from((A, B)),
    min_size=2,
    max_size=6,
)


@given(HONEST)
def test_nothing_an_honest_member_signed_can_be_combined_to_convict_it(said: dict[Any, bytes]) -> None:
    """Trap 48. Every pair of its statements, put at either's place, as either's kind."""
    signed_halves = []
    for (offence, epoch, place), letter in said.items():
        content = (letter,) * len(CONTENTS[offence][0])
        signed_halves.append((offence, epoch, place, half(offence, content, place=place, epoch=epoch)))
    for (offence, epoch, place, one), (_, _, _, other) in product(signed_halves, repeat=2):
        first, second = sorted((one, other), key=lambda item: item.content)
        wire = Evidence(offence, epoch, 2, place, first, second).wire
        assert not convicts(wire, ValidatorSet.create(epoch, 10, FOUR.keys))


@pytest.mark.parametrize("n", range(4, 14))
def test_two_certificates_for_one_place_convict_at_least_f_plus_one(n: int) -> None:
    """Trap 48. Whoever holds both blocks of a fork names the culprits, however little the two quorums overlap; nobody
    who signed one of them only can be named.
    """
    pairs = sorted((KeyPair.from_seed(bytes([number]) * 32) for number in range(1, n + 1)), key=lambda one: one.public)
    validators = ValidatorSet.create(EPOCH, 1, [pair.public for pair in pairs])
    quorums = range(validators.quorum), range(n - validators.quorum, n)
    signed = [
        {member: pairs[member].sign(vote_statement(CHAIN, EPOCH, 1, 12, Phase.COMMIT, digest)) for member in members}
        for digest, members in zip((A, B), quorums, strict=True)
    ]
    guilty: list[int] = []
    for member in range(n):
        halves = [Half((digest,), one.get(member, bytes(65))) for digest, one in zip((A, B), signed, strict=True)]
        wire = Evidence.of(Offence.VOTE, EPOCH, member, (1, 12, int(Phase.COMMIT)), *halves).wire
        if convicts(wire, validators):
            guilty.append(member)
    assert guilty == [member for member in quorums[0] if member in quorums[1]]
    assert len(guilty) >= validators.f + 1
