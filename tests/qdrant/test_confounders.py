"""Is what differs besides the model said: distances, indexes, quantization and what rescoring would save, texts that a model cuts?"""

from __future__ import annotations

import re
from typing import Any

import pytest

from qdrant_model_migration.domain.collection import Collection, fields_of
from qdrant_model_migration.domain.confounders import Searched, cut_texts, differences, of_index
from qdrant_model_migration.domain.model import ModelSpec, Side
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.search_template import Search, parsed
from qdrant_model_migration.embedders.base import is_dense
from qdrant_model_migration.operations.compare import compare_migration
from tests.conftest import Backend
from tests.qdrant.test_compare import NEW, OLD, corpus, filled, judged_queries, matched, migration_of, opened
from tests.servers import QdrantServer
from tests.servers import request as rest

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")

HNSW = {"m": 16, "ef_construct": 100}


def side(name: str, template: Search | None = None, **config: Any) -> Searched:
    vector = {"size": 4, "distance": config.pop("distance", "Cosine"), **config.pop("vector", {})}
    made = {"hnsw_config": HNSW, "optimizer_config": {"indexing_threshold": 10_000}, **config}
    collection = Collection(name=name, points=10, fields=fields_of({"vectors": vector}), config=made)
    return Searched(label=f"model of {name}", collection=collection, field="", template=template)


def test_equal_sides_have_nothing_to_say() -> None:
    assert differences(side("a"), side("b")) == []
    assert of_index(side("a")) == []


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"distance": "Dot"}, "by Cosine, 'model of b' by Dot: their scores cannot be compared"),
        (
            {"hnsw_config": {"m": 16, "ef_construct": 400}},
            "ef_construct is 100 for 'model of a' and 400 for 'model of b'; where no hnsw_ef",
        ),
        ({"vector": {"hnsw_config": {"m": 32}}}, "m is 16 for 'model of a' and 32"),
        ({"quantization_config": {"scalar": {"type": "int8"}}}, "Quantization differs: none for 'model of a', scalar for 'model of b'"),
    ],
)
def test_what_differs_between_the_sides_is_said(config: dict[str, Any], told: str) -> None:
    (note,) = differences(side("a"), side("b", **config))
    assert told in note


def test_stated_search_width_needs_no_default() -> None:
    template = parsed({"query": "{query}", "params": {"hnsw_ef": 128}})
    (note,) = differences(side("a", template), side("b", template, hnsw_config={"m": 16, "ef_construct": 400}))
    assert "hnsw_ef" not in note


def test_missing_indexes_and_quantization_without_rescoring_are_said() -> None:
    assert "has no index (m=0)" in of_index(side("a", hnsw_config={"m": 0}))[0]
    assert "switched off" in of_index(side("a", optimizer_config={"indexing_threshold": 0}))[0]
    scalar = {"quantization_config": {"scalar": {"type": "int8"}}}
    assert "does not ask for rescoring" in of_index(side("a", parsed({"query": "{query}"}), **scalar))[0]
    for saving in ("rescore", "ignore"):
        assert of_index(side("a", parsed({"query": "{query}", "params": {"quantization": {saving: True}}}), **scalar)) == []
    half = parsed({"prefetch": {"query": "{query}", "params": {"quantization": {"rescore": True}}}, "query": "{query}"})
    assert len(of_index(side("a", half, **scalar))) == 1


def test_cut_documents_are_counted() -> None:
    share, notes = cut_texts("m", [100, 300, 301, 20], 256)
    assert (share, "50% of 4 sampled documents are longer than the 256 tokens that 'm' reads" in notes[0]) == (0.5, True)
    assert cut_texts("m", [256], 256) == (0.0, [])


async def test_documents_that_a_model_cuts_are_found_in_the_collection(
    any_qdrant: Backend, name: str, asset_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MiniLM reads 256 tokens; two of three texts here are longer."""
    payloads = [{**p, "body": p["body"] * (1 if i % 3 == 0 else 12)} for i, p in enumerate(corpus(30))]
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_MODELS=asset_models) as context:
        await filled(context, f"{name}_old", OLD, payloads)
        spec = await filled(context, f"{name}_new", "minilm-l2", payloads, field="dense")
        found = await compare_migration(context, migration_of(name, spec, match=matched(OLD)), queries=judged_queries(payloads, 10))
        assert found.truncated["minilm-l2"] == pytest.approx(20 / 30, abs=0.01)
        assert any("67% of 30 sampled documents are longer than the 256 tokens that 'minilm-l2'" in note for note in found.notes)


async def test_rescoring_that_would_save_a_quantized_index_is_measured(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes of four bytes a vector confuse most neighbours unless the original vectors have the last word."""
    payloads = corpus(400)
    backend = Backend(name="server", environment=server.environment, version=server.version)
    async with opened(backend, monkeypatch) as context:
        await filled(context, f"{name}_old", NEW, payloads)
        embedder = await context.catalogue.load(OLD)
        assert is_dense(embedder)
        spec: ModelSpec = embedder.spec
        body = {
            "vectors": {
                "dense": {"size": 64, "distance": "Cosine", "quantization_config": {"product": {"compression": "x64", "always_ram": True}}}
            },
            "optimizers_config": {"indexing_threshold": 1, "default_segment_number": 1},
        }
        rest(f"{server.url}/collections/{name}_new", method="PUT", body=body)
        held = await (await context.gateway()).points.retrieve(f"{name}_old", list(range(1, 401)))
        rows = await embedder.embed([f"{p['title']}\n{p['body']}" for p in payloads], Side.DOCUMENT)
        points = [Point(id=i, payload=held[i].payload, vectors={"dense": row.tolist()}) for i, row in enumerate(rows, start=1)]
        await (await context.gateway()).points.write(f"{name}_new", points)
        found = await compare_migration(
            context, migration_of(name, spec, old=NEW, match=matched(NEW)), queries=judged_queries(payloads, 30)
        )
        notes = " ".join(found.notes)
        assert f"Quantization differs: none for '{NEW}', product for '{OLD}'" in notes
        assert found.index_recall[OLD] < 0.95
        told = re.search(
            rf"'{OLD}' is quantized \(product\): as it is, its index finds ([\d.]+)% .* with rescoring and 3-fold oversampling \(.*\) ([\d.]+)%",
            notes,
        )
        assert told is not None
        assert float(told[2]) > float(told[1])
