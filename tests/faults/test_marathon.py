"""Is nothing lost of 20,000 points when workers are killed at random under 200 writes a second, and swapped, rolled back and swapped again?

One smaller run a server, with a fixed seed, is what CI does. Twenty whole ones, each with a seed of its own:
`MARATHON_RUNS=20 python -m pytest -n 0 -s tests/faults/test_marathon.py`. MARATHON_SEED is that of the first run; MARATHON_POINTS and
MARATHON_RATE (writes a second) change the size. The lag of a slow machine is closed by slower writers and further tries, which the line of a
run tells.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import anyio
import numpy as np
import pytest

from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.records import Operation
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.errors import MigrationError
from tests.faults.apps import SIZE, Raw
from tests.faults.marathon import AFTER_SWAP, KINDS, OLD_SIZE, PointId, Readers, Writers
from tests.faults.scene import Scene, scene
from tests.servers import QdrantServer

RUNS = int(os.environ.get("MARATHON_RUNS", "0"))
IS_WHOLE = RUNS > 0
FIRST_SEED = int(os.environ.get("MARATHON_SEED", "1"))
PER_SECOND = float(os.environ.get("MARATHON_RATE", "230" if IS_WHOLE else "60"))
POINTS = int(os.environ.get("MARATHON_POINTS", "20000" if IS_WHOLE else "2500"))
PACE = POINTS / 25
"""Points a second while workers are killed, so that a fast machine is not at the end before."""
OLD_MODEL = f"builtin:hashing-{OLD_SIZE}"
MOST_KILLS = 5
MOST_REFUSED = 8
"""Tries of one swap."""
TOO_SLOW = (
    "did not come to equal",
    "could not be moved within",
    "a pass over both collections takes",
    "takes longer than writers may",
    "at the 95th percentile",
)
"""Refusals of a machine that is busy with something else at that moment: nothing has moved, and the next try may pass."""
PATIENCE_S = 1800.0 if IS_WHOLE else 300.0


@dataclass
class Run:
    """What one run came to."""

    server: str
    seed: int
    kills: int = 0
    writes: int = 0
    rate: float = 0.0
    missing: int = 0
    extra: int = 0
    changed: int = 0
    failed_queries: int = 0
    queries: int = 0
    refused_swaps: int = 0
    carried_over: int = 0
    unresolved: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.server} seed {self.seed}: {self.kills} kills, {self.writes} writes at {self.rate:.0f}/s, "
            f"missing {self.missing}, extra {self.extra}, changed {self.changed}, "
            f"{self.failed_queries} of {self.queries} queries failed, {self.refused_swaps} swaps refused, "
            f"{self.carried_over} late writes carried over, {self.unresolved} unresolved; {self.seconds:.0f} s"
        )

    def compare(self, expected: dict[PointId, Raw], found: dict[PointId, Raw], when: str) -> None:
        """Payloads as the writers know them, each with the new model's vector of its text."""
        model = HashingEmbedder(f"hashing-{SIZE}")
        missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
        changed = [
            i
            for i in expected.keys() & found.keys()
            if found[i]["payload"] != expected[i]
            or not found[i]["vector"]
            or np.abs(np.array(found[i]["vector"]) - model._embed_one(expected[i]["text"])).max() > 1e-5
        ]
        self.missing += len(missing)
        self.extra += len(extra)
        self.changed += len(changed)
        for what, ids in (("missing", missing), ("extra", extra), ("changed", changed)):
            self.wrong += [f"{when}: {what} {i}: {expected.get(i)} -> {(found.get(i) or {}).get('payload')}" for i in list(ids)[:5]]


async def killed_again_and_again(at: Scene, run: Run, rng: random.Random) -> None:
    """The backfill, whose workers are killed at random moments, until one reaches the end."""
    for _ in range(rng.randint(3, MOST_KILLS)):
        await at.start(concurrency=rng.choice((1, 2, 4)), points_per_second=PACE)
        pid = await at.until_driven(timeout_s=PATIENCE_S)
        await anyio.sleep(rng.uniform(0.2, 4.0))
        if (await at.migration()).phase is not Phase.BACKFILLING:
            break
        at.signal(pid, signal.SIGKILL)
        run.kills += 1
    if (await at.migration()).phase is Phase.BACKFILLING:
        await at.start(points_per_second=0)
    await at.until_phase("backfilled", timeout_s=PATIENCE_S)


async def proven(at: Scene, run: Run, writers: Writers, when: str) -> None:
    """The writers stop; after a repair the target is what they know, point by point; then they go on."""
    writers.pause()
    repaired = await at.operation("repair", {"provenance_sample": 100}, wait_s=PATIENCE_S)
    assert repaired.state == "done", at.log[-3000:]
    run.compare(writers.expected, at.target.points(), when)
    await at.until_phase("verified")
    writers.go_on()


async def swapped_under_writes(at: Scene, run: Run, writers: Writers, direction: Literal["forward", "back"] = "forward") -> None:
    """A swap that is refused is tried again as the refusal says."""
    writers.kinds = AFTER_SWAP
    for _ in range(MOST_REFUSED):
        try:
            done = await agreed(at, direction)
        except MigrationError as refusal:
            run.refused_swaps += 1
            await followed(at, writers, refusal)
            continue
        assert done.state == "done", at.log[-3000:]
        assert done.result is not None
        run.carried_over += done.result["write_gap"]["carried_over"]
        run.unresolved += done.result["write_gap"]["unresolved"]
        return
    raise AssertionError(f"refused at {writers.per_second:.0f} writes a second still")


async def agreed(at: Scene, direction: Literal["forward", "back"]) -> Operation:
    code = await at.plan(direction)
    return await at.operation("swap", {"direction": direction, "alias": None, "code": code}, key=f"swap-{code}", wait_s=PATIENCE_S)


async def followed(at: Scene, writers: Writers, refusal: MigrationError) -> None:
    """What a person would do: slow the writers down, try once more, or repeat a verification that is no longer good enough."""
    said = str(refusal)
    if "lag does not shrink" in said:
        writers.per_second /= 2
    elif not any(slow in said for slow in TOO_SLOW):
        assert "verif" in said, refusal
        done = await at.operation("verify", {"provenance_sample": 20}, wait_s=PATIENCE_S)
        assert done.state == "done", at.log[-3000:]


async def marathon(at: Scene, run: Run, rng: random.Random) -> None:
    sizes = {at.source.name: OLD_SIZE, at.target.name: SIZE}
    points = [{"id": i, "payload": p["payload"]} for i, p in at.source.points().items()]
    with (
        Readers(at.server, at.alias, sizes, seed=run.seed) as readers,
        Writers(at.server, at.alias, points, seed=run.seed, per_second=PER_SECOND) as writers,
    ):
        try:
            await killed_again_and_again(at, run, rng)
            await proven(at, run, writers, "after the backfill")
            await swapped_under_writes(at, run, writers)
            await anyio.sleep(rng.uniform(0.2, 5.0))
            # What was written through the alias meanwhile is in the target only, and is carried back.
            await swapped_under_writes(at, run, writers, "back")
            assert at.where()[at.alias] == at.source.name
            writers.kinds = KINDS
            await anyio.sleep(rng.uniform(0.2, 2.0))
            await at.start(points_per_second=0)
            await at.until_phase("backfilled", timeout_s=PATIENCE_S)
            await proven(at, run, writers, "after the rollback")
            await swapped_under_writes(at, run, writers)
            await anyio.sleep(rng.uniform(3.0, 6.0))
            writers.pause()
            run.compare(writers.expected, at.target.points(), "after the second swap")
        finally:
            run.writes, run.rate = writers.writes, writers.rate
            run.wrong += [f"a write failed: {f}" for f in writers.failures[:5]]
    run.queries, run.failed_queries = readers.answers.total(), len(readers.failures)
    run.wrong += readers.failures[:5]
    assert readers.answers[at.target.name], "no reader came to the target"


@asynccontextmanager
async def timed(run: Run) -> AsyncIterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        run.seconds = time.monotonic() - began
        print(run, flush=True)


@pytest.mark.slow
@pytest.mark.timeout(0 if IS_WHOLE else 900)
async def test_workers_killed_at_random_and_a_swap_a_rollback_and_a_swap_under_writes_lose_nothing(
    server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Run] = []
    for number in range(max(1, RUNS)):
        run = Run(server.version, FIRST_SEED + number)
        runs.append(run)
        async with (
            timed(run),
            scene(server, f"{name}-{number}", home, monkeypatch, points=POINTS, old_size=OLD_SIZE, current_model=OLD_MODEL) as at,
        ):
            await marathon(at, run, random.Random(run.seed))
        for collection in (at.source, at.target):
            collection.call("DELETE", "")
    print(
        f"{server.version}: {len(runs)} runs, {sum(r.kills for r in runs)} kills, {sum(r.writes for r in runs)} writes at "
        f"{min(r.rate for r in runs):.0f}/s or more, missing {sum(r.missing for r in runs)}, extra {sum(r.extra for r in runs)}, "
        f"changed {sum(r.changed for r in runs)}, failed queries {sum(r.failed_queries for r in runs)} of {sum(r.queries for r in runs)}"
    )
    assert [wrong for run in runs for wrong in run.wrong] == []
    assert all(run.kills for run in runs)
