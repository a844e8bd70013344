"""Does an app that writes by the dual-write snippet, as create_target gives it, leave a target that is what the recipes say of the source?

The app is a process of its own, with the plain client and the snippet's text in a file. The comparison shares nothing with the product.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import numpy as np
import pytest
from anyio import to_thread
from qdrant_client import QdrantClient

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.environment import child_environment
from qdrant_model_migration.operations.backfill import control_backfill, start_backfill
from qdrant_model_migration.operations.create_target import Request, create_target
from qdrant_model_migration.operations.repair import repair
from qdrant_model_migration.operations.work import open_work
from qdrant_model_migration.worker.driver import Driver
from tests.conftest import Backend
from tests.faults.apps import OLD_SIZE, Collection, Raw, differences
from tests.faults.dual_app import KINDS
from tests.faults.scene import MODEL, Scene, scene
from tests.qdrant.seeds import opened, seed
from tests.servers import QdrantServer

POINTS = 1500
WIDE = 2**63 + 5
"""An integer that a client by gRPC reads as a float."""


async def _nobody(migration: Migration) -> None:
    """Starts no driver."""


@contextmanager
def app(home: Path, snippet: str, client: Raw, *, ids: list[int | str], seed: int, size: int = OLD_SIZE) -> Iterator[AppProcess]:
    code, config = home / "dual_writes.py", home / "config.json"
    code.write_text(snippet)
    config.write_text(json.dumps({"client": client, "ids": ids, "seed": seed, "size": size, "model": MODEL.removeprefix("builtin:")}))
    command = [sys.executable, "-m", "tests.faults.dual_app", str(code), str(config)]
    with (home / "app.log").open("ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=child_environment(), cwd=Path(__file__).parents[2]
        )
        try:
            yield AppProcess(child, home / "app.log")
        finally:
            # Its input ends, and so does it.
            child.communicate(timeout=30)


class AppProcess:
    """The app, seen from outside."""

    def __init__(self, child: subprocess.Popen[bytes], log: Path) -> None:
        self._child = child
        self._log = log

    async def writes(self, count: int) -> Raw:
        """So many more writes, none of which may fail; what it has done so far."""

        def ask() -> bytes:
            assert self._child.stdin is not None
            assert self._child.stdout is not None
            self._child.stdin.write(f"{count}\n".encode())
            self._child.stdin.flush()
            return self._child.stdout.readline()

        with anyio.fail_after(120):
            answer = await to_thread.run_sync(ask)
        assert answer, self.log
        told: Raw = json.loads(answer)
        assert told["failures"] == []
        return told

    @property
    def log(self) -> str:
        return self._log.read_text()


async def snippet_of(at: Scene) -> str:
    """As the tool gives it: the same call again returns the same migration."""
    migration = await at.migration()
    request = Request(
        collection=at.source.name, strategy=migration.strategy, model=MODEL, text_field="text", target=at.target.name, writes="dual_write"
    )
    found = await create_target(at.context, request)
    assert found.migration_id == at.migration_id
    return found.dual_write_snippet


def textless(source: Collection) -> frozenset[int | str]:
    return frozenset(i for i, p in source.points().items() if not (p["payload"] or {}).get("text"))


def seed_wide(source: Collection) -> list[int | str]:
    """Points that hold integers beyond 2**63, some under ids beyond it."""
    wide: list[int | str] = [2**63 + 1, 2**64 - 1, 77_777_777]
    rows = [{"id": i, "vector": [0.5] * OLD_SIZE, "payload": {"text": f"wide {i}", "n": n, "wide": WIDE + n}} for n, i in enumerate(wide)]
    source.upsert(rows)
    return wide


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["REST", "gRPC"])
@pytest.mark.parametrize("strategy", ["new_collection", "side_by_side"])
async def test_what_the_snippet_writes_before_and_behind_the_cursor_is_in_the_target_in_the_end(
    server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, transport: str
) -> None:
    """Every kind of write, while the backfill stands, runs, has ended, and while the target takes no writes at all."""
    async with scene(server, name, home, monkeypatch, points=POINTS, writes="dual_write", strategy=strategy) as at:
        wide = seed_wide(at.source)
        client: Raw = {"url": server.url, "check_compatibility": False, "timeout": 60}
        if transport == "gRPC":
            client |= {"prefer_grpc": True, "grpc_port": int(server.environment["QDRANT_GRPC_PORT"])}
        with app(home, await snippet_of(at), client, ids=[*at.ids, *wide], seed=3) as writer:
            # A pause is seen at the next beat: at this pace the cursor is far from the end then, also on a busy machine.
            await at.start(points_per_second=100)
            await at.until_written(POINTS // 3)
            await control_backfill(at.context, migration_id=at.migration_id, action="pause")
            told = await writer.writes(8 * len(KINDS))
            held = at.target.call("POST", "/points/count", {"exact": True})["count"]
            assert held < POINTS - 100, "the cursor was at the end already"
            await control_backfill(at.context, migration_id=at.migration_id, action="resume")
            await at.start(points_per_second=400)
            told = await writer.writes(12 * len(KINDS))
            await at.until_phase("backfilled", timeout_s=120)
            told = await writer.writes(4 * len(KINDS))
            assert min(told["done"][kind] for kind in KINDS) == 24
            warnings = writer.log.count("target not updated; the catch-up will")
            assert warnings == 0, writer.log[-2000:]
            # A target that refuses every write: the app's requests go on, and what is missed is carried over.
            at.target.call("PATCH", "", {"strict_mode_config": {"enabled": True, "write_rate_limit": 1}})
            await writer.writes(3 * len(KINDS))
            assert "target not updated; the catch-up will" in writer.log
            for side in (at.source, at.target):
                side.call("PATCH", "", {"strict_mode_config": {"enabled": False, "write_rate_limit": 1}})
        for number, i in enumerate(wide):
            at.source.set_payload(i, {"wide": WIDE + number})
        await at.verify_and_repair()
        if strategy == "new_collection":
            assert differences(at.source, at.target, without_vector=textless(at.source)) == []
            return
        field = (await at.migration()).making.field
        await at.swap()
        await at.start()
        await at.until(lambda m: m.filled is not None and m.filled.has_converged)
        assert differences(at.source, at.target, without_vector=textless(at.source), beside=field) == []


async def test_in_the_embedded_database_the_app_and_the_migration_take_turns(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process at a time may open it: the app writes before the backfill, and again behind its cursor."""
    environment = {"QDRANT_PATH": str(tmp_path / "qdrant"), "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    backend = Backend(name="embedded", environment=environment, version=None)
    ids: list[int | str] = list(range(60))
    request = Request(collection=name, strategy="new_collection", model=MODEL, text_field="text", target=f"{name}-new", writes="dual_write")
    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=len(ids))
        made = await create_target(context, request)
    client: Raw = {"path": str(tmp_path / "qdrant")}
    for round_ in range(2):
        with app(home, made.dual_write_snippet, client, ids=ids, seed=round_, size=64) as writer:
            await writer.writes(len(KINDS))
            assert "target not updated" not in writer.log, writer.log[-2000:]
        ids = ids_of(client, name)
        async with opened(backend, monkeypatch) as context:
            context.ensure_driver = _nobody
            if round_ == 0:
                await start_backfill(context, migration_id=made.migration_id)
                await Driver(context, made.migration_id, idle_exit_s=0.0).run()
            work = await open_work(context, await (await context.ledger()).migration(made.migration_id), lambda: None)
            assert work.migration.phase is Phase.BACKFILLED
            outcome = await repair(work, provenance_sample=50)
            assert outcome.verification.is_complete, outcome.verification.problems
    embedder = HashingEmbedder(MODEL.removeprefix("builtin:"))
    local = QdrantClient(**client)
    try:
        sources, targets = (
            {p.id: p for p in local.scroll(collection, limit=10_000, with_vectors=True)[0]} for collection in (name, f"{name}-new")
        )
    finally:
        local.close()
    assert sources.keys() == targets.keys()
    for i, source in sources.items():
        target, payload = targets[i], source.payload or {}
        assert payload == (target.payload or {}), i
        words = payload.get("text")
        assert bool(target.vector) is bool(words), i
        if words:
            assert np.abs(np.array(target.vector) - embedder._embed_one(words)).max() < 1e-5, i


def ids_of(client: Raw, collection: str) -> list[int | str]:
    local = QdrantClient(**client)
    try:
        return [i for p in local.scroll(collection, limit=10_000)[0] if isinstance(i := p.id, int | str)]
    finally:
        local.close()
