"""The garbage collector of a process that is a node and nothing else."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from node.node import COLLECT_AFTER, collect_seldom


@pytest.fixture
def as_it_was() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.usefixtures("as_it_was")
def test_what_is_there_at_the_start_is_left_alone_and_nodes_do_not_collect_at_the_same_moment() -> None:
    seen = set()
    for _ in range(10):
        collect_seldom()
        seen.add(gc.get_threshold()[0])
    assert gc.get_freeze_count() > 10_000
    assert len(seen) > 1
    assert all(COLLECT_AFTER[0] <= one < COLLECT_AFTER[1] for one in seen)
