"""Two servers, as a person configures them: the source on the default connection, the target on the one named 'new'."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import MigrationError
from qdrant_model_migration.operations.backfill import start_backfill
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.create_target import Request, create_target
from qdrant_model_migration.operations.requests import carry_out
from qdrant_model_migration.operations.status import status
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import CreateTargetResult, SwapOutcome, Verification
from qdrant_model_migration.worker.driver import Driver
from tests.qdrant.seeds import text
from tests.servers import QdrantServer

FAR = "new"
POINTS = 60


def connections(near: QdrantServer | Path, far: QdrantServer | Path, name: str) -> dict[str, str]:
    """The environment: `near` is the default connection, `far` the named one; each a server or an embedded database's folder."""
    environment = {"QDRANT_PATH": str(near)} if isinstance(near, Path) else dict(near.environment)
    if isinstance(far, Path):
        entry: dict[str, Any] = {"path": str(far)}
    else:
        entry = {"url": far.url, "grpc_port": far.grpc_port}
        if far.api_key is not None:
            environment["FAR_KEY"] = far.api_key
            entry["key_variable"] = "FAR_KEY"
    return {**environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations", "QDRANT_MIGRATION_CONNECTIONS": json.dumps({FAR: entry})}


@asynccontextmanager
async def opened(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, patience_s: float = 6.0
) -> AsyncIterator[OperationContext]:
    """A context whose migrations are driven in this process."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    async with OperationContext(read_settings(), patience_s=patience_s) as context:
        driven: set[str] = set()

        async def drive(migration: Migration) -> None:
            try:
                await Driver(context, migration.id, connection=migration.target.connection, idle_exit_s=1.0).run()
            except MigrationError as error:
                logging.getLogger(__name__).warning("%s", error)
            finally:
                driven.discard(migration.id)

        async def ensure(migration: Migration) -> None:
            if migration.id not in driven:
                driven.add(migration.id)
                context.background.start_soon(drive, migration)

        context.ensure_driver = ensure
        yield context


@dataclass(kw_only=True)
class Move:
    """A migration across, and the calls that a person makes."""

    context: OperationContext
    made: CreateTargetResult

    @property
    def id(self) -> str:
        return self.made.migration_id

    async def now(self) -> Migration:
        return await (await self.context.ledger(FAR)).migration(self.id)

    async def until_backfilled(self) -> None:
        with anyio.fail_after(90):
            while True:
                found = await status(self.context, migration_id=self.id, wait_seconds=5)
                assert found.error is None, found.error
                if found.phase not in ("target_created", "backfilling"):
                    return

    async def backfilled(self) -> None:
        await start_backfill(self.context, migration_id=self.id)
        await self.until_backfilled()

    async def done(self, kind: Any, **arguments: Any) -> dict[str, Any]:
        """The outcome of an operation that is asked for until it is done."""
        key = f"{kind}-{arguments['code']}" if "code" in arguments else None
        with anyio.fail_after(120):
            while True:
                operation = await carry_out(self.context, await self.now(), kind, arguments, key=key)
                if operation.state == "done":
                    assert operation.result is not None
                    return operation.result

    async def verified(self) -> Verification:
        return Verification.model_validate(await self.done("verify", provenance_sample=30))

    async def swapped(self, code: str, direction: str = "forward", alias: str | None = None) -> SwapOutcome:
        return SwapOutcome.model_validate(await self.done("swap", direction=direction, alias=alias, code=code))


async def moved(context: OperationContext, collection: str, strategy: str, **arguments: Any) -> Move:
    """A migration to the far connection, its target created."""
    asked = {"text_field": "text", "writes": "frozen", "target_connection": FAR, **arguments}
    request = Request(collection=collection, strategy=strategy, **asked)
    with anyio.fail_after(120):
        while True:
            made = await create_target(context, request)
            if made.state == "done":
                return Move(context=context, made=made)


async def seed_rich(context: OperationContext, name: str, *, model: str, points: int = POINTS, rotated: int | None = None) -> None:
    """Dense 'old', sparse 'words' and multivector 'tokens'; `rotated` gives the dense one that many dimensions by a rotation, as of another model."""
    gateway = await context.gateway()
    embedder = await context.catalogue.load(model)
    rows = await embedder.embed([text(n) for n in range(points)], Side.DOCUMENT)
    if rotated is not None:
        rows = (rows @ np.linalg.qr(np.random.default_rng(7).normal(size=(rotated, rows.shape[1])))[0].T).astype(np.float32)
    tokens = {"size": 4, "distance": "Cosine", "multivector_config": {"comparator": "max_sim"}, "hnsw_config": {"m": 0}}
    create = {
        "vectors": {"old": {"size": rows.shape[1], "distance": "Cosine"}, "tokens": tokens},
        "sparse_vectors": {"words": {"modifier": "idf"}},
    }
    await gateway.create_collection(name, create)
    if not gateway.connection.is_embedded:
        await gateway.create_payload_index(name, "n", {"data_type": "integer"})
    made = [
        Point(
            id=n,
            payload={"text": text(n), "n": n, "wide": 2**62 + n},
            vectors={
                "old": rows[n].tolist(),
                "words": {"indices": [n % 7, 10 + n % 5], "values": [0.5, 1.5]},
                "tokens": [[1.0, 0.0, 0.0, float(n)], [0.0, 1.0, 0.5, 0.25]],
            },
        )
        for n in range(points)
    ]
    for start in range(0, points, 100):
        await gateway.points.write(name, made[start : start + 100])
    await gateway.point_alias(f"{name}-live", name)


async def held(gateway: Gateway, collection: str, *fields: str) -> dict[Any, Point]:
    """Everything that a collection holds."""
    found: dict[Any, Point] = {}
    offset: Any = None
    while True:
        page, offset = await gateway.points.scroll(collection, offset=offset, limit=500, vectors=fields)
        found |= {p.id: p for p in page}
        if offset is None:
            return found


def close(a: Any, b: Any) -> bool:
    return bool(np.allclose(np.array(a, dtype=np.float32), np.array(b, dtype=np.float32), atol=1e-5))
