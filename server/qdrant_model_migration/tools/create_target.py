"""Tool create_target."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from pydantic import BaseModel, Field

from qdrant_model_migration.results import CreateTargetResult
from qdrant_model_migration.tools.support import Connection, ToolSpec, app_of, reporter, writing


class GateArgument(BaseModel):
    """A comparison that must pass before the swap."""

    metric: str = Field(description="for example 'ndcg@10', 'recall@10' or 'mrr@10'", max_length=40)
    margin: float = Field(default=0.01, ge=0, le=1, description="the loss that is allowed")


async def create_target(
    ctx: Context[Any, Any],
    collection: Annotated[str, Field(description="the source: a collection or alias", max_length=255)],
    strategy: Annotated[str, Field(description="as recommend_strategy named it, for example 'new_collection'", max_length=40)],
    model: Annotated[str | None, Field(description="the new model, 'provider:model[@dimensions]'", max_length=200)] = None,
    text_field: Annotated[
        str | None, Field(description="payload field, dotted path or template '{title}\\n{body}'", max_length=500)
    ] = None,
    texts_file: Annotated[
        str | None,
        Field(
            description="JSONL or Parquet in an allowed directory, keyed by point id, when the payload holds no text; text_field then names its column",
            max_length=500,
        ),
    ] = None,
    target: Annotated[
        str | None,
        Field(description="name of the new collection; one is made up when left out; none in place", min_length=1, max_length=255),
    ] = None,
    vector: Annotated[str | None, Field(description="the vector field to replace, when there are several", max_length=255)] = None,
    new_vector: Annotated[
        str | None, Field(description="name of the new field; made up, or the old name where it is replaced, when left out", max_length=255)
    ] = None,
    dimensions: Annotated[
        int | None, Field(description="shortened output of the model; of truncate: how many numbers are kept", ge=1, le=65_536)
    ] = None,
    current_model: Annotated[
        str | None, Field(description="the model of the stored vectors; needed for comparing old and new", max_length=200)
    ] = None,
    alias: Annotated[
        str | None, Field(description="the alias to move at the cutover; all of the source's when left out", min_length=1, max_length=255)
    ] = None,
    writes: Annotated[Literal["frozen", "dual_write", "live"], Field(description="whether the app writes meanwhile, and how")] = "live",
    readers: Annotated[
        Literal["one_deploy", "rolling", "self_resolving"], Field(description="how the app's readers change")
    ] = "one_deploy",
    on_missing_text: Annotated[
        Literal["payload_only", "skip", "stop"], Field(description="what becomes of points without text")
    ] = "payload_only",
    on_long_text: Annotated[Literal["truncate", "stop"], Field(description="what becomes of texts beyond the model's limit")] = "truncate",
    on_disk: Annotated[bool | None, Field(description="keep the new vectors on disk; as the old ones when left out")] = None,
    quantization: Annotated[
        Literal["scalar", "product", "binary", "off"] | None,
        Field(description="of the new field, or what requantize sets; as the old field's when left out"),
    ] = None,
    sample_size: Annotated[
        int | None, Field(description="of linear_map: points that the map is fitted and judged on", ge=400, le=20_000)
    ] = None,
    gate: Annotated[GateArgument | None, Field(description="a comparison that must pass before the swap")] = None,
    updated_at_field: Annotated[
        str | None,
        Field(
            description="indexed payload field with the time of each write (datetime, or a number since 1970): between full passes, catching up reads only what it says "
            "was written lately; proofs never rely on it",
            max_length=255,
        ),
    ] = None,
    connection: Connection = None,
    target_connection: Annotated[
        str | None,
        Field(description="the connection of the server on which the target is created; beside the source when left out", max_length=100),
    ] = None,
    dry_run: Annotated[bool, Field(description="change nothing; list everything that would appear on the server")] = False,
) -> CreateTargetResult:
    from qdrant_model_migration.domain.recipe import Gate
    from qdrant_model_migration.operations.create_target import Request
    from qdrant_model_migration.operations.create_target import create_target as create

    request = Request(
        collection=collection,
        strategy=strategy,
        model=model,
        text_field=text_field,
        texts_file=texts_file,
        target=target,
        vector=vector,
        new_vector=new_vector,
        dimensions=dimensions,
        current_model=current_model,
        alias=alias,
        writes=writes,
        readers=readers,
        on_missing_text=on_missing_text,
        on_long_text=on_long_text,
        on_disk=on_disk,
        quantization=quantization,
        sample_size=sample_size,
        gate=Gate(metric=gate.metric, margin=gate.margin) if gate else None,
        updated_at_field=updated_at_field,
        connection=connection,
        target_connection=target_connection if target_connection != (connection or "default") else None,
    )
    return await create(app_of(ctx).context, request, dry_run=dry_run, report=reporter(ctx))


SPEC = ToolSpec(
    fn=create_target,
    title="Create the target of a migration",
    description=(
        "Begin a migration by any strategy: prove the rights of the key and what the server can, record the migration, create the empty target with the "
        "source's whole configuration and the new model's vectors (or add the field in place), read it back and list the differences. "
        "Returns the migration_id for all further calls, what the app must change (app_changes: tell the person before the backfill spends anything) and its "
        "code. Use it after the person chose a strategy; with dry_run=true to see what would appear. Points of the source are never changed. The same arguments "
        "again return the same migration."
    ),
    annotations=writing(),
)
