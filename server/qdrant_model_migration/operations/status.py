"""Where does a migration stand? Read from the ledger alone, so that any host, anywhere, sees the same."""

from __future__ import annotations

from datetime import datetime

import anyio

from qdrant_model_migration.domain.comparison_sides import refusal
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.records import Lease
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.finding import find_migration, listed, migrations_everywhere
from qdrant_model_migration.operations.requests import Report
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.results import EventInfo, FailedPoint, NextStep, Progress, StatusResult, Worker

MOST_WAIT_S = 40
MOST_LISTED = 10
STARTING_S = 20


async def status(
    context: OperationContext,
    *,
    migration_id: str | None = None,
    wait_seconds: float = 0,
    connection: str | None = None,
    report: Report | None = None,
) -> StatusResult:
    """Where it stands; with `wait_seconds`, answered when the phase or an error changes or the time is up."""
    if migration_id is None and (none := await _nothing_open(context, connection)) is not None:
        return none
    ledger, migration = await find_migration(context, migration_id, connection)
    if migration.fence is not None and _may_start(context):
        # Writers wait: should nobody drive any more, somebody must let them in again.
        await context.ensure_driver(migration)
    first = current = await read_status(context, ledger, migration)
    with anyio.move_on_after(min(wait_seconds, MOST_WAIT_S - 3)):
        while _standing(current) == _standing(first) and _is_moving(current, ledger.now()):
            if report is not None:
                await report(current.progress.read, current.progress.total or None, current.progress.stage)
            await anyio.sleep(1.0)
            current = await read_status(context, ledger, await ledger.migration(migration.id))
    return current


def _may_start(context: OperationContext) -> bool:
    return context.starts_drivers and not context.settings.is_read_only


async def _nothing_open(context: OperationContext, connection: str | None) -> StatusResult | None:
    """The answer when no migration is open: a new chat begins by asking."""
    migrations = [m for _, m in await migrations_everywhere(context, connection)]
    if any(m.is_open for m in migrations):
        return None
    last = listed(migrations[-3:])
    return StatusResult(
        summary=f"{context.notice(connection)}No migration is open. {'The last ones: ' + last if last else 'None was ever begun here'}.",
        next_step=NextStep(tool="inspect_collection", arguments={}, why="see what there is"),
        migration_id="",
        phase="none",
        progress=Progress(stage="none"),
        worker=Worker(state="none"),
    )


def _standing(result: StatusResult) -> tuple[object, ...]:
    return result.phase, result.error, result.is_paused, result.is_filling


def _is_moving(result: StatusResult, now: datetime) -> bool:
    """Whether waiting may show something new: a backfill that somebody works, or is about to."""
    if result.error or result.is_paused or not (result.phase == "backfilling" or result.is_filling):
        return False
    return result.worker.state == "running" or is_starting(result, now)


def is_starting(result: StatusResult, now: datetime) -> bool:
    """A driver that was just asked for needs a moment to take the lease."""
    asked = [datetime.fromisoformat(e.at) for e in result.events if e.event in ("backfill_started", "resume")]
    return bool(asked) and (now - asked[-1]).total_seconds() < STARTING_S


async def read_status(context: OperationContext, ledger: Ledger, migration: Migration) -> StatusResult:
    """The status as the ledger has it now."""
    _, lease = await ledger.lease(migration.id)
    pace = await ledger.pace(migration.id)
    failed = await ledger.failed(migration.id)
    events = await ledger.events(migration.id)
    worker = worker_of(lease, ledger.now())
    progress = (lease.progress or Progress(stage="waiting for the worker")).model_copy(update={"lag": migration.lag})
    if progress.total == 0:
        progress.total = migration.total_points
    if worker.state != "running":
        progress.points_per_second, progress.eta_seconds = None, None
    warnings = [f"{migration.error}"] if migration.error else []
    if worker.state == "stalled" and migration.phase is Phase.BACKFILLING:
        warnings.append(
            f"The worker on {worker.host} was last heard of {worker.heartbeat_age_s:.0f} s ago; start_backfill takes the work over, nothing is lost."
        )
    if migration.fence is not None:
        warnings.append(
            f"Writes to {migration.fence.place.collection!r} are answered with 429 since {migration.fence.at}: the swap makes writers wait for some seconds. "
            f"Where no worker runs any more, {'this call started one, which' if _may_start(context) else f'`qdrant-model-migration worker {migration.id}`'} "
            "lets them in again once the lease of the last one has run out."
        )
    if conflicts := _conflicts(migration):
        warnings.append(
            f"{len(conflicts):,} points were written on both sides and left as they are by the rollback; migration://{migration.id}/report lists them. "
            f"start_backfill refuses as long as they differ: copy what is needed to {migration.source.collection!r}, or call "
            "finish_migration(action='discard_new')."
        )
    answer = StatusResult(
        summary=context.notice(migration.target.connection) + _summary(migration, worker, progress, is_paused=pace.is_paused),
        warnings=warnings,
        undo=undo_of(migration),
        migration_id=migration.id,
        phase=migration.phase.value,
        error=migration.error,
        is_paused=pace.is_paused,
        is_filling=_is_being_filled(migration),
        source=migration.source.collection,
        target=migration.target.collection,
        strategy=migration.strategy,
        model=migration.model.name if migration.model is not None else None,
        coverage=None if migration.filled is None else round(migration.filled.share, 6),
        progress=progress,
        worker=worker,
        failed_points=[FailedPoint(point_id=f.point_id, reason=f.reason) for f in failed[:MOST_LISTED]],
        events=[EventInfo(at=e.at, event=e.event, text=e.text) for e in events[-MOST_LISTED:]],
        pace=pace.model_dump(exclude_none=True),
    )
    step, later = _next_step(migration, answer, ledger.now())
    is_moving = migration.phase is Phase.BACKFILLING or answer.is_filling
    watch = f"qdrant-model-migration status {migration.id} --watch" if is_moving else None
    return answer.model_copy(update={"next_step": step, "check_again_after_s": later, "watch_command": watch})


def _conflicts(migration: Migration) -> tuple[str, ...]:
    """Points that the rollback left as they are on each side."""
    return migration.cutover.conflicts if migration.phase is Phase.ROLLED_BACK and migration.cutover is not None else ()


def _is_being_filled(migration: Migration) -> bool:
    """Whether the readers have moved and the field that is filled afterwards is not complete yet."""
    is_over = migration.filled is not None and migration.filled.has_converged
    return migration.phase is Phase.CUT_OVER and migration.is_filling and not is_over


def worker_of(lease: Lease, now: datetime) -> Worker:
    """The holder of the lease, and whether it is heard of. Wall clocks serve this display only, never a decision."""
    if lease.owner is None:
        return Worker(state="none", log=lease.log)
    age = (now - datetime.fromisoformat(lease.at)).total_seconds() if lease.at else 0.0
    return Worker(
        state="stalled" if age > lease.lease_s else "running",
        host=lease.host,
        pid=lease.pid,
        heartbeat_age_s=round(max(0.0, age), 1),
        log=lease.log,
    )


def _summary(migration: Migration, worker: Worker, progress: Progress, *, is_paused: bool) -> str:
    head = f"Migration {migration.id} ({migration.route}): {migration.phase.value}"
    if migration.error:
        return f"{head}, stopped by an error: {migration.error}"
    if is_paused:
        head += ", paused"
    if _is_being_filled(migration) or migration.phase is Phase.BACKFILLING:
        share = f"{progress.read:,} of {progress.total:,} points"
        rate = f", {progress.points_per_second:.0f}/s" if progress.points_per_second else ""
        eta = f", about {_span(progress.eta_seconds)} left" if progress.eta_seconds else ""
        return f"{head}, {progress.stage}: {share}{rate}{eta}; worker {worker.state}."
    if migration.lag is not None and migration.phase in (Phase.BACKFILLED, Phase.VERIFIED):
        lag = migration.lag
        head += f"; the last pass found {lag.missing} missing, {lag.extra} extra, {lag.changed} changed"
    return head + "."


def _span(seconds: int) -> str:
    if seconds < 90:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


_UNDO = {
    **dict.fromkeys(Phase, "finish_migration with action='discard_new' deletes the target; the source is untouched."),
    Phase.CUT_OVER: "swap_alias with direction='back' returns readers to the old collection.",
    Phase.FINISHED: "What was kept is kept; a deleted collection comes back only from its snapshot.",
    Phase.ABANDONED: "Nothing is left to undo.",
}


def undo_of(migration: Migration) -> str:
    """How to take the migration back as it stands."""
    if migration.is_in_place and migration.is_open:
        what = "restores the quantization as it was" if migration.made is None else f"removes the vector {migration.making.field!r}"
        return f"finish_migration with action='discard_new' {what}; nothing else of the collection was changed."
    if migration.is_across_servers and migration.phase is Phase.CUT_OVER:
        return f"swap_alias with direction='back' removes the alias again; the app connects to {migration.source.connection!r} as before."
    return _UNDO[migration.phase]


def _next_step(migration: Migration, answer: StatusResult, now: datetime) -> tuple[NextStep | None, int | None]:
    """The next call, and in how many seconds it makes sense (None: now)."""
    me = {"migration_id": migration.id}
    phase = migration.phase
    if migration.fence is not None:
        return NextStep(tool="migration_status", arguments={**me, "wait_seconds": 10}, why="see that the writers are let in again"), None
    if answer.is_paused and (answer.is_filling or phase in (Phase.TARGET_CREATED, Phase.BACKFILLING, Phase.BACKFILLED)):
        # To go on is the person's word: waiting shows nothing new, and starting would undo the pause.
        return None, None
    if phase is Phase.BACKFILLING or answer.is_filling or (migration.error and phase is Phase.CUT_OVER and migration.is_filling):
        if migration.error or (answer.worker.state != "running" and not is_starting(answer, now)):
            return NextStep(tool="start_backfill", arguments=me, why="take the work up where it was left; nothing is lost"), None
        eta = answer.progress.eta_seconds or 0
        if eta > 120:
            return None, min(eta, 3600)
        return NextStep(tool="migration_status", arguments={**me, "wait_seconds": 30}, why="wait for the backfill"), None
    if phase is Phase.CUT_OVER and migration.is_fill_due:
        return NextStep(
            tool="start_backfill", arguments=me, why="the readers are on the copy: fill its new field now, while the app goes on"
        ), None
    if phase is Phase.CUT_OVER and migration.has_fill_stage and _is_unverified_fill(migration):
        return NextStep(tool="verify_target", arguments=me, why="prove that the new field is complete"), None
    if phase is Phase.ROLLED_BACK and (migration.error or _conflicts(migration)):
        # What is left is a person's choice: copy those writes by hand, or give the target up.
        return None, None
    steps: dict[Phase, NextStep] = {
        Phase.TARGET_CREATED: NextStep(tool="start_backfill", arguments=me, why="fill the target in the background"),
        Phase.BACKFILLED: NextStep(tool="verify_target", arguments=me, why="prove that the target is complete"),
        Phase.VERIFIED: after_verification(migration),
        Phase.CUT_OVER: NextStep(
            tool="finish_migration",
            arguments={**me, "action": "keep_old"},
            why="see the plan that ends the migration and keeps the old collection",
        ),
        Phase.ROLLED_BACK: NextStep(tool="start_backfill", arguments=me, why="bring the target up to date again"),
    }
    return steps.get(phase), None


def is_comparable(migration: Migration) -> bool:
    """Whether what was searched before and what is new can be compared now."""
    return refusal(migration) is None


def after_verification(migration: Migration) -> NextStep:
    """What follows a verification that found nothing wrong."""
    me = {"migration_id": migration.id}
    if migration.comparison is None and is_comparable(migration):
        return NextStep(tool="compare_models", arguments=me, why="see whether the new model finds as well")
    if migration.is_in_place or migration.phase is Phase.CUT_OVER:
        why = "when every reader has changed as app_changes says: see the plan that ends the migration and keeps what is old"
        return NextStep(tool="finish_migration", arguments={**me, "action": "keep_old"}, why=why)
    why = "see the plan of the cutover; it changes nothing yet"
    if migration.is_fill_due:
        why = "old queries go on after the swap, so it may come before the slow filling of the new field; the plan changes nothing yet"
    return NextStep(tool="swap_alias", arguments=me, why=why)


def _is_unverified_fill(migration: Migration) -> bool:
    """Whether nothing proved the new field complete since its filling began."""
    return migration.filled is not None and (migration.verification is None or not migration.verification.is_complete)
