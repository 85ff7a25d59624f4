"""The suite without its runs: rows from documents, the table, the charts, the comparison."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bench import compare, suite
from bench.charts import of_suite
from bench.observer import BenchError, Unavailable
from bench.options import Options
from bench.report import document
from bench.rows import GROUPS, ROWS, Row, memory_growth, throughput_lost
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
    knee, overload = a_run(2_000), a_run(1_500)
    for run, refused in ((knee, 0), (overload, 500)):
        run["results"]["tally"] |= {"committed": 1_000, "refused_by_rule": {"2102": refused}}
    assert row("executed").value({"standard": knee, "overload": overload}) == pytest.approx(1_500 * 1.5 / 2_000)


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
        {"standard": a_run(2_000), "overload": a_run(1_900)},
        {"standard": a_run(2_000)},
        {"standard": a_run(2_000), "overload": a_run(1_000)},
        {"standard": a_run(2_000, 8_000), "overload": a_run(4_000, 16_000)},
    ]
    found = measure(row("goodput"), rounds, "")
    assert found["values"] == pytest.approx([0.95, 0.5, 1.0])
    assert found["median"] == pytest.approx(0.95)
    assert (found["low"], found["high"]) == (pytest.approx(0.5), pytest.approx(1.0))
    assert found["verdict"] == "owed"


def test_a_verdict_knows_which_way_is_better() -> None:
    assert [row("sustained").verdict(value) for value in (0.9, 0.82, 0.7, 0.3)] == ["aim", "aim", "owed", "short"]
    assert [row("light p50").verdict(value) for value in (5, 40, 41, math.inf)] == ["aim", "owed", "short", "short"]
    assert row("follower slow").verdict(1.0) == ""


def test_a_latency_that_never_ended_is_infinite_and_falls_short() -> None:
    found = measure(row("light p99"), [{"light": a_run(p99_ms=None)}], "")
    assert found["median"] is None
    assert found["verdict"] == "short"


def test_growth_is_read_from_a_long_run() -> None:
    run = a_run()
    run["results"]["series"]["minutes"] = [{"committed_per_s": rate} for rate in (100, 100, 90, 95, 90, 80, 85, 75)]
    assert throughput_lost(run) == pytest.approx(0.2)
    run["results"]["samples"]["rss_bytes"] = [[10, 10], [100, 100], [100, 105], [100, 110]]
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
    restless = a_run()
    restless["results"]["limit_after"] = 6_000.0
    found = await gone_through(a_suite(monkeypatch, _Told(restless, a_run(4_000)), of_limit=0.5))
    assert found["discarded"] == {"standard": 1}
    assert found["rows"][0]["values"] == [0.5]
    never = await gone_through(a_suite(monkeypatch, _Told(restless), of_limit=0.5))
    assert never["discarded"] == {"standard": 2}
    assert never["rows"][0]["missing"] == "every run was discarded"
    kept = await gone_through(a_suite(monkeypatch, _Told(restless), of_limit=0.5, drift_max=0.5))
    assert kept["discarded"] == {}


@pytest.mark.asyncio
async def test_what_cannot_be_had_is_named_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told = _Told(BenchError("no port is free"), a_run(4_000))
    found = await gone_through(a_suite(monkeypatch, told, runs=2, of_limit=0.5))
    assert found["failed"] == {"standard": ["no port is free"]}
    assert found["rows"][0]["values"] == [0.5]
    assert found["rows"][1]["missing"] == "nothing here measures comet stock"
    table = to_markdown(found)
    assert "| sustained 60 s, 4 validators, standard mix | share of L | 0.60 | 0.82 | **0.50** |" in table
    assert "**falls short**: of 120 us per transaction and node, signatures 60" in table
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


def test_ours_is_compared_with_cometbft_by_what_each_committed() -> None:
    rounds = [{"standard": a_run(3_000), "comet stock": a_run(1_000, 4_000)}]
    found = measure(row("comet stock"), rounds, "")
    assert (found["median"], found["verdict"]) == (3.0, "owed")
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
    assert suite.main(["--only", "sustained", "--runs", "2"]) == 0
    assert put_away == [True]
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
    assert [list(found) for found in json.loads(kept.read_text("utf-8"))["rounds"]] == [["standard"]]
    assert suite.main(["--resume", str(kept)]) == 0
    assert json.loads(kept.read_text("utf-8"))["rows"][0]["values"] == [0.5, 0.75]
    assert len(told.shares) == 2
    kept.write_text(json.dumps(json.loads(kept.read_text("utf-8")) | {"commit": "another"}))
    for path, why in ((kept, "measured at commit another"), (tmp_path / "none.json", "No such file")):
        with pytest.raises(SystemExit):
            suite.main(["--resume", str(path)])
        assert why in capsys.readouterr().err


@pytest.mark.asyncio
async def test_a_failed_check_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = a_suite(monkeypatch, _Told(a_run() | {"sound": False}), of_limit=0.5)
    found = await gone_through(chosen)
    assert not chosen.is_sound
    assert found["rows"][0]["values"] == []


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
    found["rounds"][0]["comet stock"] = theirs | {"config": {"faults": "none", "duration_s": 1e6}}
    assert set(of_suite(found)) == {"throughput", "latency", "distribution", "memory", "disk", "minutes"}
    fault = a_run()
    fault["config"]["faults"] = "kill-leader at 8 s"
    found["rounds"][0]["leader killed"] = fault
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
        found = await gone_through(a_suite(monkeypatch, _Told(a_run(committed_per_s)), of_limit=0.5))
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


def test_ranges_that_meet_are_no_change() -> None:
    one = {"low": 1.0, "high": 2.0, "more_is_better": False}
    assert compare.verdict(one, {"low": 2.0, "high": 3.0}) == "within the spread"
    assert compare.verdict(one, {"low": 2.1, "high": None}) == "**worse**"
    assert compare.verdict(one, {"low": 0.1, "high": 0.9}) == "better"
