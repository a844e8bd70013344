"""What could a person mean who has typed the beginning of a collection, a model or a migration?

A host asks while somebody types: whatever does not answer in time, or at all, is no suggestion, and never an error.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

import anyio
from mcp.types import Completion

from qdrant_model_migration.domain.untrusted import visible
from qdrant_model_migration.errors import MigrationError
from qdrant_model_migration.operations.context import OperationContext

LOG = logging.getLogger(__name__)
MOST = 100
"""Suggestions in one answer; the protocol's own bound."""
PATIENCE_S = 10.0
"""The first call of a process loads the client and connects."""


async def completion(context: OperationContext, argument: str, typed: str) -> Completion:
    """Suggestions for an argument of a prompt or of a resource's address, by its name; none for names that are free.

    Args:
        context: Of this process.
        argument: `collection`, `model`, `models` (several, by comma) or `migration_id`.
        typed: What is there already. Beginnings come first, then names that hold it anywhere.
    """
    look = _LOOKS.get(argument)
    if look is None:
        return Completion(values=[], total=0, has_more=False)
    before, _, last = typed.rpartition(",") if argument == "models" else ("", "", typed)
    known: list[str] = []
    try:
        with anyio.move_on_after(PATIENCE_S):
            known = await look(context)
    except MigrationError as error:
        LOG.info("No suggestions for %s: %s", argument, error)
    given = [part.strip() for part in before.split(",") if part.strip()]
    found = [", ".join([*given, name]) for name in fitting(known, last.strip()) if name not in given]
    return Completion(values=found[:MOST], total=len(found), has_more=len(found) > MOST)


def fitting(names: Iterable[str], typed: str) -> list[str]:
    """Names that begin so, then those that hold it, each once and in their order; upper and lower case are the same."""
    wanted = typed.lower()
    distinct = [name for name in dict.fromkeys(names) if visible(name, one_line=True) == name]
    begins = [name for name in distinct if name.lower().startswith(wanted)]
    return begins + [name for name in distinct if wanted in name.lower() and name not in set(begins)]


async def _collections(context: OperationContext) -> list[str]:
    """Aliases first: they are what readers name."""
    from qdrant_model_migration.operations.overview import is_visible

    gateway = await context.gateway()
    names = {name for name in await gateway.collections() if is_visible(context.settings, name)}
    aliases = {alias for alias, name in (await gateway.aliases()).items() if name in names}
    return [*sorted(aliases), *sorted(names)]


async def _migrations(context: OperationContext) -> list[str]:
    """Open ones first, the newest of each first."""
    from qdrant_model_migration.operations.finding import migrations_everywhere

    found = [m for _, m in reversed(await migrations_everywhere(context))]
    return [m.id for m in sorted(found, key=lambda m: not m.is_open)]


async def _models(context: OperationContext) -> list[str]:
    from qdrant_model_migration.embedders.listing import list_usable

    return [usable.name for usable in await anyio.to_thread.run_sync(list_usable, context.settings)]


_LOOKS: dict[str, Callable[[OperationContext], Awaitable[list[str]]]] = {
    "collection": _collections,
    "migration_id": _migrations,
    "model": _models,
    "models": _models,
}
