"""What waits to be sent to one peer: three bounded lanes, drained by strict priority into coalesced messages.

CONSENSUS goes before CONTROL before BULK, but a lane that was passed over in STARVED_AFTER messages leads the next
one. A full BULK lane refuses (the sender must know and may retry); a full CONSENSUS or CONTROL lane drops its oldest
frames, because newer votes and statuses are worth more and status exchange repairs what is lost.

Pure. Must not know sockets or what a payload means. See docs/p2p.md, section 3.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from p2p.frames import (
    FRAMES_PER_MESSAGE_MAX,
    HEADER_SIZE_BYTES,
    KINDS,
    MESSAGE_SIZE_BYTES_TARGET,
    MIB,
    Channel,
    Kind,
    check_payload,
    pack_header,
)

STARVED_AFTER = 15  # so at least every 16th message begins with a lane that waited: bulk is slow, never stuck


@dataclass(frozen=True, slots=True)
class LaneLimit:
    """The most that may wait in one lane, headers included."""

    frames_max: int
    size_bytes_max: int


def lane_size_bytes_min(channel: Channel) -> int:
    """What a lane must hold: the largest frame of its channel, with its header."""
    return HEADER_SIZE_BYTES + max(rule.size_bytes_max for rule in KINDS.values() if rule.channel is channel)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Limits per lane. Each lane holds at least the largest frame of its channel."""

    consensus: LaneLimit = LaneLimit(4_096, 8 * MIB)  # windows of votes, and one 4 MiB new-view
    control: LaneLimit = LaneLimit(1_024, 2 * MIB)
    bulk: LaneLimit = LaneLimit(1_024, 24 * MIB)  # two block responses and some batches

    def __post_init__(self) -> None:
        for channel, limit in zip(Channel, (self.consensus, self.control, self.bulk), strict=True):
            if limit.frames_max < 1 or limit.size_bytes_max < lane_size_bytes_min(channel):
                raise ValueError(f"the {channel.name} lane cannot hold its largest frame")


@dataclass(slots=True)
class _Lane:
    limit: LaneLimit
    frames: deque[tuple[Kind, bytes]] = field(default_factory=deque)
    size_bytes: int = 0
    passed_over: int = 0
    sent_bytes: int = 0
    dropped: int = 0

    def pop(self) -> tuple[Kind, bytes]:
        frame = self.frames.popleft()
        self.size_bytes -= HEADER_SIZE_BYTES + len(frame[1])
        return frame


_CHANNELS: dict[Kind, Channel] = {kind: rule.channel for kind, rule in KINDS.items()}


class OutQueue:
    """The frames waiting for one peer."""

    __slots__ = ("_lanes",)

    def __init__(self, limits: QueueLimits | None = None) -> None:
        limits = limits or QueueLimits()
        self._lanes = (_Lane(limits.consensus), _Lane(limits.control), _Lane(limits.bulk))

    def __len__(self) -> int:
        return sum(len(lane.frames) for lane in self._lanes)

    def put(self, kind: Kind, payload: bytes) -> bool:
        """Queue a frame; False if its lane is BULK and full. ValueError if the payload is over the kind's limit."""
        check_payload(kind, payload)
        channel = _CHANNELS[kind]
        lane = self._lanes[channel]
        size_bytes = HEADER_SIZE_BYTES + len(payload)
        limit = lane.limit
        while len(lane.frames) >= limit.frames_max or lane.size_bytes + size_bytes > limit.size_bytes_max:
            lane.dropped += 1
            if channel is Channel.BULK:
                return False
            lane.pop()
        lane.frames.append((kind, payload))
        lane.size_bytes += size_bytes
        return True

    def next_message(self) -> bytes:
        """The next message to send, removed from the queue; empty when nothing waits."""
        parts: list[bytes] = []
        size_bytes = 0
        room = True
        for lane in self._lanes_in_turn():
            taken_bytes = 0
            while room and lane.frames:
                kind, payload = lane.frames[0]
                frame_bytes = HEADER_SIZE_BYTES + len(payload)
                full = size_bytes + frame_bytes > MESSAGE_SIZE_BYTES_TARGET or len(parts) == 2 * FRAMES_PER_MESSAGE_MAX
                # What does not fit ends the message even if a lesser lane had something smaller: order is priority.
                if parts and full:
                    room = False
                    break
                lane.pop()
                parts += (pack_header(kind, len(payload)), payload)
                size_bytes += frame_bytes
                taken_bytes += frame_bytes
            lane.sent_bytes += taken_bytes
            lane.passed_over = lane.passed_over + 1 if lane.frames and not taken_bytes else 0
        return b"".join(parts)

    def lengths(self) -> tuple[int, ...]:
        """Frames waiting, by channel."""
        return tuple(len(lane.frames) for lane in self._lanes)

    def waiting_bytes(self) -> tuple[int, ...]:
        """Bytes waiting, headers included, by channel."""
        return tuple(lane.size_bytes for lane in self._lanes)

    def sent_bytes(self) -> tuple[int, ...]:
        """Bytes handed out by `next_message` so far, by channel."""
        return tuple(lane.sent_bytes for lane in self._lanes)

    def dropped(self) -> tuple[int, ...]:
        """Frames dropped (CONSENSUS, CONTROL) or refused (BULK) so far, by channel."""
        return tuple(lane.dropped for lane in self._lanes)

    def _lanes_in_turn(self) -> tuple[_Lane, ...] | list[_Lane]:
        starved = [lane for lane in self._lanes if lane.passed_over >= STARVED_AFTER]
        if not starved:
            return self._lanes
        return starved + [lane for lane in self._lanes if lane.passed_over < STARVED_AFTER]
