"""How do numbers look? Charts as SVG, drawn here and not in the browser: no script, legible in light and dark, read out by title and description.

Every chart is 340 units wide, so that its letters stay legible on a telephone. Colours come from the page's classes, never alone: position says the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qdrant_model_migration.domain.markup import Markup, element
from qdrant_model_migration.domain.throughput import Stretch

WIDTH = 340.0
LEFT, RIGHT = 12.0, 328.0
"""Between these the values of a horizontal axis lie."""
BREAK_S = 5.0
"""So long nobody worked: shown as an interruption."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A difference with its interval."""

    label: str
    value: float
    low: float
    high: float


def forest(name: str, title: str, effects: Sequence[Effect], margin: float) -> Markup:
    """Each difference with its interval, against zero and against the margin within which a difference does not matter."""
    lows, highs = [e.low for e in effects], [e.high for e in effects]
    low, high = min(*lows, -margin, 0.0), max(*highs, margin, 0.0)
    room = (high - low or 1.0) * 0.06
    x = _scale(low - room, high + room, LEFT, RIGHT)
    row, top = 42.0, 8.0
    bottom = top + row * len(effects) + 4
    parts = [
        element("rect", {"class": "margin", "x": x(-margin), "y": top, "width": max(x(margin) - x(-margin), 0.5), "height": bottom - top})
    ]
    parts += _ticks_below(ticks(low - room, high + room, 4), x, bottom, _signed, top=top)
    parts.append(element("line", {"class": "zero", "x1": x(0), "x2": x(0), "y1": top, "y2": bottom}))
    for place, effect in enumerate(effects):
        y = top + row * place + 30
        side = "up" if effect.low > 0 else "down" if effect.high < 0 else "open"
        parts.append(
            element(
                "g",
                {"class": f"effect {side}"},
                element("text", {"class": "label", "x": LEFT, "y": y - 14}, _cut(effect.label, 26)),
                element("text", {"class": "number", "x": RIGHT, "y": y - 14, "text-anchor": "end"}, f"{effect.value:+.3f}"),
                element("line", {"x1": x(effect.low), "x2": x(effect.high), "y1": y, "y2": y}),
                *(element("line", {"x1": x(end), "x2": x(end), "y1": y - 5, "y2": y + 5}) for end in (effect.low, effect.high)),
                element("circle", {"cx": x(effect.value), "cy": y, "r": 4.5}),
            )
        )
    said = "; ".join(f"{e.label} {e.value:+.4f}, interval {e.low:+.4f} to {e.high:+.4f}" for e in effects)
    text = f"Differences to the baseline with their intervals; 0 is no difference, and within {margin:g} of it a difference does not matter. {said}."
    return _svg(name, title, text, bottom + 22, parts)


def histogram(name: str, title: str, counts: Sequence[int], axis: str) -> Markup:
    """Bars from none (left) to all (right); each stands for its share up to the next one, the last for all alone."""
    top, bottom = 20.0, 160.0
    most = max(counts) or 1
    step = (RIGHT - LEFT) / len(counts)
    parts = [element("line", {"class": "axis", "x1": LEFT, "x2": RIGHT, "y1": bottom, "y2": bottom})]
    for place, count in enumerate(counts):
        height = (bottom - top) * count / most
        left, middle = LEFT + step * place, LEFT + step * (place + 0.5)
        if count:
            parts.append(
                element("rect", {"class": "bar", "x": left + 2, "y": bottom - height, "width": step - 4, "height": max(height, 1.0)})
            )
            parts.append(element("text", {"class": "number", "x": middle, "y": bottom - height - 5, "text-anchor": "middle"}, f"{count:,}"))
        parts.append(
            element("text", {"class": "tick", "x": middle, "y": bottom + 15, "text-anchor": "middle"}, f"{lower(place, counts):.0f}")
        )
    parts.append(element("text", {"class": "caption", "x": WIDTH / 2, "y": bottom + 33, "text-anchor": "middle"}, axis))
    said = "; ".join(f"{share(place, counts)}: {count}" for place, count in enumerate(counts) if count)
    return _svg(name, title, f"Queries by {axis}. {said}.", bottom + 42, parts)


def lower(place: int, counts: Sequence[int]) -> float:
    """Where a bar of a histogram begins, in per cent."""
    return 100 * place / (len(counts) - 1)


def share(place: int, counts: Sequence[int]) -> str:
    """What a bar of a histogram stands for."""
    if place == len(counts) - 1:
        return "all"
    return f"{lower(place, counts):.0f} % up to {lower(place + 1, counts):.0f} %"


def throughput(name: str, title: str, stretches: Sequence[Stretch]) -> Markup:
    """Points a second over the time that was worked; what passed in between is only marked."""
    top, bottom, left = 14.0, 160.0, 50.0
    total = sum(s.seconds for s in stretches)
    mean = sum(s.points for s in stretches) / total
    heights = ticks(0.0, max(s.points_per_second for s in stretches), 3)
    x, y = _scale(0.0, total, left, RIGHT), _scale(0.0, heights[-1], bottom, top)
    unit, word = (1.0, "seconds") if total < 180 else (60.0, "minutes") if total < 10_800 else (3600.0, "hours")
    parts = _ticks_below(
        [t * unit for t in ticks(0.0, total / unit, 5) if t * unit <= total], x, bottom, lambda t: f"{t / unit:g}", top=bottom
    )
    for height in heights:
        parts.append(element("line", {"class": "grid", "x1": left, "x2": RIGHT, "y1": y(height), "y2": y(height)}))
        parts.append(
            element(
                "text",
                {"class": "tick", "data-value": f"{height:g}", "x": left - 6, "y": y(height) + 4, "text-anchor": "end"},
                _short(height),
            )
        )
    ends = list(itertools.accumulate(s.seconds for s in stretches))
    corners = [f"M{x(0):.2f} {bottom:.2f}"]
    for stretch, begin, end in zip(stretches, [0.0, *ends], ends, strict=False):
        corners.append(f"L{x(begin):.2f} {y(stretch.points_per_second):.2f} L{x(end):.2f} {y(stretch.points_per_second):.2f}")
    parts.append(element("path", {"class": "area", "d": f"{' '.join(corners)} L{x(total):.2f} {bottom:.2f} Z"}))
    breaks = [at for at, (one, other) in zip(ends, itertools.pairwise(stretches), strict=False) if is_interrupted(one, other)]
    parts += [element("line", {"class": "break", "x1": x(at), "x2": x(at), "y1": top, "y2": bottom}) for at in breaks]
    parts.append(element("line", {"class": "mean", "x1": left, "x2": RIGHT, "y1": y(mean), "y2": y(mean)}))
    parts.append(
        element(
            "text",
            {"class": "caption", "x": (left + RIGHT) / 2, "y": bottom + 33, "text-anchor": "middle"},
            f"{word} of work; points a second",
        )
    )
    rates = [s.points_per_second for s in stretches]
    text = (
        f"Points a second over {total / unit:.3g} {word} of work: {min(rates):,.1f} to {max(rates):,.1f}, on the mean {mean:,.1f}"
        f"{f', interruptions: {len(breaks)}' if breaks else ''}."
    )
    return _svg(name, title, text, bottom + 42, parts)


def is_interrupted(one: Stretch, other: Stretch) -> bool:
    """Whether nobody worked for a while between two stretches."""
    return other.end - other.seconds - one.end > BREAK_S


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round values, about so many: those within the bounds, and with a lower bound of 0 the one beyond the upper bound."""
    span = high - low or 1.0
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= wanted)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if low == 0 and last * step < high:
        last += 1
    return (
        [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]
        if low == 0
        else [round(i * step, 12) for i in range(first, last + 1)]
    )


def _scale(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    return lambda value: begin + (value - low) / (high - low) * (end - begin)


def _ticks_below(
    values: Sequence[float], x: Callable[[float], float], bottom: float, written: Callable[[float], str], *, top: float
) -> list[Markup]:
    parts: list[Markup] = []
    for value in values:
        if top < bottom:
            parts.append(element("line", {"class": "grid", "x1": x(value), "x2": x(value), "y1": top, "y2": bottom}))
        parts.append(
            element(
                "text",
                {"class": "tick", "data-value": f"{value:g}", "x": x(value), "y": bottom + 15, "text-anchor": "middle"},
                written(value),
            )
        )
    return parts


def _svg(name: str, title: str, text: str, height: float, parts: Sequence[Markup]) -> Markup:
    return element(
        "svg",
        {"viewBox": f"0 0 {WIDTH:g} {height:g}", "role": "img", "aria-labelledby": f"{name}-title {name}-desc"},
        element("title", {"id": f"{name}-title"}, title),
        element("desc", {"id": f"{name}-desc"}, text),
        *parts,
    )


def _signed(value: float) -> str:
    return f"{value:+g}" if value else "0"


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
