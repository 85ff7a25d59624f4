"""Inputs and effects of the engine: all that goes in and comes out, as frozen data without behaviour.

`Verified` is the type of a message whose signatures were checked against the epoch's set (consensus/verify.py); the
engine takes nothing else from peers. What must be durable first is the parent of what follows it: a `Persist` carries
the effects that may only happen after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeAlias, TypeVar

import ledger.evidence
from consensus.messages import Message, Status
from ledger.block import Certificate, CheckpointCertificate, Proposal
from ledger.genesis import Parameters
from ledger.validators import ValidatorSet

M_co = TypeVar("M_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Verified(Generic[M_co]):
    """A message with all its signatures checked. Made by `consensus.verify` only."""

    message: M_co


class Timer(Enum):
    """The engine's timers; setting one again replaces it."""

    PROGRESS = "progress"
    PROPOSE = "propose"
    STATUS = "status"


# Inputs


@dataclass(frozen=True, slots=True)
class Received:
    """A signed message from a peer."""

    verified: Verified[Message]


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A member told where it stands."""

    member: int
    status: Status


@dataclass(frozen=True, slots=True)
class Fired:
    """A timer's time has come."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class BatchAvailable:
    """A batch is held, with all its signatures checked, and not yet ordered."""

    digest: bytes
    tx_count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Validated:
    """The answer to `Validate`. `ok` only when every batch is held and durable before the next `Persist` is."""

    height: int
    digest: bytes
    ok: bool


@dataclass(frozen=True, slots=True)
class Persisted:
    """The `Persist` with this token is durable, and what followed it was carried out."""

    token: int


@dataclass(frozen=True, slots=True)
class Certified:
    """A decision from a peer or the store, its certificate checked."""

    proposal: Proposal
    certificate: Verified[Certificate]


@dataclass(frozen=True, slots=True)
class CheckpointCertified:
    """A checkpoint certificate from a peer, checked."""

    certificate: Verified[CheckpointCertificate]


@dataclass(frozen=True, slots=True)
class Applied:
    """A delivered block was executed and stored. `state_root`: at checkpoints; the last two: at an epoch's end."""

    height: int
    block_hash: bytes
    results_hash: bytes
    state_root: bytes | None
    epoch_end: int | None
    next_validators: ValidatorSet | None
    next_parameters: Parameters | None = None


Input: TypeAlias = (
    Received | PeerStatus | Fired | BatchAvailable | Validated | Persisted | Certified | CheckpointCertified | Applied
)

# Effects


@dataclass(frozen=True, slots=True)
class Send:
    """To one member, by index in the current set."""

    member: int
    message: Message


@dataclass(frozen=True, slots=True)
class Broadcast:
    """To all other members."""

    message: Message


@dataclass(frozen=True, slots=True)
class Persist:
    """Make `record` durable, do what follows, answer `Persisted(token)`. `height` tells when it may be dropped. With
    `vouches`, what was executed up to there must be durable first: others build on it.
    """

    token: int
    height: int
    record: bytes
    then: tuple[Send | Broadcast, ...]
    vouches: bool = False


@dataclass(frozen=True, slots=True)
class SetTimer:
    timer: Timer
    at_ms: int


@dataclass(frozen=True, slots=True)
class CancelTimer:
    timer: Timer


@dataclass(frozen=True, slots=True)
class Validate:
    """Get hold of every batch of the proposal. `check_time`: refuse a time too far from this node's clock."""

    proposal: Proposal
    check_time: bool


@dataclass(frozen=True, slots=True)
class Deliver:
    """Execute this block next; heights come in order, each once."""

    proposal: Proposal
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Stable:
    """A quorum certified this checkpoint, and our own result agrees: records up to it may be dropped."""

    certificate: CheckpointCertificate


@dataclass(frozen=True, slots=True)
class Evidence:
    """A member contradicted itself; anyone can check `proof.wire` (ledger/evidence.py). Once a member and epoch."""

    proof: ledger.evidence.Evidence


@dataclass(frozen=True, slots=True)
class Diverged:
    """Our own result differs from what a quorum certified, or from what we signed before: stop signing, say so."""

    height: int
    own_state_root: bytes
    certified_state_root: bytes


@dataclass(frozen=True, slots=True)
class KeyForgotten:
    """The block at `height` was decided with a vote of ours that is not in our log: the log is an older copy, or
    another process has the key. The engine only follows now; one made again must be told so (`EngineConfig.muted`).
    """

    height: int


Effect: TypeAlias = (
    Send
    | Broadcast
    | Persist
    | SetTimer
    | CancelTimer
    | Validate
    | Deliver
    | Stable
    | Evidence
    | Diverged
    | KeyForgotten
)
