"""Are the stored vectors those of the model and the text field that a person states? Tested before it is believed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qdrant_model_migration.domain.collection import Collection, VectorField
from qdrant_model_migration.domain.findings import field_name_is_usable
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import Payload, vector_problem
from qdrant_model_migration.domain.texts import Texts, TextSource, text_statistics
from qdrant_model_migration.embedders.base import Dense, Embedder
from qdrant_model_migration.errors import BadText, BatchTooLarge
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.sampling import sample_points
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import SourceMatch

MARGIN = 0.005
CEILING = 0.9995
"""Text encodings, library versions and processors differ by less than this."""
STORAGE_SPREAD = {"float16": 0.0005, "uint8": 0.03}
"""What rounding to the stored datatype takes from a cosine at most, on the careful side."""
OUTLIERS = 0.07
"""Share of sampled points that may differ in a match: texts edited without embedding them anew (2 of 32)."""
BUDGET_S = 10.0
PROBED = 8
MIXED_GAP = 0.1
"""Vectors of another model lie further below the threshold than those of a variant of this one."""


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A text and the vector stored beside it."""

    text: str
    vector: list[float]
    payload: Payload


async def source_match(
    context: OperationContext,
    gateway: Gateway,
    collection: Collection,
    field: VectorField,
    text: Texts,
    current_model: str,
    *,
    sample: int = 32,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.monotonic,
) -> SourceMatch:
    """Embed sampled texts of the source again with the stated model and compare them with the stored vectors.

    Raises:
        NotFound, Refused, Unsupported, EmbeddingError: the stated model is unknown or cannot be used.
    """
    embedder = await context.model(current_model, gateway.connection.name)
    spec = embedder.spec

    def answer(sampled: int, threshold: float, cosines: Dense | None, causes: list[str], *, is_match: bool) -> SourceMatch:
        return SourceMatch(
            model=spec.name,
            text_field=text.expression,
            sampled=sampled,
            min_cosine=None if cosines is None else round(float(cosines.min()), 5),
            mean_cosine=None if cosines is None else round(float(cosines.mean()), 5),
            threshold=round(threshold, 5),
            is_match=is_match,
            likely_causes=causes,
        )

    ceiling = CEILING - STORAGE_SPREAD.get(field.datatype, 0.0)
    if spec.dimensions is not None and field.size is not None and spec.dimensions != field.size:
        cause = f"dimensions: '{spec.name}' gives {spec.dimensions}, stored are {field.size}: another model, or the same asked for other dimensions"
        return answer(0, ceiling, None, [cause], is_match=False)
    pairs = await _pairs(gateway, collection, field, text, sample)
    if not pairs:
        cause = f"nothing to compare: no sampled point has both a text in '{text.expression}' and a usable vector (finite, not zero) in '{field.name or '(unnamed)'}'"
        return answer(0, ceiling, None, [cause], is_match=False)
    deadline = clock() + budget_s
    single, kept = await _one_by_one(embedder, pairs, deadline, clock)
    if not kept:
        return answer(0, ceiling, None, [f"'{spec.name}' could embed none of the sampled texts"], is_match=False)
    whole = await _embed_whole(embedder, [p.text for p in kept]) if clock() < deadline else single
    stored = np.array([p.vector for p in kept], dtype=np.float32)
    # Vectors of quantized models depend on their batch-mates, so the model's own spread is the yardstick.
    spread = float(_cosines(single, whole).min())
    threshold = min(ceiling, spread - MARGIN - STORAGE_SPREAD.get(field.datatype, 0.0))
    cosines = np.maximum(_cosines(single, stored), _cosines(whole, stored))
    below = cosines < threshold
    is_match = bool(below.sum() <= len(kept) * OUTLIERS)
    causes: list[str] = []
    if below.any():
        causes = await _causes(
            embedder, kept, cosines, below, text, field, threshold, is_match=is_match, has_time=lambda: clock() < deadline
        )
    causes += _norm_remark(field, single, stored)
    return answer(len(kept), threshold, cosines, causes, is_match=is_match)


async def _pairs(gateway: Gateway, collection: Collection, field: VectorField, text: Texts, sample: int) -> list[_Pair]:
    """Different texts with usable stored vectors."""
    pairs: dict[str, _Pair] = {}
    for point in await sample_points(gateway, collection, min(4 * sample, 256), vectors=[field.name]):
        content, vector = text.of(point), point.vectors.get(field.name)
        if content is not None and vector_problem(vector, field.size) is None:
            pairs.setdefault(content, _Pair(text=content, vector=list(vector or []), payload=point.payload))
    return list(pairs.values())[:sample]


async def _one_by_one(embedder: Embedder, pairs: Sequence[_Pair], deadline: float, clock: Callable[[], float]) -> tuple[Dense, list[_Pair]]:
    rows: list[Dense] = []
    kept: list[_Pair] = []
    began = clock()
    for pair in pairs:
        # The second batching takes about as long again, hence half the time.
        if rows and clock() - began > (deadline - began) / 2:
            break
        try:
            rows.append(await embedder.embed([pair.text], Side.DOCUMENT))
        except BadText:
            continue
        kept.append(pair)
    return (np.concatenate(rows) if rows else np.zeros((0, 1), dtype=np.float32)), kept


async def _embed_whole(embedder: Embedder, texts: list[str]) -> Dense:
    try:
        return await embedder.embed(texts, Side.DOCUMENT)
    except BatchTooLarge:
        half = max(1, len(texts) // 2)
        return np.concatenate([await embedder.embed(texts[i : i + half], Side.DOCUMENT) for i in range(0, len(texts), half)])


def _cosines(a: Dense, b: Dense) -> Dense:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: Dense = (np.sum(a * b, axis=1) / np.maximum(norms, 1e-12)).astype(np.float32)
    return found


async def _causes(
    embedder: Embedder,
    pairs: Sequence[_Pair],
    cosines: Dense,
    below: np.typing.NDArray[np.bool_],
    text: Texts,
    field: VectorField,
    threshold: float,
    *,
    is_match: bool,
    has_time: Callable[[], bool],
) -> list[str]:
    """What the figures point to, the likeliest first; other fields and the query side are tried on a few texts."""
    if is_match:
        return [f"{int(below.sum())} of {len(pairs)} sampled points differ: their texts were probably edited without embedding them anew"]
    if found := await _probed_cause(embedder, pairs[:PROBED], text, threshold, has_time):
        return [found]
    lengths = np.array([len(p.text) for p in pairs])
    mean, gap = float(cosines.mean()), threshold - float(cosines[below].mean())
    if not below.all() and lengths[below].min() >= lengths[~below].max():
        return [f"truncation: only texts of {int(lengths[below].min())} characters and more differ, so another token limit was used"]
    if not below.all() and gap > MIXED_GAP:
        return [f"a mixed collection: {int(below.sum())} of {len(pairs)} sampled vectors are far off, the others are this model's"]
    causes: list[str] = []
    if field.datatype == "uint8":
        causes.append("datatype uint8: the application scaled the vectors before it stored them")
    other_text = f"another text: a template, or a field that resembles '{text.expression}'"
    if mean < 0.3:
        causes.append(f"another model: the vectors are unrelated (mean cosine {mean:.2f})")
        causes.append("another text: a different field, or a template that joins several")
    elif mean > 0.98:
        causes.append(f"a variant of the model: quantization, precision or version differ (mean cosine {mean:.3f})")
        causes += ["prefix: documents were embedded with another one", other_text]
    else:
        prefix = repr(embedder.spec.document_prefix) if embedder.spec.document_prefix else "none"
        causes += [
            other_text,
            f"prefix: documents were embedded with another one (here: {prefix})",
            "truncation, pooling or version of the model differ",
        ]
    return causes


async def _probed_cause(
    embedder: Embedder, pairs: Sequence[_Pair], text: Texts, threshold: float, has_time: Callable[[], bool]
) -> str | None:
    """Tries what can be tried on a few texts: other fields that hold text, templates that join two, and the query side."""
    stored = np.array([p.vector for p in pairs], dtype=np.float32)
    names = [f.field for f in text_statistics(p.payload for p in pairs) if field_name_is_usable(f.field)][:4]
    others = [name for name in names if name != text.expression]
    is_field = isinstance(text, TextSource) and not text.is_template
    orders = [pair for name in others[:2] for pair in ((name, text.expression), (text.expression, name))] if is_field else []
    joined = [f"{{{first}}}{gap}{{{second}}}" for first, second in orders for gap in ("\n", " ")]
    for group in (others, joined):
        # The order of two fields moves a vector little: of several that fit, the best is named.
        likeness: dict[str, float] = {}
        for expression in group:
            if not has_time():
                break
            texts = [t for p in pairs if (t := TextSource.parse(expression).extract(p.payload)) is not None]
            if len(texts) == len(pairs):
                likeness[expression] = await _likeness(embedder, texts, Side.DOCUMENT, stored, threshold)
        best = max(likeness, key=lambda e: likeness[e], default=None)
        if best is not None and likeness[best] > 0:
            return f"another text: the stored vectors are most like those of text_field={best!r}"
    if has_time() and await _likeness(embedder, [p.text for p in pairs], Side.QUERY, stored, threshold) > 0:
        return "prefix: the stored vectors were made with the model's query side, not its document side"
    return None


async def _likeness(embedder: Embedder, texts: list[str], side: Side, stored: Dense, threshold: float) -> float:
    """Mean cosine of the texts' vectors with the stored ones; 0 when too many are below the threshold."""
    try:
        cosines = _cosines(await embedder.embed(texts, side), stored)
    except BadText:
        return 0.0
    is_like = (cosines >= threshold).mean() >= 1 - OUTLIERS - 1 / len(texts)
    return float(cosines.mean()) if is_like else 0.0


def _norm_remark(field: VectorField, embedded: Dense, stored: Dense) -> list[str]:
    """Lengths count under every distance but cosine, which Qdrant normalises for."""
    if field.distance == "Cosine":
        return []
    ratio = float(np.median(np.linalg.norm(stored, axis=1) / np.maximum(np.linalg.norm(embedded, axis=1), 1e-12)))
    if abs(ratio - 1) < 0.02:
        return []
    return [f"normalization: stored vectors are {ratio:.2f} times as long as the model's, which {field.distance} distance notices"]
