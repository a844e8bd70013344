"""Which points say that they were written lately? By an indexed payload field."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from qdrant_client import models

from qdrant_model_migration.domain.points import PointId
from qdrant_model_migration.domain.texts import read_path
from qdrant_model_migration.domain.updated_at import UpdatedAt
from qdrant_model_migration.qdrant import translate
from qdrant_model_migration.qdrant.client import Caller


class Changes:
    """The times that one Qdrant's points tell."""

    def __init__(self, caller: Caller) -> None:
        self._call = caller

    async def newest(self, collection: str, told: UpdatedAt) -> float | None:
        """The latest time that any point tells, in seconds since 1970; None where none does.

        Raises:
            RequestRejected: the index does not order.
        """
        order = models.OrderBy(key=told.field, direction=models.Direction.DESC)
        records, _ = await self._call(
            lambda: self._call.rest.scroll(collection, order_by=order, limit=1, with_payload=[told.field], with_vectors=False)
        )
        return told.seconds(read_path(records[0].payload or {}, told.field)) if records else None

    async def since(
        self, collection: str, told: UpdatedAt, since_s: float, *, offset: PointId | None, limit: int
    ) -> tuple[list[PointId], PointId | None]:
        """A page of the ids of points written since then, in id order from `offset` (inclusive), and the id where the next begins."""
        least = told.value(since_s)
        bounds: Any = models.DatetimeRange(gte=least) if isinstance(least, datetime) else models.Range(gte=least)
        lately = models.Filter(must=[models.FieldCondition(key=told.field, range=bounds)])
        records, after = await self._call(
            lambda: self._call.rest.scroll(
                collection, scroll_filter=lately, offset=offset, limit=limit, with_payload=False, with_vectors=False
            )
        )
        return [translate.point(r).id for r in records], translate.plain_id(after)
