"""The custodian's vault: medical records stay here, encrypted; the chain holds only a salted commitment to each.

Lives here: sealing a record for its readers, opening it, re-wrapping it for one reader that was granted access, and the
folder that keeps sealed records. Plaintext never touches disk, log or exception text.

The sealed format, version 1, is canonical msgpack (ledger/codec.py):

    ["medchain/sealed/v1", commitment 33, wraps, nonce 24, ciphertext]
    wraps       [[recipient 33, box], ...] in ascending order of the recipient's public key, at least one
    box         libsodium sealed box to the recipient's key converted to X25519, of
                ["medchain/record-key/v1", commitment, content key 32, salt 32]
    ciphertext  XChaCha20-Poly1305 under the content key of ["medchain/record-body/v1", salt, media type, plaintext];
                associated data: ["medchain/sealed/v1", commitment, wraps], so that no part can be exchanged
    commitment  hash of ["medchain/record/v1", salt, hash of plaintext, media type]

The salt is as secret as the record: without it a commitment to a short record could be found by trying.

Must not know: the chain, FHIR, the network.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

from ledger.codec import Value, decode, encode
from ledger.crypto import HASH_SIZE_BYTES, PUBLIC_KEY_SIZE_BYTES, KeyPair, check_public_key, hash_bytes
from ledger.errors import CodecError, SignatureRefused
from storage.files import DRAFT_SUFFIX, replace, sync_folder

__all__ = [
    "AlreadyHeld",
    "BadRecipient",
    "Erased",
    "Malformed",
    "NotARecipient",
    "NotHeld",
    "OpenedRecord",
    "RecordTooLarge",
    "SealedRecord",
    "Tampered",
    "Vault",
    "VaultError",
    "VaultFull",
    "commitment_of",
    "open_record",
    "rewrap",
    "seal",
]

FORMAT: Final = "medchain/sealed/v1"
KEY_TAG: Final = "medchain/record-key/v1"
BODY_TAG: Final = "medchain/record-body/v1"
RECORD_TAG: Final = "medchain/record/v1"
TOMBSTONE_TAG: Final = "medchain/erased/v2"

KEY_SIZE_BYTES: Final = 32
SALT_SIZE_BYTES: Final = 32
NONCE_SIZE_BYTES: Final = 24
PLAINTEXT_SIZE_BYTES_MAX: Final = (
    16 * 1024 * 1024
)  # sealed and opened whole: this, a few times over, is the memory used
RECIPIENTS_MAX: Final = 64  # patient, custodian and a treating team; further readers get their own copy by rewrap
MEDIA_TYPE = re.compile(
    r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}(; ?[A-Za-z0-9-]{1,16}=[A-Za-z0-9._-]{1,32})?"
)
BOX_SIZE_BYTES: Final = len(encode((KEY_TAG, bytes(33), bytes(32), bytes(32)))) + bindings.crypto_box_SEALBYTES
HEADER_SIZE_BYTES_MAX: Final = 16 * 1024  # all before the ciphertext: 64 wraps of 220 bytes each, and some
SEALED_SIZE_BYTES_MAX: Final = PLAINTEXT_SIZE_BYTES_MAX + HEADER_SIZE_BYTES_MAX + 1024
VAULT_SIZE_BYTES_MAX: Final = 64 * 1024**3  # of one vault, unless told otherwise: a bug must not fill the node's disk


class VaultError(Exception):
    """Base of all below. No text of these ever holds anything of a record.

    VaultError
      RecordTooLarge  the plaintext exceeds PLAINTEXT_SIZE_BYTES_MAX (caller: split the record)
      BadRecipient    no recipient, too many, one twice, or not a public key of the prime-order group
      Malformed       the bytes are no sealed record of this format
      NotARecipient   the record is not sealed for this key
      Tampered        sealed for this key, but altered since
      NotHeld         this vault does not hold the record
      Erased          it held the record and erased it; it will not take it again
      AlreadyHeld     it holds other bytes under the same commitment
      VaultFull       its size limit would be passed
    """


class RecordTooLarge(VaultError):
    """The plaintext exceeds PLAINTEXT_SIZE_BYTES_MAX."""


class BadRecipient(VaultError):
    """The recipients cannot be sealed for."""


class Malformed(VaultError):
    """Not a sealed record of this format."""


class NotARecipient(VaultError):
    """The record is not sealed for this key."""


class Tampered(VaultError):
    """The record was altered after sealing."""


class NotHeld(VaultError):
    """This vault does not hold the record."""


class Erased(VaultError):
    """The record was erased here."""


class AlreadyHeld(VaultError):
    """Other bytes are held under the same commitment."""


class VaultFull(VaultError):
    """The vault's size limit would be passed."""


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A sealed record whose outer form is checked; nothing in it is secret but by its keys."""

    commitment: bytes
    recipients: tuple[bytes, ...]
    data: bytes = field(repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> SealedRecord:
        """Check the outer form of bytes from outside; Malformed. That it opens only a recipient can tell."""
        commitment, wraps, _nonce, _ciphertext = _parts(data)
        return cls(commitment, tuple(recipient for recipient, _box in wraps), data)


@dataclass(frozen=True, slots=True)
class OpenedRecord:
    """A record in clear, for the moment it is shown to someone with the right to read it."""

    plaintext: bytes = field(repr=False)
    media_type: str
    salt: bytes = field(repr=False)
    commitment: bytes


def commitment_of(plaintext: bytes, media_type: str, salt: bytes) -> bytes:
    """The 33 bytes that go on the chain: binding by the hash, hiding by the secret random salt."""
    return hash_bytes(encode((RECORD_TAG, salt, hash_bytes(plaintext), media_type)))


def seal(
    plaintext: bytes,
    *,
    media_type: str,
    recipients: Sequence[bytes],
    rng: Callable[[int], bytes] = secrets.token_bytes,
) -> SealedRecord:
    """Encrypt a record for its recipients (33-byte public keys), under a fresh key and salt.

    `rng` gives salt, content key and nonce, in this order; the sealed boxes' own keys are always libsodium's.
    """
    return _seal(plaintext, media_type, rng(SALT_SIZE_BYTES), recipients, rng)


def open_record(sealed: bytes, key: KeyPair) -> OpenedRecord:
    """Decrypt with one recipient's key and check the commitment. Malformed, NotARecipient, Tampered."""
    commitment, wraps, nonce, ciphertext = _parts(sealed)
    box = dict(wraps).get(key.public)
    if box is None:
        raise NotARecipient("the record is not sealed for this key")
    try:
        content_key, salt = _unwrap(box, key, commitment)
        body = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            ciphertext, _associated(commitment, wraps), nonce, content_key
        )
        value = decode(body, size_bytes_max=SEALED_SIZE_BYTES_MAX)
    except (CryptoError, CodecError):
        raise Tampered("the record was altered after it was sealed") from None
    match value:
        case (tag, bytes(inner_salt), str(media_type), bytes(plaintext)) if tag == BODY_TAG and inner_salt == salt:
            if commitment_of(plaintext, media_type, salt) == commitment:
                return OpenedRecord(plaintext, media_type, salt, commitment)
    raise Tampered("the record is not the one that its commitment names")


def rewrap(
    sealed: bytes, owner: KeyPair, new_recipient: bytes, *, rng: Callable[[int], bytes] = secrets.token_bytes
) -> SealedRecord:
    """A copy for one reader only, made by a recipient: same record, salt and commitment, under a key of its own, so
    that neither copy's key says anything about the other. Errors of `open_record`, and BadRecipient."""
    record = open_record(sealed, owner)
    return _seal(record.plaintext, record.media_type, record.salt, (new_recipient,), rng)


def _seal(
    plaintext: bytes, media_type: str, salt: bytes, recipients: Sequence[bytes], rng: Callable[[int], bytes]
) -> SealedRecord:
    if len(plaintext) > PLAINTEXT_SIZE_BYTES_MAX:
        raise RecordTooLarge(f"a record has at most {PLAINTEXT_SIZE_BYTES_MAX} bytes")
    if not MEDIA_TYPE.fullmatch(media_type):
        raise ValueError("not a media type")
    targets = {recipient: _curve_key(recipient) for recipient in sorted(recipients)}
    if not 1 <= len(recipients) <= RECIPIENTS_MAX or len(targets) != len(recipients):
        raise BadRecipient(f"a record has 1 to {RECIPIENTS_MAX} distinct recipients")
    commitment = commitment_of(plaintext, media_type, salt)
    content_key, nonce = rng(KEY_SIZE_BYTES), rng(NONCE_SIZE_BYTES)
    note = encode((KEY_TAG, commitment, content_key, salt))
    wraps = tuple((recipient, bindings.crypto_box_seal(note, curve)) for recipient, curve in targets.items())
    body = encode((BODY_TAG, salt, media_type, plaintext))
    ciphertext = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        body, _associated(commitment, wraps), nonce, content_key
    )
    return SealedRecord(commitment, tuple(targets), encode((FORMAT, commitment, wraps, nonce, ciphertext)))


def _curve_key(recipient: bytes) -> bytes:
    try:
        check_public_key(recipient)
        curve: bytes = bindings.crypto_sign_ed25519_pk_to_curve25519(recipient[1:])
    except (SignatureRefused, CryptoError):
        raise BadRecipient("not a public key of the prime-order group") from None
    return curve


def _associated(commitment: bytes, wraps: Value) -> bytes:
    return encode((FORMAT, commitment, wraps))


def _parts(sealed: bytes) -> tuple[bytes, tuple[tuple[bytes, bytes], ...], bytes, bytes]:
    """Commitment, wraps, nonce and ciphertext of a sealed record, each of the right type, size and order."""
    try:
        value = decode(sealed, size_bytes_max=SEALED_SIZE_BYTES_MAX, depth_max=3, items_max=8 + 3 * RECIPIENTS_MAX)
    except CodecError:
        raise Malformed("not canonical msgpack within the limits") from None
    match value:
        case (tag, bytes(commitment), tuple(wraps), bytes(nonce), bytes(ciphertext)) if tag == FORMAT:
            pass
        case _:
            raise Malformed("not a sealed record of a known version")
    checked: list[tuple[bytes, bytes]] = []
    for wrap in wraps:
        match wrap:
            case (bytes(recipient), bytes(box)) if len(recipient) == PUBLIC_KEY_SIZE_BYTES:
                checked.append((recipient, box))
            case _:
                raise Malformed("a wrapped key is not of the right form")
    names = [recipient for recipient, _box in checked]
    sizes_right = all(len(box) == BOX_SIZE_BYTES for _recipient, box in checked)
    if not sizes_right or len(nonce) != NONCE_SIZE_BYTES or not _is_commitment(commitment):
        raise Malformed("a part has the wrong size")
    if not 1 <= len(names) <= RECIPIENTS_MAX or any(left >= right for left, right in pairwise(names)):
        raise Malformed("the recipients are not in order")
    return commitment, tuple(checked), nonce, ciphertext


def _unwrap(box: bytes, key: KeyPair, commitment: bytes) -> tuple[bytes, bytes]:
    """Content key and salt from one wrap; CryptoError or CodecError if it is not this record's."""
    secret = bindings.crypto_sign_ed25519_sk_to_curve25519(key.seed + key.public[1:])
    curve = bindings.crypto_sign_ed25519_pk_to_curve25519(key.public[1:])
    note = decode(bindings.crypto_box_seal_open(box, curve, secret), size_bytes_max=BOX_SIZE_BYTES)
    match note:
        case (tag, named, bytes(content_key), bytes(salt)) if tag == KEY_TAG and named == commitment:
            if len(content_key) == KEY_SIZE_BYTES and len(salt) == SALT_SIZE_BYTES:
                return content_key, salt
    raise CryptoError("another record's key")


def _is_commitment(commitment: object) -> bool:
    return isinstance(commitment, bytes) and len(commitment) == HASH_SIZE_BYTES and commitment[:1] == b"\x01"


_RECORD_NAME = re.compile(r"01[0-9a-f]{64}")
_TOMBSTONE_SUFFIX: Final = ".erased"


class Vault:
    """A folder (0700) of sealed records (0600), each named by its commitment in hex and by nothing else.

    One process opens it at a time; its methods may be called from several threads and block on the disk. `clock_ms`
    gives the time written into tombstones.
    """

    def __init__(
        self,
        path: Path,
        *,
        size_bytes_max: int = VAULT_SIZE_BYTES_MAX,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._path = path
        self._size_bytes_max = size_bytes_max
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        self._sizes: dict[bytes, int] = {}
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.endswith(DRAFT_SUFFIX):
                    os.unlink(entry.path)  # of a write that never finished
                elif _RECORD_NAME.fullmatch(entry.name):
                    self._sizes[bytes.fromhex(entry.name)] = entry.stat(follow_symlinks=False).st_size
        for commitment in self.list():
            if self._tombstone(commitment).exists():
                self._shred(commitment)  # an erasure that was interrupted after it had been promised

    def put(self, sealed: SealedRecord) -> bytes:
        """Keep a sealed record, durably; its commitment. Putting the same bytes again does nothing.
        Malformed, Erased, AlreadyHeld, VaultFull."""
        commitment = SealedRecord.from_bytes(sealed.data).commitment
        with self._lock:
            if self._tombstone(commitment).exists():
                raise Erased("this record was erased here")
            if self._is_held(commitment):
                if self._read(commitment) != sealed.data:
                    raise AlreadyHeld("other bytes are held under this commitment")
                return commitment
            if sum(self._sizes.values()) + len(sealed.data) > self._size_bytes_max:
                raise VaultFull(f"the vault holds at most {self._size_bytes_max} bytes")
            replace(self._record(commitment), sealed.data)
            self._sizes[commitment] = len(sealed.data)
        return commitment

    def get(self, commitment: bytes) -> SealedRecord:
        """The sealed record. NotHeld, Erased; Malformed if the disk damaged it."""
        with self._lock:
            self._check_held(commitment)
            data = self._read(commitment)
        sealed = SealedRecord.from_bytes(data)
        if sealed.commitment != commitment:
            raise Malformed("the file holds another record than its name says")
        return sealed

    def erase(self, commitment: bytes) -> None:
        """Erase for good (the right to erasure): a tombstone with commitment and time, then the wrapped keys are
        overwritten, then the file is removed. What readers were given before stays theirs. NotHeld, Erased.

        A disk that remaps blocks may keep old ones: keep the folder on an encrypted volume.
        """
        with self._lock:
            self._check_held(commitment)
            said = (TOMBSTONE_TAG, commitment, self._clock_ms())
            replace(self._tombstone(commitment), encode((*said, hash_bytes(encode(said)))))
            self._shred(commitment)

    def list(self) -> tuple[bytes, ...]:
        """The commitments held, ascending."""
        with self._lock:
            return tuple(sorted(self._sizes))

    def erased_at_ms(self, commitment: bytes) -> int | None:
        """When the record was erased here, or None. Malformed if the disk damaged the tombstone."""
        path = self._tombstone(commitment)
        if not path.exists():
            return None
        try:
            value = decode(path.read_bytes(), size_bytes_max=256)
        except CodecError:
            value = None
        match value:
            case (tag, named, int(at_ms), digest) if (tag, named) == (TOMBSTONE_TAG, commitment):
                if digest == hash_bytes(encode((tag, named, at_ms))):
                    return at_ms
        raise Malformed("the tombstone is damaged")

    def _check_held(self, commitment: bytes) -> None:
        if self._tombstone(commitment).exists():
            raise Erased("this record was erased here")
        if not self._is_held(commitment):
            raise NotHeld("this vault does not hold the record")

    def _is_held(self, commitment: bytes) -> bool:
        """An operator may have removed the file under a running node: then it counts no more."""
        if commitment in self._sizes and not self._record(commitment).exists():
            del self._sizes[commitment]
        return commitment in self._sizes

    def _record(self, commitment: bytes) -> Path:
        # The one place where a name is made: from 33 bytes to 66 hex digits, so no path can come from outside.
        if not _is_commitment(commitment):
            raise NotHeld("not a commitment")
        return self._path / commitment.hex()

    def _tombstone(self, commitment: bytes) -> Path:
        return self._record(commitment).with_suffix(_TOMBSTONE_SUFFIX)

    def _read(self, commitment: bytes) -> bytes:
        descriptor = os.open(self._record(commitment), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(SEALED_SIZE_BYTES_MAX + 1)

    def _shred(self, commitment: bytes) -> None:
        path = self._record(commitment)
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(min(HEADER_SIZE_BYTES_MAX, self._sizes[commitment])))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        sync_folder(self._path)
        del self._sizes[commitment]
