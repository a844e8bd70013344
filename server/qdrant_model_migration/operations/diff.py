"""Where do source and target differ? A merge-join of two ordered scrolls, and a second look at single points."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

import anyio

from qdrant_model_migration.domain.collection import fields_of
from qdrant_model_migration.domain.points import Point, PointId, order_key
from qdrant_model_migration.domain.verification import Difference, Expectation, Tally, is_accounted, judge
from qdrant_model_migration.operations.altered import check_target
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.qdrant.gateway import Gateway

EMBEDDED_TOLERANCE = 1e-6
"""Of normalised single-precision numbers: what one side keeps as it was sent, the other normalises once more."""


async def expectation(work: Work, *, checks_made: bool) -> Expectation:
    """The recipes of the migration, with the points that are accounted for. A field that is filled later is not judged before."""
    migration = work.migration
    await check_target(work.target, migration)
    # Of vectors made from vectors the source's own edits show only so.
    is_derived = work.made is not None and work.made.is_derived
    field = next((f for f in fields_of(migration.create) if work.made is not None and f.name == work.made.field), None)
    return Expectation(
        texts=work.texts,
        made=work.made if work.makes_now else None,
        copied=work.copied,
        skips_textless=migration.on_missing_text == "skip" and work.made is not None and work.made.stage == "insert",
        accounted={f.point_id: f.is_stored for f in await work.ledger.failed(work.id)},
        checks_made=(checks_made or is_derived) and work.makes_now,
        distance=(field.distance if field else None) or "Cosine",
        datatype=field.datatype if field else "float32",
        tolerance=EMBEDDED_TOLERANCE if work.source.connection.is_embedded != work.target.connection.is_embedded else 0.0,
    )


async def differences(work: Work, expected: Expectation, tally: Tally) -> AsyncIterator[Difference]:
    """Every difference in id order; `tally` counts the points of both sides on the way. Memory does not grow with the collection."""
    left = scan(work, work.source, work.migration.source.collection, work.read_fields, derives=expected.checks_made)
    right = scan(work, work.target, work.migration.target.collection, _target_fields(expected))
    a, b = await anext(left, None), await anext(right, None)
    while a is not None or b is not None:
        order = _order(a, b)
        source, target = (a if order <= 0 else None), (b if order >= 0 else None)
        if source is not None:
            tally.source_points += 1
            tally.accounted += is_accounted(source, target, expected) if expected.checks_made or target is None else 0
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
        sources = await work.source.points.retrieve(work.migration.source.collection, page, vectors=work.read_fields)
        if expected.checks_made:
            sources = {p.id: p for p in await work.derived(list(sources.values()))}
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
    return [*fields, expected.field] if expected.checks_made and expected.made is not None else fields


def _order(a: Point | None, b: Point | None) -> int:
    """-1: only `a` comes now; 1: only `b`; 0: both, of one id."""
    if a is None or b is None:
        return 1 if a is None else -1
    x, y = order_key(a.id), order_key(b.id)
    return (x > y) - (x < y)


async def scan(work: Work, gateway: Gateway, collection: str, vectors: Sequence[str], *, derives: bool = False) -> AsyncIterator[Point]:
    """Every point in id order; with what the recipe makes of its vectors where `derives`."""
    offset: PointId | None = None
    while True:
        points, offset = await gateway.points.scroll(collection, offset=offset, limit=work.page, vectors=vectors)
        for point in await work.derived(points) if derives else points:
            yield point
        if offset is None:
            return
