"""Why the chain is not moving, in one sentence: who is missing, since when, what to do. Pure: facts in, words out.

Must not know: where the facts come from.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

QUIET_MS = 10_000  # without anything waiting, silence is not a fault


@dataclass(frozen=True, slots=True)
class Missing:
    """A validator we do not reach."""

    name: str
    key: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What one node knows about the chain's progress. Times in Unix milliseconds."""

    now_ms: int
    height: int
    target_height: int
    n: int
    quorum: int
    missing: Sequence[Missing]
    view: int
    leader: str
    changing: bool
    waiting: bool
    last_progress_ms: int
    stopped: str | None


def explain(facts: Facts) -> dict[str, Any]:
    """`{"halted", "moving", "sentence", "missing": [{"name", "key", "since_ms"}], "height", "view"}`."""
    halted, sentence = _sentence(facts)
    missing = [{"name": one.name, "key": one.key, "since_ms": one.since_ms} for one in facts.missing]
    return {
        "halted": halted,
        "moving": not halted,
        "sentence": sentence,
        "missing": missing,
        "height": facts.height,
        "view": facts.view,
    }


def _sentence(facts: Facts) -> tuple[bool, str]:
    reachable = facts.n - len(facts.missing)
    idle_s = max(0, facts.now_ms - facts.last_progress_ms) // 1_000
    if facts.stopped is not None:
        return True, f"This node has stopped signing: {facts.stopped}"
    if reachable < facts.quorum:
        return True, (
            f"The chain is halted at height {facts.height}: {reachable} of {facts.n} validators are reachable from "
            f"here and {facts.quorum} are needed; missing: {_names(facts)}; start them, or restore the network to them."
        )
    if facts.target_height > facts.height + 16:
        return False, f"This node is catching up: it is at height {facts.height}, its peers at {facts.target_height}."
    if facts.changing:
        return idle_s >= 30, (
            f"The validators are changing the leader (view {facts.view}, {facts.leader} is next), for {idle_s} s; "
            f"nothing to do unless it lasts.{_absent(facts)}"
        )
    if facts.waiting and facts.now_ms - facts.last_progress_ms > QUIET_MS:
        return True, (
            f"Nothing was committed for {idle_s} s though transactions wait; {facts.leader} leads view {facts.view}; "
            f"look at its log.{_absent(facts)}"
        )
    return False, f"The chain is moving: height {facts.height}, last block {idle_s} s ago.{_absent(facts)}"


def _absent(facts: Facts) -> str:
    return f" Missing: {_names(facts)}." if facts.missing else ""


def _names(facts: Facts) -> str:
    return ", ".join(f"{one.name} (since {_clock(one.since_ms)})" for one in facts.missing)


def _clock(at_ms: int) -> str:
    at = datetime.datetime.fromtimestamp(at_ms // 1_000, datetime.UTC)
    return at.strftime("%Y-%m-%d %H:%M:%SZ")
