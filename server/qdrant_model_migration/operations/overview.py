"""What does a Qdrant hold that this installation may touch? Collections, aliases, open migrations, and whether a name is allowed."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

import anyio

from qdrant_model_migration.domain.findings import fitted, limits_of
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.errors import AccessDenied, NotFound, Refused
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.finding import migrations_everywhere
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import AliasInfo, CollectionSummary, InspectResult, MigrationSummary, NextStep, ServerInfo
from qdrant_model_migration.settings import Settings

ResponseFormat = Literal["concise", "detailed"]


async def resolve_allowed(context: OperationContext, gateway: Gateway, name: str) -> tuple[str, str | None]:
    """(collection, alias) of a name that this installation may touch.

    Raises:
        NotFound: neither a collection nor an alias; only names inside the allow-list are suggested.
        Refused: the collection is outside the allow-list, or is the ledger; or the key may not list aliases, and there is an allow-list.
    """
    settings = context.settings
    try:
        found, alias = await gateway.resolve(name, must_list=bool(settings.allowed_collections))
    except AccessDenied as error:
        if not settings.allowed_collections:
            raise
        raise Refused(
            f"Nothing was done: QDRANT_MIGRATION_ALLOWED_COLLECTIONS is set, and this key does not let it be told whether {name!r} is an alias of a "
            f"collection outside it. {error} Use a key that may list collections and aliases."
        ) from None
    except NotFound:
        if not settings.allowed_collections:
            raise
        known = [c for c in await gateway.collections() if is_visible(settings, c)]
        raise NotFound.named("collection or alias", name, known, "Nothing was done") from None
    settings.check_collection_allowed(found, named=name)
    if found == settings.ledger:
        raise Refused(
            f"Nothing was done: {found!r} is the ledger of this tool, not a collection to migrate. migration_status shows what it records."
        )
    return found, alias


async def open_migrations(context: OperationContext, connection: str) -> list[Migration]:
    """Open migrations from or to a connection, of collections inside the allow-list; none without the right to read the ledger.

    One that leads to another server is recorded there.
    """
    try:
        recorded = await migrations_everywhere(context, connection)
    except AccessDenied:
        return []
    return [m for _, m in recorded if m.is_open and is_visible(context.settings, m.source.collection)]


async def overview(
    context: OperationContext,
    gateway: Gateway,
    server: ServerInfo,
    migrations: list[Migration],
    name_filter: str | None,
    response_format: ResponseFormat,
) -> InspectResult:
    limits = limits_of(response_format)
    visible = [c for c in await gateway.collections() if is_visible(context.settings, c)]
    aliases = {a: c for a, c in (await gateway.aliases()).items() if c in set(visible)}
    wanted = [c for c in visible if _passes(c, name_filter) or any(_passes(a, name_filter) for a, to in aliases.items() if to == c)]
    found = await _summaries(gateway, wanted[: limits.collections], aliases)
    pointing = [AliasInfo(alias=a, collection=c) for a, c in sorted(aliases.items()) if c in set(wanted)]
    where = "in the embedded database" if server.mode == "embedded" else f"on Qdrant {server.version}"
    chosen = f" of {len(visible)} pass the filter {name_filter!r}," if name_filter else ","
    result = InspectResult(
        summary=f"{context.notice(server.connection)}{len(wanted)} {_plural(len(wanted), 'collection')} {where}{chosen} "
        f"{len(pointing)} {_plural(len(pointing), 'alias', 'aliases')}, {len(migrations)} open {_plural(len(migrations), 'migration')}.",
        server=server,
        collections=found,
        aliases=pointing,
        migrations=[migration_summary(m) for m in migrations],
        omitted={"collections": len(wanted) - len(found)} if len(wanted) > len(found) else {},
        next_step=_overview_step(server, migrations, wanted),
    )
    if not visible:
        hidden = context.settings.allowed_collections
        result.warnings.append(
            f"None of the collections here is among those that QDRANT_MIGRATION_ALLOWED_COLLECTIONS allows ({', '.join(hidden)})."
            if hidden
            else "There is no collection here. If you expected some, check which Qdrant the settings name (QDRANT_URL, QDRANT_PATH)."
        )
    elif not wanted:
        result.warnings.append(
            f"No collection or alias passes the filter; it is a part of the name, or a glob such as 'docs*'. There are {len(visible)}."
        )
    return fitted(result, limits)


def _overview_step(server: ServerInfo, migrations: list[Migration], wanted: list[str]) -> NextStep | None:
    connection = connection_argument(server.connection)
    if len(migrations) == 1:
        return status_step(migrations[0])
    if not migrations and len(wanted) == 1:
        return NextStep(tool="inspect_collection", arguments={"collection": wanted[0], **connection}, why="It is the only collection.")
    return None


def status_step(migration: Migration) -> NextStep:
    why = f"Migration {migration.id} ({migration.route}) is open, in phase '{migration.phase.value}'."
    return NextStep(tool="migration_status", arguments={"migration_id": migration.id}, why=why)


async def _summaries(gateway: Gateway, names: list[str], aliases: dict[str, str]) -> list[CollectionSummary]:
    """Collections with their points, in the order of the names; one deleted meanwhile is left out."""
    counts: dict[str, int] = {}
    limiter = anyio.CapacityLimiter(8)

    async def count(name: str) -> None:
        async with limiter:
            try:
                counts[name] = await gateway.points.count(name)
            except NotFound:
                return

    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(partial(count, name))
    pointing: dict[str, list[str]] = {}
    for alias, target in sorted(aliases.items()):
        pointing.setdefault(target, []).append(alias)
    # The aliases stand in a list of their own as well; a collection shows its first ones.
    return [CollectionSummary(name=n, points=counts[n], aliases=pointing.get(n, [])[:3]) for n in names if n in counts]


def migration_summary(found: Migration) -> MigrationSummary:
    return MigrationSummary(
        migration_id=found.id,
        phase=found.phase.value,
        source=found.source.collection,
        target=found.target.collection,
        source_connection=found.source.connection if found.is_across_servers else None,
        target_connection=found.target.connection if found.is_across_servers else None,
        strategy=found.strategy,
        error=found.error[:200] if found.error else None,
    )


def is_visible(settings: Settings, name: str) -> bool:
    return name != settings.ledger and settings.allows(name)


def _passes(name: str, name_filter: str | None) -> bool:
    if not name_filter:
        return True
    wanted, lowered = name_filter.lower(), name.lower()
    return fnmatchcase(lowered, wanted) if any(c in wanted for c in "*?[") else wanted in lowered


def connection_argument(connection: str) -> dict[str, str]:
    return {} if connection == "default" else {"connection": connection}


def _plural(count: int, one: str, many: str | None = None) -> str:
    return one if count == 1 else many or one + "s"
