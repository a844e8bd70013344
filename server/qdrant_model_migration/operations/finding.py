"""Which migration does a call mean? One whose id is given, or the only open one, in the ledger of any configured connection.

A ledger lies beside the targets of its connection; a person who moves to another server need not know where it lies, nor must the other
server answer: it may be the old one, which was switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import anyio

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.errors import MigrationError, NotFound, Refused
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.qdrant.ledger import Ledger

OTHERS_S = 8.0
"""A connection that does not answer by then is passed over, unless it is the one that was named."""


async def find_migration(context: OperationContext, migration_id: str | None, connection: str | None = None) -> tuple[Ledger, Migration]:
    """The migration of that id, wherever it is recorded; without one, the only open one (of that connection, when one is named).

    Raises:
        NotFound: unknown, or none or several are open; they are listed.
        Refused: it is of collections outside the allow-list.
        MigrationError: the connection that was asked for does not answer, and no other holds the migration.
    """
    if migration_id is None:
        everywhere = await migrations_everywhere(context, connection)
        is_open = [(ledger, m) for ledger, m in everywhere if m.is_open]
        if len(is_open) != 1:
            raise NotFound(
                f"Name the migration with 'migration_id': {len(is_open)} are open{': ' + listed(m for _, m in is_open) if is_open else ''}."
            )
        return is_open[0]
    wanted = migration_id.strip()
    own: Ledger | None = None
    try:
        own = await context.ledger(connection)
        found = own, await own.migration(wanted)
    except MigrationError as error:
        others = await _elsewhere(context, connection)
        elsewhere = next(((ledger, m) for ledger, m in others if m.id == wanted), None)
        if elsewhere is None:
            if isinstance(error, NotFound) and context.settings.allowed_collections and own is not None and await own.exists():
                # The ledger lists all; what is outside the allow-list is not told.
                open_ones = [m for _, m in await migrations_everywhere(context, connection) if m.is_open]
                raise NotFound(
                    f"Nothing was changed: there is no migration {wanted!r}. Open migrations: {listed(open_ones) or 'none'}."
                ) from None
            raise
        found = elsewhere
    if not is_allowed(context, found[1]):
        raise Refused(
            f"Nothing was done: migration {wanted!r} is of collections that QDRANT_MIGRATION_ALLOWED_COLLECTIONS "
            f"({', '.join(context.settings.allowed_collections)}) does not allow. Whoever runs this server can change the setting."
        )
    return found


def is_allowed(context: OperationContext, migration: Migration) -> bool:
    """Whether this installation may touch both sides of a migration; another one with the same ledger may have begun it."""
    return all(context.settings.allows(side.collection) for side in (migration.source, migration.target))


async def migrations_everywhere(context: OperationContext, connection: str | None = None) -> list[tuple[Ledger, Migration]]:
    """All migrations of every connection that answers; with a name those that touch that connection. Oldest first a connection.

    Raises:
        MigrationError: the named connection (else the default one) does not answer, and no other one knows an open migration.
    """
    others = await _elsewhere(context, connection)
    if connection is not None:
        others = [(ledger, m) for ledger, m in others if connection in (m.source.connection, m.target.connection)]
    try:
        own = await context.ledger(connection)
        found = [*((own, m) for m in await own.migrations()), *others]
    except MigrationError:
        if not any(m.is_open for _, m in others):
            raise
        found = others
    return [(ledger, m) for ledger, m in found if is_allowed(context, m)]


async def _elsewhere(context: OperationContext, connection: str | None) -> list[tuple[Ledger, Migration]]:
    """What the ledgers of all connections but that one record, as far as they answer."""
    own = context.settings.connection(connection).name
    found: dict[str, list[tuple[Ledger, Migration]]] = {}

    async def look(name: str) -> None:
        try:
            with anyio.move_on_after(OTHERS_S):
                ledger = await context.ledger(name)
                found[name] = [(ledger, m) for m in await ledger.migrations()]
        except MigrationError:
            # Away, or held by another process: it was not asked for by name.
            return

    others = [name for name in context.settings.connections if name != own]
    async with anyio.create_task_group() as group:
        for name in others:
            group.start_soon(look, name)
    return [pair for name in others for pair in found.get(name, [])]


def listed(migrations: Iterable[Migration]) -> str:
    """Some migrations in one line."""
    return "; ".join(f"{m.id} ({m.route}, {m.phase.value})" for m in islice(migrations, 8))


async def open_migrations_of(
    context: OperationContext, connection: str, wanted: Callable[[Migration], bool], *, beside: Iterable[str] = ()
) -> list[Migration]:
    """Open migrations that pass, from the ledgers of `connection` and `beside`, which must answer, and of the others, as far as they do.

    Raises:
        MigrationError: one that must answer does not.
    """
    needed = list(dict.fromkeys((connection, *beside)))
    recorded = [m for name in needed for m in await (await context.ledger(name)).migrations()]
    recorded += [m for ledger, m in await _elsewhere(context, connection) if ledger.gateway.connection.name not in needed]
    return [m for m in recorded if m.is_open and wanted(m)]
