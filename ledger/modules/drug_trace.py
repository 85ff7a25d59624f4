"""The trace of one item: its own operations, and those of its parents while it was inside them.

Shipping a pallet touches the pallet only, so a pack's history is in part its parents'. The caller looks operations up
in the index `serial`; what to look up, and which of them count, is decided here.

Must not know: where operations are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ledger.fields import Operation
from ledger.modules.drug_operations import Aggregate, Disaggregate
from ledger.modules.drug_state import DEPTH_MAX

Order: TypeAlias = "tuple[int, int]"  # (height, position in the block) of an executed transaction
Found: TypeAlias = "tuple[Order, Operation]"

ORDER_LAST: Order = (2**63, 0)
STEPS_MAX = 10_000  # of one pack: bounds the answer for an item that was packed and unpacked all its life


@dataclass(frozen=True, slots=True)
class Step:
    """One operation in an item's history. `via` is the item itself, or the parent that it was inside of."""

    order: Order
    operation: Operation
    via: str


@dataclass(frozen=True, slots=True)
class Stay:
    """An item's time inside a parent, from its packing to its unpacking."""

    parent: str
    first: Order
    last: Order


def stays(epc: str, found: Sequence[Found]) -> list[Stay]:
    """Where `epc` has been, from its own accepted operations in order."""
    result: list[Stay] = []
    parent, first = "", ORDER_LAST
    for order, operation in found:
        match operation:
            case Aggregate() if operation.parent != epc:
                parent, first = operation.parent, order
            case Disaggregate() if operation.parent == parent != "":
                result.append(Stay(parent, first, order))
                parent = ""
            case _:
                pass
    if parent:
        result.append(Stay(parent, first, ORDER_LAST))
    return result


def trace(epc: str, lookup: Callable[[str], Sequence[Found]]) -> tuple[Step, ...]:
    """The whole history of `epc` in order. `lookup(epc)` gives the accepted operations that the index `serial` holds
    for an identifier, in order. At most STEPS_MAX steps, the oldest ones.
    """
    steps: dict[Order, Step] = {}
    _collect(epc, (-1, 0), ORDER_LAST, lookup, steps, 0)
    return tuple(steps[order] for order in sorted(steps)[:STEPS_MAX])


def _collect(
    epc: str,
    first: Order,
    last: Order,
    lookup: Callable[[str], Sequence[Found]],
    steps: dict[Order, Step],
    depth: int,
) -> None:
    found = lookup(epc)
    for order, operation in found:
        # A parent's own packing concerns its other contents; the item's was recorded under the item.
        packing = depth > 0 and isinstance(operation, Aggregate | Disaggregate) and operation.parent == epc
        if first < order < last and not packing:
            steps.setdefault(order, Step(order, operation, epc))
    if depth == DEPTH_MAX or len(steps) >= STEPS_MAX:
        return
    for stay in stays(epc, found):
        start, end = max(first, stay.first), min(last, stay.last)
        if start < end:
            _collect(stay.parent, start, end, lookup, steps, depth + 1)
