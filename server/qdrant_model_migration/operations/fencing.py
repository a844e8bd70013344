"""How are the writers of a collection made to wait for some seconds? Strict mode's write rate, recorded before and restored after."""

from __future__ import annotations

import logging

import anyio

from qdrant_model_migration.domain.fence import Fence, is_lifted, is_raised, lifted, raised, strict_mode_of
from qdrant_model_migration.domain.recipe import Endpoint
from qdrant_model_migration.errors import AccessDenied, ConnectionFailed, NotFound, RateLimited, Refused
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.work import Work

LOG = logging.getLogger(__name__)
TRIES = 200
"""An app that writes all the time takes the one token before us now and then; each try lets one write through, some milliseconds each."""
TIGHT_S = 55.0
"""The limiter lets the next write through a minute after the last one."""
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
        if is_raised(before):
            raise Refused(
                f"Nothing was changed: the write rate of {place.collection!r} is limited to one a minute already, as another swap does for its seconds. Try again "
                "when that is over; where it stays, somebody has to set its strict mode."
            )
        await work.change(lambda m: m.model_copy(update={"fence": Fence(place=place, before=before, at=now())}))
    work.stand_by()
    try:
        for _ in range(TRIES):
            work.check()
            began = anyio.current_time()
            # Setting the limit fills its one token up again; whoever writes next takes it, and it must be us.
            await gateway.update(place.collection, {"strict_mode": raised()})
            try:
                mark = await gateway.points.last_write(place.collection)
            except RateLimited:
                continue
            if await gateway.points.is_refused(place.collection):
                work.fenced_since = began
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


def check_fence_age(work: Work) -> None:
    """Right before the aliases move.

    Raises:
        Refused: the fence is up for so long that the limiter may let a write through.
    """
    if work.fenced_since is not None and anyio.current_time() - work.fenced_since > TIGHT_S:
        raise Refused(
            f"Nothing was changed: the aliases could not be moved within {TIGHT_S:.0f} s of the writers' being made to wait. They go on. Try when the machine "
            "is less busy, or call swap_alias with fence=false."
        )


async def lift_fence(work: Work) -> None:
    """Let the writers in again, whatever else is being given up; a fence of ours that is left is lifted by the next driver.

    Not where the lease is lost: whoever holds it may have raised a fence of its own.

    Raises:
        MigrationError: Qdrant does not answer; it stays recorded, and is tried again.
    """
    fence, work.fenced_since = work.migration.fence, None
    if fence is None:
        return
    work.check()
    with anyio.CancelScope(shield=True):
        try:
            with anyio.fail_after(LIFT_S):
                told = await _restore(work, fence)
        except TimeoutError:
            # One that passes: a swap whose aliases moved is not to be told as failed for that.
            raise ConnectionFailed(
                f"Qdrant did not take the write rate of {fence.place.collection!r} back within {LIFT_S:.0f} s."
            ) from None
        await work.change(lambda m: m.model_copy(update={"fence": None}))
        await work.record("fence_lifted", told)


async def _restore(work: Work, fence: Fence) -> str:
    gateway = await work.context.gateway(fence.place.connection)
    try:
        await gateway.update(fence.place.collection, {"strict_mode": lifted(fence.before)})
        found = strict_mode_of(await gateway.describe(fence.place.collection))
    except (NotFound, AccessDenied):
        # There is no such collection any more, or none of our limits got there.
        found = lifted(fence.before)
    told = f"writes to {fence.place.collection} go on"
    if not is_lifted(found, fence.before):
        # Whoever set another one since means it; no swap fails for that.
        told = f"{told}; its strict mode is not as before the fence, somebody set {found} since"
        LOG.warning("%s", told)
    return told
