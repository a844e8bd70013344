"""How is a driver led request by request, so that an app may write, and the driver die, between any two of them?

Every request of the driver waits at a gate until the test lets it pass. Between two turns nothing of the driver runs: what happens
then is the same each time that the same is drawn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partialmethod
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

from qdrant_model_migration.errors import LeaseLost
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.qdrant.client import Caller
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.settings import Settings
from qdrant_model_migration.worker.driver import Driver
from qdrant_model_migration.worker.late_writes import Step
from qdrant_model_migration.worker.lease import HeldLease, take_lease

T = TypeVar("T")
QUIET_TURNS = 20
"""Turns of the event loop without anything to do, after which every task waits at the gate."""
WINDOW = 4
RANGE = 6
NEVER_S = 1e9

_GATE: ContextVar[Gate | None] = ContextVar("gate", default=None)


class Gate:
    """Where the requests of one driver wait, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: deque[anyio.Event] = deque()
        self._passing = 0
        self._idle: anyio.Event | None = None
        self.is_over = False

    async def carry_out(self, act: Callable[[], Awaitable[T]]) -> T:
        turn = anyio.Event()
        self._waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self._passing -= 1
            else:
                self._waiting.remove(turn)
            raise
        try:
            return await act()
        finally:
            self._passing -= 1

    async def wait_idle(self) -> None:
        """The driver has nothing to do, until it is woken."""
        self._idle = anyio.Event()
        await self._idle.wait()
        self._idle = None

    def wake(self) -> None:
        if self._idle is not None:
            self._idle.set()

    async def settled(self) -> bool:
        """Wait until nothing of the driver runs; whether it waits for a turn."""
        quiet = 0
        while quiet < QUIET_TURNS and not self.is_over:
            await anyio.lowlevel.checkpoint()
            is_busy = self._passing or to_thread.current_default_thread_limiter().borrowed_tokens
            if is_busy:
                # In the thread of a model, or on its way to the server.
                await anyio.sleep(0.0005)
            quiet = 0 if is_busy else quiet + 1
        return bool(self._waiting)

    def let_pass(self) -> None:
        """The request that came first."""
        self._passing += 1
        self._waiting.popleft().set()


class SteppedDriver(Driver):
    """Waits at its gate where another would sleep until there is more to do."""

    def __init__(self, gate: Gate, context: OperationContext, migration_id: str, **options: Any) -> None:
        super().__init__(context, migration_id, idle_exit_s=NEVER_S, **options)
        self._gate = gate

    async def _step(self, held: HeldLease, work: Work) -> Step:
        step = await super()._step(held, work)
        if step != "worked" and not self._is_asked_to_stop():
            await self._gate.wait_idle()
            # The pause after a pass is over by the time that it is woken.
            self._phase_work._pass_pause_s = 0.0
        return step


class Worker:
    """A driver as a process would run it; `run` is the process, and its cancellation a SIGKILL."""

    def __init__(self, settings: Settings, migration_id: str) -> None:
        self.gate = Gate()
        self.owner: str | None = None
        self._settings = settings
        self._id = migration_id
        self._is_stopping = False
        self._driver: SteppedDriver | None = None
        self._work: Work | None = None

    async def run(self) -> None:
        """As `Driver.run`, without the beat, whose times would differ from run to run."""
        _GATE.set(self.gate)
        try:
            async with OperationContext(self._settings) as context:
                ledger = await context.ledger()
                held = await take_lease(ledger, self._id, lease_s=self._settings.lease_s, wait=False)
                self.owner = held.lease.owner
                self._driver = SteppedDriver(self.gate, context, self._id, is_stopping=lambda: self._is_stopping)
                work = self._work = await self._driver._open(held)
                if held.was_taken_over:
                    await self._driver._distrust_verification(work)
                await self._driver._work(held, work)
                await held.release(work.progress)
        except LeaseLost:
            return
        finally:
            self.gate.is_over = True

    async def beat(self) -> None:
        """What the beat of a driver sees: the pace that is asked for, and whether somebody waits for an operation."""
        if self._work is None or self._driver is None:
            return
        token = _GATE.set(None)
        try:
            self._work.pace = await self._work.ledger.pace(self._id)
            self._driver._is_awaited = bool(await self._driver._pending(self._work))
        finally:
            _GATE.reset(token)

    async def advance(self, requests: int, after_each: Callable[[], None]) -> bool:
        """Let so many requests pass; whether the driver has more to do."""
        await self.beat()
        self.gate.wake()
        for _ in range(requests):
            if not await self.gate.settled():
                return False
            self.gate.let_pass()
            await self.gate.settled()
            after_each()
        return await self.gate.settled()

    def ask_to_stop(self) -> None:
        self._is_stopping = True
        self.gate.wake()


def arm(monkeypatch: pytest.MonkeyPatch, dead: set[str]) -> None:
    """Put the gate before every request, make windows and ranges small, and take away what depends on time; `dead` are owners of leases."""
    once = Caller.once

    async def gated(self: Caller, act: Callable[[], Awaitable[T]]) -> T:
        gate = _GATE.get()
        if gate is None:
            return await once(self, act)
        return await gate.carry_out(lambda: once(self, act))

    monkeypatch.setattr(Caller, "once", gated)
    monkeypatch.setattr(Gateway, "wait_until_ready", partialmethod(Gateway.wait_until_ready, every_s=0.0))
    package = "qdrant_model_migration"
    monkeypatch.setattr(f"{package}.worker.lease.is_certainly_dead", lambda lease: lease.owner in dead)
    monkeypatch.setattr(f"{package}.worker.pipeline.range_size", lambda points: RANGE)
    for constant in ("work.PAGE", "catch_up.SETTLED_AT_ONCE", "sweep.PAGE", "verify.PAGE", "filling.WINDOW", "verify_filled.WINDOW"):
        monkeypatch.setattr(f"{package}.operations.{constant}", WINDOW)
    for constant in ("LEAST_WINDOW", "MOST_WINDOW"):
        monkeypatch.setattr(f"{package}.domain.pacing.{constant}", WINDOW)
    monkeypatch.setattr(f"{package}.operations.writing.UPSERT_POINTS", 2)
    for constant in ("operations.catch_up.SETTLE_S", "operations.sweep.PAUSE_S", "worker.driver.POLL_S"):
        monkeypatch.setattr(f"{package}.{constant}", 0.0)
    monkeypatch.setattr(f"{package}.worker.phase_work.LEAST_PAUSE_S", NEVER_S)
    for constant in (
        "worker.operations.SHOW_EVERY_S",
        "operations.closing.MOST_FENCE_S",
        "operations.closing.MOST_FENCED_PASS_S",
        "operations.fencing.LIFT_S",
        "operations.reader.PAUSE_S",
    ):
        monkeypatch.setattr(f"{package}.{constant}", NEVER_S)
