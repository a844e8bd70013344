"""How do the two sides of a migration answer? Exact searches for quality; latency and recall of their indexes beside them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import anyio
import numpy as np

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.metrics import Run, overlap
from qdrant_model_migration.domain.points import PointId
from qdrant_model_migration.domain.texts import Texts
from qdrant_model_migration.embedders.base import Embedder
from qdrant_model_migration.errors import MigrationError
from qdrant_model_migration.operations.scratch import Report, say
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import Latency

_TIMED = 200
"""Queries whose latency and index recall are measured, one at a time; more would hardly move a median."""
_WARM_UP = 5
_AT_ONCE = 4
_GOOD_INDEX = 0.95


@dataclass(frozen=True, kw_only=True)
class SearchedSide:
    """One side of a comparison of two collections."""

    label: str
    embedder: Embedder
    gateway: Gateway
    collection: Collection
    field: str


async def search_exactly(side: SearchedSide, vectors: Mapping[str, list[float]], limit: int, progress: Report | None) -> Run:
    """The nearest points of each query, whatever the index; the first fault ends it."""
    found: dict[str, tuple[PointId, ...]] = {}
    errors: list[MigrationError] = []
    ties = 0
    pending = iter(vectors.items())

    async def work(scope: anyio.CancelScope) -> None:
        nonlocal ties
        try:
            for query, vector in pending:
                hits = await side.gateway.points.search(
                    side.collection.name, vector, using=side.field, limit=limit, exact=True, payload=False
                )
                found[query] = tuple(hit.id for hit in hits)
                ties += any(a.score == b.score for a, b in pairwise(hits))
                if len(found) % 50 == 0 or len(found) == len(vectors):
                    await say(progress, f"searching {side.collection.name}", len(vectors), len(found))
        except MigrationError as error:
            # Raised outside: a task group would wrap it. A driver that was stopped says so through `progress`.
            errors.append(error)
            scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(_AT_ONCE):
            group.start_soon(work, group.cancel_scope)
    if errors:
        raise errors[0]
    return Run(model=side.label, found=found, ties=ties)


async def measure_index(
    sides: Sequence[SearchedSide],
    vectors: Sequence[Mapping[str, list[float]]],
    runs: Sequence[Run],
    ids: Sequence[str],
    k: int,
    progress: Report | None,
) -> tuple[list[Latency], dict[str, float], list[str]]:
    """Latency and recall of each side's index, the sides taking turns so that both meet the same load."""
    timed = [one for one in ids[:: max(1, len(ids) // _TIMED)] if all(one in run.found for run in runs)][:_TIMED]
    times: dict[str, list[float]] = {side.label: [] for side in sides}
    shares: dict[str, list[float]] = {side.label: [] for side in sides}
    for number, query in enumerate([*timed[:_WARM_UP], *timed]):
        for side, rows, run in zip(sides, vectors, runs, strict=True):
            begun = time.perf_counter()
            hits = await side.gateway.points.search(
                side.collection.name, rows[query], using=side.field, limit=k, exact=False, payload=False
            )
            spent = time.perf_counter() - begun
            if number >= min(_WARM_UP, len(timed)):
                times[side.label].append(spent * 1000)
                share = overlap(run.found[query], [hit.id for hit in hits], k)
                shares[side.label] += [] if share is None else [share]
        if number % 25 == 0:
            await say(progress, "timing the indexes", len(timed), min(number, len(timed)))
    if not timed:
        return [], {}, []
    latencies = [Latency(model=label, p50=float(np.percentile(ms, 50)), p95=float(np.percentile(ms, 95))) for label, ms in times.items()]
    recalls = {label: float(np.mean(found)) for label, found in shares.items() if found}
    notes: list[str] = []
    for side in sides:
        if side.collection.status != "green":
            notes.append(
                f"Collection {side.collection.name!r} is {side.collection.status}: its index is still being built, so its latency will change."
            )
        if recalls.get(side.label, 1.0) < _GOOD_INDEX:
            notes.append(
                f"The index of {side.collection.name!r} finds {recalls[side.label]:.1%} of the exact top {k}. Metrics and verdict rest on exact search; "
                "users would see less until hnsw_ef, m or the quantization's rescoring is raised."
            )
    if any(side.gateway.connection.is_embedded for side in sides):
        notes.append("The embedded database has no index: it always searches exactly, and its latency says nothing about a server.")
    return latencies, recalls, notes


async def texts_of(side: SearchedSide, points: Sequence[PointId], text: Texts) -> dict[PointId, str]:
    """Texts of the points that exist; untrusted."""
    found = await side.gateway.points.retrieve(side.collection.name, list(dict.fromkeys(points)))
    return {point.id: text.of(point) or "" for point in found.values()}
