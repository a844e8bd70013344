"""Are the records of migrations written by one winner at a time, whoever else writes and whatever answers are lost?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelSpec
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.ranges import Range
from qdrant_model_migration.domain.recipe import Endpoint, Recipe
from qdrant_model_migration.domain.records import EventRecord, FailedRecord, Lease, Operation, Pace, PlanRecord
from qdrant_model_migration.errors import AlreadyExists, NotFound, Refused
from qdrant_model_migration.operations.plans import issue_plan, redeem
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.qdrant.records import NONCES, PAGE
from tests.conftest import Backend, NewServer
from tests.qdrant.seeds import opened
from tests.servers import QdrantServer


@asynccontextmanager
async def ledger_of(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    async with opened(backend, monkeypatch) as context:
        ledger = await context.ledger()
        await ledger.create()
        yield ledger


def migration(number: int = 1, **changes: Any) -> Migration:
    values: dict[str, Any] = {
        "id": f"m-{number}",
        "arguments_digest": "d",
        "created_at": f"2026-01-0{number}T00:00:00+00:00",
        "strategy": "new_collection",
        "source": Endpoint(collection="docs"),
        "target": Endpoint(collection="docs-new"),
        "recipes": (Recipe(field="", kind="embed", source_field=""),),
        "model": ModelSpec(name="builtin:hashing-32", dimensions=32),
        "text_field": "text",
        "create": {"vectors": {"size": 32, "distance": "Cosine"}, "wide": 2**64 - 1},
        "restore": {},
    }
    return Migration(**{**values, **changes})


def operation(**changes: Any) -> Operation:
    return Operation(**{"key": "verify-1", "kind": "verify", "requested_at": "2026-01-01T00:00:00+00:00", **changes})


async def test_a_migration_is_read_back_as_it_was_written(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        assert await ledger.add_migration(migration(2))
        assert await ledger.add_migration(migration(1))
        assert await ledger.migration("m-2") == migration(2)
        assert await ledger.migrations() == [migration(1), migration(2)]


async def test_an_insert_never_overwrites(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        assert await ledger.add_migration(migration())
        assert not await ledger.add_migration(migration(phase=Phase.ABANDONED))
        assert await ledger.migration("m-1") == migration()
        assert await ledger.add_range("m-1", Range(number=0, end="i:5"))
        assert not await ledger.add_range("m-1", Range(number=0, end="i:9"))
        assert await ledger.ranges("m-1") == [Range(number=0, end="i:5")]


async def test_of_fifty_contenders_one_wins(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        for revision in (0, 1):
            won: list[int] = []

            async def contend(number: int, revision: int = revision, won: list[int] = won) -> None:
                if await ledger.set_lease("m-1", revision, Lease(owner=f"driver {number}")):
                    won.append(number)

            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(contend, number)
            assert len(won) == 1
            assert (await ledger.lease("m-1")) == (revision + 1, Lease(owner=f"driver {won[0]}"))


async def test_a_stale_revision_changes_nothing(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        assert await ledger.set_lease("m-1", 0, Lease(owner="a"))
        assert not await ledger.set_lease("m-1", 0, Lease(owner="b"))
        assert not await ledger.set_lease("m-1", 7, Lease(owner="b"))
        assert await ledger.set_lease("m-1", 1, Lease(owner="b"))
        assert not await ledger.set_lease("m-1", 1, Lease(owner="c"))
        assert (await ledger.lease("m-1"))[1].owner == "b"


async def test_concurrent_changes_are_all_kept(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        await ledger.add_migration(migration())

        async def add() -> None:
            await ledger.change("m-1", lambda m: m.model_copy(update={"total_points": m.total_points + 1}))

        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(add)
        assert (await ledger.migration("m-1")).total_points == 6


async def test_a_write_whose_answer_was_lost_is_recognised_although_others_wrote_since(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client sends the request again; the filter then refuses it, and the nonce tells that the first one got through."""
    environment = {**server.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    async with ledger_of(Backend(name="", environment=environment, version=server.version), monkeypatch) as ledger:
        await ledger.add_migration(migration())
        upsert = ledger.gateway.call.rest.upsert
        asked = 0

        async def answer_lost(*arguments: Any, **options: Any) -> Any:
            nonlocal asked
            asked += 1
            first = await upsert(*arguments, **options)
            if asked > 1:
                return first
            # Others write in between: as many as nonces are carried on, but one.
            for i in range(NONCES - 1):
                await ledger.change("m-1", lambda m, i=i: m.model_copy(update={"text_field": f"other {i}"}))  # type: ignore[misc]
            return await upsert(*arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger.gateway.call.rest, "upsert", answer_lost)
            await ledger.change("m-1", lambda m: m.model_copy(update={"alias": "ours"}))
        found = await ledger.migration("m-1")
    # A change that did not know its own write again would have been made twice, over the others'.
    assert asked == NONCES
    assert (found.alias, found.text_field) == ("ours", f"other {NONCES - 2}")


async def test_an_operation_is_attached_to_until_its_outcome_was_delivered(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        first = operation()
        assert await ledger.request("m-1", first) == first
        later = operation(requested_at="2026-01-02T00:00:00+00:00")
        assert await ledger.request("m-1", later) == first
        await ledger.save_operation("m-1", first.model_copy(update={"state": "running"}))
        assert (await ledger.request("m-1", later)).state == "running"
        await ledger.save_operation("m-1", first.model_copy(update={"state": "done", "result": {"a": 1}}))
        assert (await ledger.request("m-1", later)).result == {"a": 1}
        await ledger.deliver("m-1", first.key)
        assert await ledger.request("m-1", later) == later
        assert await ledger.operations("m-1") == [later]
        assert await ledger.operation("m-1", "verify-2") is None
        with pytest.raises(NotFound):
            await ledger.deliver("m-1", "verify-2")


async def test_a_plan_is_used_once(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        await ledger.add_plan("m-1", PlanRecord(code="docs-1", kind="swap", facts_digest="f", arguments={}, expires_at=1.0))
        won: list[bool] = []

        async def use() -> None:
            won.append(await ledger.use_plan("m-1", "docs-1"))

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(use)
        assert sorted(won) == [False] * 9 + [True]
        assert not await ledger.use_plan("m-1", "docs-2")
        assert not await ledger.use_plan("m-2", "docs-1")


async def test_a_plan_is_used_whoever_writes_it_meanwhile(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong code is counted between the reading and the writing: carried out, the plan would stay open."""
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        await ledger.add_plan("m-1", PlanRecord(code="docs-1", kind="swap", facts_digest="f", arguments={}, expires_at=2.0**40))
        write = ledger.records.set
        came_between: list[int] = []

        async def late(*arguments: Any, **options: Any) -> Any:
            if not came_between:
                came_between.append(1)
                await ledger.count_wrong_code("m-1")
            return await write(*arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger.records, "set", late)
            assert await ledger.use_plan("m-1", "docs-1")
        found = await ledger.plan("m-1", "docs-1")
        assert found is not None
        assert (found.is_used, found.wrong_codes) == (True, 1)


async def test_a_wrong_code_is_counted_at_open_plans_alone(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        plans = {"docs-open": (2.0**40, False), "docs-expired": (1.0, False), "docs-used": (2.0**40, True)}
        for code, (expires_at, is_used) in plans.items():
            record = PlanRecord(code=code, kind="swap", facts_digest="f", arguments={}, expires_at=expires_at, is_used=is_used)
            await ledger.add_plan("m-1", record)
        await ledger.count_wrong_code("m-1")
        assert {p.code: p.wrong_codes for p in await ledger.plans("m-1")} == {"docs-open": 1, "docs-expired": 0, "docs-used": 0}


async def test_the_same_facts_can_be_planned_again_after_a_plan_was_used(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A swap that failed half-way is planned again on the same facts; a code that was used never works again."""
    async with ledger_of(any_qdrant, monkeypatch) as ledger:

        async def issue(digest: str = "ab" * 32) -> str:
            code, _ = await issue_plan(ledger, "m-1", kind="swap", name="docs", digest=digest, arguments={}, text="?")
            return code

        codes = [await issue()]
        assert await issue() == codes[0]
        for _ in range(5):
            assert await redeem(ledger, "m-1", codes[-1], "swap", "ab" * 32) is None
            assert await ledger.use_plan("m-1", codes[-1])
            codes.append(await issue())
        assert len(set(codes)) == 6
        assert await issue("cd" * 32) not in codes
        void = await redeem(ledger, "m-1", codes[0], "swap", "ab" * 32)
        assert void is not None
        assert "carried out already" in void
        changed = await redeem(ledger, "m-1", f" {codes[-1]} ", "swap", "cd" * 32)
        assert changed is not None
        assert "has changed" in changed
        for code, kind in (("docs-000000", "swap"), (codes[-1], "finish")):
            with pytest.raises(Refused, match="no plan"):
                await redeem(ledger, "m-1", code, kind, "ab" * 32)  # type: ignore[arg-type]


async def test_records_of_other_migrations_and_kinds_stay_apart(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        for migration_id in ("m-1", "m-2"):
            await ledger.save_pace(migration_id, Pace(is_paused=migration_id == "m-2"))
            await ledger.add_event(migration_id, EventRecord(at="2026-01-01", event="created", text=migration_id))
            await ledger.add_event(migration_id, EventRecord(at="2025-01-01", event="before", text=migration_id))
        assert (await ledger.pace("m-1"), await ledger.pace("m-3")) == (Pace(), Pace())
        assert (await ledger.pace("m-2")).is_paused
        assert [(e.event, e.text) for e in await ledger.events("m-1")] == [("before", "m-1"), ("created", "m-1")]
        assert await ledger.migrations() == []


async def test_accounted_points_beyond_a_page_are_kept_once_and_removed(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        failed = [FailedRecord(point_id=f"i:{i:04}", reason="r", is_stored=True) for i in range(PAGE + 20)]
        await ledger.add_failed("m-1", failed)
        await ledger.add_failed("m-1", failed[:5])
        assert await ledger.failed("m-1") == failed
        await ledger.remove_failed("m-1", [f.point_id for f in failed[3:]] + ["i:9999"])
        await ledger.remove_failed("m-1", [])
        assert await ledger.failed("m-1") == failed[:3]


async def test_an_unknown_migration_is_answered_with_the_open_ones(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        ledger = await context.ledger()
        assert await ledger.migrations() == []
        with pytest.raises(NotFound, match=r"the ledger, collection .* does not exist"):
            await ledger.migration("m-9")
        await ledger.create()
        await ledger.add_migration(migration(1))
        await ledger.add_migration(migration(2, phase=Phase.FINISHED))
        with pytest.raises(NotFound, match=r"no migration 'm-9'\. Open migrations: m-1 \(docs -> docs-new, planned\)\.$"):
            await ledger.migration("m-9")


async def test_two_may_create_the_ledger_at_once(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        ledger = await context.ledger()
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ledger.create)
        assert await ledger.add_migration(migration())


async def test_a_name_taken_by_documents_is_no_ledger(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        ledger = await context.ledger()
        await ledger.gateway.create_collection(ledger.collection, {"vectors": {"size": 4, "distance": "Dot"}})
        with pytest.raises(AlreadyExists, match="QDRANT_MIGRATION_LEDGER"):
            await ledger.create()


STRICT = {
    "QDRANT__STORAGE__COLLECTION__STRICT_MODE__ENABLED": "true",
    "QDRANT__STORAGE__COLLECTION__STRICT_MODE__UNINDEXED_FILTERING_RETRIEVE": "false",
    "QDRANT__STORAGE__COLLECTION__STRICT_MODE__UNINDEXED_FILTERING_UPDATE": "false",
}
"""What Qdrant Cloud gives to every new collection."""


@pytest.mark.parametrize("version", ["1.16.3", "1.17.0"])
async def test_the_ledger_works_where_every_collection_is_strict(
    new_server: NewServer, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    server = new_server(version, settings=STRICT)
    backend = Backend(name=version, environment=server.environment, version=version)
    async with ledger_of(backend, monkeypatch) as ledger:
        await ledger.add_migration(migration())
        await ledger.change("m-1", lambda m: m.model_copy(update={"alias": "a"}))
        assert (await ledger.migrations())[0].alias == "a"
        assert await ledger.set_lease("m-1", 0, Lease(owner="a"))
        assert not await ledger.set_lease("m-1", 0, Lease(owner="b"))
        assert await ledger.set_lease("m-1", 1, Lease(owner="b"))
