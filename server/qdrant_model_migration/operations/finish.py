"""How does a migration end? The old collection is kept or deleted, or the new one discarded; planned first, then agreed to."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

import anyio

from qdrant_model_migration.domain.breaks import only_there
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.recipe import Endpoint
from qdrant_model_migration.errors import ConnectionFailed, Refused
from qdrant_model_migration.operations.altered import is_replaced
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.finding import open_migrations_of
from qdrant_model_migration.operations.finish_fields import (
    Action,
    carry_out_in_place,
    check_filled,
    check_unused,
    end_of_filling,
    in_place_facts,
    old_field_of,
    old_field_plan,
    remove_old_field,
)
from qdrant_model_migration.operations.finish_sides import created_elsewhere, found_sides
from qdrant_model_migration.operations.placing import has_mark
from qdrant_model_migration.operations.plans import check_made_for, issue_plan, redeem
from qdrant_model_migration.operations.sweep import has_numbers, mark_quiet, sweep
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import FinishOutcome, FinishPlan

WATCH_S = 2.0
"""How long a collection is watched for writes before it is deleted."""


async def _facts(context: OperationContext, migration: Migration, action: Action, *, snapshot_first: bool) -> FinishPlan:
    """The plan without its code.

    Raises:
        Refused: the phase does not allow it, an alias points to what would be deleted, or there is nothing of that kind to delete.
    """
    migration.check_allows(f"finish_migration:{action}")
    if migration.is_in_place:
        return await in_place_facts(context, migration, action, snapshot_first=snapshot_first)
    targets = await context.gateway(migration.target.connection)
    # Those that are there: seen from both ends, since two servers may hold collections of one name.
    held = await found_sides(context, migration, must_see_source=action == "delete_old")
    doomed = {"keep_old": None, "delete_old": migration.source, "discard_new": migration.target}[action]
    if action == "discard_new" and migration.target in held.points and not await _is_ours(targets, migration):
        # Never created by us, or deleted since: somebody else has the name now.
        doomed = None
    if doomed is not None:
        await _check_others(context, migration, doomed)
    if action == "delete_old":
        await check_filled(context, migration)
    goes = held.aliases_that_go(migration, doomed)
    deletes = [f"collection {held.named(doomed)} ({held.points[doomed]:,} points)"] if doomed in held.points and doomed is not None else []
    deletes += [f"alias {alias!r} of it" for alias in goes]
    keeps = [f"collection {held.named(side)} ({count:,} points)" for side, count in held.points.items() if side != doomed]
    keeps += [f"alias {alias!r} -> {held.named(side)}" for alias, side in held.aliases if side != doomed]
    keeps.append(f"the records of migration {migration.id} in {context.settings.ledger!r}")
    warnings = [*held.warnings, *(end_of_filling(migration) if action != "discard_new" else [])]
    if action == "discard_new" and doomed is None and migration.target in held.points:
        warnings.append(f"{held.named(migration.target)} is not the collection that this migration created; it is left alone.")
    if action == "discard_new" and migration.phase in (Phase.ROLLED_BACK, Phase.BACKFILLING):
        # In other phases a cutover is one that moved nothing.
        warnings += only_there(migration)
    undo = "A migration that ended with the old collection kept loses nothing: the alias can be pointed back by hand."
    if migration.is_across_servers:
        undo = f"A migration that ended with the old collection kept loses nothing: the app can connect to {migration.source.connection!r} again."
    if goes:
        warnings.append(
            f"{', '.join(map(repr, goes))} on connection {migration.source.connection!r} goes with the collection: whoever still connects there fails. Be sure that every "
            f"reader and writer has moved to connection {migration.target.connection!r}."
        )
    if doomed is not None:
        gateway = await context.gateway(doomed.connection)
        has_snapshots = snapshot_first and not gateway.connection.is_embedded
        undo = (
            f"The snapshot of {held.named(doomed)} that is made first stays in the server's snapshot folder. {recovery(doomed.collection, '<snapshot>')}"
            if has_snapshots
            else f"None: {held.named(doomed)} is gone for good."
        )
        if not has_snapshots:
            warnings.append(
                f"No snapshot is made first: {'the embedded database has none' if gateway.connection.is_embedded else 'snapshot_first=false'}."
            )
    if action == "delete_old" and held.source is not None and not has_numbers(held.source):
        warnings.append(
            f"{held.named(migration.source)} has several shards or replicas: writes that reached it after the swap cannot be told from older ones and would be deleted with it."
        )
    if action == "delete_old" and migration.target in held.points and (old := old_field_of(migration)) is not None:
        await check_unused(context, migration, old)
        listed, kept, told = await old_field_plan(targets, migration, old)
        deletes, keeps, warnings = [*deletes, *listed], [*kept, *keeps], [*warnings, *told]
    counts = {held.label(side): count for side, count in held.points.items()}
    return FinishPlan(code="", action=action, deletes=deletes, keeps=keeps, counts=counts, warnings=warnings, undo=undo, expires_at="")


async def _check_others(context: OperationContext, migration: Migration, doomed: Endpoint) -> None:
    """Refuse to delete what another open migration reads or writes, wherever that one is recorded."""
    others = await open_migrations_of(
        context,
        migration.target.connection,
        lambda m: m.id != migration.id and doomed in (m.source, m.target),
        beside=(doomed.connection,),
    )
    for other in others:
        raise Refused(
            f"Nothing was deleted: {doomed.collection!r} belongs to the open migration {other.id} as well. Finish or discard that one first."
        )


async def _is_ours(gateway: Gateway, migration: Migration) -> bool:
    """Whether the target is the collection that this migration created."""
    if migration.phase is not Phase.PLANNED and not (await gateway.facts()).can("collection_metadata"):
        return True
    found = await gateway.describe(migration.target.collection)
    return has_mark(migration, found) if migration.phase is Phase.PLANNED else not is_replaced(migration, found)


def recovery(collection: str, snapshot: str) -> str:
    """How a deleted collection comes back; Qdrant no longer lists the snapshots of what is deleted, but keeps their files."""
    return (
        f"To get it back: PUT /collections/{collection}/snapshots/recover with "
        f'{{"location": "file:///<the server\'s snapshot folder>/{collection}/{snapshot}"}}.'
    )


def _digest(plan: FinishPlan, migration: Migration, *, snapshot_first: bool) -> str:
    planned = plan.model_dump(mode="json", exclude={"keeps"} if migration.writes != "frozen" else set())
    if migration.writes != "frozen" and migration.phase is Phase.CUT_OVER:
        # The target serves and grows; what is deleted is the source, whose count stays a fact.
        source = migration.source.label(with_connection=migration.is_across_servers)
        planned["counts"] = {source: plan.counts.get(source)}
    return hashlib.sha256(json.dumps([planned, migration.phase, snapshot_first], sort_keys=True).encode()).hexdigest()


async def plan_finish(context: OperationContext, migration: Migration, action: Action, *, snapshot_first: bool) -> FinishPlan:
    """Make and keep a plan; changes nothing."""
    plan = await _facts(context, migration, action, snapshot_first=snapshot_first)
    ledger = await context.ledger(migration.target.connection)
    digest = _digest(plan, migration, snapshot_first=snapshot_first)
    name = migration.target.collection if action == "discard_new" else migration.source.collection
    arguments = {"action": action, "snapshot_first": snapshot_first}
    text = f"{action}: deletes {', '.join(plan.deletes) or 'nothing'}; keeps {', '.join(plan.keeps)}. {' '.join(plan.warnings)}"
    code, expires_at = await issue_plan(ledger, migration.id, kind="finish", name=name, digest=digest, arguments=arguments, text=text)
    return plan.model_copy(update={"code": code, "expires_at": expires_at})


async def why_void(context: OperationContext, migration: Migration, action: Action, *, snapshot_first: bool, code: str) -> str | None:
    """Why the code cannot be carried out now, or None.

    Raises:
        Refused: it was never issued, or the action is not possible now.
    """
    ledger = await context.ledger(migration.target.connection)
    plan = await _facts(context, migration, action, snapshot_first=snapshot_first)
    return await redeem(ledger, migration.id, code, "finish", _digest(plan, migration, snapshot_first=snapshot_first))


async def finish(work: Work, *, action: Action, snapshot_first: bool, code: str) -> FinishOutcome:
    """Carry a plan out, under the lease.

    Raises:
        Refused: the plan is void, or the source still changes; nothing was deleted.
    """
    migration, code = work.migration, code.strip()
    if code in migration.outcomes:
        return FinishOutcome.model_validate(migration.outcomes[code])
    intent = f"finishing by {code}"
    is_resumed = migration.intent == intent
    await check_made_for(work.ledger, migration.id, code, "finish", {"action": action, "snapshot_first": snapshot_first})
    if is_resumed:
        await _give_up_if_expired(work, code)
    else:
        void = await why_void(work.context, migration, action, snapshot_first=snapshot_first, code=code)
        if void is not None:
            raise Refused(f"Nothing was changed: {void}.")
    if (
        not migration.is_in_place
        and migration.phase in (Phase.CUT_OVER, Phase.FINISHED)
        and migration.cutover is not None
        and await _sees_source(work, action)
    ):
        await _carry_over_late_writes(work, refuses=action == "delete_old")
    await work.change(lambda m: m.model_copy(update={"intent": intent}))
    await work.ledger.use_plan(work.id, code)
    plan = await _facts(work.context, migration, action, snapshot_first=snapshot_first)
    if migration.is_in_place:
        return await _ended(work, action, code, plan, *await carry_out_in_place(work, action, snapshot_first=snapshot_first))
    gateway = work.source if action == "delete_old" else work.target
    doomed = {"keep_old": None, "delete_old": migration.source.collection, "discard_new": migration.target.collection}[action]
    if not plan.deletes and (not is_resumed or await gateway.exists(doomed or "")):
        # Nothing of ours to delete: somebody else may have the name.
        doomed = None
    snapshot: str | None = None
    deleted: list[str] = []
    if doomed is not None and is_resumed and not await gateway.exists(doomed):
        snapshot = next((e.text for e in reversed(await work.ledger.events(work.id)) if e.event == "snapshot"), None)
        deleted.append(doomed)
    elif doomed is not None and await gateway.exists(doomed):
        if snapshot_first:
            work.progress.stage = f"snapshot of {doomed}"
            snapshot = await gateway.snapshot(doomed)
            if snapshot is not None:
                await work.record("snapshot", snapshot)
        if action == "delete_old":
            # A snapshot may take hours; what was written meanwhile is not in it.
            await _refuse_if_written(work)
        work.check()
        await gateway.delete_collection(doomed, with_aliases=created_elsewhere(migration) if action == "delete_old" else ())
        deleted += [doomed, *(line for line in plan.deletes if line.startswith("alias "))]
    if action == "delete_old" and (old := old_field_of(migration)) is not None:
        deleted += await remove_old_field(work, old)
    return await _ended(work, action, code, plan, deleted, snapshot)


async def _sees_source(work: Work, action: Action) -> bool:
    """Whether the source is there; an old server that does not answer is as good as none, unless something is to be deleted on it."""
    try:
        return await work.source.exists(work.migration.source.collection)
    except ConnectionFailed:
        if action == "delete_old" or not work.migration.is_across_servers:
            raise
        return False


async def _ended(work: Work, action: Action, code: str, plan: FinishPlan, deleted: list[str], snapshot: str | None) -> FinishOutcome:
    """Record how the migration ended."""
    event: Literal["discarded", "finished"] = "discarded" if action == "discard_new" else "finished"
    outcome = FinishOutcome(deleted=deleted, kept=plan.keeps, snapshot=snapshot)
    outcomes = {**work.migration.outcomes, code: outcome.model_dump(mode="json")}
    await work.change(lambda m: m.model_copy(update={"phase": m.after(event), "error": None, "intent": None, "outcomes": outcomes}))
    await work.record(event, f"{action}; deleted: {', '.join(deleted) or 'nothing'}" + (f"; snapshot {snapshot}" if snapshot else ""))
    return outcome


async def _carry_over_late_writes(work: Work, *, refuses: bool) -> None:
    """Writes that still reached the source are carried over before the migration is closed; before a deletion they are a refusal.

    Raises:
        Refused: the source still changes, or differs in a way that cannot be decided, and it was to be deleted.
    """
    name = work.migration.source.collection
    target = await work.target.describe(work.migration.target.collection)
    if work.source.connection.is_embedded or not has_numbers(work.source_collection, target):
        # Nothing tells a late write from a newer one there; the plan said so, and its count of the source was checked.
        return
    seen = work.migration.cutover.source_seen if work.migration.cutover else None
    before = await work.source_mark()
    since = before - seen - 1 if before is not None and seen is not None else 0
    gap, _ = await sweep(work, carries_deletes=False, mark=before)
    await work.record("swept", f"carried over {gap.carried_over}, superseded {gap.superseded}, unresolved {gap.unresolved}")
    if refuses:
        await anyio.sleep(WATCH_S)
    after = await mark_quiet(work)
    if not refuses:
        return
    if before is not None and after is not None and after > before + 1:
        raise Refused(
            f"Nothing was deleted: {name!r} still changes ({after - before - 1} operations just now). Find the writer that was not moved."
        )
    if gap.carried_over or since > 0:
        raise Refused(
            f"Nothing was deleted: {name!r} got {max(since, gap.carried_over)} operations since it was last looked at, and {gap.carried_over} late "
            "writes were just carried over. Somebody still writes to it: find that writer; then call again."
        )
    if gap.unresolved:
        raise Refused(
            f"Nothing was deleted: {gap.unresolved} points differ between the collections and it cannot be told which side is newer, for example "
            f"{', '.join(gap.unresolved_samples[:3])}. Look at them, or keep the old collection with action='keep_old'."
        )


async def _refuse_if_written(work: Work) -> None:
    """A last look before the deletion.

    Raises:
        Refused: the source got a write since the look before.
    """
    cutover = work.migration.cutover
    if cutover is None or cutover.source_seen is None or not has_numbers(work.source_collection):
        return
    seen = cutover.source_seen
    now = await mark_quiet(work)
    if now is not None and now > seen + 1:
        await work.change(lambda m: m.model_copy(update={"intent": None}))
        raise Refused(
            f"Nothing was deleted: {work.migration.source.collection!r} got {now - seen - 1} operations while its snapshot was made. Find the writer; "
            "then call again. The snapshot is kept."
        )


async def _give_up_if_expired(work: Work, code: str) -> None:
    """A deletion that died half-way is completed while its plan is good; later a person looks again.

    Raises:
        Refused: the plan expired.
    """
    plan = await work.ledger.plan(work.id, code)
    if plan is None or work.ledger.now().timestamp() > plan.expires_at:
        await work.change(lambda m: m.model_copy(update={"intent": None}))
        raise Refused("This was interrupted, and its plan expired since. Call finish_migration again for a new plan.")
