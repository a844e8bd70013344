"""How do two searches become one, in memory? Sparse scores with the weights of rare terms, fused ranks, and the best matches of tokens.

As Qdrant does it (1.16 to 1.18), so that what is found on a sample is what the server would find among the same points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.domain.nearest import Rows

Terms = tuple[Sequence[int], Sequence[float]]
"""Indices and values of a sparse vector; both empty when nothing of a text counts."""

_RRF_K = 2
"""Qdrant's constant: a hit at rank r, from 0, is worth 1 / (2 + r)."""


class SparseIndex:
    """The documents by term.

    Args:
        rows: A sparse vector for each document; None where a document has none.
        is_idf: Whether terms are weighted by how few documents have them (`modifier=idf`).
    """

    def __init__(self, rows: Sequence[Terms | None], *, is_idf: bool) -> None:
        self._count = len(rows)
        self._is_idf = is_idf
        sizes = [0 if row is None else len(row[0]) for row in rows]
        terms = np.concatenate([np.asarray(row[0], dtype=np.int64) for row in rows if row is not None] or [np.zeros(0, dtype=np.int64)])
        values = np.concatenate([np.asarray(row[1], dtype=np.float64) for row in rows if row is not None] or [np.zeros(0)])
        order = np.argsort(terms, kind="stable")
        self._documents = np.repeat(np.arange(len(rows)), sizes)[order]
        self._values = values[order]
        self._terms, self._starts = np.unique(terms[order], return_index=True)
        self._ends = np.append(self._starts[1:], len(terms))

    def best(self, query: Terms, limit: int) -> list[int]:
        """Positions of the documents with the highest scores, best first; only those that share a term with the query."""
        scores = np.zeros(self._count)
        is_touched = np.zeros(self._count, dtype=np.bool_)
        for term, weight in zip(*query, strict=True):
            at = int(np.searchsorted(self._terms, term))
            if at == len(self._terms) or self._terms[at] != term:
                continue
            start, end = self._starts[at], self._ends[at]
            documents = self._documents[start:end]
            scores[documents] += weight * self._weight(int(end - start)) * self._values[start:end]
            is_touched[documents] = True
        touched = np.flatnonzero(is_touched)
        return [int(p) for p in touched[np.argsort(-scores[touched], kind="stable")[:limit]]]

    def _weight(self, having: int) -> float:
        return float(np.log((self._count - having + 0.5) / (having + 0.5) + 1.0)) if self._is_idf else 1.0


def fused(rankings: Sequence[Sequence[int]], limit: int) -> tuple[list[int], bool]:
    """The best by reciprocal ranks, and whether two of them have one score: the earlier ranking's hit stands first then."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, position in enumerate(ranking):
            scores[position] = scores.get(position, 0.0) + 1.0 / (_RRF_K + rank)
    best = sorted(scores, key=lambda position: -scores[position])[:limit]
    return best, len({scores[position] for position in best}) < len(best)


def max_sim(query: Rows, documents: Sequence[Rows]) -> NDArray[np.float64]:
    """For each document the sum, over the query's tokens, of the product with the token that is most like it."""
    if not documents:
        return np.zeros(0)
    products = query @ np.concatenate(documents).T
    starts = np.cumsum([0, *(len(document) for document in documents[:-1])])
    found: NDArray[np.float64] = np.maximum.reduceat(products, starts, axis=1).sum(axis=0, dtype=np.float64)
    return found
