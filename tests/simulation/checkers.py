"""What must hold whatever happens, checked from outside the replicas after every event. Honest nodes only.

Each check is computed anew from docs/protocol.md, not by the product's own functions, where that is short enough.

Must not know: faults, time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.events import Evidence, Timer
from consensus.messages import (
    CheckpointVote,
    NewView,
    PrePrepare,
    Status,
    Suspect,
    TimeoutCertificate,
    ViewChange,
    Vote,
    decode_message,
    encode_message,
)
from consensus.sync import BUFFER_HEIGHTS_MAX
from ledger.block import Certificate, CertifiedBlock, CheckpointCertificate, Phase, Proposal
from ledger.errors import Code
from ledger.execution import BlockResult
from ledger.modules import payments
from ledger.state import state_key
from ledger.validators import ValidatorSet
from node.replica import UNEXECUTED_MAX
from p2p.frames import Kind

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.node import SimulatedNode

CHECK_SIZES_EVERY = 64  # events of a node between two looks at all of its tables


class Checkers:
    """The memory of all that honest nodes said and did in one run."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.blocks: dict[int, bytes] = {}
        self.results: dict[int, bytes] = {}
        self.roots: dict[int, bytes] = {}
        self.times: dict[int, int] = {}
        self.receipts: dict[bytes, int] = {}  # executed transactions and where
        self.refused: dict[bytes, Code] = {}
        self.sets: dict[int, ValidatorSet] = {1: cluster.genesis.validator_set}  # the set that votes on a height
        self._said: dict[tuple[object, ...], bytes] = {}
        self._money: int | None = None
        self._latest_ms = 0  # what any honest clock showed
        # Tests that let an "honest" node lie do without what only holds while all Byzantine ones are declared.
        self.strict = False

    def fail(self, what: str) -> None:
        raise AssertionError(f"{what} (at {self.cluster.now_ms} ms)")

    # What is said

    def on_send(self, node: SimulatedNode, kind: Kind, payload: bytes) -> None:
        """Signed once, durable first: at the moment a message is handed to the network."""
        if kind is not Kind.VOTE or payload in node.said:
            return
        node.said[payload] = None
        message = decode_message(payload)
        signed = message.vote if isinstance(message, PrePrepare) else message
        if isinstance(signed, Status | TimeoutCertificate):
            return
        if self.cluster.signer.signer_of(signed.signature) != node.key.public:
            return  # somebody else's, passed on
        if payload not in node.durable_messages:
            self.fail(f"node {node.index} sent {type(message).__name__} before it was durable")
        place, content = _statement(signed)
        before = self._said.setdefault((node.index, *place), content)
        if before != content:
            self.fail(f"node {node.index} contradicts itself: {place}")
        self.on_clock(node)
        if isinstance(signed, CheckpointVote):
            if signed.height > node.durable_height:
                self.fail(f"node {node.index} vouches for block {signed.height}, which is not on its disk")
        else:
            latest = node.latest_views.get(signed.epoch, 0)
            if signed.view < latest:
                self.fail(f"node {node.index} signs {type(message).__name__} of view {signed.view} after view {latest}")
            node.latest_views[signed.epoch] = signed.view
        self._check_proofs(node, signed)
        if isinstance(signed, Vote) and signed.phase is Phase.PREPARE:
            self._check_new_view(node, signed)

    def on_clock(self, node: SimulatedNode) -> None:
        """A look at a clock, at the latest before it jumps."""
        self._latest_ms = max(self._latest_ms, node.wall_ms())

    def _check_proofs(self, node: SimulatedNode, message: object) -> None:
        """Nobody signs for a lock or a claim that is not proved."""
        if not isinstance(message, ViewChange | NewView):
            return
        validators = node.replica.engine.validators_of(message.epoch)
        if validators is None:
            return
        for lock in message.prepared:
            signers = {member for member, _ in lock.certificate.signatures}
            if len(signers) < validators.quorum or not self._are_valid(lock.certificate, validators):
                self.fail(f"node {node.index} passes on a lock without proof")
        for claim in message.claims if isinstance(message, NewView) else ():
            statement = claim.statement(self.cluster.genesis.chain_id)
            if not self.cluster.signer.check(validators.keys[claim.member], statement, claim.signature):
                self.fail(f"node {node.index} passes on a claim that member {claim.member} never made")

    def _are_valid(self, certificate: Certificate | CheckpointCertificate, validators: ValidatorSet) -> bool:
        statement = certificate.statement(self.cluster.genesis.chain_id)
        check, keys = self.cluster.signer.check, validators.keys
        return all(check(keys[member], statement, signature) for member, signature in certificate.signatures)

    def _check_new_view(self, node: SimulatedNode, vote: Vote) -> None:
        """In a view after the first, a vote is for what the claims of its new view leave to vote for."""
        engine, new_view = node.replica.engine, node.replica.engine._views.new_view
        place = (engine.validators.epoch, new_view.view) if new_view is not None else None
        if new_view is None or place != (vote.epoch, vote.view):
            return
        self._check_proofs(node, new_view)
        base = max(engine.validators.first_height - 1, *(claim.stable for claim in new_view.claims))
        locks: dict[int, tuple[int, bytes]] = {}
        for claim in new_view.claims:
            for height, view, digest in claim.locks:
                locks[height] = max(locks.get(height, (-1, b"")), (view, digest))
        if vote.height <= base:
            self.fail(f"node {node.index} votes at height {vote.height}, below its new view")
        if vote.height > max(locks, default=0):
            return
        wanted = locks[vote.height][1] if vote.height in locks else Proposal.null(vote.height).digest
        if vote.digest != wanted:
            self.fail(f"node {node.index} votes against its new view at height {vote.height}")

    def on_evidence(self, node: SimulatedNode, evidence: Evidence) -> None:
        """Nobody honest is framed."""
        validators = node.replica.engine.validators_of(evidence.proof.epoch)
        if not self.strict or validators is None:
            return
        culprit = self.cluster.node_of(validators.keys[evidence.proof.member])
        if culprit is not None and self.cluster.is_honest(culprit):
            self.fail(f"honest node {culprit.index} is accused")

    def on_blamed(self, node: SimulatedNode, key: bytes, reason: str) -> None:
        culprit = self.cluster.node_of(key)
        if self.strict and culprit is not None and self.cluster.is_honest(culprit):
            self.fail(f"node {node.index} blames honest node {culprit.index}: {reason}")

    def on_timer(self, node: SimulatedNode, name: str, in_ms: int) -> None:
        """Nobody waits for a leader longer than the cap of the engine's epoch; the store may be in the next already."""
        if name == Timer.PROGRESS.value and in_ms > node.replica.engine._state.parameters.view_timeout_ms_max:
            self.fail(f"node {node.index} will wait {in_ms} ms for its leader")

    # What is done

    def on_applied(
        self, node: SimulatedNode, block: CertifiedBlock, result: BlockResult, state_root: bytes | None
    ) -> None:
        height, tip = block.height, result.tip
        if height != node.applied_height + 1:
            self.fail(f"node {node.index} executed {height} after {node.applied_height}")
        node.applied_height = height
        fresh = height not in self.blocks
        if self.blocks.setdefault(height, tip.block_hash) != tip.block_hash:
            self.fail(f"two blocks at height {height}")
        parent = self.blocks.get(height - 1)
        if parent is not None and result.header.parent_hash != parent:
            self.fail(f"block {height} has another parent")
        if self.results.setdefault(height, tip.results_hash) != tip.results_hash:
            self.fail(f"two results at height {height}")
        if state_root is not None and self.roots.setdefault(height, state_root) != state_root:
            self.fail(f"two state roots at height {height}")
        if self.sets.setdefault(height + 1, tip.validators) != tip.validators:
            self.fail(f"two validator sets for height {height + 1}")
        self._check_certificate(block)
        times = (self.times.get(height - 1, 0), self.times.setdefault(height, result.header.time_ms))
        if times[0] > times[1]:
            self.fail(f"time runs backwards at height {height}")
        if fresh:
            drift_ms = max(each.clock_drift_ms_max for each in (self.cluster.genesis.parameters, tip.parameters))
            if self.strict and block.proposal.time_ms > self._latest_ms + drift_ms:
                self.fail(f"block {height} is from the future")
            if not all(map(self.cluster.are_signed, block.batches)):
                self.fail(f"block {height} holds what nobody signed")
            for receipt in result.receipts:
                if receipt.ok:
                    first = self.receipts.setdefault(receipt.tx_id, height)
                    if first != height:
                        self.fail(f"a transaction executed at {first} and {height}")
                else:
                    self.refused.setdefault(receipt.tx_id, Code(receipt.code))
            self.check_money(node)
        self.check_sizes(node)

    def _check_certificate(self, block: CertifiedBlock) -> None:
        certificate, proposal, height = block.certificate, block.proposal, block.height
        if certificate.phase is not Phase.COMMIT or certificate.digest != proposal.digest:
            self.fail(f"the certificate of block {height} is of something else")
        if certificate.height != height or tuple(batch.digest for batch in block.batches) != proposal.batches:
            self.fail(f"block {height} and its certificate differ")
        self._check_quorum(certificate, height)
        self._check_voters(certificate)

    def _check_voters(self, certificate: Certificate) -> None:
        """Whoever is honest and named in it did vote so, durably."""
        if not self.strict:
            return
        validators = self.sets[certificate.height]
        place = (certificate.epoch, certificate.view, certificate.height, certificate.phase)
        for member, signature in certificate.signatures:
            node = self.cluster.node_of(validators.keys[member])
            if node is not None and self.cluster.is_honest(node):
                vote = Vote(*place, certificate.digest, member, signature)
                if encode_message(vote) not in node.durable_messages:
                    self.fail(f"node {node.index} never voted for block {certificate.height}")

    def _check_quorum(self, certificate: Certificate | CheckpointCertificate, height: int) -> None:
        validators = self.sets[height]
        n = len(validators.keys)
        f = (n - 1) // 3
        members = [member for member, _ in certificate.signatures]
        if certificate.epoch != validators.epoch or members != sorted(set(members)) or 2 * len(members) < n + f + 1:
            self.fail(f"no quorum of the set of height {height}")
        if not self._are_valid(certificate, validators):
            self.fail(f"a bad signature in a certificate at height {height}")

    def on_stable(self, node: SimulatedNode, height: int) -> None:
        if self.strict:
            self._check_checkpoint(node, height)

    def check_history(self, node: SimulatedNode) -> None:
        """Each epoch before the node's is closed there by a certificate of its set, of what was executed."""
        store = node.replica.store
        for epoch in range(1, store.tip.validators.epoch + 1):
            validators = store.validator_set(epoch)
            assert validators is not None
            self._check_checkpoint(node, validators.first_height - 1)

    def _check_checkpoint(self, node: SimulatedNode, height: int) -> None:
        certificate = node.replica.store.checkpoint(height)
        assert certificate is not None
        self._check_quorum(certificate, height)
        if certificate.block_hash != self.blocks.get(height) or certificate.state_root != self.roots.get(height):
            self.fail(f"a certified checkpoint at {height} is not what was executed")

    def check_money(self, node: SimulatedNode) -> None:
        """All balances together are what the supply says, and the supply is what it was."""
        read, currency = node.replica.store.get, self.cluster.CURRENCY
        accounts = [f"h{index}" for index in range(self.cluster.options.n)]
        balances = [read(state_key(payments.MODULE_NAME, "balance", currency, account)) for account in accounts]
        total = sum(balance for balance in balances if isinstance(balance, int))
        supply = read(state_key(payments.MODULE_NAME, "supply", currency))
        if total != supply or (self._money is not None and supply != self._money):
            self.fail(f"money is not conserved: balances {total}, supply {supply!r}, before {self._money}")
        self._money = total

    # What it costs

    def after_event(self, node: SimulatedNode) -> None:
        node.events += 1
        replica = node.replica
        if replica._inbox or replica._stepping:
            self.fail(f"node {node.index} left inputs undone")
        if node.events % CHECK_SIZES_EVERY == 0:
            self.check_sizes(node)

    def check_sizes(self, node: SimulatedNode) -> None:
        replica = node.replica
        # A change of parameters takes over with an epoch; what is bounded by the former is bounded by the greater.
        parameters = (self.cluster.genesis.parameters, replica.store.tip.parameters)
        log_window, n = max(each.log_window for each in parameters), replica.engine.validators.n
        slots_max = 3 * log_window + 1
        bounds = {
            "slots": slots_max,
            "votes": 2 * n * slots_max,
            "checkpoints": 2 * (len(self.cluster.nodes) + 1) * 2 * log_window,  # of two epochs
            "suspects": n,
            "view_changes": n,
            "future": 256 * n,
            "available": 8_192,
            "unpersisted": 7 * log_window + UNEXECUTED_MAX,  # four, and what one more message may lead to
        }
        sizes = replica.engine.table_sizes()
        for name, size in sizes.items():
            if size > bounds.get(name, slots_max * n):
                self.fail(f"node {node.index}: {size} entries in {name}")
        decided = [deliver.proposal for deliver in replica._undelivered]
        decided += [slot.decision[0] for slot in replica.engine.slots.values() if slot.decision is not None]
        if not replica._synced.keys() <= {digest for proposal in decided for digest in proposal.batches}:
            self.fail(f"node {node.index} keeps batches of no block")
        pool = replica.pool.sizes()
        if len(replica.sync._buffer) > BUFFER_HEIGHTS_MAX or pool["bytes"] > replica.pool.config.held_bytes_max:
            self.fail(f"node {node.index}: buffers over their bounds {pool}")
        if len(replica._undelivered) > 64 + log_window or len(replica._validating) > slots_max:
            self.fail(f"node {node.index}: {len(replica._undelivered)} blocks wait for execution")


def _statement(message: Vote | CheckpointVote | Suspect | ViewChange | NewView) -> tuple[tuple[object, ...], bytes]:
    """The place at which a member may say one thing, and what it said."""
    match message:
        case Vote():
            place = (message.epoch, message.view, message.height, message.phase.name.lower())
            return place, message.digest
        case CheckpointVote():
            return (message.epoch, message.height, "checkpoint"), b"".join(message.claim)
        case ViewChange():
            return (message.epoch, message.view, "view change"), message.content_hash
        case NewView():
            return (message.epoch, message.view, "new view"), message.content_hash
    return (message.epoch, message.view, "suspect"), b""
