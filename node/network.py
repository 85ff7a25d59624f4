"""The transport's settings, from a node's configuration.

Must not know: who is at the other end.
"""

from __future__ import annotations

from node.config import NodeConfig
from p2p.config import TransportConfig
from p2p.queues import LaneLimit, QueueLimits


def known_keys(config: NodeConfig) -> tuple[bytes, ...]:
    """Keys admitted besides those that the chain names."""
    return tuple(bytes.fromhex(key) for key in (*config.p2p.known_keys, *(peer.key for peer in config.p2p.peers)))


def transport_config(config: NodeConfig) -> TransportConfig:
    p2p, limits = config.p2p, config.limits
    return TransportConfig(
        listen_host=p2p.host,
        listen_port=p2p.port,
        advertise_host=p2p.advertise_host,
        advertise_port=p2p.advertise_port,
        known_keys=known_keys(config),
        peers_max=limits.peers_max,
        queue_limits=QueueLimits(bulk=LaneLimit(QueueLimits().bulk.frames_max, limits.peer_queue_size_bytes_max)),
    )
