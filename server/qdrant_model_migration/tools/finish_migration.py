"""Tool finish_migration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Resolve
from pydantic import Field

from qdrant_model_migration.results import FinishOutcome, FinishResult, NextStep
from qdrant_model_migration.tools.agreement import Agreement, ask, why_not
from qdrant_model_migration.tools.support import App, Connection, MigrationId, ToolSpec, app_of, reporter, writing

if TYPE_CHECKING:
    from qdrant_model_migration.domain.migration import Migration
    from qdrant_model_migration.operations.finish_fields import Action


async def finish_migration(
    ctx: Context[Any, Any],
    migration_id: MigrationId,
    action: Annotated[Literal["keep_old", "delete_old", "discard_new"], Field(description="what becomes of the two collections")],
    agreement: Annotated[ElicitationResult[Agreement], Resolve(ask)],
    snapshot_first: Annotated[bool, Field(description="make a snapshot of what is deleted, where the server has them")] = True,
    plan: Annotated[
        str | None, Field(description="the code of the plan that the person agreed to; leave out for the plan", max_length=100)
    ] = None,
    connection: Connection = None,
) -> FinishResult:
    from qdrant_model_migration.operations.finding import find_migration
    from qdrant_model_migration.operations.finish import recovery, why_void
    from qdrant_model_migration.operations.plans import check_made_for
    from qdrant_model_migration.operations.requests import carry_out

    app = app_of(ctx)
    ledger, migration = await find_migration(app.context, migration_id, connection)
    if plan is None:
        return await _planned(app, migration, action, None, snapshot_first=snapshot_first)
    notice = app.context.notice(migration.target.connection)
    await check_made_for(ledger, migration.id, plan, "finish", {"action": action, "snapshot_first": snapshot_first})
    if (no := why_not(agreement)) is not None:
        return FinishResult(
            summary=f"{notice}{no.said} Both collections stay as they are.",
            migration_id=migration.id,
            phase=migration.phase.value,
            refusal=no.refusal,
        )
    done = await ledger.operation(migration.id, f"finish-{plan.strip()}")
    if done is None or done.state == "failed":
        void = await why_void(app.context, migration, action, snapshot_first=snapshot_first, code=plan)
        if void is not None:
            return await _planned(app, migration, action, void, snapshot_first=snapshot_first)
    arguments = {"action": action, "snapshot_first": snapshot_first, "code": plan.strip()}
    operation = await carry_out(app.context, migration, "finish", arguments, report=reporter(ctx), key=f"finish-{plan.strip()}")
    migration = await ledger.migration(migration.id)
    if operation.state != "done":
        step = NextStep(tool="migration_status", arguments={"migration_id": migration.id, "wait_seconds": 30}, why="see it through")
        return FinishResult(
            summary=f"{notice}Finishing migration {migration.id} goes on.",
            next_step=step,
            state="running",
            migration_id=migration.id,
            phase=migration.phase.value,
        )
    outcome = FinishOutcome.model_validate(operation.result)
    undo = "Nothing was deleted." if not outcome.deleted else "None: there is no snapshot."
    if outcome.snapshot:
        undo = recovery(outcome.deleted[0], outcome.snapshot)
    return FinishResult(
        summary=f"{notice}Migration {migration.id} is {migration.phase.value}. Deleted: {', '.join(outcome.deleted) or 'nothing'}. Kept: {', '.join(outcome.kept)}.",
        undo=undo,
        migration_id=migration.id,
        phase=migration.phase.value,
        deleted=outcome.deleted,
        kept=outcome.kept,
    )


async def _planned(app: App, migration: Migration, action: Action, refusal: str | None, *, snapshot_first: bool) -> FinishResult:
    from qdrant_model_migration.operations.finish import plan_finish

    made = await plan_finish(app.context, migration, action, snapshot_first=snapshot_first)
    head = f"Nothing was changed: {refusal}. Here is the plan as things are now" if refusal else "The plan, nothing is changed yet"
    return FinishResult(
        summary=(
            f"{app.context.notice(migration.target.connection)}{head}: deletes {', '.join(made.deletes) or 'nothing'}. Show it to the person; after they "
            f"agreed, call again with plan='{made.code}'."
        ),
        warnings=made.warnings,
        migration_id=migration.id,
        phase=migration.phase.value,
        plan=made,
        refusal=refusal,
    )


SPEC = ToolSpec(
    fn=finish_migration,
    title="Finish or discard a migration",
    description=(
        "End a migration, in two calls like swap_alias: keep_old closes it and keeps the old collection; delete_old deletes the old one (a snapshot "
        "first); discard_new gives the migration up and deletes the target. The first call, without plan, changes nothing and lists what would be "
        "deleted and what stays. Show it, and pass the code only after the person agreed. Refused while an alias points to what would be deleted or "
        "somebody still writes to it. Wait with delete_old until the app has run well for a while."
    ),
    annotations=writing(destructive=True, idempotent=False),
)
