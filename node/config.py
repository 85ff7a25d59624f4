"""The node's one typed configuration: `<home>/medchain.toml`, environment and flags, checked whole.

A flag wins over the environment, the environment over the file, the file over the default. Every key has one
environment variable: `p2p.port` is `MEDCHAIN_P2P__PORT`. Unknown keys and unknown variables are refused with the
nearest name, and all problems are reported at once.

What all nodes of a chain must agree on is in genesis, not here. Must not know: what the settings are used for.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from ledger.crypto import PUBLIC_KEY_SIZE_BYTES, check_public_key
from ledger.errors import ConfigError, SignatureRefused
from p2p.frames import Channel
from p2p.queues import lane_size_bytes_min

FILE_NAME = "medchain.toml"
FILE_SIZE_BYTES_MAX = 1024 * 1024  # some thousand peers; a larger file is a mistake
ENVIRONMENT_PREFIX = "MEDCHAIN_"
CLI_PREFIX = "MEDCHAIN_CLI_"  # the command line's own options; never settings of a node
PEERS_MAX = 256
KNOWN_KEYS_MAX = 4_096


class InvalidConfig(ConfigError):
    """The configuration cannot be used. `problems` names everything wrong, one line a problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("configuration: " + "; ".join(problems))
        self.problems = tuple(problems)


def _public_key(text: str) -> str:
    try:
        raw = bytes.fromhex(text)
        check_public_key(raw)
    except (ValueError, SignatureRefused):
        raise ValueError(f"a public key is {2 * PUBLIC_KEY_SIZE_BYTES} hexadecimal digits starting with 01") from None
    return raw.hex()


def _from_json(value: object) -> object:
    """Lists come from the environment as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("must be a JSON list") from None


def _loopback(host: str) -> str:
    if host == "localhost":
        return host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError("must be a loopback address: the API has no TLS; let a TLS proxy on this machine face others")
    return host


Port = Annotated[int, Field(ge=0, le=65_535)]
Host = Annotated[str, Field(min_length=1, max_length=253)]
KeyHex = Annotated[str, AfterValidator(_public_key)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Peer(_Section):
    """Where another node is dialled, and the key that it must prove."""

    key: KeyHex
    host: Host
    port: Annotated[int, Field(ge=1, le=65_535)]


class P2P(_Section):
    """The network between nodes: TLS 1.3, both sides prove their key."""

    host: Host = Field(default="127.0.0.1", description="address to listen on")
    port: Port = Field(default=26_600, description="port to listen on; 0 takes a free one")
    advertise_host: str = Field(default="", max_length=253, description="address told to peers; empty: none is told")
    advertise_port: Port = Field(default=0, description="port told to peers")
    peers: Annotated[tuple[Peer, ...], BeforeValidator(_from_json)] = Field(
        default=(), max_length=PEERS_MAX, description="nodes to dial: tables of key, host, port"
    )
    known_keys: Annotated[tuple[KeyHex, ...], BeforeValidator(_from_json)] = Field(
        default=(), max_length=KNOWN_KEYS_MAX, description="keys admitted besides validators and peers, e.g. followers"
    )


class Api(_Section):
    """HTTP for clients. Loopback only: it has no TLS of its own."""

    host: Annotated[Host, AfterValidator(_loopback)] = Field(
        default="127.0.0.1", description="loopback address to listen on"
    )
    port: Port = Field(default=26_601, description="port to listen on; 0 takes a free one")
    allowed_hosts: Annotated[tuple[Host, ...], BeforeValidator(_from_json)] = Field(
        default=("localhost", "127.0.0.1", "[::1]"),
        max_length=64,
        description="names accepted in the Host header (stops DNS rebinding)",
    )


class Log(_Section):
    """Structured log on stderr; one line a block, never one a transaction."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least severe line written")
    format: Literal["text", "json"] = Field(default="text", description="text for people, json for collectors")


class Storage(_Section):
    """How much of the past stays on disk."""

    keep_blocks: int = Field(
        default=0, ge=0, le=2**40, description="last blocks kept whole, or as many as the chain needs; 0 keeps all"
    )
    snapshot_every: int = Field(
        default=1_000, ge=0, le=2**40, description="heights between two snapshots for those who join; 0 makes none"
    )


class Limits(_Section):
    """What outsiders can make this node hold. Each bounds memory or open files."""

    pool_size_bytes_max: int = Field(
        default=64 * 1024 * 1024, ge=1024 * 1024, le=2**34, description="waiting transactions"
    )
    waiters_max: int = Field(default=2_000, ge=1, le=100_000, description="requests waiting for a commit")
    connections_max: int = Field(default=1_024, ge=8, le=65_536, description="open API connections")
    connections_per_address_max: int = Field(
        default=512, ge=4, le=65_536, description="open API connections of one address"
    )
    streams_max: int = Field(default=64, ge=1, le=4_096, description="open event streams")
    body_size_bytes_max: int = Field(
        default=2 * 1024 * 1024, ge=65_536, le=64 * 1024 * 1024, description="one request body"
    )
    request_timeout_ms: int = Field(
        default=30_000, ge=100, le=600_000, description="reading one request, waits excluded"
    )
    peers_max: int = Field(default=128, ge=4, le=1_024, description="connected nodes that are no validators")
    peer_queue_size_bytes_max: int = Field(
        default=32 * 1024 * 1024,
        ge=lane_size_bytes_min(Channel.BULK),
        le=2**31,
        description="bulk data waiting for one slow peer",
    )


class NodeConfig(BaseSettings):
    """One node. Made from arguments alone; `load` is what reads file and environment. Paths are absolute after load."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__",
        enable_decoding=False, hide_input_in_errors=True,
    )  # fmt: skip

    home: Path = Field(description="data folder")
    genesis: Path = Field(default=Path("genesis.json"), description="genesis file; relative to the data folder")
    key: Path = Field(default=Path("node.key"), description="this node's key file; relative to the data folder")
    p2p: P2P = P2P()
    api: Api = Api()
    log: Log = Log()
    limits: Limits = Limits()
    storage: Storage = Storage()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments only, so that an embedding application is not changed by its environment."""
        return (init_settings,)

    @property
    def genesis_path(self) -> Path:
        return self.home / self.genesis

    @property
    def key_path(self) -> Path:
        return self.home / self.key


def setting_keys() -> Iterator[tuple[str, Any]]:
    """Every settable key, dotted, with its pydantic field."""
    for name, info in NodeConfig.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, _Section):
            yield from ((f"{name}.{inner}", field) for inner, field in section.model_fields.items())
        else:
            yield name, info


def environment_name(key: str) -> str:
    """The one variable of a dotted key."""
    return ENVIRONMENT_PREFIX + key.upper().replace(".", "__")


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean X?` or nothing."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else ""


def unknown_variables(also_known: frozenset[str] = frozenset()) -> list[str]:
    """A problem for each `MEDCHAIN_*` variable that is neither a key's nor in `also_known` (the command line's)."""
    known = [environment_name(key) for key, _ in setting_keys()] + sorted(also_known)
    found = sorted(name for name in os.environ if name.upper().startswith(ENVIRONMENT_PREFIX) and name not in known)
    if not also_known:
        found = [name for name in found if not name.startswith(CLI_PREFIX)]
    return [f"{name}: unknown variable{nearest(name, known)}" for name in found]


def load(home: Path | str, overrides: Mapping[str, object] | None = None) -> NodeConfig:
    """The configuration of the node in `home`. `overrides` are dotted keys (`{"p2p.port": 1}`), as flags give them.

    Raises InvalidConfig with every problem in file, environment and flags.
    """
    home = Path(home).expanduser().absolute()
    problems = unknown_variables()
    sources = _sources(home, overrides or {}, problems)
    merged: dict[str, object] = {}
    for _, values in reversed(sources):
        merged.update(values)
    problems += _unknown_keys(sources)
    known = {key for key, _ in setting_keys()}
    try:
        config = NodeConfig(**_nested({key: value for key, value in merged.items() if key in known}))
    except ValidationError as error:
        raise InvalidConfig(problems + _describe(error, sources)) from None
    problems += _cross_checks(config)
    if problems:
        raise InvalidConfig(problems)
    return config


def origins(config: NodeConfig, overrides: Mapping[str, object] | None = None) -> dict[str, tuple[object, str]]:
    """Each dotted key with its value and its origin: `flag`, a variable's name, the file's path, or `default`."""
    sources = _sources(config.home, overrides or {}, [])
    document = config.model_dump(mode="json")
    result: dict[str, tuple[object, str]] = {}
    for key, _ in setting_keys():
        section, _, name = key.rpartition(".")
        value = document[section][name] if section else document[name]
        result[key] = (value, _origin(key, sources))
    return result


def to_toml(values: Mapping[str, object]) -> str:
    """A file's text from dotted keys: texts, numbers, lists of texts, lists of tables with text and number values."""
    top = {key: value for key, value in values.items() if "." not in key}
    lines = [f"{key} = {_toml_value(value)}" for key, value in top.items()]
    for section in dict.fromkeys(key.partition(".")[0] for key in values if "." in key):
        lines += ["", f"[{section}]"]
        inner = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{section}.")}
        lines += [f"{key} = {_toml_value(value)}" for key, value in inner.items()]
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml_value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case list() | tuple():
            items = "".join(f"    {_toml_value(item)},\n" for item in value)
            return f"[\n{items}]" if items else "[]"
        case Mapping():
            return "{ " + ", ".join(f"{key} = {_toml_value(item)}" for key, item in value.items()) + " }"
        case _:
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


_Sources = list[tuple[Callable[[str], str], dict[str, object]]]


def _sources(home: Path, overrides: Mapping[str, object], problems: list[str]) -> _Sources:
    """Strongest first: a function that names the origin of a key, and the dotted values."""
    path = home / FILE_NAME
    environment = {
        key: value
        for key, value in _flat(EnvSettingsSource(NodeConfig)()).items()
        if environment_name(key) in os.environ
    }
    return [
        (lambda key: "flag", {**overrides, "home": str(home)}),
        (environment_name, environment),
        (lambda key: str(path), _flat(_read_file(path, problems))),
    ]


def _read_file(path: Path, problems: list[str]) -> dict[str, object]:
    try:
        if path.stat().st_size > FILE_SIZE_BYTES_MAX:
            problems.append(f"{path}: larger than {FILE_SIZE_BYTES_MAX} bytes")
            return {}
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
        problems.append(f"{path}: {error}")
        return {}


def _flat(document: Mapping[str, object]) -> dict[str, object]:
    """Dotted keys of a two-level document; only known sections are opened."""
    sections = {key.partition(".")[0] for key, _ in setting_keys() if "." in key}
    result: dict[str, object] = {}
    for name, value in document.items():
        if name in sections and isinstance(value, Mapping):
            result.update({f"{name}.{inner}": item for inner, item in value.items()})
        else:
            result[name] = value
    return result


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section:
            document.setdefault(section, {})[name] = value
        else:
            document[name] = value
    return document


def _unknown_keys(sources: _Sources) -> list[str]:
    known = [key for key, _ in setting_keys()]
    problems = []
    for origin, values in sources:
        for key in values:
            if key not in known:
                problems.append(f"{key}: unknown key (from {origin(key)}){nearest(key, known)}")
    return problems


def _origin(key: str, sources: _Sources) -> str:
    for origin, values in sources:
        if key in values:
            return "flag" if key == "home" else origin(key)
    return "default"


def _describe(error: ValidationError, sources: _Sources) -> list[str]:
    problems = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        location = [str(part) for part in item["loc"]]
        key = ".".join(location[:2]) if ".".join(location[:2]) in {key for key, _ in setting_keys()} else location[0]
        path = key + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in location[key.count(".") + 1 :])
        problems.append(f"{path}: {item['msg'].removeprefix('Value error, ')} (from {_origin(key, sources)})")
    return problems


def _cross_checks(config: NodeConfig) -> list[str]:
    """What single fields cannot know."""
    problems = []
    if config.p2p.port and config.p2p.port == config.api.port and config.p2p.host == config.api.host:
        problems.append("api.port: is the same as p2p.port")
    dialled = [peer.key for peer in config.p2p.peers]
    if len(set(dialled)) != len(dialled):
        problems.append("p2p.peers: a key is listed twice")
    if config.limits.connections_per_address_max > config.limits.connections_max:
        problems.append("limits.connections_per_address_max: must not be above limits.connections_max")
    return problems
