"""The layout of a local cluster: names, ports, keys, genesis, and what is written into each node's folder.

    <dir>/cluster.json          this plan, without secrets
    <dir>/genesis.json          a copy for people and tools; each node has its own
    <dir>/<node>/               data folder: medchain.toml, genesis.json, node.key
    <dir>/logs/<node>.log
    <dir>/spare/<node>.key      keys of followers to come: every node knows them from the start

Ports from a base: node i listens for peers on base + 2i and for clients on base + 2i + 1. The link by which node i
dials node j is a proxy on base + 200 + 64i + j. With proxies no node knows another's real port, so that no connection
goes around a fault.

Must not know: processes, sockets, asyncio. `write` alone touches files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ledger.crypto import KeyPair
from ledger.errors import ConfigError, FileError
from ledger.genesis import Genesis, Parameters, development_key
from ledger.gs1 import check_digit
from ledger.rules import Role
from storage import files

PLAN_FILE = "cluster.json"
GENESIS_FILE = "genesis.json"
FORMAT = "medchain/cluster/1"
BASE_PORT_DEFAULT = 26_600
NODES_MAX = 64  # the stride of link ports; far more than a laptop runs
SPARE_KEYS = 4  # followers that may join without restarting anyone
LINK_PORTS_OFFSET = 200  # above the 2 * NODES_MAX ports of nodes
PORTS_SPAN = LINK_PORTS_OFFSET + NODES_MAX * NODES_MAX
PLAN_SIZE_BYTES_MAX = 1024 * 1024
DEFAULT_ROLES = ("hospital", "manufacturer", "pharmacy", "insurer")
BALANCE_START = 1_000_000_000  # ten million of the currency: enough for any demonstration
CURRENCIES = ("CNY", "EUR")
COMPANY_PREFIXES = {
    # GS1's published examples, so that published events are accepted as well as generated ones.
    "hospital": ("9529999",),
    "maker": ("4012345", "0614141", "952005385", "9520001", "4000001", "952132"),
    "distributor": ("4023333",),
    "pharmacy": ("0012345",),
    "insurer": (),
    "regulator": (),
}
_GLN_PREFIXES = {
    "hospital": "9529999", "maker": "4012345", "distributor": "4023333",
    "pharmacy": "0012345", "insurer": "9521141", "regulator": "9521142",
}  # fmt: skip
_ROLE_NAMES = {"manufacturer": "maker"}  # development keys are called after what people say
_TITLES = {
    "hospital": "General Hospital", "maker": "Drug Maker", "distributor": "Wholesale Distribution",
    "pharmacy": "Corner Pharmacy", "insurer": "Health Insurance", "regulator": "Medicines Agency",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node. `index` fixes its ports, `institution` whose node it is ("" for a follower), `key` is public (hex)."""

    index: int
    name: str
    institution: str
    key: str
    p2p_port: int
    api_port: int
    validator: bool

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """A cluster. `spare_keys` are public keys (hex) of followers to come, in order."""

    base_port: int
    proxies: bool
    chain_id: str
    nodes: tuple[NodePlan, ...]
    spare_keys: tuple[str, ...]

    def node(self, name: str) -> NodePlan:
        """By name or number; ConfigError naming the ones there are."""
        for node in self.nodes:
            if name in (node.name, str(node.index)):
                return node
        raise ConfigError(f"no node {name!r}; there are {', '.join(node.name for node in self.nodes)}")

    def link_port(self, source: int, target: int) -> int:
        """Where node `source` dials node `target` when there are proxies."""
        return self.base_port + LINK_PORTS_OFFSET + NODES_MAX * source + target

    def links(self) -> list[tuple[int, int]]:
        """Each ordered pair of nodes."""
        numbers = [node.index for node in self.nodes]
        return [(source, target) for source in numbers for target in numbers if source != target]

    def ports(self) -> dict[int, str]:
        """Every port that will be listened on, with what for."""
        found = {}
        for node in self.nodes:
            found[node.p2p_port] = f"peers of {node.name}"
            found[node.api_port] = f"API of {node.name}"
        if self.proxies:
            for source, target in self.links():
                found[self.link_port(source, target)] = f"link {source} to {target}"
        return found

    def with_follower(self) -> ClusterPlan:
        """One more node that follows and does not vote, with the next spare key; ConfigError when there is none."""
        if not self.spare_keys:
            raise ConfigError(f"all {SPARE_KEYS} spare keys are used; start a new cluster with more nodes")
        follower = _node(len(self.nodes), self.base_port, "", self.spare_keys[0], self._follower_name())
        return ClusterPlan(self.base_port, self.proxies, self.chain_id, (*self.nodes, follower), self.spare_keys[1:])

    def _follower_name(self) -> str:
        return f"follower-{sum(not node.validator for node in self.nodes) + 1}"

    def settings(self, node: NodePlan) -> dict[str, object]:
        """The node's medchain.toml as dotted keys (`node.config.to_toml`)."""
        peers = [
            {
                "key": other.key,
                "host": "127.0.0.1",
                "port": self.link_port(node.index, other.index) if self.proxies else other.p2p_port,
            }
            for other in self.nodes
            if other.index != node.index
        ]
        followers = [other.key for other in self.nodes if not other.validator and other.index != node.index]
        return {
            "genesis": GENESIS_FILE,
            "key": "node.key",
            "p2p.host": "127.0.0.1",
            "p2p.port": node.p2p_port,
            "p2p.peers": peers,
            "p2p.known_keys": followers + list(self.spare_keys),
            "api.host": "127.0.0.1",
            "api.port": node.api_port,
            "log.format": "json",
        }

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> ClusterPlan:
        try:
            document = json.loads(text)
            if document.pop("format") != FORMAT:
                raise ValueError(f"format must be {FORMAT}")
            nodes = tuple(NodePlan(**item) for item in document.pop("nodes"))
            return cls(nodes=nodes, spare_keys=tuple(document.pop("spare_keys")), **document)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{PLAN_FILE}: {type(error).__name__}: {error}") from None


@dataclass(frozen=True, slots=True)
class NewCluster:
    """What `write` puts on disk: the plan, its genesis, and the secret keys in order (nodes, then spares)."""

    plan: ClusterPlan
    genesis: Genesis
    keys: tuple[KeyPair, ...]


def institution_name(role: str) -> str:
    """The development institution of a role: `maker` for a manufacturer, else the role's own name."""
    return _ROLE_NAMES.get(Role(role).value, role)


def development_modules() -> dict[str, dict[str, Any]]:
    """The `modules` section of a development genesis: six institutions with named keys, two currencies, balances."""
    institutions = []
    for role in Role:
        name = institution_name(role.value)
        institutions.append(
            {
                "id": name,
                "name": _TITLES[name],
                "roles": [role.value],
                "keys": [development_key(name).public.hex()],
                "prefixes": list(COMPANY_PREFIXES[name]),
                "glns": [development_gln(name)],
            }
        )
    owners = [item["id"] for item in institutions] + [development_key("patient").public.hex()]
    return {
        "members": {"version": 1, "institutions": institutions},
        "records": {"version": 1},
        "drugs": {"version": 1},
        "payments": {
            "version": 1,
            "currencies": [{"code": code, "issuer": "insurer", "exponent": 2} for code in CURRENCIES],
            "balances": [
                {"currency": code, "owner": owner, "amount": BALANCE_START} for code in CURRENCIES for owner in owners
            ],
        },
    }


def development_gln(name: str) -> str:
    """The global location number of a development institution."""
    body = _GLN_PREFIXES[name].ljust(12, "0")
    return f"{body}{check_digit(body)}"


def new_cluster(
    n: int,
    *,
    generate: Callable[[], KeyPair],
    time_ms: int,
    base_port: int = BASE_PORT_DEFAULT,
    proxies: bool = True,
    roles: Sequence[str] = DEFAULT_ROLES,
    parameters: Parameters | None = None,
    modules: Mapping[str, Mapping[str, Any]] | None = None,
) -> NewCluster:
    """Lay out `n` validators with fresh keys. `modules` replaces the development institutions and currencies."""
    problems = []
    if n != 1 and not 4 <= n <= NODES_MAX - SPARE_KEYS:
        problems.append(f"a cluster has 1 node or 4 to {NODES_MAX - SPARE_KEYS}; 2 or 3 tolerate no fault")
    if not 1024 <= base_port <= 65_535 - PORTS_SPAN:
        problems.append(f"base port: 1024 to {65_535 - PORTS_SPAN} ({PORTS_SPAN} ports are laid out from it)")
    problems += [f"role {role!r}: one of {', '.join(Role)}" for role in roles if role not in list(Role)]
    if problems or not roles:
        raise ConfigError("; ".join(problems) or "at least one role")
    keys = tuple(generate() for _ in range(n + SPARE_KEYS))
    nodes: list[NodePlan] = []
    for index in range(n):
        institution = institution_name(roles[index % len(roles)])
        repeated = sum(node.institution == institution for node in nodes)
        name = f"{institution}-{repeated + 1}" if repeated else institution
        nodes.append(_node(index, base_port, institution, keys[index].public.hex(), name))
    genesis = Genesis(
        name="local",
        time_ms=time_ms,
        validators=tuple(key.public for key in keys[:n]),
        modules=_with_node_keys(modules if modules is not None else development_modules(), nodes),
        development=True,
        parameters=parameters or Parameters(),
    )
    spare = tuple(key.public.hex() for key in keys[n:])
    plan = ClusterPlan(base_port, proxies, genesis.chain_id.hex(), tuple(nodes), spare)
    return NewCluster(plan, genesis, keys)


def _with_node_keys(modules: Mapping[str, Mapping[str, Any]], nodes: Sequence[NodePlan]) -> dict[str, dict[str, Any]]:
    """The modules, with each institution's nodes among its keys, so that a node is known by its institution's name."""
    result = {name: dict(module) for name, module in modules.items()}
    institutions = []
    for item in result["members"].get("institutions", ()):
        own = [node.key for node in nodes if node.institution == item["id"]]
        institutions.append({**item, "keys": [*item["keys"], *own]})
    result["members"]["institutions"] = institutions
    return result


def _node(index: int, base_port: int, institution: str, key: str, name: str) -> NodePlan:
    p2p_port = base_port + 2 * index
    return NodePlan(index, name, institution, key, p2p_port, p2p_port + 1, validator=bool(institution))


def partition_groups(plan: ClusterPlan, text: str) -> list[list[int]]:
    """`hospital,maker|pharmacy` as numbers; nodes that are not named form one more group. ConfigError if unclear."""
    groups = [[plan.node(name.strip()).index for name in part.split(",") if name.strip()] for part in text.split("|")]
    named = [index for group in groups for index in group]
    if len(set(named)) != len(named):
        raise ConfigError("a node is in two groups")
    rest = [node.index for node in plan.nodes if node.index not in named]
    groups = [group for group in [*groups, rest] if group]
    if len(groups) < 2:
        raise ConfigError("a partition has at least two groups, e.g. '0,1|2,3'")
    return groups


def write(directory: Path, cluster: NewCluster, initialise: Callable[[Path], None]) -> None:
    """Make the folders (0700) and files of a new cluster. ConfigError if one is there already.

    `initialise` makes the data of one node's folder, once its files are there.
    """
    from node import keys

    if (directory / PLAN_FILE).exists():
        raise ConfigError(f"{directory}: holds a cluster already")
    for name in ("", "logs", "spare", *(node.name for node in cluster.plan.nodes)):
        (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / GENESIS_FILE).write_text(cluster.genesis.to_json(), "utf-8")
    for node, key in zip(cluster.plan.nodes, cluster.keys, strict=False):
        (directory / node.name / GENESIS_FILE).write_text(cluster.genesis.to_json(), "utf-8")
        keys.save(directory / node.name / "node.key", key)
    for key in cluster.keys[len(cluster.plan.nodes) :]:
        keys.save(directory / "spare" / f"{key.public.hex()}.key", key)
    write_settings(directory, cluster.plan, initialise, cluster.plan.nodes)


def write_settings(
    directory: Path, plan: ClusterPlan, initialise: Callable[[Path], None], new: Sequence[NodePlan]
) -> None:
    """Every node's medchain.toml, the data of new ones, and last the plan: where there is one, all is complete."""
    from node.config import FILE_NAME, to_toml

    for node in plan.nodes:
        files.replace(directory / node.name / FILE_NAME, to_toml(plan.settings(node)).encode())
    for node in new:
        initialise(directory / node.name)
    files.replace(directory / PLAN_FILE, plan.to_json().encode())


def add_follower(directory: Path, plan: ClusterPlan, initialise: Callable[[Path], None]) -> ClusterPlan:
    """Make the folder of one more follower from a spare key, and write the new plan."""
    following = plan.with_follower()
    node = following.nodes[-1]
    home = directory / node.name
    home.mkdir(mode=0o700)
    os.rename(directory / "spare" / f"{node.key}.key", home / "node.key")
    (home / GENESIS_FILE).write_bytes((directory / GENESIS_FILE).read_bytes())
    write_settings(directory, following, initialise, [node])
    return following


def read(directory: Path) -> ClusterPlan:
    """The plan in a cluster's folder. FileError if there is none."""
    try:
        data = (directory / PLAN_FILE).read_bytes()[:PLAN_SIZE_BYTES_MAX]
    except OSError:
        raise FileError(
            f"{directory}: holds no cluster; make one with: medchain cluster up --dir {directory}"
        ) from None
    return ClusterPlan.from_json(data.decode("utf-8", "replace"))
