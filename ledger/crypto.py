"""Keys, signatures and hashes: the only file that knows libsodium.

Every hash is 33 bytes (algorithm 0x01, SHA-256), every public key 33 (0x01, Ed25519), every signature 65 (0x01, then R
and S), so that other algorithms can join later. One rule says which signatures are valid, named in genesis as
`SIGNATURE_RULE`: libsodium's strict one (S below the group order, no small-order or non-canonical key or R). It holds
on every path; no other library may check a signature, or one crafted signature would split the chain.

A signature covers `public key || message`, and every message begins with a domain tag and the chain id
(docs/wire-format.md, section 2), so no signature is valid as another.

Must not know: randomness. Seeds are made by `node/keys.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from nacl import bindings
from nacl.exceptions import CryptoError

from ledger.errors import ConfigError, SignatureRefused

SIGNATURE_RULE = "ed25519-libsodium-strict"

ALGORITHM_ED25519 = b"\x01"
ALGORITHM_SHA256 = b"\x01"
HASH_SIZE_BYTES = 33
PUBLIC_KEY_SIZE_BYTES = 33
SIGNATURE_SIZE_BYTES = 65
SEED_SIZE_BYTES = 32

_sign_open = bindings.crypto_sign_open


def hash_bytes(data: bytes) -> bytes:
    """SHA-256 with its algorithm id in front: 33 bytes."""
    return ALGORITHM_SHA256 + sha256(data).digest()


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An Ed25519 key pair; `repr` shows the public half only."""

    seed: bytes = field(repr=False)
    public: bytes
    _secret: bytes = field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """The pair of a 32-byte secret seed (RFC 8032, 5.1.5)."""
        if len(seed) != SEED_SIZE_BYTES:
            raise ValueError(f"a seed has {SEED_SIZE_BYTES} bytes, not {len(seed)}")
        public, secret = bindings.crypto_sign_seed_keypair(seed)
        return cls(seed=seed, public=ALGORITHM_ED25519 + public, _secret=secret)

    def sign(self, message: bytes) -> bytes:
        """65 bytes over `public || message`; deterministic (RFC 8032)."""
        signed: bytes = bindings.crypto_sign(self.public + message, self._secret)
        return ALGORITHM_ED25519 + signed[:64]


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` over `public || message` is valid under the chain's one rule. Wrong lengths are invalid."""
    if len(signature) != SIGNATURE_SIZE_BYTES or signature[:1] != ALGORITHM_ED25519:
        return False
    return verify_joined(signature + public + message)


def verify_joined(wire: bytes) -> bool:
    """The same over the wire layout `signature(65) || public(33) || message`, as transactions travel."""
    if len(wire) < SIGNATURE_SIZE_BYTES + PUBLIC_KEY_SIZE_BYTES:
        return False
    if wire[0] != 1 or wire[SIGNATURE_SIZE_BYTES] != 1:
        return False
    try:
        _sign_open(wire[1:], wire[66:98])
    except (CryptoError, ValueError):
        return False
    return True


def check_public_key(public: bytes) -> None:
    """Raise SignatureRefused unless `public` is a canonical point of the prime-order group.

    To be called when a key is *registered*: verification alone lets a key of mixed order accept one forgery in eight.
    """
    if len(public) != PUBLIC_KEY_SIZE_BYTES or public[:1] != ALGORITHM_ED25519:
        raise SignatureRefused("not an Ed25519 public key")
    if not bindings.crypto_core_ed25519_is_valid_point(public[1:]):
        raise SignatureRefused("not a point of the prime-order group")


_SELF_TEST_KEY = "018139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394"  # of the seed 02 02 ...
_SELF_TEST = (  # a case for each point in which libraries differ, of tests/vectors/signatures.json
    ("a valid one", True, "979b82856e67871cb997e079df60ac246c465744aa47ca889e0abc848557b02e"
     "a513a00d8c72efb62848246fafc037bd846bdcabd386af5220b84924222ef10d"),
    ("S above the group order", False, "979b82856e67871cb997e079df60ac246c465744aa47ca889e0abc848557b02e"
     "92e7956aa6d5010fffe41b128eba16d2846bdcabd386af5220b84924222ef11d"),
    ("R of mixed order", False, "213d82ce8c3b10723b6544d23d12a8d10983680955c05161e827452ba41ed9fd"
     "68ee839460f0cdc78d50e03dd2481f6e76abbb63e2d8998be9f23a0cbe245f05"),
    ("R of small order", False, "0100000000000000000000000000000000000000000000000000000000000000"
     "866b43f8e03eeb5e33c25217e81edf7314bf435953c1f56e9ddc75bdab4e0f09"),
)  # fmt: skip


def self_test() -> None:
    """Raise ConfigError unless this machine's libsodium signs and judges as the chain's rule says.

    A node with another build would go on until one crafted signature parts it from the others.
    """
    key, message = bytes.fromhex(_SELF_TEST_KEY), b"message"
    for what, valid, signature in _SELF_TEST:
        if verify(key, message, ALGORITHM_ED25519 + bytes.fromhex(signature)) != valid:
            said = "refuses" if valid else "accepts"
            raise ConfigError(f"the libsodium found here {said} {what}: not the rule {SIGNATURE_RULE} of this chain")
    if KeyPair.from_seed(bytes([2]) * SEED_SIZE_BYTES).sign(message)[1:].hex() != _SELF_TEST[0][2]:
        raise ConfigError(f"the libsodium found here signs otherwise than the rule {SIGNATURE_RULE} of this chain says")
