"""What happens when somebody deletes, replaces or moves what a migration works with? It goes on, or says what was done and what to do."""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import pytest

from qdrant_model_migration.errors import MigrationError, NotFound, Refused
from qdrant_model_migration.operations.finish import plan_finish
from qdrant_model_migration.operations.status import status
from tests.faults.apps import SIZE, Collection, differences, point
from tests.faults.proxy import FaultProxy
from tests.faults.scene import Scene, scene
from tests.servers import QdrantServer
from tests.servers import request as rest


def drop(at: Scene, collection: str) -> None:
    rest(f"{at.server.url}/collections/{collection}", method="DELETE")


def point_alias(at: Scene, alias: str, collection: str) -> None:
    action = {"create_alias": {"collection_name": collection, "alias_name": alias}}
    rest(f"{at.server.url}/collections/aliases", method="POST", body={"actions": [action]})


async def half_filled(at: Scene) -> None:
    """So slowly that what is done next comes long before the end."""
    await at.start(points_per_second=50)
    await at.until_written(100)


async def test_a_ledger_deleted_in_mid_backfill_is_named_by_the_worker_and_by_every_call(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(server_1_17, name, home, monkeypatch, points=1000) as at:
        await half_filled(at)
        drop(at, f"{name}-ledger")
        said = (
            f"the ledger, collection '{name}-ledger', does not exist.*restore the ledger from a snapshot, or delete the unfinished target"
        )
        for call in (at.start, lambda: status(at.context, migration_id=at.migration_id)):
            with pytest.raises(NotFound, match=said):
                await call()
        (worker,) = at._started()
        assert await anyio.to_thread.run_sync(lambda: worker.wait(60)) == 1
        assert "The migration cannot be worked any more: the ledger" in at.log
        assert len(at.source.points()) == 1000
        assert f"{name}-ledger" not in [c["name"] for c in rest(f"{at.server.url}/collections")["result"]["collections"]]


async def test_a_target_deleted_in_mid_backfill_stops_the_worker_and_can_be_given_up(
    server_1_16: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(server_1_16, name, home, monkeypatch, points=1000) as at:
        await half_filled(at)
        drop(at, at.target.name)
        stopped = await at.until(lambda m: m.error is not None)
        said = f"the target '{at.target.name}' no longer exists; somebody deleted it"
        assert stopped.error is not None
        assert said in stopped.error
        assert "action='discard_new'" in stopped.error
        with pytest.raises(NotFound, match=said):
            await at.start()
        code = (await plan_finish(at.context, await at.migration(), "discard_new", snapshot_first=False)).code
        done = await at.operation("finish", {"action": "discard_new", "snapshot_first": False, "code": code}, key=f"finish-{code}")
        assert done.state == "done"
        assert (await at.migration()).phase.value == "abandoned"


async def test_a_target_replaced_by_somebody_else_s_collection_is_neither_changed_nor_deleted(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a catch-up every point of theirs would be one too many, and to discard the target would delete their collection."""
    async with scene(server_1_17, name, home, monkeypatch, points=400) as at:
        await at.start()
        await at.until_phase("backfilled")
        theirs = [point(random.Random(1), i, i, SIZE) for i in (1, 5_000_001)]
        drop(at, at.target.name)
        at.target.call("PUT", "", {"vectors": {"size": SIZE, "distance": "Cosine"}})
        at.target.upsert(theirs)
        said = "is no longer the collection that migration .* created.*It leaves .* alone"
        for call in (at.verify, at.start):
            with pytest.raises(MigrationError, match=said):
                await call()
        stopped = await at.until(lambda m: m.error is not None)
        assert stopped.error is not None
        assert "is no longer the collection" in stopped.error
        plan = await plan_finish(at.context, await at.migration(), "discard_new", snapshot_first=False)
        assert plan.deletes == []
        assert any("it is left alone" in warning for warning in plan.warnings)
        arguments = {"action": "discard_new", "snapshot_first": False, "code": plan.code}
        done = await at.operation("finish", arguments, key=f"finish-{plan.code}")
        assert done.state == "done"
        assert {i: p["payload"] for i, p in at.target.points().items()} == {p["id"]: p["payload"] for p in theirs}


async def test_a_vector_field_of_other_dimensions_in_mid_backfill_is_told_with_both_numbers(
    server_1_16: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Created again with our mark and another size, as by a restored copy of an earlier try."""
    async with scene(server_1_16, name, home, monkeypatch, points=1000) as at:
        await half_filled(at)
        metadata = at.target.call("GET", "")["config"]["metadata"]
        drop(at, at.target.name)
        at.target.call("PUT", "", {"vectors": {"size": 32, "distance": "Cosine"}, "metadata": metadata})
        stopped = await at.until(lambda m: m.error is not None)
        assert stopped.error is not None
        assert f"vector '' has 32 dimensions, planned are {SIZE}" in stopped.error
        assert "action='discard_new'" in stopped.error


async def test_a_source_deleted_in_mid_backfill_leaves_what_was_copied(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(server_1_17, name, home, monkeypatch, points=1000) as at:
        await half_filled(at)
        drop(at, at.source.name)
        stopped = await at.until(lambda m: m.error is not None)
        held = len(at.target.points())
        assert stopped.error is not None
        assert f"the source '{at.source.name}' no longer exists" in stopped.error
        assert f"keeps the {held:,} points that were copied" in stopped.error
        assert held >= 100


async def test_points_removed_and_altered_and_an_index_dropped_after_the_verification_stop_the_swap_and_are_told(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(server_1_17, name, home, monkeypatch, points=500, writes="frozen", indexes={"n": "integer"}) as at:
        await at.start()
        await at.until_phase("backfilled")
        await at.verify_and_repair()
        code = await at.plan()
        at.target.delete(at.ids[:3])
        at.target.set_payload(at.ids[5], {"n": -1})
        with pytest.raises(Refused, match="something the plan rests on has changed since it was shown"):
            await at.swap(code=code)
        assert at.where()[at.alias] == at.source.name
        found = await at.verify()
        assert (found.missing, found.changed) == (3, 1)
        repaired = await at.repair()
        assert (repaired.repaired.missing, repaired.repaired.changed) == (3, 1)
        assert repaired.verification.is_complete
        assert differences(at.source, at.target) == []
        at.target.call("DELETE", "/index/n?wait=true")
        found = await at.verify()
        assert not found.is_complete
        assert found.problems == ["configuration differs in payload_indexes.n.data_type"]
        with pytest.raises(Refused, match="verify_target"):
            await at.plan()


async def test_a_target_deleted_between_the_plan_and_the_swap_moves_no_alias(
    server_1_16: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(server_1_16, name, home, monkeypatch, points=300) as at:
        await at.start()
        await at.until_phase("backfilled")
        await at.verify_and_repair()
        code = await at.plan()
        drop(at, at.target.name)
        said = "no longer exists; somebody deleted it. The source .* is untouched"
        with pytest.raises(MigrationError, match=said):
            await at.plan()
        with pytest.raises(MigrationError, match=said):
            await at.swap(code=code)
        assert at.where()[at.alias] == at.source.name
        assert (await at.migration()).intent is None


async def test_a_target_deleted_at_the_moment_of_the_swap_leaves_the_alias_where_it_was(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(server=server_1_17) as proxy:
        async with scene(server_1_17, name, home, monkeypatch, points=300, environment=proxy.environment) as at:
            await at.start()
            await at.until_phase("backfilled")
            await at.verify_and_repair()
            code = await at.plan()
            rule = proxy.before("POST", "/collections/aliases", lambda: drop(at, at.target.name))
            with pytest.raises(
                MigrationError, match=r"The swap failed and the aliases are as before|no longer exists; somebody deleted it"
            ):
                await at.swap(code=code)
            assert rule.struck == 1
            assert at.where()[at.alias] == at.source.name
            assert at.source.search([0.1] * 8)


@pytest.mark.parametrize("moment", ["between the gates", "after the gates"])
async def test_an_alias_moved_by_somebody_else_around_the_gates_is_not_moved_blindly(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Between the gates the second look finds it. After them nothing can: what is known is that the alias ends where the plan said."""
    with FaultProxy(server=server_1_17) as proxy:
        async with scene(server_1_17, name, home, monkeypatch, points=300, environment=proxy.environment) as at:
            other = Collection(server_1_17, f"{name}-other")
            other.call("PUT", "", {"vectors": {"size": SIZE, "distance": "Cosine"}})
            await at.start()
            await at.until_phase("backfilled")
            await at.verify_and_repair()
            code = await at.plan()
            if moment == "between the gates":
                # The last look at the source before its lag is closed.
                rule = proxy.before("POST", f"/{at.source.name}/points/delete", lambda: point_alias(at, at.alias, other.name))
                with pytest.raises(Refused, match="Nothing was changed"):
                    await at.swap(code=code)
                assert at.where()[at.alias] == other.name
                assert (await at.migration()).intent is None
            else:
                rule = proxy.before("POST", "/collections/aliases", lambda: point_alias(at, at.alias, other.name))
                outcome = await at.swap(code=code)
                assert (outcome.current, at.where()[at.alias]) == (at.target.name, at.target.name)
            assert rule.struck == 1
