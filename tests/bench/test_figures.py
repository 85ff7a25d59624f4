"""Arithmetic of the results."""

from __future__ import annotations

import math

import pytest

from bench.figures import Sent, committed_per_s, counted_percentile, latencies, percentile, seen_at, tally


def test_percentiles_are_by_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 0.50) == 50
    assert percentile(values, 0.95) == 95
    assert percentile(values, 0.99) == 99
    assert percentile(values, 1.0) == 100
    assert percentile([7.0], 0.5) == 7
    assert percentile([], 0.5) == math.inf
    with pytest.raises(ValueError, match="share"):
        percentile(values, 0)


def test_counted_values_have_the_percentiles_of_the_values() -> None:
    counts = {3: 40, 0: 50, 9: 10}
    values = sorted(float(value) for value, count in counts.items() for _ in range(count))
    for share in (0.01, 0.5, 0.51, 0.9, 0.91, 1.0):
        assert counted_percentile(counts, share) == percentile(values, share)
    assert counted_percentile({}, 0.5) == math.inf


def test_an_unfinished_transaction_counts_as_infinite() -> None:
    done = [Sent(1.0, "ship", 0, 1.1, 0)] * 19
    never = Sent(1.0, "ship", 0, None, 0)
    unanswered = Sent(1.0, "ship", None, None, 0)
    assert latencies([*done, never]).p95_ms == pytest.approx(100)
    found = latencies([*done, never, unanswered])
    assert found.p95_ms == math.inf
    assert found.unfinished == 2
    assert found.max_ms == math.inf


def test_what_was_refused_at_the_door_is_counted_apart_and_has_no_latency() -> None:
    sent = [Sent(0.0, "ship", 0, 0.2, 0), Sent(0.0, "ship", 3001, None, 0), Sent(0.1, "grant", 0, 0.2, 2104)]
    assert latencies(sent).count == 2
    assert latencies(sent).unfinished == 0
    found = tally(sent)
    assert (found.sent, found.committed) == (3, 1)
    assert found.refused_at_door == {3001: 1}
    assert found.refused_by_rule == {2104: 1}
    assert found.kinds == {"ship": 2, "grant": 1}


def test_throughput_counts_commits_inside_the_window_only() -> None:
    sent = [Sent(float(second), "ship", 0, second + 0.5, 0) for second in range(10)]
    assert committed_per_s(sent, 2.0, 6.0) == 1.0
    refused = [Sent(3.0, "ship", 0, 3.1, 2104)]
    assert committed_per_s([*sent, *refused], 2.0, 6.0) == 1.0


def test_a_height_is_seen_when_enough_nodes_showed_it() -> None:
    assert seen_at([{1: 0.1, 2: 0.3}, {1: 0.2}], 2) == {1: 0.2}
    assert seen_at([{1: 0.5}, {1: 0.2}, {1: 0.3}], 2) == {1: 0.3}
