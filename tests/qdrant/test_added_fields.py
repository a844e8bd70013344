"""Is a field that is added in place, or removed, always the migration's own? Somebody else's of the same name is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from qdrant_model_migration.domain.collection import FieldKind, VectorField
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.errors import AlreadyExists, Refused
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.create_target import Request, create_target
from qdrant_model_migration.operations.work import open_work
from qdrant_model_migration.qdrant.gateway import Gateway
from tests.conftest import Backend
from tests.qdrant.cutovers import finish, finish_plan
from tests.qdrant.seeds import NEW, opened, seed

FIELD = VectorField(name="new", kind=FieldKind.DENSE, config={"size": 128, "distance": "Cosine"})


class Killed(BaseException):
    """The process is gone: nothing of its own is cleaned up."""


@asynccontextmanager
async def collection(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OperationContext]:
    """Of the embedded database, which can add a field to it."""
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "qdrant")}, version=None)
    async with opened(backend, monkeypatch) as context:

        async def nobody(_: Migration) -> None:
            """The test drives."""

        context.ensure_driver = nobody
        await seed(context, name, points=20, vector="old")
        yield context


def asked(name: str, **more: Any) -> Request:
    values = {"strategy": "named_vector", "model": NEW, "new_vector": "new", "text_field": "text", "writes": "frozen", **more}
    return Request(collection=name, **values)


@contextmanager
def killed_before(step: str, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process dies when it would take this step on the collection; on the scratch collections of the proofs it is taken."""
    real = getattr(Gateway, step)

    async def die(self: Gateway, collection: str, *arguments: Any) -> None:
        if collection == name:
            raise Killed
        await real(self, collection, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Gateway, step, die)
        with pytest.raises(Killed):
            yield


async def add_by_hand(gateway: Gateway, name: str) -> None:
    """The app's own field of the same name and shape, with a vector in it."""
    await gateway.add_vector(name, FIELD)
    await gateway.vectors.fill(name, "new", [Point(id=1, payload={}, vectors={"new": [1.0, *[0.0] * 127]})])


async def has_apps_field(gateway: Gateway, name: str) -> bool:
    return "new" in (await gateway.points.retrieve(name, [1], vectors=["new"]))[1].vectors


async def recorded(context: OperationContext) -> Migration:
    (migration,) = await (await context.ledger()).migrations()
    return migration


async def test_a_field_that_somebody_added_after_the_crash_is_not_taken_for_ours(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collection(tmp_path, name, monkeypatch) as context:
        gateway = await context.gateway()
        with killed_before("add_vector", name, monkeypatch):
            await create_target(context, asked(name))
        assert (await recorded(context)).phase is Phase.PLANNED
        await add_by_hand(gateway, name)
        with pytest.raises(AlreadyExists, match="this migration did not add"):
            await create_target(context, asked(name))
        assert await has_apps_field(gateway, name)
        assert (await recorded(context)).phase is Phase.ABANDONED


async def test_discarding_what_was_never_added_removes_nobodys_field(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with collection(tmp_path, name, monkeypatch) as context:
        gateway = await context.gateway()
        with killed_before("add_vector", name, monkeypatch):
            await create_target(context, asked(name))
        await add_by_hand(gateway, name)
        work = await open_work(context, await recorded(context), lambda: None)
        ended = await finish(work, "discard_new")
        assert ended.deleted == []
        assert any("nothing shows that this migration added it" in line for line in ended.kept)
        assert await has_apps_field(gateway, name)
        assert (await recorded(context)).phase is Phase.ABANDONED


async def test_a_field_that_another_call_adds_at_the_same_moment_is_not_removed(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second request is refused as the first one's field is there; what it cleans up is not that."""
    async with collection(tmp_path, name, monkeypatch) as context:
        gateway = await context.gateway()
        real = Gateway.add_vector

        async def late(self: Gateway, collection: str, field: VectorField) -> None:
            if collection == name:
                await real(self, collection, FIELD)
            await real(self, collection, field)

        with monkeypatch.context() as patch:
            patch.setattr(Gateway, "add_vector", late)
            made = await create_target(context, asked(name))
        assert made.phase == "target_created"
        assert (await gateway.describe(name)).field("new") is not None


async def test_a_field_that_was_added_before_the_crash_is_gone_on_with_and_discarded(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collection(tmp_path, name, monkeypatch) as context:
        gateway = await context.gateway()
        with killed_before("tune_vector", name, monkeypatch):
            await create_target(context, asked(name))
        made = await create_target(context, asked(name))
        assert made.phase == "target_created"
        work = await open_work(context, await recorded(context), lambda: None)
        ended = await finish(work, "discard_new")
        assert ended.deleted == [f"vector 'new' of '{name}'"]
        left = await gateway.describe(name)
        assert [f.name for f in left.fields] == ["old"]
        assert left.metadata["model_migration"]["vectors"] == {}


async def test_the_old_field_stays_while_another_migration_reads_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first migration ended with the old field kept; the second copies it to another collection."""
    async with collection(tmp_path, name, monkeypatch) as context:
        made = await create_target(context, asked(name))
        ledger = await context.ledger()
        migration = await ledger.change(made.migration_id, lambda m: m.model_copy(update={"phase": Phase.VERIFIED}))
        work = await open_work(context, migration, lambda: None)
        await finish(work, "keep_old")
        second = await create_target(context, asked(name, strategy="side_by_side", vector="old", new_vector="third"))
        with pytest.raises(Refused, match=f"vector 'old' of '{name}' is needed by the open migration {second.migration_id}"):
            await finish_plan(work, "delete_old")
