"""Is what was added to a serving collection everywhere, and right? There is no second collection to compare it with. Never writes.

A field that was filled in place: what lacks it although it has a text, and vectors that cannot be right. A quantization: whether it is set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from qdrant_model_migration.domain.migration import Recipe
from qdrant_model_migration.domain.points import tag
from qdrant_model_migration.domain.target import planned_differences
from qdrant_model_migration.domain.verification import made_vector_problem
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.diff import scan
from qdrant_model_migration.operations.filling import coverage
from qdrant_model_migration.operations.proofs import is_index_ready, provenance
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.results import Verification

SAMPLES = 10


@dataclass(kw_only=True)
class _Found:
    """What a scan of the field came to; `accounted` points lack it by a stated policy or a recorded failure."""

    points: int = 0
    missing: int = 0
    accounted: int = 0
    bad: int = 0
    missing_samples: list[str] = field(default_factory=list)
    bad_samples: dict[str, str] = field(default_factory=dict)


async def verify_filled(work: Work, *, provenance_sample: int) -> Verification:
    """Look at every point of the collection, at a sample of its vectors again with the model, at its configuration and its index."""
    migration, made = work.migration, work.made
    name = migration.target.collection
    work.progress.stage = "verifying what was added"
    work.progress.total = await work.target.points.count(name)
    found = await _scanned(work, made) if made is not None else _Found(points=work.progress.total)
    target = await work.target.describe(name)
    work.progress.stage = "checking provenance"
    checked, wrong = await provenance(work, target, provenance_sample, found.points)
    work.progress.stage = "waiting for the index"
    is_ready = await is_index_ready(work, target)
    diff = planned_differences(migration, target)
    problems = {
        f"{found.missing:,} points lack the vector {made.field if made else ''!r} although they have a text": found.missing,
        f"{found.bad} points with a bad vector": found.bad,
        f"{checked.wrong} of {checked.sampled} sampled vectors do not come from the stated model": checked.wrong,
        f"configuration differs in {', '.join(d.path for d in diff[:5])}": len(diff),
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
        missing_samples=found.missing_samples,
        bad_vector_samples=list(found.bad_samples),
        wrong_model_samples=list(wrong)[:SAMPLES],
        sample_reasons={**found.bad_samples, **dict(islice(wrong.items(), SAMPLES))},
        problems=[problem for problem, is_there in problems.items() if is_there],
        at=now(),
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
            found.missing_samples += [tag(point.id)][: SAMPLES - len(found.missing_samples)]
        elif (problem := made_vector_problem(vector, made)) is not None:
            found.bad += 1
            if len(found.bad_samples) < SAMPLES:
                found.bad_samples[tag(point.id)] = problem
    return found
