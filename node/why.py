"""Why the chain is not moving, in one sentence: who is missing, since when, what to do. Pure: facts in, words out.

Must not know: where the facts come from.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SILENT_MS = 5_000  # statuses come twice a second: ten in a row are not lost by chance
STARTING_MS = 5_000  # until then a node may still be about to reach others: it calls nobody missing
QUIET_MS = 10_000  # without anything waiting, silence is not a fault
DISK_MS = 5_000  # a write takes milliseconds; some devices pause for a second
QUIET_S = 10  # no block for longer means that nothing waits: else a stall would be told
CHANGING_S = 30  # the cap of patience by default: longer than one view change takes
BEHIND_HEIGHTS = 16  # two windows; more than ordinary jitter between nodes


@dataclass(frozen=True, slots=True)
class Missing:
    """A validator from which nothing comes; `since_ms` is when we began if nothing ever came."""

    name: str
    key: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What one node knows about the chain's progress. Times in Unix milliseconds."""

    now_ms: int
    started_ms: int  # when this node began
    height: int
    target_height: int
    n: int
    quorum: int
    missing: Sequence[Missing]
    view: int
    leader: str
    changing: bool
    waiting_since_ms: int | None  # when the oldest transaction that waits came, if any waits
    last_progress_ms: int  # the last block, or this node's start
    last_block_ms: int  # the time in its header
    stopped: str | None
    muted: bool = False  # this node's key signs nothing any more
    refetching: int = 0  # the height up to which lost blocks are fetched again
    behind: Sequence[tuple[str, int]] = ()  # reachable validators that catch up, with their heights
    suspecting: bool = False  # this node wants to leave the view
    decided: int = 0  # the last height in order that is decided, executed or not
    lacking_decided: int = 0  # batches of decided blocks that this node does not have
    lacking_proposed: int = 0  # and of proposals
    clock_ahead_ms: int | None = None  # of the last proposer's, where its proposal was refused for its time
    disk_busy_since_ms: int | None = None  # a write that has not come back
    epoch_end: int | None = None  # the last height of this set or these parameters, where a change is decided
    unclosed: int | None = None  # the epoch before, if no certificate closes it yet: this one cannot end until then


def explain(facts: Facts) -> dict[str, Any]:
    """`{"halted", "moving", "sentence", "missing": [{"name", "key", "since_ms"}], "height", "view"}`."""
    halted, sentence = _sentence(facts)
    missing = [{"name": one.name, "key": one.key, "since_ms": one.since_ms} for one in _known_missing(facts)]
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
    since_ms = _waits_since_ms(facts)
    waits_ms = 0 if since_ms is None else max(0, facts.now_ms - since_ms)
    waits_s = waits_ms // 1_000
    stalled = waits_ms > QUIET_MS
    if facts.stopped is not None:
        return True, f"This node has stopped signing: {facts.stopped}"
    if facts.muted:
        return stalled, (
            "This node signs nothing, and follows the chain: its key may have signed what its log does not know of "
            "(MC5007). It was restored, joined anew or repaired, was started from an older copy of its folder, or "
            "another process has its key, which must stop then. Have the validators replace the key."
            f"{_absent(facts)}"
        )
    if facts.refetching:
        return stalled, (
            f"This node's disk had lost blocks; it fetches them again from its peers, up to height {facts.refetching}, "
            f"and signs nothing before.{_absent(facts)}"
        )
    if facts.disk_busy_since_ms is not None and facts.now_ms - facts.disk_busy_since_ms > DISK_MS:
        return stalled, (
            f"This node's disk has not finished a write for {(facts.now_ms - facts.disk_busy_since_ms) // 1_000} s; "
            f"nothing is signed before it does. Look at the device and at what else writes to it.{_absent(facts)}"
        )
    if reachable < facts.quorum <= facts.n - len(_known_missing(facts)):
        return False, (
            f"This node has just begun and is about to reach the others: {reachable} of {facts.n} validators so far, "
            f"and {facts.quorum} are needed.{_absent(facts)}"
        )
    if reachable < facts.quorum:
        return True, (
            f"The chain is halted at height {facts.height}: {reachable} of {facts.n} validators are reachable from "
            f"here and {facts.quorum} are needed; missing: {_names(facts)}; start them, or restore the network to them."
        )
    if facts.target_height > facts.height + BEHIND_HEIGHTS:
        return False, f"This node is catching up: it is at height {facts.height}, its peers at {facts.target_height}."
    if facts.clock_ahead_ms is not None:
        direction = "ahead of" if facts.clock_ahead_ms > 0 else "behind"
        return stalled, (
            f"This node refuses what {facts.leader} proposes in view {facts.view}: its clock is "
            f"{abs(facts.clock_ahead_ms) // 1_000} s {direction} that of {facts.leader}; set both by a time "
            f"server.{_absent(facts)}"
        )
    if stalled:
        return True, f"{_stall(facts, reachable, waits_s)}{_absent(facts)}"
    if facts.changing:
        changing_s = idle_s if since_ms is None else waits_s
        return changing_s >= CHANGING_S, f"{_changing(facts, changing_s)}{_absent(facts)}"
    ago_s = max(0, facts.now_ms - facts.last_block_ms) // 1_000
    change = "" if facts.epoch_end is None else f" A change takes effect after height {facts.epoch_end}."
    if since_ms is not None and (idle_s >= QUIET_S or facts.height == 0):
        block = f"the last block, {facts.height}, came {ago_s} s ago" if facts.height else "there is no block yet"
        return False, f"Transactions have waited for {waits_s} s; {block}.{change}{_absent(facts)}"
    if facts.height == 0:
        return False, f"The chain has begun and nobody has sent a transaction yet.{change}{_absent(facts)}"
    quiet = "moving" if ago_s < QUIET_S else "quiet, nothing waits"
    return False, f"The chain is {quiet}: height {facts.height}, last block {ago_s} s ago.{change}{_absent(facts)}"


def _waits_since_ms(facts: Facts) -> int | None:
    """Since when there is something to do and nothing comes of it. What comes to a quiet chain waits since it came."""
    if facts.decided > facts.height or (facts.epoch_end or 0) > facts.height:
        return facts.last_progress_ms
    if facts.waiting_since_ms is None:
        return None
    return max(facts.last_progress_ms, facts.waiting_since_ms)


def _stall(facts: Facts, reachable: int, waits_s: int) -> str:
    """Work waits and nothing happens, though enough validators are there."""
    if facts.lacking_decided:
        return (
            f"Block {facts.height + 1} is decided, but no validator reachable from here gives "
            f"{facts.lacking_decided} of its batches, for {waits_s} s; start the missing ones, who have them on disk."
        )
    if facts.decided > facts.height:
        return f"Block {facts.height + 1} is decided and not executed for {waits_s} s; look at this node's log."
    if reachable - len(facts.behind) < facts.quorum:
        names = ", ".join(f"{name} (height {height})" for name, height in facts.behind)
        return (
            f"Nothing was committed for {waits_s} s: {facts.quorum} validators must be at height {facts.height} and "
            f"{reachable - len(facts.behind)} are; {names} catching up; nothing to do unless it lasts."
        )
    if facts.unclosed is not None and facts.height + 1 == facts.epoch_end:
        return (
            f"Nothing was committed for {waits_s} s: this epoch ends after height {facts.epoch_end} only once the "
            f"checkpoint that closed epoch {facts.unclosed} is certified, by a quorum of that epoch's validators; "
            f"start those that were replaced since."
        )
    if facts.changing:
        return _changing(facts, waits_s)
    if facts.lacking_proposed:
        return (
            f"The proposal of {facts.leader} in view {facts.view} needs {facts.lacking_proposed} batches that no "
            f"validator reachable from here gives, for {waits_s} s; the leader is replaced once a quorum wants it."
        )
    if facts.suspecting:
        return (
            f"Nothing was committed for {waits_s} s though transactions wait; this node wants to leave view "
            f"{facts.view} of {facts.leader}, and waits until {facts.quorum} validators do; look at their logs."
        )
    return (
        f"Nothing was committed for {waits_s} s though transactions wait; {facts.leader} leads view {facts.view}; "
        f"look at its log."
    )


def _changing(facts: Facts, waits_s: int) -> str:
    return (
        f"The validators are changing the leader (view {facts.view}, {facts.leader} is next), for {waits_s} s; "
        f"nothing to do unless it lasts."
    )


def _known_missing(facts: Facts) -> list[Missing]:
    """Who may be called missing: of those who never came, nobody just after our own start."""
    is_young = facts.now_ms - facts.started_ms < STARTING_MS
    return [one for one in facts.missing if not (is_young and one.since_ms <= facts.started_ms)]


def _absent(facts: Facts) -> str:
    names = _names(facts)
    return f" Missing: {names}." if names else ""


def _names(facts: Facts) -> str:
    return ", ".join(f"{one.name} (since {_clock(one.since_ms)})" for one in _known_missing(facts))


def _clock(at_ms: int) -> str:
    at = datetime.datetime.fromtimestamp(at_ms // 1_000, datetime.UTC)
    return at.strftime("%Y-%m-%d %H:%M:%SZ")
