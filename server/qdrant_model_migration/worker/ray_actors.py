"""How are ranges worked on many machines? By actors of a Ray cluster, which places them, restarts nothing by itself, and tells which died.

A range whose actor died goes on with another one, from its last checkpoint: what is lost is a window. The actor is replaced as soon as the
cluster has room again.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from qdrant_model_migration.domain.ranges import Range
from qdrant_model_migration.errors import ConnectionFailed, Interrupted, LeaseLost, MigrationError
from qdrant_model_migration.settings import RaySettings, check_ray
from qdrant_model_migration.worker.pipeline import Save
from qdrant_model_migration.worker.range_actor import RangeActor, raised

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from qdrant_model_migration.operations.work import Work

LOG = logging.getLogger(__name__)
RANGES_AN_ACTOR = 2
"""While one waits for the model, the other reads or writes."""
MOST_UNSEEN = 60
"""Times that an actor may stop over one range, without a window in between, because it did not see the lease renewed."""
MOST_DEATHS = 5
"""Of actors over one range without a window in between: then it is the range, or the cluster."""
ROOM_S = 180.0
"""For the cluster to place an actor while none is at work; nodes that are started on demand need minutes."""


def _take_signals_back() -> None:
    """Ray ends the process at SIGTERM; whoever drives gives the lease back first. Python's own handlers are put where Ray's are now."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if (handler := signal.getsignal(number)) is not None:
                signal.signal(number, handler)


class RayActors:
    """The actors of one driver; entered for as long as ranges are worked."""

    def __init__(self, work: Work, settings: RaySettings, *, is_stopping: Callable[[], bool]) -> None:
        self._work = work
        self._settings = settings
        self._is_stopping = is_stopping
        self._living: dict[str, Any] = {}
        self._ready: set[str] = set()
        """Those of them that were placed and loaded the model."""
        self._send, self._receive = anyio.create_memory_object_stream[str](10_000)
        """Names of actors that can take another range."""
        self._made = 0
        self._count = 0
        self._failure: MigrationError | None = None
        self._group: TaskGroup | None = None
        self._context = anyio.create_task_group()

    @property
    def ranges_at_once(self) -> int:
        return self._count * RANGES_AN_ACTOR

    async def __aenter__(self) -> RayActors:
        import ray

        check_ray(self._settings)
        self._work.progress.stage = "starting the actors"
        # Neither reports of use nor a copy of every actor's output in this driver's log.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        connect = partial(ray.init, address=self._settings.address, log_to_driver=False, configure_logging=False)
        try:
            await to_thread.run_sync(connect)
            _take_signals_back()
        except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
            raise ConnectionFailed(
                f"No Ray cluster answers at QDRANT_MIGRATION_RAY_ADDRESS ({type(error).__name__}). The worker has to run on a node of the cluster, "
                "or name it as ray://HOST:10001."
            ) from None
        self._count = self._settings.actors or self._room(await to_thread.run_sync(ray.cluster_resources))
        self._group = await self._context.__aenter__()
        for _ in range(self._count):
            self._group.start_soon(self._start)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import ray

        assert self._group is not None
        self._group.cancel_scope.cancel()
        try:
            await self._context.__aexit__(None, None, None)
        finally:
            # With it go the actors: they belong to this driver.
            await to_thread.run_sync(ray.shutdown)

    def _room(self, resources: dict[str, float]) -> int:
        """As many actors as the cluster has room for now; at least one, for a cluster that grows on demand."""
        wanted = {"CPU": self._settings.actor_cpus, "GPU": self._settings.actor_gpus}
        return max(1, min((int(resources.get(name, 0.0) / size) for name, size in wanted.items() if size > 0), default=1))

    async def _start(self) -> None:
        """Have an actor placed; it takes ranges once it has loaded the model."""
        import ray

        self._made += 1
        name = f"actor {self._made}"
        remote = ray.remote(RangeActor).options(
            num_cpus=self._settings.actor_cpus,
            num_gpus=self._settings.actor_gpus,
            max_restarts=0,
            max_concurrency=RANGES_AN_ACTOR + 2,
        )
        work = self._work
        actor = remote.remote(
            work.id,
            work.migration.target.connection,
            work.epoch,
            actors=self._count,
            threads=max(1, int(self._settings.actor_cpus)),
            inserts_by_mode=work.inserts_by_mode,
        )
        self._living[name] = actor
        actor.open.remote()
        try:
            refusal = await actor.ready.remote()
        except ray.exceptions.RayError as error:
            await self._bury(name, type(error).__name__)
            return
        if refusal is not None:
            # What keeps one from working keeps the next one, too.
            self._failure = raised(json.loads(refusal), name)
            self._living.pop(name, None)
            return
        self._ready.add(name)
        for _ in range(RANGES_AN_ACTOR):
            self._send.send_nowait(name)

    async def work_range(self, given: Range, took: Save) -> None:
        """Work a range on whichever actor is free; on another one from the last checkpoint on when that dies.

        Raises:
            ConnectionFailed: the cluster places no actor, or they die one after another.
            MigrationError: as the pipeline's own.
        """
        import ray

        deaths = unseen = 0
        current = given
        while not current.is_done:
            name = await self._free()
            actor = self._living.get(name)
            if actor is None:
                continue
            try:
                async for reference in actor.work_range.remote(current.model_dump_json()):
                    current = await self._taken(json.loads(await reference), name, took)
                    deaths = unseen = 0
                self._send.send_nowait(name)
            except LeaseLost:
                # It did not see the lease renewed in time, which a busy machine does to it. It goes on as soon as it does, where the lease is still ours.
                self._work.check()
                unseen += 1
                if unseen > MOST_UNSEEN:
                    raise
                await anyio.sleep(1.0)
                self._send.send_nowait(name)
            except ray.exceptions.RayTaskError as error:
                LOG.error("%s failed: %s", name, error)
                raise MigrationError(
                    f"An actor failed unexpectedly ({type(error.cause).__name__}); the worker's log tells more. What is written is recorded."
                ) from None
            except ray.exceptions.RayError as error:
                deaths += 1
                await self._bury(name, type(error).__name__)
                if deaths > MOST_DEATHS:
                    raise ConnectionFailed(
                        f"{deaths} actors died one after another over range {current.number} ({type(error).__name__})."
                    ) from None

    async def _taken(self, report: dict[str, Any], name: str, took: Save) -> Range:
        if "error" in report:
            raise raised(report, name)
        for first, last in report["own"]:
            for number in range(first, last + 1):
                self._work.own.add(number)
        current = Range.model_validate(report["range"])
        await took(current)
        return current

    async def _free(self) -> str:
        """The name of an actor that can take a range.

        Raises:
            ConnectionFailed: there is none, and none was placed for minutes.
            Interrupted: the driver is to stop.
            MigrationError: none can work, for the reason that one of them told.
        """
        waited_since: float | None = None
        while self._failure is None:
            if self._is_stopping():
                raise Interrupted("The driver was asked to stop; what is written is recorded.")
            with anyio.move_on_after(1.0):
                return await self._receive.receive()
            waited_since = None if self._ready else waited_since or anyio.current_time()
            if waited_since is not None and anyio.current_time() - waited_since > ROOM_S:
                raise ConnectionFailed(
                    f"The Ray cluster placed no actor of {self._settings.actor_cpus:g} CPUs and {self._settings.actor_gpus:g} GPUs within {ROOM_S:.0f} s."
                )
        raise self._failure

    async def _bury(self, name: str, how: str) -> None:
        """Forget a dead actor, and have another one placed."""
        import ray

        actor = self._living.pop(name, None)
        if actor is None:
            return
        self._ready.discard(name)
        LOG.warning("%s died (%s); another one takes up its ranges", name, how)
        await self._work.record("actor_lost", f"{name} died ({how}); its ranges go on elsewhere from their last windows")
        await to_thread.run_sync(ray.kill, actor)
        assert self._group is not None
        self._group.start_soon(self._start)
