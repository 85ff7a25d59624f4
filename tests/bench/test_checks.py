"""What a run must show before its figures count."""

from __future__ import annotations

from bench.checks import signatures_check


def counters(checked: int, synced: int, executed: int) -> dict[str, int]:
    return {"signatures_checked": checked, "synced_transactions": synced, "transactions": executed}


def test_a_signature_that_nobody_vouched_for_fails_the_run() -> None:
    check = signatures_check([counters(100, 0, 100), counters(99, 0, 100), counters(200, 0, 100)])
    assert not check.held
    assert check.found == "99 checked + 0 by certified sync >= 100 executed"


def test_what_came_with_a_certificate_need_not_be_checked_again() -> None:
    check = signatures_check([counters(110, 0, 100), counters(70, 30, 100)])
    assert check.held
    assert check.found == "70 checked + 30 by certified sync >= 100 executed"
