"""Are a spend cap and a ceiling of the source's search latency kept, and can both be changed while the backfill runs?"""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from qdrant_model_migration.domain.pacing import FIRST_RATE, LEAST_WINDOW
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.backfill import control_backfill
from qdrant_model_migration.worker.driver import Driver
from tests.faults.apps import SIZE, differences
from tests.faults.scene import scene
from tests.openai_server import OpenAIServer
from tests.servers import QdrantServer

pytestmark = pytest.mark.timeout(300)
POINTS = 800
PRICE = 1000.0
"""USD per million tokens: a tenth of a cent a token."""


def words(number: int) -> str:
    return f"report {number} on wing flutter"


def paid(provider: OpenAIServer, *, price: float | None = PRICE) -> dict[str, str]:
    entry = {"provider": "openai", "model": "m", "base_url": provider.base_url, "dimensions": SIZE, "batch_size": 64}
    return {"QDRANT_MIGRATION_MODELS": json.dumps({"paid": entry | ({} if price is None else {"price_per_million": price})})}


async def test_a_backfill_pauses_at_its_spend_cap_and_goes_on_under_a_higher_one(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The local protocol server has no tokenizer, so tokens are counted by the size of the texts: about 11 each, a little over a cent."""
    with OpenAIServer(SIZE) as provider:
        # A lease that runs out on a busy machine would have a window embedded once more, which is no matter of the cap.
        async with scene(
            server_1_17, name, home, monkeypatch, points=POINTS, model="paid", texts=words, environment=paid(provider), lease_s=30.0
        ) as at:
            await at.start(max_cost_usd=3.0, concurrency=1)
            with anyio.fail_after(60):
                while not (await at.ledger.pace(at.migration_id)).is_paused:  # noqa: ASYNC110 - another process's doing
                    await anyio.sleep(0.1)
            events = [e for e in await at.ledger.events(at.migration_id) if e.event == "spend_cap"]
            assert len(events) == 1
            assert "max_cost_usd=3" in events[0].text
            written = at.target.call("POST", "/points/count", {"exact": True})["count"]
            # 3 USD buy the tokens of some 280 texts; windows of 128 are embedded whole.
            assert 2 * LEAST_WINDOW <= written <= 4 * LEAST_WINDOW
            asked = len([t for r in provider.requests for t in r.texts])
            await anyio.sleep(2)
            assert len([t for r in provider.requests for t in r.texts]) == asked, "a paused backfill spends nothing"
            await control_backfill(at.context, migration_id=at.migration_id, action="resume", max_cost_usd=100.0)
            await at.until_phase("backfilled")
            assert differences(at.source, at.target) == []
            every = [t for r in provider.requests for t in r.texts if t.startswith("report")]
            assert len(every) == len(set(every)) == POINTS, "nothing is paid for twice"


async def test_a_cap_that_cannot_be_kept_is_refused(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer(SIZE) as provider:
        async with scene(
            server_1_17, name, home, monkeypatch, points=10, model="paid", texts=words, environment=paid(provider, price=None)
        ) as at:
            with pytest.raises(Refused, match="no price is known of model 'paid'"):
                await at.start(max_cost_usd=1.0)
            assert (await at.migration()).phase.value == "target_created"
            assert (await at.ledger.pace(at.migration_id)).max_cost_usd is None


async def test_a_ceiling_that_every_search_passes_slows_the_backfill_down_until_it_is_lifted(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(server_1_17, name, home, monkeypatch, points=3000) as at:
        await at.start_elsewhere(max_source_latency_ms=1e-6)
        stopped = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(Driver(at.context, at.migration_id, is_stopping=stopped.is_set).run)
            await at.until_written(LEAST_WINDOW)
            await anyio.sleep(4)
            held = at.target.call("POST", "/points/count", {"exact": True})["count"]
            assert held <= 4 * LEAST_WINDOW, "no search is so quick, and the rate falls with every look"
            await control_backfill(at.context, migration_id=at.migration_id, action="set_pace", max_source_latency_ms=0)
            await at.until_phase("backfilled", timeout_s=120)
            stopped.set()
        assert differences(at.source, at.target) == []


async def test_under_a_ceiling_that_no_search_reaches_the_backfill_speeds_up(
    server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(server, name, home, monkeypatch, points=6000) as at:
        await at.start(max_source_latency_ms=60_000)
        await at.until_written(1, timeout_s=100)
        began = anyio.current_time()
        await at.until_phase("backfilled", timeout_s=150)
        # It begins slowly; at that rate all the way it would not be over.
        assert anyio.current_time() - began < 6000 / FIRST_RATE
        assert differences(at.source, at.target) == []
