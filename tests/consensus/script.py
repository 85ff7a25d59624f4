"""Golden scripts: a script says what happens to a few machines, the trace says all that follows, message by message.

Lines that begin with `#` are for the reader, those with `>` are commands, indented ones are the trace. Links take
LINK_MS and disks DISK_MS; whatever falls on one millisecond happens in the order in which it was set going. Commands:

    cluster [members=N] [machines=N] [deliveries=telling] [PARAMETER=N ...]   first, once
    batch NAME [of N txs] [deciding N,N,N,N] [at N,N]    a batch arrives, as a default everywhere
    run [N ms]                    for so long, or until no message and no write is on its way
    lose WORD ... | hold WORD ...  messages from now on whose line in the trace has all these words (`n0->n1` is one)
    release | heal                 what is held goes on its way | no message is lost or held any more
    cut N | crash N | start N      nobody hears nor is heard by it | power is gone | and returns
    say N -> N,N: KIND vV hH NAME  a faulty member (whose machine is off) signs PRE-PREPARE, PREPARE or COMMIT
    state | expect N,N FIELD=VALUE ...

`say` and `expect` name machines; `all` means each that is on. A trace shows each message sent, whether it was durable
before, and what came of it on arrival; with `deliveries=telling` arrivals that changed nothing visible are left out, as
status messages always are. Machines that are off or cut off are not among a message's receivers, unless they are all.

Must not know: what any script claims.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from consensus.events import (
    Broadcast,
    CancelTimer,
    Deliver,
    Diverged,
    Effect,
    Evidence,
    Persist,
    Send,
    SetTimer,
    Stable,
    Timer,
    Validate,
)
from consensus.messages import (
    CheckpointVote,
    NewView,
    Prepared,
    PrePrepare,
    Record,
    Status,
    Suspect,
    TimeoutCertificate,
    ViewChange,
    Vote,
    decode_message,
    encode_message,
    signed,
)
from ledger.block import Certificate, CheckpointCertificate, Phase, Proposal
from ledger.genesis import Parameters
from tests.consensus.machine import (
    CHAIN,
    WALL_MS,
    Ask,
    Blocks,
    Content,
    Machine,
    Spread,
    Want,
    Work,
    genesis,
    index_of,
    is_signed,
    key_of,
    sign,
    split,
)

LINK_MS, DISK_MS = 10, 2
ROUTINE = ("old suspicion", "old view change", "old timeout", "proposal known", "other view")
EVENTS_MAX = 20_000  # of one command: a script that never comes to rest is wrong


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to messages whose description has all `words`."""

    words: frozenset[str]
    lost: bool


@dataclass
class Stage:
    """The machines, what is on its way between them, and the trace so far."""

    now_ms: int = 0
    machines: list[Machine] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    telling: bool = False  # whether arrivals without consequence are left out
    rules: list[Rule] = field(default_factory=list)
    held: list[Callable[[], None]] = field(default_factory=list)
    cut: set[int] = field(default_factory=set)
    works: dict[str, Work] = field(default_factory=dict)
    names: dict[bytes, str] = field(default_factory=dict)  # of proposals' digests and batches
    _queue: list[tuple[int, int, bool, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0
    _busy: int = 0  # queued events that `run` waits for: all but timers and statuses

    # Time

    def later(self, delay_ms: int, action: Callable[[], None], *, busy: bool) -> None:
        self._count += 1
        self._busy += busy
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._count, busy, action))

    def run(self, duration_ms: int | None = None) -> None:
        """For so long, or until nothing but timers and statuses waits."""
        end_ms = None if duration_ms is None else self.now_ms + duration_ms
        for _ in range(EVENTS_MAX):
            if not self._queue or (end_ms is None and not self._busy):
                break
            if end_ms is not None and self._queue[0][0] > end_ms:
                break
            self.now_ms, _, busy, action = heapq.heappop(self._queue)
            self._busy -= busy
            action()
        else:
            raise AssertionError("this script does not come to rest")
        self.now_ms = max(self.now_ms, end_ms or 0)

    # The trace

    def line(self, where: str, what: str, aside: str = "") -> None:
        text = f"{self.now_ms:>6} ms  {where:<17} {what}"
        self.lines.append(f"{text:<78} {aside}" if aside else text)

    def note(self, machine: Machine, what: str) -> None:
        self.line(f"n{machine.index}", f"  {what}")

    # World

    def saw(self, machine: Machine, effect: Effect) -> None:
        """Into the trace, and timers onto the queue."""
        match effect:
            case Persist(record=record):
                self.note(machine, f"writes {'; '.join(map(self.describe, split(record)))}")
            case SetTimer(timer, at_ms):
                life = machine.engine
                delay_ms = max(0, at_ms - self.now_ms)
                self.later(delay_ms, lambda: self._fire(machine, life, timer, at_ms), busy=False)
                if timer is not Timer.STATUS:
                    self.note(machine, f"timer {timer.name} at {at_ms} ms")
            case CancelTimer(timer):
                self.note(machine, f"timer {timer.name} off")
            case Validate(proposal):
                lacking = [self.name(digest) for digest in proposal.batches if digest not in machine.held]
                answer = f"lacks {' '.join(lacking)}" if lacking else "holds its batches"
                self.note(machine, f"validates {self.proposal(proposal)}: {answer}")
            case Deliver(proposal, certificate):
                place = f"h{proposal.height} {self.name(proposal.digest)}"
                self.note(machine, f"DECIDED {place} in v{certificate.view} by {self._by(certificate)}; executes it")
            case Stable(certificate):
                self.note(machine, f"STABLE h{certificate.height}; drops its log up to there")
            case Evidence(proof):
                self.note(
                    machine,
                    f"EVIDENCE against n{self.machine_of(proof.epoch, proof.member)}: two {proof.offence.name}S",
                )
            case Diverged(height):
                self.note(machine, f"DIVERGED at h{height}")
            case Send() | Broadcast():
                pass

    def writes(self, machine: Machine) -> None:
        life = machine.engine
        self.later(DISK_MS, lambda: self._disk_done(machine, life), busy=True)

    def _disk_done(self, machine: Machine, life: object) -> None:
        if machine.alive and machine.engine is life:
            self.acting(machine, machine.disk_done)

    def _fire(self, machine: Machine, life: object, timer: Timer, at_ms: int) -> None:
        if not machine.alive or machine.engine is not life or machine.timers.get(timer) != at_ms:
            return
        if timer is not Timer.STATUS:
            self.line(f"n{machine.index}", f"{timer.name} fires")
        self.acting(machine, lambda: machine.fire(timer))

    def transmit(self, sender: Machine, receivers: tuple[int, ...], content: Content) -> None:
        message = decode_message(content) if isinstance(content, bytes) else content
        there = [index for index in receivers if not {index, sender.index} & self.cut and self.machines[index].alive]
        is_status = isinstance(message, Status)
        fates: dict[str, list[int]] = {}
        for receiver in receivers:
            words = {*self.describe(message).split(), f"n{sender.index}->n{receiver}"}
            rule = next((rule for rule in self.rules if rule.words <= words), None)
            fate = "unheard" if receiver not in there else "" if rule is None else "LOST" if rule.lost else "HELD"
            fates.setdefault(fate, []).append(receiver)
            if fate == "":
                self._send(sender.index, receiver, content, is_status)
            elif fate == "HELD":
                self.held.append(lambda to=receiver: self._send(sender.index, to, content, is_status))  # type: ignore[misc]
        if not is_status:
            if len(fates) > 1:
                fates.pop("unheard", None)
            for fate, indexes in fates.items():
                durable = self._durability(sender, content)
                to = ",".join(f"n{index}" for index in indexes)
                aside = "; ".join(word for word in (durable, fate) if word)
                self.line(f"n{sender.index} -> {to}", self.describe(message), f"({aside})" if aside else "")

    def _durability(self, sender: Machine, content: Content) -> str:
        """What a signed message of the sender's own must be before it is sent."""
        if not isinstance(content, bytes):
            return ""
        message = decode_message(content)
        if isinstance(message, TimeoutCertificate | Status) or not sender.alive:
            return ""
        statement = message.vote if isinstance(message, PrePrepare) else message
        if not is_signed(sender.key, statement.statement(CHAIN), statement.signature):
            return ""
        return "durable" if content in sender.statements else "NOT DURABLE"

    def _send(self, sender: int, receiver: int, content: Content, is_status: bool) -> None:
        self.later(LINK_MS, lambda: self._arrive(sender, receiver, content), busy=not is_status)

    def _arrive(self, sender: int, receiver: int, content: Content) -> None:
        machine = self.machines[receiver]
        if not machine.alive or receiver in self.cut:
            return
        before = len(self.lines)
        self.acting(machine, lambda: machine.receive(sender, content))
        message = decode_message(content) if isinstance(content, bytes) else content
        if len(self.lines) > before or not (self.telling or isinstance(message, Status)):
            after = self.lines[before:]
            del self.lines[before:]
            self.line(
                f"n{receiver} <- n{sender}", self.describe(message), f"({machine.refused})" if machine.refused else ""
            )
            self.lines += after

    def acting(self, machine: Machine, act: Callable[[], None]) -> None:
        """Let a machine act; whatever changed and is no effect of its own is noted too."""
        engine = machine.engine
        view, ignored, epoch = (engine.view, engine.changing), dict(engine.ignored), engine.validators.epoch
        act()
        for reason, count in engine.ignored.items():
            if count > ignored.get(reason, 0) and not (self.telling and reason in ROUTINE):
                self.note(machine, f"ignores it: {reason}")
        if engine.validators.epoch != epoch:
            members = " ".join(f"n{index_of(key)}" for key in engine.validators.keys)
            self.note(machine, f"EPOCH {engine.validators.epoch} begins: {members}")
        elif view != (engine.view, engine.changing):
            self.note(machine, f"VIEW {engine.view} {'entered, has not begun' if engine.changing else 'begins'}")

    # Words

    def machine_of(self, epoch: int, member: int) -> int:
        """By a member's index in the set of `epoch`."""
        for machine in self.machines:
            for tip in (machine.genesis, *(block.tip for block in machine.chain)):
                if tip.validators.epoch == epoch:
                    return index_of(tip.validators.keys[member])
        raise AssertionError("no machine has reached that epoch")

    def name(self, digest: bytes) -> str:
        return self.names.get(digest) or digest[1:3].hex()

    def proposal(self, proposal: Proposal) -> str:
        if proposal == Proposal.null(proposal.height):
            self.names[proposal.digest] = "null"
        batches = [self.name(digest) for digest in proposal.batches]
        holds = f"[{' '.join(batches)}]" if batches else "seal" if proposal.seal else ""
        return f"h{proposal.height} {self.name(proposal.digest)} {holds}".rstrip()

    def describe(self, content: Record | Content) -> str:
        match content:
            case PrePrepare(proposal=proposal):
                return f"PRE-PREPARE v{content.view} {self.proposal(proposal)}"
            case Vote():
                return f"{content.phase.name} v{content.view} h{content.height} {self.name(content.digest)}"
            case Prepared():
                locked = content.certificate
                return f"LOCK v{locked.view} h{content.height} {self.name(locked.digest)} by {self._by(locked)}"
            case CheckpointVote():
                return f"CHECKPOINT h{content.height} state {content.state_root[1:3].hex()}"
            case Suspect():
                return f"SUSPECT v{content.view}"
            case TimeoutCertificate():
                return f"TIMEOUT v{content.view} by {self._by(content)}"
            case ViewChange():
                return (
                    f"VIEW-CHANGE v{content.view} stable h{content.claim.stable} locks {self._locks(content.prepared)}"
                )
            case NewView():
                members = " ".join(f"n{self.machine_of(content.epoch, claim.member)}" for claim in content.claims)
                stable = 0 if content.stable is None else content.stable.height
                return f"NEW-VIEW v{content.view} of {members} stable h{stable} locks {self._locks(content.prepared)}"
            case Status():
                mode = " changing" if content.changing else ""
                return f"STATUS v{content.view}{mode} height {content.height} stable h{content.stable}"
            case CheckpointCertificate():
                return f"CERTIFIED h{content.height} by {self._by(content)}"
            case Ask(first, last):
                return f"BLOCKS? h{first} to h{last}"
            case Want(digests):
                return f"BATCHES? {' '.join(map(self.name, digests))}"
            case Blocks(blocks):
                return f"BLOCKS {' '.join(f'h{block.proposal.height}' for block in blocks)}"
            case Spread(work):
                return f"BATCH {work.name}"
            case _:
                raise AssertionError(f"no words for {content!r}")

    def _by(self, certificate: Certificate | CheckpointCertificate | TimeoutCertificate) -> str:
        return " ".join(f"n{self.machine_of(certificate.epoch, member)}" for member, _ in certificate.signatures)

    def _locks(self, prepared: tuple[Prepared, ...]) -> str:
        locks = (f"h{item.height}:{self.name(item.proposal.digest)}@v{item.certificate.view}" for item in prepared)
        return "[" + " ".join(locks) + "]"

    # Commands

    def command(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "cluster": self._cluster,
            "batch": self._batch,
            "run": self._run,
            "lose": lambda words: self._rule(words, True),
            "hold": lambda words: self._rule(words, False),
            "release": self._release,
            "heal": self._heal,
            "cut": lambda which: self.cut.update(self._indexes(which)),
            "crash": self._crash,
            "start": self._start,
            "say": self._say,
            "state": self._state,
            "expect": self._expect,
        }
        commands[word](rest)

    def _indexes(self, which: str) -> list[int]:
        if which == "all":
            return [machine.index for machine in self.machines if machine.alive]
        return [int(name.strip().removeprefix("n")) for name in which.split(",")]

    def _cluster(self, options: str) -> None:
        settings = dict(option.split("=") for option in options.split())
        self.telling = settings.pop("deliveries", "all") == "telling"
        members = int(settings.pop("members", "4"))
        count = int(settings.pop("machines", str(members)))
        parameters = Parameters().changed((name, int(value)) for name, value in settings.items())
        assert not parameters.problems(), parameters.problems()
        first = genesis(range(members), parameters)
        self.machines = [Machine(index, self, first) for index in range(count)]
        for machine in self.machines:
            machine.start()

    def _batch(self, rest: str) -> None:
        words = rest.split()
        name, options = words[0], dict(zip(words[1::2], words[2::2], strict=False))
        if "txs" in words:
            words.remove("txs")
            options = dict(zip(words[1::2], words[2::2], strict=True))
        members = tuple(self._indexes(options["deciding"])) if "deciding" in options else ()
        work = self.works.setdefault(name, Work(name, int(options.get("of", "1")), members))
        self.names[work.digest] = name
        for index in self._indexes(options.get("at", "all")):
            machine = self.machines[index]
            before = len(self.lines)
            self.acting(machine, lambda to=machine: to.hold(work))  # type: ignore[misc]
            after = self.lines[before:]
            del self.lines[before:]
            self.line(f"n{index}", f"batch {name} is here")
            self.lines += after

    def _run(self, duration: str) -> None:
        self.run(int(duration.removesuffix(" ms")) if duration else None)

    def _rule(self, words: str, lost: bool) -> None:
        self.rules.append(Rule(frozenset(words.split()), lost))

    def _release(self, _: str) -> None:
        self.rules = [rule for rule in self.rules if rule.lost]
        for go_on in self.held:
            go_on()
        self.held.clear()

    def _heal(self, _: str) -> None:
        self._release("")
        self.rules.clear()
        self.cut.clear()

    def _crash(self, which: str) -> None:
        for index in self._indexes(which):
            machine = self.machines[index]
            records = [record for write in machine.waiting for record in split(write.record)]
            lost = f"; lost: {'; '.join(map(self.describe, records))}" if records else ""
            self.line(f"n{index}", f"loses power{lost}")
            machine.crash()

    def _start(self, which: str) -> None:
        for index in self._indexes(which):
            machine = self.machines[index]
            records = [self.describe(record) for _, written in machine.log for record in split(written)]
            self.line(
                f"n{index}",
                f"starts with {len(machine.chain)} blocks and in its log: {'; '.join(records) or 'nothing'}",
            )
            machine.start()

    def _say(self, rest: str) -> None:
        """As a faulty member of the first epoch."""
        who, _, what = rest.partition(":")
        sender, _, to = who.partition("->")
        [index] = self._indexes(sender)
        assert not self.machines[index].alive, "only a machine that is off can be spoken for"
        kind, view, height, name = what.split()
        proposal = Proposal(int(height[1:]), WALL_MS, (self.works[name].digest,))
        phase = Phase.COMMIT if kind == "COMMIT" else Phase.PREPARE
        vote: Vote = signed(
            Vote(0, int(view[1:]), proposal.height, phase, proposal.digest, index),
            lambda statement: sign(key_of(index), statement),
            CHAIN,
        )
        message = PrePrepare(proposal, vote) if kind == "PRE-PREPARE" else vote
        self.transmit(self.machines[index], tuple(self._indexes(to)), encode_message(message))

    def _state(self, _: str) -> None:
        for machine in self.machines:
            self.lines.append(f"  n{machine.index}  {self._state_of(machine)}")

    def _state_of(self, machine: Machine) -> str:
        if not machine.alive:
            return "off"
        engine = machine.engine
        mode = (
            "changing"
            if engine.changing
            else "suspects"
            if engine.is_discontent
            else "follows"
            if engine.me is None
            else ""
        )
        place = f"epoch {engine.validators.epoch}  view {engine.view} {mode:<8}  patience {engine.patience_ms:>5} ms"
        timers = [f"{timer.name} {at_ms}" for timer, at_ms in machine.timers.items() if timer is not Timer.STATUS]
        heights = f"executed {engine.executed:>2}  stable {engine.checkpoints.stable:>2}"
        chain = " ".join(self.name(block.proposal.digest) for block in machine.chain[-8:])
        return f"{place}  {heights}  chain {chain or '-'}  timers {', '.join(timers) or '-'}"

    def _expect(self, rest: str) -> None:
        """So that what a script claims cannot be rewritten by accident."""
        which, *claims = rest.split()
        for index in self._indexes(which):
            engine = self.machines[index].engine
            known = {
                "executed": engine.executed,
                "stable": engine.checkpoints.stable,
                "view": engine.view,
                "epoch": engine.validators.epoch,
                "changing": int(engine.changing),
                "suspects": int(engine.is_discontent),
            }
            for claim in claims:
                what, _, value = claim.partition("=")
                assert known[what] == int(value), f"n{index}: {what} is {known[what]}, not {value}"


def play(script: str) -> str:
    """The script with the trace of what its commands do now."""
    return "".join(_played(Stage(), script))


def _played(stage: Stage, script: str) -> Iterator[str]:
    done = 0
    for text in script.splitlines():
        if text.startswith("  "):
            continue
        yield text + "\n"
        if text.startswith("> "):
            stage.command(text[2:])
            yield from (f"{line.rstrip()}\n" for line in stage.lines[done:])
            done = len(stage.lines)
    check(stage)


def check(stage: Stage) -> None:
    """What every trace must show, whatever it is about."""
    chains = [[block.proposal.digest for block in machine.chain] for machine in stage.machines]
    longest = max(chains, key=len, default=[])
    assert all(chain == longest[: len(chain)] for chain in chains), "two machines executed different blocks"
    assert not [line for line in stage.lines if "NOT DURABLE" in line], "sent before it was durable"
