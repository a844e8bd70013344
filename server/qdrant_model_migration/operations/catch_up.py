"""How does the target follow what changed behind the cursor? A pass finds differences, looks twice, writes guarded, looks back.

A difference is acted upon only when two looks saw the same on both sides; the write is guarded by what was observed, as far as a
filter can say so; and the source is read again after it, so that a point deleted or edited meanwhile is not left wrong.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from qdrant_model_migration.domain.points import Payload, Point, PointId, tag
from qdrant_model_migration.domain.verification import Difference, Expectation, Kind, Tally
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.diff import confirmed, differences, expectation
from qdrant_model_migration.operations.in_parallel import for_each_batch
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.operations.writing import account, insert_points, make_points
from qdrant_model_migration.results import Lag, Repaired

SETTLE_S = 1.0
"""Between the two looks while an app writes."""
SETTLED_AT_ONCE = 2048
"""Differences that wait for their second look together: with a page of them a pass could never put right more than a page a second."""
CONCURRENT_WRITES = 4
REWRITTEN_AT_ONCE = 32
"""Guarded writes a request, each with a filter of its own."""

StillDue = Callable[[Sequence[Difference]], Awaitable[set[PointId]]]
"""Which of the differences may still be written; for a target that serves already."""


async def catch_up_pass(work: Work, *, checks_made: bool = False, is_quiet: bool = False) -> tuple[Lag, Repaired]:
    """One pass over both sides. The lag is what was found, the other what was put right.

    `is_quiet`: nobody writes to either side just now, so that one look is enough.
    """
    expected = await expectation(work, checks_made=checks_made)
    tally, repaired = Tally(), Repaired()
    pending: list[Difference] = []
    async for difference in differences(work, expected, tally):
        pending.append(difference)
        if len(pending) >= SETTLED_AT_ONCE:
            await settle(work, expected, pending, repaired, is_quiet=is_quiet)
            pending = []
        work.progress.read = tally.source_points
    await settle(work, expected, pending, repaired, is_quiet=is_quiet)
    counts = tally.differences
    lag = Lag(missing=counts[Kind.MISSING], extra=counts[Kind.EXTRA], changed=counts[Kind.CHANGED] + counts[Kind.BAD_VECTOR], at=now())
    return lag, repaired


async def settle(work: Work, expected: Expectation, found: Sequence[Difference], repaired: Repaired, *, is_quiet: bool = False) -> None:
    """Put right what a second look confirms; count it in `repaired`."""
    if not found:
        return
    is_quiet = is_quiet or work.migration.writes == "frozen" or work.source.connection.is_embedded
    sure = await confirmed(work, expected, found, 0.0 if is_quiet else SETTLE_S)
    repaired.left += len(found) - len(sure)
    missing = [d for d in sure if d.kind is Kind.MISSING]
    await insert_missing(work, missing)
    rewritten = [d for d in sure if d.kind in (Kind.CHANGED, Kind.BAD_VECTOR) and not d.is_moved]
    await rewrite(work, rewritten)
    extra = [d for d in sure if d.kind is Kind.EXTRA]
    await delete_extra(work, extra)
    # Deleted under the key where it lies; the next pass finds it missing, and inserts it under its own.
    await _delete(work, [d for d in sure if d.is_moved])
    repaired.missing += len(missing)
    repaired.changed += sum(d.kind is Kind.CHANGED for d in sure)
    repaired.bad_vectors += sum(d.kind is Kind.BAD_VECTOR for d in sure)
    repaired.extra += len(extra)


async def insert_missing(
    work: Work, found: Sequence[Difference], still_due: StillDue | None = None, *, follows_deletes: bool = True
) -> None:
    sources = [d.source for d in found if d.source is not None]
    if not sources:
        return
    made = await make_points(work, sources, is_stopping=lambda: False)
    if still_due is not None:
        due = await still_due(found)
        made.points = [p for p in made.points if p.id in due]
    await insert_points(work, made.points)
    await account(work, made.failed)
    await _forget_accounted(work, made.points)
    if follows_deletes:
        await _remove_if_deleted(work, made.points)


async def _forget_accounted(work: Work, written: Sequence[Point]) -> None:
    """Points that have their made vector now are no longer accounted for."""
    if work.made is not None:
        await work.ledger.remove_failed(work.id, [tag(p.id) for p in written if work.made.field in p.vectors])


async def _remove_if_deleted(work: Work, written: Sequence[Point]) -> None:
    """A point that left the source while it was being embedded must not live on in the target."""
    still = await work.source.points.existing(work.migration.source.collection, [p.id for p in written])
    await _delete_seen(work, [point for point in written if point.id not in still])


async def rewrite(work: Work, found: Sequence[Difference], still_due: StillDue | None = None, *, follows_deletes: bool = True) -> None:
    """Write the source's payload over the target's, keeping a vector whose text did not change.

    `still_due` is asked after the embedding, right before the writes; the guards then cover the whole payload. Without `follows_deletes` a
    point that leaves the source meanwhile stays in the target.
    """
    if not found:
        return
    # What is made of vectors is made anew; a vector of a text is kept where the text is still the same.
    field = work.made.field if work.made is not None and not work.made.is_derived else None
    held = await _held(work, found, field)
    keep: dict[str, Point] = {}
    anew: list[Point] = []
    for difference in found:
        source, target = difference.source, difference.target
        assert source is not None
        assert target is not None
        vector = held[difference.id].vectors.get(field) if field is not None and difference.id in held else None
        is_same_text = work.texts.of(source) == work.texts.of(target)
        if difference.kind is Kind.CHANGED and is_same_text and vector is not None and field is not None:
            copied = {new: source.vectors[old] for old, new in work.copied.items() if old in source.vectors}
            keep[tag(source.id)] = replace(source, vectors={**copied, field: vector}, derived=None)
        else:
            anew.append(source)
    made = await make_points(work, anew, is_stopping=lambda: False)
    await account(work, made.failed)
    ready = {**keep, **{tag(p.id): p for p in made.points}}
    await _forget_accounted(work, made.points)
    due = await still_due(found) if still_due is not None else {d.id for d in found}
    changes = [(ready[tag(d.id)], d.target.payload) for d in found if d.target is not None and d.id in due and tag(d.id) in ready]

    async def write(batch: Sequence[tuple[Point, Payload]]) -> None:
        work.check()
        written = await work.target.points.replace_all(work.migration.target.collection, batch, whole=still_due is not None)
        for point_id, operation in written.items():
            work.note_written([point_id], operation, is_made=tag(point_id) not in keep)

    await for_each_batch(changes, write, size=REWRITTEN_AT_ONCE, at_once=CONCURRENT_WRITES)
    if follows_deletes:
        await _remove_if_deleted(work, [point for point in ready.values() if point.id in due])
    for difference in found:
        if difference.target is not None and tag(difference.id) not in ready and difference.id in due:
            # It lost its text, and the policy is to skip such points.
            await _delete(work, [difference])


async def _held(work: Work, found: Sequence[Difference], field: str | None) -> dict[PointId, Point]:
    if field is None:
        return {}
    return await work.target.points.retrieve(work.migration.target.collection, [d.id for d in found], vectors=[field])


async def delete_extra(work: Work, found: Sequence[Difference]) -> None:
    """Delete what the source no longer holds; a point that came back meanwhile is found as missing by the next pass."""
    back = await work.source.points.existing(work.migration.source.collection, [d.id for d in found])
    await _delete(work, [d for d in found if d.id not in back])


async def _delete(work: Work, found: Sequence[Difference]) -> None:
    """Delete points of the target that are still as they were seen."""
    await _delete_seen(work, [d.target for d in found if d.target is not None])


async def _delete_seen(work: Work, seen: Sequence[Point]) -> None:
    for start in range(0, len(seen), REWRITTEN_AT_ONCE):
        work.check()
        await work.target.points.delete_all_if(work.migration.target.collection, seen[start : start + REWRITTEN_AT_ONCE])
