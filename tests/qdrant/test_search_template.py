"""Is the app's own search made on both sides, with its filters and parameters, and is what no side takes said before anything is embedded?"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from qdrant_model_migration.domain.collection import FieldKind
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.recipe import Filled, Recipe
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.compare import compare_migration
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.results import Progress
from tests.conftest import Backend
from tests.qdrant.test_compare import NEW, OLD, corpus, filled, judged_queries, matched, migration_of, opened
from tests.qdrant.test_compare_strategies import measured, ndcg, seeded, texts, top
from tests.qdrant.test_compare_strategies import migration_of as added_to
from tests.servers import QdrantServer

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")

EVEN = {"must": [{"key": "half", "match": {"value": "even"}}]}


def served(server: QdrantServer) -> Backend:
    return Backend(name="server", environment=server.environment, version="any")


def halves(size: int = 120) -> list[dict[str, str]]:
    return [{**payload, "half": "even" if number % 2 == 0 else "odd"} for number, payload in enumerate(corpus(size), start=1)]


async def scores_of(context: OperationContext, model: str, payloads: list[dict[str, str]], queries: list[dict[str, Any]]) -> Any:
    embedder = await context.catalogue.load(model)
    documents = (await embedder.embed(texts(payloads), Side.DOCUMENT)).astype(np.float64)
    return (await embedder.embed([q["text"] for q in queries], Side.QUERY)).astype(np.float64) @ documents.T


async def test_both_sides_are_searched_as_the_app_searches(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against float64 products over the points that the filter leaves; the unnamed vector of the source is 'dense' in the target."""
    payloads = halves()
    queries = judged_queries(payloads, 40)
    async with opened(any_qdrant, monkeypatch) as context:
        await filled(context, f"{name}_old", OLD, payloads)
        spec = await filled(context, f"{name}_new", NEW, payloads, field="dense")
        migration = migration_of(name, spec, match=matched(OLD))
        template = {"query": "{query}", "filter": EVEN, "params": {"hnsw_ef": 256, "exact": True}, "limit": 10}
        found = await compare_migration(context, migration, queries=queries, search_template=json.dumps(template))
        assert found.searched == "template"
        for model in (OLD, NEW):
            scores = await scores_of(context, model, payloads, queries)
            scores[:, ::2] = -np.inf  # ids count from 1: the first is odd
            assert measured(found, "ndcg@10")[model] == pytest.approx(ndcg(top(scores, 10), queries), abs=1e-6)
        assert f"60 of 120 points of '{name}_old' and 60 of 120 points of '{name}_new'" in " ".join(found.notes)
        whole = await compare_migration(context, migration, queries=queries)
        assert whole.searched == "exact"
        assert measured(whole, "ndcg@10") != measured(found, "ndcg@10")

        # Two steps: the best 20 of the filter, in the order of the same field.
        nested = {"prefetch": {"query": "{query}", "filter": EVEN, "limit": 20}, "query": "{query}", "params": {"exact": True}}
        twice = await compare_migration(context, migration, queries=queries, search_template=nested)
        assert measured(twice, "ndcg@10") == pytest.approx(measured(found, "ndcg@10"), abs=1e-6)


async def test_filters_that_match_nothing_are_said(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = halves(60)
    async with opened(any_qdrant, monkeypatch) as context:
        await filled(context, f"{name}_old", OLD, payloads)
        spec = await filled(context, f"{name}_new", NEW, [{k: v for k, v in p.items() if k != "half"} for p in payloads], field="dense")
        migration = migration_of(name, spec, match=matched(OLD))
        reports: list[Progress] = []

        async def progress(report: Progress) -> None:
            reports.append(report)

        nobody = {"query": "{query}", "filter": {"must": [{"key": "half", "match": {"value": "third"}}]}}
        with pytest.raises(Refused, match=r"matches none of the 60 points of .*_old' and 60 points of .*_new'"):
            await compare_migration(context, migration, search_template=nobody, progress=progress)
        assert not reports
        lost = await compare_migration(
            context, migration, queries=judged_queries(payloads, 20), search_template={"query": "{query}", "filter": EVEN}
        )
        assert any(f"match nothing in '{name}_new'" in note for note in lost.notes)
        assert lost.verdict == "worse"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"filter": {"must": [{"key": "half", "matches": 1}]}}, "a 'filter' that Qdrant does not know"),
        ({"params": {"hnsw_effort": 3}}, "a 'params' that Qdrant does not know: hnsw_effort"),
        ({"using": "image"}, "no model is known"),
    ],
)
async def test_what_qdrant_does_not_know_is_refused_before_anything_is_embedded(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], why: str
) -> None:
    payloads = halves(20)
    async with opened(any_qdrant, monkeypatch) as context:
        await filled(context, f"{name}_old", OLD, payloads)
        spec = await filled(context, f"{name}_new", NEW, payloads, field="dense")

        async def progress(report: Progress) -> None:
            # One query is embedded to try the search; never all of them.
            assert report.total <= 1

        with pytest.raises(Refused) as caught:
            await compare_migration(
                context, migration_of(name, spec, match=matched(OLD)), search_template={"query": "{query}", **change}, progress=progress
            )
        assert why in str(caught.value)


async def test_strict_mode_refuses_a_filter_in_its_own_words(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = halves(20)
    async with opened(served(server), monkeypatch) as context:
        await filled(context, f"{name}_old", OLD, payloads)
        spec = await filled(context, f"{name}_new", NEW, payloads, field="dense")
        gateway = await context.gateway()
        await gateway.update(f"{name}_new", {"strict_mode": {"enabled": True, "unindexed_filtering_retrieve": False}})
        with pytest.raises(Refused, match=rf"'{name}_new' does not take the search of search_template: .*[Ii]ndex required.*half"):
            await compare_migration(
                context, migration_of(name, spec, match=matched(OLD)), search_template={"query": "{query}", "filter": EVEN}
            )


async def test_template_is_compared_where_exact_searches_are_forbidden(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what the index costs is not known then."""
    payloads = halves(60)
    async with opened(served(server), monkeypatch) as context:
        await filled(context, f"{name}_old", OLD, payloads)
        spec = await filled(context, f"{name}_new", NEW, payloads, field="dense")
        await (await context.gateway()).update(f"{name}_new", {"strict_mode": {"enabled": True, "search_allow_exact": False}})
        found = await compare_migration(
            context,
            migration_of(name, spec, match=matched(OLD)),
            queries=judged_queries(payloads, 20),
            search_template={"query": "{query}"},
        )
        assert set(found.index_recall) == {OLD}
        assert any(f"index costs '{NEW}' was not measured" in note for note in found.notes)


async def test_added_field_is_compared_by_the_template_with_and_without_it(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BM25 that the server embeds, as the added field and as one that the app has had all along."""
    payloads = halves(120)
    queries = judged_queries(payloads, 40)
    async with opened(served(server), monkeypatch) as context:
        dense = "builtin:hashing-256"
        specs = await seeded(context, name, payloads, {"": dense, "sparse": "qdrant:bm25"})
        made = Recipe(field="sparse", kind="embed", stage="fill", vector_kind=FieldKind.SPARSE)
        done = Filled(points=120, with_vector=120, at="", has_converged=True)
        migration = added_to(name, made, specs["sparse"], filled=done, is_filling=True)
        fused: dict[str, Any] = {
            "prefetch": [{"query": "{query}", "limit": 100}, {"query": "{query}", "using": "sparse", "limit": 100}],
            "query": {"fusion": "rrf"},
            "filter": EVEN,
        }
        found = await compare_migration(context, migration, queries=queries, search_template=fused)
        both = f"{dense} + qdrant:bm25 (template)"
        assert (found.baseline, found.candidates, found.verdict) == (dense, [both], "better")
        scores = await scores_of(context, dense, payloads, queries)
        scores[:, ::2] = -np.inf
        assert measured(found, "ndcg@10")[dense] == pytest.approx(ndcg(top(scores, 10), queries), abs=1e-6)
        assert both not in found.index_recall

        by_text = {
            **fused,
            "prefetch": [fused["prefetch"][0], {"query": {"text": "{text}", "model": "qdrant/bm25"}, "using": "sparse", "limit": 100}],
        }
        with pytest.raises(Refused, match="does not ask the added vector 'sparse'"):
            await compare_migration(context, migration, queries=queries, search_template=by_text)
        replaced = Recipe(field="", kind="embed", source_field="")
        spec = (await context.catalogue.load(dense)).spec
        again = await compare_migration(context, added_to(name, replaced, spec), queries=queries, search_template=by_text)
        # Servers order equal ranks anew with every call, so that even the same search twice is not always the same.
        assert again.verdict in ("equivalent", "inconclusive")
        assert again.overlap_at_k == pytest.approx(1.0, abs=0.05)
        assert measured(again, "ndcg@10")[dense] == pytest.approx(measured(found, "ndcg@10")[both], abs=0.01)
