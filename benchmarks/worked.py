"""How is one migration worked by real worker processes, and what did they take?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from typing import Any

import anyio

from benchmarks import place
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.environment import child_environment
from qdrant_model_migration.operations.backfill import start_backfill
from qdrant_model_migration.operations.create_target import Request, create_target

UNTIL = 0.8
"""Share of the points up to which `steady_rate` looks."""


@dataclass(frozen=True, kw_only=True)
class Worked:
    """One migration by worker processes: seconds from their start to the end of the backfill, and the most memory that one of them held."""

    points: int
    seconds: float
    peak_mb: float


async def created(collection: str, model: str, *, executor: str = "local", **pace: Any) -> tuple[str, str]:
    """A migration whose backfill is asked for and worked by nobody yet; it, and its target."""
    async with place.context() as at:
        request = Request(
            collection=collection,
            target=f"new-{uuid.uuid4().hex[:8]}",
            strategy="new_collection",
            model=model,
            text_field="text",
            writes="frozen",
        )
        made = await create_target(at, request)
        await start_backfill(at, migration_id=made.migration_id, executor=executor, **pace)  # type: ignore[arg-type]
        return made.migration_id, made.target.collection


def worked(collection: str, model: str, *, kill_at: float | None = None, executor: str = "local", **pace: Any) -> Worked:
    """A migration to a target that is deleted afterwards; the worker is killed once so much of it is written, and another one goes on."""
    migration_id, target = anyio.run(lambda: created(collection, model, executor=executor, **pace))
    points = anyio.run(_count, collection)
    began, peak_mb = time.perf_counter(), 0.0
    worker = worker_of(migration_id)
    if kill_at is not None:
        anyio.run(until_written, target, int(points * kill_at), worker)
        worker.send_signal(signal.SIGKILL)
        peak_mb = ended(worker)
        worker = worker_of(migration_id)
    anyio.run(until_phase, migration_id, Phase.BACKFILLED)
    seconds = time.perf_counter() - began
    worker.send_signal(signal.SIGTERM)
    peak_mb = max(peak_mb, ended(worker))
    anyio.run(_delete, target)
    return Worked(points=points, seconds=seconds, peak_mb=peak_mb)


def worker_of(migration_id: str) -> subprocess.Popen[bytes]:
    """A worker process of a migration."""
    command = [sys.executable, "-m", "qdrant_model_migration", "worker", migration_id, "--idle-exit", "600"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=child_environment()
    )


def ended(worker: subprocess.Popen[bytes]) -> float:
    """Wait for its end; its peak of resident memory, in MB."""
    _, status, usage = os.wait4(worker.pid, 0)
    worker.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / 1024


async def until_written(target: str, points: int, worker: subprocess.Popen[bytes], *, every_s: float = 0.05) -> None:
    """Until the target holds so many points."""
    async with place.context() as at:
        gateway = await at.gateway()
        while await gateway.points.count(target) < points:
            assert worker.poll() is None, f"the worker ended with {worker.returncode}"
            await anyio.sleep(every_s)


async def until_phase(migration_id: str, phase: Phase) -> None:
    """Until a migration that meets no error has come so far."""
    async with place.context() as at:
        ledger = await at.ledger()
        while True:
            found = await ledger.migration(migration_id)
            assert found.error is None, found.error
            if found.phase is phase:
                return
            await anyio.sleep(0.05)


async def _count(collection: str) -> int:
    async with place.context() as at:
        return await (await at.gateway()).points.count(collection)


async def _delete(target: str) -> None:
    async with place.context() as at:
        await (await at.gateway()).delete_collection(target)


def steady_rate(collection: str, model: str, *, executor: str = "ray") -> float:
    """Points a second while there is work for all: loading the model and placing actors is no part of it, nor is the end, where some have none.

    A collection that wants several machines is so large that neither matters.
    """

    async def run() -> float:
        migration_id, target = await created(collection, model, executor=executor)
        worker = worker_of(migration_id)
        async with place.context() as at:
            gateway, ledger = await at.gateway(), await at.ledger()
            total = await gateway.points.count(collection)
            first: tuple[float, int] | None = None
            rate = 0.0
            while not rate:
                written, now = await gateway.points.count(target), time.perf_counter()
                first = first or ((now, written) if written else None)
                if first is not None and written >= UNTIL * total:
                    rate = (written - first[1]) / (now - first[0])
                    continue
                error = (await ledger.migration(migration_id)).error
                assert error is None, error
                assert worker.poll() is None, f"the worker ended with {worker.returncode}"
                await anyio.sleep(0.02)
            worker.send_signal(signal.SIGTERM)
            await anyio.to_thread.run_sync(worker.wait)
            await gateway.delete_collection(target)
            return rate

    return anyio.run(run)
