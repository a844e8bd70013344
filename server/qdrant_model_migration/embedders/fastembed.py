"""How is a dense FastEmbed model, built in or from a local directory, loaded and run?

onnxruntime takes all cores for one call, so a model answers one call at a time, in a worker thread. Small batches of similar
length are fastest and stay small in memory. Vectors of dynamically quantized models depend on their batch-mates (fact 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anyio import CapacityLimiter, to_thread

from qdrant_model_migration.domain.model import ModelSpec, Side
from qdrant_model_migration.embedders import fastembed_files as files
from qdrant_model_migration.embedders.base import Dense
from qdrant_model_migration.embedders.checks import PROBE, blame, check_answer, check_texts
from qdrant_model_migration.embedders.prefixes import Prefixes, known_prefixes
from qdrant_model_migration.errors import BadText, BatchTooLarge, ModelNotUsable, SettingsError
from qdrant_model_migration.settings import ModelSettings, child_environment

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH_SIZE = 8
"""Best or close to it for every model measured (facts, "Speed"); 256, FastEmbed's default, costs half the speed and 3 GB."""

_WINDOW = 256
"""Texts sorted by length together: 512 gains 2 % more."""

_BATCH_CHARACTERS = 16_000
"""Padded characters in one batch, about 4,000 tokens: eight texts of 8,192 tokens would need tens of gigabytes."""


class FastEmbedder:
    """One loaded dense model."""

    def __init__(self, spec: ModelSpec, model: Any, batch_size: int) -> None:
        self._spec = spec
        self._model = model
        self._batch_size = batch_size
        self._limiter = CapacityLimiter(1)
        self._counter: Tokenizer | None = None

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def batch_size(self) -> int:
        return _WINDOW

    async def embed(self, texts: Sequence[str], side: Side) -> Dense:
        """Vectors of shape (len(texts), dimensions), in the order of the texts.

        Raises:
            BadText: a text is blank, or the model fails on it.
            BatchTooLarge: there was not enough memory for so many texts at once.
            ModelNotUsable: the model fails on any text, or was closed.
        """
        check_texts(texts, self._spec.name)
        prefix = self._spec.query_prefix if side is Side.QUERY else self._spec.document_prefix
        ready = [prefix + text for text in texts]
        found = np.zeros((len(ready), self._spec.dimensions or 0), dtype=np.float32)
        # What is cut off costs nothing; six characters a token is more than any common language has.
        longest = 6 * (self._spec.max_tokens or 10**6)
        for batch in batches([min(len(text), longest) for text in ready], self._batch_size, _BATCH_CHARACTERS):
            # One visit to the thread a batch: a cancelled call ends with its batch, not with its last text.
            raw = partial(self._run, side=side)
            try:
                found[batch] = await raw([ready[i] for i in batch])
            except BadText as error:
                raise await blame(error, raw, prefix + PROBE, self._spec.name) from None
        return found

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text as a document: prefix and special tokens included, nothing cut."""
        if self._model is None:
            return None
        if self._counter is None:
            self._counter = await to_thread.run_sync(_untruncated, self._model.model.tokenizer)
        counter = self._counter
        ready = [self._spec.document_prefix + text for text in texts]
        encodings = await to_thread.run_sync(counter.encode_batch_fast, ready)
        return [len(encoding.ids) for encoding in encodings]

    async def close(self) -> None:
        self._model = None
        self._counter = None

    async def _run(self, texts: list[str], side: Side) -> Dense:
        model = self._model
        if model is None:
            raise ModelNotUsable(f"Model {self._spec.name!r} was closed.")
        call = model.query_embed if side is Side.QUERY else model.passage_embed
        try:
            vectors = await to_thread.run_sync(_consume, call, texts, limiter=self._limiter)
        except model_errors() as error:
            # onnxruntime tells memory from arguments only in words.
            if len(texts) > 1 and (isinstance(error, MemoryError) or "allocate" in str(error).lower()):
                raise BatchTooLarge(f"There is not enough memory to embed {len(texts)} texts at once with {self._spec.name!r}.") from None
            raise BadText(f"Model {self._spec.name!r} failed on {_texts(len(texts))} ({_first_line(error)}).") from None
        return check_answer(vectors, len(texts), self._spec.dimensions, self._spec.name)


def batches(lengths: Sequence[int], size: int, total: int) -> Iterable[list[int]]:
    """Positions, longest texts first, in groups of at most `size` texts and `total` padded length, at least one text each."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        # Sorted: the first text is the longest, to whose length the others are padded.
        fitting = max(1, min(size, total // max(1, lengths[order[start]])))
        yield order[start : start + fitting]
        start += fitting


async def load_fastembed(name: str, model: str | None, dimensions: int | None, entry: ModelSettings | None) -> FastEmbedder:
    """Load a model and measure it on a real text.

    Args:
        name: The canonical name, recorded in the spec.
        model: A FastEmbed name as FastEmbed spells it; None for a local directory.
        dimensions: What the caller says the vectors have; checked, never believed.
        entry: The entry of QDRANT_MIGRATION_MODELS, when there is one.

    Raises:
        ModelNotUsable: not on this machine and not downloadable, broken, or of other dimensions than stated.
        SettingsError: the entry has settings that this kind of model does not take.
    """
    stated = dimensions or (entry.dimensions if entry else None)
    if entry is not None and entry.path is not None:
        directory = entry.path.expanduser().resolve()
        loaded, print_ = await to_thread.run_sync(_load_directory, name, entry, directory)
        prefixes = Prefixes(document=entry.document_prefix, query=entry.query_prefix)
    elif model is not None:
        ignored = sorted({"file", "output_name", "pooling", "normalize"} & entry.model_fields_set) if entry else []
        if ignored:
            raise SettingsError(
                f"QDRANT_MIGRATION_MODELS[{name!r}]: {', '.join(ignored)} can be set only together with 'path'; "
                f"{model!r} is built into FastEmbed, which decides them."
            )
        # A download may take minutes; whoever stops waiting leaves it running, and the files stay.
        loaded, print_ = await to_thread.run_sync(_load_builtin, name, model, abandon_on_cancel=True)
        prefixes = _chosen(known_prefixes(model), entry)
    else:
        raise SettingsError(f"QDRANT_MIGRATION_MODELS[{name!r}] needs 'path', a directory, or 'model', a name that FastEmbed knows.")
    tokenizer = loaded.model.tokenizer
    max_tokens = _limit_tokens(tokenizer, entry.max_tokens if entry else None)
    spec = ModelSpec(
        name=name,
        distance=entry.distance if entry else "Cosine",
        max_tokens=max_tokens,
        document_prefix=prefixes.document,
        query_prefix=prefixes.query,
        fingerprint=print_,
        price_per_million=entry.price_per_million if entry else None,
        note=_note(prefixes) if entry is None or not {"document_prefix", "query_prefix"} & entry.model_fields_set else None,
    )
    embedder = FastEmbedder(spec, loaded, (entry.batch_size if entry else None) or BATCH_SIZE)
    return await _measured(embedder, stated)


async def _measured(embedder: FastEmbedder, stated: int | None) -> FastEmbedder:
    name = embedder.spec.name
    try:
        probe = await embedder._run([embedder.spec.document_prefix + PROBE], Side.DOCUMENT)
    except BadText as error:
        await embedder.close()
        raise ModelNotUsable(f"Model {name!r} was loaded, but cannot embed even a sound text: {error}") from None
    measured = probe.shape[1]
    if stated is not None and stated != measured:
        await embedder.close()
        raise ModelNotUsable(
            f"Model {name!r} is said to have {stated} dimensions, but its vectors have {measured}. Correct the number, or leave it "
            "out; the strategy 'truncate' shortens vectors."
        )
    is_normalized = abs(float(np.linalg.norm(probe[0])) - 1.0) < 1e-3
    embedder._spec = embedder.spec.model_copy(update={"dimensions": measured, "is_normalized": is_normalized})
    return embedder


def _load_builtin(name: str, model: str) -> tuple[Any, str]:
    from fastembed import TextEmbedding

    _quiet()
    description = files.dense_models()[model]
    try:
        # Online, FastEmbed asks the hub before it looks at its cache, and sleeps 39 s when there is no answer (fact 10).
        loaded = TextEmbedding(model, local_files_only=True)
    except model_errors() as missing:
        if files.cached_directory(description) is not None:
            raise ModelNotUsable(
                f"Model {name!r} is in FastEmbed's cache but cannot be loaded ({_first_line(missing)}). "
                "Delete its folder from FASTEMBED_CACHE_PATH and let it be downloaded again."
            ) from None
        loaded = _download(name, model, description)
    inner: Any = loaded.model
    return loaded, files.fingerprint(Path(inner._model_dir), inner.model_description.model_file)


def _download(name: str, model: str, description: Any) -> Any:
    from fastembed import TextEmbedding
    from fastembed.common.utils import define_cache_dir

    instead = "or set FASTEMBED_CACHE_PATH to a cache that holds it, or name a local directory in QDRANT_MIGRATION_MODELS"
    if child_environment().get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "TRUE", "YES", "ON"}:
        raise ModelNotUsable(
            f"Model {name!r} is not in FastEmbed's cache, and HF_HUB_OFFLINE forbids the download of {description.size_in_GB} GB. "
            f"Unset HF_HUB_OFFLINE, {instead}."
        )
    try:
        TextEmbedding.download_model(description, str(define_cache_dir()), retries=1)
        return TextEmbedding(model, local_files_only=True)
    except model_errors() as error:
        raise ModelNotUsable(
            f"Model {name!r} is not in FastEmbed's cache, and downloading its {description.size_in_GB} GB from Hugging Face failed "
            f"({type(error).__name__}). Let this machine reach Hugging Face, {instead}."
        ) from None


def _load_directory(name: str, entry: ModelSettings, directory: Path) -> tuple[Any, str]:
    from fastembed import TextEmbedding

    _quiet()
    files.check_directory(directory, entry.file, name)
    try:
        loaded = TextEmbedding(files.register_directory(entry, directory), specific_model_path=str(directory))
    except model_errors() as error:
        raise ModelNotUsable(f"Model {name!r} cannot be loaded from {str(directory)!r}: {_first_line(error)}.") from None
    return loaded, files.fingerprint(directory, entry.file)


@lru_cache(maxsize=1)
def model_errors() -> tuple[type[Exception], ...]:
    """What FastEmbed and onnxruntime raise; the latter's exceptions have no common base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state  # type: ignore[import-untyped]

    kinds = vars(onnxruntime_pybind11_state).values()
    onnx = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*onnx, ValueError, OSError, RuntimeError, MemoryError)


@lru_cache(maxsize=1)
def _quiet() -> None:
    """FastEmbed logs expected misses as errors, with addresses; our own errors say what matters."""
    from loguru import logger

    logger.disable("fastembed")


def _consume(call: Callable[..., Iterable[Any]], texts: list[str]) -> list[Any]:
    # FastEmbed's answers are lazy: the work, and its errors, come with consumption.
    return list(call(texts, batch_size=len(texts)))


def _untruncated(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that counts everything; switching truncation off on the model's own tokenizer would change its vectors."""
    from tokenizers import Tokenizer as Fresh

    copy = Fresh.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _limit_tokens(tokenizer: Tokenizer, wanted: int | None) -> int | None:
    """Where texts are cut; a smaller configured limit is put into force, a larger one could exceed the model's positions."""
    truncation = tokenizer.truncation
    limit = int(truncation["max_length"]) if truncation else None
    if wanted is None or (limit is not None and wanted >= limit):
        return limit
    tokenizer.enable_truncation(max_length=wanted, direction=(truncation or {}).get("direction", "right"))
    return wanted


def _chosen(known: Prefixes, entry: ModelSettings | None) -> Prefixes:
    if entry is None:
        return known
    given = entry.model_fields_set
    return Prefixes(
        document=entry.document_prefix if "document_prefix" in given else known.document,
        query=entry.query_prefix if "query_prefix" in given else known.query,
    )


def _note(prefixes: Prefixes) -> str | None:
    if not (prefixes.document or prefixes.query):
        return None
    return (
        f"documents are prefixed with {prefixes.document!r}, queries with {prefixes.query!r}, as the model's publisher says; FastEmbed "
        "itself adds nothing, so vectors made with plain FastEmbed match only an entry of QDRANT_MIGRATION_MODELS with empty prefixes"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _texts(count: int) -> str:
    return "a text" if count == 1 else f"{count} texts"
