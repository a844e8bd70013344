"""How is a late-interaction FastEmbed model (ColBERT and its kin), built in or from a local directory, loaded and run?

A document gets a vector for each token that is not punctuation; a query is filled up with mask tokens to 32, which is part of the
method. The two sides are therefore different calls, and a document embedded as a query finds little.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anyio import to_thread

from qdrant_model_migration.domain.model import ModelKind, ModelSpec, Side
from qdrant_model_migration.embedders import fastembed_files as files
from qdrant_model_migration.embedders.base import Multivector
from qdrant_model_migration.embedders.batch_sizes import BatchSizes
from qdrant_model_migration.embedders.checks import check_multivectors
from qdrant_model_migration.embedders.fastembed_loading import check_settings, load_builtin, load_directory
from qdrant_model_migration.embedders.fastembed_model import FastEmbedModel, limit_tokens
from qdrant_model_migration.embedders.prefixes import Prefixes, chosen_prefixes
from qdrant_model_migration.errors import ModelNotUsable
from qdrant_model_migration.settings import ModelSettings

if TYPE_CHECKING:
    from qdrant_model_migration.embedders.fastembed_files import Description

_FOREIGN = frozenset({"file", "output_name", "pooling", "normalize", "language", "tokenizer"})


class LateInteractionFastEmbedder(FastEmbedModel[Multivector]):
    """One loaded late-interaction model."""

    async def embed(self, texts: Sequence[str], side: Side) -> list[Multivector]:
        """One array of shape (tokens, dimensions) a text, in the order of the texts.

        Raises:
            BadText: a text is blank, or the model fails on it.
            BatchTooLarge: there was not enough memory for so many texts at once.
            ModelNotUsable: the model fails on any text, or was closed.
        """
        return await self._rows(texts, side)

    def _check(self, vectors: list[Any], count: int) -> Sequence[Multivector]:
        return check_multivectors(vectors, count, self._spec.dimensions, self._spec.name)


async def load_late_interaction(name: str, model: str, entry: ModelSettings | None) -> LateInteractionFastEmbedder:
    """Load a late-interaction model and measure it on a real text.

    Args:
        name: The canonical name, recorded in the spec.
        model: A FastEmbed name as FastEmbed spells it; with a `path` in the entry the files are taken from there.
        entry: The entry of QDRANT_MIGRATION_MODELS, when there is one. Its dimensions are checked, never believed.

    Raises:
        ModelNotUsable: not on this machine and not downloadable, broken, or of other dimensions than stated.
        SettingsError: the entry has settings that this kind of model does not take.
    """
    check_settings(name, ModelKind.MULTIVECTOR, entry, _FOREIGN)
    directory = entry.path.expanduser().resolve() if entry is not None and entry.path is not None else None
    loaded, print_ = await to_thread.run_sync(_load, name, files.multivector_models()[model], directory, abandon_on_cancel=True)
    prefixes = chosen_prefixes(Prefixes(), entry)
    spec = ModelSpec(
        name=name,
        kind=ModelKind.MULTIVECTOR,
        distance=entry.distance if entry else "Cosine",
        max_tokens=limit_tokens(loaded.model.tokenizer, entry.max_tokens if entry else None),
        document_prefix=prefixes.document,
        query_prefix=prefixes.query,
        fingerprint=print_,
    )
    embedder = LateInteractionFastEmbedder(spec, loaded, BatchSizes(entry.batch_size if entry else None))
    probe = await embedder._probe()
    measured = probe.shape[1]
    if entry is not None and entry.dimensions not in (None, measured):
        await embedder.close()
        raise ModelNotUsable(
            f"Model {name!r} is said to have {entry.dimensions} dimensions, but its vectors have {measured}. Correct the number, or leave it out."
        )
    is_normalized = bool((abs(np.linalg.norm(probe, axis=1) - 1.0) < 1e-3).all())
    embedder._spec = spec.model_copy(update={"dimensions": measured, "is_normalized": is_normalized})
    return embedder


def _load(name: str, description: Description, directory: Path | None) -> tuple[Any, str]:
    if directory is not None:
        files.check_directory(directory, (description.model_file, *files.TOKENIZER), name)
        loaded = load_directory(name, ModelKind.MULTIVECTOR, description.model, directory)
    else:
        loaded = load_builtin(name, ModelKind.MULTIVECTOR, description)
    return loaded, files.fingerprint(Path(loaded.model._model_dir), description.model_file)
