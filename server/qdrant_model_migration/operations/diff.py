"""Where do source and target differ? A merge-join of two ordered scrolls, and a second look at single points."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import partial
from itertools import count

import anyio
import anyio.lowlevel

from qdrant_model_migration.domain.collection import fields_of
from qdrant_model_migration.domain.points import Point, PointId, order_key
from qdrant_model_migration.domain.verification import Difference, Expectation, Tally, is_accounted, judge
from qdrant_model_migration.operations.altered import check_target
from qdrant_model_migration.operations.in_parallel import both
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.qdrant.gateway import Gateway

POINTS_A_TURN = 64
"""Compared before anything else that waits has its turn."""
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
    left = _Side(work, work.source, work.migration.source.collection, work.read_fields, derives=expected.checks_made)
    right = _Side(work, work.target, work.migration.target.collection, _target_fields(expected))
    while True:
        found: list[Difference] = []
        await both(partial(both, left.read_ahead, right.read_ahead), partial(_merge, left, right, expected, tally, found))
        left.turn()
        right.turn()
        for difference in found:
            yield difference
        if left.is_through and right.is_through:
            return


async def _merge(left: _Side, right: _Side, expected: Expectation, tally: Tally, found: list[Difference]) -> None:
    """Compare what both sides hold, until one of them has to turn its page; the next pages are read meanwhile."""
    for step in count(1):
        if not (left.is_ready and right.is_ready) or (left.next is None and right.next is None):
            return
        a, b = left.next, right.next
        order = _order(a, b)
        source, target = (a if order <= 0 else None), (b if order >= 0 else None)
        if source is not None:
            tally.source_points += 1
            tally.accounted += is_accounted(source, target, expected) if expected.checks_made or target is None else 0
            left.step()
        if target is not None:
            tally.target_points += 1
            right.step()
        difference = judge(source, target, expected)
        if difference is not None:
            tally.differences[difference.kind] += 1
            found.append(difference)
        if step % POINTS_A_TURN == 0:
            # The requests of the next pages, and whatever else runs here, have their turn.
            await anyio.lowlevel.checkpoint()


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
    if a.id == b.id:
        return 0
    x, y = order_key(a.id), order_key(b.id)
    return (x > y) - (x < y)


class _Side:
    """One side of a comparison: points in id order, of which two pages are held at most; with what the recipe makes of their vectors where `derives`."""

    def __init__(self, work: Work, gateway: Gateway, collection: str, vectors: Sequence[str], *, derives: bool = False) -> None:
        self._work, self._gateway, self._collection, self._vectors, self._derives = work, gateway, collection, vectors, derives
        self._page: Iterator[Point] = iter(())
        self._ahead: list[Point] | None = None
        self._offset: PointId | None = None
        self._is_read = False
        self.next: Point | None = None
        """The point to be looked at; None where the page has to be turned, or all were."""

    @property
    def is_through(self) -> bool:
        """Whether every point was looked at."""
        return self.next is None and self._is_read and self._ahead is None

    @property
    def is_ready(self) -> bool:
        """Whether it is known which point comes next, or that none does."""
        return self.next is not None or self.is_through

    def step(self) -> None:
        self.next = next(self._page, None)

    def turn(self) -> None:
        """Go on with the page that was read ahead, where nothing is left of the one before."""
        if self.next is None and self._ahead is not None:
            self._page, self._ahead = iter(self._ahead), None
            self.step()

    async def read_ahead(self) -> None:
        """Read the next page, unless one is held already or there is none."""
        if self._ahead is not None or self._is_read:
            return
        points, self._offset = await self._gateway.points.scroll(
            self._collection, offset=self._offset, limit=self._work.page, vectors=self._vectors, packed=True
        )
        self._is_read = self._offset is None
        self._ahead = await self._work.derived(points) if self._derives else points


async def scan(work: Work, gateway: Gateway, collection: str, vectors: Sequence[str]) -> AsyncIterator[Point]:
    """Every point in id order."""
    side = _Side(work, gateway, collection, vectors)
    while not side.is_through:
        await side.read_ahead()
        side.turn()
        while side.next is not None:
            yield side.next
            side.step()
