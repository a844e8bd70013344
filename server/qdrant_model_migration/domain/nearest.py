"""Which rows lie nearest to a query, exactly? Under each of Qdrant's four distances, block by block; and how much two answers share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
"""Shape (n, dimensions)."""
Positions = NDArray[np.intp]
"""Shape (queries, k): positions in the pool, best first."""

NOBODY = -1
"""Stands in `Positions` where there was nothing left to find."""
BLOCK_CELLS = 4_000_000


def lengths(rows: Rows) -> NDArray[np.float64]:
    """Euclidean lengths, shape (n,); in double precision, so that small and large numbers survive their squares."""
    found: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return found


def unit(rows: Rows) -> Rows:
    """Rows of length 1; a row of zeros stays one."""
    norms = lengths(rows)
    found: Rows = (rows / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)
    return found


def similarities(documents: Rows, queries: Rows, distance: str) -> Rows:
    """Shape (queries, documents). Larger is nearer; of Euclid only the order is kept. Cosine takes unit rows."""
    if distance == "Manhattan":
        scores = np.empty((len(queries), len(documents)), dtype=np.float32)
        step = max(1, BLOCK_CELLS // documents.shape[1])
        for start in range(0, len(documents), step):
            part = documents[start : start + step]
            for i, query in enumerate(queries):
                scores[i, start : start + len(part)] = -np.abs(part - query).sum(axis=1)
        return scores
    products: Rows = queries @ documents.T
    if distance == "Euclid":
        products = 2 * products - np.square(documents).sum(axis=1)
    return products


def nearest(
    pool: Rows,
    queries: Rows,
    distance: str,
    k: int,
    *,
    own: NDArray[np.intp] | None = None,
    is_findable: NDArray[np.bool_] | None = None,
) -> Positions:
    """The k nearest rows of the pool to each query, by looking at every one.

    Args:
        pool: Shape (n, dimensions).
        queries: Shape (q, dimensions).
        distance: Qdrant's name of it; under Cosine the rows need not have unit length.
        k: At most this many; where fewer can be found, NOBODY fills up.
        own: Position in the pool of each query itself, which is left out.
        is_findable: Shape (n,); the other rows of the pool are never found.
    """
    if distance == "Cosine":
        pool, queries = unit(pool), unit(queries)
    elif distance == "Euclid" and len(pool):
        # Differences stay the same, and rounding errors become small where all rows lie far from the origin.
        centre = pool.mean(axis=0)
        pool, queries = pool - centre, queries - centre
    limit = min(k, len(pool))
    found = np.full((len(queries), k), NOBODY, dtype=np.intp)
    if not limit:
        return found
    step = max(1, BLOCK_CELLS // len(pool))
    for start in range(0, len(queries), step):
        scores = similarities(pool, queries[start : start + step], distance)
        if is_findable is not None:
            scores[:, ~is_findable] = -np.inf
        if own is not None:
            scores[np.arange(len(scores)), own[start : start + step]] = -np.inf
        best = np.argpartition(-scores, limit - 1, axis=1)[:, :limit]
        kept = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-kept, axis=1, kind="stable")
        best, kept = np.take_along_axis(best, order, axis=1), np.take_along_axis(kept, order, axis=1)
        found[start : start + len(scores), :limit] = np.where(np.isneginf(kept), NOBODY, best)
    return found


def recalls(exact: Positions, other: Positions) -> NDArray[np.float64]:
    """Share of each query's exact neighbours that the other answer holds, shape (queries,)."""
    shared = (exact[:, :, None] == other[:, None, :]) & (exact[:, :, None] != NOBODY)
    counts = (exact != NOBODY).sum(axis=1)
    found: NDArray[np.float64] = shared.any(axis=2).sum(axis=1) / np.maximum(counts, 1)
    return found
