"""The queue of one peer: order, limits, what is dropped and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.frames import (
    FRAMES_PER_MESSAGE_MAX,
    HEADER_SIZE_BYTES,
    KIB,
    KINDS,
    MESSAGE_SIZE_BYTES_TARGET,
    MIB,
    Channel,
    Kind,
    decode_frames,
)
from p2p.queues import STARVED_AFTER, LaneLimit, OutQueue, QueueLimits

SENDABLE = [Kind.VOTE, Kind.STATUS, Kind.BATCH, Kind.CERTIFIED, Kind.BLOCK_REQUEST]


def drain(queue: OutQueue) -> list[list[tuple[Kind, bytes]]]:
    messages = []
    while message := queue.next_message():
        messages.append(decode_frames(message))
    return messages


def test_empty_queue_has_no_message() -> None:
    queue = OutQueue()
    assert queue.next_message() == b""
    assert len(queue) == 0


def test_consensus_goes_before_control_before_bulk() -> None:
    queue = OutQueue()
    for kind in (Kind.BATCH, Kind.STATUS, Kind.VOTE):
        assert queue.put(kind, kind.name.encode())
    (message,) = drain(queue)
    assert [kind for kind, _ in message] == [Kind.VOTE, Kind.STATUS, Kind.BATCH]


def test_vote_overtakes_a_megabyte_of_bulk() -> None:
    queue = OutQueue()
    for _ in range(16):
        queue.put(Kind.BATCH, bytes(64 * KIB - HEADER_SIZE_BYTES))
    queue.next_message()
    queue.put(Kind.VOTE, b"late")
    assert decode_frames(queue.next_message())[0] == (Kind.VOTE, b"late")


@given(st.lists(st.tuples(st.sampled_from(SENDABLE), st.binary(max_size=4_000)), max_size=60))
def test_every_frame_leaves_once_and_in_order_within_its_channel(frames: list[tuple[Kind, bytes]]) -> None:
    queue = OutQueue()
    for kind, payload in frames:
        assert queue.put(kind, payload)
    sent = [frame for message in drain(queue) for frame in message]
    for channel in Channel:
        assert [f for f in sent if KINDS[f[0]].channel is channel] == [
            f for f in frames if KINDS[f[0]].channel is channel
        ]
    assert queue.waiting_bytes() == (0, 0, 0)
    assert sum(queue.sent_bytes()) == sum(HEADER_SIZE_BYTES + len(payload) for _, payload in frames)


def test_messages_are_coalesced_up_to_the_target_and_the_count_limit() -> None:
    queue = OutQueue()
    for _ in range(FRAMES_PER_MESSAGE_MAX + 1):
        queue.put(Kind.VOTE, b"")
    assert [len(message) for message in drain(queue)] == [FRAMES_PER_MESSAGE_MAX, 1]
    for _ in range(7):
        queue.put(Kind.VOTE, bytes(20_000))
    sizes = [sum(HEADER_SIZE_BYTES + len(payload) for _, payload in message) for message in drain(queue)]
    assert len(sizes) == 3
    assert max(sizes) <= MESSAGE_SIZE_BYTES_TARGET


def test_large_frame_travels_alone_and_nothing_lesser_slips_in_before_it() -> None:
    queue = OutQueue()
    queue.put(Kind.STATUS, b"s")
    queue.put(Kind.VOTE, b"v")
    queue.put(Kind.VOTE, bytes(MIB))
    assert [[kind for kind, _ in message] for message in drain(queue)] == [[Kind.VOTE], [Kind.VOTE], [Kind.STATUS]]


def test_bulk_leaves_once_in_sixteen_messages_under_constant_consensus() -> None:
    queue = OutQueue()
    queue.put(Kind.BATCH, bytes(MIB))
    waited = 0
    while True:
        queue.put(Kind.VOTE, b"v")
        kinds = [kind for kind, _ in decode_frames(queue.next_message())]
        if Kind.BATCH in kinds:
            break
        waited += 1
    assert waited == STARVED_AFTER == 15


def test_control_is_not_starved_either() -> None:
    queue = OutQueue()
    queue.put(Kind.CERTIFIED, bytes(KIB))
    for _ in range(STARVED_AFTER):
        queue.put(Kind.VOTE, bytes(MESSAGE_SIZE_BYTES_TARGET))
        assert decode_frames(queue.next_message())[0][0] is Kind.VOTE
    queue.put(Kind.VOTE, bytes(MESSAGE_SIZE_BYTES_TARGET))
    assert decode_frames(queue.next_message())[0][0] is Kind.CERTIFIED


def limits(frames_max: int) -> QueueLimits:
    return QueueLimits(*(LaneLimit(frames_max, 9 * MIB) for _ in Channel))


def test_full_bulk_lane_refuses_the_new_frame() -> None:
    queue = OutQueue(limits(2))
    assert [queue.put(Kind.BATCH, bytes([n])) for n in range(3)] == [True, True, False]
    assert drain(queue) == [[(Kind.BATCH, b"\x00"), (Kind.BATCH, b"\x01")]]
    assert queue.dropped() == (0, 0, 1)
    assert queue.put(Kind.BATCH, b"again")


@pytest.mark.parametrize("kind", [Kind.VOTE, Kind.STATUS])
def test_full_urgent_lane_drops_the_oldest(kind: Kind) -> None:
    queue = OutQueue(limits(2))
    assert [queue.put(kind, bytes([n])) for n in range(3)] == [True] * 3
    assert drain(queue) == [[(kind, b"\x01"), (kind, b"\x02")]]
    assert sum(queue.dropped()) == 1


def test_queue_stays_within_its_bytes_whatever_is_put() -> None:
    """Trap 33: what one peer makes us hold is bounded."""
    queue = OutQueue()
    accepted = [queue.put(Kind.BLOCK_RESPONSE, bytes(5 * MIB)) for _ in range(10)]
    assert accepted.count(True) == 4
    for _ in range(10):
        queue.put(Kind.VOTE, bytes(3 * MIB))
    consensus, _, bulk = queue.waiting_bytes()
    assert consensus <= QueueLimits().consensus.size_bytes_max
    assert bulk <= QueueLimits().bulk.size_bytes_max
    assert queue.lengths() == (2, 0, 4)


def test_oversized_payload_is_a_local_mistake() -> None:
    with pytest.raises(ValueError, match="over the limit"):
        OutQueue().put(Kind.STATUS, bytes(5 * KIB))


def test_lane_must_hold_its_largest_frame() -> None:
    with pytest.raises(ValueError, match="BULK"):
        QueueLimits(bulk=LaneLimit(10, 8 * MIB))
