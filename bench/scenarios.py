"""The loads and conditions of the suite, by name: what each run offers, as a share of the limit L or of a knee.

The knee of a scenario is the highest load that it carries with p95 under half a second, with sixteen nodes under a
second (bench/report.py, `passes`), searched once before the rounds and kept as a share of L, so that it follows the
machine's speed from run to run.

Must not know: rows, or what is owed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench import comet_report, comet_run
from bench.comet_nodes import build
from bench.faults import FaultKind, FaultPlan
from bench.observer import BenchError
from bench.options import Options
from bench.report import TARGET_P95_MS, document
from bench.run import run
from bench.stage import Say

Document = Mapping[str, Any]  # as bench.report.document makes it
Runner = Callable[[Options, Say], Awaitable[Document]]  # raises Unavailable where there is nothing to run

SUSTAINED_S, WINDOW_S, WARMUP_S = 60.0, 15.0, 5.0
STATE_WARMUP_S = 25.0  # by then nearly every bucket of the state was read from the disk, as it is once in a node's life
FAULT_WINDOW_S, FAULT_AT_S = 20.0, 8.0
LONG_S = 1_800.0
QUICK_WINDOW_S, QUICK_WARMUP_S, QUICK_FAULT_AT_S, QUICK_ACCOUNTS_MAX = 3.0, 1.0, 1.0, 20_000
KNEE_WINDOW_S, KNEE_WARMUP_S = 8.0, 3.0
LARGE_P95_MS = 1_000.0  # sixteen nodes on two cores take half a second for a decision, however little they are offered


def within(p95_ms_max: float) -> Runner:
    """Ours; a load is carried with p95 under that."""

    async def measured(options: Options, say: Say) -> Document:
        return document(*await run(options, say), p95_ms_max)

    return measured


medchain = within(TARGET_P95_MS)


def comet(setup: str) -> Runner:
    """CometBFT with one of its setups, under the share and the times of the scenario: its nodes, transactions and
    clients are its own (bench/comet_run.py).
    """

    async def measured(options: Options, say: Say) -> Document:
        program = await asyncio.to_thread(build)
        theirs = comet_run.Options(
            setup, share=options.share, duration_s=options.duration_s, warmup_s=options.warmup_s
        )  # fmt: skip
        config, results = await comet_run.run(theirs, program, say)
        if not results.committed_per_s:
            raise BenchError("nothing was committed: there is nothing to compare with")
        return comet_report.document(config, results)

    return measured


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of run. Offers `of_limit` of L, or else `of_knee` of the knee of the scenario `knee` (its own if empty).

    `guess` is where the search for its own knee begins, as a share of L. `runner` makes the document of a run; what
    is measured beside us gives one with the same members that its rows read.
    """

    name: str
    options: Options
    of_limit: float | None = None
    of_knee: float = 1.0
    knee: str = ""
    guess: float = 0.3
    runs_max: int | None = None
    may_drift: bool = False  # L may change under it, and the run stands
    runner: Runner = medchain

    @property
    def knee_of(self) -> str | None:
        """Whose knee must be known first."""
        return None if self.of_limit is not None else self.knee or self.name

    def offer(self, knees: Mapping[str, float]) -> Options:
        """What to run, now that the knees are known."""
        share = self.of_limit if self.of_limit is not None else self.of_knee * knees[self.knee or self.name]
        return replace(self.options, share=share)

    def trial(self, share: float) -> Options:
        """A short run at a share of L, while the knee is searched."""
        window_s = min(KNEE_WINDOW_S, self.options.duration_s)
        return replace(
            self.options, share=share, duration_s=window_s, warmup_s=min(KNEE_WARMUP_S, self.options.warmup_s)
        )

    def quick(self) -> Scenario:
        """To see that it works: seconds, at a load that any machine carries."""
        options = self.options
        fault = options.fault and FaultPlan(options.fault.kind, QUICK_FAULT_AT_S)
        accounts = min(options.accounts, QUICK_ACCOUNTS_MAX)
        options = replace(
            options, duration_s=QUICK_WINDOW_S, warmup_s=QUICK_WARMUP_S, accounts=accounts, fault=fault
        )  # fmt: skip
        return replace(self, options=options, of_limit=self.of_limit or self.guess / 3 * self.of_knee)


def _loaded(**shape: Any) -> Options:
    return Options(duration_s=WINDOW_S, warmup_s=WARMUP_S, **shape)


def _settled(**shape: Any) -> Options:
    return replace(_loaded(**shape), warmup_s=STATE_WARMUP_S)


def _faulty(kind: FaultKind) -> Options:
    return Options(duration_s=FAULT_WINDOW_S, warmup_s=WARMUP_S, fault=FaultPlan(kind, FAULT_AT_S))


# In the order of a round: what is compared lies side by side.
_ALL = (
    Scenario("standard", replace(_loaded(), duration_s=SUSTAINED_S), guess=0.34),
    Scenario("comet stock", _loaded(), guess=0.36, runner=comet("stock")),
    Scenario("comet tuned", _loaded(), guess=0.75, runner=comet("tuned")),
    Scenario("comet signed", _loaded(), guess=0.42, runner=comet("signed")),
    Scenario("overload", _loaded(), of_knee=2.0, knee="standard"),
    Scenario("light", _loaded(), of_limit=0.1),
    Scenario("light, Poisson", _loaded(poisson=True), of_limit=0.1, runs_max=1),
    Scenario("half", _loaded(), of_limit=0.5),
    Scenario("n7", _loaded(nodes=7), guess=0.29),
    Scenario("n10", _loaded(nodes=10), guess=0.22),
    Scenario("n16", _loaded(nodes=16), guess=0.13, runner=within(LARGE_P95_MS)),
    Scenario("512 bytes", _loaded(mix="sized", size_bytes=512), guess=0.33),
    Scenario("1 KB", _loaded(mix="sized", size_bytes=1_024), guess=0.31),
    Scenario("4 KB", _loaded(mix="sized", size_bytes=4_096), guess=0.22),
    # Beyond the knee on both sides: below it, the heavier one would lose nothing before it lost a lot.
    Scenario("thousand accounts", _settled(accounts=1_000), of_knee=1.2, knee="standard"),
    Scenario("million accounts", _settled(accounts=1_000_000), of_knee=1.2, knee="standard"),
    Scenario("links of 0 ms", _loaded(delay_ms=0), of_knee=1.2, knee="standard"),
    Scenario("links of 50 ms", _loaded(delay_ms=50), of_knee=1.2, knee="standard"),
    # Half the knee: a cluster at its limit has no room to catch up with what waited.
    Scenario("follower stopped", _faulty(FaultKind.STOP_FOLLOWER), of_knee=0.5, knee="standard"),
    Scenario("follower slow", _faulty(FaultKind.SLOW_FOLLOWER), of_knee=0.5, knee="standard", runs_max=1),
    Scenario("leader killed", _faulty(FaultKind.KILL_LEADER), of_knee=0.5, knee="standard"),
    Scenario("bulk", _loaded(mix="bulk"), guess=0.005, runs_max=1),
    Scenario("bulk overload", _loaded(mix="bulk"), of_knee=2.0, knee="bulk"),
    Scenario("singles", _loaded(post_txs_max=1), guess=0.2),
    # Its rows compare it with itself, and no machine stays the same for half an hour.
    Scenario("long", replace(_loaded(), duration_s=LONG_S), of_knee=0.8, knee="standard", runs_max=1, may_drift=True),
)
SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
