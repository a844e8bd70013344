"""Does one driver at a time hold a migration, judged by the observer's own clock?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from qdrant_model_migration.domain.records import Lease
from qdrant_model_migration.errors import ConnectionFailed, LeaseLost
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.results import Progress
from qdrant_model_migration.worker.lease import HeldLease, is_certainly_dead, process_identity, take_lease
from tests.conftest import Backend
from tests.qdrant.seeds import opened

LEASE_S = 0.05
"""Between two looks an observer waits a tenth of it."""


class Clock:
    """Stands still, or goes on by `step` at each look."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 100.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@asynccontextmanager
async def ledger_of(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    async with opened(backend, monkeypatch) as context:
        ledger = await context.ledger()
        await ledger.create()
        yield ledger


async def taken(ledger: Ledger, clock: Callable[[], float], *, wait: bool = True, lease_s: float = LEASE_S) -> HeldLease:
    return await take_lease(ledger, "m", lease_s=lease_s, wait=wait, clock=clock)


async def alive_elsewhere(ledger: Ledger, *, beat: int = 1) -> None:
    """A driver on another machine, which nobody here can tell dead or alive."""
    revision, _ = await ledger.lease("m")
    lease = Lease(owner="other", epoch=1, beat=beat, lease_s=LEASE_S, host="elsewhere", pid=7)
    assert await ledger.set_lease("m", revision, lease)


async def test_a_free_lease_is_taken_at_once(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        held = await taken(ledger, Clock())
        _, found = await ledger.lease("m")
    assert (held.epoch, held.was_taken_over, found.owner) == (1, False, held.lease.owner)
    assert held.deadline == 100.0 + LEASE_S
    held.check()


async def test_a_released_lease_is_free_and_keeps_the_progress(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        await (await taken(ledger, Clock())).release(Progress(stage="half-way"))
        held = await taken(ledger, Clock(), wait=False)
    assert (held.epoch, held.was_taken_over) == (2, False)
    assert held.lease.progress is not None
    assert held.lease.progress.stage == "half-way"


async def test_a_held_lease_is_refused_at_once_to_whoever_does_not_wait(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        await alive_elsewhere(ledger)
        with pytest.raises(LeaseLost, match=r"driven by elsewhere \(process 7\)"):
            await taken(ledger, Clock(), wait=False)


async def test_a_lease_silent_for_a_lease_time_is_taken_over(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        await alive_elsewhere(ledger)
        clock = Clock(step=LEASE_S / 4)
        held = await taken(ledger, clock)
    assert (held.was_taken_over, held.epoch) == (True, 2)
    assert clock.now >= 100.0 + LEASE_S


async def test_the_observers_clock_alone_decides(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still sees no silence, however long it really takes."""
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        await alive_elsewhere(ledger)
        with anyio.move_on_after(LEASE_S * 6) as scope:
            await taken(ledger, Clock())
        assert scope.cancelled_caught
        assert (await ledger.lease("m"))[1].owner == "other"


async def test_a_holder_that_renews_in_between_keeps_its_lease(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        await alive_elsewhere(ledger)
        looks = 0

        async def look(migration_id: str) -> tuple[int, Lease]:
            nonlocal looks
            looks += 1
            if looks == 3:
                await alive_elsewhere(ledger, beat=2)
            return await Ledger.lease(ledger, migration_id)

        observer = Ledger(ledger.gateway, ledger.collection)
        monkeypatch.setattr(observer, "lease", look)
        with pytest.raises(LeaseLost, match="driven by elsewhere"):
            await taken(observer, Clock(step=LEASE_S / 10))
        assert (await ledger.lease("m"))[1].beat == 2


async def test_a_lease_that_ran_out_untaken_is_renewed(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop that slept goes on where it was."""
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        clock = Clock()
        held = await taken(ledger, clock)
        clock.now += LEASE_S
        with pytest.raises(LeaseLost, match="ran out on this machine"):
            held.check()
        await held.renew(Progress(stage="awake"))
        held.check()
        _, found = await ledger.lease("m")
    assert held.deadline == clock.now + LEASE_S
    assert (found.beat, found.owner) == (2, held.lease.owner)
    assert found.progress is not None
    assert found.progress.stage == "awake"


async def test_a_holder_that_was_taken_over_can_neither_renew_nor_write_nor_release(
    any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        clock = Clock()
        held = await taken(ledger, clock)
        clock.now += LEASE_S * 2
        await alive_elsewhere(ledger)
        with pytest.raises(LeaseLost, match=r"now driven by elsewhere \(process 7\)"):
            await held.renew()
        with pytest.raises(LeaseLost):
            held.check()
        await held.release()
        assert (await ledger.lease("m"))[1].owner == "other"


async def test_a_renewal_whose_answer_was_lost_does_not_cost_the_lease(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored, but reported as failed: the record is newer than the holder knows, and still the holder's."""
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        clock = Clock()
        held = await taken(ledger, clock)
        set_lease = ledger.set_lease

        async def unanswered(migration_id: str, expected_revision: int, lease: Lease) -> bool:
            await set_lease(migration_id, expected_revision, lease)
            raise ConnectionFailed("Qdrant does not answer.")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger, "set_lease", unanswered)
            with pytest.raises(ConnectionFailed):
                await held.renew()
        clock.now += LEASE_S
        await held.renew()
        held.check()
        assert (await ledger.lease("m"))[1].beat == 3


async def test_of_many_that_take_a_lease_at_once_one_wins(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        won: list[HeldLease] = []
        refused: list[LeaseLost] = []

        async def contend() -> None:
            try:
                won.append(await taken(Ledger(ledger.gateway, ledger.collection), Clock(), wait=False))
            except LeaseLost as error:
                refused.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(contend)
        assert (len(won), len(refused)) == (1, 11)
        assert (await ledger.lease("m"))[1].owner == won[0].lease.owner


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what makes a process unique")
@pytest.mark.parametrize("is_reaped", [True, False], ids=["gone", "zombie"])
async def test_a_lease_of_a_dead_process_of_this_machine_is_taken_at_once(
    any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch, is_reaped: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:  # noqa: ASYNC220 - it only waits to be killed
        lease = Lease(owner="other", epoch=4, beat=9, lease_s=3600, host="here", pid=owner.pid, identity=process_identity(owner.pid))
        assert lease.identity is not None
        assert not is_certainly_dead(lease)
        async with ledger_of(any_qdrant, monkeypatch) as ledger:
            assert await ledger.set_lease("m", 0, lease)
            with pytest.raises(LeaseLost):
                await taken(ledger, Clock(), wait=False)
            owner.kill()
            if is_reaped:
                owner.wait()
            else:
                while not is_certainly_dead(lease):
                    await anyio.lowlevel.checkpoint()
            held = await taken(ledger, Clock(), wait=False)
    assert (held.epoch, held.was_taken_over) == (5, True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what makes a process unique")
def test_nothing_is_said_about_processes_of_other_machines_or_namespaces() -> None:
    boot, namespace, pid, start = (process_identity(os.getpid()) or "").rsplit(" ", 3)
    lease = Lease(owner="x", pid=int(pid), identity=f"{boot} {namespace} {pid} {int(start) + 1}")
    assert is_certainly_dead(lease)
    assert not is_certainly_dead(lease.model_copy(update={"identity": f"another-boot {namespace} {pid} 1"}))
    assert not is_certainly_dead(lease.model_copy(update={"identity": f"{boot} pid:[1] {pid} 1"}))
    assert not is_certainly_dead(lease.model_copy(update={"identity": None}))
