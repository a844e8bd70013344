"""How is a backfill started, paused and paced? By what is recorded: the driver, wherever it runs, does as the ledger says."""

from __future__ import annotations

from typing import Any, Literal

from anyio import to_thread

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.records import EventRecord, Pace
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.altered import check_target
from qdrant_model_migration.operations.canary import searched_field
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.finding import find_migration
from qdrant_model_migration.operations.status import read_status
from qdrant_model_migration.results import StatusResult
from qdrant_model_migration.settings import check_ray

LEAST_PACE = 0.01
"""Points a second; below, a range would take longer than anybody waits."""


async def start_backfill(
    context: OperationContext,
    *,
    migration_id: str,
    points_per_second: float | None = None,
    concurrency: int | None = None,
    max_source_latency_ms: float | None = None,
    max_failed_points: int = 100,
    max_cost_usd: float | None = None,
    executor: Literal["local", "ray"] = "local",
    connection: str | None = None,
) -> StatusResult:
    """Start the driver, or take up the work of one that died; answers at once.

    Raises:
        Refused: the phase does not allow it, a limit makes no sense, or no Ray cluster is named.
        Unsupported: Ray is not installed.
    """
    ledger, migration = await find_migration(context, migration_id, connection)
    migration.check_allows("start_backfill")
    before = await ledger.pace(migration.id)
    pace = await _paced(
        context,
        migration,
        before.model_copy(update={"is_paused": False, "max_failed_points": max_failed_points}),
        points_per_second=points_per_second,
        concurrency=concurrency,
        max_source_latency_ms=max_source_latency_ms,
        max_cost_usd=max_cost_usd,
    )
    if executor == "ray":
        _check_ray(context, migration)
    pace = pace.model_copy(update={"executor": executor})
    if not migration.is_in_place:
        await check_target(await context.gateway(migration.target.connection), migration)
    # Loading the model is the driver's first act: it may take longer than this call has, and a failure is told by the status.
    if migration.model is not None:
        await to_thread.run_sync(context.catalogue.resolve, migration.model.name)
    await ledger.save_pace(migration.id, pace)
    had_error = migration.error
    migration = await ledger.change(migration.id, _started)
    text = "taken up again after: " + had_error if had_error else f"started (on_missing_text={migration.on_missing_text})"
    await ledger.add_event(migration.id, EventRecord(at=now(ledger), event="backfill_started", text=text))
    await context.ensure_driver(migration)
    return await read_status(context, ledger, migration)


def _started(migration: Migration) -> Migration:
    """A field that is filled after the copy is begun with the call that finds the copy done."""
    if migration.intent in ("swapping", "sweeping"):
        raise Refused(
            f"Nothing was started: the aliases of migration {migration.id} are being moved just now. Call migration_status(migration_id={migration.id!r}) until that is over."
        )
    phase = migration.after("started")
    begins = migration.is_fill_due and migration.phase in (Phase.BACKFILLED, Phase.VERIFIED, Phase.CUT_OVER)
    if begins and migration.is_serving_source:
        phase = Phase.BACKFILLING
    update = {"phase": phase, "error": None, "is_filling": migration.is_filling or begins}
    # A verification of the copy says nothing about the field that is filled from now on.
    return migration.model_copy(update={**update, "verification": None} if begins else update)


async def control_backfill(
    context: OperationContext,
    *,
    migration_id: str,
    action: Literal["pause", "resume", "set_pace"],
    points_per_second: float | None = None,
    concurrency: int | None = None,
    max_source_latency_ms: float | None = None,
    max_cost_usd: float | None = None,
    connection: str | None = None,
) -> StatusResult:
    """Pause, resume or pace a backfill; the running driver follows within seconds.

    Raises:
        Refused: the phase does not allow it, or `set_pace` without a pace.
    """
    ledger, migration = await find_migration(context, migration_id, connection)
    migration.check_allows("control_backfill")
    given: dict[str, Any] = {
        "points_per_second": points_per_second,
        "concurrency": concurrency,
        "max_source_latency_ms": max_source_latency_ms,
        "max_cost_usd": max_cost_usd,
    }
    if action == "set_pace" and all(value is None for value in given.values()):
        raise Refused(
            "Nothing was changed: set_pace needs at least one of points_per_second, max_source_latency_ms, max_cost_usd (0 lifts each of them) and concurrency."
        )
    pace = await ledger.pace(migration.id)
    if action == "pause":
        pace = pace.model_copy(update={"is_paused": True})
    elif action == "resume":
        pace = pace.model_copy(update={"is_paused": False})
    pace = await _paced(context, migration, pace, **given)
    await ledger.save_pace(migration.id, pace)
    await ledger.add_event(migration.id, EventRecord(at=now(ledger), event=action, text=_described(pace)))
    if (
        action != "pause"
        and migration.phase in (Phase.BACKFILLING, Phase.BACKFILLED, Phase.VERIFIED, Phase.CUT_OVER)
        and not migration.error
    ):
        await context.ensure_driver(migration)
    return await read_status(context, ledger, migration)


async def _paced(
    context: OperationContext,
    migration: Migration,
    pace: Pace,
    *,
    points_per_second: float | None,
    concurrency: int | None,
    max_source_latency_ms: float | None,
    max_cost_usd: float | None,
) -> Pace:
    """The pace with what was given; 0 lifts a limit.

    Raises:
        Refused: out of bounds, or a limit that could not be kept.
    """
    changes: dict[str, Any] = {}
    if points_per_second is not None:
        if points_per_second < 0:
            raise Refused(f"Nothing was changed: points_per_second={points_per_second} is negative; 0 lifts the limit.")
        if 0 < points_per_second < LEAST_PACE:
            raise Refused(
                f"Nothing was changed: points_per_second={points_per_second:g} would never end; at least {LEAST_PACE:g}, or 0, which lifts the limit."
            )
        changes["points_per_second"] = points_per_second or None
    if concurrency is not None:
        if not 1 <= concurrency <= 16:
            raise Refused(f"Nothing was changed: concurrency={concurrency} is not between 1 and 16 (ranges worked at once).")
        changes["concurrency"] = concurrency
    if max_source_latency_ms:
        await _check_canary(context, migration)
    if max_cost_usd:
        _check_price(migration)
    for name, limit in (("max_source_latency_ms", max_source_latency_ms), ("max_cost_usd", max_cost_usd)):
        if limit is not None:
            if limit < 0:
                raise Refused(f"Nothing was changed: {name}={limit} is negative; 0 lifts the limit.")
            changes[name] = limit or None
    return pace.model_copy(update=changes)


def _check_ray(context: OperationContext, migration: Migration) -> None:
    """Whether the ranges of a migration can be worked by Ray.

    Raises:
        Unsupported: Ray is not installed.
        Refused: no cluster is named, or there are no ranges that others could work.
    """
    check_ray(context.settings.ray)
    sides = (migration.source.connection, migration.target.connection)
    if any(context.settings.connection(name).is_embedded for name in sides):
        raise Refused("Nothing was started: executor='ray' needs Qdrant servers; the embedded database serves one process.")
    if migration.is_in_place:
        raise Refused(
            f"Nothing was started: executor='ray' works the ranges of a copy, and strategy {migration.strategy!r} fills a field in place. Use executor='local'."
        )


async def _check_canary(context: OperationContext, migration: Migration) -> None:
    """Whether the latency of the source's searches can be watched.

    Raises:
        Refused: there is nothing to search for, or nothing that tells how long it took.
    """
    gateway = await context.gateway(migration.source.connection)
    if gateway.connection.is_embedded:
        raise Refused("Nothing was changed: max_source_latency_ms needs a Qdrant server; the embedded database serves this process alone.")
    if searched_field(await gateway.describe(migration.source.collection)) is None:
        raise Refused(
            f"Nothing was changed: max_source_latency_ms is watched by searches, and {migration.source.collection!r} has no dense or sparse vector to search by. "
            "Limit points_per_second instead."
        )


def _check_price(migration: Migration) -> None:
    """Whether what is spent can be told.

    Raises:
        Refused: no price is known.
    """
    if migration.model is None or migration.model.price_per_million is None:
        model = "this migration, which embeds nothing," if migration.model is None else f"model {migration.model.name!r}"
        raise Refused(
            f"Nothing was changed: no price is known of {model}, so max_cost_usd could not be kept. A model's price_per_million (USD per million tokens) is set in "
            "QDRANT_MIGRATION_MODELS, before create_target; a model that runs on this machine costs nothing by the token."
        )


def _described(pace: Pace) -> str:
    told = [
        "paused" if pace.is_paused else "running",
        f"{pace.points_per_second:g} points/s" if pace.points_per_second else "no rate limit",
        f"concurrency {pace.concurrency or 'default'}",
        *([f"source searches within {pace.max_source_latency_ms:g} ms"] if pace.max_source_latency_ms else []),
        *(["by Ray"] if pace.executor == "ray" else []),
        *([f"at most {pace.max_cost_usd:g} USD"] if pace.max_cost_usd else []),
    ]
    return ", ".join(told)
