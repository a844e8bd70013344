"""Does a query fail while the aliases move? A reader of our own, which looks where an alias leads with every query, as `app_changes` asks of an app."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

import anyio

from qdrant_model_migration.errors import Interrupted, LeaseLost, MigrationError, RateLimited
from qdrant_model_migration.operations.canary import searched_field, vectors_to_search
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.results import AliasQueries

T = TypeVar("T")
LOG = logging.getLogger(__name__)
PAUSE_S = 0.05
VECTORS = 8
"""Of each collection, searched for in turn."""
MOST_ALIASES = 8
MOST_FAILURES = 3
"""Told in full; the others are counted."""


@dataclass(kw_only=True)
class Reader:
    """Queries that follow the aliases; each is tried once, as an app's without retries would be."""

    work: Work
    aliases: list[str]
    queries: dict[str, tuple[str, list[Any]]]
    """Collection -> (vector name, vectors of that collection)."""
    seen: AliasQueries = field(default_factory=AliasQueries)
    over: anyio.Event = field(default_factory=anyio.Event)

    async def read(self) -> None:
        """One query after another, until it is over or this driver may not go on; the last one is waited for."""
        for turn in count():
            try:
                await self.ask(self.aliases[turn % len(self.aliases)], turn)
            except (LeaseLost, Interrupted):
                return
            with anyio.move_on_after(PAUSE_S):
                await self.over.wait()
                return

    async def ask(self, alias: str, turn: int = 0) -> None:
        try:
            await self.work.target.searches.through_alias(alias, {c: (using, v[turn % len(v)]) for c, (using, v) in self.queries.items()})
        except (LeaseLost, Interrupted):
            raise
        except RateLimited:
            # A limit that the collection's owner set, and no effect of the move.
            return
        except Exception as error:  # noqa: BLE001 - not even a defect of this reader may end a swap in the middle
            self.seen.failed += 1
            if len(self.seen.failures) < MOST_FAILURES:
                # The text of a defect may hold anything.
                self.seen.failures.append(f"{alias}: {error if isinstance(error, MigrationError) else type(error).__name__}")
        self.seen.asked += 1


async def read_beside(work: Work, act: Callable[[], Awaitable[T]]) -> tuple[T, AliasQueries | None]:
    """What `act` returns, and what a reader saw from before it until each alias was followed once more after it; None where no alias can be read.

    Raises:
        MigrationError: `act` did. What the reader meets is counted, and hinders nothing.
    """
    reader = await _reader(work)
    if reader is None:
        return await act(), None
    results: list[T] = []
    errors: list[MigrationError] = []
    async with anyio.create_task_group() as group:
        group.start_soon(reader.read)
        try:
            results.append(await act())
        except MigrationError as error:
            # Raised below: a task group would wrap it.
            errors.append(error)
        reader.over.set()
    if errors:
        raise errors[0]
    # The readers have moved: a driver that is to stop first records that.
    with suppress(LeaseLost, Interrupted):
        for alias in reader.aliases:
            await reader.ask(alias)
    return results[0], reader.seen


async def _reader(work: Work) -> Reader | None:
    """None where no alias leads to either side yet, or nothing there can be searched."""
    if work.target.connection.is_embedded:
        # One process at a time: there is no other reader.
        return None
    sides = [work.migration.target.collection]
    if not work.migration.is_across_servers:
        sides.append(work.migration.source.collection)
    try:
        aliases = sorted(alias for alias, collection in (await work.target.aliases()).items() if collection in sides)
        queries = {side: found for side in sides if (found := await _queries(work, side)) is not None} if aliases else {}
    except (LeaseLost, Interrupted):
        raise
    except MigrationError as error:
        LOG.warning("No reader follows the aliases while they move: %s", error)
        return None
    is_readable = aliases and len(queries) == len(sides)
    return Reader(work=work, aliases=aliases[:MOST_ALIASES], queries=queries) if is_readable else None


async def _queries(work: Work, collection: str) -> tuple[str, list[Any]] | None:
    searched = searched_field(await work.target.describe(collection))
    if searched is None:
        return None
    vectors = await vectors_to_search(work.target, collection, searched, VECTORS)
    return (searched.name, vectors) if vectors else None
