"""Explore small scopes of the real engine. Status 1 if agreement was broken anywhere, with the shortest way there.

make explore                                    everything docs/exploration.md claims; most of an hour
make explore ARGS=--quick                       one height and two views; about a minute
make explore ARGS="--byzantine 0 --heights 1 --views 2 --restarts 1"
make explore ARGS="--faults"                    the planted faults, each with its trace
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

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
        Task(Scope(3, 1, 3), reduce=False, beginning=LOCK_IN_VIEW_0, about=", from a lock of view 0"),
        Task(Scope(2, 2, 2), reduce=False, beginning=GAP, about=", from a gap below a lock"),
        *(Task(Scope(one, 2, 2), reduce=False, states_max=STATES_MAX_OF_THE_LARGEST) for one in identities),
    ]


def explore(task: Task) -> Result:
    began = time.monotonic()
    result = Search(task.scope, states_max=task.states_max, reduce=task.reduce).run(task.beginning)
    took_s = time.monotonic() - began
    reached = "complete" if result.complete else f"all up to {result.depth} steps"
    if result.violation is not None:
        reached = "BROKEN"
    local, kept = ("/".join(map(str, counts)) for counts in (result.local_states, result.kept_states))
    print(
        f"{_words(task.scope)}{task.about}: {result.states:,} states, {result.transitions:,} transitions, {reached}; "
        f"local states {local}, kept {kept}; {result.messages} messages, {result.engine_steps:,} engine steps; "
        f"{took_s:.0f} s",
        flush=True,
    )
    if result.violation is not None:
        search = Search(task.scope, states_max=task.states_max, reduce=task.reduce, keep_paths=True)
        _show(search.run(task.beginning))
    return result


def _words(scope: Scope) -> str:
    disks = ", slow disks" if scope.slow_disks else ""
    return (
        f"member {scope.byzantine} Byzantine, {scope.heights} height(s), {scope.views} view(s), "
        f"{scope.restarts} restart(s){disks}"
    )


def _show(result: Result) -> None:
    for line in result.violation or ():
        print(f"    {line}")


def find_faults() -> bool:
    """Whether each planted fault is found."""
    all_found = True
    for fault in FAULTS:
        began = time.monotonic()
        with fault.plant():
            result = Search(fault.scope, keep_paths=True).run(fault.beginning)
        found = result.violation is not None
        all_found = all_found and found
        took_s = time.monotonic() - began
        steps = len(result.violation or ())
        verdict = f"found in {steps} steps" if found else "NOT FOUND"
        print(f"{fault.name}: {verdict}; {_words(fault.scope)}: {result.states:,} states, {took_s:.1f} s", flush=True)
        _show(result)
    return all_found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.exploration", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one height and two views, no restarts")
    parser.add_argument("--faults", action="store_true", help="plant each fault and show how it breaks agreement")
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
        return 0 if find_faults() else 1
    chosen = tasks(arguments.quick)
    if arguments.byzantine is not None:
        sizes = (arguments.heights, arguments.views, arguments.restarts, arguments.slow_disks)
        chosen = [Task(Scope(arguments.byzantine, *sizes), not arguments.full, arguments.states)]
    results = [explore(task) for task in chosen]
    states, transitions = sum(one.states for one in results), sum(one.transitions for one in results)
    print(f"together {states:,} states, {transitions:,} transitions")
    return 1 if any(one.violation is not None for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
