"""What does a driver do of its own accord? What the phase asks for: all ranges first, then passes that keep the target up with the writes."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from qdrant_model_migration.domain.catch_up import has_converged
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.errors import Interrupted, MigrationError, Refused
from qdrant_model_migration.operations.altered import check_target
from qdrant_model_migration.operations.changed import Passes
from qdrant_model_migration.operations.sweep import has_numbers, written_since
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.qdrant.probe import prove_fill, prove_guard
from qdrant_model_migration.results import Lag
from qdrant_model_migration.worker.late_writes import LateWrites, Step
from qdrant_model_migration.worker.lease import HeldLease
from qdrant_model_migration.worker.pipeline import Pipeline
from qdrant_model_migration.worker.stages import fill, requantize

LOG = logging.getLogger(__name__)
MOST_PASSES = 20
MOST_KEEPING_UP = 8
FILLED_IN = frozenset({Phase.BACKFILLED, Phase.VERIFIED, Phase.CUT_OVER})
"""Phases in which a field that an app's collection got goes on being filled."""
LEAST_PAUSE_S = 5.0


def may_begin_unsettled(migration: Migration) -> bool:
    """Whether the work goes on before the last requests of a driver that was lost are over.

    The ranges of a target that never served: whatever still arrives, they insert what is absent, a checkpoint is set only on what it was read
    from, and the full pass that follows them finds what came late.
    """
    return (
        migration.phase is Phase.BACKFILLING
        and migration.made is not None
        and not migration.is_in_place
        and migration.cutover is None
        and migration.intent is None
    )


class PhaseWork:
    """One driver's work in each phase, and how long it rests between two passes."""

    def __init__(self, is_stopping: Callable[[], bool]) -> None:
        self._is_stopping = is_stopping
        self._caught_up_at: float | None = None
        self._pass_pause_s = LEAST_PAUSE_S
        self._late_writes = LateWrites()
        self._passes = Passes()

    async def step(self, held: HeldLease, work: Work) -> Step:
        """The next of what the phase asks for, while nobody asks for anything else."""
        if work.migration.phase is Phase.BACKFILLING:
            await self.backfill(held, work)
            return "worked"
        carried = await self._late_writes.step(work)
        if carried == "worked":
            return carried
        if work.migration.serves_while_filled and work.migration.is_filling and work.migration.phase in FILLED_IN:
            return await self._keep_filling(held, work)
        if (
            work.migration.phase in (Phase.BACKFILLED, Phase.VERIFIED)
            and work.migration.writes != "frozen"
            and not work.migration.is_in_place
            and not work.source.connection.is_embedded
        ):
            return await self._keep_up(work)
        work.progress.stage = work.migration.phase.value
        return carried

    async def backfill(self, held: HeldLease, work: Work) -> None:
        """All ranges, then the field that is filled in place, then passes until one converges."""
        migration = work.migration
        if migration.made is None:
            await requantize(work, self._is_stopping)
            await held.renew(work.progress)
            return
        await self._refuse_after_newer_writes(work)
        if not migration.made.is_derived and work.makes_now and work.pace.executor == "local":
            work.progress.stage = "loading the model"
            await work.embedder()
        if migration.made.is_derived and work.deriver is None:
            raise Refused(f"The linear map of migration {work.id} is not in the ledger. Discard the migration and begin it anew.")
        found: list[int] = []
        if not migration.is_in_place:
            await check_target(work.target, migration)
            # Unguarded: the scratch collection of the proof is removed even when the lease ran out.
            work.inserts_by_mode = await prove_guard(await work.context.gateway(migration.target.connection))
            await self._work_ranges(work)
            await work.settled()
            work.check()
            await work.target.update(migration.target.collection, {"optimizers": migration.restore})
        if work.migration.has_fill_stage and work.migration.is_filling:
            await prove_fill(await work.context.gateway(migration.target.connection))
            await fill(work, self._is_stopping)
        if not migration.is_in_place:
            found = await self._catch_up(work)
        # The phase must not be seen before the figures that led to it.
        await work.save_throughput()
        await held.renew(work.progress)
        await work.change(lambda m: m.model_copy(update={"phase": m.after("converged"), "error": None}))
        await work.record(
            "backfilled",
            f"{work.progress.written} written, {work.progress.skipped} skipped, {work.progress.failed} failed; passes found {found}",
        )
        self._caught_up_at = anyio.current_time()

    async def _work_ranges(self, work: Work) -> None:
        """Here, or by actors where the person said so."""

        def is_stopping() -> bool:
            return self._is_stopping() or work.pace.is_paused

        if work.pace.executor == "local":
            await Pipeline(work, is_stopping=is_stopping).run()
            return
        # Loads Ray's client, for those who use it.
        from qdrant_model_migration.worker.ray_actors import RayActors

        async with RayActors(work, work.context.settings.ray, is_stopping=is_stopping) as hands:
            await Pipeline(work, is_stopping=is_stopping, hands=hands).run()

    async def _refuse_after_newer_writes(self, work: Work) -> None:
        """A target that served and was rolled back is brought up to date only when nothing was written to it meanwhile.

        Raises:
            Refused: it holds writes that exist nowhere else, and catching up would undo them.
        """
        if work.migration.cutover is None:
            return
        work.progress.stage = "looking for what was written to the target while it served"
        newer = await written_since(work)
        if newer:
            why = "were written or deleted through the alias while it served"
            if work.migration.cutover.source_watermark is None or not has_numbers(work.source_collection):
                why = "differ from the source, and it cannot be told which side is newer"
            await work.change(lambda m: m.model_copy(update={"phase": Phase.ROLLED_BACK}))
            raise Refused(
                f"Not brought up to date: {len(newer)} points of {work.migration.target.collection!r} {why}, for example {', '.join(newer[:3])}. "
                f"Catching up would undo what was written while it served. Copy them to {work.migration.source.collection!r} by hand, or "
                "give the target up with finish_migration(action='discard_new')."
            )
        await work.change(lambda m: m.model_copy(update={"cutover": None}))

    async def _catch_up(self, work: Work) -> list[int]:
        """Passes until one converges; the differences that each found."""
        found: list[int] = []
        is_last = False
        is_frozen = work.migration.writes == "frozen"
        for number in range(MOST_PASSES):
            if self._is_stopping() or work.pace.is_paused:
                raise Interrupted("The driver was asked to stop; what is written is recorded.")
            work.progress.stage = f"catching up, pass {number + 1}"
            lag, _ = await self._passes.next(work, is_full=is_last)
            found.append(lag.missing + lag.extra + lag.changed)
            is_last = has_converged(found, work.source_collection.points, is_frozen=is_frozen)
            # Whatever tells what changed, the last pass has read everything.
            is_done = is_last and lag.is_full
            await _record_lag(work, lag.model_copy(update={"has_converged": is_done}))
            if is_done:
                break
        else:
            raise MigrationError(
                f"Catching up did not converge: the last passes found {', '.join(map(str, found[-4:]))} differences"
                + (", although writes were said to be frozen." if is_frozen else ". Slow the writers down, or use writes='dual_write'.")
            )
        return found

    async def _keep_filling(self, held: HeldLease, work: Work) -> Step:
        """Fill what full upserts of the app dropped, and what it inserted, now and then; the readers and writers are on this collection."""
        began = anyio.current_time()
        is_first = work.migration.filled is None or not work.migration.filled.has_converged
        if not is_first and (work.migration.writes == "frozen" or work.source.connection.is_embedded):
            work.progress.stage = work.migration.phase.value
            return "idle"
        if not is_first and self._caught_up_at is not None and began - self._caught_up_at < self._pass_pause_s:
            return "waiting"
        if is_first:
            work.progress.stage = "loading the model"
            await work.embedder()
            await prove_fill(await work.context.gateway(work.migration.target.connection))
        await fill(work, self._is_stopping)
        if is_first:
            # The coverage must not be seen before the figures that led to it.
            await work.save_throughput()
            await held.renew(work.progress)
        self._caught_up_at = anyio.current_time()
        self._pass_pause_s = max(LEAST_PAUSE_S, 3 * (self._caught_up_at - began))
        return "worked"

    async def _keep_up(self, work: Work) -> Step:
        """Another pass when the last is some time ago; a verified target stays verified while every pass converges."""
        began = anyio.current_time()
        if self._caught_up_at is not None and began - self._caught_up_at < self._pass_pause_s:
            return "waiting"
        work.progress.stage = "keeping up"
        # The first pass finds what was written since the last one, however much that is; whether it keeps up shows in those behind it.
        found = [0]
        is_done = False
        while not is_done and len(found) <= MOST_KEEPING_UP:
            lag, repaired = await self._passes.next(work)
            found.append(lag.missing + lag.extra + lag.changed)
            is_done = has_converged(found, work.source_collection.points, is_frozen=False)
            if repaired.missing or repaired.extra or repaired.changed:
                LOG.info("Carried over: %s", repaired)
        lag = lag.model_copy(update={"has_converged": is_done})

        def keep(m: Migration) -> Migration:
            # A call may have begun the filling meanwhile: what this pass found says nothing about that phase.
            is_judged = not is_done and m.phase in (Phase.BACKFILLED, Phase.VERIFIED)
            return m.model_copy(update={"lag": lag, "phase": m.after("found_incomplete") if is_judged else m.phase})

        await work.change(keep)
        self._caught_up_at = anyio.current_time()
        # A pass reads both collections: they are to be read at most a quarter of the time, but by one that reads little.
        is_told = work.migration.updated_at is not None
        self._pass_pause_s = self._passes.pause_s if is_told else max(LEAST_PAUSE_S, 3 * (self._caught_up_at - began))
        return "worked"


async def _record_lag(work: Work, lag: Lag) -> None:
    await work.change(lambda m: m.model_copy(update={"lag": lag}))
