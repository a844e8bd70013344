"""How are many different points drawn at random, each equally likely, whatever the collection's size?"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.points import Point, PointId
from qdrant_model_migration.errors import BatchTooLarge, NotFound, RequestRejected, Unsupported
from qdrant_model_migration.qdrant.gateway import Gateway

PAGE = 256
IDS_PAGE = 5_000
SCANNED = 50_000
"""A collection of so many points (or few times the sample) has its ids read in a second: an exact draw, and the same for the same seed."""
TIMES = 4
BARREN_DRAWS = 20
"""The server draws with replacement from one request to the next; when so many in a row bring nothing new, there is nothing new."""


async def drawn_points(
    gateway: Gateway, collection: Collection, size: int, *, vectors: Sequence[str] = (), payload: bool = True, seed: int = 0
) -> AsyncIterator[list[Point]]:
    """Pages of up to `size` different points with the named vectors; all points where there are no more.

    Small collections are drawn from by their ids, reproducibly; of large ones the server draws (always with payloads), and where
    it cannot, all ids are read.
    """
    page = max(1, min(PAGE, collection.page_limit or PAGE))
    if collection.points <= max(SCANNED, TIMES * size):
        async for points in _by_ids(gateway, collection, size, page, vectors, seed, payload=payload):
            yield points
        return
    seen: set[PointId] = set()
    barren = 0
    while len(seen) < size and barren < BARREN_DRAWS:
        try:
            points = await gateway.points.sample(collection.name, page, vectors=vectors)
        except BatchTooLarge:
            if page == 1:
                raise
            page = max(1, page // 2)
            continue
        except (RequestRejected, Unsupported, NotFound):
            if seen:
                raise
            points = []
        if not points and not seen:
            # The server cannot draw: strict mode, or points without vectors.
            async for found in _by_ids(gateway, collection, size, page, vectors, seed, payload=payload):
                yield found
            return
        fresh = list({p.id: p for p in points if p.id not in seen}.values())[: size - len(seen)]
        barren = 0 if fresh else barren + 1
        seen.update(p.id for p in fresh)
        if fresh:
            yield fresh


async def _by_ids(
    gateway: Gateway, collection: Collection, size: int, page: int, vectors: Sequence[str], seed: int, *, payload: bool
) -> AsyncIterator[list[Point]]:
    """By reservoir sampling (Vitter's algorithm R) over all ids, in bounded memory."""
    dice = random.Random(seed)
    kept: list[PointId] = []
    count = 0
    offset: PointId | None = None
    while True:
        ids, offset = await gateway.points.ids(collection.name, offset=offset, limit=min(IDS_PAGE, collection.page_limit or IDS_PAGE))
        for point_id in ids:
            count += 1
            if len(kept) < size:
                kept.append(point_id)
            elif (place := dice.randrange(count)) < size:
                kept[place] = point_id
        if offset is None:
            break
    # Otherwise the first ids would lead, and a caller that stops early would have no random sample.
    dice.shuffle(kept)
    for start in range(0, len(kept), page):
        found = await gateway.points.retrieve(collection.name, kept[start : start + page], payload=payload, vectors=vectors)
        yield list(found.values())
