"""What is said at the end: what was done, how fast, what was refused and why, and whether every promise was kept.

Must not know: processes, HTTP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ledger.errors import Code, code_label
from ledger.explanations import EXPLANATIONS
from node.demo.send import Sent, Tally

__all__ = ["Check", "Report", "percentile"]


@dataclass(frozen=True, slots=True)
class Check:
    """One promise. `detail` says what was found."""

    promise: str
    kept: bool
    detail: str


@dataclass(slots=True)
class Report:
    """Everything the summary says. `chain` is one node's transactions by id."""

    nodes: int
    size: str
    seconds: float
    tally: Tally
    sent: Sequence[Sent]
    chain: Mapping[str, Mapping[str, Any]]
    blocks: int
    refused_by_a_node: Counter[int]
    checks: list[Check] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return all(check.kept for check in self.checks)

    def lines(self) -> Iterable[str]:
        """The summary as text, for people."""
        yield ""
        yield f"blocks         {self.blocks}"
        yield f"transactions   {len(self.chain)} on the chain, {self._rate():.0f}/s while business lasted"
        yield f"latency        {self._latency()}"
        yield ""
        yield from _table("accepted, by kind", self._by_kind())
        yield from _table("refused by the rules, on the chain", self._by_code())
        at_door = [*self.refused_by_a_node.elements()]
        yield from _table("refused by a node, before ordering", Counter(map(_explained, at_door)).most_common())
        yield from _table("refused at the EPCIS and FHIR doors", self._at_the_door())
        for check in self.checks:
            yield f"{'ok  ' if check.kept else 'FAIL'}  {check.promise}: {check.detail}"
        yield ""

    def _rate(self) -> float:
        return len(self.sent) / self.seconds if self.seconds else 0.0

    def _latency(self) -> str:
        times_ms = sorted((one.final_s - one.submitted_s) * 1000 for one in self.sent)
        if not times_ms:
            return "nothing was sent"
        p50, p95, p99 = (percentile(times_ms, share) for share in (50, 95, 99))
        return f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms (to the receipt, the leader's death included)"

    def _by_kind(self) -> list[tuple[str, int]]:
        return Counter(one["operation"] for one in self.chain.values() if not one["code"]).most_common()

    def _by_code(self) -> list[tuple[str, int]]:
        return Counter(_explained(one["code"]) for one in self.chain.values() if one["code"]).most_common()

    def _at_the_door(self) -> list[tuple[str, int]]:
        found = Counter(f"{outcome.detail[0]!s}: {outcome.detail[1]!s}" for _, outcome in self._doors())
        return found.most_common()

    def _doors(self) -> list[tuple[str, Any]]:
        return [item for item in self.tally.refused_at_gateway if len(item[1].detail) == 2]


def percentile(ascending: Sequence[float], share: int) -> float:
    """The nearest-rank percentile of ascending values."""
    if not ascending:
        raise ValueError("no values")
    return ascending[max(0, -(-len(ascending) * share // 100) - 1)]


def _explained(code: int) -> str:
    """`MC2206 ALREADY_DISPENSED  The pack was ...`"""
    try:
        known = Code(code)
    except ValueError:
        return code_label(code)
    return f"{known.label} {known.name.lower()}: {EXPLANATIONS[known].summary}"


def _table(title: str, rows: Sequence[tuple[str, int]]) -> Iterable[str]:
    if not rows:
        return
    yield title
    for text, count in rows:
        yield f"  {count:6}  {text}"
    yield ""
