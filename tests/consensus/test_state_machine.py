"""Four real engines under whatever may happen to them: hypothesis looks for a sequence that breaks a promise.

Messages arrive in any order, twice or never; disks are slow; machines lose power with part of what they wrote; timers
fire; one member may be faulty and sign what it likes. After every step no promise of docs/protocol.md may be broken;
at the end, with the network healed and the faulty member silent, the chain goes on.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consensus import Verifier
from consensus.contradiction import read
from consensus.events import Deliver, Diverged, Effect, Evidence, Persist, Stable
from consensus.messages import (
    CheckpointVote,
    Prepared,
    PrePrepare,
    Status,
    TimeoutCertificate,
    ViewChange,
    Vote,
    decode_message,
    encode_message,
    signed,
)
from consensus.views import FUTURE_PER_MEMBER_MAX
from ledger.block import Certificate, CheckpointCertificate, Phase, Proposal
from ledger.evidence import Offence
from ledger.genesis import Parameters
from tests.consensus.machine import (
    CHAIN,
    WALL_MS,
    Content,
    Machine,
    Spread,
    Work,
    execute,
    genesis,
    is_signed,
    key_of,
    sign,
    split,
)

MEMBERS = 4
PARAMETERS = Parameters(window=2, checkpoint_interval=2, log_window=6)  # checkpoints, and full logs, come soon
PACKETS_MAX = 300  # more than that on its way is lost, oldest first
CALM_EVENTS_MAX = 6_000  # of the healed network, until the chain must have gone on

Place = tuple[int, Offence, int, tuple[int, ...]]


class FourEngines(RuleBasedStateMachine):
    """The world of four machines."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0
        self.packets: list[tuple[int, int, Content]] = []
        self.faulty: int | None = None
        self.batches = 0
        self.said: dict[Place, tuple[bytes, ...]] = {}
        self.decided: dict[int, Proposal] = {}
        self.verifier = Verifier(CHAIN, is_signed)
        self.proposals: dict[bytes, Proposal] = {}  # ever seen, for the faulty member to vote on
        self.machines: list[Machine] = []

    @initialize(faulty=st.none() | st.integers(0, MEMBERS - 1))
    def begin(self, faulty: int | None) -> None:
        assert not PARAMETERS.problems()
        self.faulty = faulty
        first = genesis(range(MEMBERS), PARAMETERS)
        self.validators = first.validators
        self.machines = [Machine(index, self, first) for index in range(MEMBERS)]
        for machine in self.honest:
            machine.start()

    @property
    def honest(self) -> list[Machine]:
        return [machine for machine in self.machines if machine.index != self.faulty]

    # What the world does

    @rule(which=st.integers(0, PACKETS_MAX), twice=st.booleans())
    @precondition(lambda self: self.packets)
    def deliver(self, which: int, twice: bool) -> None:
        """Any message, to the one it is for; perhaps it stays to be delivered again."""
        at = which % len(self.packets)
        packet = self.packets[at] if twice else self.packets.pop(at)
        self._arrive(packet)

    @rule(which=st.integers(0, PACKETS_MAX), receiver=st.integers(0, MEMBERS - 1))
    @precondition(lambda self: self.packets)
    def overhear(self, which: int, receiver: int) -> None:
        """Whoever forwards it, a signed message says who it is from."""
        sender, _, content = self.packets[which % len(self.packets)]
        if isinstance(content, bytes) and not isinstance(decode_message(content), Status) and sender != receiver:
            self._arrive((sender, receiver, content))

    @rule(which=st.integers(0, PACKETS_MAX), count=st.integers(1, 20))
    @precondition(lambda self: self.packets)
    def lose(self, which: int, count: int) -> None:
        del self.packets[which % len(self.packets) :][:count]

    @rule(reached=st.sets(st.integers(0, MEMBERS - 1), min_size=2), rounds=st.integers(1, 6), late=st.booleans())
    def calm(self, reached: set[int], rounds: int, late: bool) -> None:
        """For a while all messages between some members arrive, newest first or last, and their disks are done."""
        for _ in range(rounds):
            for index in sorted(reached):
                while self.machines[index].waiting:
                    self.machines[index].disk_done()
            passing = [packet for packet in self.packets if {packet[0], packet[1]} <= reached | {self.faulty}]
            self.packets = [packet for packet in self.packets if packet not in passing]
            for packet in reversed(passing) if late else passing:
                self._arrive(packet)

    @rule(index=st.integers(0, MEMBERS - 1), count=st.integers(1, 4))
    def disk(self, index: int, count: int) -> None:
        machine = self.machines[index]
        for _ in range(min(count, len(machine.waiting))):
            machine.disk_done()

    @rule(index=st.integers(0, MEMBERS - 1), which=st.integers(0, 2))
    def fire(self, index: int, which: int) -> None:
        """A timer; it is that late everywhere."""
        machine = self.machines[index]
        if machine.timers:
            timer, at_ms = list(machine.timers.items())[which % len(machine.timers)]
            self.now_ms = max(self.now_ms, at_ms)
            machine.fire(timer)

    @rule(duration_ms=st.integers(1, 3_000))
    def wait(self, duration_ms: int) -> None:
        """Every timer that is due by then fires."""
        self._pass(duration_ms)

    @rule(index=st.integers(0, MEMBERS - 1), written=st.integers(0, 4), blocks=st.integers(0, 4))
    def crash(self, index: int, written: int, blocks: int) -> None:
        if self.machines[index].alive:
            self.machines[index].crash(written, blocks)

    @rule(index=st.integers(0, MEMBERS - 1))
    def start(self, index: int) -> None:
        if not self.machines[index].alive and index != self.faulty:
            self.machines[index].start()

    @rule(index=st.integers(0, MEMBERS - 1), size=st.sampled_from([1, PARAMETERS.block_txs_max]), spread=st.booleans())
    def submit(self, index: int, size: int, spread: bool) -> None:
        """A client's work reaches one member, which passes it on to all."""
        machine = self.machines[index]
        if machine.alive:
            self.batches += 1
            work = Work(f"b{self.batches}", size)
            self.transmit(machine, self._others(index), Spread(work))
            machine.hold(work)
            if spread:
                self.calm_spread()

    def calm_spread(self) -> None:
        """Batches arrive everywhere."""
        for packet in [packet for packet in self.packets if isinstance(packet[2], Spread)]:
            self.packets.remove(packet)
            self._arrive(packet)

    @rule(
        view=st.integers(0, 3),
        which=st.integers(0, 20),
        kind=st.sampled_from(["propose", "prepare", "commit", "view change", "checkpoint"]),
        receiver=st.integers(0, MEMBERS - 1),
    )
    @precondition(lambda self: self.faulty is not None)
    def lie(self, view: int, which: int, kind: str, receiver: int) -> None:
        """The faulty member signs something for a proposal that was seen, or for one of its own."""
        faulty = self.faulty
        assert faulty is not None
        known = [*self.proposals.values(), *(Proposal(height, WALL_MS + 1, ()) for height in (1, 2))]
        proposal = known[which % len(known)]
        phase = Phase.COMMIT if kind == "commit" else Phase.PREPARE
        vote: Vote = self._signed(Vote(0, view, proposal.height, phase, proposal.digest, faulty))
        digest = proposal.digest
        message = {
            "propose": PrePrepare(proposal, vote),
            "view change": self._signed(ViewChange(0, view + 1, None, (), faulty)),
            "checkpoint": self._signed(CheckpointVote(0, proposal.height, digest, digest, digest, faulty)),
        }.get(kind, vote)
        if receiver != faulty:
            self._arrive((faulty, receiver, encode_message(message)))

    def _signed(self, message: object) -> object:
        assert self.faulty is not None
        key = key_of(self.faulty)
        return signed(message, lambda statement: sign(key, statement), CHAIN)

    # World

    def saw(self, machine: Machine, effect: Effect) -> None:
        match effect:
            case Persist(record=written):
                for record in split(written):
                    if isinstance(record, Prepared):
                        self._certified(machine, record.certificate)
            case Deliver(proposal, certificate):
                known = self.decided.setdefault(proposal.height, proposal)
                assert known.digest == proposal.digest, f"two decisions at height {proposal.height}"
                assert (certificate.phase, certificate.digest) == (Phase.COMMIT, proposal.digest)
                assert certificate.height == proposal.height
                self._certified(machine, certificate)
            case Stable(certificate):
                self._certified(machine, certificate)
            case Evidence(proof):
                assert proof.member == self.faulty, "an honest member is convicted"
            case Diverged(height):
                raise AssertionError(f"machine {machine.index} diverged at height {height}")
            case _:
                pass

    def transmit(self, sender: Machine, receivers: tuple[int, ...], content: Content) -> None:
        if isinstance(content, bytes):
            self._note(sender, content)
        self.packets += [(sender.index, receiver, content) for receiver in receivers]
        del self.packets[:-PACKETS_MAX]

    def writes(self, machine: Machine) -> None:
        """Disks are done when a rule says so."""

    def _note(self, sender: Machine, content: bytes) -> None:
        """No promise is broken by what an honest machine sends."""
        message = decode_message(content)
        if isinstance(message, PrePrepare):
            self.proposals.setdefault(message.proposal.digest, message.proposal)
        if isinstance(message, Status | TimeoutCertificate) or message.member != sender.index:
            return
        assert content in sender.statements, "sent before it was durable"
        statement = read(message)
        if statement is not None:
            offence, epoch, member, place, half = statement
            known = self.said.setdefault((member, offence, epoch, place), half.content)
            assert known == half.content, f"machine {member} contradicts itself"

    def _certified(self, machine: Machine, certificate: Certificate | CheckpointCertificate) -> None:
        """A valid quorum; what this machine itself contributed to it was durable."""
        assert self.verifier.certificate(certificate, self.validators) is not None
        own = dict(certificate.signatures).get(machine.index)
        if own is not None:
            durable = (decode_message(content) for content in machine.statements if own in content)
            assert any(True for _ in durable), "counted before it was durable"

    def _arrive(self, packet: tuple[int, int, Content]) -> None:
        sender, receiver, content = packet
        if self.machines[receiver].alive:
            self.machines[receiver].receive(sender, content)

    def _others(self, index: int) -> tuple[int, ...]:
        return tuple(other for other in range(MEMBERS) if other != index)

    def _pass(self, duration_ms: int) -> None:
        end_ms = self.now_ms + duration_ms
        while True:
            due = [
                (at_ms, machine.index, timer)
                for machine in self.honest
                for timer, at_ms in machine.timers.items()
                if at_ms <= end_ms
            ]
            if not due:
                break
            at_ms, index, timer = min(due, key=lambda item: item[:2])
            self.now_ms = max(self.now_ms, at_ms)
            self.machines[index].fire(timer)
        self.now_ms = end_ms

    # Promises

    @invariant()
    def chains_agree(self) -> None:
        for machine in self.honest:
            tip = machine.genesis
            for block in machine.chain:
                assert block.proposal.digest == self.decided[block.proposal.height].digest
                tip = execute(tip, None, block.proposal, block.certificate, list(block.works)).tip
            assert tip.block_hash == machine.tip.block_hash

    @invariant()
    def tables_are_bounded(self) -> None:
        """docs/protocol.md, section 9."""
        window = PARAMETERS.log_window
        for machine in self.honest:
            if not machine.alive:
                continue
            sizes = machine.engine.table_sizes()
            assert sizes["slots"] <= 2 * window
            assert sizes["votes"] <= 2 * MEMBERS * sizes["slots"]
            assert sizes["checkpoints"] <= (2 * MEMBERS + 2) * window
            assert max(sizes["suspects"], sizes["view_changes"]) <= MEMBERS
            assert sizes["future"] <= MEMBERS * FUTURE_PER_MEMBER_MAX
            assert sizes["unpersisted"] == sum(write.persist is not None for write in machine.waiting)

    def teardown(self) -> None:
        """The network heals, all honest machines are on, nobody lies: what waits is ordered, and everyone has it."""
        if not self.machines:
            return
        self.packets.clear()
        for machine in self.honest:
            if not machine.alive:
                machine.start()
        work = Work("last")
        for machine in self.honest:
            machine.hold(work)
        for _ in range(CALM_EVENTS_MAX):
            if all(any(work in block.works for block in machine.chain) for machine in self.honest):
                return
            self._one_calm_event()
        raise AssertionError("the chain does not go on")

    def _one_calm_event(self) -> None:
        writing = next((machine for machine in self.honest if machine.waiting), None)
        if writing is not None:
            writing.disk_done()
        elif self.packets:
            self._arrive(self.packets.pop(0))
        else:
            due_ms = min(at_ms for machine in self.honest for at_ms in machine.timers.values())
            self._pass(max(1, due_ms - self.now_ms))


class TestFourEngines(FourEngines.TestCase):
    """Traps 2, 6, 10, 12, 14, 15, 20, 24, 25, 33, 48."""

    settings = settings(
        max_examples=60,
        stateful_step_count=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
