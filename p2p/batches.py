"""The batch pool: transactions on their way into a block, as a pure core (docs/protocol.md, section 2).

A node that accepts clients' transactions packs them into batches, by count, size or age, and spreads each batch once.
Everyone holds what arrives, with all signatures checked, until it is ordered. What a proposal needs and is missing is
asked for, from one peer after another.

Bounded by bytes, of what is still to be checked as well: local submissions are refused with POOL_FULL (retryable) when
more waits than the chain executes in `backlog_ms_max` and some round trips; each peer, and this node's own clients, may
occupy only a share of the room for batches, so a flood costs the flooder alone.

Must not know: networks, clocks (time is an argument), signatures.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from ledger.errors import Code, Reject
from ledger.transaction import BATCH_SIZE_BYTES_MAX, Batch, Transaction

# So much of a transaction counts as one more: those of bulk events take up to fifty times as long as a transfer.
WORK_BYTES = 2_048
FRAMING_BYTES = 5  # msgpack header of one transaction in a batch
SPREAD_AGAIN_BATCHES = 4  # at a time: two megabytes at most
SPREAD_DOUBLINGS_MAX = 2
FETCH_TIMEOUT_MS = 500  # before the next peer is asked for the same batch
FETCH_DIGESTS_MAX = 64  # asked of one peer at a time: what a BATCH_REQUEST carries
WANTED_MAX = 8_192  # two log windows of full proposals; beyond it the longest-sought are given up
# Two until a batch is spread, proposed, prepared and committed; a leader who begins no more blocks than are decided
# lets it wait for as long again.
ROUND_TRIPS = 4
ROUND_TRIPS_MIN = 2
_HEAD_BYTES = 64  # of a batch, beyond its transactions
_STRANGERS = "strangers"  # all that have no vote, as one peer
# A chain that makes transactions wait so many times too long takes that much less. Not less still: where they wait for
# disks or a leader, and not for processors, fewer of them wait as long.
SLOWNESS_MAX = 2
ORDERED_KEPT = 2_048  # ordered batches remembered, so that late copies are not offered again


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Limits of one pool."""

    batch_txs_max: int = 500  # genesis: parameters.batch_txs_max
    batch_bytes_max: int = BATCH_SIZE_BYTES_MAX - _HEAD_BYTES
    # The longest a transaction waits for company where blocks are quick; not at all while none of ours is ordered.
    batch_age_ms_max: int = 25
    batch_txs_soon: int = 100  # enough for a batch of its own, however young: its fixed costs are spread by then
    # More unexecuted work than this is refused, beside what is on its way: waiting longer helps nobody.
    backlog_ms_max: int = 220
    backlog_min: int = 500  # `work` taken by an idle chain, whose pace nobody knows; less the longer it waits
    held_bytes_max: int = 96 * 1024 * 1024  # all batches not yet ordered
    held_bytes_per_peer_max: int = 24 * 1024 * 1024  # of those, from one peer, or waiting of our own
    held_bytes_strangers_max: int = 32 * 1024 * 1024  # from all that have no vote together: they leave members room
    checking_bytes_urgent_max: int = 16 * 1024 * 1024  # beyond it, what proposals need has no more room than the rest
    # Tiny batches cost more than their bytes, and the engine lists only so many (AVAILABLE_MAX): a flood of them must
    # not crowd out those of others. An honest node cuts 125 a second at most.
    held_batches_per_peer_max: int = 1_024  # or of all that have no vote together
    held_batches_max: int = 8_192


@dataclass(slots=True)
class _Held:
    batch: Batch
    origin: Hashable  # None: our own
    since_ms: int
    size_bytes: int
    spread_at_ms: int
    spread_count: int = 0


@dataclass(slots=True)
class _Wanted:
    holder: Hashable = None  # who said it has it
    asked: list[Hashable] = field(default_factory=list)
    asked_at_ms: int = -FETCH_TIMEOUT_MS


class BatchPool:
    """See the module's text. One per node."""

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self._open: list[Transaction] = []
        self._open_bytes = 0
        self._open_since_ms = 0
        self._known: set[bytes] = set()  # ids of local transactions not yet executed
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._checking: dict[bytes, tuple[Hashable, int]] = {}  # admitted, signatures not checked yet: origin, bytes
        self._checking_bytes = 0
        self._held_bytes: dict[Hashable, int] = {}  # of both
        self._held_count: Counter[Hashable] = Counter()
        self._held_work = 0
        self._ordered: OrderedDict[bytes, None] = OrderedDict()
        self._wanted: OrderedDict[bytes, _Wanted] = OrderedDict()  # the one sought longest stands first
        self._rate = 0.0  # executed per millisecond, smoothed
        self._rated_at_ms: int | None = None
        self._waited_ms = 0  # from the cut of our own batches to their execution, smoothed
        self.round_trip_ms = 0  # to as many validators as a decision takes

    # Clients' transactions

    def submit(self, tx: Transaction, now_ms: int) -> bool:
        """Take a checked transaction; False if it is here already. Raises Reject(POOL_FULL) under overload."""
        if tx.id in self._known:
            return False
        if not self.room:
            raise Reject(Code.POOL_FULL, len(self._known))
        size_bytes = len(tx.wire) + FRAMING_BYTES
        if self._open_bytes + self._held_bytes.get(None, 0) + size_bytes > self.config.held_bytes_per_peer_max:
            raise Reject(Code.POOL_FULL, len(self._known))
        if not self._open:
            self._open_since_ms = now_ms
        self._open.append(tx)
        self._open_bytes += size_bytes
        self._known.add(tx.id)
        return True

    @property
    def room(self) -> int:
        """How much more local work would be taken now: what the chain has room for, but never less than our share of
        it, so that nobody else's clients can shut out ours."""
        most = self.backlog_max
        room = most - self._held_work - work(len(self._open), self._open_bytes)
        others = len(self._held_count) - (None in self._held_count)
        own = work(len(self._known), self._open_bytes + self._held_bytes.get(None, 0))
        return max(0, room, max(1, most // (1 + others)) - own)

    @property
    def backlog_max(self) -> int:
        """How much work may wait, whoever took it, from how fast the chain executes and how long it waited of late.
        Over a long distance much is on its way and waits for nobody."""
        waits_ms = self._waits_ms
        floor = self.config.backlog_min * waits_ms // max(self._waited_ms, waits_ms)
        return max(floor, int(self._rate * waits_ms))

    @property
    def _waits_ms(self) -> int:
        """How long a transaction may wait."""
        return max(1, self.config.backlog_ms_max + ROUND_TRIPS * self.round_trip_ms)

    @property
    def _age_ms_max(self) -> int:
        """How long a transaction may wait for company: half as long as our last batches waited for their blocks, less
        the distance. Where that is long they wait for processors, which fewer batches leave more to, or for a leader to
        begin another block, and company costs no time."""
        waited_ms = self._waited_ms - ROUND_TRIPS_MIN * self.round_trip_ms
        return max(self.config.batch_age_ms_max, waited_ms // 2)

    def cut_due_ms(self) -> int | None:
        """When the open batch must be cut at the latest; None when there is none."""
        return self._open_since_ms + self._age_ms_max if self._open else None

    def cut(self, now_ms: int) -> list[Batch]:
        """The batches that are due now, each already held; spread them. Natural batching: at once when none of ours is
        on its way into a block, so that they grow as the chain gets slower.
        """
        batches = []
        while self._open:
            enough = len(self._open) >= min(self.config.batch_txs_soon, self.config.batch_txs_max)
            enough = enough or self._open_bytes >= self.config.batch_bytes_max
            old = now_ms - self._open_since_ms >= self._age_ms_max
            if not enough and not old and self._held_count[None]:
                break
            batches.append(self._cut_one(now_ms))
        return batches

    def _cut_one(self, now_ms: int) -> Batch:
        count, size_bytes = 0, 0
        for tx in self._open[: self.config.batch_txs_max]:
            size_bytes += len(tx.wire) + FRAMING_BYTES
            if count and size_bytes > self.config.batch_bytes_max:
                break
            count += 1
        taken, self._open = self._open[:count], self._open[count:]
        self._open_bytes = sum(len(tx.wire) + FRAMING_BYTES for tx in self._open)
        batch = Batch(tuple(tx.wire for tx in taken))
        batch.__dict__["transactions"] = tuple(taken)  # decoded already
        self._hold(batch, None, now_ms)
        return batch

    # Batches

    def admit(self, digest: bytes, size_bytes: int, origin: Hashable, members: Collection[Hashable]) -> bool:
        """Whether a peer's batch should be checked and held: it is new, and the peer has room left, and so have those
        together that are none of `members`. Its room is taken from now on: `add` or `reject` follows."""
        if digest in self._held or digest in self._checking:
            return False
        urgent = digest in self._wanted and self._checking_bytes <= self.config.checking_bytes_urgent_max
        if not urgent and not self._has_room(digest, size_bytes, origin, members):
            return False
        self._checking[digest] = origin, size_bytes
        self._checking_bytes += size_bytes
        self._occupy(origin, size_bytes)
        return True

    def _has_room(self, digest: bytes, size_bytes: int, origin: Hashable, members: Collection[Hashable]) -> bool:
        if digest in self._ordered:
            return False
        config, members = self.config, frozenset(members)  # asked for each peer below, and there may be 128 of both
        used, count = Counter(self._held_bytes), self._held_count.copy()
        used[origin] += size_bytes
        count[origin] += 1
        batch_bytes_max = config.batch_bytes_max + _HEAD_BYTES
        bytes_max, count_max = config.held_bytes_per_peer_max, config.held_batches_per_peer_max
        if origin not in members:  # one of them leaves others room
            bytes_max = min(bytes_max, max(config.held_bytes_strangers_max // 4, batch_bytes_max))
            count_max //= 4
            strangers = [one for one in used if one is not None and one not in members]
            if sum(used[one] for one in strangers) > config.held_bytes_strangers_max:
                return False
            if sum(count[one] for one in strangers) > config.held_batches_per_peer_max:
                return False
        return (
            used[origin] <= bytes_max
            and count[origin] <= count_max
            and _is_fair(used, origin, members, config.held_bytes_max, batch_bytes_max)
            and _is_fair(count, origin, members, config.held_batches_max, 1)
        )

    def is_checking(self, digest: bytes) -> bool:
        """Whether it was admitted and is not checked yet."""
        return digest in self._checking

    def reject(self, digest: bytes) -> None:
        """What was admitted is bad, or not needed any more."""
        origin, size_bytes = self._checking.pop(digest)
        self._checking_bytes -= size_bytes
        self._vacate(origin, size_bytes)

    def add(self, batch: Batch, origin: Hashable, now_ms: int) -> None:
        """Hold a batch whose signatures were all checked."""
        if batch.digest in self._checking:
            self.reject(batch.digest)
        self._wanted.pop(batch.digest, None)
        if batch.digest not in self._held:
            self._hold(batch, origin, now_ms)

    def _hold(self, batch: Batch, origin: Hashable, now_ms: int) -> None:
        self._release(batch.digest)  # a client's transactions, sent to two nodes, may make the same batch at both
        size_bytes = len(batch.wire)
        self._held[batch.digest] = _Held(batch, origin, now_ms, size_bytes, now_ms)
        self._occupy(origin, size_bytes)
        self._held_work += work(len(batch.wires), size_bytes)

    def _release(self, digest: bytes) -> None:
        held = self._held.pop(digest, None)
        if held is not None:
            self._held_work -= work(len(held.batch.wires), held.size_bytes)
            self._vacate(held.origin, held.size_bytes)

    def _occupy(self, origin: Hashable, size_bytes: int) -> None:
        self._held_bytes[origin] = self._held_bytes.get(origin, 0) + size_bytes
        self._held_count[origin] += 1

    def _vacate(self, origin: Hashable, size_bytes: int) -> None:
        left_bytes = self._held_bytes.pop(origin) - size_bytes
        left_count = self._held_count.pop(origin) - 1
        if left_bytes:  # no entries for peers that have nothing here
            self._held_bytes[origin] = left_bytes
            self._held_count[origin] = left_count

    def get(self, digest: bytes) -> Batch | None:
        held = self._held.get(digest)
        return None if held is None else held.batch

    def held(self) -> list[Batch]:
        """All batches not yet ordered, oldest first."""
        return [held.batch for held in self._held.values()]

    def is_ordered(self, digest: bytes) -> bool:
        return digest in self._ordered

    def ordered(self, batches: Sequence[Batch], now_ms: int) -> None:
        """These were executed: make room, and learn how fast the chain is."""
        done, known = 0, len(self._known)
        mine = [held for batch in batches if (held := self._held.get(batch.digest)) and held.origin is None]
        if mine:  # others may send us theirs whenever they like
            waited_ms = min(now_ms - min(held.since_ms for held in mine), SLOWNESS_MAX * self._waits_ms)
            self._waited_ms = (3 * self._waited_ms + waited_ms) // 4
        for batch in batches:
            self._release(batch.digest)
            self._wanted.pop(batch.digest, None)
            self._ordered[batch.digest] = None
            done += work(len(batch.wires), len(batch.wire))
            self._known.difference_update(batch.tx_ids)
        if len(self._known) < known:  # a client sent it to others, too: nobody would order it again
            self._open = [tx for tx in self._open if tx.id in self._known]
            self._open_bytes = sum(len(tx.wire) + FRAMING_BYTES for tx in self._open)
        while len(self._ordered) > ORDERED_KEPT:
            self._ordered.popitem(last=False)
        self._learn_rate(done, now_ms)

    def _learn_rate(self, done: int, now_ms: int) -> None:
        if self._rated_at_ms is not None:
            elapsed_ms = max(1, now_ms - self._rated_at_ms)
            weight = min(1.0, elapsed_ms / 1_000)
            self._rate += (done / elapsed_ms - self._rate) * weight
        self._rated_at_ms = now_ms

    def drop_expired(self, height: int, keep: Collection[bytes] = ()) -> list[bytes]:
        """Forget batches of which nothing can be executed at `height` or later, but none of `keep`; their digests."""
        gone = [one for one, held in self._held.items() if held.batch.valid_until < height and one not in keep]
        for digest in gone:
            self._known.difference_update(self._held[digest].batch.tx_ids)
            self._release(digest)
        return gone

    def to_spread_again(self, now_ms: int, after_ms: int) -> list[Batch]:
        """Batches still not ordered after a while: whoever should order them may lack them.

        Each waits twice as long for its next turn, and few go at once: a chain that is merely slow must not be slowed
        down further by copies of what it holds.
        """
        waiting = (held for held in self._held.values() if now_ms - held.spread_at_ms >= after_ms << held.spread_count)
        due = list(islice(waiting, SPREAD_AGAIN_BATCHES))
        for held in due:
            held.spread_at_ms = now_ms
            held.spread_count = min(held.spread_count + 1, SPREAD_DOUBLINGS_MAX)
        return [held.batch for held in due]

    # Fetching

    def want(self, digests: Iterable[bytes], holder: Hashable = None) -> None:
        """These are needed and not held; `holder` is asked first, since who proposes a batch has it."""
        for digest in digests:
            if digest not in self._held:
                self._wanted.setdefault(digest, _Wanted(holder))
        while len(self._wanted) > WANTED_MAX:
            self._wanted.popitem(last=False)

    def unwant(self, digests: Iterable[bytes]) -> None:
        for digest in digests:
            self._wanted.pop(digest, None)

    def plan_fetches(
        self, members: Sequence[Hashable], others: Sequence[Hashable], now_ms: int
    ) -> dict[Hashable, list[bytes]]:
        """Whom to ask for what now: each batch from one peer at a time, another after a timeout. Members first, who
        vouch for it while it is proposed; however many others are connected, that must not take longer.

        At most FETCH_DIGESTS_MAX a peer, those asked for longest ago first: batches that exist nowhere, which a faulty
        leader may propose by the thousand, cannot keep the others from being asked for.
        """
        plan: dict[Hashable, list[bytes]] = {}
        for digest, wanted in sorted(self._wanted.items(), key=lambda item: item[1].asked_at_ms):
            if now_ms - wanted.asked_at_ms < FETCH_TIMEOUT_MS:
                continue
            fresh = [peer for peer in members if peer not in wanted.asked]
            fresh = fresh or [peer for peer in others if peer not in wanted.asked]
            if not fresh:
                wanted.asked.clear()
                fresh = list(members or others)
            if fresh:
                spread = fresh[int.from_bytes(digest[-2:], "big") % len(fresh)]
                peer = wanted.holder if wanted.holder in fresh else spread
                if len(plan.get(peer, ())) == FETCH_DIGESTS_MAX:
                    continue
                wanted.asked.append(peer)
                wanted.asked_at_ms = now_ms
                plan.setdefault(peer, []).append(digest)
        return plan

    def is_wanted(self, digest: bytes) -> bool:
        return digest in self._wanted

    # For status

    def knows(self, tx_id: bytes) -> bool:
        """Whether a client's transaction is here and not yet executed."""
        return tx_id in self._known

    @property
    def waiting_txs(self) -> int:
        return len(self._known)

    @property
    def waiting_since_ms(self) -> int | None:
        """When the oldest of what waits came here, from whomever; None if nothing waits."""
        for held in self._held.values():  # oldest first
            return held.since_ms
        return self._open_since_ms if self._open else None

    def sizes(self) -> dict[str, int]:
        return {
            "transactions": len(self._known),
            "batches": len(self._held),
            "bytes": sum(self._held_bytes.values()) + self._open_bytes,
            "wanted": len(self._wanted),
        }


def work(txs: int, size_bytes: int) -> int:
    """How much there is to execute, counted in small transactions."""
    return txs + size_bytes // WORK_BYTES


def _is_fair(
    used: Mapping[Hashable, int], origin: Hashable, members: Collection[Hashable], total_max: int, part_min: int
) -> bool:
    """Whether the room that `used` takes leaves each member its part of half the whole, and one to all others together,
    or `origin` is within its own: however many fill the other half together, the rest are heard."""
    half = total_max // 2
    part = max(half // (len(members) + 1), part_min)
    sizes: Counter[Hashable] = Counter()
    for one, size in used.items():
        sizes[one if one is None or one in members else _STRANGERS] += size
    if sizes[origin if origin in members else _STRANGERS] <= part:
        return True
    return sum(size if one is None else max(0, size - part) for one, size in sizes.items()) <= half
