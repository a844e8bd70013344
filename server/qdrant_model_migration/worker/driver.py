"""Who does the work? One driver a migration: it takes the lease, fills the target, keeps up with writes, carries out what is recorded."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import anyio

from qdrant_model_migration.domain.cutover import given_up
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.pacing import Rate, eta_seconds
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.records import Operation
from qdrant_model_migration.errors import ConnectionFailed, Interrupted, LeaseLost, MigrationError, RateLimited, TransientEmbedding
from qdrant_model_migration.operations.altered import told
from qdrant_model_migration.operations.canary import watch_source
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.fencing import lift_fence
from qdrant_model_migration.operations.work import Work, open_work
from qdrant_model_migration.results import Progress
from qdrant_model_migration.worker import gauges
from qdrant_model_migration.worker.late_writes import Step
from qdrant_model_migration.worker.lease import HeldLease, take_lease
from qdrant_model_migration.worker.operations import carry_out, chosen, has_moved_nothing, unfinished_swap
from qdrant_model_migration.worker.phase_work import PhaseWork, may_begin_unsettled

LOG = logging.getLogger(__name__)
POLL_S = 0.5
BEAT_S = 2.0
CHART_S = 10.0
"""A driver that is killed leaves the throughput of so long unrecorded; nothing but a chart rests on it."""
RECONNECT_S = 3.0
MOST_REST_S = 120.0
"""However long a service asks to be left alone."""
CLOSING_S = 1.5
"""Hosts give a server that they close about two seconds."""
GIVE_UP_S = 1800.0
"""A Qdrant or a provider that is away for longer ends the driver; what is written is recorded."""
AFTER_THE_SOURCE = frozenset({Phase.CUT_OVER, Phase.FINISHED, Phase.ABANDONED})
"""Phases in which nothing of the driver's own accord needs the source."""


class Driver:
    """Drives one migration until nothing is left to do for `idle_exit_s`."""

    def __init__(
        self,
        context: OperationContext,
        migration_id: str,
        *,
        connection: str | None = None,
        log: str | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
        idle_exit_s: float = 30.0,
        stand_by: Callable[[Migration], object] | None = None,
    ) -> None:
        self._context = context
        self._id = migration_id
        self._connection = connection
        self._log = log
        self._is_asked_to_stop = is_stopping
        self._idle_exit_s = idle_exit_s
        self._stand_by = stand_by
        self._is_lost = False
        self._has_stopped = False
        self._is_awaited = False
        self._phase_work = PhaseWork(self._is_stopping)
        self._rate = Rate()

    async def run(self) -> None:
        """Take the lease and work until nothing is left to do.

        Raises:
            LeaseLost: another driver has the migration.
            MigrationError: it cannot be worked at all; recorded with the migration where that is possible.
        """
        await self._drive()
        # Whoever asked for something before the lease was given back saw a driver and started none: one more look is owed.
        while not self._is_asked_to_stop() and await self._is_wanted():
            self._has_stopped = False
            await self._drive()

    async def _is_wanted(self) -> bool:
        ledger = await self._context.ledger(self._connection)
        # After a stop only a person who cleared the error begins anew; whoever waits for an operation looks for a driver again and again.
        if not self._has_stopped and any(o.state in ("requested", "running") for o in await ledger.operations(self._id)):
            return True
        migration, pace = await ledger.migration(self._id), await ledger.pace(self._id)
        is_filled = migration.filled is not None and migration.filled.has_converged
        is_due = migration.phase is Phase.BACKFILLING or (migration.phase is Phase.CUT_OVER and migration.is_filling and not is_filled)
        return is_due and migration.error is None and not pace.is_paused

    async def _drive(self) -> None:
        ledger = await self._context.ledger(self._connection)
        held = await take_lease(ledger, self._id, lease_s=self._context.settings.lease_s, log=self._log)
        progress = Progress(stage="starting")
        failure: list[MigrationError] = []
        try:
            work = await self._open(held)
            work.progress = progress
            if held.was_taken_over:
                # Requests of the driver before us may still be on their way; their time-out is under half a lease.
                work.settles_at = anyio.current_time() + self._context.settings.request_timeout_s
                if not may_begin_unsettled(work.migration):
                    await work.settled()
                await self._distrust_verification(work)
            async with anyio.create_task_group() as group:
                group.start_soon(self._beat, held, work)
                group.start_soon(watch_source, work)
                try:
                    await self._work(held, work)
                except MigrationError as error:
                    failure.append(error)
                group.cancel_scope.cancel()
            with suppress(MigrationError):
                await work.save_own()
                await work.save_throughput()
        except MigrationError as error:
            failure.append(error)
        except anyio.get_cancelled_exc_class():
            # The host closes the server: whoever comes next must not wait for the lease, nor distrust what was proven.
            with anyio.move_on_after(CLOSING_S, shield=True):
                await held.release(progress)
            raise
        if not (failure and isinstance(failure[0], LeaseLost)):
            with anyio.move_on_after(self._context.settings.request_timeout_s, shield=True):
                try:
                    await held.release(progress)
                except MigrationError as error:
                    # What ended the driver is to be told, and not this.
                    LOG.warning("The lease was not given back: %s", error)
        if failure:
            raise await ledger.explained(failure[0])

    async def _open(self, held: HeldLease) -> Work:
        ledger = await self._context.ledger(self._connection)

        def check() -> None:
            if self._is_lost:
                raise LeaseLost(f"Migration {self._id} is driven by somebody else now.")
            held.check()

        def go_on() -> None:
            # Before every request, so that a driver that is to stop does so in the middle of a long scan as well,
            # but not of a window: what is written of it and not counted would be taken for somebody else's.
            if self._is_asked_to_stop() and not work.windows_in_writing:
                raise Interrupted("The driver was asked to stop; what is written is recorded.")
            check()

        work = await open_work(self._context, await ledger.migration(self._id), check, held.epoch)
        # Every try of a request is checked: a retry may come long after the check before the first one.
        work.target = work.target.guarded(go_on)
        if self._stand_by is not None:
            work.stand_by = partial(self._stand_by, work.migration)
        return work

    async def _beat(self, held: HeldLease, work: Work) -> None:
        """Renew the lease with the progress, and follow the pace that is asked for."""
        charted_at = anyio.current_time()
        while True:
            try:
                self._measure(work.progress)
                gauges.tell(work.migration, work.progress)
                await held.renew(work.progress)
            except LeaseLost as error:
                LOG.warning("%s", error)
                self._is_lost = True
                return
            except MigrationError as error:
                LOG.warning("The lease was not renewed: %s", error)
            try:
                await work.save_own()
                if anyio.current_time() >= charted_at + CHART_S:
                    charted_at = anyio.current_time()
                    await work.save_throughput()
                work.pace = await work.ledger.pace(self._id)
                self._is_awaited = bool(await self._pending(work))
            except MigrationError as error:
                # Also a lease that ran out while Qdrant was away, which the next beat renews: only renewing tells whether it is lost.
                # The deadline stops the writes when this goes on; a short outage must not end the driver.
                LOG.warning("The ledger was not read: %s", error)
            await anyio.sleep(min(BEAT_S, held.lease.lease_s / 4))

    def _measure(self, progress: Progress) -> None:
        if progress.stage not in ("backfilling", "filling"):
            self._rate.forget()
            progress.points_per_second = progress.eta_seconds = None
            return
        progress.points_per_second = self._rate.note(anyio.current_time(), progress.read)
        progress.eta_seconds = eta_seconds(progress.total, progress.read, progress.points_per_second)

    def _is_stopping(self) -> bool:
        """Also when somebody waits for an operation: a rollback, or the discarding of what is being filled, does not come after hours of it."""
        return self._is_lost or self._is_awaited or self._is_asked_to_stop()

    async def _pending(self, work: Work) -> list[Operation]:
        return [o for o in await work.ledger.operations(self._id) if o.state in ("requested", "running")]

    async def _work(self, held: HeldLease, work: Work) -> None:
        idle_since = away_since = None
        ran_out = False
        while not self._is_asked_to_stop():
            try:
                if ran_out:
                    await held.renew(work.progress)
                    ran_out = False
                step = await self._step(held, work)
                if step == "worked":
                    # What was just done is shown at once, not at the next beat.
                    await held.renew(work.progress)
                away_since = None
            except LeaseLost:
                if self._is_lost or ran_out:
                    raise
                # It ran out while this machine slept or Qdrant was away, or somebody took it: renewing tells which.
                ran_out = True
                continue
            except Interrupted:
                if self._is_lost:
                    raise LeaseLost(f"Migration {self._id} is driven by somebody else now.") from None
                if self._is_awaited and not self._is_asked_to_stop():
                    continue
                if not work.pace.is_paused or self._is_asked_to_stop():
                    return
                step = "waiting"
            except (ConnectionFailed, TransientEmbedding) as error:
                now = anyio.current_time()
                away_since = away_since or now
                if now - away_since > GIVE_UP_S:
                    await self._stop_with(held, work, str(error))
                    return
                LOG.warning("Waiting for a service to come back: %s", error)
                work.progress.stage = f"waiting for a service to come back: {error}"
                asked_s = error.retry_after_s if isinstance(error, RateLimited | TransientEmbedding) else None
                await self._rest(max(RECONNECT_S, min(asked_s or 0.0, MOST_REST_S)))
                continue
            except MigrationError as error:
                await self._stop_with(held, work, str(await told(self._context, work.migration, error)))
                return
            except Exception as error:
                # A defect of ours: told in the ledger, where the person looks, and with its trace in the log.
                LOG.exception("The driver failed")
                await self._stop_with(
                    held, work, f"The driver failed unexpectedly ({type(error).__name__}); its log tells more. What is written is recorded."
                )
                return
            idle_since = (idle_since or anyio.current_time()) if step == "idle" else None
            if idle_since is not None and anyio.current_time() - idle_since > self._idle_exit_s:
                return
            if step != "worked":
                await anyio.sleep(POLL_S)

    async def _rest(self, seconds: float) -> None:
        """Wait before the next try, in pieces: a driver that is to stop stops."""
        for _ in range(math.ceil(seconds / RECONNECT_S)):
            if self._is_asked_to_stop():
                return
            await anyio.sleep(RECONNECT_S)

    async def _step(self, held: HeldLease, work: Work) -> Step:
        """Do the next thing there is."""
        pending = await self._pending(work)
        self._is_awaited = bool(pending)
        is_needed = any(o.kind != "finish" for o in pending) or (not pending and work.migration.phase not in AFTER_THE_SOURCE)
        if work.is_source_away and is_needed:
            # What does not need it goes on: an old server that was switched off must not keep a migration from being ended.
            await work.find_source()
        if pending:
            await work.settled()
            operation = await chosen(work, pending)
            if operation.kind != "swap":
                await lift_fence(work)
            await carry_out(work, operation)
            return "worked"
        work.migration = await work.ledger.migration(self._id)
        if work.migration.intent == "swapping":
            # Whatever ended its operation: once an alias has moved, nothing may be carried over as before.
            if await has_moved_nothing(work):
                await work.change(given_up)
            else:
                await carry_out(work, await unfinished_swap(work))
            return "worked"
        # Of a driver that died while writers waited.
        await lift_fence(work)
        work.pace = await work.ledger.pace(self._id)
        if work.pace.is_paused or work.migration.error:
            work.progress.stage = "paused" if work.pace.is_paused else "stopped"
            return "idle"
        return await self._phase_work.step(held, work)

    async def _distrust_verification(self, work: Work) -> None:
        """Somebody drove until now and did not say goodbye: what it proved is proven again.

        Not in the middle of a swap: the aliases may have moved already, and it is completed.
        """
        if work.migration.phase is Phase.VERIFIED and work.migration.intent != "swapping":
            await work.change(lambda m: m.model_copy(update={"phase": m.after("found_incomplete")}))
            await work.record("taken_over", "the driver before was lost; the target has to be verified again")

    async def _stop_with(self, held: HeldLease, work: Work, reason: str) -> None:
        LOG.error("Stopped: %s", reason)
        self._has_stopped = True
        await held.renew(work.progress)
        await work.change(lambda m: m.model_copy(update={"error": reason}))
        await work.record("stopped", reason)
