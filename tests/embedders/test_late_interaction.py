"""Late-interaction FastEmbed models, on real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qdrant_model_migration.domain.model import ModelKind, Side
from qdrant_model_migration.embedders.base import Multivector, MultivectorEmbedder, is_multivector
from qdrant_model_migration.embedders.catalogue import Catalogue
from qdrant_model_migration.embedders.checks import check_multivectors
from qdrant_model_migration.embedders.fastembed_late import load_late_interaction
from qdrant_model_migration.embedders.retrying import embed_resilient
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import BadText, ModelNotUsable, Refused, SettingsError
from qdrant_model_migration.operations.agreement import multivector_cosine
from qdrant_model_migration.settings import ModelSettings
from tests.conftest import Cranfield

COLBERT = "answerdotai/answerai-colbert-small-v1"


@pytest.fixture
def catalogue(asset_models: str, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    monkeypatch.setenv("QDRANT_MIGRATION_MODELS", asset_models)
    return Catalogue(read_settings())


async def _colbert(catalogue: Catalogue) -> MultivectorEmbedder:
    model = await catalogue.load_any("colbert")
    assert is_multivector(model)
    return model


def _max_sim(query: Multivector, document: Multivector) -> float:
    return float((query @ document.T).max(axis=1).sum())


@pytest.mark.anyio
async def test_a_local_directory_is_measured_and_fingerprinted(catalogue: Catalogue) -> None:
    spec = (await _colbert(catalogue)).spec
    assert (spec.kind, spec.dimensions, spec.is_normalized, spec.modifier) == (ModelKind.MULTIVECTOR, 96, True, None)
    assert len(spec.fingerprint or "") == 16
    assert spec.max_tokens is not None


@pytest.mark.anyio
async def test_documents_have_a_row_a_token_and_queries_are_filled_up(catalogue: Catalogue) -> None:
    model = await _colbert(catalogue)
    documents = await model.embed(["lift", "the lift of a swept wing, at high speed"], Side.DOCUMENT)
    queries = await model.embed(["lift", "swept wing"], Side.QUERY)
    assert [rows.shape for rows in queries] == [(32, 96), (32, 96)]
    assert len(documents[0]) < len(documents[1])
    assert all(rows.dtype == np.float32 for rows in (*documents, *queries))
    assert np.linalg.norm(documents[1], axis=1) == pytest.approx(1.0, abs=1e-5)
    counted = await model.count_tokens(["the lift of a swept wing, at high speed"])
    assert counted is not None
    # The marker is added, the comma left out.
    assert len(documents[1]) == counted[0]


@pytest.mark.anyio
async def test_questions_find_their_documents(catalogue: Catalogue) -> None:
    model = await _colbert(catalogue)
    texts = ["the flutter of panels at supersonic speed", "heat transfer in a boundary layer", "buckling of thin cylindrical shells"]
    documents = await model.embed(texts, Side.DOCUMENT)
    for at, query in enumerate(await model.embed(["panel flutter", "boundary layer heating", "shell buckling"], Side.QUERY)):
        assert int(np.argmax([_max_sim(query, document) for document in documents])) == at


@pytest.mark.anyio
async def test_the_order_of_the_texts_is_kept(catalogue: Catalogue, cranfield: Cranfield) -> None:
    texts = [document.text for document in cranfield.documents[:20]]
    model = await _colbert(catalogue)
    together, failures = await embed_resilient(model, texts, Side.DOCUMENT, should_stop=lambda: False)
    assert not failures
    for at in (0, 5, 19):
        (alone,) = await model.embed([texts[at]], Side.DOCUMENT)
        assert multivector_cosine(together[at], alone) > 0.97


@pytest.mark.anyio
async def test_a_blank_text_is_refused_and_nothing_to_embed_is_nothing(catalogue: Catalogue) -> None:
    model = await _colbert(catalogue)
    with pytest.raises(BadText, match="Text 1 is blank"):
        await model.embed(["fine", "  "], Side.DOCUMENT)
    assert await model.embed([], Side.QUERY) == []


@pytest.mark.anyio
async def test_a_multivector_model_is_not_taken_for_a_dense_one_and_not_cut(catalogue: Catalogue) -> None:
    with pytest.raises(Refused, match=r"is a multivector model.*'add_multivector'"):
        await catalogue.load("colbert")
    with pytest.raises(Refused, match="whose vectors are not cut"):
        await catalogue.load_any("colbert@64")


@pytest.mark.anyio
async def test_a_definition_that_does_not_fit_is_refused(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = assets / "models"
    with pytest.raises(ModelNotUsable, match="said to have 128 dimensions, but its vectors have 96"):
        await load_late_interaction("x", COLBERT, ModelSettings(path=models / "colbert-l2-int8", dimensions=128))
    with pytest.raises(SettingsError, match="language, pooling has no meaning for a multivector model"):
        await load_late_interaction("x", COLBERT, ModelSettings(path=models / "colbert-l2-int8", language="german", pooling="cls"))
    monkeypatch.setenv("QDRANT_MIGRATION_MODELS", json.dumps({"wrong": {"model": COLBERT, "path": str(models / "minilm-l2-int8")}}))
    with pytest.raises(ModelNotUsable, match=r"has no vespa_colbert.onnx"):
        await Catalogue(read_settings()).load_any("wrong")


@pytest.mark.parametrize(
    ("vectors", "error"),
    [
        ([[[1.0, 0.0]]], ModelNotUsable),
        ([[[1.0, 0.0]], [[1.0]]], ModelNotUsable),
        ([[[1.0], [1.0]], [[1.0]]], ModelNotUsable),
        ([[[1.0, 0.0], [1.0]], [[1.0, 0.0]]], ModelNotUsable),
        ([[1.0, 0.0], [1.0, 0.0]], ModelNotUsable),
        ([[[1.0, 0.0]], np.zeros((0, 2))], BadText),
        ([[[1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]], BadText),
        ([[[1.0, 0.0]], [[float("inf"), 0.0]]], BadText),
    ],
)
def test_multivectors_that_cannot_be_stored_are_refused(vectors: list[object], error: type[Exception]) -> None:
    with pytest.raises(error):
        check_multivectors(vectors, 2, 2, "m")
