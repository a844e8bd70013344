"""Do comparisons of every strategy ask the right fields, and agree with rankings that are made beside them?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ir_measures
import numpy as np
import numpy.typing as npt
import pytest
from ir_measures import Qrel, ScoredDoc, nDCG

from qdrant_model_migration.domain.collection import FieldKind
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelSpec, Side
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.recipe import Endpoint, Filled, Recipe
from qdrant_model_migration.embedders.base import AnyEmbedder, is_multivector
from qdrant_model_migration.embedders.server_side import is_server_side
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.compare import compare_migration
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.results import Comparison, SourceMatch
from tests.conftest import Backend, Cranfield
from tests.qdrant.test_compare import TEXT, corpus, judged_queries, matched, opened
from tests.servers import QdrantServer
from tests.servers import request as rest

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")

OLD = "builtin:hashing-256"
Rows = npt.NDArray[np.float64]


def texts(payloads: Sequence[dict[str, str]]) -> list[str]:
    return [f"{p['title']}\n{p['body']}" for p in payloads]


async def dense_rows(context: OperationContext, model: str, documents: Sequence[str], queries: Sequence[str]) -> tuple[Rows, Rows]:
    """Unit vectors of documents and queries, in double precision."""
    embedder = await context.catalogue.load(model)
    found = [
        np.asarray(await embedder.embed(part, side), dtype=np.float64) for part, side in ((documents, Side.DOCUMENT), (queries, Side.QUERY))
    ]
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in found)
    return one, other


async def documents_of(embedder: AnyEmbedder, documents: Sequence[str]) -> list[Any]:
    """A vector of each as it is written; texts of one length together, which saves most of the time."""
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
    made: dict[int, Any] = {}
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        rows = await embedder.embed([documents[i] for i in part], Side.DOCUMENT)
        made |= {i: v.tolist() if isinstance(v, np.ndarray) else dict(v) for i, v in zip(part, rows, strict=True)}
    return [made[i] for i in range(len(documents))]


async def seeded(context: OperationContext, name: str, payloads: Sequence[dict[str, str]], fields: dict[str, str]) -> dict[str, ModelSpec]:
    """A collection with a field for each model, of whichever kind, as a finished backfill leaves it; ids count from 1."""
    gateway = await context.gateway()
    vectors: dict[str, Any] = {}
    sparse: dict[str, Any] = {}
    values: list[dict[str, Any]] = [{} for _ in payloads]
    specs: dict[str, ModelSpec] = {}
    for field, model in fields.items():
        embedder = await context.any_model(model)
        spec = specs[field] = embedder.spec
        made: list[Any]
        if is_server_side(embedder):
            made = [embedder.placeholder(t) for t in texts(payloads)]
        else:
            made = await documents_of(embedder, texts(payloads))
        if spec.kind.value == "sparse":
            sparse[field] = {"modifier": "idf"}
        else:
            more = {"multivector_config": {"comparator": "max_sim"}, "hnsw_config": {"m": 0}} if spec.kind.value == "multivector" else {}
            vectors[field] = {"size": spec.dimensions, "distance": "Cosine", **more}
        for value, vector in zip(values, made, strict=True):
            value[field] = vector
    await gateway.create_collection(name, {"vectors": vectors, **({"sparse_vectors": sparse} if sparse else {})})
    points = [Point(id=i, payload=dict(p), vectors=v) for i, (p, v) in enumerate(zip(payloads, values, strict=True), start=1)]
    for start in range(0, len(points), 100):
        await gateway.points.write(name, points[start : start + 100])
    return specs


def migration_of(name: str, made: Recipe, model: ModelSpec, *, source: str | None = None, **more: Any) -> Migration:
    old = more.pop("old", OLD)
    match: SourceMatch = matched(old)
    fields: dict[str, Any] = {"phase": Phase.BACKFILLED, "dense_field": "", "text_field": TEXT, **more}
    return Migration(
        id="m-1",
        arguments_digest="",
        created_at="",
        strategy="any",
        source=Endpoint(collection=source or name),
        target=Endpoint(collection=name),
        recipes=(made, Recipe(field="", kind="copy", source_field="")),
        model=model,
        current_model=old,
        source_match=match,
        placement="in_place" if source is None else "new_collection",
        **fields,
    )


def ndcg(rankings: Sequence[Sequence[int]], queries: Sequence[dict[str, Any]]) -> float:
    run = [ScoredDoc(str(i), f"i:{d}", float(-rank)) for i, ranking in enumerate(rankings) for rank, d in enumerate(ranking)]
    qrels = [Qrel(str(i), d, g) for i, q in enumerate(queries) for d, g in q["relevant_ids"].items()]
    return float(ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10])


def measured(found: Comparison, metric: str) -> dict[str, float]:
    return {m.model: m.value for m in found.metrics if m.metric == metric}


def top(scores: Rows, count: int) -> list[list[int]]:
    """Ids of the best documents of each query."""
    return [[int(j) + 1 for j in np.argsort(-row, kind="stable")[:count]] for row in scores]


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_fused_hits_have_the_scores_of_reciprocal_ranks(
    any_qdrant: Backend, transport: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And reranked ones those of the best matching tokens, among the hits of the prefetch only."""
    random = np.random.default_rng(0)
    dense, tokens = random.normal(size=(60, 8)), random.normal(size=(60, 3, 4))
    weights = random.uniform(0.5, 2.0, size=(60, 2))
    async with opened(any_qdrant, monkeypatch, QDRANT_PREFER_GRPC=str(transport == "grpc").lower()) as context:
        gateway = await context.gateway()
        multi = {"size": 4, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}}
        await gateway.create_collection(name, {"vectors": {"": {"size": 8, "distance": "Dot"}, "t": multi}, "sparse_vectors": {"s": {}}})
        await gateway.points.write(
            name,
            [
                Point(
                    id=i,
                    payload={},
                    vectors={"": dense[i].tolist(), "t": tokens[i].tolist(), "s": {"indices": [i % 5, 7], "values": weights[i].tolist()}},
                )
                for i in range(60)
            ],
        )
        query, asked = random.normal(size=8), random.normal(size=(2, 4))
        by_dense = np.argsort(-(dense @ query))[:20]
        by_sparse = np.argsort(-(weights[:, 1] + np.where(np.arange(60) % 5 == 1, weights[:, 0], 0)))[:20]
        expected = {int(i): sum(1 / (2 + int(np.flatnonzero(r == i)[0])) for r in (by_dense, by_sparse) if i in r) for i in range(60)}
        best = sorted(expected.values(), reverse=True)[:10]
        sims = np.einsum("qd,ntd->nqt", asked, tokens).max(axis=2).sum(axis=1)
        reranked = sorted(by_dense, key=lambda i: -sims[i])[:5]
        for exact in (True, False):
            fused = await gateway.searches.hybrid(
                name,
                query.tolist(),
                {"indices": [1, 7], "values": [1.0, 1.0]},
                using="",
                sparse_using="s",
                depth=20,
                limit=10,
                exact=exact,
            )
            assert [hit.score for hit in fused] == pytest.approx(best, abs=1e-6)
            assert {hit.id: hit.score for hit in fused} == pytest.approx({hit.id: expected[int(hit.id)] for hit in fused}, abs=1e-6)
            hits = await gateway.searches.rerank(
                name, query.tolist(), asked.tolist(), using="", tokens_using="t", depth=20, limit=5, exact=exact
            )
            assert [hit.id for hit in hits] == reranked
            assert [hit.score for hit in hits] == pytest.approx([sims[i] for i in reranked], abs=1e-4)
        # A query of which nothing counts leaves the dense hits.
        alone = await gateway.searches.hybrid(
            name, query.tolist(), {"indices": [], "values": []}, using="", sparse_using="s", depth=20, limit=10, exact=True
        )
        assert [hit.id for hit in alone] == by_dense[:10].tolist()


async def test_hybrid_search_is_compared_with_dense_search_alone(
    any_qdrant: Backend, name: str, asset_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BM25 of the server where it has it, and of this machine: documents and queries go the same way."""
    payloads = corpus(120)
    queries = judged_queries(payloads, 40)
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_MODELS=asset_models) as context:
        for model in ["bm25", *([] if any_qdrant.is_embedded else ["qdrant:bm25"])]:
            collection = f"{name}_{model[:2]}"
            specs = await seeded(context, collection, payloads, {"": OLD, "sparse": model})
            made = Recipe(field="sparse", kind="embed", stage="fill", vector_kind=FieldKind.SPARSE)
            filled = Filled(points=120, with_vector=120, at="", has_converged=True)
            migration = migration_of(collection, made, specs["sparse"], filled=filled, is_filling=True)
            found = await compare_migration(context, migration, queries=queries)
            hybrid = f"{OLD} + {model} (RRF)"
            assert (found.baseline, found.candidates, found.verdict) == (OLD, [hybrid], "better")
            documents, asked = await dense_rows(context, OLD, texts(payloads), [q["text"] for q in queries])
            alone = measured(found, "ndcg@10")
            assert alone[OLD] == pytest.approx(ndcg(top(asked @ documents.T, 10), queries), abs=1e-6)
            assert alone[hybrid] > alone[OLD] + 0.02
            assert {latency.model for latency in found.latency_ms} == {OLD, hybrid}
            assert set(found.index_recall) == {OLD}


async def test_reranking_is_compared_with_dense_search_alone(
    any_qdrant: Backend, name: str, asset_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = corpus(150)
    queries = judged_queries(payloads, 30)
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_MODELS=asset_models) as context:
        specs = await seeded(context, f"{name}_new", payloads, {"": OLD, "tokens": "colbert"})
        await seeded(context, f"{name}_old", payloads[:10], {"": OLD})
        made = Recipe(field="tokens", kind="embed", vector_kind=FieldKind.MULTIVECTOR)
        migration = migration_of(f"{name}_new", made, specs["tokens"], source=f"{name}_old")
        found = await compare_migration(context, migration, queries=queries)
        documents, asked = await dense_rows(context, OLD, texts(payloads), [q["text"] for q in queries])
        colbert = await context.any_model("colbert")
        assert is_multivector(colbert)
        # As they are stored: what an int8 model makes of a text depends on its batch, on some processors.
        stored = await (await context.gateway()).points.retrieve(f"{name}_new", range(1, 151), payload=False, vectors=["tokens"])
        expected: list[list[int]] = []
        questions = await colbert.embed([q["text"] for q in queries], Side.QUERY)
        for first, question in zip(top(asked @ documents.T, 100), questions, strict=True):
            scores = {d: float((question @ np.array(stored[d].vectors["tokens"]).T).max(axis=1).sum()) for d in first}
            expected.append(sorted(first, key=lambda d: -scores[d])[:10])
        reranked = f"{OLD}, reranked by colbert"
        # Both sides are the target: the source, of ten points, plays no part.
        assert (found.baseline, found.candidates, found.documents) == (OLD, [reranked], 150)
        assert measured(found, "ndcg@10") == pytest.approx(
            {OLD: ndcg(top(asked @ documents.T, 10), queries), reranked: ndcg(expected, queries)}, abs=0.01
        )
        assert measured(found, "ndcg@10")[reranked] != measured(found, "ndcg@10")[OLD]


async def test_cut_vectors_are_compared_with_whole_ones_by_the_share_they_find(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share of the exact hits is the recall of the cut vectors, judged or not."""
    payloads = corpus()
    async with opened(any_qdrant, monkeypatch) as context:
        await seeded(context, f"{name}_old", payloads, {"": OLD})
        specs = await seeded(context, f"{name}_new", payloads, {"": f"{OLD}@128"})
        made = Recipe(field="", kind="truncate", source_field="", dimensions=128)
        migration = migration_of(f"{name}_new", made, specs[""], source=f"{name}_old")
        asked = [" ".join(p["body"].split()[3:15]) for p in payloads[:80]]
        documents, queries = await dense_rows(context, OLD, texts(payloads), asked)
        whole, cut = top(queries @ documents.T, 10), top(_unit(queries[:, :128]) @ _unit(documents[:, :128]).T, 10)
        shares = [len(set(a) & set(b)) / 10 for a, b in zip(whole, cut, strict=True)]
        assert 0.2 < np.mean(shares) < 0.95
        found = await compare_migration(context, migration, queries=asked)
        assert (found.baseline, found.candidates, found.verdict) == (OLD, [f"{OLD}@128"], "inconclusive")
        (shared,) = found.metrics
        assert shared.metric == "overlap@10"
        assert shared.value == found.overlap_at_k == pytest.approx(np.mean(shares), abs=0.01)
        assert shared.ci_low is not None
        assert shared.ci_high is not None
        spread = 1.96 * np.std(shares) / np.sqrt(len(shares))
        assert (shared.ci_low, shared.ci_high) == pytest.approx((np.mean(shares) - spread, np.mean(shares) + spread), abs=0.02)
        judged = await compare_migration(context, migration, queries=judged_queries(payloads))
        assert set(measured(judged, "overlap@10")) == {f"{OLD}@128"}
        assert judged.verdicts == {f"{OLD}@128": judged.verdict}


def _unit(rows: Rows) -> Rows:
    found: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


async def test_fields_side_by_side_are_compared_where_the_readers_are(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = corpus(120)
    queries = judged_queries(payloads, 40)
    new = "builtin:hashing-512"
    async with opened(any_qdrant, monkeypatch) as context:
        specs = await seeded(context, f"{name}_new", payloads, {"": OLD, "dense": new})
        await seeded(context, f"{name}_old", payloads[:60], {"": OLD})
        made = Recipe(field="dense", kind="embed", source_field="", stage="fill")
        filled = Filled(points=120, with_vector=120, at="", has_converged=True)
        before = migration_of(f"{name}_new", made, specs["dense"], source=f"{name}_old", filled=filled, is_filling=True)
        found = await compare_migration(context, before, queries=queries)
        assert found.documents == 60
        assert any(f"'{name}_old' holds 60 points and '{name}_new' 120" in note for note in found.notes)
        after = before.model_copy(update={"phase": Phase.CUT_OVER})
        found = await compare_migration(context, after, queries=queries)
        assert (found.documents, found.baseline, found.candidates) == (120, OLD, [new])
        for model in (OLD, new):
            documents, asked = await dense_rows(context, model, texts(payloads), [q["text"] for q in queries])
            assert measured(found, "ndcg@10")[model] == pytest.approx(ndcg(top(asked @ documents.T, 10), queries), abs=0.002)
        assert not any("points" in note and "Call verify_target" in note for note in found.notes)
        gateway = await context.gateway()
        await gateway.points.write(f"{name}_new", [Point(id=500 + i, payload=dict(payloads[0])) for i in range(3)])
        found = await compare_migration(context, after, queries=queries)
        assert "3 of 123 points have no vector 'dense', and cannot be found by it." in found.notes
        partly = after.model_copy(update={"filled": Filled(points=120, with_vector=30, at="")})
        with pytest.raises(Refused, match=r"30 of 120 points .* \(25.0%\)"):
            await compare_migration(context, partly, queries=queries)


async def test_a_migration_without_texts_takes_only_queries_that_are_given(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = corpus(30)
    async with opened(any_qdrant, monkeypatch) as context:
        await seeded(context, f"{name}_old", payloads, {"": OLD})
        specs = await seeded(context, f"{name}_new", payloads, {"": f"{OLD}@128"})
        made = Recipe(field="", kind="truncate", source_field="", dimensions=128)
        migration = migration_of(f"{name}_new", made, specs[""], source=f"{name}_old", text_field="")
        with pytest.raises(Refused, match=r"knows no texts.*Give 'queries'"):
            await compare_migration(context, migration)
        found = await compare_migration(context, migration, queries=judged_queries(payloads, 10))
        assert found.is_judged


async def test_strict_mode_bounds_the_prefetch_too(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = corpus(120)
    backend = Backend(name=server.version, environment=server.environment, version=server.version)
    async with opened(backend, monkeypatch) as context:
        specs = await seeded(context, name, payloads, {"": OLD, "sparse": "qdrant:bm25"})
        limits = {"enabled": True, "max_query_limit": 50}
        rest(f"{server.url}/collections/{name}", method="PATCH", body={"strict_mode_config": limits})
        made = Recipe(field="sparse", kind="embed", vector_kind=FieldKind.SPARSE)
        found = await compare_migration(
            context, migration_of(name, made, specs["sparse"], source=name), queries=judged_queries(payloads, 10)
        )
        assert found.candidates == [f"{OLD} + qdrant:bm25 (RRF)"]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_cranfield_is_searched_better_by_hybrid_than_by_dense_alone(
    server_1_17: QdrantServer, name: str, cranfield: Cranfield, asset_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """225 judged questions; and rankings got by plain requests give the same values."""
    backend = Backend(
        name="1.17.0", environment={**server_1_17.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}, version="1.17.0"
    )
    payloads = [{"title": d.title, "body": d.body} for d in cranfield.documents if d.text.strip()]
    numbers = [d.id for d in cranfield.documents if d.text.strip()]
    place = {number: i for i, number in enumerate(numbers, start=1)}
    queries: list[dict[str, Any]] = [
        {"text": text, "relevant_ids": {f"i:{place[int(d)]}": grade for d, grade in cranfield.qrels[q].items() if int(d) in place}}
        for q, text in cranfield.queries.items()
    ]
    try:
        async with opened(backend, monkeypatch, QDRANT_MIGRATION_MODELS=asset_models) as context:
            specs = await seeded(context, f"{name}_docs", payloads, {"": "minilm", "sparse": "qdrant:bm25"})
            made = Recipe(field="sparse", kind="embed", vector_kind=FieldKind.SPARSE)
            migration = migration_of(f"{name}_docs", made, specs["sparse"], source=f"{name}_docs", old="minilm")
            found = await compare_migration(context, migration, queries=queries)
            embedder = await context.catalogue.load("minilm")
            asked = await embedder.embed(list(cranfield.queries.values()), Side.QUERY)
        hybrid = "minilm + qdrant:bm25 (RRF)"
        rankings: dict[str, list[list[int]]] = {"minilm": [], hybrid: []}
        exact = {"exact": True}
        url = f"{server_1_17.url}/collections/{name}_docs/points/query"
        for query, row in zip(queries, asked, strict=True):
            vector = row.tolist()
            words = {"text": query["text"], "model": "qdrant/bm25", "options": {"language": "english", "tokenizer": "word"}}
            two = [{"query": vector, "limit": 100, "params": exact}, {"query": words, "using": "sparse", "limit": 100}]
            for label, body in (
                ("minilm", {"query": vector, "limit": 10, "params": exact}),
                (hybrid, {"prefetch": two, "query": {"fusion": "rrf"}, "limit": 10}),
            ):
                points = rest(url, method="POST", body=body)["result"]["points"]
                rankings[label].append([p["id"] for p in points])
    finally:
        rest(f"{server_1_17.url}/collections/{name}_docs", method="DELETE")
    values = measured(found, "ndcg@10")
    print(values, [note for note in found.notes if "better" in note])
    for label, ranking in rankings.items():
        assert values[label] == pytest.approx(ndcg(ranking, queries), abs=0.01)
    # As the README of the assets has it, measured by another program.
    assert measured(found, "recall@10")["minilm"] == pytest.approx(0.414, abs=0.01)
    assert (found.verdict, found.verdicts, found.queries, found.is_judged) == ("better", {hybrid: "better"}, 225, True)
