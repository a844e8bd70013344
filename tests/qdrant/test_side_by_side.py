"""What becomes of late writes and of a rollback when the target of `side_by_side` serves while its new field is filled?"""

from __future__ import annotations

from typing import Any

import anyio
import numpy as np
import pytest

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Payload, Point, PointId
from qdrant_model_migration.domain.records import OperationKind
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.backfill import control_backfill, start_backfill
from qdrant_model_migration.operations.requests import carry_out
from qdrant_model_migration.operations.sweep import sweep_until_quiet, written_since
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.worker.driver import Driver
from qdrant_model_migration.worker.lease import take_lease
from qdrant_model_migration.worker.phase_work import PhaseWork
from qdrant_model_migration.worker.stages import fill
from tests.qdrant.cutovers import (
    OLD_VECTOR,
    backend_of,
    delete,
    finish,
    finish_plan,
    impatient,
    swap,
    swap_plan,
    swapped,
    to_source,
    verified,
    verify,
)
from tests.qdrant.seeds import opened, text
from tests.qdrant.works import held
from tests.servers import QdrantServer

BESIDE: dict[str, Any] = {"strategy": "side_by_side", "new_name": "new", "dense_field": ""}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)


async def _nobody(migration: Migration) -> None:
    """Starts no driver: the test drives."""


async def started(work: Work) -> None:
    """As start_backfill does, without a driver."""
    work.context.ensure_driver = _nobody
    await start_backfill(work.context, migration_id=work.id)
    work.migration = await work.ledger.migration(work.id)


async def driven(work: Work) -> None:
    """The backfill as a driver carries it out."""
    lease = await take_lease(work.ledger, work.id, lease_s=30.0)
    try:
        await PhaseWork(lambda: False).backfill(lease, work)
    finally:
        await lease.release()


async def through_the_alias(work: Work, point_id: PointId, payload: Payload) -> None:
    alias = work.migration.source.collection.removesuffix("-docs") + "-alias"
    await work.target.points.write(alias, [Point(id=point_id, payload=payload, vectors={"": OLD_VECTOR})])


async def unlike(work: Work) -> list[str]:
    """Where the target is not the source with the new field filled."""
    model = HashingEmbedder("hashing-32")
    sources, _ = await work.source.points.scroll(work.migration.source.collection, offset=None, limit=1000, vectors=[""])
    targets = await held(work, vectors=("", "new"))
    wrong = [f"{i} only on one side" for i in targets.keys() ^ {p.id for p in sources}]
    for source in sources:
        target = targets.get(source.id)
        if target is None:
            continue
        if (target.payload, target.vectors[""]) != (source.payload, source.vectors[""]):
            wrong.append(f"{source.id} is not the source's")
        new = target.vectors.get("new")
        if new is None or np.abs(np.array(new) - (await model.embed([source.payload["text"]], Side.DOCUMENT))[0]).max() > 1e-5:
            wrong.append(f"{source.id} has no right new vector")
    return wrong


@pytest.mark.parametrize("is_filled", [False, True], ids=["before filling", "after filling"])
async def test_after_a_rollback_the_source_is_caught_up_with_and_the_target_serves_again(
    server: QdrantServer, name: str, is_filled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was written through the alias; that filling numbered every point anew must not look like it."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **BESIDE)
        if is_filled:
            await started(work)
            await fill(work, lambda: False)
        await swap(work, "back")
        await to_source(work, 3, {"text": "edited since the rollback", "n": 3})
        await to_source(work, 60, {"text": "inserted since the rollback"})
        await delete(work, 4)
        await started(work)
        assert (work.migration.phase, work.migration.is_filling) == (Phase.BACKFILLING, is_filled)
        await driven(work)
        assert work.migration.phase is Phase.BACKFILLED
        assert (await verify(work)).is_complete
        await swap(work)
        if not is_filled:
            await started(work)
            await fill(work, lambda: False)
        assert await unlike(work) == []
        found = await verify(work)
        assert (found.is_complete, found.coverage) == (True, 1.0)


async def test_what_a_filled_target_got_while_it_served_is_carried_back_and_forth(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old vectors are copied back as the app wrote them; what is edited since the rollback wins when the target is brought up to date."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **BESIDE)
        await through_the_alias(work, 5, {"text": "written through the alias, then filled"})
        await started(work)
        await fill(work, lambda: False)
        back = await swap(work, "back")
        assert (back.write_gap.carried_over, back.write_gap.unresolved) == (1, 0)
        sources = await work.source.points.retrieve(work.migration.source.collection, [5], vectors=[""])
        targets = await held(work, vectors=("",))
        assert sources[5].payload == {"text": "written through the alias, then filled"}
        assert sources[5].vectors[""] == targets[5].vectors[""]
        await to_source(work, 3, {"text": "edited since the rollback", "n": 3})
        await to_source(work, 5, {"text": "edited since the rollback as well"})
        await started(work)
        await driven(work)
        found = await held(work)
        assert (found[3].payload["text"], found[5].payload["text"]) == ("edited since the rollback", "edited since the rollback as well")


async def test_a_filled_target_that_both_sides_were_written_to_is_not_overwritten_after_a_rollback(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **BESIDE)
        await through_the_alias(work, 5, {"text": "written through the alias, then filled"})
        await to_source(work, 5, {"text": "written late by a writer that was not moved"})
        await started(work)
        await fill(work, lambda: False)
        back = await swap(work, "back")
        assert (back.write_gap.carried_over, back.write_gap.unresolved) == (0, 1)
        assert back.write_gap.unresolved_samples[0].startswith("i:5 ")
        await started(work)
        with pytest.raises(Refused, match="written or deleted through the alias"):
            await driven(work)
        assert "i:5" in " ".join(await written_since(work))
        assert (await held(work))[5].payload == {"text": "written through the alias, then filled"}
        assert work.migration.phase is Phase.ROLLED_BACK


async def test_late_writes_are_carried_over_before_filling_hides_them(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They reach the source after the swap and its sweep; the filling looks for them first, and fills them as well."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **BESIDE)
        await to_source(work, 3, {"text": "edited late", "n": 3})
        await to_source(work, 100, {"text": "inserted late"})
        await to_source(work, 6, {"text": "edited late, and overtaken"})
        await through_the_alias(work, 6, {"text": "newer, through the alias"})
        await started(work)
        await fill(work, lambda: False)
        targets = await held(work, vectors=("new",))
        assert {i: targets[i].payload["text"] for i in (3, 6, 100)} == {
            3: "edited late",
            6: "newer, through the alias",
            100: "inserted late",
        }
        assert all(p.vectors.get("new") is not None for p in targets.values())


async def test_a_point_whose_late_write_was_superseded_and_that_was_deleted_then_is_not_brought_back(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each later sweep, before the filling and at the end, sees it in the source alone, with a late number."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **BESIDE)
        await to_source(work, 6, {"text": "edited late"})
        await through_the_alias(work, 6, {"text": "newer, through the alias"})
        gap, _ = await sweep_until_quiet(work, carries_deletes=True)
        assert (gap.carried_over, gap.superseded) == (0, 1)
        await delete(work, 6, side="target")
        await to_source(work, 7, {"text": "another late write, so that there is something to look for"})
        await started(work)
        await fill(work, lambda: False)
        targets = await held(work)
        assert 6 not in targets
        assert targets[7].payload["text"].startswith("another late write")
        await finish(work, "keep_old")
        assert 6 not in await held(work)


async def test_a_late_write_to_a_filled_point_is_told_and_kept_from_deletion(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the app wrote that point through the alias as well cannot be told any more."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **BESIDE)
        await started(work)
        await fill(work, lambda: False)
        assert (await verify(work)).is_complete
        await to_source(work, 5, {"text": "edited very late", "n": 5})
        await to_source(work, 100, {"text": "inserted very late"})
        code = await finish_plan(work, "delete_old")
        with pytest.raises(Refused, match="Nothing was deleted"):
            await finish(work, "delete_old", code=code)
        with pytest.raises(Refused, match="cannot be told which side is newer"):
            await finish(work, "delete_old")
        targets = await held(work)
        assert (targets[5].payload["text"], targets[100].payload["text"]) == (text(5), "inserted very late")
        assert (await finish(work, "keep_old")).deleted == []
        assert await work.source.points.count(work.migration.source.collection) == 41


async def test_a_filling_that_a_person_paused_is_not_taken_up_by_following_the_next_step(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by start_backfill, which would undo the pause, nor by waiting for what does not come."""
    async with opened(backend_of(server_1_17, name), monkeypatch) as context:
        work = await swapped(context, name, **BESIDE)
        await started(work)
        paused = await control_backfill(context, migration_id=work.id, action="pause")
        assert (paused.phase, paused.is_filling, paused.is_paused, paused.next_step) == ("cut_over", True, True, None)
        resumed = await control_backfill(context, migration_id=work.id, action="resume")
        assert resumed.next_step is not None


@pytest.mark.parametrize("direction", ["back", "discard"])
async def test_a_person_who_wants_back_does_not_wait_for_the_end_of_a_slow_filling(
    server_1_17: QdrantServer, name: str, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback after the swap, and giving up before it: the field may take days to be filled."""
    async with opened(backend_of(server_1_17, name), monkeypatch) as context:
        work = await (swapped if direction == "back" else verified)(context, name, seeded={"points": 400}, **BESIDE)
        context.ensure_driver = _nobody
        await start_backfill(context, migration_id=work.id, points_per_second=2)
        async with anyio.create_task_group() as group:
            group.start_soon(Driver(context, work.id).run)
            with anyio.fail_after(30):
                while (await work.ledger.lease(work.id))[1].progress is None:  # noqa: ASYNC110 - the driver's doing
                    await anyio.sleep(0.1)
                migration = await work.ledger.migration(work.id)
                if direction == "back":
                    code = await swap_plan(work, "back")
                    wanted: tuple[OperationKind, dict[str, Any]] = "swap", {"direction": "back", "alias": None, "code": code}
                else:
                    code = await finish_plan(work, "discard_new")
                    wanted = "finish", {"action": "discard_new", "snapshot_first": False, "code": code}
                await carry_out(context, migration, *wanted)
            ended = await work.ledger.migration(work.id)
            group.cancel_scope.cancel()
        assert ended.phase is (Phase.ROLLED_BACK if direction == "back" else Phase.ABANDONED)
