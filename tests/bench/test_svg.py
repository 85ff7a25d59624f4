"""Charts as SVG: well-formed, with round ticks, and without what cannot be drawn."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from bench.svg import Chart, Line, number, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0, 0.9, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (3, 7, [3, 4, 5, 6, 7]),
        (0, 0, [0, 0.2]),
        (5, 5, [5, 6]),
    ],
)
def test_ticks_are_round_and_hold_both_ends(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0.0, 0.30000000000000004, 12.5, 1_500.0)] == ["0", "0.3", "12.5", "1,500"]


def test_a_chart_is_well_formed_and_leaves_out_what_is_infinite() -> None:
    line = Line("p99 <ms>", [(0.1, 20.0), (0.5, 80.0), (0.9, math.inf)])
    chart = Chart("Latency & load", "share", "ms", [line, Line("none", [])], [(0.5, "here")])
    drawn = chart.to_svg()
    root = ElementTree.fromstring(drawn)
    paths = [element.get("d") or "" for element in root.iter("{http://www.w3.org/2000/svg}path")]
    assert [path.count("L") for path in paths] == [1, 0]
    assert "inf" not in drawn
    assert "nan" not in drawn
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Latency & load", "p99 <ms>", "here"} <= set(words)


def test_a_step_keeps_its_height_to_the_next_point() -> None:
    drawn = Chart("", "", "", [Line("", [(0, 1), (1, 2)], step=True)]).to_svg()
    path = ElementTree.fromstring(drawn).find("{http://www.w3.org/2000/svg}path")
    assert path is not None
    assert (path.get("d") or "").count("L") == 2
