"""Tool swap_alias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Resolve
from pydantic import Field

from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import NextStep, SwapOutcome, SwapResult
from qdrant_model_migration.tools.agreement import Agreement, NotAgreed, ask, why_not
from qdrant_model_migration.tools.support import App, Connection, MigrationId, ToolSpec, app_of, reporter, writing

if TYPE_CHECKING:
    from qdrant_model_migration.domain.migration import Migration
    from qdrant_model_migration.operations.swap_plan import Direction


async def swap_alias(
    ctx: Context[Any, Any],
    migration_id: MigrationId,
    agreement: Annotated[ElicitationResult[Agreement], Resolve(ask)],
    alias: Annotated[
        str | None, Field(description="move only this alias, or create it; all of the source's when left out", min_length=1, max_length=255)
    ] = None,
    direction: Annotated[Literal["forward", "back"], Field(description="forward: to the target; back: the rollback")] = "forward",
    plan: Annotated[
        str | None, Field(description="the code of the plan that the person agreed to; leave out for the plan", max_length=100)
    ] = None,
    fence: Annotated[
        bool,
        Field(
            description="of a first call: whether writers wait (answered with 429) for the seconds of the last differences, where writes go on and the server "
            "can; false: late writes are carried over by their numbers"
        ),
    ] = True,
    connection: Connection = None,
) -> SwapResult:
    from qdrant_model_migration.operations.finding import find_migration
    from qdrant_model_migration.operations.plans import check_made_for
    from qdrant_model_migration.operations.requests import carry_out
    from qdrant_model_migration.operations.swap_plan import why_void

    app = app_of(ctx)
    ledger, migration = await find_migration(app.context, migration_id, connection)
    if alias is not None and direction == "forward":
        await _check_alias(app, migration, alias)
    if plan is None:
        return await _planned(app, migration, direction, alias, None, fence=fence)
    held = await check_made_for(ledger, migration.id, plan, "swap", {"direction": direction})
    if (no := why_not(agreement)) is not None:
        return _not_agreed(app, migration, no)
    # What the plan was made for, where the call with its code does not repeat it.
    alias = alias or held.arguments.get("alias")
    fence = bool(held.arguments.get("fence", True))
    done = await ledger.operation(migration.id, f"swap-{plan.strip()}")
    if done is not None and done.state == "done":
        await _check_still_so(app, migration, SwapOutcome.model_validate(done.result), plan.strip())
    if done is None or done.state == "failed":
        try:
            void = await why_void(app.context, migration, direction, alias, plan)
        except Refused as error:
            begun = _begun_before(migration)
            raise Refused(f"{error} {begun}" if begun else str(error)) from None
        if void is not None:
            return await _planned(app, migration, direction, alias, void, fence=fence)
    arguments = {"direction": direction, "alias": alias, "code": plan.strip()}
    operation = await carry_out(app.context, migration, "swap", arguments, report=reporter(ctx), key=f"swap-{plan.strip()}")
    migration = await ledger.migration(migration.id)
    notice = app.context.notice(migration.target.connection)
    if operation.state != "done":
        # The code must not travel in next_step; the status tells when it is over.
        step = NextStep(tool="migration_status", arguments={"migration_id": migration.id, "wait_seconds": 30}, why="see the swap through")
        return SwapResult(
            summary=f"{notice}The swap of migration {migration.id} goes on.", next_step=step, state="running", migration_id=migration.id,
            phase=migration.phase.value, undo=_undo(migration, direction),
        )  # fmt: skip
    return _swapped(notice, migration, direction, SwapOutcome.model_validate(operation.result))


async def _check_alias(app: App, migration: Migration, alias: str) -> None:
    from qdrant_model_migration.operations.naming import check_new_name

    connection = migration.target.connection
    if alias not in await (await app.context.gateway(connection)).aliases():
        await check_new_name(app.context, connection, alias, migration_id=migration.id)


async def _planned(
    app: App, migration: Migration, direction: Direction, alias: str | None, refusal: str | None, *, fence: bool
) -> SwapResult:
    from qdrant_model_migration.domain.moves import MOST_NAMED
    from qdrant_model_migration.operations.swap_plan import plan_swap

    ledger = await app.context.ledger(migration.target.connection)
    begun = _begun_before(migration)
    try:
        made = await plan_swap(app.context, ledger, migration, direction, alias, fence=fence)
    except Refused as error:
        raise Refused(f"{error} {begun}" if begun else str(error)) from None
    moves = "; ".join(f"{m.alias}: {m.from_collection or '(new)'} -> {m.to_collection or '(removed)'}" for m in made.moves[:MOST_NAMED])
    if (more := len(made.moves) + len(made.also) - MOST_NAMED) > 0:
        moves += f"; and {more} more aliases"
    head = f"Nothing was changed: {refusal}. Here is the plan as things are now" if refusal else "The plan, nothing is changed yet"
    return SwapResult(
        summary=f"{app.context.notice(migration.target.connection)}{head}: {moves}. Show it to the person; after they agreed, call again with plan='{made.code}'.",
        warnings=[*([begun] if begun else []), *(f"Agreeing accepts: {text}" for text in made.overrides)],
        migration_id=migration.id,
        phase=migration.phase.value,
        plan=made,
        refusal=refusal,
        app_changes=_app_changes(migration, direction),
    )


def _begun_before(migration: Migration) -> str | None:
    """A swap that was begun and is not over, as where the machine of its driver died: what is refused is refused because of it."""
    if migration.intent not in ("swapping", "sweeping"):
        return None
    moved = (
        "the aliases have moved, late writes are being carried over"
        if migration.intent == "sweeping"
        else "the aliases may have moved already"
    )
    return (
        f"A swap of this migration was begun before and is not over ({moved}). Call migration_status(migration_id={migration.id!r}): it starts a worker "
        "that completes the swap where none runs any more, and tells what came of it."
    )


async def _check_still_so(app: App, migration: Migration, outcome: SwapOutcome, code: str) -> None:
    """A repeated call is told the outcome again, but only while it holds.

    Raises:
        Refused: the alias was moved since.
    """
    where = (await (await app.context.gateway(migration.target.connection)).aliases()).get(outcome.alias)
    if where != outcome.current:
        raise Refused(
            f"Nothing was changed: plan {code!r} was carried out already, and a code works once. Since then alias {outcome.alias!r} was moved: "
            f"it points to {where!r}, not to {outcome.current!r}. Call again without 'plan' to see what is possible now."
        )


def _not_agreed(app: App, migration: Migration, no: NotAgreed) -> SwapResult:
    return SwapResult(
        summary=(
            f"{app.context.notice(migration.target.connection)}{no.said} Choices: look at the comparison again, repair or "
            "verify first, agree later (the plan stays valid until it expires), or discard the target with finish_migration(action='discard_new')."
        ),
        migration_id=migration.id,
        phase=migration.phase.value,
        refusal=no.refusal,
    )


def _undo(migration: Migration, direction: Direction) -> str:
    if direction == "forward" and migration.is_across_servers:
        return f"swap_alias with direction='back' removes the alias again; the app connects to {migration.source.connection!r} as before."
    if direction == "forward":
        return "swap_alias with direction='back' returns the readers to the old collection."
    return (
        f"When nothing was written to {migration.target.collection!r} while it served, start_backfill, verify_target and a new swap move forward again; "
        "else start_backfill refuses, so that those writes are not lost."
    )


def _where(migration: Migration) -> str:
    return f" on connection {migration.target.connection!r}" if migration.is_across_servers else ""


def _now(outcome: SwapOutcome) -> str:
    return f"now points to {outcome.current!r}" if outcome.current is not None else "was removed"


def _swapped(notice: str, migration: Migration, direction: Direction, outcome: SwapOutcome) -> SwapResult:
    gap = outcome.write_gap
    late = (
        f" Late writes: {gap.carried_over} carried over, {gap.superseded} superseded, {gap.unresolved} unresolved."
        if direction == "forward"
        else f" Carried back to the old collection: {gap.carried_over}; written on both sides and left as they are: {gap.unresolved}."
    )
    warnings = list(outcome.notes)
    seen = outcome.test_queries
    if seen is not None and seen.failed:
        warnings.append(
            f"{seen.failed} of {seen.asked} test queries through the alias failed while it moved, for example {seen.failures[0]}. "
            "Look at the app's own errors of that time; undo says how to go back."
        )
    if gap.unresolved:
        warnings.append(
            f"{gap.unresolved} points differ and it cannot be told which side is newer, for example {', '.join(gap.unresolved_samples[:3])}."
            + (f" migration://{migration.id}/report lists them." if direction == "back" else "")
        )
    fills = NextStep(
        tool="start_backfill", arguments={"migration_id": migration.id}, why="fill the new field of the collection that serves now"
    )
    step = (
        fills
        if direction == "forward" and migration.is_fill_due
        else NextStep(
            tool="finish_migration",
            arguments={"migration_id": migration.id, "action": "keep_old"},
            why="when the app runs well with the new model: see the plan that ends the migration and keeps the old collection",
        )
        if direction == "forward"
        else NextStep(tool="migration_status", arguments={"migration_id": migration.id}, why="see what can follow a rollback")
    )
    return SwapResult(
        summary=f"{notice}Alias {outcome.alias!r}{_where(migration)} {_now(outcome)} (before: {outcome.previous or 'nothing'}).{late}",
        warnings=warnings,
        next_step=step,
        undo=_undo(migration, direction),
        migration_id=migration.id,
        phase=migration.phase.value,
        alias=outcome.alias,
        previous=outcome.previous,
        current=outcome.current,
        write_gap=gap,
        test_queries=outcome.test_queries,
        app_changes=_app_changes(migration, direction),
    )


def _app_changes(migration: Migration, direction: Direction) -> list[str]:
    if direction == "forward":
        return list(migration.app_changes)
    old = migration.current_model or "the old model"
    if migration.keeps_old_field:
        return [
            f"Readers of {migration.making.field!r} go back to their old queries; the others go on as they are. Writers write to {migration.source.collection!r} again."
        ]
    return [
        f"Queries through the alias must be embedded with {old} again, from the moment it points to {migration.source.collection!r}.",
        f"Writers write to {migration.source.collection!r} again, with vectors of {old}.",
    ]


SPEC = ToolSpec(
    fn=swap_alias,
    title="Swap the alias, or roll back",
    description=(
        "Move the readers to the target (forward) or back to the old collection, in two calls. The first, without plan, changes nothing and returns "
        "what would move, the counts, the comparison, what breaks and how to undo it, with a code. Show that plan to the person, and pass its code "
        "only after they agreed in their own words; never invent a code or agree for them. It is refused when the target is not verified, and "
        "answered with a new plan when a fact changed. Late writes to the source are carried over and counted."
    ),
    annotations=writing(destructive=True, idempotent=False),
)
