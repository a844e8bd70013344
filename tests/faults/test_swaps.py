"""Does a swap lose a write or a query, when its driver dies in the middle, or when nobody stops writing?"""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.finish import plan_finish
from qdrant_model_migration.results import SwapOutcome
from qdrant_model_migration.worker.driver import Driver
from tests.faults.apps import SIZE, App, Collection, Reader, differences, point
from tests.faults.scene import Scene, scene
from tests.servers import QdrantServer

DEATHS = [
    "qdrant.ledger:Ledger.use_plan before",
    "qdrant.gateway:Gateway.point_alias before",
    "qdrant.gateway:Gateway.point_alias after",
    "operations.swap:sweep_until_quiet before",
    "operations.swap:sweep_until_quiet after",
    "operations.swap:_swept after",
]


def raw(rng: random.Random, point_id: int | str, number: int) -> dict[str, object]:
    """A point as the app writes it after the swap: embedded with the new model."""
    made = point(rng, point_id, number)
    made["vector"] = [float(x) for x in HashingEmbedder(f"hashing-{SIZE}")._embed_one(made["payload"]["text"])]
    return made


@asynccontextmanager
async def verified(server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch, points: int = 600) -> AsyncIterator[Scene]:
    """A verified migration of equal dimensions on both sides, driven by nobody."""
    async with scene(server, name, home, monkeypatch, points=points, old_size=SIZE) as at:
        async with driving(at):
            await at.until_phase("backfilled")
            await at.verify_and_repair()
        yield at


@asynccontextmanager
async def driving(at: Scene) -> AsyncIterator[None]:
    """A driver in this process, which is sooner there than one of its own; the processes that die come later."""
    stopped = anyio.Event()
    async with anyio.create_task_group() as group:
        await at.start_elsewhere()
        group.start_soon(Driver(at.context, at.migration_id, is_stopping=stopped.is_set).run)
        yield
        stopped.set()


@pytest.mark.slow
@pytest.mark.parametrize("death", DEATHS)
async def test_a_swap_whose_driver_is_killed_is_completed_by_the_next_and_no_query_fails(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    """What the source got between the death and the resumption is carried over."""
    async with verified(server_1_17, name, home, monkeypatch, points=300) as at:
        code = await at.plan()
        rng = random.Random(7)
        with Reader(server_1_17, at.alias, lambda: [rng.uniform(-1, 1) for _ in range(SIZE)]) as reader:
            dying = at.worker(dies=death)
            await at.until_driven(by=dying.pid)
            at.context.ensure_driver = ignore
            requested = await at.operation("swap", {"direction": "forward", "alias": None, "code": code}, key=f"swap-{code}", wait_s=0.5)
            assert requested.state != "failed"
            assert await anyio.to_thread.run_sync(lambda: dying.wait(30)) == -signal.SIGKILL
            at.source.upsert([point(rng, at.ids[0], 1, SIZE), point(rng, 777_777, 2, SIZE)])
            at.source.set_payload(at.ids[1], {"flag": 1})
            at.source.delete([at.ids[2]])
            at.context.ensure_driver = at.drivers.ensure
            outcome = await at.swap(code=code)
            assert (outcome.alias, outcome.previous, outcome.current) == (at.alias, at.source.name, at.target.name)
            assert at.where()[at.alias] == at.target.name
        assert reader.failures == []
        assert reader.answers > 20
        found = await at.migration()
        assert (found.phase.value, found.intent) == ("cut_over", None)
        if death.startswith("operations.swap:sweep_until_quiet"):
            # A sweep that is taken up later deletes nothing: somebody may have cleared the old collection since. It is told instead.
            assert differences(at.source, at.target) == [f"{at.ids[2]} extra"]
            assert outcome.write_gap.unresolved == 1
        elif death != "operations.swap:_swept after":
            assert differences(at.source, at.target) == []


async def ignore(_: object) -> None:
    """Starts no driver."""


async def test_late_writes_are_carried_over_newer_ones_win_and_a_rollback_repoints(
    server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One app goes on with the source past the swap, another writes through the alias from the swap on; they meet at some points."""
    async with verified(server, name, home, monkeypatch, points=800) as at:
        rng = random.Random(8)
        through_alias = Collection(server, at.alias)
        late, newer, both = at.ids[:300], at.ids[300:500], at.ids[500:520]
        with Reader(server, at.alias, lambda: [rng.uniform(-1, 1) for _ in range(SIZE)]) as reader:
            app = App(at.source, seed=9, per_second=40, ids=[*late], size=SIZE)
            app.start()
            await anyio.sleep(1.0)
            outcome: list[SwapOutcome] = []
            async with anyio.create_task_group() as group:

                async def swap() -> None:
                    outcome.append(await at.swap(fence=False))

                group.start_soon(swap)
                with anyio.fail_after(60):
                    while at.where()[at.alias] != at.target.name:  # noqa: ASYNC110 - the server's doing
                        await anyio.sleep(0.01)
                for number, point_id in enumerate([*newer[:100], *both]):
                    through_alias.upsert([raw(rng, point_id, number)])
                through_alias.delete(newer[150:])
                for number, point_id in enumerate(both):
                    at.source.upsert([point(rng, point_id, number, SIZE)])
                await anyio.sleep(1.0)
                app.end()
        assert app.failures == []
        assert reader.failures == []
        assert outcome[0].write_gap.unresolved == 0
        assert outcome[0].write_gap.superseded == len(both)
        source, target = at.source.points(), at.target.points()
        new = HashingEmbedder(f"hashing-{SIZE}")
        won = {*newer[:100], *both}
        assert not {*newer[150:]} & target.keys(), "a point deleted through the alias came back"
        for i, p in source.items():
            if i in won or i in newer[150:]:
                continue
            assert i in target, f"the late write of {i} was lost"
            assert target[i]["payload"] == p["payload"]
        assert target.keys() - source.keys() == set()
        for i in won:
            assert target[i]["payload"] != source[i]["payload"]
        for p in target.values():
            assert max(abs(a - b) for a, b in zip(p["vector"], new._embed_one(p["payload"]["text"]), strict=True)) < 1e-5
        back = await at.swap("back")
        assert (back.current, at.where()[at.alias]) == (at.source.name, at.source.name)
        assert (await at.migration()).phase.value == "rolled_back"


async def test_the_old_collection_is_not_deleted_while_somebody_writes_to_it_and_leaves_a_snapshot_when_it_is(
    server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with verified(server, name, home, monkeypatch) as at:
        await at.swap()

        async def plan() -> str:
            return (await plan_finish(at.context, await at.migration(), "delete_old", snapshot_first=True)).code

        app = App(at.source, seed=10, per_second=20, ids=at.ids, size=SIZE)
        app.kinds = ("upsert", "text", "payload")
        with app:
            await anyio.sleep(0.5)
            with pytest.raises(Refused, match=r"Nothing was deleted: .* (still changes|late writes)"):
                await at.finish("delete_old", await plan())
        assert at.source.call("GET", "")["status"] in ("green", "yellow")
        for _ in range(3):
            # What came after the sweep of the refusal is carried over by another one, which refuses for the last time.
            with suppress(Refused):
                outcome = await at.finish("delete_old", await plan())
                break
        else:
            raise AssertionError("the last late writes were never carried over")
        assert outcome.deleted == [at.source.name]
        assert outcome.snapshot is not None
        assert list((server.folder / "snapshots").rglob(outcome.snapshot)), "the snapshot went with the collection"
        assert (await at.migration()).phase.value == "finished"
        texts = {p["payload"]["text"] for p in at.target.points().values()}
        assert len(texts) == len(at.ids)


async def test_a_point_written_late_twice_is_carried_over_twice_and_stays_deleted_when_the_app_deletes_it(
    server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first carry-over wrote to the target must not look like a newer write of the app, nor its deletion like a late insert."""
    async with verified(server, name, home, monkeypatch, points=50) as at:
        rng = random.Random(11)
        await at.swap()
        new = 999_999
        for number in (1, 2):
            late = [point(rng, point_id, number, SIZE) for point_id in (at.ids[0], new)]
            at.source.upsert(late)
            plan = await plan_finish(at.context, await at.migration(), "delete_old", snapshot_first=True)
            with pytest.raises(Refused, match="2 late writes"):
                await at.finish("delete_old", plan.code)
            target = at.target.points()
            assert [target[p["id"]]["payload"] for p in late] == [p["payload"] for p in late]
        at.target.delete([new])
        plan = await plan_finish(at.context, await at.migration(), "keep_old", snapshot_first=True)
        await at.finish("keep_old", plan.code)
        assert new not in at.target.points()


@pytest.mark.parametrize("death", ["qdrant.gateway:Gateway.snapshot before", "qdrant.gateway:Gateway.delete_collection after"])
async def test_a_finish_whose_driver_is_killed_is_completed_by_the_next(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    async with verified(server_1_17, name, home, monkeypatch, points=100) as at:
        async with driving(at):
            await at.until_driven()
            await at.swap()
        code = (await plan_finish(at.context, await at.migration(), "delete_old", snapshot_first=True)).code
        dying = at.worker(dies=death)
        await at.until_driven(by=dying.pid)
        at.context.ensure_driver = ignore
        await at.operation("finish", {"action": "delete_old", "snapshot_first": True, "code": code}, key=f"finish-{code}", wait_s=0.5)
        assert await anyio.to_thread.run_sync(lambda: dying.wait(30)) == -signal.SIGKILL
        at.context.ensure_driver = at.drivers.ensure
        outcome = await at.finish("delete_old", code)
        assert outcome.deleted == [at.source.name]
        assert (await at.migration()).phase.value == "finished"
        assert len(at.target.points()) == 100
