"""A few rounds of `make kills`, and that its reading of logs can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.messages import Vote
from ledger.block import Phase
from node.replica import join_records
from tests import live_kills


@pytest.mark.processes
@pytest.mark.xdist_group("processes")
@pytest.mark.asyncio
async def test_killed_nodes_never_contradict_themselves_and_lose_nothing_acknowledged(tmp_path: Path) -> None:
    """Trap 20. Trap 22. Trap 24."""
    record = await live_kills.run(3, 7, 4, tmp_path / "cluster", lambda line: None)
    assert record.committed
    assert len(record.votes) > 20
    assert record.logs == 3 + 4


def test_a_contradicting_vote_in_a_later_log_is_found() -> None:
    def said(digest: bytes) -> bytes:
        return join_records([Vote(1, 0, 5, Phase.COMMIT, digest * 33, 2, bytes(65))])

    record = live_kills.Record()
    record._note("maker", said(b"\x01"))
    record._note("maker", said(b"\x01"))
    record._note("insurer", said(b"\x02"))
    with pytest.raises(live_kills.Violated):
        record._note("maker", said(b"\x02"))
