"""Some requests at a time, so that many searches take no longer than they must and a server is not flooded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import anyio

from qdrant_model_migration.errors import MigrationError

Item = TypeVar("Item")

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
