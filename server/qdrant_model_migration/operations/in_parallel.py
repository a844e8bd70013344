"""Some requests at a time, so that many searches take no longer than they must and a server is not flooded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar, cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from qdrant_model_migration.errors import Interrupted, MigrationError

Item = TypeVar("Item")
A = TypeVar("A")
B = TypeVar("B")

AT_ONCE = 4


async def for_each(items: Iterable[Item], act: Callable[[Item], Awaitable[None]]) -> None:
    """Await `act` for every item, `AT_ONCE` at a time.

    Raises:
        MigrationError: the first that `act` raised; what was running is cancelled and nothing more is begun.
    """
    errors: list[MigrationError] = []
    pending = iter(items)

    async def work(scope: anyio.CancelScope) -> None:
        try:
            for item in pending:
                await act(item)
        except MigrationError as error:
            # Raised outside: a task group would wrap it.
            errors.append(error)
            scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(AT_ONCE):
            group.start_soon(work, group.cancel_scope)
    if errors:
        raise errors[0]


async def for_each_batch(items: Sequence[Item], act: Callable[[Sequence[Item]], Awaitable[None]], *, size: int, at_once: int) -> None:
    """Await `act` for every batch of `size` items, `at_once` at a time.

    Raises:
        MigrationError: the first that `act` raised, after the other batches ended.
    """
    errors: list[MigrationError] = []
    gate = anyio.CapacityLimiter(at_once)

    async def work(batch: Sequence[Item]) -> None:
        async with gate:
            try:
                await act(batch)
            except MigrationError as error:
                errors.append(error)

    async with anyio.create_task_group() as group:
        for start in range(0, len(items), size):
            group.start_soon(work, items[start : start + size])
    if errors:
        raise errors[0]


async def handed_out(
    draw: Callable[[MemoryObjectSendStream[Item]], Awaitable[None]],
    work: Callable[[MemoryObjectReceiveStream[Item]], Awaitable[None]],
    *,
    ahead: int,
    workers: int,
    ends_by_itself: bool = True,
) -> None:
    """Run `draw`, which sends items and runs `ahead` of the work by so many, beside so many `workers`, each of which takes items until none are left.

    Where each `ends_by_itself` when it is asked to stop, as all are, none is cut off in the middle of a write.

    Raises:
        MigrationError: the first that one of them raised; the others are cancelled.
        Interrupted: they were asked to stop, and nothing else was wrong.
    """
    errors: list[MigrationError] = []
    send, receive = anyio.create_memory_object_stream[Item](ahead)
    async with anyio.create_task_group() as group:

        async def guarded(act: Callable[[], Awaitable[None]]) -> None:
            try:
                await act()
            except MigrationError as error:
                # Raised outside: a task group would wrap it.
                errors.append(error)
                if not (ends_by_itself and isinstance(error, Interrupted)):
                    group.cancel_scope.cancel()
            except anyio.BrokenResourceError:
                # Nobody takes items any more: the failure of the last one who did is on its way.
                return

        group.start_soon(guarded, partial(draw, send))
        for _ in range(workers):
            group.start_soon(guarded, partial(work, receive.clone()))
        receive.close()
    if errors:
        raise next((e for e in errors if not isinstance(e, Interrupted)), errors[0])


async def both(first: Callable[[], Awaitable[A]], second: Callable[[], Awaitable[B]]) -> tuple[A, B]:
    """Await two things at once; what each returned.

    Raises:
        MigrationError: the first that one of them raised, once the other has ended: nothing is cut off in the middle of a write.
    """
    results: list[object] = [None, None]
    errors: list[MigrationError] = []

    async def act(place: int, do: Callable[[], Awaitable[object]]) -> None:
        try:
            results[place] = await do()
        except MigrationError as error:
            # Raised outside: a task group would wrap it.
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(act, 0, first)
        group.start_soon(act, 1, second)
    if errors:
        raise errors[0]
    return cast(tuple[A, B], tuple(results))
