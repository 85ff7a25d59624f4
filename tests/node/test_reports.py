"""Evidence goes to the chain as a transaction of this node: until it is there, and no longer than it can be."""

from __future__ import annotations

import pytest

from ledger.crypto import KeyPair, verify_joined
from ledger.errors import Code
from ledger.evidence import Evidence
from ledger.modules.members import EVIDENCE_EPOCHS
from ledger.transaction import Transaction
from node.reports import REPORTS_MAX, Reports
from tests.ledger.chain import Chain, key_pair
from tests.ledger.test_members import QUICK, new_chain
from tests.ledger.test_members_evidence import contradiction, next_epoch

NODE, OTHER_NODE = key_pair("validator 1"), key_pair("validator 2")
VALIDITY_HEIGHTS = 4


@pytest.fixture
def chain() -> Chain:
    return new_chain(6, parameters=QUICK)


def reports_of(chain: Chain, pair: KeyPair = NODE) -> Reports:
    return Reports(chain.genesis.chain_id, pair.public, pair.sign, VALIDITY_HEIGHTS)


def evidence(chain: Chain, index: int = 5, **more: int) -> Evidence:
    return Evidence.decode(contradiction(chain, chain.validators[index], **more).evidence)


def due(reports: Reports, chain: Chain) -> list[Transaction]:
    return list(reports.due(chain, chain.height))


def test_a_report_is_a_valid_transaction_that_convicts(chain: Chain) -> None:
    reports = reports_of(chain)
    reports.note(evidence(chain))
    (tx,) = due(reports, chain)
    assert verify_joined(tx.wire)
    assert tx.sender == NODE.public
    assert chain.execute([tx]).receipts[0].ok
    assert due(reports, chain) == []
    assert len(reports) == 0


def test_it_is_out_once_and_again_only_when_it_has_expired(chain: Chain) -> None:
    reports = reports_of(chain)
    reports.note(evidence(chain))
    (first,) = due(reports, chain)
    for _ in range(VALIDITY_HEIGHTS):
        assert due(reports, chain) == []
        chain.advance(1)
    (second,) = due(reports, chain)
    assert first.valid_until < second.valid_until
    assert first.replay_key != second.replay_key


def test_one_that_found_no_room_is_due_again(chain: Chain) -> None:
    reports = reports_of(chain)
    reports.note(evidence(chain))
    for tx in reports.due(chain, chain.height):
        assert tx
        break  # the pool refused it
    assert len(due(reports, chain)) == 1


def test_what_another_node_reported_is_let_go(chain: Chain) -> None:
    """Trap 48. Copies of several nodes in one block cost a refusal each."""
    ours, theirs = reports_of(chain), reports_of(chain, OTHER_NODE)
    ours.note(evidence(chain))
    theirs.note(evidence(chain, height=2))
    result = chain.execute([*due(ours, chain), *due(theirs, chain)])
    assert [receipt.code for receipt in result.receipts] == [Code.OK, Code.EVIDENCE_KNOWN]
    assert due(ours, chain) == due(theirs, chain) == []
    assert len(ours) == len(theirs) == 0


def test_expired_evidence_is_let_go_and_one_a_member_and_epoch_is_kept(chain: Chain) -> None:
    reports = reports_of(chain)
    for height in range(1, 50):
        reports.note(evidence(chain, height=height))
    reports.note(evidence(chain, 4))
    assert len(reports) == 2 <= REPORTS_MAX
    for _ in range(EVIDENCE_EPOCHS + 1):
        next_epoch(chain)
    assert due(reports, chain) == []
    assert len(reports) == 0


def test_a_restarted_node_makes_the_same_report(chain: Chain) -> None:
    """So that it is executed once, however often the node starts again."""
    before, after = reports_of(chain), reports_of(chain)
    for reports in (before, after):
        reports.note(evidence(chain))
    assert due(before, chain) == due(after, chain)
