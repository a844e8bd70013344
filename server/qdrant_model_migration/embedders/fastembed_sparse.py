"""How is a sparse FastEmbed model (BM25, SPLADE, BM42, miniCOIL), built in or from a local directory, loaded and run?

Documents and queries are embedded by different calls: BM25 weighs a document's terms by their frequency and a query's all alike, and
leaves the rarity of a term to Qdrant (`modifier: idf`). A text of which nothing counts has an empty vector; Qdrant stores it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from qdrant_model_migration.domain.model import ModelKind, ModelSpec, Side
from qdrant_model_migration.embedders import fastembed_files as files
from qdrant_model_migration.embedders.base import SparseVector
from qdrant_model_migration.embedders.batch_sizes import BatchSizes
from qdrant_model_migration.embedders.checks import check_sparse
from qdrant_model_migration.embedders.fastembed_loading import check_settings, load_builtin, load_directory
from qdrant_model_migration.embedders.fastembed_model import FastEmbedModel, limit_tokens
from qdrant_model_migration.embedders.prefixes import Prefixes, chosen_prefixes
from qdrant_model_migration.errors import ModelNotUsable, SettingsError
from qdrant_model_migration.settings import ModelSettings

if TYPE_CHECKING:
    from qdrant_model_migration.embedders.fastembed_files import Description

BM25 = "Qdrant/bm25"
TOKENIZER = "word"
"""The only one of FastEmbed's BM25: runs of letters and digits. The server calls its like by this name."""

_BM25_BATCH_SIZE = 256
"""No network of neurons runs: a small batch would only cost visits to the thread."""

_BM25_CHARACTERS = 4_000_000

_BATCH_CHARACTERS = 4_000
"""SPLADE has a score for each of 30,522 words at each token, and FastEmbed holds four copies: 1,000 tokens take half a gigabyte."""

_WITHOUT_STOP_WORDS = frozenset({"tamil"})
"""Of these FastEmbed has a stemmer, and its repository no stop words."""

_DENSE_ONLY = frozenset({"file", "output_name", "pooling", "normalize"})
_RECORDED = ("language", "k", "b", "avg_len")


class SparseFastEmbedder(FastEmbedModel[SparseVector]):
    """One loaded sparse model."""

    async def embed(self, texts: Sequence[str], side: Side) -> list[SparseVector]:
        """One vector a text, in the order of the texts; empty where nothing of the text counts.

        Raises:
            BadText: a text is blank, or the model fails on it.
            BatchTooLarge: there was not enough memory for so many texts at once.
            ModelNotUsable: the model fails on any text, or was closed.
        """
        return await self._rows(texts, side)

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text, nothing cut; of BM25 its words, stop words included."""
        if self._model is None or not _is_bm25(self._model):
            return await super().count_tokens(texts)
        model = self._model
        return await to_thread.run_sync(lambda: [int(model.token_count(text)) for text in texts])

    def _check(self, vectors: list[Any], count: int) -> Sequence[SparseVector]:
        return check_sparse([(vector.indices, vector.values) for vector in vectors], count, self._spec.name)


async def load_sparse(name: str, model: str, entry: ModelSettings | None) -> SparseFastEmbedder:
    """Load a sparse model and try it on a real text.

    Args:
        name: The canonical name, recorded in the spec.
        model: A FastEmbed name as FastEmbed spells it; with a `path` in the entry the files are taken from there.
        entry: The entry of QDRANT_MIGRATION_MODELS, when there is one.

    Raises:
        ModelNotUsable: not on this machine and not downloadable, broken, or without the language's stop words.
        SettingsError: the entry has settings that this kind of model does not take.
    """
    description = files.sparse_models()[model]
    options = _options(name, model, entry)
    check_settings(name, ModelKind.SPARSE, entry, _DENSE_ONLY | {"dimensions"})
    directory = entry.path.expanduser().resolve() if entry is not None and entry.path is not None else None
    loaded, print_ = await to_thread.run_sync(_load, name, description, directory, options, abandon_on_cancel=True)
    inner = loaded.model
    is_bm25 = _is_bm25(loaded)
    prefixes = chosen_prefixes(Prefixes(), entry)
    recorded = {key: getattr(inner, key) for key in _RECORDED if isinstance(getattr(inner, key, None), str | int | float)}
    spec = ModelSpec(
        name=name,
        kind=ModelKind.SPARSE,
        distance="Dot",
        max_tokens=None if is_bm25 else limit_tokens(inner.tokenizer, entry.max_tokens if entry else None),
        is_normalized=False,
        document_prefix=prefixes.document,
        query_prefix=prefixes.query,
        fingerprint=print_,
        modifier="idf" if description.requires_idf else None,
        options={**recorded, "tokenizer": TOKENIZER} if is_bm25 else recorded,
    )
    sizes = BatchSizes((entry.batch_size if entry else None) or (_BM25_BATCH_SIZE if is_bm25 else None))
    embedder = SparseFastEmbedder(spec, loaded, sizes, _BM25_CHARACTERS if is_bm25 else _BATCH_CHARACTERS)
    if not (await embedder._probe())["indices"]:
        await embedder.close()
        raise ModelNotUsable(f"Model {name!r} was loaded, but finds nothing that counts in an ordinary English sentence.")
    return embedder


def _options(name: str, model: str, entry: ModelSettings | None) -> dict[str, Any]:
    """Arguments for FastEmbed: the language, of BM25."""
    if model != BM25:
        check_settings(name, ModelKind.SPARSE, entry, frozenset({"language", "tokenizer"}))
        return {}
    if entry is not None and entry.tokenizer not in (None, TOKENIZER):
        raise SettingsError(
            f"QDRANT_MIGRATION_MODELS[{name!r}]: FastEmbed's BM25 has the tokenizer {TOKENIZER!r} only, not {entry.tokenizer!r}. "
            "The server's own BM25 has others: provider 'qdrant', model 'bm25'."
        )
    return {"language": (entry.language if entry and entry.language else "english").strip().lower()}


def _load(name: str, description: Description, directory: Path | None, options: dict[str, Any]) -> tuple[Any, str]:
    """The loaded model and its fingerprint: of BM25 that of the stop words, which are all that its files hold."""
    is_bm25 = description.model == BM25
    if is_bm25:
        _check_language(name, options["language"])
    if directory is not None:
        files.check_directory(directory, () if is_bm25 else (description.model_file, *files.TOKENIZER, *description.additional_files), name)
        if is_bm25:
            _check_stop_words(name, directory, options["language"])
        loaded = load_directory(name, ModelKind.SPARSE, description.model, directory, **options)
    else:
        loaded = load_builtin(name, ModelKind.SPARSE, description, **options)
        if is_bm25:
            _check_stop_words(name, Path(loaded.model._model_dir), options["language"])
    found = Path(loaded.model._model_dir)
    if is_bm25:
        return loaded, files.fingerprint(found, f"{options['language']}.txt")
    return loaded, files.fingerprint(found, description.model_file, *description.additional_files)


def _check_language(name: str, language: str) -> None:
    from fastembed.sparse.bm25 import supported_languages

    if language not in supported_languages:
        raise ModelNotUsable(
            f"Model {name!r} was not loaded: FastEmbed's BM25 has no language {language!r}. It has {', '.join(supported_languages)}."
        )


def _check_stop_words(name: str, directory: Path, language: str) -> None:
    """FastEmbed takes a missing file for an empty list, so that every "the" and "of" would count (fact 5)."""
    path = directory / f"{language}.txt"
    if language in _WITHOUT_STOP_WORDS or (path.is_file() and path.read_text(encoding="utf-8").strip()):
        return
    raise ModelNotUsable(
        f"Model {name!r} was not loaded: {str(directory)!r} has no stop words for {language!r} ({path.name} is missing or empty), and FastEmbed "
        f"would count every word of a text without saying so. Copy the files of the repository {BM25} there."
    )


def _is_bm25(loaded: Any) -> bool:
    return bool(loaded.model_name.lower() == BM25.lower())
