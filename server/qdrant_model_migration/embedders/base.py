"""What does the rest of the project ask of a model? One Protocol; one file a provider implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.model import ModelSpec, Side

Dense = NDArray[np.float32]
"""Shape (n, dimensions), one row a text, in the order of the texts."""


class Usable(BaseModel):
    """One entry of the list of usable models."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    dimensions: int | None = None
    max_tokens: int | None = None
    size_bytes: int | None = None
    is_ready: bool
    """Loadable without a download."""
    note: str | None = None


class Embedder(Protocol):
    """A loaded model. Calls may be made from several tasks of one event loop at once."""

    @property
    def spec(self) -> ModelSpec:
        """The facts about the model, measured when it was loaded."""
        ...

    @property
    def batch_size(self) -> int:
        """How many texts a call should hold: enough for full speed, few enough that a failed call wastes little."""
        ...

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

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text before any truncation, with prefixes and special tokens; None when nobody can tell."""
        ...

    async def close(self) -> None:
        """Free the model."""
        ...
