"""What may be run together, and what a fault is called."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import __main__ as bench
from bench import comet
from bench.faults import FaultKind, FaultPlan
from bench.observer import BenchError
from bench.options import Options
from ledger.genesis import Parameters


def test_the_defaults_can_be_run() -> None:
    assert list(Options().problems()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(nodes=3), "tolerate no fault"),
        (Options(clients=0), "--clients"),
        (Options(post_txs_max=0), "--post-txs"),
        (Options(size_bytes=1_024), "--mix sized"),
        (Options(mix="sized"), "--size"),
        (Options(mix="sized", size_bytes=100), "400 to"),
        (Options(accounts=-1), "--accounts"),
        (Options(delay_ms=-1), "--delay"),
        (Options(loss=1.0), "--loss"),
        (Options(fault=FaultPlan(FaultKind.KILL_LEADER, 20.0)), "measured window"),
        (Options(nodes=1, fault=FaultPlan(FaultKind.KILL_LEADER, 1.0)), "four nodes"),
    ],
)
def test_what_cannot_be_run_is_named(options: Options, words: str) -> None:
    assert [problem for problem in options.problems() if words in problem]


@pytest.mark.parametrize("option", ["--share", "--fault", "--duration"])
def test_a_search_takes_nothing_that_it_would_not_heed(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = "kill-leader@1" if option == "--fault" else "20"
    mains = [bench.main, comet.main] if option == "--duration" else [bench.main]
    for main in mains:
        with pytest.raises(SystemExit) as ended:
            main(["--find-max", option, value])
        assert ended.value.code == 2
        assert f"{option}: not beside --find-max" in capsys.readouterr().err


def test_links_go_through_proxies_when_they_are_delayed_even_by_nothing() -> None:
    assert not Options().proxies
    assert Options(delay_ms=0).proxies
    assert Options(loss=0.1).proxies


def test_a_long_run_is_signed_as_it_goes_with_the_validity_of_production() -> None:
    assert not Options(duration_s=60).is_long
    assert Options(duration_s=1_800).is_long
    assert Options(duration_s=1_800).validity_heights == Parameters().validity_heights_max


def test_options_can_be_replaced_after_their_times_were_made() -> None:
    options = Options(rate=100.0, duration_s=1.0, warmup_s=1.0)
    assert len(options.times) == 200
    assert len(replace(options, rate=200.0).times) == 400


def test_a_fault_is_read_as_it_is_written() -> None:
    fault = FaultPlan.parse("kill-leader@2.5")
    assert fault == FaultPlan(FaultKind.KILL_LEADER, 2.5)
    assert str(fault) == "kill-leader at 2.5 s"
    for bad in ("kill-leader", "kill@3", "kill-leader@x", "kill-leader@-1", "kill-leader@nan"):
        with pytest.raises(ValueError):
            FaultPlan.parse(bad)


def test_the_victim_is_the_leader_or_the_last_of_the_others() -> None:
    statuses = [{"is_leader": number == 3} for number in range(4)]
    assert FaultPlan(FaultKind.KILL_LEADER, 0).victim(statuses) == 3
    assert FaultPlan(FaultKind.STOP_FOLLOWER, 0).victim(statuses) == 2
    assert FaultPlan(FaultKind.SLOW_FOLLOWER, 0).victim(statuses[::-1]) == 3
    with pytest.raises(BenchError, match="0 nodes lead"):
        FaultPlan(FaultKind.KILL_LEADER, 0).victim(statuses[:3])
