"""Does a migration depend on the clocks of two machines being right?"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from qdrant_model_migration.operations.status import status
from tests.faults.apps import App, differences
from tests.faults.scene import scene
from tests.servers import QdrantServer

HOURS_S = 2 * 3600
"""More than the age of a verification that a swap allows, the life of a plan, and the time for which an outcome is fresh."""


@pytest.mark.slow
@pytest.mark.parametrize("off_s", [HOURS_S, -HOURS_S], ids=["ahead", "behind"])
async def test_a_worker_whose_clock_is_hours_off_goes_all_the_way_and_is_seen_to_run(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch, off_s: int
) -> None:
    """A verification is neither too old nor fresh for ever, a plan neither void nor endless, and a driver that beats is no dead one."""
    async with scene(server_1_17, name, home, monkeypatch, points=400, lease_s=30.0) as at:
        with App(at.source, seed=3, per_second=20, ids=at.ids) as app:
            await at.start_elsewhere()
            worker = at.worker(clock_off_s=off_s)
            await at.until_driven(by=worker.pid)
            await at.until_phase("backfilled")
            created = datetime.fromisoformat((await at.migration()).created_at)
            # Nothing decides by it, and a person sees it: that the worker's own clock is wrong shows in what it tells.
            told = [datetime.fromisoformat(e.at) for e in await at.ledger.events(at.migration_id) if e.event == "backfilled"]
            assert abs((told[0] - created).total_seconds()) > HOURS_S / 2, "the worker's clock was right, so that nothing was shown"
            found = await status(at.context, migration_id=at.migration_id)
            assert (found.worker.state, found.worker.pid) == ("running", worker.pid)
            assert (await at.verify()).is_complete or (await at.repair()).verification.is_complete
            # An outcome that is there is given out, and not asked for again.
            again = await at.ledger.operations(at.migration_id)
            assert all(o.attempts == 1 for o in again)
        verified = (await at.migration()).verification
        assert verified is not None
        assert datetime.fromisoformat(verified.at) - created < timedelta(seconds=HOURS_S / 2)
        await at.verify_and_repair()
        outcome = await at.swap()
        assert outcome.current == at.target.name
        assert worker.poll() is None
        assert at._started() == [worker], "another driver was started beside the one that runs"
        assert differences(at.source, at.target) == []
        assert app.failures == []
