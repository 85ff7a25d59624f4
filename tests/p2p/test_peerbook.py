"""The peer book: when to dial, how back-off grows and heals, bans, bounds, and which of two connections stays."""

from __future__ import annotations

from random import Random

import pytest

from p2p.errors import Fault
from p2p.peerbook import PeerBook, PeerBookConfig, Source, replaces

OWN, SMALL, LARGE = b"\x01m", b"\x01a", b"\x01z"


def book(**changes: int) -> PeerBook:
    return PeerBook(OWN, Random(7), PeerBookConfig(**changes))


def keys_due(peers: PeerBook, now_ms: int) -> list[bytes]:
    return [address.key for address in peers.due(now_ms)]


def test_new_address_is_dialled_at_once_by_the_smaller_key_and_after_a_grace_by_the_larger() -> None:
    peers = book()
    peers.add(LARGE, "127.0.0.1", 1, Source.CONFIG, 0)
    peers.add(SMALL, "127.0.0.1", 2, Source.CONFIG, 0)
    assert keys_due(peers, 0) == [LARGE]
    assert peers.next_due_ms(0) == 300
    assert keys_due(peers, 299) == []
    assert keys_due(peers, 300) == [SMALL]
    assert peers.next_due_ms(300) is None


def test_address_is_not_dialled_twice_while_a_dial_or_a_connection_stands() -> None:
    peers = book()
    peers.add(LARGE, "h", 1, Source.CONFIG, 0)
    assert keys_due(peers, 0) == [LARGE]
    assert keys_due(peers, 1) == []
    peers.connected(LARGE, 2)
    assert keys_due(peers, 100_000) == []
    peers.disconnected(LARGE, 100_000)
    assert keys_due(peers, 100_200) == [LARGE]


def delays(peers: PeerBook, failures: int) -> list[int]:
    found, now_ms = [], 0
    for _ in range(failures):
        peers.due(now_ms)
        peers.dial_failed(LARGE, now_ms)
        due_ms = peers.next_due_ms(now_ms)
        assert due_ms is not None
        found.append(due_ms - now_ms)
        now_ms = due_ms
    return found


def test_back_off_doubles_its_ceiling_up_to_the_cap() -> None:
    ceilings = [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000]
    worst = [0] * len(ceilings)
    for seed in range(200):
        peers = PeerBook(OWN, Random(seed))
        peers.add(LARGE, "h", 1, Source.CONFIG, 0)
        found = delays(peers, len(ceilings))
        assert all(1 <= delay <= ceiling for delay, ceiling in zip(found, ceilings, strict=True))
        worst = [max(pair) for pair in zip(worst, found, strict=True)]
    assert all(seen > 0.9 * ceiling for seen, ceiling in zip(worst, ceilings, strict=True))


def test_jitter_is_full_so_that_restarted_nodes_do_not_knock_together() -> None:
    first = set()
    for seed in range(100):
        peers = PeerBook(OWN, Random(seed))
        peers.add(LARGE, "h", 1, Source.CONFIG, 0)
        first.add((delays(peers, 1)[0] - 1) // 20)
    assert len(first) == 10


@pytest.mark.parametrize(("lived_ms", "ceiling_ms"), [(9_999, 10_000), (10_000, 200)])
def test_back_off_starts_anew_only_after_a_connection_that_lived(lived_ms: int, ceiling_ms: int) -> None:
    worst = 0
    for seed in range(60):
        peers = PeerBook(OWN, Random(seed))
        peers.add(LARGE, "h", 1, Source.CONFIG, 0)
        delays(peers, 8)
        peers.connected(LARGE, 100_000)
        peers.disconnected(LARGE, 100_000 + lived_ms)
        due_ms = peers.next_due_ms(100_000 + lived_ms)
        assert due_ms is not None
        worst = max(worst, due_ms - 100_000 - lived_ms)
    assert 0.8 * ceiling_ms < worst <= ceiling_ms


def test_refused_second_dial_does_not_undo_the_connection() -> None:
    peers = book()
    peers.add(LARGE, "h", 1, Source.CONFIG, 0)
    peers.due(0)
    peers.connected(LARGE, 5)
    peers.dial_failed(LARGE, 6)
    assert peers.next_due_ms(60_000) is None


def test_ban_grows_from_a_second_to_a_minute_and_stops_dialling() -> None:
    peers = book()
    peers.add(LARGE, "h", 1, Source.CONFIG, 0)
    durations = []
    for now_ms in range(9):
        until_ms = peers.misbehaved(LARGE, now_ms, Fault.BAD_SIGNATURE)
        durations.append(until_ms - now_ms)
        assert peers.is_banned(LARGE, until_ms - 1)
        assert not peers.is_banned(LARGE, until_ms)
        assert peers.next_due_ms(now_ms) == until_ms
    assert durations == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]


def test_ban_is_redeemed_by_time_without_faults() -> None:
    """Trap 19."""
    peers = book()
    for _ in range(5):
        peers.misbehaved(LARGE, 0, Fault.WRONG_CHAIN)
    assert peers.misbehaved(LARGE, 5 * 60_000, Fault.WRONG_CHAIN) == 5 * 60_000 + 1_000


def test_bans_and_addresses_are_bounded() -> None:
    """Trap 33."""
    peers = book(addresses_max=3, bans_max=3)
    added = [peers.add(bytes([n]), "h", n, Source.HELLO, 0) for n in range(1, 6)]
    assert added == [True, True, True, False, False]
    for n in range(5):
        peers.misbehaved(bytes([n]), n, Fault.MALFORMED_FRAME)
    assert [n for n in range(5) if peers.is_banned(bytes([n]), 4)] == [2, 3, 4]


def test_better_source_wins_over_a_lesser_one() -> None:
    peers = book()
    assert peers.add(LARGE, "configured", 1, Source.CONFIG, 0)
    assert not peers.add(LARGE, "said", 2, Source.HELLO, 0)
    assert not peers.add(LARGE, "chain", 2, Source.CHAIN, 0)
    address = peers.address(LARGE)
    assert address is not None
    assert address.host == "configured"
    assert peers.add(SMALL, "said", 2, Source.HELLO, 0)
    assert peers.add(SMALL, "configured", 2, Source.CONFIG, 0)
    assert not peers.add(OWN, "own", 1, Source.CONFIG, 0)


def test_new_address_of_a_known_key_is_tried_at_once() -> None:
    peers = book()
    peers.add(LARGE, "old", 1, Source.CONFIG, 0)
    delays(peers, 8)
    peers.add(LARGE, "new", 1, Source.CONFIG, 50_000)
    assert [address.host for address in peers.due(50_000)] == ["new"]


def test_forgotten_key_is_neither_dialled_nor_banned() -> None:
    peers = book()
    peers.add(LARGE, "h", 1, Source.CONFIG, 0)
    peers.misbehaved(LARGE, 0, Fault.WRONG_CHAIN)
    peers.remove(LARGE)
    assert peers.next_due_ms(0) is None
    assert not peers.is_banned(LARGE, 0)
    peers.dial_failed(LARGE, 1)
    peers.disconnected(LARGE, 1)
    assert peers.address(LARGE) is None


@pytest.mark.parametrize("first_by_small", [True, False])
def test_of_two_crossing_connections_both_sides_keep_the_one_dialled_by_the_smaller_key(first_by_small: bool) -> None:
    small, large = b"a", b"b"
    at_small = replaces(small, large, new_dialled=not first_by_small, old_dialled=first_by_small, same_instance=True)
    at_large = replaces(large, small, new_dialled=first_by_small, old_dialled=not first_by_small, same_instance=True)
    assert at_small == at_large == (not first_by_small)


def test_restarted_peer_or_the_same_dialler_replaces_its_old_connection() -> None:
    assert replaces(b"a", b"b", new_dialled=False, old_dialled=True, same_instance=False)
    assert replaces(b"a", b"b", new_dialled=False, old_dialled=False, same_instance=True)
