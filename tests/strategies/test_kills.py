"""Is every point filled once, and nothing lost, when the worker is killed while it fills a field in the collection that serves?"""

from __future__ import annotations

import json
import os
import signal

import anyio
import pytest

from tests.conftest import Backend
from tests.mcp.hosts import Host, hosted, until
from tests.openai_server import OpenAIServer
from tests.qdrant.seeds import opened, seed, text
from tests.servers import QdrantServer
from tests.strategies.driving import agreed, drive
from tests.strategies.places import Place, ServerPlace
from tests.strategies.recipes import agree_closely, check_target

pytestmark = pytest.mark.timeout(180)

POINTS = 900
SIZE = 32
IN_FLIGHT = 2 * 256
"""Windows that may have been embedded and not written."""


def written(number: int) -> str:
    """A text that no other point has."""
    return f"{text(number)} of its own {number}"


def filled(place: Place, target: str) -> dict[str, list[float]]:
    """Text -> the new vector, of the points that hold it."""
    return {p["payload"]["text"]: p["vector"]["new"] for p in place.dump(target).values() if "new" in p["vector"]}


async def _killed_half_way(host: Host, me: str, place: Place, target: str) -> int:
    """Kill the worker when it has filled something, and not everything; returns its process id."""
    await until(lambda: filled(place, target), within_s=60)
    pid: int = (await host.call("migration_status", migration_id=me))["worker"]["pid"]
    os.kill(pid, signal.SIGKILL)
    return pid


async def test_a_worker_killed_while_it_fills_leaves_the_rest_to_the_next(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**server.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations", "QDRANT_MIGRATION_LEASE_SECONDS": "4"}
    backend = Backend(name=f"server {server.version}", environment=environment, version=server.version)
    place = ServerPlace(backend)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=POINTS, vector="old", payload=lambda n: {"text": written(n), "n": n}, embedded=written)
    place.point_alias(f"{name}-live", name)
    source = place.dump(name)
    with OpenAIServer(SIZE) as provider:
        entry = {"provider": "openai", "model": "m", "base_url": provider.base_url, "dimensions": SIZE}
        asked = {"collection": name, "strategy": "side_by_side", "model": "counted", "new_vector": "new", "text_field": "text"}
        async with hosted({**environment, "QDRANT_MIGRATION_MODELS": json.dumps({"counted": entry})}) as host:
            copied = await drive(host, "create_target", {**asked, "writes": "frozen"}, before="swap_alias")
            me = copied["migration_id"]
            target = (await agreed(host, "swap_alias", migration_id=me))["current"]
            provider.requests.clear()
            await host.call("start_backfill", migration_id=me, points_per_second=150)
            dead = await _killed_half_way(host, me, place, target)
            status = await host.call("migration_status", migration_id=me)
            with anyio.fail_after(40):
                while status["worker"]["state"] == "running":
                    status = await host.call("migration_status", migration_id=me, wait_seconds=1)
            # Only now: what the dead one had sent may have been written after its end.
            held, before = filled(place, target), len(provider.requests)
            assert 0 < len(held) < POINTS, "killed too late to mean anything"
            assert status["phase"] == "cut_over"
            step = status["next_step"]
            assert step is not None, status["summary"]
            await host.call("control_backfill", migration_id=me, action="set_pace", points_per_second=0)
            covered = await drive(host, step["tool"], step["arguments"], before="verify_target")
            # The verification embeds a sample again; until then nothing is embedded that is there.
            # Other than the text by which a model is measured when it is loaded.
            sent = [t for request in provider.requests for t in request.texts if "of its own" in t]
            later = {t for request in provider.requests[before:] for t in request.texts}
            step = covered["next_step"]
            done = await drive(host, step["tool"], step["arguments"], before="finish_migration")
            assert done["coverage"] == 1.0
            assert (await host.call("migration_status", migration_id=me))["worker"]["pid"] != dead
    assert not later & held.keys(), "what was filled was embedded again"
    assert len(set(sent)) == POINTS
    assert len(sent) - POINTS <= IN_FLIGHT
    after = place.dump(target)
    now = filled(place, target)
    assert len(now) == POINTS
    assert all(now[t] == vector for t, vector in held.items()), "a filled vector was written again"
    without = {i: {**p, "vector": {k: v for k, v in p["vector"].items() if k != "new"}} for i, p in after.items()}
    check_target(without, source, made=None, replaced=None, expected={}, agree=agree_closely)
    assert place.dump(name) == source
