"""The plan of one run: conditions, timed faults and who is lost at the end, all drawn from the seed; data that can be
written to a file, edited, shrunk and run again.

Every seed draws which kinds of faults it has at all and how often (swarm testing): runs that have everything at once
hide what runs with only two kinds find.

Must not know: clusters.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from ledger.genesis import Parameters
from ledger.validators import faulty_max
from tests.simulation.options import EVERYONE, Options

FORMAT = "medchain/simulation-plan/1"
SIZES = [4] * 10 + [5] * 4 + [6] * 3 + [7] * 4 + [8, 9, 10, 13]
LOSABLE = (
    "pre_prepare", "vote", "checkpoint", "suspect", "timeout", "view_change", "new_view", "status", "batch",
    "batch_request", "batch_response", "block_request", "block_response", "certified", "epoch_response",
)  # fmt: skip
# Families of plans: courses of faults that chance alone would hardly find.
LONG_CHAIN, CHANGING_MEMBERS, MISSED_EPOCHS = "long chain", "changing members", "missed epochs"
LEAVING_BEHIND, FORGETTING, SPLIT_LOCKS, EMPTY_HANDS = "leaving behind", "forgetting", "split locks", "empty hands"
FAMILIES = (LONG_CHAIN, CHANGING_MEMBERS, MISSED_EPOCHS, LEAVING_BEHIND, FORGETTING, SPLIT_LOCKS, EMPTY_HANDS)
FIRST_LEADER = 1  # the node that leads view 0 of the first set: its key is the lowest
# Strategies of what a leader does: they show nothing while another one leads.
LEADERS = (
    "equivocator", "forgetful_new_view", "skewed_time", "dawdler", "censor", "member_censor", "half_leader",
    "phantom_leader", "turncoat", "repeater", "necromancer",
)  # fmt: skip
LOST_MODES = ("dead", "deaf", "mute", "cut off")
Fault = dict[str, Any]  # at_ms, kind and what the kind needs (runs.py carries them out)


@dataclass
class Plan:
    """`lost`: who is given up before the last phase, in order of preference, and how. `family`: which course its faults
    follow, if they were drawn for one; not in files."""

    seed: int
    options: Options
    faults: list[Fault] = field(default_factory=list)
    end_ms: int = 8_000  # of the first phase
    lost: list[tuple[int, str]] = field(default_factory=list)
    family: str = ""

    def to_json(self) -> str:
        head = {
            "format": FORMAT,
            "seed": self.seed,
            "end_ms": self.end_ms,
            "options": self.options.to_json(),
            "lost": [list(item) for item in self.lost],
        }
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        faults = ",\n".join(f"    {json.dumps(fault)}" for fault in self.faults)
        return "{\n" + ",\n".join(lines) + ',\n  "faults": [\n' + faults + "\n  ]\n}\n"

    @classmethod
    def from_value(cls, value: Any) -> Plan:
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ValueError(f"format must be {FORMAT}")
        lost = [(int(index), str(mode)) for index, mode in value["lost"]]
        return cls(value["seed"], Options.from_json(value["options"]), value["faults"], value["end_ms"], lost)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        return cls.from_value(json.loads(text))


def draw_plan(seed: int, strategies: list[str]) -> Plan:
    """The plan a seed stands for; `strategies` are those a Byzantine member may follow."""
    random = Random(seed * 7_919 + 1)
    options = draw_options(random, strategies)
    end_ms = random.choice([2_000, 4_000, 6_000, 6_000, 10_000, 15_000])
    faults, family = draw_faults(random, options, end_ms), ""
    if random.randrange(12) == 0:
        family, end_ms = LONG_CHAIN, max(end_ms, 6_000)
        _draw_long_chain(random, options, faults, end_ms)
    elif random.randrange(12) == 0:
        family, end_ms = CHANGING_MEMBERS, max(end_ms, 10_000)
        faults = _draw_changing_members(random, options, faults, end_ms)
    elif random.randrange(12) == 0:
        family, end_ms = MISSED_EPOCHS, max(end_ms, 8_000)
        faults = _draw_missed_epochs(random, options, end_ms, strategies)
    elif random.randrange(8) == 0:
        family, end_ms = LEAVING_BEHIND, max(end_ms, 8_000)
        faults = _draw_leaving_behind(random, options, end_ms, strategies)
    elif random.randrange(8) == 0:
        family, end_ms = FORGETTING, 8_000
        faults = _draw_forgetting(random, options, end_ms, strategies)
    elif random.randrange(4) == 0:
        _favour_lying_blocks(options)
    elif random.randrange(5) == 0:
        family, faults = SPLIT_LOCKS, _draw_split_locks(random, options, end_ms)
    elif random.randrange(4) == 0:
        family, faults = EMPTY_HANDS, _draw_empty_hands(random, options, end_ms)
    return Plan(seed, options, faults, end_ms, _draw_lost(random, options), family)


def _favour_lying_blocks(options: Options) -> None:
    """Where nodes fetch what they were not there to see, have one that lies about it among those who are asked."""
    if options.followers and options.byzantine:
        options.byzantine[min(options.byzantine)] = "lying_blocks"


def _set_small_windows(random: Random, options: Options) -> None:
    window, checkpoint_interval = random.choice([1, 2]), random.choice([1, 2])
    log_window = checkpoint_interval + 2 * window
    options.parameters = replace(
        options.parameters,
        window=window,
        checkpoint_interval=checkpoint_interval,
        log_window=log_window,
        validity_heights_max=max(options.parameters.validity_heights_max, 2 * log_window),
    )


def _draw_changing_members(random: Random, options: Options, faults: list[Fault], end_ms: int) -> list[Fault]:
    """One epoch after the other, and power cut where its first leader has just begun to speak: what it said is on its
    way then, on its disk, and its store has perhaps not come so far; least of all if it had no part in the epoch before
    and vouched for nothing there. Or power cut for all."""
    _set_small_windows(random, options)
    options.followers = max(options.followers, 1)
    options.delay_ms = random.choice([(1, 5), (1, 5), (20, 60), (150, 200)])
    options.fsync_ms = random.choice([(0, 0), (0, 2), (1, 5)])
    if random.randrange(2):
        faults = [fault for fault in faults if fault["kind"] == "burst"]
    every_ms = random.choice([40, 100])
    faults.append({"at_ms": 100, "kind": "load", "every_ms": every_ms, "count": end_ms // every_ms})
    for at_ms in range(300, end_ms, 600):
        change = random.choice(["add", "rotate", "first leader", "first leader", "parameters"])
        cut = {
            "bounce_ms": random.choice([0, 5, 20, 60]),
            "everyone": random.randrange(2) == 0,
            "unclosed_ms": random.choice([0, 300, 300]),
        }
        fault = {**_draw_members(random, options), "change": change, **cut}
        faults.append({"at_ms": at_ms, "kind": "members", **fault})
    return sorted(faults, key=lambda fault: fault["at_ms"])


def _draw_missed_epochs(random: Random, options: Options, end_ms: int, strategies: list[str]) -> list[Fault]:
    """One epoch after the other, and followers that come by all of them at once in the end: in time to ask members who
    lie what closed each, since those leave once the rest is final."""
    _set_small_windows(random, options)
    options.followers, options.loss = 3, min(options.loss, 3)
    if strategies and random.randrange(4):
        options.byzantine = {random.randrange(options.n): "bogus_checkpoint"}
    options.delay_ms = random.choice([(1, 5), (1, 50)])
    faults: list[Fault] = [{"at_ms": 100, "kind": "partition", "groups": [list(range(options.n))]}]
    for at_ms in range(200, end_ms, 400):
        fault = {**_draw_members(random, options), "node": random.randrange(options.n), "bounce_ms": None}
        if random.randrange(3):
            fault["change"] = "parameters"  # a set with too many who hear nothing would end no epoch
        faults.append({"at_ms": at_ms, "kind": "members", **fault})
    faults.append({"at_ms": end_ms - 3_000, "kind": "heal"})
    return sorted(faults, key=lambda fault: fault["at_ms"])


def _draw_leaving_behind(random: Random, options: Options, end_ms: int, strategies: list[str]) -> list[Fault]:
    """Again and again a member wakes far behind while the others leave their view, and its power is cut as it catches
    up: how it came into the view is on its way to a slow disk, and checkpoints let the log drop old segments. One who
    leads then may offer other blocks for those that it lacks. Whoever forgets is in view 0 again, where the first
    leader has most to say."""
    _set_small_windows(random, options)
    if strategies and random.randrange(2):
        options.byzantine = {random.randrange(options.n): "backdater"}
    options.delay_ms, options.fsync_ms = random.choice([(0, 2), (1, 5)]), random.choice([(0, 2), (1, 5)])
    options.segment_bytes_max = 256
    faults: list[Fault] = [{"at_ms": 100, "kind": "load", "every_ms": 60, "count": end_ms // 60}]
    for at_ms in range(200, end_ms - 1_000, 2_000):
        behind, next_leader = random.sample(range(options.n), 2)
        if random.randrange(2) and next_leader != FIRST_LEADER:
            behind = FIRST_LEADER
        others = [index for index in range(options.n) if index != behind]
        wakes_ms = at_ms + 1_200
        leaves_ms = wakes_ms - random.choice([30, 60, 200])
        ahead_ms = options.parameters.view_timeout_ms * 4
        power, for_ms = random.randrange(2) == 0, random.choice([0, 100])
        faults += [
            {"at_ms": at_ms, "kind": "pause", "nodes": [behind], "for_ms": 1_200},
            {"at_ms": leaves_ms, "kind": "hurry", "nodes": others, "ahead_ms": ahead_ms, "spread_ms": 5},
            {"at_ms": leaves_ms + 15, "kind": "bounce", "node": next_leader, "power": True, "for_ms": 700},
            {"at_ms": wakes_ms, "kind": "stall", "node": behind, "for_ms": 150},
            {"at_ms": wakes_ms + 200, "kind": "bounce", "node": behind, "power": power, "for_ms": for_ms},
        ]
    return sorted(faults, key=lambda fault: fault["at_ms"])


def _draw_split_locks(random: Random, options: Options, end_ms: int) -> list[Fault]:
    """Again and again one member alone sees a height prepared, and is not heard as the view is left; in the next view
    another one sees something else prepared there. Then all are heard, and the later of the two must win."""
    options.loss, options.fsync_ms = min(options.loss, 3), random.choice([(0, 2), (1, 5)])
    options.delay_ms = random.choice([(0, 2), (1, 5), (1, 50)])
    everyone, ahead_ms = list(range(options.n)), 4 * options.parameters.view_timeout_ms
    faults: list[Fault] = [{"at_ms": 100, "kind": "load", "every_ms": 40, "count": end_ms // 40}]
    for at_ms in range(300, end_ms - 1_000, 1_500):
        for number, sees in enumerate(random.sample(everyone, 2)):
            begins_ms, for_ms = at_ms + 300 * number, 300
            faults += [
                {"at_ms": begins_ms, "kind": "lose", "what": ["vote"], "from": None, "to": other, "for_ms": for_ms}
                for other in everyone
                if other != sees
            ]
            ends_ms = begins_ms + for_ms - random.choice([0, 5, 20])
            if number == 0:
                unheard = {"what": ["view_change"], "from": sees, "to": None, "for_ms": random.choice([50, 200])}
                faults.append({"at_ms": ends_ms, "kind": "lose", **unheard})
            faults.append({"at_ms": ends_ms, "kind": "hurry", "nodes": everyone, "ahead_ms": ahead_ms, "spread_ms": 5})
    return sorted(faults, key=lambda fault: fault["at_ms"])


def _draw_empty_hands(random: Random, options: Options, end_ms: int) -> list[Fault]:
    """In the end one member knows what is decided and gets none of the batches; some of those whom it then asks for
    them are lost."""
    lacks = random.choice([index for index in range(options.n) if index not in options.byzantine])
    for_ms = random.choice([300, 1_000])
    unheard = {"what": ["batch", "batch_response", "block_response"], "from": None, "to": lacks, "for_ms": for_ms}
    return [
        {"at_ms": 100, "kind": "load", "every_ms": 40, "count": end_ms // 40},
        {"at_ms": end_ms - for_ms, "kind": "lose", **unheard},
    ]


def _draw_forgetting(random: Random, options: Options, end_ms: int, strategies: list[str]) -> list[Fault]:
    """All keep as few blocks as may be, and a leader has the oldest ordered again; clients use nonces again that are
    about to be forgotten. Nobody is away for long, since there would be nobody to catch up from: the peers' few blocks
    are gone before a lost answer is asked for again, so none is lost.
    """
    log_window = random.choice([12, 16])
    options.parameters = replace(
        options.parameters,
        window=random.choice([1, 2]),
        checkpoint_interval=2,
        log_window=log_window,
        block_interval_ms=1,
        validity_heights_max=2 * log_window,
    )
    options.pruning, options.followers, options.links, options.stall_permille = EVERYONE, 0, [], 0
    options.loss, options.long_delay_permille, options.disconnect_ms = 0, 0, 0
    options.delay_ms, options.fsync_ms = random.choice([(0, 2), (1, 5)]), random.choice([(0, 0), (0, 2), (1, 5)])
    digger = random.choice([FIRST_LEADER, random.randrange(options.n)])
    if strategies:
        options.byzantine = {digger: "gravedigger"}
    faults: list[Fault] = [{"at_ms": 100, "kind": "load", "every_ms": 50, "count": end_ms // 50}]
    last_bounce_ms = random.choice([2_500, end_ms])  # who starts again takes what it voted for from its log
    for at_ms in range(2_500, last_bounce_ms, 700):
        bounce = {**_draw_bounce(random, options), "for_ms": random.choice([0, 5, 100])}
        faults.append({"at_ms": at_ms + random.randrange(500), "kind": "bounce", **bounce})
    for at_ms in range(1_000, end_ms, 300):
        fault = {**_draw_nonces(random, options), "valid_for": options.parameters.validity_heights_max}
        faults.append({"at_ms": at_ms, "kind": "nonces", **fault})
    leads_ms = 5_500 if digger == FIRST_LEADER else 1_500  # it digs while it leads; then the others have their turn
    for at_ms in range(leads_ms, end_ms, 2_000):
        everyone, ahead_ms = list(range(options.n)), 2 * options.parameters.view_timeout_ms
        faults.append({"at_ms": at_ms, "kind": "hurry", "nodes": everyone, "ahead_ms": ahead_ms, "spread_ms": 5})
    return sorted(faults, key=lambda fault: fault["at_ms"])


def _draw_long_chain(random: Random, options: Options, faults: list[Fault], end_ms: int) -> None:
    """Many blocks under small windows, so that the beginning of the log is cut off again and again; in a later view,
    and with everyone started again in the end."""
    _set_small_windows(random, options)
    options.segment_bytes_max = 1024
    every_ms, everyone = random.choice([40, 100]), list(range(options.n))
    ahead_ms = 2 * options.parameters.view_timeout_ms
    faults += [
        {"at_ms": 100, "kind": "load", "every_ms": every_ms, "count": end_ms // every_ms},
        {"at_ms": 800, "kind": "hurry", "nodes": everyone, "ahead_ms": ahead_ms, "spread_ms": 5},
        {"at_ms": end_ms - 1_000, "kind": "power cut", "power": random.randrange(2) == 0, "for_ms": 0},
    ]
    faults.sort(key=lambda fault: fault["at_ms"])


def draw_parameters(random: Random) -> Parameters:
    window = random.choice([1, 2, 3, 8, 8])
    checkpoint_interval = random.choice([1, 2, 5, 10, 10])
    log_window = checkpoint_interval + 2 * window + random.choice([0, 0, 1, 10, 38])
    view_timeout_ms = random.choice([250, 400, 600, 1_000])
    batch_txs_max = random.choice([1, 3, 20, 500])
    return Parameters(
        window=window,
        checkpoint_interval=checkpoint_interval,
        log_window=log_window,
        view_timeout_ms=view_timeout_ms,
        view_timeout_ms_max=view_timeout_ms * random.choice([4, 8]),
        block_interval_ms=random.choice([1, 15, 60]),
        block_txs_max=max(batch_txs_max, random.choice([3, 20, 2_000])),
        batch_txs_max=batch_txs_max,
        clock_drift_ms_max=max(view_timeout_ms, random.choice([500, 2_000, 10_000])),
        validity_heights_max=2 * log_window + random.choice([0, 50, 1_000]),
    )


def draw_options(random: Random, strategies: list[str]) -> Options:
    n = random.choice(SIZES)
    followers = random.choice([0, 0, 1, 2, 3]) if n < 9 else random.choice([0, 0, 1])
    nodes = n + followers
    options = Options(
        n=n,
        loss=random.choice([0, 0, 0, 1, 3, 8, 20]),
        duplication=random.choice([0, 0, 0, 5, 20]),
        delay_ms=random.choice([(0, 2), (1, 5), (1, 5), (1, 5), (1, 50), (20, 60), (5, 200), (150, 200)]),
        fsync_ms=random.choice([(0, 0), (0, 2), (1, 5), (1, 5), (5, 80)]),
        followers=followers,
        parameters=draw_parameters(random),
        torn=random.randrange(2) == 0,
        segment_bytes_max=random.choice([1024, 8 * 1024, 64 * 1024 * 1024]),
        pool_txs_min=random.choice([10, 500, 500]),
        pool_bytes_per_peer_max=random.choice([4 * 1024, 24 * 1024 * 1024, 24 * 1024 * 1024]),
        ed25519=random.randrange(40) == 0,
    )
    if random.randrange(4) == 0:
        options.long_delay_permille, options.long_delay_ms = random.choice([(2, (2_000, 15_000)), (20, (300, 2_000))])
    if random.randrange(5) == 0:
        options.stall_permille, options.stall_ms = random.choice([(5, (500, 3_000)), (40, (50, 400))])
    if random.randrange(4) == 0:
        for _ in range(random.randint(1, n)):
            a, b = random.sample(range(nodes), 2)
            options.links.append((a, b, *random.choice([(0, 100), (0, 50), (150, 0), (800, 10)])))
    if random.randrange(3) == 0:
        for index in range(nodes):
            options.skew_ms[index] = random.choice([0, 0, 50, -50, 400, -400, 5_000, -3_600_000])
    if random.randrange(3) == 0:
        for index in range(nodes):
            options.drift_ppm[index] = random.choice([0, 100, -100, 20_000, -20_000])
    if random.randrange(2):
        options.disconnect_ms = random.choice([500, 3_000])
        options.reconnect_ms = random.choice([(0, 5), (50, 800)])
    if strategies and random.randrange(3):
        chosen = random.sample(range(n), random.randint(1, faulty_max(n)))
        if random.randrange(2) and FIRST_LEADER not in chosen:
            chosen[0] = FIRST_LEADER
        options.byzantine = {index: random.choice(strategies) for index in sorted(chosen)}
        if random.randrange(3) == 0 and FIRST_LEADER in chosen:
            options.byzantine[FIRST_LEADER] = random.choice(LEADERS)
    if random.randrange(3) == 0:
        options.pruning = random.randrange(nodes)
    return options


def _draw_lost(random: Random, options: Options) -> list[tuple[int, str]]:
    """As many as the set may lose beside the Byzantine ones; followers may be lost too."""
    honest = [index for index in range(options.n + options.followers) if index not in options.byzantine]
    random.shuffle(honest)
    count = random.choice([0, faulty_max(options.n), faulty_max(options.n) + options.followers // 2])
    return [(index, random.choice(LOST_MODES)) for index in honest[:count]]


# Faults


def draw_faults(random: Random, options: Options, end_ms: int) -> list[Fault]:
    """A random walk through the kinds this run has."""
    kinds = [kind for kind in _DRAW if random.randrange(3) == 0]
    weights = [random.choice([1, 1, 3]) for _ in kinds]
    work = random.choice([1, 3])
    pace_ms = random.choice([60, 250, 700])
    faults: list[Fault] = []
    at_ms = 0
    while True:
        at_ms += random.randint(pace_ms // 4, pace_ms * 2)
        if at_ms >= end_ms:
            return faults
        kind = random.choices(["burst", *kinds], [work, *weights])[0]
        fault = _draw_burst(random, options) if kind == "burst" else _DRAW[kind](random, options)
        faults.append({"at_ms": at_ms, "kind": kind, **fault})


def _any_node(random: Random, options: Options) -> int:
    return random.randrange(options.n + options.followers)


def _draw_burst(random: Random, options: Options) -> Fault:
    return {
        "node": _any_node(random, options),
        "count": random.choice([1, 1, 2, 5, 12]),
        "valid_for": random.choice([options.parameters.validity_heights_max] * 4 + [3, 20]),
        "memo_size": random.choice([0, 0, 0, 60]),
    }


def _draw_again(random: Random, options: Options) -> Fault:
    return {"node": _any_node(random, options), "count": random.choice([1, 5, 20])}


def _draw_nonces(random: Random, options: Options) -> Fault:
    """Nonces used again, for a shorter or a longer time than before."""
    return {
        "node": _any_node(random, options),
        "count": random.choice([1, 5, 20]),
        "back": random.choice([0, 0, 10, 20, 40]),
        "valid_for": random.choice([3, 20, options.parameters.validity_heights_max]),
    }


def _draw_crash(random: Random, options: Options) -> Fault:
    return {"node": _any_node(random, options), "power": random.randrange(3) > 0}


def _draw_restart(random: Random, options: Options) -> Fault:
    """Of all that are down, or of one."""
    return {"node": random.choice([None, _any_node(random, options)])}


def _draw_bounce(random: Random, options: Options) -> Fault:
    """Down and up again shortly."""
    return {**_draw_crash(random, options), "for_ms": random.choice([0, 5, 100, 1_500])}


def _draw_power_cut(random: Random, options: Options) -> Fault:
    """All at once, and back one by one."""
    return {"power": random.randrange(2) == 0, "for_ms": random.choice([0, 200, 2_000])}


def _draw_partition(random: Random, options: Options) -> Fault:
    everyone = list(range(options.n + options.followers))
    random.shuffle(everyone)
    count = len(everyone)
    match random.randrange(4):
        case 0:  # one alone
            groups = [everyone[:1], everyone[1:]]
        case 1:  # halves
            groups = [everyone[: count // 2], everyone[count // 2 :]]
        case 2:  # halves with a bridge
            groups = [everyone[: count // 2 + 1], everyone[count // 2 :]]
        case _:  # more than f, or three parts
            first, second = sorted(random.sample(range(1, count + 1), 2))
            groups = [everyone[:first], everyone[first:second], everyone[second:]]
    return {"groups": [sorted(group) for group in groups if group]}


def _draw_heal(_random: Random, _options: Options) -> Fault:
    return {}


def _draw_cut(random: Random, options: Options) -> Fault:
    """One direction between two nodes, or all that one node says or hears."""
    a, b = random.sample(range(options.n + options.followers), 2)
    return {"from": random.choice([a, a, None]), "to": random.choice([b, b, None]), "node": a}


def _draw_lose(random: Random, options: Options) -> Fault:
    """Some kinds of messages, between two nodes, from one, to one or everywhere."""
    a, b = random.sample(range(options.n + options.followers), 2)
    return {
        "what": sorted(random.sample(LOSABLE, random.choice([1, 1, 2, 4]))),
        "from": random.choice([a, None]),
        "to": random.choice([b, None]),
        "for_ms": random.choice([100, 500, 2_000, 8_000]),
    }


def _draw_pause(random: Random, options: Options) -> Fault:
    nodes = random.sample(range(options.n + options.followers), random.choice([1, 1, faulty_max(options.n) + 1]))
    return {"nodes": sorted(nodes), "for_ms": random.choice([300, 1_500, 1_500, 6_000, 6_000, 60_000])}


def _draw_clock(random: Random, options: Options) -> Fault:
    return {"node": _any_node(random, options), "jump_ms": random.choice([-5_000, -300, 300, 5_000, 3_600_000])}


def _draw_hurry(random: Random, options: Options) -> Fault:
    """Suspended machines, or clocks that ran: patience ends at many members at once, whatever is on its way."""
    count = random.choice([1, faulty_max(options.n) + 1, options.n, options.n])
    timeout_ms = options.parameters.view_timeout_ms
    return {
        "nodes": sorted(random.sample(range(options.n), count)),
        "ahead_ms": timeout_ms * random.choice([1, 4, 12]),
        "spread_ms": random.choice([0, 5, 50]),
    }


def _draw_stall(random: Random, options: Options) -> Fault:
    return {"node": _any_node(random, options), "for_ms": random.choice([200, 1_000, 4_000])}


def _draw_members(random: Random, options: Options) -> Fault:
    changes = ["add", "remove", "rotate", "replace", "remove leader", "replace leader", "parameters"]
    change = random.choice(changes)
    bounce_ms = random.choice([None, 0, 5, 20, 60])
    return {
        "change": change,
        "dice": random.randrange(1 << 16),
        "node": _any_node(random, options),
        "bounce_ms": bounce_ms,
    }


_DRAW = {
    "again": _draw_again,
    "nonces": _draw_nonces,
    "crash": _draw_crash,
    "restart": _draw_restart,
    "bounce": _draw_bounce,
    "power cut": _draw_power_cut,
    "partition": _draw_partition,
    "heal": _draw_heal,
    "cut": _draw_cut,
    "lose": _draw_lose,
    "pause": _draw_pause,
    "clock": _draw_clock,
    "hurry": _draw_hurry,
    "stall": _draw_stall,
    "members": _draw_members,
}
