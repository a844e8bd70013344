"""What does create_target tell? What was or would be created, what the app must change, and how the target differs."""

from __future__ import annotations

from pydantic import BaseModel

from qdrant_model_migration.domain.collection import FieldKind, fields_of
from qdrant_model_migration.domain.dual_writes import dual_write_snippet
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.query_changes import query_snippet
from qdrant_model_migration.domain.recipe import Recipe
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.finding import open_migrations_of
from qdrant_model_migration.operations.fitting import SAMPLE_SIZE
from qdrant_model_migration.operations.status import undo_of
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import ConfigDifference, CreateTargetResult, NextStep, RecipeInfo, Side


def would_create(migration: Migration, has_ledger: bool, ledger: str) -> list[str]:
    """Everything that would appear on the server; on that of the target, when there are two."""
    found = [] if has_ledger else [f"collection {ledger!r} (the ledger: payload only, a few records)"]
    found.append(f"record of migration {migration.id} in {ledger!r}")
    fields = fields_of(migration.create)
    described = ", ".join(f"{f.name or 'unnamed vector'}: {f.size or 'sparse'}" for f in fields)
    if migration.made is None:
        found.append(
            f"with start_backfill: quantization '{migration.quantization}' of {migration.dense_field or 'the unnamed vector'!r} in {migration.source.collection!r}"
        )
        return found
    if migration.is_in_place:
        found.append(
            f"vector field {described} in {migration.source.collection!r}, empty at first, and what it is in the collection's metadata"
        )
    else:
        where = f" on connection {migration.target.connection!r}" if migration.is_across_servers else ""
        found.append(f"collection {migration.target.collection!r}{where} ({described}), empty, index building off")
    if migration.making.kind == "linear_map":
        found.append(
            f"before that: a linear map, fitted and judged on a sample of up to {migration.sample_size or SAMPLE_SIZE:,} points, kept in {ledger!r}"
        )
    found += [f"payload index on {field!r} ({index['data_type']})" for field, index in sorted(migration.indexes.items())]
    found.append("for less than a second: a scratch collection and an alias, to prove the rights of the key and the insert-only guard")
    return found


async def _rivals(context: OperationContext, migration: Migration) -> list[str]:
    """Other open migrations of the same source, wherever they lead."""
    others = await open_migrations_of(
        context,
        migration.target.connection,
        lambda m: m.id != migration.id and m.source == migration.source,
        beside=(migration.source.connection,),
    )
    return [
        f"Migration {m.id} ({m.route}) is open too, in phase '{m.phase.value}'"
        + (": both would move the same aliases" if m.target.connection == migration.target.connection else "")
        + ". Go on with that one (migration_status), or discard one with finish_migration."
        for m in others
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
    # In place the fields that are there stay; what was created is known by the plan, whether it is there yet or not.
    kept = [f for f in source_fields if migration.is_in_place and f.name not in {n.name for n in fields}]
    match = migration.source_match
    warnings = await _rivals(context, migration)
    if match is None and migration.made is not None:
        warnings.append(
            "Without current_model (the model of the stored vectors) the old and the new model cannot be compared after the backfill. If it is known, "
            "create the target with it."
        )
    if match is not None and match.is_match and migration.model is not None and match.model == migration.model.name:
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
    in_rows = {f.name for f in fields if f.kind is not FieldKind.SPARSE}
    if gateway.connection.is_embedded and not migration.is_across_servers and "" in in_rows and len(in_rows) > 1:
        warnings.append(
            f"In {target!r} a named vector stands beside the unnamed one, and there the embedded database refuses points that are written with a bare list: from the swap on "
            "the app writes vector={'': [...]}. Queries stay as they are."
        )
    if migration.model is not None and migration.model.note:
        warnings.append(migration.model.note)
    if migration.fitted is not None:
        found = migration.fitted
        warnings.append(
            f"The mapped vectors find {found.recall:.1%} ({found.ci_low:.1%} to {found.ci_high:.1%}) of what exact ones of {migration.spec.name!r} find, measured among "
            f"{found.held_out:,} points that the map was not fitted on; among all {migration.total_points:,} it will be less."
        )
    if is_dry_run:
        summary = f"Dry run, nothing was changed: {_named(migration)} would create or change {len(would_create)} things."
    elif is_known:
        summary = f"Migration {migration.id}, {_named(migration)}, exists already, in phase '{migration.phase.value}'."
    else:
        summary = f"Migration {migration.id} is ready: {_named(migration)}, {migration.total_points:,} points."
    step = NextStep(tool="start_backfill", arguments={"migration_id": migration.id}, why=_what_follows(migration))
    if is_known and migration.phase is not Phase.TARGET_CREATED:
        step = NextStep(tool="migration_status", arguments={"migration_id": migration.id}, why="see where it stands")
    return CreateTargetResult(
        summary=context.notice(migration.source.connection) + summary,
        warnings=warnings,
        next_step=None if is_dry_run else step,
        undo="Nothing was changed." if is_dry_run else undo_of(migration),
        migration_id=migration.id,
        phase=migration.phase.value,
        is_dry_run=is_dry_run,
        would_create=would_create,
        source=Side(connection=migration.source.connection, collection=source, vectors=[f.info() for f in source_fields]),
        target=Side(connection=migration.target.connection, collection=target, vectors=[f.info() for f in (*kept, *fields)]),
        recipes=[_recipe(migration, r) for r in migration.recipes],
        config_diff=diff or [],
        app_changes=list(migration.app_changes),
        dual_write_snippet=dual_write_snippet(migration, migration.texts is not None) if _writes_to_both(migration) else "",
        query_snippet=query_snippet(migration),
        fitted=migration.fitted,
        source_match=match,
    )


def _recipe(migration: Migration, recipe: Recipe) -> RecipeInfo:
    is_made = recipe.kind != "copy"
    return RecipeInfo(
        field=recipe.field,
        kind=recipe.kind,
        source_field=recipe.source_field,
        model=migration.spec.name if is_made else None,
        dimensions=recipe.dimensions if is_made else None,
        stage=recipe.stage,
    )


def _named(migration: Migration) -> str:
    source, target = migration.source.collection, migration.target.collection
    if migration.made is None:
        return f"{source!r} re-quantized in place ({migration.quantization})"
    if migration.is_in_place:
        return f"{source!r} with a vector {migration.making.field!r} of {migration.spec.name} added in place"
    where = f" on connection {migration.target.connection!r}" if migration.is_across_servers else ""
    return f"{source!r} to {target!r}{where} by '{migration.strategy}' with {migration.spec.name}"


def _what_follows(migration: Migration) -> str:
    if migration.made is None:
        return "have the server quantize in the background"
    if migration.has_fill_stage and not migration.is_in_place:
        return "copy the points in the background; the new field is filled afterwards"
    return "fill the target in the background"


def _writes_to_both(migration: Migration) -> bool:
    """Whether there are two collections that the app keeps alike, each with vectors that it can make."""
    return migration.writes == "dual_write" and not migration.is_in_place and migration.made is not None and migration.made.kind == "embed"


async def fitting(context: OperationContext, gateway: Gateway, migration: Migration, request: BaseModel) -> CreateTargetResult:
    """The answer while the linear map is being fitted: the same call attaches to it."""
    found = await answer(context, gateway, migration, [], is_known=True)
    arguments = request.model_dump(mode="json", exclude_defaults=True)
    return found.model_copy(
        update={
            "summary": f"{context.notice(migration.source.connection)}The linear map of migration {migration.id} is being fitted and judged on a sample; nothing is created yet.",
            "state": "running",
            "next_step": NextStep(
                tool="create_target", arguments=arguments, why="it goes on in the background; the same call attaches to it"
            ),
        }
    )
