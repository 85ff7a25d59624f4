"""The rule layer: what a rule module is, what it may see, and the registry of active modules.

A module declares operations (typed fields), for each a static check (no state), and an apply function that reads the
state and writes its own part of it, or raises Reject. It sees no clock, network or file; the block's agreed time is
given. docs/writing-rules.md teaches it.

Must not know: how modules are found (node/plugins.py) or how a block is executed (ledger/execution.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import lru_cache, partial
from typing import Any, NamedTuple

from ledger.codec import Value
from ledger.errors import PLUGIN_CODE_MIN, Code, ConfigError, Explanation, Reject
from ledger.fields import FieldType, Operation, parser_of, schema_of
from ledger.state import KeyPart, Overlay, Reader, state_key

WRITES_PER_TX_MAX = 8_192  # a thousand serials with a few entries each; bounds a block's memory and its atomic write
WRITES_SIZE_BYTES_PER_TX_MAX = 1024 * 1024  # the same, with room for a thousand packs in containers of a few levels
INDEXES_PER_TX_MAX = 4_096
MEMBERS_KEYS_CACHED_MAX = 4_096


class Role(StrEnum):
    """What an institution is; which operations it may submit follows from it."""

    HOSPITAL = "hospital"
    MANUFACTURER = "manufacturer"
    DISTRIBUTOR = "distributor"
    PHARMACY = "pharmacy"
    INSURER = "insurer"
    REGULATOR = "regulator"


class Member(NamedTuple):
    """An institution as the state holds it. `prefixes` are its GS1 company prefixes, `glns` its locations."""

    id: str
    name: str
    roles: tuple[str, ...]
    prefixes: tuple[str, ...]
    glns: tuple[str, ...]
    active: bool

    def to_value(self) -> tuple[Value, ...]:
        return tuple(self)


# Asked for with every transaction. By type, too: True is no 1, whatever was asked for before.
_members_key = lru_cache(MEMBERS_KEYS_CACHED_MAX, typed=True)(partial(state_key, "members"))


def member_by_id(state: Reader, member_id: str) -> Member | None:
    value = state.get(_members_key("institution", member_id))
    return Member._make(value) if type(value) is tuple else None


def member_by_key(state: Reader, key: bytes) -> Member | None:
    """The institution that `key` may sign for; None for a patient or stranger."""
    member_id = state.get(_members_key("key", key))
    return member_by_id(state, member_id) if type(member_id) is str else None


class Context:
    """What an apply function may see and do. Writes and indexes are kept only if it returns."""

    __slots__ = ("_member", "_module", "_state", "height", "indexes", "sender", "time_ms", "tx_id")

    def __init__(self, state: Overlay, module: str, sender: bytes, tx_id: bytes, height: int, time_ms: int) -> None:
        self._state = state
        self._module = module
        self._member: Member | bool | None = False
        self.sender = sender
        self.tx_id = tx_id
        self.height = height
        self.time_ms = time_ms
        self.indexes: list[tuple[str, bytes]] = []

    @property
    def member(self) -> Member:
        """The active institution the sender signs for. Rejects a sender that signs for none."""
        member = self.member_or_none
        if member is None:
            raise Reject(Code.NOT_A_MEMBER)
        if not member.active:
            raise Reject(Code.MEMBER_SUSPENDED, member.id)
        return member

    @property
    def member_or_none(self) -> Member | None:
        if self._member is False:
            self._member = member_by_key(self._state, self.sender)
        return self._member  # type: ignore[return-value]

    def institution(self, member_id: str) -> Member:
        """Another institution by id; rejects unknown ones."""
        member = member_by_id(self._state, member_id)
        if member is None:
            raise Reject(Code.UNKNOWN_MEMBER, member_id)
        return member

    def get(self, table: str, *parts: KeyPart) -> Any:
        """The value in this module's table, arrays as tuples; None when absent."""
        return self._state.get(state_key(self._module, table, *parts))

    def read(self, module: str, table: str, *parts: KeyPart) -> Any:
        """The same from another module's table, read-only."""
        return self._state.get(state_key(module, table, *parts))

    def put(self, table: str, *parts: KeyPart, value: Value) -> None:
        if value is None:
            raise TypeError("None means absent: use delete")
        self._state.put(state_key(self._module, table, *parts), value)

    def delete(self, table: str, *parts: KeyPart) -> None:
        self._state.put(state_key(self._module, table, *parts), None)

    def index(self, name: str, key: str | bytes) -> None:
        """Let this transaction be found under `key` in the index `name` (patient, serial, lot, account, ...)."""
        if type(name) is not str or (type(key) is not str and type(key) is not bytes):
            raise TypeError("an index entry is a name and text or bytes")
        self.indexes.append((name, key.encode() if isinstance(key, str) else key))


@dataclass(frozen=True, slots=True)
class Rule:
    """One operation of a module. `roles`: institutions of any of these may send it; None: anyone, patients too."""

    operation: type[Operation]
    apply: Callable[[Any, Context], None]
    check: Callable[[Any], None] | None = None
    roles: frozenset[Role] | None = None


@dataclass(frozen=True, slots=True)
class RuleModule:
    """A named, versioned set of rules. `genesis` turns the module's part of the genesis file into first state."""

    name: str
    version: int
    rules: tuple[Rule, ...]
    genesis: Callable[[Mapping[str, Any], Context], None] | None = None
    codes: type[IntEnum] | None = None  # a plug-in's own refusal codes, from PLUGIN_CODE_MIN up
    explanations: Mapping[IntEnum, Explanation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Handler:
    """A rule made ready: its module's name and its compiled field parser."""

    module: str
    rule: Rule
    parse: Callable[[tuple[Value, ...]], Operation]
    schema: tuple[tuple[str, FieldType], ...]


class Registry:
    """The active rule modules, by operation name and version."""

    def __init__(self, modules: Iterable[RuleModule]) -> None:
        self.modules = tuple(sorted(modules, key=lambda module: module.name))
        self._handlers: dict[tuple[str, int], Handler] = {}
        taken: dict[int, str] = {}
        for module in self.modules:
            for rule in module.rules:
                self._add(module, rule)
            for code in module.codes or ():
                if code < PLUGIN_CODE_MIN or taken.setdefault(int(code), module.name) != module.name:
                    raise ConfigError(f"rule module {module.name}: code {int(code)} is reserved or taken")
        if len({module.name for module in self.modules}) != len(self.modules):
            raise ConfigError("two rule modules have the same name")

    def _add(self, module: RuleModule, rule: Rule) -> None:
        name, version = rule.operation.NAME, rule.operation.VERSION
        if name.partition(".")[0] != module.name:
            raise ConfigError(f"operation {name} does not belong to module {module.name}")
        if (name, version) in self._handlers:
            raise ConfigError(f"operation {name} version {version} is declared twice")
        parse, schema = parser_of(rule.operation), schema_of(rule.operation)
        self._handlers[name, version] = Handler(module.name, rule, parse, schema)

    def handler(self, operation: str, version: int) -> Handler:
        """Rejects what no active module declares."""
        handler = self._handlers.get((operation, version))
        if handler is None:
            raise Reject(Code.UNKNOWN_OPERATION, operation, version)
        return handler

    @property
    def handlers(self) -> tuple[Handler, ...]:
        return tuple(self._handlers[key] for key in sorted(self._handlers))

    def explain(self, code: int) -> Explanation | None:
        """A plug-in's explanation of its own code."""
        for module in self.modules:
            for known, explanation in module.explanations.items():
                if int(known) == code:
                    return explanation
        return None
