"""How are texts embedded by OpenAI, an OpenAI-compatible endpoint, Cohere, Voyage or Google? Through pydantic-ai's Embedder.

The extra `providers` brings what OpenAI and compatible endpoints (Ollama, TEI, vLLM) need; the others need their own SDK as well.
Retries are not done here: retrying.py does them, interruptibly, for every model alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import import_module
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import numpy as np
from anyio import to_thread

from qdrant_model_migration.domain.model import ModelSpec, Side
from qdrant_model_migration.embedders.base import Dense
from qdrant_model_migration.embedders.checks import PROBE, blame, check_answer, check_texts
from qdrant_model_migration.embedders.limits import Limiter, MinuteWindow
from qdrant_model_migration.embedders.provider_errors import Fault, provider_error, safe_words
from qdrant_model_migration.environment import secret_from_variable
from qdrant_model_migration.errors import BadText, BatchTooLarge, ModelNotUsable, SettingsError
from qdrant_model_migration.settings import ModelSettings

if TYPE_CHECKING:
    from pydantic_ai.embeddings import Embedder as PydanticEmbedder
    from pydantic_ai.embeddings import EmbeddingSettings

BATCH_SIZE = 96
"""Cohere's limit for one request, and the smallest of the four providers' (OpenAI 2,048, Voyage 1,000, Google 100)."""

TIMEOUT_S = 60.0
_OPENAI = "api.openai.com"
_NO_KEY = "none"
"""Sent to a configured endpoint without key_variable: OPENAI_API_KEY belongs to OpenAI and goes nowhere else."""

KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "cohere": "CO_API_KEY", "voyageai": "VOYAGE_API_KEY", "google": "GOOGLE_API_KEY"}

# USD per million tokens, list price of the standard (not batch) tier; price_per_million overrides.
# https://platform.openai.com/docs/pricing, as quoted by tokenmix.ai (2026-04-04) and tokenprice.fyi (2026-07-03).
PRICES_SEEN = "2026-07-03"
PRICES = {"text-embedding-3-small": 0.02, "text-embedding-3-large": 0.13, "text-embedding-ada-002": 0.10}


@dataclass(frozen=True, kw_only=True)
class _Client:
    embedder: PydanticEmbedder
    stack: AsyncExitStack
    key: str | None
    key_variable: str | None
    host: str | None
    """Of the address that requests go to, where it can be told."""


class ProviderEmbedder:
    """One model behind an HTTP API."""

    def __init__(self, spec: ModelSpec, client: _Client, model: str, entry: ModelSettings) -> None:
        self._spec = spec
        self._client: _Client | None = client
        self._entry = entry
        self._model = model
        self._asked_dimensions: int | None = None
        self._limiter = Limiter(MinuteWindow(entry.requests_per_minute, entry.tokens_per_minute))
        self._encoding: Any = None
        self._cannot_count = client.host != _OPENAI

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def batch_size(self) -> int:
        return self._entry.batch_size or BATCH_SIZE

    async def embed(self, texts: Sequence[str], side: Side) -> Dense:
        """Vectors of shape (len(texts), dimensions), in the order of the texts; one request for every `batch_size` texts.

        Raises:
            TransientEmbedding: rate limit, time-out, no connection, or the provider's own failure; with `retry_after_s` if said.
            BatchTooLarge: fewer texts at a time would be accepted.
            BadText: a text is blank, too long or refused.
            ModelNotUsable: the key, the model's name or the account is refused, or the answer is malformed.
        """
        check_texts(texts, self._spec.name)
        prefix = self._spec.query_prefix if side is Side.QUERY else self._spec.document_prefix
        ready = [prefix + text for text in texts]
        found = np.zeros((len(ready), self._spec.dimensions or 0), dtype=np.float32)
        for start in range(0, len(ready), self.batch_size):
            part = ready[start : start + self.batch_size]
            vectors = await self._request(part, side)
            try:
                found[start : start + len(part)] = check_answer(vectors, len(part), self._spec.dimensions, self._spec.name)
            except BadText as error:
                raise await blame(error, self._probe_raw, PROBE, self._spec.name) from None
        return found

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens by OpenAI's tokenizer, which is fetched once; None for every other provider, or when it cannot be had."""
        if self._cannot_count:
            return None
        if self._encoding is None:
            with anyio.move_on_after(10):
                self._encoding = await to_thread.run_sync(_encoding, self._model, abandon_on_cancel=True)
            if self._encoding is None:
                self._cannot_count = True
                return None
        prefix = self._spec.document_prefix
        encoded = await to_thread.run_sync(self._encoding.encode_ordinary_batch, [prefix + text for text in texts])
        return [len(tokens) for tokens in encoded]

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.stack.aclose()

    async def _probe_raw(self, texts: list[str]) -> Dense:
        return check_answer(await self._request(texts, Side.DOCUMENT), len(texts), self._spec.dimensions, self._spec.name)

    async def _request(self, texts: list[str], side: Side) -> Any:
        from pydantic_ai.exceptions import (
            ModelAPIError,
            ModelHTTPError,
            ModelQuotaExceededError,
            ModelTimeoutError,
            UnexpectedModelBehavior,
            UserError,
        )

        client = self._client
        if client is None:
            raise ModelNotUsable(f"Model {self._spec.name!r} was closed.")
        await self._limiter.acquire(sum(estimated_tokens(text) for text in texts))
        call = client.embedder.embed_query if side is Side.QUERY else client.embedder.embed_documents
        settings: EmbeddingSettings | None = {"dimensions": self._asked_dimensions} if self._asked_dimensions else None
        try:
            result = await call(texts, settings=settings)
        except ModelHTTPError as error:
            fault = Fault(
                status=error.status_code,
                said=safe_words(error.body, texts, (client.key, client.host)),
                retry_after_s=error.retry_after,
                is_quota=isinstance(error, ModelQuotaExceededError),
            )
        except ModelAPIError as error:
            fault = Fault(is_timeout=isinstance(error, ModelTimeoutError), retry_after_s=error.retry_after)
        except (UnexpectedModelBehavior, UserError, ValueError, TypeError, AttributeError):
            # What the SDKs make of an answer that is JSON, but not the JSON of an embedding.
            raise ModelNotUsable(
                f"The provider of {self._spec.name!r} answered {len(texts)} texts with no vectors that could be read."
            ) from None
        else:
            return result.embeddings
        # `from None`: the original names the address.
        raise provider_error(fault, model=self._spec.name, count=len(texts), key_variable=client.key_variable) from None


async def load_provider(name: str, model: str, dimensions: int | None, entry: ModelSettings) -> ProviderEmbedder:
    """Connect to a provider and measure the model on a real text.

    Args:
        name: The canonical name, recorded in the spec.
        model: The model's name at the provider.
        dimensions: What the vectors shall have; asked of the provider only when it does not give so many by itself.
        entry: The settings; `provider` says which API.

    Raises:
        SettingsError: the key's variable is not set, or base_url is no address.
        ModelNotUsable: the extra is not installed, the provider refuses the model, or it cannot give so many dimensions.
        TransientEmbedding: the provider is busy or unreachable.
    """
    client = _connect(name, model, entry)
    is_openai_itself = client.host == _OPENAI
    is_local = _is_loopback(client.host)
    max_tokens = entry.max_tokens
    # pydantic-ai states OpenAI's limit for whatever speaks its protocol.
    if max_tokens is None and (is_openai_itself or entry.provider != "openai"):
        max_tokens = await client.embedder.max_input_tokens()
    spec = ModelSpec(
        name=name,
        distance=entry.distance,
        max_tokens=max_tokens,
        document_prefix=entry.document_prefix,
        query_prefix=entry.query_prefix,
        price_per_million=PRICES.get(model) if is_openai_itself and entry.price_per_million is None else entry.price_per_million,
        is_local=is_local,
        note=None if is_local else "texts are sent to the provider",
    )
    wanted = dimensions or entry.dimensions
    embedder = ProviderEmbedder(spec, client, model, entry)
    async with AsyncExitStack() as unless_loaded:
        unless_loaded.push_async_callback(embedder.close)
        measured, is_normalized = await _measure(embedder)
        if wanted is not None and measured != wanted:
            given = measured
            embedder._asked_dimensions = wanted
            measured, is_normalized = await _measure(embedder, f"It gives {given} dimensions, and was asked for {wanted}. ")
            if measured != wanted:
                raise ModelNotUsable(f"Model {name!r} gives {given} dimensions, and {measured} when asked for {wanted}.")
        unless_loaded.pop_all()
    embedder._spec = spec.model_copy(update={"dimensions": measured, "is_normalized": is_normalized})
    return embedder


async def _measure(embedder: ProviderEmbedder, circumstance: str = "") -> tuple[int, bool]:
    name = embedder.spec.name
    try:
        probe = await embedder._probe_raw([embedder.spec.document_prefix + PROBE])
    except (BadText, BatchTooLarge) as error:
        raise ModelNotUsable(f"Model {name!r} cannot be used. {circumstance}{error}") from None
    return probe.shape[1], abs(float(np.linalg.norm(probe[0])) - 1.0) < 1e-3


def _connect(name: str, model: str, entry: ModelSettings) -> _Client:
    host = urlsplit(entry.base_url).hostname if entry.base_url else None
    if entry.base_url is not None and (not host or not entry.base_url.startswith(("http://", "https://"))):
        raise SettingsError(
            f"QDRANT_MIGRATION_MODELS[{name!r}]: base_url is not an address; it begins with http:// or https:// and names a host."
        )
    variable = entry.key_variable or (None if entry.base_url else KEY_VARIABLES[entry.provider])
    key = secret_from_variable(variable, f"Model {name!r}").get_secret_value() if variable else None
    stack = AsyncExitStack()
    try:
        embedder = _CONNECTED[entry.provider](model, entry, key, stack)
    except ImportError:
        extra = "" if entry.provider == "openai" else f" and pydantic-ai-slim[{entry.provider}]"
        raise ModelNotUsable(
            f"Model {name!r} was not loaded: what speaks to {entry.provider!r} is not installed. Install qdrant-model-migration[providers]{extra}."
        ) from None
    # Not the configured one: OPENAI_BASE_URL may have decided.
    asked = getattr(embedder.model, "base_url", None)
    return _Client(embedder=embedder, stack=stack, key=key, key_variable=variable, host=urlsplit(asked).hostname if asked else None)


def _openai(model: str, entry: ModelSettings, key: str | None, stack: AsyncExitStack) -> PydanticEmbedder:
    from openai import AsyncOpenAI
    from pydantic_ai.embeddings import Embedder
    from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
    from pydantic_ai.providers.openai import OpenAIProvider

    # max_retries=0: the SDK would sleep out of reach of an interruption and hide the retry-after header.
    sdk = AsyncOpenAI(base_url=entry.base_url, api_key=key or _NO_KEY, max_retries=0, timeout=TIMEOUT_S)
    if entry.base_url is not None:
        # Read from OPENAI_ORG_ID and OPENAI_PROJECT_ID, which are OpenAI's business alone.
        sdk.organization = sdk.project = None
    stack.push_async_callback(sdk.close)
    return Embedder(OpenAIEmbeddingModel(model, provider=OpenAIProvider(openai_client=sdk)))


# The SDKs below are imported by name: whether they are installed must not matter to the type checker. None of them retries, as above.


def _cohere(model: str, entry: ModelSettings, key: str | None, stack: AsyncExitStack) -> PydanticEmbedder:
    from pydantic_ai.embeddings import Embedder
    from pydantic_ai.embeddings.cohere import CohereEmbeddingModel
    from pydantic_ai.providers.cohere import CohereProvider

    sdk = import_module("cohere").AsyncClientV2(key or _NO_KEY, base_url=entry.base_url, timeout=TIMEOUT_S, max_retries=0)
    return Embedder(CohereEmbeddingModel(model, provider=CohereProvider(cohere_client=sdk)))


def _voyageai(model: str, entry: ModelSettings, key: str | None, stack: AsyncExitStack) -> PydanticEmbedder:
    from pydantic_ai.embeddings import Embedder
    from pydantic_ai.embeddings.voyageai import VoyageAIEmbeddingModel
    from pydantic_ai.providers.voyageai import VoyageAIProvider

    sdk = import_module("voyageai").AsyncClient(key or _NO_KEY, max_retries=0, timeout=TIMEOUT_S, base_url=entry.base_url)
    return Embedder(VoyageAIEmbeddingModel(model, provider=VoyageAIProvider(voyageai_client=sdk)))


def _google(model: str, entry: ModelSettings, key: str | None, stack: AsyncExitStack) -> PydanticEmbedder:
    from pydantic_ai.embeddings import Embedder
    from pydantic_ai.embeddings.google import GoogleEmbeddingModel
    from pydantic_ai.providers.google import GoogleProvider

    options = {"base_url": entry.base_url, "timeout": int(1000 * TIMEOUT_S)}
    sdk = import_module("google.genai").Client(vertexai=False, api_key=key or _NO_KEY, http_options=options)
    stack.push_async_callback(sdk.aio.aclose)
    return Embedder(GoogleEmbeddingModel(model, provider=GoogleProvider(client=sdk)))


_CONNECTED = {"openai": _openai, "cohere": _cohere, "voyageai": _voyageai, "google": _google}


def _encoding(model: str) -> Any:
    try:
        # By name: pydantic-ai's extra brings it, and whether it is installed must not matter to the type checker.
        return import_module("tiktoken").encoding_for_model(model)
    except (ImportError, KeyError, ValueError, OSError):  # OSError: the download failed
        return None


def _is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def estimated_tokens(text: str) -> int:
    """Four characters a token in English; at least one."""
    return max(1, len(text) // 4)
