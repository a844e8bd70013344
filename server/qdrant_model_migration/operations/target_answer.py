"""What does create_target tell? What was or would be created, what the app must change, and how the target differs."""

from __future__ import annotations

from qdrant_model_migration.domain.app_changes import dual_write_snippet
from qdrant_model_migration.domain.collection import fields_of
from qdrant_model_migration.domain.migration import Migration, Phase
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import ConfigDifference, CreateTargetResult, NextStep, RecipeInfo, Side


def would_create(migration: Migration, has_ledger: bool, ledger: str) -> list[str]:
    """Everything that would appear on the server."""
    found = [] if has_ledger else [f"collection {ledger!r} (the ledger: payload only, a few records)"]
    found.append(f"record of migration {migration.id} in {ledger!r}")
    fields = fields_of(migration.create)
    described = ", ".join(f"{f.name or 'unnamed vector'}: {f.size or 'sparse'}" for f in fields)
    found.append(f"collection {migration.target.collection!r} ({described}), empty, index building off")
    found += [f"payload index on {field!r} ({index['data_type']})" for field, index in sorted(migration.indexes.items())]
    found.append("for less than a second: a scratch collection and an alias, to prove the rights of the key and the insert-only guard")
    return found


async def _rivals(context: OperationContext, migration: Migration) -> list[str]:
    """Other open migrations of the same source."""
    ledger = await context.ledger(migration.target.connection)
    return [
        f"Migration {m.id} of {m.source.collection!r} to {m.target.collection!r} is open too, in phase '{m.phase.value}': both would move the same aliases. "
        f"Go on with that one (migration_status), or discard one with finish_migration."
        for m in await ledger.migrations()
        if m.is_open and m.id != migration.id and m.source.collection == migration.source.collection
    ]


async def answer(
    context: OperationContext,
    gateway: Gateway,
    migration: Migration,
    would_create: list[str],
    *,
    diff: list[ConfigDifference] | None = None,
    is_known: bool = False,
    is_dry_run: bool = False,
) -> CreateTargetResult:
    source, target = migration.source.collection, migration.target.collection
    fields = fields_of(migration.create)
    source_fields = (await gateway.describe(source)).fields if await gateway.exists(source) else ()
    match = migration.source_match
    warnings = await _rivals(context, migration)
    if match is None:
        warnings.append(
            "Without current_model (the model of the stored vectors) the old and the new model cannot be compared after the backfill. If it is known, "
            "create the target with it."
        )
    elif match.is_match and match.model == migration.model.name:
        warnings.append(
            f"The stored vectors are those of {match.model!r} for {match.text_field!r} already: nothing would change but the collection."
        )
    if match is not None and not match.is_match:
        warnings.append(
            f"The stored vectors are not those of {match.model!r} for {match.text_field!r} (mean cosine {match.mean_cosine}, needed {match.threshold}): "
            f"{'; '.join(match.likely_causes)}. Comparison with the old model will be refused."
        )
    unplanned = [d for d in diff or [] if not d.is_intended]
    if unplanned:
        warnings.append(f"The server did not take {len(unplanned)} setting(s) of the source: {', '.join(d.path for d in unplanned[:8])}.")
    if migration.model.note:
        warnings.append(migration.model.note)
    if is_dry_run:
        summary = f"Dry run, nothing was changed: a migration of {source!r} to {target!r} with {migration.model.name} would create {len(would_create)} things."
    elif is_known:
        summary = f"Migration {migration.id} of {source!r} to {target!r} exists already, in phase '{migration.phase.value}'."
    else:
        summary = f"Migration {migration.id}: target {target!r} created for {migration.total_points:,} points of {source!r} with {migration.model.name}."
    step = NextStep(tool="start_backfill", arguments={"migration_id": migration.id}, why="fill the target in the background")
    if is_known and migration.phase is not Phase.TARGET_CREATED:
        step = NextStep(tool="migration_status", arguments={"migration_id": migration.id}, why="see where it stands")
    return CreateTargetResult(
        summary=context.notice(migration.source.connection) + summary,
        warnings=warnings,
        next_step=None if is_dry_run else step,
        undo="Nothing was changed."
        if is_dry_run
        else "finish_migration with action='discard_new' deletes the target; the source is never touched.",
        migration_id=migration.id,
        phase=migration.phase.value,
        is_dry_run=is_dry_run,
        would_create=would_create,
        source=Side(connection=migration.source.connection, collection=source, vectors=[f.info() for f in source_fields]),
        target=Side(connection=migration.target.connection, collection=target, vectors=[f.info() for f in fields]),
        recipes=[_recipe(migration, r.field) for r in migration.recipes],
        config_diff=diff or [],
        app_changes=list(migration.app_changes),
        dual_write_snippet=dual_write_snippet(migration) if migration.writes == "dual_write" else "",
        source_match=match,
    )


def _recipe(migration: Migration, field: str) -> RecipeInfo:
    recipe = next(r for r in migration.recipes if r.field == field)
    is_embedded = recipe.kind == "embed"
    return RecipeInfo(
        field=recipe.field,
        kind=recipe.kind,
        source_field=recipe.source_field,
        model=migration.model.name if is_embedded else None,
        dimensions=migration.model.dimensions if is_embedded else None,
    )
