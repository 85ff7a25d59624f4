"""The rows of the suite's table: what is owed, what is aimed at, and how each is read from the runs of one round.

A row's value comes from runs of the same round, one of each scenario that it names, so that the machine's drift
touches both sides of a ratio alike.

Must not know: how a run is made, or what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.mix import SERIALS_PER_TX
from bench.scenarios import Document

# A silence shorter than the p99 that is owed at half of L: no client could tell it from ordinary waiting.
NO_GAP_S = 0.25
VIEW_TIMEOUT_S = 1.0
FLAT = 1.05  # of memory: allocators move by a few per cent without growing

Round = Mapping[str, Document]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `group` is what `--only` names. Without `owed` nothing is promised, only shown."""

    name: str
    group: str
    title: str
    unit: str
    owed: float | None
    aim: float | None
    scenarios: tuple[str, ...]
    value: Callable[[Round], float]
    more_is_better: bool = True

    def verdict(self, median: float) -> str:
        """`aim` or `owed` if it is reached, else `short`; empty where nothing is owed."""
        if self.owed is None or self.aim is None:
            return ""
        if self._reaches(median, self.aim):
            return "aim"
        return "owed" if self._reaches(median, self.owed) else "short"

    def _reaches(self, value: float, bound: float) -> bool:
        return value >= bound if self.more_is_better else value <= bound


def share_of_limit(run: Document) -> float:
    """Committed a second as a share of the L of the same run."""
    return float(run["results"]["committed_per_s"] / run["results"]["limit"])


def executed_share(run: Document) -> float:
    """The same with those that the rules refused: the chain had as much work with them."""
    tally = run["results"]["tally"]
    refused = sum(tally["refused_by_rule"].values())
    return share_of_limit(run) * float(1 + refused / max(tally["committed"], 1))


def latency_ms(run: Document, which: str) -> float:
    found = run["results"]["latencies"][which]
    return math.inf if found is None else float(found)


def gap_s(run: Document) -> float:
    return float(run["results"]["series"]["gap_after_s"])


def throughput_lost(run: Document) -> float:
    """How much less was committed in the last quarter of the minutes than in the first, as a share."""
    rates = [minute["committed_per_s"] for minute in run["results"]["series"]["minutes"]]
    quarter = max(1, len(rates) // 4)
    return float(1 - sum(rates[-quarter:]) / max(sum(rates[:quarter]), 1e-9))


def memory_growth(run: Document) -> float:
    """Resident memory at the end against that after a third of the run, of the node that grew most: caches are full and
    the windows that the rules ask for have their length by then.
    """
    samples: Sequence[Sequence[int]] = run["results"]["samples"]["rss_bytes"]
    if not samples:
        return math.inf
    early, late = samples[len(samples) // 3], samples[-1]
    return max(end / max(start, 1) for start, end in zip(early, late, strict=True))


def disk_per_byte(run: Document) -> float:
    return float(run["results"]["costs"]["disk_bytes"] / run["config"]["tx_size_bytes"])


def wire_per_byte(run: Document) -> float:
    """What all nodes together send each other: at least a copy to each node that did not get it from the client."""
    return float(run["results"]["costs"]["wire_bytes"] * run["config"]["nodes"] / run["config"]["tx_size_bytes"])


def _share(name: str, group: str, title: str, owed: float, aim: float, scenario: str) -> Row:
    return Row(name, group, title, "share of L", owed, aim, (scenario,), lambda found: share_of_limit(found[scenario]))


def _ratio(
    name: str,
    group: str,
    title: str,
    owed: float | None,
    aim: float | None,
    scenario: str,
    base: str,
    read: Callable[[Document], float] = share_of_limit,
) -> Row:
    return Row(
        name, group, title, "ratio", owed, aim, (scenario, base),
        lambda found: read(found[scenario]) / max(read(found[base]), 1e-9),
    )  # fmt: skip


def _latency(name: str, title: str, owed_ms: float, aim_ms: float, scenario: str, which: str) -> Row:
    return Row(
        name, scenario, title, "ms", owed_ms, aim_ms, (scenario,), lambda found: latency_ms(found[scenario], which),
        more_is_better=False,
    )  # fmt: skip


def _gap(name: str, title: str, owed_s: float | None, aim_s: float | None, scenario: str) -> Row:
    return Row(
        name, "faults", title, "s", owed_s, aim_s, (scenario,), lambda found: gap_s(found[scenario]),
        more_is_better=False,
    )  # fmt: skip


def _less(
    name: str,
    group: str,
    title: str,
    unit: str,
    owed: float,
    aim: float,
    scenario: str,
    read: Callable[[Document], float],
) -> Row:
    return Row(
        name, group, title, unit, owed, aim, (scenario,), lambda found: read(found[scenario]), more_is_better=False
    )


def _comet(name: str, title: str, owed: float, aim: float, scenario: str) -> Row:
    """Transactions a second of ours over theirs, each at its own knee."""
    return Row(
        name, "comet", title, "ratio", owed, aim, ("standard", scenario),
        lambda found: found["standard"]["results"]["committed_per_s"] / found[scenario]["results"]["committed_per_s"],
    )  # fmt: skip


ROWS: Sequence[Row] = (
    _share("sustained", "sustained", "sustained 60 s, 4 validators, standard mix", 0.60, 0.82, "standard"),
    _less(
        "other", "sustained", "processor time outside signatures, per transaction and node", "us", 35, 15, "standard",
        lambda run: float(run["results"]["costs"]["other_us"]),
    ),
    _latency("light p50", "latency p50 at 10 % of L", 40, 10, "light", "p50_ms"),
    _latency("light p99", "latency p99 at 10 % of L", 100, 25, "light", "p99_ms"),
    _latency("half p50", "latency p50 at 50 % of L", 100, 30, "half", "p50_ms"),
    _latency("half p99", "latency p99 at 50 % of L", 250, 80, "half", "p99_ms"),
    _ratio("goodput", "overload", "twice the knee: goodput against own best", 0.90, 0.97, "overload", "standard"),
    _ratio(
        "executed", "overload", "the same, with refusals for want of an earlier step", None, None, "overload",
        "standard", executed_share,
    ),
    _latency("overload p99", "twice the knee: p99 of the accepted", 800, 200, "overload", "p99_ms"),
    _share("n7", "n", "7 validators", 0.50, 0.78, "n7"),
    _share("n10", "n", "10 validators", 0.45, 0.77, "n10"),
    _share("n16", "n", "16 validators", 0.35, 0.70, "n16"),
    _share("512 bytes", "size", "transactions of 0.5 KB", 0.50, 0.80, "512 bytes"),
    _share("1 KB", "size", "transactions of 1 KB", 0.45, 0.75, "1 KB"),
    _share("4 KB", "size", "transactions of 4 KB", 0.35, 0.63, "4 KB"),
    _ratio(
        "state", "state", "1 million accounts against 1 thousand", 0.85, 0.97, "million accounts", "thousand accounts"
    ),
    _less("long loss", "long", "30 minutes: throughput lost", "share", 0.10, 0.02, "long", throughput_lost),
    _less("long memory", "long", "30 minutes: memory against a third", "ratio", FLAT, FLAT, "long", memory_growth),
    _ratio("delay", "delay", "50 ms one way against none, same proxies", 0.80, 0.97, "links of 50 ms", "links of 0 ms"),
    _gap("follower stopped", "follower stopped: longest gap in commits", NO_GAP_S, NO_GAP_S, "follower stopped"),
    _gap("follower slow", "follower slow: longest gap in commits", None, None, "follower slow"),
    _gap("leader killed", "leader killed: longest gap in commits", 3.0, VIEW_TIMEOUT_S + 0.3, "leader killed"),
    Row(
        "bulk", "bulk", "bulk drug events: serials committed", "serials/s", 30_000, 100_000, ("bulk",),
        lambda found: found["bulk"]["results"]["committed_per_s"] * SERIALS_PER_TX,
    ),
    _share("singles", "singles", "one transaction to a post", 0.30, 0.55, "singles"),
    _comet("comet stock", "against CometBFT, stock settings", 2.0, 5.0, "comet stock"),
    _comet("comet tuned", "against CometBFT, tuned", 1.0, 1.5, "comet tuned"),
    _comet("comet signed", "against CometBFT, tuned, checking signatures", 1.2, 2.0, "comet signed"),
    _less("disk", "bytes", "disk per transaction byte, per node", "ratio", 2.5, 1.3, "standard", disk_per_byte),
    _less("wire", "bytes", "wire per transaction byte, all nodes", "ratio", 4, 3, "standard", wire_per_byte),
)  # fmt: skip
GROUPS: Sequence[str] = tuple(dict.fromkeys(row.group for row in ROWS))
