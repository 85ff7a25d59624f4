"""The rows of the suite's table: what is owed, what is aimed at, and how each is read from the runs of one round.

A row's value comes from runs of the same round, one of each scenario that it names, so that the machine's drift
touches both sides of a ratio alike.

Must not know: how a run is made, or what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.mix import SERIALS_PER_TX
from bench.outcome import REFUSED_SHARE_MAX
from bench.scenarios import Document
from bench.series import MINUTE_S

# A silence shorter than the p99 that is owed at half of L: no client could tell it from ordinary waiting.
NO_GAP_S = 0.25
VIEW_TIMEOUT_S = 1.0
FLAT = 1.05  # of memory: allocators move by a few per cent without growing

Runs = Mapping[str, Document]  # of one round, by scenario


@dataclass(slots=True)
class Round:
    """What became of each scenario: its run, or why there is none. A `lost` run failed by itself, a `void` one did not
    measure the cluster, twice.
    """

    runs: dict[str, Document] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    void: dict[str, str] = field(default_factory=dict)

    def has_had(self, scenario: str) -> bool:
        return scenario in self.runs or scenario in self.lost or scenario in self.void

    def to_json(self) -> dict[str, Any]:
        return {"runs": self.runs, "lost": self.lost, "void": self.void}


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
    value: Callable[[Runs], float]
    more_is_better: bool = True

    def loses(self, found: Round) -> bool:
        """Whether a run of it was lost in that round, and none is still to come."""
        return any(name in found.lost for name in self.scenarios) and all(map(found.has_had, self.scenarios))

    def of(self, found: Round) -> float | None:
        """Its value of a round: the worst there is if it loses, none where a run is void or missing."""
        if all(name in found.runs for name in self.scenarios):
            return self.value(found.runs)
        if self.loses(found):
            return 0.0 if self.more_is_better else math.inf
        return None

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


def refused_share(run: Document) -> float:
    """At the door or by the rules, of those due in the window."""
    tally = run["results"]["tally"]
    refused = sum(tally["refused_at_door"].values()) + sum(tally["refused_by_rule"].values())
    return float(refused / max(tally["sent"], 1))


def carried_latency_ms(run: Document, which: str) -> float:
    """Infinite where the load was not carried: the latency of the rest is that of a lighter one."""
    return math.inf if refused_share(run) > REFUSED_SHARE_MAX else latency_ms(run, which)


def gap_s(run: Document) -> float:
    return float(run["results"]["series"]["gap_after_s"])


def throughput_lost(run: Document) -> float:
    """How much less was committed in the last quarter of the whole minutes than in the first, as a share."""
    load_s = run["config"]["warmup_s"] + run["config"]["duration_s"]
    whole = max(1, int(load_s // MINUTE_S))
    rates = [minute["committed_per_s"] for minute in run["results"]["series"]["minutes"][:whole]]
    quarter = max(1, len(rates) // 4)
    return float(1 - sum(rates[-quarter:]) / max(sum(rates[:quarter]), 1e-9))


def capacity_lost(run: Document) -> float:
    """How much smaller the signatures' share of processor time was in the last quarter than in the first, as a share.

    A check costs what it did, so this is what the other work grew by, whatever became of the machine's speed.
    Throughput shows it late: below the knee as much is committed as is offered.
    """
    first, last = (
        run["results"][quarter]["signature_us"] / max(run["results"][quarter]["processor_us"], 1e-9)
        for quarter in ("first_quarter", "last_quarter")
    )
    return float(1 - last / max(first, 1e-9))


def memory_growth(run: Document) -> float:
    """Resident memory at the end against that after a third of the run, of the node that grew most: by then caches are
    full and the windows that the rules ask for have their length. Pages of files are left out, as the system takes
    those back when it needs them.
    """
    samples: Mapping[str, Sequence[Sequence[int]]] = run["results"]["samples"]
    own = [
        [rss - mapped for rss, mapped in zip(*nodes, strict=True)]
        for nodes in zip(samples["rss_bytes"], samples["mapped_bytes"], strict=True)
    ]
    if not own:
        return math.inf
    early, late = own[len(own) // 3], own[-1]
    return max(end / max(start, 1) for start, end in zip(early, late, strict=True))


def disk_per_byte(run: Document) -> float:
    return float(run["results"]["costs"]["disk_bytes"] / run["config"]["tx_size_bytes"])


def wire_per_byte(run: Document) -> float:
    """What all nodes together send each other: at least a copy to each node that did not get it from the client."""
    return float(run["results"]["costs"]["wire_bytes"] * run["config"]["nodes"] / run["config"]["tx_size_bytes"])


def _share(name: str, group: str, title: str, owed: float | None, aim: float | None, scenario: str) -> Row:
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


def _goodput(name: str, title: str, owed: float | None, aim: float | None, read: Callable[[Document], float]) -> Row:
    """Against the most that the same cluster committed in the same round, whatever it was offered."""

    def value(found: Mapping[str, Document]) -> float:
        loads = [found[load] for load in ("overload", "standard", "half") if load in found]
        return read(found["overload"]) / max(1e-9, *map(read, loads))

    return Row(name, "overload", title, "ratio", owed, aim, ("overload", "standard"), value)


def _latency(
    name: str,
    group: str,
    title: str,
    owed_ms: float | None,
    aim_ms: float | None,
    scenario: str,
    which: str,
    read: Callable[[Document, str], float] = carried_latency_ms,
) -> Row:
    return Row(
        name, group, title, "ms", owed_ms, aim_ms, (scenario,), lambda found: read(found[scenario], which),
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


def _serials(name: str, title: str, owed: float | None, aim: float | None, scenario: str) -> Row:
    return Row(
        name, "bulk", title, "serials/s", owed, aim, (scenario,),
        lambda found: float(found[scenario]["results"]["committed_per_s"] * SERIALS_PER_TX),
    )  # fmt: skip


ROWS: Sequence[Row] = (
    _share("sustained", "sustained", "sustained 60 s, 4 validators, standard mix", 0.60, 0.82, "standard"),
    _less(
        "other", "sustained", "processor time outside signatures, per transaction and node", "us", 35, 15, "standard",
        lambda run: float(run["results"]["costs"]["other_us"]),
    ),
    _latency("light p50", "light", "latency p50 at 10 % of L", 40, 10, "light", "p50_ms"),
    _latency("light p99", "light", "latency p99 at 10 % of L", 100, 25, "light", "p99_ms"),
    _latency("Poisson p50", "light", "the same with Poisson arrivals: p50", None, None, "light, Poisson", "p50_ms"),
    _latency("Poisson p99", "light", "the same with Poisson arrivals: p99", None, None, "light, Poisson", "p99_ms"),
    _latency("half p50", "half", "latency p50 at 50 % of L", 100, 30, "half", "p50_ms"),
    _latency("half p99", "half", "latency p99 at 50 % of L", 250, 80, "half", "p99_ms"),
    _goodput("goodput", "twice the knee: goodput against own best", 0.90, 0.97, share_of_limit),
    _goodput("executed", "the same, with refusals for want of an earlier step", None, None, executed_share),
    _latency(
        "overload p99", "overload", "twice the knee: p99 of the accepted", 800, 200, "overload", "p99_ms", latency_ms
    ),
    _share("n7", "n", "7 validators", 0.50, 0.78, "n7"),
    _share("n10", "n", "10 validators", 0.45, 0.77, "n10"),
    _share("n16", "n", "16 validators", 0.35, 0.70, "n16"),
    _share("512 bytes", "size", "transactions of 0.5 KB", 0.50, 0.80, "512 bytes"),
    _share("1 KB", "size", "transactions of 1 KB", 0.45, 0.75, "1 KB"),
    _share("4 KB", "size", "transactions of 4 KB", 0.35, 0.63, "4 KB"),
    _ratio(
        "state", "state", "1 million accounts against 1 thousand, both at 1.2 of the standard knee", 0.85, 0.97,
        "million accounts", "thousand accounts", executed_share,
    ),
    _less(
        "long loss", "long", "30 minutes at 0.8 of the knee: throughput or capacity lost", "share", 0.10, 0.02, "long",
        lambda run: max(throughput_lost(run), capacity_lost(run)),
    ),
    _less(
        "long own memory", "long", "30 minutes at 0.8 of the knee: memory against a third, without mapped files",
        "ratio", FLAT, FLAT, "long", memory_growth,
    ),
    _ratio(
        "delay", "delay", "50 ms one way against none, same proxies, both at 1.2 of the standard knee", 0.80, 0.97,
        "links of 50 ms", "links of 0 ms", executed_share,
    ),
    _gap("follower stopped", "follower stopped at half the knee: longest gap", NO_GAP_S, NO_GAP_S, "follower stopped"),
    _gap("follower slow", "follower slow at half the knee: longest gap", None, None, "follower slow"),
    _gap("leader killed", "leader killed at half the knee: longest gap", 3.0, VIEW_TIMEOUT_S + 0.3, "leader killed"),
    _serials("bulk", "bulk drug events, twice their knee: serials committed", 30_000, 100_000, "bulk overload"),
    _serials("bulk in time", "the same at their knee, p95 under 500 ms", None, None, "bulk"),
    _share("bulk share", "bulk", "the first, in transactions", None, None, "bulk overload"),
    _share("singles", "singles", "one transaction to a post", 0.30, 0.55, "singles"),
    _ratio("comet stock", "comet", "against CometBFT, stock settings", 2.0, 5.0, "standard", "comet stock"),
    _ratio("comet tuned", "comet", "against CometBFT, tuned", 1.0, 1.5, "standard", "comet tuned"),
    _ratio(
        "comet signed", "comet", "against CometBFT, tuned, checking signatures", 1.2, 2.0, "standard", "comet signed"
    ),
    _share("comet stock share", "comet", "CometBFT, stock settings", None, None, "comet stock"),
    _share("comet tuned share", "comet", "CometBFT, tuned", None, None, "comet tuned"),
    _share("comet signed share", "comet", "CometBFT, tuned, checking signatures", None, None, "comet signed"),
    _less("disk", "bytes", "disk per transaction byte, per node", "ratio", 2.5, 1.3, "standard", disk_per_byte),
    _less("wire", "bytes", "wire per transaction byte, all nodes", "ratio", 4, 3, "standard", wire_per_byte),
)  # fmt: skip
GROUPS: Sequence[str] = tuple(dict.fromkeys(row.group for row in ROWS))
