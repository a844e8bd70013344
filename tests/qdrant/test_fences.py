"""Do writers wait while the readers move, and only then? Nothing is written in between, and strict mode is as before whatever happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from qdrant_model_migration.domain.collection import UNLIMITED_WRITES
from qdrant_model_migration.domain.fence import Fence
from qdrant_model_migration.environment import child_environment
from qdrant_model_migration.errors import ConnectionFailed, MigrationError, Refused
from qdrant_model_migration.operations import closing, fencing
from qdrant_model_migration.operations.catch_up import catch_up_pass
from qdrant_model_migration.operations.status import status
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.results import Lag, Repaired, SourceMatch
from qdrant_model_migration.worker.driver import Driver
from qdrant_model_migration.worker.lease import take_lease
from tests.conftest import NewServer
from tests.qdrant.cutovers import (
    acting_before,
    aliases,
    backend_of,
    impatient,
    planned_swap,
    swap,
    swapped,
    to_source,
    to_target,
    verified,
)
from tests.qdrant.seeds import opened
from tests.qdrant.works import held
from tests.servers import QdrantServer, request

MATCH = SourceMatch(model="builtin:hashing-64", text_field="text", sampled=32, threshold=0.99, is_match=True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)


def strict_mode(server: QdrantServer, collection: str) -> dict[str, Any]:
    found = request(f"{server.url}/collections/{collection}")["result"]["config"].get("strict_mode_config") or {}
    return {key: value for key, value in found.items() if value is not None}


def raw_write(server: QdrantServer, collection: str) -> str:
    """What Qdrant answers to a write of an app that does not try again."""
    body = {"payload": {"late": True}, "points": [3]}
    try:
        request(f"{server.url}/collections/{collection}/points/payload?wait=true", method="POST", body=body)
    except OSError as error:
        return str(error)
    return "written"


@pytest.mark.parametrize("shards", [1, 3])
async def test_nothing_is_written_between_the_last_look_and_the_move_and_an_edit_before_and_one_after_it_both_stay(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    """Two edits of one point around the swap, of two keys: without a fence the first was hidden by the second."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await verified(context, name, seeded={"create": {"shard_number": shards}})
        source = work.migration.source.collection
        plan = await planned_swap(work)
        assert "answered with 429" in " ".join(plan.breaks)
        assert "may be lost" not in " ".join(plan.breaks)
        answers: list[str] = []

        async def edit_first() -> None:
            await to_source(work, 3, {"text": "edited before the swap", "n": 3})
            await to_source(work, 100, {"text": "inserted before the swap"})

        async def try_to_write() -> None:
            answers.append(raw_write(server, source))

        with (
            acting_before(monkeypatch, closing, "raise_fence", edit_first),
            acting_before(monkeypatch, work.target, "point_alias", try_to_write),
        ):
            outcome = await swap(work, code=plan.code)
        assert "429" in answers[0]
        assert raw_write(server, f"{name}-alias") == "written"
        assert (outcome.write_gap.carried_over, outcome.write_gap.superseded, outcome.write_gap.unresolved) == (0, 0, 0)
        found = await held(work)
        assert found[3].payload == {"text": "edited before the swap", "n": 3, "late": True}
        assert found[100].payload == {"text": "inserted before the swap"}
        assert strict_mode(server, source) == {"enabled": False, "write_rate_limit": UNLIMITED_WRITES}
        assert (await work.ledger.migration(work.id)).fence is None
        events = [e.event for e in await work.ledger.events(work.id)]
        assert events.index("fence_raised") < events.index("fence_lifted") < events.index("swapped")


@pytest.mark.parametrize(
    "before", [{"enabled": True, "write_rate_limit": 100_000, "max_query_limit": 500}, {"enabled": True, "max_query_limit": 500}]
)
async def test_a_strict_mode_that_was_on_goes_on_as_it_was(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, before: dict[str, Any]
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, strict_mode=before)
        assert strict_mode(server, work.migration.source.collection) == {"write_rate_limit": UNLIMITED_WRITES, **before}


async def test_limits_that_are_set_but_not_enforced_keep_the_writers_from_being_held_back(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turning strict mode on would let queries fail; the plan says why nobody waits, and the swap goes by numbers."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await verified(context, name, strict_mode={"enabled": False, "max_query_limit": 5})
        plan = await planned_swap(work)
        told = " ".join(plan.breaks)
        assert "cannot be made to wait: its strict mode is off, and turning it on would also enforce max_query_limit" in told
        assert "carried over afterwards" in told
        await swap(work, code=plan.code)
        assert strict_mode(server, work.migration.source.collection) == {"enabled": False, "max_query_limit": 5}


@pytest.mark.parametrize(
    "failure", ["passes that never end clean", "a plan that is void", "an alias that cannot be moved", "a fence that is up for too long"]
)
async def test_a_swap_that_fails_while_writers_wait_lets_them_in_and_moves_nothing(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await verified(context, name)
        before = await aliases(work)
        plan = await planned_swap(work)

        async def restless(work: Work, *, checks_made: bool = False, is_quiet: bool = False) -> tuple[Lag, Repaired]:
            lag, repaired = await catch_up_pass(work, checks_made=checks_made, is_quiet=is_quiet)
            return (lag.model_copy(update={"changed": 7}) if is_quiet else lag), repaired

        async def nothing_more() -> None:
            raise Refused("Nothing was changed: the alias is not yours.")

        async def another_alias() -> None:
            await work.target.point_alias(f"{name}-other", work.migration.source.collection)

        if failure == "passes that never end clean":
            monkeypatch.setattr(closing, "catch_up_pass", restless)
            with pytest.raises(Refused, match="passes found 7, 7, 7, 7 differences"):
                await swap(work, code=plan.code)
        elif failure == "a plan that is void":
            with (
                acting_before(monkeypatch, closing, "raise_fence", another_alias),
                pytest.raises(Refused, match="the plan rests on has changed"),
            ):
                await swap(work, code=plan.code)
            before[f"{name}-other"] = work.migration.source.collection
        elif failure == "a fence that is up for too long":
            monkeypatch.setattr(fencing, "TIGHT_S", 0.0)
            with pytest.raises(Refused, match="could not be moved within 0 s"):
                await swap(work, code=plan.code)
        else:
            with (
                acting_before(monkeypatch, work.target, "point_alias", nothing_more),
                pytest.raises(Refused, match="the aliases are as before"),
            ):
                await swap(work, code=plan.code)
        assert await aliases(work) == before
        assert raw_write(server, work.migration.source.collection) == "written"
        assert (await work.ledger.migration(work.id)).fence is None


async def test_a_server_that_is_away_when_the_fence_is_to_be_lifted_leaves_it_recorded_for_the_next_step(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await verified(context, name)
        source = work.migration.source.collection

        async def away() -> None:
            raise ConnectionFailed("Qdrant does not answer.")

        await fencing.raise_fence(work, work.migration.source)
        with acting_before(monkeypatch, work.source, "update", away), pytest.raises(ConnectionFailed):
            await fencing.lift_fence(work)
        assert "429" in raw_write(server, source)
        recorded = (await work.ledger.migration(work.id)).fence
        assert isinstance(recorded, Fence)
        assert recorded.place == work.migration.source
        work.context.ensure_driver = _nobody
        told = await status(work.context, migration_id=work.id)
        assert "answered with 429" in " ".join(told.warnings)
        assert told.next_step is not None
        assert told.next_step.tool == "migration_status"
        stopped = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(Driver(work.context, work.id, is_stopping=stopped.is_set).run)
            with anyio.fail_after(60):
                while (await work.ledger.migration(work.id)).fence is not None:  # noqa: ASYNC110 - the driver's doing
                    await anyio.sleep(0.05)
            stopped.set()
        assert raw_write(server, source) == "written"


async def test_who_stands_by_leaves_when_it_is_asked_to_also_while_qdrant_is_away(
    new_server: NewServer, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = new_server("1.17.0")
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await verified(context, name)
        await fencing.raise_fence(work, work.migration.source)
        log = (tmp_path / "stand-by.log").open("wb")
        command = [sys.executable, "-m", "qdrant_model_migration", "worker", work.id, "--connection", "default", "--stand-by"]
        await take_lease(work.ledger, work.id, lease_s=60)
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=child_environment(), cwd=tmp_path)  # noqa: ASYNC220 - returns at once
        try:
            await anyio.to_thread.run_sync(server.kill)
            with anyio.fail_after(90):
                while "does not answer" not in (tmp_path / "stand-by.log").read_text():  # noqa: ASYNC110 - another process's doing
                    await anyio.sleep(0.1)
            child.terminate()
            with anyio.fail_after(60):
                while child.poll() is None:  # noqa: ASYNC110 - another process's doing
                    await anyio.sleep(0.1)
            assert child.returncode == 0, "it did not leave by itself"
        finally:
            child.kill()
            child.wait(10)
            log.close()


async def test_a_fence_that_cannot_be_lifted_after_the_move_fails_no_swap_and_nothing_is_copied_over_the_target(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is away for longer than the lifting waits: the swap is taken up again, and completed."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await verified(context, name)
        plan = await planned_swap(work)
        restore = fencing._restore

        async def hangs(work: Work, fence: Fence) -> str:
            await anyio.sleep_forever()
            raise AssertionError

        monkeypatch.setattr(fencing, "LIFT_S", 0.2)
        monkeypatch.setattr(fencing, "_restore", hangs)
        with pytest.raises(ConnectionFailed, match="did not take the write rate"):
            await swap(work, code=plan.code)
        assert (await aliases(work))[f"{name}-alias"] == work.migration.target.collection
        monkeypatch.setattr(fencing, "_restore", restore)
        outcome = await swap(work, code=plan.code)
        assert outcome.current == work.migration.target.collection
        assert raw_write(server, work.migration.source.collection) == "written"
        assert (await work.ledger.migration(work.id)).phase.value == "cut_over"


@pytest.mark.parametrize("has_moved", [True, False])
async def test_a_swap_whose_operation_ended_with_its_intent_recorded_is_completed_or_forgotten_before_anything_is_carried_over(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, has_moved: bool
) -> None:
    """Catching up would undo what the app writes through the alias by then."""
    async with opened(backend_of(server_1_17, name), monkeypatch) as context:
        work = await verified(context, name)
        plan = await planned_swap(work)
        real = work.target.point_alias

        async def fails(alias: str, collection: str) -> None:
            if has_moved:
                await real(alias, collection)
            raise RuntimeError("a defect")

        with monkeypatch.context() as patch:
            patch.setattr(work.target, "point_alias", fails)
            with pytest.raises(MigrationError, match="failed unexpectedly"):
                await swap(work, code=plan.code)
        assert (await work.ledger.migration(work.id)).intent == "swapping"
        if has_moved:
            await to_target(work, 900, {"text": "inserted through the alias"})
        stopped = anyio.Event()
        work.context.ensure_driver = _nobody
        async with anyio.create_task_group() as group:
            group.start_soon(Driver(work.context, work.id, is_stopping=stopped.is_set).run)
            with anyio.fail_after(60):
                while (await work.ledger.migration(work.id)).intent is not None:  # noqa: ASYNC110 - the driver's doing
                    await anyio.sleep(0.05)
            stopped.set()
        found = await work.ledger.migration(work.id)
        assert found.phase.value == ("cut_over" if has_moved else "verified")
        assert found.error is None
        assert (900 in await held(work)) is has_moved
        assert raw_write(server_1_17, work.migration.source.collection) == "written"


async def test_a_second_fence_on_one_collection_is_refused_and_leaves_the_first_alone(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server_1_17, name), monkeypatch) as context:
        work = await verified(context, name)
        plan = await planned_swap(work)
        request(
            f"{server_1_17.url}/collections/{work.migration.source.collection}",
            method="PATCH",
            body={"strict_mode_config": {"enabled": True, "write_rate_limit": 1}},
        )
        with pytest.raises(Refused, match="limited to one a minute already"):
            await swap(work, code=plan.code)
        assert strict_mode(server_1_17, work.migration.source.collection) == {"enabled": True, "write_rate_limit": 1}
        assert (await work.ledger.migration(work.id)).fence is None


async def test_a_pass_that_takes_longer_than_writers_may_wait_raises_no_fence(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server_1_17, name), monkeypatch) as context:
        work = await verified(context, name)
        found = work.migration.verification
        assert found is not None
        assert found.pass_seconds is not None
        slow = found.model_copy(update={"pass_seconds": 80.0})
        await work.change(lambda m: m.model_copy(update={"verification": slow}))
        plan = await planned_swap(work)
        assert "took 80 s at the verification" in " ".join(plan.breaks)
        monkeypatch.setattr(closing, "MOST_FENCED_PASS_S", 0.0)
        with pytest.raises(Refused, match="fence=false"):
            await swap(work, code=plan.code)
        assert "fence_raised" not in [e.event for e in await work.ledger.events(work.id)]


async def _nobody(_: Any) -> None:
    """Starts no driver."""


async def test_writes_through_the_alias_wait_while_they_are_carried_back(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback keeps writers from the collection that serves, for the same seconds."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, current_model="builtin:hashing-64", source_match=MATCH)
        target = work.migration.target.collection
        await to_target(work, 5, {"text": "written while it served"})
        answers: list[str] = []

        async def try_to_write() -> None:
            answers.append(raw_write(server, f"{name}-alias"))

        with acting_before(monkeypatch, work.target, "point_alias", try_to_write):
            back = await swap(work, "back")
        assert "429" in answers[0]
        assert back.write_gap.carried_over == 1
        assert raw_write(server, f"{name}-alias") == "written"
        assert strict_mode(server, target) == {"enabled": False, "write_rate_limit": UNLIMITED_WRITES}
