"""How is a field quantized otherwise, in place, and what does it cost in recall? Set, waited for, measured against exact search.

The originals stay, so nothing is embedded and nothing can be lost; an undo sets the previous configuration again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from qdrant_model_migration.domain import quantization
from qdrant_model_migration.domain.collection import Collection, VectorField
from qdrant_model_migration.domain.points import Point, PointId
from qdrant_model_migration.domain.quantization import Kind, QuantizationSettings, settings_of
from qdrant_model_migration.domain.significance import intervals
from qdrant_model_migration.errors import BatchTooLarge, Refused, RequestRejected
from qdrant_model_migration.operations.in_parallel import for_each
from qdrant_model_migration.operations.sampling import sample_points
from qdrant_model_migration.operations.scratch import Report, say
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import IndexRecall, RecallVariant, RequantizeOutcome

_TIES = 10
"""Exact hits beyond k that are looked at: one that scores like the k-th is as right as the k-th."""
_VARIANTS: tuple[tuple[bool | None, float | None, bool], ...] = (
    (False, None, False),
    (True, None, False),
    (True, 2.0, False),
    (True, 4.0, False),
    (None, None, True),
)
"""(rescore, oversampling, ignore), the cheaper first; the last one searches the index by the originals."""
_LOOK_S = 10.0
"""How long a wait goes on before somebody is told, who may end it."""
_CALM_S = 60.0
"""How long to wait for an index at rest before the first measurement; an app that writes all the time never lets it rest."""


async def draw_queries(gateway: Gateway, collection: Collection, field: VectorField, count: int) -> list[Point]:
    """Stored points to ask with, drawn by the server; fewer where the field or the collection holds fewer.

    Raises:
        Refused: none holds a vector in the field.
    """
    drawn = await sample_points(gateway, collection, count, vectors=[field.name])
    usable = [p for p in drawn if any(p.vectors.get(field.name) or ())]
    if not usable:
        raise Refused(
            f"Nothing was measured: none of {len(drawn):,} sampled points of {collection.name!r} has a vector in {field.name or 'the unnamed field'!r}."
        )
    return usable


async def measure_recall(
    gateway: Gateway,
    collection: Collection,
    field: VectorField,
    *,
    k: int = 10,
    queries: int = 100,
    seed: int = 0,
    points: Sequence[Point] | None = None,
    progress: Report | None = None,
) -> IndexRecall:
    """Share of the exact top k that the ordinary search finds, with stored vectors as queries, each without its own point.

    `points`: what to ask with, so that two measurements can be paired; else `queries` are drawn at random. When the field is quantized,
    also with rescoring, oversampling, and without the quantized vectors. Intervals are percentile bootstrap intervals of the mean
    (Efron and Tibshirani 1993, chapter 13), drawn by `seed`.

    Raises:
        Refused: there is nothing to ask with, or nothing else to find.
        RequestRejected: strict mode allows no exact search.
    """
    asked = list(points) if points is not None else await draw_queries(gateway, collection, field, queries)
    k = min(k, collection.points - 1, (collection.page_limit or k + 1) - 1)
    if k < 1 or not asked:
        raise Refused(f"Nothing was measured: {collection.name!r} has {collection.points:,} points, too few to look for neighbours of one.")
    depth = min(k + 1 + _TIES, collection.page_limit or k + 1 + _TIES)
    name = collection.name
    truths: dict[PointId, tuple[set[PointId], int]] = {}

    async def look_exactly(point: Point) -> None:
        found = await gateway.points.search(name, point.vectors[field.name], using=field.name, limit=depth, exact=True, payload=False)
        others = [hit for hit in found if hit.id != point.id]
        if others:
            last = others[min(k, len(others)) - 1].score
            right = {hit.id for i, hit in enumerate(others) if i < k or math.isclose(hit.score, last, rel_tol=1e-6, abs_tol=1e-9)}
            truths[point.id] = right, min(k, len(others))

    await for_each(asked, look_exactly)
    asked = [p for p in asked if p.id in truths]
    if not asked:
        raise Refused(f"Nothing was measured: exact search in {name!r} found no neighbour of any of the sampled points.")

    async def measured(rescore: bool | None, oversampling: float | None, ignore: bool) -> tuple[float, float, float]:
        shares: dict[PointId, float] = {}

        async def look(point: Point) -> None:
            found = await gateway.points.search(
                name,
                point.vectors[field.name],
                using=field.name,
                limit=k + 1,
                exact=False,
                payload=False,
                rescore=rescore,
                oversampling=oversampling,
                ignore_quantization=ignore,
            )
            right, count = truths[point.id]
            shares[point.id] = min(1.0, sum(hit.id in right for hit in found if hit.id != point.id) / count)

        await for_each(asked, look)
        values = np.array([[shares[p.id]] for p in asked])
        low, high = intervals(values, seed=seed)[0]
        return float(values.mean()), float(low), float(high)

    recall, low, high = await measured(None, None, False)
    variants: list[RecallVariant] = []
    now = settings_of(collection).effective(field.name)
    strict = collection.config.get("strict_mode_config") or {}
    limit = (strict.get("search_max_oversampling") if strict.get("enabled") else None) or math.inf
    for rescore, oversampling, ignore in _VARIANTS if now and not gateway.connection.is_embedded else ():
        if oversampling is None or oversampling <= limit:
            await say(progress, f"measuring the recall of {name}", len(_VARIANTS), len(variants))
            share, lowest, highest = await measured(rescore, oversampling, ignore)
            variants.append(
                RecallVariant(rescore=rescore, oversampling=oversampling, ignore=ignore, recall=share, ci_low=lowest, ci_high=highest)
            )
    return IndexRecall(
        k=k,
        queries=len(asked),
        recall=recall,
        ci_low=low,
        ci_high=high,
        quantization=next(iter(now), None) if now else None,
        variants=variants,
    )


async def apply(
    gateway: Gateway,
    collection: Collection,
    field: VectorField,
    kind: Kind,
    *,
    previous: QuantizationSettings | None = None,
    before: IndexRecall | None = None,
    timeout_s: float = 6 * 3600,
    k: int = 10,
    queries: int = 100,
    seed: int = 0,
    progress: Report | None = None,
) -> RequantizeOutcome:
    """Quantize a field as `kind` says, wait until the server is done, and measure the recall before and after with the same queries.

    Safe to repeat after an interruption: what is set already is not set again. What cannot be found out then is passed: `previous`, the
    `settings_of` of the description from before any change, which `restore` needs as well (else what `collection` says); and `before`,
    if it was measured (else the outcome has none). `progress` is told of the waiting every few seconds, and may raise to end it.

    Raises:
        Refused: the field cannot be quantized so.
        MigrationError: the server kept another configuration.
    """
    why = quantization.obstacle(kind, field, is_embedded=gateway.connection.is_embedded)
    if why is not None:
        raise Refused(f"Nothing was changed in {collection.name!r}: {why}.")
    begun = time.monotonic()
    wanted = quantization.requested(kind)
    current = await gateway.describe(collection.name)
    notes: list[str] = []
    points: list[Point] | None = None
    if before is None and quantization.is_same(settings_of(current).effective(field.name), wanted):
        notes.append("The recall before is not known: the quantization was set already by an earlier try.")
    elif before is None:
        if not await gateway.wait_until_ready(collection.name, timeout_s=min(timeout_s, _CALM_S)):
            notes.append(f"The index was being built while the recall before was measured: {collection.name!r} did not come to rest.")
        try:
            points = await draw_queries(gateway, current, field, queries)
            before = await measure_recall(gateway, current, field, k=k, seed=seed, points=points, progress=progress)
        except _UNMEASURABLE as error:
            notes.append(f"The recall before could not be measured: {error}")
    after_change = await gateway.set_quantization(collection.name, quantization.changed(settings_of(current), field.name, wanted))
    is_ready = await _is_done(gateway, collection.name, timeout_s, progress)
    described = await gateway.describe(collection.name)
    after: IndexRecall | None = None
    advice: list[str] = []
    if is_ready:
        strict = described.config.get("strict_mode_config") or {}
        try:
            after = await measure_recall(gateway, described, field, k=k, queries=queries, seed=seed, points=points, progress=progress)
            limit = strict.get("search_max_oversampling") if strict.get("enabled") else None
            advice = quantization.advice(kind, field, before, after, max_oversampling=limit)
        except _UNMEASURABLE as error:
            notes.append(f"The recall afterwards could not be measured: {error}")
    else:
        notes.append(
            f"{collection.name!r} is still being quantized after {timeout_s:,.0f} s; searches go on meanwhile. Measure when it is green."
        )
    return RequantizeOutcome(
        kind=kind,
        field=field.name,
        before=before,
        after=after,
        changed=quantization.differences(previous or settings_of(collection), settings_of(after_change)),
        is_ready=is_ready,
        seconds=round(time.monotonic() - begun, 1),
        advice=advice,
        notes=[*notes, *quantization.warnings(kind, described, field)],
    )


async def restore(
    gateway: Gateway,
    collection: Collection,
    field: VectorField,
    previous: QuantizationSettings,
    *,
    timeout_s: float = 6 * 3600,
    progress: Report | None = None,
) -> RequantizeOutcome:
    """Set what was set before `apply` (`settings_of` of the description from then), wait for it, and say what changed.

    Raises:
        MigrationError: the server kept another configuration.
    """
    begun = time.monotonic()
    current = await gateway.describe(collection.name)
    wanted = quantization.restored(settings_of(current), previous, field.name)
    found = await gateway.set_quantization(collection.name, wanted)
    is_ready = await _is_done(gateway, collection.name, timeout_s, progress)
    return RequantizeOutcome(
        kind="restored",
        field=field.name,
        changed=quantization.differences(settings_of(current), settings_of(found)),
        is_ready=is_ready,
        seconds=round(time.monotonic() - begun, 1),
        notes=[] if is_ready else [f"{collection.name!r} is still being quantized after {timeout_s:,.0f} s; searches go on meanwhile."],
    )


async def _is_done(gateway: Gateway, name: str, timeout_s: float, progress: Report | None) -> bool:
    """Wait for the server to have quantized every segment; False when the time is up."""
    begun = time.monotonic()
    while (left := timeout_s - (time.monotonic() - begun)) > 0:
        await say(progress, f"{name} is being quantized", 0, 0)
        if await gateway.wait_until_ready(name, timeout_s=min(left, _LOOK_S)):
            return True
    return False


_UNMEASURABLE = (RequestRejected, Refused, BatchTooLarge)
"""Strict mode forbids exact searches, or there is nothing to ask with: the change itself does not depend on it."""
