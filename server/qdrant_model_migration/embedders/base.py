"""What does the rest of the project ask of a model? One Protocol for each kind; one file a provider implements them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypedDict, TypeGuard

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.model import ModelKind, ModelSpec, Side

Dense = NDArray[np.float32]
"""Shape (n, dimensions), one row a text, in the order of the texts."""

Row = NDArray[np.float32]
"""A dense vector of shape (dimensions,)."""

Multivector = NDArray[np.float32]
"""Shape (tokens, dimensions): one row a token, as many as the text has."""


class SparseVector(TypedDict):
    """Ascending, unique indices and their values, as Qdrant gives them back. Both are empty when nothing of a text counts."""

    indices: list[int]
    values: list[float]


class Usable(BaseModel):
    """One entry of the list of usable models."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: ModelKind
    dimensions: int | None = None
    max_tokens: int | None = None
    size_bytes: int | None = None
    is_ready: bool
    """Loadable without a download; of a server-side model: with a server that computes it."""
    note: str | None = None


class Model(Protocol):
    """What models of every kind have. Calls may be made from several tasks of one event loop at once."""

    @property
    def spec(self) -> ModelSpec:
        """The facts about the model, measured when it was loaded. `spec.kind` says what `embed` answers."""
        ...

    @property
    def batch_size(self) -> int:
        """How many texts a call should hold: enough for full speed, few enough that a failed call wastes little."""
        ...

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text before any truncation, with prefixes and special tokens; None when nobody can tell."""
        ...

    async def close(self) -> None:
        """Free the model."""
        ...


class Embedder(Model, Protocol):
    """A dense model."""

    async def embed(self, texts: Sequence[str], side: Side) -> Dense:
        """Embed texts that hold at least one non-blank character; prefixes are added here.

        Never blocks the event loop. The answer is finite, non-zero and of shape (len(texts), dimensions).

        Raises:
            TransientEmbedding: the same call may succeed later.
            BatchTooLarge: fewer texts at a time would succeed.
            BadText: at least one text cannot be embedded, or got a NaN or zero vector; bisect.
            ModelNotUsable: wrong count, wrong size, nothing but NaN or zero vectors (of a sound text, too), or the model is gone.
        """
        ...


class SparseEmbedder(Model, Protocol):
    """A sparse model: a weight for each of the few terms that a text has."""

    async def embed(self, texts: Sequence[str], side: Side) -> list[SparseVector]:
        """One vector a text, finite. A text of which nothing counts (only stop words, to BM25) has an empty one, which is right.

        Raises:
            EmbeddingError: as a dense model's.
        """
        ...


class MultivectorEmbedder(Model, Protocol):
    """A late-interaction model: a vector for each token."""

    async def embed(self, texts: Sequence[str], side: Side) -> list[Multivector]:
        """One float32 array of shape (tokens, dimensions) a text, with at least one row, each finite and non-zero.

        Raises:
            EmbeddingError: as a dense model's.
        """
        ...


AnyEmbedder = Embedder | SparseEmbedder | MultivectorEmbedder


def is_dense(embedder: AnyEmbedder) -> TypeGuard[Embedder]:
    return embedder.spec.kind is ModelKind.DENSE


def is_sparse(embedder: AnyEmbedder) -> TypeGuard[SparseEmbedder]:
    return embedder.spec.kind is ModelKind.SPARSE


def is_multivector(embedder: AnyEmbedder) -> TypeGuard[MultivectorEmbedder]:
    return embedder.spec.kind is ModelKind.MULTIVECTOR
