"""What the commands that measure a cluster share: their progress, their search for the highest rate, their ending.

Must not know: whose cluster is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import search
from bench.machine import program, versions
from bench.observer import BenchError, Unavailable
from bench.outcome import Outcome
from bench.stage import RESULTS, Say
from ledger.errors import ConfigError

EXIT_UNAVAILABLE, EXIT_INTERRUPTED = 3, 130


@dataclass(frozen=True, slots=True)
class Found:
    """One run: its outcome, whether that passes, and both as a page and as JSON values."""

    outcome: Outcome
    passes: bool
    text: str
    document: dict[str, Any]


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("a number above 0")
    return value


def refuse_beside(parser: argparse.ArgumentParser, given: argparse.Namespace, option: str, others: str) -> None:
    """Usage, where an option comes with one of the `others` (words), which would change nothing then."""
    for other in others.split():
        if getattr(given, other) not in (None, False):
            parser.error(f"--{other}: not beside --{option}")


def sayer(command: str) -> Say:
    """Progress of a command, to stderr."""

    def say(line: str) -> None:
        sys.stderr.write(f"{command}: {line}\n")
        sys.stderr.flush()

    return say


def keep(found: Found, name: str, say: Say) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}.json"
    document = {**found.document, "program": program(), "versions": versions()}
    path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    say(f"kept in {RESULTS.name}/{path.name}")


def find_max(rate: float, run: Callable[[float, float], Found], say: Say) -> Found:
    """The run of the highest rate that passes, from `rate` on; `run` takes a rate and seconds. BenchError if none. A
    void one is made once more.
    """

    def step(tried: float) -> Found:
        say(f"{tried:.0f} tx/s")
        found = run(tried, search.STEP_DURATION_S)
        if void := next(found.outcome.voids(), None):
            say(f"{tried:.0f} tx/s once more: {void}")
            found = run(tried, search.STEP_DURATION_S)
        return found

    def passes(found: Found, tried: float) -> bool:
        verdict = "passes" if found.passes else "fails"
        say(f"{tried:.0f} tx/s {verdict}: p95 {found.outcome.latencies.p95_ms:.0f} ms")
        return found.passes

    best = search.find_max(rate, step, passes)
    if best is None:
        raise BenchError("no rate passed")
    return best


def conclude(measure: Callable[[], Found], as_json: bool, say: Say) -> int:
    """Measure, print, and the command's exit status."""
    try:
        found = measure()
    except Unavailable as reason:
        say(f"not compared: {reason}")
        return EXIT_UNAVAILABLE
    except (BenchError, ConfigError, OSError, EOFError, TimeoutError) as error:
        say(f"no result: {error or type(error).__name__}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; no result")
        return EXIT_INTERRUPTED
    sys.stdout.write((json.dumps(found.document, indent=2) if as_json else found.text) + "\n")
    return 0 if found.outcome.sound else 1
