"""What goes on the decision card of a strategy? Estimates from what was measured, never from what was promised."""

from __future__ import annotations

from dataclasses import dataclass

from qdrant_model_migration.domain import estimates
from qdrant_model_migration.domain.estimates import EMBEDDED_WRITE_RATE, WRITE_RATE
from qdrant_model_migration.domain.observations import Advice, Observations
from qdrant_model_migration.operations.sampling import Timing
from qdrant_model_migration.results import Card
from qdrant_model_migration.settings import ModelSettings

MAP_SAMPLE = 10_000
"""Texts that linear_map embeds with the new model."""
SERVER_BM25_RATE = 10_000.0
"""Documents/s of BM25 in the server, measured on 2 cores."""

_EMBEDS = frozenset({"new_collection", "side_by_side", "named_vector", "add_sparse", "add_multivector", "linear_map"})


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the estimates rest on."""

    timing: Timing | None
    payload_each: float
    payloads: int
    settings: ModelSettings | None
    """The model's entry in QDRANT_MIGRATION_MODELS, whose limits bound the rate."""


def card(advice: Advice, seen: Observations, measured: Measured) -> Card:
    """The decision card; of a refused strategy only the points."""
    points = seen.collection.points
    if not advice.is_feasible:
        return Card(points=points)
    room = estimates.room_for(
        advice.strategy,
        seen.collection,
        seen.field,
        seen.model.dimensions if seen.model else None,
        measured.payload_each,
        is_in_place=advice.is_in_place,
        is_embedded=seen.is_embedded,
    )
    texts = points * seen.text_coverage
    if advice.strategy == "linear_map":
        texts = min(texts, MAP_SAMPLE)
    is_embedding = advice.strategy in _EMBEDS
    timing = measured.timing if is_embedding else None
    tokens = estimates.total_tokens(timing.tokens, texts) if timing else None
    return Card(
        points=points,
        tokens=tokens,
        truncated_share=round(timing.truncated_share, 4) if timing and timing.truncated_share is not None else None,
        seconds=_seconds(advice, seen, measured, texts, tokens),
        cost_usd=estimates.cost_usd(tokens, seen.model.price_per_million) if seen.model else None,
        disk_bytes=room.disk_bytes,
        ram_bytes=room.ram_bytes,
        app_changes=advice.app_changes,
        undo=advice.undo,
        measured_from=_measured_from(timing, measured, room),
    )


def _seconds(advice: Advice, seen: Observations, measured: Measured, texts: float, tokens: int | None) -> float | None:
    writing = seen.collection.points / (EMBEDDED_WRITE_RATE if seen.is_embedded else WRITE_RATE)
    if advice.strategy == "requantize":
        return None
    if advice.strategy not in _EMBEDS:
        return round(writing, 1)
    if advice.strategy == "add_sparse" and (seen.model is None or seen.model.name.startswith("qdrant:")):
        return round(max(writing, texts / SERVER_BM25_RATE), 1)
    limits = measured.settings
    embedding = estimates.backfill_seconds(
        texts,
        measured.timing.texts_per_second if measured.timing else None,
        tokens=tokens,
        tokens_per_minute=limits.tokens_per_minute if limits else None,
        requests_per_minute=limits.requests_per_minute if limits else None,
        texts_per_request=(limits.batch_size if limits else None) or 64,
        is_embedded=seen.is_embedded,
    )
    return None if embedding is None else round(max(embedding, writing), 1)


def _measured_from(timing: Timing | None, measured: Measured, room: estimates.Room) -> str:
    parts = []
    if timing is not None and timing.texts_per_second is not None:
        parts.append(f"{timing.texts} texts embedded on this machine at {timing.texts_per_second:,.0f}/s")
    if timing is not None and timing.tokens:
        parts.append(f"tokens of {len(timing.tokens)} sampled texts")
    after = f"{'+' if room.disk_after_bytes >= 0 else '-'}{estimates.human_bytes(abs(room.disk_after_bytes))}"
    parts.append(
        f"disk (with a fifth for the optimizer; {after} in the end) and RAM from the configuration and {measured.payloads} payloads"
    )
    return "; ".join(parts) + "."
