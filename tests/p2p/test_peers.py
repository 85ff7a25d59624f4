"""The table of connections, without sockets: admission, replacement, and what the node is told."""

from __future__ import annotations

from random import Random

import pytest

from ledger.crypto import KeyPair, hash_bytes
from p2p.config import Handlers, LimitedLog, TransportConfig
from p2p.connection import Connection
from p2p.errors import Fault, Refusal
from p2p.frames import Kind
from p2p.handshake import Established, Hello, Role
from p2p.peerbook import PeerBook
from p2p.peers import Peers

A, B, C, D = sorted(KeyPair.from_seed(bytes([n]) * 32).public for n in (1, 2, 3, 4))


class FakeLink:
    rtt_ms: float | None = None

    def __init__(self) -> None:
        self.aborted = False

    def address(self) -> str:
        return "fake"

    def abort(self) -> None:
        self.aborted = True


class SilentLog:
    def __init__(self) -> None:
        self.warnings: list[tuple[str, dict[str, object]]] = []

    def debug(self, event: str, **fields: object) -> None: ...

    def info(self, event: str, **fields: object) -> None: ...

    def warning(self, event: str, **fields: object) -> None:
        self.warnings.append((event, fields))


class Table:
    """Node A's table, and what the node heard."""

    def __init__(self, *, peers_max: int = 10) -> None:
        self.events: list[tuple[str, bytes]] = []
        self.roles = {B: "validator", C: "follower"}
        self.log = SilentLog()
        self.peers: Peers[FakeLink] = Peers(
            TransportConfig(peers_max=peers_max),
            A,
            book=PeerBook(A, Random(1)),
            handlers=Handlers(
                lambda key, kind, payload: None,
                lambda key: self.events.append(("up", key)),
                lambda key: self.events.append(("down", key)),
            ),
            allowed=self.roles.get,
            log=self.log,
            limited_log=LimitedLog(self.log),
            changed=lambda: None,
        )

    def establish(self, peer: Hello, *, dialled: bool = True) -> Connection[FakeLink]:
        return self.peers.establish(FakeLink(), Established(peer, 1), dialled=dialled)


def hello(key: bytes, instance: bytes = b"1") -> Hello:
    return Hello(
        chain_id=hash_bytes(b"chain"),
        key=key,
        role=Role.VALIDATOR,
        software="test",
        height=0,
        instance=instance * 16,
        challenge=bytes(16),
    )


def test_second_connection_of_the_same_process_keeps_the_queue_and_tells_the_node_nothing() -> None:
    table = Table()
    old = table.establish(hello(B), dialled=False)
    assert table.peers.send(B, Kind.VOTE, b"waiting")
    new = table.establish(hello(B), dialled=True)
    assert old.link.aborted
    assert new.queue.lengths() == (1, 0, 0)
    assert table.events == [("up", B)]
    table.peers.drop(old)
    assert table.peers.connections() == [new]


def test_restarted_peer_starts_with_an_empty_queue_and_is_announced_down_and_up() -> None:
    table = Table()
    table.establish(hello(B, b"1"))
    table.peers.send(B, Kind.VOTE, b"for the old process")
    new = table.establish(hello(B, b"2"))
    assert new.queue.lengths() == (0, 0, 0)
    assert table.events == [("up", B), ("down", B), ("up", B)]


def test_crossing_connection_dialled_by_the_larger_key_is_a_duplicate() -> None:
    table = Table()
    table.establish(hello(B), dialled=True)
    assert table.peers.refusal(hello(B), dialled=False) is Refusal.DUPLICATE
    assert table.peers.refusal(hello(B), dialled=True) is None
    assert table.peers.refusal(hello(B, b"2"), dialled=False) is None


def test_stranger_banned_key_and_a_full_table_are_refused() -> None:
    table = Table(peers_max=1)
    table.roles[D] = "follower"
    assert table.peers.refusal(hello(A), dialled=False) is Refusal.NOT_MEMBER
    table.establish(hello(C))
    assert table.peers.refusal(hello(D), dialled=False) is Refusal.BUSY
    table.peers.misbehaved(C, Fault.BAD_SIGNATURE)
    assert table.peers.refusal(hello(C), dialled=False) is Refusal.BUSY
    assert table.peers.refusal(hello(D), dialled=False) is None


@pytest.mark.parametrize("dialled", [False, True])
def test_followers_keep_no_validator_out_and_validators_no_follower(dialled: bool) -> None:
    table = Table(peers_max=1)
    table.roles[D] = "validator"
    table.establish(hello(B))
    assert table.peers.refusal(hello(C), dialled=dialled) is None
    table.establish(hello(C))
    assert table.peers.refusal(hello(D), dialled=dialled) is None


def test_a_place_is_free_from_when_its_follower_is_a_validator_until_it_is_none() -> None:
    table = Table(peers_max=1)
    table.roles[D] = "follower"
    table.establish(hello(C))
    for role, refusal in (("validator", None), ("follower", Refusal.BUSY)):
        table.roles[C] = role
        table.peers.recheck()
        assert table.peers.refusal(hello(D), dialled=False) is refusal
    assert C in table.peers, "who was connected stays"


def test_misbehaving_peer_is_dropped_once() -> None:
    table = Table()
    connection = table.establish(hello(B))
    for _ in range(3):
        table.peers.misbehaved(B, Fault.MALFORMED_FRAME)
    assert connection.closed
    assert table.events == [("up", B), ("down", B)]
    assert len(table.log.warnings) == 1  # the other two are counted in the next line, ten seconds later


def test_membership_change_drops_strangers_and_takes_over_roles() -> None:
    table = Table()
    table.establish(hello(B))
    kept = table.establish(hello(C))
    del table.roles[B]
    table.roles[C] = "validator"
    table.peers.recheck()
    assert table.peers.connections() == [kept]
    assert kept.role == "validator"


def test_broadcast_reaches_all_or_the_named_and_counts_who_took_it() -> None:
    table = Table()
    table.establish(hello(B))
    table.establish(hello(C))
    assert table.peers.broadcast(Kind.STATUS, b"", None) == 2
    assert table.peers.broadcast(Kind.STATUS, b"", [C, A]) == 1
    assert [info.queued_frames for info in table.peers.info()] == [(0, 1, 0), (0, 2, 0)]


def test_handler_that_raises_does_not_break_the_table() -> None:
    table = Table()

    def fail(key: bytes) -> None:
        raise RuntimeError("patient name")

    table.peers._handlers = Handlers(lambda key, kind, payload: None, fail, fail)
    connection = table.establish(hello(B))
    table.peers.drop(connection)
    assert B not in table.peers
    assert [fields["handler"] for _, fields in table.log.warnings] == ["on_peer_up"]
    assert "patient" not in str(table.log.warnings)


@pytest.mark.parametrize(("after_ms", "written"), [(9_999, 1), (10_000, 2)])
def test_limited_log_writes_one_line_a_kind_and_counts_the_rest(after_ms: int, written: int) -> None:
    log = SilentLog()
    limited = LimitedLog(log)
    for now_ms in (0, 1, 2, after_ms):
        limited.warning("noise", now_ms)
    assert len(log.warnings) == written
    if written == 2:
        assert log.warnings[1] == ("noise", {"left_out": 2})
