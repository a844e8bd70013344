"""Do actors of a Ray cluster lose nothing: when a node is killed, when the driver is, and when the lease goes to somebody else?"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from qdrant_model_migration.errors import LeaseLost, Refused
from qdrant_model_migration.operations.backfill import control_backfill
from qdrant_model_migration.worker.lease import take_lease
from qdrant_model_migration.worker.watching import WatchedLease
from tests.faults.apps import SIZE, App, differences
from tests.faults.scene import LEASE_S, Scene, scene
from tests.openai_server import Answer, OpenAIServer
from tests.ray_cluster import RayCluster
from tests.servers import QdrantServer

pytestmark = pytest.mark.timeout(1200)
POINTS = 4000
Test = TypeVar("Test", bound=Callable[..., object])
PATIENT_LEASE_S = 12.0
"""Actors take seconds to start on a busy machine, and a lease that runs out meanwhile has all of them started anew."""


def only_when_asked(test: Test) -> Test:
    """A cluster of several raylets takes minutes to start beside other tests on two cores: collected with RAY_TESTS=1, best alone (`-n 0`)."""
    if os.environ.get("RAY_TESTS") != "1":
        test.__test__ = False  # type: ignore[attr-defined]
    return test


def words(number: int) -> str:
    return f"report {number} on wing flutter"


def variables(provider: OpenAIServer, name: str, server: QdrantServer) -> dict[str, str]:
    """What the driver and every node have in their environment."""
    entry = {"provider": "openai", "model": "m", "base_url": provider.base_url, "dimensions": SIZE, "batch_size": 64}
    return {
        **server.environment,
        "QDRANT_MIGRATION_MODELS": json.dumps({"slow": entry}),
        "QDRANT_MIGRATION_LEASE_SECONDS": str(PATIENT_LEASE_S),
        "QDRANT_MIGRATION_LEDGER": f"{name}-ledger",
    }


async def lost(at: Scene) -> list[str]:
    return [e.text for e in await at.ledger.events(at.migration_id) if e.event == "actor_lost"]


@only_when_asked
@pytest.mark.slow
async def test_a_node_that_is_killed_costs_at_most_its_windows(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes work under a writing app; one is killed. What the target held by then is not embedded again, and both sides end equal."""
    with OpenAIServer(SIZE) as provider:
        environment = variables(provider, name, server_1_17)
        with RayCluster(2, environment) as cluster:
            more = {"QDRANT_MIGRATION_RAY_ADDRESS": cluster.address, "QDRANT_MIGRATION_MODELS": environment["QDRANT_MIGRATION_MODELS"]}
            async with scene(
                server_1_17, name, home, monkeypatch, points=POINTS, model="slow", texts=words, environment=more, lease_s=PATIENT_LEASE_S
            ) as at:
                app = App(at.source, seed=3, per_second=20, ids=at.ids)
                provider.always = Answer(delay_s=0.3)
                await at.start(executor="ray")
                await at.until_written(256, timeout_s=400)
                app.start()
                await at.until_written(768, timeout_s=400)
                await anyio.to_thread.run_sync(cluster.kill, 0)
                provider.always = None
                await at.until_phase("backfilled", timeout_s=400)
                app.end()
                assert len(await lost(at)) == 1
                await at.verify_and_repair()
                assert app.failures == []
                assert differences(at.source, at.target) == []
                asked = [t for r in provider.requests for t in r.texts if t.startswith("report")]
                # Two windows were under way on the node, of up to 1,024 points; and the app edits texts.
                assert len(asked) < POINTS + 2 * 1024 + app.writes


@only_when_asked
@pytest.mark.slow
async def test_a_driver_that_is_killed_takes_its_actors_along_and_the_next_goes_on(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused and resumed as well: actors stop writing with a pause, and begin again."""
    with OpenAIServer(SIZE) as provider:
        environment = variables(provider, name, server_1_17)
        with RayCluster(2, environment) as cluster:
            more = {"QDRANT_MIGRATION_RAY_ADDRESS": cluster.address, "QDRANT_MIGRATION_MODELS": environment["QDRANT_MIGRATION_MODELS"]}
            async with scene(
                server_1_17, name, home, monkeypatch, points=POINTS, model="slow", texts=words, environment=more, lease_s=PATIENT_LEASE_S
            ) as at:
                provider.always = Answer(delay_s=0.3)
                await at.start(executor="ray")
                await at.until_written(256, timeout_s=400)
                at.signal(await at.until_driven(), signal.SIGKILL)
                await anyio.sleep(PATIENT_LEASE_S + 2)
                held = count(at)
                await anyio.sleep(2)
                assert count(at) == held, "actors of a dead driver write nothing once its lease has run out"
                await at.start(executor="ray")
                await at.until_written(held + 256, timeout_s=400)
                await control_backfill(at.context, migration_id=at.migration_id, action="pause")
                await anyio.sleep(PATIENT_LEASE_S)
                held = count(at)
                await anyio.sleep(2)
                assert count(at) == held, "a pause reaches the actors"
                provider.always = None
                await control_backfill(at.context, migration_id=at.migration_id, action="resume")
                await at.until_phase("backfilled", timeout_s=400)
                assert (await at.verify()).is_complete
                assert differences(at.source, at.target) == []


def count(at: Scene) -> int:
    return int(at.target.call("POST", "/points/count", {"exact": True})["count"])


async def test_without_a_cluster_nothing_is_started(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(server_1_17, name, home, monkeypatch, points=10) as at:
        with pytest.raises(Refused, match="QDRANT_MIGRATION_RAY_ADDRESS"):
            await at.start(executor="ray")
        assert (await at.migration()).phase.value == "target_created"


async def test_a_watched_lease_covers_writes_only_while_it_is_seen_renewed(
    server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that the test moves: no second is waited for."""
    async with scene(server, name, home, monkeypatch, points=10) as at:
        clock = [1000.0]
        held = await take_lease(at.ledger, at.migration_id, lease_s=LEASE_S)
        watched = WatchedLease(at.ledger, at.migration_id, held.epoch, clock=lambda: clock[0])
        await watched.look()
        with pytest.raises(LeaseLost):
            watched.check()  # held, but not seen renewed: it may have been silent for long
        clock[0] += 1.0
        await held.renew()
        await watched.look()
        watched.check()
        clock[0] = 1000.0 + LEASE_S - 0.01
        watched.check()
        clock[0] = 1000.0 + LEASE_S  # counted from the look before the renewal
        with pytest.raises(LeaseLost):
            watched.check()
        await held.renew()
        await watched.look()
        watched.check()
        await held.release()
        await watched.look()
        with pytest.raises(LeaseLost):
            watched.check()
        await take_lease(at.ledger, at.migration_id, lease_s=LEASE_S)
        await watched.look()
        assert watched.is_lost
