"""What a client process does besides its sockets."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bench import client, comet_client
from bench.client import NOT_ANSWERED, POST_INTERVAL_S, Generator, lag_p99_ms, problem_code, read_out, write_out
from bench.http import parse_head
from bench.mix import World
from bench.observer import BenchError
from bench.processes import going_first
from bench.schedule import due_times
from bench.signing import Order, Share, Signer, sign_share, unsigned_share, write_signed
from ledger.crypto import verify_joined
from ledger.transaction import Transaction
from tests.bench.test_comet import an_order as comet_order


def an_order(index: int) -> Order:
    return Order(
        parent_pid=1, seed=3, mix="standard", rate=100.0, duration_s=1.0, poisson=True, spacing=2, size_bytes=0,
        accounts=0, post_txs_max=2_000, index=index,
        clients=3, chain_id=(b"\x01" + bytes(32)).hex(), validity_heights=10, is_ahead=False,
        urls=["http://127.0.0.1:1"], out="",
    )  # fmt: skip


def test_the_clients_shares_are_the_whole_run_and_do_not_overlap() -> None:
    times = due_times(100.0, 1.0, poisson=True, seed=3)
    shares = [sign_share(an_order(index)) for index in range(3)]
    assert sorted(due_s for share in shares for due_s in share.due_s) == times
    ids = [tx_id for share in shares for tx_id in share.ids]
    assert len(set(ids)) == len(ids) == len(times)
    assert all(verify_joined(wire) for share in shares for wire in share.wires)


@pytest.mark.asyncio
async def test_what_is_signed_ahead_is_taken_as_it_is_needed() -> None:
    order = an_order(1)
    whole, share = sign_share(order), unsigned_share(order)
    reader, out = asyncio.StreamReader(), io.BytesIO()
    for wire in whole.wires:
        write_signed(out, Transaction.decode(wire))
    reader.feed_data(out.getvalue())
    signer = Signer(share, ahead_txs=4)
    taking = asyncio.create_task(signer.take(reader))
    await signer.full.wait()
    assert (share.ready, share.wires[4]) == (4, b"")
    signer.posted(2)
    signer.full.clear()
    await signer.full.wait()
    assert share.ready == 6
    signer.posted(len(share.wires))
    await taking
    assert (share.wires, share.ids, share.due_s) == (whole.wires, whole.ids, whole.due_s)


def test_what_a_client_writes_is_what_its_parent_reads(tmp_path: Path) -> None:
    world = World(1, "standard", 3, 1)
    ids = [world.name("id", number) for number in range(3)]
    write_out(tmp_path / "out", ids, [0, 3001, NOT_ANSWERED])
    assert read_out(tmp_path / "out") == [(ids[0], 0), (ids[1], 3001), (ids[2], None)]


def test_the_code_of_a_problem_document_is_its_number() -> None:
    assert problem_code({"code": "MC3001"}) == 3001


def test_an_answers_head_gives_status_and_size() -> None:
    assert parse_head(b"HTTP/1.1 202 Accepted\r\nServer: x\r\ncontent-length: 17\r\n\r\n") == (202, 17)
    assert parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n") == (200, None)
    for bad in (b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"):
        with pytest.raises(ValueError, match=r"Content-Length|limit"):
            parse_head(bad)


@pytest.mark.asyncio
async def test_a_connection_that_the_node_ended_while_it_was_idle_is_not_used_again() -> None:
    """Each connection here is good for one answer."""
    served = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
        served += 1
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        generator = Generator(Share([0.0, 0.0], [b"a", b"b"], [b"", b""], 2), [url], 2_000)
        await generator._post(0, 0, 1)
        while generator._idle[0][0].is_open:
            await asyncio.sleep(0)
        await generator._post(0, 1, 2)
        generator.close()
    assert (generator.posts, generator.failed_posts, served) == (2, 0, 2)
    assert list(generator.codes) == [0, 0]


def a_generator(due_s: list[float], phase: float = 0.0) -> Generator:
    count = len(due_s)
    return Generator(Share(due_s, [b"a"] * count, [b""] * count, count), ["http://127.0.0.1:1"], 2_000, phase)


def test_each_transaction_is_late_by_what_passed_since_the_tick_after_it_was_due() -> None:
    generator = a_generator([0.0, 0.020, 0.021, 0.039])
    generator._note_lags(0, 4, 0.0453)
    assert generator.lags == {253: 2, 53: 2}
    generator._note_lags(0, 1, 0.0199)
    assert generator.lags[0] == 1


def test_the_ticks_of_a_later_client_are_later() -> None:
    generator = a_generator([0.0, 0.009, 0.011, 0.031], phase=0.5)
    generator._note_lags(0, 4, 0.050)
    assert generator.lags == {200: 3, 0: 1}


class _Taken:
    """A connection that takes every post."""

    is_open = True

    async def request(self, *_: object) -> tuple[int, bytes]:
        return 202, b""


@pytest.mark.asyncio
async def test_what_waits_for_a_connection_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = a_generator([0.0])
    generator._start_s = time.monotonic()

    async def connection(node: int) -> _Taken:
        generator._start_s -= 1.0  # as if it had taken a second
        return _Taken()

    monkeypatch.setattr(generator, "_connection", connection)
    await generator._post(0, 0, 1)
    (late,) = generator.lags
    assert late >= (1.0 - POST_INTERVAL_S) * 10_000


@pytest.mark.asyncio
async def test_a_client_goes_first_once_it_is_told_to_begin_and_on_if_it_may_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[object] = []

    def refused(*given: object) -> None:
        done.append(given[:2])
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    monkeypatch.setattr(client, "say", lambda document: done.append(next(iter(document))))
    monkeypatch.setattr("sys.stdin", io.StringIO("0.0\n"))
    await client.serve(a_generator([]), tmp_path / "out")
    assert done == ["signed", (0, os.SCHED_RR | os.SCHED_RESET_ON_FORK), "lags"]


def test_who_went_first_waits_its_turn_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda pid, policy, priority: done.append(policy))
    with pytest.raises(BenchError), going_first():
        raise BenchError("in the middle of a run")
    assert done == [os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.SCHED_OTHER]


@pytest.mark.parametrize(
    ("module", "order", "phase"), [(client, an_order(1), 1 / 3), (comet_client, comet_order(index=1), 1 / 2)]
)
def test_each_client_lies_between_the_others(
    monkeypatch: pytest.MonkeyPatch, module: Any, order: Any, phase: float
) -> None:
    done: list[object] = []

    async def serve(generator: Generator, out: Path) -> None:
        done.append(generator._phase_s)

    monkeypatch.setattr("sys.stdin", io.StringIO(order.to_json() + "\n"))
    monkeypatch.setattr(module, "tie_to_parent", lambda pid: None)
    monkeypatch.setattr(module, "serve", serve)
    module.main()
    assert done == [pytest.approx(phase * POST_INTERVAL_S)]


@pytest.mark.asyncio
async def test_nothing_is_posted_before_its_clients_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, posted_s = a_generator([0.0], phase=0.5), []

    async def post(node: int, first: int, end: int) -> None:
        posted_s.append(time.monotonic() - start_s)

    monkeypatch.setattr(generator, "_post", post)
    start_s = time.monotonic()
    await generator.run(start_s)
    assert posted_s[0] >= 1.5 * POST_INTERVAL_S


def test_lags_are_of_the_transactions_of_all_clients() -> None:
    reports = [json.loads(json.dumps({"lags": sorted(lags.items())})) for lags in ({0: 980, 7: 9}, {7: 1, 300: 10})]
    assert lag_p99_ms(reports) == 0.7
    assert lag_p99_ms([{"lags": []}]) == float("inf")
