"""What a fault test stands on: a collection, an app that writes to it, drivers as real processes, and an oracle of its own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any, Literal

import anyio
import pytest

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.records import Operation, OperationKind
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.environment import child_environment, read_settings
from qdrant_model_migration.operations.backfill import start_backfill
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.create_target import Request, create_target
from qdrant_model_migration.operations.requests import carry_out
from qdrant_model_migration.operations.swap_plan import plan_swap
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.results import FinishOutcome, RepairOutcome, SwapOutcome, Verification
from qdrant_model_migration.worker.detach import Drivers
from tests.faults.apps import OLD_SIZE, SIZE, Collection, Raw, point
from tests.servers import QdrantServer
from tests.servers import request as rest

MODEL = f"builtin:hashing-{SIZE}"
LEASE_S = 5.0
"""Short, so that a lost driver is replaced soon; a request may then take 2 s."""


async def _nobody(migration: Migration) -> None:
    """Starts no driver."""


# --- the migration


@dataclass
class Scene:
    """A migration under way, and the handles to disturb it."""

    server: QdrantServer
    context: OperationContext
    drivers: Drivers
    ledger: Ledger
    source: Collection
    target: Collection
    alias: str
    ids: list[int | str]
    migration_id: str
    home: Path
    by_hand: list[subprocess.Popen[bytes]] = field(default_factory=list)

    # reading

    async def migration(self) -> Migration:
        return await self.ledger.migration(self.migration_id)

    async def until(self, condition: Callable[[Migration], bool], *, timeout_s: float = 60.0) -> Migration:
        """The migration once it is so; fails with where it stands."""
        with anyio.move_on_after(timeout_s):
            while True:
                found = await self.migration()
                if condition(found):
                    return found
                await anyio.sleep(0.05)
        found = await self.migration()
        _, lease = await self.ledger.lease(self.migration_id)
        log = self.log[-3000:]
        raise AssertionError(f"after {timeout_s:.0f} s: {found.phase}, error {found.error}, lease {lease}\n{log}")

    async def until_phase(self, phase: str, *, timeout_s: float = 60.0) -> Migration:
        def is_there(found: Migration) -> bool:
            assert found.error is None, f"{found.error}\n{self.log[-3000:]}"
            return found.phase.value == phase

        return await self.until(is_there, timeout_s=timeout_s)

    async def until_written(self, points: int, *, timeout_s: float = 60.0) -> None:
        """Until the target holds so many points."""
        with anyio.fail_after(timeout_s):
            while self.target.call("POST", "/points/count", {"exact": True})["count"] < points:  # noqa: ASYNC110 - another process's doing
                await anyio.sleep(0.05)

    async def until_logged(self, text: str, *, timeout_s: float) -> None:
        with anyio.move_on_after(timeout_s):
            while text not in self.log:  # noqa: ASYNC110 - another process's doing
                await anyio.sleep(0.05)
            return
        raise AssertionError(f"{text!r} was not logged within {timeout_s:.0f} s:\n{self.log[-3000:]}")

    async def until_driven(self, *, by: int | None = None, timeout_s: float = 30.0) -> int:
        """The process that holds the lease, once one (or `by`) does."""
        with anyio.move_on_after(timeout_s):
            while True:
                _, lease = await self.ledger.lease(self.migration_id)
                if lease.owner is not None and lease.pid is not None and by in (None, lease.pid) and self._lives(lease.pid):
                    return lease.pid
                await anyio.sleep(0.05)
        raise AssertionError(f"nobody drives: {lease}\n{self.log[-3000:]}")

    @property
    def log(self) -> str:
        """What the drivers started by calls wrote."""
        path = self.home / "logs" / f"{self.migration_id}.log"
        return path.read_text() if path.exists() else ""

    # processes

    def _started(self) -> list[subprocess.Popen[bytes]]:
        return [*(child for child, _ in self.drivers._children.values()), *self.drivers._former, *self.by_hand]

    def _lives(self, pid: int) -> bool:
        return pid == os.getpid() or any(child.pid == pid and child.poll() is None for child in self._started())

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Only to a process that this test started and that still runs."""
        assert pid != os.getpid()
        assert self._lives(pid), f"process {pid} is not one of ours"
        os.kill(pid, number)
        if number is signal.SIGKILL:
            next(child for child in self._started() if child.pid == pid).wait(10)

    def worker(self, *, dies: str | None = None, of: Signals = SIGKILL, clock_off_s: int = 0) -> subprocess.Popen[bytes]:
        """`qdrant-model-migration worker <id>` by hand, as another machine would run it.

        `dies` names a function, as `module:Class.function` after the package's name, and `before` or `after`: the process sends itself
        the signal `of` when it gets there. `clock_off_s` is how much its machine's clock is wrong.
        """
        log = self.home / f"by-hand-{len(self.by_hand)}.log"
        command = [sys.executable, "-m", "qdrant_model_migration", "worker", self.migration_id]
        if dies is not None:
            command = [sys.executable, str(Path(__file__).with_name("dying.py")), dies, of.name, self.migration_id]
        if clock_off_s:
            command = [sys.executable, str(Path(__file__).with_name("skewed.py")), str(clock_off_s), self.migration_id]
        with log.open("wb") as out:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=child_environment(), cwd=self.home)
        self.by_hand.append(child)
        return child

    def log_of(self, child: subprocess.Popen[bytes]) -> str:
        return (self.home / f"by-hand-{self.by_hand.index(child)}.log").read_text()

    # calls

    async def start(self, **pace: Any) -> None:
        await start_backfill(self.context, migration_id=self.migration_id, **pace)

    async def start_elsewhere(self, **pace: Any) -> None:
        """Ask for the backfill without starting a driver: `worker` is to carry it out."""
        self.context.ensure_driver = _nobody
        await self.start(**pace)
        self.context.ensure_driver = self.drivers.ensure

    async def operation(self, kind: OperationKind, arguments: Raw, *, key: str | None = None, wait_s: float = 60.0) -> Operation:
        return await carry_out(self.context, await self.migration(), kind, arguments, key=key, wait_s=wait_s)

    async def verify(self) -> Verification:
        done = await self.operation("verify", {"provenance_sample": 100})
        assert done.state == "done", self.log[-3000:]
        return Verification.model_validate(done.result)

    async def repair(self) -> RepairOutcome:
        done = await self.operation("repair", {"provenance_sample": 100})
        assert done.state == "done", self.log[-3000:]
        return RepairOutcome.model_validate(done.result)

    async def verify_and_repair(self) -> None:
        """As a person would: repaired only when the verification says so, and then complete."""
        if not (await self.verify()).is_complete:
            repaired = await self.repair()
            assert repaired.verification.is_complete, repaired
        assert (await self.migration()).phase.value == "verified"

    async def plan(self, direction: Literal["forward", "back"] = "forward", *, fence: bool = True) -> str:
        return (await plan_swap(self.context, self.ledger, await self.migration(), direction, None, fence=fence)).code

    async def swap(self, direction: Literal["forward", "back"] = "forward", *, code: str | None = None, fence: bool = True) -> SwapOutcome:
        code = code or await self.plan(direction, fence=fence)
        done = await self.operation("swap", {"direction": direction, "alias": None, "code": code}, key=f"swap-{code}")
        assert done.state == "done", self.log[-3000:]
        return SwapOutcome.model_validate(done.result)

    async def finish(self, action: Literal["keep_old", "delete_old"], code: str) -> FinishOutcome:
        arguments = {"action": action, "snapshot_first": True, "code": code}
        done = await self.operation("finish", arguments, key=f"finish-{code}")
        assert done.state == "done", self.log[-3000:]
        return FinishOutcome.model_validate(done.result)

    def where(self) -> dict[str, str]:
        """Every alias of the server."""
        return {a["alias_name"]: a["collection_name"] for a in rest(f"{self.server.url}/aliases")["result"]["aliases"]}


@asynccontextmanager
async def scene(
    server: QdrantServer,
    name: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    points: int,
    model: str = MODEL,
    writes: Literal["frozen", "dual_write", "live"] = "live",
    lease_s: float = LEASE_S,
    old_size: int = OLD_SIZE,
    current_model: str | None = None,
    texts: Callable[[int], str] | None = None,
    environment: Mapping[str, str] | None = None,
    strategy: str = "new_collection",
    new_vector: str | None = None,
    indexes: Mapping[str, str] | None = None,
) -> AsyncIterator[Scene]:
    """A source of so many points (integers and UUIDs), an alias on it, and a migration whose target is created.

    The old vectors are the current model's where it is named, else random.
    """
    variables = {**server.environment, "QDRANT_MIGRATION_LEASE_SECONDS": str(lease_s), "QDRANT_MIGRATION_LEDGER": f"{name}-ledger"}
    for variable, value in {**variables, **(environment or {})}.items():
        monkeypatch.setenv(variable, value)
    rng = random.Random(1)
    source, alias = Collection(server, f"{name}-docs"), f"{name}-alias"
    ids: list[int | str] = [n if n % 4 else str(uuid.UUID(int=rng.getrandbits(128))) for n in range(1, points + 1)]
    rows = [point(rng, point_id, n, old_size) for n, point_id in enumerate(ids)]
    if texts is not None:
        for n, row in enumerate(rows):
            row["payload"]["text"] = texts(n)
    if current_model is not None:
        embedder = HashingEmbedder(current_model.removeprefix("builtin:"))
        for row in rows:
            row["vector"] = [float(x) for x in embedder._embed_one(row["payload"]["text"])]
    source.call("PUT", "", {"vectors": {"size": old_size, "distance": "Cosine"}})
    for key, kind in (indexes or {}).items():
        source.call("PUT", "/index?wait=true", {"field_name": key, "field_schema": kind})
    for start in range(0, points, 1000):
        source.upsert(rows[start : start + 1000])
    action = {"create_alias": {"collection_name": source.name, "alias_name": alias}}
    rest(f"{server.url}/collections/aliases", method="POST", body={"actions": [action]})
    made: Scene | None = None
    try:
        async with OperationContext(read_settings(), patience_s=20.0) as context:
            drivers = Drivers(context)
            context.ensure_driver = drivers.ensure
            request = Request(
                collection=source.name,
                strategy=strategy,
                model=model,
                current_model=current_model,
                text_field="text",
                target=f"{name}-new",
                writes=writes,
                new_vector=new_vector,
            )
            created = await create_target(context, request)
            ledger = await context.ledger()
            target = Collection(server, f"{name}-new")
            made = Scene(server, context, drivers, ledger, source, target, alias, ids, created.migration_id, home)
            yield made
    finally:
        for child in made._started() if made is not None else []:
            if child.poll() is None:
                child.kill()
            child.wait(10)
