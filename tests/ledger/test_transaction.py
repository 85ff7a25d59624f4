"""Transactions and batches on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import merkle
from ledger.codec import Value, encode
from ledger.crypto import KeyPair, hash_bytes, verify_joined
from ledger.errors import Code, CodecError, Reject
from ledger.transaction import (
    BATCH_SIZE_BYTES_MAX,
    BATCH_TXS_MAX,
    TX_SIZE_BYTES_MAX,
    TX_TAG,
    Batch,
    Transaction,
    check_admissible,
)

PAIR = KeyPair.from_seed(b"\x21" * 32)
CHAIN, OTHER = hash_bytes(b"chain"), hash_bytes(b"other")
NONCE = bytes(range(16))
BODY: tuple[Value, ...] = (TX_TAG, CHAIN, "drugs.ship", 1, ("a", 2), NONCE, 7)

FIELDS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text("añ文", max_size=20),
    lambda inner: st.lists(inner, max_size=5).map(tuple),
    max_leaves=12,
).filter(lambda value: depth_of(value) <= 5)


def depth_of(value: Value) -> int:
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, tuple) else 0


def transaction(number: int = 0, size_bytes: int = 0, valid_until: int = 7) -> Transaction:
    nonce = number.to_bytes(16, "big")
    return Transaction.create(PAIR, CHAIN, "drugs.ship", (bytes(size_bytes),), nonce=nonce, valid_until=valid_until)


def wire_of(body: Value) -> bytes:
    data = encode(body)
    return PAIR.sign(data) + PAIR.public + data


def refused(wire: bytes) -> Code:
    with pytest.raises(CodecError) as caught:
        Transaction.decode(wire)
    return caught.value.code


@settings(max_examples=50)
@given(st.lists(FIELDS, max_size=6), st.binary(min_size=16, max_size=16), st.integers(0, 2**63 - 1))
def test_what_is_signed_is_what_is_decoded(fields: list[Value], nonce: bytes, valid_until: int) -> None:
    """Trap 40."""
    tx = Transaction.create(PAIR, CHAIN, "a.b", fields, nonce=nonce, valid_until=valid_until, version=65_535)
    assert Transaction.decode(tx.wire) == tx
    assert verify_joined(tx.wire)
    assert (tx.sender, tx.chain_id, tx.fields, tx.nonce) == (PAIR.public, CHAIN, tuple(fields), nonce)
    assert (tx.operation, tx.version, tx.valid_until) == ("a.b", 65_535, valid_until)
    assert tx.id == merkle.leaf_hash(tx.wire)
    assert tx.replay_key == PAIR.public + nonce


@settings(max_examples=60)
@given(st.data())
def test_an_altered_wire_is_refused_or_has_another_id_and_a_bad_signature(data: st.DataObject) -> None:
    """Trap 40. An id has one preimage."""
    tx = transaction()
    wire = bytearray(tx.wire)
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = Transaction.decode(bytes(wire))
    except CodecError:
        return
    assert other.id != tx.id
    assert not verify_joined(other.wire)


@pytest.mark.parametrize("length", [0, 1, 97, 98])
def test_a_wire_without_a_body_is_refused(length: int) -> None:
    """Trap 35."""
    refused(transaction().wire[:length])


@pytest.mark.parametrize("cut", [1, 2, 17])
def test_a_truncated_body_is_refused(cut: int) -> None:
    refused(transaction().wire[:-cut])


def test_trailing_bytes_and_long_forms_are_refused() -> None:
    """Trap 40."""
    wire = transaction().wire
    assert refused(wire + b"\x00") == Code.MALFORMED
    assert wire.endswith(b"\x07")
    assert refused(wire[:-1] + b"\xcc\x07") == Code.NOT_CANONICAL


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, "medchain/tx/2"),
        (0, TX_TAG.encode()),
        (0, None),
        (1, CHAIN[:-1]),
        (1, CHAIN.hex()),
        (2, b"drugs.ship"),
        (3, 0),
        (3, -1),
        (3, 2**16),
        (3, True),
        (3, "1"),
        (4, None),
        (4, "fields"),
        (5, NONCE[:-1]),
        (5, NONCE + b"\x00"),
        (5, 7),
        (6, -1),
        (6, 2**63),
        (6, 2**64 - 1),
        (6, True),
        (6, None),
    ],
)
def test_a_body_with_a_field_out_of_form_is_refused(position: int, value: Value) -> None:
    """Trap 11, 35."""
    assert Transaction.decode(wire_of(BODY)).valid_until == 7
    refused(wire_of((*BODY[:position], value, *BODY[position + 1 :])))


@pytest.mark.parametrize("body", [None, (), BODY[:-1], (*BODY, 0), BODY[0], (BODY,)])
def test_a_body_that_is_not_seven_fields_is_refused(body: Any) -> None:
    refused(wire_of(body))


def test_the_size_limit_is_exact_and_comes_first() -> None:
    """Trap 37."""
    room = TX_SIZE_BYTES_MAX - len(transaction(size_bytes=40_000).wire) + 40_000
    assert len(transaction(size_bytes=room).wire) == TX_SIZE_BYTES_MAX
    with pytest.raises(CodecError) as caught:
        transaction(size_bytes=room + 1)
    assert caught.value.code == Code.TOO_LARGE
    assert refused(bytes(TX_SIZE_BYTES_MAX + 1)) == Code.TOO_LARGE


def test_a_nonce_of_another_length_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Transaction.create(PAIR, CHAIN, "a.b", (), nonce=b"short", valid_until=1)


@pytest.mark.parametrize(
    ("height", "valid_until", "code"),
    [
        (7, 7, None),
        (8, 7, Code.EXPIRED),
        (1, 101, None),
        (1, 102, Code.VALIDITY_TOO_LONG),
        (1, 2**63 - 1, Code.VALIDITY_TOO_LONG),
    ],
)
def test_a_transaction_is_admissible_inside_its_window_only(height: int, valid_until: int, code: Code | None) -> None:
    tx = transaction(valid_until=valid_until)
    if code is None:
        return check_admissible(tx, CHAIN, height, 100)
    with pytest.raises(Reject) as caught:
        check_admissible(tx, CHAIN, height, 100)
    assert caught.value.code == code
    return None


def test_a_transaction_of_another_chain_is_not_admissible() -> None:
    """Trap 41."""
    with pytest.raises(Reject) as caught:
        check_admissible(transaction(), OTHER, 1, 100)
    assert caught.value.code == Code.WRONG_CHAIN


def test_a_batch_survives_its_encoding_and_its_digest_covers_ids_in_order() -> None:
    transactions = [transaction(number) for number in range(5)]
    batch = Batch(tuple(tx.wire for tx in transactions))
    again = Batch.decode(batch.wire)
    assert again == batch
    assert again.transactions == tuple(transactions)
    assert again.tx_ids == tuple(tx.id for tx in transactions)
    assert again.digest == batch.digest == merkle.root([tx.id for tx in transactions])
    assert Batch(batch.wires[::-1]).digest != batch.digest
    assert Batch(batch.wires[:-1]).digest != batch.digest


def test_one_malformed_transaction_makes_the_whole_batch_malformed() -> None:
    batch = Batch.decode(encode((transaction().wire, b"junk")))
    with pytest.raises(CodecError):
        _ = batch.transactions


@pytest.mark.parametrize("value", [(), None, 1, b"wire", ("text",), (1,), ((b"wire",),), (b"wire", None)])
def test_what_is_no_list_of_wires_is_no_batch(value: Any) -> None:
    """Trap 35."""
    with pytest.raises(CodecError):
        Batch.decode(encode(value))


def test_batch_limits_are_exact() -> None:
    """Trap 34, 37."""
    assert len(Batch.decode(encode((b"",) * BATCH_TXS_MAX)).wires) == BATCH_TXS_MAX
    with pytest.raises(CodecError):
        Batch.decode(encode((b"",) * (BATCH_TXS_MAX + 1)))
    full = encode((bytes(BATCH_SIZE_BYTES_MAX - 6),))
    assert len(full) == BATCH_SIZE_BYTES_MAX
    Batch.decode(full)
    with pytest.raises(CodecError) as caught:
        Batch.decode(full + b"\x00")
    assert caught.value.code == Code.TOO_LARGE
    with pytest.raises(CodecError):
        Batch.decode(encode(tuple(b"%06d" % number for number in range(BATCH_TXS_MAX + 1))))
