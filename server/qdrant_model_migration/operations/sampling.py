"""What does a handful of points tell about all of them? Drawing a sample, choosing its text, timing a model on it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.findings import field_name_is_usable
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import Payload, Point
from qdrant_model_migration.domain.texts import Texts, TextSource, text_statistics
from qdrant_model_migration.embedders.base import AnyEmbedder, is_multivector, is_sparse
from qdrant_model_migration.errors import BadText, BatchTooLarge, NotFound, Refused, RequestRejected, Unsupported
from qdrant_model_migration.qdrant.gateway import Gateway

FIRST_TEXTS = 2
"""A very slow model must not keep the caller waiting before its speed is known."""


async def sample_points(gateway: Gateway, collection: Collection, size: int, *, vectors: Sequence[str] = ()) -> list[Point]:
    """Points drawn at random; the first ones in id order where the server cannot draw (no vectors, strict mode)."""
    limit = max(1, min(size, collection.page_limit or size))
    try:
        drawn = await gateway.points.sample(collection.name, limit, vectors=vectors)
    except (RequestRejected, Unsupported, BatchTooLarge, NotFound):
        drawn = []
    if drawn:
        return drawn
    points, _ = await gateway.points.scroll(collection.name, offset=None, limit=limit, vectors=vectors)
    return points


def payload_bytes(payloads: Sequence[Payload]) -> float:
    """Mean bytes of a payload as JSON."""
    return (
        sum(len(json.dumps(p, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")) for p in payloads) / len(payloads)
        if payloads
        else 0.0
    )


@dataclass(frozen=True, kw_only=True)
class ChosenText:
    """The text field in question, and how many sampled points hold text there."""

    source: Texts | None
    coverage: float
    texts: list[str]


def chosen_text(found: Collection, payloads: list[Payload], text_field: str | None, *, is_needed: bool) -> ChosenText:
    """The stated text field, or the best candidate.

    Raises:
        Refused: no sampled point has text in the stated field.
    """
    statistics = text_statistics(payloads)
    if text_field is None:
        best = next((s.field for s in statistics if field_name_is_usable(s.field)), None)
        if best is None:
            return ChosenText(source=None, coverage=0.0, texts=[])
        source = TextSource(best)
    else:
        source = TextSource.parse(text_field)
    texts = [t for p in payloads if (t := source.extract(p)) is not None]
    if text_field is not None and not texts and is_needed:
        holding = ", ".join(f"'{s.field[:80]}' ({s.coverage:.0%})" for s in statistics[:8] if field_name_is_usable(s.field)) or "none"
        raise Refused(
            f"Nothing was changed: none of {len(payloads)} sampled points of {found.name!r} has text in {text_field!r}. Fields holding text: {holding}."
        )
    return ChosenText(source=source if texts else None, coverage=len(texts) / len(payloads) if payloads else 0.0, texts=texts)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A model measured on a sample."""

    texts: int
    """How many texts were embedded within the time."""
    texts_per_second: float | None
    tokens: list[int]
    """Tokens of each sampled text; empty when the model cannot count."""
    truncated_share: float | None
    rows: float | None = None
    """Mean rows of a multivector, or entries of a sparse vector, of an embedded text; None of a dense model."""


async def time_model(
    embedder: AnyEmbedder, texts: Sequence[str], *, budget_s: float = 4.0, clock: Callable[[], float] = time.monotonic
) -> Timing:
    """Embed as many of the texts as fit into the time, in growing calls; the first call warms the model up and is not counted.

    Raises:
        EmbeddingError: the model fails, other than on single texts.
    """
    counts = await embedder.count_tokens(texts) if texts else None
    limit = embedder.spec.max_tokens
    began = clock()
    size, position, done = FIRST_TEXTS, 0, 0
    largest = embedder.batch_size
    seconds = 0.0
    warm: tuple[int, float] | None = None
    rows: list[int] = []
    while position < len(texts):
        part = texts[position : position + size]
        start = clock()
        try:
            rows += await _embedded_rows(embedder, part)
        except BadText:
            # The backfill bisects; here the rate of the other texts is enough.
            position += len(part)
            continue
        except BatchTooLarge:
            if len(part) == 1:
                raise
            size = largest = len(part) // 2
            continue
        took = max(1e-6, clock() - start)
        position += len(part)
        if warm is None:
            warm = (len(part), took)
        else:
            done, seconds = done + len(part), seconds + took
        left = budget_s - (clock() - began)
        fitting = int(len(part) / took * left * 0.6)
        if left <= 0 or fitting < 1:
            break
        size = max(1, min(size * 4, fitting, largest))
    if seconds == 0.0 and warm is not None:
        done, seconds = warm
    return Timing(
        texts=done,
        texts_per_second=done / seconds if seconds else None,
        tokens=counts or [],
        truncated_share=sum(c > limit for c in counts) / len(counts) if counts and limit else None,
        rows=sum(rows) / len(rows) if rows else None,
    )


async def _embedded_rows(embedder: AnyEmbedder, texts: Sequence[str]) -> list[int]:
    """Embed texts; how many rows or entries each got. Nothing of a dense model, whose vectors are all alike."""
    if is_sparse(embedder):
        return [len(vector["indices"]) for vector in await embedder.embed(texts, Side.DOCUMENT)]
    if is_multivector(embedder):
        return [len(vector) for vector in await embedder.embed(texts, Side.DOCUMENT)]
    await embedder.embed(texts, Side.DOCUMENT)
    return []
