"""Proposals, headers, receipts and the certificates that prove them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import merkle
from ledger.block import (
    BLOCK_BATCHES_MAX,
    BLOCK_SIZE_BYTES_MAX,
    CERTIFICATE_SIZE_BYTES_MAX,
    PROPOSAL_SIZE_BYTES_MAX,
    Certificate,
    CertifiedBlock,
    CheckpointCertificate,
    Header,
    Phase,
    Proposal,
    Receipt,
    Signatures,
    decode_certified,
    decode_value,
    encode_certified,
    next_results_hash,
    receipts_root,
    signatures_from_value,
)
from ledger.codec import Value, decode, encode
from ledger.crypto import KeyPair, hash_bytes
from ledger.errors import CodecError
from ledger.transaction import Batch, Transaction
from ledger.validators import VALIDATORS_MAX, ValidatorSet

CHAIN, OTHER_CHAIN = hash_bytes(b"chain"), hash_bytes(b"other chain")
PAIRS = sorted((KeyPair.from_seed(bytes([number]) * 32) for number in range(1, 6)), key=lambda pair: pair.public)
FOUR = ValidatorSet.create(3, 10, [pair.public for pair in PAIRS[:4]])
FIVE = ValidatorSet.create(3, 10, [pair.public for pair in PAIRS])
DIGEST = hash_bytes(b"digest")
HEIGHTS = st.integers(0, 2**63 - 1)
HASHES = st.binary(max_size=8).map(hash_bytes)

NOT_HEIGHTS = [-1, 2**63, 2**64 - 1, True, None, "1", b"1", ()]
NOT_HASHES = [DIGEST[:-1], DIGEST + b"\x00", b"", DIGEST.hex(), 1, None, True]


def certificate(members: tuple[int, ...] = (0, 1, 2), **changed: Any) -> Certificate:
    """Commit signatures of `members` for DIGEST at height 12, over a statement in which `changed` differs."""
    plain = Certificate(3, 1, 12, Phase.COMMIT, DIGEST, ())
    statement = replace(plain, **changed).statement(changed.get("chain_id", CHAIN))
    return replace(plain, signatures=tuple((member, PAIRS[member].sign(statement)) for member in members))


def checkpoint(members: tuple[int, ...] = (0, 1, 2)) -> CheckpointCertificate:
    plain = CheckpointCertificate(3, 12, DIGEST, CHAIN, OTHER_CHAIN, ())
    return replace(plain, signatures=tuple((member, PAIRS[member].sign(plain.statement(CHAIN))) for member in members))


def refused(make: Callable[[Value], object], value: Any) -> None:
    with pytest.raises(CodecError):
        make(value)


def each_replaced(value: tuple[Value, ...], position: int, others: list[Any]) -> list[tuple[Value, ...]]:
    return [(*value[:position], other, *value[position + 1 :]) for other in others]


@given(HEIGHTS, HEIGHTS, st.lists(HASHES, unique=True, max_size=5), st.booleans())
def test_proposals_survive_their_encoding(height: int, time_ms: int, batches: list[bytes], seal: bool) -> None:
    """Trap 40."""
    proposal = Proposal(height, time_ms, tuple(batches), seal)
    again = Proposal.from_value(decode(proposal.wire, size_bytes_max=PROPOSAL_SIZE_BYTES_MAX))
    assert again == proposal
    assert again.digest == hash_bytes(encode(("medchain/proposal/1", height, time_ms, tuple(batches), seal)))


def test_everything_in_a_proposal_enters_its_digest() -> None:
    proposals = [
        Proposal(1, 2, (DIGEST,)),
        Proposal(2, 2, (DIGEST,)),
        Proposal(1, 3, (DIGEST,)),
        Proposal(1, 2, ()),
        Proposal(1, 2, (DIGEST,), seal=True),
        Proposal.null(1),
    ]
    assert len({proposal.digest for proposal in proposals}) == len(proposals)
    assert Proposal.null(5) == Proposal(5, 0, (), False)


def test_what_is_no_proposal_is_refused() -> None:
    """Trap 11, 35."""
    value = Proposal(1, 2, (DIGEST,)).to_value()
    many = tuple(hash_bytes(bytes([number])) for number in range(BLOCK_BATCHES_MAX + 1))
    wrong = [
        None,
        (),
        value[:-1],
        (*value, 0),
        *each_replaced(value, 0, NOT_HEIGHTS),
        *each_replaced(value, 1, NOT_HEIGHTS),
        *each_replaced(value, 2, [None, DIGEST, (DIGEST, DIGEST), many, *((bad,) for bad in NOT_HASHES)]),
        *each_replaced(value, 3, [None, 0, 1, "true"]),
    ]
    for one in wrong:
        refused(Proposal.from_value, one)
    full = Proposal(1, 2, many[:-1])
    assert Proposal.from_value(decode(full.wire, size_bytes_max=PROPOSAL_SIZE_BYTES_MAX)) == full


@pytest.mark.parametrize("members", [(0, 1, 2), (0, 1, 3), (1, 2, 3), (0, 1, 2, 3)])
def test_any_quorum_makes_a_valid_certificate_and_none_changes_a_hash(members: tuple[int, ...]) -> None:
    """Trap 43. Certificates are sets: the header knows nothing of them."""
    known = certificate(members)
    assert known.valid(CHAIN, FOUR)
    assert Certificate.from_value(known.to_value()) == known
    block = CertifiedBlock(Proposal(12, 5, ()), known, ())
    header = Header(12, 3, DIGEST, block.proposal.digest, 5, 0)
    assert header.hash(CHAIN) == Header(12, 3, DIGEST, Proposal(12, 5, ()).digest, 5, 0).hash(CHAIN)
    assert checkpoint(members).valid(CHAIN, FOUR)


@pytest.mark.parametrize(
    "changed",
    [
        {"epoch": 2},
        {"view": 2},
        {"height": 13},
        {"phase": Phase.PREPARE},
        {"digest": CHAIN},
    ],
    ids=str,
)
def test_signatures_for_another_statement_make_no_certificate(changed: dict[str, Any]) -> None:
    """Trap 41, 43. Another epoch, view, height, phase or digest."""
    assert not certificate(**changed).valid(CHAIN, FOUR)
    assert not replace(certificate(), **changed).valid(CHAIN, FOUR)


def test_a_certificate_is_valid_on_its_chain_and_for_its_set_only() -> None:
    """Trap 3, 41."""
    known = certificate()
    assert known.valid(CHAIN, FOUR)
    assert not known.valid(OTHER_CHAIN, FOUR)
    assert not known.valid(CHAIN, replace(FOUR, epoch=4))
    assert not known.valid(CHAIN, replace(FOUR, keys=FOUR.keys[::-1]))
    assert not known.valid(CHAIN, FIVE), "three of five are no quorum"
    assert certificate((0, 1, 2, 3)).valid(CHAIN, FIVE)
    assert not certificate((0, 1, 2, 4)).valid(CHAIN, FOUR), "index 4 is no member of four"
    assert not checkpoint().valid(OTHER_CHAIN, FOUR)
    assert not checkpoint().valid(CHAIN, replace(FOUR, epoch=4))


def padded(signatures: Signatures) -> list[Signatures]:
    bad = b"\x01" + bytes(64)
    return [
        signatures[:2],
        (),
        (*signatures[:2], signatures[1]),
        (*signatures, signatures[-1]),
        (signatures[0], *signatures),
        signatures[::-1],
        (signatures[0], signatures[2], signatures[1]),
        (*signatures, (3, bad)),
        (*signatures[:2], (3, bad)),
        (*signatures[:2], (3, signatures[2][1])),
        (*signatures[:2], (-1, signatures[2][1])),
        ((-2, signatures[2][1]), *signatures[:2]),
        (*signatures, (4, PAIRS[4].sign(b"stranger"))),
    ]


@pytest.mark.parametrize("case", range(13))
def test_certificates_short_padded_repeated_or_out_of_order_are_refused(case: int) -> None:
    """Trap 35, 43. One bad signature spoils a certificate even where a quorum of good ones remains."""
    known, vouched = certificate(), checkpoint()
    assert not replace(known, signatures=padded(known.signatures)[case]).valid(CHAIN, FOUR)
    assert not replace(vouched, signatures=padded(vouched.signatures)[case]).valid(CHAIN, FOUR)


def test_every_signature_of_a_certificate_is_checked() -> None:
    """Trap 7, 43."""
    known = certificate((0, 1, 2, 3))
    for position, (member, signature) in enumerate(known.signatures):
        broken = list(known.signatures)
        broken[position] = (member, signature[:40] + bytes([signature[40] ^ 1]) + signature[41:])
        assert not replace(known, signatures=tuple(broken)).valid(CHAIN, FOUR)


SIGNATURE = b"\x01" + bytes(64)


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        (0, SIGNATURE),
        ((0, SIGNATURE), (0, SIGNATURE)),
        ((1, SIGNATURE), (0, SIGNATURE)),
        ((-1, SIGNATURE),),
        ((VALIDATORS_MAX, SIGNATURE),),
        ((2**63 - 1, SIGNATURE),),
        ((2**64 - 1, SIGNATURE),),
        ((False, SIGNATURE),),
        ((True, SIGNATURE),),
        ((0, SIGNATURE[:-1]),),
        ((0, SIGNATURE + b"\x00"),),
        ((0, "a" * 65),),
        ((0, SIGNATURE, 0),),
        ((0,),),
        ((None, SIGNATURE),),
        tuple((number, SIGNATURE) for number in range(VALIDATORS_MAX + 1)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_lists_of_signatures_are_distinct_ordered_and_within_range(value: Any) -> None:
    """Trap 35, 43."""
    refused(signatures_from_value, value)


def test_the_largest_certificate_fits_its_limit() -> None:
    """Trap 37."""
    signatures = tuple((number, SIGNATURE) for number in range(VALIDATORS_MAX))
    top = 2**63 - 1
    known = Certificate(top, top, top, Phase.COMMIT, DIGEST, signatures)
    data = encode(known.to_value())
    assert len(data) <= CERTIFICATE_SIZE_BYTES_MAX
    assert Certificate.from_value(decode_value(data, CERTIFICATE_SIZE_BYTES_MAX)) == known
    vouched = CheckpointCertificate(top, top, DIGEST, DIGEST, DIGEST, signatures)
    data = encode(vouched.to_value())
    assert len(data) <= CERTIFICATE_SIZE_BYTES_MAX
    assert CheckpointCertificate.from_value(decode_value(data, CERTIFICATE_SIZE_BYTES_MAX)) == vouched


def test_what_is_no_certificate_is_refused() -> None:
    """Trap 11, 35, 40. The phase is 1 or 2 and not `true`, which would be a second encoding of 1."""
    value = certificate().to_value()
    wrong = [None, (), value[:-1], (*value, 0)]
    for position in (0, 1, 2):
        wrong += each_replaced(value, position, NOT_HEIGHTS)
    wrong += each_replaced(value, 3, [0, 3, True, None, "1", -1, 2**64 - 1])
    wrong += each_replaced(value, 4, NOT_HASHES) + each_replaced(value, 5, [None, 0, ((0, b""),)])
    for one in wrong:
        refused(Certificate.from_value, one)
    other = checkpoint().to_value()
    wrong = [None, (), other[:-1], (*other, 0), *each_replaced(other, 0, NOT_HEIGHTS)]
    wrong += each_replaced(other, 1, NOT_HEIGHTS) + each_replaced(other, 5, [None, 0])
    for position in (2, 3, 4):
        wrong += each_replaced(other, position, NOT_HASHES)
    for one in wrong:
        refused(CheckpointCertificate.from_value, one)


def test_headers_survive_their_encoding_and_everything_enters_their_hash() -> None:
    """Trap 41."""
    header = Header(5, 1, CHAIN, DIGEST, 7, 2)
    assert Header.from_value(header.to_value()) == header
    others = [
        replace(header, height=6),
        replace(header, epoch=2),
        replace(header, parent_hash=DIGEST),
        replace(header, proposal_digest=CHAIN),
        replace(header, time_ms=8),
        replace(header, tx_count=3),
    ]
    assert len({one.hash(CHAIN) for one in (header, *others)} | {header.hash(OTHER_CHAIN)}) == 8
    value = header.to_value()
    for position in (0, 1, 4, 5):
        for one in each_replaced(value, position, NOT_HEIGHTS):
            refused(Header.from_value, one)
    for position in (2, 3):
        for one in each_replaced(value, position, NOT_HASHES):
            refused(Header.from_value, one)


@given(
    HASHES, st.integers(0, 99_999), st.lists(st.text("aé", max_size=9) | HEIGHTS | st.binary(max_size=9), max_size=8)
)
def test_receipts_survive_their_encoding(tx_id: bytes, code: int, detail: list[Any]) -> None:
    receipt = Receipt(tx_id, code, tuple(detail))
    data = encode(receipt.to_value())
    assert Receipt.from_value(decode(data, size_bytes_max=1024)) == receipt
    assert receipt.leaf() == merkle.leaf_hash(data)
    assert receipt.ok == (code == 0)


@pytest.mark.parametrize(
    "value",
    [
        None,
        (DIGEST, 0),
        (DIGEST[:-1], 0, ()),
        (DIGEST, True, ()),
        (DIGEST, -1, ()),
        (DIGEST, "0", ()),
        (DIGEST, 0, None),
        (DIGEST, 0, (None,)),
        (DIGEST, 0, (True,)),
        (DIGEST, 0, ((),)),
    ],
)
def test_what_is_no_receipt_is_refused(value: Any) -> None:
    """Trap 35."""
    refused(Receipt.from_value, value)


def test_results_chain_from_block_to_block() -> None:
    receipts = [Receipt(hash_bytes(bytes([number])), number) for number in range(3)]
    top = receipts_root(receipts)
    assert top == merkle.root([receipt.leaf() for receipt in receipts])
    chained = next_results_hash(DIGEST, 1, top)
    assert len({chained, next_results_hash(CHAIN, 1, top), next_results_hash(DIGEST, 2, top), top}) == 4


def block_of(*sizes: int) -> CertifiedBlock:
    batches = tuple(
        Batch(
            tuple(
                Transaction.create(
                    PAIRS[0], CHAIN, "a.b", (), nonce=bytes([index, number] + [0] * 14), valid_until=1
                ).wire
                for number in range(size)
            )
        )
        for index, size in enumerate(sizes)
    )
    proposal = Proposal(12, 5, tuple(batch.digest for batch in batches))
    return CertifiedBlock(proposal, replace(certificate(), digest=proposal.digest), batches)


@pytest.mark.parametrize("sizes", [(), (1,), (3, 1)])
def test_certified_blocks_survive_their_encoding(sizes: tuple[int, ...]) -> None:
    block = block_of(*sizes)
    again = decode_certified(encode_certified(block))
    assert again == block
    assert again.batches_match()
    assert again.height == 12


def test_other_batches_than_the_ordered_ones_do_not_match() -> None:
    """Trap 27."""
    block = block_of(2, 1)
    extra = block_of(1, 1).batches[0]
    for batches in (block.batches[::-1], block.batches[:1], (*block.batches, extra), (extra, block.batches[1]), ()):
        assert not replace(block, batches=batches).batches_match()


def test_what_is_no_certified_block_is_refused() -> None:
    """Trap 27, 34, 35, 37."""
    block = block_of(1)
    decoded: Any = decode(encode_certified(block), size_bytes_max=1 << 20)
    proposal, known, wires = decoded
    for value in (
        None,
        (),
        (proposal, known),
        (proposal, known, None),
        (proposal, known, ()),
        (proposal, known, (*wires, *wires)),
        (proposal, known, ("text",)),
        (proposal, known, (b"no batch",)),
        (known, known, wires),
        (proposal, proposal, wires),
    ):
        refused(decode_certified, encode(value))  # type: ignore[arg-type]
    refused(decode_certified, b"\xc6" + BLOCK_SIZE_BYTES_MAX.to_bytes(4, "big") + bytes(BLOCK_SIZE_BYTES_MAX))  # type: ignore[arg-type]


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_block_is_refused_as_such_or_is_another(data: st.DataObject) -> None:
    """Trap 35, 40."""
    wire = bytearray(encode_certified(block_of(2)))
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        block = decode_certified(bytes(wire))
    except CodecError:
        return
    assert encode_certified(block) == wire
    intact = block_of(2)
    assert not block.batches_match() or block.proposal != intact.proposal or block.certificate != intact.certificate
