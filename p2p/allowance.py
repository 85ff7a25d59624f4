"""How much work each peer may cause us by asking: a budget in bytes that refills with time, as a pure core.

A request of ten bytes may ask for four megabytes. What a peer asks for beyond its budget is not served, so that a
flood of requests costs the flooder its answers and nobody else his turn.

Must not know: what is asked for, networks, clocks (time is an argument).
"""

from __future__ import annotations

from collections.abc import Hashable

REFILL_BYTES_PER_MS = 32 * 1024  # 32 MiB a second: what one catching up from us takes on a good network
BUDGET_BYTES_MAX = 16 * 1024 * 1024  # four full block responses at once


class Allowance:
    """The budgets of all peers; one that is not named here has all of it."""

    def __init__(self) -> None:
        self._left: dict[Hashable, tuple[int, int]] = {}  # peer -> (bytes, as of when); bounded by connected peers

    def left_bytes(self, peer: Hashable, now_ms: int) -> int:
        """What the peer may still ask for; the last answer may have taken it below zero."""
        left, since_ms = self._left.get(peer, (BUDGET_BYTES_MAX, now_ms))
        return min(BUDGET_BYTES_MAX, left + (now_ms - since_ms) * REFILL_BYTES_PER_MS)

    def spend(self, peer: Hashable, size_bytes: int, now_ms: int) -> bool:
        """For a question, before the work: take from the budget. False, and nothing is taken, when none is left."""
        if self.left_bytes(peer, now_ms) <= 0:
            return False
        self.charge(peer, size_bytes, now_ms)
        return True

    def charge(self, peer: Hashable, size_bytes: int, now_ms: int) -> None:
        """For an answer, whatever is left: the question may have taken the last."""
        self._left[peer] = (self.left_bytes(peer, now_ms) - size_bytes, now_ms)

    def forget_refilled(self, now_ms: int) -> None:
        """Drop what is full again. Not when a peer leaves: coming back must not fill its budget."""
        for peer in [known for known in self._left if self.left_bytes(known, now_ms) == BUDGET_BYTES_MAX]:
            del self._left[peer]
