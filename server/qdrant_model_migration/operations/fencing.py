"""How are the writers of a collection made to wait for some seconds? Strict mode's write rate, recorded before and restored after."""

from __future__ import annotations

import anyio

from qdrant_model_migration.domain.fence import Fence, is_lifted, lifted, raised, strict_mode_of
from qdrant_model_migration.domain.recipe import Endpoint
from qdrant_model_migration.errors import AccessDenied, MigrationError, NotFound, RateLimited, Refused
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.work import Work

TRIES = 200
"""An app that writes all the time takes the one token before us now and then; each try lets one write through, some milliseconds each."""
LIFT_S = 20.0
"""For taking a fence down while everything else is being given up."""


async def raise_fence(work: Work, place: Endpoint) -> int | None:
    """Keep everybody from writing to a collection.

    Returns:
        Number of the last operation that was let through, a no-op of ours: nothing was written after it. Of one shard only.

    Raises:
        Refused: this key may not set a limit, or the app's writes go through in spite of it; nothing is changed then.
    """
    gateway = await work.context.gateway(place.connection)
    before = strict_mode_of(await gateway.describe(place.collection))
    held = work.migration.fence
    if held is None or held.place != place:
        await work.change(lambda m: m.model_copy(update={"fence": Fence(place=place, before=before, at=now())}))
    work.stand_by()
    try:
        for _ in range(TRIES):
            work.check()
            # Setting the limit fills its one token up again; whoever writes next takes it, and it must be us.
            await gateway.update(place.collection, {"strict_mode": raised()})
            try:
                mark = await gateway.points.last_write(place.collection)
            except RateLimited:
                continue
            if await gateway.points.is_refused(place.collection):
                await work.record("fence_raised", f"writes to {place.collection} wait")
                return mark
    except AccessDenied as error:
        await lift_fence(work)
        raise Refused(
            f"Nothing was changed: the writers of {place.collection!r} cannot be made to wait ({error}) Call swap_alias with fence=false, or use a key that may manage it."
        ) from None
    except BaseException:
        await lift_fence(work)
        raise
    await lift_fence(work)
    raise Refused(
        f"Nothing was changed: writes to {place.collection!r} go through although its write rate was limited. Call swap_alias with fence=false."
    )


async def lift_fence(work: Work) -> None:
    """Let the writers in again, whatever else is being given up; a fence of ours that is left is lifted by the next driver.

    Not where the lease is lost: whoever holds it may have raised a fence of its own.

    Raises:
        MigrationError: Qdrant does not answer, or keeps another setting; it stays recorded, and is tried again.
    """
    fence = work.migration.fence
    if fence is None:
        return
    work.check()
    with anyio.CancelScope(shield=True), anyio.fail_after(LIFT_S):
        gateway = await work.context.gateway(fence.place.connection)
        try:
            await gateway.update(fence.place.collection, {"strict_mode": lifted(fence.before)})
            found = strict_mode_of(await gateway.describe(fence.place.collection))
        except (NotFound, AccessDenied):
            # There is no such collection any more, or none of our limits got there.
            found = lifted(fence.before)
        if not is_lifted(found, fence.before):
            raise MigrationError(
                f"The write rate of {fence.place.collection!r} was restored, but reads back as {found.get('write_rate_limit')}: somebody else sets it. "
                f"Writes may be refused there; set strict mode to {lifted(fence.before)} by hand."
            )
        await work.change(lambda m: m.model_copy(update={"fence": None}))
        await work.record("fence_lifted", f"writes to {fence.place.collection} go on")
