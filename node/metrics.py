"""A node's status as Prometheus metrics; made when scraped, so nothing is counted twice or on the hot path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class _Snapshot(Collector):
    def __init__(self, status: Mapping[str, Any]) -> None:
        self._status = status

    def collect(self) -> list[Metric]:
        status, counters, account = self._status, self._status["counters"], self._status["account"]
        gauges = {
            "height": ("height of the executed chain", status["height"]),
            "checkpoint_height": ("height of the latest certified state root", status["checkpoint"]["height"]),
            "view": ("current view", status["view"]),
            "epoch": ("current epoch", status["epoch"]),
            "leading": ("1 while this node leads", int(status["is_leader"])),
            "peers": ("established connections", len(status["peers"])),
            "pool_transactions": ("transactions taken here and not yet executed", status["pool"]["transactions"]),
            "pool_bytes": ("bytes of batches not yet ordered", status["pool"]["bytes"]),
            "log_bytes": ("size of the write-ahead log", account["log_bytes"]),
        }
        totals = {
            "blocks": ("blocks executed since start", counters["blocks"]),
            "transactions": ("transactions executed since start", counters["transactions"]),
            "refused": ("executed transactions that a rule refused", counters["refused"]),
            "evidence": ("equivocations seen", counters["evidence"]),
            "synced_transactions": ("transactions taken with a quorum's certificate", counters["synced_transactions"]),
            "signatures_checked": ("client signatures checked", counters["signatures_checked"]),
            "signature_seconds": ("processor time in client signature checks", account["signature_s"]),
            "flushes": ("synced writes of the log", account["flushes"]),
            "flush_seconds": ("time waiting for synced writes", account["flush_s"]),
        }
        metrics: list[Metric] = [
            GaugeMetricFamily(f"medchain_{name}", text, value=value) for name, (text, value) in gauges.items()
        ]
        metrics += [
            CounterMetricFamily(f"medchain_{name}", text, value=value) for name, (text, value) in totals.items()
        ]
        return metrics


def metrics_text(status: Mapping[str, Any]) -> bytes:
    """Text exposition format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(status))
    return generate_latest(registry)
