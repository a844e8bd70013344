"""What does a provider's failure mean for these texts: try again, send fewer, leave one out, or give the model up?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from qdrant_model_migration.errors import BadText, BatchTooLarge, EmbeddingError, ModelNotUsable, TransientEmbedding

_TRANSIENT = frozenset({408, 409, 425, 429})
_TOO_MANY = re.compile(
    r"maximum context|context.length|too many|too large|batch size|maximum (request|number|allowed)|max\w* tokens|input tokens? exceed|"
    r"array (is )?too long|token limit|tokens per request",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+|\b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b|\b[\w-]+(\.[\w-]+)*:\d{2,5}\b", re.IGNORECASE)
_KEY = re.compile(r"\b((sk|pk|key|api)[-_]|bearer )[\w*.-]{6,}|[\w-]*\*{3,}[\w-]*|\b[A-Za-z0-9_-]{32,}\b", re.IGNORECASE)


MOST_READ = 4_000
"""Characters of a provider's message that are looked at."""

ProviderError = EmbeddingError | BatchTooLarge


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is known of a failed request. No status: there was no answer, or not one that could be read."""

    status: int | None = None
    said: str = ""
    retry_after_s: float | None = None
    is_quota: bool = False
    is_timeout: bool = False


def provider_error(fault: Fault, *, model: str, count: int, key_variable: str | None) -> ProviderError:
    """The error to raise for a failed request of `count` texts. Its message holds no key, no address and no text of ours."""
    status, said = fault.status, f" It said: {fault.said}" if fault.said else ""
    if fault.is_quota or status == 402:
        return ModelNotUsable(f"The provider of {model!r} refuses more requests: the account's quota or credit is used up.")
    if status is None:
        what = "did not answer in time" if fault.is_timeout else "could not be reached, or its answer could not be read"
        return TransientEmbedding(f"The provider of {model!r} {what}.", fault.retry_after_s)
    if status == 429:
        return TransientEmbedding(f"The provider of {model!r} asks to slow down (429).", fault.retry_after_s)
    if status in _TRANSIENT or status >= 500:
        return TransientEmbedding(f"The provider of {model!r} failed with status {status}.", fault.retry_after_s)
    if status in (401, 403):
        where = f"the key in {key_variable}" if key_variable else "a request without a key"
        return ModelNotUsable(f"The provider of {model!r} does not accept {where} ({status}). Set a key that may use this model.")
    if status == 404:
        return ModelNotUsable(
            f"The provider does not know the model {model!r}, or the address configured for it is not that of its API (404)."
        )
    if count > 1 and (status == 413 or _TOO_MANY.search(fault.said)):
        return BatchTooLarge(f"{count} texts are too much for one request to {model!r} ({status}).{said}")
    if status in (400, 413, 422):
        what = "this text" if count == 1 else f"one or more of {count} texts"
        return BadText(f"The provider of {model!r} refuses {what} ({status}).{said}")
    return ModelNotUsable(f"The provider of {model!r} answered with status {status}.{said}")


def safe_words(body: object, texts: Iterable[str], hidden: Iterable[str | None]) -> str:
    """What the provider said, short, without addresses, keys, the texts it was sent, or any of the `hidden` words."""
    message = _message(body)
    for word in hidden:
        if word:
            message = message.replace(word, "***")
    # The patterns below look at every place of it.
    message = message[:MOST_READ]
    # Some servers repeat their input; it is data of the collection, which no error shows.
    if any(len(text) >= 12 and (text[:40] in message or text[-40:] in message) for text in texts):
        return ""
    message = _KEY.sub("***", _ADDRESS.sub("(address)", " ".join(message.split())))
    return message if len(message) <= 200 else message[:199] + "…"


def _message(body: object) -> str:
    """The message of the usual forms: {"error": {"message"}}, {"error"}, {"message"}, {"detail"}."""
    while isinstance(body, dict):
        body = next((body[key] for key in ("error", "message", "detail") if body.get(key)), "")
    return body if isinstance(body, str) else ""
