"""How do the readers move? Under an agreed plan: one CreateAlias a name, read back, and the late writes carried over."""

from __future__ import annotations

from qdrant_model_migration.domain.cutover import given_up, settled_back
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.moves import reversed_moves
from qdrant_model_migration.domain.points import tag
from qdrant_model_migration.domain.recipe import Cutover, Moved
from qdrant_model_migration.errors import ConnectionFailed, Interrupted, LeaseLost, MigrationError, Refused, TransientEmbedding
from qdrant_model_migration.operations.closing import close_the_lag
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.fencing import check_fence_age, lift_fence
from qdrant_model_migration.operations.reader import read_beside
from qdrant_model_migration.operations.returning import carry_back_after_moves, carry_back_before_moves
from qdrant_model_migration.operations.speed import check_speed
from qdrant_model_migration.operations.swap_plan import Direction, agreed_deletes, checked_facts
from qdrant_model_migration.operations.sweep import keep_in_cutover, sweep_until_quiet
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.results import AliasQueries, SwapOutcome, WriteGap


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
    moves, seen = await read_beside(work, lambda: _moved(work, direction, alias, code))
    # Only now: a swap that died before its first move begins anew, with the same code.
    await work.ledger.use_plan(work.id, code)
    moved = "; ".join(f"{m.alias}: {m.previous} -> {m.current}" for m in moves)
    if direction == "forward":
        await work.change(lambda m: m.model_copy(update={"phase": m.after("swapped"), "intent": "sweeping"}))
        await work.record("swapped", "; ".join([moved, *(f"accepted: {text}" for text in work.migration.accepted)]))
        return await _swept(work, code, carries_deletes=True, seen=seen)
    gap = await carry_back_after_moves(work)
    outcome = SwapOutcome(alias=moves[0].alias, previous=moves[0].previous, current=moves[0].current, write_gap=gap, test_queries=seen)
    # What the swap forward answered is no longer so.
    update = {"outcomes": {code: outcome.model_dump(mode="json")}, "intent": None}
    await work.change(lambda m: m.model_copy(update={**update, "phase": m.after("rolled_back"), "cutover": settled_back(m)}))
    await work.record("rolled_back", moved)
    return outcome


async def _moved(work: Work, direction: Direction, alias: str | None, code: str) -> tuple[Moved, ...]:
    """Move the aliases, or complete an interrupted move; writers that were made to wait go on afterwards, whatever happened."""
    try:
        moves = await _interrupted(work, direction) if work.migration.intent == "swapping" else None
        if moves is not None and direction == "back":
            # The fence was down meanwhile: the app may have written to the target.
            await keep_in_cutover(work, have_writers_waited=False)
        moves = moves or await _prepared(work, direction, alias, code)
        await _move(work, moves)
    finally:
        await lift_fence(work)
    return moves


def _settled(migration: Migration, code: str, outcome: SwapOutcome) -> Migration:
    return migration.model_copy(update={"intent": None, "outcomes": {**migration.outcomes, code: outcome.model_dump(mode="json")}})


async def _swept(work: Work, code: str, *, carries_deletes: bool, seen: AliasQueries | None = None) -> SwapOutcome:
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
    outcome = SwapOutcome(alias=first.alias, previous=first.previous, current=first.current, write_gap=gap, test_queries=seen, notes=notes)
    await work.change(lambda m: _settled(m, code, outcome))
    return outcome


async def _prepared(work: Work, direction: Direction, alias: str | None, code: str) -> tuple[Moved, ...]:
    """Check the plan, bring the target up to the moment and record the intent."""
    is_fenced = (await checked_facts(work, direction, alias, code, checks_age=True)).is_fenced
    cutover = work.migration.cutover
    mark: int | None = None
    if direction == "forward":
        await check_speed(work)
        mark = await close_the_lag(work, is_fenced=is_fenced)
    else:
        if cutover is not None:
            # Of this plan: what was agreed to for one before it, which was refused, no longer counts.
            await keep_in_cutover(work, agreed_deletes=await agreed_deletes(work, code))
        cutover = await carry_back_before_moves(work, is_fenced=is_fenced)
    # That takes a while; the plan must still fit the facts at the moment of the move.
    facts = await checked_facts(work, direction, alias, code, checks_age=False)
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
            noted = migration.cutover
            recorded = cutover.model_copy(update={"returned_to": noted.returned_to, "returned_operations": noted.returned_operations})
        # A rollback does not undo that somebody agreed.
        accepted = {"accepted": facts.overrides} if direction == "forward" else {}
        return migration.model_copy(update={"intent": "swapping", "cutover": recorded, **accepted})

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
