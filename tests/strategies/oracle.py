"""What should the vectors be? FastEmbed itself, numpy and the server's own BM25, none of it through the code under test."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]

# Name in QDRANT_MIGRATION_MODELS -> (the name that the assets' own helper registers, its folder).
_DENSE = {
    "minilm": ("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
    "minilm-int8": ("local/all-MiniLM-L6-v2-int8", "all-MiniLM-L6-v2-int8"),
    "minilm-l2": ("local/minilm-l2-int8", "minilm-l2-int8"),
    "minilm-256": ("local/minilm-256-int8", "minilm-multihead-int8"),
    "minilm-1152": ("local/minilm-wide1152-int8", "minilm-multihead-int8"),
}


class Oracle:
    """Models run by FastEmbed directly; every text is embedded once for the whole run."""

    def __init__(self, assets: Path) -> None:
        self._models = assets / "models"
        self._tools = str(assets / "tools")
        self._known: dict[tuple[str, str], Any] = {}
        self._loaded = cache(self._load)

    def _load(self, model: str) -> Any:
        if self._tools not in sys.path:
            sys.path.append(self._tools)
        from fastembed import LateInteractionTextEmbedding, SparseTextEmbedding, TextEmbedding

        import_module("offline_models").register_custom()
        if model == "bm25":
            return SparseTextEmbedding("Qdrant/bm25", specific_model_path=str(self._models / "bm25"))
        if model == "colbert":
            name = "answerdotai/answerai-colbert-small-v1"
            return LateInteractionTextEmbedding(name, specific_model_path=str(self._models / "colbert-l2-int8"), threads=2)
        name, folder = _DENSE[model]
        return TextEmbedding(name, specific_model_path=str(self._models / folder), threads=2)

    def _all(self, model: str, texts: list[str], *, is_query: bool = False) -> list[Any]:
        kind = f"{model} query" if is_query else model
        new = sorted({t for t in texts if (kind, t) not in self._known}, key=len)
        if new:
            loaded = self._loaded(model)
            rows = loaded.query_embed(new) if is_query else loaded.embed(new, batch_size=32)
            self._known |= {(kind, text): row for text, row in zip(new, rows, strict=True)}
        return [self._known[kind, t] for t in texts]

    def dense(self, model: str, texts: list[str]) -> Matrix:
        """One row a text. The int8 models answer a little differently in every batch."""
        return np.stack([np.asarray(row, dtype=np.float32) for row in self._all(model, texts)])

    def tokens(self, texts: list[str], *, is_query: bool = False) -> list[Matrix]:
        """Late interaction: one row a token."""
        return [np.asarray(row, dtype=np.float32) for row in self._all("colbert", texts, is_query=is_query)]

    def sparse(self, texts: list[str], *, is_query: bool = False) -> list[dict[str, list[Any]]]:
        """BM25 by FastEmbed."""
        return [
            {"indices": [int(i) for i in row.indices], "values": [float(v) for v in row.values]}
            for row in self._all("bm25", texts, is_query=is_query)
        ]


def cosines(left: Matrix, right: Matrix) -> npt.NDArray[np.float64]:
    """Of the rows, pair by pair."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    found: npt.NDArray[np.float64] = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return found
