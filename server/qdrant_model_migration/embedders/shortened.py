"""What are the first n dimensions of a model worth? `model@n`: each vector cut to n numbers and brought back to unit length.

Only models trained for it (Matryoshka) keep their quality; any other loses what stood in the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qdrant_model_migration.domain.model import ModelSpec, Side
from qdrant_model_migration.domain.observations import is_matryoshka
from qdrant_model_migration.embedders.base import Dense, Embedder
from qdrant_model_migration.embedders.checks import check_answer
from qdrant_model_migration.errors import ModelNotUsable

_UNKNOWN = "not known to be trained for shorter vectors (Matryoshka): measure it with compare_models before relying on it"


class ShortenedEmbedder:
    """A dense model's vectors, cut. The model itself belongs to whoever loaded it: closing this leaves it open.

    Args:
        model: The names it goes by, the configured one and its own: they tell whether its vectors may be cut.

    Raises:
        ModelNotUsable: the model has no more than so many dimensions.
    """

    def __init__(self, inner: Embedder, dimensions: int, model: str) -> None:
        native = inner.spec.dimensions or 0
        if dimensions >= native:
            raise ModelNotUsable(
                f"Model {inner.spec.name!r} has {native} dimensions, so {dimensions} cannot be cut from it. State fewer behind '@', or none."
            )
        self._inner = inner
        notes = [note for note in (inner.spec.note, None if is_matryoshka(model) else _UNKNOWN) if note]
        self._spec = inner.spec.model_copy(
            update={
                "name": f"{inner.spec.name}@{dimensions}",
                "dimensions": dimensions,
                "native_dimensions": native,
                "is_normalized": True,
                "note": "; ".join(notes) or None,
            }
        )

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def batch_size(self) -> int:
        return self._inner.batch_size

    async def embed(self, texts: Sequence[str], side: Side) -> Dense:
        """Unit vectors of shape (len(texts), dimensions).

        Raises:
            EmbeddingError: as the model's.
            BadText: a vector is zero in its first `dimensions` numbers.
        """
        return self._cut(await self._inner.embed(texts, side), len(texts))

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """As the model."""
        return await self._inner.count_tokens(texts)

    async def close(self) -> None:
        """Nothing: the model is closed by its owner."""

    def _cut(self, vectors: Dense, count: int) -> Dense:
        rows = vectors[:, : self._spec.dimensions].astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        shortened = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
        return check_answer(shortened, count, self._spec.dimensions, self._spec.name)
