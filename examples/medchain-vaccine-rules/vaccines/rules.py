"""Rule module `vaccines`: a vaccine is released for use only if its vial monitor is good and its heat budget is left.

A lot's temperature range (module `drugs`) is yes or no. Vaccines bear some warmth, and what counts is the sum: a vial
monitor darkens with it from stage 1 to 4 and from stage 3 on the vial is discarded (WHO/V&B/99.18). Loggers tell the
same as a sum of degrees above eight, times minutes.

Tables
    limits              (exposure_max,): from genesis, in hundredths of a degree times minutes
    vial/<epc>          (stage, exposure, released)

Must not know: clocks, files, other modules' tables beyond reading `drugs` for who holds a pack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Annotated, Any

from ledger.errors import PLUGIN_CODE_MIN, Code, Explanation, Reject
from ledger.fields import Integer, ListOf, Operation
from ledger.gs1 import Epc
from ledger.modules.drug_state import Status, item_of, outermost
from ledger.rules import Context, Role, Rule, RuleModule

VIALS_MAX = 500  # a vaccination campaign's day, and far inside what one transaction may write
STAGE_DISCARD = 3
WARM_ABOVE = 800  # eight degrees Celsius, in hundredths
MINUTES_MAX = 60 * 24 * 30  # one report covers at most a month
EXPOSURE_MAX_DEFAULT = 200 * 60 * 24  # two degrees too warm for a day


class VaccineCode(IntEnum):
    """This module's own refusals. Codes of other packages begin at PLUGIN_CODE_MIN."""

    VIAL_DISCARD_POINT = PLUGIN_CODE_MIN + 1
    HEAT_BUDGET_SPENT = PLUGIN_CODE_MIN + 2
    NOT_MONITORED = PLUGIN_CODE_MIN + 3
    STAGE_WENT_BACK = PLUGIN_CODE_MIN + 4
    RELEASED_ALREADY = PLUGIN_CODE_MIN + 5


EXPLANATIONS: dict[IntEnum, Explanation] = {
    VaccineCode.VIAL_DISCARD_POINT: Explanation(
        "The vial monitor has reached its discard point.", "Discard the vial and decommission the pack."
    ),
    VaccineCode.HEAT_BUDGET_SPENT: Explanation(
        "The vaccine was too warm for too long; the detail names sum and limit.", "Discard it."
    ),
    VaccineCode.NOT_MONITORED: Explanation(
        "Nobody has read this vial's monitor.", "Read it and send vaccines.log_vial_monitor."
    ),
    VaccineCode.STAGE_WENT_BACK: Explanation(
        "A vial monitor only darkens: an earlier reading was higher.", "Read it again; correct what is wrong on paper."
    ),
    VaccineCode.RELEASED_ALREADY: Explanation("The vial was released before.", "Check the serial on the vial."),
}

VIALS = ListOf(Epc(), VIALS_MAX, 1, distinct=True)


@dataclass(frozen=True, slots=True)
class LogVialMonitor(Operation):
    """Its holder reads the vial monitors of packs, all at the same stage (1 to 4)."""

    NAME = "vaccines.log_vial_monitor"
    epcs: Annotated[tuple[str, ...], VIALS]
    stage: Annotated[int, Integer(1, 4)]


@dataclass(frozen=True, slots=True)
class LogExposure(Operation):
    """Its holder reports how long packs were how warm. Below eight degrees nothing is added."""

    NAME = "vaccines.log_exposure"
    epcs: Annotated[tuple[str, ...], VIALS]
    temperature: Annotated[int, Integer(-27_315, 100_000)]  # hundredths of a degree Celsius
    minutes: Annotated[int, Integer(1, MINUTES_MAX)]


@dataclass(frozen=True, slots=True)
class Release(Operation):
    """A pharmacy or hospital that holds them releases packs for vaccination."""

    NAME = "vaccines.release"
    epcs: Annotated[tuple[str, ...], VIALS]


@dataclass(frozen=True, slots=True)
class Vial:
    """What is known of one pack. Stage 0: its monitor was never read."""

    stage: int = 0
    exposure: int = 0
    released: bool = False


def _vial(ctx: Context, epc: str) -> Vial:
    value = ctx.get("vial", epc)
    return Vial() if value is None else Vial(*value)


def _put(ctx: Context, epc: str, vial: Vial) -> None:
    ctx.put("vial", epc, value=(vial.stage, vial.exposure, vial.released))
    ctx.index("serial", epc)  # so that the pack's trace shows it


def _check_held(ctx: Context, epc: str) -> None:
    """Reject unless the sender's institution holds the pack now; what is packed is held with its parent."""
    get = partial(ctx.read, "drugs")
    top = outermost(get, item_of(get, epc))
    if top.custodian != ctx.member.id:
        raise Reject(Code.NOT_IN_CUSTODY, epc)
    if top.status != Status.ACTIVE:
        raise Reject(Code.IN_TRANSIT if top.status == Status.IN_TRANSIT else Code.NOT_ACTIVE, epc)


def _log_vial_monitor(op: LogVialMonitor, ctx: Context) -> None:
    for epc in op.epcs:
        _check_held(ctx, epc)
        vial = _vial(ctx, epc)
        if op.stage < vial.stage:
            raise Reject(VaccineCode.STAGE_WENT_BACK, epc, vial.stage)
        _put(ctx, epc, Vial(op.stage, vial.exposure, vial.released))


def _log_exposure(op: LogExposure, ctx: Context) -> None:
    added = max(0, op.temperature - WARM_ABOVE) * op.minutes  # integers only: a float may differ between machines
    for epc in op.epcs:
        _check_held(ctx, epc)
        vial = _vial(ctx, epc)
        _put(ctx, epc, Vial(vial.stage, vial.exposure + added, vial.released))


def _release(op: Release, ctx: Context) -> None:
    (exposure_max,) = ctx.get("limits")
    for epc in op.epcs:
        _check_held(ctx, epc)
        vial = _vial(ctx, epc)
        if vial.released:
            raise Reject(VaccineCode.RELEASED_ALREADY, epc)
        if vial.stage == 0:
            raise Reject(VaccineCode.NOT_MONITORED, epc)
        if vial.stage >= STAGE_DISCARD:
            raise Reject(VaccineCode.VIAL_DISCARD_POINT, epc, vial.stage)
        if vial.exposure > exposure_max:
            raise Reject(VaccineCode.HEAT_BUDGET_SPENT, epc, vial.exposure, exposure_max)
        _put(ctx, epc, Vial(vial.stage, vial.exposure, released=True))


def _genesis(document: Mapping[str, Any], ctx: Context) -> None:
    """`{"version": 1, "exposure_max": 288000}`; the limit may be left out."""
    exposure_max = document.get("exposure_max", EXPOSURE_MAX_DEFAULT)
    Integer(0).check(exposure_max, "exposure_max")
    ctx.put("limits", value=(exposure_max,))


HOLDERS = frozenset({Role.MANUFACTURER, Role.DISTRIBUTOR, Role.PHARMACY, Role.HOSPITAL})

MODULE = RuleModule(
    name="vaccines",
    version=1,
    rules=(
        Rule(LogVialMonitor, _log_vial_monitor, roles=HOLDERS),
        Rule(LogExposure, _log_exposure, roles=HOLDERS),
        Rule(Release, _release, roles=frozenset({Role.PHARMACY, Role.HOSPITAL})),
    ),
    genesis=_genesis,
    codes=VaccineCode,
    explanations=EXPLANATIONS,
)
