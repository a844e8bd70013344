"""Is anything lost where a migration meets a person, another app or a crash at an unlucky moment?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Payload, Point
from qdrant_model_migration.domain.ranges import Range
from qdrant_model_migration.domain.records import Operation
from qdrant_model_migration.domain.verification import wrong_share_upper_bound
from qdrant_model_migration.errors import AlreadyExists, MigrationError, Refused, RequestRejected
from qdrant_model_migration.operations import requests
from qdrant_model_migration.operations import swap as swap_operation
from qdrant_model_migration.operations.backfill import start_backfill
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.create_target import Request, create_target
from qdrant_model_migration.operations.repair import repair
from qdrant_model_migration.operations.verify import verify as verify_only
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.qdrant.ledger import STALE_S
from qdrant_model_migration.worker import operations as handlers
from qdrant_model_migration.worker.driver import Driver
from tests.conftest import Backend
from tests.qdrant.cutovers import (
    OLD_VECTOR,
    acting_before,
    aliases,
    backend_of,
    backfilled,
    carried_out,
    delete,
    finish,
    finish_plan,
    impatient,
    interrupted,
    swap,
    swap_plan,
    swapped,
    to_source,
    to_target,
    verified,
    verify,
)
from tests.qdrant.seeds import opened, seed, text
from tests.qdrant.works import MODEL, held, work_on
from tests.servers import QdrantServer


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)


@pytest.fixture
def backend(server: QdrantServer, name: str) -> Backend:
    """Each server in turn."""
    return backend_of(server, name)


@pytest.fixture
def one_server(server_1_17: QdrantServer, name: str) -> Backend:
    """For what no version changes."""
    return backend_of(server_1_17, name)


async def _nobody(_: Migration) -> None:
    """Starts no driver: the test drives."""


@asynccontextmanager
async def driving(work: Work) -> AsyncIterator[Driver]:
    """A driver in this process."""
    stopped = anyio.Event()
    work.context.ensure_driver = _nobody
    driver = Driver(work.context, work.id, is_stopping=stopped.is_set)
    async with anyio.create_task_group() as group:
        group.start_soon(driver.run)
        yield driver
        stopped.set()


async def driven_until(work: Work, *phases: Phase) -> Migration:
    """Drive until it is in one of these phases, or stopped with an error."""
    async with driving(work):
        with anyio.fail_after(30):
            while True:
                found = await work.ledger.migration(work.id)
                if found.phase in phases or found.error:
                    break
                await anyio.sleep(0.05)
    work.migration = found
    return found


async def settled(work: Work) -> None:
    """Drive until every operation is over."""
    async with driving(work):
        with anyio.fail_after(30):
            while any(o.state in ("requested", "running") for o in await work.ledger.operations(work.id)):  # noqa: ASYNC110 - the driver's doing
                await anyio.sleep(0.05)


# --- rollback


async def test_a_backfill_after_a_rollback_stops_before_it_undoes_a_write_through_the_alias(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend, monkeypatch) as context:
        work = await swapped(context, name)
        await to_target(work, 7, {"text": "through the alias"})
        await to_target(work, 77, {"text": "inserted through the alias"})
        await swap(work, "back")
        work.context.ensure_driver = _nobody
        for _ in range(2):
            await start_backfill(context, migration_id=work.id)
            found = await driven_until(work, Phase.BACKFILLED)
            assert found.phase is Phase.ROLLED_BACK
            assert found.error is not None
            assert "2 points" in found.error
            assert "i:7 " in found.error
            assert "i:77 " in found.error
            target = await held(work)
            assert (target[7].payload["text"], target[77].payload["text"]) == ("through the alias", "inserted through the alias")
        # The way out that the refusal names: what was copied by hand is no longer newer.
        await to_source(work, 7, {"text": "through the alias"})
        await to_source(work, 77, {"text": "inserted through the alias"})
        await start_backfill(context, migration_id=work.id)
        assert (await driven_until(work, Phase.BACKFILLED)).phase is Phase.BACKFILLED


async def test_a_backfill_after_a_rollback_without_newer_writes_goes_on_to_a_new_swap(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend, monkeypatch) as context:
        work = await swapped(context, name)
        await swap(work, "back")
        await to_source(work, 7, {"text": "edited since"})
        await delete(work, 8)
        work.context.ensure_driver = _nobody
        await start_backfill(context, migration_id=work.id)
        found = await driven_until(work, Phase.BACKFILLED)
        assert (found.phase, found.error, found.cutover) == (Phase.BACKFILLED, None, None)
        assert (await verify(work)).is_complete
        assert (await swap(work)).current == work.migration.target.collection
        target = await held(work)
    assert target[7].payload["text"] == "edited since"
    assert 8 not in target


def textless(n: int) -> Payload:
    """Three points hold nothing to embed: neither side of a swap has a vector of the new model for them."""
    return {"n": n} if n in (5, 6, 7) else {"text": text(n), "n": n}


async def test_a_late_write_to_a_point_without_a_text_is_carried_over_and_one_through_the_alias_wins(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches do not find a point without a vector, and so do not tell the number of its last operation."""
    async with opened(backend, monkeypatch) as context:
        work = await verified(context, name, seeded={"payload": textless})

        async def late() -> None:
            await to_source(work, 5, {"n": "late"})
            await to_source(work, 6, {"n": "late"})

        async def newer() -> None:
            await work.target.points.write(work.migration.target.collection, [Point(id=6, payload={"n": "through the alias"})])
            await work.target.points.delete_if(work.migration.target.collection, 7, observed={})

        code = await swap_plan(work, fence=False)
        with acting_before(monkeypatch, swap_operation, "_move", late), acting_before(monkeypatch, swap_operation, "_swept", newer):
            outcome = await swap(work, code=code)
        target = await held(work)
    gap = outcome.write_gap
    assert (gap.carried_over, gap.superseded, gap.unresolved) == (1, 1, 0)
    assert (target[5].payload, target[6].payload) == ({"n": "late"}, {"n": "through the alias"})
    assert 7 not in target


async def test_after_a_rollback_an_edit_of_a_point_without_a_text_is_told_from_a_write_through_the_alias(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend, monkeypatch) as context:
        work = await swapped(context, name, seeded={"payload": textless})
        await swap(work, "back")
        await to_source(work, 5, {"n": "edited since"})
        work.context.ensure_driver = _nobody
        await start_backfill(context, migration_id=work.id)
        found = await driven_until(work, Phase.BACKFILLED)
        target = await held(work)
    assert (found.phase, found.error) == (Phase.BACKFILLED, None)
    assert target[5].payload == {"n": "edited since"}


async def test_after_a_rollback_between_sharded_collections_the_refusal_does_not_blame_the_alias(
    one_server: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(one_server, monkeypatch) as context:
        work = await swapped(context, name, seeded={"create": {"shard_number": 2}})
        await swap(work, "back")
        await to_source(work, 7, {"text": "an ordinary write to the source"})
        work.context.ensure_driver = _nobody
        await start_backfill(context, migration_id=work.id)
        found = await driven_until(work, Phase.BACKFILLED)
    assert found.error is not None
    assert "1 points" in found.error
    assert "cannot be told which side is newer" in found.error
    assert "through the alias" not in found.error


# --- the name of the target


async def taken_by_another_app(context: OperationContext, target: str) -> None:
    gateway = await context.gateway()
    await gateway.create_collection(target, {"vectors": {"size": 32, "distance": "Cosine"}})
    await gateway.points.write(target, [Point(id=1, payload={"theirs": True}, vectors={"": [0.1] * 32})])


@asynccontextmanager
async def creating(context: OperationContext, monkeypatch: pytest.MonkeyPatch, target: str, act: Any) -> AsyncIterator[None]:
    """Let `act` happen between the checks and our creation of this target."""
    real = Gateway.create_collection
    is_done = False

    async def create(self: Gateway, name: str, create: dict[str, Any]) -> None:
        nonlocal is_done
        if name == target and not is_done:
            is_done = True
            await act()
        await real(self, name, create)

    with monkeypatch.context() as patch:
        patch.setattr(Gateway, "create_collection", create)
        yield
    assert is_done


@pytest.mark.parametrize("is_running_already", [False, True], ids=["planned", "another call was faster"])
async def test_a_target_name_taken_meanwhile_leaves_the_other_collection_alone(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch, *, is_running_already: bool
) -> None:
    async with opened(backend, monkeypatch) as context:
        await seed(context, f"{name}-docs")
        gateway, ledger = await context.gateway(), await context.ledger()
        target = f"{name}-new"

        async def take() -> None:
            await taken_by_another_app(context, target)
            if is_running_already:
                (planned,) = await ledger.migrations()
                await ledger.change(planned.id, lambda m: m.model_copy(update={"phase": Phase.BACKFILLING}))

        request = Request(collection=f"{name}-docs", strategy="new_collection", model=MODEL, text_field="text", target=target)
        async with creating(context, monkeypatch, target, take):
            with pytest.raises(AlreadyExists, match="nothing was removed"):
                await create_target(context, request)
        (found,) = await ledger.migrations()
        assert found.phase is (Phase.BACKFILLING if is_running_already else Phase.ABANDONED)
        theirs, _ = await gateway.points.scroll(target, offset=None, limit=10)
        assert [(p.id, p.payload) for p in theirs] == [(1, {"theirs": True})]


async def test_a_target_whose_creation_was_not_answered_is_taken_up(backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again, and the server says that the collection exists."""
    async with opened(backend, monkeypatch) as context:
        await seed(context, f"{name}-docs")
        gateway, ledger = await context.gateway(), await context.ledger()
        target = f"{name}-new"

        async def unanswered() -> None:
            (planned,) = await ledger.migrations()
            await gateway.create_collection(target, planned.create)

        request = Request(collection=f"{name}-docs", strategy="new_collection", model=MODEL, text_field="text", target=target)
        async with creating(context, monkeypatch, target, unanswered):
            created = await create_target(context, request)
        (found,) = await ledger.migrations()
    assert (created.migration_id, found.phase, found.intent) == (found.id, Phase.TARGET_CREATED, None)


async def test_discarding_a_planned_migration_never_deletes_a_collection_of_others_even_when_taken_up_again(
    one_server: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(one_server, monkeypatch) as context:
        await seed(context, f"{name}-docs")
        work = await work_on(context, f"{name}-docs", phase=Phase.PLANNED)
        target = work.migration.target.collection
        await work.target.delete_collection(target)
        await taken_by_another_app(context, target)
        code = await finish_plan(work, "discard_new")
        with interrupted(monkeypatch, "qdrant.ledger.Ledger.use_plan"):
            await finish(work, "discard_new", code=code)
        outcome = await finish(work, "discard_new", code=code)
        assert outcome.deleted == []
        assert (await work.ledger.migration(work.id)).phase is Phase.ABANDONED
        assert await work.target.points.count(target) == 1


# --- the end


async def test_a_forgotten_writer_after_keep_old_is_carried_over_and_refuses_the_deletion_once(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend, monkeypatch) as context:
        work = await swapped(context, name)
        source = work.migration.source.collection
        assert (await finish(work, "keep_old")).deleted == []
        await to_source(work, 7, {"text": "edited by a forgotten writer"})
        await to_source(work, 77, {"text": "inserted by a forgotten writer"})
        with pytest.raises(Refused, match=r"Nothing was deleted: .* got 2 operations .* 2 late writes were just carried over"):
            await finish(work, "delete_old")
        assert await work.source.exists(source)
        outcome = await finish(work, "delete_old", snapshot_first=True)
        assert outcome.deleted == [source]
        assert outcome.snapshot is not None
        target = await held(work)
        assert not await work.source.exists(source)
    assert target[7].payload["text"] == "edited by a forgotten writer"
    assert target[77].payload["text"] == "inserted by a forgotten writer"
    assert len(target) == 41


async def test_a_write_while_the_snapshot_is_made_refuses_the_deletion_and_keeps_the_snapshot(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend, monkeypatch) as context:
        work = await swapped(context, name)
        source = work.migration.source.collection
        with (
            acting_before(monkeypatch, work.target, "snapshot", lambda: to_source(work, 77, {"text": "during the snapshot"})),
            pytest.raises(Refused, match=r"Nothing was deleted: .* got 1 operations while its snapshot was made.*snapshot is kept"),
        ):
            await finish(work, "delete_old", snapshot_first=True)
        assert 77 in await work.source.points.existing(source, [77])
        kept = await work.source.call(lambda: work.source.call.rest.list_snapshots(source))
        assert len(kept) == 1
        assert work.migration.intent is None
        with pytest.raises(Refused, match="1 late writes were just carried over"):
            await finish(work, "delete_old", snapshot_first=True)
        assert (await held(work))[77].payload["text"] == "during the snapshot"
        assert (await finish(work, "delete_old")).deleted == [source]


async def test_an_interrupted_deletion_whose_plan_expired_is_not_carried_out(
    one_server: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(one_server, monkeypatch) as context:
        work = await swapped(context, name)
        code = await finish_plan(work, "delete_old", snapshot_first=True)
        with interrupted(monkeypatch, "qdrant.gateway.Gateway.snapshot"):
            await finish(work, "delete_old", snapshot_first=True, code=code)
        plan = await work.ledger.plan(work.id, code)
        assert plan is not None
        assert plan.is_used
        await work.ledger.records.write("plan", work.id, code, plan.model_copy(update={"expires_at": 0.0}))
        with pytest.raises(Refused, match="plan expired since"):
            await finish(work, "delete_old", snapshot_first=True, code=code)
        found = await work.ledger.migration(work.id)
        assert (found.phase, found.intent) == (Phase.CUT_OVER, None)
        assert await work.source.exists(work.migration.source.collection)
        assert (await finish(work, "delete_old")).deleted == [work.migration.source.collection]


async def test_the_source_of_another_open_migration_is_not_deleted(one_server: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(one_server, monkeypatch) as context:
        work = await swapped(context, name)
        other = work.migration.model_copy(update={"id": "m-other", "phase": Phase.BACKFILLING, "cutover": None})
        other = other.model_copy(update={"target": other.target.model_copy(update={"collection": f"{name}-elsewhere"})})
        await work.ledger.add_migration(other)
        with pytest.raises(Refused, match="belongs to the open migration m-other"):
            await finish_plan(work, "delete_old")
        await work.ledger.change("m-other", lambda m: m.model_copy(update={"phase": Phase.ABANDONED}))
        assert (await finish(work, "delete_old")).deleted == [work.migration.source.collection]


# --- recorded operations


async def test_an_unexpected_failure_ends_its_operation_and_the_driver_goes_on(
    one_server: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(one_server, monkeypatch) as context:
        work = await backfilled(context, name)
        tries = 0

        async def broken(work: Work, arguments: dict[str, Any]) -> Any:
            nonlocal tries
            tries += 1
            raise KeyError("secret text")

        async with driving(work):
            with monkeypatch.context() as patch:
                patch.setitem(handlers._HANDLERS, "compare", broken)
                with pytest.raises(MigrationError, match=r"failed unexpectedly \(KeyError\)") as raised:
                    await requests.carry_out(context, work.migration, "compare", {})
                assert "secret" not in str(raised.value)
            verified = await requests.carry_out(context, work.migration, "verify", {"provenance_sample": 5})
        found = await work.ledger.migration(work.id)
        (failed,) = [o for o in await work.ledger.operations(work.id) if o.kind == "compare"]
    assert (tries, failed.state, failed.is_refusal) == (1, "failed", False)
    assert (verified.state, found.phase, found.error) == ("done", Phase.VERIFIED, None)


async def test_of_two_agreed_changes_the_last_word_is_carried_out_and_the_other_is_refused(
    one_server: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The swap died before its first move; the person then agreed to give the new collection up."""
    async with opened(one_server, monkeypatch) as context:
        work = await verified(context, name)
        code = await swap_plan(work)
        with interrupted(monkeypatch, "qdrant.gateway.Gateway.point_alias"):
            await swap(work, code=code)
        assert work.migration.intent == "swapping"
        last = await finish_plan(work, "discard_new")
        arguments = {"action": "discard_new", "snapshot_first": False, "code": last}
        await work.ledger.request(work.id, Operation(key="finish", kind="finish", arguments=arguments, requested_at=now()))
        found = await driven_until(work, Phase.ABANDONED, Phase.CUT_OVER)
        first, second = await work.ledger.operation(work.id, "swap"), await work.ledger.operation(work.id, "finish")
        assert (found.phase, found.intent) == (Phase.ABANDONED, None)
        assert first is not None
        assert (first.state, first.is_refusal) == ("failed", True)
        assert first.error == "Nothing was changed: another plan was agreed to since."
        assert second is not None
        assert second.state == "done"
        assert set((await aliases(work)).values()) == {work.migration.source.collection}
        assert not await work.target.exists(work.migration.target.collection)


async def test_a_swap_that_moved_an_alias_is_completed_before_anything_agreed_to_since(
    one_server: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(one_server, monkeypatch) as context:
        work = await verified(context, name)
        code, given_up = await swap_plan(work), await finish_plan(work, "discard_new")
        with interrupted(monkeypatch, "qdrant.ledger.Ledger.use_plan"):
            await swap(work, code=code)
        arguments = {"action": "discard_new", "snapshot_first": False, "code": given_up}
        await work.ledger.request(work.id, Operation(key="finish", kind="finish", arguments=arguments, requested_at=now()))
        await settled(work)
        first, second = await work.ledger.operation(work.id, "swap"), await work.ledger.operation(work.id, "finish")
        assert first is not None
        assert second is not None
        assert (first.state, second.state, second.is_refusal) == ("done", "failed", True)
        assert set((await aliases(work)).values()) == {work.migration.target.collection}
        assert await work.target.exists(work.migration.target.collection)


@pytest.mark.parametrize(
    "died", ["qdrant.gateway.Gateway.point_alias", "qdrant.ledger.Ledger.use_plan"], ids=["before the move", "after it"]
)
async def test_of_a_rollback_that_died_and_an_end_agreed_to_since_the_records_say_what_is_so(
    one_server: Backend, name: str, monkeypatch: pytest.MonkeyPatch, died: str
) -> None:
    """Aliases that are where they were before the swap have been moved, when the direction is back."""
    async with opened(one_server, monkeypatch) as context:
        work = await swapped(context, name)
        code, last = await swap_plan(work, "back"), await finish_plan(work, "keep_old")
        with interrupted(monkeypatch, died):
            await swap(work, "back", code=code)
        arguments = {"action": "keep_old", "snapshot_first": False, "code": last}
        await work.ledger.request(work.id, Operation(key="finish", kind="finish", arguments=arguments, requested_at=now()))
        await settled(work)
        found = await work.ledger.migration(work.id)
        first, second = await work.ledger.operation(work.id, "swap"), await work.ledger.operation(work.id, "finish")
        where = set((await aliases(work)).values())
    assert first is not None
    assert second is not None
    if died.endswith("use_plan"):
        assert (first.state, second.state, found.phase) == ("done", "failed", Phase.ROLLED_BACK)
        assert where == {work.migration.source.collection}
    else:
        assert (first.state, second.state, found.phase) == ("failed", "done", Phase.FINISHED)
        assert where == {work.migration.target.collection}
    assert found.intent is None


@pytest.mark.parametrize(("age_s", "is_fresh"), [(STALE_S / 2, True), (STALE_S + 60, False)])
async def test_an_outcome_that_nobody_fetched_in_time_is_not_given_out_as_fresh(
    one_server: Backend, name: str, monkeypatch: pytest.MonkeyPatch, age_s: float, *, is_fresh: bool
) -> None:
    async with opened(one_server, monkeypatch) as context:
        ledger = await context.ledger()
        await ledger.create()
        then = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
        wanted = Operation(key="verify", kind="verify", requested_at=then)
        await ledger.request("m-1", wanted)
        await ledger.save_operation("m-1", wanted.model_copy(update={"state": "done", "finished_at": then, "result": {}}))
        again = await ledger.request("m-1", wanted.model_copy(update={"requested_at": now()}))
        running = await ledger.request("m-1", wanted)
    assert again.state == ("done" if is_fresh else "requested")
    assert running.state == again.state


# --- other sources


STRICT = {"enabled": True, "search_allow_exact": False, "max_query_limit": 100}


async def test_a_source_under_strict_mode_goes_all_the_way(backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More late writes than a query may return, and no exact search to read their versions with."""
    async with opened(backend, monkeypatch) as context:
        work = await verified(context, name, seeded={"points": 300}, strict_mode=STRICT)
        await swap(work)
        late = [Point(id=n, payload={"text": f"late {n}"}, vectors={"": OLD_VECTOR}) for n in range(100, 400)]
        await work.source.points.write(work.migration.source.collection, late)
        await to_target(work, 5, {"text": "through the alias"})
        with pytest.raises(Refused, match="300 late writes were just carried over"):
            await finish(work, "delete_old")
        assert (await finish(work, "delete_old")).deleted == [work.migration.source.collection]
        described = await work.target.describe(work.migration.target.collection)
        found: dict[Any, Point] = {}
        offset = None
        while True:
            page, offset = await work.target.points.scroll(described.name, offset=offset, limit=100)
            found.update({p.id: p for p in page})
            if offset is None:
                break
    assert described.config["strict_mode_config"]["max_query_limit"] == 100
    assert found.keys() == set(range(400))
    assert {n: found[n].payload["text"] for n in range(100, 400)} == {n: f"late {n}" for n in range(100, 400)}
    assert found[5].payload["text"] == "through the alias"


async def test_a_write_to_a_frozen_source_after_the_verification_refuses_the_swap_until_it_is_repaired(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend, monkeypatch) as context:
        work = await verified(context, name, writes="frozen")
        await to_source(work, 77, {"text": "not so frozen"})
        code = await swap_plan(work)
        with pytest.raises(Refused, match=rf"frozen, but the source has 41 points .*repair_target\(migration_id='{work.id}'\)"):
            await swap(work, code=code)
        assert (await work.ledger.migration(work.id)).phase is Phase.BACKFILLED
        assert set((await aliases(work)).values()) == {work.migration.source.collection}
        repaired = await carried_out(work, "repair", {"provenance_sample": 20})
        assert (repaired["repaired"]["missing"], repaired["verification"]["is_complete"]) == (1, True)
        assert (await verify(work)).is_complete
        assert (await swap(work)).current == work.migration.target.collection
        assert 77 in await held(work)


async def test_many_equal_texts_under_quantization_do_not_make_an_index_look_unready(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A point need not be among the first ten of its own vector when a hundred others have the same, nor be reached by the graph at all."""
    quantized = {
        "quantization_config": {"scalar": {"type": "int8", "always_ram": True}},
        "optimizers_config": {"indexing_threshold": 10, "default_segment_number": 1},
        "hnsw_config": {"m": 8, "full_scan_threshold": 10},
    }
    seeded = {
        "points": 600,
        "create": quantized,
        "payload": lambda n: {"text": text(n if n % 6 else 0), "n": n},
    }
    async with opened(backend, monkeypatch) as context:
        work = await backfilled(context, name, seeded=seeded)
        found = await verify(work)
        described = await work.target.describe(work.migration.target.collection)
    assert (found.is_complete, found.is_index_ready, found.problems) == (True, True, [])
    assert described.config["quantization_config"]["scalar"]["type"] == "int8"
    assert described.indexed_vectors


async def test_the_bound_of_the_provenance_rests_on_the_random_draw_only(
    one_server: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suspect that somebody else wrote says nothing about the points that nobody suspects."""
    async with opened(one_server, monkeypatch) as context:
        work = await backfilled(context, name, seeded={"points": 100})
        wrong = Point(id=7, payload={"text": text(7), "n": 7}, vectors={"": [1.0] + [0.0] * 31})
        await work.target.points.write(work.migration.target.collection, [wrong])
        await work.ledger.save_range(work.id, Range(number=0, start=None, end=None, is_done=True, foreign=("i:7",)))
        real = work.target.points.sample

        async def unlucky(*arguments: Any, **options: Any) -> list[Point]:
            return [p for p in await real(*arguments, **options) if p.id != 7]

        monkeypatch.setattr(work.target.points, "sample", unlucky)
        found = (await verify_only(work, provenance_sample=20)).provenance
        assert found.wrong == 1
        assert found.upper_bound == round(wrong_share_upper_bound(0, found.sampled - 1, 100), 6)
        repaired = await repair(work, provenance_sample=20)
    assert (repaired.verification.is_complete, repaired.repaired.bad_vectors) == (True, 1)


async def test_points_skipped_by_policy_are_counted_and_not_recorded_one_by_one(
    one_server: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded = {"payload": lambda n: {"n": n} if n % 4 == 0 else {"text": text(n), "n": n}}
    async with opened(one_server, monkeypatch) as context:
        work = await backfilled(context, name, seeded=seeded, on_missing_text="skip")
        assert await work.ledger.failed(work.id) == []
        found = await verify(work)
        assert (found.is_complete, found.accounted, found.source_points, found.target_points) == (True, 10, 40, 30)
        assert sum(r.skipped for r in await work.ledger.ranges(work.id)) == 10
        assert (await swap(work)).write_gap.carried_over == 0
        assert len(await held(work)) == 30


async def test_a_target_that_could_not_be_finished_is_removed_only_by_the_call_that_made_it(
    one_server: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(one_server, monkeypatch) as context:
        await seed(context, f"{name}-docs")
        gateway, ledger = await context.gateway(), await context.ledger()
        await gateway.create_payload_index(f"{name}-docs", "n", {"data_type": "integer"})

        async def refused(self: Gateway, collection: str, *_: Any) -> None:
            if collection == f"{name}-new":
                raise RequestRejected("No index for you.")

        monkeypatch.setattr(Gateway, "create_payload_index", refused)
        request = Request(collection=f"{name}-docs", strategy="new_collection", model=MODEL, text_field="text", target=f"{name}-new")
        with pytest.raises(RequestRejected, match="nothing is left of it"):
            await create_target(context, request)
        assert not await gateway.exists(f"{name}-new")
        assert [m.phase for m in await ledger.migrations()] == [Phase.ABANDONED]
