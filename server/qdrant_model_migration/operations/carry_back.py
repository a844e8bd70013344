"""How does the source get what was written to the target while it served? Numbers tell whose write it was; guards keep newer ones.

The old model makes the old vectors of texts that changed; a vector of an unchanged text is kept, and copied fields are copied back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from qdrant_model_migration.domain.carry_back import Fate, fate_back, most_deletes, why_not_carried_back
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.own_operations import OwnOperations
from qdrant_model_migration.domain.points import Payload, Point, PointId, tag
from qdrant_model_migration.domain.recipe import Cutover
from qdrant_model_migration.domain.verification import Difference, Kind, Tally
from qdrant_model_migration.embedders.retrying import embed_resilient
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.diff import differences, expectation
from qdrant_model_migration.operations.sweep import MOST_CARRIED, SAMPLES, has_numbers, keep_in_cutover
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
    done = _Pass(work)
    pending: list[Difference] = []
    async for difference in differences(work, await expectation(work, checks_made=False), Tally()):
        pending.append(difference)
        if len(pending) >= PAGE:
            await done.carry(pending)
            pending = []
    await done.carry(pending)
    await done.delete()
    gap = WriteGap(carried_over=done.carried, unresolved=len(done.conflicts) + done.kept)
    gap.unresolved_samples = [f"{tag(i)} ({why})" for i, why in islice(done.conflicts.items(), SAMPLES)]
    if done.kept:
        why = f"more than {done.most_deletes:,} points are gone from {work.migration.target.collection!r}: none of them was deleted"
        gap.unresolved_samples.insert(0, f"{tag(done.gone[0].id)} ({why})")
    return gap, tuple(map(tag, done.conflicts))


class _Pass:
    """What one pass carried back, and what it left."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._source = work.migration.source.collection
        self.carried = 0
        self.conflicts: dict[PointId, str] = {}
        self.gone: list[Point] = []
        """Deleted through the alias, as the source holds them; one more than may be deleted at most."""
        self.kept = 0
        self.most_deletes = most_deletes(work.source_collection.points) + self._cutover.agreed_deletes

    @property
    def _cutover(self) -> Cutover:
        assert self._work.migration.cutover is not None
        return self._work.migration.cutover

    async def carry(self, found: Sequence[Difference]) -> None:
        """Write what is to go back of a page of differences, but for the deletes."""
        if not found:
            return
        work = self._work
        sources, targets = await _numbers(work, found)
        back: list[Difference] = []
        for difference in found:
            fate = _fate(work, difference, sources, targets)
            if fate == "back" and difference.kind is Kind.MISSING and difference.source is not None:
                self._note_gone(difference.source)
            elif fate == "back":
                back.append(difference)
            elif fate == "conflict":
                self.conflicts[difference.id] = difference.why
        written, failed = await _as_source(work, back)
        self.conflicts |= failed
        # Embedding takes a while: what the source got meanwhile is for the next pass to judge.
        latest = await work.source.points.versions(self._source, [point.id for point, _ in written])
        still = [(point, seen) for point, seen in written if latest.get(point.id) == sources.get(point.id)]
        await self._write(
            [point for point, seen in still if seen is None], [(p, seen.payload) for p, seen in still if seen is not None], targets
        )

    def _note_gone(self, point: Point) -> None:
        if len(self.gone) <= self.most_deletes:
            self.gone.append(point)
        else:
            self.kept += 1

    async def _write(self, new: list[Point], changed: list[tuple[Point, Payload]], targets: dict[PointId, int]) -> None:
        """Insert and overwrite, and remember the numbers, whatever happens to the rest."""
        points, numbers = self._work.source.points, dict[PointId, int | None]()
        try:
            for start in range(0, len(new), WRITTEN_AT_ONCE):
                self._work.check()
                some = new[start : start + WRITTEN_AT_ONCE]
                numbers |= dict.fromkeys((p.id for p in some), await points.insert(self._source, some))
            for start in range(0, len(changed), WRITTEN_AT_ONCE):
                self._work.check()
                numbers |= await points.replace_all(self._source, changed[start : start + WRITTEN_AT_ONCE], whole=True)
        finally:
            noted = {tag(i): (number, targets.get(i, 0)) for i, number in numbers.items() if number is not None}
            if noted:
                own = OwnOperations(self._cutover.returned_operations)
                for number, _ in noted.values():
                    own.add(number)
                returned_to = dict(list({**self._cutover.returned_to, **noted}.items())[-MOST_CARRIED:])
                await keep_in_cutover(self._work, returned_to=returned_to, returned_operations=own.record)
        self.carried += len(numbers)

    async def delete(self) -> None:
        """Delete in the source what was deleted through the alias, unless that is so much that it looks like a mistake."""
        if len(self.gone) > self.most_deletes:
            self.kept += len(self.gone)
            return
        for start in range(0, len(self.gone), WRITTEN_AT_ONCE):
            self._work.check()
            await self._work.source.points.delete_all_if(self._source, self.gone[start : start + WRITTEN_AT_ONCE])
        self.carried += len(self.gone)


async def count_gone(work: Work) -> int:
    """Points that were deleted through the alias and would be deleted in the source; nothing is written."""
    gone, pending = 0, list[Difference]()

    async def count() -> int:
        sources, targets = await _numbers(work, pending)
        return sum(_fate(work, d, sources, targets) == "back" for d in pending)

    async for difference in differences(work, await expectation(work, checks_made=False), Tally()):
        if difference.kind is Kind.MISSING:
            pending.append(difference)
        if len(pending) >= PAGE:
            gone += await count()
            pending.clear()
    return gone + (await count() if pending else 0)


async def _numbers(work: Work, found: Sequence[Difference]) -> tuple[dict[PointId, int], dict[PointId, int]]:
    """The number of the last operation on each point, in the source and in the target."""
    ids = [d.id for d in found]
    sources = await work.source.points.versions(work.migration.source.collection, ids)
    return sources, await work.target.points.versions(work.migration.target.collection, ids)


def _fate(work: Work, difference: Difference, sources: dict[PointId, int], targets: dict[PointId, int]) -> Fate:
    cutover = work.migration.cutover
    assert cutover is not None
    return fate_back(
        difference.kind,
        sources.get(difference.id),
        targets.get(difference.id),
        cutover,
        ours=cutover.carried.get(tag(difference.id)),
        returned=cutover.returned_of(tag(difference.id), sources.get(difference.id)),
        is_filling=work.migration.is_filling,
    )


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
