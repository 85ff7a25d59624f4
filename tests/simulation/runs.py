"""One run of a plan. Phase 1: whatever faults the plan has; only what must never happen is checked. Phase 2: a core of
honest members that makes a quorum is healed, as many others as may be are lost for good, and within a stated time all
that the core accepted is final on the core.

Must not know: how a plan came to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random

from ledger.errors import Reject
from ledger.fields import Operation
from ledger.modules.members import ProposeParameters, ProposeValidators, Vote
from ledger.modules.parties import VALIDATORS, join_statement
from ledger.state import state_key
from ledger.validators import ValidatorSet, faulty_max
from tests.simulation.cluster import Cluster, SimulatedNode, Submitted
from tests.simulation.plan import Fault, Plan, draw_plan
from tests.simulation.trace import Trace

STEP_MS = 100  # of simulated time between two looks at whether the core is done
WATCH_MS = 10
CLOSING = ["checkpoint", "certified"]  # what certifies a state
# Phase 2 must end within this, so many longest patiences for each member that may lead a view to nothing, and so many
# of the network's longest delays for each block of what was accepted: three rounds of votes, and as much for losses.
LIVENESS_MS, PATIENCES_PER_FAULTY, DELAYS_PER_BLOCK = 40_000, 4, 6
CHANGES = (ProposeValidators.NAME, ProposeParameters.NAME, Vote.NAME)
PROPOSAL_VALID_FOR = 10  # heights in which a membership change may be voted for
# View changes in phase 2 for each faulty member and one more; a Byzantine one that goes on may spoil every view it
# leads, and with what it left behind the next.
VIEWS_PER_FAULTY, VIEWS_PER_BYZANTINE = 6, 24


@dataclass
class Outcome:
    """What a run did, for the report. `hash` is of all deliveries and their times."""

    seed: int
    height: int = 0
    epochs: int = 0
    transactions: int = 0
    deliveries: int = 0
    views: int = 0
    simulated_ms: int = 0
    healing_ms: int = 0
    hash: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    coverage: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)


def strategies() -> list[str]:
    from tests.simulation import byzantine

    return sorted(byzantine.STRATEGIES)


def run_seed(seed: int, trace: Trace | None = None) -> Outcome:
    return run_plan(draw_plan(seed, strategies()), trace)


def run_plan(plan: Plan, trace: Trace | None = None) -> Outcome:
    """AssertionError, or whatever a node raised, if the run fails."""
    return Run(Plan.from_json(plan.to_json()), trace).run()


def check_plan(plan: Plan) -> None:
    """ValueError, or what building the cluster raises, for a plan that was edited into one that cannot be run."""
    for fault in plan.faults:
        if not hasattr(Run, _method_of(fault["kind"])):
            raise ValueError(f"there is no fault of the kind {fault['kind']!r}")
        if type(fault["at_ms"]) is not int:
            raise ValueError(f"at_ms of a fault is a whole number, not {fault['at_ms']!r}")
    unknown = sorted({*plan.options.byzantine.values()} - {*strategies()})
    if unknown:
        raise ValueError(f"there is no Byzantine strategy {unknown[0]!r}")
    Cluster(plan.seed, plan.options)


def _method_of(kind: object) -> str:
    """The name of the method of `Run` that carries out faults of this kind."""
    return "_do_" + str(kind).replace(" ", "_")


class Run:
    """A plan being carried out."""

    def __init__(self, plan: Plan, trace: Trace | None = None) -> None:
        self.plan, self.options = plan, plan.options
        self.cluster = Cluster(plan.seed, plan.options, trace)
        self.cluster.checkers.strict = True
        self.faults: Counter[str] = Counter()
        self.changes: list[Submitted] = []  # membership transactions
        self.gone: set[int] = set()  # nodes that stay down
        self._promised = 0  # transactions that must become final
        self._last_change = (-1, 0)  # its epoch, and the height after which it can no longer pass

    def run(self) -> Outcome:
        cluster, plan = self.cluster, self.plan
        self.faults.update(f"byzantine {name}" for name in self.options.byzantine.values())
        for fault in plan.faults:
            cluster.run(max(0, fault["at_ms"] - cluster.now_ms))
            self.apply(fault)
        cluster.run(max(0, plan.end_ms - cluster.now_ms))
        began_ms = cluster.now_ms
        core = self.heal()
        self.finish(core)
        for node in cluster.nodes:
            if node.alive:
                cluster.collect(node)
        engines = [node.replica.engine for node in cluster.honest]
        return Outcome(
            plan.seed,
            height=max(cluster.checkers.blocks, default=0),
            epochs=max(engine.validators.epoch for engine in engines) - cluster.genesis.validator_set.epoch,
            transactions=len(cluster.receipts),
            deliveries=cluster.deliveries,
            views=max(engine.view for engine in engines),
            simulated_ms=cluster.now_ms,
            healing_ms=cluster.now_ms - began_ms,
            hash=cluster.hash,
            faults=self.faults,
            coverage=cluster.coverage,
            broken=cluster.broken,
        )

    # Phase 1

    def apply(self, fault: Fault) -> None:
        """Carry out one fault; what has no object (a crash of a node that is down) does nothing."""
        kind = fault["kind"]
        details = " ".join(f"{key} {value}" for key, value in fault.items() if key not in ("at_ms", "kind"))
        self.cluster.note(f"FAULT {kind}: {details}")
        if getattr(self, _method_of(kind))(fault) is not False:
            self.faults[kind] += 1

    def _node(self, fault: Fault) -> SimulatedNode | None:
        index = fault["node"]
        return None if index is None or index >= len(self.cluster.nodes) else self.cluster.nodes[index]

    def _client_of(self, fault: Fault) -> SimulatedNode | None:
        """The fault's node, if it would answer a client honestly now."""
        node = self._node(fault)
        if node is None or not node.alive or node.paused or not self.cluster.is_honest(node):
            return None
        return node

    def _do_burst(self, fault: Fault) -> bool:
        node = self._client_of(fault)
        if node is None:
            return False
        self.cluster.burst(fault["count"], node.index, fault["valid_for"], "m" * fault["memo_size"])
        return True

    def _do_load(self, fault: Fault) -> None:
        """A transaction every so often, at a node that is up."""
        for number in range(fault["count"]):
            self.cluster.later(None, number * fault["every_ms"], self._send_somewhere)

    def _send_somewhere(self) -> None:
        if any(node.alive and not node.paused for node in self.cluster.honest):
            with suppress(Reject):
                self.cluster.transfer(valid_for=self.options.parameters.validity_heights_max)

    def _do_again(self, fault: Fault) -> bool:
        node = self._client_of(fault)
        if node is None:
            return False
        self.cluster.submit_again(fault["count"], node.index)
        return True

    def _do_nonces(self, fault: Fault) -> bool:
        node = self._client_of(fault)
        return (
            node is not None
            and self.cluster.reuse_nonces(fault["count"], fault["back"], node.index, fault["valid_for"]) > 0
        )

    def _do_crash(self, fault: Fault) -> bool:
        node = self._node(fault)
        if node is None or not node.alive:
            return False
        node.crash(fault["power"])
        return True

    def _do_restart(self, fault: Fault) -> bool:
        chosen = self._node(fault)
        down = [node for node in self.cluster.nodes if not node.alive and chosen in (None, node)]
        for node in down:
            node.boot()
        return bool(down)

    def _do_bounce(self, fault: Fault) -> bool:
        node = self._node(fault)
        if node is None or not self._do_crash(fault):
            return False
        self._boot_later(node, fault["for_ms"])
        return True

    def _do_power_cut(self, fault: Fault) -> bool:
        for index, node in enumerate(self.cluster.nodes):
            if node.alive:
                node.crash(fault["power"])
            self._boot_later(node, fault["for_ms"] * (1 + index % 3))
        return True

    def _boot_later(self, node: SimulatedNode, delay_ms: int) -> None:
        self.cluster.later(None, delay_ms, lambda: None if node.alive or node.index in self.gone else node.boot())

    def _do_partition(self, fault: Fault) -> None:
        self.cluster.partition(*map(set, fault["groups"]))

    def _do_heal(self, _fault: Fault) -> bool:
        was_cut = bool(self.cluster.cut)
        self.cluster.heal()
        return was_cut

    def _do_cut(self, fault: Fault) -> None:
        everyone = range(len(self.cluster.nodes))
        sources = everyone if fault["from"] is None else [fault["from"]]
        targets = everyone if fault["to"] is None else [fault["to"]]
        if fault["from"] is None and fault["to"] is None:
            sources = [fault["node"]]
        self.cluster.cut |= {(a, b) for a in sources for b in targets if a != b}

    def _do_lose(self, fault: Fault) -> None:
        everyone = range(len(self.cluster.nodes))
        sources = everyone if fault["from"] is None else [fault["from"]]
        targets = everyone if fault["to"] is None else [fault["to"]]
        pairs = [(a, b) for a in sources for b in targets if a != b]
        self.cluster.lose(pairs, fault["what"], fault["for_ms"])

    def _do_pause(self, fault: Fault) -> bool:
        nodes = [self.cluster.nodes[index] for index in fault["nodes"] if self.cluster.nodes[index].alive]
        for node in nodes:
            self.cluster.pause(node)
            self.cluster.later(None, fault["for_ms"], lambda node=node: self.cluster.resume(node))  # type: ignore[misc]
        return bool(nodes)

    def _do_clock(self, fault: Fault) -> None:
        node = self._node(fault)
        assert node is not None
        self.cluster.checkers.on_clock(node)
        node.clock_offset_ms += fault["jump_ms"]

    def _do_hurry(self, fault: Fault) -> bool:
        nodes = [self.cluster.nodes[index] for index in fault["nodes"]]
        for number, node in enumerate(nodes):
            self.cluster.later(node, number * fault["spread_ms"], partial(node.hurry, fault["ahead_ms"]))
        return any(node.alive for node in nodes)

    def _do_stall(self, fault: Fault) -> None:
        node = self._node(fault)
        assert node is not None
        node.stalled_until_ms = self.cluster.now_ms + fault["for_ms"]

    # Membership: one change at a time, so that every set that can come to be has few enough Byzantine members

    def _do_members(self, fault: Fault) -> bool:
        up = [node for node in self.cluster.honest if node.alive and not node.paused]
        if not up:
            return False
        # Down or not: a set that anyone executed is the set from which the next one is counted.
        best = max(self.cluster.honest, key=lambda node: node.replica.store.tip.height)
        tip = best.replica.store.tip
        pending = best.replica.store.get(state_key("members", "next_validators"))
        epoch, until = self._last_change
        if pending is not None or (tip.validators.epoch == epoch and tip.height <= until):
            return False
        operation = self._draw_change(fault, tip.validators, best)
        if operation is None:
            return False
        node = next((node for node in up if node.index == fault["node"]), up[0])
        signers = [self.cluster.node_of(key) for key in tip.validators.keys]
        latest = max(each.replica.store.tip.height for each in self.cluster.honest)
        self._last_change = (tip.validators.epoch, latest + PROPOSAL_VALID_FOR)
        try:
            proposal = self._submit_change(node, signers[0], operation)
            for signer in signers[1:]:
                self._submit_change(node, signer, Vote(proposal, True))
        except Reject:
            return False
        if fault.get("bounce_ms") is not None:
            self._cut_next_epoch(tip.validators.epoch, fault["bounce_ms"], fault.get("everyone", False))
        if fault.get("unclosed_ms"):
            self._leave_unclosed(tip.validators.epoch, fault["unclosed_ms"])
        return True

    def _leave_unclosed(self, epoch: int, for_ms: int) -> None:
        """Once nothing else holds up the end of this epoch, lose all that certifies how it ended: whoever comes from
        outside has no reason to sync its store, then."""
        for node in self.cluster.honest:
            tip = node.replica.store.tip
            if not node.alive or tip.validators.epoch != epoch or tip.epoch_end is None:
                continue
            if node.replica.engine.checkpoints.stable + tip.parameters.log_window >= tip.epoch_end:
                self._do_lose({"what": CLOSING, "from": None, "to": None, "for_ms": for_ms})
                return
        if self.cluster.now_ms < self.plan.end_ms:
            self.cluster.later(None, WATCH_MS, lambda: self._leave_unclosed(epoch, for_ms))

    def _cut_next_epoch(self, epoch: int, after_ms: int, everyone: bool) -> None:
        """Cut the power of whoever leads the next epoch, soon after it began there: its votes may be on its disk then,
        and the epoch's beginning not. Or of all together, while nobody has certified how the epoch before ended."""
        for node in self.cluster.honest:
            engine = node.replica.engine
            if node.alive and engine.validators.epoch > epoch and engine.me == engine.leader:
                # A fault of the first phase, or none.
                if self.cluster.now_ms + after_ms <= self.plan.end_ms:
                    cut = partial(self._do_bounce, _bounce(node))
                    if everyone:
                        cut = partial(self._do_power_cut, {"power": True, "for_ms": 0})
                    self.cluster.later(None, after_ms, cut)
                return
        if self.cluster.now_ms < self.plan.end_ms:
            self.cluster.later(None, WATCH_MS, lambda: self._cut_next_epoch(epoch, after_ms, everyone))

    def _submit_change(self, node: SimulatedNode, signer: SimulatedNode | None, operation: Operation) -> bytes:
        assert signer is not None
        tx_id = self.cluster.submit(node, signer.index, operation.NAME, operation.to_fields(), PROPOSAL_VALID_FOR)
        self.changes.append(self.cluster.submitted[-1])
        return tx_id

    def _draw_change(self, fault: Fault, validators: ValidatorSet, best: SimulatedNode) -> Operation | None:
        random = Random(fault["dice"])
        outside = [node.key.public for node in self.cluster.honest if validators.index(node.key.public) is None]
        inside = list(validators.keys)
        random.shuffle(outside)
        random.shuffle(inside)
        leader = validators.keys[best.replica.engine.leader % validators.n]
        if fault["change"] == "parameters":
            return self._draw_parameters(random, best)
        match fault["change"]:
            case "add":
                add, remove = outside[: random.randint(1, 2)], []
            case "remove":
                add, remove = [], inside[: random.randint(1, 2)]
            case "remove leader":
                add, remove = [], [leader]
            case "replace leader":
                add, remove = outside[:1], [leader]
            case "rotate":
                add, remove = outside[:1], inside[:1]
            case "first leader":  # one from outside, or else it takes two changes
                comes, goes = min(outside, default=leader), min(inside)
                add, remove = ([comes], inside[:1]) if comes < goes else (outside[:1], [goes])
            case _:
                count = min(len(outside), faulty_max(validators.n), random.randint(1, 3))
                add, remove = outside[:count], inside[:count]
        following = [key for key in validators.keys if key not in remove] + add
        byzantine = sum(1 for key in following if not self._is_honest_key(key))
        if not (add or remove) or len(following) < 4 or byzantine > faulty_max(len(following)):
            return None
        statement = join_statement(self.cluster.genesis.chain_id, VALIDATORS)
        joining = [node for node in self.cluster.nodes if node.key.public in add]
        proofs = {node.key.public: node.key.sign(statement) for node in joining}
        return ProposeValidators(tuple(add), tuple(remove), tuple(proofs[key] for key in add))

    def _draw_parameters(self, random: Random, best: SimulatedNode) -> Operation | None:
        parameters = best.replica.store.tip.parameters
        timeout_ms = random.choice([300, 500, 900])
        changes = random.choice(
            [
                (("window", random.choice([1, 2, 4])),),
                (("view_timeout_ms", timeout_ms), ("view_timeout_ms_max", timeout_ms * 4)),
                (("checkpoint_interval", random.choice([1, 3, 7])),),
                (("log_window", parameters.log_window + 3),),
                (("block_txs_max", 5), ("batch_txs_max", 5)),
            ]
        )
        changed = parameters.changed(changes)
        return None if changed.problems() or changed == parameters else ProposeParameters(changes)

    def _is_honest_key(self, key: bytes) -> bool:
        node = self.cluster.node_of(key)
        return node is not None and self.cluster.is_honest(node)

    # Phase 2

    def limit_ms(self) -> int:
        parameters, faulty = self.options.parameters, faulty_max(self.options.n)
        blocks = -(-self._promised // parameters.block_txs_max)
        patience_ms = PATIENCES_PER_FAULTY * (faulty + 1) * parameters.view_timeout_ms_max
        return LIVENESS_MS + patience_ms + DELAYS_PER_BLOCK * blocks * self.options.delay_ms[1]

    def heal(self) -> list[SimulatedNode]:
        """End all faults and lose the plan's lost for good; who is left is the core."""
        cluster = self.cluster
        cluster.note("PHASE 2: the core is healed")
        cluster.calm()
        cluster.heal()
        for node in cluster.nodes:
            cluster.resume(node)
            if not node.alive:
                node.boot()
        if self.changes:
            # Which set will vote in the end must be known before some of it can be lost.
            everyone = cluster.honest
            assert self._until(lambda: _is_decided(everyone)), self._account("membership not settled", everyone)
        lost = self._lose()
        return [node for node in cluster.honest if node not in lost]

    def _lose(self) -> list[SimulatedNode]:
        cluster = self.cluster
        needed = self._needed()
        room = {epoch: one.f - sum(not self._is_honest_key(key) for key in one.keys) for epoch, one in needed.items()}
        lost: list[SimulatedNode] = []
        for index, mode in self.plan.lost:
            node = cluster.nodes[index]
            its = [epoch for epoch, one in needed.items() if one.index(node.key.public) is not None]
            if any(room[epoch] == 0 for epoch in its):
                continue
            for epoch in its:
                room[epoch] -= 1
            lost.append(node)
            self.faults[f"lost: {mode}"] += 1
            cluster.note(f"lost for good: {mode}", node)
            everyone = range(len(cluster.nodes))
            if mode in ("deaf", "cut off"):
                cluster.cut |= {(other, index) for other in everyone if other != index}
            if mode in ("mute", "cut off"):
                cluster.cut |= {(index, other) for other in everyone if other != index}
            if mode == "dead":
                self._end(node)
        return lost

    def _needed(self) -> dict[int, ValidatorSet]:
        """The sets on whose quorum the end depends: the last one, and one before that has yet to close its epoch."""
        stores = [node.replica.store for node in self.cluster.honest]
        best = max(stores, key=lambda store: store.tip.height)
        last = best.tip.validators
        found = {last.epoch: last}
        if any(store.unclosed_epoch() == last.epoch - 1 for store in stores):
            former = best.validator_set(last.epoch - 1)
            assert former is not None
            found[former.epoch] = former
        return found

    def _end(self, node: SimulatedNode) -> None:
        self.gone.add(node.index)
        if node.alive:
            node.crash()

    def finish(self, core: list[SimulatedNode]) -> None:
        """All that the core accepted becomes final, then the core comes to rest on one closed chain."""
        cluster = self.cluster
        engines = {node.index: node.replica.engine for node in core}
        before = {index: (engine.validators.epoch, engine.view, engine.executed) for index, engine in engines.items()}
        for node in core:
            cluster.burst(1, node.index, self.options.parameters.validity_heights_max)
        promised = [
            item
            for item in cluster.submitted
            if any(node.index == item.node and node.life == item.life for node in core)
        ]
        waiting = {item.tx_id: item for item in promised}
        self._promised = len(waiting)

        def done() -> bool:
            for item in list(waiting.values()):
                if all(_is_over(node, item) for node in core):
                    del waiting[item.tx_id]
            return not waiting

        assert self._until(done), self._account(f"{len(waiting)} of {len(promised)} not final", core)
        # Byzantine members may make work for ever: the core can rest only without them.
        for node in cluster.nodes:
            if not cluster.is_honest(node):
                self._end(node)
        assert self._until(lambda: self._is_settled(core)), self._account("not at rest", core)
        loss = max(self.options.loss, *(percent for _, _, _, percent in self.options.links), 0)
        for node in core:
            cluster.checkers.check_money(node)
            cluster.checkers.check_history(node)
            cluster.checkers.check_sizes(node)
            epoch, view, height = before[node.index]
            engine = node.replica.engine
            if engine.validators.epoch == epoch:
                each = VIEWS_PER_BYZANTINE if self.options.byzantine else VIEWS_PER_FAULTY
                # What is lost is said again with a status, which may come later than a young patience ends.
                views_max = each * (engine.validators.f + 1) + loss * (engine.executed - height) // 100
                assert engine.view - view <= views_max, f"node {node.index} went from view {view} to {engine.view}"

    def _until(self, done: Callable[[], bool]) -> bool:
        end_ms = self.cluster.now_ms + self.limit_ms()
        while self.cluster.now_ms < end_ms:
            self.cluster.run(STEP_MS)
            if done():
                return True
        return False

    def _is_settled(self, nodes: list[SimulatedNode]) -> bool:
        """One height and view, nothing left to order, the end certified, no change of members under way."""
        tips = [node.replica.store.tip for node in nodes]
        engines = [node.replica.engine for node in nodes]
        views = {(engine.view, engine.changing) for engine in engines if engine.me is not None}
        if len({tip.block_hash for tip in tips}) > 1 or len(views) > 1:
            return False
        for node, tip in zip(nodes, tips, strict=True):
            engine = node.replica.engine
            # A follower is told of the last checkpoint with a status.
            if engine.checkpoints.stable < tip.height and tip.height >= engine.validators.first_height:
                return False
            if (tip.epoch_end is not None and tip.height <= tip.epoch_end) or _has_work(node):
                return False
            if node.replica.store.unclosed_epoch() is not None:
                return False
        return True

    def _account(self, what: str, nodes: list[SimulatedNode]) -> str:
        """What an engineer wants to know first."""
        lines = [f"{what} {self.limit_ms()} ms after healing"]
        for node in nodes:
            engine, tip = node.replica.engine, node.replica.store.tip
            sizes = {key: value for key, value in engine.table_sizes().items() if value}
            lines.append(
                f"node {node.index}: member {engine.me} epoch {engine.validators.epoch} view {engine.view}"
                f"{' changing' if engine.changing else ''} height {tip.height} end {tip.epoch_end}"
                f" delivered {engine.delivered} stable {engine.checkpoints.stable} halted {engine.halted}"
                f" pool {node.replica.pool.sizes()} {sizes}"
            )
        return "\n  ".join(lines)


def _bounce(node: SimulatedNode) -> Fault:
    return {"node": node.index, "power": True, "for_ms": 100}


def _is_decided(nodes: list[SimulatedNode]) -> bool:
    """Everyone is in the same epoch, and no change of members is under way or can still come up."""
    if len({node.replica.store.tip.validators for node in nodes}) > 1:
        return False
    for node in nodes:
        tip = node.replica.store.tip
        waiting = (tx for batch in node.replica.pool.held() for tx in batch.transactions)
        if tip.epoch_end is not None or any(tx.operation in CHANGES and tx.valid_until > tip.height for tx in waiting):
            return False
    return True


def _is_over(node: SimulatedNode, item: Submitted) -> bool:
    """Final (executed, or refused for good), or expired."""
    store = node.replica.store
    return store.receipt(item.tx_id) is not None or store.tip.height >= item.valid_until


def _has_work(node: SimulatedNode) -> bool:
    """Whether batches wait there that a block could still order. What nothing can order any more is dropped with the
    next checkpoint, whenever that is."""
    height = node.replica.store.tip.height
    return any(any(tx.valid_until > height for tx in batch.transactions) for batch in node.replica.pool.held())
