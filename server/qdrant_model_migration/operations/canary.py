"""Do the source's searches suffer from what is done? One small search after another, timed by the server itself."""

from __future__ import annotations

import logging
import math
from typing import Any

import anyio

from qdrant_model_migration.domain.collection import Collection, FieldKind, VectorField
from qdrant_model_migration.domain.pacing import Ceiling
from qdrant_model_migration.errors import MigrationError
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.qdrant.gateway import Gateway

LOG = logging.getLogger(__name__)
QUERIES = 16
"""Vectors of the source that are searched for, in turn: one alone would be in every cache."""
LIMIT = 10
LOOK_EVERY_S = 0.25
STAGES = frozenset({"backfilling", "filling"})
"""Of the driver, in which a pace is kept."""


def searched_field(source: Collection) -> VectorField | None:
    """The vector that a canary searches by: a dense one before a sparse one; None where there is none."""
    found = [f for f in source.fields if f.kind in (FieldKind.DENSE, FieldKind.SPARSE)]
    return next((f for f in found if f.kind is FieldKind.DENSE), found[0] if found else None)


async def watch_source(work: Work) -> None:
    """Keep `work.ceiling` while one is asked for; runs until it is cancelled."""
    queries: list[Any] = []
    turn = 0
    while True:
        most_ms = work.pace.max_source_latency_ms
        field = searched_field(work.source_collection)
        if most_ms is None or field is None or work.progress.stage not in STAGES:
            if most_ms is None:
                work.ceiling = Ceiling()
            await anyio.sleep(LOOK_EVERY_S)
            continue
        try:
            queries = queries or await vectors_to_search(work.source, work.migration.source.collection, field, QUERIES)
            if queries:
                turn += 1
                work.ceiling.note(
                    await work.source.searches.server_ms(
                        work.migration.source.collection, queries[turn % len(queries)], using=field.name, limit=LIMIT
                    ),
                    most_ms,
                )
        except MigrationError as error:
            LOG.warning("The canary's search failed: %s", error)
            work.ceiling.note(math.inf, most_ms)
        await anyio.sleep(LOOK_EVERY_S)


async def vectors_to_search(gateway: Gateway, collection: str, field: VectorField, most: int) -> list[Any]:
    """Vectors of a collection's own, drawn at random; fewer where points have none."""
    points = await gateway.points.sample(collection, most, vectors=[field.name])
    return [vector for p in points if (vector := p.vectors.get(field.name))]
