"""Which writes reached the source too late, and which of them may still be carried over? Decided by the numbers of the operations.

Every write to a shard has a number. What the source got after its watermark is late; what the target got after its own is newer than
the swap, and wins. With several shards the numbers do not compare, and what differs is listed as unresolved.
"""

from __future__ import annotations

from typing import Literal

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.migration import Cutover
from qdrant_model_migration.domain.points import PointId, tag
from qdrant_model_migration.domain.verification import Difference, Kind, Tally
from qdrant_model_migration.operations.catch_up import delete_extra, insert_missing, rewrite
from qdrant_model_migration.operations.diff import differences, expectation
from qdrant_model_migration.operations.work import PAGE, Work
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import WriteGap

SAMPLES = 10


async def sweep(work: Work, *, carries_deletes: bool) -> tuple[WriteGap, list[str]]:
    """Carry late writes over where the target's point is as it was before the swap. Returns the counts, and notes for the person.

    Deletes are carried over in the moments after the swap only: later, somebody may be clearing the old collection by hand.
    """
    work.progress.stage = "carrying late writes over"
    gap, notes = WriteGap(), []
    cutover = work.migration.cutover
    assert cutover is not None
    target = await work.target.describe(work.migration.target.collection)
    is_numbered = has_numbers(work.source_collection, target)
    if not is_numbered:
        notes.append(
            "The collections have several shards, whose operations are not numbered together: late writes cannot be told from newer ones and are only counted."
        )
    pending: list[Difference] = []
    expected = await expectation(work, checks_embedded=False)
    async for difference in differences(work, expected, Tally()):
        pending.append(difference)
        if len(pending) >= PAGE:
            await _decide(work, pending, gap, target, is_numbered=is_numbered, carries_deletes=carries_deletes)
            pending = []
    await _decide(work, pending, gap, target, is_numbered=is_numbered, carries_deletes=carries_deletes)
    return gap, notes


def has_numbers(*collections: Collection) -> bool:
    """Whether the operations of each collection are numbered in one sequence: a single shard."""
    return all(c.config.get("params", {}).get("shard_number") == 1 for c in collections)


async def _decide(
    work: Work, found: list[Difference], gap: WriteGap, target: Collection, *, is_numbered: bool, carries_deletes: bool
) -> None:
    if not found:
        return
    cutover = work.migration.cutover
    assert cutover is not None
    ids = [d.id for d in found]
    sources = await _versions(work.source, work.source_collection, ids) if is_numbered else {}
    targets = await _versions(work.target, target, ids) if is_numbered else {}
    carried: list[Difference] = []
    for difference in found:
        fate = fate_of(difference.kind, sources.get(difference.id), targets.get(difference.id), cutover)
        if fate == "carry" and difference.kind is Kind.EXTRA and not carries_deletes:
            fate = "unresolved"
        if fate == "carry":
            carried.append(difference)
        elif fate == "superseded":
            gap.superseded += 1
        elif fate == "unresolved":
            gap.unresolved += 1
            if len(gap.unresolved_samples) < SAMPLES:
                gap.unresolved_samples.append(f"{tag(difference.id)} ({difference.why})")
    await insert_missing(work, [d for d in carried if d.kind is Kind.MISSING])
    await rewrite(work, [d for d in carried if d.kind is Kind.CHANGED])
    await delete_extra(work, [d for d in carried if d.kind is Kind.EXTRA])
    gap.carried_over += len(carried)


def fate_of(kind: Kind, source: int | None, target: int | None, cutover: Cutover) -> Literal["carry", "keep", "superseded", "unresolved"]:
    """What becomes of a difference seen after the swap; `source` and `target` number the last operation on each side's point, where known.

    A write on the target after its watermark came through the alias: it wins. Otherwise the target's point is as it was before the swap,
    and the source's state is what it should be. A point that only the source has is a late write when its number says so, else it was
    deleted through the alias.
    """
    source_mark, target_mark = cutover.source_watermark, cutover.target_watermark
    if source_mark is None or target_mark is None:
        return "unresolved"
    if kind is Kind.MISSING:
        return "unresolved" if source is None else "carry" if source > source_mark else "keep"
    if target is None:
        return "unresolved"
    if target > target_mark:
        return "superseded" if kind is Kind.CHANGED and source is not None and source > source_mark else "keep"
    return "carry"


async def _versions(gateway: Gateway, collection: Collection, ids: list[PointId]) -> dict[PointId, int]:
    """Numbers of the last operations, as far as any dense field of the collection tells them."""
    for field in collection.dense:
        return await gateway.points.versions(collection.name, ids, using=field.name, size=field.size or 1)
    return {}
