"""A driver's hold on one migration, without a driver: a source, its target as planned, and the ledger's record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Point, PointId
from qdrant_model_migration.domain.recipe import Endpoint
from qdrant_model_migration.domain.strategies import STRATEGY
from qdrant_model_migration.domain.target import plan_target
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.work import Work, open_work

MODEL = "builtin:hashing-32"


async def work_on(
    context: OperationContext,
    source: str,
    *,
    vector: str = "",
    new_name: str | None = None,
    model: str = MODEL,
    text_field: str = "text",
    strategy: str = "new_collection",
    check: Callable[[], None] = lambda: None,
    **fields: Any,
) -> Work:
    """Create `<source>-new` as planned, record the migration, and hold it."""
    gateway = await context.gateway()
    ledger = await context.ledger()
    embedder = await context.catalogue.load(model)
    described = await gateway.describe(source)
    plan = plan_target(
        described,
        described.field_to_replace(vector),
        embedder.spec,
        new_name=vector if new_name is None else new_name,
        text_field=text_field,
        migration_id=f"m-{source}",
        has_metadata=True,
        on_disk=None,
        strategy=STRATEGY[strategy],
    )
    migration = Migration(
        id=f"m-{source}",
        arguments_digest="test",
        created_at=now(),
        strategy=strategy,
        source=Endpoint(collection=source),
        target=Endpoint(collection=f"{source}-new"),
        recipes=plan.recipes,
        model=embedder.spec,
        text_field=text_field,
        create=plan.create,
        restore=plan.restore,
        on_cutover=plan.on_cutover,
        indexes=plan.indexes,
        intended=plan.intended,
        total_points=described.points,
        **{"phase": Phase.BACKFILLED, "writes": "live", **fields},
    )
    await ledger.create()
    assert await ledger.add_migration(migration)
    await gateway.create_collection(migration.target.collection, migration.create)
    for field, index in migration.indexes.items():
        await gateway.create_payload_index(migration.target.collection, field, index)
    return await open_work(context, migration, check)


async def held(work: Work, *, vectors: tuple[str, ...] = ()) -> dict[PointId, Point]:
    """Everything that the target holds, by id."""
    points, offset = await work.target.points.scroll(work.migration.target.collection, offset=None, limit=1000, vectors=vectors)
    assert offset is None
    return {p.id: p for p in points}


def acting_once(real: Callable[..., Awaitable[Any]], act: Callable[[], Awaitable[Any]], acted: anyio.Event) -> Callable[..., Any]:
    """A function before whose first call an app acts."""

    async def acting(*arguments: Any, **options: Any) -> Any:
        if not acted.is_set():
            acted.set()
            await act()
        return await real(*arguments, **options)

    return acting


@asynccontextmanager
async def between_the_looks(work: Work, act: Callable[[], Any]) -> AsyncIterator[None]:
    """Let an app act after the first look at a difference and before the second."""
    retrieve = work.source.points.retrieve
    acted = anyio.Event()
    work.source.points.retrieve = acting_once(retrieve, act, acted)  # type: ignore[method-assign]
    try:
        yield
    finally:
        work.source.points.retrieve = retrieve  # type: ignore[method-assign]
        assert acted.is_set()
