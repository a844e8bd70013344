"""What does one actor of a Ray cluster do? It works ranges for the driver, with the same reads, guards and writes, and reports each window.

Only the driver writes checkpoints. An actor reads its settings, keys among them, from the environment of its own node: nothing secret travels
through Ray. It stops by itself when the driver's lease is no longer renewed.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import anyio

from qdrant_model_migration import errors
from qdrant_model_migration.domain.own_operations import OwnOperations
from qdrant_model_migration.domain.ranges import Range
from qdrant_model_migration.errors import MigrationError, RateLimited, SettingsError, TransientEmbedding

PACE_EVERY_S = 1.0


class RangeActor:
    """One process on one node. `open` runs for as long as the actor lives; `work_range` is called beside it."""

    def __init__(self, migration_id: str, connection: str, epoch: int, *, actors: int, threads: int, inserts_by_mode: bool) -> None:
        self._id, self._connection, self._epoch = migration_id, connection, epoch
        self._actors = actors
        self._inserts_by_mode = inserts_by_mode
        # Ray counts cores, and the model is to use as many.
        os.environ.setdefault("QDRANT_MIGRATION_EMBEDDING_THREADS", str(threads))
        self._opened = asyncio.Event()
        self._failure: MigrationError | None = None
        self._work: Any = None
        self._watched: Any = None

    async def open(self) -> None:
        """Connect, load the model, and keep the right to write up to date; until the actor is killed, or the lease is lost."""
        from qdrant_model_migration.environment import read_settings
        from qdrant_model_migration.operations.canary import watch_source
        from qdrant_model_migration.operations.context import OperationContext
        from qdrant_model_migration.operations.work import open_work
        from qdrant_model_migration.worker.watching import WatchedLease

        try:
            async with OperationContext(read_settings(), patience_s=20.0) as context:
                ledger = await context.ledger(self._connection)
                watched = WatchedLease(ledger, self._id, self._epoch)
                await watched.look()
                if context.settings.lease_s > watched.lease_s:
                    raise SettingsError(
                        f"QDRANT_MIGRATION_LEASE_SECONDS is {context.settings.lease_s:g} on this node and {watched.lease_s:g} where the driver runs: set the same."
                    )
                work = await open_work(context, await ledger.migration(self._id), watched.check, self._epoch)
                work.target = work.target.guarded(watched.check)
                work.inserts_by_mode, work.own = self._inserts_by_mode, OwnOperations()
                work.progress.stage = "backfilling"
                if work.made is not None and not work.made.is_derived and work.makes_now:
                    await work.embedder()
                await watched.until_seen_renewed()
                self._work, self._watched = work, watched
                async with anyio.create_task_group() as group:
                    group.start_soon(self._follow_pace)
                    group.start_soon(watch_source, work)
                    self._opened.set()
                    await watched.watch()
                    group.cancel_scope.cancel()
        except MigrationError as error:
            self._failure = error
        finally:
            self._opened.set()

    async def _follow_pace(self) -> None:
        """The pace as the ledger says; a rate is shared among the actors."""
        while True:
            try:
                pace = await self._work.ledger.pace(self._id)
            except MigrationError:
                # An outage: the pace that is known holds.
                await asyncio.sleep(PACE_EVERY_S)
                continue
            rate = pace.points_per_second
            self._work.pace = pace if rate is None else pace.model_copy(update={"points_per_second": rate / self._actors})
            await asyncio.sleep(PACE_EVERY_S)

    async def ready(self) -> str | None:
        """None once it can work; else what keeps it from working, as `outcome` writes it."""
        await self._opened.wait()
        return outcome(self._failure) if self._failure is not None else None

    async def work_range(self, given: str) -> AsyncIterator[str]:
        """Work a range from its checkpoint on. After each window, a report: the range as it is then, and the numbers of our writes; or the error that ended it."""
        from qdrant_model_migration.worker.pipeline import Pipeline

        await self._opened.wait()
        if self._failure is not None:
            yield outcome(self._failure)
            return
        reports: asyncio.Queue[str | None] = asyncio.Queue()

        async def report(current: Range) -> None:
            spans = self._work.own.record.spans
            self._work.own = OwnOperations()
            await reports.put(json.dumps({"range": current.model_dump(), "own": spans}))

        async def work() -> None:
            try:
                await Pipeline(self._work, is_stopping=self._is_stopping, save=report).work_range(Range.model_validate_json(given))
            except MigrationError as error:
                await reports.put(outcome(error))
            finally:
                await reports.put(None)

        task = asyncio.ensure_future(work())
        try:
            while (said := await reports.get()) is not None:
                yield said
            await task
        finally:
            task.cancel()

    def _is_stopping(self) -> bool:
        return bool(self._watched.is_lost or self._work.pace.is_paused)


def outcome(error: MigrationError) -> str:
    """An error as a report: the name of its class and what it says."""
    retry_after_s = error.retry_after_s if isinstance(error, RateLimited | TransientEmbedding) else None
    return json.dumps({"error": type(error).__name__, "text": str(error), "retry_after_s": retry_after_s})


def raised(report: dict[str, Any], node: str) -> MigrationError:
    """The error of a report, as if it had happened here."""
    kind = getattr(errors, report["error"], MigrationError)
    text = f"{report['text']} (on {node})"
    if issubclass(kind, RateLimited | TransientEmbedding):
        return kind(text, report["retry_after_s"])
    assert issubclass(kind, MigrationError)
    return kind(text)
