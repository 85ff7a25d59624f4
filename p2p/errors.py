"""Faults, refusals and errors of the peer-to-peer layer. Whose fault something is shows in the type.

    P2PError
     ├─ FrameError         remote: a message that is not frames within limits; its sender loses the connection
     ├─ HandshakeRefused   either side: this connection must not be; `reason` is what crosses the wire
     └─ CertificateError   remote: a certificate or key that cannot name a peer

Local misuse raises ValueError. Lives here: enumerations and exceptions only.
"""

from __future__ import annotations

from enum import IntEnum


class Fault(IntEnum):
    """What a peer did wrong once its identity was known. It costs that peer its connection and a growing ban."""

    FRAME_TOO_LARGE = 1
    MALFORMED_FRAME = 2
    UNEXPECTED_KIND = 3
    MALFORMED_PAYLOAD = 4
    BAD_SIGNATURE = 5
    WRONG_CHAIN = 6
    KEY_MISMATCH = 7
    UNSOLICITED = 8


class Refusal(IntEnum):
    """Why a handshake ended without a connection; the one field of a REJECT frame."""

    WRONG_CHAIN = 1
    VERSION = 2
    NOT_MEMBER = 3
    KEY_MISMATCH = 4
    DUPLICATE = 5
    MALFORMED = 6
    BUSY = 7
    SELF = 8


class P2PError(Exception):
    """Base of everything this package raises on purpose."""


class FrameError(P2PError):
    """A received message breaks the framing. Drop it whole, blame the sender."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.name)
        self.fault = fault


class HandshakeRefused(P2PError):
    """The handshake failed. `by_peer` tells a REJECT received from a refusal of our own."""

    def __init__(self, reason: Refusal, *, by_peer: bool = False) -> None:
        super().__init__(reason.name)
        self.reason = reason
        self.by_peer = by_peer


class CertificateError(P2PError):
    """A certificate without an Ed25519 key, or a key no honest node can have."""
