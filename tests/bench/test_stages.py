"""Samples of stacks: whose time each is, and what they add up to."""

from __future__ import annotations

import pytest

from bench import flame
from bench.stages import (
    CONSENSUS,
    DECODE,
    EXECUTE,
    HTTP,
    LOOP,
    NETWORK,
    OTHER,
    OTHER_THREADS,
    POOL,
    STATE_TREE,
    STORAGE,
    VERIFY,
    WAITING,
    account,
    parse,
    stage_of,
    to_lines,
    to_text,
)

LOOPING = "Runner.run (asyncio/runners.py);BaseEventLoop._run_once (asyncio/base_events.py)"


def stage(*frames: str) -> str:
    ((stack, _),) = parse([";".join([LOOPING, *frames]) + " 1"]).items()
    return stage_of(stack)


CHECK, VOTE = "Driver.check_signatures (node/driver.py)", "Replica._on_vote (node/replica.py)"
BATCH, COMMIT = "Replica._on_batch (node/replica.py)", "ChainStore.commit (storage/chain.py)"
RUN, CHECKED = "Executor.execute (ledger/execution.py)", "Executor.check (ledger/execution.py)"
WRITE = "_SelectorSocketTransport.write (asyncio/selector_events.py)"
READ = "_SelectorSocketTransport._read_ready__data_received (asyncio/selector_events.py)"


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([CHECK, "Driver.check_signatures.<locals>.<listcomp> (node/driver.py)", "verify (ledger/crypto.py)"], VERIFY),
        ([VOTE, "Verifier._one (consensus/verify.py)", "verify (ledger/crypto.py)"], CONSENSUS),
        ([BATCH, "Batch.decode (ledger/transaction.py)", "decode (ledger/codec.py)"], DECODE),
        ([BATCH], POOL),
        ([CHECKED], POOL),
        ([CHECKED, "parser_of.<locals>.parse (ledger/fields.py)"], EXECUTE),
        ([RUN, "_claim (ledger/modules/payments.py)"], EXECUTE),
        ([RUN, "StateStore._entry (storage/statetree.py)"], EXECUTE),
        ([COMMIT, "StateTree.stage (storage/statetree.py)"], STATE_TREE),
        ([COMMIT, "encode (ledger/codec.py)"], STORAGE),
        (["_Whole.prepare (node/api/server.py)", WRITE], HTTP),
        (["SSLProtocol._do_write (asyncio/sslproto.py)", WRITE], NETWORK),
        ([READ], HTTP),
        (["WebSocketReader.feed_data (aiohttp/_websocket/reader.py)"], NETWORK),
        (["HttpRequestParser.feed_data (aiohttp/http_parser.py)"], HTTP),
        ([], LOOP),
        (["EpollSelector.select (selectors.py)"], WAITING),
        (["_worker (concurrent/futures/thread.py)", "WriteAheadLog._write_group (storage/wal.py)"], WAITING),
    ],
)
def test_the_innermost_frame_that_a_rule_names_decides(frames: list[str], expected: str) -> None:
    assert stage(*frames) == expected


def test_a_stack_that_no_rule_names_is_other() -> None:
    assert stage_of((("f", "somewhere.py"),)) == OTHER


def test_collapsed_stacks_are_read_as_they_are_written() -> None:
    lines = ["a (x.py);C.b (y.py) 3", "a (x.py);C.b (y.py) 2", "", "a (x.py) 1"]
    found = parse(lines)
    assert found == {(("a", "x.py"), ("b", "y.py")): 5, (("a", "x.py"),): 1}
    assert parse(to_lines(found).splitlines()) == found


def test_an_account_divides_the_kernels_processor_time_by_samples_and_transactions() -> None:
    verify, execute = (("check_signatures", "node/driver.py"),), (("execute", "ledger/execution.py"),)
    waiting = (("select", "selectors.py"),)
    flush = (("_bootstrap", "threading.py"), ("_run", "storage/wal.py"))
    found = account({verify: 30, execute: 10, waiting: 60, flush: 40}, 10.0, 1_000, 0.5, 0.4, 1.6)
    assert found.us_per_tx(VERIFY) == pytest.approx(300)
    assert found.us_per_tx(EXECUTE) == pytest.approx(100)
    assert found.us_per_tx(STORAGE) == 0  # the share of other threads is what the kernel counted
    assert found.us_per_tx(OTHER_THREADS) == pytest.approx(100)
    assert found.idle_s == pytest.approx(8.0)
    lines = list(to_text(found))
    assert lines[1].split() == ["verify", "300.0", "60.0%"]
    assert ["other", "threads", "100.0", "20.0%"] in [line.split() for line in lines]
    assert lines[-1].split()[0] == "idle"
    assert "80.0% of the time" in lines[-1]


def test_an_account_of_nothing_divides_by_nothing() -> None:
    assert list(to_text(account({}, 1.0, 0, 0.0, 0.0, 0.0)))


def test_a_flame_graph_has_a_box_for_each_frame_and_none_for_waiting() -> None:
    stacks = parse(["a (x.py);C.b (y.py) 3", "a (x.py);c<d> (z.py) 1", "select (selectors.py) 9"])
    drawn = flame.to_svg(stacks, "A node")
    assert drawn.count("<title>") == 4
    assert "b (y.py): 75.0%" in drawn
    assert "c&lt;d&gt; (z.py): 25.0%" in drawn
    assert "selectors" not in drawn
