"""Tool migration_status."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.mcpserver import Context
from pydantic import Field

from qdrant_model_migration.results import StatusResult
from qdrant_model_migration.tools.support import Connection, ToolSpec, app_of, read_only, reporter


async def migration_status(
    ctx: Context[Any, Any],
    migration_id: Annotated[str | None, Field(description="leave out when only one migration is open", max_length=64)] = None,
    wait_seconds: Annotated[float, Field(description="wait so long for a change of phase, reporting progress", ge=0, le=40)] = 0,
    connection: Connection = None,
) -> StatusResult:
    from qdrant_model_migration.operations.status import status

    return await status(
        app_of(ctx).context, migration_id=migration_id, wait_seconds=wait_seconds, connection=connection, report=reporter(ctx)
    )


SPEC = ToolSpec(
    fn=migration_status,
    title="Where a migration stands",
    description=(
        "Phase, progress, rate, time left, lag behind the source, failed points, events and the state of the worker. Use it to follow a backfill "
        "(wait_seconds=30 answers when the phase changes), in a new chat to find an open migration, and whenever unsure what comes next: next_step "
        "says it. For a backfill of hours do not poll: give the person watch_command and look again after check_again_after_s. It reads only."
    ),
    annotations=read_only(),
    is_shown=True,
)
