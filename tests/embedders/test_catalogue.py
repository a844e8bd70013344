"""Names, and the list of usable models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qdrant_model_migration.embedders.catalogue import Catalogue
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import MigrationError, ModelNotUsable, NotFound, Refused, SettingsError

MODELS = {
    "house": {"path": "/nowhere", "dimensions": 384},
    "nomic:latest": {"provider": "openai", "base_url": "http://localhost:1/v1"},
    "bge-small-en-v1.5": {"model": "BAAI/bge-small-en-v1.5", "document_prefix": "", "query_prefix": ""},
    "tiny": {"provider": "builtin", "model": "hashing-16"},
    "odd": {"provider": "mars"},
    "keyed": {"provider": "openai", "model": "text-embedding-3-small", "key_variable": "A_KEY_THAT_IS_NOT_SET"},
}


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Catalogue:
    monkeypatch.setenv("QDRANT_MIGRATION_MODELS", json.dumps(MODELS))
    monkeypatch.setenv("FASTEMBED_CACHE_PATH", str(tmp_path))
    return Catalogue(read_settings())


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("house", "house"),
        ("HOUSE", "house"),
        ("house@384", "house@384"),
        ("nomic:latest", "nomic:latest"),
        ("nomic:latest@256", "nomic:latest@256"),
        ("bge-small-en-v1.5", "bge-small-en-v1.5"),
        ("fastembed:bge-small-en-v1.5", "fastembed:BAAI/bge-small-en-v1.5"),
        ("BAAI/bge-small-en-v1.5", "fastembed:BAAI/bge-small-en-v1.5"),
        ("bge-small-en", "fastembed:BAAI/bge-small-en"),
        ("bge-large", "fastembed:BAAI/bge-large-en-v1.5"),
        ("all-MiniLM", "fastembed:sentence-transformers/all-MiniLM-L6-v2"),
        ("hashing-256-words", "builtin:hashing-256-words"),
        ("builtin:Hashing-64", "builtin:hashing-64"),
        ("openai:text-embedding-3-large@1024", "openai:text-embedding-3-large@1024"),
        ("voyage:voyage-4", "voyageai:voyage-4"),
        ("Cohere:embed-v4.0", "cohere:embed-v4.0"),
        ("Qdrant/bm25", "fastembed:Qdrant/bm25"),
        ("fastembed:bm25", "fastembed:Qdrant/bm25"),
        ("qdrant:bm25", "qdrant:bm25"),
        ("Qdrant:qdrant/BM25", "qdrant:bm25"),
        ("qdrant:sentence-transformers/all-minilm-l6-v2@384", "qdrant:sentence-transformers/all-minilm-l6-v2@384"),
        ("splade", "fastembed:prithivida/Splade_PP_en_v1"),
        ("prithivida/Splade_PP_en_v1", "fastembed:prithivida/Splade_PP_en_v1"),
        ("answerai-colbert", "fastembed:answerdotai/answerai-colbert-small-v1"),
    ],
)
def test_a_name_is_completed_when_exactly_one_model_fits(catalogue: Catalogue, name: str, canonical: str) -> None:
    assert str(catalogue.resolve(name)) == canonical


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("bge-small", Refused, "'BAAI/bge-small-en', 'BAAI/bge-small-en-v1.5', 'BAAI/bge-small-zh-v1.5'"),
        ("bge-smal-en-v15", NotFound, "bge-small-en-v1.5"),
        ("text-embedding-3-smal", NotFound, "openai:text-embedding-3-small"),
        ("bm25", Refused, "may be 'qdrant:bm25', which the server computes.*or 'fastembed:Qdrant/bm25'"),
        ("prithivida/Splade_PP_en_v2", NotFound, "prithivida/Splade_PP_en_v1"),
        ("/srv/models/house", NotFound, "QDRANT_MIGRATION_MODELS"),
        ("builtin:hashing-3", NotFound, "16 to 4096"),
        ("mars:model", NotFound, "model provider 'mars'"),
        ("house@many", Refused, "not a number of dimensions"),
    ],
)
def test_other_names_are_refused_with_what_there_is(catalogue: Catalogue, name: str, error: type[MigrationError], message: str) -> None:
    with pytest.raises(error, match=message):
        catalogue.resolve(name)


@pytest.mark.anyio
async def test_a_loaded_model_is_kept_until_the_catalogue_is_closed(catalogue: Catalogue) -> None:
    first = await catalogue.load("hashing-64")
    assert await catalogue.load("builtin:hashing-64") is first
    await catalogue.close()
    assert await catalogue.load("hashing-64") is not first


@pytest.mark.anyio
async def test_a_failed_load_is_not_remembered(catalogue: Catalogue) -> None:
    for _ in range(2):
        with pytest.raises(ModelNotUsable):
            await catalogue.load("house")


@pytest.mark.anyio
async def test_configured_models_of_other_providers_load_under_their_own_names(catalogue: Catalogue) -> None:
    model = await catalogue.load("tiny")
    assert (model.spec.name, model.spec.dimensions) == ("tiny", 16)
    with pytest.raises(ModelNotUsable, match="'tiny' has 16 dimensions, so 32 cannot be cut from it"):
        await catalogue.load("tiny@32")
    with pytest.raises(SettingsError, match="provider 'mars' is not one of"):
        await catalogue.load("odd")


@pytest.mark.anyio
async def test_usable_models_say_what_each_still_needs(catalogue: Catalogue) -> None:
    found = {usable.name: usable for usable in await catalogue.usable()}
    assert set(MODELS) <= set(found)
    assert not found["house"].is_ready
    assert "has no model.onnx" in (found["house"].note or "")
    assert "A_KEY_THAT_IS_NOT_SET" in (found["keyed"].note or "") or "providers" in (found["keyed"].note or "")
    assert "download" in (found["bge-small-en-v1.5"].note or "")
    assert not found["odd"].is_ready
    bge = found["fastembed:BAAI/bge-small-en-v1.5"]
    assert (bge.is_ready, bge.dimensions, bge.max_tokens) == (False, 384, 512)
    assert "67 MB" in (bge.note or "")
    assert found["builtin:hashing-256"].is_ready
    assert "lexical" in (found["builtin:hashing-256"].note or "")


def test_the_package_is_imported_without_the_heavy_libraries() -> None:
    """A server that starts should not pay for models it may never load."""
    program = (
        "import sys\n"
        "import qdrant_model_migration.embedders.catalogue, qdrant_model_migration.embedders.retrying\n"
        "print([m for m in ('fastembed', 'onnxruntime', 'pydantic_ai', 'openai', 'tokenizers', 'huggingface_hub') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
