"""How is the target brought up to the moment before the readers move? Passes until it is behind by seconds, then one while writers wait."""

from __future__ import annotations

import anyio

from qdrant_model_migration.domain.catch_up import SHORT_PASS_S, is_caught_up
from qdrant_model_migration.domain.fence import MOST_FENCE_S, MOST_FENCED_PASS_S
from qdrant_model_migration.domain.verification import Tally
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.catch_up import catch_up_pass
from qdrant_model_migration.operations.diff import differences, expectation
from qdrant_model_migration.operations.fencing import raise_fence
from qdrant_model_migration.operations.sweep import has_numbers
from qdrant_model_migration.operations.work import Work

MOST_PASSES = 8
MOST_FENCED_PASSES = 4


async def close_the_lag(work: Work, *, is_fenced: bool) -> int | None:
    """Bring the target up to the moment; with writes frozen, prove that nothing was written since the verification.

    With `is_fenced` the writers of the source wait when this returns: whoever called lifts the fence when the readers have moved.

    Returns:
        Number of the last operation on the source before the last look at it: every later one is a late write.

    Raises:
        Refused: a frozen source changed, the writers outrun the passes, or they would have to wait for too long.
    """
    if work.migration.writes == "frozen":
        return await _refuse_if_written(work)
    work.progress.stage = "closing the lag"
    found: list[int] = []
    took_s = 0.0
    # While writers wait a pass takes no second looks, so that it is shorter than those before it.
    most_s = MOST_FENCED_PASS_S if is_fenced else SHORT_PASS_S
    for _ in range(MOST_PASSES):
        mark = await work.source_mark()
        work.written = {}
        began = anyio.current_time()
        lag, _ = await catch_up_pass(work)
        took_s = anyio.current_time() - began
        found.append(lag.missing + lag.extra + lag.changed)
        if not is_caught_up(found, work.source_collection.points, took_s, most_s=most_s):
            continue
        if not is_fenced:
            return mark
        if took_s <= most_s:
            return await _close_behind_fence(work)
    if is_fenced and is_caught_up(found, work.source_collection.points, took_s):
        raise Refused(
            f"Nothing was changed: a pass over both collections takes {took_s:.0f} s, and {MOST_FENCED_PASS_S:.0f} s is the most for which writers are kept waiting for one. Call "
            "swap_alias with fence=false: nobody waits, and late writes are carried over by their numbers."
        )
    raise Refused(
        f"Cannot swap: the lag does not shrink; the last passes found {', '.join(map(str, found))} differences, the last one within {took_s:.0f} s "
        f"(about {found[-1] / took_s:.0f} writes a second). Slow the writers down, or use writes='dual_write'."
    )


async def _close_behind_fence(work: Work) -> int | None:
    """Passes while nobody writes to the source, until one finds nothing."""
    work.progress.stage = "carrying the last writes over while writers wait"
    mark = await raise_fence(work, work.migration.source)
    work.written = {}
    found: list[int] = []
    with anyio.move_on_after(MOST_FENCE_S):
        while len(found) < MOST_FENCED_PASSES:
            lag, _ = await catch_up_pass(work, is_quiet=True)
            found.append(lag.missing + lag.extra + lag.changed)
            if found[-1] == 0:
                return mark
    raise Refused(
        f"Nothing was changed: within {MOST_FENCE_S:.0f} s of no writes {work.migration.target.collection!r} did not come to equal the source; passes found "
        f"{', '.join(map(str, found)) or 'no end'} differences. Writers go on. Try when the machine is less busy, or call swap_alias with fence=false."
    )


async def _refuse_if_written(work: Work) -> int | None:
    """With writes said to be frozen: the source's mark when nothing was written since the verification."""
    name = work.migration.source.collection
    mark = await work.source_mark()
    counts = [await work.source.points.count(name), await work.target.points.count(work.migration.target.collection)]
    verified = work.migration.verification
    assert verified is not None
    if counts != [verified.source_points, verified.target_points]:
        await work.change(lambda m: m.model_copy(update={"phase": m.after("found_incomplete")}))
        raise Refused(
            f"Cannot swap: writes were said to be frozen, but the source has {counts[0]:,} points and the target {counts[1]:,}, and at the "
            f"verification they had {verified.source_points:,} and {verified.target_points:,}. Call "
            f"repair_target(migration_id={work.id!r}), then verify_target."
        )
    is_untouched = mark is not None and verified.source_operation is not None and mark <= verified.source_operation + 1
    if not (is_untouched and has_numbers(work.source_collection)):
        await _refuse_if_changed(work)
    return mark


async def _refuse_if_changed(work: Work) -> None:
    """Operations were carried out on a source that was said to be frozen; harmless ones (an index, our own no-op) change no point."""
    work.progress.stage = "looking whether the source changed"
    tally = Tally()
    async for _ in differences(work, await expectation(work, checks_made=False), tally):
        pass
    changed = sum(tally.differences.values())
    if changed:
        await work.change(lambda m: m.model_copy(update={"phase": m.after("found_incomplete")}))
        raise Refused(
            f"Cannot swap: writes were said to be frozen, but {changed} points of the source changed since the verification. Find the writer; then "
            f"call repair_target(migration_id={work.id!r}) and verify_target."
        )
