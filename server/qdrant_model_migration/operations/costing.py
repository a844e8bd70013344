"""What does a candidate take? Documents a second, money and bytes, from what embedding the sample showed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qdrant_model_migration.embedders.base import AnyEmbedder
from qdrant_model_migration.results import CandidateRow

_COUNTED = 256
"""Texts whose tokens are counted."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one of a candidate's models showed: `seconds` for the distinct texts of the sample, mean raw `size` in bytes."""

    embedder: AnyEmbedder
    seconds: float
    size: float


async def costs_of(label: str, parts: Sequence[Part], texts: Sequence[str]) -> tuple[CandidateRow, list[str]]:
    """One candidate's row, still without quality, and the notes on it."""
    seconds = sum(part.seconds for part in parts)
    row = CandidateRow(
        model=label,
        documents_per_second=len(set(texts)) / seconds if seconds > 0 else None,
        bytes_per_point=round(sum(part.size for part in parts)),
    )
    counted = texts[:: max(1, -(-len(texts) // _COUNTED))]
    prices: list[float] = []
    unknown: list[str] = []
    cuts: list[str] = []
    for part in parts:
        spec = part.embedder.spec
        tokens = await part.embedder.count_tokens(counted)
        if spec.price_per_million is None:
            if not spec.is_local:
                unknown.append(f"{spec.name!r} has no price_per_million in QDRANT_MIGRATION_MODELS")
        elif not tokens:
            unknown.append(f"nobody can count the tokens of {spec.name!r}")
        elif spec.price_per_million or not spec.is_local:
            prices.append(spec.price_per_million * sum(tokens) / len(tokens))
        share = sum(count > spec.max_tokens for count in tokens) / len(tokens) if tokens and spec.max_tokens else 0.0
        if share:
            whose = "its" if len(parts) == 1 else f"what {spec.name!r} reads,"
            cuts.append(f"{share:.0%} of the texts are longer than {whose} {spec.max_tokens} tokens, and are cut")
    if prices and not unknown:
        row.usd_per_million_points = sum(prices)
    told = [] if row.documents_per_second is None else [f"{row.documents_per_second:,.0f} documents/s"]
    told.append(f"{row.bytes_per_point:,} bytes a {'vector' if len(parts) == 1 else 'point'}")
    if row.usd_per_million_points is not None:
        told.append(f"USD {row.usd_per_million_points:,.2f} per million points")
    notes = [f"{label!r}: {', '.join([*told, *cuts])}."]
    if unknown:
        notes.append(f"What a million points would cost with {label!r} is not known: {' and '.join(unknown)}.")
    return row, notes
