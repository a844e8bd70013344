"""Is what was added to a serving collection everywhere, and right? There is no second collection to compare it with.

A field that was filled in place: what lacks it although it has a text, and vectors that cannot be right. A quantization: whether it is set.
While an app writes, what its upserts dropped during the scan is filled by the ordinary filling, and only what then still lacks it counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from qdrant_model_migration.domain.points import Point, PointId, tag
from qdrant_model_migration.domain.recipe import Recipe
from qdrant_model_migration.domain.target import planned_differences
from qdrant_model_migration.domain.verification import made_vector_problem
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.diff import scan
from qdrant_model_migration.operations.filling import FillPass, coverage, fill_window
from qdrant_model_migration.operations.proofs import is_index_ready, provenance, provenance_problems
from qdrant_model_migration.operations.work import WINDOW, Work
from qdrant_model_migration.results import Verification

SAMPLES = 10
MOST_LOOKED_AT_AGAIN = 20_000
"""Points that are filled within a verification; beyond that the field is plainly not complete."""
MOST_LOOKS = 4


@dataclass(kw_only=True)
class _Found:
    """What a scan of the field came to; `accounted` points lack it by a stated policy or a recorded failure."""

    points: int = 0
    missing: int = 0
    accounted: int = 0
    bad: int = 0
    lacking: list[PointId] = field(default_factory=list)
    """Those that are missing, as far as they are looked at again."""
    bad_samples: dict[str, str] = field(default_factory=dict)


async def verify_filled(work: Work, *, provenance_sample: int, may_fill: bool) -> Verification:
    """Look at every point of the collection, at a sample of its vectors again with the model, at its configuration and its index."""
    migration, made = work.migration, work.made
    name = migration.target.collection
    work.progress.stage = "verifying what was added"
    work.progress.total = await work.target.points.count(name)
    found = await _scanned(work, made) if made is not None else _Found(points=work.progress.total)
    if found.lacking and may_fill and migration.writes != "frozen":
        await _fill_late(work, found)
    target = await work.target.describe(name)
    work.progress.stage = "checking provenance"
    checked, wrong = await provenance(work, target, provenance_sample, found.points)
    work.progress.stage = "waiting for the index"
    is_ready = await is_index_ready(work, target)
    diff = planned_differences(migration, target)
    unplanned = [d.path for d in diff if not d.is_intended]
    problems = {
        f"{found.missing:,} points lack the vector {made.field if made else ''!r} although they have a text": found.missing,
        f"{found.bad} points with a bad vector": found.bad,
        **dict.fromkeys(provenance_problems(work, checked), True),
        f"configuration differs in {', '.join(unplanned[:5])}": len(unplanned),
        "the index is still being built": not is_ready,
    }
    return Verification(
        is_complete=not any(problems.values()),
        source_points=found.points,
        target_points=found.points,
        missing=found.missing,
        extra=0,
        changed=0,
        bad_vectors=found.bad,
        accounted=found.accounted,
        provenance=checked,
        config_diff=diff,
        is_index_ready=is_ready,
        missing_samples=[tag(i) for i in found.lacking[:SAMPLES]],
        bad_vector_samples=list(found.bad_samples),
        wrong_model_samples=list(wrong)[:SAMPLES],
        sample_reasons={**found.bad_samples, **dict(islice(wrong.items(), SAMPLES))},
        problems=[problem for problem, is_there in problems.items() if is_there],
        at=now(work.ledger),
        lease_epoch=work.epoch,
        coverage=(await coverage(work)).share if made is not None else None,
    )


async def _scanned(work: Work, made: Recipe) -> _Found:
    failed = {f.point_id for f in await work.ledger.failed(work.id)}
    found = _Found()
    async for point in scan(work, work.target, work.migration.target.collection, [made.field]):
        found.points += 1
        work.progress.read = found.points
        vector = point.vectors.get(made.field)
        if vector is None and (work.texts.of(point) is None or tag(point.id) in failed):
            found.accounted += 1
        elif vector is None:
            found.missing += 1
            if len(found.lacking) < MOST_LOOKED_AT_AGAIN:
                found.lacking.append(point.id)
        elif (problem := made_vector_problem(vector, made)) is not None:
            found.bad += 1
            if len(found.bad_samples) < SAMPLES:
                found.bad_samples[tag(point.id)] = problem
    return found


async def _fill_late(work: Work, found: _Found) -> None:
    """Fill what lacked the field, and keep of it what lacks it after some looks: an app may drop it again at any moment."""
    beyond = found.missing - len(found.lacking)
    for _ in range(MOST_LOOKS):
        for start in range(0, len(found.lacking), WINDOW):
            window = await _lacking(work, found.lacking[start : start + WINDOW])
            await fill_window(work, window, FillPass(), is_stopping=lambda: False)
        failed = {f.point_id for f in await work.ledger.failed(work.id)}
        still: list[PointId] = []
        for start in range(0, len(found.lacking), work.page):
            lacking = await _lacking(work, found.lacking[start : start + work.page])
            still += [p.id for p in lacking if work.texts.of(p) is not None and tag(p.id) not in failed]
        found.lacking, found.missing = still, len(still) + beyond
        if not still:
            return


async def _lacking(work: Work, ids: list[PointId]) -> list[Point]:
    """Those of the points that are there without the field."""
    field = work.made_field
    held = await work.target.points.retrieve(work.migration.target.collection, ids, vectors=[field])
    return [p for p in held.values() if p.vectors.get(field) is None]
