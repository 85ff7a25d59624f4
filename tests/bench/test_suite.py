"""The suite without its runs: rows from documents, the table, the charts, the comparison."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from bench import compare, machine, suite
from bench.charts import of_suite
from bench.observer import BenchError, Unavailable
from bench.options import Options
from bench.outcome import DRIFT, LAG
from bench.report import document
from bench.rows import GROUPS, ROWS, Round, Row, memory_growth, throughput_lost
from bench.scenarios import SCENARIOS, Document, Scenario
from bench.suite import Suite
from bench.table import measure, to_markdown
from tests.bench.test_report import CONFIG, GOOD


def a_run(committed_per_s: float = 2_000.0, limit: float = 8_000.0, **latencies: float | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(document(CONFIG, GOOD)))
    found["results"] |= {
        "committed_per_s": committed_per_s,
        "limit": limit,
        "limit_before": limit,
        "limit_after": limit,
    }
    found["results"]["latencies"] |= latencies
    return found


def row(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def test_what_the_rules_refuse_is_told_from_what_the_cluster_does_not_carry() -> None:
    knee, overload = a_run(2_000), a_run(1_200)
    for run, refused in ((knee, 0), (overload, 500)):
        run["results"]["tally"] |= {"committed": 1_000, "refused_by_rule": {"2102": refused}}
    assert row("executed").value({"standard": knee, "overload": overload}) == pytest.approx(1_200 * 1.5 / 2_000)


def test_goodput_is_measured_against_the_most_that_was_committed_in_its_round() -> None:
    runs = {"standard": a_run(2_000), "overload": a_run(2_100), "half": a_run(2_400), "n7": a_run(4_000)}
    assert row("goodput").value(runs) == pytest.approx(2_100 / 2_400)
    assert row("goodput").value(runs | {"half": a_run(1_900)}) == 1


def test_rows_have_names_of_their_own_and_scenarios_that_exist() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {name for row in ROWS for name in row.scenarios} == set(SCENARIOS)
    assert {scenario.knee for scenario in SCENARIOS.values() if scenario.knee} <= set(SCENARIOS)


def test_every_scenario_can_be_run() -> None:
    knees = dict.fromkeys(SCENARIOS, 0.4)
    for scenario in SCENARIOS.values():
        assert list(scenario.offer(knees).problems()) == []
        assert list(scenario.quick().offer({}).problems()) == []


def test_what_is_offered_is_a_share_of_the_limit_or_of_a_knee() -> None:
    knees = {"standard": 0.4}
    assert SCENARIOS["light"].offer(knees).share == 0.1
    assert SCENARIOS["overload"].offer(knees).share == 0.8
    assert SCENARIOS["standard"].offer(knees).share == 0.4
    assert SCENARIOS["standard"].trial(0.2).duration_s < SCENARIOS["standard"].offer(knees).duration_s


def test_a_value_is_the_median_over_the_rounds_that_have_all_its_runs() -> None:
    rounds = [
        Round({"standard": a_run(2_000), "overload": a_run(1_900)}),
        Round({"standard": a_run(2_000)}),
        Round({"standard": a_run(2_000), "overload": a_run(1_000)}),
        Round({"standard": a_run(2_000, 8_000), "overload": a_run(4_000, 16_000)}),
    ]
    found = measure(row("goodput"), rounds, 4, "")
    assert found["values"] == pytest.approx([0.95, 0.5, 1.0])
    assert found["median"] == pytest.approx(0.95)
    assert (found["low"], found["high"]) == (pytest.approx(0.5), pytest.approx(1.0))
    assert found["verdict"] == "owed"


def test_a_verdict_knows_which_way_is_better() -> None:
    assert [row("sustained").verdict(value) for value in (0.9, 0.82, 0.7, 0.3)] == ["aim", "aim", "owed", "short"]
    assert [row("light p50").verdict(value) for value in (5, 40, 41, math.inf)] == ["aim", "owed", "short", "short"]
    assert row("follower slow").verdict(1.0) == ""


def test_a_latency_that_never_ended_is_infinite_and_falls_short() -> None:
    found = measure(row("light p99"), [Round({"light": a_run(p99_ms=None)})], 1, "")
    assert found["median"] is None
    assert found["verdict"] == "short"


def refusing(run: dict[str, Any], share: float) -> dict[str, Any]:
    run["results"]["tally"] |= {"sent": 1_000, "refused_by_rule": {}, "refused_at_door": {"3001": round(share * 1_000)}}
    return run


@pytest.mark.parametrize(
    ("name", "scenario"), [("light p50", "light"), ("half p99", "half"), ("Poisson p50", "light, Poisson")]
)
def test_a_load_that_was_not_carried_has_no_latency(name: str, scenario: str) -> None:
    fast = {"p50_ms": 5.0, "p99_ms": 20.0}
    carried, refused_more = refusing(a_run(**fast), 0.01), refusing(a_run(**fast), 0.011)
    assert row(name).value({scenario: carried}) < 100
    assert row(name).value({scenario: refused_more}) == math.inf
    found = measure(row(name), [Round({scenario: refusing(a_run(**fast), 0.31)})], 1, "")
    assert found["where"].startswith("31% refused, of the rest p50 5, p99 20 ms; of 120 us")
    assert "refused" not in measure(row(name), [Round({scenario: carried})], 1, "")["where"]


def test_where_the_time_went_is_said_of_the_run_in_the_middle() -> None:
    runs = [refusing(a_run(), share) for share in (0.3, 0.0, 0.2, 0.0, 0.4)]
    found = measure(row("light p50"), [Round({"light": run}) for run in runs], 5, "")
    assert found["median"] is None
    assert " refused, " in found["where"]
    assert measure(row("light p50"), [Round(void={"light": "why"})], 1, "")["where"] == ""


def test_twice_the_knee_the_latency_is_that_of_the_accepted() -> None:
    assert row("overload p99").value({"overload": refusing(a_run(p99_ms=300.0), 0.5)}) == 300


def lost(*scenarios: str) -> Round:
    return Round(lost=dict.fromkeys(scenarios, "why"))


def test_a_lost_run_is_the_worst_value_and_a_void_one_is_none() -> None:
    assert row("sustained").of(lost("standard")) == 0
    assert row("light p50").of(lost("light")) == math.inf
    assert row("goodput").of(Round({"standard": a_run()}, lost={"overload": "why"})) == 0
    assert row("sustained").of(Round(void={"standard": "why"})) is None
    assert row("comet stock").of(lost("standard")) is None  # there is no Go, or it is still to come


def test_a_verdict_takes_values_of_more_than_half_of_the_rounds() -> None:
    rounds = [Round({"standard": a_run(7_000)}), Round(void={"standard": "why"}), lost("standard")]
    enough = measure(row("sustained"), [*rounds, rounds[0]], 5, "")
    assert (enough["values"], enough["verdict"], enough["lost"]) == ([0.875, 0.0, 0.875], "aim", 1)
    few = measure(row("sustained"), rounds, 5, "")
    assert (few["values"], few["verdict"]) == ([0.875, 0.0], "")


def test_doubts_are_counted_by_their_kind() -> None:
    doubtful = a_run()
    doubtful["doubts"] = [{"kind": "nodes fell behind", "how": "7 executions"}]
    rounds = [Round({"standard": doubtful, "overload": a_run()}), Round({"standard": doubtful})]
    found = measure(row("goodput"), rounds, 2, "")
    assert (found["doubts"], found["runs"]) == ({"nodes fell behind": 2}, 3)


def test_growth_is_read_from_a_long_run() -> None:
    run = a_run()
    rates = (100, 100, 90, 95, 90, 80, 85, 75, 5)  # of eight minutes and five seconds
    run["config"] |= {"warmup_s": 5.0, "duration_s": 480.0}
    run["results"]["series"]["minutes"] = [{"committed_per_s": rate} for rate in rates]
    assert throughput_lost(run) == pytest.approx(0.2)
    run["results"] |= {
        "first_quarter": {"processor_us": 100.0, "signature_us": 60.0},
        "last_quarter": {"processor_us": 120.0, "signature_us": 60.0},
    }
    assert row("long loss").value({"long": run}) == pytest.approx(0.2)
    run["results"]["last_quarter"]["processor_us"] = 150.0  # a third less can be carried, though nothing shows it yet
    assert row("long loss").value({"long": run}) == pytest.approx(1 / 3)
    run["results"]["last_quarter"] = {"processor_us": 200.0, "signature_us": 120.0}  # the machine is half as fast
    assert row("long loss").value({"long": run}) == pytest.approx(0.2)
    samples = run["results"]["samples"]
    samples["rss_bytes"] = [[10, 10], [110, 100], [150, 105], [200, 110]]
    samples["mapped_bytes"] = [[0, 0], [10, 0], [50, 0], [100, 0]]
    assert memory_growth(run) == pytest.approx(1.1)


class _Told:
    """A runner that gives the documents it was told to."""

    def __init__(self, *runs: Document | BaseException) -> None:
        self.runs = list(runs)
        self.shares: list[float | None] = []

    async def __call__(self, options: Options, say: object) -> Document:
        self.shares.append(options.share)
        found = self.runs.pop(0) if len(self.runs) > 1 else self.runs[0]
        if isinstance(found, BaseException):
            raise found
        return found


def a_suite(monkeypatch: pytest.MonkeyPatch, runner: _Told, runs: int = 1, **scenario: Any) -> Suite:
    told = Scenario("standard", Options(), runner=runner, **scenario)
    monkeypatch.setattr(suite, "SCENARIOS", {"standard": told})
    return Suite([row("sustained"), row("comet stock")], runs, quick=False)


async def gone_through(chosen: Suite) -> dict[str, Any]:
    await chosen.search_knees()
    await chosen.make_rounds()
    found: dict[str, Any] = json.loads(json.dumps(chosen.document()))
    return found


@pytest.mark.asyncio
async def test_a_restless_run_is_discarded_and_made_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (LAG, DRIFT):
        restless = a_run() | {"voids": [{"kind": kind, "how": "much"}]}
        found = await gone_through(a_suite(monkeypatch, _Told(restless, a_run(4_000)), of_limit=0.5))
        assert found["discarded"] == {"standard": [f"{kind}: much"]}
        assert found["rows"][0]["values"] == [0.5]
        never = await gone_through(a_suite(monkeypatch, _Told(restless), of_limit=0.5))
        assert never["rounds"] == [{"runs": {}, "lost": {}, "void": {"standard": f"{kind}: much"}}]
        assert never["rows"][0]["missing"] == "every run was void"
        assert f"standard: 2, the last: {kind}: much" in to_markdown(never)
        drifting = await gone_through(a_suite(monkeypatch, _Told(restless), of_limit=0.5, may_drift=True))
        assert bool(drifting["discarded"]) == (kind == LAG)


@pytest.mark.asyncio
async def test_a_void_step_is_made_once_more_and_then_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    void = [{"kind": LAG, "how": "much"}]
    passing, failing = a_run() | {"passes": True}, a_run() | {"passes": False}
    told = _Told(failing | {"voids": void}, passing | {"voids": void}, failing)
    chosen = a_suite(monkeypatch, told)
    await chosen.search_knees()
    assert told.shares[:2] == [0.3, 0.3]
    assert told.shares[2] > 0.3
    assert len(chosen.discarded["standard"]) == 1


@pytest.mark.asyncio
async def test_what_cannot_be_had_is_named_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told = _Told(a_run(4_000), BenchError("no port is free"), a_run(4_000))
    chosen = a_suite(monkeypatch, told, runs=3, of_limit=0.5)
    found = await gone_through(chosen)
    assert not chosen.is_sound
    assert found["failed"] == {"standard": ["BenchError: no port is free"]}
    assert found["rows"][0]["values"] == [0.5, 0.0, 0.5]
    assert found["rows"][1]["missing"] == "nothing here measures comet stock"
    table = to_markdown(found)
    assert "| sustained 60 s, 4 validators, standard mix | share of L | 0.60 | 0.82 | **0.50** |" in table
    assert "**falls short**: of 120 us per transaction and node, signatures 60" in table
    assert "; 1 of 3 rounds lost |" in table
    assert "| not measured: nothing here measures comet stock |  | 0 |  |" in table
    assert "no port is free" in table


@pytest.mark.asyncio
async def test_what_this_machine_does_not_have_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = _Told(a_run() | {"passes": False}), _Told(Unavailable("no Go on the PATH"))
    chosen = a_suite(monkeypatch, ours, runs=2)
    chosen.scenarios.append(Scenario("comet stock", Options(), runner=theirs))
    monkeypatch.setattr(suite, "SCENARIOS", {scenario.name: scenario for scenario in chosen.scenarios})
    found = await gone_through(chosen)
    assert len(theirs.shares) == 1
    assert found["failed"] == {"comet stock": ["no Go on the PATH"]}
    assert found["rows"][0]["values"] == [0.25, 0.25]
    assert "| not measured: no Go on the PATH |  | 0 |  |" in to_markdown(found)


def test_ours_is_compared_with_cometbft_by_what_each_committed_of_its_own_limit() -> None:
    rounds = [Round({"standard": a_run(3_000, 8_000), "comet stock": a_run(1_000, 4_000)})]  # on half the machine
    found = measure(row("comet stock"), rounds, 1, "")
    assert (found["median"], found["verdict"]) == (1.5, "short")
    bounds = {name: (row(name).owed, row(name).aim) for name in ("comet stock", "comet tuned", "comet signed")}
    assert bounds == {"comet stock": (2.0, 5.0), "comet tuned": (1.0, 1.5), "comet signed": (1.2, 2.0)}


def test_a_suite_that_is_told_to_end_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_away: list[bool] = []

    async def runner(options: Options, say: object) -> Document:
        if not put_away:
            put_away.append(False)
            return a_run(4_000)
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.sleep(60)
        finally:
            put_away[0] = True
        raise AssertionError("it went on")

    monkeypatch.setattr(suite, "SCENARIOS", {"standard": Scenario("standard", Options(), of_limit=0.5, runner=runner)})
    monkeypatch.setattr(suite, "RESULTS", tmp_path)
    assert suite.main(["--only", "sustained", "--runs", "2"]) == 130
    assert put_away == [True]
    assert next(tmp_path.glob("*-suite.md")).read_text("utf-8").startswith("# Benchmark suite")
    kept = json.loads(next(tmp_path.glob("*-suite.json")).read_text("utf-8"))
    assert kept["rows"][0]["values"] == [0.5]


def test_a_suite_is_kept_after_every_run_and_goes_on_from_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Killed(BaseException):
        """Nothing of the suite's own runs after it."""

    told = _Told(a_run(4_000), Killed(), a_run(6_000))

    async def runner(options: Options, say: object) -> Document:
        if isinstance(told.runs[0], BaseException):
            raise told.runs.pop(0)
        return await told(options, say)

    monkeypatch.setattr(suite, "SCENARIOS", {"standard": Scenario("standard", Options(), of_limit=0.5, runner=runner)})
    monkeypatch.setattr(suite, "RESULTS", tmp_path)
    monkeypatch.setattr(suite, "publish", lambda document, stem: "")
    with pytest.raises(Killed):
        suite.main(["--only", "sustained", "--runs", "2"])
    kept = next(tmp_path.glob("*-suite.json"))
    assert [list(found["runs"]) for found in json.loads(kept.read_text("utf-8"))["rounds"]] == [["standard"]]
    assert suite.main(["--resume", str(kept)]) == 0
    assert json.loads(kept.read_text("utf-8"))["rows"][0]["values"] == [0.5, 0.75]
    assert len(told.shares) == 2
    document = json.loads(kept.read_text("utf-8"))
    for change, why in (
        ({"program": "another"}, "program another then"),
        ({"machine": "an abacus"}, "machine an abacus then"),
        ({"cores": 99}, "cores 99 then"),
        ({"versions": document["versions"] | {"kernel": "0.1"}}, "kernel 0.1 then"),
        ({"format": "medchain/suite/1"}, "not of the format"),
    ):
        kept.write_text(json.dumps(document | change))
        assert refused(["--resume", str(kept)], capsys).count(why) == 1
    assert "No such file" in refused(["--resume", str(tmp_path / "none.json")], capsys)
    for other in (["--quick"], ["--runs", "3"], ["--only", "sustained"]):
        assert f"{other[0]}: not beside --resume" in refused(["--resume", str(kept), *other], capsys)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        suite.main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_resumed_suite_is_written_where_it_was_taken_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runner = _Told(a_run(4_000))
    monkeypatch.setattr(suite, "SCENARIOS", {"standard": Scenario("standard", Options(), of_limit=0.5, runner=runner)})
    monkeypatch.setattr(suite, "RESULTS", tmp_path / "results")
    assert suite.main(["--only", "sustained", "--runs", "1"]) == 0
    (kept,) = (tmp_path / "results").glob("*.json")
    elsewhere = kept.rename(tmp_path / "mine.json")
    suite.main(["--resume", str(elsewhere)])
    assert {path.name for path in tmp_path.glob("mine*")} >= {"mine.json", "mine.md", "mine-throughput.svg"}
    assert "](mine-throughput.svg)" in (tmp_path / "mine.md").read_text("utf-8")
    assert not [*(tmp_path / "results").glob("*.json")]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "error",
    [KeyError("tip"), ValueError("no"), RuntimeError("ended"), subprocess.TimeoutExpired("go", 1), OSError(9, "x")],
)
async def test_whatever_ends_a_run_ends_no_more_and_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    told = _Told(error, a_run(4_000))
    found = await gone_through(a_suite(monkeypatch, told, runs=2, of_limit=0.5))
    assert found["rounds"][0]["lost"]["standard"].startswith(f"{type(error).__name__}: ")
    assert found["rows"][0]["values"] == [0.0, 0.5]
    resumed = a_suite(monkeypatch, told, runs=2, of_limit=0.5)
    resumed.take_up(found)
    assert resumed.expected_s() == 0
    assert (await gone_through(resumed))["rows"][0]["values"] == [0.0, 0.5]
    assert len(told.shares) == 2


@pytest.mark.asyncio
async def test_without_a_knee_the_rounds_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await gone_through(a_suite(monkeypatch, _Told(BenchError("not quiet")), runs=2))
    assert [each["lost"]["standard"] for each in found["rounds"]] == ["the knee of standard was not found"] * 2
    assert found["rows"][0]["values"] == [0.0, 0.0]


def test_a_suite_whose_knees_alone_are_known_keeps_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _Told(*[a_run() | {"passes": False}] * suite.KNEE_STEPS_MAX, KeyboardInterrupt())
    monkeypatch.setattr(suite, "SCENARIOS", {"standard": Scenario("standard", Options(), runner=told)})
    monkeypatch.setattr(suite, "RESULTS", tmp_path)
    assert suite.main(["--only", "sustained"]) == 130
    assert "knees are kept" in capsys.readouterr().err
    (kept,) = tmp_path.glob("*")
    assert json.loads(kept.read_text("utf-8"))["knees"]


def test_a_suite_ends_when_the_program_changes_under_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = ["first", "first", "second"]
    told = _Told(a_run(4_000))
    monkeypatch.setattr(machine, "program", lambda: programs.pop(0))
    monkeypatch.setattr(suite, "SCENARIOS", {"standard": Scenario("standard", Options(), of_limit=0.5, runner=told)})
    monkeypatch.setattr(suite, "RESULTS", tmp_path)
    assert suite.main(["--only", "sustained", "--runs", "2"]) == 1
    assert "the program changed" in capsys.readouterr().err
    kept = json.loads(next(tmp_path.glob("*-suite.json")).read_text("utf-8"))
    assert (kept["program"], kept["rows"][0]["values"], kept["failed"]) == ("first", [0.5], {})
    assert "1 of 2 rounds" in next(tmp_path.glob("*-suite.md")).read_text("utf-8")


@pytest.mark.asyncio
async def test_why_a_row_is_missing_is_said_of_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = _Told(BenchError("once"), a_run()), _Told(Unavailable("no Go"))
    chosen = a_suite(monkeypatch, ours, runs=2, of_limit=0.5)
    chosen.scenarios.append(Scenario("comet stock", Options(), of_limit=0.5, runner=theirs))
    monkeypatch.setattr(suite, "SCENARIOS", {scenario.name: scenario for scenario in chosen.scenarios})
    assert (await gone_through(chosen))["rows"][1]["missing"] == "no Go"


def test_a_round_has_what_is_compared_side_by_side() -> None:
    order = [scenario.name for scenario in Suite(ROWS, 1, quick=False).scenarios]
    assert order[:5] == ["standard", "comet stock", "comet tuned", "comet signed", "overload"]
    assert set(order) == set(SCENARIOS)


def test_what_runs_once_runs_in_the_last_round() -> None:
    """Whoever ends a suite early has the rest of its rows."""
    suite = Suite(ROWS, 3, quick=False)
    assert [suite._is_made(SCENARIOS["long"], number) for number in range(3)] == [True, True, False]
    assert not any(suite._is_made(SCENARIOS["standard"], number) for number in range(3))


def test_both_sides_are_offered_more_than_is_carried() -> None:
    for name in ("state", "delay"):
        heavy, light = row(name).scenarios
        assert {SCENARIOS[each].offer({"standard": 0.5}).share for each in (heavy, light)} == {0.6}
        refused_by_rule, all_taken = a_run(1_000), a_run(2_000)
        refused_by_rule["results"]["tally"] |= {"committed": 1_000, "refused_by_rule": {"2102": 1_000}}
        all_taken["results"]["tally"] |= {"refused_by_rule": {}}
        assert row(name).value({heavy: refused_by_rule, light: all_taken}) == pytest.approx(1.0)


@pytest.mark.asyncio
async def test_the_table_names_whom_it_compares_with_and_what_is_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    doubtful = a_run(7_000) | {"doubts": [{"kind": "nodes fell behind", "how": "7"}]}
    found = await gone_through(a_suite(monkeypatch, _Told(doubtful, a_run(7_000)), runs=2, of_limit=0.9))
    assert "| aim reached; 1 of 2 runs: nodes fell behind |" in to_markdown(found)
    assert "CometBFT v" not in to_markdown(found)
    found["rounds"][0]["runs"]["comet stock"] = a_run() | {"config": {"cometbft": "v0.38.1", "go": "go1.99"}}
    assert "- CometBFT v0.38.1, go1.99" in to_markdown(found)


def test_a_long_runs_read_back_is_in_the_time_that_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Scenario("standard", Options(duration_s=1_795.0), of_limit=0.5)
    monkeypatch.setattr(suite, "SCENARIOS", {"standard": told})
    assert Suite([row("sustained")], 1, quick=False).expected_s() == pytest.approx(1_800 * 1.4)


@pytest.mark.asyncio
async def test_a_run_that_fails_a_check_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = a_suite(monkeypatch, _Told(a_run() | {"sound": False}), of_limit=0.5)
    found = await gone_through(chosen)
    assert not chosen.is_sound
    assert found["rounds"][0]["lost"] == {"standard": "a check failed: its figures count for nothing"}
    assert found["rows"][0]["values"] == [0.0]


def test_how_long_it_takes_is_said_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    once, five = (a_suite(monkeypatch, _Told(a_run()), runs, of_limit=0.5).expected_s() for runs in (1, 5))
    assert five == 5 * once
    assert once > Options().load_s
    assert a_suite(monkeypatch, _Told(a_run())).expected_s() > once


@pytest.mark.asyncio
async def test_a_knee_is_searched_once_and_offered_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    passing, failing = a_run() | {"passes": True}, a_run() | {"passes": False}
    told = _Told(passing, passing, failing, failing, failing, failing, failing, a_run(3_200))
    found = await gone_through(a_suite(monkeypatch, told, runs=2))
    knee = found["knees"]["standard"]
    assert told.shares[-2:] == [knee, knee]
    assert knee == pytest.approx(0.3 * 1.4)
    nothing = _Told(a_run(1_600) | {"passes": False})
    assert (await gone_through(a_suite(monkeypatch, nothing)))["knees"]["standard"] == pytest.approx(0.2)


@pytest.mark.asyncio
async def test_charts_are_drawn_of_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await gone_through(a_suite(monkeypatch, _Told(a_run())))
    assert set(of_suite(found)) == {"throughput", "latency", "distribution", "memory", "disk", "minutes"}
    theirs = a_run()
    del theirs["results"]["samples"]
    found["rounds"][0]["runs"]["comet stock"] = theirs | {"config": {"faults": "none", "duration_s": 1e6}}
    assert set(of_suite(found)) == {"throughput", "latency", "distribution", "memory", "disk", "minutes"}
    fault = a_run()
    fault["config"]["faults"] = "kill-leader at 8 s"
    found["rounds"][0]["runs"]["leader killed"] = fault
    assert "fault" in of_suite(found)["faults"]


def test_groups_are_what_only_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        suite.main(["--only", "sustained,nothing"])
    assert "there are " + ", ".join(GROUPS) in capsys.readouterr().err


@pytest.mark.asyncio
async def test_two_suites_are_compared_by_ratio(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for name, committed_per_s in (("a", 2_000), ("b", 3_000)):
        found = await gone_through(a_suite(monkeypatch, _Told(a_run(committed_per_s)), runs=3, of_limit=0.5))
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(found))
    assert compare.main([str(path) for path in paths]) == 0
    printed = capsys.readouterr().out
    assert "| sustained 60 s, 4 validators, standard mix | share of L | 0.25 | 0.38 | 1.50 | better |" in printed
    assert "Not compared: against CometBFT, stock settings" in printed
    assert compare.main([str(paths[1]), str(paths[0])]) == 0
    assert "**worse**" in capsys.readouterr().out
    paths[0].write_text("{}")
    assert compare.main([str(path) for path in paths]) == 2


def a_row(*values: float | None) -> dict[str, Any]:
    known = [math.inf if value is None else value for value in values]
    low, middle, high = (None if math.isinf(value) else value for value in (min(known), median(known), max(known)))
    return {"values": list(values), "low": low, "median": middle, "high": high, "more_is_better": False}


def test_ranges_that_meet_are_no_change() -> None:
    one = a_row(1.0, 1.5, 2.0)
    assert compare.verdict(one, a_row(2.0, 2.5, 3.0)) == "within the spread"
    assert compare.verdict(one, a_row(2.1, 2.5, None)) == "**worse**"
    assert compare.verdict(one, a_row(None, None, None)) == "**worse**"
    assert compare.verdict(a_row(None, None, None), one) == "better"
    assert compare.verdict(a_row(None, None, None), a_row(None, None, None)) == "within the spread"
    assert compare.verdict(one, a_row(0.1, 0.5, 0.9)) == "better"


def test_a_change_smaller_than_a_knee_is_known_to_is_none() -> None:
    one = a_row(1.0, 1.001, 1.002)
    assert compare.verdict(one, a_row(1.06, 1.061, 1.062)) == "within the spread"
    assert compare.verdict(one, a_row(1.08, 1.081, 1.082)) == "**worse**"


def test_under_three_rounds_nothing_is_said_of_a_change() -> None:
    assert compare.verdict(a_row(1.0, 1.0), a_row(2.0, 2.0, 2.0)) == "under 3 rounds"
    assert compare.verdict(a_row(1.0, 1.0, 1.0), a_row(2.0)) == "under 3 rounds"
