"""What must hold after a run, or its figures mean nothing: one chain on all nodes, money conserved, every transaction's
signature checked by every node itself, or by the quorum that certified the block with which it caught up.

Must not know: latencies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.http import Connection
from bench.mix import CURRENCY
from bench.observer import header_hashes
from ledger.state import state_key


@dataclass(frozen=True, slots=True)
class Check:
    """One claim about the run and whether it held."""

    claim: str
    held: bool
    found: str


async def all_checks(
    urls: Sequence[str],
    found: Sequence[dict[str, Any]],
    counted: int,
    on_chain: int,
    owners: Sequence[str],
    untouched: int,
    supply: int,
) -> list[Check]:
    """`found` are the quiet nodes' statuses, `counted` what the run reports as committed, `on_chain` how many of these
    the blocks of the last node hold, `owners` all accounts that the run could change, `untouched` what those hold that
    it could not, `supply` the money of the first state.
    """
    height = found[0]["height"]
    hashes = [await header_hashes(url, 1, height) for url in urls]
    roots = {(item["state_root"]["height"], item["state_root"]["root"]) for item in found}
    results = {item["results_hash"] for item in found}
    signatures = signatures_check([item["counters"] for item in found])
    executed = {item["counters"]["transactions"] for item in found}
    held, stated = await _money(urls[0], owners)
    money = held + untouched
    return [
        Check(
            "every block's hash is the same on all nodes", all(one == hashes[0] for one in hashes), f"{height} blocks"
        ),
        Check("the same outcomes on all nodes", len(results) == 1, f"{len(results)} results hash"),
        Check("the same state root on all nodes", len(roots) == 1, f"at height {min(roots)[0]}"),
        Check("all nodes executed the same number", len(executed) == 1, " ".join(map(str, sorted(executed)))),
        Check("what was counted is on the last node's chain", on_chain == counted, f"{on_chain} of {counted}"),
        signatures,
        Check("money is conserved", money == stated == supply, f"{money} held, {stated} stated, {supply} at first"),
    ]


def signatures_check(counters: Sequence[dict[str, int]]) -> Check:
    """Of the node with the least to spare. Catching up, a node checks certificates instead: both numbers are shown."""
    worst = min(
        counters, key=lambda item: item["signatures_checked"] + item["synced_transactions"] - item["transactions"]
    )
    checked, synced, executed = worst["signatures_checked"], worst["synced_transactions"], worst["transactions"]
    return Check(
        "each node checked every signature, or its quorum's certificate",
        checked + synced >= executed,
        f"{checked} checked + {synced} by certified sync >= {executed} executed",
    )


async def _money(url: str, owners: Sequence[str]) -> tuple[int, int]:
    """(sum of all balances, supply as the state has it)."""
    connection = await Connection.open(url)
    try:
        held = 0
        for owner in owners:
            status, body = await connection.request("GET", f"/v1/accounts/{owner}?currency={CURRENCY}")
            held += json.loads(body)["balance"] if status == 200 else 0  # an empty account is not kept
        _, body = await connection.request("GET", f"/v1/state?key={state_key('payments', 'supply', CURRENCY).hex()}")
        return held, json.loads(body)["value"]
    finally:
        connection.close()
