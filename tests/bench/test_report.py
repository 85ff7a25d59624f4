"""The report: what it must say, and what it must not pass over."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from bench.checks import Check
from bench.figures import Latencies, Tally
from bench.outcome import DRIFT, LAG
from bench.report import Config, Costs, Results, Work, document, passes, text
from bench.series import Minute, Samples, Series

CONFIG = Config(
    machine="a machine", cores=2, python="3.11.7", commit="abc", nodes=4, faults="none", links="direct",
    accounts=0, rate=2_000.0, schedule="fixed",
    mix="standard", shares={"ship": 0.5, "grant": 0.5}, senders=1_000, tx_size_bytes=251.4,
    serials_per_tx=0.4, warmup_s=5.0,
    duration_s=20.0, clients=2, seed=1, post_txs_max=2_000, post_interval_ms=20.0, view_timeout_ms=1_000,
)  # fmt: skip
GOOD = Results(
    tally=Tally(40_000, 39_990, {}, {2104: 10}, {"ship": 20_000, "grant": 20_000}),
    committed_per_s=1_999.5,
    latencies=Latencies(40_000, 0, 90.0, 180.0, 240.0, 400.0),
    costs=Costs(0.8, 0.3, 120.0, 60.0, 60.0, 0.5, 900.0, 700.0, 1_500.0, 40.0, 80.0, 25.0, 0),
    first_quarter=Work(118.0, 60.0),
    last_quarter=Work(122.0, 60.0),
    limit_before=7_500.0,
    limit_after=7_400.0,
    generator_lag_p99_ms=2.0,
    generator_share=0.04,
    observer_share=0.01,
    failed_posts=0,
    synced_txs=0,
    checks=(Check("money is conserved", True, "1 held"),),
    series=Series(0.1, [200] * 250, [90.0] * 100, [Minute(0.0, 1_999.5, 90.0, 240.0)], 0.0, 0.2),
    samples=Samples([1.0], [[50, 51, 52, 53]], [[20, 21, 22, 23]], [[60, 61, 62, 63]]),
)


def test_a_good_run_leaves_no_doubt_and_passes() -> None:
    assert list(GOOD.doubts()) == []
    assert GOOD.sound
    assert passes(CONFIG, GOOD)
    written = text(CONFIG, GOOD)
    for part in ("CONFIG", "RESULTS", "2000 tx/s (39990 of 40000", "p95 180 ms", "seen at 2 nodes", "MC2104", "view 0"):
        assert part in written
    assert "80% of the machine: signatures 40%, the rest 40%; an fsync under way 30% of the time" in written
    assert "DOUBT" not in written


def test_each_reason_to_doubt_is_said() -> None:
    cases = {
        "lagged": replace(GOOD, generator_lag_p99_ms=5.1),
        "took much: 6.0% of the machine": replace(GOOD, generator_share=0.06),
        "speed changed": replace(GOOD, limit_after=6_000.0),
        "were refused: 10.0%": replace(GOOD, tally=Tally(100, 90, {3001: 10}, {}, {"ship": 100})),
        "never seen final": replace(GOOD, latencies=Latencies(10, 1, 1.0, 2.0, 3.0, math.inf)),
        "posts failed": replace(GOOD, failed_posts=1),
        "fell behind": replace(GOOD, synced_txs=1),
    }
    for words, results in cases.items():
        assert [doubt for doubt in results.doubts() if words in str(doubt)], words
        assert "DOUBT" in text(CONFIG, results)


def test_a_run_is_void_when_the_generator_or_the_machine_was_measured() -> None:
    void = (replace(GOOD, generator_lag_p99_ms=5.1), replace(GOOD, limit_after=6_000.0))
    assert [[each["kind"] for each in document(CONFIG, results)["voids"]] for results in void] == [[LAG], [DRIFT]]
    assert all(list(results.voids()) == list(results.doubts()) for results in void)
    assert not list(replace(GOOD, generator_share=0.06).voids())  # of single posts it is inherent


def test_a_failed_check_makes_the_run_unsound() -> None:
    unsound = replace(GOOD, checks=(Check("money is conserved", False, "1 lost"),))
    assert not unsound.sound
    assert not passes(CONFIG, unsound)
    assert "FAILED  money is conserved (1 lost)" in text(CONFIG, unsound)


def test_a_rate_passes_only_if_nearly_all_is_committed_in_time() -> None:
    assert not passes(CONFIG, replace(GOOD, committed_per_s=1_900.0))
    assert not passes(CONFIG, replace(GOOD, latencies=replace(GOOD.latencies, p95_ms=500.0)))
    assert not passes(CONFIG, replace(GOOD, tally=replace(GOOD.tally, refused_at_door={3001: 500})))


def test_a_block_more_or_less_in_the_window_does_not_decide() -> None:
    long = replace(GOOD.costs, txs_per_block=1_000.0, blocks_per_s=2.0)
    assert passes(CONFIG, replace(GOOD, committed_per_s=1_900.0, costs=long))


def test_an_infinite_latency_is_written_as_such_and_null_in_json() -> None:
    results = replace(GOOD, latencies=Latencies(10, 3, 90.0, math.inf, math.inf, math.inf))
    assert "p95 infinite" in text(CONFIG, results)
    written = json.loads(json.dumps(document(CONFIG, results), allow_nan=False))
    assert written["results"]["latencies"]["p95_ms"] is None
    assert written["results"]["latencies"]["p50_ms"] == 90.0
    assert written["sound"] is True
