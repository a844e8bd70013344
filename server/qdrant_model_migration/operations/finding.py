"""Which migration does a call mean? One whose id is given, or the only open one, in the ledger of any configured connection.

A ledger lies beside the targets of its connection; a person who moves to another server need not know where it lies.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import anyio

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.errors import MigrationError, NotFound
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.qdrant.ledger import Ledger

OTHERS_S = 8.0
"""A connection that does not answer by then is passed over, unless it is the one that was named."""


async def find_migration(context: OperationContext, migration_id: str | None, connection: str | None = None) -> tuple[Ledger, Migration]:
    """The migration of that id; without one, the only open one.

    Raises:
        NotFound: unknown, or none or several are open; they are listed.
    """
    own = await context.ledger(connection)
    if migration_id is None:
        found = await migrations_everywhere(context, connection)
        is_open = [(ledger, m) for ledger, m in found if m.is_open]
        if len(is_open) != 1:
            raise NotFound(
                f"Name the migration with 'migration_id': {len(is_open)} are open{': ' + listed(m for _, m in is_open) if is_open else ''}."
            )
        return is_open[0]
    wanted = migration_id.strip()
    try:
        return own, await own.migration(wanted)
    except NotFound:
        for ledger, migration in await _elsewhere(context, connection):
            if migration.id == wanted:
                return ledger, migration
        raise


async def migrations_everywhere(context: OperationContext, connection: str | None = None) -> list[tuple[Ledger, Migration]]:
    """Those of the named connection, and, when none is named, those of every other one that answers; oldest first a connection."""
    own = await context.ledger(connection)
    return [*((own, m) for m in await own.migrations()), *await _elsewhere(context, connection)]


async def _elsewhere(context: OperationContext, connection: str | None) -> list[tuple[Ledger, Migration]]:
    if connection is not None:
        return []
    found: dict[str, list[tuple[Ledger, Migration]]] = {}

    async def look(name: str) -> None:
        try:
            with anyio.move_on_after(OTHERS_S):
                ledger = await context.ledger(name)
                found[name] = [(ledger, m) for m in await ledger.migrations()]
        except MigrationError:
            # Away, or held by another process: it was not asked for by name.
            return

    others = [name for name in context.settings.connections if name != "default"]
    async with anyio.create_task_group() as group:
        for name in others:
            group.start_soon(look, name)
    return [pair for name in others for pair in found.get(name, [])]


def listed(migrations: Iterable[Migration]) -> str:
    """Some migrations in one line."""
    return "; ".join(f"{m.id} ({m.source.collection} -> {m.target.collection}, {m.phase.value})" for m in islice(migrations, 8))
