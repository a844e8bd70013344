"""How good would a collection's vectors still be if they were cut? Measured on a sample of the stored ones; nothing is embedded or written."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
import numpy as np

from qdrant_model_migration.domain.collection import Collection, FieldKind, VectorField
from qdrant_model_migration.domain.derived import TOLERANCE
from qdrant_model_migration.domain.nearest import Rows
from qdrant_model_migration.domain.points import vector_problem
from qdrant_model_migration.domain.truncation import FEWEST_ROWS, dimensions_to_try, quality_by_dimension
from qdrant_model_migration.operations.drawing import drawn_points
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import DimensionQuality

QUERIES = 200
"""Of Manhattan, whose distances are no matrix product and take ten times as long; else every vector of the sample is a query."""
BUDGET_S = 5.0
"""For reading; the measuring itself takes about a second."""


async def measure_dimensions(
    gateway: Gateway,
    collection: Collection,
    field: VectorField,
    *,
    sample: int = 1000,
    k: int = 10,
    seed: int = 0,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.monotonic,
) -> list[DimensionQuality]:
    """Recall@k of cut vectors against whole ones for each size worth trying, ascending.

    Empty where it cannot be said: the field is not dense or of a datatype that cannot be cut, or fewer than 50 usable vectors were read
    within the time.
    """
    dimensions = dimensions_to_try(field.size or 0)
    if field.kind is not FieldKind.DENSE or field.distance is None or field.datatype not in TOLERANCE or not dimensions:
        return []
    deadline = clock() + budget_s
    rows: list[Rows] = []
    # The first page may be long in coming, where all ids have to be read for an honest draw.
    with anyio.move_on_after(budget_s):
        async for points in drawn_points(gateway, collection, sample, vectors=[field.name], payload=False, seed=seed):
            for point in points:
                vector = point.vectors.get(field.name)
                if vector_problem(vector, field.size) is None:
                    rows.append(np.array(vector, dtype=np.float32))
            if clock() >= deadline:
                break
    if len(rows) < max(FEWEST_ROWS, k + 1):
        return []
    distance = field.distance
    queries = QUERIES if distance == "Manhattan" else len(rows)
    return await anyio.to_thread.run_sync(
        lambda: quality_by_dimension(np.array(rows), distance, dimensions, k=k, queries=queries, seed=seed)
    )
