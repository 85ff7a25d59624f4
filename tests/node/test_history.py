"""Asking peers for what closed earlier epochs: only what a quorum signed is kept, and nobody can make it cost much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.verify import Verifier
from ledger.codec import decode, encode
from ledger.errors import CodecError
from ledger.modules.members import ProposeParameters
from node.history import EPOCHS_PER_ANSWER_MAX, PATIENCE_MS, BadHistory, History
from storage.chain import ChainStore
from storage.memory import MemoryKeyValue
from tests.storage.test_bundles import certify
from tests.storage.test_chain import GENESIS, KEYS, Cluster, Node, busy, change_validators, checkpoint_of

EPOCHS = 3
A, B = b"a" * 33, b"b" * 33


def change_parameters(node: Node, window: int) -> None:
    """Voted on in two blocks, in force with the next epoch."""
    until = node.store.tip.height + 10
    fields = ProposeParameters((("window", window),)).to_fields()
    propose = node.cluster.tx(ProposeParameters.NAME, *fields, key=KEYS[1], valid_until=until)
    votes = [node.cluster.tx("members.vote", propose.id, True, key=key, valid_until=until) for key in KEYS[2:4]]
    epoch = node.store.tip.validators.epoch
    for txs in ([propose], votes):
        assert all(receipt.ok for receipt in node.run(txs).receipts)
    while node.store.tip.validators.epoch == epoch:
        node.run()


def chain() -> Node:
    """`EPOCHS` epochs are over."""
    node = Node(MemoryKeyValue(), Cluster())
    change_validators(node)
    for epoch in range(1, EPOCHS):
        busy(node, 2)
        change_parameters(node, 1 + epoch)
    busy(node, 3)
    return node


@pytest.fixture(scope="module")
def node() -> Node:
    """It executed everything and heard of no certificate but the last, as one that caught up by blocks."""
    made = chain()
    made.store.put_checkpoint(checkpoint_of(made.store, made.store.tip.checkpoint_height))
    return made


@pytest.fixture(scope="module")
def peer(node: Node) -> Node:
    made = chain()
    certify(made)
    assert made.store.tip == node.store.tip
    return made


def history_of(store: ChainStore) -> History:
    return History(store, Verifier(GENESIS.chain_id), bytes(33))


def ask(history: History, peers: list[bytes], now_ms: int) -> tuple[bytes, bytes]:
    """A request, when patience has ended."""
    history.plan(peers, now_ms)
    assert history.plan(peers, now_ms + PATIENCE_MS - 1) is None
    request = history.plan(peers, now_ms + PATIENCE_MS)
    assert request is not None
    return request


def test_who_caught_up_asks_for_what_it_never_heard_of(node: Node, peer: Node) -> None:
    store = node.store
    assert store.unclosed_epoch() == 0
    asking = history_of(store)
    key, request = ask(asking, [A], 0)
    learnt = asking.take(key, history_of(peer.store).answer(request))
    assert [certificate.epoch for certificate in learnt] == list(range(EPOCHS))
    for certificate in learnt:
        store.put_checkpoint(certificate)
    assert store.unclosed_epoch() is None
    assert asking.plan([A], 1 << 40) is None
    assert all(store.closing_checkpoint(epoch) for epoch in range(EPOCHS))
    assert ChainStore(node.kv).unclosed_epoch() is None


def test_each_is_asked_in_turn() -> None:
    asking = history_of(chain().store)
    asked = {ask(asking, [A, B], turn * PATIENCE_MS)[0] for turn in range(2)}
    assert asked == {A, B}
    assert asking.plan([], 1 << 40) is None


def test_only_whom_was_asked_is_heard_and_only_once(peer: Node) -> None:
    asking = history_of(chain().store)
    assert asking.take(A, b"never asked, never decoded") == []
    _, request = ask(asking, [A], 0)
    answer = history_of(peer.store).answer(request)
    assert asking.take(B, b"nor this") == []
    assert asking.take(A, answer)
    assert asking.take(A, answer) == []


def test_what_no_quorum_signed_is_refused(peer: Node) -> None:
    answer = decode(history_of(peer.store).answer(encode(0)), size_bytes_max=1 << 20)
    assert isinstance(answer, tuple)
    certificates = [peer.store.closing_checkpoint(epoch) for epoch in range(EPOCHS)]
    first = certificates[0]
    assert first is not None
    before = peer.store.checkpoint(min(h for h in range(1, first.height + 1) if peer.store.checkpoint(h)))
    assert before is not None
    bad = (
        replace(first, state_root=first.block_hash),
        replace(first, signatures=first.signatures[:2]),
        before,  # of its epoch, and not the last
        certificates[1],
    )
    for certificate in bad:
        assert certificate is not None
        asking = history_of(chain().store)
        ask(asking, [A], 0)
        answered = encode((certificate.to_value(), *answer[1:]))
        with pytest.raises(BadHistory):
            asking.take(A, answered)


@pytest.mark.parametrize("payload", [b"", b"\xff" * 40, encode(7), encode((7,)), encode((b"",) * 17)])
def test_a_malformed_answer_is_an_error(payload: bytes) -> None:
    asking = history_of(chain().store)
    ask(asking, [A], 0)
    with pytest.raises(CodecError):
        asking.take(A, payload)


@pytest.mark.parametrize("payload", [b"", encode(()), encode(-1), encode(b"0"), encode(1 << 63), b"\x00" * 40])
def test_a_malformed_request_is_an_error(payload: bytes, peer: Node) -> None:
    if payload == encode(1 << 63):
        assert decode(history_of(peer.store).answer(payload), size_bytes_max=64) == ()
        return
    with pytest.raises(CodecError):
        history_of(peer.store).answer(payload)


def test_an_answer_ends_where_the_answering_node_knows_no_more(peer: Node) -> None:
    answering = history_of(peer.store)
    assert EPOCHS < EPOCHS_PER_ANSWER_MAX
    for first in range(EPOCHS + 2):
        answer = decode(answering.answer(encode(first)), size_bytes_max=1 << 20)
        assert isinstance(answer, tuple)
        assert len(answer) == max(0, EPOCHS - first)
