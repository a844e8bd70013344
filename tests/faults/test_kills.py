"""Is nothing lost, and nothing embedded twice, when the worker is killed again and again while an app writes?"""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import anyio
import pytest

from tests.faults.apps import SIZE, App, differences
from tests.faults.scene import scene
from tests.openai_server import OpenAIServer
from tests.servers import QdrantServer

POINTS = 3500
KILLS = 5
IN_FLIGHT = 2 * 256
"""Two ranges at work, a window of 256 texts each."""


@pytest.mark.slow
async def test_kill_nine_at_five_random_moments_under_writes_loses_nothing_and_embeds_only_what_was_in_flight_again(
    server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three kinds of takers-up: the call, the call, another machine by hand, the call, the call."""
    rng = random.Random(5)
    with OpenAIServer(SIZE) as provider:
        models = {"counted": {"provider": "openai", "model": "m", "base_url": provider.base_url, "dimensions": SIZE}}
        variables = {"QDRANT_MIGRATION_MODELS": json.dumps(models)}
        async with scene(server, name, home, monkeypatch, points=POINTS, model="counted", environment=variables) as at:
            provider.requests.clear()
            held_before: set[str] = set()
            before = 0
            with App(at.source, seed=6, per_second=40, ids=at.ids) as app:
                for number in range(KILLS):
                    if number == 2:
                        pid = await at.until_driven(by=at.worker().pid)
                    else:
                        await at.start(points_per_second=700)
                        pid = await at.until_driven()
                    await anyio.sleep(rng.uniform(0.1, 1.3))
                    assert (await at.migration()).phase.value == "backfilling", "killed too late to mean anything"
                    at.signal(pid, signal.SIGKILL)
                    held = {p["payload"]["text"] for p in at.target.points().values() if p["vector"]}
                    asked = len(provider.requests)
                    again = [t for r in provider.requests[before:asked] for t in r.texts if t in held_before]
                    assert not again, "a text that the target held was embedded again"
                    held_before, before = held, asked
                await at.start(points_per_second=0)
                await at.until_phase("backfilled")
            assert not app.failures
            again = [t for r in provider.requests[before:] for t in r.texts if t in held_before]
            assert not again
            sent = [t for r in provider.requests for t in r.texts]
            assert len(sent) - len(set(sent)) <= KILLS * IN_FLIGHT
            await at.verify_and_repair()
            assert differences(at.source, at.target) == []
            assert app.writes > 200
