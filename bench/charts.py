"""The suite's charts, from its document: load against latency, distributions, commits around faults, growth over time.

Must not know: how anything was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.scenarios import Document
from bench.svg import Chart, Line

MEGABYTE = 1e6
_STANDARD_LOADS = ("light", "half", "standard", "overload")


def of_suite(document: Mapping[str, Any]) -> dict[str, str]:
    """SVG by name; only those that the suite has runs for."""
    runs: dict[str, list[Document]] = {}
    for found in document["rounds"]:
        for name, run in found["runs"].items():
            runs.setdefault(name, []).append(run)
    drawn: dict[str, Chart] = {}
    steps = {name: list(found) for name, found in document["steps"].items()}
    for name in _STANDARD_LOADS:  # the same load in other amounts: more points of one curve
        steps.setdefault("standard", []).extend(runs.get(name, ()))
    steps = {name: found for name, found in steps.items() if found}
    if steps:
        drawn["throughput"] = _throughput(steps)
        drawn["latency"] = _latency(steps)
    if runs:
        drawn["distribution"] = _distribution(runs)
    # Nothing is sampled of nodes that are not ours.
    runs = {name: found for name, found in runs.items() if "samples" in found[0]["results"]}
    faulty = {name: found[0] for name, found in runs.items() if found[0]["config"]["faults"] != "none"}
    if faulty:
        drawn["faults"] = _around_faults(faulty)
    longest = max((found[0] for found in runs.values()), key=lambda run: run["config"]["duration_s"], default=None)
    if longest is not None:
        drawn["memory"] = _growth(longest, "rss_bytes", "Resident memory of each node", "MB")
        drawn["disk"] = _growth(longest, "disk_bytes", "Data folder of each node", "MB")
        drawn["minutes"] = _minutes(longest)
    return {name: chart.to_svg() for name, chart in drawn.items()}


def _by_load(steps: Sequence[Document]) -> list[tuple[float, Document]]:
    return sorted(((step["config"]["rate"] / step["results"]["limit"], step) for step in steps), key=lambda one: one[0])


def _throughput(steps: Mapping[str, Sequence[Document]]) -> Chart:
    lines = [
        Line(name, [(x, step["results"]["committed_per_s"] / step["results"]["limit"]) for x, step in _by_load(found)])
        for name, found in steps.items()
    ]
    return Chart("Committed against offered", "offered, share of L", "committed, share of L", lines)


def _latency(steps: Mapping[str, Sequence[Document]]) -> Chart:
    found = steps.get("standard") or next(iter(steps.values()))
    lines = [
        Line(which.removesuffix("_ms"), [(x, _ms(step["results"]["latencies"][which])) for x, step in _by_load(found)])
        for which in ("p50_ms", "p95_ms", "p99_ms")
    ]
    return Chart("Latency against offered", "offered, share of L", "milliseconds", lines)


def _distribution(runs: Mapping[str, Sequence[Document]]) -> Chart:
    chosen = [name for name in _STANDARD_LOADS if name in runs] or list(runs)[:4]
    lines = []
    for name in chosen:
        quantiles = runs[name][0]["results"]["series"]["quantiles_ms"]
        lines.append(Line(name, [(_ms(value), place + 1) for place, value in enumerate(quantiles)]))
    return Chart("Latency of the transactions", "milliseconds", "per cent below", lines)


def _around_faults(runs: Mapping[str, Document]) -> Chart:
    lines = [Line(name, list(_commits(run)), step=True) for name, run in runs.items()]
    at_s = {run["config"]["faults"].rpartition(" at ")[2].removesuffix(" s") for run in runs.values()}
    warmup_s = next(iter(runs.values()))["config"]["warmup_s"]
    marks = [(warmup_s + float(moment), "fault") for moment in sorted(at_s)]
    return Chart("Commits around a fault", "seconds of load", "transactions a second", lines, marks)


def _commits(run: Document) -> Iterator[tuple[float, float]]:
    series = run["results"]["series"]
    for place, count in enumerate(series["commits"]):
        yield place * series["step_s"], count / series["step_s"]


def _growth(run: Document, which: str, title: str, unit: str) -> Chart:
    samples = run["results"]["samples"]
    nodes = range(run["config"]["nodes"])
    lines = [
        Line(f"node {node}", [(at, values[node] / MEGABYTE) for at, values in _pairs(samples, which)]) for node in nodes
    ]
    return Chart(f"{title}, {run['config']['rate']:.0f} tx/s offered", "seconds of load", unit, lines)


def _pairs(samples: Mapping[str, Any], which: str) -> Iterator[tuple[float, Sequence[int]]]:
    yield from zip(samples["at_s"], samples[which], strict=True)


def _minutes(run: Document) -> Chart:
    minutes = run["results"]["series"]["minutes"]
    lines = [
        Line(which.removesuffix("_ms"), [(minute["from_s"] / 60, _ms(minute[which])) for minute in minutes], step=True)
        for which in ("p50_ms", "p99_ms")
    ]
    return Chart("Latency by minute", "minutes", "milliseconds", lines)


def _ms(value: float | None) -> float:
    return float("inf") if value is None else value
