"""Two suites by ratio: `python -m bench.compare A.json B.json` prints Markdown, B against A.

Shares and ratios within one run survive the machine's drift; milliseconds and microseconds do so only as far as L is
alike, so both L are printed. A change is called one only where the ranges of the rounds lie apart, and the medians by
more than a knee is known to.

Must not know: how anything was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.search import PRECISION
from bench.suite import FORMAT
from bench.table import number

VALUES_MIN = 3  # on each side: fewer have no range to speak of


def load(path: Path) -> dict[str, Any]:
    """A suite's document; ValueError for anything else."""
    document: Any = json.loads(path.read_text("utf-8"))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{path}: no suite ({FORMAT})")
    return document


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    lines = ["# B against A", "", *_place("A", before), *_place("B", after), ""]
    lines += ["| | unit | A | B | B / A | |", "|---|---|---|---|---|---|"]
    others = {row["name"]: row for row in after["rows"]}
    for row in before["rows"]:
        other = others.get(row["name"])
        if other is not None and row["values"] and other["values"]:
            lines.append("| " + " | ".join(_cells(row, other)) + " |")
    left = [row["title"] for row in (*before["rows"], *after["rows"]) if not row["values"]]
    left += [row["title"] for row in before["rows"] if row["name"] not in others]
    if left:
        lines += ["", "Not compared: " + "; ".join(dict.fromkeys(left))]
    return "\n".join(lines) + "\n"


def _place(name: str, document: Mapping[str, Any]) -> Iterator[str]:
    limits = document["limits"]
    limit = f", median L {median(limits):.0f} tx/s" if limits else ""
    quick = ", **quick**" if document["quick"] else ""
    yield f"- {name}: commit {document['commit']}, {document['made']}, {document['machine']}{limit}{quick}"


def _cells(row: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    unit, one, two = row["unit"], row["median"], other["median"]
    ratio = "" if not one or two is None else f"{two / one:.2f}"
    return [row["title"], unit, number(one, unit), number(two, unit), ratio, verdict(row, other)]


def verdict(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """`better` or `worse` where the ranges lie apart, and the medians by more than a knee is known to."""
    if min(len(row["values"]), len(other["values"])) < VALUES_MIN:
        return f"under {VALUES_MIN} rounds"
    one, two = (_or_infinite(each["median"]) for each in (row, other))
    if one == two or abs(two - one) <= PRECISION * one < math.inf:
        return "within the spread"
    low, high = (_or_infinite(row[name]) for name in ("low", "high"))
    other_low, other_high = (_or_infinite(other[name]) for name in ("low", "high"))
    if other_low > high:
        return "better" if row["more_is_better"] else "**worse**"
    if other_high < low:
        return "**worse**" if row["more_is_better"] else "better"
    return "within the spread"


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path, metavar="A.json")
    parser.add_argument("after", type=Path, metavar="B.json")
    given = parser.parse_args(arguments)
    try:
        documents = load(given.before), load(given.after)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"compare: {error}\n")
        return 2
    sys.stdout.write(compare(*documents))
    return 0


if __name__ == "__main__":
    sys.exit(main())
