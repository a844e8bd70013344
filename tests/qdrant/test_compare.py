"""Do comparisons on real collections agree with metrics computed beside them, and refuse what they cannot know?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelSpec, Side
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.recipe import Endpoint, Gate, Recipe
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import Interrupted, ModelNotUsable, NotFound, Refused
from qdrant_model_migration.operations.compare import compare_migration
from qdrant_model_migration.operations.compare_sample import compare_on_sample
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.scratch import ranked
from qdrant_model_migration.results import Comparison, Progress, SourceMatch
from tests.conftest import Backend, Cranfield

# The client warns once a process that the embedded database searches exactly anyway.
pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")

OLD, NEW = "builtin:hashing-64-words", "builtin:hashing-512"
MODELS = {OLD: 64, NEW: 512}
TEXT = "{title}\n{body}"

WORDS = [
    "wing",
    "flutter",
    "nozzle",
    "shock",
    "boundary",
    "layer",
    "heat",
    "transfer",
    "plate",
    "cone",
    "cylinder",
    "vortex",
    "jet",
    "wake",
    "panel",
    "buckling",
    "shell",
    "mach",
    "supersonic",
    "laminar",
]


def corpus(size: int = 240) -> list[dict[str, str]]:
    """Made-up documents that share words, so that a small hash confuses what a large one tells apart."""
    random = np.random.default_rng(0)
    return [
        {
            "title": f"{WORDS[i % 20]} {WORDS[(i * 7) % 20]} study number{i}",
            "body": " ".join([*random.choice(WORDS, 25), f"token{i}", f"mark{i * 31}", *random.choice(WORDS, 25)]),
        }
        for i in range(size)
    ]


@asynccontextmanager
async def opened(backend: Backend, monkeypatch: pytest.MonkeyPatch, **more: str) -> AsyncIterator[OperationContext]:
    for variable, value in {**backend.environment, **more}.items():
        monkeypatch.setenv(variable, value)
    async with OperationContext(read_settings()) as context:
        yield context


async def filled(context: OperationContext, name: str, model: str, payloads: list[dict[str, str]], *, field: str = "") -> ModelSpec:
    """A collection of the payloads, embedded with the model; ids count from 1."""
    embedder = await context.catalogue.load(model)
    gateway = await context.gateway()
    params = {"size": embedder.spec.dimensions, "distance": "Cosine"}
    await gateway.create_collection(name, {"vectors": {field: params} if field else params})
    vectors = await embedder.embed([f"{p['title']}\n{p['body']}" for p in payloads], Side.DOCUMENT)
    points = [
        Point(id=i, payload=dict(p), vectors={field: v.tolist()}) for i, (p, v) in enumerate(zip(payloads, vectors, strict=True), start=1)
    ]
    for start in range(0, len(points), 100):
        await gateway.points.write(name, points[start : start + 100])
    return embedder.spec


def matched(model: str, is_match: bool = True) -> SourceMatch:
    cosine = 1.0 if is_match else 0.31
    return SourceMatch(
        model=model,
        text_field=TEXT,
        sampled=32,
        min_cosine=cosine,
        mean_cosine=cosine,
        threshold=0.98,
        is_match=is_match,
        likely_causes=["another prefix"],
    )


def migration_of(name: str, new: ModelSpec, old: str | None = OLD, match: SourceMatch | None = None, gate: Gate | None = None) -> Migration:
    return Migration(
        id="m-1",
        arguments_digest="",
        created_at="",
        phase=Phase.BACKFILLED,
        strategy="new_collection",
        source=Endpoint(collection=f"{name}_old"),
        target=Endpoint(collection=f"{name}_new"),
        recipes=(Recipe(field="dense", kind="embed", source_field=""),),
        model=new,
        current_model=old,
        source_match=match,
        text_field=TEXT,
        gate=gate,
        create={},
        restore={},
    )


def judged_queries(payloads: list[dict[str, str]], count: int = 60) -> list[dict[str, Any]]:
    return [
        {"text": " ".join(payloads[i]["body"].split()[20:32]), "relevant_ids": {f"i:{i + 1}": 2, f"i:{(i + 1) % len(payloads) + 1}": 1}}
        for i in range(0, count * 3, 3)
    ]


async def expected(context: OperationContext, model: str, payloads: list[dict[str, str]], queries: list[dict[str, Any]]) -> list[float]:
    """nDCG@10, recall@10 and MRR@10 by float64 products over all documents and the library."""
    embedder = await context.catalogue.load(model)
    docs = (await embedder.embed([f"{p['title']}\n{p['body']}" for p in payloads], Side.DOCUMENT)).astype(np.float64)
    asked = (await embedder.embed([str(q["text"]) for q in queries], Side.QUERY)).astype(np.float64)
    run = [ScoredDoc(str(i), f"i:{j + 1}", float(s)) for i, row in enumerate(asked @ docs.T) for j, s in enumerate(row)]
    qrels = [Qrel(str(i), d, g) for i, q in enumerate(queries) for d, g in q["relevant_ids"].items()]
    found = ir_measures.calc_aggregate([nDCG @ 10, R @ 10, RR @ 10], qrels, run)
    return [found[m] for m in (nDCG @ 10, R @ 10, RR @ 10)]


def values(comparison: Comparison, model: str) -> list[float]:
    """nDCG, recall and reciprocal rank."""
    return [m.value for m in comparison.metrics if m.model == model and not m.metric.startswith("overlap")]


async def test_migration_is_compared_and_agrees_with_metrics_computed_beside_it(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = corpus()
    async with opened(any_qdrant, monkeypatch) as context:
        await filled(context, f"{name}_old", OLD, payloads)
        spec = await filled(context, f"{name}_new", NEW, payloads, field="dense")
        queries = judged_queries(payloads)
        reports: list[Progress] = []

        async def progress(report: Progress) -> None:
            reports.append(report)

        gate = Gate(metric="recall@10", margin=0.05)
        migration = migration_of(name, spec, match=matched(OLD), gate=gate)
        found = await compare_migration(context, migration, queries=queries, progress=progress)
        for model in MODELS:
            assert values(found, model) == pytest.approx(await expected(context, model, payloads, queries), abs=1e-6)
        assert (found.verdict, found.is_judged, found.gate, found.queries, found.documents) == ("better", True, "pass", 60, 240)
        assert {latency.model for latency in found.latency_ms} == set(MODELS)
        assert all(0 < latency.p50 <= latency.p95 for latency in found.latency_ms)
        assert all(share > 0.99 for share in found.index_recall.values())
        assert 0 < len(found.most_changed) <= 5
        first = found.most_changed[0].candidate[0]
        assert (first.text[0], first.text[-1]) == ("«", "»")
        assert first.is_relevant is not None
        assert {"timing the indexes", f"embedding queries with {OLD}"} <= {r.stage for r in reports}
        assert any("embedded database has no index" in note for note in found.notes) == any_qdrant.is_embedded
        assert Comparison.model_validate(found.model_dump(mode="json")) == found

        generated = await compare_migration(context, migration, seed=3)
        assert (generated.is_judged, generated.primary_metric, generated.queries) == (False, "mrr@10", 200)
        assert "generated" in generated.query_source
        unjudged = await compare_migration(context, migration, queries=["wing flutter", "heat transfer plate"], k=5)
        assert (unjudged.verdict, unjudged.primary_metric, unjudged.gate) == ("inconclusive", "overlap@5", "fail")
        (shared,) = unjudged.metrics
        assert (shared.metric, shared.model, shared.value, shared.difference) == ("overlap@5", NEW, unjudged.overlap_at_k, None)
        assert shared.ci_low is not None
        assert shared.ci_high is not None
        assert 0 <= shared.ci_low <= shared.value <= shared.ci_high < 1


async def test_comparison_with_an_unknown_old_model_is_refused_with_the_next_step(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "q")}, version=None)
    async with opened(backend, monkeypatch) as context:
        spec = ModelSpec(name=NEW, dimensions=512)
        for old, match, message in (
            (None, None, "without current_model"),
            (OLD, None, "never tested"),
            (OLD, matched(OLD, is_match=False), "mean cosine 0.3100 over 32 texts, 0.98 needed.*another prefix"),
        ):
            for queries in (None, [{"text": "a", "relevant_ids": [1]}]):
                with pytest.raises(Refused, match=message) as caught:
                    await compare_migration(context, migration_of(name, spec, old, match), queries=queries)
                assert "compare_models(collection=" in str(caught.value)
        with pytest.raises(Refused, match="k is 0"):
            await compare_migration(context, migration_of(name, spec, match=matched(OLD)), k=0)


async def test_changed_model_files_and_lost_points_are_not_passed_over(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "q")}, version=None)
    payloads = corpus(40)
    async with opened(backend, monkeypatch) as context:
        await filled(context, f"{name}_old", OLD, payloads)
        spec = await filled(context, f"{name}_new", NEW, payloads[:30], field="dense")
        other = migration_of(name, spec.model_copy(update={"fingerprint": "0" * 16}), match=matched(OLD))
        with pytest.raises(ModelNotUsable, match="not the one that migration m-1 was planned with"):
            await compare_migration(context, other)
        found = await compare_migration(context, migration_of(name, spec, match=matched(OLD)))
        assert any(f"'{name}_old' holds 40 points and '{name}_new' 30" in note for note in found.notes)


async def test_sample_is_compared_without_touching_the_server(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = corpus()
    async with opened(any_qdrant, monkeypatch) as context:
        await filled(context, f"{name}_docs", OLD, payloads)
        gateway = await context.gateway()
        await gateway.point_alias(f"{name}_alias", f"{name}_docs")
        before = await gateway.collections()
        queries = judged_queries(payloads)
        models = [OLD, NEW, "builtin:hashing-256"]
        found = await compare_on_sample(
            context, collection=f"{name}_alias", models=models, text_field=TEXT, queries=queries, sample_size=240
        )
        for model in (OLD, NEW):
            assert values(found, model) == pytest.approx(await expected(context, model, payloads, queries), abs=1e-6)
        assert (found.verdict, found.documents, found.baseline, found.candidates) == ("better", 240, OLD, models[1:])
        assert any("documents/s" in note and "2,048 bytes a vector" in note for note in found.notes)
        small = await compare_on_sample(context, collection=f"{name}_docs", models=[OLD, OLD], text_field=TEXT, sample_size=100)
        assert (small.verdict, small.documents, small.candidates) == ("equivalent", 100, [f"{OLD} (#2)"])
        assert any("Measured on 100 of 240 points" in note for note in small.notes)
        judged_only = await compare_on_sample(context, collection=f"{name}_docs", models=[OLD, NEW], queries=queries, sample_size=1)
        relevant = {str(d) for q in queries for d in q["relevant_ids"]}
        assert judged_only.documents == len(relevant)
        assert any("The texts are those of 'body'" in note for note in judged_only.notes)
        assert await gateway.collections() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": [OLD]}, "give 2 to 6"),
        ({"models": [OLD] * 7}, "give 2 to 6"),
        ({"sample_size": 0}, "sample_size is 0"),
        ({"sample_size": 20_001}, "sample_size is 20001"),
        ({"k": 0}, "k is 0"),
        ({"text_field": "nope"}, "has a text in 'nope'"),
        ({"gate": Gate(metric="precision", margin=0.1)}, "Gate metric 'precision'"),
        ({"queries": [{"text": "a", "relevant_ids": ["i:999"]}]}, "none of the 1 judged ids"),
        ({"queries_file": "q.jsonl"}, "no directory is allowed"),
    ],
)
async def test_bad_arguments_of_a_sample_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "q")}, version=None)
    async with opened(backend, monkeypatch) as context:
        await filled(context, "docs", OLD, corpus(20))
        arguments: dict[str, Any] = {"collection": "docs", "models": [OLD, NEW], "text_field": TEXT, **change}
        with pytest.raises(Refused, match=message):
            await compare_on_sample(context, **arguments)


async def test_unknown_empty_and_forbidden_collections_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "q")}, version=None)
    async with opened(backend, monkeypatch, QDRANT_MIGRATION_ALLOWED_COLLECTIONS="docs,empty,gone,plain*") as context:
        gateway = await context.gateway()
        for collection in ("empty", "secret", "plain"):
            await gateway.create_collection(collection, {"vectors": {}})
        await gateway.points.write("plain", [Point(id=1, payload={"n": 1})])
        compare = partial(compare_on_sample, context, models=[OLD, NEW])
        with pytest.raises(NotFound, match="no collection or alias 'gone'"):
            await compare(collection="gone")
        with pytest.raises(Refused, match="is empty"):
            await compare(collection="empty")
        with pytest.raises(Refused, match="ALLOWED_COLLECTIONS"):
            await compare(collection="secret")
        with pytest.raises(Refused, match="no payload field of 'plain' holds texts"):
            await compare(collection="plain")


async def test_comparison_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "q")}, version=None)
    async with opened(backend, monkeypatch) as context:
        await filled(context, "docs", OLD, corpus(200))
        with anyio.fail_after(20), anyio.CancelScope() as scope:

            async def stop(report: Progress) -> None:
                scope.cancel()

            await compare_on_sample(context, collection="docs", models=[OLD, NEW], text_field=TEXT, progress=stop)
        assert scope.cancelled_caught


async def test_driver_that_is_stopped_while_searching_gets_its_own_error_back(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not wrapped in a group: the driver tells its interruption from a failure by its class."""
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "q")}, version=None)
    payloads = corpus(40)
    async with opened(backend, monkeypatch) as context:
        await filled(context, f"{name}_old", OLD, payloads)
        spec = await filled(context, f"{name}_new", NEW, payloads, field="dense")

        async def stop(report: Progress) -> None:
            if report.stage.startswith("searching"):
                raise Interrupted("asked to stop")

        with pytest.raises(Interrupted):
            await compare_migration(context, migration_of(name, spec, match=matched(OLD)), progress=stop)


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid", "Manhattan"])
async def test_scratch_ranking_is_exact(distance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of any size give what a plain sort of all distances gives."""
    monkeypatch.setattr("qdrant_model_migration.operations.scratch._BLOCK_CELLS", 900)
    random = np.random.default_rng(0)
    docs, queries = random.normal(size=(300, 12)).astype(np.float32), random.normal(size=(17, 12)).astype(np.float32)
    found, ties = await ranked(docs, queries, distance, 10)
    a, b = queries[:, None, :].astype(np.float64), docs[None].astype(np.float64)
    far = {
        "Cosine": -(a * b).sum(-1) / np.linalg.norm(b, axis=-1),
        "Dot": -(a * b).sum(-1),
        "Euclid": np.square(a - b).sum(-1),
        "Manhattan": np.abs(a - b).sum(-1),
    }[distance]
    assert np.array_equal(found, np.argsort(far, axis=1)[:, :10])
    assert ties == 0
    doubled, ties = await ranked(np.vstack([docs[:5], docs[:5]]), queries, distance, 50)
    assert doubled.shape == (17, 10)
    assert ties == 17


async def test_cranfield_calls_the_full_model_better_and_judgements_outside_are_noted(
    tmp_path: Path, name: str, cranfield: Cranfield, asset_models: str, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 225 questions against the beginnings of 450 abstracts, judged by the files as they are; the two-layer model is the old one."""
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "q")}, version=None)
    folder = str(assets / "datasets" / "cranfield")
    async with opened(backend, monkeypatch, QDRANT_MIGRATION_MODELS=asset_models, QDRANT_MIGRATION_ALLOWED_DIRECTORIES=folder) as context:
        gateway = await context.gateway()
        await gateway.create_collection("docs", {"vectors": {}})
        payloads = [{"id": str(d.id), "title": d.title, "body": " ".join(d.body.split()[:30])} for d in cranfield.documents[:450]]
        await gateway.points.write("docs", [Point(id=int(p["id"]), payload=dict(p)) for p in payloads])
        found = await compare_on_sample(
            context,
            collection="docs",
            models=["minilm-l2", "minilm"],
            text_field=TEXT,
            queries_file="queries.jsonl",
            qrels_file="qrels.tsv",
            sample_size=450,
        )
    assert (found.verdict, found.is_judged, found.queries) == ("better", True, 225)
    assert any("judged ids are not in 'docs'" in note for note in found.notes)
    assert any("have no relevant document" in note for note in found.notes)
