"""Replay protection: which (sender, nonce) were executed and could still be valid.

Derived from the blocks of the last `validity_heights_max` heights and from nothing else, so it needs no room in the
state tree: a node that starts, or joins by snapshot, feeds the blocks of that window through `add` (docs/adr/0004).
"""

from __future__ import annotations

from collections.abc import Iterable


class ReplayWindow:
    """Keys by the last height at which their transaction could be executed; dropped when that height has passed. Of a
    key that came with several, the greatest counts: whoever reads the window's blocks alone may see no other.
    """

    def __init__(self) -> None:
        self._by_height: dict[int, set[bytes]] = {}
        self._keys: dict[bytes, int] = {}

    def __contains__(self, replay_key: bytes) -> bool:
        return replay_key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, entries: Iterable[tuple[bytes, int]]) -> None:
        """Remember (replay key, valid-until height) of executed transactions."""
        for key, valid_until in entries:
            if self._keys.get(key, -1) < valid_until:
                self._by_height.setdefault(valid_until, set()).add(key)
                self._keys[key] = valid_until

    def expire(self, height: int) -> None:
        """Forget what cannot be executed any more once `height` is done."""
        for passed in [known for known in self._by_height if known <= height]:
            for key in self._by_height.pop(passed):
                if self._keys[key] == passed:
                    del self._keys[key]
