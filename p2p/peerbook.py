"""Who can be dialled where, when to dial, and who is banned until when.

Identity is the key alone. Addresses are hints: between nodes may stand proxies, so the address dialled differs from the
one a peer listens on, and addresses are never compared. Dialling backs off exponentially with full jitter, so that a
cluster that restarts together does not knock together.

Pure: time in integer milliseconds is an argument, randomness is passed in. See docs/p2p.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from random import Random

from p2p.errors import Fault


class Source(IntEnum):
    """Where an address comes from. What is better known (higher) is not overwritten by what is less."""

    HELLO = 0  # the peer said so itself
    CHAIN = 1  # membership
    CONFIG = 2  # the operator


@dataclass(frozen=True, slots=True)
class PeerBookConfig:
    """Times in milliseconds."""

    backoff_ms_base: int = 200
    backoff_ms_cap: int = 10_000  # a healed network is found again within this time
    stable_ms: int = 10_000  # a connection that lived this long proves the address: back-off starts anew
    grace_ms: int = 300  # the larger key waits so long before its first dial: usually one connection a pair, no race
    ban_ms_base: int = 1_000
    ban_ms_max: int = 60_000  # bans stay short: an honest node with a fault, once repaired, must come back by itself
    redeem_ms: int = 60_000  # each such span without a fault takes one strike away
    addresses_max: int = 1_024  # eight times the validators; the rest is room for followers
    bans_max: int = 1_024  # only authenticated keys are ever banned, so this is not reached by strangers


@dataclass(frozen=True, slots=True)
class Address:
    key: bytes
    host: str
    port: int
    source: Source


@dataclass(slots=True)
class _Entry:
    address: Address
    due_ms: int
    failures: int = 0
    dialling: bool = False
    connected_ms: int | None = None


@dataclass(slots=True)
class _Ban:
    strikes: int
    until_ms: int
    last_ms: int
    fault: Fault


class PeerBook:
    """The addresses and bans of one node."""

    def __init__(self, own_key: bytes, rng: Random, config: PeerBookConfig | None = None) -> None:
        self._own_key = own_key
        self._rng = rng
        self._config = config or PeerBookConfig()
        self._entries: dict[bytes, _Entry] = {}
        self._bans: dict[bytes, _Ban] = {}

    def add(self, key: bytes, host: str, port: int, source: Source, now_ms: int) -> bool:
        """Learn an address; False if it is our own, the book is full, or a better source already named one."""
        if key == self._own_key:
            return False
        entry = self._entries.get(key)
        address = Address(key, host, port, source)
        if entry is not None:
            if source < entry.address.source:
                return False
            if address != entry.address:
                entry.address = address
                entry.failures = 0
                entry.due_ms = now_ms
            return True
        if len(self._entries) >= self._config.addresses_max:
            return False
        grace_ms = self._config.grace_ms if self._own_key > key else 0
        self._entries[key] = _Entry(address, now_ms + grace_ms)
        return True

    def remove(self, key: bytes) -> None:
        """Forget a key's address and ban."""
        self._entries.pop(key, None)
        self._bans.pop(key, None)

    def address(self, key: bytes) -> Address | None:
        entry = self._entries.get(key)
        return None if entry is None else entry.address

    def due(self, now_ms: int) -> list[Address]:
        """The addresses to dial now. Each must be answered by `connected` or `dial_failed`."""
        found = []
        for key, entry in self._entries.items():
            if self._dial_at_ms(key, entry, now_ms) == now_ms:
                entry.dialling = True
                found.append(entry.address)
        return found

    def next_due_ms(self, now_ms: int) -> int | None:
        """When `due` next has something to say; None if nothing is waiting to be dialled."""
        times = (self._dial_at_ms(key, entry, now_ms) for key, entry in self._entries.items())
        return min((time_ms for time_ms in times if time_ms is not None), default=None)

    def dial_failed(self, key: bytes, now_ms: int) -> None:
        """A dial ended without a connection; harmless if the peer connected meanwhile."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.dialling = False
            self._back_off(entry, now_ms)

    def connected(self, key: bytes, now_ms: int) -> None:
        """A connection with `key`, dialled by either side, is established."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.dialling = False
            entry.connected_ms = now_ms

    def disconnected(self, key: bytes, now_ms: int) -> None:
        """The connection with `key` is gone."""
        entry = self._entries.get(key)
        if entry is None or entry.connected_ms is None:
            return
        if now_ms - entry.connected_ms >= self._config.stable_ms:
            entry.failures = 0
        entry.connected_ms = None
        self._back_off(entry, now_ms)

    def misbehaved(self, key: bytes, now_ms: int, fault: Fault) -> int:
        """Ban `key`; returns until when. 1 s the first time, doubling to 60 s, redeemed by time without faults."""
        ban = self._bans.get(key)
        strikes = 0
        if ban is not None:
            strikes = max(0, ban.strikes - (now_ms - ban.last_ms) // self._config.redeem_ms)
        elif len(self._bans) >= self._config.bans_max:
            del self._bans[min(self._bans, key=lambda other: self._bans[other].until_ms)]
        duration_ms = min(self._config.ban_ms_base << min(strikes, 16), self._config.ban_ms_max)
        self._bans[key] = _Ban(strikes + 1, now_ms + duration_ms, now_ms, fault)
        return now_ms + duration_ms

    def is_banned(self, key: bytes, now_ms: int) -> bool:
        ban = self._bans.get(key)
        return ban is not None and now_ms < ban.until_ms

    def _dial_at_ms(self, key: bytes, entry: _Entry, now_ms: int) -> int | None:
        if entry.dialling or entry.connected_ms is not None:
            return None
        ban = self._bans.get(key)
        return max(now_ms, entry.due_ms, 0 if ban is None else ban.until_ms)

    def _back_off(self, entry: _Entry, now_ms: int) -> None:
        config = self._config
        ceiling_ms = min(config.backoff_ms_base << min(entry.failures, 16), config.backoff_ms_cap)
        entry.failures += 1
        entry.due_ms = now_ms + self._rng.randint(1, ceiling_ms)


def replaces(own_key: bytes, peer_key: bytes, *, new_dialled: bool, old_dialled: bool, same_instance: bool) -> bool:
    """Whether a new connection with `peer_key` takes the place of the old one; both sides answer alike.

    `*_dialled` says that we dialled it. A restarted peer (another instance) or the same dialler knows nothing of the
    old connection any more, so the new one wins; of two that crossed, the one dialled by the smaller key stays.
    """
    if not same_instance or new_dialled == old_dialled:
        return True
    return new_dialled == (own_key < peer_key)
