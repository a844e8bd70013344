"""Tool start_backfill."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from pydantic import Field

from qdrant_model_migration.results import StatusResult
from qdrant_model_migration.tools.support import Connection, MigrationId, ToolSpec, app_of, writing


async def start_backfill(
    ctx: Context[Any, Any],
    migration_id: MigrationId,
    points_per_second: Annotated[float | None, Field(description="limit; 0 lifts it", ge=0, le=1_000_000)] = None,
    concurrency: Annotated[int | None, Field(description="ranges worked at once", ge=1, le=16)] = None,
    max_source_latency_ms: Annotated[
        float | None,
        Field(description="slow down while the source's searches take longer, as a canary search sees; 0 lifts it", ge=0, le=1_000_000),
    ] = None,
    max_failed_points: Annotated[int, Field(description="stop when more points cannot be embedded", ge=0, le=1_000_000_000)] = 100,
    max_cost_usd: Annotated[
        float | None, Field(description="pause when the embedded tokens cost so much in all; 0 lifts it", ge=0, le=1_000_000_000)
    ] = None,
    executor: Annotated[
        Literal["local", "ray"],
        Field(
            description="local: threads of one worker; ray: actors of the Ray cluster that QDRANT_MIGRATION_RAY_ADDRESS names, for what outgrows one machine"
        ),
    ] = "local",
    connection: Connection = None,
) -> StatusResult:
    from qdrant_model_migration.operations.backfill import start_backfill as start

    return await start(
        app_of(ctx).context,
        migration_id=migration_id,
        points_per_second=points_per_second,
        concurrency=concurrency,
        max_source_latency_ms=max_source_latency_ms,
        max_failed_points=max_failed_points,
        max_cost_usd=max_cost_usd,
        executor=executor,
        connection=connection,
    )


SPEC = ToolSpec(
    fn=start_backfill,
    title="Start or resume the backfill",
    description=(
        "Fill the target in the background: every point is read from the source, its text embedded with the new model, and written where the target "
        "does not hold it yet (insert-only). Returns at once; a worker process goes on when the chat is closed. Use it after create_target, to "
        "resume after a crash or an error (nothing is embedded twice but what was in flight), and after a rollback. Follow with migration_status."
    ),
    annotations=writing(),
)
