"""Which models can be used here, and what does each still need? Loads nothing and asks no network."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from qdrant_model_migration.domain.model import ModelKind
from qdrant_model_migration.embedders import builtin, providers
from qdrant_model_migration.embedders import fastembed_files as files
from qdrant_model_migration.embedders.base import Usable
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.embedders.providers import KEY_VARIABLES
from qdrant_model_migration.environment import secret_from_variable
from qdrant_model_migration.errors import SettingsError
from qdrant_model_migration.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from qdrant_model_migration.embedders.fastembed_files import Description

_ALIASES = {"voyage": "voyageai", "gemini": "google"}
PROVIDERS = ("fastembed", "builtin", "qdrant", *KEY_VARIABLES)

# A person who asks which models there are wants a few names to choose from, not all forty.
_SUGGESTED = (
    "BAAI/bge-small-en-v1.5",
    "BAAI/bge-base-en-v1.5",
    "sentence-transformers/all-MiniLM-L6-v2",
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    "intfloat/multilingual-e5-large",
    "nomic-ai/nomic-embed-text-v1.5-Q",
    "snowflake/snowflake-arctic-embed-s",
    "mixedbread-ai/mxbai-embed-large-v1",
    "Qdrant/bm25",
    "prithivida/Splade_PP_en_v1",
    "answerdotai/answerai-colbert-small-v1",
)


def provider_of(stated: str, configured: str | None = None) -> str:
    """The provider's own name for what a person wrote.

    Raises:
        SettingsError: there is none, and `configured` is the name of an entry of QDRANT_MIGRATION_MODELS that states it.
    """
    provider = _ALIASES.get(stated.lower(), stated.lower())
    if configured is not None and provider not in PROVIDERS:
        raise SettingsError(
            f"QDRANT_MIGRATION_MODELS[{configured!r}]: provider {stated.lower()!r} is not one of {', '.join(PROVIDERS)}. "
            "An OpenAI-compatible endpoint has provider 'openai' and its base_url."
        )
    return provider


def list_usable(settings: Settings) -> list[Usable]:
    """Configured models first, then FastEmbed's that are on this machine or well known, the server's BM25, OpenAI's, the built-in ones."""
    found = [_configured(name, entry) for name, entry in settings.models.items()]
    kinds = (
        (ModelKind.DENSE, files.dense_models()),
        (ModelKind.SPARSE, files.sparse_models()),
        (ModelKind.MULTIVECTOR, files.multivector_models()),
    )
    for kind, known in kinds:
        found += [usable for name, description in known.items() if (usable := _fastembed(name, kind, description)) is not None]
    found.append(
        Usable(
            name="qdrant:bm25",
            kind=ModelKind.SPARSE,
            is_ready=True,
            note="computed by the Qdrant server, from 1.15.2 on; English unless QDRANT_MIGRATION_MODELS says otherwise; not in the embedded database",
        )
    )
    # Without the key they would be noise to those who never use a provider.
    if _obstacle("OpenAI", ModelSettings(provider="openai")) is None:
        found += [
            Usable(
                name=f"openai:{name}", kind=ModelKind.DENSE, is_ready=True, note=f"texts are sent to OpenAI, USD {price} per million tokens"
            )
            for name, price in providers.PRICES.items()
        ]
    found += [
        Usable(name=spec.name, kind=ModelKind.DENSE, dimensions=spec.dimensions, is_ready=True, note=spec.note)
        for spec in (HashingEmbedder(name).spec for name in builtin.EXAMPLES)
    ]
    return sorted(found, key=lambda usable: (not usable.is_ready, usable.name.startswith("builtin:")))


def _fastembed(name: str, kind: ModelKind, description: Description) -> Usable | None:
    directory = files.cached_directory(description)
    if directory is None and name not in _SUGGESTED:
        return None
    size = int(description.size_in_GB * 1e9)
    return Usable(
        name=f"fastembed:{name}",
        kind=kind,
        dimensions=getattr(description, "dim", None),
        max_tokens=files.token_limit(directory) if directory else files.described_token_limit(description),
        size_bytes=size,
        is_ready=directory is not None,
        note=None if directory else _download(description),
    )


def _configured(name: str, entry: ModelSettings) -> Usable:
    try:
        provider = provider_of(entry.provider, configured=name)
    except SettingsError as error:
        return Usable(name=name, kind=ModelKind.DENSE, is_ready=False, note=str(error))
    model = entry.model or name
    described = files.described(model) if provider in ("fastembed", "qdrant") else None
    kind = described[0] if described else ModelKind.DENSE
    note: str | None = None
    if provider == "qdrant":
        kind = ModelKind.SPARSE if model.lower() in ("bm25", "qdrant/bm25") else kind
        note = "computed by the Qdrant server"
        return Usable(name=name, kind=kind, dimensions=entry.dimensions, max_tokens=entry.max_tokens, is_ready=True, note=note)
    if entry.path is not None:
        path = entry.path.expanduser()
        file = entry.file if described is None or kind is ModelKind.DENSE else described[1].model_file
        note = None if (path / file).is_file() else f"{str(path)!r} has no {file}"
    elif provider == "fastembed":
        if described is None:
            note = f"{model!r} is no name that FastEmbed knows in full, and the entry has no 'path'"
        elif files.cached_directory(described[1]) is None:
            note = _download(described[1])
    elif provider != "builtin":
        note = _obstacle(name, entry.model_copy(update={"provider": provider}))
    return Usable(name=name, kind=kind, dimensions=entry.dimensions, max_tokens=entry.max_tokens, is_ready=note is None, note=note)


def _download(description: Description) -> str:
    return f"needs a download of {description.size_in_GB * 1000:,.0f} MB on first use"


def _obstacle(name: str, entry: ModelSettings) -> str | None:
    """Why a provider's model could not be asked, as far as that shows without asking; None when nothing does."""
    if find_spec("pydantic_ai") is None or (entry.provider == "openai" and (find_spec("openai") is None or find_spec("tiktoken") is None)):
        return "needs the installation of qdrant-model-migration[providers]"
    variable = entry.key_variable or (None if entry.base_url else KEY_VARIABLES[entry.provider])
    if variable is not None:
        try:
            secret_from_variable(variable, name)
        except SettingsError:
            return f"needs its key in the variable {variable}"
    return None
