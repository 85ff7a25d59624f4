"""One whole run with real processes, through proxies, with a fault: what it reports holds together."""

from __future__ import annotations

import json

import pytest

from bench import calibrate
from bench.faults import FaultKind, FaultPlan
from bench.options import Options
from bench.report import document
from bench.run import run


@pytest.mark.processes
@pytest.mark.asyncio
async def test_a_run_with_a_stopped_follower_is_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "limit", lambda nodes: 1_000.0)
    said: list[str] = []
    options = Options(
        share=0.05, duration_s=2.0, warmup_s=1.0, delay_ms=1, loss=0.001, fault=FaultPlan(FaultKind.STOP_FOLLOWER, 0.5)
    )
    config, results = await run(options, said.append)
    assert results.sound, [check for check in results.checks if not check.held]
    assert config.rate == 50.0
    assert config.faults == "stop-follower at 0.5 s"
    assert config.links == "through proxies, 1 ms one way, 0.1% lost"
    assert [line for line in said if line.startswith("stop-follower")]
    found = json.loads(json.dumps(document(config, results)))
    assert sum(found["results"]["series"]["commits"]) > 0
    assert len(found["results"]["series"]["quantiles_ms"]) == 100
    for quarter in ("first_quarter", "last_quarter"):
        assert found["results"][quarter]["processor_us"] > found["results"][quarter]["signature_us"] > 0
    samples = found["results"]["samples"]
    assert samples["rss_bytes"][0][0] > samples["mapped_bytes"][0][0] > 0
