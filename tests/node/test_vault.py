"""The vault: sealed is read by its recipients only, any alteration is noticed, erased is gone, nothing leaks."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import decode, encode
from ledger.crypto import KeyPair, hash_bytes
from node import vault as vault_module
from node.vault import (
    AlreadyHeld,
    BadRecipient,
    Erased,
    Malformed,
    NotARecipient,
    NotHeld,
    RecordTooLarge,
    SealedRecord,
    Tampered,
    Vault,
    VaultError,
    VaultFull,
    commitment_of,
    open_record,
    rewrap,
    seal,
)

FHIR = "application/fhir+json"
PATIENT, CUSTODIAN, READER, STRANGER = (KeyPair.from_seed(bytes([number]) * 32) for number in range(1, 5))
SECRET = b'{"resourceType":"Patient","name":[{"family":"Wintergreen"}],"birthDate":"1971-03-09"}'


def counting() -> Callable[[int], bytes]:
    """A stand-in for randomness: distinct, repeatable bytes."""
    calls = iter(range(1, 1_000))
    return lambda size_bytes: bytes([next(calls)]) * size_bytes


def sealed_secret(*keys: KeyPair) -> SealedRecord:
    return seal(SECRET, media_type=FHIR, recipients=[key.public for key in keys or (PATIENT, CUSTODIAN)])


@given(plaintext=st.binary(max_size=600), seeds=st.sets(st.binary(min_size=32, max_size=32), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_each_recipient_opens_what_was_sealed(plaintext: bytes, seeds: set[bytes]) -> None:
    keys = [KeyPair.from_seed(seed) for seed in sorted(seeds)]
    sealed = seal(plaintext, media_type=FHIR, recipients=[key.public for key in keys])
    for key in keys:
        opened = open_record(sealed.data, key)
        assert (opened.plaintext, opened.media_type, opened.commitment) == (plaintext, FHIR, sealed.commitment)
        assert commitment_of(plaintext, FHIR, opened.salt) == sealed.commitment
    assert SealedRecord.from_bytes(sealed.data) == sealed


def test_commitment_is_the_documented_hash() -> None:
    sealed = seal(SECRET, media_type=FHIR, recipients=[PATIENT.public], rng=counting())
    salt = b"\x01" * 32
    assert sealed.commitment == hash_bytes(encode(("medchain/record/v1", salt, hash_bytes(SECRET), FHIR)))
    assert open_record(sealed.data, PATIENT).salt == salt


def test_same_record_sealed_twice_shows_nothing_in_common() -> None:
    assert sealed_secret().commitment != sealed_secret().commitment


def test_sealed_bytes_hold_neither_plaintext_nor_salt() -> None:
    sealed = sealed_secret()
    assert b"Wintergreen" not in sealed.data
    assert open_record(sealed.data, PATIENT).salt not in sealed.data


def test_stranger_cannot_open() -> None:
    with pytest.raises(NotARecipient):
        open_record(sealed_secret().data, STRANGER)


def test_every_altered_byte_is_noticed() -> None:
    sealed = sealed_secret().data
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1 << position % 8
        with pytest.raises(VaultError):
            open_record(bytes(altered), PATIENT)


@pytest.mark.parametrize("cut", [0, 1, 30, 200, -1])
def test_truncated_or_extended_record_is_malformed(cut: int) -> None:
    data = sealed_secret().data
    with pytest.raises(Malformed):
        open_record(data[:cut], PATIENT)
    with pytest.raises(Malformed):
        open_record(data + b"\x00", PATIENT)


def test_wrap_of_another_recipient_cannot_be_dropped_or_moved_unnoticed() -> None:
    tag, commitment, wraps, nonce, ciphertext = _fields(sealed_secret().data)
    own = tuple(wrap for wrap in wraps if wrap[0] == PATIENT.public)
    with pytest.raises(Tampered):
        open_record(encode((tag, commitment, own, nonce, ciphertext)), PATIENT)
    _, other_commitment, _, _, _ = _fields(sealed_secret().data)
    with pytest.raises(Tampered):
        open_record(encode((tag, other_commitment, wraps, nonce, ciphertext)), PATIENT)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: ("medchain/sealed/v2", *f[1:]),
        lambda f: (*f[:2], (), *f[3:]),
        lambda f: (*f[:2], f[2][::-1], *f[3:]),
        lambda f: (*f[:2], (f[2][0], f[2][0]), *f[3:]),
        lambda f: (*f[:2], ((f[2][0][0], b"short"),), *f[3:]),
        lambda f: (*f[:2], ((f[2][0][0][:32], f[2][0][1]),), *f[3:]),
        lambda f: (*f[:2], f[2] * 40, *f[3:]),
        lambda f: (*f[:3], b"nonce", f[4]),
        lambda f: (f[0], b"\x02" + f[1][1:], *f[2:]),
        lambda f: (f[0], 7, *f[2:]),
        lambda f: f[:4],
        lambda f: (*f, None),
    ],
)
def test_other_forms_are_malformed(change: Callable[..., tuple[object, ...]]) -> None:
    fields = _fields(sealed_secret().data)
    with pytest.raises(Malformed):
        SealedRecord.from_bytes(encode(change(fields)))  # type: ignore[arg-type]


def test_size_is_checked_before_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 34."""
    data = sealed_secret().data
    monkeypatch.setattr(vault_module, "SEALED_SIZE_BYTES_MAX", len(data) - 1)
    with pytest.raises(Malformed):
        open_record(data, PATIENT)
    with pytest.raises(Malformed):
        open_record(b"\xdd\xff\xff\xff\xff", PATIENT)


def test_record_sealed_under_a_false_commitment_is_tampered() -> None:
    """A sender that commits to one record and seals another is found out by whoever opens it."""
    original = vault_module.commitment_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vault_module, "commitment_of", lambda _p, media, salt: original(b"another", media, salt))
        sealed = sealed_secret()
    with pytest.raises(Tampered):
        open_record(sealed.data, PATIENT)


def test_largest_record_is_sealed_and_one_byte_more_refused() -> None:
    plaintext = bytes(vault_module.PLAINTEXT_SIZE_BYTES_MAX)
    many = [KeyPair.from_seed(bytes([9, number]) * 16).public for number in range(vault_module.RECIPIENTS_MAX - 1)]
    sealed = seal(plaintext, media_type=FHIR, recipients=[PATIENT.public, *many])
    assert len(sealed.data) <= vault_module.SEALED_SIZE_BYTES_MAX
    assert len(sealed.data) - len(plaintext) <= vault_module.HEADER_SIZE_BYTES_MAX, "erasing covers all wrapped keys"
    assert open_record(sealed.data, PATIENT).plaintext == plaintext
    with pytest.raises(RecordTooLarge):
        seal(plaintext + b"x", media_type=FHIR, recipients=[PATIENT.public])


@pytest.mark.parametrize(
    "recipients",
    [
        [],
        [PATIENT.public, PATIENT.public],
        [b"\x01" + bytes(32)],  # small order
        [b"\x01" + b"\x01" + bytes(31)],  # the identity
        [b"\x01" + b"\xff" * 32],  # not canonical
        [b"\x02" + PATIENT.public[1:]],
        [PATIENT.public[:-1]],
        [KeyPair.from_seed(bytes([8, number]) * 16).public for number in range(65)],
    ],
)
def test_recipients_that_cannot_be_sealed_for_are_refused(recipients: list[bytes]) -> None:
    with pytest.raises(BadRecipient):
        seal(SECRET, media_type=FHIR, recipients=recipients)


@pytest.mark.parametrize("media_type", ["", "json", "a/b\n", "a/" + "b" * 200, "text/plain; x=" + "y" * 99])
def test_media_type_is_checked(media_type: str) -> None:
    with pytest.raises(ValueError):
        seal(SECRET, media_type=media_type, recipients=[PATIENT.public])


def test_rewrapped_copy_opens_for_the_reader_only() -> None:
    sealed = sealed_secret()
    copy = rewrap(sealed.data, CUSTODIAN, READER.public)
    assert copy.commitment == sealed.commitment
    assert copy.recipients == (READER.public,)
    assert open_record(copy.data, READER) == open_record(sealed.data, PATIENT)
    for key in (PATIENT, CUSTODIAN, STRANGER):
        with pytest.raises(NotARecipient):
            open_record(copy.data, key)
    with pytest.raises(NotARecipient):
        rewrap(sealed.data, STRANGER, STRANGER.public)
    with pytest.raises(BadRecipient):
        rewrap(sealed.data, CUSTODIAN, b"\x01" + bytes(32))


def test_rewrapped_copy_has_a_key_of_its_own() -> None:
    """With the copy's wraps and the original's ciphertext nothing opens."""
    sealed = sealed_secret()
    copy = _fields(rewrap(sealed.data, CUSTODIAN, READER.public).data)
    original = _fields(sealed.data)
    with pytest.raises(Tampered):
        open_record(encode((*copy[:3], *original[3:])), READER)


def test_no_error_or_repr_shows_the_record() -> None:
    sealed = sealed_secret()
    opened = open_record(sealed.data, PATIENT)
    texts = [repr(opened), str(opened), repr(sealed), repr(PATIENT)]
    for data, key in ((sealed.data, STRANGER), (sealed.data[:-1], PATIENT), (_altered(sealed.data), PATIENT)):
        with pytest.raises(VaultError) as caught:
            open_record(data, key)
        texts += [str(caught.value), repr(caught.value), repr(caught.value.__cause__)]
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    with pytest.raises(ValueError) as refused:
        seal(SECRET, media_type="Wintergreen", recipients=[PATIENT.public])
    texts.append(repr(refused.value))
    for text in texts:
        assert "Wintergreen" not in text
        assert "1971" not in text
        assert opened.salt.hex() not in text


# --- The folder -----------------------------------------------------------------------------------------------------


def test_put_then_get_survives_reopening(tmp_path: Path) -> None:
    sealed = sealed_secret()
    folder = Vault(tmp_path / "vault")
    assert folder.put(sealed) == sealed.commitment
    assert folder.put(sealed) == sealed.commitment
    again = Vault(tmp_path / "vault")
    assert again.get(sealed.commitment) == sealed
    assert again.list() == (sealed.commitment,)


def test_folder_and_files_are_private_and_named_by_commitment(tmp_path: Path) -> None:
    path = tmp_path / "vault"
    sealed = sealed_secret()
    umask = os.umask(0)
    try:
        path.mkdir(mode=0o777)
        Vault(path).put(sealed)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert [file.name for file in path.iterdir()] == [sealed.commitment.hex()]
    assert stat.S_IMODE((path / sealed.commitment.hex()).stat().st_mode) == 0o600


def test_plaintext_never_touches_the_disk(tmp_path: Path) -> None:
    folder = Vault(tmp_path / "vault")
    sealed = sealed_secret()
    folder.put(sealed)
    folder.erase(sealed.commitment)
    folder.put(sealed_secret())
    for file in (tmp_path / "vault").iterdir():
        data = file.read_bytes()
        assert b"Wintergreen" not in data
        assert b"1971" not in data


@pytest.mark.parametrize("name", [b"", b"../../../etc/passwd", b"\x01" * 32, b"\x02" + bytes(32), "01" * 33, b"/" * 33])
def test_nothing_but_a_commitment_names_a_file(tmp_path: Path, name: bytes) -> None:
    folder = Vault(tmp_path / "vault")
    for call in (folder.get, folder.erase):
        with pytest.raises(NotHeld):
            call(name)
    assert list((tmp_path / "vault").iterdir()) == []


def test_erased_record_is_gone_and_stays_gone(tmp_path: Path) -> None:
    path = tmp_path / "vault"
    folder = Vault(path, clock_ms=lambda: 1_234_567)
    sealed, kept = sealed_secret(), sealed_secret()
    folder.put(sealed)
    folder.put(kept)
    folder.erase(sealed.commitment)
    for vault in (folder, Vault(path)):
        with pytest.raises(Erased):
            vault.get(sealed.commitment)
        with pytest.raises(Erased):
            vault.put(sealed)
        with pytest.raises(Erased):
            vault.erase(sealed.commitment)
        assert vault.list() == (kept.commitment,)
        assert vault.erased_at_ms(sealed.commitment) == 1_234_567
        assert vault.erased_at_ms(kept.commitment) is None
    names = {file.name for file in path.iterdir()}
    assert names == {kept.commitment.hex(), sealed.commitment.hex() + ".erased"}
    tombstone = (path / (sealed.commitment.hex() + ".erased")).read_bytes()
    said = ("medchain/erased/v2", sealed.commitment, 1_234_567)
    assert decode(tombstone, size_bytes_max=256) == (*said, hash_bytes(encode(said)))


def test_wrapped_keys_are_overwritten_before_the_file_goes(tmp_path: Path) -> None:
    """A second name for the same file shows what the disk held when the first one was removed."""
    folder = Vault(tmp_path / "vault")
    sealed = seal(SECRET * 500, media_type=FHIR, recipients=[PATIENT.public, CUSTODIAN.public])
    folder.put(sealed)
    witness = tmp_path / "witness"
    os.link(tmp_path / "vault" / sealed.commitment.hex(), witness)
    folder.erase(sealed.commitment)
    left = witness.read_bytes()
    assert len(left) == len(sealed.data)
    for _recipient, box in _fields(sealed.data)[2]:
        assert box not in left
    with pytest.raises(Malformed):
        open_record(left, PATIENT)


def test_interrupted_erasure_is_finished_when_the_vault_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Vault(tmp_path / "vault")
    sealed = sealed_secret()
    folder.put(sealed)
    monkeypatch.setattr(Vault, "_shred", lambda _self, _commitment: (_ for _ in ()).throw(OSError("power lost")))
    with pytest.raises(OSError, match="power lost"):
        folder.erase(sealed.commitment)
    monkeypatch.undo()
    with pytest.raises(Erased):
        folder.get(sealed.commitment)
    assert Vault(tmp_path / "vault").list() == ()
    assert not (tmp_path / "vault" / sealed.commitment.hex()).exists()


def test_interrupted_write_leaves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vault"
    folder = Vault(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            folder.put(sealed_secret())
    assert list(path.iterdir()) == []
    (path / ("01" * 33 + ".new")).write_bytes(b"half")
    assert Vault(path).list() == ()
    assert list(path.iterdir()) == []


def test_damaged_or_exchanged_file_is_not_handed_out(tmp_path: Path) -> None:
    path = tmp_path / "vault"
    folder = Vault(path)
    first, second = sealed_secret(), sealed_secret()
    folder.put(first)
    folder.put(second)
    (path / first.commitment.hex()).write_bytes(second.data)
    (path / second.commitment.hex()).write_bytes(second.data[:-7])
    for sealed in (first, second):
        with pytest.raises(Malformed):
            folder.get(sealed.commitment)


def test_a_record_whose_file_an_operator_removed_is_not_held_and_can_be_kept_again(tmp_path: Path) -> None:
    folder = Vault(tmp_path / "vault")
    sealed = sealed_secret()
    folder.put(sealed)
    for call in (folder.get, folder.erase):
        (tmp_path / "vault" / sealed.commitment.hex()).unlink()
        with pytest.raises(NotHeld):
            call(sealed.commitment)
        assert folder.list() == ()
        folder.put(sealed)
    assert folder.get(sealed.commitment) == sealed


def test_size_limit_counts_what_is_held(tmp_path: Path) -> None:
    sealed = sealed_secret()
    folder = Vault(tmp_path / "vault", size_bytes_max=len(sealed.data) + 10)
    folder.put(sealed)
    with pytest.raises(VaultFull):
        folder.put(sealed_secret())
    folder.erase(sealed.commitment)
    folder.put(sealed_secret())


def test_second_copy_of_a_record_does_not_replace_the_first(tmp_path: Path) -> None:
    folder = Vault(tmp_path / "vault")
    sealed = sealed_secret()
    folder.put(sealed)
    with pytest.raises(AlreadyHeld):
        folder.put(rewrap(sealed.data, CUSTODIAN, READER.public))
    assert folder.get(sealed.commitment) == sealed


def _fields(data: bytes) -> tuple:  # type: ignore[type-arg]
    fields = decode(data, size_bytes_max=1 << 25)
    assert isinstance(fields, tuple)
    return fields


def _altered(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])
