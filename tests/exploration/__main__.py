"""Explore small scopes of the real engine. Status 1 if agreement was broken anywhere, with the shortest way there.

make explore                      everything docs/exploration.md claims; most of an hour
make explore ARGS=--write         the same, and put the table into docs/exploration.md
make explore ARGS=--quick         one height and two views; about a minute
make explore ARGS=--faults        the planted faults, each with the shortest way to two decisions
make explore ARGS="--byzantine 0 --heights 1 --views 2 --restarts 1"
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

from tests.documents import DOCS, put, table
from tests.exploration.beginnings import GAP, LOCK_IN_VIEW_0
from tests.exploration.faults import FAULTS
from tests.exploration.place import MEMBERS, Scope
from tests.exploration.search import Result, Search

STATES_MAX = 20_000_000  # about 2 GB of memory
STATES_MAX_OF_THE_LARGEST = 300_000  # some minutes each


@dataclass(frozen=True, slots=True)
class Task:
    """One exploration. `reduce` needs the whole local graphs, which two heights and two views make too large."""

    scope: Scope
    reduce: bool = True
    states_max: int = STATES_MAX
    beginning: str = ""
    about: str = ""


def tasks(quick: bool) -> list[Task]:
    """What is explored without further arguments, each identity in turn Byzantine."""
    identities = range(MEMBERS)
    two_views = [Task(Scope(one, 1, 2)) for one in identities]
    if quick:
        return two_views
    return [
        *two_views,
        *(Task(Scope(one, 1, 1, restarts=1, slow_disks=True)) for one in identities),
        *(Task(Scope(one, 1, 2, restarts=1)) for one in identities),
        *(Task(Scope(one, 2, 1)) for one in identities),
        Task(Scope(3, 1, 3), reduce=False, beginning=LOCK_IN_VIEW_0, about="from a lock of view 0"),
        Task(Scope(2, 2, 2), reduce=False, beginning=GAP, about="from a gap below a lock"),
        *(Task(Scope(one, 2, 2), reduce=False, states_max=STATES_MAX_OF_THE_LARGEST) for one in identities),
    ]


HEAD = ("Byzantine", "heights", "views", "restarts", "", "states", "transitions", "explored", "local states", "kept",
        "messages", "engine steps", "s")  # fmt: skip


def explore(task: Task) -> Result:
    """Run one; a violation is printed as a script."""
    result = Search(task.scope, states_max=task.states_max, reduce=task.reduce).run(task.beginning)
    if result.violation is not None:
        search = Search(task.scope, states_max=task.states_max, reduce=task.reduce, keep_paths=True)
        _show(search.run(task.beginning))
    return result


def row(task: Task, result: Result, took_s: float) -> tuple[str, ...]:
    """A line of the table: what was explored, how much there was."""
    scope = task.scope
    reached = "completely" if result.complete else f"all up to {result.depth} steps"
    local, kept = ("/".join(f"{count:,}" for count in counts) for counts in (result.local_states, result.kept_states))
    return (
        str(scope.byzantine),
        str(scope.heights),
        str(scope.views),
        str(scope.restarts),
        "slow disks" if scope.slow_disks else task.about,
        f"{result.states:,}",
        f"{result.transitions:,}",
        reached if result.violation is None else "BROKEN",
        local,
        kept if task.reduce else "all",
        f"{result.messages:,}",
        f"{result.engine_steps:,}",
        f"{took_s:.0f}",
    )


def _show(result: Result) -> None:
    for line in result.violation or ():
        print(f"    {line}")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def find_faults(write: bool) -> bool:
    """Whether each planted fault is found."""
    rows: list[tuple[str, ...]] = []
    for fault in FAULTS:
        began = time.monotonic()
        with fault.plant():
            result = Search(fault.scope, keep_paths=True).run(fault.beginning)
        took_s = time.monotonic() - began
        violation = result.violation
        verdict = "NOT FOUND" if violation is None else f"{len(violation)} steps"
        heights, views = counted(fault.scope.heights, "height"), counted(fault.scope.views, "view")
        scope = f"member {fault.scope.byzantine} Byzantine, {heights}, {views}"
        rows.append((fault.name, verdict, scope, "script" if fault.beginning else "start", f"{result.states:,}"))
        print(" | ".join(rows[-1]), f"| {took_s:.0f} s", flush=True)
        _show(result)
    if write:
        head = ("fault", "found after", "scope", "from the", "states")
        put(DOCS / "exploration.md", "the table of faults", table(head, rows))
    return not any(verdict == "NOT FOUND" for _, verdict, *_ in rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.exploration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one height and two views, no restarts")
    parser.add_argument("--faults", action="store_true", help="plant each fault and show how it breaks agreement")
    parser.add_argument(
        "--write",
        action="store_true",
        help="rewrite the table in docs/exploration.md; with --faults, that of the faults",
    )
    parser.add_argument("--byzantine", type=int, choices=range(MEMBERS), help="one scope only, with this identity")
    parser.add_argument("--heights", type=int, default=1, choices=(1, 2))
    parser.add_argument("--views", type=int, default=2, choices=(1, 2, 3))
    parser.add_argument("--restarts", type=int, default=0, choices=(0, 1))
    parser.add_argument(
        "--slow-disks", action="store_true", help="anything may happen before what was signed is durable"
    )
    parser.add_argument("--states", type=int, default=STATES_MAX, help="stop a scope after so many states")
    parser.add_argument("--full", action="store_true", help="take dominated steps too: more states, less to prepare")
    arguments = parser.parse_args()
    if arguments.faults:
        return 0 if find_faults(arguments.write) else 1
    chosen = tasks(arguments.quick)
    if arguments.byzantine is not None:
        sizes = (arguments.heights, arguments.views, arguments.restarts, arguments.slow_disks)
        chosen = [Task(Scope(arguments.byzantine, *sizes), not arguments.full, arguments.states)]
    if arguments.write and (arguments.quick or arguments.byzantine is not None):
        parser.error("--write is for the whole table")
    results, rows = [], []
    print(" | ".join(HEAD))
    for task in chosen:
        began = time.monotonic()
        results.append(explore(task))
        rows.append(row(task, results[-1], time.monotonic() - began))
        print(" | ".join(rows[-1]), flush=True)
    states, transitions = sum(one.states for one in results), sum(one.transitions for one in results)
    print(f"together {states:,} states, {transitions:,} transitions")
    if arguments.write:
        put(DOCS / "exploration.md", "the table of scopes", table(HEAD, rows))
    return 1 if any(one.violation is not None for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
