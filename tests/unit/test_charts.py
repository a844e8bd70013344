"""Do charts say what the numbers say? Places on the axes are read back by the ticks that a person would read them by."""

from __future__ import annotations

import pytest

from qdrant_model_migration.domain.charts import Effect, forest, histogram, share, throughput, ticks
from qdrant_model_migration.domain.throughput import Stretch
from tests.pages import Node, read_part


def drawn(chart: str) -> Node:
    return read_part(chart).one("svg")


def reading(chart: Node, axis: str) -> tuple[float, float]:
    """(value at 0, value of a unit) along 'x' or 'y', from the outermost ticks."""
    labels = [t for t in chart.all("text", "tick") if "data-value" in t.attributes]
    along = [t for t in labels if (t.attributes.get("text-anchor") == "end") == (axis == "y")]
    first, last = along[0], along[-1]
    at = {"x": 0.0, "y": -4.0}[axis]
    begin, end = first.number(axis) + at, last.number(axis) + at
    unit = (last.number("data-value") - first.number("data-value")) / (end - begin)
    return first.number("data-value") - begin * unit, unit


EFFECTS = [
    Effect(label="ndcg@10", value=0.181, low=0.155, high=0.207),
    Effect(label="recall@10", value=-0.03, low=-0.05, high=-0.012),
    Effect(label="mrr@10", value=0.001, low=-0.008, high=0.009),
]


def test_differences_lie_where_the_axis_says() -> None:
    chart = drawn(forest("f", "Differences", EFFECTS, 0.01))
    zero, unit = reading(chart, "x")

    def value(x: float) -> float:
        return zero + x * unit

    for effect, group in zip(EFFECTS, chart.all("g"), strict=True):
        whisker = group.all("line")[0]
        assert value(group.one("circle").number("cx")) == pytest.approx(effect.value, abs=5e-4)
        assert value(whisker.number("x1")) == pytest.approx(effect.low, abs=5e-4)
        assert value(whisker.number("x2")) == pytest.approx(effect.high, abs=5e-4)
        assert f"{effect.value:+.3f}" in group.text
        assert f"{effect.label} {effect.value:+.4f}, interval {effect.low:+.4f} to {effect.high:+.4f}" in chart.one("desc").text
    assert [g.attributes["class"] for g in chart.all("g")] == ["effect up", "effect down", "effect open"]
    assert value(chart.one("line", "zero").number("x1")) == pytest.approx(0.0, abs=5e-4)
    band = chart.one("rect", "margin")
    assert value(band.number("x")) == pytest.approx(-0.01, abs=5e-4)
    assert value(band.number("x") + band.number("width")) == pytest.approx(0.01, abs=5e-4)


@pytest.mark.parametrize(
    ("effects", "margin"),
    [
        ([Effect(label="x", value=0.0, low=0.0, high=0.0)], 0.0),
        ([Effect(label="x", value=0.5, low=0.499, high=0.501)], 0.0),
        ([Effect(label="x" * 300, value=-1.0, low=-1.0, high=1.0)], 0.9),
    ],
)
def test_whatever_is_drawn_stays_on_the_canvas(effects: list[Effect], margin: float) -> None:
    chart = drawn(forest("f", "Differences", effects, margin))
    width, height = (float(x) for x in chart.attributes["viewbox"].split()[2:])
    places = [(n.number(x), n.number(y)) for n in chart.walk() for x, y in (("x", "y"), ("x1", "y1"), ("cx", "cy")) if x in n.attributes]
    assert places
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)


def test_bars_are_as_high_as_their_counts() -> None:
    counts = [3, 0, 0, 1, 0, 2, 0, 6, 9, 12, 4]
    chart = drawn(histogram("o", "Overlap", counts, "share in common, %"))
    heights = [bar.number("height") for bar in chart.all("rect", "bar")]
    assert [h / heights[0] * 3 for h in heights] == pytest.approx([c for c in counts if c], abs=0.01)
    assert [t.text for t in chart.all("text", "number")] == [str(c) for c in counts if c]
    assert [t.text for t in chart.all("text", "tick")] == [str(n) for n in range(0, 101, 10)]
    assert "0 % up to 10 %: 3" in chart.one("desc").text
    assert "all: 4" in chart.one("desc").text
    assert [share(place, [0] * 6) for place in (0, 4, 5)] == ["0 % up to 20 %", "80 % up to 100 %", "all"]


def test_throughput_is_read_off_the_axes_and_interruptions_are_marked() -> None:
    stretches = [
        Stretch(stage="backfilling", end=1_010, seconds=10, points=500),
        Stretch(stage="backfilling", end=1_030, seconds=20, points=2_000),
        Stretch(stage="backfilling", end=5_000, seconds=10, points=250),
    ]
    chart = drawn(throughput("t", "Throughput", stretches))
    (zero_x, unit_x), (zero_y, unit_y) = reading(chart, "x"), reading(chart, "y")
    path = chart.one("path").attributes["d"].replace("M", "").replace("L", "").replace("Z", "").split()
    corners = [(zero_x + float(x) * unit_x, zero_y + float(y) * unit_y) for x, y in zip(path[::2], path[1::2], strict=True)]
    expected = [(0, 0), (0, 50), (10, 50), (10, 100), (30, 100), (30, 25), (40, 25), (40, 0)]
    assert [part for corner in corners for part in corner] == pytest.approx([part for corner in expected for part in corner], abs=0.3)
    (mark,) = chart.all("line", "break")
    assert zero_x + mark.number("x1") * unit_x == pytest.approx(30, abs=0.3)
    assert zero_y + chart.one("line", "mean").number("y1") * unit_y == pytest.approx(2_750 / 40, abs=0.5)
    assert "25.0 to 100.0, on the mean 68.8, interruptions: 1" in chart.one("desc").text


@pytest.mark.parametrize("high", [0.3, 1.0, 7.0, 99.9, 100.0, 1234.5, 1e6])
def test_ticks_from_zero_reach_beyond_what_is_shown(high: float) -> None:
    found = ticks(0.0, high, 3)
    assert found[0] == 0.0
    assert found[-1] >= high - 1e-9
    assert 2 <= len(found) <= 5
