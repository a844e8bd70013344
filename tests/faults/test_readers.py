"""Does a swap tell whether queries failed while the alias moved? A reader of the tool's own follows the alias meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from qdrant_model_migration.operations.report import markdown_report
from tests.faults.proxy import Fault, FaultProxy, Rule
from tests.faults.scene import Scene, scene
from tests.faults.test_swaps import driving
from tests.servers import QdrantServer


async def verified(at: Scene) -> None:
    async with driving(at):
        await at.until_phase("backfilled")
        await at.verify_and_repair()


async def report(at: Scene) -> str:
    return await markdown_report(at.ledger, await at.migration())


async def test_a_swap_and_a_rollback_tell_how_many_of_its_queries_failed(
    server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 8 to 64 dimensions: a reader that went on with the old model's vectors would fail."""
    async with scene(server, name, home, monkeypatch, points=300) as at:
        await verified(at)
        there = (await at.swap()).test_queries
        assert there is not None
        assert (there.failed, there.failures) == (0, [])
        assert there.asked >= 3
        assert f"asked {there.asked:,} and 0 failed" in await report(at)
        back = (await at.swap("back")).test_queries
        assert back is not None
        assert back.failed == 0
        assert back.asked >= 2


async def test_queries_that_fail_are_counted_and_told_and_do_not_stop_the_swap(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(server=server_1_17) as proxy:
        async with scene(server_1_17, name, home, monkeypatch, points=300, environment=proxy.environment) as at:
            await verified(at)
            broken = Rule(fault=Fault.BROKEN, method="POST", path=f"/{at.target.name}/points/query")
            # Not sooner: the gates search the target, and refuse where that fails.
            moving = proxy.before("POST", "/collections/aliases", lambda: proxy.rules.append(broken))
            outcome = await at.swap()
            assert at.where()[at.alias] == at.target.name
            assert moving.struck
            assert broken.struck
            assert outcome.test_queries is not None
            assert outcome.test_queries.failed == broken.struck
            assert outcome.test_queries.asked > broken.struck
            assert outcome.test_queries.failures[0].startswith(f"{at.alias}: ")
            told = await report(at)
            assert f"and {broken.struck:,} failed: {at.alias}: " in told
