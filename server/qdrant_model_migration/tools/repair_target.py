"""Tool repair_target."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import Context

from qdrant_model_migration.results import NextStep, RepairOutcome, RepairResult
from qdrant_model_migration.tools.support import (
    Connection,
    MigrationId,
    ToolSpec,
    again,
    app_of,
    progress_of,
    reporter,
    running_summary,
    writing,
)


async def repair_target(ctx: Context[Any, Any], migration_id: MigrationId, connection: Connection = None) -> RepairResult:
    from qdrant_model_migration.operations.finding import find_migration
    from qdrant_model_migration.operations.requests import carry_out

    app = app_of(ctx)
    ledger, migration = await find_migration(app.context, migration_id, connection)
    migration.check_allows("repair_target")
    operation = await carry_out(app.context, migration, "repair", {}, report=reporter(ctx))
    migration = await ledger.migration(migration.id)
    me = {"migration_id": migration.id}
    if operation.state != "done":
        progress = progress_of(operation)
        return RepairResult(
            summary=running_summary(app, migration, "repair", progress),
            next_step=again("repair_target", me),
            state="running",
            migration_id=migration.id,
            phase=migration.phase.value,
            progress=progress,
        )
    found = RepairOutcome.model_validate(operation.result)
    done = found.repaired
    is_complete = found.verification.is_complete
    head = f"Repaired: {done.missing} missing inserted, {done.extra} extra deleted, {done.changed} changed rewritten, {done.bad_vectors} vectors embedded again."
    tail = " The target is complete now." if is_complete else f" Still not complete: {'; '.join(found.verification.problems)}."
    return RepairResult(
        summary=app.context.notice(migration.target.connection) + head + tail,
        warnings=[f"{done.left} points kept changing under the repair; the catch-up goes on with them."] if done.left else [],
        next_step=NextStep(tool="verify_target", arguments=me, why="prove it once more"),
        undo="Only the target was written; the source is untouched.",
        migration_id=migration.id,
        phase=migration.phase.value,
        repaired=done,
        verification=found.verification,
    )


SPEC = ToolSpec(
    fn=repair_target,
    title="Repair the target",
    description=(
        "Put right in the target what verify_target found: insert missing points, delete those the source no longer holds, rewrite changed ones, "
        "embed bad vectors and failed points again; then verify. Use it only after a verification that found something. Writes to the target only, "
        "each write guarded against what an app wrote meanwhile. A long one returns state='running': make the same call again."
    ),
    annotations=writing(destructive=True),
)
