"""Genesis: what all nodes of a chain agree on before its first block.

A JSON document; the chain id is the hash of its canonical form, so two nodes that differ in anything here are on two
chains. It names the one signature rule, the parameters that must agree, the validators, and for each active rule module
its version and first state.

Must not know: files. Text comes in and goes out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Any

from ledger.block import BLOCK_TXS_MAX
from ledger.codec import Value, encode
from ledger.crypto import SIGNATURE_RULE, KeyPair, check_public_key, hash_bytes
from ledger.errors import CodecError, ConfigError, FieldReject, SignatureRefused
from ledger.fields import FieldType, Flag, Integer, Text
from ledger.stateproof import RECEIPT_PROOF_HEIGHTS_MAX
from ledger.transaction import BATCH_TXS_MAX
from ledger.validators import VALIDATORS_MAX, ValidatorSet

GENESIS_SIZE_BYTES_MAX = 4 * 1024 * 1024  # thousands of institutions with their keys
FORMAT = "medchain/genesis/2"
# A new view of 128 members with every height of the log locked and full then stays in its frame (docs/protocol.md, 9).
LOG_WINDOW_MAX = min(256, RECEIPT_PROOF_HEIGHTS_MAX)
PARAMETER_MAX = 2**31 - 1
VIEW_TIMEOUT_MS_CEILING = 3_600_000  # with one faulty leader more than that, nobody would wait for the repair
_FIELDS: tuple[tuple[str, FieldType], ...] = (("name", Text(64)), ("time_ms", Integer()), ("development", Flag()))

DEVELOPMENT_NAMES = ("hospital", "maker", "distributor", "pharmacy", "insurer", "regulator", "patient")


def development_key(name: str) -> KeyPair:
    """A well-known key for development chains. Anyone can make it: refused on a chain that is not for development."""
    return KeyPair.from_seed(sha256(b"medchain development key: " + name.encode()).digest())


def development_public_keys() -> frozenset[bytes]:
    return frozenset(development_key(name).public for name in DEVELOPMENT_NAMES)


@dataclass(frozen=True, slots=True)
class Parameters:
    """What must agree on all nodes, each checked against the others. Times in milliseconds.

    Genesis states the first ones; governance changes them from an epoch on (ledger/modules/members.py).
    """

    window: int = 8  # heights in flight beyond the last executed one
    checkpoint_interval: int = 10  # blocks between certified state roots
    log_window: int = 64  # heights a replica keeps beyond its stable checkpoint
    view_timeout_ms: int = 1_000  # patience with a leader; doubles with each failed view
    view_timeout_ms_max: int = 30_000  # the cap of that doubling
    block_interval_ms: int = 15  # for every few transactions that wait, how long for more (docs/protocol.md, section 3)
    block_txs_max: int = 2_000
    batch_txs_max: int = 500
    clock_drift_ms_max: int = 10_000  # how far a proposal's time may be from a replica's clock
    # How far ahead a transaction's last height may lie. Fixed: a node that starts reads so many blocks to know what
    # was executed, and must remember what all others do.
    validity_heights_max: int = 1_000

    def problems(self) -> list[str]:
        """Everything wrong with these, each naming its field; empty when they fit together."""
        found = [
            f"parameters.{item.name}: must be an integer from 1 to 2^31"
            for item in fields(self)
            if type(getattr(self, item.name)) is not int or not 1 <= getattr(self, item.name) <= PARAMETER_MAX
        ]
        if found:
            return found
        if self.log_window < self.checkpoint_interval + 2 * self.window:
            found.append("parameters.log_window: must be at least checkpoint_interval + 2 * window")
        if self.log_window > LOG_WINDOW_MAX:
            found.append(f"parameters.log_window: must be at most {LOG_WINDOW_MAX}")
        # At the cap nobody is slow: there must be patience below it.
        if not 2 * self.view_timeout_ms <= self.view_timeout_ms_max <= VIEW_TIMEOUT_MS_CEILING:
            found.append("parameters.view_timeout_ms_max: must be at least twice view_timeout_ms, and at most an hour")
        if self.block_interval_ms * 4 > self.view_timeout_ms:
            found.append("parameters.block_interval_ms: must be at most a quarter of view_timeout_ms")
        if self.block_txs_max > BLOCK_TXS_MAX:
            found.append(f"parameters.block_txs_max: must be at most {BLOCK_TXS_MAX}")
        if self.batch_txs_max > min(self.block_txs_max, BATCH_TXS_MAX):
            found.append(f"parameters.batch_txs_max: must be at most block_txs_max and {BATCH_TXS_MAX}")
        if self.clock_drift_ms_max < self.view_timeout_ms:  # what is late, but in time for its view, would be refused
            found.append("parameters.clock_drift_ms_max: must not be below view_timeout_ms")
        if self.validity_heights_max < 2 * self.log_window:
            found.append("parameters.validity_heights_max: must be at least 2 * log_window")
        return found

    def changed(self, changes: Iterable[tuple[str, int]]) -> Parameters:
        """With some of them replaced; to be checked by `problems`."""
        return replace(self, **dict(changes))

    def to_value(self) -> tuple[Value, ...]:
        """`[[name, value]*]` in the order of their declaration."""
        return tuple((item.name, getattr(self, item.name)) for item in fields(self))

    @classmethod
    def from_value(cls, value: Value) -> Parameters:
        """The inverse. CodecError for anything that does not fit together."""
        try:
            parameters = cls(**dict(value))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise CodecError("not parameters") from None
        if parameters.to_value() != value or parameters.problems():
            raise CodecError("not parameters")
        return parameters


GOVERNED_PARAMETERS = tuple(item.name for item in fields(Parameters) if item.name != "validity_heights_max")


@dataclass(frozen=True)
class Genesis:
    """One chain's agreed beginning. `modules` maps each active rule module to its version and first state."""

    name: str
    time_ms: int
    validators: tuple[bytes, ...]
    modules: Mapping[str, Mapping[str, Any]]
    development: bool = False
    parameters: Parameters = field(default_factory=Parameters)
    signature_rule: str = SIGNATURE_RULE

    def __post_init__(self) -> None:
        problems = self.parameters.problems()
        for field_name, field_type in _FIELDS:
            try:
                field_type.check(getattr(self, field_name), field_name)
            except FieldReject as reject:
                problems.append(": must be ".join(map(str, reject.detail)))
        if self.signature_rule != SIGNATURE_RULE:
            problems.append(f"signature_rule: this software knows only {SIGNATURE_RULE}")
        if not 1 <= len(self.validators) <= VALIDATORS_MAX or len(set(self.validators)) != len(self.validators):
            problems.append(f"validators: 1 to {VALIDATORS_MAX} distinct keys")
        if 1 < len(self.validators) < 4:
            problems.append("validators: 1 (development) or at least 4; 2 or 3 tolerate no fault")
        for key in self.validators:
            try:
                check_public_key(key)
            except SignatureRefused as error:
                problems.append(f"validators: {key.hex()}: {error}")
        if not self.development:
            known = development_public_keys()
            if any(key in known for key in self.validators) or any(key.hex() in self.to_json() for key in known):
                problems.append("development keys are public: set development or replace them")
            if len(self.validators) < 4:
                problems.append("validators: a chain that is not for development needs at least 4")
        if "members" not in self.modules:
            problems.append("modules: members is required")
        if problems:
            raise ConfigError("genesis: " + "; ".join(problems))
        try:
            self.chain_id  # noqa: B018 - what has no canonical form is found here, not at first use
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"genesis: modules: {error}") from None

    @cached_property
    def chain_id(self) -> bytes:
        return hash_bytes(encode((FORMAT, _canonical(json.loads(self.to_json())))))

    @cached_property
    def validator_set(self) -> ValidatorSet:
        return ValidatorSet.create(0, 1, self.validators)

    def to_json(self) -> str:
        document = {
            "format": FORMAT,
            "name": self.name,
            "development": self.development,
            "time_ms": self.time_ms,
            "signature_rule": self.signature_rule,
            "parameters": asdict(self.parameters),
            "validators": [key.hex() for key in sorted(self.validators)],
            "modules": {name: dict(self.modules[name]) for name in sorted(self.modules)},
        }
        return json.dumps(document, indent=2, ensure_ascii=False)

    @classmethod
    @lru_cache(maxsize=8)  # pure; a process with many nodes, as in tests, opens one chain thousands of times
    def from_json(cls, text: str | bytes) -> Genesis:
        """Parse and check; ConfigError names every problem."""
        if len(text) > GENESIS_SIZE_BYTES_MAX:
            raise ConfigError("genesis: file too large")
        try:
            document = json.loads(text)
            if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
                raise ConfigError(f"genesis: format must be {FORMAT}")
            known = {item.name for item in fields(Parameters)}
            parameters = document.pop("parameters", {})
            unknown = sorted(set(parameters) - known)
            if unknown:
                raise ConfigError(f"genesis: parameters.{unknown[0]}: unknown")
            validators = tuple(bytes.fromhex(key) for key in document.pop("validators"))
            return cls(validators=validators, parameters=Parameters(**parameters), **document)
        except ConfigError:
            raise
        except json.JSONDecodeError as error:
            raise ConfigError(f"genesis: not JSON (line {error.lineno}, column {error.colno})") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ConfigError(f"genesis: {type(error).__name__}: {error}") from None


def _canonical(value: object) -> Value:
    """JSON as a canonical value: objects as sorted pairs. Floats are refused, they have no place in agreement."""
    match value:
        case None | bool() | int() | str():
            return value
        case list():
            return ("list", *map(_canonical, value))
        case dict():
            return ("map", *((key, _canonical(value[key])) for key in sorted(value)))
        case _:
            raise ConfigError(f"genesis: {type(value).__name__} values are not allowed")
