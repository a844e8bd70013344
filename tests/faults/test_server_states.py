"""Does a migration come through when the server can answer, but not write, or not build its index?"""

from __future__ import annotations

import threading
from pathlib import Path

import anyio
import pytest

from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import ConnectionFailed
from qdrant_model_migration.operations.backfill import start_backfill
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.status import status
from qdrant_model_migration.worker.driver import Driver
from tests.faults.apps import App, differences
from tests.faults.proxy import Call, Fault, FaultProxy, Rule
from tests.faults.scene import LEASE_S, scene
from tests.servers import QdrantServer


async def test_a_full_disk_is_told_and_waited_out_past_the_lease_and_loses_nothing(
    server_1_16: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the target's writes are refused, as it needs the most room, then every write, so that the lease cannot be renewed either."""
    full: set[str] = set()
    is_stopping = threading.Event()

    def is_refused(call: Call) -> bool:
        is_write = call.method == "PUT" or "/points/delete" in call.path
        return is_write and any(f"/collections/{collection}/points" in call.path for collection in full)

    rule = Rule(fault=Fault.DISK_FULL, when=is_refused)
    with FaultProxy(server=server_1_16, rules=[rule]) as proxy:
        async with scene(server_1_16, name, home, monkeypatch, points=600, environment=proxy.environment) as at:
            await at.start_elsewhere(points_per_second=300)
            async with OperationContext(read_settings(), patience_s=1.0) as context, anyio.create_task_group() as group:
                group.start_soon(Driver(context, at.migration_id, is_stopping=is_stopping.is_set).run)
                with App(at.source, seed=4, per_second=15, ids=at.ids) as app:
                    await at.until_written(100)
                    full.add(at.target.name)
                    with anyio.fail_after(60):
                        while "The disk of Qdrant is full" not in (await status(context, migration_id=at.migration_id)).progress.stage:  # noqa: ASYNC110 - the driver's doing
                            await anyio.sleep(0.1)
                    full.add(f"{name}-ledger")
                    with pytest.raises(ConnectionFailed, match=r"The disk of Qdrant is full: .*No space left on device.*Free or add space"):
                        await start_backfill(context, migration_id=at.migration_id)
                    await anyio.sleep(LEASE_S + 1.0)
                    held = len(at.target.points())
                    full.clear()
                    await at.start_elsewhere(points_per_second=0)
                    await at.until_phase("backfilled")
                await at.verify_and_repair()
                is_stopping.set()
            assert 100 <= held < 600
    assert rule.struck > 2
    assert app.failures == []
    assert differences(at.source, at.target) == []


async def test_a_target_that_is_grey_after_a_crash_is_woken_by_the_verification(
    fresh_server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its index is built: such a collection stays grey, however long one waits, until something is written to it."""
    async with scene(fresh_server, name, home, monkeypatch, points=600, writes="frozen") as at:
        await at.start()
        await at.until_phase("backfilled")
        for collection in (at.source, at.target):
            collection.call("PATCH", "", {"optimizers_config": {"indexing_threshold": 10}})
        fresh_server.kill()
        await anyio.to_thread.run_sync(fresh_server.start)
        assert at.target.call("GET", "")["status"] == "grey"
        found = await at.verify()
        assert (found.is_complete, found.is_index_ready) == (True, True)
        assert at.target.call("GET", "")["status"] == "green"
        assert differences(at.source, at.target) == []
