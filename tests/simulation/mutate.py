"""Plant the faults of mutants.py one after another and count the seeds until a run fails. Status 1 if one survives.

python -m tests.simulation.mutate                     all of them, up to 500 seeds each
python -m tests.simulation.mutate --write             and put the table into docs/simulation.md
python -m tests.simulation.mutate --only "no cap"     those whose name holds the words, with the failure

A fault counts as caught when a run of the simulator fails: a checker speaks, liveness is missed, the product's own code
raises, or there is no end where the sound code comes to one. The seed that caught it must pass without the fault.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass

from tests.documents import DOCS, put, table
from tests.simulation.mutants import MUTANTS, Mutant, named
from tests.simulation.runs import run_seed
from tests.simulation.shrink import signature_of

SEEDS = 500
SEED_S_MAX = 60  # a seed takes half a second


class NoEnd(Exception):
    """A run took a hundred times as long as it should."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many seeds it took; 0 if the fault survived them all."""

    seeds: int
    how: str
    account: str
    took_s: float


def _ring(*_: object) -> None:
    raise NoEnd(f"no end within {SEED_S_MAX} s")


@contextmanager
def _limited() -> Iterator[None]:
    signal.signal(signal.SIGALRM, _ring)
    signal.alarm(SEED_S_MAX)
    try:
        yield
    finally:
        signal.alarm(0)


def failure(seed: int) -> tuple[str, str] | None:
    """How a seed fails, in a line and whole; None if it passes."""
    try:
        with _limited():
            run_seed(seed)
    except Exception as error:
        return signature_of(error), traceback.format_exc()
    return None


def hunt(name: str, start: int, seeds: int) -> Verdict:
    """Run seeds until one fails with the fault of that name planted."""
    mutant = named(name)
    began_s = time.monotonic()
    for number, seed in enumerate(range(start, start + seeds), 1):
        with mutant.planted():
            found = failure(seed)
        if found is not None:
            if failure(seed) is not None:
                return Verdict(0, f"seed {seed} FAILS WITHOUT ANY FAULT", "", time.monotonic() - began_s)
            return Verdict(number, *found, time.monotonic() - began_s)
    return Verdict(0, "SURVIVED", "", time.monotonic() - began_s)


def write(verdicts: list[Verdict], mutants: list[Mutant]) -> None:
    """The table in docs/simulation.md."""
    rows = [
        (mutant.room, mutant.name, verdict.seeds or "survived", verdict.how.replace(" (at # ms)", ""))
        for mutant, verdict in zip(mutants, verdicts, strict=True)
    ]
    put(DOCS / "simulation.md", "the table of mutants", table(("room", "fault", "seeds", "first failure"), rows))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.mutate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", help="faults whose name holds these words; their failures are printed whole")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many at most for each fault")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--write", action="store_true", help="rewrite the table in docs/simulation.md")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if arguments.only is None or arguments.only in mutant.name]
    if not mutants:
        parser.error(f"no fault's name holds {arguments.only!r}")
    if arguments.write and arguments.only is not None:
        parser.error("--write is for the whole table")
    verdicts: dict[str, Verdict] = {}
    with ProcessPoolExecutor(arguments.jobs, max_tasks_per_child=1) as pool:
        running = {pool.submit(hunt, mutant.name, arguments.start, arguments.seeds): mutant for mutant in mutants}
        for future in as_completed(running):
            mutant, verdict = running[future], future.result()
            verdicts[mutant.name] = verdict
            seeds = f"{verdict.seeds} seeds" if verdict.seeds else f"not in {arguments.seeds} seeds"
            print(f"{mutant.room}: {mutant.name}: {seeds}, {verdict.took_s:.0f} s: {verdict.how}", flush=True)
            if arguments.only is not None:
                print(verdict.account)
    if arguments.write:
        write([verdicts[mutant.name] for mutant in mutants], mutants)
    survivors = sum(not verdict.seeds for verdict in verdicts.values())
    most = max(verdict.seeds for verdict in verdicts.values())
    print(
        f"{len(mutants)} faults, {len(mutants) - survivors} caught, within {most} seeds at most, {survivors} survived"
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
