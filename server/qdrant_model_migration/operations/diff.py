"""Where do source and target differ? A merge-join of two ordered scrolls, and a second look at single points."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

import anyio

from qdrant_model_migration.domain.points import Point, PointId, order_key
from qdrant_model_migration.domain.verification import Difference, Expectation, Tally, is_accounted, judge
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.qdrant.gateway import Gateway


async def expectation(work: Work, *, checks_embedded: bool) -> Expectation:
    """The recipes of the migration, with the points that are accounted for."""
    migration = work.migration
    return Expectation(
        text=work.text,
        embed_field=work.embed_field,
        embed_size=migration.model.dimensions or 0,
        copied=work.copied,
        skips_textless=migration.on_missing_text == "skip",
        accounted={f.point_id: f.is_stored for f in await work.ledger.failed(work.id)},
        checks_embedded=checks_embedded,
    )


async def differences(work: Work, expected: Expectation, tally: Tally) -> AsyncIterator[Difference]:
    """Every difference in id order; `tally` counts the points of both sides on the way. Memory does not grow with the collection."""
    left = _points(work.source, work.migration.source.collection, list(expected.copied), work.page)
    right = _points(work.target, work.migration.target.collection, _target_fields(expected), work.page)
    a, b = await anext(left, None), await anext(right, None)
    while a is not None or b is not None:
        order = _order(a, b)
        source, target = (a if order <= 0 else None), (b if order >= 0 else None)
        if source is not None:
            tally.source_points += 1
            tally.accounted += is_accounted(source, target, expected) if expected.checks_embedded or target is None else 0
            a = await anext(left, None)
        if target is not None:
            tally.target_points += 1
            b = await anext(right, None)
        found = judge(source, target, expected)
        if found is not None:
            tally.differences[found.kind] += 1
            yield found


async def look_again(work: Work, expected: Expectation, ids: Iterable[PointId]) -> list[Difference]:
    """The differences that single points have now."""
    found: list[Difference] = []
    wanted = list(ids)
    for start in range(0, len(wanted), work.page):
        page = wanted[start : start + work.page]
        sources = await work.source.points.retrieve(work.migration.source.collection, page, vectors=list(expected.copied))
        targets = await work.target.points.retrieve(work.migration.target.collection, page, vectors=_target_fields(expected))
        for point_id in page:
            source, target = sources.get(point_id), targets.get(point_id)
            difference = judge(source, target, expected) if source or target else None
            if difference:
                found.append(difference)
    return found


async def confirmed(work: Work, expected: Expectation, first: Sequence[Difference], settle_s: float) -> list[Difference]:
    """Those that a second look, `settle_s` later, sees just so on both sides: nobody is writing them at this moment."""
    await anyio.sleep(settle_s)
    before = {d.id: d.seen for d in first}
    again = await look_again(work, expected, before)
    return [d for d in again if d.seen == before[d.id]]


def _target_fields(expected: Expectation) -> list[str]:
    fields = list(expected.copied.values())
    return [*fields, expected.embed_field] if expected.checks_embedded else fields


def _order(a: Point | None, b: Point | None) -> int:
    """-1: only `a` comes now; 1: only `b`; 0: both, of one id."""
    if a is None or b is None:
        return 1 if a is None else -1
    x, y = order_key(a.id), order_key(b.id)
    return (x > y) - (x < y)


async def _points(gateway: Gateway, collection: str, vectors: Sequence[str], page: int) -> AsyncIterator[Point]:
    offset: PointId | None = None
    while True:
        points, offset = await gateway.points.scroll(collection, offset=offset, limit=page, vectors=vectors)
        for point in points:
            yield point
        if offset is None:
            return
