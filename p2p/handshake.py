"""The handshake: one HELLO from the side that dialled, answered by HELLO_ACK or REJECT. A state machine for each side.

TLS 1.3 with certificates on both sides has already proved that the peer holds the key of its certificate, bound to
this session; here the key in HELLO must equal the certificate's (`KEY_MISMATCH` otherwise), chain and protocol version
must fit, and the acceptor's `admit` says whether this key may connect now. The acknowledgement echoes the challenge,
so it answers this HELLO and no other.

Pure: frames in, frames out; no sockets, clock or randomness. See docs/p2p.md, section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from ledger.codec import Value, decode, encode
from ledger.crypto import HASH_SIZE_BYTES, PUBLIC_KEY_SIZE_BYTES
from ledger.errors import CodecError
from p2p.errors import HandshakeRefused, Refusal
from p2p.frames import KINDS, Kind

PROTOCOL_VERSION_MIN: Final = 1
PROTOCOL_VERSION_MAX: Final = 1

SOFTWARE_LENGTH_MAX: Final = 32
HOST_LENGTH_MAX: Final = 253  # the longest DNS name
NONCE_SIZE_BYTES: Final = 16
_HELLO_FIELDS: Final = 11
_FIELDS_MAX: Final = 32  # later versions may append fields; this many fit into the size limit anyway
_HEIGHT_MAX: Final = 2**63 - 1


class Role(IntEnum):
    """What a node says it is. Information only: what it may do is decided by the members' list of the other side."""

    VALIDATOR = 1
    FOLLOWER = 2


@dataclass(frozen=True, slots=True)
class Hello:
    """What one side says about itself. Later versions append fields, which earlier ones ignore."""

    chain_id: bytes  # 33 bytes
    key: bytes  # 33 bytes, the certificate's
    role: Role
    software: str  # for people; at most SOFTWARE_LENGTH_MAX characters
    height: int  # last committed height, a hint for catching up
    instance: bytes  # 16 random bytes of this process: tells a restarted peer from a second connection
    challenge: bytes  # 16 random bytes of this connection, echoed in the acknowledgement
    host: str = ""  # where this node wants to be dialled; empty if it does not
    port: int = 0
    version_min: int = PROTOCOL_VERSION_MIN
    version_max: int = PROTOCOL_VERSION_MAX

    def to_value(self) -> tuple[Value, ...]:
        return (
            self.version_min,
            self.version_max,
            self.chain_id,
            self.key,
            int(self.role),
            self.software,
            self.height,
            self.instance,
            self.challenge,
            self.host,
            self.port,
        )

    @classmethod
    def from_value(cls, value: Value) -> Hello:
        """Raises HandshakeRefused: VERSION as soon as the versions do not meet, MALFORMED for wrong fields."""
        match value:
            case (int(version_min), int(version_max), *_) if 1 <= version_min <= version_max <= 0xFFFF:
                common_version(version_min, version_max)
            case _:
                raise HandshakeRefused(Refusal.MALFORMED)
        match value[2:_HELLO_FIELDS]:
            case (
                bytes(chain_id),
                bytes(key),
                int(role),
                str(software),
                int(height),
                bytes(instance),
                bytes(challenge),
                str(host),
                int(port),
            ):
                pass
            case _:
                raise HandshakeRefused(Refusal.MALFORMED)
        if (
            len(chain_id) != HASH_SIZE_BYTES
            or len(key) != PUBLIC_KEY_SIZE_BYTES
            or role not in (1, 2)
            or len(software) > SOFTWARE_LENGTH_MAX
            or not software.isprintable()
            or not 0 <= height <= _HEIGHT_MAX
            or len(instance) != NONCE_SIZE_BYTES
            or len(challenge) != NONCE_SIZE_BYTES
            or len(host) > HOST_LENGTH_MAX
            or not _is_host(host)
            or not 0 <= port <= 0xFFFF
        ):
            raise HandshakeRefused(Refusal.MALFORMED)
        return cls(
            chain_id=chain_id,
            key=key,
            role=Role(role),
            software=software,
            height=height,
            instance=instance,
            challenge=challenge,
            host=host,
            port=port,
            version_min=version_min,
            version_max=version_max,
        )


@dataclass(frozen=True, slots=True)
class Established:
    """The outcome both sides agree on."""

    peer: Hello
    version: int


class State(Enum):
    START = "start"
    HELLO_SENT = "hello sent"
    ESTABLISHED = "established"
    REFUSED = "refused"


def common_version(peer_min: int, peer_max: int) -> int:
    """The highest version both speak; HandshakeRefused(VERSION) if there is none."""
    version = min(peer_max, PROTOCOL_VERSION_MAX)
    if version < max(peer_min, PROTOCOL_VERSION_MIN):
        raise HandshakeRefused(Refusal.VERSION)
    return version


def encode_reject(reason: Refusal) -> bytes:
    """The payload of a REJECT frame."""
    return encode((int(reason),))


def decode_reject(payload: bytes) -> Refusal:
    """The reason in a REJECT frame; an unknown or unreadable one counts as MALFORMED."""
    try:
        match _decode(payload, Kind.REJECT):
            case (int(number), *_):
                return Refusal(number)
    except (HandshakeRefused, ValueError):
        pass
    return Refusal.MALFORMED


class Dialler:
    """The side that dialled: sends HELLO, then takes exactly one answer."""

    def __init__(self, hello: Hello, *, expected_key: bytes, certificate_key: bytes) -> None:
        self._hello = hello
        self._expected_key = expected_key
        self._certificate_key = certificate_key
        self.state = State.START

    def start(self) -> bytes:
        """The payload of our HELLO frame."""
        _require(self.state is State.START)
        self.state = State.HELLO_SENT
        return encode(self._hello.to_value())

    def receive(self, kind: Kind, payload: bytes) -> Established:
        """Take the answer; HandshakeRefused if it is a REJECT (`by_peer`) or not acceptable to us."""
        _require(self.state is State.HELLO_SENT)
        self.state = State.REFUSED
        if kind is Kind.REJECT:
            raise HandshakeRefused(decode_reject(payload), by_peer=True)
        if kind is not Kind.HELLO_ACK:
            raise HandshakeRefused(Refusal.MALFORMED)
        match _decode(payload, kind):
            case (int(version), bytes(echo), tuple(fields), *_):
                peer = Hello.from_value(fields)
            case _:
                raise HandshakeRefused(Refusal.MALFORMED)
        _check_peer(self._hello, peer, self._certificate_key)
        if peer.key != self._expected_key:
            raise HandshakeRefused(Refusal.KEY_MISMATCH)
        if echo != self._hello.challenge:
            raise HandshakeRefused(Refusal.MALFORMED)
        if version != common_version(peer.version_min, peer.version_max):
            raise HandshakeRefused(Refusal.VERSION)
        self.state = State.ESTABLISHED
        return Established(peer, version)


class Acceptor:
    """The side that was dialled: takes exactly one HELLO; `admit` gives a reason to refuse the key, or None."""

    def __init__(self, hello: Hello, *, certificate_key: bytes, admit: Callable[[Hello], Refusal | None]) -> None:
        self._hello = hello
        self._certificate_key = certificate_key
        self._admit = admit
        self.state = State.START

    def receive(self, kind: Kind, payload: bytes) -> tuple[Established, bytes]:
        """The agreed outcome and the payload of our HELLO_ACK; HandshakeRefused otherwise, to be sent as REJECT."""
        _require(self.state is State.START)
        self.state = State.REFUSED
        if kind is not Kind.HELLO:
            raise HandshakeRefused(Refusal.MALFORMED)
        peer = Hello.from_value(_decode(payload, kind))
        _check_peer(self._hello, peer, self._certificate_key)
        reason = self._admit(peer)
        if reason is not None:
            raise HandshakeRefused(reason)
        version = common_version(peer.version_min, peer.version_max)
        self.state = State.ESTABLISHED
        return Established(peer, version), encode((version, peer.challenge, self._hello.to_value()))


def _check_peer(own: Hello, peer: Hello, certificate_key: bytes) -> None:
    # Identity before chain: a stranger must not be able to get another key banned for a wrong chain.
    if peer.key != certificate_key:
        raise HandshakeRefused(Refusal.KEY_MISMATCH)
    if peer.key == own.key:
        raise HandshakeRefused(Refusal.SELF)
    if peer.chain_id != own.chain_id:
        raise HandshakeRefused(Refusal.WRONG_CHAIN)


def _decode(payload: bytes, kind: Kind) -> Value:
    try:
        return decode(payload, size_bytes_max=KINDS[kind].size_bytes_max, depth_max=2, items_max=2 * _FIELDS_MAX)
    except CodecError:
        raise HandshakeRefused(Refusal.MALFORMED) from None


def _is_host(host: str) -> bool:
    return host.isascii() and all(character.isalnum() or character in ".-:_" for character in host)


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("a handshake machine is used once, in order")
