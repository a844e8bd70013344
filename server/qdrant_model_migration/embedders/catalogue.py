"""Which model does a name mean, and where is the loaded one?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from anyio import Lock, to_thread

from qdrant_model_migration.domain.model import ModelKind, ModelName
from qdrant_model_migration.embedders import builtin, providers
from qdrant_model_migration.embedders import fastembed_files as files
from qdrant_model_migration.embedders.base import AnyEmbedder, Embedder, Usable, is_dense
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.embedders.fastembed import load_fastembed
from qdrant_model_migration.embedders.fastembed_late import load_late_interaction
from qdrant_model_migration.embedders.fastembed_sparse import load_sparse
from qdrant_model_migration.embedders.listing import PROVIDERS, list_usable, provider_of
from qdrant_model_migration.embedders.providers import load_provider
from qdrant_model_migration.embedders.server_side import BM25_NAMES, Infer, load_server_side
from qdrant_model_migration.embedders.shortened import ShortenedEmbedder
from qdrant_model_migration.errors import ModelNotUsable, NotFound, Refused, SettingsError
from qdrant_model_migration.settings import ModelSettings, Settings

_EFFECT = "Nothing was loaded"

_STRATEGY = {ModelKind.SPARSE: "add_sparse", ModelKind.MULTIVECTOR: "add_multivector"}
"""Which strategy embeds with a model that is not dense."""


class Catalogue:
    """The models of one process. A model is loaded once and stays until `close`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[str, AnyEmbedder] = {}
        self._locks: dict[str, Lock] = {}

    def resolve(self, name: str) -> ModelName:
        """The canonical name for what a person wrote. May import FastEmbed (half a second), never loads a model.

        Configured names come first, then `provider:model[@dimensions]`. A name without provider, and a FastEmbed name in
        other case or cut short, is completed when exactly one model fits.

        Raises:
            NotFound: nothing fits; near misses are listed.
            Refused: several models fit, or the name is malformed.
        """
        if name.strip() in self._settings.models:
            return ModelName(provider=None, model=name.strip())
        wanted = ModelName.parse(name)
        if wanted.provider is None:
            return self._complete_bare(wanted)
        provider = provider_of(wanted.provider)
        if provider not in PROVIDERS:
            # A configured name may hold a colon of its own, as Ollama's tags do.
            configured = f"{wanted.provider}:{wanted.model}"
            if configured in self._settings.models:
                return ModelName(provider=None, model=configured, dimensions=wanted.dimensions)
            raise NotFound.named("model provider", wanted.provider, PROVIDERS, _EFFECT)
        model = wanted.model
        if provider == "builtin":
            model = HashingEmbedder(model).spec.name.partition(":")[2]
        elif provider == "fastembed":
            model = self._complete_fastembed(model)
        elif provider == "qdrant" and model.lower() in BM25_NAMES:
            model = "bm25"
        return wanted.model_copy(update={"provider": provider, "model": model})

    def kind(self, name: ModelName) -> ModelKind:
        """What a model gives, as far as its name tells: FastEmbed's lists decide, also of what the server computes."""
        if self.is_server_bm25(name):
            return ModelKind.SPARSE
        model, provider = self._own_name(name), self._provider(name)
        found = files.described(model) if provider in ("fastembed", "qdrant") else None
        return found[0] if found else ModelKind.DENSE

    def is_server_side(self, name: ModelName) -> bool:
        """Whether the Qdrant server computes its vectors, so that loading it needs a connection."""
        return self._provider(name) == "qdrant"

    def is_server_bm25(self, name: ModelName) -> bool:
        """Whether it is the BM25 that every server computes, of which all is known without asking."""
        return self._provider(name) == "qdrant" and self._own_name(name).lower() in BM25_NAMES

    async def load(self, name: str, *, infer: Infer | None = None, place: str = "") -> Embedder:
        """The loaded dense model of that name.

        Raises:
            Refused: it is a sparse or a multivector model; or as `resolve`.
            MigrationError: as `load_any`.
        """
        found = await to_thread.run_sync(self.resolve, name)
        kind = await to_thread.run_sync(self.kind, found)
        if kind is not ModelKind.DENSE:
            raise Refused(
                f"{_EFFECT}: {str(found)!r} is a {kind} model, and a dense one is needed here. It is the strategy {_STRATEGY[kind]!r} that embeds with it."
            )
        embedder = await self.load_any(name, infer=infer, place=place)
        assert is_dense(embedder)
        return embedder

    async def load_any(self, name: str, *, infer: Infer | None = None, place: str = "") -> AnyEmbedder:
        """The loaded model of that name; concurrent loads of one model load it once, and a failed load is not remembered.

        Args:
            name: As a person writes it.
            infer: How the server of a server-side model is asked.
            place: Which server that is: its models are another's no more than its collections.

        Raises:
            NotFound, Refused: as `resolve`; or a server-side model without `infer`, or dimensions behind a model that has none.
            SettingsError: its entry in QDRANT_MIGRATION_MODELS is inconsistent, or the variable of its key is not set.
            ModelNotUsable: it cannot be loaded, or is not what was stated about it.
            TransientEmbedding: its provider is busy or unreachable.
            Unsupported: a server-side model, and this Qdrant is too old or embedded.
        """
        found = await to_thread.run_sync(self.resolve, name)
        key = f"{found} at {place}" if self.is_server_side(found) else str(found)
        async with self._locks.setdefault(key, Lock()):
            if key not in self._loaded:
                self._loaded[key] = await self._load(found, infer)
            return self._loaded[key]

    async def usable(self, kind: ModelKind | None = None) -> list[Usable]:
        """Configured models, FastEmbed models that are on this machine or well known, the server's BM25 and the built-in ones.

        Loads nothing and asks no network: `is_ready` says what the files and the variables say. Without `kind`, of every kind.
        """
        found = await to_thread.run_sync(list_usable, self._settings)
        return [usable for usable in found if kind in (None, usable.kind)]

    async def close(self) -> None:
        """Free every model."""
        while self._loaded:
            _, embedder = self._loaded.popitem()
            await embedder.close()

    async def _load(self, name: ModelName, infer: Infer | None) -> AnyEmbedder:
        canonical, entry, provider, model = str(name), self._entry(name), self._provider(name), self._own_name(name)
        kind = await to_thread.run_sync(self.kind, name)
        if name.dimensions is not None and (kind is ModelKind.SPARSE or (kind is ModelKind.MULTIVECTOR and provider != "qdrant")):
            raise Refused(f"{_EFFECT}: {canonical!r} is a {kind} model, whose vectors are not cut. Leave out '@{name.dimensions}'.")
        if provider == "qdrant":
            return await self._load_server_side(name, model, kind, infer)
        if provider in ("fastembed", "builtin") and name.dimensions is not None:
            return await self._shortened(name, model, name.dimensions)
        if provider == "builtin":
            return _hashing(canonical, model, entry.dimensions if entry else None)
        if provider == "fastembed":
            return await self._load_fastembed(canonical, model, kind, entry)
        settings = (entry or ModelSettings()).model_copy(update={"provider": provider})
        return await load_provider(canonical, model, name.dimensions, settings)

    async def _load_fastembed(self, name: str, model: str, kind: ModelKind, entry: ModelSettings | None) -> AnyEmbedder:
        if kind is ModelKind.DENSE and entry is not None:
            meaningless = sorted({"language", "tokenizer"} & entry.model_fields_set)
            if meaningless:
                raise SettingsError(f"QDRANT_MIGRATION_MODELS[{name!r}]: {' and '.join(meaningless)} is BM25's alone; remove it.")
            if entry.path is not None:
                return await load_fastembed(name, None, entry)
        complete = await to_thread.run_sync(self._complete_fastembed, model)
        if kind is ModelKind.DENSE:
            # A name in short may turn out to be another kind's.
            described = files.described(complete)
            kind = described[0] if described else kind
        if kind is ModelKind.SPARSE:
            return await load_sparse(name, complete, entry)
        if kind is ModelKind.MULTIVECTOR:
            return await load_late_interaction(name, complete, entry)
        return await load_fastembed(name, complete, entry)

    async def _load_server_side(self, name: ModelName, model: str, kind: ModelKind, infer: Infer | None) -> AnyEmbedder:
        if infer is None:
            raise Refused(f"{_EFFECT}: {str(name)!r} is computed by a Qdrant server, and here is none to ask.")
        entry, dimensions = self._entry(name), name.dimensions
        if dimensions is None:
            described = await to_thread.run_sync(files.described, model)
            dimensions = (entry.dimensions if entry else None) or (getattr(described[1], "dim", None) if described else None)
        return await load_server_side(str(name), model, kind, dimensions, entry, infer)

    async def _shortened(self, name: ModelName, model: str, dimensions: int) -> Embedder:
        whole = await self.load(str(name.model_copy(update={"dimensions": None})))
        return whole if whole.spec.dimensions == dimensions else ShortenedEmbedder(whole, dimensions, f"{name.model} {model}")

    def _entry(self, name: ModelName) -> ModelSettings | None:
        return self._settings.models.get(name.model) if name.provider is None else None

    def _own_name(self, name: ModelName) -> str:
        """What its provider calls it."""
        entry = self._entry(name)
        return (entry.model or name.model) if entry else name.model

    def _provider(self, name: ModelName) -> str:
        """Raises SettingsError where a configured model names one that there is not."""
        if name.provider is not None:
            return name.provider
        return provider_of(self._settings.models[name.model].provider, configured=name.model)

    def _complete_bare(self, wanted: ModelName) -> ModelName:
        same = [name for name in self._settings.models if name.lower() == wanted.model.lower()]
        if len(same) == 1:
            return wanted.model_copy(update={"model": same[0]})
        if builtin.is_builtin(wanted.model):
            return wanted.model_copy(update={"provider": "builtin", "model": HashingEmbedder(wanted.model).spec.name.partition(":")[2]})
        if wanted.model.lower() == "bm25":
            raise Refused(
                f"{_EFFECT}: 'bm25' may be 'qdrant:bm25', which the server computes (1.15.2 or later), or 'fastembed:Qdrant/bm25', which this "
                "machine does. Name one of them: documents and queries must go through the same."
            )
        return wanted.model_copy(update={"provider": "fastembed", "model": self._complete_fastembed(wanted.model)})

    def _complete_fastembed(self, model: str) -> str:
        exact = files.described(model)
        if exact is not None:
            return exact[1].model
        known = files.dense_models()
        fitting = matching(model, known) or matching(model, {**files.sparse_models(), **files.multivector_models()})
        if len(fitting) == 1:
            return fitting[0]
        if len(fitting) > 1:
            raise Refused(f"{_EFFECT}: {model!r} may be any of {', '.join(repr(name) for name in fitting)}. Name one of them.")
        if Path(model).is_absolute():
            raise NotFound(
                f"{_EFFECT}: {model!r} looks like a directory. Local models are named in QDRANT_MIGRATION_MODELS, with their 'path'."
            )
        every = {*known, *files.sparse_models(), *files.multivector_models()}
        tails = {name.rpartition("/")[2] for name in every}
        raise NotFound.named(
            "model", model, {*every, *tails, *self._settings.models, *(f"openai:{name}" for name in providers.PRICES)}, _EFFECT
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
