"""The 48 correctness traps, each from a real bug of a peer, and the tests that keep us out of them.

    python -m tests.traps            print the table
    python -m tests.traps --write    rewrite docs/traps.md
    python -m tests.traps --check    status 1 if docs/traps.md is stale, or a trap has no test

A test says which traps it covers by `Trap 6.` or `Traps 6, 7 and 9:` in its docstring; so do classes, their methods and
modules of tests. What is said is read from the source: nothing is imported.

Must not know: what any test does. Whether a trap is covered whole is judged by people, and written down in PARTLY.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "traps.md"
SHOWN_MAX = 4  # tests named for a trap; of more, the number
NAMED = re.compile(r"\bTraps? (\d+(?:(?:, and |, | and )\d+)*)\b")

GROUPS: tuple[tuple[str, dict[int, str]], ...] = (
    (
        "Quorums and membership",
        {
            1: "Quorum size is safe and live for every number of members",
            2: "One vote for each present member, by its key",
            3: "Votes and certificates count against the set of their height",
            4: "A set too small, empty or wholly new is refused, as a transaction's error",
            5: "A new member that is still catching up holds up nobody",
        },
    ),
    (
        "View change",
        {
            6: "What one replica committed is all that can follow at that height",
            7: "A new view is recomputed and its proofs are checked by every backup",
            8: "Hashes and signatures inside messages are derived from what they are about",
            9: "Honest members with different locks still come to an end, also with five and six members",
            10: "f + 1 take a member along to the smallest later view; one takes nobody",
            11: "Absurd views, heights and counts are refused; nothing overflows",
            12: "Timers grow to a cap, come back, and stand still while a quorum is missing",
            13: "No patience runs without work, or during a view change; times are checked against each other",
            14: "Nobody is stuck in a view change that catching up has overtaken",
            15: "View changes are repeated; a lost new view costs one view",
            16: "Gaps, watermarks and checkpoints across a view change of a pipelined log",
            17: "Nothing is executed or shown out of order; roots are agreed upon",
            18: "A leader who is slow, censors, leaves members out or splits them",
            19: "Who misbehaved takes its turn again, and turns are not starved",
        },
    ),
    (
        "Durability and restart",
        {
            20: "Nothing signed leaves before it is durable; no second vote after any restart",
            21: "A torn log is repaired, a damaged one stops the node; a crash during repair does no harm",
            22: "A crash between storing and executing leads to the same root, once",
            23: "All nodes start again at once, from their disks alone",
            24: "Locks, view and checkpoint proofs survive a restart",
            25: "A decision that meets the end of its view is not lost",
        },
    ),
    (
        "Catching up",
        {
            26: "Blocks that arrive early are kept, within a bound",
            27: "Blocks from a peer are checked whole",
            28: "Who lies about its height is left, and catching up ends",
            29: "The last block's certificate can be had without a next block",
            30: "Who lags catches up faster than the chain grows",
            31: "A target that moves, and a result that differs from the quorum's",
            32: "A state fetched in chunks is checked against a certified root",
        },
    ),
    (
        "Memory and denial of service",
        {
            33: "One peer takes bounded memory, whatever it signs",
            34: "Hostile encodings are refused before they take memory",
            35: "One bad message ends no reader and stops no node",
            36: "Messages own no timers, handles or tasks",
            37: "Everyone refuses what is too large at the same byte; nobody builds it",
            38: "A full pool says so; a batch is checked once, work after a block is bounded",
            39: "Bytes sent for a byte of a committed transaction stay within a bound",
        },
    ),
    (
        "Encoding, signatures, time",
        {
            40: "One encoding for each value",
            41: "A signature is good for one statement only",
            42: "One rule for signatures, the same for every node and path",
            43: "Certificates are sets, and hashes do not depend on them",
            44: "Block time is monotone and bounded, with clocks an hour off",
            45: "Execution depends on nothing but its input, on any Python",
            46: "Parameters are checked by everyone alike before they count",
            47: "Who contradicts itself halts alone, and says why",
            48: "Evidence is committed once, expires, and frames nobody",
        },
    ),
)
TITLES = {number: title for _, titles in GROUPS for number, title in titles.items()}

# What tests are missing, of traps that have some.
PARTLY: dict[int, str] = {
    48: "a fork within one view names its f + 1 culprits; across views, who hid a lock in a view change is not named",
}


@dataclass(frozen=True, slots=True)
class Claim:
    """A test, or a class or module of them, and the traps it names."""

    place: str
    traps: frozenset[int]


def traps_named(docstring: str | None) -> frozenset[int]:
    """Numbers after `Trap` or `Traps` in a docstring."""
    found = NAMED.findall(docstring or "")
    return frozenset(int(number) for numbers in found for number in re.findall(r"\d+", numbers))


def claims_of(source: str, file: str) -> Iterator[Claim]:
    """What of one file of tests names traps, in its order. Helpers outside of classes are no tests."""
    module = ast.parse(source)
    found: list[tuple[str, str | None]] = [(file, ast.get_docstring(module))]
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            found.append((f"{file}::{node.name}", ast.get_docstring(node)))
        elif isinstance(node, ast.ClassDef):
            # A state machine's rules and invariants are run by the one test that is made of it.
            place = f"{file}::{node.name if node.name.startswith('Test') else f'Test{node.name}'}"
            found.append((place, ast.get_docstring(node)))
            methods = (item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef))
            for item in methods:
                test = f"::{item.name}" if item.name.startswith("test_") else ""
                found.append((place + test, ast.get_docstring(item)))
    named: dict[str, frozenset[int]] = {}
    for place, docstring in found:
        named[place] = named.get(place, frozenset()) | traps_named(docstring)
    for place, traps in named.items():
        if traps:
            yield Claim(place, traps)


def all_claims() -> list[Claim]:
    """Of the whole suite, those that name the fewest traps first: they are about them most."""
    tests: list[Claim] = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tests += claims_of(path.read_text(), path.relative_to(ROOT / "tests").as_posix())
    return sorted(tests, key=lambda test: len(test.traps))


def state_of(number: int, tests: list[Claim]) -> str:
    """`tested`, or `partly: what is missing`; `not tested` is a mistake."""
    if not tests:
        return "not tested"
    return f"partly: {PARTLY[number]}" if number in PARTLY else "tested"


def document(tests: list[Claim]) -> str:
    """docs/traps.md, whole."""
    lines = [
        "# Traps",
        "",
        "Forty-eight ways in which systems like this one went wrong, and the tests that keep this one from them;",
        "paths are under `tests/`. Written by `python -m tests.traps --write` from what the tests say of themselves.",
        f"Of traps with more than {SHOWN_MAX} tests, the {SHOWN_MAX} that are about little else.",
    ]
    for group, titles in GROUPS:
        lines += ["", f"## {group}", "", "| | trap | tests | state |", "|---|---|---|---|"]
        for number, title in titles.items():
            named = [test for test in tests if number in test.traps]
            shown = [f"`{test.place}`" for test in named[:SHOWN_MAX]]
            if len(named) > SHOWN_MAX:
                shown.append(f"{len(named)} in all")
            lines.append(f"| {number} | {title} | {'<br>'.join(shown)} | {state_of(number, named)} |")
    return "\n".join(lines) + "\n"


def problems(tests: list[Claim]) -> list[str]:
    """What is wrong with the tests' claims, or with the tables above."""
    found = [f"{test.place} names a trap that does not exist" for test in tests if not test.traps <= TITLES.keys()]
    for number, title in TITLES.items():
        if not any(number in test.traps for test in tests):
            found.append(f"trap {number} ({title}) has no test")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.traps", description="The traps and their tests.")
    parser.add_argument("--write", action="store_true", help="rewrite docs/traps.md")
    parser.add_argument("--check", action="store_true", help="status 1 if docs/traps.md is stale or a trap untested")
    options = parser.parse_args(arguments)
    tests = all_claims()
    text, wrong = document(tests), problems(tests)
    if options.write:
        DOCUMENT.write_text(text)
    elif not options.check:
        print(text, end="")
    if options.check and (not DOCUMENT.exists() or DOCUMENT.read_text() != text):
        wrong.append("docs/traps.md is stale: run `python -m tests.traps --write`")
    for problem in wrong:
        print(problem, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
