"""When two engines are the same: a generic walk over everything an engine holds, less what cannot matter here.

Left out: clocks and patience (a timer may fire whenever it is set, so no time matters), counters of what was refused,
which signatures prove a certificate (any quorum proves the same), and votes that nothing will count any more. Whatever
else an engine holds, and whatever is added to it one day, is compared without being named here.

Must not know: how a step is made, who is Byzantine.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from consensus.checkpoints import Checkpoints
from consensus.messages import (
    Claim,
    NewView,
    Prepared,
    PrePrepare,
    Suspect,
    TimeoutCertificate,
    ViewChange,
    Vote,
    decode_record,
)
from consensus.newview import choose
from consensus.patience import Patience
from consensus.slots import Slot
from consensus.views import Views
from ledger.block import Certificate, CheckpointCertificate, Proposal
from tests.exploration.place import name_of

Key = Hashable

CONSTANT = frozenset({"config", "sign", "parameters", "validators"})
# Refusals and convictions are reports; `_height_of` and `timeout` decide only what is said again, and everything ever
# said may arrive again here anyway.
REPORTS = frozenset({"effects", "ignored", "_convicted", "_height_of", "timeout"})
TIMES = frozenset({"since_ms", "now_ms", "wall_ms", "progress_at_ms", "_timers", "since_height", "number", "_count"})
LEFT_OUT = CONSTANT | REPORTS | TIMES | {"_token"}


def key_of(message: Any) -> Key:
    """A message without what makes no difference: two with the same key are the same to every engine."""
    match message:
        case Vote():
            return ("vote", message.view, message.height, int(message.phase), name_of(message.digest), message.member)
        case PrePrepare():
            return ("propose", message.view, message.vote.height, name_of(message.vote.digest), message.member)
        case Suspect():
            return ("suspect", message.view, message.member)
        case TimeoutCertificate():
            return ("timeout", message.view)
        case Certificate():
            return ("proof", message.view, message.height, int(message.phase), name_of(message.digest))
        case CheckpointCertificate():
            return ("checkpoint", message.height, message.state_root)
        case Prepared():
            return ("lock", message.certificate.view, message.height, name_of(message.proposal.digest))
        case ViewChange():
            return ("view change", message.view, tuple(map(key_of, message.prepared)), message.member)
        case Claim():
            return ("claim", message.view, message.locks, message.member)
        case NewView():
            choice = choose(message, 0)
            assert choice is not None
            return ("new view", message.view, tuple(name_of(one.digest) for one in choice.proposals), message.member)
        case Proposal():
            return name_of(message.digest)
    raise TypeError(type(message))


PLAIN = frozenset({int, bool, bytes, str})
MESSAGES = frozenset(
    {
        Vote, PrePrepare, Suspect, TimeoutCertificate, Certificate, CheckpointCertificate, Prepared, ViewChange, Claim,
        NewView, Proposal,
    }
)  # fmt: skip


def words(value: object) -> str:
    """A key for people."""
    if isinstance(value, tuple):
        return " ".join(map(words, value)) if value else "-"
    return str(value)


@lru_cache(100_000)
def record_keys(record: bytes) -> tuple[Key, ...]:
    """What one entry of the write-ahead log says."""
    return tuple(key_of(decode_record(item)) for item in split(record))


def split(record: bytes) -> list[bytes]:
    """The items of one entry of the write-ahead log."""
    items: list[bytes] = []
    while record:
        size = int.from_bytes(record[:4], "big")
        items.append(record[4 : 4 + size])
        record = record[4 + size :]
    return items


def fingerprint(engine: object) -> Key:
    """Equal for engines that will act alike."""
    return _walk(engine, {})


def _walk(value: Any, seen: dict[int, int]) -> Key:
    if value is None or type(value) in PLAIN:
        return value  # type: ignore[no-any-return]
    if type(value) in MESSAGES:
        return key_of(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return tuple([(key, _walk(value[key], seen)) for key in sorted(value)])
    if isinstance(value, list | tuple):
        return tuple([_walk(item, seen) for item in value])
    if isinstance(value, set | frozenset):
        return tuple(sorted(value))
    if isinstance(value, Patience):
        return None
    if id(value) in seen:
        return ("as before", seen[id(value)])
    seen[id(value)] = len(seen)
    if not hasattr(value, "__dict__") and not is_dataclass(value):
        raise TypeError(f"{type(value)} is not known how to compare")
    names: Iterable[str] = _fields(type(value)) or sorted(vars(value).keys() - LEFT_OUT)
    found = {name: getattr(value, name) for name in names}
    _leave_out_dead(value, found)
    return tuple([_walk(item, seen) for item in found.values()])


@lru_cache(None)
def _fields(kind: Hashable) -> tuple[str, ...]:
    if not is_dataclass(kind):
        return ()
    return tuple(one.name for one in fields(kind) if one.name not in LEFT_OUT)


def _leave_out_dead(value: object, found: dict[str, Any]) -> None:
    """Entries of tables that nothing will count any more."""
    if isinstance(value, Slot):
        if value.own_commit is not None and value.proposed:
            found["prepares"] = None  # counted only towards our own commit, or for what the leader may yet propose
        if value.decision is not None:
            found["commits"] = None
    elif isinstance(value, Views):
        state = value._state
        view = state.view if state.changing and state.leader == state.me else state.view + 1
        changes = found["_view_changes"]
        found["_view_changes"] = {member: one for member, one in changes.items() if one.view >= view}
        suspects = found["_suspects"]
        found["_suspects"] = {member: one for member, one in suspects.items() if one.view >= state.view}
    elif isinstance(value, Checkpoints):
        found.pop("log_window")
    if "unpersisted" in found:
        found["unpersisted"] = [item for _, item in sorted(found["unpersisted"].items())]
