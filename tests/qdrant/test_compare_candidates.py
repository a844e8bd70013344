"""Do hybrid and reranked candidates, searched in memory on a sample, find what Qdrant finds, and is told what each of them takes?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qdrant_model_migration.domain.metrics import Query, Run
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.queries import Document
from qdrant_model_migration.embedders.base import AnyEmbedder, is_dense, is_multivector, is_sparse
from qdrant_model_migration.embedders.retrying import embed_resilient
from qdrant_model_migration.embedders.server_side import is_server_side
from qdrant_model_migration.errors import MigrationError, Refused
from qdrant_model_migration.operations.candidates import Candidate, Sample
from qdrant_model_migration.operations.compare_sample import compare_on_sample
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.results import CandidateRow, Comparison
from tests.conftest import Backend, Cranfield
from tests.qdrant.test_compare import TEXT, corpus, filled, judged_queries, opened
from tests.qdrant.test_compare_strategies import seeded, texts

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")

OLD = "builtin:hashing-256"
DEPTH, LIMIT = 100, 10


def abstracts(cranfield: Cranfield, count: int) -> list[dict[str, str]]:
    return [{"title": d.title, "body": " ".join(d.body.split()[:25])} for d in cranfield.documents if d.text.strip()][:count]


def rows(found: Comparison) -> dict[str, CandidateRow]:
    assert [row.model for row in found.candidates_table] == [found.baseline, *found.candidates]
    return {row.model: row for row in found.candidates_table}


async def in_memory(context: OperationContext, payloads: list[dict[str, str]], queries: list[str], dense: str, added: str) -> Run:
    """What the candidate finds among all of the documents; ids count from 1, as in the collection beside it."""
    documents = [Document(id=i, text=text) for i, text in enumerate(texts(payloads), start=1)]
    one, other = await context.any_model(dense), await context.any_model(added)
    assert is_dense(one)
    assert is_sparse(other) or is_multivector(other)
    candidate = Candidate(label="both", dense=one, how="hybrid" if is_sparse(other) else "rerank", added=other)
    sample = Sample(documents, [Query(id=q, text=q) for q in queries], [candidate], None)
    return (await sample.tried(candidate, LIMIT)).run


async def embed_all(model: AnyEmbedder, wanted: list[str], side: Side) -> list[Any]:
    found, failures = await embed_resilient(model, wanted, side, should_stop=lambda: False)
    assert not failures
    return found


async def test_hybrid_candidates_find_what_qdrant_finds(
    any_qdrant: Backend, name: str, cranfield: Cranfield, asset_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the scores that Qdrant gives the hits: the order of equal ones is its own with every call. The model is one whose vectors do not
    depend on their batch."""
    payloads, queries = abstracts(cranfield, 115), list(cranfield.queries.values())[:30]
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_MODELS=asset_models) as context:
        gateway = await context.gateway()
        for sparse in ["bm25", *([] if any_qdrant.is_embedded else ["qdrant:bm25"])]:
            collection = f"{name}_{sparse[:2]}"
            await seeded(context, collection, payloads, {"": "minilm", "s": sparse})
            run = await in_memory(context, payloads, queries, "minilm", sparse)
            embedder, words = await context.any_model("minilm"), await context.any_model(sparse)
            same = 0
            for query, row in zip(queries, await embedder.embed(queries, Side.QUERY), strict=True):
                assert is_sparse(words)
                weights: Any = (
                    words.placeholder(query, Side.QUERY) if is_server_side(words) else dict((await words.embed([query], Side.QUERY))[0])
                )
                hits = await gateway.searches.hybrid(
                    collection, row.tolist(), weights, using="", sparse_using="s", depth=DEPTH, limit=2 * DEPTH, exact=True
                )
                scores = {hit.id: hit.score for hit in hits}
                ours = [scores.get(point, 0.0) for point in run.found[query]]
                same += ours == pytest.approx([hit.score for hit in hits[:LIMIT]], abs=1e-6)
            # A pair of nearly equal scores may stand in another order.
            assert same >= 29, (sparse, same)


async def test_reranked_candidates_find_what_qdrant_finds(
    any_qdrant: Backend, name: str, cranfield: Cranfield, asset_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More documents than a prefetch holds: what the dense model does not bring is not reranked."""
    payloads, queries = abstracts(cranfield, 125), list(cranfield.queries.values())[:20]
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_MODELS=asset_models) as context:
        gateway = await context.gateway()
        run = await in_memory(context, payloads, queries, OLD, "colbert")
        dense, late = await context.any_model(OLD), await context.any_model("colbert")
        # In one batch, as in memory: the quantized model gives a text slightly other vectors beside others.
        made = [await embed_all(model, texts(payloads), Side.DOCUMENT) for model in (dense, late)]
        tokens = {"size": 96, "distance": "Cosine", "multivector_config": {"comparator": "max_sim"}, "hnsw_config": {"m": 0}}
        await gateway.create_collection(f"{name}_docs", {"vectors": {"": {"size": 256, "distance": "Cosine"}, "t": tokens}})
        points = [
            Point(id=i, payload={}, vectors={"": row.tolist(), "t": many.tolist()})
            for i, (row, many) in enumerate(zip(made[0], made[1], strict=True), start=1)
        ]
        await gateway.points.write(f"{name}_docs", points)
        asked = [await embed_all(model, queries, Side.QUERY) for model in (dense, late)]
        same = moved = 0
        for query, row, many in zip(queries, *asked, strict=True):
            hits = await gateway.searches.rerank(
                f"{name}_docs", row.tolist(), many.tolist(), using="", tokens_using="t", depth=DEPTH, limit=LIMIT, exact=True
            )
            alone = await gateway.points.search(f"{name}_docs", row.tolist(), using="", limit=LIMIT, exact=True, payload=False)
            same += list(run.found[query]) == [hit.id for hit in hits]
            moved += list(run.found[query]) != [hit.id for hit in alone]
        # A pair of nearly equal scores may stand in another order, and a tie end the prefetch.
        assert same >= 18, same
        assert moved == len(queries)


async def test_dense_hybrid_and_reranked_search_are_compared_with_what_each_takes(
    tmp_path: Path, asset_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = corpus(120)
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "q")}, version=None)
    async with opened(backend, monkeypatch, QDRANT_MIGRATION_MODELS=asset_models) as context:
        await filled(context, "docs", OLD, payloads)
        bm25, colbert = await context.any_model("bm25"), await context.any_model("colbert")
        assert is_sparse(bm25)
        terms = await bm25.embed(texts(payloads), Side.DOCUMENT)
        tokens = await colbert.embed(texts(payloads), Side.DOCUMENT)
        models = [OLD, f"{OLD} + bm25", f"{OLD}@64 + bm25", f"{OLD} > colbert", f"{OLD}@64"]
        found = await compare_on_sample(context, collection="docs", models=models, text_field=TEXT, queries=judged_queries(payloads, 40))
        assert not any("could not be" in note for note in found.notes)
        ledger = await (await context.ledger()).exists()
    hybrid, reranked = f"{OLD} + bm25 (RRF)", f"{OLD}, reranked by colbert"
    assert found.candidates == [hybrid, f"{OLD}@64 + bm25 (RRF)", reranked, f"{OLD}@64"]
    assert found.verdicts[hybrid] == "better"
    assert ledger
    assert any(f"Kept as evidence for strategy 'truncate' in '_model_migrations': '{OLD}@64'." in note for note in found.notes)
    table = rows(found)
    sparse_bytes = sum(len(row["indices"]) for row in terms) / 120 * 8
    late_bytes = sum(len(row) for row in tokens) / 120 * 96 * 4
    assert {model: row.bytes_per_point for model, row in table.items()} == {
        OLD: 1024,
        hybrid: pytest.approx(1024 + sparse_bytes, abs=1),
        f"{OLD}@64 + bm25 (RRF)": pytest.approx(256 + sparse_bytes, abs=1),
        reranked: pytest.approx(1024 + late_bytes, rel=0.01),
        f"{OLD}@64": 256,
    }
    assert table[OLD].verdict is None
    assert table[OLD].difference is None
    for label in found.candidates:
        (primary,) = [m for m in found.metrics if m.model == label and m.metric == found.primary_metric]
        row = table[label]
        assert (row.value, row.difference, row.ci_low, row.ci_high) == (primary.value, primary.difference, primary.ci_low, primary.ci_high)
        assert row.verdict == found.verdicts[label]
    speeds = {model: row.documents_per_second or 0.0 for model, row in table.items()}
    # Two models take longer than the first of them alone, and the large one longer than the small one.
    assert speeds[OLD] > speeds[hybrid] > speeds[reranked] > 0
    # Nothing here costs money, and 0 would look like a price.
    assert {row.usd_per_million_points for row in table.values()} == {None}
    assert not any("million points" in note for note in found.notes)


async def test_a_price_is_that_of_the_mean_tokens(tmp_path: Path, asset_models: str, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = corpus(60)
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "q")}, version=None)
    models = json.loads(asset_models)
    models["minilm-l2"]["price_per_million"] = 0.5
    async with opened(backend, monkeypatch, QDRANT_MIGRATION_MODELS=json.dumps(models)) as context:
        await filled(context, "docs", OLD, payloads)
        embedder = await context.any_model("minilm-l2")
        tokens = await embedder.count_tokens(texts(payloads))
        assert tokens
        found = await compare_on_sample(
            context, collection="docs", models=[OLD, "minilm-l2", "minilm-l2 + bm25"], text_field=TEXT, queries=judged_queries(payloads, 12)
        )
    prices = {model: row.usd_per_million_points for model, row in rows(found).items()}
    price = pytest.approx(0.5 * sum(tokens) / 60)
    assert prices == {OLD: None, "minilm-l2": price, "minilm-l2 + bm25 (RRF)": price}


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (f"{OLD} + builtin:hashing-64", "names two dense models"),
        (f"{OLD} & bm25", "the sign '&', which is none"),
        (f"{OLD} + bm25 > colbert", "has 3 parts"),
        (f"{OLD} + colbert", f"where a sparse one belongs: '{OLD} > colbert'"),
        ("bm25", f"'bm25' is a sparse model.* write '{OLD} \\+ bm25'"),
        (f"{OLD} + qdrant:bm25", "embedded database computes no vectors.*'fastembed:Qdrant/bm25' computes BM25 on this machine"),
    ],
)
async def test_candidates_that_cannot_be_searched_are_refused(
    tmp_path: Path, asset_models: str, monkeypatch: pytest.MonkeyPatch, candidate: str, message: str
) -> None:
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "q")}, version=None)
    async with opened(backend, monkeypatch, QDRANT_MIGRATION_MODELS=asset_models) as context:
        await filled(context, "docs", OLD, corpus(20))
        with pytest.raises(MigrationError, match=message) as refusal:
            await compare_on_sample(context, collection="docs", models=[OLD, candidate], text_field=TEXT)
        assert isinstance(refusal.value, Refused) or "qdrant:bm25" in candidate
