"""Does the target answer about as fast as the source? Searches by the collections' own vectors, the sides taking turns."""

from __future__ import annotations

import time

import numpy as np

from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.qdrant.gateway import Gateway

SEARCHES = 30
WARM_UP = 5
MOST_TIMES = 5.0
FREE_MS = 50.0
"""A target may be slower by this much whatever the factor: bigger vectors cost something, and shared machines jitter."""


async def check_speed(work: Work) -> None:
    """Refuse a cutover to a target whose searches take much longer; that is an index not built, or memory not there.

    Raises:
        Refused: with both 95th percentiles.
    """
    if work.source.connection.is_embedded:
        return
    field = work.migration.dense_field
    if field is None:
        return
    # Where the old field lives on it is what readers go on asking first.
    asked = field if work.migration.keeps_old_field else work.made_field
    source = await _Side.of(work.source, work.migration.source.collection, field)
    target = await _Side.of(work.target, work.migration.target.collection, asked)
    if source is None or target is None:
        return
    times: dict[str, list[float]] = {"source": [], "target": []}
    for number in range(WARM_UP + SEARCHES):
        for name, side in (("source", source), ("target", target)):
            took_ms = await side.search(number)
            if number >= WARM_UP:
                times[name].append(took_ms)
    old, new = float(np.percentile(times["source"], 95)), float(np.percentile(times["target"], 95))
    if new > old * MOST_TIMES and new > old + FREE_MS:
        raise Refused(
            f"Cannot swap: searches in {work.migration.target.collection!r} take {new:.0f} ms at the 95th percentile, in "
            f"{work.migration.source.collection!r} {old:.0f} ms. Its index may not be built or not fit into memory: look at inspect_collection, "
            "wait, and try again."
        )


class _Side:
    def __init__(self, gateway: Gateway, collection: str, field: str, vectors: list[list[float]]) -> None:
        self._gateway, self._collection, self._field, self._vectors = gateway, collection, field, vectors

    @classmethod
    async def of(cls, gateway: Gateway, collection: str, field: str) -> _Side | None:
        drawn = await gateway.points.sample(collection, 16, vectors=[field])
        vectors = [p.vectors[field] for p in drawn if p.vectors.get(field) is not None]
        return cls(gateway, collection, field, vectors) if vectors else None

    async def search(self, number: int) -> float:
        """Milliseconds of one search."""
        began = time.perf_counter()
        vector = self._vectors[number % len(self._vectors)]
        await self._gateway.points.search(self._collection, vector, using=self._field, limit=10, exact=False, payload=False)
        return (time.perf_counter() - began) * 1000
