"""Make a failing plan small: leave faults out and make conditions plain while the run fails in the same way.

Delta debugging over the list of faults (Zeller and Hildebrandt 2002), then one simplification of the options after
another. Bounded by time: what was found until then is returned.

Must not know: how a plan is run; it is given a function that tells how one fails.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from ledger.genesis import Parameters
from tests.simulation.options import Options
from tests.simulation.plan import Fault, Plan

Failure = Callable[[Plan], str | None]


def signature_of(error: BaseException) -> str:
    """What stays the same when a failure is reproduced in another setting: its kind and its words without numbers."""
    words = re.sub(r"[0-9a-f]{8,}|\d+", "#", str(error).split("\n")[0])
    return f"{type(error).__name__}: {words[:80]}"


def shrink(plan: Plan, fails: Failure, within_s: float) -> Plan:
    """The smallest plan found that fails as `plan` does; `plan` itself if it does not fail."""
    ends_s = time.monotonic() + within_s
    wanted = fails(plan)

    def holds(candidate: Plan) -> bool:
        return time.monotonic() < ends_s and fails(candidate) == wanted

    if wanted is None:
        return plan
    changed = True
    while changed and time.monotonic() < ends_s:
        changed = False
        smaller = _fewer_faults(plan, holds)
        changed |= len(smaller.faults) < len(plan.faults)
        plan = smaller
        for simpler in _SIMPLER:
            plain = _simplify(plan, simpler, holds)
            changed |= plain is not plan
            plan = plain
    return plan


def _simplify(plan: Plan, simpler: Callable[[Plan], Iterator[Plan]], holds: Callable[[Plan], bool]) -> Plan:
    """Take the first simplification that still fails, and look at those of the result, until none does."""
    refused: set[str] = set()
    while True:
        for candidate in simpler(plan):
            text = candidate.to_json()
            if text == plan.to_json() or text in refused:
                continue
            if holds(candidate):
                plan = candidate
                break
            refused.add(text)
        else:
            return plan


def _fewer_faults(plan: Plan, holds: Callable[[Plan], bool]) -> Plan:
    size = max(1, len(plan.faults) // 2)
    while plan.faults:
        start, left = 0, plan.faults
        while start < len(left):
            candidate: list[Fault] = left[:start] + left[start + size :]
            if holds(replace(plan, faults=candidate)):
                left = candidate
            else:
                start += size
        plan = replace(plan, faults=left)
        if size == 1:
            return plan
        size //= 2
    return plan


def _shorter(plan: Plan) -> Iterator[Plan]:
    last_ms = max((fault["at_ms"] for fault in plan.faults), default=0)
    yield replace(plan, end_ms=min(plan.end_ms, last_ms + 100))


def _nobody_lost(plan: Plan) -> Iterator[Plan]:
    for index in range(len(plan.lost)):
        yield replace(plan, lost=plan.lost[:index] + plan.lost[index + 1 :])


def _plainer_options(plan: Plan) -> Iterator[Plan]:
    """Each option at its default."""
    plain = Options()
    for item in fields(Options):
        if item.name not in ("n", "parameters", "followers"):
            yield replace(plan, options=replace(plan.options, **{item.name: getattr(plain, item.name)}))


def _fewer_byzantine(plan: Plan) -> Iterator[Plan]:
    for index in plan.options.byzantine:
        left = {key: value for key, value in plan.options.byzantine.items() if key != index}
        yield replace(plan, options=replace(plan.options, byzantine=left))


def _plainer_parameters(plan: Plan) -> Iterator[Plan]:
    plain = Parameters()
    for item in fields(Parameters):
        changed = replace(plan.options.parameters, **{item.name: getattr(plain, item.name)})
        if not changed.problems():
            yield replace(plan, options=replace(plan.options, parameters=changed))


_SIMPLER = (_shorter, _nobody_lost, _fewer_byzantine, _plainer_options, _plainer_parameters)
