"""Sparse FastEmbed models: BM25 on real files, SPLADE's way of failing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anyio
import numpy as np
import pytest

from qdrant_model_migration.domain.model import ModelKind, Side
from qdrant_model_migration.embedders.base import SparseEmbedder, is_sparse
from qdrant_model_migration.embedders.catalogue import Catalogue
from qdrant_model_migration.embedders.checks import check_sparse
from qdrant_model_migration.embedders.fastembed_sparse import load_sparse
from qdrant_model_migration.embedders.retrying import embed_resilient
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import BadText, MigrationError, ModelNotUsable, Refused, SettingsError
from qdrant_model_migration.operations.agreement import sparse_cosine
from qdrant_model_migration.settings import ModelSettings
from tests.conftest import Cranfield

BM25, SPLADE = "Qdrant/bm25", "prithivida/Splade_PP_en_v1"


@pytest.fixture
def catalogue(asset_models: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Catalogue:
    monkeypatch.setenv("QDRANT_MIGRATION_MODELS", asset_models)
    monkeypatch.setenv("FASTEMBED_CACHE_PATH", str(tmp_path / "cache"))
    return Catalogue(read_settings())


async def _bm25(catalogue: Catalogue) -> SparseEmbedder:
    model = await catalogue.load_any("bm25")
    assert is_sparse(model)
    return model


@pytest.mark.anyio
async def test_bm25_says_what_it_is(catalogue: Catalogue) -> None:
    spec = (await _bm25(catalogue)).spec
    assert (spec.name, spec.kind, spec.modifier, spec.dimensions) == ("bm25", ModelKind.SPARSE, "idf", None)
    assert spec.options == {"language": "english", "tokenizer": "word", "k": 1.2, "b": 0.75, "avg_len": 256.0}
    assert len(spec.fingerprint or "") == 16
    assert not spec.is_server_side


@pytest.mark.anyio
async def test_documents_are_weighed_and_queries_are_not(catalogue: Catalogue) -> None:
    model = await _bm25(catalogue)
    text = "wings and the flutter of wings"
    (document,), (query,) = await model.embed([text], Side.DOCUMENT), await model.embed([text], Side.QUERY)
    assert document["indices"] == query["indices"] == sorted(set(document["indices"]))
    assert query["values"] == [1.0, 1.0]
    # The formula, by hand: three words count, one of them twice.
    norm = 1.2 * (1 - 0.75 + 0.75 * 3 / 256)
    assert sorted(document["values"]) == pytest.approx([2.2 / (1 + norm), 2 * 2.2 / (2 + norm)], rel=1e-6)
    assert all(value == float(np.float32(value)) for value in document["values"])


@pytest.mark.anyio
async def test_a_text_of_which_nothing_counts_has_an_empty_vector_and_a_blank_one_is_refused(catalogue: Catalogue) -> None:
    model = await _bm25(catalogue)
    assert await model.embed(["the of and", "lift"], Side.DOCUMENT) == [
        {"indices": [], "values": []},
        (await model.embed(["lift"], Side.DOCUMENT))[0],
    ]
    assert await model.embed(["the"], Side.QUERY) == [{"indices": [], "values": []}]
    with pytest.raises(BadText, match="Text 1 is blank"):
        await model.embed(["lift", " "], Side.DOCUMENT)
    assert await model.embed([], Side.DOCUMENT) == []
    assert await model.count_tokens(["the lift, of the wing", "one"]) == [5, 1]


@pytest.mark.anyio
async def test_every_text_of_a_corpus_keeps_its_place(catalogue: Catalogue, cranfield: Cranfield) -> None:
    """Batches are sorted by length; the answers are not."""
    texts = [document.text for document in cranfield.documents if document.text.strip()]
    model = await _bm25(catalogue)
    rows, failures = await embed_resilient(model, texts, Side.DOCUMENT, should_stop=lambda: False)
    assert not failures
    for at in (0, 7, 700, len(texts) - 1):
        assert rows[at] == (await model.embed([texts[at]], Side.DOCUMENT))[0]


@pytest.mark.anyio
async def test_bm25_alone_ranks_cranfield_as_well_as_was_measured(catalogue: Catalogue, cranfield: Cranfield) -> None:
    """recall@10 of .380 by exact search: the document and the query side fit each other."""
    model = await _bm25(catalogue)
    documents = [document for document in cranfield.documents if document.text.strip()]
    vectors = await model.embed([document.text for document in documents], Side.DOCUMENT)
    holding: dict[int, list[tuple[int, float]]] = {}
    for document, vector in zip(documents, vectors, strict=True):
        for index, value in zip(vector["indices"], vector["values"], strict=True):
            holding.setdefault(index, []).append((document.id, value))
    recalls = []
    for query, sparse in zip(cranfield.queries, await model.embed(list(cranfield.queries.values()), Side.QUERY), strict=True):
        scores: dict[int, float] = {}
        for index in sparse["indices"]:
            found = holding.get(index, [])
            idf = np.log((len(documents) - len(found) + 0.5) / (len(found) + 0.5) + 1)
            for document_id, value in found:
                scores[document_id] = scores.get(document_id, 0.0) + float(idf) * value
        best = {str(i) for i in sorted(scores, key=lambda i: -scores[i])[:10]}
        relevant = set(cranfield.qrels.get(query, {}))
        if relevant:
            recalls.append(len(best & relevant) / len(relevant))
    assert np.mean(recalls) == pytest.approx(0.380, abs=0.01)


@pytest.mark.anyio
async def test_a_directory_without_the_stop_words_is_refused(assets: Path, tmp_path: Path) -> None:
    """Fact 5: FastEmbed loads it without a word, and every "the" counts."""
    entry = ModelSettings(model=BM25, path=tmp_path)
    with pytest.raises(ModelNotUsable, match=r"no stop words for 'english' .*english\.txt is missing or empty"):
        await load_sparse("x", BM25, entry)
    (tmp_path / "english.txt").write_text("\n")
    with pytest.raises(ModelNotUsable, match="no stop words"):
        await load_sparse("x", BM25, entry)
    shutil.copy(assets / "models" / "bm25" / "english.txt", tmp_path)
    assert (await load_sparse("x", BM25, entry)).spec.options["language"] == "english"


@pytest.mark.anyio
async def test_the_language_decides_what_counts(tmp_path: Path) -> None:
    (tmp_path / "german.txt").write_text("der\ndie\nund\n")
    (tmp_path / "english.txt").write_text("the\nand\n")
    german = await load_sparse("de", BM25, ModelSettings(path=tmp_path, language="German"))
    english = await load_sparse("en", BM25, ModelSettings(path=tmp_path))
    assert german.spec.options["language"] == "german"
    assert german.spec.fingerprint != english.spec.fingerprint
    text = "die Häuser und der Fluss"
    (in_german,), (in_english,) = await german.embed([text], Side.DOCUMENT), await english.embed([text], Side.DOCUMENT)
    assert (len(in_german["indices"]), len(in_english["indices"])) == (2, 5)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"language": "klingon"}, ModelNotUsable, "no language 'klingon'. It has arabic, "),
        ({"tokenizer": "multilingual"}, SettingsError, "'word' only, not 'multilingual'.*provider 'qdrant'"),
        ({"pooling": "cls"}, SettingsError, "pooling has no meaning for a sparse model"),
        ({"dimensions": 3}, SettingsError, "dimensions has no meaning"),
    ],
)
async def test_settings_that_bm25_does_not_take_are_refused(
    assets: Path, settings: dict[str, object], error: type[MigrationError], message: str
) -> None:
    with pytest.raises(error, match=message):
        await load_sparse("x", BM25, ModelSettings.model_validate({"path": assets / "models" / "bm25", **settings}))


@pytest.mark.anyio
async def test_a_language_of_a_dense_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_MIGRATION_MODELS", json.dumps({"m": {"path": "/nowhere", "language": "german"}}))
    with pytest.raises(SettingsError, match="language is BM25's alone"):
        await Catalogue(read_settings()).load_any("m")


@pytest.mark.anyio
async def test_bm25_loads_from_the_cache(assets: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    snapshot = tmp_path / "cache" / "models--Qdrant--bm25"
    shutil.copytree(assets / "models" / "bm25", snapshot / "snapshots" / "0")
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("0")
    with anyio.fail_after(20):
        model = await catalogue.load_any("fastembed:bm25")
    assert model.spec.name == "fastembed:Qdrant/bm25"
    assert model.spec.fingerprint == (await _bm25(catalogue)).spec.fingerprint
    ready = {usable.name: usable for usable in await catalogue.usable(ModelKind.SPARSE)}
    assert ready["fastembed:Qdrant/bm25"].is_ready


@pytest.mark.anyio
async def test_a_model_that_is_not_there_is_refused_at_once_when_offline(catalogue: Catalogue) -> None:
    with (
        anyio.fail_after(10),
        pytest.raises(ModelNotUsable, match=r"not in FastEmbed's cache, and HF_HUB_OFFLINE forbids the download of 0\.532 GB"),
    ):
        await catalogue.load_any("fastembed:prithivida/Splade_PP_en_v1")


@pytest.mark.anyio
async def test_a_directory_without_the_model_s_files_is_refused(assets: Path) -> None:
    with pytest.raises(ModelNotUsable, match=r"has no model\.onnx and no tokenizer\.json"):
        await load_sparse("x", SPLADE, ModelSettings(path=assets / "models" / "bm25"))


@pytest.mark.anyio
async def test_a_model_with_a_network_is_run_in_batches_like_a_dense_one(assets: Path, cranfield: Cranfield) -> None:
    """SPLADE's class over the token states of a small encoder: there is no SPLADE here, but its vectors are made in the same way."""
    model = await load_sparse("x", SPLADE, ModelSettings(path=assets / "models" / "all-MiniLM-L6-v2"))
    assert (model.spec.modifier, model.spec.options, model.spec.max_tokens) == (None, {}, 256)
    texts = [document.text for document in cranfield.documents[:20]]
    found = await model.embed(texts, Side.DOCUMENT)
    assert all(0 < len(vector["indices"]) <= 384 and min(vector["values"]) > 0 for vector in found)
    (alone,) = await model.embed([texts[3]], Side.DOCUMENT)
    assert sparse_cosine(found[3], alone) > 0.9999 > sparse_cosine(found[4], alone)
    assert await model.embed([texts[3]], Side.QUERY) == [alone]
    assert await model.count_tokens(["lift"]) == [3]


@pytest.mark.anyio
async def test_a_sparse_model_is_not_taken_for_a_dense_one(catalogue: Catalogue) -> None:
    with pytest.raises(Refused, match=r"'bm25' is a sparse model, and a dense one is needed here\. It is the strategy 'add_sparse'"):
        await catalogue.load("bm25")
    with pytest.raises(Refused, match="whose vectors are not cut"):
        await catalogue.load_any("bm25@64")


@pytest.mark.anyio
async def test_usable_models_are_listed_by_kind(catalogue: Catalogue) -> None:
    sparse = {usable.name: usable for usable in await catalogue.usable(ModelKind.SPARSE)}
    assert sparse["bm25"].is_ready
    assert "from 1.15.2 on" in (sparse["qdrant:bm25"].note or "")
    assert "needs a download of 532 MB" in (sparse["fastembed:prithivida/Splade_PP_en_v1"].note or "")
    assert all(usable.kind is ModelKind.SPARSE for usable in sparse.values())
    late = {usable.name: usable for usable in await catalogue.usable(ModelKind.MULTIVECTOR)}
    assert late["colbert"].is_ready
    assert late["fastembed:answerdotai/answerai-colbert-small-v1"].dimensions == 96
    assert not set(late) & set(sparse)


@pytest.mark.anyio
async def test_a_closed_model_says_so(catalogue: Catalogue) -> None:
    model = await _bm25(catalogue)
    await catalogue.close()
    with pytest.raises(ModelNotUsable, match="was closed"):
        await model.embed(["a"], Side.DOCUMENT)
    assert await model.count_tokens(["a"]) is None


@pytest.mark.parametrize(
    ("pairs", "error"),
    [
        ([([1, 2], [0.5])], ModelNotUsable),
        ([([1, 1], [0.5, 0.5])], ModelNotUsable),
        ([([-1], [0.5])], ModelNotUsable),
        ([([2**32], [0.5])], ModelNotUsable),
        ([([0.5], [0.5])], ModelNotUsable),
        ([], ModelNotUsable),
        ([([1], [float("nan")])], BadText),
        ([([1], [1e300])], BadText),
    ],
)
def test_sparse_answers_that_cannot_be_stored_are_refused(pairs: list[tuple[list[float], list[float]]], error: type[Exception]) -> None:
    with np.errstate(over="ignore"), pytest.raises(error):
        check_sparse(pairs, 1, "m")


def test_sparse_answers_are_sorted_as_qdrant_gives_them_back() -> None:
    assert check_sparse([([7, 3], [0.5, 0.25]), ([], [])], 2, "m") == [
        {"indices": [3, 7], "values": [0.25, 0.5]},
        {"indices": [], "values": []},
    ]
