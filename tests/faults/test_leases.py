"""Does only one driver write at a time, whoever stops, sleeps, dies or comes back?"""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from qdrant_model_migration.domain.records import Lease
from qdrant_model_migration.worker.detach import needs_driver
from qdrant_model_migration.worker.lease import is_certainly_dead, process_identity
from tests.faults.apps import App, Collection, differences
from tests.faults.scene import LEASE_S, scene
from tests.servers import QdrantServer


def operations(collection: Collection) -> int:
    """Number of the last operation, found by one that does nothing."""
    return int(collection.call("POST", "/points/delete?wait=true", {"points": [2**62 + 1]})["operation_id"])


@pytest.mark.slow
async def test_a_worker_stopped_past_its_lease_notices_that_another_took_over_and_writes_nothing_more(
    server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(server, name, home, monkeypatch, points=3000) as at:
        await at.start_elsewhere(points_per_second=800)
        first = at.worker()
        await at.until_driven(by=first.pid)
        await at.until_written(600)
        at.signal(first.pid, signal.SIGSTOP)
        second = at.worker()
        with App(at.source, seed=2, per_second=20, ids=at.ids) as app:
            await at.until_driven(by=second.pid)
            await at.start(points_per_second=0)
            await at.until_phase("backfilled")
        await at.verify_and_repair()
        before = operations(at.target)
        at.signal(first.pid, signal.SIGCONT)
        assert await anyio.to_thread.run_sync(lambda: first.wait(20)) == 0
        assert operations(at.target) == before + 1
        assert "driven by" in at.log_of(first)
        assert second.poll() is None
        assert differences(at.source, at.target) == []
        assert not app.failures


async def test_of_two_workers_started_at_once_one_works_and_the_other_leaves_at_once(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(server_1_17, name, home, monkeypatch, points=1500, lease_s=20.0) as at:
        await at.start_elsewhere(points_per_second=300)
        both = [at.worker(), at.worker()]
        pid = await at.until_driven()
        (leaver,) = [child for child in both if child.pid != pid]
        assert await anyio.to_thread.run_sync(lambda: leaver.wait(15)) == 0
        assert "driven" in at.log_of(leaver)
        assert (await at.migration()).phase.value == "backfilling"
        await at.start(points_per_second=0)
        await at.until_phase("backfilled")
        assert await at.until_driven() == pid
        await at.verify_and_repair()
        assert differences(at.source, at.target) == []


async def test_a_terminated_worker_gives_its_lease_back_so_that_the_next_takes_over_at_once(
    server_1_16: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease of a minute: nobody who had to wait for it to run out would be in time."""
    async with scene(server_1_16, name, home, monkeypatch, points=1500, lease_s=60.0) as at:
        await at.start_elsewhere(points_per_second=400)
        first = at.worker()
        await at.until_driven(by=first.pid)
        await at.until_written(300)
        at.signal(first.pid, signal.SIGTERM)
        assert await anyio.to_thread.run_sync(lambda: first.wait(15)) == 0
        _, lease = await at.ledger.lease(at.migration_id)
        assert lease.owner is None
        second = at.worker()
        await at.until_driven(by=second.pid, timeout_s=15)
        await at.start(points_per_second=0)
        await at.until_phase("backfilled", timeout_s=20)
        ranges = await at.ledger.ranges(at.migration_id)
        assert sum(r.written for r in ranges) == 1500
        assert not any(r.foreign for r in ranges), "what the first wrote was taken for somebody else's"
        assert differences(at.source, at.target) == []


async def test_a_worker_terminated_in_the_middle_of_its_windows_writes_and_counts_them_to_their_end(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written and not counted would be taken for somebody else's by whoever goes on."""
    async with scene(server_1_17, name, home, monkeypatch, points=3000) as at:
        await at.start_elsewhere()
        first = at.worker(dies="operations.writing:_insert after", of=signal.SIGTERM)
        assert await anyio.to_thread.run_sync(lambda: first.wait(30)) == 0
        there = at.target.call("POST", "/points/count", {"exact": True})["count"]
        assert 0 < there < 3000
        assert sum(r.written for r in await at.ledger.ranges(at.migration_id)) == there
        await at.start()
        await at.until_phase("backfilled")
        ranges = await at.ledger.ranges(at.migration_id)
        assert (sum(r.written for r in ranges), sum(r.skipped for r in ranges)) == (3000, 0)
        assert not any(r.foreign for r in ranges)


async def test_a_worker_that_slept_past_its_lease_goes_on_by_itself(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop that was closed: nobody took over meanwhile."""
    async with scene(server_1_17, name, home, monkeypatch, points=2000) as at:
        await at.start_elsewhere(points_per_second=600)
        only = at.worker()
        await at.until_driven(by=only.pid)
        await at.until_written(400)
        at.signal(only.pid, signal.SIGSTOP)
        await anyio.sleep(LEASE_S + 1.5)
        _, before = await at.ledger.lease(at.migration_id)
        at.signal(only.pid, signal.SIGCONT)
        await at.start(points_per_second=0)
        await at.until_phase("backfilled")
        _, after = await at.ledger.lease(at.migration_id)
        assert (after.owner, after.epoch) == (before.owner, before.epoch)
        await at.verify_and_repair()
        assert differences(at.source, at.target) == []


@pytest.mark.parametrize(("age_s", "is_needed"), [(2.0, False), (40.0, True), (-2.0, False), (-3600.0, True)])
def test_a_driver_is_started_for_a_silent_lease_and_for_one_whose_clock_is_ahead(age_s: float, is_needed: bool) -> None:
    """A heartbeat an hour ahead would otherwise keep everybody away for an hour after its driver died."""
    at = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    assert needs_driver(Lease(owner="somebody", lease_s=30.0, host="elsewhere", pid=1, at=at), datetime.now(UTC)) is is_needed


def test_a_driver_of_another_user_is_not_taken_for_dead_because_the_system_hides_it() -> None:
    """Process 1 is always there; what it is may be read by its own user only."""
    mine = process_identity(os.getpid())
    if mine is None:
        pytest.skip("this system does not tell processes apart")
    boot, namespace, *_ = mine.split(" ")
    lease = Lease(owner="root", pid=1, identity=f"{boot} {namespace} 1 17", lease_s=30.0)
    was = os.geteuid()
    try:
        if was == 0:
            os.seteuid(65534)
        assert process_identity(1) is None
        assert not is_certainly_dead(lease)
    finally:
        os.seteuid(was)


async def test_a_worker_terminated_in_the_middle_of_an_operation_leaves_it_to_the_next(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verification is not failed by it: the same call attaches to what the next driver carries out."""
    async with scene(server_1_17, name, home, monkeypatch, points=6000, lease_s=60.0) as at:
        await at.start()
        await at.until_phase("backfilled")
        pid = await at.until_driven()
        await at.operation("verify", {"provenance_sample": 100}, wait_s=0.4)
        at.signal(pid, signal.SIGTERM)
        with anyio.fail_after(10):
            while (await at.ledger.lease(at.migration_id))[1].owner is not None:  # noqa: ASYNC110 - another process's doing
                await anyio.sleep(0.05)
        assert (await at.verify()).is_complete
