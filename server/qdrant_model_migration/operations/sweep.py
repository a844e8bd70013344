"""Which writes reached the source too late, and which of them may still be carried over? Decided by the numbers of the operations.

Every write to a shard has a number. What the source got after its watermark is late; what the target got after its own is newer than
the swap, and wins. With several shards the numbers do not compare, and what differs is listed as unresolved.

Not to be told, of two writes to one point within the seconds of the swap, one to the source that came late and one through the alias:
the second wins whole, also where it changed but a part; and where it deleted the point before the first sweep looked, the late write
looks like an insert and brings the point back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import anyio

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.points import PointId, tag
from qdrant_model_migration.domain.recipe import Cutover
from qdrant_model_migration.domain.verification import Difference, Kind, Tally
from qdrant_model_migration.operations.catch_up import delete_extra, insert_missing, rewrite
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.diff import differences, expectation
from qdrant_model_migration.operations.work import PAGE, Work
from qdrant_model_migration.results import WriteGap

SAMPLES = 10
MOST_SWEEPS = 5
PAUSE_S = 1.0
MOST_CARRIED = 5_000
"""Points of which it is remembered that this tool wrote them; the record of the migration holds them."""


async def sweep_until_quiet(work: Work, *, carries_deletes: bool) -> tuple[WriteGap, list[str]]:
    """Sweeps, until one finds nothing to carry over and the source got no write meanwhile, or enough of them."""
    name = work.migration.source.collection
    carried_over = 0
    gap, notes = WriteGap(), list[str]()
    for number in range(MOST_SWEEPS):
        if number:
            await anyio.sleep(PAUSE_S)
        before = await work.source_mark()
        gap, notes = await sweep(work, carries_deletes=carries_deletes, mark=before)
        after = await mark_quiet(work)
        is_quiet = before is None or after is None or after <= before + 1
        is_over = gap.carried_over == 0 and is_quiet
        gap.carried_over = carried_over = carried_over + gap.carried_over
        if is_over or not has_numbers(work.source_collection):
            break
    else:
        notes.append(
            f"{name!r} still gets writes. They stay there until finish_migration, which carries them over; find the writer that was not moved."
        )
    return gap, notes


async def sweep(work: Work, *, carries_deletes: bool, mark: int | None = None) -> tuple[WriteGap, list[str]]:
    """Carry late writes over where the target's point is as it was before the swap. Returns the counts, and notes for the person.

    `mark` is the source's mark from before this sweep: recorded when it ends, so that a later one tells what it looked at already.

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
            "The collections have several shards or lie in a cluster, where operations are not numbered together: late writes cannot be told from newer ones and are only counted."
        )
    pending: list[Difference] = []
    expected = await expectation(work, checks_made=False)
    async for difference in differences(work, expected, Tally()):
        pending.append(difference)
        if len(pending) >= PAGE:
            await _decide(work, pending, gap, target, is_numbered=is_numbered, carries_deletes=carries_deletes)
            pending = []
    await _decide(work, pending, gap, target, is_numbered=is_numbered, carries_deletes=carries_deletes)
    if mark is not None:
        await keep_in_cutover(work, source_swept=mark)
    return gap, notes


async def mark_quiet(work: Work) -> int | None:
    """Take the source's mark and record it: nothing with a higher number has been looked at yet."""
    mark = await work.source_mark()
    await keep_in_cutover(work, source_seen=mark)
    return mark


async def carry_what_was_written(work: Work) -> WriteGap | None:
    """A sweep when the source got a write since it was last looked at; None when it did not.

    Across servers the writers move with a release of the app, perhaps long after the swap; until then they write to the source. Deletes are
    not carried over: nothing tells them from those of somebody who clears the old collection.
    """
    cutover = work.migration.cutover
    mark = await work.source_mark()
    if cutover is None or mark is None:
        return None
    if cutover.source_seen is not None and mark <= cutover.source_seen + 1:
        # The mark was an operation itself, and must not be taken for a write later.
        await keep_in_cutover(work, source_seen=mark)
        return None
    gap, _ = await sweep(work, carries_deletes=False, mark=mark)
    # The mark from before the sweep: what was written during it is due for the next.
    await keep_in_cutover(work, source_seen=mark, source_changed_at=now())
    return gap


async def forget_own_numbers(work: Work) -> None:
    """After a rollback: what the target got up to now is not newer than the source, where no point of it differs by a write of the app.

    Filling numbers points as an app's write does. Without this look, what the source gets from now on could not be told from what an app
    wrote to the target while it served, and a filled target could not be brought up to date again.
    """
    target = await work.target.describe(work.migration.target.collection)
    if not has_numbers(work.source_collection, target):
        return
    work.progress.stage = "looking for what was written to the target while it served"
    mark = await work.target.points.watermark(target.name)
    if not await written_since(work):
        await keep_in_cutover(work, target_watermark=mark)


async def keep_in_cutover(work: Work, **fields: object) -> None:
    """Change fields of the recorded cutover."""

    def keep(migration: Migration) -> Migration:
        assert migration.cutover is not None
        return migration.model_copy(update={"cutover": migration.cutover.model_copy(update=fields)})

    await work.change(keep)


async def written_since(work: Work) -> list[str]:
    """Points that an app wrote to, or deleted from, the target since the swap; with several shards every point that differs.

    A target that served and was left by a rollback holds them; a backfill would take them for what is to be put right.
    """
    cutover = work.migration.cutover
    if cutover is None:
        return []
    target = await work.target.describe(work.migration.target.collection)
    is_numbered = has_numbers(work.source_collection, target) and cutover.target_watermark is not None
    found: list[str] = []
    pending: list[Difference] = []

    async def look() -> None:
        ids = [d.id for d in pending]
        sources = await work.source.points.versions(work.source_collection.name, ids) if is_numbered else {}
        targets = await work.target.points.versions(target.name, ids) if is_numbered else {}
        for difference in pending:
            fate = _fate(cutover, difference, sources, targets)
            if fate != "carry" or not is_numbered or tag(difference.id) in cutover.conflicts:
                found.append(f"{tag(difference.id)} ({difference.why})")
        pending.clear()

    async for difference in differences(work, await expectation(work, checks_made=False), Tally()):
        pending.append(difference)
        if len(pending) >= PAGE:
            await look()
    if pending:
        await look()
    return found


async def _remember(work: Work, sources: dict[PointId, int]) -> None:
    """Record what was just written, so that a later sweep does not take it for a write of the app."""
    if not work.written:
        return
    new = {tag(i): (operation, sources.get(i, 0)) for i, operation in work.written.items()}

    def add(migration: Migration) -> Migration:
        assert migration.cutover is not None
        carried = dict(list({**migration.cutover.carried, **new}.items())[-MOST_CARRIED:])
        return migration.model_copy(update={"cutover": migration.cutover.model_copy(update={"carried": carried})})

    await work.change(add)


def has_numbers(*collections: Collection) -> bool:
    """Whether the operations of each collection are numbered in one sequence: a single shard, which cannot move to another peer.

    Replicas of a shard number the same writes differently when these come through several peers, and a shard that moves to another
    peer is numbered anew from 1 (both seen on 1.17.0). With custom sharding `shard_number` is the number of shards of a key.
    """
    return all(_is_numbered(c) for c in collections)


def _is_numbered(collection: Collection) -> bool:
    params = collection.config.get("params", {})
    return params.get("shard_number") == 1 and params.get("sharding_method") != "custom" and collection.peers == 1


Fate = Literal["carry", "keep", "superseded", "unresolved"]


def _fate(cutover: Cutover, difference: Difference, sources: Mapping[PointId, int], targets: Mapping[PointId, int]) -> Fate:
    """As `fate_of`, of a difference whose points have these numbers."""
    source, point_id = sources.get(difference.id), tag(difference.id)
    returned = cutover.returned_of(point_id, source)
    ours = cutover.carried.get(point_id)
    return fate_of(difference.kind, source, targets.get(difference.id), cutover, ours, returned[0] if returned is not None else None)


async def _decide(
    work: Work, found: list[Difference], gap: WriteGap, target: Collection, *, is_numbered: bool, carries_deletes: bool
) -> None:
    if not found:
        return
    cutover = work.migration.cutover
    assert cutover is not None
    ids = [d.id for d in found]
    sources = await work.source.points.versions(work.source_collection.name, ids) if is_numbered else {}
    targets = await work.target.points.versions(target.name, ids) if is_numbered else {}
    carried: list[Difference] = []
    for difference in found:
        fate = _fate(cutover, difference, sources, targets)
        if tag(difference.id) in cutover.conflicts:
            fate = "unresolved"
        if fate in ("superseded", "keep") and work.migration.is_filling and difference.kind is Kind.CHANGED:
            # Filling the new field numbers a point anew as an app's write does: which of them it was cannot be told.
            fate = "unresolved" if (sources.get(difference.id) or 0) > (cutover.source_watermark or 0) else fate
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

    async def still_due(wanted: Sequence[Difference]) -> set[PointId]:
        # Embedding takes a while, and the target serves: what was written through the alias meanwhile wins.
        latest = await work.target.points.versions(target.name, [d.id for d in wanted]) if is_numbered else {}
        return {d.id for d in wanted if latest.get(d.id) == targets.get(d.id)}

    work.written = {}
    try:
        await insert_missing(work, [d for d in carried if d.kind is Kind.MISSING], still_due, follows_deletes=carries_deletes)
        await rewrite(work, [d for d in carried if d.kind is Kind.CHANGED], still_due, follows_deletes=carries_deletes)
        extra = [d for d in carried if d.kind is Kind.EXTRA]
        due = await still_due(extra)
        await delete_extra(work, [d for d in extra if d.id in due])
    finally:
        # What was written is remembered whatever happened to the rest.
        await _remember(work, sources)
        work.written = None
    gap.carried_over += len(carried)


def fate_of(
    kind: Kind, source: int | None, target: int | None, cutover: Cutover, ours: tuple[int, int] | None = None, returned: int | None = None
) -> Fate:
    """What becomes of a difference seen after the swap; `source` and `target` number the last operation on each side's point, where known.

    A write on the target after its watermark came through the alias: it wins. Otherwise the target's point is as it was before the swap,
    and the source's state is what it should be. A point that only the source has is a late write when its number says so, else it was
    deleted through the alias. `ours` are the numbers on both sides when this tool itself wrote the target's point, `returned` is the number
    of its own write to the source's point, for a rollback that was given up.
    """
    source_mark, target_mark = cutover.source_watermark, cutover.target_watermark
    if source_mark is None or target_mark is None:
        return "unresolved"
    if kind is Kind.MISSING:
        if source is None:
            return "unresolved"
        # What we had written, or an earlier sweep looked at, and is gone was deleted through the alias, unless the source got it anew.
        looked_at = max(source_mark, cutover.source_swept or 0, ours[1] if ours is not None else 0)
        return "carry" if source > looked_at and source != returned else "keep"
    if target is None:
        return "unresolved"
    if target > target_mark and not (ours is not None and target == ours[0]):
        return "superseded" if kind is Kind.CHANGED and source is not None and source > source_mark else "keep"
    return "carry"
