"""The suite's table: a row's values over the rounds, its median and range, and all rows as Markdown.

Must not know: how anything was measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from bench.outcome import REFUSED_SHARE_MAX
from bench.rows import Round, Row, refused_share
from bench.scenarios import Document

_MARKS = {"aim": "aim reached", "owed": "owed reached", "short": "**falls short**"}


def measure(row: Row, rounds: Sequence[Round], expected: int, missing: str) -> dict[str, Any]:
    """The row as JSON values. A verdict takes values of more than half of the `expected` rounds; `missing` says why
    there are none, if there are none.
    """
    values = [value for value in map(row.of, rounds) if value is not None]
    runs = [found.runs[name] for found in rounds for name in row.scenarios if name in found.runs]
    whole = [found.runs for found in rounds if all(name in found.runs for name in row.scenarios)]
    typical = sorted(whole, key=row.value)[len(whole) // 2 :][:1]
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
        "expected": expected,
        "lost": sum(map(row.loses, rounds)),
        "verdict": row.verdict(middle) if 2 * len(values) > expected else "",
        "missing": "" if values else missing,
        "where": "".join(where(found[row.scenarios[0]]) for found in typical),
        "runs": len(runs),
        "doubts": dict(Counter(doubt["kind"] for run in runs for doubt in run["doubts"])),
    }


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value


def to_markdown(document: Mapping[str, Any], charts: Sequence[str] = ()) -> str:
    """The whole table with its place, what was void, and what failed."""
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
    program = document["program"][:12]
    yield f"- commit {document['commit']}, program {program}, {document['made']}, {document['runs']} rounds"
    yield f"- {document['machine']}, {document['cores']} cores; {versions}"
    configs = [run["config"] for found in document["rounds"] for run in found["runs"].values()]
    for theirs in [config for config in configs if "cometbft" in config][:1]:
        yield f"- CometBFT {theirs['cometbft']}, {theirs['go']}"
    if limits:
        yield f"- limit L of the runs: {min(limits):.0f} to {max(limits):.0f} tx/s, median {median(limits):.0f}"
    if document["quick"]:
        yield "- **quick: seconds a run and drift let pass; to see that it works, not to be quoted**"


def _measured(row: Mapping[str, Any], quick: bool) -> list[str]:
    if not row["values"]:
        return [f"not measured: {row['missing']}", "", "0", ""]
    unit, count = row["unit"], len(row["values"])
    spread = f"{number(row['low'], unit)} to {number(row['high'], unit)}" if count > 1 else ""
    return [f"**{number(row['median'], unit)}**", spread, str(count), "" if quick else "; ".join(_remarked(row))]


def _remarked(row: Mapping[str, Any]) -> Iterator[str]:
    """The verdict, with where the time went if it falls short, or that there are too few rounds for one; what was lost;
    what is in doubt.
    """
    count, expected = len(row["values"]), row["expected"]
    if 2 * count <= expected:
        yield f"{count} of {expected} rounds"
    elif row["verdict"]:
        yield _MARKS[row["verdict"]] + (f": {row['where']}" if row["verdict"] == "short" else "")
    if row["lost"]:
        yield f"{row['lost']} of {expected} rounds lost"
    for kind, times in row["doubts"].items():
        yield f"{times} of {row['runs']} runs: {kind}"


def where(run: Document) -> str:
    """What held a run back, as far as its nodes can tell, and what became of the load that it was given."""
    costs, share = run["results"]["costs"], refused_share(run)
    p50, p99 = (number(run["results"]["latencies"][which], "ms") for which in ("p50_ms", "p99_ms"))
    parts = [f"{share:.0%} refused, of the rest p50 {p50}, p99 {p99} ms"] if share > REFUSED_SHARE_MAX else []
    parts += [
        f"of {costs['processor_us']:.0f} us per transaction and node, signatures {costs['signature_us']:.0f}",
        f"nodes had {costs['machine_share']:.0%} of the machine",
        f"an fsync was under way {costs['flush_share']:.0%} of the time",
    ]
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
    yield f"Void runs, discarded: {sum(map(len, discarded.values()))}"
    for name, reasons in discarded.items():
        yield f"- {name}: {len(reasons)}, the last: {reasons[-1]}"
    yield ""
    for name, reasons in document["failed"].items():
        yield f"- {name}: {len(reasons)} without a result, the last: {reasons[-1]}"
    yield ""
