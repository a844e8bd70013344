"""Which model does a name mean, which models can be used here, and where is the loaded one?"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from anyio import Lock, to_thread

from qdrant_model_migration.domain.model import ModelKind, ModelName
from qdrant_model_migration.embedders import builtin, providers
from qdrant_model_migration.embedders import fastembed_files as files
from qdrant_model_migration.embedders.base import Embedder, Usable
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.embedders.fastembed import load_fastembed
from qdrant_model_migration.embedders.providers import KEY_VARIABLES, load_provider
from qdrant_model_migration.errors import MigrationError, ModelNotUsable, NotFound, Refused, SettingsError, Unsupported
from qdrant_model_migration.settings import ModelSettings, Settings, secret_from_variable

_ALIASES = {"voyage": "voyageai", "gemini": "google"}
_PROVIDERS = ("fastembed", "builtin", "qdrant", *KEY_VARIABLES)
_EFFECT = "Nothing was loaded"

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
)


class Catalogue:
    """The models of one process. A model is loaded once and stays until `close`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[str, Embedder] = {}
        self._locks: dict[str, Lock] = {}

    def resolve(self, name: str) -> ModelName:
        """The canonical name for what a person wrote. May import FastEmbed (half a second), never loads a model.

        Configured names come first, then `provider:model[@dimensions]`. A name without provider, and a FastEmbed name in
        other case or cut short, is completed when exactly one model fits.

        Raises:
            NotFound: nothing fits; near misses are listed.
            Refused: several models fit, or the name is malformed.
            Unsupported: a sparse, multivector or server-side model, which this version does not embed with.
        """
        if name.strip() in self._settings.models:
            return ModelName(provider=None, model=name.strip())
        wanted = ModelName.parse(name)
        if wanted.provider is None:
            return self._complete_bare(wanted)
        provider = _ALIASES.get(wanted.provider.lower(), wanted.provider.lower())
        if provider not in _PROVIDERS:
            # A configured name may hold a colon of its own, as Ollama's tags do.
            configured = f"{wanted.provider}:{wanted.model}"
            if configured in self._settings.models:
                return ModelName(provider=None, model=configured, dimensions=wanted.dimensions)
            raise NotFound.named("model provider", wanted.provider, _PROVIDERS, _EFFECT)
        if provider == "qdrant":
            raise Unsupported(
                f"{_EFFECT}: {name!r} is embedded by the Qdrant server itself (server-side inference), which is not in this version."
            )
        model = wanted.model
        if provider == "builtin":
            model = HashingEmbedder(model).spec.name.partition(":")[2]
        elif provider == "fastembed":
            model = self._complete_fastembed(model)
        return wanted.model_copy(update={"provider": provider, "model": model})

    async def load(self, name: str) -> Embedder:
        """The loaded model of that name; concurrent loads of one model load it once, and a failed load is not remembered.

        Raises:
            NotFound, Refused, Unsupported: as `resolve`.
            SettingsError: its entry in QDRANT_MIGRATION_MODELS is inconsistent, or the variable of its key is not set.
            ModelNotUsable: it cannot be loaded, or is not what was stated about it.
            TransientEmbedding: its provider is busy or unreachable.
        """
        found = await to_thread.run_sync(self.resolve, name)
        canonical = str(found)
        async with self._locks.setdefault(canonical, Lock()):
            if canonical not in self._loaded:
                self._loaded[canonical] = await self._load(canonical, found)
            return self._loaded[canonical]

    async def usable(self) -> list[Usable]:
        """Configured models, FastEmbed models that are on this machine or well known, and the built-in one.

        Loads nothing and asks no network: `is_ready` says what the files and the variables say.
        """
        return await to_thread.run_sync(self._usable)

    async def close(self) -> None:
        """Free every model."""
        while self._loaded:
            _, embedder = self._loaded.popitem()
            await embedder.close()

    async def _load(self, canonical: str, name: ModelName) -> Embedder:
        entry = self._settings.models.get(name.model) if name.provider is None else None
        provider = name.provider or self._provider(name.model)
        model = (entry.model or name.model) if entry else name.model
        if provider == "builtin":
            return _hashing(canonical, model, name.dimensions or (entry.dimensions if entry else None))
        if provider == "fastembed":
            if entry is not None and entry.path is not None:
                return await load_fastembed(canonical, None, name.dimensions, entry)
            complete = await to_thread.run_sync(self._complete_fastembed, model)
            return await load_fastembed(canonical, complete, name.dimensions, entry)
        settings = (entry or ModelSettings()).model_copy(update={"provider": provider})
        return await load_provider(canonical, model, name.dimensions, settings)

    def _provider(self, configured: str) -> str:
        stated = self._settings.models[configured].provider.lower()
        provider = _ALIASES.get(stated, stated)
        if provider not in _PROVIDERS or provider == "qdrant":
            raise SettingsError(
                f"QDRANT_MIGRATION_MODELS[{configured!r}]: provider {stated!r} is not one of {', '.join(p for p in _PROVIDERS if p != 'qdrant')}. "
                "An OpenAI-compatible endpoint has provider 'openai' and its base_url."
            )
        return provider

    def _complete_bare(self, wanted: ModelName) -> ModelName:
        same = [name for name in self._settings.models if name.lower() == wanted.model.lower()]
        if len(same) == 1:
            return wanted.model_copy(update={"model": same[0]})
        if builtin.is_builtin(wanted.model):
            return wanted.model_copy(update={"provider": "builtin", "model": HashingEmbedder(wanted.model).spec.name.partition(":")[2]})
        return wanted.model_copy(update={"provider": "fastembed", "model": self._complete_fastembed(wanted.model)})

    def _complete_fastembed(self, model: str) -> str:
        known = files.dense_models()
        fitting = matching(model, known)
        if len(fitting) == 1:
            return fitting[0]
        if len(fitting) > 1:
            raise Refused(f"{_EFFECT}: {model!r} may be any of {', '.join(repr(name) for name in fitting)}. Name one of them.")
        others = files.other_models()
        if other := matching(model, others):
            kind = others[other[0]]
            step = "add_sparse" if kind is ModelKind.SPARSE else "add_multivector"
            raise Unsupported(
                f"{_EFFECT}: {model!r} is a {kind} model ({other[0]}). The strategy {step!r}, which would embed with it, is not in this version."
            )
        if Path(model).is_absolute():
            raise NotFound(
                f"{_EFFECT}: {model!r} looks like a directory. Local models are named in QDRANT_MIGRATION_MODELS, with their 'path'."
            )
        tails = {name.rpartition("/")[2]: name for name in known}
        raise NotFound.named(
            "model", model, {*known, *tails, *self._settings.models, *(f"openai:{name}" for name in providers.PRICES)}, _EFFECT
        )

    def _usable(self) -> list[Usable]:
        known = files.dense_models()
        found = [self._usable_configured(name, entry) for name, entry in self._settings.models.items()]
        for name, description in known.items():
            directory = files.cached_directory(description)
            if directory is None and name not in _SUGGESTED:
                continue
            size = int(description.size_in_GB * 1e9)
            found.append(
                Usable(
                    name=f"fastembed:{name}",
                    kind=ModelKind.DENSE,
                    dimensions=description.dim,
                    max_tokens=files.token_limit(directory) if directory else files.described_token_limit(description),
                    size_bytes=size,
                    is_ready=directory is not None,
                    note=None if directory else f"needs a download of {size / 1e6:,.0f} MB on first use",
                )
            )
        # Without the key they would be noise to those who never use a provider.
        entry = ModelSettings(provider="openai")
        if _obstacle("OpenAI", entry) is None:
            found += [
                Usable(
                    name=f"openai:{name}",
                    kind=ModelKind.DENSE,
                    is_ready=True,
                    note=f"texts are sent to OpenAI, USD {price} per million tokens",
                )
                for name, price in providers.PRICES.items()
            ]
        found += [
            Usable(name=spec.name, kind=ModelKind.DENSE, dimensions=spec.dimensions, is_ready=True, note=spec.note)
            for spec in (HashingEmbedder(name).spec for name in builtin.EXAMPLES)
        ]
        return sorted(found, key=lambda usable: (not usable.is_ready, usable.name.startswith("builtin:")))

    def _usable_configured(self, name: str, entry: ModelSettings) -> Usable:
        try:
            provider = self._provider(name)
        except SettingsError as error:
            return Usable(name=name, kind=ModelKind.DENSE, is_ready=False, note=str(error))
        note: str | None = None
        if entry.path is not None:
            path = entry.path.expanduser()
            note = None if (path / entry.file).is_file() else f"{str(path)!r} has no {entry.file}"
        elif provider == "fastembed":
            try:
                description = files.dense_models()[self._complete_fastembed(entry.model or name)]
            except MigrationError as error:
                note = str(error)
            else:
                is_cached = files.cached_directory(description) is not None
                note = None if is_cached else f"needs a download of {description.size_in_GB * 1000:,.0f} MB on first use"
        elif provider != "builtin":
            note = _obstacle(name, entry.model_copy(update={"provider": provider}))
        return Usable(
            name=name, kind=ModelKind.DENSE, dimensions=entry.dimensions, max_tokens=entry.max_tokens, is_ready=note is None, note=note
        )


def matching(name: str, known: Iterable[str]) -> list[str]:
    """The known names that fit best: the whole name, else all behind '/', else its beginning, else a part of it.

    Case does not matter. The looser two need three and four characters: a shorter piece fits by accident.
    """
    wanted = name.strip().lower()
    lowered = {full: full.lower() for full in known}
    tails = {full: low.rpartition("/")[2] for full, low in lowered.items()}
    ways = (
        [full for full, low in lowered.items() if low == wanted],
        [full for full, tail in tails.items() if tail == wanted],
        [full for full, tail in tails.items() if len(wanted) >= 3 and tail.startswith(wanted)],
        [full for full, low in lowered.items() if len(wanted) >= 4 and wanted in low],
    )
    return next((sorted(way) for way in ways if way), [])


def _hashing(name: str, model: str, stated: int | None) -> HashingEmbedder:
    embedder = HashingEmbedder(model, name)
    if stated not in (None, embedder.spec.dimensions):
        raise ModelNotUsable(f"Model {name!r} is said to have {stated} dimensions, but has {embedder.spec.dimensions}.")
    return embedder


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
