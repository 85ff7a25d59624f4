"""Command line of the benchmark: `python -m bench`, or `make bench ARGS="..."`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace

from bench import report
from bench.command import Found, conclude, find_max, keep, positive, refuse_beside, sayer
from bench.faults import FaultPlan
from bench.mix import MIXES
from bench.options import Options
from bench.run import run

_say = sayer("bench")

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
        "--rate", type=positive, default=default.rate, help="transactions offered a second (default 2000)"
    )
    parser.add_argument("--duration", type=positive, help="measured window in seconds (default 20)")
    parser.add_argument(
        "--warmup", type=positive, default=default.warmup_s, help="seconds of load before it (default 5)"
    )
    parser.add_argument("--clients", type=int, default=default.clients, help="client processes (default 2)")
    parser.add_argument("--mix", choices=sorted(MIXES), default=default.mix, help="kinds of transactions")
    parser.add_argument(
        "--share",
        type=positive,
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
        "--find-max", action="store_true", help="search the highest rate that passes, from --rate, in runs of 10 s"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _fault(text: str) -> FaultPlan:
    try:
        return FaultPlan.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _once(options: Options) -> Found:
    config, results = asyncio.run(run(options, _say))
    found = Found(
        results, report.passes(config, results), report.text(config, results), report.document(config, results)
    )
    keep(found, f"{config.mix}-{config.nodes}x{config.rate:g}", _say)
    return found


def _measure(options: Options, search: bool) -> Found:
    if not search:
        return _once(options)
    return find_max(options.rate, lambda rate, s: _once(replace(options, rate=rate, duration_s=s)), _say)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.find_max:
        refuse_beside(parser, given, "find-max", "share fault duration")
    options = Options(
        nodes=given.nodes,
        rate=given.rate,
        share=given.share,
        duration_s=given.duration or Options().duration_s,
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
    return conclude(lambda: _measure(options, given.find_max), given.json, _say)


if __name__ == "__main__":
    sys.exit(main())
