"""What do failing texts and failing providers cost? The texts at fault, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.apps import SIZE, differences
from tests.faults.scene import scene
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
