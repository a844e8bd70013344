"""How does a FastEmbed model get into memory: from the cache, from a download, or from a local directory?"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdrant_model_migration.domain.model import ModelKind
from qdrant_model_migration.embedders import fastembed_files as files
from qdrant_model_migration.embedders.cores import THREADS_A_CALL
from qdrant_model_migration.environment import child_environment
from qdrant_model_migration.errors import ModelNotUsable, SettingsError
from qdrant_model_migration.settings import ModelSettings

if TYPE_CHECKING:
    from qdrant_model_migration.embedders.fastembed_files import Description


def facade(kind: ModelKind) -> Any:
    """FastEmbed's class for models of a kind; its object's `model` does the work."""
    from fastembed import LateInteractionTextEmbedding, SparseTextEmbedding, TextEmbedding

    return {
        ModelKind.DENSE: TextEmbedding,
        ModelKind.SPARSE: SparseTextEmbedding,
        ModelKind.MULTIVECTOR: LateInteractionTextEmbedding,
    }[kind]


def load_builtin(name: str, kind: ModelKind, description: Description, **options: Any) -> Any:
    """Load a built-in model from FastEmbed's cache, after a download where it is not there.

    Args:
        name: What the person called it, for messages.
        kind: Of which it is.
        description: As FastEmbed has it.
        options: Further arguments of the model's constructor.

    Raises:
        ModelNotUsable: it is not on this machine and cannot be downloaded, or its files are damaged.
    """
    quiet()
    load = partial(facade(kind), description.model, threads=THREADS_A_CALL, local_files_only=True, **options)
    try:
        # Online, FastEmbed asks the hub before it looks at its cache, and sleeps 39 s when there is no answer (fact 10).
        return load()
    except model_errors() as missing:
        if files.cached_directory(description) is not None:
            raise ModelNotUsable(
                f"Model {name!r} is in FastEmbed's cache but cannot be loaded ({first_line(missing)}). "
                "Delete its folder from FASTEMBED_CACHE_PATH and let it be downloaded again."
            ) from None
    _download(name, facade(kind), description)
    try:
        return load()
    except model_errors() as error:
        raise ModelNotUsable(f"Model {name!r} was downloaded but cannot be loaded: {first_line(error)}.") from None


def load_directory(name: str, kind: ModelKind, model: str, directory: Path, **options: Any) -> Any:
    """Load a model that FastEmbed knows as `model` from a directory, whose files were looked at before.

    Raises:
        ModelNotUsable: the files are not that model's.
    """
    quiet()
    try:
        return facade(kind)(model, threads=THREADS_A_CALL, specific_model_path=str(directory), **options)
    except model_errors() as error:
        raise ModelNotUsable(f"Model {name!r} cannot be loaded from {str(directory)!r}: {first_line(error)}.") from None


def check_settings(name: str, kind: ModelKind, entry: ModelSettings | None, foreign: frozenset[str]) -> None:
    """Refuse settings that would be ignored.

    Raises:
        SettingsError: names them.
    """
    ignored = sorted(foreign & entry.model_fields_set) if entry else []
    if ignored:
        raise SettingsError(
            f"QDRANT_MIGRATION_MODELS[{name!r}]: {', '.join(ignored)} has no meaning for a {kind} model of FastEmbed; remove it."
        )


def _download(name: str, library: Any, description: Description) -> None:
    from fastembed.common.utils import define_cache_dir

    instead = "or set FASTEMBED_CACHE_PATH to a cache that holds it, or name a local directory in QDRANT_MIGRATION_MODELS"
    if child_environment().get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "TRUE", "YES", "ON"}:
        raise ModelNotUsable(
            f"Model {name!r} is not in FastEmbed's cache, and HF_HUB_OFFLINE forbids the download of {description.size_in_GB} GB. "
            f"Unset HF_HUB_OFFLINE, {instead}."
        )
    try:
        library.download_model(description, str(define_cache_dir()), retries=1)
    except model_errors() as error:
        raise ModelNotUsable(
            f"Model {name!r} is not in FastEmbed's cache, and downloading its {description.size_in_GB} GB from Hugging Face failed "
            f"({type(error).__name__}). Let this machine reach Hugging Face, {instead}."
        ) from None


@lru_cache(maxsize=1)
def model_errors() -> tuple[type[Exception], ...]:
    """What FastEmbed and onnxruntime raise; the latter's exceptions have no common base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state  # type: ignore[import-untyped]

    kinds = vars(onnxruntime_pybind11_state).values()
    onnx = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*onnx, ValueError, OSError, RuntimeError, MemoryError)


@lru_cache(maxsize=1)
def quiet() -> None:
    """FastEmbed logs expected misses as errors, with addresses; our own errors say what matters."""
    from loguru import logger

    logger.disable("fastembed")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
