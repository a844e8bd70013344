"""Does the worker wait for a Qdrant that died, and go on without losing or repeating anything?"""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import pytest

from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.records import Pace
from tests.conftest import NewServer
from tests.faults.apps import SIZE, App, differences
from tests.faults.scene import LEASE_S, scene
from tests.servers import QdrantServer


@pytest.mark.slow
async def test_a_server_killed_again_and_again_in_mid_backfill_loses_nothing(
    fresh_server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shorter and longer than the lease; records of the ledger are cut off as well."""
    rng = random.Random(4)
    async with scene(fresh_server, name, home, monkeypatch, points=3000) as at:
        await at.start(points_per_second=600)
        pid = await at.until_driven()
        with App(at.source, seed=3, per_second=40, ids=at.ids):
            for away_s in (0.0, LEASE_S + 1.0, 0.5):
                await anyio.sleep(rng.uniform(0.3, 1.2))
                await anyio.to_thread.run_sync(fresh_server.kill)
                await anyio.sleep(away_s)
                await anyio.to_thread.run_sync(fresh_server.start)
            assert (await at.migration()).phase.value == "backfilling"
            # Where the last heartbeat is older than the lease, a call would rightly start another worker.
            await at.start_elsewhere(points_per_second=0)
            await at.until_phase("backfilled")
        assert await at.until_driven() == pid, "the worker did not outlive the outages"
        await at.verify_and_repair()
        assert differences(at.source, at.target) == []


@pytest.mark.slow
async def test_a_server_away_for_longer_than_any_request_is_retried_is_waited_for(
    new_server: NewServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = new_server("1.17.0")
    async with scene(server, name, home, monkeypatch, points=2000) as at:
        await at.start(points_per_second=300)
        pid = await at.until_driven()
        await at.until_written(300)
        await anyio.to_thread.run_sync(server.kill)
        await at.until_logged("Waiting for a service to come back", timeout_s=90)
        await anyio.to_thread.run_sync(server.start)
        await at.start(points_per_second=0)
        await at.until_phase("backfilled")
        assert await at.until_driven() == pid
        assert differences(at.source, at.target) == []


async def test_a_server_killed_after_guarded_writes_starts_again(
    fresh_server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.17.0 cannot read a condition on a UUID back from its log, and a server whose log it cannot read does not start any more."""
    number, uuid = 7, "6f1c1c52-8c0e-4b3c-9a53-6d0f6a1b7a10"
    async with scene(fresh_server, name, home, monkeypatch, points=10) as at:
        points, target = (await at.context.gateway()).points, at.target.name
        vectors = {"": [1.0] * SIZE}
        seen = {"a": 1, "b": 0.5, "c": None, "d": "x", "e": True}
        for by_mode in {False, fresh_server.version != "1.16.3"}:
            await points.insert(target, [Point(id=i, payload=seen, vectors=vectors) for i in (number, uuid)], by_mode=by_mode)
        for point_id in (number, uuid):
            await points.replace(target, Point(id=point_id, payload={"f": 2}, vectors=vectors), observed=seen)
            await points.delete_if(target, point_id, observed={"f": 3})
        await at.ledger.save_pace(at.migration_id, Pace(concurrency=3))
        await at.ledger.save_pace(at.migration_id, Pace(concurrency=4))
        await anyio.to_thread.run_sync(fresh_server.kill)
        await anyio.to_thread.run_sync(fresh_server.start)
        assert {i: p["payload"] for i, p in at.target.points().items()} == {number: {"f": 2}, uuid: {"f": 2}}
        assert (await at.ledger.pace(at.migration_id)).concurrency == 4
        for point_id in (number, uuid):
            await points.delete_if(target, point_id, observed={"f": 2})
        assert at.target.points() == {}
