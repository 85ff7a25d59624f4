"""Run seeds: `python -m tests.simulation --seeds 300 --start 0 --jobs 2`. Status 1 if any failed, with how to
replay it.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.runs import Outcome, run_seed


def attempt(seed: int) -> Outcome | str:
    try:
        return run_seed(seed)
    except Exception:
        return f"seed {seed} failed; replay: make sim START={seed} SEEDS=1\n{traceback.format_exc()}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    began_s = time.monotonic()
    outcomes: list[Outcome] = []
    failures = 0
    with ProcessPoolExecutor(max(1, arguments.jobs)) as pool:
        seeds = range(arguments.start, arguments.start + arguments.seeds)
        for number, result in enumerate(pool.map(attempt, seeds, chunksize=4), 1):
            if isinstance(result, Outcome):
                outcomes.append(result)
            else:
                failures += 1
                print(result, flush=True)
            if number % 50 == 0:
                left_s = (time.monotonic() - began_s) / number * (arguments.seeds - number)
                print(f"{number}/{arguments.seeds} seeds, {failures} failed, {left_s:.0f} s left", file=sys.stderr)
    elapsed_s = time.monotonic() - began_s
    deliveries = sum(outcome.deliveries for outcome in outcomes)
    print(
        f"{len(outcomes)} passed, {failures} failed\n"
        f"simulated {sum(o.simulated_ms for o in outcomes) / 3_600_000:.1f} h in {elapsed_s:.0f} s, "
        f"{deliveries} deliveries ({deliveries / max(elapsed_s, 0.001):.0f}/s), "
        f"{sum(o.height for o in outcomes)} blocks, {sum(o.transactions for o in outcomes)} transactions, "
        f"{sum(o.crashes for o in outcomes)} crashes, {sum(o.views for o in outcomes)} view changes"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
