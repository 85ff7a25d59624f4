"""Why the chain does not move, from the facts of one node: one sentence for each cause, with what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from node.why import Facts, Missing, explain

NOW_MS = 1_700_000_000_000
MOVING = Facts(
    now_ms=NOW_MS,
    started_ms=NOW_MS - 3_600_000,
    height=100,
    target_height=100,
    n=4,
    quorum=3,
    missing=(),
    view=2,
    leader="maker",
    changing=False,
    waiting_since_ms=NOW_MS - 90_000,
    last_progress_ms=NOW_MS - 1_000,
    last_block_ms=NOW_MS - 1_000,
    stopped=None,
    decided=100,
)
STALLED = replace(MOVING, last_progress_ms=NOW_MS - 60_000, last_block_ms=NOW_MS - 60_000)
IDLE = replace(MOVING, last_progress_ms=NOW_MS - 3_600_000, last_block_ms=NOW_MS - 3_600_000)
YOUNG = replace(MOVING, started_ms=NOW_MS - 2_000, last_progress_ms=NOW_MS - 2_000, waiting_since_ms=None)
UNHEARD = tuple(Missing(name, "01", NOW_MS - 2_000) for name in ("maker", "pharmacy", "insurer"))
GONE = tuple(Missing(name, "01", NOW_MS - 90_000) for name in ("pharmacy", "insurer"))


@pytest.mark.parametrize(
    ("facts", "halted", "told"),
    [
        (MOVING, False, ["moving", "100"]),
        (replace(STALLED, waiting_since_ms=None), False, ["quiet"]),
        (replace(YOUNG, last_block_ms=NOW_MS - 3_600_000), False, ["quiet", "last block 3600 s ago"]),
        (replace(MOVING, missing=GONE[:1]), False, ["moving", "pharmacy", "2023-11-14 22:11:50Z"]),
        (replace(MOVING, epoch_end=130), False, ["moving", "130"]),
        (replace(MOVING, missing=GONE), True, ["2 of 4", "3 are needed", "pharmacy", "insurer", "start them"]),
        (replace(MOVING, target_height=200), False, ["catching up", "200"]),
        (replace(MOVING, stopped="its disk failed (MC5003)"), True, ["stopped signing", "MC5003"]),
        (replace(MOVING, stopped="its state at height 90 differs (MC5006)", missing=GONE), True, ["MC5006"]),
        (replace(STALLED, clock_ahead_ms=-3_600_000), True, ["clock is 3600 s behind", "maker", "time server"]),
        (replace(MOVING, clock_ahead_ms=60_000), False, ["60 s ahead of"]),
        (replace(STALLED, decided=103, lacking_decided=2), True, ["101 is decided", "2 of its batches"]),
        (replace(STALLED, waiting_since_ms=None, decided=101), True, ["101 is decided", "this node's log"]),
        (replace(STALLED, lacking_proposed=3), True, ["proposal of maker", "3 batches"]),
        (replace(STALLED, changing=True), True, ["changing the leader", "view 2", "maker"]),
        (replace(MOVING, changing=True), False, ["changing the leader"]),
        (replace(STALLED, waiting_since_ms=None, changing=True), True, ["changing the leader", "60 s"]),
        (replace(STALLED, epoch_end=101, unclosed=3), True, ["after height 101", "closed epoch 3", "start those"]),
        (replace(STALLED, epoch_end=101, waiting_since_ms=None), True, ["maker leads view 2"]),
        (replace(STALLED, suspecting=True), True, ["wants to leave view 2", "until 3 validators"]),
        (STALLED, True, ["60 s though transactions wait", "maker leads view 2"]),
        (
            replace(STALLED, missing=GONE[:1], behind=(("hospital", 12),)),
            True,
            ["3 validators must be at height 100", "hospital (height 12)", "catching up", "Missing: pharmacy"],
        ),
        (replace(IDLE, waiting_since_ms=NOW_MS - 12_000), True, ["committed for 12 s though transactions wait"]),
        (replace(IDLE, waiting_since_ms=NOW_MS - 2_000), False, ["waited for 2 s", "100", "came 3600 s ago"]),
        (replace(IDLE, waiting_since_ms=NOW_MS - 2_000, changing=True), False, ["changing the leader", "for 2 s"]),
        (
            replace(IDLE, waiting_since_ms=NOW_MS - 2_000, height=0, target_height=0, decided=0),
            False,
            ["2 s", "no block yet"],
        ),
        (
            replace(STALLED, suspecting=True, missing=GONE[:1]),
            True,
            ["wants to leave view 2", "Missing: pharmacy (since 2023-11-14 22:11:50Z)"],
        ),
        (replace(YOUNG, missing=UNHEARD), False, ["just begun", "1 of 4", "3 are needed"]),
        (replace(YOUNG, missing=UNHEARD, started_ms=NOW_MS - 6_000), True, ["halted", "missing: maker"]),
        (replace(STALLED, disk_busy_since_ms=NOW_MS - 20_000), True, ["disk", "20 s", "device"]),
        (replace(MOVING, disk_busy_since_ms=NOW_MS - 20), False, ["moving"]),
    ],
)
def test_each_cause_reads_as_one_sentence_with_its_remedy(facts: Facts, halted: bool, told: list[str]) -> None:
    answer: dict[str, Any] = explain(facts)
    assert answer["halted"] is halted
    assert answer["moving"] is not halted
    for words in told:
        assert words in answer["sentence"], answer["sentence"]
    assert answer["sentence"].endswith((".", "MC5003)", "MC5006)"))
    assert len(answer["sentence"]) < 300


def test_who_is_missing_is_told_as_data_too() -> None:
    answer = explain(replace(MOVING, missing=GONE))
    assert [one["name"] for one in answer["missing"]] == ["pharmacy", "insurer"]
    assert (answer["height"], answer["view"]) == (100, 2)


def test_just_after_a_start_nobody_who_was_never_heard_is_called_missing() -> None:
    assert explain(replace(YOUNG, missing=UNHEARD))["missing"] == []
    moving = explain(replace(YOUNG, missing=UNHEARD[:1]))
    assert (moving["missing"], "Missing" in moving["sentence"]) == ([], False)
    lost = replace(UNHEARD[0], since_ms=NOW_MS - 1_000)  # it was here
    told = explain(replace(YOUNG, missing=(lost, *UNHEARD[1:])))
    assert [one["name"] for one in told["missing"]] == ["maker"]
    assert "Missing: maker" in told["sentence"]
