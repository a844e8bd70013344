"""What do failing texts and failing providers cost? The texts at fault, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anyio
import pytest

from qdrant_model_migration.embedders import providers
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.worker.driver import Driver
from qdrant_model_migration.worker.lease import HeldLease
from tests.faults.apps import SIZE, differences
from tests.faults.scene import Scene, scene
from tests.openai_server import Answer, OpenAIServer, refusal
from tests.servers import QdrantServer

POISONED = 321


def texts(number: int) -> str:
    return f"report {number} on wing flutter" + (" POISON" if number == POISONED else "")


def environment(provider: OpenAIServer) -> dict[str, str]:
    models = {"away": {"provider": "openai", "model": "m", "base_url": provider.base_url, "dimensions": SIZE}}
    return {"QDRANT_MIGRATION_MODELS": json.dumps(models)}


async def test_a_poison_text_among_rate_limits_and_crashes_of_the_provider_costs_one_accounted_point(
    server_1_16: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer(SIZE) as provider:
        async with scene(
            server_1_16, name, home, monkeypatch, points=800, model="away", texts=texts, environment=environment(provider)
        ) as at:
            await at.start()
            provider.script += [
                Answer(),
                refusal("slow down", 429, headers={"retry-after": "1"}),
                Answer(status=500, body="oops"),
                Answer(hang_up=True),
                Answer(status=503, body={"error": {"message": "overloaded"}}),
            ]
            await at.until_phase("backfilled")
            found = await at.ledger.failed(at.migration_id)
            assert [(f.point_id, f.is_stored) for f in found] == [(f"i:{at.ids[POISONED]}", True)]
            verified = await at.verify()
            assert (verified.is_complete, verified.accounted) == (True, 1)
            assert differences(at.source, at.target, without_vector=frozenset({at.ids[POISONED]})) == []


async def test_no_tolerance_for_failed_points_stops_clearly_and_goes_on_under_a_higher_limit(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer(SIZE) as provider:
        async with scene(
            server_1_17, name, home, monkeypatch, points=800, model="away", texts=texts, environment=environment(provider)
        ) as at:
            await at.start(max_failed_points=0)
            stopped = await at.until(lambda m: m.error is not None)
            assert stopped.error is not None
            assert "1 points could not be embedded, more than max_failed_points=0" in stopped.error
            assert stopped.phase.value == "backfilling"
            await at.start(max_failed_points=5)
            await at.until_phase("backfilled")
            asked = [t for r in provider.requests for t in r.texts if "POISON" not in t]
            assert len(await at.ledger.failed(at.migration_id)) == 1
            assert (await at.verify()).accounted == 1
            assert differences(at.source, at.target, without_vector=frozenset({at.ids[POISONED]})) == []
            assert asked


async def driven(at: Scene) -> str | None:
    """Drive in this process until the backfill is done (None) or stopped with the error given back."""
    stopped = anyio.Event()
    await at.start_elsewhere()
    async with anyio.create_task_group() as group:
        group.start_soon(Driver(at.context, at.migration_id, is_stopping=stopped.is_set).run)
        found = await at.until(lambda m: m.error is not None or m.phase.value == "backfilled")
        stopped.set()
    return found.error


async def test_answers_that_cannot_be_vectors_stop_the_backfill_before_a_write_and_bad_rows_cost_only_their_points(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong counts and sizes are the model's fault: nothing of them is used. NaN and zeros are a text's, until the model mends."""
    monkeypatch.setattr(providers, "TIMEOUT_S", 1.0)
    not_finite, without_length = (HashingEmbedder(f"hashing-{SIZE}")._embed_one(texts(n)).tolist() for n in (5, 6))

    def spoiled(rows: list[list[float]]) -> list[list[float]]:
        is_bad = {tuple(not_finite): float("nan"), tuple(without_length): 0.0}
        return [[is_bad[tuple(row)]] * SIZE if tuple(row) in is_bad else row for row in rows]

    with OpenAIServer(SIZE) as provider:
        async with scene(
            server_1_17, name, home, monkeypatch, points=150, model="away", texts=texts, environment=environment(provider)
        ) as at:
            for spoil, said in (
                (lambda rows: rows[:-1], "texts with .* vectors; nothing of it was used"),
                (lambda rows: [*rows, rows[0]], "texts with .* vectors; nothing of it was used"),
                (lambda rows: [row[:5] for row in rows], f"5 dimensions; it had {SIZE}"),
                (lambda rows: [*rows[:-1], rows[-1][:5]], "vectors of varying size"),
            ):
                provider.always = Answer(spoil=spoil)
                error = await driven(at)
                assert error is not None
                assert re.search(said, error), error
                assert at.target.points() == {}
            provider.always = Answer(spoil=spoiled)
            provider.script = [Answer(delay_s=3.0), Answer(hang_up=True)]
            assert await driven(at) is None
            failed = await at.ledger.failed(at.migration_id)
            bad = frozenset(at.ids[n] for n in (5, 6))
            assert {f.point_id for f in failed} == {f"i:{i}" if isinstance(i, int) else f"u:{i}" for i in bad}
            assert all("zero or not finite" in f.reason for f in failed)
            assert differences(at.source, at.target, without_vector=bad) == []
            provider.always = None
            assert (await at.repair()).verification.accounted == 0
            assert differences(at.source, at.target) == []


async def test_a_start_while_the_stopped_driver_still_holds_its_lease_is_not_forgotten(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call sees a driver and starts none; that driver is leaving, and has to look once more."""
    with OpenAIServer(SIZE) as provider:
        async with scene(
            server_1_17, name, home, monkeypatch, points=400, model="away", texts=texts, environment=environment(provider)
        ) as at:
            stop, starts = Driver._stop_with, list[str]()

            async def stop_and_start(self: Driver, held: HeldLease, work: Work, reason: str) -> None:
                await stop(self, held, work, reason)
                starts.append(reason)
                await at.start_elsewhere(max_failed_points=5)

            monkeypatch.setattr(Driver, "_stop_with", stop_and_start)
            await at.start_elsewhere(max_failed_points=0)
            stopped = anyio.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(Driver(at.context, at.migration_id, is_stopping=stopped.is_set).run)
                await at.until(lambda m: m.phase.value == "backfilled")
                stopped.set()
            assert len(starts) == 1
            assert "more than max_failed_points=0" in starts[0]
