"""Framing: what is encoded decodes to itself, and nothing else decodes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import Fault, FrameError
from p2p.frames import (
    FRAMES_PER_MESSAGE_MAX,
    HANDSHAKE_KINDS,
    HEADER_SIZE_BYTES,
    KINDS,
    MESSAGE_SIZE_BYTES_MAX,
    MESSAGE_SIZE_BYTES_TARGET,
    Channel,
    Kind,
    decode_frames,
    encode_frame,
    encode_frames,
)

ANY_FRAME = st.tuples(st.sampled_from(list(Kind)), st.binary(max_size=60))


def header(kind: int, length: int) -> bytes:
    return struct.pack(">BI", kind, length)


@given(st.lists(ANY_FRAME, max_size=40))
def test_frames_come_back_in_order(frames: list[tuple[Kind, bytes]]) -> None:
    decoded = [frame for message in encode_frames(frames) for frame in decode_frames(message)]
    assert decoded == frames


@given(st.binary(max_size=300))
def test_whatever_decodes_encodes_to_the_same_bytes(message: bytes) -> None:
    try:
        frames = decode_frames(message)
    except FrameError:
        return
    assert encode_frames(frames) == [message]


@given(st.lists(ANY_FRAME, min_size=1, max_size=10), st.data())
def test_truncated_messages_are_refused(frames: list[tuple[Kind, bytes]], data: st.DataObject) -> None:
    message = encode_frames(frames)[0]
    boundaries = {0}
    for kind, payload in frames:
        boundaries.add(max(boundaries) + len(encode_frame(kind, payload)))
    cut = data.draw(st.integers(0, len(message) - 1).filter(lambda at: at not in boundaries - {0}))
    with pytest.raises(FrameError) as caught:
        decode_frames(message[:cut])
    assert caught.value.fault is Fault.MALFORMED_FRAME


def test_every_kind_has_a_channel_and_a_limit() -> None:
    assert set(KINDS) == set(Kind)
    assert KINDS[Kind.VOTE].channel is Channel.CONSENSUS
    assert KINDS[Kind.BATCH].channel is Channel.BULK
    assert {KINDS[kind].channel for kind in HANDSHAKE_KINDS} == {Channel.CONTROL}
    assert max(rule.size_bytes_max for rule in KINDS.values()) + HEADER_SIZE_BYTES == MESSAGE_SIZE_BYTES_MAX


@pytest.mark.parametrize("kind", list(Kind))
def test_limit_of_a_kind_holds_on_both_sides(kind: Kind) -> None:
    """Trap 34."""
    limit = KINDS[kind].size_bytes_max
    assert decode_frames(encode_frame(kind, bytes(limit))) == [(kind, bytes(limit))]
    with pytest.raises(ValueError, match="over the limit"):
        encode_frame(kind, bytes(limit + 1))
    with pytest.raises(FrameError) as caught:  # the announced length alone is enough; no payload is there
        decode_frames(header(kind, limit + 1))
    assert caught.value.fault is Fault.FRAME_TOO_LARGE


@pytest.mark.parametrize("number", [0, 4, 15, 28, 99, 255])
def test_unknown_kind_is_refused(number: int) -> None:
    """Trap 35."""
    with pytest.raises(FrameError) as caught:
        decode_frames(header(number, 0))
    assert caught.value.fault is Fault.UNEXPECTED_KIND


@pytest.mark.parametrize(
    "message", [b"", b"\x10", encode_frame(Kind.VOTE, b"x") + b"\x00", header(Kind.VOTE, 2) + b"x"]
)
def test_malformed_message_is_refused(message: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        decode_frames(message)
    assert caught.value.fault is Fault.MALFORMED_FRAME


def test_number_of_frames_in_a_message_is_limited() -> None:
    full = encode_frame(Kind.STATUS, b"") * FRAMES_PER_MESSAGE_MAX
    assert len(decode_frames(full)) == FRAMES_PER_MESSAGE_MAX
    with pytest.raises(FrameError):
        decode_frames(full + encode_frame(Kind.STATUS, b""))
    messages = encode_frames([(Kind.STATUS, b"")] * (FRAMES_PER_MESSAGE_MAX + 1))
    assert [len(decode_frames(message)) for message in messages] == [FRAMES_PER_MESSAGE_MAX, 1]


def test_coalesced_message_stays_within_the_target() -> None:
    frames = [(Kind.BATCH, bytes(20_000))] * 7
    messages = encode_frames(frames)
    assert [len(decode_frames(message)) for message in messages] == [3, 3, 1]
    assert all(len(message) <= MESSAGE_SIZE_BYTES_TARGET for message in messages)
    with pytest.raises(FrameError):
        decode_frames(b"".join(messages))


def test_large_frame_travels_alone() -> None:
    large = (Kind.BATCH, bytes(MESSAGE_SIZE_BYTES_TARGET))
    small = (Kind.VOTE, b"v")
    messages = encode_frames([small, large, small])
    assert [decode_frames(message) for message in messages] == [[small], [large], [small]]
