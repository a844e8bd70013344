"""How does the source get what was written to the target while it served? Numbers tell whose write it was; guards keep newer ones.

The old model makes the old vectors of texts that changed; a vector of an unchanged text is kept, and copied fields are copied back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from qdrant_model_migration.domain.carry_back import fate_back, why_not_carried_back
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import Point, PointId, tag
from qdrant_model_migration.domain.recipe import Cutover
from qdrant_model_migration.domain.verification import Difference, Kind, Tally
from qdrant_model_migration.embedders.retrying import embed_resilient
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.diff import differences, expectation
from qdrant_model_migration.operations.sweep import SAMPLES, has_numbers, versions_of
from qdrant_model_migration.operations.work import PAGE, Work
from qdrant_model_migration.operations.writing import as_stored
from qdrant_model_migration.results import WriteGap

WRITTEN_AT_ONCE = 32


async def why_not(context: OperationContext, migration: Migration) -> str | None:
    """Why nothing can be carried back, for a sentence; None where it can."""
    sources, targets = await context.gateway(migration.source.connection), await context.gateway(migration.target.connection)
    source, target = await sources.describe(migration.source.collection), await targets.describe(migration.target.collection)
    return why_not_carried_back(migration, is_numbered=has_numbers(source, target))


async def carry_back(work: Work) -> tuple[WriteGap, tuple[str, ...]]:
    """One pass: write to the source what came through the alias. Nothing is written to the target.

    Returns:
        The counts, and every point, tagged, that stays as it is on each side: both sides got a write, or the old model cannot embed it.
    """
    work.progress.stage = "carrying writes back to the old collection"
    cutover = work.migration.cutover
    assert cutover is not None
    gap, conflicts = WriteGap(), dict[PointId, str]()
    pending: list[Difference] = []
    async for difference in differences(work, await expectation(work, checks_made=False), Tally()):
        pending.append(difference)
        if len(pending) >= PAGE:
            gap.carried_over += await _carry(work, pending, cutover, conflicts)
            pending = []
    gap.carried_over += await _carry(work, pending, cutover, conflicts)
    gap.unresolved = len(conflicts)
    gap.unresolved_samples = [f"{tag(i)} ({why})" for i, why in islice(conflicts.items(), SAMPLES)]
    return gap, tuple(map(tag, conflicts))


async def _carry(work: Work, found: Sequence[Difference], cutover: Cutover, conflicts: dict[PointId, str]) -> int:
    """Carry back what may be; how many points that were."""
    if not found:
        return 0
    ids = [d.id for d in found]
    sources = await versions_of(work.source, work.source_collection, ids)
    targets = await versions_of(work.target, await work.target.describe(work.migration.target.collection), ids)
    back: list[Difference] = []
    for difference in found:
        fate = fate_back(
            difference.kind,
            sources.get(difference.id),
            targets.get(difference.id),
            cutover,
            ours=cutover.carried.get(tag(difference.id)),
            is_filling=work.migration.is_filling,
        )
        if fate == "back":
            back.append(difference)
        elif fate == "conflict":
            conflicts[difference.id] = difference.why
    name = work.migration.source.collection
    written, failed = await _as_source(work, back)
    conflicts |= failed
    new = [point for point, seen in written if seen is None]
    changed = [(point, seen.payload) for point, seen in written if seen is not None]
    gone = [d.source for d in back if d.kind is Kind.MISSING and d.source is not None]
    for start in range(0, len(new), WRITTEN_AT_ONCE):
        work.check()
        await work.source.points.insert(name, new[start : start + WRITTEN_AT_ONCE])
    for start in range(0, len(changed), WRITTEN_AT_ONCE):
        work.check()
        await work.source.points.replace_all(name, changed[start : start + WRITTEN_AT_ONCE], whole=True)
    for start in range(0, len(gone), WRITTEN_AT_ONCE):
        work.check()
        await work.source.points.delete_all_if(name, gone[start : start + WRITTEN_AT_ONCE])
    return len(written) + len(gone)


async def _as_source(work: Work, back: Sequence[Difference]) -> tuple[list[tuple[Point, Point | None]], dict[PointId, str]]:
    """The target's points as the source holds them, each with the source's as it was seen; and why some cannot be made."""
    old_field = None if work.migration.keeps_old_field else work.migration.making.source_field or ""
    kept: dict[PointId, Point] = {}
    if old_field is not None:
        seen = [d.id for d in back if d.source is not None and d.target is not None]
        kept = await work.source.points.retrieve(work.migration.source.collection, seen, vectors=[old_field])
    made: list[tuple[Point, Point | None]] = []
    fields: list[dict[str, Any]] = []
    wanted: list[int] = []
    texts: list[str] = []
    for difference in back:
        source, target = difference.source, difference.target
        if target is None:
            continue
        vectors = {old: target.vectors[new] for old, new in work.copied.items() if new in target.vectors}
        if old_field is not None:
            text = work.texts.of(target)
            held = kept[difference.id].vectors.get(old_field) if difference.id in kept else None
            if held is not None and source is not None and work.texts.of(source) == text:
                vectors[old_field] = held
            elif text is not None:
                wanted.append(len(made))
                texts.append(text)
        fields.append(vectors)
        made.append((replace(target, vectors=vectors, derived=None), source))
    failed: dict[PointId, str] = {}
    if texts:
        assert old_field is not None
        assert work.migration.current_model is not None
        embedder = await work.context.any_model(work.migration.current_model, work.migration.source.connection)
        rows, failures = await embed_resilient(embedder, texts, Side.DOCUMENT, should_stop=lambda: False)
        failed = {made[wanted[f.index]][0].id: f.reason for f in failures}
        for where, row in zip(wanted, rows, strict=True):
            if row is not None:
                fields[where][old_field] = as_stored(row)
    return [pair for pair in made if pair[0].id not in failed], failed
