"""Which pairs of real models can be mapped onto each other? Measured on Cranfield's titles, and computed again beside it.

Titles, because six models embed them in a minute. The whole abstracts give 0.94 for 256 -> 384 dimensions, 0.94 for int8 -> fp32, 0.93 for
1,152 -> 384, 0.61 for the model of two layers and 0.61 for the negative control: the floor of 0.90 divides the same pairs.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from qdrant_model_migration.domain.model import ModelSpec, Side
from qdrant_model_migration.domain.points import Point, untag
from qdrant_model_migration.domain.texts import TextSource
from qdrant_model_migration.embedders.base import Embedder
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.fitting import fit
from qdrant_model_migration.operations.shortening import measure_dimensions
from qdrant_model_migration.qdrant.gateway import Gateway
from tests.conftest import Backend, Cranfield
from tests.qdrant.seeds import opened
from tests.servers import QdrantServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Matrix = npt.NDArray[np.float32]
SIZES = {"minilm-256": 256, "minilm-int8": 384, "minilm-1152": 1152, "minilm-l2": 384, "exit": 384}
MAPPED = {"minilm-256": 0.92, "minilm-int8": 0.925}
"""Held-out recall@10, about, of pairs that share their weights with the new model."""
BETWEEN = {"minilm-1152": 0.91}
"""So near the floor that another processor's rounding may decide."""
HOPELESS = {"minilm-l2": 0.67, "exit": 0.67}
"""Two of six layers: another model, and the negative control of the assets."""


class Remembering:
    """A model that embeds each text once for the whole test."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.rows: dict[str, Matrix] = {}

    @property
    def spec(self) -> ModelSpec:
        return self._embedder.spec

    @property
    def batch_size(self) -> int:
        return self._embedder.batch_size

    async def embed(self, texts: Sequence[str], side: Side) -> Matrix:
        fresh = sorted({t for t in texts if t not in self.rows}, key=len)
        for start in range(0, len(fresh), self.batch_size):
            part = fresh[start : start + self.batch_size]
            self.rows.update(zip(part, await self._embedder.embed(part, side), strict=True))
        return np.stack([self.rows[t] for t in texts])

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        return await self._embedder.count_tokens(texts)

    async def close(self) -> None:
        await self._embedder.close()


@asynccontextmanager
async def seeded(
    backend: Backend, name: str, models: str, assets: Path, cranfield: Cranfield, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[OperationContext, Gateway]]:
    """The corpus with one field a model."""
    early_exit = {
        "path": str(assets / "models" / "minilm-l2-int8"),
        "output_name": "last_hidden_state",
        "pooling": "mean",
        "normalize": True,
        "dimensions": 384,
    }
    configured = json.dumps({**json.loads(models), "exit": early_exit})
    async with opened(backend, monkeypatch, QDRANT_MIGRATION_MODELS=configured) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": {m: {"size": size, "distance": "Cosine"} for m, size in SIZES.items()}})
        documents = [d for d in cranfield.documents if d.title.strip()]
        vectors = {m: await Remembering(await context.catalogue.load(m)).embed([d.title for d in documents], Side.DOCUMENT) for m in SIZES}
        points = [
            Point(id=d.id, payload={"title": d.title}, vectors={m: rows[i].tolist() for m, rows in vectors.items()})
            for i, d in enumerate(documents)
        ]
        for start in range(0, len(points), 100):
            await gateway.points.write(name, points[start : start + 100])
        yield context, gateway


def top(scores: npt.NDArray[np.float64], k: int = 10) -> list[set[int]]:
    np.fill_diagonal(scores, -9)
    return [set(np.argsort(-row)[:k].tolist()) for row in scores]


def shared(a: list[set[int]], b: list[set[int]], k: int = 10) -> float:
    return float(np.mean([len(x & y) / k for x, y in zip(a, b, strict=True)]))


def unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


async def test_pairs_of_real_models_are_mapped_or_refused_by_the_recall_they_reach(
    server_1_17: QdrantServer, name: str, assets: Path, asset_models: str, cranfield: Cranfield, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shares its weights with the new model passes; what does not is refused with the number, which the test computes as well."""
    backend = Backend(name="", environment=server_1_17.environment, version="1.17.0")
    async with seeded(backend, name, asset_models, assets, cranfield, monkeypatch) as (context, gateway):
        source = await gateway.describe(name)
        new = Remembering(await context.catalogue.load("minilm"))
        text = TextSource("title")

        def text_of(point: Point) -> str | None:
            return text.extract(point.payload)

        for model, expected in {**MAPPED, **BETWEEN, **HOPELESS}.items():
            found, report, held_out = await fit(gateway, source, model, text_of, new, floor=0.0)
            assert report.recall == pytest.approx(expected, abs=0.03)
            ids = [untag(one) for one in held_out]
            held = await gateway.points.retrieve(name, ids, vectors=[model])
            exact = unit(np.array([new.rows[text_of(held[i]) or ""] for i in ids], dtype=float))
            mapped = unit(np.array([held[i].vectors[model] for i in ids]) @ found.matrix.astype(float) + found.offset)
            assert report.recall == pytest.approx(shared(top(exact @ exact.T), top(exact @ mapped.T)), abs=0.01)
            assert report.held_out == len(ids) == round(report.pairs * 0.2)
            if model in MAPPED:
                again, same, _ = await fit(gateway, source, model, text_of, new)
                assert again.digest == found.digest
                assert same.is_acceptable
            elif model in HOPELESS:
                with pytest.raises(Refused, match=f"is {report.recall:.3f} .*{report.ci_low:.3f} to {report.ci_high:.3f}"):
                    await fit(gateway, source, model, text_of, new)

        field = source.field("minilm-1152")
        assert field is not None
        measured = await measure_dimensions(gateway, source, field, sample=source.points)
        points, _ = await gateway.points.scroll(name, offset=None, limit=2_000, payload=False, vectors=["minilm-1152"])
        rows = unit(np.array([p.vectors["minilm-1152"] for p in points]))
        whole = top(rows @ rows.T)
        for quality in measured:
            cut = unit(rows[:, : quality.dimensions])
            assert quality.recall_at_k == pytest.approx(shared(whole, top(cut @ cut.T)), abs=0.01)
            assert quality.ci_low < quality.recall_at_k < quality.ci_high
