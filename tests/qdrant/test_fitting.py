"""Are samples drawn whole and evenly, maps fitted to what a collection holds, and cut vectors judged, without a write?"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.derived import same_derived
from qdrant_model_migration.domain.model import ModelSpec, Side
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.texts import TextSource
from qdrant_model_migration.embedders.base import Embedder
from qdrant_model_migration.errors import BadText, Interrupted, Refused
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.deriving import Deriver
from qdrant_model_migration.operations.drawing import drawn_points
from qdrant_model_migration.operations.fitting import fit
from qdrant_model_migration.operations.shortening import measure_dimensions
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import Progress
from tests.conftest import Backend
from tests.qdrant.seeds import opened, text
from tests.servers import QdrantServer

Matrix = npt.NDArray[np.float32]
NEW = "builtin:hashing-64"
POINTS = 460
OLD_SIZE = 80


def text_of(point: Point) -> str | None:
    return TextSource("text").extract(point.payload)


def turned(new: Matrix) -> Matrix:
    """The new model's vectors by another model whose space is a rotation of theirs."""
    drawn = np.random.default_rng(7).normal(size=(OLD_SIZE, new.shape[1]))
    found: Matrix = (new @ np.linalg.qr(drawn)[0].T).astype(np.float32)
    return found


@asynccontextmanager
async def collection_of(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch, *, points: int = POINTS, distance: str = "Cosine"
) -> AsyncIterator[tuple[OperationContext, Gateway, Embedder]]:
    """Fields 'old' (a rotation of the new model's vectors) and 'noise'; six points that cannot be used."""
    async with opened(backend, monkeypatch) as context:
        gateway, embedder = await context.gateway(), await context.catalogue.load(NEW)
        field = {"size": OLD_SIZE, "distance": distance}
        await gateway.create_collection(name, {"vectors": {"old": field, "noise": field}})
        old = turned(await embedder.embed([text(n) for n in range(points)], Side.DOCUMENT))
        noise = np.random.default_rng(8).normal(size=old.shape)
        rows = [Point(id=n, payload={"text": text(n)}, vectors={"old": old[n].tolist(), "noise": noise[n].tolist()}) for n in range(points)]
        some = old[0].tolist()
        rows += [
            Point(id=points, payload={"text": "zero"}, vectors={"old": [0.0] * OLD_SIZE, "noise": some}),
            Point(id=points + 1, payload={"text": "without"}, vectors={"noise": some}),
            Point(id=points + 2, payload={"text": " "}, vectors={"old": some, "noise": some}),
            Point(id=points + 3, payload={}, vectors={"old": some, "noise": some}),
            Point(id=points + 4, payload={"text": text(3)}, vectors={"old": some, "noise": some}),
            Point(id=points + 5, payload={"text": "poison"}, vectors={"old": some, "noise": some}),
        ]
        for start in range(0, len(rows), 250):
            await gateway.points.write(name, rows[start : start + 250])
        yield context, gateway, Poisoned(embedder)


class Poisoned:
    """A model that refuses one text."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def spec(self) -> ModelSpec:
        return self._embedder.spec

    @property
    def batch_size(self) -> int:
        return self._embedder.batch_size

    async def embed(self, texts: Sequence[str], side: Side) -> Matrix:
        if "poison" in texts:
            raise BadText("poison")
        return await self._embedder.embed(texts, side)

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        return await self._embedder.count_tokens(texts)

    async def close(self) -> None:
        await self._embedder.close()


async def test_a_map_is_fitted_to_stored_vectors_and_derives_what_the_model_would_make(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collection_of(any_qdrant, name, monkeypatch) as (_, gateway, embedder):
        source = await gateway.describe(name)
        stages: list[Progress] = []

        async def report_progress(progress: Progress) -> None:
            stages.append(progress)

        found, report, held_out = await fit(gateway, source, "old", text_of, embedder, progress=report_progress)
        assert report.left_out == {
            "stored vector: a zero vector": 1,
            "stored vector: no vector": 1,
            "no text": 2,
            "text of another sampled point": 1,
            "text refused by the model": 1,
        }
        assert (report.pairs, report.held_out, report.dimensions) == (POINTS, 200, (OLD_SIZE, 64))
        assert report.recall > 0.99
        assert found.normalizes
        assert len(set(held_out)) == 200
        # In the same words: the map's vectors are those the model makes.
        ids = [int(one[2:]) for one in held_out]
        stored = await gateway.points.retrieve(name, ids, vectors=["old"])
        derived = Deriver.linear_map(found).derive([stored[i].vectors["old"] for i in ids])
        exact = (await embedder.embed([text_of(stored[i]) or "" for i in ids], Side.DOCUMENT)).tolist()
        assert np.abs(np.array(derived) - np.array(exact)).max() < 0.02
        assert [stages[0].stage, stages[-1].stage] == ["drawing a sample", "fitting the linear map"]
        again = await fit(gateway, source, "old", text_of, embedder)
        assert (again[1], again[2]) == (report, held_out)
        assert (await fit(gateway, source, "old", text_of, embedder, seed=1))[2] != held_out


async def test_vectors_that_have_nothing_to_do_with_it_are_refused_with_the_recall(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collection_of(any_qdrant, name, monkeypatch) as (_, gateway, embedder):
        source = await gateway.describe(name)
        with pytest.raises(
            Refused, match=r"Nothing was written.*Recall@10 .* is 0\.\d{3} .*interval.*200 held-out.*466 points.*new_collection"
        ):
            await fit(gateway, source, "noise", text_of, embedder)
        _, report, _ = await fit(gateway, source, "noise", text_of, embedder, floor=0.0)
        assert 0 < report.recall < 0.6


async def test_too_few_usable_points_are_refused_before_anything_is_embedded(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collection_of(any_qdrant, name, monkeypatch, points=300) as (_, gateway, embedder):
        source = await gateway.describe(name)

        async def never(*arguments: Any) -> Matrix:
            raise AssertionError("nothing was to be embedded")

        monkeypatch.setattr(embedder, "embed", never)
        with pytest.raises(Refused, match=r"301 of 306 sampled points .* and 400 are needed\. Left out: no text: 2"):
            await fit(gateway, source, "old", text_of, embedder)
        with pytest.raises(Refused, match="sample_size is 30,000; it must be from 400 to 20,000"):
            await fit(gateway, source, "old", text_of, embedder, sample_size=30_000)
        with pytest.raises(Interrupted, match="Nothing was written"):
            await fit(gateway, source, "old", text_of, embedder, should_stop=lambda: True)


@pytest.mark.parametrize("how", ["by ids", "by the server"])
async def test_a_sample_holds_different_points_of_all_parts_of_the_collection(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "by the server":
        monkeypatch.setattr("qdrant_model_migration.operations.drawing.SCANNED", 0)
        monkeypatch.setattr("qdrant_model_migration.operations.drawing.TIMES", 1)
    async with collection_of(any_qdrant, name, monkeypatch) as (_, gateway, _):
        source = await gateway.describe(name)
        drawn = [p async for page in drawn_points(gateway, source, 440, vectors=["old"]) for p in page]
        assert len({p.id for p in drawn}) == len(drawn) == 440
        assert all(p.payload for p in drawn if p.id != POINTS + 3)
        assert all(p.vectors.get("old") for p in drawn if p.id not in {POINTS, POINTS + 1})
        few = [int(p.id) async for page in drawn_points(gateway, source, 60) for p in page]
        quarters = Counter(i * 4 // (POINTS + 6) for i in few)
        assert len(few) == 60
        assert all(quarters[q] >= 3 for q in range(4))
        everything = [p.id async for page in drawn_points(gateway, source, 5_000, vectors=["old"]) for p in page]
        assert sorted(everything) == list(range(POINTS + 6))


async def test_where_the_server_cannot_draw_all_ids_are_read(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection without vectors has nothing to be drawn by."""
    monkeypatch.setattr("qdrant_model_migration.operations.drawing.SCANNED", 0)
    monkeypatch.setattr("qdrant_model_migration.operations.drawing.TIMES", 1)
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": {}})
        await gateway.points.write(name, [Point(id=n, payload={"n": n}) for n in range(300)])
        source = await gateway.describe(name)
        drawn = [p.id async for page in drawn_points(gateway, source, 100) for p in page]
        assert len(set(drawn)) == len(drawn) == 100


async def test_a_strict_mode_that_limits_reads_is_kept_to(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(name="", environment=server.environment, version=server.version)
    async with collection_of(backend, name, monkeypatch) as (_, gateway, _):
        await gateway.update(name, {"strict_mode": {"enabled": True, "max_query_limit": 7}})
        source = await gateway.describe(name)
        for scanned in (0, 50_000):
            monkeypatch.setattr("qdrant_model_migration.operations.drawing.SCANNED", scanned)
            pages = [page async for page in drawn_points(gateway, source, 100, vectors=["old"])]
            assert sum(len(page) for page in pages) == 100
            assert max(len(page) for page in pages) <= 7


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid", "Manhattan"])
async def test_derived_vectors_are_recognised_after_qdrant_stored_them(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, distance: str
) -> None:
    """In every datatype that can keep them; and a neighbour's vector is not taken for one's own."""
    async with collection_of(any_qdrant, name, monkeypatch, points=40, distance=distance) as (_, gateway, _):
        points, _ = await gateway.points.scroll(name, offset=None, limit=40, vectors=["noise"])
        deriver = Deriver.truncate(OLD_SIZE, 24)
        derived = deriver.derive([p.vectors["noise"] for p in points])
        fields = {kind: {"size": 24, "distance": distance, "datatype": kind} for kind in ("float32", "float16")}
        await gateway.create_collection(f"{name}-cut", {"vectors": fields})
        await gateway.points.write(
            f"{name}-cut", [Point(id=p.id, payload={}, vectors=dict.fromkeys(fields, v)) for p, v in zip(points, derived, strict=True)]
        )
        stored, _ = await gateway.points.scroll(f"{name}-cut", offset=None, limit=40, vectors=list(fields))
        for kind in fields:
            kept = [p.vectors[kind] for p in stored]
            assert all(same_derived(kept, derived, distance=distance, datatype=kind))
            assert not any(same_derived(kept[1:] + kept[:1], derived, distance=distance, datatype=kind))


async def test_the_quality_of_cut_vectors_is_that_of_the_stored_ones(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collection_of(any_qdrant, name, monkeypatch) as (_, gateway, _):
        source = await gateway.describe(name)
        field = source.field("noise")
        assert field is not None
        measured = await measure_dimensions(gateway, source, field, sample=POINTS + 6)
        assert [q.dimensions for q in measured] == [64]
        points, _ = await gateway.points.scroll(name, offset=None, limit=1_000, vectors=["noise"])
        rows = np.array([p.vectors["noise"] for p in points])
        assert measured[0].sample == len(rows) == POINTS + 6
        assert measured[0].recall_at_k == pytest.approx(recall_by_hand(rows, 64), abs=0.003)
        assert measured[0].ci_low < measured[0].recall_at_k < measured[0].ci_high
        # The time is up at once: one page was read.
        ticks = iter(range(0, 100, 10))
        hurried = await measure_dimensions(gateway, source, field, sample=POINTS + 6, clock=lambda: next(ticks))
        assert hurried[0].sample < POINTS
        tiny = Collection(**{**source.model_dump(), "points": 0})
        assert await measure_dimensions(gateway, tiny, field.model_copy(update={"datatype": "uint8"})) == []


def recall_by_hand(rows: npt.NDArray[np.float64], size: int, k: int = 10) -> float:
    """Cosine, every row as a query."""

    def order(values: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
        values = values / np.linalg.norm(values, axis=1, keepdims=True)
        scores = values @ values.T
        np.fill_diagonal(scores, -2)
        return np.argsort(-scores, axis=1)[:, :k]

    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(order(rows), order(rows[:, :size]), strict=True)]))
