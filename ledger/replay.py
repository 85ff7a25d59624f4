"""Replay protection: which (sender, nonce) were executed and could still be valid.

Derived from the blocks of the last `validity_heights_max` heights and from nothing else, so it needs no room in the
state tree: a node that starts, or joins by snapshot, feeds the blocks of that window through `add` (docs/adr/0004).
"""

from __future__ import annotations

from collections.abc import Iterable


class ReplayWindow:
    """Keys by the last height at which their transaction could be executed; dropped when that height has passed."""

    def __init__(self) -> None:
        self._by_height: dict[int, set[bytes]] = {}
        self._keys: set[bytes] = set()

    def __contains__(self, replay_key: bytes) -> bool:
        return replay_key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, entries: Iterable[tuple[bytes, int]]) -> None:
        """Remember (replay key, valid-until height) of executed transactions."""
        for key, valid_until in entries:
            self._by_height.setdefault(valid_until, set()).add(key)
            self._keys.add(key)

    def expire(self, height: int) -> None:
        """Forget what cannot be executed any more once `height` is done."""
        for passed in [known for known in self._by_height if known <= height]:
            self._keys -= self._by_height.pop(passed)
