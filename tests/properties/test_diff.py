"""Does the merge-join find what a naive comparison of two dictionaries finds, in order and with bounded reads?"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import anyio
from hypothesis import given
from hypothesis import strategies as st

from qdrant_model_migration.domain.points import FLOAT_TOLERANCE, Payload, Point, PointId, order_key, payload_digest
from qdrant_model_migration.domain.recipe import Recipe
from qdrant_model_migration.domain.texts import TextSource
from qdrant_model_migration.domain.verification import Expectation, Kind, Tally, same_payload
from qdrant_model_migration.operations.diff import differences
from qdrant_model_migration.operations.work import Work

EXPECTED = Expectation(
    texts=TextSource.parse("text"),
    made=Recipe(field="", kind="embed", source_field="", dimensions=2),
    copied={},
    skips_textless=False,
    accounted={},
    checks_made=False,
)

ids: st.SearchStrategy[PointId] = st.integers(0, 2**64 - 1) | st.integers(0, 30) | st.uuids().map(str)
words = st.text(alphabet="aZü\n", max_size=3)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | words
values = st.recursive(scalars, lambda v: st.lists(v, max_size=2) | st.dictionaries(words, v, max_size=2), max_leaves=3)
payloads = st.dictionaries(st.sampled_from(["text", "a", "ü"]), values, max_size=2)


class Held:
    """A collection that is scrolled as Qdrant does."""

    def __init__(self, points: dict[PointId, Payload]) -> None:
        self.points = self
        self._points = [Point(id=i, payload=points[i]) for i in sorted(points, key=order_key)]

    async def scroll(
        self, collection: str, *, offset: PointId | None, limit: int, vectors: Sequence[str] = (), packed: bool = False
    ) -> tuple[list[Point], PointId | None]:
        start = 0 if offset is None else bisect_left(self._points, order_key(offset), key=lambda p: order_key(p.id))
        page = self._points[start : start + limit]
        after = self._points[start + limit].id if len(self._points) > start + limit else None
        return page, after


def found(source: dict[PointId, Payload], target: dict[PointId, Payload], page: int) -> tuple[list[tuple[PointId, Kind]], Tally]:
    ends = SimpleNamespace(source=SimpleNamespace(collection="a"), target=SimpleNamespace(collection="b"))
    work = cast(
        Work,
        SimpleNamespace(
            source=Held(source),
            target=Held(target),
            migration=ends,
            page=page,
            read_fields=[],
            source_collection=SimpleNamespace(page_limit=None),
        ),
    )
    tally = Tally()

    async def go() -> list[tuple[PointId, Kind]]:
        return [(d.id, d.kind) async for d in differences(work, EXPECTED, tally)]

    return anyio.run(go), tally


def same_json(a: Any, b: Any) -> bool:
    """Equality of JSON values in which 1, 1.0 and true are three values, and floats are those that a server could keep."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same_json(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (math.isclose(a, b, rel_tol=FLOAT_TOLERANCE) if isinstance(a, float) else bool(a == b))


@st.composite
def two_sides(draw: st.DrawFn) -> tuple[dict[PointId, Payload], dict[PointId, Payload]]:
    """A source, and a target that is mostly a copy of it."""
    source = draw(st.dictionaries(ids, payloads, max_size=15))
    target = {i: (payload if draw(st.booleans()) else draw(payloads)) for i, payload in source.items() if draw(st.integers(0, 4))}
    return source, target | draw(st.dictionaries(ids, payloads, max_size=5))


@given(sides=two_sides(), page=st.integers(1, 7))
def test_the_merge_join_finds_what_a_naive_comparison_finds(
    sides: tuple[dict[PointId, Payload], dict[PointId, Payload]], page: int
) -> None:
    source, target = sides
    naive = dict.fromkeys(source.keys() - target.keys(), Kind.MISSING)
    naive |= dict.fromkeys(target.keys() - source.keys(), Kind.EXTRA)
    naive |= {i: Kind.CHANGED for i in source.keys() & target.keys() if not same_json(source[i], target[i])}
    differing, tally = found(source, target, page)
    assert differing == sorted(naive.items(), key=lambda item: order_key(item[0]))
    assert (tally.source_points, tally.target_points) == (len(source), len(target))
    assert sum(tally.differences.values()) == len(naive)


@given(a=payloads, b=payloads)
def test_digests_are_equal_just_for_equal_json(a: Payload, b: Payload) -> None:
    assert (payload_digest(a) == payload_digest(b)) is (json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True))
    assert same_payload(a, b) is same_json(a, b)
    assert payload_digest(a) == payload_digest(dict(reversed(a.items())))
