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


@dataclass(frozen=True, kw_only=True)
class Worked:
    """One migration by worker processes: seconds from their start to the end of the backfill, and the most memory that one of them held."""

    points: int
    seconds: float
    peak_mb: float


def worked(collection: str, model: str, *, kill_at: float | None = None, executor: str = "local", **pace: Any) -> Worked:
    """A migration to a target that is deleted afterwards; the worker is killed once so much of it is written, and another one goes on."""

    async def prepare() -> tuple[str, str, int]:
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
            points = await (await at.gateway()).points.count(collection)
            return made.migration_id, made.target.collection, points

    migration_id, target, points = anyio.run(prepare)
    began, peak_kb = time.perf_counter(), 0
    worker = worker_of(migration_id)
    if kill_at is not None:
        anyio.run(until_written, target, int(points * kill_at))
        worker.send_signal(signal.SIGKILL)
        peak_kb = _ended(worker)
        worker = worker_of(migration_id)
    ended = anyio.run(_until_backfilled, migration_id)
    worker.send_signal(signal.SIGTERM)
    peak_kb = max(peak_kb, _ended(worker))
    anyio.run(_delete, target)
    return Worked(points=points, seconds=ended - began, peak_mb=peak_kb / 1024)


def worker_of(migration_id: str) -> subprocess.Popen[bytes]:
    """A worker process of a migration."""
    command = [sys.executable, "-m", "qdrant_model_migration", "worker", migration_id, "--idle-exit", "600"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=child_environment()
    )


def _ended(worker: subprocess.Popen[bytes]) -> int:
    """Its peak of resident memory, in kB."""
    _, status, usage = os.wait4(worker.pid, 0)
    worker.returncode = os.waitstatus_to_exitcode(status)
    return int(usage.ru_maxrss)


async def until_written(target: str, points: int) -> None:
    """Until the target holds so many points."""
    async with place.context() as at:
        gateway = await at.gateway()
        while await gateway.points.count(target) < points:  # noqa: ASYNC110 - another process's doing
            await anyio.sleep(0.05)


async def _until_backfilled(migration_id: str) -> float:
    async with place.context() as at:
        ledger = await at.ledger()
        while True:
            found = await ledger.migration(migration_id)
            assert found.error is None, found.error
            if found.phase is Phase.BACKFILLED:
                return time.perf_counter()
            await anyio.sleep(0.05)


async def _delete(target: str) -> None:
    async with place.context() as at:
        await (await at.gateway()).delete_collection(target)


def steady_rate(collection: str, model: str, *, executor: str = "ray") -> float:
    """Points a second from the first window on: loading the model and placing actors is no part of it."""

    async def run() -> float:
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
            await start_backfill(at, migration_id=made.migration_id, executor=executor)  # type: ignore[arg-type]
            worker = worker_of(made.migration_id)
            gateway, ledger = await at.gateway(), await at.ledger()
            total = await gateway.points.count(collection)
            first: tuple[float, int] | None = None
            rate = 0.0
            while not rate:
                written, now = await gateway.points.count(made.target.collection), time.perf_counter()
                first = first or ((now, written) if written else None)
                if first is not None and written == total:
                    rate = (written - first[1]) / (now - first[0])
                    continue
                error = (await ledger.migration(made.migration_id)).error
                assert error is None, error
                await anyio.sleep(0.02)
            worker.send_signal(signal.SIGTERM)
            await anyio.to_thread.run_sync(worker.wait)
            await gateway.delete_collection(made.target.collection)
            return rate

    return anyio.run(run)
