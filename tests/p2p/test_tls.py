"""Mutual TLS by public key alone: who passes, who does not, and what only the key comparison catches."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.crypto import KeyPair
from p2p import tls
from p2p.errors import CertificateError

A, B, C = (KeyPair.from_seed(bytes([n]) * 32) for n in (1, 2, 3))


def contexts(identity: KeyPair, *trusted: KeyPair) -> tls.TlsContexts:
    made = tls.TlsContexts(identity)
    made.trust([pair.public for pair in trusted])
    return made


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[bytes, bytes]:
    """The keys each side saw of the other (at server, at client); ssl.SSLError if either refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    at_server = server.wrap_bio(to_server, to_client, server_side=True)
    at_client = client.wrap_bio(to_client, to_server, server_hostname="anything")
    waiting = [at_client, at_server]
    while waiting:
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert at_server.version() == at_client.version() == "TLSv1.3"
    return (
        tls.certificate_key(at_server.getpeercert(binary_form=True)),
        tls.certificate_key(at_client.getpeercert(binary_form=True)),
    )


def test_both_sides_see_the_others_key_though_only_keys_were_exchanged() -> None:
    assert shake(contexts(A, B).server, contexts(B, A).client) == (B.public, A.public)


def test_stranger_is_refused_by_the_server() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(contexts(A, B).server, contexts(C, A).client)


def test_stranger_is_refused_by_the_client() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(contexts(C, B).server, contexts(B, A).client)


def test_client_without_certificate_is_refused() -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(cadata=tls.anchor(A.public))
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake(contexts(A, B).server, bare)


def test_older_tls_is_refused() -> None:
    old = contexts(B, A).client
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(contexts(A, B).server, old)


def test_member_can_be_added_to_a_live_context() -> None:
    server = contexts(A, B)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server.server, contexts(C, A).client)
    server.trust([C.public, C.public, B.public])
    assert shake(server.server, contexts(C, A).client)[0] == C.public


def test_stranger_naming_a_member_as_issuer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stranger's leaf carries the member's names, but its own key and signature."""
    monkeypatch.setattr(tls, "_name", lambda prefix, public, name=tls._name: name(prefix, public_of(B)))
    forger = tls.TlsContexts(C)
    monkeypatch.undo()
    forger.trust([A.public])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(contexts(A, B).server, forger.client)


def test_leaf_signed_by_a_member_for_another_key_shows_that_other_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS alone lets a member mint strangers; the key of the certificate tells, and is what the transport compares."""
    member = Ed25519PrivateKey.from_private_bytes(B.seed)
    build, name = tls._build, tls._name

    def mint(public: Ed25519PublicKey, signer: Ed25519PrivateKey, *, subject: str, is_anchor: bool) -> bytes:
        return build(public, member, subject=subject, is_anchor=is_anchor)

    monkeypatch.setattr(tls, "_build", mint)
    monkeypatch.setattr(tls, "_name", lambda prefix, public: name(prefix, public_of(B)))
    minted = tls.TlsContexts(C)
    monkeypatch.undo()
    minted.trust([A.public])
    assert shake(contexts(A, B).server, minted.client)[0] == C.public


def public_of(identity: KeyPair) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(identity.public[1:])


def test_certificate_and_anchor_depend_on_the_key_alone() -> None:
    assert tls.leaf(A) == tls.leaf(A) != tls.leaf(B)
    assert tls.anchor(A.public) == tls.anchor(A.public)
    assert tls.certificate_key(tls.leaf(A)) == A.public
    assert len(tls.leaf(A)) < tls.CERTIFICATE_SIZE_BYTES_MAX


@pytest.mark.parametrize(
    "key", [b"", A.public[:-1], b"\x02" + A.public[1:], b"\x01" + bytes(32), b"\x01\x01" + bytes(31)]
)
def test_unsound_key_gets_no_anchor(key: bytes) -> None:
    """Trap 42: OpenSSL accepts forged signatures for keys of small order."""
    with pytest.raises(CertificateError):
        tls.anchor(key)


@pytest.mark.parametrize("der", [None, b"", b"\x30\x03\x02\x01\x01", bytes(5_000)])
def test_unreadable_certificate_is_refused(der: bytes | None) -> None:
    with pytest.raises(CertificateError):
        tls.certificate_key(der)


def test_no_session_tickets_are_given() -> None:
    assert contexts(A).server.num_tickets == 0


def test_secret_file_is_private_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for platform in ("linux", "elsewhere"):
        monkeypatch.setattr("sys.platform", platform)
        before = len(os.listdir("/proc/self/fd"))
        with tls._secret_file(b"secret") as path:
            assert Path(path).read_bytes() == b"secret"
            if platform == "elsewhere":
                assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert not Path(path).exists()
        assert len(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []
