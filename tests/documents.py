"""Tables in docs/ that a command rewrites: each stands between two comments that name it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown; bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def put(document: Path, name: str, text: str) -> None:
    """Replace what stands between the comments of that name."""
    begin, end = f"<!-- begin of {name} -->\n", f"<!-- end of {name} -->\n"
    before, found, rest = document.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    assert found, f"{document.name} has no place for {name}"
    assert closed, f"{document.name} has no end of {name}"
    document.write_text(before + begin + text + end + after)
