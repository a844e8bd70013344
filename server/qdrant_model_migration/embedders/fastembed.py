"""How is a dense FastEmbed model, built in or from a local directory, loaded and run?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anyio import to_thread

from qdrant_model_migration.domain.model import ModelKind, ModelSpec, Side
from qdrant_model_migration.embedders import fastembed_files as files
from qdrant_model_migration.embedders.base import Dense, Row
from qdrant_model_migration.embedders.batch_sizes import BatchSizes
from qdrant_model_migration.embedders.checks import check_answer
from qdrant_model_migration.embedders.fastembed_loading import load_builtin, load_directory
from qdrant_model_migration.embedders.fastembed_model import FastEmbedModel, limit_tokens
from qdrant_model_migration.embedders.prefixes import Prefixes, chosen_prefixes, known_prefixes
from qdrant_model_migration.errors import ModelNotUsable, SettingsError
from qdrant_model_migration.settings import ModelSettings


class FastEmbedder(FastEmbedModel[Row]):
    """One loaded dense model."""

    async def embed(self, texts: Sequence[str], side: Side) -> Dense:
        """Vectors of shape (len(texts), dimensions), in the order of the texts.

        Raises:
            BadText: a text is blank, or the model fails on it.
            BatchTooLarge: there was not enough memory for so many texts at once.
            ModelNotUsable: the model fails on any text, or was closed.
        """
        rows = await self._rows(texts, side)
        return np.stack(rows) if rows else np.zeros((0, self._spec.dimensions or 0), dtype=np.float32)

    def _check(self, vectors: list[Any], count: int) -> Sequence[Row]:
        return list(check_answer(vectors, count, self._spec.dimensions, self._spec.name))


async def load_fastembed(name: str, model: str | None, entry: ModelSettings | None) -> FastEmbedder:
    """Load a model and measure it on a real text.

    Args:
        name: The canonical name, recorded in the spec.
        model: A FastEmbed name as FastEmbed spells it; None for a local directory.
        entry: The entry of QDRANT_MIGRATION_MODELS, when there is one. Its dimensions are checked, never believed.

    Raises:
        ModelNotUsable: not on this machine and not downloadable, broken, or of other dimensions than stated.
        SettingsError: the entry has settings that this kind of model does not take.
    """
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
        prefixes = chosen_prefixes(known_prefixes(model), entry)
    else:
        raise SettingsError(f"QDRANT_MIGRATION_MODELS[{name!r}] needs 'path', a directory, or 'model', a name that FastEmbed knows.")
    spec = ModelSpec(
        name=name,
        distance=entry.distance if entry else "Cosine",
        max_tokens=limit_tokens(loaded.model.tokenizer, entry.max_tokens if entry else None),
        document_prefix=prefixes.document,
        query_prefix=prefixes.query,
        fingerprint=print_,
        price_per_million=entry.price_per_million if entry else None,
        note=_note(prefixes) if entry is None or not {"document_prefix", "query_prefix"} & entry.model_fields_set else None,
    )
    embedder = FastEmbedder(spec, loaded, BatchSizes(entry.batch_size if entry else None))
    return await _measured(embedder, entry.dimensions if entry else None)


async def _measured(embedder: FastEmbedder, stated: int | None) -> FastEmbedder:
    probe = await embedder._probe()
    measured = len(probe)
    if stated is not None and stated != measured:
        await embedder.close()
        raise ModelNotUsable(
            f"Model {embedder.spec.name!r} is said to have {stated} dimensions, but its vectors have {measured}. Correct the number, or "
            f"leave it out; '{embedder.spec.name}@{stated}' cuts its vectors."
        )
    is_normalized = abs(float(np.linalg.norm(probe)) - 1.0) < 1e-3
    embedder._spec = embedder.spec.model_copy(update={"dimensions": measured, "is_normalized": is_normalized})
    return embedder


def _load_builtin(name: str, model: str) -> tuple[Any, str]:
    loaded = load_builtin(name, ModelKind.DENSE, files.dense_models()[model])
    return loaded, files.fingerprint(Path(loaded.model._model_dir), loaded.model.model_description.model_file)


def _load_directory(name: str, entry: ModelSettings, directory: Path) -> tuple[Any, str]:
    files.check_directory(directory, (entry.file, *files.TOKENIZER), name)
    loaded = load_directory(name, ModelKind.DENSE, files.register_directory(entry, directory), directory)
    return loaded, files.fingerprint(directory, entry.file)


def _note(prefixes: Prefixes) -> str | None:
    if not (prefixes.document or prefixes.query):
        return None
    return (
        f"documents are prefixed with {prefixes.document!r}, queries with {prefixes.query!r}, as the model's publisher says; FastEmbed "
        "itself adds nothing, so vectors made with plain FastEmbed match only an entry of QDRANT_MIGRATION_MODELS with empty prefixes"
    )
