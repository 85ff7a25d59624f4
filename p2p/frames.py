"""Frames: how payloads share one WebSocket message, and which limits hold before anything is sliced.

A message is one or more frames `[kind u8][length u32 big-endian][payload]` without anything after the last. Frames are
coalesced up to MESSAGE_SIZE_BYTES_TARGET; a larger frame travels alone. The table KINDS gives each kind its channel
(priority class) and its size limit.

Pure: bytes in, bytes out. Must not know what a payload means, nor sockets. See docs/p2p.md, section 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

from p2p.errors import Fault, FrameError

KIB: Final = 1024
MIB: Final = 1024 * KIB

HEADER_SIZE_BYTES: Final = 5
# WebSocket messages of 16-128 KiB are the cheapest per byte (one copy, one TLS record run); larger ones fall off.
MESSAGE_SIZE_BYTES_TARGET: Final = 64 * KIB
# A message of empty frames would otherwise cost 13,000 calls of the handler before the loop turns again.
FRAMES_PER_MESSAGE_MAX: Final = 1_024

_HEADER = Struct(">BI")


class Channel(IntEnum):
    """Priority classes, most urgent first."""

    CONSENSUS = 0
    CONTROL = 1
    BULK = 2


class Kind(IntEnum):
    """What a frame carries. Numbers are part of the wire format and never reused."""

    HELLO = 1
    HELLO_ACK = 2
    REJECT = 3
    VOTE = 16
    STATUS = 17
    BATCH = 18
    BATCH_REQUEST = 19
    BATCH_RESPONSE = 20
    BLOCK_REQUEST = 21
    BLOCK_RESPONSE = 22
    CERTIFIED = 23
    EPOCH_REQUEST = 24
    EPOCH_RESPONSE = 25
    SNAPSHOT_REQUEST = 26
    SNAPSHOT_RESPONSE = 27


@dataclass(frozen=True, slots=True)
class KindRule:
    """The channel of a kind and the largest payload it may carry."""

    channel: Channel
    size_bytes_max: int


KINDS: Final[dict[Kind, KindRule]] = {
    Kind.HELLO: KindRule(Channel.CONTROL, KIB),  # eleven small fields
    Kind.HELLO_ACK: KindRule(Channel.CONTROL, KIB),
    Kind.REJECT: KindRule(Channel.CONTROL, 64),  # one number
    Kind.VOTE: KindRule(Channel.CONSENSUS, 4 * MIB),  # a new-view holds a quorum of view-changes with certificates
    Kind.STATUS: KindRule(Channel.CONTROL, 4 * KIB),
    Kind.BATCH: KindRule(Channel.BULK, MIB),
    Kind.BATCH_REQUEST: KindRule(Channel.CONTROL, 64 * KIB),  # a block's worth of digests
    Kind.BATCH_RESPONSE: KindRule(Channel.BULK, 4 * MIB),
    Kind.BLOCK_REQUEST: KindRule(Channel.CONTROL, KIB),
    Kind.BLOCK_RESPONSE: KindRule(Channel.BULK, 8 * MIB),
    Kind.CERTIFIED: KindRule(Channel.CONTROL, 256 * KIB),  # a header and up to 128 signatures
    Kind.EPOCH_REQUEST: KindRule(Channel.CONTROL, 64),  # one number
    Kind.EPOCH_RESPONSE: KindRule(Channel.BULK, MIB),  # sixteen certificates
    Kind.SNAPSHOT_REQUEST: KindRule(Channel.CONTROL, 128),  # five small fields
    Kind.SNAPSHOT_RESPONSE: KindRule(Channel.BULK, 8 * MIB),
}

HANDSHAKE_KINDS: Final = frozenset({Kind.HELLO, Kind.HELLO_ACK, Kind.REJECT})

MESSAGE_SIZE_BYTES_MAX: Final = HEADER_SIZE_BYTES + max(rule.size_bytes_max for rule in KINDS.values())

# Indexed by the kind's byte: one list access on the hot path instead of two hashes of an enum member.
_RULES: Final[list[tuple[Kind, int] | None]] = [None] * 256
for _kind, _rule in KINDS.items():
    _RULES[_kind] = (_kind, _rule.size_bytes_max)

pack_header = _HEADER.pack


def check_payload(kind: Kind, payload: bytes) -> None:
    """Raise ValueError if `payload` is over the limit of `kind`: our own mistake, found before a peer punishes it."""
    if len(payload) > KINDS[kind].size_bytes_max:
        raise ValueError(f"{kind.name} payload of {len(payload)} bytes is over the limit")


def encode_frame(kind: Kind, payload: bytes) -> bytes:
    """One frame, which is also a whole message. ValueError if the payload is over the kind's limit."""
    check_payload(kind, payload)
    return pack_header(kind, len(payload)) + payload


def encode_frames(frames: Iterable[tuple[Kind, bytes]]) -> list[bytes]:
    """The messages that carry `frames` in their order, each coalesced as far as the target and count limit allow."""
    messages: list[bytes] = []
    parts: list[bytes] = []
    size_bytes = 0
    for kind, payload in frames:
        frame = encode_frame(kind, payload)
        if parts and (size_bytes + len(frame) > MESSAGE_SIZE_BYTES_TARGET or len(parts) == FRAMES_PER_MESSAGE_MAX):
            messages.append(b"".join(parts))
            parts, size_bytes = [], 0
        parts.append(frame)
        size_bytes += len(frame)
    if parts:
        messages.append(b"".join(parts))
    return messages


def decode_frames(message: bytes) -> list[tuple[Kind, bytes]]:
    """The frames of one message; FrameError for anything that `encode_frames` could not have made.

    Refused: no frame, unknown kinds, a payload over its kind's limit, truncation, trailing bytes, more frames than
    FRAMES_PER_MESSAGE_MAX, and several frames in a message over the coalescing target.
    """
    size_bytes = len(message)
    frames: list[tuple[Kind, bytes]] = []
    position = 0
    while position < size_bytes:
        start = position + HEADER_SIZE_BYTES
        if start > size_bytes:
            raise FrameError(Fault.MALFORMED_FRAME)
        number, length = _HEADER.unpack_from(message, position)
        rule = _RULES[number]
        if rule is None:
            raise FrameError(Fault.UNEXPECTED_KIND)
        if length > rule[1]:
            raise FrameError(Fault.FRAME_TOO_LARGE)
        position = start + length
        if position > size_bytes or len(frames) == FRAMES_PER_MESSAGE_MAX:
            raise FrameError(Fault.MALFORMED_FRAME)
        frames.append((rule[0], message[start:position]))
    if not frames or (len(frames) > 1 and size_bytes > MESSAGE_SIZE_BYTES_TARGET):
        raise FrameError(Fault.MALFORMED_FRAME)
    return frames
