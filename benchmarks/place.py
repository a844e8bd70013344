"""Where is measured? A real Qdrant of its own on loopback, a source collection in it, and one migration driven in this process."""

from __future__ import annotations

import gc
import itertools
import os
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from qdrant_client import QdrantClient, models

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.operations.backfill import start_backfill
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.create_target import Request, create_target
from qdrant_model_migration.operations.verify import verify
from qdrant_model_migration.operations.work import open_work
from qdrant_model_migration.worker import phase_work
from qdrant_model_migration.worker.driver import Driver
from qdrant_model_migration.worker.pipeline import Pipeline
from tests.servers import QdrantServer

OLD_SIZE = 384
SOURCE, MIXED = "docs", "paragraphs"


@contextmanager
def server(version: str = "1.17.0") -> Iterator[QdrantServer]:
    """A server that ends, with what it stored, when the block does; our own settings point to it, over gRPC."""
    # As a worker does when it has started.
    gc.freeze()
    with another_server(version) as running:
        os.environ.update(running.environment, QDRANT_PREFER_GRPC="true", QDRANT_MIGRATION_LOG_DIRECTORY=str(running.folder / "logs"))
        yield running


@contextmanager
def another_server(version: str = "1.17.0") -> Iterator[QdrantServer]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        running = QdrantServer(version, Path(folder) / "qdrant")
        running.start()
        try:
            yield running
        finally:
            running.stop()
            running.discard()


def client(running: QdrantServer, *, grpc: bool = False) -> QdrantClient:
    return QdrantClient(url=running.url, grpc_port=running.grpc_port, prefer_grpc=grpc, timeout=60)


def fill_source(running: QdrantServer, texts: Iterable[str], *, name: str = SOURCE, is_indexed: bool = True) -> None:
    """A collection of these texts with random vectors of 384 dimensions."""
    speaker, rng = client(running, grpc=True), np.random.default_rng(1)
    never = None if is_indexed else models.OptimizersConfigDiff(indexing_threshold=0)
    vectors_config = models.VectorParams(size=OLD_SIZE, distance=models.Distance.COSINE)
    speaker.create_collection(name, vectors_config=vectors_config, optimizers_config=never)
    remaining = iter(texts)
    for start in itertools.count(0, 1000):
        part = list(itertools.islice(remaining, 1000))
        if not part:
            break
        vectors = rng.standard_normal((len(part), OLD_SIZE)).astype(np.float32)
        points = [models.PointStruct(id=start + i, vector=v.tolist(), payload={"text": t, "n": start + i}) for i, (t, v) in enumerate(zip(part, vectors, strict=True))]  # fmt: skip
        speaker.upsert(name, points, wait=True)
    speaker.close()


@dataclass(kw_only=True)
class Driven:
    """What one migration took. `filling_s` is until every point was written, `seconds` until the target was found equal as well."""

    points: int
    seconds: float
    filling_s: float


@contextmanager
def _filling() -> Iterator[list[float]]:
    """The seconds that the pipeline alone takes."""
    took: list[float] = []

    class Timed(Pipeline):
        async def run(self) -> None:
            began = time.perf_counter()
            await super().run()
            took.append(time.perf_counter() - began)

    phase_work.Pipeline = Timed  # type: ignore[attr-defined]
    try:
        yield took
    finally:
        phase_work.Pipeline = Pipeline  # type: ignore[attr-defined]


@asynccontextmanager
async def context() -> AsyncIterator[OperationContext]:
    async with OperationContext(read_settings(), patience_s=20.0) as made:

        async def nobody(_: Any) -> None:
            """No process is started: the driver runs here."""

        made.ensure_driver = nobody
        yield made


def migrated(collection: str = SOURCE, **request: Any) -> Driven:
    """One migration until its target is backfilled; the target is deleted."""

    async def run() -> Driven:
        async with context() as at:
            migration_id, driven = await _driven(at, collection, request)
            await (await at.gateway()).delete_collection((await (await at.ledger()).migration(migration_id)).target.collection)
            return driven

    return anyio.run(run)


def copied() -> float:
    """Points a second of the copying stage of side_by_side."""
    driven = migrated(strategy="side_by_side", model="builtin:hashing-64", new_vector="new", text_field="text")
    return driven.points / driven.filling_s


async def prepared(model: str) -> Migration:
    """A migration that is backfilled, to be verified."""
    async with context() as at:
        migration_id, _ = await _driven(at, SOURCE, {"strategy": "new_collection", "model": model, "text_field": "text"})
        migration = await (await at.ledger()).migration(migration_id)
        for name in (migration.source.collection, migration.target.collection):
            # What builds an index meanwhile takes the processor from both.
            while (await (await at.gateway()).describe(name)).status != "green":  # noqa: ASYNC110 - the server's doing
                await anyio.sleep(0.5)
        return migration


async def verified(migration: Migration) -> float:
    """Points a second of a verification without provenance."""
    async with context() as at:
        work = await open_work(at, migration, lambda: None)
        began = time.perf_counter()
        found = await verify(work, provenance_sample=0)
        seconds = time.perf_counter() - began
        assert found.missing == found.extra == found.changed == 0
        return found.source_points / seconds


async def _driven(at: OperationContext, collection: str, request: dict[str, Any]) -> tuple[str, Driven]:
    created = await create_target(at, Request(collection=collection, target=f"new-{uuid.uuid4().hex[:8]}", writes="frozen", **request))
    await start_backfill(at, migration_id=created.migration_id)
    driver = Driver(at, created.migration_id, idle_exit_s=0.0)
    began = time.perf_counter()
    with _filling() as took:
        await driver.run()
    seconds = time.perf_counter() - began
    ledger = await at.ledger()
    migration = await ledger.migration(created.migration_id)
    assert migration.phase is Phase.BACKFILLED, migration.error
    written = sum(r.written for r in await ledger.ranges(created.migration_id))
    return migration.id, Driven(points=written, seconds=seconds, filling_s=took[0])
