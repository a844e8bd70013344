"""A migration as it is before and after its swap, its operations carried out here without a driver, and the writes of an app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partialmethod
from typing import Any

import anyio
import pytest

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import Payload, Point, PointId
from qdrant_model_migration.domain.records import Operation, OperationKind
from qdrant_model_migration.errors import Interrupted, MigrationError, Refused
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.finish import plan_finish
from qdrant_model_migration.operations.finish_fields import Action
from qdrant_model_migration.operations.swap_plan import Direction, plan_swap
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import FinishOutcome, FinishPlan, SwapOutcome, SwapPlan, Verification
from qdrant_model_migration.worker.operations import carry_out
from qdrant_model_migration.worker.pipeline import Pipeline
from tests.conftest import Backend
from tests.qdrant.seeds import seed
from tests.qdrant.works import acting_once, work_on
from tests.servers import QdrantServer

OLD_VECTOR = [0.1] * 64


def backend_of(server: QdrantServer, name: str) -> Backend:
    """A server as a user configures it, with a ledger of the test's own."""
    environment = {**server.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    return Backend(name=f"server {server.version}", environment=environment, version=server.version)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pauses that give a real app time to write; here it writes when the test says so."""
    for constant in ("catch_up.SETTLE_S", "sweep.PAUSE_S", "finish.WATCH_S"):
        monkeypatch.setattr(f"qdrant_model_migration.operations.{constant}", 0.0)
    monkeypatch.setattr(Gateway, "wait_until_ready", partialmethod(Gateway.wait_until_ready, every_s=0.05))


async def backfilled(
    context: OperationContext, name: str, *, seeded: dict[str, Any] | None = None, strict_mode: dict[str, Any] | None = None, **fields: Any
) -> Work:
    """A source with an alias, and a target that holds it all."""
    source = f"{name}-docs"
    await seed(context, source, **{"points": 40, **(seeded or {})})
    gateway = await context.gateway()
    await gateway.point_alias(f"{name}-alias", source)
    if strict_mode is not None:
        await gateway.update(source, {"strict_mode": strict_mode})
    work = await work_on(context, source, **fields)
    await Pipeline(work, is_stopping=lambda: False).run()
    await gateway.update(work.migration.target.collection, {"optimizers": work.migration.restore})
    return work


async def verified(context: OperationContext, name: str, **fields: Any) -> Work:
    """Backfilled and proven complete."""
    work = await backfilled(context, name, **fields)
    found = await verify(work)
    assert found.is_complete, found
    return work


async def swapped(context: OperationContext, name: str, **fields: Any) -> Work:
    """Cut over."""
    work = await verified(context, name, **fields)
    await swap(work)
    return work


# --- operations


async def carried_out(work: Work, kind: OperationKind, arguments: dict[str, Any], *, key: str | None = None) -> dict[str, Any]:
    """The outcome, as the driver records it.

    Raises:
        Refused, MigrationError: as its caller gets it.
    """
    operation = Operation(key=key or kind, kind=kind, arguments=arguments, requested_at=now())
    await carry_out(work, operation)
    found = await work.ledger.operation(work.id, operation.key)
    assert found is not None
    if found.state == "failed":
        raise (Refused if found.is_refusal else MigrationError)(found.error or "")
    assert found.result is not None
    return found.result


async def verify(work: Work, sample: int = 20) -> Verification:
    return Verification.model_validate(await carried_out(work, "verify", {"provenance_sample": sample}))


async def swap_plan(work: Work, direction: Direction = "forward", *, fence: bool = True) -> str:
    return (await planned_swap(work, direction, fence=fence)).code


async def planned_swap(work: Work, direction: Direction = "forward", *, fence: bool = True) -> SwapPlan:
    return await plan_swap(work.context, work.ledger, await work.ledger.migration(work.id), direction, None, fence=fence)


async def swap(work: Work, direction: Direction = "forward", *, code: str | None = None, fence: bool = True) -> SwapOutcome:
    code = code or await swap_plan(work, direction, fence=fence)
    return SwapOutcome.model_validate(await carried_out(work, "swap", {"direction": direction, "alias": None, "code": code}))


async def finish_plan(work: Work, action: Action, *, snapshot_first: bool = False) -> str:
    return (await planned_finish(work, action, snapshot_first=snapshot_first)).code


async def planned_finish(work: Work, action: Action, *, snapshot_first: bool = False) -> FinishPlan:
    return await plan_finish(work.context, await work.ledger.migration(work.id), action, snapshot_first=snapshot_first)


async def finish(work: Work, action: Action, *, snapshot_first: bool = False, code: str | None = None) -> FinishOutcome:
    code = code or await finish_plan(work, action, snapshot_first=snapshot_first)
    arguments = {"action": action, "snapshot_first": snapshot_first, "code": code}
    return FinishOutcome.model_validate(await carried_out(work, "finish", arguments))


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, what: str) -> Iterator[None]:
    """The driver ends when it gets to this function, as one does that is asked to stop."""

    async def stop(*_: Any, **__: Any) -> None:
        raise Interrupted("The driver was asked to stop.")

    with monkeypatch.context() as patch:
        patch.setattr(f"qdrant_model_migration.{what}", stop)
        with pytest.raises(Interrupted):
            yield


Act = Callable[[], Awaitable[None]]


@contextmanager
def acting_before(monkeypatch: pytest.MonkeyPatch, owner: Any, function: str, act: Act) -> Iterator[None]:
    """Let an app act once, right before the function is first called."""
    real = getattr(owner, function)
    acted = anyio.Event()
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, acting_once(real, act, acted))
        yield
    assert acted.is_set()


# --- the app


async def to_source(work: Work, point_id: PointId, payload: Payload) -> None:
    """A writer that was not moved."""
    await work.source.points.write(work.migration.source.collection, [Point(id=point_id, payload=payload, vectors={"": OLD_VECTOR})])


async def to_target(work: Work, point_id: PointId, payload: Payload) -> None:
    """An app that writes through the alias after the swap."""
    vector = await vector_of(work, payload["text"])
    alias = work.migration.source.collection.removesuffix("-docs") + "-alias"
    await work.target.points.write(alias, [Point(id=point_id, payload=payload, vectors={"": vector})])


async def delete(work: Work, point_id: PointId, *, side: str = "source") -> None:
    name = work.migration.source.collection if side == "source" else work.migration.target.collection
    await work.source.points.delete_if(name, point_id, observed={})


async def vector_of(work: Work, words: str) -> list[float]:
    return [float(x) for x in (await (await work.embedder()).embed([words], Side.DOCUMENT))[0]]


async def aliases(work: Work) -> dict[str, str]:
    """Those of this migration."""
    ours = (work.migration.source.collection, work.migration.target.collection)
    return {alias: collection for alias, collection in (await work.target.aliases()).items() if collection in ours}
