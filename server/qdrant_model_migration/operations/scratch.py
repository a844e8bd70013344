"""How are texts embedded and searched without a collection? Rows in memory, ranked exactly, block by block."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.domain.metrics import Query
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.nearest import similarities, unit
from qdrant_model_migration.embedders.base import Dense, Embedder
from qdrant_model_migration.embedders.retrying import embed_resilient
from qdrant_model_migration.results import Progress

_BLOCK_CELLS = 4_000_000
_WINDOW = 512
"""Distinct texts between two reports; embedders sort within a window, so it should not be much smaller."""

Report = Callable[[Progress], Awaitable[None]]

Tick = Callable[[int], Awaitable[None]]
"""Called with the number of texts embedded so far."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """`rows[i]` is the vector of text `kept[i]`; texts that the model refuses are left out."""

    kept: NDArray[np.intp]
    rows: Dense
    seconds: float


async def embedded(embedder: Embedder, texts: Sequence[str], side: Side, tick: Tick) -> Embedded:
    """Embed each distinct text once.

    Raises:
        TransientEmbedding: the provider went on failing.
        ModelNotUsable: the model itself is at fault.
    """
    distinct = list(dict.fromkeys(texts))
    position = {text: i for i, text in enumerate(distinct)}
    vectors = np.zeros((len(distinct), embedder.spec.dimensions or 0), dtype=np.float32)
    is_there = np.zeros(len(distinct), dtype=np.bool_)
    begun = time.perf_counter()
    window = max(_WINDOW, embedder.batch_size)
    for start in range(0, len(distinct), window):
        part = distinct[start : start + window]
        rows, _ = await embed_resilient(embedder, part, side, should_stop=lambda: False)
        for offset, row in enumerate(rows):
            if row is not None:
                vectors[start + offset] = row
                is_there[start + offset] = True
        await tick(start + len(part))
    seconds = time.perf_counter() - begun
    at = np.array([position[text] for text in texts], dtype=np.intp)
    kept = np.flatnonzero(is_there[at])
    return Embedded(kept=kept, rows=vectors[at[kept]] if len(distinct) < len(texts) or len(kept) < len(texts) else vectors, seconds=seconds)


async def ranked(documents: Dense, queries: Dense, distance: str, limit: int) -> tuple[NDArray[np.intp], int]:
    """Positions of the nearest documents, best first, shape (queries, limit); and how many queries have equal scores among them."""
    limit = min(limit, len(documents))
    found = np.zeros((len(queries), limit), dtype=np.intp)
    if not limit:
        return found, 0
    if distance == "Cosine":
        documents, queries = await anyio.to_thread.run_sync(lambda: (unit(documents), unit(queries)))
    ties = 0
    step = max(1, _BLOCK_CELLS // len(documents))
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        order, tied = await anyio.to_thread.run_sync(_top, documents, block, distance, limit)
        found[start : start + len(block)] = order
        ties += tied
    return found, ties


def _top(documents: Dense, queries: Dense, distance: str, limit: int) -> tuple[NDArray[np.intp], int]:
    scores = similarities(documents, queries, distance)
    if limit < scores.shape[1]:
        nearest = np.argpartition(-scores, limit - 1, axis=1)[:, :limit]
        nearest.sort(axis=1)
    else:
        nearest = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    kept = np.take_along_axis(scores, nearest, axis=1)
    order = np.argsort(-kept, axis=1, kind="stable")
    best = np.take_along_axis(kept, order, axis=1)
    ties = int((np.diff(best, axis=1) == 0).any(axis=1).sum())
    return np.take_along_axis(nearest, order, axis=1), ties


async def say(progress: Report | None, stage: str, total: int, read: int) -> None:
    """Report progress to whoever asked for it."""
    if progress is not None:
        await progress(Progress(stage=stage, total=total, read=read))


async def embedded_queries(embedder: Embedder, label: str, queries: Sequence[Query], progress: Report | None) -> dict[str, list[float]]:
    """Vectors by query id; a query that the model refuses is absent."""

    async def tick(done: int) -> None:
        await say(progress, f"embedding queries with {label}", len(queries), done)

    found = await embedded(embedder, [q.text for q in queries], Side.QUERY, tick)
    return {queries[at].id: row.tolist() for at, row in zip(found.kept, found.rows, strict=True)}
