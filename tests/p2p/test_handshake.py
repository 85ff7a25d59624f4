"""The handshake machines: what two honest sides agree on, and each reason to refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.codec import Value, encode
from ledger.crypto import KeyPair, hash_bytes
from p2p.errors import HandshakeRefused, Refusal
from p2p.frames import KINDS, Kind
from p2p.handshake import (
    Acceptor,
    Dialler,
    Established,
    Hello,
    Role,
    State,
    common_version,
    decode_reject,
    encode_reject,
)

CHAIN = hash_bytes(b"chain")
A, B, C = (KeyPair.from_seed(bytes([n]) * 32).public for n in (1, 2, 3))


def hello(key: bytes, chain_id: bytes = CHAIN) -> Hello:
    return Hello(
        chain_id=chain_id,
        key=key,
        role=Role.VALIDATOR,
        software="medchain/0.1.0",
        height=42,
        instance=b"i" * 16,
        challenge=key[1:17],
        host="node-1.example.org",
        port=7000,
    )


def nobody_refused(peer: Hello) -> Refusal | None:
    return None


def meet(dialler_hello: Hello, acceptor_hello: Hello) -> tuple[Established, Established]:
    dialler = Dialler(dialler_hello, expected_key=acceptor_hello.key, certificate_key=acceptor_hello.key)
    acceptor = Acceptor(acceptor_hello, certificate_key=dialler_hello.key, admit=nobody_refused)
    accepted, answer = acceptor.receive(Kind.HELLO, dialler.start())
    return dialler.receive(Kind.HELLO_ACK, answer), accepted


def refusal_of_hello(payload: bytes, kind: Kind = Kind.HELLO, *, certificate_key: bytes = A) -> Refusal:
    acceptor = Acceptor(hello(B), certificate_key=certificate_key, admit=nobody_refused)
    with pytest.raises(HandshakeRefused) as caught:
        acceptor.receive(kind, payload)
    assert acceptor.state is State.REFUSED
    assert not caught.value.by_peer
    return caught.value.reason


def refusal_of_answer(value: Value, kind: Kind = Kind.HELLO_ACK) -> HandshakeRefused:
    dialler = Dialler(hello(A), expected_key=B, certificate_key=B)
    dialler.start()
    with pytest.raises(HandshakeRefused) as caught:
        dialler.receive(kind, encode(value))
    assert dialler.state is State.REFUSED
    return caught.value


def test_honest_sides_agree() -> None:
    dialled, accepted = meet(hello(A), hello(B))
    assert dialled == Established(hello(B), 1)
    assert accepted == Established(hello(A), 1)


def test_hello_fits_its_limit_with_the_longest_fields() -> None:
    longest = replace(hello(A), software="s" * 32, host="h" * 253, height=2**63 - 1, port=65_535)
    payload = encode(longest.to_value())
    assert len(encode((1, b"c" * 16, longest.to_value()))) <= KINDS[Kind.HELLO_ACK].size_bytes_max
    assert len(payload) <= KINDS[Kind.HELLO].size_bytes_max
    assert meet(longest, hello(B))[1].peer == longest


def test_fields_of_later_versions_are_ignored() -> None:
    later = replace(hello(A), version_max=3)
    acceptor = Acceptor(hello(B), certificate_key=A, admit=nobody_refused)
    established, _ = acceptor.receive(Kind.HELLO, encode((*later.to_value(), "new", (1, 2))))
    assert established.version == 1
    assert established.peer == later


@pytest.mark.parametrize(("peer_min", "peer_max"), [(2, 2), (2, 9)])
def test_versions_that_do_not_meet_are_refused_whatever_else_is_in_the_hello(peer_min: int, peer_max: int) -> None:
    assert refusal_of_hello(encode((peer_min, peer_max, "nothing we know"))) is Refusal.VERSION


def test_common_version_is_the_highest_both_speak() -> None:
    assert common_version(1, 7) == 1


def test_wrong_chain_is_refused_by_both_sides() -> None:
    other = hash_bytes(b"another chain")
    assert refusal_of_hello(encode(hello(A, other).to_value())) is Refusal.WRONG_CHAIN
    answer = (1, hello(A).challenge, hello(B, other).to_value())
    assert refusal_of_answer(answer).reason is Refusal.WRONG_CHAIN


def test_key_other_than_the_certificates_is_refused_by_both_sides() -> None:
    assert refusal_of_hello(encode(hello(A).to_value()), certificate_key=C) is Refusal.KEY_MISMATCH
    assert refusal_of_answer((1, hello(A).challenge, hello(C).to_value())).reason is Refusal.KEY_MISMATCH


def test_node_other_than_the_one_dialled_is_refused() -> None:
    dialler = Dialler(hello(A), expected_key=B, certificate_key=C)
    dialler.start()
    with pytest.raises(HandshakeRefused, match="KEY_MISMATCH"):
        dialler.receive(Kind.HELLO_ACK, encode((1, hello(A).challenge, hello(C).to_value())))


def test_own_key_is_refused() -> None:
    assert refusal_of_hello(encode(hello(B).to_value()), certificate_key=B) is Refusal.SELF


def test_answer_to_another_hello_is_refused() -> None:
    assert refusal_of_answer((1, b"x" * 16, hello(B).to_value())).reason is Refusal.MALFORMED


def test_version_other_than_agreed_is_refused() -> None:
    assert refusal_of_answer((2, hello(A).challenge, hello(B).to_value())).reason is Refusal.VERSION


@pytest.mark.parametrize("reason", [Refusal.NOT_MEMBER, Refusal.DUPLICATE, Refusal.BUSY])
def test_admission_refuses_with_its_own_reason(reason: Refusal) -> None:
    acceptor = Acceptor(hello(B), certificate_key=A, admit=lambda peer: reason)
    with pytest.raises(HandshakeRefused) as caught:
        acceptor.receive(Kind.HELLO, encode(hello(A).to_value()))
    assert caught.value.reason is reason


@pytest.mark.parametrize("reason", list(Refusal))
def test_reject_carries_its_reason_to_the_dialler(reason: Refusal) -> None:
    assert decode_reject(encode_reject(reason)) is reason
    refused = refusal_of_answer((int(reason),), Kind.REJECT)
    assert refused.reason is reason
    assert refused.by_peer


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", encode(()), encode((0,)), encode((999,)), encode(("x",)), b"\x90\x90"]
)
def test_unreadable_reject_counts_as_malformed(payload: bytes) -> None:
    """Trap 35."""
    assert decode_reject(payload) is Refusal.MALFORMED


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.HELLO])
def test_anything_before_hello_is_refused(kind: Kind) -> None:
    assert refusal_of_hello(encode(hello(A).to_value()), kind) is Refusal.MALFORMED


def test_anything_but_an_answer_is_refused_by_the_dialler() -> None:
    assert refusal_of_answer((1,), Kind.VOTE).reason is Refusal.MALFORMED


BAD_FIELDS: list[tuple[int, Value]] = [
    (0, 0),
    (0, None),
    (1, 0),
    (1, 70_000),
    (2, CHAIN[:32]),
    (2, None),
    (3, A + b"\x00"),
    (3, "key"),
    (4, 0),
    (4, 3),
    (5, "s" * 33),
    (5, "new\nline"),
    (5, b"bytes"),
    (6, -1),
    (6, 2**63),
    (6, 2**64 - 1),
    (7, b"short"),
    (8, b"c" * 17),
    (9, "h" * 254),
    (9, "user@host/path"),
    (9, "høst"),
    (10, -1),
    (10, 65_536),
    (10, None),
]


@pytest.mark.parametrize(("index", "value"), BAD_FIELDS)
def test_hello_with_a_field_out_of_range_is_refused(index: int, value: Value) -> None:
    """Trap 35: nil fields, unknown enumeration values and huge numbers are refusals, not crashes."""
    fields = list(hello(A).to_value())
    fields[index] = value
    assert refusal_of_hello(encode(tuple(fields))) is Refusal.MALFORMED


@pytest.mark.parametrize("length", range(11))
def test_hello_with_fields_missing_is_refused(length: int) -> None:
    assert refusal_of_hello(encode(hello(A).to_value()[:length])) is Refusal.MALFORMED


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(payload: bytes) -> None:
    refusal_of_hello(payload)


def test_oversized_hello_is_refused() -> None:
    assert refusal_of_hello(encode((*hello(A).to_value(), bytes(2_000)))) is Refusal.MALFORMED


def test_machines_are_used_once() -> None:
    dialler = Dialler(hello(A), expected_key=B, certificate_key=B)
    with pytest.raises(ValueError, match="once"):
        dialler.receive(Kind.HELLO_ACK, b"")
    payload = dialler.start()
    with pytest.raises(ValueError, match="once"):
        dialler.start()
    acceptor = Acceptor(hello(B), certificate_key=A, admit=nobody_refused)
    acceptor.receive(Kind.HELLO, payload)
    with pytest.raises(ValueError, match="once"):
        acceptor.receive(Kind.HELLO, payload)
