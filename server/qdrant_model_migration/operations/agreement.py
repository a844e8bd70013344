"""Do stored vectors come from the model they are said to come from? Embed the texts again and compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.domain.model import ModelKind, Side
from qdrant_model_migration.embedders.base import AnyEmbedder, SparseVector
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


async def agreement(embedder: AnyEmbedder, texts: Sequence[str], stored: Sequence[Any], *, datatype: str = "float32") -> Agreement:
    """Embed texts again and compare them with what is stored, by cosine. A text that can no longer be embedded agrees with nothing.

    int8 models give a text another vector in other company (cosine down to 0.9916 was seen), so the threshold comes from the spread
    between two batchings of the same texts: three times as far from 1, since a sample does not show the worst case.

    Args:
        embedder: Of any kind.
        texts: What the stored vectors are said to be made of.
        stored: The vectors as read, one a text: numbers, `{"indices": …, "values": …}`, or rows of numbers, as the model's kind has it.
        datatype: How the field stores its values: float32, float16 or uint8.

    Raises:
        EmbeddingError: the model is gone, or its provider went on failing after the bounded tries.
    """
    cosine = _COSINE[embedder.spec.kind]
    now, _ = await embed_resilient(embedder, texts, Side.DOCUMENT, should_stop=lambda: False)
    found = [i for i, vector in enumerate(now) if vector is not None]
    cosines = np.full(len(texts), -1.0)
    if not found:
        return Agreement(cosines=cosines, threshold=0.0)
    cosines[found] = [cosine(now[i], stored[i]) for i in found]
    # A server embeds each text for itself, and every question costs it a scratch collection.
    again = [] if embedder.spec.is_server_side else found[:SPREAD_SAMPLE]
    alone = [(i, await embed_resilient(embedder, [texts[i]], Side.DOCUMENT, should_stop=lambda: False)) for i in again]
    spread = min((cosine(now[i], vector) for i, ((vector,), _) in alone if vector is not None), default=1.0)
    threshold = min(0.9999, 1.0 - 3.0 * (1.0 - spread)) - _DATATYPE_ALLOWANCE.get(datatype, 0.0)
    return Agreement(cosines=cosines, threshold=threshold)


def dense_cosine(a: Any, b: Any) -> float:
    """Of two vectors of one length; 0 where one of them has none."""
    return float(_row_cosines(np.atleast_2d(a), np.atleast_2d(b))[0])


def sparse_cosine(a: SparseVector, b: SparseVector) -> float:
    """Of two sparse vectors: 1 when both are empty, which is how a text looks of which nothing counts; 0 when one of them is."""
    if not a["indices"] or not b["indices"]:
        return 1.0 if not a["indices"] and not b["indices"] else 0.0
    other = dict(zip(b["indices"], b["values"], strict=True))
    product = sum(value * other.get(index, 0.0) for index, value in zip(a["indices"], a["values"], strict=True))
    return float(product / max(float(np.linalg.norm(a["values"]) * np.linalg.norm(b["values"])), 1e-30))


def multivector_cosine(a: Any, b: Any) -> float:
    """Mean cosine of the rows at equal positions; -1 when their number differs: then not even the tokens are the same."""
    x, y = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    return float(_row_cosines(x, y).mean()) if x.shape == y.shape and x.size else -1.0


_COSINE: dict[ModelKind, Callable[[Any, Any], float]] = {
    ModelKind.DENSE: dense_cosine,
    ModelKind.SPARSE: sparse_cosine,
    ModelKind.MULTIVECTOR: multivector_cosine,
}


def _row_cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray(np.einsum("ij,ij->i", x, y) / np.maximum(lengths, 1e-30), dtype=np.float64)
