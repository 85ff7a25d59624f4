"""Clusters with up to f Byzantine members: nothing contradicts itself, and the honest go on within a stated time.

The checkers of the cluster watch every event: agreement, no honest double vote, nobody honest blamed or accused, money,
the bounds of every table. What is asserted here is what each strategy must lead to besides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from consensus.events import BatchAvailable
from consensus.messages import CheckpointVote, NewView, Vote, decode_message
from ledger.block import Phase
from ledger.genesis import Parameters
from ledger.transaction import Batch, Transaction
from ledger.validators import faulty_max
from p2p.allowance import BUDGET_BYTES_MAX, REFILL_BYTES_PER_MS
from p2p.frames import Kind
from tests.simulation.byzantine import STRATEGIES
from tests.simulation.cluster import WALL_MS, Cluster, Options, SimulatedNode, key_of
from tests.test_protocol import by_member, cluster_of, membership, tap

QUICK = Parameters(view_timeout_ms=1_000, view_timeout_ms_max=8_000)
# The slowest way out: a leader who passes batches over, or is slow, is borne for ten patiences; then a view change.
LIVE_MS = 15_000


def member_order(n: int) -> list[int]:
    """Indices of the first n nodes in the order of their keys: the leaders of views 0, 1, ..."""
    return sorted(range(n), key=lambda index: key_of(index).public)


@dataclass
class Attack:
    """One cluster under attack and what the honest nodes said of others."""

    cluster: Cluster
    blames: Counter[int]
    accused: Counter[int]

    def is_led_by(self, index: int) -> bool:
        """Whether any honest member holds node `index` to be the leader."""
        engines = [node.replica.engine for node in self.cluster.honest]
        key = self.cluster.nodes[index].key.public
        return any(engine.validators.keys[engine.leader] == key for engine in engines)

    def views(self) -> list[int]:
        return [node.replica.engine.view for node in self.cluster.honest]


def under(byzantine: dict[int, str], n: int = 4, seed: int = 1, **options: object) -> Attack:
    """A cluster in which these nodes follow these strategies."""
    cluster = Cluster(seed, Options(n=n, parameters=QUICK, byzantine=byzantine, **options))  # type: ignore[arg-type]
    attack = Attack(cluster, Counter(), Counter())
    on_blamed, on_evidence = cluster.on_blamed, cluster.on_evidence

    def blamed(node: SimulatedNode, key: bytes, reason: str) -> None:
        culprit = cluster.node_of(key)
        assert culprit is not None
        if cluster.is_honest(node):
            attack.blames[culprit.index] += 1
        on_blamed(node, key, reason)

    def accused(node: SimulatedNode, evidence: object) -> None:
        culprit = cluster.node_of(node.replica.engine.validators.keys[evidence.proof.member])  # type: ignore[attr-defined]
        assert culprit is not None
        if cluster.is_honest(node):
            attack.accused[culprit.index] += 1
        on_evidence(node, evidence)  # type: ignore[arg-type]

    cluster.on_blamed, cluster.on_evidence = blamed, accused  # type: ignore[method-assign]
    cluster.run(100)
    return attack


def work(attack: Attack, rounds: int = 12, cut: bool = True) -> None:
    """Work at every honest member, one of which is cut off for a while, and then again: all of it becomes final."""
    cluster = attack.cluster
    everyone = set(range(len(cluster.nodes)))
    members = [node.index for node in cluster.honest if node.index < cluster.options.n]
    ids: list[bytes] = []
    for number in range(rounds):
        ids.append(cluster.transfer(at=members[number % len(members)]))
        cluster.run(250)
        if cut and number == rounds // 3:
            cluster.partition(everyone - {members[0]}, {members[0]})
        if cut and number == 2 * rounds // 3:
            cluster.heal()
    live(attack, ids)


def live(attack: Attack, ids: list[bytes] | None = None) -> None:
    """What waits, and one more transaction at every honest member, becomes final in time."""
    cluster = attack.cluster
    waiting = list(ids or ())
    waiting += [cluster.transfer(at=node.index) for node in cluster.honest if node.index < cluster.options.n]
    assert cluster.run(LIVE_MS, lambda: cluster.final_everywhere(waiting)), (cluster.heights(), attack.views())


@pytest.mark.parametrize("member", [0, 1])
@pytest.mark.parametrize("name", STRATEGIES)
def test_one_of_four_is_borne_whatever_it_does(name: str, member: int) -> None:
    """Traps 6, 7, 18, 33, 35: as the first leader and as the one that replaces the first."""
    work(under({member_order(4)[member]: name}, followers=member), rounds=9)


@pytest.mark.parametrize(
    ("n", "names"),
    [
        (7, ("twins", "twins")),
        (7, ("equivocator", "yes_man")),
        (7, ("yes_man", "forgetful_new_view")),
        (7, ("half_leader", "silent")),
        (10, ("equivocator", "double_voter", "forgetful_new_view")),
        (10, ("twins", "amnesiac", "yes_man")),
        (13, ("equivocator", "equivocator", "yes_man", "yes_man")),
    ],
)
def test_f_of_many_are_borne_together(n: int, names: tuple[str, ...]) -> None:
    """Traps 1, 6: f identities that help each other; the first leaders are among them."""
    assert len(names) == faulty_max(n)
    work(under(dict(zip(member_order(n), names, strict=False)), n, loss=2), rounds=3)


@pytest.mark.parametrize("seed", range(4))
def test_twins_contradict_themselves_and_nobody_else_does(seed: int) -> None:
    """Trap 48: one key on two machines, the peers split between them over and over."""
    faulty = member_order(4)[seed % 2]
    attack = under({faulty: "twins"}, seed=seed, loss=5)
    for _ in range(2):
        work(attack, rounds=8)
    assert set(attack.accused) <= {faulty}


@pytest.mark.parametrize("name", ["equivocator", "double_voter", "twins", "amnesiac"])
def test_who_signs_two_contradicting_things_is_proven_guilty(name: str) -> None:
    """Traps 20, 48: honest members that saw both have the evidence, and it names the culprit only."""
    faulty = member_order(4)[0]
    attack = under({faulty: name}, seed=2)
    for _ in range(8):
        work(attack, rounds=6, cut=False)
        if attack.accused:
            break
    assert set(attack.accused) == {faulty}


@pytest.mark.parametrize(("n", "left"), [(4, 4), (5, 4), (7, 6)])
def test_the_guilty_lose_their_vote_where_enough_remain(n: int, left: int) -> None:
    """Trap 48: evidence is committed once, and takes effect with the next epoch; four stay four."""
    faulty = member_order(n)[2]
    attack = under({faulty: "double_voter"}, n, seed=2)
    cluster = attack.cluster
    for _ in range(3):
        live(attack)
        cluster.run(6_000)
    sets = {node.replica.engine.validators for node in cluster.honest}
    assert {validators.n for validators in sets} == {left}
    guilty = cluster.nodes[faulty].key.public
    assert all((validators.index(guilty) is None) == (left < n) for validators in sets)
    assert {validators.epoch for validators in sets} == {int(left < n)}


@pytest.mark.parametrize("name", ["forger", "garbage", "bogus_checkpoint"])
def test_what_is_forged_or_malformed_is_refused_and_its_sender_known(name: str) -> None:
    """Traps 34, 35, 43: a reader survives every frame, and only the sender is to blame."""
    faulty = member_order(4)[2]
    attack = under({faulty: name}, seed=3)
    work(attack)
    blamers = Counter(index for index, _ in attack.cluster.blamed)
    assert set(attack.blames) == {faulty}
    assert all(blamers[node.index] > 10 for node in attack.cluster.honest)


@pytest.mark.parametrize(("n", "name"), [(4, "phantom_leader"), (4, "silent"), (4, "skewed_time"), (7, "equivocator")])
def test_a_leader_who_keeps_blocks_from_being_made_is_replaced(n: int, name: str) -> None:
    """Traps 18, 44."""
    faulty = member_order(n)[0]
    attack = under({faulty: name}, n, seed=4)
    work(attack, cut=False)
    assert not attack.is_led_by(faulty)


@pytest.mark.parametrize("name", ["censor", "member_censor"])
def test_a_leader_who_censors_is_replaced_though_he_makes_blocks(name: str) -> None:
    """Trap 18: the victim's work waits ten patiences and a view change at most, while everyone else's goes on."""
    faulty = member_order(4)[0]
    attack = under({faulty: name}, seed=5)
    cluster = attack.cluster
    victim = cluster.nodes[faulty].victim  # type: ignore[attr-defined]
    index = next(node.index for node in cluster.nodes if node.key.public == victim)
    other = next(node.index for node in cluster.honest if node.index != index)
    payer = index if name == "censor" else other
    while cluster._sent % cluster.options.n != (payer - 1) % cluster.options.n:
        cluster._sent += 1
    censored = cluster.transfer(at=index)
    began_ms = cluster.now_ms
    while not cluster.final_everywhere([censored]):
        while (cluster._sent + 1) % cluster.options.n == index:
            cluster._sent += 1
        cluster.transfer(at=other)
        cluster.run(300)
        assert cluster.now_ms - began_ms < LIVE_MS
    assert not attack.is_led_by(faulty)
    assert cluster.now_ms - began_ms > QUICK.view_timeout_ms
    live(attack)


def test_a_leader_who_leaves_one_out_delays_nobody_for_long() -> None:
    """Trap 18: the one he never speaks to, and whose batches he never takes, has its work done in time."""
    attack = under({member_order(4)[0]: "excluder"}, seed=6)
    for _ in range(4):
        live(attack)
        attack.cluster.run(1_500)


@pytest.mark.parametrize(("n", "name"), [(4, "dawdler"), (7, "half_leader")])
def test_a_leader_who_is_slow_but_alive_is_replaced(n: int, name: str) -> None:
    """Trap 18: each proposal comes just before patience ends, or reaches half and is passed on from there: it adds up,
    and the waiting ends with the view.
    """
    attack = under({member_order(n)[0]: name}, n, seed=6)
    cluster = attack.cluster
    while attack.is_led_by(member_order(n)[0]):
        live(attack)
        assert cluster.now_ms < 60 * QUICK.view_timeout_ms
    began_ms = cluster.now_ms
    live(attack)
    assert cluster.now_ms - began_ms < QUICK.view_timeout_ms // 2


def test_members_are_redeemed_once_they_behave() -> None:
    """Trap 19: a faulty leader that was replaced leads again when its turn comes and it has stopped."""
    order = member_order(4)
    attack = under({order[0]: "silent"}, seed=7)
    cluster = attack.cluster
    work(attack, cut=False)
    assert not attack.is_led_by(order[0])
    reformed = cluster.nodes[order[0]]
    reformed.say = lambda key, message: (message,)  # type: ignore[attr-defined]
    reformed.pass_on = lambda key, kind, payload: (payload,)  # type: ignore[attr-defined]
    for index in order[1:]:
        cluster.nodes[index].crash()
        live_ids = [cluster.transfer(at=node.index) for node in cluster.honest if node.alive]
        assert cluster.run(LIVE_MS, lambda ids=live_ids: cluster.final_everywhere(ids))  # type: ignore[misc]
        cluster.nodes[index].boot()
        cluster.run(1_000)
    assert {view % 4 for view in attack.views()} == {0}
    live(attack)


def test_a_new_leader_who_hides_what_is_locked_changes_nothing_decided() -> None:
    """Traps 6, 7: one member saw the commits; the next leader picks the emptiest view changes there are."""
    order = member_order(4)
    attack = under({order[1]: "forgetful_new_view"}, seed=8)
    cluster = attack.cluster
    lucky, leader = cluster.nodes[order[2]], cluster.nodes[order[0]]
    transmit = cluster.transmit
    shown: list[NewView] = []

    def see(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        message = decode_message(payload) if kind is Kind.VOTE else None
        if isinstance(message, NewView):
            shown.append(message)
        if isinstance(message, Vote) and message.phase is Phase.COMMIT and message.view == 0:
            return key == lucky.key.public
        return kind is not Kind.BLOCK_RESPONSE

    tap(cluster, see)
    first = cluster.transfer(at=leader.index)
    assert cluster.run(2_000, lambda: lucky.replica.store.receipt(first) is not None)
    decided = lucky.replica.store.block(1)
    assert decided is not None
    assert cluster.run(LIVE_MS, lambda: bool(shown))
    cluster.transmit = transmit  # type: ignore[method-assign]
    live(attack, [first])
    again = leader.replica.store.block(1)
    assert again is not None
    assert again.proposal.digest == decided.proposal.digest
    assert any(not claim.locks for claim in shown[0].claims)


def test_wrong_state_roots_of_one_do_not_keep_checkpoints_from_becoming_stable() -> None:
    """Trap 31: the quorum of equal votes is found without it, and its certificate is right."""
    attack = under({member_order(4)[1]: "wrong_root"}, seed=9)
    for _ in range(QUICK.checkpoint_interval + 2):
        live(attack)
    for node in attack.cluster.honest:
        certificate = node.replica.engine.checkpoints.certificate
        assert certificate is not None
        assert certificate.height >= QUICK.checkpoint_interval
        assert certificate.state_root == attack.cluster.roots[certificate.height]


def test_block_times_stay_near_the_clocks_of_the_honest() -> None:
    """Trap 44: with a leader an hour fast and an hour slow, time is monotone and within the bound."""
    attack = under({member_order(4)[0]: "skewed_time"}, seed=10)
    work(attack)
    cluster = attack.cluster
    store = cluster.honest[0].replica.store
    times = [
        header.time_ms for height in range(1, store.tip.height + 1) if (header := store.header(height)) is not None
    ]
    assert times == sorted(times)
    assert times[-1] <= WALL_MS + cluster.now_ms + QUICK.clock_drift_ms_max


@pytest.mark.parametrize(
    ("name", "table", "limit"),
    [
        ("vote_flood", "future", 256),
        ("vote_flood", "view_changes", 4),
        ("vote_flood", "suspects", 4),
        ("vote_flood", "slots", QUICK.checkpoint_interval + 2 * QUICK.window),
        ("window_jumper", "slots", QUICK.checkpoint_interval + 2 * QUICK.window),
        ("phantom_leader", "available", 64),
    ],
)
def test_floods_fill_no_table(name: str, table: str, limit: int) -> None:
    """Trap 33: whatever one member signs, memory is that of an honest one."""
    attack = under({member_order(4)[0]: name}, seed=11)
    largest = 0
    for _ in range(8):
        live(attack)
        attack.cluster.run(500)
        largest = max(largest, *(node.replica.engine.table_sizes()[table] for node in attack.cluster.honest))
    assert largest <= limit


def test_a_flood_of_tiny_batches_is_cut_off_at_the_senders_share() -> None:
    """Trap 38: others' work is ordered meanwhile."""
    faulty = member_order(4)[3]
    attack = under({faulty: "batch_flood"}, seed=12)
    key = attack.cluster.nodes[faulty].key.public
    pools = [node.replica.pool for node in attack.cluster.honest]
    limit = 40
    for pool in pools:
        object.__setattr__(pool.config, "held_batches_per_peer_max", limit)
    largest = 0
    for _ in range(10):
        live(attack)
        attack.cluster.run(500)
        largest = max(largest, *(pool._held_count[key] for pool in pools))
    assert 0 < largest <= limit + 8  # those that a proposal needs are taken beyond it


def test_a_flood_of_requests_is_answered_within_the_allowance() -> None:
    """Trap 39: asking costs the one who asks; nobody sends more than the budget of a peer."""
    faulty = member_order(4)[3]
    attack = under({faulty: "request_flood"}, seed=13)
    cluster = attack.cluster
    key = cluster.nodes[faulty].key.public
    work(attack, cut=False)
    for node in cluster.nodes:
        if node.index == faulty:
            node.PER_ACT = 200  # type: ignore[attr-defined]
    answered: Counter[int] = Counter()

    def see(sender: SimulatedNode, to: bytes, kind: Kind, payload: bytes) -> bool:
        if to == key and kind in (Kind.BLOCK_RESPONSE, Kind.BATCH_RESPONSE, Kind.VOTE):
            answered[sender.index] += len(payload)
        return True

    began_ms = cluster.now_ms
    tap(cluster, see)
    live(attack)
    budget = BUDGET_BYTES_MAX + REFILL_BYTES_PER_MS * (cluster.now_ms - began_ms)
    assert 0 < max(answered.values()) <= budget


def follow(attack: Attack, blocks: int) -> SimulatedNode:
    """Blocks that a follower hears of only afterwards; it then catches up, asking whoever says he has them."""
    cluster = attack.cluster
    follower = cluster.nodes[cluster.options.n]
    cluster.partition(set(range(cluster.options.n)))
    members = [node for node in cluster.honest if node is not follower]
    while max(node.replica.store.tip.height for node in members) < blocks:
        cluster.transfer(at=members[0].index)
        cluster.run(100)
    assert follower.replica.store.tip.height == 0
    cluster.heal()
    return follower


@pytest.mark.parametrize("name", ["lying_blocks", "lying_status"])
def test_catching_up_is_not_misled_by_liars(name: str) -> None:
    """Traps 27, 28: wrong transactions, more of them, another block's certificate; heights too high, then lower."""
    faulty = member_order(4)[1]
    attack = under({faulty: name}, seed=14, followers=1)
    follower = follow(attack, 64)
    began_ms = attack.cluster.now_ms
    live(attack)
    assert attack.cluster.now_ms - began_ms <= LIVE_MS
    assert follower.replica.store.tip.height >= 64
    if name == "lying_blocks":
        assert attack.blames[faulty] >= 1


def test_a_batch_shown_to_one_member_only_stops_no_block() -> None:
    """Trap 18: who orders it must have shown it, or is passed by; who lacks it asks those who vouched for it."""
    for member in (0, 1):
        attack = under({member_order(4)[member]: "batch_withholder"}, seed=15)
        work(attack)


def test_a_batch_that_expires_while_its_block_is_decided_is_still_there_to_be_executed() -> None:
    """Found by the batch flood: all dropped what had expired, then decided a block that ordered it, and stood still."""
    cluster = cluster_of()
    leader = by_member(cluster, 0)
    while min(cluster.heights()) < QUICK.checkpoint_interval - 1:
        cluster.transfer(at=leader.index)
        cluster.run(50)
    held: list[tuple[SimulatedNode, bytes, Kind, bytes]] = []
    transmit = cluster.transmit

    def see(sender: SimulatedNode, key: bytes, kind: Kind, payload: bytes) -> bool:
        message = decode_message(payload) if kind is Kind.VOTE else None
        is_commit = isinstance(message, Vote) and message.phase is Phase.COMMIT
        if isinstance(message, CheckpointVote) or (is_commit and message.height > QUICK.checkpoint_interval):  # type: ignore[union-attr]
            held.append((sender, key, kind, payload))
            return False
        return True

    tap(cluster, see)
    cluster.transfer(at=leader.index)
    cluster.run(100)
    assert set(cluster.heights()) == {QUICK.checkpoint_interval}
    expired = Transaction.create(key_of(0), cluster.genesis.chain_id, "a.b", (), nonce=bytes(16), valid_until=1)
    batch = Batch((expired.wire,))
    for node in cluster.nodes:
        node.replica.pool.add(batch, None, node.now_ms())
        node.replica._step(BatchAvailable(batch.digest, 1, len(batch.wire)))
    slots = [node.replica.engine.slots for node in cluster.nodes]
    height = QUICK.checkpoint_interval + 1
    assert cluster.run(500, lambda: all(height in table and table[height].prepared is not None for table in slots))
    cluster.run(30)  # all commits are durable, and held back
    cluster.transmit = transmit  # type: ignore[method-assign]
    for late in (CheckpointVote, Vote):
        for sender, key, kind, payload in held:
            if isinstance(decode_message(payload), late):
                cluster.transmit(sender, key, kind, payload)
        cluster.run(50)
        assert all(node.replica.engine.checkpoints.stable == QUICK.checkpoint_interval for node in cluster.nodes)
    last = cluster.transfer(at=leader.index)
    assert cluster.run(LIVE_MS, lambda: cluster.final_everywhere([last, expired.id]))


def test_a_decided_change_of_validators_takes_effect_though_the_leader_dies_and_nobody_has_work() -> None:
    """Found by scenario 14: empty blocks are owed until the epoch's end, and only the next leader can make them."""
    cluster = cluster_of(5)
    leader = by_member(cluster, 0)
    membership(cluster, (), (leader.key.public,))
    end = cluster.honest[0].replica.engine.epoch_end
    assert end is not None
    leader.crash()
    assert cluster.run(LIVE_MS, lambda: min(cluster.heights()) >= end)
    assert {node.replica.engine.validators.epoch for node in cluster.nodes if node.alive} == {1}
