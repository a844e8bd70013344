"""What would a swap change, and for whom? The facts, the plan that a person is shown, and whether its code still holds."""

from __future__ import annotations

from typing import Literal

import anyio

from qdrant_model_migration.domain.breaks import breaks_back, breaks_of, returned
from qdrant_model_migration.domain.carry_back import most_deletes
from qdrant_model_migration.domain.cutover import SwapFacts, check_gates, comparison_line, is_fence_of_use, overrides_of, shown
from qdrant_model_migration.domain.fence import fence_told, outlasted_fence, why_unfenced
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.moves import MOST_NAMED, moves_across, moves_back, moves_forward, named
from qdrant_model_migration.domain.points import tag
from qdrant_model_migration.domain.verification import Tally
from qdrant_model_migration.errors import NotFound, Refused
from qdrant_model_migration.operations.altered import told
from qdrant_model_migration.operations.carry_back import count_gone, why_not
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.diff import differences, expectation
from qdrant_model_migration.operations.plans import issue_plan, redeem
from qdrant_model_migration.operations.sweep import has_numbers
from qdrant_model_migration.operations.work import Work, open_work, read_only_check
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.results import SwapPlan

Direction = Literal["forward", "back"]
COUNT_S = 15.0
"""For counting what a rollback would leave behind, before the plan is shown."""


async def swap_facts(
    context: OperationContext, migration: Migration, direction: Direction, alias: str | None, *, fence: bool, checks_age: bool = True
) -> SwapFacts:
    """What the plan rests on, as it is now. The age of the verification is judged when a plan is made or begun, not at its end.

    `fence`: writers are made to wait where that is possible and useful.

    Raises:
        Refused: a gate does not hold.
    """
    sources, targets = await context.gateway(migration.source.connection), await context.gateway(migration.target.connection)
    aliases = await targets.aliases()
    left: tuple[str, ...]
    if direction == "forward":
        check_gates(migration, (await context.ledger(migration.target.connection)).now() if checks_age else None)
        source = await sources.describe(migration.source.collection)
        moves, left = (
            moves_across(migration, source.aliases, aliases, await targets.collections(), alias)
            if migration.is_across_servers
            else moves_forward(migration, aliases, alias)
        )
        old = source.field(migration.dense_field or "")
        target = await targets.describe(migration.target.collection)
        may_mark = sources.connection.is_embedded or (
            migration.verification is not None and migration.verification.source_operation is not None
        )
        is_fenced = fence and is_fence_of_use(migration, direction)
        unfenced = why_unfenced(source, is_embedded=sources.connection.is_embedded) if is_fenced else None
        breaks = breaks_of(
            migration,
            moves,
            old.size if old else None,
            is_numbered=has_numbers(source, target) and may_mark,
            may_mark=may_mark,
            is_fenced=is_fenced and unfenced is None,
        )
        if unfenced is not None and not sources.connection.is_embedded:
            breaks = (*breaks, f"Writers of {source.name!r} cannot be made to wait: {unfenced}.")
        if is_fenced and unfenced is None and migration.verification and (told := outlasted_fence(migration.verification.pass_seconds)):
            breaks = (*breaks, told)
        created = [m.alias for m in moves if m.previous is None]
        if created and left and not migration.is_across_servers:
            breaks = (
                f"{', '.join(map(repr, created))} is a NEW alias; {', '.join(map(repr, left[:5]))} stays on {migration.source.collection!r}, and so do its "
                "readers. Was that one meant?",
                *breaks,
            )
        undo = (
            f"swap_alias with direction='back' removes {named(moves)} from this server; the app connects to the old one again."
            if migration.is_across_servers
            else f"swap_alias with direction='back' points {named(moves)} to {migration.source.collection!r}."
        )
        overrides = overrides_of(migration)
    else:
        migration.check_allows("swap_alias:back")
        moves, left = moves_back(migration, aliases), ()
        names = named(moves)
        target_name = migration.target.collection
        target = await targets.describe(target_name)
        is_fenced = fence and is_fence_of_use(migration, direction)
        unfenced = why_unfenced(target, is_embedded=targets.connection.is_embedded) if is_fenced else None
        lost = await why_not(context, migration)
        is_fenced = is_fenced and lost is None
        breaks = (
            breaks_back(migration, names),
            returned(migration, lost),
            *((fence_told(target_name, names),) if is_fenced and unfenced is None else ()),
        )
        undo = (
            f"start_backfill brings {target_name!r} up to date, and a new swap moves forward again; it is refused when {target_name!r} holds writes that "
            "are not in the source, so that they are not lost."
        )
        overrides = ()
    return SwapFacts(
        migration_id=migration.id,
        direction=direction,
        phase=migration.phase.value,
        moves=moves,
        left=left,
        verified_at=migration.verification.at if migration.verification else None,
        comparison=comparison_line(migration.comparison),
        overrides=overrides,
        breaks=breaks,
        undo=undo,
        is_fenced=is_fenced and unfenced is None,
        source_points=await sources.points.count(migration.source.collection),
        target_points=await targets.points.count(migration.target.collection),
    )


async def plan_swap(
    context: OperationContext, ledger: Ledger, migration: Migration, direction: Direction, alias: str | None, *, fence: bool = True
) -> SwapPlan:
    """Make and keep a plan; changes nothing."""
    try:
        facts = await swap_facts(context, migration, direction, alias, fence=fence)
        deletes = 0
        if direction == "back" and await why_not(context, migration) is not None:
            facts = facts.model_copy(update={"losses": await _losses(context, migration)})
        elif direction == "back":
            deletes, told_so = await _deletes(context, migration)
            facts = facts.model_copy(update={"losses": told_so})
    except NotFound as error:
        raise await told(context, migration, error) from None
    code, expires_at = await issue_plan(
        ledger,
        migration.id,
        kind="swap",
        name=facts.moves[0].alias,
        digest=_digest(migration, facts),
        arguments={"direction": direction, "alias": alias, "fence": fence, **({"deletes": deletes} if deletes else {})},
        text=_question(facts),
        overrides=facts.overrides,
    )
    return shown(facts, code, expires_at)


def _question(facts: SwapFacts) -> str:
    moves = "; ".join(f"alias {m.alias!r}: {m.previous or '(new)'} -> {m.current or '(removed)'}" for m in facts.moves)
    accepts = f" Agreeing accepts: {'; '.join(facts.overrides)}." if facts.overrides else ""
    return f"{moves}. {' '.join((*facts.breaks[:2], *facts.losses))}{accepts}"


async def why_void(context: OperationContext, migration: Migration, direction: Direction, alias: str | None, code: str) -> str | None:
    """Why the code cannot be carried out now, or None. Whether writers wait is said by its plan.

    Raises:
        Refused: it was never issued, or a gate does not hold.
    """
    ledger = await context.ledger(migration.target.connection)
    fence = await _has_fence(ledger, migration.id, code)
    facts = await swap_facts(context, migration, direction, alias, fence=fence)
    return await redeem(ledger, migration.id, code, "swap", _digest(migration, facts))


async def _has_fence(ledger: Ledger, migration_id: str, code: str) -> bool:
    plan = await ledger.plan(migration_id, code.strip())
    return plan is None or bool(plan.arguments.get("fence", True))


async def agreed_deletes(work: Work, code: str) -> int:
    """Points that were to be deleted in the source when the plan of a rollback was made; what comes later must stay below the bound."""
    plan = await work.ledger.plan(work.id, code)
    return int(plan.arguments.get("deletes", 0)) if plan is not None else 0


async def checked_facts(work: Work, direction: Direction, alias: str | None, code: str, *, checks_age: bool) -> SwapFacts:
    """The facts as they are now, where they are those of the plan.

    Raises:
        Refused: they are not, or a gate does not hold.
    """
    fence = await _has_fence(work.ledger, work.id, code)
    facts = await swap_facts(work.context, work.migration, direction, alias, fence=fence, checks_age=checks_age)
    void = await redeem(work.ledger, work.id, code, "swap", _digest(work.migration, facts))
    if void is not None:
        raise Refused(f"Nothing was changed: {void}.")
    return facts


def _digest(migration: Migration, facts: SwapFacts) -> str:
    return facts.digest(with_counts=migration.writes == "frozen")


async def _deletes(context: OperationContext, migration: Migration) -> tuple[int, tuple[str, ...]]:
    """Points that the way back would delete in the source now; and what is said where they are so many that a person has to agree."""
    work = await open_work(context, migration, read_only_check)
    most, source, target = most_deletes(work.source_collection.points), migration.source.collection, migration.target.collection
    with anyio.move_on_after(COUNT_S):
        gone = await count_gone(work)
        if gone <= most:
            return gone, ()
        return gone, (
            f"Just now {gone:,} points of {source!r} are gone from {target!r}, {gone / max(1, work.source_collection.points):.0%} of it. Agreeing deletes them in "
            f"{source!r}, too. If they were not deleted on purpose, say no and look at {target!r} first.",
        )
    return 0, (f"How many points are gone from {target!r} could not be counted within {COUNT_S:.0f} s.",)


async def _losses(context: OperationContext, migration: Migration) -> tuple[str, ...]:
    """How many points differ, where nothing of them is carried back: counted within seconds, or said to be more."""
    work = await open_work(context, migration, read_only_check)
    tally, samples = Tally(), list[str]()
    with anyio.move_on_after(COUNT_S) as scope:
        async for difference in differences(work, await expectation(work, checks_made=False), tally):
            if len(samples) < MOST_NAMED:
                samples.append(f"{tag(difference.id)} ({difference.why})")
    found = sum(tally.differences.values())
    if not found:
        return () if not scope.cancelled_caught else (f"How many points differ could not be counted within {COUNT_S:.0f} s.",)
    least = "at least " if scope.cancelled_caught else ""
    return (
        f"Just now {least}{found} points of {migration.target.collection!r} differ from {migration.source.collection!r}, for example {', '.join(samples)}.",
    )
