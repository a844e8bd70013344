"""How does a model look that the Qdrant server computes itself (`models.Document`)?

BM25 is in the server since 1.15.2; other models need an inference service behind it, as Qdrant Cloud has. A backfill writes
`placeholder(text)` and never sees a vector. Vectors are had for samples and comparisons, by a callable that the connection gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeGuard, TypeVar

import numpy as np

from qdrant_model_migration.domain.model import ModelKind, ModelSpec, Side
from qdrant_model_migration.domain.points import ServerText
from qdrant_model_migration.embedders.base import AnyEmbedder, Dense, Multivector, SparseVector
from qdrant_model_migration.embedders.checks import PROBE, blame, check_answer, check_multivectors, check_sparse, check_texts
from qdrant_model_migration.errors import (
    BadText,
    BatchTooLarge,
    ConnectionFailed,
    MigrationError,
    ModelNotUsable,
    RateLimited,
    Refused,
    RequestRejected,
    SettingsError,
    TransientEmbedding,
)
from qdrant_model_migration.settings import ModelSettings

V = TypeVar("V")

BM25 = "qdrant/bm25"
"""The server's name of it; in ours the provider stands before it: `qdrant:bm25`."""

BM25_NAMES = ("bm25", BM25)
_BM25_OPTIONS: dict[str, str | int | float | bool] = {"language": "english", "tokenizer": "word", "k": 1.2, "b": 0.75, "avg_len": 256.0}
"""The server's own defaults (1.16.3 and 1.17.0), but said, so that the record and the query side do not depend on them."""

_WITHOUT_LANGUAGE = "none"
BATCH_SIZE = 256
_FOREIGN = frozenset({"path", "file", "output_name", "pooling", "normalize", "base_url", "key_variable"})


class Infer(Protocol):
    """The vectors that a Qdrant makes of texts, as it gives them back: numbers, `{"indices": …, "values": …}`, or rows of numbers."""

    async def __call__(self, documents: Sequence[ServerText], side: Side, kind: ModelKind, dimensions: int | None) -> list[Any]:
        """One vector a text.

        Raises:
            Unsupported: this Qdrant is too old, or embedded.
            ModelNotUsable: it has no such model.
            RequestRejected: it refuses the texts or the options.
            MigrationError: it cannot be asked.
        """
        ...


class ServerSideEmbedder(Generic[V]):
    """One model of one server. V is what its kind's Protocol says: Dense, or a list of sparse vectors or multivectors."""

    def __init__(self, spec: ModelSpec, infer: Infer, model: str, fit: Callable[[list[Any], int], V]) -> None:
        self._spec = spec
        self._infer = infer
        self._model = model
        self._fit = fit

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def batch_size(self) -> int:
        return BATCH_SIZE

    def placeholder(self, text: str, side: Side = Side.DOCUMENT) -> ServerText:
        """What is written, or searched with, in place of a vector: the server embeds it. Of a query only this is sure to be a query."""
        prefix = self._spec.query_prefix if side is Side.QUERY else self._spec.document_prefix
        return ServerText(text=prefix + text, model=self._model, options=self._spec.options)

    async def embed(self, texts: Sequence[str], side: Side) -> V:
        """The server's vectors of the texts, by way of a scratch collection: for samples, not for a backfill.

        Raises:
            TransientEmbedding: the server does not answer.
            BatchTooLarge: fewer texts at a time would be accepted.
            BadText: a text is blank or refused.
            ModelNotUsable: the server has no such model, or does not show the vector of a query.
        """
        check_texts(texts, self._spec.name)
        if not texts:
            return self._fit([], 0)

        async def raw(ready: list[str]) -> V:
            return self._fit(
                await self._ask([ServerText(text=t, model=self._model, options=self._spec.options) for t in ready], side), len(ready)
            )

        try:
            return await raw([self.placeholder(text, side).text for text in texts])
        except BadText as error:
            raise await blame(error, raw, PROBE, self._spec.name) from None

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """None: the server does not tell."""
        return None

    async def close(self) -> None:
        """Nothing: the connection is not the model's."""

    async def _ask(self, documents: list[ServerText], side: Side) -> list[Any]:
        try:
            return await self._infer(documents, side, self._spec.kind, self._spec.dimensions)
        except RateLimited as error:
            raise TransientEmbedding(str(error), error.retry_after_s) from None
        except ConnectionFailed as error:
            raise TransientEmbedding(str(error)) from None
        except RequestRejected as error:
            raise BadText(f"Qdrant did not embed {len(documents)} text(s) with {self._spec.name!r}: {error}") from None


def is_server_side(embedder: AnyEmbedder) -> TypeGuard[ServerSideEmbedder[Any]]:
    """Whether a backfill writes `placeholder(text)` instead of vectors."""
    return isinstance(embedder, ServerSideEmbedder)


async def load_server_side(
    name: str, model: str, kind: ModelKind, dimensions: int | None, entry: ModelSettings | None, infer: Infer
) -> AnyEmbedder:
    """Have the server embed one text, and record what it is.

    Args:
        name: The canonical name, recorded in the spec.
        model: The model's name at the server; `bm25` is completed.
        kind: What it gives; the server does not tell.
        dimensions: Of dense and multivector models: they size the scratch collection, and the server refuses another size.
        entry: The entry of QDRANT_MIGRATION_MODELS, when there is one.
        infer: How the server is asked.

    Raises:
        Unsupported: the server is too old, or this is the embedded database.
        ModelNotUsable: the server refuses; in its words.
        Refused: a dense model whose dimensions nobody stated.
        SettingsError: the entry has settings that have no meaning for it.
    """
    ignored = sorted(_FOREIGN & entry.model_fields_set) if entry else []
    if ignored:
        raise SettingsError(f"QDRANT_MIGRATION_MODELS[{name!r}]: {', '.join(ignored)} has no meaning for a model of the server; remove it.")
    is_bm25 = model.lower() in BM25_NAMES
    options = _bm25_options(entry) if is_bm25 else {}
    if not is_bm25 and entry is not None and {"language", "tokenizer"} & entry.model_fields_set:
        raise SettingsError(f"QDRANT_MIGRATION_MODELS[{name!r}]: language and tokenizer are BM25's, and {model!r} is another model.")
    if kind is ModelKind.SPARSE:
        dimensions = None
    elif dimensions is None:
        raise Refused(
            f"Nothing was loaded: Qdrant does not say how many dimensions {model!r} has. Write them behind the name, for example '{name}@384'."
        )
    spec = ModelSpec(
        name=name,
        kind=kind,
        dimensions=dimensions,
        distance="Dot" if kind is ModelKind.SPARSE else (entry.distance if entry else "Cosine"),
        max_tokens=entry.max_tokens if entry else None,
        is_normalized=kind is not ModelKind.SPARSE,
        document_prefix=entry.document_prefix if entry else "",
        query_prefix=entry.query_prefix if entry else "",
        price_per_million=entry.price_per_million if entry else None,
        modifier="idf" if is_bm25 else None,
        options=options,
        is_server_side=True,
        # BM25 is computed where the texts are stored anyhow; another model may run wherever the service is.
        is_local=is_bm25,
        note=None if is_bm25 else "computed by the inference service of the Qdrant server, to which texts are sent",
    )
    made: AnyEmbedder
    if kind is ModelKind.SPARSE:
        made = ServerSideEmbedder[list[SparseVector]](
            spec,
            infer,
            BM25 if is_bm25 else model,
            lambda found, count: check_sparse([(v["indices"], v["values"]) for v in found], count, name),
        )
    elif kind is ModelKind.MULTIVECTOR:
        made = ServerSideEmbedder[list[Multivector]](
            spec, infer, model, lambda found, count: check_multivectors(found, count, dimensions, name)
        )
    else:
        made = ServerSideEmbedder[Dense](
            spec, infer, model, lambda found, count: check_answer(found or np.zeros((0, dimensions or 0)), count, dimensions, name)
        )
    await _tried(made)
    return made


async def _tried(embedder: ServerSideEmbedder[Any]) -> None:
    spec = embedder.spec
    document = embedder.placeholder(PROBE)
    if "language" in spec.options and spec.options["language"] != _WITHOUT_LANGUAGE:
        # The server takes any language, and for one that it does not know leaves out stop words and stemming without a word.
        # Of stop words it refuses such a name.
        document = ServerText(text=document.text, model=document.model, options={**document.options, "stopwords": spec.options["language"]})
    try:
        answer = await embedder._infer([document], Side.DOCUMENT, spec.kind, spec.dimensions)
        found = embedder._fit(answer, 1)
    except (RequestRejected, BadText, BatchTooLarge) as error:
        stated = ", ".join(f"{key} {spec.options[key]!r}" for key in ("language", "tokenizer") if key in spec.options)
        raise ModelNotUsable(f"Model {spec.name!r}{f' ({stated})' if stated else ''} cannot be used; Qdrant says: {error}") from None
    except ConnectionFailed as error:
        raise TransientEmbedding(str(error)) from None
    except MigrationError:
        raise
    if spec.kind is ModelKind.DENSE:
        is_normalized = abs(float(np.linalg.norm(found[0])) - 1.0) < 1e-3
        embedder._spec = spec.model_copy(update={"is_normalized": is_normalized})


def _bm25_options(entry: ModelSettings | None) -> dict[str, str | int | float | bool]:
    # The server compares a language letter by letter: "English" is none that it knows.
    stated = {"language": entry.language, "tokenizer": entry.tokenizer} if entry else {}
    return {**_BM25_OPTIONS, **{key: value.strip().lower() for key, value in stated.items() if value}}
