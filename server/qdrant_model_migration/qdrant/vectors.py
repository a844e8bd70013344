"""How is one vector field of existing points filled, and which points lack it? Writes that leave payloads and other vectors alone.

A point without the field is one that nobody filled: the guard `must_not has_vector(field)` makes a fill insert-only, on every server
that knows `update_filter` (>= 1.15.4). An unknown field would count every point as lacking it, so the field must exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from qdrant_client import models

from qdrant_model_migration.domain.points import Payload, Point, PointId
from qdrant_model_migration.errors import NotFound, RequestRejected
from qdrant_model_migration.qdrant import translate
from qdrant_model_migration.qdrant.client import Caller
from qdrant_model_migration.qdrant.counting import count_by_reading

Seen = tuple[str, Sequence[str]]
"""A payload field, and the strings that points were seen to hold there."""


class Vectors:
    """The vector fields of one Qdrant's points."""

    def __init__(self, caller: Caller) -> None:
        self._call = caller

    async def missing(
        self, collection: str, field: str, *, offset: PointId | None, limit: int, payload: bool = True
    ) -> tuple[list[Point], PointId | None]:
        """A page of the points without `field`, in id order from `offset` (inclusive), and the id where the next begins."""
        records, after = await self._call(
            lambda: self._call.rest.scroll(
                collection, scroll_filter=_lacks(field), offset=offset, limit=limit, with_payload=payload, with_vectors=False
            )
        )
        return [translate.point(r) for r in records], translate.plain_id(after)

    async def count_missing(self, collection: str, field: str) -> int:
        """How many points lack `field`; counted by their ids where strict mode forbids exact counts."""
        try:
            return (await self._call(lambda: self._call.rest.count(collection, count_filter=_lacks(field), exact=True))).count
        except RequestRejected:
            return await count_by_reading(lambda offset, limit: self.missing(collection, field, offset=offset, limit=limit, payload=False))

    async def fill(self, collection: str, field: str, points: Sequence[Point], *, seen: Seen | None = None) -> list[int]:
        """Write `field` of the points that lack it; those that have it keep theirs.

        `seen` names a payload field and the values that the points had there: a point that holds none of them any more is left alone,
        unless strict mode refuses such a condition. One filter serves the whole request, so that one value taken for another passes.
        Returns the numbers of the operations.

        Raises:
            NotFound, RequestRejected: one of the points is gone; some of the others may have been written.
        """
        if seen is not None:
            try:
                return await self._update(collection, points, _lacks(field, seen))
            except RequestRejected:
                # No index on the field, or too many values; whoever calls looks at the values again.
                pass
        return await self._update(collection, points, _lacks(field))

    async def refill(self, collection: str, point: Point, *, observed: Payload) -> list[int]:
        """Write the point's vectors over what is there while the values of `observed` are as they were seen, as far as a filter can tell.

        Returns the number of the operation; none where nothing was written.

        Raises:
            NotFound, RequestRejected: the point is gone.
        """
        try:
            return await self._update(collection, [point], translate.still_holds(point.id, observed, {}))
        except RequestRejected:
            # Strict mode refuses its conditions: no index, or too many.
            if not await self._is_as_observed(collection, point, observed):
                return []
            return await self._update(collection, [point], None)

    async def remove(self, collection: str, field: str, point: Point) -> None:
        """Take `field` from one point, whatever else became of it; nothing happens where the point is gone.

        Raises:
            RequestRejected: the server refuses it.
        """
        try:
            await self._call(
                lambda: self._call.rest.delete_vectors(
                    collection,
                    vectors=[field],
                    points=models.PointIdsList(points=[point.id]),
                    wait=True,
                    shard_key_selector=point.shard_key,
                )
            )
        except (NotFound, RequestRejected):
            if await self._is_there(collection, point):
                raise

    async def _is_there(self, collection: str, point: Point) -> bool:
        return bool(await self._call(lambda: self._call.rest.retrieve(collection, [point.id], with_payload=False)))

    async def _is_as_observed(self, collection: str, point: Point, observed: Payload) -> bool:
        found = await self._call(lambda: self._call.rest.retrieve(collection, [point.id], with_payload=True))
        return any(all((r.payload or {}).get(key) == value for key, value in observed.items()) for r in found)

    async def _update(self, collection: str, points: Sequence[Point], guard: models.Filter | None) -> list[int]:
        def key(point: Point) -> str:
            return repr(point.shard_key)

        numbers: list[int] = []
        for _, group in groupby(sorted(points, key=key), key=key):
            members = list(group)
            rows = [models.PointVectors(id=p.id, vector=translate.struct(p).vector) for p in members]
            answer = await self._call(
                lambda rows=rows, members=members: self._call.fast.update_vectors(  # type: ignore[misc]
                    collection, rows, wait=True, update_filter=guard, shard_key_selector=members[0].shard_key
                )
            )
            numbers += [] if answer.operation_id is None else [answer.operation_id]
        return numbers


def _lacks(field: str, seen: Seen | None = None) -> models.Filter:
    lacks: models.Condition = models.HasVectorCondition(has_vector=field)
    if seen is None:
        return models.Filter(must_not=[lacks])
    key, values = seen
    return models.Filter(must=[models.FieldCondition(key=f'"{key}"', match=models.MatchAny(any=sorted(set(values))))], must_not=[lacks])
