"""Command line of the benchmark: `python -m bench`, or `make bench ARGS="..."`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from bench import report, search
from bench.faults import FaultPlan
from bench.mix import MIXES
from bench.observer import BenchError
from bench.options import Options
from bench.run import RESULTS, run
from ledger.errors import ConfigError

_EXAMPLES = """examples:
  python -m bench                                   four nodes, 2,000 tx/s of the standard mix
  python -m bench --rate 500 --duration 60          a light load, five times: compare medians
  python -m bench --poisson --seed 7                bursts as strangers make them
  python -m bench --mix payments --find-max         the highest rate with p95 under 500 ms
  python -m bench --share 0.1                       a tenth of what the machine's signature checks allow
  python -m bench --mix sized --size 4096           transactions of 4 KB
  python -m bench --mix bulk --rate 40              500 serials to a transaction
  python -m bench --delay 50 --loss 0.01            links of 50 ms one way that lose a segment in a hundred
  python -m bench --fault kill-leader@10            and how long nothing is committed then
  python -m bench --nodes 7 --json | jq .results    for programs

The result is printed, and kept as JSON under bench/results/. Progress goes to stderr.
Exit status: 0 done, 1 a check failed or there is no result, 2 usage. bench/README.md says how to read it.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Throughput and latency of a local cluster under open-loop load of signed transactions.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Options()
    parser.add_argument("--nodes", type=int, default=default.nodes, help="validators: 1, or 4 and more (default 4)")
    parser.add_argument(
        "--rate", type=_positive, default=default.rate, help="transactions offered a second (default 2000)"
    )
    parser.add_argument(
        "--duration", type=_positive, default=default.duration_s, help="measured window in seconds (default 20)"
    )
    parser.add_argument(
        "--warmup", type=_positive, default=default.warmup_s, help="seconds of load before it (default 5)"
    )
    parser.add_argument("--clients", type=int, default=default.clients, help="client processes (default 2)")
    parser.add_argument("--mix", choices=sorted(MIXES), default=default.mix, help="kinds of transactions")
    parser.add_argument(
        "--share",
        type=_positive,
        help="offer this share of the limit L, instead of a rate",
    )
    parser.add_argument("--size", type=int, default=0, metavar="BYTES", help="of a transaction of the mix `sized`")
    parser.add_argument(
        "--post-txs", type=int, default=default.post_txs_max,
        help="most transactions of one post; 1: each alone (default 2000)",
    )  # fmt: skip
    parser.add_argument("--accounts", type=int, default=0, help="accounts with money before the load, in every node")
    parser.add_argument(
        "--delay",
        type=int,
        metavar="MS",
        help="one way, between nodes; 0: through the same proxies, undelayed",
    )
    parser.add_argument("--loss", type=float, default=0.0, help="share of segments lost on every link, e.g. 0.01")
    parser.add_argument(
        "--fault",
        type=_fault,
        metavar="KIND@SECOND",
        help="kill-leader, stop-follower or slow-follower",
    )
    parser.add_argument("--poisson", action="store_true", help="exponential gaps instead of a fixed pace")
    parser.add_argument("--seed", type=int, default=default.seed, help="of keys, transactions and gaps (default 1)")
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


def _fault(text: str) -> FaultPlan:
    try:
        return FaultPlan.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _say(line: str) -> None:
    sys.stderr.write(f"bench: {line}\n")
    sys.stderr.flush()


def _keep(config: report.Config, results: report.Results) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.mix}-{config.nodes}x{config.rate:g}.json"
    (RESULTS / name).write_text(json.dumps(report.document(config, results), indent=2) + "\n", "utf-8")
    _say(f"kept in {RESULTS.name}/{name}")


def _once(options: Options) -> tuple[report.Config, report.Results]:
    config, results = asyncio.run(run(options, _say))
    _keep(config, results)
    return config, results


def _find_max(options: Options) -> tuple[report.Config, report.Results]:
    def step(rate: float) -> tuple[report.Config, report.Results]:
        _say(f"{rate:.0f} tx/s")
        return _once(replace(options, rate=rate, duration_s=search.STEP_DURATION_S))

    def passes(found: tuple[report.Config, report.Results], rate: float) -> bool:
        passed = report.passes(found[1], rate)
        _say(f"{rate:.0f} tx/s {'passes' if passed else 'fails'}: p95 {found[1].latencies.p95_ms:.0f} ms")
        return passed

    best = search.find_max(options.rate, step, passes)
    if best is None:
        raise BenchError("no rate passed")
    return best


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    given = parser.parse_args(arguments)
    options = Options(
        nodes=given.nodes,
        rate=given.rate,
        share=given.share,
        duration_s=given.duration,
        warmup_s=given.warmup,
        clients=given.clients,
        mix=given.mix,
        poisson=given.poisson,
        seed=given.seed,
        size_bytes=given.size,
        accounts=given.accounts,
        post_txs_max=given.post_txs,
        delay_ms=given.delay,
        loss=given.loss,
        fault=given.fault,
    )
    for problem in options.problems():
        parser.error(problem)
    try:
        config, results = _find_max(options) if given.find_max else _once(options)
    except (BenchError, ConfigError, OSError, EOFError, TimeoutError) as error:
        _say(f"no result: {error or type(error).__name__}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted; no result")
        return 130
    if given.json:
        sys.stdout.write(json.dumps(report.document(config, results), indent=2) + "\n")
    else:
        sys.stdout.write(report.text(config, results) + "\n")
    return 0 if results.sound else 1


if __name__ == "__main__":
    sys.exit(main())
