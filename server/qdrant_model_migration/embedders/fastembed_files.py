"""Which models does FastEmbed know, which of them lie on this machine, and which bytes are they?

Nothing here loads a model or uses the network.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from qdrant_model_migration.domain.model import ModelKind
from qdrant_model_migration.errors import ModelNotUsable
from qdrant_model_migration.settings import ModelSettings

if TYPE_CHECKING:
    from fastembed.common.model_description import BaseModelDescription, DenseModelDescription, SparseModelDescription

    Description = BaseModelDescription

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
"""What every ONNX model of text needs beside its graph."""

_REGISTERED_PREFIX = "qdrant-model-migration/"
_registered: set[str] = set()
_registering = threading.Lock()


def dense_models() -> dict[str, DenseModelDescription]:
    """FastEmbed's built-in dense models by their names, without those registered from local directories."""
    from fastembed import TextEmbedding
    from fastembed.text.custom_text_embedding import CustomTextEmbedding

    found: dict[str, DenseModelDescription] = {}
    for family in TextEmbedding.EMBEDDINGS_REGISTRY:
        if family is not CustomTextEmbedding:
            found |= {description.model: description for description in family._list_supported_models()}
    return found


@lru_cache(maxsize=1)
def sparse_models() -> dict[str, SparseModelDescription]:
    """FastEmbed's sparse models by their names."""
    from fastembed import SparseTextEmbedding

    # Listed twice by FastEmbed: under its name, and under a misspelling of it that is about to go.
    found = {d.model: d for d in SparseTextEmbedding._list_supported_models()}
    return {name: description for name, description in found.items() if name != "prithvida/Splade_PP_en_v1"}


@lru_cache(maxsize=1)
def multivector_models() -> dict[str, DenseModelDescription]:
    """FastEmbed's late-interaction models by their names."""
    from fastembed import LateInteractionTextEmbedding

    return {d.model: d for d in LateInteractionTextEmbedding._list_supported_models()}


def described(model: str) -> tuple[ModelKind, Description] | None:
    """Kind and description of the model that FastEmbed calls exactly so, but for case; None when there is none."""
    kinds: tuple[tuple[ModelKind, Mapping[str, Description]], ...] = (
        (ModelKind.DENSE, dense_models()),
        (ModelKind.SPARSE, sparse_models()),
        (ModelKind.MULTIVECTOR, multivector_models()),
    )
    wanted = model.lower()
    return next(((kind, d) for kind, known in kinds for name, d in known.items() if name.lower() == wanted), None)


def cached_directory(description: Description) -> Path | None:
    """Where the model's files lie in FastEmbed's cache (FASTEMBED_CACHE_PATH); None when one of them is missing."""
    from fastembed.common.utils import define_cache_dir
    from huggingface_hub import try_to_load_from_cache

    repository = description.sources.hf
    if repository is None:
        return None
    cache = define_cache_dir()
    model_file: Path | None = None
    # BM25 has neither weights nor a tokenizer: the "model file" of its description is an empty JSON.
    tokenizer = ("tokenizer.json",) if description.model_file.endswith(".onnx") else ()
    for name in (*description.additional_files, *tokenizer, description.model_file):
        found = try_to_load_from_cache(repository, name, cache_dir=cache)
        if not isinstance(found, str):
            return None
        model_file = Path(found)
    # The model file comes last; what lies above its path inside the repository is the snapshot.
    return model_file.parents[description.model_file.count("/")] if model_file else None


def token_limit(directory: Path) -> int | None:
    """Where FastEmbed truncates a model of this directory: the smaller of the two keys of its tokenizer_config.json."""
    try:
        config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    limits = [config.get(key) for key in ("model_max_length", "max_length")]
    usable = [limit for limit in limits if isinstance(limit, int) and not isinstance(limit, bool) and 0 < limit < 10**9]
    return min(usable, default=None)


def described_token_limit(description: Description) -> int | None:
    """The limit that FastEmbed's description states; the published files may truncate earlier (fact 6)."""
    match = re.search(r"(\d+) input tokens truncation", description.description)
    return int(match[1]) if match else None


def fingerprint(directory: Path, model_file: str, *others: str) -> str:
    """First 16 hex digits of the sha256 of the model file, followed by its external weights and by other files where it has any."""
    path = directory / model_file
    digest = hashlib.sha256()
    # Beyond 2 GB an ONNX graph keeps its weights beside it, under either of these names.
    for part in (path, Path(f"{path}_data"), Path(f"{path}.data"), *(directory / other for other in others)):
        if part.is_file():
            with part.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()[:16]


def check_directory(directory: Path, needed: Sequence[str], model: str) -> None:
    """Refuse a directory that FastEmbed would fail on late and cryptically, or load with parts missing.

    Raises:
        ModelNotUsable: a file is missing or its JSON is broken.
    """
    if not directory.is_dir():
        raise ModelNotUsable(
            f"Model {model!r} was not loaded: its 'path' in QDRANT_MIGRATION_MODELS is not a directory: {str(directory)!r}."
        )
    missing = [name for name in needed if not (directory / name).is_file()]
    if missing:
        raise ModelNotUsable(
            f"Model {model!r} was not loaded: {str(directory)!r} has no {' and no '.join(missing)}. "
            "Export the model with its tokenizer, or name the ONNX file with 'file' in QDRANT_MIGRATION_MODELS."
        )
    for name in needed:
        try:
            if name.endswith(".json"):
                json.loads((directory / name).read_text(encoding="utf-8"))
        except ValueError:
            raise ModelNotUsable(f"Model {model!r} was not loaded: {name} in {str(directory)!r} is not JSON.") from None


def register_directory(entry: ModelSettings, directory: Path) -> str:
    """Make FastEmbed know a local directory; returns the name it is known by.

    FastEmbed refuses a name it knows and cannot forget one (fact 2), so the name is a digest of the whole definition: the
    same definition is registered once a process, and two definitions never meet under one name.
    """
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    pooling = {
        "mean": PoolingType.MEAN,
        "cls": PoolingType.CLS,
        "last_token": PoolingType.LAST_TOKEN,
        "none": PoolingType.DISABLED,
    }[entry.pooling]
    definition = [str(directory), entry.file, entry.output_name, entry.pooling, entry.normalize, entry.dimensions]
    name = _REGISTERED_PREFIX + hashlib.sha256(json.dumps(definition).encode()).hexdigest()[:32]
    with _registering:
        if name not in _registered:
            TextEmbedding.add_custom_model(
                name,
                pooling=pooling,
                normalization=entry.normalize,
                sources=ModelSource(hf=name),  # required, and never used: the files come from the directory
                dim=entry.dimensions or 1,  # required, and never checked (fact 3): the probe measures
                model_file=entry.file,
                output_name=entry.output_name,
            )
            _registered.add(name)
    return name
