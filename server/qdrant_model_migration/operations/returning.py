"""How do the readers come back to a source that lacks nothing? What the target got is carried back before they move; what came late, after it."""

from __future__ import annotations

import anyio

from qdrant_model_migration.domain.fence import MOST_FENCE_S, MOST_FENCED_PASS_S
from qdrant_model_migration.domain.recipe import Cutover
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.carry_back import carry_back, why_not
from qdrant_model_migration.operations.fencing import raise_fence
from qdrant_model_migration.operations.sweep import MOST_CARRIED, forget_own_numbers
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.results import WriteGap

MOST_RETURNS = 4


async def carry_back_before_moves(work: Work, *, is_fenced: bool) -> Cutover | None:
    """Carry back what the target got while it served; the cutover with what came of it."""
    cutover = work.migration.cutover
    if cutover is None or await why_not(work.context, work.migration) is not None:
        return cutover
    mark: int | None = None
    gap, conflicts, total = WriteGap(), tuple[str, ...](), 0

    async def passes(most_s: float) -> bool:
        """Until one finds nothing to carry, or takes so little time that writers may wait for the next."""
        nonlocal gap, conflicts, total
        for _ in range(MOST_RETURNS):
            began = anyio.current_time()
            gap, conflicts = await carry_back(work)
            total += gap.carried_over
            if gap.carried_over == 0 or anyio.current_time() - began <= most_s:
                return anyio.current_time() - began <= most_s or not is_fenced
        return False

    if not await passes(MOST_FENCED_PASS_S) and is_fenced:
        raise Refused(
            f"Nothing was moved: a look at both collections takes longer than writers may be kept waiting for it ({MOST_FENCED_PASS_S:.0f} s). What was written to "
            f"{work.migration.target.collection!r} so far is carried back; call swap_alias with fence=false, so that nobody waits."
        )
    if is_fenced:
        mark = await raise_fence(work, work.migration.target)
        with anyio.move_on_after(MOST_FENCE_S) as waiting:
            await passes(0.0)
        if waiting.cancelled_caught or gap.carried_over:
            raise Refused(
                f"Nothing was moved: within {MOST_FENCE_S:.0f} s of no writes {work.migration.source.collection!r} did not come to equal the target. Writers go "
                "on. Try when the machine is less busy, or call swap_alias with fence=false."
            )
    gap = gap.model_copy(update={"carried_over": total})
    cutover = work.migration.cutover or cutover
    update: dict[str, object] = {"returned": gap, "have_writers_waited": is_fenced, "conflicts": conflicts}
    is_settled = is_fenced and len(conflicts) <= MOST_CARRIED
    return cutover.model_copy(update={**update, "settled_at": mark if is_settled else None})


async def carry_back_after_moves(work: Work) -> WriteGap:
    """What came of the carrying back; writers that did not wait may have written to the target until the aliases moved."""
    cutover = work.migration.cutover
    if cutover is None or cutover.returned is None:
        return WriteGap()
    gap = cutover.returned
    if work.migration.writes != "frozen" and not cutover.have_writers_waited:
        late, _ = await carry_back(work)
        gap = late.model_copy(update={"carried_over": gap.carried_over + late.carried_over})
        await forget_own_numbers(work)
    await work.record("carried_back", f"carried back {gap.carried_over}, unresolved {gap.unresolved}")
    return gap
