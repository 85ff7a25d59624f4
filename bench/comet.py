"""CometBFT side by side: `python -m bench.comet --config stock|tuned|signed`, under the load and the measure of ours.

What is compared, and what is not the same, is in bench/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import comet_report
from bench.comet_nodes import SETUPS, build
from bench.comet_run import Options, run
from bench.command import Found, conclude, find_max, keep, positive, refuse_beside, sayer

_say = sayer("comet")

_EXAMPLES = """examples:
  python -m bench.comet --config stock --rate 200       as it ships
  python -m bench.comet --config tuned --find-max       the highest rate with p95 under 500 ms (stock: 3 s)
  python -m bench.comet --config signed --json | jq .results

The result is printed, and kept as JSON under bench/results/. Progress goes to stderr.
Exit status: 0 done, 1 a check failed or there is no result, 2 usage, 3 CometBFT cannot be had here.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.comet",
        description="Throughput and latency of four CometBFT validators with the key-value application.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Options()
    parser.add_argument("--config", choices=list(SETUPS), default=default.setup, help="settings (default stock)")
    parser.add_argument(
        "--rate", type=positive, default=default.rate, help="transactions offered a second (default 500)"
    )
    parser.add_argument("--duration", type=positive, help="measured window in seconds (default 20)")
    parser.add_argument(
        "--find-max", action="store_true", help="search the highest rate that passes, from --rate, in runs of 10 s"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _once(options: Options, program: Path) -> Found:
    config, results = asyncio.run(run(options, program, _say))
    found = Found(
        results,
        comet_report.passes(config, results),
        comet_report.text(config, results),
        comet_report.document(config, results),
    )
    keep(found, f"comet-{config.setup}-{config.rate:g}", _say)
    return found


def _measure(options: Options, search: bool) -> Found:
    program = build()
    if not search:
        return _once(options, program)
    return find_max(options.rate, lambda rate, s: _once(replace(options, rate=rate, duration_s=s), program), _say)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.find_max:
        refuse_beside(parser, given, "find-max", "duration")
    options = Options(given.config, given.rate, duration_s=given.duration or Options().duration_s)
    return conclude(lambda: _measure(options, given.find_max), given.json, _say)


if __name__ == "__main__":
    sys.exit(main())
