"""Tool control_backfill."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from pydantic import Field

from qdrant_model_migration.results import StatusResult
from qdrant_model_migration.tools.support import Connection, MigrationId, ToolSpec, app_of, writing


async def control_backfill(
    ctx: Context[Any, Any],
    migration_id: MigrationId,
    action: Annotated[Literal["pause", "resume", "set_pace"], Field(description="what to do")],
    points_per_second: Annotated[float | None, Field(description="limit; 0 lifts it", ge=0, le=1_000_000)] = None,
    concurrency: Annotated[
        int | None, Field(description="ranges worked at once; taken up when the backfill is started or resumed", ge=1, le=16)
    ] = None,
    max_source_latency_ms: Annotated[
        float | None,
        Field(description="slow down while the source's searches take longer, as a canary search sees; 0 lifts it", ge=0, le=1_000_000),
    ] = None,
    max_cost_usd: Annotated[
        float | None, Field(description="pause when the embedded tokens cost so much in all; 0 lifts it", ge=0, le=1_000_000_000)
    ] = None,
    connection: Connection = None,
) -> StatusResult:
    from qdrant_model_migration.operations.backfill import control_backfill as control

    return await control(
        app_of(ctx).context,
        migration_id=migration_id,
        action=action,
        points_per_second=points_per_second,
        concurrency=concurrency,
        max_source_latency_ms=max_source_latency_ms,
        max_cost_usd=max_cost_usd,
        connection=connection,
    )


SPEC = ToolSpec(
    fn=control_backfill,
    title="Pause, resume or pace a backfill",
    description=(
        "Pause a running backfill, resume it, or change its pace while it runs; the worker follows within seconds. Use it when production suffers or "
        "the person wants to wait. What is written stays and nothing is embedded again. Not for ending a migration: that is finish_migration."
    ),
    annotations=writing(),
)
