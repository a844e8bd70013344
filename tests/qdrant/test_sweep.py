"""Does the sweep after a swap carry late writes over, delete nothing it must not, and leave what the app wrote through the alias?"""

from __future__ import annotations

import pytest

from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Payload
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations import catch_up
from qdrant_model_migration.operations.sweep import sweep, written_since
from qdrant_model_migration.operations.work import Work
from tests.qdrant.cutovers import (
    acting_before,
    backend_of,
    backfilled,
    delete,
    finish,
    impatient,
    interrupted,
    planned_swap,
    swap,
    swap_plan,
    swapped,
    to_source,
    to_target,
    vector_of,
    verified,
    verify,
)
from tests.qdrant.seeds import opened, text
from tests.qdrant.works import held
from tests.servers import QdrantServer

SHARDED = {"points": 40, "create": {"shard_number": 2}}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)


async def test_a_sweep_that_is_taken_up_later_carries_writes_over_and_deletes_nothing(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the swap and the next driver somebody clears the old collection by hand."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await verified(context, name)
        code = await swap_plan(work)
        with interrupted(monkeypatch, "operations.swap.sweep_until_quiet"):
            await swap(work, code=code)
        assert (work.migration.phase, work.migration.intent) == (Phase.CUT_OVER, "sweeping")
        for number in range(20):
            await delete(work, number)
        await to_source(work, 30, {"text": "edited late", "n": 30})
        await to_source(work, 100, {"text": "inserted late", "n": 100})
        outcome = await swap(work, code=code)
        target = await held(work, vectors=("",))
    assert target.keys() == {*range(40), 100}
    assert target[30].payload["text"] == "edited late"
    assert (outcome.write_gap.carried_over, outcome.write_gap.unresolved) == (2, 20)
    assert work.migration.intent is None


@pytest.mark.parametrize(("carries_deletes", "is_left"), [(False, True), (True, False)], ids=["later", "right after the swap"])
async def test_a_late_write_whose_point_is_cleared_while_it_is_carried_over_stays_unless_deletes_are_carried(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, *, carries_deletes: bool, is_left: bool
) -> None:
    async with opened(backend_of(server_1_17, name), monkeypatch) as context:
        work = await swapped(context, name)
        await to_source(work, 3, {"text": "edited late", "n": 3})
        await to_source(work, 100, {"text": "inserted late"})

        async def clear() -> None:
            await delete(work, 3)
            await delete(work, 100)

        with acting_before(monkeypatch, catch_up, "insert_points", clear):
            await sweep(work, carries_deletes=carries_deletes)
        target = await held(work)
    assert (100 in target, 3 in target) == (is_left, is_left)


NESTED: Payload = {"text": text(3), "n": 3, "more": {"a": [1, {"b": 2}]}}

BEFORE_THE_WRITE = [
    # The nested change is one that no filter can see: only the version tells.
    pytest.param(("catch_up", "make_points"), NESTED | {"more": {"a": [1, {"b": 3}]}}, id="nested, after the versions were read"),
    pytest.param(("catch_up", "make_points"), {"text": "through the alias", "n": 3}, id="text, after the versions were read"),
    # The last look is over: the guard covers keys that do not differ between the sides, too.
    pytest.param(("points", "replace"), NESTED | {"text": text(3), "n": 4}, id="another key, right before the write"),
    pytest.param(("points", "replace"), NESTED | {"new": "key", "late": 2}, id="the same key, right before the write"),
]


@pytest.mark.parametrize(("where", "written"), BEFORE_THE_WRITE)
async def test_what_the_app_writes_through_the_alias_while_a_late_write_is_carried_over_wins(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, where: tuple[str, str], written: Payload
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, seeded={"payload": lambda n: NESTED | {"text": text(n), "n": n}})
        await to_source(work, 3, NESTED | {"late": 1})
        owner = catch_up if where[0] == "catch_up" else work.target.points
        with acting_before(monkeypatch, owner, where[1], lambda: to_target(work, 3, written)):
            await sweep(work, carries_deletes=True)
        target = await held(work, vectors=("",))
        assert target[3].payload == written
        assert target[3].vectors[""] == pytest.approx(await vector_of(work, written["text"]), abs=1e-5)
        gap, _ = await sweep(work, carries_deletes=True)
        assert (gap.carried_over, gap.superseded) == (0, 1)
        assert (await held(work))[3].payload == written


async def test_a_point_inserted_through_the_alias_while_a_late_one_of_its_id_is_carried_over_wins(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server_1_17, name), monkeypatch) as context:
        work = await swapped(context, name)
        await to_source(work, 100, {"text": "late"})
        with acting_before(monkeypatch, work.target.points, "insert", lambda: to_target(work, 100, {"text": "through the alias"})):
            await sweep(work, carries_deletes=True)
        assert (await held(work))[100].payload == {"text": "through the alias"}


async def test_only_what_came_through_the_alias_is_told_as_newer_after_a_rollback(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes and deletes on the source after the rollback are the ordinary lag."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await verified(context, name)
        await to_source(work, 50, {"text": "carried over by the last pass"})
        await swap(work)
        await to_source(work, 51, {"text": "carried over late"})
        await sweep(work, carries_deletes=True)
        await swap(work, "back")
        await to_source(work, 1, {"text": "edited since"})
        await to_source(work, 52, {"text": "inserted since"})
        for number in (2, 50, 51):
            await delete(work, number)
        assert await written_since(work) == []
        await to_target_by_name(work)
        newer = await written_since(work)
    assert [entry.split(" ")[0] for entry in newer] == ["i:3", "i:4", "i:5", "i:99"]


async def to_target_by_name(work: Work) -> None:
    """As through the alias while it pointed there: an edit, a deletion, an edit of what the source deletes, an insert."""
    alias = f"{work.migration.source.collection.removesuffix('-docs')}-alias"
    await work.target.point_alias(alias, work.migration.target.collection)
    for number in (3, 5, 99):
        await to_target(work, number, {"text": f"through the alias {number}"})
    await delete(work, 4, side="target")
    await delete(work, 5)
    await work.target.point_alias(alias, work.migration.source.collection)


# --- several shards


async def test_a_sharded_source_announces_that_late_writes_may_be_lost_and_carries_none_over(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server_1_17, name), monkeypatch) as context:
        work = await verified(context, name, seeded=SHARDED)
        plan = await planned_swap(work, fence=False)
        assert "may be lost" in " ".join(plan.breaks)
        assert "carried over afterwards" not in " ".join(plan.breaks)
        with acting_before(monkeypatch, work.target, "point_alias", lambda: to_source(work, 100, {"text": "late"})):
            outcome = await swap(work, code=plan.code)
        assert (outcome.write_gap.carried_over, outcome.write_gap.unresolved) == (0, 1)
        assert outcome.write_gap.unresolved_samples == ["i:100 (not in the target)"]
        assert "several shards" in " ".join(outcome.notes)
        assert 100 not in await held(work)
        await swap(work, "back")
        assert await written_since(work) == ["i:100 (not in the target)"]
        assert (await finish(work, "discard_new")).deleted == [work.migration.target.collection]


async def test_a_frozen_sharded_source_that_changed_is_refused_and_an_unchanged_one_is_swapped(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal counts, and no common numbering: every point is looked at."""
    async with opened(backend_of(server_1_17, name), monkeypatch) as context:
        work = await backfilled(context, name, seeded=SHARDED, writes="frozen")
        assert (await verify(work)).is_complete
        code = await swap_plan(work)
        await to_source(work, 3, {"text": text(3), "n": "edited"})
        with pytest.raises(Refused, match=r"1 points of the source changed .*repair_target"):
            await swap(work, code=code)
        assert work.migration.phase is Phase.BACKFILLED
        await to_source(work, 3, {"text": text(3), "n": 3})
        assert (await verify(work)).is_complete
        assert (await swap(work)).current == work.migration.target.collection
