"""How do the readers move? A plan, a person's agreement, then one CreateAlias a name, read back, and the late writes carried over."""

from __future__ import annotations

from typing import Literal

import anyio

from qdrant_model_migration.domain.cutover import (
    MOST_NAMED,
    SwapFacts,
    breaks_back,
    breaks_of,
    check_gates,
    comparison_line,
    given_up,
    is_fence_of_use,
    moves_across,
    moves_back,
    moves_forward,
    named,
    overrides_of,
    returned,
    reversed_moves,
    shown,
)
from qdrant_model_migration.domain.fence import MOST_FENCE_S, fence_told, why_unfenced
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.points import tag
from qdrant_model_migration.domain.recipe import Cutover, Moved
from qdrant_model_migration.domain.verification import Tally
from qdrant_model_migration.errors import ConnectionFailed, Interrupted, LeaseLost, MigrationError, NotFound, Refused, TransientEmbedding
from qdrant_model_migration.operations.altered import told
from qdrant_model_migration.operations.carry_back import carry_back, why_not
from qdrant_model_migration.operations.closing import close_the_lag
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.diff import differences, expectation
from qdrant_model_migration.operations.fencing import check_fence_age, lift_fence, raise_fence
from qdrant_model_migration.operations.plans import issue_plan, redeem
from qdrant_model_migration.operations.speed import check_speed
from qdrant_model_migration.operations.sweep import MOST_CARRIED, forget_own_numbers, has_numbers, keep_in_cutover, sweep_until_quiet
from qdrant_model_migration.operations.work import Work, open_work, read_only_check
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.results import SwapOutcome, SwapPlan, WriteGap

Direction = Literal["forward", "back"]
MOST_RETURNS = 4
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
        if direction == "back" and await why_not(context, migration) is not None:
            facts = facts.model_copy(update={"losses": await _losses(context, migration)})
    except NotFound as error:
        raise await told(context, migration, error) from None
    code, expires_at = await issue_plan(
        ledger,
        migration.id,
        kind="swap",
        name=facts.moves[0].alias,
        digest=_digest(migration, facts),
        arguments={"direction": direction, "alias": alias, "fence": fence},
        text=_question(facts),
        overrides=facts.overrides,
    )
    return shown(facts, code, expires_at)


def _question(facts: SwapFacts) -> str:
    moves = "; ".join(f"alias {m.alias!r}: {m.previous or '(new)'} -> {m.current or '(removed)'}" for m in facts.moves)
    accepts = f" Agreeing accepts: {'; '.join(facts.overrides)}." if facts.overrides else ""
    return f"{moves}. {' '.join(facts.breaks[:2])}{accepts}"


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


async def swap(work: Work, *, direction: Direction, alias: str | None, code: str) -> SwapOutcome:
    """Carry a plan out, under the lease. Taken up again after a crash wherever it was left.

    Raises:
        Refused: the plan is void, or the lag does not shrink; nothing was changed.
    """
    code = code.strip()
    if code in work.migration.outcomes:
        return SwapOutcome.model_validate(work.migration.outcomes[code])
    if work.migration.intent == "sweeping" and direction == "forward":
        return await _swept(work, code, carries_deletes=False)
    try:
        moves = await _interrupted(work, direction) if work.migration.intent == "swapping" else None
        if moves is not None and direction == "back":
            # The fence was down meanwhile: the app may have written to the target.
            await keep_in_cutover(work, have_writers_waited=False)
        moves = moves or await _prepared(work, direction, alias, code)
        await _move(work, moves)
    finally:
        await lift_fence(work)
    # Only now: a swap that died before its first move begins anew, with the same code.
    await work.ledger.use_plan(work.id, code)
    moved = "; ".join(f"{m.alias}: {m.previous} -> {m.current}" for m in moves)
    if direction == "forward":
        await work.change(lambda m: m.model_copy(update={"phase": m.after("swapped"), "intent": "sweeping"}))
        await work.record("swapped", "; ".join([moved, *(f"accepted: {text}" for text in work.migration.accepted)]))
        return await _swept(work, code, carries_deletes=True)
    gap = await _after_the_return(work)
    outcome = SwapOutcome(alias=moves[0].alias, previous=moves[0].previous, current=moves[0].current, write_gap=gap)
    # What the swap forward answered is no longer so.
    update = {"outcomes": {code: outcome.model_dump(mode="json")}, "intent": None}
    await work.change(lambda m: m.model_copy(update={**update, "phase": m.after("rolled_back"), "cutover": _settled_back(m)}))
    await work.record("rolled_back", moved)
    return outcome


def _settled_back(migration: Migration) -> Cutover | None:
    """With the aliases moved back, what the target got up to the fence is carried back or listed: from now on it is nobody's newer write."""
    cutover = migration.cutover
    if cutover is None or cutover.settled_at is None:
        return cutover
    return cutover.model_copy(update={"target_watermark": cutover.settled_at, "settled_at": None})


def _settled(migration: Migration, code: str, outcome: SwapOutcome) -> Migration:
    return migration.model_copy(update={"intent": None, "outcomes": {**migration.outcomes, code: outcome.model_dump(mode="json")}})


async def _swept(work: Work, code: str, *, carries_deletes: bool) -> SwapOutcome:
    """Carry over what the source got late, then apply what would have hindered that; the readers have moved already.

    A sweep that is taken up later carries no deletes: somebody may have cleared the old collection since.
    """
    cutover = work.migration.cutover
    assert cutover is not None
    gap, notes = WriteGap(), list[str]()
    if not work.source.connection.is_embedded:
        try:
            gap, notes = await sweep_until_quiet(work, carries_deletes=carries_deletes)
        except (LeaseLost, ConnectionFailed, Interrupted, TransientEmbedding):
            raise
        except MigrationError as error:
            # The aliases have moved; that must not be told as a failure.
            notes = [f"The aliases moved, but late writes were not all carried over: {error} finish_migration looks at them again."]
        await work.record("swept", f"carried over {gap.carried_over}, superseded {gap.superseded}, unresolved {gap.unresolved}")
    work.check()
    if work.migration.on_cutover:
        await work.target.update(work.migration.target.collection, work.migration.on_cutover)
    first = cutover.moves[0]
    outcome = SwapOutcome(alias=first.alias, previous=first.previous, current=first.current, write_gap=gap, notes=notes)
    await work.change(lambda m: _settled(m, code, outcome))
    return outcome


async def _prepared(work: Work, direction: Direction, alias: str | None, code: str) -> tuple[Moved, ...]:
    """Check the plan, bring the target up to the moment and record the intent."""
    is_fenced = (await _checked_facts(work, direction, alias, code, checks_age=True)).is_fenced
    cutover = work.migration.cutover
    mark: int | None = None
    if direction == "forward":
        await check_speed(work)
        mark = await close_the_lag(work, is_fenced=is_fenced)
    else:
        cutover = await _returned(work, is_fenced=is_fenced)
    # That takes a while; the plan must still fit the facts at the moment of the move.
    facts = await _checked_facts(work, direction, alias, code, checks_age=False)
    check_fence_age(work)
    if direction == "forward":
        target_mark = await work.target.points.watermark(work.migration.target.collection)
        written, work.written = work.written or {}, None
        # While writers wait, a mark of ours would be refused, too; nothing was written since the last one.
        seen = (mark if is_fenced else await work.source_mark()) or 0
        carried = {tag(i): (operation, seen) for i, operation in written.items()}
        cutover = Cutover(moves=facts.moves, at=now(), source_watermark=mark, target_watermark=target_mark, carried=carried)

    def intend(migration: Migration) -> Migration:
        # Refuses where the phase was changed meanwhile, before an alias moves.
        migration.after("swapped" if direction == "forward" else "rolled_back")
        recorded = cutover
        if direction == "back" and cutover is not None and migration.cutover is not None:
            # The passes noted their own writes there.
            recorded = cutover.model_copy(update={"returned_to": migration.cutover.returned_to})
        # A rollback does not undo that somebody agreed.
        accepted = {"accepted": facts.overrides} if direction == "forward" else {}
        return migration.model_copy(update={"intent": "swapping", "cutover": recorded, **accepted})

    await work.change(intend)
    return facts.moves


async def _checked_facts(work: Work, direction: Direction, alias: str | None, code: str, *, checks_age: bool) -> SwapFacts:
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


async def _returned(work: Work, *, is_fenced: bool) -> Cutover | None:
    """Carry back what the target got while it served; the cutover with what came of it."""
    cutover = work.migration.cutover
    if cutover is None or await why_not(work.context, work.migration) is not None:
        return cutover
    mark: int | None = None
    gap, conflicts, total = WriteGap(), tuple[str, ...](), 0

    async def passes(most_s: float) -> bool:
        """Until one finds nothing to carry, or takes so little time that writers may wait for the next."""
        nonlocal gap, conflicts, total
        for _ in range(MOST_RETURNS):
            began = anyio.current_time()
            gap, conflicts = await carry_back(work)
            total += gap.carried_over
            if gap.carried_over == 0 or anyio.current_time() - began <= most_s:
                return anyio.current_time() - began <= most_s or not is_fenced
        return False

    if not await passes(MOST_FENCE_S / 2) and is_fenced:
        raise Refused(
            f"Nothing was moved: a look at both collections takes longer than writers may be kept waiting ({MOST_FENCE_S:.0f} s). What was written to "
            f"{work.migration.target.collection!r} so far is carried back; call swap_alias with fence=false, so that nobody waits."
        )
    if is_fenced:
        mark = await raise_fence(work, work.migration.target)
        with anyio.move_on_after(MOST_FENCE_S) as waiting:
            await passes(0.0)
        if waiting.cancelled_caught or gap.carried_over:
            raise Refused(
                f"Nothing was moved: within {MOST_FENCE_S:.0f} s of no writes {work.migration.source.collection!r} did not come to equal the target. Writers go "
                "on. Try when the machine is less busy, or call swap_alias with fence=false."
            )
    gap = gap.model_copy(update={"carried_over": total})
    cutover = work.migration.cutover or cutover
    update: dict[str, object] = {"returned": gap, "have_writers_waited": is_fenced, "conflicts": conflicts}
    is_settled = is_fenced and len(conflicts) <= MOST_CARRIED
    return cutover.model_copy(update={**update, "settled_at": mark if is_settled else None})


async def _after_the_return(work: Work) -> WriteGap:
    """What came of the carrying back; writers that did not wait may have written to the target until the aliases moved."""
    cutover = work.migration.cutover
    if cutover is None or cutover.returned is None:
        return WriteGap()
    gap = cutover.returned
    if work.migration.writes != "frozen" and not cutover.have_writers_waited:
        late, _ = await carry_back(work)
        gap = late.model_copy(update={"carried_over": gap.carried_over + late.carried_over})
        await forget_own_numbers(work)
    await work.record("carried_back", f"carried back {gap.carried_over}, unresolved {gap.unresolved}")
    return gap


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


async def _interrupted(work: Work, direction: Direction) -> tuple[Moved, ...] | None:
    """The moves of a swap that died half-way; the person agreed to them, so they are completed. None when no alias was moved yet.

    Raises:
        Refused: somebody moved an alias since.
    """
    cutover = work.migration.cutover
    assert cutover is not None
    moves = cutover.moves if direction == "forward" else reversed_moves(work.migration)
    aliases = await work.target.aliases()
    if any(aliases.get(m.alias) not in (m.previous, m.current) for m in moves):
        await work.change(given_up)
        raise Refused(
            "The swap was interrupted, and somebody moved an alias since. Nothing more was changed; look at the aliases and plan again."
        )
    if all(aliases.get(m.alias) == m.previous for m in moves):
        await work.change(given_up)
        return None
    return moves


async def _point(work: Work, alias: str, collection: str | None) -> None:
    """Point an alias, or remove one that is to point nowhere."""
    if collection is None:
        await work.target.delete_alias(alias)
    else:
        await work.target.point_alias(alias, collection)


async def _move(work: Work, moves: tuple[Moved, ...]) -> None:
    """Point every alias; when one is refused, those already moved are put back.

    Raises:
        LeaseLost, ConnectionFailed, Interrupted: nobody knows how far it got; the intent is recorded, and whoever holds the lease completes it.
    """
    try:
        for moved in moves:
            work.check()
            await _point(work, moved.alias, moved.current)
    except (LeaseLost, ConnectionFailed, Interrupted):
        raise
    except MigrationError as error:
        aliases = await work.target.aliases()
        for moved in moves:
            if aliases.get(moved.alias) != moved.current:
                continue
            await _point(work, moved.alias, moved.previous)
        await work.change(given_up)
        raise type(error)(f"The swap failed and the aliases are as before: {error}") from None
