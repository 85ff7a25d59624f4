"""How long a member waits before it suspects its leader: the clockwork of docs/protocol.md, section 4.

One measure, the *limit*, starts at `view_timeout_ms`, doubles with each view that failed up to `view_timeout_ms_max`,
and is halved by each block that the present leader's proposal became within a sixteenth of it. So once it had to grow,
it settles at eight to sixteen times what agreement takes on this network and these disks.

A leader is suspected
- when work waits for a whole limit without a block;
- when he is slow: waits of more than a quarter of the limit add up to ten limits. Quick work pays that back at a
  quarter of its time, rest not at all. That holds at the cap, too, where a network may be as slow as that: a view
  change in ten caps of waiting costs it little, and a leader who would keep it there costs nearly everything;
- when his blocks pass a batch over for ten limits.

All of it is forgotten with the view: whoever failed leads again when his turn comes.

Must not know: messages, votes, what work is.
"""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 10  # limits that a leader may be slow, or pass a batch over
TOLERANCE_MANY_BLOCKS = 2  # the same for a batch once more blocks went by than all the room for batches can fill
MANY_BLOCKS = 128
SLOW_PART = 4  # what is waited beyond this part of the limit counts as slow, and quick work pays back this part
QUICK_PART = 16  # a block decided within this part of the limit halves it


@dataclass(slots=True)
class Patience:
    """Times in milliseconds. `account` begins a step and `observe` ends it."""

    base_ms: int
    cap_ms: int
    _level: int = 0
    _slow: int = 0  # milliseconds waited too long, times SLOW_PART, less what quick work paid back
    _view_began_ms: int = 0
    _view_began_height: int = 0
    _work_since_ms: int | None = None  # since when there is something to wait for
    _waits_since_ms: int | None = None  # the same, or since the last progress
    _accounted_ms: int = 0

    @property
    def limit_ms(self) -> int:
        return min(self.base_ms << self._level, self.cap_ms)

    @property
    def is_capped(self) -> bool:
        return self.limit_ms >= self.cap_ms

    def set_limits(self, base_ms: int, cap_ms: int) -> None:
        """Another epoch's parameters."""
        self.base_ms, self.cap_ms, self._level = base_ms, cap_ms, 0

    def failed(self) -> None:
        """A view ended without a block, or by suspicion."""
        if not self.is_capped:
            self._level += 1

    def decided(self, took_ms: int) -> None:
        """The present leader's proposal became a block, `took_ms` after it was known."""
        if self._level > 0 and took_ms * QUICK_PART <= self.limit_ms:
            self._level -= 1

    def begin_view(self, now_ms: int, height: int) -> None:
        self._view_began_ms, self._view_began_height = now_ms, height
        self._slow = 0

    def account(self, now_ms: int) -> None:
        """What passed since the last step: too long a wait, or work."""
        began_ms, self._accounted_ms = self._accounted_ms, now_ms
        if self._waits_since_ms is None:
            return
        slow_ms = max(0, now_ms - max(began_ms, self._waits_since_ms + self.limit_ms // SLOW_PART))
        quick_ms = now_ms - began_ms - slow_ms  # it comes first
        self._slow = max(0, self._slow - quick_ms) + SLOW_PART * slow_ms

    def observe(self, now_ms: int, has_work: bool, progress_at_ms: int, changing: bool) -> None:
        """Since when there is something to wait for. A view that has not begun is nobody's slowness."""
        if not has_work:
            self._work_since_ms = self._waits_since_ms = None
            return
        if self._work_since_ms is None:
            self._work_since_ms = now_ms
        self._waits_since_ms = None if changing else max(progress_at_ms, self._work_since_ms)

    def ends_ms(self, now_ms: int, progress_at_ms: int) -> int:
        """When a leader who makes no block, or is slow, has had his time. To be asked while there is work."""
        ends_ms = max(progress_at_ms, self._work_since_ms or 0) + self.limit_ms
        if self._waits_since_ms is None:
            return ends_ms
        slow_from_ms = max(now_ms, self._waits_since_ms + self.limit_ms // SLOW_PART)
        slow = max(0, self._slow - (slow_from_ms - now_ms))  # by then, as the time until then is still quick
        left_ms = -((slow - SLOW_PART * TOLERANCE * self.limit_ms) // SLOW_PART)
        return min(ends_ms, slow_from_ms + max(0, left_ms))

    def is_slow(self) -> bool:
        return self._slow >= SLOW_PART * TOLERANCE * self.limit_ms

    def passed_over_at_ms(self, since_ms: int, since_height: int, height: int) -> int:
        """When a batch that waits since then will have waited too long for this view's leader."""
        blocks = height - max(since_height, self._view_began_height)
        tolerance = TOLERANCE if blocks < MANY_BLOCKS else TOLERANCE_MANY_BLOCKS
        return max(since_ms, self._view_began_ms) + tolerance * self.limit_ms
