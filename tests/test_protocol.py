"""docs/protocol.md as tests: one for each claim, named by its number. Whole replicas in the deterministic cluster."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from consensus.config import EngineConfig
from consensus.contradiction import read
from consensus.engine import Engine
from consensus.events import Applied, Certified, Evidence, Fired, PeerStatus, Received, Timer, Verified
from consensus.messages import (
    CheckpointVote,
    NewView,
    Prepared,
    PrePrepare,
    Status,
    Suspect,
    TimeoutCertificate,
    ViewChange,
    Vote,
    decode_message,
    decode_record,
    encode_message,
)
from consensus.newview import choose, compose
from consensus.verify import Verifier
from ledger.block import Certificate, CheckpointCertificate, Phase, Proposal
from ledger.codec import decode
from ledger.errors import Code, Reject
from ledger.evidence import Offence, check_evidence
from ledger.genesis import LOG_WINDOW_MAX, Parameters
from ledger.modules.members import ProposeValidators
from ledger.modules.members import Vote as GovernanceVote
from ledger.modules.parties import VALIDATORS, join_statement
from ledger.transaction import Batch, Transaction
from ledger.validators import faulty_max, quorum
from node.replica import RecordKind
from p2p.batches import BatchPool, PoolConfig
from p2p.frames import Kind
from storage.chain import ChainStore
from tests.consensus import test_messages
from tests.simulation.cluster import WALL_MS, Cluster, Options, SimulatedNode, key_of

QUICK = Parameters(view_timeout_ms=1_000, view_timeout_ms_max=8_000)


def cluster_of(n: int = 4, seed: int = 1, **options: object) -> Cluster:
    cluster = Cluster(seed, Options(n=n, parameters=QUICK, **options))  # type: ignore[arg-type]
    cluster.run(100)
    return cluster


def commit(cluster: Cluster, count: int = 1, *, at: int | None = None, within_ms: int = 30_000) -> list[bytes]:
    """Transactions that every living node must execute."""
    ids = [cluster.transfer(at=at) for _ in range(count)]
    assert cluster.run(within_ms, lambda: cluster.final_everywhere(ids)), cluster.heights()
    return ids


def leader_of(cluster: Cluster) -> SimulatedNode:
    views = [node.replica.engine for node in cluster.nodes if node.alive and node.replica.engine.me is not None]
    engine = max(views, key=lambda engine: engine.view)
    key = engine.validators.keys[engine.leader]
    return next(node for node in cluster.nodes if node.key.public == key)


def by_member(cluster: Cluster, member: int) -> SimulatedNode:
    key = cluster.nodes[0].replica.engine.validators.keys[member]
    return next(node for node in cluster.nodes if node.key.public == key)


def tap(cluster: Cluster, see: Callable[[SimulatedNode, bytes, Kind, bytes], bool]) -> None:
    """Let `see` look at every frame sent; it says whether the frame may pass."""
    transmit = cluster.transmit

    def watched(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> None:
        if see(sender, key, kind, payload):
            transmit(sender, key, kind, payload)

    cluster.transmit = watched  # type: ignore[method-assign]


def signed_by(cluster: Cluster, node: SimulatedNode, message: object) -> object:
    from consensus.messages import signed

    return signed(message, lambda text: cluster.signer.sign(node.key.public, text), cluster.genesis.chain_id)


def test_every_claim_has_one_test() -> None:
    text = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()
    claims = {int(number) for number in re.findall(r"\*\*\(C(\d+)\)\*\*", text)}
    tests = Counter(int(found.group(1)) for name in globals() if (found := re.match(r"test_c(\d+)_", name)))
    assert claims == set(tests)
    assert set(tests.values()) == {1}


@pytest.mark.parametrize("n", [*range(4, 14)])
def test_c1_quorums_intersect_and_the_honest_make_one(n: int) -> None:
    """Trap 1."""
    f = faulty_max(n)
    assert 2 * quorum(n) - n >= f + 1
    assert n - f >= quorum(n)
    cluster = cluster_of(n)
    for node in cluster.nodes[:f]:
        node.crash()
    commit(cluster)


def test_c2_a_signature_is_valid_for_one_statement_only() -> None:
    """Trap 41."""
    cluster = cluster_of()
    node = cluster.nodes[0]
    validators = node.replica.engine.validators
    member = validators.index(node.key.public)
    assert member is not None
    vote = signed_by(cluster, node, Vote(0, 0, 1, Phase.PREPARE, cluster.genesis.chain_id, member))
    assert isinstance(vote, Vote)
    verifier = Verifier(cluster.genesis.chain_id, cluster.signer.check)
    assert verifier.message(vote, validators) is not None
    as_commit = Vote(0, 0, 1, Phase.COMMIT, vote.digest, member, vote.signature)
    other_height = Vote(0, 0, 2, Phase.PREPARE, vote.digest, member, vote.signature)
    assert verifier.message(as_commit, validators) is None
    assert verifier.message(other_height, validators) is None
    assert Verifier(b"\x01" + bytes(32), cluster.signer.check).message(vote, validators) is None


def test_c3_the_same_seed_gives_the_same_run() -> None:
    def trace() -> list[tuple[int, bytes]]:
        cluster = cluster_of(seed=5, loss=5, duplication=5, delay_ms=(1, 50))
        cluster.run(5_000)
        commit(cluster, 5)
        return [(cluster.deliveries, cluster.blocks[height]) for height in sorted(cluster.blocks)]

    assert trace() == trace()


def test_c4_a_member_prepares_only_what_it_holds_durably() -> None:
    cluster = cluster_of()
    late = next(node for node in cluster.nodes if node is not leader_of(cluster))
    late_key = late.key.public
    tap(cluster, lambda sender, key, kind, payload: not (key == late_key and kind in (Kind.BATCH, Kind.BATCH_RESPONSE)))
    votes: list[Vote] = []

    def note(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        if sender is late and kind is Kind.VOTE:
            message = decode_message(payload)
            if isinstance(message, Vote):
                votes.append(message)
        return True

    tap(cluster, note)
    tx_id = cluster.transfer(at=leader_of(cluster).index)
    cluster.run(300)
    assert leader_of(cluster).replica.store.receipt(tx_id) is not None
    assert not [vote for vote in votes if vote.height == 1]
    others = [node for node in cluster.nodes if node is not late]
    logged = [kind for node in others for kind, _, _ in node.log]
    assert logged.index(RecordKind.BATCH) < logged.index(RecordKind.VOTES) or RecordKind.BATCH in logged


def test_c5_overload_is_refused_and_said() -> None:
    """Trap 38."""
    pool = BatchPool(PoolConfig(backlog_min=3))
    key, chain = key_of(0), b"\x01" + bytes(32)
    transactions = [
        Transaction.create(key, chain, "x.y", (), nonce=i.to_bytes(16, "big"), valid_until=9) for i in range(4)
    ]
    for tx in transactions[:3]:
        assert pool.submit(tx, 0)
    with pytest.raises(Reject) as refused:
        pool.submit(transactions[3], 0)
    assert refused.value.code is Code.POOL_FULL


def test_c6_a_transaction_in_two_batches_is_executed_once() -> None:
    cluster = cluster_of()
    tx_id = cluster.transfer(at=0)
    pending = cluster.nodes[0].replica.pool
    tx = pending._open[0] if pending._open else pending.held()[0].transactions[0]
    for node in cluster.nodes[1:]:
        node.replica.submit(tx)
    assert cluster.run(10_000, lambda: cluster.final_everywhere([tx_id]))
    cluster.run(3_000)
    codes = [
        receipt.code
        for height in range(1, cluster.nodes[0].replica.store.tip.height + 1)
        for receipt in cluster.nodes[0].replica.store.receipts(height)
        if receipt.tx_id == tx_id
    ]
    assert codes.count(0) == 1
    assert set(codes) <= {0, Code.REPLAYED}


def test_c7_nothing_is_sent_before_it_is_durable() -> None:
    """Trap 20: with a disk that never syncs, no vote leaves; the chain stands still."""
    cluster = cluster_of(fsync_ms=(1, 1))
    sent: list[object] = []

    def note(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        if kind is Kind.VOTE:
            message = decode_message(payload)
            sent.append((message, sender.durable))
            if isinstance(message, Vote | PrePrepare | ViewChange):
                durable = b"".join(body for kind_, _, body in sender.log[: sender.durable] if kind_ is RecordKind.VOTES)
                assert encode_message(message) in durable
        return True

    tap(cluster, note)
    commit(cluster, 3)
    assert sent
    cluster.options.fsync_ms = (10**6, 10**6)
    sent.clear()
    cluster.transfer()
    cluster.run(5_000)
    assert not [message for message, _ in sent if isinstance(message, Vote | PrePrepare)]  # type: ignore[misc, has-type]


def test_c8_one_vote_a_height_and_phase_across_restarts() -> None:
    cluster = cluster_of(seed=3, loss=5, delay_ms=(1, 60), fsync_ms=(1, 40))
    voted: dict[tuple[int, int, int, int, Phase], bytes] = {}

    def note(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        if kind is Kind.VOTE:
            message = decode_message(payload)
            vote = message.vote if isinstance(message, PrePrepare) else message
            if isinstance(vote, Vote):
                place = (sender.index, vote.epoch, vote.view, vote.height, vote.phase)
                assert voted.setdefault(place, vote.digest) == vote.digest
        return True

    tap(cluster, note)
    for step in range(30):
        cluster.transfer()
        cluster.run(137)
        node = cluster.nodes[step % 4]
        node.crash()
        cluster.run(53)
        node.boot()
    commit(cluster)
    assert len(voted) > 50


def test_c9_blocks_are_delivered_in_order_whatever_order_they_were_decided_in() -> None:
    """Trap 17."""
    cluster = cluster_of(seed=2, delay_ms=(1, 120))
    order: dict[int, list[int]] = {}
    applied = cluster.on_applied

    def note(node: SimulatedNode, block: object, result: object, root: object) -> None:
        order.setdefault(node.index, []).append(block.height)  # type: ignore[attr-defined]
        applied(node, block, result, root)  # type: ignore[arg-type]

    cluster.on_applied = note  # type: ignore[assignment, method-assign]
    for _ in range(20):
        cluster.transfer()
        cluster.run(20)
    commit(cluster)
    assert all(heights == list(range(1, len(heights) + 1)) for heights in order.values())
    store = cluster.nodes[0].replica.store
    headers = [store.header(height) for height in range(1, store.tip.height + 1)]
    hashes = [header.hash(cluster.genesis.chain_id) for header in headers if header is not None]
    assert [header.parent_hash for header in headers if header is not None][1:] == hashes[:-1]


class Quiet:
    """A chain that was idle for long enough to be sealed, and a member that is offered proposals."""

    def __init__(self) -> None:
        self.cluster = cluster_of()
        self.leader = leader_of(self.cluster)
        self.other, self.victim = [node for node in self.cluster.nodes if node is not self.leader][:2]
        commit(self.cluster)
        self.cluster.run(520)  # in as long again the leader seals it
        self.next = max(self.cluster.heights()) + 1
        self.now_ms = WALL_MS + self.cluster.now_ms

    def offer(self, node: SimulatedNode, proposal: Proposal) -> int:
        """For how many heights the member votes then."""
        member = self.victim.replica.engine.validators.index(node.key.public)
        assert member is not None
        vote = signed_by(self.cluster, node, Vote(0, 0, proposal.height, Phase.PREPARE, proposal.digest, member))
        assert isinstance(vote, Vote)
        self.victim.replica.on_frame(node.key.public, Kind.VOTE, encode_message(PrePrepare(proposal, vote)))
        self.cluster.run(50)
        slots = self.victim.replica.engine.slots.values()
        return sum(slot.own_prepare is not None and slot.height >= self.next for slot in slots)

    def seal(self, height: int, later_ms: int = 0) -> Proposal:
        return Proposal(height, self.now_ms + later_ms, (), seal=True)


def test_c10_proposals_of_others_out_of_the_log_of_another_time_or_no_use_are_refused() -> None:
    """Trap 44."""
    quiet = Quiet()
    assert quiet.offer(quiet.leader, quiet.seal(quiet.next, 3_600_000)) == 0
    quiet = Quiet()
    leader = quiet.leader
    assert quiet.offer(quiet.other, quiet.seal(quiet.next)) == 0
    assert quiet.offer(leader, quiet.seal(quiet.next + QUICK.log_window)) == 0
    assert quiet.offer(leader, Proposal(quiet.next + 1, quiet.now_ms, ())) == 0  # empty, and for no reason
    assert quiet.offer(leader, quiet.seal(quiet.next + 2)) == 0  # of blocks that are not there
    assert quiet.offer(leader, quiet.seal(quiet.next)) == 1
    assert quiet.offer(leader, quiet.seal(quiet.next, 1)) == 1
    assert quiet.cluster.evidence


def test_c11_certificates_are_sets_and_one_bad_signature_spoils_one() -> None:
    """Trap 43."""
    cluster = cluster_of()
    commit(cluster)
    hashes = {node.replica.store.tip.block_hash for node in cluster.nodes}
    assert len(hashes) == 1
    block = cluster.nodes[0].replica.store.block(1)
    assert block is not None
    validators = cluster.nodes[0].replica.engine.validators
    verifier = Verifier(cluster.genesis.chain_id, cluster.signer.check)
    good = block.certificate
    assert verifier.certificate(good, validators) is not None
    padded = (*good.signatures, (3, b"\x01" + bytes(64)))
    bad = [tuple(sorted(set(padded))), (good.signatures[0],) * 3, tuple(reversed(good.signatures)), good.signatures[:2]]
    for signatures in bad:
        twin = Certificate(good.epoch, good.view, good.height, good.phase, good.digest, signatures)
        assert twin.signatures == good.signatures or verifier.certificate(twin, validators) is None


def test_c12_an_idle_chain_is_sealed_once_and_then_silent() -> None:
    cluster = cluster_of()
    commit(cluster)
    cluster.run(5_000)
    height = cluster.nodes[0].replica.store.tip.height
    assert all(node.replica.engine.checkpoints.stable == height for node in cluster.nodes)
    cluster.run(120_000)
    assert cluster.heights() == [height] * 4
    assert all(node.replica.engine.view == 0 for node in cluster.nodes)


def test_c13_one_member_alone_never_leaves_and_returns_to_the_view_of_the_others() -> None:
    """A member cut off for a long time rejoins without a restart (SIMULATION.md, scenario 5)."""
    cluster = cluster_of()
    commit(cluster)
    lone = next(node for node in cluster.nodes if node is not leader_of(cluster))
    rest = {node.index for node in cluster.nodes if node is not lone}
    cluster.partition(rest, {lone.index})
    cluster.transfer(at=lone.index)
    cluster.transfer(at=min(rest))
    cluster.run(300_000)
    assert lone.replica.engine.view == 0
    cluster.heal()
    commit(cluster)
    assert {node.replica.engine.view for node in cluster.nodes} == {0}
    victim = next(node for node in cluster.nodes if node.index in rest and node is not leader_of(cluster))
    victim.crash()
    commit(cluster, at=lone.index)  # so the returned one votes again: it is needed now


def test_c14_f_plus_one_view_changes_draw_a_member_along_one_does_not() -> None:
    """Trap 10."""
    cluster = cluster_of()
    target = cluster.nodes[0]
    others = [node for node in cluster.nodes if node is not target]

    def view_change(node: SimulatedNode, view: int) -> None:
        member = target.replica.engine.validators.index(node.key.public)
        assert member is not None
        change = signed_by(cluster, node, ViewChange(0, view, None, (), member))
        target.replica.on_frame(node.key.public, Kind.VOTE, encode_message(change))  # type: ignore[arg-type]

    view_change(others[0], 9)
    assert target.replica.engine.view == 0
    view_change(others[1], 7)
    assert target.replica.engine.view == 7


def test_c15_views_stand_still_without_a_quorum_and_the_chain_heals_after_an_hour() -> None:
    """Trap 12."""
    cluster = cluster_of()
    commit(cluster)
    cluster.partition({0, 1}, {2, 3})
    for index in (0, 2):
        cluster.transfer(at=index)
    cluster.run(3_600_000)
    assert max(node.replica.engine.view for node in cluster.nodes) == 0
    cluster.heal()
    began_ms = cluster.now_ms
    commit(cluster, within_ms=QUICK.view_timeout_ms_max + 2_000)
    assert cluster.now_ms - began_ms <= QUICK.view_timeout_ms_max + 2_000


@pytest.mark.parametrize("seed", range(8))
def test_c16_what_one_committed_is_never_replaced(seed: int) -> None:
    """Trap 6: commits reach one member only, then it and the leader's view are gone."""
    cluster = cluster_of(seed=seed)
    lucky = next(node for node in cluster.nodes if node is not leader_of(cluster))
    lucky_key = lucky.key.public

    def only_to_lucky(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        if kind is Kind.VOTE and key != lucky_key:
            message = decode_message(payload)
            return not (isinstance(message, Vote) and message.phase is Phase.COMMIT)
        return kind not in (Kind.BLOCK_RESPONSE,)

    transmit = cluster.transmit
    tap(cluster, only_to_lucky)
    tx_id = cluster.transfer(at=lucky.index)
    assert cluster.run(900, lambda: lucky.replica.store.receipt(tx_id) is not None)
    decided = lucky.replica.store.block(1)
    assert decided is not None
    lucky.crash()
    cluster.transmit = transmit  # type: ignore[method-assign]
    commit(cluster)
    again = next(node for node in cluster.nodes if node.alive).replica.store.block(1)
    assert again is not None
    assert again.proposal.digest == decided.proposal.digest
    lucky.boot()
    commit(cluster)


def test_c17_gaps_are_filled_with_null() -> None:
    """Trap 16."""
    cluster = cluster_of(seed=4)
    leader = leader_of(cluster)

    def lose_height_one(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        if kind is Kind.VOTE:
            message = decode_message(payload)
            vote = message.vote if isinstance(message, PrePrepare) else message
            if isinstance(vote, Vote):
                return not (vote.view == 0 and (vote.height == 1 or vote.phase is Phase.COMMIT))
        return True

    tap(cluster, lose_height_one)
    first = cluster.transfer(at=leader.index)
    cluster.run(40)
    second = cluster.transfer(at=leader.index)
    cluster.run(100)
    locked = [sorted(h for h, slot in node.replica.engine.slots.items() if slot.prepared) for node in cluster.nodes]
    assert [2] in locked
    assert cluster.run(30_000, lambda: cluster.final_everywhere([first, second]))
    block = cluster.nodes[0].replica.store.block(1)
    assert block is not None
    assert block.proposal == Proposal.null(1)


def test_c18_a_new_view_is_recomputed_not_believed() -> None:
    """Trap 7."""
    cluster = cluster_of()
    validators = cluster.nodes[0].replica.engine.validators
    target = by_member(cluster, 0)
    changes = []
    for member in (1, 2, 3):
        change = signed_by(cluster, by_member(cluster, member), ViewChange(0, 1, None, (), member))
        assert isinstance(change, ViewChange)
        changes.append(change)
    verifier = Verifier(cluster.genesis.chain_id, cluster.signer.check)

    def new_view(items: tuple[ViewChange, ...], member: int) -> NewView:
        message = signed_by(cluster, by_member(cluster, member), compose(items, 0, member))
        assert isinstance(message, NewView)
        return message

    assert verifier.message(new_view(tuple(changes), 1), validators) is not None
    assert verifier.message(new_view(tuple(changes), 2), validators) is None
    assert verifier.message(new_view(tuple(changes[:2]), 1), validators) is None
    assert verifier.message(new_view((changes[0],) * 3, 1), validators) is None
    forged = ViewChange(0, 1, None, (), 3, changes[0].signature)
    assert verifier.message(new_view((changes[0], changes[1], forged), 1), validators) is None
    choice = choose(new_view(tuple(changes), 1), 0)
    assert choice is not None
    assert choice.proposals == ()
    target.replica.on_frame(by_member(cluster, 1).key.public, Kind.VOTE, encode_message(new_view(tuple(changes), 1)))
    assert target.replica.engine.view == 1


def test_c19_a_lost_new_view_costs_one_patience() -> None:
    """Trap 15."""
    cluster = cluster_of()
    leader_of(cluster).crash()
    lost: list[int] = []

    def lose_first(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        if kind is Kind.VOTE:
            message = decode_message(payload)
            if isinstance(message, NewView) and message.view == 1:
                lost.append(message.view)
                return False
        return True

    tap(cluster, lose_first)
    commit(cluster, within_ms=10_000)
    assert lost
    assert max(node.replica.engine.view for node in cluster.nodes if node.alive) == 2


def test_c20_a_decision_learned_while_changing_views_counts() -> None:
    """Traps 14, 25."""
    cluster = cluster_of()
    lagging = next(node for node in cluster.nodes if node is not leader_of(cluster))
    rest = {node.index for node in cluster.nodes if node is not lagging}
    cluster.partition(rest, {lagging.index})
    commit_ids = [cluster.transfer(at=min(rest)) for _ in range(3)]
    cluster.run(3_000)
    donor = cluster.nodes[min(rest)].replica
    engine = lagging.replica.engine
    signatures = []
    for member in range(3):
        suspect = signed_by(cluster, by_member(cluster, member), Suspect(0, 0, member))
        assert isinstance(suspect, Suspect)
        signatures.append((member, suspect.signature))
    lagging.replica._step(Received(Verified(TimeoutCertificate(0, 0, tuple(signatures)))))
    assert engine.changing
    block = donor.store.block(1)
    assert block is not None
    for batch in block.batches:
        lagging.replica._synced[batch.digest] = batch
    lagging.replica._step(Certified(block.proposal, Verified(block.certificate)))
    assert lagging.replica.store.tip.height == 1
    cluster.heal()
    assert cluster.run(20_000, lambda: cluster.final_everywhere(commit_ids))
    commit(cluster)
    assert not engine.changing


def test_c21_a_quorum_of_equal_checkpoint_votes_shortens_the_log() -> None:
    cluster = cluster_of()
    for _ in range(QUICK.checkpoint_interval + 2):
        commit(cluster)
    engine = cluster.nodes[0].replica.engine
    assert engine.checkpoints.stable >= QUICK.checkpoint_interval
    assert min(engine.slots, default=10**9) > engine.checkpoints.stable
    certificate = engine.checkpoints.certificate
    assert certificate is not None
    assert len(certificate.signatures) >= engine.validators.quorum
    assert len({node.replica.store.state_root(certificate.height) for node in cluster.nodes}) == 1


def test_c22_a_member_that_differs_from_a_certified_root_stops() -> None:
    """Trap 31."""
    cluster = cluster_of()
    odd = cluster.nodes[2]
    commit_block = odd.replica.store.commit

    def wrong(block: object, result: object, **more: object) -> bytes | None:
        root = commit_block(block, result, **more)  # type: ignore[arg-type]
        return None if root is None else b"\x01" + bytes(32)

    odd.replica.store.commit = wrong  # type: ignore[method-assign]
    stopped: list[int] = []
    odd.diverged = lambda height, own, certified: stopped.append(height)  # type: ignore[method-assign]
    cluster.on_applied = lambda *arguments: None  # type: ignore[method-assign]
    cluster.transfer()
    cluster.run(10_000)
    assert stopped
    assert odd.replica.engine.halted
    height = odd.replica.store.tip.height
    cluster.transfer(at=0)
    cluster.run(5_000)
    assert odd.replica.store.tip.height == height
    assert cluster.nodes[0].replica.store.tip.height > height


def membership(cluster: Cluster, add: tuple[bytes, ...], remove: tuple[bytes, ...]) -> None:
    """Propose and approve a change of validators."""
    validators = next(node.replica.engine.validators for node in cluster.nodes if node.alive)
    voters = [node for node in cluster.nodes if validators.index(node.key.public) is not None]

    def send(node: SimulatedNode, operation: ProposeValidators | GovernanceVote) -> bytes:
        tx_id = cluster.submit(voters[0], node.index, operation.NAME, operation.to_fields(), 500)
        assert cluster.run(10_000, lambda: cluster.final_everywhere([tx_id]))
        receipt = voters[0].replica.store.receipt(tx_id)
        assert receipt is not None
        assert receipt.ok
        return tx_id

    statement = join_statement(cluster.genesis.chain_id, VALIDATORS)
    pairs = {node.key.public: node.key for node in cluster.nodes}
    proposal = send(voters[0], ProposeValidators(add, remove, tuple(pairs[key].sign(statement) for key in add)))
    for node in voters[1 : validators.quorum]:
        send(node, GovernanceVote(proposal, True))


def test_c23_nothing_is_in_flight_across_an_epochs_end() -> None:
    """Trap 3."""
    cluster = cluster_of(followers=1)
    joining = cluster.nodes[4]
    membership(cluster, (joining.key.public,), ())
    end = cluster.nodes[0].replica.engine.epoch_end
    assert end is not None
    assert cluster.run(60_000, lambda: min(cluster.heights()) >= end)
    commit(cluster, 3)
    for node in cluster.nodes:
        for height in range(1, node.replica.store.tip.height + 1):
            block = node.replica.store.block(height)
            assert block is not None
            assert block.certificate.epoch == (0 if height <= end else 1)
    assert joining.replica.engine.me is not None


def test_c24_votes_count_against_the_set_of_their_height_only() -> None:
    """Trap 3: a removed member's votes are worth nothing afterwards."""
    cluster = cluster_of(5)
    leaving = leader_of(cluster)
    membership(cluster, (), (leaving.key.public,))
    end = cluster.nodes[0].replica.engine.epoch_end
    assert end is not None
    assert cluster.run(60_000, lambda: min(cluster.heights()) >= end)
    commit(cluster)
    assert leaving.replica.engine.me is None
    others = [node for node in cluster.nodes if node is not leaving]
    others[0].crash()
    others[1].crash()
    cluster.transfer(at=others[2].index)
    height = others[2].replica.store.tip.height
    cluster.run(20_000)
    assert others[2].replica.store.tip.height == height  # two of four and a former member are no quorum
    others[0].boot()
    commit(cluster)


def test_c25_lost_messages_are_made_good() -> None:
    cluster = cluster_of(seed=9, loss=40)
    for _ in range(5):
        commit(cluster, within_ms=120_000)
    engine = cluster.nodes[0].replica.engine
    member = engine.validators.index(cluster.nodes[1].key.public)
    assert member is not None
    moved = Status(0, engine.view, engine.changing, engine.delivered, engine.checkpoints.stable)
    effects = engine.step(PeerStatus(member, moved), cluster.now_ms, WALL_MS)
    assert not [effect for effect in effects if type(effect).__name__ == "Send"]


def test_c26_blocks_from_peers_are_checked_and_liars_are_left() -> None:
    """Trap 27."""
    cluster = cluster_of(followers=1, seed=6)
    follower = cluster.nodes[4]
    lying = cluster.nodes[0]
    real = lying.replica.store.block_wires

    def lie(height: int) -> bytes | None:
        wire = real(height)
        return None if wire is None else wire[:-40] + bytes(40)

    lying.replica.store.block_wires = lie  # type: ignore[method-assign]
    for _ in range(4):
        commit(cluster, within_ms=120_000)
    assert follower.replica.store.tip.block_hash == cluster.nodes[1].replica.store.tip.block_hash


def test_c27_all_members_restarted_at_once_go_on_from_their_disks() -> None:
    """Traps 23, 24."""
    cluster = cluster_of(seed=7)
    leader_of(cluster).crash()
    ids = commit(cluster, 3)
    views = {node.replica.engine.view for node in cluster.nodes if node.alive}
    for node in cluster.nodes:
        if node.alive:
            node.crash()
    for node in cluster.nodes:
        node.boot()
    assert max(node.replica.engine.view for node in cluster.nodes) >= max(views)
    assert cluster.run(30_000, lambda: cluster.final_everywhere(ids))
    commit(cluster)


def test_c28_far_votes_and_views_take_no_memory() -> None:
    """Trap 33."""
    cluster = cluster_of()
    target, hostile = cluster.nodes[0], cluster.nodes[1]
    member = target.replica.engine.validators.index(hostile.key.public)
    assert member is not None
    digest = cluster.genesis.chain_id
    for number in range(3_000):
        far = Vote(0, number, 10**9 + number, Phase.PREPARE, digest, member)
        ahead = Vote(0, 2**62 + number, 1 + number % 50, Phase.COMMIT, digest, member)
        change = ViewChange(0, 10 + number, None, (), member)
        for message in (far, ahead, change, Suspect(0, number, member)):
            signed_message = signed_by(cluster, hostile, message)
            target.replica._step(Received(Verified(signed_message)))  # type: ignore[arg-type]
    sizes = target.replica.engine.table_sizes()
    assert sizes["slots"] == 0
    assert sizes["future"] <= 256
    assert sizes["view_changes"] <= 4
    assert sizes["suspects"] <= 4
    target.replica._step(Fired(Timer.STATUS))
    commit(cluster)


def slow_leader(cluster: Cluster, bad: SimulatedNode, served: Callable[[SimulatedNode], bool], gap_ms: int) -> None:
    """The proposals of one leader leave it one after the other, `gap_ms` apart, and to some members only."""
    transmit, due_ms = cluster.transmit, {-1: 0}

    def late(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> None:
        message = decode_message(payload) if kind is Kind.VOTE and sender is bad else None
        receiver = cluster.node_of(key)
        if not isinstance(message, PrePrepare) or message.member != bad.replica.engine.me or receiver is None:
            transmit(sender, key, kind, payload)
        elif served(receiver):
            height = message.proposal.height
            if height not in due_ms:
                due_ms[height] = max(cluster.now_ms, *due_ms.values()) + gap_ms
            cluster.later(sender, due_ms[height] - cluster.now_ms, lambda: transmit(sender, key, kind, payload))

    cluster.transmit = late  # type: ignore[method-assign]


def views(cluster: Cluster) -> set[int]:
    return {node.replica.engine.view for node in cluster.nodes if node.alive}


def keep_busy(cluster: Cluster, duration_ms: int, every_ms: int = 300) -> list[bytes]:
    ids: list[bytes] = []
    for _ in range(duration_ms // every_ms):
        ids.append(cluster.transfer())
        cluster.run(every_ms)
    return ids


def test_c29_a_leader_just_under_the_limit_is_replaced() -> None:
    """Trap 18. More of this in tests/consensus/test_leaders.py."""
    cluster = cluster_of()
    slow_leader(cluster, leader_of(cluster), lambda receiver: True, 900)
    keep_busy(cluster, 40_000, 1_000)
    assert views(cluster) == {1}


def test_c30_a_leader_that_serves_a_part_of_the_members_stalls_nobody() -> None:
    """Trap 18."""
    cluster = cluster_of(seed=3)
    bad = leader_of(cluster)
    unserved = next(node for node in cluster.nodes if node is not bad)
    slow_leader(cluster, bad, lambda receiver: receiver is not unserved, 0)
    ids = keep_busy(cluster, 10_000)
    assert cluster.run(3_000, lambda: cluster.final_everywhere(ids))


def test_c31_where_every_leader_is_slow_views_settle() -> None:
    """Trap 12."""
    cluster = Cluster(4, Options(delay_ms=(500, 520), parameters=Parameters()))
    keep_busy(cluster, 120_000, 4_000)
    settled = views(cluster)
    assert len(settled) == 1
    assert max(settled) <= 6
    keep_busy(cluster, 120_000, 4_000)
    assert views(cluster) == settled


def test_c32_what_was_signed_binds_a_member_whose_store_lost_the_epochs_beginning() -> None:
    """Traps 20, 24. Its log has votes of an epoch that its store, after a power cut, has yet to reach."""
    cluster = cluster_of(followers=1)
    membership(cluster, (cluster.nodes[4].key.public,), ())
    end = cluster.nodes[0].replica.engine.epoch_end
    assert end is not None
    assert cluster.run(60_000, lambda: min(cluster.heights()) >= end)
    block = cluster.nodes[1].replica.store.block(end)
    assert block is not None
    signers = [cluster.genesis.validator_set.keys[member] for member, _ in block.certificate.signatures]
    node = next(node for node in cluster.nodes[:4] if node.key.public not in signers)
    engine = node.replica.engine
    assert engine.validators.epoch == 1
    assert engine.me is not None
    digest = cluster.genesis.chain_id
    own = signed_by(cluster, node, Vote(1, 0, end + 1, Phase.PREPARE, digest, engine.me))
    assert isinstance(own, Vote)
    tip = replace(node.replica.store.tip, epoch_end=end, validators=cluster.genesis.validator_set, height=end - 1)
    sign: Callable[[bytes], bytes] = lambda text: cluster.signer.sign(node.key.public, text)  # noqa: E731
    again = Engine(EngineConfig(cluster.genesis.chain_id, node.key.public, QUICK), sign, tip, None)
    again.restore([own], [])
    again.start(0)
    assert again.validators.epoch == 0
    again.step(Certified(block.proposal, Verified(block.certificate)), 1, WALL_MS)
    again.step(Applied(end, digest, digest, None, None, engine.validators), 2, WALL_MS)
    assert again.validators.epoch == 1
    slot = again.slots[end + 1]
    assert slot.own_prepare == own
    other = Proposal(end + 1, WALL_MS, (digest,))
    leader = by_member(cluster, engine.validators.leader(0))
    leader_member = engine.validators.leader(0)
    vote = signed_by(cluster, leader, Vote(1, 0, end + 1, Phase.PREPARE, other.digest, leader_member))
    assert isinstance(vote, Vote)
    before = dict(again.ignored)
    again.step(Received(Verified(PrePrepare(other, vote))), 3, WALL_MS)
    assert again.ignored != before or leader_member == engine.me
    assert slot.own_prepare == own


def test_c33_the_largest_new_view_fits_its_frame() -> None:
    """Trap 37. Built and encoded in tests/consensus/test_messages.py; here, that no chain can have a longer log."""
    longest = Parameters(log_window=LOG_WINDOW_MAX)
    assert not longest.problems()
    assert Parameters(log_window=LOG_WINDOW_MAX + 1).problems()
    test_messages.test_the_largest_view_change_and_the_largest_new_view_fit_a_frame()


def test_c34_every_kind_of_contradiction_makes_one_evidence() -> None:
    """Trap 48."""
    digests = [bytes([1, number]) + bytes(31) for number in (1, 2)]
    for offence in Offence:
        cluster = cluster_of()
        target, culprit = by_member(cluster, 0), by_member(cluster, 1)
        changes: list[ViewChange] = []
        for member in range(4):
            change = signed_by(cluster, by_member(cluster, member), ViewChange(0, 1, None, (), member))
            assert isinstance(change, ViewChange)
            changes.append(change)
        block = Proposal(1, WALL_MS, (digests[0],))
        lock = Prepared(block, Certificate(0, 0, 1, Phase.PREPARE, block.digest, ()))
        pairs: dict[Offence, list[object]] = {
            Offence.VOTE: [Vote(0, 0, 1, Phase.COMMIT, digest, 1) for digest in digests],
            Offence.CHECKPOINT: [CheckpointVote(0, 10, digest, digest, digest, 1) for digest in digests],
            Offence.VIEW_CHANGE: [ViewChange(0, 1, None, locks, 1) for locks in ((), (lock,))],
            Offence.NEW_VIEW: [compose(changes[:3], 0, 1), compose(changes[1:], 0, 1)],
        }
        messages = [signed_by(cluster, culprit, message) for message in pairs[offence]]
        found = []
        for message in (*messages, *messages):
            verified = Verified(message)
            effects = target.replica.engine.step(Received(verified), cluster.now_ms, WALL_MS)  # type: ignore[arg-type]
            found += [effect.proof for effect in effects if isinstance(effect, Evidence)]
        assert len(found) == 1, offence
        validators = target.replica.engine.validators
        guilty = check_evidence(cluster.genesis.chain_id, validators, found[0].wire, cluster.signer.check)
        assert (guilty.key, guilty.offence) == (culprit.key.public, offence)


def test_c35_nothing_an_honest_member_signs_convicts_it() -> None:
    """Trap 48. All that members with power cuts, losses and view changes ever say, compared with all else they said."""
    cluster = cluster_of(seed=8, loss=10, duplication=10, delay_ms=(1, 60), fsync_ms=(1, 40))
    said: dict[tuple[bytes, Offence, int, tuple[int, ...]], dict[tuple[bytes, ...], bytes]] = {}

    def note(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        message = decode_message(payload) if kind is Kind.VOTE else None
        if message is not None and not isinstance(message, TimeoutCertificate | Status):
            statement = read(message)
            if statement is not None:
                offence, epoch, member, place, half = statement
                author = cluster.nodes[0].replica.engine.validators.keys[member]
                said.setdefault((author, offence, epoch, place), {})[half.content] = half.signature
        return True

    tap(cluster, note)
    for step in range(40):
        cluster.transfer()
        cluster.run(137)
        node = cluster.nodes[step % 4]
        node.crash()
        cluster.transfer()  # what a leader who is down does not order
        cluster.run(2_500 if step % 5 == 0 else 53)
        node.boot()
    commit(cluster)
    assert {offence for _, offence, _, _ in said} == set(Offence)
    assert all(len(contents) == 1 for contents in said.values())
    assert not cluster.evidence


def test_after_an_hour_with_half_of_the_members_down_and_a_restart_of_all_the_chain_goes_on_from_disks_alone() -> None:
    """Traps 12, 23. Half of them lose power, an hour passes, they return; then all lose power at one moment."""
    cluster = cluster_of(seed=12)
    commit(cluster)
    for node in cluster.nodes[:2]:
        node.crash()
    waiting = [cluster.transfer(at=2), cluster.transfer(at=3)]
    cluster.run(3_600_000)
    assert max(views(cluster)) == 0
    for node in cluster.nodes[:2]:
        node.boot()
    limit_ms = QUICK.view_timeout_ms_max + 2_000
    assert cluster.run(limit_ms, lambda: cluster.final_everywhere(waiting))
    for node in cluster.nodes:
        node.crash()
    cluster.run(1_000)
    for node in cluster.nodes:
        node.boot()
    commit(cluster, within_ms=limit_ms)
    assert cluster.final_everywhere(waiting)


def test_one_that_returns_to_a_halted_chain_lets_it_go_on_though_the_leader_is_still_gone() -> None:
    """It had no work of its own: those who wait must show it theirs, or there is no quorum to leave the view."""
    cluster = cluster_of(seed=11)
    commit(cluster)
    leader = leader_of(cluster)
    other = next(node for node in cluster.nodes if node is not leader)
    leader.crash()
    other.crash()
    waiting = [cluster.transfer(at=node.index) for node in cluster.nodes if node.alive]
    cluster.run(60_000)
    other.boot()
    assert cluster.run(4_000, lambda: cluster.final_everywhere(waiting))


def test_batches_are_one_decode_for_everyone() -> None:
    """A batch is accepted or refused as a whole, alike on every node (section 2)."""
    cluster = cluster_of()
    tx_id = cluster.transfer(at=0)
    cluster.run(200)
    store = cluster.nodes[3].replica.store
    place = store.transaction(tx_id)
    assert place is not None
    block = store.block(place[0])
    assert block is not None
    assert all(Batch.decode(batch.wire).digest == batch.digest for batch in block.batches)


def test_c36_a_key_whose_votes_are_forgotten_signs_nothing_more() -> None:
    """Trap 20. A member is started from a copy of its folder that is some blocks old; then again."""
    cluster = cluster_of(4, seed=36)
    node = by_member(cluster, 2)
    commit(cluster, 3)
    older = node.disk.copy()
    for _ in range(12):  # blocks of their own, so that some certificate names it
        commit(cluster)
    forgotten: list[int] = []
    node.key_forgotten = forgotten.append  # type: ignore[method-assign]
    node.crash(power=False)
    node.disk = older
    node.boot()
    assert cluster.run(5_000, lambda: bool(forgotten))
    assert node.replica.engine.me is None
    said = set(node.said)
    commit(cluster, 3)
    node.crash(power=False)
    node.boot()
    assert node.replica.engine.me is None
    commit(cluster, 3)
    assert set(node.said) == said
    assert len(forgotten) == 1


def is_closed(cluster: Cluster) -> bool:
    return all(node.replica.store.unclosed_epoch() is None for node in cluster.nodes)


def checkpoint_height(kind: Kind, payload: bytes) -> int | None:
    """Of a checkpoint vote or certificate that travels."""
    if kind is Kind.CERTIFIED:
        return CheckpointCertificate.from_value(decode(payload, size_bytes_max=1 << 20)).height
    message = decode_message(payload) if kind is Kind.VOTE else None
    return message.height if isinstance(message, CheckpointVote) else None


def withhold_closing(cluster: Cluster) -> list[int]:
    """Lose, from now on, what would certify the end of the first epoch that ends; its height, once it is known."""
    ends: list[int] = []

    def passes(_sender: SimulatedNode, _key: bytes, kind: Kind, payload: bytes) -> bool:
        end = cluster.nodes[1].replica.engine.epoch_end
        if not ends and end is not None:
            ends.append(end)
        return checkpoint_height(kind, payload) not in ends

    tap(cluster, passes)
    return ends


def test_c37_the_end_of_every_epoch_is_certified_at_every_node() -> None:
    """Trap 3. What would certify an epoch's last checkpoint is lost, then all members lose power; the next epoch cannot
    end before that is made good."""
    cluster = cluster_of(followers=1, seed=38)
    keys = [node.key.public for node in cluster.nodes]
    ends = withhold_closing(cluster)
    membership(cluster, (keys[4],), (keys[0],))
    assert cluster.run(60_000, lambda: all(node.replica.engine.validators.epoch == 1 for node in cluster.nodes[:4]))
    closing = ends[0]
    members = cluster.nodes[1:]
    commit(cluster, 2, at=1)
    membership(cluster, (keys[0],), (keys[4],))
    cluster.run(60_000)
    end = members[0].replica.engine.epoch_end
    assert end is not None
    assert all(node.replica.store.tip.height < end for node in cluster.nodes)
    assert all(node.replica.engine.unclosed == 0 for node in cluster.nodes)
    for node in cluster.nodes:
        node.crash()
    for node in cluster.nodes:
        node.boot()
    ends[0] = 0
    assert cluster.run(60_000, lambda: min(cluster.heights()) >= end and is_closed(cluster))
    assert all(node.replica.store.checkpoint(closing) for node in cluster.nodes)


def test_who_never_voted_for_the_end_of_an_epoch_votes_after_its_start() -> None:
    """Trap 20. Power fails everywhere when the epoch's last block is on disk and the votes for it are not."""
    cluster = cluster_of(followers=1, seed=39, fsync_ms=(60, 60))
    membership(cluster, (cluster.nodes[4].key.public,), (cluster.nodes[0].key.public,))
    assert cluster.run(60_000, lambda: all(node.replica.engine.validators.epoch for node in cluster.nodes[:4]))
    for node in cluster.nodes:
        node.kv.write((), (), sync=True)
        node.crash(power=True)
    closing = cluster.nodes[1].replica.store.tip.validators.first_height - 1
    durable = [decode_record(message) for node in cluster.nodes for message in node.durable_messages]
    assert not any(isinstance(vote, CheckpointVote) and vote.height == closing for vote in durable)
    for node in cluster.nodes:
        node.boot()
    assert cluster.run(10_000, lambda: is_closed(cluster))


def test_who_comes_by_many_epochs_at_once_asks_for_their_ends() -> None:
    """Trap 3."""
    cluster = cluster_of(followers=2, seed=40)
    late = cluster.nodes[5]
    late.crash()

    def are_in(nodes: list[SimulatedNode], epoch: int) -> bool:
        return all(node.replica.store.tip.validators.epoch == epoch for node in nodes)

    for epoch, (add, remove) in enumerate([(4, 0), (0, 4), (4, 0)], 1):
        membership(cluster, (cluster.nodes[add].key.public,), (cluster.nodes[remove].key.public,))
        assert cluster.run(60_000, partial(are_in, cluster.nodes[:5], epoch))
    late.boot()
    assert cluster.run(30_000, lambda: are_in([late], 3) and is_closed(cluster))


def test_the_key_that_replaces_a_forgotten_one_votes() -> None:
    """Trap 20. Rotated by the others, the member votes again."""
    cluster = cluster_of(4, followers=1, seed=37)
    node = by_member(cluster, 1)
    node.replica.store.mute(node.key.public)
    node.crash(power=False)
    node.boot()
    assert node.replica.engine.me is None
    membership(cluster, (cluster.nodes[4].key.public,), (node.key.public,))
    end = cluster.nodes[0].replica.engine.epoch_end
    assert end is not None
    assert cluster.run(60_000, lambda: min(cluster.heights()) >= end)
    assert cluster.nodes[4].replica.engine.me is not None
    commit(cluster, 2)


def test_c38_what_a_member_vouches_for_survives_its_power() -> None:
    """Trap 16. When a vote for a checkpoint leaves, a power cut would leave the blocks up to it in the store. That
    nobody votes below the checkpoint of a new view is in tests/simulation/test_below_base.py."""
    cluster = Cluster(38, Options(n=4, parameters=Parameters(checkpoint_interval=2)))
    cluster.run(100)
    vouched: set[tuple[int, int]] = set()

    def passes(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        message = decode_message(payload) if kind is Kind.VOTE else None
        if isinstance(message, CheckpointVote) and (sender.index, message.height) not in vouched:
            vouched.add((sender.index, message.height))
            assert ChainStore(sender.kv.crash(0)).tip.height >= message.height
        return True

    tap(cluster, passes)
    for _ in range(8):
        commit(cluster)
    cluster.run(500)
    assert {index for index, _ in vouched} == {0, 1, 2, 3}
    assert len(vouched) >= 12


def test_a_follower_of_a_busy_chain_hears_of_checkpoints_while_the_epoch_before_is_open_everywhere() -> None:
    """Who follows is always behind the very latest one, and needs one that it has come by, to prove and to prune."""
    parameters = Parameters(checkpoint_interval=2, window=4, log_window=16)
    cluster = Cluster(38, Options(n=4, followers=2, parameters=parameters))
    ends = withhold_closing(cluster)
    membership(cluster, (cluster.nodes[4].key.public,), (cluster.nodes[0].key.public,))
    assert cluster.run(60_000, lambda: all(node.replica.engine.validators.epoch == 1 for node in cluster.nodes))
    follower = cluster.nodes[5]
    cluster._trouble.update({(a, 5): (60, 0) for a in range(5)} | {(5, a): (60, 0) for a in range(5)})
    for _ in range(200):
        cluster.transfer(at=1)
        cluster.run(20)
    latest = follower.replica.store.latest_checkpoint()
    assert latest is not None
    assert latest.height > ends[0] + 4 * parameters.checkpoint_interval
