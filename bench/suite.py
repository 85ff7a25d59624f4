"""Every row of the table in one go: `python -m bench.suite`, or `make bench-suite ARGS="..."`.

Searches the knees first, then makes rounds: in each, one run of every scenario that the chosen rows need, so that what
is compared lies minutes apart and not hours. A void run is discarded, said, and made once more. One that fails by
itself is lost, and its round has the worst value that there is: what goes wrong now and then must not look better by
being left out. What cannot be had here is named in the table, and the rest goes on. What was measured is kept after
every run, and `--resume` goes on from there, with the same program on the same machine.

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
from bench.command import EXIT_INTERRUPTED, refuse_beside, sayer
from bench.observer import Unavailable
from bench.outcome import DRIFT, Doubt
from bench.rows import GROUPS, ROWS, Round, Row
from bench.scenarios import KNEE_WARMUP_S, KNEE_WINDOW_S, SCENARIOS, Document, Scenario
from bench.search import Search
from bench.stage import RESULTS
from bench.table import measure, to_markdown

FORMAT = "medchain/suite/2"
RUNS = 5
KNEE_STEPS_MAX = 5
AROUND_S = 26.0  # of a run, around its load: calibrations, start, set-up, reading back, checks
AROUND_SHARE = 0.4  # of the load, where that is more: all of it is read back and executed once more

_EXAMPLES = """examples:
  python -m bench.suite                               all rows, five rounds: some hours, undisturbed
  python -m bench.suite --only sustained,light,half   three of them
  python -m bench.suite --resume A-suite.json         goes on with one that was interrupted, and writes there
  python -m bench.suite --quick                       does everything work? Figures mean nothing
  python -m bench.compare A.json B.json               two suites, by ratio

Kept in bench/results/: <time>-suite.json after every run, and in the end, also an early one, .md and charts as .svg.
Progress goes to stderr. --resume has groups, rounds and --quick from its file and writes there. It takes the same
program, machine and versions; a run that was lost, or void twice, is not made again.
Exit status: 0 done (a row may fall short); 1 a run was lost, a check failed, the program changed, or nothing was
measured; 2 usage; 130 interrupted (Ctrl-C, SIGTERM).
"""


_say = sayer("suite")


class ProgramChanged(Exception):
    """Files of what is measured changed under the suite: it ends, as what came next would be another program's."""


class Suite:
    """One go: knees, rounds, and what became of each run."""

    def __init__(
        self, rows: Sequence[Row], runs: int, quick: bool, keep: Callable[[Document], None] = lambda document: None
    ) -> None:
        """`keep` is given what there is after every run."""
        self.rows, self.runs, self.is_quick, self._keep = rows, runs, quick, keep
        needed = {name for row in rows for name in row.scenarios}
        chosen = [scenario for name, scenario in SCENARIOS.items() if name in needed]
        self.scenarios = [scenario.quick() if quick else scenario for scenario in chosen]
        self.place = machine.place()
        self.knees: dict[str, float] = {}
        self.steps: dict[str, list[Document]] = {}
        self.rounds: list[Round] = []
        self.discarded: dict[str, list[str]] = {}
        self.failed: dict[str, list[str]] = {}
        self.unavailable: set[str] = set()  # scenarios that cannot be had here: not tried again
        self.is_sound = True  # no check failed and no run was lost

    def take_up(self, document: Mapping[str, Any]) -> None:
        """Go on from what `document` gave. ValueError if that was another suite, program or machine."""
        if document.get("format") != FORMAT:
            raise ValueError(f"not of the format {FORMAT}")
        then, here = _conditions(document), _conditions(self.place)
        others = [
            f"{name} {then.get(name)} then, {value} here" for name, value in here.items() if then.get(name) != value
        ]
        if others:
            raise ValueError("; ".join(others))
        self.knees, self.steps = document["knees"], document["steps"]
        self.rounds = [Round(**found) for found in document["rounds"]]
        self.discarded, self.failed = document["discarded"], document["failed"]
        self.is_sound = document["sound"]

    def expected_s(self) -> float:
        """About how long the rest takes, if no run is void."""
        searched = 0 if self.is_quick else len({scenario.knee_of for scenario in self.scenarios} - {None, *self.knees})
        due = [one for number in range(self.runs) for one in self.scenarios if not self._is_made(one, number)]
        runs_s = sum(_run_s(scenario.options.load_s) for scenario in due)
        return runs_s + searched * KNEE_STEPS_MAX * _run_s(KNEE_WINDOW_S + KNEE_WARMUP_S)

    def _is_made(self, scenario: Scenario, number: int) -> bool:
        """Whether a round has had, or needs, no run of it."""
        has_had = number < len(self.rounds) and self.rounds[number].has_had(scenario.name)
        return has_had or number < self.runs - (scenario.runs_max or self.runs)  # the long ones in the last rounds

    async def search_knees(self) -> None:
        for name in dict.fromkeys(scenario.knee_of for scenario in self.scenarios):
            if name is not None and name not in self.knees:
                await self._search(SCENARIOS[name])
                self._keep(self.document())

    async def _search(self, scenario: Scenario) -> None:
        search, steps = Search(scenario.guess, KNEE_STEPS_MAX), []
        while not search.done and scenario.name not in self.unavailable:
            _say(f"knee of {scenario.name}: step {search.steps + 1}, {search.load:.3f} of L")
            found = await self._run(scenario, search.load)
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
                self.rounds.append(Round())
            for scenario in self.scenarios:
                if scenario.name not in self.unavailable and not self._is_made(scenario, number):
                    _say(f"round {number + 1} of {self.runs}: {scenario.name}")
                    await self._fill(self.rounds[number], scenario)
                    self._keep(self.document())

    async def _fill(self, found: Round, scenario: Scenario) -> None:
        """What becomes of a scenario in a round: it has a run, or has lost it, or it was void twice."""
        name, run = scenario.name, None
        if scenario.knee_of is not None and scenario.knee_of not in self.knees:
            self._note_failure(name, f"the knee of {scenario.knee_of} was not found")
        else:
            run = await self._run(scenario)
        if name in self.unavailable:
            return
        if run is None:
            found.lost[name] = self.failed[name][-1]
            self.is_sound = False
        elif why := self._void(scenario, run):
            found.void[name] = why
            self._note_void(name, why)
        else:
            found.runs[name] = run

    async def _run(self, scenario: Scenario, share: float | None = None) -> Document | None:
        """A run at what the scenario offers, or at a share of L; a void one is made once more."""
        run = await self._try(scenario, share)
        if run is not None and (why := self._void(scenario, run)):
            self._note_void(scenario.name, why)
            run = await self._try(scenario, share)
        return run

    async def _try(self, scenario: Scenario, share: float | None) -> Document | None:
        if machine.program() != self.place["program"]:
            raise ProgramChanged
        name = scenario.name
        try:
            run = await scenario.runner(scenario.offer(self.knees) if share is None else scenario.trial(share), _say)
        except Unavailable as reason:
            self.unavailable.add(name)
            self._note_failure(name, str(reason))
            return None
        except Exception as error:  # whatever it is, it ends this run and not hours of others
            self._note_failure(name, f"{type(error).__name__}: {error}")
            return None
        if not run["sound"]:
            self.is_sound = False
            self._note_failure(name, "a check failed: its figures count for nothing")
            return None
        return run

    def _void(self, scenario: Scenario, run: Document) -> str:
        """Why a run says nothing of the cluster; empty if it does, and in a quick suite, which says nothing anyway."""
        voids = [Doubt(**each) for each in run["voids"] if not self.is_quick]
        return "; ".join(str(each) for each in voids if not (scenario.may_drift and each.kind == DRIFT))

    def _note_void(self, name: str, why: str) -> None:
        self.discarded.setdefault(name, []).append(why)
        _say(f"{name}: void: {why}")

    def _note_failure(self, name: str, why: str) -> None:
        self.failed.setdefault(name, []).append(why)
        _say(f"{name}: no result: {why}")

    def document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "made": time.strftime("%Y-%m-%d %H:%M:%S"),
            "groups": list(dict.fromkeys(row.group for row in self.rows)),
            "quick": self.is_quick,
            "runs": self.runs,
            "sound": self.is_sound,
            **self.place,
            "limits": [run["results"]["limit"] for found in self.rounds for run in found.runs.values()],
            "knees": self.knees,
            "discarded": self.discarded,
            "failed": self.failed,
            "rows": [measure(row, self.rounds, self._expected(row), self._why_missing(row)) for row in self.rows],
            "steps": self.steps,
            "rounds": [found.to_json() for found in self.rounds],
        }

    def _expected(self, row: Row) -> int:
        """In how many rounds it should have a value."""
        most = [SCENARIOS[name].runs_max for name in row.scenarios if name in SCENARIOS]
        return min([self.runs, *(runs for runs in most if runs is not None)])

    def _why_missing(self, row: Row) -> str:
        """Why a row has no value, should it have none."""
        unknown = [name for name in row.scenarios if name not in SCENARIOS]
        if unknown:
            return f"nothing here measures {unknown[0]}"
        for name in row.scenarios:
            if any(name in found.runs for found in self.rounds):
                continue
            if any(name in found.void for found in self.rounds):
                return "every run was void"
            if name in self.failed:
                return self.failed[name][-1]
        return "no round has all its runs"


def _run_s(load_s: float) -> float:
    """About how long a run takes."""
    return load_s + max(AROUND_S, AROUND_SHARE * load_s)


def _conditions(place: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for runs to belong together, by name."""
    return {name: place[name] for name in ("program", "machine", "cores")} | dict(place["versions"])


def _suite(groups: Sequence[str], runs: int, quick: bool, path: Path, before: Document | None) -> Suite:
    """A new one, or `before` taken up with its own rows and rounds."""
    if before is not None:
        groups, runs, quick = before["groups"], before["runs"], before["quick"]
    rows = [row for row in ROWS if row.group in groups]
    suite = Suite(rows, runs, quick, lambda document: keep(document, path))
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


def keep(document: Mapping[str, Any], path: Path) -> None:
    """Write the JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document) + "\n", "utf-8")
    part.replace(path)


def publish(document: Mapping[str, Any], path: Path) -> str:
    """Write the JSON, and beside it table and charts; returns the table."""
    keep(document, path)
    drawn = charts.of_suite(document)
    for name, svg in drawn.items():
        path.with_name(f"{path.stem}-{name}.svg").write_text(svg, "utf-8")
    table = to_markdown(document, [f"{path.stem}-{name}.svg" for name in drawn])
    path.with_suffix(".md").write_text(table, "utf-8")
    return table


def _put_down(suite: Suite, path: Path) -> None:
    """Whatever ended it: hours of runs are not thrown away."""
    if any(found.runs or found.lost for found in suite.rounds):
        sys.stdout.write(publish(suite.document(), path))
        _say(f"kept in {path}")
    elif suite.knees:
        keep(suite.document(), path)
        _say(f"no round was begun; knees are kept in {path}")
    else:
        _say("nothing was measured")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.suite",
        description="All rows of the performance table: owed, aimed at, measured.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="ROW,ROW", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--runs", type=int, help=f"rounds (default {RUNS})")
    parser.add_argument("--quick", action="store_true", help="seconds a run, one round, no search")
    parser.add_argument(
        "--resume", type=Path, metavar="JSON", help="go on with that suite; none of the others beside it"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.resume is not None:
        refuse_beside(parser, given, "resume", "only runs quick")
    groups = [name for name in (given.only or "").split(",") if name] or list(GROUPS)
    for unknown in set(groups) - set(GROUPS):
        parser.error(f"--only: no row {unknown!r}; there are {', '.join(GROUPS)}")
    runs = RUNS if given.runs is None else given.runs
    if runs < 1:
        parser.error("--runs: 1 or more")
    path: Path = given.resume or RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}-suite.json"
    try:
        before = None if given.resume is None else json.loads(path.read_text("utf-8"))
        suite = _suite(groups, 1 if given.quick else runs, given.quick, path, before)
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"--resume {given.resume}: {error}")
    _say(f"{len(suite.scenarios)} scenarios, about {suite.expected_s() / 60:.0f} minutes")
    try:
        asyncio.run(_go(suite))
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("interrupted")
        return EXIT_INTERRUPTED
    except ProgramChanged:
        _say("the program changed under the suite: what was measured before is kept, and nothing more measured")
        return 1
    finally:
        _put_down(suite, path)
    return 0 if suite.is_sound and any(found.runs for found in suite.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
