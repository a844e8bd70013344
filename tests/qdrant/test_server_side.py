"""Models that the Qdrant server computes: BM25 on every server, others through an inference service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdrant_model_migration.domain.model import ModelKind, Side
from qdrant_model_migration.domain.points import Point, ServerText
from qdrant_model_migration.embedders.base import SparseVector, is_multivector, is_sparse
from qdrant_model_migration.embedders.server_side import ServerSideEmbedder, is_server_side
from qdrant_model_migration.errors import BadText, MigrationError, ModelNotUsable, Refused, SettingsError, Unsupported
from qdrant_model_migration.operations.agreement import agreement
from qdrant_model_migration.operations.compare_sample import compare_on_sample
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.recommend import recommend
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.qdrant.probe import leftovers
from tests.conftest import Backend, Cranfield, NewServer
from tests.inference_service import DIMENSIONS, UNKNOWN, inference_service, vector
from tests.qdrant.seeds import OLD, opened, seed
from tests.servers import QdrantServer

MODELS = {
    "german": {"provider": "qdrant", "model": "bm25", "language": " German "},
    "multilingual": {"provider": "qdrant", "model": "bm25", "tokenizer": "multilingual"},
    "klingon": {"provider": "qdrant", "model": "bm25", "language": "klingon"},
    "odd": {"provider": "qdrant", "model": "bm25", "tokenizer": "nope"},
    "cased": {"provider": "qdrant", "model": "bm25", "pooling": "cls"},
    "dense": {"provider": "qdrant", "model": "acme/dense", "dimensions": DIMENSIONS, "query_prefix": "q: "},
    "spoken": {"provider": "qdrant", "model": "acme/dense", "language": "german"},
}
TEXTS = ["The cats were running, running over the lazy dogs", "the of and", "naïve façade 2024"]


def on(server: QdrantServer, **more: str) -> Backend:
    models = {"QDRANT_MIGRATION_MODELS": json.dumps(MODELS)}
    return Backend(name=server.version, environment={**server.environment, **models, **more}, version=server.version)


async def bm25(context: OperationContext, name: str = "qdrant:bm25") -> ServerSideEmbedder[list[SparseVector]]:
    model = await context.any_model(name)
    assert is_server_side(model)
    return model


async def sparse_collection(gateway: Gateway, name: str, **more: Any) -> None:
    await gateway.create_collection(name, {"vectors": {}, "sparse_vectors": {"s": {"modifier": "idf", **more}}})


@pytest.mark.parametrize("prefer_grpc", ["false", "true"], ids=["rest", "grpc"])
async def test_the_server_s_bm25_is_written_as_a_text_and_read_as_what_embed_says(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, prefer_grpc: str
) -> None:
    async with opened(on(server, QDRANT_PREFER_GRPC=prefer_grpc), monkeypatch) as context:
        model, gateway = await bm25(context), await context.gateway()
        spec = model.spec
        assert (spec.name, spec.kind, spec.modifier, spec.is_server_side, spec.is_local) == (
            "qdrant:bm25",
            ModelKind.SPARSE,
            "idf",
            True,
            True,
        )
        assert spec.options == {"language": "english", "tokenizer": "word", "k": 1.2, "b": 0.75, "avg_len": 256.0}
        await sparse_collection(gateway, name)
        placeholders = [model.placeholder(text) for text in TEXTS]
        await gateway.points.insert(name, [Point(id=i, payload={}, vectors={"s": p}) for i, p in enumerate(placeholders)])
        # What the server makes of a text that says nothing about options: its defaults are those that are recorded.
        await gateway.points.write(name, [Point(id=9, payload={}, vectors={"s": ServerText(text=TEXTS[0], model="qdrant/bm25")})])
        stored = await gateway.points.retrieve(name, [0, 1, 2, 9], vectors=["s"])
        embedded = await model.embed(TEXTS, Side.DOCUMENT)
        for at in range(3):
            assert stored[at].vectors["s"]["indices"] == embedded[at]["indices"]
            assert stored[at].vectors["s"]["values"] == pytest.approx(embedded[at]["values"], rel=1e-6)
        assert stored[9].vectors["s"]["indices"] == embedded[0]["indices"]
        assert embedded[1] == {"indices": [], "values": []}
        assert await leftovers(gateway) == []
        assert (await agreement(model, TEXTS, [stored[i].vectors["s"] for i in range(3)])).wrong == []
        swapped = await agreement(model, TEXTS, [stored[i].vectors["s"] for i in (2, 1, 0)])
        assert swapped.wrong == [0, 2]


@pytest.mark.parametrize("prefer_grpc", ["false", "true"], ids=["rest", "grpc"])
async def test_a_query_by_text_is_a_query_by_indices_of_equal_weight(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, prefer_grpc: str
) -> None:
    """The query's vector is nowhere to be read: only that both searches score every point alike proves what `embed` says it is."""
    async with opened(on(server, QDRANT_PREFER_GRPC=prefer_grpc), monkeypatch) as context:
        model, gateway = await bm25(context), await context.gateway()
        await sparse_collection(gateway, name)
        texts = ["dog dog running cat", "horse and dog", "a cat in the house", "running horses"]
        await gateway.points.write(name, [Point(id=i, payload={}, vectors={"s": model.placeholder(t)}) for i, t in enumerate(texts)])
        for text in ("the running dog, dog and dog", "house", "zebra horse"):
            (query,) = await model.embed([text], Side.QUERY)
            assert set(query["values"]) == {1.0}
            by_text = await gateway.points.search(name, model.placeholder(text, Side.QUERY), using="s", limit=9, exact=True)
            by_vector = await gateway.points.search(name, query, using="s", limit=9, exact=True)
            assert {hit.id: hit.score for hit in by_text} == pytest.approx({hit.id: hit.score for hit in by_vector}, rel=1e-5)
            assert by_text
        assert await gateway.points.search(name, model.placeholder("the of", Side.QUERY), using="s", limit=9, exact=True) == []


async def test_language_and_tokenizer_reach_the_server(server: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(on(server), monkeypatch) as context:
        text = "die Häuser und der Fluss"
        german, english, several = [await bm25(context, name) for name in ("german", "qdrant:bm25", "multilingual")]
        assert german.spec.options["language"] == "german"
        assert several.spec.options["tokenizer"] == "multilingual"
        (in_german,), (in_english,) = await german.embed([text], Side.DOCUMENT), await english.embed([text], Side.DOCUMENT)
        assert (len(in_german["indices"]), len(in_english["indices"])) == (2, 5)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        # The server itself takes any language without a word, and then leaves out stop words and stemming.
        ("klingon", ModelNotUsable, r"language 'klingon'.* cannot be used; Qdrant says: .*StopwordsInterface"),
        ("odd", ModelNotUsable, r"tokenizer 'nope'.*unknown variant `nope`, expected one of `prefix`, `whitespace`, `word`"),
        ("cased", SettingsError, "pooling has no meaning for a model of the server"),
        ("spoken", SettingsError, "language and tokenizer are BM25's"),
        ("qdrant:bm25@64", Refused, "whose vectors are not cut"),
        ("qdrant:acme/dense", Refused, r"does not say how many dimensions .*'qdrant:acme/dense@384'"),
        ("qdrant:acme/dense@4", ModelNotUsable, "no inference service, and computes nothing itself but BM25"),
        ("qdrant:BAAI/bge-small-en-v1.5", ModelNotUsable, "InferenceService URL not configured"),
        ("qdrant:answerdotai/answerai-colbert-small-v1", ModelNotUsable, "InferenceService URL not configured"),
    ],
)
@pytest.mark.parametrize("prefer_grpc", ["false", "true"], ids=["rest", "grpc"])
async def test_what_the_server_does_not_compute_is_refused_in_its_words(
    server: QdrantServer, monkeypatch: pytest.MonkeyPatch, model: str, error: type[MigrationError], message: str, prefer_grpc: str
) -> None:
    async with opened(on(server, QDRANT_PREFER_GRPC=prefer_grpc), monkeypatch) as context:
        with pytest.raises(error, match=message):
            await context.any_model(model)
        assert await leftovers(await context.gateway()) == []


async def test_a_server_side_model_is_no_dense_one(server: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(on(server), monkeypatch) as context:
        with pytest.raises(Refused, match="is a sparse model, and a dense one is needed"):
            await context.model("qdrant:bm25")
        model = await bm25(context)
        assert await context.any_model("qdrant:qdrant/BM25") is model
        with pytest.raises(BadText, match="Text 0 is blank"):
            await model.embed(["  "], Side.DOCUMENT)
        assert await model.embed([], Side.DOCUMENT) == []
        with pytest.raises(Refused, match="here is none to ask"):
            await context.catalogue.load_any("german")


async def test_the_embedded_database_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path)}, version=None)
    async with opened(backend, monkeypatch) as context:
        with pytest.raises(Unsupported, match=r"embedded database computes no vectors.*'fastembed:Qdrant/bm25'"):
            await context.any_model("qdrant:bm25")


async def test_read_only_mode_writes_no_scratch_collection(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vectors of a server's model are seen only once they are stored; what is known without them is answered all the same."""
    async with opened(on(server), monkeypatch) as context:
        await seed(context, name)
        before = await (await context.gateway()).collections()
    async with opened(on(server, QDRANT_MIGRATION_READ_ONLY="true"), monkeypatch) as context:
        for model in ("qdrant:bm25", "dense"):
            with pytest.raises(Refused, match="QDRANT_MIGRATION_READ_ONLY forbids"):
                await context.any_model(model)
        with pytest.raises(Refused, match="QDRANT_MIGRATION_READ_ONLY forbids"):
            await compare_on_sample(context, collection=name, models=[OLD, "dense"])
        with pytest.raises(Refused, match="QDRANT_MIGRATION_READ_ONLY forbids"):
            await recommend(context, collection=name, goal="replace_model", model="dense")
        advised = await recommend(context, collection=name, goal="add_sparse")
        assert advised.recommendations[0].is_feasible
        assert await (await context.gateway()).collections() == before


async def test_each_connection_has_its_own(server_1_16: QdrantServer, server_1_17: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"QDRANT_MIGRATION_CONNECTIONS": json.dumps({"other": {"url": server_1_17.url}})}
    async with opened(on(server_1_16, **other), monkeypatch) as context:
        first, second = await context.any_model("qdrant:bm25"), await context.any_model("qdrant:bm25", "other")
        assert first is not second
        assert await context.any_model("qdrant:bm25", "default") is first


@pytest.mark.parametrize("prefer_grpc", ["false", "true"], ids=["rest", "grpc"])
@pytest.mark.parametrize("version", ["1.16.3", "1.17.0"])
@pytest.mark.server
async def test_dense_models_come_from_an_inference_service(
    new_server: NewServer, name: str, monkeypatch: pytest.MonkeyPatch, version: str, prefer_grpc: str
) -> None:
    """Documents are read back; a query, which the service embeds in another way, is found by its scores."""
    with inference_service() as service:
        server = new_server(version, settings=service.settings)
        async with opened(on(server, QDRANT_PREFER_GRPC=prefer_grpc), monkeypatch) as context:
            model = await context.model("dense")
            assert (model.spec.dimensions, model.spec.is_server_side, model.spec.is_local, model.spec.is_normalized) == (
                8,
                True,
                False,
                False,
            )
            assert is_server_side(model)
            assert "inference service" in (model.spec.note or "")
            texts = ["one", "another text"]
            documents, queries = await model.embed(texts, Side.DOCUMENT), await model.embed(texts, Side.QUERY)
            assert documents == pytest.approx(np.array([vector(t, "acme/dense", "update") for t in texts]), abs=1e-6)
            assert queries == pytest.approx(np.array([vector(f"q: {t}", "acme/dense", "search") for t in texts]), abs=1e-5)
            gateway = await context.gateway()
            await gateway.create_collection(name, {"vectors": {"size": 8, "distance": "Dot"}})
            await gateway.points.write(name, [Point(id=1, payload={}, vectors={"": model.placeholder("one")})])
            stored = await gateway.points.retrieve(name, [1], vectors=[""])
            assert stored[1].vectors[""] == pytest.approx(documents[0], abs=1e-6)
            (hit,) = await gateway.points.search(name, model.placeholder("one", Side.QUERY), using="", limit=1, exact=True)
            assert hit.score == pytest.approx(float(documents[0] @ queries[0]), rel=1e-5)
            with pytest.raises(ModelNotUsable, match="expected dim: 5, got 8"):
                await context.model("qdrant:acme/other@5")
            with pytest.raises(MigrationError, match=UNKNOWN):
                await context.model(f"qdrant:{UNKNOWN}@8")


async def test_sparse_and_multivectors_agree_with_what_every_backend_stores(
    any_qdrant: Backend, name: str, asset_models: str, cranfield: Cranfield, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also an empty sparse vector, and rows kept as float16: written, read back, and embedded again."""
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_MODELS=asset_models) as context:
        gateway = await context.gateway()
        sparse, late = await context.any_model("bm25"), await context.any_model("colbert")
        texts = [document.text for document in cranfield.documents[:12]] + ["the of and"]
        assert is_multivector(late)
        rows = await late.embed(texts, Side.DOCUMENT)
        field = {"size": 96, "distance": "Cosine", "multivector_config": {"comparator": "max_sim"}}
        await gateway.create_collection(
            name,
            {
                "vectors": {"m": field, "h": {**field, "datatype": "float16"}},
                "sparse_vectors": {"s": {"modifier": "idf"}},
            },
        )
        assert is_sparse(sparse)
        vectors = await sparse.embed(texts, Side.DOCUMENT)
        await gateway.points.write(
            name,
            [Point(id=i, payload={}, vectors={"s": vectors[i], "m": rows[i].tolist(), "h": rows[i].tolist()}) for i in range(len(texts))],
        )
        stored = await gateway.points.retrieve(name, range(len(texts)), vectors=["s", "m", "h"])
        assert stored[len(texts) - 1].vectors["s"] == {"indices": [], "values": []}
        for field_name, model, datatype in (("s", sparse, "float32"), ("m", late, "float32"), ("h", late, "float16")):
            read = [stored[i].vectors[field_name] for i in range(len(texts))]
            found = await agreement(model, texts, read, datatype=datatype)
            assert found.wrong == [], field_name
            read[3], read[4] = read[4], read[3]
            assert (await agreement(model, texts, read, datatype=datatype)).wrong == [3, 4], field_name
