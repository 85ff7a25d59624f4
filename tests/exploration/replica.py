"""One honest member: the real engine, and a host that carries out its effects the way a node does.

A step takes a snapshot, gives the engine one input, and leaves a snapshot: nothing else is kept of it. Batches are held
by everyone from the start, proposals validate at once, decided blocks are executed at once. What is persisted becomes
durable by a step of its own (`Flush`); a restart keeps the durable part and loses the rest.

Must not know: which messages exist, who is Byzantine.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from consensus import Engine, EngineConfig, Verifier
from consensus.events import (
    Applied,
    BatchAvailable,
    Broadcast,
    CancelTimer,
    Certified,
    Deliver,
    Effect,
    Fired,
    Persist,
    Persisted,
    Received,
    Send,
    SetTimer,
    Timer,
    Validate,
    Validated,
)
from consensus.messages import Message, Status, decode_record
from ledger.block import Certificate, Proposal
from tests.exploration.fingerprint import Key, fingerprint, record_keys, split
from tests.exploration.place import (
    CHAIN,
    GENESIS,
    KEYS,
    NEVER_MS,
    PARAMETERS,
    VALIDATORS,
    Scope,
    Signer,
    batch,
    is_signed,
    wall_ms,
)

VERIFIER = Verifier(CHAIN, is_signed)


@dataclass(frozen=True, slots=True)
class Fire:
    """Patience ends."""


@dataclass(frozen=True, slots=True)
class Flush:
    """The oldest of what was persisted becomes durable, and what waited for that is sent."""


@dataclass(frozen=True, slots=True)
class Restart:
    """A crash: of what waits to become durable only the first `kept` are, with nothing sent that waited for them. The
    block store has the decided blocks, or lost them, as it may: they are on other disks."""

    kept: int
    blocks: bool


Event = Received | Certified | Fire | Flush | Restart


@dataclass(slots=True)
class Host:
    """What a snapshot holds."""

    member: int
    scope: Scope
    engine: Engine
    restarts: int  # left
    now_ms: int = 0
    patience_ends_ms: int | None = None
    log: tuple[bytes, ...] = ()
    pending: tuple[Persist, ...] = ()
    blocks: tuple[tuple[Proposal, Certificate], ...] = ()


@dataclass(slots=True)
class Outcome:
    """What a step did: messages now on the network, and digests of blocks decided."""

    sent: list[Message] = field(default_factory=list)
    decided: list[bytes] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.sent += other.sent
        self.decided += other.decided


def begin(member: int, scope: Scope) -> tuple[Host, Outcome]:
    """A member at the start, holding a batch for every height."""
    host = Host(member, scope, _engine(member, 0), scope.restarts)
    return host, _start(host)


def _engine(member: int, executed: int) -> Engine:
    config = EngineConfig(CHAIN, KEYS[member], PARAMETERS, seal_after_ms=NEVER_MS)
    return Engine(config, Signer(KEYS[member]), replace(GENESIS, height=executed), None)


def _start(host: Host) -> Outcome:
    outcome = Outcome()
    _carry_out(host, host.engine.start(host.now_ms), outcome)
    for height in range(host.engine.executed + 1, host.scope.heights + 1):
        size = PARAMETERS.block_txs_max  # one batch fills a block
        _step(host, BatchAvailable(batch(height), size, 1_000), outcome)
    return outcome


def act(host: Host, event: Event) -> Outcome:
    """Take one input, in place."""
    outcome = Outcome()
    match event:
        case Fire():
            assert host.patience_ends_ms is not None
            host.now_ms = max(host.now_ms, host.patience_ends_ms)
            host.patience_ends_ms = None
            _step(host, Fired(Timer.PROGRESS), outcome)
            assert host.engine.is_discontent, "patience that ends makes discontent, whatever the time"
        case Flush():
            _flush(host, outcome)
        case Restart(kept, blocks):
            return _restart(host, kept, blocks)
        case _:
            _step(host, event, outcome)
    return outcome


def _step(host: Host, event: object, outcome: Outcome) -> None:
    _carry_out(host, host.engine.step(event, host.now_ms, _wall_ms(host)), outcome)  # type: ignore[arg-type]


def _wall_ms(host: Host) -> int:
    return wall_ms(host.member, host.scope.restarts - host.restarts)


def _carry_out(host: Host, effects: Iterable[Effect], outcome: Outcome) -> None:
    waiting = deque(effects)
    while waiting:
        effect = waiting.popleft()
        answer: object = None
        match effect:
            case Persist():
                host.pending += (effect,)
            case Broadcast(message) | Send(_, message):
                _send(outcome, message)
            case Validate(proposal) if proposal.height <= host.scope.heights:
                answer = Validated(proposal.height, proposal.digest, True)
            case Deliver(proposal, certificate):
                outcome.decided.append(proposal.digest)
                assert VERIFIER.certificate(certificate, VALIDATORS) is not None, "decided without a certificate"
                assert certificate.digest == proposal.digest, "decided by the certificate of another block"
                host.blocks += ((proposal, certificate),)
                answer = Applied(proposal.height, proposal.digest, bytes(32), None, None, None)
            case SetTimer(Timer.PROGRESS, at_ms):
                host.patience_ends_ms = at_ms
            case CancelTimer(Timer.PROGRESS):
                host.patience_ends_ms = None
        if answer is not None:
            waiting.extend(host.engine.step(answer, host.now_ms, _wall_ms(host)))  # type: ignore[arg-type]


def _send(outcome: Outcome, message: Message) -> None:
    if not isinstance(message, Status):
        outcome.sent.append(message)


def _make_durable(host: Host, outcome: Outcome) -> Persisted:
    first, *rest = host.pending
    host.pending = tuple(rest)
    if host.restarts > 0:  # else nobody will read it
        host.log += (first.record,)
    for effect in first.then:
        _send(outcome, effect.message)
    return Persisted(first.token)


def _flush(host: Host, outcome: Outcome) -> None:
    _step(host, _make_durable(host, outcome), outcome)


def _restart(host: Host, kept: int, blocks: bool) -> Outcome:
    host.log += tuple(one.record for one in host.pending[:kept])
    host.pending, host.patience_ends_ms = (), None
    host.blocks = host.blocks if blocks else ()
    host.restarts -= 1
    host.engine = _engine(host.member, len(host.blocks))
    host.engine.restore([decode_record(item) for record in host.log for item in split(record)], host.blocks)
    outcome = _start(host)
    if host.restarts == 0:
        host.log = ()
    return outcome


def key(host: Host) -> Key:
    """Equal for members that will act alike."""
    log = frozenset(one for record in host.log for one in record_keys(record))
    pending = tuple(record_keys(one.record) for one in host.pending)
    return (host.restarts, host.patience_ends_ms is None, log, pending, len(host.blocks), fingerprint(host.engine))


def freeze(host: Host) -> bytes:
    return pickle.dumps(host, pickle.HIGHEST_PROTOCOL)


def thaw(snapshot: bytes) -> Host:
    host: Host = pickle.loads(snapshot)
    return host


def own_inputs(host: Host) -> list[Event]:
    """What may happen to a member without any message."""
    found: list[Event] = []
    if host.patience_ends_ms is not None and host.engine.view + 1 < host.scope.views:
        found.append(Fire())
    if host.pending:
        found.append(Flush())
    return found + crashes(host)


def crashes(host: Host) -> list[Restart]:
    """All ways to crash now."""
    if host.restarts == 0:
        return []
    kept = range(len(host.pending) + 1)
    return [Restart(count, blocks) for count in kept for blocks in ((True, False) if host.blocks else (False,))]
