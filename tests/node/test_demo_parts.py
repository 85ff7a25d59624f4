"""The demonstration without processes: what is measured, said, and sent again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ledger.errors import Code
from ledger.modules.payments import Transfer
from node.api.client import ApiError, Unreachable
from node.cluster.plan import NodePlan, development_modules
from node.demo import send
from node.demo.progress import Progress
from node.demo.report import Check, Report, percentile
from node.demo.send import ClusterTransport, Load, Sent, Tally
from node.demo.watch import Watch
from node.workload import Cast, Outcome, Refused, Step
from node.workload.steps import Keep, Send
from tests.ledger.chain import key_pair

CHAIN_ID = b"\x01" + bytes(32)
PAY = Transfer("CNY", "pharmacy", 1, "")
KEY = key_pair("node").public.hex()
NODES = [
    NodePlan(0, "hospital", "hospital", KEY, 1, 2, True),
    NodePlan(1, "maker", "maker", KEY, 3, 4, True),
    NodePlan(2, "follower-1", "", KEY, 5, 6, False),
]


def receipt(code: int = 0, height: int = 7) -> dict[str, Any]:
    return {"code": code, "height": height, "detail": []}


class FakeClient:
    """A node that answers as told, one answer a call; the last one stays."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.wires: list[bytes] = []

    def _next(self) -> Any:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def submit_wait(self, wire: bytes, timeout_ms: int) -> Any:
        self.wires.append(wire)
        return self._next()

    async def vault_get(self, commitment: bytes, access: bytes) -> Any:
        return self._next()


def transport(monkeypatch: pytest.MonkeyPatch, *clients: FakeClient) -> ClusterTransport:
    waiting = list(clients)
    monkeypatch.setattr(send, "Client", lambda url: waiting.pop(0))
    monkeypatch.setattr(send, "RETRY_S", 0.0)
    return ClusterTransport(Cast(development_modules()), NODES, Path("nowhere"), CHAIN_ID)


def refusal(code: Code) -> ApiError:
    return ApiError(int(code), 503, "told", True)


@pytest.mark.parametrize(
    "failure", [Unreachable("http://x", "gone"), refusal(Code.NOT_FINAL_IN_TIME), refusal(Code.POOL_FULL)]
)
def test_the_same_bytes_go_to_another_node_when_the_first_does_not_finish(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    first, second = FakeClient(failure), FakeClient(receipt())
    sender = transport(monkeypatch, first, second)
    final = asyncio.run(sender.submit("hospital", PAY))
    assert (final.code, final.tx_id) == (0, sender.sent[0].tx_id)
    assert first.wires == second.wires
    assert [(one.tries, one.height) for one in sender.sent] == [(2, 7)]


def test_a_refusal_at_a_nodes_door_is_final_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    first = FakeClient(refusal(Code.BAD_FIELD))
    sender = transport(monkeypatch, first, FakeClient(receipt()))
    final = asyncio.run(sender.submit("hospital", PAY))
    assert (final.tx_id, final.code) == (None, Code.BAD_FIELD)
    assert sender.refused_at_door == Counter({int(Code.BAD_FIELD): 1})
    assert sender.sent == []


def test_what_is_never_final_ends_the_story_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "GIVE_UP_S", 0.0)
    gone = FakeClient(Unreachable("http://x", "gone"))
    sender = transport(monkeypatch, gone, gone)
    steps = [Step(1, "pay", "hospital", Send(PAY)), Step(1, "pay again", "hospital", Send(PAY))]
    load = Load(Cast(development_modules()), sender, steps, reached_at=0.5)
    asyncio.run(load.run())
    assert len(load.tally.wrong) == 1
    assert "payments.transfer of hospital is not final" in load.tally.wrong[0]
    assert load.tally.done == 0
    assert load.reached.is_set()


def test_an_unexpected_outcome_is_told_and_the_story_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = transport(monkeypatch, FakeClient(receipt(int(Code.UNKNOWN_CURRENCY))), FakeClient(receipt()))
    steps = [
        Step(1, "pay", "hospital", Send(PAY)),
        Step(1, "pay, foretold", "hospital", Send(PAY), int(Code.UNKNOWN_CURRENCY)),
        Step(1, "pay, anything", "hospital", Send(PAY), None),
    ]
    load = Load(Cast(development_modules()), sender, steps)
    asyncio.run(load.run())
    assert load.tally.done == 3
    assert load.tally.wrong == ["pay by hospital: expected MC0000, got MC2301 ()"]


def test_story_zero_comes_before_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = transport(monkeypatch, FakeClient(receipt()), FakeClient(receipt()))
    order: list[str] = []
    load = Load(
        Cast(development_modules()),
        sender,
        [Step(2, "later", "maker", Send(PAY)), Step(0, "first", "hospital", Send(PAY))],
    )
    count = load._count
    monkeypatch.setattr(load, "_count", lambda step, outcome: (order.append(step.label), count(step, outcome)))
    asyncio.run(load.run())
    assert order == ["first", "later"]


def test_a_custodian_without_a_node_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = transport(monkeypatch, FakeClient(receipt()), FakeClient(receipt()))
    with pytest.raises(Refused, match="insurer runs no node"):
        sender.vault_keys("insurer")


def test_a_vault_that_does_not_know_the_access_yet_is_asked_again_and_one_that_refuses_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    not_yet, denied = ApiError(int(Code.NOT_FOUND), 404, "", False), ApiError(int(Code.GRANT_REVOKED), 403, "", False)
    sender = transport(monkeypatch, FakeClient(not_yet, b"sealed"), FakeClient(receipt()))
    assert asyncio.run(sender.release("hospital", b"", b"")) == b"sealed"
    sender = transport(monkeypatch, FakeClient(denied, b"sealed"), FakeClient(receipt()))
    with pytest.raises(Refused):
        asyncio.run(sender.release("hospital", b"", b""))


@pytest.mark.parametrize(("share", "expected"), [(1, 1.0), (50, 5.0), (90, 9.0), (95, 10.0), (99, 10.0), (100, 10.0)])
def test_percentiles_are_by_nearest_rank(share: int, expected: float) -> None:
    assert percentile([float(number) for number in range(1, 11)], share) == expected


def watch(*advances: tuple[float, int]) -> Watch:
    seen = Watch([])
    seen.advances = list(advances)
    return seen


def test_the_gap_is_the_longest_silence_around_the_kill() -> None:
    heights = [(9.0, 1), (9.9, 2), (10.1, 3), (12.5, 4), (12.6, 5)]
    assert watch(*heights).gap_s(10.0) == pytest.approx(2.4)  # height 3 was on its way when the leader died


def test_silences_before_the_kill_and_long_after_do_not_count() -> None:
    assert watch((1.0, 1), (9.9, 2), (10.5, 3), (60.0, 4)).gap_s(10.0) == pytest.approx(0.6)


def test_a_chain_that_never_went_on_has_no_gap() -> None:
    assert watch((9.9, 2)).gap_s(10.0) is None


def sent(code: int, milliseconds: float) -> Sent:
    return Sent(bytes([code % 250]), "payments.transfer", code, 1, 0.0, milliseconds / 1000, 1)


def report(*checks: Check) -> Report:
    tally = Tally(3, done=3)
    tally.refused_at_gateway.append(("x", Outcome(int(Code.BAD_REQUEST), ("/gender", "not a code"))))
    chain = {
        "a": {"operation": "payments.transfer", "code": 0},
        "b": {"operation": "payments.transfer", "code": int(Code.INSUFFICIENT_FUNDS)},
        "c": {"operation": "vaccines.release", "code": 10_001},
    }
    found = Report(4, "small", 2.0, tally, [sent(0, 20), sent(1, 40)], chain, 9, Counter({1011: 2}))
    found.checks += checks
    return found


def test_the_summary_says_what_was_refused_and_why() -> None:
    text = "\n".join(report(Check("it holds", True, "yes")).lines())
    assert "1  payments.transfer" in text
    assert "1  MC2303 insufficient_funds: An account holds less" in text
    assert "1  MC10001" in text
    assert "2  MC1011 bad_field" in text
    assert "1  /gender: not a code" in text
    assert "p50 20 ms, p95 40 ms" in text
    assert "ok    it holds: yes" in text


def test_one_broken_promise_spoils_the_report() -> None:
    good, bad = Check("one", True, ""), Check("two", False, "no")
    assert report(good).good
    assert not report(good, bad).good
    assert "FAIL  two: no" in "\n".join(report(good, bad).lines())


def test_plain_progress_tells_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    clock: Callable[[], float] = lambda: now[0]  # noqa: E731
    monkeypatch.setattr("time.monotonic", clock)
    progress = Progress(100, terminal=False)
    now[0] = 101.0
    progress.update(10, "height 1")
    assert capsys.readouterr().err == ""
    now[0] = 102.0
    progress.update(20, "height 2, maker leads")
    progress.close()
    assert capsys.readouterr().err == "[  2.0 s] 20/100 steps, 10/s, about 8 s left; height 2, maker leads\n"


def test_a_resource_that_the_door_refuses_is_counted_there(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = transport(monkeypatch, FakeClient(receipt()), FakeClient(receipt()))
    cast = Cast(development_modules())
    cast.admit("someone", Random(1))
    load = Load(cast, sender, [Step(1, "keep", "hospital", Keep("r", "someone", b"{}"), int(Code.BAD_REQUEST))])
    asyncio.run(load.run())
    assert load.tally.wrong == []
    assert [label for label, _ in load.tally.refused_at_gateway] == ["keep"]
