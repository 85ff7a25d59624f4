"""What a leader makes of waiting batches: never a proposal that its peers refuse."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from consensus.backlog import Backlog
from consensus.events import BatchAvailable
from consensus.messages import PrePrepare, Vote, encode_message
from ledger.block import BLOCK_BATCH_BYTES_MAX, BLOCK_BATCHES_MAX, PROPOSAL_SIZE_BYTES_MAX, Phase, Proposal
from ledger.codec import encode
from ledger.crypto import hash_bytes
from ledger.transaction import BATCH_SIZE_BYTES_MAX, BATCH_TXS_MAX

# (transactions, bytes) of batches as peers accept them.
BATCHES = st.lists(st.tuples(st.integers(1, BATCH_TXS_MAX), st.integers(100, BATCH_SIZE_BYTES_MAX)), min_size=1)
LARGEST = [(1, BATCH_SIZE_BYTES_MAX)] * (BLOCK_BATCH_BYTES_MAX // BATCH_SIZE_BYTES_MAX + 1)
SMALLEST = [(1, 100)] * (BLOCK_BATCHES_MAX + 1)


@given(BATCHES, st.integers(1, 5_000))
@example(LARGEST, 5_000)
@example(SMALLEST, 5_000)
@example([(BATCH_TXS_MAX, 1_000)] * 2, 1)
def test_what_is_gathered_is_within_what_replicas_vote_for(batches: list[tuple[int, int]], block_txs_max: int) -> None:
    """Trap 37. The limits are those of `Replica._validate`; one batch alone is always within them."""
    backlog = Backlog()
    for number, (tx_count, size_bytes) in enumerate(batches):
        backlog.add(BatchAvailable(hash_bytes(b"%d" % number), tx_count, size_bytes), 0, 0)
    digests = backlog.gather(block_txs_max)
    chosen = batches[: len(digests)]
    assert digests == tuple(hash_bytes(b"%d" % number) for number in range(len(chosen))), "the oldest, none skipped"
    assert 1 <= len(chosen) <= BLOCK_BATCHES_MAX
    assert sum(tx_count for tx_count, _ in chosen) <= max(block_txs_max, BATCH_TXS_MAX)
    txs, size_bytes = sum(tx_count for tx_count, _ in batches), sum(size for _, size in batches)
    full = txs >= 300 or size_bytes >= BLOCK_BATCH_BYTES_MAX or len(batches) >= BLOCK_BATCHES_MAX
    assert backlog.txs(300) == (300 if full else txs)
    assert sum(size_bytes for _, size_bytes in chosen) <= BLOCK_BATCH_BYTES_MAX


def test_the_largest_proposal_fits_its_limit() -> None:
    """Trap 37. With its message around it, which is what travels."""
    top = 2**63 - 1
    digests = tuple(hash_bytes(b"%d" % number) for number in range(BLOCK_BATCHES_MAX))
    proposal = Proposal(top, top, digests, True)
    assert len(encode(proposal.to_value())) <= PROPOSAL_SIZE_BYTES_MAX
    vote = Vote(top, top, top, Phase.PREPARE, proposal.digest, 127, bytes(65))
    assert len(encode_message(PrePrepare(proposal, vote))) <= PROPOSAL_SIZE_BYTES_MAX
