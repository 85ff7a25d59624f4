"""The encoding of consensus messages: exact, bounded, and refused as CodecError whatever a stranger sends."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.messages import (
    MESSAGE_DEPTH_MAX,
    MESSAGE_SIZE_BYTES_MAX,
    PREPARED_MAX,
    Kind,
    Prepared,
    Record,
    ViewChange,
    decode_message,
    decode_record,
    encode_message,
)
from consensus.newview import compose
from ledger.block import BLOCK_BATCHES_MAX, Certificate, CheckpointCertificate, Phase, Proposal
from ledger.codec import Value, decode, encode
from ledger.crypto import hash_bytes
from ledger.errors import Code, CodecError
from ledger.genesis import LOG_WINDOW_MAX
from ledger.validators import VALIDATORS_MAX, quorum
from p2p.frames import KINDS
from p2p.frames import Kind as FrameKind
from p2p.queues import OutQueue
from tests.consensus.samples import (
    CHAIN,
    DIGEST,
    OTHER_CHAIN,
    RECORDS,
    checkpoint,
    every_message,
    prepared,
    view_change,
)

MESSAGES = every_message()
Path = tuple[int, ...]


def value_of(message: Record) -> Any:
    return decode(encode_message(message), size_bytes_max=1 << 22, depth_max=MESSAGE_DEPTH_MAX, items_max=1 << 16)


def paths(value: Value, here: Path = ()) -> Iterator[tuple[Path, Value]]:
    """Every part of a value, with where it is."""
    yield here, value
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from paths(item, (*here, index))


def replaced(value: Any, path: Path, new: Value) -> Any:
    if not path:
        return new
    index = path[0]
    return (*value[:index], replaced(value[index], path[1:], new), *value[index + 1 :])


@given(RECORDS)
def test_every_message_survives_its_encoding(message: Record) -> None:
    """Trap 40."""
    data = encode_message(message)
    again = decode_record(data)
    assert again == message
    assert type(again) is type(message)
    assert encode_message(again) == data
    if isinstance(message, Prepared):
        with pytest.raises(CodecError):
            decode_message(data)
    else:
        assert decode_message(data) == message


@pytest.mark.parametrize("name", MESSAGES)
def test_samples_survive_their_encoding(name: str) -> None:
    assert decode_record(encode_message(MESSAGES[name])) == MESSAGES[name]


HOSTILE: list[Value] = [
    *(None, True, False, -1, 0, 1, 2, 3, 127, 128, 2**31, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
    *(
        b"",
        bytes(32),
        bytes(33),
        bytes(65),
        bytes(66),
        b"\x01" * 33,
        "",
        "1",
        "\u0000",
        (),
        (None,),
        ((),),
        (0, bytes(65)),
    ),
]


@pytest.mark.parametrize("name", MESSAGES)
def test_hostile_values_anywhere_in_a_message_are_refused_or_harmless(name: str) -> None:
    """Trap 8, 11, 34, 35. Nothing but CodecError comes out; what is accepted has this one encoding."""
    value = value_of(MESSAGES[name])
    accepted = 0
    for path, _ in paths(value):
        for hostile in HOSTILE:
            data = encode(replaced(value, path, hostile))
            try:
                message = decode_record(data)
            except CodecError:
                continue
            assert encode_message(message) == data, (path, hostile)
            accepted += 1
    assert accepted, "some of these are other messages of the same form"


@pytest.mark.parametrize("name", MESSAGES)
def test_integers_outside_their_range_are_refused_wherever_they_stand(name: str) -> None:
    """Trap 11, 35. Heights, views, epochs, times, phases and members alike; a boolean is no integer."""
    value = value_of(MESSAGES[name])
    for path, part in paths(value):
        if type(part) is int:
            for hostile in (-1, 2**63, 2**64 - 1, -(2**63), True, False, None, "1"):
                with pytest.raises(CodecError):
                    decode_record(encode(replaced(value, path, hostile)))


@pytest.mark.parametrize("name", MESSAGES)
def test_hashes_and_signatures_of_another_length_are_refused(name: str) -> None:
    """Trap 35."""
    value = value_of(MESSAGES[name])
    for path, part in paths(value):
        if type(part) is bytes:
            for hostile in (b"", part[:-1], part + b"\x00", part.hex()):
                with pytest.raises(CodecError):
                    decode_record(encode(replaced(value, path, hostile)))


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_cannot_be_left_out_or_added(name: str) -> None:
    """Trap 35, 40."""
    value = value_of(MESSAGES[name])
    for path, part in paths(value):
        if isinstance(part, tuple) and len(part) >= 2 and type(part[0]) is not tuple:
            for other in (part[:-1], (*part, 0), (*part, None), part[1:]):
                if path or len(other) != 2:
                    with pytest.raises(CodecError):
                        decode_record(encode(replaced(value, path, other)))


@pytest.mark.parametrize("name", MESSAGES)
def test_a_member_index_is_below_the_largest_set(name: str) -> None:
    """Trap 35."""
    message = MESSAGES[name]
    if hasattr(message, "member") and name != "pre-prepare":
        decode_record(encode_message(replace(message, member=VALIDATORS_MAX - 1)))
        with pytest.raises(CodecError):
            decode_record(encode_message(replace(message, member=VALIDATORS_MAX)))


@pytest.mark.parametrize("kind", [0, 10, -1, 255, 2**63, True, None, "2", b"\x02", (), (2,)])
def test_unknown_kinds_are_refused(kind: Value) -> None:
    """Trap 35."""
    content = value_of(MESSAGES["prepare"])[1]
    decode_message(encode((int(Kind.VOTE), content)))
    with pytest.raises(CodecError):
        decode_message(encode((kind, content)))


def test_content_of_one_kind_is_no_other_kind() -> None:
    """Trap 41."""
    for message in MESSAGES.values():
        kind, content = value_of(message)
        for other in Kind:
            if other != kind:
                with pytest.raises(CodecError):
                    decode_record(encode((int(other), content)))


@settings(max_examples=150)
@given(st.binary(max_size=120))
def test_random_bytes_are_refused_as_malformed(data: bytes) -> None:
    """Trap 35."""
    for wire in (data, b"\x92\x02" + data, b"\x92\x06\x96" + data):
        try:
            assert encode_message(decode_record(wire)) == wire
        except CodecError:
            continue


@settings(max_examples=150)
@given(st.sampled_from(sorted(MESSAGES)), st.data())
def test_damaged_messages_are_refused_or_other_messages(name: str, data: st.DataObject) -> None:
    """Trap 35, 40. Bytes changed, cut out, repeated."""
    wire = bytearray(encode_message(MESSAGES[name]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(wire) - 1))
        match data.draw(st.sampled_from("xdr")):
            case "x":
                wire[at] = data.draw(st.integers(0, 255))
            case "d":
                del wire[at : at + data.draw(st.integers(1, 40))]
            case _:
                wire[at:at] = wire[at : at + data.draw(st.integers(1, 40))]
        if not wire:
            return
    try:
        message = decode_record(bytes(wire))
    except CodecError:
        return
    assert encode_message(message) == wire


def test_a_message_over_the_size_limit_is_refused_unread() -> None:
    """Trap 34, 37."""
    with pytest.raises(CodecError) as caught:
        decode_message(bytes(MESSAGE_SIZE_BYTES_MAX + 1))
    assert caught.value.code == Code.TOO_LARGE


def test_a_message_of_very_many_items_is_refused_before_memory_is_taken() -> None:
    """Trap 34."""
    data = b"\x92\x07\xdd" + (MESSAGE_SIZE_BYTES_MAX - 16).to_bytes(4, "big") + b"\x90" * (MESSAGE_SIZE_BYTES_MAX - 16)
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode_message(data)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


MOST = 2**63 - 1
QUORUM_MAX = quorum(VALIDATORS_MAX)


def largest_lock(height: int) -> Prepared:
    """A full proposal, every integer in its longest form, and a quorum of the largest set."""
    chosen = Proposal(height, MOST, tuple(hash_bytes(b"%d" % number) for number in range(BLOCK_BATCHES_MAX)), True)
    signatures = tuple((member, b"\x01" + bytes(64)) for member in range(VALIDATORS_MAX - QUORUM_MAX, VALIDATORS_MAX))
    return Prepared(chosen, Certificate(MOST, MOST - 1, height, Phase.PREPARE, chosen.digest, signatures))


def test_the_largest_view_change_and_the_largest_new_view_fit_a_frame() -> None:
    """Trap 37. Every height of the longest log locked, all members as many as there may be, all claims different."""
    base = MOST - LOG_WINDOW_MAX - 1
    locks = tuple(largest_lock(height) for height in range(base + 1, base + 1 + LOG_WINDOW_MAX))
    signatures = locks[0].certificate.signatures
    stable = CheckpointCertificate(MOST, base, DIGEST, DIGEST, DIGEST, signatures)
    members = range(VALIDATORS_MAX - QUORUM_MAX, VALIDATORS_MAX)
    changes = tuple(ViewChange(MOST, MOST, stable, locks, member, b"\x01" + bytes(64)) for member in members)
    message = replace(compose(changes, base - 1, VALIDATORS_MAX - 1), signature=b"\x01" + bytes(64))
    assert len(message.claims) == QUORUM_MAX
    assert len(message.prepared) == LOG_WINDOW_MAX
    for largest in (changes[0], message):
        data = encode_message(largest)
        assert len(data) <= MESSAGE_SIZE_BYTES_MAX == KINDS[FrameKind.VOTE].size_bytes_max
        assert OutQueue().put(FrameKind.VOTE, data)
        assert decode_message(data) == largest
    # docs/protocol.md, section 9.
    assert len(encode_message(message)) <= size_bytes_max(VALIDATORS_MAX, LOG_WINDOW_MAX)
    assert size_bytes_max(VALIDATORS_MAX, LOG_WINDOW_MAX) <= MESSAGE_SIZE_BYTES_MAX
    assert size_bytes_max(64, 64) <= MESSAGE_SIZE_BYTES_MAX // 5


def size_bytes_max(n: int, log_window: int) -> int:
    """The formula of docs/protocol.md, section 9."""
    return (60 * log_window + 100) * quorum(n) + (69 * quorum(n) + 2_400) * (log_window + 1)


def test_the_number_of_locks_and_view_changes_is_bounded() -> None:
    """Trap 33, 34."""
    lock = replace(prepared(111, 4), certificate=replace(prepared(111, 4).certificate, signatures=()))
    change = replace(view_change(0), prepared=(lock,) * PREPARED_MAX)
    assert decode_message(encode_message(change)) == change
    with pytest.raises(CodecError):
        decode_message(encode_message(replace(change, prepared=(lock,) * (PREPARED_MAX + 1))))
    new = replace(MESSAGES["new-view"], claims=MESSAGES["new-view"].claims[:1] * VALIDATORS_MAX)
    assert decode_message(encode_message(new)) == new
    claim = replace(new.claims[0], locks=((111, 4, DIGEST),) * (PREPARED_MAX + 1))
    for many in (
        replace(new, claims=new.claims[:1] * (VALIDATORS_MAX + 1)),
        replace(new, claims=(claim,)),
        replace(new, prepared=(lock,) * (PREPARED_MAX + 1)),
    ):
        with pytest.raises(CodecError):
            decode_message(encode_message(many))


def test_a_proposal_and_the_vote_beside_it_cannot_differ() -> None:
    """Trap 8. Digests are derived from what they stand for, never taken from a field."""
    message = MESSAGES["pre-prepare"]
    lock = MESSAGES["prepared"]
    wrong: list[Record] = [
        replace(message, vote=replace(message.vote, digest=DIGEST)),
        replace(message, vote=replace(message.vote, height=106)),
        replace(message, vote=replace(message.vote, phase=Phase.COMMIT)),
        replace(message, proposal=replace(message.proposal, time_ms=7)),
        replace(lock, certificate=replace(lock.certificate, digest=DIGEST)),
        replace(lock, certificate=replace(lock.certificate, height=112)),
        replace(lock, certificate=replace(lock.certificate, phase=Phase.COMMIT)),
        replace(lock, proposal=replace(lock.proposal, batches=())),
    ]
    for one in wrong:
        with pytest.raises(CodecError):
            decode_record(encode_message(one))


def test_no_two_statements_are_alike() -> None:
    """Trap 41. Kind, chain, epoch, view, height, phase and content are all in what is signed."""
    statements: list[bytes] = []
    for name in ("prepare", "commit", "checkpoint", "suspect", "view-change", "new-view"):
        inner = MESSAGES[name]
        statements += [inner.statement(CHAIN), inner.statement(OTHER_CHAIN)]
        changes = {"epoch": 9, "view": 9, "height": 9, "digest": CHAIN, "state_root": CHAIN, "block_hash": CHAIN}
        changes |= {"results_hash": CHAIN, "claims": ()}
        if name == "view-change":
            changes |= {"prepared": (), "stable": None}
        for field, other in changes.items():
            if field in getattr(inner, "__dataclass_fields__", {}):
                statements.append(replace(inner, **{field: other}).statement(CHAIN))
    assert len(set(statements)) == len(statements) > 30


def test_suspicions_are_the_signatures_of_a_timeout_certificate() -> None:
    suspect, timeout = MESSAGES["suspect"], MESSAGES["timeout"]
    assert suspect.statement(CHAIN) == timeout.statement(CHAIN)


def test_a_view_changes_content_hash_covers_everything_it_claims() -> None:
    """Trap 8. The new leader signs these hashes, so it cannot alter what it was given."""
    plain = MESSAGES["view-change"]
    lock = plain.prepared[0]
    others = [
        replace(plain, stable=None),
        replace(plain, stable=checkpoint(111)),
        replace(plain, prepared=()),
        replace(plain, prepared=(lock, prepared(112, 4))),
        replace(plain, prepared=(prepared(112, 4),)),
        replace(plain, prepared=(prepared(111, 5),)),
        replace(plain, prepared=(prepared(111, 4, "b"),)),
    ]
    assert len({one.content_hash for one in (plain, *others)}) == len(others) + 1
    assert plain.content_hash == hash_bytes(encode((plain.stable.height, ((111, 4, lock.proposal.digest),))))


def test_which_votes_prove_a_claim_changes_nothing_that_is_signed() -> None:
    """Trap 43. Certificates are sets: a view change shown with other signatures is the same view change."""
    plain = MESSAGES["view-change"]
    for other in (
        replace(plain, stable=checkpoint(110, (0, 1, 3))),
        replace(plain, prepared=(prepared(111, 4, "a", (0, 1, 3)),)),
    ):
        assert other.content_hash == plain.content_hash
    new = MESSAGES["new-view"]
    assert replace(new, stable=checkpoint(110, (0, 1, 3))).statement(CHAIN) == new.statement(CHAIN)
