"""Keys, signatures and hashes, against a second implementation and against what attackers craft."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import crypto
from ledger.block import Phase, checkpoint_statement, vote_statement
from ledger.crypto import KeyPair, check_public_key, hash_bytes, verify, verify_joined
from ledger.errors import ConfigError, SignatureRefused
from ledger.transaction import Transaction
from tests.ledger import ed25519

SEED = b"\x11" * 32
PAIR = KeyPair.from_seed(SEED)
CHAIN, OTHER_CHAIN, DIGEST = hash_bytes(b"chain"), hash_bytes(b"other chain"), hash_bytes(b"digest")
SMALL_ORDER = ed25519.small_order_encodings()

# RFC 8032, section 7.1: seed, public key, message, signature of TEST 1, 2, 3 and TEST SHA(abc).
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
        "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_signatures_are_those_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    """The plain vectors through the second implementation, then ours against it: the key is signed with the message."""
    seed_bytes, message_bytes = bytes.fromhex(seed), bytes.fromhex(message)
    assert ed25519.public_key(seed_bytes).hex() == public
    assert ed25519.sign(seed_bytes, message_bytes).hex() == signature
    pair = KeyPair.from_seed(seed_bytes)
    assert pair.public == b"\x01" + bytes.fromhex(public)
    assert pair.sign(message_bytes) == b"\x01" + ed25519.sign(seed_bytes, pair.public + message_bytes)
    assert verify(pair.public, message_bytes, pair.sign(message_bytes))
    assert not verify(pair.public, message_bytes, b"\x01" + bytes.fromhex(signature)), "the key is part of the message"
    check_public_key(pair.public)


def test_hashes_are_sha_256_with_an_algorithm_id() -> None:
    assert hash_bytes(b"abc") == b"\x01" + sha256(b"abc").digest()
    assert len(hash_bytes(b"")) == crypto.HASH_SIZE_BYTES


def test_every_flipped_bit_of_a_signature_key_or_message_is_refused() -> None:
    wire = PAIR.sign(b"hello") + PAIR.public + b"hello"
    assert verify_joined(wire)
    for position in range(8 * len(wire)):
        broken = bytearray(wire)
        broken[position // 8] ^= 1 << position % 8
        assert not verify_joined(bytes(broken)), position


@pytest.mark.parametrize("length", [0, 1, 64, 65, 66, 97])
def test_a_wire_too_short_for_key_and_signature_is_refused(length: int) -> None:
    """Trap 35."""
    assert not verify_joined((PAIR.sign(b"") + PAIR.public)[:length])
    assert not verify_joined(b"\x01" * length)


def test_wrong_lengths_and_algorithms_are_invalid_and_no_error() -> None:
    """Trap 35."""
    signature = PAIR.sign(b"m")
    for wrong in (b"", signature[:-1], signature + b"\x00", b"\x02" + signature[1:], signature[1:]):
        assert not verify(PAIR.public, b"m", wrong)
    for key in (b"", PAIR.public[:-1], PAIR.public + b"\x00", b"\x02" + PAIR.public[1:], PAIR.public[1:]):
        assert not verify(key, b"m", signature)
        with pytest.raises(SignatureRefused):
            check_public_key(key)


def test_s_at_or_over_the_group_order_is_refused() -> None:
    """Trap 42. S + L verifies wherever S is not compared with L, and would give a transaction a second id."""
    signature = PAIR.sign(b"m")
    s = int.from_bytes(signature[33:], "little")
    for larger in range(s + ed25519.L, 2**256, ed25519.L):
        assert not verify(PAIR.public, b"m", signature[:33] + larger.to_bytes(32, "little"))
    zero_key = b"\x01" + SMALL_ORDER[2]
    assert not verify(zero_key, b"m", b"\x01" + SMALL_ORDER[2] + ed25519.L.to_bytes(32, "little"))


def test_all_fourteen_small_order_encodings_are_known() -> None:
    canonical = {(y | s << 255) for y in range(2) for s in range(2)}
    assert len(set(SMALL_ORDER)) == 14
    assert canonical <= {int.from_bytes(encoding, "little") for encoding in SMALL_ORDER}


@pytest.mark.parametrize("encoding", SMALL_ORDER, ids=lambda encoding: encoding.hex())
def test_keys_of_small_order_verify_nothing_and_cannot_be_registered(encoding: bytes) -> None:
    """Trap 42. For such a key anyone makes signatures: R = S·B satisfies the equation for every eighth message."""
    key = b"\x01" + encoding
    with pytest.raises(SignatureRefused):
        check_public_key(key)
    for number in range(1, 17):
        r = ed25519.encode_point(ed25519.multiply(8, ed25519.BASE))
        assert not verify(key, bytes([number]), b"\x01" + r + (8).to_bytes(32, "little"))


@pytest.mark.parametrize("encoding", SMALL_ORDER, ids=lambda encoding: encoding.hex())
def test_signatures_with_r_of_small_order_are_refused(encoding: bytes) -> None:
    """Trap 42. Batch and single verification elsewhere disagree about exactly these."""
    for number in range(8):
        message = bytes([number])
        forged = ed25519.sign_with_r(SEED, PAIR.public + message, encoding)
        assert not verify(PAIR.public, message, b"\x01" + forged)


def test_the_equation_is_checked_without_the_cofactor() -> None:
    """Trap 42. Builds of libsodium that multiply by the cofactor would accept these, and split the chain."""
    for number in range(8):
        message = bytes([number])
        crafted = ed25519.sign_with_mixed_r(SEED, PAIR.public + message)
        assert not verify(PAIR.public, message, b"\x01" + crafted)


def test_a_key_of_mixed_order_cannot_be_registered() -> None:
    """Trap 42. Verification alone lets one signature in eight pass for such a key, so it must never come in."""
    point = ed25519.multiply(ed25519.expand(SEED)[0], ed25519.BASE)
    mixed = ed25519.encode_point(ed25519.add(point, ed25519.order_eight()))
    key = b"\x01" + mixed
    with pytest.raises(SignatureRefused):
        check_public_key(key)
    messages = [bytes([number]) for number in range(40)]
    passing = sum(verify(key, message, b"\x01" + ed25519.sign(SEED, key + message, mixed)) for message in messages)
    assert 0 < passing < len(messages), "else this test would not show why registration checks"


def test_keys_that_are_no_point_or_not_canonical_cannot_be_registered() -> None:
    """Trap 42."""
    for y in (2, ed25519.P + 3, 2**255 - 1):
        with pytest.raises(SignatureRefused):
            check_public_key(b"\x01" + y.to_bytes(32, "little"))


def statements() -> dict[str, bytes]:
    """Everything a member might sign, differing in one thing each."""
    base = (CHAIN, 1, 2, 3, Phase.PREPARE, DIGEST)
    return {
        "prepare": vote_statement(*base),
        "commit": vote_statement(CHAIN, 1, 2, 3, Phase.COMMIT, DIGEST),
        "another chain": vote_statement(OTHER_CHAIN, 1, 2, 3, Phase.PREPARE, DIGEST),
        "another epoch": vote_statement(CHAIN, 2, 2, 3, Phase.PREPARE, DIGEST),
        "another view": vote_statement(CHAIN, 1, 3, 3, Phase.PREPARE, DIGEST),
        "another height": vote_statement(CHAIN, 1, 2, 4, Phase.PREPARE, DIGEST),
        "epoch and view exchanged": vote_statement(CHAIN, 2, 1, 3, Phase.PREPARE, DIGEST),
        "another digest": vote_statement(CHAIN, 1, 2, 3, Phase.PREPARE, CHAIN),
        "checkpoint": checkpoint_statement(CHAIN, 1, 3, DIGEST, DIGEST, DIGEST),
        "transaction": Transaction.create(PAIR, CHAIN, "a.b", (), nonce=bytes(16), valid_until=3).wire[98:],
    }


@pytest.mark.parametrize("name", statements())
def test_a_signature_is_valid_for_its_own_statement_only(name: str) -> None:
    """Trap 41. Chain, kind, epoch, view, height and phase are all inside what is signed."""
    known = statements()
    signature = PAIR.sign(known[name])
    assert [other for other, statement in known.items() if verify(PAIR.public, statement, signature)] == [name]


def test_a_signature_is_valid_for_its_own_key_only() -> None:
    """Trap 41. The signer's key is signed too."""
    other = KeyPair.from_seed(b"\x12" * 32)
    assert not verify(other.public, b"m", PAIR.sign(b"m"))
    assert PAIR.sign(b"m") != other.sign(b"m")


def test_a_key_pair_does_not_show_its_secret() -> None:
    assert SEED.hex() not in repr(PAIR)
    assert repr(SEED) not in repr(PAIR)
    assert "_secret" not in repr(PAIR)
    with pytest.raises(ValueError, match="32 bytes"):
        KeyPair.from_seed(b"short")


@settings(max_examples=30)
@given(st.binary(max_size=200), st.binary(min_size=32, max_size=32))
def test_what_is_signed_verifies_the_same_on_both_paths(message: bytes, seed: bytes) -> None:
    """Trap 42."""
    pair = KeyPair.from_seed(seed)
    signature = pair.sign(message)
    assert verify(pair.public, message, signature)
    assert verify_joined(signature + pair.public + message)
    assert not verify(pair.public, message + b"\x00", signature)


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_random_bytes_are_no_signature_and_no_error(data: bytes) -> None:
    """Trap 35."""
    assert not verify_joined(data)
    assert not verify_joined(b"\x01" + data[:64].ljust(64) + PAIR.public + data)


def test_the_self_test_passes_here() -> None:
    crypto.self_test()


@pytest.mark.parametrize("position", range(4))
def test_the_self_test_names_a_library_that_judges_otherwise(position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 42. A build without libsodium's strict rule, or with the cofactor, is stopped at the start."""
    what, valid, signature = crypto._SELF_TEST[position]
    right = crypto.verify
    other = lambda key, message, made: right(key, message, made) != (made[1:].hex() == signature)  # noqa: E731
    monkeypatch.setattr(crypto, "verify", other)
    with pytest.raises(ConfigError, match=f"{'refuses' if valid else 'accepts'} {what}"):
        crypto.self_test()


def test_the_self_test_notices_another_way_to_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyPair, "sign", lambda pair, message: bytes(crypto.SIGNATURE_SIZE_BYTES))
    with pytest.raises(ConfigError, match="signs otherwise"):
        crypto.self_test()


def test_the_self_tests_cases_are_published_vectors() -> None:
    published = json.loads((Path(__file__).parents[1] / "vectors" / "signatures.json").read_text())
    for _, valid, signature in crypto._SELF_TEST:
        known = {one["signature"] for one in published["accepted" if valid else "refused"]}
        assert "01" + signature in known
