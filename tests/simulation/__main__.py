"""Run seeds of the simulation, or one run in detail. Status 1 if any failed, with how to replay it.

make sim SEEDS=300 START=0 JOBS=2             a range of seeds, and what they reached
make sim START=7 SEEDS=1 ARGS=--trace         one run as aligned lines
make sim START=7 SEEDS=1 ARGS="--html run.html --from 2.0 --to 4.5"
make sim ARGS="--plan failed-7.json --trace"  a plan again, edited or not
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir

from ledger.errors import ConfigError
from tests.simulation.coverage import expected, missing
from tests.simulation.plan import Plan, draw_plan
from tests.simulation.runs import Outcome, check_plan, run_plan, strategies
from tests.simulation.shrink import shrink, signature_of
from tests.simulation.trace import Trace, render_html

COVERAGE_SEEDS_MIN = 200  # below this, what was not reached says nothing
FAILURES_SHRUNK_MAX = 3  # one fault in the code fails many seeds alike


@dataclass
class Failure:
    """A seed that failed."""

    seed: int
    signature: str
    account: str


@dataclass
class Report:
    """The sum over many outcomes."""

    passed: int = 0
    failures: list[Failure] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    coverage: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    healing_ms_max: int = 0
    processor_s: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.passed += 1
        for name in ("simulated_ms", "deliveries", "height", "transactions", "views", "epochs"):
            self.totals[name] += getattr(outcome, name)
        self.faults.update(outcome.faults)
        self.coverage.update(outcome.coverage)
        self.broken.update(outcome.broken)
        self.healing_ms_max = max(self.healing_ms_max, outcome.healing_ms)

    def lines(self, elapsed_s: float) -> list[str]:
        total = self.totals
        runs = self.passed + len(self.failures)
        lines = [
            f"{self.passed} passed, {len(self.failures)} failed in {elapsed_s:.0f} s"
            f" ({elapsed_s / max(1, runs):.2f} s a seed)",
            f"simulated {total['simulated_ms'] / 3_600_000:.2f} h, {total['deliveries']} deliveries"
            f" ({total['deliveries'] / max(elapsed_s, 0.001):.0f}/s), {total['height']} blocks,"
            f" {total['transactions']} transactions, {total['views']} views left, {total['epochs']} epochs begun,"
            f" healed within {self.healing_ms_max / 1000:.1f} s",
            "faults: " + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())),
        ]
        if self.broken:
            ended = ", ".join(f"{name} {count}" for name, count in sorted(self.broken.items()))
            lines.append(f"Byzantine nodes that ended by their own fault: {ended}")
        points = expected()
        absent = missing(self.coverage)
        lines.append(f"coverage: {len(points) - len(absent)} of {len(points)} handlers, effects and refusals")
        if absent and runs >= COVERAGE_SEEDS_MIN:
            lines.append("  never reached: " + ", ".join(absent))
        elif absent:
            lines.append(f"  what was never reached is named from {COVERAGE_SEEDS_MIN} seeds on")
        return lines


def read_plan(path: Path) -> Plan:
    """A plan from a file; ValueError says in one line why it is none."""
    try:
        plan = Plan.from_json(path.read_text())
        check_plan(plan)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not a plan: {error}") from None
    except (LookupError, TypeError, AttributeError, ConfigError) as error:
        raise ValueError(f"{path}: not a plan: {type(error).__name__}: {error}") from None
    return plan


def attempt(seed: int) -> Outcome | Failure:
    try:
        return run_plan(draw_plan(seed, strategies()))
    except Exception as error:
        return Failure(seed, signature_of(error), traceback.format_exc())


def commit() -> str:
    result = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def fails(plan: Plan) -> str | None:
    try:
        run_plan(plan)
    except Exception as error:
        return signature_of(error)
    return None


def explain(failure: Failure, shrink_s: float, folder: Path) -> None:
    """Print all that is needed to see the failure again."""
    print(f"\nseed {failure.seed} failed at commit {commit()}: {failure.signature}\n{failure.account}")
    print(f"replay: make sim START={failure.seed} SEEDS=1")
    if shrink_s:
        plan = shrink(draw_plan(failure.seed, strategies()), fails, shrink_s)
        path = folder / f"failed-{failure.seed}.json"
        path.write_text(plan.to_json())
        print(f"shrunk to {len(plan.faults)} faults:\n{plan.to_json()}replay: make sim ARGS='--plan {path} --trace'")
    sys.stdout.flush()


def run_range(start: int, count: int, jobs: int, shrink_s: float, folder: Path) -> int:
    began_s = time.monotonic()
    report = Report()
    shrunk: Counter[str] = Counter()
    seeds = range(start, start + count)
    with ProcessPoolExecutor(jobs) as pool:
        for number, result in enumerate(pool.map(attempt, seeds, chunksize=4), 1):
            if isinstance(result, Outcome):
                report.add(result)
            else:
                report.failures.append(result)
                fresh = not shrunk[result.signature] and len(shrunk) < FAILURES_SHRUNK_MAX
                shrunk[result.signature] += 1
                explain(result, shrink_s if fresh else 0, folder)
            if number % 50 == 0:
                left_s = (time.monotonic() - began_s) / number * (count - number)
                failed = len(report.failures)
                print(f"{number}/{count} seeds, {failed} failed, {left_s:.0f} s left", file=sys.stderr)
    print("\n".join(report.lines(time.monotonic() - began_s)))
    if report.failures:
        print("failed seeds: " + " ".join(str(failure.seed) for failure in report.failures))
    return 1 if report.failures else 0


def run_one(plan: Plan, arguments: argparse.Namespace) -> int:
    """One plan in detail."""
    from_ms = int(arguments.from_s * 1000)
    to_ms = 1 << 62 if arguments.to_s is None else int(arguments.to_s * 1000)
    trace = Trace(print if arguments.trace else None, from_ms, to_ms, statuses=arguments.statuses)
    status = 0
    began_s = time.monotonic()
    report = Report()
    try:
        report.add(run_plan(plan, trace))
        print("\n".join(report.lines(time.monotonic() - began_s)))
    except Exception:
        status = 1
        traceback.print_exc()
    if arguments.html is not None:
        title = f"Simulation of seed {plan.seed}, commit {commit()}"
        nodes = plan.options.n + plan.options.followers
        arguments.html.write_text(render_html(title, trace.entries, nodes))
        print(f"wrote {arguments.html}")
    return status


def at_least(least: int) -> Callable[[str], int]:
    """An argument's type: a whole number from `least` on."""

    def whole(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{number}: at least {least}")
        return number

    whole.__name__ = "whole number"  # argparse names it where the text is none
    return whole


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least(1), default=300, help="how many")
    parser.add_argument("--start", type=at_least(0), default=0, help="the first")
    parser.add_argument("--jobs", type=at_least(1), default=2, help="processes")
    parser.add_argument("--shrink-s", type=float, default=60.0, help="seconds to make a failing plan smaller; 0: never")
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()), help="where plans of failures go")
    parser.add_argument("--plan", type=Path, help="run this plan instead of seeds")
    parser.add_argument("--write-plan", type=Path, help="write the first seed's plan there and end")
    parser.add_argument("--trace", action="store_true", help="print one run as lines")
    parser.add_argument("--statuses", action="store_true", help="with the status messages")
    parser.add_argument("--html", type=Path, help="draw one run into this file")
    parser.add_argument("--from", type=float, default=0.0, dest="from_s", help="first simulated second to show")
    parser.add_argument("--to", type=float, dest="to_s", help="last simulated second to show")
    arguments = parser.parse_args(given)
    is_shown = arguments.trace or arguments.html is not None
    from_s, to_s = arguments.from_s, arguments.to_s
    if not is_shown and (arguments.statuses or from_s or to_s is not None):
        parser.error("--from, --to and --statuses go with --trace or --html")
    if to_s is not None and to_s < from_s:
        parser.error(f"--to {to_s:g} lies before --from {from_s:g}")
    outputs = (path.parent for path in (arguments.html, arguments.write_plan) if path is not None)
    for folder in (arguments.folder, *outputs):
        if not folder.is_dir():
            parser.error(f"{folder} is no folder")
    if arguments.plan is not None:
        try:
            plan = read_plan(arguments.plan)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        return run_one(plan, arguments)
    if arguments.write_plan is not None:
        arguments.write_plan.write_text(draw_plan(arguments.start, strategies()).to_json())
        return 0
    if is_shown:
        if arguments.seeds != 1:
            print(f"--trace and --html take one seed: this is {arguments.start}, of {arguments.seeds}", file=sys.stderr)
        return run_one(draw_plan(arguments.start, strategies()), arguments)
    return run_range(arguments.start, arguments.seeds, arguments.jobs, arguments.shrink_s, arguments.folder)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who reads only the head of a trace has not made the run fail
    sys.exit(main())
