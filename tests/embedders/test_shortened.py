"""`model@n`: the first n dimensions of a dense model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.embedders.catalogue import Catalogue
from qdrant_model_migration.embedders.shortened import ShortenedEmbedder
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import BadText, ModelNotUsable


@pytest.fixture
def catalogue(asset_models: str, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    named = {"nomic-embed-text-v1.5": {"provider": "builtin", "model": "hashing-64"}}
    monkeypatch.setenv("QDRANT_MIGRATION_MODELS", json.dumps({**json.loads(asset_models), **named}))
    return Catalogue(read_settings())


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "native"), [("minilm-l2", 384), ("builtin:hashing-256", 256)])
async def test_vectors_are_cut_and_brought_back_to_unit_length(catalogue: Catalogue, name: str, native: int) -> None:
    whole, short = await catalogue.load(name), await catalogue.load(f"{name}@128")
    assert (short.spec.name, short.spec.dimensions, short.spec.native_dimensions) == (f"{name}@128", 128, native)
    assert whole.spec.native_dimensions is None
    assert "not known to be trained for shorter vectors" in (short.spec.note or "")
    texts = ["the lift of a wing", "heat transfer"]
    for side in Side:
        expected = (await whole.embed(texts, side))[:, :128]
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        found = await short.embed(texts, side)
        assert found.dtype == np.float32
        assert found == pytest.approx(expected, abs=1e-6)
    assert (await short.embed([], Side.DOCUMENT)).shape == (0, 128)
    assert await short.count_tokens(texts) == await whole.count_tokens(texts)


@pytest.mark.anyio
async def test_the_whole_model_is_loaded_once_for_all_its_lengths(catalogue: Catalogue) -> None:
    whole = await catalogue.load("minilm-l2")
    first, second = await catalogue.load("minilm-l2@64"), await catalogue.load("minilm-l2@256")
    assert isinstance(first, ShortenedEmbedder)
    assert isinstance(second, ShortenedEmbedder)
    assert first._inner is second._inner is whole
    await first.close()
    assert (await second.embed(["still open"], Side.QUERY)).shape == (1, 256)


@pytest.mark.anyio
async def test_as_many_dimensions_as_there_are_is_the_model_itself_and_more_are_refused(catalogue: Catalogue) -> None:
    assert await catalogue.load("minilm-l2@384") is await catalogue.load("minilm-l2")
    with pytest.raises(ModelNotUsable, match="'minilm-l2' has 384 dimensions, so 512 cannot be cut from it"):
        await catalogue.load("minilm-l2@512")


@pytest.mark.anyio
async def test_a_matryoshka_model_is_cut_without_a_warning(catalogue: Catalogue) -> None:
    short = await catalogue.load("nomic-embed-text-v1.5@32")
    assert "Matryoshka" not in (short.spec.note or "")


@pytest.mark.anyio
async def test_a_vector_of_which_nothing_is_left_is_the_text_s_fault(catalogue: Catalogue) -> None:
    """One word in 4,096 buckets leaves the first two empty, all but certainly."""
    short = await catalogue.load("builtin:hashing-4096-words@2")
    with pytest.raises(BadText, match="zero or not finite"):
        await short.embed(["lift"], Side.DOCUMENT)
