"""Dense FastEmbed models, on real files and without network."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import numpy as np
import pytest

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.embedders.base import Embedder
from qdrant_model_migration.embedders.batch_sizes import SIZES, USUAL
from qdrant_model_migration.embedders.catalogue import Catalogue
from qdrant_model_migration.embedders.cores import usable_cores
from qdrant_model_migration.embedders.fastembed import FastEmbedder, load_fastembed
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import BadText, ModelNotUsable, SettingsError
from qdrant_model_migration.settings import ModelSettings
from tests.conftest import Cranfield

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def catalogue(asset_models: str, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    monkeypatch.setenv("QDRANT_MIGRATION_MODELS", asset_models)
    return Catalogue(read_settings())


@pytest.fixture
def cache(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """FastEmbed's cache with all-MiniLM-L6-v2 in it."""
    tools = _offline_models(assets)
    tools.build_hf_cache(tmp_path, {"Qdrant/all-MiniLM-L6-v2-onnx": "all-MiniLM-L6-v2"})
    monkeypatch.setenv("FASTEMBED_CACHE_PATH", str(tmp_path))
    return tmp_path


def _offline_models(assets: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("offline_models", assets / "tools" / "offline_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _local(assets: Path, folder: str, **settings: object) -> FastEmbedder:
    entry = ModelSettings.model_validate({"path": assets / "models" / folder, **settings})
    return await load_fastembed("under-test", None, entry)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "dimensions"),
    [("minilm", 384), ("minilm-int8", 384), ("minilm-l2", 384), ("minilm-256", 256), ("minilm-1152", 1152), ("minilm-cls", 384)],
)
async def test_a_local_directory_is_measured_and_fingerprinted(catalogue: Catalogue, name: str, dimensions: int) -> None:
    model = await catalogue.load(name)
    assert model.spec.name == name
    assert model.spec.dimensions == dimensions
    assert model.spec.is_normalized
    assert model.spec.is_local
    assert model.spec.max_tokens == 256
    assert len(model.spec.fingerprint or "") == 16
    vectors = await model.embed(["one", "two"], Side.DOCUMENT)
    assert vectors.shape == (2, dimensions)
    await catalogue.close()


@pytest.mark.parametrize("stated", ["3", "1", None])
async def test_a_model_uses_the_threads_that_it_is_granted(assets: Path, monkeypatch: pytest.MonkeyPatch, stated: str | None) -> None:
    """As many calls at once, each with one thread; none of the process's own threads is held by more."""
    monkeypatch.delenv("QDRANT_MIGRATION_EMBEDDING_THREADS")
    if stated is not None:
        monkeypatch.setenv("QDRANT_MIGRATION_EMBEDDING_THREADS", stated)
    made = await _local(assets, "all-MiniLM-L6-v2-int8", dimensions=384)
    assert made._model.model.model.get_session_options().intra_op_num_threads == 1
    embed, inside, most = made._model.passage_embed, 0, 0
    lock = threading.Lock()

    def counted(*args: Any, **options: Any) -> list[Any]:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        found = list(embed(*args, **options))
        with lock:
            inside -= 1
        return found

    monkeypatch.setattr(made._model, "passage_embed", counted)
    rows = await made.embed([f"text number {i} of several" for i in range(64)], Side.DOCUMENT)
    assert most == (int(stated) if stated else usable_cores())
    monkeypatch.undo()
    one_by_one = np.vstack([await made.embed([f"text number {i} of several"], Side.DOCUMENT) for i in range(64)])
    # In their order, and as near to one another as dynamic quantization allows.
    assert ((rows * one_by_one).sum(axis=1) > 0.98).all()
    assert (np.argmax(rows @ one_by_one.T, axis=1) == np.arange(64)).all()


@pytest.mark.parametrize(("model", "chosen"), [("all-MiniLM-L6-v2-int8", USUAL), ("all-MiniLM-L6-v2", None)])
async def test_only_models_whose_vectors_know_no_company_try_batch_sizes(assets: Path, model: str, chosen: int | None) -> None:
    """Dynamic quantization gives a text other vectors in other batches; more sizes would spread them further."""
    made = await _local(assets, model, dimensions=384)
    await made.embed([f"a text of {'some ' * (i % 9)}words, number {i}" for i in range(sum(SIZES))], Side.DOCUMENT)
    assert made._is_company_known
    assert made._sizes.chosen == chosen


@pytest.mark.anyio
async def test_two_definitions_of_one_file_are_two_spaces(catalogue: Catalogue) -> None:
    """minilm-int8 and minilm-cls read the same file; their names in FastEmbed's registry must not meet."""
    mean, cls = await catalogue.load("minilm-int8"), await catalogue.load("minilm-cls")
    assert mean.spec.fingerprint == cls.spec.fingerprint
    a, b = await mean.embed(["wind tunnel"], Side.DOCUMENT), await cls.embed(["wind tunnel"], Side.DOCUMENT)
    assert float(a[0] @ b[0]) < 0.95


@pytest.mark.anyio
async def test_the_order_of_the_texts_is_kept_though_batches_are_sorted_by_length(catalogue: Catalogue, cranfield: Cranfield) -> None:
    texts = [document.text for document in cranfield.documents[:40]]
    model = await catalogue.load("minilm")
    together = await model.embed(texts, Side.DOCUMENT)
    alone = np.concatenate([await model.embed([text], Side.DOCUMENT) for text in texts])
    assert np.einsum("ij,ij->i", together, alone).min() > 0.9999


@pytest.mark.anyio
async def test_int8_vectors_depend_on_their_batch_but_stay_within_the_known_spread(catalogue: Catalogue, cranfield: Cranfield) -> None:
    """Fact 1: exact equality proves nothing for a dynamically quantized model."""
    texts = [document.text for document in cranfield.documents[:32]]
    model = await catalogue.load("minilm-int8")
    together = await model.embed(texts, Side.DOCUMENT)
    alone = np.concatenate([await model.embed([text], Side.DOCUMENT) for text in texts])
    cosine = np.einsum("ij,ij->i", together, alone)
    assert 0.98 < cosine.min() < 0.99999


@pytest.mark.anyio
async def test_tokens_are_counted_beyond_the_truncation_and_with_the_prefix(assets: Path) -> None:
    """Counting must not switch the model's own truncation off."""
    long = "wing " * 1000
    plain = await _local(assets, "all-MiniLM-L6-v2-int8")
    before = await plain.embed([long], Side.DOCUMENT)
    assert await plain.count_tokens([long, "wing"]) == [1002, 3]
    assert np.array_equal(before, await plain.embed([long], Side.DOCUMENT))
    prefixed = await _local(assets, "all-MiniLM-L6-v2-int8", document_prefix="passage: ")
    assert await prefixed.count_tokens(["wing"]) == [5]


@pytest.mark.anyio
async def test_prefixes_differ_by_side_and_change_the_vector(assets: Path) -> None:
    plain = await _local(assets, "all-MiniLM-L6-v2-int8")
    model = await _local(assets, "all-MiniLM-L6-v2-int8", document_prefix="passage: ", query_prefix="query: ")
    document, query = await model.embed(["lift"], Side.DOCUMENT), await model.embed(["lift"], Side.QUERY)
    assert np.array_equal(document, await plain.embed(["passage: lift"], Side.DOCUMENT))
    assert np.array_equal(query, await plain.embed(["query: lift"], Side.QUERY))


@pytest.mark.anyio
async def test_a_smaller_token_limit_is_put_into_force_and_a_larger_one_is_not(assets: Path) -> None:
    short = await _local(assets, "all-MiniLM-L6-v2-int8", max_tokens=8)
    assert short.spec.max_tokens == 8
    texts = ["one two three four five six seven", "one two three four five six and other things"]
    cut = await short.embed(texts, Side.DOCUMENT)
    assert float(cut[0] @ cut[1]) > 0.999
    large = await _local(assets, "all-MiniLM-L6-v2-int8", max_tokens=100_000)
    assert large.spec.max_tokens == 256


@pytest.mark.anyio
async def test_unnormalized_vectors_are_said_to_be(assets: Path) -> None:
    model = await _local(assets, "minilm-l2-int8", normalize=False)
    assert not model.spec.is_normalized


@pytest.mark.anyio
async def test_a_blank_or_foreign_text_is_refused(catalogue: Catalogue) -> None:
    """Fact 9: FastEmbed gives blanks an ordinary vector and stumbles over None only when its answer is consumed."""
    model = await catalogue.load("minilm-l2")
    with pytest.raises(BadText, match="Text 1 is blank"):
        await model.embed(["fine", "   "], Side.DOCUMENT)
    with pytest.raises(BadText, match="is of type int, not text"):
        await model.embed(["fine", 7], Side.DOCUMENT)  # type: ignore[list-item]


@pytest.mark.anyio
async def test_nothing_to_embed_is_an_empty_array(catalogue: Catalogue) -> None:
    model = await catalogue.load("minilm-256")
    assert (await model.embed([], Side.DOCUMENT)).shape == (0, 256)


@pytest.mark.anyio
async def test_the_event_loop_stays_free_while_texts_are_embedded(catalogue: Catalogue, cranfield: Cranfield) -> None:
    model: Embedder = await catalogue.load("minilm-l2")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.sleep(0.005)
            ticks += 1

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        await model.embed([document.text for document in cranfield.documents[:48]], Side.DOCUMENT)
        group.cancel_scope.cancel()
    assert ticks >= 3


@pytest.mark.anyio
async def test_a_wrong_number_of_dimensions_is_found_by_a_real_vector(assets: Path) -> None:
    """Fact 3: FastEmbed believes the declaration."""
    with pytest.raises(ModelNotUsable, match="said to have 512 dimensions, but its vectors have 384"):
        await _local(assets, "minilm-l2-int8", dimensions=512)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("folder", "settings", "message"),
    [
        ("minilm-multihead-int8", {"output_name": "nope"}, "sentence_embedding_256"),
        ("minilm-multihead-int8", {"pooling": "none"}, "cannot embed even a sound text"),
        ("bm25", {}, "no model.onnx and no tokenizer.json"),
        ("minilm-l2-int8", {"file": "other.onnx"}, "has no other.onnx"),
        ("not-there", {}, "not a directory"),
    ],
)
async def test_a_definition_that_does_not_fit_its_files_is_refused(
    assets: Path, folder: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelNotUsable, match=message):
        await _local(assets, folder, **settings)


@pytest.mark.anyio
async def test_broken_files_are_refused(assets: Path, tmp_path: Path) -> None:
    for broken, content in (("tokenizer.json", "{"), ("model.onnx", "not a model")):
        folder = tmp_path / broken
        shutil.copytree(assets / "models" / "minilm-l2-int8", folder, copy_function=shutil.copyfile)
        (folder / broken).write_text(content)
        with pytest.raises(ModelNotUsable):
            await load_fastembed("broken", None, ModelSettings(path=folder))


@pytest.mark.anyio
async def test_a_cached_built_in_model_loads_offline(cache: Path, catalogue: Catalogue, assets: Path) -> None:
    with anyio.fail_after(20):
        model = await catalogue.load("all-minilm-l6-v2")
    assert model.spec.name == f"fastembed:{MINILM}"
    assert model.spec.document_prefix == model.spec.query_prefix == ""
    local = await catalogue.load("minilm")
    assert model.spec.fingerprint == local.spec.fingerprint
    a, b = await model.embed(["lift and drag"], Side.QUERY), await local.embed(["lift and drag"], Side.QUERY)
    assert float(a[0] @ b[0]) > 0.9999
    ready = {usable.name for usable in await catalogue.usable() if usable.is_ready}
    assert f"fastembed:{MINILM}" in ready


@pytest.mark.anyio
async def test_a_built_in_model_that_is_not_there_is_refused_at_once_when_offline(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fact 10: the library's own way to find this out sleeps for 39 seconds."""
    monkeypatch.setenv("FASTEMBED_CACHE_PATH", str(tmp_path / "empty"))
    with anyio.fail_after(5), pytest.raises(ModelNotUsable, match=r"not in FastEmbed's cache, and HF_HUB_OFFLINE forbids .* Unset"):
        await catalogue.load("BAAI/bge-small-en-v1.5")


@pytest.mark.anyio
async def test_a_download_that_fails_is_given_up_within_seconds(tmp_path: Path) -> None:
    """Fact 10: left to itself FastEmbed sleeps 3, 9 and 27 s. In a process of its own: the hub's client reads its variables once."""
    program = (
        "import anyio\n"
        "from qdrant_model_migration.embedders.catalogue import Catalogue\n"
        "from qdrant_model_migration.errors import ModelNotUsable\n"
        "from qdrant_model_migration.environment import read_settings\n"
        "try:\n"
        "    anyio.run(Catalogue(read_settings()).load, 'fastembed:BAAI/bge-small-en-v1.5')\n"
        "except ModelNotUsable as error:\n"
        "    print(error)\n"
    )
    unreachable = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "FASTEMBED_CACHE_PATH": str(tmp_path)}
    with anyio.fail_after(20):
        done = await anyio.run_process([sys.executable, "-c", program], env={**os.environ, **unreachable})
    assert "downloading its 0.067 GB from Hugging Face failed" in done.stdout.decode()
    assert "127.0.0.1" not in done.stdout.decode() + done.stderr.decode()


def _damage(cache: Path) -> None:
    for file in cache.rglob("model.onnx"):
        file.unlink()  # a hard link to the asset: never write into it
        file.write_bytes(b"damaged")


@pytest.mark.anyio
async def test_a_damaged_cache_is_told_from_an_empty_one(cache: Path, catalogue: Catalogue) -> None:
    _damage(cache)
    with pytest.raises(ModelNotUsable, match="is in FastEmbed's cache but cannot be loaded"):
        await catalogue.load(MINILM)


@pytest.mark.anyio
async def test_settings_that_a_built_in_model_ignores_are_refused() -> None:
    with pytest.raises(SettingsError, match="pooling can be set only together with 'path'"):
        await load_fastembed("x", MINILM, ModelSettings(model=MINILM, pooling="cls"))


@pytest.mark.anyio
async def test_configured_prefixes_replace_the_known_ones(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"mine": {"model": MINILM, "query_prefix": "q: "}}
    monkeypatch.setenv("QDRANT_MIGRATION_MODELS", json.dumps(models))
    model = await Catalogue(read_settings()).load("mine")
    assert (model.spec.document_prefix, model.spec.query_prefix) == ("", "q: ")


@pytest.mark.anyio
async def test_a_closed_model_says_so(catalogue: Catalogue) -> None:
    model = await catalogue.load("minilm-l2")
    await catalogue.close()
    with pytest.raises(ModelNotUsable, match="was closed"):
        await model.embed(["a"], Side.DOCUMENT)
    assert await model.count_tokens(["a"]) is None


@pytest.mark.anyio
async def test_concurrent_loads_of_one_model_load_it_once(catalogue: Catalogue) -> None:
    found: list[Embedder] = []

    async def load() -> None:
        found.append(await catalogue.load("minilm-l2"))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(load)
    assert len({id(model) for model in found}) == 1
