"""The suite's table: a row's values over the rounds, its median and range, and all rows as Markdown.

Must not know: how anything was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from bench.rows import Row
from bench.scenarios import Document

_MARKS = {"aim": "aim reached", "owed": "owed reached", "short": "**falls short**", "": ""}


def measure(row: Row, rounds: Sequence[Mapping[str, Document]], missing: str) -> dict[str, Any]:
    """The row as JSON values; `missing` says why, where no round has all its runs."""
    whole = [found for found in rounds if all(name in found for name in row.scenarios)]
    values = [row.value(found) for found in whole]
    middle = median(values) if values else math.inf
    return {
        "name": row.name,
        "group": row.group,
        "title": row.title,
        "unit": row.unit,
        "owed": row.owed,
        "aim": row.aim,
        "more_is_better": row.more_is_better,
        "values": [_finite(value) for value in values],
        "median": _finite(middle),
        "low": _finite(min(values, default=math.inf)),
        "high": _finite(max(values, default=math.inf)),
        "verdict": row.verdict(middle) if values else "",
        "missing": "" if values else missing,
        "where": where(whole[-1][row.scenarios[0]]) if whole else "",
    }


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value


def to_markdown(document: Mapping[str, Any], charts: Sequence[str] = ()) -> str:
    """The whole table with its place, what was discarded, and what failed."""
    lines = ["# Benchmark suite", "", *_place(document), ""]
    lines += ["| | unit | owed | aim | measured | range | runs | |", "|---|---|---|---|---|---|---|---|"]
    for row in document["rows"]:
        bounds = [number(row[name], row["unit"]) if row[name] is not None else "" for name in ("owed", "aim")]
        cells = [row["title"], row["unit"], *bounds, *_measured(row, document["quick"])]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *_remarks(document)]
    lines += [f"![{chart}]({chart})" for chart in charts]
    return "\n".join(lines) + "\n"


def _place(document: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    limits = document["limits"]
    yield f"- commit {document['commit']}, {document['made']}, {document['runs']} rounds"
    yield f"- {document['machine']}, {document['cores']} cores; {versions}"
    if limits:
        yield f"- limit L of the runs: {min(limits):.0f} to {max(limits):.0f} tx/s, median {median(limits):.0f}"
    if document["quick"]:
        yield "- **quick: seconds a run and drift let pass; to see that it works, not to be quoted**"


def _measured(row: Mapping[str, Any], quick: bool) -> list[str]:
    if not row["values"]:
        return [f"not measured: {row['missing']}", "", "0", ""]
    unit, count = row["unit"], len(row["values"])
    spread = f"{number(row['low'], unit)} to {number(row['high'], unit)}" if count > 1 else ""
    return [f"**{number(row['median'], unit)}**", spread, str(count), "" if quick else _verdict(row)]


def _verdict(row: Mapping[str, Any]) -> str:
    """What falls short says where the time went."""
    where = f": {row['where']}" if row["verdict"] == "short" else ""
    return _MARKS[row["verdict"]] + where


def where(run: Document) -> str:
    """What held a run back, as far as its nodes can tell."""
    costs = run["results"]["costs"]
    parts = (
        f"of {costs['processor_us']:.0f} us per transaction and node, signatures {costs['signature_us']:.0f}",
        f"nodes had {costs['machine_share']:.0%} of the machine",
        f"an fsync was under way {costs['flush_share']:.0%} of the time",
    )
    return "; ".join(parts)


def number(value: float | None, unit: str) -> str:
    """With as many digits as the unit deserves; an infinite latency has no number."""
    if value is None:
        return "infinite"
    match unit:
        case "serials/s" | "us" | "ms":
            return f"{value:,.0f}"
        case _:
            return f"{value:.2f}"


def _remarks(document: Mapping[str, Any]) -> Iterator[str]:
    discarded = document["discarded"]
    yield f"Runs discarded because L changed by more than 10 % under them: {sum(discarded.values())}"
    for name, count in discarded.items():
        yield f"- {name}: {count}"
    yield ""
    for name, reasons in document["failed"].items():
        yield f"- {name}: {len(reasons)} without a result, the last: {reasons[-1]}"
    yield ""
