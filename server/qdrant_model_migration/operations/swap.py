"""How do the readers move? A plan, a person's agreement, then one CreateAlias a name, read back, and the late writes carried over."""

from __future__ import annotations

from typing import Literal

import anyio

from qdrant_model_migration.domain.catch_up import is_caught_up
from qdrant_model_migration.domain.cutover import (
    SwapFacts,
    breaks_back,
    breaks_of,
    check_gates,
    comparison_line,
    moves_across,
    moves_back,
    moves_forward,
    named,
    overrides_of,
    reversed_moves,
    shown,
)
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.points import tag
from qdrant_model_migration.domain.recipe import Cutover, Moved
from qdrant_model_migration.domain.verification import Tally
from qdrant_model_migration.errors import ConnectionFailed, Interrupted, LeaseLost, MigrationError, NotFound, Refused, TransientEmbedding
from qdrant_model_migration.operations.altered import told
from qdrant_model_migration.operations.catch_up import catch_up_pass
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.diff import differences, expectation
from qdrant_model_migration.operations.plans import issue_plan, redeem
from qdrant_model_migration.operations.speed import check_speed
from qdrant_model_migration.operations.sweep import forget_own_numbers, has_numbers, sweep_until_quiet
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.results import SwapOutcome, SwapPlan, WriteGap

Direction = Literal["forward", "back"]
MOST_PASSES = 8


async def swap_facts(
    context: OperationContext, migration: Migration, direction: Direction, alias: str | None, *, checks_age: bool = True
) -> SwapFacts:
    """What the plan rests on, as it is now. The age of the verification is judged when a plan is made or begun, not at its end.

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
        breaks = breaks_of(
            migration, moves, old.size if old else None, is_numbered=has_numbers(source, target) and may_mark, may_mark=may_mark
        )
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
        breaks = (
            breaks_back(migration, names),
            f"What was written to {target_name!r} since {migration.cutover.at if migration.cutover else 'the swap'} is not in "
            f"{migration.source.collection!r}: this version carries nothing back. It stays in {target_name!r} only.",
        )
        undo = (
            f"When nothing was written to {target_name!r} since the swap, start_backfill brings it up to date and a new swap moves forward again; else it "
            "is refused, so that those writes are not lost."
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
        source_points=await sources.points.count(migration.source.collection),
        target_points=await targets.points.count(migration.target.collection),
    )


async def plan_swap(context: OperationContext, ledger: Ledger, migration: Migration, direction: Direction, alias: str | None) -> SwapPlan:
    """Make and keep a plan; changes nothing."""
    try:
        facts = await swap_facts(context, migration, direction, alias)
    except NotFound as error:
        raise await told(context, migration, error) from None
    code, expires_at = await issue_plan(
        ledger,
        migration.id,
        kind="swap",
        name=facts.moves[0].alias,
        digest=facts.digest(with_counts=migration.writes == "frozen"),
        arguments={"direction": direction, "alias": alias},
        text=_question(facts),
        overrides=facts.overrides,
    )
    return shown(facts, code, expires_at)


def _question(facts: SwapFacts) -> str:
    moves = "; ".join(f"alias {m.alias!r}: {m.previous or '(new)'} -> {m.current or '(removed)'}" for m in facts.moves)
    accepts = f" Agreeing accepts: {'; '.join(facts.overrides)}." if facts.overrides else ""
    return f"{moves}. {' '.join(facts.breaks[:2])}{accepts}"


async def why_void(
    context: OperationContext, migration: Migration, direction: Direction, alias: str | None, code: str, *, checks_age: bool = True
) -> str | None:
    """Why the code cannot be carried out now, or None.

    Raises:
        Refused: it was never issued, or a gate does not hold.
    """
    ledger = await context.ledger(migration.target.connection)
    facts = await swap_facts(context, migration, direction, alias, checks_age=checks_age)
    return await redeem(ledger, migration.id, code, "swap", facts.digest(with_counts=migration.writes == "frozen"))


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
    moves = await _interrupted(work, direction) if work.migration.intent == "swapping" else None
    moves = moves or await _prepared(work, direction, alias, code)
    await _move(work, moves)
    # Only now: a swap that died before its first move begins anew, with the same code.
    await work.ledger.use_plan(work.id, code)
    moved = "; ".join(f"{m.alias}: {m.previous} -> {m.current}" for m in moves)
    if direction == "forward":
        await work.change(lambda m: m.model_copy(update={"phase": m.after("swapped"), "intent": "sweeping"}))
        await work.record("swapped", moved)
        return await _swept(work, code, carries_deletes=True)
    if work.migration.has_fill_stage and work.migration.is_filling and not work.source.connection.is_embedded:
        await forget_own_numbers(work)
    outcome = SwapOutcome(alias=moves[0].alias, previous=moves[0].previous, current=moves[0].current)
    # What the swap forward answered is no longer so.
    update = {"outcomes": {code: outcome.model_dump(mode="json")}, "intent": None}
    await work.change(lambda m: m.model_copy(update={**update, "phase": m.after("rolled_back")}))
    await work.record("rolled_back", moved)
    return outcome


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
    void = await why_void(work.context, work.migration, direction, alias, code)
    if void is not None:
        raise Refused(f"Nothing was changed: {void}.")
    mark: int | None = None
    if direction == "forward":
        await check_speed(work)
        mark = await _close_the_lag(work)
        # Closing the lag takes a while; the plan must still fit the facts at the moment of the move.
        void = await why_void(work.context, work.migration, direction, alias, code, checks_age=False)
        if void is not None:
            raise Refused(f"Nothing was changed: {void}.")
    facts = await swap_facts(work.context, work.migration, direction, alias, checks_age=False)
    target_mark = await work.target.points.watermark(work.migration.target.collection)
    written, work.written = work.written or {}, None
    seen = await work.source_mark() or 0
    carried = {tag(i): (operation, seen) for i, operation in written.items()}
    cutover = Cutover(moves=facts.moves, at=now(), source_watermark=mark, target_watermark=target_mark, carried=carried)

    def intend(migration: Migration) -> Migration:
        kept = cutover if direction == "forward" else migration.cutover
        return migration.model_copy(update={"intent": "swapping", "cutover": kept, "accepted": facts.overrides})

    await work.change(intend)
    return facts.moves


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
        await work.change(lambda m: m.model_copy(update={"intent": None}))
        raise Refused(
            "The swap was interrupted, and somebody moved an alias since. Nothing more was changed; look at the aliases and plan again."
        )
    if all(aliases.get(m.alias) == m.previous for m in moves):
        await work.change(lambda m: m.model_copy(update={"intent": None}))
        return None
    return moves


async def _close_the_lag(work: Work) -> int | None:
    """Bring the target up to the moment; with writes frozen, prove that nothing was written since the verification.

    Returns:
        Number of the last operation on the source before the last look at it: every later one is a late write.
    """
    name = work.migration.source.collection
    if work.migration.writes == "frozen":
        mark = await work.source_mark()
        counts = [await work.source.points.count(name), await work.target.points.count(work.migration.target.collection)]
        verified = work.migration.verification
        assert verified is not None
        if counts != [verified.source_points, verified.target_points]:
            await work.change(lambda m: m.model_copy(update={"phase": m.after("found_incomplete")}))
            raise Refused(
                f"Cannot swap: writes were said to be frozen, but the source has {counts[0]:,} points and the target {counts[1]:,}, and at the "
                f"verification they had {verified.source_points:,} and {verified.target_points:,}. Call "
                f"repair_target(migration_id={work.id!r}), then verify_target."
            )
        is_untouched = mark is not None and verified.source_operation is not None and mark <= verified.source_operation + 1
        if not (is_untouched and has_numbers(work.source_collection)):
            await _refuse_if_changed(work)
        return mark
    work.progress.stage = "closing the lag"
    found: list[int] = []
    took_s = 0.0
    for _ in range(MOST_PASSES):
        mark = await work.source_mark()
        work.written = {}
        began = anyio.current_time()
        lag, _ = await catch_up_pass(work)
        took_s = anyio.current_time() - began
        found.append(lag.missing + lag.extra + lag.changed)
        if is_caught_up(found, work.source_collection.points, took_s):
            return mark
    raise Refused(
        f"Cannot swap: the lag does not shrink; the last passes found {', '.join(map(str, found))} differences, the last one within {took_s:.0f} s "
        f"(about {found[-1] / took_s:.0f} writes a second). Slow the writers down, or use "
        "writes='dual_write'."
    )


async def _point(work: Work, alias: str, collection: str | None) -> None:
    """Point an alias, or remove one that is to point nowhere."""
    if collection is None:
        await work.target.delete_alias(alias)
    else:
        await work.target.point_alias(alias, collection)


async def _refuse_if_changed(work: Work) -> None:
    """Operations were carried out on a source that was said to be frozen; harmless ones (an index, our own no-op) change no point."""
    work.progress.stage = "looking whether the source changed"
    tally = Tally()
    async for _ in differences(work, await expectation(work, checks_made=False), tally):
        pass
    changed = sum(tally.differences.values())
    if changed:
        await work.change(lambda m: m.model_copy(update={"phase": m.after("found_incomplete")}))
        raise Refused(
            f"Cannot swap: writes were said to be frozen, but {changed} points of the source changed since the verification. Find the writer; then "
            f"call repair_target(migration_id={work.id!r}) and verify_target."
        )


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
        await work.change(lambda m: m.model_copy(update={"intent": None}))
        raise type(error)(f"The swap failed and the aliases are as before: {error}") from None
