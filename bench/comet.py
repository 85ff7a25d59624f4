"""CometBFT side by side: `python -m bench.comet --config stock|tuned|signed`, under the load and the measure of ours.

What is compared, and what is not the same, is in bench/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import comet_report, search
from bench.comet_nodes import SETUPS, build
from bench.comet_report import Config, Results
from bench.comet_run import RESULTS, Options, run
from bench.observer import BenchError, Unavailable
from node.cluster.runner import ClusterError

EXIT_UNAVAILABLE = 3

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
        "--rate", type=_positive, default=default.rate, help="transactions offered a second (default 500)"
    )
    parser.add_argument(
        "--duration", type=_positive, default=default.duration_s, help="measured window in seconds (default 20)"
    )
    parser.add_argument(
        "--find-max", action="store_true", help="search the highest rate that passes, from --rate, in short runs"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("a number above 0")
    return value


def _say(line: str) -> None:
    sys.stderr.write(f"comet: {line}\n")
    sys.stderr.flush()


def _once(options: Options, program: Path) -> tuple[Config, Results]:
    config, results = asyncio.run(run(options, program, _say))
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-comet-{config.setup}-{config.rate:g}.json"
    (RESULTS / name).write_text(json.dumps(comet_report.document(config, results), indent=2) + "\n", "utf-8")
    _say(f"kept in {RESULTS.name}/{name}")
    return config, results


def _find_max(options: Options, program: Path) -> tuple[Config, Results]:
    def step(rate: float) -> tuple[Config, Results]:
        _say(f"{rate:.0f} tx/s")
        return _once(replace(options, rate=rate, duration_s=search.STEP_DURATION_S), program)

    def passes(found: tuple[Config, Results], rate: float) -> bool:
        passed = comet_report.passes(*found)
        _say(f"{rate:.0f} tx/s {'passes' if passed else 'fails'}: p95 {found[1].latencies.p95_ms:.0f} ms")
        return passed

    best = search.find_max(options.rate, step, passes)
    if best is None:
        raise BenchError("no rate passed")
    return best


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    options = Options(given.config, given.rate, duration_s=given.duration)
    try:
        program = build()
        config, results = _find_max(options, program) if given.find_max else _once(options, program)
    except Unavailable as reason:
        _say(f"not compared: {reason}")
        return EXIT_UNAVAILABLE
    except (BenchError, ClusterError, OSError, EOFError, TimeoutError) as error:
        _say(f"no result: {error or type(error).__name__}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted; no result")
        return 130
    if given.json:
        sys.stdout.write(json.dumps(comet_report.document(config, results), indent=2) + "\n")
    else:
        sys.stdout.write(comet_report.text(config, results) + "\n")
    return 0 if results.sound else 1


if __name__ == "__main__":
    sys.exit(main())
