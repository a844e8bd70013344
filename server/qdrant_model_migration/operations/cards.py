"""What goes on the decision card of a strategy? Estimates from what was measured, never from what was promised."""

from __future__ import annotations

from dataclasses import dataclass

from qdrant_model_migration.domain import estimates
from qdrant_model_migration.domain.estimates import EMBEDDED_WRITE_RATE, WRITE_RATE
from qdrant_model_migration.domain.model import ModelKind
from qdrant_model_migration.domain.observations import Advice, Observations
from qdrant_model_migration.domain.strategies import STRATEGY
from qdrant_model_migration.embedders.providers import PRICES_SEEN
from qdrant_model_migration.operations.fitting import SAMPLE_SIZE
from qdrant_model_migration.operations.sampling import Timing
from qdrant_model_migration.results import Card
from qdrant_model_migration.settings import ModelSettings

SERVER_BM25_RATE = 10_000.0
"""Documents/s of BM25 in the server, measured on 2 cores."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the estimates rest on."""

    timing: Timing | None
    payload_each: float
    payloads: int
    settings: ModelSettings | None
    """The model's entry in QDRANT_MIGRATION_MODELS, whose limits bound the rate and whose price goes before the list's."""


def card(advice: Advice, seen: Observations, measured: Measured) -> Card:
    """The decision card; of a refused strategy only the points."""
    points = seen.collection.points
    if not advice.is_feasible:
        return Card(points=points)
    plan = STRATEGY[advice.strategy]
    room = estimates.room_for(
        advice.strategy,
        seen.collection,
        seen.field,
        seen.wanted_dimensions,
        measured.payload_each,
        is_in_place=advice.is_in_place,
        is_elsewhere=seen.is_elsewhere,
        added_rows=seen.rows,
        quantization=advice.quantization,
        is_embedded=seen.lands_embedded,
    )
    texts = _texts(advice, seen)
    timing = measured.timing if texts else None
    tokens = estimates.total_tokens(timing.tokens, texts) if timing else None
    return Card(
        points=points,
        tokens=tokens if plan.needs_text else 0,
        truncated_share=round(timing.truncated_share, 4) if timing and timing.truncated_share is not None else None,
        seconds=_seconds(advice, seen, measured, texts, tokens),
        cost_usd=estimates.cost_usd(tokens, seen.model.price_per_million) if seen.model and plan.needs_text else None,
        disk_bytes=room.disk_bytes,
        ram_bytes=room.ram_bytes,
        disk_after_bytes=room.disk_after_bytes,
        ram_after_bytes=room.ram_after_bytes,
        app_changes=advice.app_changes,
        undo=advice.undo,
        measured_from=_measured_from(advice, seen, timing, measured),
    )


def _texts(advice: Advice, seen: Observations) -> float:
    """How many texts are embedded."""
    plan = STRATEGY[advice.strategy]
    if not plan.needs_text:
        return 0.0
    texts = seen.collection.points * seen.text_coverage
    return min(texts, SAMPLE_SIZE) if plan.made == "linear_map" else texts


def _seconds(advice: Advice, seen: Observations, measured: Measured, texts: float, tokens: int | None) -> float | None:
    plan = STRATEGY[advice.strategy]
    if plan.made is None:
        # The server rebuilds its segments when it likes; nobody has measured that for this machine.
        return None
    writing = seen.collection.points / (EMBEDDED_WRITE_RATE if seen.lands_embedded else WRITE_RATE)
    if plan.stage == "fill" and not advice.is_in_place:
        writing *= 2  # each point is copied first and filled later
    if not plan.needs_text:
        return round(writing, 1)
    if seen.model is None or (seen.model.is_server_side and measured.timing is None):
        return round(max(writing, texts / SERVER_BM25_RATE), 1)
    limits = measured.settings
    embedding = estimates.backfill_seconds(
        texts,
        measured.timing.texts_per_second if measured.timing else None,
        tokens=tokens,
        tokens_per_minute=limits.tokens_per_minute if limits else None,
        requests_per_minute=limits.requests_per_minute if limits else None,
        texts_per_request=(limits.batch_size if limits else None) or 64,
        is_embedded=seen.lands_embedded,
    )
    if embedding is None:
        return None
    # A map is fitted before the first point is written; everything else embeds and writes at once.
    return round(embedding + writing if plan.made == "linear_map" else max(embedding, writing), 1)


def _measured_from(advice: Advice, seen: Observations, timing: Timing | None, measured: Measured) -> str:
    plan = STRATEGY[advice.strategy]
    parts = []
    if timing is not None and timing.texts_per_second is not None:
        parts.append(f"{timing.texts} texts embedded on this machine at {timing.texts_per_second:,.0f}/s")
    if timing is not None and timing.tokens:
        parts.append(f"tokens of {len(timing.tokens)} sampled texts")
    if plan.made == "linear_map":
        parts.append(f"at most {SAMPLE_SIZE:,} texts embedded, the other vectors mapped")
    if timing is not None and seen.model is not None and not seen.model.is_local and not seen.model.is_server_side:
        parts.append(_price_note(seen.model.price_per_million, measured.settings))
    if plan.adds_field and plan.model_kind in (ModelKind.SPARSE, ModelKind.MULTIVECTOR):
        what = "entries" if plan.model_kind is ModelKind.SPARSE else "token vectors"
        parts.append(f"{seen.rows:,.0f} {what} a sampled text" if seen.rows else f"the usual number of {what} a text, not measured here")
    if plan.made is None:
        parts.append("time: how long the server takes to rebuild its segments is not estimated")
    parts.append(f"disk (with a fifth for the optimizer while it works) and RAM from the configuration and {measured.payloads} payloads")
    return "; ".join(parts) + "."


def _price_note(price: float | None, settings: ModelSettings | None) -> str:
    if price is None:
        return "no price is known: price_per_million in QDRANT_MIGRATION_MODELS states it"
    if settings is not None and settings.price_per_million is not None:
        return f"USD {price:g} per million tokens, as configured"
    return f"USD {price:g} per million tokens, the list price seen on {PRICES_SEEN} (price_per_million overrides it)"
