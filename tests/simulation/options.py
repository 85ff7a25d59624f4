"""The conditions of one simulated run, as data that goes into a file and comes back.

Must not know: how they are carried out (cluster.py), or which a seed draws (plan.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ledger.genesis import Parameters

EVERYONE = -2


@dataclass
class Options:
    """One run's conditions. Probabilities in percent unless the name says permille; pairs of times: least, most."""

    n: int = 4
    loss: int = 0
    duplication: int = 0
    delay_ms: tuple[int, int] = (1, 10)
    fsync_ms: tuple[int, int] = (1, 5)
    followers: int = 0  # nodes without a vote; a membership change may give them one
    parameters: Parameters = field(default_factory=Parameters)
    byzantine: dict[int, str] = field(default_factory=dict)  # node -> strategy of tests/simulation/byzantine.py
    long_delay_permille: int = 0
    long_delay_ms: tuple[int, int] = (1_000, 10_000)
    stall_permille: int = 0  # of syncs
    stall_ms: tuple[int, int] = (500, 3_000)
    links: list[tuple[int, int, int, int]] = field(default_factory=list)  # from, to, delay added in ms, loss added
    skew_ms: dict[int, int] = field(default_factory=dict)  # node -> how far its clock is ahead
    drift_ppm: dict[int, int] = field(default_factory=dict)  # node -> how much its clocks run fast
    disconnect_ms: int = 0  # a connection that carries nothing is given up after this; 0: it outlives every partition
    reconnect_ms: tuple[int, int] = (0, 0)
    torn: bool = False  # a power cut may tear the write under way
    segment_bytes_max: int = 64 * 1024 * 1024  # of the write-ahead log
    pool_txs_min: int = 500  # PoolConfig.backlog_min
    pool_bytes_per_peer_max: int = 24 * 1024 * 1024  # PoolConfig.held_bytes_per_peer_max
    pruning: int = -1  # who keeps as few blocks as may be, a node (others must serve what it forgets) or EVERYONE
    ed25519: bool = False  # real signatures under consensus messages

    def to_json(self) -> dict[str, Any]:
        """Only what differs from the defaults, so that a shrunk plan is short."""
        plain = Options()
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        different = {name: value for name, value in found.items() if value != getattr(plain, name) or name == "n"}
        if "parameters" in different:
            base = asdict(plain.parameters)
            different["parameters"] = {
                key: value for key, value in asdict(self.parameters).items() if value != base[key]
            }
        return different

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Options:
        made = dict(value)
        made["parameters"] = Parameters(**value.get("parameters", {}))
        for name in ("byzantine", "skew_ms", "drift_ppm"):  # JSON has no integers for keys
            made[name] = {int(key): item for key, item in value.get(name, {}).items()}
        for name in ("delay_ms", "fsync_ms", "long_delay_ms", "stall_ms", "reconnect_ms"):
            if name in value:
                made[name] = tuple(value[name])
        made["links"] = [tuple(item) for item in value.get("links", ())]
        return cls(**made)
