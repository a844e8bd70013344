"""Tool verify_target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context
from pydantic import Field

from qdrant_model_migration.results import NextStep, Progress, Verification, VerifyResult
from qdrant_model_migration.tools.support import (
    App,
    Connection,
    MigrationId,
    ToolSpec,
    again,
    app_of,
    progress_of,
    read_only,
    reporter,
    running_summary,
)

if TYPE_CHECKING:
    from qdrant_model_migration.domain.migration import Migration
    from qdrant_model_migration.operations.requests import Report


async def verify_target(
    ctx: Context[Any, Any],
    migration_id: MigrationId,
    provenance_sample: Annotated[int, Field(description="vectors embedded again to prove the model", ge=0, le=10_000)] = 200,
    connection: Connection = None,
) -> VerifyResult:
    from qdrant_model_migration.operations.finding import find_migration
    from qdrant_model_migration.operations.requests import carry_out

    app = app_of(ctx)
    ledger, migration = await find_migration(app.context, migration_id, connection)
    migration.check_allows("verify_target")
    arguments = {"provenance_sample": provenance_sample}
    if app.context.settings.is_read_only:
        return await _verify_here(ctx, app, migration, provenance_sample)
    operation = await carry_out(app.context, migration, "verify", arguments, report=reporter(ctx))
    migration = await ledger.migration(migration.id)
    if operation.state != "done":
        progress = progress_of(operation)
        return VerifyResult(
            summary=running_summary(app, migration, "verification", progress),
            next_step=again("verify_target", {"migration_id": migration.id, **arguments}),
            state="running",
            migration_id=migration.id,
            phase=migration.phase.value,
            is_complete=None,
            progress=progress,
        )
    return verified(app, migration, Verification.model_validate(operation.result))


async def _verify_here(ctx: Context[Any, Any], app: App, migration: Migration, provenance_sample: int) -> VerifyResult:
    """In read-only mode nothing may be recorded: the verification runs in this process, and answers but proves nothing for a swap."""
    from qdrant_model_migration.operations.requests import operation_key
    from qdrant_model_migration.operations.verify import verify
    from qdrant_model_migration.operations.work import open_work, read_only_check

    async def act(report: Report) -> Verification:
        work = await open_work(app.context, migration, read_only_check)
        return await verify(work, provenance_sample=provenance_sample, may_catch_up=False)

    key = operation_key("verify", {"migration_id": migration.id, "provenance_sample": provenance_sample})
    found = await app.local.carry_out(app.context, key, act, report=reporter(ctx))
    if found is None:
        progress = Progress(stage="verifying")
        return VerifyResult(
            summary=running_summary(app, migration, "verification", progress),
            next_step=again("verify_target", {"migration_id": migration.id, "provenance_sample": provenance_sample}),
            state="running",
            migration_id=migration.id,
            phase=migration.phase.value,
            progress=progress,
        )
    return verified(app, migration, found).model_copy(update={"next_step": None})


def verified(app: App, migration: Migration, found: Verification) -> VerifyResult:
    """The answer for a finished verification."""
    from qdrant_model_migration.domain.phases import Phase
    from qdrant_model_migration.operations.status import after_verification

    source, target = migration.source.collection, migration.target.collection
    me = {"migration_id": migration.id}
    warnings: list[str] = []
    step: NextStep | None
    if found.is_complete:
        summary = _complete(migration, found)
        step = after_verification(migration.model_copy(update={"comparison": None}))
    elif not (found.missing or found.extra or found.changed or found.bad_vectors or found.provenance.wrong) and found.is_index_ready:
        paths = ", ".join(d.path for d in found.config_diff if not d.is_intended)
        summary = f"Not complete: {'; '.join(found.problems)}. Every point is right."
        warnings.append(
            f"The configuration of the source or of the target was changed since the target was created, and repair_target changes no configuration: make these settings equal by "
            f"hand, then verify again: {paths}."
        )
        step = None
    else:
        summary = f"Not complete: {'; '.join(found.problems)}."
        step = NextStep(tool="repair_target", arguments=me, why="put right what was found")
        if found.problems == ["the index is still being built"]:
            step = NextStep(tool="verify_target", arguments=me, why="look again when the index is built")
    if migration.phase is Phase.CUT_OVER and not found.is_complete and not migration.serves_while_filled:
        if not found.bad_vectors and not found.provenance.wrong:
            summary = f"The target serves, and the app has written on: {'; '.join(found.problems)} against the old collection. No vector is wrong."
        warnings.append(
            f"The readers have moved: what the app wrote to {target!r} since the swap differs from {source!r}, and that is no fault and no reason to roll "
            "back. finish_migration carries over what the old collection got late."
        )
    if found.provenance.others_wrong:
        warnings.append(_first_the_writer(migration))
    if found.accounted:
        warnings.append(
            f"{found.accounted} points have no vector of the new model, by the stated policy or because they could not be embedded."
        )
    return VerifyResult(
        summary=app.context.notice(migration.target.connection) + summary,
        warnings=warnings,
        next_step=step if migration.phase in (Phase.BACKFILLED, Phase.VERIFIED) or migration.serves_while_filled else None,
        migration_id=migration.id,
        phase=migration.phase.value,
        # What differs by plan was told by create_target; here it would only hide what does not.
        config_diff=[d for d in found.config_diff if not d.is_intended],
        **found.model_dump(exclude={"problems", "at", "lease_epoch", "config_diff", "source_operation", "pass_seconds"}),
    )


def _first_the_writer(migration: Migration) -> str:
    """What is to be done about a writer whose vectors are wrong; nothing but the app writes a target that serves."""
    from qdrant_model_migration.domain.phases import Phase

    model, me = migration.spec, f"migration_id={migration.id!r}"
    prefix = f", each prefixed {model.document_prefix!r}" if model.document_prefix else ""
    if migration.has_fill_stage and migration.serves_while_filled:
        head = (
            f"Writers that change a text also write its vector in {migration.making.field!r} (or upsert without it, and it is filled again)"
        )
        return f"{head}; until then edits leave stale vectors. repair_target({me}) embeds those points again."
    head = f"First change that writer: documents are embedded with {model.name}{prefix}"
    if migration.phase is Phase.CUT_OVER:
        return (
            f"{head}. Then have it write those points again (wrong_model_samples names some): after the swap only the app writes {migration.target.collection!r}. "
            "Or go back with swap_alias(direction='back'), if its release cannot follow soon."
        )
    return f"{head}, or it writes to the source only. Then repair_target({me}) embeds those points again; before that it would be undone."


def _complete(migration: Migration, found: Verification) -> str:
    """What a verification without a finding proved."""
    source, target = migration.source.collection, migration.target.collection
    head = f"Complete: {found.target_points:,} points of {target!r} equal those of {source!r}"
    if migration.made is None:
        return f"Complete: {target!r} is quantized as planned, and its index is built."
    if migration.serves_while_filled:
        head = f"Complete: every one of {found.target_points:,} points of {target!r} that has a text holds {migration.making.field!r}"
    elif migration.is_fill_due:
        head += f"; {migration.making.field!r} is not filled yet ({found.coverage or 0:.0%} of the points)"
    if not found.provenance.sampled:
        return f"{head}" + (f" ({found.provenance.note})." if found.provenance.note else ".")
    if found.provenance.is_rest_own:
        least = f"least cosine {found.provenance.min_cosine}"
        return f"{head}; {found.provenance.sampled} vectors embedded again agree ({least}); {found.provenance.note}."
    share = f", at most {found.provenance.upper_bound:.2%} of the others could be wrong" if found.provenance.upper_bound else ""
    return f"{head}; {found.provenance.sampled} vectors embedded again agree (least cosine {found.provenance.min_cosine}{share})."


SPEC = ToolSpec(
    fn=verify_target,
    title="Verify the target",
    description=(
        "Prove that the target is complete and right: every id, payload and vector compared with the source, a sample embedded again to prove that "
        "the vectors come from the stated model, configuration and index checked. Use it when the backfill is done, and again before a swap that is "
        "more than 15 minutes later. It changes nothing that it judges; while an app writes, the ordinary catch-up of the worker goes on. Whether the new model searches as well is compare_models. A long "
        "one returns state='running': make the same call again."
    ),
    annotations=read_only(),
)
