"""One member is hostile and signs whatever it likes: what it costs an honest replica stays within bounds.

A replica alone, with real signatures, against frames made by hand.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus.events import Evidence
from consensus.messages import (
    CheckpointVote,
    Message,
    Prepared,
    PrePrepare,
    Status,
    Suspect,
    ViewChange,
    Vote,
    encode_message,
    signed,
)
from consensus.newview import compose
from consensus.verify import Verifier
from ledger.block import (
    BLOCK_BATCH_BYTES_MAX,
    BLOCK_BATCHES_MAX,
    Certificate,
    CertifiedBlock,
    CheckpointCertificate,
    Phase,
    Proposal,
    encode_certified,
)
from ledger.codec import decode, encode
from ledger.crypto import hash_bytes
from ledger.errors import Code
from ledger.execution import BlockResult, Executor
from ledger.genesis import Parameters
from ledger.modules import members, parties, payments
from ledger.modules.members import KEYS_PER_CALL_MAX, AddKeys, ProposeValidators
from ledger.modules.records import Access, Grant, Revoke
from ledger.rules import Registry
from ledger.transaction import BATCH_TXS_MAX, Batch, Transaction
from node import replica as replica_module
from node.replica import (
    BLOCK_CHARGE_BYTES,
    HEARING_CHARGE_BYTES,
    REFUSED_CHARGE_FACTOR,
    STATUS_CHARGE_BYTES,
    VOTE_CHARGE_FACTOR,
    VOTE_FREE_BYTES,
    VOUCHED_BYTES_MAX,
    RecordKind,
    Replica,
)
from p2p.allowance import BUDGET_BYTES_MAX, REFILL_BYTES_PER_MS
from p2p.batches import PoolConfig
from p2p.frames import Kind
from storage.chain import ChainStore
from storage.memory import MemoryKeyValue
from tests.ledger.chain import Chain, institution, key_pair
from tests.node.api_service import CLINIC, PATIENT
from tests.node.test_api_vault import LATER_MS, fetch, holding
from tests.simulation.cluster import CURRENCY, WALL_MS, key_of, make_genesis

GENESIS = make_genesis(4, Parameters())
VALIDATORS = GENESIS.validator_set
PAIRS = {key_of(index).public: key_of(index) for index in range(4)}
MEMBERS = [PAIRS[key] for key in VALIDATORS.keys]
HOSTILE = 0  # leads view 0
RESULT = hash_bytes(b"result")


class Recorder:
    """An outside that does nothing and remembers."""

    def __init__(self) -> None:
        self.now = 0
        self.sent: list[tuple[Kind, bytes]] = []
        self.appended: list[tuple[RecordKind, bytes]] = []
        self.blamed: list[str] = []
        self.accused: list[Evidence] = []
        self.timers: dict[str, int | None] = {}
        self.droppable: list[int] = []  # heights up to which the log may go
        self.lazy = False  # batches wait for their check for ever
        self.hurried: list[bytes] = []
        self.trips_ms: dict[bytes, float] = {}

    def now_ms(self) -> int:
        return self.now

    def wall_ms(self) -> int:
        return WALL_MS + self.now

    def send(self, key: bytes, kind: Kind, payload: bytes) -> None:
        self.sent.append((kind, payload))

    def round_trips_ms(self) -> dict[bytes, float]:
        return self.trips_ms

    def append(self, kind: RecordKind, height: int, payload: bytes) -> int:
        self.appended.append((kind, payload))
        return len(self.appended)

    def store_first(self) -> None:
        pass

    def set_timer(self, name: str, at_ms: int | None) -> None:
        self.timers[name] = at_ms

    def check_batch(self, batch: Batch, origin: bytes, urgent: bool, done: Any) -> None:
        if not self.lazy:
            done(True)

    def check_first(self, digest: bytes) -> None:
        self.hurried.append(digest)

    def applied(self, block: CertifiedBlock, result: BlockResult, state_root: bytes | None) -> None:
        pass

    def stable(self, height: int) -> None:
        self.droppable.append(height)

    def misbehaved(self, key: bytes, reason: str) -> None:
        self.blamed.append(reason)

    def diverged(self, height: int, own: bytes, certified: bytes) -> None:
        raise AssertionError("diverged")

    def evidence(self, evidence: Evidence) -> None:
        self.accused.append(evidence)

    def sent_bytes(self, kind: Kind) -> int:
        return sum(len(payload) for sent, payload in self.sent if sent is kind)


class Lab:
    """The honest replica, and what the hostile member can make it hear."""

    def __init__(self, records: list[tuple[RecordKind, int, bytes]] | None = None, refetch: int = 0) -> None:
        executor = Executor(GENESIS, Registry([members.MODULE, payments.MODULE]))
        changes, tip = executor.begin()
        store = ChainStore.create(MemoryKeyValue(), GENESIS.to_json(), changes, tip)
        if refetch:
            store.refetch(refetch)
        self.out = Recorder()
        own = MEMBERS[3]
        self.replica = Replica(executor, store, own.public, own.sign, self.out, Verifier(GENESIS.chain_id))
        self.replica.start(records or [])
        for pair in MEMBERS[:3]:
            self.replica.on_peer_up(pair.public)
        self.out.sent.clear()

    def frame(self, kind: Kind, payload: bytes) -> None:
        self.replica.on_frame(MEMBERS[HOSTILE].public, kind, payload)

    def give(self, message: Message) -> None:
        self.frame(Kind.VOTE, encode_message(message))

    def propose(self, proposal: Proposal) -> None:
        self.give(PrePrepare(proposal, vote(HOSTILE, proposal)))

    def decide(self, height: int, *batches: Batch) -> Proposal:
        proposal = Proposal(height, WALL_MS, tuple(batch.digest for batch in batches))
        for batch in batches:
            self.frame(Kind.BATCH, batch.wire)
        self.propose(proposal)
        for phase in Phase:
            for member in (0, 1, 2):
                self.give(vote(member, proposal, phase))
        self.replica.on_durable(len(self.out.appended))
        assert self.replica.store.tip.height == height
        return proposal

    def certify(self, height: int) -> None:
        """A quorum vouches for the checkpoint that was executed there."""
        own = self.replica.engine.checkpoints.own[height]
        for member in (0, 1, 2):
            self.give(signed(replace(own, member=member), MEMBERS[member].sign, GENESIS.chain_id))

    def claim_height(self, height: int) -> None:
        self.frame(Kind.STATUS, encode(Status(VALIDATORS.epoch, 0, False, height, 0).to_value()))

    def catch_up(self, top: int) -> None:
        """Have it answered with the blocks up to `top`, decided elsewhere."""
        elsewhere = Lab()
        for height in range(1, top + 1):
            elsewhere.decide(height, tiny(height))
        self.claim_height(top)
        self.out.now += 10_000
        self.replica.on_timer("tick")
        wires = (elsewhere.replica.store.block_wires(height) for height in range(1, top + 1))
        self.frame(Kind.BLOCK_RESPONSE, encode(tuple(wires)))

    def logged_bytes(self) -> int:
        return sum(len(payload) for kind, payload in self.out.appended if kind is RecordKind.BATCH)


def vote(member: int, proposal: Proposal, phase: Phase = Phase.PREPARE) -> Vote:
    plain = Vote(VALIDATORS.epoch, 0, proposal.height, phase, proposal.digest, member)
    made: Vote = signed(plain, MEMBERS[member].sign, GENESIS.chain_id)
    return made


def signed_by(member: int, message: Message) -> Message:
    made: ViewChange = signed(message, MEMBERS[member].sign, GENESIS.chain_id)
    return made


def signed_checkpoint(member: int, height: int) -> CheckpointVote:
    digest = hash_bytes(b"state")
    plain = CheckpointVote(VALIDATORS.epoch, height, digest, digest, digest, member)
    made: CheckpointVote = signed(plain, MEMBERS[member].sign, GENESIS.chain_id)
    return made


def transaction(number: int, reference: str = "") -> Transaction:
    fields = (CURRENCY, "h1", 1, reference)
    nonce = number.to_bytes(16, "big")
    return Transaction.create(key_of(0), GENESIS.chain_id, "payments.transfer", fields, nonce=nonce, valid_until=500)


def tiny(number: int) -> Batch:
    return Batch((transaction(number).wire,))


def large(number: int) -> Batch:
    """Eight transactions that fill a batch: valid in form, refused by the rules."""
    return Batch(tuple(transaction(number * 10 + index, "x" * 63_000).wire for index in range(8)))


def test_one_batch_at_every_height_is_logged_once() -> None:
    """Written once for each height of the log, eight batches made 247 MiB of pending records: over the log's limit,
    which stops the node."""
    lab = Lab()
    batches = [large(number) for number in range(8)]
    for batch in batches:
        lab.frame(Kind.BATCH, batch.wire)
    digests = tuple(batch.digest for batch in batches)
    for height in range(1, GENESIS.parameters.log_window + 1):
        lab.propose(Proposal(height, WALL_MS, digests))
    assert 0 < lab.logged_bytes() <= BLOCK_BATCH_BYTES_MAX


@pytest.mark.parametrize("nearest", [1, 2])
def test_full_proposals_for_the_whole_log_fill_neither_memory_nor_disk(nearest: int) -> None:
    """Trap 33. Each of its own batches. They made 240 MiB of batches, and records over the log's limit, which stops the
    node. `nearest` 2: the height that could be executed never comes."""
    lab = Lab()
    for height in range(nearest, GENESIS.parameters.log_window + 1):
        batches = [large(100 * height + number) for number in range(8)]
        lab.propose(Proposal(height, WALL_MS, tuple(batch.digest for batch in batches)))
        for batch in batches:
            if lab.replica.pool.is_wanted(batch.digest):
                lab.frame(Kind.BATCH_RESPONSE, batch.wire)
    most = VOUCHED_BYTES_MAX + 2 * BLOCK_BATCH_BYTES_MAX
    assert lab.replica.pool.sizes()["bytes"] <= most
    assert lab.logged_bytes() <= most
    own = tiny(1)
    lab.replica.on_frame(MEMBERS[1].public, Kind.BATCH, own.wire)
    assert lab.replica.pool.get(own.digest) is not None, "an honest member's has room"


def test_what_waited_for_lower_heights_is_voted_for_once_they_are_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "VOUCHED_BYTES_MAX", 0)
    lab, batches = Lab(), [tiny(number) for number in range(4)]
    for batch in batches:
        lab.frame(Kind.BATCH, batch.wire)
    for height in (4, 3, 2):
        lab.propose(Proposal(height, WALL_MS, (batches[height - 1].digest,)))
    assert lab.replica.engine.slots[4].own_prepare is not None, "nothing was vouched for before"
    assert lab.replica.engine.slots[2].own_prepare is None
    lab.decide(1, batches[0])
    assert lab.replica.engine.slots[2].own_prepare is not None
    assert lab.replica.engine.slots[3].own_prepare is None
    for phase in Phase:
        for member in (0, 1, 2):
            lab.give(vote(member, Proposal(2, WALL_MS, (batches[1].digest,)), phase))
    assert lab.replica.store.tip.height == 2
    assert lab.replica.engine.slots[3].own_prepare is not None


def test_a_pruned_batch_that_is_ordered_again_can_be_fetched() -> None:
    lab, old = Lab(), tiny(1)
    lab.decide(1, old)
    height = GENESIS.parameters.checkpoint_interval
    for number in range(2, height + 1):
        lab.decide(number, tiny(number))
    lab.replica.store.prune(1)
    proposal = Proposal(height + 1, WALL_MS, (old.digest,))
    lab.propose(proposal)
    for phase in Phase:
        for member in (0, 1, 2):
            lab.give(vote(member, proposal, phase))
    assert lab.replica.store.tip.height == height
    lab.out.now += 100
    lab.replica.on_timer("tick")
    assert Kind.BATCH_REQUEST in [kind for kind, _ in lab.out.sent]
    lab.frame(Kind.BATCH_RESPONSE, old.wire)
    assert lab.replica.store.tip.height == height + 1


def test_a_peers_batches_of_nothing_that_could_be_executed_are_not_taken() -> None:
    lab = Lab()
    lab.decide(1, tiny(1))
    fields = (CURRENCY, "h1", 1, "")
    expired = Transaction.create(
        key_of(0), GENESIS.chain_id, "payments.transfer", fields, nonce=b"n" * 16, valid_until=1
    )  # fmt: skip
    batch = Batch((expired.wire,))
    lab.frame(Kind.BATCH, batch.wire)
    assert lab.replica.pool.get(batch.digest) is None
    assert lab.replica.pool.sizes()["bytes"] == 0
    lab.propose(Proposal(2, WALL_MS, (batch.digest,)))
    lab.frame(Kind.BATCH_RESPONSE, batch.wire)
    assert lab.replica.pool.get(batch.digest) is not None, "a proposal needs it"


def test_what_a_lost_proposal_named_is_sought_no_longer() -> None:
    """Four thousand digests that exist nowhere stayed for good."""
    lab = Lab()
    for height in range(1, 9):
        lost = Proposal(height, WALL_MS, tuple(hash_bytes(b"%d %d" % (height, number)) for number in range(64)))
        lab.propose(lost)
        assert lab.replica.pool.sizes()["wanted"] == 64
        batch = tiny(height)
        decided = Proposal(height, WALL_MS, (batch.digest,))
        signatures = tuple((member, vote(member, decided, Phase.COMMIT).signature) for member in (0, 1, 2))
        certificate = Certificate(VALIDATORS.epoch, 0, height, Phase.COMMIT, decided.digest, signatures)
        lab.claim_height(height)
        lab.out.now += 1_000
        lab.replica.on_timer("tick")
        wire = encode_certified(CertifiedBlock(decided, certificate, (batch,)))
        lab.frame(Kind.BLOCK_RESPONSE, encode((wire,)))
        assert lab.replica.store.tip.height == height
        assert lab.replica.pool.sizes()["wanted"] == 0


def test_a_proposal_that_lacks_one_batch_is_not_read_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven old batches of half a megabyte, and one that exists nowhere, at every height: half a second each tick."""
    lab = Lab()
    old = [large(number) for number in range(7)]
    for height, batch in enumerate(old, 1):
        lab.decide(height, batch)
    for height in range(8, 8 + GENESIS.parameters.log_window // 2):
        absent = hash_bytes(b"absent %d" % height)
        lab.propose(Proposal(height, WALL_MS, (old[height % 7].digest, absent)))
    read: list[bytes] = []
    stored = lab.replica.store.batch
    monkeypatch.setattr(lab.replica.store, "batch", lambda digest: read.append(digest) or stored(digest))
    for _ in range(20):
        lab.out.now += 100
        lab.replica.on_timer("tick")
    assert not read


def test_after_a_restart_logged_batches_take_no_room_of_clients() -> None:
    """Whose they were is not known; clients were refused until they were ordered."""
    lab = Lab([(RecordKind.BATCH, 2 + number // 8, large(number + 1).wire) for number in range(64)])
    lab.replica.submit(transaction(7))


def test_a_batch_that_becomes_needed_while_it_waits_is_checked_first() -> None:
    lab = Lab()
    lab.out.lazy = True
    batch = tiny(1)
    lab.replica.on_frame(MEMBERS[1].public, Kind.BATCH, batch.wire)
    lab.propose(Proposal(1, WALL_MS, (batch.digest,)))
    assert lab.out.hurried == [batch.digest]


def test_copies_of_what_is_here_are_not_looked_at_for_ever() -> None:
    """Each costs milliseconds to decode and hash."""
    lab, batch = Lab(), large(1)
    lab.frame(Kind.BATCH, batch.wire)
    decoded = 0
    decode_batch = Batch.decode

    def count(wire: bytes) -> Batch:
        nonlocal decoded
        decoded += 1
        return decode_batch(wire)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "decode", count)
        for _ in range(1_000):
            lab.frame(Kind.BATCH, batch.wire)
    assert decoded <= 2 + BUDGET_BYTES_MAX // (REFUSED_CHARGE_FACTOR * len(batch.wire))


def test_small_blocks_cost_who_asks_for_them_more_than_their_bytes() -> None:
    """Three thousand requests a second of sixteen small blocks took a whole processor."""
    lab = Lab()
    for height in range(1, 17):
        lab.decide(height, tiny(height))
    lab.out.sent.clear()
    for _ in range(3_000):
        lab.frame(Kind.BLOCK_REQUEST, encode((1, 16)))
    answers = [payload for kind, payload in lab.out.sent if kind is Kind.BLOCK_RESPONSE and payload != encode(())]
    assert 16 <= len(answers) <= 2 + BUDGET_BYTES_MAX // (16 * BLOCK_CHARGE_BYTES)


def test_large_messages_of_old_views_are_checked_within_an_allowance() -> None:
    lab = Lab()
    payload = encode_message(signed_by(1, ViewChange(VALIDATORS.epoch, 1, None, (), 1)))
    padded = payload + bytes(VOTE_FREE_BYTES)
    for _ in range(1_000):
        lab.frame(Kind.VOTE, padded)
    assert len(lab.out.blamed) <= 1 + BUDGET_BYTES_MAX // (VOTE_CHARGE_FACTOR * len(padded)) < 1_000


@pytest.mark.parametrize("kind", ["suspicions", "view changes", "checkpoint votes"])
def test_small_messages_that_are_all_new_are_heard_within_an_allowance(kind: str) -> None:
    """Trap 33. A megabyte a second of them took all of a core. What others say is heard meanwhile."""
    lab, epoch = Lab(), VALIDATORS.epoch
    makers: dict[str, Callable[[int], Message]] = {
        "suspicions": lambda number: Suspect(epoch, number + 5, HOSTILE),
        "view changes": lambda number: ViewChange(epoch, number + 5, None, (), HOSTILE),
        "checkpoint votes": lambda number: CheckpointVote(
            epoch, 10, RESULT, hash_bytes(b"%d" % number), RESULT, HOSTILE
        ),
    }
    numbers = itertools.count()

    def heard(count: int) -> int:
        before = lab.replica.verifier.checked
        for message in (makers[kind](number) for number in itertools.islice(numbers, count)):
            frame = encode_message(signed_by(HOSTILE, message))
            lab.replica.on_frame(VALIDATORS.keys[HOSTILE], Kind.VOTE, frame)
        return lab.replica.verifier.checked - before

    assert heard(1_500) == BUDGET_BYTES_MAX // HEARING_CHARGE_BYTES
    assert heard(10) == 0
    lab.replica.on_frame(VALIDATORS.keys[1], Kind.VOTE, encode_message(signed_by(1, Suspect(epoch, 0, 1))))
    assert lab.replica.verifier.checked == BUDGET_BYTES_MAX // HEARING_CHARGE_BYTES + 1
    lab.out.now += 100
    assert heard(1_500) == 100 * REFILL_BYTES_PER_MS // HEARING_CHARGE_BYTES


def test_what_many_without_a_vote_pass_on_is_heard_within_one_allowance() -> None:
    """Trap 33. A faulty member signs without end, and its friends, who cannot be blamed, each had an allowance."""
    lab = Lab()
    for number in range(1_500):
        frame = encode_message(signed_by(HOSTILE, Suspect(VALIDATORS.epoch, number + 5, HOSTILE)))
        lab.replica.on_frame(b"follower %d" % (number % 8), Kind.VOTE, frame)
    assert lab.replica.verifier.checked == BUDGET_BYTES_MAX // HEARING_CHARGE_BYTES


def test_checkpoints_that_change_nothing_cost_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificates of a long history are known to everyone, and each takes a quorum of checks."""
    lab = Lab()
    top = 2 * GENESIS.parameters.checkpoint_interval
    for height in range(1, top + 1):
        lab.decide(height, tiny(height))
        if height in (top // 2, top):
            lab.certify(height)
    older, own = lab.replica.store.checkpoint(top // 2), signed_checkpoint(0, top)
    assert older is not None
    assert lab.replica.engine.checkpoints.stable == top
    verifier = lab.replica.verifier
    for name in ("certificate", "message"):
        monkeypatch.setattr(verifier, name, lambda *_: pytest.fail("it was checked"))
    lab.frame(Kind.CERTIFIED, encode(older.to_value()))
    for height in (top, top + 2 * GENESIS.parameters.log_window + 1, 2**62):
        lab.give(replace(own, height=height))


def test_a_member_that_says_now_this_height_now_that_hears_no_more_votes_than_another() -> None:
    sent: dict[bool, int] = {}
    for alternates in (False, True):
        lab = Lab()
        lab.decide(1, tiny(1))
        lab.propose(Proposal(2, WALL_MS, (tiny(2).digest,)))
        lab.frame(Kind.BATCH, tiny(2).wire)
        lab.replica.on_durable(len(lab.out.appended))
        lab.out.sent.clear()
        for number in range(1_000):
            lab.out.now += 8
            lab.claim_height(1 if alternates and number % 4 < 2 else 0)
        sent[alternates] = sum(kind is Kind.VOTE for kind, _ in lab.out.sent)
    assert 0 < sent[True] <= sent[False]


def test_who_comes_back_again_and_again_gets_what_waits_within_its_allowance() -> None:
    lab = Lab()
    for number in range(16):
        lab.frame(Kind.BATCH, large(number).wire)
    lab.out.sent.clear()
    for _ in range(100):
        lab.replica.on_peer_up(MEMBERS[HOSTILE].public)
    assert 0 < lab.out.sent_bytes(Kind.BATCH) <= BUDGET_BYTES_MAX + len(large(1).wire)


def test_batches_of_old_blocks_are_not_logged_again() -> None:
    lab = Lab()
    digests = tuple(lab.decide(height, large(height)).batches[0] for height in range(1, 5))
    before = lab.logged_bytes()
    for height in range(5, 5 + GENESIS.parameters.window):
        lab.propose(Proposal(height, WALL_MS, digests))
    assert lab.logged_bytes() == before


def test_an_oversized_proposal_is_refused_before_the_rest_of_it_is_fetched() -> None:
    lab = Lab()
    held = [large(number) for number in range(20)]
    absent = hash_bytes(b"held by nobody")
    lab.propose(Proposal(1, WALL_MS, (*(batch.digest for batch in held), absent)))
    for batch in held:
        lab.frame(Kind.BATCH_RESPONSE, batch.wire)
    assert not lab.replica.pool.is_wanted(absent)
    assert lab.replica.engine.slots[1].own_prepare is None


def test_an_oversized_proposal_takes_nothing_from_another_that_is_fetched() -> None:
    lab = Lab()
    held, absent = [large(number) for number in range(9)], hash_bytes(b"needed")
    lab.propose(Proposal(1, WALL_MS, (absent,)))
    for batch in held:
        lab.frame(Kind.BATCH, batch.wire)
    lab.replica.pool.want([absent])
    proposal = Proposal(2, WALL_MS, (*(batch.digest for batch in held), hash_bytes(b"not needed")))
    lab.propose(proposal)
    assert lab.replica.pool.is_wanted(absent)
    assert not lab.replica.pool.is_wanted(proposal.batches[-1])


def test_a_block_of_too_many_transactions_gets_no_vote() -> None:
    lab = Lab()
    wire = transaction(1).wire
    batches = [Batch((*[wire] * (BATCH_TXS_MAX - 1), transaction(number).wire)) for number in (2, 3)]
    for batch in batches:
        lab.frame(Kind.BATCH, batch.wire)
    lab.propose(Proposal(1, WALL_MS, tuple(batch.digest for batch in batches)))
    assert lab.replica.engine.slots[1].own_prepare is None


def test_a_flood_of_requests_gets_no_more_than_the_allowance() -> None:
    lab = Lab()
    proposals = [lab.decide(height, large(height)) for height in range(1, 9)]
    for _ in range(64):
        lab.frame(Kind.BLOCK_REQUEST, encode((1, 8)))
    assert 0 < lab.out.sent_bytes(Kind.BLOCK_RESPONSE) <= BUDGET_BYTES_MAX + 5 * 1024 * 1024
    lab.out.sent.clear()
    lab.out.now += 60_000
    digests = tuple(proposal.batches[0] for proposal in proposals)
    for _ in range(64):
        lab.frame(Kind.BATCH_REQUEST, encode(digests))
    assert 0 < lab.out.sent_bytes(Kind.BATCH_RESPONSE) <= BUDGET_BYTES_MAX + 1024 * 1024


@pytest.mark.parametrize("idle", range(10))
def test_a_question_that_takes_the_last_of_the_allowance_leaves_no_answer_free(idle: int) -> None:
    """Trap 33. Between two refills: as many questions about nothing as use them up, and one about what is large."""
    lab, absent = Lab(), hash_bytes(b"absent")
    digest = lab.decide(1, large(1)).batches[0]
    for _ in range(2_000):
        for _ in range(idle):
            lab.frame(Kind.BATCH_REQUEST, encode((absent,)))
        lab.frame(Kind.BATCH_REQUEST, encode((digest,)))
        lab.out.now += 1
    assert lab.out.sent_bytes(Kind.BATCH_RESPONSE) <= BUDGET_BYTES_MAX + 2_001 * REFILL_BYTES_PER_MS


def test_a_digest_named_twice_in_a_request_is_answered_once() -> None:
    lab = Lab()
    digest = lab.decide(1, tiny(1)).batches[0]
    lab.frame(Kind.BATCH_REQUEST, encode((digest,) * 64))
    assert [kind for kind, _ in lab.out.sent].count(Kind.BATCH_RESPONSE) == 1


def test_a_flood_of_statuses_is_answered_within_the_allowance_and_honest_ones_always() -> None:
    lab = Lab()
    for height in range(1, 11):
        lab.decide(height, tiny(height))
    lab.out.sent.clear()
    for _ in range(5_000):
        lab.claim_height(0)
    answered_max = BUDGET_BYTES_MAX // STATUS_CHARGE_BYTES
    assert 0 < len(lab.out.sent) <= answered_max * (3 * GENESIS.parameters.window + 2)
    for height in range(1, 4):
        lab.out.now += 500
        lab.claim_height(height)
        assert lab.replica.peer_status[MEMBERS[HOSTILE].public].height == height


def test_what_a_status_is_answered_with_is_charged_by_its_size() -> None:
    """A lag that is pretended has the new view sent, which may be a hundred times as large as the status."""
    lab = Lab()
    locks = []
    for height in range(1, 41):
        proposal = Proposal(height, WALL_MS, tuple(hash_bytes(bytes([height, n])) for n in range(BLOCK_BATCHES_MAX)))
        plain = Certificate(VALIDATORS.epoch, 0, height, Phase.PREPARE, proposal.digest, ())
        statement = plain.statement(GENESIS.chain_id)
        quorum = tuple((member, MEMBERS[member].sign(statement)) for member in (0, 1, 2))
        locks.append(Prepared(proposal, replace(plain, signatures=quorum)))
    changes = [signed_by(member, ViewChange(VALIDATORS.epoch, 1, None, tuple(locks), member)) for member in (0, 1, 2)]
    new_view = signed(compose(changes, 0, 1), MEMBERS[1].sign, GENESIS.chain_id)
    lab.replica.on_frame(MEMBERS[1].public, Kind.VOTE, encode_message(new_view))
    assert lab.replica.engine.view == 1
    lab.replica.on_durable(len(lab.out.appended))
    lab.out.sent.clear()
    for _ in range(1_000):
        lab.claim_height(0)
    answered = [len(payload) for kind, payload in lab.out.sent if kind is Kind.VOTE]
    size_bytes = max(answered)
    assert size_bytes > STATUS_CHARGE_BYTES // 4
    assert 0 < len(answered) <= 1 + BUDGET_BYTES_MAX // (STATUS_CHARGE_BYTES + size_bytes)


def test_blocks_nobody_asked_for_are_not_even_decoded() -> None:
    lab = Lab()
    lab.frame(Kind.BLOCK_RESPONSE, b"\xc1 no msgpack at all")
    assert lab.out.blamed == []
    lab.claim_height(2**62)
    lab.frame(Kind.BLOCK_RESPONSE, b"\xc1 no msgpack at all")
    assert len(lab.out.blamed) == 1


def test_a_quorum_of_prepares_is_not_taken_for_a_decision_and_its_sender_is_blamed() -> None:
    lab = Lab()
    proposal = Proposal(1, WALL_MS, ())
    plain = Certificate(VALIDATORS.epoch, 0, 1, Phase.PREPARE, proposal.digest, ())
    statement = plain.statement(GENESIS.chain_id)
    certificate = replace(plain, signatures=tuple((member, MEMBERS[member].sign(statement)) for member in (0, 1, 2)))
    lab.claim_height(2**62)
    lab.frame(Kind.BLOCK_RESPONSE, encode((encode_certified(CertifiedBlock(proposal, certificate, ())),)))
    assert lab.replica.engine.delivered == 0
    assert lab.out.blamed == ["bad block while catching up"]


def test_a_flood_of_tiny_batches_does_not_crowd_out_those_of_others() -> None:
    lab = Lab()
    for number in range(PoolConfig().held_batches_per_peer_max + 100):
        lab.frame(Kind.BATCH, tiny(number).wire)
    assert lab.replica.pool.sizes()["batches"] == PoolConfig().held_batches_per_peer_max
    mine = tiny(1_000_000)
    lab.replica.on_frame(MEMBERS[1].public, Kind.BATCH, mine.wire)
    assert lab.replica.pool.get(mine.digest) is not None


def test_a_batch_the_engine_had_no_room_for_is_offered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab()
    monkeypatch.setattr("consensus.backlog.AVAILABLE_MAX", 2)
    for number in range(3):
        lab.frame(Kind.BATCH, tiny(number).wire)
    assert lab.replica.engine.table_sizes()["available"] == 2
    monkeypatch.undo()
    lab.out.now += 2_000
    lab.replica.on_timer("tick")
    assert lab.replica.engine.table_sizes()["available"] == 3


def test_one_member_that_answers_late_or_at_once_does_not_decide_how_far_the_others_are() -> None:
    lab = Lab()
    near, far = 20.0, 80.0
    for liar_ms in (0.0, 60_000.0):
        lab.out.trips_ms = {MEMBERS[HOSTILE].public: liar_ms}
        lab.replica.on_timer("tick")
        assert lab.replica.pool.round_trip_ms == 0  # nobody knows yet
        honest = [member.public for index, member in enumerate(MEMBERS[:3]) if index != HOSTILE]
        lab.out.trips_ms |= dict(zip(honest, (near, far), strict=True))
        lab.replica.on_timer("tick")
        assert near <= lab.replica.pool.round_trip_ms <= far


def test_a_batch_ordered_long_ago_is_not_taken_again() -> None:
    lab = Lab()
    old = tiny(1)
    lab.decide(1, old)
    lab.replica.pool._ordered.clear()  # as after ORDERED_KEPT others
    lab.frame(Kind.BATCH, old.wire)
    assert lab.replica.pool.sizes()["batches"] == 0


def test_a_member_that_contradicts_itself_a_thousand_times_is_reported_once() -> None:
    lab = Lab()
    for number in range(100):
        lab.give(vote(1, Proposal(1, WALL_MS + number, ())))
    assert len(lab.out.accused) == 1
    checked = lab.replica.verifier.checked
    lab.give(vote(1, Proposal(1, WALL_MS + 1_000, ())))
    assert lab.replica.verifier.checked == checked


def test_votes_outside_the_log_are_dropped_before_their_signature_is_checked() -> None:
    lab = Lab()
    for height in (GENESIS.parameters.log_window + 1, 2**62, 2**63 - 1):
        lab.give(vote(1, Proposal(height, WALL_MS, ())))
    assert lab.replica.verifier.checked == 0


@pytest.mark.parametrize(
    "operation",
    [
        lambda keys: AddKeys(keys, (b"",) * len(keys)),
        lambda keys: ProposeValidators(keys[:16], (), (b"",) * 16),
    ],
)
def test_keys_that_a_stranger_names_are_not_checked_as_points(operation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check takes 0.1 ms: five hundred a transaction, in a full block, held every node up for twelve seconds."""
    checked: list[bytes] = []

    def is_sound(key: bytes) -> bool:
        checked.append(key)
        return True

    monkeypatch.setattr(parties, "_is_sound", is_sound)
    chain = Chain([], {"members": {"institutions": [institution("clinic", "hospital")]}})
    keys = tuple(key_pair(f"named {number}").public for number in range(KEYS_PER_CALL_MAX))
    checked.clear()
    receipt = chain.send(key_pair("stranger"), operation(keys))
    assert receipt.code in (Code.NOT_A_MEMBER, Code.NOT_A_VALIDATOR)
    assert checked == []


@pytest.mark.asyncio
async def test_an_access_logged_before_the_grant_was_revoked_opens_nothing_after(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        record = sealed.commitment
        granted = service.send(PATIENT, Grant("clinic", ("treatment",), LATER_MS, (record,), None, None))
        access = service.send(CLINIC, Access(record, "treatment", "ward round"))
        assert (await fetch(server, record, access.id)).status == 200
        service.send(PATIENT, Revoke(granted.id))
        reply = await fetch(server, record, access.id)
        assert (reply.status, reply.json["code"]) == (403, "MC2106")


@pytest.mark.parametrize("top", [2**63 - 1, 2**63 - 2, 2**32, 300])
def test_views_and_heights_at_the_end_of_the_integers_move_nothing(top: int) -> None:
    """Trap 11. All signed by one member: no view is left, no timer grows, no table with them, and work goes on."""
    lab = Lab()
    engine = lab.replica.engine
    epoch, digest = VALIDATORS.epoch, hash_bytes(b"far")
    lab.decide(1, tiny(1))
    before = engine.view, engine.patience_ms, engine.table_sizes()
    for place in (top, 0):
        for message in (
            Vote(epoch, top, place, Phase.PREPARE, digest, HOSTILE),
            Vote(epoch, place, top, Phase.COMMIT, digest, HOSTILE),
            CheckpointVote(epoch, top, digest, digest, digest, HOSTILE),
            Suspect(epoch, top, HOSTILE),
            ViewChange(epoch, top, None, (), HOSTILE),
        ):
            lab.give(signed(message, MEMBERS[HOSTILE].sign, GENESIS.chain_id))
    lab.claim_height(top)
    for _ in range(5):
        lab.replica.on_timer("status")
        lab.replica.on_timer("tick")
    after = engine.table_sizes()
    assert (engine.view, engine.patience_ms) == before[:2]
    assert after == {**before[2], "suspects": 1, "view_changes": 1, "future": after["future"]}
    assert after["future"] <= 2
    lab.decide(2, tiny(2))
    assert lab.out.accused == []


def test_who_catches_up_hears_others_between_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dozens of full blocks in one turn would leave statuses, votes and clients unanswered for seconds."""
    monkeypatch.setattr(replica_module, "TAKE_TXS", 2)
    lab = Lab()
    lab.catch_up(5)
    heights = [lab.replica.store.tip.height]
    while lab.out.timers.pop("take", None) is not None:
        lab.replica.on_timer("take")
        heights.append(lab.replica.store.tip.height)
    assert heights == [2, 4, 5]


@pytest.mark.parametrize("refetch", [0, 5])
def test_a_node_whose_store_was_mended_keeps_the_log_for_the_life_that_signs_again(refetch: int) -> None:
    """Until it is past what it may have signed it follows, and takes nothing back from its log: what said in which view
    it was could not be written again, and it would sign a second view change for that view."""
    lab = Lab(refetch=refetch)
    top = GENESIS.parameters.checkpoint_interval
    lab.catch_up(top)
    lab.certify(top)
    assert lab.replica.store.latest_checkpoint() is not None
    assert lab.out.droppable == ([] if refetch else [top])


def test_who_catches_up_is_offered_the_last_checkpoint_that_it_has_come_by() -> None:
    """Of a later one it can make nothing yet; with none its log would fill up on the way."""
    lab = Lab()
    interval = GENESIS.parameters.checkpoint_interval
    for height in range(1, 3 * interval + 1):
        lab.decide(height, tiny(height))
        if height % interval == 0:
            lab.certify(height)
    lab.out.sent.clear()
    lab.claim_height(interval + 2)
    (offered,) = [payload for kind, payload in lab.out.sent if kind is Kind.CERTIFIED]
    assert CheckpointCertificate.from_value(decode(offered, size_bytes_max=10_000)).height == interval
    other = Lab()
    other.catch_up(interval + 2)
    other.replica.engine.checkpoints.learn(lab.replica.engine.checkpoints.certificate)  # known, and far ahead
    other.frame(Kind.CERTIFIED, offered)
    assert other.replica.engine.checkpoints.stable == interval
