"""Mutual TLS 1.3 with self-signed Ed25519 certificates, trusted by public key alone.

Python's ssl needs a trust anchor for every peer, but membership names only public keys. So each side derives the
anchor from the key: a root certificate with a name made from the key, the key itself, and a signature of no meaning
(OpenSSL does not check the signature of a root it was told to trust). The peer's leaf names that root as issuer and is
signed with the peer's own key, so it verifies against the anchor exactly if the peer holds the key.

A live context's anchors only grow. What protects is the comparison of the certificate's key after each handshake with
the keys allowed now; a trusted key could sign a leaf that carries another key, and only that comparison catches it.

Must not know: who is a member. The only file here that knows `cryptography`.
"""

from __future__ import annotations

import datetime
import os
import ssl
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ledger.crypto import ALGORITHM_ED25519, KeyPair, check_public_key
from ledger.errors import SignatureRefused
from p2p.errors import CertificateError

CERTIFICATE_SIZE_BYTES_MAX = 4_096  # ours have about 350 bytes

# Fixed dates make a certificate a function of the key alone, and a wrong clock must not stop a node.
_NOT_BEFORE = datetime.datetime(2000, 1, 1)
_NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59)  # "no well-defined expiration", RFC 5280, 4.1.2.5

# Signs anchors. Public and worthless: nothing ever checks these signatures, the format only wants one.
_ANCHOR_SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(32))


class TlsContexts:
    """The server and client contexts of one node, and the keys they accept anchors for."""

    def __init__(self, identity: KeyPair) -> None:
        chain_pem = _leaf_and_key_pem(identity)
        with _secret_file(chain_pem) as path:
            self.server = _context(ssl.PROTOCOL_TLS_SERVER, path)
            self.client = _context(ssl.PROTOCOL_TLS_CLIENT, path)
        # A ticket would let a session outlive the key comparison, and nobody here resumes sessions.
        self.server.num_tickets = 0
        self._trusted: set[bytes] = set()

    def trust(self, keys: Iterable[bytes]) -> None:
        """Make certificates of `keys` (33 bytes each) pass TLS. CertificateError for a key that is not one."""
        for key in keys:
            if key not in self._trusted:
                der = anchor(key)
                self.server.load_verify_locations(cadata=der)
                self.client.load_verify_locations(cadata=der)
                self._trusted.add(key)


def leaf(identity: KeyPair) -> bytes:
    """The certificate (DER) a node presents: always the same bytes for the same key."""
    private = Ed25519PrivateKey.from_private_bytes(identity.seed)
    return _build(private.public_key(), private, subject="node", is_anchor=False)


def anchor(key: bytes) -> bytes:
    """The trust anchor (DER) for a public key (33 bytes). CertificateError unless the key is a sound one.

    Keys of small order must not pass: OpenSSL accepts forged signatures for them.
    """
    try:
        check_public_key(key)
    except SignatureRefused as error:
        raise CertificateError(str(error)) from None
    return _build(Ed25519PublicKey.from_public_bytes(key[1:]), _ANCHOR_SIGNER, subject="root", is_anchor=True)


def certificate_key(der: bytes | None) -> bytes:
    """The public key (33 bytes) of a peer's certificate; CertificateError if there is none or it is not Ed25519."""
    if not der or len(der) > CERTIFICATE_SIZE_BYTES_MAX:
        raise CertificateError("no certificate within the size limit")
    try:
        public = x509.load_der_x509_certificate(der).public_key()
    except Exception as error:  # any parser error here means the same: not a certificate of ours
        raise CertificateError(type(error).__name__) from None
    if not isinstance(public, Ed25519PublicKey):
        raise CertificateError("not an Ed25519 key")
    return ALGORITHM_ED25519 + public.public_bytes_raw()


def _build(public: Ed25519PublicKey, signer: Ed25519PrivateKey, *, subject: str, is_anchor: bool) -> bytes:
    # Subject and issuer differ in a leaf: OpenSSL trusts a self-issued leaf only if it is in the store byte for byte.
    constraints = x509.BasicConstraints(ca=is_anchor, path_length=0 if is_anchor else None)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject, public))
        .issuer_name(_name("root", public))
        .public_key(public)
        .serial_number(1 if is_anchor else 2)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(constraints, critical=True)
        .sign(signer, None)
        .public_bytes(Encoding.DER)
    )


def _name(prefix: str, public: Ed25519PublicKey) -> x509.Name:
    # A common name holds 64 characters; half the key tells names apart, and the signature check uses the whole key.
    text = f"medchain {prefix} {public.public_bytes_raw().hex()[:32]}"
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _context(protocol: int, path: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # identity is the key, not the name
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(path)
    return context


def _leaf_and_key_pem(identity: KeyPair) -> bytes:
    private = Ed25519PrivateKey.from_private_bytes(identity.seed)
    key_pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return ssl.DER_cert_to_PEM_cert(leaf(identity)).encode() + key_pem


@contextmanager
def _secret_file(content: bytes) -> Iterator[str]:
    """A path to `content` for as long as needed: ssl reads private keys from files only.

    On Linux the file exists in memory alone; elsewhere it is a temporary one of mode 0600, removed at once.
    """
    if sys.platform == "linux":
        descriptor = os.memfd_create("medchain-tls", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{descriptor}"
        remove = False
    else:
        descriptor, path = tempfile.mkstemp()
        remove = True
    try:
        os.write(descriptor, content)
        yield path
    finally:
        os.close(descriptor)
        if remove:
            os.unlink(path)
