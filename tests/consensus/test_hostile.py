"""A hostile leader and a silent peer: what they may delay, and for how long."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from consensus.config import EngineConfig
from consensus.engine import Engine
from consensus.events import BatchAvailable, Broadcast, Effect, Persist, Persisted, Received, Validate, Verified
from consensus.messages import Message, Prepared, ViewChange, Vote, signed
from consensus.sync import BLAME_MS, REQUEST_TIMEOUT_MS, BlockSync
from ledger.block import Certificate, CheckpointCertificate, Phase, Proposal
from ledger.crypto import hash_bytes
from ledger.genesis import Parameters
from ledger.modules import payments
from ledger.transaction import Transaction
from tests.consensus.machine import CHAIN, WALL_MS, genesis, sign
from tests.consensus.machine import key_of as member_key
from tests.simulation.cluster import CURRENCY, Cluster, SimulatedNode, key_of


def _empty(cluster: Cluster, leader: SimulatedNode) -> Callable[[int], Proposal]:
    return lambda height: Proposal(height, leader.wall_ms(), ())


def _only_his_own(cluster: Cluster, leader: SimulatedNode) -> Callable[[int], Proposal]:
    """A new batch of his own in each block, as fast as blocks can be made."""
    replica = leader.replica

    def propose(height: int) -> Proposal:
        cluster.transfer(at=leader.index)
        batch = replica.pool._cut_one(leader.now_ms()) if replica.pool.cut_due_ms() else replica.pool.held()[-1]
        replica._spread(batch)
        replica._inbox.append(BatchAvailable(batch.digest, len(batch.wires), len(batch.wire)))
        return Proposal(height, leader.wall_ms(), (batch.digest,))

    return propose


@pytest.mark.parametrize("scheme", [_empty, _only_his_own])
def test_a_leader_that_leaves_others_batches_out_is_replaced(
    scheme: Callable[[Cluster, SimulatedNode], Callable[[int], Proposal]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 18. Blocks alone are no progress for who waits, and each of them uses up a height of his validity."""
    cluster = Cluster(5)
    leader = next(node for node in cluster.nodes if node.replica.engine.is_leader)
    monkeypatch.setattr(leader.replica.engine.ordering, "next_proposal", scheme(cluster, leader))
    victim = cluster.nodes[(leader.index + 1) % 4]
    fields = payments.Transfer(CURRENCY, f"h{leader.index}", 1, "").to_fields()
    tx = Transaction.create(
        key_of(victim.index),
        cluster.genesis.chain_id,
        "payments.transfer",
        fields,
        nonce=bytes(16),
        valid_until=cluster.genesis.parameters.validity_heights_max,
    )
    victim.replica.submit(tx)
    assert cluster.run(5_000, lambda: cluster.final_everywhere([tx.id]))
    receipt = victim.replica.store.receipt(tx.id)
    assert receipt is not None
    assert receipt.ok


def test_a_peer_that_never_answers_is_asked_ever_more_rarely() -> None:
    """Trap 30. Else it is first in line for the next block each time, and every window of blocks takes a timeout."""
    sync: BlockSync[str] = BlockSync(eager=True)
    asked_at_ms = []
    for now_ms in range(0, 120_000, 500):
        sync.on_status("silent", 2**62)
        if sync.plan(0, now_ms):
            asked_at_ms.append(now_ms)
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked_at_ms)]
    assert gaps == sorted(gaps)
    assert gaps[0] == 2 * REQUEST_TIMEOUT_MS
    assert gaps[-1] == REQUEST_TIMEOUT_MS + BLAME_MS


def test_a_slow_peer_that_answers_again_is_forgiven() -> None:
    sync: BlockSync[str] = BlockSync(eager=True)
    now_ms = 0
    for _ in range(3):
        sync.on_status("slow", 100)
        while not sync.plan(0, now_ms):
            sync.on_status("slow", 100)
            now_ms += 500
    for height in (1, 2, 3):  # it is trusted with more again after each
        assert sync.on_block("slow", height, "block", 1)
        sync.on_response_end("slow", now_ms)
        assert sync.plan(0, now_ms)
    now_ms += REQUEST_TIMEOUT_MS
    sync.plan(0, now_ms)
    sync.on_status("slow", 100)
    assert sync.plan(0, now_ms + REQUEST_TIMEOUT_MS)


def test_a_leader_far_behind_keeps_within_its_log_and_costs_no_more_for_the_distance() -> None:
    """Trap 16, 33. View changes show locks thousands of heights above what it executed. Its table grew with each view
    that it led, and it died of it; before that, each step took time in proportion to how far it was behind."""
    parameters = Parameters()
    engine = Engine(EngineConfig(CHAIN, member_key(1), parameters), signer(1), genesis(range(4), parameters), None)
    engine.start(0)
    now_ms = 0

    def give(message: Message) -> list[Effect]:
        nonlocal now_ms
        now_ms += 1
        effects = engine.step(Received(Verified(message)), now_ms, WALL_MS + now_ms)
        for token in [effect.token for effect in effects if isinstance(effect, Persist)]:
            effects += engine.step(Persisted(token), now_ms, WALL_MS + now_ms)
        return effects

    for height in range(1, parameters.log_window + 1):
        for member in (0, 2, 3):
            give(
                signed(
                    Vote(0, 0, height, Phase.PREPARE, lock(height, 0).proposal.digest, member), signer(member), CHAIN
                )
            )
    for number in range(1, 30):
        view, base = 4 * number - 3, 10**6 * number
        effects: list[Effect] = []
        for member in (0, 2, 3):
            locks = tuple(lock(height, view - 1) for height in range(base + 1, base + 9))
            change = ViewChange(0, view, checkpoint(base), locks, member)
            effects += give(signed(change, signer(member), CHAIN))
        assert (engine.view, engine.changing, engine.is_leader) == (view, False, True)
        assert not [effect for effect in effects if isinstance(effect, Broadcast | Validate) and is_ahead(effect)]
        assert len(engine.slots) <= parameters.log_window


def is_ahead(effect: Effect) -> bool:
    """Whether it is about a proposal beyond the log of who executed nothing."""
    message = effect.message if isinstance(effect, Broadcast) else effect
    proposal = getattr(message, "proposal", None)
    return proposal is not None and proposal.height > Parameters().log_window


def signer(member: int) -> Callable[[bytes], bytes]:
    return lambda statement: sign(member_key(member), statement)


def lock(height: int, view: int) -> Prepared:
    proposal = Proposal(height, WALL_MS, (hash_bytes(b"batch %d" % height),))
    return Prepared(proposal, Certificate(0, view, height, Phase.PREPARE, proposal.digest, ()))


def checkpoint(height: int) -> CheckpointCertificate:
    root = hash_bytes(b"%d" % height)
    return CheckpointCertificate(0, height, root, root, root, ())
