"""What the vaccine rules allow and refuse, on a chain in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from vaccines.rules import EXPLANATIONS, LogExposure, LogVialMonitor, Release, VaccineCode

from ledger.errors import PLUGIN_CODE_MIN, Code
from ledger.fields import Operation

V1, V2, V3 = (f"01/04012345120011/21/V{number}" for number in (1, 2, 3))

Send = Callable[[str, Operation], tuple[int, tuple[object, ...]]]


def test_a_good_vial_is_released_once(send: Send) -> None:
    assert send("pharmacy", LogVialMonitor((V1, V2), 2))[0] == 0
    assert send("pharmacy", Release((V1,)))[0] == 0
    assert send("pharmacy", Release((V1,))) == (VaccineCode.RELEASED_ALREADY, (V1,))
    assert send("pharmacy", Release((V2,)))[0] == 0


def test_a_vial_whose_monitor_nobody_read_is_refused(send: Send) -> None:
    assert send("pharmacy", Release((V1,))) == (VaccineCode.NOT_MONITORED, (V1,))


@pytest.mark.parametrize("stage", [3, 4])
def test_a_vial_at_its_discard_point_is_refused(send: Send, stage: int) -> None:
    assert send("pharmacy", LogVialMonitor((V1,), stage))[0] == 0
    assert send("pharmacy", Release((V1,))) == (VaccineCode.VIAL_DISCARD_POINT, (V1, stage))


def test_a_monitor_does_not_grow_lighter(send: Send) -> None:
    assert send("pharmacy", LogVialMonitor((V1,), 3))[0] == 0
    assert send("pharmacy", LogVialMonitor((V1,), 1)) == (VaccineCode.STAGE_WENT_BACK, (V1, 3))


def test_warmth_adds_up_until_the_budget_is_spent(send: Send) -> None:
    assert send("pharmacy", LogVialMonitor((V1, V2), 1))[0] == 0
    assert send("pharmacy", LogExposure((V1, V2), 900, 100))[0] == 0  # one degree for 100 minutes: the whole budget
    assert send("pharmacy", Release((V1,)))[0] == 0
    assert send("pharmacy", LogExposure((V2,), 801, 1))[0] == 0
    assert send("pharmacy", Release((V2,))) == (VaccineCode.HEAT_BUDGET_SPENT, (V2, 10_001, 10_000))


def test_cold_adds_nothing(send: Send) -> None:
    assert send("pharmacy", LogVialMonitor((V1,), 1))[0] == 0
    assert send("pharmacy", LogExposure((V1,), 800, 40_000))[0] == 0
    assert send("pharmacy", Release((V1,)))[0] == 0


def test_only_the_holder_may_log_and_release(send: Send) -> None:
    assert send("hospital", LogVialMonitor((V1,), 1)) == (Code.NOT_IN_CUSTODY, (V1,))
    assert send("hospital", LogExposure((V1,), 900, 1)) == (Code.NOT_IN_CUSTODY, (V1,))
    assert send("hospital", Release((V1,))) == (Code.NOT_IN_CUSTODY, (V1,))
    assert send("maker", LogVialMonitor((V3,), 1))[0] == 0


def test_a_maker_releases_nothing_and_an_insurer_logs_nothing(send: Send) -> None:
    assert send("maker", Release((V3,)))[0] == Code.ROLE_REQUIRED
    assert send("insurer", LogVialMonitor((V1,), 1))[0] == Code.ROLE_REQUIRED


def test_an_unknown_pack_and_a_stage_out_of_range_are_refused(send: Send) -> None:
    unknown = V1[:-1] + "9"
    assert send("pharmacy", LogVialMonitor((unknown,), 1)) == (Code.UNKNOWN_PACK, (unknown,))
    assert send("pharmacy", LogVialMonitor((V1,), 5))[0] == Code.BAD_FIELD


def test_every_code_is_explained_and_above_the_reserved_ones() -> None:
    assert set(EXPLANATIONS) == set(VaccineCode)
    assert min(VaccineCode) >= PLUGIN_CODE_MIN
