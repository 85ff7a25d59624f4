"""Every row of the table in one go: `python -m bench.suite`, or `make bench-suite ARGS="..."`.

Searches the knees first, then makes rounds: in each, one run of every scenario that the chosen rows need, so that what
is compared lies minutes apart and not hours. A run whose two calibrations of L differ by more than 10 % is discarded,
said, and repeated once. What cannot be had is named in the table, and the rest goes on. What was measured is kept after
every run, and `--resume` goes on from there.

Must not know: what a row means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import charts, machine
from bench.command import sayer
from bench.observer import BenchError, Unavailable
from bench.outcome import drift_of
from bench.rows import GROUPS, ROWS, Row
from bench.scenarios import KNEE_WARMUP_S, KNEE_WINDOW_S, SCENARIOS, Document, Scenario
from bench.search import Search
from bench.stage import RESULTS
from bench.table import measure, to_markdown
from ledger.errors import ConfigError

FORMAT = "medchain/suite/1"
RUNS = 5
TRIES_MAX = 2  # of one run: discarded once more, the machine is too restless for this round
KNEE_STEPS_MAX = 7
AROUND_S = 20.0  # of a run, around its load: calibrations, start, set-up, reading back, checks

_EXAMPLES = """examples:
  python -m bench.suite                               all rows, five rounds: some hours, undisturbed
  python -m bench.suite --only sustained,light,half   three of them
  python -m bench.suite --resume A-suite.json         goes on with one that was interrupted, of the same program
  python -m bench.suite --quick                       does everything work? Figures mean nothing
  python -m bench.compare A.json B.json               two suites, by ratio

Kept in bench/results/: <time>-suite.json after every run, in the end .md and charts as .svg. Progress goes to stderr.
Exit status: 0 done (a row may fall short), 1 a check failed in a run or nothing was measured, 2 usage.
"""


_say = sayer("suite")


class Suite:
    """One go: knees, rounds, and what became of each run."""

    def __init__(
        self, rows: Sequence[Row], runs: int, quick: bool, keep: Callable[[Document], None] = lambda document: None
    ) -> None:
        """`keep` is given what there is after every run."""
        self.rows, self.runs, self.is_quick, self._keep = rows, runs, quick, keep
        needed = dict.fromkeys(name for row in rows for name in row.scenarios)
        chosen = [SCENARIOS[name] for name in needed if name in SCENARIOS]
        self.scenarios = [scenario.quick() if quick else scenario for scenario in chosen]
        self.knees: dict[str, float] = {}
        self.steps: dict[str, list[Document]] = {}
        self.rounds: list[dict[str, Document]] = []
        self.discarded: dict[str, int] = {}
        self.failed: dict[str, list[str]] = {}
        self.unavailable: set[str] = set()  # scenarios that cannot be had here: not tried again
        self.is_sound = True

    def take_up(self, document: Mapping[str, Any]) -> None:
        """Go on from what `document` gave. ValueError if that was another suite, or of another program."""
        if document.get("format") != FORMAT:
            raise ValueError(f"not of the format {FORMAT}")
        if not machine.is_same_program(document["commit"]):
            raise ValueError(f"measured at commit {document['commit']}, and this is {machine.commit()}")
        self.knees, self.steps, self.rounds = document["knees"], document["steps"], document["rounds"]
        self.discarded, self.failed = document["discarded"], document["failed"]
        self.is_sound = document["sound"]

    def expected_s(self) -> float:
        """About how long the rest takes, if no run is discarded."""
        searched = 0 if self.is_quick else len({scenario.knee_of for scenario in self.scenarios} - {None, *self.knees})
        due = [one for number in range(self.runs) for one in self.scenarios if not self._is_made(one, number)]
        runs_s = sum(scenario.options.load_s + AROUND_S for scenario in due)
        return runs_s + searched * KNEE_STEPS_MAX * (KNEE_WINDOW_S + KNEE_WARMUP_S + AROUND_S)

    def _is_made(self, scenario: Scenario, number: int) -> bool:
        """Whether a round has, or needs, no run of it."""
        has = number < len(self.rounds) and scenario.name in self.rounds[number]
        return has or number >= (scenario.runs_max or self.runs)

    async def search_knees(self) -> None:
        for name in dict.fromkeys(scenario.knee_of for scenario in self.scenarios):
            if name is not None and name not in self.knees:
                await self._search(SCENARIOS[name])
                self._keep(self.document())

    async def _search(self, scenario: Scenario) -> None:
        search, steps = Search(scenario.guess, KNEE_STEPS_MAX), []
        while not search.done and scenario.name not in self.unavailable:
            _say(f"knee of {scenario.name}: step {search.steps + 1}, {search.load:.3f} of L")
            found = await self._run(scenario, scenario.name, share=search.load)
            if found is not None:
                steps.append(found)
            search.note(found is not None and bool(found["passes"]))
        # None passed, as on a restless machine: what was committed under the heaviest load is a lower bound.
        best = max((step["results"]["committed_per_s"] / step["results"]["limit"] for step in steps), default=0.0)
        if search.low or best:
            self.knees[scenario.name] = search.low or best
            self.steps[scenario.name] = steps
            _say(f"knee of {scenario.name}: {self.knees[scenario.name]:.3f} of L")

    async def make_rounds(self) -> None:
        for number in range(self.runs):
            if number == len(self.rounds):
                self.rounds.append({})
            found = self.rounds[number]
            for scenario in self.scenarios:
                if scenario.name in self.unavailable or self._is_made(scenario, number):
                    continue
                if scenario.knee_of is not None and scenario.knee_of not in self.knees:
                    self._note_failure(scenario.name, "its knee was not found")
                    continue
                _say(f"round {number + 1} of {self.runs}: {scenario.name}")
                run = await self._kept(scenario)
                if run is not None:
                    found[scenario.name] = run
                self._keep(self.document())

    async def _kept(self, scenario: Scenario) -> Document | None:
        """A run that is not discarded, if there is one."""
        for _ in range(TRIES_MAX):
            run = await self._run(scenario, scenario.name)
            if run is None:
                return None
            drift = drift_of(run["results"]["limit_before"], run["results"]["limit_after"])
            if drift <= scenario.drift_max or self.is_quick:
                return run
            self.discarded[scenario.name] = self.discarded.get(scenario.name, 0) + 1
            _say(f"{scenario.name}: discarded, the machine's speed changed by {drift:.0%}")
        return None

    async def _run(self, scenario: Scenario, name: str, share: float | None = None) -> Document | None:
        try:
            options = scenario.offer(self.knees) if share is None else scenario.trial(share)
            run = await scenario.runner(options, _say)
        except (BenchError, ConfigError, OSError, EOFError, TimeoutError) as error:
            if isinstance(error, Unavailable):
                self.unavailable.add(name)
            self._note_failure(name, str(error) or type(error).__name__)
            return None
        if not run["sound"]:
            self.is_sound = False
            self._note_failure(name, "a check failed: its figures count for nothing")
            return None
        return run

    def _note_failure(self, name: str, why: str) -> None:
        self.failed.setdefault(name, []).append(why)
        _say(f"{name}: no result: {why}")

    def document(self) -> dict[str, Any]:
        measured = [measure(row, self.rounds, self._why_missing(row)) for row in self.rows]
        return {
            "format": FORMAT,
            "made": time.strftime("%Y-%m-%d %H:%M:%S"),
            "groups": list(dict.fromkeys(row.group for row in self.rows)),
            "quick": self.is_quick,
            "runs": self.runs,
            "sound": self.is_sound,
            **machine.place(),
            "limits": [run["results"]["limit"] for found in self.rounds for run in found.values()],
            "knees": self.knees,
            "discarded": self.discarded,
            "failed": self.failed,
            "rows": measured,
            "steps": self.steps,
            "rounds": self.rounds,
        }

    def _why_missing(self, row: Row) -> str:
        """Why a row has no value, should it have none."""
        unknown = [name for name in row.scenarios if name not in SCENARIOS]
        if unknown:
            return f"nothing here measures {unknown[0]}"
        for name in row.scenarios:
            if name in self.failed:
                return self.failed[name][-1]
            if self.discarded.get(name):
                return "every run was discarded"
        return "no round has all its runs"


def _suite(groups: Sequence[str], runs: int, quick: bool, stem: str, before: Document | None) -> Suite:
    """A new one, or `before` taken up with its own rows and rounds."""
    if before is not None:
        groups, runs, quick = before["groups"], before["runs"], before["quick"]
    rows = [row for row in ROWS if row.group in groups]
    suite = Suite(rows, runs, quick, lambda document: keep(document, stem))
    if before is not None:
        suite.take_up(before)
    return suite


async def _go(suite: Suite) -> None:
    """Ends early, as by Ctrl-C, when the process is told to end: every run puts away what it started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if not suite.is_quick:
        await suite.search_knees()
    await suite.make_rounds()


def keep(document: Mapping[str, Any], stem: str) -> None:
    """Write the JSON, whole or not at all."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{stem}.json"
    path.with_suffix(".part").write_text(json.dumps(document) + "\n", "utf-8")
    path.with_suffix(".part").replace(path)


def publish(document: Mapping[str, Any], stem: str) -> str:
    """Write JSON, table and charts; returns the table."""
    keep(document, stem)
    drawn = charts.of_suite(document)
    for name, svg in drawn.items():
        (RESULTS / f"{stem}-{name}.svg").write_text(svg, "utf-8")
    table = to_markdown(document, [f"{stem}-{name}.svg" for name in drawn])
    (RESULTS / f"{stem}.md").write_text(table, "utf-8")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.suite",
        description="All rows of the performance table: owed, aimed at, measured.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", metavar="ROW,ROW", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--runs", type=int, default=RUNS, help="rounds (default 5)")
    parser.add_argument("--quick", action="store_true", help="seconds a run, one round, no search")
    parser.add_argument("--resume", type=Path, metavar="JSON", help="go on with that suite, with its rows and rounds")
    given = parser.parse_args(arguments)
    groups = [name for name in given.only.split(",") if name] or list(GROUPS)
    for unknown in set(groups) - set(GROUPS):
        parser.error(f"--only: no row {unknown!r}; there are {', '.join(GROUPS)}")
    if given.runs < 1:
        parser.error("--runs: 1 or more")
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-suite" if given.resume is None else given.resume.stem
    runs = 1 if given.quick else given.runs
    try:
        before = None if given.resume is None else json.loads(given.resume.read_text("utf-8"))
        suite = _suite(groups, runs, given.quick, stem, before)
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"--resume {given.resume}: {error}")
    _say(f"{len(suite.scenarios)} scenarios, about {suite.expected_s() / 60:.0f} minutes")
    try:
        asyncio.run(_go(suite))
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("interrupted; what was measured is kept")
    finally:  # whatever ended it: hours of runs are not thrown away
        if any(suite.rounds):
            sys.stdout.write(publish(suite.document(), stem))
            _say(f"kept in {RESULTS.name}/{stem}.json")
    if not any(suite.rounds):
        _say("nothing was measured")
        return 1
    return 0 if suite.is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
