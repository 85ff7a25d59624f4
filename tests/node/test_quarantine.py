"""A node whose execution gives another state than the validators': it stops, says which entry and whose rule, and stays
stopped."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ledger.codec import Value, encode
from ledger.errors import Code, CodecError, Reject
from ledger.execution import BlockResult
from ledger.state import state_key
from node.home import DATA, open_home
from node.node import Node
from node.quarantine import ANSWER_ITEMS_MAX, Inquiry
from node.repair import repair
from node.snapshots import LEAVES, TOP, Question, SnapshotServer
from p2p.errors import Fault
from p2p.frames import Kind
from storage.errors import StateDiverged
from tests.node.test_join import WAIT_S, Answer, Chain, honest, running

PEER, OTHER = b"peer", b"other"
WRONG = state_key("payments", "balance", "CNY", "pharmacy")


def go_wrong(node: Node) -> None:
    """From now on its executor writes one entry otherwise, as a bug or a bad memory would."""
    executor = node.replica.executor
    execute = executor.execute

    def wrong(*arguments: Any) -> BlockResult:
        result = execute(*arguments)
        return replace(result, changes={**result.changes, WRONG: (5, encode(5))})

    executor.execute = wrong  # type: ignore[method-assign]


async def until_stopped(chain: Chain, node: Node) -> dict[str, Any]:
    """Its `why`, once the inquiry is over."""
    async with asyncio.timeout(WAIT_S), aiohttp.ClientSession(node.api.url) as session:
        while node.desk.stopped is None or "medchain repair" not in node.desk.stopped:
            # Peers keep the last four checkpoints, and blocks are quick here: they go on only as the node comes along.
            if not node.desk.diverged.is_set() and node.desk.store.tip.height == chain.validator.desk.store.tip.height:
                await chain.pay()
            await asyncio.sleep(0.02)
        async with session.get("/v1/why") as response:
            why: dict[str, Any] = await response.json()
            return why


@pytest.mark.asyncio
async def test_it_stops_and_names_the_entry_and_the_rules_that_wrote_it(tmp_path: Path) -> None:
    async with running(tmp_path, followers=1) as chain:
        follower = chain.nodes[1]
        go_wrong(follower)
        why = await until_stopped(chain, follower)
        assert why["halted"]
        assert Code.STATE_DIVERGED.label in why["sentence"]
        assert WRONG.hex() in why["sentence"]
        assert "the rules of payments" in why["sentence"]
        height = follower.desk.store.tip.height
        await chain.pay()
        assert follower.desk.store.tip.height <= height + 1
        with pytest.raises(Reject) as refused:
            await follower.submit(chain.paid[-1])
        assert refused.value.code in (Code.NOT_ACCEPTING, Code.REPLAYED)
        config = follower.config
        await follower.stop()
        with pytest.raises(StateDiverged, match="medchain repair"):
            open_home(config)
        report = repair(config, lambda height, tip_height: None)
        assert report.aside is not None
        assert "is not the one that was certified" in report.damages[0]
        async with Node(config.model_copy(update={"p2p": chain.joiner.p2p})) as again:
            async with asyncio.timeout(WAIT_S):
                while again.desk.store.tip.height < chain.validator.desk.store.tip.height:
                    await asyncio.sleep(0.02)
            assert again.desk.stopped is None


@pytest.mark.asyncio
@pytest.mark.parametrize("what", [TOP, LEAVES, "buckets", "silence"])
async def test_a_liar_sends_nobody_after_the_wrong_rule(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.quarantine.ANSWER_S_MAX", 0.5)

    async def answer(server: SnapshotServer, question: Question) -> Value:
        value = await honest(server, question)
        if what == "silence":
            await asyncio.sleep(3_600)
        if question.what == what and isinstance(value, bytes):
            return bytes([value[0] ^ 1]) + value[1:]
        if question.what == what and isinstance(value, tuple):
            return ((*value[0], b"more", b"money"),)  # type: ignore[misc]
        return value

    lie: Answer = answer
    async with running(tmp_path, followers=1) as chain:
        follower = chain.nodes[1]
        monkeypatch.setattr(SnapshotServer, "_answer", lie)
        go_wrong(follower)
        why = await until_stopped(chain, follower)
        assert "no peer could show what differs" in why["sentence"]
        assert follower.desk.store.diverged is not None
    assert (chain.nodes[1].config.home / DATA).is_dir()


def must_not_decode(*_: Any, **__: Any) -> Value:
    raise AssertionError("decoded")


def test_what_no_peer_was_asked_for_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding eight megabytes of small arrays stops a validator for a second."""
    monkeypatch.setattr("node.quarantine.decode", must_not_decode)
    assert not Inquiry(lambda *_: None, list).on_answer(PEER, encode((1, None)))


@pytest.mark.asyncio
async def test_each_question_is_owed_one_answer_however_late(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()
    inquiry = Inquiry(lambda *_: asked.set(), lambda: [PEER])
    waiting = asyncio.create_task(inquiry._ask(PEER, Question(0, TOP)))
    await asyncio.wait_for(asked.wait(), WAIT_S)
    assert not inquiry.on_answer(OTHER, encode((1, b"top"))), "nobody asked that one"
    assert inquiry.on_answer(PEER, encode((1, b"top")))
    assert await waiting == b"top"
    assert not inquiry.on_answer(PEER, encode((1, b"top"))), "the same again"

    monkeypatch.setattr("node.quarantine.ANSWER_S_MAX", 0.0)
    with pytest.raises(TimeoutError):
        await inquiry._ask(PEER, Question(0, TOP))
    monkeypatch.setattr("node.quarantine.decode", must_not_decode)
    assert inquiry.on_answer(PEER, encode((2, b"top"))), "late, which is no fault"
    assert not inquiry.on_answer(PEER, encode((2, b"top")))


@pytest.mark.asyncio
async def test_an_answer_of_more_items_than_a_bucket_has_is_malformed() -> None:
    asked = asyncio.Event()
    inquiry = Inquiry(lambda *_: asked.set(), lambda: [PEER])
    waiting = asyncio.create_task(inquiry._ask(PEER, Question(0, TOP)))
    await asyncio.wait_for(asked.wait(), WAIT_S)
    with pytest.raises(CodecError):
        inquiry.on_answer(PEER, encode((1, ((),) * ANSWER_ITEMS_MAX)))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.asyncio
async def test_an_answer_to_no_question_costs_the_connection(tmp_path: Path) -> None:
    async with running(tmp_path) as chain:
        blamed: list[Any] = []
        chain.validator.transport.misbehaved = lambda key, fault: blamed.append((key, fault))  # type: ignore[method-assign]
        chain.validator._on_snapshot_frame(PEER, Kind.SNAPSHOT_RESPONSE, encode((1, None)))
        assert blamed == [(PEER, Fault.UNSOLICITED)]
