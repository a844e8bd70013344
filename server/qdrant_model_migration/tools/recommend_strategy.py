"""Tool recommend_strategy."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from pydantic import Field

from qdrant_model_migration.results import RecommendResult
from qdrant_model_migration.tools.support import Connection, ToolSpec, app_of, read_only

Goal = Literal["replace_model", "compare_models", "add_sparse", "add_multivector", "shrink_vectors", "change_quantization"]


async def recommend_strategy(
    ctx: Context[Any, Any],
    collection: Annotated[str, Field(description="a collection or alias", max_length=255)],
    goal: Annotated[Goal, Field(description="what the person wants to reach")],
    model: Annotated[
        str | None, Field(description="the new model, 'provider:model'; leave out to list the usable ones", max_length=200)
    ] = None,
    current_model: Annotated[
        str | None, Field(description="the model of the stored vectors, if known; it is tested before it is believed", max_length=200)
    ] = None,
    text_field: Annotated[
        str | None, Field(description="payload field, dotted path or template '{title}\\n{body}'", max_length=500)
    ] = None,
    texts_file: Annotated[
        str | None, Field(description="JSONL or Parquet with 'id' and text, when the payload holds none", max_length=500)
    ] = None,
    vector: Annotated[str | None, Field(description="the vector field to replace, when there are several", max_length=255)] = None,
    writes: Annotated[Literal["frozen", "dual_write", "live"], Field(description="whether the app writes meanwhile, and how")] = "live",
    readers: Annotated[
        Literal["one_deploy", "rolling", "self_resolving"], Field(description="how the app's readers change")
    ] = "one_deploy",
    connection: Connection = None,
    target_connection: Annotated[
        str | None, Field(description="another configured server to take the target; the source's when left out", max_length=100)
    ] = None,
) -> RecommendResult:
    from qdrant_model_migration.operations.recommend import recommend

    return await recommend(
        app_of(ctx).context,
        collection=collection,
        goal=goal,
        model=model,
        current_model=current_model,
        text_field=text_field,
        texts_file=texts_file,
        vector=vector,
        writes=writes,
        readers=readers,
        connection=connection,
        target_connection=target_connection,
    )


SPEC = ToolSpec(
    fn=recommend_strategy,
    title="Recommend a migration strategy",
    description=(
        "Rank the ways to reach a goal (new model, hybrid search, smaller vectors) for one collection, each with reasons, refusals, risks and a "
        "decision card: points, tokens, time, cost, disk, RAM, what changes for the app, how to undo. Use it after inspect_collection and show "
        "the card before create_target. With current_model it re-embeds 32 texts to test whether the stored vectors are that model's. Without a "
        "model it lists the usable ones; with goal='shrink_vectors' it measures what shortened vectors still find. It reads only; a model "
        "that the server computes (qdrant:…, other than bm25) is tried on scratch collections, which are removed."
    ),
    annotations=read_only(),
)
