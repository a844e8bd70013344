"""What besides the model could make one side of a comparison look better? Its configuration, the cost of quantization, texts that are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qdrant_model_migration.domain.confounders import Searched, cut_texts, differences, of_index
from qdrant_model_migration.domain.metrics import Run, overlap
from qdrant_model_migration.domain.texts import NoTexts, Texts, UnreadableTexts
from qdrant_model_migration.operations.sides import GOOD_INDEX, Questions, SearchedSide

_SAMPLED = 256
_RESCORED = 50
_OVERSAMPLING = 3.0
"""Rescoring alone orders the same hits anew; only among more candidates does it find others."""


async def confounders(
    sides: Sequence[SearchedSide], asked: Sequence[Questions], runs: Sequence[Run], recalls: Mapping[str, float], text: Texts, k: int
) -> tuple[list[str], dict[str, float]]:
    """Notes, and by model the share of documents that it does not read to the end."""
    base, candidate = (
        Searched(label=side.label, collection=side.collection, field=side.dense.name, template=side.template) for side in sides
    )
    notes = differences(base, candidate)
    for found in (base, candidate):
        notes += [note for note in of_index(found) if note not in notes]
    for side, seen, questions, run in zip(sides, (base, candidate), asked, runs, strict=True):
        if seen.quantization is not None and side.template is None and side.how == "dense" and recalls.get(side.label, 1.0) < GOOD_INDEX:
            share = await _rescored(side, questions, run, k)
            notes.append(
                f"{side.label!r} is quantized ({seen.quantization}): as it is, its index finds {recalls[side.label]:.1%} of the exact top {k}, "
                f"with rescoring and {_OVERSAMPLING:g}-fold oversampling (params.quantization) {share:.1%}."
            )
    more, shares = await _cut(sides[1], sides, text)
    return [*notes, *more], shares


async def _rescored(side: SearchedSide, questions: Questions, run: Run, k: int) -> float:
    """Index recall when the original vectors have the last word."""
    shares: list[float] = []
    for query in list(run.found)[:: max(1, len(run.found) // _RESCORED)][:_RESCORED]:
        vector = questions[query][0]
        asked = vector.tolist() if isinstance(vector, np.ndarray) else vector
        hits = await side.gateway.points.search(
            side.collection.name,
            asked,
            using=side.dense.name,
            limit=k,
            exact=False,
            payload=False,
            rescore=True,
            oversampling=_OVERSAMPLING,
        )
        share = overlap(run.found[query], [hit.id for hit in hits], k)
        shares += [] if share is None else [share]
    return float(np.mean(shares)) if shares else 1.0


async def _cut(side: SearchedSide, sides: Sequence[SearchedSide], text: Texts) -> tuple[list[str], dict[str, float]]:
    """Counted on a random sample of the target's documents; nothing where texts or tokens cannot be had."""
    if isinstance(text, NoTexts | UnreadableTexts):
        return [], {}
    limit = min(_SAMPLED, side.collection.page_limit or _SAMPLED)
    points = await side.gateway.points.sample(side.collection.name, limit)
    texts = [found for found in (text.of(point) for point in points) if found and found.strip()]
    notes: list[str] = []
    shares: dict[str, float] = {}
    for embedder in {field.embedder.spec.name: field.embedder for one in sides for field in one.fields}.values():
        spec = embedder.spec
        tokens = await embedder.count_tokens(texts) if texts and spec.max_tokens else None
        if tokens and spec.max_tokens:
            shares[spec.name], told = cut_texts(spec.name, tokens, spec.max_tokens)
            notes += told
    return notes, shares
