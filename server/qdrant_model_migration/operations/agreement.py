"""Do stored vectors come from the model they are said to come from? Embed the texts again and compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.embedders.base import Dense, Embedder
from qdrant_model_migration.embedders.retrying import embed_resilient

SPREAD_SAMPLE = 32
"""Texts that are embedded one by one as well, to see how much the model's batching moves a vector."""

_DATATYPE_ALLOWANCE = {"float32": 0.0, "float16": 0.001, "uint8": 0.1}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Cosine of each stored vector with the one embedded now, and the least that the model's own spread explains."""

    cosines: NDArray[np.float64]
    threshold: float

    @property
    def wrong(self) -> list[int]:
        """Positions below the threshold."""
        return [int(i) for i in np.flatnonzero(self.cosines < self.threshold)]


async def agreement(embedder: Embedder, texts: Sequence[str], stored: Sequence[Sequence[float]], *, datatype: str = "float32") -> Agreement:
    """Embed texts again and compare them with what is stored, by cosine. A text that can no longer be embedded agrees with nothing.

    int8 models give a text another vector in other company (cosine down to 0.9916 was seen), so the threshold comes from the spread
    between two batchings of the same texts: three times as far from 1, since a sample does not show the worst case.

    Raises:
        EmbeddingError: the model is gone, or its provider went on failing after the bounded tries.
    """
    rows, _ = await embed_resilient(embedder, texts, Side.DOCUMENT, should_stop=lambda: False)
    found = [i for i, row in enumerate(rows) if row is not None]
    cosines = np.full(len(texts), -1.0)
    if not found:
        return Agreement(cosines=cosines, threshold=0.0)
    now = np.stack([row for row in rows if row is not None])
    cosines[found] = _cosines(now, np.asarray([stored[i] for i in found], dtype=np.float32))
    alone = [await embed_resilient(embedder, [texts[i]], Side.DOCUMENT, should_stop=lambda: False) for i in found[:SPREAD_SAMPLE]]
    again = [(row, now[n]) for n, ((row,), _) in enumerate(alone) if row is not None]
    spread = float(np.min(_cosines(np.stack([a for a, _ in again]), np.stack([b for _, b in again])))) if again else 1.0
    threshold = min(0.9999, 1.0 - 3.0 * (1.0 - spread)) - _DATATYPE_ALLOWANCE.get(datatype, 0.0)
    return Agreement(cosines=cosines, threshold=threshold)


def _cosines(a: Dense, b: Dense) -> NDArray[np.float64]:
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray(np.einsum("ij,ij->i", x, y) / np.maximum(lengths, 1e-30), dtype=np.float64)
